"""The script of the shared limit, case by case: what it grants and to whom, what it answers and publishes, and what it does not lose.

Each call is looked at as a whole by `check()` (shared_script.py), too.
"""

import pytest

from shared_script import HOUR, Client, Request, Script
from shared_servers import wait_until


class Room:
    """One name, and clients of it by the name of their process; what they send is executed, and the answer arrives."""

    def __init__(self, script, **limits):
        self.script = script
        self.name = script.name()
        self.clients = {name: Client(name, limit) for name, limit in limits.items()}
        self.heard = []

    def __getitem__(self, name):
        return self.clients[name]

    def add(self, client):
        self.clients[client.name] = client

    def send(self, name, what, more=1):
        """The request of a client that is under way: execute() it, late or never."""
        self.clients[name], request = self.clients[name].does(what, more)
        return request

    def execute(self, request):
        answer, self.heard, _ = self.script.checked_call(self.name, request)
        for name, client in self.clients.items():
            client = client.hears(request, answer)
            for message in self.heard:
                client = client.is_told(message)
            self.clients[name] = client
        return answer

    def call(self, name, what, more=1):
        return self.execute(self.send(name, what, more))

    def held(self):
        """As the server has it: {process: permits}."""
        return {session[:-1]: record.held for session, record in sorted(self.state.records.items())}

    @property
    def state(self):
        return self.script.look(self.name)

    def lose(self, *keys):
        self.script.run("DEL", *(self.name + key for key in keys or ("sessions", "counts", "queue", "meta")))

    def end_lease(self, name):
        self.script.end_lease(self.name, self.clients[name].session)

    def end_grace(self):
        self.script.end_grace(self.name)


@pytest.fixture
def script(server):
    with Script(server) as script:
        yield script


@pytest.fixture
def room(script):
    return lambda **limits: Room(script, **limits)


# --- Answers and messages ---------------------------------------------------------------------------------------------


def test_what_each_field_of_the_answer_is(room):
    gate = room(a=3, b=3, c=3)
    first = gate.call("a", "ask", 2)
    assert first == (1, gate.state.meta["epoch"], 2, 0, gate.state.meta["fence"], 0, 0, 2, 1, 1, -1)
    gate.call("b", "ask", 2)
    gate.call("c", "ask", 2)
    answer = gate.call("a", "back")
    assert answer.alive == 1
    assert answer.epoch == first.epoch
    assert (answer.granted, answer.returned) == (2, 1)  # in all; b or c got what a gave back
    assert answer.fence == first.fence  # that of its latest grant
    assert answer.waiting == 2
    assert answer.least == 1  # c holds one by now, as b does
    assert answer.total == 3
    assert answer.sessions == 3
    assert answer.requests == 4
    assert HOUR - 60_000 < answer.soonest <= HOUR  # until b's lease would end


def test_a_session_that_gains_by_another_ones_request_is_told_what_an_answer_would_say(room):
    gate = room(a=1, b=1, c=1)
    gate.call("a", "ask")
    gate.call("b", "ask")
    gate.call("c", "ask")
    answer = gate.call("a", "back")
    (message,) = gate.heard
    record = gate.state.records["b0"]
    assert message == ("b0", "a0", answer.epoch, 1, record.fence, 1, 0, 1, 3, 4)
    assert gate["b"].held == 1


def test_who_gains_by_its_own_request_is_told_by_the_answer_alone(room):
    gate = room(a=1)
    assert gate.call("a", "ask").granted == 1
    assert gate.heard == []


def test_all_hear_of_the_first_who_waits_and_of_who_holds_less_than_all_that_do(room):
    gate = room(a=4, b=4, c=4, d=4)
    gate.call("a", "ask", 3)
    gate.call("b", "ask", 2)  # granted one, waits for another
    assert [(message.channel, message.waiting, message.least) for message in gate.heard] == [("news", 1, 1)]
    gate.call("a", "ask")
    assert gate.heard == []  # holds three
    gate.call("c", "ask")
    assert [(message.channel, message.waiting, message.least) for message in gate.heard] == [("news", 3, 0)]
    gate.call("d", "ask")
    assert gate.heard == []  # all know of one that holds nothing


