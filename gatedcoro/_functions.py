"""The public functions: their signatures, and what they do.

Both implementations answer with these; neither calls them.
"""

__all__ = ["constrained_execution", "gated_coro", "gather", "gather_with_concurrency", "run_all"]


async def gated_coro(semaphore, coro):
    """Await *coro* while holding *semaphore*, and return its result.

    Returns a coroutine, which does what ``async with semaphore: return await coro`` does.
    Nothing happens before it is awaited.

    semaphore: an async context manager: an asyncio Semaphore, BoundedSemaphore or Lock, one
        of anyio's, an aiolimiter.  What its ``__aenter__`` and ``__aexit__`` raise is
        raised; an ``__aexit__`` that returns true suppresses the error of *coro*, and None
        is returned.
    coro: any awaitable.  If it is a coroutine that has not begun, it is closed should it not
        be started.

    Raises TypeError, in the words of ``async with`` and ``await``, if *semaphore* is not an
    async context manager or *coro* not awaitable; RuntimeError if *coro* is a coroutine that
    has been awaited or is being awaited, or if the returned coroutine is awaited twice;
    otherwise what *coro* raises.

    Cancelled while it waits for the semaphore, it leaves the queue of waiters; cancelled
    later, *coro* is cancelled.  However it ends (by an error, ``close()``, ``throw()``, or
    because it is dropped), an asyncio semaphore gets its slot back exactly once.

    The name, signature and behaviour are those of langchain_core.runnables.utils.gated_coro.
    """


async def gather_with_concurrency(n, *coros):
    """Await *coros*, at most *n* of them at a time, and return the list of their results.

    Returns a coroutine; nothing happens before it is awaited.  Each item runs in a Task and
    a copy of the caller's context of its own.  Items start in the order of the arguments,
    the next one in the step that freed its slot, or, where mostly several items that had
    suspended end in a turn of the event loop, in the next turn.  The results are in the order
    of the arguments.

    n: how many items run at once: an integer of at least 1 (anything with ``__index__``),
        or None for no limit.  Without a limit the items are treated as by asyncio.gather:
        equal ones run once, Futures are taken as they are.
    coros: coroutines or other awaitables: with a limit what ``await`` takes, without one
        what asyncio.gather takes.  A Future or Task runs already: with a limit it takes its
        turn and its slot, but is only awaited.  A coroutine that has begun is what it is to
        ``await``, without a limit what it is to asyncio.gather, which goes on with it.

    The first error of an item is raised at once; items that run go on, queued ones still
    start, later errors are dropped.  KeyboardInterrupt and SystemExit of an item also leave
    the event loop.

    Raises, before any item has started, TypeError if *n* is not an integer or None, and
    ValueError if it is negative, or 0 with items; without a limit also TypeError for what is
    not awaitable or not hashable and ValueError for a Future of another event loop.  With a
    limit, what cannot be awaited, is awaited twice, or is a Future of another event loop is
    that item's error (TypeError, RuntimeError).  The TypeError about an iterable has a note
    that says to unpack it.  After an error that comes before any item has started, and when
    closed, thrown into or dropped before it was awaited, every coroutine among the items that
    has not begun has been closed.  An error that belongs to no item, as a lack of memory,
    ends the call.  Awaiting the returned coroutine twice is a RuntimeError.

    Cancelled, it cancels the items that run and closes the queued coroutines.  The first
    running item that then ends with an exception, CancelledError as a rule, decides what is
    raised, and when; if all of them return, that is CancelledError at the end, and if none
    ran, at once.  ``close()``, ``throw()`` and dropping it do the same without waiting.

    The name, signature and results are those of
    langchain_core.runnables.utils.gather_with_concurrency.
    """


