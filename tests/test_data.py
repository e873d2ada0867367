"""Files come in as they were written, or an error names the file and the place."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlp_xp.cli import main
from mlp_xp.data import BUILT_IN, DEBIAN, VARIABLE, DataError, Dataset, Request, load
from mlp_xp.devices import device
from mlp_xp.preparation import (
    SCALES,
    default_loss,
    n_outputs,
    prepare,
    split,
)
from mlp_xp.prepared import Preparation

ANYTHING = Request(labelled=False)
IDX = {np.dtype(np.uint8): 8, np.dtype(np.int8): 9, np.dtype(">i2"): 11, np.dtype(">i4"): 12}


def idx_bytes(values: np.ndarray) -> bytes:
    """An IDX file, as MNIST's page describes it."""
    axes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    return bytes([0, 0, IDX[values.dtype], values.ndim]) + axes + values.tobytes()


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


# -- what comes with the package -----------------------------------------------------


def test_the_digits_are_the_uci_test_set() -> None:
    reference = pytest.importorskip("sklearn.datasets").load_digits()
    digits = load("digits")
    assert digits.y is not None
    assert np.array_equal(digits.X, reference.data)
    assert np.array_equal(digits.X.reshape(-1, *digits.shape)[:, 0], reference.images)
    assert np.array_equal(digits.y, reference.target)
    assert (digits.X.dtype, digits.X.min(), digits.X.max()) == (np.uint8, 0, 16)


def test_source_and_licence_of_the_digits_are_beside_them() -> None:
    from importlib.resources import files

    text = (files("mlp_xp") / "datasets" / "digits.txt").read_text(encoding="utf-8")
    for part in ("Alpaydin", "Kaynak", "10.24432/C50P49", "CC BY 4.0", "Changes"):
        assert part in text


def make_fashion(folder: Path, pack: Callable[[bytes], bytes] = gzip.compress) -> None:
    suffix = ".gz" if pack is gzip.compress else ""
    folder.mkdir(parents=True)
    for part, m in (("train", 6), ("t10k", 3)):
        images = np.arange(m * 4, dtype=np.uint8).reshape(m, 2, 2)
        labels = np.arange(m, dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx_bytes(images)))
        (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx_bytes(labels)))


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzipped", "plain"])
@pytest.mark.parametrize("inner", ["", "fashion-mnist"])
@pytest.mark.parametrize("how", ["--data-dir", VARIABLE])
def test_fashion_mnist_is_found_where_a_user_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Any, inner: str, how: str
) -> None:
    make_fashion(tmp_path / "sets" / inner, pack)
    folder = str(tmp_path / "sets")
    monkeypatch.setenv(VARIABLE, folder if how == VARIABLE else str(tmp_path / "other"))
    found = load("fashion-mnist", Request(folder=None if how == VARIABLE else folder))
    assert found.name == "fashion-mnist"
    assert found.X_test is not None
    assert found.y_test is not None
    assert (found.X.shape, found.X_test.shape) == ((6, 4), (3, 4))
    assert found.shape == (1, 2, 2)
    assert found.y_test.tolist() == [0, 1, 2]


def test_debians_package_holds_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path(DEBIAN).is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.delenv(VARIABLE, raising=False)
    found = load("fashion-mnist")
    assert found.X_test is not None
    assert (found.X.shape, found.X_test.shape) == ((60_000, 784), (10_000, 784))
    assert np.array_equal(np.bincount(found.y), [6000] * 10)


def test_a_missing_fashion_mnist_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load("fashion-mnist", Request(folder=str(tmp_path)))
    for part in (str(tmp_path), "dataset-fashion-mnist", "--data-dir", VARIABLE, "https://"):
        assert part in str(error.value)


# -- round trips ---------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(data=st.data(), dtype=st.sampled_from(list(IDX)), packed=st.booleans())
def test_idx_arrays_come_back(
    tmp_path_factory: pytest.TempPathFactory, data: Any, dtype: np.dtype, packed: bool
) -> None:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)))
    images = data.draw(arrays.arrays(dtype, shape))
    folder, pack = tmp_path_factory.mktemp("idx"), gzip.compress if packed else bytes
    source = write(folder / "some-images-idx3-ubyte", pack(idx_bytes(images)))
    labels = np.arange(len(images), dtype=np.uint8)
    write(folder / "some-labels-idx1-ubyte", pack(idx_bytes(labels)))
    found = load(source)
    assert np.array_equal(found.X, images.reshape(len(images), -1))
    assert found.shape == (1, *images.shape[1:])
    assert np.array_equal(found.y, labels)
    assert found.X.dtype.isnative