def test_all_hear_of_a_limit_that_falls_below_what_is_held(room):
    gate = room(a=3, b=3)
    gate.call("a", "ask", 3)
    gate.call("b", "ask", 0)
    gate.add(gate["b"].with_limit(2))
    gate.call("b", "renew")
    assert [(message.channel, message.total) for message in gate.heard] == [("news", 3)]
    gate.call("b", "renew")
    assert gate.heard == []  # it fell before


# --- Who is granted what ----------------------------------------------------------------------------------------------


def test_a_grant_goes_to_who_holds_least(room):
    gate = room(a=4, b=4, c=4)
    gate.call("a", "ask", 3)
    gate.call("b", "ask", 1)
    gate.call("a", "ask")  # has waited longer than c
    gate.call("c", "ask")
    gate.call("b", "back")
    assert gate.held() == {"a": 3, "b": 0, "c": 1}


def test_a_grant_goes_to_who_has_waited_longest_of_those_who_hold_as_much(room):
    gate = room(a=2, c=2, b=2)
    gate.call("a", "ask", 2)
    gate.call("c", "ask")
    gate.call("b", "ask")
    gate.call("a", "back")
    assert gate.held() == {"a": 1, "b": 0, "c": 1}


def test_who_gives_back_waits_behind_those_who_hold_as_much(room):
    gate = room(a=2, b=2, c=2)
    gate.call("a", "ask", 3)  # two, and waits
    gate.call("b", "ask")
    gate.call("c", "ask")
    gate.call("a", "back")
    assert gate.held() == {"a": 1, "b": 1, "c": 0}
    gate.call("a", "back")
    assert gate.held() == {"a": 0, "b": 1, "c": 1}


def test_who_was_granted_one_of_several_waits_behind_those_who_hold_as_much(room):
    gate = room(a=1, b=1, c=1)
    gate.call("a", "ask")
    gate.call("b", "ask", 2)
    gate.call("c", "ask")
    gate.call("a", "back")
    assert gate.held() == {"a": 0, "b": 1, "c": 0}
    gate.call("b", "back")
    assert gate.held() == {"a": 0, "b": 0, "c": 1}


@pytest.mark.parametrize("asked, fair", [((20, 20, 20), (4, 3, 3)), ((1, 20, 20), (1, 5, 4)), ((2, 2, 2), (2, 2, 2))])
def test_permits_that_come_free_together_are_shared_equally(room, asked, fair):
    gate = room(z=10, a=10, b=10, c=10)
    gate.call("z", "ask", 10)
    for name, more in zip("abc", asked):
        gate.call(name, "ask", more)
    gate.call("z", "back", 10)
    held = gate.held()
    assert sorted(held[name] for name in "abc") == sorted(fair)
    assert held["a"] == fair[0] or asked[0] > fair[0]


@pytest.mark.parametrize(
    "back, held", [(1, {"a": 4, "b": 4, "c": 1}), (3, {"a": 4, "b": 2, "c": 3}), (5, {"a": 5, "b": 0, "c": 4})]
)
def test_those_who_hold_less_first_catch_up(room, back, held):
    gate = room(a=9, b=9, c=9)
    gate.call("a", "ask", 4)
    gate.call("b", "ask", 5)
    gate.call("c", "ask", 9)
    gate.call("a", "ask", 9)
    gate.call("b", "back", back)
    assert gate.held() == held  # at four each, a has waited longer


@pytest.mark.parametrize("back", [500, 1_000])
def test_many_permits_are_granted_in_few_steps(room, back):
    gate = room(a=1_000, b=1_000)
    gate.call("a", "ask", 1_000)
    gate.call("a", "ask", 1_000)
    gate.call("b", "ask", 1_000)
    gate.call("a", "back", back)
    assert gate.held() == {"a": 500, "b": 500}
    assert gate.state.meta["arrivals"] < 50  # a step puts who gained behind the others


def test_who_does_not_want_any_more_does_not_wait(room):
    gate = room(a=1, b=1)
    gate.call("a", "ask")
    gate.call("b", "ask")
    assert gate.call("b", "withdraw").waiting == 0
    assert gate.call("a", "back").waiting == 0
    assert gate.held() == {"a": 0, "b": 0}


