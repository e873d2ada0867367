"""Convolutions of sequences and images: a product with the patches.

Of images A (channels, height, width, m) every window becomes a column of patches,
(channels · kh · kw, height · width · m), and the layer is dense in these:

    Z = W patches(A) + b                         W (n_out, n_in / groups · kh · kw)

Rows of W and of the patches are in the order channel, row of the kernel, column: a weight of
PyTorch, (n_out, n_in / groups, kh, kw), is W reshaped. As there it is a correlation: the kernel
is not turned.

The derivative by A is a convolution too, of δ with W turned and transposed, one for each phase
of the stride (`windows`): patches of δ are gathered, nothing is scattered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..kernels import Kernels
from ..types import Array, Namespace
from . import options
from .base import Parameter, Pass, Plain, Shape
from .windows import ONE, Axis, Phase, by_phases, extended, gathered, placed, shifts, taps


class Geometry(NamedTuple):
    """All sizes of a convolution of one input shape; a sequence has one row."""

    n_in: int
    n_out: int
    groups: int
    rows: Axis
    columns: Axis

    @property
    def n_taps(self) -> int:
        return self.rows.kernel * self.columns.kernel


class Memory(NamedTuple):
    """What the forward pass keeps.

    patches  (…, groups, n_in / groups · taps, rows · columns · m)
    present  (1, time, m) where sequences had steps, or None where all had all
    """

    patches: Array
    geometry: Geometry
    wanted: bool
    present: Array | None = None


def axis_of(
    n: int, kernel: int, stride: int, dilation: int, padding: str | int
) -> tuple[Axis, bool]:
    """How a kernel lies along n places, and whether it fits at all.

    "valid"   no padding
    "same"    ⌈n / stride⌉ outputs, the padding halved, the odd one after (as TensorFlow; at
              stride 1 as PyTorch)
    "causal"  ⌈n / stride⌉ outputs, all padding before: no output sees what comes later
    a number  so many zeros at both ends, as PyTorch
    """
    span = dilation * (kernel - 1) + 1
    if padding in ("same", "causal"):
        n_out = -(-n // stride)
        total = max((n_out - 1) * stride + span - n, 0)
        before = total // 2 if padding == "same" else span - 1
    else:
        before = 0 if padding == "valid" else int(padding)
        n_out = (n + 2 * before - span) // stride + 1
    return Axis(n, kernel, stride, dilation, before, n_out), n_out > 0


class _Convolution(Plain):
    """What convolutions of one and of two dimensions share: all arithmetic."""

    channels: int
    groups: int
    bias: bool

    def _geometry(self, shape: Shape) -> Geometry:
        raise NotImplementedError

    def _check(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("channels", options.whole("channels", self.channels, 1))
        put("groups", options.whole("groups", self.groups, 1))
        put("bias", options.flag("bias", self.bias))
        if self.channels % self.groups != 0:
            raise ValueError(
                f"groups is {self.groups}, but does not divide the {self.channels} channels: "
                "expected a divisor."
            )

    def _fitting(self, shape: Shape, axes: tuple[tuple[Axis, bool], ...]) -> Geometry:
        if shape[0] % self.groups != 0:
            raise options.unfit(
                self,
                shape,
                f"a number of channels that its {self.groups} groups divide",
                f"Change groups, or give the layer before a multiple of {self.groups} channels.",
            )
        for axis, fits in axes:
            if not fits:
                raise options.unfit(
                    self,
                    shape,
                    f"at least {axis.span} places along each axis, which its kernel covers "
                    f"with dilation, but there are {axis.n} and {2 * axis.before} of padding",
                    "Take padding='same', a smaller kernel, or less pooling before.",
                )
        rows, columns = axes[0][0], axes[1][0]
        return Geometry(shape[0], self.channels, self.groups, rows, columns)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """W (n_out, n_in / groups · taps), and b (n_out, 1).

        A unit has n_in / groups · taps inputs, and each input goes into n_out / groups · taps
        units (stride aside): the fans of every framework.
        """
        g = self._geometry(shape)
        fan_in = g.n_in // g.groups * g.n_taps
        fan_out = g.n_out // g.groups * g.n_taps
        W = Parameter("W", (g.n_out, fan_in), fan_in=fan_in, fan_out=fan_out, sparse=True)
        b = Parameter("b", (g.n_out, 1), "zeros", decays=False)
        return (W, b) if self.bias else (W,)

    def _forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Memory]:
        """A (…, n_in, rows, columns, m) → (…, n_out, rows, columns, m)."""
        m = A.shape[-1]
        g = self._geometry(told.shape)
        lead = A.shape[: A.ndim - 1 - len(told.shape)]
        A = xp.reshape(A, (*lead, g.n_in, g.rows.n, g.columns.n, m))
        seen = gathered(xp, taps(extended(xp, A, g.rows, g.columns), g.rows, g.columns))
        places = g.rows.n_out * g.columns.n_out * m
        patches = xp.reshape(
            seen, (*seen.shape[:-5], g.groups, g.n_in // g.groups * g.n_taps, places)
        )
        Z = kernels.product(xp, _grouped(xp, P["W"], g.groups), patches)
        Z = xp.reshape(Z, (*Z.shape[:-3], g.n_out, places))
        if self.bias:
            Z = Z + P["b"]
        return Z, Memory(patches, g, told.wanted)

    def _backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Memory, delta: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ (…, n_out, rows, columns, m) → ∂J/∂A (…, n_in, rows, columns, m), and of W and b."""
        patches, g, wanted, _ = memory
        flat = xp.reshape(delta, (*delta.shape[:-3], math.prod(delta.shape[-3:])))
        dW = kernels.weight_gradient(xp, _grouped(xp, flat, g.groups), patches)
        dW = xp.reshape(dW, (*dW.shape[:-3], g.n_out, dW.shape[-1]))
        gradients = {"W": dW}
        if self.bias:
            gradients["b"] = xp.sum(flat, axis=-1, keepdims=True)
        if not wanted:
            return None, gradients
        return _input_gradient(xp, kernels, P["W"], delta, g), gradients


