"""Fast steps against the specification's: every part of a network, sampled together."""

from __future__ import annotations

import random as stdlib_random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_losses import targets

from conftest import tolerance
from mlp_xp import ACTIVATIONS, LOSSES, MLP, OPTIMIZERS
from mlp_xp.compile import numpy_loops, program
from mlp_xp.compile.numpy_program import NumpyProgram
from mlp_xp.compile.step import CompiledStep as TracedStep
from mlp_xp.devices import device as find_device
from mlp_xp.draws import dropout_bits
from mlp_xp.fast import calls, native, tracing
from mlp_xp.fitting import copied
from mlp_xp.training import Data, Step, stepper
from mlp_xp.types import State

SAMPLE_SEED = 1986
N_SAMPLES = 150
CHOICES: dict[str, list[Any]] = {
    "activation": list(ACTIVATIONS),
    "loss": list(LOSSES),
    "normalization": ["none", "batch", "layer"],
    "dropout": [0.0, 0.3, [0.5, 0.0]],
    "residual": [False, True],
    "density": [1.0, 0.5],
    "optimizer": list(OPTIMIZERS),
    "weight_decay": [0.0, 0.1],
    "l2": [0.0, 0.1],
    "clip_norm": [None, 0.5],
    "clip_value": [None, 0.1],
    "label_smoothing": [0.0, 0.2],
    "dtype": ["float32", "float64"],
    "seed": [3, [3, 4]],
    "sizes": [(4, 5, 5), (4, 6, 3), (4, 26, 5)],
    "weighted": [False, True],
    "l2_shared": [False, True],
}


def sample(number: int) -> dict[str, Any]:
    """A row of the product; every value of every choice comes up in some row."""
    chosen = stdlib_random.Random(f"{SAMPLE_SEED} {number}")
    settings = {name: chosen.choice(values) for name, values in CHOICES.items()}
    for name in ("activation", "loss", "optimizer"):
        settings[name] = CHOICES[name][number % len(CHOICES[name])]
    if LOSSES[settings["loss"]].kind in ("real", "count"):
        settings["label_smoothing"] = 0.0
    return settings


def build(settings: dict[str, Any]) -> tuple[MLP, Data, State]:
    """A model, data of 23 examples, and a state with moments that are not zero."""
    settings = dict(settings)
    rng = np.random.default_rng(7)
    n_out = 1 if LOSSES[settings["loss"]].kind == "binary" else 3
    weighted, shared = settings.pop("weighted", False), settings.pop("l2_shared", False)
    model = MLP((*settings.pop("sizes"), n_out), **settings)
    model._recipe = model._recipe.__class__(**{**vars(model._recipe), "l2_shared": shared})
    T = targets(settings["loss"], rng, n_out, 23)
    labels = LOSSES[settings["loss"]].kind == "multiclass" and bool(rng.integers(2))
    data = Data(
        rng.normal(size=(23, 4)).astype(model.dtype),
        T.argmax(axis=0) if labels else np.ascontiguousarray(T.T.astype(model.dtype)),
        rng.uniform(0, 2, 23).astype(model.dtype) if weighted else None,
    )
    state = model._run.state
    moments = tuple(
        rng.uniform(0.5, 1, np.shape(state.theta)).astype(model.dtype) for _ in state.moments
    )
    running = rng.uniform(0.5, 2, np.shape(state.running)).astype(model.dtype)
    return model, data, state._replace(moments=moments, running=running)


def batches(model: MLP) -> Iterator[tuple[Any, Any, Any]]:
    """Index, dropout bits and rate of four steps: batches of 8, 8, 7, 8, at changing rates."""
    rng = np.random.default_rng(1)
    order = np.stack([rng.permutation(23) for _ in model.seeds])
    index = order if model.leading else order[0]
    for number, piece in enumerate([slice(0, 8), slice(8, 16), slice(16, 23), slice(3, 11)]):
        part = index[..., piece]
        n = model.network.n_dropped * part.shape[-1]
        bits = np.stack([dropout_bits(seed, number, n) for seed in model.seeds]) if n else None
        if bits is not None and not model.leading:
            bits = bits[0]
        rate: Any = 0.01 / (number + 1)
        if model.leading:
            rate = np.array([[rate], [2 * rate]]).astype(model.dtype)
        yield part, bits, rate


def walk(model: MLP, data: Data, state: State, step: Step) -> list[State]:
    """The states after each of the four steps."""
    states = []
    for part, bits, rate in batches(model):
        state = step(state, part, bits, rate)
        copies = (np.array(state.theta), tuple(map(np.array, state.moments)))
        states.append(State(*copies, np.array(state.running), state.step, state.loss))
    return states


def specified(model: MLP, data: Data, state: State) -> list[State]:
    """The same walk by `training.train_step`."""
    spec = stepper(model._recipe, model.device._replace(stepper=None), data)
    return walk(model, data, state, spec)


