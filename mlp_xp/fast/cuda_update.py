"""CUDA source of the weights' gradients and of the update: see `cuda_source`."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..optimizers import Optimizer
from ..types import Array
from . import cuda_tiles as tiles
from .cuda_text import EACH, MOVE_ON, Source, source
from .tracing import Untraceable, elementwise, leaves, trace


class Regularised(NamedTuple):
    """What is done to the gradient between its computation and the update."""

    l2: float = 0.0
    l2_shared: bool = False
    sparse: bool = False
    clip_value: float | None = None
    clip_norm: float | None = None

    @property
    def any(self) -> bool:
        return self != Regularised(l2_shared=self.l2_shared)


def regularise(dtype: str, what: Regularised, weighted: bool) -> Source:
    """g ← clipped((g + l2 W) ∘ connected), and each block's share of Σ g² and Σ W²."""
    total = "weight[shared ? 0 : k]" if weighted else "m"
    penalty = f"(T){what.l2!r}" + (f" / (T){total}" if what.l2_shared else "")
    lines = ["T v = g[k * size + i];"]
    if what.l2 > 0:
        lines.append("if (i < n_weights) v += penalty * theta[k * size + i];")
        lines.append("if (i < n_weights) squares += theta[k * size + i] * theta[k * size + i];")
    if what.sparse:
        lines.append("v *= connected[k * size + i];")
    if what.clip_value is not None:
        bound = f"(T){what.clip_value!r}"
        lines.append(f"v = (v > -{bound} || v != v) ? v : -{bound};")
        lines.append(f"v = (v < {bound} || v != v) ? v : {bound};")
    lines += ["g[k * size + i] = v;", "norm += v * v;"]
    inside = "\n    ".join(lines)
    body = f"""
  __shared__ T scratch[256];
  const I k = blockIdx.y;
  const T penalty = {penalty};
  T norm = 0, squares = 0;
  for (I i = blockIdx.x * (I)blockDim.x + threadIdx.x; i < size; i += gridDim.x * (I)blockDim.x) {{
    {inside}
  }}
  norm = total(norm, scratch);
  squares = total(squares, scratch);
  if (threadIdx.x == 0) {{
    parts[(2 * k) * gridDim.x + blockIdx.x] = norm;
    parts[(2 * k + 1) * gridDim.x + blockIdx.x] = (T)0.5 * penalty * squares;
  }}"""
    parameters = (
        "T* g, const T* theta, const T* connected, const T* weight, T* parts, "
        "I size, I n_weights, I m, I shared"
    )
    return source("regularise", dtype, parameters, body)


def close(dtype: str, what: Regularised) -> Source:
    """The step's loss and scalars to their places, the clipping's factor; the inbox moves on.

    One block; it stands before the update, which reads `now` in the place of the table.
    """
    body = """
  __shared__ T scratch[256];
  const I row = inbox->row;
  const T* table = (const T*)inbox->table;
  T* losses = (T*)inbox->losses;
  for (I k = 0; k < networks; k++) {
    T J = 0, norm = 0, penalty = 0;
    for (I j = threadIdx.x; j < m; j += blockDim.x) J += values[k * m + j];
    for (I i = threadIdx.x; i < n_parts; i += blockDim.x) {
      norm += parts[2 * k * n_parts + i];
      penalty += parts[(2 * k + 1) * n_parts + i];
    }
    J = total(J, scratch);
    norm = total(norm, scratch);
    penalty = total(penalty, scratch);
    if (threadIdx.x == 0) losses[row * networks + k] = J + penalty;
    for (I i = threadIdx.x; i < scalars; i += blockDim.x)
      now[k * (scalars + 1) + i] = table[(row * networks + k) * scalars + i];
    if (threadIdx.x == 0) {
      T factor = 1;
      CLIP
      now[k * (scalars + 1) + scalars] = factor;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
MOVE_ON  }"""
    clip = ""
    if what.clip_norm is not None:
        limit = f"(T){what.clip_norm!r}"
        longer = f"length > {limit} || length != length"
        clip = (
            f"const T length = sqrt(norm);\n      factor = {limit} / ({longer} ? length : {limit});"
        )
    parameters = (
        "Inbox* inbox, const T* values, const T* parts, T* now, I n_parts, I networks, I scalars, "
        "I m"
    )
    return source(
        "close", dtype, parameters, body.replace("CLIP", clip).replace("MOVE_ON", MOVE_ON)
    )


def n_scalars(optimizer: Optimizer) -> int:
    """Scalars a step: the optimiser's own and, where weights decay, rate · weight_decay."""
    return len(optimizer.scalars(1.0, 1)) + (optimizer.weight_decay != 0)


