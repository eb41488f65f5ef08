"""A server of permits in memory, by the rules of gatedcoro/shared/_sync.lua, and lines to it that can be slow, cut or lie.

What a limit does in its own process needs no more of a server. Time is the clock of gatedcoro.shared, which tests replace.
"""

import asyncio
import dataclasses

from gatedcoro.shared import _permits
from gatedcoro.shared._limit import SharedLimit
from gatedcoro.shared._state import Answer, Message, Standing

NAME = "calls"


class Refused(Exception):
    """What a server says that refuses for good."""


@dataclasses.dataclass
class Record:
    """What the server knows of a session."""

    limit: int
    expires: float
    granted: int = 0
    returned: int = 0
    asked: int = 0
    number: int = 0
    arrival: int = 0
    fence: int = 0

    @property
    def held(self):
        return self.granted - self.returned

    @property
    def waits(self):
        return self.asked > self.granted


class Server:
    """What `_sync.lua` does, one session at a time. `lines` are all that lead to it."""

    def __init__(self, *, lease=30.0):
        self.lease = lease
        self.records = {}
        self.subscribers = {}
        self.lines = []
        self.epoch = 1
        self.requests = self.arrivals = self.fence = 0
        self.grace = 0.0

    def line(self, **options):
        return Line(self, **options)

    def limit(self, limit, *, line=None, on_lost="cancel", renew_in_thread=False, **options):
        """A limit as another process would have one."""
        line = line or self.line(**options)
        return SharedLimit(line, NAME, limit, on_lost=on_lost, renew_in_thread=renew_in_thread)

    @property
    def now(self):
        return _permits.clock()

    @property
    def total(self):
        return sum(record.held for record in self.records.values())

    def forget(self):
        """Restart without what it knew: sessions have a lease's time to claim what they hold."""
        self.records.clear()
        self.epoch += 1
        self.requests = 0
        self.grace = self.now + self.lease

    def prune(self, but=None):
        for session in [one for one, record in self.records.items() if record.expires <= self.now and one != but]:
            del self.records[session]

    def waiting(self, but=None):
        """Who is served first, first."""
        waiting = [(record.held, record.arrival, one) for one, record in self.records.items() if record.waits]
        return [self.records[one] for _, _, one in sorted(waiting) if one != but]

    def least(self, but=None):
        waiting = self.waiting(but)
        return waiting[0].held if waiting else None

    def standing(self, session=None):
        least = self.least(but=session) or 0
        return Standing(len(self.waiting(but=session)), least, self.total, len(self.records), self.requests)

    def serve(self, request, *, leaves=False):
        """Carry a request out, tell others what it changes for them, return the answer."""
        least_before = self.least()
        session, number = request.session, request.number
        own = self.records.get(session)
        knows_more = request.version > self.requests or (own is not None and request.granted > own.granted)
        if request.epoch == self.epoch and knows_more:  # it has gone back
            self.epoch += 1
            self.grace = max(self.grace, self.now + self.lease)
        has_nothing = request.granted == request.returned and request.asked <= request.granted
        is_lost = own is None and request.epoch != 0 and (request.epoch == self.epoch or number == 0 or has_nothing)
        self.prune(but=session)
        self.requests += 1
        limit_falls = False
        if leaves:
            self.records.pop(session, None)
        elif not is_lost:
            if own is None:
                own = self.records[session] = Record(request.limit, 0)
            own.expires = self.now + self.lease
            held_before, returned_before = own.held, own.returned
            room = max(0, request.limit - self.total)
            own.granted = max(own.granted, request.granted)
            own.returned = max(own.returned, request.returned)
            claimed = own.held - held_before
            if claimed > room:
                own.returned += claimed - room
            own.fence = max(own.fence, request.fence)
            self.fence = max(self.fence, own.fence)
            if number > own.number:
                limit_falls = request.limit < own.limit
                own.number, own.asked, own.limit = number, request.asked, request.limit
            if own.returned > returned_before or not own.waits:
                own.arrival = 0
            self.queue(own)
        gained = self.grant() if self.now >= self.grace else set()
        for other in gained - {session}:
            self.publish(session, other, self.records[other])
        least = self.least()
        is_news = least is not None and (least_before is None or least < least_before)
        if is_news or (limit_falls and self.total > request.limit):
            for other in set(self.subscribers):  # whoever caused it as well
                self.publish(session, other, None)
        ends = [record.expires for one, record in self.records.items() if one != session]
        ends += [self.grace] if self.now < self.grace else []
        soonest = max(0.0, min(ends) - self.now) if ends else None
        if leaves or is_lost:
            return Answer(not is_lost, self.epoch, request.granted, request.granted, 0, self.standing(), soonest)
        return Answer(True, self.epoch, own.granted, own.returned, own.fence, self.standing(session), soonest)

    def queue(self, record):
        if record.waits and not record.arrival:
            self.arrivals += 1
            record.arrival = self.arrivals

    def grant(self):
        gained = set()
        while first := next((one for one in self.waiting() if self.total < one.limit), None):
            self.fence += 1
            first.granted += 1
            first.fence = self.fence
            first.arrival = 0
            self.queue(first)
            gained.update(one for one, record in self.records.items() if record is first)
        return gained

    def publish(self, sender, session, record):
        if line := self.subscribers.get(session):
            granted, fence = (record.granted, record.fence) if record else (0, 0)
            line.deliver(Message(sender, self.epoch, granted, fence, self.standing(session)))


