"""Word by word against brute force, planted ties, noise and ranks, and stopped runs that go on to the same bits."""

import dataclasses
import hashlib
import json
import math
import statistics

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

import stabilitykit as sk
from stabilitykit.measurements import prediction
from stabilitykit.measurements.token_predictions import COSINES, joined, predict
from stabilitykit.measurements.word_readings import readings
from stabilitykit.measurements.word_rows import Scan, word_rows
from stabilitykit.numerics.forecast import Prior
from stabilitykit.subjects.generation import Way
from stabilitykit.subjects.noise import threads
from stabilitykit.subjects.tiny import BOS, byte_tokenizer, tiny
from stabilitykit.subjects.windows import Window
from stabilitykit.subjects.words import Tokenised, Word

TEXT = "When a river leaves the mountains, it slows down\n\nand what it carried\tsinks: naïve \U0001f600 日本語."
FEW = {"window": 24, "stride": 10, "sample": 8}


def asked(loaded, document=TEXT, **how):
    return sk.measure(sk.WordByWord(document, **{**FEW, **how}), loaded, progress=False)


def words(result):
    return rows(result, "word")


def rows(result, part):
    return [row for row in result.rows if row["part"] == part]


def value(result, name):
    return result.readings[name].value


def brute(loaded, result):
    """Return the logits (N, V) of each predicted token from a forward of its own: the window's text, no cache."""
    ids = loaded.tokenizer(TEXT, split_special_tokens=True).input_ids
    found = []
    for window in rows(result, "window"):
        for place in range(window["first"], window["end"]):
            with torch.no_grad():
                logits = loaded.model(torch.tensor([ids[window["start"] : place]]), use_cache=False).logits
            found.append(logits[0, -1].double())
    return torch.stack(found), torch.tensor(ids[1:])


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "mamba"])
def test_one_forward_a_position_says_the_same(family):
    """Top ids, logits, ranks and probabilities of every token, by brute force; bits differ by the noise."""
    loaded = sk.load(f"tiny:{family}")
    result = asked(loaded, top=3)
    logits, target = brute(loaded, result)
    order = logits.sort(dim=1, descending=True, stable=True)
    noise = 1e-4  # of logits near 4: the margins of these tokens are wider, but for those left out here
    firm = ((order.values[:, :3] - order.values[:, 1:4]) > noise).all(dim=1).numpy()
    assert firm.sum() > 0.9 * len(target)
    assert np.array_equal(result.arrays["top"][firm], order.indices[:, :3].numpy()[firm])
    assert np.array_equal(result.arrays["target"], target.numpy())
    own = logits.gather(1, target[:, None])[:, 0]
    assert np.abs(result.arrays["logits"] - order.values[:, :3].numpy()).max() < noise / 2
    assert np.abs(result.arrays["target_logit"] - own.numpy()).max() < noise / 2
    near = ((logits - own[:, None]).abs() < noise).sum(dim=1).numpy()
    rank = 1 + (logits > own[:, None]).sum(dim=1).numpy()
    assert np.abs(result.arrays["rank"] - rank).max() <= near.max()
    assert np.array_equal(result.arrays["rank"][near == 1], rank[near == 1])
    p = logits.log_softmax(dim=1)
    assert result.arrays["log_sum"] == pytest.approx(logits.logsumexp(dim=1).numpy(), abs=noise)
    assert result.arrays["entropy"] == pytest.approx(-(p.exp() * p).sum(dim=1).numpy(), abs=noise)


def test_the_noise_is_that_of_the_margins():
    """Against brute force the margins move by about the noise; a way that has the bits of another adds nothing."""
    loaded = sk.load("tiny")
    result = asked(loaded, sample=64)
    logits, _ = brute(loaded, result)
    top = torch.from_numpy(result.arrays["top"])
    margins = logits.gather(1, top) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    moved = margins.numpy() - (result.arrays["logits"][:, 0] - result.arrays["logits"][:, 1])
    assert 0.3 < np.sqrt((moved**2).mean()) / value(result, "noise") < 3
    assert np.abs(moved).max() < 10 * value(result, "noise")
    once, thrice = (asked(loaded, ways=(Way("decode"),) * count) for count in (1, 3))
    assert value(once, "noise") == value(thrice, "noise") > 0


