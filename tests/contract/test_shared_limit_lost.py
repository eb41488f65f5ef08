"""Permits of a shared limit that are lost: what becomes of the items that hold them, by the rules of asyncio.timeout()."""

import asyncio
import itertools
import sys

import pytest

from contract_tools import idle
from gatedcoro.shared import GateUnavailable, LeaseLost, LimitStats, _limit
from shared_state import NAME, Server
from shared_tools import Item, all_is_given_back, entered, error_of, run, run_each, until

WHY = "the test says so"
LOST = f"the permit of {NAME!r} is lost: {WHY}"


def lose(limit):
    limit._session.end(WHY)


class Timeout:
    """asyncio.timeout() as if it were a limit: what "is lost" is its time."""

    Lost = TimeoutError

    def __init__(self):
        self._timeouts = []

    async def __aenter__(self):
        self._timeouts.append(asyncio.timeout(None))
        await self._timeouts[-1].__aenter__()

    async def __aexit__(self, *exc):
        return await self._timeouts.pop().__aexit__(*exc)

    def lose(self):
        self._timeouts[-1]._on_timeout()

    async def ends(self):
        pass


class Limit:
    """A shared limit."""

    Lost = LeaseLost

    def __init__(self):
        self._server = Server()
        self._limit = self._server.limit(5)

    async def __aenter__(self):
        return await self._limit.__aenter__()

    async def __aexit__(self, *exc):
        return await self._limit.__aexit__(*exc)

    def lose(self):
        lose(self._limit)

    async def ends(self):
        await all_is_given_back(self._server, self._limit)


# By the rules of asyncio.timeout


async def waits(trace):
    await asyncio.get_running_loop().create_future()


async def cleans_up(trace):
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        trace("cleans up")
        await idle(2)
        trace("has cleaned up")


async def swallows(trace):
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        trace("swallows")


async def swallows_and_goes_on(trace):
    await swallows(trace)
    await idle(3)
    trace("went on")


async def fails(trace):
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        raise ValueError from None


async def does_not_wait(trace):
    pass


async def waits_for_another(trace):
    await asyncio.create_task(waits(trace))


async def takes_turns(trace):
    await idle(5)


BODIES = [waits, cleans_up, swallows, swallows_and_goes_on, fails, does_not_wait, waits_for_another, takes_turns]


async def outcome(kind, body, actions, before=0):
    """What happens to a Task that does *body* in it, while the actions are done, and after it has left."""
    trace = []
    limit = kind()

    async def item():
        task = asyncio.current_task()
        for _ in range(before):  # requests to cancel that it has not heeded
            task.cancel()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                pass
        try:
            async with limit:
                for action in actions_inside:
                    action()
                await body(trace.append)
            trace.append("left")
        except BaseException as error:
            trace.append("lost" if isinstance(error, kind.Lost) else type(error).__name__)
        trace.append(task.cancelling())
        try:
            await idle(3)
        except asyncio.CancelledError:
            trace.append("cancelled later")

    def cancel():
        trace.append("is cancelled")
        task.cancel()

    functions = {"lose": limit.lose, "cancel": cancel}
    actions_inside = [functions[name] for name, turn in actions if turn is None]
    task = asyncio.create_task(item())
    await asyncio.sleep(1)
    if any(turn is not None for _, turn in actions):
        for turn in range(8):
            for name, when in actions:
                if when == turn and not task.done() and (name == "cancel" or turn == 0):
                    functions[name]()
            await asyncio.sleep(0)
    if not task.done():
        await asyncio.wait([task])
    await limit.ends()
    return trace


def the_same(body, actions, before=0):
    expected, got = [], []

    async def main(kind, into):
        into += await outcome(kind, body, actions, before)

    run(lambda: main(Timeout, expected))
    run(lambda: main(Limit, got))
    assert got == expected, (body.__name__, actions, before)


QUICK = [does_not_wait, takes_turns]
LATE_CANCELS = pytest.mark.skipif(
    sys.version_info < (3, 13), reason="uncancel() does not take back a CancelledError that is still to come"
)


@pytest.mark.parametrize("body", [body for body in BODIES if body not in QUICK])
@pytest.mark.parametrize("before", [0, 1])
def test_a_loss_is_what_the_end_of_a_timeout_is(body, before):
    the_same(body, [("lose", 0)], before)


