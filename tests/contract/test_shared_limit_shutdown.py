"""A shared limit whose program ends, or whose event loop goes away under it; the thread that renews."""

import asyncio
import gc
import threading

import pytest

from gatedcoro.shared import _thread
from shared_state import Server
from shared_tools import Item, background, entered, error_of, run


class Stop(Exception):
    """What ends a program."""


# asyncio.run


@pytest.mark.parametrize("attempt", range(10))  # Tasks are cancelled in the order of a set
def test_cleanup_is_not_broken_off_when_the_program_ends(attempt):
    server = Server()
    cleaned = []

    async def item(limit):
        async with limit:
            try:
                await asyncio.sleep(1_000)
            finally:
                await asyncio.sleep(1)
                cleaned.append(server.total)

    async def main():
        limit = server.limit(3)
        for _ in range(3):
            asyncio.get_running_loop().create_task(item(limit))
        await asyncio.sleep(1)
        raise Stop

    with pytest.raises(Stop):
        run(main)
    assert len(cleaned) == 3
    assert cleaned[0] == 3  # and until then the server counts them
    assert server.records == {}


def test_a_permit_that_nobody_leaves_does_not_keep_the_program_from_its_end():
    server = Server(lease=1_000)

    async def main():
        await server.limit(1).acquire()
        return asyncio.get_running_loop().time

    clock = run(main)
    assert clock() < 100
    assert server.records == {}


# Event loops that are closed


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # coroutines that have not begun
def test_a_loop_that_is_closed_with_the_limit_in_use(turns, monkeypatch):
    """What asyncio says of Tasks that are pending it says, and nothing else is heard."""
    unraisable = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)

    async def main():
        limit = Server().limit(1)
        items = [Item(limit) for _ in range(2)]
        for _ in range(turns):
            await asyncio.sleep(0)
        return items

    items = loop.run_until_complete(main())
    loop.close()
    items.clear()
    gc.collect()
    assert [one.exc_value for one in unraisable] == []


def test_a_thread_renews_nothing_for_a_loop_that_is_closed():
    server = Server(lease=1)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    kept = []

    async def main():
        limit = server.limit(1, renew_in_thread=True)
        await limit.acquire()
        kept.append(limit)

    before = set(threading.enumerate())
    loop.run_until_complete(main())
    [thread] = set(threading.enumerate()) - before
    loop.close()
    thread.join(60)
    assert not thread.is_alive()


# The thread that renews


class Failing:
    """A Runner that cannot make its event loop the first time."""

    failures = 0

    def __enter__(self):
        Failing.failures += 1
        if Failing.failures == 1:
            raise OSError(24, "Too many open files")
        return self.runner.__enter__()

    def __exit__(self, *exc_info):
        return self.runner.__exit__(*exc_info)

    def __init__(self):
        self.runner = RUNNER()


RUNNER = asyncio.Runner


def test_a_thread_tries_again_that_could_not_make_an_event_loop(monkeypatch):
    server = Server(lease=1)

    async def main():
        limit = server.limit(1, renew_in_thread=True)
        async with limit:
            monkeypatch.setattr(_thread.asyncio, "Runner", Failing)
            own, theirs = server.lines
            for _ in range(600):  # the loop stands still in between
                if theirs.requests:
                    break
                threading.Event().wait(0.05)
            assert theirs.requests
        await limit.aclose()

    monkeypatch.setattr(Failing, "failures", 0)
    with RUNNER() as runner:
        runner.run(asyncio.wait_for(main(), 60))
    assert Failing.failures > 1


def test_a_thread_has_as_much_time_for_a_request_as_the_loop():
    server = Server(lease=3)

    async def main():
        line, theirs = server.line(), server.line(delay=0.5)
        line.for_another_loop = lambda: theirs
        limit = server.limit(1, line=line, renew_in_thread=True)
        async with limit:
            permits = limit._permits
            before = permits.deadline
            for _ in range(200):  # the loop stands still in between
                if permits.deadline > before:
                    break
                threading.Event().wait(0.05)
            assert permits.deadline > before
        await limit.aclose()

    asyncio.run(main())


def test_nothing_has_begun_if_a_thread_cannot_have_connections():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line, renew_in_thread=True)
        line.for_another_loop = lambda: 1 / 0
        assert isinstance(await error_of(limit.acquire()), ZeroDivisionError)
        assert background() == []
        del line.for_another_loop
        [item] = await entered(limit)
        await item.ends()
        await limit.aclose()

    run(main)
