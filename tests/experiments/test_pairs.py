"""Nets that answer sequences, and nets that describe pictures: what comes of a training, and what is said and drawn."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_numpy.cli import main
from rnn_numpy.errors import DataError, OptionError, RNNNumpyError
from rnn_numpy.experiments.captions import CaptionExperiment, CaptionOptions, CaptionResult
from rnn_numpy.experiments.experiment import Interrupted, open_experiment, run_experiment
from rnn_numpy.experiments.pairs import (
    DateExperiment,
    G2PExperiment,
    PairExperiment,
    PairOptions,
    PairResult,
    RomanExperiment,
    RomanOptions,
)
from rnn_numpy.report.captions_page import caption_report
from rnn_numpy.report.pairs_page import flow_report, pair_report
from rnn_numpy.report.plots.captions import caption_figure, plot_glimpse
from rnn_numpy.report.plots.pairs import flow_figure, pair_figure
from rnn_numpy.report.plots.style import save_figure
from rnn_numpy.tasks.g2p import CMUDict
from rnn_numpy.tasks.roman import RomanNumerals

KNOWN = {kind.name: kind for kind in (G2PExperiment, RomanExperiment, DateExperiment, CaptionExperiment)}
SMALL: dict[str, Any] = {"hidden": 16, "embedding": 8, "updates": 60, "batch": 16, "test": 20, "beam": 2}


@pytest.fixture(scope="module")
def roman(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RomanExperiment, PairResult]:
    folder = tmp_path_factory.mktemp("roman") / "run"
    experiment = RomanExperiment(RomanOptions(**SMALL))
    return folder, experiment, run_experiment(experiment, folder)


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CaptionExperiment, CaptionResult]:
    folder = tmp_path_factory.mktemp("captions") / "run"
    options = CaptionOptions(hidden=8, memory=6, embedding=4, updates=6, batch=4, penalty=0.1)
    experiment = CaptionExperiment(options)
    return folder, experiment, run_experiment(experiment, folder)


def numbers_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "numbers.json").read_text(), parse_constant=pytest.fail)
    return found


def drawn(figure: Any, path: Path) -> None:
    with path.open("wb") as file:
        save_figure(figure, file, ".png")
    assert path.read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------ sequences


def test_what_comes_of_pairs(roman: tuple[Path, RomanExperiment, PairResult], tmp_path: Path) -> None:
    folder, experiment, result = roman
    assert list(result.scores) == ["rules", "greedy", "beam of 2"]
    assert result.sources == 20
    sources = [experiment.task.sources["test"][i] for i in np.linspace(0, 394, 20).astype(int)]
    assert result.scores["rules"] == experiment.task.score(sources, experiment.task.baseline_answers(sources))
    greedy = [experiment.answer(source).said for source in sources]  # a beam of 2
    assert result.scores["beam of 2"] == experiment.task.score(sources, greedy)
    numbers = numbers_of(folder)
    assert numbers["options"] == asdict(experiment.options)
    assert numbers["result"]["scores"]["greedy"]["wrong"] == result.scores["greedy"].wrong
    text = pair_report(result)
    assert max(map(len, text.splitlines())) <= 100
    assert "20 test sources" in text and "The goal, 1 % wrong, is missed." in text
    drawn(pair_figure(result), tmp_path / "figure.png")


def test_the_trained_net_answers_without_the_data(
    roman: tuple[Path, RomanExperiment, PairResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, experiment, _ = roman
    monkeypatch.setattr(RomanNumerals, "answers", property(lambda self: pytest.fail("the data is not needed")))
    again = open_experiment(folder, KNOWN, for_prediction=True)
    said = again.predict(["1994", "3"])
    assert said == experiment.predict(["1994", "3"])
    lines = said.splitlines()
    assert lines[0].startswith("1994: ")
    assert lines[1].endswith(lines[0].removeprefix("1994: ")), "the best answer comes first"
    shares = [float(line.split()[0]) for line in lines[1:4]]
    assert shares == sorted(shares, reverse=True)
    assert lines[4].split() == ["1", "9", "9", "4"]
    for inputs, words in (([], "say what to answer: numbers from 1 to 3999"), ([""], "an input is empty")):
        with pytest.raises(DataError, match=words):
            again.predict(inputs)
    for other in ("19x", "4000", "0", "-5", "12.5", "1e3", "007", "٣", "9" * 5000):
        with pytest.raises(DataError, match=rf"^{re.escape(other)}: this net answers numbers from 1 to 3999$"):
            again.predict([other])


def test_dates_come_after_their_locale() -> None:
    experiment = DateExperiment(DateExperiment.Options())
    assert experiment.is_asked_for("de 3. Mai 1999") and experiment.is_asked_for("en_US May 3, 1999")
    assert not any(map(experiment.is_asked_for, ("3. Mai 1999", "de", "de Mai", "2024-01-32", "xx 3. Mai 1999")))


def test_a_stopped_training_goes_on_bit_for_bit(
    roman: tuple[Path, RomanExperiment, PairResult], tmp_path: Path
) -> None:
    _, _, result = roman

    def stop(done: int, total: int, what: str) -> None:
        if done == 23:
            raise KeyboardInterrupt

    options = RomanOptions(**SMALL)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        run_experiment(RomanExperiment(options), tmp_path / "run", stop)
    again = run_experiment(RomanExperiment(options), tmp_path / "run", resume=True)
    assert again.scores == result.scores
    assert again.run.training.history["loss"].tolist() == result.run.training.history["loss"].tolist()


def test_the_gradient_of_a_trained_net(roman: tuple[Path, RomanExperiment, PairResult], tmp_path: Path) -> None:
    _, experiment, _ = roman
    flow = experiment.flow()
    assert flow.count == 64
    assert flow.split.residual < 4e-15
    lags = flow.by_lag
    assert all(len(norms) == 4 for norms in lags.values()), "numbers have up to four digits"
    assert np.all(lags["whole"] <= (lags["values"] + lags["weights"] + lags["bridge"]) * (1 + 1e-12))
    text = flow_report(flow)
    assert max(map(len, text.splitlines())) <= 100
    assert "The three add up" in " ".join(text.split())
    json.dumps(flow.to_dict(), allow_nan=False)
    drawn(flow_figure(flow), tmp_path / "flow.png")
    gradients, alpha, read, written = flow.word
    assert gradients.shape == alpha.shape == (len(written), len(read))
    assert 1 <= len(read) <= 4 and written[-1] == "end"


@pytest.mark.parametrize("kind", [G2PExperiment, DateExperiment])
def test_other_tasks(kind: type[PairExperiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind is G2PExperiment:
        some = dict(list(CMUDict().answers.items())[::200])  # of 117 493 words
        monkeypatch.setattr(CMUDict, "answers", property(lambda self: some))
    options = kind.Options(**{**SMALL, "updates": 4, "beam": 1, "test": 3, "order": "before", "score": "additive"})
    result = run_experiment(kind(options), tmp_path / "run")
    assert set(result.scores) == {"rules", "greedy"}
    assert pair_report(result).startswith(f"{kind.name}: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": 7}, "hidden must be even"),
        ({"smoothing": 1.0}, "smoothing must be in [0, 1); got 1.0"),
        ({"score": "cosine"}, "score must be one of 'dot', 'scaled_dot', 'general', 'additive'; got 'cosine'"),
        ({"order": "beside"}, "order must be one of 'before', 'after'; got 'beside'"),
        ({"beam": 0}, "beam must be"),
        ({"lr": 0.0}, "lr must be"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RNNNumpyError) as caught:
        PairOptions(**options)
    assert str(caught.value).startswith("PairOptions: ") and words in str(caught.value)


# ------------------------------------------------------------------------------------------------ pictures


def test_what_comes_of_captions(captions: tuple[Path, CaptionExperiment, CaptionResult], tmp_path: Path) -> None:
    folder, _, result = captions
    assert list(result.scores) == ["most frequent caption", "nearest digit, told the layout", "net"]
    assert len(result.said) == len(result.scenes) == 2000
    assert 0.08 < result.attention.uniform < 0.087
    assert result.scores["nearest digit, told the layout"].digit_words > 0.9
    numbers = numbers_of(folder)
    assert numbers["result"]["attention"]["mass"] == result.attention.mass
    text = caption_report(result)
    assert max(map(len, text.splitlines())) <= 100
    assert "2000 test pictures" in " ".join(text.split()) and "penalty 0.1" in " ".join(text.split())
    drawn(caption_figure(result), tmp_path / "figure.png")
    other = replace(result, said=[("two", "top", "left")] * 2000, alpha=[np.full((4, 25), 0.04)] * 20)
    drawn(caption_figure(other), tmp_path / "figure.png")
    ax = plot_glimpse(np.zeros((30, 30)), np.eye(25)[12])
    assert ax.collections[0].get_offsets().tolist() == [[14.5, 14.5]], "the middle window's centre"


def test_pictures_are_described_by_number(captions: tuple[Path, CaptionExperiment, CaptionResult]) -> None:
    folder, experiment, result = captions
    said = open_experiment(folder, KNOWN, for_prediction=True).predict(["7", "1999"])
    assert said.startswith(f"picture 7: {' '.join(result.said[7])} (")
    assert said.count("looks most at window") == sum(
        len(result.said[n]) + (len(result.said[n]) < 12) for n in (7, 1999)
    )
    for inputs, words in (([], "say which picture"), (["2000"], "2000: test pictures have the numbers 0 to 1999")):
        with pytest.raises(DataError, match=words):
            experiment.predict(inputs)
    with pytest.raises(OptionError, match="CaptionOptions: penalty must be"):
        CaptionOptions(penalty=-1.0)


# ------------------------------------------------------------------------------------------------ the command line


def test_the_command_line_measures_a_trained_net(
    roman: tuple[Path, RomanExperiment, PairResult],
    captions: tuple[Path, CaptionExperiment, CaptionResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gradflow", "--model", str(roman[0])]) == 0
    out = capsys.readouterr().out
    assert out.startswith("roman: how the gradient of the loss gets back to the source of 64 validation pairs")
    assert (tmp_path / "gradflow.png").read_bytes().startswith(b"\x89PNG")
    assert main(["gradflow", "--model", str(captions[0])]) == 2
    error = capsys.readouterr().err
    assert "holds a net of captions; encoder-decoders are those of g2p, roman, dates" in error
    assert error.count("\n") == 1
    assert main(["gradflow", "--model", "nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_line_trains_and_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--hidden", "4", "--embedding", "3", "--updates", "2", "--batch", "4", "--test", "2", "--feeding"]
    assert main(["train", "roman", *small]) == 0
    out = capsys.readouterr().out
    assert out.endswith("To ask it: rnn-numpy predict roman-run\n")
    assert "fed back into the next step" in " ".join(out.split())
    assert main(["predict", "roman-run", "12"]) == 0
    assert capsys.readouterr().out.startswith("12: ")
    assert main(["train", "roman", "--hidden", "3"]) == 2
    assert "hidden must be even" in capsys.readouterr().err
