"""What tests of a shared limit in one process have in common: virtual time, items that wait for the test, what must be left."""

import asyncio
import contextlib
import gc

from gatedcoro.shared import _permits, _session, _thread
from virtual_time import FineTimeLoop

A_DAY = 86_400


@contextlib.contextmanager
def clock_set(clock):
    """The clock by which leases count."""
    modules = (_permits, _session, _thread)
    before = [module.clock for module in modules]
    for module in modules:
        module.clock = clock
    try:
        yield
    finally:
        for module, its_clock in zip(modules, before):
            module.clock = its_clock


def run(main, *, debug=None, loop_factory=FineTimeLoop, reports=None):
    """Run the coroutine function *main* in virtual time; who hangs for a day gets a TimeoutError.

    Whatever the event loop has to report, then or later, is an error, or is appended to *reports*.
    """
    found = [] if reports is None else reports

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: found.append(context))
        async with asyncio.timeout(A_DAY):
            return await main()

    try:
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            with clock_set(runner.get_loop().time):
                try:
                    return runner.run(watched())
                finally:
                    runner.close()
    finally:
        gc.collect()
        if reports is None:
            assert found == []


def run_each(main, cases):
    """Run *main* with each of the cases, one after the other; an error says which."""

    async def each():
        for case in cases:
            try:
                await main(*case)
            except BaseException as error:
                error.add_note(f"with {case}")
                raise

    run(each)


async def until(condition, *, at_most=600, every=0.001):
    """Wait until the condition holds."""
    async with asyncio.timeout(at_most):
        while not condition():
            await asyncio.sleep(every)


class Item:
    """A Task that enters a limit, and leaves it when told to."""

    def __init__(self, limit, name="", order=None, times=1):
        self.limit, self.name, self.order, self.times = limit, name, order, times
        self.may_end = asyncio.Event()
        self.is_in = asyncio.Event()
        self.token = self.after = None
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(self.times):
                self.token = await stack.enter_async_context(self.limit)
            if self.order is not None:
                self.order.append(self.name)
            self.is_in.set()
            await self.may_end.wait()
        if self.after is not None:
            await self.after
        return self.name

    async def starts(self):
        """Wait until it has entered, or fails."""
        entered = asyncio.get_running_loop().create_task(self.is_in.wait())
        await asyncio.wait([entered, self.task], return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            entered.cancel()
            await self.task
            raise AssertionError("it ended without having entered")

    async def ends(self):
        self.may_end.set()
        return await self.task


async def entered(limit, count=1, **options):
    """So many items that have entered."""
    items = [Item(limit, **options) for _ in range(count)]
    for one in items:
        await one.starts()
    return items


async def error_of(awaitable):
    """What it raises."""
    try:
        await awaitable
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


async def all_is_given_back(server, *limits, at_once=True):
    """Close the limits; nothing is left at the server, nor any Task or waiter of theirs.

    at_once: False where the server was out of reach: then a session is forgotten when its lease ends.
    """
    for limit in limits:
        await limit.aclose()
    for limit in limits:
        stats = limit.stats()
        assert (stats.held, stats.waiting) == (0, 0)
    assert background() == [], background()
    if not at_once:
        assert server.total == 0, server.records
        await asyncio.sleep(server.lease)
        server.prune()
    assert server.records == {}, server.records


def background_tasks():
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("limit ")]


def background():
    """The names of the Tasks of limits that have not ended."""
    return [task.get_name() for task in background_tasks()]


async def background_ends():
    """Not by asking again and again: that looks at all Tasks that there are, also those that other tests have left."""
    while tasks := background_tasks():
        await asyncio.wait(tasks)
