"""Put gatedcoro's functions in the place of LangChain's, in every module that holds one, and take them away again.

LangChain's modules import the helpers by name, so each module's own global has to be replaced; they are found by
identity, under any name. Closures, default values, partials, class attributes and containers that hold a helper are out
of reach. A method has one place, its class; classes that override it keep their own.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import _ParameterKind as ParameterKind
from types import FunctionType
from typing import Any, cast

from gatedcoro.langchain import _drift, _planted
from gatedcoro.langchain._project import import_from_project

__all__ = ["install", "installed", "swapped", "uninstall"]


@dataclass(frozen=True)
class Place:
    """A module's globals, or a class: somewhere a function may stand under a name."""

    path: str
    names: Mapping[str, Any]
    owner: type | None = None

    @property
    def key(self) -> int:
        return id(self.names if self.owner is None else self.owner)

    def put(self, name: str, value: object) -> None:
        if self.owner is not None:
            type.__setattr__(self.owner, name, value)
        else:
            cast(dict[str, Any], self.names)[name] = value


@dataclass(frozen=True)
class Helper:
    """A function of another project: where it lives, what it is known to be, and what is planted in its place.

    A method if it has an `owner`, which is the name of its class.
    """

    module: str
    name: str
    planted: Callable[..., Any]
    known: _drift.Known
    owner: str | None = None
    only_if_known: bool = False

    @property
    def home(self) -> str:
        return self.module if self.owner is None else f"{self.module}.{self.owner}"

    @property
    def path(self) -> str:
        return f"{self.home}.{self.name}"


@dataclass(frozen=True)
class Choice:
    """What `install()` was asked for."""

    cancel_on_error: bool
    langgraph: bool
    as_completed: bool


@dataclass
class Level:
    """The choice in force, or None, at the program's own level or inside one `with swapped()`."""

    choice: Choice | None = None


@dataclass
class Site:
    """A place where a function was planted under a name, and what it held before."""

    place: Place
    name: str
    planted: object
    original: object
    is_in_force: bool = True
    is_covered: bool = False
    """Not in force any more, but somebody else's function stood there by then: it may call the planted one."""

    @property
    def found(self) -> object:
        return self.place.names.get(self.name)


@dataclass
class Swap:
    """Everything that the swap remembers. Read and written under `lock` only."""

    levels: list[Level] = field(default_factory=lambda: [Level()])
    sites: dict[tuple[int, str], Site] = field(default_factory=dict)
    """All there have been: a planted function may come back to its place, as at the end of a mock.patch."""


GATE_PARAMETERS = (
    ("semaphore", ParameterKind.POSITIONAL_OR_KEYWORD),
    ("coro", ParameterKind.POSITIONAL_OR_KEYWORD),
)
GATHER_PARAMETERS = (("n", ParameterKind.POSITIONAL_OR_KEYWORD), ("coros", ParameterKind.VAR_POSITIONAL))

METHOD_PARAMETERS = (
    ("self", ParameterKind.POSITIONAL_OR_KEYWORD),
    ("inputs", ParameterKind.POSITIONAL_OR_KEYWORD),
    ("config", ParameterKind.POSITIONAL_OR_KEYWORD),
    ("return_exceptions", ParameterKind.KEYWORD_ONLY),
    ("kwargs", ParameterKind.VAR_KEYWORD),
)
METHOD_BEGINNING = ("42237fbaac0415bd", "286b455db0213b0c", "3d3c204fb3874b0f", "47a0875b34d5a5b5", "edc6e8890b2400a9")
METHOD_END = ("2017f3c797b16b95",)

# The fingerprints hold for langchain-core 0.3.61 to 1.8.3 and langgraph 1.2; a test computes them anew.
LANGCHAIN_HELPERS = (
    Helper(
        "langchain_core.runnables.utils",
        "gated_coro",
        _planted.gated_coro,
        _drift.Known(GATE_PARAMETERS, (("3e55145ff94f97d0",),)),
    ),
    Helper(
        "langchain_core.runnables.utils",
        "gather_with_concurrency",
        _planted.gather_with_concurrency,
        _drift.Known(GATHER_PARAMETERS, (("a4e7e79f914e5ed3", "66182c330253870a", "32b0c1645c9f0714"),)),
    ),
)
LANGCHAIN_METHODS = (
    Helper(
        "langchain_core.runnables.base",
        "abatch_as_completed",
        _planted.abatch_as_completed,
        _drift.Known(
            METHOD_PARAMETERS,
            (
                (*METHOD_BEGINNING, "51dcb6906c98760f", *METHOD_END),
                (*METHOD_BEGINNING, "6d5e94d9b7528606", *METHOD_END),  # 0.3.61: zip() is not told strict=False
            ),
            is_generator=True,
        ),
        owner="Runnable",
    ),
)
LANGGRAPH_HELPERS = (
    Helper(
        "langgraph.pregel._executor",
        "gated",
        _planted.gated,
        _drift.Known(GATE_PARAMETERS, (("3e55145ff94f97d0",),)),
        only_if_known=True,
    ),
)
HELPERS = LANGCHAIN_HELPERS + LANGCHAIN_METHODS + LANGGRAPH_HELPERS

