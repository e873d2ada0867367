"""Files of data, models and checkpoints with changed bytes: read in bounds, refused by name.

Every kind of file that is read (`hostile.KINDS`) is changed in one to three places: bits, bytes,
whole numbers, digits, parts removed, repeated, moved. What comes of a mutant must be what comes of
a good file, or a `DataError`, `TableError`, `ModelFileError` or `CheckpointError`; in a process
that may take no more than half a gigabyte, and in time. A sample of the mutants runs, another one
every day, whose seed is printed; `--exhaustive` runs 1,000 of each kind, 21,000 in all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from hostile import ROOM, kinds

SAMPLE, ALL = 6, 1000  # mutants of each kind
LIMIT = 3600  # seconds for all


def outcomes(seed: int, each: int) -> dict[int, str]:
    """What became of each mutant; a process that one of them ends is begun again after it."""
    found = dict[int, str]()
    known = {
        **os.environ,
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # whose memory is counted
        "MLP_XP_NATIVE": "0",
        "PYTHONFAULTHANDLER": "1",
    }
    command = [sys.executable, str(Path(__file__).with_name("hostile.py"))]
    while len(found) < each * len(kinds()):
        done = subprocess.run(
            [*command, *map(str, (seed, each, len(found)))],
            env=known,
            check=False,
            capture_output=True,
            timeout=LIMIT,
        )
        said, before = done.stderr.decode()[:2000], len(found)
        for line in done.stdout.decode().splitlines():
            number, _, what = line.partition(" ")
            if number == "took":
                assert int(what.split()[0]) < ROOM // 2, what
            else:
                found[int(number)] = what
        assert done.returncode == 0 or len(found) > before, said
        if done.returncode:
            found[max(found)] = f"ended the process ({done.returncode}): {said}"
    return found


def test_files_whose_bytes_were_changed_are_refused_or_work(sample: int | None) -> None:
    each = ALL if sample is None else SAMPLE
    wrong, counts = list[str](), Counter[tuple[str, str]]()
    for number, what in outcomes(sample or 0, each).items():
        kind = kinds()[number // each]
        counts[kind, what] += 1
        if what not in ("works", "refused"):
            wrong.append(f"{kind}, mutant {number % each} of {each}: {what}")
    print(*(f"{kind}: {n} {what}" for (kind, what), n in sorted(counts.items())), sep="\n")
    assert not wrong, "\n".join(wrong)
    assert all(counts[kind, "refused"] for kind in kinds())
