"""A program in words says what the program does."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_fast_paths import N_SAMPLES, build, sample

from conftest import need
from mlp_xp import MLP, Sequential
from mlp_xp import Activation as Row
from mlp_xp.cli import main
from mlp_xp.compile.explain import explain
from mlp_xp.compile.function import Function
from mlp_xp.compile.items import Call
from mlp_xp.compile.layout import applied, normal, packed
from mlp_xp.compile.numpy_program import NumpyProgram
from mlp_xp.devices import device as find_device
from mlp_xp.explained import explain_step
from mlp_xp.fast import choice, native
from mlp_xp.layers import Activation, BatchNorm, Conv1d, Conv2d, Dense, Dropout, Flatten, MaxPool
from mlp_xp.training import Data, bits_for, stepper

TINY = """\
  1  product  t1[3, 4] = W1[3, 2] @ rows.T[2, 4]  48 flop
     reads W1 24 B, rows 32 B; writes t1 48 B
  2  loop over [3, 4]
       t2[3, 4] = tanh(t1 + b1)
     reads t1 48 B, b1 12 B; writes t2 48 B
  3  product  t3[1, 4] = W2[1, 3] @ t2[3, 4]  24 flop
     reads W2 12 B, t2 48 B; writes t3 16 B
  4  loop over [4]
       u1 = t3 + b2 - targets
       t4[1] = sum(0.5 * u1 * u1, axis=0)
       t5[1, 4] = u1 / 4
       db2[1, 1] = sum(t5, axis=0)
     reads t3 16 B, b2 4 B, targets 16 B; writes t4 4 B, db2 4 B, t5 16 B
  5  product  dW2[1, 3] = t5[1, 4] @ t2.T[4, 3]  24 flop
     reads t5 16 B, t2 48 B; writes dW2 12 B
  6  product  t6[3, 4] = W2[3, 1] @ t5[1, 4]  24 flop
     reads W2 12 B, t5 16 B; writes t6 48 B
  7  loop over [3, 4]
       t7[3, 4] = t6 * (1 - t2) * (1 + t2)
       db1[3, 1] = sum(t7, axis=1)
     reads t6 48 B, t2 48 B; writes db1 12 B, t7 48 B
  8  product  dW1[3, 2] = t7[3, 4] @ rows[4, 2]  48 flop
     reads t7 48 B, rows 32 B; writes dW1 24 B
  9  loop over [13]
       theta'[13] = theta - scalar0 * gradient
     reads theta 52 B, scalar0 4 B, gradient 52 B; writes theta' 52 B
 10  loop over one entry
       J = t4 / 4
     reads t4 4 B; writes J 4 B

10 groups: 5 products, 5 loops
21 calls a run, of NumPy
168 flop in products, 928 B read and written
given: theta 52 B, running 0 B, rate 4 B, rows 32 B, targets 16 B, scalar0 4 B
buffers: 9 arrays of 284 B in 384 B of memory
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
    found = explain_step(model._recipe, model._run.state, 4, target=NumpyProgram)
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


@pytest.mark.skipif(not native.available(), reason="no C compiler")
def test_pieces_of_a_parameter_are_named_by_its_own_indices() -> None:
    layers = [Conv1d(4, 3, groups=4), Activation(), Flatten(), Dense(2)]
    model = Sequential((4, 9), layers, seed=0)
    text = str(explain_step(model._recipe, model._run.state, 8))
    assert "W1[:, 0] * " in text
    assert "W1[:, 2] * " in text
    assert "theta[" not in text


