"""`--stability-plant`: the fault is in the test and nowhere else, a baseline catches it, and nothing of it is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Inner = Callable[..., object]

SOURCE = """
import stabilitykit as sk

class ToyProduct(ToyDrift):
    def find(self, subject):
        return ToyDrift(float(subject(subject.x0[None]).double().sum())).find(subject)

W = torch.linspace(0, 1, 64 * 3).reshape(64, 3)

@pytest.fixture
def made():
    return FunctionSubject(lambda X: X @ W, torch.linspace(1, 2, 64) @ torch.eye(64), name="product")

def test_product(stability, made):
    stability.measure(ToyProduct(), made)

def test_calm(stability):
    stability.measure(ToyDrift(0.5), TOY)
"""


def test_a_baseline_catches_it_and_the_record_says_what_it_did(inner: Inner, pytester: pytest.Pytester) -> None:
    inner(SOURCE, "--stability-save=clean.jsonl").result.assert_outcomes(passed=2)
    done = inner(SOURCE, "--stability-baseline=clean.jsonl", "--stability-plant=bf16-accumulation", into="planted")
    done.result.assert_outcomes(passed=1, failed=1)
    assert done.verdicts == {"toy_product[test_product]": "fail", "toy_drift[test_calm]": "pass"}
    planted = {check: record["planted"] for check, record in done.records.items()}
    assert planted["toy_drift[test_calm]"] == {"fault": "bf16-accumulation", "calls": 0, "fired": 0}
    assert planted["toy_product[test_product]"]["fired"] == planted["toy_product[test_product]"]["calls"] > 0
    assert done.run["run"]["settings"]["plant"] == "bf16-accumulation"
    assert "with the fault bf16-accumulation planted" in done.text
    assert any("numbers are those of a broken model" in note for note in done.run["run"]["notes"])


def test_with_nothing_planted_the_baseline_holds(inner: Inner) -> None:
    inner(SOURCE, "--stability-save=clean.jsonl")
    done = inner(SOURCE, "--stability-baseline=clean.jsonl", "--stability-plant=nothing", into="planted")
    done.result.assert_outcomes(passed=2)
    assert {record["planted"]["fired"] for record in done.records.values()} == {0}


def test_a_fixture_is_spared(inner: Inner) -> None:
    """The model is loaded in one: weights that were converted under a fault would be other weights."""
    source = """
        @pytest.fixture
        def product():
            return torch.ones(20, 64) @ torch.linspace(0, 1, 64)[:, None]

        def test_it(stability, product):
            stability.measure(ToyDrift(), TOY)
            assert stabilitykit.bits_equal(product, torch.ones(20, 64) @ torch.linspace(0, 1, 64)[:, None]) == SAME
    """
    for options, same in (("--stability-plant=bf16-accumulation",), False), ((), True):
        text = "import stabilitykit\n" + "\n".join(line[8:] for line in source.splitlines())
        inner(text.replace("SAME", str(same)), *options).result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stability-plant=split"], "--stability-plant 'split' is none of reordered-sum, reordered-sum@every-101st"),
        (["--stability-plant=split-k", "--stability-save=a"], "plant breaks the model on purpose, and save would keep"),
        (["--stability-plant=split-k", "--stability-record=a"], "and record would keep"),
        (
            ["--stability-plant=split-k", "--stability-baseline=a", "--stability-update=new"],
            "and update would keep",
        ),
    ],
)
def test_what_cannot_be_meant(inner: Inner, options: list[str], said: str) -> None:
    done = inner(SOURCE, *options)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in done.text


def test_a_dry_run_plants_nothing(inner: Inner) -> None:
    done = inner(SOURCE, "--stability-plant=split-k", "--stability-dry-run")
    done.result.assert_outcomes(skipped=2)
