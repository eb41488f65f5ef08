"""How the work of one call grows with the number of items: `python -m benchmarks scaling`.

Every public function in every situation (each way to end, each kind of item), with N, 2N and 4N items: what is counted is
the growth, (count at 4N less count at 2N) / (count at 2N less count at N), in which what happens once a call drops out. It
is 2 where an item costs the same however many there are, and 4 where the work is quadratic. The counts are cachegrind's, of
instructions, each from a fork of one process, whose garbage collector is off. No count is compared with a stored one.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import importlib
import itertools
import math
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

from gatedcoro import _demo_measure

from . import harness

COUNT = {"gatedcoro._core": 400, "gatedcoro._reference": 100}
MOST = 2.3
"""The growth that is still called linear: tables double their size at some counts and not at others."""

LEAST = 500
"""Instructions per item below which nothing is done for each of them, and the growth says nothing."""

Function = Callable[[], Any]  # makes an item
Door = Callable[[Any, Sequence[Function]], Any]  # the subject, the makers -> what to await
Scenario = Callable[[Any, int], None]  # the subject, N: all that is counted


# --- Doors --------------------------------------------------------------------------------------------------------


def made(functions: Sequence[Function]) -> Iterator[Any]:
    return (function() for function in functions)


async def by_gated_coro(subject: Any, functions: Sequence[Function]) -> list[Any]:
    gate = asyncio.Semaphore(10)
    return await asyncio.gather(*[subject.gated_coro(gate, item) for item in made(functions)])


async def by_gated_coro_and_ours(subject: Any, functions: Sequence[Function]) -> list[Any]:
    gate = subject.Semaphore(10)
    return await asyncio.gather(*[subject.gated_coro(gate, item) for item in made(functions)])


def by_amap(**options: Any) -> Door:
    """One by one: the list is the reader's."""

    async def door(subject: Any, functions: Sequence[Function]) -> list[Any]:
        results: list[Any] = []
        # Up to 3.11 a comprehension would be a function of its own, which a cancelled Task's traceback keeps, and so the Stream.
        async for result in subject.amap(lambda function: function(), iter(functions), **options):
            results.append(result)
        return results

    return door


DOORS: dict[str, Door] = {
    "gather": lambda subject, functions: subject.gather(*made(functions)),
    "gather(limit=10)": lambda subject, functions: subject.gather(*made(functions), limit=10),
    "gather(limit=a semaphore)": lambda subject, functions: subject.gather(
        *made(functions), limit=asyncio.Semaphore(10)
    ),
    "gather_with_concurrency(10)": lambda subject, functions: subject.gather_with_concurrency(10, *made(functions)),
    "gather_with_concurrency(None)": lambda subject, functions: subject.gather_with_concurrency(None, *made(functions)),
    "run_all": lambda subject, functions: subject.run_all(functions),
    "run_all(limit=10)": lambda subject, functions: subject.run_all(iter(functions), limit=10, cancel_on_error=False),
    "run_all(limit=a semaphore)": lambda subject, functions: subject.run_all(
        functions, limit=asyncio.Semaphore(10), cancel_on_error=False
    ),
    "constrained_execution(10)": lambda subject, functions: subject.constrained_execution(functions, 10),
    "gated_coro": by_gated_coro,
    "gather(limit=Semaphore)": lambda subject, functions: subject.gather(*made(functions), limit=subject.Semaphore(10)),
    "run_all(limit=Semaphore)": lambda subject, functions: subject.run_all(
        functions, limit=subject.Semaphore(10), cancel_on_error=False
    ),
    "gated_coro(Semaphore)": by_gated_coro_and_ours,
    "amap(ordered=False)": by_amap(ordered=False),
    "amap(limit=10)": by_amap(limit=10),
}

