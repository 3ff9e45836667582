"""RNN, LSTM and GRU against torch.nn, live, over drawn sizes and options: outputs and all gradients to 1e-12 relative.

torch is one of the test requirements: where it is missing, this file fails. It has no GRU that resets before the
product: that form is compared with autograd on a loop written here.
"""

import functools
import inspect

import numpy as np
import pytest
from frameworks import torch, torch_rnn
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_numpy import GRU, LSTM, RNN, Linear, cross_entropy_loss, mse_loss
from rnn_numpy.checks import assert_grad_close, discrepancy
from strategies import KINDS, Setup, setups

pytestmark = pytest.mark.needs_torch

RTOL = 1e-12
LAYERS = ("RNN", "LSTM", "GRU")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tensor(array):
    return torch.tensor(np.ascontiguousarray(array), requires_grad=True)


@functools.cache
def gru_before():
    """Return the class of a GRU that resets before the product; made when torch is there."""

    class GRUBefore(torch.nn.GRU):
        """A GRU of one layer that resets before the product (Cho et al. 2014), sequence by sequence."""

        def forward(self, x, h_0, lengths):
            columns, finals = [], []
            for reverse in range(1 + self.bidirectional):
                W_ih, W_hh, *biases = self.all_weights[reverse]
                b_ih, b_hh = biases or (torch.zeros(3 * self.hidden_size, dtype=x.dtype),) * 2
                W_hr, W_hz, W_hn = W_hh.chunk(3)
                b_hr, b_hz, b_hn = b_hh.chunk(3)
                rows, last = [], []
                for n, length in enumerate(lengths):
                    h, output = h_0[reverse, n], [torch.zeros(self.hidden_size, dtype=x.dtype)] * len(x)
                    for t in reversed(range(length)) if reverse else range(length):
                        x_r, x_z, x_n = (W_ih @ x[t, n] + b_ih).chunk(3)
                        r, z = torch.sigmoid(x_r + W_hr @ h + b_hr), torch.sigmoid(x_z + W_hz @ h + b_hz)
                        candidate = torch.tanh(x_n + W_hn @ (r * h) + b_hn)
                        output[t] = h = (1 - z) * candidate + z * h
                    rows.append(torch.stack(output))
                    last.append(h)
                columns.append(torch.stack(rows, dim=1))
                finals.append(torch.stack(last))
            return torch.cat(columns, dim=2), torch.stack(finals)

    return GRUBefore


def options_of(layer):
    """Return the options of a layer that its torch twin has, too."""
    names = ("bias", "bidirectional", "nonlinearity", "proj_size")
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def torch_twins(layer):
    """Return one torch module per layer, with the layer's parameters: so that dropout masks fit in between."""
    twins, state = [], layer.state_dict()
    before = getattr(layer, "reset", "after") == "before"
    kind = gru_before() if before else getattr(torch.nn, type(layer).__name__)
    for k in range(layer.num_layers):
        inputs = layer.input_size if k == 0 else layer.num_directions * layer.width("h")
        twin = kind(inputs, layer.hidden_size, **options_of(layer), dtype=torch.float64)
        own = {
            name.replace(f"_l{k}", "_l0"): torch.from_numpy(array)
            for name, array in state.items()
            if name.removesuffix("_reverse").endswith(f"_l{k}")
        }
        twin.load_state_dict(own)
        twins.append(twin)
    return twins


def torch_layer(twin, x, states, lengths):
    """Return output (T, N, ·) and final states of one layer; lengths go through torch's packing."""
    if isinstance(twin, gru_before()):
        output, h_n = twin(x, states[0], [len(x)] * x.shape[1] if lengths is None else lengths)
        return output, (h_n,)
    state = states if len(states) > 1 else states[0]
    if lengths is None:
        output, finals = twin(x, state)
    else:
        packed, finals = twin(torch_rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False), state)
        output, _ = torch_rnn.pad_packed_sequence(packed, total_length=len(x))
    return output, finals if isinstance(finals, tuple) else (finals,)


