"""Waves, starts at one moment, what was under way, and tokens that are found by asking for fewer."""

import math
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from stabilitykit.endpoints.answer import Answer
from stabilitykit.endpoints.endpoint import Reply, Request
from stabilitykit.endpoints.load import gone, together, under_way, waves
from stabilitykit.endpoints.places import token_of

REQUEST = Request("p", 8)


class Scripted:
    """Answers with the first n of some tokens, a little later."""

    def __init__(self, tokens=(), delay=0.0):
        self.tokens, self.delay, self.asked = tokens, delay, []
        self.threads = set()

    def ask(self, request):
        start = time.perf_counter()
        time.sleep(self.delay)
        self.asked.append(request.tokens)
        self.threads.add(threading.get_ident())
        answer = Answer("".join(self.tokens[: request.tokens]))
        return Reply(request, answer, start=start, end=time.perf_counter())


@pytest.mark.parametrize(("prompts", "repeats", "level"), [(5, 8, 1), (5, 8, 4), (3, 2, 8), (1, 4, 3), (7, 3, 2)])
def test_waves_are_full_and_every_prompt_has_its_repeats(prompts, repeats, level):
    found = waves(prompts, repeats, level)
    assert {len(wave) for wave in found} == {level}
    counts = Counter(prompt for wave in found for prompt in wave)
    assert set(counts) == set(range(prompts))
    assert min(counts.values()) >= repeats
    assert sum(counts.values()) < prompts * repeats + level


def test_requests_are_really_at_once_and_come_back_in_order():
    requests = [replace(REQUEST, tokens=n) for n in range(1, 17)]
    replies = together(Scripted(delay=0.3), requests)
    assert [reply.request for reply in replies] == requests
    assert under_way(replies) == 16


def test_none_is_answered_before_all_are_ready():
    """Without a barrier the first thread is done, and takes the next request, while others are still being made."""
    server = Scripted()
    together(server, [REQUEST] * 32)
    assert len(server.threads) == 32


@pytest.mark.parametrize(
    ("spans", "most"),
    [([(0, 1), (1, 2), (2, 3)], 1), ([(0, 2), (1, 3), (2, 4)], 2), ([(0, 9), (1, 8), (2, 7)], 3), ([], 0)],
)
def test_what_was_under_way_is_counted(spans, most):
    assert under_way([Reply(REQUEST, start=start, end=end) for start, end in spans]) == most


def test_who_is_gone():
    fine, lost, late = (
        Reply(REQUEST, Answer("a")),
        Reply(REQUEST, error="lost", lost=True),
        Reply(REQUEST, error="late"),
    )
    busy = Reply(REQUEST, error="busy", status=429)
    assert gone([fine, lost]) == "lost"
    assert gone([late, late]) == "late"
    assert gone([fine, late]) == gone([busy]) == gone([busy, late]) == ""


TOKENS = ("Ab", "c", " de", "f", "ghi", "j", "k", "l")


@pytest.mark.parametrize("character", range(sum(map(len, TOKENS))))
def test_the_token_of_each_character_is_found_by_halving(character):
    text = "".join(TOKENS)
    ends = [len("".join(TOKENS[: n + 1])) for n in range(len(TOKENS))]
    server = Scripted(TOKENS)
    assert token_of(server, REQUEST, text, character) == next(n for n, end in enumerate(ends) if character < end)
    assert len(server.asked) == 3


def test_a_character_of_several_tokens_is_found():
    # Cut in between, the text ends with a replacement mark.
    class Bytes(Scripted):
        def ask(self, request):
            return replace(super().ask(request), answer=Answer(["a", "a\ufffd", "aé", "aéb"][request.tokens - 1]))

    found = [token_of(Bytes(), replace(REQUEST, tokens=4), "aéb", character) for character in range(3)]
    assert found == [0, 2, 3]


def test_a_place_that_cannot_be_known_is_nan():
    assert math.isnan(token_of(Scripted(TOKENS), REQUEST, "".join(TOKENS), 99))
    assert math.isnan(token_of(Scripted(("other",) * 8), REQUEST, "".join(TOKENS), 3))
    failing = Scripted()
    failing.ask = lambda request: Reply(request, error="busy", status=429)
    assert math.isnan(token_of(failing, REQUEST, "".join(TOKENS), 3))
