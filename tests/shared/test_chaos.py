"""Processes share limits while they and their server are killed, frozen, cut off and robbed of what they know (shared_chaos.py).

GATEDCORO_CHAOS=seconds runs longer, GATEDCORO_CHAOS_SEED=number with other faults.
"""

import os

import pytest

import effort
import shared_servers
from postgres_chaos import PostgresChaos
from shared_chaos import Chaos

SECONDS = {"redis": 60, "valkey": 60, "postgres": 30}
SEED = int(os.environ.get("GATEDCORO_CHAOS_SEED", 17))


@pytest.mark.parametrize("kind", [*shared_servers.KINDS, "postgres"], indirect=True)
def test_whatever_is_killed_never_more_than_the_limit_and_nothing_stuck(kind, tmp_path):
    seconds = float(os.environ.get("GATEDCORO_CHAOS", 20 if effort.SHORT else SECONDS[kind]))
    with (PostgresChaos if kind == "postgres" else Chaos)(SEED, seconds, kind, tmp_path) as chaos:
        summary = chaos.run()
    print(summary)
    assert not chaos.failures, "\n".join([summary, *chaos.failures])
