"""Passes that hand out their steps one by one, and have a result at the end."""

from __future__ import annotations

import collections
from collections.abc import Generator, Iterator
from typing import Any


class Steps(Iterator[Any]):
    """A pass made of a generator, one step at each `next`.

    Attributes
    ----------
    result : object or None
        What the generator returns; None until the last step is done.
    """

    def __init__(self, loop: Generator[Any, None, Any]) -> None:
        self._loop = loop
        self.result: Any = None

    def __next__(self) -> Any:
        try:
            return next(self._loop)
        except StopIteration as end:
            self.result = self.result or end.value
            raise


def run_out(steps: Any) -> Any:
    """Run an iterator with a `result` to its end; return that."""
    collections.deque(steps, maxlen=0)
    return steps.result
