"""What attention does to the gradient: its ways, tokens by positions, saturation, and the decoder's Jacobian."""

import functools

import numpy as np
import pytest
from messages import assert_raises
from planting import planted
from scipy.stats import spearmanr

from rnn_numpy import GRU, LSTM, RNN, decompose
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.lab import attention_split, state_jacobians
from rnn_numpy.lab.attention import (
    attention_focus,
    attention_jacobians,
    lag_profile,
    rank_correlation,
    spectrum,
    token_gradients,
)
from rnn_numpy.layers import attention
from rnn_numpy.layers.attention import AttentionGRU, AttentionLSTM, AttentionRNN
from rnn_numpy.layers.attention_decoder import AttentionDecoder, with_attention
from rnn_numpy.layers.attention_layer import Attention
from rnn_numpy.models.encoder_decoder import EncoderDecoder

EPS = np.finfo(float).eps
SOURCE, LENGTHS = np.array([[3, 4, 5], [5, 3, 0], [4, 6, 0], [3, 0, 0]]), np.array([4, 3, 1])
TARGET, WRITTEN = np.array([[3, 4, 5], [4, 2, 2], [5, 0, 0], [2, 0, 0]]), np.array([4, 2, 2])


def model_of(bridge="tanh", order="after", cell="lstm", **options):
    encoder = (GRU if cell == "gru" else LSTM)(3, 2, num_layers=2, bidirectional=True, rng=0)
    decoder = AttentionDecoder(3, 5, 4, cell=cell, order=order, rng=1, **options)
    return EncoderDecoder(encoder, decoder, 7, 6, bridge=bridge, rng=2)


@functools.cache
def lectures(encoder_kind, decoder_kind, source=40, step=3):
    """An encoder, the lecture's decoder, one loss: what attention_split takes."""
    rng = np.random.default_rng(0)
    encoder, decoder = encoder_kind(3, 8, rng=1), decoder_kind(3, 8, rng=2)
    memory, final, trace = encoder.forward(rng.normal(size=(source, 2, 3)))
    output, _, read = decoder.forward(rng.normal(size=(step + 1, 2, 3)), final, given={"values": memory})
    doutput = np.zeros_like(output)
    doutput[step] = rng.normal(size=output.shape[1:])
    back = decoder.backward(read, doutput)
    states = [getattr(back, f"d{state}_0") for state in decoder.cell.states]
    bridge = states[0] if len(states) == 1 else tuple(states)
    return encoder, trace, back.given_ways["values"], bridge


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [(RNN, AttentionRNN), (LSTM, AttentionLSTM), (GRU, AttentionGRU)],
    ids=["RNN", "LSTM", "GRU"],
)
class TestTheLecturesDecoder:
    def test_the_ways_add_up(self, encoder, decoder):
        layer, trace, ways, bridge = lectures(encoder, decoder)
        split = attention_split(layer, trace, **ways, bridge=bridge)
        whole = layer.backward(trace, ways["values"] + ways["weights"], bridge)
        assert np.array_equal(split.whole.dx, whole.dx)
        assert np.array_equal(split.whole.grads.flat, whole.grads.flat)
        assert 0 < split.residual < 8 * EPS
        for shares, total in (
            ([way.dx for way in split.ways.values()], whole.dx),
            ([way.grads.flat for way in split.ways.values()], whole.grads.flat),
        ):
            assert np.abs(sum(shares) - total).max() <= 8 * EPS * np.abs(total).max()

    def test_attention_does_not_fade_with_the_lag_and_the_chain_does(self, encoder, decoder):
        layer, trace, ways, bridge = lectures(encoder, decoder)
        profile = lag_profile(attention_split(layer, trace, **ways, bridge=bridge))
        near, far = slice(5, 10), slice(30, 35)
        for way in ("values", "weights"):
            assert profile[way][far].mean() > 0.2 * profile[way][near].mean()
        assert profile["bridge"][far].mean() < 1e-3 * profile["bridge"][near].mean()

    def test_a_planted_mistake_shows(self, encoder, decoder):
        layer, trace, ways, bridge = lectures(encoder, decoder)
        split = attention_split(layer, trace, **ways, bridge=bridge)
        split.ways["weights"] = split.ways["values"]
        assert split.residual > 1e-3


