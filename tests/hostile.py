"""Files whose bytes were changed, read in a process of their own: `test_hostile_bytes.py`.

    python tests/hostile.py SEED EACH FIRST

reads EACH mutants of every kind, from the one numbered FIRST on, and prints a line for each: its
number and what came of it. The process may take `ROOM` bytes more than it begins with, and a
mutant `PATIENCE` seconds; one that takes longer ends it with the traceback of all threads.
"""

from __future__ import annotations

import faulthandler
import gzip
import importlib.util
import io
import random as randoms
import re
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PATIENCE = 20.0  # seconds
ROOM = 1 << 29  # bytes: 20,000 times what the largest of these files has
EXTREMES = (0, 1, 2, 127, 128, 255, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
NUMBERS = (b"-1", b"0", b"1e308", b"1e999", b"99999999999999999999", b"4294967296", b"nan", b"")


class Kind(NamedTuple):
    """Of files.

    name     of one of them
    content  makes the bytes that are changed
    read     reads the file, and does with it what one does
    wrap     makes the file of the changed bytes, so that what is inside is not met as damaged
    """

    name: str
    content: Callable[[], bytes]
    read: Callable[[Path], object]
    wrap: Callable[[bytes], bytes] = lambda content: content


# -- changes -----------------------------------------------------------------------


def _flipped(content: bytearray, random: randoms.Random) -> None:
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def _set(content: bytearray, random: randoms.Random) -> None:
    content[random.randrange(len(content))] = random.choice((0, 1, 10, 34, 44, 127, 128, 255))


def _number(content: bytearray, random: randoms.Random) -> None:
    """Another whole number of 2, 4 or 8 bytes."""
    size = random.choice((2, 4, 8))
    value = random.choice(EXTREMES) % 256**size
    at = random.randrange(len(content))
    content[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))


def _digits(content: bytearray, random: randoms.Random) -> None:
    """Another number where one is written in digits."""
    found = list(re.finditer(rb"\d+", content[:100_000]))
    if found:
        place = random.choice(found)
        content[place.start() : place.end()] = random.choice(NUMBERS)


def _cut(content: bytearray, random: randoms.Random) -> None:
    del content[random.randrange(len(content)) :]


def _part(content: bytearray, random: randoms.Random) -> tuple[int, int]:
    start = random.randrange(len(content))
    return start, min(len(content), start + 1 + int(random.expovariate(1 / 30)))


def _removed(content: bytearray, random: randoms.Random) -> None:
    start, end = _part(content, random)
    del content[start:end]


def _repeated(content: bytearray, random: randoms.Random) -> None:
    start, end = _part(content, random)
    content[start:start] = content[start:end] * random.choice((1, 2, 60))


def _moved(content: bytearray, random: randoms.Random) -> None:
    start, end = _part(content, random)
    at = random.randrange(len(content))
    content[at : at + end - start] = content[start:end]


def _noise(content: bytearray, random: randoms.Random) -> None:
    start, end = _part(content, random)
    content[start:end] = random.randbytes(end - start)


CHANGES = (_flipped, _set, _number, _digits, _cut, _removed, _repeated, _moved, _noise)


def mutant(kind: Kind, seed: int, number: int) -> bytes:
    """A file of a kind, changed in one to three places."""
    random = randoms.Random(f"{seed} {number}")
    content = bytearray(_original(kind))
    for _ in range(random.choice((1, 1, 2, 3))):
        if content:
            random.choice(CHANGES)(content, random)
    return kind.wrap(bytes(content))


@cache
def _original(kind: Kind) -> bytes:
    return kind.content()


# -- arrays ------------------------------------------------------------------------

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3


def _npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version, allow_pickle=False)
    return content.getvalue()


