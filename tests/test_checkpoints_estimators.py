"""An estimator's fit that is killed goes on from its checkpoint to the bit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scipy.sparse import csr_matrix
from test_checkpoints import Killed, names
from test_hostile_files import TRAINED, chosen, mutants, outcome, read, write

from conftest import need
from mlp_xp import (
    ACTIVATIONS,
    MLP,
    Activation,
    MLPClassifier,
    MLPRegressor,
    NeuralClassifier,
)
from mlp_xp.checkpoints import CheckpointError
from mlp_xp.compile import step
from mlp_xp.schedules import ReduceOnPlateau
from mlp_xp.storage import ModelFileError

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 5))
LABELS = np.array(["no", "perhaps", "yes"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)]
VALUES = X[:, 0] * X[:, 1] + X[:, 2]
HELD = (RNG.normal(size=(20, 5)), LABELS[:20])
EPOCHS, KILLED = 12, 8
FAST: dict[str, Any] = {
    "hidden_layer_sizes": (6, 4),
    "max_iter": EPOCHS,
    "random_state": 3,
    "batch_size": 16,
}
FULL: dict[str, Any] = {"normalization": "batch", "dropout": 0.2, "residual": True}

# how an estimator is made, its targets, and how it is fitted
CASES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "adam": (lambda **more: MLPClassifier(**FAST, **more), LABELS, {}),
    "everything": (
        lambda **more: MLPClassifier(**FAST, **FULL, class_weight="balanced", **more),
        LABELS,
        {"validation_data": HELD},
    ),
    "sgd, falling": (
        lambda **more: MLPRegressor(**FAST, solver="sgd", learning_rate="invscaling", **more),
        VALUES,
        {},
    ),
    "sgd, adapting": (
        lambda **more: MLPRegressor(
            **FAST,
            **{"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.05},
            **more,
        ),
        VALUES,
        {"sample_weight": np.linspace(0.5, 2, 60)},
    ),
    "stopping": (
        lambda **more: MLPClassifier(**FAST, **FULL, early_stopping=True, **more),
        LABELS,
        {},
    ),
    "stopped": (
        lambda **more: MLPClassifier(**FAST, early_stopping=True, n_iter_no_change=3, **more),
        LABELS,
        {},
    ),
    "a schedule": (
        lambda **more: MLPRegressor(**FAST, learning_rate="one_cycle", **more),
        VALUES,
        {},
    ),
    "a plateau": (
        lambda **more: MLPRegressor(
            **FAST, learning_rate=ReduceOnPlateau(patience=0, threshold=0.1), **more
        ),
        VALUES,
        {},
    ),
    "in order": (lambda **more: MLPRegressor(**FAST, shuffle=False, **more), VALUES, {}),
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def fitted(case: str, folder: Path | None = None, rows: Any = X, **more: Any) -> Any:
    make, targets, options = CASES[case]
    kept: dict[str, Any] = {} if folder is None else {"checkpoint": folder, "every": 0}
    return make(**more).fit(rows, targets, **options, **kept)


def killed(case: str, folder: Path, rows: Any = X, after: int = KILLED) -> None:
    def kill(_: Any, epoch: Any) -> None:
        if epoch.epoch == after:
            raise Killed

    with pytest.raises(Killed):
        fitted(case, folder, rows, callbacks=[kill])


def fitted_attributes(est: Any) -> dict[str, Any]:
    found = {k: v for k, v in vars(est).items() if k.endswith("_") and not k.startswith("__")}
    for name in ("coefs_", "intercepts_"):
        found[name] = [np.asarray(array) for array in found[name]]
    found["_random_state"] = est._random_state.get_state()
    found["_no_improvement_count"] = est._no_improvement_count
    found["moments"] = [np.asarray(moment) for moment in est._optimizer.moments]
    found["rest"] = [est._optimizer.step, est._optimizer.learning_rate, est._optimizer.began]
    found["best"] = getattr(est, "_best", None)
    return found


def assert_same(est: Any, other: Any) -> None:
    np.testing.assert_equal(fitted_attributes(est), fitted_attributes(other))


@pytest.mark.parametrize("case", CASES)
def test_an_estimator_goes_on_to_the_bit(case: str, tmp_path: Path) -> None:
    straight = fitted(case)
    killed(case, tmp_path, after=min(KILLED, straight.n_iter_))
    assert names(tmp_path)
    assert_same(fitted(case, tmp_path), straight)
    assert_same(fitted(case, tmp_path), straight)  # which was over


def test_checkpoints_change_nothing_of_a_fit(tmp_path: Path) -> None:
    for case in CASES:
        assert_same(fitted(case, tmp_path / case), fitted(case))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["sparse", "torch", "float32"])
def test_rows_of_other_kinds_go_on(
    kind: str, dtype: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rows: Any = X.astype(dtype)
    case = "stopping"
    if kind == "sparse":
        rows = csr_matrix(rows * (rows > 0))
    elif kind == "torch":
        rows = need(request, "torch").from_numpy(rows)
        case = "a plateau"
    make, targets, options = CASES[case]
    if kind == "torch":
        targets = need(request, "torch").from_numpy(targets)

    def fit(folder: Path | None, **more: Any) -> Any:
        return make(**more).fit(rows, targets, **options, checkpoint=folder, every=0)

    straight = fit(None)
    with pytest.raises(Killed):
        fit(tmp_path, callbacks=lambda _, epoch: kill(epoch))
    assert_same(fit(tmp_path), straight)


def kill(epoch: Any) -> None:
    if epoch.epoch == KILLED:
        raise Killed


def test_the_clock_of_callbacks_goes_on(tmp_path: Path) -> None:
    seen = list[float]()

    def note(_: Any, epoch: Any) -> None:
        seen.append(epoch.seconds)
        if len(seen) == KILLED:
            raise Killed

    with pytest.raises(Killed):
        fitted("adam", tmp_path, callbacks=note)
    fitted("adam", tmp_path, callbacks=note)
    del seen[KILLED - 1]  # whose epoch was not kept
    assert seen == sorted(seen)
    assert len(seen) == EPOCHS


def test_a_warm_start_goes_on(tmp_path: Path) -> None:
    def warm() -> Any:
        return MLPClassifier(**FAST, dropout=0.1, warm_start="optimizer").fit(X, LABELS)

    straight = warm().fit(X, LABELS)
    est = warm()
    est.callbacks = lambda _, epoch: kill(epoch._replace(epoch=epoch.epoch - EPOCHS))
    with pytest.raises(Killed):
        est.fit(X, LABELS, checkpoint=tmp_path, every=0)
    again = warm()
    again.fit(X, LABELS, checkpoint=tmp_path, every=0)
    assert_same(again, straight)
    with pytest.raises(CheckpointError, match=r"the beginning's t_ was 720, but is 0 now"):
        MLPClassifier(**FAST, dropout=0.1, warm_start="optimizer").fit(
            X, LABELS, checkpoint=tmp_path
        )


def test_more_iterations_go_on_and_fewer_are_refused(tmp_path: Path) -> None:
    fitted("adam", tmp_path)
    make, targets, _ = CASES["adam"]
    straight = make().set_params(max_iter=20).fit(X, targets)
    longer = make().set_params(max_iter=20).fit(X, targets, checkpoint=tmp_path)
    assert_same(longer, straight)
    with pytest.raises(CheckpointError, match="is 20 epochs on, but max_iter is 5"):
        make().set_params(max_iter=5).fit(X, targets, checkpoint=tmp_path)


def test_another_estimator_is_refused_by_name(tmp_path: Path) -> None:
    fitted("adam", tmp_path)
    make, targets, _ = CASES["adam"]
    others: list[tuple[dict[str, Any], str]] = [
        ({"alpha": 1.0}, "alpha was 0.0001, but is 1.0 now"),
        ({"random_state": 4}, "random_state was 3, but is 4 now; the state it begins from was"),
        ({"batch_size": 20}, "batch_size was 16, but is 20 now"),
        ({"early_stopping": True}, r"early_stopping was False.*; the examples was 60.*is 54 with"),
    ]
    for parameters, message in others:
        with pytest.raises(CheckpointError, match=message):
            make().set_params(**parameters).fit(X, targets, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="the examples was"):
        make().fit(X, np.roll(targets, 1), checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="the estimator was MLPClassifier, but is MLPReg"):
        MLPRegressor(**FAST).fit(X, VALUES, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="another training: "):
        MLP((5, 3)).fit(X.T, LABELS == "no", checkpoint=tmp_path)
    verbose = make().set_params(progress=True, callbacks=[lambda *_: None])
    assert_same(verbose.fit(X, targets, checkpoint=tmp_path), fitted("adam"))


def test_a_checkpoint_is_an_estimator(tmp_path: Path) -> None:
    killed("stopping", tmp_path)
    est = MLPClassifier.load(tmp_path / "epoch-7.safetensors")
    expected = CASES["stopping"][0]().set_params(max_iter=7).fit(X, LABELS)
    np.testing.assert_array_equal(est._best[0], expected._best[0])
    assert est.loss_curve_ == expected.loss_curve_
    assert set(est.predict(X)) <= set(LABELS)


def test_what_cannot_go_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"solver='lbfgs' keeps .*expected a stochastic solver"):
        MLPRegressor(solver="lbfgs").fit(X, VALUES, checkpoint=tmp_path)
    for random_state in (None, np.random.RandomState(0)):
        for est in (
            MLPClassifier(random_state=random_state),
            NeuralClassifier(random_state=random_state),
        ):
            with pytest.raises(ValueError, match=r"random_state is .*expected a whole number"):
                est.fit(X, LABELS, checkpoint=tmp_path)
    own = (lambda xp, Z: Z, lambda xp, Z: xp.ones_like(Z))
    with pytest.raises(ValueError, match=r"activation is .* which a file cannot hold"):
        MLPClassifier(activation=own, random_state=0).fit(X, LABELS, checkpoint=tmp_path)
    assert not names(tmp_path)


def test_layers_of_an_estimator_go_on(tmp_path: Path) -> None:
    def neural(**more: Any) -> Any:
        return NeuralClassifier(
            "dense:8,batchnorm,dropout:0.2,dense:6",
            epochs=EPOCHS,
            batch_size=16,
            early_stopping=9,
            random_state=2,
            **more,
        )

    straight = neural().fit(X, LABELS)
    stop = neural(callbacks=lambda _, epoch: kill(epoch))
    with pytest.raises(Killed):
        stop.fit(X, LABELS, checkpoint=tmp_path, every=0)
    again = neural().fit(X, LABELS, checkpoint=tmp_path, every=0)
    assert again.history_["loss"] == straight.history_["loss"]
    np.testing.assert_array_equal(again.predict_proba(X), straight.predict_proba(X))


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_a_checkpoint_of_the_last_whole_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "stepper", lambda *given: None)  # a traced one calls no formula
    asked = list[int]()

    def f(xp: Any, Z: Any) -> Any:
        asked.append(1)
        if len(asked) == 50:
            signal.raise_signal(signal.SIGINT)
        return xp.tanh(Z)

    monkeypatch.setitem(ACTIVATIONS, "pressing", Activation(f, lambda xp, A: 1 - A * A))
    make, targets, _ = CASES["adam"]
    straight = make(activation=ACTIVATIONS["pressing"])
    asked += [1] * 100
    straight.fit(X, targets)
    asked.clear()
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        make(activation=ACTIVATIONS["pressing"]).fit(X, targets, checkpoint=tmp_path)
    (name,) = names(tmp_path)
    assert name not in ("epoch-0.safetensors", f"epoch-{EPOCHS}.safetensors")
    again = make(activation=ACTIVATIONS["pressing"])
    assert_same(again.fit(X, targets, checkpoint=tmp_path), straight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["stopping", "a plateau"])
def test_a_header_that_was_changed_is_refused_or_works(
    case: str, sample: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", "0")
    killed(case, tmp_path / "whole")
    header, tensors = read(tmp_path / "whole" / "epoch-7.safetensors")
    path = tmp_path / "changed" / "epoch-7.safetensors"
    path.parent.mkdir()

    def use() -> None:
        try:
            fitted(case, path.parent)
        except CheckpointError as error:
            raise ModelFileError(str(error)[:500]) from None

    wrong = dict[str, str]()
    counts = {"works": 0, "refused": 0}
    mutated = chosen(list(mutants(header)), sample, TRAINED)
    cases = [("nothing", "config", header["config"]), *mutated]
    for name, part, text in cases:
        for other in path.parent.iterdir():
            other.unlink()
        write(path, {**header, part: text}, tensors)
        found = outcome(use)
        if found in counts:
            counts[found] += 1
        else:
            wrong[name] = found
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert min(counts.values()) > 0


def test_a_classifier_killed_at_random_moments_ends_the_same(seed: int) -> None:
    pytest.importorskip("kills").campaign("classifier", 1, seed)
