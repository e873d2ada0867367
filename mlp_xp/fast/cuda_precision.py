"""The rounding of a product's operands on a device: integer arithmetic on their bits."""

from __future__ import annotations

from ..kernels import PRECISIONS
from .cuda_text import EACH, Source, source


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


def as_bfloat16(dtype: str) -> Source:
    """A matrix (rows, n) of float32 as bfloat16, contiguous.

    pitch, stride  of the matrix, from row to row and from network to network
    """
    body = f"""{EACH}
  const I at = k * stride + (pitch == n ? i : i / n * pitch + i % n);
  unsigned bits = __float_as_uint(matrix[at]);{rounding(PRECISIONS["bfloat16"])}
  out[k * size + i] = (unsigned short)(bits >> 16);"""
    parameters = "unsigned short* out, const float* matrix, I n, I pitch, I stride, I size"
    return source("as_bfloat16", dtype, parameters, body)
