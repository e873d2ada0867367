"""Kernels that come compiled with the package: found, trusted, and done without."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_native import DAMAGES, train_anew

import mlp_xp
from mlp_xp import ACTIVATIONS, LOSSES, MLP, OPTIMIZERS, Activation, packing
from mlp_xp.fast import c_source, calls, native, packed

pytestmark = pytest.mark.skipif(
    packed.level() is None or not native.available(), reason="no compiler, or no level is known"
)
SIZES, M = (4, 5, 3), 9  # what `train_anew` trains


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kernels of `train_anew`, which is a small part of what is common."""
    one = packing.recipe("float32", SIZES, LOSSES["cross_entropy"])
    plans = [packing.step(one, M), *packing.predictions(one, 1)]
    folder = tmp_path_factory.mktemp("pack")
    packing.build(folder, {"float32": sorted(set().union(*(plan.texts() for plan in plans)))})
    return folder


def using(folder: Path) -> str:
    """The beginning of a program whose package came with what lies in the folder."""
    return f"from mlp_xp.fast import packed\npacked.FOLDER = packed.Path({str(folder)!r})\n"


def test_there_is_a_library_for_every_level(pack: Path) -> None:
    assert {path.name.split("-")[1] for path in pack.iterdir()} == set(
        packed.LEVELS[platform.machine()]
    )
    assert packed.level() in packed.LEVELS[platform.machine()]


def test_what_is_packed_asks_for_no_compiler(pack: Path, tmp_path: Path) -> None:
    """A compiler that fails would be warned of, and nothing is put into the cache."""
    status, warned = train_anew(tmp_path, using(pack), CC="/bin/false", MLP_XP_NATIVE="1")
    assert status.startswith(f"steps compiled with the package for {packed.level()}, others by ")
    assert not warned
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_what_is_packed_is_used_all_the_same(pack: Path, tmp_path: Path) -> None:
    status, warned = train_anew(tmp_path, using(pack), CC="no-such-compiler", MLP_XP_NATIVE="1")
    assert status.startswith("steps compiled with the package for ")
    assert "others not: no C compiler" in status
    assert not warned


def test_a_damaged_library_is_one_line_and_compiled_again(pack: Path, tmp_path: Path) -> None:
    for path in pack.iterdir():
        (tmp_path / path.name).write_bytes(DAMAGES["one bit"](path.read_bytes()))
    status, warned = train_anew(tmp_path / "cache", using(tmp_path), MLP_XP_NATIVE="1")
    assert status.startswith("steps compiled by ")
    assert len(warned) == 1
    assert "RuntimeWarning: Kernels that came with the package are compiled again: " in warned[0]
    assert "install mlp_xp again" in warned[0]


def test_a_library_that_no_system_loads_is_one_line(tmp_path: Path) -> None:
    """As one that was built for a newer system: whole, but of no use."""
    path = packed.path(tmp_path, str(packed.level()), b"no library")
    path.write_bytes(b"no library")
    status, warned = train_anew(tmp_path / "cache", using(tmp_path), MLP_XP_NATIVE="1")
    assert status.startswith("steps compiled by ")
    assert len(warned) == 1


@pytest.mark.parametrize("how", ["absent", "not wanted"])
def test_without_a_pack_everything_is_compiled(pack: Path, tmp_path: Path, how: str) -> None:
    place, wanted = (tmp_path, "1") if how == "absent" else (pack, "compile")
    status, warned = train_anew(tmp_path / "cache", using(place), MLP_XP_NATIVE=wanted)
    assert status.startswith("steps compiled by ")
    assert not warned


OWN = """
import mlp_xp, numpy as np
mlp_xp.MLP((4, 5, 3), activation={activation}).fit(
    np.eye(4, 9), np.arange(9) % 3, epochs=1, progress=False
)
"""
OUTSIDE = {"another row": "'tanh'", "own formula": "(lambda xp, Z: Z * Z, lambda xp, Z: 2 * Z)"}


@pytest.mark.parametrize("activation", OUTSIDE)
def test_what_is_not_packed_is_compiled_where_it_is_needed(
    pack: Path, tmp_path: Path, activation: str
) -> None:
    code = using(pack) + OWN.format(activation=OUTSIDE[activation])
    status, warned = train_anew(tmp_path, code, MLP_XP_NATIVE="1")
    assert status.startswith("steps compiled with the package for ")
    assert not warned
    assert len(list(tmp_path.rglob("*.so"))) == 1  # of the new kernels alone
    status, warned = train_anew(tmp_path / "other", code, MLP_XP_NATIVE="1", CC="no-such-compiler")
    assert not warned  # there it is NumPy's calls, and not to be warned of


