"""Streams that are interrupted, damaged, short of memory, or not what a model takes."""

from __future__ import annotations

import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_streams import MEMORY, QUIET, RNG, SIZES, M, N, X, _hdf5, _zarr, arrays, same, w, y

from conftest import need
from mlp_xp import MLP, TrainingDiverged, prepare, stream
from mlp_xp.checkpoints import CheckpointError
from mlp_xp.readers import DataError
from mlp_xp.streams import Stream
from mlp_xp.streams.ahead import ahead
from mlp_xp.streams.source import in_bytes

# -- interruptions -------------------------------------------------------------


def test_a_training_goes_on_from_its_checkpoint_to_the_bit(tmp_path: Path) -> None:
    def fit(folder: str, data: Stream, epochs: int, **more: Any) -> MLP:
        model = MLP(SIZES, dropout=0.2)
        args = {"checkpoint": tmp_path / folder, "every": 0, **more, **QUIET}
        return model.fit(data, epochs=epochs, schedule="exponential", **args)

    def stop(model: MLP, epoch: Any) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    whole = fit("whole", arrays(), 4)
    with pytest.raises(KeyboardInterrupt):
        fit("cut", arrays(), 4, callbacks=stop)
    same(fit("cut", arrays(), 4), whole)
    for other in (arrays(MEMORY + 1), arrays(seed=1), stream(X, y, memory=MEMORY)):
        with pytest.raises(CheckpointError, match="the examples was"):
            fit("cut", other, 4)


class Slow:
    """An array whose reading calls a function first."""

    shape, dtype = X.shape, X.dtype

    def __init__(self, before: Callable[[slice], None]) -> None:
        self.before = before

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.before(rows)
        return X[rows]


def readers() -> int:
    return sum(thread.name.startswith("stream") for thread in threading.enumerate())


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_a_window_is_read_leaves_a_whole_step() -> None:
    calls: list[int] | None = None

    def before(rows: slice) -> None:
        if calls is None:
            return
        calls.append(rows.start)
        if len(calls) == 45:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    data = stream(Slow(before), y, memory=MEMORY)
    _ = data.found
    calls, model = [], MLP(SIZES)
    with pytest.raises(KeyboardInterrupt):
        model.fit(data, epochs=5, batch_size=64, **QUIET)
    other = MLP(SIZES)
    order = data.order(other, 0, 64)
    n = model.steps_trained * 64
    assert 0 < n < M
    args = {"epochs": 1, "batch_size": 64, "shuffle": False, "layout": "rows"}
    other.fit(X[order[:n]], y[order[:n]], **args, **QUIET)
    assert np.array_equal(model._run.state.theta, other._run.state.theta)
    assert readers() == 0


def test_what_fails_while_reading_ends_the_training_with_its_name() -> None:
    fails = False

    def before(rows: slice) -> None:
        if fails and rows.start > 1000:
            raise OSError("the disk is gone")

    data = stream(Slow(before), y, memory=MEMORY)
    _ = data.found
    fails = True
    with pytest.raises(DataError, match=r"Slow, X, rows .*the disk is gone"):
        MLP(SIZES).fit(data, **QUIET)
    assert readers() == 0


def test_divergence_is_found_and_the_last_good_weights_kept() -> None:
    model = MLP(SIZES, optimizer="sgd", learning_rate=1e30)
    before = model._run.state.theta.copy()
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        model.fit(arrays(), **QUIET)
    assert np.array_equal(model._run.state.theta, before)
    assert readers() == 0


def test_one_item_is_made_ahead_and_no_more() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(4):
            made.append(i)
            yield i

    found = ahead(items())
    assert next(found) == 0
    time.sleep(0.05)
    assert made == [0, 1]
    assert list(found) == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        list(ahead(1 // i for i in (1, 0)))
    assert readers() == 0


# -- memory --------------------------------------------------------------------


def test_ten_times_the_memory_is_streamed_within_it(tmp_path: Path) -> None:
    wide = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float32, (100_000, 100))
    for start in range(0, 100_000, 10_000):
        wide[start : start + 10_000] = RNG.random((10_000, 100), np.float32)
    wide.flush()
    np.save(tmp_path / "y.npy", RNG.integers(0, 2, 100_000).astype(np.int8))
    data = stream(tmp_path / "big.npy", tmp_path / "y.npy", memory="4MB")
    model = MLP((100, 4, 2))
    model.fit(stream(wide[:1000], np.arange(1000) % 2), epochs=1, **QUIET)  # compiled, imported
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        model.fit(data, epochs=1, batch_size=1000, validation_data=data, **QUIET)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert 1_000_000 < peak < 4_000_000


@pytest.mark.parametrize(
    ("memory", "number"),
    [("1GB", 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), (1e6, 10**6)],
)
def test_memory_is_said_in_words_or_bytes(memory: Any, number: int) -> None:
    assert in_bytes(memory) == number


@pytest.mark.parametrize(
    "memory", ["much", "-1GB", 0, float("nan"), float("inf"), True, None, "1e9"]
)
def test_other_words_for_memory_are_refused(memory: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"memory is .*'1GB'"):
        stream(X, y, memory=memory)


def test_too_little_memory_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"to read a row of .* expected at least 1\.15 kB"):
        stream(X, y, memory=500)
    with pytest.raises(ValueError, match=r"a batch of 128 .*expected at least"):
        MLP(SIZES).fit(stream(X, y, memory=5_000), **QUIET)


