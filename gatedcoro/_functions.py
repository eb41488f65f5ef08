"""The public functions: their signatures, and what they do.

Both implementations answer with these; neither calls them.
"""

__all__ = [
    "AsCompleted",
    "BoundedSemaphore",
    "Semaphore",
    "Stream",
    "amap",
    "as_completed",
    "constrained_execution",
    "gated_coro",
    "gather",
    "gather_with_concurrency",
    "run_all",
]


class Semaphore:
    """So many slots, each of which one coroutine holds at a time: an asyncio.Semaphore whose limit can be changed.

        semaphore = Semaphore(10)

        async with semaphore:
            ...

    ``isinstance(semaphore, asyncio.Semaphore)`` is true, and it can stand wherever one of asyncio's
    stands: it serves in the order in which it is asked, lives in one event loop, and is not thread-safe.
    As the *limit* of gather(), run_all(), amap() and as_completed(), alone or as the first async context manager of
    a row, it is counted by the call itself, and no Task waits: an item starts when there is a slot for it,
    which is given back when the item has ended.  While there is none, at most one element is drawn, and waits.

    value: how many slots there are: an integer of at least 0 (anything with ``__index__``).

    A pending acquire() that is cancelled, closed, thrown into or dropped, at any moment, leaves
    the count right and the next one served.  copy and pickle give a semaphore of the same limit with as many
    free slots, for which nobody waits.  A subclass may override acquire(), release(), locked(),
    ``__aenter__`` and ``__aexit__``: they are what is called then.

    Raises TypeError if *value* is not an integer, and ValueError if it is negative or greater than sys.maxsize.

    The name, the methods and what they do are those of asyncio.Semaphore of Python 3.13, on all versions;
    *limit* is not asyncio's.
    """

    def __init__(self, value=1):
        raise NotImplementedError

    async def acquire(self):
        """Wait until there is a free slot, take it, and return True.

        Returns a coroutine; nothing happens before it is awaited.  A free slot is taken at once, unless
        somebody waits: who comes first is served first.

        Raises RuntimeError if it has to wait and no event loop runs, or another one than at first.
        Cancelled while it waits, it leaves the queue; a slot that it was handed goes to the next one.
        """
        raise NotImplementedError

    async def __aenter__(self):
        """Take a slot as acquire() does, which it calls, and return None."""
        raise NotImplementedError

    async def __aexit__(self, exc_type, exc, tb):
        """Give it back as release() does, which it calls."""
        raise NotImplementedError

    def release(self):
        """Give a slot back, and wake whoever has waited longest for one.

        Whoever holds a slot calls this once for each acquire(); every further call adds a slot,
        which *limit* does not count.  A BoundedSemaphore raises ValueError instead, and does nothing,
        if as many slots as *limit* are free.
        """
        raise NotImplementedError

    def locked(self):
        """Return whether acquire() would have to wait: because no slot is free, or because somebody waits."""
        raise NotImplementedError

    @property
    def limit(self):
        """How many slots there are: the number given or last assigned, an integer of at least 0.

        It may be assigned while the semaphore is in use.  Raised, it wakes those that wait, in order.
        Lowered, it takes no slot from whoever holds one: nobody is admitted until enough came back.  0
        admits nobody.  A gathering or stream whose limit the semaphore is follows at once.

        Assigning raises TypeError for what is not an integer, and ValueError for a negative one or one greater
        than sys.maxsize; deleting raises AttributeError.
        """
        raise NotImplementedError

    @limit.setter
    def limit(self, limit):
        raise NotImplementedError


class BoundedSemaphore(Semaphore):
    """A Semaphore that refuses to have more free slots than its limit as it is now.

    Its release() raises ValueError, and does nothing, if as many slots as *limit* are free.  It is an
    asyncio.BoundedSemaphore as well, whose name and behaviour these are; everything else is as in Semaphore.
    """


