"""`python -m benchmarks rates`: what a rate limit over several processes lets through, and what it asks of the server, by library.

A Redis (or Valkey) of this machine; every sample in processes of its own, which begin together. Each runs `gather(limit=rate)` over
items that only note when they began. For more than two, one process has that many clients, each with a connection and a call of its own.
A figure counts if every result is in its place, and at no time more had started since the beginning than the rate and the burst allow (of a
limiter that shares nothing: for each process). The columns take turns; a figure is the median of the rounds. Commands are those that the
server has run, the ones inside of scripts included.
"""

import argparse
import asyncio
import bisect
import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import itertools
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from gatedcoro import gather
from gatedcoro.shared import RedisLimit

from . import harness, measure, parts, shared
from .real import servers

PAGE = harness.ROOT / "docs" / "rates.md"
PART = "rates over processes"
ORDERS_PART = "a slot and a rate"
PACKAGES = ("aiolimiter", "hiredis", "limits", "redis", "redis-rate-limiters", "throttled-py")

RATE = 100  # a second
BURST = 10
FEW, MANY = 2, 10  # processes; clients of one process
CANCELLED, SLOW = 10, 10  # waits, at so many tokens a second
TOLERANCE = 2  # starts

Sample = dict[str, float]
Rate = AbstractAsyncContextManager[Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done."""

    starts: int  # of all processes together
    entries: int
    rounds: int
    ordered: int  # items of each process
    at_a_time: int  # samples


FULL = Size(starts=500, entries=1_000, rounds=3, ordered=150, at_a_time=1)
QUICK = Size(starts=40, entries=20, rounds=1, ordered=15, at_a_time=2)


# --- The limiters, as docs/rates.md has them ------------------------------------------------------------------------


class OfThrottled:
    def __init__(self, throttled: Any) -> None:
        self.throttled = throttled

    async def __aenter__(self) -> None:
        while (result := await self.throttled.limit()).limited:
            await asyncio.sleep(result.state.retry_after + random.uniform(0, 0.05))

    async def __aexit__(self, *error: Any) -> None:
        pass


class OfLimits:
    def __init__(self, limiter: Any, item: Any, name: str) -> None:
        self.limiter, self.item, self.name = limiter, item, name

    async def __aenter__(self) -> None:
        while not await self.limiter.hit(self.item, self.name):
            reset, _ = await self.limiter.get_window_stats(self.item, self.name)
            await asyncio.sleep(max(0.01, reset - time.time()))

    async def __aexit__(self, *error: Any) -> None:
        pass


def throttled_gcra(client: Any, name: str, rate: int, burst: int, **options: Any) -> Rate:
    from throttled.asyncio import RateLimiterType, RedisStore, Throttled

    store = RedisStore(server="redis://127.0.0.1:{port}".format_map(client.connection_pool.connection_kwargs))
    return Throttled(
        key=name, using=RateLimiterType.GCRA.value, quota=f"{rate}/s burst {burst}", store=store, **options
    )


def throttled(client: Any, name: str, rate: int, burst: int) -> Rate:
    return OfThrottled(throttled_gcra(client, name, rate, burst))


def throttled_timeout(client: Any, name: str, rate: int, burst: int) -> Rate:
    return throttled_gcra(client, name, rate, burst, timeout=3600.0)


def limits_by(strategy: str) -> Callable[[Any, str, int, int], Rate]:
    def make(client: Any, name: str, rate: int, burst: int) -> Rate:
        import limits.aio.strategies
        import limits.storage

        storage = limits.storage.storage_from_string(
            "async+redis://", implementation="redispy", connection_pool=client.connection_pool
        )
        limiter = getattr(limits.aio.strategies, strategy)(storage)
        return OfLimits(limiter, limits.parse(f"{rate}/second"), name)

    return make


def redis_rate_limiters(client: Any, name: str, rate: int, burst: int) -> Rate:
    import limiters

    bucket: Rate = limiters.AsyncTokenBucket(client, name, capacity=burst, refill_frequency=1 / rate, refill_amount=1)
    return bucket


def aiolimiter_alone(client: Any, name: str, rate: int, burst: int) -> Rate:
    import aiolimiter

    return aiolimiter.AsyncLimiter(burst, burst / rate)


@dataclasses.dataclass(frozen=True)
class Way:
    make: Callable[[Any, str, int, int], Rate]
    module: str
    at_once: int = BURST  # what it lets through at once, beside the rate
    is_shared: bool = True
    is_counted: bool = False  # how many tokens a cancelled wait takes


OURS = "throttled-py, GCRA"  # the one of the page
WAYS = {
    OURS: Way(throttled, "throttled", is_counted=True),
    "the same by its own `timeout`": Way(throttled_timeout, "throttled"),
    "limits, moving window": Way(limits_by("MovingWindowRateLimiter"), "limits", at_once=RATE),
    "limits, sliding window counter": Way(limits_by("SlidingWindowCounterRateLimiter"), "limits", at_once=RATE),
    "redis-rate-limiters, token bucket": Way(redis_rate_limiters, "limiters", is_counted=True),
    "aiolimiter, nothing shared": Way(aiolimiter_alone, "aiolimiter", is_shared=False, is_counted=True),
}


# --- In a process of its own ----------------------------------------------------------------------------------------


async def starts_of(process: shared.Process, rates: list[Rate], count: int) -> Any:
    """When so many items have begun, of each client."""

    async def call(rate: Rate) -> list[float]:
        starts = []

        async def item(index: int) -> int:
            starts.append(time.monotonic())
            return index

        measure.check(await gather(*map(item, range(count)), limit=rate), range(count))
        return starts

    commands = await process.commands()
    await process.meet()
    began = time.monotonic()
    starts = await asyncio.gather(*map(call, rates))
    return {"began": began, "starts": starts, "commands": await process.commands() - commands}


async def entries_of(rate: Rate, count: int) -> float:
    """Microseconds to enter when there are tokens."""
    async with rate:
        pass
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        async with rate:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


async def lost_by_cancelling(rate: Rate, burst: int) -> float:
    """How many tokens are gone when so many who wait have been cancelled."""

    async def enter() -> None:
        async with rate:
            pass

    for _ in range(burst):
        await enter()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(enter()) for _ in range(CANCELLED)]
        began = time.monotonic()
        await asyncio.sleep(0.5 / SLOW)
        for task in waiting:
            task.cancel()
    entered = sum(not task.cancelled() for task in waiting)
    for _ in range(5):
        await enter()
    return (time.monotonic() - began) * SLOW - 5 - entered


async def working_here(port: int, name: str, way: str, count: int, entries: int, together: int, clients: int) -> Any:
    import redis.asyncio

    chosen = WAYS[way]
    async with contextlib.AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(redis.asyncio.Redis(host="127.0.0.1", port=port)) for _ in range(clients)
        ]
        client = made[0]
        process = shared.Process(shared.Servers(client), shared.OURS, name, together)
        rates = [chosen.make(client, f"{name}:starts", RATE, BURST) for client in made]
        found = await starts_of(process, rates, count)
        if entries:
            plenty = chosen.make(client, f"{name}:entries", 100_000, 100_000)
            found["enter"] = await entries_of(plenty, entries)
        if entries and chosen.is_counted:
            found["lost"] = await lost_by_cancelling(chosen.make(client, f"{name}:lost", SLOW, BURST), BURST)
        return found


async def away_here(port: int, name: str, way: str) -> Any:
    """Seconds until a server that is frozen, and one that is gone, is an error."""
    import redis.asyncio

    found: dict[str, Any] = {}
    async with redis.asyncio.from_url(f"redis://127.0.0.1:{port}") as client:  # one that does not try again
        rate = WAYS[way].make(client, name, RATE, BURST)
        async with rate:
            pass
        server = (await client.info("server"))["process_id"]
        for what, number in (("frozen", signal.SIGSTOP), ("gone", signal.SIGKILL)):
            os.kill(server, number)
            began = time.monotonic()
            try:
                async with asyncio.timeout(60), rate:
                    pass
            except Exception as error:
                found |= {what: time.monotonic() - began, f"error {what}": type(error).__name__}
            if number == signal.SIGSTOP:
                os.kill(server, signal.SIGCONT)
    return found


async def ordered_here(port: int, name: str, order: str, slots: int, rate: int, count: int, together: int) -> Any:
    """Items of 20 ms under a shared limit and a rate."""
    import redis.asyncio

    starts = []

    async def item(index: int) -> int:
        starts.append(time.monotonic())
        await asyncio.sleep(0.02)
        return index

    async with (
        redis.asyncio.Redis(host="127.0.0.1", port=port) as client,
        contextlib.aclosing(RedisLimit(client, f"{name}:slots", slots, recover=False)) as limit,
    ):
        process = shared.Process(shared.Servers(client), shared.OURS, name, together)
        tokens = WAYS[OURS].make(client, f"{name}:rate", rate, BURST)
        row = (limit, tokens) if order == "slots first" else (tokens, limit)
        await process.meet()
        began = time.monotonic()
        measure.check(await gather(*map(item, range(count)), limit=row), range(count))
        return {"began": began, "starts": starts, "ended": time.monotonic()}


HERE: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "work": working_here,
    "away": away_here,
    "ordered": ordered_here,
}


def child(request: dict[str, Any], report: harness.Report) -> None:
    report(asyncio.run(HERE[request.pop("what")](**request)))


# --- What the processes are asked for -------------------------------------------------------------------------------


class Bench:
    """One server, and the processes that use it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._numbers = itertools.count()

    async def ask(self, processes: int = 1, **request: Any) -> list[dict[str, Any]]:
        """The answers of so many processes, which do the same at the same time."""
        request = {"port": self.port, "name": f"benchmark-{next(self._numbers)}"} | request
        with concurrent.futures.ThreadPoolExecutor(processes) as threads:  # one for each: they wait for each other
            asking = [asyncio.wrap_future(threads.submit(self._ask, request)) for _ in range(processes)]
            return [answer for answers in await asyncio.gather(*asking) for answer in answers]

    @staticmethod
    def _ask(request: dict[str, Any]) -> list[dict[str, Any]]:
        return list(harness.asked(["benchmarks.rates", "--child"], request))


def most_within(starts: Sequence[float], seconds: float) -> int:
    """The most starts in any stretch of so many seconds."""
    return max(bisect.bisect_left(starts, start + seconds) - index for index, start in enumerate(starts))


def of_starts(answers: list[dict[str, Any]], way: Way, number: int) -> Sample:
    began = min(one["began"] for one in answers)
    of_each = [starts for one in answers for starts in one["starts"]]
    starts = sorted(itertools.chain(*of_each))
    together = 1 if way.is_shared else number
    at_once = way.at_once * together
    for index, start in enumerate(starts):
        allowed = RATE * together * (start - began) + at_once + TOLERANCE
        if index + 1 > allowed:
            raise measure.WrongResult(f"{index + 1} starts in {start - began:.3f} s instead of {allowed:.0f}")
    first_end = min(map(max, of_each))
    done = [sum(start <= first_end for start in of_one) for of_one in of_each]
    return {
        f"rate {number}": (len(starts) - at_once) / (starts[-1] - began),
        f"second {number}": most_within(starts, 1.0),
        f"tenth {number}": most_within(starts, 0.1),
        f"fair {number}": min(done) / max(done),
        f"commands {number}": max(one["commands"] for one in answers) / len(starts),
    }


async def sample(bench: Bench, name: str, size: Size) -> Sample:
    """Each figure of a column, once."""
    found: Sample = {}
    way = WAYS[name]
    at_once = way.at_once * (1 if way.is_shared else MANY)
    starts = max(size.starts, at_once + 30)  # or its rate would not be seen
    for number, processes, entries in ((FEW, FEW, 0), (MANY, 1, size.entries)):
        request: dict[str, Any] = {"way": name, "count": starts // number, "entries": entries}
        request |= {"together": processes, "clients": number // processes}
        answers = await bench.ask(processes, what="work", **request)
        found |= of_starts(answers, way, number)
    return found | {key: answers[0][key] for key in ("enter", "lost") if key in answers[0]}


async def away(name: str) -> dict[str, Any]:
    async with servers.redis(end=signal.SIGKILL) as port:  # it may be frozen, or gone
        [found] = await Bench(port).ask(what="away", way=name)
        return found


SCARCE = {"the rate": (8, 100), "slots": (2, 1_000)}  # what there is too little of: slots, rate
ORDERS = ("slots first", "rate first")
ORDERED = 3  # processes


async def ordered(bench: Bench, scarce: str, order: str, count: int) -> Sample:
    slots, rate = SCARCE[scarce]
    answers = await bench.ask(
        ORDERED, what="ordered", order=order, slots=slots, rate=rate, count=count, together=ORDERED
    )
    starts = sorted(start for one in answers for start in one["starts"])
    seconds = max(one["ended"] for one in answers) - min(one["began"] for one in answers)
    if (most := most_within(starts, 0.019)) > slots:
        raise measure.WrongResult(f"{most} at once instead of {slots}")
    items = count * ORDERED
    ideal = max((items - BURST) / rate, items * 0.02 / slots)
    return {"time": seconds / ideal, "tenth": most_within(starts, 0.1)}


# --- The tables -----------------------------------------------------------------------------------------------------

ROWS = {  # a figure: what it is, how it is written
    f"rate {FEW}": (f"{FEW} processes: starts a second, after the first burst", "{:.0f}"),
    f"second {FEW}": ("the most in any second", "{:.0f}"),
    f"tenth {FEW}": ("the most in any 0.1 s", "{:.0f}"),
    f"fair {FEW}": ("fewest / most starts of a process when the first one was through", "{:.2f}"),
    f"commands {FEW}": ("commands a start", "{:.1f}"),
    f"rate {MANY}": (f"{MANY} clients: starts a second, after the first burst", "{:.0f}"),
    f"second {MANY}": ("the most in any second", "{:.0f}"),
    f"tenth {MANY}": ("the most in any 0.1 s", "{:.0f}"),
    f"fair {MANY}": ("fewest / most starts of a client when the first one was through", "{:.2f}"),
    f"commands {MANY}": ("commands a start", "{:.1f}"),
    "enter": ("entering when there is a token, us", "{:.0f}"),
    "lost": (f"tokens lost by {CANCELLED} waits that were cancelled", "{:.0f}"),
    "gone": ("the server is gone: an error after, s", "{:.1f}"),
    "frozen": ("it is frozen: an error after, s", "{:.1f}"),
}


def written(found: dict[str, list[Sample]]) -> str:
    rows = []
    for name, (title, form) in ROWS.items():
        values = [shared.median(samples, name) for samples in found.values()]
        rows.append([title, *("" if value is None else form.format(value + 0.0) for value in values)])
    return parts.table(["", *found], rows).replace(" -0 ", " 0 ")


def written_orders(found: dict[tuple[str, str], list[Sample]]) -> str:
    rows = [
        [
            f"{scarce} ({SCARCE[scarce][0]} slots, {SCARCE[scarce][1]:,} a second)",
            *(f"{shared.median(found[scarce, order], 'time'):.2f}" for order in ORDERS),
            *(f"{shared.median(found[scarce, order], 'tenth'):.0f}" for order in ORDERS),
        ]
        for scarce in SCARCE
    ]
    head = ["scarce is", *(f"time / ideal, {order}" for order in ORDERS)]
    return parts.table([*head, *(f"most starts in 0.1 s, {order}" for order in ORDERS)], rows)


# --- The command ----------------------------------------------------------------------------------------------------


async def measured(size: Size, ways: list[str]) -> tuple[dict[str, list[Sample]], dict[tuple[str, str], list[Sample]]]:
    async with servers.redis() as port:
        bench = Bench(port)
        found: dict[str, list[Sample]] = {way: [] for way in ways}
        for _, turn in measure.in_turns(ways, size.rounds):
            samples = await gather(*(sample(bench, way, size) for way in turn), limit=size.at_a_time)
            for way, one in zip(turn, samples, strict=True):
                found[way].append(one)
        pairs = {f"{scarce}, {order}": (scarce, order) for scarce in SCARCE for order in ORDERS}
        orders: dict[tuple[str, str], list[Sample]] = {pair: [] for pair in pairs.values()}
        for _, turn in measure.in_turns(pairs, size.rounds):
            samples = await gather(*(ordered(bench, *pairs[pair], size.ordered) for pair in turn), limit=size.at_a_time)
            for pair, one in zip(turn, samples, strict=True):
                orders[pairs[pair]].append(one)
    if size is not QUICK:
        for way in ways:
            if WAYS[way].is_shared:
                found[way].append(await away(way))
    return found, orders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="half a minute: is the rate kept? Its figures say nothing")
    parser.add_argument("--docs", action="store_true", help="also write the tables into docs/rates.md")


def main(options: argparse.Namespace) -> int:
    if why := servers.no_redis():
        print(f"nothing measured: {why}")
        return 1
    ways = [name for name, way in WAYS.items() if importlib.util.find_spec(way.module) is not None]
    for name in WAYS.keys() - ways:
        print(f"{name}: not installed, and left out")
    if OURS not in ways:
        print("nothing measured: throttled-py is not installed")
        return 1
    found, orders = asyncio.run(measured(QUICK if options.quick else FULL, ways))
    head = shared.made("rates" + " --quick" * options.quick, PACKAGES)
    text, text_of_orders = f"{head}\n{written(found)}", written_orders(orders)
    print(f"{text}\n{text_of_orders}")
    if options.docs:
        parts.write(PAGE, PART, text)
        parts.write(PAGE, ORDERS_PART, text_of_orders)
    return 0


if __name__ == "__main__":  # a process that is asked
    assert sys.argv[1:] == ["--child"]
    sys.exit(harness.answer(child))
