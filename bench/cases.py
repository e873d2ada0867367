"""What is measured: one row a case, its inputs, and the work it cannot do without.

A case is added by one row of `CASES`. Training cases take Adam steps at 1e-3 on batches
gathered from resident examples; cases of devices are the same by batch, for the CPU beside
a GPU; inference cases turn rows into probabilities; kernels are one operation of a step;
start-up is a whole process.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlp_xp.bench import Work, examples, inference_work, last_level_cache, step_work

Arrays = dict[str, npt.NDArray[Any]]

WARM_EXAMPLES = 8192  # of a case that stays in the cache
RATE = 1e-3
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
STEPS_BEFORE_CHECK = 3
PRECISIONS = ("float32", "tf32", "bfloat16")


class Case(NamedTuple):
    """One thing to measure.

    kind    "training", "inference", "kernels", "startup" or "devices"
    sizes   widths of the network; n_in and n_out of a kernel
    batch   examples a step or a call
    cold    inputs rotate through more than the last-level cache
    asked   best peer's time / ours, that the project means to reach; None for no claim
    kernel  which operation, a row of `KERNELS`
    precision  of the products: "float32" (that of dtype), "tf32" or "bfloat16"; parameters,
            moments and loss are of the dtype in any case
    """

    name: str
    kind: str
    sizes: tuple[int, ...]
    batch: int
    cold: bool = True
    asked: float | None = None
    kernel: str = ""
    dtype: str = "float32"
    precision: str = "float32"

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def n_outputs(self) -> int:
        """Width of the last layer."""
        return self.sizes[-1]

    @property
    def trains(self) -> bool:
        """Whether it takes training steps."""
        return self.kind in ("training", "devices")

    @property
    def computes_in(self) -> str:
        """float32, float64, tf32, bfloat16: what its ceilings are called after."""
        return self.dtype if self.precision == "float32" else self.precision


def training(
    sizes: tuple[int, ...], batch: int, asked: float | None = None, cold: bool = True
) -> Case:
    """Adam steps."""
    name = f"{_joined(sizes)} batch {batch}"
    return Case(name, "training", sizes, batch, cold, asked)


def _device(sizes: tuple[int, ...], batch: int) -> Case:
    return training(sizes, batch, cold=False)._replace(kind="devices")


def inference(
    sizes: tuple[int, ...], batch: int, asked: float | None = None, cold: bool = True
) -> Case:
    """Rows to probabilities."""
    name = f"{_joined(sizes)} rows {batch}"
    return Case(name, "inference", sizes, batch, cold, asked)


def _kernel(kernel: str, n_in: int, n_out: int, batch: int) -> Case:
    name = f"{kernel} {n_in}-{n_out} batch {batch}"
    return Case(name, "kernels", (n_in, n_out), batch, True, None, kernel)


def _joined(sizes: tuple[int, ...]) -> str:
    """784-100-10; 64-[128]×8-10 where a width repeats."""
    hidden = sizes[1:-1]
    if len(hidden) > 2 and len(set(hidden)) == 1:
        return f"{sizes[0]}-[{hidden[0]}]×{len(hidden)}-{sizes[-1]}"
    return "-".join(map(str, sizes))


DIGITS = (784, 100, 10)
BY_DEVICE = ((20, 16, 1), DIGITS, (784, 1024, 1024, 10))
BATCHES = (32, 128, 512, 2048, 16384)
CASES = (
    training((20, 16, 1), 32, 2.0, cold=False),
    training(DIGITS, 8, None),
    training(DIGITS, 32, 1.5),
    training(DIGITS, 200, 1.1),
    training(DIGITS, 1000, None),
    training((784, 512, 512, 10), 128, 1.0),
    training((64, *(128,) * 8, 10), 256, 1.0),
    training((784, 2048, 2048, 10), 512, 0.9),
    inference(DIGITS, 1, 1.0),
    inference(DIGITS, 32, 1.0),
    inference(DIGITS, 1000, 1.0),
    _kernel("layer", 784, 512, 128),
    _kernel("input_gradient", 512, 512, 128),
    _kernel("weight_gradient", 784, 512, 128),
    _kernel("activation_gradient", 512, 512, 128),
    _kernel("score", 512, 10, 1000),
    _kernel("update", 784, 512, 1),
    _kernel("gather", 784, 1, 128),
    Case("digits, one epoch", "startup", (64, 100, 10), 32, False, 3.0),
    *(_device(sizes, batch) for sizes in BY_DEVICE for batch in BATCHES),
)
KINDS = tuple(dict.fromkeys(case.kind for case in CASES))


# -- inputs --------------------------------------------------------------------


def n_examples(case: Case) -> int:
    """A whole number of batches: of twice the last-level cache where the case says cold."""
    wanted = WARM_EXAMPLES
    if case.cold:
        wanted = 2 * last_level_cache() // (case.sizes[0] * case.itemsize)
    return max(STEPS_BEFORE_CHECK + 1, math.ceil(wanted / case.batch)) * case.batch


def inputs(case: Case) -> Arrays:
    """Everything a contestant is given, the same numbers for all.

    rows    (m, n_in) examples, labels (m,), order (m,) their shuffled indices
    W0, b0  (n_out, n_in), (n_out,) initial parameters of the first layer; W1, b1, …
    """
    if case.kind == "kernels":
        return KERNELS[case.kernel].inputs(case)
    if case.kind == "startup":
        return {}
    random = np.random.default_rng(2)
    m = n_examples(case)
    rows, labels = examples(case.sizes, m)
    found: Arrays = {"rows": rows.astype(case.dtype), "labels": labels}
    found["order"] = random.permutation(m)
    for i, (n_in, n_out) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
        W = random.standard_normal((n_out, n_in)) * math.sqrt(2 / n_in)
        found[f"W{i}"] = W.astype(case.dtype)
        found[f"b{i}"] = (0.1 * random.standard_normal(n_out)).astype(case.dtype)
    return found


def parameters(case: Case, arrays: Arrays) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """W and b of every layer."""
    return [(arrays[f"W{i}"], arrays[f"b{i}"]) for i in range(len(case.sizes) - 1)]


def work(case: Case) -> Work | None:
    """FLOP and bytes of one step or call; None for start-up."""
    if case.trains:
        return step_work(case.sizes, case.batch, case.itemsize)
    if case.kind == "inference":
        return inference_work(case.sizes, case.batch, case.itemsize)
    if case.kind == "kernels":
        return KERNELS[case.kernel].work(case)
    return None


# -- kernels -------------------------------------------------------------------


class Kernel(NamedTuple):
    """One operation of a step.

    shapes  case → name → shape of each input
    flops   case → FLOP of its matrix product
    writes  case → numbers written
    """

    shapes: Any
    flops: Any
    writes: Any

    def inputs(self, case: Case) -> Arrays:
        """Normal numbers of the shapes; indices, labels and second moments as they must be."""
        random = np.random.default_rng(3)
        found: Arrays = {}
        for name, shape in self.shapes(case).items():
            if name in ("index", "labels"):
                highest = case.n_outputs if name == "labels" else self.shapes(case)["rows"][0]
                found[name] = random.integers(0, highest, shape)
            else:
                found[name] = random.standard_normal(shape).astype(case.dtype)
        if "s" in found:
            found["s"] **= 2
        return found

    def work(self, case: Case) -> Work:
        """Every input read once, every output written once; `gather` reads what it takes."""
        sizes = {name: math.prod(shape) for name, shape in self.shapes(case).items()}
        writes = self.writes(case)
        if "rows" in sizes:
            sizes["rows"] = writes
        read = sum(sizes.values())
        return Work(
            self.flops(case), (read + writes) * case.itemsize, (read + writes) * case.itemsize
        )


def _product(case: Case) -> float:
    return 2 * case.batch * case.sizes[0] * case.sizes[1]


def _none(case: Case) -> float:
    return 0


# In the library's own layout: examples are columns of A, Z and δ, rows of `rows`.
KERNELS = {
    "layer": Kernel(
        lambda c: {"W": (c.sizes[1], c.sizes[0]), "A": (c.sizes[0], c.batch), "b": (c.sizes[1], 1)},
        _product,
        lambda c: c.sizes[1] * c.batch,
    ),
    "input_gradient": Kernel(
        lambda c: {"W": (c.sizes[1], c.sizes[0]), "delta": (c.sizes[1], c.batch)},
        _product,
        lambda c: c.sizes[0] * c.batch,
    ),
    "weight_gradient": Kernel(
        lambda c: {"delta": (c.sizes[1], c.batch), "A": (c.sizes[0], c.batch)},
        _product,
        lambda c: c.sizes[0] * c.sizes[1],
    ),
    "activation_gradient": Kernel(
        lambda c: {"dA": (c.sizes[1], c.batch), "A": (c.sizes[1], c.batch)},
        _none,
        lambda c: c.sizes[1] * c.batch,
    ),
    "score": Kernel(
        lambda c: {"S": (c.sizes[1], c.batch), "labels": (c.batch,)},
        _none,
        lambda c: c.sizes[1] * c.batch,
    ),
    "update": Kernel(
        lambda c: dict.fromkeys(("theta", "g", "m", "s"), (c.sizes[0] * c.sizes[1],)),
        _none,
        lambda c: 3 * c.sizes[0] * c.sizes[1],
    ),
    "gather": Kernel(
        lambda c: {"rows": (n_examples(c), c.sizes[0]), "index": (c.batch,)},
        _none,
        lambda c: c.sizes[0] * c.batch,
    ),
}
