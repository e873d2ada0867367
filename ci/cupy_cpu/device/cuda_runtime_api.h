// cuda_runtime_api.h: everything it declares for kernels is in the prelude.
#include "cupycpu_prelude.h"
