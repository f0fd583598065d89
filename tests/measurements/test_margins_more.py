"""Rows and advice from decisions that are made up, and the cost of prompts that are ids."""

from types import SimpleNamespace

import numpy as np
import pytest

import stabilitykit as sk
from stabilitykit.measurements.advice import advise
from stabilitykit.measurements.decisions import Decisions
from stabilitykit.measurements.margin_rows import prompt_rows, token_rows
from stabilitykit.measurements.margins import WAYS, _sentence
from stabilitykit.numerics.forecast import Forecast, any_of
from stabilitykit.subjects.generation import Way


def test_a_token_has_the_logit_and_margin_of_the_reference():
    """The other way takes the rival."""
    one = Decisions(
        ids=(1,),
        ways=(Way("prefill"),),
        rivals=np.array([[4, 7]]),
        logits=np.array([[[3.0, 1.0]], [[1.5, 2.5]]]),
        argmax=np.array([[4], [7]]),
        spacing=np.array([0.25]),
        tied=np.array([1]),
        bits=("a", "b"),
    )
    found = Forecast(*(np.array([value]) for value in (0.5, 0.125, 0.0625, 0.25)))
    (row,) = token_rows(SimpleNamespace(tokenizer=None), ["p"], [one], [found])
    assert (row["token_id"], row["rival_id"], row["logit"], row["margin"], row["margin_ulp"]) == (4, 7, 3.0, 2.0, 8.0)
    assert (row["noise"], row["margin_over_noise"]) == (0.5, 4.0)
    assert (row["seen"], row["seen_in"]) == (1, "prefill")


def prompts(*texts, at_risk=0.05):
    """Return the rows of prompts whose tokens have these forecasts, margins over noise and flips."""
    names = ("forecast", "margin_over_noise", "seen")
    plain = {"low": 0.0, "high": 1.0, "tied": 1, "token": "t", "rival": "r", "margin": 1.0}
    tokens = [
        {**plain, "number": number, "position": place, **dict(zip(names, one, strict=True))}
        for number, text in enumerate(texts)
        for place, one in enumerate(text)
    ]
    decisions = [SimpleNamespace(tokens=np.zeros(len(text), dtype=np.int64)) for text in texts]
    labels = [f"prompt {number}" for number in range(len(texts))]
    return prompt_rows(SimpleNamespace(tokenizer=None), labels, decisions, tokens, at_risk)


def test_of_equally_likely_prompts_those_that_flipped_come_first():
    never, once, twice = ([(0.25, 1.0, int(k < flips)) for k in range(3)] for flips in range(3))
    found = prompts(never, once, twice, [(0.5, 1.0, 0)] * 3)
    assert [(row["number"], row["flips_seen"]) for row in found] == [(3, 0), (2, 2), (1, 1), (0, 0)]
    assert [row["keep"] for row in prompts(never, once, at_risk=0.5)] == [0, 2]


def test_a_prompt_is_as_near_as_the_nearest_of_its_tokens():
    (row,) = prompts([(0.125, 3.0, 0), (0.25, 0.5, 0), (0.25, 2.0, 0)])
    assert row["min_margin_over_noise"] == 0.5
    assert (row["weakest_position"], row["tokens"], row["expected_flips"]) == (1, 3, 0.625)


def test_a_prompt_whose_tokens_may_all_be_kept_is_not_at_risk():
    """At the very chance that is asked for; just below it the last token may not be kept."""
    tokens = [(0.25, 1.0, 0), (0.125, 1.0, 0)]
    chance = float(any_of(np.array([0.25, 0.125])))
    for at_risk, keep in ((chance, 2), (np.nextafter(chance, 0), 1)):
        (row,) = prompts(tokens, at_risk=at_risk)
        assert (row["keep"], row["at_risk"]) == (keep, keep < 2)


def test_no_two_of_the_ways_that_are_taken_by_default_are_the_same():
    assert len({way.name for way in WAYS}) == len(WAYS)


