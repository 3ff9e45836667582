"""What can be checked, each brought into one form: a loss as a function of named arrays, and the gradient claimed for
it.

    a recurrent layer          sum(doutput * output) + sum(dh_n * h_n), or a loss of the user's on top
    anything like a layer      the same, by its `forward` and `backward` alone
    a model                    its `loss_and_grads`
    two callables              loss(params), grads(params)

A subject holds copies of all arrays, and hands out copies: nothing of the caller's is touched.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.checks.oracles.function import gradient_copies, gradient_copy, require_finite
from rnn_numpy.checks.report import Diagnosis
from rnn_numpy.core import arguments
from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.states import join, mapped, split
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError, ShapeError

Array = NDArray[Any]
Point = dict[str, Array]


class Target:
    """A loss of named arrays and the gradient claimed for it.

    Attributes
    ----------
    title : str
    point : dict of str to ndarray
        Where it is checked: parameters, and inputs under "x", "h_0", ...
    gates : dict of str to list of (str, slice)
        Of tensors that consist of blocks of rows, the blocks.
    notes : list of str
    single : bool
        Whether the original is float32; what is checked first is its float64 twin.
    touched : list of str
        Names of arguments that the last run of `analytic` has modified.
    """

    single = False
    title: str
    point: Point
    gates: Mapping[str, list[tuple[str, slice]]]

    def __init__(self) -> None:
        self.gates = {}
        self.notes: list[str] = []
        self.touched: list[str] = []

    def analytic(self) -> Point:
        """Run forward and backward once, on arrays that are watched; return the claimed gradient of each array."""
        raise NotImplementedError

    def loss(self, point: Mapping[str, Array]) -> Any:
        """Return the loss at another point, real or complex as its arrays are."""
        raise NotImplementedError

    def at(self, point: Mapping[str, Array]) -> Point:
        """Return the claimed gradient at another point."""
        raise NotImplementedError

    def in_single(self) -> Point:
        """Return the claimed gradient of the float32 original, on the data rounded to float32."""
        raise NotImplementedError

    def at_point(self, point: Point) -> Self:
        """Return the same subject at another point."""
        other = copy.copy(self)
        other.point = dict(point)
        return other

    def own_mistakes(self) -> Iterator[tuple[str, str, Mapping[str, Array]]]:
        """Yield mistakes that the target itself knows of, each a kind, why, and the gradient that it would give."""
        return iter(())


class LayerTarget(Target):
    """A layer with a loss on top; arguments are those of `gradcheck`.

    The layer is of this package, or anything with params, astype, forward and backward like one of it. Gradients of
    outputs and final states are drawn where they are left out, and masks, once, where the layer has dropout.
    """

    def __init__(
        self,
        layer: Any,
        x: Any,
        h_0: Any,
        lengths: Any,
        doutput: Any,
        dh_n: Any,
        loss: Callable[..., Any] | None,
        masks: Mapping[str, Any],
        seed: int,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        where = "gradcheck"
        dtype = _dtype_of(where, "layer", layer)
        self.dtype, self.single = dtype, dtype == np.float32
        if isinstance(x, PackedSequence):
            if lengths is not None:
                raise OptionError(f"{where}: a PackedSequence brings its own lengths; leave lengths out")
            x, lengths = x.padded(batch_first=getattr(layer, "batch_first", False))
        self.source = layer
        self.layer = _twin(where, layer, np.float64)
        self.lengths = None if lengths is None else np.array(lengths)
        self.recurrent = isinstance(layer, Recurrent)
        # Ids are handed on as they are, and have no gradient.
        self.ids = bool(getattr(layer, "takes_ids", False))
        self.x = np.array(x) if self.ids else _real(where, "x", x, finite=lengths is None)
        self.h_0 = None if h_0 is None else _each(where, "h_0", h_0)
        # What the cell reads at every step: a memory, which has a gradient, and masks of it, which have none.
        arrays = (
            {}
            if given is None
            else {name: arguments.as_array(where, f"given[{name!r}]", given[name]) for name in given}
        )
        self.memory = {
            f"given[{name!r}]": _real(where, f"given[{name!r}]", array)
            for name, array in arrays.items()
            if array.dtype.kind == "f"
        }
        self.fixed = {name: array.copy() for name, array in arrays.items() if array.dtype.kind != "f"}
        self.on_top = loss
        if loss is not None and (doutput is not None or dh_n is not None):
            raise OptionError(f"{where}: loss makes doutput and dh_n; leave them out, or leave loss out")
        self.masks = dict(masks)
        self.masks = self.masks or self._drawn(seed)
        rng = np.random.default_rng(seed)
        output, finals = self._first_run()
        self.many = bool(finals)
        self.doutput: Any
        self.dfinal: Any = None
        if loss is not None:
            final = finals[0] if finals else None
            _, doutput, dfinal = self.top(output, final)
            self.doutput = _like_all(f"{where}: loss", "doutput", doutput, output, rng)
            if dfinal is not None and not finals:
                raise OptionError(f"{where}: loss must return (loss, doutput): this layer returns no final state")
            self.dfinal = None if dfinal is None else _like_all(f"{where}: loss", "dh_n", dfinal, final, rng)
        else:
            self.doutput = _like_all(where, "doutput", doutput, output, rng)
            if finals:
                self.dfinal = _like_all(where, "dh_n", dh_n, finals[0], rng)
            elif dh_n is not None:
                raise OptionError(f"{where}: dh_n is for layers that return a final state; this one does not")
        self.point = {name: np.array(array, np.float64) for name, array in self.layer.params.items()}
        if not self.ids:
            self.point["x"] = self.x
        self.names = tuple(self.layer.cell.states) if hasattr(self.layer, "cell") else ("h",)
        # A layer has initial states and returns final ones; a cell, of one step, reads states and returns them.
        is_cell = not finals and hasattr(self.layer, "cell")
        self.initial = self._initial(finals[0] if finals else output if is_cell else None)
        self.titles = [f"{name}_{'prev' if is_cell else '0'}" for name in self.names[: len(self.initial)]]
        self.point |= dict(zip(self.titles, self.initial, strict=True)) | self.memory
        self.gates = self._gates()
        self.title = self._title(dtype)
        self.trace: Any = None
        self._asked: type | None = None  # of which layers it is known that backward can be called

    def _title(self, dtype: np.dtype[Any]) -> str:
        shape = self.x.shape
        sizes = f"T={shape[0]}" if self.recurrent else f"x {shape}"
        if self.x.ndim == 3 and self.recurrent:
            steps, batch = (shape[1], shape[0]) if getattr(self.layer, "batch_first", False) else shape[:2]
            sizes = f"T={steps} N={batch}"
        name = repr(self.source).replace(f", dtype={dtype}", "")
        return f"{name} {sizes} {dtype}"

    def _drawn(self, seed: int) -> dict[str, Any]:
        """Draw the layer's masks once, from a generator of our own; without any, inference's passes are checked."""
        rates = [getattr(self.layer, name, 0) for name in ("dropout", "recurrent_dropout")]
        rates += list(getattr(self.layer, "zoneout", ()))
        if not any(rates):
            return {}
        twin = copy.copy(self.layer)
        twin.rng = np.random.default_rng(seed)
        _, _, trace = twin.forward(self.x, self.h_0, self.lengths, **self.options(self.memory))
        masks = {
            "dropout_masks": trace.masks,
            "recurrent_masks": trace.recurrent_masks,
            "zoneout_masks": trace.zoneout_masks,
        }
        self.notes.append(f"masks of dropout and zoneout drawn once, from seed {seed}, and replayed in every run")
        return {name: mask for name, mask in masks.items() if mask}

    def arguments(self, x: Array, h_0: Any) -> dict[str, Any]:
        """Return what forward gets by its place: no more than is there."""
        given = {"x": x, "h_0": h_0, "lengths": self.lengths}
        while len(given) > 1 and next(reversed(given.values())) is None:
            given.popitem()
        return given

    def options(self, point: Mapping[str, Array]) -> dict[str, Any]:
        """Return what forward gets by name: masks, and given arrays at a point."""
        if not (self.memory or self.fixed):
            return dict(self.masks)
        memory = {title[7:-2]: point[title] for title in self.memory}
        return {**self.masks, "given": {**self.fixed, **memory}}

    def _first_run(self) -> tuple[Any, tuple[Any, ...]]:
        """Run forward for the first time; return output and final states, after a look at what it returns."""
        where, name = "gradcheck", f"{type(self.layer).__name__}.forward"
        watched, options = {"x": self.x, **self.memory}, self.options(self.memory)
        watched |= {f"h_0[{k}]": array for k, array in enumerate(split(self.h_0)) if array is not None}
        watched |= {f"params[{key!r}]": array for key, array in self.layer.params.items()}
        before = {key: array.copy() for key, array in watched.items()}
        _require_callable(where, self.layer.forward, name, self.arguments(self.x, self.h_0), options)
        results = self.layer.forward(*self.arguments(self.x, self.h_0).values(), **options)
        changed = [key for key, array in watched.items() if array.tobytes() != before[key].tobytes()]
        if changed:
            raise GradientCheckError(f"{where}: {name} must not modify what it is given; it has changed {changed}")
        if not isinstance(results, tuple) or len(results) not in (2, 3):
            got = f"a tuple of {len(results)}" if isinstance(results, tuple) else type(results).__name__
            raise GradientCheckError(
                f"{where}: {name} must return (output, trace) or (output, final state, trace); got {got}"
            )
        output, finals = results[0], results[1:-1]
        for what, value in (("output", output), *(("final state", final) for final in finals)):
            for part in split(value):
                if not isinstance(part, (np.ndarray, np.generic)):
                    raise DTypeError(f"{where}: the {what} of {name} must be an array; got {type(part).__name__}")
                if part.dtype != np.float64:
                    raise DTypeError(
                        f"{where}: the {what} of {name} must be float64, as parameters and input are; got {part.dtype}"
                    )
        return output, finals

    def top(self, output: Array, final: Any) -> tuple[Any, Any, Any]:
        """Return (loss, doutput, dh_n) of the loss on top."""
        if self.on_top is None:
            raise TypeError("LayerTarget: there is no loss on top")
        states = mapped(_read_only, final)
        try:
            result = self.on_top(mapped(_read_only, output), states)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise GradientCheckError(
                f"gradcheck: loss must not modify output and h_n, which are read-only ({error}); copy an array before "
                "changing it"
            ) from error
        if not isinstance(result, tuple) or len(result) not in (2, 3):
            raise GradientCheckError(
                "gradcheck: loss must return (loss, doutput) or (loss, doutput, dh_n); "
                f"got {type(result).__name__}{f' of {len(result)}' if isinstance(result, tuple) else ''}"
            )
        return result if len(result) == 3 else (*result, None)

    def _initial(self, like: Any) -> tuple[Array, ...]:
        if self.h_0 is not None:
            return split(self.h_0)
        return () if like is None else tuple(np.zeros(state.shape) for state in split(like))

    def _gates(self) -> dict[str, list[tuple[str, slice]]]:
        cell = getattr(self.layer, "cell", None)
        gates = getattr(cell, "gate_names", ())
        found: dict[str, list[tuple[str, slice]]] = {}
        if len(gates) < 2:
            return found
        for name, array in self.point.items():
            if name.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh")) and len(array) % len(gates) == 0:
                rows = len(array) // len(gates)
                found[name] = [(gate, slice(k * rows, (k + 1) * rows)) for k, gate in enumerate(gates)]
        return found

    def forward(self, layer: Any = None, point: Mapping[str, Array] | None = None) -> tuple[Any, Any, Any]:
        """Run forward; return output, final state and trace."""
        layer, point = self.layer if layer is None else layer, self.point if point is None else point
        h_0 = join([*map(point.__getitem__, self.titles)]) if self.initial else None
        results = layer.forward(*self.arguments(point.get("x", self.x), h_0).values(), **self.options(point))
        return results[0], (results[1] if self.many else None), results[-1]

    def run(
        self, layer: Any = None, doutput: Any = None, dfinal: Any = None, point: Mapping[str, Array] | None = None
    ) -> tuple[Point, Trace]:
        """Run both passes; return the gradients by name, and the trace."""
        _, _, trace = self.forward(layer, point)
        return self.back(trace, layer, doutput, dfinal), trace

    def back(self, trace: Any, layer: Any = None, doutput: Any = None, dfinal: Any = None) -> Point:
        """Run backward on a trace, with the loss's own gradients where none are given."""
        layer = self.layer if layer is None else layer
        if doutput is None:
            doutput, dfinal = mapped(np.copy, self.doutput), mapped(np.copy, self.dfinal)
        where, source = "gradcheck", f"{type(layer).__name__}.backward"
        given = {"trace": trace, "doutput": doutput} | ({"dh_n": dfinal} if self.many else {})
        if self._asked is not type(layer):
            _require_callable(where, layer.backward, source, given)
            self._asked = type(layer)
        return self.gradients_of(layer.backward(*given.values()), layer)

    def gradients(self) -> tuple[Any, ...]:
        """Return what backward gets after the trace: copies of the loss's gradients."""
        finals = (mapped(np.copy, self.dfinal),) if self.many else ()
        return (mapped(np.copy, self.doutput), *finals)

    def gradients_of(self, result: Any, layer: Any = None) -> Point:
        """Return the gradients in what backward returned, by name, after a look at them."""
        layer = self.layer if layer is None else layer
        where, source = "gradcheck", f"{type(layer).__name__}.backward"
        dtypes = (self.dtype if layer is self.source else np.float64,)
        inputs = (*(() if self.ids else ("x",)), *self.titles)
        missing = [name for name in ("grads", *(f"d{title}" for title in inputs)) if not hasattr(result, name)]
        if missing:
            raise GradientCheckError(
                f"{where}: {source} must return an object with grads, {', '.join(f'd{title}' for title in inputs)}; "
                f"the {type(result).__name__} that it returns has no {' and no '.join(missing)}"
            )
        params = {name: array for name, array in self.point.items() if name not in (*inputs, *self.memory)}
        found = gradient_copies(where, source, result.grads, params, dtypes)
        for title in inputs:
            gradient = getattr(result, f"d{title}")
            found[title] = gradient_copy(where, source, title, gradient, self.point[title].shape, dtypes)
        memory = getattr(result, "dgiven", {}) if self.memory else {}
        for title, array in self.memory.items():
            found[title] = gradient_copy(where, source, title, memory.get(title[7:-2]), array.shape, dtypes)
        return found

    def analytic(self) -> Point:
        """Run both passes on arrays that are watched."""
        watched = {"x": self.x, **dict(zip(self.titles, self.initial, strict=True)), **self.memory}
        for name, value in (("doutput", self.doutput), ("dh_n", self.dfinal)):
            numbered = {f"{name}[{k}]": part for k, part in enumerate(value)} if isinstance(value, tuple) else None
            watched |= numbered or ({} if value is None else {name: value})
        watched |= {f"params[{name!r}]": array for name, array in self.layer.params.items()}
        _, _, self.trace = self.forward()
        for name, run in self.trace.layers.items() if isinstance(self.trace, Trace) else ():
            watched |= {f"trace[{name!r}].{key}": array for key, array in run.arrays.items()}
        before = {name: array.copy() for name, array in watched.items()}
        found = self.back(self.trace, None, self.doutput, self.dfinal)
        self.touched = [name for name, array in watched.items() if array.tobytes() != before[name].tobytes()]
        for name in self.touched:
            watched[name][...] = before[name]
        return found

    def broken_promise(self, analytic: Point) -> Diagnosis | None:
        """Return what the layer does wrong when backward is called again: on one trace, and with gradients handed
        in.
        """
        trace = self.trace  # of which `analytic` was the first backward pass
        again = self.back(trace)
        names = [name for name in analytic if again[name].tobytes() != analytic[name].tobytes()]
        if names:
            why = f"a second backward pass on one trace gives another gradient of {', '.join(names)}"
            return Diagnosis("input modified", why)
        if not self.recurrent:
            return None
        grads = self.layer.params.zeros_like()
        grads.flat[:] = 1.0
        finals = (self.doutput, self.dfinal) if self.many else (self.doutput,)
        added = self.layer.backward(trace, *finals, grads=grads).grads
        for name, array in added.items():
            if not np.allclose(
                array, 1.0 + analytic[name], rtol=1e-12, atol=1e-12 * float(np.abs(analytic[name]).max(initial=1.0))
            ):
                return Diagnosis(
                    "overwritten, not added", f"grads that are handed in are not added to, but replaced: {name}"
                )
        return None

    def at(self, point: Mapping[str, Array]) -> Point:
        """Return the claimed gradient at another point."""
        with holding(self.layer, point):
            return self.run(point=point)[0]

    def fresh(self, point: Mapping[str, Array]) -> Point:
        """Return the claimed gradient at another point, by a layer that has never been called before."""
        layer = _twin("gradcheck", self.source, np.float64)
        with holding(layer, point):
            return self.run(layer, point=point)[0]

    def at_point(self, point: Point) -> Self:
        """Return the same subject at another point."""
        other = super().at_point(point)
        other.source, other.layer = (_with_params(each, point) for each in (self.source, self.layer))
        other.__dict__.pop("_twin", None)
        return other

    def in_single(self) -> Point:
        """Return the claimed gradient of the float32 original, on the data rounded to float32."""
        layer = self.source
        point = {name: _to_single(array) for name, array in self.point.items()}
        _, _, trace = self.forward(layer, point)
        return self.back(trace, layer, mapped(_to_single, self.doutput), mapped(_to_single, self.dfinal))

    def loss(self, point: Mapping[str, Array]) -> Any:
        """Return the loss at another point, real or complex as its arrays are."""
        dtype = np.result_type(*point.values())
        layer = self.layer if dtype == np.float64 else self._complex()
        with holding(layer, point):
            output, final, _ = self.forward(layer, point)
        if self.on_top is not None:
            return self.top(output, final)[0]
        total = dtype.type(0)
        for gradient, value in ((self.doutput, output), (self.dfinal, final))[: 1 + self.many]:
            pairs = zip(gradient, value, strict=True) if isinstance(value, tuple) else ((gradient, value),)
            for weight, array in pairs:
                total = total + np.sum(weight * array)
        return total

    def normalised(self) -> tuple[LayerTarget, float]:
        """Return this subject with gradients of outputs and final states of the size of 1, and the power of 2 by which
        its loss is larger.
        """
        arrays = (*split(self.doutput), *split(self.dfinal))
        largest = max(float(np.abs(array).max(initial=0.0)) for array in arrays if array is not None)
        # 2^1024 is no number.
        power = -math.frexp(largest)[1] if largest else 0
        factor = math.ldexp(1.0, min(power, 1000))
        other = copy.copy(self)
        other.doutput = mapped(lambda array: array * factor, self.doutput)
        other.dfinal = mapped(lambda array: array * factor, self.dfinal)
        return other, factor

    def _complex(self) -> Any:
        if not hasattr(self, "_twin"):
            self._twin = _twin("gradcheck", self.layer, np.complex128)
        return self._twin


