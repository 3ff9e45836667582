"""What `rnn-numpy gradflow` says: tables with one row per network, a small one that sets the cells side by side, and a
few plain sentences. At most 100 columns wide."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rnn_numpy.core.numbers import count
from rnn_numpy.experiments.gradflow import GradflowResult, NetworkResult, gain_texts, middle
from rnn_numpy.lab.gradient_flow import REACH_SHARE, STEADY_FACTOR, GradientFlow
from rnn_numpy.report.tables import listed, new_table, paragraph, plain, reading_notes, rendered, short, span

LAGS = (0, 1, 10, 50, 100)
GAIN_DIGITS = 4  # in the tables, unless more are needed to tell gains apart
# The gate that says what share of its content a cell or a unit keeps at a step, and what to call it.
KEEPING = {"lstm": ("f", "the forget gate f of lstm"), "gru": ("z", "the update gate z of gru")}

Draws = Sequence[NetworkResult]
Flows = Sequence[GradientFlow]


def gradflow_report(result: GradflowResult) -> str:
    """Return the report of a run as text, in lines of at most 100 columns; rich lays out the tables."""
    series, task, kinds = result.task.series, result.task, result.kinds
    parts = [
        paragraph(
            f"{series.name}: {series.description}{'. ' if series.description else ''}"
            f"{count(len(series), 'sample')} of {series.listing}; "
            f"the last {len(series) - task.split} are held out."
        ),
        *reading_notes(series.notes),
        _flow_table("Before training", kinds, "before"),
    ]
    if trained := [draws for draws in kinds if draws[0].after is not None]:
        parts.append(_flow_table(f"After {result.training_length}", trained, "after"))
        parts.append(_training_table(trained, result.baseline))
    if len({network.cell for network in result.networks}) > 1:
        parts.append(_reach_table(kinds))
    parts += [paragraph(sentence) for sentence in _sentences(result)]
    return "\n".join(parts)


def report_lags(length: int) -> list[int]:
    """Return the lags that the table shows: 0, 1, 10, 50, 100 as far as there are, and the longest.

    >>> report_lags(60)
    [0, 1, 10, 50, 60]
    """
    return [lag for lag in LAGS if lag < length] + [length]


def flows_of(draws: Draws, when: str) -> list[GradientFlow]:
    """Return the flows of several networks "before" or "after" training; of those that have one."""
    flows = (network.before if when == "before" else network.after for network in draws)
    return [flow for flow in flows if flow is not None]


def _slope(flows: Flows) -> str:
    """Return the mean slope with its standard deviation over draws; of one draw, with its standard error."""
    slopes = [flow.slope for flow in flows if flow.slope is not None]
    if not slopes:
        return "-"
    error = statistics.stdev(slopes) if len(slopes) > 1 else flows[0].standard_error if len(flows) == 1 else None
    return f"{statistics.fmean(slopes):.3f}" + ("" if error is None else f" ±{error:.3f}")


def _mean_slope(slopes: Iterable[float | None]) -> str:
    found = [slope for slope in slopes if slope is not None]
    return f"{statistics.fmean(found):.3f}" if found else "-"


def _verdict_lines(flows: Flows) -> str:
    """Return the verdict of all draws, or how many of them have which, a line each."""
    verdicts = Counter(flow.verdict for flow in flows).most_common()
    return verdicts[0][0] if len(verdicts) == 1 else "\n".join(f"{number} {verdict}" for verdict, number in verdicts)


def _flow_table(title: str, kinds: Sequence[Draws], when: str) -> str:
    length = kinds[0][0].before.length
    lags = [0, 10, length] if length > 10 else [0, length]
    gains = gain_texts((draws[0].gain for draws in kinds), GAIN_DIGITS)
    norms_at = (f"norm at\nlag {lags[0]}", *(f"lag\n{lag}" for lag in lags[1:]))
    left = ("lag of\n1/2", "lag of\n1/10", "lag of\n1/100")
    paces = ("decay per\nstep", "early", "late")
    table = new_table(
        ("cell", "gain", *norms_at, *left, *paces, "verdict"), left=("cell", "verdict"), fold=("cell", "gain")
    )
    for draws in kinds:
        flows = flows_of(draws, when)
        typical = middle(flows)
        table.add_row(
            draws[0].cell,
            gains[draws[0].gain],
            *(short(float(typical[lag])) for lag in lags),
            *(lags_left(flows, share) for share in (1 / 2, 1 / 10, 1 / 100)),
            _slope(flows),
            _mean_slope(flow.early_slope for flow in flows),
            _mean_slope(flow.late_slope for flow in flows),
            _verdict_lines(flows),
        )
    return f"{title}{_of_draws(kinds[0])}\n{rendered(table)}"


def _of_draws(draws: Draws) -> str:
    return f", {len(draws)} draws of each" if len(draws) > 1 else ""


def lags_left(flows: Flows, share: float, to: str = "–") -> str:
    """Return at which lags a share is left, over draws: "33–>200", "-" where all have diverged."""
    flows = [flow for flow in flows if flow.verdict != "diverged"]
    if not flows:
        return "-"
    beyond = flows[0].length + 1
    lags = [beyond if (lag := flow.left_at(share)) is None else lag for flow in flows]
    return span(lags, lambda lag: f">{beyond - 1}" if lag == beyond else str(lag), to)


def _training_table(kinds: Sequence[Draws], baseline: float) -> str:
    gains = gain_texts((draws[0].gain for draws in kinds), GAIN_DIGITS)
    done = ("steps", "clipping\nengaged", "largest gradient\n(before clipping)", "loss of batch,\nfirst to last")
    losses = ("held-out loss,\nbefore", "after")
    table = new_table(("cell", "gain", *done, *losses), left=("cell",), fold=("cell", "gain"))
    for draws in kinds:
        records = [network.training for network in draws if network.training is not None]
        shares = [100 * record.clipped / record.steps for record in records if record.steps]
        first, last = ([record.losses[at] for record in records] for at in (0, -1))
        table.add_row(
            draws[0].cell,
            gains[draws[0].gain],
            span([record.steps for record in records], str)
            + ("*" if any(record.stopped for record in records) else ""),
            f"{statistics.fmean(shares):.0f} %" if shares else "-",
            plain(max((max(record.gradient_norms, default=0.0) for record in records), default=None) or None),
            f"{plain(_median(first))} to {plain(_median(last))}",
            _loss_span([network.loss_before for network in draws]),
            _loss_span([network.loss_after for network in draws]),
        )
    return f"Training (loss of repeating the last value: {plain(baseline)})\n{rendered(table)}"


def _median(values: Sequence[float]) -> float:
    return statistics.median(math.inf if math.isnan(value) else value for value in values)


def _loss_span(losses: Sequence[float | None]) -> str:
    found = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    return (span(found, plain) or "-") + ("" if len(found) in (0, len(losses)) else " (some not finite)")


def _reach_table(kinds: Sequence[Draws]) -> str:
    """Return a table with a row per gain and a column per cell, so that cells stand side by side."""
    table = new_table(["gain"], fold=["gain"])
    gains = gain_texts((draws[0].gain for draws in kinds), GAIN_DIGITS)
    found = {(draws[0].cell, draws[0].gain): draws for draws in kinds}
    for cell in dict.fromkeys(draws[0].cell for draws in kinds):
        table.add_column(cell, justify="right", min_width=len(cell) + 2)
    trained = any(network.after is not None for draws in kinds for network in draws)
    for gain, text in gains.items():
        cells = [found.get((cell, gain), ()) for cell in dict.fromkeys(draws[0].cell for draws in kinds)]
        table.add_row(text, *(_reach(draws) for draws in cells))
    title = "Reach: steps back until a hundredth of the gradient is left" + (
        ", before to after training" if trained else ""
    )
    return f"{title}\n{rendered(table)}"


def _reach(draws: Draws) -> str:
    both = [flows for when in ("before", "after") if (flows := flows_of(draws, when))]
    return " to ".join(lags_left(flows, REACH_SHARE) for flows in both) or "-"


def _sentences(result: GradflowResult) -> list[str]:
    kinds = result.kinds
    trained = [draws for draws in kinds if draws[0].training is not None]
    sentences = [_verdicts("Before training", result, kinds, "before")]
    if trained:
        sentences.append(_verdicts("After training", result, trained, "after"))
    sentences += _reaches("Before training", result, kinds, "before")
    sentences += _reaches("After training", result, trained, "after")
    sentences += _gain_matters(result) + _gates(result) + _ended(result) + [_losses(result)]
    if trained:
        sentences.append(_clipping(result, trained))
    sentences += [
        f"* {_named(result, network)}: training ended early, {network.training.stopped}."
        for network in result.networks
        if network.training is not None and network.training.stopped
    ]
    return [*sentences, _meanings(result), _paces_meant(result)]


def _named(result: GradflowResult, network: NetworkResult) -> str:
    """Return cell, gain, and of several draws the seed of a network."""
    return result.label(network) + (f" (seed {network.seed})" if result.options.seeds > 1 else "")


def _meanings(result: GradflowResult) -> str:
    flow, options = result.networks[0].before, result.options
    top = "top layer" if options.layers > 1 else "layer"
    cells = [network.cell for network in result.networks]
    norm = "of dL/dh"
    if "lstm" in cells:
        norm = "of dL/d(h, c)" if set(cells) == {"lstm"} else "of dL/dh, and of dL/d(h, c) for lstm,"
    gated = [cell for cell in KEEPING if cell in cells]
    gain = f"; for {listed(gated)}, of each gate's block of it" if gated else ""
    draws = f", and the median of {count(options.seeds, 'draw')}" if options.seeds > 1 else ""
    return (
        f"Norm: {norm} in the {top}, L the squared error at a window's last step; geometric mean of "
        f"{count(flow.count, 'window')}{draws}. Gain: spectral radius of W_hh at the start{gain}. Loss: mean squared "
        "error on the held-out samples, in units of each channel's variance in the training part."
    )


def _paces_meant(result: GradflowResult) -> str:
    """Say what the columns on the pace are, and what stands behind each ±."""
    flow, seeds = result.networks[0].before, result.options.seeds
    error = (
        f"spread over these windows, which are worth {flow.independent:.1f} independent ones"
        if flow.independent > 1
        else "not known: the training part holds no two independent windows"
    )
    errors = [
        other.standard_error
        for network in result.networks
        for other in (network.before, network.after)
        if other is not None and other.standard_error is not None
    ]
    meant = f"± standard error ({error})"
    if seeds > 1:
        meant = f"mean and ± standard deviation over {count(seeds, 'draw')}"
        if errors:
            meant += f"; the standard error within one draw, by the {error}, is {span(errors, '{:.3f}'.format, ' to ')}"
    return (
        f"Decay per step: slope of the norm's natural logarithm, {meant}; early over the first tenth of the lags, late "
        "over their second half. Where they differ much, no half-life describes the decay. Fading "
        f"and growing: by less than a factor of {STEADY_FACTOR:.0f}, but more than two standard errors from 0; uneven: "
        "by more than that somewhere, in no sure direction; mixed: exploding in some windows, vanishing in others."
    )


def _verdicts(when: str, result: GradflowResult, kinds: Sequence[Draws], which: str) -> str:
    far, factor = f"from lag 0 to lag {result.options.length}", f"a factor of {STEADY_FACTOR:.0f}"
    phrases = {
        "vanishing": "it vanishes in {}: inputs far back in time hardly change the weights",
        "cut off": "it is cut off in {}: exactly 0 from some lag on, with more than a hundredth left just before",
        "fading": f"it fades in {{}}, {far} by less than {factor}",
        "steady": f"it is steady in {{}}: {far} it changes by less than {factor}",
        "growing": f"it grows in {{}}, {far} by less than {factor}",
        "exploding": "it explodes in {}: a small change far back changes the loss a lot, and updates need clipping",
        "uneven": f"it is uneven in {{}}: it changes by {factor} or more, but in no direction that is sure",
        "mixed": "it is mixed in {}: it explodes in a quarter of the windows or more, and vanishes in as many",
        "diverged": "nothing can be measured in {}: "
        + ("training" if which == "after" else "the forward pass")
        + " diverged, and the gradient is not finite even at the last step",
    }
    clauses: list[str] = []
    for verdict, phrase in phrases.items():
        named = _by_cell(result, kinds, which, {verdict}.__contains__, True)
        if named:
            clauses.append(phrase.format(listed(named)))
    text = "; ".join(clauses)
    text = f"{when}, {'the gradient' + text[2:] if text.startswith('it ') else text}."
    bent = _by_cell(result, kinds, which, {False}.__contains__, of="exponential")
    return text + (f" No single exponential describes it in {listed(bent)}: see early and late." if bent else "")


def _by_cell(
    result: GradflowResult,
    kinds: Sequence[Draws],
    which: str,
    chosen: Callable[[object], bool],
    paces: bool = False,
    of: str = "verdict",
) -> list[str]:
    """Name networks of which a draw is chosen, and in how many draws, those of one cell together: "lstm 0.5 and 1
    (halves every 1.46 and 2.2 steps)", "rnn-relu 1.5 in 3 of 4 draws"."""
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for draws in kinds:
        flows = flows_of(draws, which)
        found = [flow for flow in flows if chosen(getattr(flow, of))]
        if found:
            verb, steps = _pace(found) if paces else ("", "")
            share = "" if len(found) == len(flows) else f"in {len(found)} of {len(flows)} draws"
            label = result.label(draws[0]).removeprefix(f"{draws[0].cell} ")
            groups.setdefault((draws[0].cell, verb, share), []).append((label, steps))
    names: list[str] = []
    for (cell, verb, share), members in groups.items():
        every = listed([steps for _, steps in members])
        pace = f" ({verb} every {'step' if every == '1' else f'{every} steps'})" if verb else ""
        each = f" {share}{' each' if len(members) > 1 else ''}" if share else ""
        names.append(f"{cell} {listed([label for label, _ in members])}{each}{pace}")
    return names


