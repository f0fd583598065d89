"""What the model says: does it come back, and does another device say the same?"""

import stabilitykit as sk


def test_trace(stability, stability_model):
    """Generate twice and compare every stage of every token; keep the recording where `--stability-record` says."""
    asked = sk.Trace(**stability.generation, **stability.recording(stability_model))
    stability.measure(asked, stability_model)


def test_cross_device(stability, stability_model, stability_device):
    """Let another device continue the same prompts on its own, and find where texts and bits part."""
    asked = sk.CrossDevice(stability_device, **stability.generation, against=stability.against(stability_model))
    stability.measure(asked, stability_model)


def test_first_divergence(stability, stability_model, stability_device):
    """Let another device read the same tokens, so that each of them is one question to both."""
    asked = sk.CrossDevice(
        stability_device, **stability.generation, forced=True, against=stability.against(stability_model)
    )
    stability.measure(asked, stability_model, name="first_divergence")


def test_drift(stability, stability_model, stability_device):
    """Keep the states of one prompt on both devices: how far apart they are, and where the decision parts."""
    asked = sk.CrossDrift(
        stability_device,
        prompts=stability.generation["prompts"][:1],
        tokens=stability.profile.drift,
        against=stability.against(stability_model),
    )
    stability.measure(asked, stability_model, name="drift")