class ModelTarget(Target):
    """A model with params, astype and loss_and_grads(*inputs) -> (loss, grads, ...)."""

    def __init__(self, model: Any, inputs: tuple[Any, ...]) -> None:
        super().__init__()
        dtype = _dtype_of("gradcheck", "model", model)
        self.single = dtype == np.float32
        self.source = model
        self.model = _twin("gradcheck", model, np.float64)
        self.name = f"{type(model).__name__}.loss_and_grads"
        self.inputs = tuple(_float64(value) for value in inputs)
        self.point = {name: np.array(array, np.float64) for name, array in self.model.params.items()}
        self.title = f"{model!r} {dtype}"
        _require_callable(
            "gradcheck", model.loss_and_grads, self.name, {f"argument {k}": a for k, a in enumerate(inputs)}
        )
        self._twin: Any = None

    def analytic(self) -> Point:
        """Run forward and backward once; return the claimed gradient of each array of `point`."""
        inputs = copy.deepcopy(self.inputs)
        watched = {f"argument {k}": a for k, a in enumerate(inputs) if isinstance(a, np.ndarray)}
        watched |= {f"params[{name!r}]": array for name, array in self.model.params.items()}
        before = {name: array.copy() for name, array in watched.items()}
        with holding(self.model, self.point):
            found = self._gradients(self.model, inputs, np.float64)
            self.touched = [name for name, array in watched.items() if array.tobytes() != before[name].tobytes()]
        return found

    def _run(self, model: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        """Return loss and gradients, after a look at what came back."""
        result = model.loss_and_grads(*inputs)
        if not isinstance(result, (tuple, list)) or len(result) < 2:
            got = f"a {type(result).__name__} of {len(result)}" if isinstance(result, (tuple, list)) else None
            raise GradientCheckError(
                f"gradcheck: {self.name} must return (loss, grads), and what else it likes after them; "
                f"got {got or type(result).__name__}"
            )
        return result[0], result[1]

    def _gradients(self, model: Any, inputs: tuple[Any, ...], dtype: DTypeLike) -> Point:
        return gradient_copies("gradcheck", self.name, self._run(model, inputs)[1], self.point, (dtype,))

    def at_point(self, point: Point) -> Self:
        """Return the same subject at another point."""
        other = super().at_point(point)
        other.source, other.model = (_with_params(each, point) for each in (self.source, self.model))
        other._twin = None
        return other

    def in_single(self) -> Point:
        """Return the claimed gradient of the float32 original, on the data rounded to float32."""
        is_real = [isinstance(value, np.ndarray) and value.dtype == np.float64 for value in self.inputs]
        inputs = [v.astype(np.float32) if real else v for v, real in zip(self.inputs, is_real, strict=True)]
        return self._gradients(self.source, tuple(inputs), np.float32)

    def own_mistakes(self) -> Iterator[tuple[str, str, Mapping[str, Array]]]:
        """Yield what the model's `known_mistakes(*inputs)` does, if it has that method."""
        known = getattr(self.model, "known_mistakes", None)
        return iter(()) if known is None else known(*copy.deepcopy(self.inputs))

    def loss(self, point: Mapping[str, Array]) -> Any:
        """Return the loss at another point, real or complex as its arrays are."""
        model, inputs = self.model, self.inputs
        if np.result_type(*point.values()).kind == "c":
            if self._twin is None:
                self._twin = _twin("gradcheck", self.model, np.complex128)
            model = self._twin
            kinds = [isinstance(value, np.ndarray) and value.dtype == np.float64 for value in inputs]
            inputs = tuple(v.astype(np.complex128) if k else v for v, k in zip(inputs, kinds, strict=True))
        with holding(model, point):
            return self._run(model, copy.deepcopy(inputs))[0]

    def at(self, point: Mapping[str, Array]) -> Point:
        """Return the claimed gradient at another point."""
        with holding(self.model, point):
            return self._gradients(self.model, copy.deepcopy(self.inputs), np.float64)


class FunctionsTarget(Target):
    """Two functions of a dict of arrays: a loss, and its gradients by the same names."""

    def __init__(
        self,
        loss: Callable[[dict[str, Array]], Any],
        grads: Callable[[dict[str, Array]], Mapping[str, Array]],
        point: Point,
        checked: Callable[..., Point],
    ) -> None:
        super().__init__()
        self._loss = loss
        self._grads = grads
        self._checked = checked
        self.point = point
        name = getattr(grads, "__name__", type(grads).__name__).replace("<lambda>", "a function")
        size = sum(array.size for array in point.values())
        self.title = f"{name} of {len(point)} array{'s' if len(point) > 1 else ''}, {size} entries"

    def analytic(self) -> Point:
        """Run forward and backward once; return the claimed gradient of each array of `point`."""
        return self._checked(self._grads, self.point, where="gradcheck")

    def at(self, point: Mapping[str, Array]) -> Point:
        """Return the claimed gradient at another point."""
        return self._checked(self._grads, point, where="gradcheck")

    def loss(self, point: Mapping[str, Array]) -> Any:
        """Return the loss at another point, real or complex as its arrays are."""
        return self._loss(dict(point))


def _to_single(array: Array) -> Array:
    return array.astype(np.float32)


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _dtype_of(where: str, what: str, target: Any) -> np.dtype[Any]:
    """Return the dtype of a target's parameters, float32 or float64, after a look at what the target is."""
    missing = [name for name in ("params", "astype") if not hasattr(target, name)]
    if missing:
        needed = "params (names to arrays) and astype (a twin in complex128 makes the complex step possible)"
        raise DTypeError(f"{where}: {what} must have {needed}; {type(target).__name__} lacks {' and '.join(missing)}")
    if not isinstance(target.params, Mapping):
        raise DTypeError(f"{where}: params must be a dict of arrays by name; got {type(target.params).__name__}")
    for name, array in target.params.items():
        if not isinstance(array, np.ndarray):
            raise DTypeError(f"{where}: params[{name!r}] must be an array; got {type(array).__name__}")
    dtypes: set[np.dtype[Any]] = {array.dtype for array in target.params.values()} or {np.dtype(np.float64)}
    if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float64), np.dtype(np.float32)}:
        got = " and ".join(sorted(map(str, dtypes)))
        raise DTypeError(f"{where}: {what} must be float64 or float32; got {got}. Check its twin .astype(np.float64)")
    return next(iter(dtypes))


