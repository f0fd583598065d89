"""What is generated, where a recording of it is kept, and which other recording it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabilitykit.profile import PROFILES
from stabilitykit.prompts import DEFAULT_PROMPTS, GENERATION_PROMPTS

if TYPE_CHECKING:
    from stabilitykit.plugin.fixtures import ModelChoice
    from stabilitykit.settings import Settings


def asked(settings: Settings) -> dict[str, Any]:
    """Return the prompts and the number of tokens of each, as the options say.

    The user's own prompts, where there are any. A recording that is kept is for another machine: it is not cut to
    what a quick look takes.
    """
    profile = settings.profile
    if settings.record is not None and profile.name == "quick":
        profile = PROFILES["standard"]
    prompts, tokens = profile.generation
    own = settings.prompts != DEFAULT_PROMPTS
    return {
        "prompts": settings.prompts if own else GENERATION_PROMPTS[:prompts],
        "tokens": settings.tokens or tokens,
    }


def kept(settings: Settings) -> dict[str, Any]:
    """Return how closely a recording that is kept looks."""
    if settings.record is None:
        return {}
    return {"level": settings.record_level, "states": settings.record_states, "steps": (settings.record_step,)}


def place(folder: Path, settings: Settings, choice: ModelChoice) -> Path:
    """Return where the recording of one model in one dtype lies: in the folder, or, of several, in one of its own.

    So it is where several devices record, each all of it.
    """
    alone = len(set(settings.models)) * len(settings.dtypes) == 1 and not choice.place
    return folder if alone else folder / choice.id
