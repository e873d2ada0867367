"""Runs a sample of CuPy's own unit tests and compares with what is recorded.

Usage: upstream.py [--record] [--jobs N] [--time] [NAME...]

The tests come from CuPy's source distribution, which build.sh keeps in the cache.
`upstream_passes.txt` says of each file how many tests pass and names those known
to fail. A failure that is not named there fails this run, and so do fewer passes
than recorded. NAME picks files by a part of their path; --record writes the file
anew (of the files picked), from two runs: a test that fails now and then is named.

Where a file would take long, because it compiles a kernel for each pair of types,
a part of its tests is run: those whose names' checksums are 0 modulo a number. This
module is the pytest plugin that picks them.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ElementTree
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
RECORD = HERE / "upstream_passes.txt"

# What mlp_xp uses of CuPy, and what kernels, streams and memory rest on; the
# longest first, so that the workers end together. "FILE 6": one test in six.
SAMPLE = """
core_tests/test_raw.py
core_tests/test_ndarray_adv_indexing.py 80
core_tests/test_ndarray_elementwise_op.py 60
core_tests/test_ndarray.py 16
core_tests/test_ndarray_reduction.py 40
core_tests/test_ndarray_scatter.py 40
core_tests/test_ndarray_copy_and_view.py 16
core_tests/test_ndarray_conversion.py 4
core_tests/test_ndarray_indexing.py 8
core_tests/test_ndarray_unary_op.py 16
core_tests/test_ndarray_math.py 8
core_tests/test_ndarray_get.py 2
core_tests/test_ndarray_ufunc.py 2
core_tests/test_ndarray_contiguity.py
core_tests/test_reduction.py 8
core_tests/test_scan.py 8
core_tests/test_elementwise.py
core_tests/test_userkernel.py
core_tests/test_ufunc_methods.py 16
core_tests/test_nep50_examples.py
core_tests/test_dlpack.py 2
core_tests/test_syncdetect.py
core_tests/test_function.py
core_tests/test_core.py
core_tests/test_flags.py
core_tests/test_internal.py
core_tests/test_array_function.py
core_tests/fusion_tests/test_array.py 40
core_tests/fusion_tests/test_routines.py 60
core_tests/fusion_tests/test_indexing.py 10
core_tests/fusion_tests/test_reduction.py 4
core_tests/fusion_tests/test_ufunc.py 8
core_tests/fusion_tests/test_kernel_cache.py
core_tests/fusion_tests/test_optimization.py
cuda_tests/test_memory.py
cuda_tests/test_stream.py
cuda_tests/test_graph.py
cuda_tests/test_compiler.py
cuda_tests/test_memory_hook.py
cuda_tests/test_pinned_memory.py
cuda_tests/test_device.py
cuda_tests/test_driver.py
cuda_tests/test_runtime.py
cuda_tests/test_nvrtc.py
cuda_tests/test_cublas.py
cuda_tests/test_curand.py
creation_tests/test_from_data.py 80
creation_tests/test_basic.py 32
creation_tests/test_matrix.py 32
creation_tests/test_ranges.py 4
manipulation_tests/test_join.py 16
manipulation_tests/test_add_remove.py 8
manipulation_tests/test_rearrange.py 16
manipulation_tests/test_basic.py 30
manipulation_tests/test_kind.py 16
manipulation_tests/test_tiling.py 8
manipulation_tests/test_transpose.py 8
manipulation_tests/test_dims.py 4
manipulation_tests/test_shape.py 4
manipulation_tests/test_split.py
math_tests/test_arithmetic.py 200
math_tests/test_sumprod.py 30
math_tests/test_matmul.py 30
math_tests/test_misc.py 30
math_tests/test_explog.py 3
math_tests/test_hyperbolic.py 8
math_tests/test_trigonometric.py 8
math_tests/test_rounding.py 16
math_tests/test_floating.py 4
math_tests/test_special.py 4
linalg_tests/test_product.py 30
linalg_tests/test_einsum.py 60
sorting_tests/test_sort.py 16
sorting_tests/test_search.py 30
sorting_tests/test_count.py 4
statistics_tests/test_meanvar.py 30
statistics_tests/test_order.py 60
logic_tests/test_comparison.py 16
logic_tests/test_content.py 4
logic_tests/test_ops.py 4
logic_tests/test_truth.py 16
logic_tests/test_type_test.py 8
random_tests/test_generator.py 24
random_tests/test_generator_api.py 24
random_tests/test_distributions.py 24
random_tests/test_sample.py 8
random_tests/test_permutations.py 8
random_tests/test_random.py
random_tests/test_bit_generator.py 2
indexing_tests/test_indexing.py 8
indexing_tests/test_insert.py 16
indexing_tests/test_generate.py 8
indexing_tests/test_iterate.py 4
test_ndim.py 4
test_init.py
"""
MARKERS = "not slow and not multi_gpu"

# CuPy's test_raw.py asks nvcc for its version to decide what to skip.
NVCC = """#!/bin/sh
echo 'Cuda compilation tools, release 13.0, V13.0.0'
[ "$1" = --version ]
"""


@dataclass
class Outcome:
    """Of one file."""

    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # of the failures
    seconds: float = 0.0


def source_distribution() -> Path:
    """The sdist that build.sh downloaded."""
    script = (HERE / "build.sh").read_text()
    version = re.search(r"^CUPY_VERSION=(\S+)", script, re.M)
    assert version is not None
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = Path(os.environ.get("MLP_XP_CACHE") or f"{home}/mlp_xp")
    path = cache / "cupy_cpu" / "sdist" / f"cupy-{version[1]}.tar.gz"
    if not path.exists():
        raise SystemExit(f"{path} is not there: run build.sh first")
    return path


def sampled() -> dict[str, int]:
    """The files, and of each, one test in how many."""
    lines = [line.split() for line in SAMPLE.strip().splitlines()]
    return {name: int(one_in[0]) if one_in else 1 for name, *one_in in lines}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of the sample."""
    one_in = sampled()
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        file = item.path.as_posix().rpartition("/cupy_tests/")[2]
        name = re.sub(r"0x[0-9a-f]+", "", item.nodeid)  # addresses differ from run to run
        (dropped if zlib.crc32(name.encode()) % one_in[file] else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


def extract_tests(sdist: Path, directory: Path) -> None:
    """The tests and the pytest settings, without CuPy's source beside them."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name == "pyproject.toml" or member.name.startswith("tests/"):
                archive.extract(member, directory, filter="data")


def run_chunk(names: list[str], directory: Path) -> dict[str, Outcome]:
    """Runs some test files in a process of their own."""
    report = directory / (names[0].replace("/", "-") + ".xml")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"),
            *("-p", "upstream", "-m", MARKERS, f"--junitxml={report}"),
            *(f"tests/cupy_tests/{name}" for name in names),
        ],
        cwd=directory,
        env=os.environ
        | {
            "CUPYCPU_ALLOW_TIMING": "1",
            "NVCC": str(directory / "nvcc"),
            "PYTHONPATH": str(HERE),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    outcomes = {name: Outcome() for name in names}
    if not report.exists():  # it crashed
        print(done.stdout[-3000:])
        for outcome in outcomes.values():
            outcome.failed.append(f"(crashed: exit status {done.returncode})")
        return outcomes
    for case in ElementTree.parse(report).iter("testcase"):
        add_case(outcomes, case)
    return outcomes


def add_case(outcomes: dict[str, Outcome], case: ElementTree.Element) -> None:
    """Counts one test, under the file that its class name begins with."""
    where = case.get("classname") or case.get("name") or ""  # a file that is not collected
    modules = {"tests.cupy_tests." + n[:-3].replace("/", "."): n for n in outcomes}
    module = max((m for m in modules if (where + ".").startswith(m + ".")), key=len)
    outcome = outcomes[modules[module]]
    outcome.seconds += float(case.get("time", 0))
    kinds = {child.tag: child for child in case}
    problem = kinds.get("failure", kinds.get("error"))
    if problem is not None:
        scope = where[len(module) + 1 :]
        outcome.failed.append(f"{scope}::{case.get('name')}" if scope else str(case.get("name")))
        outcome.texts.append(problem.text or "")
    elif "skipped" in kinds:
        outcome.skipped += 1
    else:
        outcome.passed += 1


def run_files(names: list[str], jobs: int) -> dict[str, Outcome]:
    """Runs the files in chunks, `jobs` at a time: starting CuPy takes a second."""
    chunks = [names[i : i + 6] for i in range(0, len(names), 6)]
    with tempfile.TemporaryDirectory(prefix="cupy_cpu-upstream-") as temporary:
        directory = Path(temporary)
        extract_tests(source_distribution(), directory)
        (directory / "nvcc").write_text(NVCC)
        (directory / "nvcc").chmod(0o755)
        with ThreadPoolExecutor(jobs) as pool:
            results = pool.map(lambda chunk: run_chunk(chunk, directory), chunks)
            return {name: outcome for result in results for name, outcome in result.items()}


def read_record() -> dict[str, tuple[int, set[str]]]:
    """Passes and known failures of each file. A file's line is followed by the
    known failures, indented."""
    record: dict[str, tuple[int, set[str]]] = {}
    name = ""
    for line in RECORD.read_text().splitlines():
        if line.startswith("    "):
            record[name][1].add(line.strip())
        elif line and not line.startswith("#"):
            name, passed, _ = line.split(None, 2)
            record[name] = (int(passed), set())
    return record


def write_record(runs: list[dict[str, Outcome]]) -> None:
    """What passes in every run, and what fails in any."""
    known = read_record() if RECORD.exists() else {}
    for name in runs[0]:
        outcomes = [run[name] for run in runs]
        failed = {test for outcome in outcomes for test in outcome.failed}
        known[name] = (min(outcome.passed for outcome in outcomes), failed)
    lines = ["# CuPy's own tests on this build; made by `upstream.py --record`.", "#"]
    lines += ["# FILE PASSED passed, then the tests known to fail", ""]
    for name in sorted(known.keys() & sampled()):
        passed, tests = known[name]
        lines.append(f"{name} {passed} passed")
        lines += [f"    {test}" for test in sorted(tests)]
    RECORD.write_text("\n".join(lines) + "\n")


def compare(outcomes: dict[str, Outcome]) -> list[str]:
    """What is worse than recorded, in words."""
    record = read_record()
    worse = []
    for name, outcome in outcomes.items():
        passed, known = record.get(name, (0, set()))
        new = []
        for test, text in zip_longest(outcome.failed, outcome.texts, fillvalue=""):
            if test not in known:
                new.append(f"{name}: new failure: {test}")
                print(new[-1], text[-3000:], sep="\n")
        if outcome.passed < passed and not new:
            new.append(f"{name}: {outcome.passed} passed, {passed} recorded")
        worse += new
        fixed = sorted(known - set(outcome.failed))
        if fixed:
            print(f"{name}: known to fail, but passes: {', '.join(fixed)}")
    return worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--time", action="store_true", help="print the seconds of each file")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = [n for n in sampled() if not options.names or any(p in n for p in options.names)]
    began = time.monotonic()
    runs = [run_files(names, options.jobs) for _ in range(2 if options.record else 1)]
    outcomes = runs[-1]
    if options.time:
        for name, outcome in sorted(outcomes.items(), key=lambda item: -item[1].seconds):
            print(f"{outcome.seconds:6.1f} s {outcome.passed:5} {len(outcome.failed):4}  {name}")
    if options.record:
        write_record(runs)
    worse = compare(outcomes)
    print(*worse, sep="\n")
    passed = sum(o.passed for o in outcomes.values())
    skipped = sum(o.skipped for o in outcomes.values())
    known = sum(len(o.failed) for o in outcomes.values()) - sum("new failure" in w for w in worse)
    print(
        f"CuPy's own tests, {len(outcomes)} files in {time.monotonic() - began:.0f} s: "
        f"{known} known failures"
    )
    print(f"upstream: {passed} passed, {len(worse)} failed, {skipped} skipped")
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
