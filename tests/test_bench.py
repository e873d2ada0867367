"""The harness in bench/: what is wrong is not timed, what changed is found, every row is shown."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cases
import compare
import contest
import numpy as np
import pytest
import reference
import results as stored
import timing
from run import Worker

from mlp_xp import bench, cli
from mlp_xp.devices import device as find_device
from mlp_xp.training import Data

ROOT = Path(__file__).parent.parent
QUICK = ("--rounds", "2", "--seconds", "0.002", "--threads", "1")
SMALL = [case for case in cases.CASES if case.trains and max(case.sizes) <= 128]

# contestants that go wrong, each in its own way
WRONG = '''
import os
from contest import Peer
from timing import Session

def lazy(case, arrays, device, setting):
    """Never steps: its loss is that of the initial weights."""
    import reference
    loss = reference._training(case, {k: v.astype("f8") for k, v in arrays.items()},
                               arrays["order"], arrays["labels"], False)[1]
    return Session(lambda n: None, lambda: None, lambda: loss)

def dies(case, arrays, device, setting):
    os._exit(3)

def dies_later(case, arrays, device, setting):
    import numpy as np, reference
    loss = reference.check(case, arrays).expected
    return Session(lambda n: os._exit(3), lambda: None, lambda: loss)

ROWS = {
    "lazy": Peer((), "numpy", training=lazy),
    "dies": Peer((), "numpy", training=dies),
    "dies-later": Peer((), "numpy", training=dies_later),
    "absent": Peer(("no_such_library",), "numpy", training=lazy),
}
'''


def run(tmp_path: Path, *arguments: str) -> tuple[int, str, stored.Results]:
    """Exit code, output and results of run.py."""
    out = tmp_path / "results.json"
    command = [
        sys.executable,
        str(ROOT / "bench" / "run.py"),
        *arguments,
        *QUICK,
        "--out",
        str(out),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert out.exists(), done.stderr
    return done.returncode, done.stdout, stored.load(out)


def environment() -> dict[str, str]:
    import os

    known = {"PYTHONPATH": str(ROOT), "OPENBLAS_CORETYPE": "Haswell"}
    return {**os.environ, **known, "MLP_XP_LAST_LEVEL_CACHE": "1000000"}  # for little is cold then


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("training", "20-16-1 *"),
        ("inference", "* rows 1000"),
        ("kernels", "score *"),
        ("startup", "*"),
    ],
)
def test_a_run_measures_every_kind_of_case(tmp_path: Path, kind: str, pattern: str) -> None:
    code, printed, found = run(tmp_path, kind, "--cases", pattern, "--peers", "")
    assert code == 0, printed
    assert {row["status"] for row in found["rows"]} == {"ok"}
    row = found["rows"][0]
    assert row["contestant"] == "mlp_xp"
    assert len(row["rounds"]) == 2
    assert row["least"] <= row["median"]
    assert row["peak_memory"] > 0
    assert "OPENBLAS_CORETYPE" in found["environment"]["dropped"]
    if kind != "startup":
        assert row["percent_copy"] > 0
        assert found["ceilings"]["cpu float32"]["gemm"] > 1e9
        assert "openblas" not in row["blas"] or "Haswell" not in row["blas"] or native_is_haswell()


def native_is_haswell() -> bool:
    """Whether this machine has no more than the architecture that the test asked for."""
    cpuinfo = Path("/proc/cpuinfo")
    return not cpuinfo.exists() or "avx512" not in cpuinfo.read_text()


def test_a_wrong_contestant_is_failed_and_not_timed(tmp_path: Path) -> None:
    also = tmp_path / "wrong.py"
    also.write_text(WRONG)
    names = "lazy,dies,dies-later,absent"
    code, printed, found = run(
        tmp_path, "training", "--cases", "20-16-1 *", "--peers", names, "--also", str(also)
    )
    assert code == 1
    by_name = {row["contestant"]: row for row in found["rows"]}
    status = {name: row["status"] for name, row in by_name.items()}
    assert status["mlp_xp"] == status["mlp_xp-spec"] == "ok"
    assert status["lazy"] == status["dies"] == status["dies-later"] == "failed"
    assert status["absent"] == "missing"
    assert "no_such_library" in by_name["absent"]["reason"]
    assert "differs from float64" in by_name["lazy"]["reason"]
    for name in names.split(","):
        assert "median" not in by_name[name]
    assert printed.count("FAILED, not timed") == 3


@pytest.mark.parametrize(
    "arguments",
    [["cooking"], ["--peers", "nobody"], ["--threads", "0"], ["--precision", "tf32"]],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str]) -> None:
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.kind} {case.name}")
def test_three_steps_change_the_loss_far_more_than_the_tolerance(case: cases.Case) -> None:
    small = case._replace(cold=False)
    judge = reference.check(small, cases.inputs(small))
    assert judge.distance is not None
    assert judge.distance > 10 * judge.relative
    assert judge.difference(judge.expected * (1 + judge.relative / 2)) < judge.relative
    assert judge.difference(np.nan) == judge.difference(np.zeros(2)) == np.inf


def test_the_reference_is_the_derivative_it_says() -> None:
    """One gradient entry of the textbook code against a central difference."""
    S = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.array([0, 2, 1, 1])
    up, down = S.copy(), S.copy()
    up[1, 2] += 1e-6
    down[1, 2] -= 1e-6
    slope = (reference._loss(up, labels)[0] - reference._loss(down, labels)[0]) / 2e-6
    assert slope == pytest.approx(reference._loss(S, labels)[1][1, 2], rel=1e-6)


def test_work_counts_every_product_once() -> None:
    needed = bench.step_work((5, 3, 2), 7, 4)
    # forward and ∂W for both layers, ∂A for the second only
    assert needed.flops == 2 * 7 * (2 * (5 * 3 + 3 * 2) + 3 * 2)
    n_parameters = 5 * 3 + 3 + 3 * 2 + 2
    assert needed.held == 4 * (4 * n_parameters + 7 * (5 + 3 + 2))
    assert bench.inference_work((5, 3, 2), 7, 4).flops == 2 * 7 * (5 * 3 + 3 * 2)


def test_where_there_is_no_gpu_devices_are_the_cpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of a machine that has one
    code, printed, found = run(tmp_path, "devices", "--cases", "20-16-1 batch 32")
    assert code == 0, printed
    on_cpu, on_gpu = found["rows"]
    assert (on_cpu["device"], on_cpu["status"]) == ("cpu", "ok")
    assert on_cpu["hardware"] == found["environment"]["processor"]
    assert (on_gpu["device"], on_gpu["status"]) == ("cuda", "missing")
    assert len(on_gpu["reason"]) > 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler has its own
@pytest.mark.parametrize(
    ("name", "setting"),
    [("torch", "fused"), ("torch", "foreach"), ("torch-compile", "one graph")],
)
def test_bfloat16_of_pytorch_rounds_and_is_right_to_its_rounding(
    torch: Any, monkeypatch: pytest.MonkeyPatch, name: str, setting: str
) -> None:
    import with_torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    case = cases.training((20, 16, 1), 32, cold=False)._replace(precision="bfloat16")
    arrays = cases.inputs(case)
    judge = reference.check(case, arrays)
    session = with_torch.ROWS[name].training(case, arrays, "cpu", setting)  # type: ignore[misc]
    difference = judge.difference(session.result())
    exact = reference.check(case._replace(precision="float32"), arrays)
    assert exact.relative < difference <= judge.relative


def test_bfloat16_of_jax_is_right_to_its_rounding() -> None:
    pytest.importorskip("jax", reason="the bench group is not installed")
    import with_jax

    case = cases.training((20, 16, 1), 32, cold=False)._replace(precision="bfloat16")
    arrays = cases.inputs(case)
    judge = reference.check(case, arrays)
    exact = reference.check(case._replace(precision="float32"), arrays)
    for name in ("jax", "jax-loop"):
        session = with_jax.ROWS[name].training(case, arrays, "cpu", "")  # type: ignore[misc]
        assert exact.relative < judge.difference(session.result()) <= judge.relative


def test_an_epoch_and_single_steps_go_the_same_way() -> None:
    """Over the end of the data too; `issued` lies between the beginning and the end."""
    rows, labels = bench.examples((6, 5, 3), 40)
    order, found = np.random.default_rng(0).permutation(40), []
    cpu = find_device("cpu")
    for place in (cpu, cpu._replace(reads_wait=True)):
        model = bench.build((6, 5, 3), "float32", place)
        trainer = bench.Trainer(model, Data(rows, labels.astype(np.int64)), order, 8)
        losses = []
        for n in (3, 4, 9):
            began = time.perf_counter()
            trainer.run(n)
            if place.reads_wait:
                assert began < trainer.issued <= time.perf_counter()
            losses.append(float(trainer.reached.state.loss))
        assert trainer.next == 16 * 8 % 40
        found.append(losses)
    assert found[0] == found[1]


def test_device_memory_is_the_devices_and_launches_are_counted(cupy: Any, tmp_path: Path) -> None:
    """What of a network of a few numbers lies on the device is no more than its needs."""
    case = cases.training((6, 5, 3), 8, cold=False)
    arrays = cases.inputs(case)
    np.savez(tmp_path / "inputs.npz", **arrays)
    ask = {
        "peer": "mlp_xp",
        "case": case._asdict(),
        "device": "cuda",
        "setting": "",
        "threads": 1,
        "inputs": str(tmp_path / "inputs.npz"),
        "answer": str(tmp_path / "answer.npy"),
        "also": None,
        "timed": False,
    }
    with Worker(ask, 1) as worker:
        assert worker.first == {"status": "ready"}, worker.first
        judge = reference.check(case, arrays)
        assert judge.difference(np.load(worker.found)) <= judge.relative
        before = worker.ask({"do": "end"})
        assert before["memory_of"].startswith("device")
        assert 0 < before["memory"] < 2**28
        assert before["kernels"] >= 3  # a gather, and at least one a layer
        assert before["kernels_by"] == "the step's program"
        # and the same process goes on to another case
        worker.begin({**ask, "case": case._replace(precision="float32")._asdict()})
        assert worker.first == {"status": "ready"}
        assert worker.ask({"do": "after", "n": 20})["loss"] > 0


def test_memory_and_launches_of_a_device_are_asked_of_each_library() -> None:
    cuda = timing.DEVICES["cuda"]
    assert set(cuda.memory) == {"mlp_xp", "torch", "jax"}
    session = timing.Session(lambda n: None, lambda: None, lambda: None)
    assert timing.launches(session._replace(kernels=lambda: 18), "mlp_xp")["kernels"] == 18
    uncounted = timing.launches(session, "jax")
    assert uncounted["kernels"] is None
    assert "jax" in uncounted["kernels_by"]


def test_cupy_copies_by_cudas_own_copy(counting: Any, cupy: Any) -> None:
    wait = cupy.cuda.get_current_stream().synchronize
    with counting.count() as counted:
        assert bench.copy_rate(cupy, wait, 2**16) > 0
    assert counted.copies["D2D"].calls >= 6
    assert counted.copies["D2D"].bytes >= 6 * 2**16


def test_cupy_on_the_cpu_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(__version__="14.2.0+cpu"))
    assert "built for the CPU" in timing.DEVICES["cuda"].refusal()


# -- comparing -----------------------------------------------------------------


def synthetic(seed: int, factors: dict[str, float], noise: float = 0.02) -> stored.Results:
    """A run of ten contestants at 1 ms, some times a factor, with normal noise."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(10):
        name = f"peer{i}"
        rounds = 1e-3 * factors.get(name, 1.0) * np.exp(noise * random.standard_normal(15))
        rows.append(
            {
                "kind": "training",
                "case": "784-100-10 batch 32",
                "device": "cpu",
                "dtype": "float32",
                "threads": 2,
                "contestant": name,
                "status": "ok",
                "rounds": rounds.tolist(),
                "median": float(np.median(rounds)),
                "blas": "",
            }
        )
    return {"format": 1, "environment": {"cores": 2}, "ceilings": {}, "rows": rows}


