"""Estimators as ONNX: their own files, and within scikit-learn's pipelines by skl2onnx."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from test_onnx import TOLERANCE, Runtime

from conftest import need
from mlp_xp import LOSSES, MLPClassifier, MLPRegressor, NeuralClassifier, NeuralRegressor
from mlp_xp.export.functions import NotExportable

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

M = 60


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Runtime:
    return Runtime(request)


@pytest.fixture
def skl2onnx(request: pytest.FixtureRequest) -> Any:
    return need(request, "skl2onnx")


def labels(random: np.random.Generator) -> dict[str, Any]:
    return {
        "words": np.array(["a", "b", "ø"])[random.integers(0, 3, M)],
        "objects": np.array(["x", "y"], object)[random.integers(0, 2, M)],
        "numbers": random.integers(0, 3, M) + 5,
        "two numbers": random.integers(0, 2, M) - 1,
        "floats": random.integers(0, 3, M).astype(float),
        "large numbers": random.integers(0, 3, M).astype(np.uint64) + np.uint64(2**63),
        "booleans": random.integers(0, 2, M) == 1,
        "several": random.integers(0, 2, (M, 3)),
        "one class": np.full(M, 7),
    }


LABELS = list(labels(np.random.default_rng(0)))


def same(
    run: Runtime, estimator: Any, proto: Any, X: Any, inputs: dict[str, Any] | None = None
) -> None:
    """onnxruntime's answers are those of the estimator."""
    found = run(proto, **(inputs or {"X": X}))
    given = X if isinstance(X, np.ndarray) else np.zeros(0, np.float32)
    limit = TOLERANCE.get(given.dtype.name, 1e-5)
    if hasattr(estimator, "classes_"):
        P = estimator.predict_proba(X)
        assert list(found) == ["label", "probabilities"]
        np.testing.assert_allclose(found["probabilities"], P, rtol=limit, atol=limit)
        assert found["label"].tolist() == estimator.predict(X).tolist()
    else:
        values = estimator.predict(X)
        assert list(found) == ["variable"]
        got = found["variable"].reshape(values.shape)
        np.testing.assert_allclose(got, values, rtol=limit, atol=limit)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LABELS)
