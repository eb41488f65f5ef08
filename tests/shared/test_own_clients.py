"""The client that a limit makes for another event loop or thread: it does what the one handed over does, and leaves nothing open."""

import asyncio

import pytest

import shared_servers
from gatedcoro.shared import RedisLimit
from gatedcoro.shared._redis import own_client


def prefixed(kind):
    class Prefixed(shared_servers.asyncio_class(kind)):
        """Each key has a tenant's name before it."""

        def __init__(self, tenant, **arguments):
            super().__init__(**arguments)
            self.tenant = tenant

        async def evalsha(self, sha, count, *arguments):
            return await super().evalsha(sha, count, *self.renamed(count, arguments))

        async def eval(self, script, count, *arguments):
            return await super().eval(script, count, *self.renamed(count, arguments))

        def renamed(self, count, arguments):
            return [f"{self.tenant}:{key}" for key in arguments[:count]] + list(arguments[count:])

    return Prefixed


def test_a_subclass_that_renames_keys_counts_them_there_in_every_loop(server, kind):
    client = prefixed(kind)("tenant", host="127.0.0.1", port=server.port)
    limit = RedisLimit(client, "calls", 1, lease=1, recover=False)
    found = []

    async def main():
        async with limit:
            found.append(await asyncio.to_thread(server.keys))
        while limit.stats().sessions or limit._leaving:  # it ends by itself
            await asyncio.sleep(0.01)
        await client.aclose()

    for _ in range(2):
        asyncio.run(main())
    expected = [f"tenant:gate:{{calls}}:{key}" for key in ("counts", "meta", "sessions")]
    assert found == [expected, expected]


@pytest.mark.parametrize("single", [False, True])
def test_it_shares_no_connection(server, single):
    async def main():
        client = server.client(single_connection_client=single)
        await client.ping()
        own = own_client(client)
        await own.ping()
        assert own.connection_pool is not client.connection_pool
        assert own.connection is None
        numbers = [await one.client_id() for one in (client, own)]
        await own.aclose()
        assert await client.client_id() == numbers[0] != numbers[1]
        await client.aclose()

    asyncio.run(main())


def test_nothing_is_left_open_at_sentinels(sentinel_group):
    """Each renewal by a thread is an event loop of its own: what one leaves open breaks the next."""
    group = sentinel_group

    def connections():
        found = [one for sentinel in group.sentinels for one in sentinel.administration.client_list()]
        return sorted(one["id"] + one["addr"] for one in found if one["cmd"] not in ("client|list", "publish", "hello"))

    async def main():
        async with group.client() as client:
            await client.ping()
            before = connections()
            limit = RedisLimit(client, "calls", 1, recover=False)
            state = limit._state.for_another_loop()

            async def use():
                await state._client.ping()
                await state.close()

            for _ in range(2):
                await asyncio.to_thread(lambda: asyncio.run(use()))
            shared_servers.wait_until(lambda: set(connections()) <= set(before))

    asyncio.run(main())


# Numbers beyond what a script can count


def test_a_limit_beyond_all_numbers_of_the_server(server):
    async def main():
        async with server.client() as client:
            limit = RedisLimit(client, "calls", 10**400, recover=False)
            async with asyncio.timeout(60):
                for _ in range(3):
                    await limit.acquire()
            for _ in range(3):
                limit.release()
            await limit.aclose()

    asyncio.run(main())
