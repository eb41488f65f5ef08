"""The chaos run (shared_chaos.py) on PostgreSQL: processes share PostgresLimits.

    python tests/support/postgres_chaos.py --seed 17 --seconds 60

A process holds its permits by a connection, so that most faults are about those. What must hold is the same; when more than the limit
may be there at once, and what explains that an item has lost its permit, is in PostgresAccounts.
"""

import asyncio
import contextlib
import functools
import os
import signal
import time

import shared_chaos
import shared_servers
from chaos_accounts import RENEWAL, TAIL, Accounts, union
from shared_chaos import LIMITS, Chaos

LATE = 2
"""Leases."""
NO_ANSWER = 1 + 2 * RENEWAL
"""Of a lease: when a process that gets no answer has given up, counted from the last one. A request is sent in time for a renewal; it and
the last one wait as long again."""
SAFE = 0.9
"""Of a lease: nobody gives up before there was no answer for as long."""

GONE = "is not a PostgreSQL backend process"
"""Of who was to be terminated, and has ended by itself."""

KEYS_OF_ALL = """
SELECT pid, classid::bigint, objid::bigint, count(*) OVER (PARTITION BY pid, classid) AS count
FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
"""
OTHERS = """
SELECT pid, application_name AS name FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'probe' ORDER BY application_name
"""


class PostgresAccounts(Accounts):
    OUTAGES = ("restart", "crash", "freeze the server", "slow")
    LOSSES = ()
    EXCUSES = ("connection_ended", "late", "keep")
    ENDS = ("connections end", "crash", "cut")
    stuck = 5.0  # who does not come is passed over after a second, by one that looks; all together look twice a second, at random

    def prepare(self, unit):
        """When its connection ended, and until when its items may not have been told: `ends` (at the server too:
        `ends_at_server`), `lates`; when the server did not answer: `silences`; when it may have given up for that: `outages`.
        """
        super().prepare(unit)
        ends = [(fault, self.end_of_connection(unit, fault)) for fault in self.faults if self.befalls(fault, unit)]
        unit.ends = [end for _, end in ends]
        unit.ends_at_server = [end for fault, end in ends if "the server is not" not in fault.what]
        silences = [fault for fault in self.faults if fault.what.startswith(self.OUTAGES)]
        silences += self.isolated(unit, 0, float("inf"))
        silences = [(fault.begin, fault.end) for fault in silences]
        unit.silences = union(silences + [(begin, end) for begin, end in unit.ends if end - begin > self.lease])
        silences = union(silences, gap=RENEWAL * self.lease)
        unit.lates = list(self.lates(unit))
        unit.outages = [
            (begin + SAFE * self.lease, end + self.lease) for begin, end in silences if end - begin > SAFE * self.lease
        ]

    def befalls(self, fault, unit):
        return fault.what.startswith(self.ENDS) and (
            (fault.worker is None and fault.place is None)
            or fault.worker in (unit.worker, unit.label)
            or fault.place == unit.place
        )

    def end_of_connection(self, unit, fault):
        """Its items are cancelled at once if it is told, and if not when it has had no answer for a lease; its event loop has to go on."""
        told = fault.end + TAIL
        silent = "the process is not" in fault.what or self.isolated(unit, fault.begin, told)
        if silent:
            told += NO_ANSWER * self.lease
        return self.told_by(unit, fault.begin, told, silent)

    @staticmethod
    def told_by(unit, begin, told, silent):
        for first, last in unit.standstills:
            if first < told and last > begin:
                told = told + last - max(first, begin) + TAIL if silent else max(told, last + TAIL)
        return begin, told

    def lates(self, unit):
        """A session that stands still says nothing; two leases after its last request it is late, and loses its connection by another one
        that has seen it late for half a lease. What cannot be reached may have been silent for longer before.
        """
        for begin, end in unit.standstills:
            before = begin - NO_ANSWER * self.lease
            silent = sum(max(0, min(last, begin) - max(first, before)) for first, last in unit.silences)
            silent_for = min(RENEWAL + silent / self.lease, NO_ANSWER)
            late = begin + (LATE + 0.5 - silent_for) * self.lease - TAIL
            if late < end:
                yield late, end + TAIL

    # --- What a connection cannot prevent ---------------------------------------------------------------------------

    def excuse_connection_ended(self, item):
        """The server may give its permits to others at once."""
        yield from item.unit.ends_at_server

    def excuse_late(self, item):
        yield from item.unit.lates

    def excuse_keep(self, item):
        """With on_lost="keep", an item that has lost its permit runs on."""
        if item.unit.about.get("on_lost") == "keep":
            unit = item.unit
            for begin, end in sorted(unit.ends + unit.lates + unit.outages):
                if begin < item.end and end > item.start:
                    yield begin, float("inf")
                    return

    # --- Who lost a permit, did not and should have, and who got none ------------------------------------------------------------------------

    def outcomes(self):
        for unit in self.units:
            unanswered = [
                self.told_by(unit, begin, begin + NO_ANSWER * self.lease + TAIL, silent=True)
                for begin, end in unit.silences
                if end - begin > NO_ANSWER * self.lease
            ]
            for begin, told in union(unit.ends + unanswered):
                told += RENEWAL * self.lease  # a busy machine tells late; over the limit it is counted without this
                self.failures += [
                    f"{item} held a permit at {begin:.3f}, and was not told by {told:.3f} that it had lost it"
                    for item in unit.items
                    if item.start < begin and item.end > told and item.outcome  # who was killed may have stood still
                    if item.unit.about.get("on_lost") != "keep"
                ]
        return super().outcomes()

    def is_explained(self, item):
        unit = item.unit
        if any(begin <= item.over <= end for begin, end in unit.closed):
            return True
        causes = unit.ends + unit.lates + unit.outages
        if item.outcome == "lost":
            lost = item.start if unit.about.get("on_lost") == "keep" else item.over
            late = RENEWAL * self.lease  # a busy machine tells late, as above
            return any(begin <= item.over and lost <= end + late for begin, end in causes)
        before = item.over - 2 * self.lease
        if not item.waits:
            return any(begin <= item.over and end >= before for begin, end in causes + unit.silences)
        # It has waited for a lease, or somebody else there had done so before. To connect again takes a part of it.
        lost = [(begin, end + RENEWAL * self.lease) for begin, end in unit.ends]
        troubles = union([*unit.silences, *unit.standstills, *lost])
        return sum(max(0, min(end, item.over) - max(begin, before)) for begin, end in troubles) > self.lease / 2

    def came_too_late(self, item):
        return any(begin < item.start < end for begin, end in item.unit.ends + item.unit.lates)


