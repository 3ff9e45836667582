"""What backward passes written by hand get wrong, made on the tape of a loss."""

from rnn_numpy.checks.own.mistakes.every import suspects
from rnn_numpy.checks.own.mistakes.sums import sums
from rnn_numpy.checks.own.mistakes.tools import Suspect

__all__ = ["Suspect", "sums", "suspects"]
