"""What `rnn-numpy gradflow` says: tables with one row per network, a small one that sets the cells side by side, and a
few plain sentences. At most 100 columns wide."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rnn_numpy.core.numbers import count
from rnn_numpy.experiments.gradflow import GradflowResult, NetworkResult, TrainingRecord, gain_texts
from rnn_numpy.lab.gradient_flow import STEADY_FACTOR, GradientFlow
from rnn_numpy.report.tables import listed, new_table, paragraph, plain, reading_notes, rendered, short, span

LAGS = (0, 1, 10, 50, 100)
GAIN_DIGITS = 4  # in the tables, unless more are needed to tell gains apart
# The gate that says what share of its content a cell or a unit keeps at a step, and what to call it.
KEEPING = {"lstm": ("f", "the forget gate f of lstm"), "gru": ("z", "the update gate z of gru")}


def gradflow_report(result: GradflowResult) -> str:
    """Return the report of a run as text, in lines of at most 100 columns; rich lays out the tables."""
    series, task = result.task.series, result.task
    baseline = f" (loss of repeating the last value: {plain(result.baseline)})"
    parts = [
        paragraph(
            f"{series.name}: {series.description}{'. ' if series.description else ''}"
            f"{count(len(series), 'sample')} of {series.listing}; "
            f"the last {len(series) - task.split} are held out."
        ),
        *reading_notes(series.notes),
        _flow_table(f"Before training{baseline}", [(*pair, pair[0].loss_before) for pair in result.flows("before")]),
    ]
    if trained := result.flows("after"):
        title = f"After {result.training_length}{baseline}"
        parts.append(_flow_table(title, [(*pair, pair[0].loss_after) for pair in trained]))
        parts.append(_training_table([network for network, _ in trained]))
    if len({network.cell for network in result.networks}) > 1:
        parts.append(_reach_table(result.networks))
    parts += [paragraph(sentence) for sentence in _sentences(result)]
    return "\n".join(parts)


def report_lags(length: int) -> list[int]:
    """Return the lags that the table shows: 0, 1, 10, 50, 100 as far as there are, and the longest.

    >>> report_lags(60)
    [0, 1, 10, 50, 60]
    """
    return [lag for lag in LAGS if lag < length] + [length]


def _slope(flow: GradientFlow) -> str:
    if flow.slope is None:
        return "-"
    error = flow.standard_error
    return f"{flow.slope:.3f}" + ("" if error is None else f" ±{error:.3f}")


def half_life_text(flow: GradientFlow) -> str:
    """Return the half-life for a table: "×2" before it where the gradient doubles, "-" where neither is sure."""
    error = flow.standard_error or 0.0
    if flow.slope is None or flow.half_life is None or abs(flow.slope) <= 2 * error:
        return "-"  # steady, or (of a gradient that ends at zero) no different from a slope of 0
    return ("×2 " if flow.slope > 0 else "") + plain(flow.half_life)


def _flow_table(title: str, rows: Sequence[tuple[NetworkResult, GradientFlow, float | None]]) -> str:
    lags = report_lags(rows[0][1].length)
    gains = gain_texts((network.gain for network, _, _ in rows), GAIN_DIGITS)
    norms_at = (f"norm at\nlag {lags[0]}", *(f"lag\n{lag}" for lag in lags[1:]))
    headings = ("cell", "gain", *norms_at, "decay per\nstep", "half-\nlife", "verdict", "loss")
    table = new_table(headings, left=("cell", "verdict"), fold=("cell", "gain"))
    for network, flow, loss in rows:
        norms = [short(float(flow.typical[lag])) for lag in lags]
        table.add_row(
            network.cell, gains[network.gain], *norms, _slope(flow), half_life_text(flow), flow.verdict, plain(loss)
        )
    return f"{title}\n{rendered(table)}"


def _training_table(networks: Sequence[NetworkResult]) -> str:
    gains = gain_texts((network.gain for network in networks), GAIN_DIGITS)
    done = ("steps", "clipping\nengaged", "largest gradient\n(before clipping)", "loss of batch,\nfirst to last")
    verdicts = "verdict,\nbefore to after"
    headings = ("cell", "gain", *done, "held-out loss,\nbefore to after", verdicts)
    table = new_table(headings, left=("cell", verdicts))
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
    return f"Training\n{rendered(table)}"


def _reach_table(networks: Sequence[NetworkResult]) -> str:
    """Return a table with a row per gain and a column per cell, so that cells stand side by side."""
    table = new_table(["gain"], fold=["gain"])
    gains = gain_texts((network.gain for network in networks), GAIN_DIGITS)
    cells = list(dict.fromkeys(network.cell for network in networks))
    found = {(network.cell, network.gain): network for network in networks}
    for cell in cells:
        table.add_column(cell, justify="right", min_width=len(cell) + 2)
    for gain, text in gains.items():
        table.add_row(text, *(_reach(found.get((cell, gain))) for cell in cells))
    trained = any(network.after is not None for network in networks)
    title = "Reach: steps back until a hundredth of the gradient is left" + (
        ", before to after training" if trained else ""
    )
    return f"{title}\n{rendered(table)}"


def _reach(network: NetworkResult | None) -> str:
    if network is None:
        return "-"
    flows = [network.before] + ([] if network.after is None else [network.after])
    return " to ".join("-" if flow.verdict == "diverged" else _steps(flow) for flow in flows)


def _steps(flow: GradientFlow) -> str:
    return f">{flow.length}" if flow.hundredth_at is None else str(flow.hundredth_at)


def _sentences(result: GradflowResult) -> list[str]:
    before, after = result.flows("before"), result.flows("after")
    trained = [(network, network.training) for network, _ in after if network.training is not None]
    sentences = [_verdicts("Before training", result, before)]
    if trained:
        sentences.append(_verdicts("After training", result, after))
    sentences += _reaches("Before training", result, before) + _reaches("After training", result, after)
    sentences += _gain_matters(result) + _gates(result) + _ended(result) + [_losses(result)]
    if trained:
        sentences.append(_clipping(result, trained))
    sentences += [
        f"* {result.label(network)}: training ended early, {training.stopped}."
        for network, training in trained
        if training.stopped
    ]
    flow = result.networks[0].before
    worth = f"{flow.independent:.1f}"
    error = (
        f"spread over these windows, which are worth {worth} independent ones"
        if flow.independent > 1
        else "not known: the training part holds no two independent windows"
    )
    top = "top layer" if result.options.layers > 1 else "layer"
    cells = [network.cell for network in result.networks]
    norm = "of dL/dh"
    if "lstm" in cells:
        norm = "of dL/d(h, c)" if set(cells) == {"lstm"} else "of dL/dh, and of dL/d(h, c) for lstm,"
    gated = [cell for cell in KEEPING if cell in cells]
    gain = f"; for {listed(gated)}, of each gate's block of it" if gated else ""
    sentences.append(
        f"Norm: {norm} in the {top}, L the squared error at a window's last step; geometric mean of "
        f"{count(flow.count, 'window')}. Gain: spectral radius of W_hh at the start{gain}. "
        f"Decay per step: slope of the norm's natural logarithm, ± standard error ({error}). "
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
        named = _by_cell(result, [(network, flow) for network, flow in flows if _kind(flow) == kind])
        if named:
            clauses.append(phrase.format(listed(named)))
    text = "; ".join(clauses)
    return f"{when}, {'the gradient' + text[2:] if text.startswith('it ') else text}."


def _kind(flow: GradientFlow) -> str:
    """Return the verdict, with "steady" split by its reason."""
    if flow.verdict != "steady":
        return flow.verdict
    return "level" if abs(flow.change or 0.0) < math.log(STEADY_FACTOR) else "trendless"


def _by_cell(
    result: GradflowResult, flows: Sequence[tuple[NetworkResult, GradientFlow]], paces: bool = True
) -> list[str]:
    """Name networks and their paces, those of one cell together: "lstm 0.5 and 1 (halves every 1.46 and 2.2 steps)"."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for network, flow in flows:
        verb, steps = _pace(flow) if paces else ("", "")
        label = result.label(network).removeprefix(f"{network.cell} ")
        groups.setdefault((network.cell, verb), []).append((label, steps))
    names: list[str] = []
    for (cell, verb), members in groups.items():
        pace = f" ({verb} every {listed([steps for _, steps in members])} steps)" if verb else ""
        names.append(f"{cell} {listed([label for label, _ in members])}{pace}")
    return names


