"""Random programs for the differential tests, and the interpreter that runs and traces them.

A program is plain nested tuples, made from a seed, so that it can be made smaller and a failure can be read:

    Program(front, n, options, items, strikes)
    item    ("coro" | "awaitable" | "task", ops)  or  ("future", delay, outcome)
    op      a tuple whose first element names a method `op_<name>` of `Interpreter`
    n       None, an integer, ("semaphore", value), ("gate", turns, what it does), or ("row", n, ...): several of them
    strike  ("caller", delay) or ("item", label, delay): a cancellation from outside
    option  (name, value); that of "progress" is (what the callback does in one of its calls, which), see TELLING

`with_distinct_delays` turns each delay into an integer with a bit of its own, so that no two sums of
delays are equal: two things happen at the same virtual instant only if one of them causes the other.

Two traces are compared in one of two ways:

    exact     the lists of events are equal, the order within an instant included
    instants  events are grouped by virtual instant and each group is sorted
"""

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import itertools
import random
import re
import sys
import warnings
import weakref
from typing import NamedTuple

from effort import part_of
from virtual_time import DeadlockError, VirtualTimeLoop

# Bits that tell the delays of one program apart; the drawn delay stands above them.
DISTINCT_BITS = 256
# Longer than all delays of a program together.
FOR_EVER = 1 << (DISTINCT_BITS + 32)

CONTEXT_VALUE = contextvars.ContextVar("CONTEXT_VALUE", default="unset")
ITEM_LABEL = contextvars.ContextVar("ITEM_LABEL", default="outside")


class PlainBaseException(BaseException):
    """Neither an Exception nor an interrupt."""


ERRORS = {
    "ValueError": ValueError,
    "KeyError": KeyError,
    "Cancelled": asyncio.CancelledError,
    "Base": PlainBaseException,
    "Timeout": TimeoutError,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
}
# What a callback that is told of progress may do, in one call, beside saying so.
TELLING = ("nothing", "nothing", "nothing", "cancel", *ERRORS)
PLAIN_ERRORS = ("ValueError", "KeyError", "Cancelled", "Base", "Timeout")


def cancel_it(task):
    assert task.cancel("meddling") is False
    return []


def cancel_it_around_its_class(task):
    asyncio.Task.cancel(task, "meddling")
    return [task]


def annotate_it(task):
    task.note = "meddling"
    return []


def have_it_called_back(task):
    task.add_done_callback(id)
    return []


# What is done to a Task that waits for its next item; each returns the Tasks that are to be kept.
MEDDLING = [lambda task: [task], cancel_it, cancel_it_around_its_class, annotate_it, have_it_called_back]


class ProgramLoop(VirtualTimeLoop):
    """Its timers are of whole times; those of fractions, which are the engine's own, are of `fractions_are`."""

    fractions_are = 3 << DISTINCT_BITS

    def call_later(self, delay, callback, *args, context=None):
        delay = self.fractions_are if 0 < delay < 1 else delay
        return super().call_later(delay, callback, *args, context=context)


class Program(NamedTuple):
    front: str
    n: object
    options: tuple
    items: tuple
    strikes: tuple


class Record(NamedTuple):
    """What one run showed."""

    trace: list
    reports: list
    outcome: tuple
    first_early_release: object


def describe(error):
    notes = tuple(getattr(error, "__notes__", ()))
    return (type(error).__name__, str(error), *notes)


# ---- Delays ----


DELAY_AT = {"sleep": 1, "future": 1, "timeout": 1, "wait_for": 1, "leave_timeout_open": 1, "poke_later": 1}


