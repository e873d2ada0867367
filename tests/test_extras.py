"""The cure for what is not installed works where it is read: of a package, and of a clone."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from mlp_xp import extras

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TEXTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "bench/*", "ci/*", "examples/*.py", "mlp_xp/**/*.py")
    for path in ROOT.glob(pattern)
    if path.suffix in (".md", ".py", ".sh")
]


def test_an_extra_of_an_installed_package_is_found_by_its_name() -> None:
    assert extras.cure("onnx") == "pip install 'mlp_xp[onnx]'"
    error = extras.missing("This needs X", "onnx", ImportError("no X", name="X"))
    assert str(error) == "This needs X (no X): pip install 'mlp_xp[onnx]'"
    assert error.name == "X"


def test_an_extra_of_a_clone_that_is_not_installed_is_found_by_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", nowhere)
    assert extras.cure("onnx") == f"pip install -e '{ROOT}[onnx]'"
    monkeypatch.setattr(extras, "ROOT", tmp_path)  # a copy of the package alone
    assert extras.cure("onnx") == "pip install 'mlp_xp[onnx]'"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_extras_and_groups_that_are_named_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?:mlp_xp|['\" ]\.)\[([a-z0-9,-]+)\]", text)
    named += re.findall(r"""(?:missing|cure)\((?:[^()]*, )?["']([a-z0-9,]+)["']""", text)
    assert {name for one in named for name in one.split(",")} <= set(
        PROJECT["project"]["optional-dependencies"]
    )
    groups = re.findall(r"--group[ =]([a-z]+(?:-[a-z]+)*)", text)
    assert set(groups) <= set(PROJECT["dependency-groups"])


def test_every_dependency_has_a_lowest_version() -> None:
    listed = [PROJECT["project"]["dependencies"]]
    listed += PROJECT["project"]["optional-dependencies"].values()
    bounds = [one for part in listed for one in part if not one.startswith("mlp_xp[")]
    assert len(bounds) > 10
    assert [one for one in bounds if not re.search(r"[\w\]]>=\d", one)] == []
