"""References, flips, rates and speeds of replies that are made up here, so that each number is known."""

import math

import pytest

from stabilitykit.endpoints.answer import Answer
from stabilitykit.endpoints.endpoint import Reply, Request
from stabilitykit.endpoints.load import Sample
from stabilitykit.endpoints.seeds import Seeds
from stabilitykit.endpoints.served import Served
from stabilitykit.endpoints.served_rows import level_rows, prompt_rows, request_rows
from stabilitykit.endpoints.served_words import sentence, verdict

NOBODY = Seeds((), (), ())


def sample(said, level=1, wave=0, start=0.0, end=1.0, prompt=0):
    answer = said if isinstance(said, Answer | None) else Answer(said, model="m")
    error = "" if answer else "answered 500 ('no')"
    return Sample(prompt, level, wave, Reply(Request("p", 4), answer, error, False, None, start, end))


def test_the_reference_is_the_most_common_answer_alone_and_the_earliest_of_several():
    alone = [sample(text) for text in "baa"]
    served = Served(("p",), (2,), [*alone, *[sample("b", 2)] * 9])
    assert served.references[0].text == "a"
    assert [served.flipped(one) for one in alone] == [True, False, False]
    assert served.compared(1) == 2
    assert served.compared(2) == 9
    assert Served(("p",), (2,), [sample("b"), sample("a")]).references[0].text == "b"


def test_another_reason_to_stop_is_another_completion():
    served = Served(("p",), (2,), [sample(Answer("a", "stop")), sample(Answer("a", "length"), 2)])
    assert [served.flipped(one) for one in served.samples] == [False, True]
    assert verdict(served) == "differs"


def test_what_failed_or_has_no_reference_is_not_compared():
    served = Served(("p", "q"), (2,), [sample("a"), sample(None), sample("b", 2, prompt=1), sample("a", 2)])
    assert (served.compared(1), served.compared(2)) == (0, 1)
    assert not any(map(served.flipped, served.samples))
    (alone, loaded) = level_rows(served, 0.95)
    assert (alone["failed"], alone["errors"]) == (1, "1 x answered 500 ('no')")
    assert math.isnan(alone["rate"])
    assert (loaded["compared"], loaded["rate"]) == (1, 0)


def test_rate_bound_speed_and_overlap_of_a_level():
    alone = [sample("a", wave=n, start=2 * n, end=2 * n + 1 + n % 2) for n in range(4)]  # 1 s and 2 s: 1.5 s on average
    first = [sample("a", 2, 4, 10, 11), sample("b", 2, 4, 10.5, 12)]
    second = [sample("a", 2, 5, 12, 13), sample("a", 2, 5, 13, 14)]
    served = Served(("p",), (2,), [*alone, *first, *second])
    one, two = level_rows(served, 0.5)
    assert (one["speed_up"], one["under_way"], one["seconds"]) == (1, 1, 6)
    assert (two["under_way"], two["seconds"], two["speed_up"]) == (2, 4, 1.5 * 4 / 4)
    assert (two["flips"], two["compared"], two["rate"], two["unique"]) == (1, 4, 0.25, 2)
    assert one["rate_bound"] == pytest.approx(1 - 0.5 ** (1 / 3))
    # P(at most 1 of 4 | p) = 1/2.
    p = two["rate_bound"]
    assert (1 - p) ** 4 + 4 * p * (1 - p) ** 3 == pytest.approx(0.5)


@pytest.mark.parametrize(("seconds", "said"), [(1.0, "nothing about batches is shown"), (0.5, "only it knows")])
def test_a_server_that_works_one_by_one_shows_nothing_about_batches(seconds, said):
    alone = [sample("a", start=n, end=n + 1) for n in range(2)]
    loaded = [sample("a", 2, 2, 10, 10 + 2 * seconds), sample("a", 2, 2, 10, 10 + seconds)]
    served = Served(("p",), (2,), [*alone, *loaded])
    levels = level_rows(served, 0.95)
    assert levels[1]["speed_up"] == 1 / seconds
    assert said in sentence(served, NOBODY, levels, prompt_rows(served, None), 0.95)


def tokens(*words, margins):
    return Answer("".join(words), tokens=words, logprobs=(0.0,) * len(words), margins=margins)


def test_the_earliest_place_and_the_largest_margin_of_several_flips():
    reference = tokens("a", "b", "c", margins=(1.0, 0.5, 2.0))
    flips = [tokens("a", "b", "x", margins=(1, 1, 1)), tokens("a", "y", "z", margins=(1, 1, 1))]
    served = Served(("p",), (2, 4), [sample(reference), sample(reference), sample(flips[0], 2), sample(flips[1], 4)])
    (row,) = prompt_rows(served, None)
    assert (row["first_differing_token"], row["first_differing_character"]) == (1, 1)
    assert (row["margin_at_flip"], row["min_margin"]) == (2.0, 0.5)
    assert (row["goes_on"], row["goes_on_else"]) == ("bc", "yz")
    assert (row["flips"], row["flips_from_batch"]) == (2, 2)
    assert (row["unique_alone"], row["unique_under_load"]) == (1, 2)
    places = [(row["differing_token"], row["differing_margin"]) for row in request_rows(served) if row["differs"]]
    assert places == [(2, 2.0), (1, 0.5)]


def test_a_text_that_only_goes_on_has_no_margin_there():
    short, long = tokens("a", margins=(1.0,)), tokens("a", "b", margins=(1.0, 1.0))
    (row,) = prompt_rows(Served(("p",), (2,), [sample(short), sample(long, 2)]), None)
    assert row["first_differing_token"] == 1
    assert math.isnan(row["margin_at_flip"])


@pytest.mark.parametrize(
    ("same", "other", "loaded", "honoured", "under_load"),
    [
        ("aaa", "bc", "aa", 1, 1),
        ("aaa", "bc", "ab", 1, 0),
        ("aaa", "ab", "aa", 1, 1),
        ("aaa", "aa", "aa", math.nan, math.nan),
        ("aba", "bc", "aa", 0, math.nan),
        ("aaa", "bc", "", 1, math.nan),
        ("aaa", "bc", "a-", 1, math.nan),
        ("a-a", "bc", "aa", math.nan, math.nan),
        ("", "", "", math.nan, math.nan),
    ],
)
def test_seeds_by_what_was_said(same, other, loaded, honoured, under_load):
    replies = [[sample(None if text == "-" else text).reply for text in texts] for texts in (same, other, loaded)]
    seeds = Seeds(*replies)
    assert [seeds.honoured, seeds.honoured_under_load] == pytest.approx([honoured, under_load], nan_ok=True)
    assert seeds.sentence.endswith(".")
