"""What other libraries have, and this one has under another name, or not at all: said where somebody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rnn_numpy.errors import DTypeError

_MODE = "there is no mode: a call, layer(x), draws no masks of dropout, nor does layer.forward(x, training=False)"
_PLACE = "all computing is NumPy's, in the machine's memory; layer.astype(np.float32) converts parameters"
_GRADIENTS = "gradients are not kept in parameters, nor added up: each call of backward returns new ones"
_MAPPING = "parameters are layer.params, a mapping of names to arrays, which optimisers take: Adam(layer.params)"
_DRAWN = "a layer draws its parameters when it is made, from rng=; another seed makes another layer"
_PARTS = "a model's layers are plain attributes, as model.rnn; their names stand in front in model.params"
_CALLED = "nothing is compiled; layer(x) computes outputs, layer.forward(x) records what backward needs as well"

# torch's names, mostly.
ATTRIBUTES = {
    **dict.fromkeys(("train", "eval", "training"), _MODE),
    **dict.fromkeys(("parameters", "named_parameters", "weights", "get_weights", "all_weights"), _MAPPING),
    "trainable_variables": _MAPPING,
    **dict.fromkeys(("reset_parameters", "init_weights"), _DRAWN),
    **dict.fromkeys(("named_modules", "modules", "children", "add_module"), _PARTS),
    **dict.fromkeys(("compile", "predict", "evaluate"), _CALLED),
    **dict.fromkeys(("to", "cuda", "cpu", "float", "double", "half", "device"), _PLACE),
    **dict.fromkeys(("zero_grad", "grad", "requires_grad_", "requires_grad"), _GRADIENTS),
    "flatten_parameters": "layer.params.flat is one vector at all times, and the named arrays are views of it",
    "register_forward_hook": "the trace that forward returns shows every array of every step; see also forward_steps",
    "register_full_backward_hook": "backward_steps stops at every step, and shows its arrays",
    "fit": "see rnn_numpy.training, and `rnn-numpy train`",
}
ARGUMENTS = {"device": _PLACE}


class Elsewhere:
    """Base of what people look for other libraries' attributes and arguments in."""

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute, and every argument

        def __new__(cls, *args, **options):
            """Refuse an argument of other libraries; the class's own ones are its constructor's business."""
            for name in ARGUMENTS.keys() & options:
                raise DTypeError(f"{cls.__name__}: there is no argument {name}: {ARGUMENTS[name]}")
            return super().__new__(cls)

        def __getattr__(self, name):
            """Say what there is in place of an attribute that other libraries have."""
            answer = ATTRIBUTES.get(name)
            if name in vars(self).get("params", ()):
                answer = f"parameters are in a mapping, layer.params[{name!r}]"
            if answer and not hasattr(type(self), name):
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}: {answer}", name=name, obj=self)
            return object.__getattribute__(self, name)  # raises what it has raised before


class _Signature:
    """The signature of a class is that of its constructor; inspect would take `__new__`."""

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is not None:
            raise AttributeError("__signature__")
        import inspect

        whole = inspect.signature(owner.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])


Elsewhere.__signature__ = _Signature()  # type: ignore[attr-defined]
