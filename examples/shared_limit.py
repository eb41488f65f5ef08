"""A provider that allows an account four calls at once, and two processes of that account: one limit for both, counted by Redis.

A redis-server or valkey-server is started for it, if there is one. The provider is this process: it counts how many calls it holds.

python -m pip install redis
python examples/shared_limit.py
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator

import redis.asyncio

from gatedcoro import amap
from gatedcoro.shared import RedisLimit

AT_ONCE = 4
CALLS = 60  # of each process


# --- What each of the two processes does ------------------------------------------------------------------------------


async def work(redis_port: int, provider_port: int) -> None:
    async def call(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider_port)
        writer.write(b"%d\n" % number)
        answer = await reader.readline()
        writer.close()
        return int(answer)

    async with (
        redis.asyncio.Redis(port=redis_port) as client,
        # recover=False: nobody can have used this server before it was started, a moment ago.
        contextlib.aclosing(RedisLimit(client, "account", AT_ONCE, recover=False)) as limit,
    ):
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


@contextlib.asynccontextmanager
async def redis_server(program: str) -> AsyncIterator[int]:
    """A server of its own, which keeps nothing: its port."""
    with socket.socket() as found, tempfile.TemporaryDirectory() as folder:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        found.close()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            async with redis.asyncio.Redis(port=port) as client, asyncio.timeout(30):
                while True:
                    with contextlib.suppress(redis.ConnectionError):
                        await client.ping()
                        break
                    await asyncio.sleep(0.01)
            yield port
        finally:
            process.terminate()
            process.wait()


async def main() -> None:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        print("There is neither a redis-server nor a valkey-server on this machine, so there is nothing to show.")
        return
    provider = Provider()
    async with (
        redis_server(program) as redis_port,
        await asyncio.start_server(provider.answer, "127.0.0.1", 0) as service,
    ):
        port = service.sockets[0].getsockname()[1]
        command = [sys.executable, __file__, str(redis_port), str(port)]
        processes = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
        assert [await process.wait() for process in processes] == [0, 0]
    print(f"the provider: {provider.calls} calls, {provider.most} at a time")
    assert provider.calls == 2 * CALLS and provider.most <= AT_ONCE


if len(sys.argv) > 1:
    asyncio.run(work(*map(int, sys.argv[1:])))
else:
    asyncio.run(main())
