// scanner.h: what nvrtc.cpp must know of a kernel source before compiling it.
#pragma once
#include <string>
#include <vector>

namespace cupycpu {
struct Scan {
  std::vector<std::string> kernels;    // extern "C" __global__ functions
  std::vector<size_t> kernel_ends;     // offsets just after each of their names
  std::vector<std::string> variables;  // __device__ and __constant__ globals
  bool fibers = false;                 // uses barriers or warp functions
  bool grid_stride = false;            // uses CuPy's CUPY_FOR loop
  bool shape = false;                  // the launch's shape may matter to the result
  bool unsure = false;                 // made by macros: the preprocessed text must be asked
};
// `preprocessed`: directives are line markers, to be skipped.
Scan scan(const std::string &source, bool preprocessed);
// `extern __shared__ T x[];` made a pointer to the launch's dynamic memory.
std::string rewrite_dynamic_shared(const std::string &source);
}  // namespace cupycpu
