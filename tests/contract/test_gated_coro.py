"""gated_coro: `async with semaphore: return await coro`, and a slot is given back exactly once on every way out."""

import asyncio
import gc

import pytest

from contract_tools import Running, Trace, idle, is_closed, item, message_of_awaiting, run, sleeping

SEMAPHORES = [asyncio.Semaphore, asyncio.BoundedSemaphore]


class Gate:
    """An async context manager that says what happens to it."""

    def __init__(self, trace, turns=0, suppresses=False):
        self.trace, self.turns, self.suppresses = trace, turns, suppresses

    async def __aenter__(self):
        self.trace("enter")
        await idle(self.turns)
        self.trace("entered")
        return self

    async def __aexit__(self, kind, error, traceback):
        assert (kind is None) == (error is None) == (traceback is None)
        self.trace("exit" if kind is None else f"exit:{kind.__name__}")
        await idle(self.turns)
        return self.suppresses


@pytest.mark.parametrize("semaphore_class", SEMAPHORES)
def test_it_returns_the_result_and_gives_the_slot_back(impl, semaphore_class):
    async def main():
        semaphore = semaphore_class(1)
        assert await impl.gated_coro(semaphore, asyncio.sleep(0, "slept")) == "slept"
        assert not semaphore.locked()
        assert semaphore._value == 1

    run(main)


def test_a_free_semaphore_costs_no_turn_of_the_loop(impl):
    async def main():
        trace = Trace()
        trace.start()
        semaphore = asyncio.Semaphore(1)
        await impl.gated_coro(semaphore, item(trace, "a", 0))
        await impl.gated_coro(semaphore, item(trace, "b", 0))
        trace.stop()
        return trace.turns

    assert run(main) == ["+a -a +b -b"]


def test_the_limit_is_kept(impl):
    async def main():
        running = Running()

        async def counts():
            with running:
                await idle(2)

        semaphore = asyncio.Semaphore(3)
        await asyncio.gather(*(impl.gated_coro(semaphore, counts()) for _ in range(20)))
        assert running.most == 3
        assert semaphore._value == 3

    run(main)


@pytest.mark.parametrize("semaphore_class", SEMAPHORES)
def test_waiting_is_first_come_first_served_with_every_other_user(impl, semaphore_class):
    async def main():
        trace = Trace()
        semaphore = semaphore_class(1)

        async def other(name):
            async with semaphore:
                await item(trace, name)

        await asyncio.gather(
            impl.gated_coro(semaphore, item(trace, "a")),
            other("b"),
            impl.gated_coro(semaphore, item(trace, "c")),
            other("d"),
            impl.gated_coro(semaphore, item(trace, "e")),
        )
        return trace.events

    assert run(main) == "+a -a +b -b +c -c +d -d +e -e".split()


def test_turns_are_those_of_the_native_form(impl):
    async def native(semaphore, coroutine):
        async with semaphore:
            return await coroutine

    async def turns(gated):
        trace = Trace()
        semaphore = asyncio.Semaphore(2)
        trace.start()
        await asyncio.gather(
            *(gated(semaphore, item(trace, name, turns)) for name, turns in zip("abcdef", [2, 1, 0, 3, 1, 0]))
        )
        trace.stop()
        return trace.turns

    async def main():
        assert await turns(impl.gated_coro) == await turns(native)

    run(main)


@pytest.mark.parametrize("semaphore_class", SEMAPHORES)
def test_an_error_gives_the_slot_back(impl, semaphore_class):
    async def main():
        async def fails():
            await asyncio.sleep(0)
            raise error

        error = ValueError()
        semaphore = semaphore_class(1)
        with pytest.raises(ValueError) as caught:
            await impl.gated_coro(semaphore, fails())
        assert caught.value is error
        assert semaphore._value == 1

    run(main)


async def waiting(impl, semaphore, coroutine):
    """Start a gated_coro by hand while the semaphore is taken; return it and the Future it waits for."""
    call = impl.gated_coro(semaphore, coroutine)
    return call, call.send(None)


class Error(Exception):
    pass


def end_by_close(call):
    call.close()


def end_by_throw(call):
    with pytest.raises(Error):
        call.throw(Error())


def end_by_cancellation(call):
    with pytest.raises(asyncio.CancelledError):
        call.throw(asyncio.CancelledError())


ENDS = [end_by_close, end_by_throw, end_by_cancellation]


