"""Mistakes in backward passes that people wrote by hand: named, with the line of their code, or honestly unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from own_nets import LSTM_MISTAKES, RNN_MISTAKES, OwnNet, Params, lstm, rnn

from rnn_numpy.checks import GradcheckReport, gradcheck
from rnn_numpy.checks.diagnosis import DIAGNOSES

# Of several mistakes of one kind, one; `python -m tests.own_backward` tries them all.
ALIKE = {
    "sigmoid instead of derivative", "tanh of c not squared", "tanh twice", "no tanh derivative of c", "neither passed",
    "c path not added", "g derivative with sigmoid", "c wraps",
}  # fmt: skip


def checked(net: OwnNet, mistake: str) -> GradcheckReport:
    return gradcheck(net.loss, net.params, grads=lambda p: net.grads(p, mistake), trials=False)


@pytest.mark.parametrize("make", [lstm, rnn])
def test_right_ones_pass(make: type[OwnNet]) -> None:
    report = checked(make(), "")
    assert report.ok and report.diagnosis is None


@pytest.mark.parametrize(
    ("make", "mistake", "kind", "words"),
    [(lstm, mistake, *told) for mistake, told in LSTM_MISTAKES.items() if mistake not in ALIKE]
    + [(rnn, mistake, *told) for mistake, told in RNN_MISTAKES.items()],
)
def test_a_mistake_is_named(make: type[OwnNet], mistake: str, kind: str, words: str) -> None:
    diagnosis = checked(make(), mistake).diagnosis
    assert diagnosis is not None and diagnosis.explained and diagnosis.kind in DIAGNOSES
    assert diagnosis.kind == kind and words in diagnosis.why


# ---------------------------------------------------------------------------------------------- two, or none known


def test_two_mistakes_in_tensors_of_their_own() -> None:
    net = rnn()

    def grads(p: Params) -> Params:
        found = net.grads(p, "no tanh derivative")
        return {**found, "by": 2 * found["by"]}

    diagnosis = gradcheck(net.loss, net.params, grads=grads, trials=False).diagnosis
    assert diagnosis is not None and diagnosis.kind == "gate derivative missing"
    assert diagnosis.why.startswith("two mistakes: the derivative of hs[t]") and "by" in diagnosis.why


def test_a_mistake_and_a_factor() -> None:
    net = rnn()
    diagnosis = gradcheck(
        net.loss,
        net.params,
        grads=lambda p: {k: v / 6 for k, v in net.grads(p, "h prev is h").items()},
        trials=False,
    ).diagnosis
    assert diagnosis is not None and diagnosis.kind == "off by one step"
    assert diagnosis.why.endswith("and the whole gradient has a factor 1/6 (6 steps)")


def test_what_is_no_mistake_of_anybody_is_unknown_and_says_what_is_right() -> None:
    net, noise = rnn(), np.random.default_rng(5)
    factors = {name: 1 + 0.1 * noise.normal(size=array.shape) for name, array in net.params.items()}
    factors |= {"Why": np.ones((5, 4)), "Wxh": np.where(np.arange(5) < 2, factors["Wxh"], 1.0)}
    diagnosis = gradcheck(
        net.loss,
        net.params,
        grads=lambda p: {k: v * factors[k] for k, v in net.grads(p, "").items()},
        trials=False,
    ).diagnosis
    assert diagnosis is not None and diagnosis.kind == "unknown" and not diagnosis.explained
    assert "Why" in diagnosis.why.split("right")[1] and "Whh" in diagnosis.why.split("right")[0]
    assert "none of the known mistakes" in diagnosis.why


def test_a_loss_that_cannot_be_followed_says_so() -> None:
    net = rnn()

    def loss(p: Params) -> Any:
        return net.loss({name: np.asarray(array.tolist()) for name, array in p.items()})

    diagnosis = gradcheck(loss, net.params, grads=lambda p: net.grads(p, "h prev is h"), trials=False).diagnosis
    assert diagnosis is not None and diagnosis.kind == "unknown"
    assert "the loss cannot be followed to try mistakes on it" in diagnosis.why
    clipped = gradcheck(loss, net.params, grads=lambda p: net.grads(p, "clip 1"), trials=False).diagnosis
    assert clipped is not None and clipped.kind == "clipped"  # patterns need no loss


def test_single_precision_inside_is_told() -> None:
    net = rnn()
    rounded = gradcheck(
        net.loss,
        net.params,
        grads=lambda p: {k: v.astype(np.float32).astype(np.float64) for k, v in net.grads(p, "").items()},
        trials=False,
    )
    assert any("is a number of single precision" in note for note in rounded.notes)


IDS, WEIGHT = np.array([1, 2, 1, 0, 3, 1, 2, 2]), np.linspace(0.5, 1.5, 8)[:, None]


def embedded(p: Params) -> Any:
    return np.sum(WEIGHT * np.sin(np.tanh(p["E"][IDS]) @ p["W"].T + p["b"]))


def of_embedded(p: Params, add: Any) -> Params:
    a = np.tanh(p["E"][IDS])
    d = WEIGHT * np.cos(a @ p["W"].T + p["b"])
    found = {"E": np.zeros_like(p["E"]), "W": d.T @ a, "b": d.sum(axis=0)}
    add(found["E"], (d @ p["W"]) * (1 - a * a))
    return found


def adds(dE: Any, da: Any) -> None:
    np.add.at(dE, IDS, da)


def adds_once(dE: Any, da: Any) -> None:
    dE[IDS] += da


def adds_the_first(dE: Any, da: Any) -> None:
    dE[IDS[::-1].copy()] += da[::-1].copy()


@pytest.mark.parametrize(("add", "words"), [(adds, ""), (adds_once, "last time"), (adds_the_first, "first time")])
def test_rows_that_are_read_several_times(add: Any, words: str) -> None:
    rng = np.random.default_rng(0)
    params = {"E": rng.normal(size=(5, 3)), "W": rng.normal(size=(2, 3)), "b": rng.normal(size=2)}
    report = gradcheck(embedded, params, grads=lambda p: of_embedded(p, add), trials=False)
    assert report.ok is not bool(words)
    if report.diagnosis is not None:
        assert report.diagnosis.kind == "overwritten, not added" and f"the {words} alone" in report.diagnosis.why


@pytest.mark.parametrize(("factor", "words"), [(0.1, "less 0.1"), (0.3, "plus 0.1")])
def test_a_penalty_that_comes_back_in_another_amount(factor: float, words: str) -> None:
    params = {"w": np.random.default_rng(0).normal(size=4), "b": np.ones(2)}
    report = gradcheck(
        lambda p: np.sum(np.sin(p["w"])) + np.sum(p["b"] ** 3) + 0.1 * np.sum(p["w"] ** 2),
        params,
        grads=lambda p: {"w": np.cos(p["w"]) + factor * p["w"], "b": 3 * p["b"] ** 2},
        trials=False,
    )
    assert report.diagnosis is not None and report.diagnosis.kind == "weight decay"
    assert f"the right one {words} times the parameter itself" in report.diagnosis.why
