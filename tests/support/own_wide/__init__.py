"""Four networks as people write them, each with the mistakes that its backward pass could have, line by line."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

NETS = ("stacked_lstm", "gru", "tanh_layers", "attention")


def mistakes(net: str) -> list[tuple[str, str, str, str]]:
    """Return a net's mistakes: what each is, the line, what stands there instead, what a diagnosis must say."""
    found: list[tuple[str, str, str, str]] = importlib.import_module(f"own_wide.{net}").MISTAKES
    return found


def right(net: str) -> Callable[[int], Any]:
    """Return what makes a net from a seed, without a mistake."""
    make: Callable[[int], Any] = importlib.import_module(f"own_wide.{net}").make
    return make


def with_mistake(net: str, line: str, instead: str) -> Callable[[int], Any]:
    """Return what makes a net from a seed, with another line in its backward pass."""
    path = Path(__file__).with_name(f"{net}.py")
    text = path.read_text(encoding="utf-8")
    begin, end = text.index("    def grads("), text.index("# What it is, the line")
    pattern = r"\s*".join(map(re.escape, re.findall(r"\w+|\S", line)))
    code, count = re.subn(pattern, lambda _: instead, text[begin:end])
    if count != 1:
        raise ValueError(f"{net}: {line!r} stands {count} times in its backward pass")
    namespace: dict[str, Any] = {}
    exec(compile(text[:begin] + code + text[end:], str(path), "exec"), namespace)
    make: Callable[[int], Any] = namespace["make"]
    return make
