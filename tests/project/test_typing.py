"""The stubs say what the functions return, and refuse what they would refuse."""

from __future__ import annotations

import ast
import re
import site
import sys
from pathlib import Path

import pytest

import gatedcoro
from implementations import package_parent

mypy_api = pytest.importorskip("mypy.api")

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
    if package_parent(gatedcoro) not in [*site.getsitepackages(), site.getusersitepackages()]:
        monkeypatch.setenv("MYPYPATH", package_parent(gatedcoro))
    out, err, _ = mypy_api.run(
        [
            "--strict",
            "--no-pretty",
            "--no-error-summary",
            "--no-incremental",
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


@pytest.mark.parametrize("path", sorted(TYPECHECK.glob("*.py")), ids=lambda path: path.stem)
def test_mypy_reveals_exactly_what_the_comments_say(path, tmp_path, monkeypatch):
    assert sorted(reported_by_mypy(path, tmp_path, monkeypatch)) == sorted(expected_in(path.read_text()))
