"""The programs: their variants, what they are given, and what must have come of it.

To add a variant: a file `NAME_VARIANT.py` with the same `main` and the same function that does the work, and a row in `variants`. To add
a program: a subclass of `Program`, and a row in PROGRAMS.
"""

import abc
import importlib
import importlib.util
import io
import json
import sqlite3
import subprocess
import tokenize
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, ClassVar

from .. import measure
from . import server as service
from .server import Server

OURS = "gatedcoro"
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Arguments = tuple[Any, ...]


class Program(abc.ABC):
    name: str
    title: str
    items: str  # what there are `count` of
    counts: str  # what goes on after an error, if something does
    work: str  # the function that does the work, with what `opened` gives
    variants: ClassVar[dict[str, str]]  # ours is the last one
    needs: tuple[str, ...]
    count: int
    quick_count: int
    halfway: int  # where it is interrupted, or meets an error: in requests, or chunks of rows
    quick_halfway: int

    def missing(self) -> str | None:
        absent = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return f"{', '.join(absent)} not installed" if absent else None

    def path(self, variant: str) -> Path:
        return Path(__file__).with_name(f"{self.name}_{variant}.py")

    def module(self, variant: str) -> Any:
        return importlib.import_module(f".{self.name}_{variant}", __package__)

    def at_once(self, variant: str) -> int:
        limit: int = self.module(variant).AT_ONCE
        return limit

    @abc.abstractmethod
    def arguments(self, server: Server, folder: Path, count: int, fail_at: int | None = None) -> Arguments:
        """What `main` is called with; its files are in the folder."""

    def prepare(self, server: Server, arguments: Arguments, count: int, fail_at: int | None = None) -> None:
        """Makes server and files what they are before a run."""
        server.reset(pages=count, fail_at=fail_at)

    @abc.abstractmethod
    def opened(self, arguments: Arguments) -> tuple[AbstractAsyncContextManager[Any], Arguments]:
        """What `main` opens, and the arguments of `work` beside it."""

    @abc.abstractmethod
    def check(self, server: Server, arguments: Arguments, count: int, outcome: Any, limit: int) -> None:
        """Refuses a run that did not do all of it, or not within the limit."""

    def wait_until(self, server: Server, number: int, process: "subprocess.Popen[str]") -> None:
        """Until so many requests have been made (chunks been written) by the process."""
        server.reached(number)

    def lost(self, server: Server, arguments: Arguments) -> str:
        """What was paid for in vain, or left half done; afterwards, from outside."""
        return ""

    async def gone_on(self, server: Server, resource: Any) -> int:
        """What has been done since the error, with the resource open."""
        return server.counts()["after_failure"]


def _check_requests(server: Server, count: int, limit: int) -> None:
    counts = server.counts()
    if (counts["arrived"], counts["refused"]) != (count, 0):
        raise measure.WrongResult(
            f"{counts['arrived']} requests for {count} items, {counts['refused']} of them refused"
        )
    if counts["peak"] > limit:
        raise measure.WrongResult(f"{counts['peak']} requests at once instead of {limit}")


class Crawl(Program):
    name = "crawl"
    title = "Crawl: the title of every page of a site (aiohttp)"
    items = "pages"
    counts = "requests"
    work = "crawl"
    variants: ClassVar = {"workers": "asyncio.Queue, workers", "taskgroup": "TaskGroup, Semaphore", OURS: "gatedcoro"}
    needs = ("aiohttp",)
    count, quick_count = 2_000, 300
    halfway, quick_halfway = 300, 50

    def arguments(self, server: Server, folder: Path, count: int, fail_at: int | None = None) -> Arguments:
        return (f"{server.url}/page/0",)

    def opened(self, arguments: Arguments) -> tuple[AbstractAsyncContextManager[Any], Arguments]:
        import aiohttp

        return aiohttp.ClientSession(), arguments

    def check(self, server: Server, arguments: Arguments, count: int, outcome: Any, limit: int) -> None:
        expected = {f"{server.url}/page/{number}": service.title_of(number) for number in range(count)}
        measure.check(sorted(outcome.items()), sorted(expected.items()))
        _check_requests(server, count, limit)


