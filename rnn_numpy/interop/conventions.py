"""Arrays of recurrent layers as other libraries keep them: a table of conventions, and the way there and back.

A `Convention` says, of one cell of one library, the names of its arrays by what they are, and how they lie. All of it
was found by running the library, and comparing its outputs with a loop over the equations (versions in the table).

What differs from torch, beside names, axes and the order of blocks:

- the update gate: here, as in torch, z is the share that is kept, h = (1 - z) n + z h. Where it "replaces", as in
  Haiku, Chainer and Cho et al., h = (1 - z) h + z n, the z blocks of weights and biases change sign, since
  s(-a) = 1 - s(a);
- a constant added at run time: Haiku's LSTM and TensorFlow's BlockLSTM add 1 to what enters the forget gate;
- biases: one is taken for bias_ih; where a GRU with the reset after the product has one of its own inside of it, only
  the n block of bias_hh is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import ConversionError, DTypeError, OptionError, ShapeError
from rnn_numpy.interop import common, state_dict
from rnn_numpy.interop.network import FoundLayer, Network

Array = NDArray[Any]
Names = tuple[str, ...]


@dataclass(frozen=True)
class Convention:
    """How one library keeps the arrays of one cell.

    Parameters
    ----------
    library, version : str
        Where it was measured.
    title : str
        The class or function there.
    cell : {"rnn", "lstm", "gru"}
    order : str
        The blocks in its order, in this package's letters.
    weight_ih, weight_hh, bias_ih, bias_hh : tuple of str
        Names; one for all blocks, or one for each in `order`.
    joined : tuple of str
        In place of weight_ih and weight_hh: arrays of the rows for x, then of those for h.
    bias_n : str
        The n block of bias_hh alone.
    turned : bool
        Whether arrays are (in, out).
    interleaved : bool
        Whether row G * unit + gate is a gate's, not a block of H rows.
    replaces : bool
        Whether z is the share that is new.
    forget : float
        What is added to the forget gate at run time.
    reset : {"after", "before"}
        Of a GRU.
    optional : tuple of str
        Names that may be missing: biases.
    refused : str
        Why it cannot be converted where these optional arrays are not 0.
    """

    library: str
    version: str
    title: str
    cell: str
    order: str
    weight_ih: Names = ()
    weight_hh: Names = ()
    bias_ih: Names = ()
    bias_hh: Names = ()
    joined: Names = ()
    bias_n: str = ""
    turned: bool = False
    interleaved: bool = False
    replaces: bool = False
    forget: float = 0.0
    reset: str = "after"
    refused: str = field(default="", repr=False)

    @property
    def key(self) -> str:
        """What tells it from the others: "flax GRUCell"."""
        return f"{self.library} {self.title}"

    @property
    def weights(self) -> Names:
        """The names that must be there."""
        return self.joined or (*self.weight_ih, *self.weight_hh)

    @property
    def biases(self) -> Names:
        """The names of which all are there, or none."""
        return (*self.bias_ih, *self.bias_hh, *filter(None, [self.bias_n]))


def _gates(pattern: str, gates: str) -> Names:
    return tuple(pattern.format(gate) for gate in gates)


FLAX: dict[str, Any] = {"library": "flax", "version": "0.12.12", "turned": True}
FLAX_LSTM: dict[str, Any] = {
    "cell": "lstm", "order": "ifgo", "weight_hh": _gates("h{}/kernel", "ifgo"), "bias_hh": _gates("h{}/bias", "ifgo")
}  # fmt: skip
CHAINER: dict[str, Any] = {"library": "chainer", "version": "7.8.1"}
CHAINER_GRU: dict[str, Any] = {
    "cell": "gru", "order": "rzn", "reset": "before", "replaces": True,
    "weight_ih": ("W_r/W", "W_z/W", "W/W"), "weight_hh": ("U_r/W", "U_z/W", "U/W"),
    "bias_ih": ("W_r/b", "W_z/b", "W/b"), "bias_hh": ("U_r/b", "U_z/b", "U/b"),
}  # fmt: skip
TENSORFLOW: dict[str, Any] = {"library": "tensorflow", "version": "2.21.0", "turned": True}
MLX: dict[str, Any] = {"library": "mlx", "version": "0.32.4"}
EQUINOX: dict[str, Any] = {
    "library": "equinox", "version": "0.13.8", "weight_ih": ("weight_ih",), "weight_hh": ("weight_hh",),
    "bias_ih": ("bias",),
}  # fmt: skip

NCNN: dict[str, Any] = {
    "library": "ncnn", "version": "1.0.20261020", "weight_ih": ("weight_xc",), "weight_hh": ("weight_hc",),
    "bias_ih": ("bias_c",),
}  # fmt: skip
KERAS: dict[str, Any] = {
    "library": "keras", "version": "3.15.1", "weight_ih": ("kernel",), "weight_hh": ("recurrent_kernel",),
    "bias_ih": ("bias",), "turned": True,
}  # fmt: skip

CONVENTIONS: tuple[Convention, ...] = (
    Convention(**EQUINOX, title="LSTMCell", cell="lstm", order="ifgo"),
    Convention(**EQUINOX, title="GRUCell", cell="gru", order="rzn", bias_n="bias_n"),
    Convention(**FLAX, **FLAX_LSTM, title="linen LSTMCell", weight_ih=_gates("i{}/kernel", "ifgo")),
    Convention(
        **FLAX, **FLAX_LSTM, title="nnx LSTMCell", weight_ih=("ii/kernel", "if_/kernel", "ig/kernel", "io/kernel")
    ),
    Convention(
        **FLAX, title="linen GRUCell", cell="gru", order="rzn", weight_ih=_gates("i{}/kernel", "rzn"),
        weight_hh=_gates("h{}/kernel", "rzn"), bias_ih=_gates("i{}/bias", "rzn"), bias_n="hn/bias",
    ),
    Convention(
        **FLAX, title="linen SimpleCell", cell="rnn", order="h", weight_ih=("i/kernel",), weight_hh=("h/kernel",),
        bias_ih=("i/bias",),
    ),
    Convention(
        **FLAX, title="nnx OptimizedLSTMCell", cell="lstm", order="ifgo", weight_ih=("dense_i/kernel",),
        weight_hh=("dense_h/kernel",), bias_hh=("dense_h/bias",),
    ),
    Convention(
        **FLAX, title="nnx GRUCell", cell="gru", order="rzn", weight_ih=("dense_i/kernel",),
        weight_hh=("dense_h/kernel",), bias_ih=("dense_i/bias",),
    ),
    Convention(
        "haiku", "0.0.17", "LSTM", "lstm", "igfo", joined=("linear/w",), bias_ih=("linear/b",), turned=True, forget=1.0
    ),
    Convention(
        "haiku", "0.0.17", "GRU", "gru", "zrn", weight_ih=("w_i",), weight_hh=("w_h",), bias_ih=("b",), turned=True,
        reset="before", replaces=True,
    ),
    Convention(**MLX, title="LSTM", cell="lstm", order="ifgo", weight_ih=("Wx",), weight_hh=("Wh",), bias_ih=("bias",)),
    Convention(
        **MLX, title="GRU", cell="gru", order="rzn", weight_ih=("Wx",), weight_hh=("Wh",), bias_ih=("b",), bias_n="bhn"
    ),
    Convention(**MLX, title="RNN", cell="rnn", order="h", weight_ih=("Wxh",), weight_hh=("Whh",), bias_ih=("bias",)),
    Convention(
        **CHAINER, title="NStepLSTM", cell="lstm", order="ifgo", weight_ih=_gates("w{}", "0123"),
        weight_hh=_gates("w{}", "4567"), bias_ih=_gates("b{}", "0123"), bias_hh=_gates("b{}", "4567"),
    ),
    Convention(
        **CHAINER, title="NStepGRU", cell="gru", order="rzn", weight_ih=_gates("w{}", "012"),
        weight_hh=_gates("w{}", "345"), bias_ih=_gates("b{}", "012"), bias_hh=_gates("b{}", "345"),
    ),
    Convention(
        **CHAINER, title="NStepRNNTanh", cell="rnn", order="h", weight_ih=("w0",), weight_hh=("w1",), bias_ih=("b0",),
        bias_hh=("b1",),
    ),
    Convention(
        **CHAINER, title="LSTM", cell="lstm", order="gifo", weight_ih=("upward/W",), weight_hh=("lateral/W",),
        bias_ih=("upward/b",), interleaved=True,
    ),
    Convention(**CHAINER, **CHAINER_GRU, title="StatelessGRU"),
    Convention(
        **CHAINER, **CHAINER_GRU, title="StatefulGRU",
        refused="its first step leaves out the biases of U, which no weights of a layer can do",
    ),
    Convention(
        **TENSORFLOW, title="BlockLSTM", cell="lstm", order="igfo", joined=("w",), bias_ih=("b",), forget=1.0
    ),
    Convention(**TENSORFLOW, title="BlockLSTMV2", cell="lstm", order="ifgo", joined=("w",), bias_ih=("b",)),
    Convention(
        **TENSORFLOW, title="GRUBlockCell", cell="gru", order="rzn", joined=("w_ru", "w_c"), bias_ih=("b_ru", "b_c"),
        reset="before",
    ),
    Convention(
        "mygrad", "2.5.0", "gru", "gru", "zrn", weight_ih=("Uz", "Ur", "Uh"), weight_hh=("Wz", "Wr", "Wh"),
        bias_ih=("bz", "br", "bh"), turned=True, reset="before",
    ),
    Convention(**NCNN, title="LSTM", cell="lstm", order="ifog"),
    Convention(**NCNN, title="GRU", cell="gru", order="rzn"),
    Convention(**KERAS, title="SimpleRNN", cell="rnn", order="h"),
    Convention(**KERAS, title="LSTM", cell="lstm", order="ifgo"),
    Convention(**KERAS, title="GRU(reset_after=True)", cell="gru", order="zrn"),
    Convention(**KERAS, title="GRU(reset_after=False)", cell="gru", order="zrn", reset="before"),
)  # fmt: skip

# These name their arrays as torch does, or nearly so.
LIKE_TORCH = ("torch", "paddle", "mxnet", "tinygrad")
LIBRARIES = tuple(dict.fromkeys([*LIKE_TORCH, *(one.library for one in CONVENTIONS)]))


def from_arrays(arrays: Mapping[str, Any], convention: str | None = None) -> Network:
    """Return the recurrent layers among named arrays, as another library keeps them.

    Parameters
    ----------
    arrays : mapping of str to ndarray, or nested mappings
        As a library hands out its parameters, or `numpy.load` those of an .npz file. Names of inner mappings are joined
        by "/".
    convention : str, optional
        The library, one of `LIBRARIES`, or with the class as in "flax linen GRUCell". Where left out, all whose names
        and shapes fit.

    Returns
    -------
    Network
        Where several conventions fit a layer, it has `choices`: nothing is guessed. `choose` takes one by its name,
        `decide` the one that a pair of input and output fits.

    Raises
    ------
    OptionError
        An unknown convention.
    ConversionError
        From `.layer`: several conventions fit; the layer does what no weights express.

    Examples
    --------
    >>> import numpy as np
    >>> w, b = np.ones((2 + 3, 12)), np.zeros(12)
    >>> found = from_arrays({"lstm/linear": {"w": w, "b": b}}, convention="haiku")["lstm"]
    >>> found.layer
    LSTM(2, 3, dtype=float64)
    >>> found.layer.params["bias_ih_l0"][3:6]  # the forget gate's: 1 is added at run time there
    array([1., 1., 1.])
    """
    where = "from_arrays"
    chosen = _chosen(where, convention)
    if not isinstance(arrays, Mapping):
        raise DTypeError(f"{where}: arrays must be a mapping of names to arrays; got {type(arrays).__name__}")
    flat = dict(_flattened(where, arrays))
    layers: list[FoundLayer] = []
    if convention is None or any(convention == name for name in LIKE_TORCH):
        layers += state_dict.find_layers(where, _as_torch_names(flat, convention))
    taken = {part for found in layers for part in found.parts}
    # Conventions by the arrays that they read; one that leaves out some of another's does not fit.
    fitting: dict[frozenset[str], dict[str, tuple[Convention, str]]] = {}
    for one in chosen:
        for front in _fronts(flat, one):
            read = frozenset(_full(flat, front, name) for name in one.weights)
            if not read & taken:
                fitting.setdefault(read, {})[one.key] = one, front
    layers += [
        _found(where, flat, keys) for read, keys in fitting.items() if not any(read < other for other in fitting)
    ]
    name = "arrays" if convention is None else f"arrays, read as those of {convention}"
    notes = [] if layers else [f"no recurrent layer that is known fits these names: {', '.join(list(flat)[:6])}"]
    return Network(name, "arrays", layers, notes)


def to_arrays(layer: Any, convention: str) -> dict[str, Array]:
    """Return the weights of a layer as another library keeps them; `from_arrays` is the way back.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        Of one layer and one direction; not changed.
    convention : str
        Library and class, as in "flax linen GRUCell", or the library where it has one class of this cell.

    Returns
    -------
    dict of str to ndarray
        Copies, under the names of that library.

    Raises
    ------
    ConversionError
        Several layers or directions; what that class does not have: a reset of the other kind, a bias inside of it.

    Examples
    --------
    >>> from rnn_numpy import GRU
    >>> {name: array.shape for name, array in to_arrays(GRU(2, 3), "equinox").items()}
    {'weight_ih': (9, 2), 'weight_hh': (9, 3), 'bias': (9,), 'bias_n': (3,)}
    """
    where = "to_arrays"
    cell = common.cell_of(where, layer)
    if convention in LIKE_TORCH and convention != "mxnet":
        return {name: array.copy() for name, array in layer.state_dict().items()}
    common.refuse_what_is_not_there(where, layer, convention, trains=True)
    if layer.num_layers != 1 or layer.num_directions != 1:
        raise ConversionError(f"{where}: one layer of one direction at a time; got {layer!r}")
    fitting = [one for one in _chosen(where, convention) if one.cell == cell and not one.refused]
    if cell == "gru":
        fitting = [one for one in fitting if one.reset == layer.reset]
    if len(fitting) != 1:
        names = ", ".join(repr(one.key) for one in fitting) or "none"
        raise ConversionError(f"{where}: convention must name one class for {layer!r}; {convention!r} leaves {names}")
    return _there(where, fitting[0], layer)


# ----------------------------------------------------------------------------------------------------------- the names


def _chosen(where: str, convention: str | None) -> list[Convention]:
    """Return the conventions that a name stands for, all for None."""
    if convention is None:
        return list(CONVENTIONS)
    fitting = [one for one in CONVENTIONS if convention in (one.library, one.key)]
    if not fitting and convention not in LIKE_TORCH:
        known = ", ".join(LIBRARIES)
        raise OptionError(f"{where}: convention must be one of {known}, or with a class behind it; got {convention!r}")
    return fitting


def _flattened(where: str, arrays: Mapping[str, Any], front: str = "") -> Iterator[tuple[str, Array]]:
    """Yield all arrays by name, those of inner mappings under both names, dots and "~" of Haiku as slashes."""
    for name, value in arrays.items():
        full = f"{front}/{name}" if front else str(name)
        if isinstance(value, Mapping):
            yield from _flattened(where, value, full)
        else:
            yield full, arguments.as_array(where, full, value)


MXNET = re.compile(r"(?P<front>.*?)(?P<way>[lr])(?P<layer>\d{1,4})_(?P<role>[ih]2h_(?:weight|bias))")
PADDLE = re.compile(r"(?P<front>.*?)(?P<layer>\d{1,4})\.cell(?P<way>_fw|_bw)?\.(?P<role>(?:weight|bias)_(?:ih|hh|ho))")
ROLES = {"i2h_weight": "weight_ih", "h2h_weight": "weight_hh", "i2h_bias": "bias_ih", "h2h_bias": "bias_hh"}


def _as_torch_names(flat: Mapping[str, Array], convention: str | None) -> dict[str, Array]:
    """Return arrays under torch's names, where they have those of MXNet or Paddle.

    Paddle has every array twice: under torch's names, and under those of the cells in the layer. With a projection,
    which is (H, P) there, the first are shifted by one, and the second are right. Without the first, and without being
    told, a module in a list could be meant.
    """
    is_paddle = convention == "paddle" or any(state_dict.NAME.fullmatch(name) and "_l" in name for name in flat)
    named: dict[str, Array] = {}
    for name, array in sorted(flat.items(), key=lambda one: ".cell" in one[0]):
        mxnet, paddle = MXNET.fullmatch(name), PADDLE.fullmatch(name) if is_paddle else None
        if mxnet is not None:
            reverse = "_reverse" if mxnet["way"] == "r" else ""
            named[f"{mxnet['front']}{ROLES[mxnet['role']]}_l{mxnet['layer']}{reverse}"] = array
        elif paddle is not None:
            role, turned = paddle["role"].replace("ho", "hr"), paddle["role"].endswith("ho")
            full = f"{paddle['front']}{role}_l{paddle['layer']}{'_reverse' if paddle['way'] == '_bw' else ''}"
            named[full] = (
                np.ascontiguousarray(array.T) if turned else array
            )  # with a projection, the others are shifted
        else:
            named[name] = array
    return named


def _full(flat: Mapping[str, Array], front: str, name: str) -> str:
    """Return the name of an array behind what stands in front of it, "" where there is none."""
    for separator in ("/", ".", "_") if front else ("",):
        for spelled in (name, name.replace("/", "."), name.replace("/", "_")):
            if (full := f"{front}{separator}{spelled}") in flat:
                return full
    return ""


def _fronts(flat: Mapping[str, Array], one: Convention) -> Iterator[str]:
    """Yield what stands in front of the names of a convention, wherever all of its weights are, and fit."""
    first = one.weights[0]
    seen = set()
    for full in flat:
        for spelled in (first, first.replace("/", "."), first.replace("/", "_")):
            front = full.removesuffix(spelled)
            if front == full or (front and front[-1] not in "/._") or (front := front.rstrip("/._")) in seen:
                continue
            if all(_full(flat, front, name) for name in one.weights):
                try:
                    _here(one, _own(flat, front, one))
                except (ShapeError, ConversionError, ValueError, IndexError):
                    continue
                seen.add(front)
                yield front


def _own(flat: Mapping[str, Array], front: str, one: Convention) -> dict[str, Array]:
    """Return the arrays of a convention by its own names; ConversionError where biases are there in part."""
    full = {name: _full(flat, front, name) for name in (*one.weights, *one.biases)}
    missing = [name for name in one.biases if not full[name]]
    if any(_full(flat, front, name) for name in ("bias_ih", "bias_hh")):
        raise ConversionError(f"{front}: its biases are torch's")
    if missing and len(missing) != len(one.biases):
        raise ConversionError(f"{front}: {', '.join(missing)} is missing")
    return {name: np.asarray(flat[place]) for name, place in full.items() if place}


def _found(where: str, flat: Mapping[str, Array], fitting: Mapping[str, tuple[Convention, str]]) -> FoundLayer:
    """Return what is said of a layer that one convention fits, or several."""
    first, front = next(iter(fitting.values()))
    own = _here(first, _own(flat, front, first))

    def make(one: Convention, front: str) -> Any:
        return lambda: _layer(f"{where}: {front or one.weights[0]}", one, _own(flat, front, one))

    choices: dict[str, Any] = {}
    for key, (one, place) in fitting.items():
        if one.cell == "rnn":  # neither names nor shapes tell
            choices |= {
                f"{key} {way}": make(replace(one, title=f"{one.title} {way}"), place) for way in ("tanh", "relu")
            }
        else:
            choices[key] = make(one, place)
    choices = choices if len(choices) > 1 else {}
    kinds = "/".join(dict.fromkeys(one.cell.upper() for one, _ in fitting.values()))
    return FoundLayer(
        front, kinds, own["weight_ih"].shape[1], own["weight_hh"].shape[1], make(first, front), choices=choices,
        parts=(front,), notes=() if choices else (f"read as {first.title} of {first.library} {first.version}",),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the arrays


def _rows(one: Convention, arrays: Mapping[str, Array], names: Names) -> Array:
    """Return one array (G H, ·), or (G H,), of those names, blocks in the convention's order."""
    parts = [arrays[name].T if one.turned else arrays[name] for name in names]
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if one.interleaved:
        G = len(one.order)
        array = array.reshape(len(array) // G, G, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
    return array


def _here(one: Convention, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return arrays as this package has them, without suffix; ShapeError where they do not fit."""
    G = len(one.order)
    if one.joined:
        joined = [arrays[name].T if one.turned else arrays[name] for name in one.joined]
        both = np.concatenate(joined)
        H = len(both) // G
        W_ih, W_hh = both[:, : both.shape[1] - H], both[:, both.shape[1] - H :]
    else:
        W_ih, W_hh = (_rows(one, arrays, names) for names in (one.weight_ih, one.weight_hh))
        H = W_hh.shape[1] if W_hh.ndim == 2 else 0
    if W_hh.ndim != 2 or W_hh.shape != (G * H, H) or not H:
        raise ShapeError(f"{one.key}: weight_hh must have shape ({G} H, H); got {W_hh.shape}")
    if W_ih.ndim != 2 or len(W_ih) != G * H or not W_ih.size:
        raise ShapeError(f"{one.key}: weight_ih must have shape ({G} H, D) with H = {H}; got {W_ih.shape}")
    found = {"weight_ih": W_ih, "weight_hh": W_hh}
    if any(name in arrays for name in one.biases):
        zeros = np.zeros(G * H, W_hh.dtype)
        found["bias_ih"], found["bias_hh"] = _biases(one, arrays, G, H, zeros)
    elif one.forget:
        found["bias_ih"] = found["bias_hh"] = np.zeros(G * H, W_hh.dtype)
    found = {name: common.reordered(array, one.order, common.BLOCKS[one.cell]) for name, array in found.items()}
    if one.forget:
        found["bias_ih"][H : 2 * H] += one.forget
    if one.replaces:
        for array in found.values():
            array[H : 2 * H] *= -1
    return found


def _biases(one: Convention, arrays: Mapping[str, Array], G: int, H: int, zeros: Array) -> tuple[Array, Array]:
    """Return both biases, (G H,), in the convention's order."""
    if one.key == "keras GRU(reset_after=True)":
        both = arrays["bias"]
        if both.shape != (2, 3 * H):
            raise ShapeError(f"{one.key}: bias must have shape (2, 3 u); got {both.shape}")
        return both[0], both[1]
    if one.key == "ncnn GRU":  # r, z, then n of the input's and of the hidden side
        four = arrays["bias_c"].reshape(-1)
        if four.shape != (4 * H,):
            raise ShapeError(f"{one.key}: bias_c must have 4 H entries; got {four.size}")
        return four[: 3 * H], np.concatenate([zeros[: 2 * H], four[3 * H :]])
    bias_ih, bias_hh = (
        _rows(replace(one, turned=False), arrays, names) if names else zeros for names in (one.bias_ih, one.bias_hh)
    )
    if one.bias_n:
        n = one.order.index("n")
        bias_hh = np.concatenate([zeros[: n * H], np.asarray(arrays[one.bias_n]), zeros[(n + 1) * H :]])
    for array in (bias_ih, bias_hh):
        if array.shape != (G * H,):
            raise ShapeError(f"{one.key}: biases must have {G} H = {G * H} entries; got shape {array.shape}")
    return bias_ih, bias_hh


def _layer(where: str, one: Convention, arrays: Mapping[str, Array]) -> Any:
    """Return the layer with arrays of a convention."""
    if one.refused and any(arrays[name].any() for name in one.bias_hh if name in arrays):
        raise ConversionError(f"{where}: {one.key} cannot be converted: {one.refused}")
    own = common.real_arrays(where, _here(one, common.real_arrays(where, arrays)))
    nonlinearity = "relu" if one.title.endswith(" relu") else "tanh"
    return common.assembled(one.cell, [[own]], **common.special_options(one.cell, nonlinearity, one.reset))


def _there(where: str, one: Convention, layer: Any) -> dict[str, Array]:
    """The inverse of `_here`."""
    H, want = layer.hidden_size, one.order
    own = {name: array.copy() for name, array in common.arrays_of(layer, 0)[0].items()}
    if one.replaces:
        for array in own.values():
            array[H : 2 * H] *= -1
    if one.forget:
        own.setdefault("bias_ih", np.zeros(len(own["weight_ih"]), layer.dtype))
        own["bias_ih"][H : 2 * H] -= one.forget
    bias_ih, bias_hh = (own.pop(name, np.zeros(len(own["weight_ih"]), layer.dtype)) for name in ("bias_ih", "bias_hh"))
    if one.bias_n or not (one.bias_ih and one.bias_hh):
        # One bias: only the sum acts, but for that inside of the reset.
        inside = one.cell == "gru" and one.reset == "after"
        n = slice(2 * H, 3 * H)
        own_n = bias_hh[n].copy() if inside else np.zeros(0, layer.dtype)
        bias_ih = bias_ih + bias_hh
        if inside:
            bias_ih[n] -= own_n
            if not one.bias_n and one.key not in WITH_BOTH and own_n.any():
                raise ConversionError(
                    f"{where}: {one.key} has no bias inside of the reset; the layer's bias_hh has one"
                )
        bias_hh = np.concatenate([np.zeros(2 * H, layer.dtype), own_n]) if inside else np.zeros_like(bias_ih)
    have = common.BLOCKS[one.cell]
    W_ih, W_hh, bias_ih, bias_hh = (
        common.reordered(array, have, want) for array in (own["weight_ih"], own["weight_hh"], bias_ih, bias_hh)
    )
    if one.joined:
        both = np.concatenate([W_ih, W_hh], axis=1)
        found = dict(_split(one, both, one.joined, [2 * H, H] if len(one.joined) == 2 else [len(both)]))
    else:
        found = dict(_split(one, W_ih, one.weight_ih)) | dict(_split(one, W_hh, one.weight_hh))
    if one.key in WITH_BOTH:
        found |= {one.bias_ih[0]: WITH_BOTH[one.key](bias_ih, bias_hh, H)}
    else:
        plain = replace(one, turned=False)
        names, bias = (one.bias_ih, bias_ih) if one.bias_ih else (one.bias_hh, bias_ih)
        sizes = [2 * H, H] if one.joined and len(names) == 2 else None
        found |= dict(_split(plain, bias, names, sizes))
        if one.bias_ih and one.bias_hh:
            found |= dict(_split(plain, bias_hh, one.bias_hh))
        if one.bias_n:
            at = one.order.index("n")
            found[one.bias_n] = bias_hh[at * H : (at + 1) * H].copy()
    return found


# Conventions that keep both biases in one array, and how.
WITH_BOTH: dict[str, Any] = {
    "keras GRU(reset_after=True)": lambda bias_ih, bias_hh, H: np.stack([bias_ih, bias_hh]),
    "ncnn GRU": lambda bias_ih, bias_hh, H: np.concatenate([bias_ih, bias_hh[2 * H :]]),
}


def _split(one: Convention, array: Array, names: Names, sizes: list[int] | None = None) -> Iterator[tuple[str, Array]]:
    """Yield the arrays that a convention has for one of ours, blocks in its order."""
    if one.interleaved:
        G = len(one.order)
        array = array.reshape(G, len(array) // G, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
    cuts = np.cumsum(sizes or [len(array) // len(names)] * len(names))[:-1]
    for name, part in zip(names, np.split(array, cuts), strict=True):
        yield name, np.ascontiguousarray(part.T if one.turned else part)
