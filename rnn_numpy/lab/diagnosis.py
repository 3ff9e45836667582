r"""The numbers of a page on a net's gradients; `rnn_numpy.report.diagnosis` puts them into words.

Nothing here is measured in a way of its own. What stands on the page is

- *the gradient by lag*, of each layer: `rnn_numpy.lab.gradient_flow` defines norm, slope, half-life, reach and verdict.
  In a layer below the top one it is the total dL/ds of that layer, through its own later steps and through all layers
  above, at the same step as well;
- *the growth rate* lambda_1 of each layer, with its error: `rnn_numpy.lab.lyapunov`. The gradient of the last step's
  loss and a small difference of states both pass the same Jacobians, so over long stretches the slope is lambda_1; over
  short ones they differ by how the gradient happens to begin. -1/lambda_1 is the *memory*, in steps, where lambda_1 is
  negative;
- *gates*: mean, shares below 0.1 (shut) and above 0.9 (open). Of a keeping gate, f of an LSTM or z of a GRU, the *time
  constant* -1/<ln f> of each unit: in so many steps 1/e of its content is left;
- *saturation* of tanh units: the share with |h| > 0.99, where the slope 1 - h^2 is below 0.02; of relu units, the share
  that is off, and those that are off throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import finite
from rnn_numpy.engine import Recurrent
from rnn_numpy.engine.trace import LayerTrace, Trace
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab.gates import GateSummary, gate_report
from rnn_numpy.lab.gradient_flow import STEADY_FACTOR, GradientFlow
from rnn_numpy.lab.lyapunov import lyapunov
from rnn_numpy.layers import RNN, mse_loss
from rnn_numpy.models import Forecaster

if TYPE_CHECKING:
    pass

Array = NDArray[Any]
Floats = NDArray[np.float64]

SATURATED = 0.99  # of |h|: a slope below 0.02


@dataclass(frozen=True)
class LayerDiagnosis:
    """The numbers of one layer.

    Attributes
    ----------
    name : str
    flow : GradientFlow
        The last step's gradient by lag.
    growth, growth_error : float or None
        lambda_1 and its standard error; None where states are not finite, or one batch gives no error.
    gates : mapping of str to GateSummary
        None where states are not finite.
    saturated : float or None
        Share of tanh units' states beyond 0.99, of a plain RNN.
    off, dead : float or None
        Share of relu units' states that are 0; of units that are 0 throughout.
    radius : float or None
        Spectral radius of W_hh, of a cell with one matrix.
    """

    name: str
    flow: GradientFlow
    growth: float | None
    growth_error: float | None
    gates: Mapping[str, GateSummary]
    saturated: float | None
    off: float | None
    dead: float | None
    radius: float | None

    @property
    def memory(self) -> float | None:
        """-1/lambda_1, in steps; None where differences do not die away."""
        return -1 / self.growth if self.growth is not None and self.growth < 0 else None

    @property
    def chaotic(self) -> bool:
        """Whether small differences of states grow: by a factor of 10 or more over the T steps, and beyond two standard
        errors. Below that a net that holds what it has, and is not yet where it will stay, looks the same."""
        least = max(2 * (self.growth_error or 0.0), math.log(STEADY_FACTOR) / self.flow.length)
        return self.growth is not None and self.growth > least

    @property
    def keeping(self) -> tuple[str, GateSummary] | None:
        """The gate that says what is kept, and its numbers."""
        return next(((name, gate) for name, gate in self.gates.items() if gate.time_constants is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python ones; what is not finite as None."""
        gates = {
            name: {
                "mean": gate.mean,
                "share_shut": gate.shut,
                "share_open": gate.open,
                "median_time_constant": finite(gate.median_time_constant),
            }
            for name, gate in self.gates.items()
        }
        return {
            "layer": self.name,
            "gradient": self.flow.to_dict(),
            "lambda_1": finite(self.growth),
            "lambda_1_standard_error": finite(self.growth_error),
            "memory": self.memory,
            "gates": gates,
            "share_saturated": self.saturated,
            "share_off": self.off,
            "share_of_dead_units": self.dead,
            "spectral_radius": self.radius,
        }


@dataclass(frozen=True)
class GradientNumbers:
    """What `measured` returns: the numbers, layer by layer.

    Attributes
    ----------
    title, source : str
        The net; where the gradient comes from.
    length, count : int
        T and N.
    layers : tuple of LayerDiagnosis
        The lowest first.
    """

    title: str
    source: str
    length: int
    count: int
    layers: tuple[LayerDiagnosis, ...]

    @property
    def top(self) -> LayerDiagnosis:
        """The top layer, which the loss reads."""
        return self.layers[-1]

    @property
    def verdict(self) -> str:
        """ "vanishing", "steady", "exploding" or "diverged": of the top layer's gradient."""
        return self.top.flow.verdict


