"""Random programs of users of one semaphore, for the differential tests, and their interpreter.

A program is plain nested tuples, made from a seed:

    SemaphoreProgram(kind, limit, source, strikes)
    user      (what, delay, ...), one after the other, each in a Task of its own that first sleeps for that delay:
              ("with" | "acquire" | "gated", delay, ops)       holds a slot around its ops
              ("by hand", delay, which of those, ops)          its coroutine is driven by hand, so that it can be closed or thrown into
              ("timeout" | "wait_for", delay, for how long, user)
              ("call", delay, front, row, options, items)      its items are ops; what runs in them holds a slot
              ("stream", delay, kind, row, options, items, leave after, pause)
    op        ("sleep", delay), ("yield",), ("raise",), ("limit", number), ("release",), ("look",), ("swallow", ops)
    strike    (what, delay, which): "cancel" a user, "item": what runs in a call, "close" or "throw" into who is driven by hand,
              "limit", "look"

(The field `source` holds the users, so that random_programs.smallest_failing() takes some away.)

While a program runs, and at its end, the interpreter checks what must hold of any semaphore:

    - Nobody is let in while there is no slot; when the limit has been lowered, not until enough have come back.
    - Who waits is overtaken by nobody who came later; by items of a call or a stream, which may stand in front of it, once.
    - In the end every slot is back, and nobody stands in the queue.
"""

import asyncio
import collections
import functools
import gc
import random
import warnings
from typing import NamedTuple

import random_programs as rp
import random_streams as rs
from virtual_time import DeadlockError

# Longer than all delays of a program together.
FOR_EVER = 1 << 20


class SemaphoreProgram(NamedTuple):
    kind: str
    limit: int
    source: tuple
    strikes: tuple


class Thrown(Exception):
    pass


class ModelSemaphore:
    """What asyncio.Semaphore of 3.13 and later is, with a limit, and without the slots that it loses when a wait ends oddly."""

    def __init__(self, value):
        self._value = self._limit = value
        self._waiters = collections.deque()

    @property
    def limit(self):
        return self._limit

    @limit.setter
    def limit(self, limit):
        self._value += limit - self._limit
        self._limit = limit
        self._wake()

    def _wake(self):
        for waiter in self._waiters:
            if self._value <= 0:
                break
            if not waiter.done():
                self._value -= 1
                waiter.set_result(True)

    def locked(self):
        return self._value <= 0 or any(not waiter.cancelled() for waiter in self._waiters)

    async def acquire(self):
        if not self.locked():
            self._value -= 1
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            self._waiters.remove(waiter)
            if waiter.done() and not waiter.cancelled():
                self._value += 1
            self._wake()
            raise
        self._waiters.remove(waiter)
        self._wake()
        return True

    def release(self):
        self._value += 1
        self._wake()

    async def __aenter__(self):
        await self.acquire()

    async def __aexit__(self, *error):
        self.release()


class ModelBoundedSemaphore(ModelSemaphore):
    def release(self):
        if self._value >= self._limit:
            raise ValueError("BoundedSemaphore released too many times")
        super().release()


class MODEL:
    """In place of an implementation, where there are no calls and streams."""

    Semaphore = ModelSemaphore
    BoundedSemaphore = ModelBoundedSemaphore

    @staticmethod
    async def gated_coro(semaphore, coroutine):
        try:
            async with semaphore:
                return await coroutine
        finally:
            coroutine.close()

    @staticmethod
    def _set_clock(clock):
        pass

    @staticmethod
    def _set_task_reuse(enabled):
        return False

    _set_full_turns = _set_task_reuse


class Gate:
    """Another gate of a row."""

    def __init__(self):
        self.semaphore = asyncio.Semaphore(2)

    async def __aenter__(self):
        await self.semaphore.acquire()

    async def __aexit__(self, *error):
        self.semaphore.release()


