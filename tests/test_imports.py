"""Imports point one way, and `import mlp_xp` is light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mlp_xp

PACKAGE = Path(mlp_xp.__file__).parent

PACKAGES = ("layers", "compile", "export", "estimators", "plotting", "searching", "commands")

# a module may import from those before it
ORDER = [
    "extras",
    "meant",
    "cached",
    "begun",
    "types",
    "pickling",
    "guard",
    "activations",
    "losses",
    "draws",
    "initializers",
    "schedules",
    "optimizers",
    "kernels",
    "hardware",
    "architecture",
    "network",
    "layers",
    "training",
    "fast",
    "compile",
    "devices",
    "explained",
    "passes",
    "fitting",
    "ranks_cuda",
    "ranks",
    "cells",
    "columns",
    "prepared",
    "report",
    "exchange",
    "checks",
    "readers",
    "streams",
    "rates",
    "model",
    "mlp",
    "sequential",
    "description",
    "summary",
    "inspection",
    "headers",
    "storage",
    "export",
    "checkpoints",
    "checkpoints_models",
    "ranks_dask",
    "estimators",
    "packing",
    "plotting",
    "trackers",
    "tutorial_steps",
    "tutorial_layers",
    "tutorial",
    "tables",
    "data",
    "recognise",
    "preparation",
    "fingerprint",
    "tally",
    "scoring",
    "identifiers",
    "defaults",
    "searching",
    "commands",
    "bench",
    "selftest",
    "cli",
    "__main__",
    "__init__",
]


def test_the_readmes_map_is_that_order() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    listed = readme.split("\n## Map\n")[1].split("```")[1]
    rows = re.findall(r"^((?:\w+/?, )*\w+/?)  ?", listed, re.MULTILINE)
    assert [name.rstrip("/") for row in rows for name in row.split(", ")] == ORDER[:-2]


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            if node.module is None:
                found |= {alias.name for alias in node.names}
            else:
                found.add(node.module.split(".")[0])
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    place = ORDER.index(path.stem)
    later = {name for name in imported(path) if ORDER.index(name) >= place}
    # reached when called: Model.save, load, fit, to_onnx and summary
    kept = {"storage", "checkpoints", "checkpoints_models"}
    allowed = {
        "model": {*kept, "description", "summary", "export"},
        "mlp": {"description"},
        "sequential": {"description"},
        "ranks": {"checkpoints", "ranks_dask"},
    }
    assert later <= allowed.get(path.stem, set())


@pytest.mark.parametrize(
    "path",
    [path for name in PACKAGES for path in sorted((PACKAGE / name).glob("*.py"))],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_a_file_of_a_package_imports_only_what_stands_before_that(path: Path) -> None:
    names = {
        (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 2
    }
    place = ORDER.index(path.parent.name)
    assert {name for name in names if name and ORDER.index(name) >= place} == set()


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """What a module imports of the package when it runs, inside functions too."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    typed = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in typed:
            above = ".".join(folder[: len(folder) + 1 - node.level])
            base = f"{above}.{node.module}" if node.module else above
            for alias in node.names:
                target = f"{base}.{alias.name}"
                found.add(target if target in known else base)
    return found & set(known) - {name, "mlp_xp"}


def test_no_files_go_in_circles() -> None:
    known = modules()
    graph = {name: arrows(name, path, known) for name, path in known.items()}
    # what a method of a model reaches when it is called, and a stream's feed
    later = {"storage", "checkpoints_models", "export.deploy"}
    graph["mlp_xp.model"] -= {f"mlp_xp.{name}" for name in later}
    graph["mlp_xp.ranks"] -= {"mlp_xp.checkpoints", "mlp_xp.ranks_dask"}
    graph["mlp_xp.streams.streamed"] -= {"mlp_xp.streams.feed"}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which tells them
    assert len(order) == len(known) > 150


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_importing_brings_no_other_library() -> None:
    code = "import sys, numpy; a = set(sys.modules); import mlp_xp; print(*set(sys.modules) - a)"
    packages = {name.split(".")[0] for name in run(code).split()}
    heavy = packages - set(sys.stdlib_module_names) - {"mlp_xp", "numpy"}
    assert heavy == set()
    late = {"mlp_xp.layers", "mlp_xp.sequential", "mlp_xp.estimators"}
    assert not late & set(run(code).split())
    assert "numpy.testing" not in run(code)


@pytest.mark.parametrize("name", ["data", "layers", "plotting", "trackers", "tutorial"])
def test_a_module_of_more_is_imported_when_it_is_asked_for(name: str) -> None:
    assert run(f"import mlp_xp; print(mlp_xp.{name}.__name__)") == f"mlp_xp.{name}\n"


def test_a_star_brings_all_that_needs_numpy_alone() -> None:
    """scikit-learn's face takes ten times as long to import as the rest."""
    late = {name for name, module in mlp_xp.LATE.items() if not module.startswith("estimators")}
    assert late <= set(mlp_xp.__all__)
    program = (
        "import sys; from mlp_xp import *; Sequential, load_table; "
        "print({'sklearn', 'scipy', 'pandas', 'torch', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_first_fit_brings_nothing_that_it_does_not_use() -> None:
    pytest.importorskip("sklearn")
    code = """if True:
        import sys, warnings
        import numpy as np
        from mlp_xp import MLPClassifier
        warnings.simplefilter("ignore")
        MLPClassifier((3,), max_iter=1).fit(np.eye(4), [0, 1, 0, 1])
        print(*sys.modules)
    """
    late = ("ranks", "checkpoints", "storage", "streams", "layers", "model", "report")
    assert not {f"mlp_xp.{name}" for name in late} & set(run(code).split())
