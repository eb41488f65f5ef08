"""A shared limit and what it runs in: event loops, threads, forks, task factories, debug mode; what it keeps alive."""

import asyncio
import contextlib
import contextvars
import gc
import os
import threading
import weakref

import pytest

from contract_tools import HAS_EAGER_TASKS, Running, two_argument_factory
from gatedcoro.shared import GateUnavailable, LeaseLost, LimitStats, _permits
from implementations import load_implementation
from in_subprocess import check_script
from shared_state import NAME, Refused, Server
from shared_tools import Item, all_is_given_back, background, entered, error_of, run

with_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


async def work(limit, times=20):
    """Items in what is there: some at once, one after the other, one that is cancelled."""
    running = Running()

    async def item():
        async with limit:
            with running:
                await asyncio.sleep(0.01)

    await asyncio.gather(*[item() for _ in range(times)])
    cancelled = asyncio.create_task(item())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert running.most == limit.limit
    return running.most


# Event loops


def test_one_object_in_one_program_after_the_other():
    server = Server()
    limit = server.limit(2)
    for number in range(1, 4):
        run(lambda: work(limit))
        assert len(server.lines) == number  # another loop, other connections
        assert server.records == {}


def test_one_object_in_a_second_program_after_what_nobody_has_given_back():
    server = Server()
    limit = server.limit(1)

    async def main():
        async with limit:
            pass
        with pytest.raises(RuntimeError, match="was left more often"):
            limit.release()  # what the first program has held is not this one's
        await asyncio.create_task(limit.acquire())

    for _ in range(2):
        run(main)
        assert server.records == {}


def test_one_object_in_a_second_program_after_items_that_never_ended():
    server = Server()
    limit = server.limit(1)

    async def main():
        await entered(limit)
        Item(limit)
        await asyncio.sleep(1)

    for _ in range(2):
        run(main, reports=[])
        assert server.records == {}
    run(lambda: work(limit))


@pytest.mark.parametrize("idle", [0, 1])
def test_another_loop_while_it_is_in_use(idle):
    server = Server()
    limit = server.limit(1 + idle)
    errors = []

    def elsewhere():
        for function in (limit.__aenter__, limit.acquire, lambda: limit.acquire(blocking=False), limit.aclose):
            try:
                asyncio.run(function())
            except RuntimeError as error:
                errors.append(str(error))

    async def main():
        [one, *others] = await entered(limit, 1 + idle)
        waiting = [Item(limit) for _ in range(1 - idle)]
        await asyncio.sleep(1)
        for other in others:
            await other.ends()  # so there is a permit to be had, for who is of this loop
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(60)
        for item in (one, *waiting):
            assert await item.ends() == ""
        await all_is_given_back(server, limit)

    run(main)
    message = f"{limit!r} is bound to a different event loop: each loop has a limit of its own"
    assert errors == [message.replace("closed", f"held=1 waiting={1 - idle}")] * 4


def test_two_threads_with_an_object_each():
    """In real time: each loop is a process of its own to the server, which is asked under a lock."""
    server = Server()
    lock, counting = threading.Lock(), threading.Lock()
    now, most = [0], [0]

    class Locked(type(server.line())):
        async def sync(self, request):
            await asyncio.sleep(0)
            with lock:
                return self.server.serve(request)

        async def leave(self, request, *, at_once):
            with lock:
                self.server.serve(request, leaves=at_once)

        async def listen(self, session, heard):
            while True:
                heard(None)
                await asyncio.sleep(0.02)

    async def item(limit):
        async with limit:
            with counting:
                now[0] += 1
                most[0] = max(most[0], now[0])
            await asyncio.sleep(0.001)
            with counting:
                now[0] -= 1

    async def main():
        async with contextlib.aclosing(server.limit(3, line=Locked(server))) as limit:
            await asyncio.gather(*[item(limit) for _ in range(50)])

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most[0] <= 3 and now[0] == 0
    assert server.records == {}


