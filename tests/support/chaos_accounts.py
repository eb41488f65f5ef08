"""What a chaos run (shared_chaos.py) has shown: the ledgers of all units, beside the faults that there were.

Counted is who holds a permit, by what the items themselves have written down, and never by what the library says. Excused is only what
no lease can prevent; each case is a method `excuse_...`, and says for how long. Whatever else is over the limit is a failure, as is an
item that lost its permit, or got none, without a fault that explains it.
"""

import collections
import dataclasses
import math

TAIL = 0.1
"""Seconds in which a loop that goes on again ends its items, and a server that answers again hears of its sessions."""
MARGIN = 0.1
"""Of a lease: the part after its deadline, and before the server gives the permits away, in which items end."""
STUCK = 0.8
"""Of a lease: nobody waits so long for a free permit. A renewal finds out what a message should have told, and comes sooner."""
RENEWAL = 1 / 3
"""Of a lease: as long as a session that is not disturbed goes without a renewal."""


@dataclasses.dataclass
class Fault:
    what: str
    begin: float
    end: float = math.inf
    worker: str | None = None
    """The process that it befell, if it was one."""
    place: str | None = None
    """Instead of that, whichever processes were there in turn."""

    def overlaps(self, begin, end):
        return self.begin <= end and begin <= self.end


@dataclasses.dataclass
class Item:
    """From an item's asking for a permit to what became of it."""

    unit: "UnitLedger"
    key: str
    wait: float
    start: float = math.inf
    end: float = math.inf
    over: float = math.inf
    outcome: str = ""
    fence: int = 0
    waits: bool = True

    def __str__(self):
        return f"{self.unit.label} item {self.key}: {self.start:.3f}..{self.end:.3f} {self.outcome or 'killed'}"


@dataclasses.dataclass
class UnitLedger:
    label: str
    worker: str
    place: str
    about: dict
    killed: float
    """When its process was killed, inf if it was not."""
    items: list = dataclasses.field(default_factory=list)
    pauses: list = dataclasses.field(default_factory=list)
    blocks: list = dataclasses.field(default_factory=list)
    limits: list = dataclasses.field(default_factory=list)
    closed: list = dataclasses.field(default_factory=list)
    problems: list = dataclasses.field(default_factory=list)
    is_done: bool = False

    @property
    def name(self):
        return self.about["name"]

    def read(self, lines):
        """Its own file; the process may have ended by what another unit did."""
        items, closed = {}, None
        for line in lines:
            what, key, at, *more = line.split(" ", 3)
            at, more = float(at), "".join(more).strip()
            match what:
                case "wait":
                    items[key] = Item(self, key, at, waits=more != "once")
                case "start":
                    items[key].start, items[key].fence = at, int(more)
                case "end":
                    items[key].end = at
                case "ok" | "lost" | "unavailable" | "cancelled" | "none":
                    items[key].outcome, items[key].over = what, at
                case "pause":
                    self.pauses.append((float(more), at))
                case "block":
                    self.blocks.append((float(more), at))
                case "limit":
                    self.limits.append((at, int(more)))
                case "close":
                    closed = at if closed is None else closed
                case "open":
                    if closed is not None:
                        self.closed.append((closed, at))
                    closed = None
                case "done":
                    self.is_done = True
                case "problem":
                    self.problems.append(f"{self.label} at {at:.3f}: {more}")
        if closed is not None:
            self.closed.append((closed, math.inf))
        for item in items.values():
            if item.start < math.inf and item.end == math.inf:
                item.end = self.killed
        self.items = list(items.values())
        return self


def union(intervals, gap=0.0):
    """The same without overlaps; what is less than a gap apart is one."""
    merged = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1] + gap:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    return [tuple(interval) for interval in merged]


def without(begin, end, excuses):
    """What is left of an interval."""
    for first, last in union(excuses):
        if first < end and last > begin:
            if first > begin:
                yield begin, first
            begin = max(begin, last)
    if begin < end:
        yield begin, end


