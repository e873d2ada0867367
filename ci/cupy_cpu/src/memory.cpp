// memory.cpp: allocations (with guard pages and poison where asked for),
// stream-ordered pools, copies. "Device" memory is ordinary memory that this
// file knows about; a table of allocations tells the two apart.
#include "internal.h"
#include <sys/mman.h>

namespace cupycpu {
std::recursive_mutex state_mutex;
typedef std::lock_guard<std::recursive_mutex> Lock;

namespace {
enum Kind { HOST = 1, DEVICE = 2, MANAGED = 3 };  // the numbers of cudaMemoryType
struct Allocation {
  size_t size;
  Kind kind;
  void *mapping;  // nullptr: from the heap
  size_t mapped;
  int pool;
  int device;
};
std::map<uintptr_t, Allocation> allocations;  // by address
std::set<const void *> registered;            // cudaHostRegister
size_t used = 0;

struct Pool {  // of cudaMallocAsync; keeps figures only
  uint64_t threshold = 0, reuse[4] = {}, used = 0, used_high = 0, reserved = 0,
           reserved_high = 0;
};
const int N_POOLS = 16, DEFAULT_POOL = 1;  // 0: not from a pool
Pool pools[N_POOLS];
int pools_made = 2;
std::map<int, Pool *> pool_of_device;

Pool *current_pool(int device) {
  auto i = pool_of_device.find(device);
  return i == pool_of_device.end() ? &pools[DEFAULT_POOL] : i->second;
}

const Allocation *find(const void *p, uintptr_t *start = nullptr) {
  auto i = allocations.upper_bound((uintptr_t)p);
  if (i == allocations.begin()) return nullptr;
  --i;
  if ((uintptr_t)p >= i->first + i->second.size) return nullptr;
  if (start) *start = i->first;
  return &i->second;
}

// With CUPYCPU_GUARD the last byte of an allocation lies just before a page
// that traps; a freed allocation is unmapped and traps altogether.
int allocate(void **out, size_t size, Kind kind, const char *call, int pool = 0) {
  *out = nullptr;
  if (size == 0) return 0;
  Lock lock(state_mutex);
  if (kind != HOST && used + size > settings::total_memory()) return cudaErrorMemoryAllocation;
  const size_t page = 4096, large = size_t(1) << 20;
  bool guard = settings::guard() && kind != HOST;
  void *p = nullptr, *mapping = nullptr;
  size_t mapped = 0;
  if (size >= large || guard) {
    size_t body = (size + page - 1) & ~(page - 1);
    mapped = body + (guard ? page : 0);
    mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return cudaErrorMemoryAllocation;
    p = mapping;
    if (guard) {
      mprotect((char *)mapping + body, page, PROT_NONE);
      p = (char *)mapping + body - size;
    }
  } else if (posix_memalign(&p, 512, size)) {
    return cudaErrorMemoryAllocation;
  }
  if (settings::poison() && kind == DEVICE) memset(p, 0xA5, size);
  allocations[(uintptr_t)p] = {size, kind, mapping, mapped, pool, current_device};
  if (kind != HOST) used += size;
  count("allocation", call, size);
  *out = p;
  return 0;
}

int release(void *p, bool host) {
  if (!p) return 0;
  Lock lock(state_mutex);
  auto i = allocations.find((uintptr_t)p);
  if (i == allocations.end() || (i->second.kind == HOST) != host) return cudaErrorInvalidValue;
  Allocation a = i->second;
  allocations.erase(i);
  if (a.kind != HOST) used -= a.size;
  if (a.pool) {
    Pool &pool = pools[a.pool];
    pool.used -= a.size;
    pool.reserved = pool.used;
  }
  if (a.mapping)
    munmap(a.mapping, a.mapped);
  else
    free(p);
  return 0;
}

// CuPy under CUPYCPU_GUARD runs without its memory pool, so that it allocates
// and frees where it would not on a device: then neither is held against it.
int allocation_in_capture() { return settings::guard() ? forked() : unsafe_in_capture(); }

int allocate_from(Pool *pool, void **p, size_t n) {
  int e = allocate(p, n, DEVICE, "cudaMallocAsync", int(pool - pools));
  if (e) return e;
  pool->used += n;
  pool->reserved = pool->used;
  pool->used_high = std::max(pool->used_high, pool->used);
  pool->reserved_high = std::max(pool->reserved_high, pool->reserved);
  return 0;
}

// ---- copies
enum Direction { H2H, H2D, D2H, D2D, BY_POINTERS };  // cudaMemcpyKind

const char *direction_name(const void *dst, const void *src, int kind) {
  static const char *const names[] = {"H2H", "H2D", "D2H", "D2D"};
  if (kind < 0 || kind > D2D) {
    Lock lock(state_mutex);
    const Allocation *d = find(dst), *s = find(src);
    kind = (s && s->kind != HOST ? 2 : 0) + (d && d->kind != HOST ? 1 : 0);
  }
  return names[kind];
}
Work copy_work(const void *dst, const void *src, int kind, size_t bytes) {
  return {"copy", direction_name(dst, src, kind), bytes};
}
bool pageable(const void *p) {
  Lock lock(state_mutex);
  return !find(p) && !registered.count(p);
}
// A direction that does not fit the pointers is an error, as is a copy past the
// end of an allocation.
int check_end(const void *p, size_t n, bool device) {
  uintptr_t start;
  const Allocation *a = find(p, &start);
  if (device != (a && a->kind == DEVICE) && !(a && a->kind == MANAGED))
    return cudaErrorInvalidValue;
  return a && (uintptr_t)p + n > start + a->size ? cudaErrorInvalidValue : 0;
}
int check_copy(const void *dst, const void *src, size_t n, int kind) {
  if (kind < H2H || kind > BY_POINTERS) return cudaErrorInvalidMemcpyDirection;
  if (n == 0 || kind == BY_POINTERS) return 0;
  Lock lock(state_mutex);
  if (int e = check_end(dst, n, kind == H2D || kind == D2D)) return e;
  return check_end(src, n, kind == D2H || kind == D2D);
}
void copy_rows(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
               size_t height) {
  for (size_t i = 0; i < height; i++)
    memmove((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
}
}  // namespace

bool is_device_pointer(const void *p, size_t n) {
  Lock lock(state_mutex);
  uintptr_t start;
  const Allocation *a = find(p, &start);
  return a && a->kind != HOST && (uintptr_t)p + n <= start + a->size;
}

std::string describe_address(const void *p) {
  // Not waited for: whoever asks holds the execution lock already.
  std::unique_lock<std::recursive_mutex> lock(state_mutex, std::try_to_lock);
  if (!lock) return "(allocations in use)";
  auto i = allocations.upper_bound((uintptr_t)p);
  if (i == allocations.begin()) return "in no allocation";
  --i;
  size_t beyond = (uintptr_t)p - i->first - i->second.size;
  if (beyond >= 4096) return "in no allocation";
  return std::to_string(beyond) + " bytes after the end of an allocation of " +
         std::to_string(i->second.size) + " bytes";
}

cudaError_t cudaMalloc(void **p, size_t n) {
  if (int e = allocation_in_capture()) return set_error(e);
  return set_error(allocate(p, n, DEVICE, "cudaMalloc"));
}
cudaError_t cudaMallocManaged(void **p, size_t n, unsigned) {
  if (int e = allocation_in_capture()) return set_error(e);
  return set_error(allocate(p, n, MANAGED, "cudaMallocManaged"));
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) {
  if (int e = unsafe_in_capture()) return set_error(e);
  return set_error(allocate(p, n, HOST, "cudaHostAlloc"));
}
// Freeing waits for the device. CuPy frees in destructors, where an error is
// lost, so a region that forbids waiting only takes note of it.
cudaError_t cudaFree(void *p) {
  if (!p) return 0;
  if (int e = allocation_in_capture()) return set_error(e);
  if (!settings::guard()) waits("cudaFree");
  catch_up(nullptr);
  return set_error(release(p, false));
}
cudaError_t cudaFreeHost(void *p) {
  if (!p) return 0;
  if (int e = unsafe_in_capture()) return set_error(e);
  waits("cudaFreeHost");
  catch_up(nullptr);
  return set_error(release(p, true));
}
cudaError_t cudaHostRegister(void *p, size_t, unsigned) {
  if (int e = unsafe_in_capture()) return set_error(e);
  Lock lock(state_mutex);
  return registered.insert(p).second ? 0 : set_error(ERROR_HOST_ALREADY_REGISTERED);
}
cudaError_t cudaHostUnregister(void *p) {
  if (int e = unsafe_in_capture()) return set_error(e);
  Lock lock(state_mutex);
  return registered.erase(p) ? 0 : set_error(ERROR_HOST_NOT_REGISTERED);
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  Lock lock(state_mutex);
  *total = settings::total_memory();
  *available = *total - used;
  return 0;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p) {
  Lock lock(state_mutex);
  memset(a, 0, sizeof *a);
  a->device = -2;  // host memory that CUDA does not know
  if (const Allocation *x = find(p)) {
    a->type = x->kind;
    a->device = x->device;
    a->devicePointer = (void *)p;
    a->hostPointer = x->kind == DEVICE ? nullptr : (void *)p;
  }
  return 0;
}
cudaError_t cudaMemPrefetchAsync(const void *p, size_t n, cudaMemLocation where, int,
                                 cudaStream_t) {
  if (where.type == 1 && (where.id < 0 || where.id >= settings::device_count()))
    return set_error(cudaErrorInvalidDevice);
  return is_device_pointer(p, n) ? 0 : set_error(cudaErrorInvalidValue);
}
cudaError_t cudaMemAdvise(const void *p, size_t n, cudaMemoryAdvise advice, cudaMemLocation) {
  bool known = advice >= 1 && advice <= 6;
  return known && is_device_pointer(p, n) ? 0 : set_error(cudaErrorInvalidValue);
}

// ---- stream-ordered allocation: done at once, with the pools' figures kept
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s) {
  return cudaMallocFromPoolAsync(p, n, current_pool(current_device), s);
}
cudaError_t cudaMallocFromPoolAsync(void **p, size_t n, cudaMemPool_t pool, cudaStream_t s) {
  if (stream_of(s)->capture) return set_error(cudaErrorNotSupported);  // no memory nodes
  return set_error(allocate_from((Pool *)pool, p, n));
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t s) {
  catch_up(stream_of(s));
  return set_error(release(p, false));
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *p, int) {
  *p = &pools[DEFAULT_POOL];
  return 0;
}
cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *p, int device) {
  *p = current_pool(device);
  return 0;
}
cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t p) {
  pool_of_device[device] = (Pool *)p;
  return 0;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t *p, cudaMemPoolProps *) {
  if (pools_made >= N_POOLS) return set_error(cudaErrorMemoryAllocation);
  *p = &pools[pools_made++];
  return 0;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t p) {
  if (p == &pools[DEFAULT_POOL]) return set_error(cudaErrorInvalidValue);
  for (auto &[device, pool] : pool_of_device)
    if (pool == p) pool = &pools[DEFAULT_POOL];
  return 0;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return 0; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t p, cudaMemPoolAttr attribute, void *value) {
  Pool *pool = (Pool *)p;
  uint64_t *out = (uint64_t *)value;
  switch (attribute) {
    case 1:
    case 2:
    case 3:  // how freed memory may be reused; on unless set
      *(int *)value = pool->reuse[attribute] ? (int)pool->reuse[attribute] - 1 : 1;
      return 0;
    case 4: *out = pool->threshold; return 0;
    case 5: *out = pool->reserved; return 0;
    case 6: *out = pool->reserved_high; return 0;
    case 7: *out = pool->used; return 0;
    case 8: *out = pool->used_high; return 0;
  }
  return set_error(cudaErrorInvalidValue);
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t p, cudaMemPoolAttr attribute, void *value) {
  Pool *pool = (Pool *)p;
  switch (attribute) {
    case 1:
    case 2:
    case 3: pool->reuse[attribute] = 1 + *(int *)value; return 0;
    case 4: pool->threshold = *(uint64_t *)value; return 0;
    case 6: pool->reserved_high = pool->reserved; return 0;
    case 8: pool->used_high = pool->used; return 0;
  }
  return set_error(cudaErrorInvalidValue);
}

