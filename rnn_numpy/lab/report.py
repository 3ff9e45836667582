"""What `rnn-numpy gradflow` says: a table with one row per network, and a few plain sentences. At most 100 columns
wide."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rnn_numpy.core.extras import optional_import
from rnn_numpy.lab.gradient_flow import STEADY_FACTOR, GradflowResult, GradientFlow, NetworkResult, gain_texts

WIDTH = 100
LAGS = (0, 1, 10, 50, 100)
GAIN_DIGITS = 4  # in the tables, unless more are needed to tell gains apart


def gradflow_report(result: GradflowResult) -> str:
    """Return the report of a run as text.

    Parameters
    ----------
    result : GradflowResult

    Returns
    -------
    str
        Lines of at most 100 columns.

    Raises
    ------
    MissingExtraError
        rich, which lays out the tables, is not installed.
    """
    trained = [network for network in result.networks if network.after is not None]
    series, task = result.task.series, result.task
    baseline = f" (loss of repeating the last value: {plain(result.baseline)})"
    parts = [
        _paragraph(
            f"{series.name}: {series.description}{'. ' if series.description else ''}"
            f"{_count(len(series), 'sample')} of {_count(len(series.channels), 'channel')}; "
            f"the last {len(series) - task.split} are held out."
        ),
        _flow_table(f"Before training{baseline}", [(n, n.before, n.loss_before) for n in result.networks]),
    ]
    if trained:
        title = f"After {result.training_length}{baseline}"
        parts.append(_flow_table(title, [(n, n.after, n.loss_after) for n in trained]))
        parts.append(_training_table(trained))
    parts += [_paragraph(sentence) for sentence in _sentences(result)]
    return "\n".join(parts)


def report_lags(length: int) -> list[int]:
    """Return the lags that the table shows: 0, 1, 10, 50, 100 as far as there are, and the longest.

    Examples
    --------
    >>> report_lags(60)
    [0, 1, 10, 50, 60]
    """
    return [lag for lag in LAGS if lag < length] + [length]


def short(value: float | None) -> str:
    """Write a number of any size in at most seven characters.

    Examples
    --------
    >>> short(0.000123), short(6.03e-33), short(4.4e-191), short(0.0), short(math.inf), short(None)
    ('1.2e-4', '6.0e-33', '4e-191', '0', 'inf', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    if len(exponent) > 3:
        mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def plain(value: float | None) -> str:
    """Write a number with three digits where it has an everyday size, else as `short` does.

    Examples
    --------
    >>> plain(0.25149), plain(0.008834), plain(1381.2), plain(9.999), plain(4.7e66)
    ('0.251', '0.00883', '1381', '10.0', '4.7e66')
    """
    if value is None or not math.isfinite(value) or not 1e-3 <= abs(value) < 1e5:
        return short(value)
    return f"{value:.{max(0, 2 - int(f'{value:.2e}'.split('e')[1]))}f}"  # the exponent after rounding


def _slope(flow: GradientFlow) -> str:
    if flow.slope is None:
        return "-"
    error = flow.standard_error
    return f"{flow.slope:.3f}" + ("" if error is None else f" ±{error:.3f}")


def _half_life(flow: GradientFlow) -> str:
    error = flow.standard_error or 0.0
    if flow.slope is None or flow.half_life is None or abs(flow.slope) <= 2 * error:
        return "-"  # steady, or (of a gradient that ends at zero) no different from a slope of 0
    return ("×2 " if flow.slope > 0 else "") + plain(flow.half_life)


def _flow_table(title: str, rows: Iterable[tuple[NetworkResult, GradientFlow | None, float | None]]) -> str:
    table, headed, rows = _table(), False, list(rows)
    gains = gain_texts((network.gain for network, _, _ in rows), GAIN_DIGITS)
    for network, flow, loss in rows:
        if flow is None:
            continue
        lags = report_lags(flow.length)
        if not headed:
            table.add_column("cell", overflow="fold")
            table.add_column("gain", justify="right", overflow="fold")
            for position, lag in enumerate(lags):
                table.add_column(f"lag\n{lag}" if position else f"norm at\nlag {lag}", justify="right")
            table.add_column("decay per\nstep", justify="right")
            table.add_column("half-\nlife", justify="right")
            table.add_column("verdict")
            table.add_column("loss", justify="right")
            headed = True
        norms = [short(float(flow.typical[lag])) for lag in lags]
        table.add_row(
            network.cell, gains[network.gain], *norms, _slope(flow), _half_life(flow), flow.verdict, plain(loss)
        )
    return f"{title}\n{_rendered(table)}"


def _training_table(networks: Sequence[NetworkResult]) -> str:
    table = _table()
    gains = gain_texts((network.gain for network in networks), GAIN_DIGITS)
    for heading in ("cell", "gain", "steps", "clipping\nengaged", "largest gradient\n(before clipping)"):
        table.add_column(heading, justify="left" if heading == "cell" else "right")
    table.add_column("loss of batch,\nfirst to last", justify="right")
    table.add_column("held-out loss,\nbefore to after", justify="right")
    table.add_column("verdict,\nbefore to after")
    for network in networks:
        training, after = network.training, network.after
        if training is None or after is None:
            continue
        verdict = network.before.verdict
        table.add_row(
            network.cell,
            gains[network.gain],
            str(training.steps) + ("*" if training.stopped else ""),
            f"{100 * training.clipped / training.steps:.0f} %" if training.steps else "-",
            plain(max(training.gradient_norms, default=None)),
            f"{plain(training.losses[0])} to {plain(training.losses[-1])}",
            f"{plain(network.loss_before)} to {plain(network.loss_after)}",
            verdict if verdict == after.verdict else f"{verdict} to {after.verdict}",
        )
    return f"Training\n{_rendered(table)}"


def _table() -> Any:
    tables, box = optional_import("rich.table", "the table"), optional_import("rich.box", "the table")
    return tables.Table(
        header_style="",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )


def _rendered(table: Any) -> str:
    console = optional_import("rich.console", "the table")
    text = io.StringIO()
    # Neither the terminal nor the environment decides how it looks: a pipe gets the same text.
    printer = console.Console(
        file=text, width=WIDTH, color_system=None, force_terminal=False, _environ={}, legacy_windows=False
    )
    printer.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False) + "\n"


