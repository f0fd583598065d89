"""Signatures: what they say about axes, and what they refuse."""

from __future__ import annotations

import pytest

from stabilitykit.errors import UsageError
from stabilitykit.subjects.signature import Signature, Size


def test_spaces_do_not_matter_and_the_text_comes_back_compact() -> None:
    assert str(Signature.parse("m k, k n -> m n")) == "mk,kn->mn"
    assert Signature.parse("mk,kn->mn") == Signature(("mk", "kn"), "mn")


@pytest.mark.parametrize("text", ["", "bh", "bh-bh", "bh->bh->bh", "b1->b", "bh,,h>b", "->->"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not of the form 'mk,kn->mn'"):
        Signature.parse(text)


@pytest.mark.parametrize("text", ["bb->b", "bh->hh"])
def test_an_axis_twice_in_one_tensor_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="twice; give each axis its own letter"):
        Signature.parse(text)


@pytest.mark.parametrize(
    ("text", "axes", "rows", "summed"),
    [
        ("bh->bh", "bh", "b", "h"),
        ("mk,kn->mn", "mkn", "m", "k"),
        ("bhtd,bhsd,bhsd->bhtd", "bhtds", "b", "s"),
        ("h->h", "h", None, "h"),
        ("bh,h->bh", "bh", "b", "h"),
        ("kb->b", "kb", None, "k"),
        (",h->h", "h", None, None),
        ("bi->bo", "bi", "b", "i"),
    ],
)
def test_the_axes_that_are_taken_for_the_batch_and_the_sum(
    text: str, axes: str, rows: str | None, summed: str | None
) -> None:
    signature = Signature.parse(text)
    assert (signature.axes, signature.rows, signature.summed) == (axes, rows, summed)


@pytest.mark.parametrize("size", [(2, 3, 4), [2, 3, 4], {"n": 4, "m": 2, "k": 3}])
def test_sizes_are_numbers_in_the_order_of_the_axes_or_named(size: Size) -> None:
    signature = Signature.parse("mk,kn->mn")
    assert signature.sizes(size, {}) == {"m": 2, "k": 3, "n": 4}
    assert list(signature.shapes(signature.sizes(size, {}))) == [(2, 3), (3, 4)]


def test_a_fixed_axis_is_not_given() -> None:
    signature = Signature.parse("bh->bo")
    assert signature.sizes(5, {"h": 8}) == {"h": 8, "b": 5}
    assert signature.sizes((5,), {"h": 8}) == {"h": 8, "b": 5}


@pytest.mark.parametrize("size", [(2,), (2, 3, 4, 5), {"m": 2, "k": 3}, {"m": 2, "k": 3, "n": 4, "o": 1}, 7, ()])
def test_a_size_that_does_not_fit_is_refused_with_the_axes(size: Size) -> None:
    with pytest.raises(UsageError, match="does not fit mk,kn->mn: give the axes m, k, n, in this order"):
        Signature.parse("mk,kn->mn").sizes(size, {})


@pytest.mark.parametrize("size", [(2, 0, 4), (2, -1, 4)])
def test_an_axis_without_elements_is_refused(size: Size) -> None:
    with pytest.raises(UsageError, match="an axis 'k' without elements"):
        Signature.parse("mk,kn->mn").sizes(size, {})
