"""A pytest plugin for langchain-core's own tests: installs the swap, counts what reaches it, and notes how each test ended.

Read from the environment:
    SWAP_MODE    plain    nothing is replaced
                 swapped  gatedcoro's functions are in place
                 limited  the same, and a call without a limit gets a limit of 2
                 helpers  as swapped, but LangChain keeps its method abatch_as_completed, which then uses a helper
    SWAP_ROOT    the unpacked sdist; LangChain must come from there
    SWAP_OUTPUT  a folder; every process (pytest's own, and each of xdist's) leaves what it saw there
"""

import collections
import json
import os
from pathlib import Path

import langchain_core

import gatedcoro
import gatedcoro.langchain

MODE = os.environ["SWAP_MODE"]
ROOT = Path(os.environ["SWAP_ROOT"]).resolve()
OUTPUT = Path(os.environ["SWAP_OUTPUT"])

calls: collections.Counter[str] = collections.Counter()
outcomes: dict[str, list[str]] = collections.defaultdict(list)


def pytest_configure(config):
    found = Path(langchain_core.__file__).resolve()
    if not found.is_relative_to(ROOT):
        raise RuntimeError(f"the tests would run on {found}, not on {ROOT}")
    if MODE == "plain":
        return
    gated_coro, gather_with_concurrency = gatedcoro.gated_coro, gatedcoro.gather_with_concurrency
    amap = gatedcoro.amap

    def noted(name, limit):
        calls[f"{name}, {'None' if limit is None else 'int'}"] += 1
        return 2 if limit is None and MODE == "limited" else limit

    def counted_gated_coro(semaphore, coro):
        calls["gated_coro"] += 1
        return gated_coro(semaphore, coro)

    def counted_gather_with_concurrency(n, *coros):
        return gather_with_concurrency(noted("gather_with_concurrency", n), *coros)

    def counted_amap(*args, limit, **kwargs):
        return amap(*args, limit=noted("abatch_as_completed", limit), **kwargs)

    # The planted functions look gatedcoro's up when they are called.
    gatedcoro.gated_coro = counted_gated_coro
    gatedcoro.gather_with_concurrency = counted_gather_with_concurrency
    gatedcoro.amap = counted_amap
    gatedcoro.langchain.install(as_completed=MODE != "helpers")


def pytest_runtest_logreport(report):
    outcome = "xfailed" if report.skipped and hasattr(report, "wasxfail") else report.outcome
    outcomes[report.nodeid].append(f"{report.when} {outcome}")


def pytest_sessionfinish(session):
    # Under xdist every report comes to the main process as well, and only there is the list complete.
    is_worker = hasattr(session.config, "workerinput")
    seen = {
        "implementation": gatedcoro.implementation,
        "installed": gatedcoro.langchain.installed(),
        "calls": calls,
        "outcomes": {} if is_worker else outcomes,
    }
    (OUTPUT / f"{os.getpid()}.json").write_text(json.dumps(seen))
