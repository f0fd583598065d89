"""The example on the page about the readout runs as printed, on a small model, and its words are the words in use."""

import re
from pathlib import Path

import pytest

import stabilitykit as sk

PAGE = (Path(__file__).parents[2] / "docs" / "readout.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
KINDS = (sk.PredictionSpread, sk.BasisVectors, sk.ReadoutAngles, sk.NormAlignment, sk.HeadReplay)


def test_the_example_runs(capsys):
    (block,) = BLOCKS
    exec(block.replace('"smollm2"', '"tiny"'), {"__name__": __name__})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(KINDS)
    assert "has 90% of its probability with" in said[0]
    assert "columns of the head are outliers" in said[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_reading_that_can_get_worse_is_explained(kind):
    for metric in kind.metrics:
        assert metric.better == "neither" or f"`{metric.name}`" in PAGE, metric.name


@pytest.mark.parametrize("kind", KINDS)
def test_every_measurement_has_a_section_and_a_question(kind):
    from stabilitykit.report.explanations import question

    assert f": `{kind.__name__}`\n" in PAGE
    assert question(kind.__name__)
