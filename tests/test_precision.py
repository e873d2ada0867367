"""Products of operands rounded to tf32 or bfloat16, from the rounding to the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Backend, tolerance
from mlp_xp import ACTIVATIONS, MLP, MLPClassifier, MLPRegressor, check_gradients
from mlp_xp.cli import main
from mlp_xp.compile import predict as compiled_predict
from mlp_xp.compile import step as compiled
from mlp_xp.data import load
from mlp_xp.devices import device as find_device
from mlp_xp.kernels import PRECISIONS, SPEC, at_precision
from mlp_xp.network import split
from mlp_xp.training import Data, batch, gradient, stepper

ROUNDED = [name for name, digits in PRECISIONS.items() if digits < 24]
Values = np.ndarray[Any, Any]


def by_bits(x: Any, precision: str) -> Values:
    """float32 to nearest, ties to even, by integer arithmetic on its bits."""
    dropped = np.uint64(24 - PRECISIONS[precision])
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    one, half = np.uint64(1), np.uint64(2) ** (dropped - np.uint64(1))
    bits = (bits + half - one + (bits >> dropped & one)) >> dropped << dropped
    found = bits.astype(np.uint32).view(np.float32)
    return np.where(np.isnan(x), x, found)


def every_kind_of_number(precision: str) -> Values:
    """Each exponent and sign with mantissas at, below and above ties; what is no number, too."""
    half = 2 ** (23 - PRECISIONS[precision])
    random = np.random.default_rng(0)
    halves = half * np.concatenate([np.arange(6), 2**23 // half - 1 - np.arange(6)])
    mantissas = (halves[:, None] + [-1, 0, 1]).reshape(-1) % 2**23
    mantissas = np.concatenate([mantissas, random.integers(0, 2**23, 28)])
    bits = np.arange(512, dtype=np.uint32)[:, None] << 23 | mantissas.astype(np.uint32)
    return bits.reshape(-1).view(np.float32)


def test_the_numbers_of_the_test_are_of_every_kind() -> None:
    for precision in ROUNDED:
        x = every_kind_of_number(precision)
        kept = by_bits(x, precision)
        assert np.isnan(x).any()
        assert np.isinf(x).sum() == 2
        assert (x == 0).sum() >= 2
        assert ((x != 0) & (np.abs(x) < 2.0**-126)).any()
        assert np.isinf(kept).sum() > 2  # the largest round up beyond themselves
        with np.errstate(all="ignore"):
            off = np.abs(kept - x) / np.spacing(np.abs(x)) * 2.0 ** (PRECISIONS[precision] - 24)
        assert (off == 0.5).sum() > 1000  # ties


@pytest.mark.parametrize("precision", ROUNDED)
def test_rounding_equals_that_of_the_bits(backend: Backend, precision: str) -> None:
    x, digits = every_kind_of_number(precision), PRECISIONS[precision]
    for rounded in (SPEC.rounded, backend.device.kernels.rounded):
        with np.errstate(over="ignore"):  # beyond the largest number of the format
            found = backend.get(rounded(backend.xp, backend.asarray(x), digits))
        assert found.dtype == np.float32
        # CuPy has GPUs take what is smaller than the least normal number for 0
        kept = np.abs(x) >= (2.0**-126 if on_a_card(backend.name) else 0)
        kept |= np.isnan(x)
        np.testing.assert_array_equal(found[kept], by_bits(x, precision)[kept])


def test_rounding_takes_float64_by_way_of_float32() -> None:
    x = np.array([1 + 2.0**-8 + 2.0**-40, -3.5e38, 0.1])
    with np.errstate(over="ignore"):
        found = SPEC.rounded(np, x, 8)
        expected = by_bits(x.astype(np.float32), "bfloat16")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


# -- products ------------------------------------------------------------------


def assert_product(
    found: Values, left: Values, right: Values, precision: str, within: float = 1e-6
) -> None:
    """`found` is the product of the rounded operands, and not that of the others."""
    scale = np.abs(left).astype(float) @ np.abs(right)
    rounded = by_bits(left, precision).astype(float) @ by_bits(right, precision)
    assert np.max(np.abs(found - rounded) / scale) < within
    assert np.max(np.abs(found - left.astype(float) @ right) / scale) > 2e-5


@pytest.mark.parametrize("precision", ROUNDED)
def test_every_product_is_of_rounded_operands(
    backend: Backend, precision: str, random: np.random.Generator
) -> None:
    kernels, xp = at_precision(backend.device.kernels, precision), backend.xp
    W, A, dS = (random.normal(size=s).astype(np.float32) for s in ((5, 9), (9, 7), (5, 7)))
    b = np.zeros((5, 1), np.float32)
    w, a, ds = map(backend.asarray, (W, A, dS))
    get = backend.get
    assert_product(get(kernels.product(xp, w, a)), W, A, precision)
    Z, _ = kernels.layer(xp, w, a, backend.asarray(b), ACTIVATIONS["gelu"])
    assert_product(get(Z), W, A, precision)
    assert_product(get(kernels.input_gradient(xp, w, ds)), W.T, dS, precision)
    assert_product(get(kernels.weight_gradient(xp, ds, a)), dS, A.T, precision)


def test_float32_leaves_a_kernel_set_as_it_is() -> None:
    assert at_precision(SPEC, "float32") is SPEC


def problem(device: Any = "cpu", **settings: Any) -> tuple[MLP, Data]:
    """A network with every kind of product, and 23 examples."""
    random = np.random.default_rng(3)
    given = {"activation": "tanh", "residual": True, "optimizer": "sgd", "learning_rate": 0.1}
    model = MLP((6, 9, 9, 7, 3), device=device, **{**given, "seed": 2, **settings})
    rows = random.normal(size=(23, 6)).astype(np.float32)
    put = model.device.put
    return model, Data(put(rows), put(random.integers(0, 3, 23)))


@pytest.mark.parametrize("precision", ROUNDED)
def test_gradients_are_of_rounded_operands(precision: str) -> None:
    model, data = problem(precision=precision)
    X, T, _ = batch(model._recipe, np, data, np.arange(23))
    found = gradient(model._recipe, np, model._run.state.theta, X, T)
    layers = split(model.network, np, model._run.state.theta)
    for layer, memory, delta, g in zip(
        layers, found.memories, found.deltas, found.layers, strict=True
    ):
        assert_product(memory.Z - layer.b, layer.W, memory.A_in, precision)
        assert_product(g.W, delta, memory.A_in.T, precision)
        np.testing.assert_allclose(g.b[:, 0], delta.sum(axis=-1), rtol=1e-5, atol=1e-6)
    for layer, memory in zip(layers, found.memories, strict=True):
        if layer.P is not None:
            assert_product(memory.A - memory.H, layer.P, memory.A_in, precision)
    last, slope = layers[-1], 1 - found.memories[-2].H ** 2
    dA = found.deltas[-2] / slope  # what was multiplied by it, to three roundings
    assert_product(dA, last.W.T, found.deltas[-1], precision, within=4e-6)


def steps(model: MLP, data: Data, n: int) -> dict[str, Values]:
    """The parameters after n steps on batches of 11 and 12."""
    device = model.device
    step, state = stepper(model._recipe, device, data), model._run.state
    with device.active():
        for number in range(n):
            index = np.arange(23)[11 * (number % 2) : 11 + 12 * (number % 2)]
            state = step(state, device.put(index), None, 0.1)
    model._run.state = state
    return {name: device.get(value) for name, value in model.parameters.items()}


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_steps_on_every_backend_equal_the_specification(
    backend: Backend, precision: str, normalization: str
) -> None:
    settings: dict[str, Any] = {"precision": precision, "normalization": normalization}
    model, data = problem("cpu", **settings)
    model.device = model.device._replace(stepper=None)
    expected = steps(model, data, 4)
    found = steps(*problem(backend.device, **settings), 4)
    plain = steps(*problem("cpu", **{**settings, "precision": "float32"}), 4)
    close = tolerance("float32", 64)
    if on_a_card(backend.name):  # which may round tf32 otherwise, or the sum before otherwise
        close = {"rtol": 0.0, "atol": 1e-3}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **close)
    far = max(float(np.max(np.abs(plain[name] - value))) for name, value in found.items())
    assert far > 2e-5  # nor is it the step in float32


def on_a_card(name: str) -> bool:
    """Whether products are a GPU's own, not those of CuPy on the CPU."""
    if name != "cupy":
        return False
    import cupy

    return not str(cupy.__version__).endswith("+cpu")


