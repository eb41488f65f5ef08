"""The kinds of work that an item can be: the rows of the comparison.

An item is a coroutine function of its index that gives the index back, so every measurement can check that each item
ran and that its result arrived in its place. A `Work` prepares what its items need outside the timed region (a
server, a client, a queue) and yields the call that is timed.

To add one: an item that needs nothing is a coroutine function and a row `plain_work(name, title, item)` in WORKS. One that needs
something (a server behind a delay, a database, a stream) is an async context manager as `queue_hand_over` and `aiohttp_requests`
are: it starts what the items need, yields the call, and puts it away; a claim about the limit is checked after the yield, as
`_counted_requests` does. `needs` names packages without which the row is absent, `only_limited` leaves out tools without a limit.
The report, its plots, `pytest benchmarks` and the tests go over WORKS. Work with servers of other kinds is in real/works.py.
"""

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from gatedcoro._demo_measure import future, nothing, sleep0

from .. import http_server

Item = Callable[[int], Coroutine[Any, Any, int]]
Call = Callable[[], Awaitable[Any]]


class Tool(Protocol):
    """What a work asks of a tool (competitors.py has them)."""

    @property
    def name(self) -> str: ...

    @property
    def run(self) -> Callable[[Item, int, int | None], Awaitable[list[int]]]:
        """run(item, count, limit)"""

    @property
    def gather(self) -> Callable[..., Awaitable[list[Any]]] | None:
        """gather(limit, *coroutines), of a tool that has this shape."""

    @property
    def semaphore(self) -> Callable[[int], Any] | None:
        """A class of semaphores, of a tool that is one."""


# --- Items --------------------------------------------------------------------------------------------------------
# nothing, sleep0 and future are shared with the demo.


async def sleep1ms(index: int) -> int:
    await asyncio.sleep(0.001)
    return index


async def one_slow(index: int) -> int:
    await asyncio.sleep(0.01 if index % 100 == 0 else 0)
    return index


async def one_failing(index: int) -> int:
    """The error is caught here, since tools disagree about what follows from one: all do the same work."""
    try:
        await asyncio.sleep(0)
        if index % 100 == 0:
            raise ValueError(index)
    except ValueError as error:
        value: int = error.args[0]
        return value
    return index


# --- Works --------------------------------------------------------------------------------------------------------

Prepare = Callable[[Tool, int, int | None], AbstractAsyncContextManager[Call]]


@dataclass(frozen=True)
class Work:
    name: str
    title: str
    prepare: Prepare
    count: int = 10_000  # in the report's comparison of works
    limit: int = 10
    quick_count: int = 1_000
    needs: str | None = None  # packages
    only_limited: bool = (
        False  # a tool without a limit would be compared with nothing: items wait, or the limit is the point
    )
    only_gather: bool = False  # the tool must be a gather(limit, *coroutines)
    only_semaphore: bool = False  # the tool must be a class of semaphores
    item: Item | None = None  # where it is all that there is, so that coroutines can be made before the timed region
    first: Prepare | None = None  # for the untimed first run, which looks closer at the limit
    waits: float = 0.0  # seconds that an item waits at least
    within: tuple[str, ...] = ()  # the command that the measuring process is started by
    without: Callable[[], str | None] = lambda: None  # why its server cannot be had

    def missing(self) -> str | None:
        for package in (self.needs or "").split():
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        return self.without()


def plain(item: Item) -> Prepare:
    @contextlib.asynccontextmanager
    async def prepare(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
        yield lambda: tool.run(item, count, limit)

    return prepare


@contextlib.asynccontextmanager
async def queue_hand_over(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """Each item puts a request into a queue; one Task takes the requests and answers them."""
    requests: asyncio.Queue[tuple[int, asyncio.Future[int]]] = asyncio.Queue(maxsize=8)
    loop = asyncio.get_running_loop()

    async def answer() -> None:
        while True:
            index, reply = await requests.get()
            reply.set_result(index)

    async def item(index: int) -> int:
        reply: asyncio.Future[int] = loop.create_future()
        await requests.put((index, reply))
        return await reply

    answering = asyncio.create_task(answer())
    try:
        yield lambda: tool.run(item, count, limit)
    finally:
        answering.cancel()
        await asyncio.wait([answering])


@contextlib.asynccontextmanager
async def _counted_requests(tool: Tool, count: int, limit: int | None) -> AsyncIterator[http_server.Server]:
    """A server that is told how many requests must arrive at once, and refuses to have seen another number."""
    expected = count if limit is None else min(limit, count)
    server = await http_server.running()
    await server.expect(expected)
    yield server
    peak = await server.peak()
    if peak != expected:
        raise AssertionError(f"{tool.name}: {peak} requests at once instead of {expected}")


@contextlib.asynccontextmanager
async def aiohttp_requests(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    import aiohttp

    async with _counted_requests(tool, count, limit) as server:
        # No limit of the client's own; nothing but the tool may hold requests back.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def item(index: int) -> int:
                async with session.get(f"{server.url}/{index}") as response:
                    return int(await response.text())

            yield lambda: tool.run(item, count, limit)


@contextlib.asynccontextmanager
async def httpx_requests(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with _counted_requests(tool, count, limit) as server:
        async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:

            async def item(index: int) -> int:
                return int((await client.get(f"{server.url}/{index}")).text)

            yield lambda: tool.run(item, count, limit)


@contextlib.asynccontextmanager
async def langchain_abatch(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """A RunnableLambda's `abatch`, with the tool in the place of LangChain's own helper."""
    from langchain_core.runnables import RunnableLambda, base

    module: Any = base
    runnable = RunnableLambda(lambda index: index, afunc=nothing)
    inputs = list(range(count))
    own = module.gather_with_concurrency
    module.gather_with_concurrency = tool.gather
    try:
        yield lambda: runnable.abatch(inputs, config={"max_concurrency": limit})
    finally:
        module.gather_with_concurrency = own


def plain_work(name: str, title: str, item: Item, **more: Any) -> Work:
    return Work(name, title, plain(item), item=item, **more)


NOTHING = plain_work("nothing", "nothing", nothing)
SLEEP0 = plain_work("sleep0", "sleep(0)", sleep0)
FUTURE = plain_work("future", "a future set by a callback", future)
BASIC = (NOTHING, SLEEP0, FUTURE)
WORKS = [
    *BASIC,
    plain_work("sleep1ms", "sleep(0.001)", sleep1ms, count=5_000, quick_count=500, only_limited=True),
    Work("queue", "a hand-over through a queue", queue_hand_over),
    plain_work("slow", "sleep(0), one in a hundred 10 ms", one_slow, only_limited=True),
    plain_work("failing", "sleep(0), one in a hundred raises (caught inside)", one_failing),
    Work("aiohttp", "an HTTP request, aiohttp", aiohttp_requests, 2_000, 50, 300, "aiohttp", only_limited=True),
    Work("httpx", "an HTTP request, httpx", httpx_requests, 300, 50, 100, "httpx", only_limited=True),
    Work(
        "abatch",
        "an abatch of LangChain",
        langchain_abatch,
        2_000,
        10,
        300,
        "langchain_core",
        only_limited=True,
        only_gather=True,
    ),
]
BY_NAME = {work.name: work for work in WORKS}
