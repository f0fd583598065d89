"""A digest changes with everything that counts and with nothing else."""

from __future__ import annotations

import hashlib
import struct
import sys
from typing import NoReturn

import pytest
import torch

from stabilitykit.errors import UnsupportedError
from stabilitykit.numerics.bits import nudge
from stabilitykit.numerics.digest import digest, short_digest

BASE = torch.tensor([[1.0, -2.0, 0.0], [4.0, 0.5, -6.0]])
NAN, PAYLOAD = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)


def replaced(value: torch.Tensor | float) -> torch.Tensor:
    changed = BASE.clone()
    changed[0, 2] = value
    return changed


def test_the_digest_is_sha256_of_a_header_and_little_endian_bytes_written_out_by_hand() -> None:
    stream = b"float32[2, 3]\n" + struct.pack("<6f", 1.0, -2.0, 0.0, 4.0, 0.5, -6.0)
    stream += b"int64[]\n" + struct.pack("<q", 7)
    assert hashlib.sha256(stream).hexdigest() == digest(BASE, torch.tensor(7))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(BASE.flip(0), id="permuted rows"),
        pytest.param(BASE[:, [1, 0, 2]], id="permuted columns"),
        pytest.param(-BASE, id="negated"),
        pytest.param(nudge(BASE, torch.tensor([[0, 0, 0], [0, 0, 1]])), id="one ULP"),
        pytest.param(replaced(-0.0), id="signed zero"),
        pytest.param(BASE.reshape(3, 2), id="reshaped"),
        pytest.param(BASE.T, id="transposed"),
        pytest.param(BASE.double(), id="widened"),
        pytest.param(BASE.view(torch.int32), id="reinterpreted"),
    ],
)
def test_every_kind_of_difference_changes_the_digest(other: torch.Tensor) -> None:
    assert digest(BASE) != digest(other)


def test_a_nan_payload_changes_the_digest_and_the_same_nan_does_not() -> None:
    assert digest(NAN) == digest(NAN.clone())
    assert digest(NAN) != digest(PAYLOAD)


def test_the_order_the_number_and_the_borders_of_the_tensors_count() -> None:
    first, second = BASE
    digests = {
        digest(first, second),
        digest(second, first),
        digest(first),
        digest(first, second, torch.zeros(0)),
        digest(BASE),
        digest(BASE.flatten()),
        digest(BASE.flatten()[:2], BASE.flatten()[2:]),
        digest(),
    }
    assert len(digests) == 8


def test_an_empty_tensor_is_known_by_its_dtype_and_shape() -> None:
    empty = [torch.zeros(0), torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(0).half()]
    assert len({digest(x) for x in empty}) == 4


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64]
)
def test_strides_and_gradients_do_not_matter_for_any_dtype(dtype: torch.dtype) -> None:
    wide = torch.arange(24).reshape(4, 6).to(dtype)
    for view in (wide.T, wide[::2, 1::3], wide[0, 3], wide[:1, ::6], wide.expand(2, 4, 6)):
        assert digest(view) == digest(view.clone(memory_format=torch.contiguous_format))
    assert digest(BASE) == digest(BASE.clone().requires_grad_())


def test_a_lazily_negated_view_has_the_digest_of_its_values() -> None:
    assert digest(torch.tensor([1 + 2j]).conj().imag) == digest(torch.tensor([-2.0]))


def test_a_big_endian_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(UnsupportedError, match="big-endian"):
        digest(BASE)


def test_a_short_digest_is_the_first_128_bits_of_the_long_one() -> None:
    assert short_digest(BASE, NAN) == bytes.fromhex(digest(BASE, NAN))[:16]


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device: numpy cannot have it before it is copied from there."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0)

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)

    def numpy(self) -> NoReturn:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_on_another_device_has_the_digest_that_it_has_here(dtype: torch.dtype) -> None:
    here = BASE.to(dtype)
    there = here.as_subclass(Elsewhere)
    with pytest.raises(TypeError, match="cuda:0"):
        there.numpy()
    assert digest(there) == digest(here)
