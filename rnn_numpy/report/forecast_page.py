"""What `rnn-numpy train forecast` says: a table of forecasters, and a few plain sentences. At most 100 columns wide."""

from __future__ import annotations

from rnn_numpy.core.numbers import count
from rnn_numpy.experiments.forecasting import ForecastOptions, ForecastResult, Scored
from rnn_numpy.report.tables import new_table, paragraph, plain, reading_notes, rendered

_STRATEGIES = {
    "recursive": "one step ahead, fed with their own forecasts to go further",
    "direct": "all horizons at once, by a readout of as many values",
    "seq2seq": "an encoder, and a decoder that is trained through its own forecasts",
}


def forecast_report(result: ForecastResult) -> str:
    """Return the report of a run as text; rich lays out the table."""
    return "\n".join(
        [
            paragraph(_head(result)),
            *reading_notes(result.split.series.notes),
            _table(result),
            *map(paragraph, _sentences(result)),
        ]
    )


def nets_name(options: ForecastOptions) -> str:
    """Return what to call the nets: "gru, 16 units, recursive, many-to-many"."""
    layers = f"{options.layers} layers of " if options.layers > 1 else ""
    reads = {"all": "many-to-many", "last": "many-to-one"}[options.reads] if options.strategy != "seq2seq" else ""
    return ", ".join(filter(None, [options.cell, layers + count(options.hidden, "unit"), options.strategy, reads]))


def _head(result: ForecastResult) -> str:
    split = result.split
    series, parts = split.series, (split.train, split.known - split.train, len(split) - split.known)
    about = f", {series.description}" if series.description else ""
    text = (
        f"{series.name}{about}. {count(len(series), 'sample')} of {series.listing}; {parts[0]} to train, "
        f"then {parts[1]} to validate, the last {parts[2]} to test. Every sample of the test is forecast once from "
        f"each of 1 to {result.options.horizon} steps before it."
    )
    if split.units.difference:
        text += " The nets read differences from sample to sample, of which the forecast levels are sums."
    return text


def _table(result: ForecastResult) -> str:
    season, horizon = result.split.season, result.options.horizon
    seasonal = [f"MASE\nm = {season}"] if season > 1 else []
    measures = ["RMSE\n1 step", "MASE\nm = 1", *seasonal]
    pooled = [f"RMSE\n{count(horizon, 'step')}", "MASE\nm = 1", *seasonal]
    table = new_table(("forecaster", *measures, *pooled, "updates", "best at\nupdate", "CPU s"), left=["forecaster"])
    runs = {run.label: run for run in result.runs}

    def numbers(row: Scored) -> list[str]:
        cells = []
        for measured in (row.one, row.all):
            shown = [measured.rmse, measured.mase, *([measured.seasonal_mase] if season > 1 else [])]
            cells += [f"{value:.3f}" if value < 1e3 else plain(value) for value in shown]
        return cells

    for row in result.rows:
        run = runs.get(row.name)
        more = [] if run is None else [run.training.number, run.best_update, f"{run.cpu_seconds:.1f}"]
        table.add_row(row.name, *numbers(row), *map(str, more))
        if row is result.baselines[-1]:
            table.add_section()
    return rendered(table)


def _sentences(result: ForecastResult) -> list[str]:
    options, band = result.options, result.band
    nets = "The nets' median" if len(result.nets) > 1 else "The net"
    middle = result.median
    best = {key: min(result.baselines, key=lambda row: getattr(row, key).rmse) for key in ("one", "all")}

    def against(key: str) -> str:
        other = getattr(best[key], key).rmse
        share = getattr(middle, key).rmse / other - 1 if other else float("inf")
        return f"{abs(share):.1%} {'more' if share > 0 else 'less'} than {best[key].name}"

    found = f"{nets} errs {against('one')} one step ahead, and {against('all')} over all horizons"
    sentences = [
        f"{found}, the best baseline there. RMSE is in standard deviations of all samples before the test. MASE "
        "is the mean absolute error over that of repeating, one step ahead, the value of m samples ago, in all samples "
        "before the test; it is below 1 for what errs less."
    ]
    if len(result.nets) > 1:
        sentences.append(
            f"The band about the mean of the {len(result.nets)} nets is made to hold {band.level:.0%} of the samples: "
            "1.28 times the root of the mean square of its errors before the test, h steps ahead, plus the nets' "
            f"variance. It holds {band.coverage:.1%} of the test; {band.by_horizon[0]:.1%} one step ahead, "
            f"{band.by_horizon[-1]:.1%} {count(options.horizon, 'step')} ahead."
        )
    else:
        sentences.append(
            f"The band is made to hold {band.level:.0%} of the samples: 1.28 times the root of the mean square of the "
            f"net's errors before the test. It holds {band.coverage:.1%} of the test."
        )
    sentences.append(
        f"Nets: {nets_name(options)}, {count(result.parameters, 'parameter')}; {_STRATEGIES[options.strategy]}. "
        f"Windows of {count(result.length, 'step')}, batches of {options.batch}, Adam with a learning rate of "
        f"{options.lr:g}, norm clipped to {options.clip:g}. What is kept is best on validation, one step ahead and "
        "over all horizons alike; a training ends early once that gets no better. AR: an autoregression by least "
        "squares, its order the best on validation, then fitted to all before the test, and fed with its own forecasts."
    )
    return sentences
