"""What the tests of tests/dask have workers do, and the adapter that they try: that of docs/engines.md, word for word.

A module of its own: workers import it, too.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

PATIENCE = 120  # seconds, after which something is taken to hang


async def on_dask(client, function, *arguments):
    from dask.distributed import CancelledError
    from distributed.comm import CommClosedError

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


def square(number):
    return number * number


def fail(number):
    raise ValueError(number)


def stay(folder, number):
    """Says that it has begun, stays until it is told to go, says that it has ended."""
    Path(folder, f"begun {number}").touch()
    deadline = time.monotonic() + PATIENCE
    while not Path(folder, "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    Path(folder, f"ended {number}").touch()
    return number


def die_once(folder, number):
    """The first time, its process is killed."""
    path = Path(folder, f"died {number}")
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def told(folder, what):
    """The numbers of those that have begun, or ended."""
    return sorted(int(path.name.split()[1]) for path in Path(folder).glob(f"{what} *"))


def number_of_tasks(dask_worker):
    return len(dask_worker.state.tasks)
