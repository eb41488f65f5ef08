"""A shared limit whose server is out of reach, refuses or talks rubbish, whose Tasks fail or are cancelled, and that is closed."""

import asyncio
import contextlib

import pytest

from contract_tools import idle
from gatedcoro.shared import GateUnavailable, LeaseLost, LimitStats, _session
from shared_state import NAME, Refused, Server
from shared_tools import Item, all_is_given_back, background, background_ends, entered, error_of, run, run_each, until

UNAVAILABLE = f"no permit of {NAME!r} is to be had: "
CLOSED = UNAVAILABLE + "the limit is closed"


# Out of reach


@pytest.mark.parametrize("way", ["error", "hangs"])
def test_who_waits_is_told_after_a_lease_without_an_answer(way):
    async def main():
        server = Server(lease=10)
        line = server.line()
        limit = server.limit(1, line=line)
        cut = ConnectionError("cut")
        why = "ConnectionError: cut" if way == "error" else "it did not answer in time"
        line.error, line.hangs = (cut, False) if way == "error" else (None, True)
        waiting = [Item(limit) for _ in range(3)]
        errors = [await error_of(one.task) for one in waiting]
        assert 10 <= server.now <= 15
        for error in errors:
            assert type(error) is GateUnavailable
            assert str(error) == UNAVAILABLE + "the server in memory was out of reach for 10 s: " + why
            assert error.__cause__ is cut or type(error.__cause__) is TimeoutError
        assert len({id(error) for error in errors}) == 3
        # Who comes later is told soon, and served once the server is back.
        now = server.now
        assert type(await error_of(limit.acquire())) is GateUnavailable
        assert server.now - now <= 1.1
        line.error, line.hangs = None, False
        assert await limit.acquire()
        limit.release()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_a_failure_that_passes_is_not_noticed():
    async def main():
        server = Server(lease=10)
        line = server.line()
        limit = server.limit(2, line=line)
        [one] = await entered(limit)
        line.error = ConnectionError("cut")
        waiting = [Item(limit) for _ in range(2)]
        await asyncio.sleep(5)
        line.error = None
        await waiting[0].starts()
        assert server.now < 8.5
        for item in [one, *waiting]:
            await item.ends()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_a_failed_request_is_sent_again_soon_and_then_less_often():
    async def main():
        server = Server(lease=30)
        line = server.line()
        line.error = ConnectionError("cut")
        limit = server.limit(1, line=line)
        error = await error_of(limit.acquire())
        assert type(error) is GateUnavailable
        assert 10 <= len(line.requests) <= 25  # twice as long each time, to 5 s
        assert {request.asked for request in line.requests} == {1}
        await limit.aclose()

    run(main)


def test_after_an_answer_a_failure_is_the_first_again():
    async def main():
        server = Server(lease=12)
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        line.error = ConnectionError("cut")
        waiting = Item(limit)
        await asyncio.sleep(8)
        line.error = None
        await asyncio.sleep(3)
        line.error = ConnectionError("cut")
        limit.limit = 1
        before = len(line.requests)
        await asyncio.sleep(0.2)
        assert len(line.requests) >= before + 2  # sent again soon
        await asyncio.sleep(6)
        assert not waiting.task.done()
        line.error = None
        await one.ends()
        await waiting.ends()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_a_failure_an_hour_ago_says_nothing_of_the_server():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        line.error = ConnectionError("cut")
        assert await limit.acquire(timeout=0.5) is None
        await asyncio.sleep(3_600)
        asyncio.get_running_loop().call_later(0.01, setattr, line, "error", None)
        assert await limit.acquire()
        limit.release()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_without_blocking_one_failure_is_told():
    async def main():
        server = Server()
        line = server.line()
        line.error = ConnectionError("cut")
        limit = server.limit(1, line=line)
        error = await error_of(limit.acquire(blocking=False))
        assert str(error) == UNAVAILABLE + "the server in memory is out of reach: ConnectionError: cut"
        assert error.__cause__ is line.error and len(line.requests) == 1
        await limit.aclose()

    run(main)


