"""The story of docs/baselines.md: its code and its commands run as they stand."""

import re
import shlex
from pathlib import Path

from stabilitykit.subjects.models import load

PAGE = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text(encoding="utf-8")


def test_the_story_runs(pytester, inner):
    source = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    first, second = [shlex.split(line) for line in re.findall(r"^    \$ pytest (.*)$", PAGE, re.MULTILINE)][:2]
    tiny = load("tiny")
    tiny.model.save_pretrained(pytester.path / "model")
    tiny.tokenizer.save_pretrained(pytester.path / "model")
    for words in (first, second):
        run = inner(source, *words[1:])
        run.result.assert_outcomes(passed=2)
    assert "pass  first_change[model-float32]" in run.text
    line = next(line for line in PAGE.splitlines() if line.startswith("    pass  run_to_run"))
    assert line.strip() in run.text


def test_every_option_has_its_row():
    from stabilitykit.settings import OPTIONS

    for option in OPTIONS:
        if option.name in ("save", "baseline", "compare-fail", "update", "require-baseline"):
            assert f"| `--stability-{option.name}" in PAGE
