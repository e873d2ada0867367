"""A search compares trials by rows to choose by, keeps them, and ends with one model."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas
import pytest
import sqlalchemy

import mlp_xp
from mlp_xp import MLP, Sequential
from mlp_xp.cli import main
from mlp_xp.data import Dataset, load
from mlp_xp.layers import Dense, Last, temporal_convolutions
from mlp_xp.layers.chain import Chain
from mlp_xp.layers.text import layers_of
from mlp_xp.preparation import split
from mlp_xp.readers import DataError
from mlp_xp.searching.families import FAMILIES
from mlp_xp.searching.front import Interrupted, search
from mlp_xp.searching.space import DIMENSIONS, arguments, dimensions, draw
from mlp_xp.searching.study import TRIES, Study, _again, _is_dead, place, quiet
from mlp_xp.searching.task import Task, Wanted, Watch

ROOT = Path(__file__).parents[1]
SHORT: dict[str, Any] = {"epochs": 3, "hidden": (12,), "batch_size": 256, "progress": False}
OPTIONS = ("--epochs", 3, "--hidden", "12", "--batch-size", 256)


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line."""

    def call(*argv: object) -> Result:
        code = main([str(part) for part in argv])
        return Result(code, *capsys.readouterr())

    return call


def begin(*argv: object) -> subprocess.Popen[str]:
    """A process of the command, on the digits."""
    return subprocess.Popen(
        [sys.executable, "-m", "mlp_xp", "search", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(holds: Callable[[], Any], seconds: float = 60) -> Any:
    """What holds, as soon as it does."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def stored(path: str = "search.db") -> Any:
    """Optuna's storage in a file that is closed when nothing is asked of it."""
    kept = {"poolclass": sqlalchemy.pool.NullPool}
    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=kept)


def trials_of(name: str = "digits", storage: str = "search.db") -> list[Any]:
    """All trials of a study, [] where there is none yet."""
    if not Path(storage).exists():
        return []
    try:
        return optuna.load_study(study_name=name, storage=stored(storage)).get_trials()
    except Exception:  # it is being made at this moment
        return []


def ended(trials: list[Any]) -> list[Any]:
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]


# -- the command ---------------------------------------------------------------------


def test_the_best_trial_is_trained_again_written_and_made_by_train_alike(run: Run) -> None:
    found = run("search", "--trials", 4, "--epochs", 4, "--space", "width=8..32", "--plots", "p")
    assert found.code == 0, found.err
    assert "digits: 1,150 examples to train on, 288 to choose by, 359 held out" in found.out
    assert "study 'digits' in search.db; Ctrl-C keeps it" in found.out
    assert found.err.count("mlp-xp: trial ") == 4
    table = re.findall(r"^\d+\*? +(?:complete|pruned) ", found.out, re.MULTILINE)
    assert len(table) == 4
    assert {path.name for path in Path("p").iterdir()} >= {"history.png", "slices.png"}
    line = next(line for line in found.out.splitlines() if line.startswith("the same by hand: "))
    made = run(*shlex.split(line.removeprefix("the same by hand: mlp-xp ")), "--out", "other")
    held_out = [line for line in made.out.splitlines() if line.startswith("held-out")]
    assert held_out[0].split(", after")[0] in found.out
    one, other = MLP.load("model.safetensors"), MLP.load("other")
    for name, W in one.parameters.items():
        np.testing.assert_array_equal(W, other.parameters[name])
    assert one.metadata["fingerprint"] == other.metadata["fingerprint"]
    assert one.metadata["split"] == other.metadata["split"]
    assert one.metadata["search"]["trials"] == 4
    shown, same = (run("show", name, "--json").document for name in ("model.safetensors", "other"))
    for document in (shown, same):
        del document["file"], document["training"]["date"], document["training"]["seconds"]
        document["scores"].pop("validation", None)
        document["training"].pop("final_rate")

    assert shown == same
    measured = run("evaluate", "model.safetensors", "digits", "--held-out", "--json").document
    assert (measured["examples"], measured["trained_on"]) == (359, 0)


def test_json_is_one_document_and_the_same_command_adds_what_is_missing(run: Run) -> None:
    first = run("search", "--trials", 2, *OPTIONS, "--json").document
    again = run("search", "--trials", 3, *OPTIONS, "--json", "--no-progress")
    second = again.document
    assert len(first["trials"]) == 2
    assert second["trials"][:2] == first["trials"]
    assert len(second["trials"]) == 3
    assert second["best"] in second["trials"]
    assert second["examples"] == {"training": 1150, "validation": 288, "held_out": 359}
    assert second["held_out"]["trained_on"] == 0
    assert second["train"].startswith("mlp-xp train --data digits --hidden 12 ")
    assert (second["study"], second["storage"]) == ("digits", "search.db")
    assert "mlp-xp: trial" not in again.err
    options = second["trials"][1]["options"]
    assert not {"hidden", "batch_size"} & set(options)
    assert {"activation", "learning_rate", "optimizer"} <= set(options)


def test_the_line_of_train_takes_names_that_begin_with_a_dash(run: Run) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    np.savez("-d.npz", X=X, y=X[:, 0] > 0)
    out = run("search", "--data=-d.npz", "--trials", 1, "--epochs", 1).out
    line = re.search(r"the same by hand: mlp-xp (.*)", out)
    assert line is not None
    assert run(*shlex.split(line[1]), "--no-progress").code == 0


def test_the_line_of_train_has_all_digits_of_a_number(run: Run) -> None:
    options = ("--learning-rate", 0.0123456789, "--l2", 0.00123456789, "--clip-norm", 0.123456789)
    out = run("search", "--trials", 1, *OPTIONS, *options).out
    line = re.search(r"the same by hand: mlp-xp (.*)", out)
    assert line is not None
    assert run(*shlex.split(line[1]), "--out", "other", "--no-progress").code == 0
    one, other = MLP.load("model.safetensors"), MLP.load("other")
    for name, W in one.parameters.items():
        np.testing.assert_array_equal(W, other.parameters[name])


