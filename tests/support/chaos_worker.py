"""A process of the chaos run (shared_chaos.py): units that let items through a limit, and write down what happens when.

    python chaos_worker.py '{"folder": ..., "process": ..., "port": ..., "kind": ..., "seed": ..., "lease": ..., "units": [{...}]}'

A unit is an event loop in a thread of its own, with a limit of its own; what it does again and again is in ROLES. Until there is a file
`stop` in the folder, it goes on; then it lets its items end, closes its limit and writes "done".

Each unit has a file `<process>.<number>` in the folder, one line for each event: what, key, CLOCK_MONOTONIC (one clock for all processes
of the machine), more. Written at once and whole, so that nothing is lost when the process is killed:

    wait        an item asks for a permit (more: "once" if it does not wait); then one of: start (more: fencing token), unavailable, cancelled, none (not in time)
    end         the item is about to leave its permit; then one of: ok, lost, cancelled
    pause       the event loop has stood still since (more)
    block       the unit itself has blocked it since (more)
    limit       (more) is the unit's limit from now on
    open, close the unit has a new limit; closes it
    vanish      the process ends without a word
    done        it has finished
    problem     (more) has happened, which never should
"""

import asyncio
import contextlib
import faulthandler
import functools
import importlib
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings

import gatedcoro
from gatedcoro.shared import GateUnavailable, LeaseLost, PostgresLimit, RedisLimit

BEAT = 0.02
PAUSE = 0.06


