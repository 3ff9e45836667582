"""What is known of a wrong backward pass: where it is wrong, what a good checker should say, and data that show it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.checks.compare import discrepancy
from rnn_numpy.checks.diagnosis.known_mistakes import DIAGNOSES, PLACES
from rnn_numpy.core.states import join
from rnn_numpy.engine import Recurrent
from rnn_numpy.errors import OptionError
from rnn_numpy.layers import GRU, LSTM, RNN
from rnn_numpy.layers.attention import AttentionGRU, AttentionLSTM, AttentionRNN

Array = NDArray[Any]
L = TypeVar("L", bound=type[Recurrent])

# Which part of a backward pass is wrong.
PARTS: Mapping[str, str] = MappingProxyType(
    {
        "loss's entry": "what doutput and dh_n put into dh and dc before the first step",
        "immediate partial": "the derivatives of one step, which a sequence of one step shows",
        "recurrence": "what a step hands to the one before; parameters are right where T = 1 and nothing reads h_n",
        "loop": "which steps are gone through, and in which order",
        "sums over steps": "the parameters' gradients, from steps that are right",
        "between layers": "what a layer hands to the one below",
        "outside of the steps": "what is done with arguments, results and memory",
    }
)

# At which steps dx is wrong.
STEPS: Mapping[str, str] = MappingProxyType(
    {
        "none": "dx is right",
        "all": "at each",
        "first": "at t = 0 alone",
        "all but the last": "from t = T - 2 down to 0",
        "early": "from some earlier step down to 0",
    }
)

# What must be there for a mistake to show.
NEEDS: Mapping[str, str] = MappingProxyType(
    {
        "T > 1": "more than one step",
        "N > 1": "more than one sequence",
        "dh_n": "a gradient of the final states",
        "lengths": "sequences of unequal lengths, not sorted",
        "dropout masks": "dropout between layers",
        "recurrent masks": "recurrent dropout",
        "contracting weights": "W_hh so small that gradients vanish within some steps",
        "last loss alone": "a loss of the last step, so that early gradients have vanished",
        "large loss": "a loss whose gradients are larger than those of a sum of outputs",
        "saturated gate": "a gate that is exactly 0",
        "masked memory": "sequences with memories of unequal lengths",
        "many units": "so many parameters that one of them hardly counts",
        "second call": "two calls with the same arguments",
        "grads handed in": "the same grads in both calls",
    }
)

TOLERANCE = 1e-12

# Of a memory.
ROWS = 5


@dataclass(frozen=True)
class Where:
    """Where a backward pass is wrong: what a localiser should find.

    Parameters
    ----------
    tensors : tuple of str
        Names of what the wrong gradients belong to: "x", "h_0", "c_0", or a parameter. The name of a parameter says
        layer and direction: "weight_hh_l1_reverse". All others are right.
    part : str
        A key of `PARTS`.
    gate : str, optional
        The gate whose rows are wrong where T = 1 (of an immediate partial), or in the sums alone; None where it is
        none in particular.
    steps : str
        A key of `STEPS`: the t at which dx is wrong, each measured at its own size.
    """

    tensors: tuple[str, ...]
    part: str
    gate: str | None = None
    steps: str = "all"

    def __post_init__(self) -> None:
        for name, table in (("part", PARTS), ("steps", STEPS)):
            if getattr(self, name) not in table:
                raise OptionError(f"Where: {name} must be one of {', '.join(table)}; got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Exhibit:
    """A wrong layer, the right one with the same parameters, and data on which they differ.

    Attributes
    ----------
    layer, right : Recurrent
        The wrong layer, and its parent class's.
    x : ndarray, (T, N, D)
    h_0 : ndarray, (layers * directions, N, H), or a tuple of two
        As the layer's `forward` takes it.
    lengths : ndarray of int, (N,), or None
    masks : dict
        Further arguments of `forward`: dropout_masks or recurrent_masks, where they are needed; `given`, a memory, of a
        layer with attention.
    doutput : ndarray, (T, N, directions * H)
    dh_n : like h_0
    calls : int
        How often to call before the gradients are looked at.
    shared_grads : bool
        Whether the calls add to one set of gradients.
    """

    layer: Recurrent
    right: Recurrent
    x: Array
    h_0: Any
    lengths: Array | None
    masks: Mapping[str, Any]
    doutput: Array
    dh_n: Any
    calls: int
    shared_grads: bool

    def forward(self, layer: Recurrent) -> tuple[Array, Any, Any]:
        """Run a layer's forward pass on the data."""
        return layer.forward(self.x, self.h_0, self.lengths, **self.masks)

    def gradients(self, layer: Recurrent, *, stepped: bool = False) -> dict[str, Array]:
        """Return the gradients of the last call, by the names of what they belong to: "x", "h_0", "weight_hh_l0", ...

        Parameters
        ----------
        layer : Recurrent
            Of this exhibit. Neither it nor the data are changed.
        stepped : bool
            Whether to run `backward_steps` in place of `backward`.
        """
        layer, data = copy.deepcopy((layer, self))
        grads = layer.params.zeros_like() if self.shared_grads else None
        for _ in range(self.calls):
            _, _, trace = data.forward(layer)
            if stepped:
                steps = layer.backward_steps(trace, data.doutput, data.dh_n, grads)
                for _ in steps:
                    pass
                back: Any = steps.result
            else:
                back = layer.backward(trace, data.doutput, data.dh_n, grads)
        initial = {f"{state}_0": getattr(back, f"d{state}_0") for state in layer.cell.states}
        memory = {f"given[{name!r}]": gradient for name, gradient in back.dgiven.items()}
        return {"x": back.dx, **initial, **back.grads, **memory}

    def differences(self) -> dict[str, float]:
        """Return how wrong each gradient is, relative to its largest entry; that of x step by step, at each step's own
        size, the largest of these.
        """
        wrong, right = self.gradients(self.layer), self.gradients(self.right)
        found = {name: _error(wrong[name], right[name]) for name in right}
        found["x"] = float(self.differences_by_step().max())
        return found

    def differences_by_step(self) -> Array:
        """Return how wrong dx is at each step, (T,), relative to that step's largest entry."""
        wrong, right = self.gradients(self.layer)["x"], self.gradients(self.right)["x"]
        return np.array([_error(mine, reference) for mine, reference in zip(wrong, right, strict=True)])


