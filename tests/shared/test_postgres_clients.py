"""Whatever of asyncpg is handed over, a pool or a function that connects: it is used as it is, and stays the user's."""

import asyncio
import contextlib
import functools

import asyncpg
import pytest

import gatedcoro
from gatedcoro.shared import GateUnavailable, LeaseLost, PostgresLimit
from shared_kinds import NAME, held, keys_of, left_on, sessions, waiting
from shared_limits import all_permits, limit_on, run, until

pytestmark = pytest.mark.parametrize("kind", ["postgres"], indirect=True)
EITHER = pytest.mark.parametrize("way", ["pool", "function"])


def client_of(server, way, **arguments):
    return server.client(**arguments) if way == "pool" else server.connector(**arguments)


async def work(server, client, other_client):
    """Two sessions pass permits to each other by messages, and know of each other."""
    async with (
        limit_on(server, 2, client=client, lease=100) as one,
        limit_on(server, 2, client=other_client, lease=100) as other,
    ):
        entered = []

        async def item(name):
            entered.append(name)
            await asyncio.sleep(0.001)
            return name

        results = await asyncio.gather(
            gatedcoro.gather(*map(item, range(20)), limit=one), gatedcoro.gather(*map(item, range(20, 40)), limit=other)
        )
        assert results == [list(range(20)), list(range(20, 40))]
        assert sorted(entered) == list(range(40))
        fences = []
        for limit in (one, other, one):
            fences.append(await limit.acquire())
            limit.release()
            await until(lambda: held(server) == 0)
        assert all(type(fence) is int and fence > 0 for fence in fences)
        assert fences == sorted(set(fences))
    assert left_on(server) == []


@EITHER
def test_permits_pass_between_sessions(server, way):
    run(lambda: work(server, client_of(server, way), client_of(server, way)))


def test_permits_pass_by_messages_alone(server, monkeypatch):
    """Nobody looks, and nothing is renewed: what is missed would not come within the patience of a test."""
    monkeypatch.setattr("gatedcoro.shared._postgres.LOOKS", 0.0001)

    async def main():
        async with limit_on(server, lease=300) as one, limit_on(server, client=server.connector(), lease=300) as other:
            connections = []
            for holder, follower in [(one, other), (other, one)] * 3:
                async with holder:
                    waits = asyncio.create_task(follower.acquire())
                    await until(lambda: waiting(server) == 1)
                    connections.append(set(sessions(server)))
                await waits
                follower.release()
            assert connections == connections[:1] * 6

    run(main)


@EITHER
def test_a_client_that_gives_commands_little_time_waits_its_turn(server, way):
    """The request before is not over yet."""

    async def main():
        client = client_of(server, way, command_timeout=0.05)
        async with limit_on(server, client=client, lease=60) as limit:
            server.execute("SELECT pg_advisory_lock($1::bigint)", keys_of(NAME).mutex)
            waits = asyncio.create_task(limit.acquire())
            await until(server.connections)
            before = server.connections()
            await asyncio.sleep(0.3)
            assert not waits.done()
            server.execute("SELECT pg_advisory_unlock($1::bigint)", keys_of(NAME).mutex)
            await waits
            assert server.connections() == before
            limit.release()

    run(main)


def test_a_pool_and_a_function_share_a_limit(server):
    run(lambda: work(server, client_of(server, "pool"), client_of(server, "function")))


# --- Functions ------------------------------------------------------------------------------------------------------


class Connector:
    def __init__(self, connect):
        self.connect = connect

    async def __call__(self):
        return await self.connect()


class Subclass(asyncpg.Connection):
    pass


def test_any_function_that_connects_will_do(server):
    connect = server.connector()

    async def function():
        return await connect()

    made = [
        connect,
        function,
        lambda: connect(),
        Connector(connect),
        Connector(connect).__call__,
        server.connector(connection_class=Subclass),
        server.connector(statement_cache_size=0),
        server.connector(server_settings={"application_name": "mine", "search_path": "nowhere"}),
    ]

    async def main():
        for client in made:
            await work(server, client, connect)

    run(main)


def test_what_is_no_client_is_refused(server):
    async def main():
        connection = await server.connector()()
        pool = await server.client()
        coroutine = server.connector()()
        async with pool.acquire() as acquired:
            for wrong in (connection, acquired, coroutine, pool.acquire(), server.url, None, 5, asyncpg):
                with pytest.raises(TypeError, match="asyncpg"):
                    PostgresLimit(wrong, "name", 1)
        coroutine.close()
        await connection.close()
        await pool.close()

    run(main)


@pytest.mark.parametrize("arguments", [{"recover": False}, {"renew_in_thread": True}])
def test_what_needs_no_care_on_postgresql_is_no_argument(server, arguments):
    with pytest.raises(TypeError):
        PostgresLimit(server.connector(), "name", 1, **arguments)


