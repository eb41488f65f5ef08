"""An HTTP server in a process of its own that counts how many requests it holds at once.

`GET /17` is answered with `17` after a delay: 2 ms, as a fast service would, or what its `Kind` says. The first requests after
`GET /expect/50` are held until 50 have arrived, or until its patience has ended with too few: so a tool that keeps 50 requests
going is seen to do so whatever the timing. `GET /peak` gives the largest number held at once.
"""

import asyncio
import contextlib
import json
import ssl
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from . import measure

GRACE = 0.02  # seconds in which more requests than expected would come, of a server that answers at once


@dataclass(frozen=True)
class Kind:
    """How a server answers."""

    delay: float = 0.002  # seconds, by call_later; 0 answers in the step that read the request
    awake: bool = False  # its loop never sleeps, so that no request has to wake it
    tls: bool = False
    patience: float = 10.0


def raise_file_limit() -> None:
    """A thousand connections need more than the usual 1,024 file descriptors."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- The server ---------------------------------------------------------------------------------------------------


class Counter:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
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
            self.leave_later(connection, body)
            return
        if not self.waiting:
            asyncio.get_running_loop().call_later(self.kind.patience, self.open, self.waiting)
        self.waiting.append((connection, body))
        if self.held >= self.expected:
            if self.kind.delay:
                self.open(self.waiting)
            else:
                asyncio.get_running_loop().call_later(GRACE, self.open, self.waiting)

    def open(self, waiting: list[tuple["Connection", bytes]]) -> None:
        if self.opened or waiting is not self.waiting:
            return
        self.opened = True
        for connection, body in waiting:
            self.leave_later(connection, body)

    def leave_later(self, connection: "Connection", body: bytes) -> None:
        if self.kind.delay:
            asyncio.get_running_loop().call_later(self.kind.delay, self.leave, connection, body)
        else:
            self.leave(connection, body)

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


def certificate() -> ssl.SSLContext:
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


async def serve(kind: Kind) -> None:
    """Serves until standard input is closed, that is until the process that started it is gone."""
    raise_file_limit()
    counter = Counter(kind)
    loop = asyncio.get_running_loop()
    context = certificate() if kind.tls else None
    server = await loop.create_server(lambda: Connection(counter), "127.0.0.1", 0, backlog=4096, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)

    def stay_awake() -> None:
        loop.call_soon(stay_awake)

    if kind.awake:
        stay_awake()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


# --- The other side of it -------------------------------------------------------------------------------------------


@dataclass
class Server:
    port: int
    process: asyncio.subprocess.Process
    kind: Kind = Kind()

    @property
    def url(self) -> str:
        return f"{'https' if self.kind.tls else 'http'}://127.0.0.1:{self.port}"

    async def _get(self, path: str) -> str:
        context = ssl._create_unverified_context() if self.kind.tls else None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
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


_running: dict[tuple[asyncio.AbstractEventLoop, Kind], Server] = {}


async def running(kind: Kind = Kind()) -> Server:
    """The server of this kind of this loop, started at the first call; it ends with this process."""
    key = asyncio.get_running_loop(), kind
    if key not in _running:
        raise_file_limit()
        with measure.on_the_servers_cores():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.http_server",
                json.dumps(asdict(kind)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=Path(__file__).resolve().parent.parent,
            )
        assert process.stdout is not None
        _running[key] = Server(int(await process.stdout.readline()), process, kind)
    return _running[key]


async def stop() -> None:
    """Ends the servers of this loop, if there are any."""
    loop = asyncio.get_running_loop()
    for key in [key for key in _running if key[0] is loop]:
        server = _running.pop(key)
        assert server.process.stdin is not None
        server.process.stdin.close()
        await server.process.wait()


if __name__ == "__main__":
    asyncio.run(serve(Kind(**json.loads(sys.argv[1]))))
