"""The command line `mlp-xp`. A command is a row of `COMMANDS`.

Exit codes: 0 done, 1 the data, the model file or the training failed, 2 the command line
is wrong, 130 interrupted, 141 nobody reads the output.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import bench, commands, search_command, selftest, train_command, train_options
from .commands import Arguments, Document, Halt
from .fitting import TrainingDiverged


class Command(NamedTuple):
    """One line of help, what adds the arguments, and what runs it for the --json document."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Arguments], Document]


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


COMMANDS = {
    "train": Command(
        "train a network and write it to a file",
        train_options.add_arguments,
        train_command.train,
    ),
    "search": Command(
        "search for a network, train and write the best",
        search_command.add_arguments,
        search_command.search,
    ),
    "predict": Command(
        "print a prediction for every example",
        commands.predict_arguments,
        commands.predict,
    ),
    "evaluate": Command(
        "print loss and score on examples",
        commands.evaluate_arguments,
        commands.evaluate,
    ),
    "devices": Command("print what can run here, and why not", _none, commands.print_devices),
    "selftest": Command(
        "check that a device computes right, and measure it",
        selftest.add_arguments,
        selftest.run,
    ),
    "bench": Command(
        "time training steps beside what the device can do", bench.add_arguments, bench.run
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process, by default); returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # "R?" where there is no ²
            stream.reconfigure(errors="replace")
    try:
        args = _parser().parse_args(argv)
    except SystemExit as error:
        return int(error.code or 0)
    code, message, document = _run(args)
    try:
        if message:
            kind = "error: " if code in (1, 2) else ""
            print(f"mlp-xp: {kind}{message}", file=sys.stderr)
        if args.json:
            print(json.dumps(_strict(document), ensure_ascii=False))
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    if code == 141:  # the reader has gone, say `head`: nothing is left to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(args: Arguments) -> tuple[int, str, Document]:
    """Exit code, message for standard error, and document of a command."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is said in words
            return 0, "", COMMANDS[args.command].run(args)
    except Halt as halt:
        return halt.code, str(halt), {"error": str(halt), **halt.document}
    except BrokenPipeError:
        return 141, "", {}
    except KeyboardInterrupt:
        return 130, "interrupted", {"error": "interrupted"}
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except (ImportError, ValueError, MemoryError, TrainingDiverged) as error:
        message = str(error) or "out of memory"
    return 1, message, {"error": message}


def _strict(value: Any) -> Any:
    """As JSON has it: null for infinities and NaN."""
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="mlp-xp", description="Train multilayer perceptrons and use them."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    rows = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        usage = "%(prog)s [options]" if name in ("train", "search") else None
        one = rows.add_parser(
            name, help=command.help, description=command.help, usage=usage, allow_abbrev=False
        )
        command.add_arguments(one)
        one.add_argument(
            "--json", action="store_true", help="print one JSON document; messages to stderr"
        )
    return parser
