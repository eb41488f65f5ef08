"""A search over machines: a million pieces of work from a generator, ten at a time at a dask scheduler, the rest never made.

Which is the first number whose SHA-256 begins with so many zeros? A piece of work looks at some thousand numbers. Answers come in
order, so the first hit ends the search: what still waits at the scheduler is taken back.

The cluster is two processes of this machine. With `Client("tcp://scheduler:8786", asynchronous=True)` it is yours.

python -m pip install distributed
python examples/dask_search.py
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from dask.distributed import CancelledError, Client, LocalCluster, SchedulerPlugin
from distributed.comm import CommClosedError

from gatedcoro import amap

AT_ONCE = 10  # pieces at the scheduler: some for each thread of a worker, so that none waits for its next one
PIECE = 5_000  # numbers; a piece should take a worker much longer than the millisecond that dask spends on it
ZEROS = "0000"


def first_hit(begin: int) -> int | None:
    """Runs at a worker."""
    for number in range(begin, begin + PIECE):
        if hashlib.sha256(b"%d" % number).hexdigest().startswith(ZEROS):
            return number
    return None


async def on_dask(client: Client, function: Callable[..., Any], *arguments: Any) -> Any:
    if client.status in ("closing", "closed"):  # what is submitted now may wait for ever
        raise ConnectionError("the client is closed")
    future = client.submit(function, *arguments, pure=False)
    try:
        fetching = asyncio.ensure_future(future.result())  # with others' results: theirs must not be cancelled
        fetching.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # maybe nobody asks
        return await asyncio.shield(fetching)
    except (CancelledError, CommClosedError) as error:  # dask's: the scheduler is lost, or somebody has cancelled it
        raise ConnectionError(str(error)) from error
    finally:
        future.release()  # it has ended: its result may go; it is cancelled: it need not start


# --- What is to be seen of it -----------------------------------------------------------------------------------------


class Counting(SchedulerPlugin):
    """The most pieces that waited or ran at the scheduler."""

    name = "counting"

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.most = 0

    def transition(self, *what: Any, **more: Any) -> None:
        tasks = self.scheduler.tasks.values()
        self.most = max(self.most, sum(task.state not in ("memory", "erred", "forgotten") for task in tasks))


class Begins:
    """Where pieces begin: a million of them, each made when it is asked for."""

    drawn = 0

    def __iter__(self) -> Iterator[int]:
        for begin in range(0, 1_000_000 * PIECE, PIECE):
            self.drawn += 1
            yield begin


async def main() -> None:
    async with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", asynchronous=True) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        counting, begins = Counting(cluster.scheduler), Begins()
        cluster.scheduler.add_plugin(counting)
        async with asyncio.timeout(120):
            async with amap(partial(on_dask, client, first_hit), begins, limit=AT_ONCE) as answers:
                async for number in answers:
                    if number is not None:
                        break
            while cluster.scheduler.tasks:  # it hears of it a moment later
                await asyncio.sleep(0.01)
    print(f"{number}: {hashlib.sha256(b'%d' % number).hexdigest()}")
    print(f"{begins.drawn} of 1,000,000 pieces were made; {counting.most} at most waited or ran at the scheduler")
    assert number == 88_484 and counting.most <= AT_ONCE
    assert begins.drawn <= number // PIECE + 1 + 2 * AT_ONCE


if __name__ == "__main__":  # workers import this file, too
    asyncio.run(main())
