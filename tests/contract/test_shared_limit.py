"""A shared limit in one process, on a server in memory: who is served when, what is asked for, what goes back, what it says of itself."""

import asyncio
import collections
import itertools

import pytest

from contract_tools import Running
from gatedcoro.shared import LimitStats, _permits
from gatedcoro.shared._limit import SharedLimit, checked_lease
from shared_state import NAME, Server
from shared_tools import Item, all_is_given_back, entered, run, until


def asked(line):
    """How many permits each request asked for, where it asked."""
    return [request.asked - request.granted for request in line.requests if request.asked > request.granted]


# Within a process


def test_first_come_first_served():
    async def main():
        server = Server()
        limit = server.limit(2)
        order = []
        items = [Item(limit, name, order) for name in "abcdefg"]
        for one in items:
            await one.starts()
            await one.ends()
        assert order == [*"abcdefg"]
        await all_is_given_back(server, limit)

    run(main)


def test_who_comes_while_others_wait_comes_last():
    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        order = []
        items = [Item(limit, name, order) for name in "ab"]
        await asyncio.sleep(0.01)
        first.may_end.set()
        items.append(Item(limit, "late", order))
        for one in items:
            await one.ends()
        assert order == ["a", "b", "late"]
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("at_most", [1, 2, 3, 8])
def test_never_more_than_the_limit_and_never_fewer_while_there_is_work(at_most):
    running = Running()

    async def item(limit):
        async with limit:
            with running:
                await asyncio.sleep(1)

    async def main():
        server = Server()
        limit = server.limit(at_most)
        await asyncio.gather(*[item(limit) for _ in range(4 * at_most)])
        # So it was full all the time: the permits are there from the first request on.
        assert server.now == pytest.approx(4, abs=0.01)
        await all_is_given_back(server, limit)

    run(main)
    assert running.most == at_most


def test_a_permit_passes_from_item_to_item_without_a_request():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(3, line=line)

        async def one():
            async with limit:
                await asyncio.sleep(0)

        await asyncio.gather(*[one() for _ in range(1_000)])
        for _ in range(100):
            await one()  # nobody waits: it is idle in between
        assert asked(line) == [3]
        await all_is_given_back(server, limit)

    run(main)


def test_who_is_alone_asks_for_twice_as_many_each_time():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(20, line=line)
        await entered_one_by_one(limit, 20)
        assert asked(line) == [1, 2, 4, 8, 5]
        await all_is_given_back(server, limit)

    async def entered_one_by_one(limit, count):
        items = []
        for _ in range(count):
            items += await entered(limit)
        for one in items:
            await one.ends()

    run(main)


def test_after_less_than_was_asked_for_it_begins_with_one_again():
    async def main():
        server = Server()
        line = server.line()
        limit, other = server.limit(6, line=line), server.limit(6)
        theirs = await entered(other, 4)
        items = await entered(limit)
        items += await entered(limit)  # asks for two, and gets one
        more = Item(limit)
        await asyncio.sleep(0.1)
        assert asked(line)[:2] == [1, 2]
        for one in theirs:
            await one.ends()
        await more.starts()  # with the other one
        items += await entered(limit)
        assert asked(line) == [1, 2, 1]
        for one in [*items, more]:
            await one.ends()
        await all_is_given_back(server, limit, other)

    run(main)


def test_who_shares_asks_for_no_more_than_it_needs():
    async def main():
        server = Server()
        line = server.line()
        limit, other = server.limit(4, line=line), server.limit(4)
        theirs = await entered(other, 4)
        beside = [Item(other) for _ in range(4)]
        waiting = [Item(limit)]
        await asyncio.sleep(0.1)
        assert set(asked(line)) == {1}
        waiting += [Item(limit)]
        for one in theirs:
            await one.ends()
        for one in waiting:
            await one.starts()
        assert max(asked(line)) <= 2
        for one in waiting + beside:
            await one.ends()
        await all_is_given_back(server, limit, other)

    run(main)


def test_who_has_asked_for_more_ahead_does_not_while_others_wait():
    async def main():
        server = Server()
        line = server.line()
        limit, other = server.limit(8, line=line), server.limit(8)
        items = [one for _ in range(2) for one in await entered(limit)]
        theirs = await entered(other, 5)
        theirs += [Item(other) for _ in range(3)]
        await asyncio.sleep(0.02)
        items.append(Item(limit))
        await asyncio.sleep(0.02)
        assert asked(line)[:2] == [1, 2] and set(asked(line)[2:]) == {1}
        for one in items + theirs:
            one.may_end.set()
        await asyncio.wait([one.task for one in items + theirs])
        await all_is_given_back(server, limit, other)

    run(main)


