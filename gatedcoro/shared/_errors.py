"""What can be wrong with a limit that is shared: a permit is lost, or none is to be had."""

__all__ = ["GateUnavailable", "LeaseLost"]


class LeaseLost(Exception):
    """The permit of an item is not its own any more: another process may hold it.

    The item was cancelled for it, and this takes the place of its CancelledError where it leaves the limit.
    """


class GateUnavailable(Exception):
    """No permit is to be had: the server was out of reach for a whole lease, or refuses, or the limit is closed.

    Where an exception of the server's client is behind it, that is the `__cause__`.
    """
