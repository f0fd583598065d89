"""Perplexity with matrices on a grid: against a model rounded by hand, and a planted defect that a grid destroys."""

import copy
import math

import pytest
import torch
from oracles.defective import DECAYS, EXPLODES, defective
from torch import nn

import stabilitykit as sk
from stabilitykit.measurements.kept_projections import _values as readings_of
from stabilitykit.numerics.integer_grid import on_grid
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.fake_quantised import FakeQuantised
from stabilitykit.subjects.tiny import tiny
from stabilitykit.subjects.weights import weight_digest

TEXTS = ("ab,cd", "efg.h", "ijk")


def rows(result):
    return {row["choice"]: row for row in result.rows}


class Rounded(nn.Module):
    """A matrix on the grid, and the product with its input on the grid, written out."""

    def __init__(self, linear, bits, per):
        super().__init__()
        self.bits, self.per, self.bias = bits, per, linear.bias
        W = linear.weight if isinstance(linear, nn.Linear) else linear.weight.T
        self.weight = on_grid(W, bits, per)

    def forward(self, x):
        return nn.functional.linear(on_grid(x, self.bits, self.per), self.weight, self.bias)


def by_hand(loaded, ids, bits, per, kept=()):
    """Return the loss of a copy whose modules were replaced one by one."""
    model = copy.deepcopy(loaded.model)
    for stem in find(model).block_names:
        for name, module in list(model.get_submodule(stem).named_modules()):
            whole = f"{stem}.{name}"
            if hasattr(module, "weight") and module.weight.ndim == 2 and whole not in kept:
                parent, _, leaf = whole.rpartition(".")
                setattr(model.get_submodule(parent), leaf, Rounded(module, bits, per))
    return _loss(model, ids)


def _loss(model, ids):
    with torch.no_grad():
        told = [model(torch.tensor([one])).logits[0, :-1].double().log_softmax(1) for one in ids]
    return float(torch.cat([-x[range(len(one) - 1), one[1:]] for x, one in zip(told, ids, strict=True)]).mean())


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
@pytest.mark.parametrize(("bits", "per"), [(8, "tensor"), (4, "row")])
def test_logits_are_those_of_replaced_modules(family, bits, per):
    loaded = sk.load(f"tiny:{family}")
    model = FakeQuantised(loaded, find(loaded.model), bits, per)
    ids = [5, 6, 7, 8, 9]
    told = model.logits(torch.tensor([ids]))[:-1].double().log_softmax(1)[range(4), ids[1:]]
    assert float(-told.mean()) == pytest.approx(by_hand(loaded, [ids], bits, per), rel=1e-5)
    exact = model.logits(torch.tensor([ids]), model.names)
    assert torch.equal(exact, loaded.model(torch.tensor([ids])).logits[0])


@pytest.fixture(scope="module")
def model():
    return defective()


@pytest.fixture(scope="module")
def result(model):
    return sk.measure(sk.KeptProjections(TEXTS, controls=5), model, progress=False)


def test_perplexities_are_those_by_hand(result, model):
    ids = [list(text.encode()) for text in TEXTS]
    found = rows(result)
    kept = {f"model.layers.{k}.mlp.down_proj" for k in (EXPLODES, DECAYS)}
    assert found["all rounded"]["loss"] == pytest.approx(by_hand(model, ids, 8, "tensor"), rel=1e-6)
    assert found["blocks with a role kept"]["loss"] == pytest.approx(by_hand(model, ids, 8, "tensor", kept), rel=1e-6)
    assert found["plain"]["perplexity"] == pytest.approx(math.exp(_loss(model.model, ids)), rel=1e-6)
    assert result.readings["predicted_tokens"].value == sum(len(one) - 1 for one in ids)


def test_choices_are_the_roles_and_controls_of_the_same_number_without_them(result):
    found = rows(result)
    assert found["blocks with a role kept"]["kept"] == f"{EXPLODES}, {DECAYS}"
    assert found["explosion and decay kept"]["kept"] == f"{EXPLODES}, {DECAYS}"
    controls = [row for name, row in found.items() if name.startswith("control")]
    assert len(controls) == 5
    for row in controls:
        blocks = [int(one) for one in row["kept"].split(", ")]
        assert len(set(blocks)) == 2
        assert not {EXPLODES, DECAYS} & set(blocks)


def test_readings_are_those_of_the_rows(result):
    found = rows(result)
    plain, rounded, kept = (found[name]["loss"] for name in ("plain", "all rounded", "blocks with a role kept"))
    assert result.readings["recovered"].value == pytest.approx((rounded - kept) / (rounded - plain))
    controls = [row["loss"] for name, row in found.items() if name.startswith("control")]
    assert result.readings["chance"].value == (1 + sum(loss <= kept for loss in controls)) / 6


