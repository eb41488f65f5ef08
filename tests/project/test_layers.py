"""The C under src/ stands in layers, and its comments say where Python code runs.

What is held is said at each rule in c_sources.py, and what "Runs Python code" means on top of that file: the marker leaves out what
releasing references and allocating run.  `python tests/support/c_sources.py --fix` writes it into the comments.

The second half shows to the reader small files that break each rule: a reader that has gone blind finds nothing wrong anywhere.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

import c_sources

SOURCES = Path(c_sources.__file__).parents[2] / "src"
HEADERS = sorted(path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.h"))
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
PYTHON_HEADERS = Path(sysconfig.get_path("include"))

# What C compilers let pass and no C programmer means. Warnings proper are judged where the whole unit is compiled: a header alone
# may define what only another one uses.
STRICT = [
    "-std=c11",
    "-Werror=implicit-function-declaration",
    "-Werror=implicit-int",
    "-Werror=int-conversion",
    "-Werror=incompatible-pointer-types",
]

RULES = [
    c_sources.unread,
    c_sources.layers,
    c_sources.prototypes,
    c_sources.guards,
    c_sources.lengths,
    c_sources.tables,
    c_sources.booleans,
    c_sources.python_code,
    c_sources.stale,
]
# Rules that the sources do not keep yet.
NOT_YET: set[str] = set()


CASES = [
    pytest.param(rule, id=rule.__name__, marks=[pytest.mark.xfail] if rule.__name__ in NOT_YET else [])
    for rule in RULES
]


@pytest.mark.skipif(not HEADERS, reason="the sources are not here")
@pytest.mark.parametrize("rule", CASES)
def test_the_sources_keep(rule):
    found = rule(c_sources.read_sources(SOURCES))
    assert not found, "\n".join([rule.__doc__ or "", *found])


@pytest.mark.skipif(not COMPILERS, reason="there is no gcc or clang on this machine")
@pytest.mark.skipif(not (PYTHON_HEADERS / "Python.h").exists(), reason="this Python came without its C headers")
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_compiles_alone_and_may_be_included_twice(header, compiler):
    done = subprocess.run(
        [compiler, *STRICT, "-isystem", str(PYTHON_HEADERS), "-I", str(SOURCES), "-fsyntax-only", "-x", "c", "-"],
        input=f'#include "{header}"\n' * 2,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_that_is_called_stands_in_two_columns():
    columns = [
        c_sources.RUNS,
        c_sources.RUNS_NOT,
        c_sources.RELEASES_OR_ALLOCATES,
        c_sources.RUNS_BY_KEY,
        c_sources.RUNS_BY_FORMAT,
    ]
    assert sum(map(len, columns)) == len(set().union(*columns))


# --- The reader, shown what breaks each rule --------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """tree(name=text, ...): those files as sources; "base/a.h" is given as base_a."""

    def made(**texts):
        for name, text in texts.items():
            path = tmp_path / (name.replace("_", "/", 1) + ".h" if "_" in name[1:] else f"{name}.c")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return c_sources.read_sources(tmp_path)

    return made


def function(name, *statements, comment="", returns="static int"):
    """A definition in our style."""
    lines = [*([f"/* {comment} */"] if comment else []), returns, f"{name}(int argument)", "{"]
    return "\n".join([*lines, *(f"    {statement}" for statement in statements), "}", ""])


def test_an_include_from_a_higher_layer_is_found(tree):
    assert c_sources.layers(tree(base_a="", engine_b='#include "base/a.h"\n', _core='#include "engine/b.h"\n')) == []
    sources = tree(base_a='#include "engine/b.h"\n', engine_b="")
    assert "base/a.h includes engine/b.h, which is in a higher layer" in c_sources.layers(sources)


def test_an_include_by_another_path_than_from_src_is_found(tree):
    found = c_sources.layers(tree(base_a='#include "b.h"\n', base_b=""))
    assert found == ['base/a.h includes "b.h", which is no path from src/']


def test_a_file_in_no_layer_is_found(tree):
    assert c_sources.layers(tree(other_a="")) == ["other/a.h is in no layer"]


def test_a_circle_of_headers_is_found(tree):
    found = c_sources.layers(
        tree(base_a='#include "base/b.h"\n', base_b='#include "base/c.h"\n', base_c='#include "base/a.h"\n')
    )
    assert found == ["a circle: base/a.h -> base/b.h -> base/c.h -> base/a.h"]


def test_a_function_declared_in_one_file_and_defined_in_another_is_found(tree):
    declared = "static PyObject *there(int argument,\n                       int more);\n"
    found = c_sources.prototypes(tree(base_a=declared, base_b=function("there")))
    assert found == ["base/a.h:1: there() is declared here and defined in base/b.h"]


def test_a_function_that_is_defined_nowhere_is_found(tree):
    found = c_sources.prototypes(tree(base_a="int nowhere(void);\n"))
    assert found == ["base/a.h:1: nowhere() is declared here and defined in no file"]


def test_declarations_that_are_none_of_ours_or_are_defined_below_are_let_pass(tree):
    text = """\
