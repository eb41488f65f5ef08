"""Two or three sessions of a shared limit under long random orders of what their users do and of what befalls their lines.

Hypothesis chooses, and shortens what fails. All is in virtual time, on a server in memory. What is counted is counted by the items:
never more than the limit but for those of a session that has lost its lease and was told late or not at all, and who waits is served
while there is room. GATEDCORO_MACHINE=1000 in the environment: a thousand other orders each time, and longer.
"""

import asyncio
import os

import pytest

from effort import SHORT
from gatedcoro.shared import GateUnavailable, LeaseLost
from shared_state import Server
from shared_tools import background, clock_set
from virtual_time import FineTimeLoop

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings, strategies as st  # noqa: E402
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)  # noqa: E402, E501

EXAMPLES = int(os.environ.get("GATEDCORO_MACHINE", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or (10 if SHORT else 100),
    stateful_step_count=80 if EXAMPLES else 30,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
LEASE = 9.0
TIMES = st.sampled_from([0, 0, 0.001, 0.01, 0.06, 0.3, 1, 4, 9, 20])
DELAYS = st.sampled_from([0, 0, 0, 0.01, 0.2, 1])
some = st.integers(0, 1_000)  # which of several


class User:
    """An item, and what its user may know of it."""

    def __init__(self, machine, number, **options):
        self.machine, self.number, self.options = machine, number, options
        self.limit = machine.limits[number]
        self.may_end = asyncio.Event()
        self.is_in = False
        self.was_cancelled = False
        self.swallows = options.pop("swallows", False)
        self.task = asyncio.get_running_loop().create_task(self.run())

    async def run(self):
        if self.options:
            if await self.limit.acquire(**self.options) is None:
                return "none"
            try:
                await self.inside()
            finally:
                self.limit.release()
        else:
            async with self.limit:
                await self.inside()
        return "done"

    async def inside(self):
        self.machine.running.add(self)
        try:
            while True:
                try:
                    return await self.may_end.wait()
                except asyncio.CancelledError:
                    if not self.swallows or self.was_cancelled:
                        raise
                    self.machine.may_be_over = True  # it runs on, without a permit
        finally:
            self.machine.running.discard(self)


class Users(RuleBasedStateMachine):
    @initialize(limits=st.lists(st.integers(1, 4), min_size=2, max_size=3), equal=st.booleans(), keep=st.booleans())
    def begin(self, limits, equal, keep):
        self.loop = FineTimeLoop()
        self.reports = []
        self.loop.set_exception_handler(lambda loop, context: self.reports.append(context))
        self.runner = asyncio.Runner(loop_factory=lambda: self.loop)
        self.set_clock = clock_set(self.loop.time)
        self.set_clock.__enter__()
        self.server = Server(lease=LEASE)
        self.highest = max(limits)
        limits = [limits[0]] * len(limits) if equal else limits
        self.lines = [self.server.line() for _ in limits]
        # With "keep" items of a session that has lost its lease run on: then there may be more.
        self.limits = [
            self.server.limit(limit, line=line, on_lost="keep" if keep and number == 0 else "cancel")
            for number, (limit, line) in enumerate(zip(limits, self.lines))
        ]
        self.keeps = keep
        self.users = []
        self.running = set()
        self.may_be_over = False

    def step(self, coroutine_function):
        return self.runner.run(coroutine_function())

    def pick(self, which):
        return which % len(self.limits)

    # What users do

    @rule(which=some, count=st.integers(1, 5), swallows=st.booleans())
    def enter(self, which, count, swallows):
        async def enter():
            for _ in range(count):
                self.users.append(User(self, self.pick(which), swallows=swallows and count == 5))
            await asyncio.sleep(0)

        self.step(enter)

    @rule(which=some, options=st.sampled_from([{"blocking": False}, {"timeout": 0.5}, {"timeout": 12}]))
    def acquire(self, which, options):
        async def acquire():
            self.users.append(User(self, self.pick(which), **options))
            await asyncio.sleep(0)

        self.step(acquire)

    @precondition(lambda self: any(self.users))
    @rule(which=some, count=st.integers(1, 4), turns=st.integers(0, 3))
    def end(self, which, count, turns):
        async def end():
            for number in range(count):
                self.users[(which + number) % len(self.users)].may_end.set()
            for _ in range(turns):
                await asyncio.sleep(0)

        self.step(end)

    @precondition(lambda self: any(self.users))
    @rule(which=some, turns=st.integers(0, 3))
    def cancel(self, which, turns):
        async def cancel():
            user = self.users[which % len(self.users)]
            user.was_cancelled |= user.task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)

        self.step(cancel)

    @rule(which=some, limit=st.integers(1, 4))
    def set_limit(self, which, limit):
        async def set_limit():
            self.limits[self.pick(which)].limit = limit
            # What was let in under a higher limit stays in.
            self.highest = max(self.highest, limit)

        self.step(set_limit)

    # What befalls the lines

    @rule(which=some, delay=DELAYS, answer_delay=DELAYS, message_delay=DELAYS)
    def slow(self, which, delay, answer_delay, message_delay):
        line = self.lines[self.pick(which)]
        line.delay, line.answer_delay, line.message_delay = delay, answer_delay, message_delay

    @rule(which=some, how=st.sampled_from(["error", "answer_error", "leave_error", "hangs", "drops", "", ""]))
    def cut(self, which, how):
        line = self.lines[self.pick(which)]
        line.error = ConnectionError("cut") if how == "error" else None
        line.answer_error = ConnectionError("cut") if how == "answer_error" else None
        line.leave_error = ConnectionError("cut") if how == "leave_error" else None
        line.hangs, line.drops = how == "hangs", how == "drops"

    @rule()
    def forget(self):
        self.server.forget()

    @rule(which=some)
    def be_taken_for_dead(self, which):
        """As if its lease had ended: then more may run until it is told."""
        if self.server.records:
            del self.server.records[list(self.server.records)[which % len(self.server.records)]]
            self.may_be_over = True

    @rule(which=some)
    def cancel_a_task_of_its_own(self, which):
        async def cancel():
            session = self.limits[self.pick(which)]._session
            if session is not None:
                (session.task if which % 2 else session._listener).cancel()
            await asyncio.sleep(0)

        self.step(cancel)

    @rule(seconds=TIMES)
    def wait(self, seconds):
        async def wait():
            for _ in range(5):
                await asyncio.sleep(seconds / 5)

        self.step(wait)

    @rule(seconds=st.sampled_from([1, 5, 12]))
    def block_the_loop(self, seconds):
        async def block():
            asyncio.get_running_loop().virtual_now += seconds
            # Nobody could be told in the meantime.
            self.may_be_over |= seconds > LEASE / 20

        self.step(block)

    # What holds

    @invariant()
    def never_more_than_the_limit(self):
        if hasattr(self, "running") and not self.may_be_over and not self.keeps:
            assert len(self.running) <= self.highest, (len(self.running), self.highest)
        if hasattr(self, "server"):
            for record in self.server.records.values():
                assert 0 <= record.returned <= record.granted

    @invariant()
    def the_counts_are_right(self):
        for number, limit in enumerate(getattr(self, "limits", ())):
            permits = limit._permits
            if permits is None:
                continue
            assert permits.idle >= 0 and permits.running >= 0 and permits.owed >= 0
            assert permits.granted >= permits.returned >= 0
            assert permits.held == permits.idle + permits.running - permits.owed, (number, vars_of(permits))
            assert sum(permits.holders.values()) <= permits.running
            live = [user for user in self.users if user.limit is limit and not user.task.done()]
            assert limit.stats().waiting + permits.running <= len(live)

    def teardown(self):
        if not hasattr(self, "runner"):
            return
        try:
            self.step(self.all_ends)
            self.users.clear()
        finally:
            try:
                self.runner.close()
            finally:
                self.set_clock.__exit__(None, None, None)
        assert self.reports == [], self.reports

    async def all_ends(self):
        """Lines work, items end: who waits is served, and nothing is left."""
        for line in self.lines:
            line.error = line.answer_error = line.leave_error = None
            line.hangs = line.drops = False
            line.delay = line.answer_delay = line.message_delay = 0
        await asyncio.sleep(3 * LEASE)
        # With room, nobody waits.
        for limit in self.limits:
            if limit.stats().waiting:
                assert self.server.total >= limit.limit, "it waits while there is room"
        # All that waits is let in, once those that run have ended.
        for user in self.users:
            user.may_end.set()
        await asyncio.sleep(3 * LEASE)
        for user in self.users:
            assert user.task.done(), (user.number, user.options, user.task, self.limits)
            if user.task.cancelled():
                assert user.was_cancelled
            elif error := user.task.exception():
                assert isinstance(error, (GateUnavailable, LeaseLost)), error
                assert not (user.was_cancelled and isinstance(error, LeaseLost))
            else:
                assert user.task.result() in ("done", "none")
        for limit in self.limits:
            stats = limit.stats()
            assert (stats.held, stats.waiting) == (0, 0), limit
            assert not limit._losses
            async with asyncio.timeout(2 * LEASE):
                assert await limit.acquire()
            limit.release()
        for limit in self.limits:
            await limit.aclose()
        await asyncio.sleep(3 * LEASE)
        self.server.prune()
        assert self.server.records == {} and background() == []


def vars_of(permits):
    return {name: getattr(permits, name) for name in ("granted", "returned", "idle", "running", "owed", "holders")}


def test_users_of_two_or_three_sessions():
    run_state_machine_as_test(Users, settings=SETTINGS)
