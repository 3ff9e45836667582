r"""The numbers of a page on a net's gradients, layer by layer; `rnn_numpy.report.diagnosis_page` puts them into words.

Everything here is measured elsewhere in the lab. The page has

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
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import finite
from rnn_numpy.engine import Recurrent
from rnn_numpy.engine.trace import LayerTrace
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab.gates import GateSummary, gate_report
from rnn_numpy.lab.gradient_flow import STEADY_FACTOR, GradientFlow, flow_norms, last_step_gradient
from rnn_numpy.lab.lyapunov import lyapunov
from rnn_numpy.layers import RNN
from rnn_numpy.models import Forecaster

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
        """True where small differences of states grow by a factor of 10 or more over the T steps, and by more than two
        standard errors. Below that, a net that keeps its content and has not yet settled looks the same."""
        least = max(2 * (self.growth_error or 0.0), math.log(STEADY_FACTOR) / self.flow.length)
        return self.growth is not None and self.growth > least

    @property
    def keeping(self) -> tuple[str, GateSummary] | None:
        """Name and numbers of the gate that holds what the cell keeps."""
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


def measured(
    where: str,
    model: Recurrent | Forecaster,
    x: ArrayLike,
    target: ArrayLike | None,
    rng: np.random.Generator | int | None,
) -> tuple[str, str, int, int, tuple[LayerDiagnosis, ...]]:
    """Return title, source, length, count and layers of a page; arguments and errors are those of
    `rnn_numpy.report.diagnose`, called `where`."""
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
        norms = flow_norms(layer, trace, last, below=True)
    layers = []
    for name, run in trace.layers.items():
        growth, error = _growth(layer, x, name, generator)
        flow = GradientFlow(norms[-1 - run.layer], float(time_major.shape[1]))
        layers.append(_layer_diagnosis(layer, run, flow, growth, error))
    title = repr(layer) if layer is model else f"{type(model).__name__} with {layer!r}"
    return title, source, len(trace), time_major.shape[1], tuple(layers)


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
    arguments.shaped(where, "target", array, "(T, N, outputs)", (*output.shape[:2], model.readout.out_features))
    return last_step_gradient(model, output[-1], array[-1]), "the gradient of the squared error there"


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
