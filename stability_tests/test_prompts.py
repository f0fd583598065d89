"""Are answers to questions that assume what is false nearer to a flip, and how do the states behind them lie?"""

import stabilitykit as sk


def test_prompt_suite(stability, stability_model):
    """Answer questions of both kinds, with and without a role, and compare the margins of their tokens."""
    questions, roles, tokens = stability.profile.suite
    asked = sk.PromptSuite(sk.QUESTIONS[:questions], sk.ROLES[:roles], tokens, seed=stability.settings.seed)
    stability.measure(asked, stability_model)


def test_geometry(stability, stability_model):
    """Compare the states of the same prompts with one another and with the head's rows, and embedding with head."""
    questions, roles, _ = stability.profile.suite
    sample, seed = stability.profile.sample, stability.settings.seed
    asked = sk.Geometry(sk.QUESTIONS[:questions], sk.ROLES[:roles], sample=sample, seed=seed)
    stability.measure(asked, stability_model)
