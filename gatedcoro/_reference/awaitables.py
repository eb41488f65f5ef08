"""Arguments as asyncio.gather takes them.  Twin of src/surface/awaitables.h."""

from .await_ import note_unpacking
from .item import ITEM_GATHER_AWAITABLE, loop_of
from .source import Awaitables
from .state import get_event_loop, isawaitable, iscoroutine, isfuture


def _distinct(arguments):
    """Return the distinct arguments, by hash and equality, and their layout.

    The layout says for each argument which of the distinct ones it is; it is None if they all
    are distinct.  Unhashable ones are a TypeError.
    """
    indexes = {}
    layout = []
    for argument in arguments:
        try:
            layout.append(indexes.setdefault(argument, len(indexes)))
        except TypeError as error:
            note_unpacking(error, argument)
            raise
    distinct = list(indexes)
    return (distinct, None if len(distinct) == len(layout) else layout)


def checked_awaitables(unstarted, loop, kind=ITEM_GATHER_AWAITABLE):
    """Return the source that asyncio.gather would make of *unstarted*, its layout, and its loop.

    Refuse what cannot be awaited, and Futures of different loops.  If *loop* is None, choose
    the one that asyncio.gather would choose.
    """
    distinct, layout = _distinct(unstarted.items)
    for argument in distinct:
        if isfuture(argument):
            if loop is None:
                loop = loop_of(argument)
            elif loop is not loop_of(argument):
                raise ValueError("The future belongs to a different loop than the one specified as the loop argument")
        elif not iscoroutine(argument) and not isawaitable(argument):
            refusal = "An asyncio.Future, a coroutine or an awaitable is required"
            raise note_unpacking(TypeError(refusal), argument)
        elif loop is None:
            loop = get_event_loop()
    if loop is None:
        loop = get_event_loop()
    unstarted.take()
    return Awaitables(distinct, kind), layout, loop