// ---- copies and fills
// The driver stages pageable memory: the caller may reuse a source at once, and
// a copy into pageable memory is waited for.
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (int e = check_copy(dst, src, n, kind)) return set_error(e);
  Work work = copy_work(dst, src, kind, n);
  bool capturing = stream_of(stream)->capture;
  bool to_pageable = !capturing && work.name == "D2H" && pageable(dst);
  if (to_pageable)
    if (int e = waits("cudaMemcpyAsync to pageable memory")) return set_error(e);
  std::shared_ptr<std::vector<char>> staged;
  if (settings::deferred() && !capturing && pageable(src))
    staged = std::make_shared<std::vector<char>>((const char *)src, (const char *)src + n);
  int e = submit(stream, work, [=] {
    memmove(dst, staged ? staged->data() : src, n);
    return 0;
  });
  if (e || capturing || !pageable(dst)) return e;
  catch_up(stream_of(stream));
  return set_error(take_failure());
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, cudaMemcpyKind kind) {
  if (int e = check_copy(dst, src, n, kind)) return set_error(e);
  if (int e = unsafe_in_capture()) return set_error(e);
  if (int e = waiting_in_capture(&legacy_stream)) return set_error(e);
  if (int e = waits("cudaMemcpy")) return set_error(e);
  catch_up(&legacy_stream);
  if (int e = take_failure()) return set_error(e);
  Work work = copy_work(dst, src, kind, n);
  count(work.group, work.name, n);
  return run_exclusive([=] {
    memmove(dst, src, n);
    return 0;
  });
}
cudaError_t cudaMemcpyPeer(void *dst, int, const void *src, int, size_t n) {
  return cudaMemcpy(dst, src, n, D2D);
}
cudaError_t cudaMemcpyPeerAsync(void *dst, int, const void *src, int, size_t n,
                                cudaStream_t stream) {
  return cudaMemcpyAsync(dst, src, n, D2D, stream);
}
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (width > dst_pitch || width > src_pitch) return set_error(cudaErrorInvalidValue);
  return submit(stream, copy_work(dst, src, kind, width * height), [=] {
    copy_rows(dst, dst_pitch, src, src_pitch, width, height);
    return 0;
  });
}
cudaError_t cudaMemcpy2D(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                         size_t width, size_t height, cudaMemcpyKind kind) {
  if (int e = unsafe_in_capture()) return set_error(e);
  if (int e = waits("cudaMemcpy2D")) return set_error(e);
  int e = cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, width, height, kind, nullptr);
  if (e) return e;
  catch_up(&legacy_stream);
  return set_error(take_failure());
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream) {
  if (n && !is_device_pointer(p, n)) return set_error(cudaErrorInvalidValue);
  return submit(stream, {"memset", "memset", n}, [=] {
    memset(p, value, n);
    return 0;
  });
}
cudaError_t cudaMemset(void *p, int value, size_t n) {
  return cudaMemsetAsync(p, value, n, nullptr);
}
}  // namespace cupycpu
