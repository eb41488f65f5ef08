"""Reads the C under src/, and finds what breaks the rules of its layers (tests/project/test_layers.py holds them).

A plain reader of our own style, no compiler: a function begins at column 0, on the line after its return type; blocks end with a brace
at column 0; all arms of an `#if` count.  What it cannot read is itself something found.

"Runs Python code."  A function whose comment says so may run code written in Python by what it calls: methods and slots of the user's
objects, of the loop, of whatever can be replaced; sys.unraisablehook; imports.  One that does not say so runs none, but for two things
that nearly every function does, and that no reader needs to be told at each of them:

- letting go of a reference: destructors, finalizers and the callbacks of weak references run then;
- allocating: up to CPython 3.11 the garbage collector runs wherever an object is made that it tracks.

So around a call that says so, anything may have changed, and state is looked at again; around any other, state is as it was, unless the
last reference to an object of the user's went (such references go last, or the comment says in its own words what is dropped).  A dict
whose keys are strings of ours counts as one without keys of the user's that compare as they like.

What a function says has to be true: it says so if it calls one of ours that runs Python code, a member of a table of ours for which some
function does, or what stands under RUNS below; and else it does not say so.  Run this file to have that written into the comments:

    python tests/support/c_sources.py        what would change
    python tests/support/c_sources.py --fix  change it
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

LAYERS = ["base", "coroutines", "engine", "surface"]  # from the lowest; what is in no folder is on top
MOST_LINES = 600
MOST_BOOLEANS = 4
WIDTH = 79

# The tables of function pointers, with their members: the only way in which anything is called upward.
TABLES = {
    "CoroutineKind": "step discard is_over detach refused dropped cancelled represented context name shown awaited at_once",
    "KeeperOwnerCalls": "needs_it cancelled ended",
    "GatedOwnerCalls": "told",
    "SemaphoreOwnerCalls": "admitted",
    "Runner": "start release",
    "StreamKind": "new_results leave_results open_source begun close_iterable",
    "SourceTask": "begin take is_stepping close cancel strand",
    "Sink": "is_wanted has_room expect put cut end forget argument_index",
}
# Structs with a pointer to a function that are no table.
NO_TABLES: set[str] = set()

# What our functions call that is not ours: C functions, macros, and ("->name") pointers that are in no table of ours.
RUNS = set(
    """
    PyErr_NormalizeException PyErr_WarnFormat PyErr_WriteUnraisable PyFloat_AsDouble PyImport_ImportModule PyIter_Next PyIter_Send
    PyLong_AsLong PyDict_Update PyObject_Hash PyObject_Repr PyObject_RichCompare PyNumber_AsSsize_t PyNumber_Index PyObject_Call PyObject_DelAttrString PyObject_CallFunctionObjArgs PyObject_GetAIter PyObject_CallMethod PyObject_CallMethodNoArgs PyObject_CallMethodObjArgs PyObject_CallMethodOneArg
    PyObject_CallNoArgs PyObject_CallOneArg PyObject_GenericSetAttr PyObject_GetAttr PyObject_GetAttrString PyObject_GetIter
    PyObject_IsInstance PyObject_IsTrue PyObject_LengthHint PyObject_RichCompareBool PyObject_SetAttr PyObject_SetAttrString PyObject_Size PyObject_Str
    PyObject_Vectorcall PyObject_VectorcallMethod PyObject_CallFunction PySequence_Concat PySequence_List PySequence_Tuple _PyObject_GetMethod
    get ->am_anext ->am_await ->call ->tp_finalize ->tp_hash ->tp_init ->tp_new ->tp_repr
    """.split()
)
RUNS_NOT = set(
    """
    Py_ARRAY_LENGTH Py_BEGIN_CRITICAL_SECTION Py_END_CRITICAL_SECTION Py_EnterRecursiveCall Py_INCREF Py_LeaveRecursiveCall Py_NewRef Py_REFCNT
    Py_TRASHCAN_BEGIN Py_TRASHCAN_END
    Py_IS_TYPE Py_TYPE Py_UNREACHABLE Py_UNUSED Py_VISIT Py_XINCREF Py_XNewRef PyBool_FromLong PyByteArray_Check PyBytes_Check PyCFunction_GET_SELF
    PyCallable_Check PyCode_Check PyContext_Enter PyContext_Exit PyCoro_CheckExact PyDict_Check PyDict_GET_SIZE PyDict_Next
    PyErr_ExceptionMatches PyErr_GetHandledException PyErr_GetRaisedException PyErr_GivenExceptionMatches PyErr_NoMemory PyErr_Occurred
    PyExceptionClass_Check PyExceptionInstance_Check PyException_GetCause PyException_GetTraceback PyFunction_Check PyFunction_GET_CODE
    PyFunction_GET_DEFAULTS PyFunction_GET_GLOBALS PyFunction_GET_KW_DEFAULTS PyGen_CheckExact PyGen_GetCode PyIndex_Check PyIter_Check
    PyList_CheckExact PyList_GET_ITEM PyList_GET_SIZE PyList_SET_ITEM PyLong_AsLongAndOverflow PyLong_AsLongLongAndOverflow
    PyLong_AsSsize_t PyLong_CheckExact PyMethod_Check PyMethod_GET_FUNCTION PyNumber_Check PyModuleDef_Init PyModule_AddObjectRef PyModule_Check
    PyModule_GetDict PyModule_GetState PyObject_GC_Del PyObject_GC_IsFinalized PyObject_GC_IsTracked PyObject_GC_Track PyObject_GC_UnTrack PyObject_Init
    PyObject_TypeCheck PyList_Check PyCFunction_Check PyErr_SetNone PyErr_SetObject PyTuple_Check PyArg_ParseTuple PySequence_Fast_GET_ITEM
    PySequence_Fast_GET_SIZE PySet_CheckExact PyThreadState_Get PyThread_get_thread_ident PyTime_MonotonicRaw PyTraceBack_Check
    PyTuple_CheckExact PyTuple_GET_ITEM PyTuple_GET_SIZE PyTuple_SET_ITEM PyType_Check PyType_GetModuleState PyType_HasFeature
    PyType_GetModuleByDef PyType_IsSubtype PyUnstable_Long_CompactValue PyUnstable_Long_IsCompact PyUnicode_AsUTF8 PyUnicode_Check PyUnicode_CompareWithASCIIString PyUnicode_FindChar PyUnicode_GET_LENGTH PyUnicode_READ_CHAR Py_UNICODE_ISUPPER PyVectorcall_NARGS _PyObject_GetDictPtr
    _PyTime_GetMonotonicClock _PyType_Lookup
    assert memcmp memcpy memset offsetof strchr strcmp strlen strncmp strrchr
    visit ->tp_traverse
    ->coro_get_await ->future_done ->future_get_log_traceback ->future_set_blocking ->future_set_log_traceback
    ->task_get_must_cancel
    ->task_set_log_destroy_pending
    """.split()
)
# Run nothing but what letting go of a reference or allocating runs.
RELEASES_OR_ALLOCATES = set(
    """
    Py_CLEAR Py_DECREF Py_SETREF Py_XDECREF Py_XSETREF PyArg_ParseTupleAndKeywords PyCFunction_New PyContext_Copy PyContext_CopyCurrent
    PyDict_Copy PyDict_New PyDict_Values PyErr_Clear PyFloat_FromDouble PyErr_Fetch PyErr_Restore PyErr_SetRaisedException PyErr_SetString PyException_SetCause
    PyException_SetContext PyException_SetTraceback PyList_Append PyList_AsTuple PyList_New PyMethod_New PyList_SetItem PyList_SetSlice PyLong_FromLong
    PyLong_FromSsize_t PyLong_FromVoidPtr PyMem_Calloc PyMem_Free PyMem_New PyMem_Resize PyObject_CallFinalizerFromDealloc PyObject_ClearWeakRefs
    PyObject_GenericGetDict PySet_New PyTuple_GetSlice PyTuple_New PyTuple_Pack PyType_FromModuleAndSpec PyType_GenericAlloc PyType_GetName PyUnicode_FromString
    PyUnicode_InternFromString PyUnicode_Substring Py_BuildValue
    clear ->tp_alloc ->tp_clear ->tp_dealloc ->tp_free ->future_get_callbacks ->task_get_name
    """.split()
)
# Run Python code unless the key (their second argument) is a string of ours: `state->...`, or what is called `name`.
RUNS_BY_KEY = set(
    "PyDict_Contains PyDict_DelItem PyDict_GetItemRef PyDict_GetItemWithError PyDict_SetItem PySet_Contains".split()
)
# Run Python code if they show an object as str() or repr() does.
RUNS_BY_FORMAT = set("PyErr_Format PyUnicode_FromFormat".split())

# (who, calls what): in this place it runs no Python code, because ...
RUNS_NOT_HERE = {
    (
        "fetch_exception",
        "PyErr_NormalizeException",
    ): "what is raised as a class was raised in C, and makes its instance in C",
    ("stop_iteration_new", "->tp_new"): "of a builtin exception",
    ("code_contains", "PyObject_RichCompareBool"): "of two code objects",
    ("completed_tasks_note_unseen", "PyDict_SetItem"): "the keys are integers",
    ("completed_tasks_note_seen", "PyDict_DelItem"): "the keys are integers",
    ("limit_as_object", "PySequence_Concat"): "of two tuples",
    ("task_is_registered", "->tp_hash"): "a Task of ours has the hash of any object",
    ("task_is_registered", "set_contains"): "that hash is its address: nothing else is compared with it",
    ("get_attribute", "lookup_attribute"): "of an exact semaphore, whose class has no attribute of that name",
    ("set_attribute", "PyObject_SetAttr"): "likewise",
    (
        "attributes_hide_method",
        "semaphore_method_is_intact",
    ): "of an exact semaphore, whose class has plain functions there",
    ("nobody_waits", "PyObject_Size"): "of an exact deque",
    ("semaphore_queue_publish", "PyObject_CallOneArg"): "makes a deque of a list",
    ("semaphore_queue_withdraw", "PyObject_Size"): "of an exact deque",
    ("semaphore_queue_listed", "PySequence_List"): "of an exact deque",
    ("semaphore_queue_join", "call_method_for_effect"): "append() of an exact deque",
    ("semaphore_is_free", "PyObject_Size"): "of an exact deque",
}

KEYWORDS = set("if for while switch return sizeof do else case defined void int".split())


# --- The reader -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """`name(arguments)` in a body; a pointer's name begins with "->"."""

    name: str
    arguments: str

    @cached_property
    def second(self) -> str:
        depth, parts = 0, [""]
        for character in self.arguments:
            depth += (character in "([{") - (character in ")]}")
            if character == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += character
        return parts[1].strip() if len(parts) > 1 else ""


