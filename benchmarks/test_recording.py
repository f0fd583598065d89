"""What a recording costs: beside a plain generation, and beside a recorder that reads the whole text at each token."""

import statistics
import time

import pytest
import torch

from stabilitykit.prompts import GENERATION_PROMPTS
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.generation import Text
from stabilitykit.traces.digests import Digests
from stabilitykit.traces.record import _largest
from stabilitykit.traces.stages import discover, listening

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS, ROUNDS, SAMPLE = 48, 7, 12


@pytest.mark.parametrize("level", ["block", "module"])
def test_recorded_beside_plain(model, level, capsys):
    """Alternate the two, and take the median of the ratios of processor time: the machine is the same for both."""
    anatomy = find(model.model)
    text = Text(model, GENERATION_PROMPTS[0].text, TOKENS, anatomy, listens=False)
    stages = discover(model.model, anatomy, lambda: next(text.greedy()), level)
    ratios = []
    for _ in range(ROUNDS):
        plain = spent(lambda: list(text.greedy()))
        ratios.append(spent(lambda: listened(model, text, stages)) / plain)
    with capsys.disabled():
        print(
            f"\nlevel {level}: {len(stages)} stages a token; recorded / plain = {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}), {1000 * plain / TOKENS:.0f} ms a token"
        )


def test_beside_the_whole_text_again_at_each_token(model, capsys):
    """The study's recorder: tokens of all text through every block at each step, states copied to float32 arrays."""
    anatomy = find(model.model)
    text = Text(model, GENERATION_PROMPTS[0].text, SAMPLE, anatomy, listens=False)
    stages = discover(model.model, anatomy, lambda: next(text.greedy()), "module")
    ours = spent(lambda: listened(model, text, stages))
    theirs = spent(lambda: whole(model, text, stages))
    T, P = 1000, len(text.ids)
    with capsys.disabled():
        print(
            f"\n{SAMPLE} tokens: {theirs:.2f} s by whole texts, {ours:.2f} s on the cache ({theirs / ours:.1f} times); "
            f"token-forwards for {T} tokens after {P}: {T * P + T * (T - 1) // 2} against {P + T - 1}"
        )


def spent(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def listened(model, text, stages):
    digests = Digests(stages)
    with listening(model.model, stages, digests.hear):
        for row in text.greedy():
            digests.hear(len(stages) - 1, (row,))
            digests.take().result()
            _largest(row, 10)


def whole(model, text, stages):
    kept, ids = {}, list(text.ids)

    def hear(index, tensors):
        kept.setdefault(index, []).append(tensors[0].reshape(-1, tensors[0].shape[-1])[-1].float().numpy().copy())

    with torch.no_grad(), listening(model.model, stages, hear):
        for _ in range(SAMPLE):
            logits = model.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits.argmax()))
