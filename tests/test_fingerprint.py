"""A fingerprint knows the rows it was taken of, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlp_xp.data import Request, load
from mlp_xp.fingerprint import BLOCK, MOST, Fingerprint, hashed


def rows(m: int, seed: int = 0, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(m, n))


def test_of_few_rows_every_one_is_known_and_no_other() -> None:
    X = rows(MOST - 1)
    met = Fingerprint.of(X).meet(np.concatenate([rows(500, seed=1), X[::3]]))
    assert met.seen.tolist() == [False] * 500 + [True] * len(X[::3])
    assert np.array_equal(met.unseen, ~met.seen)
    assert (met.known, met.n_seen) == (500 + len(X[::3]), len(X[::3]))


@pytest.mark.parametrize("m", [MOST, 3 * MOST, 40 * MOST])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_of_many_rows_a_sample_is_known_and_its_share_is_that_of_all(m: int, share: float) -> None:
    X = rows(m, n=2)
    n_old = round(share * m)
    asked = np.concatenate([X[:n_old], rows(m - n_old, seed=1, n=2)])
    old = np.arange(m) < n_old
    met = Fingerprint.of(X).meet(asked)
    assert not met.seen[~old].any()  # what is said of a row is certain
    assert not met.unseen[old].any()
    assert met.n_seen is not None
    k = met.known
    assert k == pytest.approx(MOST, abs=5 * np.sqrt(MOST))  # as many as the sketch has
    assert met.n_seen / m == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / k) + 1 / m)


def test_the_sample_does_not_depend_on_what_the_rows_say() -> None:
    X = np.sort(rows(10 * MOST, n=1), axis=0)
    met = Fingerprint.of(X).meet(X)
    quarters = met.seen.reshape(4, -1).sum(axis=1)
    assert np.abs(quarters - MOST / 4).max() < 5 * np.sqrt(MOST / 4)


def test_where_no_row_is_looked_up_nothing_is_known() -> None:
    met = Fingerprint(np.arange(MOST, dtype=np.uint64)).meet(rows(10))
    assert (met.known, met.n_seen) == (0, None)


@pytest.mark.parametrize("sizes", [(50, 70), (MOST, 10), (3000, 3000), (3 * MOST, 2 * MOST)])
def test_a_union_is_the_fingerprint_of_the_rows_of_both(sizes: tuple[int, int]) -> None:
    a, b = rows(sizes[0]), np.concatenate([rows(sizes[1], seed=1), rows(5)])
    both = Fingerprint.of(np.concatenate([a, b]))
    assert np.array_equal((Fingerprint.of(a) | Fingerprint.of(b)).hashes, both.hashes)


def test_order_and_repeats_make_no_difference() -> None:
    X = rows(2 * BLOCK + 7)
    again = np.concatenate([X, X])[np.random.default_rng(1).permutation(2 * len(X))]
    assert np.array_equal(Fingerprint.of(again).hashes, Fingerprint.of(X).hashes)


def test_a_row_is_the_same_whatever_holds_it() -> None:
    X = np.random.default_rng(0).integers(0, 256, (300, 5))
    expected = hashed(X)
    assert len(set(expected.tolist())) == 300
    for dtype in ("u1", "<i4", ">i4", "<f4", ">f4", "f8"):
        values = X.astype(dtype)
        for same in (values, np.asfortranarray(values), np.repeat(values, 2, axis=0)[::2]):
            assert np.array_equal(hashed(same), expected)
    assert np.array_equal(hashed(np.array([[0.1, -0.0]])), hashed(np.array([[0.1, 0]], "f4")))
    assert not np.array_equal(hashed(X[:, ::-1]), expected)


def test_hashes_are_those_of_earlier_releases() -> None:
    found = hashed(np.array([[1.0, -2.5], [0, 3e9]])).tolist()
    assert found == [4_121_329_780_655_343_425, 1_319_294_278_761_234_929]


def test_a_file_of_text_and_one_of_floats_are_the_same_rows(tmp_path: Path) -> None:
    X = rows(40)
    text, floats = tmp_path / "d.csv", tmp_path / "d.npz"
    lines = ["a,b,c,y", *(",".join(map(repr, [*map(float, row), 1.0])) for row in X)]
    text.write_text("\n".join(lines))
    np.savez(floats, X=X.astype("f4"), y=np.ones(40))
    known = Fingerprint.of(load(str(text), Request(target=("y",))).X)
    assert known.meet(load(str(floats)).X).seen.all()


def test_text_holds_a_fingerprint_in_less_than_64_kib() -> None:
    for m in (1, 100, 2 * MOST):
        known = Fingerprint.of(rows(m))
        assert len(str(known)) < 1 << 16
        assert np.array_equal(Fingerprint.from_text(str(known)).hashes, known.hashes)


@pytest.mark.parametrize("text", ["x", "AAAA", "é", 7])
def test_text_that_is_no_fingerprint_is_refused_with_the_cure(text: str) -> None:
    with pytest.raises(ValueError, match=r"fingerprint cannot be read .* expected base64"):
        Fingerprint.from_text(text)
