"""Which experts ran: found by structure, read for the last token, and turned by a planted near-tie."""

import pytest
import torch
from torch import nn

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import adopt
from stabilitykit.subjects.routing import chosen_experts, routers, watched
from stabilitykit.subjects.tiny import FAMILIES, tiny

IDS = [(7 * i + 3) % 258 for i in range(12)]
MIXTURES = {"mixtral": "gate", "qwen3_moe": "gate", "gpt_oss": "router"}
GAP = 1e-6
STEP = 1e-3


def names_of(family):
    return [f"model.layers.{k}.mlp.{MIXTURES[family]}" for k in range(3)]


@torch.no_grad()
def router_input(model, name, rows, **arguments):
    """What enters a router for the last token of each row, (B, H), seen by a plain hook."""
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model(inputs_embeds=rows, use_cache=False, **arguments)
    handle.remove()
    return seen[0].reshape(len(rows), -1, seen[0].shape[-1])[:, -1]


def logits(model, name, states):
    router = model.get_submodule(name)
    bias = getattr(router, "bias", None)
    return nn.functional.linear(states.double(), router.weight.double(), None if bias is None else bias.double())


def embedded(model, ids=IDS):
    return model.get_input_embeddings()(torch.tensor([ids]))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_routers_of_mixtures_are_found_and_dense_models_have_none(family):
    assert routers(tiny(family)) == (names_of(family) if family in MIXTURES else [])


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("family", MIXTURES)
def test_routers_do_not_depend_on_how_the_experts_run(family, experts):
    assert routers(tiny(family, experts=experts)) == names_of(family)


@pytest.mark.parametrize("k", [1, 3])
def test_the_number_of_experts_is_the_routers(k):
    model = tiny("mixtral", num_experts_per_tok=k)
    with watched(model, routers(model)) as chosen, torch.no_grad():
        model(torch.tensor([IDS]))
    assert {rows.shape for rows in chosen.values()} == {(1, k)}


@pytest.mark.parametrize("family", MIXTURES)
def test_the_chosen_experts_are_those_with_the_largest_logits(family):
    """Of every row's last token, on a batch of prompts; the oracle multiplies in float64 by itself."""
    model = tiny(family)
    names = routers(model)
    rows = torch.cat([embedded(model), 2 * embedded(model, IDS[::-1]), -embedded(model)])
    with watched(model, names, batch=3) as chosen, torch.no_grad():
        model(inputs_embeds=rows, use_cache=False)
    assert list(chosen) == names
    for name in names:
        wanted = logits(model, name, router_input(model, name, rows)).topk(2, dim=-1).indices.sort(dim=-1).values
        assert torch.equal(chosen[name], wanted), name
    assert any(not torch.equal(chosen[name][0], chosen[name][1]) for name in names)


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 4)])
@pytest.mark.parametrize("family", MIXTURES)
def test_a_subject_runs_the_experts_of_the_plain_model(family, path, batch):
    loaded = adopt(tiny(family))
    subject = CausalLMSubject(loaded, IDS, path=path, batch=batch)
    names = routers(loaded.model)
    with watched(loaded.model, names) as plain, torch.no_grad():
        loaded.model(torch.tensor([IDS]))
    with watched(loaded.model, names, batch=batch) as chosen:
        subject.evaluate(subject.copies(batch))
    for name in names:
        assert torch.equal(chosen[name], plain[name].expand(batch, -1)), name


@torch.no_grad()
def plant_tie(model, name):
    """Give the third expert the second one's logit less a millionth at this prompt, and another slope everywhere."""
    router = model.get_submodule(name)
    h = router_input(model, name, embedded(model))[0].double()
    _, second, third = logits(model, name, h[None])[0].topk(3).indices.tolist()
    slope = 0.5 * router.weight[third].double()
    slope -= h * (slope @ h + GAP) / (h @ h)
    router.weight[third] = (router.weight[second].double() + slope).float()
    if getattr(router, "bias", None) is not None:
        router.bias[third] = router.bias[second]
    return second, third


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 4)])
@pytest.mark.parametrize("family", MIXTURES)
def test_a_planted_near_tie_is_turned_by_a_small_step_and_the_clean_model_is_not(family, path, batch):
    clean, planted = adopt(tiny(family)), adopt(tiny(family))
    name = names_of(family)[1]
    second, third = plant_tie(planted.model, name)
    seen = {}
    for label, loaded in (("clean", clean), ("planted", planted)):
        subject = CausalLMSubject(loaded, IDS, path=path, batch=batch)
        direction = torch.linspace(-1, 1, 64).roll(5)
        with watched(loaded.model, [name], batch=batch) as chosen:
            for step in (0.0, STEP, -STEP):
                subject.evaluate(subject.copies(batch) + step * direction)
                seen[label, step] = [set(row) for row in chosen[name].tolist()]
    assert seen["clean", 0.0] == seen["clean", STEP] == seen["clean", -STEP]
    assert all(second in row and third not in row for row in seen["planted", 0.0])
    assert seen["planted", STEP] != seen["planted", -STEP]
    turned = next(seen["planted", step] for step in (STEP, -STEP) if seen["planted", step] != seen["planted", 0.0])
    assert all(third in row and second not in row for row in turned)


def test_the_order_of_the_same_experts_is_no_change():
    output = (torch.rand(2, 4), torch.rand(2, 2), torch.tensor([[3, 1], [0, 2]]))
    swapped = (*output[:2], torch.tensor([[1, 3], [2, 0]], dtype=torch.int32))
    assert chosen_experts(nn.Identity(), "gate", output, batch=2).tolist() == [[1, 3], [0, 2]]
    assert chosen_experts(nn.Identity(), "gate", swapped, batch=2).tolist() == [[1, 3], [0, 2]]
    assert chosen_experts(nn.Identity(), "gate", output).tolist() == [[0, 2]]
    assert chosen_experts(nn.Identity(), "gate", swapped).dtype == torch.int64


@pytest.mark.parametrize(
    ("output", "batch"),
    [
        (torch.rand(2, 2), 1),
        ((torch.rand(2, 4), torch.rand(2, 2)), 1),
        ((torch.rand(2, 4), torch.tensor([[3, 1], [0, 2]])), 1),
        ((torch.rand(2, 2), torch.tensor([[True, False]] * 2)), 1),
        ((torch.rand(2, 2), torch.tensor([[3, 1], [0, 2]])), 3),
        ((torch.rand(0, 2), torch.zeros(0, 2, dtype=torch.int64)), 1),
    ],
    ids=["a tensor", "no integers", "no weights", "a mask", "another batch", "no tokens"],
)
def test_what_is_no_routers_output_is_refused_by_name(output, batch):
    with pytest.raises(UnsupportedError, match=f"Identity: module 'gate' returned no experts for a batch of {batch}"):
        chosen_experts(nn.Identity(), "gate", output, batch=batch)


class Passing(nn.Module):
    """A block that also returns what its router chose."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x), *self.block.gate(x.flatten(0, 1))[1:]


class First(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


def test_a_block_that_passes_its_routers_choice_on_is_not_a_second_router():
    model = tiny("mixtral")
    model.model.layers[0].mlp = First(Passing(model.model.layers[0].mlp))
    assert routers(model) == ["model.layers.0.mlp.inner.block.gate", *names_of("mixtral")[1:]]


def test_no_hook_stays_behind():
    model = tiny("mixtral")
    with pytest.raises(ZeroDivisionError), watched(model, routers(model)):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())
