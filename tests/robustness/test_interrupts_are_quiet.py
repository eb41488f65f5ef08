"""After a KeyboardInterrupt or SystemExit that left the loop, `asyncio.run` cancels and cleans up everything, and reports nothing.

Through every door and through doors in doors, from a first step and a later one, however the caller waits.
"""

import asyncio
import importlib.util
import sys
import textwrap

import pytest

from contract_tools import Trace, failing, sleeping
from effort import SHORT
from in_subprocess import check_script

MATRIX = """
import gc, itertools

environment, error_name, every = sys.argv[1], sys.argv[2], int(sys.argv[3])
error = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}[error_name]
impl._set_clock(lambda: 0.0)


async def awaits(future):
    return await future


def made(functions):
    return [function() for function in functions]


DOORS = {
    "gather_with_concurrency(3)": lambda fns: impl.gather_with_concurrency(3, *made(fns)),
    "gather_with_concurrency(None)": lambda fns: impl.gather_with_concurrency(None, *made(fns)),
    "gather": lambda fns: awaits(impl.gather(*made(fns))),
    "gather, limit": lambda fns: awaits(impl.gather(*made(fns), limit=3)),
    "gather, semaphore": lambda fns: awaits(impl.gather(*made(fns), limit=asyncio.Semaphore(3))),
    "gather, semaphore of ours": lambda fns: awaits(impl.gather(*made(fns), limit=impl.Semaphore(3))),
    "gather, stops": lambda fns: awaits(impl.gather(*made(fns), limit=3, cancel_on_error=True)),
    "gather, semaphore, stops": lambda fns: awaits(
        impl.gather(*made(fns), limit=asyncio.Semaphore(3), cancel_on_error=True)
    ),
    "gather, returns": lambda fns: awaits(impl.gather(*made(fns), limit=3, return_exceptions=True)),
    "gather, returns, stops": lambda fns: awaits(impl.gather(*made(fns), return_exceptions=True, cancel_on_error=True)),
    "run_all": lambda fns: impl.run_all(iter(fns), limit=3),
    "run_all, no limit": lambda fns: impl.run_all(fns),
    "run_all, semaphore": lambda fns: impl.run_all(fns, limit=asyncio.Semaphore(3)),
    "run_all, goes on": lambda fns: impl.run_all(iter(fns), limit=3, cancel_on_error=False),
    "run_all, returns": lambda fns: impl.run_all(fns, limit=3, return_exceptions=True),
    "constrained_execution": lambda fns: impl.constrained_execution(fns, 3),
    "Tasks": lambda fns: awaits(impl.gather(*map(asyncio.ensure_future, made(fns)), cancel_on_error=True)),
    "gated_coro": lambda fns: awaits(impl.gather(*[impl.gated_coro(asyncio.Semaphore(3), c) for c in made(fns)])),
    "run_all of gated_coro": lambda fns: impl.run_all([lambda f=f: impl.gated_coro(asyncio.Lock(), f()) for f in fns]),
}
inner_doors = "gather_with_concurrency(3)", "gather, stops", "run_all", "gather, semaphore"
outer_doors = *inner_doors, "gather_with_concurrency(None)", "gather, returns", "constrained_execution"


def nested(outer, inner):
    return lambda fns: outer([lambda: inner(fns[:3]), *fns[3:]])


for outer, inner in itertools.product(outer_doors, inner_doors):
    DOORS[f"{outer} of {inner}"] = nested(DOORS[outer], DOORS[inner])

cleaned = []


async def interrupts(turns):
    for _ in range(turns):
        await asyncio.sleep(0)
    raise error


async def sleeps():
    cleaned.append(False)
    index = len(cleaned) - 1
    try:
        await asyncio.sleep(3600)
    finally:
        try:
            await asyncio.sleep(0)
        finally:  # a wait_for() of 3.11 and uvloop's additional turn cancel once more what has begun to clean up
            cleaned[index] = True


async def in_a_task(call):
    return await asyncio.create_task(call)


WAYS = {"await": lambda call: call, "Task": in_a_task, "wait_for": lambda call: asyncio.wait_for(call, 3600)}
ITEMS = {
    (turns, place, count): [(lambda t=turns: interrupts(t)) if index == place else sleeps for index in range(count)]
    for turns, (place, count) in itertools.product((0, 2), ((0, 1), (1, 5), (0, 4), (2, 3)))
}


async def main(door, way, items):
    loop = asyncio.get_running_loop()
    if environment == "factory":
        loop.set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))

    async def generator():
        try:
            yield
        finally:
            generators_closed.append(True)

    held = generator()
    await anext(held)
    try:
        await WAYS[way](DOORS[door](ITEMS[items]))
    finally:
        generators_closed.append(False)


if environment == "uvloop":
    import uvloop

    # It runs another turn before it stops.  A caller that takes the interrupt for a result ends in that, and what
    # asyncio.run() had asked for then stops the loop in the middle of the cleanup.  A Task that ends in that turn is
    # one whose interrupt the wait_for() of 3.11 raises again when it is cancelled.
    DOORS = {name: door for name, door in DOORS.items() if not name.startswith("gather, returns")}
    if sys.version_info < (3, 12):
        del WAYS["wait_for"]

for number, (door, way, items) in enumerate(itertools.product(DOORS, WAYS, ITEMS)):
    if number % every:
        continue
    impl._set_full_turns(number // every % 2)
    where = f"{door}, {way}, {items}"
    cleaned.clear()
    generators_closed = []
    try:
        with asyncio.Runner(
            debug=environment == "debug", loop_factory=uvloop.new_event_loop if environment == "uvloop" else None
        ) as runner:
            runner.get_loop().slow_callback_duration = 600  # a busy machine is no news
            runner.run(main(door, way, items))
    except error:
        pass
    else:
        raise AssertionError(f"{where}: nothing was raised")
    # The caller has ended and the async generator was closed after it: asyncio's own cleanup came to its end.
    assert generators_closed == [False, True], where
    assert all(cleaned), where
    if number % 20 == 0:
        gc.collect()
gc.collect()
print("ok")
"""

