"""How many items run at once.  Twin of src/engine/limit.h."""

import enum
import operator

from .asyncio_semaphore import without_defects


class LimitKind(enum.Enum):
    NONE = "all at once"
    COUNT = "so many"
    GATE = "those that hold it: an async context manager, entered and left in the item's own Task"


LIMIT_NONE, LIMIT_COUNT, LIMIT_GATE = LimitKind


class Limit:
    def __init__(self, limit):
        """*limit* is what parse_limit() or parse_n() returned."""
        self.count = self.gate = None
        self._waiting = None  # what has started, but waits for the gate
        if limit is None:
            self.kind = LIMIT_NONE
        elif isinstance(limit, int):
            self.kind = LIMIT_COUNT
            self.count = limit
        else:
            self.kind = LIMIT_GATE
            self.gate = without_defects(limit)

    def has_room(self, running):
        """Whether one more may run beside *running* others; at most one waits for a gate."""
        if self.kind is LIMIT_GATE:
            return self._waiting is None
        return self.kind is LIMIT_NONE or running < self.count

    def starts(self, child):
        if self.kind is LIMIT_GATE:
            self._waiting = child

    def no_longer_waits(self, child):
        """Return whether *child* waited: it has passed the gate, or has ended."""
        if self._waiting is not child:
            return False
        self._waiting = None
        return True


def _is_gate(limit):
    return hasattr(type(limit), "__aenter__") and hasattr(type(limit), "__aexit__")


def parse_limit(limit, name):
    """Return *limit* as None, an int of at least 1, or an async context manager."""
    if limit is None:
        return None
    is_gate, is_index = _is_gate(limit), hasattr(type(limit), "__index__")
    if is_gate and is_index:  # a proxy can do everything; whose it is, its __class__ tells
        is_index = hasattr(limit.__class__, "__index__")
    if is_index:
        limit = operator.index(limit)
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, or None for no limit, not {limit}")
        return limit
    if is_gate:
        return limit
    raise TypeError(
        f"{name} must be an integer, None or an async context manager, not {limit!r} ({type(limit).__name__})"
    )


def parse_buffersize(buffersize):
    """Return *buffersize* as None or an int of at least 0."""
    if buffersize is None:
        return None
    if not hasattr(type(buffersize), "__index__"):
        raise TypeError(f"buffersize must be an integer or None, not {buffersize!r} ({type(buffersize).__name__})")
    buffersize = operator.index(buffersize)
    if buffersize < 0:
        raise ValueError(f"buffersize must be at least 0, or None for as many as the limit, not {buffersize}")
    return buffersize


def parse_n(n, count):
    """Return *n*, the limit for *count* coroutines, as None or an int."""
    if n is None:
        return None
    if not hasattr(type(n), "__index__"):
        raise TypeError(f"n must be an integer or None, not {n!r} ({type(n).__name__})")
    n = operator.index(n)
    if n < 0:
        raise ValueError(f"n must be at least 1, or None for no limit, not {n}")
    if n == 0 and count:
        raise ValueError(f"n must be at least 1, or None for no limit, not 0: none of the {count} items could run")
    return n
