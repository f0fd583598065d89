"""The tables of docs/power.md are those of the committed results, to the byte."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _script():
    spec = importlib.util.spec_from_file_location("power_page", ROOT / "scripts" / "power_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_and_the_section_are_what_the_results_make():
    script = _script()
    known = script.results()
    assert known
    text = script.PAGE.read_text(encoding="utf-8")
    assert script.page(text, known) == text
    kept = json.loads((script.RECORDS / "power.json").read_text(encoding="utf-8"))
    assert script.section(known) == kept
    for name, result in known.items():
        assert result.readings["false_alarms"].value == 0, f"{name}: a check is red with nothing planted"
        assert f"<!-- {name} matrix -->" in text
