"""Encoder, bridge, decoder, readout: gradients of the whole, padding, scheduled sampling, and what is refused."""

import copy
import functools
import pickle

import numpy as np
import pytest
from frameworks import torch
from messages import assert_raises

from rnn_numpy import GRU, LSTM, RNN, Adam, gradcheck
from rnn_numpy.checks import complex_step
from rnn_numpy.core import states
from rnn_numpy.core.symbols import BOS, EOS, PAD
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from rnn_numpy.models import encoder_decoder
from rnn_numpy.models.beam_search import beam_search
from rnn_numpy.models.bridge import BRIDGES, Bridge
from rnn_numpy.models.decoding import decode_forced, decode_greedy
from rnn_numpy.models.encoder_decoder import EncoderDecoder, shifted
from rnn_numpy.models.scheduled_sampling import ExponentialDecay, ScheduledSampling
from rnn_numpy.tasks.pairs import Pairs
from rnn_numpy.training import Linear, load_checkpoint, save_checkpoint, train

EPS = np.finfo(float).eps
SOURCE, LENGTHS = np.array([[3, 4, 5], [5, 3, 0], [4, 6, 0], [3, 0, 0]]), np.array([4, 3, 1])
TARGET, WRITTEN = np.array([[3, 4, 5], [4, 2, 2], [5, 0, 0], [2, 0, 0]]), np.array([4, 2, 2])
BATCH = SOURCE, LENGTHS, TARGET, WRITTEN
# bridge, kind of encoder, cell of the decoder, options of the decoder, of the encoder
MODELS = {
    "tanh": (GRU, "gru", {}, {"num_layers": 2, "bidirectional": True}),
    "linear": (LSTM, "lstm", {"order": "before", "score": "additive"}, {"bidirectional": True}),
    "concat": (LSTM, "lstm", {"input_feeding": True}, {"bidirectional": True}),
    "mean": (GRU, "lstm", {"order": "before", "score": "additive", "gate": "scalar"}, {"bidirectional": True}),
    "zeros": (RNN, "gru", {"score": "scaled_dot"}, {"bidirectional": True}),
    "layers": (RNN, "lstm", {"num_layers": 2}, {"num_layers": 3}),
    "reverse": (LSTM, "gru", {"num_layers": 2, "order": "before"}, {"bidirectional": True}),
}


def model_of(name="tanh", dtype=np.float64, **options):
    kind, cell, of_decoder, of_encoder = MODELS[name]
    bridge = {"layers": "linear", "reverse": "tanh"}.get(name, name)
    encoder = kind(3, 2, **of_encoder, dtype=dtype, rng=0)
    width = 4 if encoder.bidirectional else 2
    decoder = AttentionDecoder(3, 4, width, cell=cell, **of_decoder, dtype=dtype, rng=1)
    model = EncoderDecoder(encoder, decoder, 7, 6, bridge=bridge, reverse_only=name == "reverse", rng=2, **options)
    rng = np.random.default_rng(3)
    model.params.flat[:] += 0.2 * rng.normal(size=model.params.flat.size)
    model.freeze_padding()
    return model


def close(found, expected, tolerance=1e-13):
    """Whether each gradient is right, relative to its largest entry; cancellation leaves some near zero."""
    largest = max(np.abs(array).max() for array in expected.values())
    for name, array in expected.items():
        scale = max(np.abs(array).max(), 1e-5 * largest)
        assert np.abs(found[name] - array).max() <= tolerance * scale, name
    return True


def stepped(model, batch):
    """The gradients of the loss by the complex step."""

    def loss(params):
        twin = model.astype(complex)
        twin.params.flat[:] = np.concatenate([np.ravel(params[name]) for name in model.params])
        return twin.loss_of(*batch)

    return complex_step(loss, dict(model.params))


