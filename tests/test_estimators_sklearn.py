"""What scikit-learn asks of every estimator, and its own tests of these two, on ours."""
# ruff: noqa: E402  (scikit-learn may be missing)

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn import neural_network

from mlp_xp import MLPClassifier, MLPRegressor

# its tests of these classes warn as they please
pytestmark = pytest.mark.filterwarnings("ignore")

# Tests that reach into private functions, and why ours cannot have them.
PRIVATE = {
    "test_gradient": "calls _loss_grad_lbfgs with scikit-learn's own lists of activations and "
    "deltas; tests/test_network.py and test_training.py compare our gradient with differences",
}


def _their_tests() -> ModuleType:
    """scikit-learn's test file, loaded with our classes in the place of its own."""
    path = Path(sklearn.__file__).parent / "neural_network" / "tests" / "test_mlp.py"
    if not path.is_file():
        pytest.skip(
            f"scikit-learn was installed without its tests ({path})", allow_module_level=True
        )
    spec = importlib.util.spec_from_file_location("sklearn_test_mlp", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    classes = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
    with mock.patch.multiple(neural_network, **classes):
        spec.loader.exec_module(module)
    return module


THEIR_TESTS = _their_tests()
for _name, _test in vars(THEIR_TESTS).items():
    if _name.startswith("test_"):
        mark = pytest.mark.skip(reason=PRIVATE[_name]) if _name in PRIVATE else lambda test: test
        globals()[_name] = mark(_test)


@pytest.fixture
def global_random_seed() -> int:
    """scikit-learn's fixture of this name."""
    return 42


def test_their_tests_are_run_on_our_classes() -> None:
    assert THEIR_TESTS.MLPClassifier is MLPClassifier
    assert THEIR_TESTS.MLPRegressor is MLPRegressor
    assert sum(name.startswith("test_") for name in globals()) > 40


CHECK = """
import json, sys, warnings
warnings.simplefilter("ignore")
from sklearn import neural_network
from sklearn.utils.estimator_checks import check_estimator
import mlp_xp

def statuses(est):
    found = check_estimator(est, on_fail=None, on_skip=None)
    return [(row["check_name"], row["status"], repr(row["exception"])) for row in found]

name = sys.argv[1]
modules = {"ours": mlp_xp, "theirs": neural_network}
print(json.dumps({key: statuses(getattr(m, name)(max_iter=100)) for key, m in modules.items()}))
"""


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_check_estimator_passes_and_skips_nothing_that_theirs_pass(name: str) -> None:
    # in a process of its own: SCIPY_ARRAY_API is read when SciPy is imported
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    run = [sys.executable, "-c", CHECK, name]
    out = subprocess.run(run, check=True, capture_output=True, text=True, env=environment).stdout
    found = json.loads(out)
    assert [row for row in found["ours"] if row[1] not in ("passed", "skipped")] == []
    passed = {row[0] for row in found["ours"] if row[1] == "passed"}
    assert {row[0] for row in found["theirs"] if row[1] == "passed"} <= passed
    # arrays of another library, in kind; CuPy, GPUs and others where they can run
    others = {row[0] for row in found["ours"] if "array_api" in row[0] and row[1] == "passed"}
    assert {"check_array_api_input", "check_array_api_same_namespace"} <= others
