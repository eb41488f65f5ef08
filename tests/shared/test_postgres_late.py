"""Sessions of PostgresLimit that say nothing: what is theirs is not kept for them for ever."""

import asyncio
import contextlib
import functools

import asyncpg
import pytest

from gatedcoro.shared import LeaseLost, PostgresLimit
from shared_limits import run, until
from shared_statement import Session, Statement


@contextlib.asynccontextmanager
async def limit_on(url, limit=1, lease=1, **options):
    limit = PostgresLimit(functools.partial(asyncpg.connect, url), "name", limit, lease=lease, **options)
    async with contextlib.aclosing(limit):
        yield limit


def test_who_waits_and_does_not_come_is_passed_over(postgres):
    async def main():
        async with Statement(postgres.url, 1) as silent, limit_on(postgres.url, lease=60) as limit:
            await silent.set(Session(wants=1, limit=1))
            async with limit:
                assert not silent.connections[0].is_closed()
            async with limit:
                pass

    run(main)


def test_who_holds_a_permit_and_is_late_loses_its_connection(postgres):
    async def main():
        async with Statement(postgres.url, 1) as silent, limit_on(postgres.url) as limit:
            await silent.set(Session(held=1, limit=1, late_in=100))
            async with limit:
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                    await silent.connections[0].execute("SELECT")

    run(main)


def test_who_says_something_is_not_late(postgres):
    """Though it was silent for long before: the server may have been, or its clock was set."""

    async def main():
        async with Statement(postgres.url, 1) as late, limit_on(postgres.url, lease=4) as limit:
            await late.set(Session(held=1, limit=1, late_in=-100))
            waiting = asyncio.create_task(limit.acquire())

            async def has_looked(times):
                target = (limit._session.number if limit._session else 0) + times
                await until(lambda: limit._session is not None and limit._session.number >= target)

            async def says(keeps):
                query = late.statements[0]
                await query.fetchval(*late.keys, keeps, 0, 1, not keeps, 60_000, "", "")

            await has_looked(2)
            await says(1)
            await has_looked(8)  # twice a second
            assert not waiting.done()
            await says(0)
            await waiting
            limit.release()

    run(main)


def test_a_connection_that_may_not_be_ended_is_left_alone(postgres):
    async def main():
        query = "SELECT pid FROM pg_stat_activity WHERE usename = 'other'"
        url = postgres.url.replace("benchmark@", "other@")
        async with Statement(postgres.url, 1) as silent, limit_on(url) as limit:
            await silent.set(Session(held=1, limit=1, late_in=-100))
            assert await limit.acquire(timeout=2) is None
            await silent.connections[0].execute("SELECT pg_advisory_unlock_all()")
            assert await limit.acquire()
            assert len(await silent.connections[0].fetch(query)) == 1
            limit.release()

    postgres.execute("CREATE ROLE other LOGIN")
    try:
        run(main)
    finally:
        postgres.execute("DROP ROLE other")


def test_items_of_a_session_that_was_late_end(postgres):
    """Its event loop has stood still, or the whole process; when it goes on it is told."""

    async def main():
        async with limit_on(postgres.url) as limit, limit_on(postgres.url) as other:
            entered = asyncio.Event()

            async def item():
                async with limit:
                    entered.set()
                    await asyncio.sleep(3_600)

            task = asyncio.create_task(item())
            await entered.wait()
            limit._session._request = asyncio.Event().wait  # it says nothing any more, though its event loop goes on
            async with other:
                with pytest.raises(LeaseLost, match="its connection to PostgreSQL has ended"):
                    await task

    run(main)


@pytest.mark.parametrize("who", ["another one", "the same"])
def test_who_comes_after_somebody_was_passed_over_has_its_share(postgres, who):
    """Whoever passes over hears of nobody: for others the silent one still waits, and it itself says nothing new when it is back."""

    async def main():
        async with (
            Statement(postgres.url, 1) as silent,
            limit_on(postgres.url, lease=1_000) as limit,
            limit_on(postgres.url, lease=1_000) as other,
        ):
            await silent.set(Session(wants=1, limit=1, late_in=1_000_000))
            items = 0

            async def works():
                nonlocal items
                while True:
                    async with limit:
                        await asyncio.sleep(0.005)
                        items += 1

            working = [asyncio.create_task(works()) for _ in range(2)]
            await until(lambda: items > 20)
            if who == "another one":
                async with other:
                    pass
            else:
                gained = 0
                while not gained:
                    row = await silent.statements[0].fetchval(*silent.keys, 0, 1, 1, False, 1_000_000, "", "")
                    gained = int(row.split()[1])
                    await asyncio.sleep(0.01)
            for task in working:
                task.cancel()
            await asyncio.wait(working)

    run(main)
