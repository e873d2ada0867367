"""`mlp-xp explain`: what a training step of a model computes, as formulas and bytes.

Of a model in a file, or of the one that `mlp-xp train` would make of the same options.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from .. import checks
from ..activations import ACTIVATIONS
from ..defaults import defaults
from ..explained import explain_step
from ..hardware import DeviceUnavailable
from ..layers.text import layers_of, shape_for
from ..losses import LOSSES
from ..mlp import MLP
from ..model import DEFAULT_BATCH, Model
from ..network import AXES
from ..optimizers import OPTIMIZERS
from ..report import counted
from ..sequential import Sequential
from .common import Arguments, open_model, say, usage_error
from .train_options import Options, lengths, positive, widths, with_layers

OF_THE_MODEL = (
    *("hidden", "layers", "shape", "activation", "loss", "normalization", "dropout", "residual"),
    *("optimizer", "l2", "weight_decay", "clip_norm", "label_smoothing", "dtype"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, or what it would be made of."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="file of a model")
    of = Options(parser, "a step")
    of.value("--batch-size", positive, "N", f"examples at once (default: {DEFAULT_BATCH})")
    device = "that runs it: see mlp-xp devices (default: cpu)"
    of.group.add_argument("--device", default="cpu", metavar="NAME", help=device)
    of = Options(parser, "a model that is in no file, with the defaults of mlp-xp train")
    of.value("--inputs", positive, "N", "features (default: 64)")
    of.value("--outputs", positive, "N", "classes, or numbers (default: 10)")
    of.value("--hidden", widths, "N,N", "hidden widths, or none (default: 256,128)")
    of.value("--layers", str, "LAYERS", "layers of any kind instead: conv:32x3,pool:2,dense:128")
    of.value("--shape", lengths, "CxHxW", "of an example, for --layers")
    of.name("--activation", ACTIVATIONS, "of the hidden layers (default: relu)")
    of.name("--normalization", ("none", *AXES), "of the hidden layers (default: batch)")
    of.value("--dropout", float, "RATE", "of the hidden layers (default: 0.3)")
    of.group.add_argument("--residual", action="store_true", default=None, help="skip connections")
    of.name("--loss", LOSSES, "what is minimised (default: cross_entropy)")
    of.name("--optimizer", OPTIMIZERS, "the update (default: adam)")
    of.value("--l2", float, "LAMBDA", "adds ½ λ Σ W² to the loss (default: 0)")
    of.value("--weight-decay", float, "DECAY", "decoupled decay (default: the optimizer's own)")
    of.value("--clip-norm", float, "NORM", "largest norm of a gradient (default: no limit)")
    of.value("--label-smoothing", float, "SHARE", "(default: 0.1 for cross_entropy, else 0)")
    of.name("--dtype", checks.DTYPES, "of the numbers (default: float32)")
    of.value("--networks", positive, "N", "trained at once (default: 1)")


def explain(args: Arguments) -> dict[str, Any]:
    """Print what a step does; returns its document."""
    given = {key: getattr(args, key) for key in OF_THE_MODEL if getattr(args, key) is not None}
    m = args.batch_size or DEFAULT_BATCH
    if args.model is None:
        model = _made(args, given)
    else:
        others = ("inputs", "outputs", "networks")
        asked = [*given, *(key for key in others if getattr(args, key) is not None)]
        if asked:
            option = asked[0].replace("_", "-")
            usage_error(
                f"--{option} goes with a model that is in no file: leave it or {args.model}."
            )
        model, _ = open_model(args.model, args.device, several=True)
    with model.device.active():
        found = explain_step(model._recipe, model._run.state, m, model.device)
    several = f" of {counted(len(model.seeds), 'networks')}" if model.leading else ""
    step = f"a training step of {model.network.written}{several}"
    say(args, f"{step}, {counted(m, 'examples')}, {model.dtype}\n")
    say(args, str(found))
    return {"model": args.model, "batch_size": m, "dtype": str(model.dtype), **found.document()}


def _made(args: Arguments, given: dict[str, Any]) -> Model:
    n_in, n_out = args.inputs or 64, args.outputs
    loss = given.get("loss", "cross_entropy")
    options = {**defaults(LOSSES[loss].kind), **given, "loss": loss}
    options = {key: options[key] for key in (*OF_THE_MODEL, "seed") if key in options}
    options["device"] = args.device
    if args.networks is not None and args.networks > 1:
        options["seed"] = range(args.networks)
    if n_out is None:
        n_out = 1 if LOSSES[loss].kind == "binary" else 10
    try:
        if args.layers is None:
            if args.shape is not None:
                raise ValueError("--shape says how an example lies for --layers: add that")
            hidden = options.pop("hidden")
            return MLP((n_in, *hidden, n_out), **options)
        options = with_layers(argparse.Namespace(**vars(args), learning_rate=None), options)
        activation = options.pop("activation", "relu")
        del options["layers"]
        of = shape_for(
            args.layers, args.inputs or math.prod(args.shape or (64,)), options.pop("shape", None)
        )
        return Sequential(of, layers_of(args.layers, of, n_out, activation), **options)
    except (ValueError, TypeError, DeviceUnavailable) as error:
        usage_error(error)
