"""`python -m benchmarks shared` refuses a figure whose limit did not hold, and says what it has found."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from benchmarks import measure, shared

ANSWER = {
    "enter": 1.5,
    "first": 2.0,
    "counted": {"most": 5},
    "nothing": {"began": 10.0, "ended": 12.0, "count": 100, "commands": 30},
    "sleeping 5": {"began": 10.0, "ends": [10.1, 10.3], "commands": 4},
    "sleeping 1": {"began": 10.0, "ends": [10.1, 10.2], "commands": 8},
}


class Bench:
    """Its processes answer at once."""

    def __init__(self, *together):
        self.together = list(together)

    async def work(self, way, size, processes):
        return self.together if processes > 1 else [ANSWER]


def sample(*together):
    return asyncio.run(shared.sample(Bench(*together), shared.OURS, shared.QUICK))


def test_a_limit_that_was_exceeded_gives_no_figures():
    with pytest.raises(measure.WrongResult, match="6 at once instead of 5"):
        sample(ANSWER, ANSWER | {"counted": {"most": 6}}, ANSWER)


def test_a_limit_that_let_one_in_at_a_time_gives_no_figures():
    with pytest.raises(measure.WrongResult, match="1 at once instead of 5"):
        sample(*[ANSWER | {"counted": {"most": 1}}] * 3)


def test_what_processes_answer_becomes_the_figures_of_all_of_them():
    slow = ANSWER | {"sleeping 5": {"began": 10.0, "ends": [10.2, 10.6], "commands": 6}}
    found = sample(ANSWER, ANSWER, slow)
    assert found["items 3"] == 150 and found["items 1"] == 50  # a second
    assert found["commands 3"] == 0.1 and found["commands 1"] == 0.3  # all of the server's, an item
    assert found["time 5"] == pytest.approx(0.6 / (6 * shared.PAUSE / 5))
    assert found["gap 5"] == pytest.approx(400)
    assert found["fair 5"] == 0.5 and found["fair 1"] == 1
    assert found["commands of 5"] == 1
    assert found.keys() == shared.ROWS.keys()


def test_every_figure_has_a_row_and_every_limit_a_column():
    ours = dict.fromkeys(shared.ROWS, 2.0)
    others = {way: [dict.fromkeys(shared.ROWS, 500.0)] for way in shared.WAYS if way != shared.OURS}
    others["py-redis-semaphore"] = [{"enter": 0.5}]
    rows = shared.written({shared.OURS: [ours]} | others).splitlines()
    assert len(rows) == 2 + len(shared.ROWS)
    assert {row.count("|") for row in rows} == {2 + len(shared.WAYS)}
    assert "| 2.00 | 500.00 (250 x) | 500.00 (250 x) | 0.50 (1/4.0) | 500.00 (250 x) |" in rows[2]


def test_a_goal_without_a_figure_is_missed():
    waited = {"busy": 0.001, "syncs": 3.0}
    for way in (shared.OURS, shared.POSTGRES):
        assert not any(goal.is_met for goal in shared.goals([], waited, way)[:4])
    good = {"enter": 3.0, "items 1": 100_000.0, "commands 1": 0.01, "time 5": 1.3}
    assert all(goal.is_met for goal in shared.goals([good], waited))
    bad = {"enter": 3.1, "items 1": 99_999.0, "commands 1": 0.011, "time 5": 1.31}
    assert [goal.is_met for goal in shared.goals([bad], {"busy": 0.1, "syncs": 9.0})] == [False] * 6


def test_a_goal_that_only_one_of_the_limits_has_is_not_the_other_ones():
    waited = {"busy": 0.001, "syncs": 15.0}
    assert [goal.is_met for goal in shared.goals([], waited)] == [False] * 4 + [True, False]
    assert [goal.is_met for goal in shared.goals([], waited, shared.POSTGRES)] == [False] * 4 + [True]
    assert all(str(goal).split(": ")[1] == shared.POSTGRES for goal in shared.goals([], waited, shared.POSTGRES))


def test_what_waiting_costs_has_a_column_for_each_of_the_limits():
    rows = shared.written_waiting(
        {
            shared.OURS: {"busy": 0.001, "syncs": 3.0, "killed": 2.5},
            shared.POSTGRES: {"busy": 0.002, "syncs": 15.0, "killed": 0.25},
        }
    ).splitlines()
    assert [row.split(" | ", 1)[1] for row in rows[2:]] == ["1.0 | 2.0 |", "3.0 | 15.0 |", "2.50 | 0.25 |"]


def test_a_limit_whose_server_or_client_is_not_there_is_left_out_and_says_why():
    way = dataclasses.replace(shared.WAYS[shared.POSTGRES], module="asyncio", missing=lambda: "there is no PostgreSQL")
    assert way.left_out() == "there is no PostgreSQL"
    assert dataclasses.replace(way, module="no_such_module").left_out() == "no_such_module is not installed"
    assert shared.WAYS["asyncio.Semaphore, nothing shared"].left_out() is None


def test_the_page_has_a_place_for_each_table():
    for part in (shared.PART, shared.WAITING_PART, shared.SESSIONS_PART, shared.POSTGRES_SESSIONS_PART):
        assert shared.parts.split(shared.PAGE, part)[1].strip()
