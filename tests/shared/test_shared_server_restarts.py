"""A server that comes back without what it knew, or with less, is told by those who live: never more than the limit run."""

import time

import pytest

from shared_processes import KEYS, held, sessions, waiting
from shared_servers import wait_until


def up(server):
    """Seconds since its start, as INFO has it."""
    return server.administration.info("server")["uptime_in_seconds"]


def run_on(server, workers, witness, **options):
    """A process with five items, all that the limit has room for."""
    worker = workers("A", server, limit=5, **options)
    worker.run(*"abcde")
    witness.wait_for("entered", times=5)
    return worker


def nobody_was_told_of_a_loss(witness):
    return not [note for note in witness.notes() if note.event in ("lost", "unavailable", "error")]


def others_enter_as_items_end(worker, other, witness):
    """The other process, which waits, gets what the first one gives back, and no more."""
    worker.end("a", "b")
    witness.wait_for("entered", worker=other.name, times=2)
    assert witness.peak == 5
    worker.end("c", "d", "e")
    witness.wait_for("entered", worker=other.name, times=5)
    assert witness.peak == 5
    other.end(*"fghij")
    witness.wait_for("ended", times=10)


def test_after_a_restart_without_persistence_permits_are_claimed_before_a_newcomer_gets_any(
    new_server, workers, witness
):
    server = new_server()
    one = run_on(server, workers, witness)
    other = workers("B", server, limit=5, recover=True)
    server.restart()
    other.run(*"fghij")
    wait_until(lambda: held(server) == 5 and waiting(server) == 1)
    # The time for claims ends, and another lease with it.
    wait_until(lambda: up(server) >= 3)
    assert witness.peak == 5
    assert nobody_was_told_of_a_loss(witness)
    others_enter_as_items_end(one, other, witness)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_a_young_server_grants_nothing_new_for_a_whole_lease(new_server, workers, witness):
    """INFO counts seconds of the clock: it says 1 when the server has been up for a tenth of that."""
    server = new_server()
    worker = workers("A", server, recover=True)
    worker.order("stats")
    witness.wait_for("stats")
    server.kill()
    wait_until(lambda: time.time() % 1 > 0.8)
    started = time.time()
    server.start()
    wait_until(lambda: up(server) == 1)
    worker.run("a")
    [entered] = witness.wait_for("entered")
    assert entered.at >= started * 1_000 + 1_000
    worker.end("a")


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_who_first_uses_a_young_server_waits_for_claims_unless_it_says_otherwise(new_server, workers, witness):
    server = new_server()
    one = workers("A", server, lease=60, recover=False)
    one.run("a", seconds=0)
    witness.wait_for("ended", item="a")
    one.order("close")
    wait_until(lambda: server.keys() == [])
    other = workers("B", server, lease=60, recover=True)
    other.run("b", seconds=0)
    wait_until(lambda: waiting(server) == 1)
    grace = int(server.administration.hget(KEYS[3], "grace"))
    assert grace / 1_000 >= server.now() / 1_000_000 + 60 - up(server) - 2
    assert held(server) == 0
    other.order("cancel")


def test_a_restart_with_aof_changes_nothing(new_server, workers, witness):
    server = new_server(appendonly="yes", appendfsync="always")
    one, other = run_on(server, workers, witness, lease=10), workers("B", server, limit=5, lease=10)
    other.run(*"fghij")
    wait_until(lambda: waiting(server) == 1)
    before = sessions(server)
    server.restart()
    assert sessions(server).keys() == before.keys()
    others_enter_as_items_end(one, other, witness)
    assert nobody_was_told_of_a_loss(witness)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_after_a_restart_with_aof_the_time_of_a_dead_process_has_passed(new_server, workers, witness):
    server = new_server(appendonly="yes", appendfsync="always")
    one, other = run_on(server, workers, witness), workers("B", server, limit=5)
    one.kill()
    server.restart()
    other.run(*"fghij")
    witness.wait_for("entered", worker="B", times=5)
    assert witness.peak == 5
    other.end(*"fghij")


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_at_an_older_snapshot_what_others_held_has_gone_back(new_server, workers, witness):
    """B held all at the time of the snapshot, and has given it to A since then."""
    server = new_server()
    one, other = workers("A", server, limit=5, lease=2), workers("B", server, limit=5, lease=2)
    other.run(*"fghij")
    witness.wait_for("entered", times=5)
    one.run(*"abcde")
    wait_until(lambda: waiting(server) == 1)
    server.snapshot()
    other.end(*"fghij")
    witness.wait_for("entered", worker="A", times=5)
    other.run(*"klmno")
    wait_until(lambda: waiting(server) == 1 and held(server) == 5)
    before = len(witness.matching(event="entered", worker="B"))
    server.restart()
    settle_after_an_older_snapshot(server, one, other, witness, before)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_at_an_older_snapshot_a_session_that_it_does_not_know_is_told(new_server, workers, witness):
    """A held nothing at the time of the snapshot; what it was granted since then may go to B before A can say so."""
    server = new_server()
    one, other = workers("A", server, limit=5, lease=2), workers("B", server, limit=5, lease=2)
    other.run("before", seconds=0)
    witness.wait_for("ended")
    server.snapshot()
    one.run(*"abcde")
    witness.wait_for("entered", worker="A", times=5)
    other.run(*"klmno")
    wait_until(lambda: waiting(server) == 1)
    before = len(witness.matching(event="entered", worker="B"))
    server.restart()
    settle_after_an_older_snapshot(server, one, other, witness, before)


