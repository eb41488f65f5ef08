"""Scenarios in which allocations fail, and what must hold however many of them do.

A *row* is a number of allocations that fail one after the other, counted from where a scenario says so: `start` of them
succeed, the next `length` do not.  What a scenario needs is made before that.  After each row:

    - The call has ended with its result, with its own error or with a MemoryError, or not at all; with a CancelledError
      if a Task of it was lost, since its step or what wakes it had no memory.
    - When it has not, the caller is cancelled, then every Task, the keeper among them.  What goes on even then waits for
      something that asyncio has lost: a step of a Task, or the callback of a Future, for which call_soon() failed.
    - A coroutine that never began is closed; the slots of a semaphore have been given back.
    - Nothing was reported but errors of memory, and no warning came.
    - The next call works.
"""

import _testcapi
import asyncio
import collections
import contextvars
import functools
import gc
import inspect
import itertools
import os
import sys
import warnings

from scenarios import Gate, fails, forever, stubborn, turn, turns, value_after

# Python functions may fail and lose the exception.  On 3.12 that may look like their end.
EXCEPTIONS_GET_LOST = sys.version_info < (3, 14)
OUTCOMES_GET_LOST = (3, 12) <= sys.version_info < (3, 13)
# A scenario allocates less often than that.
MOST_ALLOCATIONS = 10_000
# By so many its number may differ from run to run.
MARGIN = 5


# What a row runs on ---------------------------------------------------------------------

run_in_context = contextvars.Context.run


class Loop(asyncio.BaseEventLoop):
    """Runs what is ready until nothing is, and needs no memory for that: so it loses no callback.

    No scenario waits for time or for files: what does not go on then never will.
    """

    row = None
    timers_are_soon = False  # or else they never come
    lets_generators_go = False  # to the event loop, which closes them if it comes to that

    def _asyncgen_finalizer_hook(self, agen):
        Loop.lets_generators_go = True
        super()._asyncgen_finalizer_hook(agen)

    def call_later(self, delay, callback, *args, context=None):
        if self.timers_are_soon:
            return self.call_soon(callback, *args, context=context)
        return super().call_later(delay, callback, *args, context=context)

    def _write_to_self(self):
        """It never sleeps. (Asynchronous generators that go call it as from another thread.)"""

    def _run_once(self):
        # On 3.12 a coroutine that fails asks for the frame from which it was called, and loses its error without memory for that.
        sys._getframe()
        ready = self._ready
        while ready and not self._stopping:
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context, callback, args = handle._context, handle._callback, handle._args
            handle = None
            try:
                if args:
                    (arg,) = args
                    run_in_context(context, callback, arg)
                else:
                    run_in_context(context, callback)
            except BaseException as error:
                try:
                    self.row.callback_errors.append(error)
                except MemoryError:
                    self.row.callbacks_failed = True  # of those, one more
            context = callback = args = arg = None
        if not ready:
            self._stopping = True
            if self.row is not None:
                self.row.ends()


def stop_failing(start, length):
    """Have allocations succeed again.  Return whether one has failed: then the next does, or else none of so many."""
    number = 0
    reached = True
    try:
        for number in range(start + length):
            bytearray(1)
    except MemoryError:
        reached = number == 0
    while True:
        try:
            _testcapi.remove_mem_hooks()
            return reached
        except MemoryError:
            pass


class Row:
    """One run of a scenario, and what it noticed."""

    def __init__(self, impl, loop, start, length):
        self.impl = impl
        self.loop = loop
        self.start = start  # None: everything succeeds
        self.length = length
        self.items = []  # coroutines that end, or are closed
        self.gates = []  # semaphores, and how many slots they should have in the end
        self.kept = []  # CPython loses the error that is being raised when an object with a __dict__ goes
        self.futures = []
        self.tasks = []
        self.called = False  # the function of ours has been reached
        self.may_leave_some = (
            False  # of its items to the caller, who has them, when it fails before it has taken them all
        )
        self.began = False
        self.ended = False
        self.was_reached = None  # by the number of allocations: has one failed?
        self.callback_errors = []
        self.callbacks_failed = False  # and there was no memory to say so
        self.reports = []
        self.unraisables = []
        self.warnings = []

    # For the scenarios

    def item(self, *args, of=None):
        coroutine = (value_after if of is None else of)(*args)
        self.items.append(coroutine)
        return coroutine

    def semaphore(self, slots=1, of=asyncio.Semaphore):
        semaphore = of(slots)
        semaphore._get_loop()  # takes a lock, and leaves it taken if memory runs out in the middle of that
        self.gates.append((semaphore, slots))
        return semaphore

    def own_semaphore(self, slots=1, kind="Semaphore"):
        semaphore = getattr(self.impl, kind)(slots)
        self.gates.append((semaphore, slots))
        return semaphore

    def future(self, result=None):
        """A Future that is done, or will be in the next turn of the loop if there is no result."""
        future = self.loop.create_future()
        self.futures.append(future)
        if result is None:
            self.loop.call_soon(lambda: future.done() or future.set_result("set"))
        else:
            future.set_result(result)
        return future

    def task(self, awaitable):
        """Someone else's Task."""

        async def awaits():
            return await awaitable

        task = self.loop.create_task(awaits())
        self.tasks.append(task)
        return task

    def begins(self):
        """From here on allocations are counted."""
        self.began = True
        if self.start is not None:
            _testcapi.set_nomemory(self.start, self.start + self.length)

    def begins_in_the_call(self):
        self.called = True
        self.begins()

    def call(self, function, *args, **kwargs):
        """Call a function of ours."""
        call = functools.partial(function, *args, **kwargs)
        self.begins()
        returned = call()
        self.called = True
        return returned

    # For the loop

    def ends(self):
        if not self.began or self.ended:
            return
        self.ended = True
        if self.start is not None:
            self.was_reached = stop_failing(self.start, self.length)


# Items ----------------------------------------------------------------------------------


async def fails_when_cancelled():
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        raise ValueError("noted") from None


async def raises_cancelled():
    raise asyncio.CancelledError("its own")


async def cancels_its_task(number=0):
    await turns(number)
    asyncio.current_task().cancel("its own")
    return "too late"


async def holds_out():
    """Makes do without memory, and cannot be closed then."""
    for _ in range(3):
        try:
            await turn()
        except MemoryError:
            await turn()
    return "held out"


async def interrupts(number=1):
    await turns(number)
    raise KeyboardInterrupt


async def looks_at_its_task():
    """Ask the Task what debuggers and logs ask."""
    await turn()
    task = asyncio.current_task()
    repr(task)
    coro = task.get_coro()
    return task.get_name()[:10], coro.__name__, coro.cr_running, task.get_context() is not None, len(task.get_stack())


class Awaitable:
    def __await__(self):
        yield
        return "awaited"


class Suppressing(Gate):
    async def __aexit__(self, *error):
        return True


class OwnSemaphore(asyncio.Semaphore):
    pass


# Scenarios ------------------------------------------------------------------------------

GROUPS = collections.defaultdict(dict)


def scenario(group):
    def add(function):
        GROUPS[group][function.__name__] = function
        return function

    return add


async def cancelled(row, awaitable, number=2):
    """Await it in a Task that is cancelled after some turns."""
    task = row.task(awaitable)
    await turns(number)
    row.begins_in_the_call()
    task.cancel("enough")
    return await task


def cancel_all(row):
    """What asyncio.run() does at its end."""
    for task in asyncio.all_tasks(row.loop):
        if task is not row.tasks[0]:
            task.cancel()


@scenario("gated_coro")
async def free(row):
    return await row.call(row.impl.gated_coro, row.semaphore(), row.item(1))


@scenario("gated_coro")
async def bounded(row):
    return await row.call(row.impl.gated_coro, row.semaphore(of=asyncio.BoundedSemaphore), row.item(1))


@scenario("gated_coro")
async def subclass(row):
    return await row.call(row.impl.gated_coro, row.semaphore(of=OwnSemaphore), row.item(1))


@scenario("gated_coro")
async def lock(row):
    lock = asyncio.Lock()
    lock._get_loop()
    return await row.call(row.impl.gated_coro, lock, row.item(1))


@scenario("gated_coro")
async def gate(row):
    return await row.call(row.impl.gated_coro, Gate(), row.item(1))


