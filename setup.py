"""Builds the native library with CMake; everything else of the package is stated in pyproject.toml.

Without a compiler the package is built without the library, and models are computed by PyTorch.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("sequoia_core/model/native/cpp")
LIBRARY = "sequoia_core.model.native.libsequoia_native"


class BuildLibrary(build_ext):
    """Runs CMake where the standard command would run the compiler."""

    def build_extension(self, ext: Extension) -> None:
        """Build the library into the package, or into the checkout for an editable install."""
        target = Path(self.get_ext_fullpath(ext.name)).absolute()
        build = Path(self.build_temp).absolute() / "native"
        cmake = shutil.which("cmake", path=os.fspath(Path(sys.executable).parent)) or "cmake"
        configure = [cmake, "-S", SOURCES, "-B", build, "-DCMAKE_BUILD_TYPE=Release"]
        try:
            subprocess.run(configure, check=True)
            subprocess.run([cmake, "--build", build, "--parallel"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"the native library was not built: {error}") from None
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(build / target.name, target)

    def get_ext_filename(self, fullname: str) -> str:
        """Of a plain shared library: the same for every version of Python."""
        return f"{fullname.replace('.', os.sep)}.so"


class PlatformWheel(bdist_wheel):
    """A wheel for one kind of machine and any Python 3: the library does not use Python's API."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension(LIBRARY, sources=[], optional=True)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
