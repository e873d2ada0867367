"""What each launch of a CUDA step takes by itself, in the tile it has and in every other.

    python bench/launches.py                              the cases of `gpu.py`
    python bench/launches.py 784-100-10:200 --out x.json  a network and its batch
    python bench/launches.py --tiles                      with every tile that there is

A launch is captured twenty times over and the graph timed by events, so that its latency on
the device is in the figure and the host is not. The constants of `fast/choice.py` are chosen
by such a table; on a card that is not like it, this is where to look first. Before anything
is timed, the loss of four steps in each tile is held to that of the specification.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp import MLP
from mlp_xp.devices import device as find_device
from mlp_xp.fast.cuda_tiles import TILES, WIDEST, Tile
from mlp_xp.training import Data, stepper

CASES = (
    *("20-16-1:32", "784-100-10:32", "784-100-10:200", "784-100-10:1000", "784-256-10:128"),
    *("784-512-512-10:128", "64-128-128-128-128-128-128-128-128-10:256"),
)
REPEATS, TURNS = 20, 5  # launches in a graph, and times that it is replayed
STEPS = 4  # before the losses are compared


@contextmanager
def forced(tile: Tile | None) -> Iterator[None]:
    """All products in one size of tile, where it can take them."""
    from mlp_xp.fast import choice

    original = choice.tile

    def chosen(shapes: Any, networks: int, dtype: str, all_rows: bool = False) -> Tile:
        fits = tile is not None and (not all_rows or shapes[0][0] <= tile.rows <= WIDEST)
        return tile if tile and fits else original(shapes, networks, dtype, all_rows)

    choice.tile = chosen  # type: ignore[assignment]
    try:
        yield
    finally:
        choice.tile = original


def problem(sizes: tuple[int, ...], m: int) -> tuple[Any, Any, Any]:
    """A model on the device, data, and an order that twenty launches of each do not exhaust."""
    random = np.random.default_rng(0)
    n = max(8192, 2 * m) if m > 64 else 1024
    rows = random.standard_normal((n, sizes[0]), dtype=np.float32)
    labels = random.integers(0, max(2, sizes[-1]), n)
    loss = "binary_cross_entropy" if sizes[-1] == 1 else "cross_entropy"
    where = find_device("cuda", graph=False)
    model = MLP(sizes, device=where, loss=loss, seed=0)
    targets = labels[:, None].astype(np.float32) if sizes[-1] == 1 else labels
    data = Data(where.put(rows), where.put(targets))
    return model, data, where.put(random.integers(0, n, 40 * REPEATS * m))


def loss_of(model: Any, data: Any, order: Any, m: int, step: Any) -> tuple[float, Any]:
    """The loss at the fourth step, and the state after it."""
    state = model._run.state
    for number in range(STEPS):
        state = step(state, order[number * m : (number + 1) * m], None, 1e-3)
    return float(model.device.get(state.loss)), state


def microseconds(call: Any) -> float:
    """Of a launch among its like in a graph, the median."""
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        call()
        stream.synchronize()
        stream.begin_capture()
        for _ in range(REPEATS):
            call()
        graph = stream.end_capture()
        found = []
        for _ in range(TURNS + 1):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            found.append(cupy.cuda.get_elapsed_time(begin, end) / REPEATS * 1e3)
    return float(np.median(found[1:]))


def measured(case: str, tile: Tile | None, timed: bool) -> dict[str, Any]:
    """The launches of a case's step, in order."""
    import cupy

    network, batch = case.split(":")
    sizes, m = tuple(map(int, network.split("-"))), int(batch)
    with forced(tile):
        model, data, order = problem(sizes, m)
        spec = model.device._replace(stepper=None)
        expected, _ = loss_of(model, data, order, m, stepper(model._recipe, spec, data))
        step: Any = stepper(model._recipe, model.device, data)
        loss, state = loss_of(model, data, order, m, step)
        if not abs(loss - expected) <= 1e-4 * abs(expected):
            raise SystemExit(f"{case}, {tile}: the loss is {loss}, the specification's {expected}")
        step.announce(state, order, [1e-3] * (len(order) // m))
        (program,) = step.programs.values()

    def launch(call: Any) -> None:
        step.cublas.follow(cupy.cuda.get_current_stream().ptr)
        call()

    launches = [
        {"name": call.name, "us": microseconds(lambda call=call: launch(call)) if timed else None}
        for call in program.calls
    ]
    size = None if tile is None else [tile.rows, tile.columns]
    return {"case": case, "tile": size, "launches": launches}


def line(row: dict[str, Any]) -> str:
    """A row as the terminal shows it."""
    size = "as chosen" if row["tile"] is None else "{} × {}".format(*row["tile"])
    times = [launch["us"] for launch in row["launches"]]
    shown = (f"{launch['name']} {launch['us'] or 0:.1f}" for launch in row["launches"])
    total = f"{sum(times):.1f} µs" if None not in times else "not timed"
    return f"{row['case']:<16} {size:<10} {total}: {', '.join(shown)}"


def main(argv: list[str] | None = None) -> int:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="SIZES:BATCH", help="(default: several)")
    parser.add_argument("--tiles", action="store_true", help="every tile, too")
    parser.add_argument("--out", type=Path, help="write JSON to this file")
    args = parser.parse_args(argv)
    import cupy

    timed = not cupy.__version__.endswith("+cpu")  # which is no clock
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    rows = []
    for case in args.cases or CASES:
        for tile in (None, *(TILES if args.tiles else ())):
            rows.append(measured(case, tile, timed))
            print(line(rows[-1]), flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps({"device": name, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
