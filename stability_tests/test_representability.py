"""What does rounding leave of a small step?"""

import stabilitykit as sk


def test_representability(stability, stability_model):
    """Round steps along the first singular vector to every dtype; no model is run."""
    stability.measure(sk.Representability(), stability.subjects(path="decode", batch=64))
