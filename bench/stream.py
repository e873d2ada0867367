"""How fast a model trains on data larger than memory, beside reading alone and steps alone.

    python bench/stream.py [--gigabytes 2] [--memory 300MB] [--limit 1GB] [--folder DIR]
                           [--formats npy,parquet,zarr] [--hidden 256,128] [--rounds 3]

For each format a file of random rows is written, and a process of its own, whose address space
is limited (`RLIMIT_AS`, libraries and stacks included; Arrow takes the system's malloc there, for
its own reserves a gigabyte), measures by turns, a round each:

    read      the windows of an epoch, filled and thrown away
    step      `fit` on a window that is in memory, as many epochs as are an epoch of all
    together  `fit` on the stream, one epoch

Both begin anew every round.

Rates are MB of rows (as float32) a second. The file is dropped from the system's cache before each.
What is wanted is that together runs at the rate of the slower of the two. Peak RSS is the
largest of the whole process, libraries and the interpreter included. The stream's order is
proven to hold every row once before anything is timed. Files are deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mlp_xp import MLP, stream
from mlp_xp.streams import Stream
from mlp_xp.streams.feed import Feed
from mlp_xp.streams.source import in_bytes
from mlp_xp.training import Data

FEATURES, CLASSES, BATCH, BLOCK = 100, 10, 512, 1 << 15  # rows that are written at once
MALLOC = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
QUIET: dict[str, Any] = {"progress": False, "batch_size": BATCH}


def blocks(rows: int) -> Any:
    """Random rows and labels that follow from them, some at a time."""
    random = np.random.default_rng(0)
    for start in range(0, rows, BLOCK):
        X = random.standard_normal((min(BLOCK, rows - start), FEATURES), np.float32)
        yield start, X, np.argmax(X[:, :CLASSES], axis=1)


def write_npy(folder: Path, rows: int) -> tuple[Path, Path | str]:
    X, y = folder / "X.npy", folder / "y.npy"
    for path, dtype, shape in ((X, "<f4", (rows, FEATURES)), (y, "<i8", (rows,))):
        with open(path, "wb") as file:
            header = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            for _, part, labels in blocks(rows):
                (part if path is X else labels).tofile(file)
    return X, y


def write_parquet(folder: Path, rows: int) -> tuple[Path, str]:
    import pyarrow as arrow
    from pyarrow import parquet

    path, names = folder / "t.parquet", [*(f"x{j}" for j in range(FEATURES)), "y"]
    writer = None
    for _, X, y in blocks(rows):
        table = arrow.table([*X.T, y], names=names)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return path, "y"


def write_zarr(folder: Path, rows: int) -> tuple[Path, str]:
    import zarr

    group = zarr.open_group(folder / "d.zarr", mode="w")
    arguments: dict[str, Any] = {"compressors": None}
    X = group.create_array(
        "X", shape=(rows, FEATURES), chunks=(4096, FEATURES), dtype="float32", **arguments
    )
    y = group.create_array("y", shape=(rows,), chunks=(BLOCK,), dtype="int64", **arguments)
    for start, part, labels in blocks(rows):
        X[start : start + len(part)] = part
        y[start : start + len(part)] = labels
    return folder / "d.zarr", "y"


FORMATS: dict[str, Callable[[Path, int], tuple[Path, Path | str]]] = {
    "npy": write_npy,
    "parquet": write_parquet,
    "zarr": write_zarr,
}


def drop(path: Path) -> None:
    """Put a file, or a folder of them, out of the system's cache, so that it comes from disk."""
    for part in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if part.is_file():
            handle = os.open(part, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def read(feed: Feed, size: int) -> Data:
    """All windows of an epoch, filled as in a training; returns the first buffer."""
    buffers = [feed._buffer(size) for _ in range(2)]
    order = [feed.stream.unit_order(0)]
    for _ in feed._filled(size, order, buffers, threading.Event(), 0):
        pass
    return buffers[0]


def _few(sizes: Sequence[int]) -> tuple[Any, Any]:
    """A batch of anything."""
    random = np.random.default_rng(0)
    X = random.standard_normal((BATCH, sizes[0]), np.float32)
    return X, np.arange(BATCH) % sizes[-1]


def measure(data: Stream, path: Path, hidden: Sequence[int], rounds: int) -> dict[str, Any]:
    """Rates in MB of rows a second."""
    sizes = (FEATURES, *hidden, CLASSES)
    model, feed = MLP(sizes), Feed(data, MLP(sizes))
    size = feed.window(BATCH, 1)
    assert size < data.m, "the data fit into the memory given"
    seen = np.zeros(data.m, bool)
    seen[data.order(model, 0, BATCH)] = True
    assert seen.all()
    scanned = seconds(lambda: data.found)
    once, total = (m * FEATURES * 4 / 1e6 for m in (size, data.m))
    MLP(sizes).fit(*_few(sizes), epochs=1, layout="rows", **QUIET)  # kernels, the first time
    found: dict[str, list[float]] = {"read": [], "step": [], "together": []}
    for _ in range(rounds):
        drop(path)
        began = time.perf_counter()
        window = read(feed, size)
        found["read"].append(total / (time.perf_counter() - began))
        X, y = window.rows, window.targets
        times = max(1, round(total / once))
        alone, model = MLP(sizes, seed=0), MLP(sizes, seed=0)
        began = time.perf_counter()
        alone.fit(X, y, epochs=times, layout="rows", **QUIET)
        found["step"].append(times * once / (time.perf_counter() - began))
        del window, X, y
        drop(path)
        began = time.perf_counter()
        model.fit(data, epochs=1, **QUIET)
        found["together"].append(total / (time.perf_counter() - began))
    rates = {name: median(values) for name, values in found.items()}
    shares = [
        together / min(reading, step)
        for reading, step, together in zip(*found.values(), strict=True)
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {
        **rates,
        "scan": total / scanned,
        "share": median(shares),
        "window": size,
        "peak": peak,
        "loss": model.history["loss"][-1],
    }


def child(job: dict[str, Any]) -> None:
    limit = job["limit"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    path = Path(job["path"])
    data = stream(path, job["target"], memory=job["memory"])
    print(json.dumps(measure(data, path, job["hidden"], job["rounds"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--memory", default="300MB")
    parser.add_argument("--limit", default="1GB", help="of the process's address space")
    parser.add_argument("--folder", default=None, help="where files are written")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--hidden", default="256,128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return
    rows = round(args.gigabytes * 1e9 / (4 * FEATURES))
    print(
        f"{rows:,} rows of {FEATURES} float32, memory {args.memory}, address space {args.limit}, "
        f"{FEATURES}-{args.hidden.replace(',', '-')}-{CLASSES}, batches of {BATCH}"
    )
    print("format    read  step  together  MB/s   of the less  scan MB/s  peak RSS MB  window")
    for name in args.formats.split(","):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path, target = FORMATS[name](Path(folder), rows)
            job = {
                "path": str(path),
                "target": str(target),
                "memory": args.memory,
                "limit": in_bytes(args.limit),
                "hidden": [int(n) for n in args.hidden.split(",")],
                "rounds": args.rounds,
            }
            command = [sys.executable, __file__, "--child", json.dumps(job)]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **MALLOC}
            )
            told = json.loads(done.stdout)
        print(
            f"{name:8}  {told['read']:4.0f}  {told['step']:4.0f}  {told['together']:8.0f}"
            f"{told['share']:20.2f}  {told['scan']:9.0f}  {told['peak']:11.0f}  {told['window']:6}",
            flush=True,
        )


if __name__ == "__main__":
    main()
