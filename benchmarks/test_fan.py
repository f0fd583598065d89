"""The study's polar boundary against a certified fan: forwards, seconds, and whether both find the same radius."""

import math
import time

import torch
from bisection import bisection

import stabilitykit as sk
from stabilitykit.subjects.function_subject import FunctionSubject

ANGLES, SAMPLE = 1000, 6
STUDY = 32_000, 176_000
"""Forwards of the study's 1000 angles by its own cost model: about 30 halvings and 1 to 145 walked floats each."""


def test_a_thousand_angles_against_the_study(benchmark, prefill, decode, capsys):
    """The whole fan on one side; on the other the study's procedure on a sample of its angles, with its dense J."""
    decode.noise_floor()
    ours, fan = timed(lambda: sk.measure(sk.StabilityFan(angles=ANGLES), decode, progress=False))
    jacobian, dense = timed(lambda: sk.measure(sk.SingularSpectrum(k="all"), prefill, progress=False))
    chosen = range(0, ANGLES, ANGLES // SAMPLE)[:SAMPLE]
    directions = torch.from_numpy(fan.arrays["directions"])[list(chosen)]
    theirs, found = timed(lambda: [bisection(prefill, direction.float()) for direction in directions])
    certified = sk.measure(sk.FirstChange(direction=directions.float()), prefill, progress=False)
    equal = sum(same(row["radius"], s) for row, (s, _) in zip(certified.rows, found, strict=True))
    each = sum(count for _, count in found) / SAMPLE
    per_angle = fan.execution.forwards / ANGLES
    with capsys.disabled():
        print(
            f"\ncertified, {ANGLES} angles, decode, batch 64: {fan.execution.forwards} forwards ({per_angle:.2f} an "
            f"angle) + {fan.execution.screened} first blocks, {ours:.1f} s\n"
            f"study, prefill, batch 1: {each:.1f} forwards an angle, {theirs / SAMPLE:.2f} s an angle: "
            f"{each * ANGLES:.0f} forwards and {theirs / SAMPLE * ANGLES:.0f} s for {ANGLES} angles "
            f"(its cost model: {STUDY[0]} to {STUDY[1]}), and {dense.execution.backwards} backwards, {jacobian:.1f} s, "
            f"for its dense Jacobian\nratio of forwards {each / per_angle:.0f}, of time "
            f"{theirs / SAMPLE * ANGLES / ours:.0f}; same radius on {equal} of {SAMPLE} angles (prefill)"
        )
    assert per_angle <= 1.3
    benchmark.pedantic(lambda: sk.measure(sk.StabilityFan(angles=72), decode, progress=False), rounds=2, iterations=1)
    benchmark.extra_info.update(forwards=fan.execution.forwards, study_forwards=each * ANGLES)


def test_bisection_past_a_planted_island(capsys):
    """The output changes at the 3rd float, is the same from the 4th to the 40th, and changes for good after that."""
    x0 = torch.tensor([0.75, -1.3125])

    def fn(X):
        floats = (X[:, :1].contiguous().view(torch.int32) - x0[:1].view(torch.int32)).abs()
        return ((floats == 3) | (floats > 40)).float()

    direction = torch.tensor([1.0, 0.0])
    subject = FunctionSubject(fn, x0)
    (row,) = sk.measure(sk.FirstChange(direction=direction, beyond=64), subject, progress=False).rows
    s, forwards = bisection(subject, direction, s_max=5e-6)
    with capsys.disabled():
        print(
            f"\nplanted island: first change at {row['radius']:.3g}, found in {row['cells']} inputs; the study's "
            f"bisection reports {s:.3g} after {forwards}, {s / row['radius']:.0f} times too far"
        )
    assert s > 10 * row["radius"]


def test_bisection_in_bfloat16(capsys):
    """Rays of a real model that come back: how often the study's bisection ends at the certified radius there."""
    loaded = sk.load("smollm2", dtype="bfloat16")
    subject = sk.CausalLMSubject(loaded, "The capital of France is")
    directions = torch.randn(36, 576, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions[:, subject.x0 == 0] = 0
    result = sk.measure(sk.FirstChange(direction=directions, beyond=16), subject, progress=False)
    found = [bisection(subject, direction.float(), s_max=1e-3, tolerance=1e-12) for direction in directions]
    ratios = [s / row["radius"] for row, (s, _) in zip(result.rows, found, strict=True)]
    equal = sum(same(row["radius"], s) for row, (s, _) in zip(result.rows, found, strict=True))
    with capsys.disabled():
        print(
            f"\nbfloat16, 36 rays: {result.readings['islands'].value} come back within 16 inputs; bisecting [0, 1e-3] "
            f"gives the certified radius on {equal} and overstates it on {sum(r > 1.001 for r in ratios)}, by up to "
            f"{max(ratios):.3g} times, with {sum(count for _, count in found) / 36:.0f} forwards a ray"
        )
    assert min(ratios) > 0.999, "nothing changes below a certified radius"


def same(radius, s):
    """Whether both are one boundary: the study's steps are float32 numbers."""
    return abs(radius - s) <= 2.0**-22 * radius + math.ulp(radius)


def timed(work):
    """Return seconds and the result of one call."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