# ------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in MODELS), ("concat", {"label_smoothing": 0.1, "reduction": "sentence"})],
)
def test_complex_step(name, options):
    model = model_of(name, loss_options=options)
    loss, grads, _ = model.loss_and_grads(*BATCH)
    assert loss == model.loss_of(*BATCH)
    expected = stepped(model, BATCH)
    for table in ("source.weight", "target.weight"):  # the row of PAD is not trained
        expected[table][PAD] = 0
    assert close(grads, expected)
    assert not grads["source.weight"][PAD].any()


def without_the_bridge(self, trace, dh_0, grads, inner=Bridge.backward):
    dfinals, dmemory = inner(self, trace, dh_0, grads)
    return states.mapped(np.zeros_like, dfinals), states.mapped(np.zeros_like, dmemory)


def one_way(way):
    """A decoder's backward pass whose gradient of the memory is one of its two terms alone."""

    def steps_of(self, *arguments, inner=AttentionDecoder.backward_steps, **options):
        steps = inner(self, *arguments, **options)
        yielded = list(steps)
        steps.result.dmemory = getattr(steps.result, way)
        return Ended(yielded, steps.result)

    return steps_of


class Ended(list):
    def __init__(self, steps, result):
        super().__init__(steps)
        self.result = result


def without_the_mask(self, x, memory, h_0, *, memory_mask, inner=AttentionDecoder.forward, **options):
    return inner(self, x, memory, h_0, memory_mask=np.ones_like(memory_mask), **options)


def unshifted(target):
    return np.where(target == EOS, PAD, target)


def all_count(logits, targets, mask, inner=encoder_decoder.cross_entropy_loss, **options):
    return inner(logits, targets, np.ones_like(mask), **options)


# What is wrong backward, found by the complex step.
BACKWARD = {
    "bridge": (Bridge, "backward", without_the_bridge),
    "values alone": (AttentionDecoder, "backward_steps", one_way("dmemory_values")),
    "weights alone": (AttentionDecoder, "backward_steps", one_way("dmemory_weights")),
}


@pytest.mark.parametrize("mistake", BACKWARD)
@pytest.mark.parametrize("name", ["tanh", "concat", "mean"])
def test_a_wrong_gradient_shows(name, mistake, monkeypatch):
    model = model_of(name)
    names = ["encoder.weight_ih_l0", "encoder.weight_hh_l0_reverse", "readout.bias"]
    report = gradcheck(model, *BATCH, names=names, trials=False)
    assert report.ok, report
    monkeypatch.setattr(*BACKWARD[mistake])
    report = gradcheck(model, *BATCH, names=names, trials=False)
    assert [row.verdict for row in report.rows] == ["WRONG", "WRONG", "ok"]


# What is wrong in both passes alike, which no check of a gradient finds: only padding, and the right tokens, tell.
FORWARD = {
    "mask dropped": (AttentionDecoder, "forward", without_the_mask),
    "padding counts": (encoder_decoder, "cross_entropy_loss", all_count),
    "not shifted": (encoder_decoder, "shifted", unshifted),
}


@pytest.mark.parametrize("mistake", FORWARD)
def test_a_wrong_model_shows(mistake, monkeypatch):
    model = model_of("concat", loss_options={"reduction": "sum"})
    forced = decode_forced(model, SOURCE, LENGTHS, targets=[TARGET[:count, n] for n, count in enumerate(WRITTEN)])
    total = -sum(hypothesis.total for hypothesis in forced)
    assert model.loss_of(*BATCH) == pytest.approx(total, rel=1e-13)
    monkeypatch.setattr(*FORWARD[mistake])
    assert gradcheck(model, *BATCH, names=["readout.bias", "decoder.rnn.weight_hh_l0"], trials=False).ok
    assert model.loss_of(*BATCH) != pytest.approx(total, rel=1e-3)


def test_gradcheck_of_all_of_it():
    report = gradcheck(model_of("mean"), *BATCH)
    assert report.ok, report
    assert {row.name for row in report.rows} == set(model_of("mean").params)