def test_a_hundred_sessions_share_what_comes_free(room):
    names = [f"s{i}_" for i in range(100)]
    gate = room(a=250, **dict.fromkeys(names, 250))
    gate.call("a", "ask", 250)
    for name in names:
        gate.call(name, "ask", 10)
    gate.call("a", "leave")
    assert sorted(gate.held().values()) == [2] * 50 + [3] * 50
    assert len(gate.heard) == 100


# --- Two limits for one name ------------------------------------------------------------------------------------------


def test_each_session_obeys_its_own_limit(room):
    gate = room(low=1, high=2)
    gate.call("low", "ask", 2)
    assert gate.held() == {"low": 1}
    gate.call("high", "ask", 2)
    assert gate.held() == {"high": 1, "low": 1}
    gate.call("low", "back")
    assert gate.held() == {"high": 2, "low": 0}
    gate.call("high", "back")
    assert gate.held() == {"high": 1, "low": 0}  # one is held, its limit


def test_a_limit_takes_effect_with_the_next_request(room):
    gate = room(a=1)
    gate.call("a", "ask", 3)
    assert gate["a"].held == 1
    gate.add(gate["a"].with_limit(3))
    gate.call("a", "renew")
    assert gate["a"].held == 3
    gate.add(gate["a"].with_limit(1))
    gate.call("a", "renew")
    assert gate["a"].held == 3  # nothing is taken away
    gate.call("a", "back", 2)
    gate.call("a", "ask")
    assert gate["a"].held == 1


# --- Repeated, late, lost ---------------------------------------------------------------------------------------------


def test_a_repeated_request_changes_nothing_but_the_lease(room):
    gate = room(a=2, b=2)
    gate.call("b", "ask")
    request = gate.send("a", "ask", 2)
    gate.execute(request)
    before = gate.state
    gate.execute(request)
    after = gate.state
    assert (after.records, after.queue) == (before.records, before.queue)
    assert after.sessions["a0"] >= before.sessions["a0"]


def test_a_request_that_comes_after_a_later_one_does_not_undo_it(room):
    gate = room(a=3)
    early = gate.send("a", "ask", 3)
    gate.add(gate["a"].with_limit(1))
    late = gate.send("a", "withdraw")
    gate.execute(late)
    gate.execute(early)
    record = gate.state.records["a0"]
    assert (record.limit, record.asked, record.granted) == (1, 0, 0)


def test_what_is_given_back_by_a_request_that_comes_late_is_given_back_once(room):
    gate = room(a=2)
    gate.call("a", "ask", 2)
    one, both = gate.send("a", "back"), gate.send("a", "back")
    gate.execute(both)
    gate.execute(one)
    assert gate.state.total == 0


def test_a_lost_answer_loses_no_permit(room):
    gate = room(a=1)
    gate.script.checked_call(gate.name, gate.send("a", "ask"))
    assert gate["a"].held == 0
    gate.call("a", "renew")
    assert gate["a"].held == 1


def test_a_request_that_comes_after_the_session_has_left_changes_nothing(room):
    gate = room(a=2, b=2)
    gate.call("b", "ask")
    gate.call("a", "ask")
    late = gate.send("a", "ask")
    gate.call("a", "leave")
    before = gate.state
    assert gate.execute(late).alive == 0
    assert gate.state.records == before.records


def test_a_first_request_that_may_still_come_is_no_harm_after_a_session_has_let_go(room):
    """Nobody has told its session an epoch, so if it had left it would be taken for a new one, until its lease ends."""
    gate = room(a=1, b=1)
    gate.call("b", "ask", 0)
    late = gate.send("a", "ask")
    gate.call("a", "let go")
    gate.execute(late)
    assert gate.held() == {"a": 0, "b": 0}


def test_a_renewal_by_a_thread_changes_neither_limit_nor_what_is_asked_for(room):
    gate = room(a=1, b=1)
    gate.call("a", "ask")
    gate.call("b", "ask", 3)
    before = gate.state.records["b0"]
    assert gate.call("b", "thread").alive == 1
    assert gate.state.records["b0"] == before


# --- Leases -----------------------------------------------------------------------------------------------------------


