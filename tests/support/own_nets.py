"""Networks as people write them, forward and backward by hand over a dict of arrays, with mistakes to switch on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Params = dict[str, Any]


class OwnNet(NamedTuple):
    """A loss, its backward pass with a mistake, and where both are run."""

    params: Params
    loss: Callable[[Params], Any]
    grads: Callable[[Params, str], Params]


def sigmoid(v: Any) -> Any:
    return 1 / (1 + np.exp(-v))


# ---------------------------------------------------------------------------------------------- an LSTM

LSTM_MISTAKES = {
    "sigmoid instead of derivative": ("wrong derivative", "the derivative of f"),
    "f not f(1-f)": ("wrong derivative", "the derivative of f (line"),
    "sigmoid's derivative of f": ("wrong derivative", "applied twice"),
    "c off by one": ("off by one step", "c of two steps before"),
    "c wraps": ("off by one step", "c at the first step: the index -1 means the last step"),
    "dh not passed": ("hidden path missing", "dh is not handed"),
    "dc not passed": ("cell path missing", "dc is not handed"),
    "neither passed": ("recurrence dropped", "neither of h and c"),
    "truncated 3": ("recurrence dropped", "from step 3 to step 2"),
    "c path not added": ("cell path missing", "dc is not handed"),
    "dc without f": ("wrong derivative", "dc is not multiplied with f"),
    "tanh of c not squared": ("wrong derivative", "the derivative of tanh(c)"),
    "tanh twice": ("wrong derivative", "1 - tanh(v)^2"),
    "no tanh derivative of c": ("gate derivative missing", "the derivative of tanh(c)"),
    "g derivative with sigmoid": ("wrong derivative", "the derivative of g"),
    "i and g swapped": ("gates swapped", "di takes i and dg takes g"),
    "bias not summed": ("overwritten, not added", "dbf, bi, bg and bo keeps the first step alone"),
    "gate left out of dh": ("gate path missing", "Wo @"),
    "dh not transposed": ("transposed", "transpose"),
    "x and h parts swapped": ("wrong derivative", "dh is cut out of the wrong place"),
    "dh accumulates": ("overwritten, not added", "a step hands on its own dh"),
    "skips t=0": ("first step skipped", "the first step"),
    "dh only last": ("only the last step's loss", "all steps but the last"),
    "clipped by norm": ("clipped", "0.25 / (norm + 1e-06)"),
    "mean over T": ("constant factor", "1/6 (6 steps)"),
    "mean over T and H": ("constant factor", "1/24 (6 steps * 4"),
    "weight decay": ("weight decay", "0.001 times the parameter"),
    "gates permuted": ("gates swapped", "dWi holds the gradient of Wg"),
}


def lstm(seed: int = 3, H: int = 4, D: int = 3, T: int = 6) -> OwnNet:
    """Gates as arrays of their own, acting on [h, x]; half the squared error at every step."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(T, D)), rng.normal(size=(T, H))
    params: Params = {f"W{k}": rng.normal(size=(H, D + H)) * 0.6 for k in "figo"}
    params |= {f"b{k}": rng.normal(size=H) * 0.5 for k in "figo"}

    def forward(p: Params) -> Any:
        h, c, kept, L = np.zeros(H), np.zeros(H), [], 0
        for t in range(T):
            z, cp = np.concatenate([h, x[t]]), c
            f, i = sigmoid(p["Wf"] @ z + p["bf"]), sigmoid(p["Wi"] @ z + p["bi"])
            g, o = np.tanh(p["Wg"] @ z + p["bg"]), sigmoid(p["Wo"] @ z + p["bo"])
            c = f * c + i * g
            h = o * np.tanh(c)
            L = L + 0.5 * np.sum((h - y[t]) ** 2)
            kept.append((z, cp, f, i, g, o, c, h))
        return L, kept

    def grads(p: Params, bug: str = "") -> Params:
        _, kept = forward(p)
        G = {k: np.zeros_like(v) for k, v in p.items()}
        dhn, dcn = np.zeros(H), np.zeros(H)
        for t in reversed(range(T)):
            z, cp, f, i, g, o, c, h = kept[t]
            if bug == "c off by one":
                cp = kept[t - 1][1]
            if bug == "c wraps":
                cp = kept[t - 1][6]
            dh = (h - y[t]) * (t == T - 1 or bug != "dh only last") + dhn
            tc = np.tanh(c)
            do = dh * tc * o * (1 - o)
            slope = {
                "tanh of c not squared": 1 - tc, "tanh twice": 1 - np.tanh(tc) ** 2, "no tanh derivative of c": 1.0,
            }.get(bug, 1 - tc**2)  # fmt: skip
            dc = dh * o * slope + dcn * (bug != "c path not added")
            df = dc * cp * {
                "sigmoid instead of derivative": sigmoid(f), "f not f(1-f)": f,
                "sigmoid's derivative of f": sigmoid(f) * (1 - sigmoid(f)),
            }.get(bug, f * (1 - f))  # fmt: skip
            di, dg = dc * g * i * (1 - i), dc * i * (1 - g**2)
            if bug == "g derivative with sigmoid":
                dg = dc * i * g * (1 - g)
            if bug == "i and g swapped":
                di, dg = dc * i * i * (1 - i), dc * g * (1 - g**2)
            for k, d in zip("figo", (df, di, dg, do), strict=True):
                G[f"W{k}"] += np.outer(d, z)
                G[f"b{k}"] = d.copy() if bug == "bias not summed" else G[f"b{k}"] + d
            dz = p["Wf"].T @ df + p["Wi"].T @ di + p["Wg"].T @ dg
            if bug != "gate left out of dh":
                dz = dz + p["Wo"].T @ do
            dhn, dcn = (
                (dz[-H:] if bug == "x and h parts swapped" else dz[:H]),
                dc * (1.0 if bug == "dc without f" else f),
            )
            if bug == "dh not transposed":
                dhn = sum(p[f"W{k}"][:, :H] @ d for k, d in zip("figo", (df, di, dg, do), strict=True))
            cut = bug == "truncated 3" and t == T - 3
            if bug in ("dh not passed", "neither passed") or cut:
                dhn = np.zeros(H)
            if bug in ("dc not passed", "neither passed") or cut:
                dcn = np.zeros(H)
            if bug == "dh accumulates":
                dhn = dhn + dh
            if bug == "skips t=0" and t == 1:
                break
        norm = np.sqrt(sum(np.sum(v**2) for v in G.values()))
        factor = {"clipped by norm": 0.25 / (norm + 1e-6), "mean over T": 1 / T, "mean over T and H": 1 / (T * H)}
        G = {k: v * factor.get(bug, 1.0) + 1e-3 * p[k] * (bug == "weight decay") for k, v in G.items()}
        if bug == "gates permuted":
            G |= {"Wi": G["Wg"], "Wg": G["Wi"], "bi": G["bg"], "bg": G["bi"]}
        return G

    return OwnNet(params, lambda p: forward(p)[0], grads)


