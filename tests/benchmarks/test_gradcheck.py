"""The benchmarks of gradient checkers ask them rightly and count rightly. Nothing here depends on speed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from frameworks import marked

from benchmarks import gradcheck_speed, gradcheck_zoo
from benchmarks.cases import Case
from benchmarks.contenders import OURS
from benchmarks.gradcheck_zoo import RIVALS, Function, Verdict
from benchmarks.worker import WorkerError
from rnn_numpy.zoo import ZOO, specimen

CHECKS = {name: make for checks in gradcheck_zoo.LIBRARIES.values() for name, make in checks.items() if name != "ours"}


def cubes(factor: float) -> Function:
    """The sum of two arrays' cubes, with a derivative that is `factor` times the right one in the second."""
    rng = np.random.default_rng(0)
    factors = (1.0, factor)
    return Function(
        [rng.uniform(0.5, 1.5, 3), rng.uniform(0.5, 1.5, (2, 2))],
        lambda arrays: [np.array(sum(np.sum(array**3) for array in arrays))],
        lambda arrays, given: [3 * a**2 * given[0] * f for a, f in zip(arrays, factors, strict=True)],
    )


def verdict(name: str, rival: str, wrong: str | None, right: str | None = None, kind: str | None = None) -> Verdict:
    return Verdict(name, rival, {"loss": wrong}, {"loss": right}, 0.1, kind)


# ------------------------------------------------------------------------------------------------------- the checkers


@pytest.mark.parametrize("name", marked(*CHECKS, fast="torch"))
def test_a_checker_accepts_what_is_right_and_rejects_what_is_wrong(name: str) -> None:
    check = CHECKS[name]()
    assert check(cubes(1.0)) is None
    assert check(cubes(1.1)) is not None


@pytest.mark.parametrize("name", marked("autograd", "plain", "torch"))
def test_what_a_checker_does_not_see(name: str) -> None:
    check, seen = CHECKS[name](), {"autograd": 1e-3, "plain": 1e-6, "torch": 1e-2}[name]
    assert check(cubes(1 + seen)) is not None
    assert check(cubes(1 + 1e-8)) is None


@pytest.mark.parametrize("name", [one.name for one in ZOO])
def test_both_forms_are_the_layer_and_its_gradient(name: str) -> None:
    animal = specimen(name)
    shown = animal.exhibit(4)
    expected, right = shown.gradients(shown.right), gradcheck_zoo.functions(shown, shown.right)
    if shown.shared_grads:
        # No checker hands in grads: half of the sum of two calls.
        expected = {key: value / (1 if key in ("x", "h_0") else 2) for key, value in expected.items()}
    loss = right["loss"]
    found = loss.pull(loss.point, [np.array(1.0)])
    assert [array.shape for array in found] == [array.shape for array in loss.point]
    for gradient, reference in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(gradient, reference, rtol=0, atol=1e-13 * np.abs(reference).max())
    output, h_n, _ = shown.forward(shown.right)
    outputs = right["outputs"].outputs(right["outputs"].point)
    assert outputs[0].tobytes() == output.tobytes()
    assert outputs[1].tobytes() == (h_n[0] if isinstance(h_n, tuple) else h_n).tobytes()


def test_a_layer_serves_all_calls_of_a_checker() -> None:
    shown = specimen("grads-never-cleared").exhibit(4)
    loss = gradcheck_zoo.functions(shown, shown.layer)["loss"]
    first = loss.pull(loss.point, [np.array(1.0)])[-1].copy()
    second = loss.pull(loss.point, [np.array(1.0)])[-1]
    np.testing.assert_allclose(second, 2 * first, rtol=1e-14)


# ---------------------------------------------------------------------------------------------------------- the words


def test_words() -> None:
    assert verdict("clipped", "plain", "wrong").word == "caught"
    assert verdict("clipped", "plain", None).word == "missed"
    assert verdict("clipped", "plain", "wrong", "wrong as well").word == "?"
    # Of two forms, that counts in which the right layer is accepted.
    mixed = Verdict("clipped", "jax", {"loss": None, "outputs": "wrong"}, {"loss": None, "outputs": "wrong"}, 0.1)
    assert mixed.word == "missed"