@scenario("gated_coro")
async def suppressing_gate(row):
    return await row.call(row.impl.gated_coro, Suppressing(), row.item(of=fails))


@scenario("gated_coro")
async def no_gate(row):
    return await row.call(row.impl.gated_coro, 5, row.item(1))


@scenario("gated_coro")
async def awaitable(row):
    return await row.call(row.impl.gated_coro, row.semaphore(), Awaitable())


@scenario("gated_coro")
async def not_awaitable(row):
    return await row.call(row.impl.gated_coro, row.semaphore(), 5)


@scenario("gated_coro")
async def failing(row):
    return await row.call(row.impl.gated_coro, row.semaphore(), row.item(of=fails))


@scenario("gated_coro")
async def contended(row):
    semaphore = row.semaphore()
    await semaphore.acquire()
    row.loop.call_soon(semaphore.release)
    return await row.call(row.impl.gated_coro, semaphore, row.item(1))


@scenario("gated_coro")
async def contended_by_its_like(row):
    semaphore = row.semaphore()
    tasks = [row.task(row.impl.gated_coro(semaphore, row.item(i))) for i in range(2)]
    row.begins_in_the_call()
    return [await task for task in tasks]


@scenario("gated_coro")
async def chain(row):
    semaphore = row.semaphore(3)
    inner = row.impl.gated_coro(semaphore, row.impl.gated_coro(semaphore, row.item(1)))
    return await row.call(row.impl.gated_coro, semaphore, inner)


@scenario("gated_coro")
async def chain_closed(row):
    semaphore = row.semaphore(3)
    coro = row.impl.gated_coro(semaphore, row.impl.gated_coro(semaphore, row.item(1)))
    row.begins_in_the_call()
    return coro.close()


@scenario("gated_coro")
async def chain_closed_in_the_item(row):
    semaphore = row.semaphore(3)
    coro = row.impl.gated_coro(semaphore, row.impl.gated_coro(semaphore, row.item(of=forever)))
    coro.send(None)
    row.begins_in_the_call()
    return coro.close()


@scenario("gated_coro")
async def chain_cancelled(row):
    semaphore = row.semaphore(3)
    return await cancelled(row, row.impl.gated_coro(semaphore, row.impl.gated_coro(semaphore, row.item(of=forever))))


@scenario("gated_coro")
async def chain_failing(row):
    semaphore = row.semaphore(3)
    return await row.call(row.impl.gated_coro, semaphore, row.impl.gated_coro(semaphore, row.item(of=fails)))


@scenario("gated_coro")
async def cancelled_in_the_item(row):
    return await cancelled(row, row.impl.gated_coro(row.semaphore(), row.item(of=forever)))


@scenario("gated_coro")
async def cancelled_in_the_queue(row):
    semaphore = row.semaphore()
    await semaphore.acquire()
    try:
        return await cancelled(row, row.impl.gated_coro(semaphore, row.item(1)))
    finally:
        semaphore.release()


@scenario("gated_coro")
async def closed_in_the_item(row):
    coro = row.impl.gated_coro(row.semaphore(), row.item(of=forever))
    coro.send(None)
    row.begins_in_the_call()
    return coro.close()


@scenario("gated_coro")
async def closed_in_the_queue(row):
    """release() has handed the slot over."""
    semaphore = row.semaphore()
    await semaphore.acquire()
    coro = row.impl.gated_coro(semaphore, row.item(1))
    coro.send(None)
    semaphore.release()
    row.begins_in_the_call()
    return coro.close()


@scenario("gather_with_concurrency")
async def a_limit(row):
    items = [row.item(i) for i in range(4)] + [row.item(i, 0) for i in range(3)]
    return await row.call(row.impl.gather_with_concurrency, 2, *items, Awaitable(), row.future("done"), row.future())


@scenario("gather_with_concurrency")
async def turns_are_counted(row):
    """A call as it really begins: the pass of the first turn in which items end only tells that the turn is over."""
    row.impl._set_full_turns(False)
    return await row.call(row.impl.gather_with_concurrency, 2, *[row.item(i, 1 + i % 2) for i in range(6)])


@scenario("gather_with_concurrency")
async def no_limit(row):
    items = [row.item(i, i % 2) for i in range(4)]
    return await row.call(row.impl.gather_with_concurrency, None, *items)


@scenario("gather_with_concurrency")
async def no_limit_and_futures(row):
    coro, task = row.item(1), row.task(value_after("task", 3))
    await turn()
    items = coro, row.future("done"), Awaitable(), coro, row.future(), row.item(2, 0), task
    return await row.call(row.impl.gather_with_concurrency, None, *items)


@scenario("gather_with_concurrency")
async def no_items(row):
    return await row.call(row.impl.gather_with_concurrency, 3)


@scenario("gather_with_concurrency")
async def nested(row):
    inner = [row.impl.gather_with_concurrency(1, row.item(i), row.item(i, 0)) for i in range(2)]
    return await row.call(row.impl.gather_with_concurrency, 1, *inner)


@scenario("gather_with_concurrency")
async def first_error(row):
    items = [row.item(1, 3), row.item(of=fails), row.item(2), row.item(3, 0), row.item(of=fails)]
    return await row.call(row.impl.gather_with_concurrency, 2, *items)


@scenario("gather_with_concurrency")
async def first_error_without_a_limit(row):
    items = [row.item(1, 3), row.item(of=fails), row.item(2), row.item(of=fails)]
    return await row.call(row.impl.gather_with_concurrency, None, *items)


@scenario("gather_with_concurrency")
async def an_item_raises_cancelled(row):
    items = [row.item(1), row.item(of=raises_cancelled), row.item(2)]
    return await row.call(row.impl.gather_with_concurrency, 2, *items)


@scenario("gather_with_concurrency")
async def an_item_cancels_its_task(row):
    items = [row.item(1), row.item(of=cancels_its_task), row.item(2)]
    return await row.call(row.impl.gather_with_concurrency, 1, *items)


@scenario("gather_with_concurrency")
async def an_item_interrupts(row):
    items = [row.item(1, 2), row.item(of=interrupts), row.item(2), row.item(3)]
    return await row.call(row.impl.gather_with_concurrency, 2, *items)


@scenario("gather_with_concurrency")
async def an_item_interrupts_at_once(row):
    items = [row.item(1, 2), row.item(0, of=interrupts), row.item(2), row.item(3)]
    return await row.call(row.impl.gather_with_concurrency, 2, *items)


@scenario("gather_with_concurrency")
async def an_item_is_not_awaitable(row):
    return await row.call(row.impl.gather_with_concurrency, 1, row.item(1), 5, row.item(2))


@scenario("gather_with_concurrency")
async def an_item_is_not_awaitable_without_a_limit(row):
    return await row.call(row.impl.gather_with_concurrency, None, row.item(1), 5, row.item(2))


@scenario("gather_with_concurrency")
async def an_item_is_given_twice(row):
    coro = row.item(1)
    return await row.call(row.impl.gather_with_concurrency, 1, coro, coro, row.item(2))


@scenario("gather_with_concurrency")
async def n_is_no_integer(row):
    return await row.call(row.impl.gather_with_concurrency, "2", row.item(1), row.item(2))


@scenario("gather_with_concurrency")
async def items_hold_out(row):
    return await row.call(row.impl.gather_with_concurrency, 2, *[row.item(of=holds_out) for _ in range(3)])


@scenario("gather_with_concurrency")
async def items_look_at_their_tasks(row):
    return await row.call(row.impl.gather_with_concurrency, 1, *[row.item(of=looks_at_its_task) for _ in range(2)])