@pytest.mark.parametrize("precision", ROUNDED)
def test_the_fast_paths_of_the_cpu_leave_rounding_to_the_specification(precision: str) -> None:
    """Equal to the bit, because it is the specification that computes."""
    model, data = problem(precision=precision)
    assert compiled.stepper(model._recipe, model.device, data) is None
    plain = MLP((6, 9, 3), precision=precision, seed=0)
    layers = split(plain.network, np, plain._run.state.theta)
    assert compiled_predict.predictor(plain._recipe, layers, 4) is None
    assert compiled_predict.predictor(plain._recipe, layers) is None
    X, y = np.ascontiguousarray(data.rows.T), data.targets
    device = find_device("cpu")._replace(stepper=None, predictor=None)
    models = [
        MLP((6, 9, 3), precision=precision, dropout=0.2, seed=0, device=where).fit(
            X, y, epochs=3, batch_size=5, progress=False
        )
        for where in ("cpu", device)
    ]
    first, second = models
    np.testing.assert_array_equal(first._run.state.theta, second._run.state.theta)
    np.testing.assert_array_equal(first.predictor(23)(X), second.predictor(23)(X))
    np.testing.assert_array_equal(first.predictor(23)(X), first.predict_proba(X))


@pytest.mark.parametrize("precision", ROUNDED)
def test_many_networks_at_once_round_as_each_alone(precision: str) -> None:
    X, y = np.random.default_rng(1).normal(size=(6, 30)), np.arange(30) % 3
    options: dict[str, Any] = {"precision": precision, "dropout": 0.2}
    together = MLP((6, 8, 3), seed=[4, 5], **options).fit(X, y, epochs=2, progress=False)
    for k, seed in enumerate((4, 5)):
        alone = MLP((6, 8, 3), seed=seed, **options).fit(X, y, epochs=2, progress=False)
        for name, value in alone.parameters.items():
            np.testing.assert_allclose(together.parameters[name][k], value, **tolerance("f4", 64))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_digits_are_learnt_at_every_precision(precision: str) -> None:
    data = load("digits")
    order = np.random.default_rng(0).permutation(1797)
    assert data.y is not None
    X, y = data.X[order].T / 16, data.y[order]
    model = MLP((64, 64, 10), precision=precision, normalization="batch", learning_rate=0.01)
    model.fit(X[:, :1400], y[:1400], epochs=12, schedule="one_cycle", progress=False)
    assert model.evaluate(X[:, 1400:], y[1400:]).score >= 0.96


