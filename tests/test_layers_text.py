"""Layers in a line of text, and the command that takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import ACTIVATIONS, MLP, Sequential
from mlp_xp.cli import main
from mlp_xp.layers import (
    GRU,
    LAYERS,
    LSTM,
    Activation,
    AvgPool,
    BatchNorm,
    Conv1d,
    Conv2d,
    Dense,
    Dropout,
    Elman,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Last,
    LayerNorm,
    MaxPool,
    Reshape,
    Residual,
)
from mlp_xp.layers.text import WORDS, layers_of

IMAGE, SEQUENCE = (1, 12, 12), (3, 20)
RELU = Activation("relu")

LINES: list[tuple[str, tuple[int, ...], list[Any]]] = [
    ("conv:8x3,pool:2,dense:16", IMAGE,
     [Conv2d(8, 3), RELU, MaxPool(2), Flatten(), Dense(16), RELU]),
    ("conv:8x3x1:stride=2x1:padding=1,avgpool:2:stride=1", IMAGE,
     [Conv2d(8, (3, 1), stride=(2, 1), padding=1), RELU, AvgPool(2, stride=1), Flatten()]),
    ("conv:8x3:bias=false,batchnorm,globalpool", IMAGE,
     [Conv2d(8, 3, bias=False), BatchNorm(), RELU, GlobalAvgPool()]),
    ("conv:8x3,tanh,layernorm:over=all,dropout:0.25", IMAGE,
     [Conv2d(8, 3), Activation("tanh"), LayerNorm("all"), Dropout(0.25), Flatten()]),
    ("conv:8x3:padding=causal:dilation=2,lstm:5:directions=2:returns=all,gru:4", SEQUENCE,
     [Conv1d(8, 3, padding="causal", dilation=2), RELU, LSTM(5, "all", 2), GRU(4)]),
    ("reshape:12x12,elman:4:activation=relu", (144,),
     [Reshape((12, 12)), Elman(4, activation="relu")]),
    ("embedding:50x8, pool:2, flatten, dense:7", (20,),
     [Embedding(50, 8), MaxPool(2), Flatten(), Dense(7), RELU]),
    ("conv:4x1,residual(conv:4x3:padding=same,batchnorm,residual(relu),identity)", IMAGE,
     [Conv2d(4, 1), RELU, Residual((Conv2d(4, 3, padding="same"), BatchNorm(), RELU,
      Residual((RELU,)), Activation("identity"))), Flatten()]),
    ("conv:4x2:padding=causal,last", SEQUENCE, [Conv1d(4, 2, padding="causal"), RELU, Last()]),
    ("dense:5,batchnorm", (6,), [Dense(5), BatchNorm(), RELU]),
    ("dense:5,identity", (6,), [Dense(5), Activation("identity")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    LINES,
    ids=lambda value: None if isinstance(value, list) else str(value)[:30],
)
def test_a_line_is_the_layers_it_names(
    text: str, shape: tuple[int, ...], expected: list[Any]
) -> None:
    found = layers_of(text, shape, 3)
    assert list(found) == [*expected, Dense(3)]
    Sequential(shape, found)


def test_every_kind_and_every_activation_has_a_word() -> None:
    text = " ".join([*(line for line, *_ in LINES)])
    assert all(f"{word}" in text for word in WORDS)
    kinds = {type(kind) for _, _, layers in LINES for kind in layers}
    assert kinds == set(LAYERS.values())
    for name in ACTIVATIONS:
        assert Activation(name) in layers_of(f"dense:4,{name}", (3,), 2)


WRONG: list[tuple[str, str]] = [
    ("", "nothing stands before or after a comma"),
    ("dense:4,", "nothing stands before or after a comma"),
    ("convolution:4", "layers has 'convolution:4', but expected one of dense, conv"),
    ("conv2d:4x3", "Did you mean 'conv'"),
    ("dense:4,softmax", "has its softmax from the loss 'cross_entropy'"),
    ("conv:4", "'conv:4', but expected conv:CHANNELSxKERNEL"),
    ("conv:4x3x3x3", "but expected conv:CHANNELSxKERNEL"),
    ("flatten:3", "'flatten:3', but expected flatten alone"),
    ("dense:1.5", "'dense:1.5', in which '1.5' is no whole number"),
    ("dense:4y", "in which '4y' is no whole number"),
    ("dropout:half", "in which 'half' is no number"),
    ("dropout:2", "'dropout:2', which cannot be: rate is 2"),
    ("dense:0", "'dense:0', which cannot be: units is 0"),
    ("dense:4:size=3", "'dense:4:size=3', which cannot be: it has no option 'size', but bias"),
    ("conv:4x3:strid=2", "no option 'strid', but stride, .*bias. Did you mean 'stride'"),
    ("pool:2:strid=2", "it has no option 'strid', but stride, padding"),
    ("dropout:0.2:rat=0", "it has no option 'rat', but none at all"),
    ("conv:4x3:padding=full", "which cannot be: padding is 'full'"),
    ("conv:4x99", "'conv:4x99', which cannot stand there: .*at least 99 places"),
    ("gru:4", r"'gru:4', which cannot stand there: .*takes sequences"),
    ("residual(dense:4", r"lacks a '\)'"),
    ("dense:4),dense:3", r"a '\)' too many after 'dense:4'"),
    ("residual(conv:2x3)", "which cannot stand there: .*Say how the input gets there"),
    ("residual(foo:2)", "layers has 'foo:2'"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_an_error_names_the_piece(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers_of(text, IMAGE, 3)


def test_a_sequence_has_one_kernel() -> None:
    with pytest.raises(ValueError, match=r"expected one kernel, conv:32x3"):
        layers_of("conv:4x3x3", SEQUENCE, 3)


# -- the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_trains_reads_back_and_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "--layers", "conv:8x3,pool:2,dense:32", "--epochs", "12", "--no-progress"]
    assert main([*line, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["held_out"]["accuracy"] > 0.85
    model = Sequential.load(here / "model.safetensors")
    assert [type(kind) for kind in model.network.layers][:3] == [Conv2d, Activation, MaxPool]
    assert model.network.shape == (1, 8, 8)
    assert main(["train", "--resume", "model.safetensors", "--epochs", "1", "--no-progress"]) == 0
    assert main(["evaluate", "model.safetensors", "digits", "--json"]) == 0
    capsys.readouterr()
    assert main(["predict", "model.safetensors", "digits"]) == 0
    answers = capsys.readouterr().out.split()
    assert len([word for word in answers if word.isdecimal()]) >= 1797


def test_a_shape_is_taken_as_it_is_given(here: Path) -> None:
    given = ["--layers", "gru:6,dense:8", "--shape", "4x16", "--epochs", "1", "--no-progress"]
    assert main(["train", *given]) == 0
    assert Sequential.load("model.safetensors").network.shape == (4, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "conv:8x99"], "layers has 'conv:8x99'"),
        (["--layers", "dense:8", "--shape", "3x3"], "shape is 3x3, 9 numbers"),
        (["--layers", "dense:8", "--hidden", "8"], "--hidden goes with a dense network"),
        (["--layers", "dense:8", "--dropout", "0.1"], "--dropout goes with a dense network"),
        (["--shape", "8x8"], "--shape says how an example lies for --layers"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    try:
        code = main(["train", *options, "--no-progress"])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (here / "model.safetensors").exists()


def test_a_line_of_dense_layers_is_the_mlp(random: np.random.Generator) -> None:
    chain = Sequential(6, layers_of("dense:7,dense:5", (6,), 3), dtype="float64")
    dense = MLP((6, 7, 5, 3), dtype="float64")
    np.testing.assert_array_equal(chain._run.state.theta, dense._run.state.theta)


def test_a_model_for_data_takes_layers_too() -> None:
    from mlp_xp import model_for
    from mlp_xp.data import load

    data = load("digits")
    model = model_for(data, layers="conv:8x3,pool:2", activation="tanh", seed=1)
    assert isinstance(model, Sequential)
    assert model.network.shape == (1, 8, 8)
    assert Activation("tanh") in model.network.layers
    model.fit(data.X, data.y, epochs=2, layout="rows", progress=False)
    assert set(model.predict(data.X)) <= set(range(10))
    rows = model_for(data, layers="gru:8", shape=(8, 8))
    assert rows.network.sizes[0] == 64
    with pytest.raises(ValueError, match="shape is 9x8, 72 numbers, but an example has 64"):
        model_for(data, layers="gru:8", shape=(9, 8))


def test_show_tells_the_layers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--layers", "conv:8x3,pool:2", "--epochs", "1", "--no-progress"]
    assert main(line) == 0
    capsys.readouterr()
    assert main(["show", "model.safetensors"]) == 0
    told = capsys.readouterr().out
    assert "Conv2d(8, 3)" in told
    assert "8×6×6" in told
    assert main(["train", *line[1:], "--dry-run"]) == 0
