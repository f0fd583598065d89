"""The first change along a ray: functions whose boundary is known, and an enumeration written without the kit."""

import math
import re
import statistics

import numpy as np
import pytest
import torch

from stabilitykit import strategies
from stabilitykit.errors import InvalidError, UsageError
from stabilitykit.measurements.boundary import FirstChange, StabilityFan, _statistics
from stabilitykit.measurements.measure import measure
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import load

IDS = [(7 * i + 3) % 258 for i in range(12)]
X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


# --- an independent enumeration: plain rounding, and bisection over the bits of s


def rounded(x0, d, s):
    return (x0.double() + s * d.double()).to(x0.dtype)


def next_step(x0, d, s):
    """The first float64 after s whose rounded input is another one; each coordinate is monotone in s."""
    here = rounded(x0, d, s)
    low, high = np.float64(s).view(np.int64), np.float64(1e300).view(np.int64)
    while high - low > 1:
        middle = low + (high - low) // 2
        if torch.equal(rounded(x0, d, float(middle.view(np.float64))), here):
            low = middle
        else:
            high = middle
    return float(high.view(np.float64))


def first_change(f, x0, d, most=2000):
    """(cells, s_first_changed) by trying every distinct input in turn."""
    y0, s = f(x0[None]), 0.0
    for cells in range(1, most):
        s = next_step(x0, d, s)
        if not bits_equal(f(rounded(x0, d, s)[None]), y0):
            return cells, s
    raise AssertionError("no change")


def moved(X, x0=X0):
    """How many floats each coordinate is away from x0's, in its own bits; all of one sign."""
    kind = INTEGERS[X.element_size()]
    return (X.contiguous().view(kind) - x0.view(kind)).abs()


def only(result):
    (row,) = result.rows
    return row


# --- known answers


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_identity_changes_where_its_input_does(dtype, batch, sign):
    x0 = X0.to(dtype)
    d = sign * torch.tensor([1.0, 0.3, -0.01, 2.0])
    result = measure(FirstChange(direction=d), FunctionSubject(lambda X: X, x0, batch=batch))
    wanted = next_step(x0, d, 0.0)
    row = only(result)
    assert row["s_first_changed"] == wanted
    assert row["s_last_same"] == row["radius"] == row["lattice_radius"] == math.nextafter(wanted, 0)
    assert (row["cells"], row["rho"], row["exact"], row["censored"]) == (1, 1.0, True, False)
    difference = rounded(x0, d, wanted).double() - x0.double()
    assert row["input_step"] == row["output_jump"] == row["realised_norm"] == float(difference.norm()) > 0
    assert row["amplification"] == 1
    assert difference[row["coordinate"]] != 0
    assert row["coords_moved"] == int((difference != 0).sum())
    assert row["alignment"] == pytest.approx(float(difference @ d.double() / difference.norm() / d.double().norm()))


@pytest.mark.parametrize("screen", [True, False])
@pytest.mark.parametrize("floats", [2, 7, 40])
def test_a_dead_zone_ends_at_the_planted_float(floats, screen):
    """Nothing changes until coordinate 1 has moved so many floats; other coordinates move all the while."""
    d = torch.tensor([1.0, 0.5, 0.01, -3.0])

    def dead(X):
        return (moved(X)[:, 1:2] >= floats).float()

    subject = FunctionSubject(dead, X0, batch=3, first=lambda X: X[:, 1:2])
    row = only(measure(FirstChange(direction=d, screen=screen), subject))
    cells, step = first_change(dead, X0, d)
    assert row["s_first_changed"] == step
    assert row["cells"] == cells > floats
    assert row["coordinate"] == 1
    assert row["rho"] > 1
    assert row["radius"] == math.nextafter(step, 0)
    assert row["output_jump"] == 1
    assert bool(subject.counter.screened) == screen


