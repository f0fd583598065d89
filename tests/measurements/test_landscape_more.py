"""What the middle of a map costs, the difference of the logits that is told for it, and what may be asked."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles.planted_maps import PLANE, SPAN, X0, line

from stabilitykit.errors import UsageError
from stabilitykit.measurements.landscape import Landscape, noise_of
from stabilitykit.measurements.logit_gap import LogitGap
from stabilitykit.measurements.map_readings import MapReading
from stabilitykit.measurements.measure import measure
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load


def test_walking_to_the_tie_costs_40_batches_of_the_search_and_a_baseline():
    """Elsewhere the middle costs its own baseline, and a row for the prompt's prefix."""
    for batch, rows in ((1, 1), (4, 4), (16, 8)):
        subject = FunctionSubject(line, X0, batch=batch)
        tie, prompt = (Landscape(PLANE, at=at).ground_cost(subject) for at in ("tie", "prompt"))
        assert (tie.forwards, prompt.forwards) == (41 * rows, batch + 1)


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("moved", [True, False])
def test_a_map_around_a_given_input_or_the_prompt_takes_no_more_than_stated(path, batch, moved):
    subject = CausalLMSubject(load("tiny"), "The capital", path=path, batch=batch, site="logits")
    asked = Landscape(n=5, at=subject.x0 * 1.01 if moved else "prompt")
    stated = asked.cost(subject)
    took = measure(asked, subject, progress=False).execution
    assert (took.forwards <= stated.forwards, took.backwards <= stated.backwards) == (True, True)


def test_the_gap_that_is_told_is_that_of_the_first_slot():
    """Slots that differ by an eighth of a logit each: the map is read in all of them, the gap in slot 0."""

    def fn(X):
        return line(X) + torch.arange(len(X), dtype=X.dtype)[:, None] / 8 * torch.tensor([1.0, 0.0, 0.0]).to(X)

    subject = FunctionSubject(fn, X0.double(), batch=4)
    asked = Landscape(PLANE, span=SPAN, n=5, unit="abs", at="prompt", again=0)
    found = measure(asked, subject).readings["gap"].value
    assert found == float(subject.baseline[0, 0] - subject.baseline[0, 1])


def test_no_noise_floor_is_a_number_of_them_and_infinitely_many_are_none():
    assert Landscape(PLANE, beyond=0).beyond == 0
    for beyond in (-0.5, math.inf, math.nan):
        with pytest.raises(UsageError, match="is no number of noise floors; give at least 0"):
            Landscape(PLANE, beyond=beyond)


def test_the_noise_of_a_gap_is_from_the_smallest_to_the_largest_of_all_evaluations():
    """Gaps 1 and 3 in one batch shape, 2 and 2.5 in another."""
    logits = [torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.0], [2.5, 0.0]])]
    subject = SimpleNamespace(finite=lambda Z: Z, equivalents=lambda: [("batch", Z) for Z in logits])
    assert LogitGap(subject, (0, 1)).noise == 2.0


@pytest.mark.parametrize(("inputs", "said"), [(25, False), (24, True)])
def test_a_grid_is_finer_than_floats_where_less_than_a_quarter_of_its_cells_have_their_own(inputs, said):
    found = SimpleNamespace(D=np.zeros((10, 10)), third=np.zeros((10, 10), dtype=bool), unrepeated=0, repeated=0)
    limits = MapReading(range(inputs), found, None, 0.0, 0.0, 199, 0)._limits()
    assert limits == (
        f" Only {inputs} of 100 cells have inputs of their own: the grid is finer than floats are." if said else ""
    )


def test_the_least_noise_is_a_unit_of_the_larger_logit_of_the_pair_in_the_first_slot():
    """Also of a subject of one slot; the other slot and the third token have far larger logits."""
    for slots in ([[1.0, 4.0, 1e9]], [[1.0, 4.0, 1e9], [1e6, 1e6, 1e9]]):
        gap = SimpleNamespace(subject=SimpleNamespace(baseline=torch.tensor(slots)), pair=(0, 1), noise=0.0)
        assert noise_of(SimpleNamespace(gap=gap)) == 2.0**-21
        gap.noise = 0.5
        assert noise_of(SimpleNamespace(gap=gap)) == 0.5


def test_the_shuffled_reference_crosses_as_often_as_its_classes_do():
    """In a line of cells every pair of neighbours with other classes is a crossing; across it there is none."""
    classes = np.arange(40)[None] % 2
    found = SimpleNamespace(D=np.where(classes, 1.0, -1.0))
    textures = MapReading(None, found, None, 0.0, 0.0, 199, 0).textures
    shuffled = textures["shuffled"]
    assert 0 < shuffled.flip_ratio < 1 == textures["measured"].flip_ratio
    assert shuffled.crossings == pytest.approx(shuffled.flip_ratio * 39 / (1 + 40))
