"""A search's study: Optuna's, and the loop in which one process of several works at it.

A trial that runs belongs to a process, which gives signs of life to the storage (Optuna's
heartbeat); on one machine others also see whether the process is there. The trials of a process
that has ended do not count, and are run again.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..extras import missing
from ..fitting import Interrupts, TrainingDiverged
from ..report import counted
from .space import arguments, draw
from .task import CHOOSE_BY, REDUCTION, RUNGS, OutOfTime, Task, Watch, differences

HEARTBEAT, SILENT = 10, 60  # seconds between signs of life; until a process counts as dead
OPENINGS = 6  # tries to open a storage
TRIES = 3  # of a trial whose process ended
PAUSE = 1.0  # seconds between two looks at what other processes do
RECORD = "mlp_xp"  # the study's attribute with what it was begun for

# Tokens of the searches that run in this process.
_RUNNING: set[str] = set()


class _Surplus(Exception):
    """Another process has begun the same trial."""


def check_optuna() -> Any:
    """Optuna; ImportError names the extra where it is missing."""
    try:
        import optuna
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "optuna":
            raise
        raise missing("a search needs Optuna", "search", error) from None
    return optuna


@contextmanager
def quiet() -> Iterator[Any]:
    """Optuna without its log and without warnings that a part of it may change."""
    optuna = check_optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)


def address(storage: str | os.PathLike[str]) -> str:
    """The address of a storage: a file's name means SQLite in that file."""
    text = os.fspath(storage)
    return text if "://" in text else f"sqlite:///{text}"


def place(storage: Any) -> str:
    """Where a study lies, for people: without a password."""
    if storage is None:
        return "memory"
    if not isinstance(storage, str | os.PathLike):
        return type(storage).__name__
    text = os.fspath(storage)
    if "://" not in text:
        return text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return str(make_url(text).render_as_string(hide_password=True))
    except ArgumentError:
        raise ValueError(
            "storage is no address that Optuna knows: expected a file's name for SQLite, or one "
            "such as postgresql://USER@HOST/NAME."
        ) from None


def _one_at_a_time(engine: Any) -> None:
    """Let an SQLite file's transactions begin with its lock, before they read.

    Optuna takes a waiting trial by reading its state and writing another, and relies on
    SELECT … FOR UPDATE in between, which SQLite does not know: two processes would run one trial.
    """
    from sqlalchemy import event

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # Python's module begins none of its own

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)


def _opened(optuna: Any, storage: Any) -> Any:
    """Optuna's storage of an address, with signs of life of the processes that work at it."""
    if storage is None or not isinstance(storage, str | os.PathLike):
        return storage
    from sqlalchemy.exc import ArgumentError, DatabaseError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    url, options = address(storage), dict[str, Any]()
    if url.startswith("sqlite"):  # a file is closed when nothing is asked of it: nobody else would
        options = {"connect_args": {"timeout": SILENT}, "poolclass": NullPool}
    if "://" not in os.fspath(storage):
        folder = Path(os.fspath(storage)).resolve().parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{storage} cannot be written: there is no folder {folder}.")
    for tries in range(OPENINGS):
        try:
            opened = optuna.storages.RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT,
                grace_period=SILENT,
                heartbeat_stale_trial_callback=_again,
            )
        except (ArgumentError, ImportError) as error:
            why = str(error).strip().partition("\n")[0]
            raise ValueError(f"storage {place(storage)} cannot be used: {why}") from None
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            # another process makes the tables at this moment, or it is no database at all
            if tries == OPENINGS - 1 or type(error) is DatabaseError:
                why = str(error.__cause__ or error).partition("\n")[0]
                raise ValueError(f"storage {place(storage)} cannot be opened: {why}") from None
            time.sleep(0.1 * (tries + 1))
        else:
            if opened.engine.dialect.name == "sqlite":
                _one_at_a_time(opened.engine)
            return opened
    return None


def _sampler(optuna: Any, seed: int, number: int) -> Any:
    """Of its own for each trial: processes side by side draw different numbers."""
    text = f"{seed} {number}".encode()
    own = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest())
    return optuna.samplers.TPESampler(seed=own)


def _pruner(optuna: Any, pruning: str, first: int, epochs: int) -> Any:
    """first  epochs to the first rung"""
    if pruning == "none":
        return optuna.pruners.NopPruner()
    if pruning == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=first, max_resource=epochs, reduction_factor=REDUCTION
        )
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)


