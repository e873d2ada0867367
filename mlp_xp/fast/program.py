"""A training step on CuPy for one batch size: a list of launches on buffers made once.

Products that are small are kernels of ours, which take in what comes after them:
bias and activation, the loss, the slope, the update. Large ones are cuBLAS's, and what is
round them is a kernel of its own. What kernels stand for in the specification is written
beside them: a formula that cannot be traced, or a kernel that does not compile, leaves its
part of the step to that, with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import cupy
import numpy as np

from ..activations import ACTIVATIONS, Activation
from ..kernels import SPEC, unbiased
from ..losses import one_hot, smooth
from ..network import AXES, RUNNING_SHARE, split
from ..types import Array, Layer, Normalised
from . import cuda_source as cuda
from .launches import THREADS, Launch, Unless, blocks, row_threads, warn
from .products import Products, transposed
from .tracing import Untraceable

if TYPE_CHECKING:
    from .cupy import CupyStep

PARTS = 256  # blocks at most of a reduction over all parameters
CARRIED = 1 << 14  # multiplications that a block of the score may do for the layer below


class _Seen(NamedTuple):
    """Buffers of one hidden layer that the backward pass reads."""

    A_in: Array
    V: Array
    first: int  # of its dropout bits
    N: Array | None
    inverse: Array | None
    shape: cuda.Shape


class Program(Products):
    """A step's launches for one batch size.

    calls       in order; `run` makes them
    replayable  whether all are launches on fixed buffers, as a graph needs
    reads       what the launches read and write that others may replace
    graphs      a place for `fast.graph`
    """

    def __init__(self, step: CupyStep, m: int, shared: bool) -> None:
        super().__init__(step, m, shared)
        self.network = step.recipe.network
        self.replayable, self.graphs = True, dict[int, Any]()
        self.reads = step.buffers()
        own = () if shared else step.leading
        self.labelled = step.data.targets.ndim == 1
        weighted = step.data.weights is not None
        self.weight = cupy.empty((*own, 1), self.dtype) if weighted else None
        self.drawn = self.network.n_dropped * m
        self.bits = self.buffer(self.drawn, dtype=np.uint16)
        self.parts, self.n_parts = cupy.zeros(1, self.dtype), 0
        self.carried: Array | None = None  # δ of the last hidden layer, where the score gives it

        self.gathered = self._gather(own)
        seen, A = self._forward(self.X)
        delta = self._score(seen, A)
        self._backward(seen, A, delta)
        if not self._finished():
            self._close()
            self._update()

    @staticmethod
    def prepare(step: CupyStep) -> None:
        """Layers and gradients as views of the flat vectors."""
        network = step.recipe.network
        step.g = cupy.zeros_like(step.theta)
        step.layers, step.gradients = (
            split(network, step.xp, flat) for flat in (step.theta, step.g)
        )

    def run(self) -> None:
        """The launches of one step, in order."""
        for call in self.calls:
            call()

    def part(
        self,
        name: str,
        launches: Callable[[], Iterator[Launch]],
        formula: Callable[[], None],
        before: Callable[[], object] | None = None,
        made: Array | None = None,
    ) -> None:
        """Launches, or the formula where they cannot be made, after what it needs `before`.

        made  what the formula makes in float32 alone, and launches perhaps as bfloat16 too
        """
        try:
            self.calls.extend(list(launches()))
        except (Untraceable, cupy.cuda.compiler.CompileException) as error:
            warn(name, error)
            if before is not None:
                before()
            self.calls.append(formula)
            self.replayable = False
            if made is not None:
                self.halves.pop(made.data.ptr, None)

    def _gather(self, own: tuple[int, ...]) -> bool:
        """What of the batch is copied at first; whether the examples are."""
        step, m, data, networks = self.step, self.m, self.step.data, math.prod(own)
        n_in, n_out, *_ = self.network.sizes
        host = hasattr(data.rows, "toarray")
        skips = self.network.residual and n_in == n_out and self.network.n_hidden > 0
        whole = not skips and not host and self.ours(n_out, n_in)
        if host:
            self.calls.append(lambda: step.fetch(self.X))
            self.replayable = False
        elif not whole:
            arguments: tuple[Any, ...] = (self.X, data.rows, step.inbox, 0, n_in, m)
            tiles = (blocks(n_in, 32) * blocks(m, 32), networks)
            self.calls.append(Launch(cuda.gather(self.dtype), tiles, (THREADS,), *arguments))
        if data.weights is not None:
            arguments = (data.weights, step.inbox, self.weight, m)
            one, threads = (1, networks), (row_threads(m),)
            self.calls.append(Launch(cuda.weigh(self.dtype), one, threads, *arguments))
        if self.drawn:
            grid = (blocks(self.drawn, 16 * THREADS), self.K)
            arguments = (self.bits, step.seeds, step.inbox, -1, self.drawn)
            draw = Launch(cuda.draw_bits(self.dtype), grid, (THREADS,), *arguments)
            self.calls.append(Unless(step, draw))
        return not whole

    def _forward(self, A: Array) -> tuple[list[_Seen], Array]:
        network, m, step = self.network, self.m, self.step
        seen: list[_Seen] = []
        drawn = statistics = 0
        for i, (layer, activation) in enumerate(
            zip(step.layers, network.activations, strict=False)
        ):
            n, A_in, skip = network.sizes[i + 1], A, None
            if network.residual:
                skip = A_in
                if layer.P is not None:
                    skip = self.multiply(layer.P, A_in, self.buffer(n, m))
            rate = network.dropout[i]
            apart = rate > 0 or skip is not None or activation.slope_of == "Z"
            # what cuBLAS multiplies later is rounded by the kernel that makes it
            halves = self.precision == "bfloat16" and not self.ours(network.sizes[i + 2], n)
            skips = skip is not None
            shape = cuda.Shape(activation, network.normalization, rate, skips, apart, halves)
            V = self.buffer(n, m)
            A = self.buffer(n, m) if apart else V
            N = inverse = None
            if network.normalization != "none":
                N = self.buffer(n, m)
                inverse = self.buffer(n, 1) if network.normalization == "batch" else None
                inverse = self.buffer(1, m) if inverse is None else inverse
            seen.append(_Seen(A_in, V, drawn, N, inverse, shape))
            self._layer(layer, seen[-1], A, skip, statistics)
            drawn += n * m if rate > 0 else 0
            statistics += 2 * n if network.n_statistics else 0
        return seen, A

    def _layer(
        self, layer: Layer, seen: _Seen, A: Array, skip: Array | None, statistics: int
    ) -> None:
        """V, A, N and inverse of one layer."""
        A_in, V, first, N, inverse, shape = seen
        step, (n, m), size = self.step, V.shape[-2:], V.itemsize
        inner = A_in.shape[-2]
        running = step.running[..., statistics:] if step.running.size else None
        strides = [0, 0, 0]
        if skip is not None:
            strides = [step_ // size for step_ in skip.strides]
            strides = strides if skip.ndim == 3 else [0, *strides]
        arguments = (
            *(V, A, layer.b, layer.gain, N, inverse, running, self.bits, skip),
            *(n, m, self.stride, self.drawn, first),
            *(*strides, step.running.shape[-1]),
        )
        whole = shape.normalization == "none" and self.ours(n, inner)

        def multiply() -> object:
            return self.multiply(layer.W, A_in, V)

        def launches() -> Iterator[Launch]:
            given = (*arguments, self.halved(A, shape.halves))
            if whole:
                size = self.tile(layer.W, A_in, n)
                source = cuda.layer_forward(self.dtype, shape, size, self.lies(A_in))
                yield self.tiled(source, size, n, *self.operands(layer.W, A_in), *given)
                return
            source = cuda.layer_forward(self.dtype, shape)
            if shape.normalization == "batch":
                yield self.by_row(source, n, *given)
            elif shape.normalization == "layer":
                yield self.by_column(source, *given)
            else:
                grid = (n * blocks(m, cuda.SPAN), self.K)
                yield Launch(source, grid, (cuda.SPAN // 4,), *given)

        def formula() -> None:
            xp = step.xp
            if N is None or inverse is None:
                Z = V + layer.b
            else:
                axis = AXES[self.network.normalization]
                normalised = SPEC.normalise(xp, V, layer.gain, layer.b, axis)
                Z, N[...] = normalised.Z, normalised.N
                inverse[...] = normalised.inverse_deviation
                if running is not None:
                    known = running[..., n : 2 * n]
                    estimate = unbiased(xp, normalised.variance[..., 0], m)
                    for part, newest in (
                        (running[..., :n], normalised.mean[..., 0]),
                        (known, known if estimate is None else estimate),
                    ):
                        part[...] = (1 - RUNNING_SHARE) * part + RUNNING_SHARE * newest
            H = shape.activation.f(xp, Z)
            V[...] = H if shape.activation.slope_of == "A" else Z
            if shape.apart:
                mask = self._mask(shape.rate, n, first)
                H = H if mask is None else H * mask
                A[...] = H if skip is None else H + skip

        if not whole:
            multiply()
        name = f"layer_forward of {_named(shape.activation)}"
        self.part(name, launches, formula, multiply if whole else None, A)

    def _mask(self, rate: float, n: int, first: int) -> Array | None:
        if rate == 0:
            return None
        bits = self.bits[..., first : first + n * self.m]
        bits = bits.reshape(*self.step.leading, n, self.m)
        return SPEC.dropout_mask(self.step.xp, bits, rate, self.step.theta.dtype)

    def _score(self, seen: list[_Seen], A: Array) -> Array:
        """δ = ∂J/∂S, and the losses of the examples in `values`."""
        step, recipe, m, data = self.step, self.step.recipe, self.m, self.step.data
        n, inner, last = self.network.sizes[-1], A.shape[-2], self.step.layers[-1]
        S, delta = self.buffer(n, m), self.buffer(n, m)
        weighted, smoothing = data.weights is not None, recipe.label_smoothing
        source = (self.dtype, recipe.loss, self.labelled, weighted, smoothing)
        arguments: tuple[Any, ...] = (last.b, data.targets, data.weights, self.weight)
        arguments += (delta, self.values, n, m, self.stride, self.shared)
        # a block computes the scores of a few examples: all units must fit its tile
        whole = n <= cuda.WIDEST and self.ours(n, inner) and A is not self.X

        def multiply() -> object:
            return self.multiply(last.W, A, S)

        def launches() -> Iterator[Launch]:
            if not whole:
                yield self.by_column(cuda.score(*source), S, step.inbox, *arguments)
                return
            size = self.tile(last.W, A, n, all_rows=True)
            given = (*self.operands(last.W, A), *arguments)
            if n * inner * size.columns <= CARRIED and self._plain(seen[-1].shape):
                below, carried = seen[-1], self.buffer(inner, m)
                more = (carried, below.V, self.bits, self.drawn, below.first)
                with suppress(Untraceable, cupy.cuda.compiler.CompileException):
                    both = cuda.score(*source, size, below.shape)
                    launch = self.tiled(both, size, n, *given, *more)
                    self.carried = carried
                    yield launch
                    return
            yield self.tiled(cuda.score(*source, size), size, n, *given)

        def formula() -> None:
            T, weights = data.targets[step.index], None
            labelled = self.labelled
            T = one_hot(step.xp, T, recipe.classes, step.theta.dtype) if labelled else transposed(T)
            if smoothing > 0:
                T = smooth(recipe.loss.kind, T, smoothing)
            if data.weights is not None:
                weights = data.weights[step.index]
            J, found, _ = SPEC.score(step.xp, recipe.loss, S + last.b, T, weights)
            delta[...], self.values[...] = found, J[..., None] / m

        if not whole:
            multiply()
        self.part("score of the loss", launches, formula, multiply if whole else None)
        return delta

    def _plain(self, shape: cuda.Shape) -> bool:
        """Whether nothing but its δ is wanted of a layer on the way back."""
        return shape.normalization == "none" and not self.network.residual

    def _backward(self, seen: list[_Seen], A: Array, delta: Array) -> None:
        step, m, network = self.step, self.m, self.network
        places = {slot.name: slot.start for slot in network.slots}
        last = network.n_hidden
        g = step.gradients[-1]
        self.weigh(delta, A, g.W, places[f"W{last + 1}"], places[f"b{last + 1}"])
        dS, skipped = delta, None
        for i in reversed(range(network.n_hidden)):
            n, layer, g = network.sizes[i + 1], step.layers[i], step.gradients[i]
            dA = self.buffer(n, m) if skipped is None else skipped
            add, skipped = skipped is not None, None
            delta = dA
            if network.residual and (layer.P is not None or i > 0):
                delta = self.buffer(n, m)
            summed = False
            if self.carried is not None and i == network.n_hidden - 1:
                delta = self.carried
            else:
                above = step.layers[i + 1]
                summed = self._through(above, dS, layer, g, seen[i], dA, delta, add)
            if network.residual:
                if layer.P is not None:
                    self.weigh(dA, seen[i].A_in, g.P, places[f"P{i + 1}"])
                if i > 0 and layer.P is None:
                    skipped = dA
                elif i > 0:
                    skipped = self.buffer(network.sizes[i], m)
                    self.multiply(layer.P, dA, skipped, turned=True)
            dS = delta
            b = -1 if summed else places[f"b{i + 1}"]
            self.weigh(dS, seen[i].A_in, g.W, places[f"W{i + 1}"], b)

    def _through(
        self,
        above: Layer,
        dS: Array,
        layer: Layer,
        g: Layer,
        seen: _Seen,
        dA: Array,
        delta: Array,
        add: bool,
    ) -> bool:
        """dA (+)= Wᵀ ∂J/∂S of the layer above, delta = ∂J/∂S of one layer.

        Whether the gradients of its bias and gain are in their places.
        """
        _, V, first, N, inverse, shape = seen
        (n, m), inner = V.shape[-2:], dS.shape[-2]
        whole = shape.normalization == "none" and self.ours(n, inner)
        self.halves.pop(dA.data.ptr, None)

        def multiply() -> object:
            return self.multiply(above.W, dS, dA, turned=True, add=add)

        def launches() -> Iterator[Launch]:
            if whole:
                size, keep = self.tile(above.W, dS, n, turned=True), dA is not delta
                source = cuda.layer_backward(self.dtype, shape, size, add, keep)
                operands = self.operands(above.W, dS)
                arguments = (dA, delta, V, self.bits, n, m, self.stride, self.drawn, first)
                yield self.tiled(source, size, n, *operands, *arguments)
                return
            yield self.by_row(
                cuda.layer_backward(self.dtype, shape),
                n,
                *(dA, delta, V, self.bits, g.b, g.gain, layer.gain, N, inverse),
                *(n, m, self.stride, self.drawn, first),
                self.halved(delta, shape.halves and shape.normalization != "layer"),
            )
            if shape.normalization == "layer":
                source = cuda.layer_norm_backward(self.dtype)
                yield self.by_column(source, delta, layer.gain, N, inverse, n, m, self.stride)

        def formula() -> None:
            xp, mask = self.step.xp, self._mask(shape.rate, n, first)
            found, db = SPEC.activation_gradient(xp, dA, V, shape.activation, mask)
            if N is not None:
                normalised = Normalised(V, N, inverse, None, None)
                axis = AXES[self.network.normalization]
                found, g.gain[...] = SPEC.normalise_gradient(  # type: ignore[index]
                    xp, found, layer.gain, normalised, axis
                )
            delta[...], g.b[...] = found, db

        if not whole:
            multiply()
            self.apart = True
        name = f"layer_backward of {_named(shape.activation)}"
        self.part(name, launches, formula, multiply if whole else None, delta)
        return not whole

    def _finished(self) -> bool:
        """Whether the gradients' kernel is the last: nothing is done to them but the update."""
        plain = not self.apart and not self.regularised.any
        return self.finish(self.step.recipe.optimizer if plain else None)

    def _close(self) -> None:
        """What is done to the gradient, the loss, and the step's scalars."""
        step, recipe, size = self.step, self.step.recipe, self.step.theta.shape[-1]
        what = self.regularised
        if what.any:
            self.n_parts = min(PARTS, blocks(size, THREADS))
            self.parts = cupy.empty((self.K, 2, self.n_parts), self.dtype)
            connected = recipe.connected
            if connected is not None:
                connected = cupy.ascontiguousarray(cupy.broadcast_to(connected, step.theta.shape))
            source = cuda.regularise(self.dtype, what, self.weight is not None)
            arguments: tuple[Any, ...] = (step.g, step.theta, connected, self.weight, self.parts)
            arguments += (size, recipe.network.n_weights, self.m, self.shared)
            grid = (self.n_parts, self.K)
            self.calls.append(Launch(source, grid, (THREADS,), *arguments))
        n = cuda.n_scalars(recipe.optimizer)
        arguments = (step.inbox, self.values, self.parts, step.now, self.n_parts, self.K, n, self.m)
        threads = row_threads(max(self.n_parts, self.m))
        self.calls.append(Launch(cuda.close(self.dtype, what), (1,), (threads,), *arguments))

    @property
    def regularised(self) -> cuda.Regularised:
        """What is done to the gradient before the update."""
        recipe = self.step.recipe
        sparse = recipe.connected is not None
        return cuda.Regularised(
            recipe.l2, recipe.l2_shared, sparse, recipe.clip_value, recipe.clip_norm
        )

    def _update(self) -> None:
        """The optimiser's formula on theta and the moments."""
        step, optimizer = self.step, self.step.recipe.optimizer
        n, clipped = cuda.n_scalars(optimizer), self.regularised.clip_norm is not None
        size, n_weights = step.theta.shape[-1], self.network.n_weights

        def launches() -> Iterator[Launch]:
            source = cuda.update(self.dtype, optimizer, clipped)
            grid = (blocks(size, THREADS), self.K)
            arguments = (step.theta, step.g, step.now, size, n_weights, *step.moments)
            yield Launch(source, grid, (THREADS,), *arguments)

        def formula() -> None:
            now = step.now.reshape(*step.leading, n + 1)
            scalars = [now[..., i : i + 1] for i in range(n + 1)]
            g = step.g * scalars.pop()
            shrink = None
            if optimizer.weight_decay != 0:
                shrink = scalars.pop() * step.recipe.decayed
            theta, moments = SPEC.update(
                step.xp, optimizer, step.theta, g, step.moments, tuple(scalars), shrink
            )
            step.theta[...] = theta
            for mine, new in zip(step.moments, moments, strict=True):
                mine[...] = new

        self.part(f"update of {type(optimizer).__name__}", launches, formula)


def _named(activation: Activation) -> str:
    return next((n for n, row in ACTIVATIONS.items() if row is activation), "an own activation")
