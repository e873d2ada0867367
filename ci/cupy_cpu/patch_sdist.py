"""Turns an unpacked CuPy source distribution into the CPU build.

Usage: patch_sdist.py TREE GENERATED

CuPy has a build mode for documentation in which every CUDA header is a stub whose
functions do nothing. This keeps that mode and puts real functions behind the
stubs. Every edit must apply, so that another CuPy fails here, with the place
named, and not at run time.
"""

import re
import shutil
import sys
from pathlib import Path

from make_headers import make_headers

HERE = Path(__file__).resolve().parent


class Tree:
    """The CuPy source, and ways to edit it that insist on a match."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def replace(self, path: str, old: str, new: str) -> None:
        file = self.root / path
        text = file.read_text()
        if old not in text:
            raise SystemExit(f"{path}: text to replace not found: {old!r}")
        file.write_text(text.replace(old, new))

    def substitute(self, path: str, pattern: str, new: str, at_least: int = 1) -> None:
        file = self.root / path
        text, n = re.subn(pattern, new, file.read_text())
        if n < at_least:
            raise SystemExit(f"{path}: {n} of {at_least} matches of {pattern!r}")
        file.write_text(text)

    def sources(self) -> list[Path]:
        tops = (self.root / top for top in ("cupy", "cupyx", "cupy_backends"))
        return [p for top in tops for p in top.rglob("*") if p.suffix in (".py", ".pyx", ".pxi")]


def host_headers(tree: Tree, generated: Path) -> None:
    """Real declarations in place of the stubs' empty functions."""
    make_headers(tree.root, generated)
    stub = tree.root / "cupy_backends/stub"
    for header in [*generated.glob("*.h"), *(HERE / "host").glob("*.h")]:
        shutil.copy(header, stub / header.name)


def absent_libraries(tree: Tree) -> None:
    """What is not implemented fails loudly; handles, made eagerly, can be made."""
    eager = r"(?:Create|Destroy|SetStream|SetPointerMode)\(\.\.\.\)\s*\{\s*"
    for path, prefix, status, ok, error in (
        ("cupy_cusparse.h", "cusparse", "cusparseStatus_t", "CUSPARSE_STATUS_SUCCESS", 10),
        ("cupy_cusolver.h", "cusolver(?:Dn|Sp)?", "cusolverStatus_t", "CUSOLVER_STATUS_SUCCESS", 9),
    ):
        path = f"cupy_backends/stub/{path}"
        tree.substitute(path, rf"return {ok};", f"return ({status}){error};")
        tree.substitute(path, rf"(\b{prefix}{eager})return [^;]+;", rf"\1return {ok};", 2)
    # CuPy decodes the texts of these errors
    tree.substitute(
        "cupy_backends/stub/cupy_cusparse.h",
        r"(const char\* cusparseGetError(?:Name|String)\(\.\.\.\) \{\n    return )NULL;",
        r'\1"cuSPARSE is not part of CuPy on the CPU";',
        2,
    )
    tree.substitute(
        "cupy/cuda/cupy_cufft.h", r"return CUFFT_SUCCESS;", "return CUFFT_NOT_SUPPORTED;"
    )
    tree.substitute(
        "cupy/cuda/cupy_cub.h",
        r"(void cub_device_\w+\(\.\.\.\) \{\n)\}",
        r"\1    __builtin_trap();\n}",
    )
    # ... so asking for CUB selects CuPy's own reduction kernels, as without it
    path = "cupy/_core/_accelerator.pyx"
    tree.replace(path, "'' if runtime._is_hip_environment else 'cub'", "''")
    tree.replace(
        path,
        "_get_accelerator(b) for b in accelerators]",
        "_get_accelerator(b) for b in accelerators if b != 'cub']",
    )


def sorting_and_random(tree: Tree) -> None:
    """Declarations of src/sort.cpp and src/random.cpp in place of empty bodies."""
    tree.replace(
        "cupy/cuda/cupy_thrust.h",
        "void thrust_sort(...) {\n}\n\nvoid thrust_lexsort(...) {\n}\n\n"
        "void thrust_argsort(...) {\n}\n",
        "#include <cstddef>\n#include <cstdint>\n#include <vector>\n"
        "void thrust_sort(int, void *, size_t *, const std::vector<ptrdiff_t>&, intptr_t, "
        "void *);\n"
        "void thrust_lexsort(int, size_t *, void *, size_t, size_t, intptr_t, void *);\n"
        "void thrust_argsort(int, size_t *, void *, void *, const std::vector<ptrdiff_t>&, "
        "intptr_t, void *);\n",
    )
    path = "cupy/random/cupy_distributions.cuh"
    tree.substitute(
        path, r"typedef struct \{\} (curandState\w*);", r"typedef struct { uint64_t s[4]; } \1;"
    )
    tree.substitute(path, r"(?m)^(void \w+\(int generator, [^)]*\)) \{\}$", r"\1;")