def test_the_perplexity_is_that_of_cross_entropy():
    """In one window of the whole text, by torch's own loss; bits a character follow from it."""
    loaded = sk.load("tiny")
    result = asked(loaded, window=512)
    ids = torch.tensor([loaded.tokenizer(TEXT).input_ids])
    with torch.no_grad():
        loss = nn.functional.cross_entropy(loaded.model(ids).logits[0, :-1].double(), ids[0, 1:])
    assert value(result, "perplexity") == pytest.approx(math.exp(loss), rel=1e-6)
    assert value(result, "tokens") == ids.numel() - 1
    assert value(result, "bits_per_character") == pytest.approx(
        float(loss) * (ids.numel() - 1) / math.log(2) / (len(TEXT) - 1), rel=1e-6
    )


def test_words_add_up_their_tokens():
    """Word and separator tokens together are the whole text; a word matches if all of its tokens do."""
    result = asked(sk.load("tiny"))
    nll = result.arrays["log_sum"] - result.arrays["target_logit"]
    inside = np.zeros(len(nll), dtype=bool)
    for row in words(result):
        own = slice(row["token"] - 1, row["token"] - 1 + row["tokens"])
        assert row["nll"] == pytest.approx(nll[own].sum(), rel=1e-12)
        assert row["probability"] == pytest.approx(math.exp(-nll[own].sum()), rel=1e-12)
        assert row["match"] == bool((result.arrays["rank"][own] == 1).all())
        assert bytes(result.arrays["target"][own].tolist()).decode() == row["word"]
        margins = result.arrays["logits"][own, 0] - result.arrays["logits"][own, 1]
        assert row["weakest_margin"] == margins.min()
        assert row["weakest_token"] == margins.argmin()
        assert not inside[own].any()
        inside[own] = True
    outside = bytes(result.arrays["target"][~inside].tolist()).decode()
    assert outside == "hen" + "".join(one for one in TEXT if one.isspace())
    assert [row["word"] for row in words(result)] == TEXT.split()[1:]


def test_each_word_says_what_it_was_predicted_from():
    result = asked(sk.load("tiny"))
    plan = rows(result, "window")
    for row in words(result):
        window = next(one for one in plan if one["first"] <= row["token"] < one["end"])
        assert row["context"] == row["token"] - window["start"]
        assert row["context"] >= (14 if window["number"] else 1)
    assert value(result, "positions") == sum(one["end"] - 1 - one["start"] for one in plan)
    assert value(result, "study_positions") == sum(row["token"] for row in words(result))


def planted(logits, said, top=3, states=None, head=None):
    head = nn.Identity() if head is None else head
    return joined([predict([(logits, states)], said, top, head)])


def test_ties_go_to_the_lower_id():
    """Ranks and predictions among equal logits, and the unit of the largest one."""
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0], [5.0, -1.0, 5.0, 2.0, 2.0]])
    found = planted(logits, [4, 3])
    assert found.top.tolist() == [[1, 2, 4], [0, 2, 3]]
    assert found.rank.tolist() == [3, 3]
    assert found.tied.tolist() == [3, 2]
    assert planted(logits, [1, 0]).rank.tolist() == [1, 1]
    assert planted(logits, [2, 2]).rank.tolist() == [2, 2]
    assert found.margin.tolist() == [0.0, 0.0]
    assert found.ulp.tolist() == [2.0**-6, 2.0**-5]  # these numbers are bfloat16's
    fine = torch.tensor([[4.000001, 1.0, 0.0]])
    assert planted(fine, [0], top=2).ulp.tolist() == [2.0**-21]


def test_probability_and_entropy_are_exact_where_they_are_known():
    found = planted(torch.zeros(1, 8), [5], top=2)
    assert found.nll[0] == pytest.approx(math.log(8), rel=1e-15)
    assert found.entropy[0] == pytest.approx(math.log(8), rel=1e-15)
    far = planted(torch.tensor([[1000.0, 0.0, 0.0]]), [1], top=2)
    assert far.nll[0] == 1000.0
    assert far.entropy[0] == pytest.approx(0.0, abs=1e-12)


