"""Estimators are trained by several processes as by one: `mlp_xp.estimators.ranks`."""
# ruff: noqa: E402  (scikit-learn may be missing)

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from test_dask import client  # noqa: F401

from mlp_xp import MLPClassifier, MLPRegressor, NeuralClassifier, NeuralRegressor
from mlp_xp.devices import device
from ranks_program import ESTIMATORS, X, Y, estimated, estimator, examples, reached
from test_ranks import PROGRAM, launch, mpiexec  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def ends(mpiexec: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:  # noqa: F811
    """What two ranks of MPI end with, twice to the same bits; what rank 0 has printed."""
    folder = tmp_path_factory.mktemp("estimators")
    done = launch(mpiexec, 2, PROGRAM, "estimate", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Iteration 1,") == 1
    return dict(np.load(folder / "estimators.npz"))


@pytest.mark.parametrize("case", ESTIMATORS)
def test_ranks_fit_an_estimator_as_one_process_does(ends: dict[str, np.ndarray], case: str) -> None:
    for name, expected in estimated(case, None).items():
        np.testing.assert_allclose(ends[f"{case}/{name}"], expected, **CLOSE, err_msg=name)


def test_a_checkpoint_of_ranks_is_gone_on_from(ends: dict[str, np.ndarray]) -> None:
    for name in reached(estimator("classes", None).fit(*examples("classes"))):
        np.testing.assert_array_equal(ends[f"kept/{name}"], ends[f"classes/{name}"])


@pytest.mark.parametrize("case", ["classes", "watched", "sparse", "layers"])
def test_a_cluster_fits_an_estimator_as_one_process_does(client: Any, case: str) -> None:  # noqa: F811
    found = estimated(case, client)
    for name, expected in estimated(case, None).items():
        np.testing.assert_allclose(found[name], expected, **CLOSE, err_msg=name)


def test_what_a_cluster_has_fitted_is_as_if_it_had_been_fitted_here(
    client: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Draws, warnings, callbacks, files; it goes on here, and there again."""
    random = {name: np.random.RandomState(7) for name in ("here", "there")}
    seen: dict[str, list[Any]] = {"here": [], "there": []}
    fitted: dict[str, Any] = {}
    for name, processes in (("here", None), ("there", client.scheduler.address)):

        def note(est: Any, epoch: Any, name: str = name) -> None:
            seen[name].append((est is fitted[name], epoch.epoch, est.score(X.T, Y)))

        est = fitted[name] = estimator(
            "classes", processes, random_state=random[name], callbacks=note, warm_start="optimizer"
        )
        with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
            est.fit(X.T, Y, checkpoint=None)
        est.set_params(processes=None).partial_fit(X.T, Y)
        est.set_params(processes=processes).fit(X.T, Y)
    assert seen["here"] == seen["there"]
    assert seen["there"][-1][0]
    for name, expected in reached(fitted["here"]).items():
        np.testing.assert_allclose(reached(fitted["there"])[name], expected, **CLOSE)
    assert random["here"].randint(2**31) == random["there"].randint(2**31)
    path = tmp_path / "estimator.safetensors"
    fitted["there"].set_params(random_state=0, callbacks=()).save(path)
    again = MLPClassifier.load(path)
    assert again.processes is None
    np.testing.assert_array_equal(again.predict(X.T), fitted["there"].predict(X.T))


def test_ctrl_c_leaves_what_a_cluster_has_reached(client: Any) -> None:  # noqa: F811
    def interrupts(est: Any, epoch: Any) -> bool:
        if epoch.epoch == 2:
            raise KeyboardInterrupt
        return False

    with pytest.warns(UserWarning, match="interrupted by user"):
        est = estimator("classes", client, callbacks=interrupts).fit(X.T, Y)
    assert est.n_iter_ == 2
    expected = estimator("classes", None, callbacks=lambda _, epoch: epoch.epoch == 2)
    for name, array in reached(expected.fit(X.T, Y)).items():
        np.testing.assert_allclose(reached(est)[name], array, **CLOSE, err_msg=name)


def test_dask_arrays_are_computed_by_the_cluster(client: Any) -> None:  # noqa: F811
    import dask.array

    rows, y = (dask.array.from_array(a, chunks=30) for a in (X.T, Y))
    found = reached(estimator("classes", client).fit(rows, y))
    for name, expected in reached(estimator("classes", None).fit(X.T, Y)).items():
        np.testing.assert_allclose(found[name], expected, **CLOSE, err_msg=name)


def test_an_error_on_a_cluster_is_the_users(client: Any) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="Input X contains NaN"):
        estimator("classes", client).fit(np.where(X.T > 2, np.nan, X.T), Y)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="X is an array of torch, but processes are a Dask"):
        estimator("classes", client).fit(torch.asarray(X.T), torch.asarray(Y))


class Client:
    """Of a cluster, as `distributed.Client` is one: nobody may copy or pickle it."""

    class scheduler:  # noqa: N801
        address = "tcp://127.0.0.1:1"

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle a client")


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor, NeuralClassifier, NeuralRegressor])
def test_a_client_goes_with_clones_and_stays_out_of_files(kind: Any, tmp_path: Path) -> None:
    one = Client()
    est = kind(random_state=0, processes=one)
    with sklearn.config_context(enable_metadata_routing=True):
        est.set_score_request(sample_weight=False)
    twin = clone(est)
    assert twin.processes is one
    assert est.processes is one
    assert twin.get_params() == est.get_params()
    assert twin._metadata_request.score.requests == est._metadata_request.score.requests
    assert clone(kind(processes="mpi")).processes == "mpi"
    for other in (pickle.loads(pickle.dumps(est)), copy.deepcopy(est)):
        assert other.processes == "tcp://127.0.0.1:1"
    est.set_params(processes=None).fit(X.T, Y).set_params(processes=one)
    path = tmp_path / "estimator.safetensors"
    est.save(path)
    assert b"127.0.0.1" not in path.read_bytes()
    assert kind.load(path).processes is None


def test_processes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"solver='lbfgs' takes all examples in every step"):
        estimator("classes", "mpi", solver="lbfgs").fit(X.T, Y)
    for case in ("classes", "layers"):
        with pytest.raises(ValueError, match="processes is 'four', but expected 'mpi'"):
            estimator(case, "four").fit(X.T, Y)
        there = device("cpu")._replace(name="cuda")
        with pytest.raises(ValueError, match="device is 'cuda': expected 'cpu'"):
            estimator(case, "tcp://127.0.0.1:1", device=there).fit(X.T, Y)
