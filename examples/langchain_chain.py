"""A LangChain chain of prompt, model and parser, run over many inputs on gatedcoro. Needs langchain-core; no network, no key.

python examples/langchain_chain.py
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate

import gatedcoro.langchain


class Model(BaseChatModel):
    """Stands for a model behind an API: it takes a moment, costs money, and now and then refuses."""

    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "example"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError("only the asynchronous side is used here")

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.calls += 1
        text = str(messages[-1].content)
        await asyncio.sleep(0.01)
        if "forbidden" in text:
            raise PermissionError("the model refuses")
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text.upper()))])


model = Model()
chain = ChatPromptTemplate.from_messages([("human", "Say {word}.")]) | model | StrOutputParser()


def inputs(count: int) -> Iterator[dict[str, str]]:
    for number in range(count):
        yield {"word": f"word {number}"}


async def the_swap() -> None:
    """Two lines, and every `abatch` in the program runs on gatedcoro."""
    gatedcoro.langchain.install()
    began = time.perf_counter()
    answers = await chain.abatch(list(inputs(200)), {"max_concurrency": 20})
    print(f"abatch: {len(answers)} answers in {time.perf_counter() - began:.2f} s, the last one {answers[-1]!r}")
    gatedcoro.langchain.uninstall()


async def lazily() -> None:
    """No barrier between the steps, and a coroutine only for what is running: inputs may come from a generator."""
    began = time.perf_counter()
    answers = await gatedcoro.langchain.abatch(chain, inputs(200), {"max_concurrency": 20})
    print(f"gatedcoro.langchain.abatch: {len(answers)} answers in {time.perf_counter() - began:.2f} s")


async def calls_after_an_error() -> None:
    """The first of 50 inputs fails. How many calls of the model are paid for?"""
    batch = [{"word": "forbidden"}, *inputs(49)]
    for cancel_on_error in (False, True):
        model.calls = 0
        with gatedcoro.langchain.swapped(cancel_on_error=cancel_on_error):
            try:
                await model.abatch([f"Say {value['word']}." for value in batch], {"max_concurrency": 5})
            except PermissionError as error:
                when_told = model.calls
                await asyncio.sleep(0.5)
                print(
                    f"cancel_on_error={cancel_on_error}: {error}; {when_told} calls when told, {model.calls} in the end"
                )


asyncio.run(the_swap())
asyncio.run(lazily())
asyncio.run(calls_after_an_error())
