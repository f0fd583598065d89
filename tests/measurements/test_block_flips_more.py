"""The shortest text and the fewest blocks of which block flips say anything."""

import pytest

import stabilitykit as sk
from stabilitykit.measurements.carriers import CARRIED, EFFECTS, link_rows


def test_a_second_token_is_enough():
    result = sk.measure(sk.BlockFlips([[5, 7]], tokens=1), sk.load("tiny"), progress=False)
    assert result.readings["positions"].value == 1


@pytest.mark.parametrize(("blocks", "linked"), [(3, False), (4, True)])
def test_four_blocks_have_links_and_three_have_none(blocks, linked):
    names = (*CARRIED, *EFFECTS)
    layers = [{"block": k, **dict.fromkeys(names, float(k * k))} for k in range(blocks)]
    found = {(row["carrier"], row["effect"], row["blocks"]) for row in link_rows(layers, 9, 0)}
    assert found == ({(carrier, effect, 4) for carrier in CARRIED for effect in EFFECTS} if linked else set())
