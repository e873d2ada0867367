"""Files whose checksum is right and whose header is not: refused by name, or they work.

Every value of the JSON in a real model's header is replaced by every other kind of value, the
checksum is written anew, and what comes of it must be a model that predicts, is evaluated,
trained on and saved, or a `ModelFileError`. A sample of the mutations runs, another one every
day, whose seed is printed; `--exhaustive` runs them all, `--seed N` repeats a sample.
"""

from __future__ import annotations

import copy
import json
import random as randoms
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from mlp_xp import MLP, TrainingDiverged
from mlp_xp.headers import HEADER
from mlp_xp.prepared import NUMBERS, Preparation, Scale
from mlp_xp.storage import ModelFileError, _checksum, _serialise

SAMPLE = 250  # mutations of each file
TRAINED = 80  # of each from which a training goes on
PATIENCE = 20.0  # seconds for one of them, on a busy machine

OTHERS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-300, 1e308, float("inf"), float("nan")),
    *(10**30, -(10**30), 2**63, "", "x", "relu", "2", [], [None], [[]], [1], [1, 2], {}, {"a": 1}),
]
TEXTS = ["", "{", "nul", "[" * 100_000, "9" * 5000, '{"a": 1, "a": 2}', "\ud7ff", "1 2", "\x00"]
DELETED = object()


