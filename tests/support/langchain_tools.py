"""What tests of LangChain's batches share: runnables, and how a program ends. Needs langchain-core."""

import asyncio
import contextlib
import gc
import warnings

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    Runnable,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSerializable,
)


async def double(value):
    await asyncio.sleep(0)
    if value == 3:
        raise LookupError(f"no double of {value}")
    await asyncio.sleep(0)
    return value * 2


async def add_one(value):
    await asyncio.sleep(0)
    return value + 1


class Scaled(RunnableSerializable[int, int]):
    factor: int = 2

    def invoke(self, input, config=None, **kwargs):
        raise AssertionError("only ainvoke is to be used")

    async def ainvoke(self, input, config=None, **kwargs):
        return await double(input) * self.factor


def flaky():
    """Fails the first time for one of the inputs."""
    seen = set()

    async def call(value):
        await asyncio.sleep(0)
        if value == 4 and value not in seen:
            seen.add(value)
            raise ConnectionError(f"not yet {value}")
        return value

    return RunnableLambda(call)


DOUBLE, ADD_ONE = RunnableLambda(double), RunnableLambda(add_one)
SCALED = Scaled().configurable_fields(factor=ConfigurableField("factor"))
ALTERNATIVES = Scaled().configurable_alternatives(ConfigurableField("which"), default_key="scaled", add_one=ADD_ONE)

RUNNABLES = {
    "a lambda": lambda: (DOUBLE, range(6), {}),
    "a sequence": lambda: (ADD_ONE | DOUBLE | ADD_ONE, range(6), {}),
    "a sequence in parallel": lambda: (RunnableParallel(a=DOUBLE, b=ADD_ONE), range(6), {}),
    "assign": lambda: (RunnablePassthrough.assign(twice=lambda x: x["n"] * 2), [{"n": n} for n in range(6)], {}),
    "a binding": lambda: (DOUBLE.with_config(tags=["tag"]), range(6), {}),
    "map": lambda: (DOUBLE.map(), [[0, 1, 2], [], [3, 4], [5] * 10], {}),
    "the default alternative": lambda: (ALTERNATIVES, range(6), {}),
    "another alternative": lambda: (ALTERNATIVES, range(6), {"configurable": {"which": "add_one"}}),
    "a configurable field": lambda: (SCALED, range(6), {"configurable": {"factor": 7}}),
    "a router": lambda: (
        RouterRunnable(runnables={"double": DOUBLE, "add": ADD_ONE}),
        [{"key": key, "input": n} for n, key in enumerate(["double", "add", "double", "double", "add"])],
        {},
    ),
    "retries": lambda: (
        flaky().with_retry(
            wait_exponential_jitter=False, stop_after_attempt=3, retry_if_exception_type=(ConnectionError,)
        ),
        range(6),
        {},
    ),
    "retries in vain": lambda: (DOUBLE.with_retry(wait_exponential_jitter=False, stop_after_attempt=2), range(6), {}),
    "fallbacks": lambda: (DOUBLE.with_fallbacks([ADD_ONE]), range(6), {}),
    "no inputs": lambda: (DOUBLE, [], {}),
}


def outcome(main):
    """What a program ends with, its errors by type and text; never a coroutine that nobody awaited."""

    def plain(value):
        return (type(value), str(value)) if isinstance(value, BaseException) else value

    try:
        return [plain(value) for value in asyncio.run(main)]
    except BaseException as error:
        return plain(error)


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()


@contextlib.contextmanager
def warnings_ignored():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


class Slow:
    """A runnable whose calls wait for an event, and take a turn to clean up."""

    def __init__(self):
        self.started = self.ended = self.running = 0
        self.release = asyncio.Event()
        self.runnable = RunnableLambda(self.call)

    async def call(self, value):
        self.started += 1
        self.running += 1
        try:
            await self.release.wait()
            return value
        finally:
            try:
                await asyncio.sleep(0.01)
                self.ended += 1
            finally:
                self.running -= 1


class Watch:
    """A runnable that knows how many of its calls run at once."""

    def __init__(self, failing=()):
        self.running = self.most = self.started = self.ended = 0
        self.failing = failing
        self.runnable = RunnableLambda(self.call)

    async def call(self, value):
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.001)
            if value in self.failing:
                raise LookupError(f"no {value}")
            return value * 2
        finally:
            self.running -= 1
            self.ended += 1


class Work(Runnable):
    """A runnable whose inputs are the times that they take; in virtual time. It keeps what happens to each.

    "+3": the call for 3 starts. "-3": it ends with 30. "!3": it fails, as 3 is among the `failing`. "x3": it is cancelled;
    ".3": it has cleaned up, for `cleanup` turns of the loop; then it raises what `after` says, or returns that, or goes on being cancelled.
    """

    def __init__(self, failing=(), cleanup=0, after=None):
        self.failing, self.cleanup, self.after = failing, cleanup, after
        self.events = []
        self.running = set()
        self.most = 0

    def invoke(self, input, config=None, **kwargs):
        raise AssertionError("only ainvoke is to be used")

    async def ainvoke(self, input, config=None, **kwargs):
        self.events.append(f"+{input}")
        self.running.add(input)
        self.most = max(self.most, len(self.running))
        try:
            return await self.work(input)
        except asyncio.CancelledError:
            self.events.append(f"x{input}")
            for _ in range(self.cleanup):
                await asyncio.sleep(0)
            self.events.append(f".{input}")
            if isinstance(self.after, BaseException):
                raise self.after from None
            if self.after is not None:
                return self.after
            raise
        finally:
            self.running.remove(input)

    async def work(self, input):
        await asyncio.sleep(input)
        if input in self.failing:
            self.events.append(f"!{input}")
            raise LookupError(f"no {input}")
        self.events.append(f"-{input}")
        return input * 10

    @property
    def trace(self):
        return " ".join(self.events)


class EchoModel(BaseChatModel):
    """A chat model that really awaits; LangChain's fakes batch one by one, or run in threads."""

    port: int | None = None

    @property
    def _llm_type(self):
        return "echo"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        raise AssertionError("only _agenerate is to be used")

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        text = messages[-1].content
        if self.port is None:
            await asyncio.sleep(0)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            body = text.encode()
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            text = answer.partition(b"\r\n\r\n")[2].decode()
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


def chain(model):
    return ChatPromptTemplate.from_messages([("human", "Say {word}.")]) | model | StrOutputParser()
