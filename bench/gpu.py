"""What a GPU does with the project: every figure in one run of five minutes, with no network.

    python bench/gpu.py OUT                     all sections
    python bench/gpu.py OUT steps predict       some
    python bench/gpu.py OUT --smoke             tiny and without times, on any CuPy

Writes OUT/results.json, anew after every case, so that a run that is cut off leaves what it
had, and OUT/table.md. Contestants are those of `peers.py`, each in a process of its own that
goes from case to case; one that dies or does not answer is failed, and begins anew with the
next case. Nothing is timed before all agree: at the fourth batch with a float64 run, and
after many steps from equal weights on equal batches with each other.

    steps      an epoch as `fit` runs it, divided by its steps
    predict    `MLP.predictor`, a call
    networks   many networks trained at once, each on batches of its own
    precision  TF32 and bfloat16, where products are large
    upload     bench/upload.py
    evaluate   `MLP.evaluate` of rows on the host: the first call of a process, and the second
    selftest   mlp-xp selftest
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import results as stored
import timing
from cases import Case, inference, inputs, training, work
from contest import apart, steps_together
from reference import Check, check
from run import HERE, Worker
from sections import AIMS

from mlp_xp.bench import summarise

LIMIT = 290.0  # seconds of the whole run
PATIENCE = 60.0  # seconds for one answer: CUDA starts, kernels are compiled
LEAST = 10.0  # seconds without which a case is not begun
TURNS = 5  # of every contestant
EPOCH = 256  # steps of a turn at least, where they take no longer than six turns should
SECONDS = {"inference": 0.05, "training": 0.1}  # of a turn
WIDE = (784, 4096, 4096, 10)
CASES = (
    training((20, 16, 1), 32),
    training((784, 100, 10), 32),
    training((784, 100, 10), 200),
    training((784, 100, 10), 1000),
    training((784, 256, 10), 128),
    training((784, 512, 512, 10), 128),
    training((64, *(128,) * 8, 10), 256),
    training((784, 2048, 2048, 10), 512),
)
SMALL = (training((5, 4, 1), 8), training((6, 5, 4, 3), 8))


class Entrant(NamedTuple):
    """A contestant as it takes part: its row in `peers.py`, the setting to try, and where."""

    peer: str
    setting: str = ""
    device: str = "cuda"

    @property
    def name(self) -> str:
        """As the table has it."""
        where = "on the CPU" if self.device == "cpu" else ""
        return ", ".join(part for part in (self.peer, self.setting, where) if part)

    def emulated(self) -> Entrant:
        """The same where there is no GPU: ours on any CuPy, the others on the CPU."""
        if self.peer.startswith("mlp_xp"):
            return self
        return Entrant(self.peer, "fused" if self.peer == "torch" else "", "cpu")


OURS = Entrant("mlp_xp")
TORCH, JAX, LOOP = Entrant("torch", "CUDA graph"), Entrant("jax"), Entrant("jax-loop")
NETWORKS = tuple(Entrant("mlp_xp-networks", n) for n in ("8", "64", "256"))


class Gauge:
    """One run: what it may take, what it found, and the processes of its contestants."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self.out, self.smoke, self.stack = options.out, options.smoke, stack
        self.patience, self.also = options.patience, options.also
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.ends = time.monotonic() + (np.inf if self.smoke else options.limit)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.workers: dict[str, Worker] = {}
        environment = {**timing.machine(), "gpu": timing.gpu(), "timed": not self.smoke}
        self.results: dict[str, Any] = {
            "format": stored.FORMAT,
            "environment": environment,
            "sections": {},
        }

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def note(self, section: str, found: Any) -> None:
        """Keep what a section found, and write it down."""
        sections = self.results["sections"]
        if isinstance(found, list):
            found = [*sections.get(section, []), *found]
        sections[section] = found
        self.out.mkdir(parents=True, exist_ok=True)
        stored.save(self.results, self.out / "results.json")
        (self.out / "table.md").write_text(table(self.results), encoding="utf-8")

    # -- contestants

    def race(self, section: str, case: Case, entrants: Sequence[Entrant]) -> None:
        """Check all on a case, then time those that are right, in turns."""
        print(f"{section}: {case.name}, {case.computes_in}", flush=True)
        if self.smoke:
            entrants = [entrant.emulated() for entrant in entrants]
        if self.left < LEAST:
            late = {"status": "missing", "reason": "no time was left"}
            self.note(section, [self._row(case, entrant) | late for entrant in entrants])
            return
        arrays = inputs(case)
        np.savez(self.folder / "inputs.npz", allow_pickle=False, **arrays)
        begun = {entrant: self._begin(case, entrant) for entrant in entrants}
        judge = check(case, arrays)
        rows = {entrant: self._row(case, entrant) for entrant in entrants}
        right = {}
        for entrant, worker in begun.items():
            rows[entrant] |= self._checked(worker, judge)
            if rows[entrant]["status"] == "ok":
                right[entrant] = worker
        if case.trains:
            self._together(case, right, rows)
        if not self.smoke:
            self._timed(case, right, rows)
        if section == "steps" and OURS in right:
            rows[OURS]["kernels"] = right[OURS].ask({"do": "end"}).get("kernels")
        for row in rows.values():
            print("  " + line(row), flush=True)
        self.note(section, list(rows.values()))

    def _row(self, case: Case, entrant: Entrant) -> dict[str, Any]:
        return {
            "case": case.name,
            "contestant": entrant.name,
            "device": entrant.device,
            "precision": case.precision,
            "sizes": list(case.sizes),
            "batch": case.batch,
        }

    def _begin(self, case: Case, entrant: Entrant) -> Worker:
        """The contestant told of the case, in the process it has, or in a new one."""
        ask = {
            "peer": entrant.peer,
            "case": case._asdict(),
            "device": entrant.device,
            "setting": entrant.setting,
            "threads": self.threads,
            "inputs": str(self.folder / "inputs.npz"),
            "answer": str(self.folder / f"{entrant.name}.npy"),
            "also": self.also,
            "timed": not self.smoke,
        }
        worker, patience = self.workers.get(entrant.name), max(1.0, min(self.patience, self.left))
        if worker is not None and worker.alive:
            worker.patience = patience
            worker.begin(ask)
        else:
            worker = self.stack.enter_context(Worker(ask, self.threads, patience))
            self.workers[entrant.name] = worker
        return worker

    @staticmethod
    def _checked(worker: Worker, judge: Check) -> dict[str, Any]:
        """Whether its answer is that of a float64 run."""
        if worker.first["status"] != "ready":
            return worker.first
        difference = judge.difference(np.load(worker.found))
        # three steps of the widest network move the loss by two thirds, and right ones 1e-4 apart
        allowed = max(judge.relative, min(1e-3, (judge.distance or 0.0) / 100))
        found: dict[str, Any] = {"status": "ok", "difference": difference}
        if not difference <= allowed:
            reason = f"differs from float64 by {difference:.2g}, more than {allowed:.2g}"
            found |= {"status": "failed", "reason": reason}
        return found

    def _together(
        self, case: Case, right: dict[Entrant, Worker], rows: dict[Entrant, dict[str, Any]]
    ) -> None:
        """Leave out those whose loss after many steps is not that of the others."""
        steps = steps_together(case)
        losses = {}
        for entrant, worker in list(right.items()):
            answer = worker.ask({"do": "after", "n": steps})
            rows[entrant] |= {"after": steps, **answer}
            if "loss" in answer:
                losses[entrant.name] = answer["loss"]
            else:
                del right[entrant]
        off = apart(case, losses)
        for entrant in list(right):
            if entrant.name in off:
                rows[entrant] |= {"status": "failed", "reason": off[entrant.name]}
                del right[entrant]

    def _timed(
        self, case: Case, right: dict[Entrant, Worker], rows: dict[Entrant, dict[str, Any]]
    ) -> None:
        needed = work(case)
        assert needed is not None
        n: dict[Entrant, int] = {}
        for entrant, worker in right.items():
            found = worker.ask({"do": "count", "seconds": SECONDS[case.kind]}).get("n", 1)
            n[entrant] = max(found, min(EPOCH, 6 * found)) if case.trains else found
        blocks: dict[Entrant, list[dict[str, Any]]] = {entrant: [] for entrant in right}
        for _ in range(TURNS):
            for entrant, worker in right.items():
                blocks[entrant].append(worker.ask({"do": "block", "n": n[entrant]}))
        for entrant, found in blocks.items():
            broken = next((block for block in found if "total" not in block), None)
            if broken is not None:
                rows[entrant] |= broken
                continue
            turns = [block["total"] for block in found]
            summary = summarise(turns)
            on_device = [block["device"] for block in found if block["device"] is not None]
            rows[entrant] |= {
                "seconds": summary.median,
                "least": summary.least,
                "spread": summary.spread,
                "turns": turns,
                "steps_a_turn": n[entrant],
                "host_seconds": float(np.median([block["host"] for block in found])),
                "device_seconds": float(np.median(on_device)) if on_device else None,
                "examples_per_second": case.batch / summary.median,
                "tflops": needed.flops / summary.median / 1e12,
            }

    # -- programs of their own

    def program(self, section: str, command: Sequence[str], limit: float, answer: Path) -> None:
        """Run a program that writes JSON to a file, or to standard output if it does not."""
        print(f"{section}: {' '.join(command)}", flush=True)
        began, limit = time.monotonic(), max(1.0, min(limit, self.left))
        found: dict[str, Any] = {"status": "failed"}
        try:
            done = subprocess.run(
                [sys.executable, *command],
                env=timing.child_environment(self.threads, "float32"),
                capture_output=True,
                text=True,
                check=False,
                timeout=limit,
            )
            told = done.stderr.strip().splitlines()
            found["found"] = _document(answer.read_text() if answer.exists() else done.stdout)
            found["status"] = "ok" if done.returncode == 0 else "failed"
            found["reason"] = told[-1] if told else f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            found["reason"] = f"not done in {limit:.0f} s"
        found["took_seconds"] = time.monotonic() - began
        print("  " + found["status" if found["status"] == "ok" else "reason"], flush=True)
        self.note(section, found)


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # where nothing is timed, a program may have words alone
        return {"said": text.strip()}


