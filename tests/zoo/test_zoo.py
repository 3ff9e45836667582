"""The zoo holds what it promises: each wrong layer is right forward, wrong backward, and wrong where its label says."""

import dataclasses

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.checks import complex_step
from rnn_numpy.errors import OptionError
from rnn_numpy.layers.attention import Attending, AttentionGRU, AttentionLSTM, AttentionRNN
from rnn_numpy.zoo import DIAGNOSES, NEEDS, PARTS, STEPS, ZOO, Specimen, Where, specimen
from rnn_numpy.zoo.common import rows_of
from rnn_numpy.zoo.specimen import TOLERANCE, tensors

every_specimen = pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)


def flattened(states):
    return states if isinstance(states, tuple) else (states,)


def wrong_rows(shown, name):
    """Return which rows of a gradient are wrong, each relative to the whole tensor's largest entry."""
    wrong, right = shown.gradients(shown.layer)[name], shown.gradients(shown.right)[name]
    rows = np.abs(wrong - right).reshape(len(right), -1).max(axis=1)
    return ~(rows <= TOLERANCE * np.abs(right).max())


# ------------------------------------------------------------------------------------------------ the collection


def test_there_are_many_and_none_twice():
    names = [animal.name for animal in ZOO]
    assert len(names) >= 30
    assert len(set(names)) == len(names)
    assert len({animal.layer for animal in ZOO}) == len(ZOO)


def test_every_family_and_every_word_is_used():
    assert {animal.cell for animal in ZOO} == {"rnn", "lstm", "gru"}
    # These a checker says where it knows no more.
    vague = {"unknown", "wrong recurrence", "wrong sum"}
    of_models = {"feedback path missing", "weight decay"}
    of_layers_on_layers = {"layers exchanged"}  # a specimen has one layer: tests/checks/test_more_kinds.py
    # These are right in the one call that a specimen makes: tests/checks/test_contract.py.
    of_calls = {
        "left out is not zeros", "layout in memory", "results overwritten", "traces mixed", "weights of another time",
        "right at these weights alone",
    }  # fmt: skip
    assert {animal.diagnosis for animal in ZOO} == set(DIAGNOSES) - vague - of_models - of_layers_on_layers - of_calls
    assert {animal.where.part for animal in ZOO} == set(PARTS)
    assert {animal.where.steps for animal in ZOO} == set(STEPS)
    assert {need for animal in ZOO for need in animal.needs} == set(NEEDS)


def test_every_gate_lacks_its_derivative_in_some_specimen():
    animals = [animal for animal in ZOO if not issubclass(animal.parent, Attending)]
    missing = {(animal.cell, animal.where.gate) for animal in animals if animal.diagnosis == "gate derivative missing"}
    # Of the GRU's candidate three blocks follow, so no single gate is wrong.
    assert missing == {("rnn", "a"), *(("lstm", gate) for gate in "ifgo"), ("gru", "r"), ("gru", "z"), ("gru", None)}


def test_many_have_an_origin():
    assert sum(animal.origin != "classic" for animal in ZOO) >= 25


@every_specimen
def test_labels(animal):
    assert issubclass(animal.layer, animal.parent)
    assert animal.parent in (RNN, LSTM, GRU, AttentionRNN, AttentionLSTM, AttentionGRU)
    assert animal.layer.__doc__
    assert animal.diagnosis not in animal.also
    assert not animal.mistake.endswith(".")
    assert specimen(animal.name) is animal
    made = animal.make(2, 5, rng=3, dtype=np.float32)
    assert (made.input_size, made.hidden_size, made.dtype) == (2, 5, np.float32)
    assert type(animal.make_right()) is animal.parent


def test_what_finds_the_place_alone():
    places = {name: specimen(name).place for name in ("leak-missing", "bias-doubled", "reset-gate-derivative-missing")}
    assert list(places.values()) == ["wrong recurrence", "wrong sum", "wrong derivative"]
    assert specimen("clipped").place is None


def test_errors():
    with pytest.raises(OptionError, match="specimen: name must be one of .*first-step-skipped.*; got 'unicorn'"):
        specimen("unicorn")
    where = Where(("x",), "loop")
    with pytest.raises(OptionError, match="Specimen new: diagnosis must be one of .*; got 'bad luck'"):
        Specimen("new", RNN, "bad luck", where)
    with pytest.raises(OptionError, match="Specimen new: needs must be among .*; got 'patience'"):
        Specimen("new", RNN, "sign", where, needs=("patience",))
    with pytest.raises(OptionError, match="Where: part must be one of .*; got 'elsewhere'"):
        Where(("x",), "elsewhere")
    with pytest.raises(OptionError, match="Where: steps must be one of .*; got 'some'"):
        Where(("x",), "loop", steps="some")


