"""`python -m benchmarks shared`: what one limit over several processes costs, RedisLimit and PostgresLimit beside what else there is.

A Redis (or Valkey) and a PostgreSQL of this machine; every sample in processes of its own, which begin together. Before a figure counts, items that count
themselves at the server have run under the limit in three processes: never more than the limit at once, and every result in its place.
The columns take turns; a figure is the median of the rounds. Making the coroutines and starting the Tasks is inside, making the client
and its first connection is not (a PostgresLimit makes one for itself, though). Commands are those that the server has run: of Redis the
ones inside of scripts included, of PostgreSQL its transactions, as each statement is one.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import itertools
import os
import statistics
import sys
import time
import typing
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from gatedcoro import gather
from gatedcoro.shared import PostgresLimit, RedisLimit
from gatedcoro.shared._limit import SharedLimit
from gatedcoro.shared._state import Request, State

from . import harness, measure, parts
from .real import servers

PAGE = harness.ROOT / "docs" / "shared-limits.md"
PART = "what a shared limit costs"
WAITING_PART = "what waiting costs"
SESSIONS_PART = "sessions at one server"
POSTGRES_SESSIONS_PART = "sessions at one PostgreSQL"
PACKAGES = ("asyncpg", "hiredis", "py-redis-semaphore", "redis", "redis-rate-limiters")

TOGETHER = 3  # processes
LIMIT = 5
PAUSE = 0.005  # seconds, of an item that sleeps
LEASE = 3.0  # of who waits, so that it renews often enough to be seen
SESSIONS = (1, 10, 100, 1_000)
POSTGRES_SESSIONS = (1, 10, 50)  # each is a connection
OF_MEETINGS = ("_sadd", "_scard", "_info", "_hello", "_client|setinfo")

CHILD = ("benchmarks.shared", "--child")

Sample = dict[str, float]
Limit = AbstractAsyncContextManager[Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done."""

    entries: int
    items: int  # that do nothing
    sleeping: int  # in each process
    rounds: int
    waiting: float  # seconds
    syncs: int


FULL = Size(entries=100_000, items=100_000, sleeping=400, rounds=5, waiting=10.0, syncs=2_000)
QUICK = Size(entries=2_000, items=2_000, sleeping=40, rounds=1, waiting=1.0, syncs=50)


# --- The limits -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Servers:
    """What keeps limits."""

    client: Any  # of Redis, where processes meet as well
    postgres: str | None = None  # where to connect


@contextlib.asynccontextmanager
async def redis_limit(at: Servers, name: str, limit: int, lease: float = 30.0) -> AsyncIterator[Limit]:
    async with contextlib.aclosing(RedisLimit(at.client, name, limit, lease=lease, recover=False)) as made:
        yield made


@contextlib.asynccontextmanager
async def postgres_limit(at: Servers, name: str, limit: int, lease: float = 30.0) -> AsyncIterator[Limit]:
    import asyncpg

    connect = functools.partial(asyncpg.connect, at.postgres)
    async with contextlib.aclosing(PostgresLimit(connect, name, limit, lease=lease)) as made:
        yield made


@contextlib.asynccontextmanager
async def asyncio_semaphore(at: Servers, name: str, limit: int) -> AsyncIterator[Limit]:
    yield asyncio.Semaphore(limit)