def test_where_rounding_loses_nothing_there_is_nothing_to_take_back():
    losses = {"plain": 3.0, "all rounded": 2.9, "blocks with a role kept": 2.8, "explosion and decay kept": 2.7}
    found = [
        {"choice": name, "loss": loss, "perplexity": math.exp(loss)}
        for name, loss in {**losses, "control 1": 2.75, "control 2": 2.85}.items()
    ]
    values = readings_of(found, 10)
    assert math.isnan(values["recovered"])
    assert math.isnan(values["control_recovered"])
    assert values["chance"] == 2 / 3
    assert values["control_perplexity"] == pytest.approx((math.exp(2.75) + math.exp(2.85)) / 2)


def test_the_users_model_is_left_bit_for_bit(model):
    twin = defective()
    before = weight_digest(twin.model)
    addresses = [weight.data_ptr() for weight in twin.model.parameters()]
    sk.measure(sk.KeptProjections(TEXTS, controls=1), twin, progress=False)
    assert weight_digest(twin.model) == before == weight_digest(model.model)
    assert [weight.data_ptr() for weight in twin.model.parameters()] == addresses
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in twin.model.modules())


def test_a_failure_inside_leaves_the_model_as_well(monkeypatch):
    twin = defective()
    before = weight_digest(twin.model)
    quantised = FakeQuantised(twin, find(twin.model), 8, "tensor")
    twin.model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quantised.logits(torch.tensor([[1, 2, 3]]))
    assert weight_digest(twin.model) == before
    assert not any(module._forward_pre_hooks for module in twin.model.modules())


def test_the_planted_blocks_lose_what_others_do_not():
    """Ordinary tokens become 0 in front of the exploding block's down-projection; there alone keeping it helps."""
    loaded = defective()
    feed = loaded.model.model.layers[EXPLODES].mlp
    with torch.no_grad():
        feed.down_proj.weight[8:, 1:] *= 16  # let ordinary tokens live on what this block writes elsewhere
    found = sk.measure(sk.KeptProjections(TEXTS, controls=5), loaded, progress=False)
    assert found.readings["recovered"].value > found.readings["control_recovered"].value
    assert found.readings["chance"].value == 1 / 6


def test_finer_grids_lose_less_and_the_finest_nothing(model):
    found = [sk.measure(sk.KeptProjections(TEXTS, bits, controls=1), model, progress=False) for bits in (4, 16)]
    losses = [rows(one)["all rounded"]["over_plain"] for one in found]
    assert abs(math.log(losses[1])) < 1e-2 < abs(math.log(losses[0]))


def test_blocks_can_be_named_where_there_are_no_long_tokens():
    """The control: a random model has none, and says so unless it is told what to keep."""
    random = sk.adopt(tiny("llama"), sk.load("tiny").tokenizer)
    with pytest.raises(sk.UnsupportedError, match="no high-norm tokens"):
        sk.measure(sk.KeptProjections(TEXTS), random, progress=False)
    found = sk.measure(sk.KeptProjections(TEXTS, keep=(1,), controls=2), random, progress=False)
    assert rows(found)["blocks with a role kept"]["kept"] == "1"
    with pytest.raises(sk.UsageError, match="names block 7; this model has 0 to 2"):
        sk.measure(sk.KeptProjections(TEXTS, keep=(9, 1, 7)), random, progress=False)


@pytest.mark.parametrize("wrong", [{"texts": "ab"}, {"bits": 1}, {"bits": 17}, {"per": "column"}, {"controls": 0}])
def test_what_asks_nothing_is_refused(wrong):
    with pytest.raises(sk.UsageError):
        sk.KeptProjections(**{"texts": TEXTS, **wrong})
    with pytest.raises(sk.UsageError, match="no text has a second token"):
        sk.measure(sk.KeptProjections([[5]], keep=(0,)), sk.load("tiny"), progress=False)


@pytest.mark.model
def test_smollm2_in_eight_bits_is_saved_by_its_defects_alone():
    loaded = sk.load("smollm2")
    before = weight_digest(loaded.model)
    texts = ["The capital of France is Paris, and the capital of Germany is Berlin."]
    found = sk.measure(sk.KeptProjections(texts, keep=(1, 2, 9, 11, 28, 29), controls=2), loaded, progress=False)
    assert found.readings["recovered"].value > 2 * max(found.readings["control_recovered"].value, 0)
    assert found.readings["recovered"].value > 0.5
    assert weight_digest(loaded.model) == before
