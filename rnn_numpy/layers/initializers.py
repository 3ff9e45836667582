r"""Starting values: random matrices by shape, and rules that put them into a recurrent layer after it was made.

A layer is made with torch's default, everything from U(-1/sqrt(H), 1/sqrt(H)). In a gated layer weight_hh (G*H, H)
stacks the blocks of G gates, which are weights of their own: a matrix that is orthogonal as a whole has blocks that are
not. So every block of every layer and direction is drawn by itself here, of shape (H, ·).

Both biases of a torch-style layer act as their sum, except in the n block of a GRU that resets after the product. Where
a rule sets a bias to a value, bias_ih takes it and bias_hh becomes 0.

Time scales and the forget gate
-------------------------------
With a constant forget gate f = sigmoid(b) and no input, c_t = f c_{t-1}: the cell keeps what it has for about
1 / (1 - f) steps. With b = ln u,

    f = 1 / (1 + e^(-ln u)) = u / (1 + u),      1 - f = 1 / (1 + u),      1 / (1 - f) = 1 + u

so that u drawn from U(1, T_max - 1) gives time scales from 2 to T_max, equally likely [3]_: `chrono`.

References
----------
.. [1] A. M. Saxe, J. L. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear
   neural networks", ICLR (2014): orthogonal matrices.
.. [2] Q. V. Le, N. Jaitly, G. E. Hinton, "A simple way to initialize recurrent networks of rectified linear units",
   arXiv:1504.00941 (2015): the identity, with relu.
.. [3] C. Tallec, Y. Ollivier, "Can recurrent neural networks warp time?", ICLR (2018): gate biases from time scales.
.. [4] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
   (2010), eq. 12 and 16.
.. [5] R. Jozefowicz, W. Zaremba, I. Sutskever, "An empirical exploration of recurrent network architectures", ICML
   (2015): a forget gate that starts open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.errors import DTypeError, OptionError, ShapeError

Array = NDArray[Any]
Shape = tuple[int, ...]
# In quotes: NumPy loads its random module at the first use of the name, and `import rnn_numpy` need not.
Seed: TypeAlias = "np.random.Generator | int | None"


# --------------------------------------------------------------------------------------------------- arrays by shape


def orthogonal(shape: Sequence[int], gain: float = 1.0, rng: Seed = None, dtype: DTypeLike = np.float64) -> Array:
    """Return a random matrix with orthonormal rows or columns, times `gain`.

    Parameters
    ----------
    shape : tuple of int, (M, K)
        M <= K: the rows are orthonormal; M >= K: the columns.
    gain : float
        Greater than 0: all singular values.
    rng : numpy.random.Generator, int or None
    dtype : {float32, float64, complex128}
        Drawn and factorised in float64, then rounded; complex ones have imaginary part 0.

    Returns
    -------
    ndarray, (M, K)

    Raises
    ------
    ShapeError, DTypeError, OptionError
        The shape has not two sizes of at least 1; an option is out of its range.

    Notes
    -----
    Q of the QR decomposition of a matrix of normal numbers, its columns multiplied by the signs of R's diagonal:
    without these, LAPACK's choice of signs prefers some matrices, with them all orthogonal matrices are equally likely
    (Haar measure; F. Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS
    54, 2007). Cost: O(M K min(M, K)).

    Examples
    --------
    >>> Q = orthogonal((3, 3), gain=2.0, rng=0)
    >>> (Q.T @ Q).round(12) + 0.0
    array([[4., 0., 0.],
           [0., 4., 0.],
           [0., 0., 4.]])
    """
    where = "orthogonal"
    rows, columns = _matrix(where, shape)
    gain = arguments.positive_number(where, "gain", gain)
    target = arguments.layer_dtype(where, dtype)
    normals = arguments.generator(where, rng).standard_normal((max(rows, columns), min(rows, columns)))
    Q, R = np.linalg.qr(normals)
    Q *= np.where(np.diagonal(R) < 0, -gain, gain)
    return np.ascontiguousarray(Q if rows >= columns else Q.T, target)


def identity(shape: Sequence[int], gain: float = 1.0, rng: Seed = None, dtype: DTypeLike = np.float64) -> Array:
    """Return `gain` on the diagonal, 0 elsewhere; arguments and errors are those of `orthogonal`.

    `rng` is not used: it makes this a rule for `initialize`, as all functions of this group are.

    Examples
    --------
    >>> identity((2, 3), gain=0.5)
    array([[0.5, 0. , 0. ],
           [0. , 0.5, 0. ]])
    """
    where = "identity"
    rows, columns = _matrix(where, shape)
    gain = arguments.positive_number(where, "gain", gain)
    arguments.generator(where, rng)
    return gain * np.eye(rows, columns, dtype=arguments.layer_dtype(where, dtype))


def uniform(shape: Sequence[int], bound: float = 1.0, rng: Seed = None, dtype: DTypeLike = np.float64) -> Array:
    """Return numbers from U(-bound, bound); their standard deviation is bound / sqrt(3).

    The shape may be any, the bound is greater than 0; the other arguments and errors are those of `orthogonal`.

    Examples
    --------
    >>> uniform((2, 2), bound=0.1, rng=0)
    array([[ 0.02739234, -0.04604266],
           [-0.0918053 , -0.09669447]])
    """
    where = "uniform"
    sizes = _shape(where, shape)
    bound = arguments.positive_number(where, "bound", bound)
    target = arguments.layer_dtype(where, dtype)
    return arguments.generator(where, rng).uniform(-bound, bound, sizes).astype(target)


def normal(shape: Sequence[int], std: float = 1.0, rng: Seed = None, dtype: DTypeLike = np.float64) -> Array:
    """Return normal numbers with mean 0 and standard deviation `std`; the other arguments are those of `uniform`.

    Examples
    --------
    >>> normal((2, 2), std=0.001, rng=0)
    array([[ 0.00012573, -0.0001321 ],
           [ 0.00064042,  0.0001049 ]])
    """
    where = "normal"
    sizes = _shape(where, shape)
    std = arguments.positive_number(where, "std", std)
    target = arguments.layer_dtype(where, dtype)
    return (std * arguments.generator(where, rng).standard_normal(sizes)).astype(target)


def xavier_uniform(shape: Sequence[int], gain: float = 1.0, rng: Seed = None, dtype: DTypeLike = np.float64) -> Array:
    """Return numbers from U(-b, b), b = gain * sqrt(6 / (M + K)), for a matrix (M, K) from K to M units [4]_.

    Their variance, gain^2 * 2 / (M + K), is the compromise between 1/K, which keeps the variance of signals on their
    way forward, and 1/M, which keeps that of gradients on their way back. Known as Glorot's, too. Arguments and errors
    are those of `orthogonal`.

    Examples
    --------
    >>> bool(np.abs(xavier_uniform((3, 3), rng=0)).max() <= 1.0)
    True
    """
    where = "xavier_uniform"
    rows, columns = _matrix(where, shape)
    gain = arguments.positive_number(where, "gain", gain)
    return uniform((rows, columns), gain * math.sqrt(6 / (rows + columns)), arguments.generator(where, rng), dtype)


def xavier_normal(shape: Sequence[int], gain: float = 1.0, rng: Seed = None, dtype: DTypeLike = np.float64) -> Array:
    """Return normal numbers with the variance of `xavier_uniform`, gain^2 * 2 / (M + K) [4]_.

    Arguments and errors are those of `xavier_uniform`.

    Examples
    --------
    >>> round(float(xavier_normal((300, 500), rng=0).std()), 4)  # sqrt(2 / 800) = 0.05
    0.05
    """
    where = "xavier_normal"
    rows, columns = _matrix(where, shape)
    gain = arguments.positive_number(where, "gain", gain)
    return normal((rows, columns), gain * math.sqrt(2 / (rows + columns)), arguments.generator(where, rng), dtype)


Rule = Callable[..., Any]

RULES: dict[str, Rule] = {
    "orthogonal": orthogonal,
    "identity": identity,
    "xavier_uniform": xavier_uniform,
    "glorot_uniform": xavier_uniform,
    "xavier_normal": xavier_normal,
    "glorot_normal": xavier_normal,
}


# ------------------------------------------------------------------------------------------------------------- layers


def initialize(
    layer: Recurrent,
    *,
    weight_hh: str | Rule | None = None,
    weight_ih: str | Rule | None = None,
    weight_hr: str | Rule | None = None,
    bias: float | Rule | None = None,
    gain: float = 1.0,
    rng: Seed = None,
) -> None:
    """Set weights and biases of a recurrent layer, each gate block of each layer and direction by itself.

    Parameters
    ----------
    layer : RNN, LSTM, GRU
        Its parameters are overwritten in place, all that are asked for or, where an argument is wrong, none.
    weight_hh, weight_ih : str or callable, optional
        A rule for the blocks (H, ·): "orthogonal", "identity", "xavier_uniform", "xavier_normal" (or "glorot_..."), or
        "uniform", which is U(-1/sqrt(H), 1/sqrt(H)), the constructor's. A callable is called as `rule(shape, rng=rng)`,
        such as `orthogonal` or `functools.partial(normal, std=0.01)`. Left as they are where not given.
    weight_hr : str or callable, optional
        The same for the projection (P, H) of an LSTM with proj_size.
    bias : float or callable, optional
        Total bias of each gate block: bias_ih takes the number, or what the callable returns for the shape (H,);
        bias_hh becomes 0.
    gain : float
        Greater than 0. Every weight that this call sets is multiplied by it; biases are not. For different gains, call
        twice.
    rng : numpy.random.Generator, int or None
        Draws block after block, in the order of `layer.params`.

    Raises
    ------
    OptionError, DTypeError, ShapeError, NonFiniteError
        A rule is unknown, or returns what does not fit; the layer has no such parameters; there is nothing to set; a
        gain has no weights to act on.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> rnn = RNN(2, 5, num_layers=2, rng=0)
    >>> initialize(rnn, weight_hh="orthogonal", bias=0.0, gain=1.5, rng=1)
    >>> np.linalg.svd(rnn.params["weight_hh_l1"], compute_uv=False).round(12)
    array([1.5, 1.5, 1.5, 1.5, 1.5])
    >>> rnn.params["bias_ih_l0"]
    array([0., 0., 0., 0., 0.])
    """
    where = "initialize"
    params, H = _layer(where, layer)
    gain = arguments.positive_number(where, "gain", gain)
    generator = arguments.generator(where, rng)
    given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "weight_hr": weight_hr}
    rules = {kind: _rule(where, kind, rule, H) for kind, rule in given.items() if rule is not None}
    if bias is not None and not callable(bias):
        bias = arguments.real_number(where, "bias", bias)
    if not rules and bias is None:
        raise OptionError(f"{where}: nothing to set; give weight_hh, weight_ih, weight_hr or bias")
    if not rules and gain != 1:
        raise OptionError(f"{where}: gain = {gain} has nothing to act on: it multiplies weights that this call sets")
    for kind in rules:
        if not any(_kind(name) == kind for name in params):
            raise OptionError(f"{where}: the layer has no {kind}; its parameters are {', '.join(params)}")
    if bias is not None:
        _with_biases(where, params)
    values: dict[str, Array] = {}
    for name, array in params.items():
        kind = _kind(name)
        if kind in rules:
            rows = len(array) if kind == "weight_hr" else H
            values[name] = gain * _drawn(where, kind, rules[kind], array, rows, generator)
        elif kind == "bias_ih" and callable(bias):
            values[name] = _drawn(where, "bias", bias, array, H, generator)
        elif kind == "bias_ih" and bias is not None:
            values[name] = np.full(len(array), bias)
        elif kind == "bias_hh" and bias is not None:
            values[name] = np.zeros(len(array))
    for name, value in values.items():
        params[name] = value


def set_forget_bias(layer: Recurrent, value: float = 1.0) -> None:
    """Set the bias of an LSTM's forget gate, so that it starts open and gradients pass the cell [5]_.

    Parameters
    ----------
    layer : LSTM
        In place: block f of each bias_ih becomes `value`, that of each bias_hh 0: their sum is what acts.
    value : float
        With 1, f = sigmoid(1) = 0.73 where inputs and states are 0.

    Raises
    ------
    OptionError, DTypeError
        The layer has no gate f, or no biases; the value is no finite number.

    Examples
    --------
    >>> from rnn_numpy import LSTM
    >>> lstm = LSTM(1, 2, rng=0)
    >>> set_forget_bias(lstm, 1.0)
    >>> lstm.params["bias_ih_l0"].reshape(4, 2)[1], lstm.params["bias_hh_l0"].reshape(4, 2)[1]
    (array([1., 1.]), array([0., 0.]))
    """
    where = "set_forget_bias"
    params, H = _layer(where, layer)
    value = arguments.real_number(where, "value", value)
    if abs(value) > float(np.finfo(params.dtype).max):
        raise OptionError(f"{where}: value must be a number of the layer's dtype, {params.dtype}; got {value}")
    gates = _gates(where, layer, ["f"])
    _with_biases(where, params)
    f = slice(gates.index("f") * H, (gates.index("f") + 1) * H)
    for name, array in params.items():
        if _kind(name) in ("bias_ih", "bias_hh"):
            array[f] = value if _kind(name) == "bias_ih" else 0


def chrono(layer: Recurrent, max_lag: float, rng: Seed = None) -> None:
    """Set the biases of the gates for time scales spread from 2 to `max_lag` steps [3]_; the module says why.

    With u drawn from U(1, max_lag - 1), for each unit by itself:

        LSTM    b_f = ln u, b_i = -b_f      the input gate opens as far as the forget gate closes: i = 1 - f
        GRU     b_z = ln u                  in h_t = (1 - z) n_t + z h_{t-1}, z is what keeps

    All other biases become 0.

    Parameters
    ----------
    layer : LSTM, GRU
        In place, every layer and direction. bias_ih takes the values, bias_hh becomes 0.
    max_lag : float
        T_max, at least 2: the longest lag, in steps, that the layer is to bridge. With 2 all b are 0.
    rng : numpy.random.Generator, int or None

    Raises
    ------
    OptionError, DTypeError
        The layer has neither a forget nor an update gate, or no biases; max_lag is below 2 or not finite.

    Examples
    --------
    >>> from rnn_numpy import GRU
    >>> gru = GRU(1, 2, rng=0)
    >>> chrono(gru, max_lag=100, rng=0)
    >>> gru.params["bias_ih_l0"].round(2)
    array([0.  , 0.  , 4.15, 3.31, 0.  , 0.  ])
    >>> z = 1 / (1 + np.exp(-gru.params["bias_ih_l0"][2:4]))
    >>> (1 / (1 - z)).round(1)  # steps
    array([64.4, 28.4])
    """
    where = "chrono"
    params, H = _layer(where, layer)
    max_lag = arguments.real_number(where, "max_lag", max_lag)
    if max_lag < 2:
        raise OptionError(f"{where}: max_lag must be at least 2 steps; got {max_lag}")
    gates = _gates(where, layer, ["f", "i"], ["z"])
    _with_biases(where, params)
    generator = arguments.generator(where, rng)
    for name, array in params.items():
        if _kind(name) == "bias_hh":
            array[:] = 0
        elif _kind(name) == "bias_ih":
            log_u = np.log(generator.uniform(1, max_lag - 1, H))
            blocks = dict(zip(gates, array.reshape(-1, H), strict=True))
            array[:] = 0
            if "z" in gates:
                blocks["z"][:] = log_u
            else:
                blocks["f"][:] = log_u
                blocks["i"][:] = -log_u


def irnn(layer: Recurrent, std: float = 0.001, rng: Seed = None) -> None:
    """Make a relu RNN the IRNN of Le, Jaitly and Hinton [2]_: it starts as a sum over its inputs that forgets nothing.

    W_hh is the identity, biases are 0, and W_ih is drawn from N(0, std^2).

    Parameters
    ----------
    layer : RNN with nonlinearity "relu"
        In place, every layer and direction.
    std : float
        Standard deviation of the entries of W_ih; greater than 0.
    rng : numpy.random.Generator, int or None

    Raises
    ------
    OptionError, DTypeError
        The layer is no relu RNN; std is not a finite number above 0.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> rnn = RNN(1, 2, nonlinearity="relu", rng=0)
    >>> irnn(rnn, rng=0)
    >>> rnn.params["weight_hh_l0"]
    array([[1., 0.],
           [0., 1.]])
    """
    where = "irnn"
    params, H = _layer(where, layer)
    std = arguments.positive_number(where, "std", std)
    generator = arguments.generator(where, rng)
    nonlinearity = getattr(layer, "nonlinearity", None)
    if nonlinearity != "relu":
        got = type(layer).__name__ if nonlinearity is None else f"{type(layer).__name__} with {nonlinearity!r}"
        raise OptionError(f"{where}: layer must be an RNN with nonlinearity 'relu'; got {got}")
    for name, array in params.items():
        if _kind(name) == "weight_hh":
            array[...] = identity((H, H))
        elif _kind(name) == "weight_ih":
            array[...] = normal(array.shape, std, generator)
        else:
            array[...] = 0


# ------------------------------------------------------------------------------------------------ what comes in


def _shape(where: str, shape: Any) -> Shape:
    if not isinstance(shape, (tuple, list)):
        raise DTypeError(f"{where}: shape must be a tuple of integers; got {type(shape).__name__} {shape!r}")
    return tuple(arguments.positive_int(where, f"shape[{axis}]", size) for axis, size in enumerate(shape))


def _matrix(where: str, shape: Any) -> tuple[int, int]:
    sizes = _shape(where, shape)
    if len(sizes) != 2:
        raise ShapeError(f"{where}: shape must be (M, K), two axes; got {sizes}")
    return sizes


def _layer(where: str, layer: Any) -> tuple[Parameters, int]:
    """Return the parameters and H of a layer, if it is one of the recurrent ones."""
    params, H = getattr(layer, "params", None), getattr(layer, "hidden_size", None)
    if not isinstance(params, Parameters) or H is None or not any(_kind(name) == "weight_hh" for name in params):
        raise DTypeError(f"{where}: layer must be a recurrent layer: RNN, LSTM or GRU; got {type(layer).__name__}")
    return params, int(H)


def _kind(name: str) -> str:
    """Return a parameter's name without layer and direction: "weight_hh" of "weight_hh_l0_reverse"."""
    return "_".join(name.split("_")[:2])


