"""Under --json standard output is one JSON document, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, cli
from mlp_xp.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]

WRONG = {
    "no command": ((), "required: COMMAND"),
    "unknown command": (("trian",), "Did you mean 'train'?"),
    "unknown option": (
        ("train", "--epoch", "3"),
        "unrecognized arguments: --epoch 3. Did you mean '--epochs'?",
    ),
    "no option": (("devices", "--quantum"), "unrecognized arguments: --quantum"),
    "value": (("train", "--epochs", "0"), "argument --epochs: '0', but expected a whole number"),
    "name": (("train", "--loss", "mse"), "Did you mean 'squared_error'?"),
    "no data": (("predict", "m"), "required: DATA"),
    "no value": (("evaluate", "m", "digits", "--device"), "--device: expected one argument"),
    "late check": (("train", "--held-out", "1"), "--held-out is 1, but expected"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_a_wrong_command_line_is_a_document_too(
    case: str, first: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, message = WRONG[case]
    command, options = argv[:1], argv[1:]
    words = [*command, "--json", *options] if first else [*argv, "--json"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert set(document) == {"error"}
    assert message in document["error"]
    assert f"error: {document['error']}\n" in err


def test_without_json_a_wrong_command_line_says_nothing_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "--epochs", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    usage, error = err.splitlines()
    assert usage == "usage: mlp-xp train [options]"
    assert error.startswith("mlp-xp train: error: argument --epochs: '0'")


def test_after_two_dashes_json_is_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--", "m", "d", "--json"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("argv", [["--help", "--json"], ["--version"], ["train", "--help"]])
def test_help_and_version_stay_text(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith(("usage: mlp-xp", "mlp-xp "))


def test_a_fault_of_ours_leaves_a_document_beside_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(args: Any) -> Any:
        raise AssertionError("never")

    monkeypatch.setitem(cli.COMMANDS, "devices", COMMANDS["devices"]._replace(run=broken))
    with pytest.raises(AssertionError):
        main(["devices", "--json"])
    assert json.loads(capsys.readouterr().out) == {"error": "AssertionError: never"}


def test_letters_survive_a_standard_output_that_has_none(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    np.save(tmp_path / "größe.npy", np.eye(3))
    MLP((3, 2)).save(tmp_path / "m")
    argv = [sys.executable, "-m", "mlp_xp", "predict", "m", "größe.npy", "--json"]
    found = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, check=True)
    assert json.loads(found.stdout)["data"] == "größe.npy"
