"""Rows a second through the model, against what its matrix products alone and reading its weights alone would allow."""

import pytest
import torch
from paired import timed
from torch import nn
from torch.profiler import ProfilerActivity, profile

import stabilitykit as sk

ROUNDS, TARGET = 5, 0.6


def products(subject):
    """Return a call that does the blocks' matrix products and nothing else: torch.mm, the model's own weights."""
    layers = [layer for block in subject.anatomy.blocks for layer in block.modules() if isinstance(layer, nn.Linear)]
    inputs = {layer.in_features: torch.randn(subject.batch, layer.in_features) for layer in layers}

    def run():
        with torch.no_grad():
            for layer in layers:
                torch.mm(inputs[layer.in_features], layer.weight.T)

    weights = sum(layer.weight.numel() for layer in layers)
    return run, 2 * weights * subject.batch, weights * layers[0].weight.element_size()


@pytest.mark.parametrize("batch", [1, 16, 64, 256])
def test_rows_a_second_against_the_ceilings(benchmark, model, prefill, batch, capsys):
    """Time the forward, its products and a copy in turns, the least of each counting."""
    subject = sk.CausalLMSubject(model, prefill.prompt, path="decode", batch=batch)
    multiply, operations, weights = products(subject)
    source = torch.zeros(16 << 20)
    X, target = subject.copies(batch), torch.empty_like(source)
    works = (lambda: subject.evaluate(X), multiply, lambda: target.copy_(source))
    for work in works:
        work()
    forward, matmul, copy = (
        min(times) for times in zip(*([timed(w)[0] for w in works] for _ in range(ROUNDS)), strict=True)
    )
    bandwidth = 2 * source.numel() * source.element_size() / copy
    share = matmul / forward
    with capsys.disabled():
        print(
            f"\ndecode, batch {batch}: {batch / forward:.1f} rows a second; products alone {batch / matmul:.1f} "
            f"({operations / matmul / 1e9:.1f} GFLOP/s), reached {share:.0%}; reading the weights once as fast as a "
            f"copy ({bandwidth / 1e9:.1f} GB/s) {batch * bandwidth / weights:.1f}"
        )
        if batch == 256:
            print(spent(subject, X))
    benchmark.extra_info.update(share=share)
    benchmark.pedantic(works[0], rounds=1, iterations=1)
    if batch == 256:
        assert share >= TARGET


def spent(subject, X, most=6):
    """Return which operations a forward's time goes to, in shares."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        subject.evaluate(X)
    events = sorted(recorded.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    whole = sum(event.self_cpu_time_total for event in events)
    return ", ".join(f"{event.key} {event.self_cpu_time_total / whole:.1%}" for event in events[:most])
