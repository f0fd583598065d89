"""Recorded directions: recipes through JSON and back, and bits that win over what a recipe would mean today."""

import json

import pytest
import torch

from stabilitykit.errors import UnreadableError, UsageError
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.digest import digest
from stabilitykit.strategies import Direction, Recorded

BASIS = torch.stack([Direction("gaussian", (seed,), 8).expand() for seed in (1, 2)])
OTHER = torch.stack([Direction("gaussian", (seed,), 8).expand() for seed in (3, 4)])
EACH = [
    Direction("axis", (3, -1), 8),
    Direction("sparse", ((0, 3), (7, -4)), 8),
    Direction("sign", (5,), 8),
    Direction("gaussian", (2**63,), 8),
    Direction("subspace", (3, -5), 8),
]


def through_json(data):
    return json.loads(json.dumps(data))


@pytest.mark.parametrize("direction", EACH, ids=lambda direction: direction.kind)
def test_a_recipe_comes_back_from_json(direction):
    back = Direction.from_dict(through_json(direction.to_dict()))
    assert back == direction
    assert repr(back) == repr(direction)


@pytest.mark.parametrize("direction", EACH, ids=lambda direction: direction.kind)
def test_a_record_gives_back_the_bits(direction):
    placed = direction.on(BASIS)
    vector = placed.expand()
    back = Recorded.from_dict(through_json(placed.to_dict()), vector.clone(), digest(vector))
    assert bits_equal(back.expand(), vector)
    assert bits_equal(back.on(OTHER).expand(OTHER), vector), "the bits, not what another basis would make of the recipe"
    assert (back.kind, back.dim) == (direction.kind, 8)
    assert back.to_dict() == through_json(placed.to_dict())


def test_only_a_subspace_names_its_basis_and_only_the_rows_it_uses():
    assert all("basis" not in direction.on(BASIS).to_dict() for direction in EACH[:-1])
    one, both = Direction("subspace", (1,), 8), Direction("subspace", (1, 1), 8)
    assert one.on(BASIS).to_dict() == one.on(BASIS[:1]).to_dict()
    assert one.on(BASIS).to_dict()["basis"] == digest(BASIS[:1])
    assert one.on(BASIS).to_dict() != one.on(OTHER).to_dict()
    assert both.on(BASIS).to_dict()["basis"] == digest(BASIS)
    assert "basis" not in both.on(None).to_dict()


def test_a_name_says_whether_the_recipe_alone_is_enough():
    recorded = [Recorded.from_dict(d.on(BASIS).to_dict(), (v := d.on(BASIS).expand()), digest(v)) for d in EACH]
    assert [repr(one) for one in recorded[:-1]] == [repr(direction) for direction in EACH[:-1]]
    assert repr(recorded[-1]) == "Direction(kind='subspace', data=(3, -5), dim=8) as recorded"


def test_without_bits_a_recipe_is_expanded_and_a_subspace_is_refused():
    direction = EACH[2]
    assert bits_equal(
        Recorded.from_dict(direction.to_dict(), None, digest(direction.expand())).vector, direction.expand()
    )
    with pytest.raises(UnreadableError, match="were not recorded, and its basis is not at hand"):
        Recorded.from_dict(EACH[-1].on(BASIS).to_dict(), None, "")


@pytest.mark.parametrize("direction", [EACH[0], EACH[-1]], ids=lambda direction: direction.kind)
def test_damaged_bits_are_refused(direction):
    vector = direction.expand(BASIS)
    damaged = vector.clone()
    damaged[0] = torch.nextafter(damaged[0], torch.tensor(1.0))
    with pytest.raises(UnreadableError, match="its record has other bits than were measured"):
        Recorded.from_dict(direction.to_dict(), damaged, digest(vector))


def test_a_recipe_that_expands_to_other_bits_now_is_refused(monkeypatch):
    direction = EACH[3]
    vector = direction.expand()
    monkeypatch.setattr(Direction, "expand", lambda self, basis=None: -vector)
    with pytest.raises(UnreadableError, match="its expansion has other bits than were measured"):
        Recorded.from_dict(direction.to_dict(), vector, digest(vector))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "axis", "data": [0, 1]},
        {"kind": "axis", "data": (0, 1), "dim": 8},
        {"kind": "axis", "data": [0], "dim": 8},
        {"kind": "axis", "data": [0, 1], "dim": "8"},
        {"kind": "axis", "data": [0, True], "dim": 8},
        {"kind": "axis", "data": [0, 1], "dim": True},
        {"kind": "axis", "data": [9, 1], "dim": 8},
        {"kind": "spiral", "data": [1], "dim": 8},
        {"kind": ["axis"], "data": [0, 1], "dim": 8},
        {"kind": "sign", "data": [1.5], "dim": 8},
        {"kind": "gaussian", "data": [1, 2], "dim": 8},
        {"kind": "sparse", "data": [[0, 1, 2]], "dim": 8},
        {"kind": "sparse", "data": [0, 1], "dim": 8},
        {"kind": "sparse", "data": [["0", 1]], "dim": 8},
        {"kind": "subspace", "data": ["__import__('os')"], "dim": 8},
        {"kind": "subspace", "data": [], "dim": 8},
    ],
)
def test_what_is_no_recipe_is_refused_in_one_sentence(data):
    with pytest.raises(UsageError) as caught:
        Direction.from_dict(data)
    assert "\n" not in str(caught.value)
