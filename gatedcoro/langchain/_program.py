"""Run a program with the swap installed, as if Python had been started on it directly.

The program takes over the `__main__` module that Python made for `python -m gatedcoro.langchain`, namespace and all, and
keeps it until the interpreter exits: pickling in atexit handlers and in late threads finds its classes. What ends the
program (an exception, `sys.exit`, Ctrl-C) is left to the interpreter, which reports it as ever; only the frames of this
module and of runpy are taken off the traceback first. Inside the program they remain visible to whoever walks the stack.
"""

from __future__ import annotations

import builtins
import io
import os
import pkgutil
import runpy
import sys
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from types import CodeType, FrameType, TracebackType
from typing import Any

from gatedcoro.langchain._swap import install

__all__ = ["main"]

USAGE = """\
usage: python -m gatedcoro.langchain script.py [argument ...]
       python -m gatedcoro.langchain -m module [argument ...]

Runs a program with LangChain's gated_coro, gather_with_concurrency and Runnable.abatch_as_completed replaced by gatedcoro's.
"""


def main() -> None:
    """Run the program that the command line names."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return
    if not arguments or arguments == ["-m"] or (arguments[0] != "-m" and arguments[0].startswith("-")):
        sys.stderr.write(USAGE)
        sys.exit(2)
    if arguments[0] == "-m":
        module = arguments[1]
        # What sys.argv[0] is while Python still looks for the module.
        sys.argv[:] = ["-m", *arguments[2:]]
        install_or_exit()
        run_as_main(module, alter_argv=True)
        return
    sys.argv[:] = arguments
    path = absolute(arguments[0])
    if pkgutil.get_importer(path) is not None:  # a folder or an archive with a __main__.py
        replace_first_path_entry(path)
        install_or_exit()
        run_as_main("__main__", alter_argv=False)
        return
    content = read_or_exit(path)
    if not sys.flags.safe_path:
        replace_first_path_entry(os.path.dirname(os.path.realpath(path)))
    install_or_exit()
    run_script(path, content)


def install_or_exit() -> None:
    """Install the swap; without LangChain, say what to install."""
    try:
        install()
    except ModuleNotFoundError as error:
        if error.name != "langchain_core":
            raise
        sys.exit(f"{sys.executable}: {error}")


def run_as_main(module: str, *, alter_argv: bool) -> None:
    """Run a module as `python -m` does, by the function that Python itself calls for it."""
    fresh_main_namespace()
    try:
        runpy._run_module_as_main(module, alter_argv)  # type: ignore[attr-defined]
    except BaseException as error:
        report_from_caller_of(sys._getframe(), error)
        raise


def run_script(path: str, content: bytes) -> None:
    """Run a file as `python script.py` does."""
    is_compiled = path.endswith(".pyc")
    loader = SourcelessFileLoader("__main__", path) if is_compiled else SourceFileLoader("__main__", path)
    namespace = fresh_main_namespace()
    namespace.update(__file__=path, __loader__=loader)
    try:
        # Compiled in this very frame, which is taken off the report of a syntax error.
        exec(compiled_code(content) if is_compiled else compile(content, path, "exec", dont_inherit=True), namespace)
    except BaseException as error:
        report_from_caller_of(sys._getframe(), error)
        raise


# Which of these Python gives to `__main__` differs from release to release.
NAMES_AT_START = frozenset({"__annotations__", "__cached__", "__doc__", "__package__", "__spec__"})


def fresh_main_namespace() -> dict[str, Any]:
    """Empty the namespace of `__main__`, which this program started in, for the program that is to run."""
    namespace: dict[str, Any] = sys.modules["__main__"].__dict__
    empty: dict[str, Any] = {
        name: {} if name == "__annotations__" else None for name in namespace if name in NAMES_AT_START
    }
    namespace.clear()
    namespace.update(empty, __builtins__=builtins, __loader__=BuiltinImporter, __name__="__main__")
    return namespace


def compiled_code(content: bytes) -> CodeType:
    """Return the code in a .pyc file."""
    code = pkgutil.read_code(io.BytesIO(content))
    if code is None:
        raise RuntimeError("Bad magic number in .pyc file")
    assert isinstance(code, CodeType)
    return code


def report_from_caller_of(frame: FrameType, error: BaseException) -> None:
    """See to it that, if `error` ends the program, it is reported without `frame` and the frames outside it.

    sys.excepthook is wrapped for that one report, as the interpreter is the one who calls it; what the program has put
    there is called in the end.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame is not frame:
        traceback = traceback.tb_next
    inner = traceback.tb_next if traceback is not None else error.__traceback__
    hook = sys.excepthook

    def report(kind: type[BaseException], value: BaseException, outer: TracebackType | None) -> None:
        sys.excepthook = hook
        if value is error:
            value.__traceback__ = outer = inner
            sys.last_traceback = inner
        try:
            hook(kind, value, outer)
        except SystemExit:
            raise
        except BaseException as failure:
            # As the interpreter reports it, but without this frame.
            if failure.__traceback__ is not None:
                failure.__traceback__ = failure.__traceback__.tb_next
            sys.stderr.write("Error in sys.excepthook:\n")
            sys.__excepthook__(type(failure), failure, failure.__traceback__)
            sys.stderr.write("\nOriginal exception was:\n")
            sys.__excepthook__(kind, value, outer)

    sys.excepthook = report


def absolute(path: str) -> str:
    """Return the path by which Python knows a script: not normalised, except on Windows."""
    return os.path.abspath(path) if os.name == "nt" else os.path.join(os.getcwd(), path)


def replace_first_path_entry(entry: str) -> None:
    """Put `entry` where `python -m` has put the current folder, or at the front if it has put none."""
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        sys.path[0] = entry
    else:
        sys.path.insert(0, entry)


def read_or_exit(path: str) -> bytes:
    """Return the content of a file; if it cannot be opened, say so and exit in Python's own way."""
    try:
        with io.open_code(path) as file:
            return file.read()
    except OSError as error:
        sys.stderr.write(f"{sys.orig_argv[0]}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}\n")
        sys.exit(2)
