"""Runs each file of tests in a fork of a process that has imported pytest: `python tools/pytest_by_file.py FILE... [-OPTION...]`.

That is for a free-threaded Python, whose collector goes through all objects, also what is frozen: in one process for all files, most
of the time goes to what pytest keeps of the tests of other files. And it is slow to start, so it starts once.
"""

import asyncio  # noqa: F401  what the tests import is imported once
import collections
import json
import os
import sys
import unittest.mock  # noqa: F401

import pytest


class Counts:
    """How many tests ended in which way, told to the process that has forked."""

    def __init__(self, pipe):
        self.pipe = pipe

    def pytest_terminal_summary(self, terminalreporter):
        stats = {kind: len(reports) for kind, reports in terminalreporter.stats.items() if kind}
        os.write(self.pipe, json.dumps(stats).encode())


def run_in_fork(file, options):
    """Return pytest's exit status, negative for a signal, and how many tests ended in which way."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        sys.exit(pytest.main([*options, file], plugins=[Counts(writing)]))
    os.close(writing)
    with open(reading) as pipe:
        stats = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), json.loads(stats or "{}")


def main(arguments):
    options = [argument for argument in arguments if argument.startswith("-")]
    files = [argument for argument in arguments if argument not in options]
    total, failed = collections.Counter(), {}
    for file in files:
        status, stats = run_in_fork(file, options)
        total.update(stats)
        if status:
            failed[file] = status
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(total.items()))
    print(f"ci: {counted or 'no tests'} in {len(files)} files")
    for file, status in failed.items():
        print(f"FAILED {file}: pytest's exit status is {status}")
    return 1 if failed or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
