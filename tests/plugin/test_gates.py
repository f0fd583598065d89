"""What makes a difference fail: a gate, --stability-strict, the marker, --stability-limit."""

import pytest

PLAIN = """
def test_drift(stability):
    stability.measure(ToyDrift(3.0), TOY)
"""
GATE = PLAIN.replace("ToyDrift", "ToyGate")
MARKED = "@pytest.mark.stability({})" + PLAIN


@pytest.mark.parametrize(
    ("source", "options", "verdict"),
    [
        (PLAIN, (), "differs"),
        (PLAIN, ("--stability-strict",), "fail"),
        (GATE, (), "fail"),
        (MARKED.format("gate=True"), (), "fail"),
        (MARKED.format("gate=False").replace("ToyDrift", "ToyGate"), (), "differs"),
        (MARKED.format("limits={'max_ulp': 3}"), (), "pass"),
        (MARKED.format("limits={'radius': '>= 98'}"), (), "fail"),
        (GATE, ("--stability-limit=toy_gate.max_ulp<=3",), "pass"),
        (PLAIN, ("--stability-limit=toy_*.max_ulp<=2", "--stability-limit=other.max_ulp<=0"), "fail"),
        (MARKED.format("limits={'max_ulp': 9}"), ("--stability-limit=*.max_ulp<3",), "fail"),
    ],
)
def test_gates(inner, source, options, verdict):
    run = inner(source, "--strict-markers", *options)
    (found,) = run.verdicts.values()
    assert found == verdict
    assert run.result.ret == (1 if verdict == "fail" else 0)


SAME = """
from dataclasses import replace

class ToySame(ToyDrift):
    def find(self, subject):
        return replace(super().find(subject), verdict="not-distinct")

def test_same(stability):
    stability.measure(ToySame({}), TOY)
"""


@pytest.mark.parametrize(("drift", "verdict"), [("0.0", "not-distinct"), ("3.0", "fail")])
def test_a_gate_does_not_pass_over_a_thing_compared_with_itself(inner, drift, verdict):
    run = inner(SAME.format(drift), "--stability-strict")
    assert list(run.verdicts.values()) == [verdict]


def test_the_limits_that_held_are_in_the_record(inner):
    run = inner(MARKED.format("limits={'max_ulp': 3}"), "--stability-limit=*.radius>=1")
    (record,) = run.records.values()
    assert (record["limits"], record["gate"]) == ({"max_ulp": "3", "radius": ">=1"}, True)


@pytest.mark.parametrize(
    ("marker", "sentence"),
    [
        ("limit={'max_ulp': 3}", "takes limits={...} and gate=..., not limit"),
        ("{'max_ulp': 3}", "takes limits={...} and gate=..., not {'max_ulp': 3}"),
        ("limits=3", "takes a dict such as {'max_ulp': 4}"),
        ("limits={'max_ulps': 3}", "unknown metric 'max_ulps'; ToyDrift reports max_ulp, radius, cells"),
        ("limits={'max_ulp': float('nan')}", "nan is not a limit"),
    ],
)
def test_a_marker_that_cannot_be_meant_is_refused(inner, marker, sentence):
    run = inner(MARKED.format(marker))
    assert run.result.ret == 1
    assert sentence in run.text


def test_an_unknown_metric_in_a_limit_names_the_known_ones(inner):
    run = inner(PLAIN, "--stability-limit=toy_drift.max_ulps<=3")
    assert "unknown metric 'max_ulps'; toy_drift[test_drift] reports max_ulp, radius, cells" in run.text
    assert run.verdicts == {"toy_drift[test_drift]": "invalid"}


def test_a_limit_that_holds_nothing_is_said(inner):
    run = inner(PLAIN, "--stability-limit=toy_drfit.max_ulp<=3", "--stability-limit=toy_drift.max_ulp<=3")
    note = "--stability-limit toy_drfit.max_ulp<=3 held no check of this run"
    assert run.run["run"]["notes"] == [note]
    assert note in run.text


@pytest.mark.parametrize("how", ["option", "marker"])
def test_retries_are_refused(pytester, inner, how):
    pytester.makeconftest(
        """
def pytest_addoption(parser):
    parser.addoption("--reruns", type=int, default=0)

def pytest_configure(config):
    config.addinivalue_line("markers", "flaky(reruns)")
"""
    )
    source = PLAIN if how == "option" else "@pytest.mark.flaky(reruns=2)" + PLAIN
    run = inner(source, *(["--reruns=2"] if how == "option" else []))
    run.result.assert_outcomes(errors=1)
    assert "measures stability and would be retried" in run.text
