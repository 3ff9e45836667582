"""A student's own backward pass, graded: which equation is wrong, and what stands there."""

from rnn_numpy.checks.grading.grader import grade

__all__ = ["grade"]