def _error(wrong: Array, right: Array) -> float:
    """Return the relative error; infinity also where an entry is not finite."""
    error = discrepancy(wrong, right).error
    return np.inf if np.isnan(error) else error


@dataclass(frozen=True, eq=False)
class Specimen:
    """A wrong backward pass and all that is known of it.

    Parameters
    ----------
    name : str
        Short, in words with hyphens.
    layer : type of Recurrent
        A subclass of RNN, LSTM or GRU, or of one of these with attention: right forward, wrong backward. Its docstring
        says what is wrong.
    diagnosis : str
        A key of `DIAGNOSES`: what a good checker should name.
    where : Where
    origin : str
        The project in which it stood, and where that is told; or "classic".
    options : mapping
        Options that the layer's constructor needs.
    needs : tuple of str
        Keys of `NEEDS`: what must be there for the mistake to show.
    also : tuple of str
        Further keys of `DIAGNOSES` that describe the same wrong numbers.
    """

    name: str
    layer: type[Recurrent]
    diagnosis: str
    where: Where
    origin: str = "classic"
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in (self.diagnosis, *self.also):
            if key not in DIAGNOSES:
                raise OptionError(f"Specimen {self.name}: diagnosis must be one of {', '.join(DIAGNOSES)}; got {key!r}")
        for need in self.needs:
            if need not in NEEDS:
                raise OptionError(f"Specimen {self.name}: needs must be among {', '.join(NEEDS)}; got {need!r}")

    @property
    def mistake(self) -> str:
        """What is wrong, a sentence without its capital and its end."""
        told = " ".join((self.layer.__doc__ or "").split()).removesuffix(".")
        return told[:1].lower() + told[1:] if told[1:2].islower() or told[1:2] == " " else told

    @property
    def parent(self) -> type[Recurrent]:
        """The right layer: RNN, LSTM or GRU, or one of these with attention."""
        kinds = (AttentionRNN, AttentionLSTM, AttentionGRU, RNN, LSTM, GRU)
        return next(kind for kind in kinds if issubclass(self.layer, kind))

    @property
    def cell(self) -> str:
        """The family: "rnn", "lstm" or "gru"."""
        return self.parent.__name__.removeprefix("Attention").lower()

    @property
    def place(self) -> str | None:
        """The entry of `PLACES` for the part that is wrong, None where there is none."""
        return PLACES.get(self.where.part)

    def make(
        self,
        input_size: int = 3,
        hidden_size: int = 4,
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float64,
        *,
        right: bool = False,
    ) -> Recurrent:
        """Return the wrong layer, or the right one, with parameters on which the mistake shows.

        Examples
        --------
        >>> from rnn_numpy.zoo import specimen
        >>> specimen("forget-gate-derivative-missing").make()
        ForgetGateDerivativeMissing(3, 4, dtype=float64)
        """
        kind: Callable[..., Recurrent] = self.parent if right else self.layer
        layer = kind(input_size, hidden_size, **self.options, dtype=dtype, rng=rng)
        if "contracting weights" in self.needs:
            layer.params["weight_hh_l0"][...] *= 0.2
        if "saturated gate" in self.needs:
            # s(-100) is 4e-44, and exactly 0 as (1 + tanh(-50)) / 2. One unit of the forget gate.
            layer.params["bias_ih_l0"][hidden_size] = -100
        return layer

    def make_right(self, *args: Any, **options: Any) -> Recurrent:
        """Return the right layer with the same options and parameters: what `make` is to be compared with."""
        return self.make(*args, **options, right=True)

    def exhibit(
        self, steps: int = 30, batch: int = 2, input_size: int = 3, hidden_size: int | None = None, seed: int = 0
    ) -> Exhibit:
        """Return the wrong layer, the right one, and random data on which they differ.

        Parameters
        ----------
        steps, batch, input_size, hidden_size : int
            T, N, D and H; H is 4, or 32 where many units are needed.
        seed : int
            Of parameters and data.

        Examples
        --------
        >>> from rnn_numpy.zoo import specimen
        >>> shown = specimen("bias-hh-ignored").exhibit()
        >>> {name: error for name, error in shown.differences().items() if error > 0}
        {'bias_hh_l0': 1.0}
        """
        H = hidden_size or (32 if "many units" in self.needs else 4)
        layer, right = self.make(input_size, H, seed), self.make_right(input_size, H, seed)
        rng = np.random.default_rng([seed, steps, batch])
        x = rng.normal(size=(steps, batch, input_size))
        lengths = None
        if "lengths" in self.needs:
            # The longest last: the engine must sort. Lengths differ where T allows.
            lengths = np.maximum(1, steps - 7 * np.arange(batch)[::-1])
        rows = right.num_layers * right.num_directions
        memory = {"given": _memory(rng, right, batch, "masked memory" in self.needs)} if right.cell.given else {}
        states = [(rows, batch, ROWS if state in right.cell.state_widths else H) for state in right.cell.states]
        h_0, dh_n = (tuple(rng.normal(size=shape) for shape in states) for _ in range(2))
        doutput = rng.normal(size=(steps, batch, right.num_directions * H))
        if "last loss alone" in self.needs:
            doutput[:-1] = 0
        if "large loss" in self.needs:
            doutput *= 100
        masks: dict[str, Any] = dict(memory)
        if "dropout masks" in self.needs:
            shape = (steps, batch, right.num_directions * H)
            masks["dropout_masks"] = [_mask(rng, shape) for _ in range(right.num_layers - 1)]
        if "recurrent masks" in self.needs:
            masks["recurrent_masks"] = {"l0": _mask(rng, (batch, H))}
        calls, shared = 2 if "second call" in self.needs else 1, "grads handed in" in self.needs
        return Exhibit(layer, right, x, join(h_0), lengths, masks, doutput, join(dh_n), calls, shared)


