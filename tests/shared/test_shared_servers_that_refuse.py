"""A server that refuses says so at the first use: an error that tells what would be right, and nothing hangs."""

import asyncio
import importlib

import pytest

from gatedcoro.shared import GateUnavailable, LeaseLost
from shared_limits import all_permits, limit_on, run
from shared_processes import KEYS, held, waiting
from shared_servers import asyncio_class, lasting_port, wait_until

# With such a lease only what fails for good is told within the patience of a test.
LEASE = 1_000


async def refused(server, what, lease=LEASE, **options):
    """The first use fails with an error that says what would be right, for all who wait; so does each later one."""
    async with limit_on(server, 2, lease=lease, **options) as limit:
        first, second = await asyncio.gather(limit.acquire(), limit.acquire(), return_exceptions=True)
        for error in (first, second):
            assert isinstance(error, GateUnavailable), error
            assert what in str(error)
            assert "'name'" in str(error)
        with pytest.raises(GateUnavailable):
            await limit.acquire(blocking=False)
        with pytest.raises(GateUnavailable):
            async with asyncio.timeout(60):
                async with limit:
                    pass
        stats = limit.stats()
        assert (stats.held, stats.waiting) == (0, 0)


def client_of(server, **arguments):
    """One that does not try again by itself, which takes seconds."""
    module = importlib.import_module(server.kind)
    retry = importlib.import_module(f"{server.kind}.asyncio.retry").Retry(module.backoff.NoBackoff(), 0)
    return asyncio_class(server.kind)(port=server.port, retry=retry, **arguments)


def test_a_server_that_asks_for_a_password(new_server):
    server = new_server(requirepass="secret")
    run(lambda: refused(server, "the user and the password", client=client_of(server)))


def test_a_password_that_is_wrong(new_server):
    server = new_server(requirepass="secret")
    run(lambda: refused(server, "the user and the password", client=client_of(server, password="wrong")))


def test_a_password_that_is_right(new_server):
    server = new_server(requirepass="secret")
    run(lambda: right(server))


async def right(server, **options):
    async with limit_on(server, 2, **options) as limit:
        await all_permits(limit)


@pytest.mark.parametrize("rights", ["~* &* +@all -evalsha", "~other:* &* +@all", "~* &* +@all -zadd"])
def test_a_user_who_may_not_run_the_script(new_server, rights):
    server = new_server(user=[f"some on >pw {rights}"])
    run(lambda: refused(server, "gate:*", client=client_of(server, username="some", password="pw")))


@pytest.mark.parametrize("rights", ["~* &* +@all -subscribe", "~* resetchannels +@all"])
def test_a_user_who_may_not_listen(new_server, rights):
    """The script's answer may come before the refusal: then there is a permit, and what is missed is time only."""
    server = new_server(user=[f"some on >pw {rights}"])

    async def main():
        for _ in range(50):
            async with limit_on(server, 2, client=client_of(server, username="some", password="pw")) as limit:
                try:
                    await limit.acquire()
                except GateUnavailable as error:
                    assert "gate:*" in str(error)
                    return
                limit.release()
        raise AssertionError("nobody was told")

    run(main)


def test_a_user_who_may_do_what_the_error_says(new_server):
    server = new_server(user=["some on >pw ~gate:* &gate:* +@all"])
    run(lambda: right(server, client=client_of(server, username="some", password="pw")))


def test_a_user_who_may_not_be_one_any_more_ends_items_when_the_lease_does(new_server):
    server = new_server(user=["some on >pw ~* &* +@all"])

    async def main():
        async with limit_on(server, client=client_of(server, username="some", password="pw")) as limit:
            waits = await loses(limit, lambda: allow("-evalsha"))
            with pytest.raises(GateUnavailable, match="needs evalsha"):
                await waits
            allow("+evalsha")
            await all_permits(limit)

    def allow(command):
        server.administration.acl_setuser("some", enabled=True, commands=[command])

    run(main)


def test_a_replica(new_server):
    primary = new_server()
    replica = new_server(replicaof=f"127.0.0.1 {primary.port}")
    wait_until(lambda: replica.administration.info("replication")["master_link_status"] == "up")
    run(lambda: refused(replica, "must reach the primary"))