# -- sections ------------------------------------------------------------------


def steps(gauge: Gauge) -> None:
    """The step, beside PyTorch's as a CUDA graph and JAX's by call and as a loop."""
    more = [Entrant(name) for name in runpy.run_path(gauge.also)["ROWS"]] if gauge.also else []
    for case in SMALL if gauge.smoke else CASES:
        gauge.race("steps", case._replace(cold=False), (OURS, TORCH, JAX, LOOP, *more))


def predict(gauge: Gauge) -> None:
    """Probabilities of a few rows."""
    networks: tuple[tuple[int, ...], ...] = ((784, 100, 10), (784, 1024, 1024, 10))
    for sizes in ((6, 5, 3),) if gauge.smoke else networks:
        for rows in (1, 32, 1000):
            case = inference(sizes, rows, cold=False)
            gauge.race("predict", case, (OURS, TORCH, JAX))


def networks(gauge: Gauge) -> None:
    """One network, then more at once."""
    found: tuple[Case, ...] = (training((784, 256, 10), 128), training((20, 32, 32, 2), 32))
    for case in SMALL[1:] if gauge.smoke else found:
        many = NETWORKS[:1] if gauge.smoke else NETWORKS
        gauge.race("networks", case._replace(cold=False), (OURS, *many))


def precision(gauge: Gauge) -> None:
    """Products of less than float32."""
    for case in SMALL[1:] if gauge.smoke else (CASES[-1], training(WIDE, 4096)):
        for name in ("tf32", "bfloat16"):
            less = case._replace(cold=False, precision=name)
            gauge.race("precision", less, (OURS, TORCH, LOOP))


