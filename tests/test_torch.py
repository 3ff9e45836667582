"""RNN against torch.nn.RNN, live, over drawn sizes and options: outputs and all gradients to 1e-12 relative.

torch is one of the test requirements: where it is missing, this file fails.
"""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnn_numpy import RNN, Linear, cross_entropy_loss, mse_loss
from rnn_numpy.checks import assert_grad_close
from strategies import setups

RTOL = 1e-12


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tensor(array):
    return torch.tensor(np.ascontiguousarray(array), requires_grad=True)


def torch_twins(rnn):
    """Return one torch.nn.RNN per layer, with the layer's parameters: so that dropout masks fit in between."""
    twins, state = [], rnn.state_dict()
    for layer in range(rnn.num_layers):
        inputs = rnn.input_size if layer == 0 else rnn.num_directions * rnn.hidden_size
        twin = torch.nn.RNN(
            inputs,
            rnn.hidden_size,
            nonlinearity=rnn.nonlinearity,
            bias=rnn.bias,
            bidirectional=rnn.bidirectional,
            dtype=torch.float64,
        )
        own = {
            name.replace(f"_l{layer}", "_l0"): torch.from_numpy(array)
            for name, array in state.items()
            if name.removesuffix("_reverse").endswith(f"_l{layer}")
        }
        twin.load_state_dict(own)
        twins.append(twin)
    return twins


def torch_layers(twins, x, h_0, setup):
    """Return output (T, N, ·) and h_n of the layers in sequence."""
    directions, finals = setup.rnn.num_directions, []
    steps = len(x)
    for layer, twin in enumerate(twins):
        state = h_0[layer * directions : (layer + 1) * directions]
        if setup.lengths is None:
            x, h_n = twin(x, state)
        else:
            packed = pack_padded_sequence(x, torch.tensor(setup.lengths), enforce_sorted=False)
            packed, h_n = twin(packed, state)
            x, _ = pad_packed_sequence(packed, total_length=steps)
        finals.append(h_n)
        if setup.masks is not None and layer < len(twins) - 1:
            x = x * torch.from_numpy(setup.masks[layer])
    return x, torch.cat(finals)


def assert_equals_torch(setup):
    rnn = setup.rnn
    x, twins = tensor(setup.time_major(setup.x)), torch_twins(rnn)
    rows, batch, H = rnn.num_layers * rnn.num_directions, x.shape[1], rnn.hidden_size
    h_0 = tensor(np.zeros((rows, batch, H)) if setup.h_0 is None else setup.h_0.reshape(rows, batch, H))
    output, h_n = torch_layers(twins, x, h_0, setup)
    loss = 0.0
    if setup.doutput is not None:
        loss = loss + torch.sum(torch.from_numpy(np.ascontiguousarray(setup.time_major(setup.doutput))) * output)
    if setup.dh_n is not None:
        loss = loss + torch.sum(torch.from_numpy(setup.dh_n.reshape(rows, batch, H).copy()) * h_n)
    loss.backward()

    ours, our_h_n, trace = setup.forward()
    back = rnn.backward(trace, setup.doutput, setup.dh_n)
    found = {
        "output": (setup.time_major(ours), output),
        "h_n": (our_h_n.reshape(h_n.shape), h_n),
        "dx": (setup.time_major(back.dx), x.grad),
        "dh_0": (back.dh_0.reshape(h_0.shape), h_0.grad),
    }
    for layer, twin in enumerate(twins):
        for name, parameter in twin.named_parameters():
            ours_name = name.replace("_l0", f"_l{layer}")
            found[f"d{ours_name}"] = (back.grads[ours_name], parameter.grad)
    for name, (array, theirs) in found.items():
        # torch leaves out the gradient of what the loss does not reach.
        reference = np.zeros(array.shape) if theirs is None else theirs.detach().numpy()
        assert_grad_close(name, array, reference, RTOL)


@settings(max_examples=150)
@given(setups(gains=(0.3, 1.0), max_steps=8, max_batch=5, max_hidden=6))
def test_outputs_and_gradients(setup):
    assert_equals_torch(setup)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("T", "N", "D", "H"), [(80, 16, 8, 64), (30, 3, 200, 130), (200, 1, 3, 33)])
