"""One contestant's process: it is told what to do in lines of JSON, and answers in them.

"begin" says who it is and on which case; then come "after", "count", "block" and "end", or
"ceilings"; another "begin" is the next case. It stands still between answers, stopped by its
parent, so that it takes nothing from others.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from typing import Any

import numpy as np
import timing
from cases import STEPS_BEFORE_CHECK, Case
from contest import Peer

from mlp_xp.bench import repeats_for

CEILINGS = "ceilings"  # the name of the worker that measures them


def peers(also: str | None) -> dict[str, Peer]:
    """The table, and the rows of one more file."""
    import peers as table

    more: dict[str, Peer] = runpy.run_path(also)["ROWS"] if also else {}
    return {**table.PEERS, **more}


def case_of(fields: dict[str, Any]) -> Case:
    """A case as JSON brings it."""
    return Case(**{**fields, "sizes": tuple(fields["sizes"])})


class Contestant:
    """A session, and what its memory was before it began."""

    def __init__(self, ask: dict[str, Any]) -> None:
        self.case, self.device = case_of(ask["case"]), str(ask["device"])
        self.peer = peers(ask["also"])[ask["peer"]]
        for name in self.peer.modules:
            importlib.import_module(name)
        self.bare = timing.memory_now()
        with np.load(ask["inputs"]) as file:
            arrays = {name: file[name] for name in file.files}
        self.resident = sum(array.nbytes for array in arrays.values())
        self.rows = arrays["rows"].nbytes if "rows" in arrays else 0
        make = self.peer.make(self.case.kind)
        assert make is not None
        self.session = make(self.case, arrays, self.device, ask["setting"])
        self.found = np.asarray(self.session.result(), np.float64)
        del arrays
        timing.forget_peak()

    def after(self, n: int) -> dict[str, Any]:
        """The loss of the n-th step, of which those of the first check were some."""
        checked = STEPS_BEFORE_CHECK + 1  # a result takes so many steps
        self.session.run(n - 2 * checked)
        return {"loss": float(self.session.result())}

    def block(self, n: int) -> dict[str, Any]:
        """Time n steps."""
        events = timing.DEVICES[self.device].events.get(self.peer.library)
        return timing.block(self.session, n, events)._asdict()

    def count(self, seconds: float) -> dict[str, Any]:
        """How many steps take so long."""
        return {"n": repeats_for(self.session.run, self.session.wait, seconds)}

    def end(self) -> dict[str, Any]:
        """What is known only now: memory above the examples, launches, BLAS."""
        peak, library = timing.memory_peak(), self.peer.library
        found: dict[str, Any] = {"peak_memory": peak, "blas": timing.blas()}
        asked = timing.DEVICES[self.device].memory.get(library)
        if asked is None:
            # above the bare import
            memory, of = peak - self.bare - self.resident, "host"
        else:
            most, of = asked()
            memory = most - self.rows  # which are there whole, so that it is never negative
        # a kernel's inputs are there many times, which says nothing about it
        found |= {"memory": None if self.case.kernel else memory, "memory_of": of}
        if self.device != "cpu":
            found |= timing.launches(self.session, library)
        return found


def _begin(ask: dict[str, Any]) -> tuple[Contestant | None, dict[str, Any]]:
    # where nothing is timed, CuPy on the CPU will do
    refusal = timing.DEVICES[ask["device"]].refusal() if ask.get("timed", True) else ""
    if refusal:
        return None, {"status": "missing", "reason": refusal}
    if ask["peer"] == CEILINGS:
        return None, {"status": "ready"}
    try:
        contestant = Contestant(ask)
    except ImportError as error:
        return None, {"status": "missing", "reason": str(error)}
    np.save(ask["answer"], contestant.found)
    return contestant, {"status": "ready"}


def main() -> None:
    """Answer until the input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def send(answer: dict[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    ask: dict[str, Any] = {}
    contestant: Contestant | None = None
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "begin":
            ask, contestant = order, None
            gc.collect()  # the last case's arrays
            timing.pin(ask["threads"])
            contestant, answer = _begin(ask)
            send(answer)
            continue
        if order["do"] == CEILINGS:
            case = ask["case"]
            what = (case["dtype"], case["precision"], order["seconds"])
            send(timing.ceilings(ask["device"], *what))
            continue
        assert contestant is not None
        if order["do"] == "after":
            send(contestant.after(order["n"]))
        elif order["do"] == "count":
            send(contestant.count(order["seconds"]))
        elif order["do"] == "block":
            send(contestant.block(order["n"]))
        else:
            send(contestant.end())


if __name__ == "__main__":
    main()