def upload(gauge: Gauge) -> None:
    """Data that go up from the host."""
    answer = gauge.folder / "upload.json"
    few = ["--rows", "300", "--hidden", "8"] if gauge.smoke else []
    gauge.program("upload", [str(HERE / "upload.py"), "--out", str(answer), *few], 90, answer)


def evaluate(gauge: Gauge) -> None:
    """Rows on the host."""
    answer = gauge.folder / "evaluate.json"
    more = ["--smoke"] if gauge.smoke else []
    gauge.program("evaluate", [__file__, str(answer), "--evaluate", *more], 60, answer)


def selftest(gauge: Gauge) -> None:
    """Whether the device computes right, and its rates."""
    command = ["-m", "mlp_xp", "selftest", "--device", "cuda", "--json"]
    gauge.program("selftest", command, 120, gauge.folder / "none")


# by what is wanted most, should time run out
SECTIONS: dict[str, Callable[[Gauge], None]] = {
    "steps": steps,
    "predict": predict,
    "precision": precision,
    "networks": networks,
    "upload": upload,
    "evaluate": evaluate,
    "selftest": selftest,
}


def evaluation(smoke: bool) -> dict[str, Any]:
    """Seconds of two calls of `MLP.evaluate` on rows of the host; the CPU must agree."""
    from mlp_xp import MLP

    sizes, m = ((6, 5, 3), 64) if smoke else ((784, 1024, 1024, 10), 60_000)
    random = np.random.default_rng(0)
    rows = random.standard_normal((m, sizes[0]), dtype=np.float32)
    labels = random.integers(0, sizes[-1], m)
    model, seconds, scores = MLP(sizes, device="cuda", seed=0), [], []
    for _ in range(2):
        began = time.perf_counter()
        scores.append(model.evaluate(rows.T, labels))
        seconds.append(time.perf_counter() - began)
    expected = MLP(sizes, device="cpu", seed=0).evaluate(rows.T, labels)
    for score in scores:
        if not abs(score.loss - expected.loss) <= 1e-4 * expected.loss:
            raise SystemExit(f"the loss is {score.loss}, on the CPU {expected.loss}")
    names = ("first_seconds", "second_seconds")
    times = dict.fromkeys(names) if smoke else dict(zip(names, seconds, strict=True))
    return {"sizes": list(sizes), "rows": m, "loss": scores[0].loss, **times}


