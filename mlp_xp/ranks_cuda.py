"""Ranks with a GPU each (`ranks`): MPI carries what lies on the host, NCCL sums what does not.

A step is traced with its exchanges as nodes, calls of NCCL on the step's stream
(`compile.cuda_sums`), captured in its graph with the rest.
"""

from __future__ import annotations

import ctypes
import platform
import warnings
from collections.abc import Callable
from typing import Any

from .hardware import Device
from .training import Data, Recipe


def is_cuda(device: Device) -> bool:
    return device.name.partition(":")[0] == "cuda"


def told(device: Device) -> dict[str, str]:
    """What the ranks compare of their GPUs beside `devices.circumstances`; which one is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is missing `connect` says
        from cupy.cuda import nccl

    version = str(nccl.get_version()) if nccl.available else "missing"
    return {"the device": "cuda", "NCCL": version}


def connect(votes: Callable[[Any], list[Any]], rank: int, device: Device) -> Any:
    """The `compile.cuda_sums.Sums` of the ranks' GPUs, made once for the same; called by all ranks.

    Raises `ImportError` without NCCL, `ValueError` where two ranks have one GPU.
    """
    import cupy
    from cupy.cuda import nccl

    from .compile.cuda_sums import Sums

    runtime = cupy.cuda.runtime
    if not nccl.available:
        major = runtime.runtimeGetVersion() // 1000
        raise ImportError(
            "Training on several GPUs needs NCCL, which CuPy does not find: "
            f"pip install nvidia-nccl-cu{major}, for cupy-cuda{major}x",
            name="nccl",
        )
    with device.active():
        own = (platform.node(), runtime.deviceGetPCIBusId(runtime.getDevice()))
        gpus = votes((own, runtime.getDeviceCount()))
        for other, ((node, gpu), count) in enumerate(gpus):
            first = next(i for i, (theirs, _) in enumerate(gpus) if theirs == (node, gpu))
            if first < other:
                raise ValueError(
                    f"ranks {first} and {other} both compute on GPU {gpu} of {node}, but each "
                    f"needs its own: expected as many ranks on a node as GPUs, {count} there, and "
                    "device='cuda', which gives every rank another."
                )
        key = tuple(theirs for theirs, _ in gpus)
        if key not in _MADE:
            unique = votes(nccl.get_unique_id() if rank == 0 else None)[0]
            communicator = nccl.NcclCommunicator(len(gpus), unique, rank)
            # it ends with the process: to destroy it would be to wait for the other ranks, and
            # for graphs that hold its calls, while the interpreter takes all apart
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(communicator))
            _MADE[key] = Sums(communicator)
    return _MADE[key]


_MADE: dict[Any, Any] = {}


def stepper(recipe: Recipe, device: Device, data: Data, **of: Any) -> Any:
    """A `training.Step` that takes whole batches and computes this rank's share of them.

    of  the fields of `compile.cuda_step.Shared`
    """
    from .compile.cuda_step import Shared

    fields = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    assert device.stepper is not None
    found = device.stepper(Shared(**{**fields, **of}), device, data)
    if found is None:  # the specification's own steps would be of this rank alone
        raise TypeError(f"steps on {type(data).__name__} of {data.rows.dtype} are not traced")
    return found


__all__ = ["connect", "is_cuda", "stepper", "told"]
