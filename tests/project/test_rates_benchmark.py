"""`python -m benchmarks rates` refuses a figure whose rate was not kept, and says what it has found."""

from __future__ import annotations

import pytest

from benchmarks import measure, rates


def answer(*starts, commands=0):
    return {"began": 10.0, "starts": [list(starts)], "commands": commands}


def even(count):
    """As many as the burst at once, then one each hundredth of a second."""
    return [10.0 + max(0, index - rates.BURST + 1) / rates.RATE for index in range(count)]


OURS = rates.WAYS[rates.OURS]


def test_what_processes_answer_becomes_the_figures_of_all_of_them():
    starts = even(210)
    found = rates.of_starts([answer(*starts[::2], commands=420), answer(*starts[1::2], commands=400)], OURS, 2)
    assert found["rate 2"] == pytest.approx(100, rel=0.02)
    assert found["second 2"] == pytest.approx(110, abs=1) and found["tenth 2"] == pytest.approx(20, abs=1)
    assert found["fair 2"] == pytest.approx(1, abs=0.02) and found["commands 2"] == 2


def test_starts_that_come_too_early_give_no_figures():
    with pytest.raises(measure.WrongResult, match="starts in 0.0.. s instead of"):
        rates.of_starts([answer(*even(50)), answer(*even(50))], OURS, 2)


def test_what_shares_nothing_may_have_the_rate_in_each_process():
    alone = rates.Way(rates.aiolimiter_alone, "aiolimiter", is_shared=False)
    assert rates.of_starts([answer(*even(50)), answer(*even(50))], alone, 2)["tenth 2"] > 20


def test_starts_that_come_late_are_no_error():
    late = [start + 0.5 for start in even(100)]
    assert rates.of_starts([answer(*late)], OURS, 1)["second 1"] == 100


def test_every_figure_has_a_row_and_every_way_a_column():
    found = {way: [dict.fromkeys(rates.ROWS, 2.0)] for way in rates.WAYS}
    rows = rates.written(found | {"another": [{}]}).splitlines()
    assert len(rows) == 2 + len(rates.ROWS)
    assert {row.count("|") for row in rows} == {3 + len(rates.WAYS)}
    orders = {(scarce, order): [{"time": 1.25, "tenth": 7.0}] for scarce in rates.SCARCE for order in rates.ORDERS}
    assert "| 1.25 | 1.25 | 7 | 7 |" in rates.written_orders(orders)


def test_the_page_has_a_place_for_each_table():
    for part in (rates.PART, rates.ORDERS_PART):
        assert rates.parts.split(rates.PAGE, part)[1].strip()