def torch_layers(twins, x, states, setup):
    """Return output (T, N, ·) and the final states of the layers in sequence."""
    directions, finals = setup.layer.num_directions, []
    masks = setup.masks.get("dropout_masks")
    for k, twin in enumerate(twins):
        own = tuple(state[k * directions : (k + 1) * directions] for state in states)
        x, final = torch_layer(twin, x, own, setup.lengths)
        finals.append(final)
        if masks is not None and k < len(twins) - 1:
            x = x * torch.from_numpy(masks[k])
    return x, [torch.cat(parts) for parts in zip(*finals, strict=True)]


def torch_results(setup, moved=0.0):
    """Return torch's output, final states and gradients by the names of ours; None where the loss does not reach.

    All data are changed by up to `moved` of themselves: what that changes is what rounding decides.
    """
    layer, rng = setup.layer, np.random.default_rng(0)

    def blurred(array):
        return array * (1 + moved * rng.uniform(-1, 1, array.shape))

    x, twins = tensor(blurred(setup.time_major(setup.x))), torch_twins(layer)
    for twin in twins:
        for parameter in twin.parameters():
            parameter.data = torch.from_numpy(blurred(parameter.data.numpy()))
    names, rows = layer.cell.states, layer.num_layers * layer.num_directions
    zeros = tuple(np.zeros((rows, x.shape[1], layer.width(name))) for name in names)
    initial = [tensor(blurred(state)) for state in setup.batched(setup.states) or zeros]
    output, finals = torch_layers(twins, x, initial, setup)
    weights = [setup.time_major(setup.doutput), *(setup.batched(setup.dstates) or [None] * len(names))]
    pairs = zip([output, *finals], weights, strict=True)
    sum(torch.sum(torch.from_numpy(np.array(w)) * array) for array, w in pairs if w is not None).backward()
    found = {"output": output, "dx": x.grad}
    for name, final, state in zip(names, finals, initial, strict=True):
        found |= {f"{name}_n": final, f"d{name}_0": state.grad}
    for k, twin in enumerate(twins):
        found |= {f"d{name}".replace("_l0", f"_l{k}"): parameter.grad for name, parameter in twin.named_parameters()}
    return {name: None if array is None else array.detach().numpy() for name, array in found.items()}


def assert_equals_torch(setup):
    """Compare output, final states, dx, gradients of initial states and of all parameters; return the largest error.

    To 1e-12; where the terms of a sum cancel, in a net of one unit say, to what the last bits of the data decide.
    """
    layer = setup.layer
    ours, our_finals, trace = setup.forward()
    back = setup.backward(trace)
    found = {"output": setup.time_major(ours), "dx": setup.time_major(back.dx)}
    for name, final in zip(layer.cell.states, setup.batched(our_finals), strict=True):
        found |= {f"{name}_n": final, f"d{name}_0": setup.batched(getattr(back, f"d{name}_0"))[0]}
    found |= {f"d{name}": array for name, array in back.grads.items()}
    theirs, shifted = torch_results(setup), torch_results(setup, moved=2.0**-50)
    assert theirs.keys() == found.keys()
    errors = []
    for name, array in found.items():
        reached = theirs[name] is not None
        reference = theirs[name] if reached else np.zeros(array.shape)
        blur = 4 * discrepancy(shifted[name], reference).error if reached and np.any(reference) else 0.0
        errors.append(assert_grad_close(name, array, reference, RTOL + blur))
    return max(errors)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(data=st.data())
def test_outputs_and_gradients(kind, data):
    assert_equals_torch(
        data.draw(setups((kind,), gains=(0.3, 1.0), max_steps=8, max_batch=5, max_hidden=6, masked=False))
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (RNN, {"nonlinearity": "tanh"}),
        (RNN, {"nonlinearity": "relu"}),
        (LSTM, {}),
        (LSTM, {"proj_size": 20}),
        (GRU, {}),
    ],
)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("T", "N", "D", "H"), [(80, 16, 8, 64), (30, 3, 200, 130), (200, 1, 3, 33)])
def test_larger_sizes(kind, options, bidirectional, padded, T, N, D, H):
    rng = np.random.default_rng(T)
    layer = kind(D, H, num_layers=2, bidirectional=bidirectional, rng=rng, **options)
    x = rng.normal(size=(T, N, D))
    lengths = rng.integers(1, T + 1, size=N).tolist() if padded else None
    output, finals = layer(x, lengths=lengths)
    finals = finals if isinstance(finals, tuple) else (finals,)
    states, dstates = (tuple(rng.normal(size=state.shape) for state in finals) for _ in range(2))
    assert_equals_torch(Setup(layer, x, states, lengths, rng.normal(size=output.shape), dstates))


