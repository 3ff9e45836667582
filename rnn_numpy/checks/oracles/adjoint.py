"""The adjoint identity <J v, u> = <v, J^T u>: a proof of a backward pass that does not run the forward pass again.

J v is the cells' hand-written Jacobian-vector product (`rnn_numpy.engine.forward_mode`) at the states that a trace
recorded. No trajectory is computed twice, so that chaos, which makes every comparison with a difference quotient
worthless after a few dozen steps, does no harm; and no step size is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.engine.forward_mode import RecordedPass, jvp
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import OptionError

Array = NDArray[Any]


def adjoint_error(
    layer: Recurrent,
    trace: Trace,
    *,
    seed: int = 0,
    directions: int = 3,
    names: Sequence[str] | None = None,
) -> float:
    """Compare <J v, u> of forward mode with <v, J^T u> of backward, for random v and u, at the recorded states.

    Parameters
    ----------
    layer : Recurrent
        With a cell that has `step_tangent`.
    trace : Trace
        From `layer.forward`.
    seed : int
        Of the random directions: Gaussian, u over output and final states.
    directions : int
        How many pairs v, u are tried.
    names : sequence of str, optional
        Where v is not 0: among "x", "h_0" (of an LSTM also "c_0"), the names of the parameters, and "given['values']"
        of a layer with a memory; all where left out.

    Returns
    -------
    float
        The largest |<J v, u> - <v, J^T u>|, relative to |J v| |u|: a few units of rounding where backward is right.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        The trace is another layer's, an unknown name, a cell without `step_tangent`.

    Notes
    -----
    Cost: for each pair a forward-mode and a backward pass. The trace keeps the gradients of the latest backward pass
    that it had.

    v and u have something of all entries, so that a single wrong one shows; relative to |J v| |u| it weighs less, the
    more entries there are. `names` narrows it down to one tensor. J v of a few numbers may happen to cancel: a large
    value for one seed alone, of a layer with one or two units, proves nothing.

    Examples
    --------
    >>> from rnn_numpy.layers import LSTM
    >>> lstm = LSTM(2, 3, num_layers=2, rng=0)
    >>> trace = lstm.forward(np.random.default_rng(1).normal(size=(50, 4, 2)))[2]
    >>> adjoint_error(lstm, trace) < 1e-15
    True
    """
    where = "adjoint_error"
    pairs = arguments.positive_int(where, "directions", directions)
    rng = np.random.default_rng(seed)
    recorded = RecordedPass(where, layer, trace)
    initial = [f"{state}_0" for state in layer.cell.states]
    known = [*_inputs(layer), *layer.params, *_memory(layer, recorded)]
    chosen = known if names is None else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise OptionError(f"{where}: names must be among {known}; got {unknown or 'none'}")
    edge, batch = recorded.edge, recorded.batch  # what has the shapes of the results
    voutput = edge.signal_out(np.zeros((batch.T, batch.N, edge.output_width), edge.dtype))
    rows = layer.num_layers * layer.num_directions
    vh_n = edge.states_out([np.zeros((rows, batch.N, width), edge.dtype) for width in edge.widths.values()])
    x = recorded.edge.signal_out(next(iter(trace.layers.values())).arrays["x"])
    memory = {
        name: recorded.edge.given_out(recorded.edge.given[name], len(layer.cell.given[name].shape))
        for title, name in _memory(layer, recorded).items()
        if title in chosen
    }
    latest = {name: run.latest for name, run in trace.layers.items()}
    worst = 0.0
    try:
        for _ in range(pairs):
            vx = _random(x, rng) if "x" in chosen else None
            parts = _random(vh_n, rng)
            vstates = parts if len(parts) > 1 else parts[0]
            for name, part in zip(initial, parts, strict=True):
                part *= name in chosen
            vparams = {name: _random(array, rng) for name, array in layer.params.items() if name in chosen}
            vgiven = {name: _random(array, rng) for name, array in memory.items()}
            u, finals = _random(voutput, rng), _random(vh_n, rng)
            u_n = finals if len(finals) > 1 else finals[0]
            forward = jvp(layer, trace, vx=vx, vh_0=vstates, vparams=vparams, vgiven=vgiven)
            back = layer.backward(trace, u, u_n)
            after = _dot(forward.voutput, u) + _dot(forward.vh_n, u_n)
            before = sum(_dot(back.grads[name], change) for name, change in vparams.items())
            before += sum(_dot(getattr(back, "d" + name), part) for name, part in zip(initial, parts, strict=True))
            before += sum(_dot(back.dgiven[name], change) for name, change in vgiven.items())
            before += 0 if vx is None else _dot(back.dx, vx)
            length = _norm((forward.voutput, forward.vh_n)) * _norm((u, u_n))
            difference = float(abs(after - before))
            worst = max(worst, difference / length if length else (np.inf if difference else 0.0))
    finally:
        for name, run in trace.layers.items():
            run.latest = latest[name]
    return worst


def adjoint_errors(layer: Recurrent, trace: Trace, *, seed: int = 0, directions: int = 3) -> dict[str, float]:
    """Return `adjoint_error` for each tensor on its own: input, initial states, each parameter, a memory.

    Parameters and errors are those of `adjoint_error`.

    Returns
    -------
    dict of str to float
        By "x", "h_0" (of an LSTM also "c_0"), "weight_ih_l0", ...

    Examples
    --------
    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(2, 3, rng=0)
    >>> trace = rnn.forward(np.random.default_rng(1).normal(size=(50, 4, 2)))[2]
    >>> errors = adjoint_errors(rnn, trace)
    >>> list(errors)
    ['x', 'h_0', 'weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    >>> max(errors.values()) < 1e-15
    True
    """
    recorded = RecordedPass("adjoint_errors", layer, trace)
    return {
        name: adjoint_error(layer, trace, seed=seed, directions=directions, names=[name])
        for name in [*_inputs(layer), *layer.params, *_memory(layer, recorded)]
    }


def _inputs(layer: Recurrent) -> list[str]:
    return ["x", *(f"{state}_0" for state in layer.cell.states)]


def _memory(layer: Recurrent, recorded: RecordedPass) -> dict[str, str]:
    """Return the given arrays that have a gradient: what their tensors are called, and their names."""
    given = layer.cell.given.items()
    return {f"given[{name!r}]": name for name, one in given if one.differentiable and name in recorded.edge.given}


def _random(like: Any, rng: np.random.Generator) -> Any:
    """Return Gaussian numbers in the form of `like`: an array, a tuple of arrays, or a packed one."""
    if isinstance(like, PackedSequence):
        return like._replace(data=_random(like.data, rng))
    if isinstance(like, tuple):
        return tuple(_random(part, rng) for part in like)
    return rng.normal(size=like.shape).astype(like.dtype)


def _dot(one: Any, other: Any) -> Any:
    """Return the sum of products of all entries, without conjugation."""
    if isinstance(one, PackedSequence):
        return _dot(one.data, other.data)
    if isinstance(one, tuple):
        return sum(_dot(part, match) for part, match in zip(one, other, strict=True))
    return one.ravel() @ other.ravel()


def _norm(value: Any) -> float:
    """Return the Euclidean norm of all entries."""
    if isinstance(value, PackedSequence):
        return _norm(value.data)
    if isinstance(value, tuple):
        return float(np.hypot.reduce([_norm(part) for part in value]))
    return float(np.linalg.norm(value.ravel()))
