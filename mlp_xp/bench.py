"""`mlp-xp bench`: what a device does with training steps, beside its own ceilings.

Needs nothing but the core. The step as the device builds it runs against the step of the
specification: first both must give the loss of a float64 run, then they are timed in
turns. The full harness, with other libraries, is `bench/run.py` in the repository.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .commands.common import Arguments, Document, Halt, say
from .devices import device as find_device
from .fitting import Found, Run, copied, one_epoch
from .hardware import Device
from .mlp import MLP
from .training import Data, stepper
from .types import Array

Rows = npt.NDArray[Any]

# sizes and batch of what `mlp-xp bench` runs, small to large
SHORT = (
    ((20, 16, 1), 32),
    ((784, 100, 10), 32),
    ((784, 100, 10), 200),
    ((784, 512, 512, 10), 128),
)
STEPS_BEFORE_CHECK = 3


# -- work ----------------------------------------------------------------------


class Work(NamedTuple):
    """What a step or a call cannot do without.

    flops  of the matrix products alone
    moved  bytes read and written if every operation touches each of its arrays once
    held   bytes of parameters, gradients, moments, activations and one batch
    """

    flops: float
    moved: float
    held: float


def step_work(sizes: Sequence[int], m: int, itemsize: int) -> Work:
    """One Adam step on m examples, gathered from a larger set.

    The products are 2 m n_in n_out FLOP a layer forward, as much for the weights'
    gradient, and as much for the input's, which the first layer does not need. The update
    reads theta, g and two moments and writes three of them back.
    """
    layers = list(pairwise(sizes))
    weights = [n_in * n_out for n_in, n_out in layers]
    n_parameters = sum(weights) + sum(sizes[1:])
    units = sum(sizes[1:])
    flops = 2 * m * (3 * sum(weights) - weights[0])
    gathered = 2 * m * sizes[0]
    forward = sum(weights) + m * sum(n_in + n_out for n_in, n_out in layers)
    backward = (
        2 * sum(weights) - weights[0] + m * sum(2 * n_in + 2 * n_out for n_in, n_out in layers)
    )
    moved = gathered + forward + backward + 7 * n_parameters
    held = 4 * n_parameters + m * (sizes[0] + units)
    return Work(flops, moved * itemsize, held * itemsize)


def inference_work(sizes: Sequence[int], m: int, itemsize: int) -> Work:
    """The scores of m examples."""
    layers = list(pairwise(sizes))
    weights = sum(n_in * n_out for n_in, n_out in layers)
    n_parameters = weights + sum(sizes[1:])
    moved = n_parameters + m * sum(n_in + n_out for n_in, n_out in layers)
    return Work(2 * m * weights, moved * itemsize, (n_parameters + m * sum(sizes)) * itemsize)


# -- ceilings ------------------------------------------------------------------


def last_level_cache() -> int:
    """Bytes of the largest cache of the first core; 32 MiB where the system does not say.

    MLP_XP_LAST_LEVEL_CACHE takes its place: a virtual machine may name that of its whole host,
    480 MiB, and what is measured cold is twice as large, copies four times.
    """
    if given := os.environ.get("MLP_XP_LAST_LEVEL_CACHE"):
        return int(given)
    found = [32 * 2**20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
        found.append(int(text.rstrip("KMG")) * unit)
    return max(found[1:] or found)


def noise(shape: tuple[int, ...]) -> Rows:
    """Normal float32 numbers: products of equal ones draw less power, and run faster.

    A million and three are drawn and repeated, which takes no time and no row twice.
    """
    random = np.random.default_rng(0).standard_normal(1_000_003, dtype=np.float32)
    return np.resize(random, shape)


def gemm_rate(xp: Any, wait: Callable[[], None], dtype: Any, n: int = 1024) -> float:
    """FLOP/s of one product of two (n, n) matrices."""
    A, B = (xp.asarray(noise((n, n)), dtype=dtype) for _ in range(2))
    return 2 * n**3 / _shortest(lambda: xp.matmul(A, B), wait)


def cublas_rate(precision: str, n: int) -> float:
    """FLOP/s of one product of two (n, n) matrices by cuBLAS, as a training step makes it.

    precision  "float32", "tf32" or "bfloat16"
    """
    import cupy

    from .fast.cublas import Cublas, Product

    cublas, stream = Cublas(), cupy.cuda.get_current_stream()
    cublas.follow(stream.ptr)
    A, B = (held(noise((n, n)), precision) for _ in range(2))
    product = Product(cublas, A, B, cupy.empty((n, n), cupy.float32), precision=precision)
    return 2 * n**3 / _shortest(product, stream.synchronize)


def held(array: Rows, precision: str) -> Array:
    """float32 numbers on the device as a product takes them: bfloat16 as its 16 bits."""
    import cupy

    if precision != "bfloat16":
        return cupy.asarray(array)
    # cut off, not rounded: what the numbers are is all the same here
    return cupy.asarray((array.view(np.uint32) >> 16).astype(np.uint16))


def copy_rate(xp: Any, wait: Callable[[], None], size: int) -> float:
    """Bytes/s, read and written, of copying `size` bytes over others.

    On CUDA by the runtime's own copy or by a kernel of 4 bytes a thread, whichever is faster.
    """
    source, target = xp.ones(size // 4, dtype=xp.float32), xp.ones(size // 4, dtype=xp.float32)

    def copy() -> None:
        target[...] = source

    ways: list[Callable[[], None]] = [copy]
    if hasattr(target.data, "copy_from_device_async"):
        ways.append(lambda: target.data.copy_from_device_async(source.data, size))
    return 2 * size / min(_shortest(way, wait) for way in ways)


def _shortest(call: Callable[[], object], wait: Callable[[], None], repeats: int = 5) -> float:
    """Seconds of the shortest of a few calls, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        wait()
        began = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - began)
    return min(times[1:])


