"""Write the golden files of this folder: what torch computes, for tests that run without torch.

    python tests/layers/golden/make_golden.py

Needs torch; run by hand, when a case is added. Each file holds the options of a torch.nn.RNN, LSTM or GRU (the name
begins with which), its parameters and inputs, its outputs and all gradients of sum(doutput * output) + sum(dh_n * h_n),
for the LSTM + sum(dc_n * c_n), float64, and the versions used. training.npz holds the losses of ten steps of gradient
descent with momentum.
"""

import functools
import json
import platform
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

HERE = Path(__file__).parent

# name: (options, (T, N, D, H), lengths)
CASES = {
    "rnn_tanh": ({}, (6, 3, 2, 4), None),
    "rnn_relu": ({"nonlinearity": "relu"}, (6, 3, 2, 4), None),
    "rnn_no_bias": ({"bias": False}, (5, 2, 3, 3), None),
    "rnn_batch_first": ({"batch_first": True}, (4, 3, 2, 3), None),
    "rnn_lengths": ({}, (7, 5, 2, 3), [3, 7, 1, 5, 3]),
    "rnn_bidirectional_lengths": ({"bidirectional": True}, (6, 4, 2, 3), [2, 6, 4, 1]),
    "rnn_deep": ({"num_layers": 3, "nonlinearity": "relu"}, (5, 2, 3, 4), None),
    "rnn_deep_bidirectional_lengths": (
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        (6, 4, 3, 3),
        [1, 4, 6, 4],
    ),
    "rnn_long": ({}, (100, 2, 2, 6), None),
    "rnn_one_step": ({}, (1, 1, 1, 1), None),
    "lstm": ({}, (6, 3, 2, 4), None),
    "lstm_no_bias": ({"bias": False, "batch_first": True}, (5, 2, 3, 3), None),
    "lstm_deep_bidirectional_lengths": ({"num_layers": 2, "bidirectional": True}, (6, 4, 3, 3), [1, 4, 6, 4]),
    "lstm_long": ({}, (60, 2, 2, 5), None),
    "lstm_one_step": ({}, (1, 1, 1, 1), None),
    "lstm_projection": ({"proj_size": 2}, (6, 3, 2, 4), None),
    "lstm_projection_deep_bidirectional_lengths": (
        {"num_layers": 2, "bidirectional": True, "batch_first": True, "proj_size": 3},
        (6, 4, 3, 5),
        [2, 6, 3, 6],
    ),
    "gru": ({}, (6, 3, 2, 4), None),
    "gru_no_bias": ({"bias": False, "batch_first": True}, (5, 2, 3, 3), None),
    "gru_deep_bidirectional_lengths": ({"num_layers": 2, "bidirectional": True}, (6, 4, 3, 3), [1, 4, 6, 4]),
    "gru_long": ({}, (60, 2, 2, 5), None),
    "gru_one_step": ({}, (1, 1, 1, 1), None),
}
KINDS = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def versions() -> np.ndarray:
    made_by = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return np.array(json.dumps(made_by))


def golden(name: str) -> dict[str, np.ndarray]:
    options, (T, N, D, H), lengths = CASES[name]
    torch.manual_seed(sum(map(ord, name)))
    rnn = KINDS[name.partition("_")[0]](D, H, **options, dtype=torch.float64)
    rows = rnn.num_layers * (2 if rnn.bidirectional else 1)
    x = torch.randn((N, T, D) if rnn.batch_first else (T, N, D), dtype=torch.float64, requires_grad=True)
    states = {"h_0": torch.randn(rows, N, rnn.proj_size or H, dtype=torch.float64, requires_grad=True)}
    if isinstance(rnn, torch.nn.LSTM):
        states["c_0"] = torch.randn(rows, N, H, dtype=torch.float64, requires_grad=True)
    state = tuple(states.values()) if len(states) > 1 else states["h_0"]
    if lengths is None:
        output, finals = rnn(x, state)
    else:
        packed = pack_padded_sequence(x, torch.tensor(lengths), rnn.batch_first, enforce_sorted=False)
        packed_output, finals = rnn(packed, state)
        output, _ = pad_packed_sequence(packed_output, rnn.batch_first, total_length=T)
    finals = dict(zip(("h_n", "c_n"), finals if isinstance(finals, tuple) else (finals,), strict=False))
    doutput = torch.randn_like(output)
    dfinals = {f"d{key}": torch.randn_like(value) for key, value in finals.items()}
    pairs = [(doutput, output), *zip(dfinals.values(), finals.values(), strict=True)]
    sum(torch.sum(gradient * value) for gradient, value in pairs).backward()
    arrays = {
        "x": x,
        **states,
        "doutput": doutput,
        **dfinals,
        "output": output,
        **finals,
        "dx": x.grad,
        **{f"d{key}": value.grad for key, value in states.items()},
        **{f"param.{key}": value for key, value in rnn.named_parameters()},
        **{f"grad.{key}": value.grad for key, value in rnn.named_parameters()},
    }
    found = {key: value.detach().numpy() for key, value in arrays.items()}
    if lengths is not None:
        found["lengths"] = np.array(lengths)
    return {**found, "options": np.array(json.dumps(options)), "versions": versions()}


def training() -> dict[str, np.ndarray]:
    """Return what ten steps of torch.optim.SGD do to a forecaster of a sum of two sines."""
    torch.manual_seed(0)
    T, N, H = 20, 3, 5
    rnn = torch.nn.RNN(1, H, dtype=torch.float64)
    readout = torch.nn.Linear(H, 1, dtype=torch.float64)
    phase = torch.arange(N, dtype=torch.float64)
    time = torch.arange(T + 1, dtype=torch.float64)[:, None] + 7 * phase
    signal = (torch.sin(0.3 * time) + 0.5 * torch.sin(0.8 * time))[:, :, None]
    before = {"rnn": rnn.state_dict(), "readout": readout.state_dict()}
    arrays = {f"{part}.{key}": value.numpy().copy() for part, state in before.items() for key, value in state.items()}
    parameters = [*rnn.parameters(), *readout.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(readout(rnn(signal[:-1])[0]), signal[1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {**arrays, "signal": signal.numpy(), "losses": np.array(losses), "versions": versions()}


def main() -> None:
    for name, made in [*((name, functools.partial(golden, name)) for name in CASES), ("training", training)]:
        if not (HERE / f"{name}.npz").exists():  # remove a file to have it made anew
            np.savez_compressed(HERE / f"{name}.npz", **made())


if __name__ == "__main__":
    main()
