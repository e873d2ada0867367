"""What a model is told to be is what it is: in text, in HTML, and as a document."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import mlp_xp
from mlp_xp import MLP
from mlp_xp.cli import main
from mlp_xp.description import describe
from mlp_xp.network import Network
from mlp_xp.optimizers import Adam
from mlp_xp.prepared import Preparation, Scale
from mlp_xp.schedules import Cosine
from mlp_xp.summary import as_html, as_text

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ROOT = Path(__file__).parents[1]
QUICK = ("--hidden", "16,8", "--epochs", 3, "--no-progress")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 4))


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> Result:
        return Result(main([str(part) for part in argv]), *capsys.readouterr())

    return call


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


# -- layers ------------------------------------------------------------------------------

BUILDS: dict[str, dict[str, Any]] = {
    "plain": {"sizes": (4, 5, 3)},
    "none hidden": {"sizes": (4, 3)},
    "all": {
        "sizes": (4, 8, 6, 6, 3),
        "activation": ["gelu", "tanh", "relu"],
        "normalization": "batch",
        "dropout": [0.1, 0.0, 0.25],
        "residual": True,
        "density": 0.5,
    },
    "several": {"sizes": (4, 5, 3), "seed": [0, 1, 2], "normalization": "layer"},
    "one": {"sizes": (4, 2, 1), "loss": "squared_error", "dtype": "float64"},
}


@pytest.mark.parametrize("build", BUILDS)
def test_layers_are_those_of_the_network(build: str) -> None:
    model = MLP(**BUILDS[build])
    doc = describe(model)
    network: Network = model.network
    for i, layer in enumerate(doc["layers"]):
        hidden = i < network.n_hidden
        assert (layer["inputs"], layer["units"]) == network.sizes[i : i + 2]
        names = {slot.name for slot in network.slots if slot.layer == i}
        held = sum(np.asarray(model.parameters[name])[..., :, :].size for name in names)
        assert layer["parameters"] * len(model.seeds) == held
        assert layer["skip"] == (hidden and network.residual)
        if hidden:
            assert layer["activation"] == model.config["activation"][i]
            assert layer["dropout"] == network.dropout[i]
            assert layer["normalization"] == network.normalization
    assert sum(layer["parameters"] for layer in doc["layers"]) == model.n_parameters
    assert doc["networks"] == len(model.seeds)
    assert json.loads(json.dumps(doc)) == doc
    assert f"{model.n_parameters:,} parameters" in as_text(doc)


def test_the_text_is_a_table_and_four_facts() -> None:
    model = MLP((4, 8, 6, 3), activation=["gelu", "tanh"], normalization="batch", dropout=0.1)
    assert model.summary() == (
        "MLP: 129 parameters, float32\n"
        "\n"
        "layer     units  activation  normalisation  dropout  parameters\n"
        "input         4\n"
        "hidden 1      8  gelu        batch              0.1          48\n"
        "hidden 2      6  tanh        batch              0.1          60\n"
        "output        3  softmax                                     21\n"
        "\n"
        "takes    4 features, taken as they are\n"
        "answers  one of 3 classes, numbered from 0\n"
        "trained  not yet: initial weights, seed 0\n"
        "score    not known; mlp-xp evaluate measures one"
    )


def test_a_repr_stays_a_line() -> None:
    assert repr(MLP((4, 3))) == "<MLP 4-3, 15 parameters, float32>"


def test_functions_of_the_users_own_are_said_to_be() -> None:
    own = (lambda xp, Z: Z, lambda xp, Z: xp.ones_like(Z))
    assert describe(MLP((4, 5, 3), activation=own))["layers"][0]["activation"] == "own"

    class Mine(Adam):
        """The same by another name."""

    model = MLP((4, 5, 3), optimizer=Mine()).fit(
        np.eye(4), [0, 1] * 2, layout="rows", progress=False
    )
    assert "own at rate 0.001" in model.summary()


# -- what goes in and out -------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepared", "loss", "told"),
    [
        (
            Preparation("cross_entropy", Scale(0, 16), classes=("no", "so so", "yes")),
            "cross_entropy",
            ["takes 4 features, each divided by 16", "answers one of 3 classes: no, so so, yes"],
        ),
        (
            Preparation(
                "squared_error",
                Scale([1, 2, 3, 4], [5, 6, 7, 8]),
                Scale([0.5], [20]),
                features=("a", "bb", "c", "d"),
                target=("price",),
            ),
            "squared_error",
            [
                "takes 4 features",
                "bb (x - 2) / 6",
                "answers 1 number: price, 20 x + 0.5 of an output x",
            ],
        ),
        (
            Preparation("binary_cross_entropy", classes=(3, 8), target=("kind",)),
            "binary_cross_entropy",
            ["takes 4 features, taken as they are", "answers kind, one of 2 classes: 3, 8"],
        ),
        (
            Preparation("multilabel", Scale(2, 3), features=("a", "b", "c", "d"), target=("wet",)),
            "multilabel",
            ["takes 4 features, each less 2 and divided by 3: a, b, c, d"],
        ),
    ],
)
def test_what_it_takes_and_answers_is_told_by_name(
    prepared: Preparation, loss: str, told: list[str]
) -> None:
    model = MLP((4, 3 if loss == "cross_entropy" else 1), loss=loss)
    model.preparation = prepared
    lines = lines_of(model.summary())
    for line in told:
        assert line in lines
    doc = describe(model)
    assert doc["features"]["names"] == list(prepared.features)
    assert doc["answers"]["names"] == list(prepared.target)
    classes = None if prepared.classes is None else list(prepared.classes)
    assert doc["answers"]["classes"] == classes


def test_several_targets_are_told_each_in_its_unit() -> None:
    model = MLP((4, 2), loss="squared_error")
    outputs = Scale([5, 6], [7, 8])
    model.preparation = Preparation("squared_error", outputs=outputs, target=("price", "age"))
    assert "answers 2 numbers, of outputs x:" in lines_of(model.summary())
    assert "age 8 x + 6" in lines_of(model.summary())


def test_a_table_is_told_column_by_column(run: Run) -> None:
    rows = "".join(
        f"{i:03},{'' if i % 7 == 0 else i * 37 % 50},{['Oslo', 'Rome', 'Bonn'][i % 3]},"
        f"{'no' if i * 37 % 50 > 20 else 'yes'}\n"
        for i in range(90)
    )
    Path("people.csv").write_text("id,age,city,happy\n" + rows)
    run("train", "--data", "people.csv", "--target", "happy", *QUICK)
    planned = run("train", "--data", "people.csv", "--target", "happy", "--dry-run", "--json")
    lines = lines_of(run("show", "model.safetensors").out)
    assert any(line.startswith("takes a table, of which 2 columns become 5 num") for line in lines)
    for column in planned.document["columns"]:
        assert f"{column['name']} {column['becomes']}" in lines
    assert "answers happy, one of 2 classes: no, yes" in lines
    features = run("show", "model.safetensors", "--json").document["features"]
    assert features["names"] == ["age", "city"]
    assert features["columns"] == planned.document["columns"]


def test_many_names_are_cut_in_text_and_whole_in_the_document() -> None:
    names = tuple(f"column {i}" for i in range(40))
    model = MLP((40, 3))
    model.preparation = Preparation("cross_entropy", Scale(1, 2), features=names)
    assert "column 19 … (40 in all)" in " ".join(model.summary().split())
    assert describe(model)["features"]["names"] == list(names)
    assert max(map(len, model.summary().splitlines())) <= 88


# -- a training ---------------------------------------------------------------------------


def test_show_tells_what_train_did_and_how_it_ended(run: Run) -> None:
    trained = run("train", *QUICK, "--l2", 1e-4, "--json").document
    found = run("show", "model.safetensors")
    assert (found.code, found.err) == (0, "")
    lines = lines_of(found.out)
    assert lines[0] == "MLP: 1,290 parameters, float32"
    assert "hidden 1 16 relu batch 0.3 1,056" in lines
    assert "takes 64 features, each divided by 16" in lines
    assert "answers one of 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in lines
    assert "trained 3 epochs in batches of 64, 69 steps, seed 0" in lines
    assert "adam at rate 0.01, schedule one_cycle, l2 0.0001, label smoothing 0.1" in lines
    assert any(re.fullmatch(r"on 1,438 examples of digits, \d{4}-\d\d-\d\d", x) for x in lines)
    held = trained["held_out"]
    assert lines[-1] == (
        f"score held-out accuracy {held['accuracy']:.4g}, loss {held['loss']:.4g} on 359 "
        "examples of digits"
    )
    document = run("show", "model.safetensors", "--json").document
    assert document["file"] == "model.safetensors"
    score = document["scores"]["held_out"]
    for key in ("accuracy", "loss", "examples", "trained_on"):
        assert score[key] == held[key]
    training = document["training"]
    assert training["examples"] == {"training": 1438, "validation": 0, "held_out": 359}
    known = ("schedule", "batch_size", "epochs", "steps", "seed", "data", "loss")
    assert [training[key] for key in known] == [
        "one_cycle", 64, 3, 69, 0, "digits", "cross_entropy"
    ]  # fmt: skip
    assert training["date"].endswith("+00:00")
    model = MLP.load("model.safetensors")
    assert {"file": "model.safetensors", **describe(model)} == document
    assert model.summary() + "\n" == found.out


def test_show_tells_apart_what_was_chosen_by_and_what_was_held_out(run: Run) -> None:
    run("train", *QUICK, "--early-stopping", 2)
    found = run("show", "model.safetensors")
    assert "early stopping after 2 epochs" in found.out
    model = MLP.load("model.safetensors")
    loss = model.history["validation_loss"][-1]
    assert f"validation loss {loss:.4g}, score" in found.out
    assert "score    held-out accuracy" in found.out


def test_a_score_of_rows_trained_on_says_what_it_is(run: Run) -> None:
    run("train", *QUICK, "--held-out", 0)
    found = run("show", "model.safetensors")
    assert re.search(r"score    training accuracy \S+, loss \S+ on 1,797 examples", found.out)
    assert "held-out" not in found.out


def test_numbers_are_scored_in_their_own_units(run: Run) -> None:
    rows = "".join(f"{a},{b},{1000 + 50 * a}\n" for a, b in X[:, :2])
    Path("d.csv").write_text("a,b,price\n" + rows)
    argv = ("--data", "d.csv", "--target", "price", "--scale-target")
    held = run("train", *argv, *QUICK, "--json").document["held_out"]
    found = run("show", "model.safetensors")
    lines = lines_of(found.out)
    assert f"RMSE {held['rmse']:.4g}, mean absolute error {held['mae']:.4g}" in lines[-2]
    assert any(re.fullmatch(r"a \(x [-+] \S+\) / \S+", line) for line in lines)
    assert any(re.fullmatch(r"answers 1 number: price, .* of an output x", x) for x in lines)


def test_what_was_trained_on_since_is_said_to_be_unknown(run: Run) -> None:
    run("train", *QUICK)
    model = MLP.load("model.safetensors")
    digits = np.load(ROOT / "mlp_xp" / "datasets" / "digits.npz")
    model.fit(digits["X"].T, digits["y"], epochs=1, progress=False)
    model.save("on")
    lines = lines_of(run("show", "on").out)
    assert "that is known until step 69; it was trained on since" in lines
    assert "that was at step 69; it was trained on since" in lines
    document = run("show", "on", "--json").document
    assert document["training"]["known_until_step"] == 69
    assert document["scores"]["held_out"]["steps"] == 69
    resumed = run("train", "--resume", "on", "--epochs", 1)
    assert resumed.code == 0
    assert "trained on since" not in run("show", "on").out


def test_metadata_of_the_users_own_are_left_alone() -> None:
    model = MLP((4, 3))
    for value in (
        "last week",
        {"steps": "many"},
        3,
        None,
        {"data": "x"},
        {"steps": 0, "examples": 3},
    ):
        model.metadata = {"trained": value, "score": value}
        assert "not yet" in model.summary()
        assert "not known" in model.summary()


def test_a_model_of_python_tells_what_it_knows() -> None:
    model = MLP((4, 8, 3), optimizer="adamw", learning_rate=0.003, clip_norm=2.0, seed=5)
    y = (X[:, 0] > 0).astype(int)
    model.fit(X, y, epochs=2, validation_data=(X, y), layout="rows", progress=False)
    lines = lines_of(model.summary())
    assert "trained 2 epochs, 2 steps, seed 5" in lines
    assert "adamw at rate 0.003, weight decay 0.01, clip norm 2" in lines
    last = model.history["validation_loss"][-1], model.history["validation_score"][-1]
    assert f"score validation loss {last[0]:.4g}, score {last[1]:.4g}, of the last epoch" in lines


def test_of_several_networks_the_best_is_told() -> None:
    model = MLP((4, 8, 3), seed=[1, 2])
    y = (X[:, 0] > 0).astype(int)
    model.fit(X, y, epochs=2, validation_data=(X, y), layout="rows", progress=False)
    loss, score = (model.history[f"validation_{name}"][-1] for name in ("loss", "score"))
    assert model.summary().endswith(
        f"validation loss {loss.min():.4g}, score {score.max():.4g}, of the best network"
    )
    doc = describe(model)
    assert doc["scores"]["validation"]["loss"] == loss.tolist()
    assert json.loads(json.dumps(doc)) == doc


# -- notebooks ------------------------------------------------------------------------------


class Strict(HTMLParser):
    """Every tag closed in turn; the text, and nothing that comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("div", "p", "strong", "table", "thead", "tbody", "tr", "td", "th")
        assert {name for name, _ in attrs} <= {"style"}
        assert "url" not in str(attrs)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_a_notebook_shows_the_same_escaped_and_from_nowhere_else() -> None:
    model = MLP((4, 8, 3))
    evil = "<script src='http://x'>alert(1)</script>"
    model.preparation = Preparation(
        "cross_entropy", Scale([1, 2, 3, 4], 1), classes=(evil, "b & c", "d"), features=(evil,) * 4
    )
    parser = Strict()
    parser.feed(model._repr_html_())
    parser.close()
    assert not parser.open
    assert evil in parser.text
    assert "b & c" in parser.text
    for word in ("hidden 1", "softmax", "takes", "answers", "trained", "score"):
        assert word in parser.text
    assert model._repr_html_() == as_html(describe(model))


