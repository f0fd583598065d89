"""The example on the page about drift runs as printed, on a small model, and its words are the words in use."""

import re
from pathlib import Path

import pytest

from stabilitykit.traces.drift import Drift

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "drift.md").read_text(encoding="utf-8")
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_runs(block, capsys):
    exec(block.replace('"smollm2"', '"tiny"'), {"__name__": __name__})
    assert "the state that the head reads is the same in every element" in capsys.readouterr().out


def test_there_is_an_example():
    assert len(BLOCKS) == 1


def test_every_reading_is_explained():
    for metric in Drift.metrics:
        assert f"`{metric.name}`" in PAGE, metric.name


def test_words_of_a_decision_are_in_the_glossary():
    for word in ("flip_stage", "parted_from", "settled_a", "unrounded_b", "amplification", "head_same", "head_bits"):
        assert f"`{word}`" in GLOSSARY, word
