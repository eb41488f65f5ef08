"""What a developer runs, and what continuous integration runs: `pip install 'nox[uv]'`, then

    nox --list
    nox -s tests -- tests/contract -k cancel     one interpreter; what follows `--` goes to pytest
    nox -s tests-3.14                            as in CI
    nox -s asan -- tests/engine                  the extension under AddressSanitizer, assertions on
    nox -t ci                                    everything

Each session works on a copy of the checkout, in an environment of its own, with an extension of its own build: all three lie in
GATEDCORO_WORK (default: a folder in the user's cache), and the checkout is not touched.

Interpreters are named as uv and pyenv name them, with a `d` for a debug build: 3.13, 3.13t, 3.14d. They are looked for in
GATEDCORO_INTERPRETERS ("3.14=/path/of/python 3.14d=/path/of/python"), then in pyenv, then on PATH. A session whose interpreter is
missing is skipped, or fails under --error-on-missing-interpreters.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree
from pathlib import Path

import nox

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent.resolve()
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
CI = ["ci"]
EVERY_VERSION = ("3.11", "3.12", "3.13", "3.14", "3.15")
DEFAULT_VERSION = "3.13"


def default_work() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gatedcoro-nox" / f"{ROOT.name}-{hashlib.sha256(bytes(ROOT)).hexdigest()[:8]}"


WORK = Path(os.environ.get("GATEDCORO_WORK") or default_work())
nox.options.envdir = str(WORK / "environments")

# uv, where it is installed beside nox and not on PATH.
os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)
# What a shell may have set and a session decides.
for variable in ("IMPLEMENTATION", "TASK_REUSE", "ASSERT", "REQUIRE_TOOLS"):
    os.environ.pop(f"GATEDCORO_{variable}", None)
for variable in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
    os.environ.pop(variable, None)
os.environ["GATEDCORO_REQUIRE_C"] = "1"

# The tests do a part of what they do at length (tests/support/effort.py).
SHORT = {"GATEDCORO_TESTS": "short"}
# Tests of what runs no step of the extension's, of other people's packages or with servers: they have sessions of their own.
ELSEWHERE = ["tests/dask", "tests/langchain", "tests/project", "tests/shared", "tests/tools"]
# Tests of the benchmarks, which have a session with all of the tools and servers; tests-3.14 has them for a newer interpreter.
OF_BENCHMARKS = sorted(
    str(path.relative_to(ROOT))
    for name in ("*benchmark*", "real_work", "programs")
    for path in ROOT.glob(f"tests/project/test_{name}.py")
)
# What handles references, and code of others' that runs in the middle of ours, most.
OF_REFERENCES = ["tests/engine", "tests/protocol", "tests/robustness"]
# What the other session of its kind does on another interpreter is not done twice: a Task per item (conftest.py's impl).
WITH_TASK_REUSE = ["-k", "not c-task-per-item"]
# An allocation fails at each place in turn. The places are the same on every interpreter.
FAILING_ALLOCATIONS = "tests/robustness/test_no_memory.py"
LEAKS = "tests/robustness/test_leaks.py"
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wcast-function-type", "-Wconversion", "-Werror"]


### Interpreters, trees, environments ###


def interpreter(name: str) -> str | None:
    """The path of an interpreter, by its short name."""
    given = dict(pair.split("=", 1) for pair in os.environ.get("GATEDCORO_INTERPRETERS", "").split())
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    series, free_threaded = name.removesuffix("t"), "t" if name.endswith("t") else ""
    path = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != pyenv / "shims")
    candidates = [
        given.get(name),
        *sorted(pyenv.glob(f"versions/{series}.*[0-9]{free_threaded}/bin/python"), reverse=True),
        shutil.which(f"python{name}", path=path),
    ]
    return next((str(found) for found in candidates if found and os.access(found, os.X_OK)), None)


def on(*versions: str, default: str | None = None, **options):
    """Makes of a function one session for each interpreter, as `tests-3.13`, and one without a version in its name on `default`."""

    def register(function):
        name = options.pop("name", function.__name__.replace("_", "-"))
        for version in versions:
            nox.session(name=f"{name}-{version}", python=interpreter(version) or version, tags=CI, **options)(function)
        if default:
            nox.session(name=name, python=interpreter(default), **options)(function)
        return function

    return register


def copy_tree(to: Path) -> Path:
    """Copies what git would hand out, or everything but what is built where there is no git."""
    shutil.rmtree(to, ignore_errors=True)
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        built = shutil.ignore_patterns(".git", "build", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".nox")
        return shutil.copytree(ROOT, to, ignore=built)
    for name in filter(None, names):
        if (ROOT / name).is_file():  # not deleted since
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def requirements(*extras: str) -> list[str]:
    return [requirement for extra in extras for requirement in PROJECT["project"]["optional-dependencies"][extra]]


def prepare(session: nox.Session, *packages: str, **env: str) -> None:
    """Builds the extension in a copy of the checkout, beside the packages; leaves the copy as working folder."""
    tree = copy_tree(WORK / "trees" / session.name)
    session.install("setuptools>=77", *packages)
    session.chdir(tree)
    # uv remembers builds by folder, and would not look whether a C file has changed.
    session.install("--no-build-isolation", "--no-deps", "--reinstall-package", "gatedcoro", "-e", ".", env=env)


def pytest(session: nox.Session, *arguments: str, **env: str) -> None:
    """Runs pytest with what stands behind `--`, or else with the arguments."""
    session.run("python", "-m", "pytest", "-p", "no:cacheprovider", *(session.posargs or arguments), env=env)


def pytest_without_skips(session: nox.Session, *arguments: str, **env: str) -> None:
    """The same, where a test that is skipped is an error."""
    report = Path(session.create_tmp()) / "report.xml"
    report.unlink(missing_ok=True)
    pytest(session, f"--junitxml={report}", *arguments, **env)
    if report.exists() and xml.etree.ElementTree.parse(report).find("testsuite[@skipped='0']") is None:
        session.error("a test was skipped")


def without(*paths: str) -> list[str]:
    """Options that leave tests out; pytest says nothing of a path that is not there."""
    for path in paths:
        if not (ROOT / path).exists():
            raise FileNotFoundError(path)
    return [f"--ignore={path}" for path in paths]


def new_environment(session: nox.Session, python: str, name: str) -> str:
    """Another environment for a session that needs several: the path of its Python."""
    folder = WORK / "environments" / f"{session.name}-{name}"
    session.run("uv", "venv", "--quiet", "--clear", "--python", python, str(folder), external=True)
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


### Tests ###


@on("3.14", default=DEFAULT_VERSION)
def tests(session: nox.Session) -> None:
    """The whole suite."""
    prepare(session, *requirements("test"))
    session.run("python", "-VV")
    pytest(session)


@on("3.11", "3.13", "3.15", name="tests")
def tests_in_short(session: nox.Session) -> None:
    """The suite in short."""
    prepare(session, *requirements("test"))
    session.run("python", "-VV")
    pytest(session, *without(FAILING_ALLOCATIONS, *ELSEWHERE), **SHORT)
    if session.name == "tests-3.11" and not session.posargs:
        # And the reference, which the short suite leaves out, on the oldest interpreter.
        pytest(session, "tests/contract", "tests/protocol", "-k", "python")
    if session.name == "tests-3.13" and not session.posargs:
        # And the contract with Task reuse turned off as a user would: c and c-task-per-item are the same then.
        pytest(session, "tests/contract", *WITH_TASK_REUSE, GATEDCORO_TASK_REUSE="0", **SHORT)


# Not in CI: there the README's command runs the same and more, as readme-3.12.
nox.session(name="tests-3.12", python=interpreter("3.12") or "3.12")(tests_in_short)


@on("3.13d", "3.14d")
def debug(session: nox.Session) -> None:
    """Py_DEBUG: CPython's assertions and ours, exact reference totals for the leak tests; the rest in short, on 3.13 a part of it."""
    prepare(session, *requirements("test"))
    session.run("python", "-c", "import sys; sys.gettotalrefcount()")
    # aiohttp's multidict comes compiled for release builds and crashes this one, with or without gatedcoro.
    # On 3.14 there is a Task per item, too.
    tests = [*OF_REFERENCES, *WITH_TASK_REUSE] if session.name == "debug-3.13d" else []
    options = [*without(FAILING_ALLOCATIONS, *ELSEWHERE), "--durations=8"]
    pytest(session, *tests, *options, MULTIDICT_NO_EXTENSIONS="1", **SHORT)


