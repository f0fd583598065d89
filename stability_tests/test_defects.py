"""Which tokens explode, do the weights foretell it, and is their direction the model's own?"""

import stabilitykit as sk


def test_singular_defects(stability, stability_model):
    """Read the norms of all prompts, the first direction of every block, and a sample of the vocabulary."""
    tokens, eigenpairs = stability.profile.defects
    measurement = sk.SingularDefects(stability.settings.prompts, tokens, eigenpairs=eigenpairs)
    stability.measure(measurement, stability_model)


def test_signature(stability, stability_model):
    """Read the direction of the long tokens, and how far it depends on the prompts."""
    stability.measure(sk.Signature(stability.settings.prompts), stability_model)


def test_block_flips(stability, stability_model):
    """Give the float64 twin one block's rounding at a time, beside what may carry it."""
    count, tokens = stability.profile.carried
    stability.measure(sk.BlockFlips(stability.settings.prompts[:count], tokens), stability_model)


def test_kept_projections(stability, stability_model):
    """Take the perplexity in 8 bits, with and without the down-projections that exploding tokens pass."""
    count, controls = stability.profile.kept
    stability.measure(sk.KeptProjections(stability.settings.prompts[:count], controls=controls), stability_model)
