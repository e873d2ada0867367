// cupycpu_prelude.h: what a CUDA compiler predefines, for a host compiler: device
// code becomes ordinary C++17. Every kernel is compiled behind this header.
#pragma once
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <math.h>
#include <tuple>
#include <type_traits>
#include <utility>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define __CUPYCPU__ 1  // what a source can ask for
#define __CUDACC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __CUDA_ARCH__ 800
#define CUDART_VERSION 13000
#define CUDA_VERSION 13000

#define __host__
#define __device__
#define __global__
#define __constant__
#define __managed__
#define __grid_constant__
#define __shared__ static  // one block at a time: a static is that block's
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
#define CUDART_CB

typedef unsigned long long cudaTextureObject_t;
typedef unsigned long long cudaSurfaceObject_t;

#include "cupycpu/vectors.h"
#include "cupycpu/threads.h"
#include "cupycpu/atomics.h"
#include "cupycpu/bits.h"
#include "cupycpu/mathematics.h"
#include "cupycpu/launcher.h"
