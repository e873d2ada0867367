// driver.cpp: the driver calls that CuPy makes: contexts, modules, functions,
// launches. CuPy looks them up by name.
//
// A "cubin" is a shared object behind a small header (module.h); loading one is
// dlopen from an anonymous file.
#include "module.h"
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace cupycpu;
struct CUmod_st {
  const ModuleInfo *info;
};
struct CUfunc_st {
  const ModuleInfo *module;
  const KernelInfo *kernel;
  int max_dynamic_shared = 49152;
};

namespace {
const int MAX_DYNAMIC_SHARED = 166912;
const uintptr_t PRIMARY_CONTEXT = 0x1000;  // a context is a mere handle
thread_local uintptr_t context = PRIMARY_CONTEXT;

// Copies of a launch's arguments: it may run later, or often.
struct Arguments {
  std::vector<std::vector<char>> storage;
  std::vector<void *> pointers;
  Arguments(const KernelInfo *k, void **params) : storage(k->n_params) {
    const size_t alignment = 64;
    for (unsigned i = 0; i < k->n_params; i++) {
      storage[i].resize(k->sizes[i] + alignment);
      uintptr_t p = ((uintptr_t)storage[i].data() + alignment - 1) & ~(alignment - 1);
      memcpy((void *)p, params[i], k->sizes[i]);
      pointers.push_back((void *)p);
    }
  }
};

bool write_all(int fd, const char *p, size_t n) {
  while (n) {
    ssize_t written = write(fd, p, n);
    if (written <= 0) return false;
    p += written;
    n -= written;
  }
  return true;
}
// dlopen takes two files of one name for the same library, so every module gets
// a name of its own: the same path, spelled with other "/." and "//".
std::string fresh_path(int fd) {
  static std::mutex mutex;
  static unsigned serial = 0;
  std::lock_guard<std::mutex> lock(mutex);
  std::string path = "/proc/self/fd";
  for (unsigned bits = ++serial; bits; bits >>= 1) path += bits & 1 ? "/." : "//";
  return path + "/" + std::to_string(fd);
}
bool valid_launch(const CUfunc_st *f, Extent grid, Extent block, unsigned shared) {
  return grid.x && grid.y && grid.z && block.x && block.y && block.z && block.x <= 1024 &&
         block.y <= 1024 && block.z <= 64 && (uint64_t)block.x * block.y * block.z <= 1024 &&
         grid.x <= 2147483647u && grid.y <= 65535 && grid.z <= 65535 &&
         (int)shared <= f->max_dynamic_shared;
}
}  // namespace

