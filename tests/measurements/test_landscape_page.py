"""The examples on the page about landscapes run as printed, on a small model."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "landscape.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_the_example_runs(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[number].replace('"smollm2"', '"tiny"'), {"__name__": __name__})
    assert capsys.readouterr().out


def test_every_example_is_run():
    assert len(BLOCKS) == 2
