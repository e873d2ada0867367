"""Data larger than memory: every format, the order, and training to the bit of that in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Backend, need
from mlp_xp import MLP, EarlyStopping, Sequential, model_for, prepare, stream
from mlp_xp.fitting import Plan, train
from mlp_xp.layers import Activation, Conv2d, Dense, Flatten
from mlp_xp.passes import InMemory, Part, Parts
from mlp_xp.schedules import SCHEDULES
from mlp_xp.streams import Stream
from mlp_xp.streams.scan import Moments
from mlp_xp.streams.source import Raw
from mlp_xp.training import Data

M, N = 2000, 6
RNG = np.random.default_rng(5)
X = RNG.normal(3, 2, (M, N)).astype(np.float32)
y = RNG.integers(0, 3, M)
w = RNG.uniform(0.5, 2, M).astype(np.float32)
NAMES = [f"x{j}" for j in range(N)]
SIZES = (N, 8, 3)
MEMORY = 45_000  # of some 100 kB: several windows
QUIET: dict[str, Any] = {"progress": False}


# -- every format --------------------------------------------------------------


def _npy(folder: Path) -> tuple[Any, dict[str, Any]]:
    for name, array in (("X", X), ("y", y), ("w", w)):
        np.save(folder / f"{name}.npy", array)
    return folder / "X.npy", {"target": folder / "y.npy", "weight": str(folder / "w.npy")}


def _memmap(folder: Path) -> tuple[Any, dict[str, Any]]:
    path, _ = _npy(folder)
    return np.load(path, mmap_mode="r"), {"target": y, "weight": w}


def _table() -> Any:
    import pyarrow

    columns = dict(zip(NAMES, X.T, strict=True))
    return pyarrow.table({"before": np.arange(M), **columns, "y": y, "w": w})


def _parquet(folder: Path, group: int = 300) -> tuple[Any, dict[str, Any]]:
    import pyarrow.parquet

    pyarrow.parquet.write_table(_table(), folder / "t.parquet", row_group_size=group)
    return folder / "t.parquet", {"target": "y", "weight": "w", "drop": ["before"]}


def _one_group(folder: Path) -> tuple[Any, dict[str, Any]]:
    return _parquet(folder, M)


def _folder(folder: Path) -> tuple[Any, dict[str, Any]]:
    import pyarrow.parquet

    for i, start in enumerate(range(0, M, 700)):
        table = _table().slice(start, 700)
        pyarrow.parquet.write_table(table, folder / f"{i}.parquet", row_group_size=300)
    return folder, {"target": ["y"], "weight": "w", "features": NAMES}


def _lists(folder: Path) -> tuple[Any, dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    halves = [pyarrow.array(list(half)) for half in (X[:, :2], X[:, 2:])]
    fixed = halves[1].cast(pyarrow.list_(pyarrow.float32(), N - 2))
    table = pyarrow.table({"a": halves[0], "b": fixed, "y": y, "w": w})
    pyarrow.parquet.write_table(table, folder / "l.parquet", row_group_size=500)
    return folder / "l.parquet", {"target": "y", "weight": "w"}


def _zarr(folder: Path) -> tuple[Any, dict[str, Any]]:
    import zarr

    group = zarr.open_group(folder / "d.zarr", mode="w")
    for name, array, chunks in (("X", X, (100, 4)), ("y", y, (500,)), ("w", w, (1000,))):
        group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunks)[:] = array
    return folder / "d.zarr", {"target": "y", "weight": "w"}


def _zarr_arrays(folder: Path) -> tuple[Any, dict[str, Any]]:
    import zarr

    path, _ = _zarr(folder)
    found = zarr.open(path, mode="r")
    return found["X"], {"target": found["y"], "weight": w}


def _hdf5(folder: Path) -> tuple[Any, dict[str, Any]]:
    import h5py

    with h5py.File(folder / "d.h5", "w") as file:
        file.create_dataset("deep/rows", data=X, chunks=(128, N), compression="gzip")
        file["y"], file["w"] = y, w
    return folder / "d.h5", {"features": "deep/rows", "target": "y", "weight": "w"}


def _dask_array(folder: Path) -> tuple[Any, dict[str, Any]]:
    import dask.array

    sizes = (150, 200, 150) * 4
    found = dask.array.from_array(X, chunks=(sizes, N))
    return found + 0, {"target": dask.array.from_array(y, chunks=450), "weight": w}


def _dask_frame(folder: Path) -> tuple[Any, dict[str, Any]]:
    import dask.dataframe

    frame = dask.dataframe.from_pandas(_table().to_pandas(), npartitions=9, sort=False)
    return frame, {"target": "y", "weight": "w", "drop": ["before"]}


FORMATS: dict[str, tuple[str, Callable[[Path], tuple[Any, dict[str, Any]]]]] = {
    "npy": ("numpy", _npy),
    "memmap": ("numpy", _memmap),
    "parquet": ("pyarrow", _parquet),
    "parquet of one row group": ("pyarrow", _one_group),
    "folder of parquet": ("pyarrow", _folder),
    "parquet of lists": ("pyarrow", _lists),
    "zarr": ("zarr", _zarr),
    "arrays of zarr": ("zarr", _zarr_arrays),
    "hdf5": ("h5py", _hdf5),
    "dask array": ("dask", _dask_array),
    "dask frame": ("dask", _dask_frame),
}


@pytest.fixture(params=FORMATS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Stream:
    """The same examples in each format, within little memory."""
    library, made = FORMATS[request.param]
    need(request, library)
    source, arguments = made(tmp_path)
    memory = MEMORY
    if library == "pyarrow":  # which has pages to unpack, too
        memory = 330_000 if "one" in request.param else 100_000
    return stream(source, memory=memory, **arguments)


def same(model: Any, other: Any) -> None:
    """Equal in every bit that training changes."""
    states = [m._run.state for m in (model, other)]
    for a, b in zip(*((s.theta, *s.moments, s.running) for s in states), strict=True):
        assert np.array_equal(model.device.get(a), other.device.get(b))
    assert model.history["loss"] == pytest.approx(other.history["loss"], abs=0)


def in_memory(data: Stream, model: Any, epochs: int, **options: Any) -> Any:
    """A model trained on arrays in the order that a stream has."""
    size = options.pop("batch_size", None)
    for epoch in range(epochs):
        order = data.order(model, epoch, size)
        weight = w[order] if data.source.weighted else None
        model.fit(
            X[order],
            y[order],
            sample_weight=weight,
            epochs=1,
            shuffle=False,
            layout="rows",
            batch_size=size,
            **QUIET,
            **options,
        )
    return model


def test_a_stream_trains_to_the_bits_of_arrays_in_its_order(opened: Stream) -> None:
    make = {"normalization": "batch", "dropout": 0.2}
    assert (opened.m, opened.width) == (M, N)
    assert opened.window(36, 1, 64) < M
    model = MLP(SIZES, **make).fit(opened, epochs=2, batch_size=64, **QUIET)
    same(model, in_memory(opened, MLP(SIZES, **make), 2, batch_size=64))


def test_a_stream_is_scanned_evaluated_and_predicted(opened: Stream) -> None:
    found = opened.found
    assert found.features.mean == pytest.approx(X.mean(0, np.float64), rel=1e-12)
    assert found.features.deviation == pytest.approx(X.std(0, np.float64), rel=1e-12)
    assert found.labels == (0, 1, 2)
    assert found.weight == pytest.approx(float(w.sum(dtype=np.float64)))
    model = MLP(SIZES)
    assert model.evaluate(opened) == pytest.approx(model.evaluate(X, y, w, layout="rows"), rel=1e-5)
    blocks = list(model.predict(opened))
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), model.predict(X, layout="rows"))


def test_blocks_past_some_rows_are_those_that_follow(opened: Stream) -> None:
    order = opened.unit_order(1)
    blocks = [raw for _, raw in opened.blocks(order)]
    whole = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    first = np.cumsum(opened.sizes[order])
    read, units = opened.source.read, list[int]()

    def counted(unit: int, most: int) -> Iterator[Raw]:
        units.append(unit)
        return read(unit, most)

    opened.source.read = counted  # type: ignore[method-assign]
    for past in (1, 64, int(first[0]), M // 2 + 7, M - 1, M):
        units.clear()
        rest = [raw for _, raw in opened.blocks(order, past)]
        assert units == opened.units[order][first > past].tolist()
        for i, part in enumerate(whole):
            found = np.concatenate([raw[i] for raw in rest]) if rest else part[:0]
            assert np.array_equal(found, part[past:])
    where, raw = next(opened.blocks(None, 70))
    assert where == 70
    assert np.array_equal(raw.rows[0], X[70])


# -- the order -----------------------------------------------------------------


def arrays(memory: int | str = MEMORY, **options: Any) -> Stream:
    return stream(X, y, weight=w, memory=memory, **options)


def test_an_order_has_every_row_once_and_is_the_seeds() -> None:
    data, model = arrays(), MLP(SIZES, seed=3)
    first = data.order(model, 0)
    assert np.array_equal(np.sort(first), np.arange(M))
    assert np.array_equal(first, arrays().order(MLP(SIZES, seed=3), 0))
    others = (data.order(model, 1), arrays(seed=1).order(model), data.order(MLP(SIZES, seed=4)))
    assert all(not np.array_equal(first, other) for other in others)
    assert np.abs(first - np.arange(M)).mean() > M / 6  # units come from everywhere


def test_what_fits_is_in_the_order_of_arrays_and_read_once() -> None:
    reads: list[int] = []

    class Counted:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows: slice) -> np.ndarray:
            reads.append(rows.start)
            return X[rows]

    data = stream(Counted(), y, memory="10MB")
    model = MLP(SIZES, dropout=0.2).fit(data, epochs=3, schedule="one_cycle", **QUIET)
    assert reads == [0, 0]  # scanned, and read
    other = MLP(SIZES, dropout=0.2)
    same(model, other.fit(X, y, epochs=3, schedule="one_cycle", layout="rows", **QUIET))


class Ordered(InMemory):
    """Examples in memory, in an order that is given for each epoch."""

    def __init__(self, data: Data, model: MLP, order: Callable[[int], Any]) -> None:
        super().__init__(data, model.device)
        self.order = order

    @contextmanager
    def passes(
        self, plan: Plan, epochs: Sequence[int], check: Any, begun: int = 0
    ) -> Iterator[Parts]:
        def parts(epoch: int) -> Iterator[Part]:
            yield Part(self.data, self.order(epoch), self.weights)

        yield parts


@pytest.mark.parametrize("name", ["one_cycle", "reduce_on_plateau", "cosine"])
def test_many_networks_schedules_and_early_stopping_are_as_in_memory(name: str) -> None:
    make: dict[str, Any] = {"seed": [1, 2, 3], "dropout": 0.3, "normalization": "batch"}
    model, other, data = MLP(SIZES, **make), MLP(SIZES, **make), arrays(80_000)
    stopping = EarlyStopping(2)
    args = {"schedule": name, "early_stopping": stopping, "batch_size": 50, "epochs": 4}
    model.fit(data, validation_data=(X[:500], y[:500]), layout="rows", **args, **QUIET)
    plan = Plan(4, 50, other.seeds, other.leading, SCHEDULES[name], True, stopping, (), False)
    examples = Ordered(Data(X, y, w), other, lambda epoch: data.order(other, epoch, 50))
    held = Data(X[:500], y[:500])
    train(other._recipe, other.device, other._run, plan, examples, held)
    for a, b in zip(model._run.state.moments, other._run.state.moments, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(model._run.state.theta, other._run.state.theta)
    for what in ("loss", "validation_loss", "rate"):
        assert np.array_equal(model.history[what], other.history[what])


def test_without_shuffling_rows_come_as_they_lie() -> None:
    model = MLP(SIZES).fit(arrays(), epochs=2, shuffle=False, **QUIET)
    args = {"epochs": 2, "shuffle": False, "layout": "rows", "sample_weight": w}
    same(model, MLP(SIZES).fit(X, y, **args, **QUIET))


def test_images_are_streamed_to_layers(tmp_path: Path) -> None:
    images = RNG.normal(size=(600, 1, 4, 4)).astype(np.float32)
    labels = RNG.integers(0, 2, 600)
    np.save(tmp_path / "images.npy", images)
    data = stream(tmp_path / "images.npy", labels, memory=40_000)
    layers = [Conv2d(3, kernel=3), Activation("relu"), Flatten(), Dense(2)]
    model = Sequential((1, 4, 4), layers).fit(data, epochs=1, batch_size=20, **QUIET)
    other = Sequential((1, 4, 4), layers)
    order = data.order(other, 0, 20)
    assert data.window(72, 1, 20) < 600
    args = {"epochs": 1, "batch_size": 20, "shuffle": False, "layout": "rows"}
    same(model, other.fit(images[order], labels[order], **args, **QUIET))
    assert model.evaluate(data).score == pytest.approx(
        model.evaluate(images, labels, layout="rows").score
    )


def test_every_backend_trains_on_a_stream(backend: Backend) -> None:
    data = stream(X[:400], y[:400], memory=8_000)
    model = MLP(SIZES, device=backend.device)
    assert data.window(32, 1, 32) < 400
    model.fit(data, epochs=1, batch_size=32, validation_data=data, **QUIET)
    other = MLP(SIZES, device=backend.device)
    order = data.order(other, 0, 32)
    args = {"epochs": 1, "batch_size": 32, "shuffle": False, "layout": "rows"}
    same(model, other.fit(X[order], y[order], **args, **QUIET))
    found = model.evaluate(data)
    assert found == pytest.approx(model.evaluate(X[:400], y[:400], layout="rows"), rel=1e-4)


@pytest.mark.parametrize("value", [1.0, 0.1, 7.7, 1000.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_r2_of_a_stream_whose_targets_are_all_equal_is_that_of_arrays(
    dtype: str, value: float
) -> None:
    """Their mean is not always theirs to the last bit, so that the spread is more than 0."""
    model, rows = MLP((3, 4, 1), loss="squared_error", dtype=dtype), X[:50, :3]
    targets, weights = np.full(50, value), np.linspace(0, 1, 50)
    targets[0] += 1  # weighs nothing
    found = model.evaluate(stream(rows, targets, weight=weights))
    assert found == pytest.approx(model.evaluate(rows, targets, weights, layout="rows"), rel=1e-5)
    assert found.score == 0


def test_a_target_of_a_stream_that_is_the_same_throughout_has_no_r2() -> None:
    from mlp_xp.scoring import measured

    model, targets = MLP((3, 4, 2), loss="squared_error"), np.full((50, 2), 7.7)
    targets[:, 1] = range(50)
    told = measured(model, stream(X[:50, :3], targets))["targets"]
    assert told[0]["r2"] is None
    assert told[1]["r2"] < 0


def test_parts_of_a_split_have_every_row_once() -> None:
    data = arrays()
    left, held = data.split(0.2, seed=1)
    assert left.m + held.m == M
    assert 0 < held.m < left.m
    rows = np.concatenate([raw.rows for part in (left, held) for _, raw in part.blocks()])
    assert np.array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))
    model = MLP(SIZES).fit(left, validation_data=held, epochs=2, **QUIET)
    found = model.evaluate(held)
    assert model.history["validation_loss"][-1] == pytest.approx(found.loss)


# -- what is found on the way --------------------------------------------------


def test_moments_of_blocks_are_those_of_all() -> None:
    values = RNG.normal(1e6, 1e-1, (5000, 3))
    found = Moments()
    for start, stop in ((0, 1), (1, 17), (17, 4000), (4000, 5000)):
        found.add(values[start:stop])
    assert found.mean == pytest.approx(values.mean(0), rel=1e-14)
    assert found.deviation == pytest.approx(values.std(0), rel=1e-7)
    assert np.array_equal([found.low, found.high], [values.min(0), values.max(0)])


def test_a_model_for_a_stream_is_that_for_its_table() -> None:
    from mlp_xp.data import Dataset

    words = np.array(["yes", "no", "perhaps"])[y]
    data = stream(X, words, memory=MEMORY)
    found, known = prepare(data), prepare(Dataset("d", X, words))
    assert (found.loss, found.classes) == (known.loss, known.classes)
    for part, other in zip(found.inputs, known.inputs, strict=True):
        assert part == pytest.approx(other)
    model = model_for(data, hidden=(4,)).fit(data, epochs=1, **QUIET)
    answer = np.concatenate(list(model.predict(data)))
    assert set(answer) <= {"yes", "no", "perhaps"}
    assert np.array_equal(answer, model.predict(X, layout="rows"))
    numbers = X @ np.arange(1.0, N + 1) + 50
    to_numbers = stream(X, numbers, memory=MEMORY)
    model = model_for(to_numbers, hidden=(16,), learning_rate=0.02)
    model.fit(to_numbers, epochs=3, validation_data=to_numbers, **QUIET)
    found_, all_ = model.evaluate(to_numbers), model.evaluate(X, numbers, layout="rows")
    assert found_ == pytest.approx(all_, rel=1e-4)
    assert all_.score > 0.9
    assert prepare(stream((X * 10).clip(0, 255).astype(np.uint8), y)).inputs.offset == 0
    for first, loss in ((0, "cross_entropy"), (20, "squared_error")):  # classes, ages
        labels = first + np.arange(len(X)) % 40
        assert {prepare(stream(X, labels)).loss, prepare(Dataset("d", X, labels)).loss} == {loss}


def _hdf5_text(folder: Path, words: Any) -> tuple[Any, dict[str, Any]]:
    import h5py

    with h5py.File(folder / "d.h5", "w") as file:
        file["X"] = X
        file.create_dataset("y", data=words.astype(object), dtype=h5py.string_dtype())
    return folder / "d.h5", {"target": "y"}


def _zarr_text(folder: Path, words: Any) -> tuple[Any, dict[str, Any]]:
    import zarr

    group = zarr.open_group(folder / "d.zarr", mode="w")
    group.create_array("X", shape=X.shape, dtype=X.dtype, chunks=(100, N))[:] = X
    group.create_array("y", shape=(M,), dtype=str, chunks=(300,))[:] = words
    return folder / "d.zarr", {"target": "y"}


TEXTS: dict[str, tuple[str, Callable[[Path, Any], tuple[Any, dict[str, Any]]]]] = {
    "hdf5": ("h5py", _hdf5_text),
    "zarr": ("zarr", _zarr_text),
    "a column of pandas": ("pandas", lambda _, words: (X, {"target": _series(words)})),
    "Arrow's": ("pyarrow", lambda _, words: (X, {"target": _arrow(words)})),
    "objects": ("numpy", lambda _, words: (X, {"target": words.astype(object)})),
    "NumPy's text of any length": ("numpy", lambda _, words: (X, {"target": words.astype("T")})),
}


def _series(words: Any) -> Any:
    import pandas

    return pandas.Series(words)


def _arrow(words: Any) -> Any:
    import pyarrow

    return pyarrow.array(words)


@pytest.mark.parametrize("kind", TEXTS)
def test_labels_are_text_of_any_length(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    library, made = TEXTS[kind]
    need(request, library)
    words = np.array(["süß", "no", "perhaps"])[y]
    source, arguments = made(tmp_path, words)
    data, plain = (stream(*of, memory="10MB") for of in ((source, *arguments.values()), (X, words)))
    assert data.found.labels == ("no", "perhaps", "süß")
    make = {"hidden": (4,), "seed": 0}
    model, other = (model_for(of, **make).fit(of, epochs=1, **QUIET) for of in (data, plain))
    same(model, other)
    assert np.array_equal(
        np.concatenate(list(model.predict(data))), other.predict(X, layout="rows")
    )


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">i4"])
def test_numbers_are_of_either_byte_order(dtype: str, tmp_path: Path) -> None:
    for name, array in (("X", X.astype(dtype)), ("y", y.astype(">i8")), ("w", w.astype(">f4"))):
        np.save(tmp_path / f"{name}.npy", array)
    target, weight = tmp_path / "y.npy", tmp_path / "w.npy"
    data = stream(tmp_path / "X.npy", target, weight=weight, memory=MEMORY)
    model = MLP(SIZES).fit(data, epochs=1, batch_size=64, **QUIET)
    other = stream(X.astype(dtype[1:]), y, weight=w, memory=MEMORY)
    same(model, MLP(SIZES).fit(other, epochs=1, batch_size=64, **QUIET))


def test_columns_of_a_later_stream_are_found_by_the_names_of_training(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path, options = _parquet(tmp_path)
    turned = tmp_path / "turned.parquet"
    parquet.write_table(_table().select(["w", *NAMES[::-1], "before", "y"]), turned)
    first, other = (stream(file, **options) for file in (path, turned))
    model = MLP(SIZES, seed=0).fit(first, validation_data=other, epochs=2, **QUIET)
    alone = MLP(SIZES, seed=0).fit(first, validation_data=first, epochs=2, **QUIET)
    losses = [found.history["validation_loss"] for found in (model, alone)]
    assert losses[0] == pytest.approx(losses[1])
    for asked in (other, _table().drop_columns(["y"]), X):
        answer = model.predict_proba(asked, layout=None if asked is other else "rows")
        answer = np.concatenate(list(answer)) if asked is other else answer
        assert np.array_equal(answer, alone.predict_proba(X, layout="rows"))


def test_answers_go_to_a_file(tmp_path: Path) -> None:
    data, out = stream(X, memory=MEMORY), tmp_path / "p.npy"
    model, several = MLP(SIZES, seed=1), MLP(SIZES, seed=[1, 2])
    for asked, ask in ((model, "predict"), (several, "predict"), (model, "predict_proba")):
        assert getattr(asked, ask)(data, out=out) == out
        assert np.array_equal(np.load(out), getattr(asked, ask)(X, layout="rows"))
    assert [path.name for path in tmp_path.iterdir()] == ["p.npy"]
    with pytest.raises(TypeError, match=r"np\.save"):
        model.predict(X, out=out)
