"""Servers with planted flips, ties, seeds and failures, and their clean twins."""

import math

import pytest
from oracles.planted_server import FLIP_AT, TIE, Planted, serving, word

import stabilitykit as sk

PROMPTS = ("one", "two")


def asked(planted, *, api="completions", timeout=20.0, **parts):
    parts = {"prompts": PROMPTS, "tokens": 8, "repeats": 3, "concurrency": (2, 4), **parts}
    with serving(planted) as url:
        return sk.measure(sk.ServedDeterminism(**parts), sk.Endpoint(url, api=api, timeout=timeout), progress=False)


def part(result, name):
    return [row for row in result.rows if row["part"] == name]


def value(result, name):
    return result.readings[name].value


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_deterministic_server_is_measured_with_its_bound(api):
    result = asked(Planted(), api=api)
    assert result.verdict == "measured"
    assert (value(result, "unique_completions"), value(result, "unique_under_load")) == (1, 1)
    # 2 prompts 3 times alone, less the two references; 6 requests in threes of 2, 8 in twos of 4.
    assert [row["compared"] for row in part(result, "level")] == [4, 6, 8]
    assert [row["requests"] for row in part(result, "level")] == [6, 6, 8]
    assert result.readings["flip_rate"].high == pytest.approx(1 - 0.05 ** (1 / 14))
    assert result.readings["flip_rate"].low == 0
    assert result.readings["flip_rate_alone"].high == pytest.approx(1 - 0.05 ** (1 / 4))
    assert "0 of 14 differed" in result.sentence
    assert value(result, "flips_from_batch") == math.inf
    assert math.isnan(value(result, "first_differing_token"))
    assert value(result, "min_margin") == pytest.approx(TIE)
    assert value(result, "logprob_change") == 0
    assert "No logprob moved." in result.sentence
    assert (value(result, "seed_honoured"), value(result, "seed_honoured_under_load")) == (1, 1)
    assert value(result, "under_way") == 4
    assert value(result, "requests") == 20
    assert result.worst is None


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_flip_under_load_is_placed_with_its_margin_and_its_batch(api):
    result = asked(Planted(flips_from=4), api=api, repeats=2)
    assert result.verdict == "differs"
    assert value(result, "flips_from_batch") == 4
    assert [row["flips"] for row in part(result, "level")] == [0, 0, 4]
    assert (value(result, "unique_completions"), value(result, "unique_under_load")) == (1, 2)
    rate = result.readings["flip_rate"]
    # 4 of 8: P(at least 4 | low) = P(at most 4 | high) = 0.05.
    assert rate.value == 0.5
    assert sum(math.comb(8, n) * rate.low**n * (1 - rate.low) ** (8 - n) for n in range(4, 9)) == pytest.approx(0.05)
    assert rate.high == pytest.approx(1 - rate.low)
    assert value(result, "flip_rate_alone") == 0
    assert value(result, "first_differing_token") == FLIP_AT
    assert value(result, "first_differing_character") == 6 * FLIP_AT + 2
    assert value(result, "margin_at_flip") == pytest.approx(TIE)
    (row, _) = part(result, "prompt")
    assert f" w{row['goes_on']}".startswith(word("one", FLIP_AT, False, None))
    assert f" w{row['goes_on_else']}".startswith(word("one", FLIP_AT, True, None))
    assert f"token {FLIP_AT} of 'one'" in str(result.worst)
    assert "from 4 requests at once on" in result.sentence
    texts = [(row["alone"], row["under_load"]) for row in part(result, "text") if row["number"] == 0]
    assert texts == [(2, 2), (0, 2)]
    wrong = [row for row in part(result, "request") if row["differs"]]
    assert {(row["concurrency"], row["differing_token"]) for row in wrong} == {(4, float(FLIP_AT))}


@pytest.mark.parametrize("logprobs", ["ignored", "refused"])
def test_without_logprobs_the_token_is_asked_for(logprobs):
    planted = Planted(flips_from=4, logprobs=logprobs)
    result = asked(planted, prompts=("one",), repeats=2)
    assert value(result, "first_differing_token") == FLIP_AT
    assert math.isnan(value(result, "margin_at_flip"))
    assert "gives no logprobs" in result.sentence
    assert result.subject["logprobs"] is False
    assert [body.get("logprobs") for body in planted.bodies[:2]] == [5, None if logprobs == "refused" else 5]
    assert ("logprobs" in planted.bodies[-1]) == (logprobs == "ignored")


def test_the_confidence_is_the_one_asked_for():
    result = asked(Planted(), repeats=2, concurrency=(2,), confidence=0.5)
    assert result.readings["flip_rate"].high == pytest.approx(1 - 0.5 ** (1 / 4))
    assert [row["rate_bound"] for row in part(result, "level")] == pytest.approx([1 - 0.5**0.5, 1 - 0.5**0.25])
    assert "0 of 4 differed: rate < 16% at 50%" in result.sentence