def test_when_a_lease_has_ended_others_are_granted_what_the_session_held(room):
    gate = room(a=1, b=1)
    gate.call("a", "ask")
    gate.call("b", "ask")
    gate.end_lease("a")
    gate.call("b", "renew")
    assert gate["b"].held == 1
    old = gate["a"]
    assert gate.call("a", "renew").alive == 0
    assert gate["a"].session != old.session
    assert gate.held() == {"b": 1}


def test_a_session_that_comes_late_before_anybody_else_keeps_what_it_holds(room):
    gate = room(a=1, b=1)
    gate.call("a", "ask")
    gate.call("b", "ask")
    gate.end_lease("a")
    assert gate.call("a", "renew").alive == 1
    assert gate.held() == {"a": 1, "b": 0}


def test_a_session_whose_lease_has_ended_waits_no_longer(room):
    gate = room(a=1, b=1, c=1)
    for name in "abc":
        gate.call(name, "ask")
    gate.end_lease("b")
    gate.call("a", "back")
    assert gate.held() == {"a": 0, "c": 1}


def test_leases_of_two_lengths_end_each_at_its_time(room):
    gate = room(long=1)
    gate.add(Client("short", 1, lease=60_000))
    gate.call("short", "ask")
    answer = gate.call("long", "ask")
    assert 0 < answer.soonest <= 60_000
    assert gate.call("short", "renew").soonest > 60_000
    sessions = gate.state.sessions
    assert HOUR - 61_000 < sessions["long0"] - sessions["short0"] <= HOUR - 60_000


def test_the_keys_expire_a_lease_after_the_last_session(room):
    gate = room(a=1)
    gate.add(Client("b", 1, lease=60_000))
    gate.call("a", "ask")
    gate.call("b", "ask")
    state = gate.state
    assert set(state.expires.values()) == {state.sessions["a0"] + 60_000}
    assert len(state.expires) == 4


def test_the_keys_do_not_expire_in_the_time_for_claims(room):
    gate = room(a=1, b=1)
    gate.add(Client("short", 1, lease=1_000))
    gate.call("a", "ask")
    gate.lose("meta")
    gate.call("b", "ask")
    gate.call("short", "ask")
    gate.call("b", "leave")
    state = gate.state
    assert set(state.expires.values()) == {state.grace} and state.grace > state.now + HOUR / 2


def test_sessions_that_died_together_are_pruned_a_hundred_at_a_time(room):
    names = [f"s{i}_" for i in range(150)]
    gate = room(**dict.fromkeys(names, 200), last=200)
    for name in names:
        gate.call(name, "ask")
        gate.end_lease(name)
        # The next one would prune it.
        gate.script.run("ZADD", gate.name + "sessions", "XX", gate.state.now + HOUR, gate[name].session)
    for name in names:
        gate.end_lease(name)
    request = gate.send("last", "ask")
    answer = gate.script.call(gate.name, request)
    assert (answer.sessions, answer.total) == (51, 51)
    assert answer.soonest == 0  # come again at once
    answer = gate.script.call(gate.name, request)
    assert (answer.sessions, answer.total, answer.soonest) == (1, 1, -1)


# --- The end ----------------------------------------------------------------------------------------------------------


def test_what_a_session_that_leaves_held_goes_to_others_at_once(room):
    gate = room(a=2, b=2)
    gate.call("a", "ask", 2)
    gate.call("b", "ask", 2)
    gate.call("a", "leave")
    assert gate["b"].held == 2
    assert gate.held() == {"b": 2}


def test_no_key_is_left_when_the_last_has_left(room):
    gate = room(a=1, b=1)
    gate.call("a", "ask")
    gate.call("b", "ask")
    gate.call("a", "leave")
    assert gate.state.expires
    gate.call("b", "leave")
    assert not gate.state.expires


def test_leaving_twice_is_leaving_once(room):
    gate = room(a=1, b=1)
    gate.call("b", "ask", 0)
    gate.call("a", "ask")
    request = gate.send("a", "leave")
    gate.execute(request)
    gate.execute(request)
    assert gate.held() == {"b": 0}
    gate.call("b", "leave")
    gate.execute(request)
    assert not gate.state.expires


# --- Claims and the grace ---------------------------------------------------------------------------------------------


