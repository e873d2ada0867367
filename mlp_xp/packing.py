"""What a wheel brings compiled: the kernels of common programs of dense networks.

    python -m mlp_xp.packing FOLDER

writes a library into the folder for each of `packed.LEVELS` of this kind of processor; whoever
builds a wheel does it by `setup.py`. The tables' rows are traced one after the other as a
training, an evaluation and a prediction would have them traced, and the texts of their kernels
gathered. Sizes are arguments of a kernel, so a few shapes stand for all: one example and many,
one output and many, small arrays and large. What is missed is compiled where it is needed.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .activations import ACTIVATIONS, RELU
from .compile.function import Function
from .compile.predict import Given
from .compile.program import Plan, Program
from .compile.scores import forward
from .compile.step import Batch, CompiledStep
from .devices import device
from .estimators.objective import LIKE_SCIKIT_LEARN, share_of_gradient
from .fast import c_source, native, packed
from .kernels import SPEC
from .losses import LOSSES, Loss
from .network import Network, split
from .optimizers import OPTIMIZERS, Adam
from .training import Data, Recipe
from .types import State

DTYPES = ("float32", "float64")
SMALL, LARGE = ((20, 16, 12), 32), ((300, 200, 100), 200)  # sizes but the last, and of a batch
MANY = 2000  # examples of a large batch, and of a gradient of L-BFGS: more than lie in a cache
OUTPUTS = (1, 5)
L2 = 1e-4
TIME_LIMIT = 300  # seconds for the compilation of a unit, of which there are several a core


# -- common recipes ----------------------------------------------------------------


def recipe(dtype: str, sizes: Sequence[int], loss: Loss, **options: Any) -> Recipe:
    """A recipe for layers of these sizes; options are fields of `Network` or of `Recipe`.

    "activation" and "dropout" are those of all hidden layers.
    """
    n_hidden = len(sizes) - 2
    network = Network(
        sizes=tuple(sizes),
        activations=(options.pop("activation", RELU),) * n_hidden,
        dropout=(options.pop("dropout", 0.0),) * n_hidden,
        normalization=options.pop("normalization", "none"),
        residual=options.pop("residual", False),
    )
    decayed = np.zeros(network.n_parameters, dtype)
    decayed[: network.n_weights] = 1
    return Recipe(
        network=network,
        loss=loss,
        optimizer=options.pop("optimizer", Adam()),
        kernels=SPEC,
        decayed=decayed,
        connected=None,
        classes=np.arange(sizes[-1]),
        **options,
    )


def losses(dtype: str, hidden: Sequence[int]) -> Iterator[Recipe]:
    """Every loss, the core's and as scikit-learn has them, which always decays."""
    theirs = {"l2": L2, "l2_shared": True}
    rows: list[tuple[Loss, dict[str, Any]]] = [(row, {}) for row in LOSSES.values()]
    rows += [(row, theirs) for row in (*LOSSES.values(), *LIKE_SCIKIT_LEARN.values())]
    for (row, options), n_out in product(rows, OUTPUTS):
        if (n_out == 1 and row.kind != "multiclass") or (n_out > 1 and row.kind != "binary"):
            yield recipe(dtype, (*hidden, n_out), row, **options)


def others(dtype: str, hidden: Sequence[int]) -> Iterator[Recipe]:
    """Every activation and optimiser, and the other options of a network."""
    sizes, loss = (*hidden, OUTPUTS[-1]), LOSSES["cross_entropy"]
    varied: list[dict[str, Any]] = [{"activation": row} for row in ACTIVATIONS.values()]
    varied += [
        {"optimizer": row(), **options}
        for row in OPTIMIZERS.values()
        for options in ({}, {"l2": L2}, {"l2": L2, "l2_shared": True})
    ]
    normalised = [
        {"normalization": kind, "dropout": p} for kind in ("batch", "layer") for p in (0, 0.3)
    ]
    varied += [*normalised, {"dropout": 0.3}, {"residual": True}, {"clip_norm": 1.0}]
    varied += [{"label_smoothing": 0.1}, {"label_smoothing": 0.1, **normalised[1]}]
    for options in varied:
        yield recipe(dtype, sizes, loss, **options)


# -- the texts of their programs ---------------------------------------------------


class Noted(Program):
    """A program that computes nothing: its plan is what is wanted."""

    native = False

    def __init__(self, plan: Plan, *others: Any) -> None:
        self.plan, self.block = plan, np.zeros(0, np.uint8)
        self.roots = [np.zeros(place.layout.shape, plan.dtype) for place in plan.fusion.roots]

    def finish(self) -> None:
        """There is nothing to compile."""

    def run(self) -> Sequence[npt.NDArray[Any]]:
        return self.roots


def examples(recipe: Recipe, m: int, weighted: bool) -> Data:
    """Zeros, as a recipe's loss takes them."""
    dtype, network = recipe.decayed.dtype, recipe.network
    targets = np.zeros((m, network.sizes[-1]), dtype)
    if recipe.loss.kind == "multiclass":
        targets = np.zeros(m, np.int64)
    weights = np.ones(m, dtype) if weighted else None
    return Data(np.zeros((m, network.sizes[0]), dtype), targets, weights)


