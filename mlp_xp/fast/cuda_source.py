"""CUDA source of every kernel of a training step; needs no CuPy and no device.

One kernel stands for a whole part of a layer, because a small network's step is bound by
the number of launches. The formulas in them are those of the tables, through `tracing`;
only the loops and the sums round them are written here.

Buffers are C-ordered (n, m): unit r, example j at r · m + j; blockIdx.y is the network.
Parameters lie `stride` apart from one network to the next. Sums run in an order that
depends on the shapes alone, so that a step gives the same bits every time.

What changes from step to step is read from device memory, the inbox, so that a captured
step can be replayed:

    order     pointer to the examples' order, int64, and `pitch` between networks
    table     pointer to a row of scalars for each step of the epoch
    losses    pointer to where each step's loss goes
    start     first example of this step's batch in the order
    row       number of this step in the epoch
    step      updates done over the life of the model
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from ..activations import ACTIVATIONS, Activation
from ..draws import Purpose
from ..kernels import EPSILON, PRECISIONS, SPEC
from ..losses import LOSSES
from ..optimizers import OPTIMIZERS
from ..types import Array, Namespace
from .cuda_layers import SPAN, Shape, layer_backward, layer_forward, layer_norm_backward
from .cuda_loss import forecast, score, totals
from .cuda_measure import NUMBERS, explained, measure, measured
from .cuda_precision import as_bfloat16, rounding
from .cuda_text import COLUMNS, EACH, MOVE_ON, ROWS, Source, joined, source
from .cuda_tiles import TILES, WIDEST, Lies, Tile, multiply
from .cuda_update import PIECE, Regularised, close, gradients, n_scalars, regularise, update
from .tracing import elementwise, leaves, trace

INBOX = ("order", "pitch", "table", "losses", "start", "row", "step")
MAX_SCALARS = 8

# -- the batch ---------------------------------------------------------------


def gather(dtype: str) -> Source:
    """m of the batch's examples, from its `first`, as columns (n, m); a block turns 32 of 32
    features. All blocks of a network lie along x, where there may be 2³¹; elsewhere 65535."""
    body = """
  __shared__ T turned[32][33];
  const unsigned across = (n + 31) / 32, block = blockIdx.x;
  const I k = blockIdx.y, i0 = block % across * (I)32, j0 = block / across * (I)32;
  const int x = threadIdx.x % 32, y = threadIdx.x / 32;
  const I* const order = (const I*)inbox->order + k * inbox->pitch + inbox->start + first;
  for (int q = y; q < 32; q += blockDim.x / 32)
    if (j0 + q < m && i0 + x < n) turned[q][x] = rows[order[j0 + q] * n + i0 + x];
  __syncthreads();
  for (int q = y; q < 32; q += blockDim.x / 32)
    if (i0 + q < n && j0 + x < m) X[(k * n + i0 + q) * m + j0 + x] = turned[x][q];"""
    return source(
        "gather", dtype, "T* X, const T* rows, const Inbox* inbox, I first, I n, I m", body
    )


def weigh(dtype: str) -> Source:
    """The total weight of the batch; one block a network."""
    body = """
  __shared__ T scratch[256];
  const I k = blockIdx.y;
  const I* const order = (const I*)inbox->order + k * inbox->pitch + inbox->start;
  T sum = 0;
  for (I j = threadIdx.x; j < m; j += blockDim.x) sum += weights[order[j]];
  sum = total(sum, scratch);
  if (threadIdx.x == 0) weight[k] = sum;"""
    return source("weigh", dtype, "const T* weights, const Inbox* inbox, T* weight, I m", body)


def draw_bits(dtype: str) -> Source:
    """16-bit integers of `draws.dropout_bits`; a thread draws a Philox block, 16 of them.

    Salmon et al. 2011, §4.3. NumPy counts up before the first block.
    """
    body = f"""
  const I k = blockIdx.y, i = blockIdx.x * (I)blockDim.x + threadIdx.x;
  if (16 * i >= size) return;
  U c0 = i + 1, c1 = 0, c2 = step < 0 ? inbox->step : step, c3 = 0;
  U k0 = seeds[k], k1 = {int(Purpose.DROPOUT)};
  for (int round = 0; round < 10; round++) {{
    const U a = 0xD2E7470EE14C6C93ULL, b = 0xCA5A826395121157ULL;
    const U high0 = __umul64hi(a, c0), low0 = a * c0, high1 = __umul64hi(b, c2), low1 = b * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B97F4A7C15ULL;
    k1 += 0xBB67AE8584CAA73BULL;
  }}
  const U words[4] = {{c0, c1, c2, c3}};
  for (int n = 0; n < 16; n++)
    if (16 * i + n < size)
      out[k * size + 16 * i + n] = (unsigned short)(words[n / 4] >> (16 * (n % 4)));"""
    parameters = "unsigned short* out, const U* seeds, const Inbox* inbox, I step, I size"
    return source("draw_bits", dtype, parameters, body)


def take_batch(dtype: str, labelled: bool) -> Source:
    """Targets and weights of m of the batch's examples, from its `first`, and the step's scalars,
    (n, networks)."""
    kind = "I" if labelled else "T"
    body = f"""
  const I k = blockIdx.y, e = blockIdx.x * (I)blockDim.x + threadIdx.x;
  const I* const order = (const I*)inbox->order + k * inbox->pitch + inbox->start + first;
  const {kind}* const there = (const {kind}*)all_targets;
  if (e < m * width)
    (({kind}*)targets)[k * m * width + e] = there[order[e / width] * width + e % width];
  if (all_weights && e < m) weights[k * m + e] = all_weights[order[e]];
  const T* const table = (const T*)inbox->table + inbox->row * networks * n;
  if (k == 0 && e < networks * n) scalars[e] = table[e % networks * n + e / networks];"""
    parameters = (
        "const Inbox* inbox, I first, void* targets, const void* all_targets, I width, T* weights, "
        "const T* all_weights, T* scalars, I n, I networks, I m"
    )
    return source("take_batch", dtype, parameters, body)


def copied(dtype: str) -> Source:
    """Another array's entries."""
    return source("copied", dtype, "T* to, const T* from, I size", EACH + "  to[i] = from[i];")


