"""Devices: rows of a namespace, a kernel set, and the ways in and out.

The only place that knows which library runs where. A `Device` is a value: any array API
library becomes one with `Device(name, xp, SPEC, put, get, synchronize)`, which is how
the tests train on array-api-strict and PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .kernels import SPEC, Kernels
from .types import Array, Namespace


class Device(NamedTuple):
    """Where arrays live and who computes.

    name         as the user gives it
    xp           array API namespace
    kernels      kernel set
    put          (host array, copy=False) → array on the device; arrays that are there stay
    get          array on the device → NumPy array; waits for the device
    synchronize  wait until all work is done
    reads_wait   whether reading a number stops the device, as on a GPU
    stepper      (recipe, device, data) → a faster `training.Step`, or None
    """

    name: str
    xp: Namespace
    kernels: Kernels
    put: Callable[[Any], Array]
    get: Callable[[Array], npt.NDArray[Any]]
    synchronize: Callable[[], None]
    reads_wait: bool = False
    stepper: Callable[..., Any] | None = None


class DeviceStatus(NamedTuple):
    """One line of `mlp-xp devices`: what it is, whether it can run here, and why not."""

    name: str
    available: bool
    detail: str


def _numpy_namespace() -> Namespace:
    """NumPy itself, which follows the standard from 2.1 on; its wrapper for 2.0.

    The wrapper imports all of NumPy, numpy.testing and numpy.f2py included, which takes
    half as long again as NumPy.
    """
    if hasattr(np, "astype"):
        return np
    import array_api_compat.numpy as xp

    return xp


def _numpy_stepper(*arguments: Any) -> Any:
    from .fast.numpy import stepper

    return stepper(*arguments)


def _cpu() -> Device:
    return Device(
        "cpu",
        _numpy_namespace(),
        SPEC,
        np.asarray,
        np.asarray,
        lambda: None,
        stepper=_numpy_stepper,
    )


DEVICES: dict[str, Callable[[], Device]] = {"cpu": _cpu}


def device(name: str | Device) -> Device:
    """The device of that name; a `Device` is itself."""
    if isinstance(name, Device):
        return name
    if name not in DEVICES:
        raise ValueError(
            f"device is {name!r}, but expected one of {', '.join(map(repr, DEVICES))}. "
            "`mlp-xp devices` shows what can run here."
        )
    return DEVICES[name]()


def devices() -> list[DeviceStatus]:
    """What can run here, and why not."""
    return [DeviceStatus("cpu", True, f"NumPy {np.__version__}")]
