"""The options of `mlp-xp train`; the defaults of most are `defaults`'s."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from .. import checks
from ..activations import ACTIVATIONS
from ..defaults import MANY, OF_MLP, default_rate
from ..initializers import INITIALIZERS
from ..kernels import PRECISIONS
from ..losses import LOSSES
from ..network import AXES
from ..optimizers import OPTIMIZERS
from ..preparation import SCALES
from ..ranks import on_cluster
from ..schedules import SCHEDULES
from .common import a_name, add_data_arguments
from .stream_options import add_stream_arguments

OUT = "model.safetensors"
EVERY = 30.0  # seconds between two checkpoints

# What belongs to a model and cannot change when it is resumed.
OF_THE_MODEL = (
    "hidden",
    "layers",
    "shape",
    "activation",
    "loss",
    "normalization",
    "dropout",
    "residual",
    "density",
    "initializer",
    "optimizer",
    "learning_rate",
    "l2",
    "weight_decay",
    "clip_norm",
    "label_smoothing",
    "dtype",
    "precision",
    "seed",
    "scale",
    "scale_target",
    "held_out",
    "validation",
)


def with_layers(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a model of --layers; ValueError for what goes with a dense one."""
    for name in OF_MLP:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} goes with a dense network: with --layers it is a layer.")
    kept = {key: value for key, value in options.items() if key not in OF_MLP}
    if args.learning_rate is None:
        kept["learning_rate"] = default_rate(kept.get("optimizer", "adam"), layers=True)
    return kept


def one_of(option: str, names: Iterable[str]) -> Callable[[str], str]:
    """An argparse type: a name of a table."""
    table = {name: name for name in names}

    def check(text: str) -> str:
        try:
            return checks.choose(option.lstrip("-"), table, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}, but expected a whole number of at least 1.")
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text!r}, but expected a whole number below 2**64.")
    return int(text)


def seconds(text: str) -> float:
    try:
        return checks.number("it", float(text), 0, float("inf"))
    except ValueError:
        message = f"{text!r}, but expected a number of seconds, 0 or more."
        raise argparse.ArgumentTypeError(message) from None


def processes(text: str) -> str:
    if text != "mpi" and not on_cluster(text):
        raise argparse.ArgumentTypeError(
            f"{text!r}, but expected mpi, or a Dask scheduler's address, such as tcp://host:8786."
        )
    return text


