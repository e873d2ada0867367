"""A training that is killed goes on from its checkpoint to the bit, or says why it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_hostile_files import TRAINED, chosen, mutants, outcome, read, write

from conftest import Backend
from mlp_xp import (
    ACTIVATIONS,
    MLP,
    OPTIMIZERS,
    SCHEDULES,
    Epoch,
    Sequential,
    TrainingDiverged,
    storage,
)
from mlp_xp import Activation as Row
from mlp_xp.checkpoints import NAME, CheckpointError, CheckpointWarning, _Lock
from mlp_xp.checkpoints_models import ModelKeeper
from mlp_xp.compile import step
from mlp_xp.devices import circumstances
from mlp_xp.devices import device as find_device
from mlp_xp.fitting import EarlyStopping
from mlp_xp.layers import Activation, BatchNorm, Conv2d, Dense, Dropout, Flatten
from mlp_xp.model import Model
from mlp_xp.schedules import ReduceOnPlateau
from mlp_xp.storage import ModelFileError

RNG = np.random.default_rng(11)
X = RNG.normal(size=(5, 60))
Y = (X[0] + X[1] * X[2] > 0).astype(int)
HELD = (RNG.normal(size=(5, 30)), RNG.integers(0, 2, 30))
WEIGHTS = RNG.uniform(0.5, 2, 60)
EPOCHS, KILLED = 12, 8
FULL: dict[str, Any] = {
    "normalization": "batch",
    "dropout": 0.25,
    "residual": True,
    "density": 0.6,
    "l2": 1e-4,
    "clip_norm": 2.0,
    "label_smoothing": 0.1,
}


def dense(**options: Any) -> Callable[[], Model]:
    return lambda: MLP((5, 6, 4, 2), **{"seed": 3, **options})


def layered() -> Model:
    layers = [Conv2d(3, kernel=(2, 1)), BatchNorm(), Activation("relu"), Flatten(), Dropout(0.2)]
    return Sequential((1, 5, 1), [*layers, Dense(2)], seed=[3, 4])


# how a model is made, and how it is fitted
CASES: dict[str, tuple[Callable[[], Model], dict[str, Any]]] = {
    "everything": (dense(**FULL), {"validation_data": HELD, "schedule": "one_cycle"}),
    "three networks": (
        dense(**FULL, seed=[1, 2, 3]),
        {"validation_data": HELD, "early_stopping": 3, "schedule": ReduceOnPlateau(patience=1)},
    ),
    "a plateau": (
        dense(seed=[1, 2]),
        {"schedule": ReduceOnPlateau(drop=0.5, patience=1, threshold=0.2)},
    ),
    "float64": (dense(**FULL, dtype="float64"), {"sample_weight": WEIGHTS}),
    "bfloat16": (dense(precision="bfloat16"), {}),
    "early stopping": (
        dense(learning_rate=0.1),
        {"validation_data": HELD, "early_stopping": EarlyStopping(6, 0.01)},
    ),
    "by the training loss": (dense(), {"early_stopping": True, "shuffle": False}),
    "one batch": (dense(), {"batch_size": 60}),
    "layers": (layered, {"validation_data": HELD, "early_stopping": 5}),
}
CASES |= {name: (dense(optimizer=name), {}) for name in OPTIMIZERS}
CASES |= {name: (dense(), {"schedule": name, "early_stopping": 9}) for name in SCHEDULES}


class Killed(Exception):
    """What ends a training in a test, where nothing can be done about it."""


def fitted(model: Model, folder: Path | None = None, **options: Any) -> Model:
    more: dict[str, Any] = {} if folder is None else {"checkpoint": folder, "every": 0}
    kept = {"epochs": EPOCHS, "batch_size": 16, "progress": False, **more, **options}
    return model.fit(X, Y, **kept)


def killed(model: Model, folder: Path, after: int = KILLED, **options: Any) -> None:
    """Train until the end of an epoch, which is not kept: it had not ended."""

    def kill(_: Model, epoch: Epoch) -> None:
        if epoch.epoch == after:
            raise Killed

    with pytest.raises(Killed):
        fitted(model, folder, **options, callbacks=kill)


def waiting(_: Model, epoch: Epoch) -> None:
    """A callback that waits for the disk, so that every epoch's checkpoint is written."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