@on("3.11", "3.13", default=DEFAULT_VERSION)
def asan(session: nox.Session) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer, assertions on; the suite in short, on 3.11 a part of it."""
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
    prepare(session, *requirements("test"), CC="gcc", GATEDCORO_ASSERT="1", CFLAGS=f"-O1 -g {flags}", LDFLAGS=flags)
    [extension] = Path("gatedcoro").glob("_core.*.so")
    symbols = session.run("nm", "-D", str(extension), silent=True, external=True)
    for symbol in ("__asan_report", "__ubsan_handle", "__assert_fail"):
        if symbol not in symbols:
            session.error(f"the extension was built without {symbol}")
    libraries = [
        session.run("gcc", f"-print-file-name={library}.so", silent=True, external=True).strip()
        for library in ("libasan", "libubsan")
    ]
    # A leak is looked for where references are counted. On 3.13 there is a Task per item, too.
    pytest(
        session,
        *([*OF_REFERENCES, *WITH_TASK_REUSE] if session.name == "asan-3.11" else []),
        *without(FAILING_ALLOCATIONS, LEAKS, *ELSEWHERE),
        "--durations=8",
        LD_PRELOAD=" ".join(libraries),
        PYTHONMALLOC="malloc",
        ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
        **SHORT,
    )


# Free-threaded 3.13 yields the processor nine thousand times while it starts, which on a busy machine takes half a minute. So it is
# started twice: another Python installs what it needs, and forks of one process run the tests, each a file of them. Its collector goes
# through all there is, also through what is frozen: with all files in one process most of the time went to the tests of the others.
@nox.session(name="free-threaded-3.13t", python=interpreter("3.13") or "3.13", tags=CI)
def free_threaded(session: nox.Session) -> None:
    """Free-threaded 3.13 with its GIL on; in short, and without the many cases of some files."""
    python = interpreter("3.13t")
    if python is None:
        session.skip("Python interpreter 3.13t not found")
    packages = session.create_tmp() + "/packages"
    session.install("--target", packages, "pytest", "setuptools>=77")
    session.chdir(copy_tree(WORK / "trees" / session.name))
    # It warns when it turns its GIL on for an extension that wants one; with the GIL on from the start it does not.
    env = {**SHORT, "PYTHON_GIL": "1", "PYTHONPATH": packages}
    session.run(python, "setup.py", "-q", "build_ext", "--inplace", env=env, external=True)
    options = ["-p", "no:cacheprovider"]
    if session.posargs:
        session.run(python, "-m", "pytest", *options, *session.posargs, env=env, external=True)
        return
    left_out = ("signature", "async_sources", "semaphore_*", "as_completed_*", "progress_*")
    files = [
        str(file)
        for folder in ("contract", "engine", "protocol")
        for file in sorted(Path("tests", folder).glob("test_*.py"))
        if folder != "contract" or not any(file.match(f"test_{name}.py") for name in left_out)
    ]
    session.run(python, "tools/pytest_by_file.py", "-q", "-pno:cacheprovider", *files, env=env, external=True)


@nox.session(venv_backend="none", tags=CI)
def cpython(session: nox.Session) -> None:
    """CPython's own tests of asyncio.gather, as_completed and the semaphores with ours instead, on all interpreters at once: they wait more than they work."""
    running = {}
    tree = copy_tree(WORK / "trees" / session.name)
    for version in EVERY_VERSION:
        if path := interpreter(version):
            python = new_environment(session, path, version)
            session.run("uv", "pip", "install", "--quiet", "--python", python, "setuptools>=77", external=True)
            session.chdir(tree)
            session.run(python, "setup.py", "-q", "build_ext", "--inplace", external=True, env={"CFLAGS": "-O1"})
            log = open(WORK / f"cpython-{version}.log", "w+")  # noqa: SIM115
            command = [python, "tests/environments/cpython_tests.py"]
            running[version] = log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        else:
            print(f"ci: not run on {version}: no such interpreter here")
    for version, (log, process) in running.items():
        process.wait()
        log.seek(0)
        print(f"ci: {version}", log.read(), sep="\n", flush=True)
    failed = [version for version, (_, process) in running.items() if process.returncode]
    if failed or not running:
        session.error(f"CPython's own tests failed on {', '.join(failed) or 'no interpreter at all'}")


