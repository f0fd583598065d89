"""A certified boundary against the study's bisection, per direction, in one run on the same directions."""

import time

import torch
from bisection import bisection

import stabilitykit as sk
from stabilitykit import strategies

DIRECTIONS, SAMPLE = 256, 6


def drawn(subject, *, exact):
    """Return random unit directions, (256, H); `exact` leaves out the coordinates where x0 is zero."""
    rows = torch.stack([d.expand() for d in strategies.gaussians(DIRECTIONS, subject.x0.numel())])
    return rows * (subject.x0 != 0) if exact else rows


def test_first_change_against_bisection(benchmark, prefill, decode, capsys):
    """Time both on the same rays, and check that where both are exact they agree."""
    for exact in (True, False):
        directions = drawn(decode, exact=exact)
        ours, result = timed(lambda rays=directions: sk.measure(sk.FirstChange(direction=rays), decode, progress=False))
        theirs, found = timed(lambda rays=directions: [bisection(prefill, ray) for ray in rays[:SAMPLE]])
        certified = sk.measure(sk.FirstChange(direction=directions[:SAMPLE]), prefill, progress=False)
        ratio = (theirs / SAMPLE) / (ours / DIRECTIONS)
        forwards = sum(count for _, count in found) / SAMPLE
        agree = sum(
            abs(radius - s) <= 1e-6 * s for radius, (s, _) in zip(certified.arrays["radius"], found, strict=True)
        )
        kind = "exact rays" if exact else "rays that move zeros"
        with capsys.disabled():
            print(
                f"\n{kind}: certified "
                f"{1e3 * ours / DIRECTIONS:.2f} ms a direction (decode, batch 64, {DIRECTIONS} rays, "
                f"{result.execution.forwards} forwards + {result.execution.screened} first blocks); bisection "
                f"{1e3 * theirs / SAMPLE:.0f} ms (prefill, batch 1, {forwards:.1f} forwards); ratio {ratio:.0f}; "
                f"same boundary on {agree} of {SAMPLE} rays in prefill"
            )
    benchmark.pedantic(
        lambda: sk.measure(sk.FirstChange(direction=directions), decode, progress=False), rounds=2, iterations=1
    )
    benchmark.extra_info["ratio"] = ratio


def timed(work):
    """Return seconds and the result of one call."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
