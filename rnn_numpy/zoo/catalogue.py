"""All specimens, and one of them by name."""

from __future__ import annotations

from rnn_numpy.errors import OptionError
from rnn_numpy.zoo import attention, driver, gru, lstm, rnn
from rnn_numpy.zoo.specimen import Specimen

ZOO: tuple[Specimen, ...] = (*rnn.SPECIMENS, *lstm.SPECIMENS, *gru.SPECIMENS, *driver.SPECIMENS, *attention.SPECIMENS)


def specimen(name: str) -> Specimen:
    """Return the specimen of this name.

    Raises
    ------
    OptionError
        There is none.

    Examples
    --------
    >>> found = specimen("first-step-skipped")
    >>> found.cell, found.diagnosis, found.origin
    ('lstm', 'first step skipped', 'thinc 9.1.1, LSTM.v1: a loop over indices[:-1]')
    """
    for one in ZOO:
        if one.name == name:
            return one
    raise OptionError(f"specimen: name must be one of {', '.join(one.name for one in ZOO)}; got {name!r}")
