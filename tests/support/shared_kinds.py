"""What depends on the kind of server in tests that are the same for all: the client, its limit, and what the server counts.

Redis and Valkey keep keys; PostgreSQL has nothing but the advisory locks of connections.
"""

import functools
import importlib

from gatedcoro import shared

NAME = "name"  # of the limit that workers share
KEYS = [f"gate:{{{NAME}}}:{key}" for key in ("sessions", "counts", "queue", "meta")]  # of Redis


def is_postgres(server):
    return getattr(server, "kind", None) == "postgres"


# --- Clients and limits ---------------------------------------------------------------------------------------------


def client_of(package, sentinels=None, service=None, pool=None, **arguments):
    """A client of redis-py or valkey-py; of asyncpg a pool with these arguments, or else a function that connects."""
    if package == "asyncpg":
        asyncpg = importlib.import_module("asyncpg")
        if pool is not None:
            return asyncpg.create_pool(**arguments, **pool)
        return functools.partial(asyncpg.connect, **arguments)
    module = importlib.import_module(f"{package}.asyncio")
    if sentinels is None:
        return module.from_url(**arguments) if "url" in arguments else vars(module)[package.capitalize()](**arguments)
    return module.Sentinel(map(tuple, sentinels), **arguments).master_for(service, **arguments)


def arguments_of(server):
    """Those with which a worker makes its client."""
    if is_postgres(server):
        return {"package": "asyncpg", "dsn": server.url, "user": server.ORDINARY}
    return {"package": server.kind, "host": "127.0.0.1", "port": server.port}


def limit_of(client, name, limit, recover=False, **options):
    """The limit that belongs to the client."""
    if is_of_asyncpg(client):
        return shared.PostgresLimit(client, name, limit, **options)
    return shared.RedisLimit(client, name, limit, recover=recover, **options)


def is_of_asyncpg(client):
    """A pool, or a function."""
    return not hasattr(client, "connection_pool")


async def opened(client):
    """The client, ready for use: a pool of asyncpg is not before it was awaited."""
    if is_of_asyncpg(client) and not callable(client):
        await client
    return client


async def closed(client):
    if not is_of_asyncpg(client):
        await client.aclose()
    elif not callable(client):
        await client.close()


async def ping(client):
    """Whether the client's server answers it."""
    if not is_of_asyncpg(client):
        return await client.ping()
    connection = await (client() if callable(client) else client.acquire())
    try:
        return await connection.fetchval("SELECT true")
    finally:
        await (connection.close() if callable(client) else client.release(connection))


# --- What the server counts -----------------------------------------------------------------------------------------

OF_THIS_DATABASE = (
    "locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def held(server, name=NAME):
    """How many permits the server counts, in all."""
    if is_postgres(server):
        return sum(numbers_of(server, "held", name).values())
    return int(server.administration.hget(KEYS[3], "total") or 0)


def sessions(server, name=NAME):
    """Each session, and when its lease ends by the server's clock in milliseconds; PostgreSQL has no leases."""
    if is_postgres(server):
        value = keys_of(name).member_value & 0xFFFFFFFF
        return {pid: None for pid, number in numbers_of(server, "member", name).items() if number == value}
    return dict(server.administration.zrange(KEYS[0], 0, -1, withscores=True))


def waiting(server, name=NAME):
    """How many sessions wait, as the server counts them."""
    if is_postgres(server):
        return len(numbers_of(server, "wants", name))
    return server.administration.zcard(KEYS[2])


def listening(server):
    """How many sessions hear the messages that are for all."""
    if is_postgres(server):
        return len(sessions(server))
    [(_, number)] = server.administration.pubsub_numsub("gate:{name}:news")
    return number


def left_on(server):
    """What is on the server for limits, whichever their names are."""
    if is_postgres(server):
        query = "SELECT pid, classid, objid, objsubid, mode, granted FROM pg_locks WHERE locktype = 'advisory'"
        return [tuple(row) for row in server.execute(query)]
    return server.keys()


def requests(server):
    """How many requests of limits there were since the server began."""
    return server.requests() if is_postgres(server) else server.calls()["evalsha"]


def keys_of(name):
    return importlib.import_module("gatedcoro.shared._postgres").keys_of(name)


def numbers_of(server, what, name=NAME):
    """The second number of each session's lock of a class, by process."""
    query = f"SELECT pid, objid FROM pg_locks WHERE {OF_THIS_DATABASE} AND objsubid = 2 AND classid = $1"
    found = server.execute(query, getattr(keys_of(name), what) & 0xFFFFFFFF)
    return {row["pid"]: row["objid"] for row in found}
