"""The reference is built as the C is: file by file, in the same layers, with nothing that goes in a circle."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import gatedcoro

REFERENCE = Path(gatedcoro.__file__).parent / "_reference"
SOURCES = Path(__file__).resolve().parents[2] / "src"

LAYERS = {
    "base": "compat call state stock",
    "coroutines": "await item coroutine catcher current task asyncio_semaphore semaphore waiter gated keeper",
    "engine": "slice turns running call_graph source slots limit sink progress gathering worker watcher iteration",
    "surface": "outer results awaitables iterables stream_results completed_tasks opening front_door stream as_completed"
    " function functions",
}

# Files of the C without a module of their own.
IN_C_ONLY = {
    "subclass": "how subclasses of C types are made",
    "hidden_list": "a Python list has no holes",
    "spares": "Python does so itself",
    "import": "told in state",
    "delegate": "what `yield from` does",
    "async_with": "what `async with` does",
    "coroutine_type": "told in coroutine",
    "semaphore_queue": "told in semaphore",
    "semaphore_waiter": "told in semaphore",
    "source_ending": "told in source",
    "semaphore_coroutine": "told in semaphore",
    "probe": "no Task is reused",
    "task_reuse": "no Task is reused",
    "task_wait": "no Task is reused",
    "pass": "told in gathering",
    "step": "told in gathering",
    "ending": "told in gathering",
    "outcome": "told in gathering",
    "leaving": "told in gathering",
    "telling": "told in progress",
    "iteration_step": "told in iteration",
    "iteration_source": "told in iteration",
    "gated_row": "told in worker",
    "runner": "told in worker",
    "worker_item": "told in worker",
    "worker_reuse": "no Task is reused",
    "consumer": "told in stream",
    "stream_block": "told in stream",
    "stream_type": "told in stream",
    "semaphore_type": "told in semaphore",
    "method": "a Python function is one",
    "as_completed_type": "told in as_completed",
    "completion": "told in as_completed",
    "arguments": "Python binds arguments",
}

sources_in_layers = pytest.mark.skipif(
    not all((SOURCES / layer).exists() for layer in LAYERS),
    reason="no sources, or they do not lie in the layers' folders",
)


def room(path):
    """The room of a file or module: a name that is Python's has an underscore behind it there."""
    return path.stem.removesuffix("_")


def imports_of(path):
    """The rooms of the package from which a module takes something."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                yield name.removesuffix("_")


MODULES = {room(path): path for path in REFERENCE.glob("*.py") if path.stem != "__init__"}
LAYER_OF = {name: number for number, names in enumerate(LAYERS.values()) for name in names.split()}


def test_every_module_has_its_layer():
    assert set(MODULES) == set(LAYER_OF)


@sources_in_layers
def test_the_rooms_are_those_of_the_c():
    in_c_only = set()
    for layer, names in LAYERS.items():
        in_c = {room(path) for path in (SOURCES / layer).glob("*.h")}
        assert set(names.split()) <= in_c, layer
        in_c_only |= in_c - set(names.split())
    assert in_c_only == set(IN_C_ONLY)


def test_a_module_uses_its_own_layer_or_a_lower_one():
    for name, path in MODULES.items():
        for used in imports_of(path):
            assert LAYER_OF[used] <= LAYER_OF[name], f"{name} uses {used}"


def test_no_modules_use_each_other_in_a_circle():
    used = {name: set(imports_of(path)) for name, path in MODULES.items()}
    assert len(list(graphlib.TopologicalSorter(used).static_order())) == len(MODULES)


def test_a_module_says_whose_twin_it_is():
    folders = {name: layer for layer, names in LAYERS.items() for name in names.split()}
    for name, path in MODULES.items():
        first = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
        assert first.endswith(f"  Twin of src/{folders[name]}/{name}.h."), name
