"""What known mistakes make of the gradient of a layer with attention: its own backward pass with a wrong formula in it.

Attention's parts of a step are the package's, whatever the cell between them: a mistake in them is planted, and the
whole gradient that comes out, the memory's too, is what a backward pass with this mistake would give. Formulas are
named as in `rnn_numpy.layers.attention`.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.diagnosis.patterns import matches
from rnn_numpy.checks.targets import LayerTarget, Point
from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.parts import Part, argument_names
from rnn_numpy.layers import attention

Array = NDArray[Any]
Formula = Callable[..., None]

JACOBIAN, PATH, MASK = "softmax Jacobian missing", "attention path missing", "memory's mask ignored"
DERIVATIVE = "gate derivative missing"

# What the query makes the gradient of, in a sum over the steps.
QUERIED = ("values", "keys", "weight_query", "weight_gate")

# What undoes what: a formula forward, and the right one backward.
RIGHT: Mapping[Formula, Formula] = {
    getattr(attention, f"{name}_forward"): getattr(attention, f"{name}_backward")
    for name in (
        *("product", "additive", "coverage", "location", "weights", "cover", "focus"),
        *("gate", "context", "feed", "combine"),
    )
}


def mistakes_of_attention(target: Any) -> Iterator[tuple[str, str, Point]]:
    """Yield known mistakes, each a kind, why, and the gradient that it gives; none where there is no attention."""
    if not isinstance(target, LayerTarget) or not isinstance(target.layer, attention.Attending):
        return
    layer: Any = copy.copy(target.layer)
    layer.__class__ = next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("rnn_numpy.layers"))
    cell = _with_formulas(layer.cell, RIGHT)
    parts = [*cell.before, *cell.after]
    scores = (attention.product_forward, attention.additive_forward)
    asked = next((part.names["query"] for part in parts if part.forward in scores), None)
    if asked is None:
        return  # a score of the user's own
    cell = _with_query(cell, asked)

    def gradient(wrong: Cell) -> Point:
        layer.cell = wrong
        return target.run(layer)[0]

    right, forwards = gradient(cell), {part.forward for part in parts}
    other = f"{asked.rpartition('_')[0]}_{'t' if asked.endswith('prev') else 'prev'}"
    mistakes = [
        (kind, why, _with_formulas(cell, {forward: wrong}))
        for kind, why, forward, wrong in wrong_formulas()
        if forward in forwards
    ]
    mistakes += [
        ("off by one step", f"the sum over the steps for {name} takes {other} where {asked} had asked", wrong)
        for name in QUERIED
        if (wrong := _with_query(cell, other, name)) is not cell
    ]
    for name, given in cell.given.items():
        for way in given.products if len(given.products) > 1 else ():
            kept = {other: product for other, product in given.products.items() if other != way}
            wrong = replace(cell, given={**cell.given, name: replace(given, products=kept)}, trial=False)
            read = "the scores" if way == "weights" else f"the {way}"
            mistakes.append((PATH, f"given[{name!r}] gets nothing through {read}", wrong))
    for kind, why, wrong in mistakes:
        try:
            found = gradient(wrong)
        except Exception:  # a cell of one's own may not be made for it
            continue
        if any(not matches(name, array, right[name]) for name, array in found.items()):  # it makes a difference here
            yield kind, why, found


def factor_of_scores(target: LayerTarget, right: Point) -> tuple[str, str] | None:
    """Say what factor the layer's own backward pass lacks at the scores, if with it all gradients are the right ones;
    the score may be a formula of the user's own.
    """
    if not isinstance(target.layer, attention.Attending):
        return None
    layer: Any = copy.copy(target.layer)
    own = target.run(layer)[0]
    if all(matches(name, own[name], array) for name, array in right.items()):
        return None  # off by so little that no factor could be told from rounding
    cell, sizes = layer.cell, {"H": layer.hidden_size, "M": layer.memory_size, "K": layer.attention_size}
    sizes["S"] = next(array.shape[1] for array in target.trace.edge.given.values())
    factors = {"-1": -1.0, "2": 2.0, "1/2": 0.5}
    for name, size in sizes.items():
        root = math.sqrt(size)
        factors |= {f"1/sqrt({name})": 1 / root, f"sqrt({name})": root, f"1/{name}": 1 / size, name: float(size)}
    for title, factor in factors.items():
        changed = [tuple(_with_factor(part, factor) for part in parts) for parts in (cell.before, cell.after)]
        if factor == 1 or changed == [cell.before, cell.after]:
            continue
        layer.cell = replace(cell, before=changed[0], after=changed[1], trial=False)
        try:
            found = target.run(layer)[0]
        except Exception:  # a cell of one's own may not be made for it
            return None
        if all(matches(name, found[name], array) for name, array in right.items()):
            kind = "sign" if factor == -1 else "constant factor"
            return kind, f"what the scores get lacks the factor {title} on the way back: with it, all is right"
    return None


def _with_factor(part: Part, factor: float) -> Part:
    """Return a part that multiplies the gradient of the scores with a factor first, if it goes back from them."""
    backward = part.backward
    names = () if backward is None else argument_names(backward)
    if backward is None or not {"dscore_t", "dquery"} <= set(names):
        return part

    def scaled(*arrays: Array) -> None:
        arrays[names.index("dscore_t")][...] *= factor
        backward(*arrays)

    scaled.__signature__ = inspect.signature(backward)  # type: ignore[attr-defined]
    return replace(part, backward=scaled)


def _with_formulas(cell: Cell, backward: Mapping[Formula, Formula]) -> Cell:
    """Return the cell with other formulas backward, by the formula forward."""

    def changed(part: Part) -> Part:
        found = None if part.forward is None else backward.get(part.forward)
        return part if found is None else replace(part, backward=found)

    before, after = (tuple(map(changed, parts)) for parts in (cell.before, cell.after))
    return replace(cell, before=before, after=after, trial=False)


def _with_query(cell: Cell, query: str, *names: str) -> Cell:
    """Return the cell with another query in the sums over the steps for these given arrays and parameters, or all."""
    given, parameters = dict(cell.given), dict(cell.parameters)
    for name in names or QUERIED:
        if name in given and "weights" in given[name].products:
            products = {**given[name].products, "weights": (given[name].products["weights"][0], query)}
            given[name] = replace(given[name], products=products)
        elif name in parameters and (product := parameters[name].product) is not None:
            parameters[name] = replace(parameters[name], product=(product[0], query))
        elif names:
            return cell
    return replace(cell, given=given, parameters=parameters, trial=False)


def wrong_formulas() -> Iterator[tuple[str, str, Formula, Formula]]:
    """Yield kind, why, the formula forward, and the wrong one backward."""
    for kind, why, made in (
        (JACOBIAN, "the gradient of the scores is taken to be that of the weights", lambda alpha, dalpha: dalpha),
        (
            JACOBIAN,
            "of the softmax's Jacobian only the diagonal is there: alpha (1 - alpha)",
            lambda alpha, dalpha: alpha * (1 - alpha) * dalpha,
        ),
        (
            JACOBIAN,
            "the softmax's sum is missing: dscore = alpha dalpha",
            lambda alpha, dalpha: alpha * dalpha,
        ),
        (PATH, "the weights are taken for constants: nothing flows back through them", lambda alpha, dalpha: 0 * alpha),
    ):
        yield kind, why, attention.weights_forward, _scores(made)
    yield (
        MASK,
        "backward masks the weights after the softmax, and does not normalise them again",
        attention.weights_forward,
        _masked_late,
    )
    yield (
        MASK,
        "backward takes the softmax of all scores again, of rows that do not exist as well",
        attention.weights_forward,
        _of_all_scores,
    )
    yield (
        PATH,
        "the state before gets nothing through the scores: the query's path is missing",
        attention.product_forward,
        _nothing,
    )
    yield (
        PATH,
        "the memory gets nothing through the scores, but through its values alone",
        attention.product_forward,
        _by_values,
    )
    yield (
        PATH,
        "the state before gets nothing through the scores: the query's path is missing",
        attention.additive_forward,
        _additive(query=False),
    )
    yield (
        PATH,
        "the keys get nothing through the scores",
        attention.additive_forward,
        _additive(keys=False),
    )
    yield (
        DERIVATIVE,
        "the derivative of the additive score's tanh is missing",
        attention.additive_forward,
        _additive(derivative=False),
    )
    yield (
        "wrong derivative",
        "the gradient goes back to the weights of the step before through the filters turned round",
        attention.location_forward,
        _turned_filters,
    )
    yield PATH, "coverage gets nothing through the scores", attention.coverage_forward, _nothing
    yield PATH, "the weights get nothing of what later coverage gets", attention.cover_forward, _cover_kept
    yield PATH, "coverage hands nothing to the step before", attention.cover_forward, _cover_once
    yield PATH, "the weights get nothing through coverage", attention.cover_forward, _nothing
    yield PATH, "the weights get nothing through the filters", attention.focus_forward, _nothing
    yield DERIVATIVE, "the derivative of the context's gate is missing", attention.gate_forward, _gate(derivative=False)
    yield (
        "gate path missing",
        "nothing flows back through the context's gate",
        attention.gate_forward,
        _gate(path=False),
    )
    yield PATH, "nothing flows back to what was fed into the step", attention.feed_forward, _nothing
    yield DERIVATIVE, "the derivative of attn's tanh is missing", attention.combine_forward, _combine
    yield (
        "transposed",
        "the context's gradient is multiplied with W_ch where it should with its transpose",
        attention.context_forward,
        _turned,
    )


# ------------------------------------------------------------------------------------------------ wrong formulas


def _nothing(one: Array) -> None:
    """A formula that adds to nothing."""


def _scores(made: Callable[[Array, Array], Array]) -> Formula:
    """Return B3 with another B2."""

    def scores(dcontext_t: Array, alpha_t: Array, values: Array, dalpha_t: Array, dscore_t: Array) -> None:
        attention.weights_backward(dcontext_t, alpha_t, values, dalpha_t, dscore_t)
        dscore_t[...] = made(alpha_t, dalpha_t)

    return scores


def _masked_late(
    dcontext_t: Array, score_t: Array, exists: Array, values: Array, dalpha_t: Array, dscore_t: Array
) -> None:
    weights = np.zeros_like(score_t)
    attention.softmax_forward(score_t, np.ones_like(exists), weights)
    attention.weights_backward(dcontext_t, weights * exists, values, dalpha_t, dscore_t)


def _of_all_scores(dcontext_t: Array, score_t: Array, values: Array, dalpha_t: Array, dscore_t: Array) -> None:
    weights = np.zeros_like(score_t)
    attention.softmax_forward(score_t, np.ones(score_t.shape, bool), weights)
    attention.weights_backward(dcontext_t, weights, values, dalpha_t, dscore_t)


def _by_values(dscore_t: Array, keys: Array, dquery: Array) -> None:
    attention.product_backward(dscore_t, keys, dquery)
    dscore_t[...] = 0


def _additive(query: bool = True, keys: bool = True, derivative: bool = True) -> Formula:
    def additive(
        dscore_t: Array, units_t: Array, W_q: Array, v_a: Array, dunits_t: Array, dprojected_t: Array, dquery: Array,
        dkeys: Array, dv_a: Array,
    ) -> None:  # fmt: skip
        dv_a += np.einsum("ns,nsk->k", dscore_t, units_t).reshape(dv_a.shape)
        dunits_t[...] = dscore_t[:, :, None] * v_a.ravel() * ((1 - units_t**2) if derivative else 1)
        if keys:
            dkeys += dunits_t
        dprojected_t[...] = dunits_t.sum(axis=1)
        if query:
            dquery += dprojected_t.dot(W_q)

    return additive


def _cover_kept(dcov_t: Array, dcov_prev: Array) -> None:
    dcov_prev += dcov_t


def _cover_once(dcov_t: Array, dalpha_t: Array) -> None:
    dalpha_t += dcov_t


def _turned_filters(
    dunits_t: Array, focus_prev: Array, F: Array, U_f: Array, dfocus_prev: Array, dF: Array, dU_f: Array
) -> None:
    kept = dfocus_prev.copy()
    attention.location_backward(dunits_t, focus_prev, F, U_f, dfocus_prev, dF, dU_f)
    dfocus_prev[...] = kept
    nothing = np.zeros_like(dF), np.zeros_like(dU_f)
    attention.location_backward(dunits_t, focus_prev, F[:, ::-1], U_f, dfocus_prev, *nothing)


def _gate(derivative: bool = True, path: bool = True) -> Formula:
    def gate(
        dgated_t: Array, context_t: Array, beta_t: Array, W_g: Array, dgate_t: Array, dcontext_t: Array, dquery: Array,
        db_g: Array,
    ) -> None:  # fmt: skip
        dcontext_t[...] = beta_t * dgated_t
        dbeta = dgated_t * context_t
        if beta_t.shape[1] == 1:
            dbeta = dbeta.sum(axis=1, keepdims=True)
        dgate_t[...] = dbeta * (beta_t * (1 - beta_t) if derivative else 1) * path
        dquery += dgate_t.dot(W_g)
        db_g += dgate_t.sum(axis=0).reshape(db_g.shape)

    return gate


def _combine(dattn_t: Array, W_c: Array, dcombined_t: Array, dcontext_t: Array, dh_t: Array) -> None:
    dcombined_t[...] = dattn_t
    djoined, M = dattn_t.dot(W_c), dcontext_t.shape[1]
    dcontext_t[...] = djoined[:, :M]
    dh_t += djoined[:, M:]


def _turned(dinput_t: Array, W_ch: Array, dcontext_t: Array) -> None:
    turned = W_ch.T if W_ch.shape[0] == W_ch.shape[1] else W_ch
    dcontext_t[...] = dinput_t.dot(turned)
