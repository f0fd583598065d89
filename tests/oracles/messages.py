"""Every sentence that the package raises one of its errors with, read from the source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import stabilitykit
from stabilitykit import errors

ERRORS = tuple(
    name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, errors.StabilityError)
)
GAP = "…"


@cache
def sentences(error: str) -> list[tuple[str, str]]:
    """Return module and sentence of each place that raises this error; what is put in at run time is a gap."""
    return [(module, _text(call.args[0])) for module, call in _calls() if call.func.id == error]


@cache
def _calls() -> list[tuple[str, Any]]:
    """Return every call of an error by its name, with its module: the whole package is parsed once."""
    found = []
    package = Path(stabilitykit.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                found.append((str(path.relative_to(package)), node))
    return found


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return GAP
