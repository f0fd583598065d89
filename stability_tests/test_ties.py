"""Where do two tokens tie, and what flips the next token there and at the prompt?"""

from hypothesis import given, note, target

import stabilitykit as sk
from stabilitykit import strategies


def test_tie(stability, stability_model):
    """Move the last embedding until the two likeliest tokens have equal logits."""
    stability.measure(sk.Tie(), stability.subject(path="decode", batch=8, site="logits"))


def test_flip_scan(stability, stability_model):
    """Scan the lines through that tie along leading singular vectors, and find the smallest flip."""
    directions, points, cells = stability.profile.flips
    asked = sk.FlipScan(directions, points=points, cells=cells)
    stability.measure(asked, stability.subject(path="decode", batch=8, site="logits"))


def test_flip_radius(stability, stability_model):
    """Go outward from the prompt until another token comes first."""
    asked = sk.FlipScan(("v1",), at="prompt")
    stability.measure(asked, stability.subject(path="decode", batch=8, site="logits"), name="flip_radius")


def test_searched_flips(stability, stability_model):
    """Follow drawn directions through the tie; steer by how often rounding turns the order of the two logits.

    The smallest flip of each is looked at once more by plain forwards of its own two inputs.
    """
    subject = stability.subject(path="decode", batch=8, site="logits")
    basis = sk.singular_vectors(stability.subject(path="decode"), 2)

    @stability.examples("searched_flip", len(subject.x0))
    @strategies.settings_for(stability.profile, stability.settings.seed)
    @given(direction=strategies.directions(len(subject.x0), basis))
    def chatters(direction):
        asked = sk.FlipScan(direction.on(basis), points=4, cells=4, oracle=False)
        result = stability.measure(asked, subject, name="searched_flip")
        low, high = sk.flip_pair(subject).outputs()
        assert low.argmax() != high.argmax()
        changes = result.readings["sign_changes"].value
        note(f"{changes:g} sign changes")
        target(changes, label="sign changes")

    chatters()
