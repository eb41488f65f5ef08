"""The servers of these tests do what the tests rely on: they come, go, freeze, keep and forget as they are told."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import shared_servers


def value(server, key="key"):
    return server.administration.get(key)


def test_a_server_answers_from_when_it_is_given_out(new_server):
    server = new_server()
    assert server.administration.ping()
    assert server.administration.info("server")["tcp_port"] == server.port


def test_each_server_has_a_port_and_a_folder_of_its_own(new_server):
    one, other = new_server(), new_server()
    one.administration.set("key", "one")
    assert value(other) is None
    assert one.folder != other.folder and one.port != other.port


def test_a_server_is_the_program_that_was_asked_for(server, kind):
    assert ("valkey_version" in server.administration.info("server")) == (kind == "valkey")


@pytest.mark.parametrize("decode", [False, True])
def test_a_client_is_of_the_package_of_the_server(server, kind, decode):
    async def main():
        client = server.client(decode_responses=decode)
        await client.set("key", "value")
        found = await client.get("key")
        await client.aclose()
        return found, type(client).__module__.partition(".")[0]

    assert asyncio.run(main()) == ("value" if decode else b"value", kind)


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_server_that_was_ended_is_no_process_any_more(new_server, end, frozen):
    server = new_server()
    if frozen:
        server.freeze()
    getattr(server, end)()
    assert server.process.returncode == {"stop": 0, "kill": -signal.SIGKILL}[end]
    server.start()
    assert server.administration.ping()


def test_a_server_without_persistence_forgets(new_server):
    server = new_server()
    server.administration.set("key", "value")
    port = server.port
    server.restart()
    assert value(server) is None and server.port == port


def test_a_server_with_aof_keeps_everything(new_server):
    server = new_server(appendonly="yes")
    server.administration.set("key", "value")
    server.restart()
    assert value(server) == "value"
    server.restart(forget=True)
    assert value(server) is None


def test_a_server_begins_again_at_its_snapshot(new_server):
    server = new_server()
    server.administration.set("key", "old")
    server.snapshot()
    server.administration.set("key", "new")
    server.restart()
    assert value(server) == "old"
    server.restart(forget=True)
    assert value(server) is None


def test_a_frozen_server_answers_when_it_is_thawed(new_server):
    server = new_server()
    answered = threading.Event()

    def ask():
        server.administration.incr("key")
        answered.set()

    with server.frozen():
        thread = threading.Thread(target=ask)
        thread.start()
        assert not answered.wait(0.1)
    thread.join()
    assert value(server) == "1"


def test_a_server_has_the_options_that_it_was_given(new_server):
    server = new_server(
        requirepass="secret",
        maxmemory="5mb",
        maxmemory_policy="allkeys-lru",
        user=["reader on >pw ~* &* +@all -info", "other off"],
    )
    found = server.administration.config_get("*")
    names = ["maxmemory", "maxmemory-policy", "requirepass"]
    assert [found[name] for name in names] == [str(5 * 2**20), "allkeys-lru", "secret"]
    assert {"reader", "other"} < set(server.administration.acl_users())

    async def main():
        async with server.client() as client:
            await client.ping()
        async with server.client(username="reader", password="pw") as client:
            await client.ping()
            with pytest.raises(Exception, match="no permissions"):
                await client.info()

    asyncio.run(main())


def test_what_is_on_the_server_is_seen_from_outside(server):
    before = server.calls()
    for key in ("gate:{a}:1", "gate:{a}:2", "other"):
        server.administration.set(key, "")
    assert server.keys("gate:") == ["gate:{a}:1", "gate:{a}:2"]
    assert server.keys() == ["gate:{a}:1", "gate:{a}:2", "other"]
    assert server.calls()["set"] - before["set"] == 3
    first = server.now()
    assert first < server.now() < first + 60_000_000


def test_the_server_of_the_session_is_empty_for_each_test(server):
    assert server.keys() == []  # whichever test ran before


@pytest.mark.parametrize("kind_of_connection", ["normal", "pubsub"])
def test_connections_can_be_cut(server, kind_of_connection):
    async def main():
        async with server.client() as client, client.pubsub() as listener:
            await listener.subscribe("channel")
            await listener.parse_response()
            await client.ping()
            before = connections(server)
            return before, server.kill_connections(kind_of_connection), connections(server)

    assert asyncio.run(main()) == (["normal", "pubsub"], 1, ["pubsub" if kind_of_connection == "normal" else "normal"])


def connections(server):
    """The kinds of those of clients."""
    found = server.administration.client_list()
    kinds = ["pubsub" if one["sub"] == "1" else "normal" for one in found if one["user"] != server.KEEPER]
    return sorted(kinds)


# --- However it ends ------------------------------------------------------------------------------------------------

TEST_THAT_IS_INTERRUPTED = """
import os, signal, sys
import shared_servers

with shared_servers.Redis(sys.argv[1]) as server:
    print(server.process.pid, server.folder, flush=True)
    server.freeze()
    os.killpg(0, getattr(signal, sys.argv[2])) if sys.argv[2:] else 1 / 0  # as a terminal and `timeout` do