@scenario("gather_with_concurrency")
async def the_caller_is_cancelled(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    return await cancelled(row, row.impl.gather_with_concurrency(2, *items))


@scenario("gather_with_concurrency")
async def the_caller_is_cancelled_at_once(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    return await cancelled(row, row.impl.gather_with_concurrency(2, *items), number=1)


@scenario("gather_with_concurrency")
async def the_caller_is_cancelled_without_a_limit(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.loop.create_future()]
    return await cancelled(row, row.impl.gather_with_concurrency(None, *items))


@scenario("gather_with_concurrency")
async def all_are_cancelled(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    task = row.task(row.impl.gather_with_concurrency(2, *items))
    await turns(2)
    row.begins_in_the_call()
    cancel_all(row)
    return await task


@scenario("gather_with_concurrency")
async def all_are_cancelled_after_an_error(row):
    items = [row.item(0, of=fails), row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    try:
        await row.call(row.impl.gather_with_concurrency, 2, *items)
    finally:
        cancel_all(row)


async def begun_by_hand(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    coro = row.impl.gather_with_concurrency(2, *items)
    coro.send(None)
    await turns(2)
    return coro


@scenario("gather_with_concurrency")
async def closed(row):
    coro = await begun_by_hand(row)
    row.begins_in_the_call()
    return coro.close()


@scenario("gather_with_concurrency")
async def thrown_into(row):
    coro = await begun_by_hand(row)
    row.begins_in_the_call()
    coro.throw(ValueError("expected"))


@scenario("gather_with_concurrency")
async def dropped(row):
    coro = await begun_by_hand(row)
    row.begins_in_the_call()
    del coro


@scenario("gather_with_concurrency")
async def closed_before_it_began(row):
    coro = row.impl.gather_with_concurrency(2, row.item(1), row.item(2))
    row.begins_in_the_call()
    return coro.close()


@scenario("gather")
async def limited(row):
    coro = row.item(0)
    items = coro, row.item(1), coro, row.item(2, 0), row.future("done"), row.future()
    return await row.call(row.impl.gather, *items, limit=2)


@scenario("gather")
async def unlimited(row):
    coro = row.item(1)
    items = coro, row.future("done"), Awaitable(), coro, row.future(), row.item(2, 0)
    return await row.call(row.impl.gather, *items)


@scenario("gather")
async def nothing(row):
    return await row.call(row.impl.gather)


@scenario("gather")
async def a_semaphore(row):
    items = [row.item(i, i % 2) for i in range(4)]
    return await row.call(row.impl.gather, *items, Awaitable(), limit=row.semaphore(2))


@scenario("gather")
async def a_contended_semaphore(row):
    semaphore = row.semaphore()
    await semaphore.acquire()
    row.loop.call_soon(semaphore.release)
    return await row.call(row.impl.gather, *[row.item(i) for i in range(3)], limit=semaphore)


@scenario("gather")
async def a_gate(row):
    return await row.call(row.impl.gather, *[row.item(i) for i in range(3)], limit=Gate())


@scenario("gather")
async def a_semaphore_and_an_error(row):
    items = [row.item(1, 3), row.item(of=fails), row.item(2)]
    return await row.call(row.impl.gather, *items, limit=row.semaphore(2))


@scenario("gather")
async def cancelled_at_a_semaphore(row):
    items = [row.item(of=forever), row.item(1), row.item(2)]
    future = row.impl.gather(*items, limit=row.semaphore())
    await turns(3)
    row.begins_in_the_call()
    future.cancel("enough")
    return await future


@scenario("gather")
async def a_row(row):
    items = [row.item(i, i % 2) for i in range(4)]
    return await row.call(row.impl.gather, *items, limit=[row.semaphore(2), 3, row.semaphore()])


@scenario("gather")
async def a_row_of_other_gates(row):
    return await row.call(row.impl.gather, row.item(1), row.item(2), limit=(Gate(), row.semaphore(), Gate()))


@scenario("gather")
async def a_row_and_an_error(row):
    items = [row.item(1, 3), row.item(of=fails), row.item(2)]
    return await row.call(row.impl.gather, *items, limit=(row.semaphore(2), row.semaphore(2)))


@scenario("gather")
async def cancelled_in_a_row(row):
    """One runs; one holds the first semaphore, and waits for the second."""
    items = [row.item(of=forever), row.item(1), row.item(2)]
    future = row.impl.gather(*items, limit=(row.semaphore(2), row.semaphore()))
    await turns(3)
    row.begins_in_the_call()
    future.cancel("enough")
    return await future


@scenario("gather")
async def exceptions_are_returned(row):
    items = [row.item(1), row.item(of=fails), row.item(of=raises_cancelled), row.item(2, 0)]
    return await row.call(row.impl.gather, *items, limit=2, return_exceptions=True)


@scenario("gather")
async def exceptions_of_futures_are_returned(row):
    failed, gone = row.loop.create_future(), row.loop.create_future()
    failed.set_exception(ValueError("a future's"))
    failed.exception()
    gone.cancel("gone")
    items = [row.item(1), row.item(of=fails), failed, gone, row.item(2, 0)]
    return await row.call(row.impl.gather, *items, return_exceptions=True)


@scenario("gather")
async def an_error_cancels(row):
    coro = row.item(of=fails)
    items = row.item(of=forever), row.item(of=fails_when_cancelled), coro, coro, row.item(2), row.item(3)
    return await row.call(row.impl.gather, *items, limit=3, cancel_on_error=True)


@scenario("gather")
async def the_future_is_kept(row):
    future = row.call(row.impl.gather, *[row.item(i, 2) for i in range(5)], limit=2)
    await turns(2)
    return await future


@scenario("gather")
async def the_future_was_kept(row):
    """The keeper waits already."""
    future = row.impl.gather(*[row.item(i, 2) for i in range(5)], limit=2)
    await turns(2)
    row.begins_in_the_call()
    return await future


@scenario("gather")
async def the_future_is_cancelled(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    future = row.impl.gather(*items, limit=2)
    await turns(2)
    row.begins_in_the_call()
    future.cancel("enough")
    return await future


@scenario("gather")
async def the_future_is_cancelled_at_once(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    future = row.impl.gather(*items, limit=2)
    row.begins_in_the_call()
    future.cancel("enough")
    return await future


@scenario("gather")
async def the_future_is_set_by_somebody_else(row):
    future = row.impl.gather(*[row.item(i, 2) for i in range(5)], limit=2)
    await turns(2)
    row.begins_in_the_call()
    future.set_result("theirs")
    return await future


@scenario("gather")
async def the_keeper_is_cancelled(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    future = row.impl.gather(*items, limit=2)
    await turns(2)
    row.begins_in_the_call()
    cancel_all(row)
    return await future


@scenario("gather")
async def the_keeper_is_cancelled_before_it_begins(row):
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    future = row.impl.gather(*items, limit=2)
    row.begins_in_the_call()
    cancel_all(row)
    return await future


@scenario("gather")
async def a_limit_is_refused(row):
    return await row.call(row.impl.gather, row.item(1), row.item(2), limit=0)


@scenario("gather")
async def an_item_is_unhashable(row):
    return await row.call(row.impl.gather, row.item(1), [], limit=2)


@scenario("gather")
async def an_argument_is_unknown(row):
    return await row.call(row.impl.gather, row.item(1), limits=2)


@scenario("run_all")
async def a_list(row):
    return await row.call(row.impl.run_all, [functools.partial(value_after, i) for i in range(4)], limit=2)


@scenario("run_all")
async def a_generator(row):
    functions = (functools.partial(value_after, i, i % 2) for i in range(4))
    return await row.call(row.impl.run_all, functions, limit=2)


@scenario("run_all")
async def turns_are_counted_with_a_generator(row):
    row.impl._set_full_turns(False)
    functions = (functools.partial(value_after, i, 1 + i % 2) for i in range(6))
    return await row.call(row.impl.run_all, functions, limit=3)


@scenario("run_all")
async def no_limit_at_all(row):
    return await row.call(row.impl.run_all, [functools.partial(value_after, i) for i in range(3)])


@scenario("run_all")
async def a_semaphore_as_limit(row):
    functions = [functools.partial(value_after, i) for i in range(3)]
    return await row.call(row.impl.run_all, functions, limit=row.semaphore())


@scenario("run_all")
async def an_error(row):
    functions = [forever, fails, functools.partial(value_after, 1)]
    return await row.call(row.impl.run_all, functions, limit=2)


@scenario("run_all")
async def all_exceptions_are_returned(row):
    functions = [functools.partial(value_after, 1), len, fails, functools.partial(value_after, 2)]
    return await row.call(row.impl.run_all, functions, limit=1, return_exceptions=True)


@scenario("run_all")
async def the_source_fails(row):
    def source():
        yield functools.partial(value_after, 1)
        raise ValueError("expected")

    return await row.call(row.impl.run_all, source(), limit=1)


@scenario("run_all")
async def the_source_is_no_iterable(row):
    return await row.call(row.impl.run_all, 5, limit=1)


@scenario("run_all")
async def a_caller_is_cancelled(row):
    functions = iter([forever, functools.partial(stubborn, 5), functools.partial(value_after, 1)])
    return await cancelled(row, row.impl.run_all(functions, limit=2))


@scenario("run_all")
async def constrained_execution(row):
    functions = [functools.partial(value_after, 1, 3), fails, functools.partial(value_after, 2), value_after]
    return await row.call(row.impl.constrained_execution, functions, 2)


@scenario("run_all")
async def constrained_execution_ends(row):
    functions = [functools.partial(value_after, i, i % 2) for i in range(4)]
    return await row.call(row.impl.constrained_execution, functions, 2)


async def functions_in_turns(number=0):
    for function in (value_after, functools.partial(value_after, 1, 0), value_after):
        await turns(number)
        yield function


@scenario("run_all")
async def an_async_source(row):
    return await row.call(row.impl.run_all, functions_in_turns(), limit=2)


@scenario("run_all")
async def an_async_source_that_suspends(row):
    return await row.call(row.impl.run_all, functions_in_turns(1), limit=2)


@scenario("run_all")
async def an_async_source_and_an_error(row):
    async def source():
        for function in (functools.partial(value_after, 1, 9), fails, value_after):
            yield function

    return await row.call(row.impl.run_all, source(), limit=2)


@scenario("run_all")
async def an_async_source_and_a_cancellation(row):
    return await cancelled(row, row.impl.run_all(functions_in_turns(3), limit=1))


# Streams


async def all_of(stream):
    results = []
    async for result in stream:
        results.append(result)
    return results


async def up_to(stop, number=0, cleanup=0):
    """An async source."""
    try:
        for value in range(stop):
            await turns(number)
            yield value
    finally:
        await turns(cleanup)


class Numbers:
    """An async iterator that is no generator."""

    def __init__(self, stop):
        self.numbers = iter(range(stop))

    def __aiter__(self):
        return self

    async def __anext__(self):
        await turn()
        for number in self.numbers:
            return number
        raise StopAsyncIteration


async def after_so_many_turns(number):
    await turns(number)
    return number


async def fails_at_two(number):
    await turns(1)
    if number == 2:
        raise ValueError("expected")
    return number


@scenario("streams")
async def in_order(row):
    return await all_of(row.call(row.impl.amap, after_so_many_turns, [3, 0, 1, 2, 0], limit=2))


@scenario("streams")
async def in_order_without_a_limit(row):
    return await all_of(row.call(row.impl.amap, after_so_many_turns, iter([3, 0, 1, 2, 0]), buffersize=3))


@scenario("streams")
async def out_of_order(row):
    return sorted(await all_of(row.call(row.impl.amap, after_so_many_turns, (2, 0, 1, 0), limit=2, ordered=False)))


@scenario("streams")
async def of_a_generator(row):
    return await all_of(row.call(row.impl.amap, value_after, (number for number in range(4)), limit=2))


@scenario("streams")
async def of_an_async_generator(row):
    return await all_of(row.call(row.impl.amap, after_so_many_turns, up_to(4), limit=2))


@scenario("streams")
async def of_an_async_generator_that_suspends(row):
    return await all_of(row.call(row.impl.amap, after_so_many_turns, up_to(3, 1, 1), limit=2))


@scenario("streams")
async def of_an_async_iterator(row):
    return await all_of(row.call(row.impl.amap, after_so_many_turns, Numbers(3), limit=1, buffersize=0))


@scenario("streams")
async def with_a_gate(row):
    return await all_of(row.call(row.impl.amap, value_after, range(3), limit=row.semaphore()))


@scenario("streams")
async def with_limits_in_a_row(row):
    return await all_of(row.call(row.impl.amap, value_after, range(3), limit=(row.semaphore(2), 2, row.semaphore())))


@scenario("streams")
async def of_another_stream(row):
    inner = row.impl.amap(value_after, up_to(3), limit=2)
    return await all_of(row.call(row.impl.amap, value_after, inner, limit=1))


@scenario("streams")
async def awaited(row):
    return await row.call(row.impl.amap, after_so_many_turns, [2, 0, 1], limit=2)


@scenario("streams")
async def awaited_of_an_async_generator(row):
    return await row.call(row.impl.amap, after_so_many_turns, up_to(3, 1), limit=2)


@scenario("streams")
async def an_item_fails(row):
    return await all_of(row.call(row.impl.amap, fails_at_two, range(5), limit=2))


@scenario("streams")
async def an_item_fails_out_of_order(row):
    return await all_of(row.call(row.impl.amap, fails_at_two, up_to(5), limit=2, ordered=False))


@scenario("streams")
async def an_item_fails_among_the_results(row):
    return await all_of(row.call(row.impl.amap, fails_at_two, range(4), limit=2, return_exceptions=True))


@scenario("streams")
async def an_async_source_fails(row):
    async def source():
        yield 1
        await turn()
        raise ValueError("expected")

    return await all_of(row.call(row.impl.amap, value_after, source(), limit=2))


@scenario("streams")
async def an_async_source_fails_while_it_is_closed(row):
    async def source():
        try:
            yield 1
            yield 2
        finally:
            await turn()
            raise ValueError("expected")

    try:
        async with row.call(row.impl.amap, value_after, source(), limit=1, buffersize=0) as stream:
            await anext(stream)
    except ValueError:
        return "closed"
    assert row.start is not None  # the error is a note on one of memory, which the block was too early for
    return "closed"


@scenario("streams")
async def left_by_a_block(row):
    async with row.call(row.impl.amap, after_so_many_turns, up_to(9, 1, 1), limit=2) as stream:
        async for result in stream:
            return result


@scenario("streams")
async def left_and_dropped(row):
    async for result in row.call(row.impl.amap, after_so_many_turns, up_to(9, 1, 1), limit=2):
        break
    await turns(9)
    return result


@scenario("streams")
async def left_and_dropped_with_a_generator(row):
    async for result in row.call(row.impl.amap, after_so_many_turns, (number for number in range(9)), limit=2):
        break
    await turns(9)
    return result


@scenario("streams")
async def a_stream_is_closed(row):
    stream = row.impl.amap(after_so_many_turns, up_to(9), limit=3)
    results = [await anext(stream), await anext(stream)]
    row.begins_in_the_call()
    await stream.aclose()
    return results


@scenario("streams")
async def a_stream_is_closed_unused(row):
    return await row.call(row.impl.amap(value_after, up_to(9), limit=3).aclose)


@scenario("streams")
async def a_stream_is_dropped(row):
    stream = row.impl.amap(after_so_many_turns, up_to(9), limit=3)
    results = [await anext(stream), await anext(stream)]
    row.begins_in_the_call()
    del stream
    await turns(9)
    return results


async def next_of(stream):
    return await anext(stream)


@scenario("streams")
async def a_consumer_is_cancelled(row):
    return await cancelled(row, next_of(row.impl.amap(value_after, up_to(9, 5), limit=3)))


@scenario("streams")
async def a_consumer_is_cancelled_and_another_asks(row):
    """Nothing is lost."""
    stream = row.impl.amap(lambda number: value_after(number, 4), range(3), limit=3)
    first = row.task(next_of(stream))
    await turns(3)
    row.begins_in_the_call()
    first.cancel()
    results = await all_of(stream)
    return results


@scenario("streams")
async def several_consumers(row):
    stream = row.impl.amap(value_after, range(5), limit=2)
    tasks = [row.task(next_of(stream)) for _ in range(3)]
    row.begins_in_the_call()
    return [await task for task in tasks]


@scenario("streams")
async def everything_is_cancelled(row):
    stream = row.impl.amap(lambda number: value_after(number, 20), up_to(9), limit=2)
    task = row.task(next_of(stream))
    await turns(3)
    row.begins_in_the_call()
    cancel_all(row)
    return await task


@scenario("task factory")
async def a_factory_and_a_stream(row):
    row.loop.set_task_factory(own_factory)
    return await all_of(row.call(row.impl.amap, after_so_many_turns, up_to(4, 1), limit=2))


async def come_to(row, iterator):
    """How many are handed over: any of them may have met an error of memory, and be done earlier than without that."""
    number = 0
    while True:
        try:
            future = await anext(iterator)
        except StopAsyncIteration:
            return number
        row.called = True
        if future.exception() is None:
            future.result()
        number += 1
        future = None


async def completed(row, aws, **options):
    row.may_leave_some = True
    row.begins()
    return await come_to(row, row.impl.as_completed(aws, **options))


@scenario("as_completed")
async def by_async_for(row):
    aws = [row.item(1, 3), row.item(2, 1), row.future(), row.item(3, 1)]
    return await completed(row, aws, limit=2, timeout=60)


@scenario("as_completed")
async def by_async_for_without_a_limit(row):
    coro = row.item(1, 3)
    return await completed(row, (coro, row.item(2), row.future("f"), coro, Awaitable()))


@scenario("as_completed")
async def by_a_plain_loop(row):
    aws = {row.item(1): 1, row.future(): 2, row.item(3, 3): 3}
    row.may_leave_some = True
    row.begins()
    results = []
    for coroutine in row.impl.as_completed(aws, limit=1, timeout=60):
        row.called = True
        results.append(str(await coroutine))
    return sorted(results)


@scenario("as_completed")
async def all_asked_first(row):
    aws = [row.item(index, 1 + index) for index in range(3)]
    row.may_leave_some = True
    row.begins()
    asked = list(row.impl.as_completed(aws))
    row.called = True
    return sorted([await coroutine for coroutine in asked])


@scenario("as_completed")
async def drawn_lazily(row):
    aws = (row.item(index, 1 + index) for index in range(4))
    return await completed(row, aws, limit=2)


@scenario("as_completed")
async def drawn_from_an_async_generator(row):
    async def source():
        for index in range(3):
            await turn()
            yield value_after(index)  # which gets lost if there is no memory to hand it on

    return await completed(row, source(), limit=2)


@scenario("as_completed")
async def behind_a_gate(row):
    aws = [row.item(1), row.future(), row.item(2)]
    return await completed(row, aws, limit=row.semaphore())


@scenario("as_completed")
async def a_refused_one(row):
    return await completed(row, [row.item(1), 5, row.item(2)])


@scenario("as_completed")
async def closed_early(row):
    iterator = row.impl.as_completed(
        [row.item(1), row.item(of=forever), row.loop.create_future(), row.item(2)], limit=3
    )
    result = (await anext(iterator)).result()
    row.begins_in_the_call()
    await iterator.aclose()
    return result


@scenario("as_completed")
async def closed_unused(row):
    iterator = row.impl.as_completed([row.item(1), row.item(2)])
    row.may_leave_some = True
    row.begins()
    await iterator.aclose()
    row.called = True


@scenario("as_completed")
async def dropped_early(row):
    iterator = row.impl.as_completed(
        [row.item(1), row.item(of=forever), row.loop.create_future(), row.item(2)], limit=3
    )
    result = (await anext(iterator)).result()
    row.begins_in_the_call()
    del iterator
    await turns(9)
    return result


@scenario("as_completed")
async def one_that_waits_is_cancelled(row):
    """It loses nothing; it gets what it waits for if its Task could not be cancelled, and waits if asyncio has lost that."""
    iterator = row.impl.as_completed([row.item(1, 9), row.item(2, 9)])
    first = row.task(next(iterator))
    await turns(3)
    row.begins_in_the_call()
    first.cancel()
    number = await come_to(row, iterator)
    waits = state_of(first.get_coro()) != inspect.CORO_CLOSED  # also if the Task has ended for lack of memory
    return number + (waits or (not first.cancelled() and first.exception() is None))


@scenario("as_completed")
async def time_is_up(row):
    aws = [row.item(1, 0), row.item(of=forever), row.loop.create_future(), row.item(5, of=stubborn), row.item(2)]
    iterator = row.impl.as_completed(aws, limit=4, timeout=60)
    await anext(iterator)
    (timer,) = row.loop._scheduled
    row.begins_in_the_call()
    row.loop._ready.append(timer)
    try:
        return await come_to(row, iterator)
    except TimeoutError:
        return "time is up"


@scenario("streams")
async def looked_at(row):
    stream = row.impl.amap(value_after, range(5), limit=2)
    await anext(stream)
    row.begins_in_the_call()
    return repr(stream)[:30]


class Told:
    """A bar: its sum never goes beyond what has ended."""

    def __init__(self, most, fails_at=None):
        self.sum = 0
        self.most = most
        self.fails_at = fails_at

    def update(self, number):
        self.sum += number
        assert 0 < number <= self.sum <= self.most
        if self.fails_at is not None and self.sum >= self.fails_at:
            raise ValueError("expected")


def bar(row, most, *, timers_are_soon=False, fails_at=None):
    """A bar, whose update() is there already."""
    row.loop.timers_are_soon = timers_are_soon
    return Told(most, fails_at).update


def told_all(result, tell):
    """What a call that has ended well has told is exact."""
    assert tell.__self__.sum == tell.__self__.most
    return result


@scenario("gather")
async def told_of_gather(row):
    tell = bar(row, 4)
    items = [row.item(number % 2) for number in range(4)]
    result = await row.call(row.impl.gather, *items, limit=2, progress=tell)
    return told_all(result, tell)


@scenario("progress")
async def told_of_run_all(row):
    tell = bar(row, 4)
    result = await row.call(row.impl.run_all, [value_after] * 4, limit=2, progress=tell)
    return told_all(result, tell)


@scenario("progress")
async def told_of_run_all_as_it_goes_on(row):
    tell = bar(row, 4, timers_are_soon=True)
    result = await row.call(row.impl.run_all, [value_after] * 4, limit=1, progress=tell)
    return told_all(result, tell)


@scenario("progress")
async def told_of_a_stream(row):
    tell = bar(row, 5)
    result = await all_of(row.call(row.impl.amap, after_so_many_turns, [3, 0, 1, 2, 0], limit=2, progress=tell))
    return told_all(result, tell)


@scenario("progress")
async def told_of_a_stream_as_it_goes_on(row):
    tell = bar(row, 4, timers_are_soon=True)
    result = await all_of(row.call(row.impl.amap, after_so_many_turns, up_to(4, 1), limit=2, progress=tell))
    return told_all(result, tell)


@scenario("progress")
async def told_of_a_stream_that_is_left(row):
    tell = bar(row, 9, timers_are_soon=True)
    async with row.call(row.impl.amap, after_so_many_turns, up_to(9, 1, 1), limit=2, progress=tell) as stream:
        async for result in stream:
            return result


@scenario("progress")
async def told_of_a_stream_that_is_dropped(row):
    tell = bar(row, 9)
    async for result in row.call(row.impl.amap, after_so_many_turns, up_to(9, 1, 1), limit=2, progress=tell):
        break
    await turns(9)
    return result


@scenario("progress")
async def told_of_an_error(row):
    tell = bar(row, 5)
    return await all_of(row.call(row.impl.amap, fails_at_two, range(5), limit=2, progress=tell))


@scenario("progress")
async def told_of_a_cancelled_call(row):
    tell = bar(row, 4)
    return await cancelled(row, row.impl.run_all([forever] * 4, limit=2, progress=tell))


@scenario("progress")
async def the_callback_fails(row):
    tell = bar(row, 4, timers_are_soon=True, fails_at=1)
    return await row.call(row.impl.run_all, [value_after] * 4, limit=1, progress=tell)


@scenario("progress")
async def the_callback_fails_in_the_end(row):
    tell = bar(row, 4, fails_at=4)
    return await all_of(row.call(row.impl.amap, value_after, range(4), limit=2, progress=tell))


@scenario("gather")
async def the_callback_fails_after_an_error(row):
    tell = bar(row, 4, fails_at=1)
    return await row.call(row.impl.gather, row.item(1), row.item(of=fails), progress=tell)


@scenario("gather")
async def told_of_gather_whose_items_go_on(row):
    tell = bar(row, 3, timers_are_soon=True)
    items = [row.item(of=fails), row.item(5), row.item(6)]
    try:
        return await row.call(row.impl.gather, *items, limit=2, progress=tell)
    finally:
        await turns(9)


def own_factory(loop, coro, **kwargs):
    return asyncio.Task(coro, loop=loop, **kwargs)


@scenario("task factory")
async def a_factory(row):
    row.loop.set_task_factory(own_factory)
    return await row.call(row.impl.gather_with_concurrency, 2, *[row.item(i, i % 2) for i in range(4)])


@scenario("task factory")
async def a_factory_without_a_limit(row):
    row.loop.set_task_factory(own_factory)
    return await row.call(row.impl.gather_with_concurrency, None, *[row.item(i, i % 2) for i in range(4)])


@scenario("task factory")
async def an_eager_factory(row):
    row.loop.set_task_factory(getattr(asyncio, "eager_task_factory", own_factory))
    return await row.call(row.impl.gather_with_concurrency, 2, *[row.item(i, i % 2) for i in range(4)])


@scenario("task factory")
async def a_factory_and_a_row(row):
    row.loop.set_task_factory(own_factory)
    items = [row.item(i, i % 2) for i in range(3)]
    return await row.call(row.impl.gather, *items, limit=(2, row.semaphore(2), row.semaphore()))


@scenario("task factory")
async def a_factory_and_an_error(row):
    row.loop.set_task_factory(own_factory)
    items = [row.item(1, 3), row.item(of=fails), row.item(2), row.item(3)]
    return await row.call(row.impl.gather, *items, limit=2)


@scenario("task factory")
async def a_factory_and_a_cancellation(row):
    row.loop.set_task_factory(own_factory)
    items = [row.item(of=forever), row.item(5, of=stubborn), row.item(1), row.item(2)]
    return await cancelled(row, row.impl.gather_with_concurrency(2, *items))


@scenario("slices")
async def of_starting(row):
    """Each reading of the clock is the end of a slice."""
    row.impl._set_clock(functools.partial(next, map(float, itertools.count())))
    return await row.call(row.impl.gather_with_concurrency, 1, *[row.item(i, 0) for i in range(4)])


@scenario("slices")
async def of_closing(row):
    row.impl._set_clock(functools.partial(next, itertools.cycle([0.0, 1.0, 2.0])))
    items = [row.item(of=forever)] + [row.item(i) for i in range(4)]
    return await cancelled(row, row.impl.gather_with_concurrency(1, *items))


@scenario("slices")
async def of_closing_for_the_keeper(row):
    row.impl._set_clock(functools.partial(next, itertools.cycle([0.0, 1.0, 2.0])))
    items = [row.item(of=forever)] + [row.item(i) for i in range(4)]
    future = row.impl.gather(*items, limit=1)
    await turns(2)
    row.begins_in_the_call()
    cancel_all(row)
    return await future


# Semaphores of ours: what `async with` around a body loses without memory is CPython's, which then makes no coroutine to leave it.


async def slot_for_a_turn(semaphore, number=1):
    await semaphore.acquire()
    try:
        await turns(number)
    finally:
        semaphore.release()
    return number


async def block_for_a_turn(semaphore):
    async with semaphore:
        await turn()


def taken(row, slots=1, kind="Semaphore"):
    """One of ours all of whose slots are taken, and given back in the next turn."""
    semaphore = row.own_semaphore(slots, kind)
    semaphore._value = 0
    for _ in range(slots):
        row.loop.call_soon(semaphore.release)
    return semaphore


@scenario("semaphore")
async def is_made(row):
    kinds = row.impl.Semaphore, row.impl.BoundedSemaphore
    row.begins_in_the_call()
    return [
        (type(semaphore) is kind, semaphore.limit, repr(semaphore)[-20:]) for kind in kinds for semaphore in [kind(3)]
    ]


@scenario("semaphore")
async def is_made_wrongly(row):
    return row.call(row.impl.Semaphore, -1)


@scenario("semaphore")
async def is_reduced(row):
    """What copies ask for. (What they make of it may crash without memory, as plain Python code.)"""
    semaphore = row.own_semaphore(3)
    semaphore.note = "its own"
    row.begins_in_the_call()
    return str(semaphore.__reduce_ex__(2)[1:])[-60:]


@scenario("semaphore")
async def a_free_slot(row):
    semaphore = row.own_semaphore(2)
    row.begins_in_the_call()
    return [await slot_for_a_turn(semaphore, number) for number in range(3)]


@scenario("semaphore")
async def a_free_block(row):
    semaphore = row.impl.Semaphore(2)
    row.kept.append(semaphore)
    row.begins_in_the_call()
    for _ in range(2):
        await block_for_a_turn(semaphore)


@scenario("semaphore")
async def a_taken_slot(row):
    semaphore = taken(row)
    row.begins_in_the_call()
    return await slot_for_a_turn(semaphore)


@scenario("semaphore")
async def a_taken_block(row):
    semaphore = row.impl.Semaphore(0)
    row.kept.append(semaphore)
    row.loop.call_soon(semaphore.release)
    row.begins_in_the_call()
    await block_for_a_turn(semaphore)


@scenario("semaphore")
async def several_wait(row):
    semaphore = taken(row, 2)
    tasks = [row.task(slot_for_a_turn(semaphore, number)) for number in range(4)]
    await turn()
    row.begins_in_the_call()
    return [await task for task in tasks]


@scenario("semaphore")
async def released_too_often(row):
    semaphore = row.own_semaphore(1, "BoundedSemaphore")
    return row.call(semaphore.release)


@scenario("semaphore")
async def released_for_many(row):
    semaphore = row.own_semaphore(3)
    semaphore._value = 0
    tasks = [row.task(slot_for_a_turn(semaphore, number)) for number in range(3)]
    three_times = iter((1, 2, 3))
    await turns(2)
    row.begins_in_the_call()
    for _ in three_times:
        try:
            semaphore.release()
        except MemoryError:  # to whom it goes is not told, and the slot is back
            pass
    return [await task for task in tasks]


@scenario("semaphore")
async def waiting_is_cancelled(row):
    semaphore = row.own_semaphore()
    await semaphore.acquire()
    try:
        return await cancelled(row, slot_for_a_turn(semaphore))
    finally:
        semaphore.release()


@scenario("semaphore")
async def handed_over_and_cancelled(row):
    semaphore = row.own_semaphore()
    await semaphore.acquire()
    task, other = row.task(slot_for_a_turn(semaphore)), row.task(slot_for_a_turn(semaphore, 2))
    await turns(2)
    semaphore.release()
    row.begins_in_the_call()
    task.cancel()
    return await other


@scenario("semaphore")
async def handed_over_and_closed(row):
    semaphore = row.own_semaphore()
    await semaphore.acquire()
    coro = semaphore.acquire()
    coro.send(None)
    semaphore.release()
    row.begins_in_the_call()
    return coro.close()


@scenario("semaphore")
async def waiting_is_thrown_into(row):
    semaphore = row.own_semaphore()
    await semaphore.acquire()
    coro = semaphore.acquire()
    coro.send(None)
    semaphore.release()
    row.begins_in_the_call()
    return coro.throw(ValueError("expected"))


@scenario("semaphore")
async def its_limit_is_raised(row):
    semaphore = row.own_semaphore(3)
    semaphore.limit = 0
    tasks = [row.task(slot_for_a_turn(semaphore, number)) for number in range(3)]
    await turns(2)
    row.begins_in_the_call()
    try:
        semaphore.limit = 3
    except MemoryError:
        pass
    return semaphore.limit, [await task for task in tasks]


@scenario("semaphore")
async def its_limit_goes_up_and_down(row):
    semaphore = row.own_semaphore(1)
    row.begins_in_the_call()
    for limit in (5, 0, 2**40, 1):
        semaphore.limit = limit
    return semaphore.limit, semaphore._value


@scenario("semaphore")
async def its_queue_is_read(row):
    semaphore = taken(row)
    tasks = [row.task(slot_for_a_turn(semaphore, number)) for number in range(3)]
    await turn()
    row.begins_in_the_call()
    length = len(semaphore._waiters)
    return length, [await task for task in tasks]


@scenario("semaphore")
async def others_stand_in_its_queue(row):
    semaphore = taken(row)
    tasks = [row.task(slot_for_a_turn(semaphore, number)) for number in range(2)]
    await turn()
    waiter = row.loop.create_future()
    semaphore._waiters.append(waiter)
    row.begins_in_the_call()
    results = [await task for task in tasks]
    semaphore._waiters = None
    return results


@scenario("semaphore")
async def gated_by_it(row):
    semaphore = taken(row)
    tasks = [row.task(row.impl.gated_coro(semaphore, row.item(number))) for number in range(3)]
    row.begins_in_the_call()
    return [await task for task in tasks]


@scenario("semaphore")
async def gated_by_it_and_closed(row):
    semaphore = row.own_semaphore()
    await semaphore.acquire()
    coro = row.impl.gated_coro(semaphore, row.item(1))
    coro.send(None)
    semaphore.release()
    row.begins_in_the_call()
    return coro.close()


@scenario("semaphore as a limit")
async def of_a_gather(row):
    items = [row.item(number, number % 3) for number in range(6)]
    return await row.call(row.impl.gather, *items, limit=row.own_semaphore(2))


@scenario("semaphore as a limit")
async def of_a_gather_that_waits(row):
    items = [row.item(number, number % 3) for number in range(4)]
    return await row.call(row.impl.gather, *items, limit=taken(row, 2))


@scenario("semaphore as a limit")
async def first_in_a_row(row):
    items = [row.item(number, number % 3) for number in range(4)]
    return await row.call(row.impl.gather, *items, limit=(taken(row, 2), 3, row.semaphore()))


@scenario("semaphore as a limit")
async def second_in_a_row(row):
    items = [row.item(number, number % 3) for number in range(4)]
    return await row.call(row.impl.gather, *items, limit=(row.semaphore(3), taken(row, 1)))


@scenario("semaphore as a limit")
async def of_callables(row):
    functions = iter([lambda number=number: row.item(number, number % 2) for number in range(4)])
    return await row.call(row.impl.run_all, functions, limit=taken(row))


@scenario("semaphore as a limit")
async def of_a_stream(row):
    return await all_of(row.call(row.impl.amap, value_after, range(4), limit=taken(row, 2)))


@scenario("semaphore as a limit")
async def of_a_stream_over_an_async_source(row):
    return await all_of(row.call(row.impl.amap, value_after, up_to(3), limit=taken(row)))


@scenario("semaphore as a limit")
async def of_as_completed(row):
    return await completed(row, [row.item(number, 1) for number in range(3)], limit=taken(row))


@scenario("semaphore as a limit")
async def shared_by_two_calls_and_a_task(row):
    semaphore = row.own_semaphore()
    calls = [row.impl.gather(*[row.item(number) for number in range(2)], limit=semaphore) for _ in range(2)]
    task = row.task(slot_for_a_turn(semaphore))
    row.begins_in_the_call()
    return [await call for call in calls], await task


@scenario("semaphore as a limit")
async def raised_meanwhile(row):
    semaphore = row.own_semaphore(3)
    semaphore.limit = 0
    future = row.impl.gather(*[row.item(number) for number in range(4)], limit=semaphore)
    await turns(2)
    row.begins_in_the_call()
    try:
        semaphore.limit = 3
    except MemoryError:
        pass
    return semaphore.limit, await future


@scenario("semaphore as a limit")
async def lowered_meanwhile(row):
    semaphore = row.own_semaphore(1)
    semaphore.limit = 3
    future = row.impl.gather(*[row.item(number) for number in range(5)], limit=semaphore)
    await turns(1)
    row.begins_in_the_call()
    semaphore.limit = 1
    return await future


@scenario("semaphore as a limit")
async def cancelled_in_its_queue(row):
    semaphore = row.own_semaphore()
    await semaphore.acquire()
    try:
        return await cancelled(row, row.impl.run_all([lambda: row.item(1)] * 2, limit=semaphore), 3)
    finally:
        semaphore.release()


@scenario("semaphore as a limit")
async def cancelled_when_handed_a_slot(row):
    semaphore = row.own_semaphore()
    await semaphore.acquire()
    future = row.impl.gather(row.item(1), row.item(2), limit=semaphore)
    await turns(2)
    semaphore.release()
    row.begins_in_the_call()
    future.cancel()
    return await future


@scenario("semaphore as a limit")
async def its_source_is_at_its_end(row):
    """A slot that it has been handed comes to nothing, and goes to the next."""
    semaphore = row.own_semaphore()
    await semaphore.acquire()
    stream = row.task(all_of(row.impl.amap(value_after, iter(()), limit=semaphore)))
    await turns(2)
    task = row.task(slot_for_a_turn(semaphore))
    await turn()
    row.begins_in_the_call()
    semaphore.release()
    return await stream, await task


@scenario("semaphore as a limit")
async def whose_item_fails(row):
    items = [row.item(1, 2), row.item(of=fails), row.item(2), row.item(3)]
    return await row.call(row.impl.gather, *items, limit=taken(row, 2), cancel_on_error=True)


@scenario("semaphore as a limit")
async def that_is_overridden(row):
    class Own(row.impl.Semaphore):
        async def acquire(self):
            return await super().acquire()

    semaphore = Own(2)
    row.kept.append(semaphore)  # its acquire() may fail when it has the slot
    return await row.call(row.impl.gather, *[row.item(number) for number in range(3)], limit=semaphore)


@scenario("semaphore as a limit")
async def with_too_many_releases(row):
    semaphore = row.own_semaphore(1, "BoundedSemaphore")

    async def releases():
        await turn()
        semaphore.release()

    return await row.call(row.impl.gather, row.item(of=releases), limit=semaphore, return_exceptions=True)


@scenario("introspection")
async def of_functions(row):
    row.begins_in_the_call()
    function = row.impl.gather
    return repr(function)[:9], function.__name__, function.__qualname__, function.__module__, function.__doc__[:3]


@scenario("introspection")
async def of_coroutines(row):
    coro = await begun_by_hand(row)
    row.begins_in_the_call()
    return repr(coro)[:18], coro.__name__, coro.cr_frame, coro.cr_running, coro.cr_await is None, coro.cr_origin


# Rows -----------------------------------------------------------------------------------


class Outcome:
    """How a call ended, to be compared."""

    def __init__(self, task):
        self.ended = task.done()
        self.value = self.error = None
        if self.ended:
            try:
                self.value = task.result()
            except BaseException as error:
                self.error = error
        for error in [self.error, *(self.value if isinstance(self.value, list) else ())]:
            if isinstance(error, BaseException):  # it would hold what is looked for
                error.__traceback__ = error.__context__ = None

    def __str__(self):
        return repr(self.value if self.error is None else self.error) if self.ended else "does not end"

    def is_right(self, expected, step_was_lost):
        if not self.ended or OUTCOMES_GET_LOST:
            return True
        if step_was_lost and isinstance(self.error, asyncio.CancelledError):
            return True  # what that Task was for is as if somebody had closed it
        if self.error is not None:
            return is_right_error(self.error, expected.error)
        return expected.error is None and is_right_value(self.value, expected.value)


def is_about_memory(error):
    lost = EXCEPTIONS_GET_LOST and isinstance(error, SystemError) and "gatedcoro" not in str(error)
    return lost or isinstance(error, MemoryError)


def is_right_error(error, expected):
    return is_about_memory(error) or (type(error) is type(expected) and str(error) == str(expected))


def is_right_value(value, expected):
    """In a list with exceptions, any item may have met an error of memory; a CancelledError may keep its message."""
    if not isinstance(expected, list) or not isinstance(value, list) or len(value) != len(expected):
        return value == expected
    if not any(isinstance(one, BaseException) for one in expected):
        return value == expected
    return all(
        one == other or is_right_error(one, other) or type(one) is type(other) is asyncio.CancelledError
        for one, other in zip(value, expected)
    )


def state_of(coroutine):
    return getattr(coroutine, "cr_state", None) or inspect.getcoroutinestate(coroutine)


def is_lost(task):
    """Has asyncio lost the Task's next step, or the callback of what it waits for?"""
    waits_for = task._fut_waiter
    return waits_for is None or (isinstance(waits_for, asyncio.Future) and waits_for.done())


def waits_in_vain(task, left, row):
    """Is the Task lost, or does it wait for what is?"""
    if is_lost(task):
        return True
    if type(task._fut_waiter).__name__ in ("_GatheringFuture", "Future"):  # a gathering's, or a stream's
        return any(map(is_lost, left)) or any(future.done() for future in row.futures)
    return task._fut_waiter in left


class Forgetful(collections.deque):
    """In place of the queue of a semaphore that is being given up."""

    def remove(self, waiter):
        pass


async def main(row, function):
    return await function(row)


def end(loop, task):
    """Have everything end, and return the Tasks that do not."""
    for cancel in [task.cancel] if not task.done() else []:
        cancel()
        loop.run_forever()
    for _ in range(2):
        for other in asyncio.all_tasks(loop):
            other.cancel()
        loop.run_forever()
    return list(asyncio.all_tasks(loop))


def attempt(impl, group, function, start, length, expected):
    """Run one row.  Return how it ended, whether it had a failure, and what is wrong."""
    wrong = []
    impl._set_clock(None)
    impl._set_full_turns(True)  # else most scenarios would be over before that, and no Task would wait for an item
    Loop.lets_generators_go = False
    loop = Loop()
    row = loop.row = Row(impl, loop, start, length)
    reports, unraisables, warned = row.reports, row.unraisables, row.warnings
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    sys.unraisablehook = unraisables.append
    warnings.showwarning = lambda message, *args, **kwargs: warned.append(str(message))
    task = loop.create_task(main(row, function))
    row.tasks.append(task)
    loop.run_forever()
    outcome, reached = Outcome(task), row.was_reached
    step_was_lost = row.callbacks_failed or any(map(is_about_memory, row.callback_errors))
    if expected is not None and not outcome.is_right(expected, step_was_lost):
        wrong.append(f"not {expected}")

    left = end(loop, task)
    wrong += [f"goes on: {other!r}" for other in left if not waits_in_vain(other, left, row)]
    wrong += [f"in a callback: {error!r}" for error in row.callback_errors if not is_harmless(error)]
    wrong += [f"unraisable: {one.exc_value!r}" for one in unraisables if not may_be_unraisable(one.exc_value)]
    unbegun = [coro for coro in row.items if state_of(coro) == inspect.CORO_CREATED]
    if not row.called and (row.may_leave_some or len(unbegun) == len(row.items)):
        for coro in unbegun:  # memory ran out before our function was called
            coro.close()
    for one in row.tasks:
        if one.done() and not one.cancelled():
            one.exception()

    # Everything goes, and says what it has to say.
    was_lost = bool(left)
    items, gates, said = row.items, row.gates, []
    for context in reports:
        note_report(said, None, context)
    for gate, _ in gates:
        if isinstance(gate, impl.Semaphore):
            continue  # it finds out by itself who is gone
        gate._loop, gate._waiters = None, Forgetful()
    row.callback_errors.clear()
    unraisables.clear()
    reports.clear()
    loop.close()
    loop.set_exception_handler(functools.partial(note_report, said))
    sys.unraisablehook = functools.partial(note_unraisable, said)
    row = loop.row = loop = task = left = one = coro = unbegun = gate = context = None
    while gc.collect():
        pass
    wrong += [message for message in said if not may_be_said(message, group, was_lost)]
    wrong += [f"warning: {text}" for text in warned if not may_be_warned(text, was_lost)]
    if not was_lost:
        wrong += [f"never closed: {coro}" for coro in items if state_of(coro) == inspect.CORO_CREATED]
        wrong += [f"{slots} slots are {gate._value} now" for gate, slots in gates if gate._value != slots]
    return outcome, reached, wrong


def note_report(said, loop, context):
    said.append(f"{context['message']} {context.get('task', context.get('future'))!r}")


def note_unraisable(said, unraisable):
    if not may_be_unraisable(unraisable.exc_value):
        said.append(f"unraisable: {unraisable.exc_value!r}")


def is_harmless(error):
    return is_about_memory(error) or isinstance(error, KeyboardInterrupt)


def may_be_unraisable(error):
    # The last two: of a generator that could not be closed in time, and of a block that is left when all is over.
    return is_about_memory(error) or str(error) in (
        "coroutine ignored GeneratorExit",
        "expected",
        "no running event loop",
    )


def may_be_said(message, group, was_lost):
    if "never retrieved" in message and "async_generator" in message:
        return True  # asyncio closes one that was let go of, and nobody awaits that
    if was_lost and "coroutine already executing" in message:
        return (
            True  # the collector has closed one that the coroutine of a lost Task awaits, and so lets go of that Task
        )
    if was_lost or group == "task factory":  # those Tasks are not ours
        return "was destroyed" in message or "never retrieved" in message
    # The caller failed before it came to that.
    return (
        group in ("gather", "slices", "semaphore as a limit")
        and "_GatheringFuture exception was never retrieved" in message
    )


def may_be_warned(text, was_lost):
    """Of items their states tell.  (CPython itself keeps some objects of a row until a later one.)"""
    if "was never iterated over or awaited" in text:
        return True  # a Stream was made, and memory ran out before it was used
    if "coroutine method 'aclose'" in text:
        return Loop.lets_generators_go
    # The last one was asked for, and memory ran out before it was awaited.
    names = ("coroutine 'value_after'", "coroutine 'AsCompleted.__next__'")
    return "never awaited" in text and (was_lost or any(name in text for name in names))


def check_sound(impl):
    async def calls():
        return await impl.gather(value_after(1), value_after(2, 0), limit=1)

    impl._set_clock(None)
    loop = Loop()
    loop.row = Row(impl, loop, None, 0)
    try:
        task = loop.create_task(calls())
        loop.run_forever()
        assert task.result() == [1, 2]
    finally:
        loop.row = None
        loop.close()


def run_rows(impl, group, wanted, step, progress):
    """Run the rows of the `wanted` pairs of scenario and length, at every `step`-th start until a call no longer reaches it.

    Return what is wrong, one line each.  The file descriptor `progress` always says which row is running.
    """
    warnings.simplefilter("always")
    while gc.collect():
        pass
    gc.freeze()
    lines = []
    for name, length in wanted:
        function = GROUPS[group][name]
        for _ in range(2):  # the first time fills caches
            expected, _, wrong = attempt(impl, group, function, None, 0, None)
        lines += [f"{name}, undisturbed: {'; '.join(wrong)}"] if wrong else []
        unreached = 0
        for start in range(0, MOST_ALLOCATIONS, step):
            note(progress, name, length, start)
            outcome, reached, wrong = attempt(impl, group, function, start, length, expected)
            if wrong:
                lines.append(f"{name}, {length} after {start}, {outcome}: {'; '.join(wrong)}")
            check_sound(impl)
            unreached = 0 if reached else unreached + 1
            if unreached * step > MARGIN:
                break
        else:
            lines.append(f"{name} never comes to its end")
    return lines


def note(progress, *row):
    os.lseek(progress, 0, os.SEEK_SET)
    os.write(progress, " ".join(map(str, row)).ljust(100).encode())


# The import -----------------------------------------------------------------------------


def load(spec):
    """Import the extension once more."""
    module = spec.loader.create_module(spec)
    spec.loader.exec_module(module)
    return module


def attempt_import(spec, start, length):
    """Return the module or None, the error or None, and whether an allocation failed."""
    module = error = None
    try:
        _testcapi.set_nomemory(start, start + length)
        module = load(spec)
    except BaseException as raised:
        error = raised
    return module, error, stop_failing(start, length)


def import_rows(spec, lengths, step, progress):
    """The same for the import of the extension module, in whatever loop and Task this runs."""
    lines = []
    surroundings = asyncio._get_running_loop(), current_task_or_none()
    for length in lengths:
        unreached = 0
        for start in range(0, MOST_ALLOCATIONS, step):
            note(progress, "import", length, start)
            module, error, reached = attempt_import(spec, start, length)
            if error is not None and not isinstance(error, ImportError) and not is_about_memory(error):
                lines.append(f"import, {length} after {start}: {error!r}")
            if (asyncio._get_running_loop(), current_task_or_none()) != surroundings:
                lines.append(f"import, {length} after {start}: another loop or Task")
            again = load(spec)
            if surroundings[0] is None:  # else no other loop can run
                for works in (again,) if module is None else (module, again):
                    check_sound(works)
            if module is None and not reached:
                lines.append(f"import, {length} after {start}: {error!r}, and no allocation failed")
            module = error = works = again = None
            unreached = 0 if reached else unreached + 1
            if unreached * step > MARGIN:
                break
        else:
            lines.append("the import never comes to its end")
    return lines


def loader_rows(lengths, progress):
    """What the import asks of CPython's own loader, alone."""
    for length in lengths:
        for start in range(MOST_ALLOCATIONS // 4):
            note(progress, "loader", length, start)
            try:
                _testcapi.set_nomemory(start, start + length)
                asyncio.base_events.__spec__.loader.get_code("asyncio.base_events")
            except BaseException:
                pass
            stop_failing(0, 0)
    return []


def current_task_or_none():
    return None if asyncio._get_running_loop() is None else asyncio.current_task()
