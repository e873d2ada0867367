"""Schedules of threads and forks, drawn at random, run: `test_interleaved.py`.

    python tests/interleaved.py SEED FIRST LAST

runs the schedules FIRST … LAST-1, printing the number of each and what came of it, and ends while
threads are still training. A schedule is two to five actors, each in a thread of its own but those
that fork, which share the main one, each beginning after a moment of its own. One that takes
longer than `PATIENCE` seconds ends the process with the tracebacks of all threads.
"""

from __future__ import annotations

import faulthandler
import os
import random as randoms
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.testing import assert_allclose  # now: a child may find an import's lock taken

from mlp_xp import MLP
from mlp_xp.guard import ModelBusy

PATIENCE = 60.0  # seconds
MOMENT = 0.02  # seconds within which the actors begin
CLOSE = {"rtol": 1e-2, "atol": 1e-3}  # the BLAS may be on fewer threads while somebody forks

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(20, 400)).astype("float32"), np.arange(400) % 3
SIZES = [(20, 64, 3), (20, 300, 300, 3), (20, 3)]
OPTIONS: list[dict[str, Any]] = [{}, {"dropout": 0.2, "normalization": "batch"}, {"seed": [3, 4]}]


def _model(which: int) -> MLP:
    return MLP(SIZES[which % 3], **OPTIONS[which // 3])


def _fit(model: MLP, epochs: int = 4) -> MLP:
    return model.fit(X, Y, epochs=epochs, batch_size=100, validation_data=(X, Y), progress=False)


def _equal(found: Any, expected: Any) -> None:
    assert_allclose(np.asarray(found), expected, **CLOSE)


class Known:
    """What everything comes to when nobody else is there; made before the first thread is."""

    def __init__(self) -> None:
        self.trained = [np.array(_fit(_model(i)).parameters["W1"]) for i in range(9)]
        self.idle = _fit(_model(0))
        self.predictor = self.idle.predictor(50)
        self.answers = np.array(self.idle.predict_proba(X))
        self.busy = _model(1)  # which several actors train and ask


Actor = Callable[[Known, randoms.Random], object]


def trains(known: Known, random: randoms.Random) -> None:
    """A model of its own, to the end that it has alone."""
    which = random.randrange(9)
    _equal(_fit(_model(which)).parameters["W1"], known.trained[which])


def trains_the_shared(known: Known, _: randoms.Random) -> None:
    """A model that others train and ask, too: whole epochs, or none."""
    try:
        before = known.busy.epochs_trained
        _fit(known.busy, 2)
        assert known.busy.epochs_trained >= before + 2
    except ModelBusy:
        pass


def asks_the_shared(known: Known, _: randoms.Random) -> None:
    for _ in range(20):
        try:
            found = np.asarray(known.busy.predict_proba(X))
        except ModelBusy:
            continue
        assert np.isfinite(found).all()
        assert_allclose(found.sum(axis=0), 1, rtol=1e-4)


def predicts(known: Known, random: randoms.Random) -> None:
    """By a predictor that all share."""
    for _ in range(random.randrange(1, 60)):
        start = random.randrange(350)
        _equal(known.predictor(X[:, start : start + 50]), known.answers[:, start : start + 50])


def evaluates(known: Known, random: randoms.Random) -> None:
    for _ in range(random.randrange(1, 10)):
        assert np.isfinite(np.asarray(known.idle.evaluate(X, Y)[0]))


def _forked(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            faulthandler.register(signal.SIGALRM, chain=True)  # the other one lost its thread
            signal.alarm(int(PATIENCE / 2))
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"a child ended with {status}"


def forks(known: Known, random: randoms.Random) -> None:
    """Children that end at once, that predict, and that train."""
    for _ in range(random.randrange(1, 5)):
        _forked(
            random.choice(
                (
                    lambda: None,
                    lambda: predicts(known, random),
                    lambda: trains(known, random),
                )
            )
        )
        time.sleep(random.random() * MOMENT)


IN_THREADS: tuple[Actor, ...] = (
    *(trains, trains, trains_the_shared, trains_the_shared),
    *(asks_the_shared, predicts, predicts, evaluates),
)


def schedule(known: Known, random: randoms.Random) -> list[str]:
    """What went wrong while some actors were at work together."""
    wrong: list[str] = []

    def act(actor: Actor, after: float, random: randoms.Random) -> None:
        time.sleep(after)
        try:
            actor(known, random)
        except BaseException as error:
            wrong.append(f"{actor.__name__}: {type(error).__name__}: {str(error)[:300]!r}")

    def drawn(actor: Actor) -> tuple[Actor, float, randoms.Random]:
        return actor, random.random() * MOMENT, randoms.Random(random.random())

    os.environ["MLP_XP_NATIVE"] = random.choice("01")
    sys.setswitchinterval(random.choice((1e-5, 5e-3)))
    chosen = [drawn(random.choice(IN_THREADS)) for _ in range(random.randrange(2, 5))]
    workers = [threading.Thread(target=act, args=args) for args in chosen]
    for worker in workers:
        worker.start()
    if hasattr(os, "fork") and random.random() < 0.5:
        act(*drawn(forks))
    for worker in workers:
        worker.join()
    return wrong


def main(seed: int, first: int, last: int) -> None:
    warnings.simplefilter("ignore")
    known = Known()
    for number in range(first, last):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        wrong = schedule(known, randoms.Random(f"{seed} {number}"))
        print(number, "; ".join(wrong) or "fine", flush=True)
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # the end may hang, too
    for which in range(3):
        left = threading.Thread(target=_fit, args=(_model(which), 10_000), daemon=True)
        left.start()
    time.sleep(0.05)
    print("ends", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
