// cuComplex.h: CuPy ships one of its own.
#pragma once
#include <cupy/cuComplex_bridge.h>
