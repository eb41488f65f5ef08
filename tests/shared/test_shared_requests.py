"""How often the server is asked: by who waits, and by who is alone."""

import asyncio
import contextlib
import time

import pytest

from shared_limits import limit_on, run, until
from shared_processes import listening, requests, waiting
from shared_servers import wait_until


@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize("kind", ["redis"], indirect=True)
def test_waiting_sends_nothing(server, workers, witness, limit):
    one, other = workers("A", server, limit=limit, lease=60), workers("B", server, limit=limit, lease=60)
    one.run(*"abcde"[:limit])
    witness.wait_for("entered", times=limit)
    other.run(*map(str, range(20)))
    wait_until(lambda: waiting(server) == 1 and listening(server) == 2)
    before = server.calls()
    one.run("one more", "another")
    other.run("one more", "another")
    for worker in (one, other):
        worker.order("nap", seconds=1)
    witness.wait_for("napped", times=2)
    after = server.calls()
    assert after["evalsha"] - before["evalsha"] <= 4
    assert sum((after - before).values()) <= 100  # what the script and this test ask for
    one.order("cancel")
    other.order("cancel")


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
def test_who_waits_looks_a_few_times_a_second_whether_a_process_was_killed(server):
    """Twice in all, however many wait: PostgreSQL tells nobody when a connection ends."""

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            limits = [await stack.enter_async_context(limit_on(server, lease=100)) for _ in range(12)]
            async with limits[0]:
                waits = [asyncio.create_task(limit.acquire()) for limit in limits[1:]]
                await until(lambda: waiting(server) == len(waits))
                before, began = requests(server), time.monotonic()
                await asyncio.sleep(3)
                sent, took = requests(server) - before, time.monotonic() - began
                for task in waits:
                    task.cancel()
                await asyncio.wait(waits)
        assert 1 <= sent <= 3 * 2 * took + 10

    run(main)


@pytest.mark.parametrize("kind", ["redis", "postgres"], indirect=True)
def test_nothing_is_sent_while_a_process_is_alone(server, workers, witness):
    one = workers("A", server, limit=5, lease=60)
    before = requests(server)
    one.run(*map(str, range(1_000)), seconds=0)
    witness.wait_for("ended", times=1_000)
    assert requests(server) - before <= 10
    assert witness.peak <= 5