lock = threading.RLock()
swap = Swap()


def install(*, cancel_on_error: bool = False, langgraph: bool = False, as_completed: bool = True) -> None:
    """Replace LangChain's `gated_coro`, `gather_with_concurrency` and `Runnable.abatch_as_completed` by gatedcoro's.

    The two functions are replaced in every loaded module; modules imported later get them from
    `langchain_core.runnables.utils`. Closures, default values, partials, class attributes and containers that hold one are
    out of reach, and so are the processes that multiprocessing starts by spawn or forkserver. May be called again, and from
    any thread: the options of the last call hold.

    cancel_on_error: the first error of a batch cancels and awaits what runs, starts nothing more, and is then raised.
        LangChain raises it at once and lets everything else run on. `abatch_as_completed`, replaced, always does so.
    langgraph: replace langgraph's own `gated` as well, by which the tasks inside a graph share `max_concurrency`
        (`graph.abatch` needs no more than the plain swap). Nested tasks that wait for each other under one
        `max_concurrency` deadlock with this gate as with langgraph's.
    as_completed: replace the method `Runnable.abatch_as_completed`, too; False leaves it alone. Its generator starts the
        inputs in order, makes a Task only for what runs, and leaves nothing running: an error, a cancellation and
        `aclose()` cancel what runs and wait for it; dropped, as by `break`, it is closed within two turns of the event loop.
        A class with a method of its own keeps it. What `bind()`, `with_config()` and `with_retry()` return has one, which
        uses the replaced one: left early, that is closed two turns later, and nobody waits for it.

    Warns of a function that is not the one gatedcoro knows. One that is called in another way is left alone. Raises
    ModuleNotFoundError if langchain-core is not installed.
    """
    choice = Choice(cancel_on_error, langgraph, as_completed)
    for message in doubts_about(choice):
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    with lock:
        swap.levels[-1].choice = choice
        messages = enforce(choice)
    for message in messages:
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def uninstall() -> None:
    """Put LangChain's own functions back, in every module and in the class, also in modules imported since `install()`.

    What somebody else has replaced after `install()` stays as it is, with a warning.
    """
    with lock:
        swap.levels[-1].choice = None
        messages = enforce(None)
    for message in messages:
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def installed() -> bool:
    """Tell whether a function of gatedcoro stands in a module or a class of LangChain."""
    with lock:
        find_what_came_back()
        return any(site.is_in_force for site in swap.sites.values())


@contextmanager
def swapped(*, cancel_on_error: bool = False, langgraph: bool = False, as_completed: bool = True) -> Iterator[None]:
    """Install the swap for a `with` block, and return to what was installed before it. The options are those of `install()`.

    Also undoes an `install()` or `uninstall()` made inside the block. Blocks may be nested and may overlap in several
    threads; the swap is one for the whole process, and the block entered last decides.
    """
    choice = Choice(cancel_on_error, langgraph, as_completed)
    for message in doubts_about(choice):
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    level = Level(choice)
    with lock:
        swap.levels.append(level)
        messages = enforce(choice)
    try:
        for message in messages:
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        yield
    finally:
        with lock:
            # By identity: levels compare equal when their choices do.
            swap.levels[:] = [other for other in swap.levels if other is not level]
            messages = enforce(swap.levels[-1].choice)
        for message in messages:
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def helpers_for(choice: Choice) -> tuple[Helper, ...]:
    """Return the helpers that `choice` wants replaced."""
    return (
        LANGCHAIN_HELPERS
        + (LANGCHAIN_METHODS if choice.as_completed else ())
        + (LANGGRAPH_HELPERS if choice.langgraph else ())
    )


def doubts_about(choice: Choice) -> list[str]:
    """Import the modules that `choice` is about, and say what is new about the helpers in them."""
    helpers = helpers_for(choice)
    for module in dict.fromkeys(helper.module for helper in helpers):
        import_from_project(module)
    return [message for helper in helpers if (message := verdict(helper).message)]


@dataclass(frozen=True)
class Verdict:
    """Whether a helper may be replaced, and what there is to say about it."""

    original: object
    replaceable: bool
    message: str | None = None


