"""Checkpoints of a training that is going on: one that was killed goes on to the bit.

`fit(…, checkpoint="run/")` keeps the last two in that folder, epoch-11.safetensors and
epoch-12.safetensors, and the same call again goes on from the newest that is whole. They are
models' files (`storage`), which everything reads that reads those, with

    best, best_running   tensors: the weights that early stopping would restore
    batch_losses, batch_weights
                         tensors, within an epoch: of each of its batches so far
    checkpoint           one more part of the header:
        version   of this part
        recipe    all that decides what is computed, each by its name
        epochs    of the call
        began     the epoch at which the call began
        place     what only the last bits depend on: device, threads, libraries
        memory    early stopping's and the schedule's, and whether the training is over

Of examples in memory they are made between epochs and not inside: there the loop holds a copy of
the state anyway, to go back to where an epoch diverges, so that a step waits for none; and losses
are read from the device. What is lost by a kill is an epoch, and what was done since the last
checkpoint. An epoch of a stream may take hours. Of one they are made between any two steps, too,
epoch-11-step-5170.safetensors after 11 epochs and 5170 steps in all, and the next step waits for
a copy. All that is drawn is drawn by the number of the epoch or the step (`draws`), so that
nothing else has to be remembered: the number of steps says which windows are past, and these are
not read again.

A checkpoint is packed, summed and written by another thread (`storage.write_atomically`: beside,
synced, renamed, the folder synced), and the next is not begun before. `fit` waits for the last.
One that cannot be written is a warning: training goes on.

The recipe holds the SHA-256 of all examples, targets and weights as the network gets them: 1 s
a GB, a fraction of what an epoch takes. A sample would be cheaper, and blind to one changed row.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from . import storage
from .devices import circumstances
from .hardware import Device
from .headers import ModelFileError, count, loaded, mapping, number, refusal
from .schedules import Plateau, ReduceOnPlateau, Schedule
from .training import CHUNK, Data, pieces
from .types import State

VERSION = 1
NAME = re.compile(r"epoch-([0-9]{1,18})(?:-step-([0-9]{1,18}))?\.safetensors")
LOCK = f".{storage.FORMAT}-lock"
KEPT = 2
SHARE = 50  # times what the last one took of the processor, which the next one waits at least
LETTERS = 12  # of a hash in a message
AT_ONCE = 64  # steps at which two schedules are compared

T = TypeVar("T")


class CheckpointError(ValueError):
    """A folder with checkpoints from which this training cannot go on."""


class CheckpointWarning(UserWarning):
    """A checkpoint that could not be written or read, or that is gone on from to rounding."""


class Mark(NamedTuple):
    """How far a training is.

    epoch  epochs that are done, over the life of the model
    step   steps likewise, of one that is within an epoch; 0 between two
    """

    epoch: int
    step: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + (f" and step {self.step}" if self.step else "")

    @property
    def file(self) -> str:
        """The name of its checkpoint."""
        return f"{str(self).replace(' and ', '-').replace(' ', '-')}{storage.SUFFIX}"

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """That of a checkpoint by its name; None for another file."""
        match = NAME.fullmatch(path.name)
        return None if match is None else cls(*(int(number or 0) for number in match.groups()))


class Checkpoints(NamedTuple):
    """A folder of checkpoints, and who wants to hear of it: what `fit` takes for its name, too.

    tell  called where a training goes on from one, with the mark reached, the last epoch, and
          whether nothing is left to do
    warn  called with what otherwise is a `CheckpointWarning`
    """

    folder: str | os.PathLike[str]
    tell: Callable[[Mark, int, bool], object] | None = None
    warn: Callable[[str], object] | None = None


# -- the folder ----------------------------------------------------------------


class Keeper:
    """Keeps the checkpoints of one training while it is entered.

    A class of it says how they are made and gone on from: `bring`, in the thread that trains,
    and `packed`, in another one.
    """

    def __init__(
        self, checkpoint: Any, every: float, recipe: Mapping[str, Any], device: Device
    ) -> None:
        from . import __version__

        place = checkpoint if isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
        if not isinstance(place.folder, str | os.PathLike) or not str(place.folder):
            raise TypeError(
                f"checkpoint is {checkpoint!r}, but expected a folder's name, such as 'run/'."
            )
        self.folder, self.place = Path(place.folder), place
        self.every = every
        self.recipe = _plain(recipe)
        self.circumstances = {"mlp_xp": __version__, **circumstances(device)}
        self.kept: list[str] = []  # names of the files of this training, the newest last
        self.written = Mark(0)  # of the last one that was begun to be written, and not in vain
        self.cpu, self.since = 0.0, time.perf_counter()
        self.newest: tuple[Mark, Any] | None = None
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None
        self.said: str | None = None

    def __enter__(self) -> Self:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"checkpoint is {self.folder}, which is no folder.")
        if not self.folder.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            storage.sync_folder(self.folder.parent)
        storage.check_writable(self.folder / "epoch-0.safetensors")
        self.lock = _Lock(self.folder)
        return self

    def __exit__(self, *error: object) -> None:
        """Write the newest, also after an error or Ctrl-C, and wait until it is."""
        try:
            self._wait()
            if self.newest is not None and self.newest[0] > self.written:
                self.said = None
                self._begin(*self.newest)
                self._wait()
        finally:
            self.lock.release()

    def bring(self, reached: Any) -> Any:
        """What was reached, on the host: quick."""
        raise NotImplementedError

    def packed(self, epoch: int, reached: Any) -> bytes | None:
        """The bytes of a checkpoint; None for what is not worth one, as it is not finite."""
        raise NotImplementedError

    def due(self) -> bool:
        """Whether it is time to write one."""
        if self.thread is not None and not self.thread.is_alive():
            self._wait()
        busy = self.cpu * SHARE if self.every else 0.0
        ready = time.perf_counter() >= self.since + max(self.every, busy)
        return ready and self.thread is None

    def offer(self, mark: Mark, reached: Any) -> None:
        """Take in what the training has reached, and write it if it is time to."""
        self.newest = (mark, reached)
        if self.due() and mark > self.written:
            self._begin(mark, reached)

    def _begin(self, mark: Mark, reached: Any) -> None:
        self.written, self.since = mark, time.perf_counter()
        try:
            args = (mark, self.bring(reached))
            thread = threading.Thread(target=self._write, args=args, name="checkpoint")
            thread.start()
        except (MemoryError, RuntimeError) as error:  # no room for a copy, or for a thread
            self._failed(error)
        else:
            self.thread = thread

    def _write(self, mark: Mark, host: Any) -> None:
        name = mark.file
        try:
            content = self.packed(mark.epoch, host)
            if content is None:
                return
            storage.write_atomically(self.folder / name, content)
            self.kept = [*(other for other in self.kept if other != name), name][-KEPT:]
            _delete(path for path in _numbered(self.folder) if path.name not in self.kept)
        except Exception as error:
            self.error = error
        finally:
            self.cpu = time.thread_time()

    def _wait(self) -> None:
        """Until nothing is being written; a warning says what could not be."""
        if self.thread is None:
            return
        self.thread.join()
        error, self.thread, self.error = self.error, None, None
        if error is None:
            self.said = None
        else:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        last = f"the last is {self.folder / self.kept[-1]}" if self.kept else "there is none"
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        mark, self.written = self.written, Mark(0)  # the newest is tried once more
        if why == self.said:  # of the last one, too: once is enough until the training ends
            return
        self.said = why
        self.warn(
            f"The checkpoint of {mark} could not be written to {self.folder}: "
            f"{why or 'out of memory'}. Nothing of the training is lost while it runs, but what a "
            f"kill would leave is older ({last}). Make room there, or save the model elsewhere "
            "when it has ended."
        )

    def warn(self, text: str) -> None:
        """Say what is no error, to whoever asked to hear it."""
        if self.place.warn is not None:
            self.place.warn(text)
        else:
            warnings.warn(text, CheckpointWarning, stacklevel=2)

    def last(self, read: Callable[[Path], T]) -> T | None:
        """`read` of the newest checkpoint that is whole, an older one with a warning.

        None where there is none; `CheckpointError` where there are some, but none is whole.
        """
        damaged: list[str] = []
        numbered = _numbered(self.folder)
        for i, path in reversed(list(enumerate(numbered))):
            try:
                found = read(path)
            except (ModelFileError, OSError) as error:
                damaged.append(str(error))
                continue
            if damaged:
                self.warn(
                    f"{' '.join(damaged)} Training goes on from the older {path}, to the same end."
                )
            self.kept = [other.name for other in numbered[max(0, i - KEPT + 1) : i + 1]]
            _delete(numbered[: max(0, i - KEPT + 1)])  # as a kill has left them
            return found
        if damaged:
            raise CheckpointError(
                f"{self.folder} holds no checkpoint to go on from: {' '.join(damaged)} To begin "
                "anew, name another folder or delete this one."
            )
        return None

    def go_on(
        self,
        path: Path,
        told: Mapping[str, Any],
        schedule: Schedule | None,
        epochs: tuple[str, int],
        per_epoch: int,
        steps: int,
    ) -> None:
        """Raise `CheckpointError` where there is no way on; say what will not be to the bit.

        epochs  what the caller calls their number, and it
        steps   of this training that are done
        """
        name, now = epochs
        then = told["epochs"]
        if steps > now * per_epoch:
            on, least = f"{steps / per_epoch:.4g}", -(-steps // per_epoch)
            raise CheckpointError(
                f"{path} is {on} epochs on, but {name} is {now}: expected at least {least}. The "
                "file is that model, too: load it as such."
            )
        different = _different(told["place"], self.circumstances)
        if different:
            self.warn(
                f"{path} is gone on from where numbers may be rounded otherwise: {different}. The "
                "model will be that of an uninterrupted training to rounding, not to the bit."
            )
        if schedule is not None and other_rates(schedule, then, now, per_epoch, steps):
            self.warn(
                f"{path} is of a training of {then} epochs, on which the rates of "
                f"{written(schedule)} depend, and now there are {now}: it goes on at theirs. An "
                f"uninterrupted training of {now} epochs gives another model."
            )

    def gone_on(self, mark: Mark, last: int, over: bool) -> None:
        """Say that it is gone on from there."""
        self.written = mark
        if self.place.tell is not None:
            self.place.tell(mark, last, over or mark == (last, 0))

    def told(self, path: Path, header: Mapping[str, str]) -> dict[str, Any]:
        """The checkpoint's part of a header, of this training, its memory unchecked.

        Raises `ModelFileError` for what we did not write, `CheckpointError` for what is of
        another training.
        """
        part = storage.CHECKPOINT
        if part not in header:
            raise ModelFileError(f"{path} holds a model, but no checkpoint of a training.")
        found = mapping(path, part, loaded(path, part, header[part]))
        if found.get("version") != VERSION:
            raise ModelFileError(
                f"{path} is a checkpoint of version {found.get('version')!r}, but this mlp_xp "
                f"reads version {VERSION}. Use the release of mlp_xp that wrote it."
            )
        for name in ("recipe", "place", "memory"):
            mapping(path, f"{part}[{name!r}]", found.get(name))
        for name in ("epochs", "began"):
            count(path, f"{part}[{name!r}]", found.get(name))
        different = _different(found["recipe"], self.recipe)
        if different:
            raise CheckpointError(
                f"{path} is a checkpoint of another training: {different}. Expected the same, to "
                "go on from it. To begin a new training, name another folder or delete this one; "
                "a model that has been trained since begins anew after reset()."
            )
        return found

    def described(self, **more: Any) -> dict[str, Any]:
        """What `told` reads."""
        return {"version": VERSION, "recipe": self.recipe, "place": self.circumstances, **more}


class _Lock:
    """A folder is one training's for as long as that lives, however it ends.

    By `lockf`, whose locks children of a fork do not inherit: they may outlive the training.
    """

    ours: set[str] = set()  # noqa: RUF012  # folders of this process, which shares its locks

    def __init__(self, folder: Path) -> None:
        self.key = os.path.realpath(folder)
        if self.key in self.ours:
            raise CheckpointError(_in_use(folder, "another training of this process"))
        self.file = open(folder / LOCK, "ab")  # noqa: SIM115  # for as long as it is locked
        try:
            import fcntl

            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.file.close()
            raise CheckpointError(_in_use(folder, "another process")) from None
        except (ImportError, OSError):  # a system or a disk that knows no locks
            pass
        self.ours.add(self.key)

    def release(self) -> None:
        self.ours.discard(self.key)  # first: Ctrl-C may come while the file is closed
        self.file.close()


def _in_use(folder: Path, whose: str) -> str:
    return (
        f"{folder} has the checkpoints of {whose} that is going on: expected a folder of its own "
        "for each training. Wait for that one, or name another folder."
    )


def _numbered(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest last."""
    found = ((Mark.of(path), path) for path in folder.iterdir())
    return [path for _, path in sorted((mark, path) for mark, path in found if mark is not None)]


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


