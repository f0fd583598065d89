"""Where a recording listens: every tensor once, in the order in which it is made, and in-place work is seen."""

import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.errors import UsageError
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.generation import Text
from stabilitykit.traces.stages import discover, listening


def stages(spec, level):
    loaded = sk.load(spec)
    anatomy = find(loaded.model)
    text = Text(loaded, [5, 6, 7], 1, anatomy, listens=False)
    return loaded, anatomy, text, discover(loaded.model, anatomy, lambda: next(text.greedy()), level)


def test_blocks_are_the_states_between_them():
    _, anatomy, _, found = stages("tiny", "block")
    assert [stage.name for stage in found] == [
        "embed",
        *(f"block:{k}" for k in range(anatomy.layers)),
        "post_norm",
        "logits",
    ]


def test_submodules_of_a_block_are_in_running_order_and_no_tensor_stands_twice():
    _, _, _, found = stages("tiny", "module")
    parts = [stage.part for stage in found if stage.block == 0]
    assert parts == [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj:input",
        "self_attn.o_proj",
        "post_attention_layernorm:input",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.act_fn",
        "mlp.up_proj",
        "mlp.down_proj:input",
        "mlp.down_proj",
        "block",
    ]
    assert "module:model.layers.0.self_attn" not in [stage.name for stage in found]  # its output projection's tensor
    assert len({stage.name for stage in found}) == len(found)


def test_stages_are_exactly_the_distinct_tensors_of_a_forward():
    """An independent listener: all module outputs and first arguments, held; each memory and shape once."""
    loaded, _, text, found = stages("tiny", "module")
    held = []

    def keep(value):
        values = value if isinstance(value, tuple) else (value,)
        held.extend(one for one in values[:1] if isinstance(one, torch.Tensor))

    hooks = []
    for name, module in loaded.model.named_modules():
        if name:
            hooks.append(module.register_forward_pre_hook(lambda _m, args: keep(args)))
            hooks.append(module.register_forward_hook(lambda _m, _args, output: keep(output)))
    logits = next(text.greedy())
    for hook in hooks:
        hook.remove()
    distinct = {(one.data_ptr(), tuple(one.shape)) for one in held} - {(logits.data_ptr(), (1, 1, len(logits)))}
    by_keyword = 1  # `mlp` and `self_attn` take theirs by keyword or repeat one; the logits are no module's own
    assert len(found) == len(distinct) + by_keyword


@pytest.mark.parametrize("spec", ["tiny:gpt2", "tiny:gemma2", "tiny:mixtral", "tiny:mamba"])
def test_other_architectures_have_their_stages_in_order(spec):
    _, anatomy, _, found = stages(spec, "module")
    names = [stage.name for stage in found]
    places = [names.index(f"block:{k}") for k in range(anatomy.layers)]
    assert names.index("embed") < places[0]
    assert places == sorted(places)
    assert places[-1] < names.index("post_norm") < names.index("logits") == len(names) - 1


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        y = self.inner(x.clone())
        return y.add_(1)


def test_a_stage_that_the_forward_overwrites_is_marked():
    class Anatomy:
        block_names, final_norm_name = ("0",), "1"

    model = nn.Sequential(InPlace(), nn.Identity())
    found = discover(model, Anatomy, lambda: model(torch.zeros(1, 1, 4))[0, 0] * 2, "module")
    assert [(stage.name, stage.volatile) for stage in found[1:]] == [
        ("input:0.inner", True),
        ("block:0", False),
        ("logits", False),
    ]


def test_a_module_that_runs_twice_in_a_forward_is_one_stage(tmp_path):
    """Gemma 3 runs its rotary embedding once for each kind of attention; such a recording could not be read back."""
    made = sk.record(sk.load("tiny:gemma3"), ["one"], 2, states="all")
    names = [stage.name for stage in made.stages]
    assert len(set(names)) == len(names)
    assert names.count("module:model.rotary_emb") == 1
    back = sk.read_recording(sk.write_recording(made, tmp_path / "twice"))
    assert back.stages == made.stages


class Twice(nn.Module):
    """Runs one module twice, and writes over what it gave first."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        first = self.inner(x).add_(1)
        return first + self.inner(first.clone())


def test_a_module_that_runs_twice_is_overwritten_if_either_output_is():
    class Anatomy:
        block_names, final_norm_name = ("0",), "1"

    model = nn.Sequential(Twice(), nn.Identity())
    found = discover(model, Anatomy, lambda: model(torch.zeros(1, 1, 4))[0, 0] * 2, "module")
    assert [(stage.name, stage.volatile) for stage in found if stage.module == "0.inner" and not stage.before] == [
        ("module:0.inner", True)
    ]


def test_an_unknown_level_is_refused():
    with pytest.raises(UsageError, match="'layer' of a recording is not one of block, module, op"):
        stages("tiny", "layer")


def test_no_hook_stays_behind():
    loaded, _, text, found = stages("tiny", "module")
    with listening(loaded.model, found, lambda _index, _tensors: None):
        next(text.greedy())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in loaded.model.modules())
