"""`rnn-numpy train g2p`, `roman`, `dates`: sequence to sequence. A word is read, and its answer written.

The net is an `EncoderDecoder`: a bidirectional encoder, a bridge, and a decoder that attends, in float32, trained by
Adam with a rate that falls linearly, on batches of sources of like length. The parameters kept are those with the
lowest cross-entropy on validation pairs; test sources are answered once, at the end, greedily and by a beam.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DataError, OptionError, RNNNumpyError
from rnn_numpy.experiments.experiment import Experiment, Planned, Run
from rnn_numpy.lab.attention import (
    AttentionFocus,
    AttentionSplit,
    attention_focus,
    attention_split,
    rank_correlation,
    token_gradients,
)
from rnn_numpy.layers.attention_decoder import ORDERS, AttentionDecoder
from rnn_numpy.layers.attention_layer import SCORES
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.models.beam_search import beam_search
from rnn_numpy.models.decoding import decode_greedy
from rnn_numpy.models.encoder_decoder import EncoderDecoder
from rnn_numpy.models.sentences import Hypothesis
from rnn_numpy.tasks.dates import LOCALES, DateFormats
from rnn_numpy.tasks.g2p import CMUDict
from rnn_numpy.tasks.pairs import PairBatch, PairScore, PairTask, SymbolVocabulary, padded
from rnn_numpy.tasks.roman import LARGEST, RomanNumerals
from rnn_numpy.training import Adam
from rnn_numpy.training.loop import train
from rnn_numpy.training.schedules import Linear

Array = NDArray[Any]

CELLS = ("rnn-tanh", "lstm", "gru")
TOGETHER = 32  # sentences that share a call where many are answered
VALIDATED, SHOWN, MEASURED = 500, 6, 64  # pairs, words in the figure, words whose gradients are measured


@dataclass(frozen=True)
class PairOptions:
    """What is trained, and how.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn-tanh"}
        Of encoder and decoder.
    hidden, embedding : int
        H of the decoder, twice that of each direction of the encoder, and E of both embeddings.
    score : {"general", "dot", "scaled_dot", "additive"}
    order : {"after", "before"}
        Whether attention stands behind the cell (Luong) or in front of it (Bahdanau).
    feeding : bool
        Input feeding.
    updates, batch : int
    lr, clip : float
        Of Adam, at the start: it falls linearly to a fiftieth. The norm of all gradients together is clipped to `clip`.
    smoothing : float
        Label smoothing.
    beam : int
        Hypotheses of the beam search beside the greedy answers.
    test : int
        Test sources that are answered, spread over all of them; 0 for all.
    seed : int
    """

    cell: str = "lstm"
    hidden: int = 128
    embedding: int = 32
    score: str = "general"
    order: str = "after"
    feeding: bool = False
    updates: int = 6000
    batch: int = 128
    lr: float = 4e-3
    clip: float = 5.0
    smoothing: float = 0.0
    beam: int = 4
    test: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        where = type(self).__name__
        arguments.one_of(where, "cell", self.cell, CELLS)
        arguments.one_of(where, "score", self.score, SCORES)
        arguments.one_of(where, "order", self.order, ORDERS)
        arguments.flag(where, "feeding", self.feeding)
        for name in ("hidden", "embedding", "updates", "batch", "beam"):
            arguments.positive_int(where, name, getattr(self, name))
        for name in ("test", "seed"):
            arguments.step_count(where, name, getattr(self, name))
        for name in ("lr", "clip"):
            arguments.positive_number(where, name, getattr(self, name))
        if not 0 <= arguments.real_number(where, "smoothing", self.smoothing) < 1:
            raise OptionError(f"{where}: smoothing must be in [0, 1); got {self.smoothing}")
        if self.hidden % 2:
            raise OptionError(
                f"{where}: hidden must be even: each of the encoder's two directions has half of it; got {self.hidden}"
            )


@dataclass(frozen=True)
class RomanOptions(PairOptions):
    """What is trained, and how; smaller than `PairOptions`."""

    hidden: int = 64
    embedding: int = 16
    updates: int = 4000
    batch: int = 64
    lr: float = 1e-2
    test: int = 0


@dataclass(frozen=True)
class DateOptions(PairOptions):
    """What is trained, and how; smaller than `PairOptions`."""

    hidden: int = 96
    updates: int = 1500
    batch: int = 64
    lr: float = 5e-3
    test: int = 0


@dataclass(frozen=True)
class Answer:
    """What the net says to one source: its symbols, the best hypotheses, and the attention of the first."""

    source: tuple[str, ...]
    best: Sequence[tuple[tuple[str, ...], Hypothesis]]
    right: Sequence[tuple[str, ...]] = ()

    @property
    def said(self) -> tuple[str, ...]:
        """The symbols of the best hypothesis."""
        return self.best[0][0]

    @property
    def alpha(self) -> Array:
        """Its weights, (n, S), EOS's row at the end where there is one."""
        return np.asarray(self.best[0][1].alpha)


