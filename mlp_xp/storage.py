"""Models as safetensors files: no pickle, nothing that could run, one atomic write.

    tensors   W1, b1, gain1, P1, W2, W3_1 …    (…, n_out, n_in), as in `MLP.parameters`
              mean1, variance1, mean2 …        (…, n_out, 1), batch normalisation's running
              moment1, moment2 …               (…, n_parameters), the optimiser's
    header    format, version, config, step, epoch, history, metadata: JSON each
              sha256                           of all the above, names and bytes

The config says what the network is: an MLP's `sizes`, or a Sequential's `shape` and `layers`, a
list of kinds by their names in `layers.LAYERS` with their options.

`metadata["preparation"]` is what the model does to its inputs and answers (`prepared`).
Absent connections of a sparse network are drawn again from its seed; the zeros that stand
in their place in the file prove that the same ones were drawn. The checksum finds damage;
it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .architecture import by_name
from .devices import device as find_device
from .fitting import Run, moved
from .hardware import Device
from .headers import (
    HEADER,
    MISUSED,
    ModelFileError,
    check_finite,
    check_shape,
    check_sizes,
    parsed,
    preparation,
)
from .optimizers import OPTIMIZERS, Optimizer
from .types import State

if TYPE_CHECKING:
    from .model import Model

FORMAT = "mlp_xp"
VERSION = "1"
SUFFIX = ".safetensors"
CHECKPOINT = "checkpoint"  # the part of the header that a checkpoint has beside a model's
BEST = ("best", "best_running")  # its tensors: the weights that early stopping would restore
PASSED = ("batch_losses", "batch_weights")  # of one within an epoch: of each batch so far
LEFT = re.compile(rf"\.{FORMAT}-[0-9a-f]{{8}}\.tmp")  # files that are being written
OLD = 600  # seconds after which one of them is locked, or nobody's

Tensors: TypeAlias = dict[str, npt.NDArray[Any]]


class EstimatorFileError(ModelFileError):
    """A file of an estimator, which is no `MLP`."""

    def __init__(self, path: str | os.PathLike[str], estimator: str) -> None:
        super().__init__(
            f"{path} holds an {estimator}, which trains by other rules than an MLP. Use "
            f"{estimator}.load, or mlp-xp predict and evaluate, which read mlp_xp's own."
        )
        self.estimator = estimator


# -- models --------------------------------------------------------------------


def save(
    model: Model, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a model, its optimiser's state and its history, or leave `path` as it was.

    metadata  anything JSON can hold; None takes `model.metadata`

    Raises ValueError, before anything is written, for a part that has no name and for
    metadata that JSON cannot hold; OSError where the file cannot be written.
    """
    state = moved(model._state(), model.device.get)
    write_atomically(path, contents(model, replace(model._run, state=state), metadata))


def contents(
    model: Model,
    run: Run,
    metadata: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    vectors: Tensors | None = None,
) -> bytes:
    """The bytes of a model's file, of what a training of it has reached, on the host.

    more, vectors  parts of the header, and tensors, that only a checkpoint has
    """
    check_named(model.config)
    kept = dict(model.metadata if metadata is None else metadata)
    if "preparation" in kept:
        raise ValueError(
            "metadata has an entry 'preparation', which a file keeps for what the model itself "
            "does to its inputs. Set model.preparation, or give yours another name."
        )
    if model.preparation is not None:
        kept["preparation"] = model.preparation.to_json()
    values = {
        "config": model.config,
        "step": run.state.step,
        "epoch": run.epoch,
        "history": run.history,
        "metadata": kept,
    }
    return packed({**values, **(more or {})}, _tensors(model, run.state) | (vectors or {}))


def packed(values: Mapping[str, Any], tensors: Tensors) -> bytes:
    """The bytes of a file of these parts of a header, and tensors in C order."""
    header = {"format": FORMAT, "version": VERSION}
    header |= {name: to_json(name, value) for name, value in values.items()}
    header["sha256"] = _checksum(header, tensors)
    return _serialise(tensors, header)


