"""`n` is None or an integer that lets something run; it is checked when the coroutine is first stepped."""

import asyncio

import pytest

from contract_tools import is_closed, run


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


async def never():
    raise AssertionError("an item was started")


def refused(impl, n, count=3):
    """Return what is raised because of *n*, having seen that every item was closed and none was started."""

    async def main():
        items = [never() for _ in range(count)]
        call = impl.gather_with_concurrency(n, *items)
        assert not any(map(is_closed, items)), "nothing happens before the first step"
        with pytest.raises(Exception) as caught:
            await call
        assert all(map(is_closed, items))
        return caught.value

    return run(main)


def test_zero_with_items_is_a_value_error_that_says_so(impl):
    error = refused(impl, 0)
    assert type(error) is ValueError
    assert "0" in str(error)
    assert "3" in str(error)


@pytest.mark.parametrize("n", [-1, -(2**80), Index(-1)])
@pytest.mark.parametrize("count", [0, 3])
def test_a_negative_n_is_a_value_error(impl, n, count):
    assert type(refused(impl, n, count)) is ValueError


@pytest.mark.parametrize("n", [2.5, 1.0, float("inf"), float("nan"), "3", b"3", (), 1j, object(), asyncio.sleep, int])
@pytest.mark.parametrize("count", [0, 3])
def test_what_is_no_integer_is_a_type_error_that_names_its_type(impl, n, count):
    error = refused(impl, n, count)
    assert type(error) is TypeError
    assert type(n).__name__ in str(error)


def test_a_semaphore_is_no_n(impl):
    assert type(refused(impl, asyncio.Semaphore(1))) is TypeError


def test_what_index_raises_is_raised(impl):
    error = LookupError("from __index__")
    assert refused(impl, Index(error)) is error


def test_whatever_has_index_is_an_integer(impl):
    async def main():
        assert await impl.gather_with_concurrency(Index(2), asyncio.sleep(0, "slept")) == ["slept"]
        assert await impl.gather_with_concurrency(Index(2**80), asyncio.sleep(0, "slept")) == ["slept"]

    run(main)


def test_index_is_asked_once_and_not_before_the_first_step(impl):
    asked = []

    class Asked:
        def __index__(self):
            asked.append(1)
            return 1

    async def main():
        call = impl.gather_with_concurrency(Asked(), asyncio.sleep(0), asyncio.sleep(0))
        assert asked == []
        await call
        assert asked == [1]

    run(main)


def test_without_a_running_loop_it_is_a_runtime_error_and_the_items_are_closed(impl):
    items = [never(), never()]
    call = impl.gather_with_concurrency(1, *items)
    with pytest.raises(RuntimeError, match="no running event loop"):
        call.send(None)
    assert all(map(is_closed, items))
