"""What the text of all CUDA kernels begins with, and the patterns they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .tracing import REDUCTIONS

ROWS, COLUMNS = 8, 32  # threads of a block that computes columns: units × examples


class Source(NamedTuple):
    """A kernel's name and its CUDA C++."""

    name: str
    code: str


PRELUDE = """
typedef %s T;
typedef long long I;
typedef unsigned long long U;
#define INF ((T)__longlong_as_double(0x7ff0000000000000LL))
struct Inbox { I order, pitch, table, losses, start, row, step; };

// to so many significant bits: `kernels.rounded`, of float32
template <int DIGITS> __device__ inline T rounded(T x) {
  if constexpr (DIGITS < 24) {
    const unsigned ones = (1u << (24 - DIGITS)) - 1;
    unsigned bits = __float_as_uint((float)x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
      bits |= 0x400000u;  // a NaN, whatever of it is dropped
    else
      bits += (ones >> 1) + (bits >> (24 - DIGITS) & 1u);
    return (T)__uint_as_float(bits & ~ones);
  }
  return x;
}

// copies of N numbers to shared memory that are waited for by the piece; older cards make
// them at once
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(__CUPYCPU__)
template <int N> __device__ __forceinline__ void bring(T* to, const T* from, bool wanted) {
  const unsigned place = (unsigned)__cvta_generic_to_shared(to);
  const int size = wanted ? N * sizeof(T) : 0;
  asm volatile("cp.async.ca.shared.global [%%0], [%%1], %%2, %%3;"
               :: "r"(place), "l"(from), "n"(N * sizeof(T)), "r"(size));
}
__device__ __forceinline__ void end_of_piece() { asm volatile("cp.async.commit_group;"); }
template <int N> __device__ __forceinline__ void wait_for_pieces() {
  asm volatile("cp.async.wait_group %%0;" :: "n"(N) : "memory");
}
#else
template <int N> __device__ inline void bring(T* to, const T* from, bool wanted) {
  for (int i = 0; i < N; i++) to[i] = wanted ? from[i] : (T)0;
}
__device__ inline void end_of_piece() {}
template <int N> __device__ inline void wait_for_pieces() {}
#endif

__device__ T total(T x, T* scratch) {  // over the threads of a block, given to all of them
  const int t = threadIdx.x;
  scratch[t] = x;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (t < half) scratch[t] += scratch[t + half];
    __syncthreads();
  }
  const T result = scratch[0];
  __syncthreads();
  return result;
}
"""

# 0 or the inverted dropout's scale, of the 16 bits of one unit and example
# a thread for each of `size` things of every network
EACH = """
  const I k = blockIdx.y, i = blockIdx.x * (I)blockDim.x + threadIdx.x;
  if (i >= size) return;
"""


HEAD = 'extern "C" __global__ void '


def source(name: str, dtype: str, parameters: str, body: str) -> Source:
    ctype = {"float32": "float", "float64": "double"}[dtype]
    head = f"{HEAD}{name}({parameters})"
    return Source(name, f"{PRELUDE % ctype}\n{head} {{\n{body}\n}}\n")


# a step is over: the next one's batch, row of the table and number
MOVE_ON = """    inbox->start += m;
    inbox->row += 1;
    inbox->step += 1;
"""


def joined(sources: Sequence[Source], names: Sequence[str]) -> str:
    """Kernels of one dtype as one text, each under a name of its own."""
    beginnings = {code.partition(HEAD)[0] for _, code in sources}
    if len(beginnings) != 1:
        raise ValueError("kernels of several dtypes are no one text")
    kernels = [
        f"{HEAD}{name}({source.code.partition(f'{HEAD}{source.name}(')[2]}"
        for source, name in zip(sources, names, strict=True)
    ]
    return "\n".join([*beginnings, *kernels])


def columns(setup: str = "") -> str:
    """A block of ROWS × COLUMNS threads takes COLUMNS examples, each ROWS threads."""
    return f"""
  __shared__ T scratch[{ROWS}][{COLUMNS}];
  const int x = threadIdx.x, y = threadIdx.y;
  const I k = blockIdx.y, j = blockIdx.x * (I){COLUMNS} + x;
  const bool inside = j < m;
  {setup}"""


def across(reduction: str, part: str, result: str, rows: int = ROWS) -> str:
    """`result` of the parts of an example's `rows` threads, known to all of them."""
    _, combine = REDUCTIONS[reduction]
    return f"""
  scratch[y][x] = {part};
  __syncthreads();
  T {result} = scratch[0][x];
  for (int q = 1; q < {rows}; q++) {{
    const T next = scratch[q][x];
    {result} = {combine.format(result, "next")};
  }}
  __syncthreads();"""
