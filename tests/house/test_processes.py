"""Processes that tests start can be interrupted and end, whatever started pytest; see tests/support/processes.py."""

import signal
import sys

import pytest
from processes import NotEndedError, ended, interrupted_on_a_terminal

SLEEPS = [sys.executable, "-c", "import sys, time; print('here', file=sys.stderr, flush=True); time.sleep(600)"]


def test_children_can_be_interrupted_where_pytest_cannot():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup, cron and job runners do
    try:
        code, seen = interrupted_on_a_terminal(SLEEPS, [b"here"])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == -signal.SIGINT
    assert b"KeyboardInterrupt" in seen


def test_what_does_not_end_names_the_test():
    with pytest.raises(NotEndedError, match=r"test_what_does_not_end_names_the_test \(call\): after 0.1 s, still run"):
        ended(SLEEPS, capture_output=True, limit=0.1)