# -- the inbox ---------------------------------------------------------------


def announce(dtype: str) -> Source:
    """Fill the inbox, from arguments: nothing is copied."""
    parameters = ", ".join(["Inbox* inbox", *(f"I {name}" for name in INBOX)])
    body = "\n".join(f"  inbox->{name} = {name};" for name in INBOX)
    return source("announce", dtype, parameters, body)


def set_scalars(dtype: str) -> Source:
    """A row of the table, from arguments."""
    names = [f"scalar{i}" for i in range(MAX_SCALARS)]
    parameters = ", ".join(["T* table", "I networks", "I count", *(f"double {n}" for n in names)])
    body = f"  const double given[] = {{{', '.join(names)}}};\n"
    body += "  for (I k = 0; k < networks; k++)\n"
    body += "    for (I i = 0; i < count; i++) table[k * count + i] = (T)given[i];"
    return source("set_scalars", dtype, parameters, body)


def end_step(dtype: str) -> Source:
    """The losses to their place; the inbox moves on. One block."""
    body = f"""
  T* const losses = (T*)inbox->losses + inbox->row * networks;
  for (I k = threadIdx.x; k < networks; k += blockDim.x) losses[k] = loss[k];
  __syncthreads();
  if (threadIdx.x == 0) {{
{MOVE_ON}  }}"""
    return source("end_step", dtype, "Inbox* inbox, const T* loss, I networks, I m", body)


# -- elementwise kernels of any layout, for CuPy's ElementwiseKernel ----------