def test_a_replica_that_has_lost_its_primary_is_one_for_the_time_being(new_server):
    replica = new_server(replicaof=f"127.0.0.1 {lasting_port()}", replica_serve_stale_data="no")

    async def main():
        async with limit_on(replica, lease=1) as limit:
            with pytest.raises(GateUnavailable, match="MASTERDOWN|Link with MASTER is down|primary"):
                await limit.acquire()
            replica.administration.replicaof("NO", "ONE")
            await all_permits(limit)

    run(main)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl", "allkeys-random"])
@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_a_server_that_drops_keys_when_its_memory_is_full(new_server, policy):
    server = new_server(maxmemory="20mb", maxmemory_policy=policy)
    run(lambda: refused(server, "set maxmemory-policy to noeviction"))
    run(lambda: refused(server, policy))
    assert server.keys() == []


@pytest.mark.parametrize(
    "options", [{"maxmemory": "20mb", "maxmemory_policy": "noeviction"}, {"maxmemory_policy": "allkeys-lru"}]
)
@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_a_server_that_has_memory_or_drops_nothing_will_do(new_server, options):
    server = new_server(**options)
    run(lambda: right(server))


def test_a_server_whose_memory_is_full_ends_items_when_the_lease_does(new_server):
    server = new_server(maxmemory_policy="noeviction")

    async def main():
        async with limit_on(server) as limit:
            waits = await loses(limit, lambda: server.administration.config_set("maxmemory", 1))
            # What waits goes on: a script that has removed something may write, and what is too old is removed.
            server.administration.config_set("maxmemory", 0)
            await waits
            limit.release()
            await all_permits(limit)

    run(main)


async def loses(limit, do):
    """What is done to the server costs an item its permit; returns the Task that waits for one."""
    entered = asyncio.Event()

    async def item():
        async with limit:
            entered.set()
            await asyncio.sleep(1_000)

    task = asyncio.create_task(item())
    await entered.wait()
    waits = asyncio.create_task(limit.acquire())
    do()
    with pytest.raises(LeaseLost):
        await task
    return waits


def test_a_port_where_nobody_is(server):
    client = asyncio_class(server.kind)(port=lasting_port())
    run(lambda: refused(server, "out of reach", client=client, lease=1))


def test_a_port_where_somebody_else_is(server):
    """Who does not speak the protocol, and who says nothing."""

    async def main():
        async def say(reader, writer):
            await reader.readline()
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async def be_silent(reader, writer):
            await reader.read()
            writer.close()

        for answer in (say, be_silent):
            other = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = other.sockets[0].getsockname()[1]
            await refused(server, "out of reach", client=asyncio_class(server.kind)(port=port), lease=1)
            other.close()
            await other.wait_closed()

    run(main)


@pytest.mark.parametrize("room", [1, 2])
def test_a_pool_that_has_no_room(server, room):
    client = asyncio_class(server.kind)(port=server.port, max_connections=room)

    async def main():
        if room == 1:
            await refused(server, "max_connections", client=client)
        else:
            await right(server, client=client)

    run(main)


def test_a_key_of_another_kind_is_replaced(server):
    server.administration.set(KEYS[0], "text")
    run(lambda: right(server))


def test_keys_of_another_kind(server):
    for key in KEYS:
        server.administration.set(key, "text")
    run(lambda: refused(server, "cannot run the limit's script"))


def test_a_server_that_is_busy_is_so_for_the_time_being(new_server):
    server = new_server(busy_reply_threshold="50")

    async def main():
        async with limit_on(server, lease=5) as limit:
            await all_permits(limit)
            client = client_of(server)
            busy = asyncio.create_task(client.eval("while true do end", 0))

            async def is_busy():
                try:
                    await client.get("key")
                except Exception as error:
                    return "BUSY" in str(error) or "busy" in str(error)

            while not await is_busy():
                pass
            waits = asyncio.create_task(limit.acquire())
            assert await limit_fails_at_once(limit)
            await asyncio.to_thread(server.administration.script_kill)
            await waits
            limit.release()
            await asyncio.gather(busy, return_exceptions=True)
            await client.aclose()

    async def limit_fails_at_once(limit):
        with pytest.raises(GateUnavailable):
            await limit.acquire(blocking=False)
        return True

    run(main)
    assert held(server) == waiting(server) == 0