def _twin(where: str, target: Any, dtype: DTypeLike) -> Any:
    """Return target.astype(dtype): with parameters of its own, so that the caller's are never written."""
    twin, name = target.astype(dtype), f"{type(target).__name__}.astype"
    params = getattr(twin, "params", None)
    if not isinstance(params, Mapping) or list(params) != list(target.params):
        raise DTypeError(
            f"{where}: {name} must return a twin, with params of the same names; got {type(twin).__name__}"
        )
    for key, array in target.params.items():
        if params[key].dtype != dtype:
            raise DTypeError(
                f"{where}: {name}({np.dtype(dtype)}) must return a twin of that dtype; its params[{key!r}] "
                f"is {params[key].dtype}"
            )
        if np.shares_memory(params[key], array):
            raise DTypeError(
                f"{where}: {name} must return a twin with arrays of its own, which are changed here; its "
                f"params[{key!r}] is that of the original: copy it"
            )
    if hasattr(twin, "freeze_padding"):  # what has no gradient by definition is a constant
        twin.freeze_padding()
    return twin


def _with_params(target: Any, point: Point) -> Any:
    twin = _twin("gradcheck", target, _dtype_of("gradcheck", "target", target))
    for name, array in twin.params.items():
        array[...] = point[name]
    return twin


