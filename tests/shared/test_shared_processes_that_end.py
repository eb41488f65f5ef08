"""What a process has held is to be had again when it ends: at once if it can say so, else when its lease ends."""

import signal

import pytest

from shared_processes import held, sessions, waiting
from shared_servers import wait_until


def test_what_a_killed_process_held_is_free_when_its_lease_ends(server, workers, witness):
    one, other = workers("A", server, limit=2, lease=1), workers("B", server, limit=2, lease=60)
    one.run("a", "b")
    witness.wait_for("entered", times=2)
    other.run("c", "d", "e")
    wait_until(lambda: waiting(server) == 1)
    one.kill()
    [(_, ends), *_] = sorted(sessions(server).items(), key=lambda entry: entry[1])
    before = server.calls()["evalsha"]
    # B renews its lease every 20 seconds: it knows when to look, and looks once.
    witness.wait_for("entered", worker="B", times=2, patience=15)
    assert server.now() >= ends * 1_000
    assert server.calls()["evalsha"] - before <= 3
    assert witness.peak == 2
    assert held(server) == 2
    other.end("c", "d", "e")


@pytest.mark.parametrize("way", ["alone", "gather"])
def test_items_longer_than_the_lease_keep_their_permits(server, workers, witness, way):
    one, other = workers("A", server, limit=2), workers("B", server, limit=2)
    one.run("a", "b", seconds=2.5, way=way)
    witness.wait_for("entered", times=2)
    other.run("c", "d")
    witness.wait_for("entered", worker="B", times=2)
    assert [note.item for note in witness.matching(event="left")] == ["a", "b"]
    assert witness.peak == 2
    other.end("c", "d")
    witness.wait_for("ended", times=4)


def test_a_closed_limit_gives_everything_back_at_once(server, workers, witness):
    # With such leases nothing comes back by itself before the test's patience ends.
    one, other = workers("A", server, limit=3, lease=120), workers("B", server, limit=3, lease=120)
    one.run("a", "b", "c", "queued")
    witness.wait_for("entered", times=3)
    other.run("d", "e", "f")
    wait_until(lambda: waiting(server) == 1)
    one.order("close")
    witness.wait_for("lost", worker="A", times=3)
    [queued] = witness.wait_for("unavailable", worker="A")
    assert "closed" in queued.value
    witness.wait_for("entered", worker="B", times=3)
    [closed] = witness.wait_for("closed")
    assert closed.value == "True"  # the client goes on
    assert witness.peak == 3
    one.run("late")
    witness.wait_for("unavailable", item="late")
    other.end("d", "e", "f")
    witness.wait_for("ended", times=3)
    other.order("close")
    witness.wait_for("closed", worker="B")
    assert server.keys() == []


def test_a_limit_that_is_closed_in_the_middle_of_a_gather_ends_its_items(server, workers, witness):
    one = workers("A", server, limit=2, lease=120)
    one.run("a", "b", "c", way="gather")
    witness.wait_for("entered", times=2)
    one.order("close")
    assert {note.item for note in witness.wait_for("lost", times=2)} == {"a", "b"}
    assert {note.item for note in witness.wait_for("unavailable")} == {"c"}
    witness.wait_for("closed")
    assert server.keys() == []


def test_asyncio_run_gives_everything_back_without_aclose(server, workers, witness):
    one, other = workers("A", server, limit=2, lease=120), workers("B", server, limit=2, lease=120)
    one.run("a", "b", "queued")
    witness.wait_for("entered", times=2)
    other.run("c", "d")
    wait_until(lambda: waiting(server) == 1)
    one.go()
    witness.wait_for("entered", worker="B", times=2)
    assert {note.item for note in witness.matching(worker="A", event="left")} == {"a", "b"}
    assert witness.peak == 2
    other.end("c", "d")
    witness.wait_for("ended", times=2)
    other.go()
    assert server.keys() == []


def test_ctrl_c_gives_everything_back(server, workers, witness):
    one, other = workers("A", server, limit=2, lease=120), workers("B", server, limit=2, lease=120)
    one.run("a", "b", "queued")
    witness.wait_for("entered", times=2)
    other.run("c", "d")
    wait_until(lambda: waiting(server) == 1)
    one.process.send_signal(signal.SIGINT)
    witness.wait_for("entered", worker="B", times=2)
    assert witness.peak == 2
    assert "KeyboardInterrupt" in one.process.wait()
    other.end("c", "d")


def test_permits_that_nobody_uses_go_back_and_the_name_is_forgotten(server, workers, witness):
    one, other = workers("A", server, limit=2, lease=120), workers("B", server, limit=2, lease=120)
    one.run("a", "b", seconds=0)
    witness.wait_for("ended", times=2)
    wait_until(lambda: held(server) == 0)
    other.run("c", "d")
    witness.wait_for("entered", worker="B", times=2)
    other.end("c", "d")


def test_a_process_that_needs_nothing_leaves_no_key(server, workers, witness):
    one = workers("A", server, limit=2, lease=1)
    one.run("a", "b", seconds=0)
    witness.wait_for("ended", times=2)
    wait_until(lambda: server.keys() == [])
    one.run("c", seconds=0)
    witness.wait_for("ended", times=3)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_of_the_last_process_that_was_killed_no_key_is_left(server, workers, witness):
    one = workers("A", server)
    one.run("a")
    witness.wait_for("entered")
    one.kill()
    wait_until(lambda: server.keys() == [])