@pytest.mark.parametrize("bridge", ["tanh", "mean", "zeros"])
@pytest.mark.parametrize("options", [{}, {"order": "before", "score": "additive"}, {"input_feeding": True}], ids=str)
def test_the_ways_of_a_model_add_up_to_what_trained(bridge, options):
    model = model_of(bridge, **options)
    _, grads, trace = model.loss_and_grads(SOURCE, LENGTHS, TARGET, WRITTEN)
    split = attention_split(model, trace)
    assert split.residual < 8 * EPS
    expected = grads.part("encoder").flat
    assert np.abs(split.whole.grads.flat - expected).max() <= 8 * EPS * np.abs(expected).max()
    assert (split.by_position("bridge").max() == 0) == (bridge == "zeros")
    assert np.array_equal(split.whole.dx, trace.dsource)


def test_tables_of_a_split():
    model = model_of()
    trace = model.loss_and_grads(SOURCE, LENGTHS, TARGET, WRITTEN)[2]
    da = trace.encoder["l0"].da_i.copy()
    split = attention_split(model, trace)
    assert np.array_equal(trace.encoder["l0"].da_i, da), "the trace keeps its gradients"
    assert split.lengths.tolist() == LENGTHS.tolist()
    positions, lags = split.by_position("values"), split.by_lag("values")
    for n, length in enumerate(LENGTHS):
        assert np.array_equal(lags[:length, n], positions[:length, n][::-1])
        assert np.isnan(lags[length:, n]).all()
        assert not positions[length:, n].any()
    table = split.by_parameter()
    assert list(table) == list(model.encoder.params)
    assert list(table["weight_ih_l0"]) == ["values", "weights", "bridge", "whole"]
    gates = split.by_gate("bridge", "l1_reverse")
    assert list(gates) == ["da_i", "da_f", "da_g", "da_o"]
    assert all(norms.shape == (4, 3) for norms in gates.values())
    assert "residual" in repr(split)


def test_what_a_split_refuses():
    model = model_of()
    loss, trace = model.forward(SOURCE, LENGTHS, TARGET, WRITTEN)
    layer, own, ways, bridge = lectures(RNN, AttentionRNN)
    where = "attention_split"
    for error, message, call in (
        (OptionError, "trace must have been through a backward pass: take that of loss_and_grads",
         lambda: attention_split(model, trace)),
        (DTypeError, "trace must be that of an EncoderDecoder; got Trace", lambda: attention_split(model, own)),
        (DTypeError, "model must be an EncoderDecoder or a recurrent layer, with its own trace; got float64 and Trace",
         lambda: attention_split(loss, own)),
    ):  # fmt: skip
        assert_raises(error, f"{where}: {message}", call)
    split = attention_split(layer, own, **ways, bridge=bridge)
    assert_raises(
        OptionError,
        "AttentionSplit: way must be one of 'values', 'weights', 'bridge'; got 'chain'",
        lambda: split.by_lag("chain"),
    )


# ---------------------------------------------------------------------------------------------- token by position


@pytest.mark.parametrize("options", [{}, {"order": "before", "score": "additive"}], ids=str)
def test_token_gradients_are_those_of_one_loss_after_the_other(options):
    model = model_of(**options)
    source, target = SOURCE[:, 0], TARGET[:, 0]
    gradients, alpha = token_gradients(model, source, target)
    assert gradients.shape == alpha.shape == (4, 4)
    for t in range(len(target)):
        # The same by differences of log p along random directions of the embeddings.
        _, trace = model.forward(source[:, None], [4], target[:, None], [4], training=False)
        probabilities = np.exp(trace.logits[t, 0] - trace.logits[t, 0].max())
        probabilities /= probabilities.sum()
        dlogits = np.zeros_like(trace.logits)
        dlogits[t, 0] = -probabilities
        dlogits[t, 0, target[t]] += 1
        trace.dlogits = dlogits
        for _ in model.backward_steps(trace):
            pass
        expected = np.linalg.norm(trace.dsource[:, 0], axis=1)
        assert np.abs(gradients[t] - expected).max() <= 64 * EPS * expected.max()
    assert np.allclose(alpha.sum(axis=1), 1, rtol=1e-14)


def test_what_token_gradients_refuse():
    model = model_of()
    assert_raises(
        ShapeError,
        "token_gradients: source must have shape (S,), one sentence; got (4, 3)",
        lambda: token_gradients(model, SOURCE, TARGET[:, 0]),
    )
    assert_raises(
        DTypeError,
        "token_gradients: model must be an EncoderDecoder; got LSTM",
        lambda: token_gradients(model.encoder, SOURCE[:, 0], TARGET[:, 0]),
    )


