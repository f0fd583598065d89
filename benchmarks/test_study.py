"""What the study's procedures cost on this model: counted by formula, and measured on a sample in one run."""

import time

from study import procedures

import stabilitykit as sk


def test_the_study_by_formula_and_by_sample(benchmark, prefill, capsys):
    """Run a sample of each procedure and compare its count with the formula."""
    H = prefill.x0.numel()
    lines = []
    sk.singular_vectors(prefill, 2)
    forward = benchmark.pedantic(lambda: prefill.evaluate(prefill.copies(1)), rounds=20, iterations=1)
    assert forward.shape == (1, H)
    for name, procedure in procedures().items():
        stated, scaled, seconds = procedure.forwards(H), float("nan"), float("nan")
        if procedure.sample:
            before, start = prefill.counter.forwards, time.perf_counter()
            whole = procedure.units(H) / procedure.sample(prefill)
            scaled = (prefill.counter.forwards - before) * whole
            seconds = (time.perf_counter() - start) * whole
            assert 0.9 * stated <= scaled <= 3 * stated, name
        lines.append(
            f"{name:20} {procedure.answers:22} {stated:9.0f} forwards + {procedure.jacobians * H:5} backwards; "
            f"scaled from a sample {scaled:9.0f}, {seconds:7.0f} s"
        )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
