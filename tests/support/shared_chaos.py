"""The chaos run: processes share limits, while they and their server are killed, frozen, cut off and robbed of what they know.

    python tests/support/shared_chaos.py --seed 17 --seconds 60 --server valkey

The seed decides which faults there are, and when; what comes of it differs from run to run. Storms of faults alternate with calms. What
must hold:

    - Never more than the limit at once, but in the cases of chaos_accounts.py.
    - An item loses its permit, or gets none, only where a fault explains it.
    - In a calm, nobody waits for a permit that nobody holds; the server's numbers agree with each other.
    - At the end every process finishes, all permits can be had, and then the server has no key left.

Processes: chaos_worker.py. Each is replaced when it is killed. With PostgreSQL: postgres_chaos.py.
"""

import argparse
import asyncio
import contextlib
import heapq
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import chaos_worker
import shared_servers
from chaos_accounts import Accounts, Fault, UnitLedger
from relay import Relay

LEASE = 1.2
LIMITS = {"many": 4, "few": 4, "one": 1, "kept": 3}
STORM, CALM = 7.0, 2.5
SLOW = 0.05
FINISH = 90.0
"""Seconds in which every process finishes what it has begun: long enough that only a hang takes it."""

PROCESSES = {
    "plain": [{"name": "many"}, {"name": "few", "role": "waits long"}],
    "two loops": [{"name": "many"}, {"name": "one"}],
    "thread": [{"name": "many", "role": "blocks", "renew_in_thread": True}],
    "cancels": [{"name": "many", "role": "cancels"}, {"name": "few", "role": "waits long"}],
    "sets": [{"name": "many", "role": "sets the limit"}, {"name": "few", "role": "knocks"}],
    "comes": [{"name": "many", "role": "comes and goes"}, {"name": "one", "role": "comes and goes"}],
    "blocks": [{"name": "many", "role": "blocks"}, {"name": "few", "role": "waits long"}],
    "keeps": [{"name": "kept", "on_lost": "keep"}, {"name": "kept", "on_lost": "keep", "role": "cancels"}],
}
NEWCOMERS = "sets"
"""One unit of it has a new limit for each item."""
WITH_VALKEY = ("blocks", "cancels")
"""Whose client is of valkey-py, whatever the server is."""


class Worker:
    """A process, and those that took its place."""

    def __init__(self, run, about, units, relay):
        self.run = run
        self.about = about
        self.units = [unit | {"limit": LIMITS[unit["name"]]} for unit in units]
        self.relay = relay
        self.place = about.replace(" ", "-")
        self.generation = itertools.count()
        self.process = None
        self.is_frozen = False
        self.is_isolated = False

    def start(self):
        self.label = f"{self.place}-{next(self.generation)}"
        self.is_frozen = False
        program = {
            "folder": str(self.run.folder),
            "process": self.label,
            "port": self.relay.port,
            "kind": self.run.kind_of_client(self.about),
            "seed": self.run.seed,
            "lease": self.run.lease,
            "units": self.units,
        }
        with (self.run.folder / f"{self.label}.stderr").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, chaos_worker.__file__, json.dumps(program)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        self.run.generations[self.label] = (self.units, self.process, None)

    @property
    def alive(self):
        return self.process.poll() is None

    def note_end(self, at):
        self.run.generations[self.label] = (self.units, self.process, at)


