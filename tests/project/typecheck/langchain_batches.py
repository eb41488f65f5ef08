"""What type checkers make of the functions for LangChain's runnables; read, never run, by test_typing.py.

`# reveals: TYPE` is what `reveal_type` on that line says, `# error: CODE` the complaint of mypy's that is expected there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, reveal_type

import gatedcoro.langchain
from gatedcoro.langchain import abatch, abatch_as_completed


class Chain:
    """Has the one method of a Runnable that is called."""

    async def ainvoke(self, input: str, config: dict[str, Any] | None = None, **kwargs: Any) -> int:
        return len(input)


async def questions() -> AsyncIterator[str]:
    yield ""


async def batches(switch: bool) -> None:
    chain = Chain()
    reveal_type(await abatch(chain, ["a"]))  # reveals: list[int]
    reveal_type(await abatch(chain, questions(), {"tags": ["x"]}, limit=3))  # reveals: list[int]
    reveal_type(await abatch(chain, iter(["a"]), [{}], return_exceptions=True))  # reveals: list[int | Exception]
    reveal_type(await abatch(chain, ["a"], return_exceptions=switch))  # reveals: list[int | Exception]
    gates = [asyncio.Semaphore(3)]
    await abatch(chain, ["a"], limit=(3, asyncio.Semaphore(3)), progress=print)
    await abatch(chain, ["a"], limit=gates, progress=True, temperature=0)
    await abatch(chain, [1])  # error: misc
    await abatch(chain, ["a"], limit="3")  # error: arg-type
    await abatch(chain, ["a"], progress="yes")  # error: call-overload
    await abatch(chain.ainvoke, ["a"])  # error: call-overload


async def as_completed(switch: bool) -> None:
    chain = Chain()
    stream = abatch_as_completed(chain, questions(), limit=(3, asyncio.Semaphore(3)), buffersize=0)
    reveal_type(stream)  # reveals: Stream[tuple[int, int]]
    async with stream as answers:
        async for index, answer in answers:
            reveal_type((index, answer))  # reveals: tuple[int, int]
    reveal_type(await abatch_as_completed(chain, ["a"]))  # reveals: list[tuple[int, int]]
    async with contextlib.aclosing(abatch_as_completed(chain, ["a"], return_exceptions=True)) as results:
        reveal_type(await anext(results))  # reveals: tuple[int, int | Exception]
    reveal_type(
        abatch_as_completed(chain, ["a"], return_exceptions=switch)
    )  # reveals: Stream[tuple[int, int | Exception]]
    abatch_as_completed(chain, 5)  # error: call-overload
    abatch_as_completed(chain, ["a"], buffersize=1.5)  # error: call-overload


def the_swap() -> None:
    reveal_type(gatedcoro.langchain.install(as_completed=False))  # reveals: None
    with gatedcoro.langchain.swapped(langgraph=True, as_completed=False) as nothing:
        reveal_type(nothing)  # reveals: None
    gatedcoro.langchain.install(False)  # error: call-arg
