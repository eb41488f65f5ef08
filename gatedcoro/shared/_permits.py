"""The permits of one session: from item to item, and when they go back to the server."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import OrderedDict
from collections.abc import Callable

from ._state import Standing

__all__ = ["Permits", "Waiters", "clock"]

QUANTUM = 0.05
"""Seconds after which a permit is passed on to a session that holds but one less, at the earliest."""
QUANTUM_IN_ROUND_TRIPS = 30
"""It is longer where the server takes long: nobody works with a permit that goes to another session, and a server that has more to do
than it can is asked less."""
LONGEST_ROUND_TRIP = 1 / QUANTUM_IN_ROUND_TRIPS
"""One that took longer counts as this: a quantum is never longer than a second, and an answer that came late is soon forgotten."""
GROWTH = 1.1
"""Times the others' quantum, as far as it shows: a quantum is no longer than that. So it grows with theirs, and who is the only one that is
far from the server, or has a busy event loop, has but little more than they."""
IDLE = 0.05
"""Seconds after which a permit that no item holds goes back."""


def _clock() -> Callable[[], float]:
    """Seconds that go on while the machine sleeps, where the system has such a clock: a lease does not stop either."""
    try:
        time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return time.monotonic
    return functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)


clock = _clock()


class Waiters:
    """Who waits for a permit in this process, in order of arrival. The result of each Future is the Permits that it got one of."""

    def __init__(self) -> None:
        self._futures: OrderedDict[asyncio.Future[Permits | None], None] = OrderedDict()
        self._once: dict[asyncio.Future[Permits | None], int] = {}

    def __len__(self) -> int:
        return len(self._futures)

    def add(self, future: asyncio.Future[Permits | None], *, only_in: int | None, is_first: bool) -> None:
        """*only_in*: it waits no longer than for the answer to that request."""
        self._futures[future] = None
        if is_first:
            self._futures.move_to_end(future, last=False)
        if only_in is not None:
            self._once[future] = only_in

    def discard(self, future: asyncio.Future[Permits | None]) -> None:
        self._futures.pop(future, None)
        self._once.pop(future, None)

    def pass_on(self, permits: Permits) -> bool:
        """Give the first who waits a permit; return whether there was one."""
        while self._futures:
            future, _ = self._futures.popitem(last=False)
            self._once.pop(future, None)
            if not future.done():
                future.set_result(permits)
                return True
        return False

    def begin_again(self) -> None:
        """Another session answers, and counts its requests from 1."""
        self._once = dict.fromkeys(self._once, 1)

    def answered(self, number: int) -> None:
        """The request has been answered, and what it brought is handed out."""
        for future in [future for future, last in self._once.items() if last <= number]:
            self.discard(future)
            if not future.done():
                future.set_result(None)

    def fail(self, error: Callable[[], BaseException], *, only_once: bool = False) -> None:
        for future in list(self._once if only_once else self._futures):
            self.discard(future)
            if not future.done():
                future.set_exception(error())


class Permits:
    """How many permits the session has, and which Task holds how many. Touches no server.

    What was granted and not returned is held by an item or idle. A permit that an item leaves goes to the next one here, unless
    others are worse off: between sessions the least is made as large as can be (max-min fairness).
    """

    __slots__ = (
        "_ahead",
        "_changed",
        "_granted_at",
        "_idle_timer",
        "_is_contended",
        "_least",
        "_least_idle",
        "_others",
        "_passed_on_at",
        "_quantum",
        "_round_trip",
        "_total",
        "_waiters",
        "cancelling",
        "deadline",
        "fence",
        "granted",
        "holders",
        "idle",
        "is_over",
        "limit",
        "loop",
        "owed",
        "returned",
        "running",
        "sessions",
        "version",
    )

    def __init__(
        self, limit: int, waiters: Waiters, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]
    ) -> None:
        self.limit = limit
        self.loop = loop
        self.granted = 0
        self.returned = 0
        self.idle = 0
        self.running = 0
        """Permits that items hold, or held when the session ended and have not left yet."""
        self.holders: dict[asyncio.Task[object] | None, int] = {}
        self.cancelling: dict[asyncio.Task[object] | None, int] = {}
        """Requests to cancel that a holder had when it entered, if there were any."""
        self.owed = 0
        """Permits that were taken away after they had been passed on, and before their Tasks took note of them."""
        self.fence = 0
        self.deadline = float("-inf")
        """Until when (clock()) items may start: after that the server may have given the permits to others."""
        self.is_over = False
        self.sessions = 0
        self._waiters = waiters
        self._changed = changed
        self._granted_at = 0.0
        self._passed_on_at: float | None = None
        self._round_trip = 0.0
        self._quantum = QUANTUM
        self.version = 0
        self._others = 0
        self._least = 0.0
        self._total = 0
        self._is_contended = False
        self._ahead = 1
        self._least_idle = 0
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        return self.granted - self.returned

    @property
    def is_valid(self) -> bool:
        return not self.is_over and clock() < self.deadline

    # --- Items ------------------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Take an idle permit, if there is one."""
        if not self.idle or not self.is_valid:
            return False
        self.idle -= 1
        if self.idle < self._least_idle:
            self._least_idle = self.idle
        self.running += 1
        return True

    def hold(self) -> int:
        """The current Task holds a permit that it has taken; return the fencing token."""
        task = asyncio.current_task()
        count = self.holders.get(task, 0)
        self.holders[task] = count + 1
        if task is not None and not count and (requests := task.cancelling()):
            self.cancelling[task] = requests
        return self.fence

    def note(self) -> bool:
        """A Task takes note of the permit that was passed on to it; False if that does not count any more."""
        if self.is_over or self.owed:
            self.owed = max(0, self.owed - 1)
            self.left_too_late(1)
            return False
        if clock() >= self.deadline:  # the event loop has stood still since
            self.running -= 1
            self.idle += 1
            return False
        return True

    def left_too_late(self, count: int) -> None:
        """Items have left permits that had been lost with the session."""
        self.running -= count
        self._changed()

    def free(self) -> None:
        """An item has left its permit."""
        if self._is_contended and self._is_surplus():
            self.running -= 1
            self._passed_on_at = clock()
            self._give_back(1)
        elif clock() >= self.deadline or not self._waiters.pass_on(self):
            self.running -= 1
            self.idle += 1
            self._settle()

    def hand_out(self) -> None:
        """Idle permits to those who wait."""
        while self.idle and len(self._waiters) and self.is_valid and self._waiters.pass_on(self):
            self.idle -= 1
            self.running += 1
        self._settle()

    def _settle(self) -> None:
        """What is idle now goes back at once, if others wait for it, or when nobody has wanted it for a while."""
        if not self.idle or self.is_over:
            return
        if self._others or self.held > self.limit or self._total > self.limit:
            back, self.idle = self.idle, 0
            self._give_back(back)
        elif self._idle_timer is None:
            self._least_idle = self.idle
            self._idle_timer = self.loop.call_later(IDLE, self._return_idle)

    def _return_idle(self) -> None:
        self._idle_timer = None
        back = min(self._least_idle, self.idle)
        if back and not self.is_over:
            self.idle -= back
            self._ahead = 1
            self._give_back(back)
        self._settle()

    # --- What goes back ---------------------------------------------------------------------------------------------

    def _is_surplus(self) -> bool:
        """Whether the permit that an item leaves goes back to the server, whoever waits here."""
        held = self.held
        if held > self.limit or self._total > self.limit:
            return True
        if not self._others or held <= self._least:
            return False
        return held > self._least + 1 or clock() - self._granted_at >= self._quantum

    def _give_back(self, count: int) -> None:
        self.returned += count
        # What the server will say, until it does: so that one answer's time does not give all away.
        self._total -= count
        if self._others:
            self._least += count / self._others
        self._changed()

    # --- What comes from the server ---------------------------------------------------------------------------------

    def wanted(self) -> int:
        """How many more permits to ask for."""
        waiting = len(self._waiters) - self.idle
        if waiting <= 0:
            return 0
        # Who is alone asks for more than it needs now, twice as many each time.
        return max(0, min(waiting if self._others else max(waiting, self._ahead), self.limit - self.held))

    def answered(self, asked: int, wanted: int) -> None:
        """A request has been answered: all that it wanted has come, or there is no more."""
        if wanted:
            self._ahead = min(2 * max(self._ahead, wanted), self.limit) if self.granted >= asked else 1

    def took(self, seconds: float) -> None:
        """From a request until its answer."""
        self._round_trip += (min(seconds, LONGEST_ROUND_TRIP) - self._round_trip) / 8

    def gain(self, granted: int, fence: int) -> None:
        if granted > self.granted:
            self.idle += granted - self.granted
            self.granted = granted
            self._granted_at = clock()
            if self._passed_on_at is not None:
                self._set_quantum(self._granted_at - self._passed_on_at)
                self._passed_on_at = None
        self.fence = max(self.fence, fence)

    def _set_quantum(self, waited: float) -> None:
        """A permit has gone around, and has been with others for so long."""
        sessions = self._others + (2 if self.limit == 1 else 1)  # who holds all that there is does not wait
        at_once = self.limit % sessions or 1
        """So many of them have one more than the rest, in turn."""
        of_others = (waited - self._round_trip) * at_once / max(1, sessions - at_once)
        self._quantum = max(QUANTUM, min(QUANTUM_IN_ROUND_TRIPS * self._round_trip, GROWTH * of_others))

    def learn(self, standing: Standing) -> None:
        if standing.version < self.version:
            return
        self.version = standing.version
        self._others, self._least, self._total = standing.others, standing.least, standing.total
        self.sessions = standing.sessions
        self._compare()

    def begin_again(self) -> None:
        """Whatever the server says next is the latest."""
        self.version = 0

    def set_limit(self, limit: int) -> None:
        self.limit = limit
        self._compare()
        self._settle()
        self._changed()

    def _compare(self) -> None:
        self._is_contended = bool(self._others) or self._total > self.limit or self.held > self.limit

    def revoke(self, returned: int) -> dict[asyncio.Task[object] | None, int]:
        """The server counts *returned* permits as given back. Return which Tasks have lost how many for it, the latest first."""
        missing = returned - self.returned
        if missing <= 0:
            return {}
        self.returned = returned
        from_idle = min(missing, self.idle)
        self.idle -= from_idle
        missing -= from_idle
        lost: dict[asyncio.Task[object] | None, int] = {}
        while missing > 0 and self.holders:
            task, count = self.holders.popitem()
            lost[task] = count
            self.running -= count
            missing -= count
        if missing > 0:
            self.owed += missing
        elif missing < 0:  # a Task that held several has lost all of them
            self._give_back(-missing)
        return lost

    def end(self) -> None:
        """Nothing of this session counts any more."""
        self.is_over = True
        self.deadline = float("-inf")
        self.idle = 0
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
