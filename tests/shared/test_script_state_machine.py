"""The script under long random orders of what two to four sessions do, lose, repeat and send late, and of what befalls the server.

Hypothesis chooses, and shortens what fails; each call is looked at by `check()` (shared_script.py). The choices are the same in each
run. GATEDCORO_MACHINE=1000 in the environment: a thousand other ones each time, and longer.
"""

import dataclasses
import os

import pytest

from effort import SHORT
from shared_script import HOUR, KEYS, Client, Request, Script

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings, strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test  # noqa: E402

EXAMPLES = int(os.environ.get("GATEDCORO_MACHINE", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or (10 if SHORT else 120),
    stateful_step_count=80 if EXAMPLES else 40,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

clients = st.integers(0, 3)
limits = st.integers(1, 6)
some = st.integers(0, 1_000)  # which of several
fates = st.sampled_from(["arrives", "arrives", "arrives", "is lost", "is late", "request is late"])


class Sessions(RuleBasedStateMachine):
    def __init__(self, script):
        super().__init__()
        self.script = script
        self.name = script.name()
        self.highest = 0  # limit of all
        self.answers = []  # (client, request, answer): on the way
        self.messages = []
        self.snapshots = []  # names of copies
        self.troubles = (
            False  # something has happened after which more may be held than the limit, until all have come again
        )

    @initialize(limits=st.lists(limits, min_size=2, max_size=4), data=st.data(), equal=st.booleans())
    def begin(self, limits, data, equal):
        if equal:
            limits = [limits[0]] * len(limits)
        self.clients = [
            Client(
                name,
                limit,
                data.draw(st.sampled_from([HOUR, 2 * HOUR, 48 * HOUR])),
                recover=data.draw(st.integers(0, 1)),
            )
            for name, limit in zip("abcd", limits)
        ]
        self.highest = max(limits)
        if data.draw(st.booleans()):
            self.let_grace_end_at_first()

    def let_grace_end_at_first(self):
        """The server is young: most orders begin after that."""
        for client in self.clients:
            self.send(self.clients.index(client), "ask", 1)
        self.grace_ends()

    # What sessions do.

    def send(self, i, what, more):
        client = self.clients[i]
        if client.can(what):
            if what == "back":
                more = min(more, client.held)
            self.clients[i], request = client.does(what, more)
            return request
        return None

    def execute(self, request):
        answer, messages, state = self.script.checked_call(self.name, request)
        self.messages += messages
        self.look_at_holders(state)
        return answer

    @rule(i=clients, more=st.integers(1, 6), fate=fates)
    def ask(self, i, more, fate):
        self.call(i, "ask", more, fate)

    @rule(i=clients, more=st.integers(1, 6), fate=fates)
    def back(self, i, more, fate):
        self.call(i, "back", more, fate)

    @rule(i=clients, what=st.sampled_from(["renew", "renew", "thread", "withdraw", "leave", "let go"]), fate=fates)
    def another_call(self, i, what, fate):
        self.call(i, what, 0, fate)

    def call(self, i, what, more, fate):
        i %= len(self.clients)
        request = self.send(i, what, more)
        if request is not None and fate != "request is late":
            answer = self.execute(request)
            if fate == "arrives":
                self.clients[i] = self.clients[i].hears(request, answer)
            elif fate == "is late":
                self.answers.append((i, request, answer))

    @precondition(lambda self: any(client.sent for client in self.clients))
    @rule(which=some, arrives=st.booleans())
    def call_late(self, which, arrives):
        sent = [(i, request) for i, client in enumerate(self.clients) for request in client.sent]
        i, request = sent[which % len(sent)]
        answer = self.execute(request)
        if arrives:
            self.clients[i] = self.clients[i].hears(request, answer)

    @precondition(lambda self: self.answers)
    @rule(which=some)
    def late_answer(self, which):
        i, request, answer = self.answers.pop(which % len(self.answers))
        self.clients[i] = self.clients[i].hears(request, answer)

    @precondition(lambda self: self.messages)
    @rule(which=some, is_lost=st.booleans())
    def message(self, which, is_lost):
        message = self.messages.pop(which % len(self.messages))
        if not is_lost:
            self.clients = [client.is_told(message) for client in self.clients]

    @rule(i=clients, limit=limits)
    def another_limit(self, i, limit):
        i %= len(self.clients)
        self.clients[i] = dataclasses.replace(self.clients[i], limit=limit)
        self.highest = max(self.highest, limit)

    # What befalls the server.

    @rule(i=clients, what=st.sampled_from(["ends", "ends", "is missed", "older state", "all", *KEYS]), which=some)
    def trouble(self, i, what, which):
        client = self.clients[i % len(self.clients)]
        if what == "ends":  # and the process is gone, or has ended its items in time
            self.script.end_lease(self.name, client.session)
            self.clients[i % len(self.clients)] = client.next_session()
            return
        self.troubles = True
        if what == "is missed":  # its lease ends, and it comes again
            self.script.end_lease(self.name, client.session)
        elif what != "older state":
            keys = KEYS if what == "all" else [what]
            self.script.run("DEL", *(self.name + key for key in keys))
        elif self.snapshots:
            self.script.copy(self.snapshots[which % len(self.snapshots)], self.name)

    @rule()
    def grace_ends(self):
        self.script.end_grace(self.name)

    @rule()
    def snapshot(self):
        self.snapshots.append(self.script.name())
        self.script.copy(self.name, self.snapshots[-1])

    # What must hold, beside check().

    def look_at_holders(self, state):
        """No more is held than the limit, and by nobody of whom the server does not know it."""
        if not self.troubles:
            for client in self.clients:
                assert client.granted <= state.records.get(client.session, client).granted, (client, state)
                assert client.granted == 0 or client.session in state.records, (client, state)
            held = sum(client.held for client in self.clients)
            assert held <= state.total <= self.highest, (self.clients, state)

    def teardown(self):
        """All come again, so that what is held fits into the limit; they give it back and leave, and nothing is left."""
        if not hasattr(self, "clients"):
            return
        for _ in range(2):
            for i in range(len(self.clients)):
                if self.clients[i].is_there:
                    self.call(i, "renew", 1, "arrives")
            self.grace_ends()
        assert sum(client.held for client in self.clients) <= self.highest
        for i, client in enumerate(self.clients):
            self.call(i, "withdraw", 1, "arrives")
            self.call(i, "back", self.clients[i].held, "arrives")
            self.call(i, "leave", 1, "arrives")
        state = self.script.look(self.name)
        here = {client.session for client in self.clients}
        assert not here & state.sessions.keys()
        assert state.sessions or self.troubles or not state.expires  # late requests make sessions that nobody has
        for session in state.sessions:
            self.script.end_lease(self.name, session)
        # Nothing is lost for good.
        new = Request("new", limit=3, asked=5)
        self.script.checked_call(self.name, new)
        self.grace_ends()
        assert self.script.checked_call(self.name, new)[0].granted == 3
        self.script.checked_call(self.name, new._replace(lease=0))
        assert not self.script.look(self.name).expires


def test_long_orders(server):
    with Script(server) as script:
        run_state_machine_as_test(lambda: Sessions(script), settings=SETTINGS)
