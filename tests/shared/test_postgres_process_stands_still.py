"""A process that is stopped, or whose event loop is blocked, keeps its permits on PostgreSQL for two leases and longer.

Nobody else gets them meanwhile, so nobody is over the limit, and nothing is lost when it goes on. When it is late, those who wait have the
server end its connection.
"""

import pytest

from shared_kinds import numbers_of
from shared_processes import held, requests, sessions, waiting
from shared_servers import wait_until

pytestmark = pytest.mark.parametrize("kind", ["postgres"], indirect=True)


LEASE = 2.5


def start(server, workers, witness, lease=LEASE, **options):
    """A runs three items, all that there is room for, and another one of its own waits; so do three of B."""
    one, other = (workers(name, server, limit=3, lease=lease, **options) for name in "AB")
    one.run("a", "b", "c", "queued")
    witness.wait_for("entered", times=3)
    other.run("d", "e", "f")
    wait_until(lambda: waiting(server) == 1)  # A has all that its limit allows
    return one, other


def a_lease_passes(worker, witness, leases=1):
    """As the loop of a process has it that goes on; once in a test."""
    worker.order("nap", seconds=leases * LEASE)
    witness.wait_for("napped", worker=worker.name)


def goes_on(one, other, witness):
    assert witness.matching(event="entered", worker="B") == []
    one.end("a", "b", "c", "queued")
    other.end("d", "e", "f")
    witness.wait_for("ended", times=7)
    assert witness.peak == 3
    assert {note.event for note in witness.notes()} <= {
        *("entered", "left", "ended", "napped"),
        *("frozen", "thawed", "blocked", "unblocked"),
    }


@pytest.mark.parametrize("on_lost", ["cancel", "keep"])
def test_a_stopped_process_keeps_what_it_held(server, workers, witness, on_lost):
    one, other = start(server, workers, witness, on_lost=on_lost)
    one.freeze()
    a_lease_passes(other, witness)
    assert (held(server), len(sessions(server))) == (3, 2)
    one.thaw()
    goes_on(one, other, witness)


def test_a_blocked_event_loop_keeps_what_its_items_held(server, workers, witness):
    one, other = start(server, workers, witness)
    one.order("block")
    witness.wait_for("blocked")
    a_lease_passes(other, witness)
    one.unblock()
    witness.wait_for("unblocked")
    goes_on(one, other, witness)


def test_what_ends_in_the_turn_in_which_a_process_wakes_is_given_back(server, workers, witness):
    """Its items' sleeps are over as well when it is."""
    one, other = (workers(name, server, limit=3, lease=LEASE) for name in "AB")
    one.run("a", "b", "c", seconds=0.5)
    witness.wait_for("entered", times=3)
    other.run("d", "e", "f", seconds=0)
    wait_until(lambda: waiting(server) == 1)
    one.freeze()
    a_lease_passes(other, witness)
    one.thaw()
    witness.wait_for("ended", times=6)
    assert witness.peak == 3
    assert witness.matching(event="lost") == []


def test_a_stopped_process_that_is_killed_has_nothing_any_more(server, workers, witness):
    one, other = start(server, workers, witness)
    one.freeze()
    one.kill()
    other.end("d", "e", "f")
    witness.wait_for("ended", worker="B", times=3)


def test_a_process_whose_connection_ends_while_it_stands_still_is_told_when_it_wakes(server, workers, witness):
    """Until then its items run with those that have their permits now."""
    one, other = start(server, workers, witness)
    [backend] = numbers_of(server, "held")
    one.freeze()
    server.kill_connections([backend])
    witness.wait_for("entered", worker="B", times=3)
    one.thaw()
    lost = witness.wait_for("lost", worker="A", times=3)
    assert {note.item for note in lost} == {"a", "b", "c"}
    other.end("d", "e", "f")
    one.end("queued")
    witness.wait_for("ended", times=4)
    assert witness.peak == 6
    number, _ = witness.inside()[-1]
    assert number == 0


def test_a_stopped_process_that_is_late_loses_its_connection_to_those_who_wait(server, workers, witness):
    """More than the limit run then: three of A have not been told, and cannot be."""
    one, other = start(server, workers, witness, lease=1)
    one.freeze()
    witness.wait_for("entered", worker="B", times=3)
    assert witness.peak == 6
    one.thaw()
    lost = witness.wait_for("lost", worker="A", times=3)
    assert {note.item for note in lost} == {"a", "b", "c"}
    other.end("d", "e", "f")
    one.end("queued")
    witness.wait_for("ended", times=4)
    order = [(note.event, note.item) for note in witness.notes()]
    assert all(order.index(("entered", "queued")) > order.index(("left", item)) for item in "abc")


def test_nothing_is_lost_when_everything_has_stood_still(new_server, workers, witness):
    """As a machine that was suspended: whoever wakes first finds all others late, and the next look finds them again."""
    server = new_server()
    one, other = start(server, workers, witness, lease=2)
    third = workers("C", server, limit=3)
    one.freeze()
    other.freeze()
    with server.frozen():
        a_lease_passes(third, witness, 2)
    before = requests(server)
    other.thaw()
    wait_until(lambda: requests(server) > before + 1)
    one.thaw()
    goes_on(one, other, witness)


def test_a_stopped_process_that_is_late_loses_nothing_while_nobody_waits(server, workers, witness):
    one, other = workers("A", server, limit=3), workers("B", server, limit=3)
    one.run("a", "b")
    other.run("c")
    witness.wait_for("entered", times=3)
    one.freeze()
    a_lease_passes(other, witness, 2)
    assert (held(server), len(sessions(server))) == (3, 2)
    one.thaw()
    one.end("a", "b")
    other.end("c")
    witness.wait_for("ended", times=3)
    assert witness.peak == 3
    assert witness.matching(event="lost") == []


@pytest.mark.parametrize("limit", [1, 3])
def test_a_waiting_process_that_stands_still_is_passed_over(server, workers, witness, limit):
    """It has been called, and does not come: what would be its own is others', after a second."""
    one, other, third = (workers(name, server, limit=limit, lease=30) for name in "ABC")
    one.run(*"abc"[:limit])
    witness.wait_for("entered", times=limit)
    other.run("d", "e", "f")
    wait_until(lambda: waiting(server) == 1)
    third.run("g", "h", "i")
    wait_until(lambda: waiting(server) == 2)
    other.freeze()
    one.end(*"abc"[:limit])
    witness.wait_for("entered", worker="C", times=limit)
    other.thaw()
    third.end("g", "h", "i")
    witness.wait_for("entered", worker="B")
    other.end("d", "e", "f")
    witness.wait_for("ended", times=limit + 6)
    assert witness.peak == limit
    assert witness.matching(event="lost") == []


def test_a_process_that_wakes_with_messages_unread_asks_anew(server, workers, witness):
    """It was told of many things while it stood still."""
    one, other = workers("A", server, limit=2, lease=60), workers("B", server, limit=2, lease=60)
    third = workers("C", server, limit=2, lease=60)
    one.run("a")
    witness.wait_for("entered")
    one.freeze()
    other.run(*map(str, range(30)), seconds=0.001)
    third.run(*map(str, range(30)), seconds=0.001)
    witness.wait_for("ended", times=60)
    other.run("waits", "waits too")
    witness.wait_for("entered", worker="B", times=31)
    one.thaw()
    one.run("b", "c")
    wait_until(lambda: waiting(server) == 2)
    other.end("waits", "waits too")
    one.end("a", "b", "c")
    witness.wait_for("ended", times=65)
    assert witness.peak == 2
