"""How a document is cut into windows by default, what is sampled of it, and which word is named as the nearest."""

from types import SimpleNamespace

import pytest

import stabilitykit as sk
from stabilitykit.measurements import prediction
from stabilitykit.measurements.word_readings import worst
from stabilitykit.subjects.generation import Way
from stabilitykit.subjects.words import Tokenised, Word


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


@pytest.mark.parametrize("lead", [(), (1,)])
def test_a_word_is_predicted_from_whatever_stands_before_it(lead, monkeypatch):
    """Another word, of one token, or what the tokenizer puts first: then a single word is enough."""
    words = (Word("a", 0, 1, 0, 1), Word("b", 2, 3, 1, 2))
    for count in (1, 2):
        made_up = Tokenised((5, 6)[:count], ((0, 1), (1, 3))[:count], lead, words[:count])
        monkeypatch.setattr(prediction, "tokenise", lambda *_, made_up=made_up: made_up)
        asked, document = sk.WordByWord("a b"), SimpleNamespace(name="text", text="a b")
        if count == 2 or lead:
            assert asked._tokenised(None, document) == made_up
        else:
            with pytest.raises(sk.UsageError, match="text has no word with another before it"):
                asked._tokenised(None, document)


@pytest.mark.parametrize("lead", [(), (1,)])
def test_a_window_with_room_for_a_single_token_is_refused_and_two_are_enough(lead):
    """Without a stride given: half of two tokens is one."""
    width, loaded = len(lead) + 2, sk.load("tiny")
    plan = sk.WordByWord("one two", window=width)._plan(loaded, text(9, lead), None)
    assert {window.end - window.first for window in plan[1:]} == {1}
    if lead:
        with pytest.raises(sk.UsageError, match="stride=1 leaves no context in windows of 2 tokens; give less than 1"):
            sk.WordByWord("one two", window=2)._plan(loaded, text(9, lead), None)


def test_the_worst_word_is_the_one_with_the_smallest_margin():
    names = ("number", "word", "weakest_margin", "weakest", "weakest_rival")
    words = [(1, "one", 0.5, "o", "a"), (2, "two", 0.25, "t", "b"), (3, "three", 2.0, "h", "c")]
    found = worst([dict(zip(names, word, strict=True)) for word in words])
    assert (found.where, found.left, found.right) == ("word 2, 'two'", "'t'", "'b'")


def test_every_token_but_the_first_is_sampled():
    """Of three tokens: one row for the window, one for the reference, and for each way the copies of two."""
    asked, loaded = sk.WordByWord("a b c", tokens=3, ways=[Way("decode"), Way("decode", 3)]), sk.load("tiny")
    assert asked.cost(loaded).forwards == 1 + 1 + 2 * (1 + 3)
    assert sk.measure(asked, loaded, progress=False).readings["tokens"].value == 2


def test_two_tokens_are_a_text_and_one_is_none():
    """Two words, where the tokenizer has each as one."""
    assert sk.WordByWord("two words", tokens=2).tokens == 2
    with pytest.raises(sk.UsageError, match="tokens=1 is too few; give at least 2"):
        sk.WordByWord("two words", tokens=1)
