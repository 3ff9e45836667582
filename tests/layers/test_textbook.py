"""The lecture's functions against the engine, the complex step of their own forward passes, and golden numbers."""

import ast
import inspect

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, cross_entropy_loss
from rnn_numpy.checks import assert_grad_close, complex_step
from rnn_numpy.layers import textbook

# Of each kind: the layer, its options, the functions, and how many arrays a state has.
KINDS = {
    "RNN": (RNN, {}, textbook.rnn_forward, textbook.rnn_backward, 1),
    "LSTM": (LSTM, {}, textbook.lstm_forward, textbook.lstm_backward, 2),
    "GRU": (GRU, {}, textbook.gru_forward, textbook.gru_backward, 1),
    "GRU before": (GRU, {"reset": "before"}, textbook.gru_before_forward, textbook.gru_before_backward, 1),
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)

# T, N, D, H
SIZES = [(1, 1, 1, 1), (2, 1, 3, 2), (7, 3, 2, 5), (40, 4, 6, 16), (25, 9, 1, 33)]
DATA = ("exists", "target")  # arguments without a gradient
WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def drawn(kind, T, N, D, H):
    """Return a layer, x and initial states, and what a loss says to output and to final states."""
    layer_kind, options, _, _, states = KINDS[kind]
    rng = np.random.default_rng([T, N, D, H])
    layer = layer_kind(D, H, **options, rng=rng)
    x, doutput = rng.normal(size=(T, N, D)), rng.normal(size=(T, N, H))
    initial, dfinal = (tuple(rng.normal(size=(N, H)) for _ in range(states)) for _ in range(2))
    return layer, x, initial, doutput, dfinal


def run(kind, arguments, doutput, dfinal):
    """Return the states, T+1 rows each, and the gradients of all arguments, as the textbook computes them."""
    _, _, forward, backward, states = KINDS[kind]
    recorded = forward(*arguments)
    recorded = recorded if isinstance(recorded, tuple) else (recorded,)
    x, weights = arguments[0], arguments[1 + states : 3 + states]
    return recorded[:states], backward(doutput, *dfinal, x, *recorded, *weights)


def engines(states):
    """Return states (N, H) as the layers have them."""
    rows = tuple(state[None] for state in states)
    return rows if len(rows) > 1 else rows[0]


@EACH_KIND
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_states_and_gradients_are_the_engines(kind, sizes):
    layer, x, initial, doutput, dfinal = drawn(kind, *sizes)
    states, gradients = run(kind, (x, *initial, *(layer.params[name] for name in WEIGHTS)), doutput, dfinal)
    output, finals, trace = layer.forward(x, engines(initial))
    back = layer.backward(trace, doutput, engines(dfinal))
    finals = finals if isinstance(finals, tuple) else (finals,)
    assert_grad_close("output", output, states[0][1:], 1e-13)
    for name, state, final in zip(layer.cell.states, states, finals, strict=True):
        assert_grad_close(f"{name}_n", final[0], state[-1], 1e-13)
    engine = [back.dx, *(getattr(back, f"d{name}_0")[0] for name in layer.cell.states)]
    engine += [back.grads[name] for name in WEIGHTS]
    for name, ours, theirs in zip(inspect.signature(KINDS[kind][2]).parameters, gradients, engine, strict=True):
        assert_grad_close(f"d{name}", theirs, ours, 1e-13)


@EACH_KIND
def test_without_initial_state_and_without_a_word_on_the_last(kind):
    layer, x, initial, doutput, _ = drawn(kind, 5, 2, 3, 4)
    zeros = [np.zeros_like(state) for state in initial]
    states, gradients = run(kind, (x, *zeros, *(layer.params[name] for name in WEIGHTS)), doutput, [0] * len(zeros))
    output, _, trace = layer.forward(x)
    back = layer.backward(trace, doutput)
    assert_grad_close("output", output, states[0][1:], 1e-13)
    assert_grad_close("dx", back.dx, gradients[0], 1e-13)
    assert_grad_close("db_hh", back.grads["bias_hh_l0"], gradients[-1], 1e-13)


