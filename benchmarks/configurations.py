"""Layers and calls drawn by chance, and everything that comes out of them, by name: what two versions must agree in.

Of `rnn_numpy` only the public interface is used, so that the same lines run with version 0.2.0 and with the present
one.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Size

Array = NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """A class of the package, or a cell of our own, with the options that make it a different network.

    Parameters
    ----------
    maker : str
        The name of the class; "own cell" for the one below.
    gates : int
        Rows of the weights in units of H.
    states : tuple of str
    options : dict
    single : bool
        One step at a time: RNNCell and its like.
    """

    maker: str
    gates: int
    states: tuple[str, ...] = ("h",)
    options: Mapping[str, Any] | None = None
    single: bool = False


OWN = "own cell"
KINDS: dict[str, Kind] = {
    "RNN tanh": Kind("RNN", 1, options={"nonlinearity": "tanh"}),
    "RNN relu": Kind("RNN", 1, options={"nonlinearity": "relu"}),
    "LSTM": Kind("LSTM", 4, ("h", "c")),
    "LSTM projected": Kind("LSTM", 4, ("h", "c")),
    "GRU after": Kind("GRU", 3, options={"reset": "after"}),
    "GRU before": Kind("GRU", 3, options={"reset": "before"}),
    "PeepholeLSTM": Kind("PeepholeLSTM", 4, ("h", "c")),
    "LayerNormLSTM": Kind("LayerNormLSTM", 4, ("h", "c")),
    OWN: Kind(OWN, 2),
    "RNNCell tanh": Kind("RNNCell", 1, options={"nonlinearity": "tanh"}, single=True),
    "LSTMCell": Kind("LSTMCell", 4, ("h", "c"), single=True),
    "GRUCell after": Kind("GRUCell", 3, options={"reset": "after"}, single=True),
    "RNNCell relu": Kind("RNNCell", 1, options={"nonlinearity": "relu"}, single=True),
    "GRUCell before": Kind("GRUCell", 3, options={"reset": "before"}, single=True),
}
LAYERS = [name for name, kind in KINDS.items() if not kind.single]
CELLS = [name for name, kind in KINDS.items() if kind.single]
ROUND = len(LAYERS) + 1  # configurations: each layer, and one of the cells

BLOCK_BYTES = 2**19  # of a's memory, after which the engine begins a new block of steps
STEPS = 150  # at most, in those that cross blocks
STEP = 1e-20  # of the complex step: so small that its square vanishes beside 1


@dataclass(frozen=True)
class Configuration:
    """A layer and one call of it.

    Parameters
    ----------
    number, seed : int
        What it was drawn from; so are all its numbers.
    kind : str
        A key of `KINDS`.
    size : tuple of int
        (T, N, D, H).
    dtype : {"float32", "float64", "complex128"}
    options : dict
        Of the constructor, beside those of the kind.
    lengths : list of int, or None
    form : {"padded", "packed", "unbatched"}
    h_0, doutput, dh_n, training, check_finite : bool
        Whether the call is given these.
    scale : float
        Of x: at 20 gates saturate.
    memory : {"C", "F", "strided"}
        How x and doutput lie in memory.
    """

    number: int
    seed: int
    kind: str
    size: Size
    dtype: str
    options: dict[str, Any]
    lengths: list[int] | None = None
    form: str = "padded"
    h_0: bool = True
    doutput: bool = True
    dh_n: bool = True
    training: bool = True
    check_finite: bool = False
    scale: float = 1.0
    memory: str = "C"

    @property
    def blocks(self) -> int:
        """The number of blocks of steps that the engine goes through."""
        T, N, _, H = self.size
        slabs = KINDS[self.kind].gates + (self.kind == "GRU after")  # which has W_hn h beside its gates
        size = BLOCK_BYTES // (N * slabs * H * np.dtype(self.dtype).itemsize)
        return -(-(T if self.lengths is None else max(self.lengths)) // max(1, size))

    @property
    def gaps(self) -> bool:
        """Whether blocks of da lie step by step, with gaps between them."""
        return self.size[1] == 1 or self.lengths is not None

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Configuration:
        """Return the configuration that `to_json` described."""
        options = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields["options"].items()
        }
        return cls(**{**fields, "size": tuple(fields["size"]), "options": options})

    def __str__(self) -> str:
        steps, batch, inputs, hidden = self.size
        words = [f"{self.number}: {self.kind}, {self.dtype}, T={steps} N={batch} D={inputs} H={hidden}"]
        words += [f"{name}={value}" for name, value in self.options.items()]
        words += [] if self.lengths is None else [f"lengths {self.lengths}"]
        words += [] if self.form == "padded" else [self.form]
        words += [f"no {name}" for name in ("h_0", "doutput", "dh_n", "training") if not getattr(self, name)]
        words += [] if self.scale == 1 else [f"x of scale {self.scale:g}"]
        words += [] if self.memory == "C" else [f"memory {self.memory}"]
        return ", ".join(words)


# --------------------------------------------------------------------------------------------------------- drawing


def draw(number: int, seed: int) -> Configuration:
    """Return a configuration; the same for the same numbers.

    Each round of `ROUND` numbers has every layer once, and one of the cells. In a round one layer is long: its steps
    take more than one block of memory; and one is wide: H is at least 256, from where matrices lie in another order.
    """
    rng = np.random.default_rng([seed, number])
    turn, place = divmod(number, ROUND)
    kind = CELLS[turn % len(CELLS)] if place == len(LAYERS) else LAYERS[place]
    dtype = str(rng.choice(["float64", "float32", "complex128"], p=[0.5, 0.3, 0.2]))
    if KINDS[kind].single:
        size = (1, _one_or(rng, 9), _one_or(rng, 9), _one_or(rng, 40))
        chosen: dict[str, Any] = {"bias": _chance(rng, 0.75)}
        form = "unbatched" if _chance(rng, 0.25) else "padded"
        if form == "unbatched":
            size = (1, 1, *size[2:])
        return Configuration(number, seed, kind, size, dtype, chosen, form=form, h_0=_chance(rng, 0.7))
    long, wide = place == turn * 2 % len(LAYERS), place == (turn * 2 + 4) % len(LAYERS)
    size = _size(rng, kind, np.dtype(dtype).itemsize, long, wide)
    steps, batch, inputs, hidden = size
    options = _options(rng, kind, hidden, few=long or wide)
    form = str(rng.choice(["padded", "packed", "unbatched"], p=[0.75, 0.25, 0.0] if long else [0.65, 0.2, 0.15]))
    lengths = None
    if form == "unbatched":
        size = (steps, 1, inputs, hidden)
    elif form == "packed" or _chance(rng, 0.5):
        longest = steps if _chance(rng, 0.8) else max(1, steps - 1)
        drawn = rng.integers(1, longest, batch, endpoint=True)
        drawn[rng.integers(batch)] = longest
        lengths = [int(length) for length in (-np.sort(-drawn) if _chance(rng, 0.35) else drawn)]
    doutput = _chance(rng, 0.9)
    return Configuration(
        number,
        seed,
        kind,
        size,
        dtype,
        options,
        lengths,
        form,
        h_0=_chance(rng, 0.6),
        doutput=doutput,
        dh_n=_chance(rng, 0.7) or not doutput,
        training=_chance(rng, 0.85),
        check_finite=_chance(rng, 0.2),
        scale=float(rng.choice([1.0, 20.0, 1e-3], p=[0.8, 0.1, 0.1])),
        memory=str(rng.choice(["C", "F", "strided"], p=[0.7, 0.15, 0.15])),
    )


def _chance(rng: np.random.Generator, share: float) -> bool:
    return bool(rng.random() < share)


def _one_or(rng: np.random.Generator, most: int) -> int:
    """Return 1 in a quarter of the cases, else a number from 2 to `most`."""
    return 1 if _chance(rng, 0.25) else int(rng.integers(2, most, endpoint=True))


def _size(rng: np.random.Generator, kind: str, itemsize: int, long: bool, wide: bool) -> Size:
    least = 2 if kind == "LSTM projected" else 1
    if wide:
        hidden, inputs = int(rng.choice([256, 257, 300])), int(rng.choice([3, 32, 64]))
        return _one_or(rng, 4), _one_or(rng, 4), inputs, hidden
    inputs = int(rng.integers(1, 9, endpoint=True))
    if long:
        hidden = int(rng.integers(16, 40, endpoint=True))
        wanted, step = rng.uniform(1.1, 2.5) * BLOCK_BYTES, KINDS[kind].gates * hidden * itemsize
        batch = math.ceil(wanted / (STEPS * step))
        return math.ceil(wanted / (batch * step)), batch, inputs, hidden
    hidden = int(rng.integers(least, 12, endpoint=True) if _chance(rng, 0.6) else rng.integers(13, 40, endpoint=True))
    steps = 1 if _chance(rng, 0.1) else int(rng.integers(2, 12 if _chance(rng, 0.8) else 40, endpoint=True))
    return steps, _one_or(rng, 9), inputs, hidden


def _options(rng: np.random.Generator, kind: str, hidden: int, few: bool) -> dict[str, Any]:
    """Draw a layer's options; those that stay at their defaults are left out."""

    def rate() -> float:
        return float(rng.choice([0.1, 0.25, 0.5, 0.9]))

    options: dict[str, Any] = {}
    layers = int(rng.choice([1, 2, 3], p=[0.8, 0.2, 0.0] if few else [0.5, 0.35, 0.15]))
    if layers > 1:
        options["num_layers"] = layers
        if _chance(rng, 0.5):
            options["dropout"] = rate()
    if _chance(rng, 0.25):
        options["bias"] = False
    if _chance(rng, 0.3):
        options["batch_first"] = True
    if _chance(rng, 0.4):
        options["bidirectional"] = True
    if _chance(rng, 0.3):
        options["recurrent_dropout"] = rate()
    states = KINDS[kind].states
    if _chance(rng, 0.3):
        options["zoneout"] = rate() if len(states) == 1 or _chance(rng, 0.5) else tuple(rate() for _ in states)
    if kind == "LSTM projected":
        options["proj_size"] = int(rng.integers(1, hidden))
    if len(states) == 2 and options.get("bias", True) and _chance(rng, 0.25):
        options["forget_bias"] = 1.0
    if kind == "LayerNormLSTM" and _chance(rng, 0.25):
        options["epsilon"] = 1e-3
    return options


