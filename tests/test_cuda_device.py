"""The CUDA device: its names, its errors, and arrays that are already there."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, devices
from mlp_xp.devices import device as find_device
from mlp_xp.fast import device as row
from mlp_xp.hardware import DeviceUnavailable


def problem(m: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(4, m))
    return X, (X[0] > 0) + 1 * (X[1] > 0)


# -- names -------------------------------------------------------------------


def test_a_device_is_found_by_its_name(cupy: Any) -> None:
    for name in ("cuda", "cuda:0", "auto"):
        model = MLP((4, 3), device=name)
        assert isinstance(model.parameters["W1"], cupy.ndarray)
    assert [status.name for status in devices()][:2] == ["cpu", "cuda:0"]
    assert all(status.available for status in devices())
    assert "GiB" in devices()[1].detail


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", ""])
def test_an_unknown_name_lists_the_valid_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected 'cpu', 'cuda', 'cuda:0', 'cuda:1' … or 'auto'"):
        find_device(name)


def test_a_number_too_high_says_how_many_there_are(cupy: Any) -> None:
    with pytest.raises(DeviceUnavailable, match=r"'cuda:99', but there (is|are) \d"):
        find_device("cuda:99")


# -- why it cannot run -------------------------------------------------------


def without_cupy(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    """`import cupy` raises."""
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "cupy":
            raise error
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (0, r"CuPy is not installed, and no NVIDIA driver was found.*cupy-cuda12x"),
        (11_080, r"supports CUDA 11\.8, but CuPy needs 12\.0.*update the driver"),
        (12_040, r"takes CUDA 12\.4: pip install 'mlp_xp\[cuda\]', which brings cupy-cuda12x"),
        (13_000, r"takes CUDA 13\.0: pip install 'mlp_xp\[cuda13\]', which brings cupy-cuda13x"),
    ],
)
def test_without_cupy_the_wheel_to_install_is_named(
    driver: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cupy(monkeypatch, ModuleNotFoundError("No module named 'cupy'", name="cupy"))
    monkeypatch.setattr(row, "driver_version", lambda: driver)
    with pytest.raises(DeviceUnavailable, match=expected):
        MLP((4, 3), device="cuda")
    assert find_device("auto").name == "cpu"
    status = devices()[1]
    assert (status.name, status.available) == ("cuda", False)
    assert "CuPy is not installed" in status.detail


def test_a_cupy_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    without_cupy(monkeypatch, ImportError("libcublas.so.12: cannot open shared object file"))
    with pytest.raises(DeviceUnavailable, match=r"cannot be imported: libcublas.*one CuPy wheel"):
        find_device("cuda")


@pytest.mark.parametrize(
    ("status", "driver", "expected"),
    [
        (35, 0, "no NVIDIA driver was found"),
        (35, 11_080, r"supports CUDA 11\.8, but CuPy needs 12\.0"),
        (35, 12_080, r"supports CUDA 12\.8.*its wheel no more than the driver.*cupy-cuda12x"),
        (100, 12_080, "finds no device.*CUDA_VISIBLE_DEVICES"),
        (None, 12_080, "finds no device.*nvidia-smi"),
        (999, 12_080, "CUDA does not start"),
    ],
)
def test_each_reason_has_its_message(
    cupy: Any,
    status: int | None,
    driver: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def count() -> int:
        if status is None:
            return 0
        raise cupy.cuda.runtime.CUDARuntimeError(status)

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", count)
    monkeypatch.setattr(row, "driver_version", lambda: driver)
    with pytest.raises(DeviceUnavailable, match=expected):
        find_device("cuda")
    assert find_device("auto").name == "cpu"


def test_an_allocation_that_fails_says_what_was_asked_and_what_is_free(
    cupy: Any, limited: Any
) -> None:
    limited(1 << 20)
    with pytest.raises(MemoryError) as caught:
        MLP((1000, 1000, 3), device="cuda")
    assert "is out of memory: 3.8 MiB were asked for" in str(caught.value)
    assert "are free" in str(caught.value)
    assert "smaller batch_size" in str(caught.value)


@pytest.fixture
def limited(cupy: Any) -> Any:
    """Sets after how many more bytes an allocation fails, once."""
    pool, left = cupy.get_default_memory_pool(), [1 << 40]

    def allocate(size: int) -> Any:
        left[0] -= size
        if left[0] < 0:
            left[0] = 1 << 40
            raise cupy.cuda.memory.OutOfMemoryError(size, pool.total_bytes())
        return pool.malloc(size)

    def limit(more: int) -> None:
        left[0] = more

    cupy.cuda.set_allocator(allocate)
    yield limit
    cupy.cuda.set_allocator(pool.malloc)


def test_an_allocation_that_fails_in_training_leaves_the_last_step(cupy: Any, limited: Any) -> None:
    X, y = problem()
    fit: dict[str, Any] = {"batch_size": 16, "progress": False}
    model = MLP((4, 64, 3), device=find_device("cuda", graph=False))

    def tighten(model: MLP, epoch: Any) -> None:
        if epoch.epoch == 2:
            limited(0)

    with pytest.raises(MemoryError, match="keeps the weights of its last whole step"):
        model.fit(X, y, epochs=5, callbacks=[tighten], **fit)
    straight = MLP((4, 64, 3), device="cuda").fit(X, y, epochs=2, **fit)
    assert model.epochs_trained == 2
    np.testing.assert_array_equal(model.parameters["W1"].get(), straight.parameters["W1"].get())
    model.fit(X, y, epochs=1, **fit)  # and goes on
    straight.fit(X, y, epochs=1, **fit)
    np.testing.assert_array_equal(model.parameters["W1"].get(), straight.parameters["W1"].get())


def test_a_command_that_runs_out_of_memory_saves_the_last_step(
    cupy: Any, limited: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from mlp_xp.cli import main
    from mlp_xp.commands import train

    def reporter(model: MLP, epochs: int) -> Any:
        return lambda model, epoch: limited(0) if epoch.epoch == 2 else None

    monkeypatch.setattr(train, "_reporter", reporter)
    out = tmp_path / "model.safetensors"
    args = ["--device", "cuda", "--hidden", "64", "--epochs", "5", "--out", str(out)]
    assert main(["train", *args]) == 1
    assert "out of memory" in capsys.readouterr().err
    assert MLP.load(out).epochs_trained == 2


# -- arrays ------------------------------------------------------------------


def test_arrays_of_both_libraries_may_be_mixed_at_the_border(cupy: Any) -> None:
    X, y = problem()
    found = [
        MLP((4, 8, 3), device="cuda").fit(A, b, epochs=2, progress=False).history["loss"]
        for A, b in ((X, y), (cupy.asarray(X), y), (X, cupy.asarray(y)))
    ]
    assert found[0] == found[1] == found[2]
    with pytest.raises(TypeError, match=r"X is a cupy.*another device than the model's, 'cpu'"):
        MLP((4, 8, 3)).fit(cupy.asarray(X), y, epochs=1, progress=False)


def test_arrays_on_the_device_are_used_where_they_lie(cupy: Any) -> None:
    X, y = problem()
    rows = cupy.asarray(np.ascontiguousarray(X.T, "float32"))
    model = MLP((4, 8, 3), device="cuda")
    from mlp_xp import checks

    data = checks.data(
        rows.T, cupy.asarray(y), None, (4, 8, 3), "multiclass", model.device, "float32"
    )
    assert data.rows.data.ptr == rows.data.ptr
    assert isinstance(model.predict(rows.T), cupy.ndarray)


def test_labels_out_of_range_are_refused_before_they_could_wrap(cupy: Any) -> None:
    X, y = problem()
    for wrong in (-1, 3):
        y[5] = wrong
        with pytest.raises(ValueError, match="holds labels from"):
            MLP((4, 8, 3), device="cuda").fit(cupy.asarray(X), cupy.asarray(y), progress=False)


def test_wide_data_train_a_float32_model_as_narrow_ones_do(cupy: Any) -> None:
    X, y = problem()
    narrow = X.astype("float32")
    losses = [
        MLP((4, 8, 3), device="cuda").fit(cupy.asarray(A), y, epochs=2, progress=False).history
        for A in (narrow, narrow.astype("float64"))
    ]
    assert losses[0]["loss"] == losses[1]["loss"]


def test_the_callers_stream_is_followed(cupy: Any) -> None:
    X, y = problem()
    expected = MLP((4, 8, 3), device="cuda").fit(X, y, epochs=2, progress=False)
    model = MLP((4, 8, 3), device="cuda")
    with cupy.cuda.Stream(non_blocking=True):
        model.fit(X, y, epochs=1, progress=False)
    cupy.cuda.Device().synchronize()
    model.fit(X, y, epochs=1, progress=False)
    assert model.history["loss"] == expected.history["loss"]


TWO_DEVICES = """
import cupy, numpy as np
from mlp_xp import MLP, devices
from mlp_xp.devices import device
assert [status.name for status in devices()] == ["cpu", "cuda:0", "cuda:1"]
X = np.random.default_rng(0).normal(size=(4, 60))
y = (X[0] > 0) + 1 * (X[1] > 0)
fit = dict(epochs=2, batch_size=16, progress=False, validation_data=(X, y), early_stopping=5)
settings = dict(dropout=0.2, normalization="batch")
first = MLP((4, 8, 3), device="cuda", **settings).fit(X, y, **fit)
second = MLP((4, 8, 3), device="cuda:1", **settings).fit(X, y, **fit)
assert cupy.cuda.runtime.getDevice() == 0
assert second.parameters["W1"].device.id == second.predict(X).device.id == 1
assert first.history["loss"] == second.history["loss"]
assert first.evaluate(X, y) == second.evaluate(X, y)
try:
    second.fit(cupy.asarray(X), y, **fit)