ENVIRONMENTS = ["stock", "debug", "factory"]
if importlib.util.find_spec("uvloop"):
    ENVIRONMENTS.append("uvloop")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
def test_nothing_is_reported_and_everything_is_cleaned_up(impl, environment, error):
    every = (3 if error == "KeyboardInterrupt" else 7) * (5 if SHORT else 1)
    check_script(impl, MATRIX, arguments=[environment, error, str(every)])


def test_a_gathering_s_future_that_nobody_came_to_await_reports_no_interrupt(impl):
    check_script(
        impl,
        """
        async def stops():
            raise KeyboardInterrupt

        async def late(future):
            await future

        async def main():
            future = impl.gather(stops(), asyncio.sleep(3600), limit=2)
            await asyncio.create_task(late(future))

        for _ in range(10):
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                pass
            gc.collect()
        print("ok")
        """,
    )


def test_nor_does_one_that_goes_before_its_caller(impl):
    """As the collector may have it, where the loop never runs again."""
    reports = []

    async def stops():
        raise SystemExit

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))
    task = loop.create_task(impl.gather_with_concurrency(1, stops(), asyncio.sleep(3600)))
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    assert not task._fut_waiter._log_traceback
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    for other in asyncio.all_tasks(loop):
        other.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert reports == []


@pytest.mark.parametrize(
    "outer", [dict(), dict(cancel_on_error=True), dict(limit=1), dict(limit=1, cancel_on_error=True)]
)
@pytest.mark.parametrize("kind", ["gathering", "Task", "Python Task"])
def test_nor_does_one_whose_item_is_another_s_future(impl, kind, outer):
    reports = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))

    async def stops():
        raise KeyboardInterrupt

    async def main():
        if kind == "gathering":
            future = impl.gather(stops(), asyncio.sleep(3600), limit=2)
        else:
            future = (asyncio.Task if kind == "Task" else asyncio.tasks._PyTask)(stops(), loop=loop)
        for _ in range(3):
            future = impl.gather(future, asyncio.sleep(3600), **outer)
        futures.append(future)

    futures = []
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    while not futures[0].done():
        try:
            loop.run_until_complete(asyncio.sleep(0))
        except KeyboardInterrupt:
            pass
    assert not futures[0]._log_traceback
    futures.clear()
    del task
    for other in asyncio.all_tasks(loop):
        other.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert reports == []


