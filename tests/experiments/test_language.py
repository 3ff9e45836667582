"""The experiment on a language model: what it trains and measures, on a small text; its page and its figure."""

import json
import math

import numpy as np
import pytest
from figures import assert_readable

from rnn_numpy import GRU, LSTM, cross_entropy_loss
from rnn_numpy.errors import DataError, OptionError
from rnn_numpy.experiments.experiment import open_experiment, run_experiment
from rnn_numpy.experiments.language import LanguageExperiment, LanguageOptions, truncations
from rnn_numpy.models import LanguageModel
from rnn_numpy.report.language_page import language_report
from rnn_numpy.report.plots.language import language_figure
from rnn_numpy.tasks.text import load_text

SMALL = {"embedding": 3, "hidden": 6, "batch": 4, "length": 8, "updates": 6, "characters": 20}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "help.txt"
    path.write_text(load_text("pydoc")[:6000], encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def ended(source, tmp_path_factory):
    """A run that has ended: its folder and its result."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, run_experiment(LanguageExperiment(LanguageOptions(data=source, **SMALL)), folder)


def test_what_is_measured_is_what_the_kept_net_does(source, ended):
    folder, result = ended
    experiment = open_experiment(folder, {"lm": LanguageExperiment}, for_prediction=True)
    test = experiment.vocabulary.encode(load_text(source)[5700:])
    logits, _ = experiment.model(test[:-1])
    assert result.bits == pytest.approx(float(cross_entropy_loss(logits, test[1:])[0]) / math.log(2), rel=1e-5)
    assert result.lengths == (5400, 300, 300) and result.size == len(set(load_text(source)))
    assert result.run.best.best == pytest.approx(experiment.model.bits(experiment.ids.valid), rel=1e-6)
    assert result.run.training.number == 6 and len(result.sample) == 20
    # Windows of one epoch hang together: the state of each is that in which the one before has ended.
    assert result.run.training.stateful and result.run.training.carried.shape == (1, 4, 6)
    assert experiment.predict(["The "]) == f"The {result.sample}\n" == experiment.predict([])
    both = experiment.predict(["class", ""])
    assert both.startswith("class") and both.count("\n") >= 2
    with pytest.raises(DataError, match=r"'a~é': '~' \(U\+007E\) at position 1 is none of the"):
        experiment.predict(["a~é"])


def test_numbers_page_and_figure(ended):
    folder, result = ended
    numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
    assert numbers["result"]["bits"] == result.bits
    assert numbers["result"]["truncations"]["lengths"] == list(result.truncations.lengths)
    report = language_report(result)
    assert max(map(len, report.splitlines())) <= 100
    for wanted in ("unigram", "Kneser-Ney 6", "xz -9e", "gru of 6  <", "Truncation: on a stretch of 32 characters"):
        assert wanted in report, wanted
    net = next(line for line in report.splitlines() if line.startswith("gru of 6"))
    assert f"{result.bits:.3f}" in net and f"{2**result.bits:.1f}" in net
    figure = language_figure(result)
    assert_readable(figure)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines[f"test: {result.bits:.3f}"].get_ydata() == [result.bits]
    assert sum(text.get_text().startswith("Kneser-Ney") for text in figure.axes[0].texts) >= 6


@pytest.mark.parametrize(
    "options",
    [{"cell": "lstm", "layers": 2, "dropout": 0.5}, {"cell": "rnn-tanh", "embedding": 6, "tied": True, "jitter": 2.0}],
    ids=["deep", "tied"],
)
def test_options(source, tmp_path, options):
    options = LanguageOptions(**{"data": source, **SMALL, **options})
    result = run_experiment(LanguageExperiment(options), tmp_path / "run")
    model = result.run.training.model
    assert model.tied == options.tied and model.rnn.num_layers == options.layers
    assert (result.run.training.history["count"][:5] == 32).all() == (not options.jitter)
    again = run_experiment(LanguageExperiment(options), tmp_path / "two")
    assert again.bits == result.bits and again.sample == result.sample
    assert language_report(result).count("\n") > 20


def test_refusals(source):
    with pytest.raises(OptionError, match="tied needs an embedding as wide as the state; got embedding 3 and hidden 6"):
        LanguageOptions(**SMALL, tied=True)
    with pytest.raises(OptionError, match="cell must be one of"):
        LanguageOptions(cell="transformer")
    with pytest.raises(DataError, match="the training part has 5400 characters, too few for 100 columns"):
        LanguageExperiment(LanguageOptions(data=source, batch=100)).trainings()
    with pytest.raises(DataError, match="neither pydoc nor a file"):
        LanguageExperiment(LanguageOptions(data="shakespeare")).trainings()


@pytest.mark.parametrize("layer", [GRU(3, 4, rng=0), LSTM(3, 4, 2, rng=0)], ids=["gru", "lstm-2"])
def test_truncation_is_what_training_in_windows_leaves_out(layer):
    """The table of (t, k) against passes through windows, states carried, as training makes them."""
    model = LanguageModel(layer, 5, rng=0)
    model.params.flat *= 2
    K, T, last = 4, 16, f"_l{layer.num_layers - 1}"

    def gradient(ids, targets, state):
        _, grads, _ = model.loss_and_grads(ids, targets, h_0=state)
        return np.concatenate([array.ravel() for name, array in grads.items() if name.endswith(last)])

    ids = np.random.default_rng(0).integers(5, size=2 * T + 1)
    cuts = truncations(model, ids, K)
    assert (cuts.steps, cuts.lengths) == (T, (1, 2, 4, 8))
    assert all(later < earlier for earlier, later in zip(cuts.window, cuts.window[1:], strict=False))
    _, begun = model(ids[:T])
    whole = gradient(ids[T:-1], ids[T + 1 :], begun)
    for length, claimed, angle in zip(cuts.lengths, cuts.chunk, cuts.angles, strict=True):
        parts, state = [], begun
        for start in range(T, 2 * T, length):
            window = ids[start : start + length]
            parts.append(gradient(window, ids[start + 1 : start + length + 1], state) * (length / T))
            _, state = model(window, state)
        cut = sum(parts)
        assert claimed == pytest.approx(np.linalg.norm(cut - whole) / np.linalg.norm(whole), rel=1e-9)
        cosine = cut @ whole / np.linalg.norm(cut) / np.linalg.norm(whole)
        assert math.cos(math.radians(angle)) == pytest.approx(cosine, rel=1e-12)


def test_a_short_test_part_has_a_short_stretch():
    model = LanguageModel(GRU(3, 4, rng=0), 5, rng=0)
    cuts = truncations(model, np.arange(50) % 5, 64)
    assert cuts.steps == 24 and cuts.lengths == (1, 2, 4, 8, 16)


def test_a_training_that_diverges_says_so(source, tmp_path):
    experiment = LanguageExperiment(LanguageOptions(data=source, **{**SMALL, "lr": 1e30, "decay": 0.0}))
    with np.errstate(all="ignore"):
        result = run_experiment(experiment, tmp_path / "run")
    assert (
        math.isnan(result.bits)
        and json.loads((tmp_path / "run" / "numbers.json").read_text())["result"]["bits"] is None
    )
    assert "The training has diverged" in language_report(result)
    assert_readable(language_figure(result))
    with np.errstate(all="ignore"), pytest.raises(DataError, match="its training has diverged"):
        experiment.predict([])