@pytest.mark.needs_torch
def test_torch():
    """The whole of it, written with torch's modules: packed biLSTM, bridge, loop of cells, mask, cross-entropy."""
    model = model_of("linear", loss_options={"label_smoothing": 0.1})
    loss, grads, _ = model.loss_and_grads(*BATCH)
    p = {name: torch.tensor(array, requires_grad=True) for name, array in model.params.items()}
    nn = torch.nn.functional
    encoder = torch.nn.LSTM(3, 2, bidirectional=True, dtype=torch.float64)
    own = {name: p[f"encoder.{name}"] for name, _ in encoder.named_parameters()}
    embedded = nn.embedding(torch.tensor(SOURCE), p["source.weight"])
    packed = torch.nn.utils.rnn.pack_padded_sequence(embedded, torch.tensor(LENGTHS), enforce_sorted=False)
    out, (h, c) = torch.func.functional_call(encoder, own, (packed,))
    memory, _ = torch.nn.utils.rnn.pad_packed_sequence(out)
    exists = torch.arange(4)[None] < torch.tensor(LENGTHS)[:, None]
    states = []
    for name, final in (("h", h), ("c", c)):
        side_by_side = torch.cat([final[0], final[1]], dim=1)
        states.append(side_by_side @ p[f"bridge.weight_{name}_l0"].T + p[f"bridge.bias_{name}_l0"])
    h, c = states
    keys = memory @ p["decoder.keys.weight_memory"].T + p["decoder.keys.bias"]
    weight = torch.cat([p["decoder.rnn.weight_ih_l0"], p["decoder.rnn.weight_ch_l0"]], dim=1)
    x, outputs = nn.embedding(torch.tensor(shifted(TARGET)), p["target.weight"]), []
    for t in range(4):
        score = torch.tanh(keys + h @ p["decoder.rnn.weight_query_l0"].T) @ p["decoder.rnn.v_l0"]
        alpha = torch.softmax(score.T.masked_fill(~exists, -torch.inf), dim=1)
        context = torch.einsum("ns,snm->nm", alpha, memory)
        a = torch.cat([x[t], context], dim=1) @ weight.T + p["decoder.rnn.bias_ih_l0"]
        a = a + h @ p["decoder.rnn.weight_hh_l0"].T + p["decoder.rnn.bias_hh_l0"]
        i, f, g, o = a.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    logits = torch.stack(outputs) @ p["readout.weight"].T + p["readout.bias"]
    targets = torch.tensor(np.where(np.arange(4)[:, None] < WRITTEN, TARGET, -100))
    expected = nn.cross_entropy(logits.reshape(-1, 6), targets.reshape(-1), ignore_index=-100, label_smoothing=0.1)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-14)
    found = {name: tensor.grad.numpy() for name, tensor in p.items()}
    for table in ("source.weight", "target.weight"):
        found[table][PAD] = 0
    assert close(grads, found)


def test_one_generator_goes_through_the_decoder_and_then_the_encoder():
    model = model_of("linear")
    loss, grads, _ = model.loss_and_grads(*BATCH)
    again, trace = model.forward(*BATCH)
    assert again == loss
    own = model.params.zeros_like()
    own.flat[:] = 1
    steps = model.backward_steps(trace, own)
    order = [step.t for step in steps]
    assert order == [3, 2, 1, 0, 3, 2, 1, 0, 0, 1, 2, 3]
    assert steps.result is own
    assert np.array_equal(own.flat, grads.flat + 1)
    assert np.array_equal(model.backward(trace).flat, grads.flat), "twice on one trace"
    halted = model.backward_steps(model.forward(*BATCH)[1], unchanged := model.params.zeros_like())
    next(halted)
    assert halted.result is None
    assert not unchanged.flat.any(), "stopping early leaves gradients untouched"
    assert trace["decoder"][2].alpha.shape == (3, 4)
    assert trace.decoder[2].dscore.sum(axis=1) == pytest.approx(0, abs=1e-16)


