"""The harness in bench/: what is wrong is not timed, what changed is found, every row is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cases
import compare
import numpy as np
import pytest
import reference
import results as stored
import timing

from mlp_xp import bench, cli
from mlp_xp.devices import device as find_device

ROOT = Path(__file__).parent.parent
QUICK = ("--rounds", "2", "--seconds", "0.002", "--threads", "1")
SMALL = [case for case in cases.CASES if case.kind == "training" and max(case.sizes) <= 128]

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

    return {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_CORETYPE": "Haswell"}


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


@pytest.mark.parametrize("arguments", [["cooking"], ["--peers", "nobody"], ["--threads", "0"]])
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str]) -> None:
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
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


# -- the report ----------------------------------------------------------------


def test_the_report_shows_every_row(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed")
    import report

    also = tmp_path / "wrong.py"
    also.write_text(WRONG)
    patterns = ("training", "--cases", "20-16-1 *", "--peers", "lazy", "--also", str(also))
    _, _, results = run(tmp_path, *patterns)
    files = report.page(results, tmp_path / "page.html")
    text = files[0].read_text(encoding="utf-8")
    for row in results["rows"]:
        assert f"<td>{row['contestant']}</td>" in text
    assert "failed, not timed" in text
    assert "http" not in text  # nothing is fetched
    assert text.count("data:image/png;base64,") == 4
    names = {path.name for path in files[1:]}
    themes = ("light", "dark")
    assert names == {f"page-{c}-{t}.png" for c in ("throughput", "roofline") for t in themes}
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
