"""A PostgreSQL that refuses says so at the first use: an error that tells what would be right, and nothing hangs."""

import asyncio
import contextlib

import asyncpg
import pytest

import shared_servers
from gatedcoro.shared import GateUnavailable, LeaseLost
from shared_kinds import NAME, held, keys_of, sessions, waiting
from shared_limits import all_permits, limit_on, run, until
from shared_servers import lasting_port, wait_until

pytestmark = pytest.mark.parametrize("kind", ["postgres"], indirect=True)
EITHER = pytest.mark.parametrize("way", ["pool", "function"])

# With such a lease only what fails for good is told within the patience of a test.
LEASE = 1_000


async def refused(client, what, lease=LEASE):
    """The first use fails with an error that says what would be right, for all who wait; so does each later one."""
    async with limit_on(None, 2, client=client, lease=lease) as limit:
        for error in await asyncio.gather(limit.acquire(), limit.acquire(), return_exceptions=True):
            assert isinstance(error, GateUnavailable), error
            assert what in str(error) and "'name'" in str(error), error
        with pytest.raises(GateUnavailable):
            await limit.acquire(blocking=False)
        with pytest.raises(GateUnavailable):
            async with asyncio.timeout(60):
                async with limit:
                    pass
        stats = limit.stats()
        assert (stats.held, stats.waiting) == (0, 0)


async def right(client, **options):
    async with limit_on(None, 2, client=client, **options) as limit:
        await all_permits(limit)


def client_of(server, way, **arguments):
    return server.client(**arguments) if way == "pool" else server.connector(**arguments)


@contextlib.contextmanager
def user_on(server, name, options=""):
    """A user of the test's own."""
    server.execute(f"CREATE ROLE {name} LOGIN {options}")
    try:
        yield name
    finally:
        server.clean()
        server.execute(f"DROP OWNED BY {name}")
        server.execute(f"DROP ROLE {name}")


# --- Who may connect ------------------------------------------------------------------------------------------------


@EITHER
def test_a_password_that_is_missing_wrong_or_right(new_server, way):
    server = new_server()
    server.execute(f"ALTER ROLE {server.ORDINARY} PASSWORD 'secret'")
    server.ask_for_passwords(server.ORDINARY)
    run(lambda: refused(client_of(server, way, password="wrong"), "the user and the password"))
    run(lambda: right(client_of(server, way, password="secret")))


@EITHER
def test_a_user_or_a_database_that_is_not_there(server, way):
    run(lambda: refused(client_of(server, way, user="nobody"), "the user and the password"))
    run(lambda: refused(client_of(server, way, database="nothing"), "a database that the server has"))


@EITHER
def test_a_user_who_has_as_many_connections_as_it_may(server, way):
    """That may change."""
    with user_on(server, "rare", "CONNECTION LIMIT 1"):

        async def main():
            connection = await server.connector(user="rare")()
            async with limit_on(server, 2, client=client_of(server, way, user="rare"), lease=3) as limit:
                with pytest.raises(GateUnavailable, match="too many connections"):
                    await limit.acquire()
                await connection.close()
                await until(lambda: not server.connections())
                await all_permits(limit)

        run(main)


def test_a_server_that_has_as_many_connections_as_it_may(new_server):
    server = new_server(max_connections=6, superuser_reserved_connections=3)

    async def main():
        connections = [await server.connector()() for _ in range(6 - 3 - 1)]  # administration has one
        async with limit_on(server, 2, client=server.connector(), lease=60) as limit:
            waits = asyncio.create_task(limit.acquire())
            await asyncio.sleep(0.1)
            with pytest.raises(GateUnavailable, match="connection"):
                await limit.acquire(blocking=False)
            for connection in connections:
                await connection.close()
            await waits
            limit.release()
            await all_permits(limit)

    run(main)


def test_a_user_who_may_not_connect_any_more(server):
    """What it holds stays its own as long as the connection does; then it is told."""
    with user_on(server, "former"):

        async def main():
            async with limit_on(server, client=server.connector(user="former"), lease=1) as limit:
                entered = asyncio.Event()

                async def item():
                    async with limit:
                        entered.set()
                        await asyncio.sleep(LEASE)

                task = asyncio.create_task(item())
                await entered.wait()
                waits = asyncio.create_task(limit.acquire())
                await asyncio.sleep(0)
                server.execute("ALTER ROLE former NOLOGIN")
                assert held(server) == 1
                server.kill_connections()
                with pytest.raises(LeaseLost):
                    await task
                with pytest.raises(GateUnavailable, match="the user and the password"):
                    await waits
                server.execute("ALTER ROLE former LOGIN")
                await all_permits(limit)

        run(main)


# --- What the server is ---------------------------------------------------------------------------------------------


def test_a_standby_until_it_is_promoted(new_server):
    server = new_server()
    server.become_standby()
    run(lambda: refused(server.connector(), "must reach the primary"))
    run(lambda: refused(server.client(), "must reach the primary"))
    server.execute("SELECT pg_promote()")
    run(lambda: right(server.connector()))


