"""Which run of a kernel is the worst, what its truth takes and where it is told, and which layouts are tried."""

import math

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.kernels import noise_sentence
from stabilitykit.measurements.trials import layouts, true_result
from stabilitykit.subjects.kernel import Kernel


def test_a_run_that_is_not_finite_is_worse_than_any_error():
    """Every run is wrong by a factor of 2; of a row alone the last element is infinite as well."""

    def broken(x):
        y = 2 * x
        if len(x) == 1:
            y[0, -1] = math.inf
        return y

    kernel = Kernel(broken, "bh->bh", name="toy", exact=lambda x: x.double())
    result = sk.measure(sk.KernelAccuracy(shapes=((3, 5),), draws=("normal",), tries=1), kernel, progress=False)
    assert result.worst.where.startswith("y[0, 4] ")
    assert result.worst.where.endswith("run row 0 alone)")
    assert result.worst.right.startswith("inf ")


@pytest.mark.parametrize(
    ("signature", "names"),
    [("h->h", ["stepped", "shifted"]), ("bh->bh", ["transposed", "padded", "stepped", "shifted"])],
)
def test_a_vector_has_no_rows_to_lay_out(signature, names):
    assert layouts(Kernel(torch.clone, signature)) == names


def test_the_truth_takes_five_runs_of_the_reference():
    """On the inputs, on three patterns of moves by one ULP, and on inputs one float64 ULP away."""
    seen = []

    def reference(x):
        seen.append(x.clone())
        return x.double()

    x = torch.full((2, 3), 1.5)
    truth = true_result(Kernel(torch.clone, "bh->bh"), [x], reference, (0,))
    moves = [(one.double() - 1.5).abs().unique().tolist() for one in seen]
    assert moves == [[0.0], *[[2.0**-23]] * 3, [2.0**-52]]
    assert truth.given


def test_the_truth_is_told_where_it_can_be_trusted_least():
    rows = [{"truth_noise": noise, "shape": f"({k},)", "draw": "normal"} for k, noise in enumerate((0.5, 2.0, 1.0))]
    assert noise_sentence(rows).endswith("by at most 2 scaled ULP (shape (1,), draw normal)")
