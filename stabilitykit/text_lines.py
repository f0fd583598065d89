"""Files that people write one thing a line: UTF-8, blank lines and lines that start with # skipped."""

from __future__ import annotations

from pathlib import Path

from stabilitykit.errors import UsageError


def numbered_lines(what: str, path: Path) -> list[tuple[int, str]]:
    """Return (line number from 1, text without blanks around it); UsageError, with `what` it is of, if unreadable."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} file {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UsageError(f"{what} file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    stripped = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]
