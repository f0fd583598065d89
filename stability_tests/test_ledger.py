"""Who spent the margin of the next token: which operation's rounding moved it, and by how much?"""

import stabilitykit as sk


def test_ledger(stability, stability_model):
    """Carry every operation's own rounding error to the difference of the two largest logits, and add up."""
    stability.measure(sk.Ledger(), stability.subjects())
