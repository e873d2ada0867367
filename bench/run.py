"""Measure mlp_xp beside its peers.

    python bench/run.py training --peers torch,torch-compile,jax,sklearn --out results.json
    python bench/run.py devices --out devices.json      # a CPU beside a GPU

Equality comes first: a contestant whose answer differs from a float64 run is printed as
failed and not timed. Each has its own process with the same number of threads; they are
timed in turns, round after round, and stand still when it is not theirs.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import results as stored
import timing
from cases import CASES, KINDS, PRECISIONS, Case, inputs, n_examples, work
from contest import apart, steps_together
from peers import OURS
from reference import Check, check
from worker import CEILINGS, peers

from mlp_xp.bench import summarise

HERE = Path(__file__).parent
DEFAULT_PEERS = "torch,torch-compile,jax,sklearn,onnxruntime"
ON_CUDA = ("jax-loop",)  # beside them: there our steps go several at a launch, too
LEARNT = 0.7  # accuracy on the digits after one epoch that shows a start-up program works
TRIALS = 3  # short blocks by which a peer's settings are compared
PATIENCE = 900  # seconds for one answer; compiling takes long
TURN = {"cpu": 0.2, "cuda": 0.05}  # seconds
CEILINGS_EVERY = {"cpu": 1, "cuda": 5}  # turns; a GPU's hardly move


class Options(NamedTuple):
    """What the command line asks for.

    devices    that were asked for; empty for those of the kind
    seconds    of one turn, or None for those of the device
    precision  of the products
    also       a file with more rows of `ROWS`, to try a contestant without adding it
    """

    kinds: tuple[str, ...]
    devices: tuple[str, ...]
    peers: tuple[str, ...]
    threads: int
    rounds: int
    seconds: float | None
    cases: str
    dtype: str
    precision: str
    also: str | None

    def on(self, device: str, kind: str) -> bool:
        """Whether a kind of case is to be measured on a device."""
        return device in (self.devices or (timing.DEVICES if kind == "devices" else ("cpu",)))

    def turn(self, device: str) -> float:
        """Seconds of one turn: a GPU's clock is steadier than a CPU that others use too."""
        return self.seconds or TURN[device]


class Worker:
    """A contestant's process, which stands still but for the time it takes to answer.

    patience  seconds for one answer
    """

    def __init__(self, ask: dict[str, Any], threads: int, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 — closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=timing.child_environment(threads, ask["case"]["dtype"]),
        )
        self.begin(ask)

    def begin(self, ask: dict[str, Any]) -> None:
        """Say who it is and on which case; `first` has the answer, when it is asked for."""
        self.setting, self.found = str(ask["setting"]), Path(ask["answer"])
        self._first: dict[str, Any] | None = None
        self.send({"do": "begin", **ask})

    @property
    def first(self) -> dict[str, Any]:
        """The answer to the last `begin`, waited for."""
        if self._first is None:
            self._first = self.answer()
        return self._first

    def send(self, order: dict[str, Any]) -> None:
        """Give an order, and do not wait for its answer."""
        with suppress(OSError):  # of a process that died: the answer says so
            self.process.send_signal(signal.SIGCONT)
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer; {"status": "failed"} from a process that died or took too long."""
        process, answer, late = self.process, b"", False
        assert process.stdout is not None
        with suppress(OSError):
            late = not select.select([process.stdout], [], [], self.patience)[0]
            answer = b"" if late else process.stdout.readline()
        if not answer:
            self.end()
            self.errors.seek(0)
            told = self.errors.read().decode(errors="replace").strip().splitlines()
            reason = told[-1] if told else "it ended without a word"
            if late:
                reason = f"no answer in {self.patience:.0f} s"
            return {"status": "failed", "reason": reason}
        process.send_signal(signal.SIGSTOP)
        return dict(json.loads(answer))

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send an order and wait for its answer."""
        self.send(order)
        return self.answer()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self.errors.close()


