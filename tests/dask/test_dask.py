"""Work at a dask scheduler, submitted inside the items: how much of it is there, and what becomes of it (docs/engines.md)."""

import asyncio
import gc
import inspect
import itertools
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import dask_work
from dask_work import PATIENCE, die_once, fail, number_of_tasks, on_dask, square, stay, told
from gatedcoro import amap, gather, run_all

ROOT = Path(__file__).parents[2]
LIMIT = 6


# --- Results, errors, and how much is at the scheduler --------------------------------------------------------------


def through_amap(run, numbers):
    return amap(run, numbers, limit=LIMIT)


def through_run_all(run, numbers):
    return run_all((partial(run, number) for number in numbers), limit=LIMIT)


def through_gather(run, numbers):
    return gather(*map(run, numbers), limit=LIMIT)


@pytest.mark.parametrize("through", [through_amap, through_run_all, through_gather])
def test_no_more_than_the_limit_wait_or_run_at_the_scheduler(at_work, tmp_path, through):
    async def test(cluster):
        calling = asyncio.ensure_future(through(partial(on_dask, cluster.client, stay, str(tmp_path)), range(30)))
        try:
            await cluster.until(lambda: LIMIT <= len(cluster.client.futures) == len(cluster.scheduler.tasks))
        finally:
            Path(tmp_path, "go").touch()
        assert await calling == list(range(30))
        assert cluster.most_unfinished == LIMIT
        assert cluster.most <= 2 * LIMIT  # with results that ended items are just giving back

    at_work(test)


def test_all_that_is_handed_to_map_is_at_the_scheduler(at_work):
    """So that what is counted above is known to be seen."""

    async def test(cluster):
        await cluster.client.gather(cluster.client.map(square, range(60)))
        assert cluster.most_unfinished == cluster.most == 60

    at_work(test)


def test_an_endless_generator_is_drawn_no_further_than_the_window(at_work):
    async def test(cluster):
        drawn = 0

        def numbers():
            nonlocal drawn
            for number in itertools.count():
                drawn += 1
                yield number

        taken = 0
        async with amap(partial(on_dask, cluster.client, square), numbers(), limit=LIMIT) as results:
            async for result in results:
                assert result == taken * taken
                taken += 1
                assert drawn - taken <= 2 * LIMIT  # those that run, and results that wait for this loop
                if taken == 40:
                    break
        await cluster.until_forgotten()
        assert cluster.most_unfinished <= LIMIT

    at_work(test)


def test_the_error_of_a_function_is_the_error_of_its_item(at_work):
    async def test(cluster):
        with pytest.raises(ValueError, match="0"):
            await amap(partial(on_dask, cluster.client, fail), itertools.count(), limit=1)

        works = [
            on_dask(cluster.client, function, number) for number, function in enumerate((square, fail, square, fail))
        ]
        results = await gather(*works, limit=LIMIT, return_exceptions=True)
        assert [repr(result) for result in results] == ["0", "ValueError(1)", "4", "ValueError(3)"]

    at_work(test)


# --- Cancellation ----------------------------------------------------------------------------------------------------


def test_what_has_not_begun_when_a_call_is_cancelled_never_begins(at_work, tmp_path):
    async def test(cluster):
        async def call():
            await amap(partial(on_dask, cluster.client, stay, str(tmp_path)), itertools.count(), limit=LIMIT)

        calling = asyncio.create_task(call())
        await cluster.until(lambda: len(told(tmp_path, "begun")) == 2)  # one at each worker
        await cluster.until(lambda: len(cluster.scheduler.tasks) == LIMIT)
        calling.cancel()
        await asyncio.wait([calling])
        assert calling.cancelled()
        await cluster.until_forgotten()

        async def workers_have_heard_of_it():
            return set((await cluster.client.run(number_of_tasks)).values()) == {1}

        await cluster.until(workers_have_heard_of_it)
        Path(tmp_path, "go").touch()
        await cluster.until(lambda: len(told(tmp_path, "ended")) == 2)  # a running one is not stopped
        await amap(
            partial(on_dask, cluster.client, square), range(4), limit=4
        )  # whatever waited would be ahead of these
        assert told(tmp_path, "begun") == [0, 1]

    at_work(test)


def test_the_first_error_takes_back_what_is_at_the_scheduler(at_work, tmp_path):
    async def test(cluster):
        works = [partial(on_dask, cluster.client, stay, str(tmp_path), number) for number in range(2)]

        async def an_error_of_another_kind():
            await cluster.until(lambda: len(told(tmp_path, "begun")) == 2)
            raise LookupError

        try:
            with pytest.raises(LookupError):
                await run_all([*works, an_error_of_another_kind, *works], limit=LIMIT)
            await cluster.until_forgotten()
            assert told(tmp_path, "ended") == []
        finally:
            Path(tmp_path, "go").touch()

    at_work(test)


def test_the_end_of_one_item_leaves_another_with_the_same_key_alone(at_work, tmp_path):
    async def test(cluster):
        async def keyed():
            future = cluster.client.submit(stay, str(tmp_path), 1, key="a key")
            try:
                return await future
            finally:
                future.release()

        first, second = (asyncio.create_task(keyed()) for _ in range(2))
        await cluster.until(lambda: told(tmp_path, "begun") == [1])
        first.cancel()
        await asyncio.wait([first])
        Path(tmp_path, "go").touch()
        assert await second == 1 and first.cancelled()

    at_work(test)


class OneKey:
    """A client for which all calls are the same one, which has ended: the result is fetched at once."""

    def __init__(self, client):
        self.client = client
        self.status = client.status

    def submit(self, function, *arguments, pure):
        return self.client.submit(function, *arguments, key="one")


