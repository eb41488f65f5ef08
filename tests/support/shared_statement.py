"""What the statement of PostgresLimit is to do, and connections that run it: for each call both are asked, and compared.

    async with Statement(url, number=3) as statement:
        await statement.set(Session(held=1), None, Session(wants=2, since=5), limit=2)
        await statement.ask(0, keeps=0, wants=1)

The rulebook is written without a look at the SQL: permits are given out one at a time. A session that is None has not begun, or has left.
"""

import copy
import dataclasses
import itertools

import asyncpg

from gatedcoro.shared._postgres import STATEMENT, keys_of


@dataclasses.dataclass
class Session:
    held: int = 0
    wants: int = 0
    since: int = 0  # when it came to wait: a number that grows
    limit: int = 2
    late_in: int = 60_000  # milliseconds

    @property
    def waits(self):
        return self.wants > 0


@dataclasses.dataclass
class Said:
    """The answer, and who is to be told what."""

    gained: int
    standing: tuple
    news: bool  # to all
    first: set  # those that gain if they come now


class Rulebook:
    """All sessions of a name, by number."""

    def __init__(self, sessions):
        self.sessions = sessions
        self.absent = set()  # numbers: passed over
        self.time = 0

    @property
    def total(self):
        return sum(one.held for one in self.sessions.values())

    def waiting(self, but=None):
        return [one for number, one in self.sessions.items() if one.waits and number not in (but, *self.absent)]

    def gain_of(self, number):
        """How many it gets if all that is free is given out now, one after the other."""
        sessions = copy.deepcopy(self.sessions)
        before = sessions[number].held
        while True:
            total = sum(one.held for one in sessions.values())
            may = [one for key, one in sessions.items() if one.waits and total < one.limit and key not in self.absent]
            if not may:
                return sessions[number].held - before
            first = min(may, key=lambda one: (one.held, one.since))
            first.held += 1
            first.wants -= 1

    def ask(self, number, keeps, wants, limit, leaves=False):
        self.time += 1
        least_before = min((one.held for one in self.waiting()), default=None)
        former = self.sessions.get(number, Session())
        own = Session(keeps, wants, former.since if former.waits and former.held == keeps else self.time, limit)
        self.sessions[number] = own
        gained = self.gain_of(number)
        own.held, own.wants = keeps + gained, wants - gained
        if gained:
            own.since = self.time
        if leaves:
            del self.sessions[number]
        others = self.waiting(but=number)
        least = min((one.held for one in self.waiting()), default=None)
        return Said(
            gained=gained,
            standing=(len(others), self.total, len(self.sessions)),
            news=(least is not None and (least_before is None or least < least_before))
            or (number in self.sessions and former.limit > limit and self.total > limit),
            first={other for other in self.sessions if other != number and self.gain_of(other)},
        )


