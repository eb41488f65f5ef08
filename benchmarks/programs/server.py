"""What the programs talk to: a site, and a model behind a rate limit, in a process of its own that counts.

    GET /17                      17, after 2 ms
    GET /page/17                 a page of a tree of pages, with links to its ten children, its parent and the start
    POST /v1/chat/completions    an answer, or 429 above the rate limit
    POST /control                settings as JSON; counts from zero
    GET /control/reached/100     is answered when 100 requests have arrived; from then on arrivals are counted as `after_mark`
    GET /control                 the counts

Every answer comes after a delay that depends on its number only, so that each round waits for the same. From the request number
`fail_at` on, which is answered with 500 at once, arrivals are counted as `after_failure`.
"""

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import time
import urllib.request
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..harness import ROOT
from ..http_server import raise_file_limit

FAN_OUT = 10
RATE = (
    440  # requests a second that the model takes, and as many at once: a tenth above what the programs allow themselves
)
FILLER = "<p>" + "Lorem ipsum dolor sit amet. " * 250 + "</p>"


def page_delay(number: int) -> float:
    return 0.01 + number * 7919 % 41 / 1000  # 10 to 50 ms


def answer_delay(number: int) -> float:
    return 0.03 + number * 7919 % 61 / 1000  # 30 to 90 ms


def title_of(number: int) -> str:
    return f"Page {number:,}"


def answer_to(text: str) -> str:
    return text[::-1]


def page(number: int, pages: int) -> str:
    children = range(FAN_OUT * number + 1, min(FAN_OUT * number + FAN_OUT + 1, pages))
    links = [f'<a href="/page/{link}">{title_of(link)}</a>' for link in (0, max(0, number - 1) // FAN_OUT, *children)]
    return f"<html><head><title>{title_of(number)}</title></head><body>{FILLER}{' '.join(links)}</body></html>"


# --- The server ---------------------------------------------------------------------------------------------------


class Service:
    def __init__(self) -> None:
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()  # connections
        self.watched: dict[int, asyncio.Event] = {}  # by the number of the request that is waited for
        self.reset()

    def reset(self, pages: int = 0, fail_at: int | None = None) -> None:
        self.pages = pages
        self.fail_at = fail_at
        self.arrived = self.connections = self.held = self.peak = self.refused = self.after_failure = (
            self.after_mark
        ) = 0
        self.failed = self.marked = False
        self.tokens, self.filled = float(RATE), time.monotonic()

    def counts(self) -> dict[str, int]:
        names = ("arrived", "connections", "peak", "refused", "after_failure", "after_mark")
        return {name: getattr(self, name) for name in names}

    def arrive(self, request: Any) -> None:
        self.arrived += 1
        if request.transport is not None and request.transport not in self.known:
            self.known.add(request.transport)
            self.connections += 1
        self.after_failure += self.failed
        self.after_mark += self.marked
        if self.arrived in self.watched:
            self.watched.pop(self.arrived).set()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        self.held += 1
        self.peak = max(self.peak, self.held)
        try:
            yield
        finally:
            self.held -= 1

    def fails(self) -> bool:
        failing = self.arrived == self.fail_at
        self.failed = self.failed or failing
        return failing

    def within_the_rate(self) -> bool:
        now = time.monotonic()
        self.tokens = min(RATE, self.tokens + (now - self.filled) * RATE)
        self.filled = now
        if self.tokens < 1:
            self.refused += 1
            return False
        self.tokens -= 1
        return True

    async def reached(self, number: int) -> None:
        if self.arrived < number:
            await self.watched.setdefault(number, asyncio.Event()).wait()
        self.marked = True


def application() -> Any:
    from aiohttp import web

    service = Service()
    routes = web.RouteTableDef()

    @routes.get(r"/{number:\d+}")
    async def get_number(request: web.Request) -> web.Response:
        service.arrive(request)
        with service.holding():
            await asyncio.sleep(0.002)
        return web.Response(text=request.match_info["number"])

    @routes.get(r"/page/{number:\d+}")
    async def get_page(request: web.Request) -> web.Response:
        service.arrive(request)
        if service.fails():
            raise web.HTTPInternalServerError
        number = int(request.match_info["number"])
        with service.holding():
            await asyncio.sleep(page_delay(number))
        return web.Response(text=page(number, service.pages), content_type="text/html")

    @routes.post("/v1/chat/completions")
    async def complete(request: web.Request) -> web.Response:
        service.arrive(request)
        if service.fails():
            raise web.HTTPInternalServerError
        if not service.within_the_rate():
            raise web.HTTPTooManyRequests(headers={"Retry-After": "1"})
        text = (await request.json())["messages"][-1]["content"]
        with service.holding():
            await asyncio.sleep(answer_delay(len(text)))
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": answer_to(text)}}]})

    @routes.post("/control")
    async def control(request: web.Request) -> web.Response:
        service.reset(**await request.json())
        return web.json_response({})

    @routes.get(r"/control/reached/{number:\d+}")
    async def reached(request: web.Request) -> web.Response:
        await service.reached(int(request.match_info["number"]))
        return web.json_response({})

    @routes.get("/control")
    async def counts(request: web.Request) -> web.Response:
        return web.json_response(service.counts())

    made = web.Application()
    made.add_routes(routes)
    return made


async def serve() -> None:
    """Serves until standard input is closed, that is until the process that started it is gone."""
    from aiohttp import web

    raise_file_limit()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # clients that go away are part of it
    runner = web.AppRunner(application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096, shutdown_timeout=0.1)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


# --- The other side of it -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """Asked and told by calls that block: outside of what is measured."""

    url: str

    def _send(self, method: str, path: str, settings: Any = None) -> Any:
        body = None if settings is None else json.dumps(settings).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def reset(self, **settings: Any) -> None:
        self._send("POST", "/control", settings)

    def reached(self, number: int) -> None:
        self._send("GET", f"/control/reached/{number}")

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = self._send("GET", "/control")
        return found


@contextlib.contextmanager
def running() -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.programs.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    with process:  # whose end closes the standard input, and waits
        assert process.stdout is not None
        yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}")


if __name__ == "__main__":
    asyncio.run(serve())