# -- timing --------------------------------------------------------------------


class Summary(NamedTuple):
    """Median, minimum, and half the distance between quartiles as a share of the median."""

    median: float
    least: float
    spread: float


def summarise(values: Sequence[float]) -> Summary:
    """The summary of some measurements of one thing."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Summary(float(median), float(min(values)), float((high - low) / 2 / median))


def repeats_for(run: Callable[[int], None], wait: Callable[[], None], seconds: float) -> int:
    """How many repeats take about `seconds`, found by doubling."""
    n = 1
    while True:
        began = time.perf_counter()
        run(n)
        wait()
        took = time.perf_counter() - began
        if took >= seconds / 4:
            return max(1, round(n * seconds / took))
        n *= 2


def tolerance(dtype: Any, terms: int) -> float:
    """Relative difference allowed to a loss or score made of sums of `terms` terms."""
    return float(16 * np.finfo(dtype).eps * math.sqrt(terms))


class Trainer:
    """Steps of a model over shuffled examples, one batch after another, as `fit` makes them.

    order   (m,) the shuffled examples, m a multiple of the batch size; (n_networks, m) where
            every network has its own
    issued  where numbers that are read must be waited for, when the host had launched the
            last step of a `run`, by `time.perf_counter`
    """

    def __init__(self, model: MLP, data: Data, order: Rows, batch_size: int) -> None:
        self.device, self.batch_size = model.device, batch_size
        self.sizes = model.network.sizes
        self.order, self.m = order, order.shape[-1]
        self.index: Array = None if self.device.reads_wait else self.device.put(order)
        self.rate = model.optimizer.rate
        self.step = stepper(model._recipe, self.device, data)
        self.reached = Run(copied(self.device, model._run.state))
        self.next, self.issued = 0, 0.0

    def run(self, n: int) -> None:
        """Take n steps; may return before the device has.

        Where numbers that are read must be waited for, the n steps are one epoch as `fit`
        makes it, its order copied up and its losses down. Elsewhere the steps are called by
        themselves: what `fit` does between two of them would be a third of the small ones.
        """
        with self.device.threads(self.sizes, self.batch_size):
            if self.device.reads_wait:
                self._epoch(n)
            else:
                self._steps(n)

    def _epoch(self, n: int) -> None:
        size = n * self.batch_size
        if self.next + size > self.order.shape[-1]:  # the data once more, and again
            times = -(-(self.m + size) // self.m)
            self.order = np.tile(self.order[..., : self.m], times)
        order = self.order[..., self.next : self.next + size]

        def after_steps(n: int, _: Found) -> None:
            self.issued = time.perf_counter()

        one_epoch(
            self.device,
            self.reached,
            self.step,
            order,
            self.batch_size,
            lambda number: self.rate,
            lambda number, m: None,
            after_steps,
        )
        self.next = (self.next + size) % self.m

    def _steps(self, n: int) -> None:
        step, size, rate = self.step, self.batch_size, self.rate
        while n > 0:
            k = min(n, (self.m - self.next) // size)
            index = self.index[..., self.next : self.next + k * size]
            state = self.reached.state
            announce = getattr(step, "announce", None)  # of a step that takes all rates at once
            if announce is not None:
                announce(state, index, [rate] * k)
            for start in range(0, k * size, size):
                state = step(state, index[..., start : start + size], None, rate)
            self.reached.state = state
            self.next = (self.next + k * size) % self.m
            n -= k

    def checked_loss(self) -> Any:
        """The loss after three more steps: that of the fourth batch, before its update."""
        self.run(STEPS_BEFORE_CHECK + 1)
        loss = self.device.get(self.reached.state.loss)
        return float(loss) if loss.ndim == 0 else loss

    def kernels(self) -> int:
        """What one step launches, products too; 0 where a step is no program of launches."""
        programs = getattr(self.step, "programs", {})
        return max((sum(launches(program).values()) for program in programs.values()), default=0)


def launches(program: Any) -> Counter[str]:
    """The launches of a program of `fast.program` by name; cuBLAS's begin with "cublas"."""
    return Counter(call.name for call in program.calls if hasattr(call, "name"))


