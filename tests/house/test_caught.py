"""The list of which check catches which mistake is complete."""

from rnn_numpy.checks import CHECKS
from rnn_numpy.zoo import ZOO
from tests import caught
from tests.checks.test_mutants import MUTANTS
from tests.layers.test_cross_entropy import MISTAKES as LOSSES
from tests.layers.test_embedding import MISTAKES as SUMS


def test_the_list_has_every_mutant_every_check_and_every_specimen(capsys):
    caught.main([])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for mutant in MUTANTS:
        assert f"{mutant.kind.__name__:4} {mutant.name}: {', '.join(mutant.caught_by)}" in lines
    for check in CHECKS:
        assert any(check.__name__ in line.split(":")[0].split() and not line.startswith("0 ") for line in lines)
    assert {animal.name for animal in ZOO} <= {line.split(":")[0] for line in lines}
    assert {f"cross_entropy_loss: {mistake}" for mistake in LOSSES} | {f"Embedding: {mistake}" for mistake in SUMS} <= {
        *lines
    }
    assert "NOT CAUGHT" not in " ".join(lines)


def test_what_is_run_is_what_is_declared():
    chosen = [mutant for mutant in MUTANTS if mutant.name in ("W_hh transposed", "T = 0 let through")]
    assert all(set(mutant.caught_by) <= set(caught.caught(mutant)) for mutant in chosen)
    assert len(chosen) == 2
    tensors, kind = caught.seen(ZOO[0])
    assert (set(tensors), kind) == (set(ZOO[0].where.tensors), ZOO[0].diagnosis)
