"""How much do single parts magnify a small change: a chain of matrices, a weight, a block?"""

import stabilitykit as sk


def test_matmul_chain(stability, stability_model):
    """Multiply by random matrices, in the model's dtype and on its device; the model itself takes no part."""
    depth, dim = stability.profile.chain
    asked = sk.MatmulChain(depth=depth, dim=dim, seed=stability.settings.seed)
    stability.measure(asked, asked.subject(stability_model.model.dtype, stability_model.model.device, batch=16))


def test_weight_gain(stability, stability_model):
    """Ask the first weight matrix of the first block, at its own input."""
    stability.measure(sk.WeightGain(seed=stability.settings.seed), stability.subjects())


def test_block_gain(stability, stability_model):
    """Ask the first block's MLP, at its own input."""
    stability.measure(sk.BlockGain(seed=stability.settings.seed), stability.subjects())