# -------------------------------------------------------------------------------------------------- layers and data


def own_step_forward(
    f_t: Array, n_t: Array, h_prev: Array, h_in: Array, W_hf: Array, W_hn: Array, k_t: Array, h_t: Array
) -> None:
    """The minimal gated unit of examples/run_your_own_cell.py."""
    f_t += W_hf @ h_in
    f_t[...] = (1 + np.tanh(f_t / 2)) / 2
    k_t[...] = f_t * h_in
    n_t[...] = np.tanh(n_t + W_hn @ k_t)
    h_t[...] = (1 - f_t) * h_prev + f_t * n_t


def own_step_backward(
    dh_t: Array,
    f_t: Array,
    n_t: Array,
    h_prev: Array,
    h_in: Array,
    W_hf: Array,
    W_hn: Array,
    da_f_t: Array,
    da_n_t: Array,
    dh_prev: Array,
    dh_in: Array,
) -> None:
    """Its backward step."""
    df = dh_t * (n_t - h_prev)
    dh_prev += dh_t * (1 - f_t)
    da_n_t[...] = dh_t * f_t * (1 - n_t**2)
    dk = W_hn.T @ da_n_t
    df += dk * h_in
    dh_in += dk * f_t
    da_f_t[...] = df * f_t * (1 - f_t)
    dh_in += W_hf.T @ da_f_t


