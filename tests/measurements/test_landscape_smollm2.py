"""A real decision: the band around the tie of two tokens, and what of it the derivative, the head and floats decide."""

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements.logit_gap import LogitGap
from stabilitykit.measurements.tie_point import pair_of, reading_logits
from stabilitykit.numerics.bits import bits_equal

pytestmark = [pytest.mark.model, pytest.mark.long]

ASKED = sk.Landscape(n=15, again=None)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads that wait for each other on a busy machine take minutes; their number decides bits, so it stays fixed."""
    ambient = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(ambient)


@pytest.fixture(scope="module")
def subject():
    return sk.CausalLMSubject(sk.load("smollm2"), "The capital of France is", path="decode", batch=64)


@pytest.fixture(scope="module")
def whole(subject):
    return sk.measure(ASKED, subject)


def value(result, name):
    return result.readings[name].value


def test_the_two_tokens_mix_in_a_band_and_the_line_stands_outside(whole):
    """How many floors wide the band is depends on the floor at the tie, which differs by factors between ties."""
    assert whole.subject["tokens"] == [" Paris", " the"]
    assert value(whole, "unrepeated") == 0
    assert value(whole, "repeated") == value(whole, "inputs") == 225
    assert 0 < value(whole, "band_over_noise") < 16
    assert 0.3 < value(whole, "linear_rms_over_noise") < 8
    assert value(whole, "flip_ratio_outside") == 0
    assert 0.8 < value(whole, "linear_agreement") < 1
    assert value(whole, "roughness") < 0.6
    assert value(whole, "moran_z") > 5
    assert value(whole, "share_third") == 0
    assert abs(value(whole, "gap")) <= 2 * value(whole, "noise_gap")
    assert value(whole, "gradient_ratio") > 1


def test_from_closer_by_the_line_is_noise(subject, whole):
    near = sk.measure(sk.Zoom(whole, region=256.0, n=15, again=0), subject)
    assert value(near, "roughness") > 0.5
    assert value(near, "entropy_ratio") > 0.6 > value(whole, "entropy_ratio")
    assert value(near, "gradient_ratio") > 20 * value(whole, "gradient_ratio")
    assert value(near, "linear_r2") < 0.1 < value(whole, "linear_r2")
    assert near.arrays["x0"].tobytes() == whole.arrays["x0"].tobytes()


def test_the_map_repeats_bit_for_bit_also_from_its_arrays(subject, whole):
    e1, e2 = whole.arrays["e1"], whole.arrays["e2"]
    again = sk.measure(sk.Zoom(whole, ((e1[0], e1[-1]), (e2[0], e2[-1])), n=15, again=0), subject)
    for name in ("D", "linear", "inputs", "e1", "e2", "directions", "x0"):
        assert again.arrays[name].tobytes() == whole.arrays[name].tobytes(), name


def test_each_cell_is_what_the_model_says_of_that_input_alone(subject, whole):
    """One forward a cell, with all logits, at the same batch shape and slot, by the model itself."""
    x0, (h1, h2) = (torch.from_numpy(whole.arrays[name]) for name in ("x0", "directions"))
    a, b = whole.subject["pair"]
    for i, j in ((0, 0), (3, 11), (7, 8), (14, 2)):
        moved = whole.arrays["e1"][i] * h1 + whole.arrays["e2"][j] * h2
        X = subject.copies(64)
        slot = int(whole.arrays["inputs"][i, j]) % 64
        X[slot] = (x0.double() + moved).float()
        z = subject.states(X, ("logits",))["logits"][slot].double()
        assert whole.arrays["D"][i, j] == float(z[a] - z[b])


def test_the_prediction_is_the_derivative_of_the_difference(subject, whole):
    """J' (w_a - w_b) with the rows of the head, by another product than the map's own."""
    there = subject.at(torch.from_numpy(whole.arrays["x0"]))
    a, b = whole.subject["pair"]
    w = there.anatomy.head.weight[[a, b]].detach()
    gradient = there.vjp((w[0] - w[1])[None])[0].double()
    slope = torch.from_numpy(whole.arrays["directions"]) @ gradient
    L, e1, e2 = (whole.arrays[name] for name in ("linear", "e1", "e2"))
    assert (L[-1, 7] - L[0, 7]) / (e1[-1] - e1[0]) == pytest.approx(float(slope[0]), rel=1e-3)
    assert (L[7, -1] - L[7, 0]) / (e2[-1] - e2[0]) == pytest.approx(float(slope[1]), rel=1e-3)
    assert value(whole, "gradient_linear") == pytest.approx(float(slope.norm()), rel=1e-3)


def test_two_rows_of_the_head_have_other_bits_than_the_whole_head(subject):
    """Why the map reads the model's own logits: near the tie the last bit decides."""
    reader = reading_logits(subject)
    gap = LogitGap(reader, pair_of(reader, None))
    found = subject.states(subject.copies(64), ("post_norm", "logits"))
    rows = subject.anatomy.head.weight[list(gap.pair)].detach()
    two, own = found["post_norm"] @ rows.T, found["logits"][:, list(gap.pair)]
    assert not bits_equal(two, own)
    assert float((two - own).abs().max()) < 1e-5


def test_at_the_prompt_itself_the_map_is_flat(subject):
    result = sk.measure(sk.Landscape(at="prompt", unit="ulp", span=64.0, n=9, again=0), subject)
    assert result.subject["texture"] == "flat"
    assert np.isnan(value(result, "band_width"))
    assert value(result, "share_first") == 1
    assert result.subject["map_middle"] == result.subject["x0_digest"]
