"""Errors a user can act on: one sentence that says what, where, and what to do; each knows its exit code."""

from __future__ import annotations


class StabilityError(Exception):
    """Base of every error stabilitykit raises on purpose.

    `exit_code` is what a command returns for it; `verdict` is what a check is filed as when a test meets it.
    """

    exit_code = 3
    verdict = "invalid"


class UsageError(StabilityError, ValueError):
    """The request cannot be meant: unknown name, empty prompt, zero direction, contradictory options."""

    exit_code = 2


class UnreadableError(StabilityError, OSError):
    """A file, folder, model or package is missing, damaged, or not what its digest promises."""


class UnwritableError(StabilityError, OSError):
    """A file could not be written, as on a full disk; what was there before is unchanged."""


class InvalidError(StabilityError, ArithmeticError):
    """A non-finite value where a number is needed; no statistic is computed from it."""


class UnsupportedError(StabilityError):
    """A correct subject that this question cannot be asked of; the sentence names the reason."""

    verdict = "unsupported"


class TimedOutError(UnsupportedError):
    """Another process did not answer in the time it was given."""

    verdict = "timeout"


class IncomparableError(StabilityError):
    """Two things that cannot be held against each other: another model, another dimension, another setting."""

    verdict = "incomparable"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class: enough to say why within one sentence.

    What does not print in it is escaped: others' errors quote the files that they could not read.
    """
    line = next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