def test_after_the_loss_of_all_keys_a_session_claims_what_it_holds_and_nothing_is_granted(room):
    gate = room(a=2, b=2)
    gate.call("a", "ask", 1)
    gate.lose()
    answer = gate.call("a", "ask")
    assert (answer.granted, answer.returned) == (1, 0)
    assert gate.held() == {"a": 1}
    assert HOUR - 60_000 < answer.soonest <= HOUR  # until the grace ends
    assert gate.call("b", "ask").granted == 0
    gate.end_grace()
    gate.call("a", "renew")
    assert gate.held() == {"a": 1, "b": 1}  # which holds less


@pytest.mark.parametrize("held, limit, kept", [(2, 3, 1), (2, 5, 2), (2, 2, 0)])
def test_a_claim_is_met_as_far_as_there_is_room(room, held, limit, kept):
    gate = room(a=5, new=limit)
    gate.call("a", "ask", held)
    gate.lose()
    # Somebody who knows of no loss comes first, and is granted two.
    gate.call("new", "ask", 2)
    assert gate["new"].held == 2
    gate.add(gate["a"].with_limit(limit))
    answer = gate.call("a", "renew")
    assert (answer.granted, answer.returned) == (held, held - kept)
    assert gate["a"].held == kept
    assert gate.state.total <= limit


def test_a_claim_on_an_older_state_obeys_the_limit_of_today(room):
    gate = room(a=3)
    gate.call("a", "ask")
    older = gate.script.name()
    gate.script.copy(gate.name, older)
    gate.call("a", "ask", 2)
    gate.script.copy(older, gate.name)
    gate.add(gate["a"].with_limit(2))
    gate.call("a", "renew")
    assert gate["a"].held == 2


def test_who_claims_after_a_newcomer_began_brings_a_grace_for_the_others(room):
    gate = room(a=3, b=3, new=3)
    gate.call("a", "ask")
    gate.call("b", "ask")
    gate.lose()
    gate.call("new", "ask")
    gate.call("a", "renew")
    assert gate.call("new", "ask").granted == 1  # b may hold the third
    gate.call("b", "renew")
    assert gate.held() == {"a": 1, "b": 1, "new": 1}


def test_who_neither_holds_nor_wants_anything_is_told_to_begin_anew(room):
    gate = room(a=1)
    gate.call("a", "ask", 0)
    gate.lose()
    assert gate.call("a", "renew").alive == 0
    assert gate["a"].session == "a1"
    assert gate.call("a", "ask").granted == 1


def test_a_renewal_by_a_thread_claims_nothing(room):
    gate = room(a=1)
    gate.call("a", "ask")
    gate.lose()
    assert gate.call("a", "thread").alive == 0
    assert not gate.state.expires


@pytest.mark.parametrize("key", ["sessions", "counts", "meta"])
def test_an_evicted_key_is_the_loss_of_all(room, key):
    gate = room(a=2, b=2, new=2)
    gate.call("a", "ask")
    gate.call("b", "ask", 2)
    gate.lose(key)
    assert gate.call("new", "ask").granted == 0
    gate.call("a", "renew")
    gate.call("b", "renew")
    gate.end_grace()
    gate.call("new", "renew")
    assert gate.held() == {"a": 1, "b": 1, "new": 0}


@pytest.mark.parametrize("what", ["leave", "thread", "renew"])
@pytest.mark.parametrize("key", ["sessions", "counts", "meta"])
def test_who_has_nothing_to_claim_leaves_the_remains_of_a_state_that_tell_of_a_loss(room, key, what):
    gate = room(a=1, b=1, new=1)
    gate.call("a", "ask")
    gate.call("b", "ask", 0)
    gate.lose(key)
    gate.call("b", what)
    assert gate.call("new", "ask").granted == 0
    gate.call("a", "renew")
    assert gate.held() == {"a": 1, "new": 0}


def test_who_stood_in_a_queue_that_was_evicted_stands_in_it_again_with_its_next_request(room):
    gate = room(a=1, b=1)
    gate.call("a", "ask")
    gate.call("b", "ask")
    gate.lose("queue")
    gate.call("a", "back")
    assert gate.held() == {"a": 0, "b": 0}
    gate.call("b", "renew")
    assert gate["b"].held == 1


