"""The documentation holds together: what it links to is there, what it names exists, and the README stays short."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import gatedcoro
from gatedcoro import _functions, _reference

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("benchmarks/*.md"))]
DOCUMENTATION = [page for page in PAGES if page.parent == ROOT / "docs" or page.name == "README.md"]

LANGUAGES = {"python", "sh", "text"}
SKIP = re.compile(r'^<!--- skip: next "(.+)" --->$', re.MULTILINE)
BLOCKS_NOT_RUN = 6

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the tests stand alone here")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
every_page_of_the_documentation = pytest.mark.parametrize("page", DOCUMENTATION, ids=name_of)


# --- Reading Markdown ---------------------------------------------------------------------------------------------


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Every fenced block: what stands behind its fence, and what is in it."""
    return re.findall(r"^```(.*)\n((?:(?!```).*\n)*)```$", text_of(page), re.MULTILINE)


def prose_of(page: Path) -> str:
    """The page without its fenced blocks and comments."""
    text = re.sub(r"^```.*\n(?:(?!```).*\n)*```$", "", text_of(page), flags=re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def headings_of(page: Path) -> list[str]:
    return re.findall(r"^#{1,6} +(.+?) *$", prose_of(page), re.MULTILINE)


@functools.cache
def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of the page's headings."""
    anchors: set[str] = set()
    for heading in headings_of(page):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        base = anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = 0
        while anchor in anchors:
            count += 1
            anchor = f"{base}-{count}"
        anchors.add(anchor)
    return anchors


def links_of(page: Path) -> list[str]:
    without_code = re.sub(r"`[^`\n]+`", "", prose_of(page))
    return re.findall(r"\]\(([^()\s]+)\)", without_code)


def section_of(page: Path, heading: str) -> str:
    """What stands under a heading, down to the next one of its level or a higher one."""
    level, _, rest = text_of(page).partition(f"# {heading}\n")
    hashes = level[level.rfind("\n") + 1 :] + "#"
    return re.split(rf"^#{{1,{len(hashes)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


# --- Links ----------------------------------------------------------------------------------------------------------


@every_page
def test_every_relative_link_leads_to_something(page):
    broken = []
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page not in PAGES:
            continue
        reached.add(page)
        ahead += [(page.parent / link.partition("#")[0]).resolve() for link in links_of(page)]
    assert [name_of(page) for page in DOCUMENTATION if page not in reached] == []


def test_no_page_names_a_machine():
    for page in PAGES:
        found = re.findall(r"/(?:home|root|tmp|work|usr|opt)/\S+|https?://(?:localhost|127\.|10\.)\S*", text_of(page))
        assert found == [], page


# --- What is named ---------------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 130


def test_the_first_commands_of_the_readme_are_those_that_a_job_runs():
    commands = [source for language, source in blocks_of(ROOT / "README.md") if language == "sh"]
    assert commands[0].splitlines() == [
        "python -m pip install -e '.[demo]' && python -m gatedcoro",
        "python -m pip install -e '.[test]' && python -m pytest",
    ]


CLASSES = [name for name in _functions.__all__ if isinstance(getattr(_functions, name), type)]
FUNCTIONS = [name for name in _functions.__all__ if name not in CLASSES]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_its_heading_and_its_signature(name):
    page = ROOT / "docs" / "functions.md"
    assert f"`{name}`" in headings_of(page)
    assert f"`{name}{inspect.signature(getattr(gatedcoro, name))}`" in section_of(page, f"`{name}`")


@pytest.mark.parametrize("name", CLASSES)
def test_what_help_says_of_a_class_is_the_same_on_every_implementation(impl, name):
    of_a_semaphore = ("acquire", "limit", "locked", "release")
    described = inspect.getdoc(getattr(_functions, name))
    assert len(described) > 200 and inspect.getdoc(getattr(impl, name)) == described
    methods = of_a_semaphore if "Semaphore" in name else ("__class_getitem__", "aclose")
    for method in ("__aenter__", "__aexit__", *methods):
        described = inspect.getdoc(getattr(getattr(_reference, name), method))
        assert described and inspect.getdoc(getattr(getattr(impl, name), method)) == described


def test_every_function_for_langchain_is_described():
    page = text_of(ROOT / "docs" / "langchain.md")
    for name in importlib.import_module("gatedcoro.langchain").__all__:
        assert re.search(rf"`[^`\n]*\b{name}\([^`\n]*\)[^`\n]*`", page), name


def test_the_architecture_names_every_header():
    page = text_of(ROOT / "docs" / "architecture.md")
    headers = {header.relative_to(ROOT / "src").as_posix() for header in (ROOT / "src").rglob("*.h")}
    assert {header for header in headers if f"`{header}`" not in page} == set()
    assert set(re.findall(r"`(\w+/\w+\.h)`", page)) <= headers


def test_everything_of_the_shared_limit_is_described():
    shared = importlib.import_module("gatedcoro.shared")
    page = ROOT / "docs" / "shared-limits.md"
    spans = re.findall(r"`([^`\n]+)`", prose_of(page))
    names: set[str] = set()
    for kind in (shared.RedisLimit, shared.PostgresLimit):
        parameters = inspect.signature(kind).parameters.values()
        shown = [
            parameter.name
            if parameter.default is parameter.empty
            else f"{parameter.name}={json.dumps(parameter.default)}"
            for parameter in parameters
        ]
        shown.insert([parameter.kind for parameter in parameters].index(inspect.Parameter.KEYWORD_ONLY), "*")
        assert f"{kind.__name__}({', '.join(shown)})".replace("true", "True").replace("false", "False") in spans
        names |= {parameter.name for parameter in parameters}
    # What a session calls is the limit's, and none of its user's business.
    of_a_session = dir(importlib.import_module("gatedcoro.shared._session").Owner)
    methods = [name for name in dir(shared.RedisLimit) if not name.startswith("_") and name not in of_a_session]
    assert methods == [
        name for name in dir(shared.PostgresLimit) if not name.startswith("_") and name not in of_a_session
    ]
    fields = [field.name for field in dataclasses.fields(shared.LimitStats)]
    for name in [*shared.__all__, *names, *methods, *fields]:
        assert any(re.search(rf"\b{name}\b", span) for span in spans), name
    for owner, names in ((shared, shared.__all__), (shared.RedisLimit, methods), (shared.PostgresLimit, methods)):
        for name in names:
            assert len(inspect.getdoc(getattr(owner, name))) > 20, name


def test_every_setting_of_a_connection_is_described():
    """Of PostgresLimit; and no other one."""
    postgres = importlib.import_module("gatedcoro.shared._postgres")
    section = section_of(ROOT / "docs" / "shared-limits.md", "The connection")
    described = [
        name
        for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+_\w+|jit)`", row)
    ]
    first = re.findall(r"SET (\w+) TO", postgres.FIRST_SETTINGS)
    made = {*postgres.settings(30), *first}
    assert set(described) - {"force_generic_plan", "pg_catalog"} == made


def test_every_function_of_the_server_that_a_limit_needs_is_described():
    """Those with a name of PostgreSQL's own, in the statement and around it; and no other one."""
    postgres = importlib.import_module("gatedcoro.shared._postgres")
    [row] = re.findall(
        r"^\| functions \|(.*)\|$", section_of(ROOT / "docs" / "shared-limits.md", "Rights in PostgreSQL"), re.MULTILINE
    )
    source = Path(postgres.__file__).read_text() + re.sub(r"--.*", "", postgres.STATEMENT)
    used = set(re.findall(r"\b((?:pg|txid)_\w+|set_config)\(", source))
    assert set(re.findall(r"`(\w+)`", row)) == used


def test_a_module_of_the_shared_limit_imports_from_those_above_it_in_the_table_of_the_architecture():
    folder = ROOT / "gatedcoro" / "shared"
    section = section_of(ROOT / "docs" / "architecture.md", "The shared limit")
    modules = re.findall(r"^\| `(\w+)\.py` \|", section, re.MULTILINE)
    assert sorted([*modules, "__init__"]) == sorted(path.stem for path in folder.glob("*.py"))
    for number, module in enumerate(modules):
        tree = ast.parse((folder / f"{module}.py").read_text())
        imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
        assert set(imported) <= set(modules[:number]), module
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level > 1], module


def test_an_sdist_holds_the_documentation():
    assert "graft docs" in (ROOT / "MANIFEST.in").read_text().splitlines()


def test_the_adapter_of_ray_is_that_of_its_example():
    """Neither runs in the tests; those of the other engines are compared with what is tested."""
    places = [ROOT / "docs" / "engines.md", ROOT / "examples" / "ray_search.py"]
    shown, run = (re.search(r"async def on_ray\(.*\n((?:    .*\n)+)", text_of(place)) for place in places)
    assert shown and run and shown[1] == run[1] and "ray.cancel" in run[1]


# --- Blocks and commands ----------------------------------------------------------------------------------------------


@every_page_of_the_documentation
def test_every_block_says_its_language(page):
    assert {language for language, _ in blocks_of(page)} <= LANGUAGES


def test_few_blocks_are_not_run_and_each_says_why():
    skipped = [why for page in DOCUMENTATION for why in SKIP.findall(text_of(page))]
    assert len(skipped) <= BLOCKS_NOT_RUN, skipped
    assert all(len(why.split()) > 3 for why in skipped)
    for page in DOCUMENTATION:  # and there is no other way to leave one out
        assert text_of(page).count("skip:") == len(SKIP.findall(text_of(page)))


def commands_of(page: Path) -> Iterator[str]:
    """Every command of the page: the lines of its blocks of commands, and what the text calls by `python -m`."""
    for language, source in blocks_of(page):
        if language == "sh":
            yield from source.replace("\\\n", "").splitlines()
    for code in re.findall(r"`([^`\n]+)`", prose_of(page)):
        if re.match(r"(?:[A-Z_]+=\S+ )*(?:python -m|pip|pytest|\.ci/)\b", code):
            yield code


@functools.cache
def help_of(*module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_installation(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for argument in arguments:
        if argument.startswith(".["):
            extras = argument[2:-1].split(",")
            assert set(extras) <= set(project["project"]["optional-dependencies"])


def check_module(module: str, arguments: list[str]) -> None:
    if module == "pip":
        assert arguments[0] == "install"
        return check_installation(arguments[1:])
    if module == "pytest":
        for argument in arguments:
            assert argument.startswith("-") or (ROOT / argument).exists(), argument
        return None
    if importlib.util.find_spec(module) is None:
        raise AssertionError(f"there is no module {module}")
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    if options and module.partition(".")[0] in ("gatedcoro", "benchmarks"):
        words = [argument for argument in arguments[:1] if not argument.startswith("-")]
        known = help_of(module, *words)
        assert [option for option in options if option not in known] == []
    return None


def check_command(command: str) -> None:
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name = words.pop(0).partition("=")[0]
        if name.startswith("GATEDCORO_"):
            assert any(name in source.read_text() for source in [*ROOT.glob("gatedcoro/*.py"), ROOT / "setup.py"]), name
    program, *arguments = words
    if program == "python" and arguments[0] == "-m":
        check_module(arguments[1], arguments[2:])
    elif program == "python":
        assert (ROOT / arguments[0]).exists()
    elif program in ("pip", "pytest"):
        check_module(program, arguments)
    else:
        assert (ROOT / program).exists(), program


@every_page_of_the_documentation
def test_every_command_could_be_run(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for line in commands_of(page):
        for command in re.split(r" && | \| ", line.partition(" #")[0]):
            check_command(command)