# ------------------------------------------------------------------------------------------------ padding, order


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name):
    model = model_of(name)
    loss, grads, trace = model.loss_and_grads(*BATCH)
    more = np.concatenate([SOURCE, np.full((3, 3), 6)]), LENGTHS, np.concatenate([TARGET, np.full((2, 3), 5)]), WRITTEN
    more[0][4:, 1], more[2][3, 1] = -1, 9  # what is behind need be no id
    padded, other, wider = model.loss_and_grads(*more)
    assert np.array_equal(trace.logits, wider.logits[:4])
    assert padded == pytest.approx(float(loss), rel=4 * EPS)
    assert close(other, grads)


def test_the_order_of_a_batch_does_not_matter():
    model = model_of("tanh")
    loss, grads, _ = model.loss_and_grads(*BATCH)
    turned = [2, 0, 1]
    again, other, _ = model.loss_and_grads(SOURCE[:, turned], LENGTHS[turned], TARGET[:, turned], WRITTEN[turned])
    assert again == pytest.approx(float(loss), rel=4 * EPS)
    assert close(other, grads)


def test_count_is_what_losses_are_means_over():
    for options, count in (({}, 8.0), ({"reduction": "sentence"}, 3.0), ({"reduction": "sum"}, 1.0)):
        model = model_of(loss_options=options)
        assert model.count(*BATCH) == count
        total = model_of(loss_options={"reduction": "sum"}).loss_of(*BATCH)
        assert model.loss_of(*BATCH) * count == pytest.approx(total, rel=1e-14)


def test_shifted():
    assert shifted(TARGET).T.tolist() == [[BOS, 3, 4, 5], [BOS, 4, PAD, PAD], [BOS, 5, PAD, PAD]]


# ------------------------------------------------------------------------------------------------ scheduled sampling


def test_scheduled_sampling_goes_from_forcing_to_free_running():
    model = model_of("linear")
    forced = model.scheduled(*BATCH, probability=0.0, rng=0)
    assert np.array_equal(forced, shifted(TARGET))
    free = model.scheduled(*BATCH, probability=1.0, rng=0, greedy=True)
    for n, hypothesis in enumerate(decode_greedy(model, SOURCE, LENGTHS, max_length=3)):
        assert free[1 : 1 + len(hypothesis.tokens), n].tolist() == hypothesis.tokens.tolist()
    loss, _, _ = model.loss_and_grads(*BATCH, forced)
    assert loss == model.loss_and_grads(*BATCH)[0]
    # The gradient is that of the mixture: tokens are constants.
    mixed = model.scheduled(*BATCH, probability=0.5, rng=1)
    assert (mixed != forced).any()
    expected = stepped(model, (*BATCH, mixed))
    for table in ("source.weight", "target.weight"):
        expected[table][PAD] = 0
    assert close(model.loss_and_grads(*BATCH, mixed)[1], expected)


def test_whole_sequences_can_be_chosen():
    model = model_of("linear")
    many = [np.repeat(array, 20, axis=-1) for array in BATCH]
    mixed = model.scheduled(*many, probability=0.5, rng=0, by="sequence", greedy=True)
    free = model.scheduled(*many, probability=1.0, rng=0, greedy=True)
    forced = shifted(many[2])
    own = (mixed == free).all(axis=0)
    assert ((mixed == forced).all(axis=0) | own).all()
    assert 10 < own.sum() < 50