def test_table_and_totals() -> None:
    said = [
        *(verdict(one.name, rival, "wrong", kind=one.diagnosis) for one in ZOO for rival in RIVALS if rival != "fast"),
        *(verdict(one.name, "fast", None) for one in ZOO),
        *(verdict(one.name, rival, None) for one in gradcheck_zoo.CONTROLS for rival in RIVALS),
    ]
    lines = gradcheck_zoo.table(said).splitlines()
    assert len(lines) == len(ZOO) + 4
    assert max(map(len, lines)) <= 100
    assert lines[1].split()[:5] == [ZOO[0].name, ZOO[0].cell, "+", "-", "+"]
    assert gradcheck_zoo.totals(said)["fast"] == {"missed": len(ZOO)}
    assert gradcheck_zoo.totals(said)["jax"] == {"caught": len(ZOO)}
    assert f"names the mistake of {len(ZOO)} of {len(ZOO)}, and the place alone of 0 more" in gradcheck_zoo.conclusion(
        said
    )
    assert len(gradcheck_zoo.markdown(said).splitlines()) == len(ZOO) + 2
    partly = gradcheck_zoo.table([verdict("clipped", "plain", None)]).splitlines()
    assert partly[1].split() == ["clipped", "rnn", ".", ".", ".", ".", "-", "."]


# ------------------------------------------------------------------------------------------------------- the programs


@pytest.mark.needs_torch
@pytest.mark.needs_jax
def test_the_zoo_program(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "out.json"
    names = ["recurrence-transposed", "truncated-window"]
    assert (
        gradcheck_zoo.main(
            ["--specimens", *names, "--libraries", "numpy", "torch", "jax", "--steps", "11", "--json", str(path)]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "recurrence-transposed            rnn     +    +   +    +     +    ." in printed
    assert "truncated-window                 rnn     -    -   -    -     -    ." in printed
    document = json.loads(path.read_text())
    assert {one["rival"] for one in document["verdicts"]} == {"torch", "fast", "jax", "autograd", "plain"}
    assert document["totals"]["plain"] == {"caught": 1, "missed": 1}
    assert all(
        one["word"] == "missed"
        for one in document["verdicts"]
        if one["name"] in ("right-rnn", "right-lstm", "right-gru")
    )
    assert gradcheck_zoo.main(["--markdown", "--json", str(path)]) == 0
    assert "| truncated-window | rnn | - | - | - | - | - | . |" in capsys.readouterr().out


def test_a_checker_that_rejects_what_is_right_ends_the_run(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def ask(library: str, names: list[str], steps: int) -> list[Verdict]:
        return [verdict("right-rnn", "plain", "off", "off"), verdict("clipped", "plain", "off", "off")]

    monkeypatch.setattr(gradcheck_zoo, "ask", ask)
    assert gradcheck_zoo.main(["--libraries", "numpy", "--specimens", "clipped"]) == 1
    assert "error: plain rejects right-rnn, which is right" in capsys.readouterr().err


def test_a_process_that_fails_is_told() -> None:
    with pytest.raises(WorkerError, match="the process of numpy ended with exit code 2"):
        gradcheck_zoo.ask("numpy", ["unicorn"], 4)


@pytest.mark.needs_torch
@pytest.mark.parametrize("cell", gradcheck_speed.CELLS)
def test_torchs_gradient_is_ours(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which a worker's process finds set
    case = Case(cell, (5, 1, 3, 4), "float64")
    mine = gradcheck_speed.OurCheck()
    mine.load(case)
    for form, fast in gradcheck_speed.RIVALS.values():
        theirs = gradcheck_speed.TorchCheck(form, fast)
        theirs.load(case)
        found = gradcheck_speed.differences(mine.results([]), theirs.results([]))
        gradcheck_speed.require_equal(case, "torch", found)
        theirs.step()


@pytest.mark.needs_torch
def test_the_speed_program(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "out.json"
    assert gradcheck_speed.main(["--smoke", "--cells", "rnn-tanh", "--json", str(path)]) == 0
    (point,) = json.loads(path.read_text())["points"]
    assert set(point["seconds"]) >= set(gradcheck_speed.RIVALS)
    assert all(len(values) == 1 for values in point["seconds"].values())
    assert all(value <= 1e-12 for found in point["differences"].values() for value in found.values())
    assert "rnn-tanh    4" in capsys.readouterr().out


def test_ratios_are_round_by_round() -> None:
    case = Case("gru", (30, 1, 3, 16), "float64").to_json()
    times = {name: [4.0, 90.0, 6.0] for name in gradcheck_speed.RIVALS}
    assert gradcheck_speed.ratios({"case": case, "seconds": times}) == {}
    point = {"case": case, "seconds": {OURS: [1.0, 30.0, 2.0], **times}}
    assert gradcheck_speed.ratios(point) == dict.fromkeys(gradcheck_speed.RIVALS, 3.0)
    lines = gradcheck_speed.table([point]).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].split()[:7] == ["gru", "16", "2.00", "s", "6.00", "s", "(3.0"]


def test_functions_are_timed(capsys):
    assert gradcheck_speed.main(["--functions", "--smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(gradcheck_speed.CHANGES)
    assert lines[1].split()[:2] == ["10150", "right"] and lines[5].split()[0] == "22725"