def assert_gradients_are_complex_steps(forward, arguments, loss, gradients):
    """Raise unless each gradient is the derivative of `loss(*forward(...))` by its argument, entry by entry."""

    def of_point(point):
        recorded = forward(**{**arguments, **point})
        return loss(*(recorded if isinstance(recorded, tuple) else (recorded,)))

    point = {name: array for name, array in arguments.items() if name not in DATA}
    for (name, expected), gradient in zip(complex_step(of_point, point).items(), gradients, strict=True):
        assert_grad_close(f"d{name}", gradient, expected, 1e-13)


@EACH_KIND
@pytest.mark.parametrize("sizes", SIZES[:3], ids=str)
def test_gradients_are_complex_steps_of_the_forward_function(kind, sizes):
    layer, x, initial, doutput, dfinal = drawn(kind, *sizes)
    values = (x, *initial, *(layer.params[name] for name in WEIGHTS))

    def loss(*recorded):
        ends = sum(np.sum(dstate * state[-1]) for dstate, state in zip(dfinal, recorded, strict=False))
        return np.sum(doutput * recorded[0][1:]) + ends

    _, gradients = run(kind, values, doutput, dfinal)
    forward = KINDS[kind][2]
    arguments = dict(zip(inspect.signature(forward).parameters, values, strict=True))
    assert_gradients_are_complex_steps(forward, arguments, loss, gradients)


# ---------------------------------------------------------------------------------------------- attention


def test_an_attention_steps_gradients_are_complex_steps():
    rng = np.random.default_rng(0)
    S, N, M = 4, 3, 2
    query, dcontext = rng.normal(size=(N, M)), rng.normal(size=(N, 5))
    keys, values = rng.normal(size=(S, N, M)), rng.normal(size=(S, N, 5))
    exists = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    alpha, context = textbook.attend_forward(query, keys, values, exists)
    assert np.array_equal(alpha != 0, exists)
    np.testing.assert_allclose(alpha.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(context, np.einsum("ns,snm->nm", alpha, values), rtol=1e-14)
    assert_gradients_are_complex_steps(
        textbook.attend_forward,
        {"query": query, "keys": keys, "values": values, "exists": exists},
        lambda alpha, context: np.sum(dcontext * context),
        textbook.attend_backward(dcontext, alpha, query, keys, values),
    )


def test_a_sequence_without_memory_has_context_zero_and_gets_no_gradient():
    rng = np.random.default_rng(0)
    query, memory = rng.normal(size=(2, 3)), rng.normal(size=(4, 2, 3))
    exists = np.array([[True] * 4, [False] * 4])
    alpha, context = textbook.attend_forward(query, memory, memory, exists)
    gradients = textbook.attend_backward(np.ones((2, 3)), alpha, query, memory, memory)
    assert np.all(alpha[0] > 0)
    for array in (alpha, context, gradients[0], *(gradient.swapaxes(0, 1) for gradient in gradients[1:])):
        assert np.any(array[0])
        assert not np.any(array[1])


def test_scores_of_any_size_and_masked_ones_of_any_size():
    values = np.array([[[1.0]], [[2.0]], [[3.0]]])
    keys, exists = np.array([[[1e4]], [[1e4 + 1]], [[3e4]]]), np.array([[True, True, False]])
    alpha, context = textbook.attend_forward(np.ones((1, 1)), keys, values, exists)
    share = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(alpha, [[1 - share, share, 0]], rtol=1e-12)
    np.testing.assert_allclose(context, [[1 + share]], rtol=1e-12)
    alpha, _ = textbook.attend_forward(np.ones((1, 1)), -keys, values, exists)
    np.testing.assert_allclose(alpha, [[share, 1 - share, 0]], rtol=1e-12)


def decoders_arguments(T, N, S, D, H, M=None):
    """Return arguments of `decoder_forward`, keys and values apart; values of M units."""
    rng, M = np.random.default_rng([T, N, S, D, H]), M or H
    shapes = {"x": (T, N, D), "h_0": (N, H), "keys": (S, N, H), "values": (S, N, M)}
    weights = {"W_ih": (H, D), "W_hh": (H, H), "W_ch": (H, M), "b_ih": (H,), "b_hh": (H,)}
    exists = np.arange(S) < rng.integers(1, S + 1, size=(N, 1))
    data = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return {
        **data,
        "exists": exists,
        **{name: rng.uniform(-1, 1, shape) / np.sqrt(H) for name, shape in weights.items()},
    }


def decoders_gradients(a, doutput, dh_n):
    h, alpha, context = textbook.decoder_forward(**a)
    memory, weights = (a["keys"], a["values"]), (a["W_ih"], a["W_hh"], a["W_ch"])
    return textbook.decoder_backward(doutput, dh_n, a["x"], h, alpha, context, *memory, *weights)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 2, 4, 2, 3), (6, 3, 5, 1, 4, 2)], ids=str)
