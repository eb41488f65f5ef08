"""What a process has held that is killed: it is to be had again when its lease ends."""

import pytest

from shared_processes import held, left_on, sessions, waiting
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


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_of_the_last_process_that_was_killed_no_key_is_left(server, workers, witness):
    one = workers("A", server)
    one.run("a")
    witness.wait_for("entered")
    one.kill()
    wait_until(lambda: left_on(server) == [])
