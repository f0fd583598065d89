"""What becomes of a tiny change on its way through the model: block by block, module by module, and where it dies?"""

from hypothesis import given

import stabilitykit as sk
from stabilitykit import strategies


def test_layer_profile(stability, stability_model):
    """Follow steps along the direction the output reacts to most, as run and in true float64."""
    asked = sk.LayerProfile(epsilons=stability.profile.epsilons)
    stability.measure(asked, stability.subjects(path="decode", batch=8))


def test_submodule_profile(stability, stability_model):
    """Read every module of every block in the forwards of two such steps."""
    stability.measure(sk.SubmoduleProfile(), stability.subject(path="decode", batch=8))


def test_module_spectrum(stability, stability_model):
    """Take the largest singular value of every block, and of the branches and norms of some; share the rounding out."""
    asked = sk.ModuleSpectrum(inside=stability.profile.opened, tolerance=0.01)
    stability.measure(asked, stability.subject())


def test_fate(stability, stability_model):
    """Follow changed inputs along random rays until their states meet the baseline's again, or never."""
    subject = stability.subject(path="decode", batch=64)
    rays, cells = stability.profile.fates
    drawn = strategies.gaussians(rays, len(subject.x0), stability.settings.seed)
    stability.measure(sk.Fate(directions=drawn, cells=cells), subject)


def test_fate_of_drawn_directions(stability, stability_model):
    """Let Hypothesis draw the ray: axes, signs, sparse and dense vectors, combinations of singular vectors."""
    subject = stability.subject(path="decode", batch=8)
    basis = sk.singular_vectors(subject, 2)

    @stability.examples("drawn_fate", len(subject.x0))
    @strategies.settings_for(stability.profile, stability.settings.seed)
    @given(direction=strategies.directions(len(subject.x0), basis))
    def followed(direction):
        stability.measure(sk.Fate(directions=direction.on(basis), cells=16), subject, name="drawn_fate")

    followed()