def test_a_table_with_words_and_gaps_is_searched(run: Run) -> None:
    draws = np.random.default_rng(0)
    color = draws.choice(["red", "green", "blue"], 120)
    size = draws.normal(size=120)
    kind = np.where((color == "red") | (size > 1), "yes", "no")
    frame = pandas.DataFrame({"color": color, "size": size, "kind": kind})
    frame.loc[3, "size"] = np.nan
    frame.to_csv("t.csv", index=False)
    found = run("search", "--data", "t.csv", "--target", "kind", "--trials", 2, *OPTIONS[:4])
    assert found.code == 0, found.err
    answers = run("predict", "model.safetensors", "t.csv").out.split()
    assert set(answers) <= {"prediction", "yes", "no"}
    options: dict[str, Any] = {**SHORT, "batch_size": 16, "storage": None}
    in_python = search(frame[["color", "size"]], frame["kind"], trials=1, **options)
    assert set(in_python.model.predict(frame[["color", "size"]])) <= {"yes", "no"}


def test_a_test_set_is_what_is_held_out(run: Run) -> None:
    data = load("digits")
    assert data.y is not None
    X, y = data.X, data.y
    np.savez("d.npz", x_train=X[:1000], y_train=y[:1000], x_test=X[1000:], y_test=y[1000:])
    found = run("search", "--data", "d.npz", "--trials", 1, *OPTIONS, "--json").document
    assert found["examples"] == {"training": 800, "validation": 200, "held_out": 797}
    assert found["held_out"]["examples"] == 797
    refused = run("search", "--data", "d.npz", "--held-out", 0.1)
    assert "d.npz has a test set of its own" in refused.err


@pytest.mark.parametrize(("choose_by", "best"), [("score", max), ("loss", min)])
def test_the_best_trial_is_that_by_which_it_is_chosen(choose_by: str, best: Any) -> None:
    found = search(trials=4, choose_by=choose_by, pruning="none", storage=None, **SHORT)
    assert found.best[choose_by] == best(row[choose_by] for row in found.trials)
    assert found.table().splitlines()[1].split()[0].rstrip("*") == str(found.best["number"])


def test_numbers_are_searched_by_their_score(run: Run) -> None:
    X = np.random.default_rng(1).normal(size=(200, 2))
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1], "price": 1000 + 50 * X[:, 0] - X[:, 1]})
    frame.to_csv("n.csv", index=False)
    argv = ("--data", "n.csv", "--target", "price", "--trials", 3)
    argv = (*argv, "--epochs", 20, "--hidden", "12", "--batch-size", 16, "--json")
    found = run("search", *argv).document
    complete = [row for row in found["trials"] if row["value"] is not None]
    assert found["best"]["score"] == max(row["score"] for row in complete)
    assert found["held_out"]["r2"] > 0


# -- what is chosen by what ----------------------------------------------------------


def test_the_rows_held_out_decide_nothing() -> None:
    data = load("digits")
    assert data.y is not None
    _, held = split(len(data.X), 0.2, 0)
    X, y = data.X.copy(), data.y.copy()
    X[held], y[held] = X[held][::-1] + 3, (y[held] + 1) % 10
    one = search(data, trials=3, storage=None, **SHORT)
    other = search(Dataset("digits", X, y), trials=3, storage=None, **SHORT)
    for row, same in zip(one.trials, other.trials, strict=True):
        assert {**row, "seconds": 0} == {**same, "seconds": 0}
    for name, W in one.model.parameters.items():
        np.testing.assert_array_equal(W, other.model.parameters[name])
    assert one.held_out != other.held_out


def test_the_first_trial_is_the_default_model() -> None:
    found = search(trials=1, epochs=1, storage=None, progress=False)
    (only,) = found.trials
    assert only["usual"]
    usual = {"hidden": (256, 128), "activation": "relu", "normalization": "batch", "dropout": 0.3}
    usual |= {"residual": False, "optimizer": "adam", "learning_rate": 0.01, "batch_size": 64}
    assert only["options"] == {**usual, "weight_decay": 0.0}


def test_a_trial_of_several_networks_is_their_mean() -> None:
    fixed = {"hidden": (12,), "batch_size": 256, "learning_rate": 0.01}
    task = Task(load("digits"), Wanted(seed=3, repeats=2, epochs=2, fixed=fixed))
    watch = Watch(None, task, math.inf, every=9)
    task.train({"dropout": 0.2}, watch)
    alone = []
    for seed in (3, 4):
        model = MLP((64, 12, 10), dropout=0.2, learning_rate=0.01, label_smoothing=0.1, seed=seed)
        model.preparation = task.found
        data = (task.examples.X_choice, task.examples.y_choice)
        args: dict[str, Any] = {"epochs": 2, "batch_size": 256, "schedule": "one_cycle"}
        model.fit(*task.examples[:2], **args, progress=False, layout="rows")
        alone.append(model.evaluate(*data, layout="rows"))
    assert watch.found["loss"] == pytest.approx(np.mean([one.loss for one in alone]), rel=1e-4)
    assert watch.found["score"] == pytest.approx(np.mean([one.score for one in alone]), abs=0.004)


def test_a_model_is_trained_for_as_many_epochs_as_its_trial_was_best_after() -> None:
    options = {**SHORT, "epochs": 40, "learning_rate": 0.3, "pruning": "none", "dropout": 0.0}
    found = search(trials=2, early_stopping=1, storage=None, **options)
    assert found.best["epochs"] < 40
    assert found.model.epochs_trained == found.best["epochs"]


