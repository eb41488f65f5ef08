"""`python -m benchmarks planning` refuses a figure whose limit did not hold, and has a place on its page for each table."""

from __future__ import annotations

import argparse
import asyncio

import pytest

from benchmarks import measure, planning
from benchmarks.real import servers


def test_items_that_are_too_many_at_once_give_no_figures():
    counted = planning.Counted(1, 0.01)

    async def main():
        await asyncio.gather(counted.item(), counted.item())

    with pytest.raises(measure.WrongResult, match="2 at once instead of 1"):
        asyncio.run(main())


def test_what_a_task_raised_that_was_to_run_on_is_raised():
    async def fails():
        raise measure.WrongResult("3 at once")

    async def main():
        async with planning.running([fails(), asyncio.sleep(60)]):
            await asyncio.sleep(0)

    with pytest.raises(measure.WrongResult):
        asyncio.run(main())


@pytest.mark.skipif(servers.no_redis() is not None, reason="there is no server")
def test_sessions_that_are_only_requests_hand_permits_over_and_leave_nothing():
    pytest.importorskip("redis")

    async def main():
        async with servers.redis() as port:
            server = planning.Server(port)
            try:
                found = await planning.of_server(server, 4, 20)
                many = await planning.of_many(server, 3, 7)
                assert await server.client.keys("*") == []
            finally:
                await server.client.aclose()
        return found, many

    found, many = asyncio.run(main())
    assert found.keys() == {"renewal", "hand-over", "claim", "news", "bytes"} and found["bytes"] > 50
    assert many["taken"] > 0


def test_every_step_has_a_table_and_every_table_a_place_on_the_page():
    made = {part for part, _, _ in planning.steps(None, None, planning.FULL)}
    assert made == set(planning.PARTS)
    for part in planning.PARTS:
        assert planning.parts.split(planning.PAGE, part)[1].strip()


def test_a_row_without_a_figure_is_written_all_the_same():
    for part, row, _ in planning.steps(None, None, planning.FULL):
        found = {key: [{}] for of_part, key, _ in planning.steps(None, None, planning.FULL) if of_part == part}
        lines = planning.PARTS[part](found).splitlines()
        assert len({line.count("|") for line in lines}) == 1, row


def test_without_a_client_nothing_is_measured_and_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(planning, "CLIENTS", ("redis", "there_is_no_such_client"))
    assert planning.main(argparse.Namespace(quick=True, only="", docs=False)) == 1
    assert "there_is_no_such_client is not installed" in capsys.readouterr().out
