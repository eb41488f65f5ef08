"""What is used of asyncio, as it was when this was imported.  Twin of src/base/state.h.

Somebody may have replaced any of it, by an instrumented version or by an object of another kind, and may do so later.
"""

import importlib

from .call import Unraisable

EMPTY = object()
"""Stands for nothing where None would be something."""


def module(name):
    try:
        return importlib.import_module(name)
    except ImportError:  # PyPy has no _asyncio
        return None


def _is_class(value):
    return isinstance(value, type)


def taken(name, *modules, is_right=callable):
    """Return what *modules* have by that name: of the first one where it is of the right kind."""
    for module_name in modules:
        value = getattr(module(module_name), name, None)
        if is_right(value):
            return value
    found = getattr(module(modules[0]), name, None)
    raise ImportError(f"gatedcoro needs {modules[0]}.{name}; it is {found!r}")


def taken_class(name, *modules):
    return taken(name, *modules, is_right=_is_class)


def taken_class_of(name, module_name, method):
    """Return the class of that name, or that one of its bases that defines *method*, written in that module."""
    found = getattr(module(module_name), name, None)
    for cls in getattr(found, "__mro__", ()) if _is_class(found) else ():
        if getattr(vars(cls).get(method), "__globals__", None) is vars(module(module_name)):
            return cls
    raise ImportError(f"gatedcoro needs {module_name}.{name}; it is {found!r}")


def _taken_create_task():
    """Return how asyncio's own loops make Tasks; None if something else stands in its place."""
    try:
        return taken_class_of("BaseEventLoop", "asyncio.base_events", "create_task").create_task
    except ImportError:
        return None


def _taken_semaphores():
    """Return asyncio's two semaphore classes; none if something else stands in their place."""
    try:
        plain = taken_class_of("Semaphore", "asyncio.locks", "acquire")
        return plain, taken_class_of("BoundedSemaphore", "asyncio.locks", "release")
    except ImportError:
        return ()


def _semaphore_bases():
    """Return what our semaphores are subclasses of; none if something else stands in the place of asyncio's."""
    bases = [getattr(module("asyncio.locks"), name, None) for name in ("Semaphore", "BoundedSemaphore")]
    return tuple(bases) if all(map(_is_class, bases)) else ()


def _call_graph_function(name):
    """Return a function that calls the one of the call graph of 3.14+ that is there by then, and reports what it raises."""

    def change_edge(future, awaiter):
        function = getattr(module("asyncio.futures"), name, None)
        try:
            if callable(function):  # else something stands in its place
                function(future, awaiter)
        except BaseException as error:
            Unraisable(error)

    return change_edge


def _class_of_cancellations():
    """Return the class of the exceptions that Futures raise."""

    class Loop:
        def get_debug(self):
            return False

    try:
        return type(Future(loop=Loop())._make_cancelled_error())
    except TypeError as error:
        raise ImportError(f"gatedcoro needs asyncio.exceptions.CancelledError: {error}") from error


Coroutine = taken_class_of("Coroutine", "_collections_abc", "send")
deque = taken_class("deque", "_collections", "collections")
OrderedDict = taken_class("OrderedDict", "_collections", "collections")
Future = taken_class("Future", "_asyncio", "asyncio.futures")
BaseTask = taken_class("Task", "_asyncio", "asyncio.tasks")
AcceleratedTask = getattr(module("_asyncio"), "Task", EMPTY)
CancelledError = _class_of_cancellations()
semaphores = _taken_semaphores()
semaphore_bases = _semaphore_bases()
create_task = _taken_create_task()
current_task = taken("current_task", "asyncio.tasks", "_asyncio")
enter_task = taken("_enter_task", "_asyncio", "asyncio.tasks")
leave_task = taken("_leave_task", "_asyncio", "asyncio.tasks")
get_event_loop = taken("get_event_loop", "asyncio.events", "_asyncio")
get_running_loop = taken("get_running_loop", "asyncio.events", "_asyncio")
running_loop_or_none = taken("_get_running_loop", "asyncio.events", "_asyncio")
isawaitable = taken("isawaitable", "inspect")
iscoroutine = taken("iscoroutine", "asyncio.coroutines", "asyncio")
isfuture = taken("isfuture", "asyncio.futures", "asyncio.base_futures")
wait = taken("wait", "asyncio.tasks", "asyncio")
add_to_awaited_by = _call_graph_function("future_add_to_awaited_by")
discard_from_awaited_by = _call_graph_function("future_discard_from_awaited_by")


def cancelled_error(message):
    return CancelledError() if message is None else CancelledError(message)