class PostgresChaos(Chaos):
    PROCESSES = {about: units for about, units in Chaos.PROCESSES.items() if about != "thread"} | {
        "forks": [{"name": "many", "role": "forks"}, {"name": "few", "role": "waits long"}]
    }
    LATE = LATE
    accounts = PostgresAccounts

    @property
    def settled(self):
        """Who is late has lost its connection then: each of those that wait looks within eight seconds."""
        return LATE * self.lease + 9.5

    def new_server(self):
        return shared_servers.Postgres(log_statement="none")

    def kind_of_client(self, about):
        return "postgres"

    def probe(self, over):
        asyncio.run(self.ask_again_and_again(over))

    async def ask_again_and_again(self, over):
        import asyncpg

        connection, began, slow = None, time.monotonic(), False
        while not over.is_set():
            try:
                if connection is None or connection.is_closed():
                    connection = await asyncpg.connect(self.server.url, server_settings={"application_name": "probe"})
                await connection.fetchval("SELECT 1")
            except Exception:
                slow = True
            else:
                # If this process has had no time, nor have its relays.
                if slow or time.monotonic() - began > shared_chaos.SLOW:
                    self.faults.append(shared_chaos.Fault("slow", began, time.monotonic()))
                began, slow = time.monotonic(), False
            await asyncio.sleep(0.02)
        if connection is not None:
            connection.terminate()

    # --- Faults of processes ----------------------------------------------------------------------------------------

    def kill_who_forks(self):
        [worker] = [worker for worker in self.workers if worker.about == "forks"]
        self.kill(worker)

    def freeze_shortly(self):
        self.freeze(self.random.uniform(0.1, 1.8) * self.lease)

    def freeze_for_long(self):
        self.freeze(self.random.uniform(2.1, 5) * self.lease)

    def cut(self):
        self.cut_off("cut")

    def cut_without_the_process(self):
        self.cut_off("cut, the process is not told", "server", silence=NO_ANSWER + 1)

    def cut_without_the_server(self):
        self.cut_off("cut, the server is not told", "client", silence=LATE + 2)

    def cut_off(self, what, *sides, silence=0):
        """*silence*: leases."""
        for worker in self.workers if self.random.random() < 0.2 else [self.random.choice(self.workers)]:
            fault = self.begin(what)
            fault.place = worker.place
            worker.relay.cut(*sides, silence=silence * self.lease)
            fault.end = time.monotonic()

    # --- Faults of the server ---------------------------------------------------------------------------------------

    def restart(self, what, end):
        if self._server_is_up:
            self.look_into_the_log()

            def ends():
                with self.moment("connections end"):
                    end()

            super().restart(what, ends)

    def restart_killed(self):
        self.restart("restart, killed", self.server.kill)

    def restart_stopped(self):
        self.restart("restart, stopped", self.server.stop)

    def crash(self):
        """Of one of its processes: the server ends all others, and goes on with new ones."""

        def crash():
            for row in self.server.execute(OTHERS)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(row["pid"], signal.SIGKILL)
                    processes = set(self.server.processes()[1:])
                    shared_servers.wait_until(lambda: processes.isdisjoint(self.server.processes()))
            shared_servers.wait_until(lambda: self.server.execute("SELECT 1"), Exception)

        self.command("crash", crash)

    def terminate(self):
        if self._server_is_up and (found := self.server.execute(OTHERS)):
            row = self.random.choice(found)
            with self.moment("connections end") as fault:
                fault.worker = row["name"]
                self.server.execute(
                    f"SELECT pg_terminate_backend(pid) FROM ({OTHERS}) AS _ WHERE name = $1", row["name"]
                )

    def terminate_all(self):
        self.command(
            "connections end", lambda: self.server.execute(f"SELECT pg_terminate_backend(pid) FROM ({OTHERS}) AS _")
        )

    # --- What must hold ---------------------------------------------------------------------------------------------

    def check_the_state(self):
        """A connection that ends gives up its locks one by one: what is wrong has to be so again and again."""
        for _ in range(20):
            wrong = self.wrong_in_the_state()
            if not wrong:
                return
            time.sleep(0.02)
        self.failures += [f"the server's locks: {found}" for found in wrong]

    def wrong_in_the_state(self):
        from gatedcoro.shared._postgres import keys_of

        locks = self.server.execute(f"{KEYS_OF_ALL}")
        wrong = []
        known = set()
        for name, limit in LIMITS.items():
            keys = keys_of(name)
            of = {
                field: {row["pid"]: row["objid"] for row in locks if row["classid"] == getattr(keys, field) % 2**32}
                for field in ("member", "held", "wants", "bound", "arrival", "until")
            }
            known |= {getattr(keys, field) % 2**32 for field in of}
            members = set(of["member"])
            if (
                any(set(of[field]) - members for field in of)
                or set(of["until"]) != members
                or set(of["bound"]) != members
                or set(of["wants"]) != set(of["arrival"])
                or sum(of["held"].values()) > limit
            ):
                wrong.append(f"{name!r} {of}")
        wrong += [str(row) for row in locks if row["count"] != 1 or row["classid"] not in known]
        return wrong

    def look_into_the_log(self):
        """It begins anew with each start of the server."""
        for line in self.server.program.log.read_text(errors="replace").splitlines():
            if any(f" {level}: " in line for level in ("ERROR", "PANIC", "WARNING")) and GONE not in line:
                self.failures.append(f"the server's log: {line}")

    def left(self):
        locks = self.server.execute("SELECT * FROM pg_locks WHERE locktype = 'advisory'")
        return [str(row) for row in [*self.server.execute(OTHERS), *locks]]

    def finish(self):
        super().finish()
        self.look_into_the_log()

    @contextlib.asynccontextmanager
    async def new_limit(self, name, count):
        import asyncpg

        from gatedcoro.shared import PostgresLimit

        connect = functools.partial(asyncpg.connect, self.server.url)
        async with contextlib.aclosing(PostgresLimit(connect, name, count, lease=self.lease)) as limit:
            yield limit


