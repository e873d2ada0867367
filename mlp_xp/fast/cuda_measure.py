"""CUDA source of an evaluation, of scores that are there: see `cuda_source`.

The formulas would be some fifteen kernels, each compiled at the first evaluation.
"""

from __future__ import annotations

from ..losses import Loss
from .cuda_text import Source, source
from .tracing import REDUCTIONS, Untraceable, Writer, leaves, merged, reductions, trace

NUMBERS = ("real", "count")
# a greater number, or the first that is none: the argmax of the array libraries
GREATER = "if ({0} > {1} || ({0} != {0} && {1} == {1})) {{ {1} = {0}; {2} = r; }}"


def measure(dtype: str, loss: Loss, labelled: bool, weighted: bool) -> Source:
    """Σ w, Σ w ℓ and Σ w [right] over the examples of each block; a thread an example."""
    value = merged(trace(loss.value, *leaves("s", "t", dtype=dtype)))[0]
    if not value.reduced:
        raise Untraceable("the value of a loss is not a sum over the units")
    target = "(T)(label == r)" if labelled else "targets[r * unit]"
    loop = f"""
    for (I r = 0; r < n; r++) {{
      const T s = scores[r * m];
      const T t = {target};"""
    body = [
        f"""
  __shared__ T scratch[256];
  const I k = blockIdx.y;
  T all = 0, lost = 0, hits = 0;
  for (I j = blockIdx.x * (I)blockDim.x + threadIdx.x; j < m; j += gridDim.x * (I)blockDim.x) {{
    const T* scores = S + k * n * m + j;
    const T w = {"weights[k * heavy + j]" if weighted else "1"};"""
    ]
    if labelled:
        body.append("    I label = ((const I*)T_)[k * network + j * example];")
    else:
        body.append("    const T* targets = (const T*)T_ + k * network + j * example;")
    writer = Writer()
    for number, level in enumerate(reductions([value])):
        inner, lines = writer.inner(), list[str]()
        for place, reduction in enumerate(level):
            begin, combine = REDUCTIONS[reduction.reduction or "sum"]
            part = inner.write(reduction.arguments[0], lines)
            name = writer.names[reduction] = f"part{number}_{place}"
            body.append(f"    T {name} = {begin};")
            lines.append(f"{name} = {combine.format(name, part)};")
        body += [loop, *lines, "    }"]
    lines = list[str]()
    result = writer.write(value, lines)
    body += [*lines, f"    all += w; lost += w * {result};"]
    if loss.kind == "multiclass":
        body.append("    T best = -INF, most = -INF; I chosen = 0;")
        lines = [GREATER.format("s", "best", "chosen")]
        if not labelled:
            body.append("    I label = 0;")
            lines.append(GREATER.format("t", "most", "label"))
        body += [loop, *lines, "    }", "    hits += chosen == label ? w : (T)0;"]
    elif loss.kind not in NUMBERS:
        body += ["    bool right = true;", loop]
        body += ["      right = right && (s > 0) == (t > (T)0.5);", "    }"]
        body.append("    hits += right ? w : (T)0;")
    body.append("""  }
  all = total(all, scratch);
  lost = total(lost, scratch);
  hits = total(hits, scratch);
  if (threadIdx.x == 0) {
    T* mine = parts + 3 * (k * gridDim.x + blockIdx.x);
    mine[0] = all; mine[1] = lost; mine[2] = hits;
  }""")
    parameters = (
        "const T* S, const void* T_, const T* weights, T* parts, "
        "I n, I m, I network, I unit, I example, I heavy"
    )
    return source("measure", dtype, parameters, "\n".join(body))


def explained(dtype: str, loss: Loss, weighted: bool) -> Source:
    """R² of each output, a block each: two passes, for no digits to cancel.

    Targets that are all equal are known by the least and the largest of those that weigh
    something: their mean is not always theirs to the last bit.
    """
    lines = list[str]()
    prediction = Writer().write(trace(loss.predict, *leaves("s", dtype=dtype)), lines)
    weight = "weights[k * heavy + j]" if weighted else "1"
    loop = f"""
  for (I j = threadIdx.x; j < m; j += blockDim.x) {{
    const T w = {weight}, t = targets[j * example];"""
    (least, lower), (most, higher) = REDUCTIONS["min"], REDUCTIONS["max"]
    body = f"""
  __shared__ T scratch[256], lows[256], highs[256];
  const I k = blockIdx.y, r = blockIdx.x;
  const int i = threadIdx.x;
  const T* scores = S + (k * n + r) * m;
  const T* targets = T_ + k * network + r * unit;
  T all = 0, sum = 0, spread = 0, error = 0;
  T low = {least}, high = {most};{loop}
    all += w; sum += w * t;
    if (!(w > (T)0)) continue;
    low = {lower.format("low", "t")};
    high = {higher.format("high", "t")};
  }}
  lows[i] = low;
  highs[i] = high;
  for (int half = blockDim.x / 2; half > 0; half /= 2) {{
    __syncthreads();
    if (i >= half) continue;
    lows[i] = {lower.format("lows[i]", "lows[i + half]")};
    highs[i] = {higher.format("highs[i]", "highs[i + half]")};
  }}
  all = total(all, scratch);
  const T centre = total(sum, scratch) / all;{loop}
    const T s = scores[j];
    {" ".join(lines)}
    spread += w * (t - centre) * (t - centre);
    error += w * (t - {prediction}) * (t - {prediction});
  }}
  spread = total(spread, scratch) / all;
  error = total(error, scratch) / all;
  if (i > 0) return;
  const bool equal = lows[0] == highs[0] || spread < (T)tiny;
  found[k * n + r] = equal ? (T)(error == 0) : 1 - error / spread;"""
    parameters = (
        "const T* S, const T* T_, const T* weights, T* found, "
        "I n, I m, I network, I unit, I example, I heavy, double tiny"
    )
    return source("explained", dtype, parameters, body)


def measured(dtype: str) -> Source:
    """J and the score of each network, a block each, from what the two above found."""
    body = """
  __shared__ T scratch[256];
  const I k = blockIdx.x;
  T all = 0, lost = 0, hits = 0;
  for (I i = threadIdx.x; i < n_parts; i += blockDim.x) {
    const T* part = parts + 3 * (k * n_parts + i);
    all += part[0]; lost += part[1]; hits += part[2];
  }
  for (I r = threadIdx.x; found && r < n; r += blockDim.x) hits += found[k * n + r];
  all = total(all, scratch);
  lost = total(lost, scratch);
  hits = total(hits, scratch);
  if (threadIdx.x == 0) {
    J[k] = lost / all;
    score[k] = hits / (found ? n : all);
  }"""
    parameters = "const T* parts, const T* found, T* J, T* score, I n_parts, I n"
    return source("measured", dtype, parameters, body)
