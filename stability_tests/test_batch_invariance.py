"""The same question, in company: does the answer depend on what else is in the batch?"""

import stabilitykit as sk


def test_batch_invariance(stability, stability_model):
    """Ask a prompt alone and as one of several, at several lengths."""
    asked = sk.BatchInvariance(sizes=stability.profile.sizes, lengths=stability.profile.lengths)
    stability.measure(asked, stability.subjects())
