"""Models come back from a file bit for bit, and a bad file changes nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from conftest import Backend
from mlp_xp import ACTIVATIONS, LOSSES, MLP, OPTIMIZERS, Activation
from mlp_xp.initializers import INITIALIZERS
from mlp_xp.optimizers import Adam
from mlp_xp.storage import ModelFileError, _checksum, write_atomically

RNG = np.random.default_rng(7)
X = RNG.normal(size=(5, 60))
Y = (X[0] + X[1] > 0).astype(int)
EVERYTHING: dict[str, Any] = {
    "normalization": "batch",
    "dropout": 0.25,
    "residual": True,
    "density": 0.6,
    "l2": 1e-4,
    "clip_norm": 2.0,
    "label_smoothing": 0.1,
}


def build(seed: Any = 3, **options: Any) -> MLP:
    return MLP((5, 6, 4, 2), seed=seed, **{**EVERYTHING, **options})


def fit(model: MLP, epochs: int) -> MLP:
    return model.fit(X, Y, epochs=epochs, batch_size=16, validation_data=(X, Y), progress=False)


def bits(model: MLP) -> list[bytes]:
    state = model._run.state
    arrays = (state.theta, *state.moments, state.running)
    return [model.device.get(array).tobytes() for array in arrays]


@pytest.mark.parametrize("seed", [3, [1, 2, 3], [5]], ids=["one", "three", "list-of-one"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_goes_on_as_if_it_had_never_been_saved(
    tmp_path: Path, seed: Any, optimizer: str, dtype: str
) -> None:
    straight = fit(fit(build(seed, optimizer=optimizer, dtype=dtype), 3), 3)
    fit(build(seed, optimizer=optimizer, dtype=dtype), 3).save(tmp_path / "m")
    resumed = fit(MLP.load(tmp_path / "m"), 3)
    assert bits(resumed) == bits(straight)
    assert resumed.epochs_trained == 6
    for name in set(straight.history) - {"seconds"}:
        assert np.array_equal(resumed.history[name], straight.history[name])


def test_a_model_trained_on_any_backend_comes_back(backend: Backend, tmp_path: Path) -> None:
    model = fit(build(device=backend.device), 2)
    model.save(tmp_path / "m")
    again = MLP.load(tmp_path / "m", device=backend.device)
    assert bits(again) == bits(model)
    assert bits(MLP.load(tmp_path / "m")) == bits(model)
    assert bits(fit(again, 1)) == bits(fit(model, 1))


@pytest.mark.parametrize(
    ("option", "name"),
    [("activation", name) for name in ACTIVATIONS]
    + [("loss", name) for name in LOSSES]
    + [("initializer", name) for name in ("auto", *INITIALIZERS)]
    + [("normalization", name) for name in ("none", "batch", "layer")],
)
def test_every_named_part_comes_back(tmp_path: Path, option: str, name: str) -> None:
    outputs = 1 if name == "binary_cross_entropy" else 2
    model = MLP((5, 4, 3, outputs), **{option: name})
    model.save(tmp_path / "m")
    again = MLP.load(tmp_path / "m")
    assert again.config == model.config
    assert np.array_equal(again.scores(X), model.scores(X))


def test_a_model_without_hidden_layers_comes_back(tmp_path: Path) -> None:
    model = fit(MLP((5, 2), optimizer="sgd"), 1)
    model.save(tmp_path / "m")
    assert bits(MLP.load(tmp_path / "m")) == bits(model)


def test_tensors_are_named_and_shaped_as_in_the_mathematics(tmp_path: Path) -> None:
    model = fit(build([1, 2]), 1)
    model.save(tmp_path / "m")
    tensors = load_file(tmp_path / "m")
    assert tensors["W1"].shape == (2, 6, 5)
    assert tensors["b3"].shape == (2, 2, 1)
    assert tensors["mean2"].shape == tensors["variance2"].shape == (2, 4, 1)
    assert tensors["moment2"].shape == (2, model.n_parameters)
    for name, value in model.parameters.items():
        assert np.array_equal(tensors[name], value)


def test_a_reader_of_safetensors_alone_understands_the_header(tmp_path: Path) -> None:
    model = fit(build(), 2)
    model.save(tmp_path / "m", {"who": "Zoë", "scale": [1, 2.5, None]})
    with safe_open(tmp_path / "m", framework="numpy") as file:
        header = file.metadata()
    assert (header["format"], header["version"]) == ("mlp_xp", "1")
    assert json.loads(header["config"]) == model.config
    assert json.loads(header["epoch"]) == 2
    assert MLP.load(tmp_path / "m").metadata == {"who": "Zoë", "scale": [1, 2.5, None]}


def test_metadata_are_kept_when_a_loaded_model_is_saved(tmp_path: Path) -> None:
    build().save(tmp_path / "m", {"a": 1})
    MLP.load(tmp_path / "m").save(tmp_path / "n")
    assert MLP.load(tmp_path / "n").metadata == {"a": 1}


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = fit(build(), 1)
    for name in "ab":
        model.save(tmp_path / name, {"z": 1, "a": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)
@given(metadata=st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_comes_back_as_metadata(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("json") / "m"
    MLP((2, 2)).save(path, metadata)
    assert MLP.load(path).metadata == metadata


# -- what cannot be saved ------------------------------------------------------------


class Mine(Adam):
    """An optimiser of no table."""


@pytest.mark.parametrize(
    ("option", "value", "table"),
    [
        ("activation", (lambda xp, Z: Z, lambda xp, Z: xp.ones_like(Z)), "ACTIVATIONS"),
        ("loss", LOSSES["huber"]._replace(kind="count"), "LOSSES"),
        ("initializer", lambda draw, *shape: np.zeros(shape[:2]), "INITIALIZERS"),
        ("optimizer", Mine(), "OPTIMIZERS"),
    ],
)
def test_a_part_without_a_name_is_refused_before_anything_is_written(
    tmp_path: Path, option: str, value: Any, table: str
) -> None:
    (tmp_path / "m").write_bytes(b"the old file")
    with pytest.raises(ValueError, match=rf"{option} stands in no table.*{table}\['mine'\]"):
        MLP((5, 3, 2), **{option: value}).save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == b"the old file"
    assert os.listdir(tmp_path) == ["m"]


def test_a_row_of_ones_own_is_saved_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Activation(lambda xp, Z: 2 * Z, lambda xp, A: 2 * xp.ones_like(A))
    monkeypatch.setitem(ACTIVATIONS, "mine", mine)
    model = MLP((5, 3, 2), activation="mine")
    model.save(tmp_path / "m")
    assert np.array_equal(MLP.load(tmp_path / "m").scores(X), model.scores(X))
    monkeypatch.delitem(ACTIVATIONS, "mine")
    with pytest.raises(ModelFileError, match=r"'mine'.*add them before loading"):
        MLP.load(tmp_path / "m")


def test_metadata_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metadata cannot be written as JSON .*object"):
        build().save(tmp_path / "m", {"f": object()})
    assert not os.listdir(tmp_path)


# -- what cannot be loaded -----------------------------------------------------------


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    fit(MLP((5, 3, 2)), 1).save(path)
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x01]) + whole[i + 1 :])
        with pytest.raises(ModelFileError, match=r"damaged|format|version|incomplete"):
            MLP.load(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    MLP((5, 3, 2)).save(path)
    whole = path.read_bytes()
    for n in range(0, len(whole), 7):
        path.write_bytes(whole[:n])
        with pytest.raises(ModelFileError, match="truncated, damaged or another kind"):
            MLP.load(path)


def forge(path: Path, *, valid: bool = True, **header: str) -> None:
    """Write the file again with another header, and a checksum that is right for it."""
    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        changed = {**file.metadata(), **header}
    changed["sha256"] = _checksum(changed, tensors) if valid else changed["sha256"]
    save_file(tensors, path, changed)


def test_another_version_is_named(tmp_path: Path) -> None:
    MLP((5, 3, 2)).save(tmp_path / "m")
    forge(tmp_path / "m", version="2")
    with pytest.raises(ModelFileError, match=r"version '2'.*reads version '1'.*release"):
        MLP.load(tmp_path / "m")


@pytest.mark.parametrize("name", ["config", "step", "epoch", "history", "metadata"])
def test_an_altered_header_is_noticed(tmp_path: Path, name: str) -> None:
    MLP((5, 3, 2)).save(tmp_path / "m")
    forge(tmp_path / "m", valid=False, **{name: "7"})
    with pytest.raises(ModelFileError, match="do not match its checksum"):
        MLP.load(tmp_path / "m")


@pytest.mark.parametrize(
    "config", ["[]", "{}", '{"sizes": [5, 2]}', "not JSON", '{"optimizer": {"name": 3}}']
)
def test_a_config_that_describes_nothing_is_refused(tmp_path: Path, config: str) -> None:
    MLP((5, 3, 2)).save(tmp_path / "m")
    forge(tmp_path / "m", config=config)
    with pytest.raises(ModelFileError, match=r"cannot be built here|its config"):
        MLP.load(tmp_path / "m")


def test_tensors_must_fit_the_config(tmp_path: Path) -> None:
    MLP((5, 3, 2)).save(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="numpy") as file:
        config = json.loads(file.metadata()["config"])
    forge(tmp_path / "m", config=json.dumps({**config, "sizes": [5, 4, 2]}))
    with pytest.raises(ModelFileError, match=r"tensor W1 is .*\(3, 5\).*\(4, 5\)"):
        MLP.load(tmp_path / "m")


def test_other_connections_than_the_seed_gives_are_refused(tmp_path: Path) -> None:
    MLP((5, 30, 2), density=0.5, seed=1).save(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="numpy") as file:
        config = json.loads(file.metadata()["config"])
    forge(tmp_path / "m", config=json.dumps({**config, "seed": 2}))
    with pytest.raises(ModelFileError, match="other connections"):
        MLP.load(tmp_path / "m")


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        MLP.load(path)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        MLP.load(tmp_path)
    save_file({"W1": np.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="no model of mlp_xp: its header says format None"):
        MLP.load(path)
    path.write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(ModelFileError, match="another kind of file"):
        MLP.load(path)


def test_loading_imports_no_pickle_of_its_own(tmp_path: Path) -> None:
    """NumPy imports pickle itself, so what is asked is that nothing unpickles."""
    fit(build(), 1).save(tmp_path / "m")
    code = (
        "import pickle, mlp_xp\n"
        "def refuse(*args, **kwargs): raise AssertionError('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        f"mlp_xp.MLP.load({str(tmp_path / 'm')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# -- writing -------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    build().save(path)
    old = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        fit(build(), 1).save(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["m"]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: Any, target: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build().save(tmp_path / "m")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_file_gets_the_usual_permissions_and_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "m"
    before = os.umask(0o027)
    try:
        write_atomically(path, b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_atomically(path, b"2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert path.read_bytes() == b"2"


@pytest.mark.skipif(os.name != "posix", reason="POSIX links and devices")
def test_links_are_followed_and_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"1"
    with pytest.raises(FileExistsError, match="not a file"):
        write_atomically(os.devnull, b"1")
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_atomically(tmp_path / "absent" / "m", b"1")


def left(folder: Path, name: str, age: float) -> Path:
    path = folder / name
    path.write_bytes(b"a part of a model")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    """And nothing else: not what is new, or locked, or another's, or has another name."""
    old = left(tmp_path, ".mlp_xp-0123abcd.tmp", 3600)
    link = tmp_path / ".mlp_xp-0123abc0.tmp"
    link.symlink_to(left(tmp_path, "somewhere", 3600))
    (tmp_path / ".mlp_xp-0123abc1.tmp").mkdir()
    os.mkfifo(tmp_path / ".mlp_xp-0123abc2.tmp")
    kept = [
        link,
        left(tmp_path, ".mlp_xp-0123abce.tmp", 10),
        left(tmp_path, ".mlp_xp-0123abcz.tmp", 3600),
        left(tmp_path, ".mlp_xp-0123abcd.tmp.bak", 3600),
        left(tmp_path, "mlp_xp-0123abcd.tmp", 3600),
        tmp_path / ".mlp_xp-0123abc1.tmp",
        tmp_path / ".mlp_xp-0123abc2.tmp",
    ]
    MLP((2, 2)).save(tmp_path / "m")
    assert not old.exists()
    assert all(path.exists() or path.is_symlink() for path in kept)


WRITER = """
import os, sys, time
from mlp_xp import storage
slow = os.fsync
def fsync(file):
    slow(file)
    name, = [n for n in os.listdir(".") if n.endswith(".tmp")]
    os.utime(name, (1, 1))
    print(name, flush=True)
    sys.stdin.readline()
os.fsync = fsync
storage.write_atomically("model", b"all of it")
"""


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    """However old it looks; once its writer is killed, it goes."""
    known = {"cwd": tmp_path, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    for killed in (False, True):
        writer = subprocess.Popen([sys.executable, "-c", WRITER], **known)  # type: ignore[call-overload]
        name = writer.stdout.readline().strip()
        write_atomically(tmp_path / "other", b"other")
        assert (tmp_path / name).exists()
        if killed:
            writer.kill()
        writer.communicate("\n\n", timeout=60)
        assert (tmp_path / "model").read_bytes() == b"all of it"
        assert (tmp_path / name).exists() == killed
    write_atomically(tmp_path / "other", b"other")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "other"}
