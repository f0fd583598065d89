"""The same question, again: do the bits come back?"""

import stabilitykit as sk


def test_run_to_run(stability, stability_model):
    """Repeat one forward and compare every bit of the output."""
    stability.measure(sk.RunToRun(runs=stability.profile.runs), stability.subjects())


def test_operator_probe(stability, stability_model):
    """Run single operations on stored inputs, in the model's dtype and on its device; the model takes no part."""
    machine = sk.Machine(stability_model.model.dtype, stability_model.model.device)
    stability.measure(sk.OperatorProbe(seed=stability.settings.seed), machine)
