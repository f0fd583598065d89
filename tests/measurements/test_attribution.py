"""Shares of the rounding error: planted roundings, sums that must be whole, and hybrids run by hand."""

import math

import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.measurements.attribution import EMBED, attribute

IDS = list(b"The capital of France is")


def parts_of(subject):
    return [(EMBED,), *((name,) for name in subject.anatomy.block_names), (subject.anatomy.final_norm_name,)]


def shared(subject, chains=None, replace=True):
    return attribute(subject, subject.in_float64(), chains or parts_of(subject), replace)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_block_that_rounds_has_all_of_the_error(toys, place):
    """The others multiply by two and round nothing; without its rounding nothing is left."""
    blocks = [toys.Times(2.0) for _ in range(3)]
    blocks[place] = toys.Coarse(3.0)
    subject = toys.subject(blocks)
    parts, error = shared(subject)
    for chain, part in parts.items():
        mine = chain == (f"model.layers.{place}",)
        assert part.share == pytest.approx(1.0 if mine else 0.0, abs=1e-6)
        assert part.size == pytest.approx(1.0 if mine else 0.0, abs=1e-6)
        if chain != (EMBED,):
            assert part.removed == pytest.approx(1.0 if mine else 0.0, abs=1e-4)
    y, y64 = (one.baseline[0].double() for one in (subject, subject.in_float64()))
    assert error == pytest.approx(float((y - y64).norm() / y64.norm()))


def test_two_errors_share_by_what_they_do_to_the_output(toys):
    """c of each block by hand: its rounding, times what the later blocks make of it."""
    subject = toys.subject([toys.Coarse(3.0), toys.Times(2.0), toys.Coarse(5.0)])
    parts, _ = shared(subject)
    x = subject.x0
    first = (3 * x).to(torch.bfloat16).float()
    last = (5 * (2 * first)).to(torch.bfloat16).float()
    c = {"0": (first.double() - 3 * x.double()) * 10, "2": last.double() - 10 * first.double()}
    E = last.double() - 30 * x.double()
    for name, vector in c.items():
        part = parts[f"model.layers.{name}",]
        assert part.share == pytest.approx(float(vector @ E / (E @ E)), rel=1e-9)
        assert part.size == pytest.approx(float(vector.norm() / E.norm()), rel=1e-9)
    without_last = (10 * first).double() - 30 * x.double()
    assert parts["model.layers.2",].removed == pytest.approx(1 - float(without_last.norm() / E.norm()), abs=1e-5)
    without_first = (5 * (2 * (3 * x))).to(torch.bfloat16).double() - 30 * x.double()
    assert parts["model.layers.0",].removed == pytest.approx(1 - float(without_first.norm() / E.norm()), abs=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral", "gpt_oss", "bloom", "mamba", "opt", "phi"])
def test_the_shares_of_a_whole_model_add_up(family, dtype):
    """Embedding, blocks and final norm are all there is; to first order nothing is left over."""
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}", dtype=dtype), IDS)
    parts, error = shared(subject, replace=False)
    assert sum(part.share for part in parts.values()) == pytest.approx(1, abs=1e-4 if dtype == "float32" else 0.03)
    assert 0 < error < (1e-5 if dtype == "float32" else 0.1)
    assert all(math.isnan(part.removed) for part in parts.values())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_shares_are_those_of_hybrids_run_by_hand(family):
    """Native up to a block, float64 from there on: the steps from hybrid to hybrid are the parts, exactly summed."""
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}"), IDS)
    twin = subject.in_float64()
    sites = ["embed", *(f"block:{k}" for k in range(3))]
    native = subject.states(subject.copies(1), sites, whole=True)

    def hybrid(site):
        if site == "embed":
            module = twin.anatomy.blocks[0]
            handle = module.register_forward_pre_hook(lambda _m, args: (native["embed"].double(), *args[1:]))
            y = twin.evaluate(twin.copies(1))[0]
            handle.remove()
            return y
        k = int(site.partition(":")[2])
        return twin.replacing_block(twin.copies(1), k, native[site].double())[0]

    steps = [twin.baseline[0], *(hybrid(site) for site in sites), subject.baseline[0].double()]
    E = steps[-1] - steps[0]
    parts, _ = shared(subject)
    for chain, before, after in zip(parts_of(subject), steps[:-1], steps[1:], strict=True):
        wanted = float((after - before) @ E / (E @ E))
        assert parts[chain].share == pytest.approx(wanted, abs=1e-4), chain


def test_a_branch_is_replaced_as_a_whole(toys):
    """Norm and linear map after each other: the second gets what the first's float64 twin returns."""
    blocks = [toys.Residual(toys.Coarse(3.0), norm=toys.Coarse(1.5))]
    subject = toys.subject(blocks)
    chain = ("model.layers.0.norm", "model.layers.0.mlp")
    parts, _ = shared(subject, [chain, chain[:1], chain[1:]])
    assert parts[chain].share == pytest.approx(1, abs=1e-5)
    assert parts[chain].removed == pytest.approx(1, abs=1e-4)
    assert parts[chain[:1]].share + parts[chain[1:]].share == pytest.approx(1, abs=1e-5)
    assert parts[chain[:1]].size > 0.01


def test_the_rounding_of_the_embedding_takes_one_row_of_each_model_and_one_that_carries_it(toys):
    subject = toys.subject([toys.Coarse(3.0), toys.Times(2.0)])
    twin, spent = subject.in_float64(), []
    for chains in (parts_of(subject)[1:], parts_of(subject)):
        before = subject.counter.forwards
        attribute(subject, twin, chains, replace=False)
        spent.append(subject.counter.forwards - before)
    assert subject.counter is twin.counter
    assert spent[1] - spent[0] == 2 + 1


def test_more_parts_than_one_batch_holds(toys):
    blocks = [toys.Times(2.0) for _ in range(40)]
    blocks[37] = toys.Coarse(2.5)
    parts, _ = shared(toys.subject(blocks), replace=False)
    assert [chain for chain, part in parts.items() if part.share > 0.5] == [("model.layers.37",)]


def test_what_cannot_be_run_alone_says_why(toys):
    class Shy(nn.Module):
        """Runs as often as it is told and then no more."""

        left = math.inf

        def forward(self, x):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("not again")
            return x * 2

    subject = toys.subject([toys.Coarse(3.0), toys.Times(2.0)])
    parts, _ = shared(subject, [("model.layers",), ("model.layers.0",)])
    assert parts["model.layers",] == "model.layers is not called once, from one vector a token to another"
    assert parts["model.layers.0",].share == pytest.approx(1, abs=1e-6)
    shy = toys.subject([toys.Times(2.0), Shy()])
    twin = shy.in_float64()
    twin.model.get_submodule("model.layers.1").left = 2  # recorded, and for the output; alone it is the third time
    told, _ = attribute(shy, twin, [("model.layers.1",)], replace=False)
    assert told["model.layers.1",] == "model.layers.1 cannot be run alone: not again"


def test_a_model_that_rounds_nothing_has_nothing_to_share(toys):
    parts, error = shared(toys.subject([toys.Times(2.0)]))
    assert error == 0
    assert all(math.isnan(part.share) for part in parts.values())
