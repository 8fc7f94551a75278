"""Builds the native library with CMake; everything else of the package is stated in pyproject.toml.

The compiler is the system's, or Zig's from the wheel `ziglang` where there is none that will do.
Without either the package has no library, and models are computed by PyTorch.

Environment: CXX names the compiler, CMAKE_ARGS has further arguments for CMake, and
SEQUOIA_MANYLINUX (such as 2_28) builds with Zig for that version of glibc and later ones.
"""

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("sequoia_core/model/native/cpp")
BUILD = Path("build/native")
LIBRARY = "sequoia_core.model.native.libsequoia_native"
MANYLINUX = os.environ.get("SEQUOIA_MANYLINUX")
OLDEST_GLIBC = "2_28"
"""What Zig compiles for where no other is named."""

ZIG = "ziglang==0.17.*"
PROBE = "#include <atomic>\n#include <bit>\nint f(std::atomic<int>& x) { x.wait(0); return 0; }\n"
"""Part of C++20 that GCC has from version 11 on, which also knows all instruction sets."""


def system_compiler() -> list[str] | None:
    """A compiler that links a library of C++20, or None."""
    named = os.environ.get("CXX")
    options = ["-std=c++20", "-fPIC", "-shared", "-x", "c++", "-"]
    for command in [shlex.split(named)] if named else [["c++"], ["g++"], ["clang++"]]:
        if not shutil.which(command[0]):
            continue
        with TemporaryDirectory() as folder:
            probe = [*command, *options, "-o", f"{folder}/probe.so"]
            done = subprocess.run(probe, input=PROBE, text=True, capture_output=True, check=False)
        if done.returncode == 0:
            return command
    return None


def zig_compiler() -> list[str] | None:
    """Zig's, for any processor of this kind and an old glibc, or None where it is not installed."""
    found = importlib.util.find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        return None
    glibc = (MANYLINUX or OLDEST_GLIBC).replace("_", ".")
    target = f"{platform.machine()}-linux-gnu.{glibc}"
    # with -O3 from the start, its C++ library is compiled once and not also for debugging
    return [f"{found.submodule_search_locations[0]}/zig", "c++", "-target", target, "-O3"]


class BuildLibrary(build_ext):
    """Runs CMake where the standard command would run the compiler."""

    def run(self) -> None:
        """Build, or say once that there is no library."""
        try:
            super().run()
        except CompileError as error:
            if MANYLINUX:
                raise
            # a library of older sources is worse than none
            Path(self.get_ext_filename(LIBRARY)).unlink(missing_ok=True)
            print(f"sequoia: the native library is not built: {error}", file=sys.stderr)
            print("sequoia: models are computed by PyTorch instead, slowly", file=sys.stderr)

    def build_extension(self, ext: Extension) -> None:
        """Build the library into the package, or into the checkout for an editable install."""
        target = Path(self.get_ext_fullpath(ext.name)).absolute()
        compiler = None if MANYLINUX else system_compiler()
        own = ["-DCMAKE_SHARED_LINKER_FLAGS="]
        if compiler is None:
            compiler, own = zig_compiler(), ["-DCMAKE_SHARED_LINKER_FLAGS=-s"]
        if compiler is None:
            raise CompileError(
                "there is no compiler of C++20 (GCC 11 or later, Clang 14 or later); install one, "
                f"or {shlex.quote(sys.executable)} -m pip install '{ZIG}', and run make native"
            )
        own += ["-DCMAKE_BUILD_TYPE=Release", *shlex.split(os.environ.get("CMAKE_ARGS", ""))]
        cmake, ninja = tool("cmake"), tool("ninja")
        own += [f"-DCMAKE_CXX_COMPILER={';'.join(compiler)}", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        built = BUILD / Path(compiler[0]).name
        log_run([cmake, "-G", "Ninja", "-S", os.fspath(SOURCES), "-B", os.fspath(built), *own])
        log_run([cmake, "--build", os.fspath(built)])
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f"{target.name}.new")
        shutil.copyfile(built / target.name, fresh)
        fresh.replace(target)  # a chat that is open has the old file mapped, and runs on in it

    def get_ext_filename(self, fullname: str) -> str:
        """Of a plain shared library: the same for every version of Python."""
        return f"{fullname.replace('.', os.sep)}.so"


class PlatformWheel(bdist_wheel):
    """A wheel for one kind of machine and any Python 3: the library does not use Python's API."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform."""
        named = f"manylinux_{MANYLINUX}_{platform.machine()}" if MANYLINUX else None
        return "py3", "none", named or super().get_tag()[2]


def tool(name: str) -> str:
    """A program that a wheel of this environment brought, or the system's."""
    return shutil.which(name, path=os.fspath(Path(sys.executable).parent)) or name


def log_run(command: list[str]) -> None:
    """Run a step of the build; its output goes to a file.

    Raises:
        CompileError: it failed.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    log = BUILD / "build.log"
    with log.open("a" if "--build" in command else "w") as to:
        try:
            subprocess.run(command, check=True, stdout=to, stderr=to)
        except (OSError, subprocess.CalledProcessError):
            raise CompileError(f"the compiler's messages are in {log.absolute()}") from None


def needed() -> list[str]:
    """Zig where pip asks what a build needs, which it does by the command egg_info."""
    if "egg_info" not in sys.argv or (system_compiler() and not MANYLINUX):
        return []
    return [ZIG]


setup(
    ext_modules=[Extension(LIBRARY, sources=[])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
    setup_requires=needed(),
)