def test_what_nobody_has_wanted_for_a_while_goes_back():
    async def main():
        server = Server()
        limit = server.limit(4)
        items = await entered(limit, 4)
        for one in items[:3]:
            await one.ends()
        assert server.total == 4
        await asyncio.sleep(_permits.IDLE * 0.9)
        assert server.total == 4
        await asyncio.sleep(_permits.IDLE * 1.2)
        assert server.total == 1
        await items[3].ends()
        await asyncio.sleep(_permits.IDLE * 1.1)
        assert server.total == 0
        await all_is_given_back(server, limit)

    run(main)


def test_what_was_wanted_meanwhile_stays():
    async def main():
        server = Server()
        limit = server.limit(4)
        for one in await entered(limit, 4):
            await one.ends()

        async def use():
            async with limit:
                await asyncio.sleep(_permits.IDLE / 3)

        for _ in range(8):
            await asyncio.gather(use(), use())
        assert server.total == 2  # the other two went
        await all_is_given_back(server, limit)

    run(main)


def test_what_was_in_use_for_a_moment_stays_for_another_while():
    async def main():
        server = Server()
        limit = server.limit(3)
        for one in await entered(limit, 3):
            await one.ends()
        await asyncio.sleep(_permits.IDLE * 1.5)  # one went: so many were idle from the beginning on
        assert server.total == 2
        for one in await entered(limit, 2):
            await one.ends()
        await asyncio.sleep(_permits.IDLE)
        assert server.total == 2
        await asyncio.sleep(_permits.IDLE * 2)
        assert server.total == 0
        await all_is_given_back(server, limit)

    run(main)


def test_after_that_it_asks_for_one_again():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(8, line=line)
        for _ in range(2):
            for one in [*await entered(limit), *await entered(limit)]:
                await one.ends()
            await asyncio.sleep(_permits.IDLE * 4)
            assert server.total == 0
        assert asked(line) == [1, 2, 1, 2]
        await all_is_given_back(server, limit)

    run(main)


def test_a_session_that_needs_nothing_is_over_and_the_next_is_another():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        tokens = []
        for number in (1, 2):
            async with limit as token:
                tokens.append(token)
                assert limit.stats().sessions == 1
            await asyncio.sleep(server.lease)
            assert server.records == {} and line.closed == number
            assert limit.stats().sessions == 0
        assert tokens[0] < tokens[1]
        await all_is_given_back(server, limit)

    run(main)


def test_a_lease_is_renewed_while_an_item_runs():
    async def main():
        server = Server(lease=3)
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        await asyncio.sleep(100 * server.lease)
        assert 300 <= len(line.requests) <= 340  # three times a lease, a little earlier
        assert await one.ends() == ""
        await all_is_given_back(server, limit)

    run(main)


# Between processes


def test_who_waits_is_served_when_another_process_leaves():
    async def main():
        server = Server()
        limits = [server.limit(1) for _ in range(3)]
        order = []
        items = []
        for name, limit in zip("abc", limits):
            items.append(Item(limit, name, order))
            await asyncio.sleep(0.01)
        for one in items:
            await one.starts()
            await one.ends()
        assert order == [*"abc"]
        assert server.now < 1  # told at once, not by a renewal
        await all_is_given_back(server, *limits)

    run(main)


def test_without_messages_it_takes_until_the_next_renewal():
    async def main():
        server = Server()
        holding, line = server.limit(1), server.line()
        line.drops = True
        limit = server.limit(1, line=line)
        [first] = await entered(holding)
        second = Item(limit)
        await asyncio.sleep(0.1)
        await first.ends()
        await second.starts()
        assert server.now <= server.lease / 3 + 0.1
        await second.ends()
        await all_is_given_back(server, holding, limit)

    run(main)


async def busy(limit, until_when, seconds):
    loop = asyncio.get_running_loop()
    while loop.time() < until_when:
        async with limit:
            await asyncio.sleep(seconds)


