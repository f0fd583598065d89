"""The readout of a real model: the figures that the study's questions have on it, counted exactly."""

import pytest
import torch

import stabilitykit as sk

pytestmark = pytest.mark.model


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads that wait for each other on a busy machine take minutes; their number decides bits, so it stays fixed."""
    ambient = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(ambient)


@pytest.fixture(scope="module")
def loaded():
    return sk.load("smollm2")


@pytest.fixture(scope="module")
def spread(loaded):
    return sk.measure(sk.PredictionSpread(["To be or"]), loaded)


def value(result, name):
    return result.readings[name].value


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == wanted for name, wanted in where.items())]


def test_components_needed_after_to_be_or_and_after_nothing(spread):
    """Whole numbers that no error of the curve below the line margin moves."""
    names = ("k_first", "k_stay", "k_first_rescaled", "k_stay_rescaled")
    asked, empty = rows(spread, "components")
    assert [asked[name] for name in names] == [356, 395, 351, 394]
    assert [empty[name] for name in names] == [132, 245, 121, 231]
    assert min(asked["line_margin"], empty["line_margin"]) > 1e-6
    assert value(spread, "first_share") == 356 / 576


def test_the_tokens_at_the_top_of_every_position(spread):
    tops = [[row["token"] for row in rows(spread, "top", number=0, position=t)] for t in range(4)]
    assert tops == [["-", ",", "\n"], ["Use", "Keep", "Add"], [" a", " used", " able"], [" not", " be", " avoid"]]
    logits = [row["logit"] for row in rows(spread, "top", number=0, position=3)]
    assert logits == pytest.approx([26.1195, 22.1758, 21.8192], abs=1e-3)


def test_how_state_and_logits_are_spread(spread):
    row, empty = rows(spread, "spread")
    figures = {"hidden_least": -21.816, "hidden_mean": -0.0211, "hidden_most": 21.205, "hidden_sd": 1.818}
    assert {name: row[name] for name in figures} == pytest.approx(figures, abs=1e-3)
    assert row["outliers"] == 6
    assert (row["top_probability"], row["entropy"]) == pytest.approx((0.8437, 1.2625), abs=1e-4)
    assert empty["top_probability"] == pytest.approx(0.37325, abs=1e-4)
    assert max(row["head_error"], empty["head_error"]) < 0.2


def test_no_component_is_a_grandmother(spread):
    """The largest component puts hundreds of tokens above the one that is said."""
    for row in rows(spread, "grandmother"):
        assert row["component"] == 199
        assert row["rank"] > 10_000
        assert not row["alone"]


def test_the_columns_that_stick_out(loaded):
    result = sk.measure(sk.BasisVectors(), loaded)
    furthest = sorted(rows(result, "basis"), key=lambda row: -abs(row["robust_z"]))[:6]
    assert [row["component"] for row in furthest] == [481, 31, 322, 247, 299, 507]
    assert [round(row["robust_z"]) for row in furthest] == [43, 43, 42, 38, 27, 26]
    assert value(result, "min_entropy") == pytest.approx(10.7692, abs=1e-4)
    assert value(result, "max_entropy") == pytest.approx(10.8011, abs=1e-4)
    assert value(result, "log_vocabulary") == pytest.approx(10.8027, abs=1e-4)
    assert value(result, "max_entropy_gap") < 0.01
    assert (value(result, "pc2_beyond_50"), value(result, "far_pc2")) == (0, 1)
    tops = {j: [row["token"] for row in rows(result, "column", component=j, side="top")] for j in (481, 31)}
    assert {" ", " and", " ("} <= set(tops[481])
    common = {row["token"] for row in rows(result, "column", component=31, side="bottom")}
    assert len(common & set(tops[481])) >= 5


def test_angles_norm_and_head_along_two_texts(loaded):
    prompts = ["The capital of France is", "To be or"]
    angles = sk.measure(sk.ReadoutAngles(prompts, 4), loaded)
    assert rows(angles, "position")[0]["token"] == " Paris"
    assert 70 < value(angles, "angle_1") < value(angles, "angle_100") < 90
    assert 0 < value(angles, "min_nearest_distance") <= value(angles, "min_distance")
    aligned = sk.measure(sk.NormAlignment(prompts, 4), loaded)
    chosen = [value(aligned, f"nearest_is_chosen_{when}") for when in ("before", "after")]
    assert chosen[0] < chosen[1]
    head = sk.measure(sk.HeadReplay(prompts, 4), loaded)
    assert (head.verdict, value(head, "differing_positions"), value(head, "flips")) == ("measured", 0, 0)
    assert value(head, "max_margin_change") < 1e-4
    assert value(head, "positions") == 8
