"""What is said and drawn of nets that read digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnn_numpy.experiments.digits import DigitsOptions, DigitsResult
from rnn_numpy.experiments.experiment import Run
from rnn_numpy.report.digits_page import digits_report, net_name
from rnn_numpy.report.plots.digits import digits_figure
from rnn_numpy.report.plots.style import save_figure
from rnn_numpy.tasks.digits import Digits
from rnn_numpy.training import History


def run(label: str, losses: list[float], values: list[float]) -> Run:
    history = History()
    for number, loss in enumerate(losses, start=1):
        history.add(update=number, epoch=1, loss=loss, count=4, lr=0.1, norm=1.0, seconds=0.0)
    for number, value in enumerate(values, start=1):
        history.add_validation(2 * number, value)
    best: Any = SimpleNamespace(best=min((value for value in values if value == value), default=None))
    training: Any = SimpleNamespace(history=history, number=len(losses))
    return Run(label, training, len(losses), best, None, cpu_seconds=12.4, ended=True)


@pytest.fixture
def result() -> DigitsResult:
    """Two nets of 50 digits: the first takes five threes for eights, the second reads all of them right."""
    labels = np.arange(50) % 10
    said = np.full((2, 50, 10), 0.02)
    said[:, np.arange(50), labels] = 0.82
    threes = labels == 3
    said[0, threes] = 0.02
    said[0, threes, 8] = 0.82
    test = Digits(np.random.default_rng(0).random((50, 8, 8)), labels)
    runs = [run("seed 0", [2.0, 1.0, 0.5, 0.25], [1.5, 0.5]), run("seed 1", [2.0, 1.5, 1.0, 0.5], [0.5, 1.0])]
    return DigitsResult(DigitsOptions(updates=4, seeds=2), test, {"nearest class mean": 0.856}, runs, said)


def test_report(result: DigitsResult) -> None:
    text = digits_report(result)
    assert max(map(len, text.splitlines())) <= 100
    rows = [line.split("  ") for line in text.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["nearest class mean", "85.6 %"] in cells
    assert [" ".join(row) for row in cells if row and row[0].startswith("gru")] == [
        "gru, both directions, seed 0 90.0 % 4 4 12",
        "gru, both directions, seed 1 100.0 % 4 2 12",
    ]
    assert "Mistaken most often, by 2 nets together: 3 read as 8 (5); all mistakes: 5.\n" in text


def test_report_of_a_perfect_net(result: DigitsResult) -> None:
    perfect = replace(result, runs=result.runs[1:], probabilities=result.probabilities[1:])
    assert "\nNo test digit is mistaken.\n" in digits_report(perfect)
    digits_figure(perfect)


def test_names_of_nets() -> None:
    assert net_name(DigitsOptions()) == "gru, both directions"
    assert net_name(DigitsOptions("lstm", layers=2, directions=1)) == "lstm, 2 layers, one direction"


def test_figure(result: DigitsResult, tmp_path: Path) -> None:
    figure = digits_figure(result)
    save_figure(figure, tmp_path / "figure.png", ".png")
    learning, confusion, *images = [ax for part in figure.subfigs for ax in part.axes]
    assert learning.get_yscale() == "log"
    drawn = {line.get_label(): line.get_xydata().tolist() for line in learning.lines}
    assert drawn["training, mean of 1"] == [[0.5, 2.0], [1.5, 1.0], [2.5, 0.5], [3.5, 0.25]]
    assert drawn["validation"] == [[2, 1.5], [4, 0.5]]
    assert drawn["kept"] == [[4, 0.5]]
    numbers = {tuple(text.get_position()): text.get_text() for text in confusion.texts}
    assert numbers[8, 3] == "5" and numbers[3, 3] == "5" and numbers[0, 0] == "10" and len(numbers) == 11
    assert sum(len(ax.images) for ax in images) == 5
    assert images[0].get_title() == "3: 8, 82 %"
    assert np.array_equal(images[0].images[0].get_array(), result.test.images[3])


def test_figure_of_a_net_that_validates_to_nan(result: DigitsResult) -> None:
    lost = replace(result, runs=[run("seed 0", [2.0, 1.0], [np.nan])], probabilities=result.probabilities[:1])
    figure = digits_figure(lost)
    assert "kept" not in [line.get_label() for line in figure.subfigs[0].axes[0].lines]
