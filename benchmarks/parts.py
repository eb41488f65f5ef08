"""The parts of documentation that a command writes: into a page that is written by hand, between two comments that name the part."""

import datetime
from collections.abc import Collection, Iterable
from pathlib import Path

from . import measure
from .harness import ROOT

PROGRAMS = ROOT / "docs" / "programs.md"
MEASURED = ROOT / "docs" / "measured.md"
SEMAPHORES = "semaphores"  # the part of it that `goals` writes and `report` keeps


def made(command: str, packages: Collection[str]) -> str:
    """When, by which command, where, and with which of the packages."""
    machine = measure.machine()
    versions = ", ".join(f"{name} {version}" for name, version in measure.versions().items() if name in packages)
    return (
        f"Made on {datetime.date.today().isoformat()} by `python -m benchmarks {command}` on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['system']} ({machine['architecture']}), with {measure.build()}{versions and f'; {versions}'}.\n"
    )


def table(head: list[str], rows: Iterable[list[str]], texts: Collection[str] = ()) -> str:
    """Columns of figures but for the first one and those that are named."""
    rule = ["---", *("---" if title in texts else "---:" for title in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows)) + "\n"


def write(page: Path, name: str, text: str) -> None:
    before, _, after = split(page, name)
    page.write_text(f"{before}\n{text}\n{after}")


def split(page: Path, name: str) -> tuple[str, str, str]:
    """The page before the part, the part, the page after it; the comments belong to what is around."""
    begin, end = f"<!--- {name} --->\n", f"<!--- end of {name} --->\n"
    before, found, rest = page.read_text().partition(begin)
    part, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{page.name} has no part {name}")
    return before + begin, part, end + after
