"""What the tests share does what they rely on."""

import os
import subprocess

import pytest

from in_subprocess import Nursery


@pytest.mark.skipif(not hasattr(os, "fork"), reason="scripts have an interpreter each where there is no fork()")
def test_a_script_that_never_ends_is_given_up_and_the_next_one_runs():
    with pytest.raises(subprocess.TimeoutExpired):
        Nursery.of_this_process().run("while True: pass", [], 0.5)
    done = Nursery.of_this_process().run("print('ok')", [], 60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
