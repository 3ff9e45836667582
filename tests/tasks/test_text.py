"""Texts, their vocabulary, and what models without a network say of them."""

import json
import sys

import numpy as np
import pytest

from rnn_numpy.errors import DataError, DTypeError, OptionError, ShapeError
from rnn_numpy.tasks.text import Vocabulary, load_text, split
from rnn_numpy.tasks.text_baselines import KneserNey, added_bits, baselines


@pytest.fixture(scope="module")
def pydoc():
    return load_text("pydoc")


def test_ids_and_characters_are_two_ways_to_say_the_same(pydoc):
    vocabulary = Vocabulary.of(pydoc)
    ids = vocabulary.encode(pydoc)
    assert ids.dtype == np.int64 and (ids.min(), ids.max()) == (0, len(vocabulary) - 1)
    assert vocabulary.decode(ids) == pydoc
    assert Vocabulary(json.loads(json.dumps(vocabulary.characters))) == vocabulary
    odd = Vocabulary("zα\U0001f600\n\x00a")
    assert odd.decode(odd.encode("\x00a\U0001f600α")) == "\x00a\U0001f600α"
    assert odd.encode("zα\U0001f600\n\x00a").tolist() == [0, 1, 2, 3, 4, 5]
    assert odd.encode("").shape == (0,) and odd.decode([]) == "" and len(odd) == 6


def test_what_a_vocabulary_refuses():
    vocabulary = Vocabulary("abc")
    message = r"'é' \(U\+00E9\) at position 3 is none of the 3 characters of this vocabulary"
    with pytest.raises(OptionError, match=message):
        vocabulary.encode("abcéx")
    with pytest.raises(OptionError, match=r"' ' \(U\+0020\) at position 0"):
        vocabulary.encode(" ")
    with pytest.raises(DTypeError, match="text must be a str; got bytes"):
        vocabulary.encode(b"abc")
    with pytest.raises(OptionError, match=r"ids\[1\] must be in \[0, V\) = \[0, 3\); got 3"):
        vocabulary.decode([0, 3])
    with pytest.raises(OptionError, match=r"ids\[0\] must be in .*; got -1"):
        vocabulary.decode([-1])
    with pytest.raises(DTypeError, match="ids must be integers; got dtype float64"):
        vocabulary.decode([0.0])
    with pytest.raises(ShapeError, match=r"ids must have shape \(n,\)"):
        vocabulary.decode([[0]])
    with pytest.raises(OptionError, match="must be different; 'a'"):
        Vocabulary("aba")
    with pytest.raises(OptionError, match="must not be empty"):
        Vocabulary("")
    with pytest.raises(DTypeError, match="must be a str; got list"):
        Vocabulary(["a"])


