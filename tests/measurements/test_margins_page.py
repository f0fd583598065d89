"""The example on the page about margins runs as printed, on a small model, and its words are the words in use."""

import re
from pathlib import Path

import pytest

from stabilitykit.measurements.advice import advise
from stabilitykit.measurements.margins import Margins

PAGE = (Path(__file__).parents[2] / "docs" / "margins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_runs(block, capsys):
    exec(block.replace('"smollm2"', '"tiny"'), {"__name__": __name__})
    assert "Another device is expected to change" in capsys.readouterr().out


def test_there_is_an_example():
    assert len(BLOCKS) == 1


def test_every_reading_that_can_get_worse_is_explained():
    for metric in Margins.metrics:
        assert metric.better == "neither" or f"`{metric.name}`" in PAGE, metric.name


def test_every_kind_of_advice_is_explained():
    prompt = {"prompt": "p", "at_risk": True, "keep": 2, "tokens": 3, "forecast": 0.5, "kept_risk": 0.01, "high": 0.6}
    prompts = [prompt, {**prompt, "keep": 0}, {**prompt, "at_risk": False}]
    token = {"tied": 2, "forecast": 0.5, "token": "a", "rival": "b", "token_id": 1, "wide_token_id": 2}
    ways = [{"way": "decode", "bits_of": "decode", "flips": 0}, {"way": "prefill", "bits_of": "prefill", "flips": 2}]
    ways += [{"way": "prefill, batch 2", "bits_of": "prefill", "flips": 2}]
    rows = advise(prompts, [{**token, "wide_margin": 0.1}], ways, 0.05, 0.1)
    kinds = {row["kind"] for row in rows}
    assert kinds == {"robust prompts", "cut", "replace", "pin", "free", "wider dtype", "ties", "wider head"}
    for kind in kinds - {"free", "ties"}:
        assert f"*{kind}*" in PAGE, kind
    assert "2 are not" not in rows[0]["advice"]
    assert advise([{**prompt, "at_risk": False}], [], ways, 0.05, 0.1) == []
