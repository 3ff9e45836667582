"""Losses as people write them, followed: the gradient along the tape is that of differences, however states "
"are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy import zeros as imported_zeros

from rnn_numpy.checks import complex_step, gradcheck, ridders
from rnn_numpy.checks.own.structure import Structure
from rnn_numpy.checks.own.tape import UntapedError, recorded

T, D, H, V = 4, 2, 3, 5
rng = np.random.default_rng(0)
x, y = rng.normal(size=(T, D)), rng.normal(size=(T, H))
ids, targets = rng.integers(0, V, T), rng.integers(0, V, T)
PARAMS = {
    "W": rng.normal(size=(H, D)), "U": rng.normal(size=(H, H)), "b": rng.normal(size=H), "E": rng.normal(size=(V, H)),
    "Q": rng.normal(size=(4 * H, D + H)), "q": rng.normal(size=4 * H),
}  # fmt: skip

Params = dict[str, Any]


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def written_into_zeros(p: Params) -> Any:
    h = np.zeros((T + 1, H))
    for t in range(T):
        h[t + 1] = np.tanh(p["W"] @ x[t] + p["U"] @ h[t] + p["b"])
    return ((h[1:] - y) ** 2).mean()


def kept_in_a_dict(p: Params) -> Any:
    hs, total = {-1: np.copy(np.zeros(H))}, 0
    for t in range(T):
        hs[t] = np.tanh(np.dot(p["W"], x[t]) + np.dot(p["U"], hs[t - 1]) + p["b"])
        total += np.sum((hs[t] - y[t]) ** 2)
    return total


def numbers_of_its_own(p: Params) -> Any:
    h, each = np.zeros(H), []
    for t in range(T):
        h = np.tanh(np.r_[x[t], h] @ p["Q"][:H].T + p["b"])
        each.append(float(((h - y[t]) ** 2).sum()))
    return sum(each) / T


def mean_of_a_list(p: Params) -> Any:
    h, each = np.zeros(H), []
    for t in range(T):
        h = np.tanh(p["W"].dot(x[t]) + p["U"].dot(h) + p["b"])
        each.append(((h - y[t]) ** 2).sum())
    return np.mean(each)


def split_and_in_place(p: Params) -> Any:
    h, c, total = np.zeros(H), np.zeros(H), np.zeros(())
    for t in range(T):
        a = p["Q"].dot(np.concatenate((x[t], h)))
        a += p["q"]
        i, f, o, g = np.split(a, 4)
        c = c * sigmoid(f)
        c += sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        z = p["E"] @ h
        z -= np.max(z)
        total -= np.log(np.exp(z[targets[t]]) / np.sum(np.exp(z)))
    return total


def einsum_and_reshape(p: Params) -> Any:
    h, c, total = np.zeros((2, H)), np.zeros((2, H)), 0
    for t in range(T):
        a = np.einsum("gd,nd->ng", p["Q"], np.hstack([np.stack([x[t], 2 * x[t]]), h])) + p["q"]
        i, f, o, g = a.reshape(2, 4, H).transpose(1, 0, 2)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        total = total + np.linalg.norm(h - y[t]) ** 2 / 2
    return total


def stable_sigmoid_and_ids(p: Params) -> Any:
    def stable(a: Any) -> Any:
        e = np.exp(-np.abs(a))
        return np.where(a >= 0, 1 / (1 + e), e / (1 + e))

    h, total = np.zeros(H), 0.0
    for t in range(T):
        h = stable(p["U"] @ h + p["E"][ids[t]] + p["b"])
        q = np.exp(p["E"] @ h)
        q /= q.sum()
        total -= np.log(np.clip(q[targets[t]], 1e-12, 1))
    return total


class Net:
    def __init__(self, p: Params) -> None:
        self.p, self.h = p, np.zeros(H)

    def step(self, x_t: Any) -> Any:
        self.h = np.maximum(0, self.p["W"] @ x_t + self.p["U"] @ self.h + self.p["b"])
        return self.h


def a_class(p: Params) -> Any:
    net = Net(p)
    return 0.5 * np.square(np.array([net.step(x_t) for x_t in x]) - y).sum()


def all_outputs_at_once(p: Params) -> Any:
    h, hs = np.zeros(H), np.empty((T, H))
    for t, x_t in enumerate(x):
        h = np.tanh(x_t @ p["W"].T + h @ p["U"].T + p["b"])
        hs[t] = h
    z = np.tensordot(hs, p["E"].T, axes=1)
    z = z - z.max(1, keepdims=True)
    return -(z - np.log(np.exp(z).sum(1, keepdims=True)))[np.arange(T), targets].mean()


def columns_and_item(p: Params) -> Any:
    h, total = np.zeros((H, 1)), 0
    for t in range(T):
        h = np.tanh(p["W"] @ x[t][:, None] + p["U"] @ h + p["b"][:, None])
        total += np.sum((h.ravel() - y[t]) ** 2).item()
    return float(total)


def logarithms_of_python(p: Params) -> Any:
    h, total = np.zeros(H), 0.0
    for t in range(T):
        h = np.tanh(p["W"] @ x[t] + p["U"] @ h + p["b"])
        q = np.exp(p["E"] @ h)
        total -= math.log(q[targets[t]] / np.sum(q))
    return total


LOSSES = [
    written_into_zeros, kept_in_a_dict, numbers_of_its_own, mean_of_a_list, split_and_in_place, einsum_and_reshape,
    stable_sigmoid_and_ids, a_class, all_outputs_at_once, columns_and_item, logarithms_of_python,
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_along_the_tape_is_that_of_differences(loss: Callable[[Params], Any]) -> None:
    found, expected = recorded(loss, PARAMS).gradients(), ridders(loss, PARAMS).values
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max()))
        assert np.abs(found[name] - array).max() < 1e-9 * scale, name


def test_it_is_exact() -> None:
    found, expected = recorded(kept_in_a_dict, PARAMS).gradients(), complex_step(kept_in_a_dict, PARAMS)
    assert all(np.abs(found[k] - g).max() <= 1e-14 * max(1, np.abs(g).max()) for k, g in expected.items())


def test_what_functions_are_is_seen_in_any_writing() -> None:
    for loss, kinds in (
        (stable_sigmoid_and_ids, {"sigmoid", "softmax"}),
        (split_and_in_place, {"sigmoid", "tanh"}),
        (a_class, {"relu"}),
    ):
        assert kinds <= {group.kind for group in Structure(recorded(loss, PARAMS)).groups}


def test_what_cannot_be_followed_is_said() -> None:
    def outside(p: Params) -> Any:
        h = imported_zeros((T + 1, H))
        for t in range(T):
            h[t + 1] = np.tanh(p["W"] @ x[t])
        return h.sum()

    def narrow(p: Params) -> Any:
        return np.sum(p["W"].astype(np.float32))

    def nothing(p: Params) -> Any:
        return np.sum(x)

    for loss, words in (
        (outside, "writes it into an array made outside"), (narrow, "it rounds to another dtype"),
        (nothing, "does not"), (lambda p: np.linalg.det(p["U"]), "np.det is not followed"),
    ):  # fmt: skip
        with pytest.raises(UntapedError, match=words):
            recorded(loss, PARAMS)


def test_numpy_is_as_it_was_afterwards() -> None:
    before = {name: getattr(np, name) for name in ("zeros", "empty", "array", "asarray", "sum", "r_")}
    with pytest.raises(UntapedError):
        recorded(lambda p: np.linalg.det(p["U"]), PARAMS)
    assert all(getattr(np, name) is function for name, function in before.items())


def test_what_a_loss_keeps_for_its_backward_pass_is_of_real_arrays_again() -> None:
    kept: dict[str, Any] = {}

    def loss(p: Params) -> Any:
        kept["h"] = np.tanh(p["W"] @ x[0] + p["b"])
        return np.sum(kept["h"] ** 2)

    def grads(p: Params) -> Params:
        loss(p)
        da = 2 * kept["h"] * (1 - kept["h"])
        return {**{k: 0 * v for k, v in p.items()}, "W": np.outer(da, x[0]), "b": da}

    diagnosis = gradcheck(loss, PARAMS, grads=grads, trials=False).diagnosis
    assert isinstance(kept["h"], np.ndarray)
    assert diagnosis is not None and diagnosis.why.startswith("the derivative of kept['h'] (line ")
    assert diagnosis.why.endswith("is taken to be 1 - v; v is its value")
