"""The form of JSON data: right data passes, the first field that is wrong is named in one line."""

import pytest

from stabilitykit.errors import UnreadableError
from stabilitykit.results.forms import Each, Maybe, Number, Optional, check

FORM = {
    "name": str,
    "count": int,
    "sure": bool,
    "kind": ("a", "b"),
    "value": Number,
    "place": Each(str),
    "rows": [{"x": Maybe(int)}],
    "any": object,
    "old": Optional([str]),
}
RIGHT = {
    "name": "", "count": 3, "sure": False, "kind": "b", "value": 1e308, "place": {"x": "y"},
    "rows": [{"x": None}], "any": None,
}  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"old": ["x"]}, {"value": {"float": "-inf"}}, {"value": 7}, {"rows": []}])
def test_what_was_written_passes(more):
    check({**RIGHT, **more}, FORM, "it")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"name": 3}, "name is 3, not a text"),
        ({"count": True}, "count is True, not a whole number"),
        ({"sure": 1}, "sure is 1, not true or false"),
        ({"kind": "c"}, "kind is 'c', not one of a, b"),
        ({"kind": ["a"]}, "kind is ['a'], not one of a, b"),
        ({"value": "1"}, "value is '1', not a number"),
        ({"value": {"float": "1"}}, "value is {'float': '1'}, not a number"),
        ({"value": 10**400}, "not a number"),
        ({"value": True}, "value is True, not a number"),
        ({"place": {"x": 1}}, "place.x is 1, not a text"),
        ({"place": {"\x1b[m": 1}}, r"place.'\x1b[m' is 1, not a text"),
        ({"rows": [{"x": 1}, {"x": "\u202e"}]}, r"rows[1].x is '\u202e', not a whole number"),
        ({"rows": [{}]}, "rows[0].x is missing"),
        ({"old": None}, "old is None, not a list"),
        ({"new": 1}, "nothing is known of new"),
        ({"": 1}, "nothing is known of ''"),
        ({"x" * 5000: 1}, "nothing is known of 'xxxx"),
    ],
)
def test_the_field_that_is_wrong_is_named(wrong, reason):
    with pytest.raises(UnreadableError) as caught:
        check({**RIGHT, **wrong}, FORM, "a file")
    said = str(caught.value)
    assert said.startswith("a file is damaged, or was not written here: ")
    assert reason in said
    assert said.isprintable()
    assert len(said) < 300


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_what_is_no_object_is_told(data):
    with pytest.raises(UnreadableError, match="not an object"):
        check(data, FORM, "it")