class Line:
    """The State of one process: its connections to a Server.

    delay, answer_delay, message_delay: seconds that a request, its answer and a message take.
    error: what a request raises, before it reaches the server; answer_error: after it was carried out.
    hangs: requests get no answer and do not arrive. drops: messages are lost.
    """

    where = "the server in memory"
    ends_with_connection = False

    def __init__(self, server, *, delay=0.0, answer_delay=0.0, message_delay=0.0):
        self.server = server
        self.delay, self.answer_delay, self.message_delay = delay, answer_delay, message_delay
        self.error = self.answer_error = self.listen_error = self.leave_error = None
        self.hangs = self.drops = False
        self.at_once = False
        self.requests = []
        self.leaves = []
        self.forgotten = []
        self.closed = 0
        self.answer = lambda answer: answer
        self.heard = {}
        server.lines.append(self)

    @property
    def lease(self):
        return self.server.lease

    async def sync(self, request):
        self.requests.append(request)
        if not self.at_once:
            await self._arrive(self.delay, self.error)
        elif self.error:
            raise self.error
        answer = self.server.serve(request)
        if not self.at_once:
            await self._arrive(self.answer_delay, self.answer_error)
        return self.answer(answer)

    async def leave(self, request, *, at_once):
        self.leaves.append((request, at_once))
        await self._arrive(self.delay, self.leave_error or self.error)
        return self.server.serve(request, leaves=at_once)

    async def forget(self, session):
        self.forgotten.append(session)

    async def _arrive(self, delay, error):
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(delay)
        if error:
            raise error

    async def listen(self, session, heard):
        if self.listen_error:
            raise self.listen_error
        await asyncio.sleep(self.message_delay)
        self.heard[session] = heard
        self.server.subscribers[session] = self
        try:
            heard(None)
            self._listening = asyncio.get_running_loop().create_future()
            await self._listening
        finally:
            del self.heard[session], self.server.subscribers[session]

    def deliver(self, message):
        for heard in [] if self.drops else list(self.heard.values()):
            asyncio.get_running_loop().call_later(self.message_delay, heard, message)

    def stop_listening(self):
        self._listening.set_exception(self.listen_error)

    def refusal(self, error):
        return f"it refuses ({error})" if isinstance(error, Refused) else None

    def for_another_loop(self):
        return Line(self.server, delay=self.delay, answer_delay=self.answer_delay, message_delay=self.message_delay)

    async def close(self):
        self.closed += 1
