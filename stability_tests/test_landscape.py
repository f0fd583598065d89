"""Where two tokens are equally likely: does a clean line part them, or noise?"""

import stabilitykit as sk


def test_landscape(stability, stability_model):
    """Walk to a tie of the two best tokens and run a grid of inputs around it, in each plane of the profile."""
    subject = stability.subject(path="decode", batch=64)
    for plane in stability.profile.planes:
        asked = sk.Landscape(plane, n=stability.profile.grid, seed=stability.settings.seed)
        stability.measure(asked, subject, name="landscape_" + "_".join(plane))


def test_zoom(stability, stability_model):
    """Run the middle of the same map again, eight times as fine."""
    subject = stability.subject(path="decode", batch=64)
    grid, seed = stability.profile.grid, stability.settings.seed
    stability.measure(sk.Zoom(sk.Landscape(n=grid), region=8, n=grid, seed=seed), subject)