def verdict(helper: Helper) -> Verdict:
    """Judge what stands at the helper's home by what it is known to be."""
    home = home_of(helper)
    function = None if home is None else home.names.get(helper.name)
    if home is None or function is None:
        return Verdict(None, False, f"{helper.home} has no {helper.name}: nothing is replaced there")
    if function is helper.planted:
        return Verdict(None, False)
    try:
        difference = _drift.describe_parameter_difference(function, helper.known)
    except (TypeError, ValueError):
        difference = "its parameters cannot be told"
    if difference:
        return Verdict(function, False, f"{helper.path} is called in another way and is left alone: {difference}")
    try:
        difference = _drift.describe_body_difference(function, helper.known)
    except _drift.UnreadableSource as reason:
        difference = f"its source cannot be read ({reason})"
        doubt = f"{helper.path} cannot be compared with the function that gatedcoro knows"
    else:
        doubt = f"{helper.path} is not the function that gatedcoro knows"
    if difference is None:
        return Verdict(function, True)
    site = swap.sites.get((home.key, helper.name))
    if site is not None and (site.is_in_force or site.is_covered) and not is_defined_in(helper.module, function):
        return Verdict(function, False, replaced_since(site))
    if helper.only_if_known:
        return Verdict(function, False, f"{doubt} and is left alone: {difference}")
    return Verdict(function, True, f"{doubt} and is replaced all the same: {difference}")


def enforce(choice: Choice | None) -> list[str]:
    """Make the modules agree with `choice`; return what the user should know. The lock is held."""
    find_what_came_back()
    _planted.cancel_on_error = choice is not None and choice.cancel_on_error
    wanted = () if choice is None else helpers_for(choice)
    for helper in wanted:
        plant(helper)
    return uproot([helper for helper in HELPERS if helper not in wanted])


def plant(helper: Helper) -> None:
    """Replace the helper wherever a loaded module holds it as a global, or in its class."""
    home = home_of(helper)
    if home is None:  # thrown out of sys.modules since it was imported
        return
    found = verdict(helper)
    originals = {id(site.original): site.original for site in swap.sites.values() if site.planted is helper.planted}
    if found.replaceable:
        originals[id(found.original)] = found.original
    # Home first: what is imported meanwhile gets the planted function, and uproot() finds the home's original first.
    for place in [home, *(places() if helper.owner is None else ())]:
        for name, value in list(place.names.items()):
            if id(value) in originals:
                swap.sites[place.key, name] = Site(place, name, helper.planted, value)
                place.put(name, helper.planted)


def uproot(helpers: Iterable[Helper]) -> list[str]:
    """Put the originals back wherever a planted function stands; name what somebody else has replaced since."""
    planted = {id(helper.planted) for helper in helpers}
    sites = {key: site for key, site in swap.sites.items() if id(site.planted) in planted}
    if not sites:
        return []
    messages = []
    for site in sites.values():
        if site.is_in_force:
            site.is_covered = not any(site.found is one for one in (site.planted, site.original, None))
            site.is_in_force = False
            if site.is_covered:
                messages.append(replaced_since(site))
    first_originals = {id(site.planted): site.original for site in reversed(sites.values())}
    found = {site.place.key: site.place for site in sites.values()}
    found.update((place.key, place) for place in places())
    for place in found.values():
        for name, value in list(place.names.items()):
            if id(value) in planted and id(value) in first_originals:
                site_here = sites.get((place.key, name))
                place.put(name, site_here.original if site_here else first_originals[id(value)])
    return messages


def find_what_came_back() -> None:
    """Put planted functions in force again that stand in their places, out of which they had been taken."""
    for site in swap.sites.values():
        if not site.is_in_force and site.found is site.planted:
            site.is_in_force, site.is_covered = True, False


def replaced_since(site: Site) -> str:
    return f"{site.place.path}.{site.name} was replaced after gatedcoro's install() and stays as it is"


def is_defined_in(module: str, function: object) -> bool:
    """Tell a function of the module's own, which may have been loaded anew, from one that somebody has put there."""
    return type(function) is FunctionType and function.__globals__ is globals_of(sys.modules.get(module))


def places() -> Iterator[Place]:
    """Yield the globals of every loaded module but gatedcoro's own."""
    for name, module in sys.modules.copy().items():
        if name == "gatedcoro" or name.startswith("gatedcoro."):
            continue
        names = globals_of(module)
        if names is not None:
            yield Place(name, names)


def home_of(helper: Helper) -> Place | None:
    """Return where the helper is at home, if its module is loaded and, for a method, has its class."""
    names = globals_of(sys.modules.get(helper.module))
    if names is None or helper.owner is None:
        return None if names is None else Place(helper.home, names)
    owner = names.get(helper.owner)
    return Place(helper.home, vars(owner), owner) if isinstance(owner, type) else None


def globals_of(module: object) -> dict[str, Any] | None:
    """Return a module's globals without touching its attributes: a lazy module would import itself, or others."""
    try:
        names = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return None
    return names if isinstance(names, dict) else None
