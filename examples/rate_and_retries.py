"""An API with "ten at a time and a hundred a second", which is sometimes too busy to answer: two limits in one, and retries.

python -m pip install aiolimiter httpx tenacity
python examples/rate_and_retries.py
"""

import asyncio
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from gatedcoro import amap

ITEMS = 130


class Service(ThreadingHTTPServer):
    """On the loopback interface, in threads of its own. To every fourth question it has an answer when it is asked again."""

    request_queue_size = 20

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.questions: list[str] = []
        self.times: list[float] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def server_close(self) -> None:
        self.shutdown()
        self.thread.join()
        super().server_close()

    def within(self, began: float, burst: int, rate: float) -> bool:
        """Whether it has never been asked more often than *burst* times at once, and then *rate* times a second."""
        return all(number <= burst + rate * (at - began) for number, at in enumerate(self.times, 1))


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        service, number = self.server, int(self.path[1:])
        with service.lock:
            service.times.append(time.monotonic())
            service.now += 1
            service.most = max(service.most, service.now)
            is_busy = number % 4 == 0 and self.path not in service.questions
            service.questions.append(self.path)
        time.sleep(0.002)  # as if a database were behind it
        with service.lock:
            service.now -= 1
        body = str(number * number).encode()
        self.send_response(503 if is_busy else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def attempts() -> AsyncRetrying:
    """Five of them, with pauses that get longer. What the last one raises is raised; other errors are at once."""
    return AsyncRetrying(
        retry=retry_if_exception_type((httpx.TransportError, httpx.HTTPStatusError)),
        wait=wait_random_exponential(multiplier=0.01, max=1),
        stop=stop_after_attempt(5),
        reraise=True,
    )


async def get(client: httpx.AsyncClient, number: int) -> int:
    response = await client.get(f"/{number}")
    return int(response.raise_for_status().text)


async def a_rate_of_items(client: httpx.AsyncClient) -> list[int]:
    """The retries are inside the item: while it waits for its next attempt it keeps its slot of the ten, so a service that is
    busy is asked less. Both limits are the item's: it passes the rate limiter once, before its first attempt.
    """

    async def fetch(number: int) -> int:
        async for attempt in attempts():
            with attempt:
                answer = await get(client, number)
        return answer

    # A new limiter lets a hundred through at once, then a hundred a second; AsyncLimiter(10, 0.1) does so by tens.
    return await amap(fetch, range(ITEMS), limit=(10, AsyncLimiter(100, 1)))


async def a_rate_of_attempts(client: httpx.AsyncClient) -> list[int]:
    """Where the service counts every request, every attempt passes the rate limiter. It waits for that within its slot."""
    rate = AsyncLimiter(100, 1)

    async def fetch(number: int) -> int:
        async for attempt in attempts():
            with attempt:
                async with rate:
                    answer = await get(client, number)
        return answer

    return await amap(fetch, range(ITEMS), limit=10)


async def main() -> None:
    for ask_all in (a_rate_of_items, a_rate_of_attempts):
        with Service() as service:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.server_port}", trust_env=False) as client:
                began = time.monotonic()
                answers = await ask_all(client)
        requests = len(service.questions)
        print(f"{ask_all.__name__}: {len(answers)} answers to {requests} requests, {service.most} at a time")
        assert answers == [number * number for number in range(ITEMS)]
        assert requests > ITEMS and service.most <= 10
        if ask_all is a_rate_of_attempts:
            assert service.within(began, 100, 100)


asyncio.run(main())
