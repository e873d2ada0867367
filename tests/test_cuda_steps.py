"""The CUDA step against the specification's on NumPy: every part of a network, sampled."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
import test_fast_paths as paths

from mlp_xp import ACTIVATIONS, LOSSES, MLP, OPTIMIZERS, Activation, Loss, Sequential
from mlp_xp.draws import dropout_bits
from mlp_xp.layers import Dense
from mlp_xp.optimizers import Momentum
from mlp_xp.schedules import ReduceOnPlateau
from mlp_xp.training import Data, Step
from mlp_xp.types import State

SAMPLES = range(75)


def on_cuda(settings: dict[str, Any]) -> tuple[MLP, Data, State]:
    """`test_fast_paths.build` on the CUDA device: the same numbers."""
    _, data, state = paths.build(settings)
    model = paths.build({**settings, "device": "cuda"})[0]
    put = model.device.put
    moved = Data(
        put(data.rows), put(data.targets), None if data.weights is None else put(data.weights)
    )
    moments = tuple(put(moment) for moment in state.moments)
    return model, moved, State(put(state.theta), moments, put(state.running), state.step)


def fetched(model: MLP, state: State) -> State:
    get = model.device.get
    moments = tuple(map(get, state.moments))
    return State(get(state.theta), moments, get(state.running), state.step, get(state.loss))


def walk(model: MLP, data: Data, state: State, step: Step) -> list[State]:
    """`test_fast_paths.walk` with arrays of the device."""
    put, result = model.device.put, []
    for part, bits, rate in paths.batches(model):
        rate = put(rate) if isinstance(rate, np.ndarray) else rate
        state = step(state, put(part), None if bits is None else put(bits), rate)
        result.append(fetched(model, state))
    return result


def compare(settings: dict[str, Any]) -> None:
    """A walk on CUDA equals the specification's on NumPy."""
    from mlp_xp.fast.cupy import CupyStep

    expected = paths.specified(*paths.build(settings))
    model, data, state = on_cuda(settings)
    before = model.device.get(state.theta)
    with model.device.active():
        found = walk(model, data, state, CupyStep(model._recipe, model.device, data))
    np.testing.assert_array_equal(model.device.get(state.theta), before)  # copied, not taken
    paths.assert_equal_paths(found, expected, settings)


@pytest.mark.parametrize("number", SAMPLES)
def test_a_cuda_step_equals_the_specification(cupy: Any, number: int) -> None:
    compare(paths.sample(number))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All products are so large that they are cuBLAS's."""
    from mlp_xp.fast import choice

    monkeypatch.setattr(choice, "SMALL", 0.0)


