"""Show, Attend and Tell: gradients of the whole, the penalty, decoding, and what is refused."""

import pickle

import numpy as np
import pytest
from frameworks import torch
from messages import assert_raises
from planting import edited, planted

from rnn_numpy import Adam
from rnn_numpy.checks import complex_step
from rnn_numpy.core.symbols import PAD
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers import attention
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from rnn_numpy.models import Captioner, beam_search, decode_forced, decode_greedy
from rnn_numpy.models.bridge import Bridge
from tests.layers.test_attention_parts import assert_golden, fill

S, N, P = 3, 2, 4
WINDOWS = np.random.default_rng(0).normal(size=(S, N, P))
TARGET, LENGTHS = np.array([[3, 4], [5, 2], [2, 0]]), np.array([3, 2])
BATCH = WINDOWS, TARGET, LENGTHS


def model_of(cell="lstm", **options):
    options = {"penalty": 0.7, **options}
    model = Captioner(P, S, 6, hidden_size=3, memory_size=4, embedding_dim=2, cell=cell, rng=1, **options)
    model.params.flat[:] += 0.2 * np.random.default_rng(2).normal(size=model.params.flat.size)
    model.freeze_padding()
    return model


def stepped(model, batch=BATCH):
    def loss(params):
        twin = model.astype(complex)
        twin.params.flat[:] = np.concatenate([np.ravel(params[name]) for name in model.params])
        return twin.loss_of(batch[0].astype(complex), *batch[1:])

    found = complex_step(loss, dict(model.params))
    found["target.weight"][PAD] = 0  # not trained
    return found


def largest_error(found, expected):
    return max(np.abs(found[name] - a).max() / max(np.abs(a).max(), 1e-300) for name, a in expected.items())


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("gate", ["scalar", "vector", False])
def test_complex_step(cell, gate):
    model = model_of(cell, gate=gate)
    loss, grads, trace = model.loss_and_grads(*BATCH)
    assert loss == model.loss_of(*BATCH) == trace.loss + trace.penalty
    assert largest_error(grads, stepped(model)) < 1e-13


def without_the_mask(self, alpha, mask, inner=Captioner._penalty):
    return inner(self, alpha, np.ones_like(mask))


def without_the_mean(self, trace, dh_0, grads, inner=Bridge.backward):
    dh_n, dmemory = inner(self, trace, dh_0, grads)
    return dh_n, np.zeros_like(dmemory)


def without_the_count(self, trace, dh_0, grads, inner=Bridge.backward):
    trace.count = np.ones_like(trace.count)
    return inner(self, trace, dh_0, grads)


def without_dalpha(self, *arguments, inner=AttentionDecoder.backward, **options):
    return inner(self, *arguments, **{**options, "dalpha": None})


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (Bridge, "backward", without_the_mean),
        (Bridge, "backward", without_the_count),
        (AttentionDecoder, "backward", without_dalpha),
    ],
)
def test_a_planted_mistake_shows(monkeypatch, owner, name, wrong):
    model = model_of()
    expected = stepped(model)
    monkeypatch.setattr(owner, name, wrong)
    assert largest_error(model.loss_and_grads(*BATCH)[1], expected) > 1e-3


def test_a_gate_without_its_derivative_shows():
    model = model_of()
    expected = stepped(model)
    wrong = edited(attention.gate_backward, "dbeta * beta_t * (1 - beta_t)", "dbeta * beta_t")
    rnn = model.decoder.rnn
    rnn.cell = planted(rnn.cell, attention.gate_backward, wrong)
    assert largest_error(model.loss_and_grads(*BATCH)[1], expected) > 1e-3