async def is_refused(server, client, what, **options):
    """Everyone who asks is told, at once or within a lease, and nothing hangs or is left."""
    async with limit_on(server, 2, client=client, **options) as limit:
        for error in await asyncio.gather(limit.acquire(), limit.acquire(), return_exceptions=True):
            assert isinstance(error, GateUnavailable), error
            assert what in str(error) and "'name'" in str(error), error
        with pytest.raises(GateUnavailable):
            await limit.acquire(blocking=False)
        with pytest.raises(GateUnavailable):
            async with limit:
                pass
        stats = limit.stats()
        assert (stats.held, stats.waiting) == (0, 0)


@pytest.mark.parametrize(
    "gives, what",
    [("nothing", "not builtins.NoneType"), ("a pool", "not asyncpg.pool.Pool"), ("no awaitable", "'await'")],
)
def test_a_function_that_gives_something_else_is_refused(server, gives, what):
    pools = []

    async def nothing():
        pass

    async def a_pool():
        pools.append(await server.client())
        return pools[-1]

    def no_awaitable():
        return 5

    async def main():
        client = {"nothing": nothing, "a pool": a_pool, "no awaitable": no_awaitable}[gives]
        await is_refused(server, client, what, lease=1_000)
        for pool in pools:
            await pool.close()

    run(main)


def test_a_connection_that_is_in_a_transaction_is_refused(server):
    """Its locks for a request would last until the end of that."""

    async def connect():
        connection = await server.connector()()
        await connection.execute("BEGIN")
        return connection

    run(lambda: is_refused(server, connect, "not in a transaction", lease=1_000))


def test_an_error_of_the_function_is_behind_what_is_told(server):
    class Unknown(Exception):
        pass

    failures = [Unknown("no secret is to be had")] * 2

    async def connect():
        if failures:
            raise failures[0]
        return await server.connector()()

    async def main():
        async with limit_on(server, client=connect, lease=1) as limit:
            with pytest.raises(GateUnavailable, match="no secret is to be had") as told:
                await limit.acquire()
            assert told.value.__cause__ is failures[0]
            failures.clear()
            await all_permits(limit)

    run(main)


def test_a_function_that_does_not_come_back_is_a_server_out_of_reach(server):
    ended = []

    async def connect():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main():
        async with limit_on(server, client=connect, lease=1) as limit:
            with pytest.raises(GateUnavailable, match="out of reach"):
                await limit.acquire()
        assert ended

    run(main)