def test_only_a_changed_state_needs_a_whole_forward():
    def dead(X):
        return (moved(X)[:, :1] >= 30).float()

    subject = FunctionSubject(dead, X0, batch=2, first=dead)
    subject.noise_floor()
    result = measure(FirstChange(direction=torch.tensor([1.0, 0.5, 0, 0])), subject)
    cells = only(result)["cells"]
    assert cells > 30
    assert result.execution.forwards == 2 * (1 + 1)  # the baseline and the confirmation
    assert result.execution.screened == 2 * (1 + cells)
    stated = FirstChange(direction=torch.eye(4)).cost(subject)
    assert (stated.forwards, stated.backwards) == (2 * (1 + 2 * 2) + 2 * 2 + 15, 0)
    assert FirstChange(direction=torch.eye(4), beyond=5).cost(subject).forwards == stated.forwards + 2 * 5 * 2 + 5 * 2


def island(X):
    """Changed at the 3rd float, the same again from the 4th, changed for good from the 9th."""
    floats = moved(X)[:, :1]
    return ((floats == 3) | (floats >= 9)).float()


@pytest.mark.parametrize("batch", [1, 5])
def test_the_first_of_several_changes_is_reported(batch):
    d = torch.tensor([1.0, 0, 0, 0])
    row = only(measure(FirstChange(direction=d), FunctionSubject(island, X0, batch=batch)))
    assert row["cells"] == 3
    assert row["s_first_changed"] == first_change(island, X0, d)[1]
    # The twin: bisecting "changed at s" between 0 and 9 floats ends at the last change, well beyond the first.
    low, high = 0.0, 9.5 * float(np.spacing(np.float32(0.75)))
    while math.nextafter(low, math.inf) < high:
        middle = low + (high - low) / 2
        if bool(island(rounded(X0, d, middle)[None])):
            high = middle
        else:
            low = middle
    assert low > 2 * row["radius"]


def test_every_slot_is_compared_with_its_own_baseline():
    """Slot b adds b and its dead zone ends at float b + 1: a baseline of another slot sees a change at once."""

    def by_slot(X):
        slots = torch.arange(len(X))[:, None]
        return slots + (moved(X)[:, :1] >= slots + 1).float() / 4

    directions = torch.tensor([[1.0, 0, 0, 0]]).expand(5, -1)
    result = measure(FirstChange(direction=directions), FunctionSubject(by_slot, X0, batch=5))
    assert [row["slot"] for row in result.rows] == [0, 1, 2, 3, 4]
    assert [row["cells"] for row in result.rows] == [1, 2, 3, 4, 5]
    assert [row["output_jump"] for row in result.rows] == [0.25] * 5
    assert len({row["baseline_digest"] for row in result.rows}) == 5


@pytest.mark.parametrize(("rays", "batch"), [(1, 8), (3, 2), (7, 7), (7, 3)])
def test_any_number_of_rays_fits_any_batch(rays, batch):
    generator = torch.Generator().manual_seed(rays)
    directions = torch.randn(rays, 4, generator=generator)

    def coarse(X):
        return (X * 2**21).round()

    result = measure(FirstChange(direction=directions), FunctionSubject(coarse, X0, batch=batch))
    wanted = [first_change(coarse, X0, d) for d in directions]
    assert [(row["cells"], row["s_first_changed"]) for row in result.rows] == wanted
    radii = [row["radius"] for row in result.rows]
    assert result.readings["radius"].value == min(radii)
    assert result.readings["radius"].place["direction"] == str(int(np.argmin(radii)))
    assert result.readings["median_radius"].value == np.median(radii)
    assert result.readings["directions"].value == rays
    for name in ("radius", "s_last_same", "s_first_changed", "cells", "lattice_radius", "slot"):
        assert result.arrays[name].tolist() == [row[name] for row in result.rows]
    assert np.array_equal(result.arrays["directions"], directions.double().numpy())
    assert np.array_equal(result.arrays["x0"], X0.double().numpy())
    assert result.arrays["y0"].shape == (batch, 4)


