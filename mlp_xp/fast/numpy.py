"""The training step on NumPy, in place.

A step is a list of NumPy calls on buffers made once, for a given batch size: no
allocation, no decision and next to no Python is left in it. Every call stands for a line
of `kernels` and follows its formula. It is faster because

- nothing is allocated: fresh pages cost more than the arithmetic on them;
- gradients are written where the update reads them, in one flat vector;
- sums over examples are products with a vector of ones, four times as fast in BLAS as a
  reduction in NumPy;
- what depends on the batch size or the architecture was decided when the list was made.

The arrays of the state a step is given become those of the state it returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..activations import ACTIVATIONS, Activation
from ..devices import Device
from ..kernels import EPSILON, dropout_scale
from ..losses import LOSSES, Loss
from ..network import RUNNING_SHARE, split
from ..optimizers import SGD, Adam, AdamW, Momentum, Nesterov, Optimizer
from ..training import Data, Recipe
from ..types import Layer, State
from . import gate

Buffer = npt.NDArray[Any]


BLOCK = 1 << 14  # parameters at once where a temporary is needed


class Arena:
    """Memory that all programs of a step share, as only one of them runs at a time.

    Each takes its buffers from the beginning; for a smaller batch they are smaller parts of
    the same memory.
    """

    def __init__(self) -> None:
        self.blocks: list[npt.NDArray[np.uint8]] = []
        self.taken = 0

    def take(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        """The next buffer, with whatever was left in it."""
        dtype = np.dtype(dtype)
        size, place = math.prod(shape) * dtype.itemsize, self.taken
        self.taken += 1
        if place == len(self.blocks):
            self.blocks.append(np.empty(size, np.uint8))
        elif self.blocks[place].size < size:
            self.blocks[place] = np.empty(size, np.uint8)
        buffer: Buffer = self.blocks[place][:size].view(dtype).reshape(shape)
        return buffer


class Tape:
    """NumPy calls on fixed buffers, in the order they are made."""

    def __init__(self, arena: Arena, dtype: Any, leading: tuple[int, ...]) -> None:
        self.arena, self.dtype, self.leading = arena, np.dtype(dtype), leading
        self.calls: list[Callable[[], object]] = []
        self.ones: dict[tuple[int, float], Buffer] = {}
        self.block: Buffer | None = None

    def buffer(self, *shape: int, dtype: Any = None) -> Buffer:
        """Room to compute in, (…, *shape)."""
        return self.arena.take((*self.leading, *shape), dtype or self.dtype)

    def like(self, array: Buffer, dtype: Any = None) -> Buffer:
        """Room of the shape of another buffer."""
        return self.arena.take(array.shape, dtype or self.dtype)

    def room(self, block: slice) -> Buffer:
        """Room for a block of parameters, the same memory for every block."""
        if self.block is None:
            self.block = self.buffer(BLOCK)
        return self.block[..., : block.stop - block.start]

    def constant(self, value: float) -> Buffer:
        """A number as NumPy takes it fastest: a 0-d array of the model's dtype."""
        return np.array(value, self.dtype)

    def add(self, call: Callable[[], object]) -> None:
        """Make this call in every step."""
        self.calls.append(call)

    def do(self, function: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Call function(*arguments, **options) in every step."""
        self.add(partial(function, *arguments, **options))

    def op(self, function: Callable[..., object], *arguments: Any) -> Buffer:
        """function(*arguments[:-1], out=arguments[-1])."""
        self.do(function, *arguments[:-1], out=arguments[-1])
        out: Buffer = arguments[-1]
        return out

    def assign(self, target: Buffer, formula: Callable[..., Any], *arguments: Any) -> Buffer:
        """target ← formula(np, *arguments): for formulas that have no calls of their own here."""
        self.add(lambda: np.copyto(target, formula(np, *arguments)))
        return target

    def product(self, A: Buffer, B: Buffer, out: Buffer) -> Buffer:
        """out ← A B."""
        return self.op(np.matmul, A, B, out)

    def finish(self) -> None:
        """All calls are known."""

    def total(self, array: Buffer, axis: int, out: Buffer, factor: float = 1.0) -> Buffer:
        """factor · Σ array along axis -1 or -2, kept as length 1."""
        n = array.shape[axis]
        ones = self.ones.setdefault((n, factor), np.full(n, factor, self.dtype))
        if axis == -1:
            return self.op(np.matmul, array, ones[:, None], out)
        return self.op(np.matmul, ones[None, :], array, out)


class Seen(NamedTuple):
    """Buffers of one hidden layer that the backward pass reads."""

    A_in: Buffer
    V: Buffer
    mask: Buffer | None
    N: Buffer | None
    inverse_deviation: Buffer | None


def _t(array: Buffer) -> Buffer:
    return np.swapaxes(array, -1, -2)


class Program:
    """A step's calls for one batch size, and the buffers that its inputs are put in."""

    def __init__(self, step: NumpyStep, m: int, shared: bool) -> None:
        recipe, leading = step.recipe, step.theta.shape[:-1]
        network = recipe.network
        self.read: Data | None = None  # data that the calls were pointed at
        self.step, self.m = step, m
        step.arena.taken = 0
        self.tape = tape = self._tape(step.arena, step.theta.dtype, leading)
        own = () if shared else leading  # one batch for all networks, or one each
        n_in, n_out = network.sizes[0], network.sizes[-1]
        self.rows = step.arena.take((*own, m, n_in), tape.dtype)
        self.labelled = step.data.targets.ndim == 1
        shape = (n_out, m) if self.labelled else (m, n_out)
        self.target_rows = step.arena.take((*own, *shape), tape.dtype)
        self.labels = step.arena.take((*own, m), np.int64)
        self.classes = recipe.classes[:, None]
        self.weighted = step.data.weights is not None
        self.weights = np.ones((*own, m), tape.dtype)
        self.weight = np.full((*own, 1), m, tape.dtype)  # of the whole batch
        self.share = np.full((*own, 1, m), 1 / m, tape.dtype)
        self.inputs = {"rows": self.rows, "targets": self.target_rows}
        if self.labelled:
            self.inputs["targets"] = self.labels
        if self.weighted:
            self.inputs["weights"] = self.weights
        self.bits = tape.buffer(network.n_dropped * m, dtype=np.uint16)
        self.loss = tape.buffer(1, 1)

        self._enter()
        if network.n_statistics > 0:
            tape.op(np.multiply, step.running, tape.constant(1 - RUNNING_SHARE), step.running)
        seen, A = self._forward(_t(self.rows))
        S = tape.product(step.layers[-1].W, A, tape.buffer(n_out, m))
        delta = self._score(S)
        self._backward(seen, A, delta)
        self._update()
        tape.finish()

    def _tape(self, *arguments: Any) -> Tape:
        return Tape(*arguments)

    def take(self, index: Buffer) -> None:
        """Put the examples at `index` where the calls read them."""
        for name in self.inputs:
            self._take(name, index)
        if self.labelled:
            np.equal(self.labels[..., None, :], self.classes, out=self.target_rows)

    def _take(self, name: str, index: Buffer) -> None:
        """The rows, targets or weights of the examples at `index`."""
        source, buffer = getattr(self.step.data, name), self.inputs[name]
        if hasattr(source, "toarray"):  # sparse rows: only the batch is made dense
            np.copyto(buffer, source[index].toarray())
        else:
            np.take(source, index, axis=0, out=buffer, mode="clip")

    def _enter(self) -> None:
        """share = weights / Σ weights."""
        if not self.weighted:
            return
        tape, tiny = self.tape, self.tape.constant(float(np.finfo(self.tape.dtype).tiny))
        tape.do(np.add.reduce, self.weights, axis=-1, keepdims=True, out=self.weight)
        safe = np.empty_like(self.weight)
        tape.op(np.maximum, self.weight, tiny, safe)
        tape.op(np.divide, self.weights, safe, self.share[..., 0, :])

    def _forward(self, X: Buffer) -> tuple[list[Seen], Buffer]:
        step, tape, m = self.step, self.tape, self.m
        network, start, dropped, A = step.recipe.network, 0, 0, X
        seen = []
        for i in range(network.n_hidden):
            layer, A_in, N, inverse = step.layers[i], A, None, None
            n, bits = network.sizes[i + 1], None
            Z = tape.product(layer.W, A_in, tape.buffer(n, m))
            if layer.gain is not None:
                N, inverse, mean, variance = self._normalise(Z)
                if network.normalization == "batch":
                    self._run(mean, variance, start)
                    start += 2 * n
                Z = tape.op(np.multiply, N, layer.gain, Z)
            if network.dropout[i] > 0:
                bits = self.bits[..., dropped : dropped + n * m].reshape(*tape.leading, n, m)
                dropped += n * m
            A, V, mask = self._layer(i, Z, bits)
            if network.residual:
                skip = tape.buffer(n, m)
                if layer.P is None:
                    A = tape.op(np.add, A, A_in, skip)
                else:
                    tape.product(layer.P, A_in, skip)
                    A = tape.op(np.add, skip, A, skip)
            seen.append(Seen(A_in, V, mask, N, inverse))
        return seen, A

    def _layer(
        self, i: int, Z: Buffer, bits: Buffer | None
    ) -> tuple[Buffer, Buffer, Buffer | None]:
        """A = f(Z + b) ∘ mask; what the slope is written in; the mask."""
        tape, activation = self.tape, self.step.recipe.network.activations[i]
        tape.op(np.add, Z, self.step.layers[i].b, Z)
        A = H = self._activate(activation, Z)
        mask = None
        if bits is not None:
            mask = self._mask(self.step.recipe.network.dropout[i], bits)
            A = tape.op(np.multiply, H, mask, tape.like(H))
        return A, H if activation.slope_of == "A" else Z, mask

    def _normalise(self, S: Buffer) -> tuple[Buffer, Buffer, Buffer, Buffer]:
        """N, 1 / √(variance + ε), mean and variance of S."""
        tape, axis = self.tape, self.step.axis
        n, factor = S.shape[-2], 1 / S.shape[axis]
        shape = (n, 1) if axis == -1 else (1, self.m)
        mean, variance, inverse = (tape.buffer(*shape) for _ in range(3))
        N, square = tape.buffer(n, self.m), tape.buffer(n, self.m)
        tape.total(S, axis, mean, factor)
        tape.op(np.subtract, S, mean, N)
        tape.op(np.multiply, N, N, square)
        tape.total(square, axis, variance, factor)
        tape.op(np.add, variance, tape.constant(EPSILON), inverse)
        tape.op(np.sqrt, inverse, inverse)
        tape.op(np.divide, tape.constant(1), inverse, inverse)
        tape.op(np.multiply, N, inverse, N)
        return N, inverse, mean, variance

    def _run(self, mean: Buffer, variance: Buffer, start: int) -> None:
        """Add a share of the batch's moments to the running ones, already shrunk."""
        tape, n, unbiased = self.tape, mean.shape[-2], self.m / max(self.m - 1, 1)
        factors = (RUNNING_SHARE, RUNNING_SHARE * unbiased)
        for k, (moment, factor) in enumerate(zip((mean, variance), factors, strict=True)):
            part = self.step.running[..., start + k * n : start + (k + 1) * n]
            scaled = tape.op(np.multiply, moment, tape.constant(factor), tape.buffer(n, 1))
            tape.op(np.add, part, scaled[..., 0], part)

    def _mask(self, rate: float, bits: Buffer) -> Buffer:
        tape, (threshold, scale) = self.tape, dropout_scale(rate)
        mask = tape.op(np.greater_equal, bits, np.uint16(threshold), tape.like(bits, tape.dtype))
        return tape.op(np.multiply, mask, tape.constant(scale), mask)

    def _activate(self, activation: Activation, Z: Buffer) -> Buffer:
        """H = f(Z), in the place of Z where the slope needs only H."""
        tape = self.tape
        if activation is ACTIVATIONS["identity"]:
            return Z
        H = Z if activation.slope_of == "A" else tape.like(Z)
        if activation is ACTIVATIONS["relu"]:
            return tape.op(np.maximum, Z, tape.constant(0), H)
        if activation is ACTIVATIONS["tanh"]:
            return tape.op(np.tanh, Z, H)
        return tape.assign(H, activation.f, Z)

    def _through(self, i: int, dA: Buffer, seen: Seen) -> Buffer:
        """δ = dA ∘ mask ∘ f', in the place of dA, and its sums, the bias's gradient."""
        tape, activation, V = self.tape, self.step.recipe.network.activations[i], seen.V
        if seen.mask is not None:
            tape.op(np.multiply, dA, seen.mask, dA)
        if activation is ACTIVATIONS["relu"]:
            positive = tape.op(np.greater, V, tape.constant(0), tape.like(V, bool))
            tape.op(np.multiply, dA, positive, dA)
        elif activation is not ACTIVATIONS["identity"]:
            slope = tape.like(V)
            if activation is ACTIVATIONS["tanh"]:
                tape.op(np.multiply, V, V, slope)
                tape.op(np.subtract, tape.constant(1), slope, slope)
            else:
                tape.assign(slope, activation.slope, V)
            tape.op(np.multiply, dA, slope, dA)
        tape.total(dA, -1, self.step.gradients[i].b)
        return dA

    def _targets(self) -> Buffer:
        """T, smoothed, as columns."""
        recipe, tape = self.step.recipe, self.tape
        T = self.target_rows if self.labelled else _t(self.target_rows)
        if recipe.label_smoothing > 0:
            n = T.shape[-2] if recipe.loss.kind == "multiclass" else 2
            tape.op(np.multiply, T, tape.constant(1 - recipe.label_smoothing), T)
            tape.op(np.add, T, tape.constant(recipe.label_smoothing / n), T)
        return T

    def _score(self, S: Buffer) -> Buffer:
        """δ = ∂J/∂S from S less the last bias, whose gradient it leaves; J in `self.loss`."""
        tape, loss, m = self.tape, self.step.recipe.loss, self.m
        tape.op(np.add, S, self.step.layers[-1].b, S)
        T = self._targets()
        delta, values = tape.like(S), tape.buffer(1, m)
        reported, loss = loss, _descended(loss)
        if loss is LOSSES["cross_entropy"]:
            total, product = tape.buffer(1, m), tape.like(S)
            tape.do(np.maximum.reduce, S, axis=-2, keepdims=True, out=total)
            tape.op(np.subtract, S, total, S)
            tape.op(np.exp, S, delta)
            tape.total(delta, -2, total)
            tape.op(np.divide, delta, total, delta)
            tape.op(np.subtract, delta, T, delta)
            tape.op(np.multiply, T, S, product)
            tape.total(product, -2, values)
            tape.op(np.log, total, total)
            tape.op(np.subtract, total, values, values)
        elif loss is LOSSES["squared_error"]:
            tape.op(np.subtract, S, T, delta)
            square = tape.op(np.multiply, delta, delta, tape.like(S))
            tape.total(square, -2, values, 0.5)
        elif loss in (LOSSES["binary_cross_entropy"], LOSSES["multilabel"]):
            e, part, zero = tape.like(S), tape.like(S), tape.constant(0)
            tape.op(np.absolute, S, e)
            tape.op(np.negative, e, e)
            tape.op(np.exp, e, e)
            tape.op(np.greater_equal, S, zero, delta)
            tape.op(np.maximum, e, delta, delta)  # 1 where s ≥ 0, else e^s
            tape.op(np.multiply, S, T, part)
            tape.op(np.maximum, S, zero, S)
            tape.op(np.subtract, S, part, S)
            tape.op(np.log1p, e, part)
            tape.op(np.add, S, part, S)
            tape.total(S, -2, values)
            tape.op(np.add, e, tape.constant(1), e)
            tape.op(np.divide, delta, e, delta)
            tape.op(np.subtract, delta, T, delta)
        else:
            tape.assign(values[..., 0, :], loss.value, S, T)
            tape.assign(delta, loss.delta, S, T)
        if loss is not reported and reported.report is not None:
            tape.assign(values, reported.report, values)
        tape.op(np.multiply, delta, self.share, delta)
        tape.op(np.matmul, values, _t(self.share), self.loss)
        tape.total(delta, -1, self.step.gradients[-1].b)
        return delta

    def _backward(self, seen: list[Seen], A: Buffer, delta: Buffer) -> None:
        step, tape, m = self.step, self.tape, self.m
        network = step.recipe.network
        tape.product(delta, _t(A), step.gradients[-1].W)
        dS, skipped = delta, None
        for i in reversed(range(network.n_hidden)):
            n, layer, g = network.sizes[i + 1], step.layers[i], step.gradients[i]
            A_in, _, _, N, inverse = seen[i]
            dA = tape.product(_t(step.layers[i + 1].W), dS, tape.buffer(n, m))
            if skipped is not None:
                tape.op(np.add, dA, skipped, dA)
            skipped = None
            if network.residual:
                if layer.P is not None and g.P is not None:
                    tape.product(dA, _t(A_in), g.P)
                if i > 0:
                    skipped = tape.buffer(network.sizes[i], m)
                    if layer.P is None:
                        tape.do(np.copyto, skipped, dA)
                    else:
                        tape.product(_t(layer.P), dA, skipped)
            dS = self._through(i, dA, seen[i])
            if N is not None:
                self._normalise_gradient(dS, layer, g, N, inverse)
            tape.product(dS, _t(A_in), g.W)

    def _normalise_gradient(
        self, delta: Buffer, layer: Layer, g: Layer, N: Buffer, inverse: Buffer | None
    ) -> None:
        """δ ← ∂J/∂S, in its place."""
        tape, axis = self.tape, self.step.axis
        assert inverse is not None
        mean, mean_N, product = tape.like(inverse), tape.like(inverse), tape.like(N)
        tape.op(np.multiply, delta, N, product)
        tape.op(np.matmul, product, np.ones((self.m, 1), tape.dtype), g.gain)
        tape.op(np.multiply, delta, layer.gain, delta)
        tape.total(delta, axis, mean, 1 / delta.shape[axis])
        tape.op(np.multiply, delta, N, product)
        tape.total(product, axis, mean_N, 1 / delta.shape[axis])
        tape.op(np.multiply, N, mean_N, product)
        tape.op(np.subtract, delta, mean, delta)
        tape.op(np.subtract, delta, product, delta)
        tape.op(np.multiply, delta, inverse, delta)

    def _update(self) -> None:
        """The optimiser's formula on theta and the moments; the gradient is scratch from here."""
        self._regularise()
        step, tape = self.step, self.tape
        optimizer, n = step.recipe.optimizer, step.recipe.network.n_weights
        if optimizer.weight_decay > 0:
            W = step.theta[..., :n]
            tape.op(np.multiply, W, step.kept, W)
        update = UPDATES.get(type(optimizer))
        if update is not None:
            update(tape, optimizer, step.theta, step.g, step.moments, step.scalars)
            return

        def formula() -> None:
            scalars: tuple[Any, ...] = step.scalars
            theta, moments = optimizer.update(np, step.theta, step.g, step.moments, *scalars)
            np.copyto(step.theta, theta)
            for mine, new in zip(step.moments, moments, strict=True):
                np.copyto(mine, new)

        tape.do(formula)

    def _regularise(self) -> None:
        """L2, absent connections and clipping, in the flat gradient."""
        step, tape, recipe = self.step, self.tape, self.step.recipe
        g, n = step.g, recipe.network.n_weights
        if recipe.l2 > 0:
            l2 = np.full_like(self.weight, recipe.l2)
            if recipe.l2_shared:
                tape.op(np.divide, tape.constant(recipe.l2), self.weight, l2)
            W = step.theta[..., :n]
            for start in range(0, n, BLOCK):  # through room that stays in the cache
                block = slice(start, min(start + BLOCK, n))
                part = tape.op(np.multiply, W[..., block], l2, tape.room(block))
                tape.op(np.add, g[..., block], part, g[..., block])
            square = tape.op(np.matmul, W[..., None, :], W[..., :, None], tape.buffer(1, 1))
            tape.op(np.multiply, square, tape.constant(0.5), square)
            tape.op(np.multiply, square, l2[..., None], square)
            tape.op(np.add, self.loss, square, self.loss)
        if recipe.connected is not None:
            tape.op(np.multiply, g, recipe.connected, g)
        if recipe.clip_value is not None:
            tape.op(np.minimum, g, tape.constant(recipe.clip_value), g)
            tape.op(np.maximum, g, tape.constant(-recipe.clip_value), g)
        if recipe.clip_norm is not None:
            limit, square = tape.constant(recipe.clip_norm), tape.buffer(1, 1)
            tape.op(np.matmul, g[..., None, :], g[..., :, None], square)
            norm = tape.op(np.sqrt, square[..., 0], tape.buffer(1))
            tape.op(np.maximum, norm, limit, norm)
            tape.op(np.divide, limit, norm, norm)
            tape.op(np.multiply, g, norm, g)


def _descended(loss: Loss) -> Loss:
    """The table's row of which a loss only reports the values in another way; else itself."""
    if loss.report is None:
        return loss
    return next((row for row in LOSSES.values() if row.delta is loss.delta), loss)


def _sgd(tape: Tape, optimizer: Any, theta: Buffer, g: Buffer, moments: Any, scalars: Any) -> None:
    tape.op(np.multiply, g, scalars[0], g)
    tape.op(np.subtract, theta, g, theta)


def _momentum(
    tape: Tape, optimizer: Any, theta: Buffer, g: Buffer, moments: Any, scalars: Any
) -> None:
    (v,), mu = moments, tape.constant(optimizer.momentum)
    tape.op(np.multiply, v, mu, v)
    tape.op(np.multiply, g, scalars[0], g)
    tape.op(np.subtract, v, g, v)
    if isinstance(optimizer, Nesterov):
        tape.op(np.subtract, theta, g, theta)
        v = tape.op(np.multiply, v, mu, g)
    tape.op(np.add, theta, v, theta)


def _adam(tape: Tape, optimizer: Any, theta: Buffer, g: Buffer, moments: Any, scalars: Any) -> None:
    (m, s), (a, epsilon) = moments, scalars
    tape.op(np.multiply, m, tape.constant(optimizer.beta1), m)
    tape.op(np.add, m, g, m)
    tape.op(np.multiply, g, g, g)
    tape.op(np.multiply, s, tape.constant(optimizer.beta2), s)
    tape.op(np.add, s, g, s)
    tape.op(np.sqrt, s, g)
    tape.op(np.add, g, epsilon, g)
    tape.op(np.divide, m, g, g)
    tape.op(np.multiply, g, a, g)
    tape.op(np.subtract, theta, g, theta)


UPDATES: dict[type[Optimizer], Callable[..., None]] = {
    SGD: _sgd,
    Momentum: _momentum,
    Nesterov: _momentum,
    Adam: _adam,
    AdamW: _adam,
}


def _own(array: Buffer) -> Buffer:
    """The array itself where it may be written to, else a copy."""
    return np.require(array, requirements=["C", "W"])


class NumpyStep:
    """A `training.Step`: one program for every batch size that comes.

    theta, moments, running  the first state's arrays, updated in place
    g                        (…, n_parameters), with `gradients` its views by layer
    """

    def __init__(self, recipe: Recipe, data: Data) -> None:
        self.programs: dict[tuple[int, bool], Program] = {}
        self.recipe, self.data = recipe, data
        self.axis = -1 if recipe.network.normalization == "batch" else -2
        self.theta = np.zeros(0)

    @property
    def data(self) -> Data:
        """The examples; others of the same kind may replace them, and they are let go."""
        return self._data

    @data.setter
    def data(self, data: Data) -> None:
        self._data = data
        for program in self.programs.values():
            program.read = None

    def _begin(self, state: State) -> None:
        """Make the buffers that do not depend on the batch."""
        network = self.recipe.network
        self.theta, self.running = _own(state.theta), _own(state.running)
        self.moments = tuple(map(_own, state.moments))
        self.arena = Arena()
        self.g = np.zeros_like(self.theta)
        self.layers = split(network, np, self.theta)
        self.gradients = split(network, np, self.g)
        leading = self.theta.shape[:-1]
        shape = (*leading, 1) if leading else ()
        n = len(self.recipe.optimizer.scalars(1.0, 1))
        self.scalars = tuple(np.zeros(shape, self.theta.dtype) for _ in range(n))
        self.kept = np.zeros(shape, self.theta.dtype)

    def program(self, m: int, shared: bool) -> Program:
        """The calls for batches of m, the same for all networks or one each."""
        return Program(self, m, shared)

    def _adopt(self, state: State) -> None:
        """Take over a state that is not the one returned last."""
        if not self.programs:
            self._begin(state)
            return
        mine = (self.theta, self.running, *self.moments)
        for target, source in zip(mine, (state.theta, state.running, *state.moments), strict=True):
            np.copyto(target, source)

    def __call__(self, state: State, index: Buffer, bits: Buffer | None, rate: Any) -> State:
        if state.theta is not self.theta:
            self._adopt(state)
        m, shared = index.shape[-1], index.ndim == 1
        program = self.programs.get((m, shared))
        if program is None:
            program = self.programs[m, shared] = self.program(m, shared)
        program.take(index)
        if bits is not None:
            np.copyto(program.bits, bits)
        optimizer, step = self.recipe.optimizer, state.step + 1
        for target, scalar in zip(self.scalars, optimizer.scalars(rate, step), strict=True):
            target[...] = scalar
        if optimizer.weight_decay > 0:
            self.kept[...] = 1 - rate * optimizer.weight_decay
        for call in program.tape.calls:
            call()
        loss = program.loss[..., 0, 0].copy()
        return State(self.theta, self.moments, self.running, step, loss)


def stepper(recipe: Recipe, device: Device, data: Data) -> NumpyStep | None:
    """A step of NumPy's calls; None for what the gate does not let through.

    At another precision than float32 the rounding is the specification's alone.
    """
    if recipe.precision != "float32" or not gate.takes(gate.READ, recipe, data):
        return None
    return NumpyStep(recipe, data)
