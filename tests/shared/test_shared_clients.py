"""Whichever client is handed over, of redis-py or of valkey-py, and however it is made: it is used as it is, and stays the user's."""

import asyncio
import importlib
import importlib.util

import pytest

import gatedcoro
from gatedcoro.shared import GateUnavailable, RedisLimit
from shared_kinds import is_postgres, limit_of
from shared_limits import all_permits, limit_on, run, until
from shared_processes import KEYS, held, waiting
from shared_servers import KINDS, asyncio_class, missing

PARSERS = ("python", "hiredis")


def parser_of(kind, name):
    """The class of asyncio parsers for RESP2 that reads in plain Python, or in C."""
    if name == "hiredis":
        package = {"redis": "hiredis", "valkey": "libvalkey"}[kind]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"not installed: {package}")
        found = [f"_Async{package.title()}Parser"]
    else:
        found = ["_AsyncRESP2Parser"]
    parsers = importlib.import_module(f"{kind}._parsers")
    return next(vars(parsers)[name] for name in found if hasattr(parsers, name))


async def work(server, client, other_client):
    """Two sessions pass permits to each other by messages: with these leases nothing else brings them in time."""
    before = server.calls()["subscribe"]
    async with (
        limit_on(server, 2, client=client, lease=100) as one,
        limit_on(server, 2, client=other_client, lease=100) as other,
    ):
        entered = []

        async def item(name):
            entered.append(name)
            await asyncio.sleep(0.001)
            return name

        results = await asyncio.gather(
            gatedcoro.gather(*map(item, range(20)), limit=one), gatedcoro.gather(*map(item, range(20, 40)), limit=other)
        )
        assert results == [list(range(20)), list(range(20, 40))]
        assert sorted(entered) == list(range(40))
        fence = await one.acquire()
        assert type(fence) is int and fence > 10**15
        one.release()
    assert server.calls()["subscribe"] - before == 2  # no message was taken for an error, and listened for again
    assert server.keys() == []


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
def test_answers_are_understood_decoded_or_not_in_either_protocol(server, protocol, decode):
    clients = [server.client(decode_responses=decode, protocol=protocol) for _ in range(2)]
    run(lambda: work(server, *clients))


@pytest.mark.parametrize("name", PARSERS)
def test_answers_are_understood_whichever_parser_reads_them(server, name):
    parser = parser_of(server.kind, name)
    module = importlib.import_module(f"{server.kind}.asyncio")

    def client():
        return asyncio_class(server.kind).from_pool(module.ConnectionPool(port=server.port, parser_class=parser))

    run(lambda: work(server, client(), client()))


@pytest.mark.parametrize("package", KINDS)
def test_the_client_of_either_package_works_with_either_server(server, package):
    if reason := missing(package):
        pytest.skip(reason)
    clients = [asyncio_class(package)(port=server.port), server.client()]
    run(lambda: work(server, *clients))


def test_a_client_made_from_an_address_and_one_of_a_blocking_pool_will_do(server):
    module = importlib.import_module(f"{server.kind}.asyncio")
    pool = module.BlockingConnectionPool(port=server.port, max_connections=3, timeout=5)
    clients = [module.from_url(f"redis://127.0.0.1:{server.port}/0"), asyncio_class(server.kind)(connection_pool=pool)]

    async def main():
        await work(server, *clients)
        await pool.aclose()

    run(main)


def test_a_client_with_a_short_socket_timeout_waits_for_messages_all_the_same(server):
    async def main():
        async with (
            limit_on(server, 1, client=server.client(socket_timeout=0.2), lease=100) as one,
            limit_on(server, 1, client=server.client(socket_timeout=0.2), lease=100) as other,
        ):
            await one.acquire()
            waits = asyncio.create_task(other.acquire())
            await asyncio.sleep(1)
            assert not waits.done()
            one.release()
            await waits
            other.release()

    run(main)


def test_the_users_client_serves_the_user_beside_the_limit_and_after_it(server):
    async def main():
        client = server.client()
        limit = RedisLimit(client, "name", 2, lease=1, recover=False)
        async with limit:
            await client.set("key", "value")
        await limit.aclose()
        assert await client.get("key") == b"value"
        await client.aclose()

    run(main)


def test_a_script_that_the_server_has_forgotten_is_sent_again(server):
    async def main():
        async with limit_on(server, 1) as limit:
            for _ in range(3):
                server.administration.script_flush()
                async with limit:
                    pass
                await until(lambda: held(server) == 0)

    before = server.calls()["eval"]
    run(main)
    assert 1 <= server.calls()["eval"] - before <= 3 + 1


