"""Windows: every token once, with the context that was promised, and nothing that depends on where a run began."""

import itertools

import pytest

import stabilitykit as sk
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.windows import CHUNK, Window, heard, text_of, way, windows
from stabilitykit.subjects.words import tokenise


def test_every_token_is_predicted_once_from_enough_context():
    for tokens, width, stride, lead in itertools.product((2, 5, 16, 17, 40), (6, 9, 16), (1, 3, 5), (0, 1, 2)):
        if stride >= width - lead:
            continue
        plan = windows(tokens, width, stride, lead)
        assert [k for one in plan for k in range(one.first, one.end)] == list(range(0 if lead else 1, tokens))
        for number, one in enumerate(plan):
            assert one.start == number * stride
            assert one.positions(lead) < width
            for place in range(one.first, one.end):
                before = lead + place - one.start
                assert before >= (1 if number == 0 else width - stride)


def test_a_short_text_is_one_window():
    assert windows(5, 8, 4, 0) == [Window(0, 1, 5)]
    assert windows(8, 8, 4, 0) == [Window(0, 1, 8)]
    assert windows(9, 8, 4, 0) == [Window(0, 1, 8), Window(4, 8, 9)]
    assert windows(8, 8, 4, 1) == [Window(0, 0, 7), Window(4, 7, 8)]


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_a_window_gives_logits_and_what_the_head_was_given(family):
    """States and logits belong together, in every piece: the head makes one of the other."""
    loaded = sk.load(f"tiny:{family}")
    anatomy = find(loaded.model)
    text = tokenise(loaded, "once upon a time " * 10)
    window = Window(3, 60, 140)
    counted = 0
    for logits, states in heard(text_of(loaded, anatomy, text, window), way(anatomy)):
        assert len(states) == len(logits) <= CHUNK
        assert (anatomy.head(states) - logits).abs().max() < 1e-5
        counted += len(logits)
    assert counted == 80