@pytest.mark.parametrize(
    "names", [("X", "y"), ("x", "Y"), ("x_train", "y_train"), ("data", "target")]
)
def test_npz_arrays_go_by_their_usual_names(tmp_path: Path, names: tuple[str, str]) -> None:
    X, y = np.arange(24.0).reshape(3, 2, 4), np.array([[5], [7], [5]])
    np.savez_compressed(tmp_path / "d.npz", **{names[0]: X, names[1]: y})
    found = load(str(tmp_path / "d.npz"))
    assert np.array_equal(found.X, X.reshape(3, 8))
    assert np.array_equal(found.y, [5, 7, 5])


def test_npz_may_bring_its_own_test_set(tmp_path: Path) -> None:
    X, y = np.ones((3, 2)), np.arange(3)
    np.savez(tmp_path / "d.npz", x_train=X, y_train=y, x_test=2 * X, y_test=y + 1)
    found = load(str(tmp_path / "d.npz"))
    assert np.array_equal(found.X_test, 2 * X)
    assert np.array_equal(found.y_test, y + 1)


def test_npy_takes_a_second_file_of_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.eye(3))
    np.save(tmp_path / "y.npy", np.arange(3))
    found = load(str(tmp_path / "X.npy"), Request(labels=str(tmp_path / "y.npy")))
    assert np.array_equal(found.X, np.eye(3))
    assert np.array_equal(found.y, np.arange(3))
    assert load(str(tmp_path / "X.npy"), ANYTHING).y is None


def test_labels_of_arrays_may_be_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    X, y = np.arange(40.0).reshape(20, 2) % 7, np.array(["no", "yes"] * 10)
    np.savez("d.npz", X=X, y=y)
    np.save("X.npy", X)
    np.save("y.npy", y)
    for data in (("d.npz",), ("X.npy", "--labels", "y.npy")):
        assert main(["train", "--data", *data, "--epochs", "1", "--no-progress"]) == 0
        assert main(["evaluate", "model.safetensors", *data]) == 0
        capsys.readouterr()
        assert main(["predict", "model.safetensors", *data]) == 0
        assert set(capsys.readouterr().out.split()) <= {"prediction", "no", "yes"}
    np.savez("d.npz", X=X[:-1], y=y)
    with pytest.raises(DataError, match=r"y has shape \(20,\), but X has 19"):
        load("d.npz")


# -- errors --------------------------------------------------------------------------


def npy_bytes(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=True)
    return content.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


