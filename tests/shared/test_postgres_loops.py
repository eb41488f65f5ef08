"""PostgresLimit in other event loops, in several of them, and after a fork: a connection serves the loop that made it, and no other."""

import asyncio
import contextlib
import gc
import os
import threading
import traceback

import pytest

import gatedcoro
from gatedcoro.shared import GateUnavailable, LeaseLost, PostgresLimit
from shared_kinds import held, left_on, sessions, waiting
from shared_limits import all_permits, limit_on, run, until
from shared_servers import wait_until

pytestmark = pytest.mark.parametrize("kind", ["postgres"], indirect=True)


# --- Other loops ----------------------------------------------------------------------------------------------------


def loop_options(name):
    if name == "debug":
        return {"debug": True}
    return {"loop_factory": pytest.importorskip("uvloop").new_event_loop}


LOOPS = pytest.mark.parametrize("loop", ["debug", "uvloop"])
EITHER = pytest.mark.parametrize("way", ["pool", "function"])


def client_of(server, way):
    return server.client() if way == "pool" else server.connector()


@LOOPS
@EITHER
def test_permits_pass_between_sessions_in_any_loop(server, loop, way):
    async def main():
        inside = peak = 0

        async def item(number):
            nonlocal inside, peak
            inside += 1
            peak = max(peak, inside)
            await asyncio.sleep(0.001)
            inside -= 1
            return number

        async with (
            limit_on(server, 2, client=client_of(server, way), lease=100) as one,
            limit_on(server, 2, client=client_of(server, way), lease=100) as other,
        ):
            assert await asyncio.gather(
                gatedcoro.gather(*map(item, range(20)), limit=one),
                gatedcoro.run_all([lambda: item(1)] * 20, limit=other),
            ) == [list(range(20)), [1] * 20]
        assert peak == 2
        assert left_on(server) == []

    run(main, **loop_options(loop))


@LOOPS
@EITHER
def test_items_end_with_their_connection_in_any_loop(server, loop, way):
    async def main():
        async with limit_on(server, 2, client=client_of(server, way), lease=100) as limit:

            async def item():
                async with limit:
                    await asyncio.sleep(100)

            tasks = [asyncio.create_task(item()) for _ in range(3)]
            await until(lambda: held(server) == 2)
            server.kill_connections()
            with pytest.raises(LeaseLost, match="connection"):
                await tasks[0]
            with pytest.raises(LeaseLost, match="connection"):
                await tasks[1]
            await until(lambda: held(server) >= 1)
            tasks[2].cancel()
            await asyncio.wait(tasks)
            await all_permits(limit)

    run(main, **loop_options(loop))


@LOOPS
def test_a_server_that_stands_still_is_noticed_in_any_loop(new_server, loop):
    server = new_server()

    async def main():
        async with limit_on(server, client=server.connector(), lease=1) as limit:
            async with contextlib.AsyncExitStack() as stack:
                with pytest.raises(LeaseLost):
                    async with limit:
                        stack.enter_context(server.frozen())
                        await asyncio.sleep(100)
                with pytest.raises(GateUnavailable):
                    await limit.acquire()
            await all_permits(limit)

    run(main, **loop_options(loop))


# --- One loop after the other ---------------------------------------------------------------------------------------


def test_a_limit_that_was_not_closed_serves_the_next_loop(server):
    limit = PostgresLimit(server.connector(), "name", 2, lease=60)

    async def use():
        async with limit:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(enter(limit))

    for _ in range(3):
        asyncio.run(use())
        assert left_on(server) == []


async def enter(limit):
    async with limit:
        await asyncio.sleep(0)


def test_what_a_loop_held_that_has_ended_is_to_be_had(server):
    limit = PostgresLimit(server.connector(), "name", 1, lease=60)
    for _ in range(2):
        asyncio.run(asyncio.wait_for(limit.acquire(), 30))  # and never releases it
        wait_until(lambda: left_on(server) == [])


def test_a_pool_of_a_loop_that_has_ended_is_refused(server):
    made = []

    async def first():
        pool = await server.client()
        made.append(PostgresLimit(pool, "name", 1, lease=1_000))
        await all_permits(made[0])
        await made[0].aclose()
        made[0] = PostgresLimit(pool, "name", 1, lease=1_000)
        await all_permits(made[0])
        pool.terminate()

    async def second():
        with pytest.raises(GateUnavailable, match="function that connects"):
            await made[0].acquire()
        await made[0].aclose()

    asyncio.run(first())
    run(second)


