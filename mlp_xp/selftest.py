"""`mlp-xp selftest`: whether a device computes right, what it can do, and what is off.

Trainings on the device are compared with the specification's on NumPy, one for every row
of the tables and every part of a network. On a CUDA device every kernel is compiled, the
launches of a step are counted, graph replay is tried, products are checked in each
precision, and rates are measured and held against what the card's clocks and widths allow.
The report is short enough to be pasted into an issue.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .activations import ACTIVATIONS
from .bench import (
    Trainer,
    copy_rate,
    cublas_rate,
    emulated,
    held,
    launches,
    noise,
)
from .commands.common import Arguments, Document, Halt, say
from .data import load
from .devices import device as find_device
from .hardware import Device
from .kernels import PRECISIONS
from .losses import LOSSES
from .mlp import MLP
from .optimizers import OPTIMIZERS
from .training import Data, bits_for, stepper

Rows = npt.NDArray[Any]
SIZES = (5, 7, 7, 3)
EVERYTHING: dict[str, Any] = {
    "dropout": 0.2,
    "residual": True,
    "density": 0.7,
    "l2": 0.01,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "clip_value": 0.5,
    "label_smoothing": 0.1,
}
CLOSE = 1e-7  # of float64 trainings of a few dozen steps
MEASURED_STEP = ((784, 512, 512, 10), 128)


class Check(NamedTuple):
    """One line of the report: a name, whether it is as it should be, and what was found."""

    name: str
    passed: bool
    detail: str


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Trainings to compare: every row of the tables, and every part of a network."""
    for activation in ACTIVATIONS:
        yield f"activation {activation}", {"activation": activation}
    for loss in LOSSES:
        yield f"loss {loss}", {"loss": loss}
    for optimizer in OPTIMIZERS:
        yield f"optimizer {optimizer}", {"optimizer": optimizer, "learning_rate": 0.003}
    for normalization in ("none", "batch", "layer"):
        together = {**EVERYTHING, "normalization": normalization}
        yield f"everything, normalization {normalization}", together
        yield f"two networks, normalization {normalization}", {**together, "seed": [1, 2]}


def _examples(loss: str, random: np.random.Generator) -> tuple[Rows, Rows]:
    X, labels = random.normal(size=(SIZES[0], 50)), random.integers(0, 3, 50)
    T = np.eye(3)[:, labels]
    if LOSSES[loss].kind == "multiclass":
        return X, labels
    return X, (T[:1] if LOSSES[loss].kind == "binary" else T)


def difference(device: Device, options: dict[str, Any]) -> float:
    """How far a training on the device ends from the specification's, relatively."""
    given: dict[str, Any] = {"loss": "cross_entropy", "dtype": "float64", "seed": 1, **options}
    X, Y = _examples(given["loss"], np.random.default_rng(0))
    sizes = (*SIZES[:-1], 1 if LOSSES[given["loss"]].kind == "binary" else SIZES[-1])
    weights = np.random.default_rng(1).uniform(0.5, 2, 50)
    found = []
    for place in (find_device("cpu")._replace(stepper=None), device):
        model = MLP(sizes, device=place, **given)
        model.fit(X, Y, epochs=3, batch_size=16, sample_weight=weights, progress=False)
        found.append((np.array(model.history["loss"]), place.get(model._run.state.theta)))
    worst = 0.0
    for reference, mine in zip(*found, strict=True):
        scale = max(1.0, float(np.max(np.abs(reference))))
        worst = max(worst, float(np.max(np.abs(mine - reference))) / scale)
    return worst


def compare_trainings(device: Device) -> Check:
    """Each of the settings, in float64."""
    worst, where, n, left = 0.0, "", 0, list[str]()
    for name, options in settings():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = difference(device, options)
        left += [f"{name}: {warning.message}" for warning in caught]
        n += 1
        if not found <= worst:
            worst, where = found, name
    detail = f"{n} trainings, the farthest {worst:.1e} off ({where})"
    if left:
        detail += f"; {len(left)} warnings, the first: {left[0]}"
    return Check("trainings equal the specification's", worst <= CLOSE and not left, detail)