def test_larger_sizes(nonlinearity, bidirectional, padded, T, N, D, H):
    rng = np.random.default_rng(T)
    ours = RNN(D, H, 2, nonlinearity, bidirectional=bidirectional, rng=rng)
    twin = torch.nn.RNN(D, H, 2, nonlinearity, bidirectional=bidirectional, dtype=torch.float64)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    x, lengths = tensor(rng.normal(size=(T, N, D))), rng.integers(1, T + 1, size=N) if padded else None
    h_0 = tensor(rng.normal(size=(2 * ours.num_directions, N, H)))
    if padded:
        packed, theirs_h_n = twin(pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False), h_0)
        theirs, _ = pad_packed_sequence(packed, total_length=T)
    else:
        theirs, theirs_h_n = twin(x, h_0)
    output, h_n, trace = ours.forward(x.detach().numpy(), h_0.detach().numpy(), lengths)
    doutput, dh_n = rng.normal(size=output.shape), rng.normal(size=h_n.shape)
    (torch.sum(torch.from_numpy(doutput) * theirs) + torch.sum(torch.from_numpy(dh_n) * theirs_h_n)).backward()
    back = ours.backward(trace, doutput, dh_n)
    assert_grad_close("output", output, theirs.detach().numpy(), RTOL)
    assert_grad_close("h_n", h_n, theirs_h_n.detach().numpy(), RTOL)
    assert_grad_close("dx", back.dx, x.grad.numpy(), RTOL)
    assert_grad_close("dh_0", back.dh_0, h_0.grad.numpy(), RTOL)
    for name, parameter in twin.named_parameters():
        assert_grad_close(f"d{name}", back.grads[name], parameter.grad.numpy(), RTOL)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_names_order_and_shapes_of_parameters(bias, bidirectional, num_layers):
    ours = RNN(2, 3, num_layers, bias=bias, bidirectional=bidirectional)
    theirs = torch.nn.RNN(2, 3, num_layers, bias=bias, bidirectional=bidirectional)
    expected = [(name, tuple(parameter.shape)) for name, parameter in theirs.named_parameters()]
    assert [(name, array.shape) for name, array in ours.state_dict().items()] == expected


def test_signature_of_the_constructor():
    # torch hides it behind *args; its docstring's order, which the lecture uses, is this one.
    names = list(inspect.signature(RNN).parameters)
    assert names[:4] == ["input_size", "hidden_size", "num_layers", "nonlinearity"]
    positional = (2, 3, 2, "relu", False, True, 0.5, True)
    ours, theirs = RNN(*positional), torch.nn.RNN(*positional)
    for name in names[:8]:
        assert getattr(ours, name) == getattr(theirs, name)


def test_initialisation_has_the_same_distribution():
    H = 64
    ours = RNN(50, H, 2, rng=0)
    theirs = torch.nn.RNN(50, H, 2)
    bound = 1 / np.sqrt(H)
    for name, parameter in theirs.named_parameters():
        array = ours.params[name]
        for values in (array, parameter.detach().numpy()):
            assert np.max(np.abs(values)) <= bound
            assert np.max(np.abs(values)) > 0.9 * bound
    # Of a uniform distribution, the standard deviation is bound / sqrt(3).
    assert ours.params.flat.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_empty_batch(bidirectional):
    ours, theirs = (kind(2, 3, 2, bidirectional=bidirectional) for kind in (RNN, torch.nn.RNN))
    output, h_n = theirs(torch.zeros(4, 0, 2))
    our_output, our_h_n = ours(np.zeros((4, 0, 2)))
    assert (our_output.shape, our_h_n.shape) == (tuple(output.shape), tuple(h_n.shape))


@pytest.mark.parametrize("p", [0.25, 1.0])
def test_dropout_scales_and_leaves_inner_final_states_alone(p):
    ours = RNN(2, 50, 2, dropout=p, rng=0)
    theirs = torch.nn.RNN(2, 50, 2, dropout=p, dtype=torch.float64)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    x = np.random.default_rng(1).normal(size=(9, 4, 2))
    output, h_n, trace = ours.forward(x)
    # The lower layer's final state is undropped in both, and so comparable although masks are random.
    assert_grad_close("h_n[0]", h_n[0], theirs(torch.from_numpy(x))[1][0].detach().numpy(), RTOL)
    assert set(np.unique(trace.masks[0])) == ({0.0} if p == 1 else {0.0, 1 / (1 - p)})
    assert np.mean(trace.masks[0] == 0) == pytest.approx(p, abs=0.05)
    if p == 1:
        assert_grad_close("output", output, theirs(torch.from_numpy(x))[0].detach().numpy(), RTOL)


def test_linear_and_losses():
    rng = np.random.default_rng(2)
    linear, theirs = Linear(3, 5, rng=rng), torch.nn.Linear(3, 5, dtype=torch.float64)
    theirs.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in linear.params.items()})
    x = tensor(rng.normal(size=(4, 2, 3)))
    target, classes = rng.normal(size=(4, 2, 5)), rng.integers(0, 5, size=(4, 2))
    y, trace = linear.forward(x.detach().numpy())
    for loss, expected in (
        (mse_loss(y, target), torch.nn.functional.mse_loss(theirs(x), torch.from_numpy(target))),
        (
            cross_entropy_loss(y, classes),
            torch.nn.functional.cross_entropy(theirs(x).reshape(-1, 5), torch.from_numpy(classes).reshape(-1)),
        ),
    ):
        x.grad = None
        theirs.zero_grad()
        expected.backward()
        back = linear.backward(trace, loss[1])
        assert loss[0] == pytest.approx(expected.item(), rel=RTOL)
        assert_grad_close("dx", back.dx, x.grad.numpy(), RTOL)
        assert_grad_close("dweight", back.grads["weight"], theirs.weight.grad.numpy(), RTOL)
        assert_grad_close("dbias", back.grads["bias"], theirs.bias.grad.numpy(), RTOL)
