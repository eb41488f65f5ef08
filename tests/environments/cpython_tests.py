"""CPython's own tests of `asyncio.gather`, `asyncio.as_completed` and asyncio's semaphores, run with ours in the place of asyncio's.

    python tests/environments/cpython_tests.py                            all of them in both implementations
    python tests/environments/cpython_tests.py --implementation c         in one of them
    python tests/environments/cpython_tests.py --function as_completed    one of the functions
    python tests/environments/cpython_tests.py --function semaphore       both classes

Each function of each implementation is run twice: with `limit=None`, and with a limit of 100. The tests are those of the
running interpreter's own `test` package: every test of `test_asyncio.test_tasks` that exercises the function, and on 3.14 and
later those of `test_asyncio.test_graph`, all of them for `gather`; for the semaphores, which are replaced together, every test
of `test_asyncio.test_locks` and `test_pep492` that makes one. A missing `test` package is a failure, never a skip. The
summary is unittest's; the exit status is 0 only if every run passed and every run had the tests it should have.
"""

import argparse
import asyncio
import functools
import gc
import importlib
import inspect
import pathlib
import sys
import unittest

# The package of this tree, where it is not installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))

# Of the first module; fewer would mean that the selection below no longer finds them.
LEAST_TESTS = {
    "gather": 56,
    "as_completed": 72 if sys.version_info < (3, 13) else 88,
    "semaphore": 16 if sys.version_info < (3, 13) else 17,
}
REPLACED = {"gather": ["gather"], "as_completed": ["as_completed"], "semaphore": ["Semaphore", "BoundedSemaphore"]}
# Below some 10 the simulated clocks of their tests, which assume that everything runs at once, go wrong.
DEFAULT_LIMIT = 100
# In the stacks of test_graph: coroutines between who iterates and what is awaited, asyncio's, and the reference's. The C shows none.
FRAMES_OF_AS_COMPLETED = {
    *("a get", "a _wait_for_one"),
    *("a _next_result_of", "a next_result", "a _wait_for_next", "a _wait_until_there_is_one", "a waits"),
}


def cases_of(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from cases_of(entry)
        else:
            yield entry


def exercises(function, case):
    """Whether the test names the function in its own source, or is in one of the Gather classes."""
    if function == "gather" and "Gather" in type(case).__name__:
        # It runs interpreters with and without PYTHONASYNCIODEBUG, and gathers nothing.
        return case._testMethodName != "test_env_var_debug"
    return f"{function}(" in source_of(case)


def source_of(case):
    return inspect.getsource(inspect.unwrap(getattr(type(case), case._testMethodName)))


def makes_a_semaphore(case):
    return "asyncio.Semaphore" in source_of(case) or "asyncio.BoundedSemaphore" in source_of(case)


def load_tests(function):
    """A list of pairs (title, test cases); ImportError if the interpreter has no `test` package."""
    loader = unittest.TestLoader()

    def cases_in(name):
        return cases_of(loader.loadTestsFromModule(importlib.import_module(f"test.test_asyncio.{name}")))

    if function == "semaphore":
        modules = ["test_locks", "test_pep492"]
        return [(name, [case for case in cases_in(name) if makes_a_semaphore(case)]) for name in modules]
    loaded = [("test_tasks", [case for case in cases_in("test_tasks") if exercises(function, case)])]
    if sys.version_info >= (3, 14):
        of_graphs = [case for case in cases_in("test_graph") if function == "gather" or exercises(function, case)]
        if function == "as_completed":
            for case in of_graphs:
                case.assertEqual = functools.partial(assert_equal_without_frames, case.assertEqual)
        loaded.append(("test_graph", of_graphs))
    return loaded


def assert_equal_without_frames(assert_equal, first, second, *args):
    assert_equal(without_frames(first), without_frames(second), *args)


def without_frames(stack):
    if not isinstance(stack, list):
        return stack
    return [
        without_frames(entry) for entry in stack if not isinstance(entry, str) or entry not in FRAMES_OF_AS_COMPLETED
    ]


def replacement(function, **defaults):
    @functools.wraps(function, updated=())
    def replaced(*arguments, **options):
        replaced.calls += 1
        return function(*arguments, **defaults, **options)

    replaced.calls = 0
    return replaced


def run_with(function, replacements, title):
    """Run all the tests with asyncio's function, or its classes, replaced; return whether they passed."""
    passed = True
    stock = {name: getattr(asyncio, name) for name in replacements}
    for module_title, cases in load_tests(function):
        print(f"\n== {module_title}, {title}, Python {sys.version.split()[0]}: {len(cases)} tests", file=sys.stderr)
        vars(asyncio).update(replacements)
        try:
            result = unittest.TextTestRunner(verbosity=1).run(unittest.TestSuite(cases))
        finally:
            vars(asyncio).update(stock)
        passed = passed and result.wasSuccessful()
        number, least = result.testsRun - len(result.skipped), LEAST_TESTS[function]
        if module_title in ("test_tasks", "test_locks") and number < least:
            print(f"only {number} of {least} tests ran", file=sys.stderr)
            passed = False
    calls = sum(replaced.calls for replaced in replacements.values())
    if calls < LEAST_TESTS[function]:
        print(f"the replacement was called {calls} times only", file=sys.stderr)
        passed = False
    return passed


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--implementation", choices=["c", "python", "both"], default="both")
    parser.add_argument("--function", choices=[*LEAST_TESTS, "all"], default="all")
    chosen = parser.parse_args(arguments)
    modules = {"c": "gatedcoro._core", "python": "gatedcoro._reference"}
    names = ["c", "python"] if chosen.implementation == "both" else [chosen.implementation]
    functions = list(LEAST_TESTS) if chosen.function == "all" else [chosen.function]
    try:
        load_tests(functions[0])
    except ImportError as error:
        print(f"this interpreter cannot import its own tests: {error}", file=sys.stderr)
        return 1
    # Each test collects garbage when it has ended, which takes most of the time if all that is loaded is looked at.
    gc.collect()
    gc.freeze()
    passed = True
    for name in names:
        module = importlib.import_module(modules[name])
        for function in functions:
            for defaults in [{}] if function == "semaphore" else [{"limit": None}, {"limit": DEFAULT_LIMIT}]:
                replacements = {one: replacement(getattr(module, one), **defaults) for one in REPLACED[function]}
                title = ", ".join([f"gatedcoro.{function} in {name}", *(f"limit={one}" for one in defaults.values())])
                passed = run_with(function, replacements, title) and passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
