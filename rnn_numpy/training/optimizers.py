"""Optimisers: they act on the flat vectors of parameters and gradients."""

from __future__ import annotations

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError


class SGD:
    """Stochastic gradient descent with momentum, as torch.optim.SGD defines it.

        v <- momentum v + g,   theta <- theta - lr v

    Parameters
    ----------
    params : Parameters
        Changed in place by `step`.
    lr : float
        Learning rate, greater than 0.
    momentum : float
        In [0, 1].

    Raises
    ------
    OptionError, DTypeError
        A number is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> params = Parameters({"w": (1,)}, np.float64)
    >>> grads = Parameters({"w": (1,)}, np.float64, np.array([1.0]))
    >>> optimizer = SGD(params, lr=0.5, momentum=0.5)
    >>> optimizer.step(grads)
    >>> optimizer.step(grads)
    >>> params["w"]
    array([-1.25])
    """

    def __init__(self, params: Parameters, lr: float, momentum: float = 0.0) -> None:
        if not isinstance(params, Parameters):
            raise DTypeError(f"SGD: params must be Parameters, such as layer.params; got {type(params).__name__}")
        self.params = params
        self.lr = arguments.positive_number("SGD", "lr", lr)
        self.momentum = arguments.probability("SGD", "momentum", momentum)
        self._velocity = params.zeros_like()

    def step(self, grads: Parameters) -> None:
        """Take one step against `grads`, which are not modified.

        Parameters
        ----------
        grads : Parameters
            Of the names, shapes and dtype of the parameters.

        Raises
        ------
        ShapeError, DTypeError
            They are not.
        """
        if not isinstance(grads, Parameters):
            raise DTypeError(f"SGD.step: grads must be Parameters, as backward returns; got {type(grads).__name__}")
        arguments.gradients("SGD.step", grads, self.params)
        self._velocity.flat *= self.momentum
        self._velocity.flat += grads.flat
        self.params.flat -= self.lr * self._velocity.flat