def _pace(flows: Flows) -> tuple[str, str]:
    """Return whether the norms of all draws halve or double, and in how many steps; two empty strings where one of them
    has no half-life."""
    lives = [flow.half_life for flow in flows]
    if None in lives:
        return "", ""
    grows = (flows[0].slope or 0.0) > 0
    return "doubles" if grows else "halves", span([life for life in lives if life], plain, " to ")


def _reaches(when: str, result: GradflowResult, kinds: Sequence[Draws], which: str) -> list[str]:
    """Say whose gradient is felt furthest back, and whose least far, in the median of the draws; nothing where there is
    one cell."""
    pairs = [(draws, [flow for flow in flows_of(draws, which) if flow.verdict != "diverged"]) for draws in kinds]
    pairs = [(draws, flows) for draws, flows in pairs if flows]
    if len({draws[0].cell for draws, _ in pairs}) < 2:
        return []
    beyond = result.options.length + 1
    middles = [
        statistics.median_low(beyond if flow.hundredth_at is None else flow.hundredth_at for flow in flows)
        for _, flows in pairs
    ]
    median = "in the median of the draws " if result.options.seeds > 1 else ""

    def told(extreme: int) -> str:
        if extreme == beyond:
            return f"{median}more than a hundredth of it is left at lag {beyond - 1}"
        return f"{median}a hundredth of it is left after {count(extreme, 'step')}"

    most, least = max(middles), min(middles)
    if most == least:
        return [f"{when}, the gradient reaches equally far back in all networks: {told(most)}."]
    clauses = []
    for extreme, words in ((most, "furthest back"), (least, "least far")):
        found = [draws for (draws, _), steps in zip(pairs, middles, strict=True) if steps == extreme]
        clauses.append(f"{words} in {listed(_by_cell(result, found, which, lambda _: True))}, where {told(extreme)}")
    return [f"{when}, the gradient reaches {clauses[0]}, and {clauses[1]}."]


