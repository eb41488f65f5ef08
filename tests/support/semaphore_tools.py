"""What tests of a semaphore as a limit share: every way to give it one, items that wait for the test, users beside the call."""

import asyncio
import functools

from contract_tools import idle, item

KINDS = ("Semaphore", "BoundedSemaphore")


async def collected(stream):
    return [result async for result in stream]


async def results_of(iterator):
    return [task.result() async for task in iterator]


async def results_one_by_one(iterator):
    return [await coroutine for coroutine in iterator]


async def each(functions):
    """The same as an async source that takes a turn for each."""
    for function in functions:
        await asyncio.sleep(0)
        yield function


def call(function):
    return function()


def made(functions):
    return [function() for function in functions]


# Every function that has a limit, called with functions that return coroutines; each gives a list of their results.
WAYS = {
    "gather": lambda impl, limit, functions: impl.gather(*made(functions), limit=limit),
    "run_all": lambda impl, limit, functions: impl.run_all(functions, limit=limit),
    "run_all, a generator": lambda impl, limit, functions: impl.run_all((one for one in functions), limit=limit),
    "run_all, async": lambda impl, limit, functions: impl.run_all(each(functions), limit=limit),
    "constrained_execution": lambda impl, limit, functions: impl.constrained_execution(functions, limit),
    "amap": lambda impl, limit, functions: collected(impl.amap(call, functions, limit=limit, buffersize=100)),
    "amap, as they come": lambda impl, limit, functions: collected(
        impl.amap(call, functions, limit=limit, buffersize=100, ordered=False)
    ),
    "amap, async": lambda impl, limit, functions: collected(
        impl.amap(call, each(functions), limit=limit, buffersize=100)
    ),
    "amap, awaited": lambda impl, limit, functions: impl.amap(call, iter(functions), limit=limit),
    "as_completed": lambda impl, limit, functions: results_of(impl.as_completed(made(functions), limit=limit)),
    "as_completed, for": lambda impl, limit, functions: results_one_by_one(
        impl.as_completed(made(functions), limit=limit)
    ),
}
# What takes its items from a sequence or an iterator, and so needs no turn for one: handed a slot, it uses it.
FROM_ITERABLES = {name: way for name, way in WAYS.items() if "async" not in name}


class Gate:
    """Another gate: it says who enters and leaves it."""

    def __init__(self, trace, name, value=1):
        self._trace, self._name = trace, name
        self._semaphore = asyncio.Semaphore(value)

    async def __aenter__(self):
        await self._semaphore.acquire()
        self._trace(f"{self._name}(")

    async def __aexit__(self, *error):
        self._trace(f"){self._name}")
        self._semaphore.release()


def functions_of(trace, names, turns=1):
    """Functions of items that take so many turns, or as many as their digits say."""

    def make(word):
        name, number = word[0], int(word[1:] or turns)
        return lambda: item(trace, name, number)

    return [make(word) for word in (names.split() if " " in names else names)]


class Opened:
    """Items that each wait until the test opens them, or until they are cancelled."""

    def __init__(self, names):
        self.names = names
        self.futures = {}
        self.begun = []
        self.ended = []

    async def item(self, name):
        self.begun.append(name)
        self.futures[name] = asyncio.get_running_loop().create_future()
        try:
            await self.futures[name]
        finally:
            del self.futures[name]
            self.ended.append(name)
        return name

    @property
    def functions(self):
        return [functools.partial(self.item, name) for name in self.names]

    @property
    def running(self):
        return "".join(sorted(self.futures))

    async def open(self, names):
        """Let these end, and return which run when all has come to rest."""
        for name in names:
            self.futures[name].set_result(None)
        await idle(12)
        return self.running

    async def fail(self, name, error=ValueError):
        self.futures[name].set_exception(error(name))
        await idle(12)
        return self.running

    async def rest(self):
        return await self.open("")


async def user(trace, semaphore, name, turns=1, how="async with", impl=None):
    """Somebody else who holds a slot for some turns."""
    if how == "gated_coro":
        return await impl.gated_coro(semaphore, held(trace, name, turns))
    if how == "acquire":
        await semaphore.acquire()
        try:
            return await held(trace, name, turns)
        finally:
            semaphore.release()
    async with semaphore:
        return await held(trace, name, turns)


async def held(trace, name, turns):
    trace(f"+{name}")
    await idle(turns)
    trace(f"-{name}")
    return name


async def all_is_over(*semaphores, slots):
    """All slots are back, nobody waits, and no Task is left."""
    await idle(12)
    for semaphore, number in zip(semaphores, slots if isinstance(slots, tuple) else (slots,), strict=True):
        assert semaphore._value == number
        assert semaphore.locked() == (number == 0)
        assert not semaphore._waiters
    assert asyncio.all_tasks() == {asyncio.current_task()}
