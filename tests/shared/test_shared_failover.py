"""The primary dies and a replica takes its place: what reached it goes on, what did not is claimed or lost, and told."""

import pytest

from shared_processes import KEYS, held, sessions, waiting
from shared_servers import wait_until

pytestmark = pytest.mark.parametrize("kind", ["redis"], indirect=True)


def client_of(group):
    return {
        "package": group.kind,
        "sentinels": [sentinel.address for sentinel in group.sentinels],
        "service": group.NAME,
        "socket_timeout": 1,
    }


def start(group, workers, witness, **options):
    options = {"client": client_of(group), "limit": 3} | options
    one, other = workers("A", group.primary, **options), workers("B", group.primary, **options)
    one.run("a", "b", "c")
    witness.wait_for("entered", times=3)
    other.run("d", "e", "f")
    wait_until(lambda: waiting(group.primary) == 1)
    return one, other


def test_a_failover_that_loses_nothing_is_not_seen(sentinel_group, workers, witness):
    one, other = start(sentinel_group, workers, witness, lease=20)
    replica = sentinel_group.replica
    wait_until(
        lambda: replica.administration.hgetall(KEYS[1]) == sentinel_group.primary.administration.hgetall(KEYS[1])
    )
    sentinel_group.failover()
    one.end("a", "b", "c")
    witness.wait_for("entered", worker="B", times=3)
    assert witness.peak == 3
    other.end("d", "e", "f")
    witness.wait_for("ended", times=6)
    assert {note.event for note in witness.notes()} == {"entered", "left", "ended"}


def test_a_failover_that_loses_what_was_granted_is_claimed_or_told(sentinel_group, workers, witness):
    """B's grants do not reach the replica, where A still holds what it has given back: at the end three run, and no more."""
    one, other = start(sentinel_group, workers, witness, lease=20)
    replica = sentinel_group.replica
    wait_until(
        lambda: replica.administration.hgetall(KEYS[1]) == sentinel_group.primary.administration.hgetall(KEYS[1])
    )
    sentinel_group.part()
    one.end("a", "b", "c")
    witness.wait_for("entered", worker="B", times=3)
    one.run("g", "h", "i")
    wait_until(lambda: waiting(sentinel_group.primary) == 1)
    sentinel_group.primary.kill()
    sentinel_group.wait_for_primary(replica)
    wait_until(lambda: len(sessions(replica)) == 2 and held(replica) == 3 and waiting(replica) >= 1)
    number, _ = witness.inside()[-1]
    assert number == 3
    lost = witness.matching(event="lost")
    assert witness.peak <= 3 + len(lost)
    one.end("g", "h", "i")
    other.end("d", "e", "f")
    witness.wait_for("ended", times=9 - len(lost))
    wait_until(lambda: held(replica) == 0)
