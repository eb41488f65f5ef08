"""The script of the shared limit on a real server: what it is asked, what it leaves there, and what must hold of both.

    script = Script(server)
    name = script.name()
    answer = script.call(name, Request("a", limit=2, number=1, asked=1))
    state = script.look(name)

`check()` looks at one call: the state before, the request, its answer, the state after, what was published. It knows the rules in
their plainest form (one permit at a time, lists instead of sorted sets), so each test only has to make calls in some order.

A `Client` is what a session's process knows. It never changes; what happens to it makes a new one. Requests that it has sent are kept,
to be executed again late. When it has left, or is told that its lease has ended, its next request is that of a new session.
"""

import dataclasses
import functools
import importlib.util
import itertools
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(importlib.util.find_spec("gatedcoro").origin).parent / "shared" / "_sync.lua"
KEYS = ("sessions", "counts", "queue", "meta")
NEEDED = {"sessions", "counts", "meta"}  # a state without one of them is none
META = ("epoch", "requests", "total", "arrivals", "fence", "grace", "bound")
HOUR = 3_600_000  # a lease that ends only when a test says so, in milliseconds

LOOK = """
local expires = {}
for i, key in ipairs(KEYS) do expires[i] = redis.call('PEXPIRETIME', key) end
return {redis.call('TIME'), redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[2]),
  redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[4]), expires}
"""

COPY = "for i = 1, 4 do redis.call('DEL', KEYS[4 + i]); redis.call('COPY', KEYS[i], KEYS[4 + i]) end"


class Request(NamedTuple):
    """The arguments of the script, in its order but for the last, the channels."""

    session: str
    lease: int = HOUR  # 0: it leaves
    limit: int = 1
    number: int = 1
    granted: int = 0
    returned: int = 0
    asked: int = 0
    epoch: int = 0  # 0: a new session
    fence: int = 0
    recover: int = 0
    requests: int = 0


class Answer(NamedTuple):
    alive: int
    epoch: int
    granted: int
    returned: int
    fence: int
    waiting: int  # other sessions
    least: int
    total: int
    sessions: int
    requests: int
    soonest: int


class Message(NamedTuple):
    """What is published: to a session that gained by another's request, or (channel "news") to all."""

    channel: str
    sender: str
    epoch: int
    granted: int
    fence: int
    waiting: int
    least: int
    total: int
    sessions: int
    requests: int


class Record(NamedTuple):
    granted: int = 0
    returned: int = 0
    asked: int = 0
    limit: int = 1
    number: int = 0
    arrival: int = 0
    fence: int = 0

    @property
    def held(self):
        return self.granted - self.returned

    @property
    def waits(self):
        return self.asked > self.granted


class State(NamedTuple):
    """What lies on the server for one name, at a moment of its clock (milliseconds)."""

    now: int
    meta: dict
    sessions: dict  # when each lease ends
    records: dict
    queue: tuple  # (arrival, session, held) in the server's order
    expires: dict  # when each key that exists does

    @property
    def is_complete(self):
        return self.expires.keys() >= NEEDED and self.meta.keys() >= set(META)

    @property
    def total(self):
        return sum(record.held for record in self.records.values())

    @property
    def grace(self):
        return self.meta["grace"]

    def others(self, session):
        """How many others wait, and the least that one of them holds."""
        held = [score for _, sid, score in self.queue if sid != session]
        return len(held), min(held, default=0)


