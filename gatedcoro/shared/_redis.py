"""A limit whose permits are counted by Redis or Valkey."""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
from collections.abc import Callable
from typing import Any, NoReturn, SupportsIndex

from ._errors import GateUnavailable
from ._limit import OnLost, SharedLimit, checked_lease, checked_name
from ._state import Answer, Message, Request, Standing, State

__all__ = ["RedisLimit"]

SCRIPT = importlib.resources.files(__package__).joinpath("_sync.lua").read_text(encoding="utf-8")
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
KEYS = ("sessions", "counts", "queue", "meta")  # in the script's order
HIGHEST = 2**53  # Lua's numbers are exact up to here

# Errors by the name of their class, which redis-py and valkey-py share; the first that fits tells.
PASSING = ("BusyLoadingError", "ClusterDownError", "MasterDownError", "TryAgainError")
PASSING_WORDS = ("BUSY", "LOADING", "MASTERDOWN", "Redis is busy", "Valkey is busy")
REFUSALS = {
    "AuthenticationError": "give the client the user and the password that the server asks for",
    "AuthorizationError": "give the client a user that the server accepts",
    "MaxConnectionsError": "the client's pool must have room for two connections more: max_connections",
    "NoPermissionError": "the client's user needs evalsha, eval, subscribe, the script's commands, and the keys and channels gate:* "
    "(docs/shared-limits.md)",
    "OutOfMemoryError": "the server's memory is full",
    "ReadOnlyError": "the server is a replica: the client must reach the primary, as that of Sentinel.master_for does",
    "MovedError": "the server is a node of a cluster, and does not serve the limit's keys",
    "ResponseError": "the server cannot run the limit's script",
}
REFUSING_WORDS = {
    "Too many connections": "MaxConnectionsError",
    "MOVED ": "MovedError",
    "ACL failure": "NoPermissionError",
    "The user executing the script": "NoPermissionError",
}


def _class_names(error: BaseException) -> list[str]:
    return [base.__name__ for base in type(error).__mro__]


# --- The client that is handed over ---------------------------------------------------------------------------------


def _asyncio_class(client: Any) -> Any:
    """The class of redis-py or valkey-py that an asyncio client is made of."""
    for base in type(client).__mro__:
        if f"{base.__module__}.{base.__name__}" in ("redis.asyncio.client.Redis", "valkey.asyncio.client.Valkey"):
            return base
    return None


def _check_client(client: Any) -> None:
    if _asyncio_class(client) is not None and not hasattr(client, "command_stack"):  # which a pipeline has
        return
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    if ".cluster" in kind:
        raise TypeError(
            f"client must be a client of one server, not {kind}: limits in a cluster are not supported; "
            "a limit can have a server of its own"
        )
    raise TypeError(f"client must be an asyncio client of redis-py or valkey-py, as redis.asyncio.Redis(), not {kind}")


def own_client(client: Any) -> Any:
    """Another client for the same server, with connections of its own, for another event loop, thread or process."""
    pool = client.connection_pool
    arguments = {
        key: value
        for key, value in pool.connection_kwargs.items()
        # These two hold on to the pool that they came from.
        if key != "connection_pool" and not key.startswith("maint_notifications")
    }
    arguments["connection_class"] = pool.connection_class
    if hasattr(pool, "sentinel_manager"):
        manager = copy.copy(pool.sentinel_manager)
        manager.sentinels = [own_client(sentinel) for sentinel in manager.sentinels]
        new_pool = type(pool)(
            pool.service_name,
            manager,
            is_master=pool.is_master,
            check_connection=pool.check_connection,
            **arguments,
        )
    else:
        new_pool = type(pool)(**arguments)
    own = copy.copy(client)  # which does what a subclass does: other names for keys, say
    own.connection_pool, own.auto_close_connection_pool = new_pool, True
    own.connection, own.single_connection_client = None, False
    return own


async def close_own(client: Any) -> None:
    await client.aclose()
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        await close_own(sentinel)


# --- The server -----------------------------------------------------------------------------------------------------


