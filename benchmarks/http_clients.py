"""`python -m benchmarks http-clients`: what a request costs by client and by the number at once, and what httpx's pool does meanwhile.

Processor time of this thread per request, with a limit of n over one client, against a server in another process that answers after
2 ms. The clients take turns. Opening the connections is inside; making the client is not, and stands beside it. A pass is httpcore's pool going over its
connections; clocking it adds a microsecond to each.
"""

import argparse
import contextlib
import functools
import importlib.util
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from . import harness, measure, parts
from .compare import competitors
from .programs import server as service

PART = "what a request costs"
FULL = ((1, 10, 20, 50, 100), 500, harness.Rounds(5, 5))  # at once, requests of a sample
SHOWN = 50  # of which the table says what the pool does
QUICK = ((10, SHOWN), 200, harness.Rounds(1, 1))

PACKAGES = ("httpx", "httpx-aiohttp", "httpx2", "aiohttp")

Get = Callable[[str], Any]  # gives a coroutine of the text of the answer
Client = Callable[[], AbstractAsyncContextManager[Get]]


def _like_httpx(make: Callable[[], Any]) -> Client:
    @contextlib.asynccontextmanager
    async def client() -> AsyncIterator[Get]:
        async with make() as made:

            async def get(url: str) -> str:
                text: str = (await made.get(url)).text
                return text

            yield get

    return client


def _httpx(**limits: Any) -> Any:
    import httpx

    return httpx.AsyncClient(limits=httpx.Limits(**limits)) if limits else httpx.AsyncClient()


def _httpx2() -> Any:
    import httpx2

    return httpx2.AsyncClient()


def _httpx_on_aiohttp() -> Any:
    from httpx_aiohttp import HttpxAiohttpClient

    return HttpxAiohttpClient()