def warp_barriers(tree: Tree) -> None:
    """CuPy's partition kernels count on the lanes of a warp running in lockstep.
    Ours switch at barriers only, so say where they must meet."""
    path = "cupy/_core/_routines_sorting.pyx"
    tree.substitute(path, r"(?m)^( +)(bitonic_sort_step< T >\([^;]*;)", r"\1\2\n\1__syncwarp();", 4)
    tree.substitute(path, r"(?m)^( +)(// After merge step,)", r"\1__syncwarp();\n\1\2", 2)
    tree.substitute(path, r"(?m)^( +)(// Finally, we merge)", r"\1__syncwarp();\n\1\2", 2)


def libraries(tree: Tree) -> None:
    """Libraries and headers that CuPy asks cuda.pathfinder for come from cupy_cpu."""
    edited = 0
    for path in tree.sources():
        old = path.read_text()
        new = old.replace("from cuda import pathfinder", "from cupy_cpu import pathfinder")
        new = new.replace("from cuda.pathfinder import", "from cupy_cpu.pathfinder import")
        if new != old:
            path.write_text(new)
            edited += 1
    if edited < 10:
        raise SystemExit(f"cuda.pathfinder: {edited} files, expected 10 or more")
    tree.replace(
        "cupy_backends/cuda/api/_driver_extern.pxi",
        "            libname = 'libcuda.so.1'\n",
        "            from cupy_cpu import pathfinder\n            libname = pathfinder.LIBRARY\n",
    )


def guarded_allocation(tree: Tree) -> None:
    """Under CUPYCPU_GUARD each array is an allocation of its own, not of the pool."""
    tree.replace(
        "cupy/__init__.py",
        "cuda.set_allocator(_default_memory_pool.malloc)\n",
        "from cupy_cpu import guarded as _guarded\n"
        "cuda.set_allocator(None if _guarded() else _default_memory_pool.malloc)\n",
    )


def build_system(tree: Tree) -> None:
    """A stub build that says CUDA 13.0 and links libcupycpu, without the modules
    that only wrap libraries that are not there."""
    tree.replace(
        "install/cupy_builder/_command.py",
        "            compile_time_env['CUPY_CUDA_VERSION'] = 0\n"
        "            compile_time_env['CUPY_HIP_VERSION'] = 0\n        elif ctx.use_hip",
        "            compile_time_env['CUPY_CUDA_VERSION'] = 13000\n"
        "            compile_time_env['CUPY_HIP_VERSION'] = 0\n        elif ctx.use_hip",
    )
    path = "install/cupy_builder/cupy_setup_build.py"
    tree.replace(
        path,
        "            available_modules = [m['name'] for m in MODULES]\n",
        "            absent = ('nccl', 'cutensor', 'jitify', 'cusparselt')\n"
        "            available_modules = [\n"
        "                m['name'] for m in MODULES if m['name'] not in absent]\n",
    )
    tree.replace(
        path,
        "        if not no_cuda:\n            s['libraries'] = module.libraries\n",
        "        if no_cuda:\n            s['libraries'] = ['cupycpu']\n"
        "            s.setdefault('extra_link_args', []).append('-Wl,--no-as-needed')\n"
        "        else:\n            s['libraries'] = module.libraries\n",
    )
    tree.replace(
        "install/cupy_builder/_context.py",
        "        self.wheel_libs = []\n",
        "        self.wheel_libs = _get_env_path('CUPYCPU_WHEEL_LIBS', _env)\n",
    )
    tree.replace(
        "setup.py",
        "if not ctx.use_hip:\n    dependencies",
        "if not ctx.use_hip and not ctx.use_stub:\n    dependencies",
    )
    tree.substitute("cupy/_version.py", r"__version__ = '([^'+]+)'", r"__version__ = '\1+cpu'")


def our_files(tree: Tree) -> None:
    """The headers that kernels include, the package cupy_cpu, and its NCCL as CuPy's."""
    shutil.copytree(HERE / "device", tree.root / "cupy/_core/include/cupy/_cupycpu")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "package", tree.root / "cupy_cpu", ignore=ignore)
    nccl = tree.root / "cupy_backends/cuda/libs/nccl.pyx"
    nccl.unlink()
    nccl.with_suffix(".py").write_text("from cupy_cpu.nccl import *\n")


def main() -> None:
    tree, generated = Tree(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    host_headers(tree, generated)
    absent_libraries(tree)
    sorting_and_random(tree)
    warp_barriers(tree)
    libraries(tree)
    guarded_allocation(tree)
    build_system(tree)
    our_files(tree)


if __name__ == "__main__":
    main()
