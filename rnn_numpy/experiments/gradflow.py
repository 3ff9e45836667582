"""How gradients flow back through many networks: every cell with every gain, before and after training.

What is measured of each, and every number of it, `rnn_numpy.lab.gradient_flow` defines.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

import rnn_numpy
from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import finite, plain
from rnn_numpy.errors import NonFiniteError, OptionError
from rnn_numpy.experiments.progress import Progress, part_of
from rnn_numpy.lab.gradient_flow import INITS, GradientFlow, forecast_gradient_flow, set_recurrent_weights
from rnn_numpy.models import Forecaster, SequenceModel
from rnn_numpy.models.sequence import CELLS
from rnn_numpy.tasks import Batch, ForecastTask
from rnn_numpy.training import SGD, clip_grad_norm

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
    seed : int
        All networks get the same random draws, so that they differ in cell and gain alone.
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
    forget_bias: float | None = None

    def __post_init__(self) -> None:
        where = "GradflowOptions"
        some_cells(where, self.cells, CELLS)
        for gain in self.gains:
            arguments.positive_number(where, "gains", gain)
        all_different(where, "gains", self.gains)
        arguments.one_of(where, "init", self.init, INITS)
        for name in ("length", "hidden", "batch", "layers"):
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
    """

    task: ForecastTask
    options: GradflowOptions
    baseline: float
    networks: list[NetworkResult]

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
                "null: more than that is left at all lags, or there is nothing to measure",
                "slope_per_step": "mean over windows of the least-squares slope of the natural log of the norm "
                "against the lag",
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


def _network_dict(network: NetworkResult) -> dict[str, Any]:
    training = network.training
    return {
        "cell": network.cell,
        "gain": network.gain,
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


def run_gradflow(task: ForecastTask, options: GradflowOptions, progress: Progress | None = None) -> GradflowResult:
    """Measure the gradient flow of every cell with every gain, train, and measure again.

    Parameters
    ----------
    task : ForecastTask
        Of length options.length.
    options : GradflowOptions
    progress : callable, optional
        Called with the number of steps done, their total, and what is being done.

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
    >>> result.networks[0].before.verdict
    'vanishing'
    """
    if task.length != options.length:
        raise OptionError(
            f"run_gradflow: task has length {task.length}, options have {options.length}; use one of them"
        )
    measured, held_out = task.spread_windows(options.batch), task.held_out_windows()
    independent = min(float(measured.x.shape[1]), task.split / task.length)
    pairs = [(cell, gain) for cell in options.cells for gain in options.gains]
    shown = gain_texts(options.gains)
    ticks = options.train_steps + 1
    networks: list[NetworkResult] = []
    for number, (cell, gain) in enumerate(pairs):
        done = part_of(progress, number, ticks, len(pairs), f"{cell}, gain {shown[gain]}")
        done(0)
        networks.append(_run_network(task, options, cell, gain, measured, independent, held_out, done))
        done(ticks)
    return GradflowResult(task, options, task.repeat_last_loss(held_out), networks)


def _run_network(
    task: ForecastTask,
    options: GradflowOptions,
    cell: str,
    gain: float,
    measured: Batch,
    independent: float,
    held_out: Batch,
    done: Callable[[int], None],
) -> NetworkResult:
    # Three streams of one seed: weights, orthogonal matrices, order of the windows. Each network starts them anew.
    weights, recurrent, order = (np.random.default_rng([options.seed, stream]) for stream in range(3))
    forget_bias = options.forget_bias if cell == "lstm" else None
    model = Forecaster(
        task.channels, options.hidden, cell=cell, num_layers=options.layers, forget_bias=forget_bias, rng=weights
    )
    set_recurrent_weights(model.rnn, gain, options.init, recurrent)
    before = forecast_gradient_flow(model, measured, independent)
    loss_before = quiet_loss(model, held_out)
    if not options.train_steps:
        return NetworkResult(cell, gain, before, loss_before)
    training = _train(model, task, options, order, done)
    after = forecast_gradient_flow(model, measured, independent)
    return NetworkResult(cell, gain, before, loss_before, after, quiet_loss(model, held_out), training)


def _train(
    model: Forecaster,
    task: ForecastTask,
    options: GradflowOptions,
    order: np.random.Generator,
    done: Callable[[int], None],
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
            done(step + 1)
    return record


def quiet_loss(model: SequenceModel, batch: Batch) -> float:
    """Return the loss of a batch; where it is not finite, without a warning."""
    with np.errstate(all="ignore"):
        return float(model.loss_of(*batch))