class Chaos:
    PROCESSES = PROCESSES
    LATE = 1
    """Leases after which the server gives what a process holds to others."""
    accounts = Accounts

    def __init__(self, seed, seconds, kind="redis", folder=None, only=(), lease=LEASE):
        """*folder*: where the ledgers are kept; by default they are thrown away. *only*: these faults, by name, and no others."""
        self.seed, self.seconds, self.kind, self.lease = seed, seconds, kind, lease
        self.folder = folder
        self.possible = {do: weight for do, weight in self.FAULTS.items() if not only or do.__name__ in only}
        self.random = random.Random(seed)
        self.faults = []
        self.failures = []
        self.calms = []
        self.generations = {}
        """By the label of a process: its units, it, and when it was killed."""
        self._due = []
        self._count = itertools.count()
        self._server_is_up = True
        self._keeps_log = False

    @property
    def settled(self):
        """Seconds after the last fault in which everything is as before: a lease ends, then the time for claims, and a server's age is in
        seconds.
        """
        return 2.5 * self.lease + 1

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        with self._stack:
            if self.folder is None:
                self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self.folder.mkdir(parents=True, exist_ok=True)
            self.server = self._stack.enter_context(self.new_server())
            self.workers = [
                Worker(self, about, units, self._stack.enter_context(Relay(self.server.address)))
                for about, units in self.PROCESSES.items()
            ]
            self._stack.callback(self.end_all)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info):
        self._stack.close()

    def new_server(self):
        # Written before it is answered, and never later than that: what a killed process has said is kept.
        return shared_servers.Redis(self.kind, appendonly="no", appendfsync="no")

    def kind_of_client(self, about):
        return "valkey" if about in WITH_VALKEY and shared_servers.without_packages("valkey") is None else "redis"

    def end_all(self):
        for _, process, _ in self.generations.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    # --- The run ----------------------------------------------------------------------------------------------------

    def run(self):
        """Returns the summary; what was wrong is in `failures`."""
        over = threading.Event()
        probe = threading.Thread(target=self.probe, args=(over,))
        probe.start()
        try:
            for worker in self.workers:
                worker.start()
            for worker in self.workers:
                shared_servers.wait_until((self.folder / f"{worker.label}.0").exists)
            end = time.monotonic() + self.seconds
            themes = itertools.cycle(self.THEMES)
            while time.monotonic() < end:
                theme = next(themes)
                self.storm(STORM, {do: weight for do, weight in self.possible.items() if do in theme} or self.possible)
                self.calm(CALM)
            self.finish()
        finally:
            over.set()
            probe.join()
        return self.summary()

    def storm(self, seconds, possible):
        end = time.monotonic() + seconds
        kinds, weights = zip(*possible.items())
        while (at := time.monotonic() + self.random.expovariate(2)) < end:
            self.until(at)
            self.random.choices(kinds, weights)[0](self)
        self.until(end)
        while self._due:
            self.until(self._due[0][0])

    def calm(self, seconds):
        begin = time.monotonic() + self.settled
        self.until(begin + seconds)
        self.calms.append((begin, time.monotonic()))
        self.check_the_state()

    def until(self, moment):
        """Waits; does what is due by then."""
        while True:
            at = min(moment, self._due[0][0]) if self._due else moment
            time.sleep(max(0.0, min(at - time.monotonic(), 0.2)))
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
            for worker in self.workers:
                if not worker.alive:
                    if worker.process.returncode:
                        self.failures.append(f"{worker.label} ended with {worker.process.returncode}")
                    at = self.vanished(worker) or time.monotonic()
                    self.faults.append(Fault("a process ends without a word", at, at, worker.label))
                    worker.note_end(at)
                    worker.start()
            if time.monotonic() >= moment:
                return

    def vanished(self, worker):
        """When the process ended by itself; None if it did not."""
        for number in range(len(worker.units)):
            for line in (self.folder / f"{worker.label}.{number}").read_text().splitlines()[-1:]:
                if line.startswith("vanish"):
                    return float(line.split()[2])
        return None

    def later(self, seconds, do):
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._count), do))

    def begin(self, what, worker=None):
        fault = Fault(what, time.monotonic(), worker=worker.label if worker else None)
        self.faults.append(fault)
        return fault

    @contextlib.contextmanager
    def moment(self, what, worker=None):
        fault = self.begin(what, worker)
        yield fault
        fault.end = time.monotonic()

    def probe(self, over):
        """Notes when the server was slow, whoever made it so."""
        with shared_servers.administration(self.server, self.server.KEEPER) as client:
            while not over.wait(0.02):
                sent, slow = time.monotonic(), False
                while not over.is_set():
                    try:
                        client.ping()
                        break
                    except Exception:
                        slow = True
                        over.wait(0.01)
                if slow or time.monotonic() - sent > SLOW:
                    self.faults.append(Fault("slow", sent, time.monotonic()))

    # --- Faults of processes ----------------------------------------------------------------------------------------

    def some_worker(self):
        workers = [worker for worker in self.workers if worker.alive and not worker.is_frozen]
        return self.random.choice(workers) if workers else None

    def kill(self, worker=None):
        worker = worker or self.some_worker()
        if worker is None or not worker.alive:
            return
        with self.moment("kill", worker):
            at = time.monotonic()
            worker.process.kill()
            worker.process.wait()
        worker.note_end(at)
        worker.start()

    def freeze(self, seconds):
        worker = self.some_worker()
        if worker is None:
            return
        killed = self.random.random() < 0.15
        more = "more" if seconds > self.LATE * self.lease else "less"
        fault = self.begin(f"freeze a process for {more} than {self.LATE} lease(s)", worker)
        worker.process.send_signal(signal.SIGSTOP)
        worker.is_frozen = True
        label = worker.label

        def thaw():
            if worker.label != label:
                return
            if killed:
                self.kill(worker)
            else:
                worker.process.send_signal(signal.SIGCONT)
                worker.is_frozen = False
            fault.end = time.monotonic()

        self.later(seconds, thaw)

    def freeze_shortly(self):
        self.freeze(self.random.uniform(0.1, 0.6) * self.lease)

    def freeze_for_long(self):
        self.freeze(self.random.uniform(1.05, 2) * self.lease)

    def isolate(self):
        if worker := self.some_worker():
            self.hold(worker, self.random.choice([0.3, 0.8, 1.2, 1.4, 2]) * self.lease)

    def let_newcomers_be_first(self):
        """For a while, half of the time, only that process reaches the server whose sessions are new."""
        if self.random.random() < 0.5:
            seconds = self.random.uniform(0.2, 0.5) * self.lease
            for worker in self.workers:
                if worker.about != NEWCOMERS:
                    self.hold(worker, seconds)

    def hold(self, worker, seconds):
        """A process cannot reach the server, which others can. What it has sent arrives later."""
        if worker.is_isolated:
            return
        relay = worker.relay
        fault = self.begin(f"isolate a process for {'more' if seconds > self.lease else 'less'} than a lease")
        fault.place = worker.place
        worker.is_isolated = True
        relay.hold()

        def let_go():
            relay.let_go()
            worker.is_isolated = False
            fault.end = time.monotonic()

        self.later(seconds, let_go)

    # --- Faults of the server ---------------------------------------------------------------------------------------

    def restart(self, what, end, prepare=lambda: None):
        """*prepare*: what is done with the files while it is down."""
        fault = self.begin(what)
        self._server_is_up = False
        pause = self.pause()
        end()

        def start():
            prepare()
            self.let_newcomers_be_first()
            self.server.start()
            fault.end = time.monotonic()
            self._server_is_up = True

        if pause:
            self.later(pause, start)
        else:
            start()

    def pause(self):
        return self.random.choice([0, 0, 0, 0.2, 0.6, 1.3]) * self.lease

    def restart_empty(self):
        if not self._server_is_up:
            return
        keeps_log = self.random.random() < 0.5

        def prepare():
            self.server.forget()
            path = self.server.folder / "configuration"
            lines = [line for line in path.read_text().splitlines() if not line.startswith("appendonly")]
            path.write_text("\n".join([*lines, f"appendonly {'yes' if keeps_log else 'no'}", ""]))
            self._keeps_log = keeps_log

        self.restart("restart, nothing kept", self.server.kill, prepare)

    def shut_down(self):
        with contextlib.suppress(Exception):
            self.server.administration.shutdown(save=True)
        self.server.process.wait(shared_servers.PATIENCE)

    def restart_kept(self):
        if self._server_is_up:
            self.restart("restart, everything kept", self.server.kill if self._keeps_log else self.shut_down)

    def restart_older(self):
        if self._server_is_up and not self._keeps_log:
            self.restart("restart, older snapshot", self.server.kill)

    def snapshot(self):
        if self._server_is_up and not self._keeps_log:
            with self.moment("snapshot"):
                self.server.snapshot()

    def freeze_server(self, seconds):
        if not self._server_is_up:
            return
        fault = self.begin(f"freeze the server for {'more' if seconds > self.lease else 'less'} than a lease")
        self._server_is_up = False
        self.server.freeze()

        def thaw():
            self.server.thaw()
            fault.end = time.monotonic()
            self._server_is_up = True

        self.later(seconds, thaw)

    def freeze_server_shortly(self):
        self.freeze_server(self.random.uniform(0.1, 0.5) * self.lease)

    def freeze_server_for_long(self):
        self.freeze_server(self.random.uniform(1.05, 2.5) * self.lease)

    def command(self, what, do):
        if self._server_is_up:
            with self.moment(what):
                do()

    def lose(self, what, do):
        if self._server_is_up:
            self.let_newcomers_be_first()
            self.command(what, do)

    def cut(self):
        self.command("cut commands", lambda: self.server.kill_connections("normal"))

    def cut_messages(self):
        self.command("cut messages", lambda: self.server.kill_connections("pubsub"))

    def flush(self):
        self.lose("flushall", self.server.administration.flushall)

    def delete(self):
        name = self.random.choice([*LIMITS, "few", "few"])
        key = self.random.choice(["sessions", "counts", "queue", "meta"])
        self.lose(f"delete {key}", lambda: self.server.administration.delete(f"gate:{{{name}}}:{key}"))

    def forget_script(self):
        self.command("forget the script", self.server.administration.script_flush)

    # --- What must hold ---------------------------------------------------------------------------------------------

    def check_the_state(self):
        """The server's numbers agree with each other."""
        for name, limit in LIMITS.items():
            keys = [f"gate:{{{name}}}:{key}" for key in ("sessions", "counts", "queue", "meta")]
            with self.server.administration.pipeline(transaction=True) as pipeline:
                pipeline.zrange(keys[0], 0, -1)
                pipeline.hgetall(keys[1])
                pipeline.zrange(keys[2], 0, -1, withscores=True)
                pipeline.hgetall(keys[3])
                sessions, counts, queue, meta = pipeline.execute()
            records = {sid: [int(number) for number in text.split()] for sid, text in counts.items()}
            held = {sid: record[0] - record[1] for sid, record in records.items()}
            waiting = {
                f"{record[5]:016}:{sid}": float(held[sid]) for sid, record in records.items() if record[2] > record[0]
            }
            if (
                set(sessions) != set(records)
                or sum(held.values()) != int(meta.get("total", 0))
                or any(count < 0 for count in held.values())
                or sum(held.values()) > limit
                or dict(queue) != waiting
            ):
                self.failures.append(f"the server's numbers: {name!r} {sessions} {counts} {queue} {meta}")

    def finish(self):
        (self.folder / "stop").touch()
        deadline = time.monotonic() + FINISH
        for worker in self.workers:
            try:
                code = worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
                self.failures.append(f"{worker.label} did not finish")
            else:
                if code:
                    self.failures.append(f"{worker.label} ended with {code}")
                elif at := self.vanished(worker):
                    worker.note_end(at)
        try:
            asyncio.run(self.take_all())
        except Exception as error:
            self.failures.append(f"all permits were to be taken: {error!r}")
        try:
            shared_servers.wait_until(lambda: not self.left())
        except TimeoutError:
            self.failures.append(f"at the server is left: {self.left()}")

    def left(self):
        return self.server.keys("gate:")

    async def take_all(self):
        """All permits of every name can be had."""
        for name, count in LIMITS.items():
            async with self.new_limit(name, count) as limit:
                try:
                    async with asyncio.timeout(shared_servers.PATIENCE), asyncio.TaskGroup() as group:
                        taken = asyncio.Barrier(count)
                        for _ in range(count):
                            group.create_task(self.take(limit, taken))
                except TimeoutError:
                    self.failures.append(f"not all permits of {name!r} were to be had: {limit.stats()}")

    @contextlib.asynccontextmanager
    async def new_limit(self, name, count):
        from gatedcoro.shared import RedisLimit

        async with self.server.client() as client:
            async with contextlib.aclosing(RedisLimit(client, name, count, lease=self.lease)) as limit:
                yield limit

    @staticmethod
    async def take(limit, taken):
        async with limit:
            await taken.wait()

    def summary(self):
        units = []
        for label, (about, process, killed) in self.generations.items():
            for number, unit in enumerate(about):
                ledger = UnitLedger(
                    f"{label}.{number}",
                    label,
                    label.rpartition("-")[0],
                    unit,
                    float("inf") if killed is None else killed,
                )
                with contextlib.suppress(FileNotFoundError):
                    ledger.read((self.folder / ledger.label).read_text().splitlines())
                units.append(ledger)
                if killed is None and not ledger.is_done:
                    self.failures.append(f"{ledger.label} did not finish")
            if said := (self.folder / f"{label}.stderr").read_text():
                self.failures.append(f"{label} wrote: {said}")
        (self.folder / "faults").write_text("".join(f"{fault}\n" for fault in self.faults))
        accounts = self.accounts(units, self.faults, self.lease, LIMITS)
        peaks = accounts.peaks()
        outcomes = accounts.outcomes()
        if not outcomes["ok"]:
            self.failures.append("no item came to its end")
        accounts.own_limits()
        accounts.fences()
        idle = accounts.longest_idle(self.calms)
        self.failures += accounts.failures
        kinds = sorted({fault.what for fault in self.faults})
        return "\n".join(
            [
                f"seed {self.seed}, {self.kind}-server, {self.seconds:g} s",
                "faults: " + ", ".join(f"{sum(f.what == kind for f in self.faults)} {kind}" for kind in kinds),
                "items: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()),
                "at once (without what is excused), of: "
                + ", ".join(f"{name} {whole} ({rest}), {LIMITS[name]}" for name, (whole, rest) in peaks.items()),
                "seconds of items that are excused: "
                + ", ".join(f"{seconds:.2f} {case}" for case, seconds in accounts.excused.items()),
                f"longest wait for a free permit in {len(self.calms)} calms: {idle[0]:.3f} s, {idle[1]}",
            ]
        )