def test_one_rival_is_enough_and_none_is_not():
    assert sk.Margins(["a"], rivals=1).rivals == 1
    with pytest.raises(sk.UsageError, match="rivals=0 is too few; give at least 1"):
        sk.Margins(["a"], rivals=0)


@pytest.mark.parametrize("name", ["tokens", "rivals"])
def test_one_token_or_rival_is_enough_and_none_is_not(name):
    assert getattr(sk.Margins(["a"], **{name: 1}), name) == 1
    with pytest.raises(sk.UsageError, match=f"{name}=0 is too few; give at least 1"):
        sk.Margins(["a"], **{name: 0})


def test_advice_is_given_where_some_prompt_is_at_risk_and_only_there():
    prompt = {"prompt": "p", "forecast": 0.5, "high": 0.6, "keep": 0, "tokens": 3, "kept_risk": 0.0}
    ways = [{"way": "decode", "bits_of": "decode", "flips": 0}, {"way": "prefill", "bits_of": "prefill", "flips": 2}]
    token = {"forecast": 0.5, "wide_token_id": None, "margin": 0.1, "noise": 0.1, "tied": 1}
    risky = [{**prompt, "at_risk": True}, {**prompt, "at_risk": False}]
    kinds = [row["kind"] for row in advise(risky, [token], ways, 0.05, 0.5)]
    assert kinds[:3] == ["robust prompts", "replace", "pin"]
    assert advise(risky[1:], [token], ways, 0.05, 0.5) == []


def test_a_tie_takes_two_tokens():
    prompt = {"prompt": "p", "forecast": 0.0, "at_risk": False}
    tokens = [{"forecast": 0.0, "seen": 0, "tied": tied} for tied in (1, 2, 3)]
    assert "2 are exact ties" in _sentence([prompt], tokens, 0.05)


def test_the_prompt_that_is_called_the_riskiest_is_the_first_of_the_ranking():
    prompts = [{"prompt": name, "forecast": risk, "at_risk": risk > 0.05} for name, risk in (("p", 0.5), ("q", 0.01))]
    token = {"forecast": 0.5, "seen": 0, "tied": 1}
    assert _sentence(prompts, [token], 0.05).endswith(" The riskiest prompt is 'p', at 50 %.")
    assert "riskiest" not in _sentence(prompts[1:], [token], 0.05)


def decided(margin, moved):
    """Two tokens with these margins, which the other way moves by `moved`."""
    one, other = (np.array([[m, 0.0] for m in row]) for row in (margin, np.array(margin) + moved))
    return Decisions(
        ids=(1,),
        ways=(Way("prefill"),),
        rivals=np.array([[4, 7]] * 2),
        logits=np.stack([one, other]),
        argmax=np.array([[4, 4]] * 2),
        spacing=np.array([0.25, 0.5]),
        tied=np.array([1, 1]),
        bits=("a", "b"),
    )


def test_each_extreme_is_that_of_the_row_it_names():
    """Two texts of two tokens: the riskiest token is the second of the second, the safest the first of it."""
    asked = sk.Margins([[1], [2]], ways=[Way("prefill")], rivals=1)
    found = asked.judged(SimpleNamespace(tokenizer=None), [decided((2.0, 3.0), 0.5), decided((9.0, 0.75), -0.5)])
    prompts, tokens = ([row for row in found.rows if row["part"] == part] for part in ("prompt", "token"))
    for name, pick, rows, column in (
        ("max_flip_probability", max, tokens, "forecast"),
        ("max_prompt_risk", max, prompts, "forecast"),
        ("min_margin", min, tokens, "margin"),
        ("min_margin_ulp", min, tokens, "margin_ulp"),
        ("min_margin_over_noise", min, tokens, "margin_over_noise"),
    ):
        row, reading = pick(rows, key=lambda row: row[column]), found.values[name]
        assert reading.value == row[column], name
        assert reading.place["prompt"] == row["prompt"] == "ids [2]", name
        if column == "forecast":
            assert (reading.low, reading.high) == (row["low"], row["high"]), name
    assert found.values["max_flip_probability"].place["token"] == str(tokens[3]["position"])
    assert len({row["forecast"] for row in tokens}) == 4


