"""Backward passes written by hand as whole loops, that leave nothing in the trace, each with one wrong line.

BY_HAND is (name, layer, kinds): the line is a piece of Python that changes the loop's local names at a place of it.
"""

from __future__ import annotations

import numpy as np

from rnn_numpy import GRU, LSTM, RNN

T, N, D, H = 7, 3, 3, 4


class Locals(dict):
    """The names of a loop, which the wrong line reads and writes."""

    def at(self, place, wrong):
        if wrong[0] == place:
            exec(wrong[1], {"np": np, "ones": np.ones((1, 1))}, self)


def _lstm(v, wrong):
    v["dc"] = v["dc_next"] + v["dh"] * v["o"] * (1 - v["tc"] ** 2)
    v.at("cell", wrong)
    v["do"] = v["dh"] * v["tc"] * v["o"] * (1 - v["o"])
    v["di"] = v["dc"] * v["g"] * v["i"] * (1 - v["i"])
    v["df"] = v["dc"] * v["cp"] * v["f"] * (1 - v["f"])
    v["dg"] = v["dc"] * v["i"] * (1 - v["g"] ** 2)
    v.at("gates", wrong)
    v["da"] = v["dq"] = np.concatenate([v["di"], v["df"], v["dg"], v["do"]], axis=1)
    v["dhp"], v["dcp"] = v["dq"] @ v["U"], v["dc"] * v["f"]


def _gru(v, wrong):
    v["dn"] = v["dh"] * (1 - v["z"]) * (1 - v["n"] ** 2)
    v["dz"] = v["dh"] * (v["hp"] - v["n"]) * v["z"] * (1 - v["z"])
    v["dr"] = v["dn"] * v["q"] * v["r"] * (1 - v["r"])
    v["dnr"] = v["dn"] * v["r"]
    v.at("gates", wrong)
    v["da"] = np.concatenate([v["dr"], v["dz"], v["dn"]], axis=1)
    v["dq"] = np.concatenate([v["dr"], v["dz"], v["dnr"]], axis=1)
    v["dhp"] = v["dq"] @ v["U"] + v["dh"] * v["z"]


def _rnn(v, wrong):
    v["da"] = v["dh"] * (1 - v["h"] ** 2)
    v.at("gates", wrong)
    v["dq"] = v["da"]
    v["dhp"] = v["dq"] @ v["U"]


STEPS, READ = {LSTM: _lstm, GRU: _gru, RNN: _rnn}, {LSTM: "ifgo", GRU: "rznq", RNN: ""}


def by_hand(kind, place, line):
    """Return a layer whose backward is a loop in NumPy, wrong by one line at a place of it."""
    wrong = (place, line)

    class ByHand(kind):
        def backward(self, trace, doutput, dh_n=None, grads=None, **options):
            result = super().backward(trace, doutput, dh_n, grads, **options)
            trace.layers["l0"].latest.arrays.clear()
            W, U = (np.array(self.params[f"weight_{name}_l0"]) for name in ("ih", "hh"))
            steps = list(trace)
            finals = [0 * steps[0].h] * 2 if dh_n is None else [a[0] for a in (dh_n if kind is LSTM else (dh_n,))]
            v = Locals(W=W, U=U, k=H, steps=steps, T=len(steps), dh_next=finals[0], dc_next=finals[-1])
            sums = dict.fromkeys(("dW", "dU", "db", "dbq"), 0)
            dx = np.zeros_like(result.dx)
            for t in reversed(range(len(steps))):
                s = steps[t]
                v.update({name: getattr(s, name) for name in READ[kind]}, t=t, s=s, x=s.x, h=s.h, hp=s.h_prev)
                if kind is LSTM:
                    v.update(c=s.c, cp=s.c_prev, tc=np.tanh(s.c))
                v["loss"] = 0 if doutput is None else doutput[t]
                v["dh"] = v["loss"] + v["dh_next"]
                v.at("begin", wrong)
                STEPS[kind](v, wrong)
                v["ddW"], v["ddU"] = v["da"].T @ v["x"], v["dq"].T @ v["hp"]
                v["ddb"], v["ddbq"], v["dx"] = v["da"].sum(0), v["dq"].sum(0), v["da"] @ W
                v.at("end", wrong)
                for name in sums:
                    sums[name] = sums[name] + v["d" + name]
                dx[t], v["dh_next"] = v["dx"], v["dhp"]
                v["dc_next"] = v.get("dcp")
            v.update(sums, dh0=v["dh_next"], dc0=v["dc_next"])
            v.at("last", wrong)
            names = {"weight_ih": "dW", "weight_hh": "dU", "bias_ih": "db", "bias_hh": "dbq"}
            for name, mine in names.items():
                result.grads[f"{name}_l0"][...] = v[mine]
            result.dx[...], result.dh_0[...] = dx, v["dh0"]
            if kind is LSTM:
                result.dc_0[...] = v["dc0"]
            return result

    return ByHand


