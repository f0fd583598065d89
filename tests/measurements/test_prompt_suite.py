"""Questions in roles: margins against transformers alone, labels that a substring would mix up, planted ties."""

import math

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.numerics.clusters import clustered
from stabilitykit.prompts import NO_ROLE, crossed
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.chat import form_of, question_ids

CAPTAIN = sk.Role("captain", "You are a captain.")
ASKED = (sk.Prompt("a fact?", "factual"), sk.Prompt("no fact?", "unfactual"), sk.Prompt("two?", "factual"))
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def value(result, name):
    return result.readings[name].value


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == wanted for name, wanted in where.items())]


def plain(loaded, text, tokens):
    """Greedy ids and logits (T, V) by transformers alone."""
    ids = torch.tensor([loaded.tokenizer(text).input_ids])
    how = {"do_sample": False, "max_new_tokens": tokens, "return_dict_in_generate": True, "output_logits": True}
    made = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=257, **how)
    return made.sequences[0, ids.shape[1] :].tolist(), torch.cat(made.logits).double()


@pytest.mark.parametrize("spec", ["tiny", "tiny:gpt2", "tiny:gemma2"])
def test_margins_are_those_of_plain_generation(spec):
    loaded = sk.load(spec)
    result = sk.measure(sk.PromptSuite(ASKED, [CAPTAIN], 6), loaded, progress=False)
    for row in rows(result, "prompt"):
        ids, logits = plain(loaded, row["prompt"], 6)
        steps = rows(result, "token", number=row["number"])
        assert [step["token_id"] for step in steps] == ids
        ordered = logits.sort(dim=1, descending=True)
        margins = (ordered.values[:, 0] - ordered.values[:, 1]).tolist()
        chances = logits.softmax(1).sort(dim=1, descending=True).values
        assert [step["margin"] for step in steps] == pytest.approx(margins, abs=2e-5)
        assert [step["rival_id"] for step in steps] == ordered.indices[:, 1].tolist()
        apart = (chances[:, 0] - chances[:, 1]).tolist()
        assert [step["probability_margin"] for step in steps] == pytest.approx(apart, abs=1e-5)
        ulp = [np.spacing(np.float32(z)) for z in ordered.values[:, 0].tolist()]
        assert [step["margin_ulp"] for step in steps] == pytest.approx(np.array(margins) / ulp, abs=40)
        assert row["median_margin"] == pytest.approx(np.median(margins), abs=2e-5)
        assert row["mean_margin"] == pytest.approx(np.mean(margins), abs=2e-5)
        assert (row["first_margin"], row["min_margin"]) == pytest.approx((margins[0], min(margins)), abs=2e-5)
        assert row["mean_probability_margin"] == pytest.approx(np.mean(apart), abs=1e-5)
        assert row["first_probability_margin"] == pytest.approx(apart[0], abs=1e-5)
        z = logits[0].numpy()
        spread = {"mean": z.mean(), "sd": z.std(), "least": z.min(), "most": z.max(), "median": np.median(z)}
        spread |= {"q1": np.quantile(z, 0.25), "q3": np.quantile(z, 0.75)}
        assert {name: row[f"logit_{name}"] for name in spread} == pytest.approx(spread, abs=2e-5)
        top = rows(result, "top", number=row["number"])
        assert [one["rank"] for one in top] == [1, 2, 3, 4, 5]
        assert [one["token_id"] for one in top] == ordered.indices[0, :5].tolist()
        assert [one["probability"] for one in top] == pytest.approx(chances[0, :5].tolist(), abs=1e-5)
        assert row["answer"] == loaded.tokenizer.decode(ids)
        assert (row["tokens"], row["prompt_tokens"]) == (len(ids), len(row["prompt"].encode()))
        near = np.mean([m <= float(_bfloat16_ulp(z)) for m, z in zip(margins, ordered.values[:, 0], strict=True)])
        assert row["near_tie_share"] == near