def test_a_port_where_nobody_is(server):
    run(lambda: refused(server.connector(port=lasting_port(), host="127.0.0.1"), "out of reach", lease=1))


def test_a_port_where_somebody_else_is(server):
    """Who does not speak the protocol, and who says nothing."""

    async def main():
        async def say(reader, writer):
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async def be_silent(reader, writer):
            await reader.read()
            writer.close()

        for answer in (say, be_silent):
            other = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = other.sockets[0].getsockname()[1]
            await refused(server.connector(host="127.0.0.1", port=port), "out of reach", lease=1)
            other.close()
            await other.wait_closed()

    run(main)


@pytest.mark.parametrize("mode", ["session", "transaction"])
@EITHER
def test_pgbouncer_between(server, mode, way):
    if reason := shared_servers.missing("pgbouncer"):
        pytest.skip(reason)
    with shared_servers.PgBouncer(server, mode) as pooler:
        for arguments in ({}, {"statement_cache_size": 0}):

            async def main():
                connect = pooler.connector(**arguments)
                if way == "function":
                    await refused(connect, "PgBouncer")
                else:
                    pool = server.client(host="127.0.0.1", port=pooler.port, **arguments)
                    await refused(pool, "PgBouncer")

            run(main)


# --- What a user may do ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_rights(server, what):
    """A database in which nobody has these rights."""
    server.execute("CREATE DATABASE strict")
    try:

        async def revoke():
            connection = await server.connector(user=server.KEEPER, database="strict")()
            await connection.execute(f"REVOKE {what} FROM PUBLIC")
            await connection.close()

        asyncio.run(revoke())
        yield "strict"
    finally:
        server.execute("DROP DATABASE strict WITH (FORCE)")


@pytest.mark.parametrize(
    "what",
    [
        "SELECT ON pg_locks",
        "EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint)",
        "EXECUTE ON FUNCTION pg_advisory_lock_shared(int, int)",
        "EXECUTE ON FUNCTION pg_notify",
    ],
)
def test_a_user_without_rights(server, what):
    with without_rights(server, what) as database:
        run(lambda: refused(server.connector(database=database), "must be allowed to"))


def test_a_user_who_may_do_nothing_else(server):
    """No schema of its own, no tables, no temporary ones; what is in pg_catalog is enough."""
    with without_rights(server, "ALL ON SCHEMA public") as database:

        async def revoke():
            connection = await server.connector(user=server.KEEPER, database=database)()
            await connection.execute("REVOKE TEMPORARY ON DATABASE strict FROM PUBLIC")
            await connection.close()

        asyncio.run(revoke())
        run(lambda: right(server.connector(database=database)))


# --- Settings -------------------------------------------------------------------------------------------------------

SETTINGS = {
    "times": {
        "statement_timeout": "30ms",
        "lock_timeout": "30ms",
        "idle_session_timeout": "300ms",
        "idle_in_transaction_session_timeout": "30ms",
        "transaction_timeout": "30ms",
    },
    "transactions": {
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "default_transaction_deferrable": "on",
    },
    "texts": {
        "search_path": "mine",
        "standard_conforming_strings": "off",
        "client_min_messages": "debug5",
        "datestyle": "SQL, DMY",
        "timezone": "Asia/Kathmandu",
        "work_mem": "64kB",
    },
    "plans without loops": {"enable_nestloop": "off", "enable_material": "off", "plan_cache_mode": "force_custom_plan"},
    "plans without hashes": {"enable_hashjoin": "off", "enable_hashagg": "off", "enable_sort": "off"},
    "plans at no cost": {"seq_page_cost": "0", "cpu_tuple_cost": "0", "cpu_operator_cost": "0"},
    "plans as written": {"from_collapse_limit": "1", "join_collapse_limit": "1"},
    "plans with processes": {"force_parallel_mode": "on", "debug_parallel_query": "on", "jit_above_cost": "0"},
}


@pytest.mark.parametrize("what", SETTINGS)
def test_what_is_set_for_a_user_does_no_harm(server, what):
    """Two sessions share, items are longer than each of the times, and the statement waits for longer than that, too."""
    with user_on(server, "peculiar"):
        for setting, value in SETTINGS[what].items():
            if server.execute("SELECT FROM pg_settings WHERE name = $1", setting):  # in this version
                server.execute(f"ALTER ROLE peculiar SET {setting} = '{value}'")

        async def main():
            async with (
                limit_on(server, 2, client=server.connector(user="peculiar"), lease=60) as one,
                limit_on(server, 2, client=server.connector(user="peculiar"), lease=60) as other,
            ):
                async with one, one:
                    waits = asyncio.create_task(other.acquire())
                    await until(lambda: waiting(server) == 1)
                    await asyncio.sleep(0.5)
                    assert (held(server), waits.done()) == (2, False)
                await waits
                before = sessions(server)
                with mutex_taken(server):
                    again = asyncio.create_task(other.acquire())
                    await asyncio.sleep(0.1)
                    assert not again.done()
                await again
                assert (
                    sessions(server).keys() <= before.keys()
                )  # no other connections; one that is idle for long may be closed
                other.release()
                other.release()
                await all_permits(one)

        run(main)


