"""Ranks with a GPU each train as one process does: `mlp_xp.ranks_cuda`, `compile.cuda_sums`."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

import test_ranks
from ranks_program import CASES, WEIGHTS, estimator, examples, reached, streamed, trained

PROGRAM = str(Path(__file__).with_name("ranks_cuda_program.py"))
EVERY = (*CASES, "images")
mpiexec = test_ranks.mpiexec


@pytest.fixture(scope="module")
def emulated(request: pytest.FixtureRequest) -> bool:
    """Whether CuPy is the one on the CPU, which claims as many GPUs as it is told."""
    from conftest import need

    cupy = need(request, "cupy")
    from cupy.cuda import nccl

    emulated: bool = cupy.__version__.endswith("+cpu")
    if emulated and not nccl.available:
        pytest.fail("this CuPy on the CPU is older than its NCCL: bash ci/cuda.sh install")
    if not nccl.available:
        pytest.skip("CuPy finds no NCCL")
    return emulated


def launch(mpiexec: str, emulated: bool, n: int, *command: str) -> CompletedProcess[str]:
    """n ranks of the program."""
    import cupy

    if not emulated and cupy.cuda.runtime.getDeviceCount() < n:
        pytest.skip(f"fewer than {n} GPUs")
    more = {"CUPYCPU_DEVICE_COUNT": str(n)} if emulated else {}
    return test_ranks.launch(mpiexec, n, PROGRAM, *command, **more)


@pytest.fixture(scope="module")
def ends(mpiexec: str, emulated: bool, tmp_path_factory: pytest.TempPathFactory) -> test_ranks.Ends:
    def begin(n: int, *told: str) -> CompletedProcess[str]:
        return launch(mpiexec, emulated, n, *told)

    return test_ranks.endings(begin, tmp_path_factory)


@pytest.mark.parametrize("case", EVERY)
def test_ranks_on_gpus_train_as_one_process_does(
    ends: test_ranks.Ends, emulated: bool, case: str, sample: int | None
) -> None:
    import cupy

    # one rank sums by NCCL too, which shows on one GPU that its calls are captured; on the CPU
    # more ranks show more
    there = cupy.cuda.runtime.getDeviceCount()
    cases = test_ranks.spread(EVERY, (2, 3), sample)
    if not emulated:
        cases = {n: list(EVERY) for n in (1, 2, 3) if n <= there}
    # the bias before batch normalisation has a gradient of rounding, which Adam makes large
    near = 1e-9 if case == "images" else 1e-10
    expected = trained(case, None)
    for n, names in cases.items():
        for name, array in expected.items() if case in names else ():
            found = ends(n, names)[f"{case}/{name}"]
            assert found.shape == array.shape
            said = f"{name} on {n} ranks"
            np.testing.assert_allclose(found, array, rtol=near, atol=near, err_msg=said)


def test_data_that_do_not_fit_on_gpus_are_trained_on_as_by_one_process(
    mpiexec: str, emulated: bool, tmp_path: Path
) -> None:
    done = launch(mpiexec, emulated, 2, "stream", str(tmp_path))
    assert done.returncode == 0, done.stderr
    ends = {"stream": streamed(None, "cpu", 10), "host": trained("weights", None)}
    for kind, end in ends.items():
        found = np.load(tmp_path / f"{kind}.npz")
        for name, expected in end.items():
            near = {"rtol": 1e-10, "atol": 1e-10, "err_msg": f"{kind} {name}"}
            np.testing.assert_allclose(found[name], expected, **near)


def test_ranks_on_gpus_fit_an_estimator_as_one_process_does(
    mpiexec: str, emulated: bool, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    done = launch(mpiexec, emulated, 2, "estimate", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "estimate.npz")
    with pytest.warns(match="Maximum iterations"):
        expected = reached(estimator("weights", None).fit(*examples("weights"), WEIGHTS))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-10, atol=1e-10, err_msg=name)


def test_steps_exchange_on_the_device_eager_and_captured(
    mpiexec: str, emulated: bool, tmp_path: Path
) -> None:
    if not emulated:
        pytest.skip("only CuPy on the CPU counts")
    done = launch(mpiexec, emulated, 3, "counts", str(tmp_path))
    assert done.returncode == 0, done.stderr
    nothing = {"copies": [], "allocated": 0, "waits": 0}
    # three of each of two normalised layers, and the gradient's: small ones are one call of
    # NCCL, and the gradient two
    expected: dict[str, Any] = {**nothing, "exchanges": 4 * (3 * 2 + 2)}
    assert json.loads((tmp_path / "counts.json").read_text()) == {
        "graph=False": {**expected, "launches": 0},
        "graph=True": {**expected, "launches": 1},
    }


def test_what_cannot_be_is_said_on_all_ranks(mpiexec: str, emulated: bool, tmp_path: Path) -> None:
    done = launch(mpiexec, emulated, 2, "errors", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        said = json.loads((tmp_path / f"{rank}.json").read_text())
        assert "ValueError: ranks 0 and 1 both compute on GPU" in said["one GPU"]
        assert "RanksDiffer" in said["mixed"]
        assert "the device is cpu on rank 0, but cuda on rank 1" in said["mixed"]
        assert "ImportError" in said["missing"]
        assert "pip install nvidia-nccl-cu" in said["missing"]


def test_a_killed_rank_ends_all(mpiexec: str, emulated: bool, tmp_path: Path) -> None:
    done = launch(mpiexec, emulated, 2, "kill", str(tmp_path))
    assert done.returncode != 0
    assert "rank 1" in done.stderr
    assert not (tmp_path / "over").exists()


def test_ranks_that_disagree_on_a_graph_all_stay_eager(
    mpiexec: str, emulated: bool, tmp_path: Path
) -> None:
    done = launch(mpiexec, emulated, 2, "disagree", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.txt").read_text() == "on rank 1: no graph here"


def test_cuda_is_a_gpu_of_its_own_for_each_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_xp.fast.device import LOCAL_RANK, _usual

    for name in LOCAL_RANK:
        monkeypatch.delenv(name, raising=False)
    assert _usual(0, 4) == 0
    monkeypatch.setenv("SLURM_LOCALID", "5")
    assert _usual(0, 4) == 1
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "2")
    assert _usual(0, 4) == 2
    assert _usual(3, 4) == 3  # the caller's
