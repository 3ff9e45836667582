r"""A page on a net's gradients, in plain words and numbers: what is happening, why, and what to try.

`rnn_numpy.lab.layer_diagnosis` says what the numbers are and measures them. The rules that choose the sentences are in
`_findings`: thresholds, no more. They say what the numbers suggest; whether a remedy helps is for an experiment to say.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rnn_numpy.core.numbers import count
from rnn_numpy.core.terminal import line_width
from rnn_numpy.engine import Recurrent
from rnn_numpy.lab.gates import OPEN, SHUT, GateSummary
from rnn_numpy.lab.gradient_flow import STEADY_FACTOR, GradientFlow
from rnn_numpy.lab.layer_diagnosis import SATURATED, Ending, LayerDiagnosis, measured
from rnn_numpy.models import Forecaster
from rnn_numpy.report.gradflow_page import report_lags
from rnn_numpy.report.tables import listed, plain, short, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = "     verdict   per step            1/2 1/10 1/100    peak   lag  lambda_1        memory"
# From this share on, saturated states, shut gates, dead units are named. Of relu states half is off in a healthy net.
MANY, OFF = 0.3, 0.8
# So many times the root mean square of all: an input that stands out.
LARGE_INPUT = 5.0


@dataclass(frozen=True, repr=False)
class GradientDiagnosis:
    """What `diagnose` returns: numbers by layer, and what they say. Its repr is the page.

    Attributes
    ----------
    title, source : str
        The net; where the gradient comes from.
    length, count : int
        T and N.
    layers : tuple of LayerDiagnosis
        The lowest first.
    what, why, advice : list of str
        Sentences: what is happening, the reasons that the numbers show, what to try.
    """

    title: str
    source: str
    length: int
    count: int
    layers: tuple[LayerDiagnosis, ...]
    what: list[str]
    why: list[str]
    advice: list[str]

    @property
    def top(self) -> LayerDiagnosis:
        """The top layer, which the loss reads."""
        return self.layers[-1]

    @property
    def verdict(self) -> str:
        """ "vanishing", "steady", "exploding" or "diverged": of the top layer's gradient."""
        return self.top.flow.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and sentences as plain Python objects, for JSON."""
        return {
            "net": self.title,
            "gradient_of": self.source,
            "steps": self.length,
            "sequences": self.count,
            "verdict": self.verdict,
            "what": self.what,
            "why": self.why,
            "advice": self.advice,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def __repr__(self) -> str:
        lines = [
            *_wrapped(f"Gradients of {self.title}, {self.length} steps, {self.count} sequences", ""),
            *_wrapped(f"sent back from the last step: {self.source}", ""),
            "",
            HEADINGS,
            *(_row(layer) for layer in self.layers),
            "",
        ]
        lags = report_lags(self.length)
        lines.append(f"{'norm at lag':12}" + "".join(f"{lag:>10}" for lag in lags))
        lines += [
            f"{layer.name:12}" + "".join(f"{short(float(layer.flow.typical[lag])):>10}" for lag in lags)
            for layer in self.layers
        ]
        gated = [layer for layer in self.layers if layer.gates]
        if gated:
            lines += ["", "gate         mean   below 0.1   above 0.9   time constant, steps (median, range over units)"]
            lines += [_gate_row(layer.name, name, gate) for layer in gated for name, gate in layer.gates.items()]
        for heading, sentences in (("What is happening", self.what), ("Why", self.why), ("What to try", self.advice)):
            if sentences:
                lines += ["", heading]
                lines += [line for sentence in sentences for line in _wrapped(sentence, "- ")]
        return "\n".join(lines)

    def figure(self) -> Figure:
        """Draw the norms by lag, a line for each layer, and beside it the time constants of keeping gates, if any."""
        from rnn_numpy.report.plots import style
        from rnn_numpy.report.plots.gradient_flow import common_limits

        kept = [(layer.name, found) for layer in self.layers if (found := layer.keeping) is not None]
        figure = style.new_figure((2 if kept else 1) * style.WIDTH, style.HEIGHT)
        axes = figure.subplots(1, 2 if kept else 1, squeeze=False)[0]
        style.set_log(axes[0], *common_limits([layer.flow for layer in self.layers]))
        axes[0].set_xlim(0, self.length)
        for number, layer in enumerate(self.layers):
            colour, (line, _) = style.COLOURS[number % len(style.COLOURS)], style.STYLES[number % len(style.STYLES)]
            label = f"{layer.name}: {layer.flow.verdict}"
            norms = style.positive(layer.flow.typical)
            axes[0].plot(norms, color=colour, linestyle=line, linewidth=style.LINE, label=label)
        title = "The gradient on its way back"
        style.frame(axes[0], "lag: steps back in time from the loss", "norm of the state's gradient", title)
        axes[0].legend(frameon=False)
        if kept:
            axes[1].set_yscale("log")
            for number, (name, (gate, summary)) in enumerate(kept):
                constants = np.sort(np.zeros(0) if summary.time_constants is None else summary.time_constants)
                units, shown = np.arange(1, len(constants) + 1), style.positive(constants)
                colour, marker = style.COLOURS[number % len(style.COLOURS)], style.MARKERS[number % len(style.MARKERS)]
                label = f"{name}: gate {gate}"
                axes[1].plot(units, shown, color=colour, linestyle="none", marker=marker, markersize=4, label=label)
            axes[1].axhline(self.length, color="0.5", linewidth=1, linestyle="--", label=f"T = {self.length}")
            title = "How long the units keep what they hold"
            style.frame(axes[1], "unit, the most forgetful first", "time constant, steps", title)
            axes[1].legend(frameon=False)
        return figure


def diagnose(
    model: Recurrent | Forecaster,
    x: ArrayLike,
    target: ArrayLike | None = None,
    *,
    independent: float | None = None,
    rng: np.random.Generator | int | None = 0,
) -> GradientDiagnosis:
    """Say what happens to the gradients of a net on their way back in time, why, and what to try.

    Parameters
    ----------
    model : Recurrent or Forecaster
        RNN, LSTM, GRU, one of your own; one direction. Not modified.
    x : ndarray, (T, N, D), or (N, T, D) where the layer is batch_first
        N sequences of T >= 2 steps, of the kind that the net is to read.
    target : ndarray, (T, N, outputs), optional
        Of a Forecaster: the gradient is that of the squared error at the last step. Without, and for a layer, a random
        vector of length 1 for each sequence: verdict, slopes and half-lives mean the same.
    independent : float, optional
        What the N sequences are worth in independent ones; N where left out. Of windows of n samples that overlap, n/T.
    rng : numpy.random.Generator, int or None
        Draws these vectors, and the first direction of lambda_1.

    Returns
    -------
    GradientDiagnosis
        Print it.

    Notes
    -----
    Cost: a forward and a backward pass, and as much as `lyapunov` with one exponent, for each layer.

    Examples
    --------
    >>> from rnn_numpy import LSTM
    >>> x = np.random.default_rng(0).normal(size=(100, 8, 3))
    >>> print("\\n".join(repr(diagnose(LSTM(3, 16, rng=0), x)).splitlines()[:5]))
    Gradients of LSTM(3, 16, dtype=float64), 100 steps, 8 sequences
    sent back from the last step: a random vector of length 1 for each sequence
    <BLANKLINE>
         verdict   per step            1/2 1/10 1/100    peak   lag  lambda_1        memory
    l0   vanishing x 0.615 +- 0.003      1    3     7   1.0e0     0  -0.482 +- 0.002 2.1 steps
    >>> diagnose(LSTM(3, 16, forget_bias=5.0, rng=0), x).verdict
    'growing'
    """
    title, source, length, sequences, layers = measured("diagnose", model, x, target, independent, rng)
    return GradientDiagnosis(title, source, length, sequences, layers, *_findings(layers, length))


def _findings(layers: Sequence[LayerDiagnosis], T: int) -> tuple[list[str], list[str], list[str]]:
    """Return the sentences: what is happening, why, what to try. Each reason says what was measured, and each advice
    follows from such a reason."""
    top = layers[-1]
    flow, verdict = top.flow, top.flow.verdict
    what, why, advice = [_happening(flow, T)], list[str](), list[str]()
    for layer in layers[:-1]:
        if layer.flow.verdict != verdict:
            what.append(f"In {layer.name}, below, the verdict is: {layer.flow.verdict}.")
    what += [sentence for layer in layers if (sentence := _dynamics(layer))]
    if verdict == "diverged":
        why.append("States or weights leave the range of floats; there is no gradient to speak of.")
        advice.append(
            "Start again with smaller weights and standardised inputs; of relu units, with a gain of at most 1."
        )
        return what, why, advice
    loses = flow.kinds["vanishing"] + flow.kinds["cut off"] > 0 or verdict in ("vanishing", "fading")
    grows = flow.kinds["exploding"] > 0 or verdict in ("exploding", "growing")
    if top.ending is not None:
        _told_of_the_end(top.ending, flow, why, advice)
    if loses and top.saturated is not None and top.saturated >= MANY:
        why.append(
            f"{top.saturated:.0%} of the states are saturated, beyond ±{SATURATED}, where the slope of tanh is below "
            "0.02: a gradient loses most of itself at each of them."
        )
        advice.append("Make inputs, weight_ih, biases or the gain of weight_hh smaller, so that tanh is not saturated.")
    if loses and top.off is not None and top.dead is not None and (top.off >= OFF or top.dead >= MANY):
        why.append(
            f"relu is off in {top.off:.0%} of the states, and {top.dead:.0%} of the units are off throughout: no "
            "gradient passes there."
        )
        advice.append("Raise the biases, or start from the identity matrix (`initialize(..., weight_hh='identity')`).")
    if top.keeping is not None:
        _told_of_the_gates(top.keeping, top.radii, verdict, T, why, advice)
    if top.radius is not None and top.slope is not None and verdict != "steady":
        _told_of_the_weights(top.radius, top.slope, flow, bool(advice), why, advice)
    if grows:
        advice.append(
            f"Clip the norm of the gradient (`clip_grad_norm`), which keeps its direction: it grows {_fold(flow)}."
        )
    if verdict in ("vanishing", "exploding") and top.growth is not None and math.isfinite(top.growth):
        advice.append(f"Flossing (`floss`) pushes lambda_1, {top.growth:.3g} here, towards 0 before or while training.")
    return what, why, advice


def _happening(flow: GradientFlow, T: int) -> str:
    """Return the first sentence: the verdict, and what was measured for it."""
    verdict = flow.verdict
    if verdict == "diverged":
        return "The net diverges: its gradient is not finite even at the loss."
    if verdict == "mixed":
        return f"It differs between sequences: the gradient {_kinds(flow)}."
    if verdict == "cut off":
        grown = f"grows {_fold(flow)}, then" if flow.peak > STEADY_FACTOR * flow.typical[0] > 0 else "flows, then"
        at = flow.vanished_at
        start = (
            "The gradient is exactly 0 at the loss"
            if not at
            else f"The gradient {grown} is cut off: exactly 0 from lag {at} on"
        )
        return f"{start}, in {flow.vanished} of {flow.count} sequences. Nothing that lies further back is learnt."
    change = "" if flow.change is None else f", its norm changes by a factor of {_factor(flow.change)}"
    if verdict == "steady":
        return f"The gradient is steady: over {T} steps it neither vanishes nor explodes{change}."
    if verdict == "uneven":
        low, high = (plain(float(extreme / flow.typical[0])) for extreme in (flow.typical.min(), flow.peak))
        return (
            f"The gradient is uneven: over {T} steps it has between {low} and {high} of its norm at the loss, in no "
            "direction that is sure."
        )
    sentence = f"The gradient is {verdict}"
    if flow.slope is not None and flow.half_life is not None:
        verb = "halves" if flow.slope < 0 else "doubles"
        steps = f"{flow.half_life:.3g}"
        pace = "step" if steps == "1" else f"{steps} steps"
        sentence += f": a step back multiplies it by {math.exp(flow.slope):.3g}, it {verb} every {pace}"
    elif not flow.exponential and flow.early_slope is not None and flow.late_slope is not None:
        early, late = (math.exp(min(slope, 700.0)) for slope in (flow.early_slope, flow.late_slope))
        sentence += (
            f", at no single pace: a step back multiplies it by {early:.3g} over the first tenth of the lags, and by "
            f"{late:.3g} over their second half"
        )
    if verdict in ("fading", "growing"):
        sentence += f"; over {T} steps{change.removeprefix(',')}"
    elif verdict == "exploding" and flow.peak_at:
        sentence += f"; it grows {_fold(flow)}"
    lags = [(words, at) for words, at in (("A half", flow.half_at), ("a tenth", flow.tenth_at)) if at is not None]
    if verdict in ("vanishing", "fading") and lags and not flow.exponential:
        sentence += ". " + " and ".join(f"{words} is left after {count(at, 'step')}" for words, at in lags)
    if flow.hundredth_at is not None and verdict == "vanishing":
        sentence += (
            f". A hundredth is left after {flow.hundredth_at} of {T} steps; what lies further back is hardly learnt"
        )
    return sentence + "."


def _fold(flow: GradientFlow) -> str:
    """Return how much it grows until where: "380000-fold until lag 49"."""
    if math.isinf(flow.peak):
        return f"beyond the range of floats by lag {flow.peak_at}"
    if flow.peak_at:
        return f"{plain(flow.peak / flow.typical[0])}-fold until lag {flow.peak_at}"
    with np.errstate(all="ignore"):
        grown = np.nan_to_num(flow.norms / flow.norms[0], nan=0.0, posinf=math.inf)
    lag, sequence = np.unravel_index(int(grown.argmax()), grown.shape)
    return f"{plain(float(grown.max()))}-fold until lag {lag} in sequence {sequence}"


def _factor(change: float) -> str:
    return f"{math.exp(change):.2g}" if abs(change) < 700 else f"10^{change / math.log(10):.0f}"


def _kinds(flow: GradientFlow) -> str:
    """Return what happens in how many sequences: "explodes in 2 of 4, is cut off in 2 (exactly 0 from lag 1 on)"."""
    words = {
        "exploding": "explodes in {}",
        "vanishing": "vanishes in {}",
        "cut off": "is cut off in {}" + (f" (exactly 0 from lag {flow.vanished_at} on in the median)"),
        "level": "changes by less than a factor of 10 in {}",
        "diverged": "is not finite in {}",
    }
    told = [text.format(flow.kinds[kind]) for kind, text in words.items() if flow.kinds[kind]]
    return f"{listed(told)} of {flow.count} sequences"


def _dynamics(layer: LayerDiagnosis) -> str:
    """Say what becomes of differences of states, where they grow."""
    if not layer.growing or layer.growth is None:
        return ""
    pace = f"small differences of its states grow by a factor of {math.exp(layer.growth):.3g} per step"
    if layer.swells and layer.swelling is not None:
        grown = f"and the states themselves by {math.exp(layer.swelling):.3g}"
        return f"{layer.name} is unstable: {pace}, {grown}, without a bound in sight."
    if layer.swells_elsewhere and layer.elsewhere_swelling is not None:
        grown = f"from random initial states the states themselves grow by {math.exp(layer.elsewhere_swelling):.3g}"
        return f"{layer.name} is unstable: {pace}; {grown}, without a bound in sight."
    if layer.chaotic and layer.elsewhere is not None:
        again = f"from random initial states by {math.exp(layer.elsewhere):.3g}"
        return (
            f"{layer.name} is chaotic: {pace}, {again}, while the states stay bounded. Gradients of long sequences "
            "then explode, whatever the loss."
        )
    if layer.elsewhere is None:
        return f"{layer.name} is unstable: {pace}; from random initial states it leaves the range of floats."
    return (
        f"{layer.name} is unstable where these inputs keep it: {pace}, and from random initial states by "
        f"{math.exp(layer.elsewhere):.3g}."
    )


def _told_of_the_end(ending: Ending, flow: GradientFlow, why: list[str], advice: list[str]) -> None:
    """Say at which step gradients end that are exactly 0, and what was found there."""
    start = f"In {ending.sequences} of {flow.count} sequences the gradient ends at step {ending.step} in the median, "
    start += f"{count(flow.length - ending.step, 'step')} back"
    if ending.flat is None:
        why.append(f"{start}: from there on it is exactly 0.")
        return
    flat = f"in {ending.flat} of them the slopes of all units are exactly 0 there"
    large = f"the largest input there is {ending.input:.3g} times the root mean square of all"
    if ending.flat and ending.input >= LARGE_INPUT:
        why.append(f"{start}: {flat}, and {large}.")
        advice.append(f"Look at the input of step {ending.step}, and clip or standardise such inputs.")
        return
    why.append(f"{start}: {flat}.")
    if ending.flat:
        advice.append("Keep some units on at every step: raise the biases, or make weight_ih smaller.")


def _told_of_the_gates(
    keeping: tuple[str, GateSummary],
    radii: Sequence[float],
    verdict: str,
    T: int,
    why: list[str],
    advice: list[str],
) -> None:
    """Say what the keeping gate keeps; of a gradient that grows, that something else makes it grow."""
    name, gate = keeping
    if verdict in ("exploding", "growing"):
        where = f", whose blocks have spectral radii of {span(radii, plain, ' to ')}" if radii else ""
        why.append(
            f"Gate {name} keeps the share {gate.mean:.3g} at a step, less than 1: what grows is on the paths through "
            f"weight_hh{where}."
        )
        if verdict == "exploding":
            advice.append("Make the gain of weight_hh smaller.")
        return
    why.append(_kept(name, gate, T))
    if verdict == "vanishing" and (gate.median_time_constant or 0.0) < T / 2:
        bias = math.log(T - 1)
        advice.append(
            f"Open gate {name} with its bias: b = {bias:.1f} gives a memory of 1 + e^b = {T} steps"
            f"{' (`set_forget_bias`)' if name == 'f' else ''}. `chrono` spreads memories over the units."
        )


def _told_of_the_weights(
    radius: float, slope: float, flow: GradientFlow, explained: bool, why: list[str], advice: list[str]
) -> None:
    """Say what weights and slopes of a plain RNN make of a gradient, if they explain half of its pace, or twice it."""
    product, verdict = radius * slope, flow.verdict
    ratio = math.log(product) / flow.slope if product > 0 and flow.slope else 0.0
    if not 0.5 <= ratio <= 2:
        if verdict in ("vanishing", "exploding") and not explained:
            why.append(
                f"Not known: weight_hh has a spectral radius of {radius:.3g}, the slopes of the units a root mean "
                f"square of {slope:.3g}, and their product, {product:.3g}, does not explain the pace."
            )
        return
    measured = (
        f"weight_hh has a spectral radius of {radius:.3g}, the slopes of the units a root mean square of {slope:.3g}"
    )
    if verdict in ("vanishing", "fading") and product < 1:
        why.append(f"{measured}: together {product:.3g}, so that each step shrinks a gradient.")
        if verdict == "vanishing" and not explained and radius <= slope:
            advice.append(
                "Start with an orthogonal weight_hh (`initialize(..., weight_hh='orthogonal')`), with a gain of 1 or a "
                f"little more, up from {radius:.3g}; or take an LSTM with an open forget gate (forget_bias)."
            )
        elif verdict == "vanishing" and not explained:
            advice.append(
                f"Make inputs, weight_ih or biases smaller: slopes of {slope:.3g} take more from a gradient than "
                f"weight_hh, {radius:.3g}, does."
            )
    elif verdict in ("exploding", "growing") and product > 1:
        why.append(f"{measured}: together {product:.3g}, so that each step stretches a gradient.")
        if verdict == "exploding":
            advice.append(f"Make the gain of weight_hh smaller: with a radius of {1 / slope:.3g} it would be 1.")


def _kept(name: str, gate: GateSummary, T: int) -> str:
    memory = gate.median_time_constant or 0.0
    if memory >= T:
        length = f"a long memory, {_steps(memory)} in the median: as long as the {T} steps of the sequences, or longer"
    else:
        length = f"a memory of {_steps(memory)} in the median, of the {T} that a sequence has"
    ends = ""
    if gate.shut >= MANY:
        ends = f" It is shut, below {SHUT}, in {gate.shut:.0%} of all values, where it hardly learns."
    elif gate.open >= MANY:
        ends = f" It is open, above {OPEN}, in {gate.open:.0%} of all values."
    return f"Gate {name} keeps the share {gate.mean:.3g} at a step: {length}.{ends}"


def _steps(number: float) -> str:
    if math.isinf(number):
        return "without end"
    return f"{number:.0f} steps" if 100 <= number < 1e5 else f"{number:.2g} steps"


def _row(layer: LayerDiagnosis) -> str:
    flow = layer.flow
    pace = "-"
    if flow.slope is not None:
        pace = f"x {math.exp(min(flow.slope, 700.0)):.3g}"
        if flow.standard_error is not None:
            pace += f" +- {math.exp(min(flow.slope, 700.0)) * flow.standard_error:.1g}"
    growth = "-" if layer.growth is None else f"{layer.growth:.3f}"
    if layer.growth_error is not None:
        growth += f" +- {layer.growth_error:.1g}"
    lags = ("-" if at is None else str(at) for at in (flow.half_at, flow.tenth_at, flow.hundredth_at))
    left = "{:>4} {:>4} {:>5}".format(*lags)
    memory = "-" if layer.memory is None else _steps(layer.memory)
    peak = f"{short(flow.peak):>7} {flow.peak_at:>5}"
    return f"{layer.name:4} {flow.verdict:9} {pace:19}{left} {peak}  {growth:15} {memory}"


def _gate_row(layer: str, name: str, gate: GateSummary) -> str:
    row = f"{layer} {name:8} {gate.mean:6.3f}   {gate.shut:9.1%}   {gate.open:9.1%}"
    if gate.time_constants is not None:
        low, high = gate.time_constants.min(), gate.time_constants.max()
        row += f"   {gate.median_time_constant:.3g}, {low:.3g} to {high:.3g}"
    return row


def _wrapped(text: str, bullet: str) -> list[str]:
    indent = " " * len(bullet)
    return textwrap.wrap(
        text,
        line_width(),
        initial_indent=bullet,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=True,
    )
