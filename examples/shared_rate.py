"""A provider that allows an account four calls at once and fifty a second, and two processes of that account: both limits for both of them.

A redis-server or valkey-server is started for it, if there is one. The provider is this process: it counts the calls that it holds, and
those of each second.

python -m pip install redis throttled-py
python examples/shared_rate.py
"""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator

import redis.asyncio
from throttled.asyncio import RateLimiterType, RedisStore, Throttled

from gatedcoro import amap
from gatedcoro.shared import RedisLimit

AT_ONCE = 4
A_SECOND, BURST = 50, 5
CALLS = 60  # of each process


# --- What each of the two processes does ------------------------------------------------------------------------------


class Rate:
    """Waits for a token, as a limit."""

    def __init__(self, throttled: Throttled) -> None:
        self.throttled = throttled

    async def __aenter__(self) -> None:
        while (result := await self.throttled.limit()).limited:
            # All are told the same time. Without a random part, who asks first then is first the next time, too.
            await asyncio.sleep(result.state.retry_after + random.uniform(0, 0.05))

    async def __aexit__(self, *error: object) -> None:
        pass


async def work(redis_port: int, provider_port: int) -> None:
    async def call(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider_port)
        writer.write(b"%d\n" % number)
        answer = await reader.readline()
        writer.close()
        return int(answer)

    store = RedisStore(server=f"redis://127.0.0.1:{redis_port}")
    quota = f"{A_SECOND}/s burst {BURST}"
    rate = Rate(Throttled(key="account", using=RateLimiterType.GCRA.value, quota=quota, store=store))
    async with (
        redis.asyncio.Redis(host="127.0.0.1", port=redis_port) as client,
        # recover=False: nobody can have used this server before it was started, a moment ago.
        contextlib.aclosing(RedisLimit(client, "account", AT_ONCE, recover=False)) as slots,
    ):
        began = time.monotonic()
        answers = await amap(call, range(CALLS), limit=(slots, rate))
        print(f"  process {os.getpid()}: {len(answers)} answers in {time.monotonic() - began:.2f} s", flush=True)
        assert answers == [number * number for number in range(CALLS)]


# --- The provider, and the server of the limits -----------------------------------------------------------------------


class Provider:
    def __init__(self) -> None:
        self.now = self.most = 0
        self.starts: list[float] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int(await reader.readline())
        self.starts.append(time.monotonic())
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        writer.write(b"%d\n" % (number * number))
        writer.close()

    def most_in_a_second(self) -> int:
        return max(sum(start <= other < start + 1 for other in self.starts) for start in self.starts)


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
            async with redis.asyncio.Redis(host="127.0.0.1", port=port) as client, asyncio.timeout(30):
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
    print(
        f"the provider: {len(provider.starts)} calls, {provider.most} at a time, {provider.most_in_a_second()} in a second"
    )
    assert len(provider.starts) == 2 * CALLS and provider.most <= AT_ONCE
    # Since the first one there are no more than the rate and the burst allow; a call may arrive late, but none early.
    since = [start - provider.starts[0] for start in provider.starts]
    assert all(count <= BURST + A_SECOND * (seconds + 0.2) for count, seconds in enumerate(since, 1))


if len(sys.argv) > 1:
    asyncio.run(work(*map(int, sys.argv[1:])))
else:
    asyncio.run(main())
