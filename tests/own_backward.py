"""Print what `gradcheck` says of wrong backward passes that are written as people write them.

python -m tests.own_backward               all nets, seeds 0 to 2: how many mistakes are named
python -m tests.own_backward --all gru     one of them, and each verdict
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

from own_nets import LSTM_MISTAKES, RNN_MISTAKES, OwnNet, lstm, rnn
from own_wide import NETS, mistakes, with_mistake

from rnn_numpy.checks import gradcheck

NAMED, OTHER, UNKNOWN, MISSED = "named", "other words", "unknown", "missed"


SMALL = {"lstm": (lstm, LSTM_MISTAKES), "rnn": (rnn, RNN_MISTAKES)}


def verdict(net: str, line: str, instead: str, expected: str, seed: int) -> tuple[str, str]:
    """Return whether a mistake is named, and the diagnosis."""
    return judged(with_mistake(net, line, instead)(seed), expected)


def judged(made: tuple[Any, Any, Any], expected: str) -> tuple[str, str]:
    """Return the same of parameters, a loss and its gradients."""
    params, loss, grads = made
    diagnosis = gradcheck(loss, params, grads=grads, trials=False).diagnosis
    if diagnosis is None:
        return MISSED, ""
    if not diagnosis.explained:
        return UNKNOWN, str(diagnosis)
    said = f"{diagnosis.kind}: {diagnosis.why}"
    return (NAMED if re.search(expected, said) else OTHER), str(diagnosis)


def cases(net: str, seed: int) -> Iterator[tuple[str, tuple[Any, Any, Any], str]]:
    """Yield the mistakes of a net: what each is, the net with it, what a diagnosis must say."""
    if net not in SMALL:
        for what, line, instead, expected in mistakes(net):
            yield what, with_mistake(net, line, instead)(seed), expected
        return
    make, table = SMALL[net]
    for what, (kind, words) in table.items():
        made: OwnNet = make(seed)
        grads = functools.partial(made.grads, bug=what)
        yield what, (made.params, made.loss, grads), f"^{re.escape(kind)}: .*{re.escape(words)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=[*SMALL, *NETS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    whole: Counter[str] = Counter()
    for net in options.nets:
        began, counts = time.perf_counter(), Counter[str]()
        for seed in range(options.seeds):
            for what, made, expected in cases(net, seed):
                found, said = judged(made, expected)
                counts[found] += 1
                if options.all or found != NAMED:
                    print(f"  {net}, seed {seed}, {what}: {found}\n      {said}")
        print(f"{net}: {dict(counts)}, {time.perf_counter() - began:.0f} s")
        whole += counts
    print(f"all: {dict(whole)}")


if __name__ == "__main__":
    main()
