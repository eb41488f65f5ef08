"""How processes share the permits: the least is made as large as can be, and each keeps to its own limit."""

import collections

import pytest

from shared_processes import held, requests, sessions, waiting
from shared_servers import wait_until

pytestmark = pytest.mark.parametrize("kind", ["redis", "postgres"], indirect=True)


def inside_of(witness, worker):
    notes = [note for note in witness.notes() if note.worker == worker]
    return sum((note.event == "entered") - (note.event == "left") for note in notes)


def test_who_wants_little_gets_it_and_the_others_share_the_rest_evenly(server, workers, witness):
    greedy = [workers(name, server, limit=6, lease=30) for name in "AB"]
    modest = workers("C", server, limit=6, lease=30)
    for worker in (*greedy, modest):
        worker.order("stats")
    witness.wait_for("stats", times=3)
    greedy[0].run(*map(str, range(100)))
    witness.wait_for("entered", times=6)
    greedy[1].run(*map(str, range(100)))
    wait_until(lambda: waiting(server) == 1)
    modest.run("one")
    wait_until(lambda: waiting(server) >= 2)
    ended = collections.Counter()

    def shared_evenly():
        """Items end one at a time, whichever has run longest: until C has its one and the others two or three each."""
        wait_until(lambda: held(server) == 6)
        inside = {name: inside_of(witness, name) for name in "ABC"}
        if inside["C"] == 1 and sorted((inside["A"], inside["B"])) == [2, 3]:
            return True
        name = max("AB", key=inside.get)
        worker = greedy["AB".index(name)]
        worker.end(str(ended[name]))
        witness.wait_for("left", worker=name, item=str(ended[name]))
        ended[name] += 1
        return False

    wait_until(shared_evenly)
    assert ended["A"] + ended["B"] <= 8  # A gave back four, at the end of the first items that ended
    assert witness.peak <= 6
    # It stays so, item by item.
    for turn in range(12):
        name = "AB"[turn % 2]
        greedy[turn % 2].end(str(ended[name]))
        witness.wait_for("left", worker=name, item=str(ended[name]))
        ended[name] += 1
    entered = {name: len(witness.matching(event="entered", worker=name)) for name in "AB"}
    wait_until(lambda: sum(inside_of(witness, name) for name in "ABC") == 6)
    assert inside_of(witness, "C") == 1
    assert all(2 <= inside_of(witness, name) <= 3 for name in "AB"), entered
    for worker in (*greedy, modest):
        worker.order("cancel")


def test_what_comes_free_at_once_is_shared_evenly(server, workers, witness):
    one, *others = [workers(name, server, limit=6, lease=60) for name in "ABC"]
    one.run(*map(str, range(6)))
    witness.wait_for("entered", times=6)
    for other in others:
        other.run(*map(str, range(6)))
    wait_until(lambda: waiting(server) == 2)
    one.order("close")
    witness.wait_for("entered", times=12)
    assert [inside_of(witness, name) for name in "BC"] == [3, 3]
    for other in others:
        other.order("cancel")


def test_greedy_processes_start_as_many_items(server, workers, witness):
    """Three processes with more short items than can be run: counted when the first one is done, none is behind by much."""
    number = 150
    started = [workers(name, server, limit=6, lease=30) for name in "ABC"]
    for worker in started:
        worker.order("stats")
    witness.wait_for("stats", times=3)
    before = requests(server)
    for worker in started:
        worker.run(*map(str, range(number)), seconds=0.01)
    witness.wait_for("ended", times=3 * number)
    notes = [note for note in witness.notes() if note.event == "entered"]
    # From when all have begun until one has started its last.
    begun = max(next(index for index, note in enumerate(notes) if note.worker == name) for name in "ABC")
    counted = collections.Counter()
    for note in notes[begun:]:
        counted[note.worker] += 1
        if note.item == str(number - 1):
            break
    assert min(counted.values()) >= 0.6 * max(counted.values()), counted
    assert witness.peak <= 6
    assert requests(server) - before <= 3 * number / 2


def test_a_limit_of_one_goes_round(server, workers, witness):
    started = [workers(name, server, limit=1, lease=30) for name in "ABC"]
    for worker in started:
        worker.order("stats")
    witness.wait_for("stats", times=3)
    for worker in started:
        worker.run(*map(str, range(60)), seconds=0.01)
    witness.wait_for("ended", times=180)
    order = [note.worker for note in witness.notes() if note.event == "entered"]
    turns = [order[0]]
    for name in order:
        if name != turns[-1]:
            turns.append(name)
    done = min(max(index for index, name in enumerate(turns) if name == worker) for worker in "ABC")
    rounds = turns[3:done]
    assert len(rounds) >= 6
    for first in range(len(rounds) - 2):
        assert set(rounds[first : first + 3]) == set("ABC")  # nobody is passed over
    assert witness.peak == 1


