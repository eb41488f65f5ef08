"""Arguments and items that misbehave: each gives the documented outcome, never a crash, a hang or a lost coroutine.

Each scenario runs in an interpreter of its own, with warnings as errors and a timeout, on a loop in virtual time,
which turns a hang into an error. A scenario prints "ok" and nothing else.
"""

import textwrap

import pytest

from in_subprocess import check_script

pytestmark = pytest.mark.usefixtures("any_turns")

COMMON = """
import inspect
import types
import weakref
from contract_tools import is_closed
from scenarios import value_after as item
from virtual_time import run_in_virtual_time as run


async def native(awaitable):
    return await awaitable


async def outcome(awaitable):
    try:
        return await awaitable
    except BaseException as error:
        return error


def same(actual, expected):
    assert type(actual) is type(expected) and str(actual) == str(expected), (actual, expected)


@types.coroutine
def bounce(value=None):
    return (yield value)
"""

SCENARIOS = {
    "n of every wrong kind": """
        class Evil:
            def __index__(self):
                raise ZeroDivisionError("evil")
        class Wrong:
            def __index__(self):
                return "3"
        class OnlyInt:
            def __int__(self):
                return 3
        class Shrinks:
            def __index__(self):
                return 2**80
        wrong = {2.5: TypeError, "3": TypeError, b"3": TypeError, (None,): TypeError, ...: TypeError, 3j: TypeError,
                 Evil(): ZeroDivisionError, Wrong(): TypeError, OnlyInt(): TypeError, object(): TypeError,
                 int: TypeError, -1: ValueError, 0: ValueError, -2**80: ValueError, False: ValueError,
                 asyncio.Semaphore: TypeError, float("nan"): TypeError}
        async def main():
            for n, error in wrong.items():
                coros = [item(), item()]
                seen = await outcome(impl.gather_with_concurrency(n, *coros))
                assert isinstance(seen, error), (n, seen)
                assert all(map(is_closed, coros)), n
                for front in (impl.run_all, impl.constrained_execution):
                    calls = []
                    if front is impl.run_all:
                        seen = await outcome(front([calls.append], limit=n))
                    else:
                        seen = await outcome(front([calls.append], n))
                    assert isinstance(seen, error) and not calls, (n, seen)
                coros = [item(), item()]
                try:
                    impl.gather(*coros, limit=n)
                except error:
                    pass
                else:
                    raise AssertionError(n)
                assert all(map(is_closed, coros)), n
            for n in (Shrinks(), 2**80, 2**63, 2**63 - 1, 2**31, True):
                assert await impl.gather_with_concurrency(n, item(1), item(2)) == [1, 2], n
                assert await impl.gather(item(1), item(2), limit=n) == [1, 2], n
        run(main())
    """,
    "an __index__ that closes the gathering": """
        class Closes:
            def __index__(self):
                try:
                    holder[0].close()
                except ValueError as error:
                    assert "already executing" in str(error), error
                return 1
        holder = []
        async def main():
            holder.append(impl.gather_with_concurrency(Closes(), item(1), item(2)))
            assert await outcome(holder[0]) == [1, 2]
        run(main())
    """,
    "an __index__ that awaits something else or starts another gathering": """
        class Nested:
            def __index__(self):
                tasks.append(asyncio.ensure_future(impl.gather_with_concurrency(1, item(3))))
                return 1
        tasks = []
        async def main():
            assert await impl.gather_with_concurrency(Nested(), item(1), item(2)) == [1, 2]
            assert await tasks[0] == [3]
        run(main())
    """,
    "__await__ that raises": """
        class Item:
            def __await__(self):
                raise LookupError("from __await__")
        async def main():
            for n in (1, 2, None):
                other = item(1)
                same(await outcome(impl.gather_with_concurrency(n, Item(), other)), LookupError("from __await__"))
                await item(number=4)
                assert is_closed(other)
        run(main())
    """,
    "__await__ that returns no iterator, a coroutine, or None": """
        class Item:
            def __init__(self, returned):
                self.returned = returned
            def __await__(self):
                return self.returned
        async def main():
            for n in (1, 2, None):
                replaced = native if n is not None else asyncio.gather
                for returned in (5, None, [], "text", object()):
                    expected = await outcome(replaced(Item(returned)))
                    same(await outcome(impl.gather_with_concurrency(n, Item(returned))), expected)
                inner = item()
                expected = await outcome(native(Item(inner)))
                assert isinstance(expected, TypeError), expected
                if n is not None:
                    same(await outcome(impl.gather_with_concurrency(n, Item(inner))), expected)
                inner.close()
        run(main())
    """,
    "__await__ that returns itself": """
        class Item:
            def __init__(self):
                self.steps = 0
            def __await__(self):
                return self
            def __iter__(self):
                return self
            def __next__(self):
                self.steps += 1
                if self.steps == 3:
                    raise StopIteration(self.steps)
                return None
        class OnlyAwait:
            def __await__(self):
                return self
        async def main():
            for n in (1, 2, None):
                assert await impl.gather_with_concurrency(n, Item(), Item()) == [3, 3]
                replaced = native if n is not None else asyncio.gather
                expected = await outcome(replaced(OnlyAwait()))
                same(await outcome(impl.gather_with_concurrency(n, OnlyAwait())), expected)
        run(main())
    """,
    "an iterator that yields what no Task takes": """
        class Item:
            def __init__(self, yielded):
                self.yielded = yielded
            def __await__(self):
                try:
                    yield self.yielded
                except RuntimeError as error:
                    return str(error)
        async def main():
            for n in (1, 2, None):
                for yielded in (5, "text", object(), (x for x in ())):
                    (seen,) = await impl.gather_with_concurrency(n, Item(yielded))
                    assert "got bad yield" in seen or "yield was used instead" in seen, seen
                other_loop = asyncio.new_event_loop()
                foreign = other_loop.create_future()
                (seen,) = await impl.gather_with_concurrency(n, Item(foreign))
                assert "yield was used instead" in seen or "different loop" in seen, seen
                other_loop.close()
        run(main())
    """,
    "a Future that yields its own Task": """
        async def awaits_itself():
            await asyncio.current_task()
        async def main():
            for n in (1, 2, None):
                seen = await outcome(impl.gather_with_concurrency(n, awaits_itself()))
                assert isinstance(seen, RuntimeError) and "cannot await on itself" in str(seen), seen
        run(main())
    """,
    "an iterator whose methods are missing or raise": """
        class Iterator:
            def __iter__(self):
                return self
            def __next__(self):
                return None
        class Raises(Iterator):
            @property
            def throw(self):
                raise LookupError("no throw")
        class Item:
            def __init__(self, iterator):
                self.iterator = iterator
            def __await__(self):
                return self.iterator
        async def main():
            for iterator in (Iterator(), Raises()):
                task = asyncio.ensure_future(impl.gather_with_concurrency(1, Item(iterator)))
                await item()
                task.cancel("stop")
                seen = await outcome(task)
                assert isinstance(seen, (asyncio.CancelledError, LookupError)), seen
        run(main())
    """,
    "StopIteration as an error, tuples and exceptions as results": """
        async def returns(value):
            return value
        async def raises(error):
            raise error
        values = [(), (1, 2), StopIteration(3), ValueError("value"), None, [None], asyncio.CancelledError()]
        async def main():
            for n in (1, 2, None):
                assert await impl.gather_with_concurrency(n, *map(returns, values)) == values
                assert await impl.run_all([lambda v=v: returns(v) for v in values], limit=n) == values
                for error in (StopIteration(5), StopAsyncIteration(5), BaseException("b")):
                    seen = await outcome(impl.gather_with_concurrency(n, raises(error)))
                    expected = await outcome(asyncio.gather(raises(error)))
                    same(seen, expected)
        run(main())
    """,
    "the gathering is closed from inside its own item": """
        async def closes():
            holder[0].close()
            await item(number=3)
            return "not reached"
        async def closes_and_returns():
            holder[0].close()
            return "returned"
        async def main():
            for first in (closes, closes_and_returns):
                for n in (1, 2):
                    rest = [item(), item(), item()]
                    coro = impl.gather_with_concurrency(n, first(), *rest)
                    holder[:] = [coro]
                    coro.send(None)
                    await item(number=6)
                    assert all(map(is_closed, rest)), (n, rest)
                    for awaiting in (lambda: coro.send(None), lambda: coro.__await__().send(None)):
                        try:
                            awaiting()
                        except RuntimeError as error:
                            assert "cannot reuse already awaited coroutine" in str(error), error
                        else:
                            raise AssertionError
        holder = []
        run(main())
    """,
    "the gathering is thrown into from inside its own item": """
        async def throws():
            try:
                holder[0].throw(LookupError("thrown"))
            except LookupError as error:
                seen.append(str(error))
            await item(number=3)
        holder, seen = [], []
        async def main():
            rest = [item(), item()]
            coro = impl.gather_with_concurrency(1, throws(), *rest)
            holder.append(coro)
            coro.send(None)
            await item(number=5)
            assert seen == ["thrown"], seen
            assert all(map(is_closed, rest))
        run(main())
    """,
    "an item cancels the caller": """
        async def cancels(turns):
            for _ in range(turns):
                await item()
            caller.cancel("by an item")
            await asyncio.sleep(5)
        async def main():
            global caller
            for n in (1, 2, 3, None):
                for turns in (0, 1, 3):
                    rest = [item(number=9), item(number=9)]
                    caller = asyncio.ensure_future(impl.gather_with_concurrency(n, cancels(turns), *rest))
                    same(await outcome(caller), asyncio.CancelledError("by an item"))
                    await item(number=3)
                    assert all(map(is_closed, rest)), (n, turns)
        run(main())
    """,
    "an item cancels the caller and returns at once": """
        async def cancels():
            caller.cancel("by an item")
            return 1
        async def main():
            global caller
            for n in (1, 2, None):
                rest = [item(number=9), item(number=9)]
                caller = asyncio.ensure_future(impl.gather_with_concurrency(n, cancels(), *rest))
                same(await outcome(caller), asyncio.CancelledError("by an item"))
                await item(number=3)
                assert all(map(is_closed, rest)), n
        run(main())
    """,
    "items cancel each other": """
        async def member(index):
            tasks[index] = asyncio.current_task()
            await item()
            other = tasks.get(1 - index)
            if other is not None:
                other.cancel(f"by {index}")
            await item(number=2)
            return index
        async def main():
            for n in (2, 3, None):
                tasks.clear()
                rest = [item(5), item(6)]
                # Item 0 cancels item 1 before it could cancel in turn.
                seen = await outcome(impl.gather_with_concurrency(n, member(0), member(1), *rest))
                same(seen, asyncio.CancelledError("by 0"))
                await item(number=9)
                assert all(map(is_closed, rest))
                tasks.clear()
                seen = await outcome(impl.gather(member(0), member(1), item(5), limit=n, return_exceptions=True))
                assert isinstance(seen[1], asyncio.CancelledError), seen  # asyncio.gather drops the message too
                assert [seen[0], seen[2]] == [0, 5]
        tasks = {}
        run(main())
    """,
    "items cancel themselves": """
        async def cancels_itself(how):
            asyncio.current_task().cancel("by itself")
            if how == "waits":
                await item()
            elif how == "swallows":
                try:
                    await item()
                except asyncio.CancelledError:
                    pass
            elif how == "raises":
                raise LookupError("instead")
            return how
        async def main():
            for n in (1, 2, None):
                for how, expected in (
                    ("waits", asyncio.CancelledError("by itself")),
                    ("returns", asyncio.CancelledError("by itself")),
                    ("raises", LookupError("instead")),
                ):
                    rest = item(number=2)
                    seen = await outcome(impl.gather_with_concurrency(n, cancels_itself(how), rest))
                    same(seen, expected)
                    await item(number=9)
                    assert is_closed(rest)
                assert await impl.gather_with_concurrency(n, cancels_itself("swallows"), item(2)) == ["swallows", 2]
        run(main())
    """,
    "the outer future is cancelled from an item, a callback and its own callback": """
        async def cancels():
            seen.append(future.cancel("from an item"))
            await item()
        async def main():
            global future
            for limit in (1, 2, None):
                rest = [item(), item()]
                future = impl.gather(cancels(), *rest, limit=limit)
                future.add_done_callback(lambda future: seen.append(future.cancel()))
                same(await outcome(future), asyncio.CancelledError("from an item"))
                await item(number=3)
                assert seen == [True, False], seen
                assert all(map(is_closed, rest))
                seen.clear()
        seen = []
        run(main())
    """,
    "the last reference is dropped in the middle of a step": """
        async def drops():
            holder.clear()
            gc.collect()
            await item()
            gc.collect()
            done.append(1)
        holder, done = [], []
        async def main():
            loop = asyncio.get_running_loop()
            for n in (1, 2):
                rest = [item(), item(), item()]
                coro = impl.gather_with_concurrency(n, drops(), *rest)
                coro.send(None)
                holder.append(coro)
                del coro
                await item(number=6)
                gc.collect()
                assert all(map(is_closed, rest)), n
                future = impl.gather(drops(), item(2), limit=n)
                holder.append(future)
                del future
                await item(number=9)
                gc.collect()
            # Dropped by the item that runs, whose Task is the only one to know the gathering.
            assert done == [1, 1], done
        run(main())
    """,
    "the Task of an item is dropped by everybody while it waits": """
        async def waits():
            await bounce_future
        async def main():
            global bounce_future
            bounce_future = asyncio.get_running_loop().create_future()
            future = impl.gather(waits(), waits(), limit=1)
            await item(number=3)
            gc.collect()
            bounce_future.set_result(None)
            assert await future == [None, None]
        run(main())
    """,
    "items with an evil __eq__ or __hash__": """
        class Item:
            def __init__(self, hash=None, eq=None):
                self.hash, self.eq = hash, eq
            def __await__(self):
                return item(1).__await__()
            def __hash__(self):
                if self.hash:
                    raise self.hash
                return 1
            def __eq__(self, other):
                if self.eq:
                    raise self.eq
                return self is other
        async def main():
            for kwargs in ({"hash": LookupError("hash")}, {"eq": LookupError("eq")}):
                coro = item()
                same(await outcome(impl.gather_with_concurrency(None, coro, Item(**kwargs), Item())),
                     LookupError(*kwargs))
                assert is_closed(coro)
                coro = item()
                try:
                    impl.gather(coro, Item(**kwargs), Item(), limit=2)
                except LookupError:
                    assert is_closed(coro)
                else:
                    raise AssertionError
                assert await impl.gather_with_concurrency(2, Item(**kwargs), Item(**kwargs)) == [1, 1]
            coro = item()
            seen = await outcome(impl.gather_with_concurrency(None, coro, []))
            assert isinstance(seen, TypeError) and is_closed(coro)
        run(main())
    """,
    "a coroutine that is running, awaited elsewhere, or finished": """
        async def runs():
            return await outcome(impl.gather_with_concurrency(1, holder[0]))
        async def main():
            # One that is being awaited elsewhere.
            inner = item(1, number=5)
            task = asyncio.ensure_future(outcome(inner))
            await item()
            for n in (1, 2):
                same(await outcome(impl.gather_with_concurrency(n, inner)),
                     RuntimeError("coroutine is being awaited already"))
            assert await task == 1
            # One that has finished.
            for n in (1, 2, None):
                same(await outcome(impl.gather_with_concurrency(n, inner)),
                     RuntimeError("cannot reuse already awaited coroutine"))
            # The caller itself.
            coro = runs()
            holder.append(coro)
            seen = await coro
            assert isinstance(seen, (RuntimeError, ValueError)), seen
        holder = []
        run(main())
    """,
    "the same coroutine twice": """
        async def main():
            for n in (1, 2, 3):
                coro = item(1)
                seen = await outcome(impl.gather_with_concurrency(n, coro, coro))
                assert isinstance(seen, RuntimeError), seen
                await item(number=5)
            coro = item(1)
            assert await impl.gather_with_concurrency(None, coro, coro) == [1, 1]
            coro = item(1)
            assert await impl.gather(coro, coro, limit=1) == [1, 1]
        run(main())
    """,
    "a close() that raises, and one that refuses": """
        raised = []
        sys.unraisablehook = raised.append
        class Item:
            def send(self, value):
                raise AssertionError("started")
            throw = send
            def close(self):
                closed.append(1)
                raise LookupError("close")
            def __await__(self):
                return self
        closed = []
        async def fails():
            raise ValueError("first")
        async def main():
            coro = impl.gather_with_concurrency(1, Item(), Item())
            coro.close()
            assert closed == [1, 1], closed
            future = impl.gather(item(number=3), Item(), Item(), limit=1, cancel_on_error=True)
            await item(number=2)
            future.cancel("stop")
            same(await outcome(future), asyncio.CancelledError("stop"))
            assert closed == [1] * 4, closed
            same(await outcome(impl.gather(fails(), Item(), Item(), limit=1, cancel_on_error=True)), ValueError("first"))
            assert closed == [1] * 6, closed
        run(main())
    """,
    "a close() that starts, cancels and closes what it belongs to": """
        class Item:
            def send(self, value):
                raise AssertionError("started")
            throw = send
            def close(self):
                closed.append(1)
                future.cancel("again")
                task.cancel()
                asyncio.ensure_future(impl.gather_with_concurrency(1, item()))
            def __await__(self):
                return self
        closed = []
        async def main():
            global future, task
            future = impl.gather(item(number=9), Item(), Item(), Item(), limit=1)
            task = asyncio.ensure_future(outcome(future))
            await item(number=3)
            future.cancel("stop")
            seen = await outcome(future)
            assert isinstance(seen, asyncio.CancelledError), seen
            await item(number=3)
            assert closed == [1, 1, 1], closed
        run(main())
    """,
    "gate objects that re-enter": """
        class Gate:
            def __init__(self, act):
                self.act = act
                self.entered = 0
            async def __aenter__(self):
                self.entered += 1
                self.act()
            async def __aexit__(self, *error):
                self.entered -= 1
                self.act()
        async def main():
            global future
            # A gate that closes the queue.
            rest = [item(), item()]
            gate = Gate(lambda: future.cancel("gate"))
            future = impl.gather(item(), *rest, limit=gate)
            seen = await outcome(future)
            assert isinstance(seen, asyncio.CancelledError), seen
            await item(number=3)
            assert gate.entered == 0 and all(map(is_closed, rest))
            # A gate that gathers by itself.
            inner = Gate(lambda: None)
            made = []
            gate = Gate(lambda: made.append(impl.gather(item(1), item(2), limit=inner)))
            assert await impl.gather(item(1), item(2), limit=gate) == [1, 2]
            assert await asyncio.gather(*made) == [[1, 2]] * 4
        run(main())
    """,
    "gates that raise, suppress, never let in, or are no gates": """
        class Gate:
            def __init__(self, enter=None, leave=None, suppress=False):
                self.enter, self.leave, self.suppress = enter, leave, suppress
            async def __aenter__(self):
                if self.enter:
                    raise self.enter
            async def __aexit__(self, *error):
                if self.leave:
                    raise self.leave
                return self.suppress
        class NoCoroutines:
            def __aenter__(self):
                return 5
            def __aexit__(self, *error):
                return 5
        async def fails():
            raise ValueError("item")
        async def native(gate, coro):
            async with gate:
                return await coro
        async def main():
            for gate in (Gate(LookupError("enter")), Gate(leave=LookupError("leave")), Gate(suppress=True), NoCoroutines(), 5, None):
                for make in (fails, item):
                    expected_coro, coro = make(), make()
                    expected = await outcome(native(gate, expected_coro))
                    seen = await outcome(impl.gated_coro(gate, coro))
                    same(seen, expected)
                    assert is_closed(coro), gate
                    expected_coro.close()
                if isinstance(gate, (Gate, NoCoroutines)):
                    items = [item(1), item(2), item(1), item(2)]
                    seen = await outcome(impl.gather(*items[:2], limit=gate))
                    if isinstance(gate, Gate):
                        expected = await outcome(asyncio.gather(*[native(gate, coro) for coro in items[2:]]))
                        assert str(seen) == str(expected), (seen, expected)
                    await item(number=5)
                    assert all(map(is_closed, items[:2]))
                    for coro in items[2:]:
                        coro.close()
        run(main())
    """,
    "callables that re-enter": """
        async def main():
            global coro
            # A callable that cancels the caller, before it returns its coroutine.
            def cancels():
                task.cancel("by a callable")
                return item(1)
            for limit in (1, 2, None):
                called = []
                task = asyncio.ensure_future(impl.run_all([cancels, lambda: called.append(1) or item()], limit=limit))
                seen = await outcome(task)
                same(seen, asyncio.CancelledError("by a callable"))
                # A callable that closes the gathering that calls it.
                def closes():
                    coro.close()
                    return item(1)
                called.clear()
                coro = impl.run_all([closes, lambda: called.append(1) or item()], limit=1)
                coro.send(None)
                await item(number=5)
                assert called == [], called
                # A callable that runs the same functions again.
                depth = []
                async def again():
                    if len(depth) < 5:
                        depth.append(1)
                        return await impl.run_all([again, again], limit=limit)
                    return "deep"
                assert "deep" in str(await impl.run_all([again], limit=limit))
        run(main())
    """,
    "iterables that re-enter, raise, or never end": """
        async def main():
            global coro
            def endless():
                while True:
                    yield item
            task = asyncio.ensure_future(impl.run_all(endless(), limit=2))
            await item(number=30)
            task.cancel("enough")
            same(await outcome(task), asyncio.CancelledError("enough"))
            def raises():
                yield item
                raise LookupError("iterable")
            same(await outcome(impl.run_all(raises(), limit=1)), LookupError("iterable"))
            same(await outcome(impl.constrained_execution(raises(), 1)), LookupError("iterable"))
            def closes():
                yield item
                coro.close()
                yield item
            coro = impl.run_all(closes(), limit=1)
            coro.send(None)
            await item(number=9)
            for wrong in (5, None, item):
                seen = await outcome(impl.run_all(wrong))
                assert isinstance(seen, TypeError), seen
            for wrong in ([5], [None], [lambda: 5], [lambda: None], [lambda x: item()]):
                seen = await outcome(impl.run_all(wrong))
                assert isinstance(seen, TypeError) and "0" in seen.__notes__[0], seen
        run(main())
    """,
    "an items' destructor that touches the gathering": """
        class Item:
            def __await__(self):
                yield
            def __del__(self):
                deleted.append(1)
                future.cancel()
                future.done()
                gc.collect()
        deleted = []
        async def main():
            global future
            future = impl.gather(Item(), Item(), Item(), limit=1)
            seen = await outcome(future)
            await item(number=5)
            gc.collect()
            assert len(deleted) == 3, deleted
        run(main())
    """,
    "another thread holds the loop; no loop is running": """
        for make in (lambda c: impl.gather_with_concurrency(1, c), lambda c: impl.gather_with_concurrency(None, c)):
            coro = item()
            try:
                make(coro).send(None)
            except RuntimeError as error:
                assert "no running event loop" in str(error), error
            else:
                raise AssertionError
            assert is_closed(coro)
        gate = asyncio.Semaphore(1)
        coro = item(number=0)
        try:
            impl.gated_coro(gate, coro).send(None)
        except StopIteration as stop:
            assert stop.value is None
        except RuntimeError as error:
            raise AssertionError("an asyncio.Semaphore that is free needs no loop") from error
        assert is_closed(coro)
    """,
    "a deep nesting of gatherings": """
        async def nest(depth):
            if depth:
                return await impl.gather_with_concurrency(1, nest(depth - 1), item())
            return "bottom"
        async def main():
            assert "bottom" in str(await nest(100))
        run(main())
    """,
    "many items that return at once do not recurse": """
        async def at_once(value):
            return value
        async def fails():
            raise ValueError
        async def main():
            for n in (1, 7, None):
                assert await impl.gather_with_concurrency(n, *map(at_once, range(20_000))) == list(range(20_000))
                seen = await impl.gather(*[fails() for _ in range(5_000)], limit=n, return_exceptions=True)
                assert len(seen) == 5_000
        run(main())
    """,
    "a loop whose get_debug fails while the gathering is made": """
        class Loop(asyncio.SelectorEventLoop):
            fails = False
            def get_debug(self):
                if self.fails:
                    raise ValueError("no debug")
                return super().get_debug()
        loop = Loop()
        coros = [item(), item()]
        async def main():
            loop.fails = True
            try:
                return await impl.gather_with_concurrency(1, *coros)
            finally:
                loop.fails = False
        async def judge():
            error = await outcome(main())
            same(error, ValueError("no debug"))
        loop.run_until_complete(judge())
        loop.close()
        if impl.__name__.endswith("_core"):
            assert all(map(is_closed, coros))
        for coro in coros:
            coro.close()
    """,
    "a task factory that closes what it is given": """
        async def main():
            loop = asyncio.get_running_loop()
            def factory(loop, coro, **options):
                if getattr(coro, "__qualname__", "") != "closed_by_factory":
                    return asyncio.Task(coro, loop=loop, **options)
                coro.close()
                return loop.create_future()
            async def closed_by_factory():
                raise AssertionError
            loop.set_task_factory(factory)
            ended = await outcome(impl.gather(item(1), closed_by_factory()))
            assert "NULL" not in repr(ended), ended
        try:
            run(main())
        except RuntimeError as error:
            if impl.__name__.endswith("_core"):
                raise AssertionError("hangs") from error
    """,
    "a sibling whose error has no str": """
        class Speechless(Exception):
            def __str__(self):
                raise RuntimeError("no words")
        class Stubborn(asyncio.Future):
            def cancel(self, msg=None):
                self.get_loop().call_soon(self.set_exception, Speechless())
                return True
        async def main():
            first = asyncio.get_running_loop().create_future()
            both = impl.gather(first, Stubborn(), cancel_on_error=True)
            first.set_exception(ValueError("first"))
            same(await outcome(both), ValueError("first"))
        run(main())
    """,
    "a Future whose exception is none": """
        class Odd(asyncio.Future):
            def exception(self):
                super().exception()
                return 5
        async def main():
            odd = Odd()
            both = impl.gather(odd)
            odd.set_exception(ValueError())
            assert isinstance(await outcome(both), TypeError)
        if impl.__name__.endswith("_core"):
            run(main())
    """,
    "a StopIteration without a value": """
        class Bare(StopIteration):
            def __init__(self):
                pass
        class Odd:
            def __await__(self):
                return self
            def __iter__(self):
                return self
            def __next__(self):
                return None
            def throw(self, *args):
                raise Bare
        async def main():
            task = asyncio.ensure_future(impl.gather_with_concurrency(1, Odd()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await outcome(task)
        if impl.__name__.endswith("_core"):  # `await` itself crashes up to 3.15
            run(main())
    """,
    "asyncio cannot register a Task": """
        async def main():
            registry = getattr(asyncio.tasks, "_all_tasks", None) or getattr(asyncio.tasks, "_scheduled_tasks")
            def add(task):
                raise OverflowError("full")
            registry.add = add
            try:
                made = impl.gather(item(1), item(2), limit=1)
            except OverflowError:
                made = None
            finally:
                del registry.add
            await asyncio.sleep(1)
            if made is not None:
                await made
        if impl.__name__.endswith("_core"):
            run(main())
    """,
    "the name of an awaitable is asked for again and again": """
        class Waits:
            def __await__(self):
                name = type(self).__name__
                coro = asyncio.current_task().get_coro()
                before = sys.getrefcount(name)
                for _ in range(100):
                    coro.__qualname__
                assert sys.getrefcount(name) < before + 50
                return iter(())
        async def main():
            await impl.gather_with_concurrency(1, Waits())
        run(main())
    """,
    "an exception that the driver handles does not stay in the driven coroutine": """
        class Gate:
            async def __aenter__(self):
                pass
            async def __aexit__(self, *args):
                return True
        async def body():
            raise KeyError
        async def driven():
            await impl.gated_coro(Gate(), body())
            await bounce()
            return sys.exc_info()[1]
        coro = driven()
        try:
            raise ValueError
        except ValueError:
            coro.send(None)
        try:
            coro.send(None)
        except StopIteration as stop:
            assert stop.value is None, stop.value
    """,
    "a walker of the call graph that closes workers": """
        victims = []
        class Evil:
            @property
            def __class__(self):
                while victims:
                    try:
                        victims.pop().close()
                    except (RuntimeError, ValueError):
                        pass
                gc.collect()
                return Evil
            def __await__(self):
                yield from asyncio.sleep(5).__await__()
        async def fails():
            await asyncio.sleep(1)
            coros = [task.get_coro() for task in asyncio.all_tasks()]
            victims.extend(coro for coro in coros if "Worker" in str(type(coro)))
            raise ValueError("first")
        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
            evil = [Evil() for _ in range(6)]
            ended = await outcome(impl.gather_with_concurrency(9, *evil[:3], fails(), *evil[3:]))
            same(ended, ValueError("first"))
        if impl.__name__.endswith("_core"):
            run(main())
    """,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_it_gives_the_documented_outcome(impl, scenario):
    script = textwrap.dedent(COMMON) + textwrap.dedent(SCENARIOS[scenario]) + "\ngc.collect()\nprint('ok')\n"
    check_script(impl, script, timeout=60)
