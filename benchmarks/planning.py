"""`python -m benchmarks planning`: what one limit asks of its server with up to a thousand processes, and what dividing its name costs.

Two kinds of figures. Of the server: sessions that are only requests, sent one after the other as RedisState sends them; the figure is the
processor time of the server's main thread (of PostgreSQL: of its processes) for each, reading and writing included, which other programs of
the machine change little. Of the whole: limits in one process, each with a client of its own, as that many processes would have; the items sleep. Requests are those that
the server counts, of PostgreSQL those that sessions have sent. Every figure is thrown away if the limit did not hold, a permit was lost, or something was left on the server.
"""

import abc
import argparse
import asyncio
import collections
import contextlib
import dataclasses
import functools
import heapq
import importlib.util
import itertools
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from gatedcoro import gather
from gatedcoro.shared import PostgresLimit, RedisLimit
from gatedcoro.shared._limit import SharedLimit
from gatedcoro.shared._permits import QUANTUM

from . import harness, measure, parts, shared
from .real import servers

PAGE = harness.ROOT / "docs" / "planning.md"
CLIENTS = ("asyncpg", "redis")

Row = dict[str, float]


LEASE = 3.0


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done."""

    sessions: tuple[int, ...]  # that are only requests
    connections: tuple[int, ...]  # the same of PostgreSQL
    requests: int  # for each figure, at least
    seconds: float
    limits: tuple[int, ...]  # in this process, at either server
    lease: float  # a busy machine must not lose it
    restarts: tuple[int, ...]  # limits in this process, at a Redis of their own
    restart_lease: float  # the same; it is waited for, twice
    items: int  # under a limit in shards
    rounds: int


FULL = Size(
    sessions=(10, 100, 1_000),
    connections=(1, 10, 100, 400),
    requests=2_000,
    seconds=3.0,
    limits=(10, 40),
    lease=LEASE,
    restarts=(10, 40, 200),
    restart_lease=LEASE,
    items=1_600,
    rounds=3,
)
QUICK = Size(
    sessions=(10, 100),
    connections=(1, 10),
    requests=100,
    seconds=0.5,
    limits=(4,),
    lease=20.0,
    restarts=(4,),
    restart_lease=6.0,
    items=160,
    rounds=1,
)

MANY = ((10, 100), (100, 1_000), (1_000, 10_000))  # sessions that wait, permits that become free at once
SHARDS = (1, 2, 4, 8)
LOADS = (0.5, 0.8, 0.95)  # of the limit


# --- The server -----------------------------------------------------------------------------------------------------


class Clocked(abc.ABC):
    """A server, the lease of its limits, and how much it has done."""

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self._names = itertools.count()

    def name(self) -> str:
        return f"planning-{next(self._names)}"

    @abc.abstractmethod
    async def processor(self) -> float:
        """Seconds of processor that it has taken."""

    @contextlib.asynccontextmanager
    async def clocked(self, count: int, found: Row, figure: str) -> AsyncIterator[None]:
        """Microseconds of the server's for each of so many."""
        before = await self.processor()
        yield
        found[figure] = (await self.processor() - before) / count * 1e6


class Server(Clocked):
    """A Redis (or Valkey) of its own, and how much it has done."""

    def __init__(self, port: int, lease: float = LEASE) -> None:
        import redis.asyncio

        super().__init__(lease)
        self.port = port
        self.client = redis.asyncio.Redis(host="127.0.0.1", port=port)

    async def processor(self) -> float:
        """Seconds of the main thread."""
        info = await self.client.info("cpu")
        return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])

    async def requests(self) -> int:
        info = await self.client.info("commandstats")
        return sum(info.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))

    async def limit(self, stack: contextlib.AsyncExitStack, name: str, limit: int, recover: bool) -> SharedLimit:
        """With a client of its own."""
        import redis.asyncio

        client = await stack.enter_async_context(redis.asyncio.Redis(host="127.0.0.1", port=self.port))
        return RedisLimit(client, name, limit, lease=self.lease, recover=recover)

    async def check_empty(self, name: str) -> None:
        """At once, or when the lease of a session has ended whose last request had no answer in time."""
        give_up = time.monotonic() + 2 * self.lease
        while keys := await self.client.keys(f"gate:{{{name}}}:*"):
            if time.monotonic() > give_up:
                raise measure.WrongResult(f"left behind: {keys}")
            await asyncio.sleep(0.05)


