"""The words of a text and the tokens that decide each: tokenised once, told apart by character offsets."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.subjects.models import LoadedModel

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Word:
    """Characters `start` to `end` of the text, and tokens `first` to `last` of its ids, both ends exclusive."""

    text: str
    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Tokenised:
    """A text's token ids with the characters (begin, end) of each, and its words.

    `lead`: the special tokens that the tokenizer puts before every text.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    lead: tuple[int, ...]
    words: tuple[Word, ...]


def tokenise(loaded: LoadedModel, text: str, most: int | None = None) -> Tokenised:
    """Tokenise once; return the first `most` tokens and the words that they hold whole.

    A word is what stands between white space. Its tokens are those with a character of it: the space before a word is
    part of its first token where the tokenizer puts it there, and a character that several tokens share belongs to
    all of them. White space that has tokens of its own belongs to no word. Words that one token reaches into together
    cannot be told apart and are one. What the document says is text, also where it spells a special token. What the
    tokenizer puts behind a text is left out. UnsupportedError without a tokenizer that knows offsets. O(text).
    """
    tokenizer = loaded.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        lacks = "has no tokenizer" if tokenizer is None else "has a tokenizer that keeps no character offsets"
        raise UnsupportedError(f"{loaded.spec} {lacks}, so words cannot be told apart; load it with a fast tokenizer")
    found = tokenizer(
        text, return_offsets_mapping=True, return_special_tokens_mask=True, split_special_tokens=True, verbose=False
    )
    special = [bool(flag) for flag in found.special_tokens_mask]
    if all(special):
        raise UsageError("the document has no token besides special ones; give a longer one")
    begin = special.index(False)
    end = len(special) - special[::-1].index(False)
    offsets = tuple(found.offset_mapping[begin:end])
    words = told_apart(text, offsets)
    ids = tuple(int(one) for one in found.input_ids[begin:end])[:most]
    lead = tuple(int(one) for one in found.input_ids[:begin])
    return Tokenised(ids, offsets[:most], lead, tuple(word for word in words if word.last <= len(ids)))


def told_apart(text: str, offsets: Sequence[tuple[int, int]]) -> list[Word]:
    """Return the words of a text in order, with their tokens by the tokens' offsets; without one that has no token."""
    spans = [match.span() for match in _WORD.finditer(text)]
    ends = [end for _, end in spans]
    words: list[Word] = []
    for token, (begin, end) in enumerate(offsets):
        place = bisect_right(ends, begin)  # the first word that ends behind the token's begin
        while place < len(spans) and spans[place][0] < end:
            start, stop = spans[place]
            if words and (words[-1].last == token + 1 or words[-1].start <= start < words[-1].end):
                # The same word goes on, or this token has just been given to the word before.
                start, stop, first = words[-1].start, max(stop, words[-1].end), words.pop().first
            else:
                first = token
            words.append(Word(text[start:stop], start, stop, first, token + 1))
            place += 1
    return words
