"""Ranks that are workers of a Dask cluster, connected by Dask alone.

`fit` runs a training's `fit` as one task on each worker. An actor on the first of them, the
`Hub`, is what they exchange through; the client asks it what the training wants of it. A task
that waits looks whether it is still wanted: it ends where the client cancels it, which is what
the client does when a worker is lost, and what the scheduler does when the client is.

    data         futures, which every rank has as arrays: what is the client's goes to all workers
                 once, what is Dask's is computed by the cluster and does not pass the client
    tasks        each is pinned to its worker, and leaves that one's pool of threads when it
                 begins, so that no task waits for a thread while others wait for it
    callbacks    and progress are the client's: rank 0 waits for their answer after every epoch
    checkpoints  are written by rank 0
"""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import checks
from .checkpoints import Checkpoints, CheckpointWarning
from .extras import missing
from .fitting import EPOCHS, Epoch, Run, moved, progress_bar
from .ranks import Ranks, in_order

LOOK = 1.0  # seconds between two looks at whether somebody is still there
PATIENCE = 10.0  # seconds that ranks have to come to an end when a training was ended

TAKEN: dict[str, Callable[[list[Any]], Any]] = {  # of the values of all ranks
    "total": in_order,
    "all": list,
    "first": lambda values: values[0],
}


class WorkerLost(ConnectionError):
    """A worker of the cluster went while it took part in a training, which ended that."""


class Ended(RuntimeError):
    """The training was ended by something else than this rank."""


def distributed() -> Any:
    """Dask's library; ImportError with the cure without it."""
    try:
        import distributed
    except ImportError as error:
        raise missing("Training on a Dask cluster needs distributed", "dask", error) from None
    return distributed


class Trainee(Protocol):
    """What is trained on a cluster: every worker gets its pickle, and rank 0's end comes back.

    subject  what callbacks are called with
    """

    subject: Any

    @property
    def epochs_trained(self) -> int: ...

    def fit(
        self,
        data: dict[str, Any],
        options: dict[str, Any],
        callbacks: Any,
        place: Any,
        ranks: Ranks,
    ) -> None:
        """Train it on a worker; rank 0 keeps checkpoints in a place, or None."""

    def reached(self) -> Any:
        """Where it is, with arrays of the host."""

    def take(self, reached: Any) -> None:
        """Be where another is."""


class OfModel:
    """A `Model` as a `Trainee`."""

    def __init__(self, model: Any) -> None:
        self.subject = model

    @property
    def epochs_trained(self) -> int:
        return int(self.subject.epochs_trained)

    def fit(
        self,
        data: dict[str, Any],
        options: dict[str, Any],
        callbacks: Any,
        place: Any,
        ranks: Ranks,
    ) -> None:
        more = {"callbacks": callbacks, "checkpoint": place, "progress": False}
        self.subject.fit(**data, **options, **more, processes=ranks)

    def reached(self) -> tuple[Run, Any]:
        model, run = self.subject, self.subject._run
        return replace(run, state=moved(run.state, model.device.get)), model.layout

    def take(self, reached: tuple[Run, Any]) -> None:
        model, put = self.subject, self.subject.device.put
        run, model.layout = reached
        model._run = replace(run, state=moved(run.state, lambda A: put(np.array(A))))


# -- on the workers ----------------------------------------------------------------


class Hub:
    """The actor that ranks exchange through, and by which the client hears of them.

    Its methods run in the event loop of its worker, one at a time between two awaits.
    """

    def __init__(self, size: int) -> None:
        self.size, self.over = size, False
        self.calls: dict[int, tuple[dict[int, Any], asyncio.Future[Any]]] = {}
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def exchange(self, number: int, rank: int, what: str, value: Any) -> Any:
        """What comes of the values that all ranks give to their call of that number.

        what  "total": their sum; "all": a list; "first": that of rank 0
        """
        given, found = self.calls.setdefault(number, ({}, asyncio.Future()))
        given[rank] = value
        if len(given) == self.size:
            del self.calls[number]
            values = [given[rank] for rank in range(self.size)]
            found.set_result(TAKEN[what](values))
        elif self.over:
            raise Ended
        return await found

    async def end(self) -> None:
        """Exchanges that not all ranks have come to raise `Ended`, now and later."""
        self.over = True
        for _, found in self.calls.values():
            if not found.done():
                found.set_exception(Ended())
        self.answers.put_nowait(None)

    async def tell(self, what: str, *given: Any) -> None:
        """Something for the client."""
        self.told.put_nowait((what, *given))

    async def ask(self, what: str, *given: Any) -> Any:
        """Something for the client, who gives an answer."""
        if self.over:
            raise Ended
        self.told.put_nowait((what, *given))
        answer = await self.answers.get()
        if answer is None:
            raise Ended
        return answer[0]

    async def next(self) -> Any:
        """What the client is told next."""
        return await self.told.get()

    async def answer(self, value: Any) -> None:
        self.answers.put_nowait((value,))


