"""What the site derives from the code: the list of measurements and the reference of every public name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docstrings import escaped, rendered
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import stabilitykit
from stabilitykit import strategies
from stabilitykit.homes import HOMES
from stabilitykit.report.explanations import CHAPTERS, question

DOCS = Path(__file__).parent
_NO_EXPLANATION = {
    "index",
    "glossary",
    "findings",
    "interpreting-failures",
    "other-tools",
    "measurements",
    "quickstart",
}


def is_measurement(thing: Any) -> bool:
    """Whether a public name is a question that can be asked; the base of them all is none."""
    base = stabilitykit.Measurement
    return inspect.isclass(thing) and issubclass(thing, base) and thing is not base


@cache
def page_of(name: str) -> str:
    """Return the page that explains a measurement: with its name in a heading, or else most often in the text."""
    word = rf"(`|sk\.){name}\b"
    counts = {}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if path.stem not in _NO_EXPLANATION:
            counts[path.stem] = (len(re.findall(rf"^#.*{word}", text, re.MULTILINE)), len(re.findall(word, text)))
    best = max(counts, key=lambda stem: counts[stem])
    if not any(counts[best]):
        raise ExtensionError(f"no page of docs/ explains {name}; a measurement needs one")
    return best


def names_of(group: str) -> Iterator[str]:
    """Yield the full public names of a group, in the order of `homes`.

    A group is a room of the package, less what can be asked there: that is one group, `questions`, wherever it lies.
    """
    if group == "strategies":
        yield from (f"stabilitykit.strategies.{name}" for name in strategies.__all__)
    for home, names in HOMES.items():
        for name in names:
            asked = is_measurement(getattr(stabilitykit, name))
            if group == ("questions" if asked else home.split(".")[0]):
                yield f"stabilitykit.{name}"


class Names(SphinxDirective):
    """`names:: GROUP`: describes each public name of the group."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Let autodoc describe them."""
        lines: list[str] = []
        for full in names_of(self.arguments[0]):
            thing = _named(full)
            kind = "class" if inspect.isclass(thing) else "function" if callable(thing) else "data"
            # A measurement is made and handed to `measure`; its methods are for whoever writes another.
            whole = kind == "class" and not is_measurement(thing) and not issubclass(thing, Exception)
            lines += [f".. auto{kind}:: {full}", *(["   :members:"] if whole else []), ""]
        return list(self.parse_text_to_nodes("\n".join(lines)))


class Measurements(SphinxDirective):
    """`measurements::`: every measurement under its chapter of the report, with its question and its page."""

    def run(self) -> list[nodes.Node]:
        """Write a list a chapter."""
        lines: list[str] = []
        for chapter in CHAPTERS:
            asked = [name for name in chapter.questions if name in stabilitykit.__all__]
            lines += [f".. rubric:: {chapter.title}", "", escaped(chapter.lead), ""] if asked else []
            for name in asked:
                lines.append(f"- {escaped(chapter.questions[name])}")
                lines += [f"  :doc:`{name} <{page_of(name)}>`, :py:class:`reference <stabilitykit.{name}>`", ""]
        return list(self.parse_text_to_nodes("\n".join(lines)))


def _named(full: str) -> Any:
    home = strategies if full.startswith("stabilitykit.strategies.") else stabilitykit
    return getattr(home, full.rsplit(".", 1)[1])


def describe(app: Sphinx, what: str, name: str, thing: Any, options: object, lines: list[str]) -> None:
    """Put a docstring into the form that Sphinx reads, and behind a measurement's what it gives."""
    lines[:] = rendered("\n".join(lines))
    if not is_measurement(thing):
        return
    short = thing.__name__
    if question(short):
        lines[:0] = [f"*{escaped(question(short))}* See :doc:`{page_of(short)}`.", ""]
    lines += [f"Asked of a {escaped(f'`{thing.needs.__name__}`')}. Readings:", ""]
    for metric in thing.metrics if hasattr(thing, "metrics") else thing().schema():
        better = "" if metric.better == "neither" else f"; {metric.better} is better"
        lines += [escaped(f"- `{metric.name}` ({metric.unit or 'a number'}{better}): {metric.description}."), ""]
    if thing.causes:
        lines += ["A failure usually means one of these:", ""]
        lines += [line for cause in thing.causes for line in (f"- {escaped(cause)}", "")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Declare the directives."""
    app.add_directive("names", Names)
    app.add_directive("measurements", Measurements)
    app.connect("autodoc-process-docstring", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
