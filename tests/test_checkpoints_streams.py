"""A training on a stream goes on in the middle of an epoch, to the bit."""

from __future__ import annotations

import json
import os
import random as randoms
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_checkpoints import assert_same, names, waiting
from test_hostile_files import TRAINED, chosen, mutants, outcome, read, write
from test_streams_hard import Slow

from conftest import Backend
from mlp_xp import ACTIVATIONS, MLP, Epoch, Sequential, TrainingDiverged, storage, stream
from mlp_xp import Activation as Row
from mlp_xp.checkpoints import CheckpointError, Checkpoints, CheckpointWarning, Mark
from mlp_xp.checkpoints_models import ModelKeeper
from mlp_xp.compile import step as traced
from mlp_xp.layers import Activation, BatchNorm, Conv2d, Dense, Dropout, Flatten
from mlp_xp.model import Model
from mlp_xp.readers import DataError
from mlp_xp.schedules import ReduceOnPlateau
from mlp_xp.storage import ModelFileError
from mlp_xp.streams import Stream
from mlp_xp.streams.feed import Feed

M, N, BATCH, EPOCHS = 230, 6, 16, 3
PER_EPOCH = -(-M // BATCH)
RNG = np.random.default_rng(8)
X = RNG.normal(size=(M, N)).astype(np.float32)
y = RNG.integers(0, 3, M)
w = RNG.uniform(0.5, 2, M).astype(np.float32)
HELD = (X[:40] + 1, y[:40])
MEMORY = 9_000  # four windows
QUIET: dict[str, Any] = {"progress": False, "batch_size": BATCH, "epochs": EPOCHS}
FULL: dict[str, Any] = {"normalization": "batch", "dropout": 0.25, "l2": 1e-4, "clip_norm": 2.0}


class Blocks(Slow):
    """An array of this file, whose reading calls a function first."""

    shape, dtype = X.shape, X.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.before(rows)
        return X[rows]


def data(memory: int | str = MEMORY, **options: Any) -> Stream:
    return stream(X, **{"target": y, "weight": w, "memory": memory, **options})


def dense(**options: Any) -> Callable[[], Model]:
    return lambda: MLP((N, 8, 3), **{"seed": 3, **options})


def layered() -> Model:
    layers = [Conv2d(3, kernel=(2, 1)), BatchNorm(), Activation("relu"), Flatten(), Dropout(0.2)]
    return Sequential((1, N, 1), [*layers, Dense(3)], seed=[3, 4])


def plain() -> Stream:
    return data(weight=None)


# how a model is made, what it is trained on, and how
CASES: dict[str, tuple[Callable[[], Model], Callable[[], Stream], dict[str, Any]]] = {
    "everything": (dense(**FULL), data, {"validation_data": HELD, "schedule": "one_cycle"}),
    "three networks": (
        dense(**FULL, seed=[1, 2, 3]),
        lambda: data(12_000),
        {"validation_data": HELD, "early_stopping": 1, "schedule": ReduceOnPlateau(patience=0)},
    ),
    "networks without weights": (dense(seed=[1, 2]), lambda: data(12_000, weight=None), {}),
    "validation of a stream": (
        dense(dtype="float64"),
        lambda: data(16_000),
        {"validation_data": data(9_000), "early_stopping": True},
    ),
    "rows as they lie": (dense(dropout=0.5), plain, {"shuffle": False}),
    "all in memory": (dense(**FULL), lambda: data("10MB"), {}),
    "layers": (layered, lambda: data(12_000), {"schedule": "exponential"}),
}


class Killed(Exception):
    """What ends a training in a test, where nothing can be done about it."""


def fitted(model: Model, on: Stream, folder: Path | None = None, **options: Any) -> Model:
    kept = {} if folder is None else {"checkpoint": folder, "every": 0}
    if "validation_data" in options and isinstance(options["validation_data"], tuple):
        options = {"layout": "rows", **options}
    return model.fit(on, **{**QUIET, **kept, **options})


@contextmanager
def every_step(monkeypatch: pytest.MonkeyPatch, until: float = np.inf) -> Iterator[None]:
    """Each step waits for the disk; a training is killed after so many steps in all, or more."""
    begin, within = ModelKeeper._begin, ModelKeeper.within

    def waited(self: ModelKeeper, *args: Any) -> None:
        begin(self, *args)
        self._wait()

    def last(self: ModelKeeper, run: Any, *args: Any) -> None:
        within(self, run, *args)
        if run.state.step >= until:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(ModelKeeper, "_begin", waited)
        patched.setattr(ModelKeeper, "within", last)
        yield


def killed(
    model: Model, on: Stream, folder: Path, step: int, patch: pytest.MonkeyPatch, **options: Any
) -> None:
    with every_step(patch, step), pytest.raises(Killed):
        fitted(model, on, folder, **options)


@pytest.mark.parametrize("case", CASES)
def test_from_every_step_a_training_goes_on_to_the_bit(
    case: str, sample: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, opened, options = CASES[case]
    straight = fitted(make(), opened(), **options)
    assert straight.steps_trained > PER_EPOCH
    steps = range(1, 2 * PER_EPOCH + 1)
    if sample is not None:  # the first, those where an epoch ends, and some
        ends = {1, PER_EPOCH, PER_EPOCH + 1, 2 * PER_EPOCH}
        steps = sorted(ends | {*randoms.Random(f"{sample} {case}").sample(steps, 6)})
    for step in steps:
        folder = tmp_path / str(step)
        killed(make(), opened(), folder, step, monkeypatch, **options)
        epoch = (step - 1) // PER_EPOCH
        assert f"epoch-{epoch}-step-{step}.safetensors" in names(folder)
        told = list[Mark]()
        place = Checkpoints(folder, lambda mark, last, over, told=told: told.append(mark))
        model = make()
        fitted(model, opened(), **options, checkpoint=place, every=3600)
        assert told == [(epoch, step)]
        assert_same(model, straight, before=epoch)


def test_windows_are_smaller_than_the_stream() -> None:
    sizes = {
        case: Feed(opened(), model := make()).window(BATCH, len(model.seeds))
        for case, (make, opened, _) in CASES.items()
    }
    assert sizes.pop("all in memory") == M
    assert all(BATCH <= size <= M // 2 for size in sizes.values()), sizes


def test_a_training_on_any_backend_goes_on(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = dense(**FULL, seed=[1, 2], device=backend.device)
    options = {"validation_data": HELD, "early_stopping": 2, "schedule": "one_cycle"}
    straight = fitted(make(), data(12_000), **options)
    for step in (3, PER_EPOCH, PER_EPOCH + 7, 2 * PER_EPOCH - 1):
        folder = tmp_path / str(step)
        killed(make(), data(12_000), folder, step, monkeypatch, **options)
        assert_same(fitted(make(), data(12_000), folder, **options, every=3600), straight)


def test_killed_at_every_step_after_the_other_it_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, opened, options = CASES["three networks"]
    straight = fitted(make(), opened(), **options)
    for step in range(1, straight.steps_trained + 1):
        killed(make(), opened(), tmp_path, step, monkeypatch, **options)
        assert len(names(tmp_path)) <= 2
    assert_same(fitted(make(), opened(), tmp_path, **options), straight)


@pytest.mark.parametrize("step", [PER_EPOCH + 1, PER_EPOCH + 6, 2 * PER_EPOCH - 1, 2 * PER_EPOCH])
def test_only_what_is_left_is_read(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list[tuple[int, int]]()

    def opened() -> Stream:
        return stream(
            Blocks(lambda given: rows.append((given.start, given.stop))), y, memory=MEMORY
        )

    killed(dense()(), opened(), tmp_path, step, monkeypatch)
    on, model = opened(), dense()()
    place = Checkpoints(tmp_path, lambda *_: rows.clear())  # the data were hashed before that
    fitted(model, on, checkpoint=place, epochs=2)
    size = Feed(on, model).window(BATCH, 1)
    past = (step - PER_EPOCH) * BATCH
    past = M if past >= M else past // size * size
    ends = np.cumsum(on.sizes[on.unit_order(1)])
    left = on.unit_order(1)[ends > past]
    assert len(on.sizes) > 4
    expected = {(int(on.starts[i]), int(on.starts[i] + on.sizes[i])) for i in left}
    read = {
        (start, stop) for first, last in expected for start, stop in rows if first <= start < last
    }
    assert set(rows) == read
    assert sum(stop - start for start, stop in rows) == sum(on.sizes[left])


# -- ends ------------------------------------------------------------------------------


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_a_step_leaves_a_checkpoint_of_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traced, "stepper", lambda *given: None)  # a traced one calls no formula
    model, pressed = dense()(), list[int]()

    def f(xp: Any, Z: Any) -> Any:
        if model.steps_trained == PER_EPOCH + 3 and not pressed:
            pressed.append(model.steps_trained)
            signal.raise_signal(signal.SIGINT)
        return xp.tanh(Z)

    monkeypatch.setitem(ACTIVATIONS, "pressing", Row(f, lambda xp, A: 1 - A * A))
    straight = fitted(dense(activation="pressing")(), data())
    model = dense(activation="pressing")()
    with pytest.raises(KeyboardInterrupt):
        fitted(model, data(), tmp_path, every=3600)
    assert model.steps_trained == pressed[0] + 1
    assert names(tmp_path) == [f"epoch-1-step-{model.steps_trained}.safetensors"]
    assert_same(fitted(dense(activation="pressing")(), data(), tmp_path), straight, before=1)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_a_window_is_read_leaves_a_checkpoint_of_the_last_step(
    tmp_path: Path,
) -> None:
    calls = list[int]()

    def before(rows: slice) -> None:
        calls.append(rows.start)
        if len(calls) == limit:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    def opened() -> Stream:
        return stream(Blocks(before), y, memory=MEMORY)

    limit = 0
    model = dense()()
    straight = fitted(dense()(), opened())
    limit, calls = len(calls) - 4, []  # one more pass finds the hash
    with pytest.raises(KeyboardInterrupt):
        fitted(model, opened(), tmp_path, every=3600)
    epoch, rest = divmod(model.steps_trained, PER_EPOCH)
    assert (epoch, rest > 0) == (1, True)
    assert names(tmp_path) == [f"epoch-1-step-{model.steps_trained}.safetensors"]
    assert_same(fitted(dense()(), opened(), tmp_path), straight, before=1)


def test_what_cannot_be_read_loses_no_more_than_was_kept(tmp_path: Path) -> None:
    fails = False

    def before(rows: slice) -> None:
        if fails and rows.start == 0:
            raise OSError("the disk is gone")

    def opened() -> Stream:
        return stream(Blocks(before), y, memory=MEMORY)

    def fail(model: Model, epoch: Epoch) -> None:
        nonlocal fails
        fails = True

    straight = fitted(dense()(), opened())
    with pytest.raises(DataError, match="the disk is gone"):
        fitted(dense()(), opened(), tmp_path, callbacks=fail)
    fails = False
    kept = [mark for name in names(tmp_path) if (mark := Mark.of(tmp_path / name)) is not None]
    assert max(kept) > (0, 0)
    assert_same(fitted(dense()(), opened(), tmp_path), straight, before=2)


def test_a_training_that_diverges_says_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Model:
        return MLP((N, 3), loss="squared_error", optimizer="sgd", learning_rate=2.5)

    def opened() -> Stream:
        return stream(X, np.eye(3)[y], memory=12_000)

    def diverged(folder: Path | None) -> tuple[str, Model]:
        model = make()
        with pytest.raises(TrainingDiverged) as found:
            fitted(model, opened(), folder, epochs=60)
        return str(found.value), model

    expected, straight = diverged(None)
    step = straight.steps_trained + 5
    assert straight.epochs_trained > 0
    killed(make(), opened(), tmp_path, step, monkeypatch, epochs=60)
    message, model = diverged(tmp_path)
    assert model.steps_trained == step
    kept = f"keeps its weights from step {step}, from which it went on"
    assert message == re.sub(r"keeps its weights from the end of epoch \d+", kept, expected)


# -- how far, and what else is refused ---------------------------------------------------


def test_other_numbers_of_epochs_go_on_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = 2 * PER_EPOCH + 3
    killed(dense()(), data(), tmp_path, step, monkeypatch)
    with pytest.raises(
        CheckpointError, match=r"is 2\.2 epochs on, but epochs is 2: expected at lea"
    ):
        fitted(dense()(), data(), tmp_path, epochs=2)
    longer = fitted(dense()(), data(), tmp_path, epochs=5)
    assert_same(longer, fitted(dense()(), data(), epochs=5), before=2)


def test_rates_that_depend_on_the_number_of_epochs_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(dense()(), data(), tmp_path, 5, monkeypatch, schedule="one_cycle")
    with pytest.warns(CheckpointWarning, match=r"of 3 epochs, .*OneCycle.* now there are 9"):
        fitted(dense()(), data(), tmp_path, schedule="one_cycle", epochs=9)


def test_another_stream_or_window_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(dense()(), data(), tmp_path, 20, monkeypatch)
    changed = X.copy()
    changed[M - 1, 2] = np.nextafter(changed[M - 1, 2], np.float32(9))
    others = [
        (stream(changed, y, weight=w, memory=MEMORY), "with SHA-256 .* but is 230 streamed"),
        (data(weight=None), "with SHA-256"),
        (data(target=(y + 1) % 3), "with SHA-256"),
        (data(MEMORY + 1), r"within 9,000 bytes.*but is .* within 9,001 bytes"),
        (data(seed=1), r"seed 0, with .* seed 1, with"),
    ]
    for other, message in others:
        with pytest.raises(CheckpointError, match=f"the examples was .*{message}"):
            fitted(dense()(), other, tmp_path)
    with pytest.raises(CheckpointError, match=r"the examples was 230 streamed .*, but is 230 with"):
        dense()().fit(X, y, sample_weight=w, checkpoint=tmp_path, layout="rows", **QUIET)
    with pytest.raises(CheckpointError, match="batch_size was 16, but is 8 now"):
        fitted(dense()(), data(), tmp_path, batch_size=8)


def test_a_checkpoint_within_an_epoch_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, opened, options = CASES["three networks"]
    killed(make(), opened(), tmp_path, PER_EPOCH + 4, monkeypatch, **options)
    model = MLP.load(tmp_path / f"epoch-1-step-{PER_EPOCH + 4}.safetensors")
    assert (model.epochs_trained, model.steps_trained) == (1, PER_EPOCH + 4)
    model.predict(X, layout="rows")


def test_what_does_not_fit_is_refused_and_the_older_one_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, opened, options = CASES["three networks"]
    straight = fitted(make(), opened(), **options)
    killed(make(), opened(), tmp_path / "whole", PER_EPOCH + 4, monkeypatch, **options)
    older, newest = (tmp_path / "whole" / name for name in sorted(names(tmp_path / "whole")))
    assert older.name == f"epoch-1-step-{PER_EPOCH + 3}.safetensors"
    header, tensors = read(newest)
    losses, shares = (tensors[name] for name in storage.PASSED)
    assert (losses.shape, shares.shape) == ((3, 4), (3, 4))
    told = json.loads(header["checkpoint"])
    changes: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({}, {"batch_losses": None}),
        ({}, {"batch_weights": None}),
        ({}, {"batch_losses": losses[:, :3], "batch_weights": shares[:, :3]}),
        ({}, {"batch_losses": losses[:2]}),
        ({}, {"batch_losses": losses.astype("float32")}),
        ({}, {"batch_losses": np.array(1.0)}),
        ({}, {"batch_losses": np.full_like(losses, np.nan)}),
        ({}, {"batch_weights": shares[0, :2]}),
        ({}, {"batch_losses": losses[:, :0], "batch_weights": shares[:, :0]}),
        ({"step": json.dumps(PER_EPOCH + 5)}, {}),
    ]
    for seconds in (None, -1, "long", float("inf")):
        memory = {**told["memory"], "seconds": seconds}
        changes.append(({"checkpoint": json.dumps({**told, "memory": memory})}, {}))
    for i, (parts, arrays) in enumerate(changes):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", folder)
        kept = {name: T for name, T in {**tensors, **arrays}.items() if T is not None}
        changed = {name: np.ascontiguousarray(T) if T.ndim else T for name, T in kept.items()}
        write(folder / newest.name, {**header, **parts}, changed)
        with pytest.warns(CheckpointWarning, match=rf"from the older .*{older.name}"):
            assert_same(fitted(make(), opened(), folder, **options), straight, before=1)


@pytest.mark.parametrize("case", ["three networks", "everything"])
def test_a_header_that_was_changed_is_refused_or_works(
    case: str, sample: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", "0")
    make, opened, options = CASES[case]
    killed(make(), opened(), tmp_path / "whole", PER_EPOCH + 4, monkeypatch, **options)
    name = f"epoch-1-step-{PER_EPOCH + 4}.safetensors"
    header, tensors = read(tmp_path / "whole" / name)
    folder = tmp_path / "changed"
    folder.mkdir()

    def go_on() -> None:
        try:
            fitted(make(), opened(), folder, **options)
        except CheckpointError as error:
            raise ModelFileError(str(error)[:500]) from None

    wrong, counts = dict[str, str](), {"works": 0, "refused": 0}
    mutated = chosen(list(mutants(header)), sample, TRAINED)
    cases = [("nothing", "config", header["config"]), *mutated]
    for change, part, text in cases:
        for other in folder.iterdir():
            other.unlink()
        write(folder / name, {**header, part: text}, tensors)
        found = outcome(go_on)
        if found in counts:
            counts[found] += 1
        else:
            wrong[change] = found
    assert not wrong, "\n".join(f"{change}: {found}" for change, found in wrong.items())
    assert min(counts.values()) > 0


def test_a_checkpoint_that_takes_long_is_of_the_step_at_which_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, packed = threading.Event(), ModelKeeper.packed

    def slow(self: ModelKeeper, *args: Any) -> bytes | None:
        assert trained.wait(60), "the training waited for the disk"
        return packed(self, *args)

    def end(model: Model, epoch: Epoch) -> None:
        trained.set()
        waiting(model, epoch)
        raise Killed

    make, opened, options = CASES["everything"]
    begun = {"early_stopping": 9, **options}
    monkeypatch.setattr(ModelKeeper, "packed", slow)
    monkeypatch.setattr(ModelKeeper, "note", lambda *_: None)  # so that it begins within
    with pytest.raises(Killed):
        fitted(make(), opened(), tmp_path, **begun, callbacks=end)
    monkeypatch.undo()
    assert names(tmp_path) == ["epoch-0-step-1.safetensors"]
    assert_same(fitted(make(), opened(), tmp_path, **begun), fitted(make(), opened(), **begun))


def test_a_full_disk_is_said_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with every_step(monkeypatch), pytest.warns(CheckpointWarning) as said:
        model = fitted(dense()(), data(), tmp_path)
    assert_same(model, fitted(dense()(), data()))
    first, last = (str(warning.message) for warning in said)  # once, and at the end
    assert "The checkpoint of epoch 0 and step 1 could not be written" in first
    assert "The checkpoint of epoch 3 could not be written" in last
    assert not names(tmp_path)
