"""The demo's HTTP service: a program of its own, so that it takes no time from the event loop that is measured.

It listens on the loopback address, prints its port, and ends when its standard input does. Standard library only.

    GET /item/7     waits a few milliseconds, answers {"item": 7, "square": 49}
    GET /peak       answers the highest number of items served at once since the last question
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading

DELAY = 0.004  # seconds that a request for an item takes, as if a database were behind it


class Service:
    def __init__(self) -> None:
        self.serving = 0
        self.peak = 0

    async def answer(self, path: str) -> object:
        if path == "/peak":
            peak, self.peak = self.peak, 0
            return peak
        item = int(path.removeprefix("/item/"))
        self.serving += 1
        self.peak = max(self.peak, self.serving)
        await asyncio.sleep(DELAY)
        self.serving -= 1
        return {"item": item, "square": item * item}

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                body = json.dumps(await self.answer(path)).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()


async def serve() -> None:
    server = await asyncio.start_server(Service().connection, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    await server.serve_forever()


def end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # at once, connections and all: there is nothing to put in order, and nobody to tell of it


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    asyncio.run(serve())
