"""How a document is cut into windows by default, and which word is named as the one nearest to another."""

import pytest

import stabilitykit as sk
from stabilitykit.measurements.word_readings import worst
from stabilitykit.subjects.words import Tokenised


def text(tokens, lead=()):
    return Tokenised((0,) * tokens, ((0, 1),) * tokens, lead, ())


@pytest.mark.parametrize(("most", "width"), [(None, 1024), (4096, 1024), (1024, 1024), (512, 512)])
def test_a_window_is_of_1024_tokens_or_of_the_context_if_that_is_less(most, width):
    plan = sk.WordByWord("one two")._plan(sk.load("tiny"), text(3000), most)
    assert max(window.end - window.start for window in plan) == width
    assert plan[0].end == width


@pytest.mark.parametrize("lead", [(), (1,)])
def test_a_window_needs_context_beside_what_the_tokenizer_puts_first(lead):
    loaded, room = sk.load("tiny"), 24 - len(lead)
    assert sk.WordByWord("one two", window=24, stride=room - 1)._plan(loaded, text(100, lead), None)
    with pytest.raises(sk.UsageError, match=f"stride={room} leaves no context .* give less than {room}"):
        sk.WordByWord("one two", window=24, stride=room)._plan(loaded, text(100, lead), None)


def test_the_worst_word_is_the_one_with_the_smallest_margin():
    names = ("number", "word", "weakest_margin", "weakest", "weakest_rival")
    words = [(1, "one", 0.5, "o", "a"), (2, "two", 0.25, "t", "b"), (3, "three", 2.0, "h", "c")]
    found = worst([dict(zip(names, word, strict=True)) for word in words])
    assert (found.where, found.left, found.right) == ("word 2, 'two'", "'t'", "'b'")
