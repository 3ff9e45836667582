"""Nets that read digits: what they are trained on, what comes out, what they say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from rnn_numpy.errors import DataError, DTypeError, OptionError
from rnn_numpy.experiments.digits import DigitsExperiment, DigitsOptions, DigitsResult
from rnn_numpy.experiments.experiment import open_experiment, run_experiment
from rnn_numpy.tasks import digits

SMALL = {"hidden": 8, "updates": 6, "batch": 4, "seeds": 2, "seed": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DigitsExperiment, DigitsResult]:
    folder = tmp_path_factory.mktemp("digits") / "run"
    experiment = DigitsExperiment(DigitsOptions(**SMALL))
    return folder, experiment, run_experiment(experiment, folder)


def test_what_comes_out(trained: tuple[Path, DigitsExperiment, DigitsResult]) -> None:
    folder, experiment, result = trained
    assert {path.name for path in folder.iterdir()} == {"config.json", "seed-3.npz", "seed-4.npz", "numbers.json"}
    _, _, test = digits.load_digits().split()
    assert result.probabilities.shape == (2, 397, 10)
    assert np.abs(result.probabilities.sum(axis=2) - 1).max() < 1e-15
    logits, _ = experiment.models["seed 4"](test.images.swapaxes(0, 1).astype(np.float32))
    read = logits.argmax(axis=1)
    assert result.accuracies[1] == (read == test.labels).mean()
    assert result.confusion.sum() == 2 * 397
    assert result.confusion.sum(axis=1).tolist() == (2 * np.bincount(test.labels)).tolist()
    assert np.trace(result.confusion) == round(397 * sum(result.accuracies))
    assert len(result.misread) == 397 - round(397 * result.accuracies[0])
    number, label, taken_for, share = result.misread[0]
    assert label == test.labels[number] != taken_for
    assert share == result.probabilities[0, number].max()
    numbers = json.loads((folder / "numbers.json").read_text(), parse_constant=pytest.fail)
    assert numbers["options"] == asdict(experiment.options)
    assert numbers["result"]["accuracies"] == result.accuracies
    assert list(numbers["result"]["baselines"]) == ["most frequent digit", "nearest class mean", "3 nearest neighbours"]
    assert [training["updates"] for training in numbers["trainings"]] == [6, 6]


def test_it_learns(tmp_path: Path) -> None:
    options = DigitsOptions(hidden=24, updates=200, directions=1, noise=0.0)
    result = run_experiment(DigitsExperiment(options), tmp_path / "run")
    assert result.accuracies[0] > 4 * result.baselines["most frequent digit"]


def test_batches() -> None:
    plain = DigitsExperiment(DigitsOptions(batch=50, moved=0.0, noise=0.0))
    training_part = digits.load_digits().split()[0]
    x, labels = next(plain.trainings()[0].training.batches)
    assert x.shape == (8, 50, 8) and x.dtype == np.float32
    known = {
        image.astype(np.float32).tobytes(): label for image, label in zip(*vars(training_part).values(), strict=True)
    }
    assert [known[x[:, n].tobytes()] for n in range(50)] == labels.tolist()
    moved, noisy = (
        next(DigitsExperiment(DigitsOptions(batch=50, **options)).trainings()[0].training.batches)[0]
        for options in ({"moved": 1.0, "noise": 0.0}, {"moved": 0.0, "noise": 0.1})
    )
    # Of each nine one is not moved; what is moved loses at most a frame of pixels.
    same = sum(moved[:, n].tobytes() in known for n in range(50))
    assert 0 < same < 20
    assert 0.09 < np.std(noisy - x) < 0.11


def test_models() -> None:
    experiment = DigitsExperiment(DigitsOptions("lstm", 5, layers=2, directions=1, dropout=0.25, seeds=2))
    first, second = experiment.models.values()
    assert repr(first.rnn).startswith("LSTM(8, 5, num_layers=2, dropout=0.25")
    assert not np.array_equal(first.params.flat, second.params.flat)
    again = DigitsExperiment(experiment.options).models["seed 0"]
    assert np.array_equal(again.params.flat, first.params.flat)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cell": "elman"}, OptionError, "cell must be one of 'rnn-tanh', 'rnn-relu', 'lstm', 'gru'; got 'elman'"),
        ({"directions": 3}, OptionError, "directions must be one of 1, 2; got 3"),
        ({"hidden": 0}, OptionError, "hidden must be at least 1; got 0"),
        ({"updates": 1.5}, DTypeError, "updates must be an integer; got float 1.5"),
        ({"seed": -1}, OptionError, "seed must be at least 0; got -1"),
        ({"lr": 0.0}, OptionError, "lr must be greater than 0; got 0.0"),
        ({"noise": -1.0}, OptionError, "noise must be at least 0; got -1.0"),
        ({"moved": 1.5}, OptionError, r"moved must be in \[0, 1\]; got 1.5"),
    ],
)
def test_impossible_options(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^DigitsOptions: {message}$"):
        DigitsOptions(**options)


# Predicting ---------------------------------------------------------------------------------------------------------


def test_predictions(trained: tuple[Path, DigitsExperiment, DigitsResult], tmp_path: Path) -> None:
    folder, _, result = trained
    experiment = open_experiment(folder, {"digits": DigitsExperiment}, for_prediction=True)
    _, _, test = digits.load_digits().split()
    said = 100 * result.probabilities[0]
    paths = [str(tmp_path / "one.npy"), str(tmp_path / "two.csv")]
    np.save(paths[0], 16 * test.images[5])
    np.savetxt(paths[1], 16 * test.images[5:7].reshape(2, 64), delimiter=",")
    lines = experiment.predict(["5", *paths]).splitlines()
    assert lines[0] == "read  probability  next         image"
    first, second = np.argsort(-said[5], kind="stable")[:2]
    row = f"   {first}  {said[5, first]:9.1f} %  {second} {said[5, second]:7.1f} %  "
    verdict = "" if first == test.labels[5] else f", which is a {test.labels[5]}"
    assert lines[1] == f"{row}test digit 5{verdict}"
    assert lines[2] == f"{row}{paths[0]}"
    assert lines[3] == f"{row}{paths[1]}, image 1"
    assert lines[4].endswith(f"{paths[1]}, image 2")
    assert len(lines) == 5


def test_all_test_digits(trained: tuple[Path, DigitsExperiment, DigitsResult]) -> None:
    _, experiment, result = trained
    lines = experiment.predict([]).splitlines()
    right = round(397 * result.accuracies[0])
    assert lines[0] == f"{right} of 397 test digits are read right: {100 * right / 397:.1f} %."
    assert len(lines) == 1 + len(result.misread)
    number, label, read, share = result.misread[-1]
    assert lines[-1] == f"test digit {number:3} is a {label}, read as {read} with a probability of {100 * share:.1f} %"


def test_what_cannot_be_read(trained: tuple[Path, DigitsExperiment, DigitsResult]) -> None:
    for given, message in {
        "397": "^397: test digits have the numbers 0 to 396; an image is a file .csv or .npy$",
        "-1": "^-1: test digits have the numbers 0 to 396; an image is a file .csv or .npy$",
        "no.npy": "^no.npy: No such file or directory$",
    }.items():
        with pytest.raises(DataError, match=message):
            trained[1].predict(["3", given])
