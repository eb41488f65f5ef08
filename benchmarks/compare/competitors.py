"""Everything that one might run many coroutines with, behind one call: `await run(item, count, limit)`.

An adapter makes what its tool wants (coroutines, partials, a source) itself, so that this is inside the timed region,
and gives the results in the order of the items where the tool keeps it. Beside each stands what it gives up.

To add one: an adapter, and a row in COMPETITORS that says what an item has under it (test_benchmarks.py finds out whether that is
so). `needs` names the module without which it is absent. A tool that takes coroutines (`gather`) or callables (`call_all`) can also
be measured with those made before. A row of ASIDE has no part in the report; goals.py may name it. Neither has a row of STREAMS,
of what gives results one by one (streams.py).
"""

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatedcoro._demo_measure import langchain_gated, langchain_gather

from .. import task_from_c
from . import semaphores, streams
from .works import Item

Run = Callable[[Item, int, int | None], Awaitable[list[int]]]
Gather = Callable[..., Awaitable[list[Any]]]  # gather(limit, *coroutines)
Functions = Sequence[Callable[[], Awaitable[Any]]]
CallAll = Callable[[int | None, Functions], Awaitable[list[Any]]]


def made_for(gather: Gather) -> Run:
    """Hands the coroutines of all items to a `gather`."""

    async def run(item: Item, count: int, limit: int | None) -> list[int]:
        return await gather(limit, *[item(index) for index in range(count)])

    return run


# --- What people write by hand ------------------------------------------------------------------------------------


# LangChain's own algorithm is shared with the demo.


async def asyncio_gather(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*coros)


async def task_group(item: Item, count: int, limit: int | None) -> list[int]:
    async with asyncio.TaskGroup() as group:
        if limit is None:
            tasks = [group.create_task(_as_coroutine(item(index))) for index in range(count)]
        else:
            gate = asyncio.Semaphore(limit)
            tasks = [group.create_task(langchain_gated(gate, item(index))) for index in range(count)]
    return [task.result() for task in tasks]


def _as_coroutine(awaitable: Any) -> Any:
    return awaitable