class Script:
    """The script on a server, through a connection of its own, and a second one that hears what is published."""

    def __init__(self, server, **login):
        import redis

        self._redis = redis.Redis(*server.address, decode_responses=True, **login)
        self._hearing = self._redis.pubsub()
        self._hearing.psubscribe("*")
        assert self._hearing.get_message(timeout=60)["type"] == "psubscribe"
        self.redis = self._redis
        self.sync = self._redis.script_load(SOURCE.read_text())
        self.looking = self._redis.script_load(LOOK)
        self.copying = self._redis.script_load(COPY)
        self._names = itertools.count()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._hearing.close()
        self._redis.close()

    def name(self):
        """A name that nobody has used."""
        return f"gate:{{{next(self._names)}}}:"

    def call(self, name, request):
        return self.calls([("call", name, request)])[0]

    def look(self, name):
        return self.calls([("look", name)])[0]

    def copy(self, name, other):
        self.calls([("copy", name, other)])

    def run(self, *command):
        return self.calls([("run", *command)])[0]

    def calls(self, steps):
        """Many steps on one trip to the server: (what, name, ...); returns an answer for each."""
        pipeline = self._redis.pipeline(transaction=False)
        for what, *rest in steps:
            if what == "run":
                pipeline.execute_command(*rest)
                continue
            name, *rest = rest
            keys = keys_of(name)
            if what == "call":
                pipeline.evalsha(self.sync, 4, *keys, *rest[0], name)
            elif what == "look":
                pipeline.evalsha(self.looking, 4, *keys)
            else:
                pipeline.evalsha(self.copying, 8, *keys, *keys_of(rest[0]))
        answers = pipeline.execute()
        for i, (what, *_) in enumerate(steps):
            if what == "call":
                answers[i] = Answer(*answers[i])
            elif what == "look":
                answers[i] = state_of(*answers[i])
        return answers

    def end_lease(self, name, session):
        """Its lease ends at this moment, as far as the server knows."""
        self.run("ZADD", name + "sessions", "XX", self.look(name).now, session)

    def end_grace(self, name):
        """Sessions have had the time to claim what they hold."""
        state = self.look(name)
        if state.is_complete and state.grace > state.now:
            self.run("HSET", name + "meta", "grace", state.now)

    def messages(self):
        """What has been published since the last look: {name: [Message, ...]}."""
        self._redis.publish("end", "")
        found = {}
        while (heard := self._hearing.get_message(timeout=60))["channel"] != "end":
            assert heard["type"] == "pmessage"
            name, colon, channel = heard["channel"].rpartition(":")
            sender, *numbers = heard["data"].split(" ")
            found.setdefault(name + colon, []).append(Message(channel, sender, *map(int, numbers)))
        return found

    def checked_call(self, name, request):
        """A call by itself, looked at; its answer, what it published and what it left."""
        before, answer, after = self.calls([("look", name), ("call", name, request), ("look", name)])
        messages = self.messages().get(name, [])
        check(before, request, answer, after, messages)
        return answer, messages, after


@functools.lru_cache(maxsize=100_000)
def keys_of(name):
    return tuple(name + key for key in KEYS)


def pairs(flat):
    return zip(flat[::2], flat[1::2])


def state_of(time, sessions, counts, queue, meta, expires):
    entries = []
    for member, held in pairs(queue):
        arrival, _, session = member.partition(":")
        entries.append((int(arrival), session, int(held)))
    return State(
        now=int(time[0]) * 1_000 + int(time[1]) // 1_000,
        meta={field: int(value) for field, value in pairs(meta)},
        sessions={session: int(ends) for session, ends in pairs(sessions)},
        records={session: Record(*map(int, text.split(" "))) for session, text in pairs(counts)},
        queue=tuple(entries),
        expires={key: when for key, when in zip(KEYS, expires) if when != -2},
    )


# --- What must hold ---------------------------------------------------------------------------------------------------


def check(before, request, answer, after, messages):
    """One call: AssertionErrors say what is wrong, and show all of it."""
    try:
        _check(before, request, answer, after, messages)
    except AssertionError as error:
        story = [("before", before), ("request", request), ("answer", answer), ("after", after), ("messages", messages)]
        error.add_note("\n".join(f"{what:9}{seen}" for what, seen in story))
        raise


