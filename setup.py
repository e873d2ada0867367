"""What pyproject.toml cannot say: where there is a C compiler, a wheel brings compiled kernels.

MLP_XP_BUILD_NATIVE=1  demands them: a build without is an error
MLP_XP_BUILD_NATIVE=0  leaves them out: a wheel for every platform

An editable installation has none, as its formulas may change any time.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

WANTED = os.environ.get("MLP_XP_BUILD_NATIVE", "")


class Build(build_py):
    """Copies the package, and packs its kernels beside `mlp_xp/fast/packed.py`."""

    def run(self) -> None:
        super().run()
        folder = Path(self.build_lib, "mlp_xp", "fast").resolve()
        for old in folder.glob("kernels-*.so"):  # of an earlier build in the same place
            old.unlink()
        if self.editable_mode or WANTED == "0":
            return
        command = [sys.executable, "-m", "mlp_xp.packing", str(folder)]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.announce(done.stdout, logging.INFO)
        if done.returncode and WANTED == "1":
            raise CompileError(f"MLP_XP_BUILD_NATIVE=1, but {done.stdout}")


class Wheel(bdist_wheel):
    """A wheel for any Python, and for this platform alone if it has compiled kernels."""

    def run(self) -> None:
        self.run_command("build")
        library = Path(self.get_finalized_command("build_py").build_lib)
        packed = any(library.glob("mlp_xp/fast/kernels-*.so"))
        self.distribution.has_ext_modules = lambda: packed
        self.root_is_pure = not packed
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform


setup(cmdclass={"build_py": Build, "bdist_wheel": Wheel})
