"""Data go up whole or batch by batch, in few copies and without a wait, and are the same there.

Rows that do not fit on the device train from the host, and the numbers are the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, TrainingDiverged, checks


def problem() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(6, 90))
    return X, (X[0] > 0) + 1 * (X[1] > 0)


@pytest.fixture
def crowded(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has no room for rows."""
    from mlp_xp.fast import upload

    monkeypatch.setattr(upload, "room", lambda: 100)


def history(**settings: Any) -> list[float]:
    X, y = problem()
    model = MLP((6, 9, 3), device="cuda", dropout=0.2, normalization="batch", **settings)
    model.fit(X, y, epochs=3, batch_size=16, validation_data=(X, y), progress=False)
    np.testing.assert_array_equal(model.evaluate(X, y).loss, model.history["validation_loss"][-1])
    return [float(np.sum(v)) for v in model.history["loss"] + model.history["validation_loss"]]


@pytest.mark.parametrize("seed", [3, [3, 4]])
def test_rows_on_the_host_train_as_rows_on_the_device(
    cupy: Any, seed: Any, request: pytest.FixtureRequest
) -> None:
    expected = history(seed=seed)
    request.getfixturevalue("crowded")
    assert history(seed=seed) == expected


def test_a_batch_goes_up_a_step_and_no_step_is_waited_for(counting: Any, crowded: None) -> None:
    X, y = problem()
    model, counts = MLP((6, 9, 3), device="cuda"), list[Any]()
    model.fit(
        *(X, y),
        epochs=3,
        batch_size=10,
        callbacks=[lambda m, e: counts.append(counting.counters())],
        progress=False,
    )
    last = counts[2] - counts[1]
    assert last.kernels["score"] == 9
    assert last.copies["H2D"].calls <= 9 + 2  # 9 batches; the order and the rates
    assert last.copies["H2D"].bytes < 1.5 * X.size * 4
    waits = {name: n for name, n in last.synchronisations.items() if "Event" not in name}
    assert sum(waits.values()) == 4  # for the history and whether the weights are finite


def test_faults_in_rows_on_the_host_are_found(crowded: None) -> None:
    X, y = problem()
    X[2, 7] = np.inf
    with pytest.raises(ValueError, match=r"X holds inf at \[2, 7\]"):
        MLP((6, 9, 3), device="cuda").fit(X, y, progress=False)
    X[2, 7] = 1e300
    with pytest.raises(ValueError, match="finite numbers that fit float32"):
        MLP((6, 9, 3), device="cuda").fit(X, y, progress=False)
    X[2, 7] = 1
    model = MLP((6, 9, 3), device="cuda", optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match="scale the features"):
        model.fit(1e4 * X, y, progress=False)


# -- all at once ---------------------------------------------------------------------


