"""Proof that the swap is safe: `langchain_proof.py SDIST OUTPUT`, as the session `langchain` of noxfile.py runs it.

In an environment that holds gatedcoro, a langchain-core and what its tests need: langchain-core's own unit tests, carried by its
unpacked SDIST, run twice (swapped, swapped with every missing limit turned into 2; see langchain_plugin.py), those of one file once
more without the method that the swap replaces. Every test must pass, or end as it does without the swap, where only these run; and
calls must have reached each function of gatedcoro, with a limit and without.
"""

import collections
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

SDIST, OUTPUT = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()

# langchain-core 0.3.61 has two tests that fail with a current pydantic; a test that measures time may fail on a busy machine.
MOST_FAILING = 5
# What ends in another way with the swap runs again, alone, with and without it: some of these tests want a step done within a
# second, which a busy machine now and then does not give them, and others depend on what ran before them.
MORE_CHANCES = 3
KINDS = (
    *("gather_with_concurrency, None", "gather_with_concurrency, int"),
    *("abatch_as_completed, None", "abatch_as_completed, int"),
)
EVERYTHING = "tests/unit_tests"
# Per mode the tests, and the kinds of calls that must reach gatedcoro.
MODES = {
    "swapped": (EVERYTHING, KINDS),
    "limited": (EVERYTHING, KINDS),
    # gated_coro is used by LangChain's own abatch_as_completed, and by nothing else.
    "helpers": ("tests/unit_tests/runnables/test_concurrency.py", ("gated_coro",)),
}

runs = itertools.count()


def say(text):
    print(f"ci: {text}", flush=True)


def fail(text):
    sys.exit(f"ci: FAILED: {text}")


def run(mode, *selected):
    """How each test ended under a mode, from its whole suite or the tests that are named."""
    began = time.monotonic()
    output = OUTPUT / f"{mode}-{next(runs)}"
    output.mkdir(parents=True)
    everything, kinds = MODES.get(mode, (EVERYTHING, ()))
    parallel = () if selected else ("-n", "2")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", *parallel, "-p", "langchain_plugin", "-p", "no:cacheprovider"),
            *("--no-header", "--tb=short", *(selected or [everything])),
        ],
        cwd=SDIST,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "SWAP_MODE": mode,
            "SWAP_ROOT": str(SDIST),
            "SWAP_OUTPUT": str(output),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen = [json.loads(file.read_text()) for file in output.iterdir()]
    outcomes = {test: ended for process in seen for test, ended in process["outcomes"].items()}
    if not outcomes or done.returncode not in (0, 1):  # else tests that could not be imported would not be missed
        fail(f"{mode}: not all tests ran\n{done.stdout[-20_000:]}")
    (OUTPUT / f"{mode}.log").write_text(done.stdout)
    if {process["implementation"] for process in seen} != {"c"}:
        fail(f"{mode}: the extension was not there in every process")
    if {process["installed"] for process in seen} != {mode != "plain"}:
        fail(f"{mode}: the swap was not what it was to be in every process")
    if not selected:
        summary = [line for line in done.stdout.splitlines() if " passed" in line][-1:]
        say(f"{mode}: {' '.join(summary).strip('= ')}; {time.monotonic() - began:.0f} s")
        calls = sum((collections.Counter(process["calls"]) for process in seen), collections.Counter())
        if kinds:
            say(f"{mode}: calls that reached gatedcoro: " + "; ".join(f"{kind}: {calls[kind]}" for kind in kinds))
        if not all(calls[kind] for kind in kinds):
            fail(f"{mode}: one of the functions was never called")
    return outcomes


def unequal(plain, outcomes, tests):
    """Those of the tests that end in another way."""
    return [test for test in tests if plain.get(test) != outcomes.get(test)]


def compare(mode, outcomes):
    """Those that do not pass must end as they do without the swap; returns how these ended there."""
    others = sorted(test for test, ended in outcomes.items() if not all(step.endswith(" passed") for step in ended))
    plain = run("plain", *others) if others else {}
    differing = unequal(plain, outcomes, others)
    for _ in range(MORE_CHANCES):
        if not differing:
            break
        say(f"{mode}: once more, alone: {differing}")
        again, outcomes = run("plain", *differing), run(mode, *differing)
        differing = unequal(again, outcomes, differing)
    if differing:
        print((OUTPUT / f"{mode}.log").read_text()[-20_000:], flush=True)
        fail(f"{mode}: these tests end in another way: {differing}")
    return plain


def main():
    say(f"{SDIST.name}, Python {sys.version.split()[0]}")
    tests = {}
    for mode in MODES:
        outcomes = run(mode)
        tests.setdefault(MODES[mode][0], set(outcomes))
        if missing := tests[MODES[mode][0]] ^ set(outcomes):
            fail(f"{mode}: these tests ran in one mode alone: {sorted(missing)[:20]}")
        plain = compare(mode, outcomes)
        failing = [test for test, ended in plain.items() if any(step.endswith(" failed") for step in ended)]
        if len(failing) > MOST_FAILING:
            fail(f"{len(failing)} tests fail without the swap: {failing[:20]}")
        say(f"{mode}: {len(outcomes) - len(plain)} tests passed, {len(plain)} ended as they do without the swap")


main()