def _updated(dtype: str, optimizer: Optimizer, g: str, scalars: str, clipped: bool) -> str:
    """The optimiser's formula on parameter `i` with the gradient `g`, in its place."""
    n = len(optimizer.scalars(1.0, 1))
    moment_names = [f"moment{i}" for i in range(optimizer.n_moments)]
    theta, gradient, *rest = leaves("theta", "g", *moment_names, dtype=dtype)
    values: list[Any] = leaves(*(f"scalar{i}" for i in range(n)), dtype=dtype)

    def formula(xp: object) -> Array:
        return optimizer.update(xp, theta, gradient, tuple(rest), *values)

    new, moments = trace(formula)
    if len(moments) != optimizer.n_moments:
        raise Untraceable("an optimiser returns other moments than it takes")
    lines = [f"  const T* s = {scalars};"]
    lines += [f"  const T scalar{i} = s[{i}];" for i in range(n)]
    lines += [f"  T theta = all_theta[k * size + i], g = {g};"]
    if clipped:
        lines.append(f"  g *= s[{n_scalars(optimizer)}];")
    if optimizer.weight_decay != 0:
        lines.append(f"  if (i < n_weights) theta -= s[{n}] * theta;")
    names = [f"all_moment{i}" for i in range(optimizer.n_moments)]
    lines += [f"  const T moment{i} = {name}[k * size + i];" for i, name in enumerate(names)]
    outputs = {"all_theta[k * size + i]": new}
    outputs |= {f"{name}[k * size + i]": m for name, m in zip(names, moments, strict=True)}
    lines.append(elementwise(outputs))
    return "\n".join(lines)


def _moments(optimizer: Optimizer) -> str:
    return "".join(f", T* all_moment{i}" for i in range(optimizer.n_moments))


def update(dtype: str, optimizer: Optimizer, clipped: bool) -> Source:
    """The optimiser's formula on the flat vectors of all parameters, in their place."""
    scalars = f"now + k * {n_scalars(optimizer) + 1}"
    body = EACH + _updated(dtype, optimizer, "all_g[k * size + i]", scalars, clipped)
    parameters = "T* all_theta, const T* all_g, const T* now, I size, I n_weights"
    return source("update", dtype, parameters + _moments(optimizer), body)


# one layer's product in `gradients`: its first block; the addresses of δ (n, m) and of the
# input (width, m), and whether each network has its own of these; where W and b begin in the
# flat vector, -1 for no b
PIECE = ("first", "delta", "input", "n", "width", "own", "theta", "bias")

LEFT = tiles.Operand("delta + (row0 + {c}) * depth + {i}", "depth", tiles.INNER)
RIGHT = tiles.Operand(
    *("input + (column0 + {c}) * depth + {i}", "depth", tiles.INNER),
    one="column0 + c == width",
)


def gradients(dtype: str, tile: tiles.Tile, optimizer: Optimizer | None = None) -> Source:
    """[∂J/∂W ∂J/∂b] = δ [Aᵀ 1] of many layers at once, and the update where `optimizer` is given.

    Blocks are dealt out to the layers, which `pieces` describes. With the update the
    gradient is never written; it is the step's last kernel then, and the last of its blocks
    to end closes the step: the loss to its place, the inbox to the next batch.
    """
    body = f"""
  const I k = blockIdx.y, depth = m;
  I number = 0;
  while (number + 1 < count && blockIdx.x >= pieces[number + 1].first) number++;
  const Piece layer = pieces[number];
  const I n = layer.n, width = layer.width, columns = width + (layer.bias >= 0);
  const I across = (n + {tile.rows - 1}) / {tile.rows}, block = blockIdx.x - layer.first;
  const I row0 = block % across * {tile.rows}, column0 = block / across * {tile.columns};
  const T* const delta = (const T*)layer.delta + k * n * m;
  const T* const input = (const T*)layer.input + k * layer.own * width * m;
  {tiles.shared(dtype, tile)}
  {tiles.product(LEFT, RIGHT, tile)}"""
    end = "const I i = j < width ? layer.theta + r * width + j : layer.bias + r;\n    "
    parameters = "const Piece* pieces, I count, Inbox* inbox, I m, I size, "
    if optimizer is None:
        body += tiles.each(tile, end + "all_g[k * size + i] = value;")
        return _with_pieces(dtype, parameters + "T* all_g", body)
    n = n_scalars(optimizer)
    scalars = f"(const T*)inbox->table + (inbox->row * networks + k) * {n}"
    body += tiles.each(tile, end + _updated(dtype, optimizer, "value", scalars, False)) + CLOSING
    parameters += "T* all_theta, I n_weights, const T* values, I networks, unsigned* ended"
    return _with_pieces(dtype, parameters + _moments(optimizer), body)


def _with_pieces(dtype: str, parameters: str, body: str) -> Source:
    found = source("gradients", dtype, parameters, body)
    piece = f"struct Piece {{ I {', '.join(PIECE)}; }};\n\nextern"
    return found._replace(code=found.code.replace("extern", piece, 1))


# a thread adds up the losses of one network, or all of them those of the only one
CLOSING = """
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (t == 0) last = atomicAdd(ended, 1u) + 1 == gridDim.x * gridDim.y;
  __syncthreads();
  if (!last) return;
  T* const losses = (T*)inbox->losses + inbox->row * networks;
  if (networks == 1) {
    T sum = 0;
    for (I j = t; j < m; j += blockDim.x) sum += values[j];
    sum = total(sum, memory);
    if (t == 0) losses[0] = sum;
  } else {
    for (I network = t; network < networks; network += blockDim.x) {
      T sum = 0;
      for (I j = 0; j < m; j++) sum += values[network * m + j];
      losses[network] = sum;
    }
  }
  __syncthreads();
  if (t == 0) {
    *ended = 0;
MOVE_ON  }""".replace("MOVE_ON", MOVE_ON)