class Llm(Program):
    name = "llm"
    title = "LLM batch: an answer to every prompt of a file, at most 400 a second (httpx, aiolimiter)"
    items = "prompts"
    counts = "requests"
    work = "ask_all"
    variants: ClassVar = {"gather": "gather, Semaphore", "taskgroup": "TaskGroup, Semaphore", OURS: "gatedcoro"}
    needs = ("httpx", "aiolimiter", "aiohttp")
    count, quick_count = 1_200, 300
    halfway, quick_halfway = 300, 80

    def arguments(self, server: Server, folder: Path, count: int, fail_at: int | None = None) -> Arguments:
        return f"{server.url}/v1", folder / f"prompts-{count}.jsonl", folder / "answers.jsonl"

    def prepare(self, server: Server, arguments: Arguments, count: int, fail_at: int | None = None) -> None:
        super().prepare(server, arguments, count, fail_at)
        _, prompts, answers = arguments
        answers.unlink(missing_ok=True)
        if not prompts.exists():
            lines = [json.dumps({"id": number, "text": self._text(number)}) for number in range(count)]
            prompts.write_text("\n".join(lines))

    @staticmethod
    def _text(number: int) -> str:
        return f"{number} " + "What is this? " * (number % 40)

    def opened(self, arguments: Arguments) -> tuple[AbstractAsyncContextManager[Any], Arguments]:
        import httpx

        url, *rest = arguments
        return httpx.AsyncClient(base_url=url, timeout=60), tuple(rest)

    @staticmethod
    def _answers(arguments: Arguments) -> list[Any]:
        return [json.loads(line) for line in arguments[2].read_text().splitlines()]

    def check(self, server: Server, arguments: Arguments, count: int, outcome: Any, limit: int) -> None:
        expected = [{"id": number, "answer": service.answer_to(self._text(number))} for number in range(count)]
        measure.check(sorted(self._answers(arguments), key=lambda answer: answer["id"]), expected)
        _check_requests(server, count, limit)

    def lost(self, server: Server, arguments: Arguments) -> str:
        return f"{server.counts()['arrived'] - len(self._answers(arguments)):,} answers lost"


class Import(Program):
    name = "import"
    title = "Import: a file of orders into a table, all or nothing (aiosqlite)"
    items = "rows"
    counts = "rows"
    work = "import_orders"
    variants: ClassVar = {"gather": "gather, Semaphore", "taskgroup": "TaskGroup, Queue, workers", OURS: "gatedcoro"}
    needs = ("aiosqlite", "aiohttp")
    count, quick_count = 200_000, 50_000
    halfway, quick_halfway = 100, 10

    def arguments(self, server: Server, folder: Path, count: int, fail_at: int | None = None) -> Arguments:
        return folder / f"orders-{count}-{fail_at}.csv", folder / "orders.db"

    def prepare(self, server: Server, arguments: Arguments, count: int, fail_at: int | None = None) -> None:
        orders, path = arguments
        if not orders.exists():
            bad = None if fail_at is None else fail_at * self.module(OURS).CHUNK
            lines = [f"{number},customer {number},{-1 if number == bad else 1}.5" for number in range(count)]
            orders.write_text("\n".join(lines))
        for file in path.parent.glob("orders.db*"):
            file.unlink()
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE orders (number INTEGER, customer TEXT, amount REAL CHECK (amount >= 0))")

    def opened(self, arguments: Arguments) -> tuple[AbstractAsyncContextManager[Any], Arguments]:
        import aiosqlite

        orders, path = arguments
        return aiosqlite.connect(path), (orders,)

    @staticmethod
    def _asked(arguments: Arguments, query: str) -> tuple[Any, ...]:
        with closing(sqlite3.connect(arguments[1])) as database:
            found: tuple[Any, ...] = database.execute(query).fetchone()
        return found

    def check(self, server: Server, arguments: Arguments, count: int, outcome: Any, limit: int) -> None:
        query = "SELECT count(*), sum(number), sum(amount), count(DISTINCT customer), min(customer) FROM orders"
        expected = (count, count * (count - 1) // 2, 1.5 * count, count, "Customer 0")
        measure.check(self._asked(arguments, query), expected)

    def wait_until(self, server: Server, number: int, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        process.stdout.readline()  # child.py says so

    def lost(self, server: Server, arguments: Arguments) -> str:
        journal = ", and a journal" if list(arguments[1].parent.glob("orders.db-*")) else ""
        return f"{self._asked(arguments, 'SELECT count(*) FROM orders')[0]:,} rows{journal} left"

    async def gone_on(self, server: Server, resource: Any) -> int:
        """Rows that the next commit on the connection keeps: the import has rolled back."""
        await resource.commit()
        [(rows,)] = await resource.execute_fetchall("SELECT count(*) FROM orders")
        found: int = rows
        return found


PROGRAMS: dict[str, Program] = {program.name: program for program in (Crawl(), Llm(), Import())}


def lines_of_code(source: str) -> int:
    """Lines that hold more than a comment; a docstring is one. An expression over three lines is three."""
    lines: set[int] = set()
    begins = True  # a logical line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in LAYOUT:
            begins = begins or token.type == tokenize.NEWLINE
            continue
        if not (begins and token.type == tokenize.STRING):
            lines.update(range(token.start[0], token.end[0] + 1))
        begins = False
    return len(lines)
