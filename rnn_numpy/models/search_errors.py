"""Why the answer of a beam search is wrong: the search missed what the model prefers, or the model prefers it.

Where a right answer has a higher score than what was found, the search has erred: a wider beam can help. Where it has
not, the model has: a wider beam cannot help, and often harms, since it finds more of what the model prefers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core.symbols import EOS
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.models.beam_search import beam_search
from rnn_numpy.models.decoding import decode_forced
from rnn_numpy.models.sentences import Hypothesis, TokenModel

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SearchErrors:
    """What a beam search found of N sentences, beside their right answers.

    Attributes
    ----------
    found : list of N Hypothesis
    reference : list of N Hypothesis
        Of each sentence the right answer of the highest score.
    right, search_error, model_error : bool ndarray, (N,)
        One of them is True of each sentence.
    """

    found: list[Hypothesis]
    reference: list[Hypothesis]
    right: Flags

    @property
    def search_error(self) -> Flags:
        """Whether the answer is wrong, and a right one has a higher score."""
        return np.array(
            [
                not right and reference.score > found.score
                for found, reference, right in zip(self.found, self.reference, self.right, strict=True)
            ],
            bool,
        )

    @property
    def model_error(self) -> Flags:
        """Whether the answer is wrong, and no right one has a higher score."""
        return ~self.right & ~self.search_error

    def __repr__(self) -> str:
        right, search, model = (int(flags.sum()) for flags in (self.right, self.search_error, self.model_error))
        return f"SearchErrors({len(self.found)} sentences: {right} right, {search} search errors, {model} model errors)"


def search_errors(
    model: TokenModel,
    *source: Any,
    references: Sequence[Sequence[ArrayLike]],
    max_length: int,
    beam: int = 4,
    length_power: float = 0.0,
    length_penalty: str = "power",
    **options: Any,
) -> SearchErrors:
    """Tell errors of a search from errors of its model.

    Parameters
    ----------
    model, *source, max_length, beam, length_power, length_penalty, **options
        As for `beam_search`, whose best answer is taken; `beam=1` is greedy.
    references : sequence of N sequences of int array_like, each (n,)
        Of each sentence its right answers, at least one, with EOS at their ends. One longer than `max_length` cannot
        be found: where its score is higher, that counts as an error of the search.

    Returns
    -------
    SearchErrors

    Raises
    ------
    ShapeError, OptionError
        There are not as many references as sentences, a sentence has none, or one does not end with EOS. What else is
        refused, `beam_search` and `decode_forced` say.

    Examples
    --------
    A model without a memory, of EOS and two tokens. The empty sentence is the most probable one, which greedy misses:

    >>> import numpy as np
    >>> class Memoryless:
    ...     alpha = None
    ...     def start(self): return [self]
    ...     def take(self, rows): return self
    ...     def next(self, ids, state):
    ...         return np.tile([-np.inf, -np.inf, *np.log([0.2, 0.5, 0.3])], (len(ids), 1)), self
    >>> for beam in (1, 3):
    ...     print(search_errors(Memoryless(), references=[[[2], [3, 2]]], max_length=4, beam=beam))
    SearchErrors(1 sentences: 0 right, 1 search errors, 0 model errors)
    SearchErrors(1 sentences: 1 right, 0 search errors, 0 model errors)
    """
    where = "search_errors"
    for n, answers in enumerate(references):
        if not len(answers):
            raise ShapeError(f"{where}: references[{n}] must have at least one right answer")
        for answer in answers:
            if not np.size(answer) or np.ravel(answer)[-1] != EOS:
                raise OptionError(f"{where}: references[{n}] must be answers that end with EOS = {EOS}; got {answer!r}")
    found = [
        best
        for best, *_ in beam_search(
            model, *source, max_length=max_length, beam=beam, length_power=length_power,
            length_penalty=length_penalty, **options,
        )
    ]  # fmt: skip
    if len(found) != len(references):
        raise ShapeError(f"{where}: references must be as many as sentences, {len(found)}; got {len(references)}")
    rounds = [
        decode_forced(
            model, *source, targets=[answers[i % len(answers)] for answers in references],
            length_power=length_power, length_penalty=length_penalty,
        )
        for i in range(max(map(len, references), default=0))
    ]  # fmt: skip
    best = [max(forced, key=lambda hypothesis: hypothesis.score) for forced in zip(*rounds, strict=True)]
    right = [
        any(np.array_equal(answer, hypothesis.tokens) for answer in answers)
        for hypothesis, answers in zip(found, references, strict=True)
    ]
    return SearchErrors(found, best, np.array(right, bool))
