#!/usr/bin/env python3
"""Compile every CUDA source of the library with NVIDIA's own compiler, without a GPU.

    pip install --group cuda-check
    python ci/nvrtc_check.py [--arch sm_80 --arch sm_90] [--sample N] [--seed N] [--json]

With --sample, of each dtype one source of every kernel and N more by chance. Prints registers
and spilled bytes of each kernel, the most over the rows of the tables. Exit code 1 if a
source does not compile, 2 if no compiler is installed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import site
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from mlp_xp import MLP, Sequential
from mlp_xp.compile.cuda_plan import CudaPlan
from mlp_xp.compile.step import traced
from mlp_xp.fast.cuda_source import Source, every_source
from mlp_xp.layers import (
    GRU,
    LSTM,
    Activation,
    AvgPool,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    MaxPool,
)
from mlp_xp.training import Data

ARCHITECTURES = ("sm_80", "sm_90")
DTYPES = ("float32", "float64")


class Nvrtc:
    """NVIDIA's run-time compiler, from a wheel."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        major, minor = c_int(), c_int()
        self.library.nvrtcVersion(byref(major), byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, source: Source, architecture: str) -> tuple[bool, str]:
        """Whether it compiles to machine code, and what the compiler says."""
        program = c_void_p()
        code = c_char_p(source.code.encode())
        self.library.nvrtcCreateProgram(byref(program), code, b"source.cu", 0, None, None)
        options = [f"--gpu-architecture={architecture}", "--ptxas-options=-v", "--std=c++17"]
        given = (c_char_p * len(options))(*(option.encode() for option in options))
        status = self.library.nvrtcCompileProgram(program, len(options), given)
        size = c_size_t()
        self.library.nvrtcGetProgramLogSize(program, byref(size))
        text = ctypes.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(program, text)
        self.library.nvrtcDestroyProgram(byref(program))
        return status == 0, text.value.decode()


def installed() -> list[Path]:
    """One library for each major version of the compiler that is installed."""
    places = [Path(place) for place in (*site.getsitepackages(), site.getusersitepackages())]
    found = [path for place in places for path in place.glob("nvidia/*/lib/libnvrtc.so.*")]
    return sorted({path.resolve() for path in found if "alt" not in path.name})


def traced_sources(dtype: str) -> Iterator[Source]:
    """Kernels of traced steps: of images, of sequences, and of all that a dense network may be."""
    layers: dict[tuple[int, ...], list[Any]] = {
        (2, 9, 9): [Conv2d(4, 3), BatchNorm(), Activation("gelu"), MaxPool(2), Flatten(), Dense(3)],
        (3, 40): [LSTM(4, returns="all"), GRU(4), LayerNorm(), Dropout(0.2), Dense(3)],
        (3, 9000): [AvgPool(3), Flatten(), Dense(2)],
    }
    networks: list[Any] = [Sequential(shape, row, dtype=dtype) for shape, row in layers.items()]
    more = {"weight_decay": 0.1, "clip_norm": 1.0, "l2": 0.1, "dtype": dtype}
    for normalization in ("none", "batch", "layer"):
        networks.append(MLP((5, 8, 3), normalization=normalization, dropout=0.2, **more))
    for network in networks:
        recipe, state = network._recipe, network._run.state
        for m in (32, 20_000):
            shapes: dict[str, tuple[tuple[int, ...], str]] = {
                "theta": (state.theta.shape, dtype),
                "running": (state.running.shape, dtype),
                "X": ((network.network.sizes[0], m), dtype),
                "targets": ((m,), "int64"),
                "bits": ((network.network.n_dropped * m,), "uint16"),
                "shrink": ((), dtype),
            }
            if network.network.n_dropped == 0:
                del shapes["bits"]
            if recipe.loss.kind != "multiclass":
                shapes["targets"] = ((m, network.network.sizes[-1]), dtype)
            shapes |= {f"moment{i}": shapes["theta"] for i in range(recipe.optimizer.n_moments)}
            n = len(recipe.optimizer.scalars(1.0, 1))
            shapes |= {f"scalar{i}": ((), dtype) for i in range(n)}
            examples = np.zeros((1, network.network.sizes[0]), dtype)
            targets = np.zeros((1,) * len(shapes["targets"][0]))
            made = traced(recipe, Data(examples, targets), shapes, CudaPlan)
            yield from cast(CudaPlan, made.plan).sources()


def sources(sample: int | None = None, seed: int = 0) -> Iterator[tuple[str, Source]]:
    """Each source once, with its dtype; or one of every kernel, and a sample of the others."""
    for dtype in DTYPES:
        found = list(dict.fromkeys([*every_source(dtype), *traced_sources(dtype)]))
        if sample is not None:
            random.Random(seed).shuffle(found)
            first = {source.name: source for source in reversed(found)}
            others = [source for source in found if source not in first.values()]
            found = [*first.values(), *others[:sample]]
        yield from ((dtype, source) for source in found)


def measured(text: str) -> dict[str, int]:
    """What ptxas says of a kernel."""
    patterns = {
        "registers": r"Used (\d+) registers",
        "spill_stores": r"(\d+) bytes spill stores",
        "spill_loads": r"(\d+) bytes spill loads",
        "stack": r"(\d+) bytes stack frame",
    }
    return {
        name: max(map(int, re.findall(pattern, text)), default=-1)
        for name, pattern in patterns.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arch", action="append", default=[])
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    compilers = [Nvrtc(path) for path in installed()]
    if not compilers:
        print("no compiler: pip install --group cuda-check", file=sys.stderr)
        return 2
    if args.sample is not None:
        print(f"a sample, --seed {args.seed}", file=sys.stderr)
    rows: dict[tuple[str, str, str, str], dict[str, int]] = {}
    failed = compiled = 0
    architectures = args.arch or ARCHITECTURES
    work = [
        (nvrtc, dtype, source, architecture)
        for dtype, source in sources(args.sample, args.seed)
        for nvrtc, architecture in product(compilers, architectures)
    ]
    # while NVRTC compiles, Python is free for the other threads
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = pool.map(lambda one: one[0].compile(one[2], one[3]), work)
        for (nvrtc, dtype, source, architecture), (good, text) in zip(work, answers, strict=True):
            compiled += good
            if not good:
                failed += 1
                print(f"{source.name}, {dtype}, {architecture}:\n{text}", file=sys.stderr)
                continue
            key = (nvrtc.version, architecture, dtype, source.name)
            row = rows.setdefault(key, {"sources": 0})
            row["sources"] += 1
            for name, value in measured(text).items():
                row[name] = max(row.get(name, -1), value)
    columns = ("nvrtc", "arch", "dtype", "kernel")
    table: list[dict[str, Any]] = [{**dict(zip(columns, k, strict=True)), **rows[k]} for k in rows]
    if args.json:
        print(json.dumps(table))
    else:
        for row in table:
            print(
                f"NVRTC {row['nvrtc']}  {row['arch']}  {row['dtype']}  {row['kernel']:<24}"
                f"{row['sources']:>3} sources, {row['registers']:>3} registers, "
                f"{row['spill_stores'] + row['spill_loads']} bytes spilled"
            )
    print(f"{compiled} compiled, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
