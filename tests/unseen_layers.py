"""Print what `gradcheck` says of wrong backward passes whose author did not know what it looks for, beside the truth.

    python -m tests.unseen_layers              all of tests/support/unseen_layers.py and more_unseen_layers.py; a minute
    python -m tests.unseen_layers gru peephole those whose name has one of these

When they were written, 29 of the first 35 were named rightly and none wrongly; of six it said what is wrong and where,
and that it is none of the mistakes it knows. Of the 24 others 19 were named rightly, two not at all, and three by words
that were not the best or, of one, not right: a path that is missing was "7e-18 times the right one". All have names
now.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

import numpy as np
from more_unseen_layers import CASES as MORE
from unseen_layers import CASES, D, N, T

from rnn_numpy.checks import GradcheckReport, gradcheck


def report_of(case: Mapping[str, Any]) -> GradcheckReport:
    """Check one of the layers, from initial states that are not 0 where it has no others than h and c."""
    layer, rng = case["make"](), np.random.default_rng(1)
    x = rng.normal(size=(N, T, D) if layer.batch_first else (T, N, D))
    rows, states = layer.num_layers * layer.num_directions, layer.cell.states
    h_0 = None
    if set(states) <= {"h", "c"}:
        drawn = [rng.normal(size=(rows, N, layer.width(state))) / 2 for state in states]
        h_0 = drawn[0] if len(drawn) == 1 else tuple(drawn)
    return gradcheck(layer, x, h_0, **case["call"])


def main(chosen: list[str]) -> None:
    for case in (*CASES, *MORE):
        if chosen and not any(part in case["name"] for part in chosen):
            continue
        report = report_of(case)
        print(f"{case['name']}: {case['truth']}\n    {report.verdict}: {report.diagnosis}")


if __name__ == "__main__":
    main(sys.argv[1:])
