"""How many items run at once.  Twin of src/engine/limit.h."""

import dataclasses
import operator

from .asyncio_semaphore import without_defects
from .semaphore import is_counted
from .slots import Slots


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What each item of a call keeps to: a number, gates, or both."""

    count: int | None = None
    gates: tuple = ()
    """Async context managers, entered in this order and left in reverse in the item's own Task."""

    @property
    def is_none(self):
        """Whether everything starts at once."""
        return self.count is None and not self.gates


class Limit:
    """The limits of a gathering, and what waits for them.

    A semaphore of ours that is the first of its gates is counted here (slots.py), unless it is bound to another loop.
    """

    def __init__(self, limits, loop):
        gates, semaphore = limits.gates, None
        if gates and is_counted(gates[0]) and gates[0]._counter.can_wait_in(loop):
            semaphore, *gates = gates
        self.is_none = limits.is_none
        self.gates = tuple(map(without_defects, gates))
        self.count = limits.count
        self.slots = Slots(semaphore)
        self._waiting = None  # what has started, but has not entered all gates

    def has_room(self, running):
        """Whether one more may run beside *running* others, as far as slots go; at most one waits for gates."""
        return self._waiting is None and (self.count is None or running < self.count)

    def starts(self, child):
        self.slots.hand_on(child)
        if self.gates:
            self._waiting = child

    def no_longer_waits(self, child):
        """Return whether *child* waited: it has passed the gates, or has ended."""
        if self._waiting is not child:
            return False
        self._waiting = None
        return True


def _is_gate(limit):
    return hasattr(type(limit), "__aenter__") and hasattr(type(limit), "__aexit__")


def _is_number(limit):
    is_number = hasattr(type(limit), "__index__")
    if is_number and _is_gate(limit):  # a proxy can do everything; whose it is, its __class__ tells
        is_number = hasattr(limit.__class__, "__index__")
    return is_number


def _number(limit, name):
    count = operator.index(limit)
    if count < 1:
        raise ValueError(f"{name} must be at least 1, or None for no limit, not {count}")
    return count


def _row(limit, name):
    row = tuple(limit)  # a list may change
    if not row:
        raise ValueError(f"{name} must have at least one limit in its row, or be None for no limit, not {limit!r}")
    count, gates = None, []
    for index, one in enumerate(row):
        if _is_number(one):
            if count is not None:
                raise TypeError(
                    f"{name}[{index}] must be an async context manager, not {one!r}:"
                    " there is an integer in the row already"
                )
            count = _number(one, name)
        elif _is_gate(one):
            gates.append(one)
        else:
            raise TypeError(
                f"{name}[{index}] must be an integer or an async context manager, not {one!r} ({type(one).__name__})"
            )
    return Limits(count, tuple(gates))


def parse_limit(limit, name):
    """Return *limit* as Limits: None, an integer, an async context manager, or a tuple or list of these."""
    if limit is None:
        return Limits()
    if _is_number(limit):
        return Limits(_number(limit, name))
    if _is_gate(limit):
        return Limits(gates=(limit,))
    if isinstance(limit, tuple | list):
        return _row(limit, name)
    raise TypeError(
        f"{name} must be an integer, an async context manager, a tuple or list of these, or None,"
        f" not {limit!r} ({type(limit).__name__})"
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
    """Return *n*, the limit for *count* coroutines, as Limits."""
    if n is None:
        return Limits()
    if not hasattr(type(n), "__index__"):
        raise TypeError(f"n must be an integer or None, not {n!r} ({type(n).__name__})")
    n = operator.index(n)
    if n < 0:
        raise ValueError(f"n must be at least 1, or None for no limit, not {n}")
    if n == 0 and count:
        raise ValueError(f"n must be at least 1, or None for no limit, not 0: none of the {count} items could run")
    return Limits(n)
