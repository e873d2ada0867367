"""CUDA source of the loss: see `cuda_source`."""

from __future__ import annotations

from ..losses import Loss
from . import cuda_tiles as tiles
from .cuda_layers import Shape, back
from .cuda_text import COLUMNS, ROWS, Source, across, columns, source
from .tracing import REDUCTIONS, Value, Writer, leaves, merged, reductions, trace, traced_loss

SCORE = (
    "const T* b, const void* T_, const T* weights, const T* weight, T* delta, T* values, "
    "I n, I m, I stride, I shared"
)


def score(
    dtype: str,
    loss: Loss,
    labelled: bool,
    weighted: bool,
    smoothing: float,
    tile: tiles.Tile | None = None,
    below: Shape | None = None,
) -> Source:
    """δ = share · ∂ℓ/∂S and share · ℓ of every example, from S = W A and the last bias.

    The last layer's bias, one-hot targets, their smoothing and the loss with its sums over
    the units are one kernel: S is read from cache as often as the loss has sums. Targets
    and weights are those of the examples that the inbox points to.

    With `tile`, whose rows are all units, S is computed in the same kernel; with `below` as
    well, δ of the layer below: (Wᵀ δ) ∘ f' ∘ mask.
    """
    value, delta = traced_loss(loss, smoothing, dtype)
    target = "(T)(label == r)" if labelled else "targets[example * n + r]"
    rows, wide = (ROWS, COLUMNS) if tile is None else (tiles.THREADS // tile.columns, tile.columns)
    score = f"memory[r * {wide} + x]" if tile else "scores[r * m + j] + bias[r]"
    read = f"""
      const T s = {score};
      const T t = {target};"""
    if tile is None:
        body = [columns("const T* scores = S + k * n * m; const T* bias = b + k * stride;")]
    else:
        body = [_scores(dtype, tile)]
    body.append("""
  const I* const order = (const I*)inbox->order + (shared ? 0 : k * inbox->pitch) + inbox->start;
  const I example = inside ? order[j] : 0;""")
    writer = Writer()
    if labelled:
        body.append("  const I label = inside ? ((const I*)T_)[example] : -1;")
    else:
        body.append("  const T* targets = (const T*)T_;")
    body += _reduced([value, delta], writer, read, rows)
    share = "(T)1 / m"
    if weighted:
        total = "weight[shared ? 0 : k]"
        share = f"weights[example] / ({total} > (T)0 ? {total} : (T)1)"
    end = "  if (inside) {" if below else "  if (!inside) return;\n  {"
    body += [f"{end}\n  const T share = {share};"]
    lines = list[str]()
    result = writer.inner().write(value, lines)
    body += ["  if (y == 0) {", *lines, f"  values[k * m + j] = share * {result};", "  }"]
    lines = list[str]()
    result = writer.inner().write(delta, lines)
    body += [f"  for (I r = y; r < n; r += {rows}) {{{read}", *lines]
    body += [f"    const T found = share * {result};", "    delta[(k * n + r) * m + j] = found;"]
    if tile and below:
        body.append(f"    memory[{tile.rows * wide} + r * {wide} + x] = found;")
    body += ["  }", "  }"]
    if tile is None:
        return source("score", dtype, f"const T* S, const Inbox* inbox, {SCORE}", "\n".join(body))
    parameters = f"{tiles.INPUT}, {SCORE}"
    if below is not None:
        body.append(_carried(dtype, tile, below))
        parameters += ", T* carried, const T* V, const unsigned short* bits, I drawn, I first"
    return source("score", dtype, parameters, "\n".join(body))


def _reduced(values: list[Value], writer: Writer, read: str, rows: int) -> list[str]:
    """All sums over the units that `values` want, by `rows` threads an example."""
    body: list[str] = []
    for number, level in enumerate(reductions(values)):
        loop, lines = writer.inner(), list[str]()
        for place, reduction in enumerate(level):
            begin, combine = REDUCTIONS[reduction.reduction or "sum"]
            part = loop.write(reduction.arguments[0], lines)
            body.append(f"  T part{number}_{place} = {begin};")
            lines.append(f"part{number}_{place} = {combine.format(f'part{number}_{place}', part)};")
        body.append(f"  if (inside) for (I r = y; r < n; r += {rows}) {{{read}")
        body.extend(lines)
        body.append("  }")
        for place, reduction in enumerate(level):
            part, result = f"part{number}_{place}", f"all{number}_{place}"
            body.append(across(reduction.reduction or "sum", part, result, rows))
            writer.names[reduction] = result
    return body


def forecast(
    dtype: str, loss: Loss, tile: tiles.Tile | None = None, lies: tiles.Lies = "columns"
) -> Source:
    """What the scores S = W A + b stand for; S is computed in the same kernel by `tile`."""
    (s,) = leaves("s", dtype=dtype)
    (value,) = merged(trace(loss.predict, s))
    rows, wide = (ROWS, COLUMNS) if tile is None else (tiles.THREADS // tile.columns, tile.columns)
    score = f"memory[r * {wide} + x]" if tile else "scores[r * m + j] + bias[r]"
    read = f"\n      const T s = {score};"
    writer, lines = Writer(), list[str]()
    setup = "const T* scores = S + k * n * m; const T* bias = b + k * stride;"
    body = [columns(setup) if tile is None else _scores(dtype, tile, lies)]
    body += _reduced([value], writer, read, rows)
    found = writer.inner().write(value, lines)
    body += [f"  if (inside) for (I r = y; r < n; r += {rows}) {{{read}", *lines]
    body.append(f"    out[(k * n + r) * m + j] = {found};\n  }}")
    parameters = f"{'const T* S' if tile is None else tiles.INPUT}, {FORECAST}"
    return source("forecast", dtype, parameters, "\n".join(body))


FORECAST = "const T* b, T* out, I n, I m, I stride"


def _scores(dtype: str, tile: tiles.Tile, lies: tiles.Lies = "columns") -> str:
    """S of a block's examples and all units, in `memory`."""
    size, wide = tile.size, tile.columns
    return f"""
  const I columns = m;{tiles.forward(dtype, tile, lies)}
  for (int o = t; o < {size}; o += {tiles.THREADS})
    memory[o] = {tiles.result(tile)} + (o / {wide} < n ? b[k * stride + o / {wide}] : (T)0);
  __syncthreads();
  __shared__ T scratch[{tiles.THREADS // wide}][{wide}];
  x = t % {wide};
  y = t / {wide};
  const I j = column0 + x;
  const bool inside = j < m;"""


def _carried(dtype: str, tile: tiles.Tile, below: Shape) -> str:
    """δ of the layer below, for all its units and the block's examples."""
    wide = tile.columns
    return f"""
  __syncthreads();
  for (I o = t; o < depth * {wide}; o += {tiles.THREADS}) {{
    const I r = o / {wide}, j = column0 + o % {wide};
    if (j >= m) continue;
    T dA = 0;
    #pragma unroll 4
    for (I u = 0; u < n; u++)
      dA += rounded<{tile.digits}>(W[k * stride + u * depth + r]) *
            rounded<{tile.digits}>(memory[{tile.rows * wide} + u * {wide} + o % {wide}]);
    {back(dtype, below, "dA", "depth")}
    carried[k * depth * m + e] = d;
  }}"""


def totals(dtype: str) -> Source:
    """The last layer's bias gradient, Σ δ over the examples."""
    body = """
  __shared__ T scratch[256];
  const I k = blockIdx.y, r = blockIdx.x;
  const T* row = delta + (k * n + r) * m;
  T sum = 0;
  for (I j = threadIdx.x; j < m; j += blockDim.x) sum += row[j];
  sum = total(sum, scratch);
  if (threadIdx.x == 0) db[k * stride + r] = sum;"""
    return source("totals", dtype, "const T* delta, T* db, I n, I m, I stride", body)