def _require_callable(
    where: str, function: Any, name: str, given: Mapping[str, Any], named: Mapping[str, Any] | None = None
) -> None:
    """Raise where a function does not take these arguments, the first ones by their place, the others by their name."""
    named = named or {}
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # one that does not tell what it takes
    try:
        signature.bind(*given.values(), **named)
    except TypeError as error:
        told = ", ".join([*given, *named]) or "no argument"
        raise OptionError(f"{where}: {name} cannot be called with {told}: {error}") from None


@contextlib.contextmanager
def holding(layer: Any, point: Mapping[str, Array]) -> Iterator[None]:
    """Give a layer or model the parameters of a point for a while."""
    params = layer.params
    # Of the package's own, the arrays are views of one vector: a check asks for them some dozens of times.
    arrays = params.arrays if isinstance(params, Parameters) else params
    kept = dict[str, Array]()
    try:
        for name, array in arrays.items():
            kept[name] = array.copy()
            array[...] = point[name]
        yield
    finally:
        for name, values in kept.items():
            arrays[name][...] = values


def _float64(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_float64(part) for part in value)
    array = np.array(value)
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    return array if array.dtype.kind in "biu" and array.ndim else value


def _real(where: str, name: str, value: Any, finite: bool = True) -> Array:
    """Return a float64 copy of an array of real numbers."""
    array = arguments.as_array(where, name, value)
    if array.dtype.kind not in "fiu":
        raise DTypeError(f"{where}: {name} must be an array of real numbers; got {array.dtype}")
    copied = np.array(array, np.float64)
    if finite:  # what stands past the end of a sequence may be anything
        require_finite(where, name, copied)
    return copied


def _each(where: str, name: str, value: Any) -> Any:
    if not isinstance(value, tuple):
        return _real(where, name, value)
    return tuple(_real(where, f"{name}[{k}]", part) for k, part in enumerate(value))


def _like(where: str, name: str, given: Any, model: Array, rng: np.random.Generator) -> Array:
    """Return a gradient of an output: the one that was given, or signed normal numbers."""
    if given is None:
        return rng.normal(size=model.shape)
    array = _real(where, name, given)
    if array.shape != model.shape:
        raise ShapeError(
            f"{where}: {name} must have the shape of what it is the gradient of, {model.shape}; got {array.shape}"
        )
    return array


def _like_all(where: str, name: str, given: Any, model: Any, rng: np.random.Generator) -> Any:
    if not isinstance(model, tuple):
        return _like(where, name, given, model, rng)
    if given is not None and (not isinstance(given, tuple) or len(given) != len(model)):
        raise DTypeError(f"{where}: {name} must be a tuple of {len(model)} arrays; got {type(given).__name__}")
    pairs = zip(given or (None,) * len(model), model, strict=True)
    return tuple(_like(where, f"{name}[{k}]", part, m, rng) for k, (part, m) in enumerate(pairs))