# -- what is compared ----------------------------------------------------------


def digest(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """SHA-256 of arrays: their bytes, shapes and dtypes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def arrays_of(device: Device, data: Data) -> Iterator[npt.NDArray[Any]]:
    """All that is in examples, some at a time, on the host."""
    parts = [data.rows, data.targets, *(() if data.weights is None else (data.weights,))]
    for part in parts:
        yield from (device.get(part[piece, ...]) for piece in pieces(part.shape[0], CHUNK))


def examples(device: Device, data: Any) -> str:
    """Examples in words, and the hash of all that is in them; a stream knows it itself."""
    if not isinstance(data, Data):
        return str(data.described())
    return f"{data.m:,} with SHA-256 {digest(arrays_of(device, data))}"


def described_state(device: Device, state: State, epoch: int) -> str:
    """A state in words, and the hash of it."""
    arrays = (device.get(array) for array in (state.theta, *state.moments, state.running))
    return f"after {epoch} epochs and {state.step} steps, with SHA-256 {digest(arrays)}"


def fixed_seed(random_state: Any) -> None:
    """Raise ValueError unless a call that is made again draws the same."""
    if not isinstance(random_state, Integral) or isinstance(random_state, bool):
        raise ValueError(
            f"checkpoint was given, but random_state is {random_state!r}: expected a whole number, "
            "by which the same call draws the same weights and orders when it goes on."
        )


def written(thing: object) -> str:
    """A schedule or the like in words that are the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))


