"""Roman numerals: right ones, the parts of the task, and its baseline."""

import re

import pytest
from messages import assert_raises

from rnn_numpy.errors import OptionError
from rnn_numpy.tasks import RomanNumerals
from rnn_numpy.tasks.roman import to_roman


@pytest.fixture(scope="module")
def task():
    return RomanNumerals()


def value(numeral):
    """Read a numeral: a letter before a larger one is taken off."""
    letters = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}[letter] for letter in numeral]
    return sum(-a if a < b else a for a, b in zip(letters, [*letters[1:], 0], strict=True))


def test_every_numeral_is_the_one_way_to_write_its_number(task):
    canonical = re.compile("M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
    assert len(task.answers) == 3999
    for number, ((numeral),) in task.answers.items():
        assert canonical.fullmatch("".join(numeral)) and value(numeral) == int(number)


def test_what_has_no_numeral():
    assert_raises(OptionError, "to_roman: number must be at least 1; got 0", lambda: to_roman(0))
    assert_raises(OptionError, "to_roman: number must be at most 3999; got 4000", lambda: to_roman(4000))


def test_the_parts_and_the_baseline(task):
    assert {part: len(task.pairs(part)) for part in task.sources} == {"train": 3512, "valid": 92, "test": 395}
    assert task.pairs("train").target_lengths.max() == 16 and task.rules.divided == 3512
    errors, wrong = task.baseline
    assert task.goal < wrong and (round(errors, 3), round(wrong, 3)) == (0.110, 0.299)
    assert RomanNumerals() == task
