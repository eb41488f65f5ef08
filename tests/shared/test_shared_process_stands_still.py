"""A process that is stopped, or whose event loop is blocked, for longer than a lease: what others get, and what it finds on waking."""

import pytest

from shared_processes import held, left_on, waiting
from shared_servers import wait_until

pytestmark = pytest.mark.parametrize("kind", ["redis"], indirect=True)


def start(server, workers, witness, **options):
    """A runs three items, all that there is room for, and another one of its own waits; so do two of B."""
    one, other = workers("A", server, limit=3, **options), workers("B", server, limit=3, lease=60)
    one.run("a", "b", "c", "queued")
    witness.wait_for("entered", times=3)
    other.run("d", "e", "f")
    wait_until(lambda: waiting(server) == 1)
    return one, other


def wakes(one, other, witness):
    """What it held is others' now: it is told at once, nothing starts before, and all goes on."""
    lost = witness.wait_for("lost", worker="A", times=3)
    assert {note.item for note in lost} == {"a", "b", "c"}
    other.end("d")
    witness.wait_for("entered", item="queued")
    notes = witness.notes()
    woken = next(index for index, note in enumerate(notes) if note.event in ("thawed", "unblocked"))
    first = next(index for index, note in enumerate(notes) if note.item == "queued")
    assert first > max(index for index, note in enumerate(notes) if note.event == "left" and note.item in "abc") > woken
    assert [number for number, _ in witness.inside()[first:]] and witness.inside()[first][0] <= 3
    one.end("queued")
    other.end("e", "f")
    witness.wait_for("ended", times=4)


def test_a_stopped_process_loses_what_it_held(server, workers, witness):
    one, other = start(server, workers, witness)
    one.freeze()
    witness.wait_for("entered", worker="B", times=3)
    # No lease prevents that: three of A have not been told, and cannot be.
    assert witness.peak == 6
    one.thaw()
    wakes(one, other, witness)


def test_a_blocked_event_loop_loses_what_its_items_held(server, workers, witness):
    one, other = start(server, workers, witness)
    one.order("block")
    witness.wait_for("entered", worker="B", times=3)
    assert witness.peak == 6
    one.unblock()
    wakes(one, other, witness)


def test_a_thread_renews_while_the_event_loop_is_blocked(server, workers, witness):
    one, other = start(server, workers, witness, renew_in_thread=True)
    one.order("block", seconds=3)
    witness.wait_for("unblocked")
    assert witness.matching(event="entered", worker="B") == []
    one.end("a", "b", "c", "queued")
    witness.wait_for("entered", worker="B", times=3)
    assert witness.peak == 3
    assert witness.matching(event="lost") == []
    other.end("d", "e", "f")
    witness.wait_for("ended", times=7)


def test_a_thread_does_not_renew_for_a_process_that_is_stopped(server, workers, witness):
    one, other = start(server, workers, witness, renew_in_thread=True)
    one.freeze()
    witness.wait_for("entered", worker="B", times=3)
    one.thaw()
    wakes(one, other, witness)


def test_a_thread_ends_with_its_session(server, workers, witness):
    one = workers("A", server, limit=3, renew_in_thread=True)
    one.run("a")
    witness.wait_for("entered")
    one.order("close")
    witness.wait_for("closed")
    one.order("threads")
    [threads] = witness.wait_for("threads")
    assert threads.value == "0"
    assert left_on(server) == []


def test_kept_items_of_a_process_that_wakes_run_on(server, workers, witness):
    one, other = start(server, workers, witness, on_lost="keep")
    one.freeze()
    witness.wait_for("entered", worker="B", times=3)
    one.thaw()
    other.end("d", "e")
    witness.wait_for("ended", times=2)
    witness.wait_for("entered", item="queued")
    one.end("a", "b", "c", "queued")
    other.end("f")
    witness.wait_for("ended", times=7)
    assert witness.matching(event="lost") == []
    wait_until(lambda: held(server) == 0)
