"""Dates as people write them, to ISO 8601: "fr samedi 5 mars 1994" to "1994-03-05".

The formats are real, the dates are drawn: Unicode's CLDR, which `babel` brings (extra `babel`), has four formats of
each language and country, from "3/5/94" to "Saturday, March 5, 1994". A source begins with its locale, as "en_US" and a
space, without which "3/5/94" is a day of March or of May. Years go from 1950 to 2049, so that two digits name one. CLDR
changes: another version of babel may write another text.

The order of a date's parts changes from source to target, and a month may be a word: attention has to look for what
comes next, and a baseline that replaces symbol by symbol has no use. The one here copies: 15 % of the dates are wrong.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import OptionError
from rnn_numpy.tasks.pairs import PairTask, SymbolVocabulary

FORMATS = ("short", "medium", "long", "full")
FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
LOCALES = ("de", "el", "en_GB", "en_US", "es", "fr", "it", "ja", "nl", "pl", "ru", "tr")


@dataclass(frozen=True)
class DateFormats(PairTask):
    """Dates in the formats of several locales, and in that of ISO; see the module.

    Parameters
    ----------
    locales : tuple of str
        As babel names them.
    count : int
        How many dates are drawn, each in a locale and format that are drawn too; what comes twice is there once.
    seed : int
        Of these draws.

    Raises
    ------
    MissingExtraError
        babel is not installed.
    OptionError
        babel does not know a locale.

    Examples
    --------
    >>> task = DateFormats(("en_US", "fr"), count=1000)
    >>> task.write(datetime.date(1994, 3, 5), "fr", "full")
    'fr samedi 5 mars 1994'
    >>> source = task.sources["test"][0]
    >>> source, "".join(task.answers[source][0])
    ('fr 5 juil. 2043', '2043-07-05')
    """

    locales: tuple[str, ...] = LOCALES
    count: int = 20_000
    seed: int = 0
    target_vocabulary: ClassVar[SymbolVocabulary] = SymbolVocabulary("0123456789-")
    goal: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        where = "DateFormats"
        object.__setattr__(self, "locales", tuple(self.locales))
        if not self.locales:
            raise OptionError(f"{where}: locales must have at least one locale")
        arguments.positive_int(where, "count", self.count)
        arguments.step_count(where, "seed", self.seed)

    @cached_property
    def _babel(self) -> tuple[Any, Mapping[str, Any]]:
        """What formats a date, and the locales by their names."""
        babel = optional_import("babel", "a date in other languages", "babel")
        dates = optional_import("babel.dates", "a date in other languages", "babel")
        known = {}
        for name in self.locales:
            try:
                known[name] = babel.Locale.parse(name)
            except (babel.UnknownLocaleError, ValueError, TypeError):
                raise OptionError(f"DateFormats: locales must be known to babel; {name!r} is not") from None
        return dates.format_date, known

    def write(self, date: datetime.date, locale: str, form: str) -> str:
        """Return a date in the format "short", "medium", "long" or "full" of a locale, the locale before it."""
        where = "DateFormats.write"
        arguments.one_of(where, "locale", locale, self.locales)
        arguments.one_of(where, "form", form, FORMATS)
        format_date, locales = self._babel
        return f"{locale} {format_date(date, form, locale=locales[locale])}"

    @cached_property
    def answers(self) -> Mapping[str, Sequence[tuple[str, ...]]]:
        """The date that each text names."""
        rng = np.random.default_rng(self.seed)
        days = rng.integers((LAST - FIRST).days + 1, size=self.count)
        locales, forms = (rng.integers(size, size=self.count) for size in (len(self.locales), len(FORMATS)))
        found = {}
        for day, locale, form in zip(days.tolist(), locales, forms, strict=True):
            date = FIRST + datetime.timedelta(day)
            found[self.write(date, self.locales[locale], FORMATS[form])] = (tuple(date.isoformat()),)
        return found

    @cached_property
    def source_vocabulary(self) -> SymbolVocabulary:
        """The characters of all sources, in the order of their code points."""
        return SymbolVocabulary(sorted(set().union(*self.answers)))

    @cached_property
    def _copies(self) -> Mapping[str, list[int | str]]:
        """Of each skeleton, a source with its digits struck out: where each character of the date is copied from, or
        what it always is; whatever is right most often in the part to train on, the first place of equals."""
        alike: dict[str, list[str]] = {}
        for source in self.sources["train"]:
            alike.setdefault(_skeleton(source), []).append(source)
        rules = {}
        for skeleton, sources in alike.items():
            read = np.array([list(source) for source in sources])
            asked = np.array([self.answers[source][0] for source in sources])
            rules[skeleton] = [_copy(read, column) for column in asked.T]
        return rules

    def baseline_answers(self, sources: Sequence[str]) -> list[tuple[str, ...]]:
        """Answer by the rule of the source's skeleton: which digits are copied, and what is constant.

        Of a skeleton that is not in the part to train on, nothing is said.
        """
        return [
            tuple(source[rule] if isinstance(rule, int) else rule for rule in self._copies.get(_skeleton(source), []))
            for source in sources
        ]


def _skeleton(source: str) -> str:
    return "".join("#" if character.isdecimal() else character for character in source)


def _copy(read: NDArray[np.str_], asked: NDArray[np.str_]) -> int | str:
    """Return the column of `read` (n, length) that is most often what is asked (n,), or the most frequent of these."""
    constant, count = Counter(asked.tolist()).most_common(1)[0]
    same = (read == asked[:, None]).sum(axis=0)
    place = int(same.argmax())
    return place if same[place] >= count else constant