def test_the_decoders_gradients_are_complex_steps(sizes):
    arguments = decoders_arguments(*sizes)
    rng = np.random.default_rng(1)
    doutput, dh_n = rng.normal(size=(*arguments["x"].shape[:2], sizes[4])), rng.normal(size=arguments["h_0"].shape)
    assert_gradients_are_complex_steps(
        textbook.decoder_forward,
        arguments,
        lambda h, alpha, context: np.sum(doutput * h[1:]) + np.sum(dh_n * h[-1]),
        decoders_gradients(arguments, doutput, dh_n),
    )


def test_a_decoder_that_reads_no_context_is_an_rnn():
    arguments = decoders_arguments(6, 3, 5, 2, 4)
    arguments["W_ch"] = np.zeros_like(arguments["W_ch"])
    doutput = np.random.default_rng(1).normal(size=(6, 3, 4))
    plain = [arguments[name] for name in ("x", "h_0", "W_ih", "W_hh", "b_ih", "b_hh")]
    states, expected = run("RNN", plain, doutput, [0])
    h, _, _ = textbook.decoder_forward(**arguments)
    assert_grad_close("h", h, states[0], 1e-15)
    dx, dh_0, dkeys, dvalues, dW_ih, dW_hh, dW_ch, *db = decoders_gradients(arguments, doutput, 0)
    assert not np.any(dkeys)
    assert not np.any(dvalues)
    assert np.any(dW_ch)
    for ours, theirs in zip((dx, dh_0, dW_ih, dW_hh, *db), expected, strict=True):
        assert_grad_close("gradient", ours, theirs, 1e-14)


# The lecture's decoder on small numbers, in float64, made with torch 2.13.0 and its automatic differentiation.
GOLDEN = {
    "alpha": [
        [[0.180705307983, 0.669470665459, 0.149824026558], [0.535904733818, 0.464095266182, 0]],
        [[0.386439345318, 0.082885908149, 0.530674746533], [0.333603881517, 0.666396118483, 0]],
    ],
    "h_1": [[-0.334930469395, 0.637889608122], [-0.306631523024, -0.064972180975]],
    "dW_hh": [[0.209693549370, 0.626674342005], [-0.025480886793, 0.141545921670]],
    "dW_ch": [[0.433504670493, 0.393469557178], [0.239190504466, 0.153341951063]],
    "db": [-0.289740627030, -0.224092296103],
    "dh_0": [[0.010780312872, -0.095376272010], [-0.006016351156, 0.142712114564]],
    "dvalues": [
        [[0.039430810997, 0.075717283347], [0.054970442264, 0.078813293068]],
        [[-0.055154874754, -0.166161791749], [-0.019433182041, 0.036814890354]],
        [[0.066366050581, 0.155307821790], [0, 0]],
    ],
    "of it by the weights": [
        [[0.011187546636, 0.015538510112], [0.017915516395, 0.010275667279]],
        [[-0.034623504917, -0.071424460513], [-0.017915516395, -0.010275667279]],
        [[0.023435958281, 0.055885950401], [0, 0]],
    ],
    "loss": -0.268253858604,
}