IMAGES = idx_bytes(np.zeros((2, 3, 3), np.uint8))
FILE_ERRORS: dict[str, tuple[str, bytes, str]] = {
    "objects": ("X.npy", npy_bytes(np.array([{}, None])), "Python objects.*could run code"),
    "pickle": ("X.npy", pickle.dumps([1, 2]), "Python objects.*could run code"),
    "table as npy": ("X.npy", b"a,y\n1,2\n", r"is no \.npy file: it begins with b'a,y"),
    "cut npy": ("X.npy", npy_bytes(np.eye(3))[:-5], "no whole NumPy file"),
    "text npy": ("X.npy", npy_bytes(np.array([["a", "b"]])), "dtype <U1, but expected numbers"),
    "flat": ("X.npy", npy_bytes(np.arange(3)), r"X has shape \(3,\), but expected \(n_examples"),
    "no rows": ("X.npy", npy_bytes(np.zeros((0, 3))), r"X has shape \(0, 3\).*not empty"),
    "nan": ("X.npy", npy_bytes(np.array([[1, 2], [3, np.nan]])), r"holds nan at \[1, 1\]"),
    "bad npz": ("d.npz", b"PK\x03\x04 but no more", "no whole NumPy file"),
    "npz as npy": ("d.npz", npy_bytes(np.eye(2)), "rename it"),
    "magic": ("a-idx3-ubyte", b"\x89PNG....", "no IDX file: it begins with 89 50 4e 47"),
    "cut idx": ("a-idx3-ubyte", IMAGES[:-1], r"array \(2, 3, 3\), 34 bytes in all, but it has 33"),
    "cut axes": ("a-idx3-ubyte", IMAGES[:9], "truncated or damaged"),
    "long idx": ("a-idx3-ubyte", IMAGES + b"0", "but it has 35"),
    "cut gzip": ("a-idx3-ubyte.gz", gzip.compress(IMAGES)[:-9], "cannot be unpacked"),
    "no labels": ("a-images-idx3-ubyte", IMAGES, "no targets beside its examples.*--labels"),
    "no labels in npz": ("d.npz", npz_bytes(X=np.eye(2)), "examples: store them in it as y"),
    "no kind": ("data.xlsx", b"..", "of no known kind"),
    "streamed": ("data.h5", b"..", r"block by block: give --memory.*stream\(…\) in Python"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILE_ERRORS)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, case: str) -> None:
    name, content, message = FILE_ERRORS[case]
    source = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as error:
        load(source)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("what", "local", "central"), [("an unknown method", 8, 10), ("flags", 6, 8)]
)
def test_npz_that_cannot_be_unpacked_says_so(
    what: str, local: int, central: int, tmp_path: Path
) -> None:
    """Whatever its headers ask for: a value of that field, and no other error."""
    path, refused = tmp_path / "d.npz", list[str]()
    np.savez(path, X=np.eye(5), y=np.arange(5))
    whole = path.read_bytes()
    for value in range(256):
        content = bytearray(whole)
        for mark, place in ((b"PK\3\4", local), (b"PK\1\2", central)):
            at = content.find(mark)
            while at >= 0:
                content[at + place] = value
                at = content.find(mark, at + 4)
        path.write_bytes(content)
        try:
            load(str(path))
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(path) in message for message in refused)


def test_npz_without_known_arrays_lists_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", weights=np.eye(2))
    with pytest.raises(DataError, match="holds the arrays 'weights', but expected X and y"):
        load(str(tmp_path / "d.npz"))


