// module.h: the format of a compiled module: what launch.cpp and driver.cpp
// expect in it. device/cupycpu/launcher.h declares the same structures for the
// kernels' side; whoever changes one changes the other, and FORMAT.
#pragma once
#include "internal.h"

namespace cupycpu {
const unsigned FORMAT = 2;
const char IMAGE_MAGIC[8] = {'C', 'U', 'P', 'Y', 'C', 'P', 'U', '2'};  // then a size, an ELF

struct Indices {
  Extent thread, block, block_dim, grid_dim;
};  // threadIdx, blockIdx, ...
struct Runtime {  // called by a kernel's code
  void (*block_sync)();
  void (*warp_sync)(unsigned mask);
  const void *(*warp_exchange)(unsigned mask, const void *value, unsigned size,
                               unsigned source);
  unsigned (*warp_ballot)(unsigned mask, int predicate, unsigned *active);
  int (*block_reduce)(int operation, int predicate);  // 0 count, 1 and, 2 or
  void (*fail)(const char *expression, const char *file, int line);
  void *(*dynamic_shared)();
};
struct KernelInfo {
  const char *name;
  void (*run)(void **params, int this_thread_only);
  const unsigned *sizes;  // of the parameters, in bytes
  unsigned n_params;
};
struct VariableInfo {
  const char *name;
  void *address;
  size_t size;
};
enum { NEEDS_FIBERS = 1, SHAPE_FREE = 2 };
struct ModuleInfo {
  unsigned format, flags;
  const KernelInfo *kernels;
  unsigned n_kernels;
  const VariableInfo *variables;
  unsigned n_variables;
  Indices *indices;
  Runtime **runtime;
};
}  // namespace cupycpu
