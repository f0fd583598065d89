"""Values that nobody would type are refused in a sentence, or taken as the text that they are; never more."""

import pytest

from stabilitykit import load_args
from stabilitykit.errors import UsageError
from stabilitykit.prompts import read_prompts
from stabilitykit.settings import OPTIONS, resolve
from stabilitykit.typed import whole

DIGITS = "9" * 5000
"""More than Python converts."""


def test_a_number_of_thousands_of_digits_is_none():
    assert whole("seed", "9" * 300, 0) == int("9" * 300)
    with pytest.raises(UsageError, match="is not a whole number from 0 up"):
        whole("seed", DIGITS, 0)


@pytest.mark.parametrize("value", [DIGITS, "[" * 100_000, "nope"])
def test_what_json_cannot_hold_is_text(value):
    assert load_args.parsed([f"key={value}", "other=[1, 2]"]) == (("key", value), ("other", [1, 2]))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(tmp_path / name)
    for option, sentence in (("replay", r"holds no run\.json"), ("against", r"holds no manifest\.json")):
        with pytest.raises(UsageError, match=sentence):
            resolve(lambda one, option=option: name if one.name == option else None, lambda one: None, tmp_path)
    assert {"replay", "against"} <= {one.name for one in OPTIONS}
