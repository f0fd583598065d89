"""The example on the page about bisection runs as printed, and its words are the words in use."""

import re
from pathlib import Path

import pytest

from stabilitykit.traces import bisect, classify

PAGE = (Path(__file__).parents[2] / "docs" / "bisect.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_runs(block, capsys):
    exec(block, {"__name__": __name__})
    verdict, sentence = capsys.readouterr().out.splitlines()
    assert verdict.startswith("differs different-operations model")
    assert sentence.startswith("The sides run different operations: ")


def test_there_is_an_example():
    assert len(BLOCKS) == 1


def test_every_kind_and_class_is_explained():
    kinds = (bisect.LOCAL, bisect.INHERITED, bisect.DIFFERENT, bisect.INPUTS, bisect.UNSEEN)
    for kind in kinds:
        assert f"- *{kind}*:" in PAGE, kind
    for name in set(classify.MEANINGS) - {classify.UNKNOWN}:
        assert name in PAGE, name