@pytest.mark.parametrize("noise", [0.002, 0.02, 0.2])
def test_comparing_finds_nothing_in_noise(noise: float) -> None:
    for seed in range(20):
        before, after = (synthetic(2 * seed + i, {}, noise) for i in range(2))
        assert not [change for change in compare.changes(before, after) if change.beyond]


def test_comparing_finds_a_planted_change() -> None:
    planted = {"peer3": 1.15, "peer7": 1 / 1.3}
    lines = compare.report(synthetic(0, {}), synthetic(1, planted))
    slower = [line for line in lines if "slower" in line]
    faster = [line for line in lines if "faster" in line]
    assert ["peer3" in line for line in slower] == [True]
    assert ["peer7" in line for line in faster] == [True]
    assert lines[-1].startswith("8 of 10 rows")


def test_comparing_names_what_else_differs() -> None:
    before, after = synthetic(0, {}), synthetic(1, {})
    after["environment"]["cores"] = 64
    after["rows"][4] = {**after["rows"][4], "status": "failed"}
    del after["rows"][9]
    text = "\n".join(compare.report(before, after))
    assert "cores was 2, is 64" in text
    assert "peer4: was ok, is failed" in text
    assert "1 only in the run before" in text


def test_standings_pair_rounds() -> None:
    """A machine that slows down half way slows both, and leaves their ratio."""
    results = synthetic(0, {"peer0": 1.0})
    drift = np.where(np.arange(15) < 7, 1.0, 3.0)
    for row, name, factor in zip(results["rows"], ("mlp_xp", "torch"), (1.0, 2.0), strict=False):
        row |= {"contestant": name, "rounds": (factor * drift).tolist(), "asked": None}
    results["rows"] = results["rows"][:2]
    (standing,) = stored.standings(results)
    assert (standing.peer, standing.ratio) == ("torch", 2.0)