@pytest.mark.parametrize("body", [body for body in BODIES if body not in QUICK])
@pytest.mark.parametrize("before", [0, 1])
def test_so_it_is_with_a_cancellation_beside_it(body, before):
    for order in itertools.permutations([("lose", 0), ("cancel", 0)]):
        the_same(body, order, before)
    for turn in range(1, 4):
        the_same(body, [("lose", 0), ("cancel", turn)], before)


@LATE_CANCELS
@pytest.mark.parametrize("body", BODIES)
def test_so_it_is_when_it_comes_from_the_item_itself(body):
    actions = [("lose", None), ("cancel", None)]
    for some in [actions[:1], actions, actions[::-1]]:
        the_same(body, some)


# The item ends in the very turn: nothing comes later, on any Python


@pytest.mark.parametrize("before", [0, 1])
def test_an_item_that_has_ended_before_it_was_told_has_ended_well(before):
    async def main():
        trace = await outcome(Limit, does_not_wait, [("lose", None)], before)
        assert trace == ["left", before]

    run(main)


@pytest.mark.parametrize("turn", range(5))
def test_a_cancellation_beside_it_is_not_lost(turn):
    """Of others: before the loss, after it, and while what is late is taken off the Task."""

    async def main(cancel_first):
        server = Server()
        limit = server.limit(1)
        loop = asyncio.get_running_loop()

        async def item():
            task = asyncio.current_task()
            async with limit:
                if cancel_first:
                    task.cancel()
                lose(limit)
                if not cancel_first:
                    (loop.call_soon if turn else lambda cancel: cancel())(task.cancel)
            await idle(turn + 2)

        task = asyncio.create_task(item())
        await asyncio.wait([task])
        assert task.cancelled()
        await all_is_given_back(server, limit)

    run_each(main, [(True,), (False,)])


def test_an_item_that_fails_as_it_is_lost_fails():
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            with pytest.raises(ValueError):
                async with limit:
                    lose(limit)
                    raise ValueError
            await idle(3)
            return asyncio.current_task().cancelling()

        assert await asyncio.create_task(item()) == 0
        await all_is_given_back(server, limit)

    run(main)


def test_the_error_says_why_and_has_the_cancellation_as_its_cause():
    async def main():
        server = Server()
        limit = server.limit(1)
        [one] = await entered(limit)
        lose(limit)
        error = await error_of(one.task)
        assert type(error) is LeaseLost and str(error) == LOST
        assert isinstance(error.__cause__, asyncio.CancelledError) and str(error.__cause__) == LOST
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("turn", range(3))
def test_release_raises_it_as_well(turn):
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            await limit.acquire()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await idle(turn)
                limit.release()

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        lose(limit)
        assert type(await error_of(task)) is LeaseLost
        assert task.cancelling() == 0
        await all_is_given_back(server, limit)

    run(main)


def test_release_leaves_another_cancellation_as_it_is():
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            await limit.acquire()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                limit.release()

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        lose(limit)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await all_is_given_back(server, limit)

    run(main)


def test_release_after_the_item_has_swallowed_it_raises_nothing():
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            await limit.acquire()
            await swallows(lambda event: None)
            limit.release()
            return asyncio.current_task().cancelling()

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        lose(limit)
        assert await task == 0
        await all_is_given_back(server, limit)

    run(main)


def test_a_task_with_several_permits_loses_all_and_is_told_once():
    async def main():
        server = Server()
        limit = server.limit(3)
        [one] = await entered(limit, times=3)
        lose(limit)
        assert type(await error_of(one.task)) is LeaseLost
        assert one.task.cancelling() == 0
        await all_is_given_back(server, limit)

    run(main)


def test_between_its_permits_a_task_that_has_lost_them_is_cancelled():
    async def main():
        server = Server()
        limit = server.limit(2)
        trace = []

        async def item():
            async with limit:
                try:
                    async with limit:
                        await waits(trace.append)
                except BaseException as error:
                    trace.append(type(error))
                    raise

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        lose(limit)
        assert type(await error_of(task)) is LeaseLost
        assert trace == [asyncio.CancelledError]
        await all_is_given_back(server, limit)

    run(main)


def test_what_was_asked_of_a_task_before_it_entered_is_forgotten_when_it_leaves():
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            task = asyncio.current_task()
            task.cancel()
            await swallows(lambda event: None)
            async with limit:
                pass
            assert not limit._permits.cancelling
            task.uncancel()
            async with limit:
                await waits(None)

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        lose(limit)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await all_is_given_back(server, limit)

    run(main)