def test_rank_correlation():
    a = np.array([[0.1, 5.0], [2.0, -3.0]])
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1, rel=1e-15)
    assert rank_correlation(a, -a) == pytest.approx(-1, rel=1e-15)
    assert np.isnan(rank_correlation(a, np.ones_like(a)))
    x, y = np.random.default_rng(0).integers(0, 5, (2, 50))  # many ties
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic, rel=1e-13)
    assert_raises(
        ShapeError,
        "rank_correlation: a and b must have one shape; got (2, 2) and (3,)",
        lambda: rank_correlation(a, np.ones(3)),
    )


# ---------------------------------------------------------------------------------------------- saturation


def test_focus_of_known_weights():
    attention = Attention(2, 2, "dot")
    rng = np.random.default_rng(0)
    memory = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[-1.0, 0.0]], [[0.0, -1.0]]])
    query = np.array([[[0.0, 0.0]], [[500.0, 0.0]]])
    context, _, trace = attention.forward(query, memory)
    focus = attention_focus(trace)
    assert focus.passed is None
    assert focus.entropy[:, 0] == pytest.approx([np.log(4), 0], rel=1e-14)
    assert focus.effective[:, 0] == pytest.approx([4, 1], rel=1e-14)
    assert (focus.largest[1, 0], focus.saturated) == (1, 0.5)
    attention.backward(trace, rng.normal(size=context.shape))
    after = attention_focus(trace)
    assert 0.01 < after.passed[0, 0] <= 1
    assert after.passed[1, 0] < 1e-200, "a saturated softmax passes nothing"
    assert "passed" in repr(after)


def test_the_bound_of_a_softmax():
    rng = np.random.default_rng(0)
    attention = Attention(3, 3, "dot")
    query, memory = rng.normal(size=(50, 4, 3)) * np.geomspace(0.1, 30, 50)[:, None, None], rng.normal(size=(6, 4, 3))
    context, alpha, trace = attention.forward(query, memory)
    attention.backward(trace, rng.normal(size=context.shape))
    passed, spread = np.abs(trace.dscore).sum(axis=2), np.ptp(trace.dalpha, axis=2)
    bound = 2 * (1 - alpha.max(axis=2)) * spread
    assert np.all(passed <= bound + 4 * EPS * spread)
    assert np.mean(passed > 0.3 * bound) > 0.3, "the bound is no far one"


def test_nothing_to_attend_to_has_no_focus():
    attention = Attention(2, 2, "dot")
    _, _, trace = attention.forward(np.ones((3, 2, 2)), np.ones((4, 2, 2)), [4, 0])
    focus = attention_focus(trace)
    assert np.isnan(focus.entropy[:, 1]).all()
    assert focus.entropy[:, 0] == pytest.approx(np.log(4), rel=1e-14)
    message = "attention_focus: trace must have alpha, (T, N, S); got dict"
    assert_raises(DTypeError, message, lambda: attention_focus({}))


# ---------------------------------------------------------------------------------------------- Jacobians


def decoded(kind, seed=0, **options):
    rng = np.random.default_rng(seed)
    decoder = kind(2, 4, rng=1, **options)
    M = decoder.memory_size
    given = {"values": rng.normal(size=(6, 3, M))}
    if decoder.score == "keys":
        given["keys"] = rng.normal(size=(6, 3, 4))
    return decoder, decoder.forward(rng.normal(size=(7, 3, 2)), given=given)[2]


def test_attention_adds_the_covariance_of_the_memory():
    """J_t = D (W_hh + W_ch Cov), with Cov symmetric and positive semidefinite."""
    decoder, trace = decoded(AttentionRNN)
    whole, attention = attention_jacobians(decoder, trace)
    alpha, context, values = trace.alpha, trace.context, trace.layers["l0"].given["values"]
    moved = values[None] - context[:, :, None]
    covariance = np.einsum("tns,tnsi,tnsj->tnij", alpha, moved, moved)
    assert np.linalg.eigvalsh(covariance).min() > -1e-14
    slope = 1 - trace.h[1:, :, :, None] ** 2
    expected = slope * (decoder.params["weight_hh_l0"] + decoder.params["weight_ch_l0"] @ covariance)
    assert np.abs(whole - expected).max() <= 8 * EPS * np.abs(expected).max()
    assert np.abs(attention - slope * (decoder.params["weight_ch_l0"] @ covariance)).max() <= 8 * EPS


