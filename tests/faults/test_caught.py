"""Cells of the power table: which check sees which fault, and that the same check passes without it."""

from __future__ import annotations

import pytest

import stabilitykit as sk
from stabilitykit.faults.catalogue import NOTHING

GROSS = 256
"""Scaled ULP: no order of summation of these models comes near it, and each of these defects goes far beyond."""


@pytest.fixture(scope="module")
def loaded():
    return sk.load("tiny")


def reading(loaded, fault, asked, name, **how):
    with sk.planted(fault):
        subject = sk.CausalLMSubject(loaded, "ab cd", **how)
        return sk.measure(asked, subject, progress=False).readings[name].value


BATCH = sk.BatchInvariance(sizes=(8,), lengths=(4,))
CACHE = sk.CacheInvariance(lengths=(4,))


@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        ("dropped-head@many-rows", BATCH),
        ("dropped-mask@many-rows", BATCH),
        ("bf16-accumulation@one-token", CACHE),
        ("stale-kv", CACHE),
        ("wrong-rope@one-token", CACHE),
    ],
    ids=str,
)
def test_an_invariance_of_rounding_size_becomes_gross(loaded, fault, asked):
    assert reading(loaded, NOTHING, asked, "max_scaled_ulp") < GROSS / 8
    assert reading(loaded, fault, asked, "max_scaled_ulp") > GROSS


@pytest.mark.parametrize("fault", ["dropped-head", "split-k", "wrong-eps"])
def test_what_is_always_wrong_is_invariant_too(loaded, fault):
    """That is why such a fault needs a baseline: the reading moves, and no verdict does."""
    assert reading(loaded, fault, CACHE, "max_scaled_ulp") < GROSS
    clean, wrong = (reading(loaded, one, sk.BlockGain(), "magnification_realised") for one in (NOTHING, fault))
    assert clean != wrong


def test_a_product_that_is_not_linear_has_no_spectrum(loaded):
    """Forward and reverse derivatives of a sum that is kept in bfloat16 are those of two functions."""
    sk.measure(sk.SingularSpectrum(k=1), sk.CausalLMSubject(loaded, "ab cd"), progress=False)
    with sk.planted("bf16-accumulation"), pytest.raises(sk.InvalidError, match="are not adjoint"):
        sk.measure(sk.SingularSpectrum(k=1), sk.CausalLMSubject(loaded, "ab cd"), progress=False)


def test_only_decoding_meets_the_cache(loaded):
    """A race in the cache is no question to the prompt run whole, however often it is run."""
    asked = sk.RunToRun(runs=59)
    for path, fault, differs in (
        ("prefill", "stale-kv@every-101st", False),
        ("decode", "stale-kv@every-101st", True),
        ("prefill", "reordered-sum@every-101st", True),
        ("decode", NOTHING, False),
    ):
        assert (reading(loaded, fault, asked, "differing_runs", path=path) > 0) == differs, (path, fault)


def test_a_fault_that_begins_late_is_met_before_anything_is_measured(loaded):
    with sk.planted("tf32@from-the-second"), pytest.raises(sk.InvalidError, match="is not repeatable"):
        sk.CausalLMSubject(loaded, "ab cd")


def test_a_lost_mask_is_no_reason_to_skip(loaded):
    with sk.planted("dropped-mask"), pytest.raises(sk.InvalidError, match="has lost its mask"):
        sk.CausalLMSubject(loaded, "ab cd")
