"""The stubs say what the functions return, and refuse what they would refuse."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import site
import subprocess
import sys
from pathlib import Path

import pytest

import gatedcoro
from effort import SHORT
from implementations import package_parent

pytestmark = pytest.mark.skipif(SHORT, reason="nothing here is about the build")

TYPECHECK = Path(__file__).parent / "typecheck"
EXPECTED = re.compile(r"  # (reveals|error): (.+)$")
REPORTED = re.compile(r"^.+?:(\d+): (?:(error): .*\[([a-z-]+)\]|note: Revealed type is \"(.+)\")$")


def plain(revealed: str) -> str:
    """The type without module names and type-variable marks, spelled as in a source file."""
    without_modules = re.sub(r"\b[a-z_]+(?:\.[a-z_]+)*\.(?=\w)", "", revealed)
    return without_modules.replace("?", "").replace("`", "")


def statement_starts(source: str) -> dict[int, int]:
    """Maps each line to the first line of its statement, where mypy reports what it finds."""
    starts: dict[int, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                starts[line] = node.lineno
    return starts


def expected_in(source: str) -> set[tuple[int, str, str]]:
    starts = statement_starts(source)
    return {
        (starts.get(number, number), found[1], found[2])
        for number, line in enumerate(source.splitlines(), 1)
        if (found := EXPECTED.search(line))
    }


def reported_by_mypy(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, str, str]]:
    mypy_api = pytest.importorskip("mypy.api")
    if package_parent(gatedcoro) not in [*site.getsitepackages(), site.getusersitepackages()]:
        monkeypatch.setenv("MYPYPATH", package_parent(gatedcoro))
    out, err, _ = mypy_api.run(
        [
            "--strict",
            "--no-pretty",
            "--no-error-summary",
            "--no-incremental",
            "--follow-imports=silent",  # LangChain, which one of the modules imports, need not be there
            "--disable-error-code=unused-coroutine",  # reveal_type(coroutine) is one
            "--config-file=",
            f"--cache-dir={cache}",
            f"--python-executable={sys.executable}",
            str(path),
        ]
    )
    assert not err, err
    starts = statement_starts(path.read_text())
    reported = set()
    for line in out.splitlines():
        found = REPORTED.match(line)
        if found is None:
            assert ": note: " in line, line
            continue
        number = int(found[1])
        kind, what = ("error", found[3]) if found[2] else ("reveals", plain(found[4]))
        reported.add((starts.get(number, number), kind, what))
    return reported


every_file = pytest.mark.parametrize("path", sorted(TYPECHECK.glob("*.py")), ids=lambda path: path.stem)


@every_file
def test_mypy_reveals_exactly_what_the_comments_say(path, tmp_path, monkeypatch):
    assert sorted(reported_by_mypy(path, tmp_path, monkeypatch)) == sorted(expected_in(path.read_text()))


# --- Pyright ----------------------------------------------------------------------------------------------------------
# It has words of its own for what is wrong, and for what `async def` returns.


def pyright() -> str:
    """The module of the one that is installed, if any."""
    for name in ("pyright", "basedpyright"):
        if importlib.util.find_spec(name):
            return name
    pytest.skip("needs pyright or basedpyright")


def without_codes(expected: set[tuple[int, str, str]]) -> set[tuple[int, str, str]]:
    """What is expected of mypy, as Pyright would say it."""
    return {
        (
            line,
            kind,
            "" if kind == "error" else re.sub(r"Literal\['c'\] \| Literal\['python'\]", "Literal['c', 'python']", what),
        )
        for line, kind, what in expected
    }


def reported_by_pyright(path: Path, folder: Path) -> set[tuple[int, str, str]]:
    options = {"include": [str(path)], "extraPaths": [package_parent(gatedcoro)], "typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(options))
    command = [
        sys.executable,
        "-m",
        pyright(),
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "--project",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    starts = statement_starts(path.read_text())
    reported = set()
    for diagnostic in json.loads(done.stdout)["generalDiagnostics"]:
        number = diagnostic["range"]["start"]["line"] + 1
        if diagnostic["severity"] == "information":
            revealed = diagnostic["message"].split('" is "')[1].removesuffix('"').replace("CoroutineType", "Coroutine")
            found = ("reveals", revealed)
        else:
            found = (diagnostic["severity"], "")
        reported.add((starts.get(number, number), *found))
    return reported


@every_file
def test_pyright_reveals_the_same(path, tmp_path):
    assert sorted(reported_by_pyright(path, tmp_path)) == sorted(without_codes(expected_in(path.read_text())))
