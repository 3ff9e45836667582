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

from rnn_numpy.engine import Recurrent
from rnn_numpy.lab.gates import OPEN, SHUT, GateSummary
from rnn_numpy.lab.gradient_flow import GradientFlow
from rnn_numpy.lab.layer_diagnosis import SATURATED, LayerDiagnosis, measured
from rnn_numpy.models import Forecaster
from rnn_numpy.report.gradflow_page import report_lags
from rnn_numpy.report.tables import WIDTH, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From this share on, saturated states, shut gates, dead units are named. Of relu states half is off in a healthy net.
MANY, OFF = 0.3, 0.8


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
            "layer  verdict      per step         half after  1/100 after  lambda_1          memory",
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
    layer  verdict      per step         half after  1/100 after  lambda_1          memory
    l0     vanishing    x 0.615 +- 0.003       1.42            7  -0.482 +- 0.002   2.1 steps
    >>> diagnose(LSTM(3, 16, forget_bias=5.0, rng=0), x).verdict
    'growing'
    """
    title, source, length, count, layers = measured("diagnose", model, x, target, rng)
    return GradientDiagnosis(title, source, length, count, layers, *_findings(layers, length))


def _findings(layers: Sequence[LayerDiagnosis], T: int) -> tuple[list[str], list[str], list[str]]:
    """Return the sentences: what is happening, why, what to try."""
    top = layers[-1]
    flow, verdict = top.flow, top.flow.verdict
    what, why, advice = [_happening(flow, T)], list[str](), list[str]()
    for layer in layers[:-1]:
        if layer.flow.verdict != verdict:
            what.append(f"In {layer.name}, below, it is {layer.flow.verdict}.")
    for layer in layers:
        if layer.chaotic and layer.growth is not None:
            what.append(
                f"{layer.name} is chaotic: small differences of its states grow by a factor of "
                f"{math.exp(layer.growth):.3g} per step. Gradients of long sequences then explode, whatever the loss."
            )
    kept = top.keeping
    if verdict == "diverged":
        why.append("States or weights leave the range of floats; there is no gradient to speak of.")
        advice.append(
            "Start again with smaller weights and standardised inputs; of relu units, with a gain of at most 1."
        )
        return what, why, advice
    if top.saturated is not None and top.saturated >= MANY:
        why.append(
            f"{top.saturated:.0%} of the states are saturated, beyond ±{SATURATED}, where the slope of tanh is below "
            "0.02: a gradient loses most of itself at each of them."
        )
        advice.append("Make inputs, weight_ih, biases or the gain of weight_hh smaller, so that tanh is not saturated.")
    if top.off is not None and top.dead is not None and (top.off >= OFF or top.dead >= MANY):
        why.append(
            f"relu is off in {top.off:.0%} of the states, and {top.dead:.0%} of the units are off throughout: no "
            "gradient passes there."
        )
        advice.append("Raise the biases, or start from the identity matrix (`initialize(..., weight_hh='identity')`).")
    if kept is not None:
        why.append(_kept(kept[0], kept[1], T))
    if verdict == "vanishing":
        if kept is not None and (kept[1].median_time_constant or 0.0) < T / 2:
            bias = math.log(T - 1)
            advice.append(
                f"Open gate {kept[0]} with its bias: b = {bias:.1f} gives a memory of 1 + e^b = {T} steps"
                f"{' (`set_forget_bias`)' if kept[0] == 'f' else ''}. `chrono` spreads memories over the units."
            )
        elif kept is None and not why:
            radius = "" if top.radius is None else f" The spectral radius of weight_hh is {top.radius:.3g}."
            why.append(f"The Jacobians shrink vectors: weight_hh times the slopes of the units is too small.{radius}")
            advice.append(
                "Start with an orthogonal weight_hh (`initialize(..., weight_hh='orthogonal')`), with a gain of 1 or a "
                "little more; or take an LSTM with an open forget gate (forget_bias)."
            )
        advice.append("Flossing (`floss`) pushes growth rates towards 0 before or while training.")
    elif verdict == "exploding":
        if top.radius is not None:
            why.append(
                f"The spectral radius of weight_hh is {top.radius:.3g}, more than the slopes of the units make up for."
            )
        advice.append(
            "Clip the norm of the gradient (`clip_grad_norm`): that keeps its direction. The cause is the gain of "
            "weight_hh: make it smaller, or floss it (`floss`)."
        )
    if flow.vanished and flow.vanished_at is not None:
        why.append(
            f"In {flow.vanished} of {flow.count} sequences the gradient is exactly 0 from some lag on, in the median "
            f"from lag {flow.vanished_at}."
        )
    return what, why, advice


def _happening(flow: GradientFlow, T: int) -> str:
    """Return the first sentence: the verdict, with its pace."""
    if flow.verdict == "diverged":
        return "The net diverges: its gradient is not finite even at the loss."
    if flow.verdict == "steady":
        change = "" if flow.change is None else f", its norm changes by a factor of {math.exp(flow.change):.2g}"
        return f"The gradient is steady: over {T} steps it neither vanishes nor explodes{change}."
    sentence = f"The gradient is {flow.verdict}"
    if flow.slope is not None and flow.half_life is not None:
        verb = "halves" if flow.verdict == "vanishing" else "doubles"
        sentence += (
            f": a step back multiplies it by {math.exp(flow.slope):.3g}, it {verb} every {flow.half_life:.3g} steps"
        )
    if flow.hundredth_at is not None:
        sentence += (
            f". A hundredth is left after {flow.hundredth_at} of {T} steps; what lies further back is hardly learnt"
        )
    return sentence + "."


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
    return "without end" if math.isinf(number) else f"{number:.2g} steps" if number < 100 else f"{number:.0f} steps"


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
    half = "-" if flow.half_life is None or flow.verdict == "exploding" else f"{flow.half_life:.3g}"
    reach = "-" if flow.hundredth_at is None else f"{flow.hundredth_at}"
    memory = "-" if layer.memory is None else _steps(layer.memory)
    return f"{layer.name:6} {flow.verdict:11}  {pace:16} {half:>10}  {reach:>11}  {growth:16}  {memory}"


def _gate_row(layer: str, name: str, gate: GateSummary) -> str:
    row = f"{layer} {name:8} {gate.mean:6.3f}   {gate.shut:9.1%}   {gate.open:9.1%}"
    if gate.time_constants is not None:
        low, high = gate.time_constants.min(), gate.time_constants.max()
        row += f"   {gate.median_time_constant:.3g}, {low:.3g} to {high:.3g}"
    return row


def _wrapped(text: str, bullet: str) -> list[str]:
    indent = " " * len(bullet)
    return textwrap.wrap(
        text, WIDTH, initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False, break_long_words=True
    )