# ------------------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_is_decoded_as_each_of_its_sentences_alone(name):
    model = model_of(name)
    together = beam_search(model, SOURCE, LENGTHS, beam=3, max_length=5, n_best=2)
    for n, (length, found) in enumerate(zip(LENGTHS, together, strict=True)):
        (alone,) = beam_search(model, SOURCE[:length, n : n + 1], [length], beam=3, max_length=5, n_best=2)
        for a, b in zip(found, alone, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            assert a.score == b.score
            assert np.array_equal(a.log_probs, b.log_probs)
            assert np.array_equal(a.alpha, b.alpha)


def test_log_p_of_the_target_is_the_loss():
    model = model_of("concat", loss_options={"reduction": "sum"})
    targets = [TARGET[:count, n] for n, count in enumerate(WRITTEN)]
    forced = decode_forced(model, SOURCE, LENGTHS, targets=targets)
    assert -sum(hypothesis.total for hypothesis in forced) == pytest.approx(model.loss_of(*BATCH), rel=1e-13)


def test_log_probabilities_rule_out_what_is_never_written():
    model = model_of("tanh", dtype=np.float32)
    (state,) = model.start(SOURCE[:, 0])
    log_p, after = model.next(np.array([BOS]), state)
    assert log_p.dtype == np.float64
    assert np.isneginf(log_p[0, [PAD, BOS]]).all()
    assert np.isfinite(log_p[0, EOS:]).all()
    assert state.alpha is None
    assert after.take([0, 0]).alpha.shape == (2, 4)


# ------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("step", [1, -1], ids=["copy", "reverse"])
def test_it_learns_to_copy_and_to_reverse(step):
    rng = np.random.default_rng(0)

    def drawn(batch):
        lengths = rng.integers(1, 7, batch)
        words, written = np.full((6, batch), PAD), np.full((7, batch), PAD)
        for n, length in enumerate(lengths):
            words[:length, n] = rng.integers(3, 8, length)
            written[: length + 1, n] = [*words[:length, n][::step], EOS]
        return words, lengths, written, lengths + 1

    encoder = GRU(8, 12, bidirectional=True, rng=1)
    model = EncoderDecoder(encoder, AttentionDecoder(8, 24, 24, rng=2), 8, 8, bridge="concat", rng=3)
    batches = (drawn(32) for _ in range(400))
    for update in train(model, batches, Adam(model.params, 0.02), schedule=Linear(0.02, total=400)):
        assert np.isfinite(update.loss)
    words, lengths, written, ends = drawn(200)
    found = decode_greedy(model, words, lengths, max_length=9)
    assert [h.tokens.tolist() for h in found] == [written[:end, n].tolist() for n, end in enumerate(ends)]


@pytest.mark.parametrize("scheduled", [False, True], ids=["forced", "scheduled"])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, scheduled):
    def made():
        encoder = LSTM(3, 2, num_layers=2, dropout=0.5, bidirectional=True, dtype=np.float32, rng=0)
        decoder = AttentionDecoder(3, 4, 4, cell="lstm", num_layers=2, dropout=0.5, dtype=np.float32, rng=1)
        model = EncoderDecoder(encoder, decoder, 7, 6, rng=2)
        words = [SOURCE[:length, n] for n, length in enumerate(LENGTHS)] * 3
        answers = [TARGET[:length, n] for n, length in enumerate(WRITTEN)] * 3
        batches = Pairs.of(words, answers).batches(2, rng=4)
        if scheduled:
            batches = ScheduledSampling(model, batches, ExponentialDecay(0.8), rng=5)
        return model, train(model, batches, Adam(model.params, 1e-2), clip=1.0)

    whole, training = made()
    losses = [next(training).loss for _ in range(6)]
    assert len(set(losses)) == 6
    _, first = made()
    assert [next(first).loss for _ in range(3)] == losses[:3]
    save_checkpoint(tmp_path / "half.npz", first)
    again, second = made()
    second.load_state_dict(load_checkpoint(tmp_path / "half.npz").training)
    assert [next(second).loss for _ in range(3)] == losses[3:]
    assert np.array_equal(again.params.flat, whole.params.flat)


@pytest.mark.parametrize("name", MODELS)
def test_copies_pickles_and_dtypes(name):
    model = model_of(name)
    loss = model.loss_of(*BATCH)
    for twin in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert twin.loss_of(*BATCH) == loss
        twin.params.flat[:] = 0
        assert not twin.decoder.rnn.params.flat.any(), "the parts are views of the one vector"
    assert model.loss_of(*BATCH) == loss
    small = model.astype(np.float32)
    assert small.loss_of(*BATCH) == pytest.approx(float(loss), rel=1e-5)
    assert all(array.dtype == np.float32 for array in small.loss_and_grads(*BATCH)[1].values())
    other = model_of(name)
    other.params.flat[:] = 0
    other.load_state_dict(model.state_dict())
    assert other.loss_of(*BATCH) == loss


