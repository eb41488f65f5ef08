"""Proof that the swap is safe: `langchain_proof.py REPOSITORY FOLDER PYTHON_NEWEST PYTHON_OLDEST`.

For the langchain-core that pip chooses on the newest Python, and for 0.3.61 on the oldest, each in an environment of its own:
langchain-core's own unit tests, carried by its sdist, run three times (plain, swapped, swapped with every missing limit turned
into 2; see langchain_plugin.py). Every test must end alike in all three, and calls must have reached gatedcoro, with a limit and
without. Then our own tests of the swap run on that LangChain.

The two environments are worked on at the same time.
"""

import collections
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

REPOSITORY, FOLDER, NEWEST, OLDEST = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]

# langchain-core 0.3.61 has two tests that fail with a current pydantic; a test that measures time may fail on a busy machine.
MOST_FAILING = 5
# What ends in another way with the swap runs again, alone, with and without it: some of these tests want a step done within a
# second, which a busy machine now and then does not give them, and others depend on what ran before them.
MORE_CHANCES = 3
# What langchain-core's test group names and these tests can do without.
NOT_NEEDED = ("pytest-watcher",)
# The tests of install() and of the program that installs it use a stand-in for LangChain and run in other jobs on every Python.
OUR_TESTS = ("runnables", "batch")
OUR_OTHER_TESTS = ("swap", "program")
WHAT_GIT_IGNORES = shutil.ignore_patterns(
    ".git", "build", "*.so", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)

print_lock = threading.Lock()


class Failure(Exception):
    """What was to be proved is not so."""


def say(text):
    with print_lock:
        print(f"ci: {text}", flush=True)


