"""A person's own backward pass, two functions of a dict of arrays: what their loss does, and which mistake in its
backward pass gives the gradients found.
"""

from rnn_numpy.checks.own.diagnose import diagnose_functions

__all__ = ["diagnose_functions"]