def _with_biases(where: str, params: Parameters) -> None:
    if not any(_kind(name) == "bias_ih" for name in params):
        raise OptionError(f"{where}: the layer has no biases; make it with bias=True")


def _gates(where: str, layer: Any, *wanted: list[str]) -> tuple[str, ...]:
    """Return the names of a layer's gates, if all of one of the lists `wanted` are among them."""
    names: tuple[str, ...] = tuple(getattr(getattr(layer, "cell", None), "gate_names", ()))
    if not any(set(names).issuperset(gates) for gates in wanted):
        letters = " or ".join(" and ".join(gates) for gates in wanted)
        has = f"blocks {', '.join(names)}" if names else "no gates"
        raise OptionError(f"{where}: layer must have gates {letters}; {type(layer).__name__} has {has}")
    return names


def _rule(where: str, kind: str, rule: Any, H: int) -> Rule:
    if isinstance(rule, str) and rule == "uniform":
        return lambda shape, rng: uniform(shape, 1 / math.sqrt(H), rng)
    if isinstance(rule, str) and rule in RULES:
        return RULES[rule]
    if not callable(rule):
        names = ", ".join(map(repr, [*RULES, "uniform"]))
        raise OptionError(f"{where}: {kind} must be one of {names}, or a callable; got {rule!r}")
    chosen: Rule = rule
    return chosen


def _drawn(where: str, kind: str, rule: Rule, array: Array, rows: int, generator: np.random.Generator) -> Array:
    """Return new values for `array`, drawn by a rule block by block of `rows` rows, if they fit there."""
    name, shape = f"what the rule for {kind} returns", (rows, *array.shape[1:])
    blocks: list[Array] = []
    for _ in range(len(array) // rows):
        block = arguments.as_array(where, name, rule(shape, rng=generator))
        arguments.shaped(where, name, block, "that of a block", shape)
        if block.dtype.kind not in "iuf" and block.dtype != array.dtype:
            raise DTypeError(f"{where}: {name} must hold real numbers; got dtype {block.dtype}")
        arguments.finite(where, name, block, "row, column")
        blocks.append(block)
    return np.concatenate(blocks)
