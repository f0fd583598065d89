"""T4: every pattern of the narrow formats and of float32, and pairs of float32 and float64, against exact oracles.

The oracles never look at a bit pattern: ranks by sorting values that ml_dtypes decodes, exact integers from a
value's fraction, and the C library's `nextafter`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import ml_dtypes
import numpy as np
import torch
from torch import Tensor
from torture.campaign import Campaign, Trial, draw

from stabilitykit.errors import InvalidError
from stabilitykit.numerics import bits

NARROW = {
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float16: np.float16,
}
PART = 256
CHUNK = 1 << 20
PAIRS = 10_000
INT64_MAX = 2**63 - 1
PARTS = [(dtype, first) for dtype in NARROW for first in range(0, 1 << 8 * dtype.itemsize, PART)]


class Every:
    """All patterns of a narrow format in the order of their numbers, with their values and ranks; zero has rank 0."""

    def __init__(self, dtype: torch.dtype) -> None:
        width = 8 * dtype.itemsize
        codes = np.arange(1 << width).astype(f"uint{width}")
        with np.errstate(invalid="ignore"):  # decoding a signalling NaN raises the flag
            self.values = codes.view(NARROW[dtype]).astype(np.float64)
        self.x = torch.from_numpy(codes.view(f"int{width}")).view(dtype)
        self.sorted = np.unique(self.values[~np.isnan(self.values)])
        self.ranks = np.searchsorted(self.sorted, self.values) - int(np.searchsorted(self.sorted, 0.0))


every = functools.cache(Every)


def narrow(number: int) -> str | None:
    """Hold 256 patterns of a narrow format against the sorted values."""
    dtype, first = PARTS[number]
    all_of, part = every(dtype), slice(first, first + PART)
    x, values, ranks = all_of.x[part], all_of.values[part], all_of.ranks[part]
    nan, infinite = np.isnan(values), np.isinf(values)
    told = _classes(x, nan, infinite)
    if told or nan.all():
        return told
    numbers, ranks, values = x[torch.from_numpy(~nan)], ranks[~nan], values[~nan]
    others = torch.from_numpy(draw("T4a", number).permutation(np.flatnonzero(~np.isnan(all_of.values)))[: len(ranks)])
    apart = np.abs(ranks - all_of.ranks[others.numpy()])
    with_next = np.flatnonzero(values < all_of.sorted[-1])
    after = all_of.sorted[np.searchsorted(all_of.sorted, values[with_next]) + 1]
    return _first(
        ("ordered", bits.ordered(numbers), ranks),
        ("ulp_distance", bits.ulp_distance(numbers, all_of.x[others]), apart),
        ("ulp_distance the other way", bits.ulp_distance(all_of.x[others], numbers), apart),
        ("nudge by 1", bits.nudge(numbers[with_next], 1).double(), after),
        ("spacing", bits.spacing(numbers), _gaps(all_of.sorted, values)),
    )


def _gaps(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return from sorted numbers how far the next one away from zero is; the last finite one has the gap before it."""
    finite = numbers[np.isfinite(numbers) & (numbers >= 0)]
    at = np.searchsorted(finite, np.where(np.isinf(values), 0.0, np.abs(values)))
    gaps = np.diff(finite, append=2 * finite[-1] - finite[-2])
    return np.where(np.isinf(values), np.inf, gaps[at])


def _classes(x: Tensor, nan: np.ndarray, infinite: np.ndarray) -> str | None:
    """Hold the classes, the total order's way back and the refusals of a NaN against what the values are."""
    keys = bits.total_order(x)
    told = _first(("is_nan", bits.is_nan(x), nan), ("is_infinite", bits.is_infinite(x), infinite))
    if told:
        return told
    if not bits.bits_equal(bits.from_total_order(keys, x.dtype), x) or len(keys.unique()) < len(x):
        return f"total_order of {x[0]}.. is not undone, or is the same twice"
    for name, ask in (("ulp_distance", lambda y: bits.ulp_distance(y, y)), ("nudge", lambda y: bits.nudge(y, 1))):
        for place in np.flatnonzero(nan)[:2]:
            try:
                ask(x[place : place + 1])
            except InvalidError:
                continue
            return f"{name} has an answer for the NaN {bits.pattern(x[place])}"
    return None


