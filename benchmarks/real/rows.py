"""What `python -m benchmarks real` measures, and the goals: one row for each kind of work.

To add a row (a stream, a semaphore, a limit that Redis keeps): the work is a row of WORKS in works.py, or of those in
compare/works.py; tools other than the four are rows of COMPETITORS or ASIDE in compare/competitors.py, and are named in `tools`, ours
first; what is promised of it is named in `goals`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .. import harness
from ..compare import competitors
from ..compare.cells import WORKS, Cell
from ..compare.competitors import BEFORE, OURS
from ..harness import Samples

BY_HAND = ("langchain", "lazy-pump", "pool")
FEW, MANY = (10, 50), 1_000
LONGEST_SAMPLE = 0.5  # seconds that a sample's items should wait for a server behind a delay
FEWEST, MOST = 200, 2_000  # items in a sample, and at least two for each that may run at once


@dataclass(frozen=True)
class Goal:
    """A part of ours, over that of the best of the others, in the median of the rounds."""

    part: str
    at_most: float
    of: tuple[str, ...]
    limits: tuple[int, ...] = (*FEW, MANY)

    def figure(self, samples: Samples) -> float | None:
        found = [
            harness.ratio(OURS, other)({OURS: samples[OURS], other: samples[other]})
            for other in self.of
            if len(samples.get(other, ())) == len(samples.get(OURS, ())) > 0
        ]
        return max(found) if len(found) == len(self.of) else None

    def met(self, figure: float) -> bool:
        return figure <= self.at_most


GOALS = (
    Goal("wall", 1.03, BY_HAND),
    Goal("cpu", 1.03, BY_HAND, FEW),
    Goal("longest-turn", 1.1, ("pool",), FEW),
    Goal("p50", 1.03, (BEFORE,), (MANY,)),
    Goal("p99", 1.03, (BEFORE,), (MANY,)),
    Goal("longest-turn", 1.1, (BEFORE,), (MANY,)),
)
BY_PROCESSOR_TIME = {"wall": "cpu", "longest-turn": "longest-own-turn"}  # of a part that other processes disturb


@dataclass(frozen=True)
class Row:
    section: str
    work: str
    limits: tuple[int, ...] = (*FEW, MANY)
    loop: str = "asyncio"
    tools: tuple[str, ...] = (OURS, *BY_HAND)
    goals: tuple[Goal, ...] = GOALS

    def cells(self, quick: bool) -> Iterator[Cell]:
        work = WORKS[self.work]
        for limit in self.limits[:1] if quick else self.limits:
            most = min(work.count, MOST)
            if work.waits:
                most = min(most, int(limit * LONGEST_SAMPLE / work.waits))
            count = 3 * limit if quick else max(most, FEWEST, 2 * limit)
            yield Cell(self.work, count, limit, self.loop, "parts")

    def goals_of(self, cell: Cell, processor_time: bool) -> Iterator[Goal]:
        """Those that can be judged, once each."""
        seen = set()
        for goal in self.goals:
            if cell.limit not in goal.limits:
                continue
            part = BY_PROCESSOR_TIME.get(goal.part, goal.part) if processor_time else goal.part
            if cell.loop != "asyncio" and part.startswith("longest"):
                continue  # turns are seen on a stock loop only
            if (part, goal.of) not in seen:
                seen.add((part, goal.of))
                yield Goal(part, goal.at_most, goal.of, goal.limits)


HTTP, TLS, BEHIND, UVLOOP, HTTPX, DATABASE, REDIS = (
    "HTTP by aiohttp",
    "HTTP by aiohttp: TLS, new connections",
    "HTTP by aiohttp, servers behind a delay",
    "HTTP by aiohttp, uvloop",
    "HTTP by httpx",
    "A database",
    "Redis",
)
ROWS = [
    Row(HTTP, "aiohttp-asleep"),
    Row(HTTP, "aiohttp-awake"),
    *[Row(BEHIND, f"aiohttp-{delay}") for delay in ("1ms", "10ms", "100ms")],
    *[Row(BEHIND, f"aiohttp-netem-{delay}") for delay in ("1ms", "10ms", "100ms")],
    Row(TLS, "aiohttp-tls"),
    Row(TLS, "aiohttp-new"),
    *[Row(UVLOOP, f"aiohttp-{server}", loop="uvloop") for server in ("asleep", "awake", "10ms")],
    *[Row(HTTPX, f"httpx-{server}", FEW) for server in ("asleep", "awake", "10ms")],
    Row(DATABASE, "asyncpg"),
    Row(DATABASE, "aiosqlite"),
    Row(REDIS, "redis"),
]

assert all(tool in competitors.BY_NAME for row in ROWS for tool in row.tools)
