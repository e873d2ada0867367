"""Threads that train, predict and fork at once, in schedules drawn at random.

Every actor comes to the end that it has alone, or is refused by `ModelBusy`; nothing hangs, and a
process may end while its threads train. A sample runs, another one every time, whose seed is
printed (`--seed N` repeats it); `--exhaustive` runs 200 schedules in 40 processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EACH = 5  # schedules of a process
ALL = 200


def test_whatever_threads_and_forks_do_at_once_they_end_as_alone(
    seed: int, request: pytest.FixtureRequest
) -> None:
    exhaustive = request.config.getoption("--exhaustive")
    known = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, str(Path(__file__).with_name("interleaved.py")), str(seed)]
    wrong = list[str]()
    for first in range(0, ALL if exhaustive else EACH, EACH):
        done = subprocess.run(
            [*command, str(first), str(first + EACH)],
            env=known,
            check=False,
            capture_output=True,
            timeout=600,
        )
        lines = done.stdout.decode().splitlines()
        bad = [line for line in lines if not line.endswith((" fine", "ends"))]
        if bad or done.returncode or lines[-1:] != ["ends"]:
            wrong += [*bad, f"{first} …: code {done.returncode}: {done.stderr.decode()[-4000:]}"]
    assert not wrong, "\n".join(wrong)