def test_cosines_are_those_of_states_and_rows():
    random = np.random.Generator(np.random.PCG64(5))
    W, x = (torch.from_numpy(random.standard_normal(shape)) for shape in ((6, 4), (40, 4)))
    head = nn.Linear(4, 6, bias=False)
    head.weight.data = W.float()
    W, x = W.float(), x.float()
    logits, said = x @ W.T, [k * k % 6 for k in range(40)]
    found = planted(logits, said, states=x, head=head)
    for k in range(40):
        first, second, target = (W[token].double() for token in (*found.top[k, :2], said[k]))
        pairs = [(x[k].double(), first), (x[k].double(), second), (x[k].double(), target)]
        pairs += [(first, target), (second, target)]
        expected = [float(nn.functional.cosine_similarity(a, b, dim=0)) for a, b in pairs]
        assert found.cosines[k] == pytest.approx(expected, abs=1e-12)
        assert found.state_norm[k] == pytest.approx(float(x[k].double().norm()), rel=1e-12)
    assert np.isnan(planted(logits, said).cosines).all()
    assert tuple(COSINES) == ("cosine_1", "cosine_2", "cosine_target", "cosine_1_target", "cosine_2_target")


def test_a_word_matches_if_all_of_its_tokens_do():
    """Of words of two tokens: both are the first prediction, only the first, only the second."""
    found = planted(torch.eye(6), [0, 1, 2, 5, 5, 5], top=2)
    assert found.greedy.tolist() == [True, True, True, False, False, True]
    pairs = tuple(Word("ab", k, k + 2, k, k + 2) for k in (0, 2, 4))
    text = Tokenised((0, 1, 2, 5, 5, 5), tuple((k, k + 1) for k in range(6)), (9,), pairs)
    scan = Scan(text, (Window(0, 0, 6),), found, Prior(0.0, 1e6), 0.0, 0.95)
    found = word_rows(sk.load("tiny"), scan, scan.flips())
    assert [row["match"] for row in found] == [True, False, False]
    values = readings(found, scan, scan.flips(), {metric.name: metric for metric in sk.WordByWord.metrics})
    assert [values[name] for name in ("accuracy", "first_token_accuracy", "token_accuracy")] == [1 / 3, 2 / 3, 2 / 3]


def test_a_prediction_flips_at_a_tie_if_the_rival_has_the_lower_id():
    """Margins of 1 with normal noise of 0.5 on either device; the cut is half a unit above or below a tie."""
    text = Tokenised((0, 0), ((0, 1), (1, 2)), (9,), ())
    found = planted(torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]]), [0, 0])
    flips = Scan(text, (Window(0, 0, 2),), found, Prior(0.5, 1e9), 0.0, 0.95).flips()
    noise, half = statistics.NormalDist(0, 0.5 * math.sqrt(2)), 2.0**-7
    assert flips.probability == pytest.approx([noise.cdf(-1 - half), noise.cdf(-1 + half)], rel=1e-6)


def doubled():
    """A tiny model whose vocabulary comes in pairs with equal rows: every prediction is an exact tie."""
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[1::2] = model.lm_head.weight[0::2]
    return sk.adopt(model, byte_tokenizer())


def test_planted_ties_make_every_word_fragile():
    result = asked(doubled())
    assert value(result, "exact_ties") == value(result, "tokens")
    assert value(result, "fragile_share") == 1.0
    assert value(result, "min_margin") == 0.0
    assert (result.arrays["top"][:, 0] % 2 == 0).all()
    assert all(row["rank"] > 1 for row in words(result) if row["target_id"] % 2)
    clean = asked(sk.load("tiny"))
    assert value(clean, "exact_ties") == 0
    assert value(clean, "fragile_share") == 0.0


def test_one_ulp_is_fragile_though_no_way_moves_it():
    """The second row of each pair is one unit larger: without any noise the margin is a unit, or few."""
    loaded = doubled()
    with torch.no_grad():
        loaded.model.lm_head.weight[1::2] = torch.nextafter(loaded.model.lm_head.weight[0::2], torch.tensor(9.0))
    result = asked(loaded, ways=())
    assert value(result, "noise") == 0.0
    one = result.arrays["logits"][:, 0] - result.arrays["logits"][:, 1] <= result.arrays["ulp"]
    expected = [one[row["token"] - 1 : row["token"] - 1 + row["tokens"]].any() for row in words(result)]
    assert [row["fragile"] for row in words(result)] == expected
    assert sum(expected) > 0


