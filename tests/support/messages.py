"""Messages of errors, asserted whole."""

import pytest

from rnn_numpy.errors import RNNNumpyError


def assert_raises(error, message, call):
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, RNNNumpyError)
    assert str(caught.value) == message