# ---------------------------------------------------------------------------------------------- a character RNN

RNN_MISTAKES = {
    "target off by one": ("off by one step", "the target of the step before"),
    "h index off by one": ("off by one step", "hs[t] of the step before is read throughout"),
    "h prev wraps": ("off by one step", "hs[t] at the first step: the index -1 means the last step"),
    "h prev is h": ("off by one step", "hs[t] of its own step"),
    "dhnext dropped": ("recurrence dropped", "is not handed"),
    "1-tanh(h)^2": ("wrong derivative", "1 - tanh(v)^2"),
    "no tanh derivative": ("gate derivative missing", "the derivative of hs[t]"),
    "h*h missing": ("wrong derivative", "1 - v"),
    "not transposed": ("transposed", "Whh @"),
    "raw dh passed": ("gate derivative missing", "the derivative of hs[t] is left out there"),
    "diag only": ("transposed", "the diagonal of the weight"),
    "dWhh transposed": ("transposed", "the gradient of Whh is the transpose"),
    "clip 1": ("clipped", "limited to ±1"),
}


def rnn(seed: int = 0, V: int = 5, H: int = 4, T: int = 6) -> OwnNet:
    """Columns, one-hot inputs, softmax and cross entropy at every step."""
    rng = np.random.default_rng(seed)
    params: Params = {"Wxh": rng.normal(size=(H, V)) * 0.5, "Whh": rng.normal(size=(H, H)) * 0.5}
    params |= {"Why": rng.normal(size=(V, H)) * 0.5, "bh": rng.normal(size=(H, 1)) * 0.3}
    params |= {"by": rng.normal(size=(V, 1)) * 0.3}
    inputs, targets, h0 = rng.integers(0, V, T), rng.integers(0, V, T), rng.normal(size=(H, 1)) * 0.5

    def onehot(k: Any) -> Any:
        x = np.zeros((V, 1))
        x[k] = 1
        return x

    def forward(p: Params) -> Any:
        hs, qs, L = [h0], [], 0
        for t in range(T):
            hs.append(np.tanh(p["Wxh"] @ onehot(inputs[t]) + p["Whh"] @ hs[-1] + p["bh"]))
            y = p["Why"] @ hs[-1] + p["by"]
            q = np.exp(y) / np.exp(y).sum()
            qs.append(q)
            L = L - np.log(q[targets[t], 0])
        return L, hs, qs

    def grads(p: Params, bug: str = "") -> Params:
        _, hs, qs = forward(p)
        G = {k: np.zeros_like(v) for k, v in p.items()}
        dhn = np.zeros((H, 1))
        for t in reversed(range(T)):
            dy = qs[t].copy()
            dy[targets[t - 1 if bug == "target off by one" else t]] -= 1
            h, hp = hs[t + 1], hs[t]
            if bug == "h index off by one":
                h = hs[t]
            if bug == "h prev is h" or (bug == "h prev wraps" and t == 0):
                hp = h if bug == "h prev is h" else hs[-1]
            G["Why"] += dy @ h.T
            G["by"] += dy
            dh = p["Why"].T @ dy + dhn * (bug != "dhnext dropped")
            da = {
                "1-tanh(h)^2": 1 - np.tanh(h) ** 2, "no tanh derivative": 1.0, "h*h missing": 1 - h,
            }.get(bug, 1 - h * h) * dh  # fmt: skip
            G["bh"] += da
            G["Wxh"] += da @ onehot(inputs[t]).T
            G["Whh"] += da @ hp.T
            dhn = p["Whh"].T @ da
            if bug == "not transposed":
                dhn = p["Whh"] @ da
            if bug == "raw dh passed":
                dhn = p["Whh"].T @ dh
            if bug == "diag only":
                dhn = np.diag(p["Whh"])[:, None] * da
        if bug == "dWhh transposed":
            G["Whh"] = G["Whh"].T.copy()
        return {k: np.clip(v, -1, 1) for k, v in G.items()} if bug == "clip 1" else G

    return OwnNet(params, lambda p: forward(p)[0], grads)