def test_the_steepest_ray_is_named_for_the_amplification():
    directions = torch.eye(4)
    scale = torch.tensor([1.0, 2.0, 64.0, 3.0])
    result = measure(FirstChange(direction=directions), FunctionSubject(lambda X: X * scale, X0))
    assert result.readings["amplification"].value == 64
    assert result.readings["amplification"].place == {"direction": "2"}
    assert result.readings["radius"].place["direction"] == "2"  # the smallest coordinate has the finest floats


# --- no change found


def test_no_change_up_to_s_max_is_censored_there():
    d = torch.tensor([1.0, 0, 0, 0])
    subject = FunctionSubject(lambda X: (moved(X)[:, :1] >= 9).float(), X0)
    edge = first_change(subject.fn, X0, d)[1]
    below, at = (only(measure(FirstChange(direction=d, s_max=s), subject)) for s in (math.nextafter(edge, 0), edge))
    assert (below["censored"], below["radius"], below["s_first_changed"]) == (True, math.nextafter(edge, 0), math.inf)
    assert below["cells"] == 8
    assert math.isnan(below["output_jump"])
    assert below["output_digest"] == ""
    assert (at["censored"], at["s_first_changed"]) == (False, edge)


def test_no_change_within_max_cells_is_censored_at_the_last_input_tried():
    d = torch.tensor([1.0, 0, 0, 0])
    subject = FunctionSubject(lambda X: (moved(X)[:, :1] >= 9).float(), X0)
    row = only(measure(FirstChange(direction=d, max_cells=8), subject))
    assert (row["censored"], row["cells"]) == (True, 8)
    assert int(moved(rounded(X0, d, row["radius"]))[0]) == 8
    assert row["radius"] < first_change(subject.fn, X0, d)[1]
    assert not only(measure(FirstChange(direction=d, max_cells=9), subject))["censored"]


@pytest.mark.parametrize("s_max", [math.inf, 1e30])
def test_a_ray_that_leaves_the_numbers_is_censored_at_a_number(s_max):
    """The last float16 inputs before infinity: what lies beyond is no input, and no radius either."""
    x0, d = torch.tensor([65000.0, 1.0]).half(), torch.tensor([1.0, 0.0])
    row = only(measure(FirstChange(direction=d, s_max=s_max), FunctionSubject(lambda X: X[:, 1:], x0)))
    assert row["censored"]
    assert math.isfinite(row["radius"])
    assert rounded(x0, d, row["radius"])[0] == 65504
    assert row["realised_norm"] == 65504 - 64992  # the float16 nearest to 65000


def test_censored_rays_are_counted_and_do_not_hide_the_others():
    directions = torch.eye(4)
    subject = FunctionSubject(lambda X: X[:, 1:], X0, batch=2)
    result = measure(FirstChange(direction=directions, max_cells=5), subject)
    assert [row["censored"] for row in result.rows] == [True, False, False, False]
    assert result.readings["censored"].value == 0.25
    assert result.readings["exact"].value == 1


# --- dense coordinates: exact zeros


@pytest.mark.parametrize("threshold", [1e-30, 1e-12, 3e-8])
def test_a_zero_that_matters_is_found_between_the_samples(threshold):
    """Coordinate 0 is an exact zero with a threshold of its own; the known boundary is a float64 bisection away."""
    x0, d = torch.tensor([0.0, 0.75, -1.5]), torch.tensor([0.5, 1.0, 0.0])

    def f(X):
        return (X[:, :1] > threshold).float()

    rows = [
        only(
            measure(FirstChange(direction=d, screen=screen), FunctionSubject(f, x0, batch=3, first=lambda X: X[:, :1]))
        )
        for screen in (True, False)
    ]
    for row in rows:
        last, first = row["s_last_same"], row["s_first_changed"]
        assert row["exact"] is False
        assert row["dense_coordinates"] == 1
        assert first == math.nextafter(last, math.inf)
        assert not bool(f(rounded(x0, d, last)[None]))
        assert bool(f(rounded(x0, d, first)[None]))
        assert row["coordinate"] == 0
        assert row["output_jump"] == 1
    different = {name for name in rows[0] if rows[0][name] != rows[1][name]}
    assert different == set()


