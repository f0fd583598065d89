"""Every word that a report prints is explained: in the glossary, or, of a reading, in its own sentence."""

import re
from pathlib import Path

import pytest
from oracles.kinds import kinds, schema

from stabilitykit.report.explanations import CHAPTERS, GLOSSARY
from stabilitykit.report.rows import CHECK_COLUMNS, READING_COLUMNS
from stabilitykit.report.verdicts import VERDICTS

PAGE = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")


def explained_in(title):
    """Return the words in the first column of the section's table."""
    section = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    rows = re.findall(r"^\| (`.*?) \| .+ \|$", section, re.MULTILINE)
    return [word.replace("\\|", "|") for row in rows for word in re.findall(r"`([^`]+)`", row)]


def test_every_verdict():
    assert sorted(explained_in("Verdicts")) == sorted(verdict.name for verdict in VERDICTS)


def test_every_unit():
    printed = {metric.unit for kind in kinds() for metric in schema(kind)} - {""}
    words = explained_in("Units")
    assert printed <= set(words)
    assert len(words) == len(set(words))


def test_every_column():
    assert sorted(explained_in("Columns")) == sorted({*READING_COLUMNS, *CHECK_COLUMNS})


def test_every_term_of_the_page():
    text = PAGE.lower()
    missing = [word for word in GLOSSARY if word.lower() not in text]
    assert not missing


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_reading_is_a_sentence_and_every_measurement_a_question(kind):
    for metric in schema(kind):
        assert len(metric.description.split()) >= 2, metric.name
        assert metric.description.rstrip(".") != metric.name.replace("_", " "), metric.name
    assert any(kind.__name__ in chapter.questions for chapter in CHAPTERS)
