"""What the coroutines of the public functions do: open a gathering and wait for it.  Twin of src/surface/front_door.h."""

from .awaitables import checked_awaitables
from .gathering import ErrorPolicy
from .iterables import check_iterable, source_of
from .limit import parse_limit, parse_n
from .opening import begin, open_gathering
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


async def call_functions(holder, name, limit, limit_name, policy):
    """The body of run_all() and constrained_execution(); *holder* is a list, out of which the iterable is taken."""
    loop = get_running_loop()
    limit = parse_limit(limit, limit_name)
    check_iterable(holder[0], name)
    return await _outcome(*open_gathering(loop, source_of(holder), limit, policy))


async def call_with_each(function, holder, limit, policy):
    """What awaiting a Stream does."""
    loop = get_running_loop()
    return await _outcome(*open_gathering(loop, source_of(holder, function), limit, policy))


async def _outcome(gathering, outer):
    """Begin, and wait for the outcome; whatever ends the wait early cancels the gathering."""
    try:
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
        del outer, gathering  # the traceback of an error that the outer future holds has this frame
