"""Devices by their names: the only place that knows which library runs where."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .hardware import Device, DeviceUnavailable
from .kernels import SPEC
from .pickling import portable

LOOKED_AT = 1 << 20  # numbers that are looked at together


class DeviceStatus(NamedTuple):
    """One line of `mlp-xp devices`: what it is, whether it can run here, and why not."""

    name: str
    available: bool
    detail: str


def _numpy_stepper(*arguments: Any) -> Any:
    from .compile.step import stepper

    return stepper(*arguments)


@cache  # the import alone takes 3 µs, every epoch
def _threads() -> Callable[[Sequence[int], int], AbstractContextManager[object]]:
    from .fast.threads import threads

    return threads


def _blas_threads(sizes: Sequence[int], batch_size: int) -> AbstractContextManager[object]:
    return _threads()(sizes, batch_size)


def _numpy_predictor(*arguments: Any) -> Any:
    from .compile.predict import predictor

    return predictor(*arguments)


def _numpy_scorer(device: Device) -> Any:
    from .compile.scores import CompiledScores

    return CompiledScores(device)


def _numpy_function(*arguments: Any) -> Any:
    from .compile.function import OrSpecified

    return OrSpecified(*arguments)


def _numpy_finite(array: npt.NDArray[Any]) -> bool:
    """Some lines at a time: the answers for all of a file that is mapped would fill the memory."""
    if array.size <= LOOKED_AT:
        return bool(np.isfinite(array).all())
    lines = max(1, LOOKED_AT * len(array) // array.size)
    parts = (array[start : start + lines] for start in range(0, len(array), lines))
    return all(_numpy_finite(part) if len(array) > 1 else _numpy_finite(part[0]) for part in parts)


@cache
def _copy() -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    from .fast.aligned import copy

    return copy


def _numpy_copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return _copy()(array)


def _cpu() -> Device:
    return Device(
        "cpu",
        np,
        SPEC,
        np.asarray,
        np.asarray,
        lambda: None,
        stepper=_numpy_stepper,
        predictor=_numpy_predictor,
        scorer=_numpy_scorer,
        function=_numpy_function,
        threads=_blas_threads,
        finite=_numpy_finite,
        copy=_numpy_copy,
    )


def _cuda(number: int | None = None, graph: Any = "auto") -> Device:
    from .fast.device import cuda

    return cuda(number, graph)


DEVICES: dict[str, Callable[[], Device]] = {"cpu": _cpu, "cuda": _cuda}


def device(name: str | Device, *, graph: bool | str = "auto") -> Device:
    """The device of that name; a `Device` is itself.

    name   "cpu"; "cuda", CuPy's current device, and among processes of MPI on a machine one of
           its own for each; "cuda:1", that number; "auto", a CUDA device where one can run, else
           the CPU
    graph  on CUDA: whether whole training steps are captured and replayed. "auto": where
           replay has proved itself on the network in hand; True: or else an error
    """
    if isinstance(name, Device):
        return name
    if graph not in (True, False, "auto"):
        raise ValueError(f"graph is {graph!r}, but expected True, False or 'auto'.")
    if name == "auto":
        try:
            return _cuda(graph=graph)
        except DeviceUnavailable:
            return _cpu()
    kind, _, number = str(name).partition(":")
    if kind == "cuda" and (number.isdecimal() or name == "cuda"):
        return _cuda(int(number) if number else None, graph)
    if name not in DEVICES:
        raise ValueError(
            f"device is {name!r}, but expected 'cpu', 'cuda', 'cuda:0', 'cuda:1' … or 'auto'. "
            "`mlp-xp devices` shows what can run here."
        )
    return DEVICES[name]()


def _reduced(one: Device) -> tuple[Any, ...]:
    """By its name, as another process finds it, without `graph`; one of your own as it is."""
    if one.name.partition(":")[0] in DEVICES:
        return device, (one.name,)
    return Device, tuple(portable("device", part) for part in one)


copyreg.pickle(Device, _reduced)


def devices() -> list[DeviceStatus]:
    """What can run here, and why not."""
    from .fast import native
    from .fast.device import status

    found = [DeviceStatus("cpu", True, f"NumPy {np.__version__}, {native.status()}")]
    return found + [DeviceStatus(*row) for row in status()]


def circumstances(device: Device) -> dict[str, str]:
    """What the last bits of a training on a device depend on beside recipe and data: in words."""
    found = {"the device": device.name, "NumPy": np.__version__}
    if device.stepper is _numpy_stepper:
        from .fast import blas, native
        from .fast.threads import Alone

        libraries = [library.info() for library in blas.libraries()]
        named = [f"{one['internal_api']} {one['version']}" for one in libraries]
        kinds = [str(one.get("architecture", "")) for one in libraries]
        found |= {"the BLAS": ", ".join(named), "the processor": ", ".join(kinds)}
        found["how steps are made"] = native.status()
        with Alone() as threads:
            found["the number of threads"] = str(threads)
    elif device.name.partition(":")[0] == "cuda":
        from .fast.device import status

        known = {name: detail for name, _, detail in status()}
        found["the GPU"] = known.get(device.name) or next(iter(known.values()))
    return found


__all__ = ["DeviceStatus", "circumstances", "device", "devices"]