@pytest.mark.parametrize("number", list(SAMPLES)[::2])
def test_a_step_of_large_products_equals_the_specification(
    cupy: Any, large: None, number: int
) -> None:
    compare(paths.sample(number))


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("sizes", "m"), [((64, 40, 10), 48), ((33, 20, 32), 37), ((20, 70, 1), 20)], ids=str
)
def test_a_step_in_tiles_of_any_size_equals_the_specification(
    cupy: Any,
    number: int,
    dtype: str,
    sizes: tuple[int, ...],
    m: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than one tile each way, pieces that end early, and lines 16 bytes apart or not."""
    from mlp_xp.fast import choice, cuda_source
    from mlp_xp.training import stepper

    tile = cuda_source.TILES[number]

    def chosen(shapes: Any, networks: int, dtype: str, all_rows: bool = False) -> Any:
        fits = not all_rows or shapes[0][0] <= tile.rows <= cuda_source.WIDEST
        return tile if fits else cuda_source.TILES[3]

    monkeypatch.setattr(choice, "tile", chosen)
    random = np.random.default_rng(0)
    loss = "binary_cross_entropy" if sizes[-1] == 1 else "cross_entropy"
    rows, labels = random.normal(size=(200, sizes[0])).astype(dtype), random.integers(0, 2, 200)
    targets = labels[:, None].astype(dtype) if sizes[-1] == 1 else labels
    found = []
    for name in ("cpu", "cuda"):
        model = MLP(sizes, device=name, loss=loss, dtype=dtype, optimizer="momentum")
        data = Data(model.device.put(rows), model.device.put(targets))
        device = model.device if name == "cuda" else model.device._replace(stepper=None)
        step, state = stepper(model._recipe, device, data), model._run.state
        for start in (0, m, 2 * m):
            state = step(state, model.device.put(np.arange(start, start + m)), None, 0.1)
        found.append(fetched(model, state))
    paths.assert_equal_paths(found[1:], found[:1], {"dtype": dtype, "optimizer": "momentum"})


def test_the_sample_holds_every_value_of_every_choice() -> None:
    rows = [paths.sample(number) for number in SAMPLES]
    for name, values in paths.CHOICES.items():
        for value in values:
            assert any(row[name] == value for row in rows), (name, value)


def plain(**changes: Any) -> dict[str, Any]:
    return paths.plain(**{"activation": "relu", **changes})


# everything in the text of some kernel at once
FULL: dict[str, Any] = {
    "dropout": 0.3,
    "residual": True,
    "density": 0.5,
    "weight_decay": 0.1,
    "l2": 0.1,
    "l2_shared": True,
    "clip_norm": 0.5,
    "clip_value": 0.1,
    "label_smoothing": 0.2,
    "weighted": True,
}
RULE = ("normalization", ["none", "batch", "layer"])


def own_formulas(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Rows added to the tables: an activation, a loss and an optimiser seen nowhere else."""

    class Sluggish(Momentum):
        """Momentum of the gradient's cube root of its square, whatever that may be good for."""

        n_moments: ClassVar[int] = 1

        def update(self, xp: Any, theta: Any, g: Any, moments: Any, *scalars: Any) -> Any:
            (v,) = moments
            v = self.momentum * v + xp.where(xp.abs(g) > 0.01, g, 0.5 * g)
            return theta - scalars[0] * xp.tanh(v), (v,)

    log_cosh = Loss(
        lambda xp, S, T: xp.sum(xp.log(xp.exp(S - T) + xp.exp(T - S)), axis=-2),
        lambda xp, S, T: xp.tanh(S - T),
        lambda xp, S: S,
        "real",
    )
    squash = Activation(
        lambda xp, Z: Z / (1 + xp.abs(Z)), lambda xp, A: (1 - xp.abs(A)) ** 2, slope_of="A"
    )
    monkeypatch.setitem(ACTIVATIONS, "squash", squash)
    monkeypatch.setitem(LOSSES, "log_cosh", log_cosh)
    monkeypatch.setitem(OPTIMIZERS, "sluggish", Sluggish)
    monkeypatch.setitem(paths.LOSSES, "log_cosh", log_cosh)
    return {"activation": "squash", "loss": "log_cosh", "optimizer": "sluggish"}


@pytest.mark.parametrize("normalization", RULE[1])
def test_formulas_added_to_the_tables_run_on_the_device(
    cupy: Any, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning would say that one of them was left to the specification."""
    own, full = own_formulas(monkeypatch), {**FULL, "label_smoothing": 0.0}
    monkeypatch.setattr(paths, "targets", lambda loss, rng, n, m: rng.normal(size=(n, m)))
    compare(plain(**{**full, **own, "normalization": normalization}))


BREAKS = [  # function of cuda_source, its text, a wrong one, whether products are large
    ("gather", "* n + i0 + x]", "* n + i0]", True),
    ("draw_bits", "k1 = 3", "k1 = 2", False),
    ("layer_forward", "+ b[", "- b[", False),
    ("layer_forward", "+ bias;", "- bias;", True),
    ("layer_backward", "const T d = ", "const T d = 2 * ", True),
    ("layer_backward", "sum += d;", "sum -= d;", True),
    ("score", "found = share * v", "found = 2 * share * v", False),
    ("score", "found = share * v", "found = 2 * share * v", True),
    ("totals", "sum += row[j];", "sum += row[0];", True),
    ("gradients", "all_g[k * size + i] = value;", "all_g[k * size + i] = 2 * value;", False),
    ("update", "all_theta[k * size + i] = ", "all_theta[k * size + i] = (T)0.99 * ", False),
    ("close", "table[(row * networks + k)", "table[(0 * networks + k)", False),
    ("regularise", "v += penalty", "v -= penalty", False),
]


@pytest.mark.parametrize(("name", "right", "wrong", "products"), BREAKS)
def test_a_kernel_broken_on_purpose_is_caught(
    cupy: Any,
    name: str,
    right: str,
    wrong: str,
    products: bool,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    from mlp_xp.fast import cuda_source
    from mlp_xp.fast.launches import Bits

    if products:
        request.getfixturevalue("large")
    original = getattr(cuda_source, name)

    def broken(*arguments: Any) -> Any:
        source = original(*arguments)
        assert right in source.code
        return source._replace(code=source.code.replace(right, wrong))

    monkeypatch.setattr(cuda_source, name, broken)
    if name == "draw_bits":
        found = Bits((3,), (), 5, 100)[...].get()
        assert not np.array_equal(found, dropout_bits(3, 5, 100))
        return
    settings = plain(l2=0.1, loss="cross_entropy")
    if name == "close":  # at rates that change
        model, data, state = on_cuda(settings)
        losses = []
        for function in (broken, original):
            monkeypatch.setattr(cuda_source, name, function)
            losses.append(announced(model, data, state))
        assert not np.allclose(*losses, rtol=1e-4)
        return
    with pytest.raises(AssertionError, match="Mismatch"):
        compare(settings)


FUSED_BREAKS = [  # in the kernels that take in what comes after their product
    ("layer_backward", "const T d = ", "const T d = 2 * ", (4, 5, 6, 3)),
    ("score", "const T d = ", "const T d = 2 * ", (4, 5, 3)),
    ("gradients", "g = value", "g = 2 * value", (4, 5, 3)),
    ("gradients", "(inbox->row * networks", "(0 * networks", (4, 5, 3)),
    ("gradients", "sum += values[j];", "sum += values[0];", (4, 5, 3)),
    ("multiply", "= value;", "= 2 * value;", (4, 3)),
]


@pytest.mark.parametrize(("name", "right", "wrong", "sizes"), FUSED_BREAKS)
def test_a_kernel_that_takes_in_more_is_caught_when_it_is_broken(
    cupy: Any,
    name: str,
    right: str,
    wrong: str,
    sizes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlp_xp.fast import cuda_source
    from mlp_xp.fast.cupy import CupyStep

    original = getattr(cuda_source, name)

    def broken(*arguments: Any) -> Any:
        source = original(*arguments)
        assert right in source.code
        return source._replace(code=source.code.replace(right, wrong))

    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(23, 4)).astype("f4"), random.integers(0, 3, 23)
    found = []
    for function in (original, broken):
        monkeypatch.setattr(cuda_source, name, function)
        model = MLP(sizes, device="cuda", optimizer="momentum")
        data = Data(model.device.put(rows), model.device.put(labels))
        step = CupyStep(model._recipe, model.device, data)
        theta = announced(model, data, model._run.state, step)
        found.append(np.append(theta, step.losses.get()))
    assert not np.allclose(*found, rtol=1e-3)


def announced(model: MLP, data: Data, state: State, step: Any = None) -> Any:
    """The weights after an epoch of three steps announced at once."""
    from mlp_xp.fast.cupy import CupyStep

    step = step or CupyStep(model._recipe, model.device, data)
    index = model.device.put(np.arange(23))
    step.announce(state, index, [0.01, 0.1, 1.0])
    for number, rate in enumerate([0.01, 0.1, 1.0]):
        state = step(state, index[7 * number : 7 * number + 7], None, rate)
    return model.device.get(state.theta)


@pytest.mark.parametrize("normalization", RULE[1])
@pytest.mark.parametrize("name", ["layer_forward", "layer_backward", "score", "update"])
@pytest.mark.parametrize("seed", [3, [3, 4]])
def test_the_specification_takes_over_from_a_kernel_that_does_not_compile(
    cupy: Any, name: str, normalization: str, seed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp.fast import cuda_source
    from mlp_xp.fast.launches import KernelWarning

    original = getattr(cuda_source, name)

    def broken(*arguments: Any) -> Any:
        source = original(*arguments)
        return source._replace(code=source.code + "this is no C++")

    monkeypatch.setattr(cuda_source, name, broken)
    with pytest.warns(KernelWarning, match=f"the CUDA kernel {name} of .* cannot be used"):
        compare(plain(**FULL, normalization=normalization, seed=seed, dtype="float64"))


def test_a_formula_that_cannot_be_traced_is_computed_by_itself(cupy: Any) -> None:
    from mlp_xp.fast.launches import KernelWarning

    def running_sum(xp: Any, Z: Any) -> Any:
        return xp.cumulative_sum(Z, axis=-1)  # no such thing in a kernel

    odd = Activation(running_sum, lambda xp, A: xp.ones_like(A))
    with pytest.warns(KernelWarning, match=r"xp\.cumulative_sum, which has no kernel"):
        compare(plain(activation=odd))


@pytest.mark.parametrize("normalization", RULE[1])
@pytest.mark.parametrize("seed", [3, [3, 4]])
def test_batches_and_layers_of_many_blocks(cupy: Any, normalization: str, seed: Any) -> None:
    """More examples than a block has threads, more units than a column has, and one example."""
    from mlp_xp.training import stepper

    random = np.random.default_rng(0)
    settings = {k: v for k, v in FULL.items() if k not in ("weighted", "l2_shared")}
    settings |= {"normalization": normalization, "seed": seed, "dtype": "float64"}
    rows, weights = random.normal(size=(700, 33)), random.uniform(0, 2, 700)
    host = Data(rows, random.integers(0, 70, 700), weights)
    found = []
    for name in ("cpu", "cuda"):
        model = MLP((33, 100, 41, 70), device=name, activation="gelu", **settings)
        data = Data(*(model.device.put(array) for array in host))
        device = model.device if name == "cuda" else model.device._replace(stepper=None)
        step, state = stepper(model._recipe, device, data), model._run.state
        order = np.stack([np.random.default_rng(k).permutation(700) for k in (1, 2)])
        index = order if model.leading else order[0]
        for number, piece in enumerate([slice(0, 300), slice(300, 301), slice(301, 700)]):
            n = model.network.n_dropped * (piece.stop - piece.start)
            bits = np.stack([dropout_bits(seed, number, n) for seed in model.seeds])
            bits = bits if model.leading else bits[0]
            state = step(state, model.device.put(index[..., piece]), model.device.put(bits), 0.01)
        found.append(fetched(model, state))
    wide = {"dtype": "float64", "optimizer": "rmsprop"}  # so is Adam's m / √s where g ≈ 0
    paths.assert_equal_paths(found[1:], found[:1], wide)


def test_a_state_from_elsewhere_is_taken_over(cupy: Any) -> None:
    from mlp_xp.fast.cupy import CupyStep

    model, data, state = on_cuda(plain())
    step = CupyStep(model._recipe, model.device, data)
    first = walk(model, data, state, step)
    again = walk(model, data, state, step)  # back to the first state
    np.testing.assert_array_equal(first[-1].theta, again[-1].theta)
    np.testing.assert_array_equal(first[-1].moments[1], again[-1].moments[1])


def test_steps_announced_or_not_are_the_same(cupy: Any) -> None:
    from mlp_xp.fast.cupy import CupyStep

    model, data, state = on_cuda(plain(weight_decay=0.1))
    expected = announced(model, data, state)
    step, index = CupyStep(model._recipe, model.device, data), model.device.put(np.arange(23))
    for number, rate in enumerate([0.01, 0.1, 1.0]):
        state = step(state, index[7 * number : 7 * number + 7], None, rate)
    np.testing.assert_array_equal(model.device.get(state.theta), expected)


def test_other_data_can_take_the_place_of_a_steps_own(cupy: Any) -> None:
    from mlp_xp.fast.cupy import CupyStep

    model, data, state = on_cuda(plain())
    step = CupyStep(model._recipe, model.device, data)
    walk(model, data, state, step)
    other = data._replace(rows=data.rows + 1)
    step.data = other
    fresh = walk(model, other, state, CupyStep(model._recipe, model.device, other))
    np.testing.assert_array_equal(walk(model, other, state, step)[-1].theta, fresh[-1].theta)


@pytest.mark.parametrize("network", ["dense", "traced"])
def test_a_batch_of_millions_is_launched_in_grids_that_a_device_takes(
    cupy: Any, network: str
) -> None:
    """Of blocks there may be 2³¹ - 1 along x, and 65535 along y and z."""
    from mlp_xp.fast.launches import Launch
    from mlp_xp.training import stepper

    m, settings = 65535 * 32 + 4, {"loss": "squared_error", "device": "cuda"}
    if network == "dense":
        model: Any = MLP((1, 1, 1), residual=True, **settings)
    else:
        model = Sequential(1, [Dense(2)], **settings)  # 16 bytes of parameters
    data = Data(*(cupy.zeros((1, n), model.dtype) for n in (1, model.network.sizes[-1])))
    step: Any = stepper(model._recipe, model.device, data)
    step._begin(model._run.state)
    launches = [call for call in step.kind(step, m, True).calls if isinstance(call, Launch)]
    assert "gather" in {launch.name for launch in launches}
    assert all(max(launch.launch[2:4]) <= 65535 for launch in launches)


@pytest.mark.parametrize("size", [1, 4, 15, 16, 17, 1000])
def test_bits_drawn_on_the_device_are_those_of_the_documented_stream(cupy: Any, size: int) -> None:
    from mlp_xp.fast.launches import Bits

    seeds = (3, 2**64 - 1)
    found = Bits(seeds, (2,), 77, size)[...].get()
    expected = np.stack([dropout_bits(seed, 77, size) for seed in seeds])
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)


def test_a_training_on_the_device_follows_that_on_the_cpu(cupy: Any) -> None:
    """Weights, shuffles and masks of one seed; every part of a network at once."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(6, 90)), random.integers(0, 3, 90)
    full = {k: v for k, v in FULL.items() if k not in ("weighted", "l2_shared")}
    for seed in (5, [5, 6]):
        settings: dict[str, Any] = {**full, "normalization": "batch", "seed": seed}
        models = [MLP((6, 9, 9, 3), device=name, **settings) for name in ("cpu", "cuda")]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for model in models:
                model.fit(X, y, epochs=4, batch_size=16, schedule="cosine", progress=False)
        expected, found = models
        np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=2e-5)
        for name, value in found.parameters.items():
            np.testing.assert_allclose(
                found.device.get(value), expected.parameters[name], rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize("batch_size", [90, 45])
def test_an_epoch_of_one_step_takes_each_networks_own_rate(cupy: Any, batch_size: int) -> None:
    """A table of a single row lies in memory like its transpose, unless it is told otherwise."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(6, 90)), random.integers(0, 3, 90)
    plateau = ReduceOnPlateau(patience=0, threshold=0.5)
    found = [
        MLP((6, 9, 3), dtype="float64", weight_decay=0.1, seed=[5, 6, 7], device=device).fit(
            X, y, epochs=4, batch_size=batch_size, schedule=plateau, progress=False
        )
        for device in ("cpu", "cuda")
    ]
    W, W_cuda = (model.parameters["W1"] for model in found)
    np.testing.assert_allclose(found[1].device.get(W_cuda), W, rtol=1e-6, atol=1e-9)
