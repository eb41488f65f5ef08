"""Where somebody has replaced what loop.create_task() does, Tasks come from there, however that was done, and whenever."""

import asyncio
import functools
import sys
import threading
import types

import pytest

from contract_tools import run
from implementations import load_again
from in_subprocess import check_script

STOCK = asyncio.BaseEventLoop.create_task


async def item():
    task = asyncio.current_task()
    before = task.get_name()
    await asyncio.sleep(0)
    return type(task), before


def kinds_of_tasks(module):
    """The types and names of the Tasks in which items of each public function run."""

    async def main():
        seen = []
        for limit in 1, 2, None:
            seen += await module.gather_with_concurrency(limit, item(), item(), item())
            seen += await module.gather(item(), item(), limit=limit)
            seen += await module.run_all([item, item], limit=limit)
        return seen

    return run(main)


ITEMS = 21


def makes_its_own(module):
    """Whether all Tasks were the implementation's own, or none."""
    types_ = {cls for cls, _ in kinds_of_tasks(module)}
    assert len(types_) == 1
    return types_ != {asyncio.Task}


def trampoline(function, wrapper):
    """Code to be put into *function*, which calls wrapper(original, args, kwargs) and says that it is the original's.

    So does ddtrace (ddtrace.internal.wrapping).
    """
    code = function.__code__
    original = types.FunctionType(code, function.__globals__, "original", function.__defaults__)
    original.__kwdefaults__ = function.__kwdefaults__

    def template(self, coro, **kwargs):
        call = "the wrapper"
        return call("the original", (self, coro), kwargs)

    constants = {"the wrapper": wrapper, "the original": original}
    return template.__code__.replace(
        co_consts=tuple(constants.get(constant, constant) for constant in template.__code__.co_consts),
        co_filename=code.co_filename,
        co_name=code.co_name,
        co_qualname=code.co_qualname,
        co_firstlineno=code.co_firstlineno,
    )


class Patch:
    """Replaces what create_task() does; `made` is what the Tasks were made of."""

    def __init__(self, monkeypatch):
        self.made = []
        self.monkeypatch = monkeypatch

    def _note(self, original, args, kwargs):
        self.made.append(args[1])
        return original(*args, **kwargs)

    def code(self):
        self.monkeypatch.setattr(STOCK, "__code__", trampoline(STOCK, self._note))

    def code_twice(self):
        self.code()
        self.code()

    def function(self):
        @functools.wraps(STOCK)
        def create_task(*args, **kwargs):
            return self._note(STOCK, args, kwargs)

        self.monkeypatch.setattr(asyncio.BaseEventLoop, "create_task", create_task)

    def function_of_the_same_code_elsewhere(self):
        """Its globals are others, so it makes other Tasks."""
        patch = self

        class Other(asyncio.Task):
            def __init__(self, coro, **kwargs):
                patch.made.append(coro)
                super().__init__(coro, **kwargs)

        namespace = dict(STOCK.__globals__, tasks=types.SimpleNamespace(Task=Other))
        create_task = types.FunctionType(STOCK.__code__, namespace)
        create_task.__kwdefaults__ = STOCK.__kwdefaults__
        self.monkeypatch.setattr(asyncio.BaseEventLoop, "create_task", create_task)

    def callable_object(self):
        class Wrapper:
            __wrapped__ = STOCK

            def __get__(wrapper, loop, owner=None):
                return wrapper if loop is None else lambda *args, **kwargs: self._note(STOCK, (loop, *args), kwargs)

        self.monkeypatch.setattr(asyncio.BaseEventLoop, "create_task", Wrapper())

    def module(self):
        patch = self

        class Tasks(types.ModuleType):
            def __getattr__(self, name):
                return getattr(asyncio.tasks, name)

            @staticmethod
            def Task(coro, **kwargs):
                patch.made.append(coro)
                return asyncio.Task(coro, **kwargs)

        self.monkeypatch.setattr(asyncio.base_events, "tasks", Tasks("tasks"))

    def on_the_loop_s_class(self):
        def create_task(*args, **kwargs):
            return self._note(STOCK, args, kwargs)

        self.monkeypatch.setattr(asyncio.SelectorEventLoop, "create_task", create_task, raising=False)