class Stream:
    """The results of amap(), to be iterated over or to be awaited, once.

    ``async for result in stream`` gives the results one by one; so does ``anext(stream)``, for any
    number of consumers at once, which are served in the order in which they ask.
    ``async with stream`` does not start anything; nothing of the stream runs any more when the block is left.
    ``await stream`` returns the list of all results, in the order of the input.  A stream is not a coroutine:
    asyncio.create_task() takes a coroutine that awaits it.

    ``await stream.aclose()`` ends it early, as leaving the block does.

    Nothing happens before the first of these, in whose event loop the stream lives from then on.
    One that is dropped without any is a RuntimeWarning.

    Cancelled while it waits, a consumer loses nothing: what it was about to get goes to the
    next one who asks.  A stream that nobody holds any more is cancelled, and nobody waits for that;
    a name in a frame, or a traceback, may keep it alive: then ``async with`` ends it in time.

    Closing it cancels what runs, closes the iterable, and waits for both.  What that raises is raised,
    or becomes a note on the error that leaves the block.  A cancellation meanwhile is passed on to
    what still runs, and raised in the end.  Afterwards the stream is at its end.

    Iterated over after it was awaited, or the other way round, awaited twice, used in another
    event loop, or closed by one of its own items or by its iterable, it raises RuntimeError.
    """


def amap(async_fn, iterable, *, limit=None, ordered=True, buffersize=None, return_exceptions=False, progress=None):
    """Call ``async_fn(x)`` for each *x* of *iterable* and give the results as they come.

    A plain function: it returns a :class:`Stream`, an async iterator, an async context manager and
    an awaitable of the list of all results.  Nothing happens before it is used.

        async for page in amap(fetch, urls, limit=50):
            ...

    async_fn: a callable that returns an awaitable.  It is called when a slot is free, in the slot, in
        the item's own Task and its own copy of the caller's context.  The caller is whoever first uses the stream.
    iterable: an iterable, or an async iterable, also an endless one.  An element is drawn only when
        its item could start at once, or is the one that waits for a context manager in *limit*.  When the
        stream ends early a generator is closed, whoever else holds it, and an async iterator by its
        ``aclose()``, after an element that it was asked for has been cancelled.  All code of a sync one runs in one copy of the caller's context; all code of an
        async one in one Task, whose context is such a copy.
    limit: how many run at once: an integer of at least 1; None for no limit, so that all may run at
        once; or an async context manager, which each item holds while it runs, entered and left in the
        item's own Task.  At most one item waits for it, and what ``__aenter__`` raises is that item's error.
        Or a tuple or list of these, as for gather().
    ordered: whether results are given in the order of the input, else as items end.
    buffersize: an element is drawn only while fewer than *limit* + *buffersize* of them have
        not been given to the consumer: an integer of at least 0; None for as many as *limit* is.  With a
        context manager as *limit*, and no integer beside it, while at most *buffersize* results wait
        (None: 100); without a limit,
        *buffersize* is all that may have been drawn and not given (at least 1; None: no bound).
        Like *ordered* without effect if the stream is awaited.
    return_exceptions: give errors of items among the results instead of raising the first.
    progress: as for gather(); told until the stream is at its end, not after it was dropped.

    Iterated over in order, it gives what ``for x in iterable: yield await async_fn(x)`` would: the
    error of an item is raised after the results before it, the items after it are cancelled
    and awaited, and an error of an earlier item takes its place.  With *ordered* false the first error
    in time cancels everything that runs, and is raised after all results that there are.  An error of
    *iterable* is raised when everything that was drawn before has been given; if an item of that
    fails, its error is raised instead, or, with *ordered* false, cancels the rest and becomes a note.
    Awaited, it is run_all(): the first error in time, of an item or of *iterable*, cancels the rest and
    is raised.  In each case what was cancelled has ended by then and *iterable* is closed; what they raise
    meanwhile, except CancelledError, becomes a note on the error.  KeyboardInterrupt and SystemExit of an
    item also leave the event loop.  A StopAsyncIteration of an item that would end the consumer's loop is
    the cause of a RuntimeError.

    Raises TypeError if *async_fn* is not callable, *iterable* not iterable, or *limit*,
    *buffersize* or *progress* of another kind, ValueError if *limit* is less than 1 or empty, or *buffersize*
    less than 0, and ImportError if *progress* is True and tqdm is missing.
    """


