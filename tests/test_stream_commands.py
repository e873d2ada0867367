"""`--memory`: the commands read block by block, and do and say what they do with arrays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import ROOT, Run, run  # noqa: F401  # a fixture

from conftest import need
from mlp_xp import MLP
from mlp_xp.checkpoints import Mark

M, N = 3000, 4
RNG = np.random.default_rng(6)
X = RNG.normal(3, 2, (M, N)).astype(np.float32)
CLASS = (X[:, 0] * X[:, 1] > 9).astype(int) + (X[:, 2] > 5)
TARGETS: dict[str, np.ndarray] = {
    "word": np.array(["low", "mid", "high"])[CLASS],
    "number": CLASS * 3,
    "yes": (CLASS > 0).astype(int),
    "amount": (100 * X[:, 0] + X[:, 1]).astype(np.float32),
    "other": (X[:, 2] - X[:, 3]).astype(np.float32),
    "even": (CLASS == 2).astype(int),
    "no": (CLASS == 0).astype(int),
    "flag": CLASS > 0,
}
NAMES = [f"x{j}" for j in range(N)]
USUAL = ("--memory", "200kB", "--epochs", 2, "--hidden", "16", "--no-progress")


@pytest.fixture(autouse=True)
def files(request: pytest.FixtureRequest, run: Run) -> None:  # noqa: F811
    """A table t.parquet, and one with an index, names and dates beside, in the empty folder."""
    need(request, "pyarrow")
    import pyarrow
    import pyarrow.parquet as parquet

    table = pyarrow.table({**dict(zip(NAMES, X.T, strict=True)), **TARGETS})
    parquet.write_table(table, "t.parquet", row_group_size=150, use_dictionary=False)
    more = {
        "at": np.arange(M),
        "who": [f"p{i}, née {i}" for i in range(M)],
        "day": np.datetime64("2020-01-01") + np.arange(M),
    }
    for name, column in more.items():
        table = table.append_column(name, pyarrow.array(column))
    parquet.write_table(table, "more.parquet", row_group_size=150, use_dictionary=False)
    np.save("X.npy", X)
    np.save("y.npy", CLASS)


def only(*target: str) -> tuple[str, ...]:
    """Options for these targets, without the others."""
    named = [part for name in target for part in ("--target", name)]
    others = [part for name in TARGETS if name not in target for part in ("--drop", name)]
    return (*named, *others)


def trained(run: Run, *more: object, data: str = "t.parquet") -> Any:  # noqa: F811
    found = run("train", "--data", data, *USUAL, *more)
    assert found.code == 0, found.err
    return found


def near(found: Any, expected: Any) -> bool:
    """Whether two documents say the same, numbers to rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(near(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    return bool(
        found == (pytest.approx(expected, rel=2e-3) if type(expected) is float else expected)
    )


# -- train and evaluate -------------------------------------------------------------

KINDS: dict[str, tuple[str, ...]] = {
    "words": only("word"),
    "whole numbers": only("number"),
    "two classes": (*only("yes"), "--loss", "binary_cross_entropy"),
    "numbers": only("amount"),
    "two targets": only("amount", "other"),
    "labels": only("yes", "even"),
    "columns of a single 1": only("yes", "no"),
    "true and false": only("flag"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_of_blocks_is_that_of_arrays(kind: str, run: Run) -> None:  # noqa: F811
    document = json.loads(trained(run, *KINDS[kind], "--json").out)
    found = json.loads(run("evaluate", "model.safetensors", "t.parquet", "--json").out)
    argv = ("evaluate", "model.safetensors", "t.parquet", "--memory", "200kB", "--json")
    assert near(json.loads(run(*argv).out), found)
    assert found["trained_on"] == document["examples"]["training"] == 2400
    held = json.loads(run(*argv, "--held-out").out)
    score = {**document["held_out"], "model": "model.safetensors", "data": "t.parquet"}
    assert near(held, score)
    assert (held["trained_on"], held["unseen"]["examples"]) == (0, 600)


def test_labels_of_bytes_are_the_text_that_they_write(run: Run) -> None:  # noqa: F811
    """HDF5 has no other text of one length."""
    h5py = pytest.importorskip("h5py")
    X, y = np.random.default_rng(0).normal(size=(8000, 3)), ["süß", "sauer"] * 4000
    labels = np.char.encode(y, "utf-8")
    with h5py.File("d.h5", "w") as file:
        file.create_dataset("X", data=X, chunks=(500, 3))
        file["y"] = labels
    argv = ("d.h5", "--target", "y", "--memory", "200kB")
    assert run("train", "--data", *argv, "--epochs", "1").code == 0
    found = json.loads(run("evaluate", "model.safetensors", *argv, "--json").out)
    np.savez("d.npz", X=X, y=labels)
    again = json.loads(run("evaluate", "model.safetensors", "d.npz", "--json").out)
    assert all(near(again[key], found[key]) for key in ("accuracy", "loss", "examples"))
    table = run("predict", "model.safetensors", "d.h5", "--memory", "200kB", "--no-header").out
    assert set(table.split()) <= {"süß", "sauer"}
    np.savez("d.npz", X=X, y=np.char.encode(y, "latin-1"))
    bad = run("evaluate", "model.safetensors", "d.npz")
    assert (bad.code, "which is no UTF-8: write labels as text" in bad.err) == (1, True)


def test_what_is_said_and_written_is_as_of_arrays(run: Run) -> None:  # noqa: F811
    argv = ("--data", "t.parquet", *only("word"), "--hidden", "16", "--epochs", 2)
    lines, documents = [], []
    for more in ((), ("--memory", "200kB")):
        lines.append(re.sub(r"[\d.,]+", "#", run("train", *argv, *more).out).splitlines())
        documents.append(json.loads(run("show", "model.safetensors", "--json").out))
    expected, found = lines
    assert found.pop(2) == "read block by block within # kB: all fit"
    assert found[:3] == expected[:3]
    assert len(found) == len(expected)
    assert documents[0].keys() == documents[1].keys()
    assert documents[1]["answers"] == documents[0]["answers"]
    assert documents[0]["training"].keys() == documents[1]["training"].keys()


def test_the_parts_are_whole_row_groups_and_scale_and_classes_are_found(
    run: Run,  # noqa: F811
) -> None:
    document = json.loads(trained(run, *only("word"), "--early-stopping", 5, "--json").out)
    assert document["examples"] == {"training": 2100, "validation": 300, "held_out": 600}
    model = MLP.load("model.safetensors")
    assert model.preparation is not None
    assert model.preparation.features == tuple(NAMES)
    assert model.preparation.target == ("word",)
    assert model.preparation.classes == ("high", "low", "mid")
    assert model.preparation.inputs.offset == pytest.approx(X.mean(0), abs=0.1)
    assert model.metadata["split"]["units"] == 20
    assert len(model.history["validation_loss"]) == model.epochs_trained
    shown = trained(run, *only("word"), "--dry-run", "--held-out", 0)
    assert "  x0  number\n" in shown.out
    assert "3,000 examples to train on, 3 classes\n" in shown.out


def test_classes_of_the_held_out_part_alone_are_classes(run: Run) -> None:  # noqa: F811
    labels = CLASS.copy()
    labels[-100:] = 7
    np.save("y.npy", labels)
    argv = ("train", "--data", "X.npy", "--labels", "y.npy", *USUAL[2:], "--memory", "40kB")
    seen = set()
    for seed in range(4):
        found = run(*argv, "--seed", seed, "--held-out", 0.1)
        assert found.code == 0, found.err
        model = MLP.load("model.safetensors")
        assert model.preparation is not None
        assert model.preparation.classes == (0, 1, 2, 7)
        split = model.metadata["split"]
        seen.add(split["units"])
        assert "read block by block within 40 kB: 448 are shuffled at a time\n" in found.out
    assert min(seen) > 4


def test_uneven_classes_are_said(run: Run) -> None:  # noqa: F811
    labels = np.where(np.arange(M) % 500 == 0, 1, 0)
    np.save("y.npy", labels)
    argv = ("train", "--data", "X.npy", "--labels", "y.npy", *USUAL[2:], "--held-out", 0)
    said = [
        next(line for line in run(*argv, *more).out.splitlines() if "uneven" in line)
        for more in ((), ("--memory", "200kB"))
    ]
    assert said[0] == said[1]


def test_arrays_of_an_hdf5_file_and_a_folder_are_read(
    request: pytest.FixtureRequest,
    run: Run,  # noqa: F811
) -> None:
    need(request, "h5py")
    import h5py

    with h5py.File("d.h5", "w") as file:
        file["deep/rows"], file["y"] = X, CLASS
    found = trained(run, "--examples", "deep/rows", "--target", "y", data="d.h5")
    assert "d.h5: 1,562 examples to train on, 1,438 held out, 3 classes\n" in found.out
    assert "of the 2 units of d.h5 whole ones are held out: 48% of its rows, not 20%" in found.err
    argv = ("model.safetensors", "d.h5", "--memory", "200kB", "--examples", "deep/rows")
    assert run("evaluate", *argv, "--target", "y").code == 0
    assert run("predict", *argv).out.count("\n") == M + 1
    Path("parts").mkdir()
    Path("t.parquet").rename("parts/0.parquet")
    for data in ("parts", "parts/*.parquet"):
        assert trained(run, *only("word"), data=data).code == 0


# -- predict -------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--id", "at"), ("--id", "who", "--proba"), ("--no-header",)])
def test_predictions_of_blocks_are_those_of_arrays(
    more: tuple[str, ...],
    run: Run,  # noqa: F811
) -> None:
    trained(run, *only("word"))
    argv = ("predict", "model.safetensors", "more.parquet", *more)
    expected = run(*argv).out.splitlines()
    lines = run(*argv, "--memory", "200kB").out.splitlines()
    found = run(*argv, "--memory", "200kB", "--out", "p.csv", "--json")
    assert found.document == {
        "model": "model.safetensors",
        "data": "more.parquet",
        "examples": M,
        "out": "p.csv",
    }
    assert Path("p.csv").read_text().splitlines() == lines
    if "--proba" not in more:
        assert lines == expected
        return
    for line, other in zip(lines, expected, strict=True):  # to the last digit of a probability
        cells, others = ([*part.rsplit(",", 3)] for part in (line, other))
        assert cells[0] == others[0]
        if line != lines[0]:
            assert list(map(float, cells[1:])) == pytest.approx(
                list(map(float, others[1:])), abs=1e-6
            )


def test_labels_beside_examples_are_no_predictions(run: Run) -> None:  # noqa: F811
    trained(run, "--labels", "y.npy", data="X.npy")
    argv = ("predict", "model.safetensors", "X.npy")
    expected = run(*argv).out
    assert run(*argv, "--labels", "y.npy").out == expected
    assert run(*argv, "--labels", "y.npy", "--memory", "200kB").out == expected


def test_predictions_that_fail_in_the_middle_leave_no_file(run: Run) -> None:  # noqa: F811
    trained(run, "--labels", "y.npy", data="X.npy")
    broken = X.copy()
    broken[M - 3, 1] = np.nan
    np.save("broken.npy", broken)
    argv = ("predict", "model.safetensors", "broken.npy", "--memory", "40kB", "--out", "p.csv")
    found = run(*argv)
    assert (found.code, "broken.npy, row 2,997, column 1: a feature is nan" in found.err) == (
        1,
        True,
    )
    assert not Path("p.csv").exists()
    assert not list(Path().glob(".*.tmp"))


# -- what cannot be combined ------------------------------------------------------------

REFUSED: dict[str, tuple[tuple[object, ...], int, str]] = {
    "no data": (("train",), 2, "reads a file block by block: name it with --data"),
    "the digits": (("train", "--data", "digits"), 2, "but digits is none: leave it out"),
    "a pipe": (("train", "--data", "-"), 2, "but - is none: leave it out"),
    "a CSV": (("train", "--data", "t.csv", "--target", "y"), 1, "t.csv cannot be streamed: .*Parq"),
    "no target": (("train", "--data", "t.parquet"), 2, "name what to predict with --target"),
    "no labels": (("train", "--data", "X.npy"), 2, "name a .npy file of labels with --labels"),
    "a target of an array": (
        ("train", "--data", "X.npy", "--target", "y"),
        2,
        "X.npy has none: expected --labels FILE",
    ),
    "labels of a table": (
        ("train", "--data", "t.parquet", "--labels", "y.npy"),
        2,
        "--labels is for a .npy file of examples, but t.parquet is none: see --target",
    ),
    "a folder of other data": (
        ("train", "--data", "t.parquet", *only("word"), "--data-dir", "."),
        2,
        "--data-dir is the folder of fashion-mnist, not of t.parquet: leave it out",
    ),
    "words": (
        ("train", "--data", "t.parquet", "--target", "amount"),
        1,
        r"column 'word' holds text .*leave it out with drop= \(--drop\).*leave --memory out",
    ),
    "dates": (
        ("train", "--data", "more.parquet", *only("word"), "--drop", "who"),
        1,
        "column 'day' holds .*, but a stream takes numbers",
    ),
    "an index": (
        ("train", "--data", "more.parquet", *only("word"), "--drop", "who", "--drop", "day"),
        1,
        "column 'at' numbers the rows.*leave it out with --drop at, or use it with --keep at",
    ),
    "no such column": (
        ("train", "--data", "t.parquet", *only("word"), "--keep", "z"),
        2,
        "--keep z: t.parquet has no such column",
    ),
    "a word for gaps": (
        ("train", "--data", "t.parquet", *only("word"), "--missing", "none"),
        2,
        "--missing names a word for gaps, but with --memory a table may have none",
    ),
    "a cluster": (
        ("train", "--data", "t.parquet", *only("word"), "--processes", "tcp://host:1"),
        2,
        "a file that --memory reads is this machine's: expected mpi",
    ),
    "too little": (
        ("train", "--data", "X.npy", "--labels", "y.npy", "--memory", "5kB"),
        1,
        "memory is 5 kB, but a batch of 64 examples of X.npy does not fit twice: expected at least",
    ),
    "one unit": (
        ("train", "--data", "X.npy", "--labels", "y.npy", "--memory", "1GB"),
        1,
        "is one unit of 3,000 rows.*Or keep nothing apart: --held-out 0",
    ),
    "no size": (("train", "--memory", "lots"), 2, "memory is 'lots', but expected a number of byt"),
    "several columns to copy": (
        ("predict", "model.safetensors", "more.parquet", "--id", "at", "--id", "who"),
        2,
        "--id who: with --memory one column can be copied",
    ),
    "a column of an array": (
        ("predict", "model.safetensors", "X.npy", "--id", "at"),
        2,
        "X.npy",
    ),
    "a document of all predictions": (
        ("predict", "model.safetensors", "t.parquet", "--json"),
        2,
        "--json without --out prints all predictions at once: with --memory add --out",
    ),
    "what was not held out": (
        ("evaluate", "model.safetensors", "X.npy", "--labels", "y.npy", "--held-out"),
        2,
        "--held-out: the training of model.safetensors held no units of X.npy out",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_combined_is_said(what: str, run: Run) -> None:  # noqa: F811
    argv, code, message = REFUSED[what]
    Path("t.csv").write_text("a,y\n1,2\n")
    if "model.safetensors" in argv:
        MLP((N, 3)).save("model.safetensors")
    more = () if "--memory" in argv else ("--memory", "200kB")
    found = run(*argv, *more)
    assert (found.code, re.search(message, found.err) is not None) == (code, True), found.err
    if argv[0] == "train":
        assert not Path("model.safetensors").exists()


def test_an_array_is_named_only_for_what_is_read_by_blocks(run: Run) -> None:  # noqa: F811
    MLP((N, 3)).save("model.safetensors")
    for argv in (("train",), ("evaluate", "model.safetensors", "digits")):
        found = run(*argv, "--examples", "X")
        assert (found.code, "--examples names an array of what --memory" in found.err) == (2, True)


def test_a_model_of_words_is_not_for_blocks(run: Run) -> None:  # noqa: F811
    names = ["x0", "word", "yes"]
    lines = [f"{X[i, 0]},{TARGETS['word'][i]},{TARGETS['yes'][i]}" for i in range(100)]
    Path("t.csv").write_text("\n".join([",".join(names), *lines]))
    run("train", "--data", "t.csv", "--target", "yes", "--epochs", 1)
    for argv in (
        ("predict", "model.safetensors", "t.parquet"),
        ("evaluate", "model.safetensors", "t.parquet"),
        ("train", "--resume", "model.safetensors", "--data", "t.parquet"),
    ):
        found = run(*argv, "--memory", "200kB")
        assert (found.code, "numbers alone: leave --memory out" in found.err) == (1, True), (
            found.err
        )


# -- going on --------------------------------------------------------------------------


def test_a_model_is_trained_on_with_the_same_parts(run: Run) -> None:  # noqa: F811
    trained(run, *only("word"))
    argv = ("train", "--resume", "model.safetensors", "--epochs", 1, *only("word")[2:])
    found = run(*argv, "--data", "t.parquet", "--memory", "200kB", "--json")
    assert (found.code, found.document["epochs"]) == (0, 3), found.err
    assert found.document["held_out"]["trained_on"] == 0
    assert found.document["examples"] == {"training": 2400, "validation": 0, "held_out": 600}
    found = run(*argv, "--data", "t.parquet")
    assert (found.code, "was trained on a stream, of which whole units" in found.err) == (2, True)
    found = run("evaluate", "model.safetensors", "t.parquet", "--held-out")
    assert (found.code, "of a stream (see --memory)" in found.err) == (2, True)
    import pyarrow.parquet as parquet

    parquet.write_table(parquet.read_table("t.parquet"), "coarse.parquet", row_group_size=500)
    found = run(*argv, "--data", "coarse.parquet", "--memory", "2MB")
    assert "coarse.parquet is not what it was trained on: held-out examples" in found.out


LONG = ("--data", "t.parquet", *only("word"), "--memory", "100kB", "--hidden", "64", "--seed", "1")
KEEPING = ("--checkpoint", "kept", "--checkpoint-every", "0")


def begun(*more: str) -> subprocess.Popen[str]:
    """A training in a process of its own, which has kept something within an epoch."""
    argv = [sys.executable, "-m", "mlp_xp", "train", *LONG, *KEEPING, *more]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True)
    for _ in range(6000):
        marks = [Mark.of(path) for path in Path().glob("kept/*.safetensors")]
        if any(mark is not None and mark.epoch and mark.step for mark in marks):
            return process
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate())


def test_a_training_that_is_killed_within_an_epoch_goes_on_to_the_bit(
    run: Run,  # noqa: F811
) -> None:
    process = begun("--epochs", "60")
    process.kill()
    process.communicate()
    found = run("train", *LONG, *KEEPING, "--epochs", 60)
    assert re.search(r"goes on from epoch \d+ of 60( and step \d+)?, kept in kept\n", found.out)
    assert run("train", *LONG, "--epochs", 60, "--out", "straight.safetensors").code == 0
    model, straight = MLP.load("model.safetensors"), MLP.load("straight.safetensors")
    assert model._run.state.theta.tobytes() == straight._run.state.theta.tobytes()
    assert model.history["loss"] == straight.history["loss"]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_says_from_which_step_the_same_command_goes_on(run: Run) -> None:  # noqa: F811
    process = begun("--epochs", "500")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    step = re.search(r"; the same command goes on from step (\d+)\n", err)
    assert step is not None, err
    assert max(MLP.load(path).steps_trained for path in Path("kept").glob("e*")) == int(step[1])
    assert MLP.load("model.safetensors").steps_trained == int(step[1])
    found = run("train", *LONG, *KEEPING, "--epochs", 500, "--dry-run")
    assert found.code == 0
