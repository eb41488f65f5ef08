"""On PostgreSQL a session's permits are those of its connection: whatever ends that ends its items at once, and others may run then.

Leases are of a minute where nothing is to come by them, and short where connections end again and again: before each next one there is a
longer pause, up to a part of the lease.
"""

import asyncio
import contextlib
import time

import pytest

from gatedcoro.shared import GateUnavailable, LeaseLost
from relay import Relay
from shared_kinds import arguments_of, numbers_of
from shared_limits import all_permits, limit_on, run, until
from shared_processes import held, left_on, waiting
from shared_servers import wait_until

pytestmark = pytest.mark.parametrize("kind", ["postgres"], indirect=True)
AWAY = pytest.mark.parametrize("way", ["stop", "kill"])


def backends_of_holders(server):
    return [pid for pid, number in numbers_of(server, "held").items() if number]


def trouble(witness):
    return [note for note in witness.notes() if note.event in ("lost", "unavailable", "error")]


# --- One connection -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [None, {"min_size": 1, "max_size": 2}], ids=["function", "pool"])
def test_items_end_at_once_when_their_connection_does_and_the_process_goes_on(server, workers, witness, pool):
    client = {**arguments_of(server), "pool": pool}
    one, other = (workers(name, server, limit=3, lease=60, client=client) for name in "AB")
    one.run("a", "b", "c", "queued")
    witness.wait_for("entered", times=3)
    other.run("d", "e", "f")
    wait_until(lambda: waiting(server) == 1)
    assert server.kill_connections(backends_of_holders(server)) == 1
    lost = witness.wait_for("lost", worker="A", times=3)
    assert {note.item for note in lost} == {"a", "b", "c"}
    assert all("connection" in note.value for note in lost)
    witness.wait_for("entered", worker="B", times=2)
    # With another connection, "queued" waits beside those of B.
    other.end("d", "e", "f")
    witness.wait_for("entered", item="queued")
    one.end("queued")
    witness.wait_for("ended", times=4)
    assert witness.peak <= 3 + 3
    assert {note.event for note in witness.notes()} == {"entered", "left", "lost", "ended"}


def test_what_a_connection_held_is_nobodys_when_it_ends(server, workers, witness):
    """Nobody waits: the next to come gets all."""
    one, other = workers("A", server, limit=3, lease=60), workers("B", server, limit=3, lease=60)
    one.run("a", "b", "c")
    witness.wait_for("entered", times=3)
    server.kill_connections()
    witness.wait_for("lost", times=3)
    assert left_on(server) == []
    other.run("d", "e", "f")
    witness.wait_for("entered", worker="B", times=3)
    assert witness.peak == 3
    other.end("d", "e", "f")
    witness.wait_for("ended", times=3)


def test_who_waits_goes_on_waiting_with_another_connection(server, workers, witness):
    one, other = workers("A", server, limit=2, lease=60), workers("B", server, limit=2, lease=60)
    one.run("a", "b")
    witness.wait_for("entered", times=2)
    other.run("c", "d")
    wait_until(lambda: waiting(server) == 1)
    for _ in range(3):
        [backend] = numbers_of(server, "wants")
        server.kill_connections([backend])
        wait_until(lambda: numbers_of(server, "wants").keys() - {backend})
    one.end("a", "b")
    witness.wait_for("entered", worker="B", times=2)
    other.end("c", "d")
    witness.wait_for("ended", times=4)
    assert witness.peak == 2
    assert trouble(witness) == []


def test_kept_items_run_on_without_their_connection(server, workers, witness):
    one = workers("A", server, limit=2, lease=60, on_lost="keep")
    one.run("a", "b", "queued")
    witness.wait_for("entered", times=2)
    server.kill_connections()
    # They count no more: what waits enters beside them.
    witness.wait_for("entered", item="queued")
    one.end("a", "b", "queued")
    witness.wait_for("ended", times=3)
    assert trouble(witness) == []


