"""The site: its guides run as they stand, and its reference is whole."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import mlp_xp
from conftest import need

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GUIDES = [ROOT / "CONTRIBUTING.md", DOCS / "index.md", *sorted((DOCS / "guides").glob("*.md"))]
REFERENCE = "\n".join(
    path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference").glob("*.md"))
)
OF_NAMES = ("data", "layers")  # modules whose names have their own places in the reference
NAMES = [name for name in dir(mlp_xp) if name not in ("__version__", *mlp_xp.MODULES)]
PUBLIC = [f"mlp_xp.{name}" for name in NAMES] + [
    f"mlp_xp.{module}.{name}"
    for module in OF_NAMES
    for name in getattr(mlp_xp, module).__all__
    if name not in NAMES
]


def module(name: str) -> Any:
    """A module of the site's folder."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide_runs_from_top_to_bottom(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for library in ("cupy", "skops"):
        if f"import {library}" in text:
            need(request, library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile("\n".join(blocks), str(page), "exec"), names)
    assert "mlp_xp" in text


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    where, _, short = name.rpartition(".")
    thing = getattr(importlib.import_module(where), short)
    assert re.search(rf"^\.\. auto\w+:: {re.escape(name)}$", REFERENCE, re.MULTILINE), (
        f"{name} is in no page of docs/reference"
    )
    if isinstance(thing, dict):
        assert thing
        return
    assert len(inspect.getdoc(thing) or "") > 20
    if inspect.isclass(thing) and where == "mlp_xp":  # of layers, `layers.base` says what they do
        methods = {key: getattr(thing, key) for key in vars(thing) if key[0] != "_"}
        asked = {key: one for key, one in methods.items() if inspect.isroutine(one)}
        assert [key for key, one in asked.items() if not inspect.getdoc(one)] == []


@pytest.mark.parametrize("name", [name for name in mlp_xp.MODULES if name not in OF_NAMES])
def test_a_module_of_more_is_documented_as_a_whole(name: str) -> None:
    assert f".. automodule:: mlp_xp.{name}\n   :members:\n" in REFERENCE
    things = getattr(mlp_xp, name)
    assert [one for one in things.__all__ if not inspect.getdoc(getattr(things, one))] == []


def test_files_that_contributors_are_sent_to_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:bash )?((?:mlp_xp|tests|ci|docs|examples)/[\w./]*)`", text)
    assert len(set(named)) > 20
    assert [name for name in named if not (ROOT / name).exists() and name != "docs/build"] == []


def test_the_version_to_cite_is_the_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {mlp_xp.__version__}\n" in text


def test_what_is_aligned_in_a_docstring_becomes_terms() -> None:
    converted = (
        module("docstrings")
        .Text(
            [
                "A thing_ of *one* | line.",
                "",
                "sizes       n_features, widths",
                "            of `MLP`",
                "a, b,       two",
                "c",
                "",
                "Such as:",
                "",
                "    f(x)  # code_",
                "",
                "Parameters",
                "----------",
                "X : array (m, n)",
                "first_, second_,",
                "third_ : others",
            ]
        )
        .converted()
    )
    text = re.sub("\n{2,}", "\n\n", "\n".join(converted))
    assert text.startswith(r"A thing\_ of \*one\* \| line.")
    assert "``sizes``\n    n_features, widths\n    of `MLP`\n``a, b, c``\n    two\n" in text
    assert "Such as::\n\n    f(x)  # code_\n" in text
    assert ".. rubric:: Parameters\n\n``X``\n    array (m, n)\n" in text
    assert "``first_, second_, third_``\n    others" in text


def test_links_lead_to_pages_of_the_site_or_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "docstrings", module("docstrings"))
    conf = module("conf")
    text = "[a](README.md#b) [c](docs/gpu.md) [d](examples/digits.py) [`e`](ci/check.sh) [f](#f)"
    assert conf.relinked(text, ROOT) == (
        "[a](/pages/readme.md#b) [c](/gpu.md) [d](/gallery/digits.rst) `e` [f](#f)"
    )
    assert all((ROOT / name).is_file() for name in conf.PAGES)


@pytest.mark.parametrize(
    "page",
    [path for pattern in ("*.md", "docs/**/*.md", "bench/*.md") for path in ROOT.glob(pattern)
     if path.parent.name not in ("pages", "gallery")],
    ids=lambda page: str(page.relative_to(ROOT)),
)  # fmt: skip
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:|mailto:|#|pages/|gallery/)([^)\s#]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda s: s.stem)
def test_an_example_has_a_title_for_the_gallery(script: Path) -> None:
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert text is not None
    title, line = text.splitlines()[:2]
    assert line == "=" * len(title)


def test_a_picture_without_a_text_and_what_is_loaded_from_elsewhere_are_found(
    tmp_path: Path,
) -> None:
    whole = '<img src="a.png" alt="a curve"><a href="https://optuna.org">Optuna</a>'
    (tmp_path / "whole.html").write_text(whole)
    assert module("check").faults(tmp_path) == []
    (tmp_path / "bad.html").write_text('<img src="b.png" alt=""><script src="https://x/y.js">')
    assert module("check").faults(tmp_path) == [
        "bad.html: the picture b.png has no text",
        "bad.html: script loads https://x/y.js",
    ]