class Statement:
    """Connections to a server, each with a session of the name or none."""

    def __init__(self, url, number, name="name", before=""):
        self.url = url
        self.number = number
        self.keys = keys_of(name)
        self.before = before  # what else is said to each connection

    async def __aenter__(self):
        self.connections, self.statements, self.heard = [], [], [[] for _ in range(self.number)]
        for messages in self.heard:
            connection = await asyncpg.connect(self.url)
            self.connections.append(connection)
            await connection.execute(f"SET plan_cache_mode = force_generic_plan; SET jit = off; {self.before}")
            self.statements.append(await connection.prepare(STATEMENT))
            await connection.add_listener(self.keys.channel, lambda *said, messages=messages: messages.append(said))
        self.pids = [connection.get_server_pid() for connection in self.connections]
        self.rulebook = Rulebook({})
        self.clock = 0
        return self

    async def __aexit__(self, *exc_info):
        for connection in self.connections:
            await connection.close()

    async def set(self, *sessions):
        """Let these be the sessions, whatever has been before."""
        self.rulebook = Rulebook({})
        now = await self.now()
        for number, session in enumerate(sessions):
            await self.set_one(number, session, now)

    async def now(self):
        """Milliseconds, by the server's clock."""
        return await self.connections[0].fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")

    async def set_one(self, number, session, now=0):
        """None: as the end of its connection does it."""
        query = ["SELECT pg_advisory_unlock_all()"]
        for key, value in self.fields(session, now) if session else ():
            query.append(f"pg_advisory_lock_shared({key}, ({value})::bit(32)::int)")
        await self.connections[number].execute(", ".join(query))
        self.rulebook.sessions.pop(number, None)
        if session:
            self.rulebook.sessions[number] = copy.copy(session)
            self.rulebook.time = max(self.rulebook.time, session.since)

    def fields(self, session, now):
        """Those locks that it has."""
        since = (now - 1_000 + session.since) % 2**32
        until = (now + session.late_in) % 2**32
        values = (
            self.keys.member_value,
            session.held,
            session.wants,
            session.limit,
            since if session.waits else 0,
            until,
        )
        for key, value in zip(self.keys[1:7], values):
            if value or key == self.keys.member:
                yield key, value

    async def locks(self):
        """All that the server has of each session, as it is stored but for the times."""
        query = (
            "SELECT pid, classid::bigint, objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND pid = ANY ($1)"
        )
        found = {}
        for pid, key, value in await self.connections[0].fetch(query, self.pids):
            found.setdefault(self.pids.index(pid), {})[key] = value
        return found

    async def messages(self):
        """What each session has been told: {number: [(sender, text), ...]}."""
        for connection in self.connections:
            await connection.execute("SELECT")  # messages come before its answer
        found = {}
        for number, messages in enumerate(self.heard):
            for _, pid, _, payload in messages:
                found.setdefault(number, []).append((self.pids.index(pid), payload))
            messages.clear()
        return found

    async def names(self):
        """What each session is called in the statement: another name whenever it has said something."""
        until = self.keys.until % 2**32
        return {number: f"{self.pids[number]}:{found[until]}" for number, found in (await self.locks()).items()}

    async def ask(self, number, keeps, wants, limit=2, leaves=False, called=(), absent=(), late=()):
        """Ask the server and the rulebook; compare what both say, and what the server has then.

        called, absent: numbers of other sessions. late: those of which the answer says so.
        """
        names = await self.names()
        former = self.rulebook.sessions.get(number, Session())
        self.rulebook.absent = set(absent)
        expected = self.rulebook.ask(number, keeps, wants, limit, leaves)
        words = [" ".join(names[other] for other in others) for others in (called, absent)]
        row = await self.statements[number].fetchval(*self.keys, keeps, wants, limit, leaves, 60_000, *words)
        numbers, first, are_late = (part.split() for part in row.split("/"))
        held, gained, fence, others, least, total, sessions, moment = map(int, numbers)
        assert (held, gained) == (former.held, expected.gained)
        assert (others, total, sessions) == expected.standing
        assert (fence > 0) == (gained > 0)
        waiting = self.rulebook.waiting(but=number)
        free = max(0, max((one.limit for one in waiting), default=0) - total)
        poorest = min((one.held for one in waiting), default=0)
        assert poorest <= least <= poorest + free
        of_name = {name: other for other, name in names.items()}
        first = {of_name[name] for name in first}
        assert first == expected.first | ({*absent} & set(self.rulebook.sessions))
        assert {of_name[name] for name in are_late} == set(late)
        await self.compare()
        told = await self.messages()
        if not told:
            assert not expected.news and expected.first <= {*called}, (expected, first)
            return
        assert told.keys() == set(range(self.number))  # it listens whether it has a session or not
        assert len({payload for _, payload in itertools.chain(*told.values())}) == 1
        [(sender, payload)] = told[number]
        numbers, are_called = (part.split() for part in payload.split("/"))
        at, count, least, total, sessions = map(int, numbers)
        assert (sender, at) == (number, moment)
        assert expected.news or are_called
        assert (count, total, sessions) == (
            len(self.rulebook.waiting()),
            self.rulebook.total,
            len(self.rulebook.sessions),
        )
        assert {of_name[name] for name in are_called} == expected.first - {*called}

    async def compare(self):
        """The server has what the rulebook has."""
        found = await self.locks()
        expected = {}
        for number, session in self.rulebook.sessions.items():
            fields = {key % 2**32: value for key, value in self.fields(session, 0)}
            expected[number] = fields | {self.keys.member % 2**32: self.keys.member_value % 2**32}
        for key in (self.keys.arrival % 2**32, self.keys.until % 2**32):  # times
            have, should = (
                {number for number, fields in of.items() if fields.pop(key, None) is not None}
                for of in (found, expected)
            )
            assert have == should
        assert found == expected
