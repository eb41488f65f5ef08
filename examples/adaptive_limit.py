"""A limit that follows the server: halved after a "429 Too Many Requests", one more after each hundred answers.

The server refuses what is more than it has room for: three requests at once, and later, when others have left, eight. Nobody tells
the client.

python -m pip install httpx
python examples/adaptive_limit.py
"""

import asyncio
import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from gatedcoro import Semaphore, amap

ITEMS = 500
ROOM, MORE_ROOM = 3, 8


class Service(ThreadingHTTPServer):
    """On the loopback interface, in threads of its own. Its first answers are slow: they come when it has refused somebody."""

    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.lock = threading.Lock()
        self.now = self.answered = self.refused = 0
        self.warm = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def server_close(self) -> None:
        self.shutdown()
        self.thread.join()
        super().server_close()

    def let_in(self) -> bool:
        with self.lock:
            if self.now == (ROOM if self.answered < ITEMS // 2 else MORE_ROOM):
                self.refused += 1
                self.warm.set()
                return False
            self.now += 1
            return True

    def work(self) -> None:
        self.warm.wait(timeout=10)
        time.sleep(0.01)  # as if a database were behind it
        with self.lock:
            self.now -= 1
            self.answered += 1


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Service

    def do_GET(self) -> None:
        if self.server.let_in():
            self.server.work()
            number = int(self.path[1:])
            self.say(200, str(number * number))
        else:
            self.say(429, "too many requests")

    def say(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


async def ask_all(client: httpx.AsyncClient, gate: Semaphore) -> list[int]:
    successes = itertools.count(1)
    limits = [gate.limit]

    async def fetch(number: int) -> int:
        while True:
            limit = gate.limit
            response = await client.get(f"/{number}")
            if response.status_code != 429:
                gate.limit += response.is_success and next(successes) % 100 == 0
                return int(response.raise_for_status().text)
            gate.limit = min(gate.limit, max(1, limit // 2))  # once, of all that began under one limit
            await asyncio.sleep(0.01)  # in its slot: who is busy is asked less

    def note(number: int) -> None:
        if gate.limit != limits[-1]:
            limits.append(gate.limit)

    answers = await amap(fetch, range(ITEMS), limit=gate, progress=note)
    print("the limit:", *limits)
    return answers


async def main() -> None:
    gate = Semaphore(32)
    limits = httpx.Limits(max_connections=None)  # nothing but the semaphore holds requests back
    with Service() as service:
        url = f"http://127.0.0.1:{service.server_port}"
        async with httpx.AsyncClient(base_url=url, limits=limits, trust_env=False) as client:
            answers = await ask_all(client, gate)
    print(f"{len(answers)} answers, {service.refused} requests refused, the limit is {gate.limit}")
    assert answers == [number * number for number in range(ITEMS)]
    assert service.refused > 0 and 1 <= gate.limit < 32


asyncio.run(main())