def test_a_connection_that_comes_too_late_is_closed(server):
    """The limit has been closed while the function connected, and heeds no cancellation."""
    made, go = [], asyncio.Event()

    async def connect():
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()
        made.append(await server.connector()())
        return made[-1]

    async def main():
        async with limit_on(server, client=connect, lease=1) as limit:
            waits = asyncio.create_task(limit.acquire())
            await asyncio.sleep(0.05)
            await limit.aclose()
            assert isinstance(await waits_for(waits), GateUnavailable)
        go.set()
        while any(task.get_name().startswith("limit") for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
        assert made and all(connection.is_closed() for connection in made)

    run(main)


async def waits_for(task):
    """The error that it ends with."""
    await asyncio.wait([task])
    return task.exception()


# --- Pools ----------------------------------------------------------------------------------------------------------


async def assert_clean(pool):
    """Nothing of a limit is left on any connection of the pool, and all of them are to be had."""
    assert pool.get_idle_size() == pool.get_size()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(pool.get_max_size()):
            connection = await stack.enter_async_context(pool.acquire())
            for query in (
                "SELECT * FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
                "SELECT pg_listening_channels()",
                "SELECT name, setting FROM pg_settings WHERE source = 'session'",
            ):
                assert await connection.fetch(query) == []
            assert not connection.is_in_transaction()


def test_a_closed_limit_leaves_the_pool_as_it_was(server):
    async def main():
        async with server.client(min_size=3, max_size=3) as pool:
            limit = PostgresLimit(pool, "name", 2, lease=1)
            other = PostgresLimit(pool, "name", 2, lease=1)
            async with limit:
                async with limit:
                    waits = asyncio.create_task(other.acquire())
                    await until(lambda: waiting(server) == 1)
                    assert await pool.fetchval("SELECT 5") == 5
                await waits
                other.release()
            await limit.aclose()
            await other.aclose()
            await assert_clean(pool)
            assert left_on(server) == []

    run(main)


def test_each_limit_takes_one_connection_and_gives_it_back_when_nothing_is_needed(server):
    async def main():
        async with server.client(min_size=3, max_size=3) as pool:
            limits = [PostgresLimit(pool, name, 2, lease=1) for name in "abc"]
            async with contextlib.AsyncExitStack() as stack:
                for number, limit in enumerate(limits):
                    await stack.enter_async_context(limit)
                    assert pool.get_idle_size() == 2 - number
            await until(lambda: left_on(server) == [])  # without aclose
            await assert_clean(pool)

    run(main)


def test_a_pool_can_be_closed_before_the_limit_is(server):
    """It waits for its connections: a limit that nobody needs gives its own back by itself."""

    async def main():
        async with server.client() as pool:
            limit = PostgresLimit(pool, "name", 2, lease=1)
            async with limit:
                pass
        await limit.aclose()

    run(main)


def test_a_pool_whose_connections_are_all_taken(server):
    async def main():
        async with server.client(max_size=1) as pool:
            async with pool.acquire():
                async with limit_of_pool(pool) as limit:
                    with pytest.raises(GateUnavailable, match="connections of the pool are in use"):
                        await limit.acquire()
            async with limit_of_pool(pool) as limit, limit_of_pool(pool) as other:
                async with limit:
                    with pytest.raises(GateUnavailable, match="connections of the pool are in use"):
                        await other.acquire()
                await limit.aclose()
                await all_permits(other)
            await assert_clean(pool)

    run(main)


@contextlib.asynccontextmanager
async def limit_of_pool(pool, name="name", limit=1, lease=1):
    """As limit_on; the pool stays open."""
    async with contextlib.aclosing(PostgresLimit(pool, name, limit, lease=lease)) as shared:
        yield shared


def test_a_connection_that_comes_free_in_time_is_taken(server):
    async def main():
        async with server.client(max_size=1) as pool, limit_of_pool(pool, lease=60) as limit:
            async with pool.acquire():
                waits = asyncio.create_task(limit.acquire())
                await asyncio.sleep(0.1)
                assert not waits.done()
            await waits
            limit.release()

    run(main)


def test_who_gives_up_waiting_for_a_connection_leaves_the_pool_whole(server):
    async def main():
        async with server.client(max_size=1) as pool:
            async with pool.acquire(), limit_of_pool(pool, lease=60) as limit:
                waits = asyncio.create_task(limit.acquire())
                await asyncio.sleep(0.05)
                waits.cancel()
                await asyncio.wait([waits])
            await assert_clean(pool)
            for turns in range(40):
                async with limit_of_pool(pool, lease=60) as limit:
                    waits = asyncio.create_task(limit.acquire())
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    if turns % 2:
                        waits.cancel()
                        await asyncio.wait([waits])
                    await limit.aclose()
                    await asyncio.wait([waits])
                await assert_clean(pool)

    run(main)


def test_a_pool_that_is_closed(server):
    async def main():
        pool = await server.client()
        await pool.close()
        async with limit_of_pool(pool, lease=1_000) as limit:
            with pytest.raises(GateUnavailable, match="pool is clos"):
                await limit.acquire()

    run(main)


def test_a_pool_that_was_not_opened(server):
    async def main():
        pool = server.client()
        async with limit_of_pool(pool, lease=1_000) as limit:
            try:
                await limit.acquire()
            except GateUnavailable as error:
                assert "pool is not initialized" in str(error)
            else:
                limit.release()
                await limit.aclose()
                await pool.close()

    run(main)


def test_a_pool_that_is_terminated_ends_items(server):
    async def main():
        pool = await server.client()
        async with limit_of_pool(pool, lease=1_000) as limit:
            entered = asyncio.Event()

            async def item():
                async with limit:
                    entered.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(item())
            await entered.wait()
            pool.terminate()
            assert isinstance(await waits_for(task), LeaseLost)
            with pytest.raises(GateUnavailable, match="pool is clos"):
                await limit.acquire()

    run(main)


def test_connections_of_the_pool_that_expire_are_not_missed(server):
    async def main():
        async with server.client(max_inactive_connection_lifetime=0.05) as pool, limit_of_pool(pool) as limit:
            async with limit:
                await pool.expire_connections()
                await asyncio.sleep(0.2)
                assert held(server) == 1
            await all_permits(limit)

    run(main)


def test_a_connection_that_reads_and_writes_numbers_in_its_own_way_will_do(server):
    """The pool's `init` has given it codecs."""

    async def init(connection):
        for name in ("int4", "int8", "bool", "numeric", "float8", "xid8", "oid"):
            await connection.set_type_codec(
                name, encoder=lambda value: str(value).lower(), decoder=lambda text: [text], schema="pg_catalog"
            )

    async def main():
        await work(server, server.client(init=init), server.client())

    run(main)


def test_a_pool_with_classes_of_its_own_will_do(server):
    class Record(asyncpg.Record):
        def __getattr__(self, name):
            return self[name]

    async def setup(connection):
        await connection.execute("SET search_path TO nowhere")

    async def reset(connection):
        await connection.reset()

    async def main():
        await work(server, server.client(record_class=Record), server.client(setup=setup, reset=reset))

    run(main)


def test_queries_and_listeners_of_the_user_are_not_disturbed(server):
    async def main():
        heard = asyncio.Queue()
        async with server.client(max_size=4) as pool, limit_of_pool(pool, limit=3) as limit:
            async with pool.acquire() as mine:
                await mine.add_listener("mine", lambda *what: heard.put_nowait(what[-1]))
                async with limit, pool.acquire() as other, other.transaction():
                    await other.execute("SELECT pg_notify('mine', 'hello')")
                await limit.aclose()
                assert await heard.get() == "hello"
                await mine.execute("SELECT pg_notify('mine', 'again')")
                assert await heard.get() == "again"
                await mine.reset()
                await mine.remove_listener("mine", heard.put_nowait)

    run(main)


# --- Names and databases --------------------------------------------------------------------------------------------

NAMES = [
    "'",
    '"',
    "a'b''c",
    "100%",
    "%s",
    "$1",
    "a b",
    "ü",
    "\N{SNOWMAN}" * 100,
    "x" * 10_000,
    "\0",
    "a\0b",
    "\n",
    "{}",
    ";--",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_a_name_of_its_own(server, name):
    async def main():
        async with limit_on(server, name=name, lease=100) as one, limit_on(server, name=name, lease=100) as other:
            async with limit_on(server, name=name + "2") as third, one, third:
                waits = asyncio.create_task(other.acquire())
                await until(lambda: waiting(server, name) == 1)
                assert held(server, name) == held(server, name + "2") == 1
            await waits
            other.release()

    run(main)


def test_databases_of_a_server_do_not_share(server):
    server.execute("CREATE DATABASE other")
    try:

        async def main():
            async with (
                limit_on(server, lease=100) as one,
                limit_on(server, client=server.client(database="other"), lease=100) as other,
                limit_on(server, client=server.connector(database="other"), lease=100) as third,
            ):
                async with one:
                    async with other:
                        waits = asyncio.create_task(third.acquire())
                        await until(lambda: third.stats().sessions == 2)
                        assert (held(server), waiting(server)) == (1, 0)
                        assert not waits.done()
                    await waits
                    third.release()
                    assert one.stats().sessions == 1

        run(main)
    finally:
        server.execute("DROP DATABASE other WITH (FORCE)")


def test_locks_of_the_user_are_not_the_limits(server):
    async def main():
        connection = await server.connector()()
        numbers = [0, 1, -1, 2**31 - 1, -(2**31)]
        for one in numbers:
            await connection.execute("SELECT pg_advisory_lock($1::bigint)", one)
            for other in numbers:
                await connection.execute("SELECT pg_advisory_lock($1::int, $2::int)", one, other)
        async with limit_on(server, 2) as one, limit_on(server, 2) as other:
            await all_permits(one, other)
            async with one, other:
                assert (held(server), len(sessions(server))) == (2, 2)
        await connection.close()

    run(main)


# --- Numbers --------------------------------------------------------------------------------------------------------


def test_a_limit_beyond_all_numbers_of_the_server(server):
    async def main():
        async with limit_on(server, 10**400) as one, limit_on(server, 2**31) as other, limit_on(server, 2**63) as third:
            for limit in (one, other, third):
                for _ in range(3):
                    await limit.acquire()
            assert held(server) >= 9
            for limit in (one, other, third):
                for _ in range(3):
                    limit.release()
            await until(lambda: held(server) == 0)

    run(main)


def test_thousands_of_permits_are_one_lock(server):
    async def main():
        async with limit_on(server, 5_000) as limit:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(5_000):
                    await stack.enter_async_context(limit)
                assert held(server) == 5_000
                assert len(left_on(server)) <= 5
                assert await limit.acquire(blocking=False) is None

    run(main)


def test_more_sessions_than_there_are_permits_go_on(server):
    async def main():
        async with contextlib.AsyncExitStack() as stack:
            limits = [await stack.enter_async_context(limit_on(server, 3, lease=100)) for _ in range(20)]
            inside = peak = 0

            async def item():
                nonlocal inside, peak
                inside += 1
                peak = max(peak, inside)
                await asyncio.sleep(0.001)
                inside -= 1

            await asyncio.gather(*(gatedcoro.gather(*(item() for _ in range(5)), limit=limit) for limit in limits))
            assert peak == 3
            await until(lambda: held(server) == 0 == waiting(server))

    run(main)


# --- Both -----------------------------------------------------------------------------------------------------------


def test_a_function_of_arguments_is_told_what_is_missing(server):
    async def connect(dsn):
        return await asyncpg.connect(dsn)

    run(lambda: is_refused(server, connect, "missing 1 required positional argument", lease=1))
    run(lambda: work(server, functools.partial(connect, server.url), server.connector()))
