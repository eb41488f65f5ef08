"""The extension in interpreters with a GIL of their own: each has its own types and state."""

import sys

import pytest

from in_subprocess import check_script

if sys.version_info < (3, 13):
    pytest.skip("the module _interpreters is new in 3.13", allow_module_level=True)

SCRIPT = """
    import threading
    import _interpreters

    work = '''if True:
        import asyncio, gatedcoro
        assert gatedcoro.implementation == "c"

        async def item(value):
            await asyncio.sleep(0)
            return value

        async def main():
            for n in (1, 3, None):
                assert await gatedcoro.gather_with_concurrency(n, *map(item, range(50))) == list(range(50))
            assert await gatedcoro.run_all([lambda: item(1)] * 9, limit=asyncio.Semaphore(2)) == [1] * 9

        for _ in range(5):
            asyncio.run(main())
    '''
    failures = []

    def run():
        interpreter = _interpreters.create("isolated")
        failures.append(_interpreters.exec(interpreter, work))
        _interpreters.destroy(interpreter)

    for _ in range(2):
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == [None] * 6, failures
    print("ok")
"""


def test_several_interpreters_run_gatherings_at_the_same_time(impl):
    if impl.__name__ != "gatedcoro._core":
        pytest.skip("the reference has no state of its own")
    check_script(impl, SCRIPT)