class AsCompleted:
    """What as_completed() returns: Tasks and Futures as they complete, for a plain loop or an asynchronous one.

    ``async for task in tasks`` gives the Tasks and Futures themselves, which are done; so does
    ``anext(tasks)``.  ``for coroutine in tasks`` gives coroutines, each of which returns the result of the
    next one that is done, or raises its error; so does ``next(tasks)``.  Any number of consumers may ask
    at once; they are served in the order in which they ask: a coroutine of next() in its first step.
    ``async with tasks`` does not start anything; nothing that was started here runs any more when the
    block is left.  ``await tasks.aclose()`` does the same.

    Nothing happens before the first of these, in whose event loop it lives from then on.  After
    ``break``, iterating again goes on.  What anext() or ``async for`` has begun to draw one by one
    has no next(): RuntimeError.

    Cancelled while it waits, a consumer loses nothing: what it was about to get goes to the next one who
    asks, and next() gives one coroutine more.  What nobody holds any more is cancelled, and nobody waits
    for that; a coroutine of next() holds it, and so may a name in a frame, or a traceback.

    Closing it cancels what it has started, closes what has not begun and the iterable, and waits for
    that; a Future or Task of the caller's goes on.  What closing raises is raised, or becomes a note on
    the error that leaves the block.  A cancellation meanwhile is passed on to what still runs, and raised
    in the end.  Afterwards it is at its end, and a coroutine of next() that still waits raises
    RuntimeError.

    Used in another event loop, or closed by one of its own items or by its iterable, it raises
    RuntimeError.
    """


def as_completed(aws, *, limit=None, timeout=None):
    """Run *aws* concurrently, if wanted with a limit, and give them as they complete.

    A plain function: it returns an :class:`AsCompleted`, an iterator, an async iterator and an async
    context manager.  Nothing happens before it is used.

        async for task in as_completed([fetch(url) for url in urls], limit=50):
            page = await task

        for coroutine in as_completed([fetch(url) for url in urls], limit=50):
            page = await coroutine

    aws: an iterable of coroutines, Futures or other awaitables, or for ``async for`` an async iterable
        of them, also an endless one.  What has a length is taken whole in the first step, equal
        awaitables once; so is everything that a plain loop goes through, which therefore must end.
        Anything else is drawn as by amap(): an element only when it could start at once, or is the one
        that waits for a context manager in *limit*.
        A coroutine starts in a turn of the event loop, in the order of *aws*, in a Task and a copy
        of the caller's context of its own.  The caller is whoever makes the first step.
    limit: how many run at once: an integer of at least 1; None for no limit; or an async context manager,
        which each item holds while it runs, entered and left in the item's own Task.  At most one
        item waits for it, and what ``__aenter__`` raises is that item's error.  Or a tuple or list of
        these, as for gather().  A Future or Task takes its turn and its slot, though it runs already:
        with a limit, what has no slot yet is not given.  What is drawn one by one is drawn while fewer
        than twice *limit* have not been given (with a context manager and no integer, while at most 100
        of those that are done have not been).
    timeout: how many seconds, from the first step on, all of it may take; None for any time.

    In asynchronous iteration the Task of a coroutine is given, done: ``await task`` and
    ``task.result()`` say what it came to; a Future or Task of the caller's is given itself.  Errors are
    theirs: none stops anything else, and one at which nobody looks is logged, as of any Task.
    KeyboardInterrupt and SystemExit of an item also leave the event loop.  An error of the iterable is
    raised when everything that was drawn before has been given.

    When time is up nothing starts any more, and what was started here is cancelled; a Future or Task of
    the caller's goes on.  What has completed by then is given first, and what returns in spite of that
    is given, too.  When everything that was cancelled has ended, ``async for`` raises TimeoutError, once;
    so does each remaining coroutine of a plain loop.  If everything in what has a length has been given,
    none does.

    Raises TypeError if *aws* is no iterable, or *limit* or *timeout* of another kind, and ValueError if
    *limit* is less than 1 or empty, or *timeout* NaN.  The first step raises TypeError about something that
    is not awaitable or not hashable, and ValueError about a Future of another event loop, after
    closing every coroutine in *aws* that has not begun.  Where *aws* is drawn one by one, the Task of
    something that is not awaitable has a TypeError, that of such a Future, if it is not done, a
    RuntimeError.  Up to Python 3.12 the first step also raises what is wrong with *aws* itself.

    The name and what it does are those of asyncio.as_completed of Python 3.13, which has no limit,
    starts everything in the first step or in the call, and leaves it running.
    """


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


