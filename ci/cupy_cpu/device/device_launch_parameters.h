// device_launch_parameters.h: everything it declares is in the prelude.
#include "cupycpu_prelude.h"