def test_a_zero_that_does_not_matter_leaves_the_listed_boundary():
    x0, d = torch.tensor([0.0, 0.75, -1.5]), torch.tensor([0.5, 1.0, 0.0])
    dead = FunctionSubject(lambda X: (moved(X, x0)[:, 1:2] >= 4).float(), x0, first=lambda X: X)
    row = only(measure(FirstChange(direction=d), dead))
    assert row["s_first_changed"] == first_change(dead.fn, x0, torch.tensor([0.0, 1.0, 0.0]))[1]
    assert row["coordinate"] == 1
    assert row["exact"] is False


def test_a_zero_that_matters_takes_one_whole_forward():
    """The pair between two samples is found by states; only what they found is run through the whole model."""
    x0, d = torch.tensor([0.0, 0.75, -1.5]), torch.tensor([0.5, 1.0, 0.0])

    def f(X):
        return (X[:, :1] > 1e-12).float()

    subject = FunctionSubject(f, x0, first=f)
    subject.noise_floor()
    row = only(result := measure(FirstChange(direction=d), subject))
    assert result.execution.forwards == 1 + 1
    assert rounded(x0, d, row["s_first_changed"])[0] == np.nextafter(np.float32(1e-12), np.float32(1))


@pytest.mark.parametrize("screen", [True, False])
def test_a_state_that_changes_before_the_output_does_is_passed_over(screen):
    """The state changes at 1e-20, the output at 3e-9 only: between samples both ends have to be asked whole."""
    x0, d = torch.tensor([0.0, 0.75]), torch.tensor([0.5, 1.0])

    def f(X):
        return (X[:, :1] > 3e-9).float()

    subject = FunctionSubject(f, x0, batch=2, first=lambda X: (X[:, :1] > 1e-20).float())
    row = only(measure(FirstChange(direction=d, screen=screen), subject))
    assert row["s_first_changed"] == math.nextafter(row["radius"], 1)
    assert rounded(x0, d, row["radius"])[0] == np.float32(3e-9)
    assert rounded(x0, d, row["s_first_changed"])[0] == np.nextafter(np.float32(3e-9), np.float32(1))


def test_an_output_that_returns_between_two_samples_is_still_the_first_change():
    """State and output change where the bisected states do, and the output is back at the next sample."""
    x0, d = torch.tensor([0.0, 0.75]), torch.tensor([0.5, 1.0])
    sample = next(iter(_samples_above(x0, d, 1e-12)))

    def f(X):
        x = X[:, :1].double()
        return ((x > 1e-12) & (x < 0.5 * sample)).float()

    subject = FunctionSubject(f, x0, first=lambda X: (X[:, :1] > 1e-12).float())
    row = only(measure(FirstChange(direction=d), subject))
    assert rounded(x0, d, row["s_first_changed"])[0] == np.nextafter(np.float32(1e-12), np.float32(1))


def _samples_above(x0, d, value):
    return (cell.first_changed for cell in Lattice(x0, d).samples(1.0) if 0.5 * cell.first_changed > value)


def test_a_direction_that_spares_the_zeros_is_exact():
    x0, d = torch.tensor([0.0, 0.75, -1.5]), torch.tensor([0.0, 1.0, 0.5])
    result = measure(FirstChange(direction=d), FunctionSubject(lambda X: X, x0))
    assert only(result)["exact"] is True
    assert "Every distinct input below it was tried." in result.sentence


def test_sampled_rays_are_said_to_be_sampled():
    x0 = torch.tensor([0.0, 0.75])
    result = measure(FirstChange(direction=torch.eye(2)), FunctionSubject(lambda X: X, x0))
    assert "1 of 2 rays move exact zeros of the embedding, which are sampled, not listed" in result.sentence
    assert result.readings["exact"].value == 0.5


# --- in words


def sentence_of(fn, direction, x0=X0, **settings):
    return measure(FirstChange(direction=direction, **settings), FunctionSubject(fn, x0)).sentence


