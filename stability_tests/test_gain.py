"""How much does the output move for a step of the input: as run, in exact arithmetic, averaged, in other dtypes?"""

import stabilitykit as sk


def test_directional_gain(stability, stability_model):
    """Step along singular vectors, both ways, from a tenth of the input down to where the dtype absorbs the step."""
    asked = sk.DirectionalGain(directions=stability.profile.gains)
    stability.measure(asked, stability.subjects(path="decode", batch=64))


def test_smoothed_gain(stability, stability_model):
    """Average small steps over noise, the same in both arms, and take the bias of averaging out."""
    asked = sk.DirectionalGain(
        directions=("v1",),
        epsilons=(1e-4, 1e-5, 1e-6, 1e-7),
        signs="+",
        at=1e-6,
        noise="isotropic",
        noise_scale=1.0,
        samples=stability.profile.smoothing,
        seed=stability.settings.seed,
        oracle=False,
    )
    stability.measure(asked, stability.subject(path="decode", batch=64), name="smoothed_gain")


def test_gain_by_dtype(stability, stability_model):
    """Ask the same of float32, bfloat16 and true float64."""
    stability.measure(sk.GainByDtype(), stability.subject(path="decode", batch=8))