def _check(before, request, answer, after, messages):
    sid, leaves = request.session, request.lease == 0
    complete = before.is_complete
    records = before.records if complete else {}
    queue = before.queue if complete else ()
    is_lost = sid not in records and request.epoch != 0
    # The state is an older one: somebody knows of more.
    has_gone_back = complete and request.epoch == before.meta["epoch"]
    has_gone_back = has_gone_back and (
        request.requests > before.meta["requests"] or (sid in records and request.granted > records[sid].granted)
    )
    if not complete or has_gone_back or request.epoch != before.meta["epoch"]:
        holds_or_wants = request.granted > request.returned or request.asked > request.granted
        is_lost = is_lost and (request.number == 0 or not holds_or_wants)
    if not complete and (leaves or is_lost):
        # What remains shows that there are sessions that will claim what they hold.
        assert after._replace(now=before.now) == before
        assert answer == (0 if is_lost else 1, request.epoch, request.granted, request.granted, *[0] * 6, -1)
        assert not messages
        return
    stays = not leaves and not is_lost
    # The moment of the call: known if it has renewed a lease.
    now = after.sessions[sid] - request.lease if stays else after.now
    assert before.now <= now <= after.now

    # The state as a whole
    if not after.sessions:
        # The time for claims goes on.
        kept = {"grace": before.grace} if complete and before.grace > now else {}
        assert after.meta == kept and after.expires == {"meta": when for when in kept.values()}, "no session, but keys"
    else:
        check_state(after, request.lease, now, all_wait=is_whole(before))
    epoch = before.meta["epoch"] if complete and not has_gone_back else answer.epoch
    assert epoch // 1_000 >= before.now or (complete and not has_gone_back), "an old epoch"
    if after.sessions:
        assert after.meta["epoch"] == epoch
        assert not complete or after.meta["fence"] >= before.meta["fence"]
        if has_gone_back:
            assert after.grace == max(before.grace, now + request.lease) or not stays
        else:
            check_grace(before, request, after, now, stays)
    requests = 1 + (before.meta["requests"] if complete else 0)
    assert answer.requests == requests
    assert not after.sessions or after.meta["requests"] == requests
    grace = after.grace if after.sessions else (before.grace if complete else 0)

    # Who is there
    dead = {other for other, ends in before.sessions.items() if ends <= now and other != sid} if complete else set()
    expected = {other: ends for other, ends in before.sessions.items() if other not in dead} if complete else {}
    expected.pop(sid, None)
    if stays:
        expected[sid] = now + request.lease
    assert after.sessions == expected

    # Its own record, before anything is granted
    known = {other: record for other, record in records.items() if other in expected and other != sid}
    arrivals = before.meta["arrivals"] if complete else 0
    limit_falls = False
    if stays:
        old = records.get(sid, Record())
        limit_falls = sid in records and request.number > old.number and request.limit < old.limit
        own = own_record(old, request, sum(record.held for record in known.values()))
        if not own.waits:
            own = own._replace(arrival=0)
        elif not old.arrival or own.returned > old.returned:
            arrivals += 1
            own = own._replace(arrival=arrivals)
        known[sid] = own

    # What was granted
    gained = {other: after.records[other].granted - record.granted for other, record in known.items()}
    gained = {other: more for other, more in gained.items() if more}
    fence = max(before.meta["fence"] if complete else 0, request.fence if stays else 0)
    assert all(more > 0 for more in gained.values()), "granted fell"
    assert not gained or now >= grace, "a grant in the grace"
    assert not gained or after.total <= max(known[other].limit for other in gained), "above the limit"
    for other, record in known.items():
        found = after.records[other]
        expected_record = record
        if other in gained:
            assert found.granted <= found.asked, "more than was asked for"
            assert found.fence > fence, "a fence that does not grow"
            assert not found.waits or found.arrival > arrivals, "gained, and not behind the others"
            expected_record = record._replace(granted=found.granted, fence=found.fence, arrival=found.arrival)
        assert found == expected_record, f"{other}: not as it should be"
    if now >= grace:
        queued = {other for _, other, _ in queue} | {sid}
        check_fairness({other: record for other, record in known.items() if other in queued}, after, known)

    # What was published
    expected_messages = {
        other: Message(
            other,
            sid,
            epoch,
            after.records[other].granted,
            after.records[other].fence,
            *after.others(other),
            *sizes(after, requests),
        )
        for other in gained
        if other != sid
    }
    least_before = min((held for _, _, held in queue), default=None)
    least = min((held for _, _, held in after.queue), default=None)
    if (least is not None and (least_before is None or least < least_before)) or (
        limit_falls and after.total > request.limit
    ):
        expected_messages["news"] = Message(
            "news", sid, epoch, 0, 0, len(after.queue), least or 0, *sizes(after, requests)
        )
    assert len(messages) == len(expected_messages), "not as many messages as there should be"
    assert {message.channel: message for message in messages} == expected_messages

    # The answer
    ends = [end for other, end in after.sessions.items() if other != sid]
    if now < grace:
        ends.append(grace)
    if ends:
        assert max(0, min(ends) - now) <= answer.soonest <= max(0, min(ends) - (now if stays else before.now))
    else:
        assert answer.soonest == -1
    if stays:
        found = after.records[sid]
        expected_answer = (
            1,
            epoch,
            found.granted,
            found.returned,
            found.fence,
            *after.others(sid),
            *sizes(after, requests),
        )
    else:
        expected_answer = (
            0 if is_lost else 1,
            epoch,
            request.granted,
            request.granted,
            0,
            0,
            0,
            *sizes(after, requests),
        )
    assert answer[:-1] == expected_answer


