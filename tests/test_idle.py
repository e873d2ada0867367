"""Programs of a step that has ended wait for the next of their kind."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from test_fast_paths import N_SAMPLES, build, sample, walk

from mlp_xp import MLP, Sequential
from mlp_xp.compile import program
from mlp_xp.compile import step as steps
from mlp_xp.compile.step import Apart, CompiledStep
from mlp_xp.fast import native
from mlp_xp.fast.calls import address
from mlp_xp.fitting import copied
from mlp_xp.layers import LSTM, Activation, BatchNorm, Conv2d, Dense, Flatten, MaxPool, Residual
from mlp_xp.training import Data
from mlp_xp.types import State

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler")


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_PLANS", type(program._PLANS)())


def pointed_at(step: CompiledStep) -> list[int]:
    """All words of its programs' tables and blocks."""
    kept = [
        array
        for made in step.programs.values()
        for array in made.program.calls.kept
        if isinstance(array, np.ndarray) and array.dtype == np.int64
    ]
    return [int(word) for array in kept for word in array.ravel()]


def taken_over(model: Any, data: Data, state: State) -> None:
    """A second step of the kind gives the first's bits, by its programs and on its own arrays."""
    first, second = (CompiledStep(model._recipe, model.device, data) for _ in range(2))
    expected = walk(model, data, copied(model.device, state), first)
    programs, given = list(first.programs.values()), first.given()
    first.end()
    assert not first.programs
    other = Data(*(None if array is None else array.copy() for array in data))
    second.data = other
    found = walk(model, other, copied(model.device, state), second)
    for mine, theirs in zip(found, expected, strict=True):
        for one, another in zip(mine, theirs, strict=True):
            np.testing.assert_equal(one, another)
    assert [made in programs for made in second.programs.values()] == [
        not isinstance(made, Apart) for made in second.programs.values()
    ]
    gone = [a for name, a in given.items() if second.given()[name] is not a]
    ranges = [range(address(a), address(a) + a.nbytes) for a in gone if a.nbytes]
    assert len(ranges) > 2
    assert not any(word in one for word in pointed_at(second) for one in ranges)


@pytest.mark.parametrize("number", range(N_SAMPLES))
def test_the_next_step_goes_on_with_them_as_with_its_own(number: int) -> None:
    taken_over(*build(sample(number)))


CHAINS: dict[str, Any] = {
    "convolution": (
        (1, 6, 6),
        [Conv2d(3, kernel=3), BatchNorm(), Activation("relu"), MaxPool(2), Flatten(), Dense(3)],
    ),
    "recurrent": ((4, 5), [LSTM(6), Dense(3)]),
    "residual": ((6,), [Dense(5), Residual([BatchNorm(), Dense(5)]), Dense(3)]),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_those_of_chains_do_too(name: str, optimizer: str) -> None:
    shape, layers = CHAINS[name]
    model, rng = Sequential(shape, layers, optimizer=optimizer), np.random.default_rng(0)
    rows = rng.normal(size=(23, model.network.sizes[0])).astype(np.float32)
    taken_over(model, Data(rows, np.arange(23) % 3, None), model._run.state)


def fitted(model: MLP, seed: int = 0) -> MLP:
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(4, 50)).astype(np.float32), rng.integers(0, 3, 50)
    return model.fit(X, y, epochs=2, batch_size=20, progress=False)


def waiting() -> list[Any]:
    plans = [getattr(made, "plan", made) for made in program._PLANS.values()]
    return [idle for plan in plans for idle in plan.idle]


def test_those_of_a_fit_wait_without_its_arrays() -> None:
    gc.collect()
    gc.disable()
    try:
        model = fitted(MLP((4, 8, 3)))
        (idle,) = waiting()
        assert sorted(m for m, *_ in idle.programs) == [10, 20]
        theta = model._run.state.theta
        memory = weakref.ref(theta if theta.base is None else theta.base)
        del model, theta
        gc.collect()  # a model is part of circles, its programs of none
        assert memory() is None
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_the_next_minimisation_goes_on_with_the_gradient_of_the_last() -> None:
    estimators = pytest.importorskip("mlp_xp.estimators.mlp")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)

    def weights(rows: Any) -> Any:
        est = estimators.MLPClassifier((5,), solver="lbfgs", max_iter=9, random_state=0)
        return np.concatenate([W.ravel() for W in est.fit(rows, y).coefs_])

    first, (idle,) = weights(X), waiting()
    assert all(array is program.GONE for array in idle.given.values())
    np.testing.assert_array_equal(weights(X.copy()), first)
    other = weights(-X)
    assert waiting() == [idle]
    program._PLANS.clear()
    np.testing.assert_array_equal(weights(-X), other)
    assert np.any(other != first)
    assert waiting() != [idle]


def test_only_those_wait_that_ran_last() -> None:
    """Or data that grow from fit to fit would leave one for every length of the last batch."""
    for m in (50, 45, 47):
        rng = np.random.default_rng(m)
        X, y = rng.normal(size=(4, m)).astype(np.float32), rng.integers(0, 3, m)
        MLP((4, 8, 3)).fit(X, y, epochs=1, batch_size=20, progress=False)
        (idle,) = waiting()
        assert sorted(kind[0] for kind in idle.programs) == [m % 20, 20]


def test_large_ones_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(MLP((4, 8, 3)))
    (idle,) = waiting()
    size = idle.block.nbytes + sum(made.size for made in idle.programs.values())
    program._PLANS.clear()
    monkeypatch.setattr(steps, "IDLE", size - 1)
    fitted(MLP((4, 8, 3)))
    assert not waiting()


def test_fits_at_the_same_time_do_not_share_them() -> None:
    alone = [fitted(MLP((4, 8, 3), seed=i), i).parameters for i in range(4)]
    start = threading.Barrier(4)
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        start.wait()
        for _ in range(5):
            found[i] = fitted(MLP((4, 8, 3), seed=i), i).parameters

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, expected in enumerate(alone):
        for name, array in expected.items():
            np.testing.assert_array_equal(found[i][name], array)
