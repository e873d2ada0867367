"""runtime.c with a line of it changed, in processes of their own: what no test could wait for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlp_xp.fast import native

pytestmark = pytest.mark.skipif(not native.available(), reason="there is no C compiler")

ALTERED = """
import os, signal
import numpy as np
from mlp_xp.fast import c_source, native
source, _ = c_source.runtime()
assert source.count({old!r}) == 1
runtime = native.library(source.replace({old!r}, {new!r}))
runtime.run.argtypes = native.runtime().run.argtypes
runtime.use_threads.argtypes = runtime.use_weights.argtypes = native.runtime().use_threads.argtypes
runtime.use_threads(4)
gather = native.entry(runtime, "gather")

def share(parts):
    data, out, index = np.arange(100.0), np.zeros(100), np.arange(100)[::-1].copy()
    words = [gather, parts, out.ctypes.data, data.ctypes.data, index.ctypes.data, 100, 8]
    table = np.array([words + [0] * 9] * 20)
    runtime.run(table.ctypes.data, len(table))
    np.testing.assert_array_equal(out, data[index])
"""


def run_altered(old: str, new: str, body: str) -> None:
    """Run a body in a process of its own, where `share` is of runtime.c with this change."""
    command = [sys.executable, "-c", ALTERED.format(old=old, new=new) + body]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("bits", [31, 32])
def test_a_part_that_no_call_had_for_billions_of_calls_is_taken(bits: int) -> None:
    old = "static _Atomic U open_call;"
    new = f"static _Atomic U open_call = (1ULL << {bits}) - 30 << NUMBER;"
    run_altered(old, new, "for parts in (2, 2, 2, 4, 2): share(parts)")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_a_thread_waits_for_its_end_leaves_a_child_that_forks() -> None:
    old = "while (atomic_load(&running)) sched_yield();"
    begins = "atomic_fetch_add(&running, 1);"  # as a thread in `begin` does at this moment
    run_altered(
        old,
        f"{old} {begins}",
        """
share(4)
if not os.fork():
    signal.alarm(30)  # which ends it if it hangs
    share(4)
    if not os.fork():
        os._exit(0)
    os._exit(os.wait()[1] != 0)
raise SystemExit(os.wait()[1] != 0)
""",
    )


WEIGHED = """
room = np.zeros((200, 16), np.int64)
data, out, index = np.arange(100.0), np.zeros(100), np.arange(100)

def table(row, parts):
    words = [gather, parts, out.ctypes.data, data.ctypes.data, index.ctypes.data, 100, 8]
    room[row : row + 3, :7] = words
    return room[row : row + 3]

def shared(runs, *tables):  # how many of them, by the word in which `clock` counts
    before = sum(int(one[0, 9]) for one in tables)
    for _ in range(runs):
        for one in tables:
            runtime.run(one.ctypes.data, 3)
    return sum(int(one[0, 9]) for one in tables) - before
"""
TIMED = "const double seconds = now() - began;"


def clock(shared: str, alone: str = "1e-5") -> str:
    """A clock on which a run takes so long."""
    return f"""
  static double ended;
  const int sharing = w->shared != w->trying;
  ((I *)w->table)[9] += sharing;
  const double seconds = sharing ? {shared} : {alone};
  ended += seconds;"""


@pytest.mark.parametrize("parts", [4, 64])  # the larger one is shared at first
@pytest.mark.parametrize(("takes", "least", "most"), [("2e-5", 10, 300), ("0.5e-5", 5700, 6000)])
def test_a_table_is_shared_where_that_pays(takes: str, least: int, most: int, parts: int) -> None:
    check = f"found = shared(6000, table(0, {parts}))\nassert {least} <= found <= {most}, found"
    run_altered(TIMED, clock(takes), WEIGHED + check)


def test_a_table_is_weighed_again() -> None:
    """What paid once, and does so no more, is given up; and begun again when it pays again."""
    takes = "(times++ / 8000 % 2 ? 2e-5 : 0.5e-5)"
    check = """
one = table(0, 4)
counts = [shared(8000, one) for _ in range(3)]
assert counts[0] > 7500 and counts[1] < 3000 and counts[2] > 5000, counts
"""
    run_altered(
        TIMED,
        "static I times;" + clock(takes).replace("times++", "times") + "times++;",
        WEIGHED + check,
    )


def test_a_rest_is_no_time_of_a_table() -> None:
    """Fits of ten runs, between which seconds pass: trials are a hundredth of them all the same."""
    check = "found = shared(6000, table(0, 4))\nassert 10 <= found <= 300, found"
    rests = "static I rests; if (!(rests++ % 10)) ended += 5;"
    run_altered(TIMED, clock("2e-5") + rests, WEIGHED + check)


def test_tables_that_take_turns_are_all_weighed() -> None:
    check = """
for apart in (3, 60, 64, 128):
    found = shared(3000, table(0, 4), table(apart, 4))
    assert found > 5500, (apart, found)
    room[:] = 0
    for row in range(0, 198, 3): shared(9, table(row, 2))  # and these are forgotten
    room[:] = 0
"""
    run_altered(TIMED, clock("0.5e-5"), WEIGHED + check)


def test_a_table_that_was_stopped_is_weighed_again() -> None:
    """A trial of ten minutes is one in which the process was stopped."""
    takes = "(w->trying && ended > 0.5 && !stopped++ ? 600 : 2e-5)"
    check = "found = shared(300000, table(0, 4))\nassert found > 1000, found"
    run_altered(TIMED, "static I stopped;" + clock(takes), WEIGHED + check)
