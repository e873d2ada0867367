"""A program in words says what the program does."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from test_fast_paths import N_SAMPLES, build, sample

from mlp_xp import MLP, Sequential
from mlp_xp.cli import main
from mlp_xp.compile import fuse
from mlp_xp.compile.explain import explain, explain_step
from mlp_xp.compile.function import Function
from mlp_xp.compile.layout import applied, normal, packed
from mlp_xp.compile.numpy_program import NumpyProgram
from mlp_xp.layers import Activation, Conv2d, Dense, Flatten, MaxPool

TINY = """\
  1  product  t1[3, 4] = W1[3, 2] @ rows.T[2, 4]  48 flop
     reads W1 24 B, rows 32 B; writes t1 48 B
  2  loop over [3, 4]
       t2[3, 4] = tanh(t1 + b1)
     reads t1 48 B, b1 12 B; writes t2 48 B
  3  product  t3[1, 4] = W2[1, 3] @ t2[3, 4]  24 flop
     reads W2 12 B, t2 48 B; writes t3 16 B
  4  loop over [1, 4]
       u1 = t3 + b2 - targets
       t4[1, 4] = u1 / 4
       db2[1, 1] = sum(t4, axis=1)
       t5[1] = sum(0.5 * u1 * u1, axis=1)
     reads t3 16 B, b2 4 B, targets 16 B; writes t4 16 B, db2 4 B, t5 4 B
  5  product  t6[3, 4] = W2[3, 1] @ t4[1, 4]  24 flop
     reads W2 12 B, t4 16 B; writes t6 48 B
  6  loop over [3, 4]
       t7[3, 4] = t6 * (1 - t2) * (1 + t2)
       db1[3, 1] = sum(t7, axis=1)
     reads t6 48 B, t2 48 B; writes t7 48 B, db1 12 B
  7  product  dW1[3, 2] = t7[3, 4] @ rows[4, 2]  48 flop
     reads t7 48 B, rows 32 B; writes dW1 24 B
  8  product  dW2[1, 3] = t4[1, 4] @ t2.T[4, 3]  24 flop
     reads t4 16 B, t2 48 B; writes dW2 12 B
  9  loop over [13]
       theta'[13] = theta - scalar0 * gradient
     reads theta 52 B, scalar0 4 B, gradient 52 B; writes theta' 52 B
 10  loop over one entry
       J = t5 / 4
     reads t5 4 B; writes J 4 B