def measured(
    where: str,
    model: Recurrent | Forecaster,
    x: ArrayLike,
    target: ArrayLike | None,
    rng: np.random.Generator | int | None,
) -> GradientNumbers:
    """Return the numbers of a page; arguments and errors are those of `rnn_numpy.report.diagnose`, called `where`."""
    layer = model.rnn if isinstance(model, Forecaster) else model
    if not isinstance(layer, Recurrent):
        raise DTypeError(
            f"{where}: model must be a recurrent layer, RNN, LSTM, GRU, or a Forecaster; got {type(model).__name__}"
        )
    if layer.bidirectional:
        raise OptionError(
            f"{where}: model must have one direction: in a bidirectional one a gradient reaches every step both ways"
        )
    if target is not None and not isinstance(model, Forecaster):
        raise OptionError(f"{where}: target is for a Forecaster; {type(model).__name__} has no loss. Leave it out")
    generator = arguments.generator(where, rng)
    # An overflow or a NaN is a finding to report, not a mistake to warn about.
    with np.errstate(all="ignore"):
        output, _, trace = layer.forward(x, training=False)
        if output.ndim != 3 or len(trace) < 2:
            raise ShapeError(
                f"{where}: x must have three axes and at least two steps; got {np.shape(x)}, T = {len(trace)}"
            )
        time_major = output.swapaxes(0, 1) if layer.batch_first else output
        last, source = _last_gradient(where, model, time_major, target, generator)
        doutput = np.zeros_like(time_major)
        doutput[-1] = last
        flows = _flows(layer, trace, doutput.swapaxes(0, 1) if layer.batch_first else doutput)
    layers = []
    for name, run in trace.layers.items():
        growth, error = _growth(layer, x, name, generator)
        layers.append(_layer_diagnosis(layer, run, flows[run.layer], growth, error))
    title = repr(layer) if layer is model else f"{type(model).__name__} with {layer!r}"
    return GradientNumbers(title, source, len(trace), time_major.shape[1], tuple(layers))


# ----------------------------------------------------------------------------------------------------------- measures


def _last_gradient(
    where: str, model: Any, output: Array, target: ArrayLike | None, generator: np.random.Generator
) -> tuple[Array, str]:
    """Return dL/dh_T of each sequence's own loss, (N, H), and in words where it comes from."""
    if target is None:
        normals = generator.standard_normal(output.shape[1:])
        unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        # A net that has left the range of floats has no gradient, though a vector could be sent back.
        unit[~np.isfinite(output[-1]).all(axis=1)] = np.nan
        return unit.astype(output.dtype), "a random vector of length 1 for each sequence"
    array = arguments.array_of(where, "target", target, output.dtype)
    prediction, trace = model.readout.forward(output[-1])
    arguments.shaped(where, "target", array, "(T, N, outputs)", (len(output), *prediction.shape))
    dprediction = mse_loss(prediction, array[-1])[1] * len(prediction)  # a loss for each sequence, not their mean
    return model.readout.backward(trace, dprediction).dx, "the gradient of the squared error there"


def _flows(layer: Recurrent, trace: Trace, doutput: Array) -> list[GradientFlow]:
    """Return the flow of each layer, the lowest first: dL/d(states) as each step hands it back."""
    rows: list[list[Array]] = [[] for _ in range(layer.num_layers)]
    names = [f"d{state}_prev" for state in layer.cell.states]
    for step in layer.backward_steps(trace, doutput):
        found = rows[step.layer]
        if not found:  # the last step: what enters there enters through h
            others = [np.zeros_like(getattr(step, state)) for state in layer.cell.states[1:]]
            found.append(np.concatenate([step.dh, *others], axis=-1))
        found.append(np.concatenate([getattr(step, name) for name in names], axis=-1))
    flows = []
    for found in rows:
        stacked = np.stack(found).astype(np.float64)
        # Scaled, so that no square under- or overflows.
        largest = np.abs(stacked).max(axis=-1, keepdims=True)
        scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        norms = scale[..., 0] * np.linalg.norm(stacked / scale, axis=-1)
        flows.append(GradientFlow(norms, float(norms.shape[1])))
    return flows


def _growth(
    layer: Recurrent, x: ArrayLike, name: str, generator: np.random.Generator
) -> tuple[float | None, float | None]:
    try:
        spectrum = lyapunov(layer, x, 1, name=name, rng=generator)
    except NonFiniteError:
        return None, None
    error = float(spectrum.standard_errors[0])
    return float(spectrum.exponents[0]), None if math.isnan(error) else error


def _layer_diagnosis(
    layer: Recurrent, run: LayerTrace, flow: GradientFlow, growth: float | None, error: float | None
) -> LayerDiagnosis:
    names = [name for name in layer.cell.gate_names if name in layer.cell.sigmoids]
    finite = all(np.isfinite(getattr(run, name)).all() for name in names)
    report = gate_report(run, gates=names) if names and finite else None
    gates = {} if report is None else {summary.gate: summary for summary in report.gates}
    saturated = off = dead = radius = None
    if isinstance(layer, RNN):
        h = run.h[1:]
        if layer.nonlinearity == "tanh":
            saturated = float(np.mean(np.abs(h) > SATURATED))
        else:
            off, dead = float(np.mean(h == 0)), float(np.mean((h == 0).all(axis=(0, 1))))
        weight = run.weights["W_hh"]
        radius = float(np.abs(np.linalg.eigvals(weight)).max()) if np.isfinite(weight).all() else None
    return LayerDiagnosis(run.name, flow, growth, error, gates, saturated, off, dead, radius)
