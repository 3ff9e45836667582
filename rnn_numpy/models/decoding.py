r"""Decoding: how the next token is chosen, and how whole sentences come of it, one token at a time.

The next token, from logits z, of each row by itself:

    (1)  q = softmax(z / temperature)
    (2)  top_k: the k most probable tokens are kept; of equally probable ones those with the lower ids; q renormalised
    (3)  top_p: in the order of (-q, id), the shortest prefix whose mass is at least p is kept; q renormalised
    (4)  the token is the first one, in the order of ids, at which the sum of q exceeds u, uniform in [0, 1)

All of it in float64, whatever the model computes in. One uniform number decides a row, so that what is drawn for it
does not depend on the other rows.

`rnn_numpy.models.sentences` has the loop, and why it needs `max_length` and takes each sentence by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.symbols import EOS
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.models.sentences import START, Hypothesis, TokenModel, Writer, hypothesis, written

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

PENALTIES = ("power", "wu")


def greedy(logits: ArrayLike) -> Ids:
    """Return the most probable token of each row, (...), the lowest id among equals.

    >>> greedy([[0.0, 2.0, 2.0]])
    array([1])
    """
    return np.asarray(_logits("greedy", logits).argmax(axis=-1), np.int64)


def probabilities(
    logits: ArrayLike, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Floats:
    """Return the probabilities that `sample` draws from, 0 for tokens that are left out.

    Parameters
    ----------
    logits : ndarray, (..., V)
        Real, of any dtype; -inf rules a token out.
    temperature : float
        Greater than 0: below 1 the probable becomes more probable, above 1 less.
    top_k : int, optional
        At least 1. More than V is as good as all.
    top_p : float, optional
        In (0, 1]; at least one token is kept.

    Returns
    -------
    q : ndarray, (..., V)
        float64; rows sum to 1.

    Raises
    ------
    OptionError, ShapeError, DTypeError
        An option is out of its range; at temperature 0, take `greedy`. Logits are no real array with a last axis.
    NonFiniteError
        A logit is NaN or infinity, or all of a row are -inf.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.log([0.5, 0.25, 0.125, 0.125])
    >>> probabilities(logits, top_k=3).round(3), probabilities(logits, top_p=0.75).round(3)
    (array([0.571, 0.286, 0.143, 0.   ]), array([0.667, 0.333, 0.   , 0.   ]))
    """
    where = "probabilities"
    z = _logits(where, logits)
    temperature, top_k, top_p = _options(where, temperature, top_k, top_p)
    with np.errstate(over="ignore", under="ignore"):  # -inf, of which exp makes the 0 that it is next to the largest
        q: Floats = np.exp((z - z.max(axis=-1, keepdims=True)) / temperature)
    if top_k is not None:
        order = np.argsort(-z, axis=-1, kind="stable")
        np.put_along_axis(q, order[..., top_k:], 0, axis=-1)
    q /= q.sum(axis=-1, keepdims=True)
    if top_p is not None:
        order = np.argsort(-q, axis=-1, kind="stable")
        mass = np.cumsum(np.take_along_axis(q, order, axis=-1), axis=-1)
        before = np.concatenate([np.zeros_like(mass[..., :1]), mass[..., :-1]], axis=-1)
        dropped = np.empty_like(before, dtype=bool)
        np.put_along_axis(dropped, order, before >= top_p, axis=-1)
        q[dropped] = 0
        q /= q.sum(axis=-1, keepdims=True)
    return q


def log_probabilities(logits: Array) -> Floats:
    """Return log p of logits (R, V), as `TokenModel.next` does: in float64, -inf for PAD and BOS.

    >>> log_probabilities(np.zeros((1, 4))).round(3)
    array([[  -inf,   -inf, -1.386, -1.386]])
    """
    log_p = logits.astype(np.float64)
    log_p -= np.maximum.reduce(log_p, axis=1, keepdims=True)
    log_p -= np.log(np.add.reduce(np.exp(log_p), axis=1, keepdims=True))
    log_p[:, :EOS] = -np.inf  # PAD = 0, BOS = 1, EOS = 2
    return log_p


def sample(
    logits: ArrayLike,
    uniform: ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Ids:
    """Return one token for each row, drawn by its uniform number.

    Parameters
    ----------
    logits : ndarray, (..., V)
    uniform : ndarray, (...)
        In [0, 1), one for each row: `rng.random(shape)`.
    temperature, top_k, top_p
        As for `probabilities`, which lists the errors.

    Returns
    -------
    ids : int ndarray, (...)

    Examples
    --------
    >>> import numpy as np
    >>> sample(np.log([[0.5, 0.25, 0.25]] * 3), [0.0, 0.5, 0.75])
    array([0, 1, 2])
    """
    where = "sample"
    q = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    u = arguments.as_array(where, "uniform", uniform)
    arguments.shaped(where, "uniform", u, "logits.shape[:-1]", q.shape[:-1])
    if u.dtype.kind != "f" or not ((u >= 0) & (u < 1)).all():
        raise OptionError(f"{where}: uniform must be numbers in [0, 1), as rng.random draws them")
    summed = np.cumsum(q, axis=-1)
    passed = (summed <= u[..., None] * summed[..., -1:]).sum(axis=-1)
    last = q.shape[-1] - 1 - (q[..., ::-1] > 0).argmax(axis=-1)  # where rounding has made u * sum the sum itself
    return np.asarray(np.minimum(passed, last), np.int64)


# ------------------------------------------------------------------------------------------------------------ sentences


def decode_greedy(model: TokenModel, *source: Any, max_length: int, together: int = 1) -> list[Hypothesis]:
    """Take the token with the largest S + log p at each step, of equals the lowest id, until EOS.

    S, the sum so far, changes nothing but what counts as equal: as in a beam search, of which this is the beam of one.

    Parameters
    ----------
    model : TokenModel
        Such as `EncoderDecoder`.
    *source
        What `model.start` takes, such as ids (S, N) and lengths (N,).
    max_length : int
        The most tokens of a sentence, at least 1, EOS counted.
    together : int
        How many sentences share a call of the model. More than 1 is faster, and last digits depend on the company.

    Returns
    -------
    list of N Hypothesis
        The score is S.

    Raises
    ------
    OptionError, DTypeError, ShapeError
        `max_length` is no integer of at least 1; the model has no EOS, or does not rule out PAD and BOS.
    NonFiniteError
        log p is NaN, greater than 0, or -inf for every token of a row.

    Examples
    --------
    >>> from rnn_numpy import GRU
    >>> from rnn_numpy.layers.attention_decoder import AttentionDecoder
    >>> from rnn_numpy.models.encoder_decoder import EncoderDecoder
    >>> encoder, decoder = GRU(4, 4, rng=0), AttentionDecoder(4, 4, 4, rng=1)
    >>> model = EncoderDecoder(encoder, decoder, source_vocabulary=7, target_vocabulary=7, rng=2)
    >>> source, lengths = np.array([[3, 5], [4, 0], [5, 0]]), [3, 1]
    >>> for found in decode_greedy(model, source, lengths, max_length=5):  # untrained: it would never end
    ...     print(found.tokens, round(found.score, 2), found.finished, found.alpha.shape)
    [5 5 5 5 5] -7.21 False (5, 3)
    [5 5 5 5 5] -7.39 False (5, 1)
    """
    where = "decode_greedy"
    length = arguments.positive_int(where, "max_length", max_length)

    def most_probable(log_p: Floats, S: float, n: int) -> int:
        return int((S + _possible(where, log_p, n)).argmax())

    writers = (_follow(length, most_probable) for _ in itertools.count())
    return list(written(where, model, model.start(*source), writers, together))


def decode_sample(
    model: TokenModel,
    *source: Any,
    max_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: np.random.Generator | int | None = None,
    together: int = 1,
) -> list[Hypothesis]:
    """Draw a token at each step, until EOS.

    Parameters
    ----------
    model, *source, max_length, together
        As for `decode_greedy`.
    temperature, top_k, top_p
        As for `probabilities`; log p takes the place of logits.
    rng : numpy.random.Generator, int or None
        `max_length` uniform numbers for each sentence, sentence by sentence, used or not: adding sentences to a batch
        changes nothing for those before.

    Returns
    -------
    list of N Hypothesis
        With the model's own log p, whatever the temperature; the score is S.

    Raises
    ------
    OptionError, DTypeError, ShapeError, NonFiniteError
        As for `decode_greedy` and `probabilities`.
    """
    where = "decode_sample"
    length = arguments.positive_int(where, "max_length", max_length)
    check_options(where, temperature, top_k, top_p)
    generator = arguments.generator(where, rng)

    def writers() -> Iterator[Writer[Hypothesis]]:
        while True:
            uniform = generator.random(length)

            def drawn(log_p: Floats, S: float, n: int, uniform: Floats = uniform) -> int:
                possible = _possible(where, log_p, n)
                return int(sample(possible, uniform[n], temperature=temperature, top_k=top_k, top_p=top_p))

            yield _follow(length, drawn)

    return list(written(where, model, model.start(*source), writers(), together))


def decode_forced(
    model: TokenModel,
    *source: Any,
    targets: Sequence[ArrayLike],
    length_power: float = 0.0,
    length_penalty: str = "power",
    together: int = 1,
) -> list[Hypothesis]:
    """Return given sentences as hypotheses: with the log p that the model has for each token, given those before it.

    Parameters
    ----------
    model, *source, together
        As for `decode_greedy`.
    targets : sequence of N int array_like, each (n,)
        At least one token each; with EOS at the end, they are finished.
    length_power, length_penalty
        How the score is made of S, as for `beam_search`.

    Returns
    -------
    list of N Hypothesis
        log p is -inf where the model rules a token out.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        There are not as many targets as sentences, or one is no sequence of ids of the model with EOS at its end alone.
    NonFiniteError
        log p is NaN or greater than 0.
    """
    where = "decode_forced"
    given = [_target(where, n, target) for n, target in enumerate(targets)]
    divisor = length_rule(where, length_power, length_penalty, max(map(len, given), default=1))

    def writers() -> Iterator[Writer[Hypothesis]]:
        for n, target in enumerate(given):
            tokens = target.tolist()

            def next_one(log_p: Floats, S: float, step: int, n: int = n, tokens: list[int] = tokens) -> int:
                if tokens[step] >= len(log_p):
                    raise OptionError(
                        f"{where}: targets[{n}] must be ids in [0, V) = [0, {len(log_p)}); got {tokens[step]} at {step}"
                    )
                return tokens[step]

            yield _follow(len(tokens), next_one, divisor)

    states = list(model.start(*source))
    if len(states) != len(given):
        raise ShapeError(f"{where}: targets must be as many as sentences, {len(states)}; got {len(given)}")
    return list(written(where, model, states, writers(), together))


def _target(where: str, n: int, target: ArrayLike) -> Ids:
    array = arguments.as_array(where, f"targets[{n}]", target)
    if array.ndim != 1 or not array.size:
        raise ShapeError(f"{where}: targets[{n}] must have shape (n,), n at least 1; got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise DTypeError(f"{where}: targets[{n}] must hold integers, ids; got dtype {array.dtype}")
    if (array < 0).any() or (array[:-1] == EOS).any():
        raise OptionError(f"{where}: targets[{n}] must hold ids of at least 0, and EOS at its end alone; got {array}")
    return array.astype(np.int64)


def _follow(
    length: int, choose: Callable[[Floats, float, int], int], divisor: Callable[[int], float] = lambda n: 1.0
) -> Writer[Hypothesis]:
    """Write the tokens that `choose` takes, given log p (V,), S and the number of tokens so far."""
    tokens: list[int] = []
    log_probs: list[float] = []
    alphas: list[Array] = []
    S, (ids, rows) = 0.0, START
    while len(tokens) < length and ids[0] != EOS:
        log_p, alpha = yield ids, rows
        if alpha is not None:
            alphas.append(alpha[0])
        token = choose(log_p[0], S, len(tokens))
        tokens.append(token)
        log_probs.append(float(log_p[0, token]))
        ids, S = [token], S + log_probs[-1]
    return hypothesis(tokens, log_probs, alphas, divisor(len(tokens)))


def _possible(where: str, log_p: Floats, n: int) -> Floats:
    """Refuse log p (V,) that rule all tokens out, after n of them."""
    if log_p.max() == -np.inf:
        raise NonFiniteError(f"{where}: no token can follow: log p = -inf of all, after {n} tokens")
    return log_p


def length_rule(where: str, power: float, penalty: str, longest: int) -> Callable[[int], float]:
    """Return what divides S of n tokens: n^power, or by "wu" ((5 + n) / 6)^power; refused where too large a number."""
    power = arguments.not_negative(where, "length_power", power)
    arguments.one_of(where, "length_penalty", penalty, PENALTIES)

    def divisor(n: int) -> float:
        return math.pow(n if penalty == "power" else (5 + n) / 6, power)

    try:
        divisor(longest)
    except OverflowError:
        raise OptionError(
            f"{where}: length_power must be small enough that {longest} tokens to it are finite; got {power}"
        ) from None
    return divisor


# ------------------------------------------------------------------------------------------------------------ arguments


def check_options(where: str, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise the errors of options before a model has run."""
    _options(where, temperature, top_k, top_p)