def test_connections_that_are_ended_all_the_time(server, workers, witness):
    """Whatever is not lost ends well, and nothing is stuck. What is over the limit is being ended."""
    items = [f"{number}" for number in range(60)]
    started = [workers(name, server, limit=3, lease=2) for name in "AB"]
    for worker in started:
        worker.run(*items, seconds=0.02)

    def cut():
        if backends_of_holders(server):
            time.sleep(0.05)
            server.kill_connections()
        return len(witness.matching(event="ended")) + len(witness.matching(event="lost")) == 2 * len(items)

    wait_until(cut)
    assert {note.event for note in witness.notes()} <= {"entered", "left", "ended", "lost"}
    assert witness.matching(event="ended")
    for worker in started:
        worker.run("last", seconds=0)
    for worker in started:
        witness.wait_for("ended", worker=worker.name, item="last")
    wait_until(lambda: held(server) == 0 == waiting(server))


def test_a_request_that_is_cut_off_is_no_error(server):
    """The connection ends while a request is under way, at any of its steps."""

    async def main():
        async with limit_on(server, 2, lease=2) as limit:
            for turns in range(0, 60, 4):
                calls = [asyncio.create_task(enter(limit)) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                server.kill_connections()
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(result, LeaseLost) or result is None for result in results), results
            with contextlib.suppress(LeaseLost):  # the last end may come to be known only now
                await all_permits(limit)
            await all_permits(limit)

    async def enter(limit):
        async with limit:
            await asyncio.sleep(0.001)

    run(main)


# --- The server goes, and comes back --------------------------------------------------------------------------------


@AWAY
def test_a_server_that_is_restarted_ends_items_at_once_and_who_waits_goes_on(new_server, workers, witness, way):
    server = new_server()
    one, other = workers("A", server, limit=3, lease=60), workers("B", server, limit=3, lease=60)
    one.run("a", "b", "c", "queued")
    witness.wait_for("entered", times=3)
    other.run("d", "e")
    wait_until(lambda: waiting(server) == 1)
    getattr(server, way)()
    lost = witness.wait_for("lost", worker="A", times=3)
    assert {note.item for note in lost} == {"a", "b", "c"}
    server.start()
    witness.wait_for("entered", times=6)
    one.end("queued")
    other.end("d", "e")
    witness.wait_for("ended", times=3)
    assert witness.peak == 3
    assert {note.event for note in witness.notes()} == {"entered", "left", "lost", "ended"}


@AWAY
def test_a_server_that_is_away_for_longer_than_a_lease_fails_waiters(new_server, workers, witness, way):
    server = new_server()
    one, other = workers("A", server, limit=3, lease=2), workers("B", server, limit=3, lease=2)
    one.run("a", "b", "c", "queued")
    witness.wait_for("entered", times=3)
    other.run("d", "e")
    wait_until(lambda: waiting(server) == 1)
    getattr(server, way)()
    witness.wait_for("lost", worker="A", times=3)
    failed = witness.wait_for("unavailable", times=3)
    assert {note.item for note in failed} == {"d", "e", "queued"}
    assert all("out of reach" in note.value for note in failed)
    one.run("late")  # while it is away
    witness.wait_for("unavailable", item="late")
    server.start()
    other.run("f", "g", "h")
    witness.wait_for("entered", worker="B", times=3)
    one.run("i")
    wait_until(lambda: waiting(server) == 1)
    other.end("f", "g", "h")
    witness.wait_for("entered", item="i")
    one.end("i")
    witness.wait_for("ended", times=4)
    assert witness.peak == 3


def test_a_server_that_stands_still_for_longer_than_a_lease(new_server, workers, witness):
    """Items end; and when it goes on it gives nothing to anyone before it knows that those connections have ended."""
    server = new_server()
    one, other = workers("A", server, limit=3, lease=2), workers("B", server, limit=3, lease=2)
    one.run("a", "b", "c", "queued")
    witness.wait_for("entered", times=3)
    other.run("d", "e")
    wait_until(lambda: waiting(server) == 1)
    with server.frozen():
        lost = witness.wait_for("lost", worker="A", times=3)
        assert {note.item for note in lost} == {"a", "b", "c"}
        failed = witness.wait_for("unavailable", times=3)
        assert {note.item for note in failed} == {"d", "e", "queued"}
        one.run("late")
        witness.wait_for("unavailable", item="late")
    other.run("f", "g", "h")
    witness.wait_for("entered", worker="B", times=3)
    one.run("i")
    wait_until(lambda: waiting(server) == 1)
    other.end("f", "g", "h")
    witness.wait_for("entered", item="i")
    one.end("i")
    witness.wait_for("ended", times=4)
    assert witness.peak == 3
    wait_until(lambda: left_on(server) == [])


