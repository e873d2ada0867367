"""Random numbers: the same everywhere, and random."""

from __future__ import annotations

import numpy as np

from mlp_xp.draws import Draw, Purpose, dropout_bits, normals, permutation, uniforms, words

M64 = (1 << 64) - 1


def philox_4x64(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds in Python integers, after Salmon et al. 2011, §4.3 and table 2."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(p1 >> 64) ^ c[1] ^ k[0], p1 & M64, (p0 >> 64) ^ c[3] ^ k[1], p0 & M64]
        k = [(k[0] + 0x9E3779B97F4A7C15) & M64, (k[1] + 0xBB67AE8584CAA73B) & M64]
    return c


def test_words_are_philox_of_seed_purpose_and_index() -> None:
    seed, index = 12345678901234567890, 77
    expected = [
        word
        for block in (1, 2)
        for word in philox_4x64([block, 0, index, 0], [seed, Purpose.DROPOUT])
    ]
    assert words(seed, Purpose.DROPOUT, index, 8).tolist() == expected


def test_streams_differ_by_seed_purpose_and_index() -> None:
    streams = [
        tuple(words(seed, purpose, index, 4).tolist())
        for seed in (0, 1)
        for purpose in Purpose
        for index in (0, 1)
    ]
    assert len(set(streams)) == len(streams)


def test_uniforms_never_touch_zero_or_one() -> None:
    extremes = uniforms(np.array([0, M64], dtype=np.uint64))
    assert 0 < extremes[0] < 1e-15
    assert 1 - 1e-15 < extremes[1] <= 1 - 2.0**-54


def test_normals_are_normal() -> None:
    z = normals(words(0, Purpose.WEIGHTS, 0, 200_000))
    moments = [np.mean(z**k) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.05)
    np.testing.assert_allclose(np.mean(np.abs(z) < 1), 0.6827, atol=0.005)


def test_odd_shapes_and_successive_draws() -> None:
    draw = Draw(0, Purpose.WEIGHTS, 0)
    first, second = draw.normal(3, 5), draw.normal(3, 5)
    assert first.shape == (3, 5)
    assert not np.any(first == second)
    u = draw.uniform(100, 100)
    assert -1 < u.min() < -0.99
    assert 0.99 < u.max() < 1


def test_a_permutation_is_one_and_uniform() -> None:
    p = permutation(3, Purpose.SHUFFLE, 5, 1000)
    assert sorted(p) == list(range(1000))
    firsts = [permutation(s, Purpose.SHUFFLE, 0, 4)[0] for s in range(4000)]
    np.testing.assert_allclose(np.bincount(firsts) / 4000, 0.25, atol=0.03)


def test_dropout_bits_are_uniform_16_bit_integers() -> None:
    bits = dropout_bits(1, 9, 100_003)
    assert bits.dtype == np.uint16
    assert bits.shape == (100_003,)
    np.testing.assert_allclose(np.mean(bits < 6554), 0.1, atol=0.005)
    np.testing.assert_array_equal(dropout_bits(1, 9, 7), bits[:7])