def _pace(flow: GradientFlow) -> tuple[str, str]:
    """Return whether the norm halves or doubles, and in how many steps; two empty strings where it has no half-life."""
    half_life = half_life_text(flow)
    if half_life == "-":
        return "", ""
    return ("doubles", half_life[3:]) if half_life.startswith("×2") else ("halves", half_life)


def _reaches(when: str, result: GradflowResult, flows: Sequence[tuple[NetworkResult, GradientFlow]]) -> list[str]:
    """Say whose gradient is felt furthest back, and whose least far; nothing where there is one cell."""
    flows = [(network, flow) for network, flow in flows if flow.verdict != "diverged"]
    if len({network.cell for network, _ in flows}) < 2:
        return []
    beyond = result.options.length + 1
    reaches = [beyond if flow.hundredth_at is None else flow.hundredth_at for _, flow in flows]
    most, least = max(reaches), min(reaches)

    def told(extreme: int) -> str:
        if extreme == beyond:
            return f"more than a hundredth of it is left at lag {beyond - 1}"
        return f"a hundredth of it is left after {count(extreme, 'step')}"

    if most == least:
        return [f"{when}, the gradient reaches equally far back in all networks: {told(most)}."]
    clauses = []
    for extreme, words in ((most, "furthest back"), (least, "least far")):
        found = [pair for pair, steps in zip(flows, reaches, strict=True) if steps == extreme]
        clauses.append(f"{words} in {listed(_by_cell(result, found, paces=False))}, where {told(extreme)}")
    return [f"{when}, the gradient reaches {clauses[0]}, and {clauses[1]}."]