def _bfloat16_ulp(z):
    """Of 8 significant bits, by the exponent of the number rounded to them."""
    return 2.0 ** (math.frexp(abs(float(z.to(torch.bfloat16))))[1] - 8)


def test_every_question_is_asked_in_every_role():
    found = crossed(ASKED, [CAPTAIN])
    assert [(one.kind, one.role, one.question) for one in found] == [
        (asked.kind, role, asked.text) for asked in ASKED for role in (NO_ROLE, "captain")
    ]
    assert [one.text for one in found[:2]] == ["a fact?", "You are a captain. a fact?"]


def test_a_kind_is_a_label_and_not_a_part_of_a_word():
    """`unfactual` contains `factual`: who looks for the word finds all prompts in the factual group."""
    loaded = sk.load("tiny")
    asked = sk.PromptSuite(ASKED, [CAPTAIN], 4)
    result = sk.measure(asked, loaded, progress=False)
    prompts = rows(result, "prompt")
    by_question = {
        one.text: np.mean([row["median_margin"] for row in prompts if row["question"] == one.text]) for one in ASKED
    }
    factual, unfactual = np.mean([by_question["a fact?"], by_question["two?"]]), by_question["no fact?"]
    assert value(result, "margin_factual") == pytest.approx(factual)
    assert value(result, "margin_unfactual") == pytest.approx(unfactual)
    assert value(result, "difference_unfactual") == pytest.approx(factual - unfactual)
    assert "difference_factual" not in [metric.name for metric in asked.schema()]
    mixed = np.mean(list(by_question.values()))
    assert abs(value(result, "margin_factual") - mixed) > 1e-3, "the defect would not be seen"
    assert {(row["kind"], row["prompts"]) for row in rows(result, "kind")} == {("factual", 4), ("unfactual", 2)}


def test_roles_are_compared_question_by_question():
    loaded = sk.load("tiny")
    result = sk.measure(sk.PromptSuite(ASKED, sk.ROLES[:2], 4), loaded, progress=False)
    prompts = rows(result, "prompt")
    effects = {}
    for role in ("teacher", "captain"):
        moved = [
            row["median_margin"]
            - next(o["median_margin"] for o in prompts if o["question"] == row["question"] and o["role"] == NO_ROLE)
            for row in prompts
            if row["role"] == role
        ]
        (row,) = rows(result, "role", role=role, statistic="median_margin")
        effects[role] = np.mean(moved)
        assert row["value"] == pytest.approx(effects[role])
        assert row["low"] < row["value"] < row["high"]
        assert row["questions"] == 3
    largest = max(effects, key=lambda role: abs(effects[role]))
    reading = result.readings["role_effect"]
    assert (reading.value, reading.place["role"]) == (pytest.approx(effects[largest]), largest)


def test_the_interval_takes_questions_for_the_units():
    """Roles that change nothing would make the naive interval narrower without telling anything new."""
    loaded = sk.load("tiny")
    questions = [sk.Prompt(f"{n}?", kind) for n in range(6) for kind in ("one",)]
    questions += [sk.Prompt(f"{n}!", "two") for n in range(6)]
    result = sk.measure(sk.PromptSuite(questions, sk.ROLES, 2), loaded, progress=False)
    (row,) = rows(result, "difference", statistic="median_margin")
    reading = result.readings["difference_two"]
    assert (reading.low, reading.high) == (row["low"], row["high"])
    assert row["naive_low"] != row["low"]
    by_question = [
        [
            np.mean([r["median_margin"] for r in rows(result, "prompt", question=q.text)])
            for q in questions
            if q.kind == k
        ]
        for k in ("one", "two")
    ]
    assert row["value"] == pytest.approx(np.mean(by_question[0]) - np.mean(by_question[1]))
    assert row["low"] < row["value"] < row["high"]
    by_hand = clustered(*(np.array(means) for means in by_question))
    assert (row["low"], row["high"]) == pytest.approx((by_hand.low, by_hand.high))
    of_prompts = clustered(
        *(np.array([r["median_margin"] for r in rows(result, "prompt", kind=k)]) for k in ("one", "two"))
    )
    assert (row["naive_low"], row["naive_high"]) == (of_prompts.low, of_prompts.high)


