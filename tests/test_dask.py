"""Workers of a Dask cluster train as one process does: `mlp_xp.ranks_dask`."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import need
from mlp_xp import MLP, MLPClassifier, ranks, ranks_dask, stream
from mlp_xp.cli import main
from mlp_xp.devices import device
from mlp_xp.schedules import Schedule
from ranks_program import CASES, WEIGHTS, X, Y, trained
from test_ranks import mpiexec, undisturbed  # noqa: F401


def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of two workers, processes of this machine."""
    distributed = need(request, "distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(processes=True, host="127.0.0.1", **options) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from cluster(request)


@pytest.fixture(scope="module")
def doomed(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Of workers that are killed, and started again by Dask."""
    yield from cluster(request)


def model() -> MLP:
    return MLP((12, 16, 4), normalization="batch", dropout=0.2, dtype="float64", seed=4)


def options(**more: Any) -> dict[str, Any]:
    return {"epochs": 4, "batch_size": 20, "progress": False, **more}


def same(found: MLP, expected: MLP) -> None:
    for name, value in expected.parameters.items():
        np.testing.assert_allclose(found.parameters[name], value, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-10)


def at_step(client: Any, rank: int, step: int, what: Any) -> Schedule:
    """A schedule that does something on one worker before an update."""
    worker = sorted(client.nthreads())[rank]

    class Trap(Schedule):
        def factor(self, step_: int, *rest: Any) -> float:
            import distributed

            if step_ == step and distributed.get_worker().address == worker:
                what()
            return float(super().factor(step_, *rest))

    return Trap()


@pytest.mark.parametrize("case", CASES)
def test_workers_train_as_one_process_does(client: Any, case: str) -> None:
    found = trained(case, client)
    for name, expected in trained(case, None).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-10, err_msg=name)


def test_three_workers_may_be_threads_of_one_process(request: pytest.FixtureRequest) -> None:
    distributed = need(request, "distributed")
    options_ = {"n_workers": 3, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(processes=False, **options_) as local,
        distributed.Client(local) as client,
    ):
        same(model().fit(X, Y, **options(processes=client)), model().fit(X, Y, **options()))


def test_an_address_is_enough_and_a_second_run_gives_the_same_bits(client: Any) -> None:
    ends = []
    for processes in (client, client.scheduler.address):
        found = model().fit(X, Y, **options(processes=processes))
        ends.append(found._run.state)
        assert found.epochs_trained == 4
        assert found.steps_trained == 20
    for one, other in zip(*((end.theta, *end.moments) for end in ends), strict=True):
        assert np.array_equal(one, other)
    found.fit(X, Y, **options())  # it goes on here


def test_workers_and_ranks_of_mpi_end_with_the_same_bits(
    client: Any,
    undisturbed: dict[str, np.ndarray],  # noqa: F811
) -> None:
    found = model().fit(X, Y, **options(processes=client) | {"epochs": 8})
    assert np.array_equal(found._run.state.theta, undisturbed["theta"])
    assert np.array_equal(found.history["loss"], undisturbed["loss"])


def test_dask_arrays_and_frames_are_computed_by_the_workers(client: Any) -> None:
    import dask.array
    import dask.dataframe
    import pandas

    expected = model().fit(X, Y, sample_weight=WEIGHTS, **options())

    def loaded(block: np.ndarray) -> np.ndarray:
        import distributed

        distributed.get_worker()  # raises in a process that is no worker's
        return block

    arrays = [
        dask.array.from_array(a, chunks=30).map_blocks(loaded, dtype=a.dtype, meta=a[:0])
        for a in (X, Y, WEIGHTS)
    ]
    weighted = options(sample_weight=arrays[2], processes=client)
    same(model().fit(*arrays[:2], **weighted), expected)
    frame = pandas.DataFrame(X.T, columns=[f"x{i}" for i in range(12)])
    frame = dask.dataframe.from_pandas(frame.assign(y=Y), npartitions=3).persist()
    found = model().fit(
        frame.drop(columns="y"), frame["y"], validation_data=(X.T, Y), **options(processes=client)
    )
    assert len(found.history["validation_loss"]) == 4
    same(found, model().fit(X, Y, **options()))


@pytest.mark.parametrize("kind", ["array", "frame", "file"])
def test_a_stream_is_read_by_the_workers(client: Any, tmp_path: Path, kind: str) -> None:
    import dask.array
    import dask.dataframe
    import pandas

    rows, labels = np.tile(X.T, (10, 1)), np.tile(Y, 10)
    np.save(tmp_path / "X.npy", rows)
    np.save(tmp_path / "y.npy", labels)
    if kind == "array":
        arrays = (dask.array.from_array(a, chunks=70).persist() for a in (rows, labels))
        data = stream(*arrays, memory="60kB")
    elif kind == "frame":
        table = pandas.DataFrame(rows, columns=[f"x{i}" for i in range(12)]).assign(y=labels)
        frame = dask.dataframe.from_pandas(table, npartitions=9).persist()
        data = stream(frame, target="y", memory="60kB")
    else:
        data = stream(tmp_path / "X.npy", target=tmp_path / "y.npy", memory="60kB")
    given = options() | {"epochs": 2, "batch_size": 50}
    same(model().fit(data, **given, processes=client), model().fit(data, **given))


def test_callbacks_are_the_clients_and_see_its_model(client: Any) -> None:
    seen = []

    def stops(given: MLP, epoch: Any) -> bool:
        seen.append((given is found, given.epochs_trained, given.evaluate(X, Y).loss))
        return epoch.epoch == 2

    found, expected = model(), model()
    found.fit(X, Y, **options(callbacks=stops, processes=client))
    assert found.epochs_trained == 2
    assert [(is_it, epoch) for is_it, epoch, _ in seen] == [(True, 1), (True, 2)]
    expected.fit(X, Y, **options(callbacks=lambda model, epoch: epoch.epoch == 2))
    assert seen[-1][2] == pytest.approx(expected.evaluate(X, Y).loss, rel=1e-10)

    def interrupts(model: MLP, epoch: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.fit(X, Y, **options(callbacks=interrupts, processes=client))
    assert found.epochs_trained == 3  # of the last whole one
    found.fit(X, Y, **options(processes=client))


def test_data_that_cannot_be_computed_are_the_users_error(client: Any) -> None:
    import dask.array

    def burns(block: np.ndarray) -> np.ndarray:
        raise LookupError("the disk of this worker is on fire")

    broken = dask.array.from_array(X, chunks=30).map_blocks(burns, dtype=X.dtype, meta=X[:0])
    with pytest.raises(LookupError, match="on fire"):
        model().fit(broken, Y, **options(processes=client))


def test_a_checkpoint_is_gone_on_from(client: Any, tmp_path: Path) -> None:
    kept = {"checkpoint": tmp_path / "run", "every": 0, "processes": client}
    model().fit(X, Y, **options(**kept))
    found = model().fit(X, Y, **options(**kept) | {"epochs": 6})
    assert found.history["epoch"] == [1, 2, 3, 4, 5, 6]
    same(found, model().fit(X, Y, **options() | {"epochs": 6}))


def test_an_error_of_all_is_the_users_and_one_of_a_worker_names_it(client: Any) -> None:
    with pytest.raises(ValueError, match="the first layer takes 12") as error:
        model().fit(X[:5], Y, **options(processes=client))
    assert not hasattr(error.value, "__notes__")

    def burns() -> None:
        raise LookupError("the disk of this worker is on fire")

    for rank in (0, 1):
        found = model()
        trap = at_step(client, rank, 7, burns)
        with pytest.raises(LookupError, match="on fire") as caught:
            found.fit(X, Y, **options(schedule=trap, processes=client))
        worker = sorted(client.nthreads())[rank]
        assert caught.value.__notes__[0].startswith(f"That was rank {rank} of 2, the Dask worker")
        assert worker in caught.value.__notes__[0]
        assert found.steps_trained == 7
    found.fit(X, Y, **options(processes=client))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_is_killed_ends_the_training(doomed: Any, rank: int) -> None:
    doomed.wait_for_workers(2, timeout=60)
    found = model()
    before = found.parameters["W1"]
    trap = at_step(doomed, rank, 7, lambda: os.kill(os.getpid(), signal.SIGKILL))
    worker = sorted(doomed.nthreads())[rank]
    with pytest.raises(ranks_dask.WorkerLost, match=f"{worker}, rank {rank} of 2, was lost"):
        found.fit(X, Y, **options(schedule=trap, processes=doomed))
    assert found.steps_trained == (0 if rank == 0 else 7)  # rank 0 brings what was reached
    assert np.array_equal(found.parameters["W1"], before) == (rank == 0)
    doomed.wait_for_workers(2, timeout=60)
    same(model().fit(X, Y, **options(processes=doomed)), model().fit(X, Y, **options()))


def test_the_command_trains_on_a_cluster(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    line = ["train", "--epochs", "2", "--hidden", "8", "--json", "--out", str(out)]
    assert main([*line, "--processes", client.scheduler.address]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(out)
    assert MLP.load(out).epochs_trained == 2
    assert main([*line, "--processes", "four"]) == 2
    assert (
        "'four', but expected mpi, or a Dask scheduler's address"
        in json.loads(capsys.readouterr().out)["error"]
    )


def test_searches_of_scikit_learn_run_on_the_cluster(client: Any) -> None:
    import joblib
    from sklearn.model_selection import GridSearchCV

    def search() -> GridSearchCV:
        estimator = MLPClassifier((8,), tol=1.0, n_iter_no_change=2, random_state=0)
        grid = {"alpha": [1e-4, 1.0], "learning_rate_init": [1e-3, 1e-2]}
        return GridSearchCV(estimator, grid, cv=2).fit(X.T, Y)

    expected = search()
    with joblib.parallel_config("dask"):
        found = search()
    assert found.best_params_ == expected.best_params_
    for name in ("mean_test_score", "split0_test_score", "rank_test_score"):
        assert np.array_equal(found.cv_results_[name], expected.cv_results_[name])


def test_a_client_that_is_closed_is_refused(client: Any) -> None:
    distributed = sys.modules["distributed"]
    closed = distributed.Client(client.scheduler.address, set_as_default=False)
    closed.close()
    with pytest.raises(ConnectionError, match="which is closed: expected a client that is conn"):
        model().fit(X, Y, processes=closed)
    assert pickle.loads(pickle.dumps(MLPClassifier(processes=closed))).processes is None


def test_what_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="device is 'cuda': expected 'cpu'"):
        ranks.find("tcp://127.0.0.1:1", device("cpu")._replace(name="cuda"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'mlp_xp\[dask\]'"):
        model().fit(X, Y, processes="tcp://127.0.0.1:1")
