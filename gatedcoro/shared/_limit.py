"""The limit itself: what its users enter and leave, and what becomes of their Tasks when permits are lost."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import numbers
import operator
import os
import sys
from collections import deque
from types import TracebackType
from typing import Literal, SupportsIndex

from ._errors import GateUnavailable, LeaseLost
from ._permits import Permits, Waiters
from ._session import CLOSING, Session
from ._state import State
from ._thread import renew_in_thread

__all__ = ["LimitStats", "OnLost", "SharedLimit"]

OnLost = Literal["cancel", "keep"]
LONGEST_LEASE = 1_000_000_000
"""Seconds; times far beyond are none to a server."""
CANCELLED_AT_ONCE = 100
"""Tasks in one turn of the event loop."""


@dataclasses.dataclass(frozen=True, slots=True)
class LimitStats:
    """How things stand, as far as this process knows without asking."""

    held: int
    """Permits that items of this process hold."""
    waiting: int
    """Who waits for one in this process."""
    sessions: int
    """Processes (or event loops) that use the name, as last heard; 0 before the first answer and while this one needs nothing."""
    limit: int
    """As this process has it."""


@dataclasses.dataclass(slots=True)
class Loss:
    """What a Task has lost, and has not left yet."""

    permits: Permits | None
    """Of the session that ended; None if the session goes on without these permits."""
    count: int
    why: str
    cancelling: int
    """Requests to cancel the Task that were there when it entered."""
    is_cancelled: bool = False


def _checked_limit(limit: SupportsIndex) -> int:
    try:
        count = operator.index(limit)
    except TypeError:
        raise TypeError(f"limit must be an integer of at least 1, not {type(limit).__name__}") from None
    if count < 1:
        raise ValueError(f"limit must be at least 1, not {count}")
    return count


def checked_lease(lease: float) -> float:
    if isinstance(lease, bool) or not isinstance(lease, numbers.Real):
        raise TypeError(f"lease must be a number of seconds, not {type(lease).__name__}")
    if not 1 <= lease < math.inf:
        raise ValueError(f"lease must be at least 1 second, and finite, not {lease}")
    if lease > LONGEST_LEASE:
        raise ValueError(f"lease must be at most {LONGEST_LEASE:,} seconds, not {lease}")
    return float(lease)


def _check_timeout(timeout: float | None) -> None:
    if timeout is None:
        return
    if not isinstance(timeout, numbers.Real):
        raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
    if math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds or None, not nan")


def checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {type(name).__name__}")
    if not name:
        raise ValueError("name must have at least one character: it says which processes share the limit")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"name must be text that UTF-8 has bytes for, not {name!r}") from None
    return name


class SharedLimit:
    """What limits of every kind of server have in common."""

    def __init__(
        self, state: State, name: str, limit: SupportsIndex, *, on_lost: OnLost, renew_in_thread: bool
    ) -> None:
        if on_lost not in ("cancel", "keep"):
            raise ValueError(f"on_lost must be 'cancel' or 'keep', not {on_lost!r}")
        self.name = checked_name(name)
        self._waiters = Waiters()
        self._unreachable_since: float | None = None
        self._unreachable_until = float("-inf")
        self._was_served = False
        self._limit = _checked_limit(limit)
        self._state = state
        self._ends_items = on_lost == "cancel"
        self._renew_in_thread = renew_in_thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._session: Session | None = None
        self._permits: Permits | None = None
        self._losses: dict[asyncio.Task[object] | None, list[Loss]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        """Of sessions that have ended, and tell the server."""
        self._is_closed = False
        self._closing: asyncio.Task[None] | None = None
        """Of the session that `aclose` has ended: it ends in its time, whoever else calls `aclose`."""

    def __repr__(self) -> str:
        stats = self.stats()
        state = "closed" if self._is_closed else f"held={stats.held} waiting={stats.waiting}"
        return f"<{type(self).__name__} {self.name!r} limit={stats.limit} {state}>"

    # --- What users call --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> int:
        permits = self._permits
        if permits is None or permits.loop is not asyncio.get_running_loop() or not permits.take():
            permits = await self._wait()
        return permits.hold()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            if self._loop is not None and self._loop.is_closed():
                return  # the Task was pending when its event loop was closed, and is thrown away now
            raise
        loss = self._leave(task)
        if loss is not None and task is not None and self._is_told_by(loss, task):
            if isinstance(exc, asyncio.CancelledError):
                raise LeaseLost(loss.why) from exc
            if getattr(task, "_must_cancel", False):
                # The item has ended without having been told: nor is what follows it.
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if task.cancelling() > loss.cancelling:  # meanwhile, by somebody else
                        raise

    async def acquire(self, *, blocking: bool = True, timeout: float | None = None) -> int | None:
        """Take a permit, as `async with` does.

        Parameters:
            blocking: False: take what is to be had now; one request to the server is waited for, after one that is under way.
            timeout: Seconds to wait, None for no end.

        Returns the fencing token; None if there was no permit, or not in time. Raises what entering the limit raises.
        """
        if not blocking and timeout is not None:
            raise ValueError(f"timeout must be None with blocking=False, not {timeout}")
        _check_timeout(timeout)
        try:
            async with asyncio.timeout(timeout) as until:
                permits: Permits | None = self._permits
                if permits is None or permits.loop is not asyncio.get_running_loop() or not permits.take():
                    permits = await (self._wait() if blocking else self._try())
        except TimeoutError:
            if not until.expired():
                raise
            return None
        return permits.hold() if permits is not None else None

    def release(self) -> None:
        """Leave a permit that `acquire` took, in the same Task.

        Raises `LeaseLost` in place of the CancelledError that is being handled, if the permit was lost and the Task was cancelled for
        it: `release` belongs into the `finally` of a `try`. RuntimeError if nothing is held.
        """
        task = asyncio.current_task()
        loss = self._leave(task)
        if loss is not None and task is not None and self._is_told_by(loss, task):
            exc = sys.exc_info()[1]
            if isinstance(exc, asyncio.CancelledError):
                raise LeaseLost(loss.why) from exc

    @property
    def limit(self) -> int:
        """How many permits there may be at once, as far as this process is concerned. Can be set, at any time.

        Every process keeps to its own number: it is granted nothing while all of them hold as many. A lower one takes effect as items
        end. TypeError for what is no integer, ValueError below 1.
        """
        return self._limit

    @limit.setter
    def limit(self, limit: SupportsIndex) -> None:
        self._limit = _checked_limit(limit)
        if self._permits is not None:
            self._permits.set_limit(self._limit)

    def stats(self) -> LimitStats:
        """How things stand; asks nobody."""
        permits = self._permits
        held, sessions = (permits.running, permits.sessions) if permits is not None else (0, 0)
        return LimitStats(held=held, waiting=len(self._waiters), sessions=sessions, limit=self._limit)

    async def aclose(self) -> None:
        """End the life of this limit: what no item holds is given back at once, and the client stays open.

        Who waits, and who comes later, gets `GateUnavailable`. Items that still hold a permit have lost it: they are cancelled and
        end with `LeaseLost`, and it is given back when they have ended, which is waited for, a lease at most; with `on_lost="keep"` they
        run on. The Task that calls this is never cancelled. A server that is out of reach is tried for two seconds: what it is not
        told, the end of the lease or of the connection tells it. Closing twice does nothing. RuntimeError in another event loop than
        the one that it is used in.
        """
        self._check_loop(asyncio.get_running_loop())
        self._is_closed = True
        self._waiters.fail(self._closed)
        if self._loop is not asyncio.get_running_loop():
            return  # nothing of it is in use here
        for loss in self._losses.get(asyncio.current_task(), ()):
            if loss.permits is not None:  # nobody waits for the Task that waits for the others
                loss.permits.left_too_late(loss.count)
                loss.permits = None
        leaving = self._leaving - {self._closing}
        if self._session is not None:
            self._closing = self._session.task
            await self._session.close()
        elif self._closing is not None:
            await asyncio.wait([self._closing])
        if leaving:
            _, late = await asyncio.wait(leaving, timeout=CLOSING)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    # --- Waiting ----------------------------------------------------------------------------------------------------

    def _closed(self) -> GateUnavailable:
        return GateUnavailable(f"no permit of {self.name!r} is to be had: the limit is closed")

    def _living_session(self) -> Session:
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise self._closed()
        if self._loop is not loop:
            self._come_to(loop)
        return self._session or self._new_session()

    def _check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is None or self._loop is loop or self._loop.is_closed() or self._process != os.getpid():
            return
        if self._session is not None or self._losses or len(self._waiters):
            raise RuntimeError(f"{self!r} is bound to a different event loop: each loop has a limit of its own")

    def _come_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve another event loop than so far: of a process that was forked, or after the first one's end."""
        self._check_loop(loop)
        if self._loop is not None or self._process != os.getpid():
            self._state = self._state.for_another_loop()
        self._loop, self._process = loop, os.getpid()
        self._session = self._permits = None
        self._waiters = Waiters()
        self._losses, self._leaving = {}, set()
        self._unreachable_since = None

    def _new_session(self) -> Session:
        state_of_thread = self._state.for_another_loop() if self._renew_in_thread else None
        session = Session(self, self._state, self.name, self._limit, ends_items=self._ends_items)
        self._session, self._permits = session, session.permits
        if state_of_thread is not None:
            renew_in_thread(session, state_of_thread)
        return session

    async def _wait(self) -> Permits:
        """Wait for a permit; the result has one more that runs."""
        comes_again = False
        while True:
            session = self._living_session()
            if session.permits.take():
                return session.permits
            permits = await self._wait_once(session, comes_again=comes_again)
            if permits is not None and permits.note():
                return permits
            comes_again = True  # its permit was lost before it had run

    async def _try(self) -> Permits | None:
        """Take a permit, if the server has one; the answer is waited for."""
        session = self._living_session()
        if session.permits.take():
            return session.permits
        permits = await self._wait_once(session, only_in=session.next_number)
        return permits if permits is not None and permits.note() else None

    async def _wait_once(
        self, session: Session, *, only_in: int | None = None, comes_again: bool = False
    ) -> Permits | None:
        waiter: asyncio.Future[Permits | None] = session.permits.loop.create_future()
        self._waiters.add(waiter, only_in=only_in, is_first=comes_again)
        if only_in is not None or session.wants_more:
            session.wake()
        try:
            return await waiter
        except BaseException:  # cancelled, closed or dropped, maybe after it was given a permit
            self._waiters.discard(waiter)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                permits = waiter.result()
                if permits is not None and permits.note():
                    permits.free()
            raise

    # --- Leaving ----------------------------------------------------------------------------------------------------

    def _leave(self, task: asyncio.Task[object] | None) -> Loss | None:
        """The Task leaves a permit. Return what is to be known of it, if it was lost."""
        permits = self._permits
        if permits is not None:
            holders = permits.holders
            count = holders.get(task)
            if count is not None:
                if count == 1:
                    del holders[task]
                    if permits.cancelling:
                        permits.cancelling.pop(task, None)
                else:
                    holders[task] = count - 1
                permits.free()
                return None
        return self._leave_of_another(task)

    @staticmethod
    def _is_told_by(loss: Loss, task: asyncio.Task[object]) -> bool:
        """Take back the request to cancel the Task; whether it was the only one since the Task entered, as with asyncio.timeout()."""
        return loss.is_cancelled and task.uncancel() <= loss.cancelling

    def _leave_of_another(self, task: asyncio.Task[object] | None) -> Loss | None:
        """It was lost, or entered in another Task."""
        owner = task
        if task not in self._losses:
            holders = self._permits.holders if self._permits is not None else {}
            others = [*holders, *self._losses]
            if not others:
                raise RuntimeError(f"{self!r} was left more often than it was entered")
            # Most likely a Task that has ended, and one that has not lost its permit.
            owner = next((other for other in others if other is not None and other.done()), others[0])
            if owner in holders:
                return self._leave(owner)
        loss = self._losses[owner][-1]
        loss.count -= 1
        if not loss.count:
            self._losses[owner].pop()
            if not self._losses[owner]:
                del self._losses[owner]
        if loss.permits is not None:
            loss.permits.left_too_late(1)
        return loss if owner is task and not loss.count else None

    # --- What a session says (_session.Owner) -----------------------------------------------------------------------

    def _permits_lost(self, session: Session, counts: dict[asyncio.Task[object] | None, int], why: str) -> None:
        self._lose(counts, session.permits, why, is_over=False)

    def _session_ended(self, session: Session, why: str) -> None:
        if self._session is session:
            self._session = self._permits = None
        self._leaving.add(session.task)
        session.task.add_done_callback(self._leaving.discard)
        permits = session.permits
        holders, permits.holders = permits.holders, {}
        # Who cancels the session's own Task cancels all that there are, as asyncio.run does at its end.
        self._lose(holders, permits, why, is_over=True, all_end=session.task.cancelling() > 0)
        if len(self._waiters) and not self._is_closed and self._session is None:
            self._waiters.begin_again()
            self._new_session()  # they go on waiting there

    async def _session_left(self, session: Session) -> None:
        if self._session is None:
            await self._state.close()

    def _lose(
        self,
        counts: dict[asyncio.Task[object] | None, int],
        permits: Permits,
        why: str,
        *,
        is_over: bool,
        all_end: bool = False,
    ) -> None:
        """*all_end*: so do all Tasks of the event loop; who has been told to end is not told again, which would break off its `finally`."""
        text = f"the permit of {self.name!r} is lost: {why}"
        closing = asyncio.current_task() if self._is_closed else None
        to_cancel: deque[tuple[asyncio.Task[object], Loss]] = deque()
        for task, count in counts.items():
            loss = Loss(permits if is_over else None, count, text, cancelling=permits.cancelling.pop(task, 0))
            self._losses.setdefault(task, []).append(loss)
            if task is not None and (task is closing or (all_end and task.done())):
                loss.permits = None  # nobody waits for the Task that waits for the others, or has ended without leaving
                permits.left_too_late(count)
            elif task is not None and self._ends_items and not (all_end and task.cancelling() > loss.cancelling):
                to_cancel.append((task, loss))
        self._cancel_some(to_cancel)

    def _cancel_some(self, losses: deque[tuple[asyncio.Task[object], Loss]]) -> None:
        for _ in range(min(CANCELLED_AT_ONCE, len(losses))):
            task, loss = losses.popleft()
            if loss.count and not task.done():
                loss.is_cancelled = True
                task.cancel(loss.why)
        if losses:
            asyncio.get_running_loop().call_soon(self._cancel_some, losses)
