"""Real work: items that ask a server of this machine, in a process and on a core of its own.

To add one: a row of WORKS, as in compare/works.py. `prepare` yields the timed call, `first` the untimed first one, in which what is
claimed of the limit is checked at the server: it holds the items until as many as should be there at once are. Servers and clients
that outlive a sample are `opened`. The contests that it takes part in are rows of rows.py.
"""

import asyncio
import contextlib
import functools
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from .. import http_server
from ..compare.works import Call, Tool, Work
from ..http_server import Kind
from . import servers

PATIENCE = 10.0
POOL = 50  # connections to the database, at most; more items than that wait for one, as behind any pool

_opened: dict[asyncio.AbstractEventLoop, tuple[AsyncExitStack, dict[Hashable, Any]]] = {}


async def opened(key: Hashable, make: Callable[[], AbstractAsyncContextManager[Any]]) -> Any:
    """What `make` gives, made at the first call on this loop, and put away by `close`."""
    stack, found = _opened.setdefault(asyncio.get_running_loop(), (AsyncExitStack(), {}))
    if key not in found:
        found[key] = await stack.enter_async_context(make())
    return found[key]


async def close() -> None:
    """Puts away what was opened on this loop, HTTP servers too."""
    stack, _ = _opened.pop(asyncio.get_running_loop(), (AsyncExitStack(), {}))
    await stack.aclose()
    await http_server.stop()


def at_once(count: int, limit: int | None) -> int:
    return count if limit is None else min(limit, count)


# --- HTTP ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def aiohttp_client() -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    import aiohttp

    # No limit of the client's own, and no look at the server's certificate.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=False)) as session:

        async def get(url: str) -> str:
            async with session.get(url) as response:
                return await response.text()

        yield get


@contextlib.asynccontextmanager
async def httpx_client() -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False, verify=False) as client:

        async def get(url: str) -> str:
            return (await client.get(url)).text

        yield get


Client = Callable[[], AbstractAsyncContextManager[Callable[[str], Awaitable[str]]]]


@contextlib.asynccontextmanager
async def requests(
    client: Client, kind: Kind, new: bool, counted: bool, tool: Tool, count: int, limit: int | None
) -> AsyncIterator[Call]:
    """Requests by one client, whose connections are there already, or that is new in each sample."""
    expected = at_once(count, limit)
    server = await http_server.running(kind)
    async with AsyncExitStack() as stack:
        get = await (stack.enter_async_context(client()) if new else opened((client, kind), client))
        await server.expect(expected if counted else 0)

        async def item(index: int) -> int:
            return int(await get(f"{server.url}/{index}"))

        yield lambda: tool.run(item, count, limit)
    peak = await server.peak()
    if peak > expected or (counted and peak < expected):
        raise AssertionError(f"{tool.name}: {peak} requests at once instead of {expected}")


def http(name: str, title: str, client: Client, needs: str, kind: Kind, *, new: bool = False, **more: Any) -> Work:
    prepare, first = (functools.partial(requests, client, kind, new, counted) for counted in (False, True))
    return Work(name, title, prepare, **{"count": 2_000, **more}, needs=needs, only_limited=True, first=first)


ASLEEP, AWAKE, TLS = Kind(delay=0), Kind(delay=0, awake=True), Kind(delay=0, tls=True)
DELAYS = (0.001, 0.01, 0.1)


def delayed(client: Client, package: str, seconds: float) -> Work:
    shown = f"{seconds * 1e3:g} ms"
    return http(
        f"{package}-{shown.replace(' ', '')}",
        f"{package}, server behind {shown}",
        client,
        package,
        Kind(delay=seconds),
        waits=seconds,
    )


NETEM = 'ip link set lo up && tc qdisc add dev lo root netem delay {:g}ms && exec "$@"'


