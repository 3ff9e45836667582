"""The gradient check of layers: right ones pass with their digits, wrong ones are found, whatever the size."""

import dataclasses
import json

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.checks import assert_gradients, gradcheck
from rnn_numpy.checks.chain_rule import ChainRule
from rnn_numpy.checks.rounding import tolerances
from rnn_numpy.core.packing import pack_padded_sequence
from rnn_numpy.engine import parts
from rnn_numpy.errors import GradientCheckError, OptionError
from rnn_numpy.zoo.common import WrongFormulas, WrongSums

LAYERS = [(RNN, {}), (RNN, {"nonlinearity": "relu"}), (LSTM, {}), (LSTM, {"proj_size": 2}), (GRU, {}),
          (GRU, {"reset": "before"}), (PeepholeLSTM, {}), (LayerNormLSTM, {"epsilon": 0.3})]  # fmt: skip
CORES = [RNN, LSTM, GRU]


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def spoilt(kind, change, *args, **options):
    """Return a layer whose sums over the steps go through `change` when they are complete."""

    class Spoilt(WrongSums, kind):
        def _spoil(self, run):
            change(run.sums)

    return Spoilt(*args, **options)


def wrong_dx(kind, at, factor, *args, **options):
    """Return a layer of which one step's dx is off by a factor."""

    class WrongInput(kind):
        def backward(self, *args, **kwargs):
            back = super().backward(*args, **kwargs)
            back.dx[at] *= factor
            return back

    return WrongInput(*args, **options)


# ------------------------------------------------------------------------------------------------ right


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_right_layers_pass_with_fourteen_digits(kind, options):
    report = gradcheck(kind(2, 4, rng=0, **options), data(30, 2, 2))
    assert report.ok, report
    assert report.error < 1e-13
    assert min(row.digits for row in report.rows if not row.name.startswith("da")) >= (13 if options else 14)
    assert [trial.name for trial in report.trials][::3] == ["end to end", "RTRL"]
    assert report.diagnosis is None


def test_packed_unbatched_empty_and_single():
    assert_gradients(LSTM(2, 3, rng=0), pack_padded_sequence(data(7, 3, 2), [7, 4, 2]))
    assert_gradients(GRU(2, 3, rng=0), data(5, 2))
    assert_gradients(LSTM(2, 3, num_layers=2, bidirectional=True, rng=0), data(5, 0, 2))
    assert_gradients(RNN(1, 1, rng=0), data(1, 1, 1))


def test_no_loss_at_all_is_right():
    report = gradcheck(LSTM(2, 3, rng=0), data(5, 2, 2), doutput=np.zeros((5, 2, 3)), dh_n=(np.zeros((1, 2, 3)),) * 2)
    assert report.ok and report.error == 0


# ------------------------------------------------------------------------------------------------ small errors


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", CORES)
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_hh"])
def test_an_entry_off_by_1e_12_is_found(kind, name):
    def change(sums):
        # The largest entry: what cancels in smaller ones may be more than 1e-12 of them.
        sums[name].flat[np.abs(sums[name]).argmax()] *= 1 + 1e-12

    report = gradcheck(spoilt(kind, change, 3, 16, rng=1), data(30, 2, 3), trials=False)
    assert {row.name for row in report.rows if row.verdict != "ok"} == {f"{name}_l0"}
    assert report.diagnosis.where["part"] == "sums"


@pytest.mark.parametrize("kind", CORES)
def test_most_entries_off_by_1e_12_are_found_each(kind):
    layer, x = kind(3, 8, rng=1), data(30, 2, 3)
    output, _, trace = layer.forward(x)
    chain = ChainRule(layer, trace, data(*output.shape, seed=1))
    allowed, exact = tolerances(chain).tensors, chain.exact.tensors
    shares = np.concatenate([(allowed[name] / np.abs(exact[name])).ravel() for name in layer.params])
    assert np.mean(shares < 1e-12) > 0.85
    assert np.median(shares) < 3e-13


@pytest.mark.parametrize("t", [0, 4, 9])
def test_dx_of_one_step_off_by_1e_9(t):
    report = gradcheck(wrong_dx(GRU, t, 1 + 1e-9, 2, 3, rng=0), data(10, 2, 2), trials=False)
    assert [row.title for row in report.rows if row.verdict != "ok"] == ["x"]
    assert report["x"].index[0] == t
    assert report["x"].error == pytest.approx(1e-9, rel=1e-2)