def test_a_classifier_answers_with_its_classes(
    run: Runtime, skl2onnx: Any, random: np.random.Generator, kind: str, dtype: str
) -> None:
    X, y = random.normal(size=(M, 5)).astype(dtype), labels(random)[kind]
    options: dict[str, Any] = {"normalization": "batch", "residual": True, "activation": "elu"}
    classifier = MLPClassifier((8,), max_iter=4, random_state=0, **options).fit(X, y)
    same(run, classifier, classifier.to_onnx(), X)
    if kind != "one class":
        pipeline = make_pipeline(StandardScaler(), classifier).fit(X, y)
        same(run, pipeline, skl2onnx.to_onnx(pipeline, X[:1]), X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber", "absolute_error"])
def test_a_regressor_answers_with_numbers(
    run: Runtime, skl2onnx: Any, random: np.random.Generator, loss: str, dtype: str
) -> None:
    X = random.normal(size=(M, 5)).astype(dtype)
    for n in (1, 2):
        y = random.uniform(size=(M, n))
        y = y[:, 0] if n == 1 else y
        regressor = MLPRegressor(loss, (8,), max_iter=4, random_state=0).fit(X, y)
        same(run, regressor, regressor.to_onnx(), X)
        pipeline = make_pipeline(StandardScaler(), regressor).fit(X, y)
        same(run, pipeline, skl2onnx.to_onnx(pipeline, X[:1]), X)


def test_a_pipeline_of_words_and_numbers_converts(
    run: Runtime, skl2onnx: Any, random: np.random.Generator
) -> None:
    pandas = pytest.importorskip("pandas")
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    frame = pandas.DataFrame(
        {
            "x": random.normal(size=M).astype(np.float32),
            "city": np.array(["Oslo", "Bergen"], object)[random.integers(0, 2, M)],
        }
    )
    y = (frame["x"] > 0).to_numpy() & (frame["city"] == "Oslo").to_numpy()
    columns = make_column_transformer(
        (StandardScaler(), ["x"]), (OneHotEncoder(sparse_output=False), ["city"])
    )
    pipeline = make_pipeline(columns, MLPClassifier((8,), max_iter=5, random_state=0))
    pipeline.fit(frame, y.astype(int))
    types = [("x", FloatTensorType([None, 1])), ("city", StringTensorType([None, 1]))]
    proto = skl2onnx.to_onnx(pipeline, initial_types=types)
    given = {name: frame[name].to_numpy()[:, None] for name in frame}
    given["city"] = given["city"].astype(object)
    same(run, pipeline, proto, frame, given)


def test_an_estimator_of_estimators_converts(
    run: Runtime, skl2onnx: Any, random: np.random.Generator
) -> None:
    X = random.normal(size=(M, 4)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    one = MLPClassifier((5,), max_iter=3, random_state=0)
    for several in (
        GridSearchCV(one, {"alpha": [1e-4, 1e-3]}, cv=2),
        StackingClassifier([("a", one), ("b", LogisticRegression())], cv=2),
        CalibratedClassifierCV(one, cv=2),
        OneVsRestClassifier(one),
    ):
        several.fit(X, y)
        same(run, several, skl2onnx.to_onnx(several, X[:1], options={"zipmap": False}), X)


def test_the_first_conversion_is_like_the_later_ones(skl2onnx: Any) -> None:
    """In a process of its own, for skl2onnx remembers classes."""
    code = """
import warnings; warnings.simplefilter("ignore")
import numpy, skl2onnx, mlp_xp
X, y = numpy.eye(6, dtype="float32"), [0, 1, 2] * 2
c = mlp_xp.MLPClassifier(max_iter=1).fit(X, y)
for options in ({"zipmap": False}, None, {"zipmap": False}, {id(c): {"zipmap": False}}):
    outputs = skl2onnx.to_onnx(c, X, options=options).graph.output
    print([(o.name, o.type.WhichOneof("value")) for o in outputs])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    expected = "[('label', 'tensor_type'), ('probabilities', 'tensor_type')]"
    assert done.stdout.splitlines() == [expected] * 4


def test_an_old_opset_is_refused(skl2onnx: Any, random: np.random.Generator) -> None:
    X = random.normal(size=(M, 3)).astype(np.float32)
    classifier = MLPClassifier((4,), max_iter=1).fit(X, X[:, 0] > 0)
    assert skl2onnx.to_onnx(classifier, X[:1], target_opset=18).opset_import[0].version == 18
    with pytest.raises(NotExportable, match=r"target_opset is 15, but .* opset 18"):
        skl2onnx.to_onnx(classifier, X[:1], target_opset=15)


def test_an_estimator_that_is_not_fitted_says_so() -> None:
    for estimator in (MLPClassifier(), MLPRegressor(), NeuralClassifier(), NeuralRegressor()):
        with pytest.raises(NotFittedError):
            estimator.to_onnx()


def test_a_row_of_the_losses_is_the_loss_of_its_name(random: np.random.Generator) -> None:
    X = random.normal(size=(M, 3))
    for name in ("huber", "poisson"):
        made = [
            clone(MLPRegressor(loss, (4,), max_iter=1, random_state=0)).fit(X, X[:, 0] ** 2)
            for loss in (name, LOSSES[name])
        ]
        assert made[0].to_onnx() == made[1].to_onnx()


def test_an_own_loss_is_refused(random: np.random.Generator) -> None:
    X = random.normal(size=(M, 3))
    own = (lambda xp, S, T: xp.sum((S - T) ** 4, axis=-2), lambda xp, S, T: 4 * (S - T) ** 3)
    regressor = MLPRegressor(own, (4,), max_iter=1).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="which is no row of LOSSES"):
        regressor.to_onnx()


# -- layers of any kind --------------------------------------------------------

IMAGES = {"channels_last": (8, 7, 2), "channels_first": (2, 8, 7)}


@pytest.mark.parametrize("flat", [False, True], ids=["images", "table"])
@pytest.mark.parametrize("layout", IMAGES)
def test_images_lie_as_in_fit(
    run: Runtime, skl2onnx: Any, random: np.random.Generator, layout: str, flat: bool
) -> None:
    X = random.normal(size=(M, *IMAGES[layout])).astype(np.float32)
    X = X.reshape(M, -1) if flat else X
    classifier = NeuralClassifier(
        "conv:4x3,pool:2", layout=layout, shape=IMAGES[layout] if flat else None, epochs=1
    ).fit(X, random.integers(0, 3, M))
    same(run, classifier, classifier.to_onnx(), X)
    if flat:
        pipeline = make_pipeline(StandardScaler(), classifier).fit(X, random.integers(0, 3, M))
        same(run, pipeline, skl2onnx.to_onnx(pipeline, X[:1]), X)


def test_sequences_come_padded_with_their_lengths(
    run: Runtime, skl2onnx: Any, random: np.random.Generator
) -> None:
    X = [random.normal(size=(n, 3)).astype(np.float32) for n in random.integers(1, 7, M)]
    regressor = NeuralRegressor("gru:4", layout="sequences", epochs=1).fit(X, np.ones(M))
    time = max(map(len, X))
    padded = np.zeros((M, time, 3), np.float32)
    for row, sequence in zip(padded, X, strict=True):
        row[: len(sequence)] = sequence
    lengths = np.array([len(sequence) for sequence in X])
    same(run, regressor, regressor.to_onnx(), X, {"X": padded, "lengths": lengths})
    with pytest.raises(NotExportable, match="sequences whose lengths differ"):
        skl2onnx.to_onnx(regressor, padded)


def test_sequences_and_tokens_lie_as_in_fit(run: Runtime, random: np.random.Generator) -> None:
    y = random.integers(0, 2, M)
    X = random.normal(size=(M, 6, 3)).astype(np.float32)
    one = NeuralClassifier("lstm:4", layout="sequences", loss="binary_cross_entropy", epochs=1)
    same(run, one.fit(X, y), one.to_onnx(), X)
    tokens = random.integers(0, 9, (M, 6))
    two = NeuralClassifier("embedding:9x3,gru:4", layout="tokens", epochs=1).fit(tokens, y)
    same(run, two, two.to_onnx(), tokens)
    three = NeuralRegressor("dense:4", epochs=1).fit(X[:, 0], y)
    same(run, three, three.to_onnx(), X[:, 0])