def sizes(state, requests):
    return state.total, len(state.sessions), requests


def is_whole(state):
    """Whether all that wait stand in the queue: not so if the queue is the key that was evicted, until they come again."""
    waiting = {sid for sid, record in state.records.items() if record.waits}
    return not state.is_complete or waiting == {sid for _, sid, _ in state.queue}


def own_record(old, request, held_by_others):
    """What becomes of a session's record by its own request, but for grants and its place in the queue."""
    granted = max(old.granted, request.granted)
    returned = max(old.returned, request.returned)
    claimed = granted - returned - old.held  # what the server has forgotten
    revoked = max(0, claimed - max(0, request.limit - held_by_others - old.held))
    new = old._replace(granted=granted, returned=returned + revoked, fence=max(old.fence, request.fence))
    if request.number > old.number:
        new = new._replace(number=request.number, asked=request.asked, limit=request.limit)
    return new


def check_state(state, lease, now, all_wait=True):
    """What holds of a state by itself; *lease* is that of the last request."""
    meta, records = state.meta, state.records
    waiting = {sid: record for sid, record in records.items() if record.waits}
    assert meta.keys() == set(META)
    assert state.expires.keys() == NEEDED | ({"queue"} if state.queue else set())
    assert records.keys() == state.sessions.keys()
    assert meta["total"] == state.total
    assert all(0 <= record.returned <= record.granted for record in records.values())
    assert all(record.fence <= meta["fence"] for record in records.values())
    # Who waits is in the queue once, others are not.
    expected = sorted((record.held, record.arrival, sid) for sid, record in waiting.items())
    found = [(held, arrival, sid) for arrival, sid, held in state.queue]
    assert found == expected if all_wait else set(found) <= set(expected)
    assert all((record.arrival > 0) == (sid in waiting) for sid, record in records.items())
    assert all(record.arrival <= meta["arrivals"] for record in records.values())
    assert len({record.arrival for record in waiting.values()}) == len(waiting)
    assert all(records[sid].limit <= meta["bound"] for _, sid, _ in state.queue)
    if now >= meta["grace"]:
        for _, sid, _ in state.queue:
            assert records[sid].limit <= state.total, f"{sid} waits, and there is room"
    # The keys outlive the last session by the lease of who came last, and the time for claims.
    for key, when in state.expires.items():
        assert when == max(max(state.sessions.values()) + lease, meta["grace"]), f"{key} expires at another time"