def with_distinct_delays(program):
    bits = itertools.count()

    def distinct(delay):
        bit = next(bits)
        assert bit < DISTINCT_BITS, "a program with too many delays"
        return (delay << DISTINCT_BITS) + (1 << bit)

    def convert_op(op):
        op = list(op)
        at = DELAY_AT.get(op[0])
        if at is not None:
            op[at] = distinct(op[at])
        for index, part in enumerate(op):
            if op[0] == "nest" and index == 4:
                op[index] = tuple(convert_item(item) for item in part)
            elif isinstance(part, tuple) and part and isinstance(part[0], tuple) and op[0] != "nest":
                op[index] = tuple(convert_op(inner) for inner in part)
        return tuple(op)

    def convert_item(item):
        if item[0] == "future":
            return ("future", distinct(item[1]), item[2])
        return (item[0], tuple(convert_op(op) for op in item[1]))

    items = tuple(convert_item(item) for item in program.items)
    strikes = tuple((*strike[:-1], distinct(strike[-1])) for strike in program.strikes)
    return program._replace(items=items, strikes=strikes)


# ---- The interpreter ----


class Awaitable:
    """An awaitable that is no coroutine."""

    def __init__(self, coro):
        self.coro = coro

    def __await__(self):
        return self.coro.__await__()


class Gate:
    """Lets everybody in, and logs it; takes so many turns each way."""

    def __init__(self, interpreter, name, turns, what):
        self.interpreter, self.name, self.turns, self.what = interpreter, name, turns, what

    async def pass_on(self, way, *event):
        self.interpreter.log(self.name, way, *event)
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
        finally:
            self.interpreter.log(self.name, f"{way} ended")

    async def __aenter__(self):
        await self.pass_on("enters")
        if self.what == "refuses":
            raise ValueError(self.name)

    async def __aexit__(self, kind, error, traceback):
        await self.pass_on("leaves", *(() if error is None else describe(error)))
        if self.what == "fails":
            raise KeyError(self.name)
        return self.what == "suppresses"


