"""Long tokens at the bounds of what counts as long, and a defect that points the other way."""

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.defects import WAYS, _values
from stabilitykit.measurements.high_norms import high_norms


@pytest.mark.parametrize(("norm", "there"), [(8.0, False), (8.5, True)])
def test_a_long_vector_is_more_than_8_times_the_median_of_its_layer(norm, there):
    states = torch.tensor([1.0, 1.0, norm], dtype=torch.float64)[:, None, None]
    if there:
        assert high_norms(states, [[1, 2, 3]], tau=4.0).tracks.tolist() == [False, False, True]
    else:
        with pytest.raises(sk.UnsupportedError, match="8 times the median"):
            high_norms(states, [[1, 2, 3]], tau=4.0)


def test_the_share_of_the_dominant_coordinate_has_no_sign():
    """The long token explodes in block 1, along minus the second coordinate."""
    states = torch.ones(4, 3, 2, dtype=torch.float64)
    states[0, 2] = torch.tensor([0.0, -1000.0])
    found = high_norms(states, [[1, 2, 3, 4]])
    assert found.main() == (1, None)
    layer = {"growth": 1.0, "angle": 60.0, "role": "", "ulp_over_median": 1.0}
    layers = [{**layer, "block": 0}, {**layer, "block": 1, "angle": 1.0, "role": "explosion"}]
    vectors = [{"output_plus": 3.0, "output_minus": 0.5}, {"output_plus": 0.25, "output_minus": 0.125}]
    projections = [{"error": 0.1, "keep": keep} for keep in (False, True)]
    values = _values(found, layers, vectors, [{f"explodes_{way}": True for way in WAYS}], projections)
    assert (values["dominant_coordinate"], values["dominant_share"]) == (1, 1.0)
