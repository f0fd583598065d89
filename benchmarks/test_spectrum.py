"""Five singular values from products against the dense Jacobian, in one run."""

import time

import stabilitykit as sk


def test_top_five_against_dense(benchmark, prefill, capsys):
    """Time both, and check that they agree."""
    start = time.perf_counter()
    dense = sk.measure(sk.SingularSpectrum(k="all"), prefill, progress=False)
    seconds = time.perf_counter() - start
    top = benchmark.pedantic(
        lambda: sk.measure(sk.SingularSpectrum(k=5), prefill, progress=False), rounds=2, iterations=1
    )
    for index in range(1, 6):
        ours, oracle = (result.readings[f"sigma_{index}"].value for result in (top, dense))
        assert abs(ours - oracle) <= 1e-4 * oracle
    with capsys.disabled():
        print(
            f"\ntop 5: {top.execution.tangents + top.execution.backwards} products, {top.execution.seconds:.1f} s; "
            f"dense: {dense.execution.backwards} products, {seconds:.1f} s; "
            f"ratio of products {dense.execution.backwards / (top.execution.tangents + top.execution.backwards):.0f}"
        )
