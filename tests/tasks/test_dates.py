"""Dates in many formats: that a text names one date, the parts of the task, its baseline; and what is refused."""

import datetime
import sys

import numpy as np
import pytest
from messages import assert_raises

from rnn_numpy.errors import MissingExtraError, OptionError
from rnn_numpy.tasks import DateFormats
from rnn_numpy.tasks.dates import FIRST, FORMATS, LAST, LOCALES, _copy

SMALL = DateFormats(("en_GB", "en_US", "fr"), count=2000, seed=1)


@pytest.fixture(scope="module")
def task():
    return DateFormats()


def test_real_formats():
    date = datetime.date(1994, 3, 5)
    task = DateFormats()
    found = {locale: [task.write(date, locale, form) for form in FORMATS] for locale in ("de", "en_US", "en_GB", "ja")}
    assert found == {
        "de": ["de 05.03.94", "de 05.03.1994", "de 5. März 1994", "de Samstag, 5. März 1994"],
        "en_US": ["en_US 3/5/94", "en_US Mar 5, 1994", "en_US March 5, 1994", "en_US Saturday, March 5, 1994"],
        "en_GB": ["en_GB 05/03/1994", "en_GB 5 Mar 1994", "en_GB 5 March 1994", "en_GB Saturday, 5 March 1994"],
        "ja": ["ja 1994/03/05", "ja 1994/03/05", "ja 1994年3月5日", "ja 1994年3月5日土曜日"],
    }


def test_a_text_names_one_date_of_the_hundred_years():
    """All days, in the shortest format, and in a few locales in all of them."""
    task = DateFormats()
    days = [FIRST + datetime.timedelta(day) for day in range((LAST - FIRST).days + 1)]
    assert (days[0].year, days[-1].year) == (1950, 2049)
    for locale in ("en_US", "de"):
        for form in FORMATS if locale == "en_US" else ["short"]:
            assert len({task.write(day, locale, form) for day in days}) == len(days)


def test_the_drawn_dates(task):
    assert 19_000 < len(task.answers) <= 20_000
    heads = {locale: [source for source in task.answers if source.startswith(f"{locale} ")] for locale in LOCALES}
    assert min(map(len, heads.values())) > 1400
    for locale, sources in heads.items():
        for source in sources[:40]:
            ((answer),) = task.answers[source]
            date = datetime.date.fromisoformat("".join(answer))
            assert source in {task.write(date, locale, form) for form in FORMATS}
    assert DateFormats().answers == task.answers and SMALL.answers != DateFormats(SMALL.locales, 2000, 2).answers
    assert not set(task.sources["train"]) & set(task.sources["test"])


def test_pairs_of_characters():
    pairs = SMALL.pairs("test")
    source, lengths, target, ends = pairs[np.arange(3)]
    for n, text in enumerate(SMALL.sources["test"][:3]):
        assert "".join(SMALL.source_vocabulary.decode(source[: lengths[n], n])) == text
        assert SMALL.target_vocabulary.decode(target[:, n]) == SMALL.answers[text][0]
    assert set(pairs.target_lengths) == {11} and (ends == 11).all()
    with pytest.raises(OptionError, match="'ß' at position 4 is none of the .* symbols of this vocabulary: "):
        SMALL.encode(["fr 3ß"])


def test_the_baseline_copies(task):
    known = [source for source in task.sources["train"] if source.startswith(("en_GB ", "ja "))]
    # Four digits of a year, and of a day and month as many as they have: all there is to copy.
    assert task.score(known, task.baseline_answers(known)).wrong < 0.05
    # Of two digits of a year, half of the centuries are guessed wrong.
    short = [source for source in task.sources["test"] if source.startswith("en_US ") and source.count("/") == 2]
    assert 0.3 < task.score(short, task.baseline_answers(short)).wrong < 0.7
    errors, wrong = task.baseline
    assert 0.02 < errors < 0.1 and task.goal < 0.1 < wrong < 0.2
    assert task.baseline_answers(["fr ??"]) == [()], "of what it has never seen it says nothing"


def test_what_is_copied_and_what_is_constant():
    read = np.array([list("a12"), list("a12"), list("a42")])
    assert [_copy(read, np.array(list(asked))) for asked in ("114", "119", "799", "222")] == [1, 1, "9", 2]
    assert _copy(read[:1], np.array(["2"])) == 2, "seen once, it is copied"


def test_without_babel(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    message = (
        'a date in other languages needs babel, which is not installed; install it with: pip install "rnn_numpy[babel]"'
    )
    assert_raises(MissingExtraError, message, lambda: DateFormats().answers)


@pytest.mark.parametrize("name", ["xx_XX", "not a locale", ""])
def test_locales_that_babel_does_not_know(name):
    message = f"DateFormats: locales must be known to babel; {name!r} is not"
    assert_raises(OptionError, message, lambda: DateFormats((name,)).answers)


def test_what_is_refused():
    assert_raises(OptionError, "DateFormats: locales must have at least one locale", lambda: DateFormats(()))
    assert_raises(OptionError, "DateFormats: count must be at least 1; got 0", lambda: DateFormats(count=0))
    date = datetime.date(2000, 1, 1)
    message = "DateFormats.write: form must be one of 'short', 'medium', 'long', 'full'; got 'iso'"
    assert_raises(OptionError, message, lambda: SMALL.write(date, "fr", "iso"))
    message = "DateFormats.write: locale must be one of 'en_GB', 'en_US', 'fr'; got 'de'"
    assert_raises(OptionError, message, lambda: SMALL.write(date, "de", "full"))
