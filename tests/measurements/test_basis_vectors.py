"""BasisVectors on a head with a planted column, and without."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

import stabilitykit as sk


def with_head(change=None):
    loaded = sk.load("tiny")
    with torch.no_grad():
        if change is not None:
            change(loaded.model.lm_head.weight)
    return sk.adopt(loaded.model, loaded.tokenizer)


def asked(loaded, **how):
    return sk.measure(sk.BasisVectors(**how), loaded, progress=False)


def value(result, name):
    return result.readings[name].value


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == wanted for name, wanted in where.items())]


def test_a_planted_column_sticks_out_and_its_tokens_are_named():
    def plant(W):
        W[:, 11] *= 20
        W[65, 11], W[66, 11], W[67, 11] = 90.0, 80.0, -95.0

    result = asked(with_head(plant))
    assert value(result, "outliers") == 1
    assert result.readings["max_robust_z"].place["component"] == "11"
    assert [row["component"] for row in rows(result, "basis", outlier=True)] == [11]
    assert [row["component"] for row in rows(result, "basis", far_pc1=True)] == [11]
    top, bottom = (rows(result, "column", side=side) for side in ("top", "bottom"))
    assert [(row["token"], row["weight"]) for row in top[:2]] == [("A", 90.0), ("B", 80.0)]
    assert (bottom[0]["token"], bottom[0]["component"]) == ("C", 11)
    assert (len(top), len(bottom)) == (10, 10)
    assert "11 (" in result.sentence


def test_a_column_that_is_too_short_sticks_out_as_well():
    def plant(W):
        W[:, 5] *= 1e-3

    result = asked(with_head(plant))
    assert [row["component"] for row in rows(result, "basis", outlier=True)] == [5]
    assert rows(result, "basis", component=5)[0]["robust_z"] < -6


def test_the_clean_twin_has_none():
    result = asked(with_head())
    assert value(result, "outliers") == value(result, "far_pc1") == value(result, "far_pc2") == 0
    assert not rows(result, "basis", outlier=True)
    assert {row["component"] for row in rows(result, "column")} == {int(result.arrays["robust_z"].__abs__().argmax())}


def test_lengths_and_entropies_are_those_of_numpy():
    loaded = with_head()
    W = loaded.model.lm_head.weight.double().numpy()
    result = asked(loaded)
    nats = entropy(softmax(W, axis=0), axis=0)
    assert result.arrays["norm"] == pytest.approx(np.linalg.norm(W, axis=0), rel=1e-12)
    assert result.arrays["entropy"] == pytest.approx(nats, rel=1e-12)
    assert value(result, "min_entropy") == pytest.approx(nats.min(), rel=1e-12)
    assert value(result, "log_vocabulary") == math.log(len(W))
    assert value(result, "max_entropy_gap") == pytest.approx(1 - nats.min() / math.log(len(W)), rel=1e-9)
    assert [row["entropy_gap"] for row in rows(result, "basis")] == pytest.approx(math.log(len(W)) - nats, rel=1e-9)
    assert result.execution.forwards == 0


def test_permuted_components_permute_the_rows():
    order = np.random.Generator(np.random.PCG64(0)).permutation(64)

    def shuffle(W):
        W.copy_(W[:, torch.from_numpy(order)])

    plain, shuffled = asked(with_head()), asked(with_head(shuffle))
    for name in ("norm", "robust_z", "entropy"):
        assert shuffled.arrays[name] == pytest.approx(plain.arrays[name][order], rel=1e-12)
    assert shuffled.arrays["pc"] == pytest.approx(plain.arrays["pc"][order], rel=1e-6, abs=1e-6)


def test_many_outliers_are_counted_and_the_furthest_named():
    def plant(W):
        W[:, :15] *= torch.linspace(30, 60, 15)

    result = asked(with_head(plant), tokens=3)
    assert value(result, "outliers") == 15
    assert {row["component"] for row in rows(result, "column")} == set(range(3, 15))
    z = {row["component"]: row["robust_z"] for row in rows(result, "basis")}
    furthest = ", ".join(f"{j} ({z[j]:.0f})" for j in range(14, 8, -1))
    assert f"15 of 64 columns of the head are outliers by their length, in deviations from the median: {furthest}." in (
        result.sentence
    )


def test_bounds_below_one_and_a_single_token_can_be_asked_for():
    def plant(W):
        W[:, 3] *= 40

    result = asked(with_head(plant), beyond=0.5, deviations=0.5, tokens=1)
    z = np.array([row["robust_z"] for row in rows(result, "basis")])
    assert value(result, "outliers") == (np.abs(z) > 0.5).sum()
    tokens = [row["component"] for row in rows(result, "column")]
    assert len(tokens) == 2 * len(set(tokens)), "one from either end of a column"


@pytest.mark.parametrize("how", [{"beyond": 0.0}, {"deviations": -1.0}, {"tokens": 0}])
def test_what_cannot_be_meant_is_refused(how):
    with pytest.raises(sk.UsageError):
        sk.BasisVectors(**how)