@dataclass(frozen=True)
class PairResult:
    """How well sources are answered that were not trained on.

    Attributes
    ----------
    options : PairOptions
    task : str
    sources : int
        Test sources answered.
    scores : mapping of str to PairScore
        "rules", "greedy", and "beam of k".
    run : Run
    answers : sequence of Answer
        Some, for the figure.
    parameters : int
    goal : float
        The task's, of the share of wrong answers.
    """

    options: PairOptions
    task: str
    sources: int
    scores: Mapping[str, PairScore]
    run: Run
    answers: Sequence[Answer]
    parameters: int
    goal: float

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python objects that strict JSON can hold."""
        return {
            "what": {
                "scores": "on test sources: symbols, the summed edit distance to the nearest right answer over the "
                "summed length of these (PER); wrong, the share of sources with no right answer (WER)",
                "answers": "source, right answers, greedy answer",
            },
            "test_sources": self.sources,
            "parameters": self.parameters,
            "goal": self.goal,
            "scores": {name: {"symbols": score.symbols, "wrong": score.wrong} for name, score in self.scores.items()},
            "answers": [
                [" ".join(one.source), [" ".join(right) for right in one.right], " ".join(one.said)]
                for one in self.answers
            ],
        }


@dataclass(frozen=True)
class ModelFlow:
    """How the gradient of a trained net gets back to its source: what `rnn-numpy gradflow --model` measures.

    Attributes
    ----------
    name : str
    count : int
        Words measured.
    split : AttentionSplit
    focus : AttentionFocus
    correlation : ndarray
        Of each word, Spearman's between the weights and the gradients, token by position.
    word : tuple
        Of the longest of them: gradients and weights, (T, S), and the symbols read and written.
    """

    name: str
    count: int
    split: AttentionSplit
    focus: AttentionFocus
    correlation: Array
    word: tuple[Array, Array, tuple[str, ...], tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python objects that strict JSON can hold."""
        return {
            "what": {
                "by_lag": "mean norm of dL/d(embedding) by the distance from the source's end, by way",
                "residual": "largest difference of the sum of the ways and the whole, over the largest entry",
                "entropy": "of the weights, nats, mean; saturated: share of steps with less than 1e-6 beside one",
                "rank_correlation": "of each word, between weights and gradients, token by position",
            },
            "words": self.count,
            "by_lag": {way: _numbers(norms) for way, norms in self.by_lag.items()},
            "by_parameter": self.split.by_parameter(),
            "residual": self.split.residual,
            "entropy": float(np.nanmean(self.focus.entropy)),
            "saturated": self.focus.saturated,
            "rank_correlation": _numbers(self.correlation),
        }

    @cached_property
    def by_lag(self) -> dict[str, Array]:
        """The mean norm by lag, of the lags that some word has, by way."""
        found = {way: self.split.by_lag(way) for way in (*self.split.ways, "whole")}
        there = np.isfinite(found["whole"]).any(axis=1)
        return {way: np.nanmean(norms[there], axis=1) for way, norms in found.items()}


