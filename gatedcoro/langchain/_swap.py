"""Put gatedcoro's functions in the place of LangChain's, in every module that holds one, and take them away again.

LangChain's modules import the helpers by name, so each module's own global has to be replaced; they are found by
identity, under any name. Closures, default values, partials, class attributes and containers that hold a helper are out
of reach.
"""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import _ParameterKind as ParameterKind
from types import ModuleType
from typing import Any

from gatedcoro.langchain import _drift, _planted

__all__ = ["install", "installed", "swapped", "uninstall"]

Namespace = dict[str, Any]


@dataclass(frozen=True)
class Helper:
    """A function of another project: where it lives, what it is known to be, and what is planted in its place."""

    module: str
    name: str
    planted: Callable[..., Any]
    known: _drift.Known
    only_if_known: bool = False

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Choice:
    """What `install()` was asked for."""

    cancel_on_error: bool
    langgraph: bool


@dataclass
class Level:
    """The choice in force, or None, at the program's own level or inside one `with swapped()`."""

    choice: Choice | None = None


@dataclass
class Site:
    """A global that now holds a planted function, and what it held before."""

    namespace: Namespace
    module: str
    name: str
    planted: object
    original: object


@dataclass
class Swap:
    """Everything that the swap remembers. Read and written under `lock` only."""

    levels: list[Level] = field(default_factory=lambda: [Level()])
    sites: dict[tuple[int, str], Site] = field(default_factory=dict)


GATE_PARAMETERS = (
    ("semaphore", ParameterKind.POSITIONAL_OR_KEYWORD),
    ("coro", ParameterKind.POSITIONAL_OR_KEYWORD),
)
GATHER_PARAMETERS = (("n", ParameterKind.POSITIONAL_OR_KEYWORD), ("coros", ParameterKind.VAR_POSITIONAL))

# The fingerprints hold for langchain-core 0.3.61 to 1.8.3 and langgraph 1.2; a test computes them anew.
LANGCHAIN_HELPERS = (
    Helper(
        "langchain_core.runnables.utils",
        "gated_coro",
        _planted.gated_coro,
        _drift.Known(GATE_PARAMETERS, ("3e55145ff94f97d0",)),
    ),
    Helper(
        "langchain_core.runnables.utils",
        "gather_with_concurrency",
        _planted.gather_with_concurrency,
        _drift.Known(GATHER_PARAMETERS, ("a4e7e79f914e5ed3", "66182c330253870a", "32b0c1645c9f0714")),
    ),
)
LANGGRAPH_HELPERS = (
    Helper(
        "langgraph.pregel._executor",
        "gated",
        _planted.gated,
        _drift.Known(GATE_PARAMETERS, ("3e55145ff94f97d0",)),
        only_if_known=True,
    ),
)
HELPERS = LANGCHAIN_HELPERS + LANGGRAPH_HELPERS

lock = threading.RLock()
swap = Swap()


def install(*, cancel_on_error: bool = False, langgraph: bool = False) -> None:
    """Replace LangChain's `gated_coro` and `gather_with_concurrency` by gatedcoro's, in every loaded module.

    Modules imported later get them from `langchain_core.runnables.utils`. Closures, default values, partials, class
    attributes and containers that hold a helper are out of reach, and so are the processes that multiprocessing starts
    by spawn or forkserver. May be called again, and from any thread: the options of the last call hold.

    cancel_on_error: the first error of a batch cancels and awaits what runs, starts nothing more, and is then raised.
        LangChain raises it at once and lets everything else run on.
    langgraph: replace langgraph's own `gated` as well, by which the tasks inside a graph share `max_concurrency`
        (`graph.abatch` needs no more than the plain swap). Nested tasks that wait for each other under one
        `max_concurrency` deadlock with this gate as with langgraph's.

    Warns of a helper that is not the one gatedcoro knows. One that is called in another way is left alone. Raises
    ModuleNotFoundError if langchain-core is not installed.
    """
    choice = Choice(cancel_on_error, langgraph)
    for message in doubts_about(choice):
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    with lock:
        swap.levels[-1].choice = choice
        messages = enforce(choice)
    for message in messages:
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def uninstall() -> None:
    """Give every module its own function back, also the modules imported since `install()`.

    A global that somebody else has replaced after `install()` keeps what it has, with a warning.
    """
    with lock:
        swap.levels[-1].choice = None
        messages = enforce(None)
    for message in messages:
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def installed() -> bool:
    """Tell whether a function of gatedcoro stands in a module of LangChain."""
    with lock:
        return bool(swap.sites)