def make(configuration: Configuration) -> Any:
    """Return the layer, or the cell."""
    import rnn_numpy

    kind = KINDS[configuration.kind]
    if kind.maker == OWN:
        # Written as 0.2.0 wants it. Where a later version wants it otherwise, its way is to stand beside this one.
        cell = rnn_numpy.Cell(
            gate_names=("f", "n"),
            states=("h",),
            step_forward=own_step_forward,
            step_backward=own_step_backward,
            hidden_inputs={"n": "k_t"},
            records={"k": 1},
        )
        maker: Any = type("OwnLayer", (rnn_numpy.Recurrent,), {"cell": cell})
    else:
        maker = getattr(rnn_numpy, kind.maker)
    _, _, inputs, hidden = configuration.size
    options = {**(kind.options or {}), **configuration.options}
    return maker(inputs, hidden, **options, dtype=np.dtype(configuration.dtype), rng=configuration.number)


@dataclass
class Given:
    """What a call is given, in the caller's form; None where it is given nothing. `vx` and `vh_0` are for `jvp`."""

    x: Any
    h_0: Any
    doutput: Any
    dh_n: Any
    vx: Any
    vh_0: Any


def given(configuration: Configuration) -> Given:
    """Draw the arrays of a call."""
    steps, batch, inputs, hidden = configuration.size
    options, kind = configuration.options, KINDS[configuration.kind]
    directions = 2 if options.get("bidirectional") else 1
    widths = [options.get("proj_size", hidden) if state == "h" else hidden for state in kind.states]
    rng = np.random.default_rng([configuration.seed, configuration.number, 1])

    def sequence(width: int, scale: float = 1.0) -> Any:
        return _formed(configuration, scale * normal(rng, (steps, batch, width), configuration.dtype))

    def state() -> Any:
        rows = () if kind.single else (options.get("num_layers", 1) * directions,)
        columns = () if configuration.form == "unbatched" else (batch,)
        drawn = tuple(normal(rng, (*rows, *columns, width), configuration.dtype) for width in widths)
        return drawn if len(drawn) > 1 else drawn[0]

    x, h_0 = sequence(inputs, configuration.scale), state()
    doutput, dh_n = sequence(directions * widths[0]), state()
    return Given(
        x,
        h_0 if configuration.h_0 else None,
        doutput if configuration.doutput else None,
        dh_n if configuration.dh_n else None,
        sequence(inputs),
        state(),
    )


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Return normal numbers; of complex ones both parts."""
    drawn: Array = rng.standard_normal(shape)
    if dtype == "complex128":
        drawn = drawn + 1j * rng.standard_normal(shape)
    return drawn.astype(dtype)


def _formed(configuration: Configuration, array: Array) -> Any:
    """Return (T, N, K) as the caller has it."""
    array = array.astype(configuration.dtype)
    if KINDS[configuration.kind].single:
        return array[0, 0] if configuration.form == "unbatched" else array[0]
    if configuration.form == "packed":
        import rnn_numpy

        return rnn_numpy.pack_padded_sequence(array, configuration.lengths or [], enforce_sorted=False)
    if configuration.form == "unbatched":
        array = array[:, 0]
    elif configuration.options.get("batch_first"):
        array = array.swapaxes(0, 1)
    if configuration.memory == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return np.asfortranarray(array) if configuration.memory == "F" else np.ascontiguousarray(array)


# --------------------------------------------------------------------------------------------------------- results


def results(configuration: Configuration) -> dict[str, Array]:
    """Run a configuration through all that its layer does; return copies of all arrays that come out, by name."""
    found: dict[str, Array] = {}
    with np.errstate(all="ignore"):
        found.update(_single(configuration) if KINDS[configuration.kind].single else _layer(configuration))
    return found


def _layer(configuration: Configuration) -> dict[str, Array]:
    kind, data = KINDS[configuration.kind], given(configuration)
    layer, lengths = make(configuration), _lengths(configuration)
    finals, initial = [f"{state}_n" for state in kind.states], [f"d{state}_0" for state in kind.states]
    found = dict(_named("weights", layer.state_dict()))
    output, state = layer(data.x, data.h_0, lengths)
    found |= _named("inference", {"output": output, **_by_state(finals, state)})
    # Masks are drawn here, by the layer's own generator.
    output, state, trace = layer.forward(
        data.x, data.h_0, lengths, training=configuration.training, check_finite=configuration.check_finite
    )
    found |= _named("forward", {"output": output, **_by_state(finals, state)})
    found |= _named("masks", _masks(trace, kind))
    found |= _traced("trace", trace, configuration)
    output, state, _ = layer.forward(data.x, data.h_0, lengths, training=configuration.training, **_replay(trace))
    found |= _named("repeated", {"output": output, **_by_state(finals, state)})
    back = layer.backward(trace, data.doutput, data.dh_n)
    found |= _named("backward", _returned(back, initial))
    found |= _traced("traced backward", trace, configuration)
    rng = np.random.default_rng([configuration.seed, configuration.number, 2])
    sums = layer.params.zeros_like()
    sums.flat[:] = normal(rng, sums.flat.shape, configuration.dtype)
    found |= _named("added", _returned(layer.backward(trace, data.doutput, data.dh_n, sums), initial))
    found |= _stepped(layer, trace, data, configuration, initial)
    if kind.maker != OWN:  # it has no forward mode
        changes = {name: normal(rng, array.shape, configuration.dtype) for name, array in layer.params.items()}
        tangent = _jvp()(layer, trace, vx=data.vx, vh_0=data.vh_0, vparams=changes)
        found |= _named("jvp", {"voutput": tangent.voutput, **_by_state([f"v{name}" for name in finals], tangent.vh_n)})
    return found


def _stepped(
    layer: Any, trace: Any, data: Given, configuration: Configuration, initial: Sequence[str]
) -> dict[str, Array]:
    """Run the backward pass step by step; look at the trace half-way."""
    found: dict[str, Array] = {}
    sums = layer.params.zeros_like()
    steps = layer.backward_steps(trace, data.doutput, data.dh_n, sums)
    span = max(configuration.lengths or [configuration.size[0]])
    middle = span * len(_titles(configuration)) // 2
    visited: list[tuple[int, int, int]] = []
    for step in steps:
        if len(visited) == middle:
            found |= _named("step", {name: getattr(step, name) for name in step.names})
            found |= _traced("halted", trace, configuration)
        visited.append((step.layer, int(step.reverse), step.t))
    found["steps/visited"] = np.array(visited)
    found |= _named("steps", _returned(steps.result, initial))
    return found


def _single(configuration: Configuration) -> dict[str, Array]:
    kind, data = KINDS[configuration.kind], given(configuration)
    cell = make(configuration)
    before = [f"d{state}_prev" for state in kind.states]
    found = dict(_named("weights", cell.state_dict()))
    found |= _named("inference", _by_state(kind.states, cell(data.x, data.h_0)))
    state, trace = cell.forward(data.x, data.h_0)
    found |= _named("forward", _by_state(kind.states, state))
    found |= _traced("trace", trace, configuration)
    found |= _named("backward", _returned(cell.backward(trace, data.dh_n), before))
    found |= _traced("traced backward", trace, configuration)
    rng = np.random.default_rng([configuration.seed, configuration.number, 2])
    sums = cell.params.zeros_like()
    sums.flat[:] = normal(rng, sums.flat.shape, configuration.dtype)
    found |= _named("added", _returned(cell.backward(trace, data.dh_n, sums), before))
    return found


def _lengths(configuration: Configuration) -> list[int] | None:
    """Return what `forward` is given: packed sequences bring their own."""
    return None if configuration.form == "packed" else configuration.lengths


def _jvp() -> Callable[..., Any]:
    """Return forward mode: it has moved since 0.2.0, which has it in `layers`."""
    for room in ("engine.forward_mode", "layers"):
        with contextlib.suppress(ModuleNotFoundError, AttributeError):
            found: Callable[..., Any] = importlib.import_module(f"rnn_numpy.{room}").jvp
            return found
    raise ImportError("rnn_numpy has no jvp, neither in engine nor in layers")


def _titles(configuration: Configuration) -> list[str]:
    """Return the names of layers and directions."""
    options = configuration.options
    ends = ("", "_reverse") if options.get("bidirectional") else ("",)
    return [f"l{layer}{end}" for layer in range(options.get("num_layers", 1)) for end in ends]


def _by_state(names: Sequence[str], states: Any) -> dict[str, Any]:
    return dict(zip(names, states if len(names) > 1 else (states,), strict=True))


def _returned(back: Any, initial: Sequence[str]) -> dict[str, Any]:
    """Return the gradients that a backward pass hands back."""
    return {"dx": back.dx, **{name: getattr(back, name) for name in initial}, "grads": dict(back.grads)}


def _masks(trace: Any, kind: Kind) -> dict[str, Any]:
    zoneout = {title: _by_state(kind.states, _alone(kept)) for title, kept in trace.zoneout_masks.items()}
    between = {str(index): mask for index, mask in enumerate(trace.masks or [])}
    return {"dropout": between, "recurrent": dict(trace.recurrent_masks), "zoneout": zoneout}


def _alone(arrays: Any) -> Any:
    return arrays[0] if len(arrays) == 1 else arrays


def _replay(trace: Any) -> dict[str, Any]:
    """Return what makes `forward` use the masks of a trace."""
    return {
        "dropout_masks": trace.masks,
        "recurrent_masks": trace.recurrent_masks or None,
        "zoneout_masks": trace.zoneout_masks or None,
    }


def _traced(prefix: str, trace: Any, configuration: Configuration) -> dict[str, Array]:
    """Return copies of all arrays of a trace, those of each layer and direction, and of the weights in it."""
    found: dict[str, Array] = {}
    for title in _titles(configuration):
        run = trace[title]
        found |= _named(f"{prefix}/{title}", {name: getattr(run, name) for name in run.names})
        # "b", the sum of two others, is no longer kept but computed when asked for.
        found |= _named(f"{prefix}/{title}", {name: array for name, array in run.weights.items() if name != "b"})
    return found


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, Array]:
    """Return copies of arrays, and of the parts of what holds several, by their paths."""
    return {f"{prefix}/{path}": np.array(array) for path, array in _leaves(values)}


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    for name, value in values.items():
        if hasattr(value, "batch_sizes"):  # packed: a tuple of arrays, some of them None
            parts = {part: getattr(value, part) for part in value._fields}
            inner = {part: array for part, array in parts.items() if array is not None}
        elif isinstance(value, Mapping):
            inner = dict(value)
        else:
            yield name, value
            continue
        for path, array in _leaves(inner):
            yield f"{name}/{path}", array


# ---------------------------------------------------------------------------------------------------- complex steps


def derivatives(configuration: Configuration, places: Mapping[str, Sequence[int]]) -> dict[str, list[float]]:
    """Return derivatives of the loss, sum(doutput * output) + sum(dh_n * h_n), by the complex step.

    Parameters
    ----------
    configuration : Configuration
        Real.
    places : mapping of str to sequence of int
        By the name of a gradient as `results` has it under "backward" ("dx", "dh_0", "grads/weight_hh_l0", ...), which
        entries of it, counted in C order.

    Returns
    -------
    dict of str to list of float
    """
    kind, data = KINDS[configuration.kind], given(configuration)
    layer = make(configuration)
    found: dict[str, list[float]] = {}
    with np.errstate(all="ignore"):
        masks: dict[str, Any] = {}
        if not kind.single:
            _, _, trace = layer.forward(data.x, data.h_0, _lengths(configuration), training=configuration.training)
            masks = {"training": configuration.training, **_replay(trace)}
        twin = layer.astype(np.complex128)
        x, h_0 = _widened(data.x), _widened(_initial(configuration, data))
        states = h_0 if isinstance(h_0, tuple) else (h_0,)

        def loss() -> float:
            if kind.single:
                return _weighted(data.dh_n, twin(x, h_0))
            output, state, _ = twin.forward(x, h_0, _lengths(configuration), **masks)
            return _weighted(data.doutput, output) + _weighted(data.dh_n, state)

        for name, entries in places.items():
            if name == "dx":
                array = _values(x)
            elif name.startswith("grads/"):
                array = twin.params[name.removeprefix("grads/")]
            else:
                array = states[kind.states.index(name[1])]
            found[name] = []
            for entry in entries:
                place = np.unravel_index(entry, array.shape)
                kept = array[place]
                array[place] = kept + 1j * STEP
                found[name].append(loss() / STEP)
                array[place] = kept
    return found


def _initial(configuration: Configuration, data: Given) -> Any:
    """Return the initial states, zeros where the call is given none."""
    if configuration.h_0:
        return data.h_0
    return tuple(map(np.zeros_like, data.vh_0)) if isinstance(data.vh_0, tuple) else np.zeros_like(data.vh_0)


def _widened(value: Any) -> Any:
    """Return a complex copy of an array, a tuple of them, or packed sequences."""
    if hasattr(value, "batch_sizes"):
        return value.with_data(value.data.astype(np.complex128))
    return tuple(map(_widened, value)) if isinstance(value, tuple) else np.array(value, np.complex128)


def _values(value: Any) -> Array:
    """Return the array itself, or the data of packed sequences."""
    array: Array = value.data if hasattr(value, "batch_sizes") else value
    return array


def _weighted(weights: Any, values: Any) -> float:
    """Return the imaginary part of sum(weights * values); 0 without weights."""
    if weights is None:
        return 0.0
    if isinstance(values, tuple) and not hasattr(values, "batch_sizes"):
        return sum(_weighted(weight, value) for weight, value in zip(weights, values, strict=True))
    return float(np.sum(_values(weights) * _values(values).imag))