# -- what is told --------------------------------------------------------------


def line(row: dict[str, Any]) -> str:
    """A row as the terminal shows it."""
    told = f"{row['contestant']:<26} "
    if row["status"] != "ok":
        return f"{told}{row['status'].upper()}: {row['reason']}"
    if "seconds" not in row:
        return f"{told}right"
    parts = [
        f"{stored.duration(row['seconds']):>9}",
        f"±{100 * row['spread']:.0f}%",
        f"least {stored.duration(row['least'])}",
        f"host {stored.duration(row['host_seconds'])}",
        f"{row['tflops']:.3g} TFLOP/s",
    ]
    return told + "  ".join(parts)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["status"] != "ok":
        return str(row["status"])
    if "seconds" not in row:
        return "right"
    more = f" ({row['tflops']:.0f} TFLOP/s)" if row["precision"] != "float32" else ""
    return f"{1e6 * row['seconds']:,.1f}{more}"


def _race_table(section: str, rows: list[dict[str, Any]]) -> list[str]:
    """A line a case, a column a contestant, µs; and how the others stand to us."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    aims = any(name == section for name, _ in AIMS)
    head = ["case", *names, *(["aim"] if aims else [])]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    cases = dict.fromkeys((row["case"], row["precision"]) for row in rows)
    ratios: dict[str, list[float]] = {}
    for case, computed_in in cases:
        mine = {
            row["contestant"]: row
            for row in rows
            if (row["case"], row["precision"]) == (case, computed_in)
        }
        cells = [case if computed_in == "float32" else f"{case}, {computed_in}"]
        cells += [_cell(mine.get(name)) for name in names]
        if aims:
            cells.append(f"{AIMS[section, case]}" if (section, case) in AIMS else "")
        lines.append("| " + " | ".join(cells) + " |")
        ours = mine.get(OURS.name, {}).get("seconds")
        for name, row in mine.items():
            if name != OURS.name and ours and "seconds" in row:
                ratios.setdefault(name, []).append(row["seconds"] / ours)
    lines.append("")
    lines += [
        f"{name} / ours: {np.exp(np.mean(np.log(found))):.2f} (geometric mean of {len(found)}), "
        f"least {min(found):.2f}"
        for name, found in ratios.items()
    ]
    return lines


def table(results: dict[str, Any]) -> str:
    """Everything in a few lines of Markdown."""
    environment = results["environment"]
    lines = [f"# {environment['gpu'] or 'no GPU'}", ""]
    lines.append(", ".join(f"{k} {v}" for k, v in environment["packages"].items()))
    if not environment["timed"]:
        lines += ["", "Nothing was timed."]
    for section, found in results["sections"].items():
        lines += ["", f"## {section}", ""]
        if isinstance(found, list):
            lines += ["Microseconds.", "", *_race_table(section, found)]
        elif found["status"] != "ok":
            lines.append(f"{found['status']}: {found['reason']}")
        else:
            lines += ["```", json.dumps(found["found"], indent=1, ensure_ascii=False), "```"]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections; 1 where a contestant or a program failed, 2 where none can run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder for results.json and table.md")
    add("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} (default: all)")
    add("--smoke", action="store_true", help="tiny cases without times, on any CuPy")
    add("--also", metavar="FILE", help="a Python file with more ROWS of peers, for the steps")
    seconds = f"seconds for one answer (default: {PATIENCE:g})"
    add("--patience", type=float, default=PATIENCE, metavar="S", help=seconds)
    seconds = f"seconds of the whole run (default: {LIMIT:g})"
    add("--limit", type=float, default=LIMIT, metavar="S", help=seconds)
    add("--evaluate", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(argv)
    if args.evaluate:
        args.out.write_text(json.dumps(evaluation(args.smoke)), encoding="utf-8")
        return 0
    for name in args.sections:
        if name not in SECTIONS:
            parser.error(f"section {name!r}, but expected one of {', '.join(SECTIONS)}")
    refusal = "" if args.smoke else timing.DEVICES["cuda"].refusal()
    if refusal:
        print(refusal, file=sys.stderr)
        return 2
    with ExitStack() as stack:
        gauge = Gauge(args, stack)
        for name, section in SECTIONS.items():
            if name not in (args.sections or SECTIONS):
                continue
            began = time.monotonic()
            section(gauge)
            print(f"{name} took {time.monotonic() - began:.0f} s, {gauge.left:.0f} left\n")
        print((args.out / "table.md").read_text(encoding="utf-8"))
        return int(any(_failed(found) for found in gauge.results["sections"].values()))


def _failed(found: Any) -> bool:
    rows = found if isinstance(found, list) else [found]
    return any(row["status"] == "failed" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