def _npz(x: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        file.writestr("X.npy", x)
        file.writestr("y.npy", _npy(Y))
    return content.getvalue()


def _idx(array: Any) -> bytes:
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    head = bytes([0, 0, codes[array.dtype.str[1:]], array.ndim]) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def _arrays(path: Path) -> None:
    from mlp_xp.data import Request, load

    load(str(path), Request(labelled=False))


# -- tables ------------------------------------------------------------------------


@cache
def _frame() -> Any:
    import pandas

    m = 60
    return pandas.DataFrame(
        {
            "size": RANDOM.normal(size=m).round(3),
            "count": pandas.array([i % 7 if i % 9 else None for i in range(m)], dtype="Int64"),
            "kind": [("ant", 'b"e,e', "größe;", None)[i % 4] for i in range(m)],
            "day": pandas.date_range("2020-02-27", periods=m, freq="31h"),
            "y": [("yes", "no")[i % 2] for i in range(m)],
        }
    )


def _written(how: str, **options: Any) -> bytes:
    content = io.BytesIO()
    frame = _frame().astype({"kind": "category"}) if options.pop("coded", False) else _frame()
    getattr(frame, f"to_{how}")(content, **options)
    return content.getvalue()


def _table(path: Path) -> None:
    """What is read trains a model, and is predicted from, or is refused."""
    from mlp_xp.data import Request, load
    from mlp_xp.preparation import model_for

    data = load(str(path), Request(target=("y",)))
    model_for(data, (4,)).predict(data.X)


# -- models ------------------------------------------------------------------------


def _trained() -> Any:
    from mlp_xp import MLP

    options: dict[str, Any] = {"normalization": "batch", "dropout": 0.1, "optimizer": "adamw"}
    return MLP((4, 5, 3), **options)


def _fitted(model: Any, folder: Path | None) -> Any:
    stop = {"early_stopping": 3, "validation_data": (X.T, Y)}
    return model.fit(
        X.T, Y, epochs=3, batch_size=10, progress=False, checkpoint=folder, every=0, **stop
    )


def _model_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        _fitted(_trained(), None).save(path := Path(folder, "model.safetensors"))
        return path.read_bytes()


def _checkpoint_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        model = _trained()

        def stop(*_: Any) -> bool:
            return model.epochs_trained == 2

        options: dict[str, Any] = {"validation_data": (X.T, Y), "early_stopping": 3}
        model.fit(
            *(X.T, Y),
            epochs=3,
            batch_size=10,
            progress=False,
            checkpoint=folder,
            every=0,
            callbacks=stop,
            **options,
        )
        return Path(folder, "epoch-2.safetensors").read_bytes()


def _sealed(content: bytes) -> bytes:
    """The same with a checksum that is right, if safetensors can read it at all."""
    from test_hostile_files import read, write

    with tempfile.TemporaryDirectory() as folder, suppress(Exception):
        (path := Path(folder, "file")).write_bytes(content)
        write(path, *read(path))
        return path.read_bytes()
    return content


def _model(path: Path) -> None:
    from mlp_xp import MLP, TrainingDiverged

    model = MLP.load(path)
    X_, Y_ = X.T.astype(model.dtype), Y
    model.predict(X_)
    with suppress(TrainingDiverged):
        model.fit(X_, Y_, epochs=1, progress=False)


def _checkpoint(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "epoch-2.safetensors").write_bytes(path.read_bytes())
        _fitted(_trained(), Path(folder))


KINDS: dict[str, Kind] = {
    "npy": Kind("x.npy", lambda: _npy(X), _arrays),
    "npy of version 2, in Fortran order": Kind(
        "x.npy", lambda: _npy(np.asfortranarray(X.astype(">f8")), (2, 0)), _arrays
    ),
    "npy.gz": Kind("x.npy.gz", lambda: gzip.compress(_npy(X), mtime=0), _arrays),
    "npy inside gzip": Kind("x.npy.gz", lambda: _npy(X), _arrays, gzip.compress),
    "npz": Kind("x.npz", lambda: _npz(_npy(X), zipfile.ZIP_DEFLATED), _arrays),
    "npy inside npz": Kind("x.npz", lambda: _npy(X), _arrays, _npz),
    "IDX": Kind(
        "x-idx3-ubyte", lambda: _idx(np.arange(480, dtype="u1").reshape(30, 4, 4)), _arrays
    ),
    "IDX inside gzip": Kind("x-idx2-float.gz", lambda: _idx(X), _arrays, gzip.compress),
    "CSV": Kind("t.csv", lambda: _written("csv", index=False), _table),
    "TSV": Kind("t.tsv", lambda: _written("csv", index=False, sep="\t"), _table),
    "CSV of UTF-16": Kind("t.csv", lambda: _written("csv", index=False, encoding="utf-16"), _table),
    "CSV inside gzip": Kind(
        "t.csv.gz", lambda: _written("csv", index=False, sep=";"), _table, gzip.compress
    ),
    "Parquet": Kind("t.parquet", lambda: _written("parquet"), _table),
    "Parquet, not packed": Kind(
        "t.parquet", lambda: _written("parquet", compression=None, coded=True), _table
    ),
    "Parquet, by zstd": Kind(
        "t.parquet",
        lambda: _written("parquet", compression="zstd", data_page_version="2.0"),
        _table,
    ),
    "Feather": Kind("t.feather", lambda: _written("feather"), _table),
    "Feather, not packed": Kind(
        "t.feather", lambda: _written("feather", compression="uncompressed", coded=True), _table
    ),
    "model": Kind("model.safetensors", _model_file, _model),
    "model, sealed": Kind("model.safetensors", _model_file, _model, _sealed),
    "checkpoint": Kind("epoch-2.safetensors", _checkpoint_file, _checkpoint),
    "checkpoint, sealed": Kind("epoch-2.safetensors", _checkpoint_file, _checkpoint, _sealed),
}


# -- one process -------------------------------------------------------------------


def outcome(work: Callable[[], object]) -> str:
    """ "works", "refused", or the error that must not be."""
    from mlp_xp.cells import TableError
    from mlp_xp.checkpoints import CheckpointError
    from mlp_xp.data import DataError
    from mlp_xp.headers import ModelFileError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
    except (DataError, TableError, ModelFileError, CheckpointError) as error:
        said = str(error)
        return "refused" if 0 < len(said) < 2000 else f"refused at length: {said[:80]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return "works"


def kinds() -> list[str]:
    """Names of those that can be read here."""
    tables = all(importlib.util.find_spec(name) for name in ("skrub", "pyarrow"))
    return [name for name, kind in KINDS.items() if tables or kind.read is not _table]


def main(seed: int, each: int, first: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in kinds():
            kind = KINDS[name]
            (path := Path(folder, kind.name)).write_bytes(kind.wrap(_original(kind)))
            found = outcome(lambda kind=kind, path=path: kind.read(path))  # type: ignore[misc]
            assert found == "works", f"{name}: {found}"
        limited = _limit()
        before = _peak()
        for number in range(first, each * len(kinds())):
            kind = KINDS[kinds()[number // each]]
            path = Path(folder, kind.name)
            path.write_bytes(mutant(kind, seed, number % each))
            print(number, end=" ", flush=True)  # it is known which one ended the process
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            print(outcome(lambda kind=kind, path=path: kind.read(path)), flush=True)  # type: ignore[misc]
            faulthandler.cancel_dump_traceback_later()
    print("took", _peak() - before, "limited" if limited else "unlimited", flush=True)


def _limit() -> bool:
    """Give the process `ROOM` bytes of addresses more than it has."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return False
    most = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return True


def _peak() -> int:
    """The most bytes that the process has held."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