def test_a_server_that_is_started_later_than_the_client(new_server):
    server = new_server()

    async def main():
        server.kill()
        async with limit_on(server, 2, client=server.connector(), lease=60) as limit:
            waits = [asyncio.create_task(limit.acquire()) for _ in range(2)]
            with pytest.raises(GateUnavailable, match="out of reach"):
                await limit.acquire(blocking=False)
            await asyncio.to_thread(server.start)
            await asyncio.gather(*waits)
            for _ in waits:
                limit.release()
            await all_permits(limit)

    run(main)


def test_a_limit_is_closed_without_the_server(new_server):
    server = new_server()

    async def main():
        for away, back in ((server.freeze, server.thaw), (server.kill, server.start)):
            async with limit_on(server, client=server.connector(), lease=60) as limit:
                entered = asyncio.Event()

                async def item():
                    async with limit:
                        entered.set()
                        await asyncio.Event().wait()

                task = asyncio.create_task(item())
                await entered.wait()
                waits = [asyncio.create_task(limit.acquire()) for _ in range(3)]
                await asyncio.sleep(0.05)
                away()
                await limit.aclose()
                [lost, *closed] = await asyncio.gather(task, *waits, return_exceptions=True)
                assert isinstance(lost, LeaseLost)
                assert all(isinstance(error, GateUnavailable) for error in closed)
            await asyncio.to_thread(back)
            await until(lambda: left_on(server) == [])

    run(main)


# --- The network ----------------------------------------------------------------------------------------------------


def test_who_is_cut_off_ends_its_items_within_a_lease(server, workers, witness):
    """Nobody is told, as where a cable is drawn: the server goes on to count what is held until it has given up the connection."""
    with Relay(server.address) as relay:
        client = {**arguments_of(server), "host": "127.0.0.1", "port": relay.port}
        one, other = workers("A", server, limit=3, client=client), workers("B", server, limit=3)
        one.run("a", "b", "c", "queued")
        witness.wait_for("entered", times=3)
        other.run("d", "e", "f")
        wait_until(lambda: waiting(server) == 1)
        relay.hold()
        lost = witness.wait_for("lost", worker="A", times=3)
        assert {note.item for note in lost} == {"a", "b", "c"}
        witness.wait_for("unavailable", item="queued")
        assert held(server) == 3
        assert witness.matching(event="entered", worker="B") == []
        relay.let_go()
        witness.wait_for("entered", worker="B", times=3)
        assert witness.peak == 3
        one.run("g")
        other.end("d", "e", "f")
        witness.wait_for("entered", item="g")
        one.end("g")
        witness.wait_for("ended", times=4)


def test_a_short_cut_is_not_seen(server, workers, witness):
    with Relay(server.address) as relay:
        client = {**arguments_of(server), "host": "127.0.0.1", "port": relay.port}
        one, other = (workers(name, server, limit=2, lease=6, client=client) for name in "AB")
        one.run("a", "b")
        witness.wait_for("entered", times=2)
        other.run("c", "d")
        wait_until(lambda: waiting(server) == 1)
        relay.hold()
        one.end("a")
        witness.wait_for("left", item="a")
        relay.let_go()
        witness.wait_for("entered", worker="B")
        one.end("b")
        witness.wait_for("entered", worker="B", times=2)
        other.end("c", "d")
        witness.wait_for("ended", times=4)
        assert witness.peak == 2
        assert trouble(witness) == []


def test_the_server_has_given_up_who_is_cut_off_after_two_leases(server):
    """By keepalives, and by a bound for what was sent: nobody draws a cable here, and waits."""
    made = []

    async def connect():
        made.append(await server.connector()())
        return made[-1]

    async def main():
        async with limit_on(server, client=connect, lease=30) as limit, limit:
            [connection] = made
            idle, interval, count, bound = [
                int(await connection.fetchval(f"SELECT setting FROM pg_settings WHERE name = 'tcp_{name}'"))
                for name in ("keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout")
            ]
            assert 30 <= idle + interval * count <= 60
            assert 30_000 <= bound <= 60_000

    run(main)
