"""The example on the page about defects runs as printed, on a planted model, and its words are the words in use."""

import re
from pathlib import Path

import pytest
from oracles.defective import defective

import stabilitykit as sk

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "defects.md").read_text(encoding="utf-8")
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_runs(block, capsys, monkeypatch):
    monkeypatch.setattr(sk, "load", lambda _: defective())
    exec(block.replace("France is", "France, is."), {"__name__": __name__})
    printed = capsys.readouterr().out
    assert "2 explosion" in printed
    assert "4 decay" in printed
    assert "0 degrees from those of defective: the same defect" in printed


def test_there_is_an_example():
    assert len(BLOCKS) == 1


def test_every_reading_is_explained():
    for kind in (sk.SingularDefects, sk.Signature, sk.KeptProjections, sk.BlockFlips):
        for metric in kind.metrics:
            assert f"`{metric.name}`" in PAGE, metric.name


def test_words_are_in_the_glossary():
    for word in (
        "long token",
        "explosion and decay",
        "first direction of a block",
        "Rayleigh quotient",
        "signature",
        "own error of a block",
        "attention sink",
        "kept down-projection",
    ):
        assert f"### {word}\n" in GLOSSARY, word
