"""The published figures: our cells are what they say, rows are judged right, cheap figures come out. None is timed."""

import json
import math

import numpy as np
import pytest

from benchmarks import published_figures as figures
from benchmarks.published_figures import LinearNet, MatrixProduct, Row, rate_network
from rnn_numpy.engine.recorded import RecordedSteps

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (MatrixProduct(9, 3, rng=0), RNG.normal(size=(4, 2, 9))),
        (rate_network(RNG.normal(size=(3, 3)), 0.1), RNG.normal(size=(4, 2, 1))),
        (LinearNet(2, 3, rng=0), RNG.normal(size=(4, 2, 2))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_backward_is_that_of_forward(net, x):
    start = RNG.normal(size=(1, 2, 3))
    steps = RecordedSteps(net, net.forward(x, start)[2], "l0")
    t, n = np.repeat(np.arange(4), 6), np.tile(np.repeat(np.arange(2), 3), 4)
    pulled = steps.vjp(t, n, np.tile(np.eye(3), (8, 1)))
    jacobians = steps.jacobians()
    np.testing.assert_allclose(pulled.dstates.reshape(4, 2, 3, 3), jacobians.state, atol=1e-15)
    np.testing.assert_allclose(pulled.da.reshape(4, 2, 3, 3), jacobians.preactivation, atol=1e-15)


def test_cells_are_the_formulas():
    W, x, start = RNG.normal(size=(3, 3)), RNG.normal(size=(5, 1, 9)), RNG.normal(size=(1, 1, 3))
    rate = rate_network(W, 0.1)
    h = start[0, 0]
    for output in rate(np.zeros((5, 1, 1)), start)[0][:, 0]:
        h = 0.9 * h + 0.1 * W @ np.tanh(h)
        np.testing.assert_allclose(output, h, rtol=1e-13)
    h = start[0, 0]
    for output, matrix in zip(MatrixProduct(9, 3, rng=0)(x, start)[0][:, 0], x[:, 0].reshape(5, 3, 3), strict=True):
        h = matrix @ h
        np.testing.assert_allclose(output, h, rtol=1e-13)


def test_rows_are_judged():
    assert Row("a", "b", 1.0, 1.05, 0.1, "").passed is True
    assert Row("a", "b", 1.0, 1.2, 0.1, "").passed is False
    assert Row("a", "b", 1.0, math.nan, 0.1, "").passed is False


def test_gaussian_products():
    assert all(row.passed for row in figures.gaussian_products(3000))


def test_a_short_demo():
    rows = {row.quantity: row for row in figures.engelken_demo(100.0)}
    # Of a stretch so short 0.185, with a standard deviation of 0.027 over ten starts that lie 1e-13 apart: which
    # stretch it is, the kernels of the BLAS decide.
    assert abs(rows["lambda_1"].ours - 0.185) < 4 * 0.027
    assert rows["mean of lambda_i + lambda_{N+1-i}"].published == pytest.approx(-2.1072, abs=5e-5)
    assert rows["mean of lambda_i + lambda_{N+1-i}"].ours == pytest.approx(-2.1, abs=0.02)


def test_smaller_nets_have_nearly_the_spectrum():
    rows = {row.quantity: row for row in figures.clark_spectrum(100, 300)}
    assert rows["mean exponent"].ours == pytest.approx(-2.27, abs=0.1)
    assert rows["lambda_1"].ours == pytest.approx(0.29, abs=0.03)
    assert figures.backward_slope(300, 800)[0].ours == pytest.approx(0.085, abs=0.02)
    nets = [row for row in figures.mean_field(200, 200, 1) if row.quantity.endswith("nets")]
    assert len(nets) == 4
    for row in nets:
        assert row.ours == pytest.approx(row.published, abs=0.05)


@pytest.mark.parametrize("name", ["memory", "singular-values", "cliff"])
def test_cheap_figures(name):
    for row in figures.FIGURES[name]():
        assert row.passed, row


def test_folds_are_those_of_the_closed_form():
    folds = [row.published for row in figures.cliff_and_folds()[2:]]
    np.testing.assert_allclose(folds, [-2.655610, -2.344390], atol=5e-7)


def test_main(tmp_path, capsys, monkeypatch):
    path = tmp_path / "out.json"
    assert figures.main(["--only", "memory", "--json", str(path)]) == 0
    said = capsys.readouterr().out
    assert "linear memory capacity, N = 50" in said and " pass " in said
    assert max(map(len, said.splitlines())) <= 130
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told["rows"][0]["passed"] is True and set(told["seconds"]) == {"memory"}
    monkeypatch.setitem(figures.FIGURES, "memory", lambda: [Row("memory", "b", 1.0, 2.0, 0.1, "")])
    assert figures.main(["--only", "memory"]) == 1
    assert "FAIL" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        figures.main(["--only", "nothing"])
    assert "invalid choice" in capsys.readouterr().err
