"""Layers from and to torch.nn: the names, orders and shapes are the same, so that weights are copied as they stand.

What is carried over is the module's function: options and weights. What concerns its training elsewhere (hooks,
requires_grad, the training flag, the device) is not.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks import tolerance
from rnn_numpy.core import states
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import ConversionError, DTypeError, StateDictError
from rnn_numpy.interop import common
from rnn_numpy.interop.network import FoundLayer, Network
from rnn_numpy.layers import Linear

Array = NDArray[Any]

# Options of a layer, there and here alike.
SHARED = ("bias", "batch_first", "bidirectional")
OPTIONS = {"rnn": (*SHARED, "nonlinearity"), "lstm": (*SHARED, "proj_size"), "gru": SHARED}


def from_torch(module: Any) -> Any:
    """Return the layer of this package with the options and weights of a torch module, or those of a whole network.

    Parameters
    ----------
    module : torch.nn.RNN, LSTM, GRU, one of their cells, Linear, or a module that has such inside
        float32 or float64, on any device; not changed.

    Returns
    -------
    RNN, LSTM, GRU (reset="after"), Linear, or Network
        Of the same dtype, with copies of the weights; of a cell, the layer that makes its step at each t. Of any other
        module, the recurrent layers in it, each under its name there, as `open_network` returns those of a file.

    Raises
    ------
    ConversionError
        The weights are of half precision or complex, not there yet (device "meta"), or not the module's parameters (as
        with weight_norm); the layer computes something else than the module.
    DTypeError
        Another kind of object, a subclass among them: it may compute anything. Nothing recurrent in a module.

    Examples
    --------
    >>> import torch
    >>> gru = from_torch(torch.nn.GRU(3, 4, num_layers=2, batch_first=True))
    >>> gru
    GRU(3, 4, num_layers=2, batch_first=True, dtype=float32)
    """
    where = "from_torch"
    torch = optional_import("torch", where, "torch")
    kinds = _kinds(torch) | {torch.nn.Linear: "linear"}
    kind = kinds.get(type(module))
    if kind is None:
        if isinstance(module, torch.nn.Module) and (found := _inside(torch, module)):
            return Network(type(module).__name__, "torch module", found)
        raise DTypeError(
            f"{where}: module must be a torch.nn.RNN, LSTM, GRU or Linear itself; got {type(module).__name__}. Of a "
            "subclass, load its state_dict() into one of these first; of parametrised weights, make them plain with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    state = _state(where, torch, module)
    dtype = next(iter(state.values())).dtype
    layer: Any
    is_cell = isinstance(module, torch.nn.RNNCellBase)
    if kind == "linear":
        layer = Linear(module.in_features, module.out_features, module.bias is not None, dtype=dtype)
    elif is_cell:
        options: dict[str, Any] = {"bias": module.bias} | ({"reset": "after"} if kind == "gru" else {})
        options |= {"nonlinearity": module.nonlinearity} if kind == "rnn" else {}
        layer = common.new_layer(kind, module.input_size, module.hidden_size, dtype=dtype, **options)
        state = {f"{name}_l0": array for name, array in state.items()}
    else:
        sizes = (module.input_size, module.hidden_size, module.num_layers)
        options = {name: getattr(module, name) for name in OPTIONS[kind]}
        options |= {"reset": "after"} if kind == "gru" else {}
        layer = common.new_layer(kind, *sizes, dropout=module.dropout, dtype=dtype, **options)
    try:
        layer.load_state_dict(state)
    except StateDictError as error:
        raise ConversionError(
            f"{where}: the module's parameters are not those of its class: {error}{_way_out(state)}"
        ) from None
    _verify(where, torch, layer, module)
    return layer


def to_torch(layer: Any) -> Any:
    """Return the torch module with the options and weights of a layer.

    Parameters
    ----------
    layer : RNN, LSTM, GRU or Linear
        float32 or float64; not changed.

    Returns
    -------
    torch.nn.RNN, LSTM, GRU or Linear
        On the CPU, of the same dtype, in training mode as every new module: call `.eval()` on it before inference where
        it has dropout.

    Raises
    ------
    ConversionError
        What torch does not have: a complex128 layer, a GRU with reset="before", zoneout, recurrent_dropout; or the
        module computes something else than the layer.

    Notes
    -----
    torch's random numbers are left as they are.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> to_torch(RNN(3, 4, bidirectional=True))
    RNN(3, 4, bidirectional=True)
    """
    where = "to_torch"
    torch = optional_import("torch", where, "torch")
    kind = "linear" if isinstance(layer, Linear) else common.cell_of(where, layer)
    common.refuse_what_is_not_there(where, layer, f"torch.nn.{type(layer).__name__}", trains=True, projects=True)
    dtype = getattr(torch, layer.dtype.name)
    # The constructors draw weights, which are overwritten: nobody's random numbers shall change by that.
    with torch.random.fork_rng(devices=[]):
        if kind == "linear":
            module = torch.nn.Linear(layer.in_features, layer.out_features, layer.bias, dtype=dtype)
        else:
            if kind == "gru" and layer.reset != "after":
                raise ConversionError(
                    f"{where}: torch.nn.GRU resets after the product with W_hn; a GRU with reset={layer.reset!r} is "
                    "another function, and no weights make them equal"
                )
            sizes = (layer.input_size, layer.hidden_size, layer.num_layers)
            options = {name: getattr(layer, name) for name in OPTIONS[kind]}
            module = getattr(torch.nn, kind.upper())(*sizes, dtype=dtype, **options)
            module.dropout = float(layer.dropout)  # not in the constructor, which would warn a second time
    module.load_state_dict({name: torch.from_numpy(array) for name, array in layer.state_dict().items()})
    _verify(where, torch, layer, module)
    return module


def _kinds(torch: Any) -> dict[Any, str]:
    nn = torch.nn
    return {nn.RNN: "rnn", nn.LSTM: "lstm", nn.GRU: "gru", nn.RNNCell: "rnn", nn.LSTMCell: "lstm", nn.GRUCell: "gru"}


def _inside(torch: Any, module: Any) -> list[FoundLayer]:
    """Return the recurrent layers inside of a module, in its order, those that cannot be converted among them."""
    found = []
    for name, child in module.named_modules():
        title = type(child).__name__
        if child is module:
            continue
        recurrent = isinstance(child, torch.nn.RNNBase | torch.nn.RNNCellBase)
        quantised = ".quantized" in type(child).__module__ and title in (
            "LSTM",
            "GRU",
            "RNNCell",
            "LSTMCell",
            "GRUCell",
        )
        if not recurrent and not quantised:
            continue
        sizes = (int(getattr(child, "input_size", 0)), int(getattr(child, "hidden_size", 0)))
        make: Any = functools.partial(_quantised if quantised else from_torch, child)
        layers, rows = int(getattr(child, "num_layers", 1)), 1 + bool(getattr(child, "bidirectional", False))
        found.append(FoundLayer(name, title, *sizes, make, layers, rows, parts=(name,)))
    return found


def _quantised(module: Any) -> Any:
    raise ConversionError(
        f"from_torch: {type(module).__name__} of {type(module).__module__} is quantised, and its weights are packed: "
        "convert the module that it was made from, before quantize_dynamic"
    )


def _way_out(state: Mapping[str, Any]) -> str:
    """Say what takes a reparametrisation off a module, by the names of its parameters."""
    if any(name.endswith(("_orig", "_mask")) for name in state):
        return ". It is pruned: make that permanent first, with torch.nn.utils.prune.remove(module, name)"
    if any(name.endswith(("_g", "_v")) for name in state):
        return ". Its weights are normalised: torch.nn.utils.remove_weight_norm(module, name) makes them plain"
    return ""


def _state(where: str, torch: Any, module: Any) -> dict[str, Array]:
    """Return the module's parameters as arrays."""
    arrays: dict[str, Array] = {}
    for name, tensor in module.state_dict().items():
        if tensor.device.type == "meta":
            raise ConversionError(f"{where}: {name} has no values yet: the module is on the device 'meta'")
        if tensor.dtype not in (torch.float32, torch.float64):
            advice = ""
            if tensor.dtype in (torch.float16, torch.bfloat16):
                advice = ". Widen a copy first, which loses nothing: copy.deepcopy(module).float()"
            raise ConversionError(f"{where}: {name} must be float32 or float64; got {tensor.dtype}{advice}")
        arrays[name] = tensor.detach().cpu().numpy()
    return common.real_arrays(where, arrays)


