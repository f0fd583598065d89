"""Experts that a changed input turns to others: planted ties, and the clean models beside them."""

import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit import strategies

IDS = list(b"The capital of France is")
MIXTURES = {"mixtral": "gate", "qwen3_moe": "gate", "gpt_oss": "router"}


def value(result, name):
    return result.readings[name].value


def rays(dim, count):
    return torch.stack([one.expand() for one in strategies.gaussians(count, dim, 1)])


@torch.no_grad()
def plant_tie(subject, block):
    """Give the third expert the second one's logit at this prompt, and another slope everywhere else."""
    name = f"model.layers.{block}.mlp.{MIXTURES[subject.model.config.model_type]}"
    router, seen = subject.model.get_submodule(name), []
    handle = router.register_forward_pre_hook(lambda _m, args: seen.append(args[0].flatten(0, -2)[-1].double()))
    subject.evaluate(subject.copies(1))
    handle.remove()
    h = seen[0]
    logits = router.weight.double() @ h + (router.bias.double() if getattr(router, "bias", None) is not None else 0)
    _, second, third = logits.topk(3).indices.tolist()
    slope = torch.randn(len(h), generator=torch.Generator().manual_seed(1)).double()
    slope -= h * (slope @ h) / (h @ h)
    router.weight[third] = (router.weight[second].double() + 40 * slope).float()
    if getattr(router, "bias", None) is not None:
        router.bias[third] = router.bias[second]
    return name, router


@pytest.mark.parametrize("family", MIXTURES)
def test_a_planted_tie_of_experts_is_seen_to_turn_and_the_clean_model_is_not(family):
    clean, planted = (sk.CausalLMSubject(sk.load(f"tiny:{family}"), IDS) for _ in range(2))
    name, router = plant_tie(planted, 1)
    asked = sk.Fate(directions=rays(64, 2), cells=24)
    calm, found = sk.measure(asked, clean), sk.measure(asked, planted)
    assert value(calm, "share_routing_changed") == 0
    assert not any(row["routing_changed"] or row["router"] for row in calm.rows)
    directions, seen = torch.from_numpy(found.arrays["directions"]), []
    handle = router.register_forward_hook(lambda _m, _a, out: seen.append(out))
    before = planted.embeddings[:-1]

    @torch.no_grad()
    def chosen(x):
        planted.model(inputs_embeds=torch.cat([before, x[None]])[None], use_cache=False)
        picked = next(t for t in seen[-1] if t.dtype in (torch.int64, torch.int32))
        return set(picked.reshape(-1, picked.shape[-1])[-1].tolist())

    still = chosen(planted.x0)
    for row in found.rows:
        x = sk.perturb(planted.x0, directions[int(row["direction"])], row["s_first_changed"])
        if row["router"] in ("", name):
            assert row["routing_changed"] == (chosen(x) != still)
    handle.remove()
    turned = [row["routing_changed"] for row in found.rows]
    assert 0 < sum(turned) < len(turned)
    assert value(found, "share_routing_changed") == sum(turned) / len(turned)
    assert {row["router"] for row in found.rows if row["routing_changed"]} == {name}


def test_each_slot_is_held_against_its_own_experts(toys):
    """A router whose choice depends on the row alone turns for nobody."""

    class Router(nn.Module):
        def forward(self, x):
            rows = x.flatten(0, 1)
            expert = torch.arange(len(rows)).div(x.shape[1], rounding_mode="floor")[:, None] % 4
            return rows, rows[:, :1], expert

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.router = Router()

        def forward(self, x):
            return self.router(x)[0].view_as(x) * 2

    subject = toys.subject([Mixture()], batch=4)
    result = sk.measure(sk.Fate(directions=torch.ones(8), cells=8), subject)
    assert value(result, "share_routing_changed") == 0


def test_a_dense_model_has_no_routing_to_speak_of(toys):
    result = sk.measure(sk.Fate(directions=torch.ones(8), cells=2), toys.subject([toys.Times(2.0)]))
    assert "share_routing_changed" not in result.readings
    assert "routing_changed" not in result.rows[0]
