"""A language model made of blocks that a test chooses: small, real to every subject, with answers one can plant."""

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

import stabilitykit as sk

H = 8
VOCABULARY = 16


class ToyConfig(PretrainedConfig):
    model_type = "toy"

    def __init__(self, num_hidden_layers=1, hidden_size=H, **kwargs):
        self.num_hidden_layers, self.hidden_size = num_hidden_layers, hidden_size
        super().__init__(**kwargs)


class ToyBody(PreTrainedModel):
    """Embedding, blocks in order, a final norm, each called once with the state alone; no position sees another."""

    config_class = ToyConfig

    def __init__(self, config, blocks, norm, between=None, before=None):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(VOCABULARY, H)
        self.before = before
        self.layers = nn.ModuleList(blocks)
        self.between = between
        self.norm = norm

    def forward(self, input_ids=None, inputs_embeds=None, use_cache=None):
        state = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if self.before is not None:
            state = self.before(state)
        for block in self.layers:
            state = block(state)
        if self.between is not None:
            state = self.between(state)
        return BaseModelOutput(last_hidden_state=self.norm(state))


class ToyLM(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "model"

    def __init__(self, config, blocks, norm, **around):
        super().__init__(config)
        self.model = ToyBody(config, blocks, norm, **around)
        self.lm_head = nn.Linear(H, VOCABULARY, bias=False)

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, inputs_embeds=None, use_cache=None, logits_to_keep=0):
        state = self.model(input_ids, inputs_embeds).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(state[:, -logits_to_keep:]))


class Times(nn.Module):
    """x -> g x, with the gains as a buffer, so that float64 copies have them exactly."""

    def __init__(self, gains):
        super().__init__()
        self.register_buffer("gains", torch.as_tensor(gains, dtype=torch.float32).expand(H).clone())

    def forward(self, x):
        return x * self.gains


class Matrix(nn.Module):
    """x -> A x."""

    def __init__(self, A):
        super().__init__()
        self.register_buffer("A", torch.as_tensor(A, dtype=torch.float32))

    def forward(self, x):
        return x @ self.A.T


class Coarse(nn.Module):
    """x -> g x rounded to bfloat16, a rounding that true float64 does not see."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return (x * self.gain).to(torch.bfloat16).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, weight=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(H) if weight is None else torch.as_tensor(weight, dtype=torch.float32))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype)


class Residual(nn.Module):
    """x -> x + scale mlp(norm(x)): a block with one branch."""

    def __init__(self, mlp, norm=None, scale=1.0):
        super().__init__()
        self.norm, self.mlp, self.scale = norm or RMSNorm(), mlp, scale

    def forward(self, x):
        return x + self.scale * self.mlp(self.norm(x))


class Slots(nn.Module):
    """Adds a constant of its own to every row of the batch, as kernels do in their last bits."""

    def forward(self, x):
        return x + torch.arange(len(x), dtype=x.dtype)[:, None, None] / 8


class Keep(nn.Module):
    """Passes x on and remembers it."""

    def forward(self, x):
        self.seen = x
        return x

    def __deepcopy__(self, memo):
        memo[id(self)] = copied = Keep()  # what it has seen may hang on a graph, which cannot be copied
        return copied


class Reread(nn.Module):
    """Adds what a `Keep` has seen: the defect of a model that reads its input again."""

    def __init__(self, keep):
        super().__init__()
        self.keep = [keep]  # no child of this module

    def forward(self, x):
        return x + self.keep[0].seen.to(x)


class Toys:
    """The building blocks, and `subject`, which puts them together."""

    H, Times, Matrix, Coarse, RMSNorm, Residual, Slots, Keep, Reread = (
        *(H, Times, Matrix, Coarse, RMSNorm),
        *(Residual, Slots, Keep, Reread),
    )

    @staticmethod
    def model(blocks, norm=None, seed=0, **around):
        config = ToyConfig(num_hidden_layers=len(blocks))
        model = ToyLM(config, blocks, norm or Times(1.0), **around)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
                weight.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
        return model

    @classmethod
    def subject(cls, blocks, norm=None, *, batch=4, ids=(3, 1, 2), site="post_norm", **around):
        loaded = sk.adopt(cls.model(blocks, norm, **around))
        return sk.CausalLMSubject(loaded, list(ids), batch=batch, site=site)


@pytest.fixture(scope="session")
def toys():
    return Toys
