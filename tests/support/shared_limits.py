"""What tests of the shared limit in one process share: each limit is a session of its own, as another process would be."""

import asyncio
import contextlib

import shared_servers
from gatedcoro.shared import RedisLimit

PATIENCE = shared_servers.PATIENCE


@contextlib.asynccontextmanager
async def limit_on(server, limit=1, name="name", client=None, lease=1, recover=False, **options):
    """A limit with a client of its own, both closed at the end."""
    client = server.client() if client is None else client
    shared = RedisLimit(client, name, limit, lease=lease, recover=recover, **options)
    try:
        yield shared
    finally:
        await shared.aclose()
        await client.aclose()


def run(main):
    """Runs the coroutine function; a hang is an error."""

    async def in_time():
        async with asyncio.timeout(PATIENCE):
            await main()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, f"still there: {others}"

    asyncio.run(in_time())


async def until(condition):
    """Waits in a loop that goes on."""
    await asyncio.to_thread(shared_servers.wait_until, condition)


async def all_permits(*limits):
    """Enter each limit as often as its number says, all at once, in every one alone: nothing is held by anyone else."""
    for limit in limits:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(limit.limit):
                await stack.enter_async_context(limit)
