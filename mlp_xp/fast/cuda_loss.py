"""CUDA source of the loss: see `cuda_source`."""

from __future__ import annotations

from collections.abc import Callable

from ..losses import Kind, Loss
from ..types import Array
from .cuda_text import ROWS, Source, across, columns, source
from .tracing import REDUCTIONS, Untraceable, Writer, leaves, merged, reductions, trace


def score(dtype: str, loss: Loss, labelled: bool, weighted: bool, smoothing: float) -> Source:
    """δ = share · ∂ℓ/∂S and share · ℓ of every example, from S = W A and the last bias.

    The last layer's bias, one-hot targets, their smoothing and the loss with its sums over
    the units are one kernel: S is read from cache as often as the loss has sums.
    """
    s, t = leaves("s", "t", dtype=dtype)
    formula: Callable[..., Array] = loss.value
    value, delta = merged(trace(formula, s, t), trace(loss.delta, s, t))
    if not value.reduced:
        raise Untraceable("the value of a loss is not a sum over the units")
    target = "(T)(label == r)" if labelled else "targets[(own * n + r) * m + j]"
    kept, added = 1.0, "0"
    if smoothing > 0:
        kept, added = smoothing_of(loss.kind, smoothing)
    read = f"""
      const T s = scores[r * m + j] + bias[r];
      const T t = {target}{f" * (T){kept!r} + (T)({added})" if smoothing > 0 else ""};"""
    writer, body = (
        Writer(),
        [
            columns("const T* scores = S + k * n * m; const T* bias = b + k * stride;"),
            "  const I own = shared ? 0 : k;",
        ],
    )
    if labelled:
        body.append("  const I label = inside ? ((const I*)T_)[own * m + j] : -1;")
    else:
        body.append("  const T* targets = (const T*)T_;")
    for number, level in enumerate(reductions([value, delta])):
        loop, lines = writer.inner(), list[str]()
        for place, reduction in enumerate(level):
            begin, combine = REDUCTIONS[reduction.reduction or "sum"]
            part = loop.write(reduction.arguments[0], lines)
            body.append(f"  T part{number}_{place} = {begin};")
            lines.append(f"part{number}_{place} = {combine.format(f'part{number}_{place}', part)};")
        body.append(f"  if (inside) for (I r = y; r < n; r += {ROWS}) {{{read}")
        body.extend(lines)
        body.append("  }")
        for place, reduction in enumerate(level):
            part, result = f"part{number}_{place}", f"all{number}_{place}"
            body.append(across(reduction.reduction or "sum", part, result))
            writer.names[reduction] = result
    share = "(T)1 / m"
    if weighted:
        share = "weights[own * m + j] / (weight[own] > (T)0 ? weight[own] : (T)1)"
    body += ["  if (!inside) return;", f"  const T share = {share};"]
    lines = list[str]()
    result = writer.inner().write(value, lines)
    body += ["  if (y == 0) {", *lines, f"  values[k * m + j] = share * {result};", "  }"]
    lines = list[str]()
    result = writer.inner().write(delta, lines)
    body += [f"  for (I r = y; r < n; r += {ROWS}) {{{read}", *lines]
    body += [f"    delta[(k * n + r) * m + j] = share * {result};", "  }"]
    parameters = (
        "const T* S, const T* b, const void* T_, const T* weights, const T* weight, "
        "T* delta, T* values, I n, I m, I stride, I shared"
    )
    return source("score", dtype, parameters, "\n".join(body))


def smoothing_of(kind: Kind, smoothing: float) -> tuple[float, str]:
    """The factor and the summand of `losses.smooth`; the latter needs the number of units."""
    share = f"{float(smoothing)!r} / (double)"
    return 1 - smoothing, share + ("n" if kind == "multiclass" else "2")


def totals(dtype: str) -> Source:
    """The last layer's bias gradient, Σ δ over the examples, and J = Σ share · ℓ."""
    body = """
  __shared__ T scratch[256];
  const I k = blockIdx.y, r = blockIdx.x;
  const T* row = r < n ? delta + (k * n + r) * m : values + k * m;
  T sum = 0;
  for (I j = threadIdx.x; j < m; j += blockDim.x) sum += row[j];
  sum = total(sum, scratch);
  if (threadIdx.x == 0) (r < n ? db[k * stride + r] : J[k]) = sum;"""
    parameters = "const T* delta, const T* values, T* db, T* J, I n, I m, I stride"
    return source("totals", dtype, parameters, body)