def compare_digits(device: Device) -> Check:
    """The digits in float32: the same losses to rounding, and the accuracy they should have."""
    data = load("digits")
    assert data.y is not None
    X, y = data.X.T / 16, data.y.astype(np.int64)
    curves, score = [], 0.0
    for place in (find_device("cpu"), device):
        model = MLP((64, 64, 10), learning_rate=0.005, device=place)
        model.fit(X[:, :1437], y[:1437], epochs=15, batch_size=32, progress=False)
        curves.append(np.array(model.history["loss"]))
        score = model.evaluate(X[:, 1437:], y[1437:]).score
    off = float(np.max(np.abs(curves[1] - curves[0]) / curves[0]))
    return Check(
        "the digits are learnt as on the CPU",
        off < 0.05 and score > 0.85,  # rounding grows along a path of 675 steps
        f"losses of 15 epochs within {off:.1e}, held-out accuracy {score:.3f}",
    )


# -- CUDA ----------------------------------------------------------------------


def compile_kernels() -> Check:
    """Every kernel for every row of the tables, with the registers the driver reports."""
    import cupy

    from .fast.cuda_source import every_source
    from .fast.launches import compiled

    failed, most, local, n = list[str](), 0, 0, 0
    for dtype in ("float32", "float64"):
        for source in dict.fromkeys(every_source(dtype)):
            try:
                kernel = compiled(source)
                most = max(most, kernel.num_regs)
                local = max(local, kernel.local_size_bytes)
            except Exception as error:  # whatever the compiler says belongs in the report
                failed.append(f"{source.name} ({str(error).strip().splitlines()[0]})")
            n += 1
    detail = f"{n} kernels"
    if not cupy.__version__.endswith("+cpu"):  # which has no registers to speak of
        detail += f", {most} registers and {local} bytes of local memory at most"
    if failed:
        detail = f"{len(failed)} of {n} failed: {', '.join(failed[:3])}"
    return Check("kernels compile", not failed, detail)


class Bench(NamedTuple):
    """A model and data to take steps on."""

    model: MLP
    data: Data
    index: Any
    m: int

    def steps(self, n: int, step: Any, state: Any) -> Any:
        """n steps, in an epoch announced at once."""
        model, m = self.model, self.m
        rates = [0.001] * n
        step.announce(state, self.index, rates)
        for number in range(n):
            start = number * m
            args = (model.device, model.network, model.seeds, (), state.step, m)
            state = step(state, self.index[start : start + m], bits_for(*args), rates[number])
        return state


def _bench(device: Device, n: int) -> Bench:
    sizes, m = MEASURED_STEP
    random = np.random.default_rng(0)
    model = MLP(sizes, device=device)
    data = Data(
        device.put(random.normal(size=(4096, sizes[0])).astype(np.float32)),
        device.put(random.integers(0, sizes[-1], 4096)),
    )
    return Bench(model, data, device.put(random.integers(0, 4096, n * m)), m)


def count_launches(device: Device) -> tuple[Check, dict[str, Any]]:
    """The launches of a step, as they stand in its program."""
    bench = _bench(device, 1)
    step = stepper(bench.model._recipe, device, bench.data)
    bench.steps(1, step, bench.model._run.state)
    (program,) = step.programs.values()  # type: ignore[attr-defined]
    names = launches(program)
    products = sum(n for name, n in names.items() if name.startswith("cublas"))
    kernels = sum(names.values()) - products
    n = len(MEASURED_STEP[0]) - 1
    check = Check(
        "launches a step",
        products <= 3 * n - 1 and kernels <= 3 * n + 6,
        f"{products} products and {kernels} kernels for {n} layers",
    )
    return check, {"products": products, "kernels": kernels, "by_name": dict(names)}


def try_graph(name: str) -> Check:
    """Whether ten replayed steps equal ten eager ones."""
    bench = _bench(find_device(name, graph=True), 2)
    step = stepper(bench.model._recipe, bench.model.device, bench.data)
    try:
        bench.steps(2, step, bench.model._run.state)
    except RuntimeError as error:
        return Check("graph replay", False, f"{error} Training goes on without it.")
    return Check("graph replay", True, "ten replayed steps equal ten eager ones, bit for bit")


def _seconds(run: Callable[[], object], synchronize: Callable[[], None], n: int) -> float:
    """The median of five times n calls, a call."""
    run()
    synchronize()
    found = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(n):
            run()
        synchronize()
        found.append((time.perf_counter() - began) / n)
    return statistics.median(found)


# how far a product of normal numbers may be off in a precision, as a share of √k for sums of
# k terms: TF32 rounds its operands to 11 bits, bfloat16 is given as it is
OFF = {"float32": 1e-5, "tf32": 1e-2, "bfloat16": 1e-4}


