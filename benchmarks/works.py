"""The kinds of work that an item can be.

An item is a coroutine function of its index that gives the index back, so every measurement can check that each item
ran and that its result arrived in its place. A `Work` prepares what its items need outside the timed region (a
server, a client, a queue) and yields the call that is timed.
"""

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import http_server

if TYPE_CHECKING:
    from .competitors import Competitor

Item = Callable[[int], Coroutine[Any, Any, int]]
Call = Callable[[], Awaitable[Any]]


class NotApplicable(Exception):
    """The tool cannot express this cell; the reason is the message."""


# --- Items --------------------------------------------------------------------------------------------------------


async def nothing(index: int) -> int:
    return index


async def sleep0(index: int) -> int:
    await asyncio.sleep(0)
    return index


async def future(index: int) -> int:
    loop = asyncio.get_running_loop()
    waited_for: asyncio.Future[int] = loop.create_future()
    loop.call_soon(waited_for.set_result, index)
    return await waited_for


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

Prepare = Callable[["Competitor", int, int | None], AbstractAsyncContextManager[Call]]


@dataclass(frozen=True)
class Work:
    name: str
    title: str
    prepare: Prepare
    count: int = 10_000  # in the report's comparison of works
    limit: int = 10
    quick_count: int = 1_000
    needs: str | None = None  # a package
    only_limited: bool = False  # an item waits so long that a tool without a limit would be compared with nothing

    def missing(self) -> str | None:
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return None


def plain(item: Item) -> Prepare:
    @contextlib.asynccontextmanager
    async def prepare(tool: "Competitor", count: int, limit: int | None) -> AsyncIterator[Call]:
        yield lambda: tool.run(item, count, limit)

    return prepare


@contextlib.asynccontextmanager
async def queue_hand_over(tool: "Competitor", count: int, limit: int | None) -> AsyncIterator[Call]:
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
async def _counted_requests(tool: "Competitor", count: int, limit: int | None) -> AsyncIterator[http_server.Server]:
    """A server that is told how many requests must arrive at once, and refuses to have seen another number."""
    expected = count if limit is None else min(limit, count)
    server = await http_server.running()
    await server.expect(expected)
    yield server
    peak = await server.peak()
    if peak != expected:
        raise AssertionError(f"{tool.name}: {peak} requests at once instead of {expected}")


@contextlib.asynccontextmanager
async def aiohttp_requests(tool: "Competitor", count: int, limit: int | None) -> AsyncIterator[Call]:
    import aiohttp

    async with _counted_requests(tool, count, limit) as server:
        # No limit of the client's own; nothing but the tool may hold requests back.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def item(index: int) -> int:
                async with session.get(f"{server.url}/{index}") as response:
                    return int(await response.text())

            yield lambda: tool.run(item, count, limit)


@contextlib.asynccontextmanager
async def httpx_requests(tool: "Competitor", count: int, limit: int | None) -> AsyncIterator[Call]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with _counted_requests(tool, count, limit) as server:
        async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:

            async def item(index: int) -> int:
                return int((await client.get(f"{server.url}/{index}")).text)

            yield lambda: tool.run(item, count, limit)


@contextlib.asynccontextmanager
async def langchain_abatch(tool: "Competitor", count: int, limit: int | None) -> AsyncIterator[Call]:
    """A RunnableLambda's `abatch`, with the tool in the place of LangChain's own helper."""
    if tool.gather is None:
        raise NotApplicable("not a gather(n, *coroutines)")
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


NOTHING = Work("nothing", "nothing", plain(nothing))
SLEEP0 = Work("sleep0", "sleep(0)", plain(sleep0))
FUTURE = Work("future", "a future set by a callback", plain(future))
WORKS = [
    NOTHING,
    SLEEP0,
    FUTURE,
    Work("sleep1ms", "sleep(0.001)", plain(sleep1ms), 5_000, quick_count=500, only_limited=True),
    Work("queue", "a hand-over through a queue", queue_hand_over),
    Work("slow", "sleep(0), one in a hundred 10 ms", plain(one_slow), only_limited=True),
    Work("failing", "sleep(0), one in a hundred raises (caught inside)", plain(one_failing)),
    Work("aiohttp", "an HTTP request, aiohttp", aiohttp_requests, 2_000, 50, 300, "aiohttp", True),
    Work("httpx", "an HTTP request, httpx", httpx_requests, 300, 50, 100, "httpx", True),
    Work("abatch", "an abatch of LangChain", langchain_abatch, 2_000, 10, 300, "langchain_core"),
]
BY_NAME = {work.name: work for work in WORKS}
