"""The public functions; gatedcoro._functions says what they do.  Twin of src/surface/functions.h."""

from gatedcoro._progress import check_progress

from .as_completed import AsCompleted, new_as_completed, parse_timeout  # noqa: F401
from .awaitables import checked_awaitables
from .compat import AS_COMPLETED_CHECKS_AT_ONCE, GATHER_PREFERS_THE_RUNNING_LOOP
from .coroutine import OwnCoroutine, Unstarted
from .front_door import call_functions, gather_coroutines
from .function import public
from .gated import hold_and_await
from .gathering import error_policy
from .iterables import check_iterable
from .limit import parse_buffersize, parse_limit
from .opening import begin, open_gathering
from .semaphore import BoundedSemaphore, Semaphore  # noqa: F401
from .state import running_loop_or_none
from .stream import Stream, new_stream  # noqa: F401


@public
def gated_coro(semaphore, coro):
    unstarted = Unstarted((coro,))
    return OwnCoroutine("gated_coro", hold_and_await(semaphore, unstarted), unstarted)


@public
def gather_with_concurrency(n, *coros):
    unstarted = Unstarted(coros)
    return OwnCoroutine("gather_with_concurrency", gather_coroutines(n, unstarted), unstarted)


@public
def amap(async_fn, iterable, *, limit=None, ordered=True, buffersize=None, return_exceptions=False, progress=None):
    if not callable(async_fn):
        raise TypeError(f"async_fn must be callable, not {async_fn!r} ({type(async_fn).__name__})")
    check_iterable(iterable, "iterable")
    return new_stream(
        async_fn,
        iterable,
        parse_limit(limit, "limit"),
        parse_buffersize(buffersize),
        is_ordered=bool(ordered),
        return_exceptions=bool(return_exceptions),
        progress=check_progress(progress),
    )


@public
def as_completed(aws, *, limit=None, timeout=None):
    if AS_COMPLETED_CHECKS_AT_ONCE:
        check_iterable(aws, "aws")
    return new_as_completed(aws, parse_limit(limit, "limit"), parse_timeout(timeout))


@public
def gather(*aws, limit=None, return_exceptions=False, cancel_on_error=False, progress=None):
    unstarted = Unstarted(aws)
    try:
        limit = parse_limit(limit, "limit")
        progress = check_progress(progress)
        loop = running_loop_or_none() if GATHER_PREFERS_THE_RUNNING_LOOP else None
        source, layout, loop = checked_awaitables(unstarted, loop)
    finally:
        unstarted.close()
    total = source.left
    if total == 0:
        outer = loop.create_future()
        outer.set_result([])
        return outer
    gathering, outer = open_gathering(
        loop, source, limit, error_policy(return_exceptions, cancel_on_error), layout=layout
    )
    try:
        gathering.open_progress(progress, total)
        begin(gathering, returns_future=True)
    except BaseException:
        outer.abandon()
        raise
    return outer


@public
def run_all(async_fns, *, limit=None, return_exceptions=False, cancel_on_error=True, progress=None):
    unstarted = Unstarted(())
    policy = error_policy(return_exceptions, cancel_on_error)
    body = call_functions([async_fns], "async_fns", limit, "limit", policy, progress)
    return OwnCoroutine("run_all", body, unstarted)


@public
def constrained_execution(funcs, max_runs):
    unstarted = Unstarted(())
    body = call_functions([funcs], "funcs", max_runs, "max_runs", error_policy(False, False))
    return OwnCoroutine("constrained_execution", body, unstarted)