def test_gradients_are_checked_in_float64_whatever_the_precision() -> None:
    model, data = problem(precision="bfloat16")
    assert check_gradients(model, data.rows.T, data.targets).passed


# -- the model, files ----------------------------------------------------------


def test_a_model_keeps_its_precision(tmp_path: Path) -> None:
    model, data = problem(precision="bfloat16")
    assert model.config["precision"] == "bfloat16"
    assert repr(model).endswith("parameters, float32, bfloat16 products>")
    assert "products" not in repr(MLP((2, 2)))
    X = data.rows.T
    model.fit(X, data.targets, epochs=1, progress=False)
    model.save(tmp_path / "model")
    again = MLP.load(tmp_path / "model")
    assert again.precision == "bfloat16"
    for one in (model, again):
        one.fit(X, data.targets, epochs=1, progress=False)
    np.testing.assert_array_equal(model._run.state.theta, again._run.state.theta)


def test_a_file_from_before_there_was_a_precision_is_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MLP((2, 3))
    del model.config["precision"]
    model.save(tmp_path / "model")
    assert MLP.load(tmp_path / "model").precision == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "precision is 'bf16', but expected one of 'float32', 'tf32'"),
        (
            {"precision": "tf32", "dtype": "float64"},
            "precision is 'tf32', which rounds operands of float32 products, but the dtype is "
            "float64: expected dtype='float32'",
        ),
    ],
)
def test_what_is_no_precision_is_an_error(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP((2, 3), **options)


# -- estimators ----------------------------------------------------------------


def rows_and_labels() -> tuple[Values, Values]:
    random = np.random.default_rng(0)
    X = random.normal(size=(120, 5)).astype(np.float32)
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


@pytest.mark.parametrize("precision", ROUNDED)
def test_an_estimator_trains_and_predicts_at_its_precision(precision: str, tmp_path: Path) -> None:
    from sklearn.base import clone

    X, y = rows_and_labels()
    options = {"random_state": 0, "max_iter": 5, "tol": 0.0, "n_iter_no_change": np.inf}
    est, plain = (
        MLPClassifier((16,), precision=precision, **options),
        MLPClassifier((16,), **options),
    )
    for one in (est, plain):
        with pytest.warns(Warning, match="converged"):
            one.fit(X, y)
    assert est.get_params()["precision"] == precision
    assert clone(est).precision == precision
    assert f"precision='{precision}'" in repr(est)
    assert not np.array_equal(est.coefs_[0], plain.coefs_[0])
    np.testing.assert_allclose(est.coefs_[0], plain.coefs_[0], atol=0.01)
    est.save(tmp_path / "model")
    again = MLPClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(est.predict_proba(X), again.predict_proba(X))
    W, b = est.coefs_, est.intercepts_
    A = np.maximum(by_bits(X, precision) @ by_bits(W[0], precision) + b[0], 0)
    S = by_bits(A, precision) @ by_bits(W[1], precision) + b[1]
    found = est.predict_proba(X)[:, 1]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-S[:, 0])), rtol=1e-5)
    wide = est.predict_proba(X.astype(np.float64))
    np.testing.assert_allclose(wide[:, 1], found, rtol=1e-6)
    with pytest.warns(UserWarning, match=f"does not round to {precision}"):
        est.to_sklearn()