def test_targets_that_do_not_fit_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", X=np.eye(3), y=np.arange(4))
    with pytest.raises(DataError, match=r"y has shape \(4,\), but X has 3 examples"):
        load(str(tmp_path / "d.npz"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"digit does not exist.*Did you mean 'digits'"):
        load("digit")
    with pytest.raises(DataError, match="is not a file"):
        load(str(tmp_path))
    np.save(tmp_path / "X.npy", np.eye(3))
    with pytest.raises(DataError, match=r"labels gone\.npy does not exist"):
        load(str(tmp_path / "X.npy"), Request(labels="gone.npy"))


# -- preparation ---------------------------------------------------------------------


def everything(X: Any, y: Any, loss: str, scale: str = "auto") -> Preparation:
    data = Dataset("d", np.asarray(X), np.asarray(y))
    return prepare(data, np.arange(len(data.X)), loss, scale, scale_target=True)


def scaled(found: Preparation, X: Any) -> Any:
    return found.inputs.apply(X.T, device("cpu"))


@pytest.mark.parametrize("scale", SCALES)
def test_scaling_survives_json(scale: str) -> None:
    X, y = np.array([[1.0, 5], [2, 5], [4, 5]]), np.array([3, 1, 3])
    first = everything(X, y, "cross_entropy", scale)
    again = Preparation.from_json(first.to_json())
    assert again == first
    assert np.isfinite(scaled(first, X)).all()
    assert np.array_equal(scaled(again, X), scaled(first, X))


def test_standard_minmax_and_image_scales_are_what_they_say() -> None:
    X, y = np.array([[1.0, 5], [2, 5], [6, 5]]), np.array([0, 1, 1])
    standard = scaled(everything(X, y, "cross_entropy", "standard"), X)
    assert np.allclose(standard.mean(axis=1), 0)
    assert np.allclose(standard.std(axis=1), [1, 0])
    minmax = scaled(everything(X, y, "cross_entropy", "minmax"), X)
    assert np.allclose(minmax, [[0, 0.2, 1], [0, 0, 0]])
    assert np.array_equal(scaled(everything(X, y, "cross_entropy", "none"), X), X.T)
    pixels = np.array([[0, 255], [51, 0]], np.uint8)
    image = scaled(everything(pixels, y[:2], "cross_entropy"), pixels)
    assert np.allclose(image, [[0, 0.2], [1, 0]])


def test_scales_are_found_on_the_training_examples_alone() -> None:
    data = Dataset("d", np.array([[0.0], [2.0], [100.0]]), np.array([1.0, 3.0, 99.0]))
    found = prepare(data, np.array([0, 1]), "squared_error", "standard", scale_target=True)
    assert found.inputs == ([1.0], [1.0])
    assert found.outputs == (2.0, 1.0)


def test_any_whole_numbers_are_labels() -> None:
    y = np.array([7.0, 5.0, -2.0, 7.0])
    found = everything(np.eye(4), y, "cross_entropy")
    assert found.classes == (-2, 5, 7)
    numbers = found.numbers("Y", y)
    assert numbers.tolist() == [2, 1, 0, 2]
    assert found.named(numbers, device("cpu")).tolist() == y.tolist()
    with pytest.raises(ValueError, match="the label 6, but the model knows the classes -2, 5, 7"):
        found.numbers("Y", np.array([5, 6]))


def test_numbers_come_back_in_their_own_units() -> None:
    y = np.array([[100.0, 3], [300, 3], [200, 3]])
    found = everything(np.eye(3), y, "squared_error")
    targets = found.outputs.apply(y.T, device("cpu"))
    assert np.allclose(targets.std(axis=1), [1, 0])
    assert np.allclose(found.outputs.undo(targets, device("cpu")), y.T)


@pytest.mark.parametrize(
    ("y", "loss"),
    [
        ([1, 2, 3] * 5, "cross_entropy"),
        ([0.0, 1.0] * 9, "cross_entropy"),
        (["7", "8", "9", "10+"] * 9, "cross_entropy"),
        ([*map(str, range(12)), "10+"] * 9, "cross_entropy"),
        ([0, 1], "cross_entropy"),
        ([0.5, 1.0] * 9, "squared_error"),
        (range(60), "squared_error"),
        ([*range(47)] * 3, "cross_entropy"),
        ([*range(1, 27)] * 3, "cross_entropy"),
        ([*range(9), *range(10, 25)] * 3, "cross_entropy"),  # letters of signs, but for J and Z
        ([3.0, 5.0, 8.0, 2000.0] * 3, "cross_entropy"),
        ([*range(20, 61)] * 3, "squared_error"),  # ages
        ([*range(12), 14, 17, 21, 40] * 3, "squared_error"),  # counts
        ([*range(1970, 1990)] * 3, "squared_error"),
        ([[1, 0], [0, 1]], "cross_entropy"),
        ([[1, 1], [0, 1]], "multilabel"),
        ([[1, 2], [0, 1]], "squared_error"),
    ],
)
def test_the_loss_goes_by_the_target(y: Any, loss: str) -> None:
    assert default_loss(np.array(y)) == loss


def test_the_number_of_outputs_goes_by_target_and_loss() -> None:
    X, y = np.eye(4), np.array([4, 9, 4, 9])
    assert n_outputs(everything(X, y, "cross_entropy"), y.shape) == 2
    assert n_outputs(everything(X, y, "binary_cross_entropy"), y.shape) == 1
    assert n_outputs(everything(X, y, "poisson"), y.shape) == 1
    both = np.stack([y, y], axis=1)
    assert n_outputs(everything(X, both, "squared_error"), both.shape) == 2


def test_labels_that_do_not_suit_the_loss_are_refused() -> None:
    with pytest.raises(DataError, match=r"label is 0\.5.*whole numbers.*squared_error"):
        everything(np.eye(2), [0.5, 1], "cross_entropy")
    with pytest.raises(DataError, match=r"3 classes.*takes two.*cross_entropy"):
        everything(np.eye(3), [0, 1, 2], "binary_cross_entropy")


@given(m=st.integers(1, 200), share=st.floats(0, 0.99), seed=st.integers(0, 2**32))
def test_a_split_holds_every_example_once(m: int, share: float, seed: int) -> None:
    kept, held = split(m, share, seed)
    assert sorted([*kept, *held]) == list(range(m))
    assert len(kept) >= 1
    assert len(held) >= (share > 0 and m > 1)
    assert (share > 0) or not len(held)


def test_every_built_in_name_is_a_source() -> None:
    assert set(BUILT_IN) == {"digits", "fashion-mnist"}