def test_who_enters_again_while_it_has_lost_holds_what_is_new():
    async def main():
        server = Server()
        limit = server.limit(2)
        trace = []

        async def item():
            async with limit:
                await swallows(trace.append)
                async with limit:
                    trace.append(limit.stats().held)
                trace.append(limit.stats().held)
            return asyncio.current_task().cancelling()

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        lose(limit)
        assert await task == 0
        assert trace == ["swallows", 1, 0]
        await all_is_given_back(server, limit)

    run(main)


def test_lost_twice():
    async def main():
        server = Server()
        limit = server.limit(2)
        trace = []

        async def item():
            async with limit:
                await swallows(trace.append)
                with pytest.raises(LeaseLost):
                    async with limit:
                        await waits(trace.append)
                trace.append("goes on")
            return asyncio.current_task().cancelling()

        task = asyncio.create_task(item())
        for _ in range(2):
            await asyncio.sleep(1)
            lose(limit)
        assert await task == 0
        assert trace == ["swallows", "goes on"]
        await all_is_given_back(server, limit)

    run(main)


# When a permit is lost


def test_items_end_before_the_server_may_give_their_permits_to_others():
    async def main():
        server = Server(lease=10)
        line = server.line()
        limit, other = server.limit(2, line=line), server.limit(2)
        items = await entered(limit, 2)
        await asyncio.sleep(1)
        line.hangs = True
        last = max(record.expires for record in server.records.values())
        theirs = Item(other)
        for one in items:
            error = await error_of(one.task)
            why = "its lease of 10 s could not be renewed in time (the server in memory: it did not answer in time)"
            assert str(error) == f"the permit of {NAME!r} is lost: {why}"
        assert server.now < last and not theirs.is_in.is_set()
        await theirs.starts()
        assert server.now == pytest.approx(last, abs=0.1)
        line.hangs = False
        await theirs.ends()
        await all_is_given_back(server, limit, other, at_once=False)

    run(main)


@pytest.mark.parametrize("request_under_way", [True, False])
def test_a_loop_that_was_blocked_for_longer_than_a_lease_tells_its_items_at_once(request_under_way):
    """Also when a request is under way, whose time is over in the same turn of the loop."""

    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        waiting = Item(limit)
        if request_under_way:
            line.hangs = True
            await until(lambda: limit._session._in_time is not None)
        asyncio.get_running_loop().virtual_now += 31
        assert isinstance(await error_of(one.task), LeaseLost)
        line.hangs = False
        await all_is_given_back(server, limit, at_once=False)
        await error_of(waiting.task)

    run(main)


def test_a_loop_that_was_blocked_does_not_take_the_server_for_out_of_reach_all_the_time():
    """A request was under way then, and the next one fails: neither says anything of the time between."""

    async def main():
        server = Server()
        line = server.line()
        limit, other = server.limit(1, line=line), server.limit(1)
        [one] = await entered(other)
        waiting = Item(limit)
        await until(lambda: line.requests)
        await asyncio.sleep(1)
        line.hangs, requests = True, len(line.requests)
        await until(lambda: len(line.requests) > requests)
        asyncio.get_running_loop().virtual_now += 40
        line.hangs, line.error, requests = False, ConnectionError("cut"), len(line.requests)
        await until(lambda: len(line.requests) > requests)
        await asyncio.sleep(0.01)
        line.error = None
        assert isinstance(await error_of(one.task), LeaseLost)
        await waiting.starts()
        await waiting.ends()
        await all_is_given_back(server, limit, other, at_once=False)

    run(main)


def test_who_was_taken_for_dead_is_told_and_begins_again():
    async def main():
        server = Server()
        limit, other = server.limit(1), server.limit(1)
        [one] = await entered(limit)
        server.records.clear()
        [theirs] = await entered(other)
        waiting = Item(limit)
        error = await error_of(one.task)
        assert str(error) == f"the permit of {NAME!r} is lost: its lease had ended at the server"
        await theirs.ends()
        await waiting.starts()  # in a session of its own
        await waiting.ends()
        await all_is_given_back(server, limit, other)

    run(main)


def test_waiters_of_a_session_that_is_lost_wait_on_in_their_order():
    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        order = []
        items = [Item(limit, name, order) for name in "abc"]
        await asyncio.sleep(1)
        lose(limit)
        await error_of(first.task)
        for one in items:
            await one.ends()
        assert order == [*"abc"]
        await all_is_given_back(server, limit)

    run(main)


