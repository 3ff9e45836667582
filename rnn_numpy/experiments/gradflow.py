"""How gradients flow back through many networks: every cell with every gain, drawn several times, before and after
training.

What is measured of each, and every number of it, `rnn_numpy.lab.gradient_flow` defines.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rnn_numpy
from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import finite, plain
from rnn_numpy.errors import NonFiniteError, OptionError
from rnn_numpy.experiments.networks import Executor, Measurement, Point, flow_of, kept_flow, measure_all
from rnn_numpy.experiments.progress import Progress
from rnn_numpy.lab.gradient_flow import INITS, GradientFlow, forecast_gradient_flow, set_recurrent_weights
from rnn_numpy.models import Forecaster, SequenceModel
from rnn_numpy.models.sequence import CELLS
from rnn_numpy.tasks import Batch, ForecastTask
from rnn_numpy.training import SGD, clip_grad_norm

Floats = NDArray[np.float64]

RECORDED = 2**22  # units times steps of a batch from which on its record is made again block by block
MOMENTUM = 0.9


@dataclass(frozen=True)
class GradflowOptions:
    """What `run_gradflow` compares, and how.

    Parameters
    ----------
    cells : sequence of str
    gains : sequence of float
        Spectral radius of W_hh at the start; of a cell with gates, of each gate's block. Every cell is combined with
        every gain.
    init : {"uniform", "orthogonal", "identity"}
    length, hidden, batch, layers : int
        T, H, N, and the number of layers.
    train_steps : int
        0 measures the untrained networks only.
    lr, clip : float
        Of stochastic gradient descent with momentum 0.9; the norm of all gradients together is clipped to `clip`.
    seed, seeds : int
        The first seed, and how many. Networks with the same seed get the same random draws, so that they differ in cell
        and gain alone; what is said of a cell and a gain must hold for all of their draws.
    forget_bias : float, optional
        Total bias of the LSTM's forget gates at the start; drawn as all other parameters where left out, so near 0.
    """

    cells: Sequence[str] = ("rnn-tanh", "rnn-relu", "lstm", "gru")
    gains: Sequence[float] = (0.5, 1.0, 1.5)
    init: str = "uniform"
    length: int = 200
    hidden: int = 64
    batch: int = 16
    layers: int = 1
    train_steps: int = 100
    lr: float = 0.05
    clip: float = 1.0
    seed: int = 0
    seeds: int = 4
    forget_bias: float | None = None

    def __post_init__(self) -> None:
        where = "GradflowOptions"
        some_cells(where, self.cells, CELLS)
        for gain in self.gains:
            arguments.positive_number(where, "gains", gain)
        all_different(where, "gains", self.gains)
        arguments.one_of(where, "init", self.init, INITS)
        for name in ("length", "hidden", "batch", "layers", "seeds"):
            arguments.positive_int(where, name, getattr(self, name))
        for name in ("lr", "clip"):
            arguments.positive_number(where, name, getattr(self, name))
        for name in ("train_steps", "seed"):
            arguments.step_count(where, name, getattr(self, name))
        if self.forget_bias is not None:
            arguments.real_number(where, "forget_bias", self.forget_bias)
            if "lstm" not in self.cells:
                raise OptionError(
                    f"{where}: forget_bias is for the cell lstm, which is not among {', '.join(self.cells)}"
                )


def some_cells(where: str, cells: Sequence[str], known: Iterable[str]) -> None:
    """Refuse names of cells that are unknown, none, or given twice."""
    for cell in cells:
        if cell not in known:
            raise OptionError(f"{where}: cells must be among {', '.join(known)}; got {cell!r}")
    all_different(where, "cells", cells)


def all_different(where: str, name: str, values: Sequence[Any]) -> None:
    """Refuse no values, and one that is given twice."""
    if not values or len(set(values)) < len(values):
        raise OptionError(f"{where}: {name} must be at least one, all different; got {list(values)}")


def versions() -> dict[str, str]:
    """Return the versions on which results may depend, for JSON."""
    return {"rnn_numpy": rnn_numpy.__version__, "numpy": np.__version__, "python": platform.python_version()}


@dataclass
class TrainingRecord:
    """What happened in training.

    Attributes
    ----------
    losses : list of float
        Mean squared error of each step's batch, before its update.
    gradient_norms : list of float
        Norm of all gradients together, before clipping.
    clipped : int
        Steps at which clipping engaged.
    stopped : str
        Why training ended early; empty if it did not.
    """

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    clipped: int = 0
    stopped: str = ""

    @property
    def steps(self) -> int:
        """Updates made."""
        return len(self.gradient_norms)


@dataclass(frozen=True)
class NetworkResult:
    """One network: its flow and its loss on held-out samples, before and after training.

    Attributes
    ----------
    cell : str
    gain : float
    seed : int
    before, after : GradientFlow
        `after` is None where nothing was trained.
    loss_before, loss_after : float
        Mean squared error over the held-out samples, in standard units.
    training : TrainingRecord or None
    """

    cell: str
    gain: float
    before: GradientFlow
    loss_before: float
    after: GradientFlow | None = None
    loss_after: float | None = None
    training: TrainingRecord | None = None
    seed: int = 0

    def kept(self) -> dict[str, Any]:
        """Return all but cell, gain and seed as what JSON can hold, bit for bit."""
        return {
            "before": kept_flow(self.before),
            "loss_before": self.loss_before,
            "after": kept_flow(self.after),
            "loss_after": self.loss_after,
            "training": self.training and asdict(self.training),
        }

    @classmethod
    def of(cls, cell: str, gain: float, seed: int, kept: Mapping[str, Any]) -> NetworkResult:
        """Return the network of which `kept` has returned this."""
        training = kept["training"] and TrainingRecord(**kept["training"])
        flows = {when: flow_of(kept[when]) for when in ("before", "after")}
        losses = {name: kept[name] for name in ("loss_before", "loss_after")}
        return cls(cell, gain, **flows, **losses, training=training, seed=seed)


@dataclass(frozen=True)
class GradflowResult:
    """All networks, and what they were compared on.

    Attributes
    ----------
    task : ForecastTask
    options : GradflowOptions
    baseline : float
        Loss of repeating the last value, on the positions on which `loss_before` and `loss_after` are measured.
    networks : list of NetworkResult
        By cell, then gain, then seed.
    """

    task: ForecastTask
    options: GradflowOptions
    baseline: float
    networks: list[NetworkResult]

    @property
    def kinds(self) -> list[list[NetworkResult]]:
        """The draws of each cell with each gain."""
        kinds: dict[tuple[str, float], list[NetworkResult]] = {}
        for network in self.networks:
            kinds.setdefault((network.cell, network.gain), []).append(network)
        return list(kinds.values())

    def label(self, network: NetworkResult) -> str:
        """Return what to call a network: its cell and its gain, with enough digits to tell it from the others."""
        return f"{network.cell} {gain_texts([other.gain for other in self.networks])[network.gain]}"

    def flows(self, when: str) -> list[tuple[NetworkResult, GradientFlow]]:
        """Return all networks with their flow "before" training, or those that were trained with that "after" it."""
        flows = ((network, network.before if when == "before" else network.after) for network in self.networks)
        return [(network, flow) for network, flow in flows if flow is not None]

    @property
    def training_length(self) -> str:
        """The number of updates that were made, which training that ended early keeps below what was asked for."""
        made = [network.training.steps for network in self.networks if network.training is not None]
        least, most = min(made, default=self.options.train_steps), max(made, default=self.options.train_steps)
        steps = str(most) if least == most else f"{least} to {most}"
        return f"{steps} training step{'' if most == 1 else 's'}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python objects that strict JSON can hold; what is not finite as None."""
        task, options = self.task, self.options
        return {
            "what": {
                "typical_norm": "geometric mean over windows of the Euclidean norm of the gradient of L with respect "
                "to the state that a step of the top layer hands to the next one, by lag in steps back from the last "
                "step of the window, L being the squared error of the last step; the state is h, of lstm h and c "
                "together (dL/dh at fixed c, dL/dc at fixed h); the last entry is the initial state; null: too large "
                "for a float",
                "gain": "spectral radius of weight_hh at the start; of lstm and gru, of each gate's block of it",
                "forget_bias": "total bias of the forget gates of lstm at the start; null: drawn as all parameters are",
                "mean_gates": "mean over windows, steps and units of the top layer's gates; f of lstm and z of gru are "
                "the share of its content that a cell or unit keeps at a step",
                "lag_of_a_hundredth": "first lag at which the typical norm is at most a hundredth of that at lag 0; "
                "so for a half and a tenth; null: more is left at all lags, or there is nothing to measure",
                "slope_per_step": "mean over windows of the least-squares slope of the natural log of the norm "
                "against the lag; early, over the first tenth of the lags; late, over their second half",
                "slope_standard_error": "over the windows of one draw; other draws may differ by much more",
                "over_draws": "of each cell with each gain: how many draws have which verdict, median and spread",
                "kinds_of_windows": "how many windows explode, vanish and so on, each by itself",
                "loss": "mean squared error on the held-out end of the series, in units of each channel's variance in "
                "the training part",
                "log_change_to_longest_lag": "natural log of the typical norm at the longest lag, less that at lag 0",
            },
            "versions": versions(),
            "options": asdict(options)
            | {"cells": list(options.cells), "gains": list(options.gains), "momentum": MOMENTUM},
            "data": {
                "name": task.series.name,
                "description": task.series.description,
                "notes": list(task.series.notes),
                "samples": len(task.series),
                "training_samples": task.split,
                "channels": list(task.series.channels),
                "mean": plain(task.mean),
                "scale": plain(task.scale),
            },
            "lags": list(range(task.length + 1)),
            "baseline_loss": finite(self.baseline),
            "over_draws": [_draws_dict(draws) for draws in self.kinds],
            "networks": [_network_dict(network) for network in self.networks],
        }


