"""aws-xray-sdk: keeps the open segments as an attribute of the Task, which a task factory hands on from the current Task."""

from tools import check_main, needs

needs("aws-xray-sdk")

PREPARE = """
import logging
from aws_xray_sdk.core import xray_recorder
from aws_xray_sdk.core.async_context import AsyncContext
from doors import all_doors

complaints = []

class Keep(logging.Handler):
    def emit(self, record):
        complaints.append(record.getMessage())

logging.getLogger("aws_xray_sdk").addHandler(Keep(logging.WARNING))

class Emitter:
    def send_entity(self, entity):
        pass

    def set_daemon_address(self, address):
        pass

def start():
    xray_recorder.configure(service="test", context=AsyncContext(), sampling=False, context_missing="LOG_ERROR")
    xray_recorder.emitter = Emitter()

def tree(entity):  # of up to 30 subsegments; what is more, the recorder sends ahead
    return {child.name: tree(child) for child in entity.subsegments}

async def item(i, turns=1):
    async with xray_recorder.in_subsegment_async(f"item {i}") as mine:
        mine.put_annotation("before", i)
        for _ in range(turns):
            await asyncio.sleep(0)
        async with xray_recorder.in_subsegment_async(f"inner {i}") as inner:
            await asyncio.sleep(0)
            assert inner.parent_id == mine.id
        mine.put_annotation("after", i)
    return i
"""


def check(impl, script):
    check_main(impl, PREPARE, script)


def test_subsegments_of_items_are_children_of_the_caller_s_segment(impl):
    script = """
    async def main():
        start()
        for name, call in all_doors(impl):
            for limit in 1, 2, 3, None:
                for turns in 0, 1, 3:
                    async with xray_recorder.in_segment_async("root") as segment:
                        async with xray_recorder.in_subsegment_async("caller") as caller:
                            got = await call(limit, [lambda i=i: item(i, turns) for i in range(9)])
                    assert got == list(range(9)), (name, limit, turns)
                    assert complaints == [], (name, limit, turns, complaints)
                    expected = {f"item {i}": {f"inner {i}": {}} for i in range(9)}
                    assert tree(caller) == expected, (name, limit, turns, tree(segment))
    """
    check(impl, script)


def test_nested_calls(impl):
    script = """
    async def main():
        start()
        for name, call in all_doors(impl):
            for limit in 1, 2, None:

                async def nested(i):
                    async with xray_recorder.in_subsegment_async(f"parent {i}"):
                        return await call(limit, [lambda j=j: item(f"{i}.{j}") for j in range(3)])

                async with xray_recorder.in_segment_async("root") as segment:
                    await call(limit, [lambda i=i: nested(i) for i in range(3)])
                assert complaints == [], (name, limit, complaints)
                assert tree(segment) == {
                    f"parent {i}": {f"item {i}.{j}": {f"inner {i}.{j}": {}} for j in range(3)} for i in range(3)
                }, (name, limit)
    """
    check(impl, script)


def test_a_call_in_a_task_and_calls_at_the_same_time(impl):
    script = """
    async def main():
        start()
        for name, call in all_doors(impl):
            for limit in 1, 2, None:

                async def segment_of(i):
                    async with xray_recorder.in_segment_async(f"root {i}") as segment:
                        await asyncio.create_task(call(limit, [lambda j=j: item(f"{i}.{j}") for j in range(4)]))
                    return tree(segment)

                assert await asyncio.gather(*map(segment_of, range(3))) == [
                    {f"item {i}.{j}": {f"inner {i}.{j}": {}} for j in range(4)} for i in range(3)
                ], (name, limit)
                assert complaints == [], (name, limit, complaints)
    """
    check(impl, script)
