"""The script under every order of a few calls of two sessions, with lost answers and messages, repeated and late requests.

Orders that begin alike share what they have in common: the keys are copied where they part. Orders that come to the same (the state
on the server, what both clients know, what they have sent; whatever the time) go on as one, and count as often as there are of them.
"""

import itertools
import os
from typing import NamedTuple

import pytest

from effort import SHORT, sequence_length
from shared_script import KEYS, NEEDED, Client, Request, Script, State, check

CALLS = ("ask", "back", "withdraw", "thread", "leave")
MORE = int(
    os.environ.get("GATEDCORO_ORDERS", "0")
)  # calls more than usual, by hand: each makes it take about eight times as long
AT_ONCE = 400  # calls on one trip to the server


class Node(NamedTuple):
    """Where some orders have come to."""

    name: str  # of the keys
    state: State
    clients: tuple
    past: tuple  # names of earlier states on the way here
    troubles: int  # how many may still come
    delays: int  # how many requests may still be sent and executed later, if ever


@pytest.fixture
def script(server):
    with Script(server) as script:
        yield script


def same(node):
    """Equal for nodes from which all goes on alike: epochs and fences by their order only, leases by whether they have ended."""
    state, clients = node.state, node.clients
    requests = [request for client in clients for request in client.sent]
    epochs = {0, state.meta.get("epoch", 0)} | {known.epoch for known in (*clients, *requests)}
    fences = {0, state.meta.get("fence", 0)} | {known.fence for known in (*clients, *requests)}
    fences |= {record.fence for record in state.records.values()}
    epoch = {value: i for i, value in enumerate(sorted(epochs))}
    fence = {value: i for i, value in enumerate(sorted(fences))}
    meta = dict(state.meta)
    if meta:
        meta["grace"] = meta["grace"] > state.now
    if "epoch" in meta:  # not only the time for claims
        meta |= {"requests": 0, "epoch": epoch[meta["epoch"]], "fence": fence[meta["fence"]]}
    return (
        tuple(sorted(meta.items())),
        tuple(sorted((sid, ends > state.now) for sid, ends in state.sessions.items())),
        tuple(sorted((sid, record._replace(fence=fence[record.fence])) for sid, record in state.records.items())),
        state.queue,
        frozenset(state.expires),
        tuple(
            (client.session, client.number, client.granted, client.returned, client.asked)
            + (epoch[client.epoch], fence[client.fence])
            + (frozenset(sent._replace(epoch=epoch[sent.epoch], fence=fence[sent.fence]) for sent in client.sent),)
            for client in clients
        ),
        node.troubles,
        node.delays,
    )


def requests_from(node):
    """(clients after sending, who sends, request): all that the two can do, and all that they have done, once more."""
    for i, client in who(node.clients):
        for new, request in sends(client):
            yield replaced(node.clients, i, new), i, request
        for request in dict.fromkeys(client.sent):
            yield node.clients, i, request


def who(clients):
    """The two of them; one where they are alike and nothing has happened yet, as it does not matter which begins."""
    alike = not any(client.sent for client in clients) and clients[0].limit == clients[1].limit
    return list(enumerate(clients))[: 1 if alike else None]


def sends(client):
    return [client.does(what) for what in CALLS if client.can(what)]


def replaced(clients, i, client):
    return (*clients[:i], client, *clients[i + 1 :])


def outcomes(clients, i, request, answer, messages):
    """What the clients may know afterwards: the answer arrives or is lost, so does each message."""
    found = dict.fromkeys(
        [clients, replaced(clients, i, clients[i].hears(request, answer))]
    )  # in the same order in each run
    for message in messages:
        found |= dict.fromkeys(tuple(client.is_told(message) for client in told) for told in found)
    return found


def troubles_at(node):
    """(what befalls the keys, as commands), one each."""
    sessions, _, _, meta = (node.name + key for key in KEYS)
    if node.troubles:
        for session, ends in node.state.sessions.items():
            if ends > node.state.now:
                yield [("run", "ZADD", sessions, "XX", 1, session)]
        for key in node.state.expires:
            yield [("run", "DEL", node.name + key)]
        if node.state.is_complete:
            yield [("run", "HDEL", meta, "requests")]  # as another version of the script might leave it
        if len(node.state.expires) > 1:
            yield [("run", "DEL", *(node.name + key for key in node.state.expires))]
        for name in node.past[:-1]:
            yield [("copy", name, node.name)]


def ends_of_grace(node):
    if node.state.expires.keys() >= NEEDED and node.state.grace > node.state.now:
        yield [("run", "HSET", node.name + "meta", "grace", 0)]


