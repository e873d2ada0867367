"""C source of what stands between the matrix products of a step on the CPU.

Each kernel is written from the formulas of the tables by `tracing`, takes its arguments
as a row of `runtime.c`'s table, and does part `part` of `parts` of its work. Activations,
scores and deltas lie as (units, examples), examples together; loops run over examples, so
that the compiler makes vectors of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..activations import Activation
from ..kernels import dropout_scale
from ..losses import Loss
from ..optimizers import Optimizer
from .tracing import (
    REDUCTIONS,
    Untraceable,
    Value,
    Writer,
    elementwise,
    leaves,
    merged,
    reductions,
    trace,
    traced_loss,
)

MOST_PARTS = 64  # of a call: MOST_THREADS of runtime.c
KEPT = 256  # kernels whose text is kept: a program for another batch size has the same
COLUMNS = 128  # examples at once where sums over units are kept in the cache

# glibc's libmvec has these for vectors; a compiler uses it where they are declared so
VECTORS = ["exp", "log", "log1p", "expm1", "log2", "tanh", "sinh", "cosh", "sin", "cos", "tan"]
DECLARED = "\n".join(
    f"extern double {name}(double) VECTOR; extern float {name}f(float) VECTOR;" for name in VECTORS
)
PRELUDE = f"""
#include <math.h>
#if defined __x86_64__ && defined __GLIBC__ && !defined __clang__
#if __GLIBC_PREREQ(2, 35)
#define VECTOR __attribute__((simd("notinbranch")))
{DECLARED}
#endif
#endif
#include <stdbool.h>
#include <string.h>
#include <tgmath.h>
#undef I
typedef long long I;
#define INF ((T)__builtin_inf())
#define FROM(n) ((n) * part / parts)
#define UNTIL(n) ((n) * (part + 1) / parts)
"""
CTYPES = {"float32": "float", "float64": "double"}


def unit(dtype: str, kernels: Sequence[str]) -> str:
    """One source of all the kernels, given by their bodies and named k0, k1 …"""
    text = [f"typedef {CTYPES[dtype]} T;", PRELUDE]
    for number, body in enumerate(kernels):
        text.append(f"void k{number}(const I *w, I part, I parts) {{\n{body}\n}}\n")
    return "\n".join(text)


def _arguments(text: str) -> str:
    """Declarations "T *x, I n" of what stands in the words after the first two.

    No array lies where another does.
    """
    lines = []
    for place, declaration in enumerate(text.split(","), start=2):
        kind, name = declaration.strip().rsplit(" ", 1)
        if name.startswith("*"):
            kind, name = f"{kind} *", f"restrict {name[1:]}"
        lines.append(f"  {kind} {name} = ({kind})w[{place}];")
    return "\n".join(lines)


def weigh() -> str:
    """The sum of a batch's weights."""
    return f"""
{_arguments("const T *weights, T *total, I m")}
  T sum = 0;
  #pragma omp simd reduction(+:sum)
  for (I j = 0; j < m; j++) sum += weights[j];
  *total = sum;"""


class Shape(NamedTuple):
    """What decides a layer's kernels.

    rate   of its dropout
    apart  whether its output lies apart from what the backward pass reads
    """

    activation: Activation
    rate: float
    apart: bool


def _kept(rate: float) -> str:
    """The statement that multiplies `a` by an entry of the dropout mask, if any."""
    threshold, scale = dropout_scale(rate)
    return f"a *= bits[i] >= {threshold} ? (T){scale!r} : (T)0;" if rate > 0 else ""


@lru_cache(KEPT)
def layer_forward(dtype: str, shape: Shape) -> str:
    """A ← f(V + b) ∘ mask; V ← f(V + b), or V + b where the slope is written in that.

    Where A does not lie apart, V is f(V + b) in any case.
    """
    (z,) = leaves("z", dtype=dtype)
    lines = elementwise({"T a": trace(shape.activation.f, z)})
    seen = "a" if shape.activation.slope_of == "A" or not shape.apart else "z"
    output = f"{_kept(shape.rate)} A[i] = a;" if shape.apart else ""
    return f"""
{_arguments("T *V, T *A, const T *b, const unsigned short *bits, I n, I m")}
  for (I r = FROM(n); r < UNTIL(n); r++) {{
    const T bias = b[r];
    #pragma omp simd
    for (I i = r * m; i < (r + 1) * m; i++) {{
      const T z = V[i] + bias;
      {lines}
      V[i] = {seen}; {output}
    }}
  }}"""


