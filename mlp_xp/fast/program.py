"""A training step on CuPy for one batch size: a list of launches on buffers made once.

The products are cuBLAS's, everything round them is the kernels of `cuda_source`. What they
stand for in the specification is written beside them: a formula that cannot be traced, or a
kernel that does not compile, leaves its part of the step to that, with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import cupy
import numpy as np

from ..activations import ACTIVATIONS, Activation
from ..kernels import SPEC
from ..losses import one_hot, smooth
from ..network import AXES, RUNNING_SHARE
from ..types import Array, Layer, Normalised
from . import cuda_source as cuda
from .blas import layout
from .cublas import Product
from .launches import THREADS, Launch, blocks, row_threads, warn
from .tracing import Untraceable

if TYPE_CHECKING:
    from .cupy import CupyStep

PARTS = 256  # blocks at most of a reduction over all parameters


class _Seen(NamedTuple):
    """Buffers of one hidden layer that the backward pass reads."""

    A_in: Array
    V: Array
    first: int  # of its dropout bits
    N: Array | None
    inverse: Array | None
    shape: cuda.Shape


def _t(array: Array) -> Array:
    return array.swapaxes(-1, -2)


class Program:
    """A step's launches for one batch size.

    calls       in order; `run` makes them
    draw        the launch that draws the dropout bits, or None
    replayable  whether all are launches on fixed buffers, as a graph needs
    reads       what the launches read and write that others may replace
    graph       a place for `fast.graph`
    """

    def __init__(self, step: CupyStep, m: int, shared: bool) -> None:
        self.step, self.m, self.shared = step, m, shared
        recipe, self.dtype = step.recipe, str(step.theta.dtype)
        self.network, self.K = recipe.network, step.networks
        self.calls: list[Callable[[], object]] = []
        self.replayable, self.graph = True, cast(Any, None)
        self.draw: Launch | None = None
        self.reads = step.buffers()
        own = () if shared else step.leading
        n_in, n_out = self.network.sizes[0], self.network.sizes[-1]
        self.rows = cupy.empty((*own, m, n_in), self.dtype)
        self.labelled = step.data.targets.ndim == 1
        kind = np.int64 if self.labelled else self.dtype
        self.targets = cupy.empty((*own, m) if self.labelled else (*own, n_out, m), kind)
        weighted = step.data.weights is not None
        self.weights = cupy.empty((*own, m), self.dtype) if weighted else None
        self.weight = cupy.empty((*own, 1), self.dtype) if weighted else None
        self.drawn = self.network.n_dropped * m
        self.bits = self.buffer(self.drawn, dtype=np.uint16)
        self.parts, self.n_parts = cupy.zeros(1, self.dtype), 0

        self._gather(own)
        seen, A = self._forward(_t(self.rows))
        delta = self._score(A)
        self._backward(seen, A, delta)
        self._close()
        self._update()

    def buffer(self, *shape: int, dtype: Any = None) -> Array:
        """A place to compute in, (…, *shape)."""
        return cupy.empty((*self.step.leading, *shape), dtype or self.dtype)

    def run(self) -> None:
        """The launches of one step, in order."""
        for call in self.calls:
            call()

    # -- parts that launch

    def each(self, source: cuda.Source, size: int, *arguments: Any, networks: int = 0) -> Launch:
        """A thread for each of `size` things of every network."""
        grid = (blocks(size, THREADS), networks or self.K)
        return Launch(source, grid, (THREADS,), *arguments, size)

    def by_row(self, source: cuda.Source, rows: int, *arguments: Any) -> Launch:
        """A block for each row."""
        return Launch(source, (rows, self.K), (row_threads(self.m),), *arguments)

    def by_column(self, source: cuda.Source, *arguments: Any) -> Launch:
        """A block for COLUMNS examples."""
        grid = (blocks(self.m, cuda.COLUMNS), self.K)
        return Launch(source, grid, (cuda.COLUMNS, cuda.ROWS), *arguments)

    def product(self, A: Array, B: Array, out: Array, add: bool = False) -> Array:
        """out ← A B (+ out), of operands at the recipe's precision."""
        precision = self.step.recipe.precision
        if precision == "bfloat16":
            A, B = self._as_bfloat16(A), self._as_bfloat16(B)
        self.calls.append(Product(self.step.cublas, A, B, out, add, precision))
        return out

    def _as_bfloat16(self, array: Array) -> Array:
        """A matrix's numbers in a buffer of bfloat16, which a launch fills."""
        turned, pitch = layout(array)
        matrix = _t(array) if turned else array
        out = cupy.empty(matrix.shape, np.uint16)
        networks, n = math.prod(matrix.shape[:-2]), matrix.shape[-1]
        stride = matrix.strides[0] // matrix.itemsize if matrix.ndim == 3 else 0
        arguments = (out, matrix, n, pitch, stride)
        source, size = cuda.as_bfloat16(self.dtype), matrix.shape[-2] * n
        self.calls.append(self.each(source, size, *arguments, networks=networks))
        return _t(out) if turned else out

    def part(
        self, name: str, launches: Callable[[], Iterator[Launch]], formula: Callable[[], None]
    ) -> None:
        """Launches, or the formula where they cannot be made."""
        try:
            self.calls.extend(list(launches()))
        except (Untraceable, cupy.cuda.compiler.CompileException) as error:
            warn(name, error)
            self.calls.append(formula)
            self.replayable = False

    def _gather(self, own: tuple[int, ...]) -> None:
        step, m, networks = self.step, self.m, math.prod(own)
        data, (n_in, *_, n_out) = step.data, self.network.sizes
        arguments: tuple[Any, ...] = (self.rows, data.rows, step.inbox, n_in)
        if hasattr(data.rows, "toarray"):
            self.calls.append(self._gather_from_host)
            self.replayable = False
        else:
            source = cuda.gather_rows(self.dtype)
            self.calls.append(self.each(source, m * n_in, *arguments, networks=networks))
        n = 1 if self.labelled else n_out
        source = cuda.gather_targets(self.dtype, self.labelled, data.weights is not None)
        arguments = (self.targets, data.targets, self.weights, data.weights, step.inbox, n)
        self.calls.append(self.each(source, m * n, *arguments, networks=networks))
        if data.weights is not None:
            arguments = (self.weights, self.weight, m)
            grid, block = (1, networks), (row_threads(m),)
            self.calls.append(Launch(cuda.weigh(self.dtype), grid, block, *arguments))
        if self.drawn:
            grid = (blocks(self.drawn, 16 * THREADS), self.K)
            arguments = (self.bits, step.seeds, step.inbox, -1, self.drawn)
            self.draw = Launch(cuda.draw_bits(self.dtype), grid, (THREADS,), *arguments)
            self.calls.append(self._draw)

    def _gather_from_host(self) -> None:
        """Rows that are not whole on the device: only the batch is."""
        step = self.step
        if not (step.feeding and step.feed and step.feed.give(step.start, self.m, self.rows)):
            self.rows[...] = step.data.rows[step.index].toarray()

    def _draw(self) -> None:
        if not self.step.given:
            cast(Launch, self.draw)()

    def _forward(self, A: Array) -> tuple[list[_Seen], Array]:
        network, m, step = self.network, self.m, self.step
        seen: list[_Seen] = []
        drawn = statistics = 0
        for i, (layer, activation) in enumerate(
            zip(step.layers, network.activations, strict=False)
        ):
            n, A_in, skip = network.sizes[i + 1], A, None
            V = self.product(layer.W, A_in, self.buffer(n, m))
            if network.residual:
                skip = A_in
                if layer.P is not None:
                    skip = self.product(layer.P, A_in, self.buffer(n, m))
            rate = network.dropout[i]
            apart = rate > 0 or skip is not None or activation.slope_of == "Z"
            shape = cuda.Shape(activation, network.normalization, rate, skip is not None, apart)
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
        """V, A, N and inverse of one layer, of the product in V."""
        _, V, first, N, inverse, shape = seen
        step, (n, m), size = self.step, V.shape[-2:], V.itemsize
        running = step.running[..., statistics:] if step.running.size else None
        strides = [0, 0, 0]
        if skip is not None:
            strides = [step_ // size for step_ in skip.strides]
            strides = strides if skip.ndim == 3 else [0, *strides]
        arguments = (
            *(V, A, layer.b, layer.gain, N, inverse, running, self.bits, skip),
            *(n, m, step.theta.shape[-1], self.drawn, first),
            *(*strides, step.running.shape[-1]),
        )

        def launches() -> Iterator[Launch]:
            source = cuda.layer_forward(self.dtype, shape)
            if shape.normalization == "batch":
                yield self.by_row(source, n, *arguments)
            elif shape.normalization == "layer":
                yield self.by_column(source, *arguments)
            else:
                grid = (blocks(n * m, THREADS), self.K)
                yield Launch(source, grid, (THREADS,), *arguments)

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
                    unbiased = normalised.variance[..., 0] * (m / max(m - 1, 1))
                    for part, newest in (
                        (running[..., :n], normalised.mean[..., 0]),
                        (running[..., n : 2 * n], unbiased),
                    ):
                        part[...] = (1 - RUNNING_SHARE) * part + RUNNING_SHARE * newest
            H = shape.activation.f(xp, Z)
            V[...] = H if shape.activation.slope_of == "A" else Z
            if shape.apart:
                mask = self._mask(shape.rate, n, first)
                H = H if mask is None else H * mask
                A[...] = H if skip is None else H + skip

        self.part(f"layer_forward of {_named(shape.activation)}", launches, formula)

    def _mask(self, rate: float, n: int, first: int) -> Array | None:
        if rate == 0:
            return None
        bits = self.bits[..., first : first + n * self.m]
        bits = bits.reshape(*self.step.leading, n, self.m)
        return SPEC.dropout_mask(self.step.xp, bits, rate, self.step.theta.dtype)

    def _score(self, A: Array) -> Array:
        """δ = ∂J/∂S; J, and the gradient of the last bias, are in their places."""
        step, recipe, m = self.step, self.step.recipe, self.m
        n, last, db = self.network.sizes[-1], self.step.layers[-1], self.step.gradients[-1].b
        S = self.product(last.W, A, self.buffer(n, m))
        delta, values, stride = self.buffer(n, m), self.buffer(m), step.theta.shape[-1]
        weighted, smoothing = self.weights is not None, recipe.label_smoothing

        def launches() -> Iterator[Launch]:
            source = cuda.score(self.dtype, recipe.loss, self.labelled, weighted, smoothing)
            inputs = (S, last.b, self.targets, self.weights, self.weight)
            yield self.by_column(source, *inputs, delta, values, n, m, stride, self.shared)
            source = cuda.totals(self.dtype)
            yield self.by_row(source, n + 1, delta, values, db, step.J, n, m, stride)

        def formula() -> None:
            T = self.targets
            if self.labelled:
                T = one_hot(step.xp, T, recipe.classes, step.theta.dtype)
            if smoothing > 0:
                T = smooth(recipe.loss.kind, T, smoothing)
            J, found, total = SPEC.score(step.xp, recipe.loss, S + last.b, T, self.weights)
            delta[...], db[...], step.J[...] = found, total, J

        self.part("score of the loss", launches, formula)
        return delta

    def _backward(self, seen: list[_Seen], A: Array, delta: Array) -> None:
        step, m, network = self.step, self.m, self.network
        self.product(delta, _t(A), step.gradients[-1].W)
        dS, skipped = delta, None
        for i in reversed(range(network.n_hidden)):
            n, layer, g = network.sizes[i + 1], step.layers[i], step.gradients[i]
            dA = self.buffer(n, m) if skipped is None else skipped
            self.product(_t(step.layers[i + 1].W), dS, dA, add=skipped is not None)
            delta, skipped = dA, None
            if network.residual:
                if layer.P is not None:
                    self.product(dA, _t(seen[i].A_in), g.P)
                if i > 0 and layer.P is None:
                    delta, skipped = self.buffer(n, m), dA
                elif i > 0:
                    skipped = self.product(_t(layer.P), dA, self.buffer(network.sizes[i], m))
            self._through(layer, g, seen[i], dA, delta)
            dS = delta
            self.product(dS, _t(seen[i].A_in), g.W)

    def _through(self, layer: Layer, g: Layer, seen: _Seen, dA: Array, delta: Array) -> None:
        """delta = ∂J/∂S of one layer, and the gradients of its bias and gain."""
        _, V, first, N, inverse, shape = seen
        (n, m), stride = V.shape[-2:], self.step.theta.shape[-1]

        def launches() -> Iterator[Launch]:
            yield self.by_row(
                cuda.layer_backward(self.dtype, shape),
                n,
                *(dA, delta, V, self.bits, g.b, g.gain, layer.gain, N, inverse),
                *(n, m, stride, self.drawn, first),
            )
            if shape.normalization == "layer":
                source = cuda.layer_norm_backward(self.dtype)
                yield self.by_column(source, delta, layer.gain, N, inverse, n, m, stride)

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

        self.part(f"layer_backward of {_named(shape.activation)}", launches, formula)

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
            source = cuda.regularise(self.dtype, what, self.weights is not None)
            arguments: tuple[Any, ...] = (step.g, step.theta, connected, self.weight, self.parts)
            arguments += (size, recipe.network.n_weights, self.m, self.shared)
            grid = (self.n_parts, self.K)
            self.calls.append(Launch(source, grid, (THREADS,), *arguments))
        n = cuda.n_scalars(recipe.optimizer)
        arguments = (step.inbox, step.J, self.parts, step.now, self.n_parts, self.K, n, self.m)
        threads = 32 if self.n_parts <= 32 else THREADS
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
