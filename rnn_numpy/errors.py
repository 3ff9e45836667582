"""Every error that rnn_numpy raises on purpose.

Each class derives from :class:`RNNNumpyError` and from the built-in that a caller would expect, so both
``except RNNNumpyError`` and ``except ValueError`` work. A message names the function, the argument, the shape or value
that was expected (symbols and numbers), what came instead, and what to do.
"""

from __future__ import annotations

__all__ = [
    "CellError", "ConversionError", "DTypeError", "DataError", "GradientCheckError", "MissingExtraError",
    "NonFiniteError", "OptionError", "RNNNumpyError", "ShapeError", "StalledError", "StateDictError",
    "TooLargeError",
]  # fmt: skip


class RNNNumpyError(Exception):
    """Base of all errors of this package."""


class ShapeError(RNNNumpyError, ValueError):
    """An array has another shape than the one its place asks for."""


class OptionError(RNNNumpyError, ValueError):
    """An option has a value outside of its range or choices."""


class CellError(OptionError):
    """The formulas of a cell and the names they ask for do not fit together."""


class DTypeError(RNNNumpyError, TypeError):
    """An argument has the wrong type, or an array the wrong dtype."""


class StateDictError(RNNNumpyError, ValueError):
    """A state dict misses a name, has one too many, or an array that does not fit."""


class NonFiniteError(RNNNumpyError, ArithmeticError):
    """A NaN or an infinity stands where a finite number must."""


class GradientCheckError(RNNNumpyError, AssertionError):
    """A gradient differs from its reference by more than rounding explains."""


class TooLargeError(RNNNumpyError, MemoryError):
    """Something would take more memory than the machine has."""


class DataError(RNNNumpyError, ValueError):
    """A data file or series cannot be used; the message names file, row and column."""


class StalledError(RNNNumpyError, TimeoutError):
    """Work that others were to do has not come back in the time allowed."""


class ConversionError(RNNNumpyError, ValueError):
    """Weights cannot be carried to or from another library without loss, or compute something else there."""


class MissingExtraError(RNNNumpyError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