class Interpreter:
    """Runs one program on one engine. `engine(front, n, options, items)` returns what to await."""

    def __init__(self, program, engine, *, tasks_are_held=False, task_factory=None):
        self.program = program
        self.engine = engine
        self.task_factory = task_factory
        self.trace = []
        self.closed = False
        self.tasks = {}
        self.weak_tasks = {}
        self.open_timeouts = []
        self.held = {}
        self.met = []
        self.tasks_are_held = tasks_are_held or any(strike[0] == "item" for strike in program.strikes)
        self.started = set()
        self.first_early_release = None

    def log(self, label, *event):
        if not self.closed:
            self.trace.append((self.loop.virtual_now, label, *event))

    # -- items and gatherings --

    def make_item(self, label, item):
        kind = item[0]
        if kind == "future":
            future = self.loop.create_future()
            self.loop.call_later(item[1], self.settle_future, label, future, item[2])
            self.started.add(label)
            return future
        coro = self.run_item(label, item[1])
        if kind == "coro":
            return coro
        if kind == "task":
            return self.loop.create_task(coro)
        return Awaitable(coro)

    def settle_future(self, label, future, outcome):
        if future.done():
            return
        self.log(label, "settled")
        if outcome in ERRORS:
            if outcome == "Cancelled":
                future.cancel("future cancelled")
            else:
                future.set_exception(ERRORS[outcome]("from a future"))
        else:
            future.set_result((label, outcome))

    async def run_item(self, label, ops):
        self.started.add(label)
        self.log(label, "start", CONTEXT_VALUE.get())
        if self.tasks_are_held:
            self.tasks[label] = asyncio.current_task()
        ITEM_LABEL.set(label)
        try:
            returned = await self.run_ops(label, ops)
        except BaseException as error:
            self.log(label, "ends with", *describe(error))
            raise
        finally:
            self.hide_task_for_a_turn(label)
        self.log(label, "returns", CONTEXT_VALUE.get())
        return (label, returned)

    def hide_task_for_a_turn(self, label):
        """The item has ended; whether its Task has ended too, while its step is still on the stack, is not compared."""
        task = self.tasks.pop(label, None)
        if task is not None:
            self.loop.call_soon(self.tasks.setdefault, label, task)

    def make_limit(self, label, limit):
        if not isinstance(limit, tuple):
            return limit
        kind, *parts = limit
        if kind == "row":
            return [self.make_limit(f"{label}[{index}]", one) for index, one in enumerate(parts)]
        return asyncio.Semaphore(*parts) if kind == "semaphore" else Gate(self, f"{label} gate", *parts)

    async def gather(self, label, front, n, options, items):
        n = self.make_limit(label, n)
        labels = [f"{label}/{index}" for index in range(len(items))]
        made = None
        if front in ("run_all", "constrained_execution"):
            arguments = [
                lambda label=label, item=item: self.call_item(label, item) for label, item in zip(labels, items)
            ]
        else:
            arguments = made = [self.make_item(label, item) for label, item in zip(labels, items)]
        try:
            return await self.engine(front, n, self.make_options(label, options), arguments)
        except BaseException as error:
            # LangChain's algorithm lets a cancelled caller go while running items still clean up, if others
            # were queued. The comparison has to know from when on that difference may show.
            if (
                isinstance(error, asyncio.CancelledError)
                and self.first_early_release is None
                and not self.started.issuperset(labels)
            ):
                self.first_early_release = self.loop.virtual_now
            raise
        finally:
            del made, arguments

    def make_options(self, label, options):
        options = dict(options)
        if "progress" in options:
            options["progress"] = functools.partial(self.tell, f"{label} progress", *options["progress"], [])
        return options

    def tell(self, label, what, call, told, number):
        """Told of progress: say so, and do what the program says in that call."""
        told.append(number)
        self.log(label, number, sum(told), CONTEXT_VALUE.get(), asyncio.current_task() is None)
        CONTEXT_VALUE.set("of progress")
        if len(told) == call and what in ERRORS:
            raise ERRORS[what](label)
        if len(told) == call and what != "nothing":
            getattr(self, f"{what}_by_progress")()

    def cancel_by_progress(self):
        self.caller.cancel("by progress")

    def call_item(self, label, item):
        self.log(label, "called")
        return self.make_item(label, item)

    async def run_ops(self, label, ops):
        for position, op in enumerate(ops):
            returned = await getattr(self, "op_" + op[0])(f"{label}.{position}", *op[1:])
            if returned is not None:
                self.log(f"{label}.{position}", op[0], returned)
        return len(ops)

    # -- ops --

    async def op_sleep(self, label, delay):
        await asyncio.sleep(delay)
        return "slept"

    async def op_yield(self, label):
        await asyncio.sleep(0)
        return "resumed"

    async def op_future(self, label, delay):
        future = self.loop.create_future()
        self.loop.call_later(delay, self.settle_future, label, future, "value")
        return await future

    async def op_raise(self, label, kind):
        raise ERRORS[kind](label)

    async def op_seq(self, label, ops):
        await self.run_ops(label, ops)

    async def op_set(self, label):
        CONTEXT_VALUE.set(label)

    async def op_get(self, label):
        return CONTEXT_VALUE.get()

    async def op_swallow(self, label, ops):
        try:
            await self.run_ops(label, ops)
        except asyncio.CancelledError as error:
            return ("swallowed", *describe(error))

    async def op_catch(self, label, ops):
        try:
            await self.run_ops(label, ops)
        except Exception as error:
            return ("caught", *describe(error))

    async def op_cleanup(self, label, ops, cleanup_ops):
        try:
            await self.run_ops(label, ops)
        finally:
            self.log(label, "cleans up")
            await self.run_ops(label + "c", cleanup_ops)

    async def op_timeout(self, label, delay, ops):
        async with asyncio.timeout(delay) as timeout:
            await self.run_ops(label, ops)
        return timeout.expired()

    async def op_wait_for(self, label, delay, ops):
        return await asyncio.wait_for(self.run_ops(label, ops), delay)

    async def op_child(self, label, ops):
        return await asyncio.create_task(self.run_ops(label, ops))

    async def op_shield(self, label, ops):
        task = self.loop.create_task(self.run_ops(label, ops))
        self.held[label] = task
        return await asyncio.shield(task)

    async def op_group(self, label, ops, other_ops):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.run_ops(label + "a", ops))
                group.create_task(self.run_ops(label + "b", other_ops))
        except BaseExceptionGroup as errors:
            return ("group", *[describe(error) for error in errors.exceptions])

    async def op_cancel_self(self, label):
        return asyncio.current_task().cancel(label)

    async def op_nest(self, label, front, n, options, items):
        return tuple(map(show_result, await self.gather(label, front, n, options, items)))

    # -- ops that touch Tasks --

    async def op_hold(self, label):
        self.held[label] = asyncio.current_task()

    async def op_publish(self, label):
        self.tasks[ITEM_LABEL.get()] = asyncio.current_task()

    async def op_weakly_hold(self, label):
        self.weak_tasks[label] = weakref.ref(asyncio.current_task())

    async def op_look_weakly(self, label):
        await asyncio.sleep(0)  # so that no step of an ended item is on the stack
        alive = [(held, ref()) for held, ref in self.weak_tasks.items()]
        return tuple((held, task.done()) for held, task in alive if task is not None and not task.done())

    async def op_watch_weakly(self, label):
        weakref.finalize(asyncio.current_task(), self.log, label, "task is gone").atexit = False

    async def op_rename(self, label):
        task = asyncio.current_task()
        before = task.get_name()
        task.set_name(label)
        return (before if not before.startswith(("Task-", "gatedcoro-")) else "a fresh name", task.get_name())

    async def op_name(self, label):
        name = asyncio.current_task().get_name()
        return "a fresh name" if name.startswith(("Task-", "gatedcoro-")) else name

    async def op_names_are_unique(self, label):
        names = [task.get_name() for task in asyncio.all_tasks()]
        names = [name for name in names if name.startswith("Task-")]
        return len(names) == len(set(names))

    async def op_annotate(self, label):
        asyncio.current_task().note = label

    async def op_annotate_dict(self, label):
        vars_of = getattr(asyncio.current_task(), "__dict__", None)
        if vars_of is None:
            return "no __dict__"  # asyncio's own Tasks have none to show
        vars_of["other_note"] = label

    async def op_notes(self, label):
        task = asyncio.current_task()
        return (getattr(task, "note", None), getattr(task, "other_note", None), tuple(getattr(task, "__dict__", ())))

    async def op_add_callback(self, label):
        task = asyncio.current_task()
        token = CONTEXT_VALUE.set("in the callback")
        task.add_done_callback(lambda task: self.log(label, "callback", CONTEXT_VALUE.get(), show_end(task)))
        CONTEXT_VALUE.reset(token)

    async def op_remove_callback(self, label):
        task = asyncio.current_task()

        def callback(task):
            self.log(label, "a removed callback ran")

        task.add_done_callback(callback)
        return task.remove_done_callback(callback)

    async def op_cancelling(self, label):
        return asyncio.current_task().cancelling()

    async def op_uncancel(self, label):
        return asyncio.current_task().uncancel()

    async def op_cancel_and_take_back(self, label):
        task = asyncio.current_task()
        task.cancel(label)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            return (*describe(error), task.cancelling(), task.uncancel())

    async def op_leave_timeout_open(self, label, delay):
        timeout = asyncio.timeout(delay)
        await timeout.__aenter__()
        self.open_timeouts.append(timeout)

    async def op_context_of_task(self, label):
        if sys.version_info >= (3, 12):
            return asyncio.current_task().get_context().get(ITEM_LABEL) == ITEM_LABEL.get()

    async def op_own_task(self, label):
        task = asyncio.current_task()
        return (isinstance(task, asyncio.Task), task.done(), task in asyncio.all_tasks(), task.cancelled())

    async def op_await_self(self, label):
        try:
            await asyncio.current_task()
        except RuntimeError as error:
            return type(error).__name__

    def other_task(self, choice):
        labels = sorted(self.tasks)
        if not labels:
            return "none", None
        label = labels[choice % len(labels)]
        return label, self.tasks[label]

    async def op_cancel_other(self, label, choice):
        other_label, task = self.other_task(choice)
        if task is not None:
            return (other_label, task.cancel(label))

    async def op_await_other(self, label, choice):
        other_label, task = self.other_task(choice)
        if task is not None and task is not asyncio.current_task():
            done, pending = await asyncio.wait([task], timeout=1)
            return (other_label, len(done), show_end(task) if done else "pending")

    async def op_watch_other(self, label, choice):
        other_label, task = self.other_task(choice)
        if task is not None:
            task.add_done_callback(lambda task: self.log(label, "other ended", other_label, show_end(task)))

    async def op_name_of_other(self, label, choice):
        other_label, task = self.other_task(choice)
        if task is not None:
            task.set_name(label)
            task.touched = label
            return (other_label, task.get_name(), task.done(), task.cancelling())

    async def op_uncancel_other(self, label, choice):
        other_label, task = self.other_task(choice)
        if task is not None:
            return (other_label, task.uncancel())

    async def op_poke_later(self, label, delay):
        """Cancel, later, whatever Task was current when this op ran."""
        task = asyncio.current_task()
        self.loop.call_later(delay, lambda: self.log(label, "poked", task.cancel(label), show_end(task)))

    async def op_meddle_soon(self, label, how):
        """In the next turn, do something to every Task whose item has ended: those that wait for the next one. It must not show."""
        self.loop.call_soon(self.meddle, how)

    async def op_meddle(self, label, how):
        self.meddle(how)

    def meddle(self, how):
        for task in asyncio.all_tasks():
            coro = task.get_coro()
            if coro.__name__ == "run_item" and inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED:
                self.met += MEDDLING[how % len(MEDDLING)](task)

    async def op_stack(self, label):
        return len(asyncio.current_task().get_stack()) > 0

    # -- the run --

    async def drive(self):
        CONTEXT_VALUE.set("of the caller")
        program = self.program
        caller = self.caller = self.loop.create_task(
            self.gather("", program.front, program.n, program.options, program.items)
        )
        for strike in program.strikes:
            self.loop.call_later(strike[-1], self.strike, caller, strike)
        caller.add_done_callback(self.caller_ended)
        await asyncio.wait([caller])
        await asyncio.sleep(FOR_EVER)
        for label, task in sorted({**self.tasks, **self.held}.items()):
            self.log(label, "held task", show_end(task))
        self.log("", "context", CONTEXT_VALUE.get())
        assert all(task.done() for task in self.met), "a Task that was taken while it waited has not ended"
        self.closed = True
        return caller

    def caller_ended(self, caller):
        self.log("", "caller", show_end(caller))
        self.ended_at = self.loop.virtual_now

    def strike(self, caller, strike):
        if strike[0] == "caller":
            self.log("", "caller is cancelled", caller.cancel("by the program"))
        else:
            task = self.tasks.get(strike[1])
            if task is not None:
                self.log(strike[1], "is cancelled", task.cancel("struck"))

    def run(self):
        reports = []

        def report(loop, context):
            error = context.get("exception")
            reports.append((context["message"], describe(error) if error is not None else None))

        async def main():
            self.loop = asyncio.get_running_loop()
            self.loop.set_exception_handler(report)
            if self.task_factory is not None:
                self.loop.set_task_factory(self.task_factory)
            return await self.drive()

        outcome = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with asyncio.Runner(loop_factory=ProgramLoop) as runner:
                    caller = runner.run(main())
                    outcome = (self.ended_at, *show_end(caller))
                    del caller
            except DeadlockError:
                outcome = outcome or ("hangs",)
            self.caller = None
            self.tasks.clear()
            self.held.clear()
            self.met.clear()
            self.open_timeouts.clear()
            gc.collect()
        reports += [("warning", str(warning.message)) for warning in caught]
        return Record(self.trace, sorted(reports, key=repr), outcome, self.first_early_release)


