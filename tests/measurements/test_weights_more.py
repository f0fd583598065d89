"""Parts of the weight statistics by themselves: sentences, spectra and trends of rows that are made up."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

import stabilitykit as sk
from stabilitykit.measurements.weight_rows import spectral
from stabilitykit.measurements.weight_trends import FOLLOWED, JUDGED, depth_rows, outlier_rows
from stabilitykit.measurements.weights import _sentence


def test_the_sentence_tells_shares_in_percent_and_what_is_left_out_only_where_something_is():
    one = {"name": "W", "not_finite": 0, "params": 8, "exact_bfloat16": 0.5, "max_over_rms": math.nan}
    said = "1 weights with 8 elements: bfloat16 holds 50% of them exactly, float16 makes 0 infinite or 0."
    assert _sentence([one], [], 0) == said
    assert _sentence([one], [], 3) == f"{said} 3 tensors of other dtypes are left out."


def test_a_statistic_that_is_unknown_in_one_block_has_no_trend():
    rows = [{"weight": "W", "layer": k, **dict.fromkeys(FOLLOWED, float(k)), "std": math.nan} for k in range(2)]
    rows[0]["std"] = 1.0
    found = depth_rows(rows, 9, 0)
    assert {one["statistic"] for one in found} == set(FOLLOWED) - {"std"}


def test_a_block_is_held_against_the_others_as_by_the_t_test_of_one_against_many():
    """The chance given is so large that every comparison is a row."""
    values = [1.0, 1.5, 0.75, 1.25, 3.0, 1.125]
    rows = [{"name": f"W{k}", "weight": "W", "layer": k, **dict.fromkeys(JUDGED, one)} for k, one in enumerate(values)]
    found = outlier_rows(rows, math.inf)
    assert len(found) == len(JUDGED) * len(values)
    for one in found:
        others = np.delete(values, one["layer"])
        known = stats.ttest_ind_from_stats(one["value"], 0, 1, others.mean(), others.std(ddof=1), len(others))
        assert (one["t"], one["p"]) == pytest.approx(tuple(known), rel=1e-9)


@pytest.mark.parametrize(("same", "other"), [(-1.25, -2.0), (1.25, 2.0), (-1.25, 2.0)])
def test_a_block_apart_from_equal_ones_stands_infinitely_far_out_whatever_their_sign(same, other):
    """And no block does where all are equal."""
    values = [same] * 5 + [other]
    plain = {"weight": "W", "name": "w", **dict.fromkeys(JUDGED, 1.0)}
    (found,) = outlier_rows([{**plain, "layer": k, "kurtosis": value} for k, value in enumerate(values)], 0.01)
    assert (found["layer"], found["statistic"], found["value"]) == (5, "kurtosis", other)
    assert (found["t"], found["p"]) == (math.copysign(math.inf, other - same), 0)
    assert outlier_rows([{**plain, "layer": k, "kurtosis": same} for k in range(6)], 0.01) == []


@pytest.mark.parametrize("value", [0.1, -0.1])
def test_a_block_that_is_equal_to_equal_ones_up_to_rounding_does_not_stand_apart(value):
    """Three tenths added up and divided by three are no tenth; a millionth more is another value."""
    assert np.full(6, value).mean() != value
    rows = [{"weight": "W", "layer": k, "name": f"{k}.W", **dict.fromkeys(JUDGED, value)} for k in range(7)]
    assert outlier_rows(rows, 0.01) == []
    rows[3]["kurtosis"] *= 1 + 1e-6
    (row,) = outlier_rows(rows, 0.01)
    assert (row["layer"], row["statistic"], row["t"], row["p"]) == (3, "kurtosis", math.copysign(math.inf, value), 0)


def test_the_largest_norm_of_a_stack_is_that_of_its_largest_matrix_in_either_order():
    """The least stable rank is that of the other, of which one value is far above the rest."""
    stack = torch.diag_embed(torch.tensor([[4.0, 3.0, 2.0], [1.0, 1e-3, 1e-3]]))
    for tensor in (stack, stack.flip(0)):
        for how in ("norm", "all"):
            found = spectral(tensor, how)
            assert found["spectral_norm"] == pytest.approx(4, rel=1e-3)
            assert found["stable_rank"] == pytest.approx(1, rel=1e-3)


def test_the_least_singular_value_is_the_last_of_them():
    found = spectral(torch.diag(torch.tensor([4.0, 3.0, 2.0])), "all")
    assert (found["spectral_norm"], found["least_singular"], found["condition"]) == pytest.approx((4, 2, 2))


def test_what_a_cast_loses_is_counted_in_the_weights_that_are_finite(tmp_path):
    """A weight that is not, and one without elements, add nothing."""
    plain = torch.tensor([1e6, 1e-9, 3.4e38, 1e-45, 1.0])
    save_file(
        {"broken": torch.tensor([math.nan, 1.0]), "empty": torch.ones(0), "plain": plain}, tmp_path / "a.safetensors"
    )
    result = sk.measure(sk.WeightStatistics(spectra="none"), sk.Checkpoint(tmp_path), progress=False)
    assert (result.readings["tensors"].value, result.readings["not_finite"].value) == (3, 1)
    for dtype in (torch.float16, torch.bfloat16):
        cast, name = plain.to(dtype), str(dtype).removeprefix("torch.")
        assert result.readings[f"overflow_{name}"].value == int(cast.isinf().sum()) > 0
        assert result.readings[f"underflow_{name}"].value == int((cast == 0).sum()) > 0


def test_a_weight_that_is_not_finite_is_kept_by_no_narrower_dtype():
    """Nothing is known of its elements: they are counted, and none of them is held exactly or the largest of all."""
    names = ("max_abs", "max_over_rms", "kurtosis", "spectral_norm", "condition")
    whole = {
        "name": "W",
        "layer": 0,
        "weight": "W",
        "dims": 2,
        "params": 6,
        "not_finite": 0,
        **dict.fromkeys(names, 2.0),
    }
    whole |= {"exact_bfloat16": 1.0, "exact_float16": 0.5, "overflow_float16": 3, "underflow_bfloat16": 2}
    broken = {"name": "B", "layer": 1, "weight": "W", "dims": 2, "params": 2, "not_finite": 1}
    values = sk.WeightStatistics()._values([{**broken, **dict.fromkeys(names, math.nan)}, whole])
    assert (values["exact_bfloat16"], values["exact_float16"]) == (0.75, 0.375)
    assert (values["not_finite"], values["overflow_float16"], values["underflow_bfloat16"]) == (1, 3, 2)
    assert (values["tensors"], values["parameters"]) == (2, 8)
    assert [values[name].value for name in names] == [2.0] * 5


def test_one_block_may_be_decomposed_and_none_may_not():
    assert sk.WeightStatistics(spectra_blocks=1).spectra_blocks == 1
    with pytest.raises(sk.UsageError, match="looks at none"):
        sk.WeightStatistics(spectra_blocks=0)


def test_writing_weights_runs_nothing_through_the_model(tmp_path):
    asked = sk.WeightExport(tmp_path / "weights")
    assert asked.cost(sk.Checkpoint.of(sk.load("tiny"))) == sk.Cost()