class Fused(NamedTuple):
    """An elementwise kernel: CuPy adds loops, broadcasting and layouts."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    body: str

    def as_source(self, dtype: str) -> Source:
        """The same on contiguous arrays, for a compiler by itself."""
        arrays = [f"const T* all_{name}" for name in self.inputs]
        arrays += [f"T* all_{name}" for name in self.outputs]
        lines = [EACH, *(f"  const T {name} = all_{name}[i];" for name in self.inputs)]
        lines += [f"  T {name};" for name in self.outputs] + [self.body]
        lines += [f"  all_{name}[i] = {name};" for name in self.outputs]
        return source(self.name, dtype, ", ".join([*arrays, "I size"]), "\n".join(lines))


def fused(
    name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], formula: Any, dtype: str
) -> Fused:
    """Derived from a formula of as many arrays as there are inputs."""
    values = trace(formula, *leaves(*inputs, dtype=dtype))
    values = values if isinstance(values, tuple) else (values,)
    body = elementwise(dict(zip(outputs, values, strict=True)))
    return Fused(name, inputs, outputs, body)


def bias_activation(activation: Activation, dtype: str) -> Fused:
    """Z = S + b and H = f(Z); H alone where the slope is written in it."""

    def only(xp: Namespace, s: Array, b: Array) -> Array:
        return activation.f(xp, s + b)

    def both(xp: Namespace, s: Array, b: Array) -> tuple[Array, Array]:
        return s + b, activation.f(xp, s + b)

    if activation.slope_of == "A":
        return fused("bias_activation", ("s", "b"), ("h",), only, dtype)
    return fused("bias_activation", ("s", "b"), ("z", "h"), both, dtype)


def activate(activation: Activation, dtype: str) -> Fused:
    """H = f(Z)."""
    return fused("activate", ("z",), ("h",), activation.f, dtype)


def normalise_by(epsilon: float, dtype: str) -> Fused:
    """kernels.normalise_by."""

    def formula(xp: Namespace, *arrays: Array) -> Array:
        return SPEC.normalise_by(xp, *arrays, epsilon=epsilon)

    inputs = ("s", "gain", "b", "mean", "variance")
    return fused("normalise_by", inputs, ("z",), formula, dtype)


def rounded(digits: int, dtype: str) -> Fused:
    """kernels.rounded."""
    body = "unsigned bits = __float_as_uint(x);" + rounding(digits)
    return Fused("rounded", ("x",), ("y",), body + "\n  y = __uint_as_float(bits);")


# -- all of them -------------------------------------------------------------

NORMALIZATIONS = ("none", "batch", "layer")


def fixed(dtype: str) -> Iterator[Source]:
    """The kernels that depend on nothing but the dtype."""
    for function in (gather, weigh, draw_bits, layer_norm_backward, totals, announce):
        yield function(dtype)
    for function in (set_scalars, end_step, copied):
        yield function(dtype)
    yield from (take_batch(dtype, labelled) for labelled in (True, False))


def every_source(dtype: str) -> Iterator[Source]:
    """Each kernel for each row of the tables, with nothing and with everything beside it."""
    yield from fixed(dtype)
    for tile in TILES:
        for lies in get_args(Lies):
            yield multiply(dtype, tile, False, lies, False)
        yield multiply(dtype, tile, True, "columns", True)
        yield gradients(dtype, tile)
    for activation in ACTIVATIONS.values():
        for normalization in NORMALIZATIONS:
            for full in (False, True):
                rate = 0.1 if full else 0.0
                halves = full and dtype == "float32"
                shape = Shape(activation, normalization, rate, full, full, halves)
                yield layer_forward(dtype, shape)
                yield layer_backward(dtype, shape)
                if normalization == "none":
                    tiles = TILES if activation is ACTIVATIONS["relu"] else TILES[2:3]
                    for tile in tiles:
                        tile = tile._replace(together=(full, full))
                        yield layer_forward(dtype, shape, tile, "found" if full else "rows")
                        yield layer_backward(dtype, shape, tile, full, full)
        yield bias_activation(activation, dtype).as_source(dtype)
        yield activate(activation, dtype).as_source(dtype)
    yield normalise_by(EPSILON, dtype).as_source(dtype)
    if dtype == "float32":
        yield as_bfloat16(dtype)
        for precision in ("tf32", "bfloat16"):
            yield rounded(PRECISIONS[precision], dtype).as_source(dtype)
            tile = TILES[2]._replace(digits=PRECISIONS[precision])
            yield multiply(dtype, tile, False, "columns", False)
            yield score(dtype, LOSSES["cross_entropy"], True, False, 0.0, tile, shape)
    for loss in LOSSES.values():
        yield score(dtype, loss, False, False, 0.0)
        yield score(dtype, loss, loss.kind == "multiclass", True, 0.1)
        for tile in TILES[1:4] if loss.kind == "multiclass" else TILES[:1]:
            yield score(dtype, loss, loss.kind == "multiclass", True, 0.0, tile)
            below = Shape(ACTIVATIONS["relu"])
            yield score(dtype, loss, loss.kind == "multiclass", False, 0.0, tile, below)
        yield forecast(dtype, loss)
        for tile in TILES[1:4]:
            yield forecast(dtype, loss, tile)
        yield measure(dtype, loss, False, False)
        yield measure(dtype, loss, loss.kind == "multiclass", True)
        if loss.kind in NUMBERS:
            yield from (explained(dtype, loss, weighted) for weighted in (False, True))
    yield measured(dtype)
    nothing = Regularised()
    everything = Regularised(0.1, True, True, 1.0, 1.0)
    for what in (nothing, everything):
        yield regularise(dtype, what, what.any)
        yield close(dtype, what)
    for optimizer in OPTIMIZERS.values():
        yield update(dtype, optimizer(weight_decay=0.0), False)
        yield update(dtype, optimizer(weight_decay=0.1), True)
        for tile in TILES if optimizer is OPTIMIZERS["adam"] else TILES[2:3]:
            tile = tile._replace(together=(True, True))
            yield gradients(dtype, tile, optimizer(weight_decay=0.1))


__all__ = [
    "COLUMNS",
    "INBOX",
    "MAX_SCALARS",
    "PIECE",
    "ROWS",
    "SPAN",
    "TILES",
    "WIDEST",
    "Fused",
    "Lies",
    "Regularised",
    "Shape",
    "Source",
    "Tile",
    "activate",
    "announce",
    "as_bfloat16",
    "bias_activation",
    "close",
    "copied",
    "draw_bits",
    "end_step",
    "every_source",
    "forecast",
    "gather",
    "gradients",
    "joined",
    "layer_backward",
    "layer_forward",
    "layer_norm_backward",
    "multiply",
    "n_scalars",
    "normalise_by",
    "regularise",
    "rounded",
    "score",
    "set_scalars",
    "take_batch",
    "totals",
    "update",
    "weigh",
]
