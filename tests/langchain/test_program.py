"""`python -m gatedcoro.langchain`: a program run with the swap cannot be told from one started directly."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from effort import SHORT
from langchain_stand_in import IGNORE_WARNINGS, write_langchain

pytestmark = pytest.mark.skipif(SHORT, reason="nothing here is about the build")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """A folder to run programs in; a stand-in for langchain_core can be imported there."""
    (tmp_path / "library").mkdir()
    write_langchain(tmp_path / "library")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def run(folder, *arguments, flags=(), environment=None, input=None):
    environment = {**os.environ, **(environment or {})}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder.parent / "library"), str(ROOT)])
    environment.pop("PYTHONSAFEPATH", None)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # what is compiled a second time warns a second time
    return subprocess.run(
        [sys.executable, *IGNORE_WARNINGS, *flags, *arguments],
        cwd=folder,
        env=environment,
        input=input,
        capture_output=True,
        text=True,
        timeout=60,
    )


def write(folder, name, source):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source))


def without_addresses(text):
    return re.sub("0x[0-9a-fA-F]+", "0x", text)


def assert_alike(folder, *arguments, **options):
    """Run a program directly and with the swap; return what both did."""
    direct = run(folder, *arguments, **options)
    swapped = run(folder, "-m", "gatedcoro.langchain", *arguments, **options)
    assert without_addresses(swapped.stdout) == without_addresses(direct.stdout)
    assert without_addresses(swapped.stderr) == without_addresses(direct.stderr)
    assert swapped.returncode == direct.returncode
    return direct


START = textwrap.dedent("""
    import sys
    print(__name__, __file__, __package__, __doc__, type(__loader__).__name__, getattr(__spec__, "name", None))
    print(sorted(globals()), globals().get("__cached__"), globals().get("__annotations__"), __builtins__)
    print(sys.argv, sys.path[0], sys.modules["__main__"].__dict__ is globals())
    print(sys._getframe().f_code.co_filename)