def test_an_item_that_is_cancelled_while_it_fetches_its_result_leaves_the_others_theirs(at_work):
    async def test(cluster):
        held = cluster.client.submit(square, 3, key="one")
        await held
        for turns in range(12):
            fetching, other = (asyncio.create_task(on_dask(OneKey(cluster.client), square, 3)) for _ in range(2))
            for _ in range(turns):
                await asyncio.sleep(0)
            fetching.cancel()
            assert await other == 9
            assert await on_dask(cluster.client, square, turns) == turns * turns
        held.release()

    at_work(test)


class Fetches:
    """A client and its future in one: what it was given has ended, and its result is fetched by a function of the test."""

    status = "running"

    def __init__(self, result):
        self.result = result
        self.is_released = False

    def submit(self, function, *arguments, pure):
        return self

    def release(self):
        self.is_released = True


def test_an_item_that_is_cancelled_while_it_fetches_its_result_reports_nothing():
    """What the item has released meanwhile is an error of the fetch, which goes on."""
    from dask.distributed import CancelledError

    reported = []

    async def test():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["message"]))
        fetches, go = asyncio.Event(), asyncio.Event()

        async def result():
            fetches.set()
            await go.wait()
            raise CancelledError("released")

        fetching = asyncio.create_task(on_dask(client := Fetches(result), square, 3))
        await fetches.wait()
        fetching.cancel()
        await asyncio.wait([fetching])
        assert fetching.cancelled() and client.is_released
        go.set()
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(test())
    assert reported == []


def test_a_client_need_not_be_the_default_one(at_work):
    from dask.distributed import Client

    async def test(cluster):
        async with Client(cluster.scheduler.address, asynchronous=True, set_as_default=False) as client:
            await cluster.client.close()
            assert await on_dask(client, square, 3) == 9

    at_work(test)


# --- What is lost ----------------------------------------------------------------------------------------------------


def test_what_somebody_else_cancels_is_an_error_that_is_not_asyncios(at_work, tmp_path):
    from dask.distributed import CancelledError, Future

    async def test(cluster):
        try:
            calling = gather(
                on_dask(cluster.client, stay, str(tmp_path), 0),
                on_dask(cluster.client, square, 3),
                limit=1,
                return_exceptions=True,
            )
            await cluster.until(lambda: told(tmp_path, "begun") == [0])
            await cluster.client.cancel([Future(key, cluster.client) for key in list(cluster.client.futures)])
            lost, found = await calling
            assert isinstance(lost, ConnectionError) and isinstance(lost.__cause__, CancelledError)
            assert found == 9
        finally:
            Path(tmp_path, "go").touch()

    at_work(test)


def test_a_client_that_is_closed_ends_the_items_with_that_error(at_work, tmp_path):
    async def test(cluster):
        try:
            works = [on_dask(cluster.client, stay, str(tmp_path), number) for number in range(8)]
            calling = gather(*works, limit=4, return_exceptions=True)
            await cluster.until(lambda: len(told(tmp_path, "begun")) == 2)
            await cluster.client.close()
            assert [type(result) for result in await calling] == [ConnectionError] * 8
        finally:
            Path(tmp_path, "go").touch()

    at_work(test)


def test_a_scheduler_that_is_killed_ends_the_items_with_that_error(tmp_path):
    from dask.distributed import Client

    async def test():
        where = tmp_path / "scheduler.json"
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(where)]
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            async with asyncio.timeout(PATIENCE):
                while not where.exists():
                    assert process.poll() is None
                    await asyncio.sleep(0.01)
                async with Client(scheduler_file=str(where), asynchronous=True, timeout=5) as client:
                    # A builtin: that process has not the path of the tests, and would refuse what is of theirs.
                    calling = gather(*(on_dask(client, abs, number) for number in range(4)), return_exceptions=True)
                    while len(client.futures) < 4:  # they wait: there is no worker
                        await asyncio.sleep(0.01)
                    await client.scheduler.identity()
                    process.send_signal(signal.SIGKILL)
                    assert [type(result) for result in await calling] == [ConnectionError] * 4
        finally:
            process.kill()
            process.wait()

    asyncio.run(test())


def test_a_connection_that_breaks_while_a_result_is_fetched_is_that_error():
    from distributed.comm import CommClosedError

    async def result():
        raise CommClosedError("a scheduler is gone")

    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(on_dask(client := Fetches(result), square, 3))
    assert client.is_released


def test_work_of_a_worker_that_is_killed_runs_again(at_work, tmp_path):
    async def test(cluster):
        works = [on_dask(cluster.client, square, number) for number in range(8)]
        results = await gather(on_dask(cluster.client, die_once, str(tmp_path), 7), *works, limit=4)
        assert results == [7, *(number * number for number in range(8))]

    at_work(test)


def test_work_that_kills_its_workers_is_an_error_of_its_item(at_work, tmp_path):
    from dask.distributed import KilledWorker

    async def test(cluster):
        allowed, cluster.scheduler.allowed_failures = cluster.scheduler.allowed_failures, 0
        try:
            works = [on_dask(cluster.client, square, number) for number in range(2)]
            killed, *others = await gather(
                on_dask(cluster.client, die_once, str(tmp_path), 7), *works, limit=1, return_exceptions=True
            )
            assert isinstance(killed, KilledWorker) and others == [0, 1]
        finally:
            cluster.scheduler.allowed_failures = allowed

    at_work(test)


# --- What is shown is what is tested --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["docs/engines.md", "examples/dask_search.py"])
def test_the_adapter_is_the_one_that_is_shown(place):
    if not (ROOT / "docs").exists():
        pytest.skip("the tests stand alone here")
    source = inspect.getsource(dask_work.on_dask)
    assert source[source.index("    if client.status") :] in (ROOT / place).read_text(encoding="utf-8")
