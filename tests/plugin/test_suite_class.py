"""The suite as a class: the user's own model, its own check ids, every test there, and one sentence without a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from stabilitykit.plugin.suite import SUITE

Inner = Callable[..., object]

MODELS = """
import stabilitykit
from stability_tests.suite import StabilitySuite


class TestMine(StabilitySuite):
    test_zoom = None

    @classmethod
    def model(cls):
        return stabilitykit.load("tiny")


class TestNudged(StabilitySuite):
    @classmethod
    def model(cls):
        loaded = stabilitykit.load("tiny")
        loaded.model.lm_head.weight[0, 0] += 1
        return stabilitykit.adopt(loaded.model, loaded.tokenizer, spec="nudged")


class TestNone(StabilitySuite):
    pass
"""


def test_each_class_measures_its_own_model_under_its_own_ids(inner: Inner) -> None:
    done = inner(MODELS, "-k", "run_to_run", apart=True)
    assert set(done.records) == {f"run_to_run[{name}]" for name in ("TestMine", "TestNudged", "TestNone")}
    subjects = {name: done.records[f"run_to_run[{name}]"]["result"]["subject"] for name in ("TestMine", "TestNudged")}
    assert subjects["TestMine"]["model"] == "tiny"
    assert subjects["TestNudged"]["model"] == "nudged"
    assert subjects["TestMine"]["model_digest"] != subjects["TestNudged"]["model_digest"]
    assert done.verdicts["run_to_run[TestNone]"] == "invalid"
    assert "TestNone has no model: give it a classmethod model()" in done.text
    assert "Warning" not in done.text


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_test_of_the_suite_is_in_it_and_any_can_be_left_out(inner: Inner) -> None:
    done = inner(MODELS, "--collect-only", "-q", apart=True)
    ids = {
        name: [line for line in done.text.splitlines() if f"::{name}::" in line] for name in ("TestMine", "TestNone")
    }
    assert len(ids["TestNone"]) == len(ids["TestMine"]) + 1
    assert [line for line in ids["TestNone"] if line.endswith("::test_zoom")]
    functions = {line.rsplit("::", 1)[1].split("[")[0] for line in ids["TestNone"]}
    assert functions == set(re.findall(r"^def (test_\w+)", "\n".join(map(read, SUITE.glob("test_*.py"))), flags=re.M))