""")


def test_the_swap_is_installed_in_the_program_and_known_to_it(folder):
    write(
        folder,
        "program.py",
        """
        import gatedcoro.langchain
        from langchain_core.runnables import base, utils
        print(gatedcoro.langchain.installed(), utils.gated_coro.__module__ == base.gated_coro.__module__ == "gatedcoro.langchain._planted")
        print(base.Runnable.abatch_as_completed.__module__ == "gatedcoro.langchain._planted")
        gatedcoro.langchain.uninstall()
        print(gatedcoro.langchain.installed())
    """,
    )
    for arguments in (["program.py"], ["-m", "program"]):
        assert run(folder, "-m", "gatedcoro.langchain", *arguments).stdout == "True True\nTrue\nFalse\n"


@pytest.mark.parametrize("script", ["program.py", "./program.py", "../work/program.py", "sub/program.py", "link.py"])
@pytest.mark.parametrize("flags", [(), ("-P",)])
def test_a_script_starts_as_it_does_directly(folder, script, flags):
    write(folder, "program.py", START)
    write(folder, "sub/program.py", '"""The docstring."""' + START)
    try:
        (folder / "link.py").symlink_to("sub/program.py")
    except OSError:
        if script == "link.py":
            pytest.skip("no symbolic links here")
    assert assert_alike(folder, script, "one", "-m", "--two", flags=flags).returncode == 0


def test_an_absolute_path_is_the_same_program(folder):
    write(folder, "sub/program.py", START)
    assert assert_alike(folder, str(folder / "sub/program.py")).returncode == 0


@pytest.mark.parametrize("flags", [(), ("-P",)])
@pytest.mark.parametrize("module", ["program", "package", "package.part"])
def test_a_module_starts_as_it_does_directly(folder, module, flags):
    write(folder, "program.py", START)
    write(folder, "package/__init__.py", "import sys; print(sys.argv)")
    write(folder, "package/__main__.py", START)
    write(folder, "package/part.py", "from . import __main__" + START)
    direct = assert_alike(folder, "-m", module, "one", "--two", flags=flags)
    assert direct.returncode == bool(flags)


def test_a_folder_and_an_archive_run_their_main_module(folder):
    write(folder, "application/__main__.py", START)
    with zipfile.ZipFile(folder / "application.pyz", "w") as archive:
        archive.write(folder / "application/__main__.py", "__main__.py")
    assert assert_alike(folder, "application", "one").returncode == 0
    assert assert_alike(folder, "application.pyz", "one").returncode == 0
    assert assert_alike(folder, "application", flags=["-P"]).returncode == 0


def test_a_compiled_script_runs(folder):
    import py_compile

    write(folder, "program.py", "import sys; print(sys.argv, type(__loader__).__name__)")
    py_compile.compile(str(folder / "program.py"), str(folder / "compiled.pyc"), doraise=True)
    assert assert_alike(folder, "compiled.pyc", "one").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["nowhere.py"], ["-m", "nowhere"], ["-m", "nowhere.inside"], ["empty"], ["-m", "package"], ["program.py/"]],
    ids=" ".join,
)
def test_a_program_that_is_not_there_is_reported_alike(folder, arguments):
    write(folder, "program.py", "")
    write(folder, "package/__init__.py", "")
    (folder / "empty").mkdir()
    assert assert_alike(folder, *arguments).returncode != 0


ENDINGS = {
    "an exception": "def f(): raise ValueError('x')\ndef g(): f()\ng()",
    "a chain of exceptions": "try:\n    1 / 0\nexcept ArithmeticError as e:\n    raise LookupError('y') from e",
    "an exception at once": "1 / 0",
    "an exception group": "raise ExceptionGroup('group', [ValueError(1), TypeError(2)])",
    "an exception with a note": "e = ValueError('x')\ne.add_note('note')\nraise e",
    "an exception in an import": "import broken",
    "a syntax error": "print('before')\nif:\n",
    "a syntax error elsewhere": "import unparsable",
    "a recursion": "def f(): f()\ntry:\n    f()\nexcept RecursionError:\n    print('deep')",
    "sys.exit()": "import sys; sys.exit()",
    "sys.exit(0)": "import sys; sys.exit(0)",
    "sys.exit(3)": "import sys; sys.exit(3)",
    "sys.exit(True)": "import sys; sys.exit(True)",
    "sys.exit('text')": "import sys; sys.exit('text')",
    "sys.exit of a tuple": "import sys; sys.exit((1, 2))",
    "raise SystemExit from": "try:\n    1 / 0\nexcept ArithmeticError:\n    raise SystemExit(7)",
    "os._exit": "import os; os._exit(5)",
    "KeyboardInterrupt": "def f(): raise KeyboardInterrupt\nf()",
    "KeyboardInterrupt in asyncio": "import asyncio\nasync def f(): raise KeyboardInterrupt\nasyncio.run(f())",
    "an own KeyboardInterrupt": "class K(KeyboardInterrupt): pass\nraise K('k')",
    "a hook": "import sys\ndef hook(kind, value, tb):\n    print('hook', kind, value, tb.tb_lineno, tb.tb_next, sys.excepthook is hook, value.__traceback__ is tb, sys.last_traceback is tb)\nsys.excepthook = hook\n1 / 0",
    "a hook that fails": "import sys\ndef hook(kind, value, tb): raise LookupError('in the hook')\nsys.excepthook = hook\n1 / 0",
    "traceback.print_exc at exit": "import atexit, sys, traceback\natexit.register(lambda: traceback.print_last())\n1 / 0",
    "an exception in an exit handler": "import atexit\natexit.register(lambda: 1 / 0)\nprint('end')",
    "an exception in a late thread": "import threading, time\ndef late(): time.sleep(0.05); 1 / 0\nthreading.Thread(target=late, name='late').start()",
    "a warning": "import warnings\ndef f(): warnings.warn('w', stacklevel=2)\nf()",
    "warnings as it is compiled": "x = 1\nprint(x is 1)",
    "no main guard": "print(__name__ == '__main__')",
    "Latin-1": "# -*- coding: latin-1 -*-\nprint(ascii('\u00e9'))",
    "a future import": "from __future__ import annotations\ndef f(x: not_there): pass\nprint(f.__annotations__)",
    "annotations": "x: int = 5\nprint(__annotations__ if '__annotations__' in globals() else __annotate__(1))",
    "objects that outlive it": "class A:\n    def __del__(self): print('gone', __name__)\na = A()",
}


@pytest.mark.parametrize("source", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("as_module", [False, True], ids=["script", "module"])
def test_a_program_ends_as_it_does_directly(folder, source, as_module):
    write(folder, "broken.py", "def f(): raise ImportError('no')\nf()")
    write(folder, "unparsable.py", "if:")
    (folder / "program.py").write_bytes(source.encode("latin-1"))
    assert_alike(folder, *(["-m", "program"] if as_module else ["program.py"]))


def test_a_traceback_begins_at_the_scripts_first_frame(folder):
    write(folder, "program.py", "def f():\n    1 / 0\nf()")
    lines = run(folder, "-m", "gatedcoro.langchain", "program.py").stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{folder / "program.py"}", line 3, in <module>'


def test_the_optimisation_level_and_warning_filters_hold_for_the_program(folder):
    write(
        folder,
        "program.py",
        "import sys, warnings\nassert False, 'asserted'\nprint(sys.flags.optimize)\nwarnings.warn('w')",
    )
    assert_alike(folder, "program.py", flags=["-O"])
    assert_alike(folder, "program.py", flags=["-O", "-W", "error::UserWarning"])


def test_classes_of_the_program_pickle_until_the_very_end(folder):
    write(
        folder,
        "program.py",
        """
        import atexit, pickle, threading, time

        class Thing:
            pass

        def show(when):
            print(when, type(pickle.loads(pickle.dumps(Thing()))).__module__)

        def late():
            time.sleep(0.1)
            show("late")

        atexit.register(show, "exit")
        threading.Thread(target=late).start()
        show("now")
    """,
    )
    direct = assert_alike(folder, "program.py")
    assert direct.stdout == "now __main__\nlate __main__\nexit __main__\n"
    assert_alike(folder, "-m", "program")


def test_children_of_multiprocessing_find_the_program(folder):
    write(
        folder,
        "program.py",
        """
        import multiprocessing

        class Thing:
            pass

        def work(thing):
            from langchain_core.runnables import utils
            return type(thing).__name__, utils.gated_coro.__module__

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(work, [Thing()]))
    """,
    )
    # Spawned children are new programs: they do not inherit the swap.
    assert assert_alike(folder, "program.py").stdout == "('Thing', 'langchain_core.runnables.utils')\n"
    assert_alike(folder, "-m", "program")


def test_standard_input_is_the_programs(folder):
    write(folder, "program.py", "print(input())")
    assert_alike(folder, "program.py", input="text\n")


def test_the_programs_folder_comes_before_the_library_when_langchain_is_imported(folder):
    write_langchain(folder)
    write(folder, "program.py", "import langchain_core.runnables.utils as utils; print(utils.__file__)")
    assert assert_alike(folder, "program.py").stdout == f"{folder / 'langchain_core/runnables/utils.py'}\n"


@pytest.mark.skipif(os.name == "nt", reason="signals are sent in another way")
@pytest.mark.parametrize("arguments", [["program.py"], ["-m", "program"]], ids=["script", "module"])
@pytest.mark.parametrize(
    "source",
    [
        "import time\nprint('ready', flush=True)\ntime.sleep(60)",
        "import asyncio\nasync def main():\n    print('ready', flush=True)\n    await asyncio.sleep(60)\nasyncio.run(main())",
        "import time, atexit\natexit.register(print, 'bye')\nprint('ready', flush=True)\ntry:\n    time.sleep(60)\nfinally:\n    print('cleaned')",
    ],
    ids=["sleep", "asyncio", "cleanup"],
)
def test_ctrl_c_ends_the_program_by_the_signal(folder, source, arguments):
    write(folder, "program.py", source)

    def interrupted(*command):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder.parent / "library"), str(ROOT)])}
        process = subprocess.Popen(
            [sys.executable, *IGNORE_WARNINGS, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
        return stdout, stderr, process.returncode

    direct = interrupted(*arguments)
    assert interrupted("-m", "gatedcoro.langchain", *arguments) == direct
    assert direct[2] == -signal.SIGINT


@pytest.mark.parametrize("arguments", [[], ["-m"], ["-x"], ["-c", "pass"]], ids=str)
def test_a_wrong_command_line_shows_the_usage(folder, arguments):
    result = run(folder, "-m", "gatedcoro.langchain", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: python -m gatedcoro.langchain script.py")


def test_help_is_given_when_asked_for(folder):
    result = run(folder, "-m", "gatedcoro.langchain", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: python -m gatedcoro.langchain script.py")


def test_without_langchain_the_program_is_not_run(folder):
    write(folder, "program.py", "print('run')")
    write(folder.parent / "library", "sitecustomize.py", "import sys\nsys.modules['langchain_core'] = None")
    result = run(folder, "-m", "gatedcoro.langchain", "program.py")
    assert (result.returncode, result.stdout) == (1, "")
    assert "needs langchain_core, which is not installed: pip install langchain-core" in result.stderr
    assert "Traceback" not in result.stderr
