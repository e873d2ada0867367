"""Products at other precisions on CUDA: cuBLAS's, the rounding before them, whole steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import test_cuda_steps as cuda_steps
from test_precision import ROUNDED, by_bits, every_kind_of_number, on_a_card

from mlp_xp import MLP
from mlp_xp.kernels import PRECISIONS


def as_bfloat16(cupy: Any, matrix: Any) -> Any:
    """A matrix, or a stack of them, in bfloat16 by the kernel of a step."""
    from mlp_xp.fast import cuda_source as cuda
    from mlp_xp.fast.launches import THREADS, Launch, blocks

    (rows, n), networks = matrix.shape[-2:], matrix.shape[0] if matrix.ndim == 3 else 1
    pitch = matrix.strides[-2] // 4
    stride = matrix.strides[0] // 4 if matrix.ndim == 3 else 0
    out = cupy.full(matrix.shape, 77, np.uint16)
    source, grid = cuda.as_bfloat16("float32"), (blocks(rows * n, THREADS), networks)
    Launch(source, grid, (THREADS,), out, matrix, n, pitch, stride, rows * n)()
    return out


def widened(bits: Any) -> Any:
    """bfloat16 numbers, held as uint16, in float32."""
    return (bits.get().astype(np.uint32) << 16).view(np.float32)


def test_a_matrix_is_rounded_to_bfloat16(cupy: Any) -> None:
    x = every_kind_of_number("bfloat16")
    found = widened(as_bfloat16(cupy, cupy.asarray(x.reshape(64, -1)))).reshape(-1)
    np.testing.assert_array_equal(found, by_bits(x, "bfloat16"))


def test_a_part_of_a_stack_of_matrices_is_rounded_to_bfloat16(cupy: Any) -> None:
    x = np.random.default_rng(0).normal(size=(3, 8, 11)).astype(np.float32)
    found = widened(as_bfloat16(cupy, cupy.asarray(x)[:, 1:6, 2:9]))
    np.testing.assert_array_equal(found, by_bits(x, "bfloat16")[:, 1:6, 2:9])


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("leading", [(), (3,)])
@pytest.mark.parametrize("turned", ["", "A", "B", "AB"])
@pytest.mark.parametrize("add", [False, True])
def test_cublas_multiplies_rounded_operands(
    cupy: Any, precision: str, leading: tuple[int, ...], turned: str, add: bool
) -> None:
    from mlp_xp.fast.cublas import Cublas, Product

    random = np.random.default_rng(0)
    A, B = random.normal(size=(*leading, 5, 33)), random.normal(size=(*leading, 33, 7))
    A, B = A.astype(np.float32), B.astype(np.float32)
    before = random.normal(size=(*leading, 5, 7)).astype(np.float32)
    out, operands = cupy.asarray(before), []
    for name, array in (("A", A), ("B", B)):
        x = cupy.asarray(array.swapaxes(-1, -2).copy() if name in turned else array)
        x = as_bfloat16(cupy, x) if precision == "bfloat16" else x
        operands.append(x.swapaxes(-1, -2) if name in turned else x)
    cublas = Cublas()
    cublas.follow(cupy.cuda.get_current_stream().ptr)
    Product(cublas, *operands, out, add, precision)()
    exact = by_bits(A, precision).astype(float) @ by_bits(B, precision) + add * before
    scale = np.abs(A).astype(float) @ np.abs(B) + add * np.abs(before)
    error = np.max(np.abs(out.get() - exact) / scale)
    within = 1e-6
    if on_a_card("cupy"):  # it may cut tf32 off where it is rounded here, of either operand
        within = 2.0 ** (2 - PRECISIONS["tf32"]) if precision == "tf32" else 1e-5
    assert error < within
    if on_a_card("cupy") and precision == "tf32":
        return  # which cuBLAS may round to, and need not: products of small stacks it does not
    plain = A.astype(float) @ B + add * before
    assert np.max(np.abs(out.get() - plain) / scale) > 1e-5


def test_operands_of_another_kind_are_refused(cupy: Any) -> None:
    from mlp_xp.fast.cublas import Cublas, Product

    x, bits, cublas = cupy.ones((2, 2), "f4"), cupy.ones((2, 2), np.uint16), Cublas()
    for operands, precision in (((x, x), "bfloat16"), ((bits, bits), "tf32"), ((bits, x), "tf32")):
        with pytest.raises(ValueError, match=r"operands of .* and .*: expected"):
            Product(cublas, *operands, cupy.empty((2, 2), "f4"), precision=precision)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize("seed", [3, [3, 4]])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("products", ["small", "large"])
def test_a_step_of_everything_equals_the_specification(
    cupy: Any,
    precision: str,
    normalization: str,
    seed: Any,
    residual: bool,
    products: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Products that are kernels of ours, and those of cuBLAS."""
    from mlp_xp.fast import choice

    if products == "large":
        monkeypatch.setattr(choice, "SMALL", 0.0)
    if on_a_card("cupy") and precision == "tf32":
        pytest.skip("a card may round tf32 otherwise; test_precision has a step to its accuracy")
    settings = {**cuda_steps.FULL, "normalization": normalization, "seed": seed}
    settings["residual"] = residual
    settings |= {"precision": precision, "optimizer": "sgd"}
    cuda_steps.compare(cuda_steps.plain(**settings))


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("seed", [3, [3, 4]])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_large_products_of_rows_and_columns_are_right(
    cupy: Any, precision: str, seed: Any, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix of one line lies like its transpose."""
    from mlp_xp.fast import choice

    monkeypatch.setattr(choice, "SMALL", 0.0)
    random = np.random.default_rng(0)
    X, y = random.normal(size=(1, 48)), random.normal(size=48)
    found = []
    for name in ("cpu", "cuda"):
        model = MLP(
            (1, 5, 1, 6, 1),
            loss="squared_error",
            optimizer="sgd",
            activation="tanh",
            precision=precision,
            seed=seed,
            device=name,
        )
        model.fit(X, y, epochs=2, batch_size=batch_size, progress=False)
        found.append(np.array(model.history["loss"]))
    np.testing.assert_allclose(*found, rtol=0.01 if on_a_card("cupy") else 1e-4)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("n_out", [32, 33])
def test_a_predictor_of_any_number_of_outputs_is_the_models(
    cupy: Any, precision: str, n_out: int
) -> None:
    """More than a tile has rows are products of cuBLAS, whose operands are at the precision."""
    X = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    model = MLP((6, 8, n_out), device="cuda", precision=precision)
    found = model.predictor(5)(cupy.asarray(X)).get()
    within = 0.01 if on_a_card("cupy") else 1e-6
    np.testing.assert_allclose(found, model.predict_proba(X).get(), rtol=0, atol=within)


@pytest.mark.parametrize("precision", ROUNDED)
def test_training_on_the_device_is_replayed_and_follows_that_on_the_cpu(
    cupy: Any, precision: str
) -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(6, 90)), random.integers(0, 3, 90)
    losses, answers = [], []
    for name in ("cpu", "cuda"):
        model = MLP((6, 9, 9, 3), device=name, precision=precision, optimizer="sgd", seed=1)
        model.fit(X, y, epochs=4, batch_size=16, progress=False)
        losses.append(model.history["loss"])
        answers.append(model.device.get(model.predict_proba(X)))
    within = 0.01 if on_a_card("cupy") else 1e-5
    np.testing.assert_allclose(*losses, rtol=within)
    np.testing.assert_allclose(*answers, rtol=0, atol=within)


def test_what_is_rounded_is_rounded_once_where_it_is_made(
    counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large products, weights and the batch by a launch each; the rest by what makes it."""
    from test_cuda_counts import fourth_step, problem

    from mlp_xp.fast import choice

    monkeypatch.setattr(choice, "SMALL", 0.0)
    counted = fourth_step(counting, *problem(sizes=(20, 16, 8, 3), precision="bfloat16"))
    assert counted.kernels["as_bfloat16"] == 3 + 1 + 1  # W1 … W3, X, and δ of the scores
    assert sum(counted.cublas.values()) == 8


def test_a_rounded_step_is_captured_as_a_graph(cupy: Any) -> None:
    from mlp_xp.devices import device

    where = device("cuda", graph=True)  # where it cannot be, an error
    X, y = np.random.default_rng(0).normal(size=(6, 40)), np.arange(40) % 3
    for precision in ROUNDED:
        model = MLP((6, 9, 3), device=where, precision=precision)
        model.fit(X, y, epochs=2, batch_size=8, progress=False)
