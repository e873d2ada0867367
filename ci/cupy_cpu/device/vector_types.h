// vector_types.h: everything it declares is in the prelude.
#include "cupycpu_prelude.h"
