"""Recognise the functions that gatedcoro knows how to replace, and say what differs in one that it does not know.

A known function is described by its kind, its parameters, and one fingerprint for each statement of each of its known
bodies. Fingerprints are taken from the syntax tree without docstring and annotations: the text of these functions differs
from release to release, and their bytecode from Python to Python.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from tokenize import TokenError
from types import CodeType, FunctionType

__all__ = ["Known", "UnreadableSource", "describe_body_difference", "describe_parameter_difference", "fingerprints"]

# What a statement does is not in these fields. Some of them exist on some Pythons only.
FIELDS_WITHOUT_EFFECT = frozenset({"annotation", "ctx", "kind", "returns", "type_comment", "type_params"})

LONGEST_QUOTATION = 100


class UnreadableSource(Exception):
    """The source of a function is not at hand."""


@dataclass(frozen=True)
class Known:
    """A function as gatedcoro knows it."""

    parameters: tuple[tuple[str, inspect._ParameterKind], ...]
    bodies: tuple[tuple[str, ...], ...]
    """One for each way in which a release has written it, the newest first."""
    is_generator: bool = False


def describe_parameter_difference(function: object, known: Known) -> str | None:
    """Say how `function` is called in another way than the known one; None if it is called in the same way."""
    if known.is_generator:
        if not inspect.isasyncgenfunction(function):
            return "it is not an async generator function"
    elif not inspect.iscoroutinefunction(function):
        return "it is not an async function"
    signature = inspect.signature(function, follow_wrapped=False)
    parameters = tuple((parameter.name, parameter.kind) for parameter in signature.parameters.values())
    if parameters == known.parameters:
        return None
    return f"its parameters are {spell_parameters(parameters)}, not {spell_parameters(known.parameters)}"


def describe_body_difference(function: object, known: Known) -> str | None:
    """Say where the body of `function` departs from the known one; None if they are the same. May raise UnreadableSource."""
    definition = definition_of(function)
    if type(function) is not FunctionType:  # by isinstance, wrapt's wrapper is one
        return f"it is wrapped in a {type(function).__name__}"
    if definition.decorator_list:
        return f"it is decorated with `{quote(definition.decorator_list[0])}`"
    statements = list(statements_of(definition))
    found = tuple(map(fingerprint, statements))
    if found in known.bodies:
        return None
    newest = known.bodies[0]
    for statement, print_found, print_known in zip(statements, found, newest, strict=False):
        if print_found != print_known:
            return f"its body now has `{quote(statement)}`"
    if len(statements) > len(newest):
        return f"its body goes on with `{quote(statements[len(newest)])}`"
    return f"its body has {len(statements)} statements instead of {len(newest)}"


def fingerprints(function: object) -> tuple[str, ...]:
    """Return the fingerprint of each statement in the body of `function`. May raise UnreadableSource."""
    return tuple(fingerprint(statement) for statement in statements_of(definition_of(function)))


def definition_of(function: object) -> ast.AsyncFunctionDef | ast.FunctionDef:
    """Return the syntax tree of the function itself, not of one that it wraps.

    `inspect.getsource` is no help: it looks through wrappers, and it touches every loaded module, the lazy ones too.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        raise UnreadableSource("it is not written in Python")
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, getattr(function, "__globals__", None))
    if not lines:
        raise UnreadableSource(f"there is no {code.co_filename}")
    # The function alone: to parse a file of 6,000 lines takes longer than all the rest of install().
    try:
        block = inspect.getblock(lines[code.co_firstlineno - 1 :])
        [node] = ast.parse("".join(["if True:\n", *block] if block[0][:1].isspace() else block)).body
        if isinstance(node, ast.If):
            [node] = node.body
    except (IndexError, SyntaxError, TokenError, ValueError):
        node = None
    if not isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) or node.name != code.co_name:
        raise UnreadableSource(f"{code.co_filename} is not what was imported")
    return node


def statements_of(definition: ast.AsyncFunctionDef | ast.FunctionDef) -> Iterator[ast.stmt]:
    """Yield the statements of a function's body without its docstring."""
    yield from definition.body[1:] if ast.get_docstring(definition, clean=False) is not None else definition.body


def fingerprint(statement: ast.stmt) -> str:
    """Return a short digest of what `statement` does, the same on every Python."""
    return hashlib.sha256(repr(canonical(statement)).encode()).hexdigest()[:16]


def canonical(node: object) -> object:
    """Return a syntax tree as nested tuples that `repr` spells alike on every Python."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.Assign(targets=[node.target], value=node.value)
    if isinstance(node, ast.AST):
        return (
            type(node).__name__,
            *(
                (name, canonical(value))
                for name, value in ast.iter_fields(node)
                if name not in FIELDS_WITHOUT_EFFECT and value is not None and value != []
            ),
        )
    if isinstance(node, list):
        return tuple(canonical(element) for element in node)
    return node


def spell_parameters(parameters: tuple[tuple[str, inspect._ParameterKind], ...]) -> str:
    """Write parameters down as they stand in a definition."""
    return str(inspect.Signature([inspect.Parameter(name, kind) for name, kind in parameters]))


def quote(node: ast.AST) -> str:
    """Return the code of `node` on one short line."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= LONGEST_QUOTATION else text[: LONGEST_QUOTATION - 3] + "..."
