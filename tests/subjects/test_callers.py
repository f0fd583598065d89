"""Addresses of operations: the module that asks, and how often it has."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stabilitykit.subjects.callers import calling


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)

    def forward(self, x):
        return self.inner(self.inner(x)) + x


class Places(TorchDispatchMode):
    def __init__(self, callers):
        super().__init__()
        self.callers, self.seen = callers, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(self.callers.place(str(func))))
        return func(*args, **(kwargs or {}))


def test_each_operation_is_addressed_by_the_innermost_module_that_asks_for_it():
    model = nn.Sequential(Twice())
    with torch.no_grad(), calling(model) as callers, Places(callers) as places:
        model(torch.ones(1, 2))
    products = [place for place in places.seen if "mm" in place]
    assert products == ["0.inner/aten.mm.default#0", "0.inner/aten.mm.default#1"]
    assert places.seen[-1] == "0/aten.add.Tensor#0"


def test_a_forward_that_raises_leaves_the_address_right_and_no_hook_behind():
    model = nn.Sequential(Twice())
    with calling(model) as callers:
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.ones(1, 3))
        assert callers.running == [""]
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
