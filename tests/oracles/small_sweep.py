"""A small sweep of a tiny model: all kinds of directions, two prompts, ten units."""

import stabilitykit as sk

PROMPTS = ("ab cd", "once upon")
DIRECTIONS = ("gaussian:10", "singular:3", "fan:4", "sign:2")


def asked(**changes):
    """Return it, or another with these changes."""
    given = {"question": "boundary", "models": ("tiny",), "prompts": PROMPTS, "batch": 4, "unit": 6}
    return sk.Sweep(**{**given, "directions": DIRECTIONS, **changes})
