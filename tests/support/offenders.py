"""One test for many alike: it lists those that fail, where a test for each would only make the count large."""

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def offenders(cases: Iterable[T], check: Callable[[T], None]) -> dict[T, str]:
    """Return those for which `check` raises, each with the message; pytest shows all of them when {} is expected."""
    found = {}
    for case in cases:
        try:
            check(case)
        except Exception as error:
            found[case] = f"{type(error).__name__}: {error}"
    return found