OFF, WRONG, GATE = ("off by one step",), ("wrong derivative",), ("gate path missing", "hidden path missing")

BY_HAND = [
    (line, by_hand(kind, place, line), kinds)
    for kind, place, line, kinds in (
        (LSTM, "cell", "dc = dc_next + dh * (1 - tc**2)", WRONG),
        (LSTM, "cell", "dc = dc_next + dh * o * (1 - c**2)", WRONG),
        (LSTM, "cell", "dc = dh * o * (1 - tc**2)", ("cell path missing", "overwritten, not added")),
        (LSTM, "cell", "dc = dc_next", ("hidden path missing",)),
        (LSTM, "gates", "df = dc * c * f * (1 - f)", OFF),
        (LSTM, "gates", "di = dc * i * i * (1 - i)", WRONG),
        (LSTM, "gates", "dg = dc * i * (1 - g)", WRONG),
        (LSTM, "gates", "do = dh * c * o * (1 - o)", WRONG),
        (LSTM, "gates", "di, df = df, di", ("gates swapped",)),
        (LSTM, "end", "dcp = dc * i", WRONG),
        (LSTM, "end", "dcp = dc_next * f", ("cell path missing", "hidden path missing")),
        (LSTM, "end", "dhp = dg @ U[2 * k : 3 * k]", GATE),
        (LSTM, "end", "dhp = 0.9 * dhp", ("constant factor",)),
        (LSTM, "end", "dhp, dcp = 0.9 * dhp, 0.9 * dcp", ("constant factor",)),
        (LSTM, "end", "dhp = np.clip(dhp, -.05, .05)", ("clipped",)),
        (LSTM, "end", "dhp = di @ U[:k].T + df @ U[k:2*k].T + dg @ U[2*k:3*k].T + do @ U[3*k:].T", ("transposed",)),
        (LSTM, "end", "ddU = da.T @ h", OFF),
        (LSTM, "end", "ddb = ddbq = da.mean(0)", ("missing 1/N",)),
        (LSTM, "end", "dx = da[:, :3*k] @ W[:3*k]", GATE),
        (LSTM, "end", "ddU = ddU * .95 ** t", ("constant factor",)),
        (LSTM, "last", "dc0 = dc", OFF),
        (LSTM, "last", "dh0 = dh0 + loss", ("accumulated twice",)),
        (LSTM, "last", "dU = dU.astype(np.float32)", ("lower precision",)),
        (RNN, "gates", "da = dh * (1 - hp**2)", (*OFF, *WRONG)),
        (RNN, "gates", "da = dh", ("gate derivative missing",)),
        (RNN, "end", "dhp = dhp * (1 - hp**2)", WRONG),
        (RNN, "end", "dhp = dh @ U", ("gate derivative missing",)),
        (RNN, "end", "dhp = da @ U.T", ("transposed",)),
        (RNN, "end", "dhp = dhp / max(1, np.linalg.norm(dhp))", ("clipped",)),
        (RNN, "end", "ddW = da.T @ steps[min(t + 1, T - 1)].x", OFF),
        (RNN, "end", "ddU = da.T @ steps[t - 2].h", OFF),
        (RNN, "end", "ddU = ddU * (t > 1)", ("first step skipped", "wrong sum")),
        (RNN, "begin", "dh = dh if t % 2 else dh_next", ("only the last step's loss",)),
        (RNN, "begin", "dh = dh + loss * (t == 5)", ("accumulated twice",)),
        (RNN, "begin", "dh = dh_next + loss / (np.arange(len(h)) + 1)[:, None]", ("constant factor",)),
        (GRU, "gates", "dn = dh * z * (1 - n**2); dnr = dn * r; dr = dn * q * r * (1 - r)", WRONG),
        (GRU, "gates", "dz = -dz", ("sign",)),
        (GRU, "gates", "dz = -dh * n * z * (1 - z)", WRONG),
        (GRU, "gates", "dr = dn * hp * r * (1 - r)", WRONG),
        (GRU, "gates", "dr = dn * q", ("gate derivative missing",)),
        (GRU, "gates", "dnr = dn", ("reset on the wrong side",)),
        (GRU, "end", "dhp = dq @ U", ("hidden path missing", "overwritten, not added")),
        (GRU, "end", "dhp = dq @ U + dh * (1 - z)", WRONG),
        (GRU, "end", "dhp = da @ U + dh * z", ("reset on the wrong side",)),
        (GRU, "end", "dhp = dhp + 0.1 * dh", ("constant factor",)),
        (GRU, "last", "dbq = db", ("reset on the wrong side",)),
    )
]
