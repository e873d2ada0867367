"""How fast data go up to a GPU: at once, batch by batch, and into an evaluation.

    python bench/upload.py [--out upload.json] [--sweep]

Everything is proven before it is timed: what lies on the device against CuPy's own copy of
the same rows, a fit of rows that stay on the host against one of rows that went up, an
evaluation against the CPU's. Where CuPy runs on the CPU it is proven, and not timed.

    link      a copy out of pinned memory alone, GB/s
    put       rows on the device, by dtype and layout: GB/s of what goes over the link, the
              first time, in which buffers are pinned, and the best of the next three
    fit       1 epoch of 784-512-10 (--hidden) in batches of 4,096: seconds to bring the
              data up and check them, and of the epoch
    evaluate  60,000 rows: seconds of the first call and of the second, and how many kernels
              the first had to compile

CuPy's cache of kernels is a fresh folder, unless CUPY_CACHE_DIR names one, so that it is the
first call of all that is timed.
--sweep times put for other sizes of the pinned buffers and numbers of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from mlp_xp import MLP, checks
from mlp_xp.devices import device as find_device
from mlp_xp.fast import pinned, upload
from mlp_xp.training import evaluate, pieces

FRESH = tempfile.TemporaryDirectory()
CACHE = os.environ.setdefault("CUPY_CACHE_DIR", FRESH.name)  # read when a kernel is compiled

FEATURES, PIECE = 784, 50_000  # rows of the proof at a time
BATCH, EVALUATED = 4096, 60_000
TIMED = not cupy.__version__.endswith("+cpu")


def seconds(call: Callable[[], object]) -> float:
    """Of one call, until the device has done it."""
    cupy.cuda.Device().synchronize()
    began = time.perf_counter()
    call()
    cupy.cuda.Device().synchronize()
    return time.perf_counter() - began


@contextmanager
def kept_on_host() -> Iterator[None]:
    """As if the device had no room for rows."""
    room, upload.room = upload.room, lambda: 100
    try:
        yield
    finally:
        upload.room = room


def kinds(m: int) -> dict[str, np.ndarray]:
    """Rows (m, 784), by what is put of them."""
    random = np.random.default_rng(0)
    floats = random.random((m, FEATURES), dtype=np.float32)
    return {
        "float32": floats,
        "uint8": random.integers(0, 256, (m, FEATURES), dtype=np.uint8),
        "float64": floats[: m // 2].astype(np.float64),
        "float32 columns": np.asfortranarray(floats[: m // 4]),
        "float32 rows with gaps": floats[:, : FEATURES // 2],
    }


def prove(rows: np.ndarray, there: Any) -> None:
    """Equal to what CuPy brings up by itself."""
    for piece in pieces(len(rows), PIECE):
        expected = cupy.asarray(np.ascontiguousarray(rows[piece])).astype(np.float32)
        assert bool((there[piece] == expected).all()), f"rows {piece} differ"


def link() -> float:
    """GB/s of copies out of 64 MiB of pinned memory."""
    memory = cupy.cuda.alloc_pinned_memory(2**26)
    host, there = np.frombuffer(memory, np.uint8, 2**26), cupy.empty(2**26, np.uint8)
    host[:] = 1
    there.set(host)
    return 2**26 / min(seconds(lambda: there.set(host)) for _ in range(5)) / 1e9


def put(rows: np.ndarray) -> dict[str, float]:
    """The first time and the next three."""
    width = min(rows.itemsize, 4)
    upload.ring.cache_clear()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
    times = [seconds(lambda: upload.up(rows, "float32")) for _ in range(4)]
    prove(rows, upload.up(rows, "float32"))
    rates = [rows.size * width / t / 1e9 for t in times]
    return {"first_gb_s": rates[0], "gb_s": max(rates[1:]), "seconds": min(times[1:])}


def fit(rows: np.ndarray, y: np.ndarray, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Seconds of an epoch, with rows on the device and on the host, which give one loss."""

    def trained() -> tuple[MLP, float]:
        model = MLP(sizes, device="cuda", seed=0)
        size = min(BATCH, len(rows) // 4)
        X = rows.T
        return model, seconds(lambda: model.fit(X, y, epochs=1, batch_size=size, progress=False))

    def brought(model: MLP) -> float:
        arguments = (model.network.sizes, "multiclass", model.device, model.dtype)
        return seconds(lambda: checks.data(rows.T, y, None, *arguments, several=True))

    trained()  # compiles
    model, whole = trained()
    data = brought(model)
    with kept_on_host():
        trained()
        other, on_host = trained()
        checked = brought(model)
    assert model.history["loss"] == other.history["loss"]
    size = rows.size * min(rows.itemsize, 4) / 1e9
    return {
        "resident": {"data_s": data, "epoch_s": whole - data, "whole_s": whole},
        "on_host": {
            "check_s": checked,
            "epoch_s": on_host - checked,
            "whole_s": on_host,
            "gb_s": size / (on_host - checked),
        },
        "data_gb_s": size / data,
    }


def first_evaluations(rows: np.ndarray, y: np.ndarray, sizes: tuple[int, ...]) -> dict[str, Any]:
    """After a fit, as is usual; data and scoring apart in the third."""
    model = MLP(sizes, device="cuda", seed=0)
    model.fit(rows.T, y, epochs=1, batch_size=min(512, len(rows)), progress=False)
    before = set(os.listdir(CACHE))
    times = [seconds(lambda: model.evaluate(rows.T, y)) for _ in range(2)]
    compiled = len(set(os.listdir(CACHE)) - before)
    found = model.evaluate(rows.T, y)
    cpu = MLP(sizes, seed=0)
    cpu.set_parameters(**{k: model.device.get(v) for k, v in model.parameters.items()})
    expected = cpu.evaluate(rows.T, y)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4)
    np.testing.assert_allclose(found.score, expected.score, atol=2 / len(rows))
    arguments = (model.network.sizes, "multiclass", model.device, model.dtype)
    data: list[Any] = []
    brought = seconds(lambda: data.append(checks.data(rows.T, y, None, *arguments)))
    scored = seconds(lambda: evaluate(model._recipe, model.device.xp, model._run.state, data[0]))
    return {
        "first_s": times[0],
        "second_s": times[1],
        "kernels_compiled": compiled,
        "of_which": {"data_s": brought, "scored_s": scored},
    }


