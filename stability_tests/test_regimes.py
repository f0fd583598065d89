"""Up to which step does the output stand still, and from which step on does it follow the function?"""

import stabilitykit as sk
from stabilitykit import strategies


def test_regimes(stability, stability_model):
    """Step along v1, v2 and random directions, from far below one float to beyond the input; float64 is beside."""
    subjects = stability.subjects(path="decode", batch=64)
    (drawn, points), seed = stability.profile.regimes, stability.settings.seed
    directions = ["v1", "v2", *strategies.gaussians(drawn, len(subjects[0].x0), seed)]
    stability.measure(sk.Regimes(directions, points=points, seed=seed), subjects)
