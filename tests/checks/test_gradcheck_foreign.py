"""`gradcheck` of what is like a layer or a model and none of our recurrent layers: by forward and backward alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Forecaster
from rnn_numpy.checks import GradcheckReport, gradcheck
from rnn_numpy.layers import GRUCell, Linear, LSTMCell, RNNCell

METHODS = ("auto", "complex step", "ridders", "fourth order", "central difference", "directional")
CELLS = (RNNCell, LSTMCell, GRUCell)

rng = np.random.default_rng(0)
W, X = rng.normal(size=(2, 3)), rng.normal(size=(4, 2))
H, STEPS, TARGETS = rng.normal(size=(4, 3)), rng.normal(size=(5, 4, 2)), rng.normal(size=(5, 4, 2))


def verdicts(report: GradcheckReport) -> dict[str, str]:
    return {row.title: row.verdict for row in report.rows if row.verdict != "ok"}


class Dense:
    """tanh(x w), with its parameters in a plain dict."""

    wrong = 1.0

    def __init__(self, w: Any = W, dtype: Any = np.float64) -> None:
        self.params = {"w": np.array(w, dtype)}

    def astype(self, dtype: Any) -> Any:
        return type(self)(self.params["w"], dtype)

    def forward(self, x: Any) -> Any:
        y = np.tanh(x @ self.params["w"])
        return y, (x, y)

    def backward(self, trace: Any, doutput: Any) -> Any:
        x, y = trace
        da = doutput * (1 - y * y)
        rows, columns = (a.reshape(-1, a.shape[-1]) for a in (x, da))
        return SimpleNamespace(grads={"w": self.wrong * rows.T @ columns}, dx=da @ self.params["w"].T)


class Square:
    """Half of the squared error of x w."""

    def __init__(self, w: Any = W, dtype: Any = np.float64) -> None:
        self.params = {"w": np.array(w, dtype)}

    def __repr__(self) -> str:
        return "Square(2, 3)"

    def astype(self, dtype: Any) -> Any:
        return type(self)(self.params["w"], dtype)

    def loss_and_grads(self, x: Any, target: Any) -> Any:
        error = x @ self.params["w"] - target
        return np.sum(error * error) / 2, {"w": x.T @ error}, error


def variant(base: type, **parts: Any) -> Any:
    return type(base.__name__, (base,), parts)()


# ---------------------------------------------------------------------------------------------- cells and Linear


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cell", CELLS)
def test_cells_pass_by_every_method(cell: Any, method: str) -> None:
    h = (H, 2 * H) if cell is LSTMCell else H
    report = gradcheck(cell(2, 3, rng=0), X, h, method=method)
    assert report.ok, report
    names = {row.name for row in report.rows}
    assert names >= {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "x", "h_prev"}
    assert ("c_prev" in names) == (cell is LSTMCell)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "x", "h_prev"])
def test_a_wrong_gradient_of_a_cell_is_found_where_it_is(cell: Any, name: str, monkeypatch: Any) -> None:
    right = cell.backward

    def wrong(self: Any, *args: Any) -> Any:
        found = right(self, *args)
        array = found.grads[name] if name in found.grads else getattr(found, f"d{name}").copy()
        array[0] *= 1 + 1e-6
        given = {
            title: getattr(found, title) for title in ("grads", "dx", "dh_prev", "dc_prev") if hasattr(found, title)
        }
        return SimpleNamespace(**given | ({f"d{name}": array} if name not in found.grads else {}))

    layer, h = cell(2, 3, rng=0), (H, 2 * H) if cell is LSTMCell else H
    assert gradcheck(layer, X, h).ok
    monkeypatch.setattr(cell, "backward", wrong)
    report = gradcheck(layer, X, h)
    assert {row.name for row in report.rows if row.verdict == "WRONG"} == {name}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("cell", CELLS)
def test_saturated_cells_raise_no_false_alarm(cell: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    layer = cell(2, 3, rng=seed)
    for array in layer.params.values():
        array[...] *= random.choice([1, 5, 20])
    h = random.uniform(-1, 1, size=(4, 3))
    report = gradcheck(layer, X, (h, 3 * h) if cell is LSTMCell else h, seed=seed)
    assert not verdicts(report), report


@pytest.mark.parametrize("x", [X, STEPS])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(x: Any, bias: bool) -> None:
    for method in METHODS:
        report = gradcheck(Linear(2, 3, rng=0, bias=bias), x, method=method)
        assert report.ok and {row.name for row in report.rows} == {"weight", "x", *(["bias"] if bias else [])}


@pytest.mark.parametrize("layer", [*(cell(2, 3, rng=0, dtype="float32") for cell in CELLS), Dense(dtype=np.float32)])
def test_a_float32_layer_is_checked_twice(layer: Any) -> None:
    report = gradcheck(layer, X)
    assert report.ok and "the float64 twin was checked first" in report.notes[-1]
    singles = [row for row in report.rows if row.note == "float32"]
    assert len(singles) * 2 == len(report.rows) and all(row.error < 1e-5 for row in singles)


@pytest.mark.parametrize("layer", [RNN(2, 3, rng=0), LSTM(2, 3, rng=0), GRU(2, 3, rng=0)])
def test_recurrent_layers_by_the_whole_loss(layer: Any) -> None:
    for method in ("complex step", "ridders", "directional"):
        assert gradcheck(layer, STEPS, lengths=[5, 2, 4, 1], method=method).ok


# ---------------------------------------------------------------------------------------------- layers of the user's


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("x", [X, STEPS])
def test_a_class_of_the_users(x: Any, method: str) -> None:
    assert gradcheck(Dense(), x, method=method).ok
    report = gradcheck(variant(Dense, wrong=1.00001), x, method=method)
    assert verdicts(report) == {"w": "WRONG"}


def test_a_layer_that_has_no_parameters() -> None:
    empty = variant(
        Dense,
        __init__=lambda self, *args: setattr(self, "params", {}),
        astype=lambda self, dtype: self,
        forward=lambda self, x: (x**3, x),
        backward=lambda self, x, doutput: SimpleNamespace(grads={}, dx=3 * x**2 * doutput),
    )
    report = gradcheck(empty, X)
    assert report.ok and [row.title for row in report.rows] == ["x"]


def test_a_layer_without_complex_numbers() -> None:
    def astype(self: Any, dtype: Any) -> Any:
        if np.dtype(dtype).kind == "c":
            raise TypeError("only real numbers")
        return Dense.astype(self, dtype)

    for method in ("auto", "directional"):
        report = gradcheck(variant(Dense, astype=astype), X, method=method)
        assert report.ok and report.method.startswith("ridders") and "TypeError: only real numbers" in str(report.notes)


def test_a_loss_on_top() -> None:
    report = gradcheck(Dense(), X, loss=lambda output, final: (np.sum(output**2) / 2, output))
    assert report.ok
    report = gradcheck(Dense(), X, loss=lambda output, final: (np.sum(output**2) / 2, 1.001 * output))
    assert set(verdicts(report)) == {"w", "x"}
    report = gradcheck(LSTM(2, 3, rng=0), STEPS, loss=lambda output, final: (np.sum(output**2) / 2, 2 * output))
    assert verdicts(report) == {"loss: doutput": "WRONG"}
    assert report.diagnosis is not None and report.diagnosis.why == (
        "the layer's passes are right; the doutput that loss returns is not the gradient of the number it returns"
    )


def test_what_writes_to_what_it_was_handed_is_found_and_nothing_of_the_callers_changes() -> None:
    def backward(self: Any, trace: Any, doutput: Any) -> Any:
        found = Dense.backward(self, trace, doutput)
        doutput *= 2
        return found

    x, doutput, layer = X.copy(), H.copy(), variant(Dense, backward=backward)
    report = gradcheck(layer, x, doutput=doutput)
    assert str(report.diagnosis) == (
        "input modified: the backward pass has changed doutput, which it was handed to read"
    )
    assert np.array_equal(x, X) and np.array_equal(doutput, H) and np.array_equal(layer.params["w"], W)


def test_a_gradient_that_is_not_finite_is_wrong() -> None:
    def backward(self: Any, trace: Any, doutput: Any) -> Any:
        found = Dense.backward(self, trace, doutput)
        found.grads["w"][1, 2] = np.nan
        return found

    for method in METHODS:
        report = gradcheck(variant(Dense, backward=backward), X, method=method)
        assert verdicts(report) == {"w": "WRONG"} and np.isnan(report.error)
        assert report.diagnosis is not None and report.diagnosis.kind == "not finite"
        assert report.to_dict()["error"] is None


def test_a_random_backward_is_found() -> None:
    draws = np.random.default_rng(0)

    def backward(self: Any, trace: Any, doutput: Any) -> Any:
        found = Dense.backward(self, trace, doutput)
        found.grads["w"] *= 1 + 1e-9 * draws.normal()
        return found

    report = gradcheck(variant(Dense, backward=backward), X)
    assert not report.ok and not report.reproducible
    assert str(report.diagnosis) == "not deterministic: two runs on the same arrays differ in w"


# ---------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_model(method: str) -> None:
    report = gradcheck(Forecaster(2, 3, cell="lstm", rng=0), STEPS, TARGETS, method=method)
    assert report.ok and {row.name for row in report.rows} >= {"rnn.weight_hh_l0", "readout.weight", "readout.bias"}


@pytest.mark.parametrize("cell", ["rnn-tanh", "rnn-relu", "gru"])
def test_a_model_of_every_cell(cell: str) -> None:
    model = Forecaster(2, 3, cell=cell, num_layers=2, rng=0)
    before = model.params.flat.copy()
    assert gradcheck(model, STEPS, TARGETS).ok
    assert np.array_equal(before, model.params.flat)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_the_users(method: str) -> None:
    assert gradcheck(Square(), X, H, method=method).ok
    assert gradcheck(Square(dtype=np.float32), X, H, method=method).ok

    def wrong(self: Any, *args: Any) -> Any:
        value, found, _ = Square.loss_and_grads(self, *args)
        return value, {"w": found["w"] / 4}

    report = gradcheck(variant(Square, loss_and_grads=wrong), X, H, method=method)
    assert verdicts(report) == {"w": "WRONG"}
    assert report.subject == "Square(2, 3) float64"


def test_a_model_that_writes_to_its_inputs() -> None:
    def writing(self: Any, x: Any, target: Any) -> Any:
        result = Square.loss_and_grads(self, x, target)
        x *= 1.1
        self.params["w"] *= 1.1
        return result

    x, model = X.copy(), variant(Square, loss_and_grads=writing)
    report = gradcheck(model, x, H)
    assert report.diagnosis is not None and report.diagnosis.why == (
        "the backward pass has changed argument 0, params['w'], which it was handed to read"
    )
    assert report.reproducible and not verdicts(report)  # of each run, as if nothing had been changed before
    assert np.array_equal(x, X) and np.array_equal(model.params["w"], W)
