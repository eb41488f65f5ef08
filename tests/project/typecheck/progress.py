"""What type checkers make of progress=; read, never run, by test_typing.py.

`# reveals: TYPE` is what `reveal_type` on that line says, `# error: CODE` the complaint of mypy's that is expected there.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NewType, reveal_type

import gatedcoro

TaskID = NewType("TaskID", int)


class Tqdm:
    """With the signatures of tqdm's bar."""

    def update(self, n: float | None = 1) -> bool | None:
        return None

    def close(self) -> None: ...


class RichProgress:
    """With the signatures of rich.progress.Progress."""

    def update(
        self, task_id: TaskID, *, total: float | None = None, advance: float | None = None, **fields: Any
    ) -> None: ...

    def advance(self, task_id: TaskID, advance: float = 1) -> None: ...


class OwnBar:
    def update(self, n: int) -> None: ...


class OwnCallable:
    def __call__(self, n: int) -> str:
        return str(n)


class UpdatesText:
    def update(self, n: str) -> None: ...


class NoBar:
    def advance(self, n: int) -> None: ...


async def number() -> int:
    return 1


def double(x: int) -> Awaitable[int]:
    return number()


def tell(n: int) -> None: ...


def tell_text(n: str) -> None: ...


def tell_nothing() -> None: ...


async def of_amap(bar: RichProgress, task: TaskID, done: list[int]) -> None:
    reveal_type(gatedcoro.amap(double, [1], progress=None))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=True))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=False))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=tell))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=print))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=done.append))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=lambda n: n + 1))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=lambda n: bar.advance(task, n)))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=Tqdm()))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=Tqdm().update))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=OwnBar()))  # reveals: Stream[int]
    reveal_type(gatedcoro.amap(double, [1], progress=OwnCallable()))  # reveals: Stream[int]
    gatedcoro.amap(double, [1], progress=bar)  # error: call-overload
    gatedcoro.amap(double, [1], progress=NoBar())  # error: call-overload
    gatedcoro.amap(double, [1], progress=UpdatesText())  # error: call-overload
    gatedcoro.amap(double, [1], progress=tell_text)  # error: arg-type
    gatedcoro.amap(double, [1], progress=tell_nothing)  # error: arg-type
    gatedcoro.amap(double, [1], progress=3)  # error: call-overload
    gatedcoro.amap(double, [1], progress="tqdm")  # error: call-overload


async def of_the_others(functions: list[Callable[[], Awaitable[int]]], bar: RichProgress) -> None:
    reveal_type(await gatedcoro.gather(number(), number(), progress=True))  # reveals: tuple[int, int]
    reveal_type(await gatedcoro.gather(number(), progress=Tqdm()))  # reveals: tuple[int]
    reveal_type(await gatedcoro.gather(*[number()], progress=tell))  # reveals: list[int]
    reveal_type(await gatedcoro.run_all(functions, progress=True))  # reveals: list[int]
    reveal_type(await gatedcoro.run_all(functions, progress=OwnBar()))  # reveals: list[int]
    reveal_type(await gatedcoro.run_all(functions, progress=lambda n: None))  # reveals: list[int]
    gatedcoro.gather(number(), progress=bar)  # error: call-overload
    await gatedcoro.run_all(functions, progress=bar)  # error: call-overload
    await gatedcoro.run_all(functions, progress=3)  # error: call-overload
