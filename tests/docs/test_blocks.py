"""Every block of Python in the documentation runs: here on a tiny model, or in the page's own test, which is named."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import stabilitykit as sk

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
OWN_TEST = {
    "CONTRIBUTING.md": "measurements/test_recipe.py",
    "docs/baselines.md": "plugin/test_baselines_page.py",
    "docs/bisect.md": "traces/test_bisect_page.py",
    "docs/defects.md": "measurements/test_defects_page.py",
    "docs/drift.md": "traces/test_drift_page.py",
    "docs/endpoint.md": "endpoints/test_endpoint_page.py",
    "docs/extending.md": "plugin/test_extending_page.py",
    "docs/gain.md": "measurements/test_gain_page.py",
    "docs/kernels.md": "measurements/test_kernels_page.py",
    "docs/landscape.md": "measurements/test_landscape_page.py",
    "docs/ledger.md": "traces/test_ledger_page.py",
    "docs/margins.md": "measurements/test_margins_page.py",
    "docs/prediction.md": "measurements/test_prediction_page.py",
    "docs/prompts.md": "measurements/test_prompts_page.py",
    "docs/quickstart.md": "docs/test_quickstart.py",
    "docs/reading-the-report.md": "docs/test_quickstart.py",
    "docs/readout.md": "measurements/test_readout_page.py",
    "docs/weights.md": "measurements/test_weights_page.py",
}
SHORT = settings(max_examples=2, database=None, deadline=None)
SMALLER = {
    '"smollm2"': '"tiny"',
    "batch=64": "batch=16",
    "beyond=32": "beyond=4",
    "angles=1000": "angles=4",
    "StabilitySpectrum()": "StabilitySpectrum(indices=2, control=2)",
    "BoundaryJump.study()": "BoundaryJump(angles=4)",
    "576": "64",
    "36, 64": "3, 64",
    "depth=12, dim=512": "depth=2, dim=16",
    "gaussians(48": "gaussians(2",
    "in DEFAULT_PROMPTS": "in DEFAULT_PROMPTS[:1]",
    "sk.Regimes(directions)": "sk.Regimes(directions[:1], points=1, replicates=100)",
    "n=256": "n=16",
    'FlipScan(("v1", "v2", "v3"))': 'FlipScan(("v1",), cells=2, points=3)',
    "strategies.settings_for(stability.profile, stability.settings.seed)": "settings(SHORT)",
    "shifts=32": "shifts=2",
    "gaussian:512": "gaussian:4",
}


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


PAGES = [
    str(path.relative_to(ROOT)) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"))
]
WITH_BLOCKS = [page for page in sorted(PAGES) if blocks(page)]


class Asking:
    """What the fixture `stability` does for a test, on a tiny model."""

    def __init__(self):
        self.asked = []

    def subject(self, prompt="The capital of France is", **how):
        return sk.CausalLMSubject(sk.load("tiny"), prompt, **how)

    def measure(self, measurement, subject):
        result = sk.measure(measurement, subject, progress=False)
        self.asked.append(result)
        return result

    def examples(self, check, dim):
        return lambda test: test


@pytest.mark.parametrize("page", [page for page in WITH_BLOCKS if page not in OWN_TEST])
def test_the_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {
        "__name__": __name__,
        "settings": settings,
        "SHORT": SHORT,
        "my_softmax": lambda X: torch.softmax(X, -1),
        "x0": torch.linspace(-1, 1, 8),
    }
    for block in blocks(page):
        for large, small in SMALLER.items():
            block = block.replace(large, small)
        exec(compile(block, page, "exec"), names)
    asking = Asking()
    tests = [thing for name, thing in names.items() if name.startswith("test_")]
    for test in tests:
        test(*[{"stability": asking}.get(name) for name in test.__code__.co_varnames[: test.__code__.co_argcount]])
    assert len(asking.asked) >= len(tests)


@pytest.mark.parametrize("page", OWN_TEST)
def test_a_page_with_a_test_of_its_own_is_read_there(page):
    assert page in WITH_BLOCKS
    source = (TESTS / OWN_TEST[page]).read_text(encoding="utf-8")
    assert Path(page).name in source
    assert "```python" in source


def test_each_reduction_is_of_something_printed():
    text = "".join(block for page in WITH_BLOCKS if page not in OWN_TEST for block in blocks(page))
    assert [large for large in SMALLER if large not in text] == ["36, 64"], "written by the one before it"
