"""One fixture over every array library that can run here: `backend`.

    numpy             arrays as they are
    numpy-readonly    every input refuses to be written to
    strict            array-api-strict on its default device, strictest flags
    strict-device1    on a device that refuses NumPy and mixing, as a GPU does
    torch             PyTorch on the CPU, where installed
    cupy              CuPy, where it can run

A library that is missing skips its tests, naming itself; `--require NAME` turns that
skip into a failure, so that no run passes by skipping.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Before NumPy is loaded: small products on two threads that wait for each other are up
# to twenty times slower on a busy machine than on one.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np
import pytest

from mlp_xp.devices import device as find_device
from mlp_xp.fast import native, quota
from mlp_xp.hardware import Device
from mlp_xp.kernels import SPEC

REQUIRABLE = (
    "torch",
    "cupy",
    "onnx",
    "onnxruntime",
    "skl2onnx",
    "jax",
    "dask",
    "distributed",
    "pyarrow",
    "zarr",
    "h5py",
    "matplotlib",
    "tensorboard",
    "mlflow",
    "wandb",
    "mpi4py",
)
BACKENDS = ("numpy", "numpy-readonly", "strict", "strict-device1", "torch", "cupy")


class Backend(NamedTuple):
    """An array library as a test sees it.

    asarray  NumPy array → the library's array
    get      the library's array → NumPy array
    device   to give to `MLP(device=…)`
    """

    name: str
    xp: Any
    asarray: Callable[[Any], Any]
    get: Callable[[Any], np.ndarray]
    device: Device


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="LIBRARY",
        help="fail instead of skipping where this library (torch, cupy, onnxruntime …) cannot run",
    )
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="try every mutation of files, not a sample",
    )
    parser.addoption(
        "--seed",
        type=int,
        default=None,
        metavar="N",
        help="the sample of mutations to try, as a failed run printed it",
    )


def pytest_configure(config: pytest.Config) -> None:
    for name in config.getoption("--require"):
        if name not in REQUIRABLE:
            raise pytest.UsageError(f"--require {name}: expected one of {', '.join(REQUIRABLE)}")


def need(request: pytest.FixtureRequest, name: str) -> Any:
    """Import a library, or skip the test, or fail it under --require."""
    try:
        module = importlib.import_module(name)
        if name == "cupy" and not module.cuda.is_available():
            raise ImportError("cupy finds no CUDA device")
        return module
    except ImportError as error:
        message = f"{name} cannot run here: {error}"
        if name in request.config.getoption("--require"):
            pytest.fail(message)
        pytest.skip(message)


def _numpy(name: str) -> Backend:
    cpu = find_device("cpu")

    def readonly(array: Any) -> np.ndarray:
        copy = np.array(array)
        copy.flags.writeable = False
        return copy

    if name == "numpy":
        return Backend(name, cpu.xp, np.array, np.asarray, cpu)
    device = cpu._replace(name=name, put=readonly, stepper=None)
    return Backend(name, cpu.xp, readonly, np.asarray, device)


def _strict(name: str) -> Backend:
    import array_api_strict as xp

    xp.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False)
    where = xp.Device("device1" if name == "strict-device1" else "CPU_DEVICE")

    def put(array: Any) -> Any:
        if hasattr(array, "__array_namespace__") and not isinstance(array, np.ndarray):
            return array
        return xp.asarray(np.array(array), device=where)

    def get(array: Any) -> np.ndarray:
        return np.asarray(array.to_device(xp.Device("CPU_DEVICE")))

    return Backend(name, xp, put, get, Device(name, xp, SPEC, put, get, lambda: None))


def _torch(torch: Any) -> Backend:
    import array_api_compat.torch as xp

    def put(array: Any) -> Any:
        if isinstance(array, torch.Tensor):
            return array
        array = np.array(array)
        return torch.from_numpy(array.astype(np.int32) if array.dtype == np.uint16 else array)

    def get(array: Any) -> np.ndarray:
        return array.numpy()

    return Backend("torch", xp, put, get, Device("torch", xp, SPEC, put, get, lambda: None))


def _cupy(cupy: Any) -> Backend:
    device = find_device("cuda")
    return Backend("cupy", device.xp, cupy.asarray, device.get, device)


@pytest.fixture(scope="session", autouse=True)
def any_number_of_threads() -> Iterator[None]:
    """Tests ask for threads that the container they run in may have no processors for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quota, "processors", lambda: quota.MANY)
        yield


@pytest.fixture(autouse=True, scope="session")
def _all_shared() -> None:
    """What is to run on several threads does, whether or not that pays on this machine."""
    if native.available():
        native.runtime().use_weights(0)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each array library in turn."""
    name: str = request.param
    if name.startswith("numpy"):
        return _numpy(name)
    if name.startswith("strict"):
        return _strict(name)
    return {"torch": _torch, "cupy": _cupy}[name](need(request, name))


@pytest.fixture
def torch(request: pytest.FixtureRequest) -> Any:
    """PyTorch as a reference to compare with."""
    return need(request, "torch")


@pytest.fixture
def cupy(request: pytest.FixtureRequest) -> Any:
    """CuPy, on a device."""
    return need(request, "cupy")


@pytest.fixture
def counting(cupy: Any) -> Any:
    """The module that counts launches, copies and waits; a device does not tell them.

    Streams of tests before, which are waited for when garbage is collected, are none of its.
    """
    gc.collect()
    return pytest.importorskip("cupy_cpu", reason="only CuPy on the CPU counts")


@pytest.fixture
def random() -> np.random.Generator:
    """Random inputs, the same in every run."""
    return np.random.default_rng(20220530)


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> int | None:
    """The seed of this run's sample, which a failure shows; None: everything is tried."""
    if request.config.getoption("--exhaustive"):
        return None
    seed = request.config.getoption("--seed")
    seed = int(time.time()) // 86400 if seed is None else int(seed)
    print(f"repeat with --seed {seed}")
    return seed


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of the moments at which trainings are killed, which a failure shows."""
    seed = request.config.getoption("--seed")
    seed = time.time_ns() % 1_000_000 if seed is None else int(seed)
    print(f"repeat with --seed {seed}")
    return seed


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as Python answers it, here and in processes that are started.

    A job that a shell starts in the background is told to ignore it, and so is what that starts.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def tolerance(dtype: Any, terms: int = 1) -> dict[str, float]:
    """rtol and atol for results of `terms` summed terms of size one."""
    eps = float(np.finfo(dtype).eps)
    return {"rtol": 16 * eps * terms**0.5, "atol": 16 * eps * terms**0.5}