def test_the_sentence_fits_what_was_found():
    e0 = torch.tensor([1.0, 0, 0, 0])
    assert "exactly where the rounded input itself first changes." in sentence_of(lambda X: X, e0)
    zero = torch.tensor([-0.0, 1.0]).half()
    first = only(measure(FirstChange(direction=torch.tensor([2.0**-10, 1.0])), FunctionSubject(lambda X: X, zero)))
    assert (first["radius"], first["lattice_radius"], first["rho"]) == (0, 0, 1)
    later = measure(FirstChange(direction=torch.tensor([2.0**-10, 1.0])), FunctionSubject(lambda X: X[:, 1:], zero))
    assert (only(later)["lattice_radius"], only(later)["rho"]) == (0, math.inf)
    signed = sentence_of(lambda X: X[:, 1:], torch.tensor([2.0**-10, 1.0]), zero)
    assert "far beyond s = " in signed
    assert ", where the rounded input itself first changes." in signed
    assert "inf" not in signed
    assert "5 times the step at which" in sentence_of(lambda X: (moved(X)[:, :1] >= 3).float(), e0)
    never = sentence_of(lambda X: X[:, 1:], e0, max_cells=5)
    assert "Along the ray the output keeps every bit up to s = " in never
    assert "which is as far as it was searched." in never
    lost = sentence_of(lambda X: X, torch.tensor([1.0, 0]), torch.tensor([0.0, 1.0]))
    assert "no coordinate of the input that could be listed moves." in lost
    assert "nan" not in lost


def test_the_noise_floor_stands_beside_the_jump():
    """This function answers alone in another way than in company: by 0.5 in one element."""
    subject = FunctionSubject(lambda X: X + (torch.arange(4) == 2) * (len(X) == 1) / 2, X0, batch=4)
    result = measure(FirstChange(direction=torch.eye(4)), subject)
    assert result.noise == subject.noise_floor().sentence
    assert result.noise.startswith("0.5 (L2), between batch 4 and batch 1")
    assert measure(StabilityFan(angles=3), subject).noise == result.noise


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda: FirstChange(s_max=0), "s_max=0 leaves no step"),
        (lambda: FirstChange(s_max=math.nan), "s_max=nan leaves no step"),
        (lambda: FirstChange(max_cells=0), "max_cells=0 is no count; give a whole number, at least 1"),
        (lambda: FirstChange(rule="p16"), "rule 'p16' is not one of p64r, p32, native"),
        (lambda: StabilityFan(angles=0), "angles=0 is no count"),
        (lambda: StabilityFan(angles=2.5), "angles=2.5 is no count"),
        (lambda: StabilityFan(plane=("v1",)), "does not name two directions"),
        (lambda: StabilityFan(plane="v1"), "plane='v1' does not name two directions"),
        (lambda: StabilityFan(s_max=-1.0), "leaves no step"),
    ],
)
def test_a_search_that_can_find_nothing_is_refused(call, fragment):
    with pytest.raises(UsageError, match=re.escape(fragment)):
        call()


# --- models


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 3)])
def test_a_model_changes_first_where_the_plain_enumeration_says(path, batch, dtype):
    subject = CausalLMSubject(load("tiny:llama", dtype=dtype), IDS, path=path, batch=batch)
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(4, 64, generator=generator, dtype=torch.float64)
    directions[:, subject.x0.abs() < 0.02] = 0  # many floats lie between zero and them
    results = [measure(FirstChange(direction=directions, screen=screen), subject) for screen in (True, False)]
    assert results[0].execution.screened > 0
    assert results[1].execution.screened == 0
    for row, twin, d in zip(results[0].rows, results[1].rows, directions, strict=True):
        assert row["exact"]
        lone = _in_slot(subject, row["slot"])
        assert (row["cells"], row["s_first_changed"]) == first_change(lone, subject.x0, d)
        assert row["s_first_changed"] == twin["s_first_changed"]
        assert row["cells"] == twin["cells"]


