"""Compiled code: found, kept, shared out to threads, and done without."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_fast_paths import build, in_numpy, plain, specified, walk
from threadpoolctl import ThreadpoolController

from conftest import tolerance
from mlp_xp import ACTIVATIONS, LOSSES, MLP, Activation, Loss
from mlp_xp.compile.numpy_program import NumpyProgram
from mlp_xp.compile.step import CompiledStep
from mlp_xp.devices import device as find_device
from mlp_xp.devices import devices
from mlp_xp.fast import blas, calls, native, packed
from mlp_xp.fast import threads as sharing
from mlp_xp.fitting import copied
from mlp_xp.optimizers import SGD
from mlp_xp.training import Data

CACHED = (
    *(native.compiler, native._machine, native.folder, native._library),
    *(native._brought, native.runtime, native._works),
)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a new process with a folder of its own, and nothing packed; back to this one's later.

    What this one found stays alive: its tables point into it.
    """
    for function in CACHED:
        monkeypatch.setattr(native, function.__name__, _again(function))
    monkeypatch.setattr(packed, "library", lambda: None)
    monkeypatch.setattr(native, "_hung", [])
    monkeypatch.setattr(native, "_warned", set())
    monkeypatch.setenv("MLP_XP_CACHE", str(tmp_path))
    return tmp_path / "native"


def _again(function: Any) -> Any:
    from functools import cache

    return cache(function.__wrapped__)


def trained(model: MLP, data: Data, state: Any, step: Any) -> np.ndarray[Any, Any]:
    return np.array(walk(model, data, copied(model.device, state), step)[-1].theta)


def test_a_library_is_compiled_once_and_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = native.library("int one(void) { return 1; }")
    assert first.one() == 1
    assert [path.suffix for path in fresh.iterdir()] == [".so"]
    assert fresh.stat().st_mode & 0o077 == 0  # nobody else may put a library there
    monkeypatch.setattr(native, "_library", _again(native._library))
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.library("int one(void) { return 1; }").one() == 1


TRAINS = """
import mlp_xp
import numpy as np
from mlp_xp.fast import native
model = mlp_xp.MLP((4, 5, 3)).fit(np.eye(4, 9), np.arange(9) % 3, epochs=2, progress=False)
assert model.predict(np.eye(4, 9)).shape == (9,)
assert model.predictor(1)(np.ones((4, 1), "float32")).shape == (3, 1)
print(native.status())
"""


def train_anew(folder: Path, before: str = "", **environment: str) -> tuple[str, list[str]]:
    """What a fresh process with that cache says of its steps, and its lines of warning.

    Nothing that came compiled with the package is used, unless the environment says so.
    """
    known = {**os.environ, "MLP_XP_CACHE": str(folder), "MLP_XP_NATIVE": "compile", **environment}
    command = [sys.executable, "-c", before + TRAINS]
    done = subprocess.run(command, env=known, check=False, capture_output=True, timeout=120)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 0, said
    return done.stdout.decode().strip(), [line for line in said if "Warning: " in line]


