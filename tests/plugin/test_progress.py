"""Bars reach the terminal while output is captured, and only when somebody wants them."""

import pytest

SOURCE = """
from stabilitykit.measurements.progress import bar

class ToyLong(ToyDrift):
    def find(self, subject):
        with bar(3, "toy", "step") as progress:
            progress.update(3)
        return super().find(subject)

def test_long(stability):
    stability.measure(ToyLong(0.0), TOY)
"""


def test_no_bar_where_nobody_watches(inner):
    assert "toy:" not in inner(SOURCE, apart=True).text


def test_bars_that_were_asked_for_pass_the_capture(inner):
    run = inner(SOURCE, "--stability-progress", apart=True)
    assert "toy:" in run.result.stderr.str()
    assert run.result.ret == 0


@pytest.mark.long
def test_quiet_and_workers_draw_none(inner):
    assert "toy:" not in inner(SOURCE, "--stability-progress", "-q", apart=True).text
    assert "toy:" not in inner(SOURCE, "--stability-progress", "-n", "1", apart=True).text
