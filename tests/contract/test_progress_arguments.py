"""What progress= may be: a callable, a bar, True for a bar of tqdm; what it may not be, and what is said then."""

import contextlib
import functools
import gc
import inspect
import io
import sys
import warnings

import pytest

from progress_tools import CALLS, Bar, Told, after, all_of, fails_at, functions_of, in_place_of_tqdm, run

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
def bars(monkeypatch):
    """The bars that are made."""
    return in_place_of_tqdm(monkeypatch)


@every_call
def test_a_bar_of_tqdm_is_shown_on_standard_error(impl, call):
    pytest.importorskip("tqdm")
    out, err = io.StringIO(), io.StringIO()

    async def main():
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what tqdm.auto says of notebooks
            await call(impl, [2, 5, 30], progress=True)

    run(main)
    assert out.getvalue() == ""
    assert err.getvalue().endswith("\n")  # it is closed
    assert ("3it" if "generator" in [name for name in CALLS if CALLS[name] is call][0] else "3/3") in err.getvalue()


def test_a_bar_of_tqdm_of_the_users_is_updated_and_not_closed(impl):
    tqdm = pytest.importorskip("tqdm").tqdm

    async def main():
        with tqdm(total=3, file=io.StringIO()) as bar:
            assert await impl.amap(after, [2, 5, 30], progress=bar) == [2, 5, 30]
            assert bar.n == 3
            assert not bar.disable
            await impl.gather(after(2), progress=bar.update)
            assert bar.n == 4

    run(main)


def test_without_tqdm_an_import_error_says_what_to_install(impl, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    says = pytest.raises(ImportError, match=r"pip install 'gatedcoro\[progress\]'")

    async def main():
        with says:
            impl.amap(after, [2], progress=True)
        coros = [after(2), after(3)]
        with says:
            impl.gather(*coros, progress=True)
        assert [inspect.getcoroutinestate(coro) for coro in coros] == [inspect.CORO_CLOSED] * 2
        call = impl.run_all(refused(), progress=True)
        with says:
            await call

    def refused():
        raise AssertionError("nothing is drawn")
        yield

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main)
        gc.collect()


# Other people's, and what is wrong


def test_a_progress_of_rich_is_refused_with_what_to_pass_and_that_works(impl):
    progress = pytest.importorskip("rich.progress")
    console = pytest.importorskip("rich.console").Console(file=io.StringIO())

    class Own(progress.Progress):
        pass

    async def main():
        for kind in progress.Progress, Own:
            with pytest.raises(TypeError, match=r"pass `lambda n: progress\.advance\(task, n\)`"):
                impl.amap(after, [2], progress=kind(console=console))
        with progress.Progress(console=console, auto_refresh=False) as bar:
            task = bar.add_task("items", total=3)
            assert await impl.amap(after, [2, 5, 30], progress=lambda n: bar.advance(task, n)) == [2, 5, 30]
            assert bar.tasks[0].completed == 3

    run(main)


async def tells(number):
    """A coroutine function."""


class WithUpdate:
    def update(self, number):
        """A method."""


class NotCallable:
    update = 5


class UpdatesLater:
    async def update(self, number):
        """A coroutine function."""


class TellsLater:
    async def __call__(self, number):
        """Likewise."""


WRONG = {
    "a number": (3, "progress must be a callable, an object with an update.n., True for a bar, or None, not 3 .int."),
    "zero": (0, "progress must be a callable.*not 0 .int."),
    "one": (1, "progress must be a callable.*not 1 .int."),
    "a string": ("x", "progress must be a callable.*not 'x' .str."),
    "an object without update": (object(), "progress must be a callable.*.object."),
    "an object whose update is no method": (NotCallable(), "progress must be a callable.*.NotCallable."),
    "a coroutine function": (tells, "progress must be a plain function, not the coroutine function <function tells"),
    "a partial of one": (functools.partial(tells), "progress must be a plain function, not the coroutine function"),
    "an object whose update is one": (
        UpdatesLater(),
        "progress must be a plain function, not the coroutine function <bound method",
    ),
    "an object that is one when called": (
        TellsLater(),
        "progress must be a plain function, not the coroutine function <.*TellsLater",
    ),
    "a class of bars": (WithUpdate, "progress must be a bar, not the class WithUpdate: pass an instance, or True"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_told_is_a_type_error(impl, wrong, message):
    async def main():
        with pytest.raises(TypeError, match=message):
            impl.amap(after, [2], progress=wrong)
        coros = [after(2), after(3)]
        with pytest.raises(TypeError, match=message):
            impl.gather(*coros, progress=wrong)
        assert [inspect.getcoroutinestate(coro) for coro in coros] == [inspect.CORO_CLOSED] * 2
        with pytest.raises(TypeError, match=message):
            impl.gather(progress=wrong)
        call = impl.run_all(functions_of([2]), progress=wrong)
        with pytest.raises(TypeError, match=message):
            await call

    run(main)


@every_call
@pytest.mark.parametrize("nobody", [None, False])
def test_none_and_false_tell_nobody(impl, bars, call, nobody):
    async def main():
        assert await call(impl, [2, 5], progress=nobody) == [2, 5]
        assert not bars

    run(main)


def test_what_is_callable_and_has_update_is_called(impl):
    class Both(Told):
        def update(self, number):
            raise AssertionError("it is callable")

    async def main():
        both = Both()
        assert await impl.run_all(functions_of([2, 5]), progress=both) == [2, 5]
        assert both == [(5, 2)]

    run(main)


def test_update_is_looked_up_when_the_call_begins(impl):
    async def main():
        bar = Bar()
        first, second = Told(), Told()
        bar.update = first
        stream = impl.amap(after, [2, 30], progress=bar)
        bar.update = second
        assert await anext(stream) == 2
        bar.update = fails_at(1, AssertionError("later"))
        assert await all_of(stream) == [30]
        assert not first
        assert second == [(12, 1), (30, 1)]

    run(main)


def test_a_stream_that_was_never_used_opens_no_bar(impl, bars):
    async def main():
        with pytest.warns(RuntimeWarning, match="never"):
            impl.amap(after, [2], progress=True)
        impl.run_all([], progress=True).close()
        assert not bars

    run(main)
