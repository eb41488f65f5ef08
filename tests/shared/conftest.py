"""Servers for the tests of the shared limit; each of these tests runs on Redis and on Valkey, unless it says otherwise: those that hold
for PostgreSQL as well name it, and those of test_postgres_*.py name it alone.

`server` is there for the whole session and empty at the beginning of a test: for what leaves the server alive. Who kills, stops,
freezes or configures one makes it with `new_server`.
"""

import contextlib
import importlib.util

import pytest

import shared_servers

HAS_CLIENTS = all(map(importlib.util.find_spec, ("redis", "asyncpg")))
if HAS_CLIENTS:
    import shared_kinds
    import shared_processes


class WithoutClients(pytest.Module):
    def collect(self):
        pytest.skip("needs redis and asyncpg (the extra shared-test)", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """What to take a file of this folder for: without its client it cannot even be imported."""
    return None if HAS_CLIENTS else WithoutClients.from_parent(parent, path=module_path)


def skip_without(kind):
    if reason := shared_servers.missing(kind):
        pytest.skip(reason)


@pytest.fixture(scope="session", params=shared_servers.KINDS)
def kind(request):
    """The program that is the server: "redis" or "valkey", and "postgres" where a test asks for it."""
    skip_without(request.param)
    return request.param


@pytest.fixture(scope="session")
def server_of_the_session(kind):
    with server_of(kind) as server:
        yield server


def server_of(kind, **options):
    return shared_servers.Postgres(**options) if kind == "postgres" else shared_servers.Redis(kind, **options)


def nothing_is_left(server):
    """Of connections that have ended PostgreSQL keeps nothing; so none of a test's goes on, and holds a lock."""
    if shared_kinds.is_postgres(server):
        shared_servers.wait_until(lambda: not server.connections())
        assert shared_kinds.left_on(server) == []


@pytest.fixture
def server(server_of_the_session):
    """A server without a key, a script or a client; it has to be alive at the end."""
    server = server_of_the_session
    server.clean()
    yield server
    assert server.alive, "a test that ends the server has to take new_server"
    nothing_is_left(server)


@pytest.fixture
def new_server(kind):
    """new_server(**options): a server of the test's own, ended after the test."""
    started = []

    def start(**options):
        started.append(stack.enter_context(server_of(kind, **options)))
        return started[-1]

    with contextlib.ExitStack() as stack:
        yield start
        for server in started:
            if server.alive:
                nothing_is_left(server)


# --- Processes that share a limit -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server_of_the_witness():
    skip_without("redis")
    with shared_servers.Redis("redis") as server:
        yield server


@pytest.fixture
def witness(server_of_the_witness):
    """Knows what all processes of the test have done, in order, whatever becomes of the server of the limit."""
    return shared_processes.Witness(server_of_the_witness)


@pytest.fixture
def workers(witness):
    """workers(name, server, **options): a process that uses the limit; each is to end as it should before the test does."""
    started = []

    def start(name, server, **options):
        started.append(shared_processes.Worker(witness, name, server, **options))
        return started[-1]

    try:
        yield start
        for worker in started:
            worker.leave()
    finally:
        for worker in started:
            worker.stop()


@pytest.fixture
def sentinel_group(kind):
    """A primary, its replica and three Sentinels."""
    with shared_servers.SentinelGroup(kind) as group:
        yield group


@pytest.fixture
def cluster(kind):
    """Three primaries of a Redis Cluster."""
    with shared_servers.Cluster(kind) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL for all tests of a file, each of which leaves it alive."""
    skip_without("postgres")
    with shared_servers.Postgres() as server:
        yield server
