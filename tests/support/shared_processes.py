"""Processes that share a limit, and what is seen of them from outside.

    worker = workers("A", server, limit=1, lease=1)
    worker.run("a")                         # an item: enters the limit, and stays until it is told to end
    witness.wait_for("entered", item="a")
    worker.kill()

Each worker is a process of its own (shared_worker.py), forked from that of the tests, which has imported what it needs. Its items note when they have entered and when they are about to leave at the
witness, a server apart from the one that counts permits: in one stream, so that the order of all notes is the order in which things
happened, and how many were inside at once can be counted whatever becomes of the other server.
"""

import collections
import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings

import shared_kinds
import shared_servers
import shared_worker
from shared_kinds import KEYS, held, left_on, listening, requests, sessions, waiting
from shared_worker import STREAM

__all__ = ["KEYS", "Witness", "Worker", "held", "left_on", "listening", "requests", "sessions", "waiting"]

PATIENCE = shared_servers.PATIENCE

Note = collections.namedtuple("Note", "at worker event item value")  # at: milliseconds, of the witness's clock


class Witness:
    """Knows what has happened in all processes, in order."""

    def __init__(self, server):
        self.redis = server.administration
        self.redis.flushall()

    def note(self, event, worker="", item="", value=""):
        self.redis.xadd(STREAM, {"worker": worker, "event": event, "item": item, "value": value})

    def notes(self):
        return [Note(at=int(key.split("-")[0]), **fields) for key, fields in self.redis.xrange(STREAM)]

    def matching(self, **wanted):
        return [note for note in self.notes() if all(getattr(note, key) == value for key, value in wanted.items())]

    def wait_for(self, event, times=1, patience=PATIENCE, **wanted):
        """Returns the notes of this event, of this worker, item or value, when there are so many."""
        deadline = time.monotonic() + patience
        last = "0"
        while True:
            found = self.matching(event=event, **wanted)
            if len(found) >= times:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {event} ({times}, {wanted}); there is\n" + "\n".join(map(str, self.notes())))
            if answer := self.redis.xread({STREAM: last}, block=max(1, round(min(left, 5) * 1_000))):
                last = answer[0][1][-1][0]

    def inside(self, upto=None):
        """How many items were inside after each note: [(number, note), ...]."""
        items = collections.defaultdict(set)
        counted = []
        for note in self.notes():
            if note.event == "entered":
                items[note.worker].add(note.item)
            elif note.event == "left":
                items[note.worker].discard(note.item)
            elif note.event == "gone":
                items[note.worker].clear()
            counted.append((sum(map(len, items.values())), note))
        return counted

    @property
    def peak(self):
        return max((number for number, _ in self.inside()), default=0)


class Fork:
    """A process that calls a function; there is a pipe to its stdin, and what it says on stderr is kept."""

    def __init__(self, function):
        self.returncode = None
        self._errors = tempfile.TemporaryFile("w+")
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which wait for a hang (faulthandler)
            self.pid = os.fork()
        if not self.pid:
            self._be(function, reading)
        os.close(reading)
        self.stdin = os.fdopen(writing, "w")

    def _be(self, function, reading):
        code = 1
        try:
            gc.freeze()
            os.dup2(reading, 0)
            os.dup2(self._errors.fileno(), 2)
            os.closerange(3, 1_024)  # the stdin of others ends when theirs do, and not with this process
            sys.stdin = open(0, closefd=False)
            sys.stderr = open(2, "w", buffering=1, closefd=False)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self):
        """Ends its stdin, and returns what it has said when it has ended."""

        def has_ended():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            return pid

        if self.returncode is None:
            self.stdin.close()
            try:
                shared_servers.wait_until(has_ended)
            except TimeoutError:
                self.send_signal(signal.SIGKILL)
                shared_servers.wait_until(has_ended)
                raise
        with self._errors:
            self._errors.seek(0)
            return self._errors.read()


class Worker:
    """A process that uses the limit. Its client is the server's own, or that of these arguments."""

    def __init__(self, witness, name, server, client=None, **options):
        self.name = name
        self.witness = witness
        options = {
            "worker": name,
            "witness": witness.redis.connection_pool.connection_kwargs["port"],
            "client": shared_kinds.arguments_of(server) if client is None else client,
            "limit": 1,
            "lease": 1,
        } | options
        self.process = Fork(lambda: shared_worker.run(options))

    def order(self, do, **arguments):
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)

    def run(self, *items, seconds=None, way="alone"):
        """Items that last so long, or until `end`; in one gather, with way="gather"."""
        self.order("run", items=items, seconds=seconds, way=way)

    def end(self, *items):
        self.order("end", items=items)

    def unblock(self):
        """The end of the order "block"."""
        self.witness.redis.lpush(self.name, "on")

    def kill(self):
        """SIGKILL: it tells nobody."""
        self.stop()
        self.witness.note("gone", self.name)

    def freeze(self):
        """SIGSTOP: its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.witness.note("frozen", self.name)

    def thaw(self):
        self.witness.note("thawed", self.name)
        self.process.send_signal(signal.SIGCONT)

    def go(self):
        """Lets its `main` return, without `aclose` and with all that runs."""
        self.order("go")
        self.leave()

    def leave(self):
        """Ends the process; it gives everything back."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            errors = self.process.wait()
            self.witness.note("gone", self.name)
            assert (self.process.returncode, errors) == (0, ""), f"worker {self.name} failed:\n{errors}"

    def stop(self):
        """At the end of a test, whatever has happened."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
