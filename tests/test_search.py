"""A search compares trials by rows to choose by, keeps them, and ends with one model."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas
import pytest

import mlp_xp
from mlp_xp import MLP
from mlp_xp.cli import main
from mlp_xp.data import Dataset, load
from mlp_xp.preparation import split
from mlp_xp.search_space import DIMENSIONS, arguments, dimensions, draw
from mlp_xp.search_study import TRIES, _again, _is_dead, place
from mlp_xp.search_task import Task, Wanted, Watch
from mlp_xp.searching import Interrupted, search

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


def trials_of(name: str = "digits", storage: str = "search.db") -> list[Any]:
    """All trials of a study, [] where there is none yet."""
    if not Path(storage).exists():
        return []
    try:
        return optuna.load_study(study_name=name, storage=f"sqlite:///{storage}").get_trials()
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


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--space", "depht=1..2"), "space 'depht' is unknown, but expected one of depth"),
        (("--space", "depth"), "--space depth: expected NAME=LOW..HIGH"),
        (("--space", "depth=3..1"), "depth is 3, 1, but expected rising whole numbers"),
        (("--space", "depth=1.5..2"), "depth is 1.5, 2"),
        (("--space", "dropout=0..2"), "expected rising numbers of at least 0 and at most 1"),
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


def test_a_study_of_other_rows_is_refused(begun: Path) -> None:
    data = load("digits")
    changed = data._replace(X=data.X + 1)
    with pytest.raises(ValueError, match=r"was begun with other rows \(of digits\)\. Ask"):
        search(changed, trials=2, storage=begun, **SHORT)
    other = search(changed, trials=1, storage=begun, study="another", **SHORT)
    assert len(other.trials) == 1


def test_a_study_that_is_not_ours_is_refused() -> None:
    study = optuna.create_study(storage="sqlite:///search.db", study_name="digits")
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
    study = optuna.load_study(study_name="digits", storage="sqlite:///search.db")
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


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_the_study_and_says_how_to_go_on() -> None:
    argv = ("--trials", 50, "--epochs", 150, *OPTIONS[2:], "--pruning", "none")
    process = begin(*argv, "--json")
    until(lambda: ended(trials_of()) and any(t.state.name == "RUNNING" for t in trials_of()))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    kept = ended(trials_of())
    n = len(kept)
    assert f"interrupted: {n} of 50 trials have ended and are kept in search.db" in err
    assert "Traceback" not in err
    document = json.loads(out)
    assert len(document["trials"]) == n
    assert not Path("model.safetensors").exists()
    assert not any(t.state.name == "RUNNING" for t in trials_of())
    options: dict[str, Any] = {**SHORT, "epochs": 150, "pruning": "none"}
    assert len(search(trials=n, **options).trials) == n


def test_two_processes_share_the_trials_of_one_study() -> None:
    argv = ("--trials", 6, "--epochs", 400, "--pruning", "none", *OPTIONS[2:], "--json")
    two = [begin(*argv, "--out", f"{name}.safetensors") for name in "ab"]
    documents = []
    for process in two:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        documents.append(json.loads(out))
    assert len(ended(trials_of())) == 6
    assert documents[0]["best"] == documents[1]["best"]
    assert [len(document["trials"]) for document in documents] == [6, 6]
    workers = {trial.user_attrs["process"]["pid"] for trial in ended(trials_of())}
    assert workers == {process.pid for process in two}
    drawn = {json.dumps(trial.params) for trial in ended(trials_of())}
    assert len(drawn) == 6
    a, b = (MLP.load(f"{name}.safetensors") for name in "ab")
    np.testing.assert_array_equal(a.parameters["W1"], b.parameters["W1"])


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
    from mlp_xp.search_study import _RUNNING, _identity

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
