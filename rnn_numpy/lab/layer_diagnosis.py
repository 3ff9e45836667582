r"""The numbers of a page on a net's gradients, layer by layer; `rnn_numpy.report.diagnosis_page` puts them into words.

Everything here is measured elsewhere in the lab. The page has

- *the gradient by lag*, of each layer: `rnn_numpy.lab.gradient_flow` defines norm, slope, half-life, reach and verdict.
  In a layer below the top one it is the total dL/ds of that layer, through its own later steps and through all layers
  above, at the same step as well;
- *the growth rate* lambda_1 of each layer, with its error: `rnn_numpy.lab.lyapunov`. The gradient of the last step's
  loss and a small difference of states both pass the same Jacobians, so over long stretches the slope is lambda_1; over
  short ones they differ by how the gradient happens to begin. -1/lambda_1 is the *memory*, in steps, where lambda_1 is
  negative. Where it is positive, differences of states grow. A net is *chaotic* only if its states stay bounded and
  differences grow along other trajectories as well: both are measured again from random initial states. Else it is
  *unstable*: its states grow themselves, as those of a linear net, or it stands at a point that it leaves as soon as
  anything disturbs it;
- *gates*: mean, shares below 0.1 (shut) and above 0.9 (open). Of a keeping gate, f of an LSTM or z of a GRU, the *time
  constant* -1/<ln f> of each unit: in so many steps 1/e of its content is left;
- *weights and slopes* of a plain RNN: the spectral radius of W_hh, and the root mean square of the units' slopes,
  1 - h^2 of tanh, 1 or 0 of relu. Were Jacobians W_hh times one number, their product would be e^lambda_1;
- *saturation* of tanh units: the share with |h| > 0.99, where the slope 1 - h^2 is below 0.02; of relu units, the share
  that is off, and those that are off throughout;
- *where it ends*: of sequences whose gradient is exactly 0 from some lag on, the step whose Jacobian did it, in how
  many of them all slopes of all units are 0 there, and how large the input is there.

Layers in float32 are run in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import finite
from rnn_numpy.core.states import mapped
from rnn_numpy.engine import Recurrent
from rnn_numpy.engine.trace import LayerTrace
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab.gates import GateSummary, gate_report
from rnn_numpy.lab.gradient_flow import (
    STEADY_FACTOR,
    GradientFlow,
    flow_norms,
    in_float64,
    last_step_gradient,
    slope_of,
)
from rnn_numpy.lab.lyapunov import lyapunov
from rnn_numpy.layers import RNN
from rnn_numpy.models import Forecaster

Array = NDArray[Any]
Floats = NDArray[np.float64]

SATURATED = 0.99  # of |h|: a slope below 0.02


@dataclass(frozen=True)
class Ending:
    """Where gradients end that are exactly 0 from some lag on.

    Attributes
    ----------
    step : int
        Whose Jacobian is the first one that hands nothing on, in the median of these sequences.
    sequences, flat : int
        How many they are; in how many of them the slopes of all units are 0 at that step. None where the slopes are
        not known, as of cells that are no plain RNN.
    input : float
        The largest entry of the input there over the root mean square of the whole input, the largest of these.
    """

    step: int
    sequences: int
    flat: int | None
    input: float


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
    radii : tuple of float
        Spectral radii of the gates' blocks of W_hh, of a cell with gates; () where they are not square.
    slope : float or None
        Root mean square of the units' slopes, of a plain RNN.
    swelling : float or None
        Growth per step of log size of the states over the second half of the steps.
    elsewhere, elsewhere_swelling : float or None
        lambda_1 and swelling from random initial states; where lambda_1 is so large that it matters.
    ending : Ending or None
        Where gradients end that do.
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
    radii: tuple[float, ...] = ()
    slope: float | None = None
    swelling: float | None = None
    elsewhere: float | None = None
    elsewhere_swelling: float | None = None
    ending: Ending | None = None

    @property
    def memory(self) -> float | None:
        """-1/lambda_1, in steps; None where differences do not die away."""
        return -1 / self.growth if self.growth is not None and self.growth < 0 else None

    @property
    def growing(self) -> bool:
        """True where small differences of states grow by a factor of 10 or more over the T steps, and by more than two
        standard errors. Below that, a net that keeps its content and has not yet settled looks the same."""
        return self.growth is not None and self.growth > max(2 * (self.growth_error or 0.0), self._least)

    @property
    def _least(self) -> float:
        """The growth per step that makes a factor of 10 over the T steps."""
        return math.log(STEADY_FACTOR) / self.flow.length

    @property
    def swells(self) -> bool:
        """True where the states themselves grow, about as fast as their differences."""
        return self.growing and self._swells(self.swelling)

    @property
    def swells_elsewhere(self) -> bool:
        """True where they do so from random initial states."""
        return self.growing and self._swells(self.elsewhere_swelling)

    def _swells(self, swelling: float | None) -> bool:
        return swelling is not None and swelling > max(self._least, (self.growth or 0.0) / 2)

    @property
    def chaotic(self) -> bool:
        """True where differences grow, from random initial states as well, while states stay bounded."""
        again = self.elsewhere is not None and self.elsewhere > self._least
        return self.growing and again and not self.swells and not self.swells_elsewhere

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
            "spectral_radii_of_gates": list(self.radii),
            "rms_slope_of_units": self.slope,
            "growth_of_states": finite(self.swelling),
            "lambda_1_from_random_states": finite(self.elsewhere),
            "growth_of_states_from_random_states": finite(self.elsewhere_swelling),
            "chaotic": self.chaotic,
            "gradient_ends": None if self.ending is None else asdict(self.ending),
        }


def measured(
    where: str,
    model: Recurrent | Forecaster,
    x: ArrayLike,
    target: ArrayLike | None,
    independent: float | None,
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
            f"{where}: model must have one direction: in a bidirectional one a gradient reaches every step both ways. "
            "Take one of them, with rnn_numpy.interop.one_direction"
        )
    if target is not None and not isinstance(model, Forecaster):
        raise OptionError(f"{where}: target is for a Forecaster; {type(model).__name__} has no loss. Leave it out")
    generator = arguments.generator(where, rng)
    title = repr(layer) if layer is model else f"{type(model).__name__} with {layer!r}"
    # An overflow or a NaN is a finding to report, not a mistake to warn about.
    with np.errstate(all="ignore"):
        given = target if target is None else arguments.array_of(where, "target", target, layer.dtype)
        largest = float(np.finfo(layer.dtype).max)
        layer, x = in_float64(where, layer, x)
        output, _, trace = layer.forward(x, training=False)
        if output.ndim != 3 or len(trace) < 2:
            raise ShapeError(
                f"{where}: x must have three axes and at least two steps; got {np.shape(x)}, T = {len(trace)}"
            )
        time_major = output.swapaxes(0, 1) if layer.batch_first else output
        last, source = _last_gradient(where, model, time_major, given, generator, largest)
        norms = flow_norms(layer, trace, last, below=True)
        layers = []
        for name, run in trace.layers.items():
            growth, error = _growth(layer, x, name, generator)
            worth = float(time_major.shape[1])
            if independent is not None:
                worth = min(worth, arguments.positive_number(where, "independent", independent))
            flow = GradientFlow(norms[-1 - run.layer], worth)
            found = _layer_diagnosis(layer, run, flow, growth, error)
            if found.growing:
                found = _from_elsewhere(found, layer, x, generator)
            layers.append(found)
    return title, source, len(trace), time_major.shape[1], tuple(layers)


# ----------------------------------------------------------------------------------------------------------- measures


def _last_gradient(
    where: str, model: Any, output: Array, target: Array | None, generator: np.random.Generator, largest: float
) -> tuple[Array, str]:
    """Return dL/dh_T of each sequence's own loss, (N, H), and in words where it comes from; `largest` is what the net
    itself can hold."""
    if target is None:
        normals = generator.standard_normal(output.shape[1:])
        unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        # A net that has left the range of floats has no gradient, though a vector could be sent back.
        unit[~(np.abs(output[-1]) <= largest).all(axis=1)] = np.nan
        return unit.astype(output.dtype), "a random vector of length 1 for each sequence"
    array = np.asarray(target, output.dtype)
    arguments.shaped(where, "target", array, "(T, N, outputs)", (*output.shape[:2], model.readout.out_features))
    if model.params.flat.dtype != output.dtype:
        model = model.astype(output.dtype)
    return last_step_gradient(model, output[-1], array[-1]), "the gradient of the squared error there"


def _growth(
    layer: Recurrent, x: Array, name: str, generator: np.random.Generator, h_0: Any = None
) -> tuple[float | None, float | None]:
    try:
        spectrum = lyapunov(layer, x, 1, h_0=h_0, name=name, rng=generator)
    except NonFiniteError:
        return None, None
    error = float(spectrum.standard_errors[0])
    return float(spectrum.exponents[0]), None if math.isnan(error) else error


def _from_elsewhere(
    found: LayerDiagnosis, layer: Recurrent, x: Array, generator: np.random.Generator
) -> LayerDiagnosis:
    """Return a diagnosis with growth and swelling from random initial states, of the size of tanh's."""
    h_n = layer.forward(x, training=False, checkpoint=1, outputs=False)[1]
    h_0 = mapped(lambda part: 0.5 * generator.standard_normal(part.shape), h_n)
    run = layer.forward(x, h_0, training=False)[2].layers[found.name]
    growth, _ = _growth(layer, x, found.name, generator, h_0)
    return replace(found, elsewhere=growth, elsewhere_swelling=_swelling(layer, run))