def _begun() -> str:
    """When this process began, in the system's ticks: a number is given to others again."""
    return _began(os.getpid())


def _began(pid: int) -> str:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _machine() -> str:
    """Where the number of a process means this process: a machine's name, a container's own."""
    with suppress(OSError, AttributeError):
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def _identity(token: str) -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "begun": _begun(), "token": token}


def _is_dead(trial: Any, token: str) -> bool:
    """Whether nobody works at a running trial any more, as far as it can be known here.

    Of another machine Optuna's heartbeat tells.
    """
    process = trial.user_attrs.get("process")
    if process is None:  # it ended before it could say who it was
        begun = trial.datetime_start
        return begun is not None and time.time() - begun.timestamp() > SILENT
    if process["machine"] != _machine() or os.name != "posix":
        return False
    if process["pid"] == os.getpid() and process["begun"] == _begun():
        return process["token"] == token or process["token"] not in _RUNNING
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return bool(_began(process["pid"]) != process["begun"])


def _again(study: Any, trial: Any) -> None:
    """Put a trial that was broken off in the queue; not for ever, for it may be what kills."""
    tries = trial.user_attrs.get("tries", 1)
    others = (other.user_attrs.get("again") for other in study.get_trials(deepcopy=False))
    if not trial.params or tries >= TRIES or trial.number in others:
        return
    kept = {name: trial.user_attrs[name] for name in ("usual",) if name in trial.user_attrs}
    again = {"again": trial.number, "tries": tries + 1}
    study.enqueue_trial(trial.params, user_attrs={**kept, **again})


