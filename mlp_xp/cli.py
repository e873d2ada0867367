"""The command line `mlp-xp`. A command is a row of `COMMANDS`.

Exit codes: 0 done, 1 the data, the model file or the training failed, 2 the command line
is wrong, 130 interrupted, 141 nobody reads the output.

Under --json standard output gets one document in every case but --help and --version: that of
the command, or {"error": message} with what else is known.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, NoReturn

import numpy as np

from . import bench, selftest
from .commands import (
    common,
    evaluate,
    explain,
    export,
    predict,
    search,
    show,
    train,
    train_options,
)
from .commands.common import Arguments, Document, Halt
from .fitting import TrainingDiverged


class Command(NamedTuple):
    """One line of help, what adds the arguments, and what runs it for the --json document."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Arguments], Document]


class _UsageError(Exception):
    """A command line that cannot be read: the message, and how it is written right."""

    def __init__(self, message: str, usage: str, prog: str) -> None:
        super().__init__(message)
        self.usage, self.prog = usage, prog


class _Parser(argparse.ArgumentParser):
    """Raises where argparse writes and exits."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(message, self.format_usage(), self.prog)


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


COMMANDS = {
    "train": Command(
        "train a network and write it to a file",
        train_options.add_arguments,
        train.train,
    ),
    "search": Command(
        "search for a network, train and write the best",
        search.add_arguments,
        search.search,
    ),
    "predict": Command(
        "print a table with a prediction for every example",
        predict.add_arguments,
        predict.predict,
    ),
    "evaluate": Command(
        "print loss and score on examples",
        evaluate.add_arguments,
        evaluate.evaluate,
    ),
    "export": Command(
        "write a model for other programs: as ONNX",
        export.add_arguments,
        export.export,
    ),
    "show": Command("print what a model is and how it was trained", show.add_arguments, show.show),
    "explain": Command(
        "print what a training step computes, and what that takes",
        explain.add_arguments,
        explain.explain,
    ),
    "devices": Command("print what can run here, and why not", _none, common.print_devices),
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
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: or what is for the one went to the other
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # "R?" where there is no ²
            stream.reconfigure(errors="replace")
    asked = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser().parse_args(asked)
    except _UsageError as error:
        print(error.usage, end="", file=sys.stderr)
        message = f"{error}{_meant(asked, str(error))}"
        return _answer(_wants_json(asked), 2, message, {"error": message}, error.prog)
    except SystemExit as done:  # --help, --version
        return int(done.code or 0)
    try:
        code, message, document = _run(args)
    except Exception as error:  # a fault of ours: its traceback follows
        _answer(args.json, 1, "", {"error": f"{type(error).__name__}: {error}"})
        raise
    return _answer(args.json, code, message, document)


def _answer(
    as_json: bool, code: int, message: str, document: Document, prog: str = "mlp-xp"
) -> int:
    """Say what came of a command line; returns the exit code."""
    try:
        if message:
            kind = "error: " if code in (1, 2) else ""
            print(f"{prog}: {kind}{message}", file=sys.stderr)
        if as_json:
            unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
            print(json.dumps(_strict(document), ensure_ascii=not unicode))
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    except OSError as error:
        code = 1
        print(f"{prog}: error: standard output: {error.strerror}", file=sys.stderr)
        _forget()
    if code == 141:  # the reader has gone, say `head`
        _forget()
    return code


def _forget() -> None:
    """Leave nothing that is to be flushed when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _meant(argv: Sequence[str], message: str) -> str:
    """The command or option that is nearest to what there is none of."""
    known, asked = list(COMMANDS), re.search(r"argument COMMAND: invalid choice: '(.*?)'", message)
    if asked is None:
        asked = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        command = next((word for word in argv if word in COMMANDS), None)
        known = [] if command is None else _options(command)
    close = get_close_matches(asked[1], known, n=1) if asked else []
    return f". Did you mean {close[0]!r}?" if close else ""


def _options(command: str) -> list[str]:
    """All that begin with two dashes."""
    parser = argparse.ArgumentParser()
    COMMANDS[command].add_arguments(parser)
    options = (option for action in parser._actions for option in action.option_strings)
    return ["--json", *(option for option in options if option.startswith("--"))]


def _wants_json(argv: Sequence[str]) -> bool:
    """Whether a command line that cannot be read asks for JSON."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    return "--json" in options


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

    parser = _Parser(prog="mlp-xp", description="Train multilayer perceptrons and use them.")
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
