"""What is read from the errors of blocks, asked directly with errors that are made up."""

from types import SimpleNamespace

import numpy as np
import torch

from stabilitykit.measurements.carried_errors import Judged, _first


def test_of_equal_largest_logits_the_lowest_id_is_taken():
    """Three values among twenty ids, so that several share the largest."""
    Z = np.random.Generator(np.random.PCG64(0)).integers(0, 3, (50, 20)).astype(np.float32)
    assert _first(torch.from_numpy(Z)).tolist() == Z.argmax(axis=1).tolist()


def test_the_relative_error_leaves_the_first_token_out_and_is_that_of_what_the_block_returned():
    """Two blocks, three tokens, two coordinates: lengths 5 and 10 of errors, 2, 4 and 8 of states."""
    errors = torch.tensor([[[9.0, 9.0], [3.0, 4.0], [6.0, 8.0]], [[9.0, 9.0], [0.0, 0.0], [3.0, 4.0]]])
    states = torch.tensor([[[1.0, 0.0]] * 3, [[1.0, 0.0], [2.0, 0.0], [0.0, 4.0]], [[1.0, 0.0]] * 2 + [[8.0, 0.0]]])
    none = torch.zeros(0)
    judged = Judged(SimpleNamespace(states=states), errors, none, none, none, none, none)
    assert judged.relative.tolist() == [[5 / 2, 10 / 4], [0.0, 5 / 8]]
