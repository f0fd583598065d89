"""What a map is called, next to a line and a shuffle of its own size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stabilitykit.numerics.autocorrelation import moran, shuffled
from stabilitykit.numerics.grid import crossings, flip_ratio, normalised_flip_ratio, regions
from stabilitykit.numerics.local_entropy import entropy_ratio, local_entropy
from stabilitykit.numerics.texture import called, roughness, texture

E = np.linspace(-1, 1, 41)
L = 2 * E[:, None] + E[None, :]


def placed(D, smooth=L):
    found, random = texture(D >= 0, D), texture(shuffled(D >= 0), D)
    place = roughness(found, None if smooth is None else texture(smooth >= 0, smooth), random)
    return place, called(found, place)


def noise(seed=0):
    return np.random.default_rng(seed).standard_normal(L.shape)


def test_a_texture_is_its_statistics():
    D = L + 0.3 * noise()
    B, found = D >= 0, texture(D >= 0, D, shuffles=250, seed=3)
    counted, autocorrelation = regions(B), moran(B, shuffles=250, seed=3)
    assert (found.flip_ratio, found.flip_ratio_normalised) == (flip_ratio(B), normalised_flip_ratio(B))
    assert (found.share_first, found.crossings) == (B.mean(), crossings(D))
    assert (found.regions_first, found.regions_second) == counted[:2]
    assert (found.largest_region, found.regions_per_1000) == counted[2:]
    assert (found.moran, found.moran_z, found.moran_p) == autocorrelation
    assert (found.local_entropy, found.entropy_ratio) == (local_entropy(B).mean(), entropy_ratio(B))


def test_the_two_references_are_the_ends_of_the_scale():
    assert placed(L) == (0, "smooth")
    place, name = placed(noise())
    assert place == pytest.approx(1, abs=0.1)
    assert name == "random"
    place, name = placed(L + 0.5 * noise())
    assert 0.1 < place < 0.9
    assert name == "between"


def test_the_name_does_not_depend_on_the_size_of_the_map():
    """The study's thresholds were made for 201 x 201; regions and crossings grow with the map."""
    for n in (21, 101):
        e = np.linspace(-1, 1, n)
        plane = 2 * e[:, None] + e[None, :]
        chance = np.random.default_rng(n).standard_normal((n, n))
        assert placed(plane, plane)[1] == "smooth"
        assert placed(chance, plane)[1] == "random"


def test_a_flat_map_is_flat_and_never_random():
    for flat in (np.ones_like(L), -np.ones_like(L)):
        place, name = placed(flat)
        assert math.isnan(place)
        assert name == "flat"
        assert math.isnan(texture(flat >= 0, flat).entropy_ratio)


def test_without_a_smooth_reference_or_room_between_them_nothing_is_said():
    assert placed(noise(), None)[1] == "unknown"
    board = np.where(np.indices(L.shape).sum(axis=0) % 2, 1.0, -1.0)
    assert placed(noise(), board)[1] == "unknown"


def test_a_name_reaches_a_tenth_from_its_reference():
    found = texture(L + noise() >= 0, L)
    names = {place: called(found, place) for place in (0.1, 0.11, 0.89, 0.9)}
    assert names == {0.1: "smooth", 0.11: "between", 0.89: "between", 0.9: "random"}


def test_between_two_references_that_flip_equally_often_there_is_no_place():
    D = L + noise()
    found, same = texture(D >= 0, D), texture(L >= 0, L)
    assert found.flip_ratio != same.flip_ratio
    assert math.isnan(roughness(found, same, same))
