"""send, throw, close, await and drop on `gated_coro`, every sequence up to length 4.

The oracle is a native coroutine over a model semaphore that has none of the defects of `asyncio.Semaphore`
(a slot lost or gained when an acquire is closed or thrown into). Results, errors, warnings, the state of the
item and the final state of the semaphore must be the same.
"""

import asyncio
import gc
import inspect
import itertools
import types
import warnings

import pytest

from effort import sequence_length
from steps import awaiter, step

NO_TASK_IS_REUSED = True  # `gated_coro` makes no Task


class ModelSemaphore:
    """A fair semaphore: a slot that is released goes to the waiter that has waited longest."""

    def __init__(self, value):
        self.value = value
        self.waiters = []

    def locked(self):
        return self.value == 0 or any(not waiter.cancelled() for waiter in self.waiters)

    def hand_over(self):
        for waiter in self.waiters:
            if self.value == 0:
                break
            if not waiter.done():
                self.value -= 1
                waiter.set_result(True)

    async def acquire(self):
        if not self.locked():
            self.value -= 1
            return True
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.value += 1
            waiter.cancel()
            raise
        finally:
            self.waiters.remove(waiter)
            self.hand_over()
        return True

    def release(self):
        self.value += 1
        self.hand_over()

    async def __aenter__(self):
        await self.acquire()

    async def __aexit__(self, *error):
        self.release()


class ModelCoroutine:
    """A native coroutine that closes its item when the item has not started; only steps are forwarded."""

    def __init__(self, semaphore, coro):
        async def gated_coro():
            async with semaphore:
                return await coro

        self.native = gated_coro()
        self.native.__qualname__ = "gated_coro"
        self.item = coro
        self.started = False

    def close_item(self):
        if inspect.getcoroutinestate(self.item) == inspect.CORO_CREATED:
            self.item.close()

    def guarded(self, step):
        try:
            return step()
        finally:
            if inspect.getcoroutinestate(self.native) == inspect.CORO_CLOSED:
                self.close_item()

    def send(self, value):
        return self.guarded(lambda: self.native.send(value))

    def throw(self, *error):
        return self.guarded(lambda: self.native.throw(*error))

    def close(self):
        return self.guarded(self.native.close)

    def drop(self):
        self.native = None
        self.close_item()


@types.coroutine
def bounce(value):
    return (yield value)


async def plain_item(log):
    try:
        first = await bounce("first")
        second = await bounce("second")
    except BaseException as error:
        log.append(type(error).__name__)
        raise
    return (first, second)


async def stubborn_item(log):
    """Takes every exception, GeneratorExit too, and goes on."""
    seen = []
    for count in range(4):
        try:
            seen.append(await bounce(count))
        except BaseException as error:
            log.append(type(error).__name__)
            seen.append(type(error).__name__)
    return seen


async def immediate_item(log):
    return "at once"


async def failing_item(log):
    raise LookupError("item")


ITEMS = [plain_item, stubborn_item, immediate_item, failing_item]


class Subject:
    def __init__(self, make, semaphore, item):
        self.log = []
        self.item = item(self.log)
        self.semaphore = semaphore
        self.native = None
        self.held = 0
        self.awaiters = []
        self.competitors = []
        self.coro = make(semaphore, self.item)

    def step(self, do):
        return step(do, lambda future: future.done())

    def native_of(self):
        return self.coro.native if isinstance(self.coro, ModelCoroutine) else self.coro

    def start_awaiter(self):
        self.awaiters.append(awaiter(self.native_of()))
        return self.awaiters[-1].send(None)

    def take(self):
        """Another user takes a slot if there is one, or queues behind whoever waits."""
        competitor = self.semaphore.acquire()
        shown = self.step(lambda: competitor.send(None))
        if shown[0] == "returned":
            self.held += 1
        else:
            self.competitors.append(competitor)
        return shown

    def release(self):
        if self.held:
            self.held -= 1
            self.semaphore.release()


OPERATIONS = {
    "send(None)": lambda subject: subject.coro.send(None),
    "send(5)": lambda subject: subject.coro.send(5),
    "throw(ValueError())": lambda subject: subject.coro.throw(ValueError("thrown")),
    "throw(CancelledError())": lambda subject: subject.coro.throw(asyncio.CancelledError("thrown")),
    "throw(GeneratorExit())": lambda subject: subject.coro.throw(GeneratorExit()),
    "close()": lambda subject: subject.coro.close(),
    "await": Subject.start_awaiter,
    "release": Subject.release,
    "take": Subject.take,
}


def sequences(length):
    for size in range(length + 1):
        yield from itertools.product(OPERATIONS, repeat=size)


def end(coro):
    """Close a coroutine that may refuse to a few times."""
    for _ in range(6):
        try:
            coro.close()
        except RuntimeError:
            continue
        return


def play(make, semaphore, taken, item, sequence):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        subject = Subject(make, semaphore, item)
        for _ in range(taken):
            subject.take()
        shown = [(name, subject.step(lambda: OPERATIONS[name](subject))) for name in sequence]
        for awaiter in subject.awaiters:
            end(awaiter)
        subject.awaiters.clear()
        if isinstance(subject.coro, ModelCoroutine):
            subject.coro.drop()
        subject.coro = None
        item_state = inspect.getcoroutinestate(subject.item)
        warned = [(warning.category.__name__, str(warning.message)) for warning in caught]
        # The slots: whoever queued behind gets one now, in turn; then all are given back.
        while subject.held:
            subject.release()
        woken = 0
        for competitor in subject.competitors:
            if subject.step(lambda: competitor.send(None))[0] == "returned":
                woken += 1
                semaphore.release()
        for competitor in subject.competitors:
            competitor.close()
        free = 0
        while not semaphore.locked():
            taking = semaphore.acquire()
            subject.step(lambda: taking.send(None))
            free += 1
        end(subject.item)
    return shown, subject.log, item_state, warned, woken, free


def check_sequences(make, make_semaphore, length):
    async def check_all():
        for item in ITEMS:
            for slots, taken in ((1, 0), (1, 1), (2, 1)):
                for sequence in sequences(sequence_length(length)):
                    expected = play(ModelCoroutine, ModelSemaphore(slots), taken, item, sequence)
                    actual = play(make, make_semaphore(slots), taken, item, sequence)
                    assert actual == expected, (item.__name__, slots, taken, sequence)

    with warnings.catch_warnings(record=True) as unraisable:
        warnings.simplefilter("always")
        asyncio.run(check_all())
        gc.collect()
    assert not [str(warning.message) for warning in unraisable]


@pytest.fixture(autouse=True)
def silent_unraisable(monkeypatch):
    """A dropped coroutine that ignores GeneratorExit is reported by `sys.unraisablehook`, ours and the native one."""
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: None)


@pytest.mark.parametrize("semaphore", [asyncio.Semaphore, asyncio.BoundedSemaphore])
def test_every_sequence_acts_as_on_a_native_coroutine_over_a_sound_semaphore(impl, semaphore):
    length = 4 if semaphore is asyncio.Semaphore else 3
    check_sequences(impl.gated_coro, semaphore, length)


class OwnSemaphore(asyncio.Semaphore):
    """A subclass, which must take the public way."""


def test_every_sequence_on_a_subclass_acts_as_on_a_native_coroutine(impl):
    check_sequences(impl.gated_coro, OwnSemaphore, 3)


def test_every_sequence_on_any_other_async_context_manager_acts_as_on_a_native_coroutine(impl):
    check_sequences(impl.gated_coro, ModelSemaphore, 3)
