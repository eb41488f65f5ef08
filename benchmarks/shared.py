"""`python -m benchmarks shared`: what one limit over several processes costs, RedisLimit beside what else there is.

A Redis (or Valkey) of this machine; every sample in processes of its own, which begin together. Before a figure counts, items that count
themselves at the server have run under the limit in three processes: never more than the limit at once, and every result in its place.
The columns take turns; a figure is the median of the rounds. Making the coroutines and starting the Tasks is inside, making the client
and its first connection is not. Commands are those that the server has run, the ones inside of scripts included.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import itertools
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from gatedcoro import gather
from gatedcoro.shared import RedisLimit

from . import harness, measure, parts
from .real import servers

PAGE = harness.ROOT / "docs" / "shared-limits.md"
PART = "what a shared limit costs"
SESSIONS_PART = "sessions at one server"
PACKAGES = ("hiredis", "py-redis-semaphore", "redis", "redis-rate-limiters")

TOGETHER = 3  # processes
LIMIT = 5
PAUSE = 0.005  # seconds, of an item that sleeps
LEASE = 3.0  # of who waits, so that it renews often enough to be seen
SESSIONS = (1, 10, 100, 1_000)
OF_MEETINGS = ("_sadd", "_scard", "_info", "_hello", "_client|setinfo")

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


@contextlib.asynccontextmanager
async def redis_limit(client: Any, name: str, limit: int) -> AsyncIterator[Limit]:
    async with contextlib.aclosing(RedisLimit(client, name, limit, recover=False)) as made:
        yield made


@contextlib.asynccontextmanager
async def asyncio_semaphore(client: Any, name: str, limit: int) -> AsyncIterator[Limit]:
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
async def py_redis_semaphore(client: Any, name: str, limit: int) -> AsyncIterator[Limit]:
    import redis_semaphore

    config = redis_semaphore.SemaphoreConfig(name=name, limit=limit)
    yield ForEachItem(lambda: redis_semaphore.Semaphore(client, config))


@contextlib.asynccontextmanager
async def redis_rate_limiters(client: Any, name: str, limit: int) -> AsyncIterator[Limit]:
    import limiters

    yield limiters.AsyncSemaphore(connection=client, name=name, capacity=limit)


@dataclasses.dataclass(frozen=True)
class Way:
    make: Callable[[Any, str, int], AbstractAsyncContextManager[Limit]]
    module: str
    is_shared: bool = True
    fewer: int = 1  # items, by this factor: each asks the server several times


OURS = "RedisLimit"
WAYS = {
    OURS: Way(redis_limit, "redis"),
    "asyncio.Semaphore, nothing shared": Way(asyncio_semaphore, "asyncio", is_shared=False),
    "py-redis-semaphore": Way(py_redis_semaphore, "redis_semaphore", fewer=200),
    "redis-rate-limiters": Way(redis_rate_limiters, "limiters", fewer=100),
}


# --- In a process of its own ----------------------------------------------------------------------------------------


class Process:
    """One of those that use a limit together."""

    def __init__(self, client: Any, way: str, name: str, together: int) -> None:
        self.client = client
        self.way = WAYS[way]
        self.name = name
        self.together = together
        self._meetings = itertools.count()

    def limit(self, what: str, limit: int) -> AbstractAsyncContextManager[Limit]:
        return self.way.make(self.client, f"{self.name}:{what}", limit)

    async def meet(self) -> None:
        """Wait for the others."""
        key = f"{self.name}:meeting:{next(self._meetings)}"
        await self.client.sadd(key, os.getpid())
        while await self.client.scard(key) < self.together:
            await asyncio.sleep(0.002)

    async def commands(self) -> int:
        """How many the server has run, while nobody runs any; not those by which these processes meet."""
        await self.meet()
        found = await self.client.info("commandstats")
        await self.meet()
        return sum(one["calls"] for name, one in found.items() if not name.lower().endswith(OF_MEETINGS))


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


async def waiting_here(port: int, name: str, seconds: float) -> Sample:
    import redis.asyncio

    async with (
        redis.asyncio.Redis(port=port) as client,
        contextlib.aclosing(RedisLimit(client, name, 1, lease=LEASE, recover=False)) as limit,
    ):
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
        return {"syncs": syncs / seconds * LEASE, "busy": used / seconds}


async def working_here(port: int, name: str, way: str, size: dict[str, Any], together: int) -> Any:
    import redis.asyncio

    async with redis.asyncio.Redis(port=port) as client:
        process = Process(client, way, name, together)
        await process.meet()
        return await (work_alone if together == 1 else work_together)(process, Size(**size))


def child(request: dict[str, Any], report: harness.Report) -> None:
    report(asyncio.run((working_here if "way" in request else waiting_here)(**request)))


# --- What the processes are asked for -------------------------------------------------------------------------------


class Bench:
    """One server, and the processes that use it."""

    def __init__(self, port: int, client: Any) -> None:
        self.port = port
        self.client = client
        self._numbers = itertools.count()

    async def ask(self, processes: int = 1, **request: Any) -> list[dict[str, Any]]:
        """The answers of so many processes, which do the same at the same time."""
        request = {"port": self.port, "name": f"benchmark-{next(self._numbers)}"} | request
        asking = (
            asyncio.to_thread(lambda: list(harness.asked(["benchmarks.shared", "--child"], request)))
            for _ in range(processes)
        )
        return [answer for answers in await asyncio.gather(*asking) for answer in answers]

    async def work(self, way: str, size: Size, processes: int) -> list[dict[str, Any]]:
        return await self.ask(processes, way=way, size=dataclasses.asdict(size), together=processes)


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


async def waiting(bench: Bench, seconds: float) -> Sample:
    name = "waiting"
    async with contextlib.aclosing(RedisLimit(bench.client, name, 1, lease=LEASE, recover=False)) as limit:
        async with limit:
            [answer] = await bench.ask(name=name, seconds=seconds)
    return {"syncs": answer["syncs"], "busy": answer["busy"]}


async def sessions(bench: Bench, number: int, count: int) -> Sample:
    """So many sessions, half of which wait; the time of a renewal with its round trip, beside PING; bytes at the server."""
    from gatedcoro.shared._redis import KEYS, RedisState
    from gatedcoro.shared._state import Request

    name = f"sessions-{number}"
    state = RedisState(bench.client, name, 600.0, recover=False)
    requests = []
    for index in range(number):
        limit = (number + 1) // 2
        request = Request(f"{index:016x}", 1, limit, granted=0, returned=0, asked=1, epoch=0, fence=0, version=0)
        answer = await state.sync(request)
        requests.append(
            Request(
                request.session, 2, limit, answer.granted, 0, asked=1, epoch=answer.epoch, fence=answer.fence, version=0
            )
        )
    taken, pings = [], []
    before = (await bench.client.info("commandstats"))["cmdstat_evalsha"]
    for index in range(count):
        began = time.perf_counter()
        answer = await state.sync(requests[index % number])
        then = time.perf_counter()
        await bench.client.ping()
        taken.append(then - began)
        pings.append(time.perf_counter() - then)
        if not answer.alive or answer.standing.sessions != number:
            raise measure.WrongResult(f"{answer} with {number} sessions")
    after = (await bench.client.info("commandstats"))["cmdstat_evalsha"]
    of_server = (after["usec"] - before["usec"]) / (after["calls"] - before["calls"])
    size = 0
    for key in KEYS:
        size += await bench.client.memory_usage(f"gate:{{{name}}}:{key}", samples=0) or 0
    found = {
        "sync": statistics.median(taken) * 1e6,
        "ping": statistics.median(pings) * 1e6,
        "server": of_server,
        "bytes": float(size),
    }
    for request in requests:
        await state.leave(request, at_once=True)
    if await bench.client.exists(*(f"gate:{{{name}}}:{key}" for key in KEYS)):
        raise measure.WrongResult("something was left behind")
    return found


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


def goals(ours: list[Sample], waited: Sample) -> list[Goal]:
    return [
        Goal("enter and leave with a local permit, us", median(ours, "enter"), at_most=3),
        Goal("items that do nothing, a second, in one process", median(ours, "items 1"), at_least=100_000),
        Goal("commands an item, in one process", median(ours, "commands 1"), at_most=0.01),
        Goal(f"{TOGETHER} processes, limit {LIMIT}: time / ideal", median(ours, f"time {LIMIT}"), at_most=1.3),
        Goal("part of a processor that waiting takes", waited["busy"], at_most=0.002),
        Goal("requests in a lease of a process that only waits", waited["syncs"], at_most=4.5),
    ]


# --- The command ----------------------------------------------------------------------------------------------------


async def measured(size: Size, ways: list[str]) -> tuple[dict[str, list[Sample]], Sample, dict[int, Sample], str]:
    import redis.asyncio

    async with servers.redis() as port, redis.asyncio.Redis(port=port) as client:
        bench = Bench(port, client)
        info = await client.info("server")
        server = (
            f"{'Valkey' if 'valkey_version' in info else 'Redis'} {info.get('valkey_version', info['redis_version'])}"
        )
        found: dict[str, list[Sample]] = {way: [] for way in ways}
        for _, order in measure.in_turns(ways, size.rounds):
            for way in order:
                found[way].append(await sample(bench, way, size))
        waited = await waiting(bench, size.waiting)
        of_sessions = {number: await sessions(bench, number, size.syncs) for number in SESSIONS}
        return found, waited, of_sessions, server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick", action="store_true", help="seconds: are results and limits right? Its figures say nothing"
    )
    parser.add_argument("--goals", action="store_true", help="ends with status 1 if a goal is missed")
    parser.add_argument("--docs", action="store_true", help="also write the tables into docs/shared-limits.md")


def main(options: argparse.Namespace) -> int:
    if why := servers.no_redis():
        print(f"nothing measured: {why}")
        return 1
    size = QUICK if options.quick else FULL
    ways = [name for name, way in WAYS.items() if importlib.util.find_spec(way.module) is not None]
    for name in WAYS.keys() - ways:
        print(f"{name}: not installed, and left out")
    if OURS not in ways:
        print("nothing measured: redis is not installed")
        return 1
    found, waited, of_sessions, server = asyncio.run(measured(size, ways))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if is_there(name)]
    command = "shared" + " --quick" * options.quick
    head = parts.made(command, ()).rstrip(".\n") + f"; {', '.join([server, *versions])}.\n"
    words = (
        f"A process that only waits, with a lease of {LEASE:g} s, takes {waited['busy'] * 1e3:.1f} ms of processor time a second, and sends {waited['syncs']:.1f} "
        "requests in a lease.\n"
    )
    text, text_of_sessions = f"{head}\n{written(found)}\n{words}", written_sessions(of_sessions)
    print(f"{text}\n{text_of_sessions}")
    if options.docs:
        parts.write(PAGE, PART, text)
        parts.write(PAGE, SESSIONS_PART, text_of_sessions)
    if options.quick:
        return 0
    reached = goals(found[OURS], waited)
    print(*reached, sep="\n")
    return int(options.goals and not all(goal.is_met for goal in reached))


def is_there(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":  # a process that is asked
    assert sys.argv[1:] == ["--child"]
    sys.exit(harness.answer(child))
