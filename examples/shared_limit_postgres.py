"""A provider that allows an account four calls at once, and two processes of that account: one limit for both, counted by PostgreSQL.

A server is started for it, if PostgreSQL is installed; or say where one is. The provider is this process: it counts how many calls it holds.

python -m pip install asyncpg
python examples/shared_limit_postgres.py
python examples/shared_limit_postgres.py postgresql://user@host/database
"""

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg

from gatedcoro import amap
from gatedcoro.shared import PostgresLimit

AT_ONCE = 4
CALLS = 60  # of each process


# --- What each of the two processes does ------------------------------------------------------------------------------


async def work(address: str, provider_port: int) -> None:
    async def call(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider_port)
        writer.write(b"%d\n" % number)
        answer = await reader.readline()
        writer.close()
        return int(answer)

    connect = functools.partial(asyncpg.connect, address)
    async with contextlib.aclosing(PostgresLimit(connect, "account", AT_ONCE)) as limit:
        began = time.monotonic()
        answers = await amap(call, range(CALLS), limit=limit)
        print(f"  process {os.getpid()}: {len(answers)} answers in {time.monotonic() - began:.2f} s", flush=True)
        assert answers == [number * number for number in range(CALLS)]


# --- The provider, and the server of the limit ------------------------------------------------------------------------


class Provider:
    def __init__(self) -> None:
        self.now = self.most = self.calls = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int(await reader.readline())
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        writer.write(b"%d\n" % (number * number))
        writer.close()


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, which Debian keeps from PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@contextlib.asynccontextmanager
async def postgres_server(folder: Path) -> AsyncIterator[str]:
    """A server of its own, for as long as this is entered: where to connect."""
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to be root
    with socket.socket() as found, tempfile.TemporaryDirectory(dir="/tmp") as place:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        found.close()
        if user is not None:
            shutil.chown(place, user)
        data = f"{place}/data"
        quiet = functools.partial(dict, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place, user=user)
        subprocess.run(
            [folder / "initdb", "-D", data, "-U", "example", "-A", "trust", "--no-sync"], check=True, **quiet()
        )
        options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        process = subprocess.Popen([folder / "postgres", "-D", data, *options], **quiet())
        try:
            address = f"postgresql://example@127.0.0.1:{port}/postgres"
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(OSError, asyncpg.CannotConnectNowError):
                        await (await asyncpg.connect(address)).close()
                        break
                    await asyncio.sleep(0.01)
            yield address
        finally:
            process.terminate()
            process.wait()


async def run(address: str) -> None:
    provider = Provider()
    async with await asyncio.start_server(provider.answer, "127.0.0.1", 0) as service:
        port = service.sockets[0].getsockname()[1]
        command = [sys.executable, __file__, address, str(port)]
        processes = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
        assert [await process.wait() for process in processes] == [0, 0]
    print(f"the provider: {provider.calls} calls, {provider.most} at a time")
    assert provider.calls == 2 * CALLS and provider.most <= AT_ONCE


async def main(address: str | None) -> None:
    folder = programs()
    async with contextlib.AsyncExitStack() as stack:
        if address is None and folder is not None:
            address = await stack.enter_async_context(postgres_server(folder))
        if address is None:
            print("There is no PostgreSQL on this machine, so there is nothing to show.")
            return
        await run(address)


if len(sys.argv) > 2:
    asyncio.run(work(sys.argv[1], int(sys.argv[2])))
else:
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
