"""Is it the coordinates, or the direction? The same small step along a direction whose entries are moved round."""

import stabilitykit as sk


def test_rotation(stability, stability_model):
    """Turn the direction that the model stretches most, and count what one small step changes at each turn."""
    subject = stability.subject(path="decode", batch=64)
    asked = sk.Rotation(direction="v1", shifts=stability.profile.turns, seed=stability.settings.seed)
    stability.measure(asked, subject)
