"""What installing gives: one version, no dependency, a choice of implementation, and never a failure for want of a compiler."""

from __future__ import annotations

import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gatedcoro
from implementations import package_parent

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "AsCompleted",
    "BoundedSemaphore",
    "Semaphore",
    "Stream",
    "__version__",
    "amap",
    "as_completed",
    "constrained_execution",
    "gated_coro",
    "gather",
    "gather_with_concurrency",
    "implementation",
    "run_all",
}

needs_the_source_tree = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the tests stand alone here")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a fresh interpreter that finds the same gatedcoro; a variable set to '' is taken out of its environment."""
    env = {**os.environ, "PYTHONPATH": package_parent(gatedcoro), **environment}
    env = {name: value for name, value in env.items() if value}
    # -P: the working folder may hold another gatedcoro, the checkout's.
    return subprocess.run([sys.executable, "-P", *arguments], env=env, capture_output=True, text=True, timeout=300)


def implementation_chosen(code: str = "", **environment: str) -> str:
    done = python("-c", f"{code}\nimport gatedcoro; print(gatedcoro.implementation)", **environment)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


WITHOUT_THE_EXTENSION = "import sys; sys.modules['gatedcoro._core'] = None"


def the_extension_is_there() -> bool:
    return implementation_chosen(GATEDCORO_IMPLEMENTATION="") == "c"


def test_the_public_names_are_those_that_are_documented():
    assert set(gatedcoro.__all__) == PUBLIC


def test_public_functions_answer_to_their_names():
    for name in PUBLIC - {"__version__", "implementation"}:
        assert callable(getattr(gatedcoro, name))
        assert getattr(gatedcoro, name).__name__ == name


def test_the_version_is_that_of_the_distribution():
    assert importlib.metadata.version("gatedcoro") == gatedcoro.__version__


def test_nothing_else_is_needed_at_run_time():
    requirements = importlib.metadata.requires("gatedcoro") or []
    assert [requirement for requirement in requirements if "extra ==" not in requirement] == []


def test_the_package_says_that_it_is_typed():
    package = Path(gatedcoro.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_core.pyi").exists()


def functions_in_c(first: str, chosen: str) -> str:
    """What asyncio has in C, where that module is imported first."""
    code = (
        f"import {first}, asyncio, gatedcoro, types; "
        "print(gatedcoro.implementation, sorted((module, name) for module in ('events', 'futures', 'tasks') "
        "for name, value in vars(getattr(asyncio, module)).items() if isinstance(value, types.BuiltinFunctionType)))"
    )
    done = python("-c", code, GATEDCORO_IMPLEMENTATION=chosen)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("chosen", ["python", ""])
def test_imported_before_asyncio_it_leaves_asyncio_as_it_is(chosen):
    assert functions_in_c("gatedcoro", chosen) == functions_in_c("asyncio", chosen)


def test_python_can_be_chosen_by_hand():
    assert implementation_chosen(GATEDCORO_IMPLEMENTATION="python") == "python"


def test_c_is_chosen_where_it_was_built_and_can_be_asked_for():
    if not the_extension_is_there():
        pytest.skip("the extension was not built")
    assert implementation_chosen(GATEDCORO_IMPLEMENTATION="c") == "c"


def test_without_the_extension_python_is_chosen():
    assert implementation_chosen(WITHOUT_THE_EXTENSION, GATEDCORO_IMPLEMENTATION="") == "python"


def test_asking_for_c_where_it_was_not_built_is_an_import_error_that_says_so():
    message = implementation_chosen(WITHOUT_THE_EXTENSION, GATEDCORO_IMPLEMENTATION="c")
    assert message.startswith("ImportError")
    assert "extension" in message and "GATEDCORO_IMPLEMENTATION" in message


def test_an_unknown_implementation_is_refused_in_clear_words():
    message = implementation_chosen(GATEDCORO_IMPLEMENTATION="rust")
    assert message.startswith(("ValueError", "ImportError"))
    assert "rust" in message and "python" in message


def arguments_of_setup(monkeypatch, **environment: str) -> dict:
    """What setup.py hands to setuptools."""
    setuptools = pytest.importorskip("setuptools")
    seen = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: seen.update(arguments))
    for name in ("GATEDCORO_REQUIRE_C", "GATEDCORO_ASSERT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(ROOT / "setup.py"))
    return seen


@needs_the_source_tree
def test_a_changed_header_rebuilds_the_extension(monkeypatch):
    (core,) = arguments_of_setup(monkeypatch)["ext_modules"]
    assert sorted(core.depends) == sorted(
        header.relative_to(ROOT).as_posix() for header in (ROOT / "src").glob("*/*.h")
    )


@needs_the_source_tree
def test_one_extension_is_built_and_it_is_optional_unless_required(monkeypatch):
    (core,) = arguments_of_setup(monkeypatch)["ext_modules"]
    assert (core.name, core.sources, core.optional) == ("gatedcoro._core", ["src/_core.c"], True)
    (core,) = arguments_of_setup(monkeypatch, GATEDCORO_REQUIRE_C="1")["ext_modules"]
    assert not core.optional


@needs_the_source_tree
def test_assertions_are_compiled_in_on_request(monkeypatch):
    (core,) = arguments_of_setup(monkeypatch, GATEDCORO_ASSERT="1")["ext_modules"]
    assert (core.define_macros, core.undef_macros) == ([], ["NDEBUG"])


@pytest.fixture
def source_tree(tmp_path):
    tree = tmp_path / "source"
    shutil.copytree(ROOT / "src", tree / "src")
    shutil.copytree(
        ROOT / "gatedcoro", tree / "gatedcoro", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


def build(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("setuptools", minversion="77")
    env = {**os.environ, "GATEDCORO_REQUIRE_C": "0", **environment}
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "build", "--build-lib", "built"]
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=300)


@needs_the_source_tree
@pytest.mark.skipif(sys.platform == "win32", reason="CC does not choose the compiler there")
def test_without_a_compiler_the_package_builds_and_runs_on_python(source_tree):
    done = build(source_tree, CC="there-is-no-such-compiler")
    assert done.returncode == 0, done.stderr
    built = source_tree / "built"
    assert not [*built.rglob("*.so")]
    code = (
        "import asyncio, gatedcoro; print(gatedcoro.implementation, asyncio.run(gatedcoro.gather_with_concurrency(2)))"
    )
    # -S: an editable installation would find the checkout's extension for the package that was built here.
    assert python("-S", "-c", code, PYTHONPATH=str(built), GATEDCORO_IMPLEMENTATION="").stdout == "python []\n"


@needs_the_source_tree
@pytest.mark.skipif(sys.platform == "win32", reason="CC does not choose the compiler there")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython gets the extension")
def test_a_missing_compiler_is_fatal_where_the_extension_is_required(source_tree):
    done = build(source_tree, CC="there-is-no-such-compiler", GATEDCORO_REQUIRE_C="1")
    assert done.returncode != 0
    assert "there-is-no-such-compiler" in done.stderr


@needs_the_source_tree
def test_the_source_distribution_is_small(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    tree, unwanted = tmp_path / "source", shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.egg-info")
    tree.mkdir()
    folders = re.findall(r"^(?:graft|recursive-include) (\S+)", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE)
    for found in ROOT.iterdir():
        if found.name in folders:
            shutil.copytree(found, tree / found.name, ignore=unwanted)
        elif found.is_file():
            shutil.copy(found, tree)
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "sdist", "--dist-dir", "made"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [archive] = (tree / "made").glob("*.tar.gz")
    assert archive.stat().st_size < 1_250_000  # half of it tests; a build or results of benchmarks would be more