def _gain_matters(result: GradflowResult) -> list[str]:
    """Say how much the gain changes the decay of each cell."""
    lowest, highest = min(result.options.gains), max(result.options.gains)
    slopes = {(network.cell, network.gain): network.before.slope for network in result.networks}
    changes: dict[str, tuple[float, float]] = {}
    for cell in dict.fromkeys(network.cell for network in result.networks):
        first, last = slopes.get((cell, lowest)), slopes.get((cell, highest))
        if first is not None and last is not None:
            changes[cell] = first, last
    if lowest == highest or len(changes) < 2:
        return []
    ordered = sorted(changes, key=lambda cell: abs(changes[cell][1] - changes[cell][0]))
    texts = gain_texts(result.options.gains)
    told = listed([f"{first:.3f} to {last:.3f} in {cell}" for cell, (first, last) in changes.items()])
    return [
        f"Before training, the gain matters most to {ordered[-1]} and least to {ordered[0]}: from gain "
        f"{texts[lowest]} to gain {texts[highest]} the decay per step changes from {told}."
    ]


def _gates(result: GradflowResult) -> list[str]:
    """Say how much the gates keep, which explains what a gated cell does."""
    clauses: list[str] = []
    for cell, (gate, words) in KEEPING.items():
        before, after = (
            _range([flow.gates.get(gate) for network, flow in result.flows(when) if network.cell == cell])
            for when in ("before", "after")
        )
        if before:
            when = " before training" if result.flows("after") else ""
            clauses.append(f"{words} is {before} on average{when}" + (f" and {after} after" if after else ""))
    if not clauses:
        return []
    text = "; ".join(clauses) + ". This share of the gradient is handed back at each step without passing W_hh."
    forget_bias = result.options.forget_bias
    if any(network.cell == "lstm" for network in result.networks):
        text += (
            " The forget bias starts near 0; at 1, f would start near 0.73."
            if forget_bias is None
            else f" The forget bias starts at {forget_bias:g}."
        )
    return [text[0].upper() + text[1:]]


def _range(means: Sequence[float | None]) -> str:
    return span([mean for mean in means if mean is not None and math.isfinite(mean)], "{:.2f}".format, " to ")


def _ended(result: GradflowResult) -> list[str]:
    sentences: list[str] = []
    for when in ("before", "after"):
        flows = [(result.label(network), flow) for network, flow in result.flows(when)]
        zero = [
            f"{label} (in {flow.vanished} of {flow.count} windows, from lag {flow.vanished_at} on in the median)"
            for label, flow in flows
            if flow.vanished
        ]
        large = [f"{label} (in {flow.overflowed} of {flow.count} windows)" for label, flow in flows if flow.overflowed]
        if zero:
            sentences.append(
                f"Exactly 0, {when} training, since all units were off or saturated on the way or the number fell "
                f"below 1e-308: {listed(zero)}. Such a window counts up to that lag."
            )
        if large:
            sentences.append(f"Too large for a float, {when} training, the gradient or the states: {listed(large)}.")
    return sentences


def _losses(result: GradflowResult) -> str:
    trained = bool(result.flows("after"))
    losses = [(n.loss_after if trained else n.loss_before, n) for n in result.networks]
    finite = [(loss, n) for loss, n in losses if loss is not None and math.isfinite(loss)]
    start = f"Repeating the last value gives a loss of {plain(result.baseline)}"
    if not finite:
        return f"{start}; no network has a finite loss."
    best, network = min(finite, key=lambda pair: pair[0])
    beat = sum(loss < result.baseline for loss, _ in finite)
    number = len(result.networks)
    if number == 1:
        which = "the network beats it" if beat else "the network does not beat it"
    elif beat:
        which = f"{beat} of {number} networks {'beats' if beat == 1 else 'beat'} it"
    else:
        which = f"none of the {number} networks beats it"
    untrained = "" if trained else " (none is trained)"
    return f"{start}; {which}{untrained}. The best is {result.label(network)} with {plain(best)}."


def _clipping(result: GradflowResult, trained: Sequence[tuple[NetworkResult, TrainingRecord]]) -> str:
    shares = [(100 * training.clipped / training.steps, result.label(n)) for n, training in trained if training.steps]
    clip = plain(result.options.clip)
    if not shares or max(shares)[0] == 0:
        return f"Clipping to a norm of {clip} never engaged."
    most = max(share for share, _ in shares)
    labels = [label for share, label in shares if share == most]
    if len(labels) == len(shares) > 1:
        return f"Clipping to a norm of {clip} engaged in {most:.0f} % of the training steps of each network."
    its = "its" if len(labels) == 1 else "their"
    steps = f"{most:.0f} % of {its} training steps"
    return f"Clipping to a norm of {clip} engaged most often in {listed(labels)}: in {steps}."
