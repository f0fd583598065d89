"""The example on the page about questions and roles runs as printed, on a small model, and its words are in use."""

import re
from pathlib import Path

import pytest

import stabilitykit as sk
from stabilitykit.report.explanations import question

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "prompts.md").read_text(encoding="utf-8")
KINDS = (sk.PromptSuite, sk.Geometry)
SHORT = ({"tokens": 2}, {"sample": 20})


def test_the_example_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(block.replace('"smollm2"', '"tiny"'), {"__name__": __name__})
    said = capsys.readouterr().out
    assert "Asked as plain text, answers have a margin of" in said
    assert "a role moves them" in said
    assert "Is Tuesday wet?" in said


@pytest.mark.parametrize("kind", KINDS)
def test_every_reading_is_explained(kind):
    for metric in kind().schema():
        implied = metric.name in ("prompts", "questions", "tokens")
        assert implied or f"`{metric.name}`" in PAGE, metric.name
    assert f": `{kind.__name__}`\n" in PAGE
    assert question(kind.__name__)


def test_every_part_of_the_rows_is_named():
    asked = {"questions": sk.QUESTIONS[:3], "roles": sk.ROLES[:2]}
    loaded = sk.load("tiny")
    results = [sk.measure(kind(**asked, **how), loaded, progress=False) for kind, how in zip(KINDS, SHORT, strict=True)]
    for part in {row["part"] for result in results for row in result.rows}:
        assert f"`{part}`" in PAGE, part


@pytest.mark.parametrize("word", ["kind, role, question", "form", "near tie", "clustered interval", "role drift"])
def test_words_are_in_the_glossary(word):
    assert f"\n### {word}\n" in (DOCS / "glossary.md").read_text(encoding="utf-8")