@functools.cache
def no_netem() -> str | None:
    """Why the kernel cannot delay what goes over the loopback interface of a network namespace, or None."""
    if not all(map(shutil.which, ("unshare", "ip", "tc"))):
        return "unshare, ip and tc are not all there"
    command = ["unshare", "--net", "sh", "-c", NETEM.format(1), "sh", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no netem: {done.stderr.strip().splitlines()[-1]}" if done.returncode else None


def by_netem(seconds: float) -> Work:
    """Each way takes half of the delay; client and server are in a network namespace of their own."""
    shown = f"{seconds * 1e3:g} ms"
    name, title = f"aiohttp-netem-{shown.replace(' ', '')}", f"aiohttp, network of {shown} (netem)"
    within = ("unshare", "--net", "sh", "-c", NETEM.format(seconds * 500), "sh")
    return http(name, title, aiohttp_client, "aiohttp", ASLEEP, waits=seconds, within=within, without=no_netem)


# --- What other servers hold --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def held(
    tool: Tool, expected: int, blocked: Callable[[], Awaitable[int]], release: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Releases the items that the server has blocked once there are as many as expected, and refuses another number."""

    async def keep_watch() -> int:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    while await blocked() < expected:
                        await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)  # in which more would come
            return await blocked()
        finally:
            await release()

    watch = asyncio.create_task(keep_watch())
    try:
        yield
        found = await watch
    finally:
        watch.cancel()
        await asyncio.wait([watch])
    if found != expected:
        raise AssertionError(f"{tool.name}: {found} at once instead of {expected}")


# --- A database ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _pool(address: str, size: int) -> AsyncIterator[Any]:
    import asyncpg

    # Each connection that a sample may want is there before.
    async with asyncpg.create_pool(address, min_size=size, max_size=size) as pool:
        yield pool


@contextlib.asynccontextmanager
async def asyncpg_queries(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    address = await opened("postgres", servers.postgres)
    size = min(at_once(count, limit), POOL)
    pool = await opened(("asyncpg", size), lambda: _pool(address, size))

    async def item(index: int) -> int:
        value: int = await pool.fetchval("select $1::int", index)
        return value

    yield lambda: tool.run(item, count, limit)


@contextlib.asynccontextmanager
async def asyncpg_locks(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """The same, behind a lock that is given free when as many queries as there are connections wait for it."""
    address = await opened("postgres", servers.postgres)
    size = min(at_once(count, limit), POOL)
    pool = await opened(("asyncpg", size), lambda: _pool(address, size))

    async def item(index: int) -> int:
        async with pool.acquire() as connection:  # which gives its locks back when it is released
            await connection.execute("select pg_advisory_lock_shared(1)")
            value: int = await connection.fetchval("select $1::int", index)
        return value

    async with _pool(address, 1) as own, own.acquire() as lock:
        await lock.execute("select pg_advisory_lock(1)")

        async def blocked() -> int:
            query = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            found: int = await lock.fetchval(query)
            return found

        async def release() -> None:
            await lock.execute("select pg_advisory_unlock(1)")

        async with held(tool, size, blocked, release):
            yield lambda: tool.run(item, count, limit)


@contextlib.asynccontextmanager
async def _sqlite() -> AsyncIterator[Any]:
    import aiosqlite

    async with aiosqlite.connect(":memory:") as database:
        yield database


@contextlib.asynccontextmanager
async def aiosqlite_queries(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """One connection, whose thread takes one query after another."""
    database = await opened("sqlite", _sqlite)

    async def item(index: int) -> int:
        async with database.execute("select ?", (index,)) as cursor:
            [value] = await cursor.fetchone()
        return int(value)

    yield lambda: tool.run(item, count, limit)


# --- Redis --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _redis(port: int) -> AsyncIterator[Any]:
    import redis.asyncio

    async with redis.asyncio.Redis(host="127.0.0.1", port=port, max_connections=servers.MOST_CLIENTS) as client:
        yield client


@contextlib.asynccontextmanager
async def redis_commands(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    port = await opened("redis server", servers.redis)
    client = await opened("redis", lambda: _redis(port))

    async def item(index: int) -> int:
        return int(await client.echo(str(index)))

    yield lambda: tool.run(item, count, limit)


@contextlib.asynccontextmanager
async def redis_pops(tool: Tool, count: int, limit: int | None) -> AsyncIterator[Call]:
    """The same, behind a list of permits that is filled when as many clients as the limit wait for one."""
    port = await opened("redis server", servers.redis)
    client = await opened("redis", lambda: _redis(port))

    async def item(index: int) -> int:
        await client.blpop("permits", 0)
        return int(await client.echo(str(index)))

    async with _redis(port) as other:

        async def blocked() -> int:
            return int((await other.info("clients"))["blocked_clients"])

        async def release() -> None:
            await other.rpush("permits", *range(count))

        async with held(tool, at_once(count, limit), blocked, release):
            yield lambda: tool.run(item, count, limit)
        await other.delete("permits")


# --- The table ----------------------------------------------------------------------------------------------------

WORKS = [
    http("aiohttp-asleep", "aiohttp, server that sleeps when idle", aiohttp_client, "aiohttp", ASLEEP),
    http("aiohttp-awake", "aiohttp, server that never sleeps", aiohttp_client, "aiohttp", AWAKE),
    *[delayed(aiohttp_client, "aiohttp", seconds) for seconds in DELAYS],
    *[by_netem(seconds) for seconds in DELAYS],
    http("aiohttp-tls", "aiohttp, TLS", aiohttp_client, "aiohttp trustme", TLS),
    http("aiohttp-new", "aiohttp, new connections", aiohttp_client, "aiohttp", ASLEEP, new=True),
    http("httpx-asleep", "httpx, server that sleeps when idle", httpx_client, "httpx", ASLEEP, count=500),
    http("httpx-awake", "httpx, server that never sleeps", httpx_client, "httpx", AWAKE, count=500),
    delayed(httpx_client, "httpx", 0.01),
    Work(
        "asyncpg",
        "a query, asyncpg",
        asyncpg_queries,
        2_000,
        needs="asyncpg",
        only_limited=True,
        first=asyncpg_locks,
        without=servers.no_postgres,
    ),
    Work("aiosqlite", "a query, aiosqlite", aiosqlite_queries, 2_000, needs="aiosqlite", only_limited=True),
    Work(
        "redis",
        "a command, redis-py",
        redis_commands,
        2_000,
        needs="redis",
        only_limited=True,
        first=redis_pops,
        without=servers.no_redis,
    ),
]
BY_NAME = {work.name: work for work in WORKS}
