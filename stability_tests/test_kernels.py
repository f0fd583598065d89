"""Are single operations of the model right, and do their bits depend on the company?"""

import stabilitykit as sk


def test_kernel_accuracy(stability, stability_model):
    """Judge the model's final norm and largest matrix of block 0 against true float64, alone and in batches."""
    asked = sk.KernelAccuracy(shapes=stability.profile.rows, tries=stability.profile.tries)
    stability.measure(asked, sk.model_kernels(stability_model))


def test_kernel_pair(stability, stability_model):
    """Compare fused attention with the plain formula, at the model's heads: which one is nearer to float64?"""
    fused, plain = sk.attention_kernels(stability_model)
    shapes = [(rows, 1, 16) for rows in stability.profile.rows] + [(1, 8, 8)]
    stability.measure(sk.KernelPair(plain, shapes=shapes, tries=stability.profile.tries), fused)
