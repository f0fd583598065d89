"""How well is a text predicted word by word, and which predictions may rounding decide?"""

import stabilitykit as sk


def test_word_by_word(stability, stability_model):
    """Predict each word of a passage from what stands before it; compute some again in other ways, for the noise."""
    tokens, sample = stability.profile.passage
    stability.measure(sk.WordByWord(tokens=tokens, sample=sample), stability_model)