class Shaken(nn.Module):
    """Adds normal noise to the state, drawn anew for each shape and content: a machine's rounding, larger."""

    def __init__(self, norm, sigma):
        super().__init__()
        self.norm, self.sigma = norm, sigma

    def forward(self, x):
        y = self.norm(x)
        key = y[-1].numpy().tobytes() + str(tuple(y.shape)).encode()
        random = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(key).digest()[:8], "little")))
        return y + self.sigma * torch.from_numpy(random.standard_normal(y.shape)).to(y)


def shaken(sigma):
    loaded = sk.load("tiny")
    loaded.model.model.norm = Shaken(loaded.model.model.norm, sigma)
    return sk.adopt(loaded.model, loaded.tokenizer)


def test_planted_noise_is_measured_and_decides_what_is_fragile():
    """Its size is sigma |w_1 - w_2|; a word is fragile if a margin of its tokens is below three times the noise."""
    loaded = shaken(0.05)
    result = asked(loaded, sample=64, ways=(Way("prefill", 2), Way("prefill", 3), Way("prefill", 4), Way("decode")))
    W = loaded.model.lm_head.weight.double()
    top = result.arrays["top"][:64]
    true = 0.05 * float((W[top[:, 0]] - W[top[:, 1]]).norm(dim=1).pow(2).mean().sqrt())
    noise = value(result, "noise")
    assert noise == pytest.approx(true, rel=0.25)
    margin = result.arrays["logits"][:, 0] - result.arrays["logits"][:, 1]
    for row in words(result):
        own = slice(row["token"] - 1, row["token"] - 1 + row["tokens"])
        assert row["fragile"] == bool((margin[own] < 3 * noise).any())
    assert 0.1 < value(result, "fragile_share") < 1
    assert value(asked(loaded, sample=64, fragile=0.01), "fragile_share") < value(result, "fragile_share")
    assert value(result, "expected_flips") > 1


