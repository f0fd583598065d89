"""What the sentence about modules says, asked directly with made-up rows."""

import math

from stabilitykit.measurements.chain_bound import ChainBound
from stabilitykit.measurements.module_spectrum import _sentence


def test_the_largest_share_is_that_of_a_part_whose_share_is_known():
    rows = [
        {"part": "block", "block": 0, "module": "a", "sigma_1": 2.0, "share": math.nan},
        {"part": "module", "block": 0, "module": "b", "sigma_1": math.nan, "share": 0.5},
    ]
    chain = ChainBound(math.nan, 3.0, math.nan)
    assert _sentence(rows, chain).endswith(" The largest share of the output's rounding error, 0.5, is that of b.")