@pytest.mark.parametrize("at_most, shares", [(6, [3, 3]), (6, [2, 2, 2]), (9, [3, 3, 3])])
def test_each_process_comes_to_hold_as_many(at_most, shares):
    async def main():
        server = Server()
        limits = [server.limit(at_most) for _ in shares]
        tasks = []
        for limit in limits:
            tasks += [asyncio.create_task(busy(limit, 5, 0.01)) for _ in range(at_most + 2)]
            await asyncio.sleep(0.5)  # the first has all, and gives up its share
        await asyncio.sleep(1)
        assert [limit.stats().held for limit in limits] == shares
        before = server.requests
        await asyncio.sleep(2)
        assert server.requests - before <= 2 * len(shares)  # and then they stay with whom they are
        await asyncio.gather(*tasks)
        await all_is_given_back(server, *limits)

    run(main)


def test_what_one_does_not_want_the_others_have():
    async def main():
        server = Server()
        modest, greedy = server.limit(6), server.limit(6)
        tasks = [asyncio.create_task(busy(greedy, 5, 0.01)) for _ in range(9)]
        await asyncio.sleep(0.5)
        tasks.append(asyncio.create_task(busy(modest, 5, 0.01)))
        await asyncio.sleep(1)
        assert (modest.stats().held, greedy.stats().held) == (1, 5)
        await asyncio.gather(*tasks)
        await all_is_given_back(server, modest, greedy)

    run(main)


def test_no_more_is_given_up_than_is_due_while_the_answer_is_under_way():
    async def main():
        server = Server()
        line = server.line()
        limit, other = server.limit(10, line=line), server.limit(10)
        items = await entered(limit, 10)
        more = [Item(limit) for _ in range(20)]
        theirs = [Item(other) for _ in range(20)]
        await asyncio.sleep(1)
        line.delay = 1
        for one in items:
            await one.ends()
        assert limit.stats().held == 5
        line.delay = 0
        for one in more + theirs:
            one.may_end.set()
        await asyncio.wait([one.task for one in more + theirs])
        await asyncio.sleep(1)
        await all_is_given_back(server, limit, other)

    run(main)


async def turns_of(server, seconds, lines):
    """A limit of 1, and items of 10 ms in as many processes: when each item began, and the times from process to process."""
    limits = [server.limit(1, line=line) for line in lines]
    turns = []
    end = server.now + seconds

    async def work(number, limit):
        while server.now < end:
            async with limit:
                turns.append((number, server.now))
                await asyncio.sleep(0.01)

    await asyncio.gather(*[work(number, limit) for number, limit in enumerate(limits) for _ in range(2)])
    changes = [when for (one, _), (other, when) in zip(turns, turns[1:]) if one != other]
    await all_is_given_back(server, *limits, at_once=False)
    gaps = [after - before for before, after in zip(changes, changes[1:])]
    return turns, gaps[:-3]  # in the last ones somebody has nothing to do any more


def test_a_limit_of_one_goes_round_after_a_quantum():
    async def main():
        server = Server()
        _, gaps = await turns_of(server, 3, [server.line() for _ in range(3)])
        assert len(gaps) > 3 / (2 * _permits.QUANTUM)
        assert min(gaps) >= _permits.QUANTUM  # not at each item's end

    run(main)