def test_special_tokens_before_a_text_are_context_of_every_window():
    """The first word is predicted as well, and the window that begins later begins with them too."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    loaded = sk.adopt(tiny("llama"), tokenizer)
    result = asked(loaded)
    assert [row["word"] for row in words(result)] == TEXT.split()
    ids = list(TEXT.encode())
    late = rows(result, "window")[-1]
    with torch.no_grad():
        text = torch.tensor([[BOS, *ids[late["start"] : late["end"] - 1]]])
        logits = loaded.model(text, use_cache=False).logits[0, -1]
    assert result.arrays["log_sum"][-1] == pytest.approx(float(logits.double().logsumexp(0)), abs=1e-4)
    assert words(result)[0]["context"] == 1
    assert value(result, "positions") == sum(one["end"] - one["start"] for one in rows(result, "window"))


def test_a_model_without_a_cache_reads_each_window_at_once(toys):
    """The toy sees the last token alone, so whatever the window is, each prediction is that of the token before."""
    tokenizer = Tokenizer(models.WordLevel({f"w{k}": k for k in range(16)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    loaded = sk.adopt(toys.model([toys.Times(2.0)]), PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    document = " ".join(f"w{(k * k) % 16}" for k in range(40))
    result = asked(loaded, document, window=6, stride=2)
    ids = [(k * k) % 16 for k in range(40)]
    with torch.no_grad():
        logits = loaded.model(torch.tensor([ids])).logits[0, :-1]
    assert np.array_equal(result.arrays["top"][:, 0], logits.argmax(dim=1).numpy())
    assert result.arrays["log_sum"] == pytest.approx(logits.double().logsumexp(dim=1).numpy(), abs=1e-5)
    assert value(result, "words") == 39


def test_a_model_that_gives_all_logits_gives_the_same(monkeypatch):
    """Logits and states of the predicted tokens are the last ones, whatever else the model returns."""
    loaded = sk.load("tiny")
    expected, real = asked(loaded), type(loaded.model).forward
    monkeypatch.setattr(
        type(loaded.model), "forward", lambda self, **given: real(self, **{**given, "logits_to_keep": 0})
    )
    found = asked(loaded)
    for name in ("log_sum", "state_norm", "cosines"):
        assert found.arrays[name] == pytest.approx(expected.arrays[name], abs=1e-4), name


class StopError(Exception):
    pass


def stopped_after(monkeypatch, count):
    """Let so many windows be predicted, then stop as a signal would."""
    real, done = prediction.predict, []

    def counted(*given):
        if len(done) == count:
            raise StopError
        done.append(1)
        return real(*given)

    monkeypatch.setattr(prediction, "predict", counted)
    return done


def test_a_stopped_run_goes_on_to_the_same_bits(monkeypatch, tmp_path):
    loaded = sk.load("tiny")
    whole = asked(loaded)
    journal = tmp_path / "journal"
    for count in (0, 2, 3):
        with monkeypatch.context() as patch, sk.resumable(journal):
            stopped_after(patch, count)
            with pytest.raises(StopError):
                asked(loaded)
    with monkeypatch.context() as patch, sk.resumable(journal):
        done = stopped_after(patch, 99)
        again = asked(loaded)
    assert len(done) == len(rows(whole, "window")) - 5
    assert again.rows == whole.rows
    assert [row["bits"] for row in rows(again, "window")] == [row["bits"] for row in rows(whole, "window")]
    assert {name: array.tobytes() for name, array in again.arrays.items()} == {
        name: array.tobytes() for name, array in whole.arrays.items()
    }
    assert again.execution.forwards < whole.execution.forwards / 2
    with sk.resumable(journal):
        assert asked(loaded).rows == whole.rows


@pytest.mark.parametrize("cut", [1, 40, 20_000])
def test_a_torn_end_is_done_again(tmp_path, cut):
    """However much of the file's end is gone, what follows is the same; its header may be gone as well."""
    loaded, journal = sk.load("tiny"), tmp_path / "journal"
    with sk.resumable(journal):
        whole = asked(loaded)
    content = journal.read_bytes()
    journal.write_bytes(content[:-cut])
    with sk.resumable(journal):
        assert asked(loaded).rows == whole.rows
    assert journal.read_bytes() == content
    journal.write_bytes(content[:100])
    with sk.resumable(journal):
        assert asked(loaded).rows == whole.rows


def test_a_changed_byte_is_not_believed(tmp_path):
    loaded, journal = sk.load("tiny"), tmp_path / "journal"
    with sk.resumable(journal):
        whole = asked(loaded)
    content = bytearray(journal.read_bytes())
    place = content.rindex(b'"log_sum": [') + 14
    content[place] = ord("1") if content[place] != ord("1") else ord("2")
    journal.write_bytes(content)
    with sk.resumable(journal):
        assert np.array_equal(asked(loaded).arrays["log_sum"], whole.arrays["log_sum"])


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"document": TEXT + " more"}, "document"),
        ({"window": 25}, "windows"),
        ({"stride": 9}, "windows"),
        ({"tokens": 60}, "tokens"),
        ({"top": 3}, "top"),
        ({"sample": 9}, "sample"),
        ({"ways": (Way("prefill"),)}, "ways"),
    ],
)
def test_what_another_question_left_is_refused(tmp_path, other, what):
    loaded, journal = sk.load("tiny"), tmp_path / "journal"
    with sk.resumable(journal):
        asked(loaded)
    content = journal.read_bytes()
    with sk.resumable(journal), pytest.raises(sk.IncomparableError, match=f"is of a run with {what} ") as raised:
        asked(loaded, **other)
    assert "\n" not in str(raised.value)
    assert journal.read_bytes() == content


