"""What a caller names: files, and columns of them, each for one thing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skrub")
pytest.importorskip("pyarrow")

import pandas

from mlp_xp import load_table, model_for, prepare, stream
from mlp_xp.cli import main
from mlp_xp.data import DataError, load

M = 60


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """t.csv and t.parquet, numbers alone but for the gaps n/a."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": rng.normal(size=M), "n": rng.normal(size=M), "id": range(M)})
    frame["y"] = (frame.a > 0).astype(int)
    frame.to_parquet("t.parquet", row_group_size=10)
    frame["word"] = ["n/a" if i % 9 == 0 else "na"[i % 2] for i in range(M)]
    frame.to_csv("t.csv", index=False)


def test_one_name_may_stand_without_a_list() -> None:
    """A text is a sequence of letters, which name other columns and other gaps."""
    data = load_table("t.csv", "y", drop="id", missing="n/a")
    assert list(data.X.columns) == ["a", "n", "word"]
    assert set(data.X.word.dropna()) == {"n", "a"}
    assert stream("t.parquet", "y", drop="id").features == ("a", "n")
    assert prepare(load_table("t.csv", "y"), keep="id").features == ("a", "n", "id", "word")


@pytest.mark.parametrize("given", [3, [3]], ids=repr)
@pytest.mark.parametrize("argument", ["target", "drop", "missing"])
def test_what_is_no_name_is_refused(argument: str, given: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{argument} is .*, but expected .*, or a list of them"):
        load_table("t.csv", **{argument: given})


@pytest.mark.parametrize("read", [load_table, stream], ids=lambda read: read.__name__)
def test_a_column_is_a_target_once_and_not_left_out(read: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="'y' is named as a target twice: name it once"):
        read("t.parquet", target=["y", "y"])
    with pytest.raises(DataError, match=r"'y' is what to predict, and drop \(--drop\) leaves it"):
        read("t.parquet", target="y", drop=["y"])


@pytest.mark.parametrize("memory", [(), ("--memory", "1MB")], ids=["whole", "streamed"])
def test_the_command_says_so_too(
    memory: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("train", "--data", "t.parquet", "--target", "y", "--drop", "id", *memory)
    assert main([*data, "--target", "y"]) == 1
    assert "'y' is named as a target twice" in capsys.readouterr().err
    assert main([*data, "--drop", "y"]) == 1
    assert "--drop" in capsys.readouterr().err


def test_a_column_to_keep_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"keep names 'nope'.*its columns are 'a', 'n', 'id'"):
        prepare(load_table("t.csv", "y"), keep=["nope"])


@pytest.mark.parametrize("memory", [(), ("--memory", "1MB")], ids=["whole", "streamed"])
def test_a_model_that_is_trained_on_keeps_its_columns(
    memory: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ("--data", "t.parquet", "--target", "y", "--epochs", "1", "--no-progress", *memory)
    assert main(["train", *usual, "--drop", "id"]) == 0
    again = ("train", *usual, "--resume", "model.safetensors", "--drop")
    assert main([*again, "id"]) == 0  # as it was
    capsys.readouterr()
    assert main([*again, "a"]) == 2
    assert "--drop a: the model in model.safetensors takes it" in capsys.readouterr().err


# -- files ---------------------------------------------------------------------------


@pytest.mark.parametrize("read", [load_table, load], ids=lambda read: read.__name__)
def test_a_path_that_is_no_file_is_named(read: Callable[..., Any], tmp_path: Path) -> None:
    for source, why in (("nope.csv", "does not exist"), (str(tmp_path), "is not a file")):
        with pytest.raises(DataError, match=rf"{source} {why}: expected a \.csv"):
            read(source)


@pytest.mark.parametrize("source", [None, 3, np.zeros((3, 2))], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("read", [load_table, load], ids=lambda read: read.__name__)
def test_what_is_no_path_is_refused(read: Callable[..., Any], source: Any) -> None:
    with pytest.raises(TypeError, match=f"source is an? {type(source).__name__}, but expected"):
        read(source)


def test_an_empty_name_is_no_default(capsys: pytest.CaptureFixture[str]) -> None:
    """A variable of the shell that is not set must not train on the digits."""
    for argument in ("--data", "--out", "--checkpoint"):
        assert main(["train", argument, "", "--epochs", "1", "--hidden", "4"]) == 2
        assert f"argument {argument}: it is empty" in capsys.readouterr().err
    assert main(["search", "--storage", ""]) == 2
    assert main(["predict", "m.safetensors", "t.csv", "--out", ""]) == 2
    assert sorted(path.name for path in Path().iterdir()) == ["t.csv", "t.parquet"]


# -- models --------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["scale", "loss"])
def test_a_preparation_of_no_known_name_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is 'nope', but expected one of"):
        prepare(load_table("t.csv", "y"), **{argument: "nope"})


def test_the_loss_of_a_model_for_data_is_that_of_its_preparation() -> None:
    data = load_table("t.csv", "y")
    with pytest.raises(ValueError, match="the preparation is for 'cross_entropy': pass found="):
        model_for(data, loss="squared_error")
    assert model_for(data, found=prepare(data, loss="squared_error")).loss.kind == "real"
    with pytest.raises(TypeError, match=r"hidden is 8, but expected widths, such as \(256, 128\)"):
        model_for(data, hidden=8)  # type: ignore[arg-type]
