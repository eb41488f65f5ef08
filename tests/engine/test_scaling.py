"""A call's work grows linearly with the number of its items, in every situation of `python -m benchmarks scaling`.

That command counts instructions, over all situations; here the reference's Python code is counted over all of them, and the
extension's instructions where each item has most to do with the others.
"""

import argparse
import gc
import os
import shutil
import sys
import warnings

import pytest

from benchmarks import scaling
from effort import SHORT

LONG = pytest.mark.skipif(SHORT, reason="nothing here is about the build")


class OpcodesIn:
    """Counts the opcodes that are executed in the files of one package, whoever calls."""

    def __init__(self, package):
        self.folder = os.path.join(os.path.dirname(package.__file__), "")
        self.count = 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.call)
        return self

    def __exit__(self, *exception):
        sys.settrace(self.before)

    def call(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(self.folder):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self.opcode

    def opcode(self, frame, event, argument):
        self.count += event == "opcode"
        return self.opcode


@pytest.fixture(params=[False, True], ids=["turns-unknown", "turns-full"])
def reference(request):
    import gatedcoro._reference as reference

    reference._set_full_turns(request.param)
    reference._set_clock(lambda: 0.0)
    gc.collect()  # what others have left is not to go while this counts
    gc.disable()
    yield reference
    gc.enable()
    reference._set_clock(None)
    reference._set_full_turns(False)


@LONG
@pytest.mark.parametrize("name", scaling.scenarios())
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_reference_executes_so_much_python_code_for_each_item(reference, name):
    counts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for count in (16, 16, 32, 64):  # the first time, interpreters do more or count less
            gc.collect()
            with OpcodesIn(reference) as opcodes:
                scaling.scenarios()[name](reference, count)
            counts.append(opcodes.count)
    del counts[0]
    assert counts[0] > 0
    assert counts[1] - counts[0] < 16 or scaling.growth(counts) < 2.2, counts


@LONG
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_what_an_item_does_to_others_costs_the_same_however_many_there_are():
    pytest.importorskip("gatedcoro._core")
    names = [name for name in scaling.scenarios() if "the rest stopped" in name]
    assert len(names) == 4
    for name, counts in scaling.counted(names, 400, "gatedcoro._core").items():
        assert scaling.is_linear_after_all(name, counts, 400, "gatedcoro._core"), (name, counts)


def test_what_is_quadratic_is_found():
    assert scaling.growth([100, 200, 400]) == 2
    assert not scaling.is_linear([1_000_000, 4_000_000, 16_000_000], 1_000)
    assert scaling.is_linear([1_000_000, 2_000_000, 4_100_000], 1_000)
    assert scaling.is_linear([1_000, 1_010, 1_200], 1_000), "nothing is done for each item"


@pytest.mark.parametrize(
    ("at_more", "linear"), [([2_000, 4_000, 8_100], True), ([4_000_000, 16_000_000, 64_000_000], False)]
)
def test_what_does_not_look_linear_is_counted_again_with_more_items(monkeypatch, capsys, at_more, linear):
    counted = []

    def counts(names, count, module):
        counted.append((list(names), count, module))
        return {name: [1_000_000, 4_000_000, 16_000_000] if count == 100 else at_more for name in names}

    monkeypatch.setattr(scaling, "counted", counts)
    monkeypatch.setattr(scaling.harness, "no_valgrind", lambda: False)
    options = argparse.Namespace(only=["run_all, ok at once"], count=100, module="gatedcoro._core")
    assert scaling.main(options) == (0 if linear else 1)
    assert counted == [
        (["run_all, ok at once"], 100, "gatedcoro._core"),
        (["run_all, ok at once"], 400, "gatedcoro._core"),
    ]
    assert ("NOT LINEAR" in capsys.readouterr().out) is not linear
