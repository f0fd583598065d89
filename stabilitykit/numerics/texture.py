"""Line or noise? The statistics of a map of two classes, read only next to two maps of its own size.

One is smooth: what a linear function decides. The other is random: the map's own cells, shuffled. A share of 50 %, or a
test that fails to reject chance, is no evidence of randomness and is not asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stabilitykit.numerics.autocorrelation import SHUFFLES, moran
from stabilitykit.numerics.grid import Mask, crossings, flip_ratio, normalised_flip_ratio, regions, share
from stabilitykit.numerics.local_entropy import entropy_ratio, local_entropy
from stabilitykit.numerics.rounding import Floats

TENTH = 0.1
"""Nearer than this to one of the two references a map is called like it."""

FLAT, SMOOTH, BETWEEN, RANDOM, UNKNOWN = "flat", "smooth", "between", "random", "unknown"


@dataclass(frozen=True)
class Texture:
    """The statistics of one map; nan where a flat or tiny map has none. See the functions they come from."""

    share_first: float
    flip_ratio: float
    flip_ratio_normalised: float
    crossings: float
    regions_first: int
    regions_second: int
    largest_region: float
    regions_per_1000: float
    moran: float
    moran_z: float
    moran_p: float
    local_entropy: float
    entropy_ratio: float


def texture(B: Mask, D: Floats, *, shuffles: int = SHUFFLES, seed: int = 0) -> Texture:
    """Return the statistics of the classes B of a map D. O(n shuffles)."""
    found, autocorrelation, entropies = regions(B), moran(B, shuffles=shuffles, seed=seed), local_entropy(B)
    return Texture(
        share(B),
        flip_ratio(B),
        normalised_flip_ratio(B),
        crossings(D),
        *(found.first, found.second, found.largest, found.per_1000),
        *(autocorrelation.coefficient, autocorrelation.z, autocorrelation.p),
        float(entropies.mean()) if entropies.size else math.nan,
        entropy_ratio(B),
    )


def roughness(found: Texture, smooth: Texture | None, random: Texture) -> float:
    """Return where the flip ratio lies between the smooth reference's, 0, and the random one's, 1.

    nan for a flat map, without a smooth reference, and where the references themselves do not differ in this order.
    """
    if smooth is None or math.isnan(found.flip_ratio_normalised):
        return math.nan
    room = random.flip_ratio - smooth.flip_ratio
    return (found.flip_ratio - smooth.flip_ratio) / room if room > 0 else math.nan


def called(found: Texture, place: float) -> str:
    """Return the name of a map at this place between the references: flat, smooth, between, random or unknown."""
    if found.share_first in (0.0, 1.0):
        return FLAT
    if math.isnan(place):
        return UNKNOWN
    return SMOOTH if place <= TENTH else RANDOM if place >= 1 - TENTH else BETWEEN
