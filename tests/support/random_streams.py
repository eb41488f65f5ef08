"""Random programs of streams, and of calls over async sources, for the differential tests, and their interpreter.

A program is plain nested tuples, as in `random_programs`, whose ops its items, sources and consumers share:

    StreamProgram(front, source, limit, options, consumers, strikes)
    source    (kind, steps, cleanup ops), or ("stream", source, limit, options, ops): another stream between
    step      ("give", item), or an op that the source does before it goes on
    item      as in random_programs, or ("raises", error): the call does, or ("no awaitable",): is what it returns
    consumer  ops of a Task of its own: "next", "loop", "with", "close", ... act on the one stream
    strike    (what, delay, which): somebody cancels a Task or all of them, lets go of the stream, or closes it

Delays are small and often equal: two traces are compared turn by turn.
"""

import asyncio
import functools
import gc
import re
import sys
import warnings
from typing import NamedTuple

import random_programs as rp
from virtual_time import DeadlockError

# Longer than all delays of a program together.
FOR_EVER = 1 << 20
ASYNC_KINDS = ("agen", "aiter", "bare aiter", "aiterable")
SYNC_KINDS = ("list", "generator", "iterator")


class StreamProgram(NamedTuple):
    front: str
    source: tuple
    limit: object
    options: tuple
    consumers: tuple
    strikes: tuple


class TurnCountingLoop(rp.ProgramLoop):
    """Knows how many turns it has made since its clock moved."""

    fractions_are = 3
    turn = 0
    numbers_tasks = False  # of ours: by their age, as asyncio numbers its own
    _now = 0

    @property
    def virtual_now(self):
        return self._now

    @virtual_now.setter
    def virtual_now(self, now):
        self._now = now
        self.turn = 0

    def _run_once(self):
        self.turn += 1
        super()._run_once()
        if self.numbers_tasks:
            for task in asyncio.all_tasks(self):
                if getattr(task.get_coro(), "__qualname__", "").startswith("gatedcoro."):
                    task.get_name()


class BareAsyncIterator:
    def __init__(self, generator):
        self.generator = generator

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await anext(self.generator)


class AsyncIterator(BareAsyncIterator):
    async def aclose(self):
        await self.generator.aclose()


class AsyncIterable:
    def __init__(self, generator):
        self.generator = generator

    def __aiter__(self):
        return self.generator


class Iterator:
    def __init__(self, generator):
        self.generator = generator

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.generator)


def describe(error):
    cause = error.__cause__
    kind, message, *notes = rp.describe(error)
    message = re.sub("^Task <.*> got Future <.*> attached", "Task got Future attached", message)
    return (kind, message, *notes, *(() if cause is None else ("because of", type(cause).__name__)))


def show(value):
    if isinstance(value, BaseException):
        return describe(value)
    return tuple(map(show, value)) if isinstance(value, list) else value


def who_runs_in(task):
    """To sort by. What drives an item that is no coroutine has another name in the C than in the reference: its age will do."""
    coroutine = task.get_coro()
    frame = getattr(coroutine, "cr_frame", None)
    is_labelled = frame is not None and "label" in frame.f_code.co_varnames
    label = str(frame.f_locals["label"]) if is_labelled else ""  # up to 3.12 a frame that is asked keeps its locals
    return coroutine.__qualname__ if is_labelled else "", label, int(re.sub(r"\D", "", task.get_name()) or 0)


