"""`python -m gatedcoro` runs both, compares them, and leaves cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import gatedcoro
from gatedcoro import _demo, _demo_streams
from implementations import package_parent

ENVIRONMENT = {**os.environ, "PYTHONPATH": package_parent(gatedcoro)}
COMMAND = [sys.executable, "-m", "gatedcoro"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def test_it_measures_both_on_every_kind_of_work_and_finds_the_same_results():
    done = run("--quick", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["same_results"] is True
    assert report["peak_requests_at_once"] == 50
    assert [work["work"] for work in report["works"]] == ["http", "nothing", "sleep(0)", "future"]
    for work in report["works"]:
        assert set(work["rounds"]) == {"langchain", "gatedcoro"}
        for figures in (work["seconds"], work["peak_extra_bytes"], work["longest_stall_seconds"]):
            assert set(figures) == {"langchain", "gatedcoro", "ratio"}
    for what in ("seconds", "peak_extra_bytes", "longest_stall_seconds"):
        assert set(report["streams"][what]) == {"asyncio", "workers", "gatedcoro"}


def test_help_says_what_it_does():
    done = run("--help")
    assert done.returncode == 0
    assert "LangChain" in done.stdout and "--quick" in done.stdout and "--json" in done.stdout


def test_the_version_can_be_asked_for():
    assert run("--version").stdout.strip() == f"gatedcoro {gatedcoro.__version__}"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_it_shows_progress_to_a_person_and_ctrl_c_leaves_without_a_traceback():
    terminal, its_end = os.openpty()
    with subprocess.Popen(COMMAND, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=its_end) as process:
        os.close(its_end)
        shown = b""
        while b"HTTP requests" not in shown:  # it has begun to measure
            shown += os.read(terminal, 10_000)
        process.send_signal(signal.SIGINT)
        try:
            while more := os.read(terminal, 10_000):
                shown += more
        except OSError:
            pass  # how Linux says that the other end is closed
        finally:
            os.close(terminal)
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait(timeout=60) == 130
    text = shown.decode()
    assert text.rstrip().endswith("interrupted")
    assert "Traceback" not in text and "never awaited" not in text


def test_the_service_ends_with_the_demo_and_without_a_word_whatever_is_under_way():
    program = Path(_demo.__file__).with_name("_demo_server.py")
    with (
        subprocess.Popen(
            [sys.executable, "-X", "dev", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
        contextlib.ExitStack() as connections,
    ):
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        for i in range(60):
            connection = connections.enter_context(socket.create_connection(address))
            if i % 3:
                connection.sendall(b"GET /item/%d HTTP/1.1\r\n\r\n" % i)
            if i % 3 == 2:
                assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_wrong_results_are_an_error_and_no_figures_are_shown(monkeypatch, capsys):
    async def forgetful(n, *coros):
        return [await coro for coro in coros][::-1]

    monkeypatch.setitem(_demo.CONTENDERS, "gatedcoro", forgetful)
    assert _demo.main(["--quick"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: gatedcoro gave wrong results")


@pytest.mark.parametrize("way", _demo_streams.WAYS)
def test_a_stream_that_loses_an_item_is_an_error(way, monkeypatch):
    plain = _demo_streams.WAYS[way]

    async def forgetful(numbers, read):
        next(numbers)
        await plain(numbers, read)

    asyncio.run(_demo_streams.Streams(1_000).run(way))
    monkeypatch.setitem(_demo_streams.WAYS, way, forgetful)
    with pytest.raises(_demo.WrongResult, match=f"{way} gave wrong results for 1,000 items .*: 999 of them"):
        asyncio.run(_demo_streams.Streams(1_000).run(way))


def test_the_table_is_plain_and_narrow(capsys):
    work = _demo.Work("nothing", "items that do nothing", _demo.nothing, 40_000, 10)
    work.seconds = {"langchain": [1.25, 1.0, 9.0], "gatedcoro": [0.05, 0.04, 0.06]}
    work.memory = {"langchain": 36_400_000, "gatedcoro": 50_000}
    work.stall = {"langchain": 0.4, "gatedcoro": 0.0001}
    streams = _demo_streams.Streams(100_000)
    for way in _demo_streams.WAYS:
        streams.seconds[way], streams.memory[way], streams.stall[way] = 1.25, 95_000, 0.0001
    for heads, sections in _demo.tables_of([work], streams):
        _demo.print_plain_table(heads, sections)
    assert capsys.readouterr().out.splitlines() == [
        "                                     LangChain's    gatedcoro        ratio",
        "40,000 items that do nothing, 10 at a time",
        "  time                                  1,250 ms        50 ms          25x",
        "  peak extra memory                      36.4 MB        50 kB         728x",
        "  longest stall of the event loop         400 ms   under 2 ms    over 200x",
        "                                         asyncio      workers    gatedcoro",
        "100,000 items from a generator, 50 and then 4 at a time, to a slow reader",
        "  time                                  1,250 ms     1,250 ms     1,250 ms",
        "  peak extra memory                        95 kB        95 kB        95 kB",
        "  longest stall of the event loop     under 2 ms   under 2 ms   under 2 ms",
    ]


def test_a_ratio_is_not_pretended_where_it_cannot_be_told():
    assert _demo.shown_ratio(0.001, 0.0005, floor=0.002) == "same"
    assert _demo.shown_ratio(0.010, 0.0005, floor=0.002) == "over 5.0x"
    assert _demo.shown_ratio(0.001, 0.004, floor=0.002) == "0.2x"
