"""sentry-sdk: its asyncio integration makes Tasks in a factory, each with a scope and a span of its own, and captures errors."""

from tools import check_main, needs

needs("sentry-sdk")

PREPARE = """
import sentry_sdk
from sentry_sdk.integrations.asyncio import AsyncioIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.transport import Transport
from doors import all_doors, cancelled_after, doors

sent = []

class Keeps(Transport):
    def capture_envelope(self, envelope):
        sent.extend((item.type, item.payload.json) for item in envelope.items)

def start():
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Keeps,
        traces_sample_rate=1.0,
        default_integrations=False,
        integrations=[AsyncioIntegration(), DedupeIntegration()],
    )

def messages():
    return sorted((event["message"], event["tags"]) for kind, event in sent if kind == "event" and "message" in event)

def errors():
    return [
        (error["type"], error["value"], event.get("tags", {}))
        for kind, event in sent
        if kind == "event" and "exception" in event
        for error in event["exception"]["values"]
    ]

def tree():
    '''The spans of the one transaction, as nested lists in the order of their start: [description, child, ...].'''
    [transaction] = [event for kind, event in sent if kind == "transaction"]
    nodes = {transaction["contexts"]["trace"]["span_id"]: [transaction["transaction"]]}
    for span in sorted(transaction["spans"], key=lambda span: span["start_timestamp"]):
        node = nodes[span["span_id"]] = [span["description"]]
        nodes[span["parent_span_id"]].append(node)
    return nodes[transaction["contexts"]["trace"]["span_id"]]
"""


def check(impl, script):
    check_main(impl, PREPARE, script)


def test_each_item_has_a_scope_of_its_own_within_the_caller_s(impl):
    script = """
    async def item(i):
        sentry_sdk.set_tag("item", i)
        if i % 2:
            sentry_sdk.set_tag("odd", "yes")
        await asyncio.sleep(0)
        sentry_sdk.capture_message(f"from {i}")
        return i

    async def main():
        start()
        sentry_sdk.set_tag("caller", "me")
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                sent.clear()
                assert await call(limit, [lambda i=i: item(i) for i in range(6)]) == list(range(6))
                expected = [
                    (f"from {i}", {"caller": "me", "item": i, **({"odd": "yes"} if i % 2 else {})}) for i in range(6)
                ]
                assert messages() == expected, (name, limit, messages())
                sent.clear()
                sentry_sdk.capture_message("from the caller")
                assert messages() == [("from the caller", {"caller": "me"})], (name, limit)
    """
    check(impl, script)


def test_each_item_is_one_span_within_the_caller_s(impl):
    script = """
    async def item(i):
        with sentry_sdk.start_span(name=f"inner {i}"):
            await asyncio.sleep(0)
        return i

    async def nested(call, limit, i):
        with sentry_sdk.start_span(name=f"parent {i}"):
            await call(limit, [lambda j=j: item(j) for j in range(2)])

    async def main():
        start()
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                sent.clear()
                with sentry_sdk.start_transaction(name="root"), sentry_sdk.start_span(name="caller"):
                    await call(limit, [lambda i=i: item(i) for i in range(4)])
                [root, [caller, *spans]] = tree()
                assert (root, caller) == ("root", "caller")
                # Which of them starts first, is the semaphore's business; each is one span around the item's own.
                spans.sort(key=lambda span: span[1])
                names = {"recipe": "recipe.<locals>.gated", "gated_coro": "gated_coro"}
                if name in ("run_all", "constrained_execution"):
                    names[name] = "main.<locals>.<lambda>"
                own = names.get(name, "item")
                assert spans == [[own, [f"inner {i}"]] for i in range(4)], (name, limit, spans)

                sent.clear()
                with sentry_sdk.start_transaction(name="root"):
                    await call(limit, [lambda i=i: nested(call, limit, i) for i in range(3)])
                [root, *spans] = tree()
                seen = sorted(
                    (parent, sorted(child for [_, [child]] in children)) for [_, [parent, *children]] in spans
                )
                assert seen == [(f"parent {i}", ["inner 0", "inner 1"]) for i in range(3)], (name, limit, spans)
    """
    check(impl, script)


def test_an_error_is_captured_once_with_the_scope_of_its_item(impl):
    script = """
    async def item(i):
        sentry_sdk.set_tag("item", i)
        await asyncio.sleep(0)
        if i == 2:
            raise LookupError(f"of {i}")
        return i

    async def nested(call, limit):
        return await call(limit, [lambda i=i: item(i) for i in range(4)])

    async def fails(awaitable):
        try:
            await awaitable
        except LookupError:
            return
        raise AssertionError("no error")

    async def main():
        start()
        for name, call in all_doors(impl):
            for limit in 1, 2, None:
                sent.clear()
                await fails(nested(call, limit))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert errors() == [("LookupError", "of 2", {"item": 2})], (name, limit, errors())
                # It is raised in the outer item, too, which knows nothing of the inner one's scope.
                sent.clear()
                await fails(call(limit, [lambda: nested(call, limit)]))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert errors() == [("LookupError", "of 2", tags) for tags in ({"item": 2}, {})], (name, limit, errors())
        for limit in 1, 2, None:
            sent.clear()
            results = await impl.gather(*map(item, range(4)), limit=limit, return_exceptions=True)
            assert [type(result) for result in results] == [int, int, LookupError, int]
            assert errors() == [("LookupError", "of 2", {"item": 2})], (limit, errors())
    """
    check(impl, script)


def test_a_cancelled_call_is_no_error(impl):
    script = """
    async def item():
        await asyncio.sleep(3600)

    async def main():
        start()
        for name, call in doors(impl).items():
            for limit in 1, 2, None:
                for turns in range(2, 8):
                    sent.clear()
                    await cancelled_after(turns, call(limit, [item] * 4))
                    assert errors() == [], (name, limit, turns)

    # Under asyncio.gather, as in the recipe, a coroutine whose Task was not begun is never awaited by the factory.
    import warnings
    warnings.filterwarnings("ignore", message=r"coroutine 'gated_coro|coroutine 'doors")    """
    check(impl, script)


def test_the_integration_may_be_started_between_two_calls(impl, any_turns):
    script = """
    async def item(i):
        sentry_sdk.set_tag("item", i)
        await asyncio.sleep(0)
        sentry_sdk.capture_message(f"from {i}")

    async def main():
        for started in False, True:
            for name, call in doors(impl).items():
                sent.clear()
                await call(2, [lambda i=i: item(i) for i in range(4)])
                assert [tags for _, tags in messages()] == ([{"item": i} for i in range(4)] if started else []), name
            if not started:
                start()
    """
    check(impl, script)
