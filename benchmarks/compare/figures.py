"""What came of the measuring: every sample of every cell, and what the words and the plots share."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import works
from .cells import INSIDE, Cell, unit_of

CENTRE_WORK, CENTRE_LIMIT = works.SLEEP0.name, 10
BASIC_WORKS = tuple(work.name for work in works.BASIC)

Key = tuple[str, Cell, str]  # interpreter, cell, tool


@dataclass
class Results:
    """Every sample, and for each cell that has none the reason."""

    made: str
    command: str
    machine: dict[str, Any]
    pythons: list[dict[str, Any]]
    quick: bool
    samples: dict[Key, list[float]] = field(default_factory=dict)
    reasons: dict[str, dict[Key, str]] = field(default_factory=dict)  # "skipped", "absent", ... -> why

    def add_reason(self, kind: str, key: Key, reason: str) -> None:
        self.reasons.setdefault(kind, {})[key] = reason

    def median(self, python: str, cell: Cell, tool: str) -> float | None:
        samples = self.samples.get((python, cell, tool))
        return statistics.median(samples) if samples else None

    def cells(self) -> list[tuple[str, Cell]]:
        return list(dict.fromkeys((python, cell) for python, cell, _ in self.samples))

    def tools_of(self, python: str, cell: Cell) -> list[str]:
        """The fastest (or smallest) first."""
        found = [key[2] for key in self.samples if key[:2] == (python, cell)]
        return sorted(found, key=lambda tool: statistics.median(self.samples[python, cell, tool]))

    def as_json(self) -> dict[str, Any]:
        return {
            "made": self.made,
            "command": self.command,
            "machine": self.machine,
            "pythons": self.pythons,
            "quick": self.quick,
            "samples": [
                {
                    "python": python,
                    **asdict(cell),
                    "tool": tool,
                    "unit": unit_of(cell.quantity),
                    "samples": samples,
                }
                for (python, cell, tool), samples in self.samples.items()
            ],
            "without": [
                {"kind": kind, "python": python, **asdict(cell), "tool": tool, "reason": reason}
                for kind, of_kind in self.reasons.items()
                for (python, cell, tool), reason in of_kind.items()
            ],
        }

    def save(self, output: Path) -> None:
        (output / "results.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Results":
        results = cls(found["made"], found["command"], found["machine"], found["pythons"], found["quick"])
        for row in found["samples"]:
            results.samples[_key(row)] = row["samples"]
        for row in found["without"]:
            results.add_reason(row["kind"], _key(row), row["reason"])
        return results


def _key(row: dict[str, Any]) -> Key:
    return (
        row["python"],
        Cell(row["work"], row["count"], row["limit"], row["loop"], row["quantity"], row.get("made", INSIDE)),
        row["tool"],
    )
