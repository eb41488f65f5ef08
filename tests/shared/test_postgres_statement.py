"""The statement of PostgresLimit does what a plain rulebook says, from each state that a few sessions with a low limit can be in.

What it does depends on nothing but what the server has then. So each request in each state shows what each order of requests does.
"""

import asyncio
import itertools
import random

import pytest

from effort import SHORT
from shared_statement import Session, Statement


def run(postgres, main, number=3, **options):
    async def with_statement():
        async with Statement(postgres.url, number, **options) as statement:
            await main(statement)

    asyncio.run(with_statement())


def states(number, limit, most):
    """Of each session what it holds and wants, or None; of those that wait in each order."""
    kinds = [None, *itertools.product(range(limit + 1), range(most + 1))]
    for state in itertools.product(kinds, repeat=number):
        if sum(kind[0] for kind in state if kind) > limit:
            continue
        waiting = [at for at, kind in enumerate(state) if kind and kind[1]]
        for order in itertools.permutations(range(len(waiting))):
            since = dict(zip(waiting, order))
            yield [kind and Session(*kind, since.get(at, 0), limit) for at, kind in enumerate(state)]


@pytest.mark.parametrize("number, limit, most", [(2, 3, 2), (3, 2, 1)])
def test_every_request_in_every_state(postgres, number, limit, most):
    async def main(statement):
        for state in states(number, limit, most):
            held = state[0].held if state[0] else 0
            for keeps, wants in itertools.product(range(held + 1), range(most + 1)):
                await statement.set(*state)
                try:
                    await statement.ask(0, keeps, wants, limit)
                except BaseException as error:
                    error.add_note(f"keeps={keeps} wants={wants} with {state}")
                    raise

    run(postgres, main, number)


def test_what_leaves_leaves_nothing(postgres):
    async def main(statement):
        for own in [Session(2, 0), Session(1, 1, 1), Session(0, 2, 1), Session()]:
            await statement.set(own, Session(0, 2, 2))
            await statement.messages()
            await statement.ask(0, 0, 0, leaves=True)
            assert set(await statement.locks()) == {1}
            await statement.ask(1, 0, 0, leaves=True)
            assert await statement.locks() == {}

    run(postgres, main, 2)


def test_limits_that_differ(postgres):
    """Each keeps to its own number. What is the other's part only by the lower one's limit is not kept for it."""

    async def main(statement):
        own = Session(held=4, wants=5, since=1, limit=10)
        for other in (Session(held=0, wants=9, since=2, limit=4), Session(held=3, wants=2, since=2, limit=6)):
            await statement.set(own, other)
            await statement.ask(0, 4, 5, 10)
            assert statement.rulebook.total == min(10, 9 + other.held)
            # And the other, which the higher limit leaves nothing.
            await statement.ask(1, other.held, 1, other.limit)
        # Nothing is kept for who has reached its own limit, as long as somebody waits who has not.
        blocked, fourth = Session(wants=9, since=1, limit=3), Session(held=4, wants=1, since=2, limit=10)
        await statement.set(Session(wants=6, since=3, limit=10), blocked, fourth)
        await statement.ask(0, 0, 6, 10)
        assert statement.rulebook.sessions[0].held == 5
        # Nor for who will have reached it.
        await statement.set(Session(wants=10, since=3, limit=10), Session(wants=9, since=1, limit=4), None)
        query = statement.statements[0].fetchval(*statement.keys, 0, 10, 10, False, 60_000, "", "")
        assert (await query).split()[:2] == ["0", "10"]
        # A lower limit: who holds more is told.
        await statement.set(Session(held=1, limit=5), Session(held=4, limit=5), None)
        await statement.messages()
        await statement.ask(0, 1, 0, 3)

    run(postgres, main, 3)


def test_numbers_at_their_end(postgres):
    async def main(statement):
        async def ask(number, keeps, wants, leaves=False):
            row = await statement.statements[number].fetchval(*statement.keys, keeps, wants, highest, leaves, 1, "", "")
            return [*map(int, row.split()[:2])]

        highest = 2**31 - 1
        assert await ask(0, 0, highest) == [0, highest]
        assert await ask(1, 0, highest) == [0, 0]
        assert await ask(0, highest - 3, 0) == [highest, 0]
        assert await ask(1, 0, highest) == [0, 3]
        assert await ask(1, 0, 0, leaves=True) == [3, 0]
        assert await ask(0, 0, 0, leaves=True) == [highest - 3, 0]
        assert await statement.locks() == {}

    run(postgres, main, 2)


def test_who_has_waited_across_the_end_of_32_bits_is_first(postgres):
    """Of times there are the last 32 bits, of milliseconds: 49 days."""

    async def main(statement):
        await statement.set(Session(held=2), Session(wants=1, since=1), Session(wants=1, since=2))
        now = await statement.now()
        # The first came before now by nearly all of them, so that its number is higher than the second's.
        for number, age in ((1, 2**32 - 100_000), (2, now % 2**32 - 1)):
            [[key, value]] = [
                pair for pair in (await statement.locks())[number].items() if pair[0] == statement.keys.arrival % 2**32
            ]
            query = "SELECT pg_advisory_unlock_shared({0}, ({1})::bit(32)::int), pg_advisory_lock_shared({0}, ({2})::bit(32)::int)"
            await statement.connections[number].execute(
                query.format(statement.keys.arrival, value, (now - age) % 2**32)
            )
        await statement.ask(0, 1, 0)
        assert statement.rulebook.gain_of(1) == 1
        await statement.ask(2, 0, 1)
        await statement.ask(1, 0, 1)

    run(postgres, main, 3)