def show_result(value):
    return describe(value) if isinstance(value, BaseException) else value


def show_end(task):
    if not task.done():
        return ("pending",)
    if task.cancelled():
        try:
            task.result()
        except asyncio.CancelledError as error:
            return ("cancelled", str(error))
    if task.exception() is not None:
        return ("raised", *describe(task.exception()))
    value = task.result()
    return ("returned", tuple(map(show_result, value)) if isinstance(value, (list, tuple)) else show_result(value))


# ---- Engines ----


def engine_of(module):
    """Run the gatherings of a program by an implementation of gatedcoro."""

    def engine(front, n, options, arguments):
        if front == "gather_with_concurrency":
            return module.gather_with_concurrency(n, *arguments)
        if front == "gather":
            return module.gather(*arguments, limit=n, **options)
        if front == "run_all":
            return module.run_all(arguments, limit=n, **options)
        return module.constrained_execution(arguments, n)

    return engine


def baseline_engine(front, n, options, arguments):
    """LangChain's algorithm; for `gather`, the same over `asyncio.gather` with its `return_exceptions`."""
    import langchain_algorithm

    if front == "gather_with_concurrency":
        return langchain_algorithm.gather_with_concurrency(n, *arguments)
    assert front == "gather"
    if n is None:
        return asyncio.gather(*arguments, **options)
    slots = asyncio.Semaphore(n)
    return asyncio.gather(*[langchain_algorithm.gated_coro(slots, item) for item in arguments], **options)


