"""One life of a process at the server: requests, renewals, messages, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import random
import secrets
import threading
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from ._errors import GateUnavailable
from ._permits import Permits, Waiters, clock
from ._state import Answer, Message, Request, SessionLost, State

__all__ = ["Owner", "Session", "background"]
T = TypeVar("T")

SAFE_PART = 0.9
"""Of a lease: after that much of it, counted from before it was asked for, items end. The rest covers clocks of another rate."""
RENEWALS = 3
"""In a lease."""
FIRST_PAUSE = 0.05
"""Seconds between a request that failed and the next; each time twice as many."""
IDLE_CONNECTION = 2.0
"""Seconds after which a connection that a session ends with is given back."""
CLOSING = 2.0
"""Seconds for which `aclose` tries to reach the server. What it does not tell, the lease's end does."""


class Owner(Protocol):
    """What a session needs of its limit."""

    _waiters: Waiters
    _unreachable_since: float | None
    _unreachable_until: float
    """A lease after the last failure: if nobody has tried since, it says nothing of the server any more."""
    _was_served: bool
    """By this server, once: if it refuses now, as a replica does, that may be over soon."""

    def _permits_lost(self, session: Session, counts: dict[asyncio.Task[object] | None, int], why: str) -> None:
        """These Tasks have lost so many permits."""

    def _session_ended(self, session: Session, why: str) -> None:
        """All its permits are lost."""

    async def _session_left(self, session: Session) -> None:
        """The server has been told, or cannot be."""


def background(coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A plain Task, whatever makes the loop's: it begins later, and inherits no context of the item that came first."""
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), name=name, context=contextvars.Context())


def _reason(error: Exception) -> str:
    if type(error) is TimeoutError:
        return "it did not answer in time"
    return f"{type(error).__name__}: {error}"


def _behind(error: Exception) -> Exception:
    """What a client was told that had begun again by itself when its time was over; else the error as it is."""
    found: BaseException = error
    seen = {id(error)}  # causes may go round in a circle
    while type(found) in (TimeoutError, asyncio.CancelledError) and (earlier := found.__cause__ or found.__context__):
        if id(earlier) in seen:
            return error
        seen.add(id(earlier))
        found = earlier
    is_of_the_client = isinstance(found, OSError) or type(found).__module__ != "builtins"
    return found if isinstance(found, Exception) and is_of_the_client else error


