// threads.h: where a thread is, and how it meets the others: barriers, shuffles,
// votes. The functions behind them are in the library (src/launch.cpp), which
// sets cupycpu_runtime when it loads a module.
#pragma once

struct cupycpu_indices {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
};
struct cupycpu_functions {
  void (*block_sync)();
  void (*warp_sync)(unsigned mask);
  // publishes `size` bytes of this lane, waits for the warp, returns lane `source`'s
  const void *(*warp_exchange)(unsigned mask, const void *value, unsigned size,
                               unsigned source);
  unsigned (*warp_ballot)(unsigned mask, int predicate, unsigned *active);
  int (*block_reduce)(int operation, int predicate);  // 0 count, 1 and, 2 or
  [[noreturn]] void (*fail)(const char *expression, const char *file, int line);
  void *(*dynamic_shared)();
};
static cupycpu_indices cupycpu_index;
static cupycpu_functions *cupycpu_runtime;
#define threadIdx (cupycpu_index.thread)
#define blockIdx (cupycpu_index.block)
#define blockDim (cupycpu_index.block_dim)
#define gridDim (cupycpu_index.grid_dim)
#define warpSize 32

#undef assert
#define assert(e) ((e) ? (void)0 : cupycpu_runtime->fail(#e, __FILE__, __LINE__))
static inline void __trap() { cupycpu_runtime->fail("__trap()", "", 0); }
static inline void __brkpt() {}
static inline long long clock64() { return (long long)__builtin_ia32_rdtsc(); }
static inline int clock() { return (int)clock64(); }
static inline void __nanosleep(unsigned) {}

// ---- the block
static inline void __syncthreads() { cupycpu_runtime->block_sync(); }
static inline int __syncthreads_count(int p) { return cupycpu_runtime->block_reduce(0, p); }
static inline int __syncthreads_and(int p) { return cupycpu_runtime->block_reduce(1, p); }
static inline int __syncthreads_or(int p) { return cupycpu_runtime->block_reduce(2, p); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}

// ---- the warp
static inline void __syncwarp(unsigned mask = 0xffffffffu) { cupycpu_runtime->warp_sync(mask); }
static inline unsigned cupycpu_lane() {
  return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31u;
}
template <class T>
static inline T cupycpu_exchange(unsigned mask, T value, unsigned source) {
  T result;
  memcpy(&result, cupycpu_runtime->warp_exchange(mask, &value, sizeof(T), source), sizeof(T));
  return result;
}
// Shuffles stay within aligned groups of `width` lanes.
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  unsigned within = unsigned(width - 1), base = cupycpu_lane() & ~within;
  return cupycpu_exchange(mask, value, base + (unsigned(source) & within));
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  unsigned lane = cupycpu_lane(), place = lane & unsigned(width - 1);
  return cupycpu_exchange(mask, value, place >= delta ? lane - delta : lane);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  unsigned lane = cupycpu_lane(), place = lane & unsigned(width - 1);
  return cupycpu_exchange(mask, value, place + delta < unsigned(width) ? lane + delta : lane);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  unsigned lane = cupycpu_lane(), source = lane ^ unsigned(bits),
           outside = ~unsigned(width - 1);
  return cupycpu_exchange(mask, value, (source & outside) == (lane & outside) ? source : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned active;
  return cupycpu_runtime->warp_ballot(mask, predicate, &active);
}
static inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
  unsigned active, votes = cupycpu_runtime->warp_ballot(mask, predicate, &active);
  return votes == active;
}
static inline unsigned __activemask() {
  unsigned active;
  cupycpu_runtime->warp_ballot(0xffffffffu, 1, &active);
  return active;
}
template <class T>
static inline unsigned __match_any_sync(unsigned mask, T value) {
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) {
      T other = cupycpu_exchange(mask, value, lane);
      if (memcmp(&other, &value, sizeof value) == 0) result |= 1u << lane;
    }
  return result;
}
template <class T, class F>
static inline T cupycpu_warp_reduce(unsigned mask, T value, F combine) {
  T result{};
  bool first = true;
  for (unsigned lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) {
      T other = cupycpu_exchange(mask, value, lane);
      result = first ? other : combine(result, other);
      first = false;
    }
  return result;
}
#define CUPYCPU_WARP_REDUCE(NAME, RESULT)                                        \
  template <class T>                                                             \
  static inline T NAME(unsigned mask, T value) {                                 \
    return cupycpu_warp_reduce(mask, value, [](T a, T b) { return T(RESULT); }); \
  }
CUPYCPU_WARP_REDUCE(__reduce_add_sync, a + b)
CUPYCPU_WARP_REDUCE(__reduce_max_sync, a > b ? a : b)
CUPYCPU_WARP_REDUCE(__reduce_min_sync, a < b ? a : b)
CUPYCPU_WARP_REDUCE(__reduce_and_sync, a &b)
CUPYCPU_WARP_REDUCE(__reduce_or_sync, a | b)
CUPYCPU_WARP_REDUCE(__reduce_xor_sync, a ^ b)
