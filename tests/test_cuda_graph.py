"""Steps replayed from a graph equal eager ones, and what changes is noticed."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import numpy as np
import pytest
import test_cuda_steps as steps

from mlp_xp import MLP, stream
from mlp_xp.devices import device as find_device
from mlp_xp.training import Data, bits_for
from mlp_xp.types import State


def pair(settings: dict[str, Any], graph: Any = True) -> tuple[MLP, Data, State, Any, Any]:
    """A model, data, a state, an eager step and one that replays."""
    from mlp_xp.fast.cupy import CupyStep
    from mlp_xp.fast.graph import GraphStep

    model, data, state = steps.on_cuda(settings)
    eager = CupyStep(model._recipe, model.device, data)
    return model, data, state, eager, GraphStep(model._recipe, model.device, data, graph)


def take(model: MLP, state: State, step: Any, pieces: list[slice], announce: bool = True) -> State:
    """Steps at changing rates on pieces of an order; announced as an epoch, or one by one."""
    rng, put = np.random.default_rng(1), model.device.put
    order = np.stack([rng.integers(0, 23, 100) for _ in model.seeds])
    index = put(order if model.leading else order[0])
    rates = [0.1 / (1 + number) for number in range(len(pieces))]
    if announce:
        step.announce(state, index, rates)
    for piece, rate in zip(pieces, rates, strict=True):
        part = index[..., piece]
        n = piece.stop - piece.start
        args = (model.device, model.network, model.seeds, model.leading, state.step, n)
        state = step(state, part, bits_for(*args), rate)
    return steps.fetched(model, state)


def assert_same(found: State, expected: State) -> None:
    assert found.step == expected.step
    for mine, theirs in zip(found[:1] + found[1], expected[:1] + expected[1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(found.running, expected.running)
    np.testing.assert_array_equal(found.loss, expected.loss)


TEN = [slice(8 * number, 8 * number + 8) for number in range(10)]
MIXED = [slice(0, 8), slice(8, 16), slice(16, 23), slice(23, 31), slice(31, 38), slice(38, 43)]


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize("seed", [3, [3, 4]])
@pytest.mark.parametrize("pieces", [TEN, MIXED], ids=["ten", "mixed sizes"])
def test_replayed_steps_equal_eager_ones(
    cupy: Any, announce: bool, normalization: str, seed: Any, pieces: list[slice]
) -> None:
    """Other batches, rates and step counts each time, and other batch sizes."""
    settings = steps.plain(**steps.FULL, normalization=normalization, seed=seed)
    model, _, state, eager, replaying = pair(settings)
    expected = take(model, state, eager, pieces, announce)
    assert_same(take(model, state, replaying, pieces, announce), expected)
    assert all(program.graphs[1] for program in replaying.programs.values())
    assert replaying.failed == ""


def test_a_change_of_batch_size_is_captured_anew(counting: Any) -> None:
    model, _, state, _, replaying = pair(steps.plain())
    take(model, state, replaying, TEN[:2])
    with counting.count() as counted:
        take(model, state, replaying, MIXED)
    assert len(replaying.programs) == 3  # 8, 7 and 5 examples
    assert counted.graph_launches == len(MIXED) + 2 * 10  # the proofs of 7 and 5


def test_a_change_of_a_buffer_is_captured_anew(cupy: Any) -> None:
    """Whoever replaces an array that the captured step holds gets what a new step gives."""
    from mlp_xp.fast.cupy import CupyStep

    settings = steps.plain(normalization="batch")
    model, data, state, _, replaying = pair(settings)
    take(model, state, replaying, TEN)
    other = Data(data.rows * 2, data.targets, data.weights)
    for change in ("data", "running", "inbox"):
        first = replaying.programs[8, True].graphs[1]
        if change == "data":
            replaying.data = other
        else:
            setattr(replaying, change, getattr(replaying, change).copy())
            replaying.epoch = None
        fresh = steps.on_cuda(settings)[0]
        expected = take(fresh, state, CupyStep(fresh._recipe, fresh.device, other), TEN)
        assert_same(take(model, state, replaying, TEN), expected)
        assert replaying.programs[8, True].graphs[1] is not first


def test_windows_of_a_stream_are_replayed_by_the_same_graphs(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of a pass is shorter, and so is its last batch; its rows lie where others did."""
    from mlp_xp.fast import graph

    proved, prove = list[int](), graph.prove
    monkeypatch.setattr(
        graph,
        "prove",
        lambda step, program, n: (proved.append(program.m), prove(step, program, n))[1],
    )
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1100, 8)).astype("float32"), rng.integers(0, 3, 1100)
    data = stream(X, y, memory=14_000)
    settings = {"epochs": 3, "batch_size": 16, "progress": False}
    model = MLP((8, 6, 3), device="cuda").fit(data, **settings)
    window = data.window(40, 1, 16)
    assert 1100 // window > 5
    assert window % 16 == 0
    assert set(proved) == {16, 1100 % 16}
    assert len(proved) < 10  # a batch size and a number of steps at a launch: once
    eager = MLP((8, 6, 3), device=find_device("cuda", graph=False)).fit(data, **settings)
    np.testing.assert_array_equal(
        model.device.get(model._run.state.theta), eager.device.get(eager._run.state.theta)
    )
    assert model.history["loss"] == eager.history["loss"]