@pytest.mark.parametrize("semaphore_class", SEMAPHORES)
@pytest.mark.parametrize("end", ENDS)
def test_ended_while_it_waits_it_leaves_the_queue_and_no_slot_is_lost_or_gained(impl, semaphore_class, end):
    async def main():
        semaphore = semaphore_class(1)
        await semaphore.acquire()
        coroutine = asyncio.sleep(0)
        call, _ = await waiting(impl, semaphore, coroutine)
        end(call)
        assert is_closed(coroutine)
        assert semaphore._value == 0
        assert not semaphore._waiters
        semaphore.release()
        assert semaphore._value == 1

    run(main)


@pytest.mark.parametrize("semaphore_class", SEMAPHORES)
@pytest.mark.parametrize("end", ENDS)
def test_ended_after_the_slot_was_handed_over_it_gives_that_back_once(impl, semaphore_class, end):
    async def main():
        semaphore = semaphore_class(1)
        await semaphore.acquire()
        coroutine = asyncio.sleep(0)
        call, _ = await waiting(impl, semaphore, coroutine)
        semaphore.release()
        end(call)
        assert is_closed(coroutine)
        assert semaphore._value == 1
        assert not semaphore.locked()

    run(main)


@pytest.mark.parametrize("end", ENDS)
def test_a_slot_given_back_goes_to_the_next_waiter(impl, end):
    async def main():
        semaphore = asyncio.Semaphore(1)
        await semaphore.acquire()
        first, _ = await waiting(impl, semaphore, asyncio.sleep(0))
        second = asyncio.create_task(impl.gated_coro(semaphore, asyncio.sleep(0, "second")))
        await idle(2)
        semaphore.release()
        end(first)
        assert await second == "second"
        assert semaphore._value == 1

    run(main)


def test_collected_after_the_slot_was_handed_over_it_gives_that_back(impl):
    async def main():
        semaphore = asyncio.Semaphore(1)
        await semaphore.acquire()
        call, _ = await waiting(impl, semaphore, asyncio.sleep(0))
        semaphore.release()
        del call
        gc.collect()
        assert semaphore._value == 1

    run(main)


@pytest.mark.parametrize("end", ENDS)
def test_ended_while_the_coroutine_runs_it_gives_the_slot_back(impl, end):
    async def main():
        trace = Trace()
        semaphore = asyncio.Semaphore(1)
        call, _ = await waiting(impl, semaphore, item(trace, "a", 5))
        assert semaphore._value == 0
        end(call)
        assert semaphore._value == 1
        assert trace.events == ["+a"]

    run(main)


def test_its_task_cancelled_at_any_point_no_slot_is_lost_or_gained(impl):
    async def main():
        for turns in range(7):
            semaphore = asyncio.Semaphore(1)
            await semaphore.acquire()
            task = asyncio.create_task(impl.gated_coro(semaphore, idle(2)))
            asyncio.get_running_loop().call_soon(semaphore.release)
            await idle(turns)
            task.cancel()
            await asyncio.wait([task])
            await idle(3)
            assert semaphore._value == 1, f"cancelled after {turns} turns"

    run(main)


def test_cancelled_while_the_coroutine_runs_it_cancels_that(impl):
    async def main():
        trace = Trace()
        semaphore = asyncio.Semaphore(1)
        task = asyncio.create_task(impl.gated_coro(semaphore, sleeping(trace, "a", 1)))
        await idle(2)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert trace.events == ["+a", "xa", "-a"]
        assert semaphore._value == 1

    run(main)


@pytest.mark.parametrize("turns", [0, 2])
def test_any_async_context_manager_gates_with_the_full_protocol(impl, turns):
    async def main():
        trace = Trace()
        assert await impl.gated_coro(Gate(trace, turns), item(trace, "a")) == "a"
        with pytest.raises(ZeroDivisionError):

            async def divides():
                return 1 / 0

            await impl.gated_coro(Gate(trace, turns), divides())
        return trace.events

    assert run(main) == "enter entered +a -a exit enter entered exit:ZeroDivisionError".split()


def test_a_gate_may_suppress_the_error(impl):
    async def main():
        async def fails():
            raise ValueError

        assert await impl.gated_coro(Gate(Trace(), 1, suppresses=True), fails()) is None
        assert await impl.gated_coro(Gate(Trace(), 1, suppresses=True), asyncio.sleep(0, "slept")) == "slept"

    run(main)


