"""Processes share limits while they and their server are killed, frozen, cut off and robbed of what they know (shared_chaos.py).

GATEDCORO_CHAOS=seconds runs longer, GATEDCORO_CHAOS_SEED=number with other faults.
"""

import os

import effort
from shared_chaos import Chaos

SECONDS = float(os.environ.get("GATEDCORO_CHAOS", 20 if effort.SHORT else 60))
SEED = int(os.environ.get("GATEDCORO_CHAOS_SEED", 17))


def test_whatever_is_killed_never_more_than_the_limit_and_nothing_stuck(kind, tmp_path):
    with Chaos(SEED, SECONDS, kind, tmp_path) as chaos:
        summary = chaos.run()
    print(summary)
    assert not chaos.failures, "\n".join([summary, *chaos.failures])