def test_the_initial_states_gradient_of_one_layer():
    class Wrong(RNN):
        def backward(self, *args, **kwargs):
            back = super().backward(*args, **kwargs)
            back.dh_0 = back.dh_0 * np.array([1, 1 + 1e-11])[:, None, None]
            return back

    report = gradcheck(Wrong(2, 3, num_layers=2, rng=0), data(6, 2, 2), data(2, 2, 3), trials=False)
    assert [row.title for row in report.rows if row.verdict != "ok"] == ["h_0"]
    assert report["h_0"].index[0] == 1


def test_wrong_only_with_lengths():
    class Wrong(LSTM):
        def close_backward(self, run):
            dx = super().close_backward(run)
            if run.binding.batch.sort is not None:
                run.sums["bias_hh"] *= 1.5
            return dx

    assert gradcheck(Wrong(2, 3, rng=0), data(6, 2, 2)).ok
    report = gradcheck(Wrong(2, 3, rng=0), data(6, 2, 2), lengths=[3, 6])
    assert {row.name for row in report.rows if row.verdict != "ok"} == {"bias_hh_l0"}


# ------------------------------------------------------------------------------------------------ vanishing, exploding


def contracting(layer, factor):
    layer.params["weight_hh_l0"][...] *= factor
    return layer


LAST = np.concatenate([np.zeros((199, 2, 4)), np.ones((1, 2, 4))])


@pytest.mark.parametrize("factor", [0.4, 0.06])
def test_vanished_gradients_have_their_digits(factor):
    report = gradcheck(contracting(RNN(2, 4, rng=0), factor), data(200, 2, 2), doutput=LAST, dh_n=np.zeros((1, 2, 4)))
    assert report.ok, report
    assert 0 < abs(report["h_0"].reference) < (1e-100 if factor > 0.1 else 1e-250)
    assert report["h_0"].digits >= 12 and report["x"].digits >= 12


def test_a_wrong_gradient_of_1e_100_is_found():
    layer = contracting(wrong_dx(RNN, 0, 1 + 1e-6, 2, 4, rng=0), 0.4)
    report = gradcheck(layer, data(200, 2, 2), doutput=LAST, dh_n=np.zeros((1, 2, 4)))
    assert [row.title for row in report.rows if row.verdict != "ok"] == ["x"]
    assert report["x"].index[0] == 0 and abs(report["x"].reference) < 1e-100


def test_a_mistake_that_has_vanished_from_every_sum_is_found_at_its_step():
    class Wrong(RNN):
        def backward_loop(self, run):
            for t in super().backward_loop(run):
                if t == 5:
                    run.binding.arrays["da"][5] *= 1.001
                yield t

    layer = contracting(Wrong(2, 4, rng=0), 0.4)
    report = gradcheck(layer, data(100, 2, 2), doutput=LAST[100:], dh_n=np.zeros((1, 2, 4)), names=["weight_hh_l0"])
    assert report["weight_hh_l0"].verdict == "ok"
    assert not report.ok and report["da_l0"].index[0] == 5


def exploding(kind, *args, **options):
    layer = kind(2, 16, rng=0, **options)
    layer.params["weight_hh_l0"][...] = 0.75 * data(16, 16)
    return layer


def test_exploding_gradients_are_checked_step_by_step():
    report = gradcheck(exploding(RNN), data(200, 2, 2))
    assert report.ok, report
    assert report.growth > 1e7
    assert any("stepwise" in note and "fold" in note for note in report.notes)
    assert "end to end" not in [trial.name for trial in report.trials]


def test_an_error_of_1e_9_in_an_exploding_net():
    class Wrong(WrongSums, RNN):
        def _spoil(self, run):
            run.sums["weight_hh"][3, 4] *= 1 + 1e-9

    report = gradcheck(exploding(Wrong), data(200, 2, 2))
    assert report.growth > 1e7
    wrong = [row for row in report.rows if row.verdict != "ok"]
    assert [(row.name, row.index) for row in wrong] == [("weight_hh_l0", (3, 4))]


# ------------------------------------------------------------------------------------------------ options


def test_float32_is_compared_with_its_checked_twin():
    report = gradcheck(LSTM(2, 3, rng=0, dtype=np.float32), data(10, 2, 2).astype(np.float32))
    assert report.ok, report
    assert {row.note for row in report.rows} == {"", "float32"}
    assert max(row.error for row in report.rows if row.note) > 1e-9
    assert max(row.error for row in report.rows if not row.note) < 1e-13

    def change(sums):
        if sums["bias_ih"].dtype == np.float32:
            sums["bias_ih"] *= np.float32(1.001)

    report = gradcheck(spoilt(LSTM, change, 2, 3, rng=0, dtype=np.float32), data(10, 2, 2).astype(np.float32))
    assert {(row.name, row.note) for row in report.rows if row.verdict != "ok"} == {("bias_ih_l0", "float32")}


