"""Coroutines that somebody has advanced before they are handed over.

gather(), and gather_with_concurrency() without a limit, go on with them as asyncio.gather does; with a limit, and in gated_coro, they are
what they are to `await`.
"""

import asyncio
import sys
import types

import pytest

from contract_tools import run
from coroutines import ByItsMethods


async def native(log, turns=3):
    try:
        for turn in range(turns):
            log.append(turn)
            await asyncio.sleep(0)
        return "result"
    except GeneratorExit:
        log.append("closed")
        raise
    except asyncio.CancelledError:
        log.append("cancelled")
        raise


async def awaits_another(log):
    return await native(log)


@types.coroutine
def generator_based(log):
    try:
        log.append(0)
        yield
        log.append(1)
        yield
        return "result"
    except GeneratorExit:
        log.append("closed")
        raise


class Wrapper(ByItsMethods):
    """A coroutine object that wraps another one."""

    def __init__(self, log):
        self.coroutine = native(log)

    def send(self, value):
        return self.coroutine.send(value)

    def throw(self, *exception):
        return self.coroutine.throw(*exception)

    def close(self):
        return self.coroutine.close()


def plain_generator(log):
    """A coroutine to asyncio up to 3.11."""
    log.append(0)
    yield
    return "result"


KINDS = {
    "native": native,
    "native that awaits another": awaits_another,
    "generator-based": generator_based,
    "by its methods": Wrapper,
}
if sys.version_info < (3, 12):
    KINDS["plain generator"] = plain_generator


def suspended(coroutine):
    coroutine.send(None)


def advanced_twice(coroutine):
    coroutine.send(None)
    try:
        coroutine.send(None)
    except StopIteration:
        pass


def finished(coroutine):
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass


def failed(coroutine):
    try:
        coroutine.send(None)
        coroutine.throw(LookupError)
    except LookupError:
        pass


STATES = {"suspended": suspended, "advanced twice": advanced_twice, "finished": finished, "failed": failed}
STATES["closed"] = lambda coroutine: coroutine.close()
STATES["not begun"] = lambda coroutine: None

LIKE_ASYNCIO = {
    "gather": lambda impl, *items: impl.gather(*items),
    "gather, limit=1": lambda impl, *items: impl.gather(*items, limit=1),
    "gather, limit=5": lambda impl, *items: impl.gather(*items, limit=5),
    "gather, semaphore": lambda impl, *items: impl.gather(*items, limit=asyncio.Semaphore(2)),
    "gather, cancel_on_error": lambda impl, *items: impl.gather(*items, limit=1, cancel_on_error=True),
    "gather_with_concurrency(None)": lambda impl, *items: impl.gather_with_concurrency(None, *items),
}
LIKE_AWAIT = {
    "gather_with_concurrency": lambda impl, item: impl.gather_with_concurrency(1, item),
    "gated_coro": lambda impl, item: impl.gated_coro(asyncio.Semaphore(1), item),
}


async def outcome(awaitable):
    try:
        return await awaitable
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", LIKE_ASYNCIO)
def test_gather_goes_on_with_it_as_asyncio_gather_does(impl, door, kind, state):
    async def main():
        outcomes = []
        for gathers in asyncio.gather, lambda *items: LIKE_ASYNCIO[door](impl, *items):
            log = []
            coroutine = KINDS[kind](log)
            STATES[state](coroutine)
            outcomes.append((await outcome(gathers(coroutine, asyncio.sleep(0, "other"))), log))
            coroutine.close()
        return outcomes

    theirs, ours = run(main)
    assert theirs == ours
    if state == "suspended":
        assert ours[0] == ["result", "other"]


@pytest.mark.parametrize("door", LIKE_ASYNCIO)
@pytest.mark.parametrize("inner", ["gated_coro", "gather_with_concurrency", "run_all"])
def test_it_goes_on_with_coroutines_of_this_library(impl, door, inner):
    async def main():
        log = []
        if inner == "gated_coro":
            coroutine = impl.gated_coro(asyncio.Lock(), native(log))
        elif inner == "run_all":
            coroutine = impl.run_all([lambda: native(log)])
        else:
            coroutine = impl.gather_with_concurrency(2, native(log))
        future = coroutine.send(None)
        if inner != "gated_coro":
            future._asyncio_future_blocking = False  # as who drives it does
            for _ in range(5):
                await asyncio.sleep(0)
        result = await LIKE_ASYNCIO[door](impl, coroutine)
        assert log == [0, 1, 2]
        return result

    assert run(main) == (["result"] if inner == "gated_coro" else [["result"]])


