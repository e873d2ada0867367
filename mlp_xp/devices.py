"""Devices: rows of a namespace, a kernel set, and the ways in and out.

The only place that knows which library runs where. A `Device` is a value: any array API
library becomes one with `Device(name, xp, SPEC, put, get, synchronize)`, which is how
the tests train on array-api-strict and PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from .kernels import SPEC, Kernels
from .pickling import portable
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
                 faster function of the arrays, whose results lie where the last ones did; or None
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

    def __reduce__(self) -> tuple[Any, ...]:
        """By its name, as another process finds it, without `graph`; one of your own as it is."""
        if self.name.partition(":")[0] in DEVICES:
            return device, (self.name,)
        return Device, tuple(portable("device", part) for part in self)


class DeviceUnavailable(RuntimeError):
    """A device that cannot run here; says why, and what to do about it."""


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
    from .compile.step import stepper

    return stepper(*arguments)


def _blas_threads(sizes: Sequence[int], batch_size: int) -> AbstractContextManager[object]:
    from .fast.threads import threads

    return threads(sizes, batch_size)


def _numpy_predictor(*arguments: Any) -> Any:
    from .compile.predict import predictor

    return predictor(*arguments)


def _numpy_scorer(device: Device) -> Any:
    from .compile.scores import CompiledScores

    return CompiledScores(device)


def _numpy_function(*arguments: Any) -> Any:
    from .compile.function import or_specified

    return or_specified(*arguments)


def _cpu() -> Device:
    return Device(
        "cpu",
        _numpy_namespace(),
        SPEC,
        np.asarray,
        np.asarray,
        lambda: None,
        stepper=_numpy_stepper,
        predictor=_numpy_predictor,
        scorer=_numpy_scorer,
        function=_numpy_function,
        threads=_blas_threads,
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


def on_device(method: F) -> F:
    """A method that runs in the `active` context of its object's `device`."""

    @wraps(method)
    def inside(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.device.active():
            return method(self, *args, **kwargs)

    return cast(F, inside)
