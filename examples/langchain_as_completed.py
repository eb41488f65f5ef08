"""A LangChain chain whose answers are read as they come, until there are enough of them. Needs langchain-core; no network, no key.

python examples/langchain_as_completed.py
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig

import gatedcoro.langchain

COUNT = 50
CONFIG: RunnableConfig = {"max_concurrency": 5}


class Model(BaseChatModel):
    """Stands for a model behind an API: each call costs money, and some take longer than others."""

    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "example"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError("only the asynchronous side is used here")

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.calls += 1
        text = str(messages[-1].content)
        await asyncio.sleep(0.01 * (1 + int(text.split()[-1]) * 3 % 5))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text.upper()))])


model = Model()
chain = ChatPromptTemplate.from_messages([("human", "Question {number}")]) | model | StrOutputParser()
questions = [{"number": number} for number in range(COUNT)]


async def three_answers(outputs: Any) -> int:
    """Read three answers, and leave. How many calls of the model are paid for, when everything has ended?"""
    model.calls = 0
    answers = []
    async with contextlib.aclosing(outputs):
        async for index, answer in outputs:
            answers.append(f"{index}: {answer!r}")
            if len(answers) == 3:
                break
    when_left = model.calls
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    print("   ", *answers)
    print(f"    calls of the model: {when_left} when left, {model.calls} in the end")
    return model.calls


async def read_questions() -> AsyncIterator[dict[str, int]]:
    """Questions that come one by one, from a database or a queue."""
    read = 0
    try:
        for question in questions:
            await asyncio.sleep(0)
            read += 1
            yield question
    finally:
        print(f"    closed after {read} questions")


async def main() -> None:
    print(f"The first three answers to {COUNT} questions, five at a time. LangChain, as it is:")
    assert await three_answers(chain.abatch_as_completed(questions, CONFIG)) == COUNT

    print("The same, swapped:")
    with gatedcoro.langchain.swapped():
        assert await three_answers(chain.abatch_as_completed(questions, CONFIG)) < COUNT / 2

    print("gatedcoro.langchain.abatch_as_completed, with questions from an async generator:")
    answers = gatedcoro.langchain.abatch_as_completed(chain, read_questions(), CONFIG)
    assert await three_answers(answers) < COUNT / 2

    print("All answers, with progress:", end="")
    everything = await gatedcoro.langchain.abatch(
        chain, questions, CONFIG, progress=lambda ended: print(f" +{ended}", end="")
    )
    print(f"\n    {len(everything)} answers")


asyncio.run(main())
