"""A tie by 500 steps of Adam, as the study walked to it, and by Newton steps and bisection; and the scans after it."""

import time

import torch

import stabilitykit as sk
from stabilitykit.measurements.tie_solver import tie_point

STEPS, SAMPLE = 500, 40


def test_a_tie_by_adam_and_by_newton(benchmark, model, capsys):
    """Both from the same prompt on the same path, in one run: the gap that is left, the way, and the time."""
    subject = sk.CausalLMSubject(model, "The capital of France is", site="logits")
    pair = tuple(subject.baseline[0].topk(2).indices.tolist())
    start = time.perf_counter()
    best, moved, steps = adam(subject, pair)
    seconds = time.perf_counter() - start
    tie = benchmark.pedantic(lambda: tie_point(subject, pair), rounds=3, iterations=1)
    again = benchmark.stats.stats.median
    assert abs(tie.gap) <= 2 * tie.ulp
    assert tie.backwards <= 10
    with capsys.disabled():
        print(
            f"\nAdam, {steps} steps: gap {best:.3g}, moved {moved:.3g}, {seconds:.1f} s; Newton, {tie.backwards} "
            f"gradients and {len(tie.trace)} inputs: gap {tie.gap:.3g}, moved {tie.distance:.3g}, {again:.2f} s; "
            f"{seconds / again:.0f} times"
        )


def test_the_scans_of_the_study_and_those_of_a_line(benchmark, model, capsys):
    """Its 5 x 2002 forwards at batch 1, from a sample, against a scan of five lines with its oracle and its pair."""
    subject = sk.CausalLMSubject(model, "The capital of France is", path="decode", batch=64, site="logits")
    alone = sk.CausalLMSubject(model, "The capital of France is", site="logits")
    tie = tie_point(subject)
    start = time.perf_counter()
    for _ in range(SAMPLE):
        alone.evaluate(tie.x[None])
    theirs = (time.perf_counter() - start) / SAMPLE * 10_010
    asked = sk.FlipScan(("v1", "v2", "v3", "v4", "v5"))
    result = benchmark.pedantic(lambda: sk.measure(asked, subject, progress=False), rounds=1, iterations=1)
    with capsys.disabled():
        print(
            f"\nstudy: 10,010 forwards of the whole prompt, {theirs:.0f} s by a sample of {SAMPLE}; FlipScan: "
            f"{result.execution.forwards} rows, {result.readings['inputs'].value:.0f} distinct inputs, "
            f"{result.execution.seconds:.0f} s"
        )


def adam(subject: sk.Subject, pair: tuple[int, int]) -> tuple[float, float, int]:
    """Return the best |z_a - z_b| of Adam on its square, the way to it, and the steps: rate 1e-3, gradient clipped."""
    x = subject.x0.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=1e-3)
    best, moved, steps = float("inf"), 0.0, 0
    while steps < STEPS:
        steps += 1
        optimiser.zero_grad()
        z = subject.forward(x[None])[0]
        gap = z[pair[0]] - z[pair[1]]
        if abs(float(gap.detach())) < best:
            best, moved = abs(float(gap.detach())), float((x.detach() - subject.x0).norm())
        if best < 1e-8:
            break
        (gap**2).backward()
        torch.nn.utils.clip_grad_norm_([x], 1.0)
        optimiser.step()
    return best, moved, steps