class Session:
    """A share of a limit, under an identifier that nothing had before it.

    One Task sends requests, one at a time: when something has changed, and in time to renew the lease; another one listens. What a
    request says is true whenever it arrives, so it is sent again until one is answered.
    """

    def __init__(self, owner: Owner, state: State, name: str, limit: int, *, ends_items: bool) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.permits = Permits(limit, owner._waiters, loop, self.wake)
        self.number = 0
        self.is_over = False
        self.id = secrets.token_hex(8)
        self._owner = owner
        self._waiters = owner._waiters
        self._state = state
        self._ends_items = ends_items
        self._epoch = 0
        self._asked = 0
        self._answered_at = self._renew_at = 0.0
        self._look_at = float("inf")
        """When permits may have come free by themselves, if anybody waits then."""
        self._unsure_until = float("-inf")
        """Until when a request that failed may still arrive."""
        self._pause = FIRST_PAUSE
        self._trouble = ""
        """What the last request ended with, if it failed."""
        self._has_heard = False
        self._is_refused = False
        """By a server that it never had an answer from: it would refuse to be left as well."""
        self._closing: float | None = None
        self._in_time: asyncio.Timeout | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._woken = asyncio.Event()
        self._over = asyncio.Event()
        self.over_in_threads = threading.Event()
        self._items_have_left = asyncio.Event()
        self._woken.set()
        self._listener = background(self._listen(), f"limit {name}: messages")
        self.task = background(self._run(), f"limit {name}: requests")
        self.task.add_done_callback(self._has_run, context=contextvars.Context())

    def wake(self) -> None:
        """Something has changed that the server has to know; after the end: an item has left."""
        self._woken.set()
        if self.is_over and not self.permits.running:
            self._items_have_left.set()

    @property
    def next_number(self) -> int:
        """Of the request that will say what is wanted now."""
        return self.number + 1

    @property
    def wants_more(self) -> bool:
        """Whether more permits are needed than the server has been asked for."""
        return self.permits.granted + self.permits.wanted() > self._asked

    # --- The Tasks --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self.is_over:
                await self._until_needed()
                if not self.is_over:
                    await self._request()
        except asyncio.CancelledError:
            self._closing = CLOSING
            self._give_up("the Task that renews its lease was cancelled")
            await self._finish()
            raise
        except BaseException as error:
            if self.permits.loop.is_closed():  # it has ended without this Task: there is nobody to tell, and no way to
                self.over_in_threads.set()
                raise
            self._give_up(f"the Task that renews its lease failed: {error!r}", error)
            await self._finish()
            raise
        await self._finish()

    def _has_run(self, task: asyncio.Task[None]) -> None:
        if not self.is_over:  # it was cancelled before it had begun: there was no request
            self._give_up("the Task that renews its lease was cancelled")
            self._listener.cancel()

    async def _finish(self) -> None:
        self._listener.cancel()
        try:
            try:
                await self._leave()
            finally:
                await self._state.forget(self.id)
            await self._end_listening()
        except asyncio.CancelledError:
            await self._owner._session_left(self)
            raise
        await self._owner._session_left(self)

    async def _end_listening(self) -> None:
        """The client may be closed after this. It may take a cancellation for an error of its own, and go on: so more than one."""
        give_up = clock() + CLOSING
        while not self._listener.done() and clock() < give_up:
            self._listener.cancel()
            await asyncio.wait([self._listener], timeout=CLOSING / 4)

    async def _listen(self) -> None:
        pause = FIRST_PAUSE
        while not self.is_over:
            began = clock()
            try:
                await self._state.listen(self.id, self._heard)
            except SessionLost as error:
                self.end(str(error))
                return
            except Exception as error:
                # Messages only save time: what is missed, the next renewal brings.
                refusal = self._state.refusal(error)
                if refusal and not self._has_heard and not self.permits.running and not self._may_pass(error):
                    self._give_up(refusal, error)
                if clock() - began > self._state.lease:
                    pause = FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, self._state.lease / RENEWALS)

    async def _until_needed(self) -> None:
        at = self._renew_at
        if len(self._waiters) or self._state.ends_with_connection:
            at = min(at, self._look_at)
        if self._state.ends_with_connection and not self._is_needed:
            at = min(at, self._answered_at + IDLE_CONNECTION)
        try:
            async with asyncio.timeout(at - clock()):
                await self._woken.wait()
        except TimeoutError:
            if not self._is_needed:
                self.end("")  # nobody has needed it for a while

    @property
    def _is_needed(self) -> bool:
        return bool(self.permits.held or self.permits.running or len(self._waiters))

    # --- Requests ---------------------------------------------------------------------------------------------------

    def _next_request(self) -> tuple[Request, int]:
        permits = self.permits
        wanted = 0 if self.is_over else permits.wanted()
        self.number += 1
        self._asked = permits.granted + wanted
        return self._says(self.number, permits.returned, self._asked), wanted

    def _says(self, number: int, returned: int, asked: int) -> Request:
        permits = self.permits
        return Request(
            session=self.id,
            number=number,
            limit=permits.limit,
            granted=permits.granted,
            returned=returned,
            asked=asked,
            epoch=self._epoch,
            fence=permits.fence,
            version=permits.version,
        )

    async def _request(self) -> None:
        self._woken.clear()
        request, wanted = self._next_request()
        sent = clock()
        if sent >= self._owner._unreachable_until:
            self._owner._unreachable_since = None
        unreachable_since = self._owner._unreachable_since
        lease = self._state.lease
        left = lease if unreachable_since is None else unreachable_since + lease - sent
        if self._state.ends_with_connection and not self._epoch:
            patience = left if left > 0 else lease  # it connects first, and a connection that is given up helps nobody
        else:
            patience = min(lease / RENEWALS, max(1.0, left))
        try:
            answer = await self._sync(request, patience)
        except SessionLost as error:
            self.end(str(error))
        except Exception as error:
            await self._failed(_behind(error), sent, min(clock(), sent + patience))
        else:
            if not self.is_over:
                self._answered(request, wanted, answer, sent)

    async def _sync(self, request: Request, patience: float) -> Answer:
        try:
            async with asyncio.timeout(patience) as self._in_time:
                return await self._state.sync(request)
        finally:
            self._in_time = None

    def _answered(self, request: Request, wanted: int, answer: Answer, sent: float) -> None:
        self._owner._unreachable_since = None
        self._owner._was_served = True
        self._is_refused = False
        self._pause, self._trouble = FIRST_PAUSE, ""
        if not answer.alive:
            self.end("its lease had ended at the server")
            return
        now, lease = clock(), self._state.lease
        if answer.epoch != self._epoch:
            self.permits.begin_again()  # first: a thread that renews sends no epoch with what was known of another one
            self._epoch = answer.epoch
        self._answered_at = now
        self._renew_at = sent + lease / RENEWALS * random.uniform(0.9, 1)
        self._look_at = float("inf") if answer.soonest is None else now + answer.soonest + random.uniform(0, 0.05)
        self.renewed(sent)
        self._watch_the_deadline()
        permits = self.permits
        if request.number > 1:  # the first one connects
            permits.took(now - sent)
        permits.gain(answer.granted, answer.fence)
        permits.learn(answer.standing)
        if counts := permits.revoke(answer.returned):
            self._owner._permits_lost(
                self, counts, "the server had lost what it knew, and has given the permit to another process"
            )
        permits.answered(request.asked, wanted)
        permits.hand_out()
        self._waiters.answered(request.number)

    async def _failed(self, error: Exception, sent: float, until: float) -> None:
        """No answer came from *sent* to *until*. It may be later by now, if the event loop stood still: that says nothing of the server."""
        now, lease = clock(), self._state.lease
        self._unsure_until = now + lease
        owner = self._owner
        since = sent if owner._unreachable_since is None else owner._unreachable_since
        owner._unreachable_since = since + now - until
        owner._unreachable_until = self._unsure_until
        refusal = self._state.refusal(error)
        self._trouble = f" ({refusal or f'{self._state.where}: {_reason(error)}'})"
        if refusal is not None and self._epoch == 0:
            self._is_refused = True
        if self.is_over:
            return  # who waits now waits for another session
        if refusal is not None and self._is_refused and not self._may_pass(error):
            self._give_up(refusal, error)
        elif until - since >= lease:
            what = refusal or f"{self._state.where} was out of reach for {lease:g} s: {_reason(error)}"
            self._waiters.fail(functools.partial(self._unavailable, what, error))
            if self._state.ends_with_connection:  # another one may work; this one is broken off
                self.end(what)
        else:
            self._waiters.fail(
                functools.partial(self._unavailable, f"{self._state.where} is out of reach: {_reason(error)}", error),
                only_once=True,
            )
        if not len(self._waiters) and not self.permits.held:
            self.end("")
        if self.is_over:
            return
        pause = self._pause * random.uniform(0.5, 1)
        self._pause = min(2 * self._pause, lease / RENEWALS / 2)
        await self._wait(self._over, min(pause, max(0.0, owner._unreachable_since + lease - clock()) or pause))
        self._woken.set()

    def _may_pass(self, refusal: Exception) -> bool:
        # A GateUnavailable was found here, not by the server.
        return self._owner._was_served and not isinstance(refusal, GateUnavailable)

    def _give_up(self, why: str, error: BaseException | None = None) -> None:
        """End, with an error for those who wait: another session would be no better."""
        if self.is_over:
            return  # they wait for another session
        self._waiters.fail(functools.partial(self._unavailable, why, error))
        self.end(why)

    def _unavailable(self, what: str, cause: BaseException | None = None) -> GateUnavailable:
        error = GateUnavailable(f"no permit of {self.name!r} is to be had: {what}")
        error.__cause__ = cause.__cause__ if isinstance(cause, GateUnavailable) else cause
        return error

    # --- Messages ---------------------------------------------------------------------------------------------------

    def _heard(self, message: Message | None) -> None:
        permits = self.permits
        self._has_heard = True
        if self.is_over or (message is not None and message.sender == self.id):
            return
        if message is None or message.epoch != self._epoch:  # some may have been missed, or the server has forgotten
            self.wake()
            return
        if message.granted:
            permits.gain(message.granted, message.fence)
        permits.learn(message.standing)
        permits.hand_out()

    # --- The lease --------------------------------------------------------------------------------------------------

    def renewed(self, sent: float) -> None:
        """The server has heard of this session after *sent* (clock()). May be called in any thread."""
        until = float("inf") if self._state.ends_with_connection else sent + self._state.lease * SAFE_PART
        self.permits.deadline = max(self.permits.deadline, until)

    def _watch_the_deadline(self) -> None:
        if self._deadline_timer is None and not self._state.ends_with_connection:
            self._deadline_timer = self._call_at_deadline()

    def renewal(self) -> Request | None:
        """A request that only renews, from any thread; None if there is nothing to renew, or no need yet."""
        permits = self.permits
        due = permits.deadline - self._state.lease * (SAFE_PART - 1.2 / RENEWALS)
        if self.is_over or not self._epoch or clock() < due:
            return None
        returned = permits.returned  # before `granted`, which may grow meanwhile
        return self._says(0, returned, asked=0)

    def _call_at_deadline(self) -> asyncio.TimerHandle:
        permits = self.permits
        return permits.loop.call_later(max(0.0, permits.deadline - clock()), self._deadline_comes)

    def _deadline_comes(self) -> None:
        self._deadline_timer = None
        if self.is_over:
            return
        if clock() < self.permits.deadline:
            self._deadline_timer = self._call_at_deadline()
        elif self._ends_items:
            self.end(f"its lease of {self._state.lease:g} s could not be renewed in time{self._trouble}")

    # --- The end ----------------------------------------------------------------------------------------------------

    def end(self, why: str) -> None:
        """The permits are not this process's any more; the server is told when all items have ended."""
        if self.is_over:
            return
        self.is_over = True
        self.permits.end()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._over.set()
        if self._in_time is not None:
            # A request under way is soon answered or not worth waiting for.
            with contextlib.suppress(RuntimeError):  # its time is over at this very moment
                self._in_time.reschedule(self.permits.loop.time() + min(self._state.lease / RENEWALS, 0.5))
        self._owner._session_ended(self, why)
        self.wake()
        self.over_in_threads.set()

    async def close(self) -> None:
        """Give everything back, without trying for long."""
        self._closing = CLOSING
        self.end("the limit was closed")
        await asyncio.wait([self.task])

    async def _leave(self) -> None:
        if not self.number or self._is_refused:
            return
        lease = self._state.lease
        if self._ends_items:
            # Until the lease has ended, the server counts the permits of items that are still to end.
            await self._wait(self._items_have_left, lease)
        give_up = clock() + (self._closing or lease)
        pause = FIRST_PAUSE
        while clock() < give_up:
            permits = self.permits
            permits.returned = permits.granted
            request, _ = self._next_request()
            if not request.epoch:  # none of its requests was answered: it is not a new one, if none has arrived either
                request = dataclasses.replace(request, epoch=-1)
            try:
                async with asyncio.timeout(max(FIRST_PAUSE, min(lease / RENEWALS, give_up - clock()))):
                    answer = await self._state.leave(request, at_once=clock() >= self._unsure_until)
            except Exception:
                self._unsure_until = clock() + lease
                await asyncio.sleep(max(0.0, min(pause * random.uniform(0.5, 1), give_up - clock())))
                pause = min(2 * pause, lease / RENEWALS)
            else:
                if answer.granted <= permits.granted:
                    return
                permits.granted = answer.granted  # by a request whose answer was lost

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