# ------------------------------------------------------------------------------------------------ right forward


@every_specimen
@pytest.mark.parametrize("seed", [0, 1])
def test_forward_is_the_parents_bit_for_bit(animal, seed):
    shown = animal.exhibit(steps=9, batch=3, seed=seed)
    output, h_n, _ = shown.forward(shown.layer)
    expected, expected_h_n, _ = shown.forward(shown.right)
    assert output.tobytes() == expected.tobytes()
    for state, expected_state in zip(flattened(h_n), flattened(expected_h_n), strict=True):
        assert state.tobytes() == expected_state.tobytes()
    memory = {"given": shown.masks["given"]} if "given" in shown.masks else {}
    alone, reference = (layer(shown.x, shown.h_0, shown.lengths, **memory)[0] for layer in (shown.layer, shown.right))
    assert alone.tobytes() == reference.tobytes()


@pytest.mark.parametrize("name", ["recurrence-transposed", "cell-path-missing", "leak-missing"])
def test_the_truth_is_the_derivative(name):
    # What all specimens are measured by: the parent's gradient, against one that knows of no backward pass.
    shown = specimen(name).exhibit(steps=6)

    def loss(point):
        layer = shown.right.astype(np.complex128)
        layer.load_state_dict({name: point[name] for name in layer.params})
        states = tuple(point[f"{state}_0"] for state in layer.cell.states)
        output, h_n, _ = layer.forward(point["x"], states if len(states) > 1 else states[0])
        finals = zip(flattened(h_n), flattened(shown.dh_n), strict=True)
        return np.sum(output * shown.doutput) + sum(np.sum(state * dstate) for state, dstate in finals)

    states = zip(shown.right.cell.states, flattened(shown.h_0), strict=True)
    point = {"x": shown.x, **{f"{state}_0": array for state, array in states}, **shown.right.state_dict()}
    truth, right, wrong = complex_step(loss, point), shown.gradients(shown.right), shown.gradients(shown.layer)
    for tensor, reference in truth.items():
        size = np.abs(reference).max()
        assert np.abs(right[tensor] - reference).max() <= 1e-13 * size
        assert np.abs(wrong[tensor] - reference).max() > 1e-3 * size


# ------------------------------------------------------------------------------------------------ wrong backward


@every_specimen
@pytest.mark.parametrize("seed", [0, 1])
def test_wrong_are_the_tensors_that_it_says(animal, seed):
    found = animal.exhibit(seed=seed).differences()
    assert {name for name, error in found.items() if not error <= TOLERANCE} == set(animal.where.tensors)


@every_specimen
def test_wrong_are_the_steps_that_it_says(animal):
    wrong = animal.exhibit().differences_by_step() > TOLERANCE
    T = len(wrong)
    count = {"none": 0, "all": T, "first": 1, "all but the last": T - 1}.get(animal.where.steps, int(wrong.sum()))
    assert wrong[:count].all()
    assert not wrong[count:].any()
    if animal.where.steps == "early":
        assert 1 < count < T - 1


@every_specimen
def test_steps_are_those_of_backward(animal):
    # But for the one whose mistake is in `backward` itself; the steps copy doutput before they write.
    shown = animal.exhibit(steps=12)
    at_once, stepped = shown.gradients(shown.layer), shown.gradients(shown.layer, stepped=True)
    if animal.name == "doutput-scribbled-on":
        at_once = shown.gradients(shown.right)
    assert {name: array.tobytes() for name, array in at_once.items()} == {
        name: array.tobytes() for name, array in stepped.items()
    }


@every_specimen
def test_nothing_of_an_exhibit_changes(animal):
    shown = animal.exhibit(steps=5)
    before = [array.copy() for array in (shown.x, shown.doutput, shown.layer.params.flat)]
    shown.differences()
    for array, kept in zip((shown.x, shown.doutput, shown.layer.params.flat), before, strict=True):
        assert array.tobytes() == kept.tobytes()


PARTIAL = [animal for animal in ZOO if animal.where.part == "immediate partial"]