def test_parts_are_in_the_order_of_the_text(pydoc):
    parts = split(pydoc)
    assert "".join(parts) == pydoc
    assert [round(100 * len(part) / len(pydoc), 2) for part in parts] == [90, 5, 5]
    assert [part.tolist() for part in split(np.arange(20))] == [list(range(18)), [18], [19]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; a text to learn from has at least 1000"),
        (b"\xef\xbb\xbf", "the file is empty; a text to learn from has at least 1000"),
        (b"x" * 999, "999 characters are too few; a text to learn from has at least 1000"),
        (b"x" * 2000 + b"\xff", r"not UTF-8 text \(byte 2001\)"),
        (b"a\x00b" * 100, "300 characters are too few"),
    ],
    ids=["empty", "mark", "short", "bytes", "nul"],
)
def test_files_that_are_no_text(tmp_path, content, message):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_text(str(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_files(tmp_path):
    path = tmp_path / "Text.TXT"
    path.write_bytes("\ufeffone\r\ntwo\rthree\näöü".encode() * 1 + b"." * 1000)
    assert load_text(str(path)).startswith("one\ntwo\nthree\näöü...")
    with pytest.raises(DataError, match="missing.txt: No such file or directory"):
        load_text(str(tmp_path / "missing.txt"))
    with pytest.raises(DataError, match="Is a directory"):
        (tmp_path / "folder.txt").mkdir()
        load_text(str(tmp_path / "folder.txt"))
    with pytest.raises(DataError, match="null"):
        load_text("a\x00.txt")
    for name in ("shakespeare", "", "text.csv"):
        with pytest.raises(DataError, match="neither pydoc nor a file that ends in .txt"):
            load_text(name)


def test_a_python_without_its_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="this Python has no pydoc_data.topics; name a file"):
        load_text("pydoc")


# ------------------------------------------------------------------------------------------------------- Kneser-Ney


def kneser_ney(text, size, context, history, w):
    """The module's formulas by dictionaries, as one writes them down. A history is newest last."""
    if context < 0:
        return 1 / size

    def counted(k):
        runs = {}
        for t in range(k, len(text)):
            runs.setdefault(tuple(text[t - k : t + 1]), []).append(text[t - k - 1] if t > k else None)
        if k == longest:
            return {run: len(before) for run, before in runs.items()}
        return {run: len(set(before) - {None}) for run, before in runs.items()}

    longest = context

    def p(k, h):
        if k < 0:
            return 1 / size
        counts = {run[-1]: c for run, c in counted(k).items() if run[:-1] == tuple(h)}
        below = p(k - 1, h[1:])
        if not sum(counts.values()):
            return below
        kinds = sum(c > 0 for c in counts.values())
        return (max(counts.get(w, 0) - 0.9, 0) + 0.9 * kinds * below) / sum(counts.values())

    return p(min(context, len(history)), list(history[len(history) - context :] if context else []))


def test_probabilities_are_those_of_the_formulas():
    rng = np.random.default_rng(0)
    train, test = rng.integers(4, size=60), rng.integers(5, size=30)  # 4 has never been seen
    for context in range(4):
        model = KneserNey(train, 5, context)
        found = model.probabilities(test)
        for t in range(context, len(test)):
            history = test[t - context : t].tolist()
            expected = kneser_ney(train.tolist(), 5, context, history, test[t])
            assert found[t] == pytest.approx(expected, rel=1e-13)
            assert model.distribution(history)[test[t]] == found[t]
    # A model of long contexts knows all shorter ones.
    for shorter in range(4):
        wanted = KneserNey(train, 5, shorter).probabilities(test)
        np.testing.assert_array_equal(model.probabilities(test, shorter), wanted)


def test_probabilities_sum_to_one(pydoc):
    vocabulary = Vocabulary.of(pydoc)
    model = KneserNey(vocabulary.encode(pydoc[:50_000]), len(vocabulary))
    for context in ("", "t", "the ", "class ", "never seen |~{", "}}}}}}"):
        p = model.distribution(vocabulary.encode(context))
        assert p.min() > 0 and p.sum() == pytest.approx(1, rel=1e-12)


def test_baselines_of_real_text(pydoc):
    """Not the figures, which change with the version of Python, but how they lie."""
    train, _, test = split(pydoc)
    bits = baselines(train, test, Vocabulary.of(pydoc))
    names = ["unigram", *(f"Kneser-Ney {k}" for k in range(1, 7))]
    assert [*bits] == [*names, "gzip -9", "xz -9e"]
    falling = [bits[name] for name in names]
    assert falling == sorted(falling, reverse=True) and 4 < falling[0] < np.log2(len(set(pydoc))) and falling[-1] > 1
    assert bits["xz -9e"] < bits["gzip -9"] < bits["Kneser-Ney 2"]
    counts = np.bincount(Vocabulary.of(pydoc).encode(train), minlength=len(set(pydoc)))
    expected = -np.log2(counts[Vocabulary.of(pydoc).encode(test)] / counts.sum()).mean()
    assert bits["unigram"] == pytest.approx(expected, rel=1e-3)  # but for the discount


def test_a_python_without_lzma(monkeypatch):
    monkeypatch.setitem(sys.modules, "lzma", None)
    assert list(added_bits("a" * 100, "b" * 100)) == ["gzip -9"]


def test_what_kneser_ney_refuses():
    with pytest.raises(OptionError, match="ids must be more than the context, 6; got 3"):
        KneserNey([0, 1, 2], 3)
    with pytest.raises(OptionError, match=r"ids must be in \[0, V\) = \[0, 3\); got 0 to 3"):
        KneserNey([0, 1, 3], 3, 1)
    with pytest.raises(DTypeError, match="ids must be integers"):
        KneserNey([0.0, 1.0], 3, 1)
    with pytest.raises(ShapeError, match=r"ids must have shape \(n,\)"):
        KneserNey([[0, 1]], 3, 1)
    with pytest.raises(OptionError, match="context must be at most 1, that of the model; got 2"):
        KneserNey([0, 1, 2], 3, 1).probabilities([0, 1], 2)