@contextmanager
def swapped(*, cancel_on_error: bool = False, langgraph: bool = False) -> Iterator[None]:
    """Install the swap for a `with` block, and return to what was installed before it.

    Also undoes an `install()` or `uninstall()` made inside the block. Blocks may be nested and may overlap in several
    threads; the swap is one for the whole process, and the block entered last decides.
    """
    choice = Choice(cancel_on_error, langgraph)
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
    return HELPERS if choice.langgraph else LANGCHAIN_HELPERS


def doubts_about(choice: Choice) -> list[str]:
    """Import the modules that `choice` is about, and say what is new about the helpers in them."""
    import_home("langchain_core.runnables.utils", "langchain-core")
    if choice.langgraph:
        import_home("langgraph.pregel._executor", "langgraph")
    return [message for helper in helpers_for(choice) if (message := verdict(helper).message)]


def import_home(module: str, distribution: str) -> None:
    """Import `module`; if its project is not there, say which distribution to install."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"gatedcoro.langchain needs {package}, which is not installed: pip install {distribution}", name=package
        ) from None
    importlib.import_module(module)


@dataclass(frozen=True)
class Verdict:
    """Whether a helper may be replaced, and what there is to say about it."""

    original: object
    replaceable: bool
    message: str | None = None


def verdict(helper: Helper) -> Verdict:
    """Judge what stands at the helper's home by what it is known to be."""
    namespace = namespace_of(sys.modules[helper.module])
    function = None if namespace is None else namespace.get(helper.name)
    if function is None:
        return Verdict(None, False, f"{helper.module} has no {helper.name}: nothing is replaced there")
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
    if helper.only_if_known:
        return Verdict(function, False, f"{doubt} and is left alone: {difference}")
    return Verdict(function, True, f"{doubt} and is replaced all the same: {difference}")


def enforce(choice: Choice | None) -> list[str]:
    """Make the modules agree with `choice`; return what the user should know. The lock is held."""
    _planted.cancel_on_error = choice is not None and choice.cancel_on_error
    wanted = () if choice is None else helpers_for(choice)
    for helper in wanted:
        plant(helper)
    return uproot([helper for helper in HELPERS if helper not in wanted])


def plant(helper: Helper) -> None:
    """Replace the helper wherever a loaded module holds it as a global."""
    home = sys.modules.get(helper.module)
    if home is None:  # thrown out of sys.modules since it was imported
        return
    found = verdict(helper)
    originals = {id(site.original): site.original for site in swap.sites.values() if site.planted is helper.planted}
    if found.replaceable:
        originals[id(found.original)] = found.original
    # Home first: what is imported meanwhile gets the planted function, and uproot() finds the home's original first.
    for module, namespace in [*namespaces_of({helper.module: home}), *namespaces_of(sys.modules.copy())]:
        for name, value in list(namespace.items()):
            if id(value) in originals:
                swap.sites[id(namespace), name] = Site(namespace, module, name, helper.planted, value)
                namespace[name] = helper.planted


def uproot(helpers: Iterable[Helper]) -> list[str]:
    """Put the originals back wherever a planted function stands; name the globals that somebody else has replaced since."""
    homes = {id(helper.planted): helper for helper in helpers}
    sites = {key: site for key, site in swap.sites.items() if id(site.planted) in homes}
    if not sites:
        return []
    messages = []
    for site in sites.values():
        value = site.namespace.get(site.name, site.original)
        if value is not site.planted and value is not site.original:
            messages.append(f"{site.module}.{site.name} was replaced after gatedcoro's install() and stays as it is")
    first_originals = {id(site.planted): site.original for site in reversed(sites.values())}
    namespaces = {id(site.namespace): site.namespace for site in sites.values()}
    namespaces.update((id(namespace), namespace) for _, namespace in namespaces_of(sys.modules.copy()))
    for namespace in namespaces.values():
        for name, value in list(namespace.items()):
            if id(value) in homes and id(value) in first_originals:
                site_here = sites.get((id(namespace), name))
                namespace[name] = site_here.original if site_here else first_originals[id(value)]
    for key in sites:
        del swap.sites[key]
    return messages


def namespaces_of(modules: dict[str, ModuleType]) -> Iterator[tuple[str, Namespace]]:
    """Yield name and globals of every one of `modules` but gatedcoro's own."""
    for name, module in modules.items():
        if name == "gatedcoro" or name.startswith("gatedcoro."):
            continue
        namespace = namespace_of(module)
        if namespace is not None:
            yield name, namespace


def namespace_of(module: object) -> Namespace | None:
    """Return a module's globals without touching its attributes: a lazy module would import itself, or others."""
    try:
        namespace = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return None
    return namespace if isinstance(namespace, dict) else None