@pytest.mark.parametrize("animal", PARTIAL, ids=lambda animal: animal.name)
def test_an_immediate_partial_shows_in_one_step_in_its_gate_alone(animal):
    shown = animal.exhibit(steps=1)
    wrong = wrong_rows(shown, "weight_ih_l0")
    assert wrong.any()
    if animal.where.gate is not None:
        expected = np.zeros(len(wrong), bool)
        expected[rows_of(animal.where.gate, shown.layer)] = True
        # Of relu, units that are on have the right derivative.
        assert not (wrong & ~expected).any()
        unit = animal.needs == ("saturated gate",) or animal.options.get("nonlinearity") == "relu"
        assert unit or wrong.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "animal", [animal for animal in ZOO if animal.where.part == "recurrence"], ids=lambda animal: animal.name
)
def test_a_recurrence_does_not_show_in_the_parameters_after_one_step(animal):
    shown = dataclasses.replace(animal.exhibit(steps=1), dh_n=None)
    found = shown.differences()
    # Attention's parameters act on the state before, as the initial state does.
    own = [name for name in shown.right.params if name.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh"))]
    assert all(found[name] <= TOLERANCE for name in ("x", *own))


@pytest.mark.parametrize(
    "animal",
    [
        animal
        for animal in ZOO
        if animal.where.part not in ("sums over steps", "outside of the steps")
        and animal.diagnosis != "not finite"  # there is no sum of NaN to compare
    ],
    ids=lambda animal: animal.name,
)
def test_the_sums_are_right_unless_it_says_so(animal):
    shown = animal.exhibit()
    layer = shown.layer
    _, _, trace = shown.forward(layer)
    back = layer.backward(trace, shown.doutput, shown.dh_n)
    for name, run in trace.layers.items():
        da = run.da_ih if layer.cell.gate_names == ("r", "z", "n") else run.da
        expected = np.einsum("tnk,tnd->kd", da, run.x)
        size = np.abs(expected).max()
        assert np.abs(back.grads[f"weight_ih_{name}"] - expected).max() <= TOLERANCE * size
    assert size > 0


def test_a_bias_that_is_wrong_in_one_gate_alone():
    shown = specimen("hidden-bias-without-reset").exhibit()
    assert np.flatnonzero(wrong_rows(shown, "bias_hh_l0")).tolist() == list(range(8, 12))


# ------------------------------------------------------------------------------------------------ single specimens


def test_right_for_one_step_wrong_for_two():
    animal = specimen("loss-overwritten")
    one, two = (max(animal.exhibit(steps=steps).differences().values()) for steps in (1, 2))
    assert one == 0
    assert two > 0.1


def test_needs_are_needs():
    # Where one call, short sequences, an averted eye hide the mistake.
    for name, change in [
        ("doutput-scribbled-on", {"calls": 1}),
        ("weight-decay-in-backward", {"calls": 1}),
        ("grads-never-cleared", {"calls": 1}),
        ("grads-overwritten", {"shared_grads": False}),
        ("final-state-gradient-ignored", {"dh_n": None}),
        ("final-cell-gradient-ignored", {"dh_n": None}),
        ("padding-leaks", {"lengths": None}),
        ("final-state-gradient-at-T", {"lengths": None}),
        ("order-of-lengths-kept", {"lengths": None}),
        ("recurrent-mask-ignored", {"masks": {"training": False}}),
        ("dropout-mask-ignored", {"masks": {"training": False}}),
    ]:
        shown = dataclasses.replace(specimen(name).exhibit(), **change)
        assert max(shown.differences().values()) == 0, name
    assert max(specimen("batch-averaged").exhibit(batch=1).differences().values()) == 0
    assert max(specimen("divided-by-the-batch").exhibit(batch=1).differences().values()) == 0
    quiet = specimen("clipped").exhibit()
    assert max(dataclasses.replace(quiet, doutput=quiet.doutput / 1e5).differences().values()) == 0


def test_a_redrawn_mask_differs_from_call_to_call():
    shown = specimen("dropout-mask-drawn-again").exhibit()
    _, _, trace = shown.forward(shown.layer)
    first, second = (shown.layer.backward(trace, shown.doutput).dx for _ in range(2))
    assert not np.array_equal(first, second)


def test_errors_that_standard_tolerances_do_not_see():
    window = specimen("truncated-window").exhibit().differences()
    assert 1e-12 < max(window[name] for name in window if name != "x") < 1e-8
    # At its own size it is all wrong; a tolerance of 1e-12 for all would pass it.
    flushed = specimen("tiny-gradients-flushed").exhibit()
    assert flushed.differences()["h_0"] == 1
    assert np.abs(flushed.gradients(flushed.right)["h_0"]).max() < 1e-12


# ------------------------------------------------------------------------------------------------ what they are made of


def test_rows_of_a_gate():
    assert rows_of("f", LSTM(2, 10)) == slice(10, 20)


def test_names_of_tensors():
    assert tensors("states", "weight_hh", layers=("l0", "l1")) == ("h_0", "weight_hh_l0", "weight_hh_l1")
    assert len(tensors("x", "states", "parameters", cell="lstm")) == 7
