"""Which check catches which mistake:

    python -m tests.caught            the lists that the tests hold, in seconds
    python -m tests.caught --run      all checks on every mistake, in minutes

The first prints what is declared: for each mutant the conformance checks that must catch it
(tests/checks/test_mutants.py fails where one of them does not), for each specimen of the zoo the gradients that the
gradient check must find wrong, and the mistakes that it may name (tests/checks/test_diagnosis.py), and the mistakes of
losses and of the embedding that gradcheck finds in their tests. The second plants each mutant and each specimen and
prints what happens.
"""

# ruff: noqa: E402  (what tests share lies in tests/support)

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "support")]

import numpy as np
import pytest

from rnn_numpy.checks import CHECKS, Case, conformance_failures, gradcheck
from rnn_numpy.zoo import ZOO
from tests.checks.test_mutants import MUTANTS
from tests.layers import test_cross_entropy, test_embedding


def declared(mutant):
    return list(mutant.caught_by)


def caught(mutant):
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="raise", under="ignore"):
        mutant.plant(patch)
        return list(conformance_failures(Case(mutant.kind, mutant.options)))


def seen(animal):
    """Return (gradients that are wrong, the mistake's name) as the gradient check tells them."""
    shown = animal.exhibit()
    arguments = {"doutput": shown.doutput, "dh_n": shown.dh_n, **shown.masks}
    report = gradcheck(shown.layer, shown.x, shown.h_0, shown.lengths, **arguments)
    wrong = [row.name for row in report.rows if row.verdict != "ok" and not row.name.startswith("da")]
    return wrong, "nothing" if report.ok else report.diagnosis.kind


def labelled(animal):
    return list(animal.where.tensors), " or ".join((animal.diagnosis, *animal.also))


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.caught", description="Which check catches which mistake.")
    parser.add_argument("--run", action="store_true", help="plant every mistake and run all checks; takes minutes")
    run = parser.parse_args(arguments).run
    by_check = {check.__name__: [] for check in CHECKS}
    print(f"{len(MUTANTS)} mutants, each with the conformance checks that catch it\n")
    for mutant in MUTANTS:
        names = caught(mutant) if run else declared(mutant)
        for name in names:
            by_check[name].append(mutant.name)
        print(f"  {mutant.kind.__name__:4} {mutant.name}: {', '.join(names) or 'NOT CAUGHT'}", flush=True)
    print(f"\n{len(CHECKS)} checks, each with how many of the mutants it catches\n")
    for name, mutants in by_check.items():
        print(f"  {len(mutants):3}  {name}{'' if len(mutants) > 3 else ': ' + '; '.join(mutants)}")
    print(
        f"\n{len(ZOO)} specimens of the zoo, each with the gradients that gradcheck finds wrong, and what it calls it\n"
    )
    for animal in ZOO:
        tensors, kind = seen(animal) if run else labelled(animal)
        print(f"  {animal.name}: {kind}; {', '.join(tensors) or 'no gradient of a single pass'}", flush=True)
    others = {"cross_entropy_loss": test_cross_entropy.MISTAKES, "Embedding": test_embedding.MISTAKES}
    print(f"\n{sum(map(len, others.values()))} wrong gradients of losses and embeddings that gradcheck finds\n")
    for name, mistakes in others.items():
        for mistake in mistakes:
            print(f"  {name}: {mistake}")


if __name__ == "__main__":
    main()
