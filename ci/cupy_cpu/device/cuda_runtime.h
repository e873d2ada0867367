// cuda_runtime.h: everything it declares for kernels is in the prelude.
#include "cupycpu_prelude.h"