extern "C" {
#define API CUresult
API cuGetErrorName(CUresult e, const char **s) {
  *s = driver_error_name(e);
  return 0;
}
API cuGetErrorString(CUresult e, const char **s) {
  *s = error_text(e);
  return 0;
}

// ---- contexts
API cuDevicePrimaryCtxRelease_v2(CUdevice) { return 0; }
API cuCtxGetCurrent(CUcontext *c) {
  *c = (CUcontext)context;
  return 0;
}
API cuCtxSetCurrent(CUcontext c) {
  context = (uintptr_t)c;
  return 0;
}
API cuCtxCreate_v2(CUcontext *c, unsigned, CUdevice) {
  static uintptr_t serial = 0x2000;
  *c = (CUcontext)(context = ++serial);
  return 0;
}
API cuCtxDestroy_v2(CUcontext) {
  context = PRIMARY_CONTEXT;
  return 0;
}
API cuCtxGetDevice(CUdevice *d) { return cudaGetDevice(d); }
API cuStreamGetCtx(CUstream, CUcontext *c) {
  *c = (CUcontext)context;
  return 0;
}

// ---- linking device code (dynamic parallelism): refused
API cuLinkCreate_v2(unsigned, CUjit_option *, void **, CUlinkState *) {
  return cudaErrorNotSupported;
}
API cuLinkAddData_v2(CUlinkState, CUjitInputType, void *, size_t, const char *, unsigned,
                     CUjit_option *, void **) {
  return cudaErrorNotSupported;
}
API cuLinkAddFile_v2(CUlinkState, CUjitInputType, const char *, unsigned, CUjit_option *,
                     void **) {
  return cudaErrorNotSupported;
}
API cuLinkComplete(CUlinkState, void **, size_t *) { return cudaErrorNotSupported; }
API cuLinkDestroy(CUlinkState) { return cudaErrorNotSupported; }

// ---- modules
API cuModuleLoadData(CUmodule *out, void *image) {
  if (int e = unsafe_in_capture()) return e;
  const char *p = (const char *)image;
  if (memcmp(p, IMAGE_MAGIC, sizeof IMAGE_MAGIC)) return ERROR_INVALID_IMAGE;
  uint64_t size;
  memcpy(&size, p + sizeof IMAGE_MAGIC, sizeof size);
  int fd = memfd_create("cupy_cpu-kernel", MFD_CLOEXEC);
  if (fd < 0) return cudaErrorMemoryAllocation;
  if (!write_all(fd, p + sizeof IMAGE_MAGIC + sizeof size, size)) {
    close(fd);
    return cudaErrorMemoryAllocation;
  }
  void *library = dlopen(fresh_path(fd).c_str(), RTLD_NOW | RTLD_LOCAL);
  close(fd);
  if (!library) {
    fprintf(stderr, "cupy_cpu: %s\n", dlerror());
    return ERROR_INVALID_IMAGE;
  }
  auto *info = (const ModuleInfo *)dlsym(library, "cupycpu_module_info");
  if (!info || info->format != FORMAT) {
    dlclose(library);
    return ERROR_INVALID_IMAGE;
  }
  *info->runtime = (Runtime *)runtime_table();
  *out = new CUmod_st{info};
  return 0;
}
API cuModuleLoad(CUmodule *out, char *file) {
  FILE *f = fopen(file, "rb");
  if (!f) return ERROR_FILE_NOT_FOUND;
  std::string image;
  char buffer[65536];
  while (size_t n = fread(buffer, 1, sizeof buffer, f)) image.append(buffer, n);
  fclose(f);
  if (image.size() < sizeof IMAGE_MAGIC + sizeof(uint64_t)) return ERROR_INVALID_IMAGE;
  return cuModuleLoadData(out, (void *)image.data());
}
// The code stays mapped: graphs and functions may outlive the module object.
API cuModuleUnload(CUmodule m) {
  delete m;
  return 0;
}
API cuModuleGetFunction(CUfunction *f, CUmodule m, char *name) {
  const ModuleInfo *info = m->info;
  for (const KernelInfo *k = info->kernels; k < info->kernels + info->n_kernels; k++)
    if (!strcmp(k->name, name)) {
      *f = new CUfunc_st{info, k};
      return 0;
    }
  return ERROR_NOT_FOUND;
}
API cuModuleGetGlobal_v2(CUdeviceptr *p, size_t *size, CUmodule m, char *name) {
  const ModuleInfo *info = m->info;
  for (const VariableInfo *v = info->variables; v < info->variables + info->n_variables; v++)
    if (!strcmp(v->name, name)) {
      if (p) *p = v->address;
      if (size) *size = v->size;
      return 0;
    }
  return ERROR_NOT_FOUND;
}

// ---- launches
API cuLaunchKernel(CUfunction f, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   CUstream stream, void **params, void **) {
  Extent grid = {grid_x, grid_y, grid_z}, block = {block_x, block_y, block_z};
  if (!valid_launch(f, grid, block, shared)) return cudaErrorInvalidValue;
  auto arguments = std::make_shared<Arguments>(f->kernel, params);
  const ModuleInfo *m = f->module;
  const KernelInfo *k = f->kernel;
  return submit(stream, {"kernel", k->name},
                [=] { return run_kernel(m, k, grid, block, arguments->pointers.data()); });
}
API cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                              unsigned by, unsigned bz, unsigned shared, CUstream stream,
                              void **params) {
  return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, params, nullptr);
}

// ---- functions; the cases are the numbers of CUfunction_attribute
API cuFuncGetAttribute(int *v, CUfunction_attribute attribute, CUfunction f) {
  switch (attribute) {
    case 0: *v = 1024; return 0;  // threads of a block, at most
    case 1:
    case 2:
    case 3:
    case 7: *v = 0; return 0;   // static memory, cache mode
    case 4: *v = 32; return 0;  // registers
    case 5:
    case 6: *v = settings::compute_capability(); return 0;
    case 8: *v = f->max_dynamic_shared; return 0;
    case 9: *v = -1; return 0;  // preferred shared memory
  }
  return cudaErrorInvalidValue;
}
API cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int v) {
  if (attribute == 9) return 0;
  if (attribute != 8 || v < 0 || v > MAX_DYNAMIC_SHARED) return cudaErrorInvalidValue;
  f->max_dynamic_shared = std::max(49152, v);
  return 0;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction, int block, size_t) {
  *n = block > 0 && block <= 1024;  // blocks run one after the other
  return 0;
}
API cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction, size_t (*)(int), size_t,
                                     int limit) {
  *block = limit > 0 ? std::min(limit, 1024) : 1024;
  *grid = 1;
  return 0;
}
}
