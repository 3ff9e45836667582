"""`rnn-numpy train forecast`: the next H samples of a real series, from nets that differ in their random draws alone.

The protocol is that of `rnn_numpy.tasks.forecasting`, the ways to H steps ahead those of `rnn_numpy.models.horizons`.
Nets are trained by Adam, in float64, on windows of the training part; the first steps of a window, whose state knows
little of the past yet, do not count. The parameters kept are those with the lowest geometric mean of two errors on
validation, the RMSE one step ahead and that of all horizons together, so that neither decides alone. The test part is
looked at once.

The ensemble's forecast is the mean of the nets'. Its band, of channel and horizon,

    (F1)  ensemble +- z sqrt(v_h + s^2),      z = 1.28 for 80 %

has the mean square v_h of the ensemble's errors before the test, h steps ahead, and the variance s^2 of the nets' own
forecasts at this place: where the nets disagree, it is wider. v_h is of training and validation (of the last 2000
samples, where there are more): validation alone is too short to say how large errors are, and those of training are
somewhat too small. So how many of the test samples lie in the band is counted, and told.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import count
from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.experiments.experiment import Experiment, Planned, Run
from rnn_numpy.models.horizons import STRATEGIES, forecast, horizon_batch, horizon_model
from rnn_numpy.models.sequence import CELLS, READS
from rnn_numpy.tasks.bundled import load_series
from rnn_numpy.tasks.files import READING, Reading
from rnn_numpy.tasks.forecasting import (
    Mask,
    Origins,
    Score,
    SplitSeries,
    Units,
    autoregressions,
    baselines,
    errors,
    rolling_origins,
    score,
)
from rnn_numpy.tasks.series import Floats, Series
from rnn_numpy.training import Adam
from rnn_numpy.training.batches import Draws
from rnn_numpy.training.loop import train

DIFFERENCE = {"auto": None, "yes": True, "no": False}
UNCOUNTED = 12  # steps at the beginning of a window; fewer of a short one
BAND = 0.8
# Origins from which validation forecasts; of longer parts they are spread. Samples before the test that v_h is of.
_ORIGINS, _REMEMBERED = 256, 2000
ENSEMBLE, MEDIAN = "mean of the nets", "median of the nets"


@dataclass(frozen=True)
class ForecastOptions:
    """What is trained, and how.

    Parameters
    ----------
    data : str
        A bundled series or a file, as `load_series` takes them.
    columns, skip : tuple of str
    header, decimal, missing, rows, separator, array : str
    absent : tuple of float
        Which channels to use, and how to read a file: the fields of `rnn_numpy.tasks.Reading`.
    season : int
        m; 0 for the series' own.
    difference : {"auto", "yes", "no"}
        Whether nets read differences; "auto": where validation leaves the range of the training part.
    horizon : int
        H.
    strategy : {"recursive", "direct", "seq2seq"}
    reads : {"all", "last"}
        Whether each step of a window has a loss (many-to-many), or the last one alone (many-to-one).
    cell : {"rnn-tanh", "rnn-relu", "lstm", "gru"}
    hidden, layers : int
    dropout : float
        Between layers.
    length : int
        T, steps of a window, and of what a forecast is made from; fewer where the training part is short.
    batch, updates : int
    lr, clip : float
        Of Adam; what the norm of all gradients together is clipped to.
    seeds : int
        How many nets.
    seed : int
        Of the first; the others have the numbers that follow.
    """

    data: str = "elnino"
    columns: tuple[str, ...] = ("auto",)
    skip: tuple[str, ...] = ()
    header: str = "auto"
    decimal: str = "auto"
    missing: str = "refuse"
    absent: tuple[float, ...] = ()
    rows: str = ""
    separator: str = "auto"
    array: str = ""
    season: int = 0
    difference: str = "auto"
    horizon: int = 12
    strategy: str = "recursive"
    reads: str = "all"
    cell: str = "gru"
    hidden: int = 16
    layers: int = 1
    dropout: float = 0.0
    length: int = 60
    batch: int = 32
    updates: int = 1200
    lr: float = 5e-3
    clip: float = 1.0
    seeds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        where = "ForecastOptions"
        for name, choices in (("cell", CELLS), ("strategy", STRATEGIES), ("reads", READS), ("difference", DIFFERENCE)):
            arguments.one_of(where, name, getattr(self, name), choices)
        for name in ("horizon", "hidden", "layers", "length", "batch", "updates", "seeds"):
            arguments.positive_int(where, name, getattr(self, name))
        for name in ("season", "seed"):
            arguments.step_count(where, name, getattr(self, name))
        for name in ("lr", "clip"):
            arguments.positive_number(where, name, getattr(self, name))
        arguments.probability(where, "dropout", self.dropout)
        Reading(**{name: getattr(self, name) for name in READING})
        if self.strategy == "seq2seq" and self.reads == "last":
            raise OptionError(f"{where}: reads is for 'recursive' and 'direct'; seq2seq has a loss after the window")


@dataclass(frozen=True)
class Scored:
    """A forecaster and its errors on the test part: one step ahead, and of all horizons together."""

    name: str
    one: Score
    all: Score

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, None where there is none."""
        return {"name": self.name, "one_step": _plain(self.one), "all_horizons": _plain(self.all)}


