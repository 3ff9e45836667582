"""A wrong formula in place of a right one, wherever in the chain of a cell's parts that stands."""

import dataclasses
import inspect
import sys
import textwrap

KINDS = ("forward", "backward", "partials", "tangent")


def planted(cell, right, wrong):
    """Return the cell with `wrong` in place of the formula `right`."""
    changes = {f"step_{kind}": wrong for kind in KINDS if getattr(cell, f"step_{kind}") == right}
    for place in ("before", "after"):
        parts = [
            dataclasses.replace(part, **{k: wrong for k in KINDS if getattr(part, k) == right})
            for part in getattr(cell, place)
        ]
        if parts != list(getattr(cell, place)):
            changes[place] = tuple(parts)
    assert len(changes) == 1, f"{right} stands {len(changes)} times in the cell"
    return dataclasses.replace(cell, **changes)


def edited(function, old, new):
    """Return a function in which one piece of its text is another."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function)).removeprefix("@functools.cache\n")
    assert source.count(old) == 1, f"{function.__name__} has {source.count(old)} times {old!r}"
    space = dict(vars(sys.modules[function.__module__]))
    exec("from __future__ import annotations\n" + source.replace(old, new), space)
    return space[function.__name__]
