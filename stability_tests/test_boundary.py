"""How far can the input move before any bit of the output changes?"""

import stabilitykit as sk
from stabilitykit import strategies


def test_first_change(stability, stability_model):
    """Search random directions, as many as the profile says."""
    subject = stability.subject(path="decode", batch=64)
    drawn = strategies.gaussians(stability.profile.directions, len(subject.x0), stability.settings.seed)
    stability.measure(sk.FirstChange(direction=drawn, beyond=stability.profile.beyond), subject)


def test_stability_fan(stability, stability_model):
    """Search all around in the plane of the two directions that the model stretches most."""
    subject = stability.subject(path="decode", batch=64)
    stability.measure(sk.StabilityFan(angles=stability.profile.angles, plane=("v1", "v2")), subject)


def test_stability_spectrum(stability, stability_model):
    """Search along singular vectors from the first to the last, and along random directions as a control."""
    subject = stability.subject(path="decode", batch=64)
    drawn, seed = stability.profile.directions, stability.settings.seed
    stability.measure(sk.StabilitySpectrum(indices=stability.profile.vectors, control=drawn, seed=seed), subject)


def test_boundary_jump(stability, stability_model):
    """Look at both sides of the first change, all around in the plane that the study searched."""
    subject = stability.subject(path="decode", batch=64)
    stability.measure(sk.BoundaryJump(angles=stability.profile.angles, plane=("v1", "v2")), subject)
