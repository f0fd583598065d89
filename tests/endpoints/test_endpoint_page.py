"""The example on the page about endpoints runs as printed, and every reading is explained there."""

import re
from pathlib import Path

from oracles.planted_server import Planted, serving

from stabilitykit.endpoints.served_determinism import ServedDeterminism

PAGE = (Path(__file__).parents[2] / "docs" / "endpoint.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    with serving(Planted()) as url:
        exec(block.replace("http://localhost:8000/v1", url), {"__name__": __name__})
    assert "At temperature 0: alone 0 of 6 differed" in capsys.readouterr().out


def test_every_reading_is_explained():
    for metric in ServedDeterminism.metrics:
        assert f"`{metric.name}`" in PAGE, metric.name
