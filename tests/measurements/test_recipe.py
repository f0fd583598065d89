"""The measurement that CONTRIBUTING.md adds in ten lines works as printed."""

import re
from pathlib import Path

import pytest
import torch

import stabilitykit as sk

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
IMPORTS = """
from dataclasses import dataclass
from typing import ClassVar
from stabilitykit import Cost, Finding, Measurement, Metric, Subject
"""


def test_the_recipe_measures_and_gates():
    """The block runs as it stands, gives the known answer, and can be held to a limit."""
    (block,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = {"__name__": __name__}
    exec(IMPORTS + block, names)
    subject = sk.FunctionSubject(lambda X: X * 2, torch.tensor([3.0, -0.25, 1.0]))
    result = sk.measure(names["Headroom"](), subject, progress=False)
    assert result.readings["headroom"].value == 0.5
    result.check(headroom=0.5)
    with pytest.raises(sk.StabilityFailure, match=r"headroom 0.5 breaks >= 0.6"):
        result.check(headroom=0.6)
