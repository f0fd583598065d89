"""Word by word on SmolLM2: brute force, a float64 model, and what the numbers should look like."""

import copy

import numpy as np
import pytest
import torch

import stabilitykit as sk

pytestmark = pytest.mark.model
TEXT = "The capital of France is Paris, and the capital of Italy is Rome. Naïve \U0001f600 日本語 readers agree."


@pytest.fixture(scope="module")
def loaded():
    return sk.load("smollm2")


@pytest.fixture(scope="module")
def result(loaded):
    return sk.measure(sk.WordByWord(TEXT, window=16, stride=6, sample=12), loaded, progress=False)


def brute(model, loaded, result):
    """Return the logits (N, V) of a forward of its own for each token, without a cache, in float64."""
    ids = loaded.tokenizer(TEXT).input_ids
    found = []
    for row in result.rows:
        for place in range(row["first"], row["end"]) if row["part"] == "window" else ():
            with torch.no_grad():
                found.append(model(torch.tensor([ids[row["start"] : place]]), use_cache=False).logits[0, -1].double())
    return torch.stack(found), torch.tensor(ids[1:])


def test_one_forward_a_position_says_the_same(loaded, result):
    """Equal first and second predictions, and logits that differ by the noise that the ways showed, no more."""
    logits, target = brute(loaded.model, loaded, result)
    order = logits.sort(dim=1, descending=True, stable=True)
    assert np.array_equal(result.arrays["top"], order.indices[:, :2].numpy())
    noise = result.readings["noise"].value
    assert 0 < np.abs(result.arrays["logits"] - order.values[:, :2].numpy()).max() < 20 * noise
    own = logits.gather(1, target[:, None])
    assert np.array_equal(result.arrays["rank"], 1 + (logits > own).sum(dim=1).numpy())
    nll = -logits.log_softmax(dim=1).gather(1, target[:, None])[:, 0].numpy()
    assert np.abs(result.arrays["log_sum"] - result.arrays["target_logit"] - nll).max() < 20 * noise


def test_the_noise_is_of_the_size_of_the_error(loaded, result):
    """Against the same model in true float64 the margins are wrong by some of the noise: it is no other quantity."""
    with sk.true_float64():
        logits, _ = brute(copy.deepcopy(loaded.model).double(), loaded, result)
    top = torch.from_numpy(result.arrays["top"])
    true = (logits.gather(1, top) @ torch.tensor([1.0, -1.0], dtype=torch.float64)).numpy()
    wrong = result.arrays["logits"][:, 0] - result.arrays["logits"][:, 1] - true
    assert 0.2 < np.sqrt((wrong**2).mean()) / result.readings["noise"].value < 5


def test_the_words_and_what_was_known_of_them(result):
    words = {row["word"]: row for row in result.rows if row["part"] == "word"}
    assert [row["word"] for row in result.rows if row["part"] == "word"] == TEXT.split()[1:]
    assert words["Rome."]["top_1"] == " Rome"
    assert words["Rome."]["rank"] == 1
    assert words["Rome."]["tokens"] == 2
    assert words["\U0001f600"]["tokens"] == 2
    assert words["日本語"]["probability"] < 1e-6


def test_half_precision_hangs_by_more_threads(result):
    coarse = sk.measure(sk.WordByWord(TEXT, sample=12), sk.load("smollm2", dtype="bfloat16"), progress=False)
    assert coarse.readings["noise"].value > 100 * result.readings["noise"].value
    assert coarse.readings["fragile_share"].value > 0.1 > result.readings["fragile_share"].value
