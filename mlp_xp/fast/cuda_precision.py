"""The rounding of a product's operands on a device: integer arithmetic on their bits."""

from __future__ import annotations

from ..kernels import PRECISIONS
from .cuda_text import Source, source


def rounding(digits: int) -> str:
    """`kernels.rounded` of the number whose `bits` these are, an unsigned of 32."""
    dropped = PRECISIONS["float32"] - digits
    ones = (1 << dropped) - 1
    return f"""
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    bits |= 0x400000u;  // a NaN, whatever of it is dropped
  else
    bits += {ones >> 1}u + (bits >> {dropped} & 1u);
  bits &= ~{ones}u;"""


def to_bfloat16(target: str, value: str) -> str:
    """A statement: a number of float32 to an unsigned short that holds a bfloat16."""
    rounded = f"rounded<{PRECISIONS['bfloat16']}>({value})"
    return f"{target} = (unsigned short)(__float_as_uint({rounded}) >> 16);"


def as_bfloat16(dtype: str) -> Source:
    """A matrix (rows, n) of float32 as bfloat16, contiguous; a thread takes four numbers.

    pitch, stride  of the matrix, from row to row and from network to network
    """
    body = f"""
  const I k = blockIdx.y, i = 4 * (blockIdx.x * (I)blockDim.x + threadIdx.x);
  const float* const from = matrix + k * stride;
  unsigned short* const to = out + k * size;
  if (pitch == n && i + 4 <= size && (size_t)(from + i) % 16 == 0 && (size_t)(to + i) % 8 == 0) {{
    struct alignas(16) Four {{ float v[4]; }};
    struct alignas(8) Halves {{ unsigned short v[4]; }};
    const Four four = *(const Four*)(from + i);
    Halves halves;
    for (int q = 0; q < 4; q++) {to_bfloat16("halves.v[q]", "four.v[q]")}
    *(Halves*)(to + i) = halves;
    return;
  }}
  for (I e = i; e < size && e < i + 4; e++)
    {to_bfloat16("to[e]", "from[pitch == n ? e : e / n * pitch + e % n]")}"""
    parameters = "unsigned short* out, const float* matrix, I n, I pitch, I stride, I size"
    return source("as_bfloat16", dtype, parameters, body)
