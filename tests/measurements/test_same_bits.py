"""What is made faster keeps its bits: against the model's plain call, a brute walk, and digests of former versions."""

import copy
import itertools
import math

import pytest
import torch

from stabilitykit import CausalLMSubject, FirstChange, bits_equal, load, measure, perturb, strategies
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects.function_subject import FunctionSubject

IDS = [3, 1, 2, 5]
FAMILIES = ("llama", "gpt2", "gemma3", "mixtral")


def plainly(subject, X):
    """Return the state after block 0 and the last token's last hidden state, as a user's own call has them.

    A mixture is called with the experts that the subject has chosen: those of the user let its lanes mix.
    """
    base, seen = subject.model.base_model, []
    handle = subject.anatomy.blocks[0].register_forward_hook(
        lambda _m, _i, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    before = subject.embeddings[:-1].repeat(len(X), 1, 1)
    try:
        with torch.no_grad(), subject.running():
            if subject.path == "prefill":
                whole = torch.cat([before, X[:, None]], dim=1)
                out = base(inputs_embeds=whole, use_cache=False)
            else:
                name = subject.anatomy.past
                past = copy.deepcopy(getattr(base(inputs_embeds=before, use_cache=True), name))
                out = base(inputs_embeds=X[:, None], use_cache=True, **{name: past})
    finally:
        handle.remove()
    return seen[-1], out.last_hidden_state[:, -1]


def inputs(subject):
    """Return a batch of x0 and of small and large moves of it."""
    d = strategies.gaussians(1, subject.x0.numel())[0].expand()
    steps = [0.0, *(10.0**-k for k in range(9, 9 - subject.batch + 1, -1))]
    return torch.stack([perturb(subject.x0.cpu(), d, s) for s in steps])


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("prefill", 3), ("decode", 1), ("decode", 5)])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_first_blocks_are_those_of_the_plain_call(family, path, batch):
    subject = CausalLMSubject(load(f"tiny:{family}"), IDS, path=path, batch=batch)
    same_as_plain(subject)


def same_as_plain(subject):
    for X in (subject.copies(subject.batch), inputs(subject)):
        state, output = plainly(subject, X.clone())
        assert digest(subject.evaluate(X)) == digest(output)
        assert digest(subject.first_blocks(X)) == digest(state)
    assert digest(subject.baseline) == digest(plainly(subject, subject.copies(subject.batch))[1])


def following(x0, direction, low):
    """Return the first float64 s > low with another x(s) than at low, by doubling and halving: no lattice is asked."""
    here = perturb(x0, direction, low)
    step = max(low * 2.0**-52, 2.0**-60)
    while bits_equal(perturb(x0, direction, low + step), here):
        step *= 2
    high = low + step
    while math.nextafter(low, math.inf) < high:
        middle = low + (high - low) / 2
        low, high = (middle, high) if bits_equal(perturb(x0, direction, middle), here) else (low, middle)
    return high


def walked(subject, direction, slot):
    """Return the pair where a ray first changes, by a plain whole forward for every distinct input, in one slot."""
    X = subject.copies(subject.batch)
    y0, s = plainly(subject, X.clone())[1][slot].clone(), 0.0
    while True:
        s = following(subject.x0, direction, s)
        X[slot] = perturb(subject.x0, direction, s)
        if not bits_equal(plainly(subject, X.clone())[1][slot], y0):
            return math.nextafter(s, 0.0), s


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 4)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_certified_radii_are_those_of_a_brute_walk(family, path, batch):
    subject = CausalLMSubject(load(f"tiny:{family}"), IDS, path=path, batch=batch)
    certified_as_walked(subject, torch.stack([d.expand() for d in strategies.gaussians(4, 64)]))


def certified_as_walked(subject, directions):
    found = measure(FirstChange(direction=directions), subject, progress=False)
    for row, direction in zip(found.rows, directions, strict=True):
        assert row["exact"]
        assert (row["s_last_same"], row["s_first_changed"]) == walked(subject, direction, row["slot"])


@pytest.mark.model
@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 4)])
def test_smollm2_keeps_its_bits(path, batch):
    subject = CausalLMSubject(load("smollm2"), "The capital of France is", path=path, batch=batch)
    same_as_plain(subject)
    directions = torch.stack([d.expand() for d in strategies.gaussians(2, 576)]) * (subject.x0 != 0)
    certified_as_walked(subject, directions)


def drawn(dtype, zeros):
    """Return an input and 12 directions, some coordinates of the input exact zeros."""
    x0, *rest = (d.expand() for d in strategies.gaussians(13, 48))
    x0[: len(x0) // 8 if zeros else 0] = 0
    return x0.to(dtype), torch.stack(rest)


def cells_of(dtype, zeros):
    """Return one number for the first 40 samples of every ray, as float64 steps and coordinates."""
    x0, directions = drawn(dtype, zeros)
    listed = [list(itertools.islice(Lattice(x0, d).samples(math.inf), 40)) for d in directions]
    return digest(torch.tensor(listed, dtype=torch.float64))[:16]


def steps_of(dtype, zeros, batch):
    """Return one number for what is found on rays of a function that only compares bits, so that no machine matters."""
    x0, directions = drawn(dtype, zeros)
    integers = {4: torch.int32, 2: torch.int16}[dtype.itemsize]

    def moved(X):
        return (X.contiguous().view(integers) - x0.view(integers)).long().abs()

    def first(X):
        return (moved(X)[:, 6:] // 2).sum(dim=1, keepdim=True).float() + (moved(X)[:, :6] > 1 << 20)

    def fn(X):
        return (first(X).sum(dim=1, keepdim=True) % 7 > 3).float()

    subject = FunctionSubject(fn, x0, batch=batch, first=first)
    found = measure(FirstChange(direction=directions, beyond=12, max_cells=400), subject, progress=False)
    names = ("radius", "s_first_changed", "lattice_radius", "cells", "coordinate", "islands", "last_return")
    return digest(torch.tensor([[float(row[name]) for name in names] for row in found.rows], dtype=torch.float64))[:16]


CELLS = {
    ("float32", False): "49e409734848d9e9",
    ("float32", True): "474ab06a8bcb6a3f",
    ("bfloat16", False): "7344f39cc5c84167",
    ("bfloat16", True): "aad2ccffb3de7e3a",
    ("float16", False): "f6d38cf64449f234",
    ("float16", True): "b56ed2912e9f414e",
    ("float64", False): "d6521744a9869069",
    ("float64", True): "510ff64fc1ddae86",
}
STEPS = {
    ("float32", False, 1): "f08fcc8190ba6983",
    ("float32", False, 5): "f08fcc8190ba6983",
    ("float32", True, 1): "a6f8c111204ee17a",
    ("float32", True, 5): "a6f8c111204ee17a",
    ("bfloat16", False, 1): "56a8a34dd77d0a0d",
    ("bfloat16", False, 5): "56a8a34dd77d0a0d",
    ("bfloat16", True, 1): "d7548b5febbf0b37",
    ("bfloat16", True, 5): "d7548b5febbf0b37",
}


@pytest.mark.parametrize(("dtype", "zeros"), CELLS)
def test_lattices_list_what_they_always_did(dtype, zeros):
    assert cells_of(getattr(torch, dtype), zeros) == CELLS[dtype, zeros]


@pytest.mark.parametrize(("dtype", "zeros", "batch"), STEPS)
def test_searches_find_what_they_always_did(dtype, zeros, batch):
    assert steps_of(getattr(torch, dtype), zeros, batch) == STEPS[dtype, zeros, batch]