@pytest.mark.parametrize(("device", "peer"), [("cpu", "jax"), ("cuda", "jax-loop")])
def test_a_loop_on_the_device_is_a_peer_where_our_steps_are_one_too(device: str, peer: str) -> None:
    results = synthetic(0, {})
    times = {"mlp_xp": 1.0, "jax": 3.0, "jax-loop": 2.0}
    results["rows"] = results["rows"][:3]
    for row, (name, factor) in zip(results["rows"], times.items(), strict=True):
        row |= {"contestant": name, "device": device, "rounds": [factor] * 3, "median": factor}
        row |= {"asked": None}
    (standing,) = stored.standings(results)
    assert standing.peer == peer


# -- a GPU's figures -------------------------------------------------------------


def gpu_bench(tmp_path: Path, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, output and results of ci/gpu_bench.sh, without times."""
    done = subprocess.run(
        ["bash", str(ROOT / "ci" / "gpu_bench.sh"), str(tmp_path / "out"), "--smoke", *arguments],
        env={**environment(), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    path = tmp_path / "out" / "results.json"
    assert path.exists(), done.stderr
    assert (tmp_path / "out" / "table.md").read_text().startswith("# ")
    return done.returncode, done.stdout + done.stderr, json.loads(path.read_text())


def test_every_section_runs_where_there_is_no_gpu(cupy: Any, torch: Any, tmp_path: Path) -> None:
    """All that can be shown without one: that contestants agree, and what is written."""
    wanted = ("steps", "predict", "networks", "precision", "evaluate", "upload")
    code, printed, found = gpu_bench(tmp_path, *wanted)
    sections = found["sections"]
    assert set(sections) == set(wanted)
    assert not found["environment"]["timed"]
    for name in wanted[:4]:
        assert len({row["case"] for row in sections[name]}) >= 1
        assert {row["contestant"] for row in sections[name]} >= {"mlp_xp"}
        for row in sections[name]:
            ours = row["contestant"].startswith("mlp_xp")
            allowed = {"ok"} if ours or row["contestant"].startswith("torch") else {"ok", "missing"}
            assert row["status"] in allowed, (printed, row)
            assert "seconds" not in row
            assert row["status"] != "ok" or row["difference"] >= 0
    steps = {row["contestant"]: row for row in sections["steps"] if row["status"] == "ok"}
    assert {"mlp_xp", "torch, fused, on the CPU"} <= set(steps)
    assert all(row["loss"] > 0 and row["after"] >= 16 for row in steps.values())
    assert steps["mlp_xp"]["kernels"] >= 3
    assert sections["evaluate"]["status"] == "ok"
    assert sections["evaluate"]["found"]["first_seconds"] is None
    assert sections["upload"]["status"] == "ok", sections["upload"]
    assert code == 0


GOES_WRONG = '''
import time
from contest import Peer
from with_mlp_xp import ROWS as OURS

def stalls(case, arrays, device, setting):
    """Right at the fourth batch, and then takes no steps but those."""
    session = OURS["mlp_xp"].training(case, arrays, device, setting)
    return session._replace(run=lambda n: None)

def hangs(case, arrays, device, setting):
    """With the first case; the second is another process's."""
    if case.n_outputs == 1:
        time.sleep(600)
    return OURS["mlp_xp"].training(case, arrays, device, setting)

ROWS = {name: Peer((), "mlp_xp", training=make, devices=("cuda",))
        for name, make in (("stalls", stalls), ("hangs", hangs))}
'''


def test_who_leaves_the_path_of_the_others_or_hangs_is_failed(cupy: Any, tmp_path: Path) -> None:
    also = tmp_path / "wrong.py"
    also.write_text(GOES_WRONG)
    patience = ("--patience", "20")  # of a machine where others start, too
    code, printed, found = gpu_bench(tmp_path, "steps", "--also", str(also), *patience)
    assert code == 1
    rows = found["sections"]["steps"]
    assert {row["status"] for row in rows if row["contestant"] == "mlp_xp"} == {"ok"}
    stalls, hangs = (
        [row for row in rows if row["contestant"].startswith(name)] for name in ("stalls", "hangs")
    )
    assert [row["status"] for row in stalls] == ["failed", "failed"], printed
    assert all("from the others'" in row["reason"] for row in stalls)
    assert [row["status"] for row in hangs] == ["failed", "ok"], printed
    assert hangs[0]["reason"] == "no answer in 20 s"


def test_what_there_is_no_time_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where a program does not end: the run does, with what it has."""
    import gpu

    monkeypatch.setattr(gpu, "LIMIT", 1.0)
    monkeypatch.setitem(timing.DEVICES, "cuda", timing.DEVICES["cpu"])  # as if there were a GPU
    monkeypatch.setitem(
        gpu.SECTIONS,
        "evaluate",
        lambda gauge: gauge.program("evaluate", ["-c", "while True: pass"], 60, tmp_path / "none"),
    )
    assert gpu.main([str(tmp_path), "steps", "evaluate"]) == 1
    sections = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert len(sections["steps"]) == 8 * 4
    assert {row["reason"] for row in sections["steps"]} == {"no time was left"}
    assert sections["evaluate"]["reason"] == "not done in 1 s"


def test_losses_are_held_to_the_median() -> None:
    case = cases.training((6, 5, 3), 8)
    assert contest.apart(case, {"a": 1.0, "b": 1.0005, "c": 0.9997}) == {}
    assert set(contest.apart(case, {"a": 1.0, "b": 1.0005, "c": 1.1})) == {"c"}
    assert set(contest.apart(case, {"a": 1.0, "b": 1.1})) == {"a", "b"}  # nobody knows who is right
    assert set(contest.apart(case, {"a": 1.0, "b": 1.0, "c": float("nan")})) >= {"c"}
    less = case._replace(precision="bfloat16")
    assert contest.apart(less, {"a": 1.0, "b": 1.0, "c": 1.01}) == {}


def test_the_table_names_ratios_and_aims() -> None:
    import gpu

    def row(case: str, contestant: str, seconds: float | None) -> dict[str, Any]:
        told: dict[str, Any] = {"case": case, "contestant": contestant, "precision": "float32"}
        if seconds is None:
            return {**told, "status": "failed", "reason": "it was late"}
        return {**told, "status": "ok", "seconds": seconds, "tflops": 1.0}

    cases_ = ("784-100-10 batch 200", "20-16-1 batch 32")
    rows = [row(case, "mlp_xp", 20e-6) for case in cases_]
    rows += [row(cases_[0], "jax", 40e-6), row(cases_[1], "jax", 80e-6)]
    rows += [row(cases_[0], "torch", None)]
    results = {
        "environment": {"gpu": "A card", "packages": {"numpy": "2"}, "timed": True},
        "sections": {"steps": rows, "upload": {"status": "failed", "reason": "no such file"}},
    }
    text = gpu.table(results)
    assert "| 784-100-10 batch 200 | 20.0 | 40.0 | failed | 48 |" in text
    assert "| 20-16-1 batch 32 | 20.0 | 80.0 |  | 15 |" in text
    assert "jax / ours: 2.83 (geometric mean of 2), least 2.00" in text
    assert "failed: no such file" in text


# -- the report ----------------------------------------------------------------


def test_the_report_shows_every_row(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="the bench group is not installed")
    import report

    also = tmp_path / "wrong.py"
    also.write_text(WRONG)
    patterns = ("training", "--cases", "20-16-1 *", "--peers", "lazy", "--also", str(also))
    _, _, results = run(tmp_path, *patterns)
    files = report.page([results], tmp_path / "page.html")
    text = files[0].read_text(encoding="utf-8")
    for row in results["rows"]:
        assert f'<td class="text">{row["contestant"]}</td>' in text
    assert "failed, not timed" in text
    names = {path.name for path in files[1:]}
    themes = ("light", "dark")
    assert names == {f"page-{c}-{t}.png" for c in ("contestants", "roofline") for t in themes}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files[1:])


# -- growth --------------------------------------------------------------------


def test_shares_of_a_step_add_up() -> None:
    import growth

    found = growth.shares(16, 8, seconds=0.002, rounds=2)
    parts = (found.gemm, found.elementwise, found.update, found.python)
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(found.whole)


def test_the_table_is_put_between_its_marks(tmp_path: Path) -> None:
    import growth

    path = tmp_path / "page.md"
    path.write_text(f"before\n{growth.MARKS[0]}\nold\n{growth.MARKS[1]}\nafter\n")
    growth.put(path, ["new"])
    assert path.read_text() == f"before\n{growth.MARKS[0]}\nnew\n{growth.MARKS[1]}\nafter\n"
    path.write_text("nothing")
    with pytest.raises(SystemExit, match="to put the table between"):
        growth.put(path, ["new"])


# -- mlp-xp bench --------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small case, a small cache, a small product."""
    monkeypatch.setattr(bench, "SHORT", (((20, 16, 1), 32), ((8, 4, 3), 16)))
    monkeypatch.setattr(bench, "last_level_cache", lambda: 2**16)


@pytest.mark.usefixtures("short")
def test_the_command_prints_a_line_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--rounds", "1", "--seconds", "0.001", "--json"]) == 0
    out, err = capsys.readouterr()
    document: dict[str, Any] = json.loads(out)
    assert [row["case"] for row in document["rows"]] == ["20-16-1 batch 32", "8-4-3 batch 16"]
    assert all(row["gain"] > 0 for row in document["rows"])
    assert err.count("µs") == 2


@pytest.mark.usefixtures("short")
def test_the_command_does_not_time_a_wrong_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = find_device("cpu")
    right = cpu.stepper
    assert right is not None

    def stepper(*arguments: Any) -> Any:
        step = right(*arguments)
        return lambda state, index, bits, rate: step(state, index, bits, 2 * rate)

    wrong = cpu._replace(stepper=stepper)
    monkeypatch.setattr(bench, "find_device", lambda name: wrong)
    assert cli.main(["bench", "--rounds", "1", "--seconds", "0.001"]) == 1
    out, err = capsys.readouterr()
    assert out.count("FAILED, not timed") == 2
    assert "µs" not in out
    assert "float64" in err


def test_launches_are_listed_in_every_tile_and_held_to_the_specification_first(
    cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import launches

    from mlp_xp.fast import cuda_source

    out = tmp_path / "launches.json"
    assert launches.main(["12-8-3:20", "--tiles", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["tile"] for row in rows] == [None, *([t.rows, t.columns] for t in launches.TILES)]
    for row in rows:
        names = [launch["name"] for launch in row["launches"]]
        assert names == ["layer_forward", "score", "gradients"]
        timed = not cupy.__version__.endswith("+cpu")
        assert all((launch["us"] is not None) == timed for launch in row["launches"])
    assert capsys.readouterr().out.count("12-8-3:20") == len(rows)
    original = cuda_source.gradients

    def wrong(*arguments: Any) -> Any:
        source = original(*arguments)
        return source._replace(code=source.code.replace("g = value", "g = -value"))

    monkeypatch.setattr(cuda_source, "gradients", wrong)
    with pytest.raises(SystemExit, match="the specification's"):
        launches.main(["12-8-3:20"])
