"""Completions read from JSON of any kind, and where two of them part."""

import math

import pytest

from stabilitykit.endpoints.answer import (
    Answer,
    MalformedError,
    first_character,
    first_token,
    logprob_change,
    read_answer,
)


def body(choice, **more):
    return {"model": "m", "system_fingerprint": "f", "choices": [choice], **more}


def same(one, other):
    return one == pytest.approx(other, nan_ok=True)


def test_a_completion_is_read():
    given = {"tokens": ["a", "b"], "token_logprobs": [-0.5, -1], "top_logprobs": [{"a": -0.5, "c": -0.75}, {"b": -1}]}
    answer = read_answer(body({"text": "ab", "finish_reason": "stop", "logprobs": given}))
    assert (answer.text, answer.finish, answer.model, answer.fingerprint) == ("ab", "stop", "m", "f")
    assert answer.tokens == ("a", "b")
    assert answer.logprobs == (-0.5, -1.0)
    assert same(list(answer.margins), [0.25, math.nan])


def test_a_chat_completion_is_read_with_what_it_thinks():
    top = [{"token": "b", "logprob": -3.0}, {"token": "a", "logprob": -0.5}, {"token": "c", "logprob": -0.75}]
    message = {"content": "a", "reasoning_content": "hm ", "refusal": None}
    content = [{"token": "a", "logprob": -0.5, "top_logprobs": top}]
    answer = read_answer(body({"message": message, "logprobs": {"content": content}}))
    assert (answer.text, answer.tokens, answer.logprobs, answer.margins) == ("hm a", ("a",), (-0.5,), (0.25,))


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        {},
        "x",
        {"content": []},
        {"content": [None]},
        {"tokens": ["a", 7]},
        {"tokens": "ab", "token_logprobs": "no", "top_logprobs": 1},
    ],
)
def test_no_tokens_are_made_up(logprobs):
    answer = read_answer(body({"text": "ab", "logprobs": logprobs}))
    assert (answer.tokens, answer.logprobs, answer.margins) == (None, (), ())


@pytest.mark.parametrize(
    "given",
    [
        {"tokens": ["a", "b"]},
        {"tokens": ["a", "b"], "token_logprobs": [None], "top_logprobs": [{"a": "x", "b": True, "c": math.inf}]},
        {"tokens": ["a", "b"], "token_logprobs": ["1", {}], "top_logprobs": [None, 5]},
        {"tokens": ["a", "b"], "token_logprobs": [10**400, True], "top_logprobs": [{"a": -(10**400), "b": -1.0}]},
    ],
)
def test_a_number_that_is_none_is_nan(given):
    answer = read_answer(body({"text": "ab", "logprobs": given}))
    assert answer.tokens == ("a", "b")
    assert same(list(answer.logprobs), [math.nan] * 2)
    assert same(list(answer.margins), [math.nan] * 2)


@pytest.mark.parametrize("given", [None, [], "x", {}, {"choices": None}, {"choices": []}, {"choices": ["x"]}])
def test_what_is_no_completion_is_said(given):
    with pytest.raises(MalformedError, match="holds no completion"):
        read_answer(given)


def test_every_text_is_cleaned():
    given = {"tokens": ["key"], "token_logprobs": [0.0], "top_logprobs": [{}]}
    dirty = body({"text": "a key", "finish_reason": "key", "logprobs": given}, model="key", system_fingerprint="key")
    answer = read_answer(dirty, lambda text: text.replace("key", "-"))
    assert "key" not in repr(answer)
    assert answer.text == "a -"


@pytest.mark.parametrize(
    ("one", "other", "token", "character"),
    [
        (Answer("ab", tokens=("a", "b")), Answer("ab", tokens=("a", "b")), math.nan, math.nan),
        (Answer("ab", tokens=("a", "b")), Answer("ac", tokens=("a", "c")), 1, 1),
        (Answer("ab", tokens=("a", "b")), Answer("a", tokens=("a",)), 1, 1),
        (Answer("ab", tokens=("ab",)), Answer("ab", tokens=("a", "b")), 0, math.nan),
        (Answer("a", "stop", tokens=("a",)), Answer("a", "length", tokens=("a",)), 1, math.nan),
        (Answer("ab"), Answer("ac"), math.nan, 1),
        (Answer("ab"), Answer("ab", tokens=("a", "b")), math.nan, math.nan),
    ],
)
def test_where_two_part(one, other, token, character):
    assert same([first_token(one, other), first_character(one, other)], [token, character])
    assert same([first_token(other, one), first_character(other, one)], [token, character])


def test_logprobs_are_compared_up_to_where_tokens_part():
    one = Answer("abc", tokens=("a", "b", "c"), logprobs=(-1.0, math.nan, -3.0))
    other = Answer("abd", tokens=("a", "b", "d"), logprobs=(-1.25, -2.0, -9.0))
    assert logprob_change(one, other) == 0.25
    assert logprob_change(one, one) == 0
    assert math.isnan(logprob_change(Answer("x", tokens=("x",), logprobs=(0.0,)), other))
    assert math.isnan(logprob_change(Answer("a"), other))
