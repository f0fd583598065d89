"""How much does the model stretch a small change, and along which directions?"""

import stabilitykit as sk


def test_singular_spectrum(stability, stability_model):
    """Compute the largest singular values of the Jacobian; the first is the local Lipschitz constant."""
    stability.measure(sk.SingularSpectrum(k=stability.profile.singular), stability.subjects())