class Search:
    """All orders from an empty name, a call longer with each round."""

    def __init__(self, script, clients, troubles=0, delays=0):
        self.script = script
        self.calls = 0
        name = script.name()
        first = Node(name, script.look(name), clients, (name,), troubles, delays)
        self.nodes = {same(first): (first, 1)}
        self.delay()

    @property
    def orders(self):
        return sum(count for _, count in self.nodes.values())

    def add(self, nodes, node, count):
        key = same(node)
        found, there = nodes.get(key, (node, 0))
        nodes[key] = found, there + count

    def step(self):
        """Every order goes on with every call, and then perhaps with a trouble."""
        work = {}  # a call is made once for all clients that may make it
        for node, count in self.nodes.values():
            for clients, i, request in requests_from(node):
                work.setdefault((node.name, request), []).append((node, count, clients, i))
        nodes = {}
        for batch in batches(work.items()):
            steps, names = [], []
            for (name, request), _ in batch:
                names.append(self.script.name())
                steps += [("copy", name, names[-1]), ("call", names[-1], request), ("look", names[-1])]
            answers = self.script.calls(steps)
            messages = self.script.messages()
            self.calls += len(batch)
            for ((_, request), users), name, answer, after in zip(batch, names, answers[1::3], answers[2::3]):
                published = messages.pop(name, [])
                check(users[0][0].state, request, answer, after, published)
                for node, count, sent, i in users:
                    for clients in outcomes(sent, i, request, answer, published):
                        new = node._replace(name=name, state=after, clients=clients, past=(*node.past, name))
                        self.add(nodes, new, count)
            assert not messages
        self.nodes = nodes
        self.happens(troubles_at)
        self.happens(ends_of_grace)
        self.delay()

    def delay(self):
        """A request is sent, or not, and not executed yet."""
        for node, count in list(self.nodes.values()):
            if node.delays:
                for i, client in who(node.clients):
                    for new, _ in sends(client):
                        later = node._replace(clients=replaced(node.clients, i, new), delays=node.delays - 1)
                        self.add(self.nodes, later, count)

    def happens(self, what):
        """Whatever may happen to the keys happens, or does not."""
        work = [(node, count, commands) for node, count in self.nodes.values() for commands in what(node)]
        for batch in batches(work):
            steps, names = [], []
            for node, _, commands in batch:
                names.append(self.script.name())
                steps.append(("copy", node.name, names[-1]))
                for command, *rest in commands:
                    steps.append((command, *(str(part).replace(node.name, names[-1]) for part in rest)))
                steps.append(("look", names[-1]))
            states = [answer for answer in self.script.calls(steps) if isinstance(answer, State)]
            for (node, count, _), name, state in zip(batch, names, states):
                left = node.troubles - (what is troubles_at)
                new = node._replace(name=name, state=state, past=(*node.past, name), troubles=left)
                self.add(self.nodes, new, count)


def batches(work):
    work = iter(work)
    while batch := list(itertools.islice(work, AT_ONCE)):
        yield batch


def check_holders(node, limit):
    """Nobody believes to hold what the server has not counted, and all together hold no more than the limit."""
    held = 0
    for client in node.clients:
        record = node.state.records.get(client.session)
        assert client.granted == client.returned == 0 or record is not None, node
        if record is not None:
            assert client.granted <= record.granted and record.returned <= client.returned, node
            held += client.held
    assert held <= limit, node


def close_all(script, nodes, limit):
    """However it went: when all have left, no key is left; when all leases have ended, a new session has the whole limit.

    Where a key was evicted, the others are left until they expire, and the new session has to wait until its grace has ended.
    """
    names = {node.name: node.state for node, _ in nodes}
    new = Request("new", limit=limit, asked=limit + 1)
    for batch in batches(names.items()):
        steps, copies = [], []
        for name, state in batch:
            one, two = script.name(), script.name()
            copies.append((one, two))
            steps += [("copy", name, one), ("copy", name, two)]
            epoch = state.meta.get("epoch", 0)
            steps += [("run", "HSET", one + "meta", "grace", 0)] if state.is_complete else []
            steps += [("call", one, Request(session, lease=0, epoch=epoch)) for session in state.sessions]
            steps += [("look", one)]
            steps += [("run", "ZADD", two + "sessions", "XX", 1, session) for session in state.sessions]
            steps += [("run", "HSET", two + "meta", "grace", 0)] if state.is_complete else []
            steps += [("call", two, new), ("run", "HSET", two + "meta", "grace", 0)]
            steps += [("call", two, new), ("look", two)]
        states = iter([answer for answer in script.calls(steps) if isinstance(answer, State)])
        for name, state in batch:
            left, last = next(states), next(states)
            assert not left.expires or not state.is_complete, (state, left)
            assert last.records["new"].granted == limit, (state, last)
    script.messages()


def explore(script, limits, calls, **options):
    """Returns how many orders there are."""
    search = Search(script, tuple(Client(name, limit) for name, limit in zip("ab", limits)), **options)
    for left in reversed(range(calls)):
        search.step()
        if not options.get("troubles"):
            for node, _ in search.nodes.values():
                check_holders(node, max(limits))
        if left == 1:
            close_all(script, search.nodes.values(), max(limits))
    print(
        f"{search.orders:,} orders of {calls} calls: {search.calls:,} calls that differ, {len(search.nodes):,} outcomes"
    )
    return search.orders


def at_least(orders):
    """So that none of these tests comes to try nothing; each call more makes about eight times as many."""
    return orders // 20 if SHORT else orders


@pytest.mark.parametrize("limit", [1, 2])
def test_every_order_of_calls(script, limit):
    calls = sequence_length(5) + MORE
    assert explore(script, (limit, limit), calls) >= at_least(20_000)


@pytest.mark.parametrize("limit", [1, 2])
def test_every_order_of_calls_one_of_them_late(script, limit):
    """It is executed for the first time after others that were sent after it, or never."""
    calls = sequence_length(4) + MORE
    assert explore(script, (limit, limit), calls, delays=1) >= at_least(55_000)


def test_every_order_of_calls_and_one_trouble(script):
    """A lease that ends, a key or all of them deleted, an older state that comes back; a grace ends at any time."""
    calls = sequence_length(4) + MORE
    assert explore(script, (2, 2), calls, troubles=1) >= at_least(120_000)


def test_every_order_with_two_limits(script):
    calls = sequence_length(4) + MORE
    assert explore(script, (2, 1), calls) >= at_least(3_000)
