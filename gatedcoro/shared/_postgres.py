"""A limit whose permits are counted by PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import importlib.resources
import itertools
import math
import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, SupportsIndex

from ._errors import GateUnavailable
from ._limit import OnLost, SharedLimit, checked_lease, checked_name
from ._permits import clock
from ._session import FIRST_PAUSE, RENEWALS, background
from ._state import Answer, Message, Request, SessionLost, Standing, State

__all__ = ["PostgresLimit"]

STATEMENT = importlib.resources.files(__package__).joinpath("_sync.sql").read_text(encoding="utf-8")
HIGHEST = 2**31 - 1
EPOCH = 1
"""Of the state: what a server has forgotten is nobody's."""
LOOKS = 2
"""In a second, of all sessions that wait together: the server tells nobody of a connection that has ended."""
PATIENCE = 1.0
"""Seconds for a session to come for a permit: then it is passed over until it says something."""
LATE = 2
"""Leases after which a session has not said anything that it should have said."""
NO_END = 1e9
"""Seconds. asyncpg has a timeout of its own otherwise, if its user has given it one."""
CLOSING = 1.0
"""Seconds for the server to answer that a connection is closed."""
CONNECTING = 5.0
"""Seconds that may take, at least; then it is tried again."""
MOST_SEEN = 1000
"""Sessions that are remembered; who asks seldom hears of many."""
AT_ONCE = 0.02
"""Seconds until the server has ended a connection."""
LONGEST_LEASE = 500_000.0
"""Seconds; of times the server has 32 bits."""
LOST = "its connection to PostgreSQL has ended"

MISTAKES = (TypeError, ValueError, AttributeError, NameError, ImportError, LookupError)
"""What a function raises that will not connect the next time either."""
# Without these a transaction might not even begin before others have ended; SET alone begins at once.
FIRST_SETTINGS = (
    "SET search_path TO pg_catalog; SET default_transaction_deferrable TO off; "
    "SET default_transaction_isolation TO 'read committed'"
)
HOLDS_LOCKS = "SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND pid = $1::int AND classid = $2::int::oid AND objid::bigint = $3::bigint
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# Errors by the first characters of their SQLSTATE; the first that fits tells.
REFUSALS = {
    "28": "give the client the user and the password that the server asks for",
    "3D000": "give the client a database that the server has",
    "25006": "the server is a standby: the client must reach the primary",
    "42501": "the client's user must be allowed to read pg_locks, and to execute pg_notify and the functions for advisory locks "
    "(docs/shared-limits.md)",
    "53200": "the server's table of locks is full: max_locks_per_transaction",
    "42": "the server cannot run the limit's statement; it takes PostgreSQL 12 or later",
    "0A000": "the server cannot run the limit's statement; it takes PostgreSQL 12 or later",
}


class Keys(NamedTuple):
    """What is made of a name, in the order of the statement's parameters."""

    mutex: int
    member: int
    held: int
    wants: int
    bound: int
    arrival: int
    until: int
    member_value: int
    channel: str


def keys_of(name: str) -> Keys:
    digest = hashlib.blake2b(name.encode(), digest_size=36, person=b"gatedcoro limit").digest()
    numbers = struct.unpack(">q7i", digest)
    return Keys._make([*numbers, f"gate_{digest[:16].hex()}"])


