"""Hostile text is visible, harmless in a spreadsheet, and comes back exactly."""

from __future__ import annotations

import random
import unicodedata

import pytest

from stabilitykit.report.text import aligned, guarded, shortened, shown, unguarded

FORMULA = "=+-@\t\r\n＝＋－＠"


def test_every_code_point_and_random_mixtures_come_back_exactly() -> None:
    chance = random.Random(1)
    alphabet = [
        *map(chr, range(0x3000)),
        *map(chr, range(0xD7F0, 0x10000)),
        "\U0001f600",
        "\U000e0001",
        *"=+-@;,'\"\\" * 50,
    ]
    for start in range(0, 0x110000, 97):
        text = "".join(map(chr, range(start, min(start + 97, 0x110000))))
        assert unguarded(guarded(text)) == text
    for _ in range(2000):
        text = "".join(chance.choices(alphabet, k=chance.randrange(12)))
        assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("start", list(FORMULA))
@pytest.mark.parametrize("before", ["", " ", "x;", 'x"', "x,", "x|  "])
def test_no_cell_or_part_of_one_starts_as_a_formula(before: str, start: str) -> None:
    assert start not in guarded(before + start + "1")


@pytest.mark.parametrize("text", ["plain", "a-b", "1 + 1", "x=1", "naïve 日本 é", "tests/a.py::test[b-c]"])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert guarded(text) == text
    assert shown(text) == text


def test_what_does_not_print_is_shown_as_an_escape() -> None:
    assert shown("a\u202eb\x00\ud800\n\x1b[31m") == r"a\u202eb\x00\ud800\n\x1b[31m"
    assert shown("a\nb\t", keep="\n") == "a\nb\\t"
    hidden = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    assert all(shown(character).startswith("\\") for character in hidden)


def test_shortened_keeps_the_width() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abc..."


@pytest.mark.parametrize(
    ("sides", "lines"),
    [
        ("<", ["a    bb  c", "aaa  b   cc"]),
        (">", ["  a  bb   c", "aaa   b  cc"]),
        ("<>", ["a    bb   c", "aaa   b  cc"]),
    ],
)
def test_columns_stand_under_each_other_without_blanks_at_the_end(sides: str, lines: list[str]) -> None:
    assert aligned([["a", "bb", "c"], ["aaa", "b", "cc"]], sides) == lines