def sweep(rows: np.ndarray) -> list[dict[str, float]]:
    """put by the size of the buffers and the number of threads."""
    found = []
    for threads in (1, 2, 4, 8, 12, 16):
        for size in (2**20, 2**21, 2**22, 2**23, 2**24):
            pinned.workers().shutdown()
            pinned.workers.cache_clear()
            pinned.THREADS, upload.CHUNK = threads, size
            upload.ring = partial(lambda ring: ring, pinned.Ring(size, 2 * threads))
            upload.up(rows, "float32")
            best = min(seconds(lambda: upload.up(rows, "float32")) for _ in range(3))
            found.append({"threads": threads, "buffer": size, "gb_s": rows.nbytes / best / 1e9})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of 784 features (3.1 GB)")
    parser.add_argument("--hidden", type=int, default=512, help="units of the network")
    parser.add_argument("--sweep", action="store_true", help="other buffers and threads")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rows = kinds(options.rows)
    y = np.random.default_rng(1).integers(0, 10, options.rows)
    some, sizes = min(EVALUATED, options.rows), (FEATURES, options.hidden, 10)
    report: dict[str, Any] = {
        "device": find_device("cuda").name,
        "card": cupy.cuda.runtime.getDeviceProperties(0)["name"].decode(),
        "threads": pinned.THREADS,
        "buffer": upload.CHUNK,
        "evaluate": first_evaluations(rows["float32"][:some], y[:some], sizes),
        "link_gb_s": link(),
        "put": {kind: put(array) for kind, array in rows.items()},
        "fit": {kind: fit(rows[kind], y, sizes) for kind in ("float32", "uint8")},
    }
    if options.sweep:
        report["sweep"] = sweep(rows["float32"])
    if not TIMED:
        print("equal; CuPy on the CPU gives no times")
        return
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