Chaos.FAULTS = {
    Chaos.kill: 4,
    Chaos.freeze_shortly: 2,
    Chaos.freeze_for_long: 2,
    Chaos.isolate: 3,
    Chaos.restart_empty: 2,
    Chaos.restart_kept: 1.5,
    Chaos.restart_older: 1.5,
    Chaos.snapshot: 1.5,
    Chaos.freeze_server_shortly: 1,
    Chaos.freeze_server_for_long: 0.7,
    Chaos.cut: 1.5,
    Chaos.cut_messages: 1.5,
    Chaos.flush: 2,
    Chaos.delete: 2,
    Chaos.forget_script: 0.5,
}

Chaos.THEMES = [(), (Chaos.flush,), (Chaos.restart_empty, Chaos.kill), (), (Chaos.delete,)]
"""One storm after the other: of these faults, or of all. Some outcomes need the same few again and again."""


def main(chaos_class=Chaos, servers=shared_servers.KINDS):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--server", choices=servers, default=servers[0])
    parser.add_argument("--folder", type=Path, help="keep there what every process has written down, and the faults")
    names = [do.__name__ for do in chaos_class.FAULTS]
    parser.add_argument("--only", nargs="+", choices=names, default=(), help="these faults, and no others")
    parser.add_argument("--lease", type=float, default=LEASE, help="seconds; more where the machine is busy")
    options = parser.parse_args()
    with chaos_class(
        options.seed, options.seconds, options.server, options.folder, options.only, options.lease
    ) as chaos:
        print(chaos.run())
        for failure in chaos.failures:
            print("FAILURE:", failure)
    sys.exit(bool(chaos.failures))


if __name__ == "__main__":
    main()
