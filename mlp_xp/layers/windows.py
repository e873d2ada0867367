"""Windows that move over rows and columns: gathered, and added up where they lie.

Everything is slices, concatenations and stacks, so that no array is written to and nothing
is scattered. Examples are the last axis: what is copied are runs of m numbers that lie
together (at stride 1, of columns · m). One-dimensional layers are two-dimensional with one
row, which costs nothing.

Along one axis, output o sees with tap i the input at

    u = o · stride + i · dilation - before

so that the derivative by input u collects the outputs o = (u + before - i · dilation) / stride
of those taps for which that is whole. The u with u mod stride = r share their taps: they are
one `Phase`, u = q · stride + r, whose tap i sees o = q + shift. There is a phase for each r; no
product is taken with zeros put between strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..types import Array, Namespace


class Phase(NamedTuple):
    """The taps `first, first + every, …` that reach these inputs, and where each finds outputs."""

    first: int
    every: int
    shifts: tuple[int, ...]


class Axis(NamedTuple):
    """How windows lie along one axis: n inputs, `before` places of padding, n_out outputs."""

    n: int
    kernel: int
    stride: int
    dilation: int
    before: int
    n_out: int

    @property
    def span(self) -> int:
        """How many places one window covers."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def extent(self) -> int:
        """How many places all windows cover."""
        return (self.n_out - 1) * self.stride + self.span

    @property
    def per_phase(self) -> int:
        """How many inputs a phase has."""
        return -(-self.n // self.stride)

    @property
    def phases(self) -> tuple[Phase, ...]:
        found = []
        for r in range(self.stride):
            reach = [r + self.before - i * self.dilation for i in range(self.kernel)]
            taps = [i for i, offset in enumerate(reach) if offset % self.stride == 0]
            shifts = tuple(reach[i] // self.stride for i in taps)
            every = taps[1] - taps[0] if len(taps) > 1 else self.kernel
            found.append(Phase(taps[0] if taps else self.kernel, every, shifts))
        return tuple(found)


# one row, for layers of one dimension
ONE = Axis(n=1, kernel=1, stride=1, dilation=1, before=0, n_out=1)


def shifts(axis: Axis) -> tuple[int, int]:
    """Where outputs begin and end that any input's derivative asks for."""
    found = [shift for phase in axis.phases for shift in phase.shifts]
    return min(found), max(found) + axis.per_phase


def filled(xp: Namespace, X: Array, shape: tuple[int, ...], value: float) -> Array:
    """An array of one value, of the dtype and on the device of X."""
    return xp.full(shape, value, dtype=X.dtype, device=X.device)


def placed(
    xp: Namespace, X: Array, axis: int, start: int, length: int, value: float = 0.0
) -> Array:
    """`length` places from `start` on along the axis -2 or -3; `value` where X has none."""
    n = X.shape[axis]
    low, high = min(max(start, 0), n), min(max(start + length, 0), n)
    before, after = (low - start, start + length - high) if high > low else (length, 0)
    inside = X[..., low:high, :] if axis == -2 else X[..., low:high, :, :]
    if before == after == 0:
        return inside

    def blank(places: int) -> Array:
        shape = list(X.shape)
        shape[axis] = places
        return filled(xp, X, tuple(shape), value)

    parts = [blank(before)] if before > 0 else []
    parts += [inside] if high > low else []
    parts += [blank(after)] if after > 0 else []
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=axis)


def extended(xp: Namespace, A: Array, rows: Axis, columns: Axis, value: float = 0.0) -> Array:
    """What all windows cover, (…, rows.extent, columns.extent, m), of A (…, rows, columns, m)."""
    A = placed(xp, A, -2, -columns.before, columns.extent, value)
    return placed(xp, A, -3, -rows.before, rows.extent, value)


def taps(A: Array, rows: Axis, columns: Axis) -> list[Array]:
    """What each tap sees, (…, rows.n_out, columns.n_out, m) each, of an `extended` array."""

    def seen(axis: Axis, i: int) -> slice:
        start = i * axis.dilation
        return slice(start, start + (axis.n_out - 1) * axis.stride + 1, axis.stride)

    return [
        A[..., seen(rows, i), seen(columns, j), :]
        for i in range(rows.kernel)
        for j in range(columns.kernel)
    ]


def gathered(xp: Namespace, parts: Sequence[Array]) -> Array:
    """(…, channels, rows, columns, m) each, as one (…, channels, len(parts), rows, columns, m)."""
    if len(parts) == 1:
        return parts[0][..., None, :, :, :]
    return xp.stack(list(parts), axis=-4)


def by_phases(
    xp: Namespace,
    rows: Axis,
    columns: Axis,
    of: Callable[[Phase, Phase], Array],
) -> Array:
    """Every input's share, (…, rows.n, columns.n, m), from those of the pairs of phases.

    of  (phase of the rows, phase of the columns) ↦ (…, rows.per_phase, columns.per_phase, m)
    """
    lines = []
    for high in rows.phases:
        parts = [of(high, wide) for wide in columns.phases]
        lines.append(_interleaved(xp, parts, -2))
    whole = _interleaved(xp, lines, -3)
    return whole[..., : rows.n, : columns.n, :]


def _interleaved(xp: Namespace, parts: Sequence[Array], axis: int) -> Array:
    """The places 0 of all parts, then their places 1, and so on along an axis."""
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] = shape[axis] * len(parts)
    return xp.reshape(xp.stack(list(parts), axis=axis), tuple(shape))


def added(xp: Namespace, parts: Sequence[Array], rows: Axis, columns: Axis) -> Array:
    """What each tap gives back to its input, added where it lies: `taps` turned round.

    parts  one (…, rows.n_out, columns.n_out, m) for each tap
    Returns (…, rows.n, columns.n, m).
    """

    def of(high: Phase, wide: Phase) -> Array:
        total = None
        for i, down in enumerate(high.shifts):
            for j, along in enumerate(wide.shifts):
                tap = (high.first + i * high.every) * columns.kernel
                part = parts[tap + wide.first + j * wide.every]
                part = placed(xp, part, -2, along, columns.per_phase)
                part = placed(xp, part, -3, down, rows.per_phase)
                total = part if total is None else total + part
        if total is None:
            shape = (*parts[0].shape[:-3], rows.per_phase, columns.per_phase, parts[0].shape[-1])
            return filled(xp, parts[0], shape, 0.0)
        return total

    return by_phases(xp, rows, columns, of)