class ByHand:
    """A coroutine that is driven by hand: whoever has it can close it, or throw into it, while it waits."""

    def __init__(self, coroutine):
        self.coroutine = coroutine
        self.wakes = None
        self.ends_with = None

    async def drive(self):
        step = functools.partial(self.coroutine.send, None)
        while True:
            try:
                waits_for = step()
            except StopIteration as stop:
                return stop.value
            self.wakes = asyncio.get_running_loop().create_future()
            if waits_for is None:
                asyncio.get_running_loop().call_soon(self.wake)
            else:
                waits_for._asyncio_future_blocking = False
                waits_for.add_done_callback(self.wake)
            step = functools.partial(self.coroutine.send, None)
            try:
                await self.wakes
            except asyncio.CancelledError as error:
                step = functools.partial(self.coroutine.throw, error)
            del waits_for
            if self.ends_with is not None:
                return self.ends_with

    def wake(self, _=None):
        if not self.wakes.done():
            self.wakes.set_result(None)

    def close(self):
        if self.wakes is None or self.wakes.done() or self.ends_with is not None:
            return
        self.coroutine.close()
        self.ends_with = "closed"
        self.wake()

    def throw(self):
        if self.wakes is None or self.wakes.done() or self.ends_with is not None:
            return
        try:
            self.coroutine.throw(Thrown())
        except Thrown:
            self.ends_with = "thrown into"
            self.wake()
        except StopIteration:
            self.ends_with = "over"
            self.wake()
        else:
            self.coroutine.close()
            self.ends_with = "went on, and closed"
            self.wake()


