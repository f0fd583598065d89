"""What is said of modules, asked with made-up rows and products, and a site at which no chain of blocks ends."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.chain_bound import ChainBound
from stabilitykit.measurements.module_spectrum import _sentence
from stabilitykit.measurements.parts import Linear
from stabilitykit.numerics.linear_map import LinearMap


def test_modules_one_after_another_have_the_product_of_their_matrices():
    """From 3 numbers to 5 to 2."""
    A, B = (torch.randn(shape, generator=torch.Generator().manual_seed(0)).double() for shape in ((5, 3), (2, 5)))
    alone = {name: SimpleNamespace(linear_map=partial(LinearMap.of_matrix, one)) for name, one in (("a", A), ("b", B))}
    found = Linear(None, ("a", "b"), alone).map_of(("a", "b"), scale=3.0)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found.apply(torch.eye(3).double()).T, 3 * B @ A)
    torch.testing.assert_close(found.apply_adjoint(torch.eye(2).double()), 3 * B @ A)


def test_behind_the_head_no_chain_of_blocks_ends_and_the_bound_is_unknown(toys):
    A = torch.randn(8, 8, generator=torch.Generator().manual_seed(4))
    subject = toys.subject([toys.Matrix(A)], site="logits")
    result = sk.measure(sk.ModuleSpectrum(tolerance=1e-8, max_products=60, inside=0), subject)
    assert all(math.isnan(result.readings[name].value) for name in ("chain_bound", "chain_defect", "looseness"))
    assert result.subject["chain"] == "site logits is not the end of a chain of blocks"
    whole = subject.model.lm_head.weight.detach().double() @ A.double()
    assert result.readings["sigma_1"].value == pytest.approx(float(torch.linalg.svdvals(whole)[0]), rel=1e-5)


def test_the_largest_share_is_that_of_a_part_whose_share_is_known():
    rows = [
        {"part": "block", "block": 0, "module": "a", "sigma_1": 2.0, "share": math.nan},
        {"part": "module", "block": 0, "module": "b", "sigma_1": math.nan, "share": 0.5},
    ]
    chain = ChainBound(math.nan, 3.0, math.nan)
    assert _sentence(rows, chain).endswith(" The largest share of the output's rounding error, 0.5, is that of b.")