def bits(model: Model) -> list[bytes]:
    state = model._run.state
    arrays = (state.theta, *state.moments, state.running)
    return [model.device.get(array).tobytes() for array in arrays]


def assert_same(model: Model, other: Model, before: int = 0) -> None:
    """That two models are equal, the first with a clock that goes on after epochs `before`."""
    assert bits(model) == bits(other)
    assert model.steps_trained == other.steps_trained
    assert model.history.keys() == other.history.keys()
    for name in set(model.history) - {"seconds"}:
        assert np.array_equal(model.history[name], other.history[name]), name
    seconds = model.history["seconds"][before:]
    assert seconds == sorted(seconds)


def names(folder: Path) -> list[str]:
    """The checkpoints in a folder."""
    return sorted(path.name for path in folder.glob("epoch-*"))


@pytest.mark.parametrize("case", CASES)
def test_a_training_goes_on_to_the_bit(case: str, tmp_path: Path) -> None:
    make, options = CASES[case]
    straight = fitted(make(), **options)
    if case == "a plateau":
        rates = np.array(straight.history["rate"])
        assert (rates[KILLED - 2] < rates[0]).all()
        assert (rates[-1] < rates[KILLED - 1]).any()
    killed(make(), tmp_path, min(KILLED, straight.epochs_trained), **options)
    assert f"epoch-{min(KILLED, straight.epochs_trained) - 1}.safetensors" in names(tmp_path)
    assert_same(fitted(make(), tmp_path, **options), straight)
    assert_same(fitted(make(), tmp_path, **options), straight)  # which was over


def test_checkpoints_change_nothing_of_a_training(tmp_path: Path) -> None:
    make, options = CASES["everything"]
    assert_same(fitted(make(), tmp_path / "a" / "b", **options), fitted(make(), **options))


def test_a_training_on_any_backend_goes_on(backend: Backend, tmp_path: Path) -> None:
    options = {"early_stopping": 4, "validation_data": HELD}
    make = dense(**FULL, seed=[1, 2], device=backend.device)
    straight = fitted(make(), **options)
    killed(make(), tmp_path, **options)
    assert_same(fitted(make(), tmp_path, **options), straight)


def test_a_training_that_is_killed_again_and_again_ends_the_same(tmp_path: Path) -> None:
    make, options = CASES["three networks"]
    straight = fitted(make(), **options)
    assert straight.epochs_trained == EPOCHS
    for epoch in (1, 3, 4, 5, 9, 12):
        killed(make(), tmp_path, epoch, **options)
    assert_same(fitted(make(), tmp_path, **options), straight)


def test_a_model_that_was_trained_before_goes_on(tmp_path: Path) -> None:
    def before() -> Model:
        return fitted(dense(**FULL)(), epochs=3)

    straight = fitted(before())
    killed(before(), tmp_path, 3 + KILLED)
    assert_same(fitted(before(), tmp_path), straight, before=3)


# -- how far --------------------------------------------------------------------------


def test_a_training_that_is_over_goes_on_with_more_epochs(tmp_path: Path) -> None:
    fitted(dense(**FULL)(), tmp_path)
    longer = fitted(dense(**FULL)(), tmp_path, epochs=20)
    assert_same(longer, fitted(dense(**FULL)(), epochs=20))


def test_what_ended_a_training_ends_it_with_more_epochs_too(tmp_path: Path) -> None:
    stops: list[dict[str, Any]] = [
        {"callbacks": lambda _, epoch: epoch.epoch == 5},
        {**CASES["early stopping"][1], "early_stopping": 2},
    ]
    for i, options in enumerate(stops):
        make = CASES["early stopping"][0]
        straight = fitted(make(), tmp_path / str(i), **options)
        assert straight.epochs_trained < EPOCHS
        options.pop("callbacks", None)
        assert_same(fitted(make(), tmp_path / str(i), **options, epochs=30), straight)