@with_fork
def test_a_fork_uses_what_it_inherited():
    """A child has a session and connections of its own; what the parent holds stays the parent's."""
    script = """\
    import os
    from shared_state import Server
    from shared_tools import run, entered, error_of, all_is_given_back
    server = Server()
    limit = server.limit(2)

    async def use():
        limit.limit = 3  # the parent holds two
        async with limit:
            assert limit.stats().held == 1, limit
        await limit.aclose()

    async def main():
        [one] = await entered(limit)
        waiting = [asyncio.create_task(limit.acquire()) for _ in range(2)]
        await asyncio.sleep(1)
        before = list(server.records)
        pid = os.fork()
        if not pid:
            asyncio._set_running_loop(None)
            try:
                run(use)
                assert len(server.lines) == 2, "connections of its own"
                assert list(server.records) == before, (server.records, before)
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert limit.stats().held == 2 and limit.stats().waiting == 1
        assert list(server.records) == before
        waiting[1].cancel()
        await one.ends()
        await limit.aclose()

    run(main, reports=[])
    print("ok")
    """
    check_script(load_implementation("python"), script)


@with_fork
def test_a_fork_before_first_use():
    script = """\
    import os
    from shared_state import Server
    from shared_tools import run
    server = Server()
    limit = server.limit(2)

    async def use():
        async with limit:
            pass
        await limit.aclose()

    pid = os.fork()
    run(use)
    assert len(server.lines) == (1 if pid else 2), "connections of its own"
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        print("ok")
    """
    check_script(load_implementation("python"), script)


def test_on_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def main():
        server = Server()
        limit = server.limit(3)
        await work(limit)
        [one] = await entered(limit)
        limit._session.end("the test says so")
        await error_of(one.task)
        await all_is_given_back(server, limit)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Debug mode, task factories


def test_in_debug_mode_nothing_is_said():
    script = """\
    from shared_state import Server
    from shared_tools import Item, entered, error_of, run, all_is_given_back
    from gatedcoro.shared import GateUnavailable, LeaseLost

    async def main():
        server = Server()
        line = server.line()
        limit, other = server.limit(3, line=line), server.limit(3)
        items = [Item(one, times=1) for one in (limit, other) for _ in range(20)]
        for one in items:
            one.may_end.set()
        for one in items:
            await one.ends()
        items = await entered(limit, 2)
        waiting = [Item(limit) for _ in range(5)]
        await asyncio.sleep(1)
        waiting[2].task.cancel()
        line.error = ConnectionError("cut")
        for one in items:
            assert isinstance(await error_of(one.task), LeaseLost)
        errors = [type(await error_of(one.task)) for one in waiting]
        assert errors == [LeaseLost, GateUnavailable, asyncio.CancelledError, GateUnavailable, GateUnavailable], errors
        line.error = None
        items = [Item(limit) for _ in range(5)]
        await items[0].starts()
        await limit.aclose()
        for one in items:
            assert isinstance(await error_of(one.task), (LeaseLost, GateUnavailable))
        await all_is_given_back(server, limit, other, at_once=False)

    async def watched():
        await main()

    run(watched, debug=True)
    print("ok")
    """
    check_script(load_implementation("python"), script, options=["-X", "dev"])


FACTORIES = {
    "two arguments": two_argument_factory,
    "a subclass": lambda loop, coroutine, **options: type("Mine", (asyncio.Task,), {})(coroutine, loop=loop, **options),
    "eager": getattr(asyncio, "eager_task_factory", None),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_whatever_makes_the_tasks(factory):
    if factory is None:
        pytest.skip("no eager Tasks here")

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        server = Server()
        line = server.line()
        line.at_once = True
        limit, other = server.limit(3, line=line), server.limit(3)
        await asyncio.gather(work(other), use(limit))
        assert background()
        [one] = await entered(limit)
        limit._session.end("the test says so")
        await error_of(one.task)
        await all_is_given_back(server, limit, other)

    async def use(limit):
        for _ in range(10):
            async with limit:
                await asyncio.sleep(0)

    run(main)


@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="no eager Tasks here")
@pytest.mark.parametrize("where", ["error", "listen_error"])
def test_a_server_that_refuses_in_the_first_step_of_an_eager_task(where):
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        server = Server()
        line = server.line()
        line.at_once = True
        setattr(line, where, Refused("no"))
        line.hangs = True
        limit = server.limit(1, line=line)
        error = await error_of(limit.acquire())
        assert type(error) is GateUnavailable
        line.hangs = False
        setattr(line, where, None)
        assert await limit.acquire()
        limit.release()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


