"""What is dropped is gone: objects, arrays and the GPU's memory are counted (bytes: bench/flat.py).

Each kind of work is done until the caches know it, then some times more: afterwards there may not
be one object more for each time. What grows is named where it is kept: one entry for each kernel.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import need
from mlp_xp import MLP, Sequential
from mlp_xp.devices import device as find_device
from mlp_xp.layers import Activation, BatchNorm, Conv1d, Dense, Flatten

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(6, 90)).astype("float32"), np.arange(90) % 3
TIMES = 3


def made(device: str, **more: Any) -> MLP:
    return MLP((6, 5, 3), device=device, **more)


def fits(device: str, _: Path) -> None:
    model = made(device, normalization="batch", dropout=0.2)
    model.fit(X, Y, epochs=2, batch_size=32, progress=False, validation_data=(X, Y))


def sizes(device: str, _: Path) -> None:
    model = made(device)
    for size in (8, 20, 50):
        model.fit(X, Y, epochs=1, batch_size=size, progress=False)
        model.fit(X[:, :50], Y[:50], epochs=1, batch_size=size, progress=False)


def networks(device: str, _: Path) -> None:
    made(device, seed=[0, 1]).fit(X, Y, epochs=1, progress=False)


def predictions(device: str, _: Path) -> None:
    model = made(device)
    predict = model.predictor(90)
    for n in (1, 3, 90):
        predict(model.device.put(X[:, :n].copy()))
        model.predict(X[:, :n])
        model.evaluate(X[:, :n], Y[:n])


def layers(device: str, _: Path) -> None:
    rows = [Conv1d(2, kernel=3), BatchNorm(), Activation("relu"), Flatten(), Dense(3)]
    model = Sequential((1, 6), rows, device=device)
    model.fit(X, Y, epochs=1, progress=False)
    model.predict(X)


def estimators(device: str, _: Path) -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier

    est = MLPClassifier((5,), max_iter=2, device=device, random_state=0)
    est.fit(X.T, Y).score(X.T, Y)
    est.partial_fit(X.T, Y)


def files(device: str, folder: Path) -> None:
    model = made(device)
    for old in folder.glob("*/*"):
        old.unlink()
    model.fit(X, Y, epochs=2, progress=False, checkpoint=folder / "run", every=0)
    model.save(folder / "model.safetensors")
    MLP.load(folder / "model.safetensors", device=device).predict(X)


def failures(device: str, _: Path) -> None:
    def fails(*_: Any) -> None:
        raise KeyError

    def unfinite() -> None:
        made(device).fit(X * np.float32(np.nan), Y, progress=False)

    model = made(device)
    for error, work in (
        (KeyError, lambda: model.fit(X, Y, epochs=1, progress=False, callbacks=fails)),
        (ValueError, lambda: model.predict(X[:2])),
        (ValueError, unfinite),
    ):
        with pytest.raises(error):
            work()


Work = Callable[[str, Path], None]
WORK: list[Work] = [fits, sizes, networks, predictions, layers, estimators, files, failures]
ON_CUDA = (fits, predictions, failures)  # all that has a memory of its own there, in CI


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """A device's name."""
    if request.param == "cuda":
        need(request, "cupy")
    return str(request.param)


@pytest.fixture(autouse=True, scope="module")
def alone() -> Iterator[None]:
    """What lived before is out of the collector's sight: to look at all that other tests have
    brought, several times a test, took 95 % of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def counts(device: str) -> Counter[str]:
    """What lives: objects by type, buffers of arrays, threads, open files, bytes of the pool."""
    gc.collect()
    gc.collect()  # what the end of the first ones let go
    found = Counter(str(type(thing)) for thing in gc.get_objects())
    found["threads"] = threading.active_count()
    if os.path.isdir("/proc/self/fd"):
        found["open files"] = len(os.listdir("/proc/self/fd"))
    if device == "cuda":
        import cupy

        found["bytes of the pool"] = cupy.get_default_memory_pool().used_bytes()
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    taken = tracemalloc.take_snapshot().filter_traces([arrays])
    found["buffers of arrays"] = len(taken.traces)
    return found


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_work_that_is_done_again_leaves_nothing(
    work: Work, device: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if device == "cuda" and work not in ON_CUDA and not request.config.getoption("--exhaustive"):
        pytest.skip("compiles many kernels: --exhaustive")
    for _ in range(2):
        work(device, tmp_path)
    tracemalloc.start()  # not before, for it is slow
    try:
        counts(device)
        work(device, tmp_path)
        before = counts(device)
        for _ in range(TIMES):
            work(device, tmp_path)
        more = counts(device) - before
    finally:
        tracemalloc.stop()
    assert {what: n for what, n in more.items() if n >= TIMES} == {}


def test_a_leak_would_be_counted() -> None:
    kept: list[Any] = []
    tracemalloc.start()
    try:
        before = counts("cpu")
        kept += [(made("cpu"), np.zeros(3)) for _ in range(TIMES)]
        more = counts("cpu") - before
    finally:
        tracemalloc.stop()
    assert more["<class 'mlp_xp.mlp.MLP'>"] == TIMES
    assert more["buffers of arrays"] >= 2 * TIMES


def test_a_model_that_is_dropped_is_gone_at_once(device: str) -> None:
    """Not when the garbage collector comes by: a GPU's memory would wait for it."""
    model = made(device)
    model.fit(X, Y, epochs=1, progress=False)
    predict = model.predictor(9)
    predict(model.device.put(X[:, :9].copy()))
    model.predict(X)
    gone, kept = weakref.ref(model), gc.isenabled()
    gc.disable()
    try:
        del model, predict
        assert gone() is None
    finally:
        if kept:
            gc.enable()


