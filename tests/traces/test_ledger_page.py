"""The example on the page about the ledger runs as printed, on a small model, and its words are the words in use."""

import re
from pathlib import Path

import pytest

from stabilitykit.traces.ledger import Ledger

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_runs(block, capsys):
    exec(block.replace('"smollm2"', '"tiny"'), {"__name__": __name__})
    assert "Rounding moves the margin of " in capsys.readouterr().out


def test_there_is_an_example():
    assert len(BLOCKS) == 1


def test_every_reading_is_explained():
    for metric in Ledger.metrics:
        assert f"`{metric.name}`" in PAGE, metric.name