class StreamInterpreter(rp.Interpreter):
    """Runs one program on one implementation; `task_factory` as in random_programs."""

    streaming_fronts = ("amap",)

    def __init__(self, program, module, *, task_factory=None):
        strikes_at_items = tuple(("item", *strike) for strike in program.strikes if strike[0] in ("item", "all"))
        super().__init__(rp.Program("", None, (), (), strikes_at_items), None, task_factory=task_factory)
        self.stream_program = program
        self.module = module
        self.streams = []  # the one that the program is about, until it is let go of
        self.consumers = []
        self.source_tasks = {}
        self.sources = []
        self.held_sources = dict(program.options).get("held")

    def log(self, label, *event):
        if not self.closed:
            self.trace.append((self.loop.virtual_now, self.loop.turn, label, *event))

    # -- sources --

    def make_source(self, label, source, give):
        kind, *parts = source
        if kind == "stream":
            inner, limit, options, ops = parts
            made = self.make_source(label + "<", inner, lambda *element: element)

            async def passes_on(element):
                self.log(element[0], "passes on")
                if self.tasks_are_held:
                    self.tasks[element[0] + "<"] = asyncio.current_task()
                try:
                    await self.run_ops(element[0] + "<", ops)
                except BaseException as error:
                    self.log(element[0], "does not pass on", *describe(error))
                    raise
                finally:
                    self.hide_task_for_a_turn(element[0] + "<")
                return give(*element)

            options = self.make_options(label, options)
            return self.module.amap(passes_on, made, limit=self.make_limit(label, limit), **options)
        steps, cleanup = parts
        if kind == "list":
            return [give(f"{label}{at}", step[1]) for at, step in enumerate(steps) if step[0] == "give"]
        if kind in SYNC_KINDS:
            made = self.generate(label, steps, give)
            made = Iterator(made) if kind == "iterator" else made
        else:
            made = self.generate_async(label, steps, cleanup, give)
            made = {"aiter": AsyncIterator, "bare aiter": BareAsyncIterator, "aiterable": AsyncIterable}.get(
                kind, lambda generator: generator
            )(made)
        if self.held_sources:
            self.sources.append(made)
        return made

    def generate(self, label, steps, give):
        self.log(label, "source begins", rp.CONTEXT_VALUE.get())
        rp.CONTEXT_VALUE.set("of the source")
        try:
            for at, step in enumerate(steps):
                if step[0] == "give":
                    yield give(f"{label}{at}", step[1])
                    self.log(label, "source goes on", rp.CONTEXT_VALUE.get())
                elif step[0] == "raise":
                    raise rp.ERRORS[step[1]]("of the source")
                elif step[0] in ("drop", "look"):
                    getattr(self, step[0] + "_it")()
        except BaseException as error:
            self.log(label, "source ends with", *describe(error))
            raise
        finally:
            self.log(label, "source is over", rp.CONTEXT_VALUE.get())

    async def generate_async(self, label, steps, cleanup, give):
        self.log(label, "source begins", rp.CONTEXT_VALUE.get())
        rp.CONTEXT_VALUE.set("of the source")
        self.source_tasks[label] = task = asyncio.current_task()
        try:
            for at, step in enumerate(steps):
                if step[0] == "give":
                    yield give(f"{label}{at}", step[1])
                    self.log(label, "source goes on", rp.CONTEXT_VALUE.get(), asyncio.current_task() is task)
                else:
                    await self.run_ops(f"{label}{at}", (step,))
        except BaseException as error:
            self.log(label, "source ends with", *describe(error))
            raise
        finally:
            self.log(label, "source cleans up", asyncio.current_task() is task)
            del task
            await self.run_ops(f"{label}c", cleanup)
            self.log(label, "source is over", rp.CONTEXT_VALUE.get())

    # -- items --

    def make_item(self, label, item):
        if item[0] == "raises":
            raise rp.ERRORS[item[1]](label)
        if item[0] == "no awaitable":
            return 5
        return super().make_item(label, item)

    async def run_item(self, label, ops):
        try:
            return await super().run_item(label, ops)
        finally:
            self.log(label, "ended")

    # -- streams --

    def make_stream(self):
        program = self.stream_program
        options = self.make_options("", [option for option in program.options if option[0] != "held"])
        limit = self.make_limit("", program.limit)
        if program.front == "amap":
            made = self.make_source("/", program.source, lambda *element: element)
            return self.module.amap(lambda element: self.call_item(*element), made, limit=limit, **options)
        made = self.make_source("/", program.source, lambda *element: functools.partial(self.call_item, *element))
        if program.front == "run_all":
            return self.module.run_all(made, limit=limit, **options)
        return self.module.constrained_execution(made, limit)

    def has_stream(self):
        return bool(self.streams) and self.stream_program.front in self.streaming_fronts

    def shown(self, result):
        """What is logged of a result that a consumer has got."""
        return show(result)

    async def op_next(self, label):
        if not self.has_stream():
            return "gone"
        stream = self.streams[0]
        try:
            return self.shown(await anext(stream))
        except StopAsyncIteration:
            return "no more"
        finally:
            del stream

    async def op_ask_twice(self, label):
        asking = [self.loop.create_task(self.op_next(label)) for _ in range(2)]
        try:
            await asyncio.wait(asking)
        finally:
            for task in asking:
                task.cancel()
        return tuple(map(rp.show_end, asking))

    async def op_loop(self, label, most, ops):
        count = 0
        if not self.has_stream():
            return "gone"
        async for result in self.streams[0]:
            self.log(label, "gets", self.shown(result))
            await self.run_ops(f"{label}.{count}", ops)
            count += 1
            if count == most:
                return "leaves"
        return "no more"

    async def op_unnamed_loop(self, label, most, ops):
        """A stream like that of the program, which goes with the loop."""
        if self.stream_program.front not in self.streaming_fronts:
            return None
        count = 0
        async for result in self.make_stream():
            self.log(label, "gets", self.shown(result))
            await self.run_ops(f"{label}.{count}", ops)
            count += 1
            if count == most:
                break
        self.log(label, "has left")

    async def op_with(self, label, ops):
        if not self.has_stream():
            return "gone"
        async with self.streams[0]:
            await self.run_ops(label, ops)
        return "left"

    async def op_close(self, label):
        if not self.has_stream():
            return "gone"
        await self.streams[0].aclose()
        return "closed"

    async def op_take_all(self, label):
        if not self.streams:
            return "gone"
        return ("all", show(await self.streams[0]))

    async def op_drop(self, label):
        self.drop_it()

    async def op_look(self, label):
        self.look_it()

    def drop_it(self):
        self.streams.clear()

    def drop_by_progress(self):
        self.drop_it()

    def close_by_progress(self):
        """By hand, one step of it; the rest is closed."""
        if self.has_stream():
            closing = self.streams[0].aclose()
            try:
                self.log("", "closes", type(closing.send(None)).__name__)
            except (StopIteration, RuntimeError) as error:
                self.log("", "closes", type(error).__name__)
            closing.close()

    def cancel_by_progress(self):
        if self.consumers:
            self.consumers[0].cancel("by progress")

    def look_it(self):
        if self.has_stream():
            self.log("", "looks like", repr(self.streams[0])[-34:])

    async def op_shield(self, label, ops):
        task = self.held[label] = self.loop.create_task(self.run_shielded(label, ops))
        return await asyncio.shield(task)

    async def run_shielded(self, label, ops):
        """The Task is held: the traceback of its error must not hold the frames of one of the implementations."""
        raised = None
        try:
            return await self.run_ops(label, ops)
        except BaseException as error:
            raised = error.with_traceback(None)
        try:
            raise raised
        finally:
            del raised

    # -- the run --

    async def run_consumer(self, label, ops):
        try:
            await self.run_ops(label, ops)
        except BaseException as error:
            self.log(label, "ends with", *describe(error))
        else:
            self.log(label, "ends")

    def strike_at(self, what, which):
        self.log("", what, which)
        if what == "consumer":
            self.consumers[which % len(self.consumers)].cancel("by the program")
        elif what == "item":
            _, task = self.other_task(which)
            if task is not None:
                task.cancel("by the program")
        elif what == "source":
            for label in sorted(self.source_tasks)[which % 2 : which % 2 + 1]:
                self.source_tasks[label].cancel("by the program")
        elif what == "drop":
            self.drop_it()
        elif what == "close" and self.has_stream():
            self.held["close"] = self.loop.create_task(self.streams[0].aclose())
        elif what == "all":
            known = [*self.consumers, *map(self.tasks.get, sorted(self.tasks))]
            known += map(self.source_tasks.get, sorted(self.source_tasks))
            rest = [task for task in asyncio.all_tasks() if task not in known and task is not self.main_task]
            rest.sort(key=who_runs_in)
            for task in (*known, *rest):
                task.cancel()

    async def drive(self):
        program = self.stream_program
        rp.CONTEXT_VALUE.set("of the caller")
        self.main_task = asyncio.current_task()
        self.streams.append(self.make_stream())
        for index, ops in enumerate(program.consumers):
            self.consumers.append(self.loop.create_task(self.run_consumer(f"c{index}", ops)))
        for what, delay, which in program.strikes:
            self.loop.call_later(delay, self.strike_at, what, which)
        if self.consumers:
            await asyncio.wait(self.consumers, timeout=FOR_EVER)
        self.look_it()
        await asyncio.sleep(FOR_EVER)
        self.look_it()
        for index, task in enumerate(self.consumers):
            if not task.done():
                self.log(f"c{index}", "waits for ever")
                task.cancel()
        self.streams.clear()
        await asyncio.sleep(FOR_EVER)
        for label, task in sorted(self.held.items()):
            self.log(label, "held task", rp.show_end(task))
        self.log("", "tasks", len(asyncio.all_tasks()))
        self.log("", "context", rp.CONTEXT_VALUE.get())
        self.closed = True

    def run(self):
        reports = []

        def report(loop, context):
            error = context.get("exception")
            message = re.sub("0x[0-9a-f]+", "0x", context["message"])
            reports.append((message, describe(error) if error is not None else None))

        async def main():
            self.loop = asyncio.get_running_loop()
            self.loop.set_exception_handler(report)
            self.loop.numbers_tasks = any(what == "all" for what, _, _ in self.stream_program.strikes)
            if self.task_factory is not None:
                self.loop.set_task_factory(self.task_factory)
            await self.drive()

        outcome = ("ends",)
        with warnings.catch_warnings(), collecting_only_by_hand():
            warnings.simplefilter("always")
            # A recorded warning would hold what it is about.
            warnings.showwarning = lambda message, *args, **kwargs: reports.append(("warning", str(message)))
            hook, sys.unraisablehook = (
                sys.unraisablehook,
                lambda one: reports.append(("unraisable", describe(one.exc_value))),
            )
            try:
                with asyncio.Runner(loop_factory=TurnCountingLoop) as runner:
                    runner.run(main())
            except DeadlockError:
                outcome = ("hangs",)
            self.let_go()
            gc.collect()
            sys.unraisablehook = hook
        return rp.Record(self.trace, sorted(reports, key=repr), outcome, None)

    def let_go(self):
        for held in (self.tasks, self.held, self.streams, self.consumers, self.source_tasks, self.sources):
            held.clear()
        self.main_task = None