class Accounts:
    OUTAGES = ("restart", "freeze the server", "slow")
    LOSSES = ("flushall", "restart, older snapshot")
    EXCUSES = ("standstill", "loss", "keep")

    def __init__(self, units, faults, lease, limits):
        self.units = units
        self.faults = sorted(faults, key=lambda fault: fault.begin)
        self.lease = lease
        self.limits = limits
        self.failures = [problem for unit in units for problem in unit.problems]
        self.excused = collections.Counter()
        """Seconds of items that were excused, by case."""

    # --- What faults there were -------------------------------------------------------------------------------------

    def during(self, begin, end, *kinds):
        return [fault for fault in self.faults if fault.what.startswith(kinds) and fault.overlaps(begin, end)]

    def isolated(self, unit, begin, end):
        return [fault for fault in self.during(begin, end, "isolate") if fault.place == unit.place]

    def disturbed(self, unit, begin, end):
        """Whether a session may have been unable to renew its lease then, or to learn that it has lost it."""
        return self.isolated(unit, begin, end) or self.during(
            begin, end, *self.OUTAGES, "cut", "flushall", "delete", "forget the script"
        )

    def standstills(self, unit):
        """When its event loop stood still: by its own account, and by that of who stopped the process."""
        stops = [
            (fault.begin, min(fault.end, unit.killed))
            for fault in self.faults
            if fault.worker == unit.worker and fault.what.startswith("freeze")
        ]
        if not unit.about.get("renew_in_thread"):
            return union(unit.pauses + stops, gap=TAIL)
        # What it blocks by itself is no excuse: the thread renews the lease, if there is a server that knows of it.
        own = [
            (begin - TAIL, end + TAIL)
            for begin, end in unit.blocks
            if not self.during(begin - self.lease, end, *self.OUTAGES, *self.LOSSES, "delete")
            and not self.isolated(unit, begin - self.lease, end)
        ]
        return union([part for pause in unit.pauses for part in without(*pause, own)] + stops, gap=TAIL)

    def prepare(self, unit):
        unit.standstills = self.standstills(unit)

    # --- What no lease can prevent ----------------------------------------------------------------------------------

    def excuse_standstill(self, item):
        """A loop that stands still does not end its items when its lease ends; it does as soon as it goes on.

        The lease had been renewed a third of it before, at the longest, if the server could be reached.
        """
        for begin, end in item.unit.standstills:
            if item.start <= end and begin <= item.end:
                latest = begin + (1 - RENEWAL) * self.lease - TAIL
                disturbed = self.disturbed(item.unit, begin - self.lease, min(latest, end))
                yield begin if disturbed else latest, end + TAIL

    def excuse_loss(self, item):
        """A server that has forgotten sessions while it runs may give their permits to one that asks before they renew their leases;
        then they are told. If they cannot be, their items end at the deadline.
        """
        for fault in self.during(item.start - self.lease, item.end, *self.LOSSES):
            told = fault.end + self.lease * (RENEWAL if fault.what == "flushall" else 1.5 * RENEWAL) + TAIL
            disturbed = [
                other for other in self.during(fault.end, told, *self.OUTAGES, "cut", "flushall") if other is not fault
            ]
            disturbed += self.isolated(item.unit, fault.begin, told)
            if disturbed or any(begin < told and end > fault.begin for begin, end in item.unit.standstills):
                told = fault.end + (1 - MARGIN) * self.lease + TAIL
            yield fault.begin, told

    def excuse_keep(self, item):
        """With on_lost="keep", an item that has lost its permit runs on."""
        if item.unit.about.get("on_lost") != "keep":
            return
        for fault in self.faults:
            if fault.overlaps(item.start - self.lease, item.end) and (
                fault.what.startswith((*self.OUTAGES, *self.LOSSES))
                or fault.worker == item.unit.worker
                or fault.place == item.unit.place
            ):
                yield max(fault.begin, item.start), math.inf
                return
        for begin, end in item.unit.standstills:
            if begin < item.end and end > item.start:
                yield begin, math.inf
                return

    def excuses(self, item):
        for name in self.EXCUSES:
            for begin, end in getattr(self, f"excuse_{name}")(item):
                part = min(end, item.end) - max(begin, item.start)
                if part > 0:
                    self.excused[name] += part
                    yield begin, end

    # --- Over the limit ---------------------------------------------------------------------------------------------

    def peaks(self):
        """For each name the most at once: in all, and without what is excused. What is too many is a failure."""
        for unit in self.units:
            self.prepare(unit)
        found = {}
        for name, limit in self.limits.items():
            held = [item for unit in self.units if unit.name == name for item in unit.items if item.start < item.end]
            whole = [(item.start, item.end, item) for item in held]
            parts = [(*part, item) for item in held for part in without(item.start, item.end, self.excuses(item))]
            found[name] = self.most(whole)[0], self.most(parts)[0]
            if found[name][1] > limit:
                self.failures.append(self.told(name, limit, parts))
        return found

    @staticmethod
    def steps(parts):
        """For each moment at which something changes: it, and the parts that are there from then on."""
        changes = sorted(
            [(end, 0, n) for n, (_, end, _) in enumerate(parts)]
            + [(begin, 1, n) for n, (begin, _, _) in enumerate(parts)]
        )
        present = set()
        for at, begins, n in changes:
            present.add(n) if begins else present.discard(n)
            yield at, present

    def most(self, parts):
        return max(((len(present), at) for at, present in self.steps(parts)), default=(0, 0))

    def told(self, name, limit, parts):
        lines, over = [], None
        for at, present in self.steps(parts):
            if len(present) > limit and over is None:
                over = at
                lines.append(f"{name!r}: {len(present)} at once, of {limit}, at {at:.3f}:")
                lines += [f"    {parts[n][2]}" for n in sorted(present, key=lambda n: parts[n][0])]
                lines += [f"  fault {fault}" for fault in self.faults if fault.overlaps(at - 2 * self.lease, at)]
                for unit in {parts[n][2].unit.label: parts[n][2].unit for n in present}.values():
                    near = [pause for pause in unit.standstills if pause[0] < at + 1 and pause[1] > at - 2 * self.lease]
                    if near:
                        lines.append(f"  {unit.label} stood still {near}")
            elif len(present) <= limit and over is not None:
                lines[-1] += f"\n  until {at:.3f}: {at - over:.3f} s"
                over = None
        return "\n".join(lines)

    # --- Who lost a permit, and who got none ------------------------------------------------------------------------

    def outcomes(self):
        counts = collections.Counter()
        for unit in self.units:
            for item in unit.items:
                counts[item.outcome or "killed"] += 1
                if item.outcome in ("lost", "unavailable") and not self.is_explained(item):
                    self.failures.append(
                        f"nothing explains why {item} (it waited since {item.wait:.3f}, over {item.over:.3f})"
                    )
                if not item.outcome and unit.killed == math.inf:
                    self.failures.append(f"{item} never ended")
        return counts

    def is_explained(self, item):
        unit = item.unit
        if any(begin <= item.over <= end for begin, end in unit.closed):
            return True
        before, after = item.over - 2.5 * self.lease, item.over
        if self.during(before, after, *self.OUTAGES) or self.isolated(unit, before, after):
            return True
        if item.outcome == "unavailable":
            return False
        if self.during(before, after, *self.LOSSES, "delete"):
            return True
        return any(begin < after and end > before and end - begin > self.lease / 3 for begin, end in unit.standstills)

    def own_limits(self):
        """A process never lets in an item while as many hold permits as its own limit says."""
        for unit in self.units:
            running = []
            for item in sorted(unit.items, key=lambda item: item.start):
                if item.start == math.inf:
                    break
                running = [other for other in running if other.end > item.start] + [item]
                own = [limit for at, limit in unit.limits if at <= item.start]
                since = [at for at, _ in unit.limits if at <= item.start]
                if own and len(running) > own[-1] and item.start - since[-1] > TAIL:
                    self.failures.append(
                        f"{item} came in while the unit's limit was {own[-1]}: {[str(other) for other in running]}"
                    )

    def fences(self):
        """Under a limit of 1, the fencing tokens of two processes tell which one held it later."""
        for name in [name for name, limit in self.limits.items() if limit == 1]:
            held = [item for unit in self.units if unit.name == name for item in unit.items if item.start < math.inf]
            held = [item for item in held if not self.came_too_late(item)]
            held.sort(key=lambda item: item.start)
            for one, other in zip(held, held[1:]):
                if one.unit is not other.unit and one.end <= other.start and one.fence >= other.fence:
                    if not self.during(one.start - self.lease, other.start, *self.LOSSES):
                        self.failures.append(f"{other} has fence {other.fence}, after {one} with {one.fence}")

    def came_too_late(self, item):
        """It has begun with a permit that its process had lost before, and was told."""
        return False

    # --- Nothing stuck ----------------------------------------------------------------------------------------------

    @property
    def stuck(self):
        """Seconds that nobody waits for a free permit in a calm."""
        return STUCK * self.lease

    def longest_idle(self, calm):
        """The longest time in a calm in which somebody waited for a permit that nobody held, and its name.

        A process whose event loop stands still may keep one for as long, and one that has ended without a word for a lease.
        """
        longest = 0.0, ""
        for name, limit in self.limits.items():
            units = [unit for unit in self.units if unit.name == name]
            items = [item for unit in units for item in unit.items]
            held = [(item.start, item.end, None) for item in items if item.start < item.end]
            still = [(begin, end + TAIL) for unit in units for begin, end in unit.standstills + unit.pauses]
            gone = self.during(0, math.inf, "a process ends")
            slow = [(fault.begin, fault.end + TAIL) for fault in self.during(0, math.inf, "slow")]
            busy = (
                self.spans(held, limit)
                + still
                + slow
                + [(fault.begin, fault.end + self.lease + TAIL) for fault in gone]
            )
            # Who has lowered its limit waits for more than a free permit.
            asking = [
                item for item in items if item.wait < math.inf and item.unit.about.get("role") != "sets the limit"
            ]
            waits = union([(item.wait, min(item.start, item.over, item.unit.killed)) for item in asking])
            for begin, end in calm:
                for first, last in waits:
                    for idle_from, idle_to in without(max(first, begin), min(last, end), busy):
                        longest = max(longest, (idle_to - idle_from, f"{name!r} at {idle_from:.3f}"))
                        if idle_to - idle_from > self.stuck:
                            self.failures.append(
                                f"{name!r}: from {idle_from:.3f} to {idle_to:.3f} somebody waited for a free permit"
                            )
        return longest

    def spans(self, parts, count):
        """When at least so many were there."""
        spans, since = [], None
        for at, present in self.steps(parts):
            if len(present) >= count and since is None:
                since = at
            elif len(present) < count and since is not None:
                spans.append((since, at))
                since = None
        return spans