class Here(threading.local):
    """The training that a thread takes part in: its hub, its task, and its number of exchanges."""

    hub: Any = None
    worker: Any = None
    key: Any = None
    number = 0


class Cluster:
    """A `Link` of tasks on the workers of a Dask cluster; each thread may be in one training."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.here = rank, size, Here()

    @contextmanager
    def joined(self, hub: Any) -> Iterator[None]:
        """While it is entered, this thread's task is this rank of the hub's training."""
        here = self.here
        here.worker = distributed().get_worker()
        here.hub, here.key, here.number = hub, here.worker.get_current_task(), 0
        try:
            yield
        finally:
            here.hub = here.worker = None

    def call(self, method: str, *args: Any) -> Any:
        """What a method of the hub answers; `Ended` where nobody wants this task any more."""
        here = self.here
        answer = getattr(here.hub, method)(*args)
        while True:
            task = here.worker.state.tasks.get(here.key)
            if task is None or task.state == "cancelled":
                raise Ended
            with suppress(TimeoutError):
                return answer.result(timeout=LOOK)

    def _exchanged(self, what: str, value: Any) -> Any:
        self.here.number += 1
        return self.call("exchange", self.here.number, self.rank, what, value)

    def total(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = self._exchanged("total", x)
        return found

    # objects as bytes, for workers of one process would share what is in them

    def all(self, value: Any) -> list[Any]:
        return [pickle.loads(one) for one in self._exchanged("all", pickle.dumps(value))]

    def first(self, value: Any) -> Any:
        own = pickle.dumps(value) if self.rank == 0 else None
        return pickle.loads(self._exchanged("first", own))

    def failed(self, error: BaseException, traced: bool) -> None:
        """Nothing: the client hears of it from the task, and ends the others."""


@cache  # compiled steps are told apart by it
def member(rank: int, size: int) -> Ranks:
    """A rank of as many, in whatever training a thread of this process takes part in."""
    return Ranks(Cluster(rank, size))


def _train(
    hub: Any,
    rank: int,
    size: int,
    pickled: bytes,
    data: dict[str, Any],
    options: dict[str, Any],
    checkpoint: Any,
    wanted: str,
) -> None:
    """The task of a rank: a copy of the trainee is fitted, and rank 0's is told to the client.

    data, options  what it is given
    wanted         what rank 0 tells after every epoch: "nothing", "numbers", or "state" too
    """
    distributed().secede()
    distributed().get_client()  # of this process, for the threads that read a stream, too
    ranks, trainee = member(rank, size), pickle.loads(pickled)
    link: Any = ranks.link
    with link.joined(hub), suppress(Ended):

        def epoch_ended(_: Any, epoch: Epoch) -> Any:
            reached = trainee.reached() if wanted == "state" else None
            return link.call("ask", "epoch", epoch, reached)

        if rank == 0 and isinstance(checkpoint, Checkpoints):
            tell = partial(link.call, "tell")
            checkpoint = Checkpoints(
                checkpoint.folder, partial(tell, "goes on"), partial(tell, "warns")
            )
        good = False
        try:
            callbacks = () if wanted == "nothing" else epoch_ended
            trainee.fit(data, options, callbacks, checkpoint, ranks)
            good = True
        finally:
            reached = trainee.reached() if rank == 0 else None
            link.call("tell", "ended", rank, good, reached)


# -- in the client -----------------------------------------------------------------


class Training:
    """One `fit` on a cluster, as its client sees it."""

    def __init__(self, trainee: Trainee, client: Any, workers: Sequence[str]) -> None:
        self.trainee, self.client, self.workers = trainee, client, workers
        self.futures: list[Any] = []
        self.ended: dict[int, bool] = {}  # ranks, and whether they came to their end
        self.place: Any = None  # the future of the hub, which lives as long
        self.hub: Any = None
        self.coming: Any = None

    def begin(self, data: dict[str, Any], *more: Any) -> None:
        """Hand the data out, and start a task on every worker.

        more  what else `_train` takes
        """
        import cloudpickle  # which Dask needs

        submit, n = partial(self.client.submit, pure=False, retries=0), len(self.workers)
        alone = [{"workers": [worker], "allow_other_workers": False} for worker in self.workers]
        # here, for no other thread may read a model that is being trained
        sent, given = self._put(cloudpickle.dumps(self.trainee)), self._placed(data)
        self.place = submit(Hub, n, actor=True, **alone[0])
        self.futures = [
            submit(_train, self.place, rank, n, sent, given, *more, **alone[rank])
            for rank in range(n)
        ]
        self.hub = self._when_there(self.place.result)

    def _placed(self, data: dict[str, Any]) -> dict[str, Any]:
        """Futures in the place of data, inside tuples too; what is Dask's is computed there."""
        from dask.base import is_dask_collection

        def placed(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(placed, value))
            if value is None:
                return None
            return self.client.compute(value) if is_dask_collection(value) else self._put(value)

        return {name: placed(value) for name, value in data.items()}

    def _put(self, value: Any) -> Any:
        """Something of the client's, which all workers have then."""
        workers = list(self.workers)
        return self.client.scatter([value], workers=workers, broadcast=True, hash=False)[0]

    def _when_there(self, result: Callable[..., Any]) -> Any:
        """A result that is waited for as long as all workers are there."""
        while True:
            try:
                return result(timeout=LOOK)
            except TimeoutError:
                self._check()
            except (OSError, RuntimeError):  # of a hub whose worker is lost
                time.sleep(LOOK)  # the scheduler may not know it yet
                self._check()
                raise

    def _check(self) -> None:
        """Raise `WorkerLost`, or `Ended` where a task failed before it could say so."""
        there = self.client.nthreads(list(self.workers))
        for rank, worker in enumerate(self.workers):
            if worker not in there:
                raise WorkerLost(
                    f"The Dask worker {worker}, rank {rank} of {len(self.workers)}, was lost: "
                    "killed, out of memory, or cut off. That ended the training; the model has "
                    "the weights that were last known here. Call fit again with the workers "
                    "there are; with checkpoint= it goes on from the last one."
                )
        for rank, future in enumerate(self.futures):
            if rank not in self.ended and future.status not in ("pending", "finished"):
                raise Ended

    def _trains(self, rank: int) -> bool:
        return rank not in self.ended and self.futures[rank].status == "pending"

    def watch(self, heard: dict[str, Callable[..., Any]]) -> None:
        """Do what the training asks for, until all ranks have ended; `Ended` if not by themselves.

        heard  what to call for each thing that the hub tells
        """
        while len(self.ended) < len(self.workers):
            what, *given = self._when_there(self._next)
            if what == "ended":
                self._rank_ended(*given)
            else:
                answer = heard[what](*given)
                if what == "epoch":
                    self._when_there(self.hub.answer(answer).result)
        if not all(self.ended.values()):
            raise Ended

    def _next(self, timeout: float) -> Any:
        """What the hub has to tell, each once."""
        if self.coming is None:
            self.coming = self.hub.next()
        found, self.coming = self.coming.result(timeout=timeout), None
        return found

    def _rank_ended(self, rank: int, good: bool, reached: Any) -> None:
        self.ended[rank] = good
        if reached is not None:
            self.trainee.take(reached)
        if not good:
            self._when_there(self.hub.end().result)

    def stop(self) -> None:
        """End all ranks, and take what rank 0 had reached, if it can still be told."""
        until = time.monotonic() + PATIENCE
        with suppress(Exception):  # the hub may be lost
            self.hub.end().result(timeout=LOOK)
            trains = True
            while 0 not in self.ended and trains and time.monotonic() < until:
                trains = self._trains(0)  # what it told at last comes after it has ended
                with suppress(TimeoutError):
                    what, *given = self._next(LOOK)
                    trains = True
                    if what == "ended":
                        self._rank_ended(*given)
            if self.coming is not None:  # so that nobody waits at the hub any more
                self.hub.tell("over").result(timeout=LOOK)

    def release(self) -> None:
        """Let go of all that is the training's on the cluster, whatever runs of it."""
        self.client.cancel([*self.futures, *([] if self.place is None else [self.place])])

    def failure(self) -> BaseException:
        """The error of the first rank that has one, which is named where others have none."""
        failed: dict[int, BaseException] = {}
        for rank, future in enumerate(self.futures):
            with suppress(TimeoutError):
                error = future.exception(timeout=PATIENCE)
                if error is not None:
                    failed[rank] = error.with_traceback(future.traceback())
        if not failed:
            return Ended(
                f"The training was ended on the Dask cluster at {self.client.scheduler.address}: "
                "its tasks were cancelled there, or its workers restarted. Call fit again."
            )
        n, rank = len(self.futures), min(failed)
        if len(failed) < n:
            whose = f"rank {rank} of {n}, the Dask worker {self.workers[rank]}"
            failed[rank].add_note(f"That was {whose}, and ended the training on all.")
        return failed[rank]


