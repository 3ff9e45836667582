"""Set-up of all tests: hypothesis draws the same examples in CI, floating-point trouble raises, none runs for ever."""

import contextlib
import os
import signal
from collections import Counter

import frameworks
import hypothesis
import numpy as np
import pytest

# No deadline: a shared machine is slow at times, and no test measures time.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
os.environ.pop("COLUMNS", None)  # which says how wide reports are
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure():
    """Tests interrupt what they run; a process that nohup or a job runner has ignore that heeds it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before what -m leaves out
def pytest_collection_modifyitems(items):
    """Mark as `collection` what the second Python does without, of a test that is `sampled(n)`: n - 1 in n cases."""
    seen = Counter()
    for item in items:
        if sampled := item.get_closest_marker("sampled"):
            test = item.nodeid.partition("[")[0]
            if seen[test] % sampled.args[0]:
                item.add_marker("collection")
            seen[test] += 1


@pytest.fixture(autouse=True)
def floating_point_errors_raise():
    """Overflow, division by zero and invalid operations raise; underflow is what vanishing gradients do."""
    with np.errstate(all="raise", under="ignore"):
        yield


# Seconds. The slowest test takes 20 on a machine with nothing else to do.
LIMIT = 600


@contextlib.contextmanager
def limited(item):
    """End a test that waits for something that does not come, whatever it waits for, with an error that names it."""

    def too_late(*_):
        raise TimeoutError(f"{item.nodeid}: not done after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    frameworks.markers = {marker.name for marker in item.iter_markers()}
    with limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    try:
        with limited(item):
            return (yield)
    finally:
        frameworks.markers = set()