def test_trials_behind_others_are_pruned() -> None:
    found = search(trials=6, storage=None, **{**SHORT, "epochs": 9})
    pruned = [row for row in found.trials if row["state"] == "pruned"]
    assert pruned
    assert all(row["epochs"] in (1, 3) and row["value"] is None for row in pruned)
    every = search(trials=6, storage=None, pruning="none", **SHORT)
    assert all(row["state"] == "complete" for row in every.trials)


def test_trials_that_diverge_are_no_choice() -> None:
    options: dict[str, Any] = {**SHORT, "optimizer": "sgd", "normalization": "none"}
    with pytest.raises(ValueError, match=r"no trial of study 'digits' has ended: all of them"):
        search(trials=2, storage=None, learning_rate=1e30, **options)


def test_a_score_that_is_no_number_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: Task, drawn: Any, watch: Watch, usual: bool) -> None:
        watch.found |= {"epochs": 3, "loss": 1.0, "score": math.nan}

    monkeypatch.setattr(Task, "train", nothing)
    with pytest.raises(ValueError, match="no trial of study 'digits' has ended"):
        search(trials=2, storage=None, **SHORT)


# -- the space -----------------------------------------------------------------------


class Highest:
    """Draws the last of everything."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return choices[-1]

    def suggest_int(self, name: str, low: int, high: int, log: bool) -> int:
        return high

    def suggest_float(self, name: str, low: float, high: float, log: bool, step: Any) -> float:
        return high


@pytest.mark.parametrize("row", DIMENSIONS, ids=lambda row: row.name)
def test_a_dimension_makes_an_option_or_is_fixed_by_one(row: Any) -> None:
    task = Task(load("digits"), Wanted())
    drawn = draw(Highest(), task.dimensions, {})
    assert row.name in drawn
    task.model(drawn, 0.01)
    option = row.fixed_by or row.name
    value = {"hidden": (8, 8), "learning_rate": 0.1}.get(option, task.defaults.get(option))
    assert row.name not in [one.name for one in dimensions({option: value}, {}, 100, 64)]


def test_widths_taper_and_what_hangs_together_is_drawn_together() -> None:
    assert arguments({"depth": 3, "width": 100, "taper": 0.5})["hidden"] == (100, 50, 25)
    flat = dimensions({}, {"depth": (0, 0)}, 100, 64)
    assert set(draw(Highest(), flat, {})) == {
        "depth",
        "optimizer",
        "rate_factor",
        "batch_size",
        "weight_decay",
    }
    one = draw(Highest(), dimensions({"hidden": (9,)}, {}, 100, 64), {"hidden": (9,)})
    assert "residual" not in one
    assert one["batch_size"] <= 100


def test_limits_hold() -> None:
    space = {"activation": ["tanh", "mish"], "dropout": (0.1, 0.2), "width": "4..8"}
    found = search(trials=4, space=space, epochs=1, batch_size=256, storage=None, progress=False)
    for row in found.trials:
        assert row["options"]["activation"] in ("tanh", "mish")
        assert 0.1 <= row["options"]["dropout"] <= 0.2
        assert 4 <= row["options"]["hidden"][0] <= 8
        assert not row["usual"]


def test_limits_may_be_numpys_or_one_choice_alone(tmp_path: Path) -> None:
    space = {"width": np.array([4, 8]), "batch_size": np.array([64, 128]), "residual": True}
    for trials in (1, 2):
        found = search(
            trials=trials, space=space, epochs=1, storage=tmp_path / "s.db", progress=False
        )
    assert {row["options"]["batch_size"] for row in found.trials} <= {64, 128}
    with pytest.raises(ValueError, match="width is 5, but expected two ends, LOW and HIGH"):
        search(space={"width": 5}, storage=None)
    with pytest.raises(TypeError, match=r"space is 'width=4\.\.8', but expected limits"):
        search(space="width=4..8", storage=None)  # type: ignore[arg-type]


def test_one_name_is_kept_as_text() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(40) % 7, "same": 1})
    y = np.arange(40) % 2
    found = search(frame, y, keep="same", trials=1, epochs=1, storage=None, progress=False)
    assert found.model.network.sizes[0] == 2


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--space", "depht=1..2"), "space 'depht' is unknown, but expected one of depth"),
        (("--space", "depth"), "--space depth: expected NAME=LOW..HIGH"),
        (("--space", "depth=3..1"), "depth is 3, 1, but expected rising whole numbers"),
        (("--space", "depth=1.5..2"), "depth is 1.5, 2"),
        (("--space", "dropout=0..2"), "rising finite numbers of at least 0 and at most 0.99"),
        (("--space", "dropout=0.9..1"), "dropout is 0.9, 1.0, but expected rising finite numbers"),
        (("--space", "rate_factor=1..inf"), "rate_factor is 1.0, inf, but expected rising finite"),
        (("--space", "activation=relu,tan"), "activation is relu, tan, but expected some of"),
        (("--space", "width=8..9", "--hidden", "8"), "width is fixed by hidden and has limits"),
        (("--dropout", "1.5"), "dropout is 1.5"),
        (("--batch-size", "5000"), "batch_size is 5000, but there are 1150 examples"),
        (("--validation", "0"), "validation is 0, but trials are compared by it"),
        (("--held-out", "1"), "held_out is 1, but expected a number in [0, 1)"),
        (("--schedule", "reduce_on_plateau"), "expected another"),
        (("--storage", "no/where.db"), "there is no folder"),
        (("--storage", "nosql://here"), "storage nosql://here cannot be used"),
        (("--storage", "a b://c"), "storage is no address that Optuna knows"),
        (("--out", "no/where"), "there is no folder"),
        (("--data", "gone.csv"), "does not exist"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_trial(
    run: Run, argv: tuple[str, ...], part: str
) -> None:
    found = run("search", *argv)
    assert found.code in (1, 2)
    assert part in found.err
    assert found.err.count("\n") == 1
    assert "trial 0" not in found.err


def test_a_file_that_is_no_storage_is_named(run: Run) -> None:
    Path("search.db").write_text("something else, and long enough to be no database at all\n" * 9)
    found = run("search", "--trials", 1, *OPTIONS)
    assert found.code == 1
    assert "storage search.db cannot be opened: " in found.err


# -- one study, several times --------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a study of one trial."""
    path = tmp_path_factory.mktemp("begun") / "kept.db"
    search(trials=1, storage=path, **SHORT)
    return path


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({"epochs": 4}, "epochs 3, not 4"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"dropout": 0.1}, "dropout searched, not 0.1"),
        ({"space": {"dropout": (0.0, 0.2)}}, "dropout within [0.0, 0.6], not [0.0, 0.2]"),
        ({"choose_by": "loss"}, "choose_by score, not loss"),
        ({"held_out": 0.3}, "held_out 0.2, not 0.3; other rows (of digits)"),
    ],
)
def test_a_study_of_something_else_is_refused_by_name(
    begun: Path, other: dict[str, Any], part: str
) -> None:
    with pytest.raises(ValueError, match=r"study 'digits' in .*kept\.db was begun with") as error:
        search(trials=2, storage=begun, **{**SHORT, **other})
    assert part.partition(";")[0] in str(error.value)
    assert part.partition("; ")[2] in str(error.value)
    assert "--study NAME" in str(error.value)


