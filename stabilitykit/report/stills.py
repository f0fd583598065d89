"""The figures of a report as files for a paper or a slide: SVG, PDF or PNG, drawn by plotly's own exporter."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stabilitykit.errors import UnsupportedError
from stabilitykit.report import files
from stabilitykit.report.figures import figures
from stabilitykit.results.record import Record

FORMATS = ("svg", "pdf", "png")
WIDTH, WIDE = 720, 1100
"""Pixels; a figure that takes the whole width of the page is the wider one."""
_MISSING = (
    "figures are drawn by kaleido and a Chromium: pip install 'stabilitykit[figures]', and install Chrome or Chromium "
    "(or name one in BROWSER_PATH)"
)


def draw(records: Sequence[Record], directory: Path, kind: str) -> list[Path]:
    """Write every figure of the records into `directory` as `CHECK-N.kind`, in the light theme; return the paths.

    UnsupportedError where kaleido or its browser is missing. About a tenth of a second each.
    """
    names = files.slugs(record.check_id for record in records)
    found = [
        (directory / f"{name}-{number}.{kind}", figure)
        for name, record in zip(names, records, strict=True)
        if record.result is not None
        for number, figure in enumerate(figures(record.result), 1)
    ]
    colours = light()
    drawn = [_titled(resolved(figure.to_dict(), colours), figure.title) for _, figure in found]
    widths = [WIDE if figure.wide else WIDTH for _, figure in found]
    if found:
        directory.mkdir(parents=True, exist_ok=True)
        _write(drawn, [path for path, _ in found], widths, kind)
    return [path for path, _ in found]


def light() -> dict[str, str]:
    """Return the style sheet's variables in the light theme: `--ink` -> `#1d2129`."""
    style = importlib.resources.files("stabilitykit.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return dict(re.findall(r"(--[\w-]+):\s*([^;]+);", style.split("}", 1)[0]))


def resolved(value: Any, colours: Mapping[str, str]) -> Any:
    """Return a figure with the theme's colours in place of their names, as the page's script does."""
    if isinstance(value, str):
        match = re.fullmatch(r"var\((--[\w-]+)\)", value)
        return colours[match[1]] if match else value
    if isinstance(value, Mapping):
        return {key: resolved(item, colours) for key, item in value.items()}
    return [resolved(item, colours) for item in value] if isinstance(value, list | tuple) else value


def _titled(figure: dict[str, Any], title: str) -> dict[str, Any]:
    """On the page the title is text above the figure; here it must be in it, and needs room."""
    layout = figure["layout"]
    margin = {**layout["margin"], "t": layout["margin"]["t"] + 52}
    heading = {
        "text": title,
        "x": 0.01,
        "xanchor": "left",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 8},
    }
    extra = {"title": heading, "margin": margin, "height": layout["height"] + 52, "paper_bgcolor": "white"}
    return {**figure, "layout": {**layout, **extra}}


def _write(drawn: list[dict[str, Any]], paths: list[Path], widths: list[int], kind: str) -> None:
    try:
        import kaleido  # noqa: F401 - plotly's message would name a version and no extra
    except ImportError as error:
        raise UnsupportedError(_MISSING) from error
    import plotly.io

    heights = [figure["layout"]["height"] for figure in drawn]
    try:
        plotly.io.write_images(drawn, [str(path) for path in paths], format=kind, width=widths, height=heights)
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().split("\n")[0]
        raise UnsupportedError(f"{_MISSING}; it said: {first}") from error
