"""Looks into a source distribution and a wheel: `check_distributions.py SDIST WHEEL`."""

import os
import sys
import tarfile
import zipfile

MOST_BYTES = 1_250_000  # of the sdist; what programs have generated does not belong there


def fail(message: str) -> None:
    sys.exit(f"ci: {message}")


def check_sdist(path: str) -> None:
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = [
        "pyproject.toml",
        "setup.py",
        "README.md",
        "CHANGES.md",
        "LICENSE",
        "src/_core.c",
        "gatedcoro/_core.pyi",
        "gatedcoro/py.typed",
        "gatedcoro/shared/_sync.lua",
        "gatedcoro/shared/_sync.sql",
    ]
    for name in needed:
        if name not in names:
            fail(f"the sdist lacks {name}")
    for folder in ("src", "tests", "benchmarks", "examples", "docs", "tools"):
        if not any(name.startswith(f"{folder}/") for name in names):
            fail(f"the sdist lacks {folder}/")
    if not any(name.startswith("src/") and name.endswith(".h") for name in names):
        fail("the sdist lacks the C headers")
    if os.path.getsize(path) > MOST_BYTES:
        fail(f"the sdist has {os.path.getsize(path)} bytes")
    built = [name for name in names if name.endswith((".so", ".pyd", ".pyc", ".o")) or "__pycache__" in name]
    if built:
        fail(f"the sdist holds what was built: {built}")


def check_wheel(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    packages = [name for name in names if ".dist-info/" not in name]
    outside = [name for name in packages if not name.startswith("gatedcoro/")]
    if outside:
        fail(f"the wheel holds more than the package: {outside}")
    sources = [
        name for name in packages if not name.endswith((".lua", ".py", ".pyi", ".sql", "/py.typed", ".so", ".pyd"))
    ]
    if sources:
        fail(f"the wheel holds what does not belong there: {sources}")
    extensions = [name for name in packages if name.startswith("gatedcoro/_core.") and name.endswith((".so", ".pyd"))]
    if len(extensions) != 1:
        fail(f"the wheel should hold one extension: {extensions}")
    for name in (
        "gatedcoro/__init__.py",
        "gatedcoro/_core.pyi",
        "gatedcoro/py.typed",
        "gatedcoro/langchain/__init__.py",
        "gatedcoro/shared/_sync.lua",
        "gatedcoro/shared/_sync.sql",
    ):
        if name not in names:
            fail(f"the wheel lacks {name}")
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        fail("the wheel lacks the licence")


check_sdist(sys.argv[1])
check_wheel(sys.argv[2])
print("ci: sdist and wheel hold what they should, and no more")