def test_golden_numbers():
    """G4: an LSTM that reads the gated context, with the model's own bridge and penalty."""
    model = Captioner(1, 3, 4, hidden_size=2, memory_size=2, embedding_dim=1, penalty=0.7, rng=0)
    weight_ih = fill((8, 3), 4)
    p = model.params
    p["decoder.rnn.weight_ih_l0"][...], p["decoder.rnn.weight_ch_l0"][...] = weight_ih[:, :1], weight_ih[:, 1:]
    p["decoder.rnn.weight_hh_l0"][...] = fill((8, 2), 5)
    p["decoder.rnn.bias_ih_l0"][...], p["decoder.rnn.bias_hh_l0"][...] = fill((8,), 6), 0
    p["decoder.rnn.weight_gate_l0"][...], p["decoder.rnn.bias_gate_l0"][...] = fill((1, 2), 7), 0.3
    p["decoder.keys.weight_memory"][...], p["decoder.keys.bias"][...] = fill((2, 2), 0), fill((2,), 2)
    p["decoder.rnn.weight_query_l0"][...], p["decoder.rnn.v_l0"][...] = fill((2, 2), 1), fill((2,), 3)
    for state, k in (("h", 8), ("c", 9)):
        p[f"bridge.weight_{state}_l0"][...], p[f"bridge.bias_{state}_l0"][...] = fill((2, 2), k), 0
    values, r = fill((3, 1, 2), 10, 1.0), fill((2, 1, 2), 12)
    initial, bridge = model._initial(values)
    output, _, trace = model.decoder.forward(fill((2, 1, 1), 11), values, initial)
    penalty, dalpha = model._penalty(trace.alpha, np.ones((2, 1), bool))
    grads = p.zeros_like()
    back = model.decoder.backward(trace, r, None, grads.part("decoder"), dalpha=dalpha)
    through_mean = model.bridge.backward(bridge, (back.dh_0, back.dc_0), grads.part("bridge"))[1]
    assert_golden(
        {
            "L": (r * output).sum() + penalty,
            "alpha": trace.alpha.sum(axis=0),
            "beta": [trace[t].beta for t in range(2)],
            "dv": grads["decoder.rnn.v_l0"],
            "dw": grads["decoder.rnn.weight_gate_l0"],
            "db": grads["decoder.rnn.bias_gate_l0"],
            "dvalues": back.dmemory + through_mean,
        },
        L="0.183548408823",
        alpha="0.965242993821 0.614703516136 0.420053490043",
        beta="0.562168019078 0.553839440376",
        dv="-0.351145007854 -0.148708744771",
        dw="0.000274555011 0.000253816520",
        db="-0.002691225209",
        dvalues="-0.089425399829 -0.070259689798 0.006681533964 -0.011391672518 0.016414548352 -0.011399526782",
    )


@pytest.mark.needs_torch
def test_torch():
    """The whole model again, of torch's LSTMCell and cross-entropy."""
    model = model_of()
    loss, grads, _ = model.loss_and_grads(*BATCH)
    p = {name: torch.tensor(array.copy(), requires_grad=True) for name, array in model.params.items()}
    last = {name.rpartition(".")[2].removesuffix("_l0"): a for name, a in p.items() if name.startswith("decoder")}
    right, exists = torch.tensor(TARGET), torch.tensor(np.arange(len(TARGET))[:, None] < LENGTHS)
    memory = torch.tanh(torch.tensor(WINDOWS) @ p["features.weight"].T + p["features.bias"])
    memory = memory + p["places.weight"][:, None]
    h, c = (
        torch.tanh(memory.mean(0) @ p[f"bridge.weight_{state}_l0"].T + p[f"bridge.bias_{state}_l0"]) for state in "hc"
    )
    cell = torch.nn.LSTMCell(2 + 4, 3, dtype=torch.float64)
    weights = {name: last[name] for name in ("weight_hh", "bias_ih", "bias_hh")}
    weights["weight_ih"] = torch.cat([last["weight_ih"], last["weight_ch"]], dim=1)
    keys = memory @ last["weight_memory"].T + last["bias"]
    total, seen = 0.0, torch.zeros((N, S), dtype=torch.float64)
    for t, words in enumerate(np.concatenate([np.full((1, N), 1), TARGET[:-1]])):
        alpha = torch.softmax(torch.tanh(keys + h @ last["weight_query"].T).matmul(last["v"]).T, dim=1)
        seen = seen + exists[t][:, None] * alpha
        beta = torch.sigmoid(h @ last["weight_gate"].T + last["bias_gate"])
        context = beta * torch.einsum("ns,snm->nm", alpha, memory)
        signal = torch.cat([p["target.weight"][torch.tensor(words)], context], dim=1)
        h, c = torch.func.functional_call(cell, weights, (signal, (h, c)))
        logits = h @ p["readout.weight"].T + p["readout.bias"]
        total = total + (torch.nn.functional.cross_entropy(logits, right[t], reduction="none") * exists[t]).sum()
    expected = total / exists.sum() + 0.7 / N * ((1 - seen) ** 2).sum()
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-13)
    gradients = {name: tensor.grad.numpy() for name, tensor in p.items()}
    gradients["target.weight"][PAD] = 0  # not trained
    assert largest_error(grads, gradients) < 1e-12


def test_steps_behind_a_caption_have_no_part_in_the_penalty(monkeypatch):
    model = model_of()
    longer = np.concatenate([TARGET, np.full((2, N), 5)])
    loss, grads, _ = model.loss_and_grads(*BATCH)
    more, others, _ = model.loss_and_grads(WINDOWS, longer, LENGTHS)
    assert more == pytest.approx(float(loss), rel=1e-15)
    assert largest_error(others, grads) < 1e-14
    monkeypatch.setattr(Captioner, "_penalty", without_the_mask)
    assert abs(model.loss_of(WINDOWS, longer, LENGTHS) - model.loss_of(*BATCH)) > 1e-3


