"""What the swap changes in a real `abatch` and `abatch_as_completed`: LangChain as it is, swapped, and `gatedcoro.langchain`'s own.

    python -m benchmarks.langchain_abatch                      a table of each function, and the calls that are saved
    python -m benchmarks.langchain_abatch --only abatch        the table of one of them
    python -m benchmarks.langchain_abatch --inputs 100 2000    for other numbers of inputs
    python -m benchmarks.langchain_abatch --markdown           the tables as they stand in docs/langchain.md

The runnable is `prompt | model | parser`; the model is a BaseChatModel of this module that awaits `asyncio.sleep(0)` and
answers: all the time is LangChain's and gatedcoro's, none the model's. Whoever reads from `abatch_as_completed` does nothing but
collect. Every figure is the median of several rounds, in which the columns take turns, each in a process of its own. A process
runs the chain three times: with ten inputs to warm up, for time and memory (the growth of the resident set to its peak), and with
a timer that beats each millisecond (the longest stall of the event loop). The outputs are compared before a figure counts.

The calls are counted with a model that answers one call after the other, and no clock has a part in that.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import harness
from benchmarks.measure import Heartbeat, check, frozen_gc, in_turns, rss_growth

INPUTS = (100, 2_000, 20_000)
LIMITS = (None, 20)
WIDTHS = (6, 15, 24, 24, 24)


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


# --- The functions ----------------------------------------------------------------------------------------------------

# Making the inputs is a part of it.
Collect = Callable[[Any, int, dict[str, Any]], Awaitable[list[Any]]]


async def abatch(chain: Any, count: int, config: dict[str, Any]) -> list[Any]:
    outputs: list[Any] = await chain.abatch(list(words(count)), config)
    return outputs


async def abatch_lazily(chain: Any, count: int, config: dict[str, Any]) -> list[Any]:
    import gatedcoro.langchain

    return await gatedcoro.langchain.abatch(chain, words(count), config)


async def abatch_as_completed(chain: Any, count: int, config: dict[str, Any]) -> list[Any]:
    return [output async for output in chain.abatch_as_completed(list(words(count)), config)]


async def abatch_as_completed_lazily(chain: Any, count: int, config: dict[str, Any]) -> list[Any]:
    import gatedcoro.langchain

    async with gatedcoro.langchain.abatch_as_completed(chain, words(count), config) as outputs:
        return [output async for output in outputs]


@dataclass(frozen=True)
class Column:
    collect: Collect
    swapped: bool = False


@dataclass(frozen=True)
class Function:
    """A table: what is called in each column, and whether the outputs come in the order of the inputs, or with their indices."""

    columns: Mapping[str, Column]
    in_order: bool

    def check(self, outputs: list[Any], expected: list[str]) -> None:
        if self.in_order:
            check(outputs, expected)
        else:
            check(sorted(outputs), list(enumerate(expected)))


def function(theirs: Collect, lazily: Collect, *, in_order: bool) -> Function:
    columns = {"plain": Column(theirs), "swapped": Column(theirs, swapped=True)}
    return Function(columns | {f"gatedcoro.langchain.{theirs.__name__}": Column(lazily)}, in_order)


FUNCTIONS = {
    "abatch": function(abatch, abatch_lazily, in_order=True),
    "abatch_as_completed": function(abatch_as_completed, abatch_as_completed_lazily, in_order=False),
}


# --- One cell, in a process of its own --------------------------------------------------------------------------------


def measure_cell(function: str, column: str, inputs: int, limit: int | None) -> dict[str, float]:
    import gatedcoro.langchain

    of = FUNCTIONS[function]
    collect = of.columns[column].collect
    chain = build_chain()
    config = {"max_concurrency": limit}
    if of.columns[column].swapped:
        gatedcoro.langchain.install()

    async def timed() -> float:
        began = time.perf_counter()
        outputs = await collect(chain, inputs, config)
        seconds = time.perf_counter() - began
        of.check(outputs, expected)
        return seconds

    async def stalled() -> float:
        async with Heartbeat() as heartbeat:
            outputs = await collect(chain, inputs, config)
        of.check(outputs, expected)
        return heartbeat.longest_stall()

    expected = [f"Say {number}." for number in range(inputs)]
    asyncio.run(collect(chain, 10, config))
    with frozen_gc():
        with rss_growth() as growth:
            seconds = asyncio.run(timed())
        stall = asyncio.run(stalled())
    return {"seconds": seconds, "bytes": growth.bytes, "stall": stall}


# --- The calls that are saved -----------------------------------------------------------------------------------------

CALLED, AT_ONCE = 50, 5


class OneAfterTheOther:
    """A model that answers one call after the other, each so late that everybody has done by then what the last answer let him do.

    So it is known who has come how far, whatever the machine. The first input fails, if one is to.
    """

    def __init__(self, first_fails: bool) -> None:
        self.first_fails = first_fails
        self.calls = 0
        self.turn = asyncio.Lock()

    async def __call__(self, value: int) -> int:
        self.calls += 1
        async with self.turn:
            for _ in range(20):
                await asyncio.sleep(0)
        if value == 0 and self.first_fails:
            raise ConnectionError
        return value


async def three_then_break(outputs: Any) -> None:
    taken = 0
    async for _ in outputs:
        taken += 1
        if taken == 3:
            break


async def three_then_close(outputs: Any) -> None:
    async with contextlib.aclosing(outputs):
        await three_then_break(outputs)


async def half_then_timeout(outputs: Any) -> None:
    taken = 0
    async with asyncio.timeout(None) as timeout:
        async for _ in outputs:
            taken += 1
            if taken == CALLED // 2:
                timeout.reschedule(0)


async def all_of_them(outputs: Any) -> None:
    async for _ in outputs:
        pass


async def awaited(outputs: Any) -> None:
    await outputs


@dataclass(frozen=True)
class Situation:
    function: str
    title: str
    consume: Callable[[Any], Awaitable[None]]
    first_fails: bool = False


SITUATIONS = (
    Situation("abatch_as_completed", "three results, then `break`", three_then_break),
    Situation("abatch_as_completed", "three results, then the end of `aclosing`", three_then_close),
    Situation("abatch_as_completed", "the first input fails", all_of_them, first_fails=True),
    Situation("abatch_as_completed", "a timeout after 25 results", half_then_timeout),
    Situation("abatch", "the first input fails, with `cancel_on_error`", awaited, first_fails=True),
)
WAYS = ("plain", "swapped", "gatedcoro.langchain")


def calls_made(situation: Situation, way: str) -> int:
    """How often the model is called in this situation, until nothing runs any more."""
    from langchain_core.runnables import RunnableLambda

    import gatedcoro.langchain

    async def main() -> int:
        model = OneAfterTheOther(situation.first_fails)
        runnable = RunnableLambda(model.__call__)
        config = {"max_concurrency": AT_ONCE}
        inputs = list(range(CALLED))
        with contextlib.suppress(ConnectionError, TimeoutError):
            if way != "gatedcoro.langchain":
                await situation.consume(getattr(runnable, situation.function)(inputs, config))
            elif situation.function == "abatch":
                await gatedcoro.langchain.abatch(runnable, inputs, config, cancel_on_error=True)
            else:
                await situation.consume(gatedcoro.langchain.abatch_as_completed(runnable, inputs, config))
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        return model.calls

    with gatedcoro.langchain.swapped(cancel_on_error=True) if way == "swapped" else contextlib.nullcontext():
        return asyncio.run(main())


# --- The tables -------------------------------------------------------------------------------------------------------


def measured(function: str, inputs: int, limit: int | None, rounds: int) -> dict[str, list[dict[str, float]]]:
    """The figures of each column, each from a process of its own."""
    columns = FUNCTIONS[function].columns
    found: dict[str, list[dict[str, float]]] = {column: [] for column in columns}
    for _, order in in_turns(columns, rounds):
        for column in order:
            request = {"function": function, "column": column, "inputs": inputs, "limit": limit}
            found[column] += harness.asked(["benchmarks.langchain_abatch", "--cell"], request)
    return found


def spell(rounds: list[dict[str, float]]) -> str:
    seconds, size, stall = (
        statistics.median(figures[key] for figures in rounds) for key in ("seconds", "bytes", "stall")
    )
    return f"{seconds:.2f} s, {size / 2**20:.0f} MB, {stall * 1_000:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(FUNCTIONS), action="append", help="only this function (repeatable)")
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
        f"gatedcoro's implementation: {gatedcoro.implementation}"
    )
    chosen = options.only or list(FUNCTIONS)
    for function in chosen:
        print(f"\n{function}: time, memory, longest stall of the event loop\n")
        print_head(["inputs", "max_concurrency", *FUNCTIONS[function].columns], options.markdown)
        for inputs in options.inputs:
            for limit in LIMITS:
                columns = measured(function, inputs, limit, options.rounds)
                print_row([f"{inputs:,}", str(limit), *map(spell, columns.values())], options.markdown)
    print(f"\nCalls of the model: {CALLED} inputs, max_concurrency={AT_ONCE}\n")
    widths = (19, max(len(situation.title) for situation in SITUATIONS), *map(len, WAYS))
    print_head(["function", "situation", *WAYS], options.markdown, widths)
    for situation in SITUATIONS:
        if situation.function in chosen:
            calls = [str(calls_made(situation, way)) for way in WAYS]
            print_row([f"`{situation.function}`", situation.title, *calls], options.markdown, widths)


def print_head(names: list[str], markdown: bool, widths: Sequence[int] = WIDTHS) -> None:
    print_row(names, markdown, widths)
    if markdown:
        print_row(["---"] * len(names), markdown)


def print_row(row: list[str], markdown: bool, widths: Sequence[int] = WIDTHS) -> None:
    cells = (cell.replace("`", "").ljust(width) for cell, width in zip(row, widths, strict=True))
    print("| " + " | ".join(row) + " |" if markdown else "  ".join(cells).rstrip(), flush=True)


if __name__ == "__main__":
    main()