def test_rates_that_depend_on_the_number_of_epochs_are_said(tmp_path: Path) -> None:
    fitted(dense()(), tmp_path, schedule="one_cycle")
    with pytest.warns(CheckpointWarning, match=r"of 12 epochs, .*OneCycle.* now there are 20"):
        longer = fitted(dense()(), tmp_path, schedule="one_cycle", epochs=20)
    assert longer.epochs_trained == 20
    steps, per_epoch = 20 * 4, 4
    rate = 0.001 * SCHEDULES["one_cycle"].factor(13 * per_epoch - 1, steps, per_epoch)
    assert longer.history["rate"][12] == pytest.approx(rate)


def test_fewer_epochs_than_there_were_are_refused(tmp_path: Path) -> None:
    fitted(dense()(), tmp_path)
    with pytest.raises(CheckpointError, match="is 12 epochs on, but epochs is 5: expected at leas"):
        fitted(dense()(), tmp_path, epochs=5)


# -- another training ------------------------------------------------------------------

OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "batch size": ({}, {"batch_size": 20}, "batch_size was 16, but is 20 now"),
    "shuffle": ({}, {"shuffle": False}, "shuffle was True, but is False now"),
    "schedule": ({}, {"schedule": "cosine"}, r"schedule was .*, but is Cosine\(final=0.0\) now"),
    "stopping": ({}, {"early_stopping": 3}, r"early_stopping was None, but is Ear.*patience=3"),
    "rate": ({"learning_rate": 0.5}, {}, "optimizer's rate was 0.001, but is 0.5 now"),
    "optimizer": ({"optimizer": "sgd"}, {}, "optimizer's name was adam, but is sgd now"),
    "layers": ({"dropout": 0.5}, {}, r"dropout was \[0.0, 0.0\], but is \[0.5, 0.5\] now"),
    "penalty": ({"l2": 0.1}, {}, "l2 was 0.0, but is 0.1 now"),
    "dtype": ({"dtype": "float64"}, {}, "dtype was float32, but is float64 now"),
    "seed": ({"seed": 4}, {}, "seed was 3, but is 4 now.*the state it begins from was"),
    "weights": ({}, {"sample_weight": WEIGHTS}, "the examples was 60 with SHA-256"),
    "validation": ({}, {"validation_data": HELD}, "the validation data was None, but is 30 with"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_recipe_is_refused_by_name(what: str, tmp_path: Path) -> None:
    made, options, message = OTHERS[what]
    fitted(dense()(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = dense(**made)()
    start = bits(model)
    with pytest.raises(CheckpointError, match=message) as refusal:
        fitted(model, tmp_path, **options)
    assert "To begin a new training, name another folder or delete this one" in str(refusal.value)
    assert (bits(model), model.history) == (start, {})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("m", [60, 20_000])
def test_one_changed_number_of_the_data_is_noticed(m: int, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(m, 2)).astype(np.float32)
    labels = np.arange(m) % 2
    kept: dict[str, Any] = {"epochs": 1, "progress": False, "layout": "rows"}
    kept |= {"checkpoint": tmp_path, "batch_size": m}
    MLP((2, 2)).fit(rows, labels, **kept)
    rows[m - 7, 1] = np.nextafter(rows[m - 7, 1], np.float32(9))
    with pytest.raises(CheckpointError, match="the examples was"):
        MLP((2, 2)).fit(rows, labels, **kept)
    rows[m - 7, 1] = np.nextafter(rows[m - 7, 1], np.float32(-9))
    MLP((2, 2)).fit(rows, labels, **kept)
    labels[m // 2] ^= 1
    with pytest.raises(CheckpointError, match="the examples was"):
        MLP((2, 2)).fit(rows, labels, **kept)


def test_a_model_that_went_on_otherwise_is_refused(tmp_path: Path) -> None:
    model = fitted(dense()(), tmp_path)
    with pytest.raises(CheckpointError, match=r"begins from was after 0 epochs.*after 12.*reset"):
        fitted(model, tmp_path)
    other = dense()()
    other.set_parameters(b1=np.ones((6, 1)))
    with pytest.raises(CheckpointError, match="the state it begins from was"):
        fitted(other, tmp_path)
    model.reset()
    assert_same(fitted(model, tmp_path), fitted(dense()()))


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    fitted(dense()(), tmp_path)
    for path in tmp_path.glob("epoch-*"):
        header, tensors = read(path)
        told = {**json.loads(header["checkpoint"]), "version": 2}
        write(path, {**header, "checkpoint": json.dumps(told)}, tensors)
    with pytest.raises(CheckpointError, match=r"of version 2, but this mlp_xp reads version 1"):
        fitted(dense()(), tmp_path)


def test_where_last_bits_may_differ_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(dense()(), tmp_path)
    now = {**circumstances(find_device("cpu")), "the number of threads": "64"}
    monkeypatch.setattr("mlp_xp.checkpoints.circumstances", lambda device: now)
    with pytest.warns(CheckpointWarning, match=r"threads was \d+, but is 64 now.*to rounding"):
        fitted(dense()(), tmp_path)


# -- damage ----------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_said_and_the_older_one_is_gone_on_from(tmp_path: Path) -> None:
    make, options = CASES["three networks"]
    straight = fitted(make(), **options)
    killed(make(), tmp_path, **options)
    newest = tmp_path / "epoch-7.safetensors"
    whole = newest.read_bytes()
    randoms = np.random.default_rng(3)
    flipped = [int(i) for i in randoms.integers(0, len(whole), 12)]
    damages = [whole[:i] + bytes([whole[i] ^ 0x40]) + whole[i + 1 :] for i in flipped]
    damages += [whole[: int(n)] for n in randoms.integers(0, len(whole), 5)]
    damages += [b"", b"\x80\x04\x95 a pickle", whole + b"more"]
    (older,) = (name for name in names(tmp_path) if name != newest.name)
    for i, damage in enumerate(damages):
        folder = tmp_path / f"copy-{i}"
        shutil.copytree(tmp_path, folder, ignore=shutil.ignore_patterns("copy-*"))
        (folder / newest.name).write_bytes(damage)
        with pytest.warns(CheckpointWarning, match=rf"{newest.name} .* from the older .*{older}"):
            assert_same(fitted(make(), folder, **options), straight)


def test_where_no_checkpoint_is_whole_nothing_is_begun(tmp_path: Path) -> None:
    killed(dense()(), tmp_path)
    for name in names(tmp_path):
        (tmp_path / name).write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"epoch-7.*cannot be read.*epoch-.*delete this one"):
        fitted(dense()(), tmp_path)
    for name in names(tmp_path):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="is not a file"):
        fitted(dense()(), tmp_path)


def test_a_models_file_is_no_checkpoint(tmp_path: Path) -> None:
    dense()().save(tmp_path / "epoch-5.safetensors")
    with pytest.raises(CheckpointError, match="holds a model, but no checkpoint of a training"):
        fitted(dense()(), tmp_path)


def gone_on(make: Callable[[], Model], folder: Path, options: dict[str, Any]) -> None:
    """`fitted`, where a refusal is that of the file."""
    try:
        fitted(make(), folder, **options)
    except CheckpointError as error:
        raise ModelFileError(str(error)[:500]) from None


@pytest.mark.parametrize("case", ["three networks", "everything"])
def test_a_header_that_was_changed_is_refused_or_works(
    case: str, sample: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", "0")
    make, options = CASES[case]
    killed(make(), tmp_path / "whole", **options)
    header, tensors = read(tmp_path / "whole" / "epoch-7.safetensors")
    path = tmp_path / "changed" / "epoch-7.safetensors"
    path.parent.mkdir()
    wrong = dict[str, str]()
    counts = {"works": 0, "refused": 0}
    mutated = chosen(list(mutants(header)), sample, TRAINED)
    cases = [("nothing", "config", header["config"]), *mutated]
    for name, part, text in cases:
        for other in path.parent.iterdir():
            other.unlink()
        write(path, {**header, part: text}, tensors)
        found = outcome(lambda: gone_on(make, path.parent, options))
        if found in counts:
            counts[found] += 1
        else:
            wrong[name] = found
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert min(counts.values()) > 0


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    make, options = CASES["three networks"]
    killed(make(), tmp_path / "whole", **options)
    header, tensors = read(tmp_path / "whole" / "epoch-7.safetensors")
    assert {"best", "best_running", "W1", "moment2", "mean1"} <= set(tensors)
    path = tmp_path / "changed" / "epoch-7.safetensors"
    path.parent.mkdir()
    for name, tensor in tensors.items():
        holed = tensor.copy()
        holed.flat[0] = np.nan
        others = [tensor[..., :-1].copy(), tensor.astype("float64"), None]
        others += [] if name.startswith("moment") else [holed]
        for other in others:
            changed = {**tensors, name: other}
            write(path, header, {k: v for k, v in changed.items() if v is not None})
            with pytest.raises(CheckpointError, match=r"does not fit|were|not finite|but expected"):
                fitted(make(), path.parent, **options)
    write(path, header, {**tensors, "more": tensors["W1"]})
    with pytest.raises(CheckpointError, match="no such tensor"):
        fitted(make(), path.parent, **options)


# -- the folder ------------------------------------------------------------------------


def test_the_last_two_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    others = ["epoch-1.txt", "epoch-x.safetensors", "model.safetensors", "epoch-2.safetensors.bak"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    fitted(dense()(), tmp_path, callbacks=waiting)
    kept = [path.name for path in tmp_path.iterdir() if NAME.fullmatch(path.name)]
    assert sorted(kept) == ["epoch-11.safetensors", "epoch-12.safetensors"]
    assert all((tmp_path / name).read_bytes() == b"mine" for name in others)
    assert not list(tmp_path.glob(".*.tmp"))


def test_what_kills_have_left_is_swept(tmp_path: Path) -> None:
    killed(dense()(), tmp_path)
    newest = tmp_path / "epoch-7.safetensors"
    (older,) = (name for name in names(tmp_path) if name != newest.name)
    for number in (0, 2, 3):
        shutil.copy(newest, tmp_path / f"epoch-{number}.safetensors")
    shutil.move(tmp_path / older, tmp_path / "epoch-4.safetensors")
    killed(dense()(), tmp_path, after=8, every=3600)  # which writes none
    assert names(tmp_path) == ["epoch-4.safetensors", newest.name]


def test_a_checkpoint_is_a_model(tmp_path: Path) -> None:
    make, options = CASES["early stopping"]
    killed(make(), tmp_path, **options)
    model = MLP.load(tmp_path / "epoch-7.safetensors")
    assert bits(model) == bits(fitted(make(), epochs=7, **{**options, "early_stopping": None}))
    model.predict(X)
    model.save(tmp_path / "model.safetensors")
    assert bits(MLP.load(tmp_path / "model.safetensors")) == bits(model)


def test_fit_writes_one_at_its_end_and_no_more_than_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[str]()
    slow = storage.write_atomically

    def write(path: Path, content: bytes) -> None:
        written.append(path.name)
        slow(path, content)

    monkeypatch.setattr(storage, "write_atomically", write)
    dense()().fit(X, Y, epochs=50, progress=False, checkpoint=tmp_path)
    assert written == ["epoch-50.safetensors"]
    dense()().fit(X, Y, epochs=50, progress=False, checkpoint=tmp_path)  # it is there
    assert written == ["epoch-50.safetensors"]


def test_what_the_processor_had_to_do_is_not_done_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little `every` is, unless it is 0: for epochs may take less than a checkpoint."""
    written = list[str]()
    monkeypatch.setattr(storage, "write_atomically", lambda path, _: written.append(path.name))
    monkeypatch.setattr("mlp_xp.checkpoints.time.thread_time", lambda: 10.0)
    fitted(dense()(), tmp_path, every=1e-9, callbacks=waiting)
    assert written == ["epoch-1.safetensors", "epoch-12.safetensors"]
    written.clear()
    fitted(dense()(), tmp_path, every=0, callbacks=waiting)
    assert len(written) == EPOCHS


@pytest.mark.parametrize("every", [-1, float("nan"), "often", None, True])
def test_every_is_a_number_of_seconds(every: Any, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match="every is"):
        fitted(dense()(), tmp_path, every=every)


def test_a_folder_that_cannot_be_one_is_said_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="file, which is no folder"):
        fitted(dense()(), tmp_path / "file")
    with pytest.raises(TypeError, match="checkpoint is True, but expected a folder's name"):
        fitted(dense()(), True)  # type: ignore[arg-type]


def test_what_a_file_cannot_hold_is_said_before_the_first_step(tmp_path: Path) -> None:
    own = (lambda xp, Z: Z, lambda xp, Z: xp.ones_like(Z))
    with pytest.raises(ValueError, match="activation stands in no table"):
        fitted(dense(activation=own)(), tmp_path)
    model = dense()()
    model.metadata = {"f": object()}
    with pytest.raises(ValueError, match="metadata cannot be written as JSON"):
        fitted(model, tmp_path)
    assert not names(tmp_path)


def test_a_folder_is_one_trainings_at_a_time(tmp_path: Path) -> None:
    def again(model: Model, epoch: Epoch) -> None:
        with pytest.raises(CheckpointError, match="of another training of this process"):
            fitted(dense()(), tmp_path / "." / "x" / "..")
        code = (
            "import numpy as np, mlp_xp\n"
            "X, y = np.eye(3)[:, :2], np.array([0, 1])\n"
            "model = mlp_xp.MLP((3, 2))\n"
            f"model.fit(X, y, progress=False, checkpoint={str(tmp_path)!r})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "has the checkpoints of another process that is going on" in done.stderr

    (tmp_path / "x").mkdir()
    fitted(dense()(), tmp_path, callbacks=again, epochs=1)
    fitted(dense()(), tmp_path)  # it is free again


FORKED = """
import os, signal, sys, time
import numpy as np
from mlp_xp import MLP

def fork(model, epoch):
    if sys.argv[2] == "fork" and epoch.epoch == 2:
        child = os.fork()
        if child == 0:
            os.close(1), os.close(2)
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

X, y = np.eye(3)[:, :2], np.array([0, 1])
options = {"progress": False, "checkpoint": sys.argv[1], "every": 0}
model = MLP((3, 2)).fit(X, y, **options, callbacks=fork)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_child_that_outlives_a_training_does_not_hold_its_folder(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", FORKED, str(tmp_path)]
    first = subprocess.run([*argv, "fork"], capture_output=True, text=True)
    assert first.returncode == -9, first.stderr
    try:
        again = subprocess.run([*argv, "no"], capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
    finally:
        os.kill(int(first.stdout), signal.SIGKILL)
    assert "epoch-20.safetensors" in names(tmp_path)


def test_without_checkpoints_nothing_of_them_is_imported() -> None:
    code = (
        "import sys, numpy as np, mlp_xp\n"
        "mlp_xp.MLP((3, 2)).fit(np.eye(3)[:, :2], np.array([0, 1]), progress=False)\n"
        "assert 'mlp_xp.checkpoints' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- disks that are slow or full -------------------------------------------------------


def test_a_slow_disk_stops_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = threading.Event()
    slow = os.fsync

    def fsync(file: int) -> None:
        assert trained.wait(60), "the training waited for the disk"
        slow(file)

    def callback(_: Model, epoch: Epoch) -> None:
        if epoch.epoch == EPOCHS - 1:
            trained.set()

    monkeypatch.setattr(os, "fsync", fsync)
    model = fitted(dense()(), tmp_path, callbacks=callback)
    assert names(tmp_path) == ["epoch-1.safetensors", "epoch-12.safetensors"]
    monkeypatch.undo()
    assert_same(fitted(dense()(), tmp_path), model)


def test_a_full_disk_is_said_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(dense()(), tmp_path)
    kept = names(tmp_path)

    def fail(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.warns(CheckpointWarning) as said:
        model = fitted(dense()(), tmp_path, epochs=100)
    assert_same(model, fitted(dense()(), epochs=100))
    first, *_, last = (str(warning.message) for warning in said)
    assert len(said) == 2  # once, and at the end
    assert re.search("checkpoint of epoch 8 could not .*: No space left on device", first)
    assert re.search(r"checkpoint of epoch 100 could .*older \(the last is .*epoch-7", last)
    assert names(tmp_path) == kept
    monkeypatch.undo()
    assert_same(fitted(dense()(), tmp_path, epochs=100), model)


def test_no_room_for_a_copy_is_said_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ModelKeeper, reached: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ModelKeeper, "bring", fail)
    with pytest.warns(CheckpointWarning, match="could not be written to .*: out of memory"):
        model = fitted(dense()(), tmp_path, epochs=100)
    assert_same(model, fitted(dense()(), epochs=100))


# -- ends ------------------------------------------------------------------------------


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_a_checkpoint_of_the_last_whole_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "stepper", lambda *given: None)  # a traced one calls no formula
    model, pressed = dense()(), list[int]()

    def f(xp: Any, Z: Any) -> Any:
        if model.epochs_trained == 5 and not pressed:  # in the middle of a step
            pressed.append(model.steps_trained)
            signal.raise_signal(signal.SIGINT)
        return xp.tanh(Z)

    monkeypatch.setitem(ACTIVATIONS, "pressing", Row(f, lambda xp, A: 1 - A * A))
    straight = fitted(dense(activation="pressing")())
    model = dense(activation="pressing")()
    with pytest.raises(KeyboardInterrupt):
        fitted(model, tmp_path, every=3600)
    assert model.steps_trained == pressed[0] + 1
    assert names(tmp_path) == ["epoch-5.safetensors"]
    assert_same(fitted(dense(activation="pressing")(), tmp_path), straight)


def test_ctrl_c_while_a_folder_is_released_leaves_it_free(tmp_path: Path) -> None:
    lock = _Lock(tmp_path)
    file = lock.file

    class Pressed:
        def close(self) -> None:
            file.close()
            raise KeyboardInterrupt

    lock.file = Pressed()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        lock.release()
    _Lock(tmp_path).release()


def test_a_training_that_diverges_does_so_again(tmp_path: Path) -> None:
    def train(folder: Path | None) -> str:
        model = MLP((5, 2), loss="squared_error", optimizer="sgd", learning_rate=3.0)
        options = {} if folder is None else {"checkpoint": folder, "every": 0}
        with pytest.raises(TrainingDiverged) as found:
            model.fit(X, np.eye(2)[Y].T, epochs=500, progress=False, **options)
        return str(found.value)

    expected = train(None)
    assert not expected.startswith("The loss stopped being finite in epoch 1,")
    assert [train(tmp_path), train(tmp_path)] == [expected] * 2
    assert names(tmp_path)


def test_the_bar_begins_where_the_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(dense()(), tmp_path)
    fitted(dense()(), tmp_path, progress=True)
    err = capsys.readouterr().err
    assert "48/48" in err
    assert "28/48" in err


# -- kills -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "n"), [("networks", 6), ("streamed", 6), ("layers", 4), ("large", 2)]
)
def test_trainings_killed_at_random_moments_end_the_same(case: str, n: int, seed: int) -> None:
    pytest.importorskip("kills").campaign(case, n, seed)


COUNTED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from mlp_xp import MLP

last, folder = int(sys.argv[1]), sys.argv[2]
calls = 0

def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

X = np.random.default_rng(0).normal(size=(3, 40))
def fit(epochs):
    model = MLP((3, 4, 2), normalization="batch")
    options = {"progress": False, "checkpoint": folder, "batch_size": 10}
    return model.fit(X, (X[0] > 0).astype(int), epochs=epochs, **options)

if not os.path.exists(folder):
    fit(1)
    fit(2)
for name in ("open", "fsync", "replace", "unlink", "close", "chmod"):
    setattr(os, name, counted(getattr(os, name)))
Path.unlink = counted(Path.unlink)
print(fit(3)._run.state.theta.tobytes().hex(), calls)
"""


def test_killed_before_any_call_of_a_write_the_old_or_the_new_is_whole(tmp_path: Path) -> None:
    def run(last: int, folder: Path) -> tuple[str, int]:
        argv = [sys.executable, "-c", COUNTED, str(last), str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode in (0, -9), done.stderr
        theta, calls = done.stdout.split() if done.stdout else ("", "0")
        return theta, int(calls)

    expected, calls = run(0, tmp_path / "whole")
    assert calls >= 8
    for last in range(1, calls + 1):
        folder = tmp_path / str(last)
        assert run(last, folder) == ("", 0)
        kept = names(folder)
        assert kept[:1] == ["epoch-1.safetensors"] or kept[-1] == "epoch-3.safetensors"
        assert {"epoch-2.safetensors"} <= set(kept)
        for name in kept:
            MLP.load(folder / name)
        assert run(0, folder)[0] == expected