### Other people's code ###


@on("3.13", "3.11")
def langchain(session: nox.Session) -> None:
    """LangChain's own tests and ours with the swap in place: the newest langchain-core, and on 3.11 the oldest that is supported."""
    oldest = session.name.endswith("3.11")
    others = [] if oldest else ["langgraph", "langchain-classic", "langchain-community"]
    session.install("pip", "langchain-core==0.3.61" if oldest else "langchain-core", *others)
    code = "import importlib.metadata as m; print(m.version('langchain-core'))"
    release = f"langchain-core=={session.run('python', '-c', code, silent=True).strip()}"
    folder = Path(session.create_tmp())
    shutil.rmtree(folder)
    # The sdist carries the tests.
    session.run("pip", "-q", "download", "--no-deps", "--no-binary", "langchain-core", "-d", str(folder), release)
    [sdist] = folder.glob("langchain_core-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    theirs = folder / sdist.name.removesuffix(".tar.gz")
    groups = nox.project.load_toml(theirs / "pyproject.toml")["dependency-groups"]
    needed = [requirement for requirement in groups["test"] if not requirement.startswith("pytest-watcher")]
    prepare(session, release, *others, *needed)
    session.run("python", "tools/langchain_proof.py", str(theirs), str(folder / "output"))
    # Those of install() and of the program that installs it use a stand-in for LangChain, and run in tests-3.14 and on the newest.
    elsewhere = [f"--ignore=tests/langchain/test_{name}.py" for name in ("swap", "program")] if oldest else []
    # Plugins that LangChain's tests need, and that would run ours in another way.
    without = [word for plugin in ("asyncio", "benchmark", "socket") for word in ("-p", f"no:{plugin}")]
    pytest(session, "-n", "2", *without, *elsewhere, "tests/langchain")
    if not oldest:
        session.run("python", "-m", "benchmarks.langchain_abatch", "--inputs", "50", "--rounds", "1")


@on("3.13")
def tools(session: nox.Session) -> None:
    """The tests with other people's tools, as the real packages; nothing is left out, neither a package nor a test."""
    prepare(session, *requirements("tools"))
    # Plugins of two of the packages, which the tests start by themselves where they want them.
    plugins = ["-p", "no:asyncio", "-p", "no:ddtrace"]
    pytest_without_skips(session, *plugins, "--durations=8", "tests/tools", GATEDCORO_REQUIRE_TOOLS="1")


@on("3.13", "3.11", default=DEFAULT_VERSION)
def shared(session: nox.Session) -> None:
    """The shared limit against real servers: Redis, which has to be installed, Valkey, PostgreSQL, PgBouncer; in short on 3.11."""
    prepare(session, *requirements("shared-test"))
    code = "import shared_servers as s; print({name: s.missing(name) for name in (*s.KINDS, 'postgres', 'pgbouncer')})"
    found = session.run("python", "-c", code, silent=True, env={"PYTHONPATH": f".{os.pathsep}tests/support"})
    missing = ast.literal_eval(found.splitlines()[-1])
    if reason := missing["redis"]:
        session.error(f"{reason}; on Debian: apt-get install --no-install-recommends redis-server")
    left_out = [name for name in ("valkey", "pgbouncer") if missing[name]]
    for name in left_out:
        print(f"ci: not run with {name}: {missing[name]}", flush=True)
    those = ["-k", " and ".join(f"not {name}" for name in left_out)] if left_out else []
    in_short = SHORT if session.name.endswith("3.11") else {}
    pytest_without_skips(session, *those, "--durations=8", "tests/shared", **in_short)


@on("3.13")
def engines(session: nox.Session) -> None:
    """Work at a dask scheduler with two worker processes, and a short pass of its benchmark."""
    prepare(session, *requirements("dask-test"))
    pytest_without_skips(session, "--durations=8", "tests/dask")
    if not session.posargs:
        session.run("python", "-m", "benchmarks", "engines", "--quick")


@on("3.13")
def benchmarks(session: nox.Session) -> None:
    """One short pass, for correctness: the figures of a CI machine say nothing. Instructions and scaling are counted."""
    prepare(session, *requirements("benchmark", "langchain", "demo"))
    # They skip the tools that are not installed, so it is here that all of them run.
    pytest(session, *OF_BENCHMARKS)
    pytest(session, "benchmarks", "--benchmark-max-time=0.02", "--benchmark-min-rounds=1", "--benchmark-warmup=off")
    # It starts the servers that it needs, of the machine or of the packages.
    session.run("python", "-m", "benchmarks", "real", "--quick", "--output", session.create_tmp())
    session.run("python", "-m", "benchmarks", "programs", "--quick", "--output", session.create_tmp())
    session.run("python", "-m", "benchmarks", "http-clients", "--quick")
    session.run("python", "-m", "benchmarks", "shared", "--quick")
    session.run("python", "-m", "benchmarks", "planning", "--quick")
    session.run("python", "-m", "benchmarks", "rates", "--quick")
    session.run("python", "-m", "benchmarks", "instructions")
    session.run("python", "-m", "benchmarks", "scaling")
    session.run("python", "-m", "benchmarks", "scaling", "--module", "gatedcoro._reference", "--count", "40")


@on("3.13")
def examples(session: nox.Session) -> None:
    """Each example runs, but for that of Ray, which is run by hand."""
    prepare(
        session,
        *requirements("langchain", "demo"),
        "httpx",
        "aiohttp",
        "aiolimiter",
        "aiosqlite",
        "asyncpg",
        "distributed",
        "redis",
        "tenacity",
        "throttled-py",
    )
    for example in sorted(set(Path("examples").glob("*.py")) - {Path("examples/ray_search.py")}):
        session.run("python", str(example))
        print(f"ci: {example} ran", flush=True)


@on("3.13")
def docs(session: nox.Session) -> None:
    """Every code block of the README and of docs/ runs, against services of this machine."""
    prepare(session, *requirements("docs"))
    pytest(session, "tests/project/test_documentation_blocks.py", GATEDCORO_REQUIRE_DOCS="1")


### The tree ###


@nox.session(python=interpreter(DEFAULT_VERSION) or DEFAULT_VERSION, tags=CI)
def lint(session: nox.Session) -> None:
    """What pre-commit runs (ruff, clang-format, mypy), mypy for the newest Python, stubtest; what mypy and Pyright reveal."""
    prepare(session, *requirements("test", "langchain", "demo"), *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("git", "init", "-q", external=True)  # pre-commit looks at what git knows
    session.run("git", "add", "--all", external=True)
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure")
    session.run("mypy", "--python-version", "3.14")
    listed = session.run("bash", ".ci/run", "--list", silent=True, external=True).split()
    if differing := {func.name for func in nox.registry.get().values() if "ci" in func.tags} ^ set(listed):
        session.error(f"either .ci/run or noxfile.py alone knows of {differing}")
    # A module that is meant to be run with -m cannot be imported for comparison; of the classes in _functions only the docstrings are used;
    # a name for a Literal of two values is taken for a Union.
    allowed = Path(session.create_tmp(), "allowed")
    names = ("langchain\\.__main__", "_functions\\.(Stream|AsCompleted)\\..*", "shared\\._limit\\.OnLost")
    allowed.write_text("".join(f"gatedcoro\\.{name}\n" for name in names))
    options = ["--mypy-config-file", "pyproject.toml", "--ignore-unused-allowlist", "--allowlist", str(allowed)]
    session.run("stubtest", "gatedcoro", *options)
    pytest(session, "tests/project/test_typing.py")


@nox.session(venv_backend="none", tags=CI)
def compilers(session: nox.Session) -> None:
    """gcc and clang, every interpreter's headers, with and without assertions: no warning at all."""
    # Debian's debug headers are links to the others. clang's warnings come before it optimizes.
    gcc = ["gcc", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-canonical-system-headers"]
    clang = ["clang", "-fsyntax-only"]
    code = "import sysconfig as s; print(s.get_path('include'), s.get_path('platinclude'))"
    output = Path(session.create_tmp()) / "_core.o"
    for version in (*EVERY_VERSION, "3.13t", "3.13d", "3.14d"):
        python = interpreter(version)
        if python is None:
            print(f"ci: not compiled for {version}: no such interpreter here")
            continue
        folders = session.run(python, "-c", code, silent=True, external=True).split()
        include = [word for folder in folders for word in ("-isystem", folder)]
        for compiler in (gcc, clang):
            for assertions in ("-DNDEBUG", "-UNDEBUG"):
                command = [*compiler, "-std=c11", *WARNINGS, assertions, *include, "-Isrc", "-c", "src/_core.c"]
                session.run(*command, *(["-o", str(output)] if compiler is gcc else []), external=True)
        print(f"ci: {version}: gcc and clang are silent", flush=True)


@on("3.12", venv_backend="venv")
def readme(session: nox.Session) -> None:
    """The README's first two commands, word for word, in a fresh environment; the tests in short, which no other session runs on 3.12."""
    session.chdir(copy_tree(WORK / "trees" / session.name))
    block = Path("README.md").read_text().split("```sh\n", 1)[1].split("```", 1)[0]
    commands = block.splitlines()
    if len(commands) != 2:
        session.error("the README's first block of commands should hold two lines")
    for command in commands:
        session.run("bash", "-c", command, external=True, env=SHORT)
    session.run("python", "-c", "import gatedcoro; assert gatedcoro.implementation == 'c', gatedcoro.implementation")


@nox.session(python=interpreter("3.12") or "3.12", tags=CI)
def distributions(session: nox.Session) -> None:
    """sdist and wheel: built without git, looked at, each installed into an empty environment; also without a compiler."""
    out, elsewhere = WORK / "distributions", Path(session.create_tmp())
    shutil.rmtree(out, ignore_errors=True)
    tree = copy_tree(WORK / "trees" / session.name)
    session.install("build[uv]")
    session.chdir(tree)
    session.run("python", "-m", "build", "--installer=uv", "--outdir", str(out))  # the wheel is built from the sdist
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    session.run("python", "tools/check_distributions.py", str(sdist), str(wheel))
    session.chdir(elsewhere)
    results = "asyncio.run(gatedcoro.gather_with_concurrency(2, *(asyncio.sleep(0, i) for i in range(5))))"
    for file in (sdist, wheel):
        python = new_environment(session, session.python, file.suffix.strip("."))
        session.run("uv", "pip", "install", "--quiet", "--no-cache", "--python", python, str(file), external=True)
        code = f"import asyncio, gatedcoro as g; assert (g.implementation, {results.replace('gatedcoro', 'g')}) == ('c', [*range(5)])"
        session.run(python, "-c", code, external=True)
        session.run(python, "-m", "gatedcoro", "--quick", external=True)
        found = session.run("uv", "pip", "freeze", "--python", python, silent=True, external=True).split("\n")
        if [line for line in found if ("==" in line or " @ " in line) and not line.startswith("gatedcoro")]:
            session.error(f"something else was installed: {found}")
        print(f"ci: {file.name} installs into an empty environment and runs", flush=True)
    python = new_environment(session, session.python, "no-compiler")
    env = {"GATEDCORO_REQUIRE_C": "0", "CC": "there-is-no-such-compiler"}
    session.run("uv", "pip", "install", "--quiet", "--no-cache", "--python", python, str(sdist), env=env, external=True)
    session.run(python, "-c", "import gatedcoro; assert gatedcoro.implementation == 'python'", external=True)
    print("ci: without a compiler it installs and runs on its Python implementation", flush=True)