def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_is_doubled():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(3, line=line)
        line.answer_error = ConnectionError("cut")
        waiting = [Item(limit) for _ in range(5)]
        await asyncio.sleep(1)
        line.answer_error = None
        await waiting[2].starts()
        assert limit.stats().held == server.total == 3
        line.answer_error = ConnectionError("cut")
        for one in waiting[:2]:
            await one.ends()
        await asyncio.sleep(1)
        line.answer_error = None
        for one in waiting[2:]:
            await one.starts()
            await one.ends()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


# Refused


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("where", ["error", "listen_error"])
def test_a_server_that_refuses_is_told_at_once(where, at_once):
    async def main():
        server = Server()
        line = server.line()
        line.at_once = at_once
        refused = Refused("no")
        setattr(line, where, refused)
        limit = server.limit(1, line=line)
        for _ in range(2):
            error = await error_of(limit.acquire() if where == "error" else waits_long(limit))
            assert type(error) in (GateUnavailable, LeaseLost)
            assert "it refuses (no)" in str(error)
        assert server.now < 1
        setattr(line, where, None)
        assert await limit.acquire()
        limit.release()
        await all_is_given_back(server, limit, at_once=False)

    async def waits_long(limit):
        async with limit:
            await asyncio.sleep(100)

    run(main)


def test_a_server_that_refuses_later_may_have_its_reasons():
    """As a replica, until a failover is known: it is tried for a lease."""

    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        line.error = Refused("no")
        waiting = Item(limit)
        await asyncio.sleep(15)
        assert not one.task.done() and not waiting.task.done()
        error = await error_of(waiting.task)
        assert str(error) == UNAVAILABLE + "it refuses (no)"
        assert isinstance(await error_of(one.task), LeaseLost)
        line.error = None
        server.prune()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


@pytest.mark.parametrize("where", ["error", "listen_error"])
def test_a_server_that_refuses_later_may_have_its_reasons_in_another_session_as_well(where):
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        for one in await entered(limit):
            await one.ends()
        await background_ends()  # nobody needs it
        setattr(line, where, Refused("no"))
        waiting = Item(limit)
        await asyncio.sleep(15)
        assert not waiting.task.done()
        setattr(line, where, None)
        await waiting.starts()
        await waiting.ends()
        await background_ends()
        if where == "error":
            setattr(line, where, Refused("no"))
            began = server.now
            error = await error_of(limit.acquire())
            assert str(error) == UNAVAILABLE + "it refuses (no)"
            assert server.lease - 0.001 < server.now - began < 1.5 * server.lease
            setattr(line, where, None)
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_a_refusal_to_listen_that_comes_later_may_pass_as_well():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        await asyncio.sleep(1)
        line.listen_error = Refused("no")
        line.stop_listening()
        await asyncio.sleep(20)
        assert await one.ends() == ""
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("error", [ConnectionError("cut"), OSError(), ValueError("rubbish")])
def test_messages_only_save_time(error):
    async def main():
        server = Server()
        line = server.line()
        line.listen_error = error
        limit, other = server.limit(1, line=line), server.limit(1)
        [theirs] = await entered(other)
        waiting = Item(limit)
        await asyncio.sleep(1)
        await theirs.ends()
        await waiting.starts()
        assert server.now < server.lease / 2
        line.listen_error = None
        await until(lambda: line.heard)  # it is tried again
        await waiting.ends()
        await all_is_given_back(server, limit, other)

    run(main)


# Its Tasks


class Whatever(BaseException):
    pass


RUBBISH = [None, 5, "no answer", object()]


@pytest.mark.parametrize("answer", RUBBISH)
def test_rubbish_for_an_answer(answer):
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        waiting = [Item(limit) for _ in range(2)]
        await asyncio.sleep(1)
        line.answer = lambda right: answer
        limit.limit = 1
        errors = [await error_of(item.task) for item in waiting]
        for error in errors:
            assert type(error) is GateUnavailable
            assert str(error).startswith(UNAVAILABLE + "the Task that renews its lease failed: AttributeError")
            assert isinstance(error.__cause__, AttributeError)
        assert isinstance(await error_of(one.task), LeaseLost)
        line.answer = lambda right: right
        assert await limit.acquire()  # in another session
        limit.release()
        await all_is_given_back(server, limit, at_once=False)

    reports = []
    run(main, reports=reports)
    assert [str(report["message"]) for report in reports] == ["Task exception was never retrieved"]