def test_groups_of_kind_and_role_are_averaged():
    loaded = sk.load("tiny")
    ids, _ = plain(loaded, "two?", 4)
    loaded.model.generation_config.eos_token_id = ids[1]
    result = sk.measure(sk.PromptSuite(ASKED, [CAPTAIN], 4), loaded, progress=False)
    prompts = rows(result, "prompt")
    groups = rows(result, "group")
    assert [(row["kind"], row["role"]) for row in groups] == [
        (kind, role) for kind in ("factual", "unfactual") for role in (NO_ROLE, "captain")
    ]
    for group in groups:
        own = [row for row in prompts if (row["kind"], row["role"]) == (group["kind"], group["role"])]
        tokens = [row["tokens"] for row in own]
        assert (group["prompts"], group["tokens"]) == (len(own), np.mean(tokens))
        assert (group["tokens_least"], group["tokens_most"]) == (min(tokens), max(tokens))
        assert group["median_margin"] == pytest.approx(np.mean([row["median_margin"] for row in own]))
        assert group["near_tie_share"] == pytest.approx(np.mean([row["near_tie_share"] for row in own]))
    assert any(row["tokens_least"] < row["tokens_most"] for row in groups)


def tied_model(toys, first, second, width=torch.float32):
    """A head whose two largest logits are the numbers given, whatever is asked."""
    model = toys.model([toys.Times(1.0)])
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(16, 8))
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[2, 0] = 1.0 + 2.0**-20  # no number of 16 bits, so that ULP are those of float32
        model.lm_head.weight[4, 0], model.lm_head.weight[9, 0] = first, second
    return sk.adopt(model.to(width), Letters())


class Letters:
    """One token a letter: a tokenizer without a chat template."""

    chat_template = None

    def __call__(self, text):
        return type("Encoded", (), {"input_ids": [ord(letter) % 16 for letter in text]})()

    def decode(self, ids):
        return "".join(chr(97 + one) for one in ids)


@pytest.mark.parametrize(
    ("first", "second", "tied", "near"),
    [(20.0, 20.0, 1.0, 1.0), (20.0, 20.0 - 2**-19, 0.0, 1.0), (20.0, 19.875, 0.0, 1.0), (20.0, 19.7, 0.0, 0.0)],
)
def test_ties_and_near_ties_are_counted(toys, first, second, tied, near):
    """One bfloat16 ULP at 20 is 0.125."""
    loaded = tied_model(toys, first, second)
    result = sk.measure(sk.PromptSuite(ASKED, (), 3), loaded, progress=False)
    assert (value(result, "tie_share"), value(result, "near_tie_share")) == (tied, near)
    step = rows(result, "token")[0]
    assert (step["token_id"], step["rival_id"]) == (4, 9), "of equal logits the lower id is taken"
    assert step["margin"] == pytest.approx(first - second, abs=1e-5)
    assert step["margin_ulp"] == pytest.approx((first - second) / 2.0**-19, abs=1)


def test_ulp_are_those_of_the_models_dtype(toys):
    loaded = tied_model(toys, 20.0, 19.5, torch.bfloat16)
    result = sk.measure(sk.PromptSuite(ASKED, (), 1), loaded, progress=False)
    assert value(result, "min_margin_ulp") == 4.0