class RedisState:
    """Permits as the script of this folder counts them (_sync.lua)."""

    ends_with_connection = False

    def __init__(self, client: Any, name: str, lease: float, *, recover: bool, owns_client: bool = False) -> None:
        self.lease = lease
        self._client = client
        self._name = name
        self._recover = recover
        self._owns_client = owns_client
        # Keys with the same text in braces are on one node of a cluster; the first closing brace ends it.
        prefix = "gate:{" + name.replace("%", "%25").replace("}", "%7D") + "}:"
        self._keys = [prefix + key for key in KEYS]
        self._channels = prefix
        self._is_checked = False

    @property
    def where(self) -> str:
        pool = self._client.connection_pool
        arguments = pool.connection_kwargs
        place = getattr(pool, "service_name", None) or arguments.get("path")
        return f"the server {place or '{host}:{port}'.format_map({'host': 'localhost', 'port': 6379, **arguments})}"

    async def sync(self, request: Request) -> Answer:
        if not self._is_checked:
            await self._check_memory()
            self._is_checked = True
        return await self._run(request, self.lease)

    async def leave(self, request: Request, *, at_once: bool) -> Answer:
        return await self._run(request, 0 if at_once else self.lease)

    async def forget(self, session: str) -> None:
        """It has nothing for itself."""

    async def _run(self, request: Request, lease: float) -> Answer:
        arguments = (
            request.session,
            round(lease * 1000),
            min(request.limit, HIGHEST),
            request.number,
            request.granted,
            request.returned,
            request.asked,
            request.epoch,
            request.fence,
            int(self._recover),
            request.version,
            self._channels,
        )
        answer = None
        try:
            answer = await self._client.evalsha(SHA, len(KEYS), *self._keys, *arguments)
        except Exception as error:
            if "NoScriptError" not in _class_names(error):
                raise
        if answer is None:  # not in the handler: this error would be behind whatever happens here
            answer = await self._client.eval(SCRIPT, len(KEYS), *self._keys, *arguments)
        alive, epoch, granted, returned, fence, others, least, total, sessions, requests, soonest = map(int, answer)
        return Answer(
            alive=bool(alive),
            epoch=epoch,
            granted=granted,
            returned=returned,
            fence=fence,
            standing=Standing(others, least, total, sessions, requests),
            soonest=soonest / 1000 if soonest >= 0 else None,
        )

    async def _check_memory(self) -> None:
        """A server that drops keys when its memory is full would forget who holds what."""
        try:
            info = await self._client.info("memory")
        except Exception as error:
            if "ResponseError" not in _class_names(error):
                raise
            return  # it may not be asked
        policy = info.get("maxmemory_policy", "noeviction")
        if int(info.get("maxmemory", 0)) and policy != "noeviction":
            raise GateUnavailable(
                f"the server drops keys when its memory is full (maxmemory-policy {policy}), and would forget who holds "
                "permits: set maxmemory-policy to noeviction, or give limits a server of their own"
            )

    async def listen(self, session: str, heard: Callable[[Message | None], None]) -> NoReturn:
        channels = (self._channels + session, self._channels + "news")
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(*channels)
            while True:
                # With an end, as a client's socket_timeout would be one; nothing is amiss when nothing comes.
                message = await pubsub.get_message(timeout=self.lease)
                if message is None:
                    continue
                if message["type"] == "message":
                    heard(_message(message["data"]))
                elif message["type"] == "subscribe" and message["data"] >= len(channels):
                    heard(None)  # also when the client has connected again by itself
        except GeneratorExit:  # the event loop has ended: nothing can be awaited
            raise
        except BaseException:
            await pubsub.aclose()
            raise

    def refusal(self, error: BaseException) -> str | None:
        if isinstance(error, GateUnavailable):
            return str(error)
        names = _class_names(error)
        if any(name in PASSING for name in names) or str(error).startswith(PASSING_WORDS):
            return None
        # What has no class of its own: with valkey-py and older versions of redis-py, and inside the script.
        names += [name for words, name in REFUSING_WORDS.items() if str(error).startswith(words)]
        for name, what in REFUSALS.items():
            if name in names:
                return f"{what} ({type(error).__name__}: {error})"
        return None

    def for_another_loop(self) -> RedisState:
        client = own_client(self._client)
        return RedisState(client, self._name, self.lease, recover=self._recover, owns_client=True)

    async def close(self) -> None:
        if self._owns_client:
            await close_own(self._client)


def _message(data: bytes | str) -> Message:
    sender, *numbers = (data.decode() if isinstance(data, bytes) else data).split()
    epoch, granted, fence, others, least, total, sessions, requests = map(int, numbers)
    return Message(
        sender=sender,
        epoch=epoch,
        granted=granted,
        fence=fence,
        standing=Standing(others, least, total, sessions, requests),
    )


# --- The limit ------------------------------------------------------------------------------------------------------


class RedisLimit(SharedLimit):
    """At most `limit` at once, over all processes and hosts that use the name on one server of Redis or Valkey.

    An async context manager: `async with` takes one permit and gives the fencing token; any call with a `limit=`, `gated_coro` and
    every stream take it as their limit. Permits are counted at the server for the process, under a lease that is renewed in the
    background, and pass from item to item without asking it.

    Parameters:
        client: An asyncio client of redis-py or valkey-py (`redis.asyncio.Redis`, or what `Sentinel.master_for` gives). It stays
            the caller's: it is used from the first entering on, with two connections more, and never closed.
        name: Which processes share the limit: those that give the same one.
        limit: How many may hold it at once, an integer of at least 1. Each process keeps to its own number; see `limit`.
        lease: Seconds, at least 1, after which what a process held that was killed, or cannot reach the server, is given to others.
        on_lost: What becomes of items whose permit is lost. "cancel": their Tasks are cancelled at once, before anyone else may hold
            the permit where that can be foreseen, and the item ends with `LeaseLost`. "keep": they run on, beside those that get the
            permits then; nothing new starts without one.
        recover: False: a server that has been up for less than a lease grants permits at once. As a rule it does not: processes that
            have outlived its restart first claim what they hold.
        renew_in_thread: True: where the event loop is blocked for so long that the lease would end, a thread renews it, with a client
            of its own, made from the connection arguments of this one.

    Entering waits for a permit, in order of arrival within the process; between processes, those that hold least are served first. It
    raises `GateUnavailable` if the server refuses, or is out of reach for a whole lease, and if the limit is closed; RuntimeError in
    another event loop than the one that it is used in. A cancelled entering takes nothing, and loses nothing.

    Raises TypeError for a client of another kind, and for what is no string or number, ValueError for a number that is too small, for
    an empty name and for another `on_lost`.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        limit: SupportsIndex,
        *,
        lease: float = 30.0,
        on_lost: OnLost = "cancel",
        recover: bool = True,
        renew_in_thread: bool = False,
    ) -> None:
        _check_client(client)
        state: State = RedisState(client, checked_name(name), checked_lease(lease), recover=recover)
        super().__init__(state, name, limit, on_lost=on_lost, renew_in_thread=renew_in_thread)
