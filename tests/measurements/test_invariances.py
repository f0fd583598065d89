"""Padding, cache and threads: a model that carries a running sum, with one defect planted at a time, and its twin."""

import copy

import pytest
import torch
from oracles.cache_name import ATTENTION
from torch import nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPast, CausalLMOutput

import stabilitykit as sk
from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.cache_invariance import CacheInvariance
from stabilitykit.measurements.determinism import BatchInvariance
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.padding_invariance import PaddingInvariance
from stabilitykit.measurements.thread_invariance import ThreadInvariance
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.report.figures import figures
from stabilitykit.subjects import schedules
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.noise import threads

H, VOCABULARY = 8, 16
IDS = [3, 1, 4, 1, 5]


class Running(nn.Module):
    """s_t = s_(t-1) + m_t x_t, token after token, so that no way to cut the prompt changes a bit."""

    def forward(self, x, mask, before):
        total, states = before, []
        for t in range(x.shape[1]):
            total = total + x[:, t] * mask[:, t, None]
            states.append(total)
        return torch.stack(states, dim=1)


class Config(PretrainedConfig):
    model_type = "running"

    def __init__(self, num_hidden_layers=1, hidden_size=H, **kwargs):
        self.num_hidden_layers, self.hidden_size = num_hidden_layers, hidden_size
        super().__init__(**kwargs)


class Body(PreTrainedModel):
    """Embedding, one running sum, a norm; `plant` is the name of a defect."""

    config_class = Config

    def __init__(self, config, plant=""):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(VOCABULARY, H)
        self.layers = nn.ModuleList([Running()])
        self.norm = nn.LayerNorm(H, elementwise_affine=False)
        self.plant = plant

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, use_cache=None, **past):
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        mask = torch.ones(x.shape[:2]) if attention_mask is None else attention_mask.float()
        if self.plant == "reads padding" and attention_mask is not None:
            mask = mask.clamp_min(2.0**-12)
        if self.plant == "mask rounds" and attention_mask is not None:
            x = x * (1 + 2.0**-20)
        cache = past.get(ATTENTION)
        cache = DynamicCache() if cache is None else cache  # without layers it is falsy
        before = getattr(cache, "total", torch.zeros(len(x), H))
        if self.plant == "forgets" and x.shape[1] > 1:
            before = torch.zeros(len(x), H)  # as state-space models do that restart in every piece
        if self.plant == "one token rounds" and x.shape[1] == 1:
            x = x * (1 + 2.0**-20)
        states = self.layers[0](x, mask, before)
        if not use_cache:
            return BaseModelOutput(last_hidden_state=self.norm(states))
        cache = copy.copy(cache)
        cache.total = states[:, -1]
        # The class has either name of the cache's field as an attribute, whichever transformers is installed.
        return BaseModelOutputWithPast(**{"last_hidden_state": self.norm(states), ATTENTION: cache})


class LM(PreTrainedModel):
    config_class = Config
    base_model_prefix = "model"

    def __init__(self, config, plant=""):
        super().__init__(config)
        self.model = Body(config, plant)
        self.lm_head = nn.Linear(H, VOCABULARY, bias=False)

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, inputs_embeds=None, logits_to_keep=0, **rest):
        state = self.model(input_ids, inputs_embeds, **rest).last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutput(logits=self.lm_head(state[:, keep]))


def running(plant="", site="post_norm"):
    torch.manual_seed(0)
    return CausalLMSubject(sk.adopt(LM(Config(), plant).eval()), IDS, site=site)


def differing(result, column):
    return {row[column] for row in result.rows if not row["bits_equal"]}


# --- the clean twin


@pytest.mark.parametrize("asked", [PaddingInvariance(), CacheInvariance()], ids=["padding", "cache"])
def test_a_running_sum_is_the_same_however_it_is_fed_also_as_a_gate(asked):
    result = measure(asked, running())
    assert result.verdict == "pass"
    result.check(differing_bits="<= 0")
    assert result.worst is None
    assert result.readings["cases"].value == len(result.rows) > 10
    assert result.execution.forwards == asked.cost(running()).forwards
    assert "the same bits" in result.sentence


# --- the cache


def test_a_cached_step_that_rounds_otherwise_is_caught_where_one_token_is_run():
    result = measure(CacheInvariance(lengths=(1, 3, 4), pieces=(1, 2, 4)), running("one token rounds"))
    assert result.verdict == "differs"
    assert differing(result, "schedule") == {"2+1", "1+1+1", "3+1", "1+1+1+1"}
    # a prompt of one token is run as one token also at once
    assert all(row["bits_equal"] for row in result.rows if row["length"] == 1)
    kinds = {row["schedule"]: row["kind"] for row in result.rows if row["length"] == 3}
    assert kinds == {"3": "cache kept", "2+1": "last alone", "1+1+1": "pieces of 1"}  # 2+1 again is not run again
    assert result.readings["differing_cases"].value == 4
    assert result.readings["max_ulp"].place["schedule"] in {"2+1", "1+1+1", "3+1", "1+1+1+1"}
    assert f"other bits in 4 of {len(result.rows)} schedules" in result.sentence
    assert "tokens as" in result.worst.where