class Ledger:
    """The file of a unit."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, what, key, more=""):
        os.write(self._file, f"{what} {key} {time.monotonic():.6f} {more}\n".encode())

    def problem(self, text):
        self.note("problem", 0, text.replace("\n", " | "))


class Watched:
    """The limit as its users see it: what stands between `start` and `end` is done while the permit is held."""

    def __init__(self, limit, ledger, keys):
        self.limit = limit
        self._ledger = ledger
        self._keys = keys
        self._entered = {}

    async def __aenter__(self):
        return await self._enter(self.limit.__aenter__)

    async def __aexit__(self, *exc_info):
        key = self._entered.pop(asyncio.current_task())
        self._ledger.note("end", key)
        try:
            await self.limit.__aexit__(*exc_info)
        except LeaseLost:
            self._ledger.note("lost", key)
            raise
        self._ledger.note("cancelled" if exc_info[0] is asyncio.CancelledError else "ok", key)

    async def acquire(self, **arguments):
        once = "" if arguments.get("blocking", True) else "once"
        return await self._enter(lambda: self.limit.acquire(**arguments), once)

    async def _enter(self, enter, more=""):
        key = next(self._keys)
        self._ledger.note("wait", key, more)
        try:
            fence = await enter()
        except GateUnavailable:
            self._ledger.note("unavailable", key)
            raise
        except asyncio.CancelledError:
            self._ledger.note("cancelled", key)
            raise
        if fence is None:
            self._ledger.note("none", key)
            return None
        self._ledger.note("start", key, fence)
        self._entered[asyncio.current_task()] = key
        return fence

    def release(self):
        key = self._entered.pop(asyncio.current_task())
        self._ledger.note("end", key)
        try:
            self.limit.release()
        except LeaseLost:
            self._ledger.note("lost", key)
            raise
        is_cancelled = isinstance(sys.exc_info()[1], asyncio.CancelledError)
        self._ledger.note("cancelled" if is_cancelled else "ok", key)


class Unit:
    def __init__(self, program, number):
        self.program = program
        self.__dict__ |= {"role": "plain", "on_lost": "cancel", "renew_in_thread": False} | program["units"][number]
        self.random = random.Random(f"{program['seed']} {program['process']} {number}")
        self.label = f"{program['process']}.{number}"
        self.ledger = Ledger(os.path.join(program["folder"], self.label))
        self.lease = program["lease"]
        self.keys = itertools.count()

    def run(self):
        try:
            asyncio.run(self.main())
        except BaseException:
            self.ledger.problem(traceback.format_exc())

    @property
    def goes_on(self):
        return not os.path.exists(os.path.join(self.program["folder"], "stop"))

    async def main(self):
        asyncio.get_running_loop().set_exception_handler(self.reported)
        beats = asyncio.create_task(self.watch_the_loop())
        while self.goes_on:
            await self.live()
        beats.cancel()
        self.ledger.note("done", 0)

    def reported(self, loop, context):
        # Of a connection that broke while the client wrote; no Future of a limit has such an exception.
        if context["message"] != "Future exception was never retrieved" or not isinstance(
            context["exception"], OSError
        ):
            self.ledger.problem(f"the loop's exception handler: {context!r}")

    async def watch_the_loop(self):
        last = time.monotonic()
        while True:
            await asyncio.sleep(BEAT)
            now = time.monotonic()
            if now - last > PAUSE:
                self.ledger.note("pause", 0, f"{last:.6f}")
            last = now

    async def live(self):
        """One life of a limit."""
        async with self.client() as client:
            await self.live_with(client)

    def client(self):
        kind = self.program["kind"]
        if kind == "postgres":
            connect = functools.partial(
                importlib.import_module("asyncpg").connect,
                host="127.0.0.1",
                port=self.program["port"],
                user="benchmark",
                database="postgres",
                server_settings={"application_name": self.label},
            )
            return contextlib.nullcontext(connect)
        return getattr(importlib.import_module(f"{kind}.asyncio"), kind.capitalize())(
            port=self.program["port"],
            protocol=self.random.choice([2, 3]),
            decode_responses=self.random.random() < 0.5,
        )

    async def live_with(self, client):
        options = {"lease": self.lease, "on_lost": self.on_lost}
        if self.program["kind"] == "postgres":
            limit = PostgresLimit(client, self.name, self.limit, **options)
        else:
            limit = RedisLimit(client, self.name, self.limit, renew_in_thread=self.renew_in_thread, **options)
        self.ledger.note("open", 0)
        self.watched = Watched(limit, self.ledger, self.keys)
        calls = {"comes and goes": self.random.randint(1, 4), "knocks": 1}.get(self.role, 1 << 20)
        while calls and self.goes_on:
            calls -= 1
            await self.random.choice(ROLES[self.role])(self)
            if asyncio.current_task().cancelling():
                self.ledger.problem("the Task of the calls has a request to cancel it that nobody made")
            if self.random.random() < 0.2:
                await asyncio.sleep(self.random.uniform(0, self.lease / 2))
        self.ledger.note("close", 0)
        await limit.aclose()

    # --- Items ------------------------------------------------------------------------------------------------------

    def duration(self):
        if self.random.random() < 0.05:
            return self.random.uniform(1.1, 2) * self.lease
        return self.random.choice([0.005, 0.02, 0.05, 0.1, 0.3])

    async def item(self, duration):
        await asyncio.sleep(duration)
        return duration

    async def blocking_item(self, duration):
        self.block(duration)
        await asyncio.sleep(0.02)
        return duration

    def block(self, duration):
        began = time.monotonic()
        time.sleep(duration)
        self.ledger.note("block", 0, f"{began:.6f}")

    def items(self):
        return [self.item(self.duration()) for _ in range(self.random.randint(1, 12))]

    # --- What a unit does again and again ---------------------------------------------------------------------------

    async def gather(self):
        await self.check(gatedcoro.gather(*self.items(), limit=self.watched, return_exceptions=True))

    async def check(self, call):
        for result in await call:
            kinds = (
                (float, type(None), GateUnavailable)
                if self.on_lost == "keep"
                else (float, type(None), GateUnavailable, LeaseLost)
            )
            if not isinstance(result, kinds):
                self.ledger.problem(f"an item's result is {result!r}")

    async def long_gather(self):
        """Of items between which nothing is asked of the server but renewals."""
        longest = (
            3 if self.program["kind"] == "postgres" else 2
        )  # of leases: more than a session goes without an answer
        items = [self.item(self.random.uniform(0.5, longest) * self.lease) for _ in range(self.random.randint(1, 3))]
        await self.check(gatedcoro.gather(*items, limit=self.watched, return_exceptions=True))

    async def cancelled_gather(self):
        call = asyncio.create_task(self.gather())
        await asyncio.sleep(self.random.choice([0, 0, 0.001, 0.01, 0.1, 0.3]))
        call.cancel()
        await asyncio.wait([call])
        if not call.cancelled():
            call.result()

    async def single(self):
        try:
            async with self.watched:
                await self.item(self.duration())
        except (GateUnavailable, LeaseLost):
            pass

    async def gather_cancelled_as_a_permit_is_passed_on(self):
        async def cancels():
            await asyncio.sleep(0.02)
            # Before whoever gets the permit of this item hears of it.
            asyncio.get_running_loop().call_soon(call.cancel)

        items = [self.item(self.duration()) for _ in range(self.random.randint(0, 4))] + [cancels()]
        items += [self.item(self.duration()) for _ in range(4)]
        call = asyncio.create_task(self.check(gatedcoro.gather(*items, limit=self.watched, return_exceptions=True)))
        await asyncio.wait([call])
        if not call.cancelled():
            call.result()

    async def knock(self):
        """Impatiently: who waits is new no more."""
        try:
            if await self.watched.acquire(timeout=0.05) is not None:
                try:
                    await asyncio.sleep(self.random.choice([0.02, 0.02, 1.5 * self.lease]))
                finally:
                    self.watched.release()
        except (GateUnavailable, LeaseLost):
            pass
        await asyncio.sleep(0.03)

    async def in_time(self):
        try:
            async with asyncio.timeout(self.random.uniform(0, 0.5)):
                await self.single()
        except TimeoutError:
            pass

    async def acquire(self):
        how = self.random.choice([{"blocking": False}, {"timeout": self.random.uniform(0, 0.5)}, {}])
        try:
            if await self.watched.acquire(**how) is None:
                return
            try:
                await self.item(self.duration())
            finally:
                self.watched.release()
        except (GateUnavailable, LeaseLost):
            pass

    async def set_limit(self):
        self.watched.limit.limit = limit = self.random.randint(1, self.limit)
        self.ledger.note("limit", 0, limit)
        await self.gather()

    async def block_between(self):
        self.block(self.random.choice([0.2, 0.7, 1.3, 1.8]) * self.lease)

    async def block_in_item(self):
        items = [self.item(self.duration()) for _ in range(3)]
        items += [self.blocking_item(self.random.choice([0.2, 0.7, 1.3, 1.8]) * self.lease)]
        await self.check(gatedcoro.gather(*items, limit=self.watched, return_exceptions=True))

    async def close_early(self):
        call = asyncio.create_task(self.gather())
        await asyncio.sleep(self.random.choice([0, 0.01, 0.1, 0.3]))
        self.ledger.note("close", 0)
        await self.watched.limit.aclose()
        await call

    async def fork(self):
        """A child keeps the sockets for some time, whatever becomes of its parent."""
        if self.random.random() < 0.8:
            return
        until = time.monotonic() + self.random.uniform(4, 12) * self.lease
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # this process has threads
            if os.fork():
                return
        try:
            while time.monotonic() < until and self.goes_on and os.path.exists(self.program["folder"]):
                time.sleep(BEAT)
        finally:
            os._exit(0)

    async def vanish(self):
        if self.random.random() < 0.3:
            self.ledger.note("vanish", 0)
            os._exit(0)


ROLES = {
    "plain": [Unit.gather, Unit.gather, Unit.single, Unit.acquire],
    "cancels": [Unit.cancelled_gather, Unit.gather_cancelled_as_a_permit_is_passed_on, Unit.in_time, Unit.gather],
    "sets the limit": [Unit.set_limit, Unit.gather],
    "blocks": [Unit.gather, Unit.gather, Unit.gather, Unit.block_between, Unit.block_in_item],
    "forks": [Unit.gather, Unit.gather, Unit.single, Unit.fork],
    "waits long": [Unit.long_gather],
    "knocks": [Unit.knock],
    "comes and goes": [Unit.gather, Unit.close_early, Unit.single, Unit.vanish],
}


def main(program):
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for children
    units = [Unit(program, number) for number in range(len(program["units"]))]
    threads = [threading.Thread(target=unit.run) for unit in units[1:]]
    for thread in threads:
        thread.start()
    units[0].run()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