def gain_texts(gains: Iterable[float], digits: int = 6) -> dict[float, str]:
    """Write gains with as few digits as tell them apart, but at least `digits` significant ones.

    >>> gain_texts([0.5, 1.0]), gain_texts([1, 1.0000001])
    ({0.5: '0.5', 1.0: '1'}, {1: '1', 1.0000001: '1.0000001'})
    """
    different = dict.fromkeys(gains)
    texts = [f"{gain:.{digits}g}" for gain in different]
    while len(set(texts)) < len(texts) and digits < 17:  # 17 tell any two floats apart
        digits += 1
        texts = [f"{gain:.{digits}g}" for gain in different]
    return dict(zip(different, texts, strict=True))


def middle(flows: Sequence[GradientFlow]) -> Floats:
    """Return the median over flows of one length, lag by lag, of the typical norm; of an even number, the geometric
    mean of the two in the middle.

    >>> norms = np.array([[1.0], [0.5]]), np.array([[1.0], [0.02]]), np.array([[4.0], [0.0]])
    >>> middle([GradientFlow(each, 1) for each in norms]).tolist()
    [1.0, 0.02]
    """
    ordered = np.sort([flow.typical for flow in flows], axis=0)
    low, high = ordered[(len(flows) - 1) // 2], ordered[len(flows) // 2]
    between: Floats = np.where(low > 0, np.sqrt(low) * np.sqrt(high), 0.0)
    return np.where(low == high, low, between)


def _draws_dict(draws: Sequence[NetworkResult]) -> dict[str, Any]:
    """Return what all draws of a cell and a gain say together, before and after training."""
    told: dict[str, Any] = {"cell": draws[0].cell, "gain": draws[0].gain, "draws": len(draws)}
    for when in ("before", "after"):
        flows = [flow for network in draws if (flow := getattr(network, when)) is not None]
        slopes = [flow.slope for flow in flows if flow.slope is not None]
        told[when] = flows and {
            "verdicts": dict(Counter(flow.verdict for flow in flows)),
            "median_norm": plain(middle(flows)),
            "mean_slope": statistics.fmean(slopes) if slopes else None,
            "standard_deviation_of_slopes": statistics.stdev(slopes) if len(slopes) > 1 else None,
        }
    return told | {"after": told["after"] or None}


def _network_dict(network: NetworkResult) -> dict[str, Any]:
    training = network.training
    return {
        "cell": network.cell,
        "gain": network.gain,
        "seed": network.seed,
        "before": {**network.before.to_dict(), "loss": finite(network.loss_before)},
        "after": network.after and {**network.after.to_dict(), "loss": finite(network.loss_after)},
        "training": training
        and {
            "steps": training.steps,
            "losses": plain(np.array(training.losses)),
            "gradient_norms": plain(np.array(training.gradient_norms)),
            "clipped_steps": training.clipped,
            "stopped": training.stopped or None,
        },
    }


def run_gradflow(
    task: ForecastTask,
    options: GradflowOptions,
    progress: Progress | None = None,
    *,
    executor: Executor = "serial",
    store: str | os.PathLike[str] | None = None,
) -> GradflowResult:
    """Measure the gradient flow of every cell with every gain and every seed, train, and measure again.

    Parameters
    ----------
    task : ForecastTask
        Of length options.length.
    options : GradflowOptions
    progress : callable, optional
        Called with the number of networks that are finished, their total, and what the last one has shown.
    executor, store
        Where networks are computed, and the file that keeps each one as soon as it is finished: see
        `rnn_numpy.experiments.sweep`. Networks of other options, data or sources than these are not taken from it.

    Notes
    -----
    Training minimises the error at every step of random windows of the training part, all with the same seed. The flow
    is measured on windows evenly spread over the training part, before and after on the same ones. A network whose
    gradient stops being finite keeps its last finite parameters and says so in its record.

    The same seed gives the same numbers to the last bit on the same machine with the same number of threads. Elsewhere
    sums are rounded in another order, and in a net whose gradient explodes training amplifies that: compare verdicts
    then, not digits.

    Examples
    --------
    >>> from rnn_numpy.tasks import Series
    >>> wave = Series("wave", np.sin(np.arange(60.0))[:, None], ("sin",))
    >>> options = GradflowOptions(cells=["rnn-tanh"], gains=[0.5], length=20, hidden=8, train_steps=0)
    >>> result = run_gradflow(ForecastTask.of(wave, 20), options)
    >>> [network.before.verdict for network in result.networks]
    ['vanishing', 'vanishing', 'vanishing', 'vanishing']
    """
    if task.length != options.length:
        raise OptionError(
            f"run_gradflow: task has length {task.length}, options have {options.length}; use one of them"
        )
    measurement = gradflow_measurement(task, options)
    points: list[dict[str, Any]] = [
        {"cell": cell, "gain": gain, "seed": options.seed + draw}
        for cell in options.cells
        for gain in map(float, options.gains)
        for draw in range(options.seeds)
    ]
    shown = gain_texts(options.gains)

    def told(point: Point, kept: Any) -> str:
        network = NetworkResult.of(**point, kept=kept)
        after = "" if network.after is None else f", after training {network.after.verdict}"
        seed = f", seed {network.seed}" if options.seeds > 1 else ""
        return f"{network.cell}, gain {shown[network.gain]}{seed}: {network.before.verdict}{after}"

    found = measure_all(measurement, points, told, progress, executor, store)
    networks = [NetworkResult.of(**point, kept=kept) for point, kept in zip(points, found, strict=True)]
    return GradflowResult(task, options, task.repeat_last_loss(task.held_out_windows()), networks)


def gradflow_measurement(task: ForecastTask, options: GradflowOptions) -> Measurement:
    """Return what `run_gradflow` computes for each network; networks of other cells, gains and seeds share it."""
    return _Measurement(task, replace(options, cells=tuple(CELLS), gains=(1.0,), seed=0, seeds=1))


class _Measurement(Measurement):
    """Measure a network, train it, measure it again."""

    def __init__(self, task: ForecastTask, options: GradflowOptions) -> None:
        super().__init__()
        self.task, self.options = task, options

    def measured(self, cell: str, gain: float, seed: int) -> dict[str, Any]:  # type: ignore[override]
        """Return the network as `NetworkResult.kept` does."""
        task, options = self.task, self.options
        measured, held_out = task.spread_windows(options.batch), task.held_out_windows()
        independent = min(float(measured.x.shape[1]), task.split / task.length)
        # Three streams of one seed: weights, orthogonal matrices, order of the windows. Each network starts them anew.
        weights, recurrent, order = (np.random.default_rng([seed, stream]) for stream in range(3))
        forget_bias = options.forget_bias if cell == "lstm" else None
        model = Forecaster(
            task.channels, options.hidden, cell=cell, num_layers=options.layers, forget_bias=forget_bias, rng=weights
        )
        set_recurrent_weights(model.rnn, gain, options.init, recurrent)
        before = forecast_gradient_flow(model, measured, independent)
        found = NetworkResult(cell, gain, before, quiet_loss(model, held_out))
        if options.train_steps:
            training = _train(model, task, options, order)
            after = forecast_gradient_flow(model, measured, independent)
            found = replace(found, after=after, loss_after=quiet_loss(model, held_out), training=training)
        return found.kept()


def _train(
    model: Forecaster,
    task: ForecastTask,
    options: GradflowOptions,
    order: np.random.Generator,
) -> TrainingRecord:
    record = TrainingRecord()
    optimizer = SGD(model.params, options.lr, MOMENTUM)
    steps = options.length * options.batch * options.hidden * options.layers
    checkpoint = 1 if steps > RECORDED else None
    with np.errstate(all="ignore"):
        for step in range(options.train_steps):
            batch = task.random_windows(options.batch, order)
            loss, grads, _ = model.loss_and_grads(batch.x, batch.target, checkpoint=checkpoint)
            record.losses.append(float(loss))
            try:
                clipping = clip_grad_norm(grads, options.clip)
            except NonFiniteError:
                record.stopped = f"when the gradient of step {step + 1} was no longer finite"
                break
            record.gradient_norms.append(clipping.norm)
            record.clipped += clipping.engaged
            optimizer.step(grads)
    return record


def quiet_loss(model: SequenceModel, batch: Batch) -> float:
    """Return the loss of a batch; where it is not finite, without a warning."""
    with np.errstate(all="ignore"):
        return float(model.loss_of(*batch))
