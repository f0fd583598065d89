"""Which decades are tried by default, what the rows are stated to be, and which of several rays a sentence is about."""

import pytest
import torch

from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.regimes import Regimes
from stabilitykit.measurements.scan import Plan
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.precision import SELF_TEST

X0 = torch.tensor([0.75, -1.3125, 0.5123, 5.5])
GAIN = torch.tensor([3.0, 0.5, 20.0, 1.0], dtype=torch.float64)


def exact(X):
    return X.double() * GAIN


def noisy(X):
    """The true function, and 1e-4 more or less by the last bit of each coordinate that moved."""
    sign = 1.0 - 2.0 * (X.contiguous().view(torch.int32) & 1).double()
    return exact(X) + 1e-4 * sign * (X != X0)


@pytest.mark.parametrize(("dtype", "lowest"), [(torch.float32, -13), (torch.float64, -22)])
def test_the_decades_by_default_begin_far_below_the_last_bit(dtype, lowest):
    subject = FunctionSubject(exact, X0.to(dtype), exact=exact, batch=8)
    result = measure(Regimes(torch.eye(4)[0], points=1, replicates=100), subject)
    tried = {row["decade"] for row in result.rows if row["part"] == "point" and not row["certified"]}
    assert tried == set(range(lowest, 1))


@pytest.mark.parametrize(("dtype", "floors"), [(torch.float32, 1), (torch.float64, 2)])
def test_a_float64_subject_is_stated_to_take_a_second_noise_floor(dtype, floors):
    """A batch natively, one in float64, the baseline and self-test there, and a floor of 2 B + 15 rows."""
    subject = FunctionSubject(exact, X0.to(dtype), exact=exact, batch=8)
    asked, search = Regimes(torch.eye(4)[0], decades=(0, 1), points=1), FirstChange(torch.eye(4)[0])
    rest = asked.cost(subject).forwards - search.cost(subject).forwards
    assert rest == 8 * (1 + 1 + 1) + SELF_TEST + floors * (2 * 8 + 15)


def test_the_float64_twin_is_stated_to_take_five_rows_for_one_step():
    """The step, the certified one, one on either side of x0 for the tangent, and the step on the ray itself."""
    subject = FunctionSubject(exact, X0, exact=exact, batch=1)
    asked, search = Regimes(torch.eye(4)[0], decades=(0, 1), points=1), FirstChange(torch.eye(4)[0])
    rest = asked.cost(subject).forwards - search.cost(subject).forwards
    assert rest == 1 + (1 + 5) + SELF_TEST + (2 * 1 + 15)


@pytest.mark.parametrize(("rays", "along"), [([3], "the ray"), ([0], "the ray"), ([0, 3], "the nearest of 2 rays")])
def test_the_sentence_tells_the_smallest_stable_step(rays, along):
    """The float spacing of the fourth coordinate is 8 times that of the first, and so is its stable radius."""
    result = measure(Regimes(torch.eye(4)[rays], replicates=100), FunctionSubject(noisy, X0, exact=exact, batch=8))
    nearest = min(row["eps_stable"] for row in result.rows if row["part"] == "ray")
    assert result.sentence.startswith(f"Along {along} the output keeps every bit up to a step of {nearest:.3g}")


def test_the_sentence_tells_the_widest_chaotic_band():
    result = measure(Regimes(torch.eye(4)[[0, 2]], replicates=100), FunctionSubject(noisy, X0, exact=exact, batch=8))
    narrow, wide = sorted(f"{row['chaotic_decades']:.2g}" for row in result.rows if row["part"] == "ray")
    assert narrow < wide
    assert f"is up to {wide} decades wide." in result.sentence


def test_a_seed_gives_the_same_steps_in_every_version():
    """Baselines compare thresholds that hang on where in its decade a step was drawn."""
    steps = Plan(1.0, (0, 3), 1, 0, 0.1).steps(0).tolist()
    assert steps == pytest.approx([3.2495380354723715, 89.22030351678919, 139.36689126371573], rel=1e-12)
