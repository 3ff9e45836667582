"""Errors of the search and errors of the model, of tables whose best sentence is known."""

import numpy as np
import pytest
from tables import TOYS, A, B, TableModel, toy

from rnn_numpy.core.symbols import EOS
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.models import search_errors


def errors(references, **options):
    found = search_errors(TableModel(*TOYS.values()), references=references, **{"max_length": 6, "beam": 2, **options})
    flags = np.array([found.right, found.search_error, found.model_error])
    assert (flags.sum(axis=0) == 1).all() and flags.dtype == bool
    return found, ["".join(np.array(list("RSM"))[column]) for column in flags.T]


def test_toys():
    # A finds b$, B finds $, C finds aaaa$ though $ is more probable.
    b, end, a4 = [B, EOS], [EOS], [A, A, A, A, EOS]
    found, kinds = errors([[b], [end], [a4]])
    assert kinds == ["R", "R", "R"]
    assert repr(found) == "SearchErrors(3 sentences: 3 right, 0 search errors, 0 model errors)"
    assert [h.tokens.tolist() for h in found.found] == [h.tokens.tolist() for h in found.reference] == [b, end, a4]
    assert errors([[end], [b], [end]])[1] == ["M", "M", "S"]
    assert errors([[end], [b], [end]], beam=3)[1] == ["M", "M", "R"]
    # Of several right answers one is enough to be right, and the best counts to be wrong.
    found, kinds = errors([[end, b], [b, a4], [b, end]])
    assert kinds == ["R", "M", "S"]
    assert [h.tokens.tolist() for h in found.reference] == [b, a4, end]
    # The score is that of the search: of power 1, aaaa$ is better than $ in C.
    assert errors([[b], [a4], [end]], length_power=1)[1] == ["R", "R", "M"]
    assert errors([[b], [a4], [end]], length_power=1, beam=1)[1] == ["S", "R", "M"]
    assert [round(h.score, 5) for h in errors([[b], [a4], [end]], length_power=1)[0].reference] == [
        -0.51083, -0.30401, -1.60944,
    ]  # fmt: skip
    # As good is not better: $ and a$, of power 1.
    tied = TableModel(toy((0, 0, 1), empty=(0.25, 0, 0.5)))
    [model_error] = search_errors(tied, references=[[[A, EOS]]], max_length=3, length_power=1).model_error
    assert model_error


def test_what_does_not_fit():
    for references, error, message in [
        ([[[EOS]]] * 2, ShapeError, "search_errors: references must be as many as sentences, 3; got 2"),
        ([[[EOS]], [], [[EOS]]], ShapeError, r"search_errors: references\[1\] must have at least one right answer"),
        ([[[EOS]], [[A, EOS], [A]], [[EOS]]], OptionError, r"search_errors: references\[1\] must be answers that end"),
        (
            [[[EOS]], [[]], [[EOS]]],
            OptionError,
            r"search_errors: references\[1\] must be answers that end with EOS = 2",
        ),
    ]:
        with pytest.raises(error, match=message):
            errors(references)
    nothing = search_errors(TableModel(), references=[], max_length=3)
    assert repr(nothing) == "SearchErrors(0 sentences: 0 right, 0 search errors, 0 model errors)"