class Run:
    """All cases of one command line, and the rows they gave."""

    def __init__(self, options: Options, out: str | None) -> None:
        self.options, self.out = options, out
        self.peers = peers(options.also)
        self.results: stored.Results = {
            "format": stored.FORMAT,
            "environment": {
                **timing.machine(),
                "gpu": timing.gpu() if any(options.on("cuda", k) for k in options.kinds) else "",
                "threads": options.threads,
                "dropped": timing.dropped_variables(),
            },
            "options": options._asdict(),
            "ceilings": {},
            "rows": [],
        }

    def case(self, case: Case, device: str) -> None:
        """Measure one case on one device."""
        print(f"\n{case.kind}: {case.name}, {device}, {case.computes_in}", flush=True)
        refusal = timing.DEVICES[device].refusal()
        if refusal:
            why = {"status": "missing", "reason": refusal}
            rows = [self._row(case, device, name, **why) for name in self._entrants(case, device)]
        else:
            with tempfile.TemporaryDirectory() as folder:
                measure = self._startup if case.kind == "startup" else self._sessions
                rows = measure(case, device, Path(folder))
        self.results["rows"] += rows
        self._shares()
        for row in rows:
            print(stored.line(row), flush=True)
        if self.out:
            stored.save(self.results, self.out)

    def _entrants(self, case: Case, device: str) -> list[str]:
        """Who can take part: ourselves, then the peers asked for; devices are compared alone."""
        named = dict.fromkeys((*OURS, *self.options.peers))
        if case.kind == "devices":
            named = {stored.OURS: None}
        has = [name for name in named if self._has(name, case.kind)]
        lesser = case.precision != "float32"
        return [
            name
            for name in has
            if device in self.peers[name].devices and (self.peers[name].path or not lesser)
        ]

    def _has(self, name: str, kind: str) -> bool:
        peer = self.peers[name]
        return bool(peer.startup) if kind == "startup" else peer.make(kind) is not None

    def _row(self, case: Case, device: str, name: str, **known: Any) -> stored.Row:
        return {
            "kind": case.kind,
            "case": case.name,
            "contestant": name,
            "device": device,
            "hardware": self.results["environment"][stored.HARDWARE[device]],
            "dtype": case.computes_in,
            "sizes": list(case.sizes),
            "batch": case.batch,
            "cold": case.cold,
            "asked": case.asked,
            "threads": self.options.threads,
            **known,
        }

    # -- sessions --------------------------------------------------------------

    def _sessions(self, case: Case, device: str, folder: Path) -> list[stored.Row]:
        arrays = inputs(case)
        entrants = self._entrants(case, device)
        forms = {self.peers[name].epsilon_hat for name in entrants}
        judges = {form: check(case, arrays, form) for form in forms}
        for judge in judges.values():
            told_apart = judge.distance is None or judge.distance >= 10 * judge.relative
            # in less than float32 they are compared with each other, too, after more steps
            if not told_apart and case.precision == "float32":
                raise SystemExit(
                    f"{case.name}: three steps change the loss by {judge.distance:.2g} of "
                    f"itself, too little to be told from {judge.relative:.2g}: the check would "
                    "prove nothing."
                )
        np.savez(folder / "inputs.npz", allow_pickle=False, **arrays)
        del arrays
        rows, standing = [], {}
        with ExitStack() as stack:

            def start(name: str, setting: str = "") -> Worker:
                worker = self._worker(name, case, device, setting, folder)
                return stack.enter_context(worker)

            ceilings = start(CEILINGS)
            begun: dict[str, list[Worker]] = {}
            for name in entrants:
                begun[name] = []
                for setting in self.peers[name].tried(case.kind, device):
                    begun[name].append(start(name, setting))
                    if device == "cpu":  # or they would take each other's cores
                        _ = begun[name][-1].first
            off = {}
            if case.trains and case.precision != "float32":
                off = self._together(case, [worker for each in begun.values() for worker in each])
            for name in entrants:
                judge = judges[self.peers[name].epsilon_hat]
                seconds = self.options.turn(device) / 2
                worker, reason = self._entrant(begun[name], judge, off, seconds)
                if worker is None:
                    rows.append(self._row(case, device, name, **reason))
                else:
                    standing[name] = (worker, reason)
            rows += self._rounds(case, device, ceilings, standing)
        return rows

    @staticmethod
    def _together(case: Case, workers: list[Worker]) -> dict[Worker, dict[str, Any]]:
        """Whose loss after more steps is not that of the others, and what is to be said of it."""
        order = {"do": "after", "n": steps_together(case)}
        ready = [worker for worker in workers if worker.first["status"] == "ready"]
        answers = {worker: worker.ask(order) for worker in ready}
        losses = {str(i): answers[w]["loss"] for i, w in enumerate(ready) if "loss" in answers[w]}
        found = {worker: answer for worker, answer in answers.items() if "loss" not in answer}
        for i, reason in apart(case, losses).items():
            found[ready[int(i)]] = {"status": "failed", "reason": reason}
        return found

    def _worker(self, name: str, case: Case, device: str, setting: str, folder: Path) -> Worker:
        ask = {
            "peer": name,
            "case": case._asdict(),
            "device": device,
            "setting": setting,
            "threads": self.options.threads,
            "inputs": str(folder / "inputs.npz"),
            "answer": str(folder / f"answer {name} {setting}.npy"),
            "also": self.options.also,
        }
        return Worker(ask, self.options.threads)

    def _entrant(
        self,
        begun: list[Worker],
        judge: Check,
        off: dict[Worker, dict[str, Any]],
        seconds: float,
    ) -> tuple[Worker | None, dict[str, Any]]:
        """The worker of a peer's fastest setting that is right, or why there is none."""
        right: list[tuple[Worker, float]] = []
        refused: dict[str, Any] = {}
        lost = []  # settings that are not right, beside one that is
        for worker in begun:
            setting = worker.setting
            if worker.first["status"] != "ready" or worker in off:
                refused = off.get(worker, worker.first)
                lost.append(f"{setting}: {refused['reason']}")
                continue
            difference = judge.difference(np.load(worker.found))
            if difference <= judge.relative:
                right.append((worker, difference))
                continue
            reason = f"differs from float64 by {difference:.2g}, more than {judge.relative:.2g}"
            refused = {"status": "failed", "reason": reason, "difference": difference}
            lost.append(f"{setting}: {reason}")
        if not right:
            return None, refused
        if len(right) > 1:
            right.sort(key=lambda pair: self._trial(pair[0], seconds))
            for worker, _ in right[1:]:
                worker.end()
        worker, difference = right[0]
        known = {"difference": difference, "tolerance": judge.relative, "settings_refused": lost}
        return worker, known

    @staticmethod
    def _trial(worker: Worker, seconds: float) -> float:
        """Seconds of a step, quickly; infinite for one that cannot go on."""
        n = worker.ask({"do": "count", "seconds": seconds}).get("n", 0)
        times = [worker.ask({"do": "block", "n": n}).get("total", np.inf) for _ in range(TRIALS)]
        return float(np.median(times))

    def _rounds(
        self,
        case: Case,
        device: str,
        ceilings: Worker,
        standing: dict[str, tuple[Worker, dict[str, Any]]],
    ) -> list[stored.Row]:
        options = self.options
        count = {"do": "count", "seconds": options.turn(device)}
        n = {name: worker.ask(count).get("n", 0) for name, (worker, _) in standing.items()}
        blocks: dict[str, list[dict[str, Any]]] = {name: [] for name in standing}
        names = list(standing)
        for turn in range(options.rounds):
            if ceilings.first["status"] == "ready" and turn % CEILINGS_EVERY[device] == 0:
                order = {"do": CEILINGS, "seconds": options.turn(device)}
                self._ceiling(device, case.computes_in, ceilings.ask(order))
            for name in names[turn % max(1, len(names)) :] + names[: turn % max(1, len(names))]:
                blocks[name].append(standing[name][0].ask({"do": "block", "n": n[name]}))
        rows = []
        for name, (worker, known) in standing.items():
            broken = next((block for block in blocks[name] if "total" not in block), None)
            ended = worker.ask({"do": "end"}) if broken is None else broken
            if broken is not None or "memory" not in ended:
                rows.append(self._row(case, device, name, **ended))
                continue
            known = {**known, **ended, "setting": worker.setting, "steps_a_round": n[name]}
            rows.append(self._row(case, device, name, **known, **self._times(case, blocks[name])))
        return rows

    def _ceiling(self, device: str, computes_in: str, found: dict[str, Any]) -> None:
        """Keep the highest rates seen in the run."""
        if "gemm" in found:
            name = f"{device} {computes_in}"
            best = self.results["ceilings"].setdefault(name, dict.fromkeys(found, 0))
            best |= {name: max(best[name], found[name]) for name in found}

    @staticmethod
    def _times(case: Case, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        rounds = [block["total"] for block in blocks]
        summary, needed = summarise(rounds), work(case)
        assert needed is not None
        on_device = [block["device"] for block in blocks if block["device"] is not None]
        return {
            "status": "ok",
            **summary._asdict(),
            "rounds": rounds,
            "host_seconds": float(np.median([block["host"] for block in blocks])),
            "device_seconds": float(np.median(on_device)) if on_device else None,
            "examples": n_examples(case),
            "examples_per_second": case.batch / summary.median,
            "flops": needed.flops,
            "moved": needed.moved,
            "held": needed.held,
            "gflops": needed.flops / summary.median / 1e9,
        }

    def _shares(self) -> None:
        """Per cent of the run's ceilings, as far as they are known."""
        for row in stored.timed(self.results):
            ceiling = self.results["ceilings"].get(f"{row['device']} {row['dtype']}")
            if ceiling and "flops" in row:
                row["percent_gemm"] = 100 * row["flops"] / row["median"] / ceiling["gemm"]
                row["percent_copy"] = 100 * row["moved"] / row["median"] / ceiling["copy"]

    # -- start-up --------------------------------------------------------------

    def _startup(self, case: Case, device: str, folder: Path) -> list[stored.Row]:
        """Whole processes, from start to end, in turns."""
        rows, entrants = [], []
        for name in self._entrants(case, device):
            accuracy, known = self._process(name, case)  # writes byte code, fills the file cache
            if accuracy is None:
                rows.append(self._row(case, device, name, **known))
            elif accuracy < LEARNT:
                reason = f"accuracy {accuracy:.2f} after an epoch, below {LEARNT}"
                rows.append(self._row(case, device, name, status="failed", reason=reason))
            else:
                entrants.append(name)
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in entrants}
        for turn in range(self.options.rounds):
            for name in entrants[turn % len(entrants) :] + entrants[: turn % len(entrants)]:
                taken[name].append(self._process(name, case)[1])
        for name, processes in taken.items():
            rounds = [process["seconds"] for process in processes]
            memory = float(np.median([process["memory"] for process in processes]))
            known = {"status": "ok", "rounds": rounds, "memory": memory, "peak_memory": memory}
            known |= {"setting": "", "host_seconds": None, "device_seconds": None, "blas": ""}
            known |= summarise(rounds)._asdict()
            rows.append(self._row(case, device, name, **known))
        return rows

    def _process(self, name: str, case: Case) -> tuple[float | None, dict[str, Any]]:
        """Accuracy a start-up program printed, with its seconds and peak memory."""
        import mlp_xp

        digits = Path(mlp_xp.__file__).parent / "datasets" / "digits.npz"
        threads = self.options.threads
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", self.peers[name].startup, str(digits)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=timing.child_environment(threads, case.dtype),
            preexec_fn=lambda: timing.pin(threads),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        printed, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        process.stdout.close()
        process.stderr.close()
        if process.returncode != 0:
            told = errors.decode(errors="replace").strip().splitlines()[-1:]
            missing = bool(told) and told[0].startswith(("ModuleNotFoundError", "ImportError"))
            return None, {
                "status": "missing" if missing else "failed",
                "reason": told[0] if told else f"exit code {process.returncode}",
            }
        unit = 1 if sys.platform == "darwin" else 1024
        return float(printed.split()[-1]), {"seconds": seconds, "memory": usage.ru_maxrss * unit}