class collecting_only_by_hand:
    """A collection in the middle would come at different events, and end what a cycle still holds."""

    def __enter__(self):
        self.was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *error):
        if self.was_enabled:
            gc.enable()


def run_stream_program(program, module, **options):
    return StreamInterpreter(program, module, **options).run()


# ---- Making programs ----

ITEM_LEAVES = [*rp.RACING_LEAVES, "sleep", "yield", "yield"]
MEDDLING_LEAVES = [*ITEM_LEAVES, "next", "drop", "close", "look"]
SOURCE_LEAVES = "sleep yield yield future get raise raise_later cancel_self look".split()
CONSUMER_LEAVES = "next next next look sleep yield close drop ask_twice take_all".split()
STRIKES = "consumer consumer item source drop close all".split()


class StreamProgramMaker(rp.ProgramMaker):
    """Makes the program of a seed."""

    consumer_leaves = CONSUMER_LEAVES
    meddling_leaves = MEDDLING_LEAVES
    loops = ("loop", "loop", "loop", "unnamed_loop")
    struck = STRIKES

    def __init__(self, seed, *, fronts=("amap",)):
        super().__init__(seed, fronts=fronts, leaves=ITEM_LEAVES, nesting=False, strikes=())
        random_ = self.random
        self.fronts = fronts
        self.item_leaves = random_.choice(
            [["sleep", "yield"], ["yield", "get"], ITEM_LEAVES, ITEM_LEAVES, self.meddling_leaves]
        )
        self.item_length = random_.choice([1, 1, 2, 3])
        self.step_share = random_.choice([0.0, 0.2, 0.6])
        self.error_share = random_.choice([0.0, 0.0, 0.1, 0.3])

    def program(self):
        random_ = self.random
        front = random_.choice(self.fronts)
        options = [("held", random_.random() < 0.3)]
        if front == "amap":
            options += self.stream_options()
        elif front == "run_all":
            options += [("return_exceptions", random_.random() < 0.3), ("cancel_on_error", random_.random() < 0.6)]
        source = self.source(2)
        limit = self.limit()
        consumers = self.consumers() if front == "amap" else (self.awaiting(),)
        return StreamProgram(front, source, limit, tuple(options), consumers, self.strikes())

    def consumers(self):
        count = self.random.choice([1, 1, 1, 2, 3])
        return tuple(self.consumer() for _ in range(count))

    def strikes(self):
        if self.random.random() >= 0.4:
            return ()
        return tuple(
            (self.random.choice(self.struck), self.random.randint(0, 12), self.random.randint(0, 3))
            for _ in range(self.random.choice([1, 1, 2]))
        )

    def stream_options(self):
        options = [("ordered", self.random.random() < 0.6)]
        if self.random.random() < 0.6:
            options.append(("buffersize", self.random.choice([0, 0, 1, 2, 5])))
        options.append(("return_exceptions", self.random.random() < 0.25))
        return options

    def limit(self):
        limits = [None, 1, 1, 2, 2, 3, 5, ("semaphore", 1), ("semaphore", 3), "row", "row"]
        return self.or_a_row(self.random.choice(limits))

    def or_a_row(self, limit):
        return self.row(self.random.choice([None, 1, 2, 3])) if limit == "row" else limit

    def delay(self):
        return self.random.randint(1, 4)

    # -- sources --

    def source(self, depth):
        if depth and self.random.random() < 0.2:
            inner = self.source(depth - 1)
            self.leaves = self.item_leaves
            options = tuple(option for option in self.stream_options() if option[0] != "return_exceptions")
            return ("stream", inner, self.limit(), options, self.body(1))
        kind = self.random.choice([*ASYNC_KINDS, "agen", "agen", *SYNC_KINDS])
        steps = []
        for _ in range(self.random.choice([0, 1, 3, 6, 12])):
            if self.random.random() < self.step_share:
                self.leaves = (
                    SOURCE_LEAVES if self.random.random() < self.error_share else ["sleep", "yield", "get", "look"]
                )
                steps.append(self.op(1))
            steps.append(("give", self.stream_item()))
        if self.random.random() < self.error_share:
            steps.append(("raise", self.random.choice(sorted(rp.ERRORS))))
        cleanup = ()
        if kind in ASYNC_KINDS and self.random.random() < 0.4:
            self.leaves = ["yield", "sleep", "raise"] if self.random.random() < 0.3 else ["yield", "sleep"]
            cleanup = self.body(0)
        return (kind, tuple(steps), cleanup)

    def stream_item(self):
        draw = self.random.random()
        if draw < 0.02:
            return ("raises", self.random.choice(sorted(rp.ERRORS)))
        if draw < 0.03:
            return ("no awaitable",)
        if draw < 0.08:
            return ("future", self.delay(), self.random.choice(["value", "ValueError", "Cancelled"]))
        self.leaves = self.item_leaves
        if self.random.random() < self.error_share:
            self.leaves = ["raise", "raise_later", "cancel_self", "raise_later"]
        kind = self.random.choice(["coro"] * 6 + ["awaitable", "task"])
        return (kind, tuple(self.op(2) for _ in range(self.random.randint(0, self.item_length))))

    # -- consumers --

    def consumer(self):
        draw = self.random.random()
        self.leaves = self.consumer_leaves
        if draw < 0.15:
            return self.awaiting()
        if draw < 0.5:
            return self.looping("loop")
        return self.consumer_ops(5)

    def looping(self, name):
        """What most programs do."""
        pause = () if self.random.random() < 0.5 else (("sleep", self.delay()),)
        loop = (name, self.random.choice([0, 0, 1, 2, 4]), pause)
        if self.random.random() < 0.3:
            loop = (self.random.choice(["timeout", "wait_for"]), self.delay(), (loop,))
        if self.random.random() < 0.5:
            loop = ("with", (loop,))
        return (loop, *self.consumer_ops(1))

    def awaiting(self):
        op = ("take_all",)
        if self.random.random() < 0.3:
            op = (self.random.choice(["timeout", "wait_for"]), self.delay(), (op,))
        return (op,)

    def consumer_ops(self, most):
        return tuple(self.op(2) for _ in range(self.random.randint(0, most)))

    def op(self, depth):
        if self.leaves is not self.consumer_leaves or depth == 0 or self.ops_left <= 0 or self.random.random() > 0.3:
            return super().op(depth)
        self.ops_left -= 1
        if self.random.random() < 0.3:
            return ("with", tuple(self.op(depth - 1) for _ in range(self.random.randint(0, 3))))
        name = self.random.choice(self.loops)
        return (name, self.random.choice([0, 1, 2, 3]), self.body(0))


