"""The prompts a run uses: our own short ones, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

from stabilitykit.errors import UsageError

DEFAULT_PROMPTS = (
    "The capital of France is",
    "def area(radius): return",
    "Seven plus five equals",
    "Once the rain had stopped, the children",
    "Die Antwort auf die Frage lautet",
)
"""One fact first, then code, arithmetic, a story and another language."""


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a UTF-8 file, one a line; blank lines and lines that start with # are skipped.

    Blanks around a prompt are not part of it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"prompts file {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"prompts file {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    prompts = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not prompts:
        raise UsageError(f"prompts file {path} holds no prompt; write one a line, # starts a comment")
    return prompts