def examples(sizes: Sequence[int], m: int) -> tuple[Rows, Rows]:
    """Rows (m, n_features) float32 and labels (m,): a noisy linear rule to learn."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((m, sizes[0]), dtype=np.float32)
    rows *= 0.25  # so that wide networks begin with moderate scores
    n_classes = max(2, sizes[-1])
    rule = random.standard_normal((sizes[0], n_classes), dtype=np.float32)
    labels = np.argmax(rows @ rule, axis=1)
    noisy = random.random(m) < 0.1
    labels[noisy] = random.integers(0, n_classes, int(noisy.sum()))
    return rows, labels


def targets_for(sizes: Sequence[int], labels: Rows, dtype: Any) -> Rows:
    """What `training.Data` takes: labels, or a column of 0 and 1 for one output."""
    return labels.astype(dtype)[:, None] if sizes[-1] == 1 else labels.astype(np.int64)


def loss_for(sizes: Sequence[int]) -> str:
    """Cross-entropy, binary for one output."""
    return "binary_cross_entropy" if sizes[-1] == 1 else "cross_entropy"


def build(
    sizes: Sequence[int],
    dtype: str,
    device: Device,
    precision: str = "float32",
    networks: int | None = None,
) -> MLP:
    """The network of a case: relu and Adam at 1e-3; or so many of them, trained at once."""
    seed = 0 if networks is None else list(range(networks))
    options: dict[str, Any] = {} if precision == "float32" else {"precision": precision}
    return MLP(sizes, loss=loss_for(sizes), dtype=dtype, device=device, seed=seed, **options)


# -- the command ---------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--device, --rounds and --seconds."""
    add = parser.add_argument
    add("--device", default="cpu", metavar="NAME", help="see mlp-xp devices (default: cpu)")
    add("--rounds", type=int, default=7, metavar="N", help="turns of each step (default: 7)")
    add("--seconds", type=float, default=0.1, metavar="S", help="of one turn (default: 0.1)")


