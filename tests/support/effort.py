"""How much the long tests do. With GATEDCORO_TESTS=short in the environment they do a part of it.

That is for interpreters and builds on which each step takes many times as long (sanitizers, debug builds of Python): the
same kinds of steps are taken, fewer of them, and only where there is C to look at. Tests of what is the same on every build
(the benchmarks, types, a program started with the swap) skip themselves.
"""

import os

SHORT = os.environ.get("GATEDCORO_TESTS") == "short"


def part_of(seeds):
    """Every tenth of the seeds of random programs."""
    return seeds[::10] if SHORT else seeds


def sequence_length(length):
    """Sequences one step shorter are about a tenth as many."""
    return length - 1 if SHORT else length