def compare_products() -> Check:
    """cuBLAS's product in each precision against float64, of the operands as they are held."""
    import cupy

    from .fast.cublas import Cublas, Product

    cublas = Cublas()
    cublas.follow(cupy.cuda.get_current_stream().ptr)
    (m, k, n), told, passed = (96, 512, 160), list[str](), True
    for precision in PRECISIONS:
        A, B = noise((m, k)), noise((k, n + 1))[:, 1:].copy()
        if precision == "bfloat16":
            A, B = (array.view(np.uint32) >> 16 << 16 for array in (A, B))
            A, B = A.view(np.float32), B.view(np.float32)
        out = cupy.empty((m, n), cupy.float32)
        Product(cublas, held(A, precision), held(B, precision), out, precision=precision)()
        off = float(np.max(np.abs(out.get() - A.astype(np.float64) @ B))) / k**0.5
        told.append(f"{precision} {off:.1e}")
        passed = passed and off <= OFF[precision]
    return Check("products", passed, "off float64 by " + ", ".join(told))


class Card(NamedTuple):
    """What a CUDA device says of itself.

    capability  10 × major + minor
    units       multiprocessors
    clock       highest, Hz; 0 where the driver does not say
    memory      bytes/s that clock and width of its memory allow; 0 likewise
    wide        whether that memory is stacked beside the processor (HBM)
    ecc         whether it corrects errors
    taken       bytes in use by whoever, before anything is measured here
    """

    capability: int
    units: int
    clock: float
    memory: float
    wide: bool
    ecc: bool
    taken: int

    @property
    def float32(self) -> float:
        """FLOP/s of multiply-adds in float32 that units and clock allow."""
        lanes = 64 if self.capability in (60, 70, 72, 75, 80) else 128
        return 2 * lanes * self.units * self.clock


def card() -> Card:
    """Of the current device."""
    import cupy

    device = cupy.cuda.Device()
    told = device.attributes
    free, total = cupy.cuda.runtime.memGetInfo()
    width = told["GlobalMemoryBusWidth"]
    return Card(
        int(device.compute_capability),
        told["MultiProcessorCount"],
        1e3 * told.get("ClockRate", 0),
        2 * 1e3 * told.get("MemoryClockRate", 0) * width / 8,  # twice a clock
        width >= 1024,
        bool(told["EccEnabled"]),
        total - free - cupy.get_default_memory_pool().total_bytes(),
    )


CONTEXT = 1 << 30  # bytes that CUDA itself may take of a device, kernels and libraries with it


def what_is_off(card: Card, found: dict[str, float]) -> list[str]:
    """A line for each thing that is not as it should be on such a card.

    found  of `measure`. A good H100 copies at 0.9 of what its memory allows, and makes float32
           products at 0.7 of what its clock does, which it cannot keep up; half is off.
    """
    told = []

    def share(what: str, name: str, unit: str, scale: float, most: float, least: float) -> None:
        rate = found[name] * scale
        if rate < least * most:
            told.append(
                f"{what}: {rate / scale:.3g} {unit}, {100 * rate / most:.0f} % of the "
                f"{most / scale:.3g} that the card's clock allows; {100 * least:.0f} % was expected"
            )

    share("copying", "device_gb_per_s", "GB/s", 1e9, card.memory, 0.75)
    share("float32 products", "gemm_float32_tflops", "TFLOP/s", 1e12, card.float32, 0.5)
    base = found["gemm_float32_tflops"]
    for name, times in (("tf32", 1.1), ("bfloat16", 1.5)):
        rate = found[f"gemm_{name}_tflops"]
        if card.capability >= 80 and rate < times * base:
            told.append(
                f"{name} products: {rate:.3g} TFLOP/s, hardly more than float32's {base:.3g}"
            )
    for way in ("host_to_device", "device_to_host"):
        rate = found[f"{way}_gb_per_s"]
        if rate < 5:
            told.append(f"{way.replace('_', ' ')}: {rate:.3g} GB/s from pinned memory")
    if found["step_graph_us"] > 0.95 * found["step_eager_us"]:
        told.append(
            f"graph replay: a step takes {found['step_graph_us']:.0f} µs with it, "
            f"{found['step_eager_us']:.0f} without"
        )
    return told