def test_a_name_in_a_file_cannot_command_the_terminal() -> None:
    model = MLP((4, 3))
    classes = ("\x1b[2Jgone", "b\nscore  perfect", "c")
    model.preparation = Preparation("cross_entropy", classes=classes)
    text = model.summary()
    assert "\x1b" not in text
    assert r"\x1b[2Jgone, b\nscore  perfect, c" in text
    assert len(text.splitlines()) == len(MLP((4, 3)).summary().splitlines())


def test_estimators_keep_the_repr_of_scikit_learn() -> None:
    est = mlp_xp.MLPClassifier((4,))
    assert repr(est) == "MLPClassifier(hidden_layer_sizes=(4,))"
    assert "sk-" in est._repr_html_()


# -- estimators' files ------------------------------------------------------------------------


def classifier() -> Any:
    words = np.array(["ash", "elm", "oak"])[np.arange(60) % 3]
    return mlp_xp.MLPClassifier(
        (8, 5),
        activation=["gelu", "tanh"],
        normalization="batch",
        dropout=[0.1, 0.2],
        residual=True,
        max_iter=4,
        early_stopping=True,
        batch_size=20,
        learning_rate=Cosine(),
        solver=Adam(rate=0.02),
        random_state=3,
    ).fit(X, words)


def test_an_estimators_file_is_told_in_the_same_words(run: Run) -> None:
    est = classifier()
    est.save("trees")
    lines = lines_of(run("show", "trees").out)
    n = sum(coef.size for coef in est.coefs_) + sum(b.size for b in est.intercepts_)
    n += sum(g.size for g in est.gains_ if g is not None)
    n += sum(P.size for P in est.projections_ if P is not None)
    assert lines[0] == f"MLPClassifier: {n} parameters, float64"
    assert any(line.startswith("hidden 1 8 gelu batch 0.1 yes ") for line in lines)
    assert any(line.startswith("hidden 2 5 tanh batch 0.2 yes ") for line in lines)
    assert any(line.startswith("output 3 softmax ") for line in lines)
    assert "answers one of 3 classes: ash, elm, oak" in lines
    assert (
        f"trained {est.n_iter_} epochs in batches of 20, {est.n_iter_ * 3} steps, seed 3" in lines
    )
    assert any("adam at rate 0.02, schedule cosine, early stopping after 10" in x for x in lines)
    assert f"best score {est.best_validation_score_:.4g}" in lines[-1]
    document = run("show", "trees", "--json").document
    assert document["model"] == "MLPClassifier"
    assert document["parameters"] == n
    assert document["answers"]["classes"] == ["ash", "elm", "oak"]
    assert set(document) == {"file", *describe(MLP((4, 3)))}


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("task", ["numbers", "several", "counts", "two", "labels", "names"])
def test_every_kind_of_estimator_is_told(run: Run, task: str, solver: str) -> None:
    import pandas as pd

    options: dict[str, Any] = {"max_iter": 2, "solver": solver}
    targets: dict[str, Any] = {
        "numbers": X[:, 0],
        "several": X[:, :2],
        "counts": np.arange(60) % 7,
        "two": X[:, 0] > 0,
        "labels": X[:, :2] > 0,
        "names": np.array(["yes", "no"])[(X[:, 0] > 0).astype(int)],
    }
    kind = "MLPRegressor" if task in ("numbers", "several", "counts") else "MLPClassifier"
    if task == "counts":
        options["loss"] = "poisson"
    table = pd.DataFrame(X, columns=list("abcd")) if task == "names" else X
    est = getattr(mlp_xp, kind)(hidden_layer_sizes=(3,), **options).fit(table, targets[task])
    est.save("m")
    found = run("show", "m")
    assert found.code == 0
    assert found.out.startswith(f"{kind}: ")
    assert solver in found.out
    lines = lines_of(found.out)
    told = {
        "numbers": "answers 1 number",
        "several": "answers 2 numbers",
        "counts": "answers 1 count",
        "two": "answers one of 2 classes: False, True",
        "labels": "answers 2 labels, each 0 or 1",
        "names": "answers one of 2 classes: no, yes",
    }
    assert told[task] in lines
    names = ": a, b, c, d" if task == "names" else ""
    assert f"takes 4 features, taken as they are{names}" in lines


