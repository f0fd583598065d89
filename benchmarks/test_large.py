"""The cost model of large models against a measured series: random Llama blocks in the shape of the 8B one, growing.

    python -m pytest benchmarks/test_large.py -q -s

Predicted is arithmetic on counts: 2 P operations a whole forward of a row, 2 P / L a first block of L, 2 p its entry
(p: the weights that attention projects with), at the rate that this machine reaches in the model's own matrix products
at the same batch. What is no product is taken from the smallest model: a ray's own work, which grows with the width,
and a map's statistics, which do not. Nothing of the larger models is fitted.
"""

import pytest
from paired import timed
from test_growth import subject_of
from test_throughput import products

import stabilitykit as sk

WIDTHS, LAYERS, BATCH, ANGLES, N = (512, 1024, 2048), 4, 64, 128, 21
WITHIN = 2.0
"""The factor that a prediction may be wrong by."""

own: dict[str, float] = {}


def large(width):
    """Return a model of the 8B shape in small: MLP 3.5 times as wide, a key-value head for four heads."""
    return subject_of(
        width, LAYERS, 8, BATCH, 1000, vocab_size=1024, intermediate_size=7 * width // 2,
        num_attention_heads=width // 64, num_key_value_heads=width // 256, max_position_embeddings=256,
    )  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
def test_the_cost_model(width, one_thread, capsys):
    """A fan, a map and the top of the spectrum: seconds of the processor, beside what the counts predict."""
    subject = large(width)
    multiply, operations, weights = products(subject)
    rate = operations / min(timed(multiply)[0] for _ in range(3))
    whole, entry = operations / 2 / BATCH, projections_of(subject)
    subject.noise_floor()
    blocks = counting_blocks(subject)
    fan, found = timed(lambda: sk.measure(sk.StabilityFan(angles=ANGLES), subject, progress=False))
    entries = found.execution.screened - sum(blocks)
    counted = 2 * ((found.execution.forwards + sum(blocks) / LAYERS) * whole + entries * entry) / rate
    ray = own.setdefault("ray", max(fan - counted, 0.0) / ANGLES / width) * width
    asked = sk.Landscape(n=N, again=0)
    asked.ground(subject)
    grid, drawn = timed(lambda: sk.measure(asked, subject, progress=False))
    products_of_map = 2 * drawn.execution.forwards * (whole + subject.anatomy.head.weight.numel()) / rate
    mapped = products_of_map + own.setdefault("map", max(grid - products_of_map, 0.0))
    top, spectrum = timed(lambda: sk.singular_vectors(large(width), 5))
    with capsys.disabled():
        print(
            f"\nwidth {width}, {whole / 1e6:.0f}M weights in {LAYERS} blocks ({weights / 2**20:.0f} MiB), "
            f"{rate / 1e9:.0f} GFLOP/s\n"
            f"fan of {ANGLES}: {found.execution.forwards} forwards, {sum(blocks)} first blocks, {entries} entries, "
            f"{fan:.2f} s, predicted {counted + ANGLES * ray:.2f} s ({counted:.2f} s of products)\n"
            f"map of {N} x {N}: {drawn.execution.forwards} forwards, {grid:.2f} s, predicted {mapped:.2f} s\n"
            f"top {len(spectrum)} directions, proofs included: {top:.2f} s, {top * rate / 2 / whole:.0f} rows' time"
        )
    if width > WIDTHS[0]:
        assert 1 / WITHIN < fan / (counted + ANGLES * ray) < WITHIN
        assert 1 / WITHIN < grid / mapped < WITHIN


def projections_of(subject):
    """Return the weights that the entry of block 0 multiplies with."""
    attention = subject.anatomy.blocks[0].self_attn
    return sum(one.weight.numel() for one in (attention.q_proj, attention.k_proj, attention.v_proj))


def counting_blocks(subject):
    """Return a list that grows by the rows of every call of block 0 alone."""
    run, rows = subject.first_blocks, []

    def counted(X, blocks=1):
        rows.append(len(X))
        return run(X, blocks)

    subject.first_blocks = counted
    return rows