# --- Several loops at once ------------------------------------------------------------------------------------------


def test_two_loops_share_by_a_limit_each(server):
    inside, counted, peaks = 0, threading.Lock(), []
    connect = server.connector()

    async def item():
        nonlocal inside
        with counted:
            inside += 1
            peaks.append(inside)
        await asyncio.sleep(0.002)
        with counted:
            inside -= 1

    def work():
        async def main():
            async with limit_on(server, 3, client=connect, lease=60) as limit:
                await gatedcoro.gather(*(item() for _ in range(60)), limit=limit)

        run(main)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peaks) == 180
    assert max(peaks) == 3


def test_a_limit_that_is_in_use_is_refused_in_another_loop(server):
    async def main():
        async with limit_on(server, client=server.connector(), lease=60) as limit, limit:

            async def elsewhere():
                with pytest.raises(RuntimeError, match="different event loop"):
                    await limit.acquire()

            await asyncio.to_thread(asyncio.run, elsewhere())
            assert held(server) == 1

    run(main)


def test_a_pool_of_another_loop_is_refused(server):
    async def main():
        async with server.client() as pool:

            async def elsewhere():
                async with contextlib.aclosing(PostgresLimit(pool, "name", 1, lease=60)) as limit:
                    with pytest.raises(GateUnavailable, match="function that connects"):
                        await limit.acquire()

            await asyncio.to_thread(asyncio.run, elsewhere())
            async with contextlib.aclosing(PostgresLimit(pool, "name", 1, lease=60)) as limit:
                await all_permits(limit)

    run(main)


# --- After a fork ---------------------------------------------------------------------------------------------------


def forked(function):
    """The process id of a child that has all that this process has, calls the function, and lets go of what is not used any more."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        gc.collect()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ends_well(pid):
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


FORKS = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@FORKS
def test_a_child_uses_the_limit_that_it_has_inherited(server):
    """What the parent holds stays the parent's, whatever the child does."""

    async def main():
        async with limit_on(server, 2, client=server.connector(), lease=60) as limit, limit:

            async def of_the_child():
                async with limit:
                    assert limit.stats().sessions == 2
                    assert await limit.acquire(blocking=False) is None
                await limit.aclose()

            pid = forked(lambda: run(of_the_child))
            await asyncio.to_thread(ends_well, pid)
            assert len(sessions(server)) == 1 == held(server)
            # The parent's connection is whole: it asks, and is told.
            async with limit_on(server, 2, lease=60) as other:
                async with other:
                    waits = asyncio.create_task(limit.acquire())
                    await until(lambda: waiting(server) == 1)
                await waits
            limit.release()

    run(main)


@FORKS
def test_a_child_that_does_nothing_does_no_harm(server):
    async def main():
        async with limit_on(server, 2, client=server.connector(), lease=60) as limit, limit:
            await asyncio.to_thread(ends_well, forked(lambda: None))
            async with limit:
                await until(lambda: held(server) == 2)
        assert left_on(server) == []

    run(main)


@FORKS
def test_a_pool_that_a_child_has_inherited_is_refused_there(server):
    async def main():
        async with limit_on(server, 2, client=server.client(), lease=1_000) as limit, limit:

            async def of_the_child():
                with pytest.raises(GateUnavailable, match="function that connects"):
                    await limit.acquire()
                await limit.aclose()

            await asyncio.to_thread(ends_well, forked(lambda: run(of_the_child)))
            async with limit:
                await until(lambda: held(server) == 2)

    run(main)


def test_what_a_killed_process_held_is_free_though_its_child_has_the_connection(server, workers, witness):
    """The server does not see its end as long as the child lives: it is late, and those who wait have its connection ended."""
    one, other = workers("A", server, limit=2, lease=1), workers("B", server, limit=2, lease=1)
    one.run("a", "b")
    witness.wait_for("entered", times=2)
    other.run("c", "d")
    wait_until(lambda: waiting(server) == 1)
    one.order("fork", seconds=60)
    [child] = witness.wait_for("forked")
    try:
        one.kill()
        witness.wait_for("entered", worker="B", times=2)
    finally:
        os.kill(int(child.value), 9)
    assert witness.peak == 2
    other.end("c", "d")
    witness.wait_for("ended", times=2)
