"""Floating-point numbers as points of a lattice: keys, ULP distances, neighbours, spacing, bitwise identity.

Everything here reads integer views, never float arithmetic, so subnormals, NaN payloads and the sign of zero
are seen as they are, also while flush-to-zero is on. Tensors may be on any device, of any stride, 0-d or
empty. ULPs are counted within one dtype; a pair of different dtypes has no distance and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UsageError

_INT64_MAX = torch.iinfo(torch.int64).max


@dataclass(frozen=True, slots=True)
class Format:
    """One binary floating-point format: sign bit, biased exponent, `mantissa` stored bits.

    `integer` is the dtype of its bit patterns, `largest` the pattern of its largest finite value. `infinite`
    says whether the next pattern is an infinity; every magnitude beyond that is a NaN.
    """

    integer: torch.dtype
    mantissa: int
    largest: int
    infinite: bool = True

    @property
    def width(self) -> int:
        """Number of bits of a pattern."""
        return torch.iinfo(self.integer).bits

    @property
    def top(self) -> int:
        """Magnitude of the last pattern that is a number."""
        return self.largest + self.infinite

    @property
    def bias(self) -> int:
        """Exponent bias, 2**(exponent bits - 1) - 1."""
        return (1 << (self.width - self.mantissa - 2)) - 1


FORMATS: dict[torch.dtype, Format] = {
    torch.float64: Format(torch.int64, 52, 0x7FEF_FFFF_FFFF_FFFF),
    torch.float32: Format(torch.int32, 23, 0x7F7F_FFFF),
    torch.float16: Format(torch.int16, 10, 0x7BFF),
    torch.bfloat16: Format(torch.int16, 7, 0x7F7F),
    torch.float8_e4m3fn: Format(torch.int8, 3, 0x7E, infinite=False),
    torch.float8_e5m2: Format(torch.int8, 2, 0x7B),
}


def format_of(dtype: torch.dtype) -> Format:
    """Row of `FORMATS` for `dtype`; UsageError names the supported dtypes."""
    if dtype not in FORMATS:
        known = ", ".join(map(name_of, FORMATS))
        raise UsageError(f"{name_of(dtype)} has no floating-point lattice here; use one of {known}")
    return FORMATS[dtype]


def name_of(dtype: torch.dtype) -> str:
    """Short name of a dtype, `float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def total_order(x: Tensor) -> Tensor:
    """IEEE 754 total-order key: `m` for sign 0 and `-1 - m` for sign 1, with `m` the magnitude bits.

    Any shape -> int64 of that shape. One step a representable neighbour: -0 -> -1, +0 -> 0; NaNs lie beyond
    the infinities, so every pattern has its own key. UsageError for an unsupported dtype. O(n), 8 bytes an
    element.
    """
    return _reflect(_integers(x).long(), format_of(x.dtype))


def from_total_order(key: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of `total_order`, exact for every pattern: int64 keys -> `dtype`, same shape. O(n).

    UsageError for keys that are not int64 or that `dtype` does not have.
    """
    row = format_of(dtype)
    limits = torch.iinfo(row.integer)
    if key.dtype != torch.int64:
        raise UsageError(f"keys are int64, not {name_of(key.dtype)}")
    if outside := _first((key < limits.min) | (key > limits.max)):
        raise UsageError(f"key at {outside} is outside {name_of(dtype)}'s {limits.min}..{limits.max}")
    return _reflect(key, row).to(row.integer).view(dtype)


def ordered(x: Tensor) -> Tensor:
    """Sign-magnitude key: `m` for sign 0 and `-m` for sign 1, with `m` the magnitude bits.

    Any shape -> int64 of that shape, in ULP from zero. Strictly monotone in the value; both zeros -> 0;
    infinity is one step after the largest finite value; a NaN's key lies beyond infinity and means nothing.
    Patterns are widened before any arithmetic, since a difference of 32-bit keys overflows 32 bits.
    UsageError for an unsupported dtype. O(n), 8 bytes an element.
    """
    key = total_order(x)
    return key + (key < 0)


def ulp_distance(a: Tensor, b: Tensor) -> Tensor:
    """Number of representable steps between a and b, |ordered(a) - ordered(b)|, elementwise.

    Same shape and dtype -> int64 of that shape, in ULP of that dtype. -0 and +0 are 0 apart, infinity and the
    largest finite value 1 apart. float64 distances of 2**63 and more, which int64 cannot hold, saturate at
    2**63 - 1; all others are exact. UsageError for different dtypes or shapes, InvalidError for a NaN. O(n).
    """
    a, b = paired(a, b)
    _refuse_nan(a, "left")
    _refuse_nan(b, "right")
    left, right = ordered(a), ordered(b)
    high, low = torch.maximum(left, right), torch.minimum(left, right)
    return high - torch.maximum(low, high.clamp(min=0) - _INT64_MAX)


def nudge(x: Tensor, k: int | Tensor) -> Tensor:
    """The k-th representable neighbour of x: the value whose `ordered` key is ordered(x) + k.

    `k` is an int or an integer tensor that broadcasts with x, in ULP, upward for k > 0; the result has the
    broadcast shape and x's dtype. -0 and +0 count as one point, reached as +0; k = 0 keeps every bit. An
    infinity can be reached, not passed. UsageError for a k that is no integer or does not broadcast,
    InvalidError for a NaN or a step past the last number. O(n).
    """
    _refuse_nan(x, "x")
    x, half, rest = _broadcast(x, k)
    # From one end of float64 to the other are nearly 2^64 steps, which int64 holds in two halves.
    moved = _saturated(_saturated(ordered(x), half), rest)
    if past := _first(moved.abs() > format_of(x.dtype).top):
        raise InvalidError(f"the step at {past} leaves the range of {name_of(x.dtype)}; take a smaller k")
    stays = (half == 0) & (rest == 0)
    return torch.where(stays, x, from_total_order(moved - (moved < 0).long(), x.dtype))


def spacing(x: Tensor) -> Tensor:
    """Distance from |x| to the next float away from zero, 2**(exponent - mantissa bits), as math.ulp has it.

    Any shape -> float64 of that shape, exact, in the unit of x. The smallest subnormal at zero; at the
    largest finite value the width of its binade; infinity and NaN are returned as they are. UsageError for an
    unsupported dtype. O(n).
    """
    row = format_of(x.dtype)
    magnitude = ordered(x).abs()
    exponent = (magnitude >> row.mantissa).clamp(min=1) - row.bias - row.mantissa
    # Patterns rather than a power function: flush-to-zero must not swallow the subnormal spacings of float64.
    normal = (exponent + 1023).clamp(min=0) << 52
    subnormal = torch.ones_like(exponent) << (exponent + 1074).clamp(0, 51)
    width = torch.where(exponent >= -1022, normal, subnormal).view(torch.float64)
    return torch.where(magnitude > row.largest, x.detach().double().abs(), width)


def is_nan(x: Tensor) -> Tensor:
    """Elementwise: a pattern beyond the last number. Any shape -> bool; UsageError for the dtype. O(n)."""
    return _magnitude(x) > format_of(x.dtype).top


def is_infinite(x: Tensor) -> Tensor:
    """Elementwise: the pattern of an infinity. Any shape -> bool; UsageError for the dtype. O(n)."""
    row = format_of(x.dtype)
    magnitude = _magnitude(x)
    return (magnitude > row.largest) & (magnitude <= row.top)


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise identity of the patterns: -0 differs from +0, two NaNs agree if their payloads do.

    Same shape and dtype -> bool of that shape. UsageError for different dtypes or shapes. O(n).
    """
    a, b = paired(a, b)
    return _integers(a) == _integers(b)


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Whether dtype, shape and every bit agree; any dtype, any two devices, strides do not matter. O(n)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = _together(a, b)
    return torch.equal(raw_bytes(a), raw_bytes(b))


def value_equal(a: Tensor, b: Tensor) -> bool:
    """Whether dtype and shape agree and a == b by IEEE 754 in every element: -0 == +0, a NaN equals nothing.

    A number in another format is not equal, unlike `torch.equal`. UsageError for an unsupported dtype. O(n).
    """
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = _together(a, b)
    return torch.equal(ordered(a), ordered(b)) and not bool(is_nan(a).any())


def pattern(x: Tensor) -> str:
    """Bits of a one-element tensor in hexadecimal, sign first: '0xbfe9' for bfloat16 -1.8203125.

    UsageError for more or fewer elements and for an unsupported dtype.
    """
    if x.numel() != 1:
        raise UsageError(f"a pattern is of one number, not of shape {tuple(x.shape)}; index the tensor first")
    width = format_of(x.dtype).width
    return f"0x{int(_integers(x).item()) % (1 << width):0{width // 4}x}"


def raw_bytes(x: Tensor) -> Tensor:
    """Row-major memory image of x: any dtype and shape -> uint8 (n * itemsize,), a view if contiguous."""
    image = x.detach().resolve_conj().resolve_neg().contiguous()
    # A single element counts as contiguous under any stride, yet a byte view needs stride 1.
    return image.as_strided((image.numel(),), (1,)).view(torch.uint8)


def paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors on one device, the CPU if theirs differ; UsageError states both dtypes or both shapes."""
    if a.dtype != b.dtype:
        raise UsageError(f"dtype {name_of(a.dtype)} != {name_of(b.dtype)}: compare within one dtype")
    if a.shape != b.shape:
        raise UsageError(f"shape {tuple(a.shape)} != {tuple(b.shape)}: compare tensors of one shape")
    return _together(a, b)


def _together(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return (a, b) if a.device == b.device else (a.cpu(), b.cpu())


def _integers(x: Tensor) -> Tensor:
    return x.detach().resolve_neg().view(format_of(x.dtype).integer)


def _magnitude(x: Tensor) -> Tensor:
    """Pattern without the sign, in the pattern's own width: tests need no int64."""
    patterns = _integers(x)
    return patterns & torch.iinfo(patterns.dtype).max


def _reflect(key: Tensor, row: Format) -> Tensor:
    return key ^ ((key >> 63) & torch.iinfo(row.integer).max)


def _broadcast(x: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x and two halves of k, in int64 and of the shape that x and k have together."""
    if isinstance(k, int):
        k = max(-2 * _INT64_MAX, min(k, 2 * _INT64_MAX))
        half, rest = torch.tensor(k // 2), torch.tensor(k - k // 2)
    elif k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
        raise UsageError(f"k counts steps and must be an integer, not {name_of(k.dtype)}")
    else:
        half = k.long() >> 1
        rest = k.long() - half
    try:
        shape = torch.broadcast_shapes(x.shape, half.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise UsageError(f"k of shape {tuple(half.shape)} does not broadcast with {tuple(x.shape)}") from None
    return x.detach().expand(shape), half.to(x.device).expand(shape), rest.to(x.device).expand(shape)


def _saturated(key: Tensor, steps: Tensor) -> Tensor:
    """Return key + steps, no further from 0 than int64 holds, which is past the last number of every dtype."""
    room_up, room_down = _INT64_MAX - key.clamp(min=0), -_INT64_MAX - key.clamp(max=0)
    return key + torch.minimum(torch.maximum(steps, room_down), room_up)


def _refuse_nan(x: Tensor, name: str) -> None:
    if place := _first(is_nan(x)):
        raise InvalidError(f"NaN in {name} at {place}: a NaN has no neighbour and no distance")


def _first(flags: Tensor) -> str:
    """Index of the first flag and the count, as text; empty when there is none."""
    if not bool(flags.any()):
        return ""
    return f"{flags.nonzero()[0].tolist()} ({int(flags.sum())} in all)"
