"""The training loop, one update at each `next`.

    for update in train(model, batches, optimizer, clip=1.0):
        ...                                 what would be a callback elsewhere stands here

makes an update before each turn. One may break out and begin the `for` again: it goes on. `fit` exhausts it, with
validation, early stopping and checkpoints; what it adds it adds between two updates.

An update is of one batch or of several micro-batches, i = 1 ... A, of c_i losses each: what `model.count(*batch)`
says that the mean loss of the batch divides by. With means L_i and gradients g_i

    L = sum c_i L_i / sum c_i,      g = sum c_i g_i / sum c_i

so that unequal micro-batches add up to the batch that they are parts of, but for rounding. (The mean of the means would
weigh a loss of a small micro-batch more than one of a large one.) A single batch is taken as it is.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, RNNNumpyError, StateDictError
from rnn_numpy.training.batches import Draws, Listed
from rnn_numpy.training.checkpoint import save_checkpoint
from rnn_numpy.training.clipping import ClipResult, clip_grad_norm
from rnn_numpy.training.history import History
from rnn_numpy.training.saved import (
    called,
    checked_state,
    load_generators,
    load_parameters,
    named_generators,
    states_of,
    whole_number,
)
from rnn_numpy.training.stopping import Best, Patience

Array = NDArray[Any]

# Called with the number of updates done, their total, and what is being done.
Progress: TypeAlias = Callable[[int, int, str], None]
Clip: TypeAlias = float | Callable[[Parameters], ClipResult]


@dataclass(frozen=True, eq=False, repr=False)
class Update:
    """One update of the parameters.

    Attributes
    ----------
    number : int
        1, 2, ...
    epoch : int
        Of the batches, 1, 2, ...; 0 where they do not say.
    loss : float
        Mean over all that counts, before the update.
    count : float
        What counts: the number that the mean divides by; NaN of a model that does not say.
    lr : float
        The learning rate of this update.
    clip : ClipResult or None
        What clipping did. Where it is `skipped`, the gradient was not finite and the optimiser made no step.
    seconds : float
        From the first micro-batch to the optimiser's step, without what a caller does between micro-batches.
    trace : Trace
        Of the last micro-batch, with its gradients; None of an update that was finished because the batches ended. It
        is large: keep what you need of it, not the update.
    grads : Parameters
        The gradients that the optimiser has got. New ones at each update: they stay as they are.
    """

    number: int
    epoch: int
    loss: float
    count: float
    lr: float
    clip: ClipResult | None
    seconds: float
    trace: Any
    grads: Parameters

    def __repr__(self) -> str:
        parts = [f"epoch {self.epoch}", f"loss {self.loss:.6g}", f"count {self.count:g}", f"lr {self.lr:.4g}"]
        if self.clip is not None:
            done = "skipped" if self.clip.skipped else f"clipped to {self.clip.norm_after:.4g}"
            parts.append(f"norm {self.clip.norm:.4g}" + (f" {done}" if self.clip.engaged or self.clip.skipped else ""))
        return f"Update {self.number}: {', '.join(parts)}; {self.seconds:.4f} s"


@dataclass
class _Sum:
    """Micro-batches added up: their number, the sum of losses, of counts, and of gradients."""

    batches: int
    loss: float
    count: float
    grads: Parameters
    seconds: float = 0.0


class Training(Iterator[Update]):
    """A training that makes one update at each `next`: what `train` returns, where the arguments are described.

    Attributes
    ----------
    model, batches, optimizer, schedule, clip, accumulate, stateful
        As given.
    number : int
        Updates made.
    history : History
        Their numbers, as columns.
    carried : ndarray, tuple of ndarray, or None
        Of a stateful training, the state that the next batch begins from.
    """

    def __init__(
        self,
        model: Any,
        batches: Iterable[Sequence[Any]],
        optimizer: Any,
        *,
        schedule: Callable[[int], float] | None = None,
        clip: Clip | None = None,
        accumulate: int = 1,
        stateful: bool = False,
        generators: Mapping[str, np.random.Generator] | None = None,
    ) -> None:
        where = "train"
        for name in ("params", "loss_and_grads"):
            if not hasattr(model, name):
                raise DTypeError(f"{where}: model must have {name}; {type(model).__name__} has not")
        if not np.may_share_memory(optimizer.params.flat, model.params.flat):
            raise OptionError(
                f"{where}: optimizer must act on model.params; it was made of others. Make it after the model, as "
                f"{type(optimizer).__name__}(model.params, ...)"
            )
        if schedule is not None and not callable(schedule):
            raise DTypeError(f"{where}: schedule must be callable, with the number of an update; got {schedule!r}")
        if clip is not None and not callable(clip):
            clip = arguments.positive_number(where, "clip", clip)
        self.model, self.optimizer, self.schedule, self.clip = model, optimizer, schedule, clip
        self.batches: Iterator[Sequence[Any]] = Listed(batches) if isinstance(batches, list | tuple) else iter(batches)
        self.accumulate = arguments.positive_int(where, "accumulate", accumulate)
        self.stateful = arguments.flag(where, "stateful", stateful)
        self._count = getattr(model, "count", None)
        if self.accumulate > 1 and self._count is None:
            raise DTypeError(f"{where}: accumulate > 1 needs model.count(*batch), what the mean loss divides by")
        if self.stateful and getattr(batches, "shuffle", False):
            raise OptionError(f"{where}: stateful carries the state from batch to batch; these are shuffled")
        self._further = dict(generators or {})
        named_generators(where, model, self.batches, self._further)
        self.number = 0
        self.history = History()
        self.carried: Any = None
        self._sum: _Sum | None = None

    @property
    def generators(self) -> dict[str, np.random.Generator]:
        """All generators whose states are saved: "model.NAME", "batches.rng", "generators.NAME"."""
        return named_generators("Training", self.model, self.batches, self._further)

    def __next__(self) -> Update:
        while (update := self.micro()) is None:
            pass
        return update

    def micro(self) -> Update | None:
        """Take one micro-batch; return the update if it completes one, otherwise None.

        Where the batches end in the midst of an update, it is made of those that there were. Then: StopIteration.
        """
        begun = time.perf_counter()
        if self.stateful and getattr(self.batches, "restarts", False):
            self.carried = None
        batch = next(self.batches, None)
        trace = None if batch is None else self._add(batch)
        if self._sum is None:
            raise StopIteration
        if batch is not None and self._sum.batches < self.accumulate:
            self._sum.seconds += time.perf_counter() - begun
            return None
        whole, self._sum = self._sum, None
        return self._step(whole, trace, begun)

    def _add(self, batch: Sequence[Any]) -> Any:
        """Forward and backward; add the micro-batch to the sum. Return its trace."""
        if not isinstance(batch, tuple | list):
            raise DTypeError(f"train: a batch must be a tuple, (inputs, targets), say; got {type(batch).__name__}")
        options = {"h_0": self.carried} if self.stateful else {}
        loss, grads, trace = self.model.loss_and_grads(*batch, **options)
        loss, count = float(loss), math.nan if self._count is None else self._count(*batch)
        if self.stateful:
            self.carried = trace.h_n
        if self.accumulate > 1:
            loss *= count
            grads.flat *= float(count)
        if self._sum is None:
            self._sum = _Sum(1, loss, count, grads)
        else:
            self._sum.batches += 1
            self._sum.loss += loss
            self._sum.count += count
            self._sum.grads.flat += grads.flat
        return trace

    def _step(self, whole: _Sum, trace: Any, begun: float) -> Update:
        """Divide, clip, step."""
        loss, count, grads, clipped = whole.loss, whole.count, whole.grads, None
        if self.accumulate > 1:
            if count == 0:
                raise OptionError("train: nothing counts in any micro-batch of this update")
            loss /= count
            grads.flat /= float(count)
        if self.clip is None and not math.isfinite(loss):
            raise NonFiniteError(f"train: the loss of update {self.number + 1} is {loss}; no step was made")
        if self.clip is not None:
            clipped = self.clip(grads) if callable(self.clip) else clip_grad_norm(grads, self.clip)
        if self.schedule is not None:
            self.optimizer.lr = float(self.schedule(self.number))
        if clipped is None or not clipped.skipped:
            self.optimizer.step(grads)
        self.number += 1
        seconds = whole.seconds + time.perf_counter() - begun
        epoch, lr = getattr(self.batches, "epoch", 0), self.optimizer.lr
        norm = math.nan if clipped is None else clipped.norm
        self.history.add(update=self.number, epoch=epoch, loss=loss, count=count, lr=lr, norm=norm, seconds=seconds)
        return Update(self.number, epoch, loss, count, lr, clipped, seconds, trace, grads)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next updates depend on, as a nested dict of plain values and arrays; all copies.

        Parameters, the optimiser's state, where the batches stand, the states of all generators, the carried state,
        the sums between two micro-batches, the number of updates and the history; and, to be compared when it is
        loaded, the options and how the schedule and the clipping call themselves.
        """
        if not hasattr(self.batches, "state_dict"):
            raise DTypeError(
                f"Training.state_dict: batches must have state_dict, as Batches, Windows and Draws have; "
                f"{type(self.batches).__name__} has not"
            )
        total = self._sum
        state: dict[str, Any] = {
            "options": self._options(),
            "number": self.number,
            "parameters": self.model.params.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "generators": states_of(self.generators),
            "carried": states.mapped(np.copy, self.carried),
            "sum": None if total is None else {**vars(total), "grads": total.grads.flat.copy()},
            "history": self.history.state_dict(),
        }
        if self.schedule is not None and hasattr(self.schedule, "state_dict"):
            state["schedule"] = self.schedule.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another training stood, of the same model, optimiser, batches and options, bit for bit.

        To go on with another schedule, say, assign it to `schedule` afterwards.

        Raises
        ------
        StateDictError
            Something is not the same; the first difference is named. Nothing is changed then.
        """
        before = self.state_dict()
        try:
            self._load(state)
        except BaseException as error:
            self._load(before)
            if isinstance(error, Exception) and not isinstance(error, RNNNumpyError):
                where = "Training.load_state_dict"
                raise StateDictError(f"{where}: this is no state of a training: {error!r}") from None
            raise

    def _options(self) -> dict[str, Any]:
        functions = {"schedule": self.schedule, "clip": self.clip}
        # One that has a state may tell it in its repr.
        stateful = [name for name, function in functions.items() if hasattr(function, "state_dict")]
        return {
            "optimizer": type(self.optimizer).__name__,
            "accumulate": self.accumulate,
            "stateful": self.stateful,
            **{name: type(f).__name__ if name in stateful else called(f) for name, f in functions.items()},
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        where = "Training.load_state_dict"
        checked_state(where, checked_state(where, state, {}, ["options"])["options"], self._options(), ())
        found = checked_state(where, state, {}, [*self.state_dict()])
        load_parameters(where, self.model.params, found["parameters"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.batches.load_state_dict(found["batches"])  # type: ignore[attr-defined]
        load_generators(where, self.generators, found["generators"])
        if "schedule" in found:
            self.schedule.load_state_dict(found["schedule"])  # type: ignore[union-attr]
        self.history.load_state_dict(found["history"])
        self._sum = self._sum_of(where, found["sum"])
        for array in states.split(found["carried"]):
            if array is not None and not isinstance(array, np.ndarray):
                raise StateDictError(f"{where}: carried must be arrays; got {type(array).__name__}")
        self.carried = states.mapped(np.copy, found["carried"])
        self.number = whole_number(where, "number", found["number"])

    def _sum_of(self, where: str, state: Any) -> _Sum | None:
        if state is None:
            return None
        names = [each.name for each in fields(_Sum)]
        found = checked_state(f"{where}: sum", state, {}, names)
        batches = whole_number(where, "batches of sum", found["batches"], self.accumulate)
        for name in ("loss", "count", "seconds"):  # NaN may be one
            if type(found[name]) not in (int, float):
                raise StateDictError(f"{where}: {name} of sum must be a number; got {found[name]!r}")
        grads = self.model.params.zeros_like()
        grads.flat = found["grads"]
        return _Sum(batches, found["loss"], found["count"], grads, found["seconds"])

    def __repr__(self) -> str:
        options = ", ".join(f"{name} {value}" for name, value in self._options().items())
        return f"Training: {self.number} updates, {options}"


def train(
    model: Any,
    batches: Iterable[Sequence[Any]],
    optimizer: Any,
    *,
    schedule: Callable[[int], float] | None = None,
    clip: Clip | None = None,
    accumulate: int = 1,
    stateful: bool = False,
    generators: Mapping[str, np.random.Generator] | None = None,
) -> Training:
    """Return a training: an iterator that makes one update of the model's parameters at each `next`.

    Parameters
    ----------
    model
        Has `params` and `loss_and_grads(*batch)`, which returns the mean loss, new gradients of `params`, and a trace,
        as all of `rnn_numpy.models` do. `count(*batch)` says what that mean divides by. `generators()` names the random
        generators that it draws from.
    batches : iterator of tuple
        `Batches`, `Windows`, `Draws`, or anything that yields tuples, a list too. What is to be saved halfway needs
        `state_dict` and `load_state_dict`, as these have.
    optimizer
        Made of `model.params`.
    schedule : callable, optional
        `schedule(t)`, for t = 0, 1, ..., is the learning rate of update t + 1.
    clip : float or callable, optional
        What the norm of the gradient is limited to, by `clip_grad_norm`; or a function of the gradients that clips them
        in place and returns a `ClipResult`. Where that is `skipped`, the optimiser makes no step.
    accumulate : int
        Micro-batches of an update. More than one needs `model.count`; see the module for what they add up to.
    stateful : bool
        Whether each batch begins from the state in which the one before ended, `trace.h_n`, handed to `loss_and_grads`
        as `h_0`; from zeros where the batches say that they begin again (`Windows.restarts`).
    generators : mapping of str to numpy.random.Generator, optional
        Further ones whose states belong to that of the training: those of what is sampled in between, say.

    Returns
    -------
    Training

    Raises
    ------
    DTypeError, OptionError
        The parts do not fit together.
    NonFiniteError
        From an update, before its step: without clipping, the loss is not finite; with a limit of the norm, the
        gradient is not.

    Notes
    -----
    An update costs what its parts cost and some microseconds. An exception from one of these ends the update, not the
    training: the next one is of the next batch. Ctrl-C within the optimiser's step can leave parameters half changed;
    a checkpoint of before stays as it is.

    Examples
    --------
    >>> from rnn_numpy import Forecaster
    >>> from rnn_numpy.training import Adam, Batches
    >>> wave = np.sin(np.arange(210.0)).reshape(21, 10, 1)
    >>> model = Forecaster(1, 8, rng=0)
    >>> batches = Batches(wave[:-1], wave[1:], batch_size=5, axis=1, rng=0)
    >>> training = train(model, batches, Adam(model.params, lr=0.01), clip=1.0)
    >>> for update in training:
    ...     if update.loss < 0.1:
    ...         break
    >>> update.number, update.epoch
    (11, 6)
    >>> next(training).number
    12
    """
    return Training(
        model, batches, optimizer,
        schedule=schedule, clip=clip, accumulate=accumulate, stateful=stateful, generators=generators,
    )  # fmt: skip


def fit(
    training: Training,
    updates: int | None = None,
    *,
    validate: Callable[[], float] | None = None,
    every: int | None = None,
    patience: Patience | None = None,
    best: Best | None = None,
    save: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    progress: Progress | None = None,
) -> History:
    """Train until there are `updates` updates: those that a training has already made count.

    Parameters
    ----------
    training : Training
    updates : int, optional
        The number of the last update. Left out: until the batches end.
    validate : callable, optional
        Returns what is to be low, such as a loss on data held out: `lambda: evaluate(model, held_out)`.
    every : int, optional
        Validate after each update whose number this divides. Left out, it is an epoch, where the batches know how long
        one is.
    patience : Patience, optional
        Gets what `validate` returns, and stops the training.
    best : Best, optional
        Gets the same; `best.restore()` brings the parameters back.
    save : path, optional
        A checkpoint, ending in .npz, with patience and best as its extra; see `save_checkpoint`.
    save_every : int, optional
        Save after each update whose number this divides, and at the end. Left out: after each validation, and at the
        end.
    progress : callable, optional
        Called as `progress(done, total, label)` after each update; where no end is known, total is done. A bar on a
        terminal: `with rnn_numpy.experiments.progress.progress_bar() as progress:`.

    Returns
    -------
    History
        The training's, of all its updates.

    Notes
    -----
    All that happens is decided by the number of the update, so that fitting to 50 and then to 100 is fitting to 100.
    What a killed `fit` has saved is taken up by `training.load_state_dict(checkpoint.training)`, and likewise
    `patience` and `best` from `checkpoint.extra`.

    Examples
    --------
    >>> from rnn_numpy import Forecaster
    >>> from rnn_numpy.training import Adam, Batches
    >>> wave = np.sin(np.arange(210.0)).reshape(21, 10, 1)
    >>> model = Forecaster(1, 8, rng=0)
    >>> batches = Batches(wave[:-1, :8], wave[1:, :8], batch_size=4, axis=1, rng=0)
    >>> training = train(model, batches, Adam(model.params, lr=0.01))
    >>> held_out = [(wave[:-1, 8:], wave[1:, 8:])]
    >>> fit(training, 60, validate=lambda: evaluate(model, held_out), patience=Patience(3))
    History: 20 updates, loss 0.04439 at the last, validated 10 times, last 0.0346
    """
    where = "fit"
    if not isinstance(training, Training):
        raise DTypeError(f"{where}: training must be what train returns; got {type(training).__name__}")
    last = math.inf if updates is None else arguments.step_count(where, "updates", updates)
    if validate is None and (patience is not None or best is not None):
        raise OptionError(f"{where}: patience and best need validate, whose values they get")
    if validate is not None:
        every = _epoch_of(where, training) if every is None else arguments.positive_int(where, "every", every)
    if save_every is not None:
        save_every = arguments.positive_int(where, "save_every", save_every)

    def store() -> None:
        if save is not None:
            parts = {"patience": patience, "best": best}
            extra = {name: part.state_dict() for name, part in parts.items() if part is not None}
            save_checkpoint(save, training, **extra)

    saved = None
    while training.number < last and not (patience is not None and patience.stopped):
        update = next(training, None)
        if update is None:
            break
        number, loss = update.number, update.loss
        del update  # and its trace with it, before the next one is made
        validated = False
        if validate is not None and every is not None and number % every == 0:
            value, validated = float(validate()), True
            training.history.add_validation(number, value)
            if best is not None:
                best.update(value)
            if patience is not None:
                patience.update(value)
        if validated if save_every is None else number % save_every == 0:
            store()
            saved = number
        if progress is not None:
            progress(number, number if updates is None else updates, f"loss {loss:.4g}")
    if saved != training.number:
        store()
    return training.history


def evaluate(model: Any, batches: Iterable[Sequence[Any]]) -> float:
    """Return the mean loss over all that counts in all batches, without dropout.

    Parameters
    ----------
    model
        Has `loss_of(*batch)`, the mean loss of a batch, and `count(*batch)`, what that mean divides by.
    batches : iterable of tuple
        Of those that have `in_order`, as `Batches`, `Windows` and `LikeLength`, all samples once, in their order,
        whatever epoch they are in; nothing is drawn from their generators, and they stay where they are.
    """
    if isinstance(batches, Draws):
        raise OptionError("evaluate: batches must end; draw some of them: [next(draws) for _ in range(10)]")
    total = count = 0.0
    in_order = getattr(batches, "in_order", None)  # others may have no end
    for batch in batches if in_order is None else in_order():
        counts = float(model.count(*batch))
        total += float(model.loss_of(*batch)) * counts
        count += counts
    if count == 0:
        raise OptionError("evaluate: batches must have something that counts; there is nothing")
    return total / count


def _epoch_of(where: str, training: Training) -> int:
    """Return how many updates an epoch is."""
    try:
        return -(-len(training.batches) // training.accumulate)  # type: ignore[arg-type]
    except TypeError:
        kind = type(training.batches).__name__
        raise OptionError(f"{where}: every must be given: {kind} does not know how long an epoch is") from None
