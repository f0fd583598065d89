"""The example on the page about documents runs as printed, and its readings, columns and words are those in use."""

import re
from pathlib import Path

import pytest

import stabilitykit as sk

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "prediction.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_runs(block, capsys):
    exec(block.replace('"smollm2"', '"tiny"'), {"__name__": __name__})
    assert "words of text" in capsys.readouterr().out


def test_there_is_an_example():
    assert len(BLOCKS) == 1


def test_every_reading_is_explained():
    for metric in sk.WordByWord.metrics:
        name = "mean_cosine_..." if metric.name.startswith("mean_cosine") else metric.name
        assert f"`{name}`" in PAGE, metric.name


def test_every_column_is_explained():
    result = sk.measure(sk.WordByWord("once upon a time", sample=2), sk.load("tiny"), progress=False)
    for column in result.rows[0]:
        if column != "part" and not column.startswith("top_2_"):
            assert f"`{column}`" in PAGE, column


def test_words_are_in_the_glossary():
    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8")
    for word in ("word", "window", "perplexity", "rank of a word", "fragile word", "margin", "noise of a margin"):
        assert f"\n### {word}\n" in glossary