# Contexts, references


class Value:
    """What a weak reference can be made to."""


def test_what_works_for_all_has_the_context_of_nobody():
    variable = contextvars.ContextVar("variable", default="nobody's")
    seen = []

    async def main():
        server = Server()
        line = server.line()
        sync, listen, leave = line.sync, line.listen, line.leave

        def noting(function):
            def noted(*arguments, **options):
                seen.append(variable.get())
                return function(*arguments, **options)

            return noted

        line.sync, line.listen, line.leave = noting(sync), noting(listen), noting(leave)
        limit = server.limit(1, line=line)
        variable.set("the first item's")
        async with limit:
            await asyncio.sleep(20)
        limit._session.end("the test says so")
        await asyncio.sleep(1)
        async with limit:
            pass
        await all_is_given_back(server, limit)

    run(main)
    assert len(seen) >= 7 and set(seen) == {"nobody's"}


def test_the_context_of_an_item_is_not_kept():
    """Timers have the context of whoever set them: that of an item may not go from one to the next."""
    variable = contextvars.ContextVar("variable")

    async def main():
        server = Server()
        limit = server.limit(4)

        async def item():
            async with limit:
                await asyncio.sleep(_permits.IDLE * 0.9)

        async def first():
            value = Value()
            variable.set(value)
            await asyncio.gather(item(), item())
            return weakref.ref(value)

        [reference] = await asyncio.gather(first())

        async def busy(delay):
            await asyncio.sleep(delay)
            for _ in range(20):
                await item()
                await asyncio.sleep(_permits.IDLE * 0.4)

        await asyncio.gather(*[busy(_permits.IDLE * number / 3) for number in range(4)])
        gc.collect()
        assert reference() is None
        await all_is_given_back(server, limit)

    run(main)


def test_nothing_is_kept_of_items_that_have_ended():
    async def main():
        server = Server()
        limit = server.limit(3)
        references = []

        async def item(number):
            value = Value()
            async with limit:
                await asyncio.sleep(0.01)
                references.append(weakref.ref(value))
                if number % 3 == 1:
                    raise ValueError(value)
                if number % 3 == 2:
                    await asyncio.get_running_loop().create_future()
            return value

        tasks = [asyncio.create_task(item(number)) for number in range(30)]
        for _ in range(15):
            await asyncio.sleep(0.1)
            if limit._session is not None:
                limit._session.end("the test says so")
        await asyncio.wait(tasks)
        assert {type(task.exception()) for task in tasks} == {type(None), ValueError, LeaseLost}
        references += [weakref.ref(task) for task in tasks]
        del tasks
        gc.collect()
        assert len(references) == 60
        assert [one() for one in references if one() is not None] == []
        assert not limit._losses
        await all_is_given_back(server, limit)

    run(main)


def test_nothing_is_kept_of_waiters_that_were_cancelled():
    async def main():
        server = Server()
        limit = server.limit(1)
        [one] = await entered(limit)
        waiting = [Item(limit) for _ in range(10)]
        await asyncio.sleep(1)
        references = [weakref.ref(item.task) for item in waiting]
        for item in waiting:
            item.task.cancel()
        await asyncio.wait([item.task for item in waiting])
        del waiting, item
        gc.collect()
        assert [reference() for reference in references] == [None] * 10
        await one.ends()
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_limit_that_nobody_has_is_gone(is_closed):
    """At once when it was closed, else when its session has ended, as nobody needs it."""

    async def main():
        server = Server()
        limit = server.limit(1)
        async with limit:
            pass
        if is_closed:
            await limit.aclose()
        else:
            await asyncio.sleep(server.lease)
        reference = weakref.ref(limit)
        del limit
        gc.collect()
        assert reference() is None
        assert server.records == {} and background() == []

    run(main)


def test_what_it_says_before_and_after_a_program():
    server = Server()
    limit = server.limit(2)
    run(lambda: work(limit))
    assert limit.stats() == LimitStats(held=0, waiting=0, sessions=0, limit=2)
    assert repr(limit) == f"<SharedLimit {NAME!r} limit=2 held=0 waiting=0>"