def _swelling(layer: Recurrent, run: LayerTrace) -> float | None:
    """Return the slope of the log size of the states over the second half of the steps; None where it has none."""
    sizes = sum(np.square(getattr(run, name)[1:]).sum(axis=(1, 2)) for name in layer.cell.states)
    second = np.sqrt(np.asarray(sizes))[len(sizes) // 2 :]
    if len(second) < 2 or not (np.isfinite(second).all() and (second > 0).all()):
        return None
    return slope_of(np.log(second))


def _layer_diagnosis(
    layer: Recurrent, run: LayerTrace, flow: GradientFlow, growth: float | None, error: float | None
) -> LayerDiagnosis:
    names = [name for name in layer.cell.gate_names if name in layer.cell.sigmoids]
    finite = all(np.isfinite(getattr(run, name)).all() for name in names)
    report = gate_report(run, gates=names) if names and finite else None
    gates = {} if report is None else {summary.gate: summary for summary in report.gates}
    saturated = off = dead = radius = slope = slopes = None
    if isinstance(layer, RNN):
        h = run.h[1:]
        if layer.nonlinearity == "tanh":
            slopes = 1 - np.square(h)
            saturated = float(np.mean(np.abs(h) > SATURATED))
        else:
            slopes = (h > 0).astype(np.float64)
            off, dead = float(np.mean(h == 0)), float(np.mean((h == 0).all(axis=(0, 1))))
        slope = float(np.sqrt(np.mean(np.square(slopes)))) if np.isfinite(h).all() else None
        weight = run.weights["W_hh"]
        radius = float(np.abs(np.linalg.eigvals(weight)).max()) if np.isfinite(weight).all() else None
    found = LayerDiagnosis(run.name, flow, growth, error, gates, saturated, off, dead, radius)
    W_hh, radii = run.weights.get("W_hh"), tuple[float, ...]()
    if names and W_hh is not None and not W_hh.shape[0] % W_hh.shape[1] and np.isfinite(W_hh).all():
        H = W_hh.shape[1]
        radii = tuple(float(np.abs(np.linalg.eigvals(block)).max()) for block in W_hh.reshape(-1, H, H))
    return replace(found, radii=radii, slope=slope, swelling=_swelling(layer, run), ending=_ending(run, flow, slopes))


def _ending(run: LayerTrace, flow: GradientFlow, slopes: Array | None) -> Ending | None:
    """Return where gradients end that are exactly 0 from a lag of 1 or more on; None where none does."""
    T = flow.length
    last = flow.norms[np.minimum(flow.reach, T), np.arange(flow.count)]
    ended = np.flatnonzero((flow.reach >= 1) & (flow.reach <= T) & (last == 0))
    if not ended.size:
        return None
    steps = T - flow.reach[ended]
    size = float(np.sqrt(np.mean(np.square(run.x))))
    largest = float(np.abs(run.x[steps, ended]).max()) / size if size > 0 else 0.0
    flat = None if slopes is None else int((slopes[steps, ended] == 0).all(axis=-1).sum())
    return Ending(int(np.median(steps)), ended.size, flat, largest)
