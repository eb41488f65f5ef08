"""Builds the C extension `gatedcoro._core`; everything else about the package stands in pyproject.toml.

Without a C compiler the package installs all the same and runs on its Python implementation.

Environment variables, read when building:
    GATEDCORO_REQUIRE_C=1   a failure to compile the extension is a failure to install
    GATEDCORO_ASSERT=1      compile the extension with its assertions on (a debug build of Python always has them)
    CC, CFLAGS, LDFLAGS     as for any extension
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

REQUIRE_C = os.environ.get("GATEDCORO_REQUIRE_C") == "1"
PYTHON_IS_DEBUG_BUILD = bool(sysconfig.get_config_var("Py_DEBUG"))
WITH_ASSERTIONS = os.environ.get("GATEDCORO_ASSERT") == "1" or PYTHON_IS_DEBUG_BUILD
HERE = Path(__file__).parent


def compile_args(compiler_type: str) -> list[str]:
    if compiler_type == "msvc":
        return ["/std:c11", "/O2", "/utf-8"]
    args = ["-std=c11", "-fvisibility=hidden"]
    user_chose_level = "-O" in os.environ.get("CFLAGS", "")
    if not user_chose_level and not PYTHON_IS_DEBUG_BUILD:
        args.append("-O3")
    return args


class BuildCore(build_ext):
    def build_extensions(self) -> None:
        for extension in self.extensions:
            extension.extra_compile_args = compile_args(self.compiler.compiler_type)
        super().build_extensions()

    def run(self) -> None:
        # `optional` covers a compiler that fails; this covers a machine on which none can even be looked for.
        try:
            super().run()
        except (BaseError, CCompilerError, OSError) as error:
            if REQUIRE_C:
                raise
            self.warn(f"the C extension is not built, gatedcoro will run on its Python implementation: {error}")


core = Extension(
    "gatedcoro._core",
    sources=["src/_core.c"],
    include_dirs=["src"],
    depends=sorted(header.relative_to(HERE).as_posix() for header in HERE.glob("src/*/*.h")),
    # Said here because CFLAGS in the environment replaces the interpreter's own flags, -DNDEBUG among them.
    define_macros=[] if WITH_ASSERTIONS else [("NDEBUG", "1")],
    undef_macros=["NDEBUG"] if WITH_ASSERTIONS else [],
    optional=not REQUIRE_C,
)

setup(
    ext_modules=[core] if sys.implementation.name == "cpython" else [],
    cmdclass={"build_ext": BuildCore},
)
