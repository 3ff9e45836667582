"""Optimisers: they act on the flat vectors of parameters and gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.elsewhere import Elsewhere
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError, OptionError, StateDictError

Array = NDArray[Any]


class Optimizer(Elsewhere, ABC):
    """Base of all optimisers: the parameters, the learning rate, the state.

    A subclass names its hyper-parameters but the learning rate in `options`, and the vectors that a step changes in
    `vectors`, each a Parameters. Its step begins with `_gradient`, and writes into `_work`: it allocates no vector.

    Attributes
    ----------
    params : Parameters
    lr : float
        May be assigned: what a schedule does. At least 0.
    steps : int
        Steps taken.
    """

    options: ClassVar[tuple[str, ...]] = ()
    vectors: tuple[str, ...] = ()
    decoupled: ClassVar[bool] = False
    steps: int = 0

    def __init__(self, params: Parameters, lr: float, weight_decay: float, real: bool = True) -> None:
        where = type(self).__name__
        self.params = arguments.parameters(where, "params", params, "such as layer.params")
        if real and np.iscomplexobj(params.flat):
            raise DTypeError(f"{where}: params must be real; g^2 is no measure of the size of a complex gradient")
        self.lr = arguments.positive_number(where, "lr", lr)
        self.weight_decay = arguments.not_negative(where, "weight_decay", weight_decay)
        self._work = np.empty_like(params.flat)
        # Of L2 decay, which goes through the gradient; that of AdamW does not.
        self._decayed = np.empty_like(params.flat) if weight_decay and not self.decoupled else None

    def _gradient(self, grads: Parameters) -> Array:
        """Check the gradients, count the step, and return their vector, where there is decay weight_decay theta + g."""
        where = f"{type(self).__name__}.step"
        arguments.parameters(where, "grads", grads, "as backward returns")
        arguments.gradients(where, grads, self.params)
        self.steps += 1
        if self._decayed is None:
            return grads.flat
        np.multiply(self.params.flat, self.weight_decay, out=self._decayed)
        self._decayed += grads.flat
        return self._decayed

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
        if state["kind"] != mine["kind"]:
            raise StateDictError(f"{where}: kind is {mine['kind']!r} here, {state['kind']!r} in the state")
        options = state["options"]
        if not isinstance(options, Mapping) or set(options) != set(self.options):
            raise StateDictError(f"{where}: options must be {', '.join(self.options)}")
        for name, value in mine["options"].items():
            found = options[name]
            if (tuple(found) if isinstance(found, list) else found) != value:  # JSON has no tuples
                raise StateDictError(f"{where}: {name} is {value!r} here, {found!r} in the state")
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

        v <- momentum v + g,   theta <- theta - lr v,   or with nesterov   theta <- theta - lr (g + momentum v)

    and with weight_decay theta added to g first.

    Parameters
    ----------
    params : Parameters
        Changed in place by `step`.
    lr : float
        Learning rate, greater than 0.
    momentum : float
        In [0, 1].
    nesterov : bool
        Needs a momentum.
    weight_decay : float
        At least 0.

    Attributes
    ----------
    velocity : Parameters
        v, under the names of the parameters.

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

    options, vectors = ("momentum", "nesterov", "weight_decay"), ("velocity",)

    def __init__(
        self,
        params: Parameters,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, real=False)
        self.momentum = arguments.probability("SGD", "momentum", momentum)
        self.nesterov = arguments.flag("SGD", "nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise OptionError(
                "SGD: nesterov looks ahead along the momentum, which is 0; give one, such as momentum=0.9"
            )
        self.velocity = params.zeros_like()

    def step(self, grads: Parameters) -> None:
        """Take one step against `grads`, of the names, shapes and dtype of the parameters; they are not modified."""
        g, v, work = self._gradient(grads), self.velocity.flat, self._work
        v *= self.momentum
        v += g
        if self.nesterov:
            np.multiply(v, self.momentum, out=work)
            work += g
            work *= self.lr
        else:
            np.multiply(v, self.lr, out=work)
        self.params.flat -= work


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
        super().__init__(params, lr, weight_decay)
        where = type(self).__name__
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise DTypeError(f"{where}: betas must be two numbers, (beta1, beta2); got {betas!r}")
        beta1, beta2 = (arguments.probability(where, f"betas[{i}]", beta) for i, beta in enumerate(betas))
        if max(beta1, beta2) == 1:
            raise OptionError(f"{where}: betas must be below 1: with 1 no gradient would ever enter; got {betas}")
        self.betas = (beta1, beta2)
        self.eps = arguments.not_negative(where, "eps", eps)
        self.first = params.zeros_like()
        self.second = params.zeros_like()

    def step(self, grads: Parameters) -> None:
        """Take one step against `grads`, of the names, shapes and dtype of the parameters; they are not modified."""
        g, beta1, beta2 = self._gradient(grads), *self.betas
        theta, m, v, work = self.params.flat, self.first.flat, self.second.flat, self._work
        if self.decoupled:
            theta *= 1 - self.lr * self.weight_decay
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


class AdamW(Adam):
    """Adam with decoupled weight decay, as torch.optim.AdamW defines it, with its defaults.

        theta <- theta (1 - lr weight_decay),   then a step of Adam without weight decay

    Parameters
    ----------
    params, lr, betas, eps
        As of `Adam`.
    weight_decay : float
        At least 0.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR (2019), algorithm 2. As in torch, the
       decay is multiplied by the learning rate.

    Examples
    --------
    Where the gradient is 0, the decay is all that is left:

    >>> import numpy as np
    >>> params = Parameters({"w": (1,)}, np.float64, np.array([1.0]))
    >>> AdamW(params, lr=0.1, weight_decay=0.5).step(params.zeros_like())
    >>> params["w"]
    array([0.95])
    """

    decoupled = True

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """RMSprop, as torch.optim.RMSprop defines it, with its defaults.

        v <- alpha v + (1 - alpha) g^2,   u = g / (sqrt(v) + eps)
        theta <- theta - lr u,            or with momentum   b <- momentum b + u,   theta <- theta - lr b

    and with weight_decay theta added to g first. Centred, v is the variance in place of the mean square:

        m <- alpha m + (1 - alpha) g,   u = g / (sqrt(v - m^2) + eps)

    Parameters
    ----------
    params : Parameters
        Changed in place by `step`; real.
    lr : float
        Learning rate, greater than 0.
    alpha : float
        In [0, 1).
    eps : float
        At least 0.
    weight_decay : float
        At least 0.
    momentum : float
        In [0, 1].
    centered : bool

    Attributes
    ----------
    second : Parameters
        v, under the names of the parameters; of a centred one also `first`, m; with momentum also `velocity`, b.

    Notes
    -----
    After thousands of equal gradients rounding makes v - m^2 negative, and torch's step NaN. It is taken for 0 here.

    References
    ----------
    .. [1] T. Tieleman, G. Hinton, "Lecture 6.5 - RMSprop", Coursera (2012); centred: A. Graves, "Generating sequences
       with recurrent neural networks", arXiv 1308.0850 (2013), eq. 38-45.

    Examples
    --------
    >>> import numpy as np
    >>> params = Parameters({"w": (2,)}, np.float64)
    >>> optimizer = RMSprop(params, lr=0.1, alpha=0.75)
    >>> optimizer.step(Parameters({"w": (2,)}, np.float64, np.array([4.0, -0.01])))
    >>> params["w"].round(6)
    array([-0.2,  0.2])
    """

    options = ("alpha", "eps", "weight_decay", "momentum", "centered")

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.alpha = arguments.probability("RMSprop", "alpha", alpha)
        if self.alpha == 1:
            raise OptionError("RMSprop: alpha must be below 1: with 1 no gradient would ever enter; got 1.0")
        self.eps = arguments.not_negative("RMSprop", "eps", eps)
        self.momentum = arguments.probability("RMSprop", "momentum", momentum)
        self.centered = arguments.flag("RMSprop", "centered", centered)
        self.second = params.zeros_like()
        self.vectors = ("second",)
        if self.centered:
            self.first = params.zeros_like()
            self.vectors += ("first",)
        if self.momentum:
            self.velocity = params.zeros_like()
            self.vectors += ("velocity",)

    def step(self, grads: Parameters) -> None:
        """Take one step against `grads`, of the names, shapes and dtype of the parameters; they are not modified."""
        g, v, work = self._gradient(grads), self.second.flat, self._work
        np.multiply(g, g, out=work)  # v <- alpha v + (1 - alpha) g^2
        work *= 1 - self.alpha
        v *= self.alpha
        v += work
        if self.centered:
            m = self.first.flat
            np.multiply(g, 1 - self.alpha, out=work)
            m *= self.alpha
            m += work
            np.multiply(m, m, out=work)
            np.subtract(v, work, out=work)
            np.maximum(work, 0, out=work)
            np.sqrt(work, out=work)
        else:
            np.sqrt(v, out=work)
        work += self.eps
        np.divide(g, work, out=work)
        if self.momentum:
            b = self.velocity.flat
            b *= self.momentum
            b += work
            np.multiply(b, self.lr, out=work)
        else:
            work *= self.lr
        self.params.flat -= work


class Adagrad(Optimizer):
    """Adagrad, as torch.optim.Adagrad defines it, with its defaults.

        v <- v + g^2,   theta <- theta - lr / (1 + (t - 1) lr_decay) * g / (sqrt(v) + eps)

    with t = 1, 2, ... the number of the step, and with weight_decay theta added to g first.

    Parameters
    ----------
    params : Parameters
        Changed in place by `step`; real.
    lr : float
        Learning rate, greater than 0.
    lr_decay, weight_decay : float
        At least 0.
    initial_accumulator_value : float
        At least 0: what v is at first.
    eps : float
        At least 0.

    Attributes
    ----------
    second : Parameters
        v, under the names of the parameters.

    References
    ----------
    .. [1] J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning and stochastic
       optimization", JMLR 12 (2011).

    Examples
    --------
    Of equal gradients the steps fall as 1 / sqrt(t):

    >>> import numpy as np
    >>> params = Parameters({"w": (1,)}, np.float64)
    >>> grads = Parameters({"w": (1,)}, np.float64, np.array([-3.0]))
    >>> optimizer = Adagrad(params, lr=1.0)
    >>> optimizer.step(grads)
    >>> optimizer.step(grads)
    >>> params["w"].round(6)
    array([1.707107])
    """

    options, vectors = ("lr_decay", "weight_decay", "initial_accumulator_value", "eps"), ("second",)

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.lr_decay = arguments.not_negative("Adagrad", "lr_decay", lr_decay)
        self.initial_accumulator_value = arguments.not_negative(
            "Adagrad", "initial_accumulator_value", initial_accumulator_value
        )
        self.eps = arguments.not_negative("Adagrad", "eps", eps)
        self.second = params.zeros_like()
        self.second.flat += self.initial_accumulator_value

    def step(self, grads: Parameters) -> None:
        """Take one step against `grads`, of the names, shapes and dtype of the parameters; they are not modified."""
        g, v, work = self._gradient(grads), self.second.flat, self._work
        np.multiply(g, g, out=work)
        v += work
        np.sqrt(v, out=work)
        work += self.eps
        np.divide(g, work, out=work)
        work *= self.lr / (1 + (self.steps - 1) * self.lr_decay)
        self.params.flat -= work
