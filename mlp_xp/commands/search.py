"""`mlp-xp search`: from a file of examples to the best network that was found for them.

What is given on the command line is not searched. Everything that can be wrong is checked
before the first trial. The study lies in a file, so that Ctrl-C loses no trial that has ended.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import time
from pathlib import Path
from typing import Any

from .. import checks
from ..activations import ACTIVATIONS
from ..data import Dataset
from ..defaults import MANY
from ..initializers import INITIALIZERS
from ..kernels import PRECISIONS
from ..losses import LOSSES
from ..network import AXES
from ..optimizers import OPTIMIZERS
from ..preparation import SCALES
from ..readers import DataError
from ..report import counted, described
from ..schedules import SCHEDULES
from ..searching.families import FAMILIES
from ..searching.front import STORAGE, Interrupted, Search, check_plots, run
from ..searching.space import TRAINING
from ..searching.study import check_optuna, place
from ..searching.task import CHOOSE_BY, PRUNING, TRIALS, VALIDATION, Task, Wanted
from ..storage import check_writable
from .common import (
    Arguments,
    Halt,
    a_name,
    add_data_arguments,
    check_output,
    said_of,
    say,
    say_parts,
    say_unseen,
    say_unused,
    usage_error,
    warn,
)
from .train import SHORT, examples_of
from .train_options import OUT, Options, lengths, positive, seed, widths

# Options of the model and its training that are not searched where they are given, and those
# that never are.
SEARCHED = (
    "hidden",
    "activation",
    "normalization",
    "dropout",
    "residual",
    "optimizer",
    "learning_rate",
    "batch_size",
    "weight_decay",
)
NEVER = (
    "loss",
    "density",
    "initializer",
    "dtype",
    "precision",
    "l2",
    "label_smoothing",
    "clip_norm",
)
OF_THE_SEARCH = (
    "trials",
    "layers",
    "shape",
    "seed",
    "held_out",
    "validation",
    "epochs",
    "repeats",
    "choose_by",
    "pruning",
    "schedule",
    "early_stopping",
    "scale",
    "scale_target",
    "device",
)


def search(args: Arguments) -> dict[str, Any]:
    """Run the command; returns its document. Raises `Halt`, `DataError`, OSError …"""
    check_optuna()
    check_output(args.out, args.labels, args.storage, data=args.data)
    if args.plots:
        os.environ.setdefault("MPLBACKEND", "Agg")  # it writes files and needs no screen
        check_plots()
        check_folder(args.plots)
    data = examples_of(args)
    task = _task(args, data)
    where, name = place(args.storage), args.study or task.name
    _say_plan(args, task, where, name)
    progress = (lambda text: None) if args.no_progress else warn
    began = time.perf_counter()
    document = {"data": data.name, "study": name, "storage": where, "loss": task.loss}
    document |= {"layers": task.wanted.layers, "shape": list(task.shape)} if task.shape else {}
    try:
        found = run(task, args.storage, name, args.seconds, progress)
    except Interrupted as error:
        raise Halt(130, str(error), {**document, "trials": error.trials}) from None
    seconds = time.perf_counter() - began
    found.model.save(args.out)
    _say_found(args, task, found)
    document |= {
        "examples": found.examples,
        "trials": found.trials,
        "best": found.best,
        "seconds": seconds,
        "model": args.out,
        "train": _train_command(args, task, found),
    }
    if found.held_out is not None:
        held = found.held_out
        on = f"on {counted(held['examples'], 'examples')}{said_of(held)}"
        say(args, f"held-out {described(held)}, {on}")
        say_unseen(args, held)
        say_parts(args, held, SHORT)
        document["held_out"] = held
    if args.plots:
        made = [str(one) for one in found.plots(args.plots)]
        say(args, f"plots written: {', '.join(made)}")
        document["plots"] = made
    say(args, f"model written to {args.out}, after {seconds:.1f} s")
    return document


def _task(args: Arguments, data: Dataset) -> Task:
    """What the options ask for. Raises `Halt` for options that cannot be."""
    if data.X_test is not None and args.held_out is not None:
        usage_error(f"--held-out: {data.name} has a test set of its own; leave the option out.")
    given = {key: getattr(args, key) for key in (*SEARCHED, *NEVER)}
    others = {key: getattr(args, key) for key in OF_THE_SEARCH}
    limits: dict[str, str] = {}
    for text in args.space:
        name, mark, values = text.partition("=")
        if not mark:
            usage_error(f"--space {text}: expected NAME=LOW..HIGH or NAME=VALUE,VALUE.")
        limits[name] = values
    try:
        wanted = Wanted(
            fixed={key: value for key, value in given.items() if value is not None},
            limits=limits,
            keep=tuple(args.keep),
            **{key: value for key, value in others.items() if value is not None},
        )
        task = Task(data, wanted)
        task.check()
    except DataError:
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        usage_error(error)
    return task


def _say_plan(args: Arguments, task: Task, where: str, name: str) -> None:
    n = task.sizes
    held = f", {n['held_out']:,} held out" if n["held_out"] else ""
    say(
        args,
        f"{task.data.name}: {counted(n['training'], 'examples')} to train on, "
        f"{n['validation']:,} to choose by{held}",
    )
    say_unused(args, task.found)
    networks = f", {task.wanted.repeats} networks each" if task.wanted.repeats > 1 else ""
    trials, epochs = counted(task.wanted.trials, "trials"), counted(task.epochs, "epochs")
    say(args, f"{trials} of {epochs}{networks}, loss {task.loss}")
    if task.shape:
        say(args, f"layers {task.wanted.layers}, an example is {'x'.join(map(str, task.shape))}")
    say(args, f"searched: {', '.join(row.name for row in task.dimensions)}")
    say(args, f"study {name!r} in {where}; Ctrl-C keeps it, the same command goes on with it")


def _say_found(args: Arguments, task: Task, found: Search) -> None:
    say(args, found.table())
    best, epochs = found.best, found.model.epochs_trained
    n = found.examples["training"] + found.examples["validation"]
    usual = ", all at its default" if best["usual"] else ""
    say(args, f"best: trial {best['number']}{usual}; trained again on {counted(n, 'examples')}")
    if epochs == task.epochs:
        say(args, f"the same by hand: {_train_command(args, task, found)}")


def _train_command(args: Arguments, task: Task, found: Search) -> str | None:
    """The line by which `mlp-xp train` makes the same model; None where none does."""
    if found.model.epochs_trained != task.epochs:
        return None
    options: dict[str, Any] = {"data": args.data or "digits"}
    options |= {key: getattr(args, key) for key in ("target", "drop", "keep", "missing")}
    options |= {key: getattr(args, key) for key in ("labels", "data_dir", "held_out", "scale")}
    options |= {"shape": "x".join(map(str, task.shape)) or None}
    options |= task.held | {"loss": args.loss, "schedule": args.schedule} | found.best["options"]
    options |= {"epochs": task.epochs, "seed": task.wanted.seed}
    if args.scale_target is False:
        options["no_scale_target"] = True
    if args.device != "cpu":
        options["device"] = args.device
    words = ["mlp-xp", "train"]
    for key, value in options.items():
        option = f"--{key.replace('_', '-')}"
        if value is None or value is False or value == []:
            continue
        if value is True:
            words.append(option)
        elif key == "hidden":
            words += [option, ",".join(map(str, value)) or "none"]
        else:
            for one in value if isinstance(value, list) else [value]:
                text = repr(one).removesuffix(".0") if isinstance(one, float) else str(one)
                words += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return shlex.join(words)


def check_folder(folder: str) -> None:
    """An OSError says why there can be no files in a folder."""
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(f"{folder} cannot hold plots: it is a file.")
    if not place.exists():
        check_writable(place)  # the folder it will lie in


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, but expected a number above 0.")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of the command; None stands for a default that depends on data or model."""
    of = Options(parser, "data")
    of.value("--data", a_name, "DATA", "what mlp-xp train --data takes (default: digits)")
    add_data_arguments(of.group)
    for option, about in (
        ("--drop", "a table's column to leave out"),
        ("--keep", "a table's column to use although it looks like nothing to learn from"),
    ):
        of.group.add_argument(option, action="append", default=[], metavar="NAME", help=about)
    about = "share that nothing looks at before the score at the end (default: 0.2)"
    of.value("--held-out", float, "SHARE", about)
    about = f"share of the rest by which trials are compared (default: {VALIDATION:g})"
    of.value("--validation", float, "SHARE", about)
    of.name("--scale", SCALES, "scaling of the features (default: auto)")
    of.group.add_argument(
        "--scale-target",
        action=argparse.BooleanOptionalAction,
        help="standardise numbers to predict (default: yes)",
    )

    of = Options(parser, "search")
    of.value(
        "--layers",
        str,
        "FAMILY",
        f"networks to vary: {', '.join(FAMILIES)} (default: dense); temporal are dilated causal "
        "convolutions",
    )
    of.value(
        "--shape",
        lengths,
        "CxHxW",
        "of an example, for all but dense: CHANNELSxHEIGHTxWIDTH, or FEATURESxTIME (default: as "
        "the data know it)",
    )
    of.value("--trials", positive, "N", f"of the study in all (default: {TRIALS})")
    of.group.add_argument(
        "--storage",
        default=STORAGE,
        type=a_name,
        metavar="FILE",
        help=f"an SQLite file (default: {STORAGE} in this folder), or any address that Optuna "
        "takes, by which several machines work at one study",
    )
    of.value(
        "--study",
        str,
        "NAME",
        "of the study in there (default: that of the data and of the family)",
    )
    of.value("--seconds", _seconds, "T", "no trial goes on after T seconds (default: no limit)")
    of.value(
        "--repeats",
        positive,
        "K",
        "networks of each trial, trained in one call, whose mean counts (default: 1)",
    )
    of.name(
        "--choose-by",
        CHOOSE_BY,
        "measured on the examples to choose by (default: score, accuracy or R²)",
    )
    of.name("--pruning", PRUNING, "of trials that are behind others (default: halving)")
    names = "; ".join(
        f"{family}: {', '.join(row.name for row in rows.rows)}" for family, rows in FAMILIES.items()
    )
    names += f"; of all: {', '.join(row.name for row in TRAINING)}"
    of.group.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help=f"search NAME within LOW..HIGH or VALUE,VALUE alone; repeat it. Names: {names}",
    )

    of = Options(parser, "what is given here is not searched")
    of.value("--hidden", widths, "N,N", "hidden widths, or none")
    of.name("--activation", ACTIVATIONS, "of the hidden layers")
    of.name("--normalization", ("none", *AXES), "of the hidden layers")
    of.value("--dropout", float, "RATE", "of the hidden layers")
    of.group.add_argument(
        "--residual", action=argparse.BooleanOptionalAction, help="skip connections"
    )
    of.name("--optimizer", OPTIMIZERS, "the update")
    of.value("--learning-rate", float, "RATE", "of the optimizer")
    of.value("--batch-size", positive, "N", "examples a step")
    of.value("--weight-decay", float, "DECAY", "decoupled decay")

    of = Options(parser, "training of every trial and of the model")
    of.name("--loss", LOSSES, "what is minimised (default: by the target)")
    of.value("--epochs", positive, "N", f"(default: 60, or 20 from {MANY:,} examples on)")
    of.name("--schedule", SCHEDULES, "of the learning rate (default: one_cycle)")
    of.value(
        "--early-stopping",
        positive,
        "N",
        "end a trial after N epochs without a better loss; the model is trained for as many as "
        "were best (default: never)",
    )
    of.value("--density", float, "SHARE", "share of hidden connections that exist (default: 1)")
    of.name("--initializer", ("auto", *INITIALIZERS), "of the weights (default: auto)")
    of.value("--l2", float, "LAMBDA", "adds ½ λ Σ W² to the loss (default: 0)")
    of.value("--label-smoothing", float, "SHARE", "(default: 0.1 for cross_entropy, else 0)")
    of.value("--clip-norm", float, "NORM", "largest norm of a gradient (default: no limit)")
    of.name("--dtype", checks.DTYPES, "of the numbers (default: float32)")
    of.name("--precision", PRECISIONS, "of the operands of products (default: float32)")
    of.value("--seed", seed, "N", "decides split, trials and model (default: 0)")

    of = Options(parser, "output")
    of.group.add_argument(
        "--out",
        default=OUT,
        type=a_name,
        metavar="FILE",
        help=f"where to write the model (default: {OUT})",
    )
    of.value("--plots", a_name, "DIR", "write Optuna's pictures of the study there")
    of.group.add_argument("--no-progress", action="store_true", help="no line for each trial")
