"""Spectra against the study's way, in one run: a backward of the whole prompt an output, then an SVD in float32."""

import time

import pytest
import torch

import stabilitykit as sk

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = (
    "The capital of France is Paris, and the capital of Germany is Berlin; the two cities lie about nine hundred "
    "kilometres apart, which a train covers in eight hours and"
)


@pytest.mark.parametrize("tokens", [5, 32])
def test_spectra_against_the_study(model, tokens, capsys):
    """Time both sides by the processor, and check that they find the same values and directions."""
    ids = model.tokenizer(TEXT)["input_ids"][:tokens]
    subject = sk.CausalLMSubject(model, ids)
    J, study = timed(lambda: backwards(subject))
    (_, sigma, vt), svd = timed(lambda: torch.linalg.svd(J))
    study += svd
    fresh = {"tolerance": 0.99999e-5}  # not the usual one, so that nothing kept is taken
    top, ours = timed(lambda: sk.measure(sk.SingularSpectrum(k=5, **fresh), subject, progress=False))
    dense, all_of_them = timed(lambda: sk.measure(sk.SingularSpectrum(k="all", **fresh), subject, progress=False))
    for result in (top, dense):
        found = torch.from_numpy(result.arrays["sigma"][:5])
        assert ((found - sigma[:5]).abs() <= 1e-5 * sigma[0]).all()
        assert ((torch.from_numpy(result.arrays["v"][:5]) * vt[:5]).sum(dim=1).abs() > 1 - 1e-5).all()
    assert top.arrays["residual"].max() <= 1e-5 * float(sigma[0])
    products = top.execution.tangents + top.execution.backwards
    with capsys.disabled():
        print(
            f"\n{len(ids)} tokens: study {study:.1f} s ({len(J)} backwards of the whole prompt, SVD {svd:.2f} s); top "
            f"5 {ours:.2f} s ({products} rows of products), ratio {study / ours:.1f}; dense {all_of_them:.2f} s "
            f"({dense.execution.tangents + dense.execution.backwards} rows), ratio {study / all_of_them:.1f}"
        )


def backwards(subject):
    """Return J as the study took it, row by row: one forward with all logits, and its graph kept."""
    embeddings = subject.embeddings[None].clone().requires_grad_()
    with torch.enable_grad():
        state = subject.model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True).hidden_states[-1]
    return torch.stack([torch.autograd.grad(y, embeddings, retain_graph=True)[0][0, -1] for y in state[0, -1]])


def timed(work):
    """Return the result and the processor seconds of one call."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start
