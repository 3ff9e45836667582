"""Every recurrent layer against the conformance suite; see rnn_numpy.checks.conformance for what it holds them to."""

import inspect
from dataclasses import replace

import numpy as np
import pytest

import rnn_numpy
from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.checks import CHECKS, Case, conformance, conformance_checks, conformance_failures, recurrent_cases
from rnn_numpy.checks.conformance import conformance_id, not_applicable
from rnn_numpy.engine import Cell, Recurrent
from rnn_numpy.errors import GradientCheckError
from rnn_numpy.layers.attention import AttentionRNN
from tests.layers.test_own_cells import CASES as OWN_CASES

# A later layer joins in one line, with the options that only it has.
LAYER_CASES = [
    *recurrent_cases(
        RNN,
        {"nonlinearity": "relu"},
        {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True, "dropout": 0.3},
    ),
    *recurrent_cases(
        LSTM,
        {"proj_size": 2},
        {"proj_size": 2, "num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.3},
        {"proj_size": 2, "bias": False, "recurrent_dropout": 0.4, "zoneout": (0.3, 0.1)},
        {"forget_bias": 1.0},
        {"zoneout": (0.0, 0.4)},
    ),
    *recurrent_cases(
        GRU,
        {"reset": "before"},
        {"reset": "before", "bias": False, "batch_first": True},
        {"reset": "before", "num_layers": 2, "bidirectional": True, "dropout": 0.3},
        {"reset": "before", "recurrent_dropout": 0.4},
        {"reset": "before", "zoneout": 0.3, "bidirectional": True},
    ),
]


def leaky_step_forward(a_t, h_in, c_prev, W_hh, c_t, h_t):
    a_t += h_in.dot(W_hh.T)
    c_t[...] = 0.6 * c_prev + np.tanh(a_t)
    h_t[...] = np.tanh(c_t)


def leaky_step_partials(a_t, da_t):
    da_t[...] = 1 - np.tanh(a_t) ** 2


def leaky_step_backward(dh_t, dc_t, h_t, W_hh, da_t, dh_in, dc_prev):
    dc_t += dh_t * (1 - h_t * h_t)
    da_t *= dc_t
    dc_prev += 0.6 * dc_t
    dh_in += da_t.dot(W_hh)


class Leaky(Recurrent):
    """A layer whose state is a pair, c = 0.6 c_prev + tanh(a) and h = tanh(c): the suite holds for such, too."""

    cell = Cell(("a",), ("h", "c"), leaky_step_forward, leaky_step_backward, leaky_step_partials, columns=False)


# What is to be seen here is a state that is a pair, not each option again.
LEAKY_CASES = recurrent_cases(Leaky)[::5]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("case", "check"), conformance_checks(LAYER_CASES + LEAKY_CASES), ids=conformance_id)
def test_conformance(case, check):
    check(case)


def test_a_cell_whose_formulas_are_tried_in_its_first_pass_has_not_changed():
    class Fresh(Leaky):
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            self.cell = replace(self.cell)

    assert not Case(Fresh).make().cell.tried
    conformance.check_unchanged(Case(Fresh))


def test_every_exported_recurrent_layer_is_listed():
    exported = {getattr(rnn_numpy, name) for name in rnn_numpy.__all__}
    recurrent = {layer for layer in exported if inspect.isclass(layer) and issubclass(layer, Recurrent)}
    # test_own_cells.py runs the suite for the layers made through the door for cells.
    assert recurrent - {Recurrent} == {case.layer for case in [*LAYER_CASES, *OWN_CASES]}


def test_every_check_is_listed_and_says_what_it_holds():
    named = [value for name, value in vars(conformance).items() if name.startswith("check_")]
    assert list(CHECKS) == named
    assert all(check.__doc__ for check in CHECKS)


def test_every_check_applies_to_some_case():
    cases = [*LAYER_CASES, Case(AttentionRNN)]
    assert {check for _, check in conformance_checks(cases)} == set(CHECKS)


def test_what_does_not_apply_has_a_reason():
    for case in LAYER_CASES:
        reasons = not_applicable(case)
        listed = [check.__name__ for _, check in conformance_checks([case])]
        assert sorted([*listed, *reasons]) == sorted(check.__name__ for check in CHECKS)
        assert all(reasons.values())
    omitting = Case(RNN, {}, {"check_padding": "this layer knows no lengths"})
    assert not_applicable(omitting)["check_padding"] == "this layer knows no lengths"
    assert "check_padding" not in [check.__name__ for _, check in conformance_checks([omitting])]


@pytest.mark.parametrize("layer", sorted({case.layer for case in [*LAYER_CASES, *OWN_CASES, *LEAKY_CASES]}, key=str))
def test_some_cases_of_each_class_have_the_whole_run_entry_by_entry(layer):
    cases = [case for case in [*LAYER_CASES, *OWN_CASES, *LEAKY_CASES] if case.layer is layer]
    listed = [{check for _, check in conformance_checks([case])} for case in cases]
    assert any(checks.issuperset(conformance.ENTRY_BY_ENTRY) for checks in listed)
    # The others are not without a reference.
    assert all(conformance.check_gradients in checks for checks in listed)


def test_ids_read_like_calls():
    case, check = Case(RNN, {"bias": False}), CHECKS[0]
    assert f"{conformance_id(case)}-{conformance_id(check)}" == "RNN(bias=False)-check_gradients"


def test_a_case_fixes_its_random_numbers():
    case = Case(RNN, {"num_layers": 2})
    assert np.array_equal(case.make().params.flat, case.make().params.flat)
    assert not np.array_equal(case.make().params.flat, case.make(seed=1).params.flat)


def test_failures_carry_the_message_of_whatever_is_raised():
    class Broken(RNN):
        def backward(self, *arguments):
            raise IndexError("no such row")

    failures = conformance_failures(Case(Broken), [conformance.check_repeatable, conformance.check_no_steps])
    assert failures == {"check_repeatable": "IndexError: no such row"}


def test_data_that_cannot_be_kept_off_the_kink_are_an_error():
    class Dead(RNN):
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            self.params.flat[:] = 0.0

    with pytest.raises(
        GradientCheckError, match="no data found whose pre-activations stay 0.002 away from relu's kink"
    ):
        conformance.check_repeatable(Case(Dead, {"nonlinearity": "relu"}))


def softsign_step_forward(a_t, h_in, W_hh, h_t):
    a_t += W_hh.dot(h_in)
    h_t[...] = a_t / (1 + np.abs(a_t))


def softsign_step_backward(dh_t, a_t, W_hh, da_t, dh_in):
    da_t[...] = dh_t / (1 + np.abs(a_t)) ** 2
    dh_in += W_hh.T.dot(da_t)


def softsign_step_backward_off(dh_t, a_t, W_hh, da_t, dh_in):
    softsign_step_backward(dh_t, a_t, W_hh, da_t, dh_in)
    da_t *= 1 + 1e-5


class Softsign(Recurrent):
    """A right cell that no complex step passes: |a| has none."""

    cell = Cell(("a",), ("h",), softsign_step_forward, softsign_step_backward)


class SoftsignOff(Recurrent):
    cell = Cell(("a",), ("h",), softsign_step_forward, softsign_step_backward_off)


def test_a_cell_that_no_complex_step_passes_is_compared_with_differences():
    assert not conformance_failures(Case(Softsign, {"bidirectional": True}))
    failed = conformance_failures(Case(SoftsignOff))
    assert {"check_gradients", "check_gradients_by_central_difference", "check_gradients_of_output"} <= set(failed)
