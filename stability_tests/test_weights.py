"""What are the weights themselves like, without a forward: their sizes and tails, and how evenly the heads stretch?"""

import stabilitykit as sk


def test_head_spectra(stability, stability_model):
    """Take the singular values of Q, K, V and O of every head, beside those of random elements."""
    stability.measure(sk.HeadSpectra(seed=stability.settings.seed), sk.Checkpoint.of(stability_model))


def test_head_products(stability, stability_model):
    """Take those of what each head compares, Q'K, and of what it carries, OV."""
    stability.measure(sk.HeadProducts(seed=stability.settings.seed), sk.Checkpoint.of(stability_model))


def test_weight_statistics(stability, stability_model):
    """Describe every weight, norms and embedding included, and compare the blocks."""
    which, blocks = stability.profile.spectra
    asked = sk.WeightStatistics(spectra=which, spectra_blocks=blocks, seed=stability.settings.seed)
    stability.measure(asked, sk.Checkpoint.of(stability_model))


def test_weight_export(stability, stability_model, tmp_path):
    """Write the first block's weights to a file each, and read them back bit for bit."""
    stability.measure(sk.WeightExport(str(tmp_path / "weights")), sk.Checkpoint.of(stability_model))
