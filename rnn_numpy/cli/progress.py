"""How far the work is, on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from rnn_numpy.lab.progress import progress_bar

Tell = Callable[[int, int, str], None]


def progress(label: str) -> AbstractContextManager[Tell]:
    """A bar on stderr while the work lasts, from its start on; `progress_bar` says where there is none.

    Parameters
    ----------
    label : str
        What stands in front of the bar until the work tells more.

    Returns
    -------
    context manager
        Of tell(done, total, label): so many of so many are done, and this is being done now.

    Examples
    --------
    >>> with progress("counting") as tell:
    ...     for number in range(3):
    ...         tell(number, 3, f"at {number}")
    """
    return progress_bar(0.0, label)
