"""What the commands that ask one model one question share: its options, the model, and the report."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.errors import UsageError
from stabilitykit.settings import OPTIONS, Option, Settings, resolve

if TYPE_CHECKING:
    from stabilitykit.results.result import Result
    from stabilitykit.subjects.models import LoadedModel

SHARED = ("model", "dtype", "device", "attention", "experts", "load-arg", "report")


def option(name: str) -> Option:
    """Return the option of that name."""
    return next(one for one in OPTIONS if one.name == name)


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say which model, and where the report goes."""
    for name in SHARED:
        shared = option(name)
        action = "append" if shared.kind == "list" else "store"
        shown = shared.help.split(";")[0] if name == "report" else shared.explained
        parser.add_argument(f"--{name}", dest=shared.key, action=action, metavar=shared.metavar, help=shown)


def settings_of(given: argparse.Namespace, *, prompts: str | None = None) -> Settings:
    """Return the settings that were asked for; UsageError for more than one model, dtype or device."""
    asked = {name: getattr(given, option(name).key) for name in SHARED} | {"prompts": prompts}
    settings = resolve(lambda one: asked.get(one.name), lambda _: None, Path.cwd())
    for name, several in (("model", settings.models), ("dtype", settings.dtypes), ("device", settings.devices)):
        if len(several) > 1:
            raise UsageError(
                f"{given.command} asks one {name} at a time, not {', '.join(several)}; run it once for each"
            )
    return settings


def model_of(settings: Settings) -> LoadedModel:
    """Load the model."""
    from stabilitykit.subjects.models import load

    return load(
        settings.models[0],
        dtype=settings.dtypes[0],
        device=settings.device,
        attention=settings.attention,
        experts=settings.experts,
        load_args=dict(settings.load_args),
    )


def write_report(settings: Settings, result: Result, command: str, words: Sequence[str]) -> Path:
    """Write the report folder of a result; return the path of its page."""
    from stabilitykit.report import write_one

    assert settings.report is not None
    model = re.sub(r"[^\w.@-]+", "_", re.split(r"[/\\]", settings.models[0].rstrip("/\\"))[-1])
    typed = shlex.join(["stabilitykit", command, *words])
    return write_one(
        result, settings.report, f"{result.check_id}[{model}-{settings.dtypes[0]}]", typed, settings.to_dict()
    )
