"""What a PostgresLimit does with what the server says of other sessions, without a server: when it ends one that is late."""

import asyncio

import pytest

from gatedcoro.shared import _postgres
from gatedcoro.shared._state import Request

LEASE = 10.0
WAITS = Request("session", 1, limit=1, granted=0, returned=0, asked=1, epoch=1, fence=0, version=0)


class Server:
    """Says of each request what it is told to; `ended` are the sessions that it was told to end."""

    def __init__(self, now):
        self.now = now
        self.first = self.late = ""
        self.ended = []
        self.asked = []

    async def fetchval(self, *arguments, timeout):
        self.asked.append(arguments[-2:])
        return f"0 0 0 1 0 1 2 {self.now()} / {self.first} / {self.late}"

    async def fetch(self, query, pid, key, until):
        assert query == _postgres.TERMINATE
        self.ended.append(f"{pid}:{until}")

    async def close(self):
        pass


@pytest.fixture
def later(monkeypatch):
    """later(seconds): lets time pass."""
    now = [1_000.0]
    monkeypatch.setattr(_postgres, "clock", lambda: now[0])

    def later(seconds=0):
        now[0] += seconds
        return round(now[0])

    return later


def run(later, main):
    async def with_backend():
        backend = _postgres.Backend(_postgres.PostgresState(None, "name", LEASE))
        server = backend._connection = backend._statement = Server(later)
        await main(backend, server)
        await backend.end()

    asyncio.run(with_backend())


def test_who_is_late_is_ended_when_it_was_seen_so_for_half_a_lease(later):
    async def main(backend, server):
        server.late = "7:70 8:80"
        for _ in range(3):
            await backend.ask(WAITS)
            assert server.ended == []
            later(LEASE / 6)
        server.late = "7:71 8:80"  # it has said something meanwhile
        later(0.1)
        await backend.ask(WAITS)
        assert server.ended == ["8:80"]

    run(later, main)


def test_who_was_passed_over_before_it_was_late_is_not_late_for_longer(later):
    async def main(backend, server):
        server.first = "7:70"
        for _ in range(10):
            await backend.ask(WAITS)
            later(LEASE)
        server.late = "7:70"
        await backend.ask(WAITS)
        assert server.ended == []
        later(LEASE)
        await backend.ask(WAITS)
        assert server.ended == ["7:70"]

    run(later, main)


def test_who_does_not_wait_ends_nobody(later):
    async def main(backend, server):
        server.late = "7:70"
        for _ in range(3):
            await backend.ask(
                Request("session", 1, limit=1, granted=0, returned=0, asked=0, epoch=1, fence=0, version=0)
            )
            later(LEASE)
        assert server.ended == []

    run(later, main)


def test_who_does_not_come_within_a_second_is_named_as_absent(later):
    async def main(backend, server):
        server.first = "7:70 8:80"
        await backend.ask(WAITS)
        later(0.9)
        server.first = "7:70 9:90"
        await backend.ask(WAITS)
        assert server.asked[-1] == ("7:70 8:80", "")
        later(0.2)
        await backend.ask(WAITS)
        assert server.asked[-1] == ("7:70 9:90", "7:70")

    run(later, main)
