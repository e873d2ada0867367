"""CUDA source of the hidden layers, forward and backward: see `cuda_source`.

Each stands twice: on its own, after a product of cuBLAS's, and as the end of a product of
`cuda_tiles`, given a `Tile`.
"""

from __future__ import annotations

from typing import NamedTuple

from ..activations import Activation
from ..kernels import EPSILON, dropout_scale
from ..network import RUNNING_SHARE
from . import cuda_tiles as tiles
from .cuda_precision import to_bfloat16
from .cuda_text import ROWS, Source, across, columns, source
from .tracing import elementwise, leaves, trace

SPAN = 1024  # examples of a unit that a block of `layer_forward` by itself takes
MASK = "(bits[k * drawn + first + e] >= {threshold} ? (T){scale!r} : (T)0)"


class Shape(NamedTuple):
    """What of a hidden layer decides its kernels' text.

    normalization  "none", "batch" or "layer"
    rate           of dropout
    skips          whether something is added to its output
    apart          whether its output has a buffer of its own, beside V
    halves         whether its output, and on the way back δ, are written as bfloat16 too
    """

    activation: Activation
    normalization: str = "none"
    rate: float = 0.0
    skips: bool = False
    apart: bool = False
    halves: bool = False


def _mask(rate: float) -> str:
    threshold, scale = dropout_scale(rate)
    return MASK.format(threshold=threshold, scale=scale)


FORWARD = (
    "T* V, T* A, const T* b, const T* gain, T* N, T* inverse, T* running, "
    "const unsigned short* bits, const T* skip, I n, I m, I stride, I drawn, I first, "
    "I skip_network, I skip_row, I skip_column, I statistics, unsigned short* halves"
)


def layer_forward(
    dtype: str, shape: Shape, tile: tiles.Tile | None = None, lies: tiles.Lies = "columns"
) -> Source:
    """V ← f(S + b) or, where the slope is written in it, Z; A ← mask ∘ f(Z) + skip.

    S = W A_in lies in V, or is computed in the same kernel by `tile`, of examples that
    lie so. A normalised layer normalises it first, in the same kernel: a block
    takes a unit's row for batch normalisation, a group of columns for layer normalisation.
    """
    (z,) = leaves("z", dtype=dtype)
    h = trace(shape.activation.f, z)
    ends = [elementwise({"const T h": h})]
    ends.append("V[k * n * m + e] = " + ("h;" if shape.activation.slope_of == "A" else "z;"))
    value = "h"
    if shape.apart:
        value = "h" if shape.rate == 0 else f"h * {_mask(shape.rate)}"
        if shape.skips:
            value += " + skip[k * skip_network + r * skip_row + j * skip_column]"
        ends.append(f"A[k * n * m + e] = {value};")
    if shape.halves:
        ends.append(to_bfloat16("halves[k * n * m + e]", value))
    end = "\n".join(ends)
    if tile is not None:
        body = "\n  const I columns = m;" + tiles.forward(dtype, tile, lies)
        each = f"const I e = r * m + j;\n    const T z = value + b[k * stride + r];\n    {end}"
        parameters = f"{tiles.INPUT}, {FORWARD}"
        return source("layer_forward", dtype, parameters, body + tiles.each(tile, each))
    if shape.normalization == "none":
        name, body = (
            "layer_forward",
            f"""
  const int blocks = (int)((m + {SPAN - 1}) / {SPAN});
  const I k = blockIdx.y, r = blockIdx.x / blocks;
  const T bias = b[k * stride + r];
  #pragma unroll
  for (int q = 0; q < 4; q++) {{
    const I j = blockIdx.x % blocks * (I){SPAN} + q * {SPAN // 4} + threadIdx.x, e = r * m + j;
    if (j >= m) break;
    const T z = V[k * n * m + e] + bias;
    {end}
  }}""",
        )
    elif shape.normalization == "batch":
        name, body = (
            "layer_forward_batch",
            f"""
  __shared__ T scratch[256];
  const I k = blockIdx.y, r = blockIdx.x;
  T* S = V + k * n * m + r * m;
  T sum = 0, square = 0;
  for (I j = threadIdx.x; j < m; j += blockDim.x) sum += S[j];
  const T mean = total(sum, scratch) / m;
  for (I j = threadIdx.x; j < m; j += blockDim.x) square += (S[j] - mean) * (S[j] - mean);
  const T variance = total(square, scratch) / m;
  const T scale = 1 / sqrt(variance + (T){EPSILON!r});
  for (I j = threadIdx.x; j < m; j += blockDim.x) {{
    const I e = r * m + j;
    const T normal = (S[j] - mean) * scale;
    N[k * n * m + e] = normal;
    const T z = gain[k * stride + r] * normal + b[k * stride + r];
    {end}
  }}
  if (threadIdx.x == 0) {{
    inverse[k * n + r] = scale;
    T* run = running + k * statistics + r;
    const T newest = m > 1 ? variance * (T)((double)m / (m - 1)) : run[n];
    run[0] = (T){1 - RUNNING_SHARE!r} * run[0] + (T){RUNNING_SHARE!r} * mean;
    run[n] = (T){1 - RUNNING_SHARE!r} * run[n] + (T){RUNNING_SHARE!r} * newest;
  }}""",
        )
    else:
        name, body = (
            "layer_forward_layer",
            f"""
  {columns("T* S = V + k * n * m;")}
  T sum = 0, square = 0;
  if (inside) for (I r = y; r < n; r += {ROWS}) sum += S[r * m + j];
  {across("sum", "sum", "mean")}
  mean /= n;
  if (inside) for (I r = y; r < n; r += {ROWS}) {{
    const T centred = S[r * m + j] - mean;
    square += centred * centred;
  }}
  {across("sum", "square", "variance")}
  variance /= n;
  const T scale = 1 / sqrt(variance + (T){EPSILON!r});
  if (!inside) return;
  if (y == 0) inverse[k * m + j] = scale;
  for (I r = y; r < n; r += {ROWS}) {{
    const I e = r * m + j;
    const T normal = (S[e] - mean) * scale;
    N[k * n * m + e] = normal;
    const T z = gain[k * stride + r] * normal + b[k * stride + r];
    {end}
  }}""",
        )
    return source(name, dtype, FORWARD, body)