@pytest.mark.parametrize("number", range(0, N_SAMPLES, 10))
def test_counts_are_the_programs(number: int) -> None:
    model, _, state = build(sample(number))
    found = explain_step(model._recipe, state, 8, target=NumpyProgram)
    products = [group for group in found.groups if group.kind == "product"]
    assert len(found.groups) == len(re.findall(r"(?m)^ *\d+  (?:product|loop|call)", str(found)))
    n = len(model.network.sizes) - 1
    assert len(products) >= 3 * n - 1
    assert f"{len(products)} products" in str(found)
    assert found.calls >= len(found.groups)
    assert sum(found.buffers.values()) > 0
    assert str(found) == str(explain_step(model._recipe, state, 8, target=NumpyProgram))


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


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_large_networks_at_once_are_programs_of_their_own(normalization: Any) -> None:
    """As `compile.step.Apart` makes them; of one of them it says what it says of one alone."""
    if not native.available():
        pytest.skip("a program for each network is compiled")
    sizes, options = (64, 32, 16), {"normalization": normalization, "dropout": 0.1}
    one, many = MLP(sizes, seed=0, **options), MLP(sizes, seed=range(8), **options)
    found = explain_step(many._recipe, many._run.state, 4)
    alone = explain_step(one._recipe, one._run.state, 4)
    copied = 1  # the loss, out of memory that others work in
    assert found == replace(alone, networks=8, calls=alone.calls + copied)
    assert "\n8 networks, each with such a program of its own, which a thread takes" in str(found)
    assert found.document()["networks"] == 8
    small = MLP((4, 5, 3), seed=range(8), **options)
    whole = explain_step(small._recipe, small._run.state, 4)
    assert whole.networks == 1
    assert whole.given["rows"] == 8 * 4 * 4 * 4  # each has a batch of its own


def test_what_the_specification_computes_is_not_called_compiled() -> None:
    text = MLP((4, 5, 3), precision="bfloat16").explain(8)
    assert "On 'cpu' at precision 'bfloat16' the specification computes this" in text
    assert "specification" not in MLP((4, 5, 3)).explain(8)


DENSE: list[dict[str, Any]] = [
    {"sizes": (20, 16, 3)},
    {"sizes": (20, 16, 8, 3), "dropout": 0.1, "normalization": "batch", "l2": 0.1},
    {"sizes": (20, 16, 8, 3), "residual": True, "normalization": "layer", "seed": [1, 2, 3]},
    {"sizes": (20, 16, 3), "precision": "bfloat16", "clip_norm": 1.0, "density": 0.5},
    {"sizes": (20, 3), "weight_decay": 0.1},
]
LAYERS = [
    [Conv2d(4, 3), BatchNorm(), Activation(), MaxPool(2), Flatten(), Dense(3)],
    [Flatten(), Dense(8), Activation("tanh"), Dropout(0.3), Dense(3)],
]


