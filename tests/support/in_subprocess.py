"""Run a script in a fresh interpreter, on one implementation, with every warning an error."""

import atexit
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap

from implementations import begins_with_full_turns, package_parent, reuses_tasks

SUPPORT = pathlib.Path(__file__).resolve().parent

PRELUDE = """\
import asyncio, gc, importlib, sys
sys.path[:0] = {paths!r}
impl = importlib.import_module({module!r})
impl._set_task_reuse({reuse!r})
impl._set_full_turns({full_turns!r})
"""


def paths_for(impl):
    """What has to be on sys.path for the implementation, and for what the tests share."""
    return [str(SUPPORT), package_parent(impl)]


def joined(*parts):
    """One script of several, each indented as it stands in its test."""
    return "\n".join(map(textwrap.dedent, parts))


def run_script(
    impl, script, *, first="", warnings_are_errors=True, timeout=120, arguments=(), environment=None, options=()
):
    """Run `script`, in which `impl` is the implementation; return the completed process.

    `first` is run before the implementation is imported.
    """
    prelude = PRELUDE.format(
        paths=paths_for(impl), module=impl.__name__, reuse=reuses_tasks(impl), full_turns=begins_with_full_turns(impl)
    )
    script = textwrap.dedent(first) + prelude + textwrap.dedent(script)
    if warnings_are_errors and not first and not environment and not options and hasattr(os, "fork"):
        return Nursery.of_this_process().run(script, arguments, timeout)
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


class Nursery:
    """An interpreter that has imported asyncio and nothing of ours, and forks one for each script: most scripts take less time than
    an interpreter takes to start. What a fork leaves behind ends with it. Many scripts collect garbage often: what was imported before
    the fork is out of that.
    """

    PROGRAM = """\
import asyncio, gc, importlib, json, os, socket, sys
gc.collect()
gc.freeze()
with socket.socket(fileno=int(sys.argv[1])) as connection:
    while True:
        request, files, _, _ = socket.recv_fds(connection, 1 << 16, 2)
        if not request:
            sys.exit()
        pid = os.fork()
        if not pid:
            break
        for file in files:
            os.close(file)
        connection.sendall(b"%d\\n" % pid)
        status = os.waitpid(pid, 0)[1]
        try:
            connection.sendall(b"%d\\n" % status)
        except BrokenPipeError:
            sys.exit()  # nobody waited for that long
for file in files:
    os.dup2(file, 1 + files.index(file))
    os.close(file)
path, sys.argv[1:] = json.loads(request)
with open(path) as opened:
    code = compile(opened.read(), "<string>", "exec")
del connection, request, files, file, pid, path, opened, json, os, socket
exec(code)
"""

    started = None

    @classmethod
    def of_this_process(cls):
        if cls.started is None or cls.started.environment != cls.environment_now():
            if cls.started is not None:
                cls.started.stop()
            cls.started = cls()
            atexit.register(cls.started.stop)
        return cls.started

    @staticmethod
    def environment_now():
        return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}

    def __init__(self):
        self.environment = self.environment_now()
        self.connection, its_end = socket.socketpair()
        with its_end:
            command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", self.PROGRAM, str(its_end.fileno())]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[its_end.fileno()])

    def stop(self):
        if self.connection.fileno() >= 0:  # else it has been stopped before
            self.connection.shutdown(socket.SHUT_RDWR)  # closing is not enough while somebody reads from it
            self.connection.close()
            self.process.wait()
            type(self).started = None

    def run(self, script, arguments, timeout):
        """Return how the interpreter ended that ran the script, as subprocess.run() does."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.NamedTemporaryFile("w") as file:
            file.write(script)
            file.flush()
            request = json.dumps([file.name, list(arguments)]).encode()
            socket.send_fds(self.connection, [request], [out.fileno(), err.fileno()])
            with self.connection.makefile("r") as answers:
                pid = int(answers.readline())
                self.connection.settimeout(timeout)
                try:
                    status = int(answers.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    self.stop()
                    raise subprocess.TimeoutExpired(script, timeout) from None
                finally:
                    if self.connection.fileno() >= 0:
                        self.connection.settimeout(None)
            texts = []
            for captured in out, err:
                captured.seek(0)
                texts.append(captured.read().decode())
        return subprocess.CompletedProcess(script, os.waitstatus_to_exitcode(status), *texts)
