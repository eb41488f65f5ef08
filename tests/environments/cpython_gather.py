"""CPython's own tests of `asyncio.gather`, run with `asyncio.gather` replaced by `gatedcoro.gather`.

    python tests/environments/cpython_gather.py                       both implementations
    python tests/environments/cpython_gather.py --implementation c    one of them

Each implementation is run twice: with `limit=None`, and with a limit of 100. The tests are those of the
running interpreter's own `test` package: every test of `test_asyncio.test_tasks` that exercises `gather`, and
on 3.14 and later all of `test_asyncio.test_graph`. A missing `test` package is a failure, never a skip. The
summary is unittest's; the exit status is 0 only if every run passed and every run had the tests it should have.
"""

import argparse
import asyncio
import gc
import importlib
import inspect
import pathlib
import sys
import unittest

# The package of this tree, where it is not installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))

# Fewer would mean that the selection below no longer finds them.
LEAST_TESTS = 56
DEFAULT_LIMIT = 100


def cases_of(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from cases_of(entry)
        else:
            yield entry


def exercises_gather(case):
    """Whether the test is in one of the Gather classes, or says gather in its own source."""
    if "Gather" in type(case).__name__:
        # It runs interpreters with and without PYTHONASYNCIODEBUG, and gathers nothing.
        return case._testMethodName != "test_env_var_debug"
    method = inspect.unwrap(getattr(type(case), case._testMethodName))
    return "gather(" in inspect.getsource(method)


def load_tests():
    """A list of pairs (title, test cases); ImportError if the interpreter has no `test` package."""
    loader = unittest.TestLoader()
    test_tasks = importlib.import_module("test.test_asyncio.test_tasks")
    of_tasks = [case for case in cases_of(loader.loadTestsFromModule(test_tasks)) if exercises_gather(case)]
    loaded = [("test_tasks", of_tasks)]
    if sys.version_info >= (3, 14):
        test_graph = importlib.import_module("test.test_asyncio.test_graph")
        loaded.append(("test_graph", list(cases_of(loader.loadTestsFromModule(test_graph)))))
    return loaded


def replacement(gather, limit):
    def replaced_gather(*aws, **options):
        replaced_gather.calls += 1
        options.setdefault("limit", limit)
        return gather(*aws, **options)

    replaced_gather.calls = 0
    return replaced_gather


def run_with(gather, title):
    """Run all the tests with `asyncio.gather` replaced; return whether they passed."""
    passed = True
    for module_title, cases in load_tests():
        print(f"\n== {module_title}, {title}, Python {sys.version.split()[0]}: {len(cases)} tests", file=sys.stderr)
        stock = asyncio.gather
        asyncio.gather = gather
        try:
            result = unittest.TextTestRunner(verbosity=1).run(unittest.TestSuite(cases))
        finally:
            asyncio.gather = stock
        passed = passed and result.wasSuccessful()
        if module_title == "test_tasks" and result.testsRun - len(result.skipped) < LEAST_TESTS:
            print(f"only {result.testsRun - len(result.skipped)} of {LEAST_TESTS} tests ran", file=sys.stderr)
            passed = False
    if gather.calls < LEAST_TESTS:
        print(f"the replacement was called {gather.calls} times only", file=sys.stderr)
        passed = False
    return passed


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--implementation", choices=["c", "python", "both"], default="both")
    chosen = parser.parse_args(arguments).implementation
    modules = {"c": "gatedcoro._core", "python": "gatedcoro._reference"}
    names = ["c", "python"] if chosen == "both" else [chosen]
    try:
        load_tests()
    except ImportError as error:
        print(f"this interpreter cannot import its own tests: {error}", file=sys.stderr)
        return 1
    # Each test collects garbage when it has ended, which takes most of the time if all that is loaded is looked at.
    gc.collect()
    gc.freeze()
    passed = True
    for name in names:
        module = importlib.import_module(modules[name])
        for limit in (None, DEFAULT_LIMIT):
            gather = replacement(module.gather, limit)
            passed = run_with(gather, f"gatedcoro.gather in {name}, limit={limit}") and passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