def test_a_state_that_is_forgotten_between_pieces_is_no_rounding():
    result = measure(CacheInvariance(lengths=(4, 5), pieces=(1, 2)), running("forgets"))
    assert differing(result, "schedule") == {"2+2", "2+2+1"}
    assert result.readings["max_scaled_ulp"].value > 1e4


def test_what_keeps_no_cache_is_refused(toys):
    for subject in (FunctionSubject(lambda X: X, torch.ones(3)), toys.subject([toys.Times(2.0)])):
        with pytest.raises(UnsupportedError, match="keeps no cache, so nothing can be fed in pieces"):
            measure(CacheInvariance(), subject)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mamba", "bloom"])
@pytest.mark.parametrize("site", ["post_norm", "logits", "block:1"])
def test_pieces_are_those_of_plain_transformers(family, site):
    """By hand: a cache is passed from call to call, and the last call is read."""
    subject = CausalLMSubject(sk.load(f"tiny:{family}"), [5, 7, 11, 13, 17], site=site)
    model, name = subject.model, subject.anatomy.past
    E = model.get_input_embeddings()(torch.tensor([list(subject.ids)]))
    seen = []
    handle = subject.anatomy.blocks[1].register_forward_hook(
        lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1].clone())
    )
    with torch.no_grad():
        past = model.base_model(inputs_embeds=E[:, :3], use_cache=True)[name]
        state = model.base_model(inputs_embeds=E[:, 3:], use_cache=True, **{name: past}).last_hidden_state
        past = model.base_model(inputs_embeds=E[:, :3], use_cache=True)[name]
        logits = model(inputs_embeds=E[:, 3:], use_cache=True, logits_to_keep=1, **{name: past}).logits
    handle.remove()
    wanted = {"post_norm": state[0, -1], "logits": logits[0, -1], "block:1": seen[1]}[site]
    assert bits_equal(schedules.in_pieces(subject, (3, 2)), wanted)
    assert bits_equal(schedules.in_pieces(subject, (5,)), subject.baseline[0])


# --- padding


def test_padding_that_is_read_is_a_leak():
    result = measure(PaddingInvariance(lengths=(2, 5), pads=(1, 4)), running("reads padding"))
    assert result.verdict == "differs"
    # right padding comes after the last token of the prompt, which cannot see it
    assert differing(result, "side") == {"left"}
    assert result.readings["leaks"].value == 2 * 2
    assert "In 4 paddings what the mask hides changes the answer" in result.sentence
    with pytest.raises(sk.StabilityFailure, match="leaks 4 breaks <= 0"):
        result.check(leaks="<= 0")


def test_a_mask_that_changes_kernels_is_no_leak():
    asked = PaddingInvariance(lengths=(2,), pads=(1, 4))
    result = measure(asked, running("mask rounds"))
    assert result.readings["leaks"].value == 0
    assert result.readings["differing_cases"].value == len(result.rows) == 1 + 2 * 2 * 2
    assert "so this is a choice of kernels and not a leak" in result.sentence
    assert {row["content"] for row in result.rows} == {"mask alone", "pad token", "other tokens"}
    assert result.worst.where.startswith("y (2 tokens, ")


@pytest.mark.parametrize("site", ["post_norm", "logits", "block:1"])
@pytest.mark.parametrize(("side", "count"), [("left", 3), ("right", 3), ("right", 0)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_padding_is_that_of_plain_transformers(family, side, count, site):
    subject = CausalLMSubject(sk.load(f"tiny:{family}"), [5, 7, 11, 13], site=site)
    embed = subject.model.get_input_embeddings()
    P, E = embed(torch.full((1, count), 9)), embed(torch.tensor([list(subject.ids)]))
    rows = torch.cat([P, E] if side == "left" else [E, P], dim=1)
    mask = torch.tensor([[0] * count + [1] * 4 if side == "left" else [1] * 4 + [0] * count])
    given = {"inputs_embeds": rows, "attention_mask": mask, "use_cache": False}
    if family != "bloom":  # which has no positions but the mask's
        left = [0] * count + [0, 1, 2, 3]
        given["position_ids"] = torch.tensor([left if side == "left" else [0, 1, 2, 3] + [3] * count])
    at, seen = (3, []) if side == "right" else (-1, [])
    handle = subject.anatomy.blocks[1].register_forward_hook(
        lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, at].clone())
    )
    with torch.no_grad():
        state = subject.model.base_model(**given).last_hidden_state[0, at]
        keep = torch.tensor([3]) if side == "right" and count else 1
        logits = subject.model(**given, logits_to_keep=keep).logits[0, -1]
    handle.remove()
    wanted = {"post_norm": state, "logits": logits, "block:1": seen[0]}[site]
    assert bits_equal(schedules.padded(subject, side, P[0].detach()), wanted)