class SemaphoreInterpreter:
    """Runs one program on one implementation, and checks what must hold."""

    def __init__(self, program, module, *, task_factory=None, looks_at_the_queue=True):
        self.program = program
        self.module = module
        self.task_factory = task_factory
        self.looks_at_the_queue = looks_at_the_queue
        self.trace = []
        self.wrong = []
        self.closed = False
        self.users = {}
        self.items = {}
        self.by_hand = {}
        self.asked = {}  # who, as which
        self.calls = set()
        self.waiting = {}  # who has asked: when others that came later, or items of calls, have been let in
        self.holding = set()
        self.enters_another = set()  # calls whose items have to wait for another gate after this
        self.extra = 0
        self.most_taken = None  # while more are taken than there are

    def log(self, label, *event):
        if not self.closed:
            self.trace.append((self.loop.virtual_now, self.loop.turn, label, *event))
            self.check()

    # -- what must hold --

    @property
    def taken(self):
        return self.semaphore.limit + self.extra - self.semaphore._value

    def check(self):
        s = self.semaphore
        if s._value >= 0:
            self.most_taken = None
        elif self.most_taken is None or self.taken > self.most_taken:
            self.wrong.append((self.trace[-1], "more are taken than there are", self.taken, self.most_taken))
        if len(self.holding) > self.taken:
            self.wrong.append((self.trace[-1], "more hold one than are taken", sorted(self.holding), self.taken))
        if s._value <= 0 and not s.locked():
            self.wrong.append((self.trace[-1], "not locked", s._value))

    def set_limit(self, limit):
        taken = self.taken
        self.semaphore.limit = limit
        if self.semaphore._value < 0:
            self.most_taken = taken

    def asks(self, label):
        self.log(label, "asks")
        self.asked[label] = len(self.asked)
        self.waiting[label] = collections.defaultdict(list)

    def gives_up(self, label):
        self.waiting.pop(label, None)

    def enters(self, label, call=None):
        """*label* has been let in; of a call, if it is an item of one."""
        mine = self.waiting.pop(label, None)
        if mine is not None and label not in self.struck and self.task_factory is None:
            self.check_overtaken(label, mine)
        if call not in self.enters_another:
            who = label if call is None else call
            for other, overtaking in self.waiting.items():
                if call is not None or self.asked[who] > self.asked[other]:
                    overtaking[who].append(self.loop.virtual_now)
        self.holding.add(label)
        self.log(label, "enters")

    def check_overtaken(self, label, overtaking):
        """Who was let in at this very instant has been no obstacle. (Where Tasks take a turn, what has a slot enters later.)"""
        for other, times in overtaking.items():
            before = [time for time in times if time < self.loop.virtual_now]
            if len(before) > (other in self.calls):
                self.wrong.append((label, "was overtaken by", other, before))

    def leaves(self, label):
        self.holding.discard(label)
        self.log(label, "leaves")

    # -- users --

    async def run_user(self, label, user):
        what, delay, *rest = user
        try:
            if delay:
                await asyncio.sleep(delay)
            returned = await getattr(self, "user_" + what.replace(" ", "_"))(label, *rest)
            self.log(label, "returns", rs.show(returned))
        except BaseException as error:
            self.log(label, "ends with", *rs.describe(error))  # its traceback holds the stream that it was about
        finally:
            self.gives_up(label)

    async def holds(self, label, ops):
        self.enters(label)
        try:
            return await self.run_ops(label, ops)
        finally:
            self.leaves(label)

    async def user_with(self, label, ops):
        self.asks(label)
        try:
            async with self.semaphore:
                return await self.holds(label, ops)
        finally:
            self.gives_up(label)

    async def user_acquire(self, label, ops):
        self.asks(label)
        assert await self.semaphore.acquire() is True
        try:
            return await self.holds(label, ops)
        finally:
            self.semaphore.release()

    async def user_gated(self, label, ops):
        self.asks(label)
        try:
            return await self.module.gated_coro(self.semaphore, self.holds(label, ops))
        finally:
            self.gives_up(label)

    async def user_by_hand(self, label, which, ops):
        self.struck.add(label)  # it goes on a turn later than it is woken
        self.by_hand[label] = ByHand(getattr(self, "user_" + which)(label, ops))
        try:
            return await self.by_hand[label].drive()
        finally:
            self.by_hand.pop(label).coroutine.close()
            self.gives_up(label)

    async def user_timeout(self, label, delay, user):
        async with asyncio.timeout(delay):
            return await getattr(self, "user_" + user[0])(label, *user[2:])

    async def user_wait_for(self, label, delay, user):
        return await asyncio.wait_for(getattr(self, "user_" + user[0])(label, *user[2:]), delay)

    # -- calls and streams --

    def make_limit(self, label, row):
        s = self.semaphore
        self.calls.add(label)
        if row.startswith("(s, "):
            self.enters_another.add(label)
        return {
            "s": lambda: s,
            "(2, s)": lambda: (2, s),
            "(s, gate)": lambda: (s, Gate()),
            "(gate, s)": lambda: (Gate(), s),
            "(s, other)": lambda: (s, self.others[0]),
            "(other, s)": lambda: (self.others[1], s),  # in one order only: or they wait for each other
        }[row]()

    async def run_item(self, label, call, ops):
        self.items[label] = asyncio.current_task()
        self.enters(label, call)
        try:
            return (label, await self.run_ops(label, ops))
        finally:
            self.leaves(label)
            self.items.pop(label, None)

    def functions(self, label, items):
        return [functools.partial(self.run_item, f"{label}.{index}", label, ops) for index, ops in enumerate(items)]

    def source(self, kind, label, items):
        functions = self.functions(label, items)
        if kind == "list":
            return functions
        if kind == "generator":
            return self.generate(label, functions)
        return self.generate_async(label, functions, 1 if kind == "slow" else 0)

    def generate(self, label, functions):
        try:
            for function in functions:
                self.log(label, "draws")
                yield function
        finally:
            self.log(label, "source is over")

    async def generate_async(self, label, functions, delay):
        try:
            for function in functions:
                await asyncio.sleep(delay)
                self.log(label, "draws")
                yield function
        finally:
            self.log(label, "source is over")

    async def user_call(self, label, front, row, options, items):
        limit, options = self.make_limit(label, row), dict(options)
        kind = options.pop("source")
        self.log(label, "calls")
        if front == "gather":
            coroutines = [function() for function in self.functions(label, items)]
            return await self.module.gather(*coroutines, limit=limit, **options)
        if front == "run_all":
            return await self.module.run_all(self.source(kind, label, items), limit=limit, **options)
        return await self.module.constrained_execution(self.source(kind, label, items), limit)

    async def user_stream(self, label, front, row, options, items, most, pause):
        limit, options = self.make_limit(label, row), dict(options)
        self.log(label, "streams")
        kind, ends = options.pop("source"), options.pop("ends")
        if front == "amap":
            stream = self.module.amap(
                lambda function: function(), self.source(kind, label, items), limit=limit, **options
            )
        else:
            stream = self.module.as_completed([function() for function in self.functions(label, items)], limit=limit)
        count = 0
        if ends == "with" and front == "amap":
            async with stream:
                async for result in stream:
                    count = await self.gets(label, result, count, pause)
                    if count == most:
                        break
            return "left"
        async for result in stream:
            count = await self.gets(label, result, count, pause)
            if count == most:
                break
        del result
        if ends == "close" and front == "amap":
            await stream.aclose()
            return "closed"
        return "let go"

    async def gets(self, label, result, count, pause):
        if isinstance(result, asyncio.Future):
            result = rp.show_end(result)
        self.log(label, "gets", rs.show(result))
        if pause:
            await asyncio.sleep(pause)
        return count + 1

    # -- ops --

    async def run_ops(self, label, ops):
        for op in ops:
            await getattr(self, "op_" + op[0])(label, *op[1:])
        return len(ops)

    async def op_sleep(self, label, delay):
        await asyncio.sleep(delay)

    async def op_yield(self, label):
        await asyncio.sleep(0)

    async def op_raise(self, label):
        raise ValueError(label)

    async def op_limit(self, label, limit):
        self.set_limit(limit)
        self.log(label, "limit", limit)

    async def op_release(self, label):
        self.extra += 1
        self.semaphore.release()
        self.log(label, "releases")

    async def op_look(self, label):
        self.look(label)

    async def op_swallow(self, label, ops):
        try:
            await self.run_ops(label, ops)
        except asyncio.CancelledError as error:
            self.log(label, "swallows", *rs.describe(error))

    def look(self, label):
        s = self.semaphore
        waiting = None
        if self.looks_at_the_queue:  # from then on it is a queue that others may stand in
            waiting = [waiter.done() for waiter in s._waiters or () if not waiter.cancelled()]
        self.log(label, "sees", s._value, s.locked(), s.limit, waiting)

    # -- the run --

    def strike(self, what, which):
        labels = sorted(self.users, key=lambda label: int(label[1:]))
        label = labels[which % len(labels)] if labels else None
        if what == "limit":
            self.log("", "limit", which)
            self.set_limit(which)
        elif what == "look":
            self.look("")
        elif what == "item":
            if self.items:
                label = sorted(self.items)[which % len(self.items)]
                self.log(label, "is cancelled")
                self.items[label].cancel("by the program")
        elif label is None:
            return
        elif what == "cancel":
            self.struck.add(label)
            self.log(label, "is cancelled")
            self.users[label].cancel("by the program")
        else:
            labels = sorted(self.by_hand)
            if labels:
                label = labels[which % len(labels)]
                self.struck.add(label)
                self.log(label, what)
                getattr(self.by_hand[label], what)()

    async def drive(self):
        program = self.program
        self.semaphore = getattr(self.module, program.kind)(program.limit)
        self.others = [self.module.Semaphore(2) for _ in range(2)]
        self.struck = set()
        for index, user in enumerate(program.source):
            label = f"u{index}"
            self.users[label] = self.loop.create_task(self.run_user(label, user))
        for what, delay, which in program.strikes:
            self.loop.call_later(delay, self.strike, what, which)
        await asyncio.sleep(FOR_EVER)
        while self.semaphore.limit == 0:  # somebody has paused it
            self.set_limit(1)
            await asyncio.sleep(FOR_EVER)
        for label, task in self.users.items():
            if not task.done():
                self.wrong.append((label, "waits for ever"))
                task.cancel()
        await asyncio.sleep(FOR_EVER)
        s = self.semaphore
        if self.taken != 0 or s.locked() != (s._value <= 0) or s._waiters:
            self.wrong.append(("in the end", self.taken, "are taken", s.locked(), s._waiters))
        for other in self.others:
            if other._value != 2 or other._waiters:
                self.wrong.append(("in the end", other._value, "of another"))
        if len(asyncio.all_tasks()) != 1:
            self.wrong.append(("in the end", sorted(map(repr, asyncio.all_tasks()))))
        self.closed = True

    def run(self):
        reports = []

        def report(loop, context):
            error = context.get("exception")
            reports.append((context["message"], rs.describe(error) if error is not None else None))

        async def main():
            self.loop = asyncio.get_running_loop()
            self.loop.set_exception_handler(report)
            if self.task_factory is not None:
                self.loop.set_task_factory(self.task_factory)
            await self.drive()

        outcome = ("ends",)
        with warnings.catch_warnings(), rs.collecting_only_by_hand():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *args, **kwargs: reports.append(("warning", str(message)))
            try:
                with asyncio.Runner(loop_factory=rs.TurnCountingLoop) as runner:
                    runner.run(main())
            except DeadlockError:
                outcome = ("hangs",)
            for held in (self.users, self.items, self.by_hand):
                held.clear()
            gc.collect()
        if self.wrong:
            raise AssertionError(f"{self.module.__name__}: {self.wrong[0]} and {len(self.wrong) - 1} more")
        return rp.Record(self.trace, sorted(reports, key=repr), outcome, None)


