"""Right gradients where numbers end, of every layer and model that `gradcheck` takes: the draws of the harder fuzz.

Weights of up to 100 times the usual next to gains of 10, inputs and losses of up to 1e8 and down to below the smallest
number, memories of any size, both precisions, all options. A draw is a target, its arguments and its named arguments.
"""

import numpy as np

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.layers.attention_decoder import AttentionDecoder, with_attention
from rnn_numpy.layers.embedding import Embedding
from rnn_numpy.layers.general import Activation, GeneralGRU, GeneralLSTM, GeneralRNN
from rnn_numpy.models import (
    Captioner,
    EncoderDecoder,
    Forecaster,
    LanguageModel,
    Rollout,
    Seq2SeqForecaster,
    SequenceModel,
)

ACTIVATIONS = [
    *("tanh", "sigmoid", "relu", "leaky_relu", "hard_sigmoid", "elu", "softsign", "softplus"),
    *(Activation("thresholded_relu", 0.5), Activation("affine", 0.7, 0.1), Activation("scaled_tanh", 1.7, 0.6)),
    *(Activation("tanh", clip=0.5), Activation("relu", clip=2.0), Activation("hard_sigmoid", 0.25, 0.5)),
]

# Each with the options that it has beyond all layers', of a generator.
PLAIN = {
    "rnn": (RNN, lambda rng: {}),
    "relu": (RNN, lambda rng: {"nonlinearity": "relu"}),
    "lstm": (LSTM, lambda rng: {}),
    "projected": (LSTM, lambda rng: {"proj_size": 2}),
    "gru": (GRU, lambda rng: {}),
    "gru before": (GRU, lambda rng: {"reset": "before"}),
    "peephole": (PeepholeLSTM, lambda rng: {}),
    "layer norm": (LayerNormLSTM, lambda rng: {"epsilon": float(rng.choice([1e-5, 1e-3, 0.3]))}),
    "general rnn": (GeneralRNN, lambda rng: {"activations": activations(rng, 1)}),
    "general lstm": (
        GeneralLSTM,
        lambda rng: {"activations": activations(rng, 3), "coupled": coin(rng), "peepholes": coin(rng)},
    ),
    "general gru": (
        GeneralGRU,
        lambda rng: {"activations": activations(rng, 2), "reset": str(rng.choice(["after", "before"]))},
    ),
}
ATTENTIVE = ["rnn", "lstm", "gru", "gru before", "peephole", "layer norm", "general lstm"]
MODELS = ["embedding", "language", "sequence", "forecaster", "rollout", "seq2seq", "encoder decoder", "captioner"]
# Of sixteen draws eleven are of the plain layers, three of attention, two of the models.
EVERY = [*PLAIN, "attention", "attention", "attention", "model", "model"]

SCALES = [60, 100, 10, 1, 1e-3]
SIZES = {
    "float64": [1, 1e-8, 1e-10, 1e-20, 1e-100, 1e-200, 1e-300, 1e-310, 1e3, 1e8],
    "float32": [1, 1e-8, 1e-10, 1e-20, 1e-38, 1e-42, 1e3],
}
LOSSES = {"float64": [1, 1, 0, 1e-200, 1e-300, 1e200], "float32": [1, 1, 0, 1e-20, 1e-38, 1e10]}


def coin(rng, chance=0.5):
    return bool(rng.random() < chance)


def activations(rng, count):
    return [ACTIVATIONS[k] for k in rng.integers(len(ACTIVATIONS), size=count)]