def launched(counting: Any, model: Any, m: int) -> tuple[Any, Any]:
    """What a step launches, as it is told and as it is counted."""
    device = model.device
    X, y = np.zeros((3 * m, model.network.sizes[0])), np.arange(3 * m) % 3
    data = Data(device.put(X.astype(model.dtype)), device.put(y), None)
    step, state = stepper(model._recipe, device, data), model._run.state
    order = np.broadcast_to(np.arange(3 * m), (*model.leading, 3 * m)).copy()
    index = device.put(order)
    step.announce(state, index, [0.01] * 3)  # type: ignore[attr-defined]
    for number in range(2):
        bits = bits_for(device, model.network, model.seeds, model.leading, state.step, m)
        with counting.count() as counted:
            state = step(state, index[..., m * number : m * (number + 1)], bits, 0.01)
    return explain_step(model._recipe, model._run.state, m, device), counted


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("number", range(len(DENSE) + len(LAYERS)))
def test_what_cuda_is_said_to_launch_is_launched(
    counting: Any, number: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:  # products are cuBLAS's
        monkeypatch.setattr(choice, "SMALL", 0.0)
    where = find_device("cuda", graph=False)
    model: Any = None
    if number < len(DENSE):
        model = MLP(device=where, **DENSE[number])
    else:
        model = Sequential((1, 8, 8), LAYERS[number - len(DENSE)], device=where)
    found, counted = launched(counting, model, 16)
    names = Counter(launch.name for launch in found.launches)
    counts: Counter[str] = Counter(counted.cublas)
    for name, n in counted.kernels.items():  # what is compiled together is numbered
        counts[re.sub(r"_\d+$", "", name)] += n
    assert names == counts
    assert found.target == "CUDA"
    assert found.calls == sum(names.values())
    assert all(launch.blocks > 0 or launch.flops > 0 for launch in found.launches)
    assert f"{found.calls} launches a step: " in str(found)
    assert bool(found.groups) == (number >= len(DENSE))
    for group in found.groups:
        assert group.launches
    assert found.flops > 0 or (small and number < len(DENSE))
    assert sum(found.buffers.values()) > 0
    assert "Replayed" not in str(found)
    json.dumps(found.document())


def test_a_step_on_cuda_is_told_launch_by_launch(cupy: Any) -> None:
    text = MLP((784, 100, 10), device="cuda").explain(32)
    assert text.startswith(
        "  1  layer_forward  52 blocks of 256 threads\n"
        "       V, A = f(W A + b)\n"
        "     of W1 313.6 kB, rows 100.4 kB, X 100.4 kB, inbox 56 B, t1 12.8 kB, b1 400 B\n"
    )
    assert "3 launches a step: layer_forward, score, gradients\n" in text
    assert "Replayed as a CUDA graph" in text
    layers = [Conv2d(4, 3), Activation(), Flatten(), Dense(3)]
    text = Sequential((1, 8, 8), layers, device="cuda").explain(16)
    assert re.search(r"launches nothing, as group \d+ does it", text)
    assert re.search(r"launches product_with \(\d+ blocks of 256 threads\)", text)


def test_a_step_on_cuda_that_cannot_be_recorded_cannot_be_explained(cupy: Any) -> None:
    model = Sequential(5, [Dense(4), Activation(ODD), Dense(3)], seed=1, device="cuda")
    with pytest.raises(ValueError, match=r"cannot be explained: .* a formula reads a value"):
        model.explain()


def odd(xp: Any, Z: Any) -> Any:
    return Z * (2.0 if float(xp.max(Z)) > 0 else 1.0)


ODD = Row(odd, lambda xp, A: A)


def test_a_step_that_cannot_be_recorded_cannot_be_explained() -> None:
    model = Sequential(5, [Dense(4), Activation(ODD), Dense(3)], seed=1)
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


def test_the_command_tells_of_networks_at_once_and_of_a_device(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, request: pytest.FixtureRequest
) -> None:
    options = ["--hidden", "3", "--inputs", "4", "--outputs", "3", "--batch-size", "4"]
    options += ["--normalization", "none", "--dropout", "0"]
    assert main(["explain", *options, "--networks", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a training step of 4-3-3 of 2 networks, 4 examples, float32\n")
    model = MLP((4, 3, 3), seed=[0, 1], label_smoothing=0.1)
    assert model.explain(4) in out
    path = str(tmp_path / "models.safetensors")
    model.save(path)
    assert main(["explain", path, "--batch-size", "4"]) == 0
    assert capsys.readouterr().out == out
    need(request, "cupy")
    assert main(["explain", *options, "--device", "cuda"]) == 0
    out = capsys.readouterr().out
    assert MLP((4, 3, 3), label_smoothing=0.1, device="cuda").explain(4) in out
    assert main(["explain", *options, "--device", "cuda", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["launches"]] == ["layer_forward", "score", "gradients"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (["model.safetensors", "--hidden", "3"], "--hidden goes with a model that is in no file"),
        (["--layers", "dense:3", "--hidden", "3"], "goes with a dense network"),
        (["--shape", "1x8x8"], "--shape says how an example lies"),
        (["--layers", "dens:3"], "dens"),
        (["--inputs", "0"], "at least 1"),
        (["model.safetensors", "--networks", "3"], "--networks goes with a model that is in no"),
        (["model.safetensors", "--device", "gpu"], "device is 'gpu', but expected"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    line: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *line]) == 2
    assert why in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(
    cupy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "--device", "cuda:99"]) == 2
    assert "cuda:99" in capsys.readouterr().err


def test_a_call_has_the_name_of_its_function() -> None:
    (group,) = told(lambda xp, x: [xp.sort(x, axis=0)], np.ones((3, 2))).groups
    assert group.kind == "call"
    assert group.formulas == ("t1[3, 2] = sort(x0[3, 2])",)
    assert Call.__name__.lower() == group.kind
