"""`--stability-known`: what the file names is shown and fails no test; all else does; stale lines are reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stabilitykit.errors import UsageError
from stabilitykit.results.known import read_known

Inner = Callable[..., object]

SOURCE = """
@pytest.mark.parametrize("model", ["a", "b"])
def test_gate(stability, model):
    stability.measure(ToyGate(drift=2.0), TOY)

def test_calm(stability):
    stability.measure(ToyGate(drift=0.0), TOY)
"""
LINES = """
# what this machine is known for
toy_gate[a] the vendor's kernel splits the sum, issue 12

toy_gate[test_calm] mended long ago
gone* never measured here
"""


@pytest.mark.parametrize(
    "workers",
    [pytest.param((), id="one process"), pytest.param(("-n", "2"), id="two workers", marks=pytest.mark.long)],
)
def test_a_known_difference_fails_no_test_and_another_does(
    inner: Inner, pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.path.joinpath("known.txt").write_text(LINES, encoding="utf-8")
    done = inner(SOURCE, "--stability-known=known.txt", *workers, apart=bool(workers))
    done.result.assert_outcomes(passed=2, failed=1)
    assert done.verdicts == {"toy_gate[a]": "differs", "toy_gate[b]": "fail", "toy_gate[test_calm]": "pass"}
    record = done.records["toy_gate[a]"]
    assert record["message"].startswith("known difference (the vendor's kernel splits the sum, issue 12): ToyGate")
    assert (record["known"], record["gate"]) == ("known.txt line 3", False)
    assert "known.txt line 5 is stale: toy_gate[test_calm] failed nothing; remove the line" in done.text
    assert "known.txt line 6 met no check of this run: gone*" in done.text
    assert "line 3 is" not in done.text


def test_without_the_option_it_fails(inner: Inner) -> None:
    inner(SOURCE).result.assert_outcomes(passed=1, failed=2)


MOVED = """
import os

class ToyMoved(ToyDrift):
    def find(self, subject):
        return ToyDrift(float(os.environ.get("DRIFT", 1))).find(subject)

def test_moved(stability):
    stability.measure(ToyMoved(), TOY)
"""


def test_a_broken_limit_and_a_drift_are_excused_too(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.path.joinpath("known.txt").write_text("toy_moved reasons", encoding="utf-8")
    known, baseline, limit = (
        "--stability-known=known.txt",
        "--stability-baseline=kept",
        "--stability-limit=*.max_ulp<=0",
    )
    assert inner(MOVED, "--stability-save=kept").result.ret == 0
    assert inner(MOVED, limit).result.ret == 1
    assert inner(MOVED, limit, known).result.ret == 0
    monkeypatch.setenv("DRIFT", "2")
    assert inner(MOVED, baseline).result.ret == 1
    drifted = inner(MOVED, baseline, known)
    assert drifted.result.ret == 0
    assert "is worse than its baseline" in drifted.records["toy_moved[test_moved]"]["message"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("toy_gate", "line 1: 'toy_gate' gives no reason; write CHECK REASON"),
        ("# only a comment", "names no check"),
        (b"\xff", "is not UTF-8 (byte 0)"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(tmp_path, content: str | bytes, says: str) -> None:
    file = tmp_path / "known.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        read_known(file)
    assert says in str(caught.value)


def test_a_missing_file_stops_the_run_before_it_measures(inner: Inner) -> None:
    done = inner(SOURCE, "--stability-known=nowhere.txt")
    assert int(done.result.ret) == 4
    assert "nowhere.txt cannot be read: No such file or directory" in done.text
