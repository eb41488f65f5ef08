"""What tests of the shared limit in one process share: each limit is a session of its own, as another process would be."""

import asyncio
import contextlib

import shared_kinds
import shared_servers

PATIENCE = shared_servers.PATIENCE


@contextlib.asynccontextmanager
async def limit_on(server, limit=1, name="name", client=None, lease=1, **options):
    """A limit with a client of its own, both closed at the end."""
    client = await shared_kinds.opened(server.client() if client is None else client)
    shared = shared_kinds.limit_of(client, name, limit, lease=lease, **options)
    try:
        yield shared
    finally:
        await shared.aclose()
        await shared_kinds.closed(client)


def run(main, **options):
    """Runs the coroutine function, with the options of asyncio.Runner; a hang is an error."""

    async def in_time():
        async with asyncio.timeout(PATIENCE):
            await main()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, f"still there: {others}"

    with asyncio.Runner(**options) as runner:
        runner.run(in_time())


async def until(condition):
    """Waits in a loop that goes on."""
    await asyncio.to_thread(shared_servers.wait_until, condition)


async def all_permits(*limits):
    """Enter each limit as often as its number says, all at once, in every one alone: nothing is held by anyone else."""
    for limit in limits:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(limit.limit):
                await stack.enter_async_context(limit)