# -- hostile files and other mistakes --------------------------------------------


def table_of(folder: Path, group: int = 100, **columns: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "h.parquet", row_group_size=group)
    return folder / "h.parquet"


def test_a_bad_cell_is_named_with_file_column_and_row(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    need(request, "pyarrow")
    good = np.arange(300.0)
    bad = good.copy()
    bad[250] = np.nan
    place = r"h\.parquet, row 250, column 'b'"
    cases: list[tuple[Any, str]] = [
        (bad, f"{place}: a feature is nan"),
        ([None if i == 250 else i for i in range(300)], f"{place}: the cell is empty"),
        ([[1, 2]] * 250 + [[1]] * 50, f"{place}: a list of 1 numbers, but those before have 2"),
        (["text"] * 300, r"h\.parquet, column 'b' holds text \(string\).*load_table"),
        (np.zeros(300, "M8[s]"), r"column 'b' holds timestamp"),
        ([{"a": 1}] * 300, r"column 'b' holds struct"),
        ([[[1, 2]]] * 300, r"column 'b' holds list<.*list<"),
    ]
    for cells, message in cases:
        path = table_of(tmp_path, a=good, b=cells, y=np.arange(300) % 2)
        with pytest.raises(DataError, match=message):
            _ = stream(path, "y").found
    inf = np.where(good == 250, np.inf, good)
    with pytest.raises(DataError, match=r"row 250, column 'y': a target is inf"):
        MLP((1, 1), loss="squared_error").fit(stream(table_of(tmp_path, a=good, y=inf), "y"))
    path = table_of(tmp_path, a=good, y=good % 2)
    with pytest.raises(DataError, match=r"of a row group takes .* expected at least"):
        stream(path, "y", memory=2_000)
    with pytest.raises(DataError, match="has no column 'z'"):
        stream(path, "z")
    with pytest.raises(DataError, match="'a' is named in features and in drop"):
        stream(path, "y", features=["a"], drop="a")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        stream(path, "y")
    path.write_bytes(whole[:200] + bytes(100) + whole[300:])
    with pytest.raises(DataError, match=r"h\.parquet, row group 0, cannot be read"):
        _ = stream(path, "y").found


def test_files_of_one_table_have_the_same_columns(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    need(request, "pyarrow")
    import pyarrow
    import pyarrow.parquet

    first = pyarrow.table({"a": np.arange(300.0), "b": np.arange(300), "y": np.arange(300) % 2})
    (tmp_path / "deep" / "er").mkdir(parents=True)
    pyarrow.parquet.write_table(first, tmp_path / "a.parquet")
    other = tmp_path / "deep" / "er" / "other.parquet"
    everything = str(tmp_path / "**" / "*.parquet")
    fields = [field.with_nullable(False) for field in first.schema]
    pyarrow.parquet.write_table(first.cast(pyarrow.schema(fields)), other)
    assert stream(everything, "y").m == 600
    pyarrow.parquet.write_table(first.set_column(1, "b", [np.arange(300.0)]), other)
    with pytest.raises(DataError, match=r"column 'b' holds double, but int64 in .*a\.parquet"):
        stream(everything, "y")
    pyarrow.parquet.write_table(first.select(["b", "a", "y"]), other)
    with pytest.raises(DataError, match=r"has other columns than .*: expected the same, 'a', 'b'"):
        stream(everything, "y")


def test_a_file_that_lies_or_changes_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    path = tmp_path / "X.npy"
    data = stream(path, y, memory=MEMORY)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="has changed since it was opened"):
        MLP(SIZES).fit(data, **QUIET)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"truncated.*announces an array \(2000, 6\)"):
        stream(path, y)
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        stream(path, y)
    np.save(path, np.asfortranarray(X))
    with pytest.raises(DataError, match="Fortran order"):
        stream(path, y)
    header = path.read_bytes()
    path.write_bytes(header.replace(b"}", b"<", 1))
    with pytest.raises(DataError, match=r"no \.npy file"):
        stream(path, y)
    path.write_text("no array")
    with pytest.raises(DataError, match=r"no \.npy file"):
        stream(path, y)
    for name in ("X.csv", "X.npz"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match="cannot be streamed"):
            stream(tmp_path / name, "y")