"""


def interrupted(kind, *how):
    """The process's end, and the server's process id and folder."""
    done = subprocess.run(
        [sys.executable, "-c", TEST_THAT_IS_INTERRUPTED, kind, *how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    pid, folder = done.stdout.split()
    return done, int(pid), Path(folder)


@pytest.mark.parametrize("how", [[], ["SIGINT"]], ids=["error", "SIGINT"])
def test_a_server_ends_with_the_test_that_fails(kind, how):
    done, pid, folder = interrupted(kind, *how)
    assert ("KeyboardInterrupt" if how else "ZeroDivisionError") in done.stderr
    assert not Path(f"/proc/{pid}").exists() and not folder.exists()


def is_gone(pid):
    """Whether it does not run; a process without a parent may stay listed, where nobody takes care of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_server_ends_when_the_process_of_the_tests_was_killed(kind, how):
    done, pid, folder = interrupted(kind, how)
    shutil.rmtree(folder)
    assert done.returncode == -getattr(signal, how)
    shared_servers.wait_until(lambda: is_gone(pid))


def test_a_server_that_cannot_start_says_why(kind):
    with pytest.raises(RuntimeError, match="no-such-option"):
        with shared_servers.Redis(kind, no_such_option="1"):
            pass


def test_a_port_that_somebody_else_has_is_not_taken_for_the_server(server, kind):
    other = shared_servers.Redis(kind)
    other.port = server.port
    with pytest.raises(RuntimeError, match="[Aa]ddress already in use"):
        with other:
            pass
    assert server.administration.ping()


# --- Several servers ------------------------------------------------------------------------------------------------


def test_a_failover_makes_the_replica_the_primary_and_the_client_follows(sentinel_group):
    import redis
    import valkey

    group = sentinel_group
    former, wanted = group.primary, group.replica

    async def main():
        async with group.client(decode_responses=True) as client:
            await client.set("key", "value")
            await client.wait(1, 10_000)
            assert await asyncio.to_thread(group.failover) is wanted
            for _ in range(2):  # an older redis-py says that its connection was closed
                with contextlib.suppress(redis.ConnectionError, valkey.ConnectionError):
                    return await client.get("key"), await client.set("key", "new")

    assert asyncio.run(main()) == ("value", True)
    assert (group.primary, group.replica) == (wanted, former)
    shared_servers.wait_until(lambda: value(former) == "new")


def test_a_killed_primary_is_replaced_and_follows_when_it_is_back(sentinel_group):
    group = sentinel_group
    former, wanted = group.primary, group.replica
    former.kill()
    group.wait_for_primary(wanted)
    wanted.administration.set("key", "value")
    former.start()
    shared_servers.wait_until(group.settled)
    assert group.replica is former
    shared_servers.wait_until(lambda: value(former) == "value")


def test_a_failover_loses_what_was_written_after_the_parting(sentinel_group):
    group = sentinel_group
    group.primary.administration.set("before", "")
    group.primary.administration.wait(1, 10_000)
    group.part()
    group.primary.administration.set("after", "")
    assert group.primary.keys() == ["after", "before"]
    assert group.failover().keys() == ["before"]
    assert group.failover().keys() == ["before"]  # the former primary again, and it is followed


def test_each_member_of_a_cluster_has_its_keys(cluster):
    names = [f"key{number}" for number in range(20)]

    async def main():
        async with cluster.client() as client:
            for name in names:
                await client.set(name, "")

    asyncio.run(main())
    for server in cluster.servers:
        assert server.keys() == sorted(name for name in names if cluster.server_of(name) is server) != []


def test_a_member_of_a_cluster_comes_back(cluster):
    server = cluster.server_of("key")
    server.administration.set("key", "value")
    server.restart()
    shared_servers.wait_until(cluster.settled)
    assert value(server) is None


# --- PostgreSQL -----------------------------------------------------------------------------------------------------

OF_POSTGRES = [shared_servers.Postgres.stop, shared_servers.Postgres.kill]


@pytest.mark.parametrize("end", OF_POSTGRES, ids=lambda end: end.__name__)
@pytest.mark.parametrize("frozen", [False, True])
def test_postgres_comes_back_with_what_was_committed(postgres, end, frozen):
    postgres.execute("CREATE TABLE IF NOT EXISTS ends (name text)")
    postgres.execute("INSERT INTO ends VALUES ($1)", f"{end.__name__} {frozen}")
    before = postgres.process.pid
    if frozen:
        postgres.freeze()
    end(postgres)
    assert not postgres.alive and not Path("/proc", str(before)).exists()
    postgres.start()
    assert f"{end.__name__} {frozen}" in [row["name"] for row in postgres.execute("SELECT name FROM ends")]


def test_connections_of_postgres_can_be_cut(postgres):
    import asyncpg

    async def main():
        connections = [await asyncpg.connect(postgres.url) for _ in range(2)]
        ended = asyncio.Queue()
        for connection in connections:
            connection.add_termination_listener(ended.put_nowait)
        cut = await asyncio.to_thread(postgres.kill_connections)
        return cut, {await ended.get(), await ended.get()} == set(connections)

    assert asyncio.run(main()) == (2, True)
    assert len(postgres.execute("SELECT 1")) == 1


def test_no_process_of_a_frozen_postgres_answers(postgres):
    import asyncpg

    async def main():
        connection = await asyncpg.connect(postgres.url)
        postgres.freeze()
        question = asyncio.create_task(connection.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([question], timeout=0.1)
        postgres.thaw()
        answer = await question
        await connection.close()
        return done, answer

    assert asyncio.run(main()) == (set(), 1)


# --- What is missing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*shared_servers.KINDS, "postgres", "pgbouncer"])
def test_what_is_missing_is_said(kind, monkeypatch):
    monkeypatch.setattr(shared_servers.servers, "redis_program", lambda *names: None)
    monkeypatch.setattr(shared_servers.servers, "postgres_folder", lambda: None)
    assert shared_servers.missing(kind).startswith("there is no ")


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(shared_servers.importlib.util, "find_spec", lambda name: None)
    assert shared_servers.without_packages("redis", "redis") == "not installed: redis"
