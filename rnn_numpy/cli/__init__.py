"""The command `rnn-numpy`: `main` is the whole command, each sub-command a file of its own."""

from rnn_numpy.cli.main import main

__all__ = ["main"]