def test_requests_at_the_same_time(postgres):
    """One after the other is carried out."""

    async def main(statement):
        limit, highest = 5, 0

        async def session(number):
            nonlocal highest
            held, choice = 0, random.Random(number)
            for _ in range(20 if SHORT else 100):
                keeps = choice.randint(0, held)
                row = await statement.statements[number].fetchval(
                    *statement.keys, keeps, choice.randint(0, 4), limit, False, 60_000, "", ""
                )
                before, gained, _, _, _, total = map(int, row.split()[:6])
                assert before == held
                assert total <= limit
                held, highest = keeps + gained, max(highest, total)
            await statement.statements[number].fetchval(*statement.keys, 0, 0, limit, True, 1, "", "")

        await asyncio.gather(*map(session, range(statement.number)))
        assert highest == limit
        assert await statement.locks() == {}

    run(postgres, main, 6)


@pytest.mark.parametrize(
    "before",
    [
        "SET enable_nestloop = off; SET enable_material = off",
        "SET enable_hashjoin = off; SET enable_mergejoin = off; SET from_collapse_limit = 1; SET join_collapse_limit = 1",
        "SET plan_cache_mode = force_custom_plan; SET geqo_threshold = 2",
        "SET default_transaction_isolation = serializable",
        "SET default_transaction_read_only = on",
        "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = -15; SET bytea_output = escape",
    ],
)
def test_settings_of_the_server_change_nothing(postgres, before):
    async def main(statement):
        await statement.ask(0, 0, 2)
        await statement.ask(1, 0, 2)
        await statement.ask(2, 0, 1)
        await statement.ask(0, 1, 1)
        await statement.ask(1, 0, 2)
        await statement.ask(0, 0, 0, leaves=True)
        await statement.ask(2, 0, 1)

    run(postgres, main, 3, before=before)


def test_names_and_databases_do_not_meet(postgres):
    postgres.execute("CREATE DATABASE another")

    async def main(statement):
        await statement.ask(0, 0, 2)
        another = postgres.url.rpartition("/")[0] + "/another"
        for url, name in ((postgres.url, "other"), (another, "name")):
            async with Statement(url, 1, name) as elsewhere:
                await elsewhere.ask(0, 0, 2)
                await elsewhere.ask(0, 0, 1)
        await statement.ask(1, 0, 1)

    try:
        run(postgres, main, 2)
    finally:
        postgres.execute("DROP DATABASE another WITH (FORCE)")


def test_names_that_share_a_number(postgres):
    """A name is told by 64 bits of its hash, the rest of what it has by 32."""

    async def main(statement):
        await statement.set(None, Session(held=2, wants=1))
        query = "SELECT pg_advisory_unlock_shared({0}, {1}), pg_advisory_lock_shared({0}, {1} # 1)"
        await statement.connections[1].execute(query.format(statement.keys.member, statement.keys.member_value))
        del statement.rulebook.sessions[1]
        row = await statement.statements[0].fetchval(*statement.keys, 0, 2, 2, False, 60_000, "", "")
        assert row.split()[:7] == ["0", "2", row.split()[2], "0", "0", "2", "1"]

    run(postgres, main, 2)


def test_who_does_not_come_is_passed_over(postgres):
    async def main(statement):
        state = Session(held=2), Session(wants=1, since=1), Session(wants=1, since=2), Session()
        await statement.set(*state)
        await statement.messages()
        await statement.ask(0, 1, 2)  # the first is called
        await statement.ask(3, 0, 1, called=[1])
        await statement.ask(2, 0, 1, called=[1], absent=[1])
        assert statement.rulebook.sessions[2].held == 1
        await statement.ask(1, 0, 1)  # it says something, and is there again
        await statement.ask(2, 0, 1)
        await statement.ask(1, 0, 1)
        assert statement.rulebook.sessions[1].held == 1

    run(postgres, main, 4)


def test_who_has_said_nothing_is_late(postgres):
    async def main(statement):
        silent = [Session(held=1, late_in=-5), Session(wants=1, late_in=-5), Session(late_in=-5), Session(held=1)]
        await statement.set(None, *silent)
        await statement.messages()
        await statement.ask(0, 0, 1, late=[1, 2, 3])
        await statement.ask(1, 1, 0, late=[2, 3])
        await statement.ask(0, 0, 1, late=[2, 3], absent=[2])
        # Times go round; half of all are later than now.
        half = 2**31 - 10_000
        await statement.set(None, Session(late_in=half), Session(late_in=-half), None, None)
        await statement.messages()
        await statement.ask(0, 0, 1, late=[2])

    run(postgres, main, 5)


# --- Longer ones ----------------------------------------------------------------------------------------------------


def test_long_orders_of_requests(postgres):
    """Of up to five sessions; connections end in between. Who is called comes in the end, and then nobody waits for what is free."""

    async def main(statement, choice):
        limit = choice.randint(1, 8)
        held = [0] * statement.number
        await statement.set(*[None] * statement.number)
        for _ in range(30):
            number = choice.randrange(statement.number)
            if choice.random() < 0.1:
                await statement.set_one(number, None)
                held[number] = 0
                continue
            await statement.ask(number, choice.randint(0, held[number]), choice.randint(0, 4), limit)
            held[number] = statement.rulebook.sessions[number].held
        for _ in range(2):  # after the second nothing can have come free without notice
            for number, session in sorted(statement.rulebook.sessions.items(), key=lambda item: item[1].held):
                await statement.ask(number, session.held, session.wants, limit)
        assert not statement.rulebook.waiting() or statement.rulebook.total >= limit

    async def each(statement):
        for seed in range(5 if SHORT else 40):
            try:
                await main(statement, random.Random(seed))
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise

    run(postgres, each, 5)