def test_the_hidden_never_matters_to_a_dense_model():
    result = measure(
        PaddingInvariance(lengths=(1, 4, 6), pads=(1, 5)), CausalLMSubject(sk.load("tiny:llama"), "abcdef")
    )
    assert result.readings["leaks"].value == 0
    assert result.readings["max_scaled_ulp"].value < 64


def test_what_takes_no_padding_is_refused(toys):
    with pytest.raises(UnsupportedError, match="is no language model"):
        measure(PaddingInvariance(), FunctionSubject(lambda X: X, torch.ones(3)))
    with pytest.raises(UnsupportedError, match="does not run with padding on the right"):
        measure(PaddingInvariance(), toys.subject([toys.Times(2.0)]))


# --- threads


def test_a_sum_that_knows_its_threads_is_caught_and_the_number_put_back():
    ambient = torch.get_num_threads()
    other = 3 - min(ambient, 2)

    def split(X):
        return X * (1 + 2.0**-20) if torch.get_num_threads() == other else X

    asked = ThreadInvariance(counts=(1, 2))
    with threads(min(ambient, 2)):
        result = measure(asked, FunctionSubject(split, torch.ones(4)))
        clean = measure(asked, FunctionSubject(lambda X: X * 3, torch.ones(4)))
        assert torch.get_num_threads() == min(ambient, 2)
        assert asked.cost(FunctionSubject(split, torch.ones(4))).forwards == result.execution.forwards == 3
    assert (result.verdict, clean.verdict) == ("differs", "pass")
    assert [row["threads"] for row in result.rows] == [other]
    assert result.readings["max_ulp"].value == 8
    assert result.readings["differing_bits"].value == 4
    assert result.worst.where == f"y ({other} threads)[0]"


def test_threads_are_tried_at_every_length_on_both_paths():
    with threads(1):
        asked = ThreadInvariance(counts=(2,), lengths=(1, 3))
        result = measure(asked, CausalLMSubject(sk.load("tiny:llama"), "abc"))
    assert [(row["path"], row["length"]) for row in result.rows] == [
        ("prefill", 1),
        ("prefill", 3),
        ("decode", 1),
        ("decode", 3),
    ]
    assert "1 thread against 2" in result.sentence


def test_where_one_number_is_all_there_is_nothing_is_claimed():
    with threads(1), pytest.raises(UnsupportedError, match="only 1 thread can be tried here"):
        measure(ThreadInvariance(counts=(1,)), FunctionSubject(lambda X: X, torch.ones(3)))


# --- common


@pytest.mark.parametrize("asked", [BatchInvariance, PaddingInvariance, CacheInvariance, ThreadInvariance])
def test_a_subject_that_differs_from_itself_is_not_blamed_on_anything_else(asked):
    subject = running()
    calls = []

    def flicker(_module, _args, state):
        calls.append(state)
        return state * (1 + 2.0**-20 * (len(calls) % 2))

    how = {"counts": (1, 2)} if asked is ThreadInvariance else {}
    handle = subject.model.model.layers[0].register_forward_hook(flicker)
    with pytest.raises((UsageError, sk.InvalidError), match=r"ask RunToRun first|RunToRun"):
        measure(asked(lengths=(3,), **how), subject)
    handle.remove()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PaddingInvariance(pads=(0,)), "padding has at least 1 token"),
        (lambda: PaddingInvariance(pads=()), "padding has at least 1 token"),
        (lambda: PaddingInvariance(sides_padded=("top",)), "a side is left or right"),
        (lambda: PaddingInvariance(lengths=()), "a prompt has at least 1 token"),
        (lambda: CacheInvariance(pieces=(0, 1)), "a piece has at least 1 token"),
        (lambda: CacheInvariance(lengths=(0,)), "a prompt has at least 1 token"),
        (lambda: ThreadInvariance(counts=(0,)), "numbers of threads from 1 up"),
    ],
)
def test_what_compares_nothing_is_refused(make, says):
    with pytest.raises(UsageError, match=says):
        make()


def test_each_has_a_map_whose_cells_say_where_bits_are_equal():
    cache = measure(CacheInvariance(lengths=(3, 4), pieces=(1, 2)), running("one token rounds"))
    (figure,) = figures(cache)
    trace = figure.traces[0]
    assert trace["x"] == ["cache kept", "last alone", "pieces of 1", "pieces of 2"]
    assert trace["y"] == ["3", "4"]
    assert trace["text"][0][0] == trace["text"][1][3] == "="
    assert trace["text"][0][3] == ""  # 2+1 was run as "last alone"
    assert float(trace["text"][0][1]) > 0
    padded = measure(PaddingInvariance(lengths=(2,), pads=(1, 4)), running("reads padding"))
    (figure,) = figures(padded)
    assert figure.traces[0]["x"] == ["mask alone", "1 right", "4 right", "1 left", "4 left"]