def test_nor_that_it_was_cancelled(impl, any_turns):
    check_script(
        impl,
        """
        async def main():
            future = impl.gather(*[asyncio.sleep(3600) for _ in range(5)], limit=2)
            other = impl.gather(*[asyncio.sleep(3600) for _ in range(5)], return_exceptions=True)
            await asyncio.sleep(0)
            future.cancel()
            await asyncio.sleep(0)

        for _ in range(10):
            asyncio.run(main())
            gc.collect()
        print("ok")
        """,
    )


def test_an_interrupt_that_only_a_future_has_is_reported_if_nobody_looks(impl):
    """It has left no loop."""
    reports = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))
        future = loop.create_future()
        future.set_exception(KeyboardInterrupt())
        impl.gather(future)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert reports == ["_GatheringFuture exception was never retrieved"]


@pytest.mark.parametrize("limit", [2, None])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_caller_that_is_not_cancelled_gets_the_interrupt(impl, limit, error):
    trace = Trace()
    loop = asyncio.new_event_loop()
    interrupt = error()

    async def caller():
        try:
            await impl.gather(
                sleeping(trace, "a", 2), failing(trace, "b", 1, interrupt), limit=limit, cancel_on_error=True
            )
        except error as caught:
            trace("caught")
            return caught

    task = loop.create_task(caller())
    with pytest.raises(error):
        loop.run_forever()
    assert trace.events == "+a +b !b".split()
    assert loop.run_until_complete(task) is interrupt
    assert trace.events == "+a +b !b xa -a caught".split()
    loop.close()


@pytest.mark.parametrize("limit", [2, None])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_caller_that_is_cancelled_meanwhile_is_told_that_when_the_rest_has_ended(impl, limit, error):
    trace = Trace()
    loop = asyncio.new_event_loop()

    async def caller():
        items = sleeping(trace, "a", 2, ValueError("of the cleanup")), failing(trace, "b", 1, error())
        try:
            await impl.gather(*items, limit=limit, cancel_on_error=True)
        finally:
            trace("told")

    task = loop.create_task(caller())
    with pytest.raises(error):
        loop.run_forever()
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError) as caught:
        loop.run_until_complete(task)
    assert caught.value.args == ("why",)
    assert trace.events[-1] == "told"
    loop.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_the_iterable_is_no_different(impl, any_turns, error):
    check_script(
        impl,
        textwrap.dedent(
            f"""
            error = {error.__name__}

            def functions(place):
                for index in range(5):
                    if index == place:
                        raise error
                    yield lambda: asyncio.sleep(3600)

            async def main(place, options):
                await impl.run_all(functions(place), **options)

            for place in range(5):
                for options in dict(limit=2), dict(limit=5), dict(), dict(cancel_on_error=False), dict(return_exceptions=True):
                    if place >= 2 and options.get("limit") == 2:
                        continue
                    try:
                        asyncio.run(main(place, options))
                    except error:
                        pass
                    else:
                        raise AssertionError((place, options))
                    gc.collect()
            print("ok")
            """
        ),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to raise")
@pytest.mark.parametrize("door", ["run_all", "gather"])
def test_ctrl_c_that_arrives_in_the_middle_of_an_item_is_no_different(impl, any_turns, door):
    check_script(
        impl,
        f"""
        import signal

        async def sleeps():
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0)

        async def interrupted():
            await asyncio.sleep(0)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # not asyncio.run's, which cancels the main Task
            signal.raise_signal(signal.SIGINT)

        async def main():
            if {door!r} == "run_all":
                await impl.run_all([sleeps, interrupted, sleeps], limit=3)
            else:
                await impl.gather(sleeps(), interrupted(), sleeps(), cancel_on_error=True)

        for _ in range(10):
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("nothing was raised")
            gc.collect()
        print("ok")
        """,
    )