def test_an_older_state_is_told_what_a_session_has_gained_since(room):
    gate = room(a=3)
    gate.call("a", "ask")
    older = gate.script.name()
    gate.script.copy(gate.name, older)
    gate.call("a", "ask")
    gate.script.copy(older, gate.name)
    gate.call("a", "renew")
    assert gate.held() == {"a": 2}


def test_a_session_that_an_older_state_does_not_know_is_told_so(room):
    gate = room(a=2, b=2)
    gate.call("a", "ask")
    older = gate.script.name()
    gate.script.copy(gate.name, older)
    gate.call("b", "ask")
    gate.script.copy(older, gate.name)
    assert gate.call("b", "renew").alive == 0


def test_a_young_server_grants_nothing_until_a_lease_has_passed_since_its_start(room):
    gate = room()
    gate.add(Client("a", 1, lease=24 * HOUR, recover=1))  # no server of these tests is older
    answer = gate.call("a", "ask")
    assert answer.granted == 0
    seconds = gate.script.redis.info("server")["uptime_in_seconds"]
    left = gate.state.grace - (gate.state.sessions["a0"] - 24 * HOUR)  # counted from the request
    assert 24 * HOUR - 1_000 * seconds <= left <= 24 * HOUR
    assert left - 60_000 < answer.soonest <= left
    gate.end_grace()
    assert gate.call("a", "renew").granted == 1


def test_a_server_that_is_older_than_a_lease_grants_at_once(room):
    gate = room()
    wait_until(lambda: gate.script.redis.info("server")["uptime_in_seconds"] >= 2)
    gate.add(Client("a", 1, lease=1_000, recover=1))
    assert gate.call("a", "ask").granted == 1


def test_without_recover_a_young_server_grants_at_once(room):
    gate = room()
    gate.add(Client("a", 1, lease=24 * HOUR, recover=0))
    assert gate.call("a", "ask").granted == 1


def test_a_server_that_does_not_tell_its_age_is_taken_for_young(new_server):
    server = new_server(user=["other on >word ~* &* +@all -info"])
    with Script(server, username="other", password="word") as script:
        gate = Room(script)
        wait_until(lambda: server.administration.info("server")["uptime_in_seconds"] >= 2)
        gate.add(Client("a", 1, lease=1_000, recover=1))
        assert gate.call("a", "ask").granted == 0
        assert gate.state.grace == gate.state.sessions["a0"]  # a lease from the request on
        gate.end_grace()
        assert gate.call("a", "renew").granted == 1


def test_the_time_for_claims_goes_on_when_the_last_session_leaves_in_it(room):
    gate = room(a=1, b=1, c=1)
    holds = gate.call("a", "ask")
    gate.lose()
    gate.call("a", "renew")
    grace = gate.state.grace
    gate.call("a", "back")
    gate.call("a", "leave")
    assert gate.state.meta == {"grace": grace} and gate.state.expires == {"meta": grace}
    assert gate.call("b", "ask").granted == 0
    assert gate.state.grace == grace
    # Who has outlived the loss brings a time of its own.
    late = gate.execute(gate.send("c", "ask")._replace(granted=1, asked=1, epoch=holds.epoch))
    assert late.granted == 1 and gate.state.grace >= grace


# --- A state that has gone back ---------------------------------------------------------------------------------------


@pytest.fixture
def gone_back(script):
    """A state of before `a` came, which held all when the server went back to it; `b` waited, and `c` had left."""
    name, older = script.name(), script.name()
    b = script.call(name, Request("b", limit=1, asked=0))
    script.copy(name, older)
    a = script.call(name, Request("a", limit=1, asked=1))
    b = script.call(name, Request("b", number=2, limit=1, asked=1, epoch=b.epoch, requests=a.requests))
    assert (a.granted, b.granted) == (1, 0)
    return older, a, b


def test_who_knows_more_than_the_state_gives_time_for_claims(script, gone_back):
    name, a, b = gone_back
    answer = script.call(name, Request("b", number=3, limit=1, asked=1, epoch=b.epoch, requests=b.requests))
    assert answer.epoch > b.epoch and answer.granted == 0
    assert script.look(name).grace == script.look(name).sessions["b"]  # a lease
    # `a` is not known, and would be told that its lease has ended if the state were the same.
    claim = script.call(
        name, Request("a", number=2, limit=1, granted=1, epoch=a.epoch, fence=a.fence, requests=a.requests)
    )
    assert (claim.alive, claim.epoch, claim.granted, claim.returned, claim.total) == (1, answer.epoch, 1, 0, 1)
    assert claim.requests < a.requests + 3  # it counts on from where it had been