@pytest.mark.parametrize("kind", ["MLP", "NeuralClassifier", "MLPClassifier"])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_examples_in_a_file_that_is_mapped_stay_there(kind: str, axis: Any, tmp_path: Path) -> None:
    """Of rows in the model's dtype a batch is copied, and nothing else: so ranks share pages."""
    if axis == "columns" and kind != "MLP":
        pytest.skip("estimators take rows")
    if kind != "MLP":
        pytest.importorskip("sklearn")
    import mlp_xp

    shape = (100_000, 100) if axis == "rows" else (100, 100_000)
    whole = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "float32", shape)
    whole[:, ::7] = 1.0
    whole.flush()
    X, y = np.load(tmp_path / "X.npy", mmap_mode="r"), np.arange(100_000, dtype="int8") % 3
    options: dict[str, Any] = {"epochs": 1, "batch_size": 500}
    fit: dict[str, Any] = {}
    if kind == "MLP":
        model: Any = MLP((100, 4, 3))
        fit = {**options, "progress": False, "layout": axis}
    elif kind == "MLPClassifier":
        model = mlp_xp.MLPClassifier((4,), max_iter=1, batch_size=500, random_state=0)
    else:
        model = mlp_xp.NeuralClassifier("dense:4", random_state=0, **options)
    tracemalloc.start()
    try:
        model.fit(X, y, **fit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    copied = peak > X.nbytes // 5
    assert copied == (axis == "columns"), f"{peak / 1e6:.1f} MB of {X.nbytes / 1e6:.0f}"


@pytest.mark.parametrize("shape", [(3_000_000,), (3, 1_000_000), (1_000_000, 3), (1, 3_000_000)])
def test_a_number_that_is_none_is_found_wherever_it_lies(shape: tuple[int, ...]) -> None:
    """Arrays are looked at some lines at a time."""
    array, cpu = np.zeros(shape, "float32"), find_device("cpu")
    assert cpu.all_finite(array)
    for place in (0, 1_500_000, -1):
        for bad in (np.nan, -np.inf):
            array.reshape(-1)[place] = bad
            assert not cpu.all_finite(array)
            array.reshape(-1)[place] = 0
    assert cpu.all_finite(array.T)


def test_networks_of_other_shapes_leave_kernels_alone(cupy: Any) -> None:
    """Of 20 shapes nothing is left on the device but what all networks share."""
    pool = cupy.get_default_memory_pool()

    def drop(first: int) -> int:
        for hidden in range(first, first + 4):
            model = MLP((6, hidden, 3), device="cuda")
            model.fit(X, Y, epochs=1, batch_size=30, progress=False)
            model.predict(X)
        del model
        gc.collect()
        return int(pool.used_bytes())

    before = drop(5)
    assert [drop(9 + 4 * i) - before for i in range(4)] == [0] * 4


@pytest.mark.parametrize("seed", [0, [0, 1]])
@pytest.mark.parametrize("hidden", [5, 30])  # rows that are gathered, and fetched where they lie
def test_rows_are_held_no_longer_than_a_fit_lasts(hidden: int, seed: Any) -> None:
    rows, labels = np.ascontiguousarray(X.T), Y.copy()
    gc.collect()
    gc.disable()
    try:
        before = sys.getrefcount(rows), sys.getrefcount(labels)
        MLP((6, hidden, 3), seed=seed).fit(
            rows, labels, layout="rows", epochs=2, batch_size=32, progress=False
        )
        assert (sys.getrefcount(rows), sys.getrefcount(labels)) == before
    finally:
        gc.enable()