def test_packed_kernels_and_those_compiled_here_give_the_same_bits(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = np.random.default_rng(0).standard_normal((SIZES[0], M)), np.arange(M) % SIZES[-1]

    def trained() -> Any:
        monkeypatch.setattr(calls, "_known", {})
        return MLP(SIZES).fit(X, y, epochs=5, batch_size=M, progress=False)._run.state.theta

    here = trained()
    monkeypatch.setattr(packed, "FOLDER", pack)
    library = packed.library.__wrapped__()
    assert library is not None
    monkeypatch.setattr(native, "_brought", lambda: library)
    monkeypatch.setattr(native, "library", lambda source: pytest.fail("compiled all the same"))
    np.testing.assert_array_equal(trained(), here)


# -- what is common ----------------------------------------------------------------


def scikit_learns(estimator: str, n: int, m: int = 120, **parameters: Any) -> Callable[[str], Any]:
    def train(dtype: str) -> None:
        rng = np.random.default_rng(0)
        X = rng.standard_normal((m, 30)).astype(dtype)
        y = rng.standard_normal((m, n)) if n < 2 else np.arange(m) % n
        made = getattr(mlp_xp, estimator)(max_iter=1, **parameters).fit(X, np.squeeze(y))
        made.predict(X)
        getattr(made, "predict_proba", made.predict)(X[:1])

    return train


def commands(dtype: str) -> None:
    """As `mlp-xp train` has it."""
    X = np.random.default_rng(0).standard_normal((30, 128))
    options = {"normalization": "batch", "dropout": 0.3, "label_smoothing": 0.1, "dtype": dtype}
    model = MLP((30, 256, 128, 10), **options)
    model.fit(X, np.arange(128) % 10, epochs=1, batch_size=64, progress=False)
    model.evaluate(X, np.arange(128) % 10)
    model.predictor(1)(np.ones((30, 1), dtype))


COMMON = {
    **{
        f"{name}, {solver}": scikit_learns(estimator, n, solver=solver)
        for name, estimator, n in (
            ("classes", "MLPClassifier", 3),
            ("two classes", "MLPClassifier", 2),
            ("numbers", "MLPRegressor", 1),
        )
        for solver in ("adam", "sgd", "lbfgs")
    },
    "many examples": scikit_learns("MLPClassifier", 10, 1800, solver="lbfgs"),
    "large batches": scikit_learns("MLPClassifier", 10, 1800, batch_size=1000),
    "early stopping": scikit_learns("MLPClassifier", 3, early_stopping=True),
    "three layers": scikit_learns("MLPClassifier", 3, hidden_layer_sizes=(256, 128, 32)),
    "tanh": scikit_learns("MLPRegressor", 1, activation="tanh", hidden_layer_sizes=(32, 32)),
    "mlp-xp train": commands,
}


@pytest.fixture(scope="module")
def common() -> dict[str, set[str]]:
    return {dtype: set(packing.texts(dtype)) for dtype in packing.DTYPES}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", packing.DTYPES)
def test_what_is_common_is_packed(
    common: dict[str, set[str]], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, asked = calls._compiled, dict[tuple[str, str], str]()
    what = ""

    def noted(name: str, bodies: Any) -> Any:
        asked.update({(name, body): what for body in bodies})
        return compiled(name, bodies)

    monkeypatch.setattr(calls, "_compiled", noted)
    for what, train in COMMON.items():  # noqa: B007 (`noted` reads it)
        train(dtype)
    assert len(asked) > 20
    assert {what for (name, body), what in asked.items() if body not in common[name]} == set()


@pytest.mark.parametrize("n_hidden", [0, 1, 2, 5])
def test_every_row_is_packed_whatever_the_depth(common: dict[str, set[str]], n_hidden: int) -> None:
    sizes = (*(50, 45, 40, 35, 30, 25)[: n_hidden + 1], 7)
    loss = LOSSES["cross_entropy"]
    varied = [{"activation": row} for row in ACTIVATIONS.values()]
    varied += [{"optimizer": row()} for row in OPTIMIZERS.values()]
    for options in varied:
        one = packing.recipe("float32", sizes, loss, **options)
        assert packing.step(one, 64).texts() <= common["float32"], options


def test_a_formula_of_ones_own_is_not(common: dict[str, set[str]]) -> None:
    row = Activation(f=lambda xp, Z: Z * Z * Z, slope=lambda xp, Z: 3 * Z * Z, slope_of="Z")
    one = packing.recipe("float32", SIZES, LOSSES["cross_entropy"], activation=row)
    assert packing.step(one, M).texts() - common["float32"]


def test_a_kernel_is_called_by_all_that_decides_what_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = c_source.kernel_name("float32", "return;")
    assert name != c_source.kernel_name("float64", "return;")
    assert name != c_source.kernel_name("float32", "return ;")
    monkeypatch.setattr(c_source, "PRELUDE", f"{c_source.PRELUDE}\n")
    assert name != c_source.kernel_name("float32", "return;")


@pytest.mark.parametrize(
    ("machine", "features", "level", "flag"),
    [
        ("x86_64", "avx2 fma bmi2 avx512f avx512bw avx512dq avx512vl", "avx512", "-mavx512f"),
        ("x86_64", "avx2 fma bmi2 avx512f", "avx2", "-mavx2"),
        ("x86_64", "avx2", None, "-march=native"),
        ("aarch64", "fp asimd", "neon", None),
        ("riscv64", "", None, "-march=native"),
    ],
)
def test_the_widest_level_is_taken_that_the_processor_has(
    machine: str, features: str, level: str | None, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(packed, "features", lambda: features)
    assert packed.level.__wrapped__() == level
    assert next(iter(packed.flags(level)), None) in (flag, "-mavx2")
    assert flag is None or flag in packed.flags(level)
