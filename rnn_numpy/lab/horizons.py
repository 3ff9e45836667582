r"""What the loss of each horizon says to the weights of a model that goes on from its own predictions.

L_h is the mean squared error h steps ahead, h = 1 ... H, of prediction y_{h-1} of `rnn_numpy.models.rollout`, whose
words are used here. From there a gradient goes back by two ways: through the state, s_k -> s_{k-1}, and through the
input, u_k -> y_{k-1}. The paths that it can take fall into two sets, and since backward is linear, the gradient into
two sums:

    (P1)  dL_h/dW = recurrence_h + feedback_h
          recurrence_h    by paths through states alone: what mode "stop" takes for the gradient
          feedback_h      by paths that go through an input, from u_k to y_{k-1}, once or more

The second is computed by itself, so that P1 is a check, and holds to rounding. Newest first, such a path is one of
states alone until it goes through an input for the first time, and any from there on:

    (P2)  feedback_h = backward of mode "free" from dy_{k-1} = du_k,  du_k of mode "stop",  k = 1 ... h-1

"teacher" is the gradient of another function: of the error at the same place in the series, where known values have
been read up to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import norm_of
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.layers.losses import mse_loss
from rnn_numpy.models.rollout import Rollout, RolloutTrace

Array = NDArray[Any]
Floats = NDArray[np.float64]

KINDS = ("exact", "recurrence", "feedback", "teacher")


@dataclass(frozen=True)
class HorizonGradients:
    """Gradients of the losses of horizons 1 ... H, each of a row; what `horizon_gradients` returns.

    Attributes
    ----------
    losses : ndarray, (H,)
        L_h of the roll-out.
    parts : mapping of str to ndarray, (H, P)
        "exact", "recurrence" (that of mode "stop"), "feedback" and "teacher": of all parameters, as they lie in
        `params.flat`.
    params : Parameters
        Names and shapes.
    """

    losses: Floats
    parts: Mapping[str, Array]
    params: Parameters

    def gradient(self, kind: str, name: str | None = None) -> Array:
        """Return a parameter's gradients, (H, *its shape); without a name those of all together, (H, P)."""
        arguments.one_of("HorizonGradients.gradient", "kind", kind, KINDS)
        rows = self.parts[kind]
        if name is None:
            return rows
        if name not in self.params:
            raise OptionError(
                f"HorizonGradients.gradient: name must be one of {', '.join(self.params)}, or left out; got {name!r}"
            )
        return np.array([self.params.twin(row)[name] for row in rows])

    def norms(self, kind: str = "exact", name: str | None = None) -> Floats:
        """Return the norm of each horizon's gradient, (H,)."""
        return np.array([norm_of(row) for row in self.gradient(kind, name)])

    def cosines(self, kind: str = "recurrence", name: str | None = None) -> Floats:
        """Return the cosine between the exact gradient and another, (H,); NaN where one is 0."""
        exact, other = self.gradient("exact", name), self.gradient(kind, name)
        found = np.full(len(exact), np.nan)
        for h, (one, two) in enumerate(zip(exact, other, strict=True)):
            lengths = norm_of(one), norm_of(two)
            if all(lengths):
                found[h] = np.vdot(one / lengths[0], two / lengths[1])
        return found

    def lost(self, name: str | None = None) -> Floats:
        """Return |exact - recurrence| / |exact|: what is lost where gradients stop at what is fed back, (H,)."""
        exact, feedback = self.norms("exact", name), self.norms("feedback", name)
        found: Floats = np.divide(feedback, exact, out=np.full(len(exact), np.nan), where=exact > 0)
        return found

    def __repr__(self) -> str:
        lines = [f"HorizonGradients of {len(self.losses)} horizons", "    h       loss  |dL/dW|   cosine      lost"]
        columns = zip(self.losses, self.norms(), self.cosines(), self.lost(), strict=True)
        for h, (loss, norm, cosine, lost) in enumerate(columns, 1):
            lines.append(f"  {h:>3} {loss:>10.2e} {norm:>8.1e} {cosine:>8.3f} {lost:>9.1e}")
        return "\n".join(lines)


def horizon_gradients(
    rollout: Rollout, x: Any, target: ArrayLike, h_0: Any = None, lengths: ArrayLike | None = None
) -> HorizonGradients:
    """Return what the loss of each horizon says to the weights: exactly, through the state alone, and through what was
    fed back.

    Parameters
    ----------
    rollout : Rollout
        In any mode.
    x, h_0, lengths
        As of `rollout.forward`. There is no dropout.
    target : ndarray, (H, N, D), axes as those of x
        What follows x.

    Notes
    -----
    Cost: three backward passes for each horizon, 3 H^2 / 2 steps in all.

    Examples
    --------
    >>> from rnn_numpy import Forecaster
    >>> wave = np.sin(0.3 * np.arange(40.0)).reshape(40, 1, 1)
    >>> found = horizon_gradients(Rollout(Forecaster(1, 8, cell="gru", rng=0)), wave[:30], wave[30:])
    >>> found.lost()[[0, 2, 9]].round(2)  # one step ahead nothing is fed back
    array([0.  , 0.1 , 0.15])
    """
    where = "horizon_gradients"
    if not isinstance(rollout, Rollout):
        raise DTypeError(f"{where}: rollout must be a Rollout of a model; got {type(rollout).__name__}")
    modes = {mode: Rollout(rollout.model, mode, layer=rollout.layer) for mode in ("free", "stop", "teacher")}
    wanted = arguments.array_of(where, "target", target, rollout.params.dtype)
    horizon = modes["free"].horizon_of(wanted)
    predictions, _, trace = modes["free"].forward(x, horizon, h_0, lengths, training=False)
    _, _, forced = modes["teacher"].forward(x, horizon, h_0, lengths, targets=wanted, training=False)
    parts = {kind: np.empty((horizon, rollout.params.flat.size), wanted.dtype) for kind in KINDS}
    losses = np.empty(horizon)
    for h in range(horizon):
        upto = RolloutTrace(trace.chunks[: h + 1], trace.h_n, trace.mode, trace.axis)
        here = (slice(None),) * trace.axis + (slice(h, h + 1),)
        dpredictions = np.zeros_like(upto.predictions)
        loss, dpredictions[here] = mse_loss(predictions[here], wanted[here])
        losses[h] = loss.real
        parts["exact"][h] = modes["free"].backward(upto, dpredictions).grads.flat
        parts["recurrence"][h] = modes["stop"].backward(upto, dpredictions).grads.flat
        started = [chunk.dx for chunk in upto.chunks[1:]]  # P2
        last = np.zeros_like(upto.chunks[-1].y)
        parts["feedback"][h] = modes["free"].backward(upto, np.concatenate([*started, last], trace.axis)).grads.flat
        dforced = np.zeros_like(forced.predictions)
        _, dforced[here] = mse_loss(forced.predictions[here], wanted[here])
        parts["teacher"][h] = modes["teacher"].backward(forced, dforced).grads.flat
    return HorizonGradients(losses, parts, rollout.params.zeros_like())
