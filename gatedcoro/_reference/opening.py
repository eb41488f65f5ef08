"""From the arguments of a call to a gathering that runs.  Twin of src/surface/opening.h."""

from .current import task_that_runs_on
from .gathering import _Gathering
from .item import ItemKind
from .limit import LimitKind
from .outer import Results, _GatheringFuture
from .task import TaskOrigin, origin_of_tasks
from .watcher import watch_futures
from .worker import Worker


def open_gathering(loop, source, limit, policy, *, layout=None):
    """Return a gathering that has not begun, and the Future that it will settle."""
    gathering = _Gathering(loop, source, limit, policy, Worker)
    try:
        outer = _GatheringFuture(gathering, loop=loop)
    except BaseException:
        gathering.close_queue_at_once()
        raise
    gathering.sink = Results(outer, layout)
    return gathering, outer


def begin(gathering, *, returns_future):
    """Take the Futures of a call without a limit, and have the first items started."""
    if gathering.limit.kind is LimitKind.NONE and gathering.source.kind is not ItemKind.CALLABLE:
        watch_futures(gathering)
    gathering.task_origin = origin_of_tasks(gathering.loop)
    if gathering.task_origin is TaskOrigin.BY_LOOP:
        gathering.parent = task_that_runs_on(gathering.loop)
    if not gathering.source.has_more:
        gathering.settle_if_over()
    elif gathering.task_origin is TaskOrigin.BY_LOOP:
        gathering.pump()
    else:
        gathering.schedule_pump()
    if returns_future and gathering.may_start():
        gathering.ensure_keeper()
