"""Models as PyTorch modules and back: the same scores both ways.

Networks are those that `test_onnx` samples, in float64.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from test_onnx import (
    EXHAUSTIVE,
    N_SAMPLES,
    N_TAKEN,
    SEED,
    STACKS,
    Doubled,
    ids,
    randomised,
    rows,
    sampled,
)

import mlp_xp
from mlp_xp import ACTIVATIONS, MLP, Activation, Sequential, from_torch, to_torch
from mlp_xp.export.functions import NotExportable
from mlp_xp.export.to_torch import KINDS, MODULES
from mlp_xp.layers import LAYERS, LSTM, Conv1d, Dense, Last, Residual
from mlp_xp.prepared import Preparation, Scale

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def same(torch: Any, model: Any, module: Any, X: np.ndarray, **close: float) -> None:
    """A module's scores of rows are the model's."""
    with torch.no_grad():
        found = module(torch.tensor(X)).numpy()
    expected = model.scores(X, layout="rows")
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, **(close or CLOSE))


def test_every_row_of_the_tables_has_a_module() -> None:
    assert set(MODULES) == set(ACTIVATIONS)
    assert set(KINDS) == set(LAYERS.values())


@pytest.mark.parametrize(("shape", "layers", "lengths"), STACKS, ids=ids)
def test_layers_are_modules_there_and_back(
    torch: Any, random: np.random.Generator, shape: Any, layers: Any, lengths: bool
) -> None:
    model = randomised(Sequential(shape, layers, dtype="float64"), random)
    module, X = to_torch(model), rows(model, 7, random)
    same(torch, model, module, X)
    back = from_torch(module, model.network.shape)
    np.testing.assert_allclose(back.scores(X, layout="rows"), model.scores(X, layout="rows"))


def test_sampled_networks_are_modules_there_and_back(torch: Any) -> None:
    numbers = np.random.default_rng(SEED).permutation(N_SAMPLES)
    for number in numbers if EXHAUSTIVE else numbers[:N_TAKEN]:
        model = sampled(int(number), lengths=False, dtype="float64")
        print(f"MLP_XP_SEED={SEED}, sample {number}: {model.network.layers}")
        module, X = to_torch(model), rows(model, 5, np.random.default_rng(number))
        same(torch, model, module, X)
        back = from_torch(module, model.network.shape)
        np.testing.assert_allclose(
            back.scores(X, layout="rows"), model.scores(X, layout="rows"), **CLOSE
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
def test_a_dense_network_is_a_module_there_and_back(
    torch: Any, random: np.random.Generator, normalization: Any, residual: bool, dtype: str
) -> None:
    model = MLP(
        (7, 9, 9, 5, 3),
        activation=["gelu", "relu", "selu"],
        normalization=normalization,
        residual=residual,
        dropout=[0.1, 0.0, 0.2],
        dtype=dtype,
    )
    model = randomised(model, random)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else CLOSE
    module, X = to_torch(model), random.normal(size=(9, 7)).astype(dtype)
    same(torch, model, module, X, **close)
    back = from_torch(module)
    same(torch, back, module, X, **close)
    assert isinstance(back, Sequential if residual else MLP)
    assert back.dtype == dtype
    if not residual:
        assert back.network == model.network


def test_a_module_is_trained_and_saved_like_any_other(torch: Any) -> None:
    model = Sequential((2, 6), [Conv1d(4, 3, padding="causal"), LSTM(3), Dense(2)])
    module = to_torch(model)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    X = torch.randn(5, 12)
    assert torch.equal(again(X), module(X))
    again.train()
    torch.nn.functional.cross_entropy(again(X), torch.tensor([0, 1, 0, 1, 0])).backward()
    assert all(p.grad is not None for p in again.parameters())


def test_a_module_of_torchs_own_becomes_an_mlp_that_trains_on(
    torch: Any, random: np.random.Generator
) -> None:
    nn = torch.nn
    module = nn.Sequential(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()),
        nn.Linear(8, 6, bias=False),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Dropout(0.1),
        nn.Linear(6, 3),
    )
    module(torch.randn(50, 4))  # running moments that are none of the first
    module.eval()
    model = from_torch(module, learning_rate=0.01, seed=3)
    X = random.normal(size=(40, 4)).astype(np.float32)
    same(torch, model, module, X, rtol=1e-5, atol=1e-6)
    assert isinstance(model, MLP)
    assert (model.network.normalization, model.network.dropout) == ("batch", (0.0, 0.1))
    before = model.evaluate(X, np.argmax(X[:, :3], axis=1), layout="rows").loss
    model.fit(X, np.argmax(X[:, :3], axis=1), epochs=20, layout="rows", progress=False)
    assert model.evaluate(X, np.argmax(X[:, :3], axis=1), layout="rows").loss < before
    several = from_torch(module, seed=[0, 1])
    assert several.scores(X, layout="rows").shape == (2, 40, 3)


def test_a_network_of_images_is_taken(torch: Any, random: np.random.Generator) -> None:
    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.BatchNorm2d(4, affine=False),
        nn.GELU("tanh"),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2),
        nn.LayerNorm((6, 2, 2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()
    model = from_torch(module, (2, 8, 8))
    X = random.normal(size=(5, 2, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.tensor(X)).numpy()
    np.testing.assert_allclose(model.scores(X, layout="rows"), expected, rtol=1e-5, atol=1e-5)


def test_zeros_before_a_convolution_are_its_padding(
    torch: Any, random: np.random.Generator
) -> None:
    nn = torch.nn
    taken = [
        (nn.ZeroPad2d(3), nn.Conv2d(2, 3, 7, stride=2)),  # as residual networks begin in Keras
        (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 3, 3, stride=2, padding="valid")),
        (nn.ConstantPad2d((2, 2, 1, 1), 0.0), nn.Conv2d(2, 3, (3, 4), stride=(1, 3))),
        (nn.ConstantPad2d((1, 1, 1, 1), 0), nn.Conv2d(2, 3, 3)),
    ]
    X = random.normal(size=(5, 2, 8, 8))
    for pad, convolution in taken:
        module = nn.Sequential(pad, convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
        model = from_torch(module, (2, 8, 8))
        with torch.no_grad():
            expected = module(torch.tensor(X)).numpy()
        np.testing.assert_allclose(model.scores(X, layout="rows"), expected, **CLOSE)


def test_what_flattens_images_takes_them_as_vectors(torch: Any) -> None:
    nn = torch.nn
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    same(torch, from_torch(module), module, np.ones((5, 16), np.float32), rtol=1e-5)
    assert from_torch(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))).network.shape == (4,)


def test_a_skip_round_nothing_comes_back(torch: Any, random: np.random.Generator) -> None:
    model = Sequential(
        4, [Residual([mlp_xp.layers.Activation("identity")]), Dense(2)], dtype="float64"
    )
    back, X = from_torch(to_torch(model), 4), random.normal(size=(3, 4))
    np.testing.assert_allclose(back.scores(X, layout="rows"), model.scores(X, layout="rows"))


def test_raw_features_go_in_there_and_back(torch: Any, random: np.random.Generator) -> None:
    X = random.normal(50, 9, size=(20, 3))
    model = MLP((3, 4, 2), dtype="float64")
    model.preparation = Preparation("cross_entropy", inputs=Scale([50.0] * 3, [9.0, 8.0, 7.0]))
    same(torch, model, to_torch(model), X)
    assert from_torch(to_torch(model)).preparation == model.preparation


def test_an_estimator_is_a_module(torch: Any, random: np.random.Generator) -> None:
    pytest.importorskip("sklearn")
    X = random.normal(size=(30, 4))
    classifier = mlp_xp.NeuralClassifier("dense:4", epochs=1, dtype="float64")
    classifier.fit(X, X[:, 0] > 0)
    same(torch, classifier.model_, to_torch(classifier), X)
    images = mlp_xp.NeuralClassifier("conv:2x2", layout="channels_last", epochs=1)
    images.fit(X.reshape(30, 2, 2, 1), X[:, 0] > 0)
    with pytest.raises(NotExportable, match="Pass its model_"):
        to_torch(images)


def test_one_of_many_networks_is_chosen(torch: Any, random: np.random.Generator) -> None:
    model = MLP((4, 3, 2), seed=[5, 6], dtype="float64")
    X = random.normal(size=(7, 4))
    found = to_torch(model, network=1)(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(found, model.scores(X, layout="rows")[1], **CLOSE)
    with pytest.raises(NotExportable, match=r"holds 2 networks.*from 0 to 1"):
        to_torch(model)
    with pytest.raises(ValueError, match="network is 2, but the model holds 2"):
        to_torch(model, network=2)
    with pytest.raises(ValueError, match="network is -1, but expected at least 0"):
        to_torch(model, network=-1)
    with pytest.raises(TypeError, match="network is True, but expected a whole number"):
        to_torch(model, network=True)


# -- what is refused -----------------------------------------------------------


def test_what_is_of_your_own_is_named(torch: Any) -> None:
    own = Activation(lambda xp, Z: Z * Z, lambda xp, Z: 2 * Z, "Z")
    with pytest.raises(NotExportable, match="layer 2 has an activation of your own"):
        to_torch(MLP((3, 4, 2), activation=own))
    with pytest.raises(NotExportable, match=r"layer 1, Doubled.* is of a kind of your own"):
        to_torch(Sequential(3, [Doubled(), Dense(2)]))
    with pytest.raises(NotExportable, match="sequences of different lengths"):
        to_torch(Sequential((2, 4), [Last(), Dense(2)], lengths=True))
    with pytest.warns(UserWarning, match="does not round to tf32"):
        to_torch(MLP((3, 2), precision="tf32"))


def wrong(nn: Any) -> dict[str, tuple[list[Any], Any]]:
    """What an error says, the modules, and the shape of one example."""
    return {
        r"Softmax\(dim=1\) has no layer here.*Leave it out": (
            [nn.Linear(4, 2), nn.Softmax(1)],
            None,
        ),
        "TransformerEncoderLayer.* has no layer here": ([nn.TransformerEncoderLayer(4, 1)], 4),
        r"GRU\(3, 4\) has no layer here.*Recurrent": ([nn.GRU(3, 4)], (3, 5)),
        "GELU.* has approximate='none': expected 'tanh'": ([nn.Linear(4, 2), nn.GELU()], None),
        "ELU.* has alpha=0.5": ([nn.ELU(0.5), nn.Linear(4, 2)], None),
        "BatchNorm1d.* has eps=0.1": ([nn.BatchNorm1d(4, eps=0.1), nn.Linear(4, 2)], None),
        "LayerNorm.* whose first axis is not": ([nn.LayerNorm(5)], (3, 5)),
        "padding_mode='reflect'": ([nn.Conv1d(3, 2, 3, padding=1, padding_mode="reflect")], (3, 5)),
        "MaxPool1d.* ceil_mode=True": ([nn.MaxPool1d(2, ceil_mode=True)], (3, 5)),
        "count_include_pad=False": ([nn.AvgPool1d(2, None, 1, count_include_pad=False)], (3, 5)),
        "AdaptiveAvgPool1d.* output_size": ([nn.AdaptiveAvgPool1d(2)], (3, 5)),
        r"Linear.* follows examples of \(3, 5\).*nn.Flatten": ([nn.Linear(5, 2)], (3, 5)),
        r"Linear\(in_features=24.* does not take examples of \(3,\)": (
            [nn.Linear(8, 3), nn.Flatten(), nn.Linear(24, 3)],
            None,
        ),
        r"BatchNorm1d\(2.* does not take examples of \(4,\)": (
            [nn.BatchNorm1d(2), nn.Linear(4, 2)],
            4,
        ),
        "start_dim=2": ([nn.Flatten(2)], (3, 5)),
        "ConstantPad1d.* has zeros that no": (
            [nn.ConstantPad1d((0, 1), 0.0), nn.Conv1d(3, 2, 3)],
            (3, 5),
        ),
        "ConstantPad1d.* has zeros": (
            [nn.ConstantPad1d((1, 1), 0.0), nn.Conv1d(3, 2, 3, padding=1)],
            (3, 5),
        ),
        "ZeroPad1d.* has no layer here": (
            [nn.ZeroPad1d(1), nn.ZeroPad1d(0), nn.Conv1d(3, 2, 3)],
            (3, 5),
        ),
        "ZeroPad1d.* has zeros": (
            [nn.ZeroPad1d(1), nn.AvgPool1d(3)],
            (3, 5),
        ),
        "ModuleList.* has no layer here": ([nn.ModuleList([nn.Linear(4, 2)])], None),
        "shape is None, but the first module": ([nn.Conv2d(1, 2, 3), nn.Flatten()], None),
    }


@pytest.mark.parametrize("number", range(21))
def test_what_has_no_layer_here_is_named(torch: Any, number: int) -> None:
    message, (modules, shape) = list(wrong(torch.nn).items())[number]
    with pytest.raises(ValueError, match=message):
        from_torch(torch.nn.Sequential(*modules), shape)


def test_a_forward_pass_of_your_own_is_no_chain(torch: Any) -> None:
    nn = torch.nn

    class Skip(nn.Sequential):  # type: ignore[misc, name-defined]
        def forward(self, X: Any) -> Any:
            return X + super().forward(X)

    class Named(nn.Sequential):  # type: ignore[misc, name-defined]
        pass

    with pytest.raises(NotExportable, match=r"Skip\(.* has no layer here"):
        from_torch(nn.Sequential(Skip(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)))
    named = Named(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    same(torch, from_torch(named), named, np.ones((3, 4), np.float32), rtol=1e-5)


def test_a_module_with_hooks_is_refused(torch: Any) -> None:
    nn = torch.nn
    inner, outer = nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 2))
    inner.register_forward_hook(lambda module, given, answer: 2 * answer)
    outer.register_forward_pre_hook(lambda module, given: 2 * given[0])
    for module in (nn.Sequential(inner), outer):
        with pytest.raises(NotExportable, match="has hooks, which may change"):
            from_torch(module)


def test_a_forward_pass_that_a_module_was_given_is_refused(torch: Any) -> None:
    nn = torch.nn
    for inside in (False, True):
        module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        changed = module[1] if inside else module
        changed.forward = lambda X: -X
        with pytest.raises(NotExportable, match="has a forward pass of its own, which may change"):
            from_torch(module)


def test_what_is_no_module_is_refused(torch: Any) -> None:
    with pytest.raises(TypeError, match="from_torch got a list"):
        from_torch([])


def test_without_pytorch_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (lambda: to_torch(MLP((3, 2))), lambda: from_torch(None)):
        with pytest.raises(ImportError, match=r"pip install 'mlp_xp\[torch\]'"):
            call()
