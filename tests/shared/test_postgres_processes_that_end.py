"""On PostgreSQL what a killed process held is to be had as soon as anyone looks: the end of its connection is the end of its permits.

The waiting processes have leases of minutes: what comes in a test does not come by their renewal.
"""

import pytest

from shared_kinds import arguments_of
from shared_processes import held, left_on, sessions, waiting
from shared_servers import wait_until

pytestmark = pytest.mark.parametrize("kind", ["postgres"], indirect=True)


def test_what_a_killed_process_held_is_others_at_once(server, workers, witness):
    one, other = workers("A", server, limit=2, lease=300), workers("B", server, limit=2, lease=300)
    one.run("a", "b", "queued")
    witness.wait_for("entered", times=2)
    other.run("c", "d", "e")
    wait_until(lambda: waiting(server) == 1)
    one.kill()
    witness.wait_for("entered", worker="B", times=2)
    assert held(server) == 2
    assert len(sessions(server)) == 1
    other.end("c", "d", "e")
    witness.wait_for("ended", times=3)
    # That A was killed is noted after it was.
    assert [note.item for note in witness.matching(event="entered")] == ["a", "b", "c", "d", "e"]


def test_whoever_waits_looks(server, workers, witness):
    """Those that wait share the looks: whichever looks first, all are served."""
    holder = workers("A", server, limit=1, lease=300)
    others = [workers(name, server, limit=1, lease=300) for name in "BCD"]
    holder.run("a")
    witness.wait_for("entered")
    for number, other in enumerate(others):
        other.run(f"first {number}", seconds=0)
    wait_until(lambda: waiting(server) == 3)
    holder.kill()
    witness.wait_for("ended", times=3)
    wait_until(lambda: held(server) == 0)


def test_of_a_waiting_process_that_is_killed_nothing_is_left(server, workers, witness):
    """What was kept for it goes to the next."""
    one, other, third = (workers(name, server, limit=1, lease=300) for name in "ABC")
    one.run("a", "again")
    witness.wait_for("entered")
    other.run("b")
    wait_until(lambda: waiting(server) == 1)
    third.run("c")
    wait_until(lambda: waiting(server) == 2)
    other.kill()
    wait_until(lambda: waiting(server) == 1)
    one.end("a", "again")
    third.end("c")
    witness.wait_for("ended", times=3)
    assert witness.peak == 1


def test_what_a_process_that_is_killed_was_about_to_take_goes_to_the_next(server, workers, witness):
    """It stands still while a permit comes free that is its own, and is killed then."""
    one, other, third = (workers(name, server, limit=1, lease=300) for name in "ABC")
    one.run("a")
    witness.wait_for("entered")
    other.run("b")
    wait_until(lambda: waiting(server) == 1)
    third.run("c")
    wait_until(lambda: waiting(server) == 2)
    other.freeze()
    one.end("a")
    witness.wait_for("ended", item="a")
    other.kill()
    witness.wait_for("entered", item="c")
    third.end("c")
    witness.wait_for("ended", times=2)


@pytest.mark.parametrize("pool", [None, {"min_size": 1, "max_size": 1}], ids=["function", "pool"])
def test_of_the_last_process_that_was_killed_nothing_is_left(server, workers, witness, pool):
    one = workers("A", server, limit=2, client={**arguments_of(server), "pool": pool})
    one.run("a", "b", "queued")
    witness.wait_for("entered", times=2)
    assert left_on(server)
    one.kill()
    wait_until(lambda: left_on(server) == [])


def test_processes_that_are_killed_all_the_time(server, workers, witness):
    """Of two that go on never more than the limit run at once, with those that are killed, and all is to be had at the end."""
    going_on = [workers(name, server, limit=3, lease=300) for name in "AB"]
    for worker in going_on:
        worker.run(*map(str, range(40)), seconds=0.02)
    for number in range(6):
        one = workers(f"killed {number}", server, limit=3, lease=300)
        one.run("a", "b", "c", "d")
        witness.wait_for("entered", worker=one.name)
        one.kill()
    for worker in going_on:
        witness.wait_for("ended", worker=worker.name, times=40)
    assert {note.event for note in witness.notes()} == {"entered", "left", "ended", "gone"}
    wait_until(lambda: held(server) == 0)


def test_a_process_that_uses_a_pool_gives_everything_back_without_aclose(server, workers, witness):
    pool = {"min_size": 1, "max_size": 2}
    client = {**arguments_of(server), "pool": pool}
    one, other = (workers(name, server, limit=2, lease=300, client=client) for name in "AB")
    one.run("a", "b", "queued")
    witness.wait_for("entered", times=2)
    other.run("c", "d")
    wait_until(lambda: waiting(server) == 1)
    one.go()
    witness.wait_for("entered", worker="B", times=2)
    assert {note.item for note in witness.matching(worker="A", event="left")} == {"a", "b"}
    assert witness.peak == 2
    other.order("close")
    [closed] = witness.wait_for("closed")
    assert closed.value == "True"  # the pool goes on
    witness.wait_for("lost", worker="B", times=2)