def run_program(program, engine, **options):
    return Interpreter(program, engine, **options).run()


def by_instant(trace, until=None):
    """The trace with the order inside each instant taken away, up to (not including) `until`."""
    kept = [event for event in trace if until is None or event[0] < until]
    return sorted(kept, key=lambda event: (event[0], repr(event[1:])))


# ---- Clocks ----

# Seconds between two readings of the clock: nothing is sliced; two items a turn; one item a turn.
CLOCK_STEPS = [0.0, 0.0006, 0.002]


class SteppingClock:
    """A clock for `_set_clock` that goes on by the same amount at each reading."""

    def __init__(self, step):
        self.now = 0.0
        self.step = step

    def __call__(self):
        self.now += self.step
        return self.now


# ---- Making programs ----

LEAVES = "sleep sleep yield future set get raise_later cancel_self_later".split()
RACING_LEAVES = [*LEAVES, "raise", "raise", "cancel_self"]
TOUCHES_OF_OWN_TASK = (
    "hold publish weakly_hold look_weakly watch_weakly rename name names_are_unique annotate annotate_dict notes"
    " add_callback remove_callback cancelling uncancel cancel_and_take_back context_of_task own_task"
    " await_self stack cancel_self yield get set"
).split()
TOUCHES_OF_OTHERS = "cancel_other await_other watch_other name_of_other uncancel_other".split()
TOUCHES_OF_THE_WAITING = "meddle meddle_soon meddle_soon".split()
TOUCHING_LEAVES = [
    *RACING_LEAVES,
    *TOUCHES_OF_OWN_TASK,
    *TOUCHES_OF_OTHERS,
    *TOUCHES_OF_THE_WAITING,
    "leave_timeout_open",
    "poke_later",
]
BODIES = "swallow catch cleanup timeout wait_for child shield group".split()


