"""What the coroutines of the public functions do: open a gathering and wait for it.  Twin of src/surface/front_door.h."""

from gatedcoro._progress import check_progress

from .awaitables import checked_awaitables
from .gathering import ErrorPolicy
from .iterables import check_iterable, source_of
from .limit import parse_limit, parse_n
from .opening import begin, open_gathering
from .progress import length_of
from .source import Awaitables
from .state import get_running_loop


async def gather_coroutines(n, unstarted):
    """The body of gather_with_concurrency()."""
    try:
        loop = get_running_loop()
        limits = parse_n(n, len(unstarted))
        if not unstarted:
            return []
        layout = None
        if limits.is_none:
            source, layout, _ = checked_awaitables(unstarted, loop)
        else:
            source = Awaitables(unstarted.take())
    finally:
        unstarted.close()
    return await _outcome(*open_gathering(loop, source, limits, ErrorPolicy(), layout=layout))


async def call_functions(holder, name, limit, limit_name, policy, progress=None):
    """The body of run_all() and constrained_execution(); *holder* is a list, out of which the iterable is taken."""
    loop = get_running_loop()
    limit = parse_limit(limit, limit_name)
    check_iterable(holder[0], name)
    return await _outcome_of_each(loop, None, holder, limit, policy, check_progress(progress))


async def call_with_each(function, holder, limit, policy, progress):
    """What awaiting a Stream does."""
    return await _outcome_of_each(get_running_loop(), function, holder, limit, policy, progress)


def _outcome_of_each(loop, function, holder, limit, policy, progress):
    total = length_of(holder[0]) if progress is True else None
    return _outcome(*open_gathering(loop, source_of(holder, function), limit, policy), progress, total)


async def _outcome(gathering, outer, progress=None, total=None):
    """Begin, and wait for the outcome; whatever ends the wait early cancels the gathering."""
    try:
        gathering.open_progress(progress, total)
        begin(gathering, returns_future=False)
        result = await outer
        outer.was_set_by_somebody()
        return result
    except BaseException as error:
        if outer.has_raised(error):
            outer.was_set_by_somebody()
        outer.abandon()
        raise
    finally:
        del outer, gathering, progress  # the traceback of an error that the outer future holds has this frame