class TellingProgramMaker(StreamProgramMaker):
    """Makes programs whose streams, or one of them, tell somebody of their progress."""

    telling = (*rp.TELLING, "drop", "close", "close")

    def program(self):
        program = super().program()
        if program.front == "run_all":
            program = program._replace(options=(*program.options, self.progress()))
        return program

    def stream_options(self):
        options = super().stream_options()
        return [*options, self.progress()] if self.random.random() < 0.8 else options

    def progress(self):
        return ("progress", (self.random.choice(self.telling), self.random.choice([1, 1, 2, 3])))


class OrderedProgramMaker(StreamProgramMaker):
    """Makes programs whose items know nothing of each other, over a source that does what it does whenever it is asked."""

    gates = ("",)

    def program(self):
        random_ = self.random
        self.item_leaves = [leaf for leaf in ITEM_LEAVES if leaf != "cancel_self"]
        source = self.source(0)
        # A coroutine into which a GeneratorExit is thrown closes what it awaits; in the loop the source has the consumer's Task.
        while any(unlike in repr(source) for unlike in ("GeneratorExit", "cancel_self")):
            source = self.source(0)
        options = (("ordered", True), *(option for option in self.stream_options() if option[0] != "ordered"))
        pause = (("sleep", self.delay()),) if random_.random() < 0.5 else ()
        return StreamProgram("amap", source, self.limit(), options, ((("loop", 0, pause),),), ())


class PLAIN_LOOP:
    """In place of an implementation: what a stream in order is to give."""

    @staticmethod
    async def amap(async_fn, iterable, *, return_exceptions, **ignored):
        async def item(element):
            return await async_fn(element)

        async for element in each(iterable):
            try:
                result = await asyncio.get_running_loop().create_task(item(element))
            except BaseException as error:
                if not return_exceptions:
                    raise
                result = error
            yield result

    @staticmethod
    def _set_clock(clock):
        pass

    @staticmethod
    def _set_task_reuse(enabled):
        return False

    _set_full_turns = _set_task_reuse


async def each(iterable):
    if hasattr(type(iterable), "__aiter__"):
        async for element in iterable:
            yield element
    else:
        for element in iterable:
            yield element