def _verify(where: str, torch: Any, layer: Any, module: Any) -> None:
    # On the CPU, since others may round more coarsely by default; a twin, so that neither mode nor place change.
    twin = copy.deepcopy(module).cpu().eval()
    other = f"torch.nn.{type(module).__name__}"
    if isinstance(layer, Linear):
        x = np.random.default_rng(0).normal(size=(common.BATCH, layer.in_features)).astype(layer.dtype)
        with torch.no_grad(), np.errstate(all="ignore"):
            ours, theirs = layer(x), twin(torch.from_numpy(x)).numpy()
            eps = float(np.finfo(layer.dtype).eps)
            moved = common.nudged_layer(layer, eps)(common.nudged(x, eps))
        rtol = tolerance(layer.dtype)
        common.assert_same(where, other, {"output": ours}, {"output": theirs}, {"output": moved}, rtol)
        return

    def run_cell(x: Array, initial: tuple[Array, ...]) -> dict[str, Array]:
        state, outputs = states.join([torch.from_numpy(one[0]) for one in initial]), []
        with torch.no_grad():
            for x_t in torch.from_numpy(x):
                state = twin(x_t, state)
                outputs.append(states.split(state)[0].numpy())
        return {"output": np.stack(outputs)}

    def run(x: Array, initial: tuple[Array, ...]) -> dict[str, Array]:
        first = states.join([torch.from_numpy(state) for state in initial])
        signal = torch.from_numpy(x)
        if layer.batch_first:  # the layer's axes for both: that the module has others would show
            signal = signal.transpose(0, 1)
        with torch.no_grad(), warnings.catch_warnings():
            # torch says that it takes its slower route, which is no concern of a small test.
            warnings.filterwarnings("ignore", "LSTM with projections", UserWarning)
            output, final = twin(signal, first)
        finals = {name: state.numpy() for name, state in zip(common.FINALS, states.split(final), strict=False)}
        return {"output": (output.transpose(0, 1) if layer.batch_first else output).numpy(), **finals}

    common.verify(where, layer, other, run_cell if isinstance(module, torch.nn.RNNCellBase) else run)
