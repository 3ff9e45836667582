"""Figures, a module for each subject; `style` has what they share. `rnn_numpy.report` exports what users call."""

__all__ = []