class PostgresServer(Clocked):
    """A PostgreSQL of its own; what it has done for connections that are still there."""

    def __init__(self, address: str, lease: float = LEASE) -> None:
        super().__init__(lease)
        self.address = address
        self._made: list[SharedLimit] = []

    async def requests(self) -> int:
        """Of sessions that are still there."""
        return sum(limit._session.number for limit in self._made if limit._session)

    async def processor(self) -> float:
        """Seconds of its processes that serve limits, and not questions (Linux; elsewhere 0)."""
        if not sys.platform.startswith("linux"):
            return 0.0
        query = "SELECT pid FROM pg_stat_activity WHERE datname = 'postgres' AND application_name <> 'asks'"
        processes = await self._asked(lambda connection: connection.fetch(query))
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for (pid,) in processes) / 1e9

    async def limit(self, stack: contextlib.AsyncExitStack, name: str, limit: int, recover: bool) -> SharedLimit:
        """With a connection of its own; there is nothing to recover."""
        import asyncpg

        connect = functools.partial(asyncpg.connect, self.address)
        made = PostgresLimit(connect, name, limit, lease=self.lease)
        self._made.append(made)
        stack.callback(self._made.remove, made)
        return made

    async def check_empty(self, name: str) -> None:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        give_up = time.monotonic() + 2 * self.lease
        while left := await self._asked(lambda connection: connection.fetchval(query)):  # as their processes end
            if time.monotonic() > give_up:
                raise measure.WrongResult(f"left behind: {left} locks")
            await asyncio.sleep(0.05)

    async def _asked(self, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        import asyncpg

        connection = await asyncpg.connect(self.address, server_settings={"application_name": "asks"})
        try:
            return await question(connection)
        finally:
            await connection.close()


# --- Sessions that are only requests --------------------------------------------------------------------------------


class Sessions:
    """So many processes as the server sees them."""

    def __init__(self, server: Server, number: int, limit: int) -> None:
        from gatedcoro.shared._redis import KEYS, RedisState

        self.server = server
        self.name = server.name()
        self.keys = [f"gate:{{{self.name}}}:{key}" for key in KEYS]
        self.limit = limit
        self.state = RedisState(server.client, self.name, 600.0, recover=False)
        self.ids = [f"{index:016x}" for index in range(number)]
        self.granted = collections.Counter[str]()
        self.returned = collections.Counter[str]()
        self.numbers = collections.Counter[str]()
        self.epoch = 0

    def request(self, session: str, asked: int = 0) -> Any:
        """*asked*: for so many more."""
        from gatedcoro.shared._state import Request

        self.numbers[session] += 1
        number, granted = self.numbers[session], self.granted[session]
        epoch = self.epoch if number > 1 else 0
        returned = self.returned[session]
        return Request(session, number, self.limit, granted, returned, granted + asked, epoch, fence=0, version=0)

    async def sync(self, session: str, asked: int = 0) -> None:
        answer = await self.state.sync(self.request(session, asked))
        if not answer.alive or answer.standing.total > self.limit:
            raise measure.WrongResult(f"{answer} with a limit of {self.limit}")
        self.epoch = answer.epoch
        self.granted[session] = answer.granted

    async def leave(self) -> None:
        for session in self.ids:
            self.returned[session] = self.granted[session]
            await self.state.leave(self.request(session), at_once=True)
        await self.server.check_empty(self.name)


async def of_server(server: Server, number: int, count: int) -> Row:
    """A renewal, a permit that goes from who has had it to who has waited longest, a message to all."""
    found: Row = {}
    idle = Sessions(server, number, number)
    for session in idle.ids:
        await idle.sync(session, asked=1)
    count = max(count, number)
    async with server.clocked(count, found, "renewal"):
        for session in itertools.islice(itertools.cycle(idle.ids), count):
            await idle.sync(session)
    size = 0
    for key in idle.keys:
        size += await server.client.memory_usage(key, samples=0) or 0
    found["bytes"] = size / number
    await idle.leave()

    if number > 1:
        await of_hand_overs(server, number, count, found)
    await of_claims(server, number, found)

    await of_messages(server, number, found)
    return found


async def of_messages(server: Server, number: int, found: Row) -> None:
    import redis.asyncio

    pool = redis.asyncio.ConnectionPool(host="127.0.0.1", port=server.port, max_connections=2 * number + 10)
    subscriber = redis.asyncio.Redis(connection_pool=pool)
    clients = [subscriber.pubsub() for _ in range(number)]
    name = server.name()
    before = (await server.client.info("memory"))["mem_clients_normal"]
    for client in clients:
        await client.subscribe(name)
    if number >= 100:  # of a few it says nothing
        found["connection"] = ((await server.client.info("memory"))["mem_clients_normal"] - before) / number
    messages = 20
    async with server.clocked(messages, found, "news"):
        for _ in range(messages):
            await server.client.publish(name, "x" * 100)
    for client in clients:
        await client.aclose()  # type: ignore[no-untyped-call, unused-ignore]
    await pool.aclose()


async def of_news(server: Server, number: int, load: float, count: int) -> Row:
    """How often all are told, an item, when sessions have an item of 10 ms now and then, and that much of the limit is used."""
    item, pause = 0.01, 0.2
    limit = max(1, round(number * item / (item + pause) / load))
    sessions = Sessions(server, number, limit)
    for session in sessions.ids:
        await sessions.sync(session)
    chance = random.Random(17)
    events = [(chance.expovariate(1 / pause), session, "begins") for session in sessions.ids]
    heapq.heapify(events)
    waiting: collections.deque[str] = collections.deque()
    handed_over = ends = 0

    async def published() -> int:
        info = await server.client.info("commandstats")
        return int(info.get("cmdstat_publish", {"calls": 0})["calls"])

    before = await published()
    while ends < count:
        now, session, what = heapq.heappop(events)
        if what == "begins":
            await sessions.sync(session, asked=1)
            if sessions.granted[session] > sessions.returned[session]:
                heapq.heappush(events, (now + item, session, "ends"))
            else:
                waiting.append(session)
        else:
            sessions.returned[session] += 1
            await sessions.sync(session)
            ends += 1
            heapq.heappush(events, (now + chance.expovariate(1 / pause), session, "begins"))
            if waiting:
                handed_over += 1
                session = waiting.popleft()
                sessions.granted[session] += 1  # as its message says
                heapq.heappush(events, (now + item, session, "ends"))
    news = await published() - before - handed_over
    for session in sessions.ids:
        granted = sessions.granted[session]
        await sessions.sync(session)
        if sessions.granted[session] != granted:
            raise measure.WrongResult(f"{sessions.granted[session]} permits instead of {granted}")
    await sessions.leave()
    return {"limit": limit, "news": news / ends, "waited": handed_over / ends}


async def of_hand_overs(server: Server, number: int, count: int, found: Row) -> None:
    limit = number // 2
    busy = Sessions(server, number, limit)
    for session in busy.ids:
        await busy.sync(session, asked=1)
    holders, waiting = collections.deque(busy.ids[:limit]), collections.deque(busy.ids[limit:])
    async with server.clocked(count, found, "hand-over"):
        for _ in range(count):
            session, behind = holders.popleft(), waiting.popleft()
            busy.returned[session] += 1
            await busy.sync(session, asked=1)
            busy.granted[behind] += 1  # as its message says
            holders.append(behind)
            waiting.append(session)
    for session in busy.ids:
        granted = busy.granted[session]
        await busy.sync(session, asked=session in waiting)
        if busy.granted[session] != granted:
            raise measure.WrongResult(f"{busy.granted[session]} permits instead of {granted}")
    await busy.leave()


async def of_many(server: Server, waiting: int, permits: int) -> Row:
    """Milliseconds of one request, by which so many permits go to so many sessions that wait."""
    found: Row = {}
    sessions = Sessions(server, waiting + 1, permits)
    first, *others = sessions.ids
    await sessions.sync(first, asked=permits)
    for session in others:
        await sessions.sync(session, asked=permits)
    sessions.returned[first] = sessions.granted[first]
    async with server.clocked(1_000, found, "taken"):
        await sessions.sync(first)
    for session in others:
        await sessions.sync(session)
    shares = [sessions.granted[session] for session in others]
    if sum(shares) != permits or max(shares) - min(shares) > 1:
        raise measure.WrongResult(f"{min(shares)} to {max(shares)} of {permits} permits")
    await sessions.leave()
    return found


async def of_claims(server: Server, number: int, found: Row) -> None:
    """The server has forgotten everything: each session claims what it holds."""
    sessions = Sessions(server, number, number)
    for session in sessions.ids:
        await sessions.sync(session, asked=1)
    await server.client.delete(*sessions.keys)
    async with server.clocked(number, found, "claim"):
        for session in sessions.ids:
            before = sessions.granted[session] - sessions.returned[session]
            answer = await sessions.state.sync(sessions.request(session))  # each knows the epoch that is over
            if not answer.alive or answer.granted - answer.returned != before:
                raise measure.WrongResult(f"{answer} for a claim of {before}")
    await server.client.delete(*sessions.keys)


async def of_postgres(server: PostgresServer, number: int, count: int) -> Row:
    """A request of one of so many sessions, half of which wait, by which nothing changes."""
    import asyncpg

    from gatedcoro.shared._postgres import PostgresState

    limit, name = (number + 1) // 2, server.name()
    state = PostgresState(functools.partial(asyncpg.connect, server.address), name, 600.0)
    requests = await shared.requests_of(state, number)
    found: Row = {}
    async with server.clocked(max(count, number), found, "renewal"):
        for request in itertools.islice(itertools.cycle(requests), max(count, number)):
            answer = await state.sync(request)
            if answer.standing.total != limit or answer.standing.sessions != number:
                raise measure.WrongResult(f"{answer} with {number} sessions and a limit of {limit}")
    for request in requests:
        await state.leave(request, at_once=True)
    await server.check_empty(name)
    return found


# --- Limits in this process -----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def limits(
    server: Server | PostgresServer, name: str, number: int, limit: int, recover: bool = False
) -> AsyncIterator[list[SharedLimit]]:
    """As so many processes would have them: each with a client of its own."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for _ in range(number):
            one = await server.limit(stack, name, limit, recover)
            made.append(await stack.enter_async_context(contextlib.aclosing(one)))
        yield made


class Counted:
    """Items that count themselves."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.running = self.done = 0

    async def item(self, seconds: float | None = None) -> None:
        self.running += 1
        try:
            if self.running > self.limit:
                raise measure.WrongResult(f"{self.running} at once instead of {self.limit}")
            await asyncio.sleep(self.seconds if seconds is None else seconds)
            self.done += 1
        finally:
            self.running -= 1

    async def endless(self, limit: SharedLimit, number: int) -> None:
        """So many items at once, one after the other, until it is cancelled."""

        async def again() -> None:
            while True:
                async with limit:
                    await self.item()

        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(again())