def test_dropout_is_repeatable_and_off_in_decoding():
    encoder = LSTM(3, 2, num_layers=2, dropout=0.5, bidirectional=True, rng=0)
    decoder = AttentionDecoder(3, 4, 4, cell="lstm", num_layers=2, dropout=0.5, order="before", rng=1)
    model = EncoderDecoder(encoder, decoder, 7, 6, rng=2)
    names = list(model.generators())
    assert names == ["encoder", "decoder.rnn", "decoder.upper"]
    assert model.loss_and_grads(*BATCH)[0] != model.loss_and_grads(*BATCH)[0]
    assert model.loss_of(*BATCH) == model.loss_of(*BATCH)


# ------------------------------------------------------------------------------------------------ bridges


@pytest.mark.parametrize("kind", BRIDGES)
def test_a_bridge_by_itself(kind):
    widths = {"h": 4, "c": 4} if kind == "concat" else {"h": 3, "c": 5}
    bridge = Bridge(kind, {"h": 2, "c": 2}, widths, directions=2, memory_size=6, rng=0)
    rng = np.random.default_rng(0)
    exists = np.array([[True, True, False], [True, False, False], [False, False, False]])
    point = {"h": rng.normal(size=(2, 3, 2)), "c": rng.normal(size=(2, 3, 2)), "memory": rng.normal(size=(3, 3, 6))}
    dh_0 = tuple(rng.normal(size=(1, 3, width)) for width in widths.values())

    def loss(at):
        twin = bridge.astype(complex)
        for name in twin.params:
            twin.params[name] = at[name]
        initial, _ = twin.forward((at["h"], at["c"]), at["memory"], exists)
        return sum(np.sum(d * s) for d, s in zip(dh_0, initial, strict=True))

    initial, trace = bridge.forward((point["h"], point["c"]), point["memory"], exists)
    grads = bridge.params.zeros_like()
    (dh, dc), dmemory = bridge.backward(trace, dh_0, grads)
    found = {"h": dh, "c": dc, "memory": np.zeros((3, 3, 6)) if dmemory is None else dmemory, **grads}
    expected = complex_step(loss, {**point, **bridge.params})
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= 1e-14 * max(1, np.abs(array).max()), name
    assert [s.shape for s in initial] == [(1, 3, width) for width in widths.values()]
    if kind == "mean":
        assert not dmemory[:, 2].any(), "a memory without rows has no gradient"


def test_layers_are_joined_from_the_top():
    bridge = Bridge("concat", {"h": 2}, {"h": 4}, encoder_layers=2, decoder_layers=2, directions=2)
    h_n = np.arange(24.0).reshape(4, 3, 2)
    initial, _ = bridge.forward(h_n, np.zeros((1, 3, 1)), np.ones((3, 1), bool))
    for layer in range(2):  # rows 0::2 beside 1::2
        assert np.array_equal(initial[layer], np.concatenate([h_n[0::2][layer], h_n[1::2][layer]], axis=1))
    few = Bridge("linear", {"h": 2}, {"h": 2}, encoder_layers=3, decoder_layers=2)
    few.params["weight_h_l0"], few.params["weight_h_l1"] = np.eye(2), np.eye(2)
    initial, _ = few.forward(h_n[:3], np.zeros((1, 3, 1)), np.ones((3, 1), bool))
    assert np.array_equal(initial, h_n[1:3])


# ------------------------------------------------------------------------------------------------ errors


@functools.cache
def decoder(**options):
    return AttentionDecoder(3, 4, options.pop("memory_size", 4), cell="lstm", rng=0, **options)