def test_exactly_at_the_kink():
    layer, x = RNN(2, 3, nonlinearity="relu", bias=False, rng=0), data(6, 2, 2)
    x[0, 0] = 0
    report = gradcheck(layer, x)
    assert report.ok, report
    assert any("3 pre-activations are exactly 0" in note and "l0 t=0 n=0 unit 2" in note for note in report.notes)
    assert not any("kink" in note for note in gradcheck(layer, data(6, 2, 2)).notes)


MASKED = {"num_layers": 2, "dropout": 0.4, "recurrent_dropout": 0.3, "zoneout": 0.2}


@pytest.mark.parametrize("kind", CORES)
def test_masks_are_drawn_once_and_replayed(kind):
    layer = kind(2, 3, rng=0, **MASKED)
    before = layer.rng.bit_generator.state
    first, second = (gradcheck(layer, data(6, 2, 2), seed=seed) for seed in (0, 1))
    assert first.ok and second.ok
    assert layer.rng.bit_generator.state == before
    assert first["x"].reference != second["x"].reference


def test_masks_of_the_callers_are_used():
    rng = np.random.default_rng(0)
    mask = [np.zeros((6, 2, 3))]
    report = gradcheck(RNN(2, 3, num_layers=2, rng=0), data(6, 2, 2), dh_n=np.zeros((2, 2, 3)), dropout_masks=mask)
    assert report.ok and report["weight_ih_l0"].reference == 0
    shares = {"l0": rng.random((2, 3)) * 2}
    assert gradcheck(GRU(2, 3, rng=0), data(6, 2, 2), recurrent_masks=shares).ok


@pytest.mark.parametrize("name", ["drop_backward", "zone_backward_new", "zone_backward_prev"])
def test_masks_not_applied(name, monkeypatch):
    replacement = {
        "drop_backward": lambda dh_in, m, dh_prev: np.add(dh_prev, dh_in, out=dh_prev),
        "zone_backward_new": lambda ds_t, k_t, ds_new: np.copyto(ds_new, ds_t),
        "zone_backward_prev": lambda ds_t, k_t, ds_prev: None,
    }
    monkeypatch.setattr(parts, name, replacement[name])
    layer = LSTM(2, 3, rng=0, **MASKED)
    layer.cell = dataclasses.replace(layer.cell)  # a new one looks the formulas of masks up anew
    report = gradcheck(layer, data(6, 2, 2))
    assert not report.ok
    assert "weight_hh_l0" in {row.name for row in report.rows if row.verdict != "ok"}


# ------------------------------------------------------------------------------------------------ a loss on top


def squared(output, h_n):
    return 0.5 * np.sum(output * output), output


def test_loss_on_top():
    report = gradcheck(GRU(2, 3, rng=0), data(6, 2, 2), loss=squared)
    assert report.ok, report
    assert {"loss: doutput", "loss: dh_n"} <= {row.title for row in report.rows}


def test_a_wrong_loss_is_not_blamed_on_the_layer():
    def wrong(output, h_n):
        return 0.5 * np.sum(output * output), output * (1 + 1e-6)

    report = gradcheck(GRU(2, 3, rng=0), data(6, 2, 2), loss=wrong)
    assert [row.title for row in report.rows if row.verdict != "ok"] == ["loss: doutput"]
    assert report.diagnosis.why.startswith(
        "the layer's passes are right; the doutput that loss returns is not the gradient"
    )


def test_a_final_states_gradient_that_a_loss_forgets():
    report = gradcheck(RNN(2, 3, rng=0), data(6, 2, 2), loss=lambda output, h_n: (np.sum(h_n**3), 0 * output))
    assert [row.title for row in report.rows if row.verdict != "ok"] == ["loss: dh_n"]


# ------------------------------------------------------------------------------------------------ the report


def wrong_report():
    def change(sums):
        sums["weight_hh"][5:8] *= 2  # of an LSTM with H = 4: rows of f

    return gradcheck(spoilt(LSTM, change, 2, 4, rng=0), data(8, 2, 2))


def test_names():
    report = gradcheck(LSTM(2, 3, rng=0), data(6, 2, 2), names=["weight_hh_l0", "x"])
    assert {row.name for row in report.rows} == {"weight_hh_l0", "x", "da_l0"}
    with pytest.raises(OptionError, match="names must be among weight_ih_l0, .*; got \\['nothing'\\]"):
        gradcheck(LSTM(2, 3, rng=0), data(6, 2, 2), names=["nothing"])