@contextlib.asynccontextmanager
async def several(at_once: int) -> AsyncIterator[Get]:
    """A client for every ten, each used in turn."""
    async with contextlib.AsyncExitStack() as stack:
        gets = [
            await stack.enter_async_context(CLIENTS["httpx, every connection kept"][1]())
            for _ in range(max(1, at_once // 10))
        ]
        number = 0

        def get(url: str) -> Any:
            nonlocal number
            number += 1
            return gets[number % len(gets)](url)

        yield get


@contextlib.asynccontextmanager
async def aiohttp_client() -> AsyncIterator[Get]:
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def get(url: str) -> str:
            async with session.get(url) as response:
                text: str = await response.text()
            return text

        yield get


ALL = {"max_connections": None, "max_keepalive_connections": None}
SEVERAL = "httpx, a client for every ten"
CLIENTS: dict[str, tuple[str, Any]] = {  # the module that each needs
    "httpx": ("httpx", _like_httpx(_httpx)),
    "httpx, every connection kept": ("httpx", _like_httpx(functools.partial(_httpx, **ALL))),
    SEVERAL: ("httpx", several),
    "httpx on aiohttp (httpx-aiohttp)": ("httpx_aiohttp", _like_httpx(_httpx_on_aiohttp)),
    "httpx2": ("httpx2", _like_httpx(_httpx2)),
    "aiohttp": ("aiohttp", aiohttp_client),
}


def client_of(name: str, at_once: int) -> AbstractAsyncContextManager[Get]:
    make = CLIENTS[name][1]
    made: AbstractAsyncContextManager[Get] = make(at_once) if name == SEVERAL else make()
    return made


# --- Measuring ----------------------------------------------------------------------------------------------------


@dataclass
class Sample:
    seconds: float = 0.0  # of processor time, a request
    making: float = 0.0  # seconds of processor time, of the client
    opened: float = 0.0  # connections, a hundred requests
    passes: float = 0.0  # of httpx's pool over its connections, a request
    part: float = 0.0  # of the processor time that is in them


@contextlib.contextmanager
def passes() -> Iterator[list[float]]:
    """The processor time of each pass of a pool of httpcore over its connections: at the start and the end of every request."""
    import httpcore

    pool: Any = httpcore.AsyncConnectionPool
    taken: list[float] = []
    method = pool._assign_requests_to_connections

    def clocked(self: Any) -> Any:
        began = time.thread_time()
        closing = method(self)
        taken.append(time.thread_time() - began)
        return closing

    pool._assign_requests_to_connections = clocked
    try:
        yield taken
    finally:
        pool._assign_requests_to_connections = method


async def requests(name: str, server: service.Server, count: int, at_once: int, tool: competitors.Competitor) -> Sample:
    server.reset()
    counted = passes() if CLIENTS[name][0] == "httpx" else contextlib.nullcontext(list[float]())
    making = time.thread_time()
    async with client_of(name, at_once) as get:
        making = time.thread_time() - making

        async def item(index: int) -> int:
            return int(await get(f"{server.url}/{index}"))

        with measure.frozen_gc(), counted as taken:
            used = time.thread_time()
            results = await tool.run(item, count, at_once)
            used = time.thread_time() - used
    measure.check(results, range(count))
    counts = server.counts()
    if counts["peak"] > at_once:
        raise measure.WrongResult(f"{counts['peak']} requests at once instead of {at_once}")
    return Sample(used / count, making, 100 * counts["connections"] / count, len(taken) / count, sum(taken) / used)


def measured(
    server: service.Server,
    count: int,
    at_once: int,
    names: list[str],
    rounds: harness.Rounds,
    tool: competitors.Competitor,
) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {name: [] for name in names}

    def contender(name: str) -> harness.Contender:
        async def first(_calls: int) -> float:
            return (await requests(name, server, count, at_once, tool)).seconds * count

        async def sample(_calls: int) -> float:
            found[name].append(await requests(name, server, count, at_once, tool))
            return found[name][-1].seconds

        return harness.Contender(name, first, sample)

    def report(line: harness.Line) -> None:
        if "failed" in line:
            raise harness.Failed(f"{line['tool']}: {line['failed']}")

    harness.hold([contender(name) for name in names], rounds, report)
    return found


# --- The command --------------------------------------------------------------------------------------------------


def written(found: dict[int, dict[str, list[Sample]]]) -> str:
    def median(name: str, at_once: int, quantity: str) -> float:
        samples: list[float] = [getattr(sample, quantity) for sample in found[at_once][name]]
        return statistics.median(samples)

    rows = []
    for name in found[SHOWN]:
        in_passes = CLIENTS[name][0] == "httpx"
        rows.append(
            [
                name,
                *[f"{median(name, at_once, 'seconds') * 1e3:.2f}" for at_once in found],
                f"{median(name, SHOWN, 'making') * 1e3:.1f}",
                f"{median(name, SHOWN, 'passes'):.1f}" if in_passes else "",
                f"{median(name, SHOWN, 'part'):.0%}" if in_passes else "",
                f"{median(name, SHOWN, 'opened'):.0f}",
            ]
        )
    titles = [
        "processor time, ms a request",
        *[f"n={at_once}" for at_once in found],
        f"making the client, ms (n={SHOWN})",
        f"passes of the pool, a request (n={SHOWN})",
        f"processor time in them (n={SHOWN})",
        f"connections opened, a hundred requests (n={SHOWN})",
    ]
    return parts.table(titles, rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="seconds: two limits, each client once")
    parser.add_argument(
        "--tool",
        choices=[tool.name for tool in competitors.COMPETITORS],
        default=competitors.OURS,
        help="what runs the requests (gatedcoro)",
    )
    parser.add_argument("--docs", action="store_true", help="also write the table into docs/programs.md")


def main(options: argparse.Namespace) -> int:
    limits, count, rounds = QUICK if options.quick else FULL
    names = [name for name, (module, _) in CLIENTS.items() if importlib.util.find_spec(module) is not None]
    for name in CLIENTS.keys() - names:
        print(f"{name}: {CLIENTS[name][0]} is not installed")
    tool = competitors.BY_NAME[options.tool]
    found = {}
    with service.running() as server:
        for at_once in limits:
            found[at_once] = measured(server, count, at_once, names, rounds, tool)
    text = f"{parts.made('http-clients' + ' --quick' * options.quick, PACKAGES)}\n{written(found)}"
    print(text)
    if options.docs:
        parts.write(parts.PROGRAMS, PART, text)
    return 0