class ProgramMaker:
    """Makes the program of a seed."""

    gates = ("", "", "", "", "", "refuses", "fails", "suppresses")

    def __init__(self, seed, *, fronts, leaves, options=None, nesting=True, strikes=("caller", "item"), rows=False):
        self.random = random.Random(seed)
        self.rows = rows
        self.fronts = fronts
        self.leaves = leaves
        self.options = options or {}
        self.nesting = nesting
        self.strike_kinds = strikes
        # A program is mostly of one temper: few of its ops have bodies, or many.
        self.body_share = self.random.choice([0.0, 0.15, 0.4])
        self.ops_left = self.random.choice([4, 12, 30, 60])

    def program(self):
        program = self.gathering(0)
        kinds = self.strike_kinds
        if kinds and self.random.random() < 0.5:
            strikes = [self.strike() for _ in range(self.random.randint(1, 2))]
            program = program._replace(strikes=tuple(strikes))
        return with_distinct_delays(program)

    def strike(self):
        if self.random.choice(self.strike_kinds) == "caller":
            return ("caller", self.random.randint(0, 40))
        return ("item", f"/{self.random.randint(0, 4)}", self.random.randint(0, 40))

    def gathering(self, depth):
        front = self.random.choice(self.fronts)
        n = self.random.choice([None, 1, 1, 2, 2, 3, 4])
        if front == "constrained_execution" and n is None:
            n = 2
        if self.rows:
            n = self.row(n)
        options = tuple((name, self.option(name)) for name in self.options.get(front, ()))
        size = self.random.randint(0, 3 if depth else 7)
        return Program(front, n, options, tuple(self.item(depth) for _ in range(size)), ())

    def option(self, name, share=0.5):
        if name == "progress":
            return (self.random.choice(TELLING), self.random.choice([1, 1, 2, 3]))
        return self.random.random() < share

    def row(self, n):
        """Gates, and where *n* is a number that, too."""
        row = [self.gate() for _ in range(self.random.choice([1, 2, 2, 3]))]
        if n is not None:
            row.insert(self.random.randint(0, len(row)), n)
        return ("row", *row)

    def gate(self):
        if self.random.random() < 0.6:
            return ("semaphore", self.random.choice([1, 1, 2, 3]))
        return ("gate", self.random.choice([0, 0, 1, 2]), self.random.choice(self.gates))

    def item(self, depth):
        kind = self.random.choice(["coro"] * 6 + ["awaitable", "task", "future"])
        if kind == "future":
            return (kind, self.delay(), self.random.choice(["value", "ValueError", "Cancelled"]))
        body = self.body(2)
        if self.nesting and depth < 2 and self.random.random() < 0.2:
            nest = ("nest", *self.gathering(depth + 1)[:4])
            at = self.random.randint(0, len(body))
            if self.random.random() < 0.3:
                nest = ("timeout", self.delay(), (nest,))
            body = (*body[:at], nest, *body[at:])
        return (kind, body)

    def body(self, depth):
        return tuple(self.op(depth) for _ in range(self.random.randint(0, 3)))

    def delay(self):
        return self.random.randint(1, 20)

    def op(self, depth):
        self.ops_left -= 1
        if depth > 0 and self.ops_left > 0 and self.random.random() < self.body_share:
            return self.op_with_body(self.random.choice(BODIES), depth - 1)
        name = self.random.choice(self.leaves)
        if name in ("sleep", "future", "leave_timeout_open", "poke_later"):
            return (name, self.delay())
        if name == "raise":
            return (name, self.random.choice(sorted(ERRORS)))
        if name == "raise_later":
            return ("seq", (("sleep", self.delay()), ("raise", self.random.choice(PLAIN_ERRORS))))
        if name == "cancel_self_later":
            return ("seq", (("sleep", self.delay()), ("cancel_self",)))
        if name in TOUCHES_OF_OTHERS or name in TOUCHES_OF_THE_WAITING:
            return (name, self.random.randint(0, 5))
        return (name,)

    def op_with_body(self, name, depth):
        if name in ("timeout", "wait_for"):
            return (name, self.delay(), self.body(depth))
        if name in ("cleanup", "group"):
            return (name, self.body(depth), self.body(depth))
        return (name, self.body(depth))