@dataclass
class Function:
    """A function's definition: the comment above it, its lines (from 0; of the comment, None without one) and what it calls."""

    source: Source
    name: str
    line: int
    comment: str
    comment_line: int | None
    calls: list[Call]

    @property
    def place(self) -> str:
        return f"{self.source.name}:{self.line + 1}: {self.name}()"


@dataclass
class Pointer:
    """A struct's member that points to a function, with the comment above it, as of a Function."""

    source: Source
    struct: str
    name: str
    line: int
    comment: str
    comment_line: int | None

    @property
    def place(self) -> str:
        return f"{self.source.name}:{self.line + 1}: {self.struct}.{self.name}()"


@dataclass
class Struct:
    name: str
    line: int
    comment: str
    members: list[tuple[str, str]]  # declaration without the name, name; of a pointer to a function, "(*)" and its name
    pointers: list[Pointer]

    def of_type(self, type_name: str) -> list[str]:
        return [name for declared, name in self.members if declared == type_name]


@dataclass
class Table:
    """`TYPE name = {...};` at column 0, of a type in TABLES."""

    type: str
    name: str
    line: int
    words: list[str]
    comment: str
    functions: dict[str, str]
    by_position: list[str]  # what is given without a member's name


def blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def without_comments_and_strings(text: str) -> str:
    def blanked(match: re.Match[str]) -> str:
        found = match[0]
        return blank(found) if found.startswith("/") else found[0] + blank(found[1:-1]) + found[-1]

    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blanked, text, flags=re.DOTALL)