def gather(*aws, limit=None, return_exceptions=False, cancel_on_error=False):
    """Run *aws* concurrently, as asyncio.gather does, if wanted with a limit.

    A plain function: it returns a Future of the list of results, in the order of the
    arguments.  The items are started by the event loop, each in a Task and a copy of the
    caller's context of its own.  Equal items run once, and their result is returned for
    each.

    aws: coroutines, Futures or other awaitables: whatever asyncio.gather takes, so also what
        only says that it is a coroutine (a proxy), or is of a class that is registered as
        collections.abc.Coroutine, with or without ``__await__``.  A Future or Task runs
        already: with a limit it takes its turn and its slot, but is only awaited.  A coroutine
        that has begun goes on from where it stands; queued and never started, it is closed.
    limit: how many run at once: an integer of at least 1; None for no limit; or an async
        context manager, which each item holds while it runs, entered and left in the item's
        own Task.  At most one item waits for it, and what ``__aenter__`` raises is that
        item's error.
    return_exceptions: return the errors among the results instead of raising the first.
    cancel_on_error: on the first error cancel the items that run, close the queued
        coroutines, wait, and raise that error; what the other items raise meanwhile, except
        CancelledError, becomes one note each on it.  Otherwise the first error is raised at
        once, items that run go on, and queued ones still start.  An item's own cancellation
        is an error.  KeyboardInterrupt and SystemExit of an item also leave the event loop.

    Raises, before anything has started and after closing every coroutine among the items
    that has not begun, TypeError if *limit* is of another kind or an item is not awaitable
    (about an iterable with a note that says to unpack it) or not hashable,
    ValueError if *limit* is less than 1 or a Future belongs to another event loop, and
    RuntimeError if there is no event loop to choose.

    Cancelling the Future cancels the items that run and closes the queue.  It is done with
    the first exception that a running item then raises, CancelledError as a rule: as soon as
    that is raised, or with *cancel_on_error* when all have ended.  If all of them return, or
    with *return_exceptions*, it is done with CancelledError when all have ended; if nothing
    runs yet, at once.  A queued Future is left alone.

    The signature is that of asyncio.gather with two options more; without them it does what
    asyncio.gather of the running Python version does.
    """


async def run_all(async_fns, *, limit=None, return_exceptions=False, cancel_on_error=True):
    """Call each of *async_fns* when a slot is free, await what it returns, return the results.

    Returns a coroutine; nothing happens before it is awaited.  No coroutine exists before
    its turn: each function is called without arguments inside its slot, in the item's own
    Task and its own copy of the caller's context.  The results are in the order of the
    functions.

    async_fns: an iterable of callables that return awaitables.  It is advanced by one for
        each free slot, and let go when nothing starts any more, which closes a generator
        that nobody else holds: all in one copy of the caller's context.  What it raises is
        treated as the first error of an item, even with *return_exceptions*.
    limit, return_exceptions, cancel_on_error: as for gather(), except that *cancel_on_error*
        is true by default.

    Raises, before anything has started, TypeError if *limit* is of another kind or
    *async_fns* not iterable, and ValueError if *limit* is less than 1.  What is not callable,
    returns what cannot be awaited (both TypeError) or raises is that item's error, with a
    note that says which item it was.  Awaiting the returned coroutine twice is a
    RuntimeError.

    Cancelled, it cancels the items that run and calls no further function; what is raised,
    and when, is as for a cancelled gather() with the same options.  ``close()``, ``throw()``
    and dropping it do the same without waiting.

    The name is that of aiometer's function for the same job.
    """


async def constrained_execution(funcs, max_runs):
    """Call *funcs*, at most *max_runs* of them at a time, and return the list of results.

    Returns a coroutine; nothing happens before it is awaited.  It is the same as
    ``run_all(funcs, limit=max_runs, cancel_on_error=False)``, exceptions and cancellation
    included: the first error is raised at once, what runs goes on, the rest is still called.

    funcs: an iterable of callables that return awaitables.
    max_runs: how many run at once: an integer of at least 1, None for no limit, or an async
        context manager.

    Name and signature are those of a recipe that many programs contain.
    """
