// math_constants.h: CuPy's own, and pi by CUDA's name.
#include "cupycpu_prelude.h"
#include <cupy/math_constants.h>
#define CUDART_PI 3.1415926535897931e+0
#define CUDART_PI_F 3.141592654f