@pytest.mark.parametrize("where", ["error", "answer_error"])
def test_a_server_that_raises_anything(where):
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        waiting = Item(limit)
        await asyncio.sleep(1)
        setattr(line, where, Whatever("it"))
        limit.limit = 1
        error = await error_of(waiting.task)
        assert str(error) == UNAVAILABLE + "the Task that renews its lease failed: Whatever('it')"
        error = await error_of(one.task)
        assert str(error) == f"the permit of {NAME!r} is lost: the Task that renews its lease failed: Whatever('it')"
        setattr(line, where, None)
        assert await limit.acquire()
        limit.release()
        await all_is_given_back(server, limit, at_once=False)

    reports = []
    run(main, reports=reports)
    assert [type(report["exception"]) for report in reports] == [Whatever]


def test_a_server_that_raises_anything_while_it_listens():
    async def main():
        server = Server()
        line = server.line()
        line.listen_error = Whatever()
        limit = server.limit(1, line=line)
        for _ in range(2):
            async with limit:
                await asyncio.sleep(100)
            await asyncio.sleep(20)
        await all_is_given_back(server, limit)

    run(main)


def test_an_exit_ends_the_program_and_nothing_hangs():
    ended = []

    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        waiting = Item(limit)
        await asyncio.sleep(1)
        line.error = SystemExit(3)
        limit.limit = 1
        for item in (one, waiting):
            ended.append(await error_of(item.task))
        line.error = None
        await asyncio.sleep(100)

    with pytest.raises(SystemExit):
        run(main, reports=[])
    assert [type(error) for error in ended] == [LeaseLost, GateUnavailable]


@pytest.mark.parametrize("turn", range(4))
def test_the_task_that_asks_is_cancelled(turn):
    async def main():
        server = Server()
        limit = server.limit(1)
        [one] = await entered(limit)
        waiting = Item(limit)
        await idle(turn)
        limit._session.task.cancel()
        error = await error_of(one.task)
        assert str(error) == f"the permit of {NAME!r} is lost: the Task that renews its lease was cancelled"
        error = await error_of(waiting.task)
        assert str(error) == UNAVAILABLE + "the Task that renews its lease was cancelled"
        assert await limit.acquire()
        limit.release()
        await all_is_given_back(server, limit)

    run(main)


def test_the_task_that_listens_is_cancelled():
    async def main():
        server = Server()
        limit, other = server.limit(1), server.limit(1)
        [theirs] = await entered(other)
        waiting = Item(limit)
        await asyncio.sleep(1)
        limit._session._listener.cancel()
        await asyncio.sleep(1)
        await theirs.ends()
        await waiting.starts()
        assert server.now < server.lease / 2
        await waiting.ends()
        await all_is_given_back(server, limit, other)

    run(main)


@pytest.mark.parametrize("turn", range(6))
def test_the_program_ends_while_items_wait_and_hold(turn):
    """asyncio.run() cancels all Tasks: nothing is left pending, and what was held is given back."""
    server = Server()

    async def main():
        limit = server.limit(2)
        items = [Item(limit) for _ in range(6)]
        await asyncio.sleep(1)
        assert server.total == 2
        items[0].may_end.set()
        await idle(turn)

    for _ in range(10):  # Tasks are cancelled in the order of a set
        run(main, reports=(reports := []))
        messages = [str(report["message"]) for report in reports]
        assert all(message == "unhandled exception during asyncio.run() shutdown" for message in messages), messages
        assert all(isinstance(report["exception"], LeaseLost) for report in reports)
        assert server.records == {}


def test_a_program_that_ends_does_not_wait_long_for_a_server_that_is_out_of_reach():
    server = Server()
    loops = []

    async def main():
        line = server.line()
        for one in await entered(server.limit(1, line=line)):
            await one.ends()
        line.error = ConnectionError("cut")
        loops.append(asyncio.get_running_loop())

    run(main)
    assert loops[0].virtual_now <= _session.CLOSING + 0.6


