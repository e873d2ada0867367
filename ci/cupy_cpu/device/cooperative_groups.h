// cooperative_groups.h: thread blocks and tiles. grid.sync() would need every block
// at once, so it works in grids of one block only.
#pragma once
#include "cupycpu_prelude.h"
namespace cooperative_groups {
struct thread_block {
  static void sync() { __syncthreads(); }
  static unsigned thread_rank() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  }
  static unsigned size() { return blockDim.x * blockDim.y * blockDim.z; }
  static unsigned num_threads() { return size(); }
  static dim3 group_index() { return dim3(blockIdx.x, blockIdx.y, blockIdx.z); }
  static dim3 thread_index() { return dim3(threadIdx.x, threadIdx.y, threadIdx.z); }
  static dim3 group_dim() { return blockDim; }
};
struct grid_group {
  static bool is_valid() { return true; }
  static void sync() {
    if (gridDim.x * gridDim.y * gridDim.z != 1)
      cupycpu_runtime->fail("grid.sync() with more than one block", __FILE__, __LINE__);
    __syncthreads();
  }
  static unsigned long long size() {
    return (unsigned long long)gridDim.x * gridDim.y * gridDim.z * thread_block::size();
  }
  static unsigned long long thread_rank() {
    return (unsigned long long)thread_block::size() *
               (blockIdx.x + (unsigned long long)gridDim.x *
                                 (blockIdx.y + (unsigned long long)gridDim.y * blockIdx.z)) +
           thread_block::thread_rank();
  }
};
template <unsigned N>
struct thread_block_tile {
  static unsigned thread_rank() { return thread_block::thread_rank() % N; }
  static constexpr unsigned size() { return N; }
  static constexpr unsigned num_threads() { return N; }
  static unsigned meta_group_rank() { return thread_block::thread_rank() / N; }
  static void sync() { __syncwarp(); }
  static unsigned mask() {
    return N >= 32 ? 0xffffffffu : ((1u << N) - 1) << (cupycpu_lane() & ~(N - 1));
  }
  template <class T>
  static T shfl(T v, int s) {
    return __shfl_sync(mask(), v, s, N);
  }
  template <class T>
  static T shfl_down(T v, unsigned d) {
    return __shfl_down_sync(mask(), v, d, N);
  }
  template <class T>
  static T shfl_up(T v, unsigned d) {
    return __shfl_up_sync(mask(), v, d, N);
  }
  template <class T>
  static T shfl_xor(T v, int d) {
    return __shfl_xor_sync(mask(), v, d, N);
  }
  static unsigned ballot(int p) {
    return (__ballot_sync(mask(), p) & mask()) >> (cupycpu_lane() & ~(N - 1));
  }
  static int any(int p) { return ballot(p) != 0; }
};
static inline thread_block this_thread_block() { return {}; }
static inline grid_group this_grid() { return {}; }
template <unsigned N, class G>
static inline thread_block_tile<N> tiled_partition(const G &) {
  return {};
}
template <class G>
static inline void sync(const G &g) {
  g.sync();
}
}  // namespace cooperative_groups