# ----------------------------------------------------------------------------------------------------------------------
# Sentences


def _sentences(result: GradflowResult) -> list[str]:
    sentences = [_verdicts("Before training", result, [(n, n.before) for n in result.networks])]
    trained = [n for n in result.networks if n.training is not None and n.after is not None]
    if trained:
        sentences.append(_verdicts("After training", result, [(n, n.after) for n in trained if n.after is not None]))
    sentences += _ended(result)
    sentences.append(_losses(result))
    if trained:
        sentences.append(_clipping(result, trained))
    sentences += [
        f"* {result.label(network)}: training ended early, {network.training.stopped}."
        for network in trained
        if network.training is not None and network.training.stopped
    ]
    flow = result.networks[0].before
    worth = f"{flow.independent:.1f}"
    error = (
        f"spread over these windows, which are worth {worth} independent ones"
        if flow.independent > 1
        else "not known: the training part holds no two independent windows"
    )
    top = "top layer" if result.options.layers > 1 else "layer"
    sentences.append(
        f"Norm: of dL/dh in the {top}, L the squared error at a window's last step; geometric mean of "
        f"{_count(flow.count, 'window')}. Decay per step: slope of its natural logarithm, ± standard error ({error}). "
        "Half-life in steps; ×2 marks a doubling time. Loss: mean squared error on the held-out samples, in units of "
        "each channel's variance in the training part."
    )
    return sentences


