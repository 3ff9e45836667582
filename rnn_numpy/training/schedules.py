r"""Learning rates as functions of the update number t = 0, 1, ...: a training that is taken up again needs t alone.

    StepDecay     lr gamma^floor(t / step_size)
    Exponential   lr gamma^t
    Cosine        eta_min + (lr - eta_min) (1 + cos(pi t / T_max)) / 2
    Linear        lr (f + (1 - f) t / warmup) for t < warmup, f its start_factor; after that lr, or with a total
                  lr (1 + (end_factor - 1) (t - warmup) / (total - warmup)) for t < total, then lr end_factor
    OneCycle      half a cosine up to lr, and half a cosine down

They are what torch's schedulers set, in their closed forms and under their names where these fit. `Plateau` looks at
what a validation finds instead, and so has a state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, OptionError, StateDictError
from rnn_numpy.training.saved import checked_state, whole_number


@dataclass(frozen=True)
class Schedule(ABC):
    """Base of schedules: called with the number of an update, the first one 0, they return its learning rate."""

    lr: float

    def __post_init__(self) -> None:
        self._set(lr=arguments.positive_number(type(self).__name__, "lr", self.lr))

    def _set(self, **values: float | None) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __call__(self, t: int) -> float:
        """Return the learning rate of update t = 0, 1, ..."""
        return self._at(arguments.step_count(type(self).__name__, "t", t))

    @abstractmethod
    def _at(self, t: int) -> float: ...


@dataclass(frozen=True)
class StepDecay(Schedule):
    """lr gamma^floor(t / step_size): torch's StepLR.

    >>> [round(StepDecay(0.1, 2)(t), 6) for t in range(5)]
    [0.1, 0.1, 0.01, 0.01, 0.001]
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(step_size=arguments.positive_int("StepDecay", "step_size", self.step_size))
        self._set(gamma=arguments.positive_number("StepDecay", "gamma", self.gamma))

    def _at(self, t: int) -> float:
        return self.lr * self.gamma ** (t // self.step_size)


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr gamma^t: torch's ExponentialLR.

    >>> [Exponential(0.5, 0.5)(t) for t in range(3)]
    [0.5, 0.25, 0.125]
    """

    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(gamma=arguments.positive_number("Exponential", "gamma", self.gamma))

    def _at(self, t: int) -> float:
        return self.lr * self.gamma**t


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from lr at t = 0 down to eta_min at T_max: torch's CosineAnnealingLR.

    Beyond T_max it rises again, as torch's does, and is back at lr at 2 T_max.

    >>> [round(Cosine(0.1, 2)(t), 6) for t in range(5)]
    [0.1, 0.05, 0.0, 0.05, 0.1]
    """

    T_max: int
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(T_max=arguments.positive_int("Cosine", "T_max", self.T_max))
        self._set(eta_min=arguments.not_negative("Cosine", "eta_min", self.eta_min))
        if self.eta_min > self.lr:
            raise OptionError(f"Cosine: eta_min must be at most lr = {self.lr}; got {self.eta_min}")

    def _at(self, t: int) -> float:
        return self.eta_min + (self.lr - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


@dataclass(frozen=True)
class Linear(Schedule):
    """A linear rise over the first `warmup` updates, then lr, or where there is a `total` a linear fall to its end.

    torch's LinearLR of start_factor, and another one of end_factor after it. With the start_factor of 0 the first
    update's rate is 0.

    >>> [Linear(1.0, warmup=2, total=6)(t) for t in range(8)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    warmup: int = 0
    total: int | None = None
    start_factor: float = 0.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(warmup=arguments.step_count("Linear", "warmup", self.warmup))
        if self.total is not None:
            self._set(total=arguments.positive_int("Linear", "total", self.total))
            if self.total <= self.warmup:
                raise OptionError(f"Linear: total must be more than warmup = {self.warmup}; got {self.total}")
        for name in ("start_factor", "end_factor"):
            self._set(**{name: arguments.probability("Linear", name, getattr(self, name))})

    def _at(self, t: int) -> float:
        if t < self.warmup:
            return self.lr * (self.start_factor + (1 - self.start_factor) * t / self.warmup)
        if self.total is None:
            return self.lr
        done = min(1.0, (t - self.warmup) / (self.total - self.warmup))
        return self.lr * (1 + (self.end_factor - 1) * done)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from lr / div_factor to lr, and down to that over final_div_factor, by half a cosine each: torch's OneCycleLR.

    The top is at t = pct_start total_steps - 1, and the end at total_steps - 1; after that the rate stays, where torch
    refuses to go on.

    References
    ----------
    .. [1] L. N. Smith, N. Topin, "Super-convergence: very fast training of neural networks using large learning rates",
       arXiv 1708.07120 (2018).

    Examples
    --------
    >>> [round(OneCycle(1.0, 10)(t), 6) for t in (0, 1, 2, 5, 9, 10)]
    [0.04, 0.52, 1.0, 0.611261, 4e-06, 4e-06]
    """

    total_steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(total_steps=arguments.positive_int("OneCycle", "total_steps", self.total_steps))
        self._set(pct_start=arguments.probability("OneCycle", "pct_start", self.pct_start))
        for name in ("div_factor", "final_div_factor"):
            self._set(**{name: arguments.positive_number("OneCycle", name, getattr(self, name))})

    def _at(self, t: int) -> float:
        last = self.total_steps - 1
        top, t = self.pct_start * self.total_steps - 1, min(t, last)
        low = self.lr / self.div_factor
        if t < top:
            return _between(low, self.lr, t / top)
        return _between(self.lr, low / self.final_div_factor, (t - top) / (last - top)) if top < last else self.lr


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)


class Plateau:
    """A learning rate that falls when what is validated no longer gets better: torch's ReduceLROnPlateau.

    A value is better that is below (1 - threshold) times the best so far, or where mode is "max" above (1 + threshold)
    times it; NaN never is. After more than `patience` values in a row that are not, lr becomes lr factor, but at least
    min_lr, and for the next `cooldown` values none counts as bad.

    Parameters
    ----------
    lr : float
        To begin with.
    factor : float
        In (0, 1).
    patience : int
        At least 0.
    threshold : float
        In [0, 1].
    cooldown : int
        At least 0.
    min_lr : float
        At least 0.
    eps : float
        A fall that is not by more than this is left out.
    mode : {"min", "max"}

    Attributes
    ----------
    lr : float
        What it is now. As a schedule, `plateau(t)` returns it for every t.
    best : float or None
        The best value; None before the first.
    bad : int
        Values in a row that were not better.
    cooling : int
        Values for which none will count as bad.

    Examples
    --------
    >>> plateau = Plateau(0.1, patience=1)
    >>> [round(plateau.update(loss), 6) for loss in (1.0, 0.5, 0.5, 0.5, 0.4)]
    [0.1, 0.1, 0.1, 0.01, 0.01]
    """

    def __init__(
        self,
        lr: float,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
        mode: str = "min",
    ) -> None:
        where = "Plateau"
        self.lr = arguments.positive_number(where, "lr", lr)
        self.factor = arguments.positive_number(where, "factor", factor)
        if self.factor >= 1:
            raise OptionError(f"{where}: factor must be below 1, or lr would not fall; got {self.factor}")
        self.patience = arguments.step_count(where, "patience", patience)
        self.threshold = arguments.probability(where, "threshold", threshold)
        self.cooldown = arguments.step_count(where, "cooldown", cooldown)
        self.min_lr = arguments.not_negative(where, "min_lr", min_lr)
        self.eps = arguments.not_negative(where, "eps", eps)
        arguments.one_of(where, "mode", mode, ("min", "max"))
        self.mode = mode
        self.best: float | None = None
        self.bad = self.cooling = 0

    def __call__(self, t: int) -> float:
        """Return lr: what `train` asks a schedule for."""
        return self.lr

    def update(self, value: float) -> float:
        """Take what a validation has found; return the learning rate from now on."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise DTypeError(f"Plateau.update: value must be a number; got {type(value).__name__} {value!r}") from None
        if self._is_better(number):
            self.best, self.bad = number, 0
        else:
            self.bad += 1
        if self.cooling:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            lower = max(self.lr * self.factor, self.min_lr)
            if self.lr - lower > self.eps:
                self.lr = lower
            self.cooling, self.bad = self.cooldown, 0
        return self.lr

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return value < math.inf if self.mode == "min" else value > -math.inf
        return (
            value < self.best * (1 - self.threshold) if self.mode == "min" else value > self.best * (1 + self.threshold)
        )

    def _options(self) -> dict[str, Any]:
        names = ("factor", "patience", "threshold", "cooldown", "min_lr", "eps", "mode")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rate, best, bad and cooling, and the options, as plain values."""
        return {"lr": self.lr, "best": self.best, "bad": self.bad, "cooling": self.cooling, **self._options()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one of the same options stood.

        Raises
        ------
        StateDictError
            An option is another one, or `state` is no such state. Nothing is changed then.
        """
        where = "Plateau.load_state_dict"
        found = checked_state(where, state, self._options(), ("lr", "best", "bad", "cooling"))
        lr, best = found["lr"], found["best"]
        if type(lr) is not float or not 0 <= lr < math.inf:
            raise StateDictError(f"{where}: lr must be a float of at least 0; got {lr!r}")
        if best is not None and type(best) is not float:
            raise StateDictError(f"{where}: best must be a float or None; got {best!r}")
        bad, cooling = (whole_number(where, name, found[name]) for name in ("bad", "cooling"))
        self.lr, self.best, self.bad, self.cooling = lr, best, bad, cooling

    def __repr__(self) -> str:
        return f"Plateau({self.lr}, {', '.join(f'{name}={value!r}' for name, value in self._options().items())})"