10 groups: 5 products, 5 loops
21 calls a run, of NumPy
168 flop in products, 928 B read and written
given: theta 52 B, running 0 B, rate 4 B, rows 32 B, targets 16 B, scalar0 4 B
buffers: 9 arrays of 284 B in 448 B of memory
"""


def tiny() -> MLP:
    return MLP((2, 3, 1), activation="tanh", loss="squared_error", optimizer="sgd", seed=0)


def told(formula: Any, *arrays: Any) -> Any:
    program, _ = Function(formula, "float64", target=NumpyProgram).program(arrays)
    return explain(program)


def formulas(formula: Any, *arrays: Any) -> list[str]:
    return [line for group in told(formula, *arrays).groups for line in group.formulas]


def test_a_small_step_is_told_as_it_is_written() -> None:
    model = tiny()
    found = explain_step(model._recipe, model._run.state, 4, NumpyProgram)
    assert f"{found}\n" == TINY


def test_a_formula_is_written_with_as_few_brackets_as_it_needs() -> None:
    x, y = np.ones((2, 3)), np.ones((2, 3))
    of = {
        "x0 - (x1 - 1)": lambda xp, x, y: x - (y - 1),
        "x0 - x1 - 1": lambda xp, x, y: x - y - 1,
        "x0 * (x1 + 1)": lambda xp, x, y: x * (y + 1),
        "x0 * (1 / x1)": lambda xp, x, y: x * (1 / y),
        "-(x0 + x1)": lambda xp, x, y: -(x + y),
        "where(x0 > 1 and not x1 > 2, x0, 3)": lambda xp, x, y: xp.where(
            xp.logical_and(x > 1, xp.logical_not(y > 2)), x, 3.0
        ),
        "x0 * [x1 > 0]": lambda xp, x, y: x * xp.astype(y > 0, x.dtype),
    }
    for text, formula in of.items():
        assert formulas(lambda xp, x, y, f=formula: [f(xp, x, y)], x, y) == [f"t1[2, 3] = {text}"]


def test_what_several_formulas_need_has_a_name() -> None:
    def formula(xp: Any, x: Any) -> list[Any]:
        u = x * x + x - 1
        return [u * 2 - u, xp.sum(u, axis=1)]

    assert formulas(formula, np.ones((4, 5))) == [
        "u1 = x0 * x0 + x0 - 1",
        "t1[4, 1] = sum(u1, axis=1)",
        "t2[4, 5] = u1 * 2 - u1",
    ]


def test_pieces_are_named_by_their_indices() -> None:
    from mlp_xp.compile.explain import _key

    shape = (4, 6, 5)
    for key, text in [
        (np.s_[:, 1:3, :], ":, 1:3, :"),
        (np.s_[2], "2, :, :"),
        (np.s_[:, ::2, 4], ":, 0:5:2, 4"),
        (np.s_[1:, ::-1, :], "1:4, 5::-1, :"),
    ]:
        layout = applied(("index", normal(key, shape)), packed(shape))
        assert layout is not None
        assert _key(layout, shape) == text
        flat = np.arange(math.prod(shape)).reshape(shape)
        assert flat[key].size == layout.size


@pytest.mark.parametrize("number", range(0, N_SAMPLES, 10))
def test_counts_are_the_programs(number: int) -> None:
    model, _, state = build(sample(number))
    found = explain_step(model._recipe, state, 8, NumpyProgram)
    products = [group for group in found.groups if group.kind == "product"]
    assert len(found.groups) == len(re.findall(r"(?m)^ *\d+  (?:product|loop|call)", str(found)))
    n = len(model.network.sizes) - 1
    assert len(products) >= 3 * n - 1
    assert f"{len(products)} products" in str(found)
    assert found.calls >= len(found.groups)
    assert sum(found.buffers.values()) > 0
    assert str(found) == str(explain_step(model._recipe, state, 8, NumpyProgram))


def test_products_have_their_operations_and_all_bytes_are_counted() -> None:
    W, x = np.ones((3, 4)), np.ones((4, 5))
    found = told(lambda xp, W, x: [xp.tanh(xp.matmul(W, x))], W, x)
    assert found.flops == 2 * 3 * 4 * 5
    assert found.moved == 8 * (12 + 20 + 15 + 15 + 15)
    assert found.calls == 2
    assert found.given == {"x0": 96, "x1": 160}
    assert found.buffers == {"t1": 120, "t2": 120}


def test_every_model_can_be_explained() -> None:
    layers = [Conv2d(4, 3), Activation(), MaxPool(2), Flatten(), Dense(3)]
    images = Sequential((1, 8, 8), layers, seed=0)
    text = images.explain(batch_size=16)
    assert "t3[:, 0:5:2, 0:5:2, :]" in text
    assert "dW1" in text
    several = MLP((4, 5, 3), seed=[0, 1], normalization="batch", dropout=0.2).explain(8)
    assert "running'[2, 10]" in several
    with pytest.raises(ValueError, match="batch_size"):
        images.explain(batch_size=0)


def test_a_step_that_cannot_be_recorded_cannot_be_explained() -> None:
    from mlp_xp import Activation as Row

    def odd(xp: Any, Z: Any) -> Any:
        return Z * (2.0 if float(xp.max(Z)) > 0 else 1.0)

    model = Sequential(5, [Dense(4), Activation(Row(odd, lambda xp, A: A)), Dense(3)], seed=1)
    with pytest.raises(ValueError, match="cannot be explained, as a formula reads a value"):
        model.explain()


def test_the_command_tells_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    model = tiny()
    path = str(tmp_path / "model.safetensors")
    model.save(path)
    assert main(["explain", path, "--batch-size", "4"]) == 0
    out = capsys.readouterr().out
    assert model.explain(4) in out
    assert out.startswith("a training step of 2-3-1, 4 examples, float32\n")
    options = ["--inputs", "2", "--outputs", "1", "--hidden", "3", "--activation", "tanh"]
    options += ["--loss", "squared_error", "--optimizer", "sgd", "--normalization", "none"]
    assert main(["explain", *options, "--dropout", "0", "--batch-size", "4"]) == 0
    assert model.explain(4) in capsys.readouterr().out
    assert main(["explain", "--layers", "conv:4x3,pool:2,dense:8", "--json"]) == 0
    assert '"kind": "product"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (["model.safetensors", "--hidden", "3"], "--hidden goes with a model that is in no file"),
        (["--layers", "dense:3", "--hidden", "3"], "goes with a dense network"),
        (["--shape", "1x8x8"], "--shape says how an example lies"),
        (["--layers", "dens:3"], "dens"),
        (["--inputs", "0"], "at least 1"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    line: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *line]) == 2
    assert why in capsys.readouterr().err


def test_a_call_has_the_name_of_its_function() -> None:
    (group,) = told(lambda xp, x: [xp.sort(x, axis=0)], np.ones((3, 2))).groups
    assert group.kind == "call"
    assert group.formulas == ("t1[3, 2] = sort(x0[3, 2])",)
    assert fuse.Call.__name__.lower() == group.kind
