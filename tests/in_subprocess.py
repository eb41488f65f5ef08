"""Run a script in a fresh interpreter, on one implementation, with every warning an error."""

import os
import pathlib
import subprocess
import sys
import textwrap

import gatedcoro

TESTS = pathlib.Path(__file__).resolve().parent

PRELUDE = """\
import asyncio, gc, importlib, sys
sys.path[:0] = {paths!r}
impl = importlib.import_module({module!r})
impl._set_task_reuse({reuse!r})
"""


def joined(*parts):
    """One script of several, each indented as it stands in its test."""
    return "\n".join(map(textwrap.dedent, parts))


def run_script(
    impl, script, *, first="", warnings_are_errors=True, timeout=120, arguments=(), environment=None, options=()
):
    """Run `script`, in which `impl` is the implementation; return the completed process.

    `first` is run before the implementation is imported.
    """
    reuse = impl._set_task_reuse(True)
    impl._set_task_reuse(reuse)
    package_parent = str(pathlib.Path(gatedcoro.__file__).resolve().parent.parent)
    prelude = PRELUDE.format(paths=[str(TESTS), package_parent], module=impl.__name__, reuse=reuse)
    script = textwrap.dedent(first) + prelude + textwrap.dedent(script)
    options = [*options, *(["-W", "error"] if warnings_are_errors else [])]
    return subprocess.run(
        [sys.executable, *options, "-X", "faulthandler", "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
    )


def check_script(impl, script, **options):
    """Run `script`; it must print "ok", nothing else, and nothing at all on stderr."""
    done = run_script(impl, script, **options)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ok", ""), done.stdout + done.stderr
