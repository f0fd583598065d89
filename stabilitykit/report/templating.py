"""A page from its template: escaped text, packed figures, and a policy that allows no script but the page's own."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup, escape

from stabilitykit.report.packed import packed, script_source


def render(template: str, *, drawn: bool, **values: Any) -> str:
    """Return a page; with `drawn` it carries the library that draws figures."""
    scripts, plotly = [_script("tools.js")] + [_script("figures.js")] * drawn, _plotly() if drawn else ""
    return (
        _environment()
        .get_template(template)
        .render(
            scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own, from the package
            plotly=packed(plotly),
            allowed=Markup(" ".join(map(script_source, [*scripts, plotly]))),  # noqa: S704 - digests
            **values,
        )
    )


def figure_data(figure: Mapping[str, Any]) -> str:
    """Return a figure as packed JSON, which cannot leave its element whatever text is in it."""
    return packed(json.dumps(figure, allow_nan=False, separators=(",", ":")))


def breakable(name: str) -> Markup:
    """Return an identifier that a narrow column breaks before its bracket rather than within it."""
    stem, bracket, inner = name.partition("[")
    return escape(stem) + Markup('<span class="part">{}</span>').format(bracket + inner) if bracket else escape(name)


def whole_numbers(text: str) -> Markup:
    """Return a sentence that a line end never cuts at the sign of an exponent."""
    return Markup(re.sub(r"\d[\d.]*e-\d+", r'<span class="whole">\g<0></span>', str(escape(text))))  # noqa: S704


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stabilitykit.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure_data"] = figure_data
    environment.filters["breakable"] = breakable
    environment.filters["whole"] = whole_numbers
    return environment


def _script(name: str) -> str:
    return importlib.resources.files("stabilitykit.report").joinpath("templates", name).read_text(encoding="utf-8")


def _plotly() -> str:
    # Plotly is a second of imports that a page without figures does not need.
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
