"""Rules of replacement: how pairs are divided, against every way to divide them, and which window answers."""

import itertools

import numpy as np
import pytest

from rnn_numpy.errors import OptionError
from rnn_numpy.tasks import Rules, padded


def pairs(*both):
    """Return the arguments of Rules for pairs of strings; a is 3, b is 4, and so on."""
    return [
        part
        for texts in zip(*both, strict=True)
        for part in padded([[ord(letter) - ord("a") + 3 for letter in text] for text in texts])
    ]


def replaced(rules, *sources):
    ids, lengths = padded([[ord(letter) - ord("a") + 3 for letter in source] for source in sources])
    return ["".join(chr(i - 3 + ord("a")) for i in answer) for answer in rules(ids, lengths)]


def divisions(source, target, longest):
    """Yield all ways to divide a target among the symbols of its source."""
    for sizes in itertools.product(range(longest + 1), repeat=len(source)):
        if sum(sizes) == len(target):
            ends = np.cumsum(sizes)
            yield tuple(target[end - size : end] for end, size in zip(ends, sizes, strict=True))


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_the_cheapest_way_is_found(longest):
    rng = np.random.default_rng(longest)
    both = []
    while len(both) < 12:
        source, target = ("".join(rng.choice(list("abc"), size)) for size in rng.integers(1, 6, 2))
        if len(target) <= longest * len(source):
            both.append((source, target))
    arrays = pairs(*both)
    rules = Rules(*arrays, longest)
    cost = rng.random((rules.base, rules.written**longest))

    def number(text):
        return sum((ord(letter) - ord("a") + 3) * rules.written**k for k, letter in enumerate(reversed(text)))

    found = rules._divide(*arrays, cost)
    for n, (source, target) in enumerate(both):
        prices = {
            way: sum(cost[ord(letter) - ord("a") + 3, number(part)] for letter, part in zip(source, way, strict=True))
            for way in divisions(source, target, longest)
        }
        numbers = found[: len(source), n].tolist()  # of one of several ways that cost the same, perhaps
        price = next(prices[way] for way in prices if [number(part) for part in way] == numbers)
        assert price == pytest.approx(min(prices.values()), rel=1e-14)
        assert not found[len(source) :, n].any()


def test_letters_that_write_nothing_one_and_two_are_told_apart():
    # a writes x, b xy, c nothing.
    words = ["".join(word) for size in (1, 2, 3, 4) for word in itertools.product("abc", repeat=size)]
    both = [(word, word.replace("b", "xy").replace("a", "x").replace("c", "")) for word in words if word.strip("c")]
    rules = Rules(*pairs(*both), 2, neighbours=0)
    assert rules.divided == len(both)
    assert replaced(rules, "abcabc", "bbb", "c") == ["xxyxxy", "xyxyxy", ""]


def test_the_widest_window_that_is_known_answers():
    # a writes x, but y before b, and z where c stands two to its right.
    both = [("a", "x"), ("ad", "xd"), ("dad", "dxd"), ("ab", "yb"), ("dab", "dyb"), ("abc", "zbc"), ("dabc", "dzbc")]
    rules = Rules(*pairs(*both), 1, neighbours=2)
    assert replaced(rules, "a", "ab", "abc", "bab", "dabc", "dabd") == ["x", "yb", "zbc", "bxb", "dzbc", "dybd"]
    assert replaced(Rules(*pairs(*both), 1, neighbours=0), "ab", "abc") == ["xb", "xbc"]


def test_symbols_that_were_never_seen_write_nothing():
    rules = Rules(*pairs(("ab", "xy"), ("b", "y")), 1)
    assert replaced(rules, "azb", "z") == ["xy", ""]
    # In the base 5, a = 3 and f = 8 would be the number of b = 4 and a = 3.
    assert replaced(Rules(*pairs(("ba", "yx")), 1), "af", "ba") == ["x", "yx"]


def test_of_equally_frequent_ones_the_first_is_kept():
    assert replaced(Rules(*pairs(("a", "z"), ("a", "y")), 1), "a") == ["y"]


def test_pairs_that_cannot_be_divided_are_left_out():
    rules = Rules(*pairs(("a", "x"), ("a", "zzz"), ("a", "zzz")), 2)
    assert rules.divided == 1 and replaced(rules, "a") == ["x"]


def test_windows_that_have_no_number_are_refused():
    with pytest.raises(OptionError, match="neighbours and longest are too large for 4 source symbols"):
        Rules(*pairs(("a", "x")), 1, neighbours=40)
