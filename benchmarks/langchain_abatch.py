"""What the swap changes in a real `abatch`: LangChain as it is, LangChain swapped, and `gatedcoro.langchain.abatch`.

    python -m benchmarks.langchain_abatch                      the table, and the calls that cancel_on_error saves
    python -m benchmarks.langchain_abatch --inputs 100 2000    for other numbers of inputs
    python -m benchmarks.langchain_abatch --markdown           the table as it stands in the README

The runnable is `prompt | model | parser`; the model is a BaseChatModel of this module that awaits `asyncio.sleep(0)` and
answers: all the time is LangChain's and gatedcoro's, none the model's. Every figure is the median of several rounds, in which
the columns take turns, each in a process of its own. A process runs the chain three times: with ten inputs to warm up, for time
and memory (the growth of the resident set to its peak), and with a timer that beats each millisecond (the longest stall of the
event loop). The outputs are compared before a figure counts.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import harness
from benchmarks.measure import Heartbeat, check, frozen_gc, in_turns, rss_growth

COLUMNS = ("plain", "swapped", "gatedcoro.langchain.abatch")
INPUTS = (100, 2_000, 20_000)
LIMITS = (None, 20)


def build_chain() -> Any:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.prompts import ChatPromptTemplate

    class Model(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "benchmark"

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            raise NotImplementedError

        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            await asyncio.sleep(0)
            return ChatResult(generations=[ChatGeneration(message=AIMessage(messages[-1].content))])

    return ChatPromptTemplate.from_messages([("human", "Say {word}.")]) | Model() | StrOutputParser()


def words(count: int) -> Iterator[dict[str, str]]:
    return ({"word": str(number)} for number in range(count))


# --- One cell, in a process of its own --------------------------------------------------------------------------------


def measure_cell(column: str, inputs: int, limit: int | None) -> dict[str, float]:
    import gatedcoro.langchain

    chain = build_chain()
    config = {"max_concurrency": limit}
    if column == "swapped":
        gatedcoro.langchain.install()

    # Inside a run's time: making the inputs, and everything that abatch does with them.
    async def run(count: int) -> list[str]:
        if column == "gatedcoro.langchain.abatch":
            return await gatedcoro.langchain.abatch(chain, words(count), config)
        outputs: list[str] = await chain.abatch(list(words(count)), config)
        return outputs

    async def timed() -> float:
        began = time.perf_counter()
        outputs = await run(inputs)
        seconds = time.perf_counter() - began
        check(outputs, expected)
        return seconds

    async def stalled() -> float:
        async with Heartbeat() as heartbeat:
            outputs = await run(inputs)
        check(outputs, expected)
        return heartbeat.longest_stall()

    expected = [f"Say {number}." for number in range(inputs)]
    asyncio.run(run(10))
    with frozen_gc():
        with rss_growth() as growth:
            seconds = asyncio.run(timed())
        stall = asyncio.run(stalled())
    return {"seconds": seconds, "bytes": growth.bytes, "stall": stall}


# --- The calls that cancel_on_error saves -----------------------------------------------------------------------------


def calls_made(cancel_on_error: bool, *, inputs: int = 50, limit: int = 5) -> int:
    """Calls of a model, in a batch whose first input fails."""
    from langchain_core.runnables import RunnableLambda

    import gatedcoro.langchain

    calls = 0

    async def model(value: int) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.001)
        if value == 0:
            raise ConnectionError
        await asyncio.sleep(0.001)
        return value

    async def main() -> None:
        with contextlib.suppress(ConnectionError):
            await RunnableLambda(model).abatch(list(range(inputs)), {"max_concurrency": limit})
        await asyncio.sleep(0.3)

    with gatedcoro.langchain.swapped(cancel_on_error=True) if cancel_on_error else contextlib.nullcontext():
        asyncio.run(main())
    return calls


# --- The table --------------------------------------------------------------------------------------------------------


def measured(inputs: int, limit: int | None, rounds: int) -> dict[str, list[dict[str, float]]]:
    """The figures of each column, each from a process of its own."""
    found: dict[str, list[dict[str, float]]] = {column: [] for column in COLUMNS}
    for _, order in in_turns(COLUMNS, rounds):
        for column in order:
            request = {"column": column, "inputs": inputs, "limit": limit}
            found[column] += harness.asked(["benchmarks.langchain_abatch", "--cell"], request)
    return found


def spell(rounds: list[dict[str, float]]) -> str:
    seconds, size, stall = (
        statistics.median(figures[key] for figures in rounds) for key in ("seconds", "bytes", "stall")
    )
    return f"{seconds:.2f} s, {size / 2**20:.0f} MB, {stall * 1_000:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, nargs="+", default=INPUTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--cell", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        harness.answer(lambda cell, report: report(measure_cell(**cell)))
        return

    import langchain_core

    import gatedcoro

    print(
        f"langchain-core {langchain_core.__version__}, Python {sys.version.split()[0]}, "
        f"gatedcoro's implementation: {gatedcoro.implementation}; time, memory, longest stall of the event loop\n"
    )
    head = ["inputs", "max_concurrency", *COLUMNS]
    rows = [head, ["---"] * len(head)] if options.markdown else [head]
    for row in rows:
        print_row(row, options.markdown)
    for inputs in options.inputs:
        for limit in LIMITS:
            columns = measured(inputs, limit, options.rounds)
            print_row([f"{inputs:,}", str(limit), *map(spell, columns.values())], options.markdown)
    print("\nThe first of 50 inputs fails, max_concurrency=5; calls of the model that are made:")
    print(f"plain {calls_made(False)}, install(cancel_on_error=True) {calls_made(True)}")


def print_row(row: list[str], markdown: bool) -> None:
    print("| " + " | ".join(row) + " |" if markdown else "".join(f"{cell:<28}" for cell in row).rstrip(), flush=True)


if __name__ == "__main__":
    main()
