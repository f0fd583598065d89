"""The page about failures knows every sentence in the code that refuses, and quotes none that is not there."""

import re
from pathlib import Path

import pytest
from oracles.messages import ERRORS, GAP, sentences

import stabilitykit
from stabilitykit.cli.run import _STATUS
from stabilitykit.report.verdicts import VERDICTS
from stabilitykit.settings import BAD_INPUT

PACKAGE = Path(stabilitykit.__file__).parent
PAGE = (Path(__file__).parents[2] / "docs" / "interpreting-failures.md").read_text(encoding="utf-8")
NAMED = [name for name in ERRORS if name != "StabilityError"]


def section(error: str) -> str:
    return re.search(rf"^## .*`{error}`.*?$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def quoted(error: str) -> dict[str, re.Pattern[str]]:
    """Return what the first column quotes of messages, as it is to be looked for."""
    rows = re.findall(r"^\| (`.*?) \| .*? \| .*? \|$", section(error), re.MULTILINE)
    pieces = [piece for row in rows for piece in re.findall(r"`([^`]+)`", row)]
    return {piece: re.compile(".*".join(re.escape(part.strip()) for part in piece.split(GAP))) for piece in pieces}


@pytest.mark.parametrize("error", NAMED)
def test_every_quoted_message_is_one_of_the_code(error):
    said = [sentence for _, sentence in sentences(error)]
    assert quoted(error)
    for piece, pattern in quoted(error).items():
        assert any(pattern.search(sentence) for sentence in said), f"no {error} says {piece!r} any more"


@pytest.mark.parametrize("error", [name for name in NAMED if name != "UsageError"])
def test_every_refusal_has_its_row(error):
    """A usage error says itself what to give instead; why a question has no answer needs a page."""
    said = [(module, sentence) for module, sentence in sentences(error) if re.search(r"\w{3}", sentence)]
    assert said
    patterns = quoted(error).values()
    missing = [one for one in said if not any(pattern.search(one[1]) for pattern in patterns)]
    assert not missing, f"docs/interpreting-failures.md explains no such {error}: {missing}"


def test_every_room_that_refuses_a_request_is_named():
    rooms = {Path(module).parts[0].removesuffix(".py") for module, _ in sentences("UsageError")}
    named = re.findall(r"^\| [^|]+ \| (`.*?) \|", section("UsageError"), re.MULTILINE)
    assert rooms <= {room for row in named for room in re.findall(r"`(\w+)`", row)}


def test_every_verdict_has_its_row():
    for verdict in VERDICTS:
        assert re.search(rf"^\| .*`{verdict.name}`.* \| .+ \| .+ \|$", PAGE, re.MULTILINE), verdict.name


def test_every_exit_status_has_its_row():
    table = PAGE[PAGE.index("## Exit statuses") :]
    rows = re.findall(r"^\| (\d+) \| (.*?) \| (.*?) \|$", table, re.MULTILINE)
    ours = {int(status) for status, own, _ in rows if own != "-"}
    pytests = {int(status) for status, _, its in rows if its != "-"}
    assert ours == set(_STATUS.values())
    assert pytests == {status for status in _STATUS if 0 <= status < BAD_INPUT}


def test_notes_that_are_quoted_are_in_the_code():
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    notes = PAGE[PAGE.index("## Notes that are no failure") :]
    for piece in re.findall(r"^\| `([^`]+)`", notes, re.MULTILINE):
        for part in piece.split(GAP):
            assert part.strip() in source, part