# Closed


def test_who_waits_and_who_comes_later_is_told():
    async def main():
        server = Server()
        limit = server.limit(1)
        [one] = await entered(limit)
        waiting = [Item(limit) for _ in range(3)]
        await idle(2)
        closing = asyncio.create_task(limit.aclose())
        for item in waiting:
            error = await error_of(item.task)
            assert type(error) is GateUnavailable and str(error) == CLOSED
        error = await error_of(one.task)
        assert str(error) == f"the permit of {NAME!r} is lost: the limit was closed"
        await closing
        for coroutine in (limit.__aenter__(), limit.acquire(), limit.acquire(blocking=False), limit.acquire(timeout=1)):
            assert str(await error_of(coroutine)) == CLOSED
        assert limit.stats() == LimitStats(held=0, waiting=0, sessions=0, limit=1)
        limit.limit = 5
        assert limit.limit == 5
        await all_is_given_back(server, limit)

    run(main)


def test_everything_is_given_back_at_once():
    async def main():
        server = Server()
        limit, other = server.limit(2), server.limit(2)
        await entered_and_ended(limit)
        theirs = [Item(other) for _ in range(2)]
        now = server.now
        await limit.aclose()
        await theirs[1].starts()
        assert server.now == now
        for one in theirs:
            await one.ends()
        await all_is_given_back(server, other)

    async def entered_and_ended(limit):
        for one in await entered(limit, 2):
            await one.ends()

    run(main)


def test_before_first_use_and_twice():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        await limit.aclose()
        await limit.aclose()
        assert str(await error_of(limit.acquire())) == CLOSED
        async with contextlib.aclosing(server.limit(1, line=line)) as limit:
            async with limit:
                pass
        await limit.aclose()
        assert server.records == {} and background() == []
        assert len(line.leaves) == 1

    run(main)


def test_before_the_first_request():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        one = Item(limit)
        await idle(1)
        assert background()
        await limit.aclose()
        assert str(await error_of(one.task)) == CLOSED
        assert line.requests == line.leaves == []
        await all_is_given_back(server, limit)

    run(main)


def test_what_may_have_been_said_is_not_said_again_at_once():
    """A request that has failed may come later: it must not bring back a session that was forgotten."""

    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        for one in await entered(limit):
            await one.ends()
        line.leave_error = ConnectionError("cut")
        asyncio.get_running_loop().call_later(0.01, setattr, line, "leave_error", None)
        await limit.aclose()
        assert [at_once for _, at_once in line.leaves] == [True, False]
        await all_is_given_back(server, limit, at_once=False)

    run(main)


@pytest.mark.parametrize("then", ["waits", "fails"])
def test_a_client_that_takes_a_cancellation_for_its_own_is_told_again(then):
    """As redis-py may while it connects. When the limit is closed nothing uses the client any more."""

    async def main():
        server = Server()
        line = server.line()
        listen = line.listen
        cancelled = 0

        async def listen_on(session, heard):
            nonlocal cancelled
            try:
                await listen(session, heard)
            except asyncio.CancelledError:
                cancelled += 1
                if then == "fails":
                    raise ConnectionError("cut") from None
            await asyncio.get_running_loop().create_future()

        line.listen = listen_on
        limit = server.limit(1, line=line)
        for one in await entered(limit):
            await one.ends()
        await limit.aclose()
        assert cancelled == 1
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_session_that_was_never_answered_leaves_nothing_behind(arrives):
    """What its requests were granted goes back, if they have arrived; if not, its leaving makes no session."""

    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(3, line=line)
        lost = "answer_error" if arrives else "error"
        setattr(line, lost, ConnectionError("cut"))
        waiting = Item(limit)
        await asyncio.sleep(0.1)
        assert server.total == (1 if arrives else 0)
        waiting.task.cancel()
        setattr(line, lost, None)
        await limit.aclose()
        assert server.total == 0
        assert len(server.records) == (
            1 if arrives else 0
        )  # forgotten when its lease ends: a request may still be under way
        assert [request.epoch for request in line.requests] == [0] * len(line.requests)

    run(main)