def _grouped(xp: Namespace, X: Array, groups: int) -> Array:
    """(…, n, k) as (…, groups, n / groups, k)."""
    n, k = X.shape[-2:]
    return xp.reshape(X, (*X.shape[:-2], groups, n // groups, k))


def _input_gradient(xp: Namespace, kernels: Kernels, W: Array, delta: Array, g: Geometry) -> Array:
    """∂J/∂A: for each phase the patches of δ, times those taps of W that reach the phase.

    W  (…, n_out, n_in / groups · taps), δ (…, n_out, rows, columns, m)
    """
    m = delta.shape[-1]
    n_in = g.n_in // g.groups
    W = xp.reshape(
        W, (*W.shape[:-2], g.groups, g.n_out // g.groups, n_in, g.rows.kernel, g.columns.kernel)
    )
    (top, bottom), (left, right) = shifts(g.rows), shifts(g.columns)
    delta = placed(xp, delta, -2, left, right - left)
    delta = placed(xp, delta, -3, top, bottom - top)
    n_rows, n_columns = g.rows.per_phase, g.columns.per_phase

    def of(high: Phase, wide: Phase) -> Array:
        parts = [
            delta[..., down - top : down - top + n_rows, along - left : along - left + n_columns, :]
            for down in high.shifts
            for along in wide.shifts
        ]
        if not parts:  # a stride longer than the kernel passes these inputs by
            shape = (*delta.shape[:-4], g.n_in, n_rows, n_columns, m)
            return xp.zeros(shape, dtype=delta.dtype, device=delta.device)
        seen = gathered(xp, parts)
        n = g.n_out // g.groups * len(parts)
        seen = xp.reshape(seen, (*seen.shape[:-5], g.groups, n, n_rows * n_columns * m))
        V = xp.moveaxis(W[..., high.first :: high.every, wide.first :: wide.every], -3, -1)
        V = xp.reshape(V, (*V.shape[:-4], n, n_in))
        dA = kernels.input_gradient(xp, V, seen)
        return xp.reshape(dA, (*dA.shape[:-3], g.n_in, n_rows, n_columns, m))

    return by_phases(xp, g.rows, g.columns, of)


@dataclass(frozen=True)
class Conv1d(_Convolution):
    """Convolution of sequences: (n_in, time) → (channels, time').

    Z[o, t] = b[o] + Σ W[o, c, i] A[c, t · stride + i · dilation - before], c in o's group

    channels  n_out
    kernel    how many steps a window sees
    dilation  how many steps lie between those (van den Oord et al. 2016, "WaveNet")
    padding   "valid", "same", "causal", or a number of zeros at both ends (`axis_of`)
    groups    parts of the channels that do not see each other; groups = channels is depthwise

    Where sequences differ in length (`Pass.present`) what lies after the end of each counts as
    padding, 0, so that a sequence is what it is alone.
    """

    channels: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: str | int = "valid"
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, options.whole(name, getattr(self, name), 1))
        if not isinstance(self.padding, str):
            object.__setattr__(self, "padding", options.whole("padding", self.padding, 0))
        else:
            options.one_of("padding", self.padding, ("valid", "same", "causal"))
        self._check()

    def _geometry(self, shape: Shape) -> Geometry:
        if len(shape) != 2:
            raise options.unfit(
                self,
                shape,
                "sequences, (features, time)",
                "Images take Conv2d; for features without time put Reshape((1, n)) before.",
            )
        axis = axis_of(shape[1], self.kernel, self.stride, self.dilation, self.padding)
        return self._fitting(shape, ((ONE, True), axis))

    def out_shape(self, shape: Shape) -> Shape:
        return self.channels, self._geometry(shape).columns.n_out

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Memory]:
        """A (…, n_in, time, m) → Z (…, channels, time', m)."""
        present = None
        if told.present is not None:
            present = xp.astype(told.present, A.dtype, copy=False)[..., None, :, :]
            A = A * present
        Z, memory = self._forward(xp, kernels, P, A, told)
        time = memory.geometry.columns.n_out
        Z = xp.reshape(Z, (*Z.shape[:-1], time, A.shape[-1]))
        return Z, memory._replace(present=present)

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Memory, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ (…, channels, time', m) → ∂J/∂A (…, n_in, time, m), and of W and b."""
        back, gradients = self._backward(xp, kernels, P, memory, dA[..., None, :, :])
        if back is None:
            return None, gradients
        back = back[..., 0, :, :]
        return back if memory.present is None else back * memory.present, gradients


@dataclass(frozen=True)
class Conv2d(_Convolution):
    """Convolution of images: (n_in, height, width) → (channels, height', width').

    Z[o, y, x] = b[o] + Σ W[o, c, i, j] A[c, y · stride + i · dilation - before, x …]

    channels           n_out
    kernel, stride,    one number for both axes, or (rows, columns)
    dilation
    padding            "valid", "same", or a number of zeros at both ends (`axis_of`)
    groups             parts of the channels that do not see each other; groups = channels
                       is depthwise
    """

    channels: int
    kernel: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    dilation: int | tuple[int, int] = 1
    padding: str | int | tuple[int, int] = "valid"
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, options.pair(name, getattr(self, name), 1))
        if not isinstance(self.padding, str):
            object.__setattr__(self, "padding", options.pair("padding", self.padding, 0))
        elif self.padding == "causal":
            raise ValueError(
                "padding is 'causal', but an image has no direction of time: expected 'valid', "
                "'same' or a number. Sequences take Conv1d."
            )
        else:
            options.one_of("padding", self.padding, ("valid", "same"))
        self._check()

    def _geometry(self, shape: Shape) -> Geometry:
        if len(shape) != 3:
            raise options.unfit(
                self,
                shape,
                "images, (channels, height, width)",
                "Sequences take Conv1d; for flat images put Reshape((channels, height, width)) "
                "before.",
            )
        kernel, stride, dilation = (
            options.pair(name, getattr(self, name), 1) for name in ("kernel", "stride", "dilation")
        )
        padding = (self.padding,) * 2 if isinstance(self.padding, str | int) else self.padding
        rows = axis_of(shape[1], kernel[0], stride[0], dilation[0], padding[0])
        columns = axis_of(shape[2], kernel[1], stride[1], dilation[1], padding[1])
        return self._fitting(shape, (rows, columns))

    def out_shape(self, shape: Shape) -> Shape:
        g = self._geometry(shape)
        return self.channels, g.rows.n_out, g.columns.n_out

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Memory]:
        """A (…, n_in, height, width, m) → Z (…, channels, height', width', m)."""
        Z, memory = self._forward(xp, kernels, P, A, told)
        g = memory.geometry
        return xp.reshape(Z, (*Z.shape[:-1], g.rows.n_out, g.columns.n_out, A.shape[-1])), memory

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Memory, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ (…, channels, height', width', m) → ∂J/∂A (…, n_in, height, width, m), and W, b."""
        return self._backward(xp, kernels, P, memory, dA)