def load(path: str | os.PathLike[str], *, device: str | Device = "cpu") -> Model:
    """Read a model back; it trains on bit for bit as if it had never been written.

    Raises `ModelFileError` for a file that is truncated, altered, of another version or
    no model at all; FileNotFoundError; ValueError for an unknown device.
    """
    where = find_device(device)
    header, tensors = read(path)
    values = parsed(path, header)
    config = values["config"]
    if CHECKPOINT in header:  # a model all the same
        tensors = {name: T for name, T in tensors.items() if name not in (*BEST, *PASSED)}
    if "estimator" in config:
        raise EstimatorFileError(path, str(config["estimator"])[:100])
    try:
        _check_sizes(path, config, tensors)
        choice = dict(config.pop("optimizer"))
        optimizer = OPTIMIZERS[choice.pop("name")](**choice)
        model = _built(config, optimizer, where)
    except ModelFileError:
        raise
    except MISUSED as error:
        raise ModelFileError(
            f"{path} describes a model that cannot be built here: {str(error)[:500]} If it was "
            "saved with rows of your own (say, in ACTIVATIONS), add them before loading."
        ) from None
    check_layout(path, tensors, shapes_of(model), model.dtype)
    check_finite(path, tensors)
    state = state_of(model, tensors, values["step"])
    check_connections(path, model, state)
    model._run = Run(state, values["epoch"], history_of(path, model, values["history"]))
    model.metadata = values["metadata"]
    stored = model.metadata.pop("preparation", None)
    if stored is not None:
        found = preparation(path, stored, model.dtype, model.loss.kind)
        try:
            model.preparation = found
        except MISUSED as error:
            raise ModelFileError(
                f"{path} was not written by this mlp_xp: {str(error)[:500]} Only that knows what "
                "it predicts from."
            ) from None
    return model


def _check_sizes(
    path: str | os.PathLike[str], config: dict[str, Any], tensors: Mapping[str, npt.NDArray[Any]]
) -> None:
    """That the weights are those of the network, before memory is taken for so many."""
    if "layers" not in config:
        check_sizes(path, config, tensors)
        return
    from .sequential import network_of

    leading = (len(config["seed"]),) if isinstance(config["seed"], list) else ()
    for slot in network_of(config).slots:
        check_shape(path, tensors, slot.name, (*leading, *slot.shape))


def _built(config: dict[str, Any], optimizer: Optimizer, device: Device) -> Model:
    """A model of the class that a config is of."""
    if "layers" in config:
        from .sequential import Sequential

        return Sequential.of_config(config, optimizer, device)
    from .mlp import MLP

    return MLP(**config, optimizer=optimizer, device=device)