def test_a_flip_alone_is_one():
    result = asked(Planted(flips_alone_every=5), repeats=4)
    assert result.verdict == "differs"
    assert value(result, "unique_completions") == 2
    assert value(result, "flip_rate_alone") > 0
    assert value(result, "flips_from_batch") == 1
    assert "differ even alone" in result.sentence


def test_logprobs_that_move_are_said_where_the_text_stays():
    result = asked(Planted(moves=0.25), prompts=("one",), repeats=2, concurrency=(2,))
    assert result.verdict == "measured"
    assert value(result, "logprob_change") == pytest.approx(0.25)
    assert "moved by up to 0.25 nat" in result.sentence


@pytest.mark.parametrize(
    ("seed", "honoured", "loaded", "sentence"),
    [
        ("honoured", 1, 1, "honoured alone and under load"),
        ("ignored", 0, math.nan, "not honoured"),
        ("alone", 1, 0, "honoured alone, but not under load"),
        ("greedy", math.nan, math.nan, "cannot be told"),
    ],
)
def test_seeds(seed, honoured, loaded, sentence):
    result = asked(Planted(seed=seed), repeats=2, concurrency=(2,))
    found = [value(result, name) for name in ("seed_honoured", "seed_honoured_under_load")]
    assert found == pytest.approx([honoured, loaded], nan_ok=True)
    assert sentence in result.sentence


def test_each_request_is_sent_once_and_counted():
    planted = Planted(status={4: 429, 9: 500})
    measurement = sk.ServedDeterminism(PROMPTS, 4, 3, (2, 4))
    with serving(planted) as url:
        endpoint = sk.Endpoint(url)
        cost = measurement.cost(endpoint).calls
        result = sk.measure(measurement, endpoint, progress=False)
    assert len(planted.bodies) == result.execution.calls == cost == 1 + 6 + 6 + 8 + 9
    assert value(result, "failed") == 2
    assert result.verdict == "measured"
    assert "refused: too many requests (429)" in result.sentence
    assert "2 of 20 requests have no answer" in result.sentence
    errors = [row["error"] for row in part(result, "request") if row["error"]]
    assert [error[:8] for error in errors] == ["refused:", "answered"]
    assert r"\x1b" in errors[1]
    assert "\x1b" not in errors[1]


def test_a_server_that_dies_is_no_sameness_and_the_rest_is_not_asked():
    planted = Planted(dies_after=8)
    result = asked(planted)
    assert result.verdict == "invalid"
    assert len(planted.bodies) < 12
    assert "Broken off after" in result.sentence
    assert "cannot be reached" in result.sentence


def test_a_flip_seen_before_the_end_stays_one():
    result = asked(Planted(dies_after=14, flips_alone_every=5), repeats=6)
    assert result.verdict == "differs"
    assert "Broken off after" in result.sentence


def test_who_waits_in_vain_stops():
    planted = Planted(hangs_after=3)
    result = asked(planted, timeout=0.3)
    assert result.verdict == "invalid"
    assert "Broken off after 3 requests: the server gave no answer within 0.3 s." in result.sentence
    assert len(planted.bodies) == 4


def test_a_level_without_answers_claims_nothing():
    result = asked(Planted(status=dict.fromkeys(range(8, 14), 503)))
    assert result.verdict == "invalid"
    assert "Requests 2 at once have too few answers to compare: the server answered 503" in result.sentence


def test_answers_of_two_models_are_not_one_server():
    result = asked(Planted(names=("a", "b"), flips_alone_every=5))
    assert result.verdict == "invalid"
    assert "name 2 models ('a', 'b')" in result.sentence
    assert value(result, "models") == 2


def test_changed_fingerprints_are_said():
    assert "carry 2 fingerprints" in asked(Planted(fingerprints=("a", "b"))).sentence


def test_nothing_said_is_nothing_compared():
    result = asked(Planted(empty=True))
    assert result.verdict == "invalid"
    assert "Every completion is empty" in result.sentence


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"prompts": ()}, "prompts is a list"),
        ({"prompts": "one"}, "prompts is a list"),
        ({"prompts": ("",)}, "none of them empty"),
        ({"tokens": 0}, "give at least 1 token"),
        ({"repeats": 1}, "2 repeats"),
        ({"concurrency": ()}, "ascending"),
        ({"concurrency": (4, 2)}, "ascending"),
        ({"concurrency": (1, 2)}, "from 2 to"),
        ({"concurrency": (1000,)}, "from 2 to"),
        ({"confidence": 1.0}, "strictly between"),
    ],
)
def test_what_cannot_be_meant_is_refused(parts, sentence):
    with pytest.raises(sk.UsageError, match=sentence):
        sk.ServedDeterminism(**{"prompts": PROMPTS, **parts})
