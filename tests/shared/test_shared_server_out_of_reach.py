"""A server that does not answer: items end before anyone else may run, waiters are told, and all goes on when it is back."""

import pytest

from shared_processes import held, listening, waiting
from shared_servers import KINDS, wait_until

OTHER_WAY = pytest.mark.parametrize("way", ["frozen", "killed"])


def away(server, way):
    server.freeze() if way == "frozen" else server.kill()


def back(server, way):
    server.thaw() if way == "frozen" else server.start()


@OTHER_WAY
def test_a_server_that_is_away_for_longer_than_a_lease_ends_items_and_fails_waiters(new_server, workers, witness, way):
    server = new_server()
    one, other = workers("A", server, limit=3), workers("B", server, limit=3)
    one.run("a", "b", "c", "queued")
    witness.wait_for("entered", times=3)
    other.run("d", "e")
    wait_until(lambda: waiting(server) == 1)
    away(server, way)
    lost = witness.wait_for("lost", worker="A", times=3)
    assert all("renewed" in note.value for note in lost)
    assert {note.item for note in lost} == {"a", "b", "c"}
    failed = witness.wait_for("unavailable", times=3)
    assert {note.item for note in failed} == {"d", "e", "queued"}
    assert all("out of reach" in note.value for note in failed)
    assert max(note.at for note in lost) <= min(note.at for note in failed)
    one.run("late")  # while it is away
    witness.wait_for("unavailable", item="late")
    back(server, way)
    other.run("f", "g", "h")
    witness.wait_for("entered", worker="B", times=3)
    one.run("i")
    wait_until(lambda: waiting(server) == 1)
    assert witness.peak == 3
    other.end("f", "g", "h")
    witness.wait_for("entered", item="i")
    one.end("i")
    witness.wait_for("ended", times=4)
    wait_until(lambda: held(server) == 0)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_items_whose_permits_are_lost_end_before_the_server_may_give_them_to_others(new_server, workers, witness):
    """A alone is cut off: the server goes on, and gives what it held to B."""
    server = new_server(user=["cut on >cut ~* &* +@all"])
    client = {"package": "redis", "port": server.port, "username": "cut", "password": "cut"}
    one, other = workers("A", server, limit=3, client=client), workers("B", server, limit=3, lease=60)
    one.run("a", "b", "c")
    witness.wait_for("entered", times=3)
    other.run("d", "e", "f")
    wait_until(lambda: waiting(server) == 1)
    server.administration.acl_setuser("cut", enabled=False)
    server.kill_connections("normal")
    server.kill_connections("pubsub")
    witness.wait_for("lost", times=3)
    witness.wait_for("entered", worker="B", times=3)
    assert witness.peak == 3
    other.end("d", "e", "f")


@OTHER_WAY
@pytest.mark.parametrize("kind", ["redis", "postgres"], indirect=True)
def test_kept_items_run_on_while_nothing_new_starts(new_server, workers, witness, way):
    server = new_server()
    one = workers("A", server, limit=2, on_lost="keep")
    one.run("a", "b", "queued")
    witness.wait_for("entered", times=2)
    away(server, way)
    witness.wait_for("unavailable", item="queued")
    one.end("a")
    witness.wait_for("ended", item="a")
    one.run("c")
    witness.wait_for("unavailable", item="c")
    back(server, way)
    one.run("d")
    witness.wait_for("entered", item="d")
    one.end("b", "d")
    witness.wait_for("ended", times=3)
    assert witness.matching(event="lost") == []
    assert witness.peak == 2


@pytest.mark.parametrize("kind", [*KINDS, "postgres"], indirect=True)
def test_a_short_pause_is_not_seen(new_server, workers, witness):
    server = new_server()
    one, other = workers("A", server, limit=2, lease=3), workers("B", server, limit=2, lease=3)
    one.run("a", "b")
    witness.wait_for("entered", times=2)
    other.run("c", "d")
    wait_until(lambda: waiting(server) == 1)
    with server.frozen():
        one.end("a")
        witness.wait_for("left", item="a")
    witness.wait_for("entered", worker="B")
    one.end("b")
    witness.wait_for("entered", worker="B", times=2)
    other.end("c", "d")
    witness.wait_for("ended", times=4)
    assert witness.peak == 2
    assert [note for note in witness.notes() if note.event in ("lost", "unavailable", "error")] == []


@pytest.mark.parametrize("connections", ["normal", "pubsub"])
def test_connections_that_are_cut_lose_nothing(server, workers, witness, connections):
    # With such leases nothing is renewed within the test's patience: what comes is not the backstop.
    one, other = workers("A", server, limit=2, lease=100), workers("B", server, limit=2, lease=100)
    one.run("a", "b")
    witness.wait_for("entered", times=2)
    other.run("c", "d")
    wait_until(lambda: waiting(server) == 1)
    for item in "ab":
        wait_until(lambda: listening(server) == 2)
        assert server.kill_connections(connections)
        one.end(item)
        witness.wait_for("entered", worker="B", times=1 + (item == "b"))
    one.run("e")
    wait_until(lambda: waiting(server) == 1)
    server.kill_connections(connections)
    other.end("c", "d")
    witness.wait_for("entered", item="e")
    one.end("e")
    witness.wait_for("ended", times=5)
    assert witness.peak == 2
    assert [note for note in witness.notes() if note.event in ("lost", "unavailable", "error")] == []


def test_connections_that_are_cut_all_the_time_lose_nothing(server, workers, witness):
    one, other = workers("A", server, limit=3, lease=2), workers("B", server, limit=3, lease=2)
    items = [f"{number}" for number in range(60)]
    one.run(*items, seconds=0.02)
    other.run(*items, seconds=0.02)

    def cut():
        server.kill_connections("normal")
        server.kill_connections("pubsub")
        return len(witness.matching(event="ended")) == 120

    wait_until(cut)
    assert witness.peak <= 3
    assert {note.event for note in witness.notes()} == {"entered", "left", "ended"}
