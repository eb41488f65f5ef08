"""A shared limit whose permits are kept by a connection, as PostgreSQL keeps them: no lease ends them, and the connection's end does."""

import asyncio
import contextlib

import pytest

from gatedcoro.shared import GateUnavailable, LeaseLost
from gatedcoro.shared._state import SessionLost
from shared_state import NAME, Line, Refused, Server
from shared_tools import Item, all_is_given_back, background, background_ends, entered, error_of, run
from virtual_time import FineTimeLoop

WHY = "its connection has ended"
LOST = f"the permit of {NAME!r} is lost: "


class Connection(Line):
    """A State whose sessions end with its connection."""

    ends_with_connection = True

    def break_off(self, session):
        """The server has given away what the session held."""
        self.server.records.pop(session.id, None)
        self.listen_error = SessionLost(WHY)
        self.stop_listening()
        self.listen_error = None


def connected(server, limit, **options):
    return server.limit(limit, line=Connection(server), **options)


def test_items_end_when_the_connection_does():
    async def main():
        server = Server()
        limit = connected(server, 2)
        items = await entered(limit, 2)
        waiting = Item(limit)
        await asyncio.sleep(1)
        session = limit._session
        limit._state.break_off(session)
        for item in items:
            error = await error_of(item.task)
            assert type(error) is LeaseLost and str(error) == LOST + WHY
        await waiting.starts()  # by another session
        assert limit._session is not session
        assert server.now < 2
        await waiting.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_a_request_may_find_out_that_the_connection_has_ended():
    async def main():
        server = Server()
        limit = connected(server, 1)
        line = limit._state
        [item] = await entered(limit)
        waiting = Item(limit)
        session = limit._session
        server.records.pop(session.id)
        line.error = SessionLost(WHY)
        session.wake()
        assert str(await error_of(item.task)) == LOST + WHY
        line.error = None
        await waiting.starts()
        await waiting.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_items_run_on_with_on_lost_keep():
    async def main():
        server = Server()
        limit = connected(server, 1, on_lost="keep")
        [item] = await entered(limit)
        limit._state.break_off(limit._session)
        await asyncio.sleep(100)
        assert not item.task.done()
        [other] = await entered(limit)
        await item.ends()
        await other.ends()
        await all_is_given_back(server, limit)

    run(main)


@pytest.mark.parametrize("on_lost", ["cancel", "keep"])
def test_nothing_is_lost_while_the_event_loop_stands_still(on_lost):
    """The connection lives, so nobody else has been given the permits."""

    class Loop(FineTimeLoop):
        late = 0.0

        def time(self):
            return super().time() + self.late

    async def main():
        loop = asyncio.get_running_loop()
        server = Server(lease=30)
        limit = connected(server, 1, on_lost=on_lost)
        [item] = await entered(limit)
        waiting = Item(limit)
        await asyncio.sleep(1)
        loop.late += 1_000
        server.records[limit._session.id].expires = loop.time() + server.lease  # which such a server does not count
        limit._state.hangs = True
        now = server.now
        await item.ends()
        await waiting.starts()  # without a word to the server
        assert server.now - now < 1
        limit._state.hangs = False
        await asyncio.sleep(100)
        await waiting.ends()
        await all_is_given_back(server, limit, at_once=False)

    run(main, loop_factory=Loop)


def test_items_end_when_there_was_no_answer_for_a_lease():
    async def main():
        server = Server(lease=30)
        limit = connected(server, 1)
        line = limit._state
        [item] = await entered(limit)
        waiting = Item(limit)
        await asyncio.sleep(1)
        began = server.now
        line.error = OSError("no way")
        limit._session.wake()
        what = "the server in memory was out of reach for 30 s: OSError: no way"
        assert str(await error_of(item.task)) == LOST + what
        error = await error_of(waiting.task)
        assert type(error) is GateUnavailable and str(error).endswith(what)
        assert 29.999 < server.now - began < 31
        line.error = None
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_an_answer_within_a_lease_is_in_time():
    async def main():
        server = Server(lease=30)
        limit = connected(server, 1)
        line = limit._state
        [item] = await entered(limit)
        for _ in range(5):
            line.error = OSError("no way")
            limit._session.wake()
            await asyncio.sleep(25)
            line.error = None
            await asyncio.sleep(10)
        assert await item.ends() == ""
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_with_on_lost_keep_others_get_permits_by_another_connection():
    async def main():
        server = Server(lease=30)
        limit = connected(server, 1, on_lost="keep")
        line = limit._state
        [item] = await entered(limit)
        line.error = OSError("no way")
        session = limit._session
        session.wake()
        await asyncio.sleep(31)
        assert limit._session is None and not item.task.done()
        line.error = None
        [other] = await entered(limit)
        await item.ends()
        await other.ends()
        await all_is_given_back(server, limit, at_once=False)

    run(main)


def test_the_session_ends_when_nobody_needs_it():
    async def main():
        server = Server(lease=30)
        limit = connected(server, 1)
        for item in await entered(limit):
            await item.ends()
        now = server.now
        await background_ends()
        assert server.now - now < 5  # a pool that is closed waits for it
        assert server.records == {}
        for item in await entered(limit):
            await item.ends()
        await all_is_given_back(server, limit)

    run(main)


def test_a_connection_that_ends_while_the_limit_is_closed():
    async def main():
        server = Server()
        limit = connected(server, 1)
        [item] = await entered(limit)
        session = limit._session
        closing = asyncio.create_task(limit.aclose())
        await asyncio.sleep(0)
        server.records.pop(session.id, None)
        limit._state.leave_error = OSError("it has ended")
        assert isinstance(await error_of(item.task), LeaseLost)
        await closing
        assert background() == []

    run(main)


@pytest.mark.parametrize("way", ["left", "cancelled", "cancelled while it waits for items", "refused"])
def test_what_a_session_has_for_itself_ends_with_it(way):
    async def main():
        server = Server()
        limit = connected(server, 1)
        line = limit._state
        may_end, has_entered = asyncio.Event(), asyncio.Event()

        async def stubborn():
            async with limit:
                has_entered.set()
                while not may_end.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await may_end.wait()

        if way == "refused":
            line.error = Refused("no")
            await error_of(limit.acquire())
        else:
            item = asyncio.create_task(stubborn())
            await has_entered.wait()
            session = limit._session
            if way != "left":
                session.task.cancel()
            if way == "cancelled while it waits for items":
                await asyncio.sleep(1)
                session.task.cancel()
                await asyncio.wait([session.task])
                assert not item.done()
            may_end.set()
            await asyncio.wait([item])
        await background_ends()
        [forgotten] = line.forgotten
        assert way == "refused" or forgotten == session.id

    run(main)