def gather(*aws, limit=None, return_exceptions=False, cancel_on_error=False, progress=None):
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
        item's error.  Or a tuple or list of these, all of which each item keeps to: one integer at
        most, and context managers, which are entered in their order and left in reverse.  At most
        one item waits for them, beside those that run; the integer counts that one, too.
    return_exceptions: return the errors among the results instead of raising the first.
    cancel_on_error: on the first error cancel the items that run, close the queued
        coroutines, wait, and raise that error; what the other items raise meanwhile, except
        CancelledError, becomes one note each on it.  Otherwise the first error is raised at
        once, items that run go on, and queued ones still start.  An item's own cancellation
        is an error.  KeyboardInterrupt and SystemExit of an item also leave the event loop.
    progress: told how many more items have ended, with a result, an error or a cancellation: a
        callable, which is called with that number, or an object with such an ``update()``, as
        tqdm's bars have.  True shows a bar of tqdm, with the number of items if that is
        known, and closes it in the end; None and False tell nobody.  It is called by the event
        loop, in a copy of the caller's context: ten milliseconds after an item has ended, not
        more often, and once more before the call ends, which it does one turn later for that.
        What it raises is the call's error, or becomes a note on the one that there is.

    Raises, before anything has started and after closing every coroutine among the items
    that has not begun, TypeError if *limit* or *progress* is of another kind or an item is not
    awaitable (about an iterable with a note that says to unpack it) or not hashable,
    ValueError if *limit* is less than 1 or empty or a Future belongs to another event loop,
    ImportError if *progress* is True and tqdm is missing, and RuntimeError if there is no event loop
    to choose.

    Cancelling the Future cancels the items that run and closes the queue.  It is done with
    the first exception that a running item then raises, CancelledError as a rule: as soon as
    that is raised, or with *cancel_on_error* when all have ended.  If all of them return, or
    with *return_exceptions*, it is done with CancelledError when all have ended; if nothing
    runs yet, at once.  A queued Future is left alone.

    The signature is that of asyncio.gather with three options more; without them it does what
    asyncio.gather of the running Python version does.
    """


async def run_all(async_fns, *, limit=None, return_exceptions=False, cancel_on_error=True, progress=None):
    """Call each of *async_fns* when a slot is free, await what it returns, return the results.

    Returns a coroutine; nothing happens before it is awaited.  No coroutine exists before
    its turn: each function is called without arguments inside its slot, in the item's own
    Task and its own copy of the caller's context.  The results are in the order of the
    functions.

    async_fns: an iterable, or an async iterable, of callables that return awaitables.  It is
        advanced by one for each free slot, by one more while that waits for a context manager in
        *limit*, and closed when nothing starts any more: a generator
        also if somebody else holds it, an async iterator by its ``aclose()``, which is awaited.
        All code of a sync one runs in one copy of the caller's context; all code of an async one
        in one Task, whose context is such a copy.  What it raises is treated as the first error
        of an item, even with *return_exceptions*; what it raises while it is closed becomes a
        note on the error that the call ends with.
    limit, return_exceptions, cancel_on_error, progress: as for gather(), except that *cancel_on_error*
        is true by default.

    Raises, before anything has started, TypeError if *limit* or *progress* is of another kind or
    *async_fns* not iterable, ValueError if *limit* is less than 1 or empty, and ImportError if
    *progress* is True and tqdm is missing.  What is not callable,
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

    funcs: an iterable, or an async iterable, of callables that return awaitables.
    max_runs: how many run at once: an integer of at least 1, None for no limit, an async
        context manager, or a tuple or list of these, as for gather().

    Name and signature are those of a recipe that many programs contain.
    """
