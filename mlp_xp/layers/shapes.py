"""Layers that change nothing but the shape: no number is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..kernels import Kernels
from ..types import Array, Namespace
from . import options
from .base import Pass, Plain, Shape


def _with_shape(xp: Namespace, A: Array, old: Shape, new: Shape) -> Array:
    """A (…, *old, m) as (…, *new, m)."""
    lead = A.shape[: A.ndim - 1 - len(old)]
    return xp.reshape(A, (*lead, *new, A.shape[-1]))


class _Reshaped(Plain):
    """What changes an example's shape alone: forward and backward from `out_shape`."""

    def out_shape(self, shape: Shape) -> Shape:
        raise NotImplementedError  # what makes each of them

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, tuple[Shape, Shape]]:
        """A (…, *shape, m) → (…, *out_shape, m)."""
        new = self.out_shape(told.shape)
        return _with_shape(xp, A, told.shape, new), (told.shape, new)

    def backward(
        self,
        xp: Namespace,
        kernels: Kernels,
        P: Mapping[str, Array],
        memory: tuple[Shape, Shape],
        dA: Array,
    ) -> tuple[Array | None, dict[str, Array]]:
        old, new = memory
        return _with_shape(xp, dA, new, old), {}


@dataclass(frozen=True)
class Flatten(_Reshaped):
    """All numbers of an example as its features: (channels, height, width) → (n,).

    In the order channel, row, column, as PyTorch's Flatten.
    """

    def out_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class Reshape(_Reshaped):
    """An example's numbers in another shape: flat images (784,) → (1, 28, 28).

    shape  of one example; one length may be -1, which takes what is left
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        given: Any = self.shape
        if not isinstance(given, Iterable) or isinstance(given, str):
            raise TypeError(
                f"shape is {given!r}, but expected the lengths of an example's axes, such as "
                "(1, 28, 28)."
            )
        lengths = tuple(options.whole(f"shape[{i}]", n, -1) for i, n in enumerate(given))
        if not lengths or 0 in lengths or lengths.count(-1) > 1:
            raise ValueError(
                f"shape is {lengths}, but expected lengths of at least 1, of which one may be -1."
            )
        object.__setattr__(self, "shape", lengths)

    def out_shape(self, shape: Shape) -> Shape:
        n, known = math.prod(shape), math.prod(k for k in self.shape if k != -1)
        if n % known != 0 or (-1 not in self.shape and n != known):
            wanted = f"a multiple of {known}" if -1 in self.shape else f"{known}"
            raise options.unfit(
                self,
                shape,
                f"{wanted} numbers an example, but there are {n}",
                "Let one length be -1, or change the layer before.",
            )
        return tuple(n // known if k == -1 else k for k in self.shape)


class LastMemory(NamedTuple):
    """there: (1, time, m) 1 at each sequence's last step; None where all end with the last."""

    time: int
    there: Array | None


@dataclass(frozen=True)
class Last(Plain):
    """The last step of a sequence: (features, time) → (features,).

    What a network of causal convolutions says when it has seen all (Bai, Kolter & Koltun 2018,
    §4.1); a recurrent layer returns it by itself. Where sequences differ in length
    (`Pass.present`) it is the last step that is there; of a sequence without any, 0.
    """

    def out_shape(self, shape: Shape) -> Shape:
        if len(shape) != 2:
            raise options.unfit(
                self, shape, "sequences, (features, time)", "Images take GlobalAvgPool or Flatten."
            )
        return shape[:1]

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, LastMemory]:
        """A (…, features, time, m) → (…, features, m)."""
        self.out_shape(told.shape)
        time = A.shape[-2]
        if told.present is None:
            return A[..., time - 1, :], LastMemory(time, None)
        present = xp.astype(told.present, A.dtype, copy=False)
        after = xp.concat([present[..., 1:, :], xp.zeros_like(present[..., :1, :])], axis=-2)
        there = (present - after)[..., None, :, :]
        return xp.sum(A * there, axis=-2), LastMemory(time, there)

    def backward(
        self,
        xp: Namespace,
        kernels: Kernels,
        P: Mapping[str, Array],
        memory: LastMemory,
        dA: Array,
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ at the last step, 0 before."""
        delta = dA[..., None, :]
        if memory.there is not None:
            return delta * memory.there, {}
        before = [xp.zeros_like(delta)] * (memory.time - 1)
        return xp.concat([*before, delta], axis=-2), {}
