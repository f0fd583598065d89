"""The same question, again: do the bits come back?"""

import stabilitykit as sk


def test_run_to_run(stability, stability_model):
    """Repeat one forward and compare every bit of the output."""
    stability.measure(sk.RunToRun(runs=stability.profile.runs), stability.subjects())