def _numbers(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


class PairExperiment(Experiment):
    """A net that answers sequences by sequences; a subclass names the task."""

    Task: ClassVar[type[PairTask]]
    between: ClassVar[str] = ""  # what stands between the symbols of an answer
    longest: ClassVar[int] = 40
    options: PairOptions
    every = 250

    @cached_property
    def task(self) -> PairTask:
        """The task, which reads its data when it is first asked for it."""
        return self.Task()

    def from_data(self) -> Mapping[str, Any]:
        """Return both vocabularies, and a digest of all answers."""
        told = json.dumps(sorted(self.task.answers.items()), ensure_ascii=False)
        return {
            "source": list(self.task.source_vocabulary.symbols),
            "target": list(self.task.target_vocabulary.symbols),
            "sha256": hashlib.sha256(told.encode()).hexdigest(),
        }

    @cached_property
    def vocabularies(self) -> tuple[SymbolVocabulary, SymbolVocabulary]:
        """Those of sources and of answers."""
        return SymbolVocabulary(self.kept["source"]), SymbolVocabulary(self.kept["target"])

    def make_models(self) -> Mapping[str, EncoderDecoder]:
        """Return the net."""
        options, (source, target) = self.options, self.vocabularies
        rng = np.random.default_rng([options.seed, 0])
        half = options.hidden // 2
        encoder = KINDS[options.cell](options.embedding, half, bidirectional=True, dtype=np.float32, rng=rng)
        decoder = AttentionDecoder(
            options.embedding,
            options.hidden,
            2 * half,
            cell=options.cell,
            score=options.score,
            order=options.order,
            input_feeding=options.feeding,
            dtype=np.float32,
            rng=rng,
        )
        losses = {"label_smoothing": options.smoothing} if options.smoothing else None
        model = EncoderDecoder(
            encoder, decoder, len(source), len(target), bridge="concat", loss_options=losses, rng=rng
        )
        return {"net": model}

    @property
    def model(self) -> EncoderDecoder:
        """The net."""
        found: EncoderDecoder = self.models["net"]
        return found

    def trainings(self) -> Sequence[Planned]:
        """Return the one training."""
        options = self.options
        batches = self.task.pairs("train").batches(options.batch, rng=np.random.default_rng([options.seed, 1]))
        schedule = Linear(options.lr, total=options.updates, end_factor=0.02)
        training = train(self.model, batches, Adam(self.model.params, options.lr), schedule=schedule, clip=options.clip)
        return [Planned("net", training, options.updates)]

    @cached_property
    def _validation(self) -> PairBatch:
        pairs = self.task.pairs("valid")
        return pairs[np.linspace(0, len(pairs) - 1, min(VALIDATED, len(pairs))).astype(int)]

    def validate(self, index: int) -> float:
        """Return the cross-entropy on validation pairs."""
        return float(self.model.loss_of(*self._validation))

    def result(self, runs: Sequence[Run]) -> PairResult:
        """Answer test sources."""
        task, options, target = self.task, self.options, self.vocabularies[1]
        every = list(task.sources["test"])
        count = min(options.test or len(every), len(every))
        sources = [every[i] for i in np.linspace(0, len(every) - 1, count).astype(int)]
        ids, lengths = task.encode(sources)
        greedy = decode_greedy(self.model, ids, lengths, max_length=self.longest, together=TOGETHER)
        scores = {
            "rules": task.score(sources, task.baseline_answers(sources)),
            "greedy": task.score(sources, [target.decode(one.tokens) for one in greedy]),
        }
        if options.beam > 1:
            searched = beam_search(
                self.model, ids, lengths, max_length=self.longest, beam=options.beam, together=TOGETHER
            )
            scores[f"beam of {options.beam}"] = task.score(sources, [target.decode(one[0].tokens) for one in searched])
        shown = [sources[i] for i in np.linspace(0, count - 1, min(SHOWN, count)).astype(int)]
        answers = [self.answer(source, right=task.answers[source]) for source in shown]
        return PairResult(options, self.name, count, scores, runs[0], answers, self.model.params.flat.size, task.goal)

    def answer(self, source: str, *, n_best: int = 1, right: Sequence[tuple[str, ...]] = ()) -> Answer:
        """Return what the net says to one source."""
        reads, writes = self.vocabularies
        try:
            ids, lengths = padded([reads.encode(source)])
        except RNNNumpyError as error:
            raise DataError(f"{source!r}: {str(error).partition(': ')[2] or error}") from None
        beam = max(self.options.beam, n_best)
        (best,) = beam_search(self.model, ids, lengths, max_length=self.longest, beam=beam, n_best=n_best)
        symbols = tuple(reads.decode(ids[:, 0]))
        return Answer(symbols, [(tuple(writes.decode(one.tokens)), one) for one in best], right)

    def said(self, symbols: Sequence[str]) -> str:
        """Return an answer as text."""
        return self.between.join(symbols)

    def predict(self, inputs: Sequence[str]) -> str:
        """Answer each input: the best answers with their probabilities, and where the net looked."""
        if not inputs:
            raise DataError(f"say what to answer: {self.inputs}")
        return "\n".join(self._told(given) for given in inputs)

    def is_asked_for(self, given: str) -> bool:
        """Tell whether an input is of the kind that the net has learnt; other symbols are refused in any case."""
        return True

    def _told(self, given: str) -> str:
        if not given:
            raise DataError(f"an input is empty; say what to answer: {self.inputs}")
        if not self.is_asked_for(given):
            raise DataError(f"{given}: this net answers {self.inputs}")
        answer = self.answer(given, n_best=3)
        lines = [f"{given}: {self.said(answer.said)}"]
        for symbols, one in answer.best:
            unfinished = "" if one.finished else f"  (no end within {self.longest} symbols)"
            lines.append(f"  {100 * np.exp(one.total):5.1f} %  {self.said(symbols)}{unfinished}")
        return "\n".join([*lines, *_drawn(answer)]) + "\n"

    def flow(self) -> ModelFlow:
        """Measure how the gradient gets back to the sources of validation words."""
        pairs = self.task.pairs("valid")
        batch = pairs[np.linspace(0, len(pairs) - 1, min(MEASURED, len(pairs))).astype(int)]
        model = self.model.astype(np.float64)
        trace = model.loss_and_grads(*batch)[2]
        found, (reads, writes) = [], self.vocabularies
        words = []
        for n in range(min(16, batch.source.shape[1])):
            read, written = batch.source[: batch.source_lengths[n], n], batch.target[: batch.target_lengths[n], n]
            gradients, alpha = token_gradients(model, read, written)
            found.append(rank_correlation(gradients, alpha))
            words.append((gradients, alpha, tuple(reads.decode(read)), (*writes.decode(written), "end")))
        longest = max(words, key=lambda word: len(word[2]))
        split = attention_split(model, trace)
        return ModelFlow(self.name, batch.source.shape[1], split, attention_focus(trace), np.array(found), longest)


def _drawn(answer: Answer) -> list[str]:
    """Draw the weights of the best answer: a row for each symbol written, a column for each that was read."""
    marks = " .:-=+*#%@"
    width = max(map(len, answer.source))
    said = [*answer.said, "end"][: len(answer.alpha)]
    left = max(map(len, said), default=0)
    lines = [f"  {'':{left}}  " + " ".join(f"{symbol:>{width}}" for symbol in answer.source)]
    for symbol, row in zip(said, answer.alpha, strict=True):
        cells = (marks[min(int(10 * share), 9)] for share in row)
        lines.append(f"  {symbol:>{left}}  " + " ".join(f"{cell:>{width}}" for cell in cells))
    return lines


class G2PExperiment(PairExperiment):
    """English words and how they are pronounced; see the module."""

    name: ClassVar[str] = "g2p"
    Options: ClassVar[type[Any]] = PairOptions
    Task: ClassVar[type[PairTask]] = CMUDict
    inputs: ClassVar[str] = "words, of the letters a to z"
    between: ClassVar[str] = " "


class RomanExperiment(PairExperiment):
    """Numbers and their Roman numerals; see the module."""

    name: ClassVar[str] = "roman"
    Options: ClassVar[type[Any]] = RomanOptions
    Task: ClassVar[type[PairTask]] = RomanNumerals
    inputs: ClassVar[str] = f"numbers from 1 to {LARGEST}"
    longest: ClassVar[int] = 20

    def is_asked_for(self, given: str) -> bool:
        """Tell whether a text is a number from 1 to 3999, with no zeros before it."""
        return re.fullmatch("[1-9][0-9]*", given) is not None and int(given[:5]) <= LARGEST


class DateExperiment(PairExperiment):
    """Dates as people write them, and as ISO does; see the module."""

    name: ClassVar[str] = "dates"
    Options: ClassVar[type[Any]] = DateOptions
    Task: ClassVar[type[PairTask]] = DateFormats
    inputs: ClassVar[str] = f"dates, each after its locale, as 'de 3. Mai 1999', of {', '.join(LOCALES)}"
    longest: ClassVar[int] = 14

    def is_asked_for(self, given: str) -> bool:
        """Tell whether a text begins with a locale, and has digits."""
        locale, _, date = given.partition(" ")
        return locale in LOCALES and any(map(str.isdecimal, date))