def test_twice_at_the_same_time():
    async def main():
        server = Server()
        limit = server.limit(2, delay=0.1)
        items = await entered(limit, 2)
        await asyncio.gather(limit.aclose(), limit.aclose(), limit.aclose())
        assert server.records == {} and background() == []
        for one in items:
            assert isinstance(await error_of(one.task), LeaseLost)

    run(main)


@pytest.mark.parametrize("beside", [0, 3])
def test_from_inside_an_item(beside):
    """It is not cancelled, and not waited for; the others are."""

    async def main():
        server = Server()
        limit = server.limit(5)
        items = await entered(limit, beside)
        async with limit:
            now = server.now
            await limit.aclose()
            assert server.now == now and server.records == {}
            assert asyncio.current_task().cancelling() == 0
            await asyncio.sleep(1)
        for one in items:
            assert isinstance(await error_of(one.task), LeaseLost)
        await all_is_given_back(server, limit)

    run(main)


def test_from_inside_an_item_that_entered_twice():
    async def main():
        server = Server()
        limit = server.limit(5)
        async with limit, limit:
            await limit.aclose()
            assert server.now < 1 and server.records == {}
        assert limit.stats().held == 0

    run(main)


@pytest.mark.parametrize("turn", range(12))
def test_at_every_turn_of_a_request(turn):
    async def main(delay):
        server = Server()
        limit = server.limit(1, delay=delay, answer_delay=delay)
        one = Item(limit)
        await idle(turn)
        await asyncio.sleep(delay * 1.5)
        await limit.aclose()
        assert type(await error_of(one.task)) in (GateUnavailable, LeaseLost)
        await all_is_given_back(server, limit)

    run_each(main, [(0,), (0.1,)])


def test_items_that_take_their_time_are_waited_for():
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            async with limit:
                try:
                    await asyncio.sleep(1_000)
                finally:
                    await asyncio.sleep(5)

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        closing = asyncio.create_task(limit.aclose())
        await asyncio.sleep(4.9)
        assert server.total == 1 and not closing.done()
        await closing
        assert server.now == pytest.approx(6)
        assert isinstance(await error_of(task), LeaseLost)
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("later", [0, 1])
def test_who_closes_beside_another_waits_as_long(later):
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            async with limit:
                try:
                    await asyncio.sleep(1_000)
                finally:
                    await asyncio.sleep(5)

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        closing = asyncio.create_task(limit.aclose())
        await asyncio.sleep(later)
        await limit.aclose()
        assert server.now == pytest.approx(6) and closing.done()
        assert isinstance(await error_of(task), LeaseLost)
        assert server.records == {}
        await all_is_given_back(server, limit)

    run(main)


def test_an_item_that_was_lost_and_closes_as_well_waits_for_the_others_only():
    async def main():
        server = Server()
        limit = server.limit(1)

        async def item():
            async with limit:
                try:
                    await asyncio.sleep(1_000)
                finally:
                    await limit.aclose()

        task = asyncio.create_task(item())
        await asyncio.sleep(1)
        await limit.aclose()
        assert server.now == 1 and server.records == {}
        assert isinstance(await error_of(task), LeaseLost)
        await all_is_given_back(server, limit)

    run(main)


def test_items_that_are_kept_are_not_waited_for():
    async def main():
        server = Server()
        limit = server.limit(1, on_lost="keep")
        [one] = await entered(limit)
        await limit.aclose()
        assert server.now < 1 and server.records == {}
        assert await one.ends() == ""
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("way", ["error", "hangs"])
def test_a_server_out_of_reach_is_tried_for_two_seconds(way):
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        for one in await entered(limit, 1):
            await one.ends()
        line.error, line.hangs = (ConnectionError("cut"), False) if way == "error" else (None, True)
        await limit.aclose()
        assert _session.CLOSING - 0.5 <= server.now <= _session.CLOSING + 0.6
        assert len(line.leaves) > 0
        assert background() == []

    run(main)


def test_a_request_under_way_is_not_waited_for_either():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        for one in await entered(limit, 1):
            await one.ends()
        line.hangs = True
        limit.limit = 1
        await asyncio.sleep(0.1)
        await limit.aclose()
        assert server.now <= _session.CLOSING + 1
        assert background() == []

    run(main)


