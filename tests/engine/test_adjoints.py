"""Stacks of adjoints: each column against the same step run by itself, and the ways back against their sum."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.engine.adjoints import Adjoints, direct_gradients, step_number, steps_of
from rnn_numpy.errors import DTypeError, OptionError

EPS = np.finfo(float).eps
T, N, H = 6, 3, 4
EVERYTHING = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.2}
LAYERS = [
    (RNN, {}),
    (RNN, EVERYTHING),
    (LSTM, {"proj_size": 2}),
    (LSTM, EVERYTHING),
    (GRU, {}),
    (GRU, EVERYTHING),
    (GRU, {"reset": "before", **EVERYTHING}),
    (PeepholeLSTM, {}),
    (LayerNormLSTM, {"epsilon": 0.3}),
]


def recorded(kind, options):
    rng = np.random.default_rng(2)
    layer = kind(3, H, rng=0, **options)
    output, _, trace = layer.forward(rng.normal(size=(T, N, 3)), lengths=[3, 6, 2])
    return layer, trace, rng.normal(size=output.shape)


@pytest.mark.parametrize("losses", [None, (1, 4)], ids=["all losses", "two losses"])
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_a_stack_is_many_single_steps(kind, options, losses):
    layer, trace, doutput = recorded(kind, options)
    direct, _ = direct_gradients(layer, trace, doutput, None, "test")
    for name, steps in steps_of("test", layer, trace, None).items():
        current: dict[int, np.ndarray] = {}
        visited = []
        for step, chosen in Adjoints(steps).carry(direct[name], losses):
            k, n = step.k, step.count[0]
            rows = np.arange(n)
            visited.append(k)
            assert np.isin(chosen, losses or range(T)).all() and (n == steps.alive[k].sum())
            for column, t in enumerate(chosen.tolist()):
                whole = current.get(t, np.zeros((N, steps.S)))
                whole = direct[name][k] if t == k else whole
                pulled = steps.vjp(np.full(n, k), rows, whole[:n])
                found = np.concatenate([before[:, column] for before in step.before], axis=1)
                scale = np.abs(pulled.dstates).max(initial=0.0)
                np.testing.assert_allclose(found, pulled.dstates, rtol=0, atol=16 * EPS * scale)
                da = step.gradient("da_t")[:, column]
                np.testing.assert_allclose(da, pulled.da, rtol=0, atol=16 * EPS * np.abs(pulled.da).max(initial=0.0))
                carried = np.zeros((N, steps.S))
                carried[:n] = pulled.dstates
                current[t] = carried
        order = list(range(T)) if steps.direction.reverse else list(range(T))[::-1]
        begins = 0 if losses is None else min(order.index(t) for t in losses)
        assert visited == order[begins:]


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_the_ways_back_add_up(kind, options):
    layer, trace, doutput = recorded(kind, options)
    direct, _ = direct_gradients(layer, trace, doutput, None, "test")
    for name, steps in steps_of("test", layer, trace, None).items():
        apart, together = Adjoints(steps, apart=True), Adjoints(steps)
        for k in together.order:
            found, expected = apart.new(k, 1), together.new(k, 1)
            for step in (found, expected):
                for after, part in zip(step.after, steps.split(direct[name][k]), strict=True):
                    after[:, 0] = part[: len(after)]
            apart.run(found)
            together.run(expected)
            ways = apart.paths(found)
            assert len(ways) == len(apart.path_names)
            for i, before in enumerate(expected.before):
                total = sum(way[i] for way in ways)
                np.testing.assert_allclose(total, before, rtol=0, atol=16 * EPS * np.abs(before).max(initial=0.0))


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_what_enters_at_all_steps_is_what_backward_gets(kind, options):
    """Carried backward together, it is the gradient of the initial states of every layer."""
    layer, trace, doutput = recorded(kind, options)
    direct, late = direct_gradients(layer, trace, doutput, None, "test")
    back = late.result
    np.testing.assert_array_equal(back.dx, layer.backward(trace, doutput).dx)
    unsort = trace.edge.batch.unsort
    for row, (name, steps) in enumerate(steps_of("test", layer, trace, None).items()):
        initial = np.zeros((N, steps.S))
        for step, _ in Adjoints(steps).carry(direct[name]):
            n = step.count[0]
            sums = np.concatenate([before.sum(axis=1) for before in step.before], axis=1)
            enters = np.ones(n, bool)
            if steps.direction.reverse:  # each sequence has its initial state behind its own last step
                enters = steps.batch.lengths[:n] == step.k + 1
            elif step.k > 0:
                continue
            initial[:n][enters] = sums[enters]
        states = [getattr(back, f"d{state}_0")[row] for state in steps.cell.states]
        expected = np.concatenate(states, axis=1)
        allowed = (200 if kind is LayerNormLSTM else 64) * EPS * np.abs(expected).max()
        np.testing.assert_allclose(initial[unsort], expected, rtol=0, atol=allowed)


def test_until():
    layer, trace, doutput = recorded(RNN, {})
    direct, _ = direct_gradients(layer, trace, doutput, None, "test")
    adjoints = Adjoints(steps_of("test", layer, trace, "l0")["l0"])
    assert [step.k for step, _ in adjoints.carry(direct["l0"], [4], 2)] == [4, 3, 2]


def test_step_numbers():
    assert step_number("f", "t", np.int64(3), 0, 3) == 3
    with pytest.raises(OptionError, match=r"^f: t must be in \[0, 3\] \(three\); got 4$"):
        step_number("f", "t", 4, 0, 3, "three")
    with pytest.raises(DTypeError, match=r"^f: t must be an integer; got float 1.0$"):
        step_number("f", "t", 1.0, 0, 3)
    with pytest.raises(DTypeError, match=r"^f: t must be an integer; got the bool True$"):
        step_number("f", "t", True, 0, 3)