@pytest.mark.parametrize("delay, quantum", [(0.0005, 0.05), (0.005, 0.3), (0.5, 1)])
def test_it_goes_round_more_slowly_where_the_server_takes_long(delay, quantum):
    async def main():
        server = Server()
        lines = [server.line(delay=delay, answer_delay=delay, message_delay=delay) for _ in range(3)]
        turns, gaps = await turns_of(server, 200 * quantum, lines)
        late = gaps[len(gaps) // 2 :]  # when many round trips have been seen
        assert len(late) > 20
        assert min(late) > 0.9 * quantum
        assert max(late) < quantum + 6 * delay + 0.02
        assert {number for number, _ in turns} == {0, 1, 2}

    run(main)


@pytest.mark.parametrize("limit", [3, 7])
def test_what_cannot_be_dealt_out_evenly_goes_round_as_slowly(limit):
    async def main():
        server = Server()
        lines = [server.line(delay=0.005, answer_delay=0.005, message_delay=0.005) for _ in range(5)]
        limits = [server.limit(limit, line=line) for line in lines]

        async def work(limit):
            while server.now < 30:
                async with limit:
                    await asyncio.sleep(0.01)

        async def requests_in(seconds):
            before = sum(len(line.requests) for line in lines)
            await asyncio.sleep(seconds)
            return sum(len(line.requests) for line in lines) - before

        working = [asyncio.create_task(work(limit)) for limit in limits for _ in range(3)]
        await asyncio.sleep(10)
        of_quantum = limit % 5 * 10 / 0.3  # times that a permit is passed on
        assert await requests_in(10) < 1.5 * of_quantum + 20
        await asyncio.wait(working)
        await all_is_given_back(server, *limits, at_once=False)

    run(main)


def test_little_is_lost_on_the_way_from_process_to_process():
    async def main():
        server = Server()
        lines = [server.line(delay=0.005, answer_delay=0.005, message_delay=0.005) for _ in range(3)]
        began = server.now
        turns, _ = await turns_of(server, 20, lines)
        assert len(turns) * 0.01 > 0.9 * (turns[-1][1] - began)

    run(main)


@pytest.mark.parametrize("near, far, at_most", [(1, 1, 1.4), (3, 1, 1.4), (2, 2, 2)])
def test_who_is_far_from_the_server_has_little_more_than_the_others(near, far, at_most):
    """So is a process whose event loop is busy: its answers take as long."""

    async def main():
        server = Server()
        lines = [server.line(delay=0.01, answer_delay=0.01, message_delay=0.01) for _ in range(far)]
        turns, _ = await turns_of(server, 30, [server.line() for _ in range(near)] + lines)
        items = collections.Counter(number for number, _ in turns)
        assert len(items) == near + far
        assert max(items.values()) < at_most * min(items.values())

    run(main)


def test_nor_has_it_more_when_it_had_nothing_to_do_for_a_while():
    async def main():
        server = Server()
        far = server.limit(1, delay=0.01, answer_delay=0.01, message_delay=0.01)
        near = server.limit(1)
        begins = []

        async def far_away():
            for _ in range(20):
                for _ in range(20):
                    async with far:
                        begins.append(server.now)
                        await asyncio.sleep(0.01)
                await asyncio.sleep(1)

        others = [asyncio.create_task(busy(near, 100, 0.01)) for _ in range(2)]
        await asyncio.gather(*[far_away() for _ in range(2)])
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        turns = [1]
        for before, begin in itertools.pairwise(begins):
            if begin - before < 0.03:
                turns[-1] += 1
            else:
                turns.append(1)
        assert max(turns) <= 12  # not all forty at a stretch
        await all_is_given_back(server, far, near)

    run(main)


def test_the_first_request_says_nothing_of_the_server():
    """It connects, too."""

    async def main():
        server = Server()
        lines = [server.line(delay=2) for _ in range(3)]
        for line in lines:
            asyncio.get_running_loop().call_later(1, setattr, line, "delay", 0.0)
        _, gaps = await turns_of(server, 5, lines)
        assert max(gaps) < 1.5 * _permits.QUANTUM

    run(main)


def test_an_answer_that_came_late_is_soon_forgotten():
    async def main():
        server = Server()
        lines = [server.line() for _ in range(3)]
        asyncio.get_running_loop().call_later(1, setattr, lines[0], "answer_delay", 5.0)
        asyncio.get_running_loop().call_later(1.2, setattr, lines[0], "answer_delay", 0.0)
        _, gaps = await turns_of(server, 12, lines)
        assert 1.5 * _permits.QUANTUM < sorted(gaps)[-2] < 0.2  # the longest is that answer itself
        assert max(gaps[-30:]) < 1.5 * _permits.QUANTUM

    run(main)


def test_a_message_that_is_late_is_not_believed():
    """An answer that was given after a message may come before it: who waits no more is not given way to."""

    async def main():
        server = Server()
        line = server.line(message_delay=3)
        limit, other = server.limit(2, line=line), server.limit(2)
        items = await entered(limit, 2)
        await asyncio.sleep(3.1)
        waiting = Item(other)  # the news of it is under way for three seconds
        await asyncio.sleep(0.1)
        waiting.task.cancel()
        await asyncio.sleep(0)
        limit.limit = 2  # an answer, in which nobody waits any more, once the other has said so
        await other.aclose()
        limit.limit = 2
        await asyncio.sleep(0.1)
        before = server.requests
        await asyncio.sleep(3)  # now the news has come
        more = [Item(limit) for _ in range(2)]
        await asyncio.sleep(0)
        for one in items:
            await one.ends()
        for one in more:
            await one.starts()
        assert asked(line) == [2]  # they went on by themselves
        assert server.requests - before <= 1
        for one in more:
            await one.ends()
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("in_the_same_state", [False, True])
def test_a_server_that_counts_anew_is_believed(in_the_same_state):
    """Its numbers are lower than those before: it has forgotten all, or has what was saved a while ago and has cut all connections."""

    async def main():
        server = Server(lease=3)
        limit, other = server.limit(2), server.limit(2)
        tasks = [asyncio.create_task(busy(limit, 60, 0.01)) for _ in range(4)]
        for _ in range(200):
            limit.limit = 2
            await asyncio.sleep(0.01)
        if in_the_same_state:
            server.requests = 0
            server.lines[0].listen_error = ConnectionError("cut")
            server.lines[0].stop_listening()
            server.lines[0].listen_error = None
        else:
            server.forget()
        await asyncio.sleep(6)
        theirs = Item(other)
        await asyncio.sleep(1)
        assert theirs.is_in.is_set()
        await theirs.ends()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await all_is_given_back(server, limit, other)

    run(main)


@pytest.mark.parametrize("delays", [(0.2, 0, 0), (0, 0.2, 0), (0, 0, 0.2), (0.1, 0.3, 0.2), (0.3, 0.1, 0.01)])
def test_slow_lines_change_nothing_but_the_time(delays):
    running = Running()

    async def item(limit):
        async with limit:
            with running:
                await asyncio.sleep(0.05)

    async def main():
        server = Server()
        options = dict(zip(("delay", "answer_delay", "message_delay"), delays))
        limits = [server.limit(3, **options), server.limit(3, **options), server.limit(3)]
        await asyncio.gather(*[item(limit) for limit in limits for _ in range(40)])
        await all_is_given_back(server, *limits)

    run(main)
    assert running.most == 3


# Another limit


def test_a_higher_limit_lets_more_in_at_once():
    async def main():
        server = Server()
        limit = server.limit(1)
        items = [Item(limit) for _ in range(4)]
        await items[0].starts()
        limit.limit = 3
        await items[2].starts()
        assert server.now < 1 and limit.limit == 3
        assert limit.stats() == LimitStats(held=3, waiting=1, sessions=1, limit=3)
        for one in items:
            await one.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_a_lower_limit_is_reached_as_items_end():
    async def main():
        server = Server()
        limit = server.limit(4)
        items = await entered(limit, 4)
        waiting = [Item(limit) for _ in range(2)]
        limit.limit = 2
        await asyncio.sleep(0.1)
        assert limit.stats().held == 4
        for number, one in enumerate(items[:2]):
            await one.ends()
            await asyncio.sleep(0.1)
            assert limit.stats().held == server.total == 3 - number
        assert not waiting[0].is_in.is_set()
        await items[2].ends()
        await waiting[0].starts()
        assert limit.stats().held == 2
        for one in items + waiting:
            await one.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_a_lower_limit_counts_before_the_server_has_answered():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(4, line=line)
        items = await entered(limit, 4)
        waiting = Item(limit)
        await asyncio.sleep(1)
        line.delay = 1
        limit.limit = 2
        await items[0].ends()
        assert limit.stats() == LimitStats(held=3, waiting=1, sessions=1, limit=2)
        line.delay = 0
        for one in [*items[1:], waiting]:
            await one.ends()
        await asyncio.sleep(1)
        await all_is_given_back(server, limit)

    run(main)


def test_what_is_idle_goes_back_at_once_for_a_lower_limit():
    async def main():
        server = Server()
        limit = server.limit(4)
        items = await entered(limit, 4)
        for one in items[:2]:
            await one.ends()
        limit.limit = 3
        await asyncio.sleep(_permits.IDLE / 10)
        assert server.total == 2
        for one in items[2:]:
            await one.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_no_more_goes_back_than_the_lower_limit_wants():
    async def main():
        server = Server()
        line = server.line()
        limit, other = server.limit(10, line=line), server.limit(10)
        items = await entered(limit, 5)
        theirs = await entered(other, 5)
        limit.limit = other.limit = 8
        await asyncio.sleep(1)
        line.delay = 1
        more = [Item(limit) for _ in range(5)]
        for one in items:
            await one.ends()
        assert limit.stats().held == 3
        line.delay = 0
        for one in theirs + more:
            one.may_end.set()
        await asyncio.wait([one.task for one in more + theirs])
        await asyncio.sleep(1)
        await all_is_given_back(server, limit, other)

    run(main)


def test_another_process_makes_room_for_a_lower_limit():
    async def main():
        server = Server()
        limit, other = server.limit(4), server.limit(4)
        items = await entered(limit, 1) + await entered(other, 3)
        limit.limit = other.limit = 2
        await asyncio.sleep(0.1)
        waiting = [Item(other) for _ in range(3)]
        for one in items[1:]:
            await one.ends()
        await asyncio.sleep(1)
        assert server.total == 2 and [one.is_in.is_set() for one in waiting] == [True, False, False]
        for one in items[:1] + waiting:
            await one.ends()
        await all_is_given_back(server, limit, other)

    run(main)


def test_each_process_keeps_to_its_own_number():
    async def main():
        server = Server()
        low, high = server.limit(2), server.limit(5)
        items = await entered(high, 3)
        refused, admitted = Item(low), Item(high)
        await admitted.starts()
        await asyncio.sleep(60)
        assert not refused.is_in.is_set()
        for one in items:
            await one.ends()
        await refused.starts()
        await refused.ends()
        await admitted.ends()
        await all_is_given_back(server, low, high)

    run(main)


# acquire and release


def test_tokens_grow_also_when_messages_are_late():
    async def main():
        server = Server()
        limit = server.limit(3)
        tokens = [one.token for _ in range(2) for one in await entered(limit)]
        permits = limit._permits
        permits.gain(1, tokens[0])  # as a message does that comes after an answer
        tokens += [one.token for one in await entered(limit)]
        assert tokens == sorted(tokens) and permits.granted == server.total == 3
        for task in [*permits.holders]:
            task.cancel()
        await asyncio.wait([*permits.holders])
        await all_is_given_back(server, limit)

    run(main)


def test_acquire_gives_the_token_and_release_gives_back():
    async def main():
        server = Server()
        limit = server.limit(1)
        token = await limit.acquire()
        assert token == server.fence
        second = Item(limit)
        await asyncio.sleep(0.1)
        assert not second.is_in.is_set()
        assert limit.release() is None
        await second.starts()
        await second.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_acquire_without_blocking_takes_what_the_server_has_to_give():
    async def main():
        server = Server()
        line = server.line(delay=0.5)
        limit, other = server.limit(2, line=line), server.limit(2)
        assert await limit.acquire(blocking=False) == server.fence
        assert await limit.acquire(blocking=False) == server.fence
        before, now = len(line.requests), server.now
        assert await limit.acquire(blocking=False) is None
        assert len(line.requests) == before + 1 and server.now - now <= 1
        assert limit.stats().waiting == 0
        limit.release()
        assert await limit.acquire(blocking=False)  # idle here
        assert len(line.requests) == before + 1
        limit.release()
        limit.release()
        theirs = await entered(other, 2)
        assert await limit.acquire(blocking=False) is None
        for one in theirs:
            await one.ends()
        await all_is_given_back(server, limit, other)

    run(main)


def test_acquire_without_blocking_waits_for_one_answer_also_if_its_session_was_lost():
    async def main():
        server = Server()
        line = server.line()
        limit, other = server.limit(1, line=line), server.limit(1)
        for _ in range(20):
            async with limit:
                pass
            await asyncio.sleep(_permits.IDLE * 1.5)
        server.records.clear()
        [one] = await entered(other)
        now = server.now
        assert await limit.acquire(blocking=False) is None
        assert server.now - now < 1
        await one.ends()
        await all_is_given_back(server, limit, other)

    run(main)


def test_acquire_with_an_end():
    async def main():
        server = Server()
        limit = server.limit(1)
        assert await limit.acquire(timeout=5)
        waiting = Item(limit)
        assert await limit.acquire(timeout=5) is None
        assert server.now == pytest.approx(5, abs=0.01)
        assert await limit.acquire(timeout=0) is None
        assert limit.stats().waiting == 1
        limit.release()
        await waiting.ends()
        assert await limit.acquire(timeout=0)  # it is idle
        limit.release()
        await all_is_given_back(server, limit)

    run(main)


def test_a_timeout_of_others_is_not_its_own():
    async def main():
        server = Server()
        limit = server.limit(1)
        await limit.acquire()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await limit.acquire(timeout=2)
        limit.release()
        await all_is_given_back(server, limit)

    run(main)


# What it says of itself


def test_what_it_says_of_itself():
    async def main():
        server = Server()
        limit, other = server.limit(2), server.limit(2)
        assert limit.stats() == LimitStats(held=0, waiting=0, sessions=0, limit=2)
        assert repr(limit) == f"<SharedLimit {NAME!r} limit=2 held=0 waiting=0>"
        items = [Item(limit) for _ in range(3)]
        await items[1].starts()
        assert limit.stats() == LimitStats(held=2, waiting=1, sessions=1, limit=2)
        assert repr(limit) == f"<SharedLimit {NAME!r} limit=2 held=2 waiting=1>"
        await items[0].ends()
        theirs = Item(other)
        for one in [*items[1:], theirs]:
            await one.starts()
            await one.ends()
        await other.aclose()
        assert repr(other) == f"<SharedLimit {NAME!r} limit=2 closed>"
        await all_is_given_back(server, limit)

    run(main)


# Bad input


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"limit": 0}, ValueError, "limit must be at least 1, not 0"),
        ({"limit": -3}, ValueError, "limit must be at least 1, not -3"),
        ({"limit": 1.0}, TypeError, "limit must be an integer of at least 1, not float"),
        ({"limit": "5"}, TypeError, "limit must be an integer of at least 1, not str"),
        ({"limit": None}, TypeError, "limit must be an integer of at least 1, not NoneType"),
        ({"name": ""}, ValueError, "name must have at least one character: it says which processes share the limit"),
        ({"name": b"calls"}, TypeError, "name must be a string, not bytes"),
        ({"name": "\udc80"}, ValueError, "name must be text that UTF-8 has bytes for, not '\\udc80'"),
        ({"on_lost": "die"}, ValueError, "on_lost must be 'cancel' or 'keep', not 'die'"),
        ({"on_lost": None}, ValueError, "on_lost must be 'cancel' or 'keep', not None"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said(arguments, error, message):
    given = {"name": NAME, "limit": 1, "on_lost": "cancel", "renew_in_thread": False, **arguments}
    with pytest.raises(error) as raised:
        SharedLimit(Server().line(), **given)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "lease, error, message",
    [
        (0.5, ValueError, "lease must be at least 1 second, and finite, not 0.5"),
        (float("inf"), ValueError, "lease must be at least 1 second, and finite, not inf"),
        (float("nan"), ValueError, "lease must be at least 1 second, and finite, not nan"),
        (1e10, ValueError, "lease must be at most 1,000,000,000 seconds, not 10000000000.0"),
        (True, TypeError, "lease must be a number of seconds, not bool"),
        ("30", TypeError, "lease must be a number of seconds, not str"),
    ],
)
def test_what_is_wrong_with_a_lease_is_said(lease, error, message):
    with pytest.raises(error) as raised:
        checked_lease(lease)
    assert str(raised.value) == message


