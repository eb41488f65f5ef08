"""asyncio's semaphores without the slots that they lose or gain.  Twin of src/coroutines/asyncio_semaphore.h."""

import types

from .compat import ACQUIRE_MISCOUNTS_A_THROWN_CANCELLATION
from .state import CancelledError, isfuture, semaphores


class _CuredSemaphore:
    """An asyncio.Semaphore that loses and gains no slot when a wait for it ends oddly."""

    def __init__(self, semaphore):
        self._semaphore = semaphore

    async def __aenter__(self):
        return await _enter(self._semaphore)

    async def __aexit__(self, *exception):
        return await type(self._semaphore).__aexit__(self._semaphore, *exception)


def without_defects(gate):
    """Return what to enter and to leave instead of *gate*."""
    cls = type(gate)
    if not issubclass(cls, semaphores):
        return gate
    plain = semaphores[0]
    if (
        cls.acquire is plain.acquire
        and cls.release in [semaphore.release for semaphore in semaphores]
        and cls.__aenter__ is plain.__aenter__
    ):
        return _CuredSemaphore(gate)
    return gate


@types.coroutine
def _enter(semaphore):
    """Drive `semaphore.__aenter__()`, minding who has the slot when the wait is ended.

    release() hands the slot over by setting the result of the waiter's Future.  If it fails
    after that, acquire() loses the slot, unless it fails with CancelledError.
    """
    entering = type(semaphore).__aenter__(semaphore)
    thrown = waiter = None
    try:
        while True:
            try:
                waiter = entering.send(None) if thrown is None else entering.throw(thrown)
            except StopIteration as stop:
                waiter = None
                return stop.value
            try:
                yield waiter
                thrown = None
            except BaseException as error:
                thrown = error
            if (
                ACQUIRE_MISCOUNTS_A_THROWN_CANCELLATION
                and isinstance(thrown, CancelledError)
                and isfuture(waiter)
                and not waiter.done()
            ):
                waiter.cancel()
    except CancelledError:
        raise
    except BaseException:
        if isfuture(waiter) and waiter.done() and not waiter.cancelled():
            semaphore.release()
        raise
    finally:
        del thrown  # its traceback holds this frame