def test_what_the_penalty_asks_the_weights_to_add_up_to_does_not_act(monkeypatch):
    """Rows of alpha sum to 1: a constant more in each dalpha changes no gradient."""
    model = model_of()
    grads = model.loss_and_grads(*BATCH)[1]

    def of_another_sum(self, alpha, mask, inner=Captioner._penalty):
        value, dalpha = inner(self, alpha, mask)
        return value, dalpha + 2 * self.penalty / N * mask[:, :, None]

    monkeypatch.setattr(Captioner, "_penalty", of_another_sum)
    assert largest_error(model.loss_and_grads(*BATCH)[1], grads) < 1e-13


def test_the_trace_shows_the_gate_and_its_context():
    _, _, trace = model_of().loss_and_grads(*BATCH)
    step = trace.decoder[1]
    assert step.beta.shape == (N, 1)
    assert np.array_equal(step.gated, step.beta * step.context)
    assert np.allclose(step.alpha.sum(axis=1), 1, rtol=1e-14)
    assert attention.gate_forward.__doc__.startswith("F5")


def test_pictures_are_described_one_by_one():
    model = model_of()
    together = beam_search(model, WINDOWS, beam=3, max_length=4)
    for n, (best,) in enumerate(together):
        ((alone,),) = beam_search(model, WINDOWS[:, n : n + 1], beam=3, max_length=4)
        assert best.tokens.tolist() == alone.tokens.tolist()
        assert best.score == alone.score
    forced = decode_forced(model, WINDOWS, targets=[TARGET[:count, n] for n, count in enumerate(LENGTHS)])
    total = model_of(penalty=0.0, loss_options={"reduction": "sum"}).loss_of(*BATCH)
    assert -sum(one.total for one in forced) == pytest.approx(total, rel=1e-13)


def test_it_learns_to_name_what_it_sees():
    """One of three windows shows one of three things, which is named."""
    rng = np.random.default_rng(0)
    model = Captioner(3, 3, 6, hidden_size=8, memory_size=8, embedding_dim=4, rng=1)
    optimizer = Adam(model.params, 2e-2)

    def drawn(count):
        place, thing = rng.integers(3, size=(2, count))
        windows = 0.1 * rng.normal(size=(3, count, 3))
        windows[place, np.arange(count), thing] += 1
        return windows, np.stack([thing + 3, np.full(count, 2)])

    for _ in range(150):
        optimizer.step(model.loss_and_grads(*drawn(32), np.full(32, 2))[1])
    windows, target = drawn(60)
    found = decode_greedy(model, windows, max_length=3)
    assert np.mean([one.tokens.tolist() == target[:, n].tolist() for n, one in enumerate(found)]) > 0.95
    assert model.count(*BATCH) == 5


def test_copies_and_dtypes():
    model = model_of()
    again = pickle.loads(pickle.dumps(model))
    assert again.loss_of(*BATCH) == model.loss_of(*BATCH)
    small = model.astype(np.float32)
    loss, grads, _ = small.loss_and_grads(WINDOWS.astype(np.float32), TARGET, LENGTHS)
    assert loss.dtype == np.float32 and all(array.dtype == np.float32 for array in grads.values())
    assert loss == pytest.approx(float(model.loss_of(*BATCH)), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model: model.loss_of(WINDOWS[:2], TARGET, LENGTHS), ShapeError,
         "Captioner.read: windows must have shape (S, N, P) = (3, N, 4); got (2, 2, 4)"),
        (lambda model: model.loss_of(WINDOWS.astype(np.float32), TARGET, LENGTHS), DTypeError, None),
        (lambda model: model.loss_and_grads(WINDOWS, TARGET, [3, 3]), OptionError,
         "Captioner.loss_and_grads: target must end with EOS = 2 at its length, or the model never learns to stop; "
         "target 1 ends with 0 at position 2"),
        (lambda model: Captioner(4, 3, 2, hidden_size=3, memory_size=4, embedding_dim=2), OptionError,
         "Captioner: vocabulary must hold PAD, BOS and EOS, V >= 3; got 2"),
        (lambda model: model_of(penalty=-1.0), OptionError, None),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, message):
    if message is None:
        with pytest.raises(error, match=r"^Captioner"):
            call(model_of())
    else:
        assert_raises(error, message, lambda: call(model_of()))