def places(document: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a JSON document, from the whole to the last."""
    yield ()
    inside = document.items() if isinstance(document, dict) else ()
    inside = enumerate(document) if isinstance(document, list) else inside
    for key, value in inside:
        for rest in places(value):
            yield (key, *rest)


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The document with another value in a place, or without it."""
    if not place:
        return value
    changed = copy.copy(document)
    *way, last = place
    parent = changed
    for key in way:
        parent[key] = copy.copy(parent[key])
        parent = parent[key]
    if value is DELETED:
        del parent[last]
    else:
        parent[last] = value
    return changed


def mutants(header: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """What is changed in words, the part of the header, and its new text."""
    for part in [name for name in (*HEADER, "checkpoint") if name in header]:
        document = json.loads(header[part])
        for place in places(document):
            name = part + "".join(f"[{key!r}]" for key in place)
            for other in [*OTHERS, *([DELETED] if place else [])]:
                shown = "deleted" if other is DELETED else repr(other)[:40]
                yield f"{name} is {shown}", part, json.dumps(replaced(document, place, other))
            found = document
            for key in place:
                found = found[key]
            if isinstance(found, dict):
                text = json.dumps(replaced(document, place, {**found, "unknown": 1}))
                yield f"{name} has another entry", part, text
            if isinstance(found, list):
                text = json.dumps(replaced(document, place, [*found, *found[-1:]]))
                yield f"{name} is longer", part, text
        for text in TEXTS:
            yield f"{part} is the text {text[:20]!r}", part, text


def read(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write(path: Path, header: dict[str, str], tensors: dict[str, Any]) -> None:
    """A file with the right checksum, whatever it says."""
    header = {**header, "sha256": _checksum(header, tensors)}
    path.write_bytes(_serialise(tensors, header))


RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 24)).astype("float32")


def answers(model: MLP) -> Any:
    """Targets that the model must take: of its own kind, names and units."""
    n, kind = model.network.sizes[-1], model.loss.kind
    if kind in NUMBERS:
        return np.abs(RNG.normal(size=(n, X.shape[1])))
    if kind == "multilabel":
        return RNG.integers(0, 2, (n, X.shape[1]))
    known = model.preparation.classes if model.preparation else None
    names = np.array(range(max(n, 2)) if known is None else known)
    return names[np.arange(X.shape[1]) % len(names)]


def used(model: MLP, path: Path) -> None:
    """All that one does with a model."""
    Y = answers(model)
    rows = X.astype(model.dtype)
    model.predict(rows)
    model.predictor(1)(rows[:, :1])
    model.evaluate(rows, Y)
    repr(model)
    try:
        model.fit(rows, Y, epochs=1, batch_size=10, validation_data=(rows, Y), progress=False)
    except TrainingDiverged:
        model.predict(rows)
    model.save(path)
    MLP.load(path)


def build(**options: Any) -> MLP:
    model = MLP((5, 4, 3, options.pop("n_out", 3)), **options)
    model.metadata = {"note": "a real one", "split": {"held_out": 0.2, "seed": 0}}
    return model


def plain() -> MLP:
    return build()


def everything() -> MLP:
    model = build(
        normalization="batch",
        dropout=[0.25, 0.0],
        residual=True,
        density=0.6,
        l2=1e-4,
        clip_norm=2.0,
        clip_value=1.0,
        label_smoothing=0.1,
        optimizer="adamw",
        activation=["gelu", "tanh"],
        dtype="float64",
    )
    inputs = Scale([0.0, 1.0, 2.0, 3.0, 4.0], 2.0)
    names, features = ("ant", "bee", "cow"), ("a", "b", "c", "d", "e")
    model.preparation = Preparation("cross_entropy", inputs, classes=names, features=features)
    return model


def several() -> MLP:
    return build(seed=[3, 4], optimizer="nesterov", loss="multilabel")


def numbers() -> MLP:
    model = build(loss="squared_error", n_out=1, optimizer="rmsprop")
    model.preparation = Preparation("squared_error", outputs=Scale(3.0, 2.0), target=("y",))
    return model


KINDS: dict[str, Callable[[], MLP]] = {f.__name__: f for f in (plain, everything, several, numbers)}


def chosen(cases: list[Any], seed: int | None, most: int = SAMPLE) -> list[Any]:
    """All of them, or a sample."""
    if seed is None:
        return cases
    return randoms.Random(seed).sample(cases, min(most, len(cases)))


def outcome(work: Callable[[], object]) -> str:
    """What became of a file: "works", "refused", or what must not be."""
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
        found = "works"
    except ModelFileError as error:
        found = "refused" if len(str(error)) < 1000 else f"refused at length: {str(error)[:80]}"
    except BaseException as error:
        found = f"{type(error).__name__}: {str(error)[:80]}"
    return found if time.monotonic() - began < PATIENCE else f"too late: {found}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_was_changed_is_refused_or_works(
    kind: str, sample: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", "0")  # other constants would be compiled every time
    path, again = tmp_path / "model.safetensors", tmp_path / "again.safetensors"
    model = KINDS[kind]()
    Y = answers(model)
    model.fit(X, Y, epochs=2, batch_size=10, validation_data=(X, Y), progress=False)
    model.save(path)
    header, tensors = read(path)
    assert outcome(lambda: used(MLP.load(path), again)) == "works"
    wrong = dict[str, str]()
    counts = {"works": 0, "refused": 0}
    for name, part, text in chosen(list(mutants(header)), sample):
        write(path, {**header, part: text}, tensors)
        found = outcome(lambda: used(MLP.load(path), again))
        if found in counts:
            counts[found] += 1
        else:
            wrong[name] = found
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert min(counts.values()) > 0


# -- estimators --------------------------------------------------------------------

ROWS = X.T.astype("float64")
LABELS = np.array(["ant", "bee", "cow"])[np.arange(len(ROWS)) % 3]


def estimators() -> dict[str, tuple[Any, Any]]:
    """Estimators and what they are fitted to."""
    from mlp_xp import MLPClassifier, MLPRegressor
    from mlp_xp.optimizers import Momentum
    from mlp_xp.schedules import WarmUp

    few = {"hidden_layer_sizes": (4, 3), "max_iter": 3, "batch_size": 10, "random_state": 0}
    return {
        "classifier": (MLPClassifier(**few), LABELS),
        "two classes": (MLPClassifier(solver="sgd", class_weight={0: 2.0, 1: 1.0}, **few), None),
        "everything": (
            MLPClassifier(
                solver=Momentum(0.01, momentum=0.8),
                learning_rate=WarmUp(3),
                normalization="batch",
                dropout=[0.1, 0.0],
                residual=True,
                early_stopping=True,
                activation=["gelu", "tanh"],
                dtype="float32",
                clip_norm=1.0,
                label_smoothing=0.1,
                **few,
            ),
            LABELS,
        ),
        "regressor": (MLPRegressor(solver="lbfgs", **few), ROWS[:, 0]),
    }


# errors of `fit` that say what is wrong with a parameter that may be so
ASKED_FOR = (
    "non-finite parameter weights",
    "validation set is too small",
    "The 'test_size' parameter of train_test_split",
    "sample_weight sums to inf",
)


def estimator_used(est: Any, y: Any, path: Path) -> None:
    """All that one does with an estimator."""
    if hasattr(est, "classes_"):
        y = est.classes_[np.arange(len(y)) % len(est.classes_)]
    est.predict(ROWS)
    est.score(ROWS, y)
    repr(est)
    if hasattr(est, "predict_proba"):
        est.predict_proba(ROWS)
    est.save(path)
    type(est).load(path)
    est.max_iter = 2  # as long as one has asked for is long
    try:
        if est.solver != "lbfgs" and getattr(est, "class_weight", None) != "balanced":
            est.partial_fit(ROWS, y, validation_data=(ROWS, y))
        est.fit(ROWS, y)
    except ValueError as error:
        if not any(message in str(error) for message in ASKED_FOR):
            raise


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["classifier", "two classes", "everything", "regressor"])
def test_an_estimators_header_that_was_changed_is_refused_or_works(
    kind: str, sample: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("MLP_XP_NATIVE", "0")
    path, again = tmp_path / "model.safetensors", tmp_path / "again.safetensors"
    est, y = estimators()[kind]
    y = np.arange(len(ROWS)) % 2 if y is None else y
    est.fit(ROWS, y)
    est.save(path)
    header, tensors = read(path)
    load = type(est).load
    assert outcome(lambda: estimator_used(load(path), y, again)) == "works"
    wrong = dict[str, str]()
    counts = {"works": 0, "refused": 0}
    for name, part, text in chosen(list(mutants(header)), sample):
        write(path, {**header, part: text}, tensors)
        found = outcome(lambda: estimator_used(load(path), y, again))
        if found in counts:
            counts[found] += 1
        else:
            wrong[name] = found
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert min(counts.values()) > 0
