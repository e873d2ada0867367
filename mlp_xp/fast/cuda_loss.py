"""CUDA source of the loss: see `cuda_source`."""

from __future__ import annotations

from ..losses import Loss
from .cuda_text import ROWS, Source, across, columns, source
from .tracing import REDUCTIONS, Writer, reductions, traced_loss


def score(dtype: str, loss: Loss, labelled: bool, weighted: bool, smoothing: float) -> Source:
    """δ = share · ∂ℓ/∂S and share · ℓ of every example, from S = W A and the last bias.

    The last layer's bias, one-hot targets, their smoothing and the loss with its sums over
    the units are one kernel: S is read from cache as often as the loss has sums.
    """
    value, delta = traced_loss(loss, smoothing, dtype)
    target = "(T)(label == r)" if labelled else "targets[(own * n + r) * m + j]"
    read = f"""
      const T s = scores[r * m + j] + bias[r];
      const T t = {target};"""
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