class Proof:
    """One release of langchain-core on one Python."""

    def __init__(self, python, release, packages_of_langchain):
        self.release = release
        self.packages_of_langchain = packages_of_langchain
        self.folder = FOLDER / f"langchain-{release or 'newest'}"
        self.folder.mkdir()
        subprocess.run([python, "-m", "venv", self.folder / "environment"], check=True)
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.python = self.folder / "environment" / scripts / "python"
        self.failures = []

    def run(self, *arguments, cwd=None, may_fail=False, **environment):
        result = subprocess.run(
            [self.python, *map(str, arguments)],
            cwd=cwd or self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if result.returncode and not may_fail:
            raise Failure(f"{self.name}: {' '.join(map(str, arguments))}\n{result.stdout[-20_000:]}")
        return result.stdout

    @property
    def name(self):
        return f"langchain-core {self.release or '(newest)'}"

    def prove(self):
        began = time.monotonic()
        self.prepare()
        say(f"{self.name}: environment ready after {time.monotonic() - began:.0f} s")
        plain = self.run_their_tests("plain")
        failing = [test for test, ended in plain.items() if any(step.endswith(" failed") for step in ended)]
        if len(failing) > MOST_FAILING:
            raise Failure(f"{self.name}: {len(failing)} tests fail without the swap: {failing[:20]}")
        for mode in ("swapped", "limited"):
            self.compare(plain, mode, self.run_their_tests(mode))
        self.run_our_tests()
        if self.packages_of_langchain:
            self.run("-m", "benchmarks.langchain_abatch", "--inputs", "50", "--rounds", "1", cwd=self.tree)
            say(f"{self.name}: the benchmark runs")
        say(f"{self.name}: done after {time.monotonic() - began:.0f} s")

    def prepare(self):
        requirement = f"langchain-core=={self.release}" if self.release else "langchain-core"
        self.pip("install", requirement)
        self.release = self.run("-c", "import importlib.metadata as m; print(m.version('langchain-core'))").strip()
        exactly = f"langchain-core=={self.release}"
        self.pip("download", "--no-deps", "--no-binary", "langchain-core", exactly)
        [sdist] = self.folder.glob("langchain_core-*.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(self.folder, filter="data")
        self.root = self.folder / sdist.name.removesuffix(".tar.gz")
        groups = self.run(
            "-c",
            "import tomllib, sys; print(*tomllib.load(open(sys.argv[1], 'rb'))['dependency-groups']['test'], sep='\\n')",
            self.root / "pyproject.toml",
        ).splitlines()
        tools = [requirement for requirement in groups if not requirement.startswith(NOT_NEEDED)]
        self.pip("install", exactly, "setuptools>=77", *tools, *self.packages_of_langchain)
        self.tree = self.folder / "gatedcoro"
        shutil.copytree(REPOSITORY, self.tree, ignore=WHAT_GIT_IGNORES)
        self.pip("install", "--no-build-isolation", "--no-deps", "-e", self.tree)

    def pip(self, command, *arguments):
        self.run("-m", "pip", "-q", command, *arguments, GATEDCORO_REQUIRE_C=os.environ.get("GATEDCORO_REQUIRE_C", "1"))

    def run_their_tests(self, mode, *selected):
        began = time.monotonic()
        output = self.folder / f"{mode}-{len(list(self.folder.iterdir()))}"
        output.mkdir()
        parallel = () if selected else ("-n", "2")
        text = self.run(
            *("-m", "pytest", "-q", *parallel, "-p", "langchain_plugin", "-p", "no:cacheprovider"),
            *("--no-header", "--tb=short", *(selected or ["tests/unit_tests"])),
            cwd=self.root,
            may_fail=True,
            PYTHONPATH=str(self.tree / ".ci"),
            SWAP_MODE=mode,
            SWAP_ROOT=str(self.root),
            SWAP_OUTPUT=str(output),
        )
        seen = [json.loads(file.read_text()) for file in output.iterdir()]
        outcomes = {test: ended for process in seen for test, ended in process["outcomes"].items()}
        if not outcomes:
            raise Failure(f"{self.name}, {mode}: no test ran\n{text[-20_000:]}")
        (self.folder / f"{mode}.log").write_text(text)
        implementations = {process["implementation"] for process in seen}
        if os.environ.get("GATEDCORO_REQUIRE_C", "1") == "1" and implementations != {"c"}:
            raise Failure(f"{self.name}: it ran on {implementations}")
        if {process["installed"] for process in seen} != {mode != "plain"}:
            raise Failure(f"{self.name}, {mode}: the swap was not what it was to be in every process")
        calls = sum((collections.Counter(process["calls"]) for process in seen), collections.Counter())
        summary = [line for line in text.splitlines() if " passed" in line][-1:]
        if not selected:
            say(f"{self.name}, {mode}: {' '.join(summary).strip('= ')}; {time.monotonic() - began:.0f} s")
            if mode != "plain":
                self.check_calls(mode, calls)
        return outcomes

    def check_calls(self, mode, calls):
        kinds = ("gated_coro", "gather_with_concurrency, None", "gather_with_concurrency, int")
        say(
            f"{self.name}, {mode}: calls that reached gatedcoro: "
            + "; ".join(f"{kind}: {calls[kind]}" for kind in kinds)
        )
        if not all(calls[kind] for kind in kinds):
            self.failures.append(f"{self.name}, {mode}: one of the functions was never called")

    def compare(self, plain, mode, outcomes):
        differing = sorted(test for test in plain.keys() | outcomes.keys() if plain.get(test) != outcomes.get(test))
        for _ in range(MORE_CHANCES):
            if not differing:
                break
            say(f"{self.name}, {mode}: once more, alone: {differing}")
            again = self.run_their_tests("plain", *differing)
            outcomes = self.run_their_tests(mode, *differing)
            differing = [test for test in differing if again.get(test) != outcomes.get(test)]
        if differing:
            self.failures.append(f"{self.name}, {mode}: these tests end in another way: {differing}")
            print((self.folder / f"{mode}.log").read_text()[-20_000:], flush=True)
        else:
            say(f"{self.name}, {mode}: each of {len(plain)} tests ended as it does without the swap")

    def run_our_tests(self):
        names = OUR_TESTS + OUR_OTHER_TESTS if self.packages_of_langchain else OUR_TESTS
        tests = [f"tests/langchain/test_{name}.py" for name in names]
        # Plugins that langchain-core's tests need, and that would run ours in another way.
        without = [
            word for name in ("asyncio", "cacheprovider", "benchmark", "socket") for word in ("-p", f"no:{name}")
        ]
        text = self.run("-m", "pytest", "-q", "-n", "2", *without, *tests, cwd=self.tree, may_fail=True)
        [*_, summary] = text.strip().splitlines()
        say(f"{self.name}, our own tests: {summary.strip('= ')}")
        if " passed" not in summary or "failed" in summary or "error" in summary:
            self.failures.append(f"{self.name}: our own tests\n{text[-20_000:]}")


def main():
    began = time.monotonic()
    failures = []
    proofs = [
        Proof(NEWEST, None, ["langgraph", "langchain-classic", "langchain-community"]),
        Proof(OLDEST, "0.3.61", []),
    ]

    def work(proof):
        try:
            proof.prove()
        except Failure as failure:
            failures.append(str(failure))
        except BaseException as error:
            failures.append(f"{proof.name}: {error!r}")
            raise
        finally:
            failures.extend(proof.failures)

    threads = [threading.Thread(target=work, args=[proof]) for proof in proofs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        say(f"FAILED: {failure}")
    say(f"{time.monotonic() - began:.0f} s")
    sys.exit(bool(failures))


main()
