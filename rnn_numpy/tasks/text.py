"""Real text, character by character: where it comes from, what is held out, and the numbers of its characters.

"pydoc" is CPython's own help on the language, `pydoc_data.topics`: some 465 000 characters of English, tables and code,
which every CPython brings. It differs between versions of Python, so that no figure holds for all of them; it repeats
whole passages, which is why a compressor that remembers them does so well on it (`rnn_numpy.tasks.text_baselines`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DataError, DTypeError, OptionError

Ids = NDArray[np.int64]

SOURCES = ("pydoc",)
LEAST = 1000  # characters of a text: 5 % of it are 50
SHARES = (90, 5, 5)  # of training, validation and test, in per cent, in the order of the text


@dataclass(frozen=True)
class Vocabulary:
    """Characters and their ids, 0 to V - 1.

    Parameters
    ----------
    characters : str
        V different characters, in the order of their ids. It says all there is to say, and JSON can hold it.

    Raises
    ------
    DTypeError, OptionError
        `characters` is no string, empty, or has a character twice.

    Examples
    --------
    >>> vocabulary = Vocabulary.of("hello")
    >>> vocabulary.characters, vocabulary.encode("hole"), vocabulary.decode([1, 0, 2, 2])
    ('ehlo', array([1, 3, 2, 0]), 'hell')
    """

    characters: str

    def __post_init__(self) -> None:
        if not isinstance(self.characters, str):
            raise DTypeError(f"Vocabulary: characters must be a str; got {type(self.characters).__name__}")
        if not self.characters:
            raise OptionError("Vocabulary: characters must not be empty")
        seen: set[str] = set()
        for character in self.characters:
            if character in seen:
                raise OptionError(f"Vocabulary: characters must be different; {_named(character)} is there twice")
            seen.add(character)

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the characters of a text in the order of their code points."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, (n,); OptionError names the first character that has none, and its position."""
        if not isinstance(text, str):
            raise DTypeError(f"Vocabulary.encode: text must be a str; got {type(text).__name__}")
        known, wanted = _code_points(self.characters), _code_points(text)
        order = np.argsort(known)
        found = np.searchsorted(known, wanted, sorter=order)
        ids = order[np.minimum(found, len(known) - 1)]
        unknown = np.flatnonzero(known[ids] != wanted)
        if unknown.size:
            position = int(unknown[0])
            raise OptionError(
                f"Vocabulary.encode: {_named(text[position])} at position {position} is none of the {len(self)} "
                "characters of this vocabulary"
            )
        return ids.astype(np.int64)

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of ids, (n,), each in [0, V)."""
        where, array = "Vocabulary.decode", arguments.as_array("Vocabulary.decode", "ids", ids)
        arguments.shaped(where, "ids", array, "(n,)", (array.size,))
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise DTypeError(f"{where}: ids must be integers; got dtype {array.dtype}")
        wrong = np.flatnonzero((array < 0) | (array >= len(self)))
        if wrong.size:
            position = int(wrong[0])
            raise OptionError(f"{where}: ids[{position}] must be in [0, V) = [0, {len(self)}); got {array[position]}")
        return "".join([self.characters[i] for i in array])


class Parts(NamedTuple):
    """A text cut in three, in its own order."""

    train: Any
    valid: Any
    test: Any


def split(text: Any) -> Parts:
    """Return the first 90 %, the next 5 % and the last 5 % of a text, or of its ids.

    >>> [len(part) for part in split("x" * 1000)]
    [900, 50, 50]
    """
    first, second = len(text) * SHARES[0] // 100, len(text) * (SHARES[0] + SHARES[1]) // 100
    return Parts(text[:first], text[first:second], text[second:])


def load_text(source: str) -> str:
    """Load the text "pydoc", or a file that ends in .txt; ./pydoc.txt is a file.

    Parameters
    ----------
    source : str
        A file is UTF-8, with or without byte order mark; its line ends become "\\n".

    Raises
    ------
    DataError
        The file is missing, unreadable, no UTF-8, empty, or has fewer than 1000 characters.

    Examples
    --------
    >>> "while" in load_text("pydoc")
    True
    """
    if source == "pydoc":
        return "\n\n".join(_topics())
    path = Path(source)
    if path.suffix.lower() != ".txt":
        raise DataError(f"{source or repr(source)}: neither {' nor '.join(SOURCES)} nor a file that ends in .txt")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 text (byte {error.start + 1})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{source}: {getattr(error, 'strerror', None) or error}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) < LEAST:
        what = f"{len(text)} characters are too few" if text else "the file is empty"
        raise DataError(f"{source}: {what}; a text to learn from has at least {LEAST}")
    return text


def _topics() -> Iterable[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        raise DataError("pydoc: this Python has no pydoc_data.topics; name a file that ends in .txt") from None
    return topics.values()


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


def _named(character: str) -> str:
    return f"{character!r} (U+{ord(character):04X})"