def test_zarr_and_hdf5_that_are_damaged_or_too_coarse_are_refused(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    need(request, "zarr")
    path, arguments = _zarr(tmp_path)
    with pytest.raises(DataError, match=r"a chunk of 100 rows takes 2\.4 kB"):
        stream(path, memory=16_000, **arguments)
    with pytest.raises(DataError, match="has no array 'z'"):
        stream(path, "z")
    next(file for file in (path / "X" / "c").rglob("1") if file.is_file()).write_bytes(b"lies")
    with pytest.raises(DataError, match=r"d\.zarr, X, rows \d+ to \d+, cannot be read"):
        _ = stream(path, memory=MEMORY, **arguments).found
    need(request, "h5py")
    path, arguments = _hdf5(tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"d\.h5, as HDF5, cannot be read"):
        stream(path, **arguments)


def test_what_does_not_fit_the_model_is_said_before_training() -> None:
    cases: list[tuple[MLP, Stream, str]] = [
        (MLP((5, 3)), arrays(), "has 6 features, but the first layer takes 5"),
        (MLP(SIZES), stream(X), "has no targets"),
        (MLP((N, 2)), arrays(), "labels from 0 to 2, but the network has 2 outputs"),
        (MLP(SIZES), stream(X, np.zeros(M, int)), "one class only"),
        (MLP(SIZES), stream(X, y, weight=np.zeros(M)), "sums to 0"),
        (MLP(SIZES), stream(X, y, weight=-w), "the weight is -"),
        (MLP(SIZES), stream(X.astype(np.float64) * 1e60, y), "finite numbers that fit float32"),
    ]
    for model, data, message in cases:
        with pytest.raises(ValueError, match=message):
            model.fit(data, **QUIET)
        assert model.steps_trained == 0
    for method in (MLP(SIZES).fit, MLP(SIZES).evaluate):
        with pytest.raises(TypeError, match="Y is missing"):
            method(X)
    with pytest.raises(TypeError, match="Y was given beside a stream"):
        MLP(SIZES).fit(arrays(), y)
    with pytest.raises(TypeError, match="is a masked array"):
        stream(np.ma.masked_greater(X, 5), y)
    with pytest.raises(DataError, match=r"the targets have shape \(10,\), but X has 2,000"):
        stream(X, y[:10])
    with pytest.raises(DataError, match=r"dtype object, but .* may be text, \.astype\(str\)"):
        stream(X, np.array(["a", None] * (M // 2), object))


def test_numbers_too_large_to_be_scaled_are_refused() -> None:
    large = np.asarray(X, np.float64)
    large[:, 2] *= 1e200
    with pytest.raises(DataError, match="column 2: its numbers are too large to be scaled"):
        prepare(stream(large, y, memory="10MB"))
    with pytest.raises(DataError, match="target 'y': its numbers are too large to be scaled"):
        prepare(stream(X, X[:, 0].astype(float) * 1e200, memory="10MB"))


def test_estimators_and_all_else_name_what_takes_streams() -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import (
        MLPClassifier,
        MLPRegressor,
        NeuralClassifier,
        NeuralRegressor,
        check_gradients,
    )

    with pytest.raises(TypeError, match="MLP and Sequential take it"):
        MLPClassifier().fit(arrays(), y)
    for estimator in (MLPClassifier(), MLPRegressor(), NeuralClassifier("dense:3")):
        with pytest.raises(TypeError, match="MLP and Sequential take it"):
            estimator.fit(arrays())  # as a model takes it
        with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
            estimator.fit(X)
    for estimator in (MLPClassifier(), MLPRegressor()):
        with pytest.raises(TypeError, match="MLP and Sequential take it"):
            estimator.partial_fit(arrays())
        with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
            estimator.partial_fit(X)
        with pytest.raises(ValueError, match="every is -1"):
            estimator.fit(X, y, every=-1)
    fitted = [
        MLPClassifier().partial_fit(X, y, classes=[0, 1, 2]),
        MLPRegressor().partial_fit(X, y),
    ]
    for kind in (NeuralClassifier, NeuralRegressor):
        fitted.append(kind("dense:3", epochs=1).fit(X, y))
    for estimator in fitted:
        with pytest.raises(TypeError, match="MLP and Sequential take it"):
            estimator.score(arrays())
    with pytest.raises(TypeError, match="MLP and Sequential take it"):
        check_gradients(MLP(SIZES), arrays(), y)