def widths(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(positive(part) for part in text.split(","))


def lengths(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split("x"))


class Options:
    """A titled group of options; None stands for a default that depends on data or model."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self.group = parser.add_argument_group(title)

    def name(self, option: str, table: Iterable[str], about: str) -> None:
        """An option whose value is a name of a table."""
        about = f"{about}: {', '.join(table)}"
        self.value(option, one_of(option, table), "NAME", about)

    def value(self, option: str, read: Callable[[str], Any], metavar: str, about: str) -> None:
        self.group.add_argument(option, type=read, metavar=metavar, help=about)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    of = Options(parser, "data")
    of.value(
        "--data",
        a_name,
        "DATA",
        "digits (default), fashion-mnist, a table (.csv, .tsv, .parquet, .feather, - for "
        "standard input), a .npz, .npy or IDX file",
    )
    add_data_arguments(of.group)
    add_stream_arguments(of.group)
    of.group.add_argument(
        "--drop", action="append", default=[], metavar="NAME", help="a table's column to leave out"
    )
    of.group.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="a table's column to use although it is one value, numbers the rows or is nearly all "
        "different",
    )
    of.group.add_argument(
        "--dry-run",
        action="store_true",
        help="show what becomes of each column and of the options, and train nothing",
    )
    of.value(
        "--held-out",
        float,
        "SHARE",
        "share kept for the score at the end, which chooses nothing (default: 0.2; none where "
        "the data have a test set)",
    )
    of.value(
        "--validation",
        float,
        "SHARE",
        "share of the rest to choose by, with --early-stopping or --schedule "
        "reduce_on_plateau (default: 0.1; 0 chooses by the training loss)",
    )
    of.name("--scale", SCALES, "scaling of the features (default: auto)")
    of.group.add_argument(
        "--scale-target",
        action=argparse.BooleanOptionalAction,
        help="standardise numbers to predict (default: yes)",
    )

    of = Options(parser, "network")
    of.value("--hidden", widths, "N,N", "hidden widths, or none (default: 256,128)")
    of.value(
        "--layers",
        str,
        "LAYERS",
        "layers of any kind instead of --hidden: conv:32x3,pool:2,dense:128 (see docs/recipes.md)",
    )
    of.value(
        "--shape",
        lengths,
        "CxHxW",
        "of an example, for --layers: CHANNELSxHEIGHTxWIDTH, or FEATURESxTIME (default: a vector, "
        "or a square image of one channel for convolutions)",
    )
    of.name("--activation", ACTIVATIONS, "of the hidden layers (default: relu)")
    of.name("--normalization", ("none", *AXES), "of the hidden layers (default: batch)")
    of.value("--dropout", float, "RATE", "of the hidden layers (default: 0.3)")
    of.group.add_argument("--residual", action="store_true", default=None, help="skip connections")
    of.value("--density", float, "SHARE", "share of hidden connections that exist (default: 1)")
    of.name("--initializer", ("auto", *INITIALIZERS), "of the weights (default: auto)")
    of.name("--dtype", checks.DTYPES, "of the numbers (default: float32)")
    of.name("--precision", PRECISIONS, "of the operands of products (default: float32)")

    of = Options(parser, "training")
    of.name("--loss", LOSSES, "what is minimised (default: by the target)")
    of.name("--optimizer", OPTIMIZERS, "the update (default: adam)")
    of.value(
        "--learning-rate",
        float,
        "RATE",
        "(default: 0.01 for adam and adamw, with --layers 0.003; else the optimizer's own)",
    )
    of.name("--schedule", SCHEDULES, "of the learning rate (default: one_cycle)")
    of.value("--epochs", positive, "N", f"(default: 60, or 20 from {MANY:,} examples on)")
    of.value("--batch-size", positive, "N", f"(default: 64, or 128 from {MANY:,} examples on)")
    of.value("--l2", float, "LAMBDA", "adds ½ λ Σ W² to the loss (default: 0)")
    of.value("--weight-decay", float, "DECAY", "decoupled decay (default: the optimizer's own)")
    of.value("--label-smoothing", float, "SHARE", "(default: 0.1 for cross_entropy, else 0)")
    of.value("--clip-norm", float, "NORM", "largest norm of a gradient (default: no limit)")
    of.value(
        "--early-stopping",
        positive,
        "N",
        "stop after N epochs without a better loss on the examples to choose by (see "
        "--validation), and keep the best",
    )
    of.value("--seed", seed, "N", "decides weights, shuffles, dropout and split (default: 0)")
    of.value("--resume", a_name, "MODEL", "train this model on, in its place unless --out is given")
    of.value(
        "--checkpoint",
        a_name,
        "FOLDER",
        "keep there what a killed training needs: the same command goes on from it, to the bit",
    )
    of.value(
        "--checkpoint-every",
        seconds,
        "SECONDS",
        f"between two checkpoints, at least; 0: after every epoch (default: {EVERY:g}); with "
        "--memory within epochs, too",
    )
    of.value(
        "--processes",
        processes,
        "WHICH",
        "share every batch among the processes that mpiexec has started: mpi (default where it is "
        "seen to have started several), or among the workers of a Dask cluster: the scheduler's "
        "address, such as tcp://host:8786",
    )

    of = Options(parser, "output")
    of.value("--out", a_name, "FILE", f"where to write the model (default: {OUT})")
    of.group.add_argument("--no-progress", action="store_true", help="show none")
