"""What a block adds to the residual stream: found in every architecture, and refused where it is no sum."""

import math

import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.subjects.branches import branches, heaviest, norm_bound
from stabilitykit.subjects.calls import recorded
from stabilitykit.subjects.tiny import FAMILIES

REFUSED = {"bert", "gemma3n"}
ONE = {"mamba": ["mixer"]}
NONE = {"bloom", "mpt", "zamba2"}
"""bloom and mpt add the residual inside a child, zamba2 the embedding as well."""
NORMED_AFTER = {"gemma2", "gemma3", "olmo2"}


def block_states(family, block=1):
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), list(range(3, 15))).in_float64()
    stem = subject.anatomy.block_names[block]
    names = [f"{stem}.{name}" for name, _ in subject.model.get_submodule(stem).named_children()]
    calls = recorded(subject, subject.x0, [stem, *names])
    states = {name: (calls[name].entered[-1], calls[name].left[-1]) for name in names if name in calls}
    return subject.model, calls[stem], states


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - REFUSED))
def test_the_branches_of_a_block_add_up_to_what_it_adds(family):
    model, block, states = block_states(family)
    found = branches(block.entered[-1], block.left[-1], states)
    if family in NONE:
        assert found == []
        return
    cores = [heaviest(model, one.modules).split(".")[-1] for one in found]
    assert len(cores) == (1 if family in ONE else 2)
    assert cores[0] in ("self_attn", "attn", "attention", "self_attention", "mixer")
    whole = block.entered[-1] + sum(one.scale * states[one.modules[-1]][1] for one in found)
    torch.testing.assert_close(whole, block.left[-1], rtol=1e-12, atol=1e-12)
    for one in found:
        for left, right in zip(one.modules, one.modules[1:], strict=False):
            assert torch.equal(states[left][1], states[right][0])
        bounds = [norm_bound(model.get_submodule(name), *states[name]) for name in one.modules]
        assert math.isnan(bounds[0]) == (family == "olmo2")  # all others normalise before the branch
        assert any(not math.isnan(bound) for bound in bounds)
        assert (len([b for b in bounds if b == b]) == 2) == (family in NORMED_AFTER - {"olmo2"})
    assert [one.scale for one in found] == pytest.approx([0.5 if family == "granite" else 1.0] * len(found))


def test_a_sum_that_is_nearly_right_is_none():
    x, a, b = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).double()
    children = {"a": (x, a), "b": (x + a, b)}
    assert [one.modules for one in branches(x, x + a + b, children)] == [("a",), ("b",)]
    assert [one.scale for one in branches(x, x + 0.25 * (a + b), children)] == [pytest.approx(0.25)] * 2
    assert branches(x, x + a + b * (1 + 1e-9), children) == []
    assert branches(x, x, children) == []
    assert [one.modules for one in branches(x, x + b, {"a": (x, a), "b": (a, b)})] == [("a", "b")]
    assert branches(x, x + a, {"a": (x, a[:3])}) == []


# --- bounds of norms


class Gemma(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return (1 + self.weight) * x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt()


class Plain(nn.Module):
    def forward(self, x):
        return nn.functional.layer_norm(x, x.shape[-1:])


def made(kind, weight):
    norm = {
        "rms": lambda: nn.RMSNorm(12, eps=1e-5),
        "layer": lambda: nn.LayerNorm(12, eps=1e-5),
        "gemma": lambda: Gemma(weight),
        "plain": Plain,
    }[kind]().double()
    if kind in ("rms", "layer"):
        norm.weight.data = weight
    if kind == "layer":
        norm.bias.data = weight.flip(0)
    return norm


@pytest.mark.parametrize("kind", ["rms", "layer", "gemma", "plain"])
def test_a_norms_bound_is_its_gain_over_the_size_of_its_input(kind):
    """And no singular value of the dense Jacobian is above it, nor far below."""
    generator = torch.Generator().manual_seed(7)
    weight, x = torch.randn(2, 12, generator=generator).double()
    x = 3 * x + 0.5
    norm = made(kind, weight)
    size = (x - x.mean() if kind in ("layer", "plain") else x).square().mean()
    gain = {"gemma": (1 + weight).abs().max(), "plain": torch.tensor(1.0)}.get(kind, weight.abs().max())
    bound = norm_bound(norm, x, norm(x).detach())
    assert bound == pytest.approx(float(gain / (size + (1e-6 if kind == "gemma" else 1e-5)).sqrt()), rel=1e-9)
    sigma = float(torch.linalg.svdvals(torch.autograd.functional.jacobian(norm, x))[0])
    assert 0.5 * bound < sigma <= bound * (1 + 1e-12)


def test_what_is_no_norm_has_no_such_bound():
    x = torch.linspace(-1, 2, 12).double()
    for module in (nn.Identity(), nn.Linear(12, 12).double(), nn.GELU(), nn.Softmax(dim=-1), nn.Linear(12, 4).double()):
        assert math.isnan(norm_bound(module, x, module(x).detach())), module
    nested = nn.Sequential(nn.LayerNorm(12).double())
    assert math.isnan(norm_bound(nested, x, nested(x).detach()))
    assert math.isnan(norm_bound(nn.Identity(), torch.zeros(12).double(), torch.zeros(12).double()))