def settings(lease: float) -> dict[str, str]:
    """Of a connection. What the server does not know is left out."""
    seconds = min(math.ceil(lease), HIGHEST // 2000)
    return {
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_session_timeout": "0",
        "transaction_timeout": "0",
        "jit": "off",
        "plan_cache_mode": "force_generic_plan",
        # The server takes two leases to give up a process that it does not reach any more: by then that has given up its items.
        "tcp_keepalives_idle": str(min(seconds, 32767)),
        "tcp_keepalives_interval": str(min(math.ceil(seconds / 3), 32767)),
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": str(2000 * seconds),
    }


def _is_pool(client: Any) -> bool:
    return any(f"{base.__module__}.{base.__name__}" == "asyncpg.pool.Pool" for base in type(client).__mro__)


def _check_client(client: Any) -> None:
    if _is_pool(client) or (callable(client) and not isinstance(client, type)):
        return
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    raise TypeError(
        "client must be a Pool of asyncpg, or a function without arguments that connects, as "
        f"functools.partial(asyncpg.connect, dsn), not {kind}"
    )


# --- The server -----------------------------------------------------------------------------------------------------


class Backend:
    """The connection of a session, and what that holds by it. One request at a time: the next waits for the last."""

    def __init__(self, state: PostgresState) -> None:
        self.heard: Callable[[Message | None], None] | None = None
        self.is_lost = asyncio.Event()
        """The connection has ended, and with it what was held."""
        self.why = LOST
        self._state = state
        self._keys = state.keys
        self._number = 0
        """Of the connection: until something is held by it, another one is as good."""
        self._connection: Any = None
        self._statement: Any = None
        self._pid = 0
        self._work: asyncio.Task[Answer] | None = None
        self._leaves = False
        self._granted = 0
        self._fence = 0
        """Of the latest that was granted: an answer may come when nobody waits for it, and the next one says of both."""
        self._held = 0
        self._waits = False
        self._stands: tuple[int, ...] = ()
        """What the server has been told and has answered: says the same as the next request, if that changes nothing."""
        self._latest = 0
        """The server's microseconds of the latest that is known."""
        self._versions = itertools.count(1)
        self._seen: dict[str, float] = {}
        """Sessions that can come for a permit, or are absent: since when (clock())."""
        self._late: dict[str, float] = {}
        """Those that have said nothing for too long: since when that is known."""

    # --- Requests ---------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Answer:
        """Cancelled, it leaves the request to be carried out."""
        if self._work is not None and not self._work.done():
            await asyncio.wait([self._work])
        self._work = background(self._ask(request), "limit: a request to PostgreSQL")
        self._work.add_done_callback(lambda work: work.cancelled() or work.exception())  # nobody may wait any more
        await asyncio.wait([self._work])
        return self._work.result()

    async def _ask(self, request: Request) -> Answer:
        if self.is_lost.is_set():
            raise SessionLost(self.why)
        if self._statement is None:
            try:
                async with asyncio.timeout(max(CONNECTING, 2 * self._state.lease / RENEWALS)):
                    await self._open()
            except BaseException:
                await self.close()
                raise
        keeps = 0 if self._leaves else self._granted - request.returned
        wants = 0 if self._leaves else min(max(0, request.asked - self._granted), HIGHEST)
        says = keeps, wants, min(request.limit, HIGHEST), self._leaves
        try:
            row = await self._execute(*says)
            numbers, first, late = (part.split() for part in row.split("/"))
            held, gained, fence, others, least, total, sessions, moment = map(int, numbers)
            if held != self._held:
                raise RuntimeError(f"it had locks for {held} permits, not for {self._held}")
        except BaseException as error:
            if says == self._stands and not wants and getattr(error, "sqlstate", None) and self._statement is not None:
                raise  # it only was to be no longer late: nothing can be half done
            # What was broken off in the middle may have left any number of locks; the end of the connection leaves none.
            self._terminate()
            self.why = f"{LOST} ({type(error).__name__}: {error})"
            self._has_ended(self._number)
            if not self._granted or not isinstance(error, Exception):
                raise
            raise SessionLost(self.why) from error
        self._granted += gained
        self._fence = fence or self._fence
        self._held, self._waits = keeps + gained, wants > gained
        self._stands = keeps + gained, wants - gained, *says[2:]
        self._latest = moment
        now = clock()
        self._seen = {name: self._seen.get(name, now) for name in first}
        self._late = {name: self._late.get(name, now) for name in late}
        soonest = (others + 1) / LOOKS * random.uniform(0, 2)  # so that not all look at the same time
        if self._waits and await self._ends_late_ones(now):
            soonest = AT_ONCE
        return Answer(
            alive=True,
            epoch=EPOCH,
            granted=self._granted,
            returned=request.returned,
            fence=self._fence,
            standing=Standing(others, least, total, sessions, next(self._versions)),
            # Who passes somebody over is not told when that one is back, or when another one comes who has not passed it over.
            soonest=soonest if self._waits or self._seen else None,
        )

    async def _execute(self, keeps: int, wants: int, limit: int, leaves: bool) -> str:
        passed_over = clock() - PATIENCE
        return str(
            await self._statement.fetchval(
                *self._keys,
                keeps,
                wants,
                limit,
                leaves,
                round(self._state.lease * LATE * 1000),
                " ".join(self._seen),
                " ".join(name for name, since in self._seen.items() if since < passed_over),
                timeout=NO_END,
            )
        )

    async def _ends_late_ones(self, now: float) -> bool:
        """End the connections of sessions that are late: of a process that stands still, or has died and left a child that has the socket.

        Not on the first sight, as the server itself may have stood still.
        """
        has_ended = False
        for name, since in list(self._late.items()):
            if now - since > self._state.lease / 2:
                with contextlib.suppress(Exception):  # it may be of another user; or this connection has ended itself
                    pid, until = map(int, name.split(":"))
                    await self._connection.fetch(TERMINATE, pid, self._keys.until, until)
                    has_ended = True
        return has_ended

    # --- The connection ---------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._connection = connection = await self._state.connect()
        if self._leaves:  # the function that connects has not let itself be cancelled
            raise asyncio.CancelledError
        if not hasattr(connection, "add_termination_listener"):
            kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
            raise GateUnavailable(f"client must give a connection of asyncpg, not {kind}")
        if connection.is_in_transaction():
            raise GateUnavailable("client must give a connection that is not in a transaction")
        self._number += 1
        self._held, self._waits, self._stands, self._seen, self._late = 0, False, (), {}, {}
        connection.add_termination_listener(functools.partial(self._has_ended, self._number))
        self._pid = connection.get_server_pid()
        wanted = settings(self._state.lease)
        await connection.execute(FIRST_SETTINGS)
        await connection.fetch(
            "SELECT set_config(name, value, false) FROM pg_settings"
            " JOIN unnest($1::text[], $2::text[]) AS wanted (name, value) USING (name)",
            list(wanted),
            list(wanted.values()),
        )
        # A number would be decoded as the user may have said.
        if await connection.execute(f"SELECT WHERE pg_backend_pid() = {self._pid}") != "SELECT 1":
            raise GateUnavailable(
                "between the client and the server is a pooler, as PgBouncer, that may let others use the connection: "
                "the client must connect to the server itself"
            )
        if await connection.execute(HOLDS_LOCKS) != "SELECT 0":
            raise GateUnavailable(
                "client must give a connection of its own each time, and this one holds advisory locks"
            )
        await connection.add_listener(self._keys.channel, self._notified)
        self._statement = await connection.prepare(STATEMENT)

    def _has_ended(self, number: int, connection: Any = None) -> None:
        if self._leaves or number != self._number or self._statement is None:
            return
        self._connection = self._statement = None
        self._state.lost_a_connection()
        if self._granted:
            self.is_lost.set()
        elif self.heard is not None:
            self.heard(None)

    def _notified(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        numbers, called = (part.split() for part in payload.split("/"))
        moment, waiting, least, total, sessions = map(int, numbers)
        if self.heard is None or pid == self._pid:
            return
        if len(self._seen) > MOST_SEEN:
            self._seen.clear()
        for name in called:
            self._seen.setdefault(name, clock())
        is_asking = self._work is not None and not self._work.done()
        if is_asking or any(name.startswith(f"{self._pid}:") for name in called):
            self.heard(None)  # where a request is under way, nobody can say whether this is later than its answer
        elif moment > self._latest:
            self._latest = moment
            standing = Standing(waiting - self._waits, least, total, sessions, next(self._versions))
            self.heard(Message(sender=str(pid), epoch=EPOCH, granted=0, fence=0, standing=standing))

    def _terminate(self) -> None:
        with contextlib.suppress(Exception):  # the proxy of a pool does not let a closed connection be closed
            self._connection.terminate()

    async def close(self) -> None:
        """Close the connection, of a pool too: nobody else gets what was set and listened to."""
        connection, self._connection, self._statement = self._connection, None, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(CLOSING):
                await connection.close()
        except BaseException as error:
            with contextlib.suppress(Exception):
                connection.terminate()
            if not isinstance(error, Exception):
                raise

    async def leave(self, request: Request) -> None:
        """Give everything back, and end the connection; cancelled, it only ends that."""
        self._leaves = True
        try:
            if self._statement is not None:
                await self.ask(request)
        except Exception:  # the end of the connection gives back as well
            pass
        finally:
            await self.end()

    async def end(self) -> None:
        """End the connection, and what is under way."""
        self._leaves = True
        if self._work is not None and not self._work.done():
            self._terminate()
            self._work.cancel()
            await asyncio.wait([self._work], timeout=CLOSING)
        await self.close()


class PostgresState:
    """Permits as the statement of this folder counts them (_sync.sql)."""

    ends_with_connection = True

    def __init__(self, client: Any, name: str, lease: float) -> None:
        self.lease = min(lease, LONGEST_LEASE)
        self.keys = keys_of(name)
        self._client = client
        self._name = name
        self._backends: dict[str, Backend] = {}
        self._lost_at = float("-inf")
        self._pause = 0.0
        self._waits_for_pool = 0

    @property
    def where(self) -> str:
        if self._waits_for_pool and self._client.get_size() == self._client.get_max_size():
            return f"PostgreSQL (all {self._client.get_max_size()} connections of the pool are in use, and a limit takes one for itself)"
        return "PostgreSQL"

    def _backend(self, session: str) -> Backend:
        if session not in self._backends:
            self._backends[session] = Backend(self)
        return self._backends[session]

    async def connect(self) -> Any:
        if clock() - self._lost_at < self.lease:
            await asyncio.sleep(self._pause * random.uniform(0.5, 1))
        is_pool = _is_pool(self._client)
        loop = asyncio.get_running_loop()
        if is_pool and getattr(self._client, "_loop", loop) is not loop:
            raise GateUnavailable(
                "the pool belongs to another event loop; for several, let client be a function that connects, as "
                "functools.partial(asyncpg.connect, dsn)"
            )
        self._waits_for_pool += is_pool
        try:
            return await (self._client.acquire() if is_pool else self._client())
        except Exception as error:
            # A pool is closed, or not initialized.
            if isinstance(error, MISTAKES) or (is_pool and str(error).startswith("pool is ")):
                raise GateUnavailable(f"the client cannot connect ({type(error).__name__}: {error})") from error
            raise
        finally:
            self._waits_for_pool -= is_pool

    def lost_a_connection(self) -> None:
        """If that happens again and again, there is a longer pause each time before the next one is made."""
        now = clock()
        lately = now - self._lost_at < self.lease
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), self.lease / 6) if lately else 0.0
        self._lost_at = now

    async def sync(self, request: Request) -> Answer:
        return await self._backend(request.session).ask(request)

    async def leave(self, request: Request, *, at_once: bool) -> Answer:
        backend = self._backends.pop(request.session, None)
        if backend is not None:
            await backend.leave(request)
        return Answer(True, request.epoch, request.granted, request.granted, 0, Standing(0, 0, 0, 0, 0), None)

    async def forget(self, session: str) -> None:
        backend = self._backends.pop(session, None)
        if backend is not None:
            await backend.end()

    async def listen(self, session: str, heard: Callable[[Message | None], None]) -> NoReturn:
        backend = self._backend(session)
        backend.heard = heard
        try:
            await backend.is_lost.wait()
            raise SessionLost(backend.why)
        finally:
            backend.heard = None

    def refusal(self, error: BaseException) -> str | None:
        if isinstance(error, GateUnavailable):
            return str(error)
        sqlstate = getattr(error, "sqlstate", None) or ""
        for beginning, what in REFUSALS.items():
            if sqlstate.startswith(beginning):
                return f"{what} ({type(error).__name__}: {error})"
        return None

    def for_another_loop(self) -> PostgresState:
        return PostgresState(self._client, self._name, self.lease)

    async def close(self) -> None:
        """A connection is closed when its session leaves."""


