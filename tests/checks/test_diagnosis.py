"""The zoo through the gradient check: every specimen caught, nearly all named rightly, at the right place."""

import functools

import numpy as np
import planting
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.checks import gradcheck
from rnn_numpy.checks.chain_rule import ChainRule
from rnn_numpy.checks.diagnosis import of_attention
from rnn_numpy.checks.diagnosis.known_mistakes import DIAGNOSES, known_mistakes
from rnn_numpy.checks.diagnosis.locate import Comparison
from rnn_numpy.checks.rounding import tolerances
from rnn_numpy.layers.attention_decoder import with_attention
from rnn_numpy.layers.peephole import PeepholeLSTM
from rnn_numpy.zoo import ZOO, specimen
from rnn_numpy.zoo.common import WrongFormulas, WrongSums

every_specimen = pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)


@functools.cache
def report_of(name, seed):
    shown = specimen(name).exhibit(seed=seed)
    return gradcheck(shown.layer, shown.x, shown.h_0, shown.lengths, doutput=shown.doutput, dh_n=shown.dh_n,
                     **shown.masks)  # fmt: skip


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ------------------------------------------------------------------------------------------------ the zoo


@pytest.mark.collection
@every_specimen
def test_every_specimen_is_caught(animal):
    report = report_of(animal.name, 0)
    assert not report.ok
    assert report.diagnosis.kind in DIAGNOSES
    wrong = {row.name for row in report.rows if row.verdict != "ok" and not row.name.startswith("da")}
    if wrong:
        # Of gradients flushed at 1e-12, the zoo's own measure does not see what is left out of the sums.
        further = {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"} if "flushed" in animal.name else set()
        assert wrong == set(animal.where.tensors) | further


@pytest.mark.sampled(5)
@every_specimen
def test_the_right_layer_of_every_specimen_passes(animal):
    shown = animal.exhibit(steps=12)
    report = gradcheck(shown.right, shown.x, shown.h_0, shown.lengths, doutput=shown.doutput, dh_n=shown.dh_n,
                       **shown.masks)  # fmt: skip
    assert report.ok, report


# By seed: one that is placed, at the reverse direction's entry of the loss, and not named; two of narrow numbers, which
# look like a wrong derivative, or like a factor.
UNNAMED = [
    {"doutput-overwritten", "dropout-mask-in-half-precision"},
    {"doutput-overwritten", "dropout-mask-in-half-precision", "recurrence-in-single-precision"},
]


def test_more_than_nine_in_ten_diagnoses_are_asked_to_be_right():
    assert all(len(names) < len(ZOO) // 10 for names in UNNAMED)


@pytest.mark.collection
@pytest.mark.parametrize("seed", [0, 1])
@every_specimen
def test_a_diagnosis_is_right(animal, seed):
    found = report_of(animal.name, seed).diagnosis
    assert found.kind in (animal.diagnosis, *animal.also) or animal.name in UNNAMED[seed], found


PARTIAL = [animal for animal in ZOO if animal.where.part == "immediate partial"]
RECURRENT = [animal for animal in ZOO if animal.where.part == "recurrence"]
SUMS = [animal for animal in ZOO if animal.where.part == "sums over steps" and animal.where.tensors]


@pytest.mark.parametrize("animal", PARTIAL, ids=lambda animal: animal.name)
def test_an_immediate_partial_is_found_at_k_equal_to_t(animal):
    where = report_of(animal.name, 0).diagnosis.where
    assert where["part"] == "immediate partial"
    assert where["layer"] == "l0"
    assert where["t"] == where["k"]
    if animal.where.gate is not None and animal.parent is not RNN:
        assert where["gate"] == animal.where.gate


@pytest.mark.parametrize("animal", RECURRENT, ids=lambda animal: animal.name)
def test_a_recurrence_is_found_before_t(animal):
    where = report_of(animal.name, 0).diagnosis.where
    if animal.diagnosis == "overwritten, not added" and animal.parent is RNN:
        assert where["t"] == where["k"] < 29  # what the loss says to an earlier step is erased
        return
    assert where["part"] == "recurrence"
    assert where["layer"] == "l0"
    assert where["k"] < where["t"] == 29
    two_steps = animal.name == "coverage-path-missing"  # from the coverage to the weights, from these to the state
    late = animal.where.steps == "early" or animal.diagnosis == "small gradients flushed"
    assert where["k"] == (27 if two_steps else 28) or late


@pytest.mark.parametrize("animal", SUMS, ids=lambda animal: animal.name)
def test_sums_are_wrong_where_every_step_is_right(animal):
    report = report_of(animal.name, 0)
    assert report.diagnosis.where.get("part", "sums") == "sums"
    assert all(row.verdict == "ok" for row in report.rows if row.name.startswith("da"))


def test_first_step_and_reverse_direction_are_named():
    assert report_of("first-step-skipped", 0).diagnosis.where["k"] == 0
    assert report_of("reverse-not-reversed", 0).diagnosis.where["layer"] == "l0_reverse"
    assert report_of("lower-layer-cut-off", 0).diagnosis.where["layer"] == "l0"


# ------------------------------------------------------------------------------------------------ where, exactly


class WrongFrom(RNN):
    """da is off by a thousandth at step 5."""

    def backward_loop(self, run):
        for t in super().backward_loop(run):
            if t == 5:
                run.binding.arrays["da"][5] *= self.factor
            yield t


@pytest.mark.parametrize("factor", [1.001, 1 + 1e-10])
@pytest.mark.parametrize("T", [12, 90])
def test_the_step_is_found(factor, T):
    layer = WrongFrom(2, 3, rng=0)
    layer.factor = factor
    report = gradcheck(layer, data(T, 2, 2), doutput=data(T, 2, 3), dh_n=np.zeros((1, 2, 3)))
    assert not report.ok
    assert (report.diagnosis.where["layer"], report.diagnosis.where["k"]) == ("l0", 5)
    assert report["da_l0"].index[0] == 5


@pytest.mark.parametrize("gate", "ifgo")
def test_the_gate_and_the_layer_are_found(gate):
    rows = slice("ifgo".index(gate) * 3, "ifgo".index(gate) * 3 + 3)

    class Wrong(LSTM):
        def backward_loop(self, run):
            for t in super().backward_loop(run):
                if run.direction.name == "l1":
                    run.binding.aligned(f"da_{gate}_t")[t] *= 1.3
                yield t

    assert rows.stop <= 12
    report = gradcheck(Wrong(2, 3, num_layers=3, rng=0), data(6, 2, 2))
    assert (report.diagnosis.where["layer"], report.diagnosis.where["gate"]) == ("l1", gate)


# ------------------------------------------------------------------------------------------------ suspects


def planted(kind, after, name="step_backward", **options):
    """Return a layer with something done after one of its formulas."""
    wrong = type("Planted", (WrongFormulas, kind), {f"_after_{name}": staticmethod(after)})
    return wrong(2, 3, rng=0, **options)


def of_sums(kind, spoil, **options):
    return type("Spoilt", (WrongSums, kind), {"_spoil": spoil})(2, 3, rng=0, **options)


def with_backward(kind, change, **options):
    """Return a layer of which backward is given other gradients of outputs and final states."""

    def backward(self, trace, doutput, dh_n=None, grads=None):
        return kind.backward(self, trace, *change(np.asarray(doutput), dh_n), grads)

    return type("Given", (kind,), {"backward": backward})(2, 3, rng=0, **options)


def turned(self, run):
    run.sums["weight_hh"][...] = run.sums["weight_hh"].T.copy()


def shifted(d, by):
    moved = np.zeros_like(d)
    moved[max(by, 0) : len(d) + min(by, 0)] = d[max(-by, 0) : len(d) - max(by, 0)]
    return moved


def last_only(d):
    return d * (np.arange(len(d)) == len(d) - 1)[:, None, None]


def halves(d, h):
    return np.concatenate([d[..., 3:], d[..., :3]], axis=2), h


def factor_of(c):
    """Return an RNN of which every step hands c times what it should to the one before."""

    def step_backward(dh_t, W_hh, da_t, dh_in):
        da_t *= dh_t
        dh_in += c * da_t.dot(W_hh)

    return type("Scaled", (WrongFormulas, RNN), {"_instead_of_step_backward": staticmethod(step_backward)})(2, 3, rng=0)


def summed(name, da, source):
    """Return an RNN whose gradient of W_ih or W_hh is the sum over all steps of da(da_t) times source(arrays)."""

    def spoil(self, run):
        arrays = run.binding.arrays
        if run.direction.name == "l0":
            run.sums[name][...] = np.einsum("tna,tnd->ad", da(arrays["da"]), source(arrays))

    return of_sums(RNN, spoil)


def whole(array):
    return array


def but_first(array):
    return array * (np.arange(len(array)) > 0)[:, None, None]


PLANTED = {
    "sign of a gate": (lambda: planted(LSTM, lambda g_t, da_g_t: np.negative(da_g_t, out=da_g_t), "step_partials"),
                       "sign"),
    "a gate's path": (lambda: planted(LSTM, lambda da_i_t: da_i_t.fill(0), "step_partials"), "gate path missing"),
    "a gate's other derivative": (lambda: planted(GRU, lambda z_t, h_prev, n_t, da_z_t: np.multiply(
        h_prev - n_t, 1 - z_t * z_t, out=da_z_t), "step_partials"), "wrong derivative"),
    "loss one step late": (lambda: with_backward(RNN, lambda d, h: (shifted(d, 1), h)), "off by one step"),
    "loss one step early": (lambda: with_backward(GRU, lambda d, h: (shifted(d, -1), h)), "off by one step"),
    "outputs ignored": (lambda: with_backward(LSTM, lambda d, h: (0 * d, h)), "only the last step's loss"),
    "last output alone": (lambda: with_backward(LSTM, lambda d, h: (last_only(d), h)), "only the last step's loss"),
    "first output ignored": (lambda: with_backward(RNN, lambda d, h: (
        d * (np.arange(len(d)) > 0)[:, None, None], h)), "first step skipped"),
    "last output ignored": (lambda: with_backward(RNN, lambda d, h: (
        d * (np.arange(len(d)) < len(d) - 1)[:, None, None], h)), "last step skipped"),
    "h_n ignored": (lambda: with_backward(LSTM, lambda d, h: (d, (0 * h[0], h[1]))), "final-state gradient ignored"),
    "final states ignored": (lambda: with_backward(LSTM, lambda d, h: (d, None)), "final-state gradient ignored"),
    "halves exchanged": (lambda: with_backward(GRU, halves, bidirectional=True), "reverse direction not reversed"),
    "x of the step before": (lambda: summed("weight_ih", whole, lambda at: shifted(at["x"], 1)), "off by one step"),
    "x of the step after": (lambda: summed("weight_ih", whole, lambda at: shifted(at["x"], -1)), "off by one step"),
    "h of two steps before": (lambda: summed("weight_hh", whole, lambda at: shifted(at["h"][:-1], 1)),
                              "off by one step"),
    "dW_hh without the first step": (lambda: summed("weight_hh", but_first, lambda at: at["h"][:-1]),
                                     "first step skipped"),
    "half of the recurrence": (lambda: factor_of(0.5), "constant factor"),
    "a third of the recurrence, of three sequences": (lambda: factor_of(1 / 3), "constant factor"),
    "dW_hh transposed": (lambda: of_sums(RNN, turned), "transposed"),
    "dW_hh of one entry": (lambda: of_sums(RNN, lambda self, run: np.multiply.at(
        run.sums["weight_hh"], (0, 1), 3)), "entries rescaled"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistakes_are_named(name):
    make, kind = PLANTED[name]
    layer = make()
    rows = layer.num_layers * layer.num_directions
    states = tuple(data(rows, 3, 3, seed=k) for k in range(len(layer.cell.states)))
    report = gradcheck(layer, data(7, 3, 2), states if len(states) > 1 else states[0])
    assert not report.ok
    assert report.diagnosis.kind == kind, report.diagnosis


EVERYTHING = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "recurrent_dropout": 0.3}
# The derivative of relu is 0 or 1; a gate's derivative left out is v where that of a product with v was taken.
ALIKE = {"gate derivative missing", "wrong derivative", "sign", "gate path missing"}
SUSPECTED = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu"}),
    (LSTM, {}),
    (LSTM, {"proj_size": 2}),
    (GRU, {}),
    (GRU, {"reset": "before"}),
    (RNN, EVERYTHING),
    (LSTM, EVERYTHING),
    (GRU, {"num_layers": 2, **EVERYTHING}),
]


@functools.cache
def suspected(number):
    """Return (kind, why, kind found or None where the mistake makes no difference) for each mistake of a layer."""
    kind, options = SUSPECTED[number]
    layer = kind(3, 4, rng=1, **options)
    rows = layer.num_layers * layer.num_directions
    widths = [layer.width(state) for state in layer.cell.states]
    states = tuple(data(rows, 3, width, seed=k) for k, width in enumerate(widths))
    output, h_n, trace = layer.forward(data(6, 3, 3), states if len(states) > 1 else states[0], [4, 6, 3])
    states_n = h_n if isinstance(h_n, tuple) else (h_n,)
    finals = tuple(data(*state.shape, seed=9 + k) for k, state in enumerate(states_n))
    chain = ChainRule(layer, trace, data(*output.shape, seed=8), finals if len(finals) > 1 else finals[0])
    allowed, known, found = tolerances(chain), list(known_mistakes(chain)), []
    with np.errstate(all="ignore"):
        gradients = [chain.gradient(mistake.change).tensors for mistake in known]
    for mistake, gradient in zip(known, gradients, strict=True):
        compare = Comparison(chain, allowed, {**chain.exact.tensors, **gradient})
        if compare.is_exact(gradient):
            found.append((mistake, None))
            continue
        first = next(other for other, guess in zip(known, gradients, strict=True) if compare.explains(guess))
        found.append((mistake, first))
    return found


@pytest.mark.parametrize("number", range(len(SUSPECTED)), ids=lambda number: str(SUSPECTED[number]))
def test_every_suspect_is_told_from_the_others(number):
    for mistake, first in suspected(number):
        # Of two that give one gradient the simpler is named; they are of one family.
        assert first is None or first.kind == mistake.kind or {first.kind, mistake.kind} <= ALIKE, (mistake, first)


def test_no_suspect_is_without_effect():
    seen = {mistake.why: False for number in range(len(SUSPECTED)) for mistake, _ in suspected(number)}
    for number in range(len(SUSPECTED)):
        for mistake, first in suspected(number):
            seen[mistake.why] |= first is not None
    assert [why for why, effective in seen.items() if not effective] == []


# ------------------------------------------------------------------------------------------------ attention

# Each part of attention, around a cell that is not in the zoo.
WITH_PARTS = (
    {"score": "dot", "memory_size": 4},
    {"score": "keys", "gate": "scalar", "input_feeding": True},
    {"score": "additive", "coverage": True, "location": (2, 3)},
)
CELLS = [(options, with_attention(PeepholeLSTM)(3, 4, **options).cell) for options in WITH_PARTS]
OF_ATTENTION = [
    (options, *mistake)
    for options, cell in CELLS
    for mistake in of_attention.wrong_formulas()
    # W_ch of several gates is not square; that of the RNN is in the zoo.
    if mistake[0] != "transposed" and mistake[2] in {part.forward for part in (*cell.before, *cell.after)}
]


def test_every_mistake_of_attention_is_planted_somewhere():
    planted = {why for _, _, why, _, _ in OF_ATTENTION}
    assert planted == {why for kind, why, _, _ in of_attention.wrong_formulas() if kind != "transposed"}


@pytest.mark.collection
@pytest.mark.parametrize(
    ("options", "kind", "why", "forward", "wrong"),
    OF_ATTENTION,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_of_attention_are_named_around_any_cell(options, kind, why, forward, wrong):
    layer = with_attention(PeepholeLSTM)(3, 4, **options, rng=0)
    layer.params.flat[:] *= 2
    right = of_attention.RIGHT[forward]
    layer.cell = planting.planted(layer.cell, right, wrong)
    given = {"values": data(5, 2, 4), "exists": np.arange(5) < np.array([[5], [3]])}
    if "keys" in layer.cell.given:
        given["keys"] = data(5, 2, 4, seed=1)
    report = gradcheck(layer, data(9, 2, 3), lengths=[6, 9], given=given)
    assert not report.ok
    assert (report.diagnosis.kind, report.diagnosis.why) == (kind, why)