@lru_cache(KEPT)
def layer_backward(dtype: str, shape: Shape) -> str:
    """δ ← δ ∘ mask ∘ f', in its place, and the bias's gradient Σ δ."""
    (v,) = leaves("v", dtype=dtype)
    lines = elementwise({"const T slope": trace(shape.activation.slope, v)})
    return f"""
{_arguments("T *delta, const T *V, T *db, const unsigned short *bits, I n, I m")}
  for (I r = FROM(n); r < UNTIL(n); r++) {{
    T sum = 0;
    #pragma omp simd reduction(+:sum)
    for (I i = r * m; i < (r + 1) * m; i++) {{
      const T v = V[i];
      {lines}
      T a = delta[i];
      {_kept(shape.rate)}
      a *= slope;
      delta[i] = a;
      sum += a;
    }}
    db[r] = sum;
  }}"""


class _Columns:
    """Loops over COLUMNS examples at once, for formulas with sums over the units.

    read    declares what the formula's leaves are, for unit r of example j
    arrays  the sums of each example, in the cache
    body    the statements so far
    """

    def __init__(self, roots: Sequence[Value], read: str) -> None:
        self.read, self.writer = read, Writer()
        self.arrays, self.body = list[str](), list[str]()
        for number, level in enumerate(reductions(roots)):
            self._reduce(number, level)

    def _reduce(self, number: int, level: Sequence[Value]) -> None:
        """The sums that depend on those before alone."""
        loop, lines, begin = self.writer.inner(), [self.read], list[str]()
        for place, reduction in enumerate(level):
            name = f"part{number}_{place}"
            start, combine = REDUCTIONS[reduction.reduction or "sum"]
            self.arrays.append(f"T {name}[{COLUMNS}];")
            begin.append(f"{name}[j - from] = {start};")
            found = loop.write(reduction.arguments[0], lines)
            lines.append(f"const T sofar{place} = {name}[j - from];")
            lines.append(f"{name}[j - from] = {combine.format(f'sofar{place}', found)};")
            self.writer.names[reduction] = f"{name}[j - from]"
        self._over_examples(begin)
        self._over_units(lines)

    def assign(self, target: str, value: Value, factor: str = "", *, units: bool) -> None:
        """target = factor value for every example, or every unit of every example."""
        lines = [self.read] if units else []
        result = self.writer.inner().write(value, lines)
        lines.append(f"{target} = {factor}{result};")
        (self._over_units if units else self._over_examples)(lines)

    def _over_examples(self, lines: Sequence[str]) -> None:
        self.body += ["    #pragma omp simd", "    for (I j = from; j < until; j++) {"]
        self.body += [*(f"      {line}" for line in lines), "    }"]

    def _over_units(self, lines: Sequence[str]) -> None:
        self.body.append("    for (I r = 0; r < n; r++) {")
        self._over_examples(lines)
        self.body.append("    }")

    def text(self, arguments: str) -> str:
        """The kernel's body."""
        inside = "\n".join(self.body)
        return f"""
{_arguments(arguments)}
  {" ".join(self.arrays)}
  for (I from = FROM(m); from < UNTIL(m); from += {COLUMNS}) {{
    const I until = from + {COLUMNS} < UNTIL(m) ? from + {COLUMNS} : UNTIL(m);
{inside}
  }}"""


@lru_cache(KEPT)
def score(dtype: str, loss: Loss, labelled: bool, weighted: bool, smoothing: float) -> str:
    """δ = share · ∂ℓ/∂S and share · ℓ of every example, from S = W A and the last bias."""
    value, delta = traced_loss(loss, smoothing, dtype)
    target = "(T)(labels[j] == r)" if labelled else "targets[j * n + r]"
    loops = _Columns([value, delta], f"const T s = S[r * m + j] + b[r], t = {target};")
    total = "(*weight > (T)0 ? *weight : (T)1)"
    share = f"weights[j] / {total} * " if weighted else "(T)1 / m * "
    loops.assign("values[j]", value, share, units=False)
    loops.assign("delta[r * m + j]", delta, share, units=True)
    kind = "const I *labels" if labelled else "const T *targets"
    rest = "const T *weights, const T *weight, T *delta, T *values, I n, I m"
    return loops.text(f"const T *S, const T *b, {kind}, {rest}")