@dataclass(frozen=True, eq=False)
class Band:
    """The ensemble's band, see the module.

    Attributes
    ----------
    level : float
        What share of samples it is meant to hold.
    half : ndarray, (H, N, D)
        Half of its width, in the unit of the series.
    coverage : float
        The share of the test that it holds, all horizons together.
    by_horizon : tuple of float
        The same at h = 1 ... H.
    """

    level: float
    half: Floats
    coverage: float
    by_horizon: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ForecastResult:
    """Forecasts of the test part.

    Attributes
    ----------
    options : ForecastOptions
    split : SplitSeries
    length : int
        T as it was.
    parameters : int
        Of a net.
    baselines, nets : tuple of Scored
    ensemble : Scored
    band : Band
    runs : sequence of Run
        A net each.
    origins : ndarray of int, (N,)
    mask : ndarray of bool, (H, N)
        Which forecasts count.
    forecasts : mapping of str to ndarray, (H, N, D)
        Of the baselines and the ensemble, by name, in the unit of the series.
    """

    options: ForecastOptions
    split: SplitSeries
    length: int
    parameters: int
    baselines: tuple[Scored, ...]
    nets: tuple[Scored, ...]
    ensemble: Scored
    band: Band
    runs: Sequence[Run]
    origins: Origins
    mask: Mask
    forecasts: Mapping[str, Floats]

    @property
    def median(self) -> Scored:
        """The median of the nets, of each measure by itself."""
        return Scored(MEDIAN, _median([net.one for net in self.nets]), _median([net.all for net in self.nets]))

    @property
    def rows(self) -> tuple[Scored, ...]:
        """All forecasters: baselines, each net, and of several the median and the ensemble."""
        return (*self.baselines, *self.nets, *([self.median, self.ensemble] if len(self.nets) > 1 else []))

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python objects that strict JSON can hold."""
        split = self.split
        return {
            "what": {
                "rmse": "in standard deviations of all samples before the test",
                "mase": "mean |error| over that of the naive forecast of all samples before the test, m = 1",
                "seasonal_mase": "the same with m = season",
                "coverage": "share of the test that lies in the band, by horizon and of all",
            },
            "series": split.series.name,
            "channels": list(split.series.channels),
            "notes": list(split.series.notes),
            "samples": {
                "train": split.train,
                "validation": split.known - split.train,
                "test": len(split) - split.known,
            },
            "season": split.season,
            "difference": split.units.difference,
            "length": self.length,
            "parameters": self.parameters,
            "forecasters": [row.to_dict() for row in self.rows],
            "band": {
                "level": self.band.level,
                "coverage": self.band.coverage,
                "by_horizon": list(self.band.by_horizon),
            },
        }


class ForecastExperiment(Experiment):
    """Nets that forecast a series; see the module."""

    name: ClassVar[str] = "forecast"
    Options: ClassVar[type[Any]] = ForecastOptions
    inputs: ClassVar[str] = "a file with the same columns, to go on from its end; none: from the series' own"
    options: ForecastOptions
    every = 20
    patience = 25

    @cached_property
    def split(self) -> SplitSeries:
        """The series; of one that is to predict the end alone, validation and what comes after it."""
        options = self.options
        if self._given is not None:
            return _from_kept(self._given)
        series = load_series(options.data, **{name: getattr(options, name) for name in READING})
        split = SplitSeries.of(series, season=options.season or None, difference=DIFFERENCE[options.difference])
        if options.horizon > split.train // 2:
            raise OptionError(
                f"{series.name}: a horizon of {options.horizon} is too long for {count(split.train, 'sample')} to "
                f"train on; at most {split.train // 2}"
            )
        return split

    def from_data(self) -> Mapping[str, Any]:
        """Return a digest, the units, and what a forecast of what follows the series, with its band, is made from."""
        split = self.split
        series, units = split.series, split.units
        first = max(0, split.known - _REMEMBERED)
        return {
            "sha256": hashlib.sha256(series.values.tobytes()).hexdigest(),
            "name": series.name,
            "channels": list(series.channels),
            "samples": len(series),
            "next": float(series.start + series.step * len(series)),
            "step": float(series.step),
            "unit": series.unit,
            "train": split.train - first,
            "season": split.season,
            "length": self._length,
            "mean": units.mean.tolist(),
            "scale": units.scale.tolist(),
            "difference": units.difference,
            "before_test": series.values[first : split.known].tolist(),
            "end": series.values[-self._length - 1 :].tolist(),
        }

    @property
    def _length(self) -> int:
        return min(self.options.length, self.split.longest(self.options.horizon))

    @property
    def _seeds(self) -> range:
        return range(self.options.seed, self.options.seed + self.options.seeds)

    def make_models(self) -> Mapping[str, Any]:
        """Return a net for each seed."""
        options = self.options
        return {
            f"seed {seed}": horizon_model(
                options.strategy,
                len(self.kept["channels"]),
                options.hidden,
                options.horizon,
                cell=options.cell,
                num_layers=options.layers,
                dropout=options.dropout,
                reads=options.reads,
                rng=np.random.default_rng([seed, 0]),
            )
            for seed in self._seeds
        }

    def trainings(self) -> Sequence[Planned]:
        """Return a training for each seed."""
        options = self.options
        return [
            Planned(
                label,
                train(
                    model,
                    Draws(partial(self._draw, model), rng=np.random.default_rng([seed, 1])),
                    Adam(model.params, options.lr),
                    clip=options.clip,
                ),
                options.updates,
            )
            for seed, (label, model) in zip(self._seeds, self.models.items(), strict=True)
        ]

    def _draw(self, model: Any, rng: np.random.Generator) -> tuple[Any, ...]:
        options, split, length = self.options, self.split, self.kept["length"]
        ahead = 1 if options.strategy == "recursive" else options.horizon
        # A window ends, with all that is to be forecast from it, in the training part.
        origins = rng.integers(length + split.first, split.train - ahead, size=options.batch, endpoint=True)
        x, target = split.windows(origins, length, ahead)
        return horizon_batch(model, x, target, min(UNCOUNTED, length // 3))

    def _forecasts(self, model: Any, origins: Origins) -> Floats:
        """Return the forecasts of a net in the unit of the series, (H, N, D)."""
        x = self.split.contexts(origins, self.kept["length"])
        return self.split.levels(forecast(model, x, self.options.horizon), origins)

    def _spread_origins(self, first: int, last: int) -> tuple[Origins, Mask]:
        """Return rolling origins, of many some, evenly spread; the last one is there, from which h = 1 counts."""
        origins, mask = rolling_origins(first, last, self.options.horizon)
        every = math.ceil(len(origins) / _ORIGINS)
        return origins[::-every], mask[:, ::-every]

    def validate(self, index: int) -> float:
        """Return the geometric mean of the RMSEs on validation: one step ahead, and of all horizons together."""
        split, model = self.split, list(self.models.values())[index]
        origins, mask = self._spread_origins(split.train, split.known)
        measured = score(split, self._forecasts(model, origins), origins, mask)
        return math.sqrt(measured.by_horizon[0] * measured.rmse)

    def _mean_squares(self) -> Floats:
        """Return v_h of F1, (H, 1, D)."""
        split = self.split
        first = max(split.first + self.kept["length"], split.known - _REMEMBERED) + self.options.horizon - 1
        origins, mask = self._spread_origins(first, split.known)
        ensemble = np.mean([self._forecasts(model, origins) for model in self.models.values()], axis=0)
        squares = np.square(errors(split, ensemble, origins, mask)).sum(axis=1, keepdims=True)
        return np.asarray(squares / mask.sum(axis=1)[:, None, None])

    def result(self, runs: Sequence[Run]) -> ForecastResult:
        """Forecast the test part."""
        split, horizon = self.split, self.options.horizon
        origins, mask = rolling_origins(split.known, len(split), horizon)
        one = origins[-(len(split) - split.known) :], mask[:1, -(len(split) - split.known) :]

        def scored(name: str, forecasts: Floats) -> Scored:
            first = forecasts[:1, -len(one[0]) :]
            return Scored(name, score(split, first, *one), score(split, forecasts, origins, mask))

        nets = {label: self._forecasts(model, origins) for label, model in self.models.items()}
        naive = baselines(split, autoregressions(split), origins, horizon)
        ensemble = np.mean(list(nets.values()), axis=0)
        half = _half_width(self._mean_squares(), list(nets.values()))
        held = (np.abs(errors(split, ensemble, origins, mask)) <= half) & mask[:, :, None]
        shares = held.mean(axis=2).sum(axis=1)
        counted = mask.sum(axis=1)
        return ForecastResult(
            self.options,
            split,
            self.kept["length"],
            next(iter(self.models.values())).params.flat.size,
            tuple(scored(name, forecasts) for name, forecasts in naive.items()),
            tuple(scored(label, forecasts) for label, forecasts in nets.items()),
            scored(ENSEMBLE, ensemble),
            Band(BAND, half, float(shares.sum() / counted.sum()), tuple((shares / counted).tolist())),
            runs,
            origins,
            mask,
            {**naive, ENSEMBLE: ensemble},
        )

    def predict(self, inputs: Sequence[str]) -> str:
        """Forecast the H samples after the end of the series, or of a file, with a band."""
        if len(inputs) > 1:
            raise DataError(f"{inputs[1]}: predict goes on from one file; {inputs[0]} is one already")
        units, kept = self.split.units, self.kept
        if inputs:
            found = _read_like(inputs[0], kept["channels"], self.options)
            series = replace(found, start=len(found) + 1.0, step=1.0, unit="sample")
        else:
            channels = tuple(kept["channels"])
            series = Series(
                kept["name"], np.array(kept["end"]), channels, "", 1, kept["next"], kept["step"], kept["unit"]
            )
        least = min(UNCOUNTED, kept["length"]) + self.split.first
        if len(series) < least:
            raise DataError(
                f"{series.name}: {count(len(series), 'sample')}; to go on from, at least {least} are needed"
            )
        known = units.readings(series.values)[self.split.first :][-kept["length"] :, None]
        last, horizon = series.values[-1:], self.options.horizon
        nets = [units.levels(forecast(model, known, horizon), last) for model in self.models.values()]
        half = _half_width(self._mean_squares(), nets)
        return _predicted(series, horizon, np.mean(nets, axis=0)[:, 0], half[:, 0])


def _half_width(squares: Floats, nets: Sequence[Floats]) -> Floats:
    """Return z sqrt(v_h + s^2) of F1."""
    spread = np.var(nets, axis=0, ddof=1) if len(nets) > 1 else np.zeros_like(nets[0])
    return NormalDist().inv_cdf((1 + BAND) / 2) * np.sqrt(squares + spread)


def _from_kept(kept: Mapping[str, Any]) -> SplitSeries:
    """Return what was before the test, as far as it is remembered."""
    series = Series(kept["name"], np.array(kept["before_test"]), tuple(kept["channels"]))
    units = Units(np.array(kept["mean"]), np.array(kept["scale"]), kept["difference"])
    return SplitSeries(series, kept["train"], len(series), kept["season"], units)


def _read_like(path: str, channels: Sequence[str], options: ForecastOptions) -> Series:
    """Read a file, as the series was read, that has the given channels by name, or else as many columns."""
    how = {name: getattr(options, name) for name in ("header", "decimal", "missing", "absent", "separator", "array")}
    try:
        return load_series(path, channels, **how)
    except DataError as error:
        try:
            series = load_series(path, **how)
        except DataError:
            raise error from None
        if len(series.channels) != len(channels):
            raise
        return series


def _predicted(series: Series, horizon: int, forecasts: Floats, half: Floats) -> str:
    """Return a table for each channel; `series.start` is when the first forecast sample comes."""
    digits = 2 - math.floor(math.log10(max(float(half.max()), 1e-300)))
    shown = f".{max(0, digits)}f" if -6 <= digits <= 8 else ".5g"
    decimals = 0 if float(series.step).is_integer() else 2
    lines = [f"{series.name}: the {count(horizon, 'sample')} that follow, with a band for {BAND:.0%} of them"]
    for j, channel in enumerate(series.channels):
        lines.append(f"{series.unit:>10}  {channel[:24]:>14}  {'from':>12}  {'to':>12}")
        for h, (value, width) in enumerate(zip(forecasts[:, j], half[:, j], strict=True)):
            numbers = f"{value:14{shown}}  {value - width:12{shown}}  {value + width:12{shown}}"
            lines.append(f"{series.start + h * series.step:10.{decimals}f}  {numbers}")
    return "\n".join(lines) + "\n"


def _plain(measured: Score) -> dict[str, Any]:
    found = asdict(measured)
    return {
        name: (list(value) if isinstance(value, tuple) else value if math.isfinite(value) else None)
        for name, value in found.items()
    }


def _median(scores: Sequence[Score]) -> Score:
    rmse, mase, seasonal = (
        float(np.median([getattr(one, name) for one in scores])) for name in ("rmse", "mase", "seasonal_mase")
    )
    by_horizon = np.median([one.by_horizon for one in scores], axis=0).tolist()
    return Score(rmse, mase, seasonal, tuple(by_horizon), scores[0].counted)