def settle_after_an_older_snapshot(server, one, other, witness, before):
    """Either A goes on and B waits, or A is told, and all that runs fits again."""
    wait_until(lambda: up(server) >= 3)
    number, _ = witness.inside()[-1]
    assert number == 5 == held(server)
    assert (
        len(witness.matching(event="lost", worker="A")) == len(witness.matching(event="entered", worker="B")) - before
    )
    one.end(*"abcde")
    witness.wait_for("entered", worker="B", item="o")
    other.end(*"klmno")
    wait_until(lambda: held(server) == 0)


def test_flushall_is_as_a_restart(server, workers, witness):
    one, other = run_on(server, workers, witness), workers("B", server, limit=5)
    other.run(*"fghij")
    wait_until(lambda: waiting(server) == 1)
    server.administration.flushall()
    wait_until(lambda: held(server) == 5 and waiting(server) == 1)
    assert nobody_was_told_of_a_loss(witness)
    others_enter_as_items_end(one, other, witness)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_the_loss_of_one_key_is_as_a_restart(server, workers, witness, key):
    one, other = run_on(server, workers, witness), workers("B", server, limit=5)
    other.run(*"fghij")
    wait_until(lambda: waiting(server) == 1)
    server.administration.delete(key)
    wait_until(lambda: len(sessions(server)) == 2 and held(server) == 5 and waiting(server) == 1)
    others_enter_as_items_end(one, other, witness)
    assert nobody_was_told_of_a_loss(witness)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_a_newcomer_gets_nothing_for_the_loss_of_one_key(server, workers, witness, key):
    one = run_on(server, workers, witness, lease=3)
    other = workers("B", server, limit=5, lease=3)
    other.order("stats")
    witness.wait_for("stats")
    server.administration.delete(key)
    other.run(*"fghij")
    wait_until(lambda: len(sessions(server)) == 2 and held(server) == 5 and waiting(server) == 1)
    others_enter_as_items_end(one, other, witness)
    assert nobody_was_told_of_a_loss(witness)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_who_comes_first_after_flushall_gets_what_is_free_and_the_other_is_told(server, workers, witness):
    """Nothing is left that could say that there was something: for a third of a lease both may run."""
    run_on(server, workers, witness, lease=3)
    other = workers("B", server, limit=5, lease=3)
    other.order("stats")
    witness.wait_for("stats")
    server.administration.flushall()
    other.run(*"fghij")
    witness.wait_for("entered", worker="B", times=5)
    witness.wait_for("lost", worker="A", times=5)
    assert held(server) == 5
    number, _ = witness.inside()[-1]
    assert number == 5
    other.end(*"fghij")
    wait_until(lambda: held(server) == 0)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_a_claim_after_flushall_says_that_there_may_be_more(server, workers, witness):
    """B has been granted one when A claims two: what is left is kept for a lease, for C, which claims two as well."""
    one, other, third = (workers(name, server, limit=5, lease=3) for name in "ABC")
    one.run("a", "b")
    third.run("c", "d")
    witness.wait_for("entered", times=4)
    other.order("stats")
    witness.wait_for("stats")
    third.freeze()
    server.administration.flushall()
    other.run("e")
    witness.wait_for("entered", item="e")
    wait_until(lambda: held(server) == 3)
    other.run("f")
    wait_until(lambda: waiting(server) == 1)
    third.thaw()
    wait_until(lambda: held(server) == 5)
    assert nobody_was_told_of_a_loss(witness)
    assert witness.peak == 5
    one.end("a")
    witness.wait_for("entered", item="f")
    for worker in (one, other, third):
        worker.end(*"bcdef")
    witness.wait_for("ended", times=6)


@pytest.mark.parametrize("kind", ["redis", "postgres"], indirect=True)
def test_the_fencing_token_grows_whichever_process_enters_and_whatever_the_server_forgets(new_server, workers, witness):
    server = new_server()
    # Who has needed nothing for a third of a lease leaves, and is new to a server that has just started: that grants at once here.
    one, other = workers("A", server, lease=3), workers("B", server, lease=3)
    for items in ("abcd", "efgh"):
        for item, worker in zip(items, (one, other, one, other)):
            worker.run(item, seconds=0)
            witness.wait_for("ended", item=item)
        server.restart()
        one, other = other, one
    entered = witness.matching(event="entered")
    assert len(entered) == 8
    for former, latter in zip(entered, entered[1:]):
        # Items of one process may follow each other under one grant.
        assert int(former.value) < int(latter.value) or (former.worker, former.value) == (latter.worker, latter.value)