# The call is no coroutine of ours that could be closed.
NO_COROUTINE = (
    *("gather", "gather(limit=10)", "gather(limit=a semaphore)", "gather(limit=Semaphore)"),
    *("gated_coro", "gated_coro(Semaphore)"),
    *("amap(ordered=False)", "amap(limit=10)"),
)
# asyncio.Semaphore, unlike ours, is itself quadratic: each of many waiters that are cancelled at once looks at all the others.
CANCELS_WAITERS = ("caller cancelled", "cancelled items fail", "keeper cancelled", "interrupted")


# --- What items do ------------------------------------------------------------------------------------------------


nothing = functools.partial(_demo_measure.nothing, 1)
sleep0 = functools.partial(_demo_measure.sleep0, 1)


async def fails() -> None:
    await asyncio.sleep(0)
    raise ValueError("an item's")


async def fails_first() -> None:
    await asyncio.sleep(0)
    raise LookupError("the first item's")


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def fails_when_cancelled() -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        raise ValueError("an item's") from None


async def interrupts() -> None:
    await asyncio.sleep(0)
    raise KeyboardInterrupt


class Equal:
    """All of them that have the same number are equal."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal) and other.number == self.number

    def __await__(self) -> Iterator[None]:
        yield
        return 1


# --- How a call ends ----------------------------------------------------------------------------------------------


async def rest() -> None:
    """Until whatever still runs has ended."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)  # the keeper is among them until the queue is empty


def ending(main: Callable[[Any, Door, int], Coroutine[Any, Any, None]]) -> Callable[[Door], Scenario]:
    """Scenarios of a door, by a coroutine function of the subject, the door and N."""
    return lambda door: lambda subject, count: asyncio.run(main(subject, door, count))


@ending
async def ok(subject: Any, door: Door, count: int) -> None:
    assert await door(subject, [sleep0] * count) == [1] * count


@ending
async def ok_at_once(subject: Any, door: Door, count: int) -> None:
    assert await door(subject, [nothing] * count) == [1] * count


@ending
async def first_error(subject: Any, door: Door, count: int) -> None:
    with contextlib.suppress(LookupError):
        await door(subject, [fails_first, *[sleep0] * count])
    await rest()


@ending
async def all_fail(subject: Any, door: Door, count: int) -> None:
    with contextlib.suppress(ValueError):
        await door(subject, [fails] * count)
    await rest()


@ending
async def caller_cancelled(subject: Any, door: Door, count: int) -> None:
    async def calls() -> None:
        await door(subject, [forever] * count)

    caller = asyncio.create_task(calls())
    for _ in range(3):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    await rest()


@ending
async def cancelled_items_fail(subject: Any, door: Door, count: int) -> None:
    caller = asyncio.ensure_future(door(subject, [fails_when_cancelled] * count))
    for _ in range(3):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled() or isinstance(caller.exception(), ValueError)
    await rest()