/* static int in_a_comment(void); */
PyAPI_FUNC(int)
    _PyObject_GetMethod(PyObject *op, PyObject *name, PyObject **method);
typedef int (*Function)(int argument);
static int (*pointer)(int argument) = NULL;
static int below(int argument);
"""
    assert c_sources.prototypes(tree(base_a=text + function("below", "below(argument);"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#ifndef GATEDCORO_B_H\n#define GATEDCORO_B_H\n#endif /* GATEDCORO_B_H */\n",
        "#ifndef GATEDCORO_A_H\n#define GATEDCORO_B_H\n#endif /* GATEDCORO_A_H */\n",
        "#ifndef GATEDCORO_A_H\n#define GATEDCORO_A_H\n#endif\n",
    ],
)
def test_a_header_without_its_guard_is_found(tree, text):
    assert c_sources.guards(tree(base_a=text)) == ["base/a.h has no include guard GATEDCORO_A_H"]


def test_a_header_with_its_guard_is_let_pass(tree):
    text = "/* What. */\n\n#ifndef GATEDCORO_A_H\n#define GATEDCORO_A_H\n#include <x.h>\n#endif /* GATEDCORO_A_H */\n"
    assert c_sources.guards(tree(base_a=text)) == []


def test_a_long_file_is_found(tree):
    assert c_sources.lengths(tree(base_a="\n" * 601, base_b="\n" * 600)) == ["base/a.h has 601 lines"]


@pytest.mark.parametrize(
    "text",
    [
        "int one(void)\n{\n}\n",
        "static int\none(void) {\n}\n",
        "static int one(void) {\n}\n",
        "struct one\n{\n    int member;\n};\n",
        "static int\none(void)\n{\n    return pointers[0](1);\n}\n",
    ],
)
def test_a_block_that_the_reader_does_not_know_is_found(tree, text):
    assert len(c_sources.unread(tree(base_a=text))) == 1


# --- Where Python code runs ---


def test_a_call_that_runs_python_code_is_found(tree):
    sources = tree(base_a=function("one", "PyObject_CallNoArgs(argument);"))
    found = "base/a.h:1: one() does not say that it runs Python code (PyObject_CallNoArgs)"
    assert c_sources.python_code(sources) == [found]


def test_it_is_found_through_functions_of_ours_in_other_files_and_below(tree):
    top = function("top", "if (argument)", "    return middle(argument);", comment="Calls the middle.")
    sources = tree(
        base_a=top, base_b=function("middle", "(void)bottom(1);"), base_c=function("bottom", "PyIter_Next(argument);")
    )
    assert [text.split(" ")[1] for text in c_sources.python_code(sources)] == ["top()", "middle()", "bottom()"]
    assert (
        "base/a.h:2: top() does not say that it runs Python code (middle -> bottom -> PyIter_Next)"
        in c_sources.python_code(sources)
    )


def test_functions_that_say_so_are_let_pass_though_the_words_stand_on_two_lines(tree):
    bottom = function("bottom", "PyIter_Next(argument);", comment="Gives the next.  Runs\n   Python code.")
    assert c_sources.python_code(tree(base_a=bottom + function("top", "bottom(1);", comment="Runs Python code."))) == []


def test_one_that_says_so_and_does_not_is_found(tree):
    found = c_sources.python_code(tree(base_a=function("one", "Py_DECREF(argument);", comment="Runs Python code.")))
    assert found == ["base/a.h:2: one() says that it runs Python code, and calls nothing that does"]


def test_one_that_says_it_runs_none_and_does_is_found(tree):
    sources = tree(base_a=function("one", "PyIter_Next(argument);", comment="Runs no Python code.  Runs Python code."))
    assert c_sources.python_code(sources) == [
        "base/a.h:2: one() says that it runs no Python code, and does (PyIter_Next)"
    ]


def test_what_stands_in_comments_and_strings_is_no_call(tree):
    text = function("one", "/* PyIter_Next(argument); */", 'assert("PyIter_Next(\\" PyIter_Next(x)");', "assert('(');")
    assert c_sources.python_code(tree(base_a=text)) == []


def test_a_comment_that_is_not_the_functions_own_does_not_speak_for_it(tree):
    banner = "/*** Runs Python code ***/\n"
    behind = "#define ONE 1 /* Runs Python code. */\n"
    apart = "/* Runs Python code. */\n\n"
    for above in (banner, behind, apart):
        assert len(c_sources.python_code(tree(base_a=above + function("one", "PyIter_Next(argument);")))) == 1


@pytest.mark.parametrize(
    ("statement", "runs"),
    [
        ("PyDict_SetItem(kwargs, state->str_loop, f(a, b));", False),
        ("PyDict_SetItem(f(a, state->str_loop), op, state->str_loop);", True),
        ('PyErr_Format(PyExc_TypeError, "%.100s", Py_TYPE(op)->tp_name);', False),
        ('PyErr_Format(PyExc_TypeError, "not " "%R", op);', True),
        ('PyUnicode_FromFormat("%zd: %.20S", index, op);', True),
        ("Py_TYPE(op)->tp_as_async->am_await(op);", True),
        ("type->tp_alloc(type, 0);", False),
    ],
)
def test_what_depends_on_the_arguments_is_looked_up_there(tree, statement, runs):
    assert (
        bool(
            [
                found
                for found in c_sources.python_code(tree(base_a=function("one", statement)))
                if "does not say" in found
            ]
        )
        is runs
    )


@pytest.mark.parametrize("call", ["unheard_of(1)", "self->unheard_of(1)", "self.unheard_of(1)", "(*unheard_of)(1)"])
def test_a_call_of_which_nobody_says_whether_it_runs_python_code_is_found(tree, call):
    (found,) = c_sources.python_code(tree(base_a=function("one", f"{call};")))
    assert "unheard_of" in found
    assert "of which no table says" in found


def test_what_a_macro_calls_its_user_calls(tree):
    text = "#define ASK(op) \\\n    PyObject_Str(op)\n#define EACH(X) X(one) X(two)\n"
    sources = tree(
        base_a=text + function("one", "ASK(1);") + function("two", "EACH(ASK)") + function("three", "EACH(Py_CLEAR)")
    )
    assert [found.split(" ")[1] for found in c_sources.python_code(sources)] == ["one()", "two()"]


TABLE = """\
/* coroutine.h calls these, while it drives one. */
typedef struct {
    /* May be NULL. */
    int (*step)(int argument);
    int (*discard)(int argument, int more);
    bool (*is_over)(int argument);
    int (*detach)(int argument);
    void (*refused)(int argument);
    void (*dropped)(int argument);
    int (*cancelled)(int argument);
    int *(*represented)(int argument);
    int *(*context)(int argument);
    int *(*name)(int argument);
    int *(*shown)(int argument);
    int *(*awaited)(int argument);
    bool (*at_once)(int argument);
    bool warns;
} CoroutineKind;
"""


def test_a_pointer_in_a_table_runs_what_a_function_of_it_runs(tree):
    mine = function("mine_step", "PyIter_Next(argument);", comment="Runs Python code.")
    other = function("other_step", "return 1;")
    kinds = "".join(
        f"static const CoroutineKind {who}_kind = {{\n    .step = {who}_step,\n}};\n" for who in ("other", "mine")
    )
    driver = function("drive", "self->kind->step(1);") + function("ask", "self->kind->shown(1);")
    sources = tree(base_a=TABLE + driver, engine_b=mine + other + kinds)
    assert sorted(c_sources.python_code(sources)) == [
        "base/a.h:19: drive() does not say that it runs Python code (->step -> mine_step -> PyIter_Next)",
        "base/a.h:4: CoroutineKind.step() does not say that it runs Python code (mine_step -> PyIter_Next)",
    ]
    assert c_sources.tables(sources) == []
    assert "    /* May be NULL.  Runs Python code. */\n    int (*step)" in annotated(sources)


def test_what_a_member_of_a_table_says_has_to_be_true_once_there_is_a_function_for_it(tree):
    table = TABLE.replace("May be NULL.", "Runs Python code.")
    kind = "static const CoroutineKind one_kind = {\n    .step = one_step,\n};\n"
    assert c_sources.python_code(tree(base_a=table)) == []
    found = c_sources.python_code(tree(base_a=table, base_b=function("one_step", "return 1;") + kind))
    assert found == ["base/a.h:4: CoroutineKind.step() says that it runs Python code, and calls nothing that does"]


@pytest.mark.parametrize(
    ("table", "instance", "words"),
    [
        (TABLE, "static CoroutineKind one_kind = {\n};\n", "is not static const"),
        (TABLE, "const CoroutineKind one_kind = {\n};\n", "is not static const"),
        (TABLE, "static CoroutineKind one_kind;\n", "is not static const"),
        (
            TABLE,
            "static const CoroutineKind one_kind = {\n    one_step,\n};\n",
            "does not name the member for one_step",
        ),
        (TABLE.partition("\n")[2], "static const CoroutineKind one_kind = {\n};\n", "no comment says who calls"),
        (TABLE.replace("bool warns", "int warned"), "", "has warned beside its functions"),
        (TABLE, "typedef struct {\n    CoroutineKind *kind;\n} One;\n", "not const"),
        (TABLE.replace("*step", "*leap"), "", "not what TABLES lists"),
        ("", "struct Another {\n    int (*function)(void);\n};\n", "not what TABLES lists"),
    ],
)
def test_a_table_that_may_change_or_says_too_little_or_is_not_listed_is_found(tree, table, instance, words):
    (found,) = c_sources.tables(tree(base_a=table + instance))
    assert words in found


def test_too_many_booleans_are_found_in_structs_inside_too(tree):
    policy = "typedef struct {\n    bool returns, cancels;\n} Policy;\n"
    text = (
        policy
        + "struct GatheringObject {\n    PyObject_HEAD\n    Policy policy;\n    bool one;\n    bool two : 1;%s\n};\n"
    )
    assert c_sources.booleans(tree(base_a=text % "")) == []
    found = c_sources.booleans(tree(base_a=text % "\n    bool three; /* too much */"))
    assert found == ["GatheringObject has 5 booleans: one, two, three, policy.returns, policy.cancels"]
    assert c_sources.booleans(tree(base_a="")) == ["there is no struct GatheringObject"]


def test_what_is_listed_and_gone_is_found(tree):
    found = c_sources.stale(tree(base_a=TABLE))
    assert "RUNS_NOT_HERE: nobody_waits() does not call PyObject_Size()" in found
    assert "TABLES: there is no CoroutineKind" not in found
    assert "TABLES: there is no CoroutineKind" in c_sources.stale([])


# --- Writing it into the comments ---


def annotated(sources):
    (text,) = c_sources.annotate(sources)[0].values()
    return text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "/* Runs Python code. */\n"),
        ("/* Gives the next. */\n", "/* Gives the next.  Runs Python code. */\n"),
        ("/* next(op) */\n", "/* next(op).  Runs Python code. */\n"),
        (f"/* {'x' * 53}. */\n", f"/* {'x' * 53}.  Runs Python code. */\n"),
        (f"/* {'x' * 54}. */\n", f"/* {'x' * 54}.\n   Runs Python code. */\n"),
        ("/* A picture:\n\n      a -> b */\n", "/* A picture:\n\n      a -> b.\n   Runs Python code. */\n"),
    ],
)
def test_the_sentence_is_written_where_it_is_missing(tree, before, after):
    text = function("one", "PyIter_Next(argument);")
    sources = tree(base_a="\n" + before + text + "\n" + function("two"))
    assert annotated(sources) == "\n" + after + text + "\n" + function("two")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/* Runs Python code. */\n", ""),
        ("/* Gives the next.  Runs Python code. */\n", "/* Gives the next. */\n"),
        ("/* Gives the next.  Runs\n   Python code.  -1 on error. */\n", "/* Gives the next.  -1 on error. */\n"),
    ],
)
def test_the_sentence_is_taken_away_where_it_is_untrue(tree, before, after):
    text = function("one", "return 1;")
    assert annotated(tree(base_a="\n" + before + text)) == "\n" + after + text


def test_what_is_said_in_other_words_is_left_to_a_person(tree):
    text = function("one", "return 1;", comment="Runs Python code, at times.")
    texts, done = c_sources.annotate(tree(base_a=text))
    assert (texts, done["by hand"]) == ({}, ["base/a.h:2: one()"])
