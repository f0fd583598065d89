"""How often does noise in the input change the next token?"""

import stabilitykit as sk


def test_noise(stability, stability_model):
    """Disturb the last token's embedding, by one rounding up to a tenth of its length."""
    asked = sk.NoiseTest(draws=stability.profile.noise, seed=stability.settings.seed)
    stability.measure(asked, stability.subjects(path="decode", batch=64))


def test_noise_in_all_rows(stability, stability_model):
    """Disturb the whole prompt in the same way, and add constants to it and take them away again."""
    subject = sk.CausalLMSubject(stability_model, stability.prompts[0], rows="all", batch=8)
    asked = sk.NoiseTest(draws=stability.profile.noise, seed=stability.settings.seed)
    stability.measure(asked, subject, name="noise_in_all_rows")
    stability.measure(sk.NoiseTest(kinds="round trips"), subject, name="round_trips")
