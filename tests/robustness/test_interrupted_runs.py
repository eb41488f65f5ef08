"""`asyncio.run` ended by Ctrl-C, by SystemExit or by an error while items are queued, forty times each.

No queued item ever starts, nothing is reported as never awaited or never retrieved, nothing is warned about.
"""

import textwrap

import pytest

from effort import SHORT
from in_subprocess import check_script

ROUNDS = 4 if SHORT else 40

COMMON = """
import signal
from contract_tools import is_closed

ROUNDS = int(sys.argv[1])
FRONTS = {
    "gather_with_concurrency": lambda make: impl.gather_with_concurrency(3, *[make(i) for i in range(12)]),
    "gather": lambda make: impl.gather(*[make(i) for i in range(12)], limit=3),
    "gather, cancel_on_error": lambda make: impl.gather(*[make(i) for i in range(12)], limit=3, cancel_on_error=True),
    "gather, by a semaphore": lambda make: impl.gather(*[make(i) for i in range(12)], limit=asyncio.Semaphore(3)),
    "gather, by a semaphore of ours": lambda make: impl.gather(*[make(i) for i in range(12)], limit=impl.Semaphore(3)),
    "run_all": lambda make: impl.run_all([lambda i=i: make(i) for i in range(12)], limit=3),
    "run_all, go on": lambda make: impl.run_all([lambda i=i: make(i) for i in range(12)], limit=3, cancel_on_error=False),
    "constrained_execution": lambda make: impl.constrained_execution([lambda i=i: make(i) for i in range(12)], 3),
}


def check(end, expected, allowed, cleanups=(0, 1)):
    for name, front in FRONTS.items():
        for cleanup in cleanups:
            for round in range(ROUNDS):
                impl._set_full_turns(round % 2)
                started, ended, coros = [], [], []

                async def item(index):
                    started.append(index)
                    if index == 1:
                        await end()
                        return
                    try:
                        await asyncio.sleep(3600)
                    finally:
                        if cleanup:
                            await asyncio.sleep(0)
                        ended.append(index)

                def make(index):
                    coros.append(item(index))
                    return coros[-1]

                async def main():
                    await front(make)

                try:
                    asyncio.run(main())
                except expected as error:
                    assert type(error) is expected, error
                else:
                    raise AssertionError("nothing was raised")
                assert set(started) <= set(allowed), (name, started)
                assert sorted(ended + [1]) == sorted(started), (name, started, ended)
                assert all(map(is_closed, coros)), name
            gc.collect()
    print("ok")
"""

SCENARIOS = {
    "Ctrl-C in an item": (
        """
        async def end():
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(3600)
        check(end, KeyboardInterrupt, [0, 1, 2])
        """
    ),
    "Ctrl-C between steps": (
        """
        async def end():
            asyncio.get_running_loop().call_later(0.001, signal.raise_signal, signal.SIGINT)
            await asyncio.sleep(3600)
        check(end, KeyboardInterrupt, [0, 1, 2], cleanups=[1])
        """
    ),
    "KeyboardInterrupt from an item's first step": (
        """
        async def end():
            raise KeyboardInterrupt
        check(end, KeyboardInterrupt, [0, 1, 2])
        """
    ),
    "KeyboardInterrupt from an item's later step": (
        """
        async def end():
            await asyncio.sleep(0)
            raise KeyboardInterrupt
        check(end, KeyboardInterrupt, [0, 1, 2])
        """
    ),
    "SystemExit from an item's first step": (
        """
        async def end():
            sys.exit(3)
        check(end, SystemExit, [0, 1, 2])
        """
    ),
    "SystemExit from an item's later step": (
        """
        async def end():
            await asyncio.sleep(0)
            sys.exit(3)
        check(end, SystemExit, [0, 1, 2])
        """
    ),
    "an error": (
        # The slot of the failed item is taken at once, by item 3, unless errors cancel the rest.
        """
        async def end():
            await asyncio.sleep(0)
            raise ValueError("item")
        check(end, ValueError, [0, 1, 2, 3])
        """
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_queued_item_starts_and_nothing_is_reported_after(impl, scenario):
    check_script(impl, COMMON + textwrap.dedent(SCENARIOS[scenario]), arguments=[str(ROUNDS)])


def test_an_interrupt_out_of_an_item_that_another_item_started_is_not_reported(impl):
    check_script(
        impl,
        """
        for error in (KeyboardInterrupt, SystemExit):
            for round in range(int(sys.argv[1])):
                ended = []

                async def first():
                    await asyncio.sleep(0)
                    ended.append(asyncio.current_task())

                async def second():
                    raise error

                async def third():
                    ended.append("third started")

                async def main():
                    await impl.gather_with_concurrency(1, first(), second(), third())

                try:
                    asyncio.run(main())
                except error:
                    pass
                # The interrupt leaves through the step of the first item's Task; nobody is told that nobody looked.
                assert len(ended) == 1 and ended[0].done(), ended
                ended.clear()
                gc.collect()
        print("ok")
        """,
        arguments=[str(ROUNDS)],
    )


def test_a_loop_that_never_runs_again_leaves_no_coroutine_unclosed(impl):
    """An interrupt without any teardown: what is queued is closed when the gathering goes away."""
    check_script(
        impl,
        """
        closed = []

        class Item:
            '''A coroutine, by its methods, that tells when it is closed.'''
            def send(self, value):
                raise AssertionError("a queued item started")
            throw = send
            def close(self):
                closed.append(1)
            def __await__(self):
                return self

        async def interrupts():
            raise SystemExit

        def go():
            loop = asyncio.new_event_loop()
            task = loop.create_task(impl.gather_with_concurrency(1, interrupts(), *[Item() for _ in range(5)]))
            try:
                loop.run_until_complete(task)
            except SystemExit:
                pass
            task._log_destroy_pending = False
            loop.close()
            del task  # which the traceback of the interrupt would hold, by this frame

        go()
        gc.collect()
        assert len(closed) == 5, closed
        print("ok")
        """,
    )