DAMAGES: dict[str, Any] = {
    "empty": lambda content: b"",
    "header only": lambda content: content[:64],
    "half": lambda content: content[: len(content) // 2],
    "last page": lambda content: content[:-4096],
    "last byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "zeros inside": lambda content: content[:4096] + bytes(4096) + content[8192:],
    "one bit": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    "one byte more": lambda content: content + b"x",
    "no library": lambda content: b"no library",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a process has said that compiled all it needed, and the cache it left."""
    folder = tmp_path_factory.mktemp("compiled")
    said, _ = train_anew(folder)
    assert said.startswith("steps compiled")
    assert len([*folder.rglob("*.so")]) >= 2
    return said, folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_made_again_and_never_loaded(
    made: tuple[str, Path], tmp_path: Path, damage: str
) -> None:
    """By a process of its own: a library that lacks its end kills whoever loads it."""
    said, whole = made
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.rglob("*.so"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert train_anew(tmp_path) == (said, [])
    for path in tmp_path.rglob("*.so"):
        assert path.stem.rpartition("-")[2] == packed.hashed(path.read_bytes())


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "writable"])
def test_what_is_no_file_of_the_users_alone_is_not_loaded(
    fresh: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "int two(void) { return 2; }"
    native.library(source)
    (path,) = fresh.iterdir()
    other = path.rename(tmp_path / "other")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(other.read_bytes())
        path.chmod(0o722)
    assert native._kept(path.name.partition("-")[0]) is None


def test_a_library_of_another_user_is_not_loaded(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.library("int two(void) { return 2; }")
    (path,) = fresh.iterdir()
    monkeypatch.setattr(native, "_trusted", lambda owner: False)
    assert native._kept(path.name.partition("-")[0]) is None


@pytest.mark.parametrize("which", ["itself", "its parent"])
@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777, 0o720])
def test_nothing_is_loaded_from_a_folder_that_others_may_write_to(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, mode: int
) -> None:
    monkeypatch.setattr(native, "_alone", lambda group: False)
    fresh.mkdir(mode=0o700)
    place = fresh if which == "itself" else tmp_path
    place.chmod(mode)
    if mode == 0o1777 and which == "its parent":  # as /tmp is: nobody can take the folder away
        assert native.folder() == fresh
        return
    with pytest.warns(RuntimeWarning, match=f"not kept: others may write to {place} .*chmod go-w"):
        other = native.folder()
    assert fresh not in (other, *other.parents)
    assert other.stat().st_mode & 0o077 == 0
    assert native.library("int two(void) { return 2; }").two() == 2
    assert not list(fresh.iterdir())
    native._delete(other, os.getpid() + 1)  # of another process
    assert other.exists()
    native._delete(other, os.getpid())
    assert not other.exists()


def test_nothing_is_loaded_from_a_folder_of_another_user(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_trusted", lambda owner: False)
    with (
        pytest.warns(RuntimeWarning, match="belongs to another user"),
        pytest.raises(native.CannotCompile, match="belongs to another user"),
    ):
        native.folder()  # the temporary folder's parents are no better here


def test_the_group_that_is_the_users_own_may_write(fresh: Path) -> None:
    import grp
    import pwd

    alone = grp.getgrgid(os.getegid()).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    assert native._alone(os.getegid()) == alone
    assert not native._alone(2**30)


@pytest.mark.parametrize("home", ["unwritable", "missing", "a file", "unknown"])
def test_a_home_that_cannot_be_written_is_done_without(tmp_path: Path, home: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    cache = {"unwritable": "/proc/here", "missing": "/proc/1/no", "a file": str(tmp_path / "file")}
    before = ""
    if home == "unknown":  # no HOME, and no entry for the user
        before = "import os, pwd\nos.environ.pop('HOME', 0)\npwd.getpwuid = {}.__getitem__\n"
    more = {"MLP_XP_CACHE": cache.get(home, ""), "XDG_CACHE_HOME": ""}
    said, warned = train_anew(tmp_path, before, TMPDIR=str(tmp_path / "tmp"), **more)
    assert said.startswith("steps compiled")
    assert not warned
    assert not list((tmp_path / "tmp").iterdir())  # the temporary folder went with its process


def failing(folder: Path, script: str) -> str:
    """A compiler that does what a script says."""
    path = folder / "failing-cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


NO_ENTRY = """
for a; do if [ "$before" = -o ]; then out=$a; fi; before=$a; done
echo 'int other;' > "$out.c"; exec cc -shared -fPIC "$out.c" -o "$out"
"""
LIMITED = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
TROUBLES = {
    "says what is not UTF-8": ("printf '\\377\\376 so' >&2; exit 1", "so"),
    "says nothing": ("exit 3", "exit status 3"),
    "says much": ("yes 'all wrong' | head -c 100000 >&2; exit 1", "all wrong all wrong"),
    "makes nothing": ("exit 0", "built.so"),
    "makes no library": (NO_ENTRY.replace("-shared -fPIC", "-c"), "native"),
    "makes a library without its entry": (NO_ENTRY, "has no function run"),
    "is killed": ("kill -9 $$", "exit status -9"),
    "is no program": (None, "Exec format error"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_compiler_in_trouble_is_one_line_and_numpys_calls(tmp_path: Path, trouble: str) -> None:
    script, said = TROUBLES[trouble]
    path = failing(tmp_path, script or "")
    if script is None:
        Path(path).write_bytes(b"\0\1\2")
    status, warned = train_anew(tmp_path, CC=path)
    assert status.startswith("steps not compiled: ")
    assert len(warned) == 1
    assert "RuntimeWarning: Steps are not compiled: " in warned[0]
    assert said in warned[0]
    left = [p for p in tmp_path.rglob("*") if p.is_dir() and p.name != "native"]
    assert not left


@pytest.mark.parametrize("quote", ["'", '"', "gcc '-O1", "\\"])
def test_a_command_that_no_shell_reads_is_one_line(tmp_path: Path, quote: str) -> None:
    status, (warned,) = train_anew(tmp_path, CC=quote)
    assert status.startswith("steps not compiled: CC is ")
    assert "expected one such as 'gcc'" in warned


def test_a_full_disk_is_one_line_and_numpys_calls(tmp_path: Path) -> None:
    status, (warned,) = train_anew(tmp_path, LIMITED)
    assert status.startswith("steps not compiled: ")
    assert "Steps are not compiled: " in warned
    assert not list(tmp_path.rglob("*.so"))


def test_a_disk_that_is_full_at_last_leaves_no_library(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(native.CannotCompile, match="No space left"):
        native.library("int two(void) { return 2; }")
    assert not list(fresh.iterdir())


def test_where_no_code_may_run_nothing_is_compiled(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mounted:
        f_flag = os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda path: Mounted)
    monkeypatch.setattr(native, "run", lambda *_: pytest.fail("compiled all the same"))
    with pytest.warns(RuntimeWarning) as warned:
        assert not native.available()
    assert [str(w.message).partition(": ")[0] for w in warned] == [
        "Compiled steps are not kept",
        "Steps are not compiled",
    ]
    assert all("noexec" in str(w.message) for w in warned)


@pytest.mark.parametrize("script", ["exec sleep 60", "sleep 60", "sleep 60 & wait"])
def test_a_compiler_that_does_not_come_back_is_asked_once(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setenv("CC", failing(tmp_path, script))
    monkeypatch.setattr(native, "TIME_LIMIT", 0.3)
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"not compiled: .* did not end within 0.3 s"):
        assert not native.available()
    for source in ("int one;", "int two;"):
        with pytest.raises(native.CannotCompile, match="did not end"):
            native.library(source)
    assert time.monotonic() - began < 30


def test_what_a_killed_compilation_left_is_swept(fresh: Path) -> None:
    for name, age in (("making-old", 7200), ("making-new", 0), ("other", 7200)):
        (fresh / name).mkdir(parents=True)
        os.utime(fresh / name, (time.time() - age,) * 2)
    native.library("int two(void) { return 2; }")
    assert {path.name for path in fresh.iterdir() if path.is_dir()} == {"making-new", "other"}


def test_processes_that_start_at_once_all_find_their_libraries(tmp_path: Path) -> None:
    known = {**os.environ, "MLP_XP_CACHE": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [
        subprocess.Popen([sys.executable, "-c", TRAINS], env=known, **pipes)  # type: ignore[call-overload]
        for _ in range(8)
    ]
    for process in started:
        said, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, b"")
        assert said.startswith(b"steps compiled")
    names = [path.name for path in (tmp_path / "native").iterdir()]
    assert len({name.partition("-")[0] for name in names}) == len(names)  # and nothing else is left


def test_a_folder_that_cannot_be_written_is_done_without(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLP_XP_CACHE", str(tmp_path / "file"))
    assert native.library("int three(void) { return 3; }").three() == 3
    assert not list(tmp_path.glob("native*"))


def test_what_the_compiler_says_is_handed_on(fresh: Path) -> None:
    with pytest.raises(native.CannotCompile, match=r"(?s)error: .*nonsense"):
        native.library("nonsense")
    assert not list(fresh.iterdir())


def target_of(model: Any, data: Data) -> Any:
    """What the programs of a model's steps are made of."""
    return model.device.stepper(model._recipe, model.device, data).target


def test_without_a_compiler_steps_are_numpys(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(native.CannotCompile, match="no C compiler"):
        native.compiler()
    assert not native.available()
    assert target_of(*build(plain())[:2]) is NumpyProgram


def test_the_list_of_devices_says_what_becomes_of_a_step(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert devices()[0].detail.endswith(f"steps compiled by {native.compiler()[0]}")
    monkeypatch.setenv("MLP_XP_NATIVE", "0")
    assert devices()[0].detail.endswith("steps not compiled: MLP_XP_NATIVE=0")
    monkeypatch.setenv("MLP_XP_NATIVE", "1")
    monkeypatch.setenv("CC", "no-such-compiler")
    native.compiler.cache_clear()
    native.runtime.cache_clear()
    native._library.cache_clear()
    assert "no C compiler" in devices()[0].detail


def test_a_compiler_that_fails_is_warned_of(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.warns(RuntimeWarning, match=r"Steps are not compiled: .*false"):
        assert not native.available()
    assert not native.available()  # and only once


def test_a_step_that_does_not_compile_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str) -> Any:
        raise native.CannotCompile("refused")

    model, data, state = build(plain())
    expected = trained(model, data, state, in_numpy(model._recipe, data))
    native.runtime()
    blas._multiply(str(model.dtype))
    monkeypatch.setattr(native, "library", refuse)
    monkeypatch.setattr(calls, "_known", {})  # as in a process that has no kernel yet
    step = compiled(model._recipe, data)
    with pytest.warns(RuntimeWarning, match="A step is not compiled: refused"):
        np.testing.assert_array_equal(trained(model, data, state, step), expected)


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", "0")
    assert target_of(*build(plain())[:2]) is NumpyProgram


def compiled(recipe: Any, data: Data) -> CompiledStep:
    return CompiledStep(recipe, find_device("cpu"), data)


def sorted_once(xp: Any, Z: Any) -> Any:
    """Something no kernel can do."""
    return xp.sort(xp.sort(Z, axis=-2), axis=-2) if False else xp.abs(Z) + 0 * xp.sort(Z, axis=-1)


class Odd(SGD):
    """An optimiser whose formula reads more than an element."""

    def update(self, xp: Any, theta: Any, g: Any, moments: Any, *scalars: Any) -> Any:
        return theta - scalars[0] * g + 0 * xp.sort(theta, axis=-1), ()


ODD: dict[str, dict[str, Any]] = {
    "activation": {"activation": Activation(sorted_once, lambda xp, A: xp.ones_like(A), "Z")},
    "slope": {"activation": Activation(ACTIVATIONS["tanh"].f, sorted_once, "Z")},
    "loss": {
        "loss": Loss(
            lambda xp, S, T: xp.sum(sorted_once(xp, S - T), axis=-2),
            lambda xp, S, T: xp.sign(S - T),
            lambda xp, S: S,
            "multiclass",
        )
    },
    "optimizer": {"optimizer": Odd(), "l2": 0.1, "clip_norm": 0.5},
}


@pytest.mark.parametrize("part", ODD)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_formula_without_a_kernel_is_computed_by_numpy(part: str, weighted: bool) -> None:
    _, data, state = build(plain(weighted=weighted, dropout=0.3, label_smoothing=0.2))
    changed = MLP((4, 5, 5, 3), **{"dropout": 0.3, "loss": "cross_entropy", **ODD[part]})
    state = state._replace(moments=state.moments[: changed._recipe.optimizer.n_moments])
    expected = specified(changed, data, copied(changed.device, state))[-1].theta
    found = trained(changed, data, state, compiled(changed._recipe, data))
    np.testing.assert_allclose(found, expected, **tolerance("float32", 1024))


@pytest.mark.parametrize("kind", ["float64", "by columns", "every other"])
def test_data_that_lie_otherwise_are_read_all_the_same(kind: str) -> None:
    model, data, state = build(plain())
    rows, labels = data.rows, np.arange(23) % 3
    expected = trained(
        model, Data(rows, labels), state, in_numpy(model._recipe, Data(rows, labels))
    )
    if kind == "float64":
        rows = rows.astype("float64")
    elif kind == "by columns":
        rows = np.asfortranarray(rows)
    else:
        rows = np.repeat(rows, 2, axis=0)[::2]
    other = Data(rows, labels)
    found = trained(model, other, state, compiled(model._recipe, other))
    np.testing.assert_allclose(found, expected, **tolerance(model.dtype, 1024))


def wide() -> tuple[MLP, Data, Any]:
    """A network whose calls are all shared out."""
    model = MLP((300, 400, 200, 3), optimizer="adam", loss="cross_entropy", l2=0.1)
    rng = np.random.default_rng(2)
    data = Data(rng.normal(size=(500, 300)).astype("float32"), rng.integers(0, 3, 500))
    return model, data, model._run.state


def steps(model: MLP, data: Data, state: Any, threads: int, n: int = 20) -> np.ndarray[Any, Any]:
    state, step = copied(model.device, state), compiled(model._recipe, data)
    before = native.runtime().use_threads(threads)
    try:
        for i in range(n):
            state = step(state, np.arange(i, 500, 2 + i % 3), None, 0.001)
    finally:
        native.runtime().use_threads(before)
    return np.append(state.theta, state.loss)


def test_threads_change_nothing_but_the_rounding() -> None:
    expected = steps(*wide(), threads=1)
    for threads in (2, 3, 5):
        found = steps(*wide(), threads=threads)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found, steps(*wide(), threads=threads))  # and is repeatable


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_below_the_least_normal_count_as_zero(threads: int, dtype: str) -> None:
    least = np.finfo(dtype).smallest_normal
    model = MLP((4000, 3), dtype=dtype, optimizer="sgd", loss="squared_error")
    data = Data(np.eye(600, 4000, dtype=dtype), np.zeros((600, 3), dtype))
    state = model._run.state._replace(theta=np.full(12_003, least / 2, dtype))  # outputs and δ
    step = compiled(model._recipe, data)
    before = native.runtime().use_threads(threads)
    try:
        state = step(state, np.arange(600), None, 1.0)
    finally:
        native.runtime().use_threads(before)
    np.testing.assert_array_equal(state.theta, 0)  # read as zero by every thread, and so is ∇
    assert 0 < np.full(3, least).sum() / 8 < least  # the caller's own arithmetic has them


def test_many_threads_on_few_cores_come_to_the_same_end() -> None:
    expected = steps(*wide(), threads=1, n=5)
    found = steps(*wide(), threads=4 * (os.cpu_count() or 1), n=5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_networks_may_train_in_several_python_threads_at_once() -> None:
    expected, found = steps(*wide(), threads=2), dict[int, Any]()

    def work(number: int) -> None:
        found[number] = steps(*wide(), threads=2)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(4):
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5)


def _in_child(queue: Any) -> None:
    queue.put(steps(*wide(), threads=2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    expected = steps(*wide(), threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    found = queue.get(timeout=60)
    child.join(timeout=60)
    np.testing.assert_array_equal(found, expected)


def test_whether_helpers_pay_changes_no_bit() -> None:
    rng = np.random.default_rng(2)
    model = MLP((64, 100, 10), seed=0, normalization="batch")
    data = Data(rng.normal(size=(500, 64)).astype("float32"), rng.integers(0, 10, 500))
    use_weights, found = native.runtime().use_weights, list[Any]()
    for weighs in (0, 1):
        before = use_weights(weighs)
        try:
            found.append(steps(model, data, model._run.state, threads=2, n=100))
        finally:
            use_weights(before)
    np.testing.assert_array_equal(*found)


@pytest.fixture
def library() -> Iterator[Any]:
    """A BLAS of two threads, as all others that are loaded have then."""
    libraries = blas.libraries()
    before = [one.num_threads for one in libraries]
    for one in libraries:
        sharing._setter(one)(2)  # whichever thread asked first
    yield libraries[0]
    for one, count in zip(libraries, before, strict=True):
        sharing._setter(one)(count)


def test_the_blas_gives_its_threads_to_the_runtime_and_gets_them_back(library: Any) -> None:
    runtime, before = native.runtime(), library.num_threads
    with sharing.threads((4, 5, 3), 8):
        assert library.num_threads == 1
        with sharing.threads((4, 5, 3), 8):
            inner = runtime.use_threads(1)
            runtime.use_threads(inner)
        outer = runtime.use_threads(1)
        runtime.use_threads(outer)
    assert inner == outer == before
    assert library.num_threads == before
    assert runtime.use_threads(1) == 1


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_fits_that_overlap_leave_the_blas_as_it_was(
    wanted: str, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each has the number of threads that it would have alone, so the same bits."""
    monkeypatch.setenv("MLP_XP_NATIVE", wanted)
    runtime, told = native.runtime(), list[Any]()
    entered, both, left = (threading.Event() for _ in range(3))

    def work(first: bool) -> None:
        if not first:
            entered.wait(30)
        with sharing.threads((4, 5, 3), 8):
            told.append((runtime.use_threads(1), library.num_threads))
            runtime.use_threads(told[-1][0])
            if first:
                entered.set()
                both.wait(30)
            else:
                both.set()
                left.wait(30)
        if first:
            left.set()

    workers = [threading.Thread(target=work, args=(first,)) for first in (True, False)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert library.num_threads == 2
    assert told == [(2 if wanted == "1" else 1, 1)] * 2


def test_the_blas_is_on_one_thread_whoever_trained_first(library: Any) -> None:
    """`threadpoolctl` hears the first thread only that sets a number, unless it is asked past."""
    found = []
    library.set_num_threads(2)  # by this thread

    def work() -> None:
        with sharing.threads((4, 5, 3), 8):
            found.append(library.num_threads)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert (found, library.num_threads) == ([1], 2)


def test_what_an_epoch_is_watched_by_wakes_no_threads_of_the_blas(library: Any) -> None:
    """They would spin on the cores that the next steps want."""
    found = []

    def f(xp: Any, Z: Any) -> Any:
        found.append(library.num_threads)
        return Z

    library.set_num_threads(2)
    X, y = np.random.default_rng(0).standard_normal((4, 30)), np.arange(30) % 2
    watched = Activation(f=f, slope=lambda xp, A: xp.ones_like(A))
    model = MLP((4, 5, 2), activation=watched, seed=0)
    model.fit(X, y, epochs=2, validation_data=(X, y), progress=False)
    assert set(found) == {1}


def test_a_blas_with_a_number_a_thread_is_set_in_every_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Openmp:
        def __init__(self) -> None:
            self.own = threading.local()

        @property
        def num_threads(self) -> int:
            return int(getattr(self.own, "count", 2))

        def set_num_threads(self, count: int) -> None:
            self.own.count = count

    library, found = Openmp(), []
    monkeypatch.setattr(
        sharing, "_libraries", lambda *_: ([], [sharing._Library(library, library.set_num_threads)])
    )

    def work() -> None:
        with sharing.Alone():
            found.append(library.num_threads)
        found.append(library.num_threads)

    with sharing.Alone():
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    assert (found, library.num_threads) == ([1, 2], 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_fork_finds_the_blas_free_and_gives_it_back(library: Any) -> None:
    with sharing.Alone():
        child = os.fork()
        if child == 0:
            with sharing.Alone() as count:
                pass
            os._exit(0 if (count, library.num_threads) == (2, 2) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_products_that_numpy_does_not_reach_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, state = build(plain())
    expected = trained(model, data, state, compiled(model._recipe, data))
    monkeypatch.setattr(blas, "product", lambda dtype, vector=False: None)
    found = trained(model, data, state, compiled(model._recipe, data))
    np.testing.assert_allclose(found, expected, **tolerance(model.dtype, 64))


def test_numpys_own_blas_is_found_without_a_look_at_all_libraries(library: Any) -> None:
    if not isinstance(library, blas.OpenBLAS):
        pytest.skip("NumPy is no wheel with OpenBLAS")
    known = ThreadpoolController().select(user_api="blas").lib_controllers
    (same,) = [one for one in known if Path(one.filepath).samefile(library.filepath)]
    told = same.info()
    assert library.info() == {name: told[name] for name in library.info()}
    assert (library.threading_layer, library.num_threads) == (same.threading_layer, 2)
    sharing._setter(library)(1)
    assert same.num_threads == 1


def test_a_blas_that_lies_elsewhere_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "numpy.libs"
    folder.mkdir()
    (folder / "libscipy_openblas64_-0.so").write_bytes(b"of another kind")
    monkeypatch.setattr(np, "__file__", str(tmp_path / "numpy" / "__init__.py"))
    found = blas.libraries.__wrapped__()
    assert {one.user_api for one in found} == {"blas"}
    assert blas.libraries()[0].filepath in {one.filepath for one in found}


@pytest.fixture
def other_blas(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As where no BLAS has been chosen yet."""
    for name in ("product", "_libraries"):
        monkeypatch.setattr(blas, name, _again(getattr(blas, name)))
    return monkeypatch


def test_mkl_that_is_not_there_is_a_clear_error(other_blas: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise blas.metadata.PackageNotFoundError(name)

    other_blas.setenv("MLP_XP_BLAS", "mkl")
    other_blas.setattr(blas.metadata, "files", missing)
    with pytest.raises(ImportError, match=r"pip install 'mlp_xp\[mkl\]'"):
        blas.product("float32")
    other_blas.setattr(blas.metadata, "files", lambda name: [])
    with pytest.raises(ImportError, match="no library mkl_rt"):
        blas.product("float32")


def test_a_blas_that_nobody_knows_is_a_clear_error(other_blas: pytest.MonkeyPatch) -> None:
    other_blas.setenv("MLP_XP_BLAS", "atlas")
    with pytest.raises(ValueError, match="'atlas', but expected 'numpy' or 'mkl'"):
        blas.product("float32")


def test_every_row_of_the_tables_is_compiled() -> None:
    """None of the tables' own formulas is a call of NumPy's, unnoticed."""
    from mlp_xp.compile.graph import Graph, live
    from mlp_xp.compile.trace import trace

    for dtype in ("float32", "float64"):
        graph = Graph(dtype)
        x, t = graph.input("x", (4, 5)), graph.input("t", (4, 5))
        roots = []
        for activation in ACTIVATIONS.values():
            roots += [trace(activation.f, graph, x), trace(activation.slope, graph, x)]
        for loss in LOSSES.values():
            roots += [trace(loss.value, graph, x, t), trace(loss.delta, graph, x, t)]
            roots.append(trace(loss.predict, graph, x))
        assert not [node for node in live(roots) if node.op == "call"]


def test_a_fresh_process_trains_without_a_compiler(tmp_path: Path) -> None:
    code = "import mlp_xp; mlp_xp.MLP((2, 3, 2)).fit([[0.0, 1, 2], [1, 0, 2]], [0, 1, 0], epochs=1)"
    environment = {**os.environ, "CC": "no-such-compiler", "MLP_XP_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=False)
    assert done.returncode == 0
    assert not list(tmp_path.rglob("*.so"))