def float32(number: int) -> str | None:
    """Hold 2^20 patterns of float32 that follow each other against exact ends and the C library's neighbours."""
    codes = np.arange(number * CHUNK, (number + 1) * CHUNK, dtype=np.int64).astype(np.uint32)
    values = codes.view(np.float32)
    x = torch.from_numpy(codes.view(np.int32)).view(torch.float32)
    nan, infinite = np.isnan(values), np.isinf(values)
    told = _classes(x, nan, infinite)
    finite = values[~nan & ~infinite]
    if told or not len(finite):
        return told
    numbers = torch.from_numpy(finite)
    with np.errstate(over="ignore", under="ignore"):
        away = np.nextafter(finite, np.copysign(np.float32(np.inf), finite))
        up = np.nextafter(finite, np.float32(np.inf))
    up[up == 0] = 0.0  # both zeros are one point, reached as +0
    keys = bits.ordered(numbers)
    sign = -1 if np.signbit(finite[0]) else 1
    return _first(
        ("ordered at the first", keys[:1], np.array([exact_rank(finite[:1])[0]])),
        ("ordered at the last", keys[-1:], np.array([exact_rank(finite[-1:])[0]])),
        ("steps of ordered", keys.diff(), np.full(len(finite) - 1, sign)),
        ("order of values", sign * np.diff(finite.astype(np.float64)) > 0, np.full(len(finite) - 1, True)),
        ("ulp_distance to the next", bits.ulp_distance(numbers, torch.from_numpy(away)), np.ones(len(finite))),
        ("nudge by 1", bits.nudge(numbers, 1).view(torch.int32), up.view(np.int32)),
        ("spacing", bits.spacing(numbers), _spacing32(finite)),
    )


def _spacing32(finite: np.ndarray) -> np.ndarray:
    """Return the C library's spacing; of the largest number, which has none to infinity, the one before it."""
    top = np.finfo(np.float32).max
    inside = np.clip(finite, -np.nextafter(top, np.float32(0)), np.nextafter(top, np.float32(0)))
    return np.abs(np.spacing(inside)).astype(np.float64)


def exact_rank(values: np.ndarray) -> list[int]:
    """Return how many numbers lie between zero and each value, in exact integers, from the value alone."""
    digits, least = (24, -149) if values.dtype == np.float32 else (53, -1074)
    ranks = []
    for value in values.astype(np.float64).tolist():
        if np.isinf(value):
            magnitude = exact_rank(np.array([np.finfo(values.dtype).max]))[0] + 1
        else:
            top, bottom = abs(value).as_integer_ratio()
            scaled = (top << -least) // bottom  # in units of the smallest subnormal, exactly
            binade = max(scaled.bit_length() - digits, 0)
            magnitude = (binade << (digits - 1)) + (scaled >> binade)
        ranks.append(-magnitude if np.signbit(value) else magnitude)
    return ranks


def pairs(dtype: torch.dtype, id: str) -> Trial:
    """Return the trial that holds distances of drawn pairs of a wide format against exact integers."""
    kind = np.dtype(bits.name_of(dtype))
    integer = np.dtype(f"int{8 * dtype.itemsize}")

    def trial(number: int) -> str | None:
        random = draw(id, number)
        left, right = (_numbers(random, kind, integer) for _ in range(2))
        near = random.random(len(left)) < 0.3
        steps = random.integers(-3, 4, len(left))
        for place in np.flatnonzero(near):
            moved = left[place]
            for _ in range(abs(int(steps[place]))):
                with np.errstate(over="ignore", under="ignore"):
                    moved = np.nextafter(moved, kind.type(np.copysign(np.inf, steps[place])))
            right[place] = moved
        ranks = [exact_rank(side) for side in (left, right)]
        apart = [min(abs(a - b), INT64_MAX) for a, b in zip(*ranks, strict=True)]
        a, b = torch.from_numpy(left), torch.from_numpy(right)
        return _first(
            ("ordered", bits.ordered(a), np.array(ranks[0])),
            ("ulp_distance", bits.ulp_distance(a, b), np.array(apart)),
            ("ulp_distance the other way", bits.ulp_distance(b, a), np.array(apart)),
        )

    return trial