@pytest.mark.parametrize("value, error", [(0, ValueError), (2.0, TypeError), (None, TypeError)])
def test_a_limit_that_cannot_be_set_leaves_it_as_it_was(value, error):
    limit = Server().limit(3)
    with pytest.raises(error, match="^limit must be "):
        limit.limit = value
    assert limit.limit == 3


def test_an_integer_of_any_kind_is_a_limit():
    class Five:
        def __index__(self):
            return 5

    assert Server().limit(Five()).limit == 5


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"blocking": False, "timeout": 1}, ValueError, "timeout must be None with blocking=False, not 1"),
        ({"timeout": "1"}, TypeError, "timeout must be a number of seconds or None, not str"),
        ({"timeout": float("nan")}, ValueError, "timeout must be a number of seconds or None, not nan"),
    ],
)
def test_what_is_wrong_with_acquire_is_said(arguments, error, message):
    async def main():
        limit = Server().limit(1)
        with pytest.raises(error) as raised:
            await limit.acquire(**arguments)
        assert str(raised.value) == message
        assert limit.stats() == LimitStats(held=0, waiting=0, sessions=0, limit=1)

    run(main)


def test_a_lower_limit_gives_back_at_once_what_no_item_holds():
    async def main():
        server = Server()
        limits = [server.limit(4) for _ in range(2)]
        for item in [item for limit in limits for item in await entered(limit, 2)]:
            await item.ends()
        assert server.total == 4
        for limit in limits:
            limit.limit = 1
        items = [Item(limit) for limit in limits]
        await until(lambda: any(item.is_in.is_set() for item in items))
        await asyncio.sleep(1)
        assert sum(item.is_in.is_set() for item in items) == 1
        for item in items:
            await item.ends()
        await all_is_given_back(server, *limits)

    run(main)