def test_texts_that_end_are_padded_with_nan():
    loaded = sk.load("tiny")
    ids, _ = plain(loaded, "a fact?", 3)
    loaded.model.generation_config.eos_token_id = ids[1]
    result = sk.measure(sk.PromptSuite(ASKED[:1], (), 5), loaded, progress=False)
    assert rows(result, "prompt")[0]["tokens"] == ids.index(ids[1]) + 1
    margins = result.arrays["margins"]
    assert margins.shape == (1, 5)
    assert np.isfinite(margins[0]).sum() == value(result, "tokens") == ids.index(ids[1]) + 1
    assert margins[0, 0] == rows(result, "token")[0]["margin"]


def test_the_form_is_a_choice_that_is_recorded():
    loaded = sk.load("tiny")
    anatomy = find(loaded.model)
    assert form_of(loaded, "auto") == "plain"
    assert bytes(question_ids(loaded, anatomy, "hi", "plain")) == b"hi"
    loaded.tokenizer.chat_template = TEMPLATE
    assert form_of(loaded, "auto") == "chat"
    assert bytes(question_ids(loaded, anatomy, "hi", "chat")) == b"<user>hi>"
    said = {form: sk.measure(sk.PromptSuite(ASKED, (), 2, form=form), loaded) for form in ("chat", "plain", "auto")}
    assert {form: result.subject["form"] for form, result in said.items()} == {
        "chat": "chat",
        "plain": "plain",
        "auto": "chat",
    }
    assert value(said["chat"], "margin_factual") == value(said["auto"], "margin_factual")
    assert value(said["chat"], "margin_factual") != value(said["plain"], "margin_factual")
    assert said["plain"].sentence.startswith("Asked as plain text")


def test_a_chat_needs_a_template_and_words_a_tokenizer():
    loaded = sk.load("tiny")
    with pytest.raises(sk.UnsupportedError, match="has no chat template"):
        sk.measure(sk.PromptSuite(form="chat"), loaded)
    with pytest.raises(sk.UnsupportedError, match="has no tokenizer"):
        sk.measure(sk.PromptSuite(), sk.adopt(loaded.model))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"questions": ()}, "at least one"),
        ({"questions": ["What?"]}, "list of Prompt"),
        ({"questions": [sk.Prompt("a", "x"), sk.Prompt("a", "y")]}, "to be told apart"),
        ({"questions": [sk.Prompt("a", " ")]}, "needs a kind"),
        ({"questions": [sk.Prompt("a", "x-y"), sk.Prompt("b", "x y")]}, "differ in their letters"),
        ({"roles": ["chef"]}, "list of Role"),
        ({"roles": [sk.Role(NO_ROLE, "You are nobody.")]}, "to be told apart"),
        ({"tokens": 0}, "too few"),
        ({"form": "essay"}, "not one of auto, chat, plain"),
        ({"confidence": 1.0}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(how, said):
    with pytest.raises(sk.UsageError, match=said):
        sk.PromptSuite(**how)


def test_the_questions_come_in_pairs_that_begin_alike():
    assert [one.kind for one in sk.QUESTIONS] == ["factual", "false premise"] * 10
    for fact, fiction in zip(sk.QUESTIONS[::2], sk.QUESTIONS[1::2], strict=True):
        assert fact.text.split()[:2] == fiction.text.split()[:2]
    assert len({one.text for one in sk.QUESTIONS}) == 20
    assert len(crossed(sk.QUESTIONS, sk.ROLES)) == 100


def test_one_kind_has_no_difference_and_no_role_no_effect():
    result = sk.measure(sk.PromptSuite(ASKED[:1], (), 2), sk.load("tiny"), progress=False)
    assert not [name for name in result.readings if name.startswith(("difference", "role"))]
    assert math.isnan(result.readings["margin_factual"].low)


def test_the_sentence_tells_the_median_margin_of_each_kind():
    result = sk.measure(sk.PromptSuite(ASKED, (), 3), sk.load("tiny"), progress=False)
    told = [f"{value(result, f'margin_{kind}'):.3g} logit ({kind})" for kind in ("factual", "unfactual")]
    assert f", answers have a margin of {', '.join(told)};" in result.sentence
