"""Check right gradients where numbers end, by the thousand: no layer and no model may be called wrong.

    python -m tests.harder_fuzz                        2 000 draws; four to six minutes
    python -m tests.harder_fuzz --draws 500 --first 2000
    python -m tests.harder_fuzz --seeds 73 297         these alone, with their reports

Draws are those of tests/support/hard_draws.py: every layer and model that `gradcheck` takes, weights of up to 100 times
the usual, inputs and losses of 1e8 and down to below the smallest number, both precisions, all options. "undecided" is
no alarm; "refused" is a draw whose own loss is no number. Exits with 1 at a false alarm, an exception among them.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

import numpy as np
from hard_draws import hard

from rnn_numpy.checks import GradcheckReport, gradcheck
from rnn_numpy.errors import GradientCheckError

# Of what no gradient can be had: a model's loss that has overflowed.
REFUSED = "must return a finite number"


def report_of(seed: int) -> GradcheckReport:
    """Check one draw; every fourth with all further tests."""
    target, given, named = hard(seed)
    with np.errstate(all="ignore"):  # float32 overflows under weights of 100
        return gradcheck(target, *given, **named, trials=seed % 4 == 0)


def verdict_of(seed: int) -> tuple[str, str]:
    """Return what is said of one draw, and the reason."""
    try:
        report = report_of(seed)
    except GradientCheckError as error:
        return ("refused" if REFUSED in str(error) else "GradientCheckError"), str(error)
    except Exception as error:  # whatever takes the check down is a false alarm
        return type(error).__name__, str(error)
    return report.verdict, f"{report.subject.splitlines()[0]}: {report.diagnosis}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harder_fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seeds", type=int, nargs="+", help="these seeds alone, with their reports")
    chosen = parser.parse_args(arguments)
    seeds = chosen.seeds or range(chosen.first, chosen.first + chosen.draws)
    counts: collections.Counter[str] = collections.Counter()
    alarms = []
    began = time.process_time()
    for done, seed in enumerate(seeds, start=1):
        verdict, why = verdict_of(seed)
        counts[verdict] += 1
        if verdict not in ("ok", "undecided", "refused"):
            alarms.append(seed)
            print(f"draw {seed}: {verdict}: {why}", flush=True)
        if chosen.seeds and verdict in ("ok", "undecided", "FAILED"):
            print(report_of(seed), flush=True)
        if done % 100 == 0 or done == len(seeds):
            told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
            print(f"{done} of {len(seeds)}: {told}; {time.process_time() - began:.0f} s", flush=True)
    if alarms:
        print(f"false alarms: {' '.join(map(str, alarms))}")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
