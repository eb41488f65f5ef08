"""Random programs of `as_completed`, for the differential tests, and what holds for each of them.

A program is as in `random_streams`, with "as_completed" as its front. What its sources give are awaitables:

    item      as in random_programs, or ("again",): the one before once more, ("no awaitable",), ("raises", error): when it is
              awaited, or ("another loop's",): a Future of one
    source    as in random_streams, or ("as_completed", source, limit, options): another one between
    consumer  also "plain_next", "plain_loop", ...: by next() and `for`

What is handed out is kept until the program ends, so that what nobody has looked at is reported then.
"""

import asyncio
import collections
import weakref

import random_programs as rp
import random_streams as rs


class RaisesWhenAwaited:
    def __init__(self, error):
        self.error = error

    def __await__(self):
        raise self.error


class CompletionInterpreter(rs.StreamInterpreter):
    """Runs one program on one implementation; `task_factory` as in random_programs."""

    streaming_fronts = ("as_completed",)

    def __init__(self, program, module, **options):
        super().__init__(program, module, **options)
        self.looks = dict(program.options).get("looks")  # at what the Tasks have come to
        self.callers = {}
        self.labels = weakref.WeakKeyDictionary()
        self.handed_out = []
        self.given = []
        self.given_again = []
        self.other_loop = asyncio.SelectorEventLoop()
        self.other_loop.close()

    # -- sources --

    def make_source(self, label, source, give):
        kind, *parts = source
        if kind != "as_completed":
            return super().make_source(label, source, give)
        inner, limit, options = parts
        made = self.make_source(label + "<", inner, give)
        return self.module.as_completed(made, limit=self.make_limit(label, limit), **dict(options))

    def make_stream(self):
        program = self.stream_program
        options = {name: value for name, value in program.options if name == "timeout"}
        made = self.make_source("/", program.source, self.make_awaitable)
        return self.module.as_completed(made, limit=self.make_limit("", program.limit), **options)

    # -- items --

    def make_awaitable(self, label, item):
        if item[0] == "again":
            if not self.given or not self.may_be_given_again(self.given[-1]):
                return self.make_item(label, ("coro", ()))
            self.given_again.append(self.given[-1])
            return self.given[-1]
        if item[0] == "raises":
            made = RaisesWhenAwaited(rp.ERRORS[item[1]](label))
        elif item[0] == "another loop's":
            made = asyncio.Future(loop=self.other_loop)
        else:
            made = self.make_item(label, item)
        if item[0] in ("future", "task"):
            self.callers[label] = made
        self.given[:] = [made]
        return made

    def may_be_given_again(self, awaitable):
        """Two Tasks cannot drive one coroutine; out of a list it is taken once."""
        return asyncio.isfuture(awaitable) or self.stream_program.source[0] == "list"

    async def run_item(self, label, ops):
        self.labels[asyncio.current_task()] = label
        return await super().run_item(label, ops)

    def shown(self, task):
        label = next((label for label, future in self.callers.items() if future is task), None)
        what = ("an item's", self.labels.get(task)) if label is None else ("the caller's", label)
        self.handed_out.append(task)
        return (*what, task.done(), self.end_of(task) if self.looks else task.cancelled())

    @staticmethod
    def end_of(task):
        if not task.done() or task.cancelled() or task.exception() is None:
            return rp.show_end(task)
        return ("raised", *rs.describe(task.exception()))

    # -- consumers --

    async def op_plain_next(self, label):
        if not self.has_stream():
            return "gone"
        try:
            coroutine = next(self.streams[0])
        except StopIteration:
            return "no more"
        except RuntimeError as error:
            return rs.describe(error)
        return rs.show(await coroutine)

    async def op_plain_loop(self, label, most, ops):
        if not self.has_stream():
            return "gone"
        return await self.loop_plainly(label, self.streams[0], most, ops)

    async def op_unnamed_plain_loop(self, label, most, ops):
        await self.loop_plainly(label, self.make_stream(), most, ops)
        self.log(label, "has left")

    async def loop_plainly(self, label, stream, most, ops):
        for count, coroutine in enumerate(stream):
            try:
                self.log(label, "gets", rs.show(await coroutine))
            except Exception as error:
                self.log(label, "gets", rs.describe(error))
            except asyncio.CancelledError as error:
                if asyncio.current_task().cancelling():
                    raise
                self.log(label, "gets", rs.describe(error))
            await self.run_ops(f"{label}.{count}", ops)
            if count + 1 == most:
                return "leaves"
        return "no more"

    async def op_plain_list(self, label, backwards):
        """All coroutines that there are, each of which a Task awaits."""
        if not self.has_stream():
            return "gone"
        try:
            coroutines = list(self.streams[0])
        except RuntimeError as error:
            return rs.describe(error)
        asking = [self.loop.create_task(coroutine) for coroutine in coroutines[:: -1 if backwards else 1]]
        del coroutines
        try:
            if asking:
                await asyncio.wait(asking)
        finally:
            for task in asking:
                task.cancel()
        return tuple(map(rp.show_end, asking))

    async def op_plain_close(self, label):
        """Close a coroutine that has not begun: nobody gets its result."""
        if not self.has_stream():
            return "gone"
        try:
            next(self.streams[0]).close()
        except (StopIteration, RuntimeError) as error:
            return rs.describe(error)
        return "closed"

    async def op_plain_cancel(self, label):
        """Cancel a coroutine before it has begun, by its Task."""
        if not self.has_stream():
            return "gone"
        try:
            task = self.loop.create_task(next(self.streams[0]))
        except (StopIteration, RuntimeError) as error:
            return rs.describe(error)
        task.cancel("before it began")
        await asyncio.wait([task])
        return rp.show_end(task)

    # -- the run --

    def strike_at(self, what, which):
        if what == "future":
            self.log("", what, which)
            for label in sorted(self.callers)[which % 5 : which % 5 + 1]:
                self.callers[label].cancel("by the program")
        else:
            super().strike_at(what, which)

    def let_go(self):
        self.ends_of_callers = {label: rp.show_end(future) for label, future in self.callers.items()}
        self.times_handed_out = collections.Counter(
            sum(one is task for one in self.handed_out) - sum(one is task for one in self.given_again)
            for task in self.handed_out
        )
        for held in (self.callers, self.handed_out, self.given, self.given_again):
            held.clear()
        super().let_go()