def hard(seed):
    """Return (target, arguments, named arguments) of one draw."""
    rng, kind = np.random.default_rng([77, seed]), EVERY[seed % len(EVERY)]
    if kind == "model":
        return drawn_model(rng, MODELS[seed // len(EVERY) % len(MODELS)])
    attentive = kind == "attention"
    title = ATTENTIVE[seed // len(EVERY) % len(ATTENTIVE)] if attentive else kind
    made, own = PLAIN[title]
    H, D, N = int(rng.integers(3, 6)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    T, layers = int(rng.choice([1, 2, 3, 5, 8, 13])), 1 if attentive else int(rng.integers(1, 4))
    how = attention(rng, H) if attentive else {}
    states = bool({"input_feeding", "coverage", "location"} & set(how))
    options = {
        **own(rng), **how, "num_layers": layers, "bias": coin(rng, 0.7), "batch_first": coin(rng, 0.3),
        "bidirectional": not attentive and coin(rng),
        "dropout": 0.4 if layers > 1 and coin(rng, 0.3) else 0.0,
        "recurrent_dropout": 0.3 if not states and coin(rng, 0.25) else 0.0,
        "zoneout": 0.2 if not states and coin(rng, 0.2) else 0.0,
        "dtype": np.float32 if coin(rng) else np.float64,
    }  # fmt: skip
    layer = (with_attention(made) if attentive else made)(D, H, **options, rng=int(rng.integers(1000)))
    layer.params.flat[:] *= rng.choice(SCALES)
    x, given = inputs(rng, layer, T, N)
    if attentive:
        given["given"] = memory(rng, layer, N)
    return layer, (x,), given


def inputs(rng, layer, T, N):
    """Draw x, lengths, initial states and what the loss says."""
    precision, first = layer.dtype.name, layer.batch_first
    shape = (N, T, layer.input_size) if first else (T, N, layer.input_size)
    x = (rng.normal(size=shape) * rng.choice(SIZES[precision])).astype(layer.dtype)
    given = {"lengths": rng.integers(1, T + 1, size=N)} if coin(rng, 0.4) else {}
    if set(layer.cell.states) - {"h", "c"}:
        return x, given
    rows, widths = layer.num_layers * layer.num_directions, [layer.width(state) for state in layer.cell.states]

    def states(size):
        with np.errstate(all="ignore"):
            drawn = tuple((size * rng.normal(size=(rows, N, width))).astype(layer.dtype) for width in widths)
        return drawn if len(drawn) > 1 else drawn[0]

    if coin(rng, 0.4):
        given["h_0"] = states(rng.choice([1, 1e-8, 1e-30, 30]))
    if coin(rng):
        size = rng.choice(LOSSES[precision])
        doutput = size * rng.normal(size=(*shape[:2], layer.num_directions * layer.output_width))
        if coin(rng):
            doutput *= np.arange(doutput.size).reshape(doutput.shape) == doutput.size // 2
        given |= {"doutput": doutput.astype(layer.dtype), "dh_n": states(size)}
    return x, given


# ------------------------------------------------------------------------------------------------ attention


def attention(rng, H):
    """Draw the options of attention that go together."""
    score = str(rng.choice(["dot", "keys", "additive"]))
    how = {"score": score, "memory_size": H if score == "dot" else int(rng.integers(1, 5))}
    if coin(rng, 0.4):
        how["gate"] = str(rng.choice(["scalar", "vector"]))
    if coin(rng, 0.3):
        how["input_feeding"] = True
    if score == "additive":
        how["attention_size"] = int(rng.integers(1, 5))
        if coin(rng):
            how["coverage"] = True
        if coin(rng):
            how["location"] = (2, 3)
    return how


def memory(rng, layer, N):
    """Draw what the layer attends to, some of it masked, of one sequence perhaps all."""
    S, first = int(rng.integers(1, 6)), layer.batch_first
    size = rng.choice([1, 1, 1e-8, 1e-30, 10, 1e3])
    widths = {"values": layer.memory_size}
    if layer.score != "dot":
        widths["keys"] = layer.hidden_size if layer.score == "keys" else layer.attention_size
    given = {
        name: (size * rng.normal(size=(N, S, width) if first else (S, N, width))).astype(layer.dtype)
        for name, width in widths.items()
    }
    return given | ({"exists": rng.random((N, S)) < 0.7} if coin(rng) else {})


# ------------------------------------------------------------------------------------------------ models


def recurrent(rng, D, H, dtype, **options):
    """Draw a plain layer for a model."""
    kind, own = PLAIN[list(PLAIN)[rng.integers(len(PLAIN))]]
    return kind(D, H, **own(rng), **options, dtype=dtype, rng=int(rng.integers(1000)))


def drawn_model(rng, title):
    """Draw a model, or an embedding, and its batch."""
    dtype, seed = np.float32 if coin(rng) else np.float64, int(rng.integers(1000))
    T, N, V = int(rng.choice([1, 2, 4])), int(rng.integers(1, 4)), 6
    x = (rng.normal(size=(T, N, 2)) * rng.choice(SIZES[np.dtype(dtype).name])).astype(dtype)
    ids, target_ids = rng.integers(3, V, size=(T, N)), rng.integers(3, V, size=(T, N))
    lengths = rng.integers(1, T + 1, size=N)
    named = {}
    if title == "embedding":
        model, batch = Embedding(V, 3, padding_idx=0 if coin(rng) else None, dtype=dtype, rng=seed), (ids - 3,)
    elif title == "language":
        tied = coin(rng)
        layer = recurrent(rng, 2 if tied else 3, 3, dtype, num_layers=int(rng.integers(1, 3)))
        tied = tied and getattr(layer, "output_width", 3) == 2
        model, batch = LanguageModel(layer, V, tied=tied, rng=seed), (ids, target_ids)
    elif title == "sequence":
        layer = recurrent(rng, 2, 3, dtype, bidirectional=coin(rng))
        loss, reads = str(rng.choice(["mse", "cross_entropy"])), str(rng.choice(["last", "all"]))
        outputs = rng.normal(size=(T, N, 3)).astype(dtype) if loss == "mse" else rng.integers(3, size=(T, N))
        model = SequenceModel(layer, 3, reads=reads, loss=loss, rng=seed)
        batch = (x, outputs if reads == "all" else outputs[0], None, lengths if reads == "last" else None)
        batch = batch if batch[3] is not None else batch[:2]
    elif title in ("forecaster", "rollout"):
        model = Forecaster(2, 3, cell=str(rng.choice(["rnn-tanh", "lstm", "gru"])), dtype=dtype, rng=seed)
        target = rng.normal(size=(T, N, 2)).astype(dtype)
        model = Rollout(model, str(rng.choice(["free", "teacher"]))) if title == "rollout" else model
        batch = (x, target)
    elif title == "seq2seq":
        kind, own = PLAIN[list(PLAIN)[rng.integers(len(PLAIN))]]
        options = own(rng)
        encoder, decoder = (kind(2, 3, **options, dtype=dtype, rng=seed + k) for k in range(2))
        model = Seq2SeqForecaster(encoder, decoder, mode=str(rng.choice(["free", "teacher"])), rng=seed)
        batch = (x, rng.normal(size=(2, N, 2)).astype(dtype))
    elif title == "encoder decoder":
        model, batch = translating(rng, dtype, seed, ids, lengths, V)
    else:
        model = Captioner(2, T, V, hidden_size=3, memory_size=2, embedding_dim=2, cell=str(rng.choice(["lstm", "gru"])),
                          gate=str(rng.choice(["scalar", "vector"])), penalty=float(rng.choice([0, 1])), dtype=dtype,
                          rng=seed)  # fmt: skip
        batch = (x, *written(rng, N, V))
    model.params.flat[:] *= rng.choice(SCALES)
    if hasattr(model, "freeze_padding"):
        model.freeze_padding()
    return model, batch, named


def written(rng, N, V):
    """Draw sentences that end in EOS, and their lengths."""
    lengths = rng.integers(1, 4, size=N)
    words = rng.integers(3, V, size=(3, N))
    words[lengths - 1, np.arange(N)] = 2
    return words, lengths


def translating(rng, dtype, seed, ids, lengths, V):
    bidirectional, before = coin(rng), coin(rng)
    encoder = recurrent(rng, 2, 3, dtype, bidirectional=bidirectional)
    width = encoder.num_directions * encoder.output_width
    options = {"order": "before"} if before else {"input_feeding": coin(rng)}
    score = str(rng.choice(["general", "additive"]))
    cell = str(rng.choice(["rnn", "lstm", "gru", "peephole"]))
    decoder = AttentionDecoder(2, 3, width, cell=cell, score=score, **options, dtype=dtype, rng=seed)
    model = EncoderDecoder(
        encoder, decoder, V, V, bridge=str(rng.choice(["tanh", "linear", "mean", "zeros"])), rng=seed
    )
    return model, (ids, lengths, *written(rng, len(lengths), V))
