"""How the cost of certified boundaries grows with directions, width, layers and prompt, each fitted log-log.

    python -m pytest benchmarks/test_growth.py -q -s

Random Llama models, float32, decode. `GROWTH_FIGURE=FILE.svg` also draws the four series.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from paired import timed
from transformers import LlamaConfig, LlamaForCausalLM

import stabilitykit as sk
from stabilitykit import strategies

BASE = {"directions": 128, "width": 256, "layers": 6, "prompt": 16}
SERIES = {
    "directions": (36, 72, 144, 288, 576),
    "width": (128, 256, 512, 1024),
    "layers": (3, 6, 12, 24),
    "prompt": (8, 32, 128, 512),
}
MOST = {"directions": 1.05, "width": 2.1, "layers": 1.05, "prompt": 1.05}
"""The largest slope that is allowed: linear in all but the width, in whose square the weights grow."""

WIDTH, HEIGHT, ROUNDS = 520, 360, 3
found: dict[str, list[float]] = {}


def subject_of(width, layers, prompt, batch=36, ids_below=500, **shape):
    """Return a random model of a size, as a subject with so long a prompt; `shape` has other fields of its config."""
    torch.manual_seed(0)
    usual = {
        "vocab_size": 512,
        "intermediate_size": 3 * width,
        "num_attention_heads": width // 32,
        "num_key_value_heads": width // 64,
        "max_position_embeddings": 1024,
    }
    config = LlamaConfig(hidden_size=width, num_hidden_layers=layers, **{**usual, **shape})
    model = LlamaForCausalLM(config).eval()
    ids = np.random.Generator(np.random.PCG64(0)).integers(1, ids_below, size=prompt).tolist()
    return sk.CausalLMSubject(sk.adopt(model), ids, path="decode", batch=batch)


@pytest.mark.parametrize("name", SERIES)
def test_growth(name, capsys):
    """Fit log seconds = slope * log size + c; the proofs and the noise floor are paid before."""
    seconds = []
    for size in SERIES[name]:
        directions, width, layers, prompt = {**BASE, name: size}.values()
        subject = subject_of(width, layers, prompt)
        rays = torch.stack([d.expand() for d in strategies.gaussians(directions, width)])
        sk.measure(sk.FirstChange(direction=rays[:1]), subject, progress=False)
        work = partial(sk.measure, sk.FirstChange(direction=rays), subject, progress=False)
        seconds.append(min(timed(work)[0] for _ in range(ROUNDS)))
    slope = float(np.polyfit(np.log(SERIES[name]), np.log(seconds), 1)[0])
    found[name] = seconds
    with capsys.disabled():
        pairs = ", ".join(f"{size}: {value:.3g} s" for size, value in zip(SERIES[name], seconds, strict=True))
        print(f"\n{name}: slope {slope:.2f}, at most {MOST[name]} ({pairs})")
    assert slope <= MOST[name]


def test_the_figure():
    """Draw what the tests above found."""
    if (path := os.environ.get("GROWTH_FIGURE")) and len(found) == len(SERIES):
        Path(path).write_text(drawn())


def drawn():
    """Return the series as an SVG: seconds relative to the smallest size, against the size relative to it."""
    span = (
        np.log(max(max(sizes) / sizes[0] for sizes in SERIES.values())),
        np.log(max(max(s) / s[0] for s in found.values())),
    )
    attributes = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>']
    lines.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    lines.append(f'<path d="M60 20V{HEIGHT - 50}H{WIDTH - 20}" fill="none" stroke="#444"/>')
    for number, (name, color) in enumerate(zip(SERIES, ("#1f77b4", "#d62728", "#2ca02c", "#9467bd"), strict=True)):
        x = 60 + (WIDTH - 90) * np.log(np.array(SERIES[name]) / SERIES[name][0]) / span[0]
        y = HEIGHT - 50 - (HEIGHT - 80) * np.log(np.array(found[name]) / found[name][0]) / span[1]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        slope = np.polyfit(np.log(SERIES[name]), np.log(found[name]), 1)[0]
        lines.append(f'<text x="75" y="{36 + 18 * number}" fill="{color}">{name}: slope {slope:.2f}</text>')
    for exponent in range(int(span[0] / np.log(2)) + 1):
        x = 60 + (WIDTH - 90) * exponent * np.log(2) / span[0]
        lines.append(f'<text x="{x:.0f}" y="{HEIGHT - 32}" text-anchor="middle">{2**exponent}</text>')
    for exponent in range(int(span[1] / np.log(2)) + 1):
        y = HEIGHT - 50 - (HEIGHT - 80) * exponent * np.log(2) / span[1]
        lines.append(f'<text x="52" y="{y + 4:.0f}" text-anchor="end">{2**exponent}</text>')
    lines.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">size, in times the smallest</text>')
    lines.append(
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">seconds, in times</text>'
    )
    return "\n".join([*lines, "</svg>"]) + "\n"