class LongProgramMaker(ProgramMaker):
    """Makes long programs of short items, in phases: they end in turns of their own, or several in one turn.

    Delays are short, so that some are the same.
    """

    def program(self):
        front = self.random.choice(self.fronts)
        n = self.random.choice([2, 3, 5, 8, 12, 16])
        options = tuple((name, self.option(name, 0.3)) for name in self.options.get(front, ()))
        self.sleeps = self.random.random() < 0.5  # what sleeps ends after all that only yields
        size = self.random.randint(60, 300)
        items = []
        while len(items) < size:
            most = self.random.choice([1, 1, 3 * n])
            items += [self.short_item(most) for _ in range(self.random.randint(20, 120))]
        strikes = (("caller", self.random.randint(0, 100)),) if self.random.random() < 0.1 else ()
        return Program(front, n, options, tuple(items[:size]), strikes)

    def short_item(self, most):
        length = self.random.randint(1, most)
        waits = (("sleep", length),) if self.sleeps else (("yield",),) * length
        if self.random.random() < 0.02:
            return ("future", self.delay(), "value")
        if self.random.random() < 0.03:
            return ("coro", ())
        return ("coro", (*waits, self.op(0)) if self.random.random() < 0.1 else waits)


# The fields of a program of which something can be taken away.
PARTS = ("items", "strikes", "source", "options", "consumers")