def _numbers(random: np.random.Generator, kind: np.dtype, integer: np.dtype) -> np.ndarray:
    """Return numbers of evenly drawn patterns, with the corners among them and no NaN."""
    limits = np.iinfo(integer)
    values = random.integers(limits.min, limits.max, PAIRS, dtype=integer, endpoint=True).view(kind)
    least = np.nextafter(kind.type(0), kind.type(1))
    corners = [0.0, least, np.finfo(kind).tiny, np.finfo(kind).max, np.inf, 1.0]
    signed = np.array([*corners, *(-corner for corner in corners)], dtype=kind)
    values[::50] = random.choice(signed, len(values[::50]))
    values[np.isnan(values)] = 1.0
    return values.copy()


def _first(*checks: tuple[str, Tensor | np.ndarray, np.ndarray]) -> str | None:
    """Return the first value that is not the oracle's."""
    for name, found, expected in checks:
        found = found.numpy() if isinstance(found, Tensor) else found
        wrong = np.flatnonzero(found != expected)
        if found.shape != expected.shape or len(wrong):
            at = int(wrong[0]) if len(wrong) else -1
            return f"{name} at {at} is {found[at]!r}, not {expected[at]!r} ({len(wrong)} are wrong)"
    return None


def _planted(target: str, wrong: Callable, trial: Trial) -> Trial:
    def run(number: int) -> str | None:
        with patch.object(bits, target, wrong):
            return trial(number)

    return run


def _narrow_difference(a: Tensor, b: Tensor) -> Tensor:
    """A distance in the pattern's own width, which overflows."""
    integer = bits.FORMATS[a.dtype].integer
    return (bits.ordered(a).to(integer) - bits.ordered(b).to(integer)).abs().long()


def _with_infinity(number: int) -> str | None:
    wrong = {torch.float8_e4m3fn: replace(bits.FORMATS[torch.float8_e4m3fn], infinite=True)}
    with patch.dict(bits.FORMATS, wrong):
        return narrow(number)


FLOAT32, FLOAT64 = pairs(torch.float32, "T4c"), pairs(torch.float64, "T4d")
CAMPAIGNS = [
    Campaign(
        "T4a",
        "every pattern of float8_e4m3fn, float8_e5m2, bfloat16 and float16: keys, distances, neighbours, classes",
        "patterns",
        full=len(PARTS),
        ci=len(PARTS),
        trial=narrow,
        each=PART,
        rooms=("numerics",),
        planted={
            "the two zeros are two points": _planted("ordered", bits.total_order, narrow),
            "float8_e4m3fn is taken to have an infinity": _with_infinity,
            "distances in 16 bits": _planted("ulp_distance", _narrow_difference, narrow),
        },
    ),
    Campaign(
        "T4b",
        "every pattern of float32 against the C library's neighbours and exact ends",
        "patterns",
        full=(1 << 32) // CHUNK,
        ci=2,
        trial=float32,
        each=CHUNK,
        rooms=("numerics",),
        planted={"a step of nudge is none": _planted("nudge", lambda x, _: x, float32)},
    ),
    Campaign(
        "T4c",
        "drawn pairs of float32: keys and distances against exact integers",
        "pairs",
        full=1_000,
        ci=3,
        trial=FLOAT32,
        each=PAIRS,
        rooms=("numerics",),
        planted={"distances in 32 bits": _planted("ulp_distance", _narrow_difference, FLOAT32)},
    ),
    Campaign(
        "T4d",
        "drawn pairs of float64: keys and distances against exact integers",
        "pairs",
        full=1_000,
        ci=3,
        trial=FLOAT64,
        each=PAIRS,
        rooms=("numerics",),
        planted={"distances in 64 bits": _planted("ulp_distance", _narrow_difference, FLOAT64)},
    ),
]