PROJECTED = [*LAYERS, "LSTM with projection"]


def both(name, *arguments, **options):
    """Return our layer and torch's, each with the random numbers of a seed."""
    if name == "LSTM with projection":
        return both("LSTM", *arguments, proj_size=2, **options)
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*arguments, **options)
    return {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}[name](*arguments, **options, rng=0), theirs


@pytest.mark.parametrize("kind", PROJECTED)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_names_order_and_shapes_of_parameters(kind, bias, bidirectional, num_layers):
    ours, theirs = both(kind, 2, 3, num_layers, bias=bias, bidirectional=bidirectional)
    expected = [(name, tuple(parameter.shape)) for name, parameter in theirs.named_parameters()]
    assert [(name, array.shape) for name, array in ours.state_dict().items()] == expected


@pytest.mark.parametrize(
    ("kind", "positional"),
    [
        # torch hides it behind *args; its docstring's order, which the lecture uses, is this one.
        ("RNN", {"input_size": 2, "hidden_size": 3, "num_layers": 2, "nonlinearity": "relu"}),
        ("LSTM", {"input_size": 2, "hidden_size": 3, "num_layers": 2}),
        ("GRU", {"input_size": 2, "hidden_size": 3, "num_layers": 2}),
    ],
)
def test_signature_of_the_constructor(kind, positional):
    positional = {**positional, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True}
    if kind == "LSTM":
        positional["proj_size"] = 2
    ours, theirs = both(kind, *positional.values())
    assert list(inspect.signature(type(ours)).parameters)[: len(positional)] == list(positional)
    for name, value in positional.items():
        assert getattr(ours, name) == getattr(theirs, name) == value


@pytest.mark.parametrize("kind", PROJECTED)
def test_initialisation_has_the_same_distribution(kind):
    H = 64
    ours, theirs = both(kind, 50, H, 2)
    bound = 1 / np.sqrt(H)
    for name, parameter in theirs.named_parameters():
        array = ours.params[name]
        for values in (array, parameter.detach().numpy()):
            assert np.max(np.abs(values)) <= bound
            assert np.max(np.abs(values)) > 0.9 * bound
    # Of a uniform distribution, the standard deviation is bound / sqrt(3).
    assert ours.params.flat.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("kind", PROJECTED)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_empty_batch(kind, bidirectional):
    ours, theirs = both(kind, 2, 3, 2, bidirectional=bidirectional)
    output, finals = theirs(torch.zeros(4, 0, 2))
    our_output, our_finals = ours(np.zeros((4, 0, 2)))
    assert our_output.shape == tuple(output.shape)
    pairs = zip(our_finals, finals, strict=True) if isinstance(finals, tuple) else [(our_finals, finals)]
    assert all(mine.shape == tuple(state.shape) for mine, state in pairs)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("p", [0.25, 1.0])
def test_dropout_scales_and_leaves_inner_final_states_alone(kind, p):
    ours, theirs = both(kind, 2, 50, 2, dropout=p)
    theirs = theirs.double()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    x = np.random.default_rng(1).normal(size=(9, 4, 2))
    output, states, trace = ours.forward(x)
    expected, expected_states = theirs(torch.from_numpy(x))
    # The lower layer's final state is undropped in both, and so comparable although masks are random.
    pairs = zip(states, expected_states, strict=True) if isinstance(states, tuple) else [(states, expected_states)]
    for state, reference in pairs:
        assert_grad_close("state_n[0]", state[0], reference[0].detach().numpy(), RTOL)
    assert set(np.unique(trace.masks[0])) == ({0.0} if p == 1 else {0.0, 1 / (1 - p)})
    assert np.mean(trace.masks[0] == 0) == pytest.approx(p, abs=0.05)
    if p == 1:
        assert_grad_close("output", output, expected.detach().numpy(), RTOL)


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