@contextmanager
def connected(processes: Any) -> Iterator[Any]:
    """A client of the cluster: the one that is given, or one of our own for an address."""
    dask = distributed()
    if isinstance(processes, str):
        try:
            client = dask.Client(processes, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"processes is {processes!r}, but no Dask scheduler answers there ({error}): "
                "expected the address that `dask scheduler` or `cluster.scheduler_address` says."
            ) from None
        with client, client.as_current():
            yield client
        return
    if not isinstance(processes, dask.Client) or processes.asynchronous:
        raise TypeError(
            f"processes is {processes!r}, but expected a distributed.Client that is not "
            "asynchronous, or the scheduler's address."
        )
    if processes.status != "running":
        raise ConnectionError(
            f"processes is {processes!r}, which is {processes.status}: expected a client that is "
            "connected. Make a new one, or pass the scheduler's address."
        )
    with processes.as_current():  # an actor is asked through the client that is current
        yield processes


def fit(
    model: Any,
    X: Any,
    Y: Any = None,
    *,
    processes: Any,
    validation_data: Any = None,
    sample_weight: Any = None,
    epochs: int = EPOCHS,
    **options: Any,
) -> Any:
    """`Model.fit` on the workers of a Dask cluster; the model is trained as if that ran here.

    processes  a `distributed.Client`, or the address of a scheduler

    Raises what `fit` does, and `WorkerLost` some seconds after a worker is killed.
    """
    data = {"X": X, "Y": Y, "validation_data": validation_data, "sample_weight": sample_weight}
    options["epochs"] = checks.integer("epochs", epochs, 1)
    here = {name: options.pop(name) for name in ("callbacks", "progress") if name in options}
    place = options.pop("checkpoint", None)
    train(OfModel(model), processes, data, options, options["epochs"], place, **here)
    return model


