// launcher.h: the table at the end of every module (src/module.h has the
// library's side of it) and, for each kernel, the function that unpacks the
// arguments of a launch and loops over blocks and threads.
#pragma once

struct cupycpu_kernel {
  const char *name;
  // this_thread_only: the caller sets the indices and calls once for each thread
  void (*run)(void **params, int this_thread_only);
  const unsigned *sizes;
  unsigned n_params;
};
struct cupycpu_variable {
  const char *name;
  void *address;
  size_t size;
};
struct cupycpu_module {
  unsigned format, flags;
  const cupycpu_kernel *kernels;
  unsigned n_kernels;
  const cupycpu_variable *variables;
  unsigned n_variables;
  cupycpu_indices *indices;
  cupycpu_functions **runtime;
};

template <auto Kernel>
struct cupycpu_launcher;
template <class... Args, void (*Kernel)(Args...)>
struct cupycpu_launcher<Kernel> {
  static constexpr unsigned n = sizeof...(Args);
  static constexpr unsigned sizes[n + 1] = {unsigned(sizeof(Args))..., 0};
  template <size_t... I>
  static inline void call(void **params, std::index_sequence<I...>) {
    Kernel(*static_cast<std::remove_cv_t<std::remove_reference_t<Args>> *>(params[I])...);
  }
  static void run(void **params, int this_thread_only) {
    const auto each = std::make_index_sequence<n>{};
    if (this_thread_only) return call(params, each);
    const dim3 b = blockDim, g = gridDim;
    for (unsigned gz = 0; gz < g.z; gz++)
      for (unsigned gy = 0; gy < g.y; gy++)
        for (unsigned gx = 0; gx < g.x; gx++) {
          blockIdx = {gx, gy, gz};
          for (unsigned z = 0; z < b.z; z++)
            for (unsigned y = 0; y < b.y; y++)
              for (unsigned x = 0; x < b.x; x++) {
                threadIdx = {x, y, z};
                call(params, each);
              }
        }
  }
};

#define CUPYCPU_KERNEL(NAME, ...)                                                     \
  {NAME, &cupycpu_launcher<&__VA_ARGS__>::run, cupycpu_launcher<&__VA_ARGS__>::sizes, \
   cupycpu_launcher<&__VA_ARGS__>::n},
#define CUPYCPU_VARIABLE(NAME, ...) {NAME, (void *)&(__VA_ARGS__), sizeof(__VA_ARGS__)},
#define CUPYCPU_KERNELS(...) \
  static const cupycpu_kernel cupycpu_kernels[] = {__VA_ARGS__{nullptr, nullptr, nullptr, 0}};
#define CUPYCPU_VARIABLES(...) \
  static const cupycpu_variable cupycpu_variables[] = {__VA_ARGS__{nullptr, nullptr, 0}};
#define CUPYCPU_MODULE(FORMAT, FLAGS, N_KERNELS, N_VARIABLES)                     \
  extern "C" __attribute__((visibility("default"), externally_visible, used))     \
  const cupycpu_module cupycpu_module_info = {                                    \
      FORMAT,      FLAGS,          cupycpu_kernels, N_KERNELS, cupycpu_variables, \
      N_VARIABLES, &cupycpu_index, &cupycpu_runtime};
