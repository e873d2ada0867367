"""What a device is: a namespace, a kernel set, and the ways in and out.

A `Device` is a value: any array API library becomes one with
`Device(name, xp, SPEC, put, get, synchronize)`, which is how the tests train on array-api-strict
and PyTorch. Those that have a name stand in `devices`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import numpy.typing as npt

from .kernels import Kernels
from .types import Array, Namespace

F = TypeVar("F", bound=Callable[..., Any])


def _unlimited(sizes: Sequence[int], batch_size: int) -> AbstractContextManager[object]:
    return nullcontext()


class Device(NamedTuple):
    """Where arrays live and who computes.

    name         as the user gives it
    xp           array API namespace
    kernels      kernel set
    put          (host array, copy=False) → array on the device; arrays that are there stay
    get          array on the device → NumPy array; waits for the device
    synchronize  wait until all work is done
    reads_wait   whether reading a number stops the device, as on a GPU
    stepper      (recipe, device, data) → a faster `training.Step`, or None where the
                 specification has to do it; or None
    draw_bits    (seeds, leading, step, size) → `draws.dropout_bits` drawn there, or None
    threads      (sizes, batch size) → a context to run the steps of such a network in
    host_rows    (rows on the host, dtype) → what stands for them where they are too many for
                 the device, or None where they fit
    put_rows     (rows on the host, dtype) → C-ordered rows on the device in that dtype: a
                 faster way than putting and converting them, or None
    finite       (array, or what host_rows gave) → bool: a faster xp.all(xp.isfinite), or None
    active       a context in which to compute there, and which explains its errors
    predictor    (recipe, layers) → a faster function rows → predictions, or None
    scorer       (device) → a faster `training.Scores`, or None
    function     (formula (xp, *arrays) → arrays, dtype, what tells the formula from others) → a
                 faster function of the arrays, whose results lie where the last ones did, until its
                 `end()`; or None
    copy         array → one of its own, where what computes there likes it to lie; or None
    """

    name: str
    xp: Namespace
    kernels: Kernels
    put: Callable[[Any], Array]
    get: Callable[[Array], npt.NDArray[Any]]
    synchronize: Callable[[], None]
    reads_wait: bool = False
    stepper: Callable[..., Any] | None = None
    draw_bits: Callable[..., Array] | None = None
    threads: Callable[[Sequence[int], int], AbstractContextManager[object]] = _unlimited
    host_rows: Callable[[Any, str], Any] | None = None
    put_rows: Callable[[Any, Any], Array] | None = None
    finite: Callable[[Any], bool] | None = None
    active: Callable[[], AbstractContextManager[None]] = nullcontext
    predictor: Callable[..., Any] | None = None
    scorer: Callable[..., Any] | None = None
    function: Callable[..., Any] | None = None
    copy: Callable[[Array], Array] | None = None

    def __repr__(self) -> str:
        return f"<Device {self.name}>"

    def copied(self, array: Array) -> Array:
        """An array of its own with the same entries."""
        return self.xp.asarray(array, copy=True) if self.copy is None else self.copy(array)

    def all_finite(self, array: Array) -> bool:
        """Whether there is nothing infinite and no NaN in an array; waits for the device."""
        if self.finite is not None:
            return self.finite(array)
        return bool(self.xp.all(self.xp.isfinite(array)))

    def __copy__(self) -> Device:
        return self

    def __deepcopy__(self, memo: object) -> Device:
        """Itself, as scikit-learn's `clone` wants it: a namespace cannot be copied."""
        return self


class DeviceUnavailable(RuntimeError):
    """A device that cannot run here; says why, and what to do about it."""


def on_device(method: F) -> F:
    """A method that runs in the `active` context of its object's `device`."""

    @wraps(method)
    def inside(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.device.active():
            return method(self, *args, **kwargs)

    return cast(F, inside)


__all__ = ["Device", "DeviceUnavailable", "on_device"]
