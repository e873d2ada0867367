"""`mlp-xp train`: from a file of examples to a file of weights.

Everything that can be wrong is checked before the first step: the options, the place to
write to, the data. A training that did not end as planned never replaces a file.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from .. import ranks
from ..checkpoints import Checkpoints, Mark
from ..data import Dataset, Request, load
from ..defaults import (
    DEFAULT_SCHEDULE,
    default_batch_size,
    default_epochs,
    default_rate,
    defaults,
)
from ..description import NOTED, SCORED
from ..fingerprint import Fingerprint
from ..fitting import Epoch, TrainingDiverged, describe
from ..losses import LOSSES
from ..model import Model
from ..preparation import Examples, default_loss, divide, divide_stream, model_for, prepare
from ..prepared import NUMBERS, Preparation
from ..readers import DataError
from ..report import counted, described
from ..schedules import SCHEDULES, ReduceOnPlateau
from ..scoring import balance, fingerprint, judge, measure
from ..streams.feed import Feed
from ..streams.source import in_words
from ..streams.streamed import Stream
from ..tally import fingerprint_of, numbers_of
from .common import (
    Arguments,
    Halt,
    check_features,
    check_output,
    kept_split,
    open_model,
    read_data,
    said_of,
    say,
    say_parts,
    say_unseen,
    say_unused,
    usage_error,
    warn,
)
from .stream_options import (
    check_memory,
    check_streamed,
    knows_units,
    refuse_numberings,
    stream_of,
)
from .train_options import (
    EVERY,
    OF_THE_MODEL,
    OUT,
    with_layers,
)

SHORT = 10  # classes whose scores are said one by one
PAUSE = 2.0  # seconds between two lines of progress where there is no bar
# errors whose words are enough
SAID = (Halt, ImportError, ValueError, OSError, MemoryError, TrainingDiverged, KeyboardInterrupt)
OF_THE_DATA = ("hidden", "scale", "scale_target", "held_out", "validation")  # not of MLP


def train(args: Arguments) -> dict[str, Any]:
    """Run the command; returns its document. Raises `Halt`, `DataError`, OSError …

    Of several processes that MPI connects rank 0 alone prints and writes.
    """
    if args.processes is None and ranks.launched():
        args.processes = "mpi"
    if args.processes != "mpi":
        return _train(args)
    everyone = ranks.world()
    everyone.silence()
    with everyone.together(SAID):
        return _train(args)


def _train(args: Arguments) -> dict[str, Any]:
    out = args.out or args.resume or OUT
    if not args.dry_run and ranks.is_first():
        check_output(out, args.labels, data=args.data)
    check_memory(args)
    if args.checkpoint_every is not None and args.checkpoint is None:
        usage_error("--checkpoint-every goes with --checkpoint FOLDER: add that, or leave it out.")
    model, prepared, examples, name = _resumed(args) if args.resume else _new(args)
    if args.dry_run:
        _say_columns(args, prepared)
    _say_plan(args, model, prepared, examples, name)
    if args.dry_run:
        return _planned(model, prepared, examples, name)
    seen = _seen(model, examples)
    _note(args, model, examples, name)
    begun, epochs_before = model.steps_trained, model.epochs_trained
    ended: dict[str, Any] = {"data": name, "loss": prepared.loss, "examples": examples.sizes}
    try:
        _fit(args, model, examples, ended)
        with _undisturbed():
            replaced = Path(out).exists()
            _save(model, seen, out)  # now, for measuring takes its time
    except KeyboardInterrupt:
        if model.steps_trained == begun:
            raise
        message = f"interrupted in epoch {model.epochs_trained + 1}"
        if args.checkpoint and args.memory is not None:
            message += f"; the same command goes on from step {model.steps_trained}"
        elif args.checkpoint and model.epochs_trained > epochs_before:
            message += f"; the same command goes on from epoch {model.epochs_trained}"
        _save_unfinished(130, message, model, seen, out, ended)
    except TrainingDiverged as error:
        if model.epochs_trained == epochs_before:
            raise
        _save_unfinished(1, str(error), model, seen, out, ended)
    except MemoryError as error:
        if model.steps_trained == begun:
            raise
        _save_unfinished(1, str(error), model, seen, out, ended)
    ended |= {"model": out, "epochs": model.epochs_trained, "steps": model.steps_trained}
    ended["seconds"] = model.history["seconds"][-1]
    when = f", after {counted(model.epochs_trained, 'epochs')} in {ended['seconds']:.1f} s"
    if len(examples.X_held):
        what, found = "held-out", judge(model, examples.X_held, examples.y_held)
        used = said_of(found)
        on = f", on {counted(found['examples'], 'examples')}{used}" if used else ""
        say(args, f"held-out {described(found)}{when}{on}")
        say_unseen(args, found)
    else:
        what, found = "training", measure(model, examples.X, examples.y)
        say(args, f"training {described(found)}{when}")
    say_parts(args, found, SHORT)
    with _undisturbed():
        _save(model, seen, out, {"on": what.replace("-", "_"), "data": name, **found})
    say(args, f"model written to {out}" + (", replacing the file there" if replaced else ""))
    return {**ended, what.replace("-", "_"): found}


def examples_of(args: Arguments) -> Dataset:
    """The examples of the options that say how data are read."""
    request = Request(
        target=tuple(args.target),
        drop=tuple(args.drop),
        missing=tuple(args.missing),
        zeros=args.loss is None or LOSSES[args.loss].kind not in NUMBERS,
        labels=args.labels,
        folder=args.data_dir,
    )
    data = load(args.data or "digits", request)
    if (args.target or args.drop or args.keep or args.missing) and not data.features:
        usage_error(
            f"--target, --drop, --keep and --missing are of a table's columns, but {data.name} has "
            "no names."
        )
    for name in set(args.keep) - set(data.features):
        usage_error(f"--keep {name}: {data.name} has no such column to learn from.")
    for note in data.notes:
        warn(note)
    return data


def _new(args: Arguments) -> tuple[Model, Preparation, Examples, str]:
    """A model of the options, for the data of the options."""
    if args.memory is not None:
        return _new_streamed(args)
    data = examples_of(args)
    assert data.y is not None
    options = _options(args, args.loss or default_loss(data.y))
    if args.held_out is not None and data.X_test is not None:
        usage_error(f"--held-out: {data.name} has a test set of its own; leave the option out.")
    validation = _validation(args, options)
    examples, index = divide(data, options["held_out"], validation, options["seed"])
    scale = (options["scale"], options["scale_target"])
    prepared = prepare(data, index, options["loss"], *scale, keep=args.keep)
    model = _made(args, data, options, prepared)
    model.metadata = {
        "data": data.name,
        "split": {
            "seed": options["seed"],
            "held_out": 0.0 if data.X_test is not None else options["held_out"],
            "validation": validation,
            "examples": len(data.X),
        },
    }
    return model, prepared, examples, data.name


def _new_streamed(args: Arguments) -> tuple[Model, Preparation, Examples, str]:
    """`_new` of data that are read block by block, and divided by whole units of their file."""
    data = _streamed(args, args.target)
    options = _options(args, args.loss or "cross_entropy")
    validation = _validation(args, options)
    examples = divide_stream(data, options["held_out"], validation, options["seed"])
    scale = (options["scale"], options["scale_target"])
    beside = [part for part in (examples.X_choice, examples.X_held) if part]
    prepared = prepare(examples.X, None, args.loss, *scale, beside=beside)
    model = _made(args, examples.X, _options(args, prepared.loss), prepared)
    name, asked = Path(args.data).name, options["held_out"]
    if (share := len(examples.X_held) / data.m) > 1.5 * asked:
        warn(
            f"of the {len(data.units)} units of {name} whole ones are held out: {share:.0%} of its "
            f"rows, not {asked:.0%}. Write it in smaller row groups or chunks."
        )
    model.metadata = {
        "data": name,
        "split": {
            "seed": options["seed"],
            "held_out": options["held_out"],
            "validation": validation,
            "examples": data.m,
            "units": len(data.units),
        },
    }
    return model, prepared, examples, name


def _streamed(args: Arguments, target: Sequence[str], features: Sequence[str] = ()) -> Stream:
    """The stream to train on."""
    if args.processes not in (None, "mpi"):
        usage_error(
            f"--processes {args.processes}: a file that --memory reads is this machine's: expected "
            "mpi, or leave one of the two out."
        )
    data = stream_of(args, args.data, target, features, args.drop)
    for name in set(args.keep) - set(data.features):
        usage_error(f"--keep {name}: {data.name} has no such column to learn from.")
    refuse_numberings(data, (*args.keep, *features))
    return data


def _options(args: Arguments, loss: str) -> dict[str, Any]:
    """What is given, and the defaults of what is not."""
    given = {key: getattr(args, key) for key in OF_THE_MODEL if getattr(args, key) is not None}
    return {
        **defaults(LOSSES[loss].kind),
        "learning_rate": default_rate(given.get("optimizer", "adam")),
        **given,
        "loss": loss,
    }


def _validation(args: Arguments, options: dict[str, Any]) -> float:
    """The share to choose by, 0 where nothing is chosen; shares that cannot be are refused."""
    for key in ("held_out", "validation"):
        if not 0 <= options[key] < 1:
            option = f"--{key.replace('_', '-')}"
            usage_error(f"{option} is {options[key]:g}, but expected a number in [0, 1).")
    if args.validation is not None and not _chooses(args):
        usage_error(
            "--validation keeps examples to choose by, but nothing is chosen: add "
            "--early-stopping N or --schedule reduce_on_plateau, or leave the option out."
        )
    return options["validation"] if _chooses(args) else 0.0


def _made(
    args: Arguments, data: Dataset | Stream, options: dict[str, Any], prepared: Preparation
) -> Model:
    arguments = {key: v for key, v in options.items() if key not in OF_THE_DATA}
    arguments["device"] = args.device
    try:
        if args.layers is not None:
            arguments = with_layers(args, arguments)
        elif args.shape is not None:
            raise ValueError("--shape says how an example lies for --layers: add that, or leave it")
        return model_for(data, options["hidden"], found=prepared, **arguments)
    except DataError:
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        usage_error(error)


def _resumed(args: Arguments) -> tuple[Model, Preparation, Examples, str]:
    """A model of a file, and the data and split it was trained on."""
    for key in OF_THE_MODEL:
        if getattr(args, key) is not None:
            usage_error(
                f"--{key.replace('_', '-')} belongs to the model in {args.resume} and cannot "
                "change when it is resumed. Train a new one, or leave the option out."
            )
    model, prepared = open_model(args.resume, args.device, training=True)
    known = model.metadata.get("data")
    if args.data is None and known not in ("digits", "fashion-mnist"):
        usage_error(f"{args.resume} was trained on {known or 'data of its own'}: name it, --data.")
    if args.keep:
        usage_error(f"--keep belongs to the model in {args.resume}: leave the option out.")
    for name in set(args.drop) & set(prepared.features):
        usage_error(f"--drop {name}: the model in {args.resume} takes it. Train a new one without.")
    usual: dict[str, Any] = {
        "held_out": 0.2,
        "seed": model.seeds[0],
        "validation": 0.0,
        "examples": 0,
    }
    stored = kept_split(model) or usual
    validation = stored["validation"]
    if not validation and _chooses(args):
        validation = defaults(prepared.kind)["validation"]
        say(args, "it was trained on the examples to choose by before: it may stop late")
    shares = (stored["held_out"], validation, stored["seed"])
    if args.memory is not None:
        check_streamed(model, args.resume)
        data = _streamed(args, tuple(args.target) or prepared.target, prepared.features)
        examples, name = divide_stream(data, *shares), Path(args.data).name
        same, split = knows_units(stored, data), {"examples": data.m, "units": len(data.units)}
    elif "units" in stored:
        usage_error(
            f"{args.resume} was trained on a stream, of which whole units were held out: expected "
            "--memory, as it was."
        )
    else:
        found = read_data(args.data or str(known), args, prepared, labelled=True)
        check_features(model, found, args.resume)
        (examples, _), name = divide(found, *shares), found.name
        same, split = stored["examples"] == len(found.X), {"examples": len(found.X)}
    if not same:
        say(args, f"{name} is not what it was trained on: held-out examples may not be new.")
    model.metadata["split"] = {**stored, "validation": validation, **split}
    return model, prepared, examples, name


def _chooses(args: Arguments) -> bool:
    """Whether anything is decided by examples that are not trained on."""
    schedule = SCHEDULES.get(args.schedule or "")
    return args.early_stopping is not None or isinstance(schedule, ReduceOnPlateau)


def _seen(model: Model, examples: Examples) -> Fingerprint | None:
    """The rows that a model will have seen after this training.

    None where it was trained before and nobody knows on what: the fingerprint would be a part.
    """
    before = fingerprint(model)
    if before is None and model.steps_trained > 0:
        return None
    seen = _hashes(model, examples.X)
    if len(examples.X_choice):
        seen |= _hashes(model, examples.X_choice)
    return seen if before is None else seen | before


def _hashes(model: Model, X: Any) -> Fingerprint:
    if isinstance(X, Stream):
        return fingerprint_of(model, X)
    return Fingerprint.of(numbers_of(model, X))


def _batch_size(args: Arguments, examples: Examples) -> int:
    return args.batch_size or default_batch_size(len(examples.X))


def _note(args: Arguments, model: Model, examples: Examples, name: str) -> None:
    """Let a model know how it is going to be trained, for `mlp-xp show`."""
    model.metadata.pop(SCORED, None)
    model.metadata[NOTED] = {
        "data": name,
        "examples": examples.sizes,
        "schedule": args.schedule or DEFAULT_SCHEDULE,
        "batch_size": _batch_size(args, examples),
        "early_stopping": args.early_stopping,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _save(
    model: Model, seen: Fingerprint | None, place: str | Path, score: dict[str, Any] | None = None
) -> None:
    """Write a model that knows what it has seen and how it did, up to the step it is at."""
    steps = model.steps_trained
    if seen is not None:
        model.metadata["fingerprint"] = {"rows": str(seen), "steps": steps}
    model.metadata[NOTED]["steps"] = steps
    if score is not None:
        long = ("classes", "confused", "unseen")
        kept = {key: value for key, value in score.items() if key not in long}
        model.metadata[SCORED] = {**kept, "steps": steps}
    if ranks.is_first():
        model.save(place)


def _say_plan(
    args: Arguments, model: Model, prepared: Preparation, examples: Examples, name: str
) -> None:
    choice = f", {len(examples.X_choice):,} to choose by" if len(examples.X_choice) else ""
    held = f", {len(examples.X_held):,} held out" if len(examples.X_held) else ""
    classes = "" if prepared.classes is None else f", {len(prepared.classes)} classes"
    say(args, f"{name}: {counted(len(examples.X), 'examples')} to train on{choice}{held}{classes}")
    if prepared.table is not None and not args.dry_run:
        used, numbers = prepared.table.used, len(prepared.table.outputs)
        become = f"{counted(len(used), 'columns')} {'becomes' if len(used) == 1 else 'become'}"
        say(args, f"{become} {counted(numbers, 'numbers')} (--dry-run shows how)")
    if not args.dry_run:
        say_unused(args, prepared)
    chosen = "" if args.loss or args.resume else " (chosen by the target; see --loss)"
    say(
        args,
        f"{model.network.written}, {model.n_parameters:,} parameters, loss {prepared.loss}{chosen}",
    )
    if isinstance(examples.X, Stream):
        size = Feed(examples.X, model).window(_batch_size(args, examples), 1)
        how = "all fit" if size == len(examples.X) else f"{size:,} are shuffled at a time"
        say(args, f"read block by block within {in_words(args.memory)}: {how}")
    if uneven := balance(model, examples.X, examples.y):
        say(args, uneven)


def _say_columns(args: Arguments, prepared: Preparation) -> None:
    """What becomes of each column of a table."""
    lines = _columns(prepared)
    width = max((len(name) for name, _ in lines), default=0)
    for name, becomes in lines:
        say(args, f"  {name:<{width}}  {becomes}")


def _columns(prepared: Preparation) -> list[tuple[str, str]]:
    """The name of each column, and what becomes of it."""
    if prepared.table is None:
        used = [(name, "number") for name in prepared.features]
        return used + [(column.name, str(column)) for column in prepared.left_out]
    return [(column.name, str(column)) for column in prepared.table.columns]


def _planned(model: Model, prepared: Preparation, examples: Examples, name: str) -> dict[str, Any]:
    """The document of a training that was not begun."""
    return {
        "data": name,
        "loss": prepared.loss,
        "examples": examples.sizes,
        "sizes": list(model.network.sizes),
        "target": prepared.target,
        "classes": prepared.classes,
        "columns": [{"name": column, "becomes": text} for column, text in _columns(prepared)],
    }


def _fit(args: Arguments, model: Model, examples: Examples, ended: dict[str, Any]) -> None:
    epochs = args.epochs or default_epochs(len(examples.X))
    validation: Any = None
    if len(examples.X_choice):
        validation = (examples.X_choice, examples.y_choice)
    elif len(examples.X_held) and not _chooses(args):  # only to be seen
        validation = (examples.X_held, examples.y_held)
    if validation is not None and isinstance(validation[0], Stream):
        validation = validation[0]
    terminal = sys.stderr.isatty()
    lines = () if terminal or args.no_progress else (_reporter(model, epochs),)
    model.fit(
        examples.X,
        examples.y,
        epochs=epochs,
        batch_size=_batch_size(args, examples),
        validation_data=validation,
        schedule=args.schedule or DEFAULT_SCHEDULE,
        early_stopping=args.early_stopping,
        callbacks=lines,
        progress=terminal and not args.no_progress,
        layout="rows",
        checkpoint=_checkpoints(args, ended),
        every=EVERY if args.checkpoint_every is None else args.checkpoint_every,
        processes=args.processes,
    )


def _checkpoints(args: Arguments, ended: dict[str, Any]) -> Checkpoints | None:
    """Where they are kept, and how it is said that training goes on from one."""
    if args.checkpoint is None:
        return None

    def tell(mark: Mark, last: int, over: bool) -> None:
        epoch = ended["from_epoch"] = mark.epoch
        if over:
            say(args, f"{args.checkpoint}: nothing is left to do after epoch {epoch} of {last}")
        else:
            then = f" and step {mark.step}" if mark.step else ""
            say(args, f"goes on from epoch {epoch} of {last}{then}, kept in {args.checkpoint}")

    return Checkpoints(args.checkpoint, tell, warn)


def _reporter(model: Model, epochs: int) -> Callable[[Any, Epoch], None]:
    """A callback for a standard error that is no terminal: a line now and then."""
    first, last = model.epochs_trained + 1, model.epochs_trained + epochs
    said = 0.0

    def report(model: Any, epoch: Epoch) -> None:
        nonlocal said
        if epoch.epoch in (first, last) or epoch.seconds - said > PAUSE:
            said = epoch.seconds
            print(f"epoch {epoch.epoch}/{last}: {describe(epoch)}", file=sys.stderr, flush=True)

    return report


def _save_unfinished(
    code: int,
    message: str,
    model: Model,
    seen: Fingerprint | None,
    out: str,
    document: dict[str, Any],
) -> NoReturn:
    """Write what there is, beside a file that is already there, and halt."""
    place = Path(out)
    if place.exists():
        place = place.with_name(f"{place.stem}.unfinished{place.suffix}")
    with _undisturbed():
        _save(model, seen, place)
    raise Halt(
        code,
        f"{message}\nmlp-xp: the model as of step {model.steps_trained} is in {place}; go on "
        f"with mlp-xp train --resume {place}",
        {**document, "model": str(place), "steps": model.steps_trained},
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until a file is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