def test_a_token_that_one_way_changes_has_flipped():
    """In the readings as in the sentence: of three tokens one was changed by one way and one by two."""
    risk = {"prompt": "p", "forecast": 0.0, "low": 0.0, "high": 0.0, "at_risk": False}
    margins = {"margin": 1.0, "margin_ulp": 8.0, "margin_over_noise": 4.0}
    token = {**risk, **margins, "position": 0, "tied": 1, "token_id": 4, "wide_token_id": None}
    tokens = [{**token, "seen": seen} for seen in (0, 1, 2)]
    one = SimpleNamespace(bits=("a", "b", "b"), distinct=(0, 1))
    values = sk.Margins(["p"])._values([risk], tokens, SimpleNamespace(scale=0.5, freedom=3.0), [one])
    assert (values["flips_seen"], values["ways"], values["distinct_ways"]) == (2, 3, 2)
    assert "here 2 tokens flipped" in _sentence([risk], tokens, 0.05)


def test_ids_are_as_long_as_they_are():
    """Also beside a tokenizer, which reads texts: two tokens more, said one by one and then read in pieces of one."""
    asked = sk.Margins([[1, 2, 3], "four"], 2, ways=[Way("prefill", chunk=1)])
    assert asked.cost(sk.load("tiny")).forwards == (2 + 4) + (2 + 5)


def advice(kind, tokens=(), ways=()):
    """Return what is advised of one kind where a prompt is at risk at its first token."""
    prompt = {"prompt": "p", "forecast": 0.5, "high": 0.6, "keep": 0, "tokens": 3, "kept_risk": 0.0, "at_risk": True}
    return [row["advice"] for row in advise([prompt], tokens, ways, 0.05, 0.5) if row["kind"] == kind]


def test_ways_with_equal_bits_are_named_together_and_only_where_there_are_some():
    ways = [
        {"way": way, "bits_of": bits_of, "flips": 0}
        for way, bits_of in (("a", "a"), ("b", "b"), ("c", "b"), ("d", "a"))
    ]
    assert advice("free", ways=ways) == ["Nothing to pin between ways with equal bits: a = d; b = c."]
    assert advice("free", ways=ways[:2]) == []


def test_the_smallest_margin_of_the_wider_copy_has_no_sign():
    """The reference's first token is the second of the copy where the margin is negative."""
    plain = {"forecast": 0.0, "tied": 1, "token_id": 4}
    tokens = [
        {**plain, "wide_token_id": id_, "wide_margin": margin} for id_, margin in ((7, -0.5), (4, 0.25), (4, 2.0))
    ]
    (said,) = advice("wider dtype", tokens)
    assert said.startswith(
        "A float32 copy takes another token in 1 of 3 places, and its smallest margin is 0.25 logit;"
    )


def test_the_tie_that_is_named_is_the_likeliest_to_flip():
    tie = {"wide_token_id": None, "tied": 2, "rival": "r"}
    tokens = [
        {**tie, "token": word, "forecast": forecast} for word, forecast in (("a", 0.125), ("b", 0.25), ("c", 0.0))
    ]
    (said,) = advice("ties", [*tokens, {**tie, "tied": 1, "token": "d", "forecast": 0.375}])
    assert "3 tokens are exact ties, decided by the lower id, such as 'b' against 'r'; they make 50 % of the" in said


def test_the_length_of_a_text_is_that_of_its_tokens():
    """The tiny model's tokens are bytes: two letters of two bytes each are as long as four letters."""
    accented, plain = (sk.Margins([text], 2, ways=[Way("prefill", chunk=1)]) for text in ("\u00e9\u00e9", "four"))
    assert accented.cost(sk.load("tiny")) == plain.cost(sk.load("tiny"))
