"""From the arguments of a call to a gathering that runs.  Twin of src/surface/opening.h."""

from . import state
from .current import task_that_runs_on
from .gathering import TASKS_BY_LOOP, TASKS_OWN, _Gathering
from .item import ITEM_GATHER_AWAITABLE, ITEM_HANDED_OUT
from .outer import _GatheringFuture
from .results import Results
from .state import AcceleratedTask
from .stock import StockFunction
from .watcher import watch_futures
from .worker import child_for

_stock_create_task = StockFunction(state.module("asyncio.base_events"), state.create_task)


def _origin_of_tasks(loop):
    """Where Tasks come from: of our making only if nobody would notice that loop.create_task() has not made them."""
    tasks = state.module("asyncio.tasks")
    if getattr(tasks, "Task", None) is not AcceleratedTask or "create_task" in getattr(loop, "__dict__", ()):
        return TASKS_BY_LOOP
    create_task = getattr(type(loop), "create_task", None)
    if create_task is None:  # a proxy
        return TASKS_BY_LOOP
    if not _stock_create_task.is_intact(create_task) or create_task.__globals__.get("tasks") is not tasks:
        owner = next(cls for cls in type(loop).__mro__ if "create_task" in vars(cls))
        if (owner.__module__, owner.__qualname__) != ("uvloop.loop", "Loop"):
            return TASKS_BY_LOOP
    return TASKS_OWN if loop.get_task_factory() is None else TASKS_BY_LOOP


def open_gathering(loop, source, limits, policy, *, layout=None):
    """Return a gathering that has not begun, and the Future that it will settle."""
    gathering = _Gathering(loop, source, limits, policy, child_for)
    try:
        outer = _GatheringFuture(gathering, loop=loop)
    except BaseException:
        gathering.close_queue_at_once()
        raise
    gathering.sink = Results(outer, layout)
    return gathering, outer


def stream_gathering(loop, source, limits, policy, results):
    """Return a gathering that has not begun, and will put its outcomes into *results*."""
    gathering = _Gathering(loop, source, limits, policy, child_for)
    gathering.sink = results
    if source.kind is not ITEM_HANDED_OUT:  # as in asyncio.as_completed, whoever waits later
        gathering.leave_call_graph()
    return gathering


def _take_futures(gathering):
    """Take the Futures of a gather() without a limit; and those that are handed out, as far as they would start in the first pass."""
    limit, source = gathering.limit, gathering.source
    if source.kind is ITEM_GATHER_AWAITABLE and limit.is_none:
        watch_futures(gathering, source.remove_futures(None))
    elif source.kind is ITEM_HANDED_OUT and not limit.gates and not limit.slots.are_counted:
        futures = source.remove_futures(limit.count)
        if not futures:
            return
        if gathering.task_origin is not TASKS_BY_LOOP:
            gathering.schedule_pump()  # Futures that are done call back after the items start
        gathering.slice.begin()
        try:
            watch_futures(gathering, futures)
        finally:
            gathering.slice.end_no_pass()


def begin(gathering, *, returns_future):
    """Take Futures that run already, and have the first items started."""
    gathering.task_origin = _origin_of_tasks(gathering.loop)
    _take_futures(gathering)
    if gathering.task_origin is TASKS_BY_LOOP:
        gathering.parent = task_that_runs_on(gathering.loop)
    if not gathering.source.has_more:
        gathering.settle_if_over()
    elif gathering.source.takes_turns and not gathering.source.begin(gathering):
        pass  # it begins the first pass
    elif gathering.task_origin is TASKS_BY_LOOP:
        gathering.pump()
    else:
        gathering.schedule_pump()
    if returns_future and gathering.may_start():
        gathering.ensure_keeper()