def without_one_part(part):
    """All copies of nested tuples of items and ops that lack something somewhere, the largest parts first."""
    holds_parts = bool(part) and all(isinstance(inner, tuple) for inner in part)
    if holds_parts:
        size = len(part)
        while size > 0:
            for index in range(0, len(part), size):
                yield part[:index] + part[index + size :]
            size //= 2
    for index, inner in enumerate(part):
        if isinstance(inner, tuple):
            for smaller in without_one_part(inner):
                yield part[:index] + (smaller,) + part[index + 1 :]


def smallest_failing(program, fails):
    """Take parts away from `program` for as long as `fails(program)` stays true."""
    shrinking = True
    while shrinking:
        shrinking = False
        for field in program._fields:
            for smaller in without_one_part(getattr(program, field)) if field in PARTS else ():
                candidate = program._replace(**{field: smaller})
                try:
                    still_fails = fails(candidate)
                except Exception:
                    continue  # not a program any more
                if still_fails:
                    program = candidate
                    shrinking = True
                    break
    return program


def check_programs(seeds, check, *, maker=ProgramMaker, **kinds):
    """Call `check` on the program of each seed; report the first failure with the smallest such program."""
    for seed in part_of(seeds):
        program = maker(seed, **kinds).program()
        try:
            check(program)
        except Exception as error:
            kind = type(error)

            def fails(program):
                try:
                    check(program)
                except kind:
                    return True
                return False

            smallest = smallest_failing(program, fails)
            try:
                check(smallest)
            except kind as smaller_error:
                error = smaller_error
            text = f"seed {seed}: {smallest!r}\n{kind.__name__}: {error}"
            raise AssertionError(with_short_delays(text)) from error


def with_short_delays(text):
    """For reading only: delays as they were drawn, without the bits that tell them apart."""
    return re.sub(r"\d{60,}", lambda number: str(int(number[0]) >> DISTINCT_BITS), text)


@contextlib.contextmanager
def _switched(switch, enabled):
    previous = switch(enabled)
    try:
        yield
    finally:
        switch(previous)


def task_reuse(module, enabled):
    return _switched(module._set_task_reuse, enabled)


def full_turns(module, enabled):
    """Calls begin with full turns: most programs are too short for that to come about."""
    return _switched(module._set_full_turns, enabled)
