"""C around the kernels of the CPU: what `compile.loops` writes is made one source here.

A kernel takes its arguments from a row of `runtime.c`'s table, and does part `part` of `parts`
of its work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

MOST_PARTS = 64  # of a call: MOST_THREADS of runtime.c

# glibc's libmvec has these for vectors; a compiler uses it where they are declared so
VECTORS = ["exp", "log", "log1p", "expm1", "log2", "tanh", "sinh", "cosh", "sin", "cos", "tan"]
DECLARED = "\n".join(
    f"extern double {name}(double) VECTOR; extern float {name}f(float) VECTOR;" for name in VECTORS
)
PRELUDE = f"""
#include <math.h>
#if defined __x86_64__ && defined __GLIBC__ && !defined __clang__
#if __GLIBC_PREREQ(2, 35)
#define VECTOR __attribute__((simd("notinbranch")))
{DECLARED}
#endif
#endif
#include <stdbool.h>
#include <string.h>
#include <tgmath.h>
#undef I
typedef long long I;
#define INF ((T)__builtin_inf())
#define FROM(n) ((n) * part / parts)
#define UNTIL(n) ((n) * (part + 1) / parts)
"""
CTYPES = {"float32": "float", "float64": "double"}


def name(text: str) -> str:
    """What a text is called where functions are looked up by what they are."""
    return f"x{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def kernel_name(dtype: str, body: str) -> str:
    """The name of a kernel, the same wherever it was compiled."""
    return name(f"{dtype}\n{PRELUDE}\n{body}")


def unit(dtype: str, kernels: Sequence[str]) -> str:
    """One source of all the kernels, given by their bodies and called by their names."""
    text = [f"typedef {CTYPES[dtype]} T;", PRELUDE]
    for body in kernels:
        called = kernel_name(dtype, body)
        text.append(f"void {called}(const I *w, I part, I parts) {{\n{body}\n}}\n")
    return "\n".join(text)


def runtime() -> tuple[str, str]:
    """runtime.c, and its name, which the source holds as a mark."""
    text = _text("runtime.c")
    mark = name(text)
    return f"{text}\nconst int {mark} = 1;\n", mark


def multiply(dtype: str) -> tuple[str, str]:
    """multiply.c for a type, and what the kernel is called."""
    text = f"typedef {CTYPES[dtype]} T;\n{_text('multiply.c')}"
    return f"#define NAME {name(text)}\n{text}", name(text)


def _text(file: str) -> str:
    return Path(__file__).with_name(file).read_text(encoding="utf-8")
