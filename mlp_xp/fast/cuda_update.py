"""CUDA source of the update, and of what is done to the gradient before: see `cuda_source`."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..optimizers import Optimizer
from ..types import Array
from .cuda_text import EACH, Source, source
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
    T norm = 0, penalty = 0;
    for (I i = threadIdx.x; i < n_parts; i += blockDim.x) {
      norm += parts[2 * k * n_parts + i];
      penalty += parts[(2 * k + 1) * n_parts + i];
    }
    norm = total(norm, scratch);
    penalty = total(penalty, scratch);
    if (threadIdx.x == 0) losses[row * networks + k] = J[k] + penalty;
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
    inbox->start += m;
    inbox->row += 1;
    inbox->step += 1;
  }"""
    clip = ""
    if what.clip_norm is not None:
        limit = f"(T){what.clip_norm!r}"
        longer = f"length > {limit} || length != length"
        clip = (
            f"const T length = sqrt(norm);\n      factor = {limit} / ({longer} ? length : {limit});"
        )
    parameters = (
        "Inbox* inbox, const T* J, const T* parts, T* now, I n_parts, I networks, I scalars, I m"
    )
    return source("close", dtype, parameters, body.replace("CLIP", clip))


def n_scalars(optimizer: Optimizer) -> int:
    """Scalars a step: the optimiser's own and, where weights decay, rate · weight_decay."""
    return len(optimizer.scalars(1.0, 1)) + (optimizer.weight_decay != 0)


def update(dtype: str, optimizer: Optimizer, clipped: bool) -> Source:
    """The optimiser's formula on the flat vectors of all parameters, in their place."""
    n = len(optimizer.scalars(1.0, 1))
    moment_names = [f"moment{i}" for i in range(optimizer.n_moments)]
    theta, g, *rest = leaves("theta", "g", *moment_names, dtype=dtype)
    scalars: list[Any] = leaves(*(f"scalar{i}" for i in range(n)), dtype=dtype)

    def formula(xp: object) -> Array:
        return optimizer.update(xp, theta, g, tuple(rest), *scalars)

    new, moments = trace(formula)
    if len(moments) != optimizer.n_moments:
        raise Untraceable("an optimiser returns other moments than it takes")
    lines = [EACH, f"  const T* s = now + k * {n_scalars(optimizer) + 1};"]
    lines += [f"  const T scalar{i} = s[{i}];" for i in range(n)]
    lines += ["  T theta = all_theta[k * size + i], g = all_g[k * size + i];"]
    if clipped:
        lines.append(f"  g *= s[{n_scalars(optimizer)}];")
    if optimizer.weight_decay != 0:
        lines.append(f"  if (i < n_weights) theta -= s[{n}] * theta;")
    names = [f"all_moment{i}" for i in range(optimizer.n_moments)]
    lines += [f"  const T moment{i} = {name}[k * size + i];" for i, name in enumerate(names)]
    outputs = {"all_theta[k * size + i]": new}
    outputs |= {f"{name}[k * size + i]": m for name, m in zip(names, moments, strict=True)}
    lines.append(elementwise(outputs))
    pointers = "".join(f", T* {name}" for name in names)
    parameters = f"T* all_theta, const T* all_g, const T* now, I size, I n_weights{pointers}"
    return source("update", dtype, parameters, "\n".join(lines))