@contextmanager
def _released(interrupts: Interrupts) -> Iterator[None]:
    """Ctrl-C is not held back for a while."""
    interrupts.check()
    if not interrupts.ours:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Study:
    """Optuna's study of a task, and the loop in which this process works at it."""

    def __init__(
        self, optuna: Any, task: Task, storage: Any, name: str, say: Callable[[str], None]
    ):
        self.optuna, self.task, self.say = optuna, task, say
        self.states = optuna.trial.TrialState
        self.place, self.token, self.current = place(storage), uuid4().hex, -1
        self.interrupts = Interrupts()
        self.every = max(1, task.epochs // REDUCTION**RUNGS)
        self.study = optuna.create_study(
            storage=_opened(optuna, storage),
            study_name=name,
            direction=CHOOSE_BY[task.wanted.choose_by],
            pruner=_pruner(optuna, task.wanted.pruning, self.every, task.epochs),
            load_if_exists=True,
        )
        self._recognise()

    def _recognise(self) -> None:
        """Refuse a study begun for something else; begin a new one with the usual model."""
        asked, name = self.task.record(), self.study.study_name
        trials = self.study.get_trials(deepcopy=False)  # before the record, which stands first
        begun = self.study.user_attrs.get(RECORD)
        if begun is None and trials:
            raise ValueError(
                f"study {name!r} in {self.place} was not begun by mlp_xp: expected another name "
                "(--study NAME)."
            )
        if begun is not None and begun != asked:
            what = "; ".join(differences(begun, asked)) or "another version of mlp_xp"
            raise ValueError(
                f"study {name!r} in {self.place} was begun with {what}. Ask for the same to go "
                "on with it, or give this one a name of its own (--study NAME)."
            )
        if begun is None:
            usual, whole = self.task.usual()
            self.study.set_user_attr(RECORD, asked)
            attributes = {"first": True, **({"usual": True} if whole else {})}
            self.study.enqueue_trial(usual, user_attrs=attributes, skip_if_exists=True)

    # -- counting ------------------------------------------------------------

    def counted(self, before: float = math.inf) -> tuple[int, int]:
        """How many trials have ended, and how many run, of those with a number below."""
        ended = running = 0
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number < before:
                ended += trial.state in (self.states.COMPLETE, self.states.PRUNED)
                running += trial.state == self.states.RUNNING
        return ended, running

    def bury(self) -> None:
        """Trials whose process has ended do not count, and are run again."""
        self.optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == self.states.RUNNING and _is_dead(trial, self.token):
                self._give_up(trial.number)

    def _give_up(self, number: int) -> None:
        """A trial that was broken off has failed, and is run again."""
        if number < 0:
            return
        trial = self.study.get_trials(deepcopy=False)[number]
        if trial.state == self.states.RUNNING:
            self.study.tell(number, state=self.states.FAIL, skip_if_finished=True)
        elif trial.state != self.states.FAIL:
            return
        _again(self.study, trial)

    # -- working -------------------------------------------------------------

    def work(self, deadline: float) -> None:
        """Run trials until the study has as many as are wanted, or the time is up.

        Ctrl-C waits while the storage is at work, and breaks off what is trained.
        """
        wanted, waiting = self.task.wanted.trials, False
        self.bury()
        if begun := sum(self.counted()):
            self.say(f"the study has {counted(begun, 'trials')} already")
        _RUNNING.add(self.token)
        try:
            with Interrupts() as self.interrupts:
                while time.monotonic() < deadline:
                    self.interrupts.check()
                    self.bury()
                    ended, running = self.counted()
                    if ended >= wanted:
                        return
                    if ended + running < wanted:
                        waiting = False
                        self._one(deadline)
                        continue
                    if not waiting:
                        n = f"{running} trials" if running > 1 else "a trial"
                        self.say(f"waiting for {n} of another process")
                    waiting = True
                    time.sleep(PAUSE)
        finally:
            _RUNNING.discard(self.token)

    def _one(self, deadline: float) -> None:
        def run(trial: Any) -> float:
            return self._trial(trial, deadline)

        try:
            self.study.optimize(run, n_trials=1, catch=(_Surplus, OutOfTime))
        except self.optuna.exceptions.UpdateFinishedTrialError:
            # others, who had no sign of life of this process, have given it up
            self.current = -1
        except KeyboardInterrupt:
            self._give_up(self.current)
            raise
        self._give_up(self.current)  # where the time was up

    def _trial(self, trial: Any, deadline: float) -> float:
        task = self.task
        self.current = trial.number
        trial.set_user_attr("process", _identity(self.token))
        if self._is_surplus(trial):
            self.current = -1
            raise _Surplus
        self.study.sampler = _sampler(self.optuna, task.wanted.seed, trial.number)
        began = time.perf_counter()
        drawn = draw(trial, task.dimensions, task.fixed)
        watch = Watch(trial, task, deadline, self.every)
        why = ""
        try:
            with _released(self.interrupts):
                task.train(drawn, watch, bool(trial.user_attrs.get("usual")))
        except (TrainingDiverged, MemoryError) as error:
            why = "diverged" if isinstance(error, TrainingDiverged) else "out of memory"
        else:
            why = "" if math.isfinite(watch.value) else f"{task.wanted.choose_by} not finite"
        seconds = round(time.perf_counter() - began, 3)
        trial.set_user_attr("found", {**watch.found, "seconds": seconds, "why": why})
        self.current = -1
        if why or watch.pruned:
            self._say(trial.number, drawn, watch, why or "pruned")
            raise self.optuna.TrialPruned(why)
        self._say(trial.number, drawn, watch, "")
        return watch.value

    def _is_surplus(self, trial: Any) -> bool:
        """Whether other processes were first: with the last trial, or with the first."""
        if sum(self.counted(before=trial.number)) >= self.task.wanted.trials:
            return True
        before = self.study.get_trials(deepcopy=False)[: trial.number]
        return "first" in trial.user_attrs and any("first" in t.user_attrs for t in before)

    def _say(self, number: int, drawn: Mapping[str, Any], watch: Watch, why: str) -> None:
        found = watch.found
        parts = [f"trial {number}"]
        if why:
            epochs = found.get("epochs", 0)
            parts.append(f"{why} after {counted(epochs, 'epochs')}")
        if "loss" in found:
            parts.append(f"loss {found['loss']:.4g}, score {found['score']:.4g}")
        self.say(f"{': '.join((parts[0], ', '.join(parts[1:])))} ({described(drawn, found)})")


def described(drawn: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What was drawn, in a few words."""
    options = arguments(drawn)
    parts = []
    if "hidden" in options:
        parts.append("-".join(map(str, options["hidden"])) or "no hidden layer")
    counts = [(name, value) for name, value in options.items() if type(value) is int]
    parts += [f"{name} {value}" for name, value in counts]
    parts += [value for value in options.values() if isinstance(value, str)]
    parts += ["residual"] if options.get("residual") else []
    parts += [f"{name} {value:g}" for name, value in options.items() if isinstance(value, float)]
    if found.get("learning_rate") is not None:
        parts.append(f"rate {found['learning_rate']:g}")
    parts += [f"batch {drawn['batch_size']}"] if "batch_size" in drawn else []
    return ", ".join(parts)