class ForEachItem:
    """An object of its own for each item: theirs can be entered once at a time."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.entered: dict[Any, Any] = {}

    async def __aenter__(self) -> None:
        self.entered[asyncio.current_task()] = made = self.make()
        await made.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await self.entered.pop(asyncio.current_task()).__aexit__(*error)


@contextlib.asynccontextmanager
async def py_redis_semaphore(at: Servers, name: str, limit: int) -> AsyncIterator[Limit]:
    import redis_semaphore

    config = redis_semaphore.SemaphoreConfig(name=name, limit=limit)
    yield ForEachItem(lambda: redis_semaphore.Semaphore(at.client, config))


@contextlib.asynccontextmanager
async def redis_rate_limiters(at: Servers, name: str, limit: int) -> AsyncIterator[Limit]:
    import limiters

    yield limiters.AsyncSemaphore(connection=at.client, name=name, capacity=limit)


async def redis_commands(at: Servers) -> int:
    """How many the server has run; not those by which the processes meet."""
    found = await at.client.info("commandstats")
    return sum(one["calls"] for name, one in found.items() if not name.lower().endswith(OF_MEETINGS))


async def postgres_transactions(at: Servers) -> int:
    """How many the database has ended, once nobody is connected to it: this is asked in another one."""
    import asyncpg

    connection = await asyncpg.connect(at.postgres, database="template1")
    try:
        while await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres'"):
            await asyncio.sleep(0.01)
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'"
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


@dataclasses.dataclass(frozen=True)
class Way:
    make: Callable[..., AbstractAsyncContextManager[Limit]]
    module: str
    is_shared: bool = True
    fewer: int = 1  # items, by this factor: each asks the server several times
    commands: Callable[[Servers], Coroutine[Any, Any, int]] = redis_commands
    missing: Callable[[], str | None] = lambda: None  # why there is no server for it

    def left_out(self) -> str | None:
        return self.missing() if importlib.util.find_spec(self.module) else f"{self.module} is not installed"


OURS, POSTGRES = "RedisLimit", "PostgresLimit"
WAYS = {
    OURS: Way(redis_limit, "redis", missing=servers.no_redis),
    POSTGRES: Way(postgres_limit, "asyncpg", commands=postgres_transactions, missing=servers.no_postgres),
    "asyncio.Semaphore, nothing shared": Way(asyncio_semaphore, "asyncio", is_shared=False),
    "py-redis-semaphore": Way(py_redis_semaphore, "redis_semaphore", fewer=200),
    "redis-rate-limiters": Way(redis_rate_limiters, "limiters", fewer=100),
}


# --- In a process of its own ----------------------------------------------------------------------------------------


class Process:
    """One of those that use a limit together."""

    def __init__(self, at: Servers, way: str, name: str, together: int) -> None:
        self.at = at
        self.client = at.client
        self.way = WAYS[way]
        self.name = name
        self.together = together
        self._meetings = itertools.count()

    def limit(self, what: str, limit: int) -> AbstractAsyncContextManager[Limit]:
        return self.way.make(self.at, f"{self.name}:{what}", limit)

    async def meet(self) -> None:
        """Wait for the others."""
        key = f"{self.name}:meeting:{next(self._meetings)}"
        await self.client.sadd(key, os.getpid())
        while await self.client.scard(key) < self.together:
            await asyncio.sleep(0.002)

    async def commands(self) -> int:
        """How many the server has run, while nobody runs any."""
        await self.meet()
        found = await self.way.commands(self.at)
        await self.meet()
        return found


async def nothing(index: int) -> int:
    return index


async def enter(process: Process, count: int) -> Sample:
    async with process.limit("enter", LIMIT) as limit:
        async with limit:  # whatever is done once is done
            pass
        with measure.frozen_gc():
            began = time.perf_counter()
            for _ in range(count):
                async with limit:
                    pass
            return {"enter": (time.perf_counter() - began) / count * 1e6}


async def first(process: Process, count: int) -> Sample:
    taken = []
    for number in range(count):
        async with process.limit(f"first-{number}", LIMIT) as limit:
            began = time.perf_counter()
            async with limit:
                taken.append(time.perf_counter() - began)
    return {"first": statistics.median(taken) * 1e3}


async def items_of_nothing(process: Process, count: int) -> Any:
    commands = await process.commands()
    async with process.limit("nothing", LIMIT) as limit:
        await process.meet()
        with measure.frozen_gc():
            began = time.monotonic()
            results = await gather(*map(nothing, range(count)), limit=limit)
            ended = time.monotonic()
        measure.check(results, range(count))
    return {"began": began, "ended": ended, "count": count, "commands": await process.commands() - commands}


async def sleeping_items(process: Process, limit: int, count: int) -> Any:
    ends = []

    async def item(index: int) -> int:
        await asyncio.sleep(PAUSE)
        ends.append(time.monotonic())
        return index

    commands = await process.commands()
    async with process.limit(f"sleeping-{limit}", limit) as made:
        await process.meet()
        began = time.monotonic()
        measure.check(await gather(*map(item, range(count)), limit=made), range(count))
    return {"began": began, "ends": ends, "commands": await process.commands() - commands}


async def counted_items(process: Process, count: int) -> Any:
    """How many the server has seen at once."""
    running, most = f"{process.name}:running", 0

    async def item(index: int) -> int:
        nonlocal most
        most = max(most, await process.client.incr(running))
        await asyncio.sleep(0.001)
        await process.client.decr(running)
        return index

    async with process.limit("counted", LIMIT) as limit:
        await process.meet()
        measure.check(await gather(*map(item, range(count)), limit=limit), range(count))
    return {"most": most}


async def work_alone(process: Process, size: Size) -> Any:
    found = await enter(process, max(20, size.entries // process.way.fewer))
    if process.way.is_shared:
        found |= await first(process, 5 if size == QUICK else 50)
    return found | {"nothing": await items_of_nothing(process, max(20, size.items // process.way.fewer))}


async def work_together(process: Process, size: Size) -> Any:
    found = {}
    if process.way.is_shared:
        found["counted"] = await counted_items(process, 40)
        for limit, count in ((LIMIT, size.sleeping), (1, size.sleeping // 2)):
            found[f"sleeping {limit}"] = await sleeping_items(process, limit, count)
    return found | {"nothing": await items_of_nothing(process, max(20, size.items // process.way.fewer))}


async def waiting_here(at: Servers, name: str, way: str, seconds: float, report: harness.Report) -> None:
    async with WAYS[way].make(at, name, 1, LEASE) as made:
        limit = typing.cast("SharedLimit", made)
        waiter = asyncio.create_task(limit.acquire())
        while limit.stats().sessions < 2:  # it has been told to wait
            await asyncio.sleep(0.01)
        session = limit._session
        assert session is not None
        used, syncs = time.process_time(), session.number
        await asyncio.sleep(seconds)
        used, syncs = time.process_time() - used, session.number - syncs
        if waiter.done():
            raise measure.WrongResult("there was a permit")
        waiter.cancel()
        report({"syncs": syncs / seconds * LEASE, "busy": used / seconds})


async def holding_here(at: Servers, name: str, way: str, report: harness.Report) -> None:
    """Until it is killed."""
    async with WAYS[way].make(at, name, 1, LEASE) as limit, limit:
        report({"holds": True})
        await asyncio.sleep(harness.LONGEST_SAMPLE)


async def working_here(
    at: Servers, name: str, way: str, size: dict[str, Any], together: int, report: harness.Report
) -> None:
    process = Process(at, way, name, together)
    await process.meet()
    report(await (work_alone if together == 1 else work_together)(process, Size(**size)))


async def answered(request: dict[str, Any], report: harness.Report) -> None:
    import redis.asyncio

    async with redis.asyncio.Redis(port=request.pop("port")) as client:
        at = Servers(client, request.pop("postgres"))
        kinds: dict[str, Callable[..., Coroutine[Any, Any, None]]]
        kinds = {"working": working_here, "waiting": waiting_here, "holding": holding_here}
        here = kinds[request.pop("what")]
        await here(at, report=report, **request)


def child(request: dict[str, Any], report: harness.Report) -> None:
    asyncio.run(answered(request, report))


# --- What the processes are asked for -------------------------------------------------------------------------------


class Bench:
    """The servers, and the processes that use them."""

    def __init__(self, port: int, at: Servers) -> None:
        self.at = at
        self._port = port
        self._numbers = itertools.count()

    def request(self, what: str, **request: Any) -> dict[str, Any]:
        name = f"benchmark-{next(self._numbers)}"
        return {"port": self._port, "postgres": self.at.postgres, "name": name, "what": what} | request

    async def ask(self, what: str, processes: int = 1, **request: Any) -> list[dict[str, Any]]:
        """The answers of so many processes, which do the same at the same time."""
        request = self.request(what, **request)
        asking = (asyncio.to_thread(lambda: list(harness.asked(CHILD, request))) for _ in range(processes))
        return [answer for answers in await asyncio.gather(*asking) for answer in answers]

    async def work(self, way: str, size: Size, processes: int) -> list[dict[str, Any]]:
        return await self.ask("working", processes, way=way, size=dataclasses.asdict(size), together=processes)


def of_nothing(answers: list[dict[str, Any]]) -> Sample:
    together = [answer["nothing"] for answer in answers]
    count = sum(one["count"] for one in together)
    seconds = max(one["ended"] for one in together) - min(one["began"] for one in together)
    commands = max(one["commands"] for one in together)
    return {f"items {len(answers)}": count / seconds, f"commands {len(answers)}": commands / count}


def of_sleeping(answers: list[dict[str, Any]], limit: int) -> Sample:
    together = [answer[f"sleeping {limit}"] for answer in answers]
    began = min(one["began"] for one in together)
    ends = [one["ends"] for one in together]
    ideal = sum(map(len, ends)) * PAUSE / limit
    first_end = min(max(of_one) for of_one in ends)
    done = [sum(end <= first_end for end in of_one) for of_one in ends]
    gaps = [after - before for of_one in ends for before, after in itertools.pairwise([began, *of_one])]
    return {
        f"time {limit}": (max(max(of_one) for of_one in ends) - began) / ideal,
        f"gap {limit}": max(gaps) * 1e3,
        f"fair {limit}": min(done) / max(done),
        f"commands of {limit}": max(one["commands"] for one in together) / sum(map(len, ends)),
    }


async def sample(bench: Bench, way: str, size: Size) -> Sample:
    """Each figure of a column, once."""
    answers = await bench.work(way, size, TOGETHER)
    found = of_nothing(answers)
    if WAYS[way].is_shared:
        most = max(answer["counted"]["most"] for answer in answers)
        if not 1 < most <= LIMIT:
            raise measure.WrongResult(f"{way}: {most} at once instead of {LIMIT}")
        for limit in (LIMIT, 1):
            found |= of_sleeping(answers, limit)
    [answer] = await bench.work(way, size, 1)
    found |= of_nothing([answer])
    return found | {name: answer[name] for name in ("enter", "first") if name in answer}


async def waiting(bench: Bench, way: str, seconds: float) -> Sample:
    name = f"waiting-{way}"
    async with WAYS[way].make(bench.at, name, 1, LEASE) as limit, limit:
        [answer] = await bench.ask("waiting", name=name, way=way, seconds=seconds)
    return {"syncs": answer["syncs"], "busy": answer["busy"]}


async def killed(bench: Bench, way: str) -> Sample:
    """Seconds from the end of a process that holds the only permit until a process that waits for it has it."""
    request = bench.request("holding", way=way)
    with harness.child(CHILD, request) as holder:
        if await asyncio.to_thread(next, holder.lines(), None) is None:
            raise harness.Failed(holder.said()[-300:])
        async with WAYS[way].make(bench.at, request["name"], 1, LEASE) as made:
            limit = typing.cast("SharedLimit", made)
            waiter = asyncio.create_task(limit.acquire())
            try:
                while limit.stats().sessions < 2:
                    await asyncio.sleep(0.01)
            finally:
                holder.process.kill()
            began = time.perf_counter()
            await waiter
            return {"killed": time.perf_counter() - began}


async def requests_of(state: State, number: int) -> list[Request]:
    """Of so many sessions, half of which wait: the next one of each, by which nothing changes."""
    limit = (number + 1) // 2
    requests = []
    for index in range(number):
        request = Request(f"{index:016x}", 1, limit, granted=0, returned=0, asked=1, epoch=0, fence=0, version=0)
        answer = await state.sync(request)
        known = {"granted": answer.granted, "epoch": answer.epoch, "fence": answer.fence}
        requests.append(dataclasses.replace(request, number=2, **known))
    return requests


async def sessions(bench: Bench, number: int, count: int) -> Sample:
    """So many sessions, half of which wait; the time of a renewal with its round trip, beside PING; bytes at the server."""
    from gatedcoro.shared._redis import KEYS, RedisState

    client = bench.at.client
    name = f"sessions-{number}"
    state = RedisState(client, name, 600.0, recover=False)
    requests = await requests_of(state, number)
    taken, pings = [], []
    before = (await client.info("commandstats"))["cmdstat_evalsha"]
    for index in range(count):
        began = time.perf_counter()
        answer = await state.sync(requests[index % number])
        then = time.perf_counter()
        await client.ping()
        taken.append(then - began)
        pings.append(time.perf_counter() - then)
        if not answer.alive or answer.standing.sessions != number:
            raise measure.WrongResult(f"{answer} with {number} sessions")
    after = (await client.info("commandstats"))["cmdstat_evalsha"]
    of_server = (after["usec"] - before["usec"]) / (after["calls"] - before["calls"])
    size = 0
    for key in KEYS:
        size += await client.memory_usage(f"gate:{{{name}}}:{key}", samples=0) or 0
    found = {
        "sync": statistics.median(taken) * 1e6,
        "ping": statistics.median(pings) * 1e6,
        "server": of_server,
        "bytes": float(size),
    }
    for request in requests:
        await state.leave(request, at_once=True)
    if await client.exists(*(f"gate:{{{name}}}:{key}" for key in KEYS)):
        raise measure.WrongResult("something was left behind")
    return found


async def sessions_of_postgres(bench: Bench, number: int, count: int) -> Sample:
    """The same there: each is a connection. Beside a prepared `SELECT 1`; locks that they hold at the server."""
    import asyncpg

    from gatedcoro.shared._postgres import PostgresState

    connect = functools.partial(asyncpg.connect, bench.at.postgres)
    state = PostgresState(connect, f"sessions-{number}", 600.0)
    requests = await requests_of(state, number)
    other = await connect()
    least = await other.prepare("SELECT 1")
    taken, selects = [], []
    for index in range(count):
        began = time.perf_counter()
        answer = await state.sync(requests[index % number])
        then = time.perf_counter()
        await least.fetchval()
        taken.append(then - began)
        selects.append(time.perf_counter() - then)
        if answer.standing.sessions != number:
            raise measure.WrongResult(f"{answer} with {number} sessions")
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    locks = await other.fetchval(held)
    for request in requests:
        await state.leave(request, at_once=True)
    while await other.fetchval(held):  # as their processes end
        await asyncio.sleep(0.01)
    await other.close()
    return {"sync": statistics.median(taken) * 1e6, "select": statistics.median(selects) * 1e6, "locks": float(locks)}


# --- The tables -----------------------------------------------------------------------------------------------------

ROWS = {  # a figure: what it is, how it is written
    "enter": ("enter and leave, us", "{:,.2f}"),
    "items 1": ("items that do nothing, a second, in one process", "{:,.0f}"),
    f"items {TOGETHER}": (f"the same in {TOGETHER} processes together", "{:,.0f}"),
    "commands 1": ("commands an item, in one process", "{:.4f}"),
    f"commands {TOGETHER}": (f"the same in {TOGETHER} processes", "{:.4f}"),
    "first": ("the first permit, ms", "{:.2f}"),
    f"time {LIMIT}": (f"{TOGETHER} processes, limit {LIMIT}, items of 5 ms: time / ideal", "{:.2f}"),
    f"gap {LIMIT}": ("longest time without an end in a process, ms", "{:.0f}"),
    f"fair {LIMIT}": ("fewest / most items of a process when the first one was through", "{:.2f}"),
    f"commands of {LIMIT}": ("commands an item", "{:.2f}"),
    "time 1": (f"{TOGETHER} processes, limit 1: time / ideal", "{:.2f}"),
    "gap 1": ("longest time without an end in a process, ms (limit 1)", "{:.0f}"),
    "fair 1": ("fewest / most items of a process when the first one was through (limit 1)", "{:.2f}"),
    "commands of 1": ("commands an item (limit 1)", "{:.2f}"),
}
NO_RATIO = {name for name in ROWS if name.startswith(("commands", "fair"))}


def median(samples: Sequence[Sample], name: str) -> float | None:
    values = [one[name] for one in samples if name in one]
    return statistics.median(values) if values else None


def times(ratio: float) -> str:
    """As a multiple of ours."""
    over = ratio if ratio >= 1 else 1 / ratio
    number = f"{over:,.0f}" if over >= 10 else f"{over:.1f}"
    return f"{number} x" if ratio >= 1 or number == "1.0" else f"1/{number}"


def written(found: dict[str, list[Sample]]) -> str:
    rows = []
    for name, (title, form) in ROWS.items():
        ours = median(found[OURS], name)
        row = [title]
        for way, samples in found.items():
            value = median(samples, name)
            if value is None:
                row.append("")
                continue
            ratio = f" ({times(value / ours)})" if way != OURS and ours and name not in NO_RATIO else ""
            row.append(form.format(value) + ratio)
        rows.append(row)
    return parts.table(["", *found], rows)


def written_sessions(found: dict[int, Sample]) -> str:
    rows = [
        [
            f"{number:,}",
            f"{one['sync']:.0f}",
            f"{one['sync'] / one['ping']:.1f}",
            f"{one['server']:.0f}",
            f"{one['bytes']:,.0f}",
            f"{one['bytes'] / number:,.0f}",
        ]
        for number, one in found.items()
    ]
    return parts.table(
        [
            "sessions, half of which wait",
            "a request, us",
            "times a PING",
            "of it on the server, us",
            "bytes on the server",
            "bytes a session",
        ],
        rows,
    )


def written_sessions_of_postgres(found: dict[int, Sample]) -> str:
    rows = [
        [f"{number:,}", f"{one['sync']:.0f}", f"{one['sync'] / one['select']:.1f}", f"{one['locks']:,.0f}"]
        for number, one in found.items()
    ]
    return parts.table(
        ["sessions, half of which wait", "a request, us", "times a SELECT 1", "advisory locks at the server"], rows
    )


def written_waiting(waited: dict[str, Sample]) -> str:
    columns = {
        "busy": (1e3, "processor time of a process that only waits, ms a second", "{:.1f}"),
        "syncs": (1, f"its requests in {LEASE:g} s", "{:.1f}"),
        "killed": (1, "from the end of a killed process until its permit is another one's, s", "{:.2f}"),
    }
    rows = [
        [title, *(form.format(one[name] * factor) for one in waited.values())]
        for name, (factor, title, form) in columns.items()
    ]
    return parts.table([f"with a lease of {LEASE:g} s", *waited], rows)


@dataclasses.dataclass(frozen=True)
class Goal:
    title: str
    reached: float | None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_met(self) -> bool:
        value = self.reached
        if value is None:
            return False
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        bound = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:,g}"
        reached = f"{self.reached:,.4g}" if self.reached is not None else "nothing"
        return f"{'met' if self.is_met else 'MISSED'}: {self.title}: {reached} ({bound})"


def goals(ours: list[Sample], waited: Sample, way: str = OURS) -> list[Goal]:
    found = [
        Goal("enter and leave with a local permit, us", median(ours, "enter"), at_most=3),
        Goal("items that do nothing, a second, in one process", median(ours, "items 1"), at_least=100_000),
        Goal("commands an item, in one process", median(ours, "commands 1"), at_most=0.01),
        Goal(f"{TOGETHER} processes, limit {LIMIT}: time / ideal", median(ours, f"time {LIMIT}"), at_most=1.3),
        Goal("part of a processor that waiting takes", waited["busy"], at_most=0.002),
    ]
    if way == OURS:
        found.append(Goal("requests in a lease of a process that only waits", waited["syncs"], at_most=4.5))
    return [dataclasses.replace(goal, title=f"{way}: {goal.title}") for goal in found]


# --- The command ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    """All figures of a run."""

    ways: dict[str, list[Sample]]
    waited: dict[str, Sample]  # of ours
    sessions: dict[int, Sample]
    sessions_of_postgres: dict[int, Sample]
    servers: list[str]


async def measured(size: Size, ways: list[str]) -> Found:
    import redis.asyncio

    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(servers.redis())
        client = await stack.enter_async_context(redis.asyncio.Redis(port=port))
        postgres = await stack.enter_async_context(servers.postgres()) if POSTGRES in ways else None
        at = Servers(client, postgres)
        bench = Bench(port, at)
        found = Found({way: [] for way in ways}, {}, {}, {}, await versions_of(at))
        for _, order in measure.in_turns(ways, size.rounds):
            for way in order:
                found.ways[way].append(await sample(bench, way, size))
        for way in ways:
            if way in (OURS, POSTGRES):
                taken = [(await killed(bench, way))["killed"] for _ in range(size.rounds)]
                found.waited[way] = await waiting(bench, way, size.waiting) | {"killed": statistics.median(taken)}
        found.sessions = {number: await sessions(bench, number, size.syncs) for number in SESSIONS}
        for number in POSTGRES_SESSIONS if postgres is not None else ():
            found.sessions_of_postgres[number] = await sessions_of_postgres(bench, number, size.syncs)
        return found


async def versions_of(at: Servers) -> list[str]:
    info = await at.client.info("server")
    found = [f"{'Valkey' if 'valkey_version' in info else 'Redis'} {info.get('valkey_version', info['redis_version'])}"]
    if at.postgres is not None:
        import asyncpg

        connection = await asyncpg.connect(at.postgres)
        found.append(f"PostgreSQL {(await connection.fetchval('SHOW server_version')).split()[0]}")
        await connection.close()
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick", action="store_true", help="seconds: are results and limits right? Its figures say nothing"
    )
    parser.add_argument("--goals", action="store_true", help="ends with status 1 if a goal is missed")
    parser.add_argument("--docs", action="store_true", help="also write the tables into docs/shared-limits.md")


def main(options: argparse.Namespace) -> int:
    if why := WAYS[OURS].left_out():
        print(f"nothing measured: {why}")
        return 1
    left_out = {name: why for name, way in WAYS.items() if (why := way.left_out())}
    for name, why in left_out.items():
        print(f"{name} is left out: {why}")
    size = QUICK if options.quick else FULL
    found = asyncio.run(measured(size, [name for name in WAYS if name not in left_out]))
    head = made("shared" + " --quick" * options.quick, PACKAGES, *found.servers)
    texts = {
        PART: f"{head}\n{written(found.ways)}",
        WAITING_PART: written_waiting(found.waited),
        SESSIONS_PART: written_sessions(found.sessions),
        POSTGRES_SESSIONS_PART: written_sessions_of_postgres(found.sessions_of_postgres),
    }
    print(*texts.values(), sep="\n")
    if options.docs:
        for part, text in texts.items():
            parts.write(PAGE, part, text)
    if options.quick:
        return 0
    reached = [goal for way, waited in found.waited.items() for goal in goals(found.ways[way], waited, way)]
    print(*reached, sep="\n")
    return int(options.goals and not all(goal.is_met for goal in reached))


def made(command: str, packages: Sequence[str], *programs: str) -> str:
    """parts.made, with the versions of packages that are of no other benchmark, too."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages if is_there(name)]
    return parts.made(command, ()).rstrip(".\n") + f"; {', '.join([*programs, *versions])}.\n"


def is_there(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":  # a process that is asked
    assert sys.argv[1:] == ["--child"]
    sys.exit(harness.answer(child))
