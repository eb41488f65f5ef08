"""What keeps a Stream alive is what its user holds, not what a consumer has left behind."""

import asyncio
import gc
import weakref

import pytest

from contract_tools import HAS_EAGER_TASKS, run


async def first_only(number):
    if number:
        await asyncio.get_running_loop().create_future()


async def returns(stream):
    return asyncio.create_task(anext(stream))


async def is_cancelled(stream):
    await anext(stream)
    asking = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    asking.cancel()
    return asking


async def is_timed_out(stream):
    await anext(stream)
    return asyncio.create_task(asyncio.wait_for(anext(stream), 0.001))


@pytest.mark.parametrize("ask", [returns, is_cancelled, is_timed_out], ids=lambda ask: ask.__name__)
def test_who_has_asked_does_not_keep_the_stream(impl, ask):
    """Its Task keeps the coroutine, and the traceback of a cancellation."""

    async def main():
        stream = impl.amap(first_only, range(5), limit=2)
        asking = await ask(stream)
        await asyncio.wait([asking])
        gone = weakref.ref(stream)
        del stream
        assert gone() is None
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert others and not (await asyncio.wait(others, timeout=10))[1]  # what ran has been cancelled
        await asyncio.gather(asking, return_exceptions=True)

    run(main)


@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="Tasks can begin at once from 3.12 on")
def test_nor_does_an_error_that_comes_in_the_step_that_opens_it(impl):
    """The frames of its traceback refer to those of their callers."""

    async def source():
        yield 1
        raise ValueError

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        stream = impl.amap(first_only, source())
        asking = asyncio.create_task(anext(stream))
        asking.cancel()
        await asyncio.wait([asking])
        gone = weakref.ref(stream)
        del stream
        assert gone() is None
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    run(main)


async def asks(stream):
    return anext(stream)


async def enters(stream):
    return stream.__aenter__()


async def leaves(stream):
    return stream.__aexit__(None, None, None)


async def closes(stream):
    return stream.aclose()


@pytest.mark.parametrize("how", ["close", "throw", "cancel"])
@pytest.mark.parametrize("begin", [asks, enters, leaves, closes], ids=lambda begin: begin.__name__)
def test_nor_does_what_was_given_up_before_its_first_step(impl, begin, how):
    async def main():
        stream = impl.amap(first_only, range(5), limit=2)
        await anext(stream)
        begun = await begin(stream)
        if how == "close":
            begun.close()
        elif how == "throw":
            with pytest.raises(KeyError):
                begun.throw(KeyError())
        else:
            task = asyncio.create_task(begun)
            task.cancel()
            await asyncio.wait([task])
        gone = weakref.ref(stream)
        del stream
        assert gone() is None
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        del begun

    run(main)


class Items(list):
    """Which a weak reference can be to."""


@pytest.mark.parametrize("use", ["awaited", "iterated"])
def test_a_stream_that_has_been_used_does_not_keep_what_it_went_through(impl, use):
    async def same(x):
        return x

    async def main():
        items = Items("ab")
        gone = weakref.ref(items)
        stream = impl.amap(same, items, limit=1)
        del items
        assert gone() is not None
        results = await stream if use == "awaited" else [result async for result in stream]
        assert results == ["a", "b"]
        gc.collect()
        assert gone() is None

    run(main)
