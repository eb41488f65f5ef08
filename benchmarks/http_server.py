"""An HTTP server in a process of its own that counts how many requests it holds at once.

`GET /17` is answered with `17` after 2 ms, as a fast service would. The first requests after `GET /expect/50` are held
until 50 have arrived, or until ten seconds have passed with too few: so a tool that keeps 50 requests going is seen to do
so whatever the timing. `GET /peak` gives the largest number held at once.
"""

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

DELAY = 0.002
PATIENCE = 10.0


def raise_file_limit() -> None:
    """A thousand connections need more than the usual 1,024 file descriptors."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- The server ---------------------------------------------------------------------------------------------------


class Counter:
    def __init__(self) -> None:
        self.expect(0)

    def expect(self, number: int) -> None:
        self.expected = number
        self.held = self.peak = 0
        self.waiting: list[tuple[Connection, bytes]] = []
        self.opened = number == 0

    def enter(self, connection: "Connection", body: bytes) -> None:
        self.held += 1
        self.peak = max(self.peak, self.held)
        if self.opened:
            asyncio.get_running_loop().call_later(DELAY, self.leave, connection, body)
            return
        if not self.waiting:
            asyncio.get_running_loop().call_later(PATIENCE, self.open, self.waiting)
        self.waiting.append((connection, body))
        if self.held >= self.expected:
            self.open(self.waiting)

    def open(self, waiting: list[tuple["Connection", bytes]]) -> None:
        if self.opened or waiting is not self.waiting:
            return
        self.opened = True
        for connection, body in waiting:
            asyncio.get_running_loop().call_later(DELAY, self.leave, connection, body)

    def leave(self, connection: "Connection", body: bytes) -> None:
        self.held -= 1
        connection.answer(body)


class Connection(asyncio.Protocol):
    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            self.request(head.split(b" ", 2)[1].decode().split("/")[1:])

    def request(self, path: list[str]) -> None:
        if path[0] == "expect":
            self.counter.expect(int(path[1]))
            self.answer(b"")
        elif path[0] == "peak":
            self.answer(str(self.counter.peak).encode())
        else:
            self.counter.enter(self, path[0].encode())

    def answer(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


async def serve() -> None:
    """Serves until standard input is closed, that is until the process that started it is gone."""
    raise_file_limit()
    counter = Counter()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(counter), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


# --- The other side of it -------------------------------------------------------------------------------------------


@dataclass
class Server:
    port: int
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _get(self, path: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        body = await reader.readexactly(length)
        writer.close()
        return body.decode()

    async def expect(self, number: int) -> None:
        await self._get(f"/expect/{number}")

    async def peak(self) -> int:
        return int(await self._get("/peak"))


_running: dict[asyncio.AbstractEventLoop, Server] = {}


async def running() -> Server:
    """The server of this loop, started at the first call; it ends with this process."""
    loop = asyncio.get_running_loop()
    if loop not in _running:
        raise_file_limit()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.http_server",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).resolve().parent.parent,
        )
        assert process.stdout is not None
        _running[loop] = Server(int(await process.stdout.readline()), process)
    return _running[loop]


async def stop() -> None:
    """Ends the server of this loop, if there is one."""
    server = _running.pop(asyncio.get_running_loop(), None)
    if server is not None:
        assert server.process.stdin is not None
        server.process.stdin.close()
        await server.process.wait()


if __name__ == "__main__":
    asyncio.run(serve())
