"""Every header under src/ compiles alone, and twice: it includes what it needs and guards itself."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
HEADERS = sorted(SOURCES.glob("*.h"))
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
PYTHON_HEADERS = Path(sysconfig.get_path("include"))

pytestmark = [
    pytest.mark.skipif(not COMPILERS, reason="there is no gcc or clang on this machine"),
    pytest.mark.skipif(not (PYTHON_HEADERS / "Python.h").exists(), reason="this Python came without its C headers"),
]

# What C compilers let pass and no C programmer means. Warnings proper are judged where the whole unit is compiled: a header alone
# may declare what another one defines.
STRICT = [
    "-std=c11",
    "-Werror=implicit-function-declaration",
    "-Werror=implicit-int",
    "-Werror=int-conversion",
    "-Werror=incompatible-pointer-types",
]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_a_header_compiles_alone_and_may_be_included_twice(header, compiler):
    done = subprocess.run(
        [compiler, *STRICT, "-isystem", str(PYTHON_HEADERS), "-I", str(SOURCES), "-fsyntax-only", "-x", "c", "-"],
        input=f'#include "{header.name}"\n' * 2,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