def test_a_replay_that_differs_is_not_used(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlp_xp.fast import graph

    class Wrong(graph.Replay):
        def __call__(self) -> None:
            super().__call__()
            self.theta += 1e-6

    def wrong(step: Any, program: Any, count: int) -> Any:
        replay = Wrong(step, program, count)
        replay.theta = step.theta
        return replay

    expected = take(*(pair(steps.plain())[i] for i in (0, 2, 3)), TEN)  # type: ignore[arg-type]
    monkeypatch.setattr(graph, "Replay", wrong)
    model, _, state, _, replaying = pair(steps.plain(), "auto")
    with caplog.at_level(logging.INFO, "mlp_xp"):
        assert_same(take(model, state, replaying, TEN), expected)
    assert "replayed steps differ from eager ones" in caplog.text
    model, _, state, _, replaying = pair(steps.plain(), True)
    with pytest.raises(graph.GraphError, match="Leave graph='auto'"):
        take(model, state, replaying, TEN)


def test_a_step_that_cannot_be_captured_stays_eager(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CuPy refuses its own cuBLAS calls in a capture; the capture ends all the same."""
    from mlp_xp.fast import choice, cublas

    monkeypatch.setattr(choice, "SMALL", 0.0)

    def by_cupy(self: Any) -> None:
        A, B, out = self.arrays
        product = cupy.matmul(A, B)
        out[...] = out + product if self.beta.value else product

    monkeypatch.setattr(cublas.Product, "__call__", by_cupy)
    model, _, state, eager, replaying = pair(steps.plain(), "auto")
    expected = take(model, state, eager, TEN)
    with caplog.at_level(logging.INFO, "mlp_xp"):
        assert_same(take(model, state, replaying, TEN), expected)
    assert "not replayed as a graph" in caplog.text
    assert float(cupy.ones(3).sum()) == 3  # no capture is left open


def test_no_room_for_the_proof_leaves_steps_eager(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The copies that the proof compares are more than a step needs."""
    model, _, state, eager, replaying = pair(steps.plain(), "auto")
    expected = take(model, state, eager, TEN)
    from mlp_xp.fast import graph

    def replay(*_: Any) -> Any:
        raise cupy.cuda.memory.OutOfMemoryError(1 << 30, 1 << 30)

    monkeypatch.setattr(graph, "Replay", replay)
    with caplog.at_level(logging.INFO, "mlp_xp"):
        assert_same(take(model, state, replaying, TEN), expected)
    assert "Out of memory" in caplog.text


def test_nothing_is_freed_while_a_capture_is_on(cupy: Any) -> None:
    """The collector would destroy older graphs, which CUDA refuses then.

    What a destructor raises is only printed; pytest makes an error of that.
    """
    from mlp_xp.fast.graph import Replay

    model, _, state, _, replaying = pair(steps.plain())
    take(model, state, replaying, TEN)
    program, alive = next(iter(replaying.programs.values())), list[bool]()
    gc.collect()
    gc.freeze()
    gc.collect()  # of little: so that the next of all is not put off for what there was
    before = gc.get_threshold()
    try:
        old_model, _, old_state, _, old = pair(steps.plain())
        take(old_model, old_state, old, TEN)
        seen, kept = weakref.ref(old), [old]  # in a cycle with its programs and their graphs
        del old

        def allocate() -> None:
            kept.clear()
            _ = [[[] for _ in range(50)] for _ in range(50)]
            alive.append(seen() is not None)

        program.calls.insert(0, allocate)
        gc.set_threshold(1, 1, 1)
        Replay(replaying, program, 1)
        assert alive == [True]
        assert gc.isenabled()
        allocate()
        assert alive == [True, False]
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@pytest.mark.parametrize("graph", [True, "auto", False])
def test_a_training_is_the_same_with_and_without_a_graph(cupy: Any, graph: Any) -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(6, 90)), random.integers(0, 3, 90)
    settings: dict[str, Any] = {"dropout": 0.2, "normalization": "batch", "clip_norm": 1.0}
    fit: dict[str, Any] = {"epochs": 3, "batch_size": 16, "schedule": "cosine", "progress": False}
    expected = MLP((6, 9, 9, 3), device=find_device("cuda", graph=False), **settings)
    found = MLP((6, 9, 9, 3), device=find_device("cuda", graph=graph), **settings)
    expected.fit(X, y, **fit)
    with cupy.cuda.Stream(non_blocking=True):
        found.fit(X, y, **fit)
    assert found.history["loss"] == expected.history["loss"]


def test_other_values_of_graph_are_refused() -> None:
    with pytest.raises(ValueError, match="expected True, False or 'auto'"):
        find_device("cuda", graph="always")
