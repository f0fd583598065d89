"""Docstrings on the site. They are plain text with formulas, in which `|x|` is a norm and `x*` a letter.

Read as reStructuredText a norm would be a substitution, so all but what is in backticks is escaped.
"""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\*_|<>`])")
_CODE = re.compile(r"`([^`]+)`")
_ITEM = re.compile(r"\n(?=[*-] )")


def escaped(text: str) -> str:
    """Return plain text as reStructuredText: what is in backticks as code, all else as it stands."""
    found, end = [], 0
    for code in _CODE.finditer(text):
        # The empty escapes keep the marks of code apart from a letter beside them.
        found += [_SPECIAL.sub(r"\\\1", text[end : code.start()]), rf"\ ``{code[1]}``\ "]
        end = code.end()
    return "".join([*found, _SPECIAL.sub(r"\\\1", text[end:])])


def rendered(text: str) -> list[str]:
    """Return the lines of a docstring: paragraphs and items of lists escaped, indented blocks kept line by line."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if block.startswith("    "):
            lines += ["::", "", *block.split("\n"), ""]
            continue
        for part in _ITEM.split(block):
            mark = "- " if part.startswith(("* ", "- ")) else ""
            words = " ".join(part[len(mark) :].split())
            lines += [mark + escaped(words), ""]
    return lines