def test_a_search_leaves_no_connection_open(begun: Path) -> None:
    files = Path("/proc/self/fd")
    if not files.is_dir():
        pytest.skip("this system does not tell the files of a process")

    def connections() -> list[str]:
        names = [os.readlink(file) for file in files.iterdir() if file.is_symlink()]
        return [name for name in names if Path(name).name == Path(begun).name]

    found = search(trials=2, storage=begun, **SHORT)
    assert len(found.study.trials) == 2  # and when the study is asked afterwards
    assert connections() == []


def test_a_study_of_other_rows_is_refused(begun: Path) -> None:
    data = load("digits")
    changed = data._replace(X=data.X + 1)
    with pytest.raises(ValueError, match=r"was begun with other rows \(of digits\)\. Ask"):
        search(changed, trials=2, storage=begun, **SHORT)
    other = search(changed, trials=1, storage=begun, study="another", **SHORT)
    assert len(other.trials) == 1


def test_a_study_that_is_not_ours_is_refused() -> None:
    study = optuna.create_study(storage=stored(), study_name="digits")
    study.add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(ValueError, match="was not begun by mlp_xp"):
        search(trials=1, **SHORT)


def test_a_search_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    search(trials=2, storage=tmp_path / "a.db", **SHORT)
    parts = search(trials=4, storage=tmp_path / "a.db", **SHORT)
    whole = search(trials=4, storage=tmp_path / "b.db", **SHORT)
    for row, same in zip(parts.trials, whole.trials, strict=True):
        assert {**row, "seconds": 0} == {**same, "seconds": 0}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_process_is_followed_by_another() -> None:
    long = ("--trials", 9, "--epochs", 3000, "--hidden", "12", "--dropout", 0, "--pruning", "none")
    long = (*long, "--batch-size", 1000)
    process = begin(*long)
    running = until(
        lambda: [t for t in trials_of() if t.state.name == "RUNNING" and t.intermediate_values]
    )
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (killed,) = running
    # the same search, whose trials now last one epoch: only the record of that is changed
    study = optuna.load_study(study_name="digits", storage=stored())
    study.set_user_attr("mlp_xp", {**study.user_attrs["mlp_xp"], "epochs": 1})
    before = len(ended(trials_of()))
    began = time.monotonic()
    fixed = {"hidden": (12,), "dropout": 0.0, "batch_size": 1000}
    found = search(trials=before + 2, epochs=1, pruning="none", progress=False, **fixed)
    assert time.monotonic() - began < 30  # it does not wait for the dead
    assert len(found.trials) == before + 2
    states = {trial.number: trial for trial in trials_of()}
    assert states[killed.number].state.name == "FAIL"
    again = [t for t in states.values() if t.user_attrs.get("again") == killed.number]
    assert [t.params for t in again] == [killed.params]
    assert again[0].number in [row["number"] for row in found.trials]