def test_who_was_served_as_the_session_was_lost_is_the_first_again():
    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        order = []
        items = [Item(limit, name, order) for name in "abc"]
        await asyncio.sleep(1)
        first.may_end.set()
        while limit._permits.holders:
            await asyncio.sleep(0)
        assert limit.stats() == LimitStats(held=1, waiting=2, sessions=1, limit=1) and order == []
        lose(limit)
        for one in items:
            await one.ends()
        assert order == [*"abc"]
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("on_lost", ["cancel", "keep"])
def test_who_was_served_before_the_loop_was_blocked_for_longer_than_a_lease_waits_again(on_lost):
    async def main():
        server = Server()
        limit = server.limit(1, on_lost=on_lost)
        [first] = await entered(limit)
        is_valid = []

        async def item():
            async with limit:
                is_valid.append(limit._permits.is_valid)

        waiting = asyncio.create_task(item())
        await asyncio.sleep(1)
        first.may_end.set()
        while limit._permits.holders:
            await asyncio.sleep(0)
        asyncio.get_running_loop().virtual_now += 31
        await waiting
        assert is_valid == [True]
        await all_is_given_back(server, limit)

    run(main)


def test_nothing_lost_is_given_back_before_its_item_has_ended():
    async def main():
        server = Server()
        limit, other = server.limit(1), server.limit(1)
        ended = []

        async def item():
            async with limit:
                try:
                    await waits(None)
                finally:
                    await asyncio.sleep(5)
                    ended.append(server.now)

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        theirs = Item(other)
        lose(limit)
        await theirs.starts()
        assert server.now == pytest.approx(ended[0], abs=0.1)
        assert isinstance(await error_of(task), LeaseLost)
        await theirs.ends()
        await all_is_given_back(server, limit, other)

    run(main)


def test_a_session_that_leaves_asks_for_nothing():
    """Also when the server was out of reach: who waits here waits in the next session."""

    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(2, line=line)
        items = await entered(limit, 2)
        waiting = [Item(limit) for _ in range(2)]
        await asyncio.sleep(1)
        before = limit._session
        line.error = ConnectionError("cut")
        await until(lambda: before.is_over)
        await asyncio.sleep(0.3)
        line.error = None
        for one in waiting:
            await one.starts()
        assert server.now < server.lease * 1.3
        for request, at_once in line.leaves:
            assert request.asked == request.granted == request.returned and not at_once
        for one in waiting:
            await one.ends()
        for one in items:
            assert isinstance(await error_of(one.task), LeaseLost)
        await all_is_given_back(server, limit, at_once=False)

    run(main)


# Some of them


def test_what_does_not_fit_after_a_restart_is_lost_the_latest_first():
    async def main():
        server = Server(lease=10)
        limit, other = server.limit(3), server.limit(3)
        mine = [one for _ in range(2) for one in await entered(limit)]
        theirs = await entered(other)
        await asyncio.sleep(0.5)
        server.forget()
        other.limit = limit.limit = 2  # so they claim at once; the first of them has what it wants
        await until(lambda: any(one.task.done() for one in mine + theirs))
        assert [one.task.done() for one in mine + theirs] in ([False, True, False], [False, False, True])
        await asyncio.sleep(30)
        for one in mine + theirs:
            if one.task.done():
                assert "the server had lost what it knew" in str(one.task.exception())
            else:
                await one.ends()
        await all_is_given_back(server, limit, other)

    run(main)


