// device.cpp: what the device says of itself; devices and their peers; and the
// calls that this library refuses (IPC, arrays, textures, surfaces).
#include "internal.h"

namespace cupycpu {
thread_local int current_device = 0;
typedef std::lock_guard<std::recursive_mutex> Lock;

namespace {
std::set<std::pair<int, int>> peers;  // device, the peer it may reach
const int N_LIMITS = 7;
size_t limits[N_LIMITS] = {1024, 1 << 20, 8 << 20, 2, 2048, 128, 0};
bool exists(int device) { return device >= 0 && device < settings::device_count(); }
}  // namespace

cudaError_t cudaDriverGetVersion(int *v) {
  *v = 13000;
  return 0;
}
cudaError_t cudaRuntimeGetVersion(int *v) {
  *v = 13000;
  return 0;
}
cudaError_t cudaGetDeviceCount(int *n) {
  *n = settings::device_count();
  return 0;
}
cudaError_t cudaGetDevice(int *device) {
  if (int e = forked()) return set_error(e);
  *device = current_device;
  return 0;
}
cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return set_error(cudaErrorInvalidDevice);
  current_device = device;
  return 0;
}

// The limits are those of compute capability 8.0, except that there is one
// multiprocessor: one block runs at a time.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
  if (!exists(device)) return set_error(cudaErrorInvalidDevice);
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "CPU (cupy_cpu, not a GPU)");
  p->uuid.bytes[0] = 'c';
  p->uuid.bytes[1] = (char)device;
  p->pciBusID = device + 1;
  p->major = settings::compute_capability() / 10;
  p->minor = settings::compute_capability() % 10;
  p->multiProcessorCount = 1;
  p->totalGlobalMem = settings::total_memory();
  p->totalConstMem = 65536;
  p->l2CacheSize = 4 << 20;
  p->memoryBusWidth = 256;
  p->memPitch = 2147483647;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 166912;
  p->sharedMemPerMultiprocessor = 167936;
  p->reservedSharedMemPerBlock = 1024;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->textureAlignment = 512;
  p->texturePitchAlignment = 32;
  p->maxTexture1D = p->maxTexture2D[0] = 131072;
  p->maxTexture2D[1] = 65536;
  p->concurrentKernels = 1;
  p->asyncEngineCount = 2;
  p->unifiedAddressing = 1;
  p->canMapHostMemory = 1;
  p->streamPrioritiesSupported = 1;
  p->managedMemory = 1;
  p->concurrentManagedAccess = 1;
  p->pageableMemoryAccess = 1;
  p->memoryPoolsSupported = 1;
  p->cooperativeLaunch = 1;
  p->computePreemptionSupported = 1;
  return 0;
}

// The cases are the numbers of cudaDeviceAttr; what is not here is 0.
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (int e = cudaGetDeviceProperties(&p, device)) return e;
  switch (attribute) {
    case 1: *v = p.maxThreadsPerBlock; break;
    case 2:
    case 3:
    case 4: *v = p.maxThreadsDim[attribute - 2]; break;
    case 5:
    case 6:
    case 7: *v = p.maxGridSize[attribute - 5]; break;
    case 8: *v = (int)p.sharedMemPerBlock; break;
    case 9: *v = (int)p.totalConstMem; break;
    case 10: *v = p.warpSize; break;
    case 11: *v = (int)p.memPitch; break;
    case 12: *v = p.regsPerBlock; break;
    case 13: *v = 1000000; break;  // clock rate, kHz
    case 14: *v = (int)p.textureAlignment; break;
    case 15: *v = 1; break;  // copies overlap with kernels
    case 16: *v = p.multiProcessorCount; break;
    case 19: *v = p.canMapHostMemory; break;
    case 31: *v = p.concurrentKernels; break;
    case 33: *v = p.pciBusID; break;
    case 36: *v = 1000000; break;  // memory clock rate, kHz
    case 37: *v = p.memoryBusWidth; break;
    case 38: *v = p.l2CacheSize; break;
    case 39: *v = p.maxThreadsPerMultiProcessor; break;
    case 40: *v = p.asyncEngineCount; break;
    case 41: *v = p.unifiedAddressing; break;
    case 75: *v = p.major; break;
    case 76: *v = p.minor; break;
    case 81: *v = (int)p.sharedMemPerMultiprocessor; break;
    case 82: *v = p.regsPerMultiprocessor; break;
    case 83: *v = p.managedMemory; break;
    case 95: *v = p.cooperativeLaunch; break;
    case 97: *v = (int)p.sharedMemPerBlockOptin; break;
    case 115: *v = p.memoryPoolsSupported; break;
    default: *v = 0;
  }
  return 0;
}
cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int device) {
  if (!exists(device)) return set_error(cudaErrorInvalidDevice);
  snprintf(s, n, "0000:%02X:00.0", device + 1);
  return 0;
}
cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *s) {
  unsigned domain, bus;
  if (sscanf(s, "%x:%x", &domain, &bus) != 2 || !exists((int)bus - 1))
    return set_error(cudaErrorInvalidDevice);
  *device = (int)bus - 1;
  return 0;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) {
  *can = a != b;
  return 0;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  if (peer == current_device || !exists(peer)) return set_error(cudaErrorInvalidDevice);
  Lock lock(state_mutex);
  bool is_new = peers.insert({current_device, peer}).second;
  return is_new ? 0 : set_error(cudaErrorPeerAccessAlreadyEnabled);
}
cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  Lock lock(state_mutex);
  return peers.erase({current_device, peer}) ? 0 : set_error(ERROR_PEER_NOT_ENABLED);
}
cudaError_t cudaDeviceGetLimit(size_t *value, cudaLimit limit) {
  if (limit < 0 || limit >= N_LIMITS) return set_error(cudaErrorInvalidValue);
  *value = limits[limit];
  return 0;
}
cudaError_t cudaDeviceSetLimit(cudaLimit limit, size_t value) {
  if (limit < 0 || limit >= N_LIMITS) return set_error(cudaErrorInvalidValue);
  limits[limit] = value;
  return 0;
}

