"""A certified boundary against the study's procedure, per direction, on the same directions, answers checked."""

import pytest
import torch
from bisection import bisection
from paired import alternated

import stabilitykit as sk
from stabilitykit import strategies

SAMPLE, ROUNDS = 2, 2
CASES = {"prefill, batch 1": (12, 25), "decode, batch 64": (576, 500)}
"""Directions and the ratio that is aimed at, per path and batch."""


@pytest.fixture(scope="session")
def singular(decode):
    """All right singular vectors (576, 576) of one prompt; the same directions for every path and batch."""
    return sk.singular_vectors(decode, decode.x0.numel())


def chosen(kind, subject, singular):
    """Return (576, H): singular vectors, or random directions that move the zeros of x0 or leave them out."""
    if kind == "singular":
        return singular
    rows = torch.stack([d.expand() for d in strategies.gaussians(576, subject.x0.numel())])
    return rows * (subject.x0 != 0) if kind == "random, zeros kept" else rows


@pytest.mark.parametrize("kind", ["singular", "random", "random, zeros kept"])
@pytest.mark.parametrize("case", CASES)
def test_first_change_against_the_study(benchmark, model, prefill, singular, case, kind, capsys):
    """Time both in turns; in prefill at batch 1, whose bits are the study's, both must name one boundary."""
    count, target = CASES[case]
    path, batch = case.split(", batch ")
    subject = sk.CausalLMSubject(model, prefill.prompt, path=path, batch=int(batch))
    rays = chosen(kind, subject, singular)[:: 576 // count]
    asked = sk.FirstChange(direction=rays)
    sk.measure(sk.FirstChange(direction=rays[:1]), subject, progress=False)  # its proofs, its noise floor, its baseline
    ours, theirs, result, found = alternated(
        lambda: sk.measure(asked, subject, progress=False),
        lambda: [bisection(prefill, ray.float()) for ray in rays[:SAMPLE]],
        ROUNDS,
    )
    certified = sk.measure(sk.FirstChange(direction=rays[:SAMPLE].float()), prefill, progress=False).rows
    exact = [(row["radius"], s) for row, (s, _) in zip(certified, found, strict=True) if row["exact"]]
    agree = sum(abs(radius - s) <= 1e-6 * s for radius, s in exact)
    each, ratio, run = ours / count, (theirs / SAMPLE) / (ours / count), result.execution
    with capsys.disabled():
        print(
            f"\n{case}, {count} {kind} directions: {1e3 * each:.2f} ms each ({run.forwards / count:.2f} forwards "
            f"+ {run.screened / count:.0f} first blocks or their entries); the study's {1e3 * theirs / SAMPLE:.0f} ms "
            f"({sum(forwards for _, forwards in found) / SAMPLE:.0f} forwards); ratio {ratio:.0f}, target {target}; "
            f"same boundary on {agree} of {len(exact)} exact ones in prefill"
        )
    assert agree == len(exact)
    benchmark.extra_info.update(ratio=ratio, target=target)
    benchmark.pedantic(lambda: sk.measure(asked, subject, progress=False), rounds=1, iterations=1)