async def lazy_pump(item: Item, count: int, limit: int | None) -> list[int]:
    """A Task per item, made when a slot frees: by the done callback of the one that freed it."""
    loop = asyncio.get_running_loop()
    everything_ended = loop.create_future()
    queue = enumerate([item(index) for index in range(count)])
    results: list[Any] = [None] * count
    tasks: dict[asyncio.Future[int], int] = {}

    def start_next() -> None:
        for index, coro in queue:
            task = loop.create_task(_as_coroutine(coro))
            tasks[task] = index
            task.add_done_callback(ended)
            return
        if not tasks and not everything_ended.done():
            everything_ended.set_result(None)

    def ended(task: asyncio.Future[int]) -> None:
        index = tasks.pop(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            results[index] = task.result()
        elif not everything_ended.done():
            everything_ended.set_exception(error)
        start_next()

    for _ in range(count if limit is None else min(limit, count)):
        start_next()
    if count:
        await everything_ended
    return results


async def pool(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    """n workers that take the next coroutine from a shared iterator: what experts write by hand."""
    queue = enumerate(coros)
    results: list[Any] = [None] * len(coros)

    async def worker() -> None:
        for index, coro in queue:
            results[index] = await coro

    workers = len(coros) if n is None else min(n, len(coros))
    await asyncio.gather(*[worker() for _ in range(workers)])
    return results


# --- Packages -----------------------------------------------------------------------------------------------------


async def aioitertools(item: Item, count: int, limit: int | None) -> list[int]:
    from aioitertools.asyncio import gather

    return await gather(*[item(index) for index in range(count)], limit=-1 if limit is None else limit)


async def aiometer(item: Item, count: int, limit: int | None) -> list[int]:
    from aiometer import run_all

    return await run_all([functools.partial(item, index) for index in range(count)], max_at_once=limit)


async def aiostream(item: Item, count: int, limit: int | None) -> list[int]:
    from aiostream import stream

    map_: Any = stream.map  # its type asks for more than one source
    results: Any = await stream.list(map_(stream.iterate(range(count)), item, task_limit=limit))
    return list(results)


async def quattro(item: Item, count: int, limit: int | None) -> list[int]:
    from quattro import gather

    coros = [item(index) for index in range(count)]
    return list(await (gather(*coros) if limit is None else gather(*coros, concurrency_limit=limit)))


async def pyarallel(item: Item, count: int, limit: int | None) -> list[int]:
    from pyarallel import async_parallel_map

    assert limit is not None
    return (await async_parallel_map(item, range(count), concurrency=limit)).values()


# --- Ours ---------------------------------------------------------------------------------------------------------

in_python: Any = importlib.import_module("gatedcoro._reference")
try:
    core: Any = importlib.import_module("gatedcoro._core")
except ImportError:  # what is said of it is absent then
    core = in_python


@contextlib.contextmanager
def task_per_item() -> Iterator[None]:
    previous = core._set_task_reuse(False)
    try:
        yield
    finally:
        core._set_task_reuse(previous)


async def ours_per_item(item: Item, count: int, limit: int | None) -> list[int]:
    with task_per_item():
        results: list[int] = await core.gather_with_concurrency(limit, *[item(index) for index in range(count)])
    return results


def ours_handed_on(n: int | None, *coros: Coroutine[Any, Any, Any]) -> Awaitable[list[Any]]:
    """With the cost of the adapter that `ours_as_future` needs, for a comparison of the two."""
    results: Awaitable[list[Any]] = core.gather_with_concurrency(n, *coros)
    return results


def ours_as_future(n: int | None, *coros: Coroutine[Any, Any, Any]) -> Awaitable[list[Any]]:
    future: Awaitable[list[Any]] = core.gather(*coros, limit=n)
    return future


def ours_called_first(n: int | None, functions: Functions) -> Awaitable[list[Any]]:
    results: Awaitable[list[Any]] = core.gather_with_concurrency(n, *[function() for function in functions])
    return results


def ours_run_all(n: int | None, functions: Functions) -> Awaitable[list[Any]]:
    results: Awaitable[list[Any]] = core.run_all(functions, limit=n)
    return results


async def ours_of_callables(item: Item, count: int, limit: int | None) -> list[int]:
    return await ours_run_all(limit, [functools.partial(item, index) for index in range(count)])


async def in_a_loop(n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
    results = []
    for coro in coros:
        results.append(await coro)
    return results


async def called_first_in_a_loop(n: int | None, functions: Functions) -> list[Any]:
    results = []
    for awaitable in [function() for function in functions]:
        results.append(await awaitable)
    return results


async def called_in_a_loop(n: int | None, functions: Functions) -> list[Any]:
    results = []
    for function in functions:
        results.append(await function())
    return results


async def of_callables_in_a_loop(item: Item, count: int, limit: int | None) -> list[int]:
    return await called_in_a_loop(limit, [functools.partial(item, index) for index in range(count)])


async def making_partials(item: Item, count: int, limit: int | None) -> list[int]:
    return [index for index, _ in enumerate([functools.partial(item, index) for index in range(count)])]


Semaphore: Callable[[int], Any] = core.Semaphore


def ours_as_future_by_a_semaphore(n: int, *coros: Coroutine[Any, Any, Any]) -> Awaitable[list[Any]]:
    future: Awaitable[list[Any]] = core.gather(*coros, limit=Semaphore(n))
    return future


# --- The table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Competitor:
    """A tool, and what an item has under it. test_benchmarks.py finds each of the six out by experiment."""

    name: str
    title: str
    run: Run
    gather: Gather | None = None  # gather(n, *coroutines), where it has this shape
    needs: str | None = None  # the module that must be importable
    since: tuple[int, int] = (3, 11)  # the Python that it asks for
    missing: Callable[[], str | None] | None = None  # says what else is missing here
    limits: bool = True  # keeps to a limit
    unlimited: bool = True  # can do without one
    own_task: bool = True  # asyncio.current_task() is another one in each item
    own_context: bool = True  # a context variable set by an item is unseen by the others
    order: bool = True  # the results come in the order of the items
    own_error: bool = True  # an item's error costs no other item its run, and the call no slot
    fail_fast: bool = True  # the caller hears of an error before items that run already would have ended
    call_all: CallAll | None = None  # call_all(n, callables), where it has this shape
    each: streams.Each | None = None  # gives results one by one
    stream: streams.Stream | None = None  # so, as an async iterator
    semaphore: semaphores.Semaphores | None = None  # is a class of semaphores
    around: Callable[[], AbstractContextManager[None]] = (
        contextlib.nullcontext
    )  # what must be so where `gather` is called

    def absent(self) -> str | None:
        """Why the running interpreter cannot have it, or None."""
        if sys.version_info < self.since:
            return "does not support Python {}.{}".format(*sys.version_info)
        if self.missing is not None and (missing := self.missing()):
            return missing
        if self.needs is None:
            return None
        try:
            found = importlib.util.find_spec(self.needs) is not None
        except ImportError:
            found = False
        return None if found else f"{self.needs} is not installed"

    def not_applicable(self, limit: int | None) -> str | None:
        """Why it cannot express a call with this limit, or None."""
        if limit is None and not self.unlimited:
            return "cannot do without a limit"
        return None

    @property
    def gives_up(self) -> list[str]:
        kept = {
            "the limit": self.limits,
            "own Task": self.own_task,
            "own context": self.own_context,
            "order": self.order,
            "own error": self.own_error,
            "fail-fast": self.fail_fast,
        }
        return [what for what, is_kept in kept.items() if not is_kept]


def gathering(name: str, title: str, gather: Gather, *more: Any, **kept: Any) -> Competitor:
    """A tool that is a gather(n, *coroutines), and nothing else."""
    return Competitor(name, title, made_for(gather), gather, *more, **kept)


def gated(
    name: str, title: str, gated_coro: Any, semaphore: semaphores.Semaphores, needs: str | None = None
) -> Competitor:
    """A `gated_coro(semaphore, coro)`, awaited again and again in one Task while the semaphore is free."""
    run = semaphores.awaited_one_by_one(gated_coro, semaphore)
    gather = semaphores.through_a_free_gate(gated_coro, semaphore)
    kept: dict[str, Any] = {"unlimited": False, "own_task": False, "own_context": False, "own_error": False}
    return Competitor(name, title, run, gather, needs, **kept)


def a_semaphore(name: str, title: str, semaphore: semaphores.Semaphores, needs: str | None = None) -> Competitor:
    """A class of semaphores; where coroutines are to be run, around each, as LangChain does it."""

    async def gather(n: int, *coros: Coroutine[Any, Any, Any]) -> list[Any]:
        gate = semaphore(n)
        return await asyncio.gather(*[langchain_gated(gate, coro) for coro in coros])

    return gathering(name, title, gather, needs, unlimited=False, semaphore=semaphore)


OURS = "gatedcoro"
COMPETITORS = [
    gathering(OURS, "gatedcoro", core.gather_with_concurrency, "gatedcoro._core", call_all=ours_called_first),
    Competitor(
        "gatedcoro-per-item",
        "gatedcoro, Task per item",
        ours_per_item,
        core.gather_with_concurrency,
        "gatedcoro._core",
        around=task_per_item,
    ),
    Competitor(
        "gatedcoro-run-all",
        "gatedcoro run_all",
        ours_of_callables,
        None,
        "gatedcoro._core",
        own_error=False,
        call_all=ours_run_all,
    ),
    gathering("reference", "gatedcoro in Python", in_python.gather_with_concurrency, "gatedcoro._reference"),
    gathering("langchain", "LangChain's helper", langchain_gather),
    gathering("asyncio-gather", "asyncio.gather", asyncio_gather, limits=False),
    Competitor("task-group", "TaskGroup + Semaphore", task_group, None, own_error=False),
    Competitor("lazy-pump", "lazy pump in Python", lazy_pump, None),
    gathering(
        "pool",
        "pool of n workers",
        pool,
        unlimited=False,
        own_task=False,
        own_context=False,
        own_error=False,
    ),
    Competitor("aioitertools", "aioitertools", aioitertools, None, "aioitertools", own_error=False),
    Competitor("aiometer", "aiometer", aiometer, None, "aiometer", own_error=False),
    Competitor("aiostream", "aiostream", aiostream, None, "aiostream", own_error=False, fail_fast=False),
    Competitor("quattro", "quattro", quattro, None, "quattro", own_error=False),
    Competitor("pyarallel", "pyarallel", pyarallel, None, "pyarallel", (3, 12), unlimited=False, fail_fast=False),
]


async def making(item: Item, count: int, limit: int | None) -> list[int]:
    """Makes the coroutines and closes them: what memory and stall are before any tool has done anything."""
    for coro in [item(index) for index in range(count)]:
        coro.close()
    return list(range(count))


FLOOR = Competitor(
    "making",
    "only making coroutines",
    making,
    limits=False,
    own_task=False,
    own_context=False,
    own_error=False,
    fail_fast=False,
)  # beside the figures of memory and stall, to be subtracted in thought
ASIDE = [
    FLOOR,
    gathering("gatedcoro-handed-on", "gatedcoro, by an adapter", ours_handed_on, "gatedcoro._core"),
    gathering("gatedcoro-gather", "gatedcoro gather", ours_as_future, "gatedcoro._core"),
    gathering(
        "gatedcoro-gather-semaphore",
        "gatedcoro gather, by a semaphore",
        ours_as_future_by_a_semaphore,
        "gatedcoro._core",
        unlimited=False,
    ),
    gated("langchain-gated-coro", "LangChain's gated_coro", langchain_gated, asyncio.Semaphore),
    gated("gatedcoro-gated-coro", "gatedcoro gated_coro", core.gated_coro, asyncio.Semaphore, "gatedcoro._core"),
    gated(
        "gatedcoro-gated-coro-semaphore",
        "gatedcoro gated_coro, its semaphore",
        core.gated_coro,
        Semaphore,
        "gatedcoro._core",
    ),
    a_semaphore("asyncio-semaphore", "asyncio.Semaphore", asyncio.Semaphore),
    a_semaphore("gatedcoro-semaphore", "gatedcoro.Semaphore", Semaphore, "gatedcoro._core"),
    gathering("loop", "a plain loop", in_a_loop, limits=False, call_all=called_first_in_a_loop),
    Competitor(
        "loop-of-calls",
        "a plain loop that calls",
        of_callables_in_a_loop,
        limits=False,
        call_all=called_in_a_loop,
    ),
    Competitor("making-partials", "only making partials", making_partials, limits=False),
    gathering(
        "task-from-c",
        "only an eager Task per item, from C",
        task_from_c.gather,
        since=(3, 12),
        missing=task_from_c.missing,
        own_error=False,
    ),
]


def streaming(
    name: str, title: str, each: streams.Each, needs: str | None = None, order: bool = True, **kept: Any
) -> Competitor:
    """A tool that gives results one by one. All of them, where that is asked for, are put in order at no great cost."""

    async def run(item: Item, count: int, limit: int | None) -> list[int]:
        results: list[int] = []
        await each(item, streams.numbers(count), limit, results.append)
        if not order:
            results.sort()
        return results

    kept = {"unlimited": False, "own_error": False} | kept
    return Competitor(name, title, run, needs=needs, order=order, each=each, **kept)


def our_stream(name: str, title: str, stream: streams.Stream, order: bool) -> Competitor:
    return streaming(name, title, streams.iterated(stream), "gatedcoro._core", order, stream=stream)


def our_as_completed(name: str, title: str, each: streams.Each, **kept: Any) -> Competitor:
    return streaming(name, title, each, "gatedcoro._core", False, unlimited=True, **kept)


async def ours_awaited(item: Item, count: int, limit: int | None) -> list[int]:
    results: list[int] = await core.amap(item, streams.numbers(count), limit=limit)
    return results


STREAMS = [
    our_stream("gatedcoro-stream", "gatedcoro amap", streams.ours(core), True),
    our_stream("gatedcoro-stream-unordered", "gatedcoro amap, out of order", streams.ours(core, ordered=False), False),
    our_stream(
        "gatedcoro-stream-async-source",
        "gatedcoro amap, out of order, async source",
        streams.ours_from_async(core, ordered=False),
        False,
    ),
    Competitor("gatedcoro-awaited", "gatedcoro amap, awaited", ours_awaited, None, "gatedcoro._core", own_error=False),
    streaming(
        "pool-queue",
        "pool of n workers, a queue",
        streams.pool_and_queue,
        order=False,
        own_task=False,
        own_context=False,
    ),
    streaming("as-completed", "asyncio.as_completed + Semaphore", streams.as_completed, order=False, unlimited=True),
    streaming(
        "as-completed-async",
        "asyncio.as_completed + Semaphore, async for",
        streams.as_completed_async,
        order=False,
        since=(3, 13),
        unlimited=True,
    ),
    streaming(
        "as-completed-of-tasks",
        "asyncio.as_completed of the caller's Tasks",
        streams.as_completed_of_tasks,
        order=False,
        limits=False,
        unlimited=True,
    ),
    our_as_completed("gatedcoro-as-completed", "gatedcoro as_completed", streams.our_as_completed_plain(core)),
    our_as_completed(
        "gatedcoro-as-completed-async", "gatedcoro as_completed, async for", streams.our_as_completed(core)
    ),
    our_as_completed(
        "gatedcoro-as-completed-lazy",
        "gatedcoro as_completed, async for, a generator",
        streams.our_as_completed(core, lazily=True),
    ),
    our_as_completed(
        "gatedcoro-as-completed-of-tasks",
        "gatedcoro as_completed of the caller's Tasks",
        streams.our_as_completed_of_tasks(core),
        limits=False,
    ),
    streaming("aiometer-amap", "aiometer amap", streams.aiometer, "aiometer", False),
    streaming("aiostream-map", "aiostream map", streams.aiostream(True), "aiostream"),
    streaming("aiostream-map-unordered", "aiostream map, out of order", streams.aiostream(False), "aiostream", False),
    streaming("streamable", "streamable map", streams.streamable(True), "streamable"),
    streaming("streamable-unordered", "streamable map, out of order", streams.streamable(False), "streamable", False),
    streaming("pyarallel-iter", "pyarallel iter", streams.pyarallel(True), "pyarallel", since=(3, 12)),
    streaming(
        "pyarallel-iter-unordered",
        "pyarallel iter, out of order",
        streams.pyarallel(False),
        "pyarallel",
        False,
        since=(3, 12),
    ),
]
READING = streaming(
    "only-reading",
    "only a reader",
    streams.iterated(streams.only_reading),
    limits=False,
    own_task=False,
    own_context=False,
    stream=streams.only_reading,
)  # its own cost, to be subtracted
BY_NAME = {competitor.name: competitor for competitor in [*COMPETITORS, *ASIDE, *STREAMS, READING]}

BEFORE = "before"


def of_another_checkout(folder: str) -> Competitor:
    """The extension of another checkout, which is built in place there, beside this one's in the same process."""
    path = Path(folder) / "gatedcoro" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    spec = importlib.util.spec_from_file_location("another_checkout._core", path)
    assert spec is not None and spec.loader is not None
    other: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    return gathering(BEFORE, "gatedcoro of the other checkout", other.gather_with_concurrency)
