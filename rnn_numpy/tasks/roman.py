"""Roman numerals: a number from 1 to 3999, digit by digit, to its numeral: 1994 to MCMXCIV.

This direction asks more of a net than the other. A digit stands for nothing until its place is known, which depends on
how many digits follow: a 4 is IV, XL or CD, so that the source must be read to its end, or from it, before the first
letter is written. A 0 writes nothing, an 8 four letters; 1 to 15 letters follow from 1 to 4 digits, and the net must
know where it is and when to stop. Of a numeral, each letter nearly tells by itself what it adds.

There are exact answers to all of it, and little data: 3512 numbers to train on, 92 to validate, 395 to test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from rnn_numpy.core import arguments
from rnn_numpy.errors import OptionError
from rnn_numpy.tasks.pairs import PairTask, SymbolVocabulary

LARGEST = 3999
VALUES = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),
    (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def to_roman(number: int) -> str:
    """Return the Roman numeral of a number, 1 to 3999.

    >>> to_roman(1994), to_roman(3888)
    ('MCMXCIV', 'MMMDCCCLXXXVIII')
    """
    rest = arguments.positive_int("to_roman", "number", number)
    if rest > LARGEST:
        raise OptionError(f"to_roman: number must be at most {LARGEST}; got {number}")
    numeral = ""
    for value, letters in VALUES:
        numeral += letters * (rest // value)
        rest %= value
    return numeral


@dataclass(frozen=True)
class RomanNumerals(PairTask):
    """Numbers and their Roman numerals; see the module.

    Examples
    --------
    >>> task = RomanNumerals()
    >>> {part: len(task.sources[part]) for part in ("train", "valid", "test")}
    {'train': 3512, 'valid': 92, 'test': 395}
    >>> task.answers["1994"]
    (('M', 'C', 'M', 'X', 'C', 'I', 'V'),)
    >>> task.score(["1994", "4"], [tuple("MCMXCIV"), tuple("IIII")])
    PairScore(symbols=0.3333333333333333, wrong=0.5)
    """

    longest_output: ClassVar[int] = 4  # 8, VIII
    source_vocabulary: ClassVar[SymbolVocabulary] = SymbolVocabulary("0123456789")
    target_vocabulary: ClassVar[SymbolVocabulary] = SymbolVocabulary("IVXLCDM")
    goal: ClassVar[float] = 0.01

    @cached_property
    def answers(self) -> Mapping[str, Sequence[tuple[str, ...]]]:
        """The numeral of each number."""
        return {str(number): (tuple(to_roman(number)),) for number in range(1, LARGEST + 1)}