def test_each_process_keeps_to_its_own_limit(server, workers, witness):
    """A rolling change: some processes have the old number, some the new one."""
    old, new = workers("A", server, limit=2, lease=30), workers("B", server, limit=4, lease=30)
    old.run("a", "b", "c", "d")
    witness.wait_for("entered", times=2)
    new.run("e", "f", "g", "h")
    witness.wait_for("entered", worker="B", times=2)
    wait_until(lambda: waiting(server) >= 1)
    assert held(server) == 4
    old.end("a", "b")
    witness.wait_for("entered", worker="B", times=4)
    # Four are held: A gets nothing until less than two are.
    assert [note.item for note in witness.matching(event="entered", worker="A")] == ["a", "b"]
    new.end("e", "f")
    witness.wait_for("left", worker="B", times=2)
    wait_until(lambda: held(server) == 2)
    new.end("g")
    witness.wait_for("entered", item="c")
    new.end("h")
    witness.wait_for("entered", item="d")
    old.end("c", "d")
    witness.wait_for("ended", times=8)
    assert witness.peak == 4


def test_a_lower_limit_takes_effect_as_items_end(server, workers, witness):
    one, other = workers("A", server, limit=4, lease=30), workers("B", server, limit=4, lease=30)
    one.run(*map(str, range(8)))
    witness.wait_for("entered", times=4)
    for worker in (one, other):
        worker.order("limit", limit=2)
    witness.wait_for("limit", times=2)
    other.run("a", "b")
    wait_until(lambda: waiting(server) >= 1)
    one.end("0", "1")
    wait_until(lambda: held(server) == 2)
    assert [note.item for note in witness.matching(event="entered", worker="A")] == ["0", "1", "2", "3"]
    assert witness.matching(event="entered", worker="B") == []
    one.end("2")
    witness.wait_for("entered", worker="B")
    number, _ = witness.inside()[-1]
    assert number == 2
    assert witness.matching(event="lost") == []
    one.order("cancel")
    other.order("cancel")


def test_a_lower_limit_of_the_only_process_takes_effect_as_items_end(server, workers, witness):
    one = workers("A", server, limit=4, lease=30)
    one.run(*map(str, range(8)))
    witness.wait_for("entered", times=4)
    one.order("limit", limit=2)
    one.end("0", "1")
    witness.wait_for("ended", times=2)
    wait_until(lambda: held(server) == 2)
    one.end("2")
    witness.wait_for("entered", item="4")
    assert len(witness.matching(event="entered")) == 5
    one.order("cancel")


def test_a_lower_limit_of_another_process_takes_what_is_too_much(server, workers, witness):
    """B alone is told of the new number; A, whose limit is higher, gives back what B needs as its items end."""
    one, other = workers("A", server, limit=4, lease=30), workers("B", server, limit=4, lease=30)
    one.run(*map(str, range(8)))
    witness.wait_for("entered", times=4)
    other.order("limit", limit=2)
    other.run("a")
    wait_until(lambda: waiting(server) >= 1)
    for item in range(3):
        one.end(str(item))
    one.end(*"34567")
    witness.wait_for("entered", item="a")
    other.end("a")
    witness.wait_for("ended", times=9)


def test_a_higher_limit_takes_effect_at_once(server, workers, witness):
    one, other = workers("A", server, limit=1, lease=60), workers("B", server, limit=1, lease=60)
    one.run("a", "b", "c")
    witness.wait_for("entered")
    other.run("d", "e", "f")
    wait_until(lambda: waiting(server) >= 1)
    one.order("limit", limit=3)
    witness.wait_for("entered", worker="A", times=3)
    other.order("limit", limit=6)
    witness.wait_for("entered", worker="B", times=3)
    assert witness.peak == 6
    one.end("a", "b", "c")
    other.end("d", "e", "f")
    witness.wait_for("ended", times=6)


def test_stats_tell_how_things_stand(server, workers, witness):
    one, other = workers("A", server, limit=2, lease=30), workers("B", server, limit=2, lease=30)
    one.run("a", "b", "c")
    witness.wait_for("entered", times=2)
    other.run("d")
    wait_until(lambda: len(sessions(server)) == 2)
    other.order("limit", limit=3)
    witness.wait_for("entered", item="d")
    other.order("stats")
    [stats] = witness.wait_for("stats", worker="B")
    assert stats.value == "1 0 2 3"
    one.order("stats")
    [stats] = witness.wait_for("stats", worker="A")
    assert stats.value.split()[:2] == ["2", "1"]
    one.order("cancel")
    other.order("cancel")
