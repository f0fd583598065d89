"""The file's text: every entry comes back bit for bit, every damage is refused in one sentence."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.crafted import resummed
from oracles.kept import ELSEWHERE, HERE, course, made

from stabilitykit.baselines.entry import Course, Entry, Kept, Setting
from stabilitykit.baselines.text import FORMAT, parse, render
from stabilitykit.errors import UnreadableError

TEXT = st.text(max_size=8)
NUMBER = st.floats(allow_nan=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT, lambda inner: st.lists(inner, max_size=2), max_leaves=4
)
FACTS = st.dictionaries(TEXT, PLAIN, max_size=3)
KEPT = st.builds(Kept, NUMBER, TEXT, st.sampled_from(["lower", "higher", "neither"])) | st.builds(
    lambda low, high: Kept(low, "share", "lower", low, high), NUMBER, NUMBER
)
COURSES = st.lists(st.builds(Course, TEXT, FACTS, TEXT, st.dictionaries(TEXT, NUMBER, max_size=2)), max_size=2)
ENTRIES = st.builds(
    lambda check, asked, model, weights, identity, context, readings, courses, on_basis: Entry(
        check,
        asked,
        model,
        weights,
        Setting(identity, context),
        readings,
        tuple(courses),
        {"v1": "v1 " + check} if on_basis else {},
        {"v1 " + check: b"12345678"} | {course.digest: course.digest.encode() * 8 for course in courses}
        if on_basis
        else {},
    ),
    TEXT,
    FACTS,
    FACTS,
    TEXT,
    FACTS,
    FACTS,
    st.dictionaries(TEXT, KEPT, max_size=3),
    COURSES,
    st.booleans(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ENTRIES, max_size=4, unique_by=lambda entry: entry.key))
def test_what_is_written_is_read_back_bit_for_bit(entries):
    bits = {digest: raw for entry in entries for digest, raw in entry.bits.items()}
    text = render(entries)
    found = parse(text, "b")
    assert set(found) == {entry.key for entry in entries}
    for entry in entries:
        again = found[entry.key]
        named = {course.digest for course in entry.courses} | set(entry.named.values())
        assert again.bits == {digest: raw for digest, raw in bits.items() if digest in named}
        assert {n: k.value.hex() for n, k in again.readings.items()} == {
            n: k.value.hex() for n, k in entry.readings.items()
        }
        for name in ("check", "asked", "model", "weights", "setting", "readings", "courses", "named"):
            assert getattr(again, name) == getattr(entry, name)
    assert render(found.values()) == text
    assert render(reversed(list(found.values()))) == text


@pytest.fixture
def text():
    searched = made("searched[b]", courses=(course(),), bits={"d" * 8: bytes(range(24))})
    return render([searched, made(), made(setting=ELSEWHERE)])


def test_it_reviews_well(text):
    lines = text.splitlines()
    names = [next(iter(json.loads(line))) for line in lines]
    assert names == ["format", "setting", "setting", "check", "check", "check", "direction", "end"]
    assert [json.loads(line)["check"] for line in lines[3:6]] == ["searched[b]", "toy[a]", "toy[a]"]
    assert '"radius": {"better": "higher", "hex": "0x1.0000000000000p+1", "unit": "input", "value": "2"}' in lines[4]


def test_every_damaged_byte_is_refused_in_one_sentence(text):
    raw = text.encode()
    whole = parse(text, "b")
    for place in range(len(raw)):
        for flipped in (raw[place] ^ 1, raw[place] ^ 0x20, 0):
            damaged = (raw[:place] + bytes([flipped]) + raw[place + 1 :]).decode(errors="replace")
            if place == len(raw) - 1:
                continue  # the last line's end
            with pytest.raises(UnreadableError) as caught:
                parse(damaged, "b")
            assert "\n" not in str(caught.value)
    assert parse(text.removesuffix("\n"), "b") == whole


def test_every_file_that_was_cut_is_refused(text):
    for length in range(len(text) - 1):
        with pytest.raises(UnreadableError):
            parse(text[:length], "b")


def test_windows_line_ends_are_read(text):
    assert parse(text.replace("\n", "\r\n"), "b") == parse(text, "b")


def test_lines_merged_by_git_from_two_branches_are_read():
    ours, theirs = (render([made(setting=setting)]).splitlines() for setting in (HERE, ELSEWHERE))
    merged = [ours[0], *ours[1:-1], *theirs[1:-1], ours[-1]]
    assert len(parse("\n".join(merged) + "\n", "b")) == 2


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"schema": 1', '"schema": 2', "b has schema 2, written by stabilitykit 0.1.0; this one reads 1"),
        (
            *('"schema": 1, "stabilitykit": "0.1.0"', '"schema": 2, "stabilitykit": "0\u202e"'),
            "b has schema 2, written by stabilitykit 0\\u202e; this one",
        ),
        ('"schema": 1', '"schema": true', "schema is True, not a whole number"),
        (f'"format": "{FORMAT}"', '"format": "other"', "b is no baseline of stabilitykit"),
        (f'{{"end": "{FORMAT}"', '{"and": ""', "b is cut short"),
        ('"hex": "0x1.0000000000000p+1"', '"hex": "nan"', "hex is 'nan', not a number in hex"),
        ('"hex": "0x1.0000000000000p+1"', '"hex": "2.0"', "hex is '2.0', not a number in hex"),
        ('"hex": "0x1.0000000000000p+1"', '"hex": 2', "hex is 2, not a text"),
        ('"hex": "0x1.0000000000000p+1"', '"hex": "0x1p+99999"', "not a number in hex"),
        ('"value": "2"', '"value": NaN', "NaN is no JSON"),
        ('"better": "higher"', '"better": "up"', "better is 'up', not one of lower, higher, neither"),
        ('"unit": "ULP"', '"unit": "ULP", "low": "0x0.0p+0"', "an interval has two ends"),
        ('"unit": "ULP"', '"unit": "ULP", "unit": "ULP"', "one name stands in an object twice"),
        ('"unit": "ULP"', '"unit": "ULP", "note": ""', "nothing is known of a field 'note'"),
        ('"weights": "', '"weight": "', "nothing is known of a field 'weight'"),
        ('"asked": {', '"asked": [1], "bsked": {', "nothing is known of a field 'bsked'"),
        ('"threads": 2', '"threads": 1', "the setting is not what its digest says"),
        ('"setting": "', '"setting": "0', "the setting is not what its digest says"),
        ('{"check": "searched[b]"', '{"chequed": "searched[b]"', "nothing is known of a field"),
        ('"bits": "00', '"bits": "zz', "bits are no hexadecimal bytes"),
        ('"bits": "00', '"bits": "', "bits are not those of whole float64 numbers"),
        ('"check": "searched[b]"', '"check": "toy[a]"', "toy[a] is there twice for one numeric environment"),
        ('{"direction": "dddddddd"', '{"dir": 1, "x": 2', "this is no line of a baseline"),
        ('"asked": {', '"asked": ' + '{"a":' * 5000 + "1" + "}" * 5000 + ', "z": {', "b, line "),
    ],
)
def test_a_crafted_file_is_refused_in_one_sentence(text, old, new, sentence):
    assert old in text
    with pytest.raises(UnreadableError, match=re.escape(sentence)) as caught:
        parse(resummed(text, old, new), "b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: "", "b, line 1: this is no line of a baseline of stabilitykit"),
        (lambda text: "\ufeff" + text, "b, line 1: it is damaged or was edited"),
        (lambda text: text.replace('"value": "2"', '"value": "3"'), "b, line 4: its checksum does not hold"),
        (lambda text: "<<<<<<< ours\n" + text, "b, line 1: a merge conflict was left in it"),
        (lambda text: text.replace("\n", "\n\n", 1), "b, line 2: this is no line"),
        (lambda text: text + text, "b, line 8: this is no line of a baseline"),
        (lambda text: '{"a": 1}\n', "b, line 1: this is no line"),
    ],
)
def test_an_edited_file_is_refused_with_the_line(text, change, sentence):
    changed = change(text)
    with pytest.raises(UnreadableError, match=re.escape(sentence)):
        parse(changed, "b")