def test_what_another_model_dtype_or_machine_left_is_refused(tmp_path):
    journal = tmp_path / "journal"
    with sk.resumable(journal):
        asked(sk.load("tiny"))
    for loaded, what in ((sk.load("tiny:gpt2"), "model"), (sk.load("tiny", dtype="bfloat16"), "dtype")):
        with sk.resumable(journal), pytest.raises(sk.IncomparableError, match=f"is of a run with {what} "):
            asked(loaded)
    eager = sk.load("tiny", attention="eager")
    with sk.resumable(journal), pytest.raises(sk.IncomparableError, match="is of a run with attention 'sdpa'"):
        asked(eager)
    other = threads(torch.get_num_threads() + 1)
    with other, sk.resumable(journal), pytest.raises(sk.IncomparableError, match="is of a run with threads "):
        asked(sk.load("tiny"))


@pytest.mark.parametrize("content", ["my notes\nof years\n", "\n", '{"document": 1}\n'])
def test_a_file_of_others_is_not_touched(tmp_path, content):
    file = tmp_path / "notes"
    file.write_text(content)
    with sk.resumable(file), pytest.raises(sk.UnreadableError, match="does not say what it is a part of"):
        asked(sk.load("tiny"))
    assert file.read_text() == content


def test_nothing_is_kept_outside_and_fragile_may_change_inside(tmp_path, monkeypatch):
    """What only judges the numbers may be asked anew of the same file."""
    monkeypatch.chdir(tmp_path)
    loaded = sk.load("tiny")
    asked(loaded)
    assert not list(tmp_path.iterdir())
    with sk.resumable("journal"):
        asked(loaded)
        assert value(asked(loaded, fragile=1e9), "fragile_share") == 1.0
    assert json.loads((tmp_path / "journal").read_text().splitlines()[0][9:])["top"] == 2


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"top": 1}, "top=1 is too few; give at least 2"),
        ({"sample": 0}, "sample=0 is too few"),
        ({"window": 1}, "window=1 is too few; give at least 2"),
        ({"stride": 0}, "stride=0 is too few"),
        ({"tokens": 1}, "tokens=1 is too few"),
        ({"fragile": 0.0}, "fragile must be a number of noises above 0"),
        ({"fragile": math.nan}, "fragile must be"),
        ({"confidence": 1.0}, "confidence must lie strictly between 0 and 1"),
        ({"window": 513}, "window=513 is more than the context of tiny, 512 tokens"),
        ({"window": 8, "stride": 8}, "stride=8 leaves no context in windows of 8 tokens; give less than 8"),
        ({"top": 259}, "top=259 is more than the vocabulary, 258 tokens"),
        ({"document": "  "}, "text is empty"),
        (
            {"document": "word"},
            r"text has no word with another before it; at least two are needed; give Path\('word'\)",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(how, sentence):
    with pytest.raises(sk.UsageError, match=sentence):
        asked(sk.load("tiny"), **how)


def test_a_file_is_read_where_a_path_is_given(tmp_path):
    file = tmp_path / "a.md"
    file.write_text(TEXT, encoding="utf-8")
    loaded = sk.load("tiny")
    result = asked(loaded, file)
    assert result.rows == asked(loaded).rows
    assert result.subject["document"] == "a.md"
    assert result.subject["document_digest"] == hashlib.sha256(TEXT.encode()).hexdigest()
    with pytest.raises(sk.UnreadableError):
        asked(loaded, tmp_path / "none.md")


def test_the_cost_is_what_it_takes_and_nothing_is_run_to_say_so():
    loaded = sk.load("tiny")
    measurement = sk.WordByWord(TEXT, **FEW)
    before = dataclasses.astuple(loaded.counter)
    stated = measurement.cost(loaded)
    assert dataclasses.astuple(loaded.counter) == before
    result = sk.measure(measurement, loaded, progress=False)
    assert 0.9 * stated.forwards <= result.execution.forwards <= stated.forwards


def test_a_logit_that_is_no_number_is_refused():
    with pytest.raises(sk.InvalidError, match=r"'model.norm' is the first to give an infinite number"):
        asked(shaken(math.inf))
    loaded = sk.load("tiny")
    loaded.model.lm_head.weight *= 1e38  # finite weights and states, whose products are not
    with pytest.raises(sk.InvalidError, match="a logit is not finite"):
        asked(sk.adopt(loaded.model, loaded.tokenizer))


def test_the_same_question_has_the_same_answer():
    first, second = (asked(sk.load("tiny")) for _ in range(2))
    assert first.rows == second.rows
    assert dict(first.readings) == dict(second.readings)


def test_a_sixteen_bit_grid_makes_words_fragile():
    """The same words, the same weights to 8 bits: logits on a grid of 2^-6 tie where float32 decides."""
    coarse, fine = (asked(sk.load("tiny", dtype=dtype)) for dtype in ("bfloat16", "float32"))
    assert value(coarse, "fragile_share") > 0.2
    assert value(coarse, "exact_ties") > 0
    assert value(fine, "fragile_share") == 0.0


def test_readings_are_those_of_the_rows():
    result = asked(shaken(0.05), sample=64)
    found, columns = words(result), {}
    for name in ("probability", "rank", *COSINES):
        columns[name] = np.array([row[name] for row in found])
    assert value(result, "words") == len(found)
    assert value(result, "accuracy") == sum(row["match"] for row in found) / len(found)
    assert value(result, "first_token_accuracy") == (columns["rank"] == 1).mean()
    assert value(result, "token_accuracy") == (result.arrays["rank"] == 1).mean()
    assert value(result, "median_rank") == np.median(columns["rank"])
    assert value(result, "median_probability") == np.median(columns["probability"])
    assert value(result, "mean_probability") == pytest.approx(columns["probability"].mean(), rel=1e-12)
    for name in COSINES:
        assert value(result, f"mean_{name}") == pytest.approx(columns[name].mean(), rel=1e-12)
    for name in ("margin", "margin_ulp"):
        weakest = min(found, key=lambda row: row[f"weakest_{name}"])
        assert value(result, f"min_{name}") == weakest[f"weakest_{name}"]
        assert result.readings[f"min_{name}"].place == {"word": str(weakest["number"])}


def test_a_row_holds_what_was_predicted_at_its_first_token():
    result = asked(sk.load("tiny"), top=3)
    tokenizer = sk.load("tiny").tokenizer
    for row in words(result):
        at = row["token"] - 1
        for k in range(3):
            logit, token = result.arrays["logits"][at, k], int(result.arrays["top"][at, k])
            assert (row[f"top_{k + 1}_id"], row[f"top_{k + 1}_logit"]) == (token, logit)
            assert row[f"top_{k + 1}"] == tokenizer.decode([token])
            chance = math.exp(logit - result.arrays["log_sum"][at])
            assert row[f"top_{k + 1}_probability"] == pytest.approx(chance, rel=1e-12)
        assert row["target_probability"] == pytest.approx(
            math.exp(row["target_logit"] - result.arrays["log_sum"][at]), rel=1e-12
        )
        assert row["margin"] == row["top_1_logit"] - row["top_2_logit"]
        weakest = row["token"] - 1 + row["weakest_token"]
        assert row["weakest"] == tokenizer.decode([int(result.arrays["top"][weakest, 0])])
        assert row["weakest_rival"] == tokenizer.decode([int(result.arrays["top"][weakest, 1])])


@pytest.mark.parametrize("ties", [False, True])
def test_the_chance_of_a_flip_is_that_of_a_known_noise(monkeypatch, ties):
    """With known noise one more device has m' = m + sqrt(2) sigma e: a normal's share below half a unit."""
    sigma = 1e-6 if ties else 0.05
    monkeypatch.setattr(prediction, "pooled", lambda _: Prior(sigma, 1e6))
    result = asked(doubled() if ties else sk.load("tiny"))
    margin = result.arrays["logits"][:, 0] - result.arrays["logits"][:, 1]
    rival_first = result.arrays["top"][:, 1] < result.arrays["top"][:, 0]
    cut = np.where(rival_first, 0.5, -0.5) * result.arrays["ulp"]
    p = norm.cdf((cut - margin) / (sigma * math.sqrt(2)))
    assert p.max() > 0.1
    assert value(result, "expected_flips") == pytest.approx(p.sum(), rel=1e-4)
    for row in words(result):
        own = slice(row["token"] - 1, row["token"] - 1 + row["tokens"])
        assert row["flip_probability"] == pytest.approx(1 - np.prod(1 - p[own]), rel=1e-3, abs=1e-12)
