"""What a second process gives: a step measured on the ranks of an MPI job, and a model of it.

    OMP_NUM_THREADS=1 python bench/ranks.py
    OMP_NUM_THREADS=1 mpiexec -n 2 --bind-to core python bench/ranks.py
    mpiexec -n 2 python bench/ranks.py --device cuda
    python bench/ranks.py --model --rate 50e9 --latency 2e-6 --bandwidth 10e9

Measures steps of a dense network in float32 and the exchange of its gradient, and prints the
least and the median of each. The model's formulas are in docs/parallel.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mlp_xp import MLP, ranks
from mlp_xp.fitting import copied
from mlp_xp.training import Data, stepper

WIDTH = 4  # bytes of a number in float32


class Machine(NamedTuple):
    """Rates of one rank, and of the network between two.

    rate       FLOP/s of a step's products
    latency    seconds of a message
    bandwidth  bytes/s of a message
    memory     bytes/s at which the update reads and writes
    """

    rate: float
    latency: float
    bandwidth: float
    memory: float


def flop(sizes: tuple[int, ...], m: int) -> float:
    """Of the products of a step: 2 forward, 4 backward, no gradient of the input."""
    products = [n_in * n_out for n_in, n_out in pairwise(sizes)]
    return 6.0 * m * sum(products) - 2.0 * m * products[0]


def parameters(sizes: tuple[int, ...]) -> int:
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))


def exchange(how: str, n: int, size: float, machine: Machine) -> float:
    """Seconds in which n ranks sum `size` bytes each (Thakur, Rabenseifner & Gropp 2005)."""
    alpha, beta, gamma = machine.latency, 1 / machine.bandwidth, 1 / machine.memory
    share = (n - 1) / n * size
    if how == "whole":  # MPI_Allgather by a ring, then n arrays are summed
        return (n - 1) * (alpha + size * beta) + n * size * gamma
    if how == "ring":  # parts: (n - 1) messages to sum them, as many to give them out
        return 2 * (n - 1) * alpha + 2 * share * beta + share * gamma
    if how == "tree":  # recursive halving, then doubling: Rabenseifner's
        return 2 * math.ceil(math.log2(n)) * alpha + 2 * share * beta + share * gamma
    if how == "doubling":  # recursive doubling of whole arrays
        return math.ceil(math.log2(n)) * (alpha + size * (beta + gamma))
    raise ValueError(f"{how!r}: expected 'whole', 'ring', 'tree' or 'doubling'")


def step_time(how: str, n: int, sizes: tuple[int, ...], m: int, machine: Machine) -> float:
    """Seconds of a step: the share of the products, the update, the exchange."""
    size = WIDTH * parameters(sizes)
    update = 7 * size / machine.memory  # Adam reads four vectors and writes three
    sent = 0.0 if n == 1 else exchange(how, n, size, machine)
    return flop(sizes, m) / (n * machine.rate) + update + sent


def table(sizes: tuple[int, ...], m: int, machine: Machine) -> None:
    """Speed-up over one rank, from 2 to 1,024."""
    hows = ("whole", "ring", "tree", "doubling")
    alone = step_time("tree", 1, sizes, m, machine)
    least = 4 / 3 * machine.rate / machine.bandwidth
    print(f"a second rank pays from a batch of about {least:.0f} on; one: {alone * 1e3:.3g} ms")
    print("| ranks | " + " | ".join(hows) + " |\n|" + "---|" * (len(hows) + 1))
    for n in (2**k for k in range(1, 11)):
        gains = [alone / step_time(how, n, sizes, m, machine) for how in hows]
        print(f"| {n} | " + " | ".join(f"{gain:.2f}" for gain in gains) + " |")


def timed(what: Callable[[], object], times: int) -> tuple[float, float]:
    """Least and median milliseconds."""
    what()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        what()
        found.append(1e3 * (time.perf_counter() - began))
    return min(found), float(np.median(found))


def measure(sizes: tuple[int, ...], m: int, times: int, device: str) -> None:
    """A step on this process, or on all ranks if a launcher started several."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(4 * m, sizes[0])).astype(np.float32)
    data = Data(rows, random.integers(0, sizes[-1], 4 * m))
    model = MLP(sizes, seed=0, device=device)
    on = model.device
    everyone = ranks.world() if ranks.launched() else None
    if everyone is not None:
        everyone.check(on, {})
    make = stepper if everyone is None else everyone.stepper
    step, index = make(model._recipe, on, Data(*map(on.put, data[:2]))), on.put(np.arange(m))
    state = copied(on, model._run.state)

    def one() -> None:
        nonlocal state
        state = step(state, index, None, 1e-3)
        on.synchronize()

    with on.active(), model.network.threads(on, m):
        least, median = timed(one, times)
    if ranks.is_first():
        n = 1 if everyone is None else everyone.size
        gflop = flop(sizes, m) / 1e9
        print(f"{n} ranks, {sizes}, batch {m}, {gflop:.3f} GFLOP: {least:.3f} ms, {median:.3f}")
    if everyone is not None:
        g = np.ones(parameters(sizes), np.float32)
        total, given = everyone.sums or everyone.total, on.put(g)

        def exchanged() -> None:
            total(given)
            on.synchronize()

        with on.active():
            least, median = timed(exchanged, times)
        if everyone.rank == 0:
            print(f"exchange of {g.nbytes / 1e6:.2f} MB: {least:.3f} ms, {median:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="784,512,512,10")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--rate", type=float, default=50e9, metavar="FLOP/S")
    parser.add_argument("--latency", type=float, default=2e-6, metavar="SECONDS")
    parser.add_argument("--bandwidth", type=float, default=10e9, metavar="BYTES/S")
    parser.add_argument("--memory", type=float, default=20e9, metavar="BYTES/S")
    args = parser.parse_args()
    sizes = tuple(map(int, args.sizes.split(",")))
    if args.model:
        machine = Machine(args.rate, args.latency, args.bandwidth, args.memory)
        table(sizes, args.batch, machine)
    else:
        measure(sizes, args.batch, args.times, args.device)


if __name__ == "__main__":
    main()