def history_of(
    path: str | os.PathLike[str], model: Model, stored: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """Lists with a number an epoch, or an array where there are several networks."""
    n = len(model.seeds)
    for name, entries in stored.items():
        for i, entry in enumerate(entries):
            if isinstance(entry, list) and not (model.leading and len(entry) == n):
                raise ModelFileError(
                    f"{path} does not fit its own config: history[{name!r}][{i}] has "
                    f"{len(entry)} numbers, but there "
                    + (f"are {n} networks." if model.leading else "is one network.")
                )
    if not model.leading:
        return stored
    return {name: [_entry(value) for value in entries] for name, entries in stored.items()}


def check_named(config: Mapping[str, Any]) -> None:
    """Only what stands in a table under a name can be found again by name."""
    lost = None
    if "layers" in config:
        from .layers.table import nameless

        lost = nameless(config["layers"])
    if lost == "kind":
        raise ValueError(
            "The model has a layer of a kind that stands in no table, so a file cannot name it: "
            "expected rows of mlp_xp.layers.LAYERS. Add yours, LAYERS['Mine'] = Mine, and do the "
            "same before loading."
        )
    named_here = {**config, "activation": None if lost else config.get("activation", "")}
    for part in ("activation", "loss", "initializer", "optimizer"):
        value = named_here[part]
        named = value["name"] if part == "optimizer" else value
        if named is None or (isinstance(named, list) and None in named):
            table = f"{part.upper()}S" if part != "loss" else "LOSSES"
            raise ValueError(
                f"The model's {part} stands in no table, so a file cannot name it: expected "
                f"a row of {table}. Add yours, {table}['mine'] = …, build the model with "
                f"{part}='mine', and do the same before loading."
            )


def to_json(name: str, value: Any) -> str:
    """JSON with arrays as lists; NaN and infinities as Python writes and reads them."""

    def plain(thing: Any) -> Any:
        if isinstance(thing, np.ndarray | np.generic):
            return thing.tolist()
        raise TypeError(f"a {type(thing).__name__} has no JSON form")

    try:
        return json.dumps(value, default=plain, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be written as JSON ({error}): expected dicts, lists, text, "
            "numbers, true, false and null."
        ) from None


def _entry(value: Any) -> Any:
    return np.asarray(value, dtype=np.float64) if isinstance(value, list) else value


# -- tensors -------------------------------------------------------------------


def _running_names(model: Model) -> list[tuple[str, int]]:
    """Name and length of each part of `State.running`, in order."""
    return list(model.network.statistics)


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model's file."""
    network, leading = model.network, model.leading
    shapes: dict[str, tuple[int, ...]] = {slot.name: slot.shape for slot in network.slots}
    shapes |= {name: (n, 1) for name, n in _running_names(model)}
    for i in range(model.optimizer.n_moments):
        shapes[f"moment{i + 1}"] = (network.n_parameters,)
    return {name: (*leading, *shape) for name, shape in shapes.items()}


def _tensors(model: Model, state: State) -> Tensors:
    tensors, start = by_name(model.network, np, state.theta), 0
    for name, n in _running_names(model):
        tensors[name] = state.running[..., start : start + n, None]
        start += n
    tensors |= {f"moment{i}": moment for i, moment in enumerate(state.moments, 1)}
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def state_of(model: Model, tensors: Tensors, step: int) -> State:
    """The tensors as flat vectors of their own on the model's device."""

    def flat(names: list[str]) -> npt.NDArray[Any]:
        parts = [tensors[name].reshape(*model.leading, -1) for name in names]
        return np.concatenate([np.zeros((*model.leading, 0), model.dtype), *parts], axis=-1)

    put = model.device.put
    theta = flat([slot.name for slot in model.network.slots])
    running = flat([name for name, _ in _running_names(model)])
    moments = [flat([f"moment{i + 1}"]) for i in range(model.optimizer.n_moments)]
    return State(put(theta), tuple(put(moment) for moment in moments), put(running), step)


def _serialise(tensors: Tensors, header: dict[str, str]) -> bytes:
    """The file's bytes, the same for the same model: the library orders its header at random."""
    from safetensors.numpy import save as serialise

    content = serialise(tensors, header)
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    entries["__metadata__"] = header
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


# -- reading and its checks ----------------------------------------------------


def _checksum(header: Mapping[str, str], tensors: Tensors) -> str:
    """SHA-256 of everything in the file but itself."""
    shapes = {name: [T.dtype.str, list(T.shape)] for name, T in tensors.items()}
    kept = {name: text for name, text in header.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps([kept, shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].data)
    return digest.hexdigest()


def read(path: str | os.PathLike[str]) -> tuple[dict[str, str], Tensors]:
    """Header and tensors of a file whose checksum is right."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        why = "is not a file" if Path(path).exists() else "does not exist"
        raise FileNotFoundError(f"{path} {why}, but a model file ({SUFFIX}) was expected.")
    with open(path, "rb"):
        pass  # an unreadable file says so itself
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            _check_version(path, header)
            tensors = {name: np.ascontiguousarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            found = _checksum(header, tensors)
    except ModelFileError:
        raise
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} cannot be read as safetensors ({error}): it is truncated, damaged or "
            "another kind of file. Take it from a backup, or train again."
        ) from None
    if header.get("sha256") != found:
        raise ModelFileError(
            f"{path} is damaged or was altered: its contents do not match its checksum. "
            "Take it from a backup, or train again."
        )
    return header, tensors


def _check_version(path: str | os.PathLike[str], header: Mapping[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise ModelFileError(
            f"{path} is a safetensors file, but no model of mlp_xp: its header says format "
            f"{header.get('format')!r}, but {FORMAT!r} was expected."
        )
    if header.get("version") != VERSION:
        raise ModelFileError(
            f"{path} has format version {header.get('version')!r}, but this mlp_xp reads "
            f"version {VERSION!r}. Use the release of mlp_xp that wrote it."
        )
    missing = [name for name in HEADER if name not in header]
    if missing:
        raise ModelFileError(f"{path} is incomplete: its header lacks {', '.join(missing)}.")


def check_layout(
    path: str | os.PathLike[str],
    tensors: Tensors,
    layout: Mapping[str, tuple[int, ...]],
    dtype: str,
) -> None:
    found = {name: (T.shape, str(T.dtype)) for name, T in tensors.items()}
    for name in sorted({*layout, *found}):
        expected = (layout[name], dtype) if name in layout else "no such tensor"
        if found.get(name, "nothing") != expected:
            raise ModelFileError(
                f"{path} does not fit its own config: tensor {name} is "
                f"{found.get(name, 'missing')}, but expected {expected}."
            )


def check_connections(path: str | os.PathLike[str], model: Model, state: State) -> None:
    connected = model._recipe.connected
    if connected is None:
        return
    get = model.device.get
    if np.any(get(state.theta)[get(connected) == 0]):
        raise ModelFileError(
            f"{path} has other connections than its seed gives here, so it cannot be trained "
            "on. Use the release of mlp_xp that wrote it."
        )


# -- writing -------------------------------------------------------------------


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Where a file will really lie, links followed; an OSError says why it cannot."""
    place = Path(os.path.realpath(path))
    folder = place.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {folder}.")
    if place.exists() and not place.is_file():
        raise FileExistsError(f"{path} cannot be written: it exists and is not a file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: folder {folder} refuses new files.")
    return place


def write_atomically(path: str | os.PathLike[str], content: bytes | Iterable[bytes]) -> None:
    """Write a whole file or nothing: a reader sees the old file or the new, never a part.

    content  all of it, or part by part

    An existing file's permissions are kept; a new one gets the usual ones.
    """
    place = check_writable(path)
    spare = place.parent / f".{FORMAT}-{os.urandom(4).hex()}.tmp"
    try:
        # O_EXCL: never through a link laid there; 0o666: the umask decides.
        with open(os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            _lock(file.fileno())
            if place.exists():
                os.chmod(spare, stat.S_IMODE(place.stat().st_mode))
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":  # while it is locked
                os.replace(spare, place)
        if os.name != "posix":  # where an open file has no other name
            os.replace(spare, place)
    except BaseException as error:
        spare.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, spare, str(spare)):
            error.filename = os.fspath(path)  # which the caller knows
        raise
    sync_folder(place.parent)
    _sweep(place.parent)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder last, too."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _lock(file: int) -> bool:
    """Show that a file is being written, for as long as it is open; whether nobody else does."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _sweep(folder: Path) -> None:
    """Delete what writers left in a folder that were killed: files that nobody has locked.

    Only the user's own, and none so new that its writer may not have come to lock it yet.
    """
    if os.name != "posix":
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if LEFT.fullmatch(entry.name):
                with suppress(OSError):
                    _delete_left(entry.path)


def _delete_left(path: str) -> None:
    left = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(left)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if ours and found.st_mtime < time.time() - OLD and _lock(left):
            os.unlink(path)
    finally:
        os.close(left)


__all__ = ["EstimatorFileError", "ModelFileError", "load", "save", "write_atomically"]