def assert_equal_paths(found: list[State], expected: list[State], settings: dict[str, Any]) -> None:
    close = tolerance(settings["dtype"], 1024)
    if settings["optimizer"] in ("adagrad", "lion", "rmsprop"):
        close = {name: 50 * value for name, value in close.items()}  # g / |g| where g ≈ 0
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.step == theirs.step
        assert mine.theta.dtype == theirs.theta.dtype
        assert np.shape(mine.loss) == np.shape(theirs.loss)
        np.testing.assert_allclose(mine.loss, theirs.loss, **close)
        np.testing.assert_allclose(mine.running, theirs.running, **close)
        np.testing.assert_allclose(mine.theta, theirs.theta, **close)
        for moment, reference in zip(mine.moments, theirs.moments, strict=True):
            scale = max(1.0, float(np.abs(reference).max()))
            np.testing.assert_allclose(moment / scale, reference / scale, **close)


def traced(recipe: Any, data: Data) -> Any:
    """The specification's own step, compiled."""
    return TracedStep(recipe, find_device("cpu"), data)


def in_numpy(recipe: Any, data: Data) -> Any:
    """The same as calls of NumPy."""
    return TracedStep(recipe, find_device("cpu"), data, NumpyProgram)


@pytest.fixture(params=["numpy", "compiled", "shared"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(recipe, data) → a step of NumPy's calls; a compiled one; one on three threads.

    The last shares every call out, however small.
    """
    if request.param == "numpy":
        yield in_numpy
        return
    assert native.available(), "no C compiler, or MLP_XP_NATIVE=0"
    if request.param == "shared":
        monkeypatch.setattr(calls, "LEAST_PRODUCT", 1)
        monkeypatch.setattr(calls, "LEAST_ENTRIES", 1)
        monkeypatch.setattr(program, "_PLANS", OrderedDict())  # these know of parts
        native.runtime().use_threads(3)
    yield traced
    native.runtime().use_threads(1)


@pytest.mark.parametrize("number", range(N_SAMPLES))
def test_a_fast_step_equals_the_specification(number: int, make: Any) -> None:
    settings = sample(number)
    model, data, state = build(settings)
    expected = specified(model, data, state)
    found = walk(model, data, copied(model.device, state), make(model._recipe, data))
    assert_equal_paths(found, expected, settings)
    assert all(np.shape(mine.loss) == model.leading for mine in found)


def test_the_sample_holds_every_value_of_every_choice() -> None:
    rows = [sample(number) for number in range(N_SAMPLES)]
    for name, values in CHOICES.items():
        for value in values:
            assert any(row[name] == value for row in rows), (name, value)


def plain(**changes: Any) -> dict[str, Any]:
    settings = {name: values[0] for name, values in CHOICES.items()}
    return {
        **settings,
        "activation": "tanh",
        "loss": "cross_entropy",
        "optimizer": "adam",
        **changes,
    }


@pytest.mark.parametrize(
    ("name", "function"),
    [("subtract", np.add), ("exp", np.exp2), ("tanh", np.sin), ("sqrt", np.abs)],
)
def test_a_fast_step_broken_on_purpose_is_caught(
    name: str, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, state = build(plain())
    expected = specified(model, data, state)
    monkeypatch.setitem(numpy_loops.UFUNCS, name, function)
    monkeypatch.setattr(program, "_PLANS", OrderedDict())  # nothing that is right already
    found = walk(model, data, copied(model.device, state), in_numpy(model._recipe, data))
    assert not np.allclose(found[-1].theta, expected[-1].theta, **tolerance(model.dtype, 64))


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("subtract", "{0} + {1}"), ("exp", "exp2({0})"), ("tanh", "sin({0})"), ("sqrt", "fabs({0})")],
)
def test_a_compiled_step_broken_on_purpose_is_caught(
    name: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, state = build(plain())
    expected = specified(model, data, state)
    with monkeypatch.context() as patch:
        patch.setitem(tracing.FUNCTIONS, name, pattern)
        patch.setattr(program, "_PLANS", OrderedDict())  # nothing that is right already
        step = traced(model._recipe, data)
        found = walk(model, data, copied(model.device, state), step)
    assert not np.allclose(found[-1].theta, expected[-1].theta, **tolerance(model.dtype, 64))


def test_a_state_from_elsewhere_is_taken_over(make: Any) -> None:
    model, data, state = build(plain())
    step = make(model._recipe, data)
    first = walk(model, data, copied(model.device, state), step)
    again = walk(model, data, state, step)  # back to the first state
    np.testing.assert_array_equal(first[-1].theta, again[-1].theta)
    np.testing.assert_array_equal(first[-1].moments[1], again[-1].moments[1])


def test_other_data_can_take_the_place_of_a_steps_own(make: Any) -> None:
    model, data, state = build(plain())
    step = make(model._recipe, data)
    walk(model, data, copied(model.device, state), step)
    other = data._replace(rows=data.rows + 1)
    step.data = other
    fresh = make(model._recipe, other)
    expected = walk(model, other, copied(model.device, state), fresh)[-1].theta
    np.testing.assert_array_equal(walk(model, other, state, step)[-1].theta, expected)


def test_a_step_allocates_next_to_nothing(make: Any) -> None:
    import tracemalloc

    model, data, state = build(plain(sizes=(4, 300, 300)))
    step = make(model._recipe, data)
    index = np.arange(8)
    state = step(state, index, None, 0.01)
    tracemalloc.start()
    for _ in range(3):
        state = step(state, index, None, 0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 < model.n_parameters