def test_a_regressor_takes_a_precision() -> None:
    X, _ = rows_and_labels()
    est = MLPRegressor(hidden_layer_sizes=(), precision="bfloat16", random_state=0, max_iter=3)
    with pytest.warns(Warning, match="converged"):
        est.fit(X, X[:, 0])
    expected = by_bits(X, "bfloat16") @ by_bits(est.coefs_[0], "bfloat16") + est.intercepts_[0]
    np.testing.assert_allclose(est.predict(X), expected[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "wide", "message"),
    [
        ({"precision": "half"}, False, "'precision' parameter of MLPClassifier must be"),
        ({"precision": "tf32"}, True, "expected dtype='float32' with it"),
        ({"precision": "tf32", "solver": "lbfgs"}, False, "solver='lbfgs' computes in float64"),
    ],
)
def test_an_estimator_refuses_what_cannot_be_rounded(
    options: dict[str, Any], wide: bool, message: str
) -> None:
    X, y = rows_and_labels()
    with pytest.raises(ValueError, match=message):
        MLPClassifier((4,), **options).fit(X.astype(np.float64) if wide else X, y)


def test_float64_rows_may_be_trained_on_in_float32() -> None:
    X, y = rows_and_labels()
    est = MLPClassifier((4,), precision="tf32", dtype="float32", max_iter=2, random_state=0)
    with pytest.warns(Warning, match="converged"):
        est.fit(X.astype(np.float64), y)
    assert est.coefs_[0].dtype == np.float32


# -- the command line ----------------------------------------------------------


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A command line in a folder of its own: exit code, output, messages."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return command


def test_the_command_trains_at_a_precision_and_keeps_it(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    short = ("--epochs", 1, "--hidden", 8, "--no-progress")
    assert run("train", "--precision", "bfloat16", *short)[0] == 0
    assert MLP.load("model.safetensors").precision == "bfloat16"
    code, _, messages = run("train", "--resume", "model.safetensors", "--precision", "tf32")
    assert code == 2
    assert "--precision belongs to the model" in messages
    code, _, messages = run("train", "--precision", "tf32", "--dtype", "float64", *short)
    assert code == 2
    assert "expected dtype='float32' with it" in messages
    code, _, messages = run("train", "--precision", "bf16", *short)
    assert code == 2
    assert "'bfloat16'" in messages
    code, output, _ = run("evaluate", "model.safetensors", "digits", "--json")
    assert code == 0
    assert json.loads(output)