def _comma(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def options_of(argv: Sequence[str] | None = None) -> tuple[Options, str | None]:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (default: all but the last)")
    add(
        "--device",
        default="",
        help="cpu, cuda, or both with a comma (default: cpu; of devices both)",
    )
    more = ",".join(ON_CUDA)
    add("--peers", help=f"with commas (default: {DEFAULT_PEERS}; on cuda also {more})")
    add("--threads", type=int, default=_cores(), help="of every contestant (default: all cores)")
    add("--rounds", type=int, default=15, help="turns of each contestant (default: 15)")
    turns = ", ".join(f"{seconds:g} on {device}" for device, seconds in TURN.items())
    add("--seconds", type=float, help=f"of one turn (default: {turns})")
    add("--cases", default="*", metavar="PATTERN", help="names of cases, as in a shell")
    add("--dtype", default="float32", choices=("float32", "float64"))
    add("--precision", default="float32", choices=PRECISIONS, help="of products, on cuda")
    add("--also", metavar="FILE", help="a Python file with more ROWS of peers")
    add("--out", metavar="FILE", help="write results as JSON")
    args = parser.parse_args(argv)
    devices = _comma(args.device)
    standard = DEFAULT_PEERS + (f",{more}" if "cuda" in devices else "")
    options = Options(
        tuple(args.kinds) or KINDS[:-1],
        devices,
        _comma(standard if args.peers is None else args.peers),
        args.threads,
        args.rounds,
        args.seconds,
        args.cases,
        args.dtype,
        args.precision,
        args.also,
    )
    known = peers(args.also)
    for given, table, what in (
        (options.kinds, KINDS, "kind"),
        (options.devices, timing.DEVICES, "device"),
        (options.peers, known, "peer"),
    ):
        for name in given:
            if name not in table:
                parser.error(f"{what} {name!r}, but expected one of {', '.join(table)}")
    if not 1 <= options.threads <= _cores():
        parser.error(f"--threads {options.threads}, but expected 1 to {_cores()}")
    if options.rounds < 1 or (options.seconds is not None and options.seconds <= 0):
        parser.error("--rounds and --seconds must be more than 0")
    if options.precision != "float32" and (options.devices, options.dtype) != (
        ("cuda",),
        "float32",
    ):
        parser.error(f"--precision {options.precision} is for --device cuda and float32 alone")
    return options, args.out


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 1 if a contestant failed."""
    options, out = options_of(argv)
    run = Run(options, out)
    asked = {"dtype": options.dtype, "precision": options.precision}
    for device in timing.DEVICES:
        for case in CASES:
            named = case.kind in options.kinds and fnmatch.fnmatch(case.name, options.cases)
            if named and options.on(device, case.kind):
                run.case(case._replace(**asked), device)
    print("\nThe best peer's time / ours, paired by rounds:")
    for one in stored.standings(run.results):
        aim = f"  (asked {one.asked:g})" if one.asked is not None else ""
        spec = f", specification {one.specification:.2f}" if one.specification else ""
        peer = f"{one.ratio:.2f} {one.peer}" if one.peer else "no peer"
        print(f"  {one.kind:<10} {one.case:<28} {one.device:<5} {peer}{aim}{spec}")
    return int(any(row["status"] == "failed" for row in run.results["rows"]))


if __name__ == "__main__":
    sys.exit(main())
