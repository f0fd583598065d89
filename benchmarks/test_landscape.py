"""The map of a decision against the study's way: one whole-prompt forward with all logits for every cell, batch 1."""

import time

import numpy as np
import torch

import stabilitykit as sk
from conftest import PROMPT

N, BATCH, SAMPLE, CLOSER = 101, 256, 32, 2.0**16


def test_a_map_of_101_x_101_against_a_forward_a_cell(prefill, capsys):
    """The whole map on one side; on the other a sample of its cells, evenly spread, by the model alone.

    Both say which token wins in the cells of the sample. They run on different paths, so near the line, where rounding
    decides, they may differ; beyond the noise they may not.
    """
    torch.set_num_threads(1)
    decode = sk.CausalLMSubject(prefill.loaded, PROMPT, path="decode", batch=BATCH)
    asked = sk.Landscape(n=N, again=0)
    asked.ground(decode)
    ours, result = timed(lambda: sk.measure(asked, decode, progress=False))
    cells = np.linspace(0, N * N - 1, SAMPLE).round().astype(int)
    theirs, said = timed(lambda: [naive(prefill, result, *divmod(int(cell), N)) for cell in cells])
    D, L = (result.arrays[name].ravel()[cells] for name in ("D", "linear"))
    equal = (np.array(said) >= 0) == (D >= 0)
    clear = np.abs(L) > 8 * result.readings["noise_gap"].value
    forwards, cost = result.execution.forwards, theirs / SAMPLE * N * N
    near = sk.measure(sk.Zoom(result, region=CLOSER, n=N, again=0), decode, progress=False)
    with capsys.disabled():
        print(
            f"\nlandscape, {N} x {N}, decode, batch {BATCH}: {forwards} forwards of one token, {ours:.1f} s "
            f"({1e3 * ours / forwards:.2f} ms each), {int(result.readings['inputs'].value)} distinct inputs\n"
            f"study, prefill, batch 1, all logits: {N * N} forwards of {len(prefill.ids)} tokens, {cost:.0f} s scaled "
            f"from {SAMPLE} cells ({1e3 * theirs / SAMPLE:.0f} ms each)\nratio of time {cost / ours:.1f}; one token in "
            f"{int(equal.sum())} of {SAMPLE} cells, in {int(equal[clear].sum())} of {int(clear.sum())} beyond the "
            f"noise\n{CLOSER:.0f} times closer: {int(near.readings['inputs'].value)} distinct inputs of {N * N} cells, "
            f"{near.execution.forwards} forwards"
        )
    assert equal[clear].all()
    assert forwards <= N * N + 3 * BATCH  # the last batch is filled up, and the noise floor has two of its own


def naive(subject, result, i, j):
    """Return D of one cell as the study's script took it: two rounded steps, the whole prompt, every logit."""
    x0, (h1, h2) = (torch.from_numpy(result.arrays[name]).float() for name in ("x0", "directions"))
    x = (x0 + float(result.arrays["e1"][i]) * h1) + float(result.arrays["e2"][j]) * h2
    embeddings = subject.embeddings.clone()
    embeddings[-1] = x
    with torch.no_grad():
        logits = subject.model(inputs_embeds=embeddings[None], use_cache=False).logits[0, -1]
    a, b = result.subject["pair"]
    return float(logits[a]) - float(logits[b])


def timed(work):
    """Return processor seconds and the result of one call."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result