class Specimens(list[Specimen]):
    """The specimens of a module."""

    def add(self, name: str, diagnosis: str, where: Where, origin: str = "classic", **more: Any) -> Callable[[L], L]:
        """Return a decorator for the class of a specimen; arguments are those of `Specimen`."""

        def added(layer: L) -> L:
            self.append(Specimen(name, layer, diagnosis, where, origin, **more))
            return layer

        return added


def _memory(rng: np.random.Generator, layer: Recurrent, batch: int, masked: bool) -> dict[str, Array]:
    """Return the given arrays of a layer with attention: a memory, or two, and where it is `masked`, its mask."""
    sizes = {**layer.given_sizes(), "S": ROWS}
    found: dict[str, Array] = {}
    for name, given in layer.cell.given.items():
        if given.differentiable:
            first, *rest = (sizes[axis] for axis in given.shape)
            found[name] = rng.normal(size=(first, batch, *rest))
        elif masked:
            found[name] = np.arange(ROWS) < ROWS - 2 * np.arange(batch)[:, None]
    return found


def _mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return a dropout mask, p = 0.4."""
    mask: Array = (rng.random(shape) > 0.4) / 0.6
    return mask


def tensors(*names: str, layers: tuple[str, ...] = ("l0",), cell: str = "rnn") -> tuple[str, ...]:
    """Return the names of tensors, "parameters" and "states" standing for all of them.

    Examples
    --------
    >>> tensors("x", "states", "bias_ih", cell="lstm")
    ('x', 'h_0', 'c_0', 'bias_ih_l0')
    """
    found: list[str] = []
    for name in names:
        if name == "states":
            found += ["h_0", "c_0"] if cell == "lstm" else ["h_0"]
        elif name == "parameters":
            kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            found += [f"{kind}_{layer}" for layer in layers for kind in kinds]
        elif name.startswith(("weight", "bias")):
            found += [f"{name}_{layer}" for layer in layers]
        else:
            found.append(name)
    return tuple(found)
