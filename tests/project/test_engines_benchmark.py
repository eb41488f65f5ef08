"""`python -m benchmarks engines` refuses a figure whose limit did not hold, and says what it has found."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import engines, measure


class Client:
    """At its scheduler so many waited or ran; two calls later all of it is forgotten."""

    def __init__(self, unfinished):
        self.unfinished = unfinished
        self.asked = 0

    async def run_on_scheduler(self, function):
        if function is not engines.counted:
            return None
        self.asked += 1
        return 2 * self.unfinished, self.unfinished, int(self.asked % 2)


def a_way(results, limit):
    async def run(client, function, count, heard):
        heard()
        return list(results(count))

    return engines.Way(run, limit)


def sample(monkeypatch, unfinished, limit=20, results=range):
    monkeypatch.setitem(engines.WAYS, engines.OURS, a_way(results, limit))
    return asyncio.run(engines.sample(Client(unfinished), engines.OURS, engines.QUICK))


@pytest.mark.parametrize("unfinished", [1, 21])
def test_a_limit_that_did_not_hold_or_let_one_in_at_a_time_gives_no_figures(monkeypatch, unfinished):
    with pytest.raises(measure.WrongResult, match=f"{unfinished} at once instead of 20"):
        sample(monkeypatch, unfinished)


def test_a_way_without_a_limit_may_have_everything_at_the_scheduler(monkeypatch):
    assert sample(monkeypatch, 1_000, limit=None)["unfinished"] == 1_000


def test_a_wrong_result_gives_no_figures(monkeypatch):
    with pytest.raises(measure.WrongResult):
        sample(monkeypatch, 20, results=lambda count: [0] * count)


def test_every_figure_has_a_row_and_every_way_a_column(monkeypatch):
    found = sample(monkeypatch, 20)
    assert found["most"] == 40
    found |= {"client": 1.0, "scheduler": 2.0}
    assert found.keys() == engines.ROWS.keys()
    ways = {way: [found] for way in engines.WAYS} | {
        engines.OURS: [{"tasks": 1_234.0}, {"tasks": 1_236.0, "first": 7.0}]
    }
    rows = engines.written(ways, engines.FULL).splitlines()
    assert len(rows) == 2 + len(engines.ROWS)
    assert {row.count("|") for row in rows} == {2 + len(engines.WAYS)}
    assert rows[2].startswith("| functions that do nothing, a second | 1,235 |")
    assert rows[4].startswith("| the first result that the caller sees, of 500: ms | 7 |")
    assert rows[5].startswith("| most at the scheduler that wait or run, of 500 |  |")


def test_tasks_are_counted_from_the_first_change_of_their_state_to_their_end():
    class Scheduler:
        tasks = {}

    counting = engines.Counting(Scheduler)
    for key in "ab":
        Scheduler.tasks[key] = None
        counting.transition(key, "released", "waiting")
        counting.transition(key, "waiting", "processing")
    counting.transition("a", "processing", "memory")
    assert (counting.most, counting.most_unfinished, counting.unfinished) == (2, 2, 1)
    counting.transition("b", "processing", "released")  # it was cancelled
    counting.transition("a", "memory", "released")
    for key in "ab":
        counting.transition(key, "released", "forgotten")
    assert (counting.most_unfinished, counting.unfinished) == (2, 0)


def test_the_page_has_a_place_for_the_tables():
    assert engines.parts.split(engines.PAGE, engines.PART)[1].strip()
