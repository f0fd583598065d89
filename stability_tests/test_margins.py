"""Which tokens hang by a thread, and would another device say the same?"""

import stabilitykit as sk


def test_margins(stability, stability_model):
    """Continue prompts greedily, compute the same tokens in other ways, and forecast what another device changes."""
    prompts, tokens = stability.profile.margins
    stability.measure(sk.Margins(stability.settings.prompts[:prompts], tokens), stability_model)