BACKWARD = (
    "const T* dA, T* delta, const T* V, const unsigned short* bits, T* db, T* dgain, "
    "const T* gain, const T* N, const T* inverse, I n, I m, I stride, I drawn, I first, "
    "unsigned short* halves"
)


def back(dtype: str, shape: Shape, dA: str, units: str = "n") -> str:
    """`d`, ∂J/∂Z of unit r and example j, from dA; `e` is its place."""
    (v,) = leaves("v", dtype=dtype)
    slope = trace(shape.activation.slope, v)
    value = f"{dA} * slope"
    if shape.rate > 0:
        value += f" * {_mask(shape.rate)}"
    return f"""
    const I e = r * m + j;
    const T v = V[k * {units} * m + e];
    {elementwise({"const T slope": slope})}
    const T d = {value};"""


def layer_backward(
    dtype: str, shape: Shape, tile: tiles.Tile | None = None, add: bool = False, keep: bool = False
) -> Source:
    """δ = dA ∘ f' ∘ mask.

    With `tile`, of dA = Wᵀ δ of the layer above: add  dA holds what is added to that;
    keep  dA is wanted as well. Otherwise of a dA that is there, with δ's sum over the
    examples: a block takes a unit's row; with batch normalisation δ goes on to ∂J/∂S; both
    pass the gain's gradient.
    """
    if tile is not None:
        dA = "value + dA[k * n * m + r * m + j]" if add else "value"
        end = f"const T carried = {dA};"
        end += "\n    dA[k * n * m + r * m + j] = carried;" if keep else ""
        end += back(dtype, shape, "carried") + "\n    delta[k * n * m + e] = d;"
        body = f"""{tiles.place(tile)}
  const I columns = m;{tiles.shared(dtype, tile)}
  {tiles.product(tiles.TURNED, tiles.COLUMNS, tile)}{tiles.each(tile, end)}"""
        parameters = f"{tiles.INPUT}, T* dA, T* delta, const T* V, const unsigned short* bits, "
        parameters += "I n, I m, I stride, I drawn, I first"
        return source("layer_backward", dtype, parameters, body)
    normalised, batch = shape.normalization != "none", shape.normalization == "batch"
    d = back(dtype, shape, "dA[k * n * m + r * m + j]")

    def half(value: str) -> str:
        return to_bfloat16("halves[k * n * m + e]", value)

    body = f"""
  __shared__ T scratch[256];
  const I k = blockIdx.y, r = blockIdx.x;
  T sum = 0, product = 0;
  for (I j = threadIdx.x; j < m; j += blockDim.x) {{
    {d}
    sum += d;
    {"product += d * N[k * n * m + e];" if normalised else ""}
    {"" if batch else "delta[k * n * m + e] = d;"}
    {half("d") if shape.halves and not normalised else ""}
  }}
  sum = total(sum, scratch);
  if (threadIdx.x == 0) db[k * stride + r] = sum;"""
    if normalised:
        body += """
  product = total(product, scratch);
  if (threadIdx.x == 0) dgain[k * stride + r] = product;"""
    if batch:
        body += f"""
  const T g = gain[k * stride + r], mean = g * sum / m, mean_N = g * product / m;
  for (I j = threadIdx.x; j < m; j += blockDim.x) {{
    {d}
    const T found = (g * d - mean - N[k * n * m + e] * mean_N) * inverse[k * n + r];
    delta[k * n * m + e] = found;
    {half("found") if shape.halves else ""}
  }}"""
    name = "layer_backward" + (f"_{shape.normalization}" if normalised else "")
    return source(name, dtype, BACKWARD, body)


def layer_norm_backward(dtype: str) -> Source:
    """δ ← ∂J/∂S through the moments over the units, in its place."""
    body = f"""
  {columns("T* D = delta + k * n * m; const T* M = N + k * n * m;")}
  const T* g = gain + k * stride;
  T sum = 0, product = 0;
  if (inside) for (I r = y; r < n; r += {ROWS}) {{
    const T G = g[r] * D[r * m + j];
    sum += G;
    product += G * M[r * m + j];
  }}
  {across("sum", "sum", "mean")}
  {across("sum", "product", "mean_N")}
  mean /= n;
  mean_N /= n;
  if (inside) for (I r = y; r < n; r += {ROWS}) {{
    const I e = r * m + j;
    D[e] = (g[r] * D[e] - mean - M[e] * mean_N) * inverse[k * m + j];
  }}"""
    parameters = "T* delta, const T* gain, const T* N, const T* inverse, I n, I m, I stride"
    return source("layer_norm_backward", dtype, parameters, body)
