"""Sites: every named place against plain hooks on a plain forward, bit for bit, on both paths."""

import pytest
import torch
from oracles.cache_name import ATTENTION
from transformers import DynamicCache

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import load
from stabilitykit.subjects.sites import Stopped, Tap

IDS = [(7 * i + 3) % 258 for i in range(12)]
# Written out per family: no code of the kit says where the parts are.
PARTS = {
    "llama": ("model.layers.{}", "model.norm", "model.layers.1.self_attn.o_proj"),
    "gemma2": ("model.layers.{}", "model.norm", "model.layers.1.mlp"),
    "gpt2": ("transformer.h.{}", "transformer.ln_f", "transformer.h.2.mlp.c_fc"),
    "gpt_neox": ("gpt_neox.layers.{}", "gpt_neox.final_layer_norm", "gpt_neox.layers.0.mlp.dense_h_to_4h"),
}


def plain(model, path, read):
    """Run the prompt with plain transformers and return what `read` collects on the last token's forward."""
    E = model.get_input_embeddings()(torch.tensor([IDS]))
    with torch.no_grad():
        if path == "prefill":
            return read({"inputs_embeds": E, "use_cache": False})
        cache = DynamicCache(config=model.config)
        model.base_model(inputs_embeds=E[:, :-1], **{ATTENTION: cache}, use_cache=True)
        return read({"inputs_embeds": E[:, -1:], ATTENTION: cache, "use_cache": True})


def hooked(model, path, name, *, inside=False):
    seen = []

    def before(_module, args, kwargs):
        seen.append((args[0] if args else kwargs["hidden_states"]).clone())

    def after(_module, _args, output):
        seen.append((output[0] if isinstance(output, tuple) else output).clone())

    module = model.get_submodule(name)

    def read(arguments):
        handle = (
            module.register_forward_pre_hook(before, with_kwargs=True)
            if inside
            else module.register_forward_hook(after)
        )
        model(**arguments, logits_to_keep=1)
        handle.remove()
        return seen[-1][:, -1]

    return plain(model, path, read)


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", PARTS)
def test_every_site_is_the_state_that_a_plain_hook_sees(family, path):
    loaded = load(f"tiny:{family}")
    block, norm, module = PARTS[family]
    wanted = {
        "embed": hooked(loaded.model, path, block.format(0), inside=True),
        **{f"block:{k}": hooked(loaded.model, path, block.format(k)) for k in range(3)},
        "pre_norm": hooked(loaded.model, path, norm, inside=True),
        "post_norm": plain(loaded.model, path, lambda a: loaded.model.base_model(**a).last_hidden_state[:, -1]),
        "logits": plain(loaded.model, path, lambda a: loaded.model(**a, logits_to_keep=1).logits[:, -1]),
        f"module:{module}": hooked(loaded.model, path, module),
        f"module:{norm}": hooked(loaded.model, path, norm),
    }
    for site, state in wanted.items():
        subject = CausalLMSubject(loaded, IDS, site=site, path=path)
        assert bits_equal(subject.evaluate(subject.copies(1)), state), site
        assert bits_equal(subject.baseline, state), site
    distinct = {tuple(state.flatten().tolist()) for state in wanted.values()}
    assert len(distinct) == len(wanted) - 2, "only the last block feeds the norm, and only the norm has two names"


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("site", ["embed", "block:0", "block:2", "pre_norm", "post_norm", "logits"])
def test_every_site_reacts_to_the_input(site, path):
    """A tap that fires while the prefix is built gives the prefix's own state, whatever x is."""
    subject = CausalLMSubject(load("tiny:llama"), IDS, site=site, path=path, batch=2)
    moved = subject.copies(2)
    moved[1] *= 2
    Y = subject.evaluate(moved)
    assert bits_equal(Y[0], subject.baseline[0])
    assert not bits_equal(Y[1], subject.baseline[1])


def test_the_embed_site_is_the_input_of_the_first_block_not_the_embedding_alone():
    loaded = load("tiny:gpt2")
    subject = CausalLMSubject(loaded, IDS, site="embed")
    transformer = loaded.model.transformer
    assert bits_equal(subject.baseline[0], transformer.wte.weight[IDS[-1]] + transformer.wpe.weight[len(IDS) - 1])


def test_a_module_outside_the_base_model_is_read_by_a_forward_that_runs_it():
    loaded = load("tiny:gemma2")
    head = CausalLMSubject(loaded, IDS, site="module:lm_head")
    capped = CausalLMSubject(loaded, IDS, site="logits")
    assert head.baseline.shape == (1, 258)
    cap = loaded.model.config.final_logit_softcapping
    assert bits_equal(torch.tanh(head.baseline / cap) * cap, capped.baseline)


@pytest.mark.parametrize(
    ("site", "fragment"),
    [
        ("block:3", "this model has blocks 0 to 2"),
        ("block:-1", "this model has blocks 0 to 2"),
        ("block:", "this model has blocks 0 to 2"),
        ("block", "this model has blocks 0 to 2"),
        ("module:model.layers.7", "the model has no module 'model.layers.7'"),
        ("hidden", "is not one of embed, block:K, pre_norm, post_norm, logits, module:NAME"),
        ("", "is not one of embed"),
    ],
)
def test_a_wrong_site_names_the_right_ones(site, fragment):
    with pytest.raises(UsageError, match=fragment):
        CausalLMSubject(load("tiny:llama"), IDS, site=site)


def test_a_module_that_never_runs_is_refused_not_replaced():
    loaded = load("tiny:llama")
    loaded.model.model.layers[0].add_module("spare", torch.nn.Linear(64, 64))
    with pytest.raises(UnsupportedError, match=r"does not run the module of site 'module:model.layers.0.spare'"):
        CausalLMSubject(loaded, IDS, site="module:model.layers.0.spare")


def test_a_state_that_is_not_one_vector_a_token_is_refused():
    with pytest.raises(UnsupportedError, match="where a state was expected"):
        CausalLMSubject(load("tiny:llama"), IDS, site="module:")
    with pytest.raises(UnsupportedError, match=r"gives shape \(12, 4\), not one vector a row and token"):
        CausalLMSubject(load("tiny:mixtral"), IDS, site="module:model.layers.0.mlp.gate")


def test_a_tap_reads_replaces_and_leaves_no_hook():
    layer = torch.nn.Linear(2, 2)
    x = torch.ones(1, 1, 2)
    for tap in (Tap(layer), Tap(layer, before=True)):
        with tap.reading(lambda _: None):
            assert bits_equal(layer(x), layer(x))
        with tap.reading(lambda state: 2 * state):
            doubled = layer(x)
        with pytest.raises(Stopped) as stopped, tap.stopping():
            layer(x)
        assert bits_equal(stopped.value.state, x if tap.before else layer(x))
        assert bits_equal(doubled, layer(2 * x) if tap.before else 2 * layer(x))
        assert not layer._forward_hooks
        assert not layer._forward_pre_hooks


def test_a_replacement_keeps_the_rest_of_a_tuple_and_of_the_arguments():
    class Pair(torch.nn.Module):
        def forward(self, hidden_states, scale):
            return hidden_states * scale, "cache"

    pair = Pair()
    x = torch.ones(1, 1, 2)
    with Tap(pair).reading(lambda state: state + 1):
        assert pair(x, scale=3)[1] == "cache"
        assert bits_equal(pair(x, scale=3)[0], 4 * x)
    with Tap(pair, before=True).reading(lambda state: state + 1):
        assert bits_equal(pair(x, 3)[0], 6 * x)
        assert bits_equal(pair(hidden_states=x, scale=3)[0], 6 * x)