def test_after_sessions_that_were_lost_before():
    """They are still telling the server, which is out of reach: nothing is left of them either."""

    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        line.hangs = True
        limit._session.end("the test says so")
        await error_of(one.task)
        await limit.aclose()
        assert background() == []
        assert server.now <= 2 * _session.CLOSING

    run(main)


def test_an_aclose_that_is_cancelled_has_closed():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        for one in await entered(limit, 1):
            await one.ends()
        line.hangs = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await limit.aclose()
        assert str(await error_of(limit.acquire())) == CLOSED
        await asyncio.sleep(10)
        assert background() == []

    run(main)


@pytest.mark.parametrize("at_first", [Refused("no"), OSError("no way"), LookupError("its own affair")])
def test_a_client_that_begins_again_by_itself_until_its_time_is_over(at_first):
    """redis-py 8 asks for seconds again after a wrong password: what it was told counts, not that its time was over."""

    async def main():
        server = Server(lease=1)
        line = server.line()
        limit = server.limit(1, line=line)

        async def sync(request):
            try:
                raise at_first
            except Exception:
                await asyncio.sleep(1_000)

        line.sync = sync
        error = await error_of(limit.acquire())
        assert type(error) is GateUnavailable
        if isinstance(at_first, LookupError):
            assert str(error).endswith("out of reach for 1 s: it did not answer in time")
            assert type(error.__cause__) is TimeoutError
        else:
            told = "it refuses (no)" if isinstance(at_first, Refused) else "out of reach for 1 s: OSError: no way"
            assert str(error).endswith(told)
            assert error.__cause__ is at_first
        await all_is_given_back(server, limit)

    run(main)


def test_items_that_hold_permits_keep_them_if_messages_are_refused():
    """A pool that is full for a moment refuses the second connection."""

    async def main():
        server = Server()
        line = server.line()
        listen = line.listen

        async def late(*arguments):
            await asyncio.sleep(1)
            await listen(*arguments)

        line.listen = late
        limit = server.limit(1, line=line)
        [item] = await entered(limit)
        line.listen_error = Refused("full")
        await asyncio.sleep(server.lease)
        line.listen_error = None
        await asyncio.sleep(server.lease)
        assert len(line.heard) == 1
        await item.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_causes_that_go_round_in_a_circle():
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        line.error = TimeoutError("slow")
        line.error.__cause__ = TimeoutError("slower")
        line.error.__cause__.__cause__ = line.error
        error = await error_of(limit.acquire(blocking=False))
        assert str(error) == UNAVAILABLE + "the server in memory is out of reach: it did not answer in time"
        assert error.__cause__ is line.error
        line.error = None
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_a_session_whose_task_is_cancelled_before_it_has_begun():
    async def main():
        server = Server()
        limit = server.limit(1)
        waiting = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        limit._session.task.cancel()
        assert str(await error_of(waiting)) == UNAVAILABLE + "the Task that renews its lease was cancelled"
        await idle(3)
        assert background() == []
        for one in await entered(limit):
            await one.ends()
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("way", ["error", "refusal", "its Task is cancelled"])
def test_what_becomes_of_the_last_request_of_a_session_is_no_affair_of_the_next(way):
    async def main():
        server = Server()
        line = server.line()
        limit = server.limit(1, line=line)
        [one] = await entered(limit)
        session = limit._session
        limit.limit, line.hangs = 2, True
        await until(lambda: session._in_time is not None)
        await asyncio.sleep(0.1)
        line.hangs, line.delay = False, 1
        session.end("the test says so")
        if way == "refusal":
            line.refusal = lambda error: "it refuses" if session.task is asyncio.current_task() else None
            session._epoch = 0
        waiting = [asyncio.create_task(limit.acquire(blocking=blocking)) for blocking in (True, False)]
        await idle(3)
        if way == "its Task is cancelled":
            session.task.cancel()
        assert await asyncio.wait_for(asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION), 10)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert not any(isinstance(result, Exception) for result in results), results
        assert isinstance(await error_of(one.task), LeaseLost)
        line.delay = 0
        await limit.aclose()

    run(main, reports=[])