def test_who_was_granted_more_than_the_state_knows_gives_time_for_claims(script):
    """The count has caught up meanwhile, by newcomers' requests."""
    name, older = script.name(), script.name()
    epoch = script.call(name, Request("a", limit=2)).epoch
    script.copy(name, older)
    a = script.call(name, Request("a", number=2, limit=2, asked=1, epoch=epoch))
    for number in range(5):
        script.call(older, Request(f"new {number}", limit=2))
    assert script.look(older).meta["requests"] > a.requests
    claim = script.call(
        older, Request("a", number=3, limit=2, granted=1, asked=1, epoch=epoch, fence=a.fence, requests=a.requests)
    )
    assert (claim.granted, claim.returned) == (1, 0) and claim.epoch > epoch
    assert script.look(older).grace == script.look(older).sessions["a"]
    assert script.call(older, Request("b", limit=2, asked=1)).granted == 0


def test_who_knows_as_much_as_the_state_changes_nothing(script, gone_back):
    name, a, b = gone_back
    requests = script.look(name).meta["requests"]
    for known in 0, requests:
        answer = script.call(name, Request("b", number=3, limit=1, asked=0, epoch=b.epoch, requests=known))
        assert answer.epoch == b.epoch and script.look(name).grace == 0


def test_what_was_known_of_another_state_says_nothing_of_this_one(script, gone_back):
    name, a, b = gone_back
    answer = script.call(name, Request("b", number=3, limit=1, asked=1, epoch=b.epoch - 1, requests=b.requests))
    assert answer.epoch == b.epoch
    # It has outlived that one, as others may have.
    assert script.look(name).grace == b.epoch // 1_000 + HOUR


def test_who_leaves_a_state_that_has_gone_back_leaves_the_time_for_claims_to_others(script):
    name, older = script.name(), script.name()
    last = {}
    for sid in "abc":
        last[sid] = script.call(name, Request(sid, limit=2))
    script.copy(name, older)
    for sid in "ab":
        last[sid] = script.call(name, Request(sid, number=2, limit=2, asked=1, epoch=last[sid].epoch))
        assert last[sid].granted == 1
    epoch, known = last["c"].epoch, last["b"].requests
    assert script.call(older, Request("c", lease=0, number=2, epoch=epoch, requests=known)).epoch > epoch
    claim = script.call(older, Request("a", number=0, limit=2, granted=1, epoch=epoch, requests=known))
    assert claim.total == 1
    # `b` has not come yet.
    assert script.call(older, Request("new", limit=2, asked=1)).granted == 0
    claim = script.call(older, Request("b", number=3, limit=2, granted=1, asked=1, epoch=epoch, requests=known))
    assert (claim.granted, claim.returned, claim.total) == (1, 0, 2)


# --- The fencing token ------------------------------------------------------------------------------------------------


def test_each_grant_has_a_higher_fence(room):
    gate = room(a=1, b=1)
    fences = []
    for name in "abab":
        fences.append(gate.call(name, "ask").fence)
        gate.call(name, "back")
    assert fences == sorted(set(fences))


def test_the_fence_goes_on_when_all_have_left_and_when_all_keys_are_lost(room):
    gate = room(a=1, b=1)
    first = gate.call("a", "ask").fence
    gate.call("a", "leave")
    second = gate.call("b", "ask").fence
    gate.call("b", "back")
    gate.lose()
    # A session has seen a token from a clock that was ahead of this one.
    ahead = second + 3_600_000_000
    request = gate.send("b", "ask")._replace(fence=ahead)
    gate.execute(request)
    gate.end_grace()
    assert first < second < ahead < gate.call("b", "renew").fence


def test_counters_have_room_for_all_that_ever_happens(room):
    gate = room()
    million = 10**15
    gate.script.checked_call(
        gate.name, Request("a", limit=2, number=million, granted=million, returned=million, asked=million + 1)
    )
    assert gate.state.records["a"].granted == million + 1
