"""What the README and `examples/` show runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import need

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(script: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_penguins(path: Path) -> None:
    """A table of the columns that the README shows, its own rows among others."""
    header, *first = re.findall(r"^(?:species|Adelie),.*$", README, re.MULTILINE)
    assert (header.count(","), len(first)) == (7, 4)
    kinds = ("Adelie,Torgersen,39", "Chinstrap,Dream,49", "Gentoo,Biscoe,47")
    rows = [
        f"{kinds[i % 3]}.{i % 10},{18 - i % 3}.{i % 7},{190 + 10 * (i % 3)}.0,{3700 + i}.0,"
        f"{('male', 'female')[i % 2]},{2007 + i % 3}"
        for i in range(60)
    ]
    path.write_text("\n".join([header, *first, *rows]) + "\n", encoding="utf-8")


def write_numbers(path: Path) -> None:
    """The file that the README streams, a small one."""
    pandas, random = pytest.importorskip("pandas"), np.random.default_rng(0)
    columns = {name: random.normal(size=200) for name in ("a", "b")}
    pandas.DataFrame({**columns, "y": random.integers(0, 3, 200)}).to_parquet(path)


def test_the_readmes_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    write_penguins(tmp_path / "penguins.csv")
    write_numbers(tmp_path / "big.parquet")
    out = run(script, tmp_path)
    score = re.search(r"score=(0\.\d+)", out)
    assert score is not None
    assert float(score[1]) > 0.9
    assert (tmp_path / "digits.safetensors").is_file()


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_runs(script: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = script.read_text(encoding="utf-8")
    for library in ("cupy", "matplotlib", "onnxruntime"):
        if f"import {library}" in text:
            need(request, library)
    assert run(script, tmp_path)