def run_completion_program(program, module, **options):
    return CompletionInterpreter(program, module, **options).run()


# ---- Making programs ----

CONSUMER_LEAVES = (
    "next next next look sleep yield close drop ask_twice plain_next plain_next plain_next plain_list plain_close"
    " plain_cancel"
).split()
STRIKES = [*rs.STRIKES, "future"]


class CompletionProgramMaker(rs.StreamProgramMaker):
    """Makes the program of a seed."""

    consumer_leaves = CONSUMER_LEAVES
    meddling_leaves = [*rs.MEDDLING_LEAVES, "plain_next"]
    loops = ("loop", "loop", "plain_loop", "plain_loop", "unnamed_loop", "unnamed_plain_loop")
    struck = STRIKES

    def __init__(self, seed, **ignored):
        super().__init__(seed, fronts=("as_completed",))

    def program(self):
        random_ = self.random
        options = [("held", random_.random() < 0.3), ("looks", random_.random() < 0.5), *self.completion_options()]
        source = self.source(2)
        limit = self.limit()
        return rs.StreamProgram("as_completed", source, limit, tuple(options), self.consumers(), self.strikes())

    def completion_options(self):
        return (("timeout", self.random.randint(0, 12)),) if self.random.random() < 0.3 else ()

    def limit(self):
        limits = [None, None, None, 1, 1, 2, 2, 3, 5, ("semaphore", 1), ("semaphore", 3), "row"]
        return self.or_a_row(self.random.choice(limits))

    def source(self, depth):
        draw = self.random.random()
        if depth == 2 and draw < 0.08:  # what it gives are Tasks
            inner = self.source(depth - 1)
            return ("as_completed", inner, self.limit(), self.completion_options())
        if draw > 0.5:
            return super().source(depth)
        count = self.random.choice([0, 1, 2, 4, 8])
        return ("list", tuple(("give", self.stream_item()) for _ in range(count)), ())

    def stream_item(self):
        draw = self.random.random()
        if draw < 0.1:
            self.leaves = ["sleep", "yield"]
            return ("future", self.delay(), self.random.choice(["value", "value", "ValueError", "Cancelled"]))
        if draw < 0.15:
            return ("again",)
        if draw < 0.155:
            return ("another loop's",)
        return super().stream_item()

    def consumer(self):
        draw = self.random.random()
        self.leaves = self.consumer_leaves
        if draw < 0.25:
            return self.looping("loop")
        if draw < 0.5:
            return self.looping("plain_loop")
        return self.consumer_ops(5)

    def op(self, depth):
        op = super().op(depth)
        return (*op, self.random.random() < 0.5) if op == ("plain_list",) else op