def state_of(recipe: Recipe) -> State:
    """Zeros."""
    dtype, network = recipe.decayed.dtype, recipe.network
    theta, *moments = (
        np.zeros(network.n_parameters, dtype) for _ in range(1 + recipe.optimizer.n_moments)
    )
    return State(theta, tuple(moments), np.zeros(network.n_statistics, dtype), 0)


def step(recipe: Recipe, m: int, weighted: bool = False) -> Plan:
    """A training step's."""
    made = CompiledStep(recipe, device("cpu"), examples(recipe, m, weighted), Noted)
    n_bits = recipe.network.n_dropped * m
    made(state_of(recipe), np.arange(m), np.zeros(n_bits, np.uint16) if n_bits else None, 0.1)
    (batch,) = made.programs.values()
    assert isinstance(batch, Batch)
    return batch.program.plan


def gradient(recipe: Recipe, m: int, weighted: bool) -> Plan:
    """L-BFGS's, of one piece of the examples."""
    data = examples(recipe, m, weighted)
    formula, _ = share_of_gradient(recipe, data)
    arrays = [state_of(recipe).theta, data.rows, data.targets, np.ones((), data.rows.dtype)]
    function = Function(formula, str(data.rows.dtype), target=Noted)
    return function.plan(arrays if data.weights is None else [*arrays, data.weights])


def predictions(recipe: Recipe, m: int) -> Iterator[Plan]:
    """Those of an evaluation, of a model, and of a model whose weights lie by columns."""
    state, dtype = state_of(recipe), str(recipe.decayed.dtype)
    rows = np.zeros((m, recipe.network.sizes[0]), dtype)
    for predicts in (False, True):
        function = forward(recipe, dtype, predicts=predicts, target=Noted)
        yield function.plan([state.theta, state.running, rows])
    if recipe.network.normalization != "batch":
        layers = split(recipe.network, np, state.theta)
        turned = [layer._replace(W=np.asfortranarray(layer.W)) for layer in layers]
        for given in (layers, turned):
            yield Given.of(given).plan(recipe, m)


def plans(dtype: str) -> Iterator[Plan]:
    """All that are common."""
    for hidden, m in (SMALL, LARGE):
        for one in losses(dtype, hidden):
            yield from (step(one, n, w) for n in (m, MANY) for w in (False, True))
            if not one.l2_shared:  # predictions are the same
                yield from (plan for size in (1, m) for plan in predictions(one, size))
            elif dtype == "float64":
                yield from (gradient(one, n, w) for n in (m, MANY) for w in (False, True))
        for one in others(dtype, hidden):
            yield step(one, m)
        for row in ACTIVATIONS.values():
            one = recipe(dtype, (*hidden, OUTPUTS[-1]), LOSSES["cross_entropy"], activation=row)
            if dtype == "float64":
                yield from (gradient(one, n, weighted=False) for n in (m, MANY))
            yield from (plan for size in (1, m) for plan in predictions(one, size))


def texts(dtype: str) -> list[str]:
    """The bodies of all kernels of the common programs."""
    return sorted(set().union(*(plan.texts() for plan in plans(dtype))))


# -- libraries ---------------------------------------------------------------------


def build(folder: Path, texts: Mapping[str, Sequence[str]]) -> list[Path]:
    """A library a level of the runtime and these kernels by dtype; raises `CannotCompile`."""
    levels = packed.LEVELS.get(platform.machine())
    if levels is None:
        raise native.CannotCompile(f"nothing is packed for processors of {platform.machine()}")
    jobs = os.cpu_count() or 1
    sources = [c_source.runtime()[0]]
    for dtype, bodies in texts.items():
        units = min(2 * jobs, len(bodies))
        ordered = sorted(bodies, key=len)  # units of about as much
        sources += [c_source.unit(dtype, ordered[i::units]) for i in range(units)]
        sources.append(c_source.multiply(dtype)[0])
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs) as pool:

        def compiled(number: int, level: str, *command: str) -> str:
            made = str(Path(scratch, f"{level}-{number}"))
            line = [*native.compiler(), *packed.flags(level), *native.FLAGS, *command, "-o", made]
            native.run(line, Path(f"{made}.said"), TIME_LIMIT)
            return made

        texts_at = [Path(scratch, f"{number}.c") for number in range(len(sources))]
        for path, source in zip(texts_at, sources, strict=True):
            path.write_text(source, encoding="utf-8")
        objects = {
            level: [
                pool.submit(compiled, number, level, "-c", str(path))
                for number, path in enumerate(texts_at)
            ]
            for level in levels
        }
        contents = {}
        for level, parts in objects.items():
            linked = compiled(-1, level, "-shared", *(part.result() for part in parts), "-lm")
            contents[level] = Path(linked).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [packed.path(folder, level, content) for level, content in contents.items()]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
        path.chmod(0o755)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack what is common into a folder."""
    parser = argparse.ArgumentParser(
        prog="mlp_xp.packing", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    try:
        native.compiler()  # or else nothing need be traced
        with ProcessPoolExecutor(len(DTYPES)) as pool:
            found = dict(zip(DTYPES, pool.map(texts, DTYPES), strict=True))
        paths = build(folder, found)
    except (native.CannotCompile, OSError) as error:
        raise SystemExit(f"no kernels are packed: {error}") from None
    for path in paths:
        print(
            f"{path.name}: {sum(map(len, found.values()))} kernels, {path.stat().st_size:,} bytes"
        )


if __name__ == "__main__":
    main()