def run(args: Arguments) -> Document:
    """One line a case: time, rate, share of the ceilings, and how much the device's step gains."""
    if args.rounds < 1 or not 0 < args.seconds < math.inf:
        raise Halt(2, "--rounds and --seconds must be numbers above 0.")
    try:
        device = find_device(args.device)
    except (ValueError, RuntimeError, ImportError) as error:
        raise Halt(2, str(error)) from None
    if device.name != "cpu" and emulated():
        raise Halt(2, emulated() + ".")
    cache = last_level_cache()
    side = 1024 if device.name == "cpu" else 8192
    gemm = gemm_rate(device.xp, device.synchronize, device.xp.float32, side)
    copying = copy_rate(device.xp, device.synchronize, 4 * cache)
    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    say(
        args,
        f"{device.name}, float32, {threads} threads: products {gemm / 1e9:.0f} GFLOP/s, "
        f"copying {copying / 1e9:.1f} GB/s",
    )
    rows = []
    for sizes, m in SHORT:
        row = _case(device, sizes, m, args.rounds, args.seconds, 2 * cache)
        name = f"{row['case']:<24}"
        if row["status"] != "ok":
            say(args, f"{name} FAILED, not timed: {row['reason']}")
            rows.append(row)
            continue
        row["percent_gemm"] = 100e9 * row["gflops"] / gemm
        row["percent_copy"] = 100e9 * row["gigabytes"] / copying
        rows.append(row)
        say(
            args,
            f"{name}{row['microseconds']:>10,.1f} µs ±{100 * row['spread']:.0f}%"
            f"{row['examples_per_second']:>12,.0f} examples/s"
            f"{row['gflops']:>7.1f} GFLOP/s, {row['percent_gemm']:.0f}%"
            f"{row['gain']:>7.2f} × as fast as the specification",
        )
    if any(row["status"] != "ok" for row in rows):
        raise Halt(1, "A step does not give the loss of a float64 run.", {"rows": rows})
    return {
        "device": device.name,
        "threads": threads,
        "gemm_gflops": gemm / 1e9,
        "copy_gigabytes": copying / 1e9,
        "rows": rows,
    }


def emulated() -> str:
    """Why CuPy cannot be timed: built for the CPU, it computes what a GPU would; or ""."""
    try:
        import cupy
    except ImportError:
        return ""
    if "+cpu" not in cupy.__version__:
        return ""
    return f"CuPy {cupy.__version__} is built for the CPU: its times would say nothing of a GPU"


def _case(
    device: Device, sizes: tuple[int, ...], m: int, rounds: int, seconds: float, cold: int
) -> dict[str, Any]:
    n_batches = max(8, math.ceil(cold / (4 * sizes[0] * m)))
    rows, labels = examples(sizes, n_batches * m)
    order = np.random.default_rng(1).permutation(n_batches * m)

    def trainer(where: Device, dtype: str) -> Trainer:
        targets = targets_for(sizes, labels, dtype)
        data = Data(where.put(rows.astype(dtype)), where.put(targets))
        return Trainer(build(sizes, dtype, where), data, order, m)

    specification = device._replace(stepper=None)
    row: dict[str, Any] = {"case": f"{'-'.join(map(str, sizes))} batch {m}", "status": "ok"}
    expected = trainer(specification, "float64").checked_loss()
    mine = trainer(device, "float32")
    found = mine.checked_loss()
    if not abs(found - expected) <= tolerance("float32", max(sizes)) * abs(expected):
        reason = f"the loss is {found:.9g}, in float64 {expected:.9g}"
        return {**row, "status": "failed", "reason": reason}
    contestants = [mine, trainer(specification, "float32")]
    n = [repeats_for(one.run, device.synchronize, seconds) for one in contestants]
    times: list[list[float]] = [[], []]
    for turn in range(2 * rounds):
        i = turn % 2
        began = time.perf_counter()
        contestants[i].run(n[i])
        device.synchronize()
        times[i].append((time.perf_counter() - began) / n[i])
    summary = summarise(times[0])
    work = step_work(sizes, m, 4)
    gain = float(np.median(np.array(times[1]) / np.array(times[0])))
    return {
        **row,
        "microseconds": 1e6 * summary.median,
        "least": 1e6 * summary.least,
        "spread": summary.spread,
        "examples_per_second": m / summary.median,
        "gflops": work.flops / summary.median / 1e9,
        "gigabytes": work.moved / summary.median / 1e9,
        "gain": gain,
    }