def test_golden_numbers_of_the_lectures_decoder():
    def fill(shape, k, scale=0.5):
        return scale * np.sin(1 + k + 0.7 * np.arange(np.prod(shape))).reshape(shape)

    T, N, S, D, H = 2, 2, 3, 1, 2
    W_ih, W_hh, W_ch, b = fill((H, D), 0), fill((H, H), 1), fill((H, H), 2), fill((H,), 3)
    values, x, h_0, r = fill((S, N, H), 4, 1.0), fill((T, N, D), 5), fill((N, H), 6), fill((T, N, H), 7)
    exists = np.array([[True, True, True], [True, True, False]])
    h, alpha, context = textbook.decoder_forward(x, h_0, values, values, exists, W_ih, W_hh, W_ch, b, 0)
    back = textbook.decoder_backward(r, 0, x, h, alpha, context, values, values, W_ih, W_hh, W_ch)
    _, dh_0, dkeys, dvalues, _, dW_hh, dW_ch, db, _ = back
    found = {
        "alpha": alpha,
        "h_1": h[2],
        "dW_hh": dW_hh,
        "dW_ch": dW_ch,
        "db": db,
        "dh_0": dh_0,
        "dvalues": dkeys + dvalues,
        "of it by the weights": dkeys,
        "loss": np.sum(r * h[1:]),
    }
    assert list(found) == list(GOLDEN)
    for name, array in found.items():
        assert_grad_close(name, array, np.array(GOLDEN[name]), 1e-11)


# ------------------------------------------------------------------------------------------------- the file


def test_it_reads_as_a_lecture():
    """It imports NumPy alone, has no classes, and each function fits on a screen."""
    tree = ast.parse(inspect.getsource(textbook))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imported] == ["import numpy as np"]
    assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(functions) == 16
    assert max(node.end_lineno - node.lineno + 1 for node in functions) <= 25
    assert max(node.end_lineno for node in functions) <= 240
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert keywords.isdisjoint({"out"})


def test_backward_gives_a_gradient_for_each_argument_of_forward():
    """What the docstrings list is what the arguments are called."""
    for name, forward in vars(textbook).items():
        if name.endswith("_forward"):
            backward = getattr(textbook, name.replace("_forward", "_backward"))
            expected = [f"d{argument}" for argument in inspect.signature(forward).parameters if argument not in DATA]
            assert backward.__doc__ == f"Return {', '.join(expected)}."


# ---------------------------------------------------------------------------------------------- the loss


def test_the_cross_entropys_gradient_is_a_complex_step_and_the_losses():
    rng = np.random.default_rng(0)
    logits, target = 3 * rng.normal(size=(5, 4)), rng.integers(4, size=5)
    value, dlogits = cross_entropy_loss(logits, target)
    assert textbook.cross_entropy_forward(logits, target) == pytest.approx(value, rel=1e-14)
    assert_grad_close("dlogits", dlogits, textbook.cross_entropy_backward(logits, target), 1e-14)
    assert_gradients_are_complex_steps(
        textbook.cross_entropy_forward,
        {"logits": logits, "target": target},
        lambda loss: loss,
        [textbook.cross_entropy_backward(logits, target)],
    )


def test_logits_of_any_size():
    logits = np.array([[1e4, 0.0, -1e4]])
    assert textbook.cross_entropy_forward(logits, np.array([1])) == 1e4
    assert np.array_equal(textbook.cross_entropy_backward(logits, np.array([1])), [[1.0, -1.0, 0.0]])
