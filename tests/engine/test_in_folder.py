"""Two processes on the folder of one pass."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from rnn_numpy import RNN
from rnn_numpy.core.files import Claim
from rnn_numpy.errors import DataError

HOLDER = """
import sys, numpy as np
from rnn_numpy import RNN
x = np.random.default_rng(0).normal(size=(50, 3, 2))
trace = RNN(2, 5, rng=0).forward(x, checkpoint=4, folder=sys.argv[1])[2]
print("there", flush=True)
sys.stdin.readline()
"""


def test_two_processes_on_one_folder_are_kept_apart(tmp_path):
    layer, x = RNN(2, 5, rng=0), np.random.default_rng(0).normal(size=(50, 3, 2))
    first = layer.forward(x, checkpoint=4, folder=tmp_path)[2]
    again = layer.forward(x, checkpoint=4, folder=tmp_path)[2]  # one process may go on as it likes
    wanted = layer.backward(again, np.ones((50, 3, 5))).grads.flat.copy()

    def other():
        return subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    with other() as process:
        out, error = process.communicate()
    assert out == "" and process.returncode == 1
    said = f"RNN.forward: folder {tmp_path}: another process is running a pass in it, or holds its trace; wait for"
    assert said in error.replace("\n", "")
    copies = copy.deepcopy(first), pickle.loads(pickle.dumps(again))  # of these, nobody waits for the end
    del first, again
    with other() as process:
        assert process.stdout.readline() == "there\n", process.stderr.read()
        with pytest.raises(DataError, match=r"RNN.forward: folder .*: another process is running a pass in it"):
            layer.forward(x, checkpoint=4, folder=tmp_path)
        with pytest.raises(DataError, match=r"another process"):
            layer.forward(2 * x, checkpoint=4, folder=tmp_path)
        process.kill()
    trace = layer.forward(x, checkpoint=4, folder=tmp_path)[2]  # one that was killed holds nothing
    assert layer.backward(trace, np.ones((50, 3, 5))).grads.flat.tobytes() == wanted.tobytes()
    assert len(copies) == 2


FORKING = """
import os, sys
from pathlib import Path
from rnn_numpy.core.files import Claim
claim = Claim.of(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    try:
        Claim.of(Path(sys.argv[1]))
    except BlockingIOError:
        os._exit(0 if claim.descriptor == -1 else 2)
    os._exit(1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert Claim.of(Path(sys.argv[1])) is claim
sys.exit(code)
"""


def test_a_child_claims_for_itself(tmp_path):
    assert subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], check=False).returncode == 0
    claim = Claim.of(tmp_path)
    descriptor = claim.descriptor
    os.fstat(descriptor)
    del claim
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_where_there_are_no_locks_all_may_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("rnn_numpy.core.files._lock", lambda descriptor, wait: os.fstat(-1))
    assert Claim.of(tmp_path) is Claim.of(tmp_path)
