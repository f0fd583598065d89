"""Which direction is worst? Hypothesis searches, and every certificate is checked by plain forwards."""

import math

from hypothesis import given, note, target

import stabilitykit as sk
from stabilitykit import strategies


def test_searched_directions(stability, stability_model):
    """Follow drawn directions to their first change; steer by how much of a jump it is.

    Under `--stability-replay` the worst directions of that run come first. The worst that are met are recorded, and
    measured once more from the record. Hypothesis only compares scores, so their logarithm would steer no better.
    """
    subject = stability.subject(path="decode")
    basis = sk.singular_vectors(subject, 2)

    @stability.examples("searched_direction", len(subject.x0))
    @strategies.settings_for(stability.profile, stability.settings.seed)
    @given(direction=strategies.directions(len(subject.x0), basis))
    def certified(direction):
        asked = sk.FirstChange(direction=direction.on(basis))
        result = stability.measure(asked, subject, name="searched_direction")
        unit, steps = direction.expand(basis), {name: reading.value for name, reading in result.readings.items()}
        assert sk.bits_equal(output_at(subject, unit, steps["s_last_same"]), subject.baseline)
        if math.isfinite(steps["s_first_changed"]):
            assert not sk.bits_equal(output_at(subject, unit, steps["s_first_changed"]), subject.baseline)
        if math.isfinite(steps["amplification"]):
            note(f"amplification {steps['amplification']:g}")
            target(steps["amplification"], label="amplification")

    certified()


def output_at(subject, direction, s):
    """Return the output at x(s) by a forward of its own, with no search around it."""
    return subject(sk.perturb(subject.x0.cpu(), direction, s)[None].to(subject.x0.device))