def test_a_lock_gates(impl):
    async def main():
        trace = Trace()
        lock = asyncio.Lock()
        await asyncio.gather(*(impl.gated_coro(lock, item(trace, name)) for name in "abc"))
        assert not lock.locked()
        return trace.events

    assert run(main) == "+a -a +b -b +c -c".split()


def test_a_subclass_of_semaphore_is_asked(impl):
    async def main():
        trace = Trace()

        class Traced(asyncio.Semaphore):
            async def acquire(self):
                trace("acquire")
                return await super().acquire()

            def release(self):
                trace("release")
                super().release()

        semaphore = Traced(1)
        await asyncio.gather(*(impl.gated_coro(semaphore, item(trace, name)) for name in "ab"))
        assert semaphore._value == 1
        return trace.events

    assert run(main) == "acquire +a acquire -a release +b -b release".split()


@pytest.mark.parametrize("name", ["acquire", "release"])
@pytest.mark.parametrize("semaphore_class", [asyncio.Semaphore, asyncio.BoundedSemaphore])
def test_a_patched_semaphore_class_is_asked(impl, semaphore_class, monkeypatch, name):
    async def main():
        called = []
        original = getattr(semaphore_class, name)

        def patched(self):
            called.append(name)
            return original(self)

        with monkeypatch.context() as patch:
            patch.setattr(semaphore_class, name, patched)
            assert await impl.gated_coro(semaphore_class(1), asyncio.sleep(0, 1)) == 1
        assert called == [name]
        assert await impl.gated_coro(semaphore_class(1), asyncio.sleep(0, 1)) == 1
        assert called == [name]

    run(main)


@pytest.mark.parametrize("while_it_runs", [False, True])
def test_the_method_that_a_bounded_semaphore_goes_on_to_is_asked(impl, monkeypatch, while_it_runs):
    async def main():
        called = []
        original = asyncio.Semaphore.release

        def release(self):
            called.append("release")
            original(self)

        with monkeypatch.context() as patch:

            async def item():
                if while_it_runs:
                    patch.setattr(asyncio.Semaphore, "release", release)

            if not while_it_runs:
                patch.setattr(asyncio.Semaphore, "release", release)
            semaphore = asyncio.BoundedSemaphore(1)
            await impl.gated_coro(semaphore, item())
            assert (called, semaphore._value) == (["release"], 1)

    run(main)


@pytest.mark.parametrize("name", ["acquire", "locked", "release", "_wake_up_next"])
@pytest.mark.parametrize("semaphore_class", [asyncio.Semaphore, asyncio.BoundedSemaphore])
@pytest.mark.parametrize("has_waited", [False, True])
@pytest.mark.parametrize("while_it_runs", [False, True])
def test_a_method_hidden_on_one_semaphore_is_asked(impl, name, semaphore_class, has_waited, while_it_runs):
    async def native(semaphore, coro):
        async with semaphore:
            return await coro

    async def called_by(gated):
        called = []
        semaphore = semaphore_class(1)
        if has_waited:  # and knows its loop from then on
            await asyncio.gather(*(gated(semaphore, asyncio.sleep(0)) for _ in range(2)))

        def hide():
            original = getattr(semaphore, name)

            def hiding():
                called.append(name)
                return original()

            setattr(semaphore, name, hiding)

        async def item():
            if while_it_runs:
                hide()
            return 1

        if not while_it_runs:
            hide()
        for _ in range(2):
            assert await gated(semaphore, item()) == 1
        assert semaphore._value == 1
        return called

    async def main():
        expected = await called_by(native)
        assert expected
        assert await called_by(impl.gated_coro) == expected

    run(main)


@pytest.mark.parametrize("semaphore_class", [asyncio.Semaphore, asyncio.BoundedSemaphore])
def test_other_attributes_of_a_semaphore_do_not_matter(impl, semaphore_class):
    async def main():
        semaphore = semaphore_class(2)
        semaphore.name = "downloads"
        assert await impl.gated_coro(semaphore, asyncio.sleep(0, 1)) == 1
        assert (semaphore._value, semaphore.name) == (2, "downloads")

    run(main)


def test_the_bound_of_a_semaphore_is_minded(impl):
    async def main():
        semaphore = asyncio.BoundedSemaphore(1)

        async def item():
            semaphore.release()

        with pytest.raises(ValueError, match="BoundedSemaphore released too many times"):
            await impl.gated_coro(semaphore, item())
        assert semaphore._value == 1

    run(main)