def _verdicts(when: str, result: GradflowResult, flows: Sequence[tuple[NetworkResult, GradientFlow]]) -> str:
    phrases = {
        "vanishing": "it vanishes in {}: inputs far back in time hardly change the weights",
        "level": f"it is steady in {{}}: from lag 0 to lag {result.options.length} it changes by less than a factor of "
        f"{STEADY_FACTOR:.0f}",
        "trendless": "it is steady, as far as can be told, in {}: from lag 0 to lag "
        f"{result.options.length} it changes by a factor of {STEADY_FACTOR:.0f} or more, but its slope is within two "
        "standard errors of 0",
        "exploding": "it explodes in {}: a small change far back changes the loss a lot, and updates need clipping",
        "diverged": "nothing can be measured in {}: "
        + ("training" if when.startswith("After") else "the forward pass")
        + " diverged, and the gradient is not finite even at the last step",
    }
    clauses: list[str] = []
    for kind, phrase in phrases.items():
        named = [f"{result.label(network)}{_pace(flow)}" for network, flow in flows if _kind(flow) == kind]
        if named:
            clauses.append(phrase.format(_listed(named)))
    text = "; ".join(clauses)
    return f"{when}, {'the gradient' + text[2:] if text.startswith('it ') else text}."


def _kind(flow: GradientFlow) -> str:
    """The verdict, with "steady" taken apart by its reason."""
    if flow.verdict != "steady":
        return flow.verdict
    return "level" if abs(flow.change or 0.0) < math.log(STEADY_FACTOR) else "trendless"


def _pace(flow: GradientFlow) -> str:
    half_life = _half_life(flow)
    if half_life == "-":
        return ""
    return (
        f" (doubles every {half_life[3:]} steps)"
        if half_life.startswith("×2")
        else f" (halves every {half_life} steps)"
    )


def _ended(result: GradflowResult) -> list[str]:
    sentences: list[str] = []
    for when in ("before", "after"):
        flows: list[tuple[str, GradientFlow]] = []
        for network in result.networks:
            flow = network.before if when == "before" else network.after
            if flow is not None:
                flows.append((result.label(network), flow))
        zero = [
            f"{label} (in {flow.vanished} of {flow.count} windows, from lag {flow.vanished_at} on in the median)"
            for label, flow in flows
            if flow.vanished
        ]
        large = [f"{label} (in {flow.overflowed} of {flow.count} windows)" for label, flow in flows if flow.overflowed]
        if zero:
            sentences.append(
                f"Exactly 0, {when} training, since all units were off or saturated on the way or the number fell "
                f"below 1e-308: {_listed(zero)}. Such a window counts up to that lag."
            )
        if large:
            sentences.append(f"Too large for a float, {when} training, the gradient or the states: {_listed(large)}.")
    return sentences


def _losses(result: GradflowResult) -> str:
    trained = any(network.after is not None for network in result.networks)
    losses = [(n.loss_after if trained else n.loss_before, n) for n in result.networks]
    finite = [(loss, n) for loss, n in losses if loss is not None and math.isfinite(loss)]
    start = f"Repeating the last value gives a loss of {plain(result.baseline)}"
    if not finite:
        return f"{start}; no network has a finite loss."
    best, network = min(finite, key=lambda pair: pair[0])
    beat = sum(loss < result.baseline for loss, _ in finite)
    count = len(result.networks)
    which = "does not beat it" if count == 1 else f"none of the {count} networks beats it"
    if beat:
        which = (
            "the network beats it"
            if count == 1
            else f"{beat} of {count} networks {'beats' if beat == 1 else 'beat'} it"
        )
    elif count == 1:
        which = "the network " + which
    untrained = "" if trained else " (none is trained)"
    return f"{start}; {which}{untrained}. The best is {result.label(network)} with {plain(best)}."


def _clipping(result: GradflowResult, trained: Sequence[NetworkResult]) -> str:
    shares = [
        (100 * n.training.clipped / n.training.steps, result.label(n))
        for n in trained
        if n.training is not None and n.training.steps
    ]
    clip = plain(result.options.clip)
    if not shares or max(shares)[0] == 0:
        return f"Clipping to a norm of {clip} never engaged."
    most = max(share for share, _ in shares)
    labels = [label for share, label in shares if share == most]
    if len(labels) == len(shares) > 1:
        return f"Clipping to a norm of {clip} engaged in {most:.0f} % of the training steps of each network."
    its = "its" if len(labels) == 1 else "their"
    steps = f"{most:.0f} % of {its} training steps"
    return f"Clipping to a norm of {clip} engaged most often in {_listed(labels)}: in {steps}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