def test_transactions_of_others_are_not_waited_for(server):
    """As one that is serializable, deferrable and read-only is: it begins when no other is left that writes."""
    with user_on(server, "deferring"):
        for kind, value in (("isolation", "serializable"), ("read_only", "on"), ("deferrable", "on")):
            server.execute(f"ALTER ROLE deferring SET default_transaction_{kind} = '{value}'")

        async def main():
            connection = await server.connector(user=server.KEEPER)()
            async with connection.transaction(isolation="serializable"):
                await connection.execute("CREATE TABLE of_others (number int)")
                await right(server.connector(user="deferring"), lease=60)
                await connection.execute("DROP TABLE of_others")
            await connection.close()

        run(main)


@contextlib.contextmanager
def mutex_taken(server):
    """Another session is in the middle of a request."""
    server.execute("SELECT pg_advisory_lock($1::bigint)", keys_of(NAME).mutex)
    try:
        yield
    finally:
        server.execute("SELECT pg_advisory_unlock($1::bigint)", keys_of(NAME).mutex)


def test_views_and_functions_of_the_users_schema_are_not_taken_for_the_servers(server):
    with user_on(server, "mischievous"):
        server.execute("CREATE SCHEMA mischievous AUTHORIZATION mischievous")
        server.execute("CREATE VIEW mischievous.pg_locks AS SELECT 1 AS pid")
        server.execute("GRANT SELECT ON mischievous.pg_locks TO mischievous")
        for name in ("pg_backend_pid()", "pg_advisory_xact_lock(bigint)", "concat_ws(text, text)", "txid_current()"):
            server.execute(f"CREATE FUNCTION mischievous.{name} RETURNS int LANGUAGE sql AS 'SELECT 1 / 0'")
        server.execute("ALTER ROLE mischievous SET search_path = mischievous, pg_catalog")
        try:
            run(lambda: right(server.connector(user="mischievous")))
        finally:
            server.execute("DROP SCHEMA mischievous CASCADE")


def test_what_is_refused_for_less_than_a_lease_costs_nothing(server):
    """A session that only renews changes nothing, so nothing can have been broken off."""

    async def main():
        with user_on(server, "renewing") as user:
            async with limit_on(server, 1, client=server.connector(user=user), lease=6) as limit:
                await limit.acquire()
                session = limit._session
                server.execute("REVOKE SELECT ON pg_locks FROM PUBLIC")
                try:
                    await until(lambda: limit._unreachable_since is not None)
                finally:
                    server.execute("GRANT SELECT ON pg_locks TO PUBLIC")
                await until(lambda: limit._unreachable_since is None)
                assert limit._session is session and limit.stats().held == 1
                limit.release()

    run(main)


# --- The table of locks ---------------------------------------------------------------------------------------------


class Filler:
    """A connection that takes all the locks that the server has room for."""

    async def open(self, server):
        self.connection = await server.connector()()
        return self

    async def fill(self):
        with pytest.raises(asyncpg.OutOfMemoryError):
            await self.connection.execute("SELECT pg_advisory_lock(n) FROM generate_series(1, 1000000) AS n")

    async def free(self):
        await self.connection.execute("SELECT pg_advisory_unlock_all()")

    async def close(self):
        await self.connection.close()


def few_locks(new_server):
    return new_server(max_locks_per_transaction=10, max_connections=10)


def test_a_table_of_locks_that_is_full(new_server):
    server = few_locks(new_server)

    async def main():
        filler = await Filler().open(server)
        await filler.fill()
        await refused(server.connector(), "max_locks_per_transaction")
        await filler.free()
        await right(server.connector())
        await filler.close()

    run(main)


def test_a_table_of_locks_that_fills_up_while_items_run(new_server):
    """They keep their permits as long as nothing has to be said; whatever is lost is told, and all is well when there is room again."""
    server = few_locks(new_server)

    async def main():
        filler = await Filler().open(server)
        async with limit_on(server, 3, client=server.connector(), lease=1) as limit:
            ended = asyncio.Event()
            entered = asyncio.Event()

            async def item():
                async with limit:
                    entered.set()
                    await ended.wait()

            task = asyncio.create_task(item())
            await entered.wait()
            await filler.fill()
            others = await asyncio.gather(*(limit.acquire() for _ in range(3)), return_exceptions=True)
            for _ in [one for one in others if isinstance(one, int)]:
                limit.release()
            assert all(isinstance(one, int | GateUnavailable) for one in others), others
            ended.set()
            [result] = await asyncio.gather(task, return_exceptions=True)
            assert result is None or isinstance(result, LeaseLost)
            await filler.free()
            await all_permits(limit)
        await filler.close()

    run(main)
    wait_until(lambda: not server.connections())
