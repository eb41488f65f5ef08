"""The types of the public functions, whichever implementation runs."""

import asyncio
from asyncio import Future, Task
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import GenericAlias, TracebackType
from typing import Any, Generic, Literal, Protocol, Self, SupportsFloat, SupportsIndex, TypeAlias, final, overload

from typing_extensions import TypeVar

__all__ = [
    "AsCompleted",
    "BoundedSemaphore",
    "Semaphore",
    "Stream",
    "amap",
    "as_completed",
    "constrained_execution",
    "gated_coro",
    "gather",
    "gather_with_concurrency",
    "run_all",
]

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_F_co = TypeVar("_F_co", bound=Future[Any], covariant=True, default=Future[_T_co])
_R = TypeVar("_R")
_T1 = TypeVar("_T1")
_T2 = TypeVar("_T2")
_T3 = TypeVar("_T3")
_T4 = TypeVar("_T4")
_T5 = TypeVar("_T5")
_T6 = TypeVar("_T6")

class _Bar(Protocol):
    def update(self, n: int, /) -> object: ...

_Gate: TypeAlias = AbstractAsyncContextManager[Any, Any]
_OneLimit: TypeAlias = SupportsIndex | _Gate
# Of sequences only tuples and lists; but as `list`, which is invariant, a list of semaphores would be refused.
_Limit: TypeAlias = _OneLimit | Sequence[_OneLimit] | None
_Seconds: TypeAlias = SupportsFloat | SupportsIndex | None
_FutureLike: TypeAlias = Future[_T] | Awaitable[_T]
_Progress: TypeAlias = Callable[[int], object] | _Bar | bool | None
_AnyIterable: TypeAlias = Iterable[_T] | AsyncIterable[_T]

class Semaphore(asyncio.Semaphore):
    def __init__(self, value: SupportsIndex = 1) -> None: ...
    async def acquire(self) -> Literal[True]: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    @property
    def limit(self) -> int: ...
    @limit.setter
    def limit(self, limit: SupportsIndex, /) -> None: ...

class BoundedSemaphore(Semaphore, asyncio.BoundedSemaphore):
    def __init__(self, value: SupportsIndex = 1) -> None: ...
    def release(self) -> None: ...

@final
class Stream(Generic[_T_co]):
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, _T_co]: ...
    def __await__(self) -> Generator[Any, Any, list[_T_co]]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def aclose(self) -> None: ...
    @classmethod
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...

@final
class AsCompleted(Generic[_T_co, _F_co]):
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, _F_co]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Coroutine[Any, Any, _T_co]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def aclose(self) -> None: ...
    @classmethod
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...

@overload
def amap(
    async_fn: Callable[[_T], Awaitable[_R]],
    iterable: _AnyIterable[_T],
    *,
    limit: _Limit = None,
    ordered: bool = True,
    buffersize: SupportsIndex | None = None,
    return_exceptions: Literal[False] = False,
    progress: _Progress = None,
) -> Stream[_R]: ...
@overload
def amap(
    async_fn: Callable[[_T], Awaitable[_R]],
    iterable: _AnyIterable[_T],
    *,
    limit: _Limit = None,
    ordered: bool = True,
    buffersize: SupportsIndex | None = None,
    return_exceptions: bool,
    progress: _Progress = None,
) -> Stream[_R | BaseException]: ...

# Of Tasks exactly these are given, so that one can look up which of one's own it is. For coroutines it is a Task, too; but
# an overload that says so overlaps with the second one wherever a type contains Any, as Coroutine[Any, Any, int] does, and
# mypy's answer is then Any.
@overload
def as_completed(
    aws: _AnyIterable[Task[_T]], *, limit: _Limit = None, timeout: _Seconds = None
) -> AsCompleted[_T, Task[_T]]: ...
@overload
def as_completed(
    aws: _AnyIterable[_FutureLike[_T]], *, limit: _Limit = None, timeout: _Seconds = None
) -> AsCompleted[_T]: ...
async def gated_coro(semaphore: _Gate, coro: Coroutine[Any, Any, _T]) -> _T: ...
async def gather_with_concurrency(n: int | None, *coros: Coroutine[Any, Any, _T]) -> list[_T]: ...

# As typeshed types asyncio.gather: tuples for up to six awaitables (at run time it is a list), which is why overloads overlap.
@overload
def gather(  # type: ignore[overload-overlap]
    awaitable1: _FutureLike[_T1],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1]]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1, _T2]]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    awaitable3: _FutureLike[_T3],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1, _T2, _T3]]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    awaitable3: _FutureLike[_T3],
    awaitable4: _FutureLike[_T4],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1, _T2, _T3, _T4]]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    awaitable3: _FutureLike[_T3],
    awaitable4: _FutureLike[_T4],
    awaitable5: _FutureLike[_T5],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1, _T2, _T3, _T4, _T5]]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    awaitable3: _FutureLike[_T3],
    awaitable4: _FutureLike[_T4],
    awaitable5: _FutureLike[_T5],
    awaitable6: _FutureLike[_T6],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1, _T2, _T3, _T4, _T5, _T6]]: ...
@overload
def gather(  # type: ignore[overload-overlap]
    *aws: _FutureLike[_T],
    limit: _Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[list[_T]]: ...
@overload
def gather(
    awaitable1: _FutureLike[_T1],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1 | BaseException]]: ...
@overload
def gather(
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1 | BaseException, _T2 | BaseException]]: ...
@overload
def gather(
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    awaitable3: _FutureLike[_T3],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1 | BaseException, _T2 | BaseException, _T3 | BaseException]]: ...
@overload
def gather(
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    awaitable3: _FutureLike[_T3],
    awaitable4: _FutureLike[_T4],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[tuple[_T1 | BaseException, _T2 | BaseException, _T3 | BaseException, _T4 | BaseException]]: ...
@overload
def gather(
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    awaitable3: _FutureLike[_T3],
    awaitable4: _FutureLike[_T4],
    awaitable5: _FutureLike[_T5],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[
    tuple[_T1 | BaseException, _T2 | BaseException, _T3 | BaseException, _T4 | BaseException, _T5 | BaseException]
]: ...
@overload
def gather(
    awaitable1: _FutureLike[_T1],
    awaitable2: _FutureLike[_T2],
    awaitable3: _FutureLike[_T3],
    awaitable4: _FutureLike[_T4],
    awaitable5: _FutureLike[_T5],
    awaitable6: _FutureLike[_T6],
    /,
    *,
    limit: _Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[
    tuple[
        _T1 | BaseException,
        _T2 | BaseException,
        _T3 | BaseException,
        _T4 | BaseException,
        _T5 | BaseException,
        _T6 | BaseException,
    ]
]: ...
@overload
def gather(
    *aws: _FutureLike[_T],
    limit: _Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = False,
    progress: _Progress = None,
) -> Future[list[_T | BaseException]]: ...
@overload
async def run_all(
    async_fns: _AnyIterable[Callable[[], Awaitable[_T]]],
    *,
    limit: _Limit = None,
    return_exceptions: Literal[False] = False,
    cancel_on_error: bool = True,
    progress: _Progress = None,
) -> list[_T]: ...
@overload
async def run_all(
    async_fns: _AnyIterable[Callable[[], Awaitable[_T]]],
    *,
    limit: _Limit = None,
    return_exceptions: bool,
    cancel_on_error: bool = True,
    progress: _Progress = None,
) -> list[_T | BaseException]: ...
async def constrained_execution(funcs: _AnyIterable[Callable[[], Awaitable[_T]]], max_runs: _Limit) -> list[_T]: ...