@ending
async def closed(subject: Any, door: Door, count: int) -> None:
    call = door(subject, [forever] * count)
    call.send(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.close()
    await rest()


@ending
async def never_awaited(subject: Any, door: Door, count: int) -> None:
    call = door(subject, [forever] * count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del call


@ending
async def keeper_cancelled(subject: Any, door: Door, count: int) -> None:
    with contextlib.suppress(LookupError):
        await door(subject, [fails_first, *[forever] * count])
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await rest()


@ending
async def factory(subject: Any, door: Door, count: int) -> None:
    asyncio.get_running_loop().set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
    assert await door(subject, [sleep0] * count) == [1] * count


def interrupted(door: Door) -> Scenario:
    async def main(subject: Any, count: int) -> None:
        await door(subject, [interrupts, *[forever] * count])

    def scenario(subject: Any, count: int) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(main(subject, count))

    return scenario


ENDINGS: dict[str, Callable[[Door], Scenario]] = {
    "ok": ok,
    "ok at once": ok_at_once,
    "first error": first_error,
    "all fail": all_fail,
    "caller cancelled": caller_cancelled,
    "cancelled items fail": cancelled_items_fail,
    "keeper cancelled": keeper_cancelled,
    "task factory": factory,
    "interrupted": interrupted,
    "closed": closed,
    "never awaited": never_awaited,
}


# --- Kinds of items, and other options ----------------------------------------------------------------------------


def special(main: Callable[[Any, int], Coroutine[Any, Any, None]]) -> Scenario:
    return lambda subject, count: asyncio.run(main(subject, count))


def futures(count: int) -> list[asyncio.Future[int]]:
    loop = asyncio.get_running_loop()
    made = [loop.create_future() for _ in range(count)]
    for future in made:
        loop.call_soon(future.set_result, 1)
    return made


def done_futures(count: int) -> list[asyncio.Future[int]]:
    made = [asyncio.get_running_loop().create_future() for _ in range(count)]
    for future in made:
        future.set_result(1)
    return made


KINDS: dict[str, Callable[[int], Sequence[Any]]] = {
    "one item twice": lambda count: [*(items := [sleep0() for _ in range(count)]), items[0]],
    "every item twice": lambda count: [sleep0() for _ in range(count)] * 2,
    "one item N times": lambda count: [sleep0()] * count,
    "items held elsewhere": lambda count: HELD.append([sleep0() for _ in range(count)]) or HELD.pop(),
    "equal items": lambda count: [Equal(index // 2) for index in range(count)],
    "unequal objects": lambda count: [Equal(index) for index in range(count)],
    "Futures": futures,
    "done Futures": done_futures,
    "Futures and coroutines": lambda count: [*futures(count), *[sleep0() for _ in range(count)]],
    "Tasks": lambda count: [asyncio.ensure_future(sleep0()) for _ in range(count)],
}
HELD: list[Any] = []


def of_kind(kind: Callable[[int], Sequence[Any]], **options: Any) -> Scenario:
    async def main(subject: Any, count: int) -> None:
        items = kind(count)
        assert await subject.gather(*items, **options) == [1] * len(items)

    return special(main)


def stopped(kind: Callable[[int], Sequence[Any]], **options: Any) -> Scenario:
    """The first error stops the rest, which then fails, too: as many notes."""

    async def main(subject: Any, count: int) -> None:
        items = kind(count)
        call = subject.gather(*items, fails_first(), cancel_on_error=True, **options)
        await asyncio.wait([call])
        assert len(call.exception().__notes__) == len(set(items))

    return special(main)


def tasks_that_fail_when_cancelled(count: int) -> list[Any]:
    return [asyncio.ensure_future(fails_when_cancelled()) for _ in range(count)]


def many_that_fail_when_cancelled(count: int) -> list[Any]:
    return [fails_when_cancelled() for _ in range(count)]


@special
async def cancelled_futures(subject: Any, count: int) -> None:
    loop = asyncio.get_running_loop()
    call = subject.gather(*[loop.create_future() for _ in range(count)])
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert isinstance(call.exception(), asyncio.CancelledError)


@special
async def results_that_wait(subject: Any, count: int) -> None:
    """In order, behind the first one; and then for a reader that has not come yet."""

    async def item(index: int) -> int:
        for _ in range(0 if index else count):
            await asyncio.sleep(0)
        return index

    stream = subject.amap(item, iter(range(count)), limit=10, buffersize=count)
    assert await anext(stream) == 0
    for _ in range(10):
        await asyncio.sleep(0)
    assert [index async for index in stream] == [*range(1, count)]


def consumers_of(what: Callable[[Any, list[asyncio.Task[Any]]], Coroutine[Any, Any, None]]) -> Scenario:
    async def main(subject: Any, count: int) -> None:
        gate = asyncio.Event()

        async def item(index: int) -> int:
            await gate.wait()
            return index

        stream = subject.amap(item, iter(range(count)), limit=10)
        consumers = [asyncio.create_task(anext(stream)) for _ in range(count)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.set()
        await what(stream, consumers)
        await stream.aclose()

    return special(main)


@consumers_of
async def are_served(stream: Any, consumers: list[asyncio.Task[Any]]) -> None:
    assert await asyncio.gather(*consumers) == [*range(len(consumers))]


@consumers_of
async def are_cancelled(stream: Any, consumers: list[asyncio.Task[Any]]) -> None:
    for consumer in reversed(consumers):
        consumer.cancel()
    await asyncio.wait(consumers)


@consumers_of
async def have_nothing_more(stream: Any, consumers: list[asyncio.Task[Any]]) -> None:
    await stream.aclose()
    ended = await asyncio.gather(*consumers, return_exceptions=True)
    assert all(isinstance(error, StopAsyncIteration) for error in ended)


@special
async def elements_that_come(subject: Any, count: int) -> None:
    async def source() -> AsyncIterator[int]:
        for index in range(count):
            await asyncio.sleep(0)
            yield index

    assert [index async for index in subject.amap(_demo_measure.nothing, source())] == [*range(count)]


@special
async def one_after_the_other(subject: Any, count: int) -> None:
    coros = [sleep0() for _ in range(count)]
    assert [await earliest for earliest in subject.as_completed(coros, limit=10)] == [1] * count


@special
async def tasks_left(subject: Any, count: int) -> None:
    """The caller's Tasks, one of which is enough."""
    tasks = [asyncio.create_task(forever()) for _ in range(count)]
    async with subject.as_completed([*tasks, sleep0()]) as completed:
        assert (await anext(completed)).result() == 1
    for task in tasks:
        task.cancel()
    await rest()


@special
async def returned_errors(subject: Any, count: int) -> None:
    results = await subject.gather(*[fails() for _ in range(count)], limit=10, return_exceptions=True)
    assert len(results) == count


@special
async def returned_cancellations(subject: Any, count: int) -> None:
    call = subject.gather(*[forever() for _ in range(count)], return_exceptions=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert isinstance(call.exception(), asyncio.CancelledError)


@special
async def generator(subject: Any, count: int) -> None:
    assert await subject.run_all((nothing for _ in range(count)), limit=10) == [1] * count


@special
async def told(subject: Any, count: int) -> None:
    numbers: list[int] = []
    await subject.run_all([sleep0] * count, limit=10, progress=numbers.append)
    assert sum(numbers) == count


@special
async def generator_closed(subject: Any, count: int) -> None:
    functions = (fails if index == count - 1 else sleep0 for index in itertools.count())
    with contextlib.suppress(ValueError):
        await subject.run_all(functions, limit=10)


@special
async def functions_stopped(subject: Any, count: int) -> None:
    call = asyncio.ensure_future(subject.run_all([*[fails_when_cancelled] * count, fails_first]))
    await asyncio.wait([call])
    assert len(call.exception().__notes__) == count  # type: ignore[union-attr]


@special
async def refused(subject: Any, count: int) -> None:
    with contextlib.suppress(TypeError):
        await subject.gather_with_concurrency(None, *[sleep0() for _ in range(count)], 5)


@special
async def a_task_per_item(subject: Any, count: int) -> None:
    reuse = subject._set_task_reuse(False)
    assert await subject.gather(*[sleep0() for _ in range(count)], limit=10) == [1] * count
    subject._set_task_reuse(reuse)


@special
async def as_many_as_there_are(subject: Any, count: int) -> None:
    assert await subject.gather(*[sleep0() for _ in range(count)], limit=count) == [1] * count


def waiters_of(what: Callable[[Any, list[asyncio.Task[Any]]], Coroutine[Any, Any, None]]) -> Scenario:
    """N Tasks wait for a semaphore of N slots, all of which are held."""

    async def main(subject: Any, count: int) -> None:
        semaphore = subject.Semaphore(count)
        semaphore._value = 0
        waiters = [asyncio.create_task(semaphore.acquire()) for _ in range(count)]
        await asyncio.sleep(0)
        await what(semaphore, waiters)

    return special(main)


@waiters_of
async def are_let_in(semaphore: Any, waiters: list[asyncio.Task[Any]]) -> None:
    for _ in waiters:
        semaphore.release()
    assert await asyncio.gather(*waiters) == [True] * len(waiters)
    assert semaphore._value == 0


@waiters_of
async def are_let_in_by_the_limit(semaphore: Any, waiters: list[asyncio.Task[Any]]) -> None:
    semaphore.limit += len(waiters)
    assert await asyncio.gather(*waiters) == [True] * len(waiters)


@waiters_of
async def are_cancelled_last_first(semaphore: Any, waiters: list[asyncio.Task[Any]]) -> None:
    for waiter in reversed(waiters):
        waiter.cancel()
    await asyncio.wait(waiters)
    assert semaphore._value == 0 and not semaphore._waiters


@waiters_of
async def are_let_in_and_cancelled(semaphore: Any, waiters: list[asyncio.Task[Any]]) -> None:
    """Each slot that was handed over comes back."""
    for waiter in waiters:
        semaphore.release()
        waiter.cancel()
    await asyncio.wait(waiters)
    assert semaphore._value == len(waiters)


@waiters_of
async def are_passed_by(semaphore: Any, waiters: list[asyncio.Task[Any]]) -> None:
    """Half of them is cancelled, and the others are let in one after the other."""
    for waiter in waiters[::2]:
        waiter.cancel()
    for waiter in waiters[1::2]:
        semaphore.release()
        await waiter
    assert semaphore._value == 0


@special
async def acquisitions_dropped(subject: Any, count: int) -> None:
    semaphore = subject.Semaphore(0)
    waiting = [semaphore.acquire() for _ in range(count)]
    for coro in waiting:
        coro.send(None)
    del coro
    waiting.clear()
    assert not semaphore._waiters


@special
async def calls_that_share(subject: Any, count: int) -> None:
    """Each has a place in the queue."""
    semaphore = subject.Semaphore(10)
    calls = [subject.gather(sleep0(), sleep0(), limit=semaphore) for _ in range(count)]
    assert await asyncio.gather(*calls) == [[1, 1]] * count
    assert semaphore._value == 10


SPECIAL: dict[str, Scenario] = {
    **{f"gather, {name}": of_kind(kind) for name, kind in KINDS.items()},
    **{f"gather(limit=10), {name}": of_kind(kind, limit=10) for name, kind in KINDS.items()},
    "gather, the rest stopped": stopped(many_that_fail_when_cancelled),
    "gather, the rest stopped, one item twice": stopped(
        lambda count: [*(items := many_that_fail_when_cancelled(count)), items[0]]
    ),
    "gather, the rest stopped, Futures": stopped(tasks_that_fail_when_cancelled),
    "gather, Futures cancelled": cancelled_futures,
    "gather(return_exceptions=True), cancelled": returned_cancellations,
    "gather(limit=10, return_exceptions=True), all fail": returned_errors,
    "gather(limit=10), a Task per item": a_task_per_item,
    "gather(limit=N)": as_many_as_there_are,
    "amap, results that wait": results_that_wait,
    "amap, elements that come": elements_that_come,
    "amap, as many consumers, served": are_served,
    "amap, as many consumers, cancelled": are_cancelled,
    "amap, as many consumers, nothing more": have_nothing_more,
    "as_completed(limit=10), a plain loop": one_after_the_other,
    "as_completed, Tasks, left": tasks_left,
    "Semaphore, as many waiters, let in": are_let_in,
    "Semaphore, as many waiters, let in by the limit": are_let_in_by_the_limit,
    "Semaphore, as many waiters, cancelled": are_cancelled_last_first,
    "Semaphore, as many waiters, let in and cancelled": are_let_in_and_cancelled,
    "Semaphore, as many waiters, half of them cancelled": are_passed_by,
    "Semaphore, as many waiters, dropped": acquisitions_dropped,
    "Semaphore, as many calls": calls_that_share,
    "gather_with_concurrency(None), refused": refused,
    "run_all, the rest stopped": functions_stopped,
    "run_all(limit=10), progress": told,
    "run_all(limit=10), a generator": generator,
    "run_all(limit=10), a generator, left unfinished": generator_closed,
}


def scenarios() -> dict[str, Scenario]:
    found = {
        f"{door}, {name}": make(DOORS[door])
        for door in DOORS
        for name, make in ENDINGS.items()
        if not (door in NO_COROUTINE and name in ("closed", "never awaited"))
        and not (door == "gated_coro" and name in CANCELS_WAITERS)
        and not (door == "gated_coro(Semaphore)" and name == "interrupted")  # asyncio.gather logs the interrupt
    }
    return {**found, **SPECIAL}


# --- Counting -----------------------------------------------------------------------------------------------------


def run_here(names: Sequence[str], count: int, module: str) -> None:
    """What cachegrind watches: each scenario at three sizes, all of them with a few items before.

    What these leave behind is collected first: it would be in asyncio's set of all Tasks, which is gone through at the end of a run.
    """
    subject = importlib.import_module(module)
    subject._set_clock((0.0).__float__)
    gc.disable()
    of_names = [scenarios()[name] for name in names]
    for scenario in of_names:
        scenario(subject, 10)
    gc.collect()
    gc.freeze()  # else it would be looked at wherever a scenario collects
    sizes = (count, 2 * count, 4 * count)
    harness.run_in_forks(functools.partial(scenario, subject, size) for scenario in of_names for size in sizes)


def counted(names: Sequence[str], count: int, module: str) -> dict[str, list[int]]:
    """The instructions of each scenario at each of the three sizes."""
    program = f"from benchmarks.scaling import run_here; run_here({list(names)!r}, {count}, {module!r})"
    counts = harness.instructions(program)
    return {name: counts[3 * index : 3 * index + 3] for index, name in enumerate(names)}


def growth(counts: Sequence[int]) -> float:
    """What 2N more items cost, by what N more cost; infinite where N more cost nothing."""
    once, twice, four_times = counts
    return (four_times - twice) / (twice - once) if twice != once else math.inf


def per_item(counts: Sequence[int], count: int) -> float:
    return (counts[1] - counts[0]) / count


def is_linear(counts: Sequence[int], count: int) -> bool:
    return per_item(counts, count) < LEAST or growth(counts) <= MOST


def is_linear_after_all(name: str, counts: Sequence[int], count: int, module: str) -> bool:
    """Whether *name* is linear by *counts*, or else counted in a process of its own and from four times as many items on.

    What happens once is not the same each time, within some 200,000 instructions (memory from the system, caches): at first a fifth
    of a scenario whose items cost little, here a twentieth. What is quadratic shows the more, the more items there are.
    """
    return is_linear(counts, count) or is_linear(counted([name], 4 * count, module)[name], 4 * count)


# --- The command --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="TEXT", action="append", help="only scenarios that contain TEXT")
    defaults = ", ".join(f"{count:,} for {module}" for module, count in COUNT.items())
    parser.add_argument("--count", type=int, help=f"N: N, 2N and 4N items are counted ({defaults})")
    parser.add_argument("--module", default="gatedcoro._core", choices=list(COUNT), help="what is measured")


def main(options: argparse.Namespace) -> int:
    if harness.no_valgrind():
        return 0
    names = [name for name in scenarios() if not options.only or any(text in name for text in options.only)]
    if not names or (options.count is not None and options.count < 1):
        print("nothing to count: no scenario contains that text, or --count is less than 1")
        return 2
    count = options.count or COUNT[options.module]
    worse = []
    for name, counts in counted(names, count, options.module).items():
        words = f"{growth(counts):6.2f}  {per_item(counts, count):10,.0f} instructions per item  {name}"
        print(words, flush=True)
        if not is_linear_after_all(name, counts, count, options.module):
            worse.append(words)
    print("\n".join(f"NOT LINEAR: {words}" for words in worse) or f"linear: no growth is above {MOST}")
    return 1 if worse else 0
