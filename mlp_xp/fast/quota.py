"""How many processors a container may use, where that is less than it sees.

A container that is given two processors of a large machine by a quota of time (`docker --cpus 2`,
a limit of Kubernetes) sees all of them, and so do OpenBLAS and `os.sched_getaffinity`. As many
threads use the quota up within milliseconds, waiting for each other, and then all of them stand
still for the rest of a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import takewhile
from pathlib import Path

MANY = 1 << 20  # processors: more than any machine has
GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@cache
def processors() -> int:
    """How many the process may use by the quotas of its control groups; `MANY` without one."""
    return min((found for folder in _folders() for found in _granted(folder)), default=MANY)


def _folders() -> Iterator[Path]:
    """Of the groups in which the process is, up to the topmost that it sees: any has a quota."""
    with suppress(OSError, ValueError):
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                # of version 1 where the controller is mounted, or a link to that
                for name in {"cpu", controllers} if controllers else {""}:
                    inside = GROUPS / name / path.lstrip("/")
                    yield inside
                    yield from takewhile(lambda folder: folder != GROUPS.parent, inside.parents)


def _granted(folder: Path) -> Iterator[int]:
    """Processors by the quota of a group, in microseconds of so many: version 2, then 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if int(quota) > 0:
                yield -(-int(quota) // int(period))


__all__ = ["MANY", "processors"]