@pytest.mark.parametrize("returned, lost", [(0, []), (1, [3]), (2, [2, 3]), (4, [0, 1, 2, 3])])
def test_so_many_are_lost_as_the_server_counts_as_given_back(returned, lost):
    async def main():
        server = Server()
        limit = server.limit(4)
        items = [one for _ in range(4) for one in await entered(limit)]
        [record] = server.records.values()
        record.returned = returned
        limit.limit = 4
        await asyncio.sleep(1)
        assert [number for number, one in enumerate(items) if one.task.done()] == lost
        assert limit.stats().held == server.total == 4 - returned
        for number in lost:
            assert isinstance(items[number].task.exception(), LeaseLost)
        waiting = [Item(limit) for _ in lost]
        for one in waiting:
            await one.ends()  # there is room for them
        for one in items:
            if not one.task.done():
                await one.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_idle_permits_are_lost_first():
    async def main():
        server = Server()
        limit = server.limit(4)
        items = await entered(limit, 2)
        for one in await entered(limit, 2):
            await one.ends()
        [record] = server.records.values()
        record.returned = 2
        limit.limit = 4
        await asyncio.sleep(1)
        for one in items:
            await one.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_who_holds_several_loses_all_and_what_is_left_over_goes_back():
    async def main():
        server = Server()
        limit = server.limit(4)
        [first], [last] = await entered(limit), await entered(limit, times=3)
        [record] = server.records.values()
        record.returned = 1
        limit.limit = 4
        assert isinstance(await error_of(last.task), LeaseLost)
        await asyncio.sleep(1)
        assert limit.stats().held == server.total == 1
        await first.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_a_permit_that_was_just_passed_on_can_be_lost():
    async def main():
        server = Server()
        limit = server.limit(1)
        [first] = await entered(limit)
        waiting = [Item(limit) for _ in range(2)]
        await asyncio.sleep(1)
        permits = limit._permits
        first.may_end.set()
        await until_turn(lambda: permits.running == 1 and not permits.holders)
        assert permits.revoke(1) == {} and permits.held == 0
        await idle(2)
        assert not waiting[0].is_in.is_set() and permits.running == permits.owed == 0
        for one in waiting:
            await one.ends()
        await all_is_given_back(server, limit)

    async def until_turn(condition):
        while not condition():
            await asyncio.sleep(0)

    run(main)


# on_lost="keep"


def test_items_that_are_kept_run_on_and_nothing_new_starts():
    async def main():
        server = Server(lease=10)
        line = server.line()
        limit, other = server.limit(2, line=line, on_lost="keep"), server.limit(2)
        items = await entered(limit, 2)
        line.hangs = True
        waiting = Item(limit)
        await asyncio.sleep(9.5)
        assert await items[0].ends() == ""
        late = Item(limit)
        await idle(3)
        assert not waiting.is_in.is_set() and not late.is_in.is_set()  # whose permit would it be?
        late.task.cancel()
        theirs = await entered(other, 2)
        assert isinstance(await error_of(waiting.task), GateUnavailable)
        line.hangs = False
        waiting = Item(limit)
        await asyncio.sleep(11)
        assert not items[1].task.done() and not waiting.is_in.is_set()
        for one in theirs:
            await one.ends()
        await waiting.ends()
        assert await items[1].ends() == ""
        await all_is_given_back(server, limit, other, at_once=False)

    run(main)


def test_what_is_kept_is_held_again_when_the_server_is_back_in_time():
    async def main():
        server = Server(lease=10)
        line = server.line()
        limit = server.limit(1, line=line, on_lost="keep")
        [one] = await entered(limit)
        await asyncio.sleep(1)
        line.hangs = True
        [record] = server.records.values()
        await asyncio.sleep(record.expires - server.now - 0.5)
        assert not limit._permits.is_valid
        line.hangs = False
        record.expires += 10
        waiting = Item(limit)
        await until(lambda: limit._permits.is_valid)
        assert not waiting.is_in.is_set()
        await one.ends()
        await waiting.ends()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


# Many


def test_five_thousand_are_told_in_slices():
    async def main():
        server = Server()
        limit = server.limit(5_000)
        items = await entered(limit, 5_000)
        lose(limit)
        told = [sum(bool(one.task.cancelling()) for one in items)]
        while told[-1] < 5_000 and len(told) < 1_000:
            await asyncio.sleep(0)
            told.append(sum(1 for one in items if one.task.cancelling() or one.task.done()))
        assert [after - before for before, after in zip([0, *told], told)] == [_limit.CANCELLED_AT_ONCE] * 50
        for one in items:
            assert isinstance(await error_of(one.task), LeaseLost)
        await all_is_given_back(server, limit)

    run(main)


def test_who_has_left_meanwhile_is_not_told():
    async def main():
        server = Server()
        limit = server.limit(300)
        items = await entered(limit, 300)
        for one in items[200:]:
            one.may_end.set()
            one.after = asyncio.sleep(1)  # it has left, and goes on
        lose(limit)
        for one in items[:200]:
            assert isinstance(await error_of(one.task), LeaseLost)
        assert [one.task.cancelling() for one in items] == [0] * 300
        await asyncio.wait([one.task for one in items])
        assert not any(one.task.exception() for one in items[250:])
        await all_is_given_back(server, limit)

    run(main)
