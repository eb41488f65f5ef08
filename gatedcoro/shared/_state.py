"""Where the permits of a name are counted, as a session sees it: what it sends, what it hears, and what a kind of server provides.

A session (_session.py) is one process's share of a limit. How permits are shared is decided by these numbers alone, whatever the
server is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NoReturn, Protocol

__all__ = ["Answer", "Message", "Request", "SessionLost", "Standing", "State"]


class SessionLost(Exception):
    """The server has given away what a session held, and will not know it again. The text says why, as part of a sentence."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What a session says of itself. A request may be sent twice, come late or be lost: its numbers are absolute."""

    session: str
    number: int
    """Which request of the session this is; an older one changes neither limit nor asked."""
    limit: int
    granted: int
    """How many permits the session knows to have been given so far."""
    returned: int
    """How many it has given back so far."""
    asked: int
    """How many it wants to have been given, in all."""
    epoch: int
    """Of the state that it knows; 0 for none: a new session. -1: for none, and a session that the server does not know is not made."""
    fence: int
    """The latest fencing token that it has seen."""
    version: int
    """The latest that it has seen (Standing.version): a server that knows less has forgotten."""


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """What a session has to know of the others."""

    others: int
    """How many other sessions wait."""
    least: int
    """The least that one of these holds."""
    total: int
    """How many permits all sessions hold."""
    sessions: int
    """How many sessions there are."""
    version: int
    """Higher than that of all that the server has said before, in the same epoch: answers and messages may overtake each other."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered."""

    alive: bool
    """False if the session's lease has ended: it holds nothing."""
    epoch: int
    granted: int
    returned: int
    """More than the session has given back: the rest was taken from it."""
    fence: int
    standing: Standing
    soonest: float | None
    """Seconds until permits may come free by themselves: a lease ends, or the time for claims. With a state whose sessions end with a
    connection: until the session has to look whether something has changed, whether it waits or not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """What a session is told without having asked."""

    sender: str
    """The session whose request caused it."""
    epoch: int
    granted: int
    """How many permits the session has been given so far, 0 if the message is for all."""
    fence: int
    standing: Standing


class State(Protocol):
    """A kind of server."""

    @property
    def ends_with_connection(self) -> bool:
        """Whether a session lives as long as a connection does, and not for a lease after each request."""

    @property
    def lease(self) -> float:
        """Seconds that a session lives at the server without a request; or if it ends with a connection, that an answer may take."""

    @property
    def where(self) -> str:
        """The server, in the words of an error message."""

    async def sync(self, request: Request) -> Answer:
        """Renew the session's lease, give back what it has returned, and grant what it asks for as far as there is room.

        `SessionLost` ends the session; any other exception means that the request may or may not have been carried out.
        """

    async def leave(self, request: Request, *, at_once: bool) -> Answer:
        """Give back all that a session holds. It is forgotten *at_once*, or when its lease ends: a request may still be under way.

        The answer tells of permits that were granted to it and that it does not know of: then it has to say so again.
        """

    async def forget(self, session: str) -> None:
        """End what a session has for itself, as a connection. It has left, or was broken off and says nothing any more."""

    async def listen(self, session: str, heard: Callable[[Message | None], None]) -> NoReturn:
        """Call *heard* with each message for the session, and with None when the session has to ask: some may have been missed, as at
        the start, or a permit is to be had.

        `SessionLost` ends the session; after any other exception it is called again.
        """

    def refusal(self, error: BaseException) -> str | None:
        """What is wrong with the server, and what would be right, if *error* says that it refuses for good."""

    def for_another_loop(self) -> State:
        """The same for another event loop, thread or process: it shares no connection."""

    async def close(self) -> None:
        """Close the connections that are its own; it can be used again."""
