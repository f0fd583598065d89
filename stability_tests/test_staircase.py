"""At the scale of one float: where does the output jump, and does it matter which coordinates moved?"""

import stabilitykit as sk


def test_staircase(stability, stability_model):
    """Try every distinct input along the direction that the model stretches most, from the prompt's own on."""
    subject = stability.subject(path="decode", batch=64)
    stability.measure(sk.Staircase(direction="v1", n=stability.profile.stairs), subject)