@pytest.mark.parametrize("state", ["suspended", "finished", "closed"])
@pytest.mark.parametrize("kind", ["native", "native that awaits another", "generator-based"])
@pytest.mark.parametrize("door", LIKE_AWAIT)
def test_with_a_limit_it_is_what_it_is_to_await(impl, door, kind, state):
    async def awaits(coroutine):
        return await coroutine

    async def main():
        outcomes = []
        for call in awaits, lambda coroutine: LIKE_AWAIT[door](impl, coroutine):
            log = []
            coroutine = KINDS[kind](log)
            STATES[state](coroutine)
            result = await outcome(call(coroutine))
            outcomes.append((result[0] if result == ["result"] else result, log.copy()))
            coroutine.close()
        return outcomes

    theirs, ours = run(main)
    assert theirs[0] == (ours[0][0] if isinstance(ours[0], list) else ours[0])
    assert theirs[1] == ours[1]
    if state == "suspended" and kind.startswith("native"):
        assert ours[0] == (RuntimeError, "coroutine is being awaited already")
        assert ours[1] == [0]


# One that never gets its turn


@pytest.mark.parametrize("limit", ["1", "semaphore"])
@pytest.mark.parametrize("kind", ["native", "native that awaits another", "by its methods"])
@pytest.mark.parametrize("end", ["cancelled", "cancelled at once", "first error"])
def test_one_that_is_queued_in_gather_and_never_starts_is_closed(impl, limit, kind, end):
    async def main():
        log = []
        coroutine = KINDS[kind](log)
        coroutine.send(None)

        async def first():
            await asyncio.sleep(0)
            if end == "first error":
                raise LookupError
            await asyncio.sleep(3600)

        gate = 1 if limit == "1" else asyncio.Semaphore(1)
        call = impl.gather(first(), asyncio.sleep(3600), coroutine, limit=gate, cancel_on_error=True)
        if end != "cancelled at once":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if end != "first error":
            call.cancel()
        await asyncio.wait([call])
        assert isinstance(call.exception(), asyncio.CancelledError | LookupError)
        assert log == [0, "closed"]

    run(main)


@pytest.mark.parametrize("kind", ["native", "by its methods"])
def test_one_that_waits_for_the_gate_is_closed_too(impl, kind):
    async def main():
        log = []
        coroutine = KINDS[kind](log)
        coroutine.send(None)
        async with asyncio.Lock() as _, (gate := asyncio.Semaphore(1)):
            call = impl.gather(coroutine, limit=gate)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
        assert log == [0, "closed"]

    run(main)


def test_one_that_runs_is_not(impl):
    """Closing would be a ValueError."""

    async def main():
        async def itself():
            call = impl.gather(asyncio.sleep(3600), me[0], limit=1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            closes_me(call)
            return "result"

        def closes_me(call):
            call.cancel()

        me = [itself()]
        assert await me[0] == "result"
        me.clear()
        await asyncio.sleep(0)

    run(main)


@pytest.mark.parametrize("end", ["cancelled", "closed"])
def test_with_a_limit_one_that_somebody_else_awaits_is_left_to_that(impl, end):
    async def main():
        log = []
        coroutine = native(log)
        task = asyncio.ensure_future(coroutine)
        await asyncio.sleep(0)
        call = impl.gather_with_concurrency(1, asyncio.sleep(3600), coroutine)
        if end == "cancelled":
            caller = asyncio.ensure_future(call)
            await asyncio.sleep(0)
            caller.cancel()
            await asyncio.wait([caller])
        else:
            call.send(None)
            call.close()
        assert await task == "result"

    run(main)


@pytest.mark.parametrize("call", ["not awaitable", "bad limit", "never awaited", "closed"])
@pytest.mark.filterwarnings("ignore:coroutine .*was never awaited:RuntimeWarning")
def test_before_the_call_begins_it_is_left_as_it_was(impl, call):
    async def main():
        log = []
        coroutine = native(log)
        coroutine.send(None)
        if call == "not awaitable":
            with pytest.raises(TypeError):
                impl.gather(coroutine, 5)
        elif call == "bad limit":
            with pytest.raises(ValueError, match="limit must be at least 1"):
                impl.gather(coroutine, limit=0)
        else:
            never = impl.gather_with_concurrency(None, coroutine)
            if call == "closed":
                never.close()
            del never
        assert log == [0]
        coroutine.close()
        assert log == [0, "closed"]

    run(main)
