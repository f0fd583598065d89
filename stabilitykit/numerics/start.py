"""What the lattices of all rays from one input share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stabilitykit.numerics.bits import spacing, total_order
from stabilitykit.numerics.rounding import Floats, Keys


class Start:
    """An input x0 (H,): its values, their total-order keys, and the spacing at a coordinate of median size."""

    def __init__(self, x0: Tensor) -> None:
        x = x0.detach().cpu()
        self.values: Floats = np.asarray(x.double().numpy())
        self.keys: Keys = np.asarray(total_order(x).numpy())
        sizes = np.abs(self.values[self.values != 0])
        middle = np.median(sizes, keepdims=True) if sizes.size else np.zeros(1)
        self.typical = float(spacing(torch.from_numpy(middle).to(x0.dtype)))