@pytest.mark.parametrize("name", ["__setattr__", "__getattribute__", "_value"])
@pytest.mark.parametrize("semaphore_class", [asyncio.Semaphore, asyncio.BoundedSemaphore])
def test_a_class_patched_to_watch_the_counter_sees_it(impl, semaphore_class, name, monkeypatch):
    async def main():
        await impl.gated_coro(semaphore_class(1), asyncio.sleep(0))  # the class is known by now
        seen = []

        def set_attribute(self, attribute, value):
            if attribute == "_value":
                seen.append(value)
            object.__setattr__(self, attribute, value)

        def get_attribute(self, attribute):
            if attribute == "_value":
                seen.append("read")
            return object.__getattribute__(self, attribute)

        def set_value(self, value):
            seen.append(value)
            self.__dict__["_value"] = value

        patches = {
            "__setattr__": set_attribute,
            "__getattribute__": get_attribute,
            "_value": property(lambda self: self.__dict__["_value"], set_value),
        }
        with monkeypatch.context() as patch:
            patch.setattr(semaphore_class, name, patches[name], raising=False)
            semaphore = semaphore_class(2)
            seen.clear()
            assert await impl.gated_coro(semaphore, asyncio.sleep(0, 1)) == 1
        if name == "__getattribute__":
            assert len(seen) >= 3  # locked(), and both changes
        else:
            assert seen == [1, 2]
        assert await impl.gated_coro(semaphore, asyncio.sleep(0, 1)) == 1
        assert semaphore._value == 2

    run(main)


@pytest.mark.parametrize("bad", [None, 5, object(), asyncio.Semaphore])
def test_what_is_no_async_context_manager_is_a_type_error_and_the_coroutine_is_closed(impl, bad):
    async def main():
        async def native():
            async with bad:
                pass

        coroutine = asyncio.sleep(0)
        with pytest.raises(TypeError) as expected:
            await native()
        with pytest.raises(TypeError) as caught:
            await impl.gated_coro(bad, coroutine)
        assert str(caught.value) == str(expected.value)
        assert is_closed(coroutine)

    run(main)


@pytest.mark.parametrize("bad", [None, 5, asyncio.sleep])
def test_what_cannot_be_awaited_is_a_type_error_and_the_slot_is_given_back(impl, bad):
    async def main():
        semaphore = asyncio.Semaphore(1)
        with pytest.raises(TypeError) as caught:
            await impl.gated_coro(semaphore, bad)
        assert str(caught.value) == message_of_awaiting(bad)
        assert semaphore._value == 1

    run(main)


def test_an_error_of_the_gate_is_raised_and_the_coroutine_closed(impl):
    async def main():
        class Broken:
            async def __aenter__(self):
                await asyncio.sleep(0)
                raise LookupError("enter")

            async def __aexit__(self, *exception):
                raise AssertionError("it was not entered")

        coroutine = asyncio.sleep(0)
        with pytest.raises(LookupError, match="enter"):
            await impl.gated_coro(Broken(), coroutine)
        assert is_closed(coroutine)

    run(main)


@pytest.mark.parametrize("end", ENDS)
def test_before_the_first_step_it_enters_nothing_and_closes_the_coroutine(impl, end):
    async def main():
        trace = Trace()
        coroutine = item(trace, "a")
        call = impl.gated_coro(Gate(trace), coroutine)
        end(call)
        assert is_closed(coroutine)
        assert trace.events == []

    run(main)


def test_a_coroutine_awaited_elsewhere_is_refused_and_left_alone(impl):
    async def main():
        coroutine = asyncio.sleep(0.001, "slept")

        async def elsewhere():
            return await coroutine

        task = asyncio.create_task(elsewhere())
        await asyncio.sleep(0)
        semaphore = asyncio.Semaphore(1)
        with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
            await impl.gated_coro(semaphore, coroutine)
        assert semaphore._value == 1
        assert await task == "slept"

    run(main)


def test_no_event_loop_is_needed_when_the_gate_needs_none(impl):
    trace = Trace()

    async def returns():
        trace("run")
        return "returned"

    class Immediate:
        async def __aenter__(self):
            trace("enter")

        async def __aexit__(self, *exception):
            trace("exit")

    for gate in (Immediate(), asyncio.Semaphore(1)):
        with pytest.raises(StopIteration) as stop:
            impl.gated_coro(gate, returns()).send(None)
        assert stop.value.value == "returned"
    assert trace.events == "enter run exit run".split()
