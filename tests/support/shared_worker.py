"""A process that runs items under a shared limit as it is told, and notes what becomes of them (shared_processes.py forks it).

An order is a line of JSON on stdin; the end of stdin ends the process, with everything that it still does cancelled. Notes go into
the witness's stream by a blocking connection, so that they are in the order in which things happened, in all processes.
"""

import asyncio
import collections
import contextlib
import json
import os
import sys
import threading
import time

import redis

import gatedcoro
import shared_kinds
from gatedcoro.shared import GateUnavailable, LeaseLost

STREAM = "notes"  # of the witness


class Worker:
    def __init__(self, worker, witness, client, limit, name=shared_kinds.NAME, **options):
        self.worker = worker
        self.witness = redis.Redis(port=witness)
        self.client = shared_kinds.client_of(**client)
        self.limit = shared_kinds.limit_of(self.client, name, limit, **options)
        self.ends = collections.defaultdict(asyncio.Event)
        self.tasks = set()

    def note(self, event, item="", value=""):
        self.witness.xadd(STREAM, {"worker": self.worker, "event": event, "item": item, "value": str(value)})

    async def run(self):
        loop = asyncio.get_running_loop()
        await shared_kinds.opened(self.client)
        orders = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        async for line in orders:
            order = json.loads(line)
            if order["do"] == "go":  # without `aclose`, and with what runs
                return
            await getattr(self, "do_" + order.pop("do"))(**order)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.limit.aclose()
        await shared_kinds.closed(self.client)

    # --- Orders -----------------------------------------------------------------------------------------------------

    async def do_run(self, items, seconds, way):
        """Way: each item in a Task of its own that enters the limit, or all of them in one gather."""
        if way == "gather":
            self.start(self.gathered(items, seconds))
        else:
            for item in items:
                self.start(self.alone(item, seconds))

    async def do_end(self, items):
        for item in items:
            self.ends[item].set()

    async def do_cancel(self):
        for task in self.tasks:
            task.cancel()

    async def do_block(self, seconds=None):
        """Block the event loop, until the witness says so."""
        self.note("blocked")
        if seconds is None:
            self.witness.blpop([self.worker])
        else:
            time.sleep(seconds)
        self.note("unblocked")

    async def do_fork(self, seconds):
        """A child that has all that this process has, and does nothing."""
        pid = os.fork()
        if not pid:
            time.sleep(seconds)
            os._exit(0)
        self.note("forked", value=pid)

    async def do_nap(self, seconds):
        """Wait, in a loop that goes on."""
        await asyncio.sleep(seconds)
        self.note("napped")

    async def do_limit(self, limit):
        self.limit.limit = limit
        self.note("limit", value=limit)

    async def do_close(self):
        await self.limit.aclose()
        self.note("closed", value=await shared_kinds.ping(self.client))

    async def do_stats(self):
        stats = self.limit.stats()
        self.note("stats", value=f"{stats.held} {stats.waiting} {stats.sessions} {stats.limit}")

    async def do_threads(self):
        for thread in threading.enumerate():
            if thread.daemon:
                await asyncio.to_thread(thread.join)
        self.note("threads", value=sum("renewal" in thread.name for thread in threading.enumerate()))

    # --- Items ------------------------------------------------------------------------------------------------------

    def start(self, coro):
        task = asyncio.create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def alone(self, item, seconds):
        with self.noting(item):
            async with self.limit as fence:
                await self.item(item, seconds, fence)

    async def gathered(self, items, seconds):
        results = await gatedcoro.gather(
            *(self.item(item, seconds) for item in items), limit=self.limit, return_exceptions=True
        )
        for item, result in zip(items, results):
            with self.noting(item):
                if result is not None:
                    raise result

    async def item(self, item, seconds, fence=""):
        self.note("entered", item, fence)
        try:
            if seconds is None:
                await self.ends[item].wait()
            else:
                await asyncio.sleep(seconds)
        finally:
            self.note("left", item)

    @contextlib.contextmanager
    def noting(self, item):
        """How an item has ended."""
        try:
            yield
        except LeaseLost as error:
            self.note("lost", item, error)
        except GateUnavailable as error:
            self.note("unavailable", item, error)
        except asyncio.CancelledError:
            self.note("cancelled", item)
            raise
        except Exception as error:
            self.note("error", item, repr(error))
        else:
            self.note("ended", item)


async def main(options):
    await Worker(**options).run()


def run(options):
    asyncio.run(main(options))
