"""Gatherings with anyio, aiohttp, httpx, aiolimiter and trio; each test is skipped where its library is not installed."""

import asyncio
import contextlib

import pytest

from contract_tools import Running

pytestmark = pytest.mark.usefixtures("any_turns")


async def value(result, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


def run(coro):
    async def within_a_minute():
        return await asyncio.wait_for(coro, 60)

    return asyncio.run(within_a_minute())


# ---- anyio ----


@pytest.mark.parametrize("n", [1, 2, None])
def test_anyio_cancel_scopes_inside_of_items_end_only_their_block(impl, n):
    anyio = pytest.importorskip("anyio")

    async def item(index):
        with anyio.move_on_after(0.001 if index % 2 else 60) as scope:
            await anyio.sleep(3600 if index % 2 else 0)
        await anyio.lowlevel.checkpoint()
        return scope.cancelled_caught

    async def main():
        assert await impl.gather_with_concurrency(n, *map(item, range(6))) == [False, True] * 3
        assert await impl.gather(*map(item, range(6)), limit=n) == [False, True] * 3

    run(main())


@pytest.mark.parametrize("n", [1, 2, None])
def test_an_anyio_cancel_scope_around_a_gathering_ends_it(impl, n):
    anyio = pytest.importorskip("anyio")

    async def main():
        ended = []

        async def item():
            try:
                await anyio.sleep(3600)
            finally:
                ended.append(1)

        for front in (impl.gather_with_concurrency, lambda n, *coros: impl.gather(*coros, limit=n)):
            ended.clear()
            with anyio.move_on_after(0.2) as scope:
                await front(n, item(), item())
            assert scope.cancelled_caught
            assert len(ended) == (n or 2)
            # The scope is left, so what follows is not cancelled.
            await anyio.sleep(0)
            assert asyncio.current_task().cancelling() == 0

    run(main())


def test_an_anyio_scope_that_an_item_cancels_itself_does_not_reach_the_next_item(impl):
    anyio = pytest.importorskip("anyio")

    async def item(index):
        with anyio.CancelScope() as scope:
            if index % 2:
                scope.cancel()
            await anyio.lowlevel.checkpoint()
            return index
        await anyio.lowlevel.checkpoint()
        return "cancelled"

    async def main():
        seen = await impl.gather_with_concurrency(1, *map(item, range(6)))
        assert seen == [0, "cancelled", 2, "cancelled", 4, "cancelled"]

    run(main())


@pytest.mark.parametrize("n", [1, 2, None])
def test_an_anyio_task_group_works_inside_of_items_and_around_gatherings(impl, n):
    anyio = pytest.importorskip("anyio")

    async def main():
        done = []

        async def leaf(index):
            await anyio.sleep(0)
            done.append(index)

        async def item(index):
            async with anyio.create_task_group() as group:
                group.start_soon(leaf, index)
                group.start_soon(leaf, index + 1)
            return index

        async def gathers():
            assert await impl.gather_with_concurrency(n, item(0), item(2)) == [0, 2]

        async with anyio.create_task_group() as group:
            group.start_soon(gathers)
            group.start_soon(gathers)
        assert sorted(done) == [0, 0, 1, 1, 2, 2, 3, 3]

    run(main())


@pytest.mark.parametrize("limiter", ["CapacityLimiter", "Semaphore", "Lock"])
def test_anyio_limiters_gate(impl, limiter):
    anyio = pytest.importorskip("anyio")

    async def main():
        slots = 1 if limiter == "Lock" else 2
        gate = anyio.Lock() if limiter == "Lock" else getattr(anyio, limiter)(2)
        running = Running()

        async def item(index):
            with running:
                await value(None, 9)  # entering a gate of anyio's takes some turns
            return index

        # A CapacityLimiter is borrowed by the current Task, so each item must enter it in its own.
        assert await impl.gather(*map(item, range(6)), limit=gate) == list(range(6))
        assert running.most == slots
        running.most = 0
        gated = [impl.gated_coro(gate, item(index)) for index in range(6)]
        assert await impl.gather_with_concurrency(None, *gated) == list(range(6))
        assert running.most == slots
        assert await impl.run_all([lambda i=i: item(i) for i in range(6)], limit=gate) == list(range(6))

        # Cancelled while it waits and while it runs: nothing stays borrowed.
        async def hangs():
            await anyio.sleep(3600)

        with anyio.move_on_after(0.2):
            await impl.gather(*[hangs() for _ in range(5)], limit=gate)
        await value(None, 3)
        if limiter == "Lock":
            assert not gate.locked()
        elif limiter == "Semaphore":
            assert gate.value == 2
        else:
            assert gate.borrowed_tokens == 0

    run(main())


def test_an_anyio_limiter_inside_of_items(impl):
    anyio = pytest.importorskip("anyio")

    async def main():
        limiter = anyio.CapacityLimiter(1)

        async def item(index):
            async with limiter:
                await anyio.sleep(0)
                return index

        assert await impl.gather_with_concurrency(3, *map(item, range(9))) == list(range(9))
        assert limiter.borrowed_tokens == 0

    run(main())


def test_anyio_runs_sync_code_in_threads_inside_of_items(impl):
    anyio = pytest.importorskip("anyio")
    to_thread = pytest.importorskip("anyio.to_thread")

    async def main():
        async def item(index):
            return await to_thread.run_sync(lambda: anyio.from_thread.run(value, index))

        assert await impl.gather_with_concurrency(2, *map(item, range(6))) == list(range(6))

    pytest.importorskip("anyio.from_thread")
    run(main())


# ---- aiolimiter ----


def test_an_aiolimiter_gates(impl):
    aiolimiter = pytest.importorskip("aiolimiter")

    async def main():
        limiter = aiolimiter.AsyncLimiter(3, 0.01)
        assert await impl.gather(*map(value, range(7)), limit=limiter) == list(range(7))
        assert await impl.gated_coro(limiter, value(1)) == 1

    run(main())


# ---- HTTP ----


class Serving(asyncio.Protocol):
    """One connection: every request is answered, after a moment, with its path."""

    def __init__(self, state):
        self.state = state
        self.received = b""

    def connection_made(self, transport):
        self.transport = transport
        self.state["transports"].add(transport)

    def connection_lost(self, error):
        self.state["transports"].discard(self.transport)

    def data_received(self, data):
        self.received += data
        while b"\r\n\r\n" in self.received:
            request, _, self.received = self.received.partition(b"\r\n\r\n")
            self.state["running"] += 1
            self.state["peak"] = max(self.state["peak"], self.state["running"])
            asyncio.get_running_loop().call_later(0.002, self.answer, request.split()[1])

    def answer(self, path):
        self.state["running"] -= 1
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


@contextlib.asynccontextmanager
async def loopback_server():
    """A server on this machine, and how many requests it served at once."""
    state = {"running": 0, "peak": 0, "transports": set()}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Serving(state), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", state
    finally:
        server.close()
        for transport in list(state["transports"]):
            transport.abort()
        while state["transports"]:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("n", [5, None])
def test_aiohttp_requests(impl, n):
    aiohttp = pytest.importorskip("aiohttp")

    async def main():
        async with loopback_server() as (url, state), aiohttp.ClientSession() as session:

            async def fetch(index):
                async with session.get(f"{url}/{index}") as response:
                    return await response.text()

            assert await impl.gather_with_concurrency(n, *map(fetch, range(40))) == [f"/{i}" for i in range(40)]
            assert n is None or state["peak"] <= n
            assert await impl.run_all([lambda i=i: fetch(i) for i in range(20)], limit=n) == [
                f"/{i}" for i in range(20)
            ]

            # A timeout of one request is that request's alone.
            async def fetch_in_no_time():
                timeout = aiohttp.ClientTimeout(total=0.0001)
                async with session.get(f"{url}/slow", timeout=timeout) as response:
                    return await response.text()

            seen = await impl.gather(fetch(1), fetch_in_no_time(), fetch(2), limit=n, return_exceptions=True)
            assert [seen[0], seen[2]] == ["/1", "/2"]
            assert isinstance(seen[1], TimeoutError)

            # Cancelled in the middle, the session stays usable.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.004):
                    await impl.gather_with_concurrency(n, *map(fetch, range(200)))
            assert await fetch("after") == "/after"

    run(main())


@pytest.mark.parametrize("n", [5, None])
def test_httpx_requests(impl, n):
    httpx = pytest.importorskip("httpx")

    async def main():
        async with loopback_server() as (url, state), httpx.AsyncClient(timeout=30, trust_env=False) as client:

            async def fetch(index):
                return (await client.get(f"{url}/{index}")).text

            assert await impl.gather_with_concurrency(n, *map(fetch, range(40))) == [f"/{i}" for i in range(40)]
            assert n is None or state["peak"] <= n
            assert await impl.gather(*map(fetch, range(20)), limit=n) == [f"/{i}" for i in range(20)]

            async def fetch_in_no_time():
                return (await client.get(f"{url}/slow", timeout=0.0001)).text

            seen = await impl.gather(fetch(1), fetch_in_no_time(), fetch(2), limit=n, return_exceptions=True)
            assert [seen[0], seen[2]] == ["/1", "/2"]
            assert isinstance(seen[1], httpx.TimeoutException)

    run(main())


# ---- trio ----


def test_gated_coro_under_trio_with_trios_own_gates(impl):
    trio = pytest.importorskip("trio")

    async def main():
        for make in (lambda: trio.Semaphore(2), lambda: trio.CapacityLimiter(2), lambda: trio.Lock()):
            gate = make()
            running = Running()
            results = {}

            async def item(index):
                with running:
                    await trio.sleep(0)
                return index

            async def gated(index):
                results[index] = await impl.gated_coro(gate, item(index))

            async with trio.open_nursery() as nursery:
                for index in range(6):
                    nursery.start_soon(gated, index)
            assert results == {index: index for index in range(6)}
            assert running.most == (1 if isinstance(gate, trio.Lock) else 2)

            # Cancelled while it waits for the gate, and while it runs.
            with trio.move_on_after(0.01) as scope:
                async with gate:
                    if not isinstance(gate, trio.Lock):
                        await impl.gated_coro(trio.Semaphore(1), trio.sleep(3600))
                    with trio.move_on_after(0.2) as inner:
                        lock = trio.Lock()
                        await lock.acquire()
                        await impl.gated_coro(gate if isinstance(gate, trio.Semaphore) else trio.Semaphore(0), item(1))
            assert scope.cancelled_caught or inner.cancelled_caught
            with trio.fail_after(5):
                assert await impl.gated_coro(gate, item(7)) == 7

    trio.run(main)


def test_under_trio_a_gathering_says_that_it_needs_asyncio(impl):
    trio = pytest.importorskip("trio")

    async def main():
        with pytest.raises(RuntimeError, match="no running event loop"):
            await impl.gather_with_concurrency(2, trio.sleep(0))

    trio.run(main)