@lru_cache(KEPT)
def predict(dtype: str, loss: Loss) -> str:
    """What the scores S = W A + b stand for."""
    (s,) = leaves("s", dtype=dtype)
    (value,) = merged(trace(loss.predict, s))
    loops = _Columns([value], "const T s = S[r * m + j] + b[r];")
    loops.assign("P[r * m + j]", value, units=True)
    return loops.text("const T *S, const T *b, T *P, I n, I m")


def totals() -> str:
    """The last bias's gradient Σ δ over the examples, and J = Σ share · ℓ."""
    return f"""
{_arguments("const T *delta, const T *values, T *db, T *J, I n, I m")}
  for (I r = 0; r <= n; r++) {{
    const T *row = r < n ? delta + r * m : values;
    T sum = 0;
    #pragma omp simd reduction(+:sum)
    for (I j = 0; j < m; j++) sum += row[j];
    *(r < n ? db + r : J) = sum;
  }}"""


@lru_cache(KEPT)
def update(dtype: str, optimizer: Optimizer, l2: float, l2_shared: bool) -> str:
    """The optimiser's formula on the flat vectors, with L2 and decay of the weights.

    Each part leaves its sum of squared weights for `penalty`.
    """
    n_scalars, n_moments = len(optimizer.scalars(1.0, 1)), optimizer.n_moments
    if n_scalars + n_moments > 6:
        raise Untraceable("an optimiser has more moments and scalars than a call has words")
    old, gradient, *rest = leaves("x", "y", *(f"moment{i}" for i in range(n_moments)), dtype=dtype)
    scalars: list[Any] = leaves(*(f"scalar{i}" for i in range(n_scalars)), dtype=dtype)
    new, moments = trace(lambda xp: optimizer.update(xp, old, gradient, tuple(rest), *scalars))
    if len(moments) != n_moments:
        raise Untraceable("an optimiser returns other moments than it takes")
    outputs = {"theta[i]": new}
    outputs |= {f"moments{i}[i]": moment for i, moment in enumerate(moments)}
    lines = "\n      ".join(
        [
            *(f"const T moment{i} = moments{i}[i];" for i in range(n_moments)),
            *elementwise(outputs).splitlines(),
        ]
    )
    decay = "x *= *kept;" if optimizer.weight_decay > 0 else ""
    pulled = "y += penalty * x; sum += x * x;" if l2 > 0 else ""
    names = "".join(f", T *moments{i}" for i in range(n_moments))
    names += "".join(f", const T *at{i}" for i in range(n_scalars))
    known = "T *theta, const T *g, I size, I n_weights, const T *weight, T *squares, const T *kept"
    return f"""
{_arguments(known + names)}
  {" ".join(f"const T scalar{i} = *at{i};" for i in range(n_scalars))}
  const I from = FROM(size), until = UNTIL(size), middle = n_weights < until ? n_weights : until;
  const T penalty = (T){float(l2)!r}{" / *weight" if l2_shared else ""};
  T sum = 0;
  #pragma omp simd reduction(+:sum)
  for (I i = from; i < middle; i++) {{
      T x = theta[i], y = g[i];
      {pulled} {decay}
      {lines}
  }}
  #pragma omp simd
  for (I i = middle > from ? middle : from; i < until; i++) {{
      const T x = theta[i], y = g[i];
      {lines}
  }}
  squares[part] = (T)0.5 * penalty * sum;
  if (part == 0) for (I i = parts; i < {MOST_PARTS}; i++) squares[i] = 0;"""


def penalty() -> str:
    """J ← J + the parts of ½ l2 Σ W² that `update` left."""
    return f"""
{_arguments("T *J, const T *squares")}
  for (I i = 0; i < {MOST_PARTS}; i++) *J += squares[i];"""
