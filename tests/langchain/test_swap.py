"""install(), uninstall(), installed() and swapped(): what they replace, and what they leave alone."""

import asyncio
import dataclasses
import functools
import gc
import importlib
import importlib.util
import inspect
import pickle
import sys
import threading
import types
import typing
import warnings
from collections.abc import Coroutine
from unittest import mock

import pytest

import gatedcoro
import gatedcoro.langchain
from effort import SHORT
from gatedcoro.langchain import _planted, _swap, install, installed, swapped, uninstall
from langchain_stand_in import BASE, RUNNABLE, UTILS, known_helpers, write_langchain, write_langgraph, write_module

HOME = "langchain_core.runnables.utils"
NAMES = ("gated_coro", "gather_with_concurrency")


def is_langchain(name):
    return name.partition(".")[0] in ("langchain_core", "langgraph")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder on sys.path with the stand-in for langchain_core, nothing of which is imported yet."""
    modules_before = {name: module for name, module in sys.modules.items() if is_langchain(name)}
    for name in modules_before:
        del sys.modules[name]
    for table, helpers in known_helpers(tmp_path).items():
        monkeypatch.setattr(_swap, table, helpers)
    write_langchain(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uninstall()
    assert not installed()
    for name in [name for name in sys.modules if is_langchain(name)]:
        del sys.modules[name]
    sys.modules.update(modules_before)


@pytest.fixture
def new_module(monkeypatch):
    def new_module(name, **namespace):
        module = types.ModuleType(name)
        vars(module).update(namespace)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return new_module


def utils():
    return importlib.import_module(HOME)


def base():
    return importlib.import_module("langchain_core.runnables.base")


def helpers_in_utils():
    return [vars(utils())[name] for name in NAMES]


PLANTED = [_planted.gated_coro, _planted.gather_with_concurrency]


# --- What is replaced ------------------------------------------------------------------------------------------


def test_importing_the_package_imports_nothing_of_langchain():
    assert HOME not in sys.modules


def test_install_imports_langchain_itself():
    install()
    assert helpers_in_utils() == PLANTED


def test_every_global_that_holds_a_helper_is_replaced_under_any_name(new_module):
    user = new_module("user", gate=utils().gated_coro, other=5)
    base()
    install()
    assert helpers_in_utils() == PLANTED
    assert [base().gated_coro, base().gather_by_another_name] == PLANTED
    assert user.gate is _planted.gated_coro
    assert user.other == 5


def test_a_module_imported_later_gets_what_is_planted_and_loses_it_again():
    [*originals] = helpers_in_utils()
    install()
    assert [base().gated_coro, base().gather_by_another_name] == PLANTED
    uninstall()
    assert [base().gated_coro, base().gather_by_another_name] == originals


def test_uninstall_gives_everybody_the_very_object_back(new_module):
    [*originals] = helpers_in_utils()
    user = new_module("user", gate=utils().gated_coro)
    install()
    uninstall()
    assert all(now is then for now, then in zip(helpers_in_utils(), originals, strict=True))
    assert user.gate is originals[0]


def test_a_module_that_imported_gatedcoros_functions_on_purpose_keeps_them(new_module):
    user = new_module("user", gather_with_concurrency=gatedcoro.gather_with_concurrency, gated=gatedcoro.gated_coro)
    install()
    uninstall()
    assert user.gather_with_concurrency is gatedcoro.gather_with_concurrency
    assert user.gated is gatedcoro.gated_coro


def test_gatedcoros_own_modules_are_never_touched():
    install()
    uninstall()
    assert [_planted.gated_coro, _planted.gather_with_concurrency] == PLANTED


def test_installing_twice_is_installing_once():
    [*originals] = helpers_in_utils()
    install()
    install()
    assert helpers_in_utils() == PLANTED
    uninstall()
    assert helpers_in_utils() == originals
    uninstall()
    assert helpers_in_utils() == originals


def test_installed_tells():
    assert not installed()
    install()
    assert installed()
    uninstall()
    assert not installed()


def test_a_second_install_finds_a_helper_that_somebody_fetched_in_another_way(new_module):
    original = utils().gated_coro
    install()
    user = new_module("user", gate=original)
    del original
    install()
    assert user.gate is _planted.gated_coro


def test_after_a_reload_of_langchain_install_plants_again_and_uninstall_restores_the_new_functions():
    install()
    importlib.reload(utils())
    [*reloaded] = helpers_in_utils()
    assert reloaded != PLANTED
    install()
    assert helpers_in_utils() == PLANTED
    uninstall()
    assert helpers_in_utils() == reloaded


def test_a_module_that_left_sys_modules_is_restored_as_well(new_module, monkeypatch):
    [original, _] = helpers_in_utils()
    user = new_module("user", gate=utils().gated_coro)
    install()
    monkeypatch.delitem(sys.modules, "user")
    uninstall()
    assert user.gate is original


def test_without_langchain_the_error_says_what_to_install(monkeypatch):
    # Undone before the fixture puts the modules back that were there.
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "langchain_core", None)
        with pytest.raises(ImportError, match="pip install langchain-core"):
            install()
    assert not installed()


def test_an_import_error_inside_langchain_is_not_mistaken_for_its_absence(folder):
    write_module(folder, HOME, "import a_module_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        install()


# --- Modules that are not to be disturbed ----------------------------------------------------------------------


def test_no_attribute_of_a_lazy_module_is_touched(monkeypatch):
    class Lazy(types.ModuleType):
        def __getattribute__(self, name):
            raise AssertionError(f"{name} was asked for")

    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    install()
    uninstall()


def test_a_module_of_importlibs_lazy_loader_stays_unloaded(folder, monkeypatch):
    (folder / "slow.py").write_text("raise AssertionError('loaded')")
    spec = importlib.util.find_spec("slow")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "slow", module)
    spec.loader.exec_module(module)
    install()
    uninstall()


@pytest.mark.parametrize(
    "entry",
    [None, 5, object(), int, type("Slotted", (), {"__slots__": ()})()],
    ids=["None", "a number", "an object", "a class", "slots"],
)
def test_what_is_no_module_may_stand_in_sys_modules(monkeypatch, entry):
    monkeypatch.setitem(sys.modules, "strange", entry)
    install()
    uninstall()


# --- Somebody else's replacements ------------------------------------------------------------------------------


def test_a_name_that_somebody_else_replaced_after_us_stays_with_a_warning(monkeypatch):
    base()
    install()
    theirs = object()
    base().gated_coro = theirs
    with pytest.warns(
        RuntimeWarning, match=r"langchain_core\.runnables\.base\.gated_coro was replaced after"
    ) as caught:
        uninstall()
    assert base().gated_coro is theirs
    assert [warning.filename for warning in caught] == [__file__]
    assert not installed()


def test_a_name_that_somebody_put_back_or_deleted_needs_no_warning():
    original = [utils().gated_coro]
    base()
    install()
    base().gated_coro = original[0]
    del base().gather_by_another_name
    uninstall()
    assert base().gated_coro is original[0]


def test_what_stands_behind_a_patch_goes_on_working_after_uninstall():
    install()
    patch = mock.patch(f"{HOME}.gather_with_concurrency")
    patch.start()
    with pytest.warns(RuntimeWarning, match="replaced after"):
        uninstall()
    patch.stop()

    async def item():
        return 5

    assert asyncio.run(utils().gather_with_concurrency(1, item())) == [5]
    install()


@pytest.mark.parametrize("again", [uninstall, lambda: install() or uninstall(), lambda: swapped().__enter__()])
def test_what_stands_behind_a_patch_can_still_be_given_back(again):
    originals = [*helpers_in_utils(), method()]
    install()
    patches = [mock.patch(f"{HOME}.gather_with_concurrency"), mock.patch.object(base().Runnable, "abatch_as_completed")]
    for patch in patches:
        patch.start()
    with pytest.warns(RuntimeWarning, match="replaced after"):
        uninstall()
    assert not installed()
    for patch in patches:
        patch.stop()
    assert installed()
    again()
    uninstall()
    assert not installed()
    assert all(now is then for now, then in zip([*helpers_in_utils(), method()], originals, strict=True))


# --- What the planted functions look like ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_planted_functions_have_langchains_names_signatures_and_annotations(name):
    original = vars(utils())[name]
    planted = vars(_planted)[name]
    assert planted.__name__ == planted.__qualname__ == name
    assert inspect.signature(planted, eval_str=True) == inspect.signature(original, eval_str=True)
    assert typing.get_type_hints(planted) == typing.get_type_hints(original)


@pytest.mark.parametrize("function", [*PLANTED, _planted.gated], ids=lambda function: function.__name__)
def test_planted_functions_are_coroutine_functions_and_pickle_by_name(function):
    assert inspect.iscoroutinefunction(function)
    assert pickle.loads(pickle.dumps(function)) is function


def test_mock_patch_makes_an_async_mock():
    install()
    with mock.patch(f"{HOME}.gated_coro") as patched:
        assert isinstance(patched, mock.AsyncMock)


# --- What they accept ------------------------------------------------------------------------------------------


class Watch:
    """Makes items, and counts how many run at once."""

    def __init__(self):
        self.running = self.most = self.started = self.ended = 0

    async def item(self, value):
        self.running += 1
        self.started += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.001)
            return value
        finally:
            self.running -= 1
            self.ended += 1

    async def failing(self):
        self.started += 1
        raise LookupError("the first one")


@pytest.mark.parametrize(("n", "most"), [(2, 2), (2.0, 2), (True, 1), (None, 6), (100, 6), (float("inf"), 6)])
def test_a_whole_float_counts_as_the_integer_it_is(n, most):
    watch = Watch()
    assert asyncio.run(_planted.gather_with_concurrency(n, *map(watch.item, range(6)))) == [*range(6)]
    assert watch.most == most


@pytest.mark.parametrize("n", [2.5, float("-inf"), float("nan"), "3", [], (), {}, b"3"], ids=repr)
def test_what_is_no_integer_is_a_type_error_that_names_the_option(n):
    watch = Watch()
    with pytest.raises(TypeError, match="max_concurrency must be an integer or None, not"):
        asyncio.run(_planted.gather_with_concurrency(n, watch.item(1), watch.item(2)))
    gc.collect()  # the items are closed: nothing warns
    assert not watch.started


@pytest.mark.parametrize("n", [0, 0.0, False, -1])
def test_a_limit_under_which_nothing_runs_is_a_value_error_that_names_the_option(n):
    with pytest.raises(ValueError, match="max_concurrency must be at least 1, or None"):
        asyncio.run(_planted.gather_with_concurrency(n, Watch().item(1)))
    gc.collect()


def test_no_items_need_no_limit():
    assert asyncio.run(_planted.gather_with_concurrency(0)) == []
    assert asyncio.run(_planted.gather_with_concurrency(None)) == []


def test_parameters_may_be_given_by_name():
    async def main():
        assert await _planted.gather_with_concurrency(n=3) == []
        return await _planted.gated_coro(coro=Watch().item(1), semaphore=asyncio.Semaphore(1))

    assert asyncio.run(main()) == 1


# --- cancel_on_error -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3, None])
def test_with_cancel_on_error_the_first_error_ends_everything_before_it_is_raised(limit):
    watch = Watch()

    async def main():
        items = [watch.item(0), watch.failing(), *map(watch.item, range(48))]
        with pytest.raises(LookupError, match="the first one") as caught:
            await utils().gather_with_concurrency(limit, *items)
        assert watch.running == 0
        started = watch.started
        await asyncio.sleep(0.02)
        assert watch.started == started
        return caught.value, started

    install(cancel_on_error=True)
    error, started = asyncio.run(main())
    assert type(error) is LookupError
    if limit:
        assert started <= limit + 1
    gc.collect()


def test_without_it_the_rest_runs_on_as_in_langchain():
    watch = Watch()

    async def main():
        with pytest.raises(LookupError):
            await utils().gather_with_concurrency(3, watch.failing(), *map(watch.item, range(20)))
        while watch.ended < 20:
            await asyncio.sleep(0.001)

    install()
    asyncio.run(main())


def test_the_options_of_the_last_install_hold():
    install(cancel_on_error=True)
    assert _planted.cancel_on_error
    install()
    assert not _planted.cancel_on_error
    install(cancel_on_error=True)
    uninstall()
    assert not _planted.cancel_on_error


def test_with_cancel_on_error_results_come_in_order_and_a_cancelled_caller_waits_for_its_items():
    watch = Watch()

    async def main():
        assert await utils().gather_with_concurrency(2, *map(watch.item, range(5))) == [*range(5)]
        task = asyncio.ensure_future(utils().gather_with_concurrency(2, *map(watch.item, range(5))))
        while watch.started < 6:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watch.running == 0

    install(cancel_on_error=True)
    asyncio.run(main())
    gc.collect()


def test_with_cancel_on_error_a_closed_call_cancels_its_items():
    watch = Watch()

    async def main():
        call = utils().gather_with_concurrency(2, *map(watch.item, range(5)))
        call.send(None)
        while watch.started < 2:
            await asyncio.sleep(0)
        call.close()
        while watch.running:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert watch.started == 2

    install(cancel_on_error=True)
    asyncio.run(main())
    gc.collect()


# --- swapped ---------------------------------------------------------------------------------------------------


def test_swapped_installs_for_the_block_only():
    [*originals] = helpers_in_utils()
    with swapped(cancel_on_error=True):
        assert helpers_in_utils() == PLANTED
        assert installed() and _planted.cancel_on_error
    assert helpers_in_utils() == originals
    assert not installed() and not _planted.cancel_on_error


def test_swapped_ends_with_an_error_too():
    with pytest.raises(LookupError), swapped():
        raise LookupError
    assert not installed()


def test_nested_blocks_return_to_what_was_before_each():
    install(cancel_on_error=True)
    with swapped():
        assert not _planted.cancel_on_error
        with swapped(cancel_on_error=True):
            assert _planted.cancel_on_error
        assert installed() and not _planted.cancel_on_error
    assert installed() and _planted.cancel_on_error


def test_what_is_installed_or_uninstalled_inside_the_block_is_undone():
    with swapped():
        install(cancel_on_error=True)
    assert not installed()
    install()
    with swapped():
        uninstall()
        assert not installed()
    assert installed()


def test_overlapping_blocks_leave_the_swap_until_the_last_one_ends():
    first, second = swapped(), swapped(cancel_on_error=True)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert installed() and _planted.cancel_on_error
    second.__exit__(None, None, None)
    assert not installed()


def test_a_block_may_end_after_langchain_was_thrown_out_of_sys_modules(monkeypatch):
    install()
    with swapped():
        for name in [name for name in sys.modules if is_langchain(name)]:
            del sys.modules[name]
    install()
    assert helpers_in_utils() == PLANTED


@pytest.mark.parametrize("numbers", [(1, 3, 5, 7) * 2, range(8)], ids=["blocks", "blocks and calls"])
def test_many_threads_may_install_and_uninstall_at_once(numbers):
    [*originals] = helpers_in_utils()
    base()
    errors = []
    start = threading.Barrier(8)

    def work(number):
        try:
            start.wait()
            for _ in range(5 if SHORT else 10):
                if number % 2:
                    with swapped(cancel_on_error=number % 4 == 1, as_completed=number % 8 < 4):
                        assert installed() or 0 in numbers  # whose thread may have uninstalled it
                else:
                    install(as_completed=number % 4 == 0)
                    uninstall()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    if 0 in numbers:  # the block that is left last returns to what was installed before it
        uninstall()
    assert not installed()
    assert helpers_in_utils() == originals
    assert [base().gated_coro, base().gather_by_another_name] == originals
    assert method() is not _planted.abatch_as_completed


def test_threads_that_call_install_and_uninstall_directly_end_in_one_of_the_two_states():
    [*originals] = helpers_in_utils()
    threads = [threading.Thread(target=function) for function in (install, uninstall) * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert helpers_in_utils() == (PLANTED if installed() else originals)
    assert (method() is _planted.abatch_as_completed) == installed()


# --- Helpers that gatedcoro does not know ----------------------------------------------------------------------


def changed(old, new):
    assert old in UTILS
    return UTILS.replace(old, new)


def test_docstring_and_annotations_are_no_difference(folder):
    write_langchain(folder, changed("n: int | None, *coros: Coroutine[Any, Any, Any]) -> list[Any]", "n, *coros)"))
    install()
    assert installed()


@pytest.mark.parametrize(
    ("source", "difference"),
    [
        (
            changed("asyncio.Semaphore(n)", "asyncio.Semaphore(n * 2)"),
            r"body now has `slots = asyncio.Semaphore\(n \* 2\)`",
        ),
        (changed("        slots = ", "        print(n)\n        slots = "), r"body now has `print\(n\)`"),
        (changed("for coro in coros])", "for coro in coros])\n        return []"), r"body goes on with `return \[\]`"),
        (changed("        slots = asyncio.Semaphore(n)\n", ""), "body now has `return await asyncio.gather"),
    ],
)
def test_a_body_that_changed_is_named_and_replaced(folder, source, difference):
    write_langchain(folder, source)
    with pytest.warns(
        RuntimeWarning, match=f"gather_with_concurrency is not the function.*replaced all the same: its {difference}"
    ):
        install()
    assert helpers_in_utils() == PLANTED


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("n: int | None,", "n: int | None, delay,", r"its parameters are \(n, delay, \*coros\), not \(n, \*coros\)"),
        ("gather_with_concurrency(n:", "gather_with_concurrency(limit:", r"\(limit, \*coros\), not \(n, \*coros\)"),
        ("Any]) -> list[Any]", "Any], timeout=None) -> list[Any]", r"\(n, \*coros, timeout\), not"),
    ],
)
def test_a_helper_that_is_called_in_another_way_is_left_alone(folder, old, new, difference):
    write_langchain(folder, changed(old, new))
    original = [utils().gather_with_concurrency]
    with pytest.warns(
        RuntimeWarning, match=f"gather_with_concurrency is called in another way and is left alone.*{difference}"
    ):
        install()
    assert helpers_in_utils() == [_planted.gated_coro, *original]


def test_a_helper_that_is_not_async_any_more_is_left_alone(folder):
    write_langchain(folder, UTILS + "\n    def gated_coro(semaphore, coro): return coro\n")
    with pytest.warns(RuntimeWarning, match="gated_coro is called in another way.*not an async function"):
        install()
    assert utils().gated_coro is not _planted.gated_coro


def test_a_helper_that_is_gone_is_named(folder):
    write_langchain(folder, UTILS + "\n    del gated_coro\n", RUNNABLE)
    with pytest.warns(RuntimeWarning, match=r"langchain_core\.runnables\.utils has no gated_coro"):
        install()
    assert utils().gather_with_concurrency is _planted.gather_with_concurrency


def test_a_decorated_helper_is_seen_through_its_wrapper(folder):
    decorated = """
    import functools

    def traced(function):
        @functools.wraps(function)
        async def wrapper(semaphore, coro):
            print("traced")
            return await function(semaphore, coro)
        return wrapper

    gated_coro = traced(gated_coro)
    """
    write_langchain(folder, UTILS + decorated)
    with pytest.warns(
        RuntimeWarning, match=r"gated_coro is not the function.*decorated with `functools.wraps\(function\)`"
    ):
        install()


def test_a_wrapper_that_passes_for_the_function_is_seen(folder):
    proxied = """
    class FunctionWrapper:
        def __init__(self, wrapped):
            self.wrapped = wrapped
        def __getattr__(self, name):
            return getattr(self.wrapped, name)
        __class__ = property(lambda self: type(self.wrapped))
        def __call__(self, *args):
            return self.wrapped(*args)

    gated_coro = FunctionWrapper(gated_coro)
    """
    write_langchain(folder, UTILS + proxied)
    with pytest.warns(RuntimeWarning, match=r"gated_coro is not the function.*it is wrapped in a FunctionWrapper"):
        install()
    assert helpers_in_utils() == PLANTED


def test_source_that_cannot_be_read_has_its_own_message(folder):
    module = utils()
    (folder / "langchain_core/runnables/utils.py").unlink()
    with pytest.warns(RuntimeWarning) as caught:
        install()
    assert ["source cannot be read" in str(warning.message) for warning in caught] == [True, True]
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert module.gated_coro is _planted.gated_coro


def test_if_warnings_are_errors_nothing_is_installed(folder):
    write_langchain(folder, changed("asyncio.Semaphore(n)", "asyncio.Semaphore(n * 2)"))
    with pytest.raises(RuntimeWarning):
        install()
    assert not installed()


def test_swapped_blames_the_with_statement(folder):
    write_langchain(folder, changed("asyncio.Semaphore(n)", "asyncio.Semaphore(n * 2)"))
    with pytest.warns(RuntimeWarning) as caught, swapped():
        pass
    assert [warning.filename for warning in caught] == [__file__]


# --- The method ------------------------------------------------------------------------------------------------


def method():
    return vars(base().Runnable)["abatch_as_completed"]


def test_the_method_is_replaced_in_its_class_and_given_back():
    original = [method()]
    install()
    assert method() is base().Runnable.abatch_as_completed is _planted.abatch_as_completed
    assert installed()
    uninstall()
    assert method() is original[0]


def test_as_completed_false_leaves_the_method_alone_also_by_a_later_call():
    original = [method()]
    install(as_completed=False)
    assert method() is original[0]
    assert helpers_in_utils() == PLANTED
    install()
    assert method() is _planted.abatch_as_completed
    with swapped(as_completed=False):
        assert method() is original[0]
        with swapped():
            assert method() is _planted.abatch_as_completed
        assert method() is original[0]
    assert method() is _planted.abatch_as_completed
    install(as_completed=False)
    assert method() is original[0]
    assert helpers_in_utils() == PLANTED


def test_a_class_that_overrides_the_method_keeps_its_own():
    class Own(base().Runnable):
        async def abatch_as_completed(self, inputs, config=None, *, return_exceptions=False, **kwargs):
            yield 0, "its own"

    class Calling(base().Runnable):
        async def abatch_as_completed(self, inputs, config=None, *, return_exceptions=False, **kwargs):
            raise AssertionError(super().abatch_as_completed.__func__)
            yield

    class Inheriting(base().Runnable):
        pass

    class WithAnAlias(base().Runnable):
        by_another_name = base().Runnable.abatch_as_completed

    own, alias = vars(Own)["abatch_as_completed"], WithAnAlias.by_another_name
    install()
    assert vars(Own)["abatch_as_completed"] is own
    assert WithAnAlias.by_another_name is alias
    assert Inheriting.abatch_as_completed is _planted.abatch_as_completed
    with pytest.raises(AssertionError, match=r"_planted|abatch_as_completed") as caught:
        asyncio.run(anext(Calling().abatch_as_completed([1])))
    assert caught.value.args == (_planted.abatch_as_completed,)
    assert "abatch_as_completed" not in vars(Inheriting)
    uninstall()
    assert vars(Own)["abatch_as_completed"] is own


def test_the_planted_method_is_a_generator_function_of_that_name_and_pickles_by_it():
    planted = _planted.abatch_as_completed
    assert planted.__name__ == planted.__qualname__ == "abatch_as_completed"
    assert typing.get_type_hints(planted).keys() == planted.__annotations__.keys()
    assert inspect.isasyncgenfunction(planted)
    assert pickle.loads(pickle.dumps(planted)) is planted


def test_a_method_that_somebody_else_replaced_after_us_stays_with_a_warning():
    def theirs(self):
        pass

    install()
    base().Runnable.abatch_as_completed = theirs
    with pytest.warns(RuntimeWarning, match=r"base\.Runnable\.abatch_as_completed was replaced after") as caught:
        uninstall()
    assert method() is theirs
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("covers", ["their own", "nothing"])
def test_what_is_there_again_after_uninstall_can_still_be_given_back(covers, monkeypatch):
    original = [method()]
    install()
    with monkeypatch.context() as patch:
        if covers == "nothing":
            patch.delattr(base().Runnable, "abatch_as_completed")
        else:
            patch.setattr(base().Runnable, "abatch_as_completed", original[0])
        uninstall()
        assert not installed()
    assert method() is _planted.abatch_as_completed
    assert installed()
    uninstall()
    assert method() is original[0]


def test_a_reload_between_two_rounds_counts():
    install()
    importlib.reload(utils())
    reloaded = helpers_in_utils()
    with pytest.warns(RuntimeWarning, match="was replaced after"):
        uninstall()
    install()
    assert helpers_in_utils() == PLANTED
    uninstall()
    assert helpers_in_utils() == reloaded


def test_an_unknown_body_is_replaced_again_after_a_reload(folder):
    write_langchain(folder, changed("asyncio.Semaphore(n)", "asyncio.Semaphore(n * 2)"))
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="is replaced all the same"):
            install()
        assert helpers_in_utils() == PLANTED
        importlib.reload(utils())


def test_a_wrapper_that_somebody_put_on_after_us_is_not_taken_for_the_original():
    def wrapped(function):
        @functools.wraps(function)
        async def wrapper(semaphore, coro):
            return await function(semaphore, coro)

        return wrapper

    def traced(function):
        async def abatch_as_completed(self, inputs, config=None, *, return_exceptions=False, **kwargs):
            async for output in function(self, inputs, config, return_exceptions=return_exceptions, **kwargs):
                yield output

        return abatch_as_completed

    originals = [*helpers_in_utils(), method()]
    install()
    wrappers = wrapped(utils().gated_coro), traced(method())
    utils().gated_coro, base().Runnable.abatch_as_completed = wrappers
    for again in (install, lambda: swapped().__enter__(), uninstall, install):
        with pytest.warns(RuntimeWarning, match="was replaced after gatedcoro's install") as caught:
            again()
        assert {str(warning.message).partition(" ")[0] for warning in caught} == {
            f"{HOME}.gated_coro",
            "langchain_core.runnables.base.Runnable.abatch_as_completed",
        }
        assert (utils().gated_coro, method()) == wrappers
    uninstall()
    assert (utils().gated_coro, method()) == wrappers
    utils().gated_coro, _, base().Runnable.abatch_as_completed = originals
    assert not installed()


def test_a_patch_around_the_block_and_one_inside_it():
    original = [method()]
    with swapped(), mock.patch.object(base().Runnable, "abatch_as_completed"):
        assert isinstance(method(), mock.MagicMock)
    assert method() is original[0]
    patch = mock.patch.object(base().Runnable, "abatch_as_completed")
    with patch, pytest.warns(RuntimeWarning, match="abatch_as_completed is called in another way and is left alone"):
        install()
    assert method() is original[0]


def test_after_a_reload_both_classes_are_restored():
    old = base().Runnable
    original = [method()]
    install()
    new = importlib.reload(base()).Runnable
    reloaded = [method()]
    install()
    assert old.abatch_as_completed is new.abatch_as_completed is _planted.abatch_as_completed
    uninstall()
    assert old.abatch_as_completed is original[0]
    assert new.abatch_as_completed is reloaded[0]


def changed_method(old, new):
    assert old in BASE
    return BASE.replace(old, new)


@pytest.mark.parametrize(
    ("source", "message", "is_replaced"),
    [
        (
            changed_method("enumerate(inputs)", "enumerate(inputs, 1)"),
            r"Runnable\.abatch_as_completed is not the function .* replaced all the same: its body now has `for index",
            True,
        ),
        (
            changed_method("config: Any = None,", "config: Any = None, delay: int = 0,"),
            r"Runnable\.abatch_as_completed is called in another way and is left alone: its parameters are \(self, inputs",
            False,
        ),
        (
            changed_method("yield index, await self.ainvoke(value, config, **kwargs)", "return"),
            "is left alone: it is not an async generator function",
            False,
        ),
        (
            BASE + "\n    Runnable = None\n",
            r"langchain_core\.runnables\.base\.Runnable has no abatch_as_completed: nothing is replaced there",
            False,
        ),
        (BASE + "\n    del Runnable.abatch_as_completed\n", "has no abatch_as_completed", False),
    ],
    ids=["body", "parameters", "kind", "no class", "no method"],
)
def test_a_method_that_is_not_the_known_one(folder, source, message, is_replaced):
    write_langchain(folder, base=source)
    with pytest.warns(RuntimeWarning, match=message) as caught:
        install()
    assert len(caught) == 1
    found = getattr(base().Runnable, "abatch_as_completed", None)
    assert (found is _planted.abatch_as_completed) == is_replaced
    assert helpers_in_utils() == PLANTED


def test_any_of_the_known_bodies_is_known(folder, monkeypatch):
    [helper] = _swap.LANGCHAIN_METHODS
    known = dataclasses.replace(helper.known, bodies=(("of a newer release",), *helper.known.bodies))
    taught = dataclasses.replace(helper, known=known)
    for table in "LANGCHAIN_METHODS", "HELPERS":
        monkeypatch.setattr(_swap, table, tuple(taught if one == helper else one for one in vars(_swap)[table]))
    install()
    assert method() is _planted.abatch_as_completed


# --- langgraph -------------------------------------------------------------------------------------------------


def executor():
    return importlib.import_module("langgraph.pregel._executor")


def test_langgraph_is_left_alone_unless_asked_for(folder):
    write_langgraph(folder)
    original = [executor().gated]
    install()
    assert executor().gated is original[0]
    install(langgraph=True)
    assert executor().gated is _planted.gated
    install()
    assert executor().gated is original[0]
    assert helpers_in_utils() == PLANTED
    install(langgraph=True)
    uninstall()
    assert executor().gated is original[0]


def test_a_gate_of_langgraph_that_is_not_the_known_one_is_left_alone(folder):
    write_langgraph(folder, "async def gated(semaphore, coro): return await coro")
    with pytest.warns(RuntimeWarning, match=r"_executor\.gated is not the function.*is left alone"):
        install(langgraph=True)
    assert executor().gated is not _planted.gated
    assert helpers_in_utils() == PLANTED


def test_without_langgraph_the_error_says_what_to_install(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "langgraph", None)
        with pytest.raises(ImportError, match="pip install langgraph"):
            install(langgraph=True)
    assert not installed()


def test_the_planted_gate_of_langgraph_holds_the_semaphore():
    async def main():
        semaphore = asyncio.Semaphore(1)

        async def item():
            assert semaphore.locked()
            return 5

        assert await _planted.gated(semaphore, item()) == 5
        assert not semaphore.locked()

    asyncio.run(main())


def test_the_planted_functions_return_native_coroutines():
    coroutine = _planted.gather_with_concurrency(1)
    assert isinstance(coroutine, Coroutine) and inspect.iscoroutine(coroutine)
    coroutine.close()
