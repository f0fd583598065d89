"""Digests of a step: the same whether hashed at once or from one copied buffer; nothing overwritten is believed."""

import hashlib

import pytest
import torch

from stabilitykit.errors import UnsupportedError
from stabilitykit.traces import digests
from stabilitykit.traces.digests import ABSENT, Digests, StagedDigests
from stabilitykit.traces.stages import Stage

STAGES = [Stage("a", "a"), Stage("b", "b", volatile=True), Stage("c", "c")]
TENSORS = [
    torch.arange(6, dtype=torch.float32).reshape(1, 2, 3),
    torch.tensor([0.5, -0.0], dtype=torch.bfloat16),
    torch.tensor([float("nan"), 1.0], dtype=torch.float64),
]


def by_hand(*tensors):
    stream = hashlib.sha256()
    for one in tensors:
        stream.update(f"{str(one.dtype).removeprefix('torch.')}{list(one.shape)}\n".encode())
        stream.update(bytes(one.contiguous().reshape(-1).view(torch.uint8).tolist()))
    return stream.digest()[:16]


@pytest.mark.parametrize("kind", [Digests, StagedDigests])
def test_each_stage_has_the_hash_of_its_dtype_shape_and_bytes(kind):
    heard = kind(STAGES)
    for index, tensor in enumerate(TENSORS):
        heard.hear(index, (tensor,))
    first = heard.take()
    heard.hear(2, (TENSORS[0].mT, TENSORS[1]))
    second = heard.take()
    assert first.result() == [by_hand(one) for one in TENSORS]
    assert second.result() == [ABSENT, ABSENT, by_hand(TENSORS[0].mT, TENSORS[1])]


@pytest.mark.parametrize("kind", [Digests, StagedDigests])
def test_a_stage_that_runs_twice_in_a_step_has_one_digest_of_both_in_order(kind):
    def taken(*order):
        heard = kind(STAGES)
        for index in order:
            heard.hear(0, (TENSORS[index],))
        return heard.take().result()[0]

    assert taken(0, 2) == hashlib.sha256(by_hand(TENSORS[0]) + by_hand(TENSORS[2])).digest()[:16]
    assert taken(0, 2) != taken(2, 0)


@pytest.mark.parametrize("kind", [Digests, StagedDigests])
def test_what_is_overwritten_while_it_is_held_is_refused_and_a_volatile_stage_is_not(kind):
    heard, tensor = kind(STAGES), TENSORS[0].clone()
    heard.hear(1, (tensor,))
    tensor.add_(1)
    assert heard.take().result()[1] == by_hand(TENSORS[0])
    heard.hear(0, (tensor,))
    tensor.add_(1)
    with pytest.raises(UnsupportedError, match="stage a is overwritten in some steps only"):
        heard.take()


@pytest.mark.parametrize("kind", [Digests, StagedDigests])
def test_a_long_prompt_is_hashed_in_portions(kind, monkeypatch):
    monkeypatch.setattr(digests, "HELD", 30)
    heard = kind(STAGES)
    for index, tensor in enumerate(TENSORS):
        heard.hear(index, (tensor,))
    assert heard.take().result() == [by_hand(one) for one in TENSORS]


def variants():
    x = torch.tensor([[1.5, -2.25, 0.0, 3.0]])
    nudged = x.clone()
    nudged[0, 1] = torch.nextafter(nudged[0, 1], torch.tensor(0.0))
    signed = x.clone()
    signed[0, 2] = -0.0
    payload = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    nan, other = x.clone(), x.clone()
    nan[0, 0], other[0, 0] = float("nan"), payload[0]
    return {
        "permuted": x.flip(1),
        "negated": -x,
        "one ULP": nudged,
        "signed zero": signed,
        "NaN": nan,
        "NaN of other bits": other,
        "other shape": x.reshape(2, 2),
        "other dtype": x.view(torch.int32),
    }, x


def test_tensors_that_differ_in_anything_have_different_digests_and_equal_ones_the_same():
    found, x = variants()
    seen = {name: digests.short_digest(one) for name, one in found.items()}
    assert len({*seen.values(), digests.short_digest(x)}) == len(found) + 1
    copies = [x.clone(), x.repeat(2, 1)[1:], x.T.contiguous().T]
    assert {digests.short_digest(one) for one in copies} == {digests.short_digest(x)}