PostgresChaos.FAULTS = {
    PostgresChaos.kill: 4,
    PostgresChaos.kill_who_forks: 1.5,
    PostgresChaos.freeze_shortly: 2,
    PostgresChaos.freeze_for_long: 2,
    PostgresChaos.isolate: 3,
    PostgresChaos.cut: 2,
    PostgresChaos.cut_without_the_process: 2,
    PostgresChaos.cut_without_the_server: 2,
    PostgresChaos.restart_killed: 1,
    PostgresChaos.restart_stopped: 1,
    PostgresChaos.crash: 1,
    PostgresChaos.freeze_server_shortly: 1,
    PostgresChaos.freeze_server_for_long: 0.7,
    PostgresChaos.terminate: 3,
    PostgresChaos.terminate_all: 1.5,
}

PostgresChaos.THEMES = [
    (
        PostgresChaos.terminate,
        PostgresChaos.terminate_all,
        PostgresChaos.cut,
        PostgresChaos.cut_without_the_process,
        PostgresChaos.freeze_server_shortly,
    ),
    (PostgresChaos.kill, PostgresChaos.kill_who_forks, PostgresChaos.freeze_shortly, PostgresChaos.freeze_for_long),
    (),
    (PostgresChaos.freeze_for_long, PostgresChaos.cut_without_the_server),
    (),
]
"""First those that a short run has to have. Where the server stays, it is seen what others do to the permits of one that has none any more."""


if __name__ == "__main__":
    shared_chaos.main(PostgresChaos, ("postgres",))