# --- The limit ------------------------------------------------------------------------------------------------------


class PostgresLimit(SharedLimit):
    """At most `limit` at once, over all processes and hosts that use the name in one database of PostgreSQL.

    An async context manager: `async with` takes one permit and gives the fencing token; any call with a `limit=`, `gated_coro` and
    every stream take it as their limit. A process holds its permits as advisory locks of one connection, and passes them from item to
    item without asking the server. They are its own as long as the connection lives: those of a process that is killed are free at once.

    Parameters:
        client: A Pool of asyncpg, or a function without arguments that gives a connection of asyncpg when awaited, as
            `functools.partial(asyncpg.connect, dsn)`. One connection is taken from the first entering on, for as long as the limit is
            needed, and closed then; a pool stays the caller's.
        name: Which processes share the limit: those that give the same one, in the same database.
        limit: How many may hold it at once, an integer of at least 1. Each process keeps to its own number; see `limit`.
        lease: Seconds, at least 1, for which the server may not answer before a process takes what it holds for lost. A server that does
            not reach a process any more gives what that held to others after twice the time (over TCP).
        on_lost: What becomes of items whose permit is lost. "cancel": their Tasks are cancelled at once, and the item ends with
            `LeaseLost`. When a connection ends the server has given the permits away already: until the items have ended, more than
            `limit` may run. "keep": they run on, beside those that get the permits then; nothing new starts without one.

    Entering waits for a permit, in order of arrival within the process; between processes, those that hold least are served first. It
    raises `GateUnavailable` if the server refuses, or is out of reach for a whole lease, and if the limit is closed; RuntimeError in
    another event loop than the one that it is used in. A cancelled entering takes nothing, and loses nothing.

    Raises TypeError for a client of another kind, and for what is no string or number, ValueError for a number that is too small, for
    an empty name and for another `on_lost`.
    """

    def __init__(
        self, client: Any, name: str, limit: SupportsIndex, *, lease: float = 30.0, on_lost: OnLost = "cancel"
    ) -> None:
        _check_client(client)
        state: State = PostgresState(client, checked_name(name), checked_lease(lease))
        super().__init__(state, name, limit, on_lost=on_lost, renew_in_thread=False)