@pytest.mark.parametrize("kind", [AttentionGRU, AttentionLSTM, with_attention(LSTM)], ids=["GRU", "LSTM", "keys"])
def test_without_its_term_the_jacobian_is_that_of_fixed_contexts(kind):
    options = {"score": "keys", "memory_size": 5} if kind is with_attention(LSTM) else {}
    decoder, trace = decoded(kind, **options)
    whole, attention = attention_jacobians(decoder, trace)
    plain = {AttentionGRU: GRU}.get(kind, LSTM)(2 + decoder.memory_size, 4, rng=0)
    weight = np.concatenate([decoder.params["weight_ih_l0"], decoder.params["weight_ch_l0"]], axis=1)
    for name in plain.params:
        plain.params[name] = weight if name == "weight_ih_l0" else decoder.params[name]
    _, _, fixed = plain.forward(np.concatenate([trace.x, trace.context], axis=2))
    expected = state_jacobians(plain, fixed).array
    assert np.abs(whole - attention - expected).max() <= 32 * EPS * np.abs(expected).max()
    assert np.abs(attention).max() > 1e-3


def test_the_spectrum_with_and_without_attention():
    decoder, trace = decoded(AttentionRNN)
    whole, attention = attention_jacobians(decoder, trace)
    found = spectrum(whole)
    logs = np.array([np.linalg.slogdet(J)[1] for J in whole]).mean(axis=0)
    assert found.sum(axis=1) == pytest.approx(logs, rel=1e-12), "the exponents add up to the volume's"
    assert np.all(np.diff(found, axis=1) <= 0)
    assert not np.allclose(found, spectrum(whole - attention), rtol=1e-3)
    product = functools.reduce(lambda P, J: J @ P, whole[:, 0], np.eye(4))
    largest = np.log(np.linalg.norm(product, 2)) / len(whole)
    assert abs(found[0, 0] - largest) < 1, "one exponent of few steps is near that of the norm"
    assert_raises(
        ShapeError,
        "spectrum: jacobians must have shape (T, N, S, S) with T >= 1; got (3, 3)",
        lambda: spectrum(np.eye(3)),
    )


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"input_feeding": True}, "attention before the cell and a product score, 'dot' or 'keys'"),
        ({"gate": "scalar"}, "no gate, through which the state acts as well"),
    ],
)
def test_what_the_jacobians_refuse(options, rule):
    decoder, trace = decoded(AttentionGRU, **options)
    message = f"attention_jacobians: layer must have {rule}; got {decoder!r}"
    assert_raises(OptionError, message, lambda: attention_jacobians(decoder, trace))


# ---------------------------------------------------------------------------------------------- the table, by path


def asks_nothing(dscore_t, keys, dquery):
    """B1 without the state: attention is no way back."""


@pytest.mark.parametrize(
    ("kind", "options", "paths"),
    [
        (AttentionRNN, {}, ("leak", "a", "attention")),
        (AttentionLSTM, {}, ("h", "c", "attention")),
        (AttentionLSTM, {"zoneout": 0.3}, ("h", "c", "attention")),
        (AttentionGRU, {}, ("leak", "reset", "update", "candidate", "attention")),
        (AttentionGRU, {"recurrent_dropout": 0.4}, ("leak", "reset", "update", "candidate", "attention")),
    ],
)
def test_attention_is_a_path_of_its_own(kind, options, paths):
    decoder, rng = kind(2, 4, **options, rng=1), np.random.default_rng(0)
    given = {"values": rng.normal(size=(5, 2, 4))}
    output, _, trace = decoder.forward(rng.normal(size=(6, 2, 2)), lengths=(6, 4), given=given)
    doutput = rng.normal(size=output.shape)
    whole = decoder.backward(trace, doutput).grads
    split = decompose(decoder, trace, doutput).by_path()
    assert split.paths == paths
    for name in whole:
        shares = [split.gradient(route, name) for route in split.routes]
        assert np.abs(sum(shares) - whole[name]).max() <= 16 * EPS * np.abs(whole[name]).max()
    assert any(np.abs(split.gradient("only attention", name)).max() > 1e-4 for name in whole)
    # Without it: what backward gives where B1 says nothing to the state.
    decoder.cell = planted(decoder.cell, attention.product_backward, asks_nothing)
    cut = decoder.backward(trace, doutput).grads
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_ch_l0"):
        found = split.without("attention", name)
        assert np.abs(found - cut[name]).max() <= 16 * EPS * np.abs(cut[name]).max()
        assert np.abs(found - whole[name]).max() > 1e-3 * np.abs(whole[name]).max()