// ---- refused
#define REFUSED(NAME, ...) \
  cudaError_t NAME(__VA_ARGS__) { return set_error(cudaErrorNotSupported); }
REFUSED(cudaIpcCloseMemHandle, void *)
REFUSED(cudaIpcGetEventHandle, cudaIpcEventHandle_t *, cudaEvent_t)
REFUSED(cudaIpcGetMemHandle, cudaIpcMemHandle_t *, void *)
REFUSED(cudaIpcOpenEventHandle, cudaEvent_t *, cudaIpcEventHandle_t)
REFUSED(cudaIpcOpenMemHandle, void **, cudaIpcMemHandle_t, unsigned)
REFUSED(cudaMalloc3DArray, cudaArray_t *, const cudaChannelFormatDesc *, cudaExtent, unsigned)
REFUSED(cudaMallocArray, cudaArray_t *, const cudaChannelFormatDesc *, size_t, size_t, unsigned)
REFUSED(cudaFreeArray, cudaArray_t)
REFUSED(cudaMemcpy2DFromArray, void *, size_t, cudaArray_t, size_t, size_t, size_t, size_t,
        cudaMemcpyKind)
REFUSED(cudaMemcpy2DFromArrayAsync, void *, size_t, cudaArray_t, size_t, size_t, size_t, size_t,
        cudaMemcpyKind, cudaStream_t)
REFUSED(cudaMemcpy2DToArray, cudaArray_t, size_t, size_t, const void *, size_t, size_t, size_t,
        cudaMemcpyKind)
REFUSED(cudaMemcpy2DToArrayAsync, cudaArray_t, size_t, size_t, const void *, size_t, size_t,
        size_t, cudaMemcpyKind, cudaStream_t)
REFUSED(cudaMemcpy3D, cudaMemcpy3DParms *)
REFUSED(cudaMemcpy3DAsync, cudaMemcpy3DParms *, cudaStream_t)
REFUSED(cudaCreateTextureObject, cudaTextureObject_t *, const cudaResourceDesc *,
        const cudaTextureDesc *, const cudaResourceViewDesc *)
REFUSED(cudaDestroyTextureObject, cudaTextureObject_t)
REFUSED(cudaGetChannelDesc, cudaChannelFormatDesc *, cudaArray_t)
REFUSED(cudaGetTextureObjectResourceDesc, cudaResourceDesc *, cudaTextureObject_t)
REFUSED(cudaGetTextureObjectTextureDesc, cudaTextureDesc *, cudaTextureObject_t)
REFUSED(cudaCreateSurfaceObject, cudaSurfaceObject_t *, const cudaResourceDesc *)
REFUSED(cudaDestroySurfaceObject, cudaSurfaceObject_t)
}  // namespace cupycpu

// CuPy looks this one up by name.
extern "C" int cudaRuntimeGetVersion(int *v) { return cupycpu::cudaRuntimeGetVersion(v); }