@contextlib.asynccontextmanager
async def running(coroutines: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result


async def of_requests(server: Server | PostgresServer, number: int, limit: int, seconds: float) -> Row:
    """Requests a second when all want more than there is."""
    name, counted = server.name(), Counted(limit, 0.01)
    async with limits(server, name, number, limit) as made:
        async with running([counted.endless(one, limit) for one in made]):
            await asyncio.sleep(seconds / 3)
            before, done, began = await server.requests(), counted.done, time.monotonic()
            processor = await server.processor()
            await asyncio.sleep(seconds)
            passed = time.monotonic() - began
            requests = await server.requests() - before
            found = {
                "requests": requests / passed,
                # Renewals, and what cannot be dealt out evenly goes around.
                "rule": number * 3 / 0.95 / server.lease + limit % number / QUANTUM,
                "items": (counted.done - done) / passed,
                "server": (await server.processor() - processor) / passed,
            }
    await server.check_empty(name)
    return found


async def of_sparse(server: Server, number: int, limit: int, seconds: float) -> Row:
    """Requests and messages to all for each item, when a process has one only now and then."""
    name, counted = server.name(), Counted(limit, 0.01)
    chance = random.Random(17)
    news = 0

    async def process(one: SharedLimit) -> None:
        while True:
            await asyncio.sleep(chance.expovariate(1 / 0.2))
            async with one:
                await counted.item()

    async def listen(subscriber: Any) -> None:
        nonlocal news
        async for message in subscriber.listen():
            news += message["type"] == "message"

    async with limits(server, name, number, limit) as made, server.client.pubsub() as subscriber:
        await subscriber.subscribe(f"gate:{{{name}}}:news")
        async with running([listen(subscriber), *map(process, made)]):
            await asyncio.sleep(0.5)
            before, done, told = await server.requests(), counted.done, news
            await asyncio.sleep(seconds)
            items = max(1, counted.done - done)
            found = {"requests": (await server.requests() - before) / items, "news": (news - told) / items}
    await server.check_empty(name)
    return found


async def of_newcomer(server: Server, number: int) -> Row:
    """Until one that comes has its first permit, and its share, in items; how many requests more that makes."""
    limit, item = 4 * (number + 1), 0.1  # four each when it has come
    name, counted = server.name(), Counted(limit, item)
    async with limits(server, name, number + 1, limit) as made:
        *others, newcomer = made
        async with running([counted.endless(one, 8) for one in others]):
            while counted.running < limit:
                await asyncio.sleep(0.01)
            await asyncio.sleep(5 * item)
            counts = [await server.requests()]
            await asyncio.sleep(5 * item)
            counts.append(await server.requests())
            began = time.monotonic()
            first = 0.0
            async with running([counted.endless(newcomer, 8)]):
                async with asyncio.timeout(30):
                    while (held := newcomer.stats().held) < limit // (number + 1):
                        await asyncio.sleep(0.002)
                        if held and not first:
                            first = time.monotonic() - began
                share = time.monotonic() - began
                await asyncio.sleep(max(0.0, 5 * item - share))
                counts.append(await server.requests())
    await server.check_empty(name)
    more = counts[2] - counts[1] - (counts[1] - counts[0])
    return {"first": (first or share) / item, "share": share / item, "more": more}


async def of_shards(server: Server, shards: int, by: str, items: int) -> Row:
    """Time / ideal of processes that have not all the same to do, under one limit or under several that are parts of it."""
    number, limit, item = 8, 16, 0.02
    name, counted = server.name(), Counted(limit, item)
    chance = random.Random(17)
    weights = [chance.expovariate(1) for _ in range(number)]
    counts = [round(items * weight / sum(weights)) for weight in weights]
    seconds = [[chance.expovariate(1 / item) for _ in range(count)] for count in counts]
    async with contextlib.AsyncExitStack() as stack:
        of_shard = [
            await stack.enter_async_context(limits(server, f"{name}-{shard}", number, limit // shards))
            for shard in range(shards)
        ]

        async def process(index: int) -> None:
            if by == "process":
                one = of_shard[index % shards][index]
                await gather(*map(counted.item, seconds[index]), limit=one)
                return
            of_its = [seconds[index][shard::shards] for shard in range(shards)]
            await asyncio.gather(
                *(gather(*map(counted.item, part), limit=of_shard[shard][index]) for shard, part in enumerate(of_its))
            )

        began = time.monotonic()
        await asyncio.gather(*map(process, range(number)))
        taken = time.monotonic() - began
    if counted.done != sum(counts):
        raise measure.WrongResult(f"{counted.done} items instead of {sum(counts)}")
    return {"time": taken / (sum(map(sum, seconds)) / limit)}


async def of_restart(number: int, lease: float) -> Row:
    """The server is killed and begins anew, and has forgotten everything, while all hold what they may."""
    port = servers.free_port()
    server = Server(port, lease)
    name, over = server.name(), asyncio.Event()

    async def hold(limit: SharedLimit, held: asyncio.Event) -> None:
        async with limit:
            held.set()
            await over.wait()

    async with limits(server, name, number + 1, number, recover=True) as made, asyncio.TaskGroup() as group:
        *others, newcomer = made
        async with servers.redis(port, end=signal.SIGKILL):
            for one in others:
                held = asyncio.Event()
                group.create_task(hold(one, held))
                async with asyncio.timeout(30):
                    await held.wait()
        await asyncio.sleep(0.2)
        async with servers.redis(port, end=signal.SIGKILL):
            began = time.monotonic()
            held = asyncio.Event()
            group.create_task(hold(newcomer, held))
            async with asyncio.timeout(30):
                while int(await server.client.hget(f"gate:{{{name}}}:meta", "total") or 0) < number:
                    await asyncio.sleep(0.01)
            claimed = time.monotonic() - began
            if held.is_set():
                raise measure.WrongResult("a permit too many")
            others[0].limit = number + 1  # room for the newcomer, once the time for claims is over
            newcomer.limit = number + 1
            async with asyncio.timeout(30):
                await held.wait()
            granted = time.monotonic() - began
            over.set()
            await asyncio.sleep(0.2)
            for one in made:
                await one.aclose()
            await server.check_empty(name)
    await server.client.aclose()
    return {"claimed": claimed / lease, "granted": granted / lease}


# --- The tables -----------------------------------------------------------------------------------------------------


def median(rows: list[Row], name: str) -> float | None:
    values = sorted(row[name] for row in rows if name in row)
    return values[len(values) // 2] if values else None


def text_of(value: float | None, form: str = "{:,.0f}") -> str:
    return "" if value is None else form.format(value)


Found = dict[Any, list[Row]]


def written_server(found: Found) -> str:
    rows = []
    for number, of_one in found.items():
        renewal, hand_over = median(of_one, "renewal"), median(of_one, "hand-over")
        rows.append(
            [
                f"{number:,}",
                text_of(renewal),
                text_of(hand_over),
                text_of(median(of_one, "claim")),
                text_of(median(of_one, "news")),
                text_of(median(of_one, "bytes")),
                text_of(median(of_one, "connection")),
            ]
        )
    head = ["sessions", "a renewal, us", "a permit handed over, us", "a claim, us", "a message to all, us"]
    return parts.table([*head, "bytes a session", "bytes a connection"], rows)


def written_many(found: Found) -> str:
    rows = [
        [f"{permits:,}", f"{waiting:,}", text_of(median(of_one, "taken"), "{:,.1f}")]
        for (waiting, permits), of_one in found.items()
    ]
    return parts.table(["permits that become free at once", "sessions that wait for them", "ms of the server"], rows)


def written_requests(found: Found) -> str:
    rows = []
    for (number, limit), of_one in found.items():
        rows.append(
            [
                f"{number:,}",
                f"{limit:,}",
                text_of(median(of_one, "requests")),
                text_of(median(of_one, "rule")),
                text_of((median(of_one, "items") or 0) / limit * 0.01, "{:.2f}"),
                text_of((median(of_one, "server") or 0) * 100, "{:.1f} %"),
            ]
        )
    head = ["processes", "limit", "requests a second", "by the rule", "items a second / ideal", "of the server's core"]
    return parts.table(head, rows)


def written_postgres(found: Found) -> str:
    rows = [
        [f"{number:,}", text_of((median(of_one, "renewal") or 0) / 1e3, "{:.2f}")] for number, of_one in found.items()
    ]
    return parts.table(["sessions, half of which wait", "a request, ms of the server"], rows)


def written_postgres_requests(found: Found) -> str:
    rows = []
    for (number, limit), of_one in found.items():
        requests, server = median(of_one, "requests") or 0, median(of_one, "server") or 0
        rows.append(
            [
                f"{number:,}",
                f"{limit:,}",
                text_of(requests),
                text_of((median(of_one, "items") or 0) / limit * 0.01, "{:.2f}"),
                text_of(server * 100, "{:.0f} %"),
                text_of(server / requests * 1e3 if requests else 0, "{:.2f}"),
            ]
        )
    head = [
        "processes",
        "limit",
        "requests a second",
        "items a second / ideal",
        "of a core",
        "ms of the server a request",
    ]
    return parts.table(head, rows)


def written_sparse(found: Found) -> str:
    rows = [
        [
            f"{number:,}",
            f"{limit:,}",
            text_of(median(of_one, "requests"), "{:.1f}"),
            text_of(median(of_one, "news"), "{:.2f}"),
        ]
        for (number, limit), of_one in found.items()
    ]
    return parts.table(["processes", "limit", "requests an item", "messages to all an item"], rows)


def written_news(found: Found) -> str:
    rows = [
        [
            f"{number:,}",
            text_of(median(of_one, "limit")),
            f"{load:.0%}",
            text_of(median(of_one, "waited"), "{:.2f}"),
            text_of(median(of_one, "news"), "{:.3f}"),
        ]
        for (number, load), of_one in found.items()
    ]
    head = ["sessions", "limit", "of it in use", "items that wait", "messages to all an item"]
    return parts.table(head, rows)


def written_newcomers(found: Found) -> str:
    rows = [
        [
            f"{number:,}",
            text_of(median(of_one, "first"), "{:.1f}"),
            text_of(median(of_one, "share"), "{:.1f}"),
            text_of(median(of_one, "more")),
        ]
        for number, of_one in found.items()
    ]
    head = ["processes before it", "its first permit after, items", "its share after, items", "requests for it, of all"]
    return parts.table(head, rows)


def written_shards(found: Found) -> str:
    rows = [
        [f"{shards}", *(text_of(median(found[shards, by], "time"), "{:.2f}") for by in ("process", "item"))]
        for shards in SHARDS
    ]
    return parts.table(["shards", "a shard for each process: time / ideal", "each process has all: time / ideal"], rows)


def written_restarts(found: Found) -> str:
    rows = [
        [f"{number:,}", text_of(median(of_one, "claimed"), "{:.2f}"), text_of(median(of_one, "granted"), "{:.2f}")]
        for number, of_one in found.items()
    ]
    return parts.table(["processes", "all have claimed after, leases", "something new is granted after, leases"], rows)


FIRST = "a request by sessions"
RESTARTS = "restarts"
PARTS: dict[str, Callable[[Found], str]] = {
    FIRST: written_server,
    "many permits at once": written_many,
    "requests a second": written_requests,
    "sparse items": written_sparse,
    "messages to all": written_news,
    "newcomers": written_newcomers,
    "shards": written_shards,
    RESTARTS: written_restarts,
    "sessions at PostgreSQL": written_postgres,
    "requests a second at PostgreSQL": written_postgres_requests,
}


# --- The command ----------------------------------------------------------------------------------------------------


Step = tuple[str, Any, Callable[[], Coroutine[Any, Any, Row]]]


def steps(server: Server, postgres: PostgresServer, size: Size) -> Iterator[Step]:
    """What is measured in each round: the part, the row, how."""
    for number in size.restarts:
        yield RESTARTS, number, functools.partial(of_restart, number, size.restart_lease)
    for number in (1, *size.sessions):
        yield FIRST, number, functools.partial(of_server, server, number, size.requests)
    for waiting, permits in MANY:
        if waiting in size.sessions:
            yield "many permits at once", (waiting, permits), functools.partial(of_many, server, waiting, permits)
    for number in size.sessions[1:]:  # a few have a limit too small for these parts of it
        for load in LOADS:
            how = functools.partial(of_news, server, number, load, size.requests)
            yield "messages to all", (number, load), how
    for number in size.limits:
        for limit in (number // 2, number, number * 3 // 2, 2 * number):
            how = functools.partial(of_requests, server, number, limit, size.seconds)
            yield "requests a second", (number, limit), how
        for limit in filter(None, (2 * number, number // 10, number // 20)):
            yield "sparse items", (number, limit), functools.partial(of_sparse, server, number, limit, size.seconds)
        yield "newcomers", number, functools.partial(of_newcomer, server, number)
    for shards in SHARDS:
        for by in ("process", "item"):
            yield "shards", (shards, by), functools.partial(of_shards, server, shards, by, size.items)
    for number in size.connections:
        yield "sessions at PostgreSQL", number, functools.partial(of_postgres, postgres, number, size.requests)
    for number in size.limits:
        for limit in (number // 2, number, number * 3 // 2):
            how = functools.partial(of_requests, postgres, number, limit, size.seconds)
            yield "requests a second at PostgreSQL", (number, limit), how


async def measured(size: Size, only: str) -> dict[str, Found]:
    found: dict[str, Found] = {part: {} for part in PARTS if only in part}
    async with servers.redis() as port, servers.postgres(max_connections=2 * max(size.connections) + 10) as address:
        server, postgres = Server(port, size.lease), PostgresServer(address, size.lease)

        async def note(rows: list[Row], measure_it: Callable[[], Coroutine[Any, Any, Row]]) -> None:
            rows.append(await measure_it())

        for _ in range(size.rounds):
            async with asyncio.TaskGroup() as group:
                for part, row, measure_it in steps(server, postgres, size):
                    if part in found:
                        step = group.create_task(note(found[part].setdefault(row, []), measure_it))
                        if size is FULL or part != RESTARTS:  # which mostly waits, at a server of its own
                            await step
        await server.client.aclose()
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="seconds: does every limit hold? Its figures say nothing")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tables whose name contains the text")
    parser.add_argument("--docs", action="store_true", help="also write the tables into docs/planning.md")


def main(options: argparse.Namespace) -> int:
    missing = [f"{name} is not installed" for name in CLIENTS if importlib.util.find_spec(name) is None]
    if why := "; ".join(filter(None, [servers.no_redis(), servers.no_postgres(), *missing])):
        print(f"nothing measured: {why}")
        return 1
    found = asyncio.run(measured(QUICK if options.quick else FULL, options.only))
    tables = {part: PARTS[part](of_part) for part, of_part in found.items()}
    head = parts.made("planning" + " --quick" * options.quick, CLIENTS)
    tables = {part: f"{head}\n{text}" if part == FIRST else text for part, text in tables.items()}
    print("\n".join(tables.values()))
    if options.docs:
        for part, text in tables.items():
            parts.write(PAGE, part, text)
    return 0
