"""How do the numbers of the last state become a token, and how near is another one?"""

import stabilitykit as sk


def test_prediction_spread(stability, stability_model):
    """Add the components of the last state by size until the next token is there; the empty prompt beside them."""
    stability.measure(sk.PredictionSpread(stability.prompts), stability_model)


def test_basis_vectors(stability, stability_model):
    """Compare what the components say by themselves: the columns of the head."""
    stability.measure(sk.BasisVectors(), stability_model)


def test_readout_angles(stability, stability_model):
    """Take the angles of each last state to the tokens at some ranks, and its distance to the nearest tie."""
    prompts, tokens = stability.profile.readout
    stability.measure(sk.ReadoutAngles(stability.settings.prompts[:prompts], tokens), stability_model)


def test_norm_alignment(stability, stability_model):
    """See what the final norm does to the angles of the first tokens."""
    prompts, tokens = stability.profile.readout
    stability.measure(sk.NormAlignment(stability.settings.prompts[:prompts], tokens), stability_model)


def test_head_replay(stability, stability_model):
    """Ask the head again on the states that it was given, in other shapes, and read each block by the logit lens."""
    prompts, tokens = stability.profile.readout
    stability.measure(sk.HeadReplay(stability.settings.prompts[:prompts], tokens), stability_model)
