"""Renewal in a thread, for event loops that are blocked for longer than a lease."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from ._permits import clock
from ._session import RENEWALS, Session
from ._state import State

__all__ = ["renew_in_thread"]


def renew_in_thread(session: Session, state: State) -> None:
    """Renew the session's lease whenever its own Task is late, until the session ends; *state* is the thread's alone."""
    thread = threading.Thread(target=_renew, args=(session, state), name=f"limit {session.name}: renewal", daemon=True)
    thread.start()


def _renew(session: Session, state: State) -> None:
    pause = state.lease / RENEWALS / 4
    while not session.over_in_threads.wait(pause):
        if session.permits.loop.is_closed():
            return  # nobody is left to give anything back
        if session.renewal() is not None:
            # Rare enough for a new event loop and a new connection each time, and nothing is left over when the program ends.
            # There may be no file descriptor left for them now.
            with contextlib.suppress(Exception), asyncio.Runner() as runner:
                runner.run(_renew_once(session, state, state.lease / RENEWALS))


async def _renew_once(session: Session, state: State, patience: float) -> None:
    request, sent = session.renewal(), clock()
    if request is None:
        return
    try:
        async with asyncio.timeout(patience):
            answer = await state.sync(request)
            if answer.alive:
                session.renewed(sent)
    except Exception:  # the next time, or else the lease ends
        pass
    finally:
        await state.close()