def run_semaphore_program(program, module, **options):
    return SemaphoreInterpreter(program, module, **options).run()


# ---- Making programs ----

PLAIN = ("with", "acquire", "gated")
ROWS = ("s", "s", "s", "(2, s)", "(s, gate)", "(gate, s)", "(s, other)", "(other, s)")
STRIKES = "cancel cancel cancel item item close throw limit limit look".split()


class SemaphoreProgramMaker:
    """Makes the program of a seed; without calls and streams if *plain*."""

    def __init__(self, seed, *, plain=False):
        self.random = random.Random(seed)
        self.plain = plain
        self.changes = self.random.choice([0.0, 0.0, 0.05, 0.2])
        self.errors = self.random.choice([0.0, 0.0, 0.1])
        self.longest = self.random.choice([1, 3, 6, 6])
        self.lengths = self.random.choice([[0, 1], [1, 1, 2], [1, 2, 3]])

    def program(self):
        random_ = self.random
        self.kind = random_.choice(["Semaphore", "Semaphore", "BoundedSemaphore"])
        users = tuple(self.user() for _ in range(random_.choice([2, 4, 8, 16])))
        strikes = tuple(self.strike() for _ in range(random_.choice([0, 0, 2, 4, 8, 16])))
        return SemaphoreProgram(self.kind, random_.choice([0, 1, 1, 1, 2, 2, 3, 5]), users, strikes)

    def strike(self):
        what = self.random.choice(STRIKES)
        which = self.random.choice([0, 1, 1, 2, 3, 5]) if what == "limit" else self.random.randint(0, 20)
        return (what, self.delay(20), which)

    def delay(self, most=6):
        return self.random.randint(0, most * self.longest // 6)

    def user(self):
        draw = self.random.random()
        delay = self.random.choice([0, 0, 0, 1, 2, 3, 8])
        if draw < 0.25 and not self.plain:
            items = tuple(self.ops() for _ in range(self.random.choice([0, 1, 3, 6, 12])))
            return ("call", delay, *self.call(), items)
        if draw < 0.5 and not self.plain:
            items = tuple(self.ops() for _ in range(self.random.choice([0, 1, 3, 6, 12])))
            front, row, options = self.stream()
            return ("stream", delay, front, row, options, items, self.random.choice([0, 0, 1, 2, 5]), self.delay(3))
        if draw < 0.65:
            return ("by hand", delay, self.random.choice(PLAIN), self.ops())
        if draw < 0.75:
            inner = (self.random.choice(PLAIN), 0, self.ops())
            return (self.random.choice(["timeout", "wait_for"]), delay, self.delay(), inner)
        return (self.random.choice(PLAIN), delay, self.ops())

    def call(self):
        front = self.random.choice(["gather", "run_all", "run_all", "constrained_execution"])
        options = [("source", self.source() if front == "run_all" else "list")]
        if front != "constrained_execution":
            options += [
                ("return_exceptions", self.random.random() < 0.3),
                ("cancel_on_error", self.random.random() < 0.4),
            ]
        return front, self.random.choice(ROWS), tuple(options)

    def source(self):
        return self.random.choice(["list", "generator", "quick", "slow"])

    def stream(self):
        front = self.random.choice(["amap", "amap", "as_completed"])
        options = [("source", self.source()), ("ends", self.random.choice(["with", "close", "drop"]))]
        if front == "amap":
            options += [
                ("ordered", self.random.random() < 0.6),
                ("return_exceptions", self.random.random() < 0.3),
                ("buffersize", self.random.choice([None, None, 0, 1, 3])),
            ]
        return front, self.random.choice(ROWS), tuple(options)

    def ops(self):
        return tuple(self.op() for _ in range(self.random.choice(self.lengths)))

    def op(self):
        draw = self.random.random()
        if draw < self.changes:
            return ("limit", self.random.choice([0, 1, 1, 2, 3]))
        if draw < self.changes * 1.3 and self.kind == "Semaphore":
            return ("release",)
        if draw > 1 - self.errors:
            return ("raise",)
        if draw > 0.97:
            return ("swallow", (("sleep", self.delay()),))
        if draw > 0.95:
            return ("look",)
        return ("yield",) if draw < 0.5 else ("sleep", self.delay())