def check_grace(before, request, after, now, stays):
    """Until when nothing is granted."""
    if not before.is_complete:
        if before.meta.keys() == {"grace"} and not request.epoch:
            assert after.grace == before.grace, "the time for claims does not go on"
        elif request.epoch or before.expires.keys() & NEEDED:
            assert after.grace == now + request.lease, "sessions have no time to claim what they hold"
        elif not request.recover:
            assert after.grace == 0
        else:
            assert after.grace <= now + request.lease
    elif stays and request.epoch > 0 and request.epoch != before.meta["epoch"]:
        assert after.grace == max(before.grace, before.meta["epoch"] // 1_000 + request.lease)
    else:
        assert after.grace == before.grace


def check_fairness(waiting, after, known):
    """Grants went to who held least, then to who had waited longest, one permit at a time.

    Where more than two permits were free, ties may have been decided in another way; and one with a lower limit than others may have
    come to nothing, as more than one permit is granted at a time.
    """
    fair = dict(waiting)
    total = sum(record.held for record in known.values())
    limits = {record.limit for record in waiting.values() if record.waits}
    if len(limits) > 1 and max(limits) - total > 2:
        return
    arrivals = max((record.arrival for record in known.values()), default=0)
    steps = 0
    while hopeful := [sid for sid, record in fair.items() if record.waits and record.limit > total]:
        first = min(hopeful, key=lambda sid: (fair[sid].held, fair[sid].arrival))
        total, arrivals, steps = total + 1, arrivals + 1, steps + 1
        fair[first] = fair[first]._replace(granted=fair[first].granted + 1, arrival=arrivals)
    assert total == after.total, "free permits, or too many grants"
    for sid, record in fair.items():
        difference = abs(record.granted - after.records[sid].granted)
        assert difference <= (0 if steps <= 2 else 1), f"{sid} should have been granted {record.granted} in all"


# --- A session's client -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Client:
    """What one process knows. *sent* are requests of this session and of those before it, which may be executed late."""

    name: str
    limit: int
    lease: int = HOUR
    recover: int = 0
    generation: int = 0
    number: int = 0
    granted: int = 0
    returned: int = 0
    asked: int = 0
    epoch: int = 0
    fence: int = 0
    sent: tuple = ()

    @property
    def session(self):
        return f"{self.name}{self.generation}"

    @property
    def held(self):
        return self.granted - self.returned

    @property
    def is_there(self):
        """Whether it has ever sent a request, as the session that it is now."""
        return self.number > 0

    def can(self, what):
        if what == "back":
            return self.held > 0
        if what == "withdraw":
            return self.asked > self.granted
        if what == "thread":
            return self.epoch > 0
        return what == "ask" or self.is_there

    def does(self, what, more=1):
        """The client after it has sent a request, and the request.

        "ask", "back" and "withdraw" change what it wants and holds, "renew" nothing, "thread" is a renewal from another thread, "leave"
        and "let go" end the session; with the latter the server keeps a record until the lease has ended, for late requests.
        """
        number, asked, returned = self.number + 1, self.asked, self.returned
        if what == "ask":
            asked = max(asked, self.granted) + more
        elif what == "back":
            returned += more
        elif what == "withdraw":
            asked = self.granted
        elif what in ("leave", "let go"):
            asked = returned = self.granted
        elif what == "thread":
            number = asked = 0
        request = Request(
            self.session,
            0 if what == "leave" else self.lease,
            self.limit,
            number,
            self.granted,
            returned,
            asked,
            self.epoch,
            self.fence,
            self.recover,
        )
        new = dataclasses.replace(self, sent=(*self.sent, request))
        if what in ("leave", "let go"):
            return new.next_session(), request
        if what != "thread":
            new = dataclasses.replace(new, number=number, asked=asked, returned=returned)
        return new, request

    def with_limit(self, limit):
        return dataclasses.replace(self, limit=limit)

    def next_session(self):
        return Client(self.name, self.limit, self.lease, self.recover, self.generation + 1, sent=self.sent)

    def hears(self, request, answer):
        """An answer arrives, perhaps late."""
        if request.session != self.session or not request.number:
            return self
        if not answer.alive:
            return self.next_session()
        return dataclasses.replace(
            self,
            epoch=max(self.epoch, answer.epoch),
            granted=max(self.granted, answer.granted),
            returned=max(self.returned, answer.returned),
            fence=max(self.fence, answer.fence),
        )

    def is_told(self, message):
        """A message arrives."""
        if message.channel != self.session:
            return self
        return dataclasses.replace(
            self, granted=max(self.granted, message.granted), fence=max(self.fence, message.fence)
        )
