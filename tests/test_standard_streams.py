"""Commands whose streams are closed, whose reader has gone, or whose disk is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlp_xp import MLP
from mlp_xp.cli import main

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX shells")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    MLP((64, 10)).save("m")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    line = line.replace("mlp-xp", f"{sys.executable} -m mlp_xp")
    return subprocess.run(line, shell=True, capture_output=True, text=True)


@pytest.mark.parametrize(
    "line",
    ["show m >&-", "predict m digits --json >&-", "predict m digits >&-", "predict m digits 2>&-"],
)
def test_what_is_for_a_closed_stream_goes_nowhere(line: str) -> None:
    found = shell(f"mlp-xp {line}")
    assert (found.returncode, found.stderr) == (0, "")
    assert len(found.stdout.splitlines()) == (1798 if "2>&-" in line else 0)


def test_an_error_that_nobody_can_read_is_no_output() -> None:
    assert shell("mlp-xp show nope 2>&-").stdout == ""


def test_a_closed_standard_input_is_said() -> None:
    pytest.importorskip("pandas")
    found = shell("mlp-xp predict m - <&-")
    assert found.returncode == 1
    assert found.stderr.endswith("standard input is closed, but expected a table in it.\n")
    assert found.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", ["show m", "show m --json", "predict m digits", "devices"])
def test_a_full_disk_behind_standard_output_is_one_line(command: str) -> None:
    found = shell(f"mlp-xp {command} > /dev/full")
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("mlp-xp: error: ")
    assert "No space left on device" in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr


def test_a_file_for_which_there_is_no_room_is_named() -> None:
    argv = "train --epochs 1 --hidden 512 --no-progress"
    found = shell(f"ulimit -f 8; mlp-xp {argv} --out full.safetensors")
    assert found.returncode == 1
    assert found.stderr == "mlp-xp: error: full.safetensors: File too large\n"
    assert sorted(os.listdir()) == ["m"]


def test_turns_without_an_end_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for seconds in ("nan", "inf", "0"):
        assert main(["bench", "--seconds", seconds]) == 2
        assert "--seconds must be numbers above 0" in capsys.readouterr().err
