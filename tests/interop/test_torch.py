"""Weights from and to torch: bit for bit, same outputs, and what would be lost is refused with the reason."""

import copy
import sys

import numpy as np
import pytest
from frameworks import torch, torch_prune

import rnn_numpy.interop.torch as torch_modules
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.errors import ConversionError, DTypeError, MissingExtraError, NonFiniteError
from rnn_numpy.interop import from_torch, to_torch
from rnn_numpy.layers import GRU, LSTM, RNN, Linear

pytestmark = pytest.mark.needs_torch

KINDS = {
    "rnn-tanh": (RNN, {}),
    "rnn-relu": (RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, {}),
    "lstm-projected": (LSTM, {"proj_size": 2}),
    "gru": (GRU, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
OPTIONS = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]


def layer_of(kind, *arguments, **options):
    cls, special = KINDS[kind]
    return cls(*arguments, **{"rng": 0, **special, **options})


def module_of(kind, *arguments, **options):
    cls, special = KINDS[kind]
    return getattr(torch.nn, cls.__name__)(*arguments, **special, **options)


def finals(state):
    return state if isinstance(state, tuple) else (state,)


def assert_same_outputs(layer, module, seed=5):
    """Compare on inputs, steps and states that are not those of the self-test."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, 7, layer.input_size)).astype(layer.dtype)
    shapes = [state.shape for state in finals(layer(x)[1])]
    states = tuple(rng.normal(size=shape).astype(layer.dtype) for shape in shapes)
    one = len(states) == 1
    output, final = layer(x, states[0] if one else states)
    theirs = tuple(torch.from_numpy(state) for state in states)
    training = module.training
    with torch.no_grad():
        their_output, their_final = module.eval()(torch.from_numpy(x), theirs[0] if one else theirs)
    module.train(training)
    assert_grad_close("output", output, their_output.numpy())
    for name, ours, reference in zip(("h_n", "c_n"), finals(final), finals(their_final), strict=False):
        assert_grad_close(name, ours, reference.numpy())


@every_kind
@every_dtype
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("num_layers", "batch_first"), [(1, False), (3, True)])
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_there_and_back(kind, dtype, bidirectional, bias, num_layers, batch_first):
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    layer = layer_of(kind, 3, 4, num_layers, dtype=dtype, **options)
    module = to_torch(layer)
    assert type(module) is getattr(torch.nn, type(layer).__name__)
    assert module.training
    assert_same_outputs(layer, module)
    twin = from_torch(module)
    assert type(twin) is type(layer)
    assert repr(twin) == repr(layer)
    assert [getattr(twin, name) for name in OPTIONS] == [getattr(layer, name) for name in OPTIONS]
    assert list(twin.params) == list(layer.params)
    assert twin.dtype == dtype
    assert twin.params.flat.tobytes() == layer.params.flat.tobytes()
    again = to_torch(twin)
    for name, tensor in module.state_dict().items():
        assert again.state_dict()[name].numpy().tobytes() == tensor.numpy().tobytes()


@every_kind
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_torchs_own_weights(kind, dtype):
    module = module_of(kind, 5, 8, 2, bidirectional=True, batch_first=True, dtype=getattr(torch, dtype))
    layer = from_torch(module)
    assert str(module.weight_hh_l0.dtype) == f"torch.{layer.dtype}"
    assert_same_outputs(layer, module)


@every_kind
def test_copies_are_independent(kind):
    layer = layer_of(kind, 3, 4)
    module = to_torch(layer)
    before = layer.params.flat.copy()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert (layer.params.flat == before).all()
    module = module_of(kind, 3, 4)
    layer = from_torch(module)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    layer.params.flat[:] = 0
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))


@every_dtype
@pytest.mark.parametrize("bias", [True, False])
def test_linear(dtype, bias):
    linear = Linear(3, 2, bias, dtype=dtype, rng=0)
    module = to_torch(linear)
    assert type(module) is torch.nn.Linear
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(dtype)
    with torch.no_grad():
        assert_grad_close("y", linear(x), module(torch.from_numpy(x)).numpy())
    twin = from_torch(module)
    assert (type(twin), twin.bias, twin.dtype) == (Linear, bias, dtype)
    assert twin.params.flat.tobytes() == linear.params.flat.tobytes()


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_dropout(p):
    layer = LSTM(3, 4, 2, dropout=p, rng=0)
    module = to_torch(layer)
    assert module.dropout == p
    assert from_torch(module).dropout == p
    masks = from_torch(module.double()).forward(np.ones((9, 9, 3)))[2].masks
    assert (masks is None) == (p == 0)


def test_dropout_of_a_single_layer_is_carried_without_a_second_warning():
    with pytest.warns(UserWarning, match="dropout"):
        module = torch.nn.GRU(3, 4, dropout=0.5)
    layer = from_torch(module)
    assert layer.dropout == 0.5
    assert to_torch(layer).dropout == 0.5


def test_torchs_random_numbers_and_the_module_are_left_alone():
    module = torch.nn.LSTM(3, 4, 2, dropout=0.5)
    for training in (True, False):
        module.train(training)
        state, before = torch.random.get_rng_state(), copy.deepcopy(module.state_dict())
        layer = from_torch(module)
        to_torch(layer)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert module.training == training
        assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@every_kind
@every_dtype
@pytest.mark.parametrize("gain", [0.0, 1e-30, 1e-3, 30.0, 1e4])
def test_weights_of_any_size_pass_the_self_test(kind, dtype, gain):
    """Where gains are large, rounding grows from step to step; that is no reason to refuse."""
    layer = layer_of(kind, 16, 64, 2, dtype=dtype)
    layer.params.flat[:] *= gain
    twin = from_torch(to_torch(layer))
    assert twin.params.flat.tobytes() == layer.params.flat.tobytes()


# ------------------------------------------------------------------------------------------------ refusals


def subclass():
    return type("Subclass", (torch.nn.GRU,), {})(3, 4)


def half(dtype):
    return torch.nn.LSTM(3, 4).to(dtype)


def mixed():
    module = torch.nn.GRU(3, 4)
    module.bias_hh_l0 = torch.nn.Parameter(module.bias_hh_l0.detach().double())
    return module


def not_finite():
    module = torch.nn.GRU(3, 4)
    with torch.no_grad():
        module.weight_hh_l0[2, 1] = torch.nan
    return module


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: None,
            DTypeError,
            "from_torch: module must be a torch.nn.RNN, LSTM, GRU or Linear itself; got NoneType",
        ),
        (lambda: torch.nn.Conv1d(1, 1, 1), DTypeError, "from_torch: module must be .*; got Conv1d"),
        (subclass, DTypeError, "from_torch: module must be .* itself; got Subclass. Of a subclass, load"),
        (
            lambda: torch.nn.utils.parametrizations.orthogonal(torch.nn.GRU(4, 4), "weight_hh_l0"),
            DTypeError,
            "got ParametrizedGRU.*remove_parametrizations",
        ),
        (
            lambda: half(torch.float16),
            ConversionError,
            "from_torch: weight_ih_l0 must be float32 or float64; got torch.float16. Widen a copy first, which loses",
        ),
        (
            lambda: half(torch.bfloat16),
            ConversionError,
            "weight_ih_l0 must be .*; got torch.bfloat16. Widen a copy first",
        ),
        (
            lambda: torch.nn.RNN(3, 4, dtype=torch.complex64),
            ConversionError,
            "from_torch: weight_ih_l0 must be float32 or float64; got torch.complex64$",
        ),
        (
            lambda: torch.nn.RNN(3, 4, device="meta"),
            ConversionError,
            "from_torch: weight_ih_l0 has no values yet: the module is on the device 'meta'",
        ),
        (mixed, ConversionError, "all arrays must have one dtype; weight_ih_l0 is float32, bias_hh_l0 is float64"),
        (not_finite, NonFiniteError, "from_torch: weight_hh_l0 is nan at i = 2, j = 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:Complex modules:UserWarning")
def test_modules_that_are_refused(make, error, message):
    module = make()
    with pytest.raises(error, match=message):
        from_torch(module)


def test_weights_that_are_not_parameters():
    linear = torch.nn.Linear(3, 4)
    torch.nn.utils.parametrizations.weight_norm(linear)
    with pytest.raises(DTypeError, match="got ParametrizedLinear"):
        from_torch(linear)
    linear = torch.nn.Linear(3, 4)
    linear.register_buffer("extra", torch.zeros(2))
    with pytest.raises(
        ConversionError, match="the module's parameters are not those of its class: .*unknown: .'extra'."
    ):
        from_torch(linear)


def test_a_forward_hook_that_changes_the_output_is_found():
    module = torch.nn.GRU(3, 4)
    module.register_forward_hook(lambda module, arguments, result: (2 * result[0], result[1]))
    with pytest.raises(ConversionError, match="from_torch: self-test failed: output differs from that of torch.nn.GRU"):
        from_torch(module)


def test_an_output_of_another_shape_is_found():
    module = torch.nn.GRU(3, 4)
    module.register_forward_hook(lambda module, arguments, result: (result[0][-1:], result[1]))
    with pytest.raises(ConversionError, match=r"output has shape \(4, 2, 4\) here, \(1, 2, 4\) in torch.nn.GRU"):
        from_torch(module)


def test_layers_that_are_refused():
    with pytest.raises(DTypeError, match="to_torch: layer must be an RNN, LSTM or GRU of rnn_numpy; got dict"):
        to_torch({})
    with pytest.raises(
        ConversionError, match="to_torch: torch.nn.GRU resets after the product with W_hn; .* another func"
    ):
        to_torch(GRU(3, 4, reset="before"))
    for layer in (LSTM(3, 4).astype(np.complex128), Linear(3, 4).astype(np.complex128)):
        with pytest.raises(ConversionError, match="to_torch: torch.nn..* is real, the layer complex128, which is"):
            to_torch(layer)
    with pytest.raises(
        ConversionError, match="to_torch: torch.nn.LSTM has no such recurrent_dropout; the layer has 0.5. "
    ):
        to_torch(LSTM(3, 4, recurrent_dropout=0.5))
    with pytest.raises(
        ConversionError, match="to_torch: torch.nn.GRU has no such zoneout; the layer has .0.5,.. To go with"
    ):
        to_torch(GRU(3, 4, zoneout=0.5))
    layer = RNN(3, 4)
    layer.params["bias_ih_l0"][1] = np.inf
    with pytest.raises(NonFiniteError, match="to_torch: bias_ih_l0 is inf at i = 1"):
        to_torch(layer)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (lambda: from_torch(None), lambda: to_torch(RNN(3, 4))):
        with pytest.raises(MissingExtraError, match=r'needs torch, .* pip install "rnn_numpy\[torch\]"'):
            call()


# ------------------------------------------------------------------------------------------------ whole modules


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_become_layers(kind, bias):
    torch.manual_seed(0)
    cell = getattr(torch.nn, kind)(3, 4, bias=bias)
    layer = from_torch(cell)
    x, state = torch.randn(5, 2, 3), None
    with torch.no_grad():
        for x_t in x:
            state = cell(x_t, state)
    final = layer(x.numpy())[1]
    for ours, theirs in zip(*((s if isinstance(s, tuple) else (s,)) for s in (final, state)), strict=True):
        assert_grad_close("state", ours[0], theirs.numpy())


def tagger():
    torch.manual_seed(0)
    rnn = torch.nn.LSTM(4, 5, bidirectional=True)
    return torch.nn.ModuleDict(
        {"embedding": torch.nn.Embedding(9, 4), "rnn": rnn, "inner": torch.nn.ModuleList([torch.nn.GRUCell(3, 4)])}
    )


def test_the_recurrent_layers_of_a_whole_module():
    module = tagger()
    network = from_torch(module)
    assert (network.source, network.format, network.names) == ("ModuleDict", "torch module", ["rnn", "inner.0"])
    assert repr(network["rnn"].layer) == "LSTM(4, 5, bidirectional=True, dtype=float32)"
    assert (network["inner.0"].layer.params["weight_hh_l0"] == module["inner"][0].weight_hh.detach().numpy()).all()
    with pytest.raises(DTypeError, match=r"must be .* itself; got Sequential"):
        from_torch(torch.nn.Sequential(torch.nn.Linear(3, 3)))


def test_what_of_a_module_is_refused_says_the_way_out():
    pruned = torch.nn.GRU(3, 4)
    torch_prune.l1_unstructured(pruned, "weight_hh_l0", 0.5)
    with pytest.raises(ConversionError, match=r"It is pruned: .* torch.nn.utils.prune.remove\(module, name\)"):
        from_torch(pruned)
    torch_prune.remove(pruned, "weight_hh_l0")
    assert (from_torch(pruned).params["weight_hh_l0"] == 0).sum() == 24
    module = tagger()
    module["rnn"].__class__ = type(
        "LSTM", (torch.nn.LSTM,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.rnn"}
    )
    with pytest.raises(ConversionError, match="LSTM of torch.ao.nn.quantized.* is quantised.* before quantize_dynamic"):
        from_torch(module)["rnn"].layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_an_old_weight_norm_says_the_way_out():
    normed = torch.nn.utils.weight_norm(torch.nn.GRU(3, 4), "weight_hh_l0")
    with pytest.raises(ConversionError, match=r"Its weights are normalised: torch.nn.utils.remove_weight_norm"):
        from_torch(normed)


# ------------------------------------------------------------------------------------------------ planted bugs


def swap_blocks(state):
    H = state["weight_hh_l0"].shape[1]
    for array in state.values():
        array[:H], array[H : 2 * H] = array[H : 2 * H].copy(), array[:H].copy()


def forget_a_transpose(state):
    array = state["weight_hh_l0"]
    H = array.shape[1]
    for start in range(0, len(array), H):
        array[start : start + H] = array[start : start + H].T.copy()


def exchange_directions(state):
    for name in [name for name in state if name.endswith("_l1")]:
        state[name], state[f"{name}_reverse"] = state[f"{name}_reverse"], state[name]


def exchange_biases(state):
    state["bias_ih_l0"], state["bias_hh_l0"] = state["bias_hh_l0"], state["bias_ih_l0"]


def lose_a_bias(state):
    state["bias_hh_l1_reverse"][:] = 0


def lose_digits(state):
    state["weight_ih_l0"][:] = state["weight_ih_l0"].round(2)


BUGS = [swap_blocks, forget_a_transpose, exchange_directions, lose_a_bias, lose_digits]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@every_dtype
def test_a_planted_bug_is_found_by_the_self_test(monkeypatch, bug, kind, dtype):
    read = torch_modules._state

    def broken(*arguments):
        state = read(*arguments)
        bug(state)
        return state

    module = to_torch(layer_of(kind, 3, 4, 2, bidirectional=True, dtype=dtype))
    from_torch(module)
    monkeypatch.setattr(torch_modules, "_state", broken)
    with pytest.raises(
        ConversionError, match=r"from_torch: self-test failed: output differs from that of torch.nn.\w+ by "
    ):
        from_torch(module)


def test_exchanged_biases_matter_for_a_gru_alone(monkeypatch):
    read = torch_modules._state

    def broken(*arguments):
        state = read(*arguments)
        exchange_biases(state)
        return state

    monkeypatch.setattr(torch_modules, "_state", broken)
    from_torch(to_torch_unchecked(LSTM(3, 4, rng=0)))
    with pytest.raises(ConversionError, match="self-test failed"):
        from_torch(to_torch_unchecked(GRU(3, 4, rng=0)))


def to_torch_unchecked(layer):
    module = getattr(torch.nn, type(layer).__name__)(layer.input_size, layer.hidden_size, dtype=torch.float64)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in layer.state_dict().items()})
    return module


@pytest.mark.parametrize("option", ["nonlinearity", "batch_first"])
def test_a_misread_option_is_found_by_the_self_test(monkeypatch, option):
    module = torch.nn.RNN(3, 4, nonlinearity="relu")
    new_layer = torch_modules.common.new_layer

    def broken(*arguments, **options):
        options[option] = {"nonlinearity": "tanh", "batch_first": True}[option]
        return new_layer(*arguments, **options)

    monkeypatch.setattr(torch_modules.common, "new_layer", broken)
    with pytest.raises(
        ConversionError, match="from_torch: self-test failed: (output differs|torch.nn.RNN does not run)"
    ):
        from_torch(module)


def test_to_torch_tests_itself(monkeypatch):
    layer = LSTM(3, 4, rng=0)
    monkeypatch.setattr(layer, "state_dict", lambda: {n: a[::-1].copy() for n, a in layer.params.items()})
    with pytest.raises(
        ConversionError, match="to_torch: self-test failed: output differs from that of torch.nn.LSTM by"
    ):
        to_torch(layer)
    linear = Linear(3, 4, rng=0)
    monkeypatch.setattr(linear, "state_dict", lambda: {n: a[::-1].copy() for n, a in linear.params.items()})
    with pytest.raises(
        ConversionError, match="to_torch: self-test failed: output differs from that of torch.nn.Linear"
    ):
        to_torch(linear)