ENCODER = LSTM(3, 2, bidirectional=True, rng=0)
PLAIN = AttentionDecoder(3, 4, 4, rng=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: EncoderDecoder(ENCODER, decoder(memory_size=3), 7, 6), ShapeError,
         "decoder must have memory_size = directions * H of the encoder = 4; got 3"),
        (lambda: EncoderDecoder(LSTM(3, 4, batch_first=True), decoder(), 7, 6), OptionError,
         "encoder must not be batch_first: ids are (S, N)"),
        (lambda: EncoderDecoder(ENCODER.astype(np.float32), decoder(), 7, 6), DTypeError,
         "decoder must have the encoder's dtype, float32; got float64"),
        (lambda: EncoderDecoder(ENCODER, decoder(), 7, 2), OptionError,
         "target_vocabulary must hold PAD, BOS and EOS, V >= 3; got 2"),
        (lambda: EncoderDecoder(ENCODER, decoder(), 0, 6), OptionError, None),
        (lambda: EncoderDecoder(PLAIN.rnn, PLAIN, 7, 6), OptionError,
         "encoder and decoder must be two layers; the encoder is one of the decoder's own"),
        (lambda: EncoderDecoder(None, decoder(), 7, 6), DTypeError,
         "encoder must be a recurrent layer: RNN, LSTM or GRU; got None"),
        (lambda: EncoderDecoder(ENCODER, ENCODER, 7, 6), DTypeError, None),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(call, error, message):
    if message is None:
        with pytest.raises(error, match=r"^EncoderDecoder: "):
            call()
    else:
        assert_raises(error, f"EncoderDecoder: {message}", call)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EncoderDecoder(ENCODER, decoder(), 7, 6, bridge="copy"),
         "bridge must be one of 'tanh', 'linear', 'concat', 'mean', 'zeros'; got 'copy'"),
        (lambda: EncoderDecoder(LSTM(3, 4), decoder(), 7, 6, reverse_only=True),
         "reverse_only must be False: the encoder has one direction; make it bidirectional"),
        (lambda: EncoderDecoder(LSTM(3, 3), decoder(memory_size=3), 7, 6, bridge="concat"),
         "bridge 'concat' must have decoder states as wide as the encoder's side by side, H = directions * He; got h "
         "with H = 4 and directions * He = 1 * 3. 'linear' or 'tanh' join any widths"),
        (lambda: EncoderDecoder(LSTM(3, 2, 2, bidirectional=True), decoder(), 7, 6, bridge="concat"),
         "bridge 'concat' must have as many layers on both sides; got 2 in the encoder, 1 in the decoder. 'linear' or "
         "'tanh' join any numbers"),
        (lambda: Bridge("mean", {"h": 2}, {"h": 2}, memory_size=3, directions=2, reverse_only=True),
         "reverse_only must be False: the bridge 'mean' reads no final state"),
        (lambda: Bridge("mean", {"h": 2}, {"h": 2}), "memory_size must be given for the bridge 'mean'"),
    ],
)  # fmt: skip
def test_bridges_that_do_not_fit(call, message):
    assert_raises(OptionError, f"Bridge: {message}", call)


@pytest.mark.parametrize(
    ("h_n", "error", "message"),
    [
        (np.zeros((2, 3, 2)), DTypeError, "h_n must be as many arrays as there are states, h_n, c_n; got 1"),
        ((np.zeros((2, 3, 2)), np.zeros((2, 3, 3))), ShapeError,
         "c_n must have shape (layers * directions, N, H) = (2, 3, 2); got (2, 3, 3)"),
        ((np.zeros((2, 3, 2)), np.zeros((2, 3, 2), np.float32)), DTypeError, None),
    ],
)  # fmt: skip
def test_states_that_are_not_the_encoders(h_n, error, message):
    bridge = Bridge("linear", {"h": 2, "c": 2}, {"h": 5, "c": 5}, directions=2, rng=0)
    memory, exists = np.zeros((4, 3, 4)), np.ones((3, 4), bool)
    if message is None:
        with pytest.raises(error, match=r"^Bridge.forward: c_n must have dtype float64, the layer's; got float32"):
            bridge.forward(h_n, memory, exists)
    else:
        assert_raises(error, f"Bridge.forward: {message}", lambda: bridge.forward(h_n, memory, exists))
    _, trace = bridge.forward((np.zeros((2, 3, 2)),) * 2, memory, exists)
    message = "Bridge.backward: dh_0 must be as many arrays as there are states, dh_0, dc_0; got 1"
    assert_raises(DTypeError, message, lambda: bridge.backward(trace, h_n[0], bridge.params.zeros_like()))