def says_so(comment: str, words: str = "Runs Python code") -> bool:
    return words in " ".join(comment.split())


@dataclass
class Source:
    """A file: its text; `code`, where comments, strings and directives are blank."""

    root: Path
    path: Path
    text: str
    unread: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    @property
    def layer(self) -> int:
        """How high it stands.  What is in no folder stands on top; a folder that is no layer is found by layers()."""
        folder = self.name.rpartition("/")[0]
        return LAYERS.index(folder) if folder in LAYERS else len(LAYERS)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def with_directives(self) -> str:
        return without_comments_and_strings(self.text)

    @cached_property
    def code(self) -> str:
        return re.sub(
            r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda match: blank(match[0]), self.with_directives, flags=re.MULTILINE
        )

    @cached_property
    def includes(self) -> list[str]:
        return re.findall(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', self.text, re.MULTILINE)

    def line_of(self, offset: int) -> int:
        return self.text.count("\n", 0, offset)

    def comment_above(self, line: int, indent: str = "") -> tuple[str, int | None]:
        """The comment that ends on the line before, if it begins at that column and is no banner."""
        first = line - 1
        if first < 0 or not self.lines[first].rstrip().endswith("*/"):
            return "", None
        while first > 0 and "/*" not in self.lines[first]:
            first -= 1
        comment = "\n".join(self.lines[first:line])
        is_own = comment.startswith(f"{indent}/*") and not comment.startswith("/***")
        return (comment, first) if is_own else ("", None)

    def calls_in(self, begin: int, end: int) -> list[Call]:
        calls = []
        for match in re.finditer(
            r"(->|\.)?\s*(\(\s*\*\s*)?\b([A-Za-z_]\w*)\s*(?(2)\)\s*)\(", self.with_directives[begin:end]
        ):
            pointer, name = match[1], match[3]
            if name in KEYWORDS:
                continue
            at = begin + match.end()
            depth, last = 1, at
            while depth and last < end:
                depth += (self.with_directives[last] == "(") - (self.with_directives[last] == ")")
                last += 1
            # With its strings, without comments.
            arguments = re.sub(r"/\*.*?\*/", "", self.text[at : last - 1], flags=re.DOTALL)
            calls.append(Call("->" + name if pointer else name, arguments))
        return calls

    @cached_property
    def functions(self) -> list[Function]:
        found, opened = [], set()
        for match in re.finditer(r"^([A-Za-z_]\w*)(\([^{};]*\))\s*\n\{\n(.*?)^\}", self.code, re.MULTILINE | re.DOTALL):
            line = self.line_of(match.start())
            opened.add(self.line_of(match.start(3)) - 1)
            first = line
            while re.match(r"[A-Za-z_]", self.lines[first - 1]):
                first -= 1
            if first == line:
                self.unread.append(f"{self.name}:{line + 1}: no return type on the line above {match[1]}()")
            comment, comment_line = self.comment_above(first)
            body = re.sub(r"^[ \t]*#.*$", lambda directive: blank(directive[0]), match[3], flags=re.MULTILINE)
            function = Function(
                self, match[1], first, comment, comment_line, self.calls_in(match.start(3), match.end(3))
            )
            function.calls += [Call(word, "") for word in re.findall(r"\b[A-Za-z_]\w*\b", body) if word in self.macros]
            found.append(function)
        for number, line_text in enumerate(self.code.split("\n")):
            if re.search(r"\w\]\s*\(", line_text):
                self.unread.append(
                    f"{self.name}:{number + 1}: a call through an array, of which no table can say what it runs"
                )
            if (line_text.rstrip() == "{" and number not in opened) or re.match(r"[A-Za-z_].*\)\s*\{\s*$", line_text):
                self.unread.append(f"{self.name}:{number + 1}: a block that begins in no way that the reader knows")
        return found

    @cached_property
    def macros(self) -> dict[str, list[Call]]:
        """What each macro's text calls or mentions."""
        found: dict[str, list[Call]] = {}
        pattern = r"^[ \t]*#[ \t]*define[ \t]+(\w+)(\([^)]*\))?((?:[^\n]*\\\n)*[^\n]*)"
        for match in re.finditer(pattern, self.with_directives, re.MULTILINE):
            parameters = re.findall(r"\w+", match[2] or "")
            calls = [call for call in self.calls_in(match.start(3), match.end(3)) if call.name not in parameters]
            calls += [Call(word, "") for word in re.findall(r"\b[A-Z_]{3,}\b", match[3]) if word not in parameters]
            found.setdefault(match[1], []).extend(calls)
        return found

    @cached_property
    def prototypes(self) -> list[tuple[int, str]]:
        """Declared and not defined: line, name.  What CPython exports (PyAPI_FUNC) is none of ours."""
        pattern = r"^(?!typedef|return|PyAPI_FUNC|extern)[A-Za-z_][\w \t*\n]*?\b(\w+)\([^{};=]*\)\s*;"
        return [(self.line_of(match.start()), match[1]) for match in re.finditer(pattern, self.code, re.MULTILINE)]

    @cached_property
    def structs(self) -> list[Struct]:
        found = []
        pattern = r"^(?:typedef\s+)?struct\s*(\w*)\s*\{\n(.*?)^\}\s*(\w*)\s*;"
        for match in re.finditer(pattern, self.code, re.MULTILINE | re.DOTALL):
            line = self.line_of(match.start())
            members, pointers = [], []
            name = match[3] or match[1]
            for declaration in match[2].split(";"):
                words = re.sub(r" ?: ?\d+$", "", " ".join(declaration.split()))
                pointer = re.search(r"\(\*(\w+)\)\(", words)
                plain = re.fullmatch(r"(?:PyObject_HEAD )?(.*?)(\w+)(?:\[.*\])?", words)
                if pointer:
                    members.append(("(*)", pointer[1]))
                elif plain and "," in words:
                    declared = words.split()[0]
                    members += [(declared, name.strip(" *")) for name in words.removeprefix(declared).split(",")]
                elif plain:
                    members.append((plain[1].strip(), plain[2]))
            for pointer in re.finditer(r"^ {4}\w[^;()]*\(\*(\w+)\)\(", match[2], re.MULTILINE):
                at = line + 1 + match[2].count("\n", 0, pointer.start())
                pointers.append(Pointer(self, name, pointer[1], at, *self.comment_above(at, "    ")))
            found.append(Struct(name, line, self.comment_above(line)[0], members, pointers))
        return found

    @cached_property
    def tables(self) -> list[Table]:
        found = []
        for kind in TABLES:
            pattern = rf"^((?:\w+\s+)*){kind}\s+(\w+)\s*(?:=\s*\{{(.*?)^\}}|;)"
            for match in re.finditer(pattern, self.code, re.MULTILINE | re.DOTALL):
                line = self.line_of(match.start())
                functions = dict(re.findall(r"\.(\w+)\s*=\s*(\w+)", match[3] or ""))
                by_position = [each.strip() for each in (match[3] or "").split(",") if re.match(r"\s*[^\s.]", each)]
                comment = self.comment_above(line)[0]
                found.append(Table(kind, match[2], line, match[1].split(), comment, functions, by_position))
        return found


def read_sources(root: Path) -> list[Source]:
    paths = sorted([*root.rglob("*.h"), *root.rglob("*.c")])
    return [Source(root, path, path.read_text(encoding="utf-8")) for path in paths]


# --- The rules: each returns what breaks it ---------------------------------------------------------------------------------------------


def unread(sources: list[Source]) -> list[str]:
    """The reader understands every block."""
    for source in sources:
        source.functions  # noqa: B018
    return [found for source in sources for found in source.unread]


def layers(sources: list[Source]) -> list[str]:
    """Each includes from its own layer or a lower one, by paths from the root; no header includes itself, by whatever way."""
    by_name = {source.name: source for source in sources}
    found = []
    for source in sources:
        folder = source.name.rpartition("/")[0]
        if folder not in LAYERS and not (folder == "" and source.path.suffix == ".c"):
            found.append(f"{source.name} is in no layer")
        for name in source.includes:
            if name not in by_name:
                found.append(f'{source.name} includes "{name}", which is no path from src/')
            elif by_name[name].layer > source.layer:
                found.append(f"{source.name} includes {name}, which is in a higher layer")

    finished: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            found.append("a circle: " + " -> ".join([*way[way.index(name) :], name]))
        elif name in by_name and name not in finished:
            for included in by_name[name].includes:
                visit(included, (*way, name))
            finished.add(name)

    for name in by_name:
        visit(name, ())
    return found


def prototypes(sources: list[Source]) -> list[str]:
    """What a file declares, the same file defines."""
    defined: dict[str, set[str]] = {}
    for source in sources:
        for function in source.functions:
            defined.setdefault(function.name, set()).add(source.name)
    return [
        f"{source.name}:{line + 1}: {name}() is declared here and defined in "
        + (" and ".join(sorted(defined[name])) if name in defined else "no file")
        for source in sources
        for line, name in source.prototypes
        if source.name not in defined.get(name, ())
    ]


def guards(sources: list[Source]) -> list[str]:
    """A header guards itself by GATEDCORO_NAME_H."""
    found = []
    for source in sources:
        name = f"GATEDCORO_{source.path.stem.upper()}_H"
        directives = re.findall(r"^#[^\n]*", source.with_directives, re.MULTILINE)
        guard = [f"#ifndef {name}", f"#define {name}"]
        opens = [directive.strip() for directive in directives[:2]] == guard
        closes = source.text.rstrip().endswith(f"#endif /* {name} */")
        if source.path.suffix == ".h" and not (opens and closes):
            found.append(f"{source.name} has no include guard {name}")
    return found


def lengths(sources: list[Source]) -> list[str]:
    counts = {source.name: source.text.count("\n") for source in sources}
    return [f"{name} has {count} lines" for name, count in counts.items() if count > MOST_LINES]


def tables(sources: list[Source]) -> list[str]:
    """Function pointers stand in the few tables that are listed, each constant, with a comment that says who calls it and when."""
    found = []
    structs = {struct.name: struct for source in sources for struct in source.structs}
    for source in sources:
        for struct in source.structs:
            members = struct.of_type("(*)")
            if (
                members
                and struct.name not in NO_TABLES
                and sorted(members) != sorted(TABLES.get(struct.name, "").split())
            ):
                found.append(
                    f"{source.name}:{struct.line + 1}: {struct.name} has the members {' '.join(members)}: not what TABLES lists"
                )
            others = [name for declared, name in struct.members if declared not in ("(*)", "bool", "const char *")]
            if struct.name in TABLES and others:
                found.append(
                    f"{source.name}:{struct.line + 1}: {struct.name} is a table, and has {' '.join(others)} beside its functions"
                )
        for table in source.tables:
            if table.words != ["static", "const"]:
                found.append(f"{source.name}:{table.line + 1}: {table.name} is not static const")
            if table.by_position:
                found.append(
                    f"{source.name}:{table.line + 1}: {table.name} does not name the member for {table.by_position[0]}"
                )
            of_type = structs[table.type].comment if table.type in structs else ""
            if not re.search(r"\bcall(s|ed)?\b", table.comment + of_type, re.IGNORECASE):
                found.append(
                    f"{source.name}:{table.line + 1}: no comment says who calls the functions of {table.name}, and when"
                )
        for kind in TABLES:
            for match in re.finditer(rf"^.*\b{kind} \*", source.code, re.MULTILINE):
                if not match[0].endswith(f"const {kind} *"):
                    found.append(
                        f"{source.name}:{source.line_of(match.start()) + 1}: a pointer to a {kind} that is not const"
                    )
    return found


def booleans(sources: list[Source]) -> list[str]:
    """The gathering has few booleans, with those of the structs in it."""
    structs = {struct.name: struct for source in sources for struct in source.structs}

    def count(struct: Struct) -> list[str]:
        inside = [
            f"{name}.{inner}"
            for declared, name in struct.members
            if declared in structs
            for inner in count(structs[declared])
        ]
        return struct.of_type("bool") + inside

    if "GatheringObject" not in structs:
        return ["there is no struct GatheringObject"]
    names = count(structs["GatheringObject"])
    return [f"GatheringObject has {len(names)} booleans: {', '.join(names)}"] if len(names) > MOST_BOOLEANS else []


# --- Where Python code runs -------------------------------------------------------------------------------------------------------------


class PythonCode:
    """Which functions run Python code, and by which call."""

    def __init__(self, sources: list[Source]):
        self.functions: dict[str, list[Function | Pointer]] = {}
        self.callees: dict[str, list[Call]] = {}
        self.unknown: list[str] = []
        self.exceptions_used: set[tuple[str, str]] = set()
        for source in sources:
            for function in source.functions:
                self.functions.setdefault(function.name, []).append(function)
                self.callees.setdefault(function.name, []).extend(function.calls)
            for name, calls in source.macros.items():
                self.callees.setdefault(name, []).extend(calls)
            for table in source.tables:
                for member, function in table.functions.items():
                    self.callees.setdefault(f"->{member}", []).append(Call(function, ""))
        for source in sources:
            for pointer in (each for struct in source.structs if struct.name in TABLES for each in struct.pointers):
                self.functions.setdefault(f"->{pointer.name}", []).append(pointer)
                self.callees.setdefault(f"->{pointer.name}", [])  # it may be NULL everywhere
        self.reasons: dict[str, str] = {}
        changed = True
        while changed:
            changed = False
            for name, calls in self.callees.items():
                if name not in self.reasons:
                    reason = next((call.name for call in calls if self.runs(name, call)), None)
                    if reason is not None:
                        self.reasons[name] = reason
                        changed = True
        for name, functions in self.functions.items():
            for callee in dict.fromkeys(call.name for call in self.callees[name] if not self.is_known(call.name)):
                self.unknown.append(
                    f"{functions[0].place} calls {callee}(), of which no table says whether it runs any"
                )

    def is_known(self, name: str) -> bool:
        return name in self.callees or name in RUNS | RUNS_NOT | RELEASES_OR_ALLOCATES | RUNS_BY_KEY | RUNS_BY_FORMAT

    def runs(self, who: str, call: Call) -> bool:
        name = call.name
        if name in self.reasons or name in RUNS:
            does = True
        elif name in RUNS_BY_KEY:
            does = not re.match(r"state->|name$", call.second)
        else:
            does = name in RUNS_BY_FORMAT and re.search(r"%[-0-9.]*[SRA]", call.arguments) is not None
        if does and (who, name) in RUNS_NOT_HERE:
            self.exceptions_used.add((who, name))
            return False
        return does

    def is_harmless(self, name: str) -> bool:
        """Nothing runs Python code there.  Of a table's member for which there is no function, nothing is known."""
        return name not in self.reasons and (not name.startswith("->") or bool(self.callees[name]))

    def why(self, name: str) -> str:
        """The calls by which it gets there."""
        way = []
        while name in self.reasons:
            name = self.reasons[name]
            way.append(name)
        return " -> ".join(way)

    def says_so(self, name: str) -> bool:
        return any(says_so(function.comment) for function in self.functions[name])


def python_code(sources: list[Source]) -> list[str]:
    """A function's comment, or that of a table's member, says "Runs Python code" if and only if it does."""
    code = PythonCode(sources)
    found = list(code.unknown)
    for name, functions in code.functions.items():
        if name in code.reasons and not code.says_so(name):
            found.append(f"{functions[0].place} does not say that it runs Python code ({code.why(name)})")
        for function in functions:
            if code.is_harmless(name) and says_so(function.comment):
                found.append(f"{function.place} says that it runs Python code, and calls nothing that does")
            if name in code.reasons and says_so(function.comment, "Runs no Python code"):
                found.append(f"{function.place} says that it runs no Python code, and does ({code.why(name)})")
    return found


def stale(sources: list[Source]) -> list[str]:
    """What is listed above is there."""
    used = PythonCode(sources).exceptions_used
    structs = {struct.name for source in sources for struct in source.structs}
    return [
        *(f"RUNS_NOT_HERE: {who}() does not call {what}()" for who, what in RUNS_NOT_HERE if (who, what) not in used),
        *(f"TABLES: there is no {kind}" for kind in TABLES if kind not in structs),
    ]


# --- Writing it into the comments -------------------------------------------------------------------------------------------------------


def with_words(comment: str, indent: str = "") -> str:
    """The comment, which may be empty, with "Runs Python code." as its last sentence."""
    if not comment:
        return f"{indent}/* Runs Python code. */"
    text = comment.rstrip().removesuffix("*/").rstrip()
    if text[-1] not in ".?!:":
        text += "."
    lines = text.split("\n")
    is_picture = len(lines) > 1 and lines[-1].startswith(f"{indent}    ")
    fits = not is_picture and len(lines[-1]) + len("  Runs Python code. */") <= WIDTH
    return text + ("  " if fits else f"\n{indent}   ") + "Runs Python code. */"


def without_words(comment: str) -> str:
    """The comment without that sentence; empty if there was nothing else."""
    text = re.sub(r"\s*Runs\s+Python\s+code\.", "", comment)
    return "" if re.fullmatch(r"\s*/\*\s*\*/", text) else text


def annotate(sources: list[Source]) -> tuple[dict[Path, str], dict[str, list[str]]]:
    """Each changed file's text, and what was done to which functions."""
    code = PythonCode(sources)
    done: dict[str, list[str]] = {"a sentence": [], "a comment": [], "taken away": [], "by hand": []}
    edits: dict[Path, list[tuple[int, int, str]]] = {}
    for name, functions in code.functions.items():
        if name in code.reasons and not code.says_so(name):
            function = next((each for each in functions if each.comment), functions[0])
            comment = with_words(function.comment, "    " if isinstance(function, Pointer) else "")
            what = "a sentence" if function.comment else "a comment"
            if says_so(function.comment, "Runs no Python code"):
                what = "by hand"
            change = [(function, comment, what)]
        elif code.is_harmless(name):
            change = [(each, without_words(each.comment), "taken away") for each in functions if says_so(each.comment)]
            change = [(each, text, what if not says_so(text) else "by hand") for each, text, what in change]
        else:
            continue
        for function, comment, what in change:
            done[what].append(function.place)
            if what != "by hand":
                first = function.line if function.comment_line is None else function.comment_line
                edits.setdefault(function.source.path, []).append((first, function.line, comment))
    texts = {}
    for source in sources:
        if source.path in edits:
            lines = list(source.lines)
            for first, end, comment in sorted(edits[source.path], reverse=True):
                lines[first:end] = comment.split("\n") if comment else []
            texts[source.path] = "\n".join(lines)
    return texts, done


def main(arguments: list[str]) -> int:
    root = Path(__file__).parents[2] / "src"
    sources = read_sources(root)
    texts, done = annotate(sources)
    report = []
    for what, places in done.items():
        report.append(f"{what}: {len(places)}")
        if what in ("taken away", "by hand"):
            report += [f"  {place}" for place in places]
    code = PythonCode(sources)
    functions = [name for name in code.functions if not name.startswith("->")]
    runs = sum(name in code.reasons for name in functions)
    report += [f"run Python code: {runs} of {len(functions)} functions", *code.unknown, *unread(sources)]
    print("\n".join(report))
    if "--fix" in arguments:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