@pytest.mark.parametrize(
    ("dtype", "zeros"),
    [("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True), ("float16", False)],
)
def test_a_certificate_costs_little_more_than_one_whole_forward(dtype, zeros):
    """At most 1.3 whole forwards a direction, the baseline's included, also where exact zeros move."""
    loaded = load("tiny:llama", dtype=dtype)
    if zeros:
        loaded.model.get_input_embeddings().weight.data[IDS[-1], :3] = 0
    subject = CausalLMSubject(loaded, IDS, path="decode", batch=8)
    directions = torch.randn(96, 64, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    directions[:, (subject.x0.abs() < 0.02) & (subject.x0 != 0)] = 0  # many floats lie between zero and them
    subject.noise_floor()
    result = measure(FirstChange(direction=directions), subject)
    assert result.readings["exact"].value == (0 if zeros else 1)
    assert result.readings["censored"].value == 0
    assert result.execution.forwards <= 1.3 * 96
    for row in result.rows[::16]:
        lone = _in_slot(subject, row["slot"])
        d = directions[int(row["direction"])]
        same, other = (lone(rounded(subject.x0, d, row[name])[None]) for name in ("s_last_same", "s_first_changed"))
        assert bits_equal(same[0], subject.baseline[row["slot"]])
        assert not bits_equal(other[0], subject.baseline[row["slot"]])


def _in_slot(subject, slot):
    def f(x):
        X = subject.copies(subject.batch)
        X[slot] = x[0]
        return subject.evaluate(X)[slot : slot + 1]

    return f


# --- directions, as given


def test_directions_come_as_tensors_names_recipes_and_lists():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    subject = FunctionSubject(lambda X: X @ matrix, X0)
    recipe = strategies.Direction("axis", (2, 1), 4)
    e3, e2 = torch.eye(4)[3], torch.eye(4)[2]
    for direction, wanted, labels in [
        (e3, [e3], ["0"]),
        (torch.stack([e3, 2 * e2]), [e3, 2 * e2], ["0", "1"]),
        ("v1", [e3], ["v1"]),
        ("-v2", [-e2], ["-v2"]),
        (["v1", "v2"], [e3, e2], ["v1", "v2"]),
        (recipe, [e2], [repr(recipe)]),
        (["v1", recipe], [e3, e2], ["v1", repr(recipe)]),
    ]:
        result = measure(FirstChange(direction=direction), subject)
        found = torch.from_numpy(result.arrays["directions"])
        torch.testing.assert_close(found, torch.stack(wanted).double(), rtol=0, atol=1e-6)
        assert [row["direction"] for row in result.rows] == labels


def test_a_direction_is_used_exactly_as_given_in_its_own_precision():
    """No normalisation, no rounding to the model's dtype: the step scales with the direction, to the bit."""
    d = torch.tensor([1 / 3, 0.1, 0.2, -0.7], dtype=torch.float64)
    subject = FunctionSubject(lambda X: X, X0)
    for given in (d, 1024 * d, d.float()):
        row = only(measure(FirstChange(direction=given), subject))
        assert row["s_first_changed"] == next_step(X0, given, 0.0)
    assert next_step(X0, d, 0.0) != next_step(X0, d.float(), 0.0)


@pytest.mark.parametrize(
    ("direction", "error", "fragment"),
    [
        (torch.zeros(4), UsageError, "the direction is zero"),
        (torch.stack([torch.ones(4), torch.zeros(4)]), UsageError, "the direction is zero"),
        (torch.ones(5), UsageError, r"directions have shape \(5,\); give \(4,\) or \(N, 4\)"),
        (torch.ones(1, 2, 4), UsageError, r"shape \(1, 2, 4\)"),
        (torch.tensor(1.0), UsageError, r"shape \(\)"),
        (torch.ones(4, dtype=torch.int64), UsageError, "directions are int64; give floating-point numbers"),
        (torch.ones(0, 4), UsageError, "there is none; give at least one"),
        ([], UsageError, "the list of directions is empty"),
        ("w1", UsageError, "direction 'w1' is not 'v1', '-v2'"),
        ("v0", UsageError, "direction 'v0' is not"),
        ("v5", UsageError, "v5 does not exist: the input has 4 coordinates"),
        (torch.tensor([1.0, float("nan"), 0, 0]), InvalidError, "the direction is nan at coordinate 1"),
    ],
)
def test_a_wrong_direction_is_refused(direction, error, fragment):
    with pytest.raises(error, match=fragment):
        measure(FirstChange(direction=direction), FunctionSubject(lambda X: X, X0))


@pytest.mark.parametrize("screen", [True, False])
def test_an_output_that_is_no_number_is_never_unchanged(screen):
    """A comparison by value would call nan changed forever, one by `not a > b` unchanged: it is neither."""

    def breaks(X):
        return torch.where(moved(X)[:, :1] >= 2, torch.nan, X[:, 1:2])

    subject = FunctionSubject(breaks, X0, first=lambda X: X)
    with pytest.raises(InvalidError, match="output 0 of row 0 is nan"):
        measure(FirstChange(direction=torch.tensor([1.0, 0, 0, 0]), screen=screen), subject)
    with pytest.raises(InvalidError, match="is inf"):
        measure(FirstChange(direction=torch.ones(4)), FunctionSubject(lambda X: X / 0, X0))


@pytest.mark.parametrize("rule", ["p64r", "p32", "native"])
def test_the_rule_decides_the_rounding_and_is_recorded(rule):
    d = torch.tensor([1 / 3, 0.1, 0.2, -0.7], dtype=torch.float64)
    result = measure(FirstChange(direction=d, rule=rule), FunctionSubject(lambda X: X, X0))
    assert result.parameters["rule"] == rule
    evaluated = {
        "p64r": lambda s: rounded(X0, d, s),
        "p32": lambda s: X0 + torch.tensor(s).float() * d.float(),
        "native": lambda s: X0 + torch.tensor(s).float() * d.float(),
    }[rule]
    row = only(result)
    assert torch.equal(evaluated(row["s_last_same"]), X0)
    assert not torch.equal(evaluated(row["s_first_changed"]), X0)


# --- the fan


def test_a_fan_is_one_ray_an_angle_in_the_plane():
    matrix = torch.diag(torch.tensor([8.0, 4.0, 1.0, 2.0]))
    subject = FunctionSubject(lambda X: X @ matrix, X0, batch=4)
    result = measure(StabilityFan(angles=12), subject)
    degrees = [30.0 * k for k in range(12)]
    assert [row["angle_deg"] for row in result.rows] == degrees == result.arrays["angle_deg"].tolist()
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    wanted = torch.zeros(12, 4, dtype=torch.float64)
    wanted[:, 0], wanted[:, 1] = torch.cos(radians), torch.sin(radians)
    found = torch.from_numpy(result.arrays["directions"])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    radii = [math.nextafter(next_step(X0, d, 0.0), 0) for d in found]
    assert [row["radius"] for row in result.rows] == radii
    assert result.readings["radius"].value == min(radii)
    assert result.readings["angle"].value == degrees[int(np.argmin(radii))]
    assert result.readings["anisotropy"].value == max(radii) / min(radii) > 1
    assert result.rows[1]["direction"] == "30 deg"


def test_a_fan_spans_any_plane():
    matrix = torch.diag(torch.tensor([8.0, 4.0, 1.0, 2.0]))
    result = measure(StabilityFan(angles=4, plane=("v4", "-v3")), FunctionSubject(lambda X: X @ matrix, X0))
    wanted = torch.tensor([[0, 0, 1, 0], [0, 0, 0, -1], [0, 0, -1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(result.arrays["directions"]), wanted, rtol=0, atol=1e-6)


def test_statistics_of_a_fan_are_those_of_its_radii():
    """All angles in float64, where the input changes at once: the radii follow the lattice, which is known."""
    matrix = torch.diag(torch.tensor([8.0, 4.0, 1.0, 2.0]))
    result = measure(StabilityFan(angles=16), FunctionSubject(lambda X: X @ matrix, X0, batch=4))
    values = {name: reading.value for name, reading in result.readings.items()}
    turns = [2 * math.pi * k / 16 for k in range(16)]
    radii = [math.nextafter(next_step(X0, torch.from_numpy(d), 0.0), 0) for d in result.arrays["directions"]]
    assert values["mean_radius"] == pytest.approx(statistics.fmean(radii), rel=1e-12, abs=0)
    assert values["median_radius"] == pytest.approx(statistics.median(radii), rel=1e-12, abs=0)
    assert values["std_radius"] == pytest.approx(statistics.pstdev(radii), rel=1e-9, abs=0)
    assert values["max_radius"] == max(radii)
    assert values["range_radius"] == pytest.approx(max(radii) - min(radii), rel=1e-12, abs=0)
    assert values["widest_angle"] == 22.5 * radii.index(max(radii))
    corners = [(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turns, strict=True)]
    shoelace = sum(x * v - u * y for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1], strict=True)) / 2
    assert values["area"] == pytest.approx(shoelace, rel=1e-9, abs=0)
    assert [values[f"radius_{angle}"] for angle in (0, 90, 180, 270)] == radii[::4]
    ratios = [max(a, b) / min(a, b) for a, b in zip(radii[:8], radii[8:], strict=True)]
    assert values["opposite_ratio"] == pytest.approx(statistics.median(ratios), rel=1e-12, abs=0)
    assert values["opposite_ratio"] > 1


def test_a_fan_with_a_radius_of_zero_has_no_ratio_of_opposite_ones():
    radii = (0.0, 1.0, 2.0, 3.0)
    found = _statistics([{"radius": radius, "angle_deg": 90.0 * k} for k, radius in enumerate(radii)])
    assert math.isnan(found["opposite_ratio"])
    assert (found["anisotropy"], found["angle"], found["widest_angle"]) == (math.inf, 0.0, 270.0)
    assert tuple(found[f"radius_{angle}"] for angle in (0, 90, 180, 270)) == radii


@pytest.mark.parametrize("angles", [1, 2, 3, 7])
def test_fans_of_few_angles_have_what_can_be_said(angles):
    matrix = torch.diag(torch.tensor([8.0, 4.0, 1.0, 2.0]))
    values = measure(StabilityFan(angles=angles), FunctionSubject(lambda X: X @ matrix, X0)).readings
    assert math.isnan(values["opposite_ratio"].value) == (angles % 2 == 1)
    assert (values["area"].value > 1e-20) == (angles > 2)
    assert values["directions"].value == angles


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fan_in_a_narrow_dtype_is_that_of_the_plain_enumeration(dtype):
    """A dense product in 8 or 11 bits absorbs some changes of its input: the radius lies beyond the lattice's."""
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).to(dtype)
    x0 = torch.tensor([0.75, -1.3125, 0.34, 5.5]).to(dtype)
    subject = FunctionSubject(lambda X: X @ matrix, x0, batch=8)
    result = measure(StabilityFan(angles=24), subject)
    found = [(row["cells"], row["s_first_changed"]) for row in result.rows]
    wanted = [
        first_change(_in_slot(subject, row["slot"]), x0, torch.from_numpy(d))
        for row, d in zip(result.rows, result.arrays["directions"], strict=True)
    ]
    assert found == wanted
    assert result.readings["exact"].value == 1
    assert max(row["rho"] for row in result.rows) > 1


def test_a_fan_through_an_island_names_the_first_change_everywhere():
    x0 = torch.tensor([0.75, 0.875, 1.25, 1.5])
    matrix = torch.diag(torch.tensor([8.0, 4.0, 1.0, 2.0]))
    subject = FunctionSubject(lambda X: X @ matrix, x0, batch=2)
    measure(StabilityFan(angles=3), subject)  # v1 and v2 are of the smooth function

    def fn(X):
        floats = moved(X, x0)[:, :2].amax(dim=1, keepdim=True)
        return ((floats == 2) | (floats >= 20)).float()

    island_subject = FunctionSubject(fn, x0, batch=2)
    result = measure(FirstChange(direction=torch.eye(4)[:2]), island_subject)
    assert [row["cells"] for row in result.rows] == [2, 2]
