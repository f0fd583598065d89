"""A fan of rays: each has the lattice that it has alone, and steps along all of them have the bits of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stabilitykit.numerics.bits import bits_equal
from stabilitykit.numerics.fan import fan, on_rays
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.numerics.perturbation import RULES

STEPS = [0.0, 3e-8, 1e-3, 2.0]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape))


@pytest.mark.parametrize("rule", ["p64r", "p32", "native"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rays_of_one_input_are_those_of_a_lattice_each(rule: str, dtype: torch.dtype) -> None:
    x0, directions = drawn(6, seed=0).to(dtype), drawn(4, 6, seed=1)
    rays = list(fan(x0, directions, rule))
    moved = on_rays(rays, STEPS)
    assert moved.shape == (4, 6)
    for ray, direction, s, row in zip(rays, directions, STEPS, moved, strict=True):
        alone = Lattice(x0, direction, rule)
        assert bits_equal(row, alone.at(s))
        span = 4 * torch.finfo(dtype).eps
        cells = list(ray.cells(span))
        assert cells == list(alone.cells(span))
        assert cells


def test_each_ray_keeps_its_own_input_and_rule_and_direction() -> None:
    """Inputs that differ, rules that differ, and directions of several dtypes, which no one pass could serve."""
    one, other = drawn(5, seed=2).float(), drawn(5, seed=3).float()
    a, b = drawn(2, 5, seed=4)
    eighth = a.to(torch.float8_e5m2)  # which torch puts into no tensor with other numbers
    for pair in (
        [Lattice(one, a), Lattice(other, b)],
        [Lattice(one, a, "p64r"), Lattice(one, a, "p32")],
        [Lattice(one, a), Lattice(one, b.float())],
        [Lattice(one, eighth), Lattice(one, b)],
    ):
        moved = on_rays(pair, [0.3, 0.7])
        assert bits_equal(moved, torch.stack([pair[0].at(0.3), pair[1].at(0.7)]))


def test_one_ray_alone_is_a_fan() -> None:
    (ray,) = fan(drawn(5, seed=5).float(), drawn(1, 5, seed=6), "p32")
    assert bits_equal(on_rays([ray], [0.3]), ray.at(0.3)[None])


@pytest.mark.parametrize("rule", ["p64r", "p32", "native"])
def test_rays_of_one_input_are_evaluated_at_once(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated, plain = [], RULES[rule]

    def counted(x0: Tensor, d: Tensor, s: Tensor) -> Tensor:
        evaluated.append(tuple(d.shape))
        return plain(x0, d, s)

    rays = list(fan(drawn(5, seed=5).float(), drawn(4, 5, seed=6), rule))
    monkeypatch.setitem(RULES, rule, counted)
    assert on_rays(rays, STEPS).shape == (4, 5)
    assert evaluated == [(4, 5)]


def test_rays_of_one_input_step_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated, rule = [], RULES["p64r"]

    def counted(x0: Tensor, d: Tensor, s: Tensor) -> Tensor:
        evaluated.append(d.shape)
        return rule(x0, d, s)

    monkeypatch.setitem(RULES, "p64r", counted)
    on_rays(list(fan(drawn(6, seed=0), drawn(4, 6, seed=1))), STEPS)
    assert evaluated == [(4, 6)]


def test_directions_whose_dtypes_have_none_in_common_step_each_by_itself() -> None:
    x0, wide = drawn(5, seed=5).float(), drawn(2, 5, seed=6)
    rays = [Lattice(x0, wide[0].float()), Lattice(x0, wide[1].to(torch.float8_e4m3fn))]
    assert bits_equal(on_rays(rays, [0.3, 0.7]), torch.stack([rays[0].at(0.3), rays[1].at(0.7)]))


def test_a_single_ray_is_a_fan() -> None:
    ray = Lattice(drawn(5, seed=2).float(), drawn(5, seed=4))
    assert bits_equal(on_rays([ray], [0.3]), ray.at(0.3)[None])