def _options(where: str, temperature: Any, top_k: Any, top_p: Any) -> tuple[float, int | None, float | None]:
    number = arguments.real_number(where, "temperature", temperature)
    if number == 0:
        raise OptionError(f"{where}: temperature must be greater than 0; for the most probable token, ask for greedy")
    number = arguments.positive_number(where, "temperature", number)
    if top_k is not None:
        top_k = arguments.positive_int(where, "top_k", top_k)
    if top_p is not None and not 0 < (top_p := arguments.real_number(where, "top_p", top_p)) <= 1:
        raise OptionError(f"{where}: top_p must be in (0, 1]; got {top_p}")
    return number, top_k, top_p


def _logits(where: str, logits: ArrayLike) -> Floats:
    z = arguments.as_array(where, "logits", logits)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ShapeError(f"{where}: logits must have shape (..., V) with V >= 1; got {z.shape}")
    if z.dtype.kind not in "iuf":
        raise DTypeError(f"{where}: logits must be real numbers; got dtype {z.dtype}")
    z = np.ascontiguousarray(z, np.float64)
    if np.isnan(z).any() or not np.isfinite(z.max(axis=-1)).all():
        raise NonFiniteError(f"{where}: logits must be finite, or -inf for some tokens of a row; got NaN or infinity")
    return z