WAYS = [name for name in vars(Patch) if not name.startswith("_")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_task_comes_from_there(impl, monkeypatch, way, when):
    patch = Patch(monkeypatch)
    if when == "before":
        getattr(patch, way)()
        module = load_again(impl)
    else:
        module = load_again(impl)
        getattr(patch, way)()
    assert issubclass(kinds_of_tasks(module)[0][0], asyncio.Task)
    of_items = [coroutine for coroutine in patch.made if getattr(coroutine, "__name__", "") == "item"]
    assert len(of_items) == ITEMS * (2 if way == "code_twice" else 1)


def test_nothing_is_replaced_and_so_they_are_of_our_own(impl):
    assert makes_its_own(impl)
    assert makes_its_own(load_again(impl))


def test_once_it_is_taken_back_they_are_of_our_own_again(impl):
    module = load_again(impl)
    with pytest.MonkeyPatch.context() as monkeypatch:
        Patch(monkeypatch).code()
        assert not makes_its_own(module)
    assert makes_its_own(module)


@pytest.mark.skipif(not STOCK.__kwdefaults__, reason="this create_task() has no defaults")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_other_defaults_of_its_keywords_are_used(impl, in_place, when):
    before = dict(STOCK.__kwdefaults__)
    module = load_again(impl) if when == "after" else None
    try:
        if in_place:
            STOCK.__kwdefaults__["name"] = "by default"
        else:
            STOCK.__kwdefaults__ = {**before, "name": "by default"}
        if when == "before":
            module = load_again(impl)
        assert {name for _, name in kinds_of_tasks(module)} == {"by default"}
    finally:
        STOCK.__kwdefaults__ = before
    # Equal defaults are as good as the same.
    assert makes_its_own(module) == (when == "after")


@pytest.mark.parametrize("loader", ["none", "without get_code", "failing", "of something else"])
def test_where_it_cannot_be_told_they_come_from_the_loop(impl, monkeypatch, loader):
    class Fails:
        def get_code(self, name):
            raise OSError(name)

    class Lies:
        def get_code(self, name):
            return compile("def create_task(self, coro): pass", asyncio.base_events.__file__, "exec")

    loaders = {"none": None, "without get_code": object(), "failing": Fails(), "of something else": Lies()}
    monkeypatch.setattr(asyncio.base_events.__spec__, "loader", loaders[loader])
    module = load_again(impl)
    monkeypatch.undo()
    assert not makes_its_own(module)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_loader_that_is_interrupted_ends_the_import(impl, monkeypatch, error):
    class Interrupted:
        def get_code(self, name):
            raise error

    monkeypatch.setattr(asyncio.base_events.__spec__, "loader", Interrupted())
    with pytest.raises(error):
        load_again(impl)


def test_an_import_that_is_traced_and_profiled_finds_it_untouched(impl):
    def looks_on(*ignored):
        return looks_on

    modules = []
    tracing = sys.gettrace()  # it may be coverage's
    sys.settrace(looks_on)
    threading.setprofile(looks_on)
    try:
        modules.append(load_again(impl))
        kinds_of_tasks(modules[0])
    finally:
        sys.settrace(tracing)
        threading.setprofile(None)
    assert makes_its_own(modules[0])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
def test_monitored_code_is_the_same_code(impl):
    monitoring = sys.monitoring
    monitoring.use_tool_id(4, "test")
    try:
        monitoring.register_callback(4, monitoring.events.LINE, lambda *ignored: None)
        monitoring.set_local_events(4, STOCK.__code__, monitoring.events.LINE)
        kinds_of_tasks(impl)
        module = load_again(impl)
        assert makes_its_own(module)
    finally:
        monitoring.set_local_events(4, STOCK.__code__, 0)
        monitoring.free_tool_id(4)
    assert makes_its_own(module)


@pytest.mark.parametrize("option", ["-O", "-OO", "-X no_debug_ranges", "-X frozen_modules=off", "-B -I"])
def test_stock_under_options_of_the_interpreter(impl, option):
    script = """
    async def item():
        return type(asyncio.current_task())

    async def main():
        return await impl.gather_with_concurrency(1, item(), item())

    if asyncio.Task in asyncio.run(main()):
        raise SystemExit("they came from the loop")
    print("ok")
    """
    check_script(impl, script, options=option.split())


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
def test_create_task_replaced_in_uvloop_s_class_is_respected(impl, monkeypatch):
    uvloop = pytest.importorskip("uvloop")
    made = []

    def create_task(loop, coro, **kwargs):
        made.append(coro)
        return super(uvloop.Loop, loop).create_task(coro, **kwargs)

    async def main():
        monkeypatch.setattr(uvloop.Loop, "create_task", create_task, raising=False)
        try:
            return await impl.gather_with_concurrency(1, item(), item(), item())
        finally:
            monkeypatch.undo()

    run(main, loop_factory=uvloop.new_event_loop)
    assert len(made) == 3