def test_an_estimator_made_of_a_commands_model_keeps_its_score(run: Run) -> None:
    run("train", *QUICK)
    mlp_xp.MLPClassifier.load("model.safetensors").save("est")
    lines, before = (lines_of(run("show", name).out) for name in ("est", "model.safetensors"))
    for start in ("takes", "answers", "score", "hidden 1", "hidden 2", "output", "on 1,438"):
        one, other = ([x for x in told if x.startswith(start)] for told in (lines, before))
        assert one == other != []


def test_scikit_learn_is_not_needed_to_be_told(tmp_path: Path) -> None:
    classifier().save(tmp_path / "trees")
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['scipy'] = None; "
        "from mlp_xp.cli import main; sys.exit(main(['show', 'trees']))"
    )
    argv = [sys.executable, "-c", code]
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "PYTHONIOENCODING": "utf-8"}
    found = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("MLPClassifier: ")


def test_what_is_no_model_is_refused(run: Run) -> None:
    assert run("show", "gone").code == 1
    Path("text").write_text("hello")
    found = run("show", "text", "--json")
    assert (found.code, "cannot be read as safetensors" in found.document["error"]) == (1, True)
    classifier().save("trees")
    content = Path("trees").read_bytes()
    Path("trees").write_bytes(content[:-3])
    assert "truncated, damaged" in run("show", "trees").err


def test_an_estimator_of_another_time_is_refused_in_words(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp import storage

    classifier().save("trees")
    header, tensors = storage.read("trees")
    header["metadata"] = "{}"
    monkeypatch.setattr(storage, "read", lambda path: (header, tensors))
    found = run("show", "trees")
    assert (found.code, "trees describes an estimator that this mlp_xp" in found.err) == (1, True)