def test_fields_of_a_wrong_row():
    report = wrong_report()
    assert not report.ok and not report.error < 0.4
    row = report["weight_hh_l0.f"]
    assert (row.name, row.gate, row.shape, row.verdict) == ("weight_hh_l0", "f", (4, 4), "WRONG")
    assert row.index[0] in (5, 6, 7)
    assert row.analytic == pytest.approx(2 * row.reference, rel=1e-12)
    assert row.error > 0.4 > 1e-11 > row.allowed > 0 and row.kappa >= 1 and row.digits == 0
    assert [other.title for other in report.rows if other.verdict != "ok"] == ["weight_hh_l0.f"]
    with pytest.raises(KeyError, match="weight_hh_l0.f"):
        report["weight_hh"]


def exploding_report():
    return gradcheck(exploding(RNN), data(200, 2, 2))


def deep_report():
    return gradcheck(LSTM(2, 3, bidirectional=True, rng=0, **MASKED), data(200, 3, 2))


@pytest.mark.parametrize("make", [wrong_report, exploding_report, deep_report])
def test_a_report_is_a_hundred_columns_wide_and_json(make):
    report = make()
    assert max(map(len, repr(report).splitlines())) <= 100
    assert repr(report).splitlines()[-1] == ("ok" if report.ok else "FAILED")
    text = json.dumps(report.to_dict(), allow_nan=False)
    read = json.loads(text)
    assert read["ok"] is report.ok
    assert [row["title"] for row in read["rows"]] == [row.title for row in report.rows]


def test_a_gradient_that_is_not_finite():
    def change(sums):
        sums["bias_ih"][2] = np.nan

    report = gradcheck(spoilt(GRU, change, 2, 3, rng=0), data(6, 2, 2))
    assert not report.ok and np.isnan(report.error)
    assert report.diagnosis.kind == "not finite"
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["error"] is None


def test_raise_if_failed_and_assert_gradients():
    with pytest.raises(GradientCheckError, match="the gradient check failed\n(.*\n)*.*weight_hh_l0.f .*WRONG"):
        wrong_report().raise_if_failed()
    with pytest.raises(GradientCheckError, match="sign"):
        assert_gradients(spoilt(RNN, lambda sums: np.negative(sums["bias_hh"], out=sums["bias_hh"]),
                                2, 3, rng=0), data(4, 1, 2))  # fmt: skip
    assert assert_gradients(RNN(2, 3, rng=0), data(4, 1, 2)).ok


# ------------------------------------------------------------------------------------------------ nothing is modified


def test_two_checks_agree_in_every_bit():
    layer = LSTM(2, 3, rng=0, **MASKED)
    first, second = (gradcheck(layer, data(6, 2, 2), lengths=[3, 6]).to_dict() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


@pytest.mark.parametrize("wrong", [False, True])
def test_nothing_of_the_callers_is_modified(wrong):
    kind = LSTM

    class Wrong(WrongFormulas, LSTM):
        @staticmethod
        def _after_step_partials(f_t, da_f_t):
            da_f_t *= 1 - f_t

    layer = (Wrong if wrong else kind)(2, 3, num_layers=2, rng=0, zoneout=0.1)
    x, h_0, lengths = data(6, 2, 2), (data(2, 2, 3), data(2, 2, 3)), np.array([4, 6])
    doutput, dh_n = data(6, 2, 3), (data(2, 2, 3), data(2, 2, 3))
    drop = [np.ones((6, 2, 3))]
    zone = {name: (np.zeros((6, 2, 3)), np.full((6, 2, 3), 0.5)) for name in ("l0", "l1")}
    given = [x, *h_0, lengths, doutput, *dh_n, *drop, *zone["l0"], layer.params.flat]
    before, state, options = [a.copy() for a in given], layer.rng.bit_generator.state, dict(vars(layer))
    report = gradcheck(layer, x, h_0, lengths, doutput=doutput, dh_n=dh_n, dropout_masks=drop, zoneout_masks=zone)
    assert report.ok is not wrong
    for array, kept in zip(given, before, strict=True):
        assert array.tobytes() == kept.tobytes()
    assert layer.rng.bit_generator.state == state
    assert dict(vars(layer)) == options


def test_progress_is_told():
    told = []
    gradcheck(GRU(2, 3, rng=0), data(30, 2, 2), progress=lambda *what: told.append(what))
    assert told[-1] == (60, 60, "steps of l0")