def _plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """As a file gives it back; what has parts has a name for each."""
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, dict):
            flat |= {f"{name}'s {part}": content for part, content in value.items()}
        else:
            flat[name] = value
    found: dict[str, Any] = json.loads(storage.to_json("the recipe", flat))
    return found


def _different(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What two recipes differ in, in words; "" where they are the same."""
    return "; ".join(
        f"{name} was {short(then.get(name))}, but is {short(now.get(name))} now"
        for name in {**now, **then}
        if json.dumps(then.get(name)) != json.dumps(now.get(name))
    )


def short(value: Any) -> str:
    """As a message says it: the first letters of a hash, not all of what is long."""
    shown = re.sub(rf"([0-9a-f]{{{LETTERS}}})[0-9a-f]{{{64 - LETTERS}}}", r"\1…", str(value))
    return shown if len(shown) <= 200 else shown[:200] + " …"


def other_rates(schedule: Schedule, then: int, now: int, per_epoch: int, done: int) -> bool:
    """Whether the rates of steps that are done would be others in a training of `now` epochs."""
    if then == now or done == 0:
        return False
    steps = np.unique(np.linspace(0, done - 1, AT_ONCE).astype(int)).tolist()
    old, new = (
        [schedule.factor(step, epochs * per_epoch, per_epoch) for step in steps]
        for epochs in (then, now)
    )
    return old != new


# -- what a schedule remembers --------------------------------------------------


def plateau_of(
    path: Path,
    stored: Any,
    n: int,
    schedule: Schedule,
    field: str = "checkpoint['memory']['plateau']",
) -> Plateau:
    """What a `ReduceOnPlateau` remembers of n networks, from a file."""
    parts = mapping(path, field, stored)
    most = float("inf")
    if isinstance(schedule, ReduceOnPlateau) and schedule.drop <= 1:
        most = max(1.0, schedule.lowest)

    def possible(value: Any) -> bool:
        return number(value) and 0 <= value <= most and value < float("inf")

    return Plateau(
        vector(path, f"{field}['best']", parts.get("best"), n, number, float),
        vector(path, f"{field}['waited']", parts.get("waited"), n, is_whole, int),
        vector(path, f"{field}['reduction']", parts.get("reduction"), n, possible, float),
    )


def vector(
    path: Path, field: str, value: Any, n: int, fits: Callable[[Any], bool], dtype: type
) -> npt.NDArray[Any]:
    """A list of an entry for each of n networks, as an array."""
    if not isinstance(value, list) or len(value) != n or not all(map(fits, value)):
        raise refusal(path, field, value, f"{n} entries of one kind, one a network")
    return np.array(value, dtype=dtype)


def is_whole(value: Any) -> bool:
    """A whole number from 0 on, which an array can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def is_bool(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


__all__ = ["CheckpointError", "CheckpointWarning", "Checkpoints", "Keeper", "Mark"]