def test_a_script_that_the_server_has_forgotten_is_not_what_is_wrong_when_it_does_not_answer_then():
    import redis.asyncio

    class Client(redis.asyncio.Redis):
        async def info(self, *args):
            return {}

        async def evalsha(self, *args):
            raise redis.exceptions.NoScriptError("NOSCRIPT")

        async def eval(self, *args):
            await asyncio.Event().wait()

    async def main():
        limit = RedisLimit(Client(port=1), "name", 1, lease=1)
        with pytest.raises(GateUnavailable, match="out of reach for 1 s: it did not answer in time"):
            await limit.acquire()
        await limit.aclose()

    run(main)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_a_user_without_the_right_to_info_waits_for_claims_each_time(new_server):
    """How long the server has been up is not known then."""
    script = "+time +exists +del +hget +hset +hdel +hmget +zadd +zrem +zrange +zrangebyscore +zcard +publish +pexpireat"
    server = new_server(user=[f"plain on >pw ~gate:* &gate:* +evalsha +eval +subscribe {script}"])

    async def main():
        client = server.client(username="plain", password="pw")
        async with limit_on(server, client=client, recover=True, lease=2) as limit:
            waits = asyncio.create_task(limit.acquire())
            await until(lambda: waiting(server) == 1)
            grace = int(server.administration.hget(KEYS[3], "grace"))
            assert server.now() / 1_000 < grace
            await waits
            assert server.now() / 1_000 >= grace
            limit.release()

    server.administration.config_resetstat()
    run(main)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_a_client_of_a_cluster_is_refused(cluster):
    client = cluster.client()
    with pytest.raises(TypeError, match="cluster are not supported"):
        RedisLimit(client, "name", 1)
    asyncio.run(client.aclose())


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_a_node_of_a_cluster_says_that_it_is_one(cluster):
    key = KEYS[0].replace("name", "here")
    owner = cluster.server_of(key)
    [other, *_] = [server for server in cluster.servers if server is not owner]

    async def main():
        async with limit_on(other, name="here") as limit:
            with pytest.raises(GateUnavailable, match="node of a cluster"):
                await limit.acquire()
        async with limit_on(owner, name="here") as limit:
            await all_permits(limit)

    run(main)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_what_is_no_asyncio_client_is_refused(server):
    blocking = server.administration

    async def main():
        client = server.client()
        for wrong in (blocking, client.pipeline(), client.pubsub(), client.connection_pool, None, "redis://127.0.0.1"):
            with pytest.raises(TypeError, match="asyncio client of redis-py or valkey-py"):
                RedisLimit(wrong, "name", 1)
        await client.aclose()

    run(main)


@pytest.mark.parametrize("kind", ["redis", "postgres"], indirect=True)
@pytest.mark.parametrize(
    "error, arguments",
    [
        (TypeError, {"limit": 1.5}),
        (TypeError, {"limit": None}),
        (ValueError, {"limit": 0}),
        (ValueError, {"limit": -1}),
        (TypeError, {"name": b"name"}),
        (ValueError, {"name": ""}),
        (ValueError, {"name": "\ud800"}),
        (TypeError, {"lease": "1"}),
        (TypeError, {"lease": True}),
        (ValueError, {"lease": 0.9}),
        (ValueError, {"lease": float("nan")}),
        (ValueError, {"lease": float("inf")}),
        (ValueError, {"on_lost": "cancelled"}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(server, error, arguments):
    client = server.connector() if is_postgres(server) else server.client()
    with pytest.raises(error):
        limit_of(client, **({"name": "name", "limit": 1} | arguments))
    limit = limit_of(client, "name", 1)
    if "limit" in arguments:
        with pytest.raises(error):
            limit.limit = arguments["limit"]
        assert limit.limit == 1


@pytest.mark.parametrize("name", ["a}b", "{", "}", "{x}", "%7D", "a b", "ü", "a:b", "\n"])
@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_any_name_is_a_name_of_its_own(server, name):
    async def main():
        async with limit_on(server, 1, name=name, lease=100) as one, limit_on(server, 1, name=name, lease=100) as other:
            async with limit_on(server, 1, name=name + "2") as third, one, third:
                waits = asyncio.create_task(other.acquire())
                await asyncio.sleep(0)
            await waits
            other.release()

    run(main)


def test_fakeredis_passes_for_a_client_and_its_server():
    """For tests of one's own, as docs/shared-limits.md says."""
    fakeredis = pytest.importorskip("fakeredis")
    pytest.importorskip("lupa")

    async def main():
        async with fakeredis.FakeAsyncRedis() as client:
            inside, peak = 0, 0

            async def item(number):
                nonlocal inside, peak
                inside += 1
                peak = max(peak, inside)
                await asyncio.sleep(0.01)
                inside -= 1
                return number

            async with limit_on(None, 3, client=client) as limit:
                assert await gatedcoro.gather(*map(item, range(20)), limit=limit) == list(range(20))
            assert peak == 3
            assert await client.keys() == []

    run(main)