@pytest.fixture
def fine(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`fast.upload` with buffers of 1,000 bytes, so that little arrays go up as large ones do."""
    from mlp_xp.fast import upload

    monkeypatch.setattr(upload, "SMALL", 64)
    monkeypatch.setattr(upload, "CHUNK", 1000)
    monkeypatch.setattr(upload, "LEAST", 100)
    upload.ring.cache_clear()
    yield upload
    cupy.cuda.Device().synchronize()  # nothing reads what is freed here
    upload.ring.cache_clear()


@pytest.fixture
def pinned(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is pinned, one after the other."""
    sizes, allocate = list[int](), cupy.cuda.alloc_pinned_memory

    def counted(size: int) -> Any:
        sizes.append(size)
        return allocate(size)

    monkeypatch.setattr(cupy.cuda, "alloc_pinned_memory", counted)
    return sizes


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers, lying in memory in every way."""
    m, n = array.shape
    gaps = np.zeros((2 * m, 3 * n), array.dtype)
    gaps[::2, 1::3] = array
    return {
        "rows": np.ascontiguousarray(array),
        "columns": np.asfortranarray(array),
        "rows with gaps": gaps[::2, 1::3],
        "columns with gaps": np.asfortranarray(gaps)[::2, 1::3],
        "from the end": np.ascontiguousarray(array[::-1])[::-1],
        "of the other byte order": array.astype(array.dtype.newbyteorder(">")),
    }


LAYOUTS = list(layouts(np.zeros((1, 1))))
DTYPES = ("float64", "float32", "float16", "uint8", "int64", "int32", "bool")


@pytest.mark.parametrize("shape", [(37, 53), (3, 700), (700, 3), (1, 900), (900, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_dtype_goes_up_as_it_is(
    fine: Any, layout: str, dtype: str, shape: tuple[int, int]
) -> None:
    given = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    rows = layouts(given)[layout]
    for wanted in ("float32", "float64"):
        there = fine.up(rows, wanted)
        assert there.dtype == wanted
        assert there.flags.c_contiguous
        np.testing.assert_array_equal(there.get(), given.astype(wanted))
    same = fine.put(rows)
    assert same.dtype == dtype
    assert same.flags.f_contiguous if rows.flags.fnc else same.flags.c_contiguous
    np.testing.assert_array_equal(same.get(), given)


def test_arrays_of_any_number_of_axes_go_up(fine: Any) -> None:
    cube = np.random.default_rng(0).normal(size=(7, 8, 90))
    arrays = [np.array(3.0), np.empty(0), np.empty((0, 4)), np.arange(900), np.arange(900)[::2]]
    for array in [*arrays, cube, cube.swapaxes(0, 2), cube[:, ::2]]:
        there = fine.put(array)
        assert there.shape == array.shape
        assert there.dtype == array.dtype
        np.testing.assert_array_equal(there.get(), array)


@pytest.mark.parametrize(
    ("dtype", "width"), [("float32", 4), ("float64", 4), ("uint8", 1), ("int64", 4)]
)
def test_the_narrower_dtype_goes_up_and_nothing_is_pinned_twice(
    fine: Any, counting: Any, pinned: list[int], dtype: str, width: int
) -> None:
    """float32 is wanted of 100 rows of 50."""
    rows = np.ones((100, 50), dtype)
    for _ in range(2):
        with counting.count() as counted:
            fine.up(rows, "float32")
        tiles = -(-100 // (1000 // width // 50))
        assert counted.copies == {"H2D": counting.Copies(tiles, 5000 * width)}
        assert set(counted.kernels) == (set() if width == 4 else {"cupy_copy__uint8_float32"})
        assert set(counted.synchronisations) <= {"cudaEventSynchronize"}
    assert set(pinned) == {1000}
    assert len(pinned) <= fine.ring().count


def test_what_is_small_goes_up_in_one_copy_and_pins_nothing(
    counting: Any, pinned: list[int]
) -> None:
    from mlp_xp.fast import upload

    with counting.count() as counted:
        upload.up(np.ones((20, 30)).T, "float32")
        upload.put(np.arange(50))
    assert counted.copies == {"H2D": counting.Copies(2, 600 * 4 + 50 * 8)}
    assert counted.kernels == {}
    assert counted.waits == 0
    assert pinned == []


def test_the_threads_fill_while_others_are_copied(fine: Any) -> None:
    """Half of the buffers are being filled when the first of them is taken."""
    fine.put(np.ones(100_000))
    ring, seen = fine.ring(), list[int]()
    ring.start(
        fine.Tile(place, (1,), np.dtype("f4"), lambda out: out.fill(1), ()) for place in range(9)
    )
    import cupy

    for place, array in ring.filled(cupy.cuda.get_current_stream()):
        assert array[0] == 1
        seen.append(len(ring.filling) + 1)
        assert place == len(seen) - 1
    assert max(seen) == ring.count // 2
    assert len(seen) == 9


def test_several_threads_and_streams_may_put_at_once(fine: Any, cupy: Any) -> None:
    arrays = [np.random.default_rng(i).normal(size=(40, 60)) for i in range(8)]

    def there(array: np.ndarray) -> Any:
        with cupy.cuda.Stream(non_blocking=True) as stream:
            doubled = 2 * fine.up(array.T, "float32")
            return doubled.get(stream=stream, blocking=True)

    with ThreadPoolExecutor(4) as pool:
        for array, found in zip(arrays, pool.map(there, arrays), strict=True):
            np.testing.assert_array_equal(found, 2 * array.T.astype("float32"))


def test_after_an_error_the_buffers_serve_again(fine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, copy, calls = np.random.default_rng(0).normal(size=(50, 50)), fine._copy, list[int]()

    def failing(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        copy(*arguments)

    monkeypatch.setattr(fine, "_copy", failing)
    with pytest.raises(KeyboardInterrupt):
        fine.up(rows, "float64")
    assert not fine.ring().filling
    for _ in range(3):
        np.testing.assert_array_equal(fine.up(rows, "float64").get(), rows)


def test_where_no_more_can_be_pinned_data_go_up_all_the_same(
    fine: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp.fast import pinned

    def refused(size: int) -> Any:
        raise cupy.cuda.runtime.CUDARuntimeError(pinned.MEMORY_ALLOCATION)

    rows = np.random.default_rng(0).normal(size=(50, 60))
    fine.put(rows[:3, :20])  # one buffer is pinned, the others are not
    monkeypatch.setattr(cupy.cuda, "alloc_pinned_memory", refused)
    for _ in range(2):
        np.testing.assert_array_equal(fine.put(rows).get(), rows)


def test_examples_are_checked_where_they_are_and_targets_where_they_were(
    fine: Any, counting: Any
) -> None:
    """One wait for all of them, and one byte comes down."""
    X, y = problem()
    model = MLP((6, 9, 3), device="cuda")
    for labels in (y, np.eye(3)[:, y]):
        arguments = (model.network.sizes, "multiclass", model.device, "float32")
        with counting.count() as counted:
            checks.data(np.asfortranarray(X), labels, np.ones(90), *arguments, several=True)
        assert counted.kernels == {"finite": 1}
        assert counted.copies["D2H"] == counting.Copies(1, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_bad_value_is_named_by_its_place(fine: Any, dtype: str) -> None:
    X, y = problem()
    model = MLP((6, 9, 3), device="cuda", dtype=dtype)
    for wrong in (np.nan, -np.inf, 1e300):
        X[3, 50], X[4, 2] = wrong, wrong
        if wrong == 1e300 and dtype == "float64":
            assert model.predict(X).shape == (90,)
            continue
        for given in (X, np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
            with pytest.raises(ValueError, match=r"X holds .* at \[3, 50\] \(2 such values in all"):
                model.fit(given, y, progress=False)


def test_an_estimator_brings_its_rows_up_once_in_its_own_dtype(fine: Any, counting: Any) -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier

    X, y = problem()
    model = MLPClassifier((9,), device="cuda", dtype="float32", max_iter=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X.T, y)
    with counting.count() as counted:
        model.predict_proba(X.T)
    assert counted.copies["H2D"].bytes == X.size * 4
    expected = model.predict_proba(X.T.astype("float32"))
    np.testing.assert_array_equal(model.predict_proba(np.asfortranarray(X.T)), expected)


# -- rows that stay on the host ------------------------------------------------------


@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_of_every_layout_and_dtype_are_those_of_the_order(
    fine: Any, cupy: Any, layout: str, dtype: str, leading: tuple[int, ...]
) -> None:
    given = np.random.default_rng(0).integers(0, 200, (90, 30)).astype(dtype)
    rows = fine.HostRows(layouts(given)[layout], "float32")
    feed = fine.Feed(rows, leading, 32)
    for seed in range(2):
        order = np.stack([np.random.default_rng(seed + k).permutation(90) for k in range(2)])
        order = order if leading else order[0]
        feed.begin(order)
        for start, m in ((0, 32), (32, 32), (64, 26)):
            out = cupy.empty((*leading, m, 30), "float32")
            assert feed.give(start, m, out)
            np.testing.assert_array_equal(
                out.get(), given[order[..., start : start + m]].astype("float32")
            )
    assert not feed.give(32, 32, out)
    np.testing.assert_array_equal(rows[5:70, :].get(), given[5:70].astype("float32"))
    np.testing.assert_array_equal(rows[order].toarray().get(), given[order].astype("float32"))


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("float64", 4), ("uint8", 1)])
def test_the_next_batch_is_gathered_while_one_is_used(
    fine: Any, counting: Any, pinned: list[int], cupy: Any, dtype: str, width: int
) -> None:
    """No wait for the first, then one for each buffer's copy of two batches ago."""
    rows, order = np.ones((200, 10), dtype), np.arange(200)
    feed = fine.Feed(fine.HostRows(rows, "float32"), (), 40)
    feed.begin(order)
    parts = -(-40 // feed.part)
    assert parts > 1
    for start in range(0, 200, 40):
        out = cupy.empty((40, 10), "float32")
        assert len(feed.ring.filling) == min(parts, feed.ring.count // 2)
        with counting.count() as counted:
            assert feed.give(start, 40, out)
        assert counted.copies["H2D"] == counting.Copies(parts, 400 * width)
        assert feed.next[0] == start + 40
        assert set(counted.synchronisations) <= {"cudaEventSynchronize"}
        if feed.ring.count == 2 * parts:
            again = parts if 0 < start < 160 else 0  # and nothing is gathered after the last
            assert counted.synchronisations.get("cudaEventSynchronize", 0) == again
    assert sum(pinned) == feed.ring.count * feed.ring.size <= 2 * 400 * width


def test_what_a_feed_leaves_behind_is_at_rest(fine: Any, cupy: Any) -> None:
    """Its pinned memory may be given to others, and is."""
    rows, out = np.ones((64, 10)), cupy.empty((64, 10), "float32")
    feed = fine.Feed(fine.HostRows(rows, "float32"), (), 64)
    feed.begin(np.arange(64))
    assert feed.give(0, 64, out)
    size, stream = feed.ring.size, feed.stream
    del feed
    assert stream.done
    others = [cupy.cuda.alloc_pinned_memory(size) for _ in range(8)]
    for memory in others:
        np.frombuffer(memory, np.uint8)[:] = 255
    np.testing.assert_array_equal(out.get(), rows)


def test_no_thread_writes_to_a_buffer_that_is_given_up(fine: Any) -> None:
    begun, done = threading.Event(), list[int]()

    def slow(array: np.ndarray) -> None:
        begun.set()
        time.sleep(0.05)
        done.append(1)

    ring = fine.Ring(8)
    ring.start(fine.Tile(i, (1,), np.dtype("f4"), slow, ()) for i in range(50))
    begun.wait()
    ring.drop()
    finished = len(done)
    time.sleep(0.1)
    assert 1 <= len(done) == finished < 50


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_on_the_host_are_checked_without_a_copy_of_them(
    fine: Any, monkeypatch: pytest.MonkeyPatch, layout: str, dtype: str
) -> None:
    monkeypatch.setattr(fine, "CHUNK", 40_000)  # and there may be eight threads
    rows = layouts(np.random.default_rng(0).normal(size=(300, 400)).astype(dtype))[layout]
    host = fine.HostRows(rows, "float32")
    tracemalloc.start()
    assert host.finite()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.nbytes / 2
    for place in ((0, 0), (299, 399), (150, 7)):
        kept, rows[place] = rows[place], np.inf if dtype == "float32" else 1e39
        assert not host.finite()
        rows[place] = kept
    assert host.finite()


# -- order, devices, the end ---------------------------------------------------------


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("switches", ["CUPYCPU_DEFER", "CUPYCPU_GUARD CUPYCPU_POISON"])
def test_copies_and_steps_are_ordered_by_events_not_by_luck(counting: Any, switches: str) -> None:
    """Work that is put off until something waits for it shows each missing order."""
    tests = "train_as_rows goes_up go_up at_once of_the_order all_the_same at_rest serve_again"
    chosen = f"({' or '.join(tests.split())}) and not by_luck"
    only = [__file__, "-k", chosen, "-p", "no:cacheprovider"]
    run("-m", "pytest", "-q", "--require", "cupy", *only, **dict.fromkeys(switches.split(), "1"))


SCRIPT = """
import cupy, numpy as np
from mlp_xp import MLP, device
from mlp_xp.fast import upload
upload.SMALL, upload.CHUNK = 64, 1000
X = np.random.default_rng(0).normal(size=(40, 90))
y = np.arange(90) % 3
for number in range(cupy.cuda.runtime.getDeviceCount()):
    here = device(f"cuda:{number}")
    assert here.put(X).device.id == here.put_rows(X.T, "float32").device.id == number
    np.testing.assert_array_equal(here.get(here.put(X)), X)
    first = MLP((40, 9, 3), device=here).fit(X, y, epochs=1, batch_size=16, progress=False)
    room, upload.room = upload.room, lambda: 100
    last = MLP((40, 9, 3), device=here)
    last.fit(X, y, epochs=1, batch_size=16, progress=False)
    assert last.history["loss"] == first.history["loss"]
    upload.room = room
feed = upload.Feed(upload.HostRows(X.T, "float32"), (), 16)
feed.begin(np.arange(90))  # and is left with copies on their way
"""


@pytest.mark.parametrize("count", ["1", "2"])
@pytest.mark.parametrize("defer", ["0", "1"])
def test_each_device_gets_its_own_and_nothing_is_left_at_the_end(
    counting: Any, count: str, defer: str
) -> None:
    run("-W", "error", "-X", "dev", "-c", SCRIPT, CUPYCPU_DEVICE_COUNT=count, CUPYCPU_DEFER=defer)


def test_the_script_that_times_uploads_proves_them_first(counting: Any, tmp_path: Any) -> None:
    script = Path(__file__).parents[1] / "bench" / "upload.py"
    out, usual = tmp_path / "out.json", os.path.expanduser("~/.cupy/kernel_cache")
    cache = os.environ.get("CUPY_CACHE_DIR", usual)
    Path(cache).mkdir(parents=True, exist_ok=True)
    arguments = ("--rows", "600", "--hidden", "8", "--sweep", "--out", str(out))
    assert "equal" in run(str(script), *arguments, CUPY_CACHE_DIR=cache)
    assert not out.exists()  # CuPy on the CPU gives no times