def train(
    trainee: Trainee,
    processes: Any,
    data: dict[str, Any],
    options: dict[str, Any],
    epochs: int,
    checkpoint: Any = None,
    callbacks: Any = (),
    progress: bool = True,
) -> None:
    """Fit a trainee on all workers of a cluster, with data that these share."""
    called = checks.functions("callbacks", callbacks)
    place = checkpoint
    if isinstance(checkpoint, str | os.PathLike) and str(checkpoint):
        place = Checkpoints(checkpoint)
    if isinstance(place, Checkpoints):
        checkpoint = Checkpoints(os.path.abspath(place.folder))
    wanted = "state" if called else "numbers" if progress else "nothing"
    with connected(processes) as client:
        workers = sorted(client.nthreads())
        if not workers:
            raise ConnectionError(
                f"The Dask cluster at {client.scheduler.address} has no workers: expected one or "
                "more. Start some: dask worker ADDRESS."
            )
        training, seen = Training(trainee, client, workers), trainee.epochs_trained
        with progress_bar(epochs, progress, seen + epochs, unit="epoch") as bar:

            def epoch_ended(epoch: Epoch, reached: Any) -> bool:
                nonlocal seen
                if reached is not None:
                    trainee.take(reached)
                bar.update(epoch.epoch - seen)
                bar.show(epoch)
                seen = epoch.epoch
                stops = [bool(callback(trainee.subject, epoch)) for callback in called]
                return any(stops)

            def goes_on(*told: Any) -> None:
                if place.tell is not None:
                    place.tell(*told)

            def warns(text: str) -> None:
                if place.warn is not None:
                    place.warn(text)
                else:
                    warnings.warn(text, CheckpointWarning, stacklevel=2)

            heard: dict[str, Callable[..., Any]] = {
                "epoch": epoch_ended,
                "goes on": goes_on,
                "warns": warns,
            }
            try:
                training.begin(data, options, checkpoint, wanted)
                training.watch(heard)
            except Ended:
                training.stop()
                raise training.failure() from None
            except BaseException:
                training.stop()
                raise
            finally:
                training.release()


__all__ = ["Ended", "Trainee", "WorkerLost", "fit", "train"]
