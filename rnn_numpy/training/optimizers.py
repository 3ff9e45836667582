"""Optimisers: they act on the flat vectors of parameters and gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError, OptionError, StateDictError


class Optimizer(ABC):
    """Base of all optimisers: the parameters, the learning rate, the state.

    A subclass names its hyper-parameters but the learning rate in `options`, and the vectors that a step changes in
    `vectors`, each a Parameters.

    Attributes
    ----------
    params : Parameters
    lr : float
        May be assigned: what a schedule does. At least 0.
    steps : int
        Steps taken.
    """

    options: ClassVar[tuple[str, ...]] = ()
    vectors: ClassVar[tuple[str, ...]] = ()
    params: Parameters
    steps: int = 0

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        """Set it; at least 0, finite."""
        self._lr = arguments.not_negative(type(self).__name__, "lr", value)

    @abstractmethod
    def step(self, grads: Parameters) -> None:
        """Take one step against `grads`, of the names, shapes and dtype of the parameters; they are not modified."""

    def state_dict(self) -> dict[str, Any]:
        """Return the kind, the learning rate, the steps taken, the options, and copies of the vectors."""
        return {
            "kind": type(self).__name__,
            "lr": self.lr,
            "steps": self.steps,
            "options": {name: getattr(self, name) for name in self.options},
            "vectors": {name: getattr(self, name).flat.copy() for name in self.vectors},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood, of the same kind, options, and size and dtype of the parameters.

        Raises
        ------
        StateDictError
            Something is not the same, or `state` is no such state. Nothing is changed then.
        """
        where, mine = f"{type(self).__name__}.load_state_dict", self.state_dict()
        if not isinstance(state, Mapping) or set(state) != set(mine):
            raise StateDictError(f"{where}: state must have {', '.join(mine)}, as state_dict returns")
        for name in ("kind", "options"):
            if state[name] != mine[name]:
                raise StateDictError(f"{where}: {name} is {mine[name]!r} here, {state[name]!r} in the state")
        lr, steps, vectors = (state[name] for name in ("lr", "steps", "vectors"))
        if not (type(lr) is float and 0 <= lr < math.inf and type(steps) is int and steps >= 0):
            raise StateDictError(f"{where}: lr and steps must be numbers of at least 0; got {lr!r} and {steps!r}")
        if not isinstance(vectors, Mapping) or set(vectors) != set(self.vectors):
            raise StateDictError(f"{where}: vectors must be {', '.join(self.vectors)}")
        for name, vector in mine["vectors"].items():
            found = vectors[name]
            if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (vector.shape, vector.dtype):
                raise StateDictError(f"{where}: {name} must be an array of {vector.dtype}, shape {vector.shape}")
        for name in self.vectors:
            getattr(self, name).flat[:] = vectors[name]
        self.lr, self.steps = lr, steps


class SGD(Optimizer):
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

    options, vectors = ("momentum",), ("velocity",)

    def __init__(self, params: Parameters, lr: float, momentum: float = 0.0) -> None:
        self.params = arguments.parameters("SGD", "params", params, "such as layer.params")
        self.lr = arguments.positive_number("SGD", "lr", lr)
        self.momentum = arguments.probability("SGD", "momentum", momentum)
        self.velocity = params.zeros_like()

    def step(self, grads: Parameters) -> None:
        """Take one step against `grads`, of the names, shapes and dtype of the parameters; they are not modified."""
        arguments.parameters("SGD.step", "grads", grads, "as backward returns")
        arguments.gradients("SGD.step", grads, self.params)
        self.steps += 1
        self.velocity.flat *= self.momentum
        self.velocity.flat += grads.flat
        self.params.flat -= self.lr * self.velocity.flat


class Adam(Optimizer):
    """Adam, as torch.optim.Adam defines it, with its defaults.

        m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
        theta <- theta - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    with t = 1, 2, ... the number of the step, and with weight_decay theta added to g first.

    Parameters
    ----------
    params : Parameters
        Changed in place by `step`; real.
    lr : float
        Learning rate, greater than 0.
    betas : (float, float)
        beta1, beta2, each in [0, 1).
    eps : float
        At least 0. With 0, a gradient that was 0 all along would divide 0 by 0: such an entry becomes NaN, as in torch.
    weight_decay : float
        At least 0.

    Attributes
    ----------
    steps : int
        t, steps taken.
    first, second : Parameters
        m and v, under the names of the parameters.

    Notes
    -----
    A gradient beyond the root of the largest float, 1.8e19 in float32, makes v infinite, and its parameter then stays
    where it is for good, as in torch. Clip before the step.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR (2015), algorithm 1. The order of its
       two divisions is torch's here: eps is added after v is corrected.

    Examples
    --------
    The first step is lr times the sign of the gradient, but for eps:

    >>> import numpy as np
    >>> params = Parameters({"w": (2,)}, np.float64)
    >>> optimizer = Adam(params, lr=0.1)
    >>> optimizer.step(Parameters({"w": (2,)}, np.float64, np.array([4.0, -0.01])))
    >>> params["w"].round(6)
    array([-0.1,  0.1])
    """

    options, vectors = ("betas", "eps", "weight_decay"), ("first", "second")

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.params = arguments.parameters("Adam", "params", params, "such as layer.params")
        if np.iscomplexobj(params.flat):
            raise DTypeError("Adam: params must be real; g^2 is no measure of the size of a complex gradient")
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise DTypeError(f"Adam: betas must be two numbers, (beta1, beta2); got {betas!r}")
        self.lr = arguments.positive_number("Adam", "lr", lr)
        beta1, beta2 = (arguments.probability("Adam", f"betas[{i}]", beta) for i, beta in enumerate(betas))
        if max(beta1, beta2) == 1:
            raise OptionError(f"Adam: betas must be below 1: with 1 no gradient would ever enter; got {betas}")
        self.betas = (beta1, beta2)
        self.eps = arguments.not_negative("Adam", "eps", eps)
        self.weight_decay = arguments.not_negative("Adam", "weight_decay", weight_decay)
        self.steps = 0
        self.first = params.zeros_like()
        self.second = params.zeros_like()
        # For what a step computes on the way: two vectors, so that it allocates none.
        self._work = params.zeros_like().flat
        self._decayed = params.zeros_like().flat if self.weight_decay else None

    def step(self, grads: Parameters) -> None:
        """Take one step against `grads`, of the names, shapes and dtype of the parameters; they are not modified."""
        arguments.parameters("Adam.step", "grads", grads, "as backward returns")
        arguments.gradients("Adam.step", grads, self.params)
        beta1, beta2 = self.betas
        theta, g, m, v, work = self.params.flat, grads.flat, self.first.flat, self.second.flat, self._work
        self.steps += 1
        if self._decayed is not None:
            np.multiply(theta, self.weight_decay, out=self._decayed)
            self._decayed += g
            g = self._decayed
        np.multiply(g, 1 - beta1, out=work)  # m <- beta1 m + (1 - beta1) g
        m *= beta1
        m += work
        np.multiply(g, g, out=work)  # v <- beta2 v + (1 - beta2) g^2
        work *= 1 - beta2
        v *= beta2
        v += work
        np.sqrt(v, out=work)  # theta <- theta - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
        work /= math.sqrt(1 - beta2**self.steps)
        work += self.eps
        np.divide(m, work, out=work)
        work *= self.lr / (1 - beta1**self.steps)
        theta -= work
