"""The runtime's own products: `fast/multiply.c`."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mlp_xp.fast import blas, c_source, calls, native, packed

pytestmark = pytest.mark.skipif(not native.available(), reason="there is no C compiler")
DTYPES = ("float32", "float64")
TURNED = [(False, False), (False, True), (True, False), (True, True)]
ROUNDED = 8  # units in the last place of Σ |a| |b| by which a sum may be off


def levels() -> list[str]:
    """Kinds of processors with such products that this one can do the work of."""
    there = set(packed.features().split())
    known = packed.LEVELS.get(packed.platform.machine(), {})
    return [name for name, needed in known.items() if "avx2" in needed and there.issuperset(needed)]


@pytest.fixture(scope="module", params=levels())
def kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, int]:
    """Where the kernel of each dtype begins, as it is compiled for a kind of processor."""
    folder, found = tmp_path_factory.mktemp("products"), {}
    for dtype in DTYPES:
        source, name = c_source.multiply(dtype)
        text, made = folder / f"{dtype}.c", folder / f"{dtype}.so"
        text.write_text(source, encoding="utf-8")
        flags = (*packed.flags(request.param), *native.FLAGS, "-shared")
        native.run([*native.compiler(), *flags, str(text), "-o", str(made)], folder / dtype, 120)
        found[dtype] = native.entry(ctypes.CDLL(str(made)), name)
    return found


def matrix(rng: np.random.Generator, rows: int, columns: int, dtype: str, turned: bool) -> Any:
    """Numbers that lie by rows or by columns, with a gap after each."""
    gap = int(rng.integers(0, 9))
    if turned:
        return matrix(rng, columns, rows, dtype, False).T
    return rng.normal(size=(rows, columns + gap)).astype(dtype)[:, :columns]


def multiplied(kernels: dict[str, int], A: Any, B: Any, parts: int = 1, threads: int = 1) -> Any:
    """A B, in so many parts on so many threads; what lies beside it stays."""
    (rows, inner), columns = A.shape, B.shape[1]
    room = np.full((rows + 1, columns + 3), 7, A.dtype)
    out = room[:rows, :columns]
    out.fill(np.nan)
    (ta, pa), (tb, pb) = blas.layout(A), blas.layout(B)
    words = [kernels[str(A.dtype)], parts, 0, ta, tb, rows, columns, inner]
    words += [calls.address(A), pa, calls.address(B), pb, calls.address(out), room.shape[1], 0, 0]
    table, runtime = np.array(words, np.int64), native.runtime()
    before = runtime.use_threads(threads)
    try:
        runtime.run(calls.address(table), 1)
    finally:
        runtime.use_threads(before)
    assert (room[rows:] == 7).all()
    assert (room[:, columns:] == 7).all()
    return out.copy()


def shapes(rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    for most in (8, 40, 150):
        yield from (tuple(map(int, rng.integers(1, most, 3))) for _ in range(12))
    yield from itertools.product((1, 6, 25), (1, 16, 65), (1, 513, 1100))
    yield from ((7, 600, 30), (300, 9, 20), (26, 300, 520))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", TURNED)
def test_a_product_is_right_however_it_lies_and_is_cut(
    dtype: str, turned: tuple[bool, bool], kernels: dict[str, int]
) -> None:
    rng = np.random.default_rng(0)
    for rows, columns, inner in shapes(rng):
        A = matrix(rng, rows, inner, dtype, turned[0])
        B = matrix(rng, inner, columns, dtype, turned[1])
        found = multiplied(kernels, A, B)
        wide, off = (A.astype(np.longdouble), B.astype(np.longdouble)), np.finfo(dtype).eps
        room = np.abs(wide[0]) @ np.abs(wide[1]) * off * ROUNDED
        assert (np.abs(found - wide[0] @ wide[1]) <= room).all(), (rows, columns, inner)
        for parts, threads in ((2, 2), (3, 2), (5, 3), (64, 3)):
            np.testing.assert_array_equal(multiplied(kernels, A, B, parts, threads), found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_a_page_apart_are_laid_together(dtype: str, kernels: dict[str, int]) -> None:
    rng = np.random.default_rng(1)
    A = rng.normal(size=(530, 1024)).astype(dtype)[:, :100].T
    B = rng.normal(size=(530, 70)).astype(dtype)
    near = np.ascontiguousarray(A.T).T
    assert blas.layout(near)[1] != blas.layout(A)[1]
    for parts in (1, 3):
        found = multiplied(kernels, A, B, parts, 2)
        np.testing.assert_array_equal(found, multiplied(kernels, near, B))


def walled(rng: np.random.Generator, rows: int, pitch: int, columns: int, dtype: str) -> Any:
    """A matrix right behind a page that nobody may touch, or right before one."""
    size = np.dtype(dtype).itemsize
    length = ((rows - 1) * pitch + columns) * size if rows and columns else 0
    inside = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
    room = np.frombuffer(mmap.mmap(-1, inside + 2 * mmap.PAGESIZE), np.uint8)
    for wall in (0, mmap.PAGESIZE + inside):
        place = ctypes.c_void_p(calls.address(room) + wall)
        assert ctypes.CDLL(None).mprotect(place, mmap.PAGESIZE, 0) == 0
    begin = mmap.PAGESIZE + int(rng.choice([0, inside - length]))
    found = room[begin : begin + length].view(dtype)
    found[:] = rng.normal(size=found.size)
    return np.lib.stride_tricks.as_strided(found, (rows, columns), (pitch * size, size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", TURNED)
def test_nothing_beside_a_matrix_is_read_or_written(
    dtype: str, turned: tuple[bool, bool], kernels: dict[str, int]
) -> None:
    rng = np.random.default_rng(3)
    kernel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong])
    for most in (8, 30, 30, 70, 70, 200) * 20:
        rows, columns, inner = map(int, rng.integers(0, (most, most, rng.choice([most, 1100]))))
        constant = int(rng.integers(2))
        words, arrays, kept = [0, 0, constant, *turned, rows, columns, inner], [], []
        which = np.zeros(0, np.int64)  # of B, rows that are found by their numbers
        sides = ((rows, inner), (inner, columns), (rows, columns))
        for (n, m), across in zip(sides, (*turned, False), strict=True):
            n, m = (m, n) if across else (n, m)
            pitch = m + int(rng.choice([0, 0, 1, 9, 600]))
            found = len(arrays) == 1 and n > 0 and rng.random() < 0.3
            array = walled(rng, 2 * n if found else n, pitch, m, dtype)
            words += [calls.address(array), pitch]
            kept.append(array)
            if found:
                which = rng.integers(0, 2 * n, n)
                array = array[which]
            arrays.append(array.T if across else array)
        A, B, out = arrays
        words += [0, calls.address(which) if which.size else 0]
        table, parts = np.array(words, np.int64), int(rng.choice([1, 2, 3, 7, 64]))
        for part in range(parts):
            kernel(kernels[dtype])(calls.address(table), part, parts)
        np.testing.assert_allclose(out, A.copy() @ B.copy(), rtol=1e-3, atol=1e-3)


def windows_in(X: Any, kernel: Any, stride: Any) -> tuple[Any, Any, Any]:
    """Where the rows of windows in X (channels, rows, columns, m) begin; their runs; and they."""
    channels, high, wide, m = X.shape
    (tall, broad), (down, along) = kernel, stride
    places = np.lib.stride_tricks.as_strided(
        X,
        (channels, tall, broad, (high - tall) // down + 1, (wide - broad) // along + 1, m),
        (*X.strides[:3], X.strides[1] * down, X.strides[2] * along, X.strides[3]),
    )
    entry = np.arange(X.size).reshape(X.shape)
    begins = entry[:, : high - tall + 1 : down, : wide - broad + 1 : along, 0]
    rows = np.ascontiguousarray(entry[:, :tall, :broad, 0]).reshape(-1)
    runs = begins[0, :, :1] if along == 1 else begins[0]
    width = m * (begins.shape[2] if along == 1 else 1)
    told = np.array([runs.size, width, *runs.reshape(-1)], np.int64)
    return rows, told, places.reshape(channels * tall * broad, -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", TURNED)
def test_nothing_beside_windows_is_read_or_written(
    dtype: str, turned: tuple[bool, bool], kernels: dict[str, int]
) -> None:
    rng = np.random.default_rng(5)
    kernel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong])
    for m in (1, 3, 8, 15, 16, 33, 65) * 6:
        taps, strides = rng.integers(1, 4, 2), rng.integers(1, 3, 2)
        shape = (int(rng.integers(1, 5)), *map(int, taps + rng.integers(0, 6, 2)), m)
        X = walled(rng, 1, 0, int(np.prod(shape)), dtype).reshape(shape)
        begins, runs, B = windows_in(X, taps, strides)
        B = B.T if turned[1] else B
        rows, (inner, columns) = int(rng.integers(1, 28)), B.shape
        sides = (inner, rows) if turned[0] else (rows, inner)
        A, out = (walled(rng, n, k, k, dtype) for n, k in (sides, (rows, columns)))
        words = [0, 0, 0, *turned, rows, columns, inner, calls.address(A), sides[1]]
        words += [calls.address(X), 1, calls.address(out), columns]
        table = np.array([*words, calls.address(runs), calls.address(begins)], np.int64)
        parts = int(rng.choice([1, 2, 3, 7, 64]))
        for part in range(parts):
            kernel(kernels[dtype])(calls.address(table), part, parts)
        np.testing.assert_allclose(out, (A.T if turned[0] else A) @ B, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_of_nothing_is_zero(dtype: str, kernels: dict[str, int]) -> None:
    A, B = np.ones((9, 1), dtype)[:, :0], np.ones((1, 20), dtype)[:0]
    assert (multiplied(kernels, A, B, 2, 2) == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", TURNED)
def test_what_is_no_number_stays_in_its_row_and_column(
    dtype: str, turned: tuple[bool, bool], kernels: dict[str, int]
) -> None:
    rng = np.random.default_rng(2)
    A, B = matrix(rng, 30, 40, dtype, turned[0]), matrix(rng, 40, 37, dtype, turned[1])
    A[4, 7], B[2, 36] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(
            np.isfinite(multiplied(kernels, A, B, 3, 2)), np.isfinite(A @ B)
        )


def test_few_columns_are_the_blas_s_and_two_transposes_never() -> None:
    if blas.product("float32") is None or blas._multiply("float32") is None:
        pytest.skip("NumPy's BLAS cannot be called from C here, or there are no vectors")
    for dtype, few in (("float32", 8), ("float64", 4)):
        assert blas.own(dtype, (False, True), (50, few, 30)) is None
        assert blas.own(dtype, (False, True), (50, few + 1, 30)) is not None
        assert blas.own(dtype, (False, True), (few, 50, 30)) is None
        assert blas.own(dtype, (False, False), (few, few, 30)) is not None
        assert blas.own(dtype, (True, True), (few, few, 30)) is not None


def test_without_a_blas_all_products_are_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    if blas._multiply("float32") is None:
        pytest.skip("there are no vectors")
    monkeypatch.setattr(blas, "product", lambda dtype, vector=False: None)
    assert blas.own("float32", (False, True), (50, 3, 30)) is not None


def test_products_that_do_not_compile_are_the_blas_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(source: str) -> Any:
        raise native.CannotCompile("as if")

    monkeypatch.setattr(native, "brought", lambda name: None)
    monkeypatch.setattr(native, "library", failing)
    monkeypatch.setattr(native, "_warned", set())
    with pytest.warns(RuntimeWarning, match="Products are the BLAS's: as if"):
        assert blas._multiply.__wrapped__("float32") is None
