"""What a process has held is to be had again at once when it ends, if it can say so."""

import signal

import pytest

from shared_processes import held, left_on, waiting
from shared_servers import KINDS, wait_until

pytestmark = pytest.mark.parametrize("kind", [*KINDS, "postgres"], indirect=True)


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
    assert left_on(server) == []


def test_a_limit_that_is_closed_in_the_middle_of_a_gather_ends_its_items(server, workers, witness):
    one = workers("A", server, limit=2, lease=120)
    one.run("a", "b", "c", way="gather")
    witness.wait_for("entered", times=2)
    one.order("close")
    assert {note.item for note in witness.wait_for("lost", times=2)} == {"a", "b"}
    assert {note.item for note in witness.wait_for("unavailable")} == {"c"}
    witness.wait_for("closed")
    assert left_on(server) == []


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
    assert left_on(server) == []


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
    wait_until(lambda: left_on(server) == [])
    one.run("c", seconds=0)
    witness.wait_for("ended", times=3)