except TypeError as error:
    assert "lies on cuda:0" in str(error) and "X is a" in str(error), error
else:
    raise AssertionError("arrays of two devices were mixed")
with cupy.cuda.Device(1):
    assert device("cuda").put(np.ones(3)).device.id == 1
    second.fit(cupy.asarray(X), cupy.asarray(y), **fit)
"""


def test_two_devices_keep_apart(counting: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TWO_DEVICES],
        env={**os.environ, "CUPYCPU_DEVICE_COUNT": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_command_line_trains_on_the_device(cupy: Any, tmp_path: Any, capsys: Any) -> None:
    import json

    from mlp_xp.cli import main

    out = str(tmp_path / "model.safetensors")
    short = ["--hidden", "64", "--epochs", "15", "--no-progress", "--json"]
    assert main(["train", "--device", "cuda", "--out", out, *short]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["held_out"]["accuracy"] >= 0.97
    assert main(["evaluate", out, "digits", "--held-out", "--json"]) == 0  # on the CPU
    again = json.loads(capsys.readouterr().out)
    assert again["accuracy"] == pytest.approx(found["held_out"]["accuracy"], abs=0.003)
    assert main(["train", "--device", "cuda:99"]) == 2
    assert main(["devices", "--json"]) == 0
    assert "cuda:0" in capsys.readouterr().out