def _gain_matters(result: GradflowResult) -> list[str]:
    """Say how much the gain changes the decay of each cell."""
    lowest, highest = min(result.options.gains), max(result.options.gains)
    slopes: dict[tuple[str, float], float] = {}
    for draws in result.kinds:
        found = [network.before.slope for network in draws if network.before.slope is not None]
        if found:
            slopes[draws[0].cell, draws[0].gain] = statistics.fmean(found)
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
        f"{texts[lowest]} to gain {texts[highest]} the decay per step changes from {told}"
        + (", in the mean of the draws." if result.options.seeds > 1 else ".")
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
        zero, large = list[str](), list[str]()
        for draws in result.kinds:
            flows = flows_of(draws, when)
            windows = sum(flow.count for flow in flows)
            label = result.label(draws[0])
            if vanished := sum(flow.vanished for flow in flows):
                ends = [flow.vanished_at for flow in flows if flow.vanished_at is not None]
                at = f"from lag {span(ends, str, ' to ')} on in the median"
                zero.append(f"{label} (in {vanished} of {windows} windows, {at})")
            if overflowed := sum(flow.overflowed for flow in flows):
                large.append(f"{label} (in {overflowed} of {windows} windows)")
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
    return f"{start}; {which}{untrained}. The best is {_named(result, network)} with {plain(best)}."


def _clipping(result: GradflowResult, kinds: Sequence[Draws]) -> str:
    shares: list[tuple[float, str]] = []
    for draws in kinds:
        records = [network.training for network in draws if network.training is not None and network.training.steps]
        if records:
            mean = statistics.fmean(100 * record.clipped / record.steps for record in records)
            shares.append((mean, result.label(draws[0])))
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
