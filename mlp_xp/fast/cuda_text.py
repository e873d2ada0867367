"""What the text of all CUDA kernels begins with, and the patterns they share."""

from __future__ import annotations

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


def source(name: str, dtype: str, parameters: str, body: str) -> Source:
    ctype = {"float32": "float", "float64": "double"}[dtype]
    head = f'extern "C" __global__ void {name}({parameters})'
    return Source(name, f"{PRELUDE % ctype}\n{head} {{\n{body}\n}}\n")


def columns(setup: str = "") -> str:
    """A block of ROWS × COLUMNS threads takes COLUMNS examples, each ROWS threads."""
    return f"""
  __shared__ T scratch[{ROWS}][{COLUMNS}];
  const int x = threadIdx.x, y = threadIdx.y;
  const I k = blockIdx.y, j = blockIdx.x * (I){COLUMNS} + x;
  const bool inside = j < m;
  {setup}"""


def across(reduction: str, part: str, result: str) -> str:
    """`result` of the parts of an example's threads, known to all of them."""
    _, combine = REDUCTIONS[reduction]
    return f"""
  scratch[y][x] = {part};
  __syncthreads();
  T {result} = scratch[0][x];
  for (int q = 1; q < {ROWS}; q++) {{
    const T next = scratch[q][x];
    {result} = {combine.format(result, "next")};
  }}
  __syncthreads();"""
