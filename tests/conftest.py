"""Set-up of all tests: hypothesis draws the same examples in CI, and floating-point trouble is an error."""

import os

import hypothesis
import numpy as np
import pytest

# No deadline: a shared machine is slow at times, and no test measures time.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def floating_point_errors_raise():
    """Overflow, division by zero and invalid operations raise; underflow is what vanishing gradients do."""
    with np.errstate(all="raise", under="ignore"):
        yield