def changed(index, value):
    batch = list(BATCH)
    batch[index] = value
    return batch


ENDLESS = np.where(TARGET == EOS, 4, TARGET)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (changed(2, ENDLESS), OptionError,
         "target must end with EOS = 2 at its length, or the model never learns to stop; target 0 ends with 4 at "
         "position 3"),
        (changed(2, np.where(TARGET == 4, EOS, TARGET)), OptionError,
         "target must hold symbols and one EOS at its end; target 1 has 2 at position 0 of 2 (PAD = 0, BOS = 1, EOS "
         "= 2)"),
        (changed(2, np.where(TARGET == 4, PAD, TARGET)), OptionError,
         "target must hold symbols and one EOS at its end; target 1 has 0 at position 0 of 2 (PAD = 0, BOS = 1, EOS "
         "= 2)"),
        (changed(2, TARGET[:, :2]), ShapeError, "target must have shape (T, N) = (T, 3) with T >= 1; got (4, 2)"),
        (changed(2, TARGET.astype(float)), DTypeError, "target must hold integers, ids; got dtype float64"),
        (changed(0, SOURCE.astype(bool)), DTypeError, "source must hold integers, ids; got dtype bool"),
        (changed(0, np.where(SOURCE == 6, 7, SOURCE)), OptionError,
         "source must hold ids in [0, V) = [0, 7); got 7 at position 2 of sequence 1"),
        (changed(2, np.where(TARGET == 5, 6, TARGET)), OptionError,
         "target must hold ids in [0, V) = [0, 6); got 6 at position 0 of sequence 2"),
        ((*BATCH, -TARGET), OptionError,
         "inputs must hold ids in [0, V) = [0, 6); got -3 at position 0 of sequence 0"),
        ((*BATCH, TARGET / 2), DTypeError, "inputs must hold integers, ids; got dtype float64"),
        (changed(3, [4, 2]), ShapeError, "target_lengths must have shape (N,) = (3,); got (2,)"),
        (changed(3, [4, 2, 5]), OptionError, "target_lengths must be in [1, 4]; got 5 for sequence 2"),
        (changed(1, [4, 0, 1]), OptionError, "source_lengths must be in [1, 4]; got 0 for sequence 1"),
        (changed(1, [4.0, 2.0, 1.0]), DTypeError, "source_lengths must be integers; got dtype float64"),
        (changed(0, SOURCE[:, 0]), ShapeError, "source must have shape (S, N) with S >= 1; got (4,)"),
        ((*BATCH, TARGET[:2]), ShapeError, "inputs must have shape (T, N) = (4, 3); got (2, 3)"),
    ],
)  # fmt: skip
def test_batches_that_do_not_fit(batch, error, message):
    model = model_of("tanh")
    assert_raises(error, f"EncoderDecoder.forward: {message}", lambda: model.loss_and_grads(*batch))


def test_what_scheduled_sampling_and_backward_refuse():
    model = model_of("tanh")
    message = "EncoderDecoder.backward: trace must be the second result of forward; got float"
    assert_raises(DTypeError, message, lambda: model.backward(1.0))
    where = "EncoderDecoder.scheduled"
    for value in (-0.1, 1.5):
        message = f"{where}: probability must be in [0, 1]; got {value}"
        assert_raises(OptionError, message, lambda value=value: model.scheduled(*BATCH, probability=value))
    message = f"{where}: by must be one of 'step', 'sequence'; got 'word'"
    assert_raises(OptionError, message, lambda: model.scheduled(*BATCH, probability=0.5, by="word"))