# a dense search whose trials are short, and one of layers: study, what the command is told beside
# the epochs, and the same in Python
BOTH: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "dense": ("digits", (150, *OPTIONS[2:]), {**SHORT, "epochs": 150}),
    "conv": (
        "digits conv",
        (20, *OPTIONS[4:], "--layers", "conv", *("--space", "channels=2..3", "--space", "dense=0")),
        {
            "epochs": 20,
            "batch_size": 256,
            "progress": False,
            "layers": "conv",
            "space": {"channels": (2, 3), "dense": [0]},
        },
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("family", BOTH)
def test_ctrl_c_keeps_the_study_and_says_how_to_go_on(family: str) -> None:
    name, argv, fixed = BOTH[family]
    process = begin("--trials", 50, "--pruning", "none", "--json", "--epochs", *argv)

    def seen() -> list[Any]:
        return trials_of(name)

    until(lambda: ended(seen()) and any(t.state.name == "RUNNING" for t in seen()))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    kept = ended(seen())
    n = len(kept)
    assert f"interrupted: {n} of 50 trials have ended and are kept in search.db" in err
    assert "Traceback" not in err
    document = json.loads(out)
    assert len(document["trials"]) == n
    assert not Path("model.safetensors").exists()
    assert not any(t.state.name == "RUNNING" for t in seen())
    assert len(search(trials=n, pruning="none", **fixed).trials) == n


@pytest.mark.parametrize(("family", "epochs"), [("dense", 500), ("conv", 100)])
def test_two_processes_share_the_trials_of_one_study(family: str, epochs: int) -> None:
    name, (_, *options), _ = BOTH[family]
    argv = ("--trials", 6, "--epochs", epochs, "--pruning", "none", *options, "--json")
    two = [begin(*argv, "--out", f"{name}.safetensors") for name in "ab"]
    documents = []
    for process in two:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        documents.append(json.loads(out))
    found = ended(trials_of(name))
    assert len(found) == 6
    assert documents[0]["best"] == documents[1]["best"]
    assert [len(document["trials"]) for document in documents] == [6, 6]
    workers = {trial.user_attrs["process"]["pid"] for trial in found}
    assert workers == {process.pid for process in two}
    drawn = {json.dumps(trial.params) for trial in found}
    assert len(drawn) == 6
    load_model = (MLP if family == "dense" else Sequential).load
    a, b = (load_model(f"{one}.safetensors") for one in "ab")
    np.testing.assert_array_equal(a.parameters["W1"], b.parameters["W1"])


def test_of_two_that_take_the_waiting_trial_one_has_it() -> None:
    digits = Task(load("digits"), Wanted())
    with quiet():
        a, b = (Study(optuna, digits, "search.db", "digits", print).study for _ in "ab")
    taken: list[int | None] = []
    other = threading.Thread(target=lambda: taken.append(b._pop_waiting_trial_id()))

    @sqlalchemy.event.listens_for(a._storage._backend.engine, "after_cursor_execute")
    def between(*args: Any) -> None:
        """Between what one reads of the trial and what it writes, the other has time."""
        if "trials.trial_id = ?" in args[2] and other.ident is None:
            other.start()
            other.join(0.5)

    taken.append(a._pop_waiting_trial_id())
    other.join()
    assert sorted(taken, key=str) == [1, None]


def test_of_two_that_begin_a_study_at_once_one_runs_the_first_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enqueue = optuna.Study.enqueue_trial

    def twice(self: optuna.Study, *args: Any, **kwargs: Any) -> None:
        enqueue(self, *args, **kwargs)
        enqueue(self, *args, **{**kwargs, "skip_if_exists": False})

    monkeypatch.setattr(optuna.Study, "enqueue_trial", twice)
    found = search(trials=3, **SHORT)
    assert [row["number"] for row in found.trials] == [0, 2, 3]
    assert [trial.state.name for trial in trials_of()][1] == "FAIL"


def test_time_that_is_up_breaks_a_trial_off_which_is_run_again() -> None:
    options: dict[str, Any] = {**SHORT, "epochs": 100_000}
    with pytest.raises(ValueError, match=r"no trial of study 'digits' has ended: none was within"):
        search(trials=1, seconds=3, **options)
    assert [trial.state.name for trial in trials_of()] == ["FAIL", "WAITING"]


def test_time_that_is_up_leaves_the_best_so_far() -> None:
    found = search(trials=10**6, seconds=2, storage=None, **SHORT)
    assert 1 <= len(found.trials) < 10**6
    assert found.best in found.trials


def test_a_trial_that_was_broken_off_is_run_again_but_not_for_ever() -> None:
    study = optuna.create_study()
    for number in range(TRIES):
        if number == 0:
            study.enqueue_trial({"x": 0.25}, user_attrs={"usual": True})
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        for _ in range(2):  # two processes see it
            _again(study, study.trials[number])
        assert x == 0.25
    assert [trial.user_attrs.get("again") for trial in study.trials] == [None, 0, 1]
    assert all(trial.user_attrs["usual"] for trial in study.trials)


def test_ctrl_c_in_python_is_a_keyboard_interrupt_with_the_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = Task.train

    def interrupted(self: Task, drawn: Any, watch: Watch, usual: bool) -> None:
        if watch.trial.number == 1:
            raise KeyboardInterrupt
        train(self, drawn, watch, usual)

    monkeypatch.setattr(Task, "train", interrupted)
    with pytest.raises(Interrupted, match="interrupted: 1 of 3 trials have ended") as error:
        search(trials=3, **SHORT)
    assert isinstance(error.value, KeyboardInterrupt)
    assert len(error.value.trials) == 1
    assert [trial.state.name for trial in trials_of()] == ["COMPLETE", "FAIL", "WAITING"]


def test_who_is_dead_is_seen_by_its_process() -> None:
    class Trial:
        datetime_start = None
        user_attrs: dict[str, Any]

    trial = Trial()
    from mlp_xp.searching.study import _RUNNING, _identity

    trial.user_attrs = {"process": _identity("here")}
    assert _is_dead(trial, "here")  # between its own trials a process runs none
    _RUNNING.add("there")
    trial.user_attrs = {"process": _identity("there")}
    assert not _is_dead(trial, "here")
    _RUNNING.discard("there")
    assert _is_dead(trial, "here")
    trial.user_attrs = {"process": {**_identity("x"), "pid": 2**22 + 1}}
    assert _is_dead(trial, "here")
    trial.user_attrs = {"process": {**_identity("x"), "machine": "another"}}
    assert not _is_dead(trial, "here")  # of others the heartbeat tells


# -- families of layers --------------------------------------------------------------

TINY: dict[str, dict[str, Any]] = {  # small networks, so that a trial takes no time
    "conv": {"channels": (2, 6), "dense": [0, 32]},
    "recurrent": {"units": (4, 8), "dense": [0, 32]},
    "temporal": {"channels": (2, 6), "dense": [0, 32]},
}
CHAINS = tuple(TINY)


class Random:
    """Draws anything that can be drawn."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self.random.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, log: bool) -> int:
        return self.random.randint(low, high)

    def suggest_float(self, name: str, low: float, high: float, log: bool, step: Any) -> float:
        return self.random.uniform(low, high)


def task_of(layers: str, **wanted: Any) -> Task:
    return Task(load("digits"), Wanted(layers=layers, **wanted))


@pytest.mark.parametrize("layers", CHAINS)
def test_the_best_of_a_family_is_what_the_line_of_train_makes(run: Run, layers: str) -> None:
    space = [f"{name}={','.join(map(str, v))}" for name, v in TINY[layers].items()]
    space = [text.replace(",", "..") if "dense" not in text else text for text in space]
    argv = ("--layers", layers, "--trials", 3, "--epochs", 2, "--pruning", "none")
    found = run("search", *argv, "--space", space[0], "--space", space[1], "--dropout", 0.1)
    assert found.code == 0, found.err
    shape = "1x8x8" if layers == "conv" else "8x8"
    assert f"layers {layers}, an example is {shape}" in found.out
    assert f"study 'digits {layers}' in search.db" in found.out
    line = next(line for line in found.out.splitlines() if line.startswith("the same by hand: "))
    assert f"--shape {shape} --layers " in line
    made = run(*shlex.split(line.removeprefix("the same by hand: mlp-xp ")), "--out", "other")
    assert made.code == 0, made.err
    held_out = [line for line in made.out.splitlines() if line.startswith("held-out")]
    assert held_out[0].split(", after")[0] in found.out
    one, other = Sequential.load("model.safetensors"), Sequential.load("other")
    for name, W in one.parameters.items():
        np.testing.assert_array_equal(W, other.parameters[name])
    assert one.network.layers == other.network.layers
    assert one.metadata["fingerprint"] == other.metadata["fingerprint"]
    assert run("predict", "model.safetensors", "digits").code == 0


@pytest.mark.parametrize(
    ("layers", "row"),
    [(layers, row) for layers in CHAINS for row in FAMILIES[layers].rows],
    ids=lambda value: getattr(value, "name", value),
)
def test_each_choice_of_a_family_makes_another_network(layers: str, row: Any) -> None:
    task = task_of(layers)
    high = draw(Highest(), task.dimensions, {})
    limited = next(one for one in task.dimensions if one.name == row.name)
    other = limited.choices[0] if limited.choices else limited.low
    assert high[row.name] != other
    one, two = ({**high, row.name: value} for value in (high[row.name], other))
    assert task.options(one, 0.1) != task.options(two, 0.1)
    written = [str(task.model(drawn, 0.1).config) for drawn in (one, two)]
    assert written[0] != written[1]


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        *[("conv", shape) for shape in ((1, 8, 8), (3, 1, 7), (2, 2, 1), (1, 1, 1), (3, 28, 28))],
        *[("conv", shape) for shape in ((5, 9), (5, 1))],
        *[(name, s) for name in CHAINS[1:] for s in ((8, 8), (1, 1), (3, 50), (2, 2), (4, 900))],
    ],
)
def test_whatever_is_drawn_fits_the_examples(layers: str, shape: tuple[int, ...]) -> None:
    family = FAMILIES[layers]
    rows = family.dimensions(shape)
    usual = family.usual(shape)
    assert all(row.holds(usual[row.name]) for row in rows if row.name in usual)
    assert set(usual) == {row.name for row in family.rows}
    for row in rows:  # all that may be asked for, too
        if row.allowed:
            rows = tuple(one.limited(one.allowed) if one == row else one for one in rows)
    lines = set()
    for seed in range(60):
        options = family.options(draw(Random(seed), rows, {}), {}, shape)
        lines.add(options["layers"])
        layers_made = layers_of(options["layers"], shape, 3, options.get("activation", "relu"))
        assert Chain(shape, layers_made).parts[-1].out_shape == (3,)
    assert len(lines) > 30


def test_the_first_trial_of_a_family_is_its_recipe() -> None:
    def first(layers: str) -> dict[str, Any]:
        task = task_of(layers)
        drawn, whole = task.usual()
        assert whole
        return task.options(drawn, task.rate(drawn, usual=True))

    conv = first("conv")
    recipe = "conv:16x3:padding=same,batchnorm,pool:2,conv:32x3:padding=same,batchnorm,pool:2"
    assert conv["layers"] == f"{recipe},dense:64,dropout:0.3"
    assert conv["layers"] in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    usual = {"activation": "relu", "optimizer": "adam", "batch_size": 64, "learning_rate": 0.003}
    assert {name: conv[name] for name in usual} == usual
    assert first("recurrent")["layers"] == "gru:64"
    temporal = layers_of(first("temporal")["layers"], (8, 8), 10)
    assert temporal == (*temporal_convolutions(32, time=8), Last(), Dense(10))
    family, longer = FAMILIES["temporal"], (2, 200)
    line = family.options(family.usual(longer), {}, longer)["layers"]
    assert line.count("residual(") == 6  # the fewest by which 1 + 4 (2ᵇ - 1) is 200 or more
    assert layers_of(line, longer, 10)[:-2] == tuple(temporal_convolutions(32, time=200))


def test_what_is_fixed_is_in_the_layers_and_not_drawn() -> None:
    fixed = {"normalization": "layer", "dropout": 0.25, "activation": "tanh", "batch_size": 200}
    space = {"blocks": (2, 2), "pooling": ["stride"], "dense": [16]}
    options: dict[str, Any] = {**fixed, "space": space, "epochs": 1, "storage": None}
    found = search(trials=2, layers="conv", progress=False, **options)
    for row in found.trials:
        assert set(row["choices"]) == {row.name for row in FAMILIES["conv"].rows} - set(fixed)
        assert not set(fixed) & set(row["options"])
        line = row["options"]["layers"].split(",")
        assert line[1] == line[3] == "layernorm"
        assert "stride=2" in line[0]
        assert "stride=2" in line[2]
        assert line[-2:] == ["dense:16", "dropout:0.25"]
    kinds = [type(kind).__name__ for kind in found.model.network.layers]
    assert kinds[:6] == ["Conv2d", "LayerNorm", "Activation"] * 2
    assert found.model.network.layers[2].activation == "tanh"
    heads = found.table().splitlines()[0].split()
    assert {"blocks", "channels", "pooling", "rate"} < set(heads)
    assert "layers" not in heads


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--layers", "convs"), "expected one of dense, conv, recurrent, temporal. Did you mean"),
        (("--layers", "conv:8x3,pool:2"), "trained by mlp-xp train --layers"),
        (("--layers", "conv", "--hidden", "8"), "hidden goes with dense networks, but layers is"),
        (("--layers", "conv", "--residual"), "residual goes with dense networks"),
        (("--layers", "conv", "--shape", "1x8x9"), "shape is 1x8x9, 72 numbers, but an example"),
        (("--layers", "conv", "--shape", "64"), "read images, CHANNELSxHEIGHTxWIDTH, or sequences"),
        (("--layers", "recurrent", "--shape", "1x8x8"), "is read column by column as 8x8"),
        (("--shape", "1x8x8"), "shape is (1, 8, 8), but dense networks take vectors"),
        (("--layers", "conv", "--space", "depth=1..2"), "space 'depth' is unknown, but expected"),
        (("--layers", "conv", "--space", "blocks=1..4"), "at most 3, for 8 places cannot be"),
        (("--layers", "temporal", "--space", "blocks=4..5"), "at most 3, for block b reaches"),
        (("--layers", "recurrent", "--space", "kind=rnn"), "expected some of gru, lstm, elman"),
        (("--layers", "conv", "--dropout", "1.5"), "rate is 1.5"),
        (("--layers", "conv", "--data", "n.csv", "--target", "y"), "which do not show how they"),
    ],
)
def test_what_a_family_cannot_do_is_said_before_the_first_trial(
    run: Run, argv: tuple[str, ...], part: str
) -> None:
    Path("n.csv").write_text("a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(60)))
    found = run("search", *argv)
    assert found.code == 2
    assert part in found.err
    assert found.err.count("\n") == 1
    assert "trial 0" not in found.err


def test_a_table_of_pixels_is_read_as_images_of_the_shape_that_is_said(run: Run) -> None:
    data = load("digits")
    assert data.y is not None
    X = data.X[:300, 18:46] + np.arange(28) / 100
    frame = pandas.DataFrame({f"p{i}": X[:, i] for i in range(28)})
    frame["digit"] = [f"d{label}" for label in data.y[:300]]
    frame.to_csv("t.csv", index=False)
    argv = ("--data", "t.csv", "--target", "digit", "--layers", "conv", "--epochs", 2)
    refused = run("search", *argv, "--shape", "1x4x7")
    assert "1x4x7, 28 numbers, but an example has 24: expected images, " in refused.err
    names = "'p13', 'p14', 'p21', 'p22'"  # of one value
    left = f"4 of 28 columns look like nothing to learn from and are left out ({names})"
    assert f"{left}: a .npz file of X and y takes all." in refused.err
    found = run("search", *argv, "--trials", 2, "--shape", "1x4x6", "--json")
    assert found.code == 0, found.err
    assert (found.document["layers"], found.document["shape"]) == ("conv", [1, 4, 6])
    answers = run("predict", "model.safetensors", "t.csv").out.split()
    assert set(answers[1:]) <= {f"d{i}" for i in range(10)}
    np.savez("t.npz", X=X, y=data.y[:300])
    argv = ("--data", "t.npz", "--layers", "conv", "--epochs", 2, "--trials", 1)
    assert run("search", *argv, "--shape", "1x4x7").code == 0


def test_the_shape_of_examples_is_said_or_shown() -> None:
    data = load("digits")
    y = data.y
    options: dict[str, Any] = {"trials": 1, "epochs": 1, "storage": None, "progress": False}
    conv: dict[str, Any] = {**options, "layers": "conv", "space": TINY["conv"]}
    X = data.X.reshape(-1, 1, 8, 8)
    shown = search(X, y, layout="rows", **conv)
    for said in (
        search(data.X, y, layout="rows", shape=(1, 8, 8), **conv),
        search(X.transpose(1, 2, 3, 0), y, layout="columns", **conv),
        search(X[:, 0], y, layout="rows", shape=(1, 8, 8), **conv),
    ):
        assert said.best["loss"] == shown.best["loss"]
    assert shown.model.predict(X[:3], layout="rows").shape == (3,)
    with pytest.raises(ValueError, match="may be sequences of 8 features or images of one channel"):
        search(X[:, 0], y, layout="rows", **conv)
    with pytest.raises(ValueError, match="shape is missing: an example has 64 numbers"):
        search(data.X, y, layout="rows", **conv)
    with pytest.raises(TypeError, match="shape is 64, but expected the lengths of an example's"):
        search(data.X, y, layout="rows", shape=64, **conv)
    with pytest.raises(ValueError, match="dense networks take a table of features"):
        search(X, y, layout="rows", **options)
    with pytest.raises(ValueError, match="channels is no option of a model: to hold it"):
        search(X, y, layout="rows", channels=8, **conv)
    by_rows = search(X[:, 0].transpose(0, 2, 1), y, layout="rows", layers="recurrent", **options)
    assert by_rows.model.network.shape == (8, 8)
    by_columns = search(data, layers="recurrent", **options)  # an image, column by column
    assert by_columns.model.network.shape == (8, 8)
    assert by_rows.best["loss"] != by_columns.best["loss"]


def test_a_family_goes_on_with_its_own_study_and_refuses_others(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 3, "batch_size": 256, "progress": False}
    conv: dict[str, Any] = {**options, "layers": "conv", "space": TINY["conv"]}
    search(trials=1, storage=tmp_path / "a.db", **conv)
    parts = search(trials=3, storage=tmp_path / "a.db", **conv)
    whole = search(trials=3, storage=tmp_path / "b.db", **conv)
    for row, same in zip(parts.trials, whole.trials, strict=True):
        assert {**row, "seconds": 0} == {**same, "seconds": 0}
    known: dict[str, Any] = {"trials": 3, "storage": tmp_path / "a.db", "study": "digits conv"}
    with pytest.raises(ValueError, match="was begun with layers conv, not dense"):
        search(**known, **SHORT)
    with pytest.raises(ValueError, match="was begun with layers conv, not temporal"):
        search(layers="temporal", **known, **options)
    with pytest.raises(ValueError, match=r"was begun with shape \[1, 8, 8\], not \[8, 8\]"):
        search(shape=(8, 8), **known, **conv)
    assert "layers" not in task_of("dense").record()  # as studies before there were families


def test_the_document_names_every_dimension() -> None:
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    for layers, family in FAMILIES.items():
        assert f"`{layers}`" in text
        for row in family.rows:
            assert f"`{row.name}`" in text
            words = ", ".join(map(str, row.choices)) if row.choices else f"{row.low}..{row.high}"
            assert row.name in ("taper", "residual", "dropout", "normalization") or words in text


def test_several_networks_of_a_chain_are_trained_in_one_call() -> None:
    task = task_of("recurrent", repeats=2, epochs=1, fixed={"learning_rate": 0.01})
    drawn, _ = task.usual()
    watch = Watch(None, task, math.inf, every=9)
    task.train(drawn, watch)
    alone = []
    for seed in (0, 1):
        one = task_of("recurrent", epochs=1, fixed={"learning_rate": 0.01})
        model = one._model({**one.always, **one.options(drawn, None)}, one.found, seed)
        model.preparation = one.bare
        data: Any = (one.X, one.y)
        args: dict[str, Any] = {"epochs": 1, "batch_size": 64, "schedule": "one_cycle"}
        model.fit(*data, **args, progress=False, layout="rows")
        alone.append(model.evaluate(one.X_choice, one.y_choice, layout="rows").loss)
    assert watch.found["loss"] == pytest.approx(np.mean(alone), rel=1e-5)


# -- the front -----------------------------------------------------------------------


def test_arrays_lie_either_way() -> None:
    data = load("digits")
    assert data.y is not None
    by_rows = search(data.X, data.y, layout="rows", trials=1, storage=None, **SHORT)
    by_columns = search(data.X.T, data.y, trials=1, storage=None, **SHORT)
    assert by_rows.best["loss"] == by_columns.best["loss"]
    with pytest.raises(ValueError, match="Are your examples rows"):
        search(data.X, data.y, trials=1, storage=None, **SHORT)
    with pytest.raises(ValueError, match="y is missing"):
        search(data.X, trials=1, storage=None, **SHORT)


def test_gaps_in_arrays_are_refused_where_they_stand() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    words, numbers = np.array(["a", "b"] * 15, object), np.arange(30.0)
    args: dict[str, Any] = {"layout": "rows", "trials": 1, "storage": None, **SHORT}
    gap = np.where(np.arange(30) == 4, np.nan, numbers)
    with pytest.raises(DataError, match=r"y holds nan at \[4\]"):
        search(X, gap, **args)
    with pytest.raises(DataError, match=r"X holds nan at \[4, 0\]"):
        search(np.column_stack([gap, numbers]), words, **args)
    for absent in (None, np.nan, pandas.NA, pandas.NaT):
        words[4] = absent
        for y in (words, pandas.Series(words)):
            with pytest.raises(DataError, match=r"y holds .* at 4, but expected a target"):
                search(X, y, **args)


def test_masked_and_complex_numbers_are_refused() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    y = np.arange(30) % 2
    args: dict[str, Any] = {"layout": "rows", "trials": 1, "storage": None, **SHORT}
    with pytest.raises(TypeError, match="X is a masked array"):
        search(np.ma.masked_greater(X, 0), y, **args)
    with pytest.raises(TypeError, match="y is a masked array"):
        search(X, np.ma.masked_greater(y, 0), **args)
    with pytest.raises(DataError, match="y has dtype complex128, but expected numbers"):
        search(X, y + 0j, **args)


def test_arrays_on_a_gpu_are_refused_in_words(cupy: Any) -> None:
    X, y = cupy.ones((30, 2)), np.arange(30) % 2
    for given in ((X, y), (X.get(), cupy.asarray(y))):
        with pytest.raises(TypeError, match=r"is a cupy.* lies on a GPU.*\.get\(\) of CuPy"):
            search(*given, layout="rows", trials=1, storage=None, **SHORT)


def test_columns_that_have_numbers_for_names_are_searched_too() -> None:
    X = np.random.default_rng(0).normal(size=(600, 2))
    frame, y = pandas.DataFrame(X), np.array(["a", "b"] * 300)
    found = search(frame, y, trials=1, storage=None, **SHORT)
    answer = found.model.predict(frame.rename(columns=str))
    np.testing.assert_array_equal(found.model.predict(frame), answer)


def test_the_result_has_a_table_and_optunas_study() -> None:
    found = search(trials=3, storage=None, **SHORT)
    lines = found.table().splitlines()
    assert lines[0].split()[:6] == ["trial", "state", "loss", "score", "epochs", "seconds"]
    assert lines[1].split()[0].rstrip("*") == str(found.best["number"])
    assert isinstance(found.study, optuna.Study)
    assert found.study.best_trial.number == found.best["number"]
    assert found.place == "memory"
    assert mlp_xp.search is search
    assert "search" in dir(mlp_xp)


def test_a_password_is_not_shown() -> None:
    assert place("postgresql://me:secret@host/name") == "postgresql://me:***@host/name"


def test_a_missing_optuna_is_named_with_the_extra(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    found = run("search", "--trials", 1)
    assert found.code == 1
    assert "pip install 'mlp_xp[search]'" in found.err


def test_the_command_line_is_ready_without_optuna() -> None:
    code = "import sys, mlp_xp.cli; print('optuna' in sys.modules, 'sqlalchemy' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", code]
    made = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["False", "False"]