def whose(card: Card) -> list[str]:
    """What is off before anything is measured: who else is there, and the memory's mode."""
    told = []
    if card.taken > CONTEXT:
        told.append(
            f"others use {card.taken / 2**30:.1f} GiB of the device's memory, and perhaps its time"
        )
    if card.ecc and not card.wide:
        told.append("ECC is on, which takes a part of the bandwidth of memory like this card's")
    if not card.ecc and card.wide:
        told.append("ECC is off: errors of the memory go unnoticed")
    return told


def measure(name: str) -> dict[str, float]:
    """The rates of the device, and what a step takes."""
    import cupy

    device = find_device(name)
    wait = device.synchronize
    free = cupy.cuda.runtime.memGetInfo()[0]
    side = 8192 if free > 4 << 30 else 2048
    found = {f"gemm_{name}_tflops": cublas_rate(name, side) / 1e12 for name in PRECISIONS}
    found["device_gb_per_s"] = copy_rate(cupy, wait, min(1 << 30, free // 8 * 4)) / 1e9
    size = 1 << 28
    big, memory = cupy.empty(size, cupy.uint8), cupy.cuda.alloc_pinned_memory(size)
    host = np.frombuffer(memory, np.uint8, size)

    def down() -> None:
        big.get(out=host, blocking=False)

    ways: dict[str, Callable[[], object]] = {
        "host_to_device": lambda: big.set(host),
        "device_to_host": down,
    }
    for way, run in ways.items():
        found[f"{way}_gb_per_s"] = size / 1e9 / _seconds(run, wait, 5)
    empty = cupy.RawKernel('extern "C" __global__ void empty() {}', "empty")
    found["launch_us"] = 1e6 * _seconds(lambda: empty((1,), (1,), ()), wait, 1000)
    m = MEASURED_STEP[1]
    for graph in (False, True):
        model, data, order, _ = _bench(find_device(name, graph="auto" if graph else False), 100)
        trainer = Trainer(model, data, device.get(order), m)  # epochs as `fit` makes them
        seconds = _seconds(lambda t=trainer: t.run(100), wait, 1)  # type: ignore[misc]
        found[f"step_{'graph' if graph else 'eager'}_us"] = 1e4 * seconds
    return found


# -- the command ---------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="see mlp-xp devices (default: auto)"
    )


def about(device: Device) -> dict[str, str]:
    """What the report is about."""
    from . import __version__

    found = {
        "mlp_xp": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": device.name,
    }
    if device.reads_wait:
        import cupy

        with device.active():
            number = cupy.cuda.runtime.getDevice()
            properties = cupy.cuda.runtime.getDeviceProperties(number)
        found |= {
            "cupy": cupy.__version__,
            "cuda_runtime": str(cupy.cuda.runtime.runtimeGetVersion()),
            "cuda_driver": str(cupy.cuda.runtime.driverGetVersion()),
            "hardware": properties["name"].decode(),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "ecc": "on" if properties["ECCEnabled"] else "off",
        }
    return found


def run(args: Arguments) -> Document:
    """Run the checks and print the report; exit code 1 where one fails."""
    try:
        device = find_device(args.device)
    except (ValueError, RuntimeError) as error:
        raise Halt(2, str(error)) from None
    facts = about(device)
    say(args, "\n".join(f"{name:<20}{value}" for name, value in facts.items()))
    checks: list[Check] = []
    document: dict[str, Any] = {"about": facts}

    def note(check: Check) -> None:
        checks.append(check)
        say(args, f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.detail}")

    off: list[str] = []
    with device.active(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.reads_wait:
            told = card()
            off += whose(told)
            note(compile_kernels())
        note(compare_trainings(device))
        note(compare_digits(device))
        if device.reads_wait:
            check, document["launches"] = count_launches(device)
            note(check)
            note(try_graph(device.name))
            note(compare_products())
            found = document["measured"] = _measured(args, device)
            off += what_is_off(told, found) if found else []
    off += dict.fromkeys(f"warned of: {warning.message}" for warning in caught)
    document["checks"] = [check._asdict() for check in checks]
    document["off"] = off
    say(args, "\n".join(f"off   {line}" for line in off) if off else "      nothing is off")
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise Halt(1, f"{len(failed)} checks failed: {', '.join(failed)}", document)
    return document


def _measured(args: Arguments, device: Device) -> dict[str, float]:
    if emulated():
        say(args, "      nothing is timed: this CuPy computes on the CPU")
        return {}
    found = measure(device.name)
    say(args, "\n".join(f"      {name:<24}{value:.4g}" for name, value in found.items()))
    return found
