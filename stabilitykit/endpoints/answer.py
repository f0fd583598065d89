"""A completion as a server gave it, read from its JSON, and where two of them part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any


class MalformedError(ValueError):
    """What a server sent is not what the protocol says; the message goes on from "the server"."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion. `tokens` is None where the server gives no logprobs; else `logprobs` and `margins` go with it.

    A margin is the largest logprob at a token less the next one, in nats: the difference of the two logits. nan where
    the server names fewer than two candidates.
    """

    text: str
    finish: str = ""
    model: str = ""
    fingerprint: str = ""
    tokens: tuple[str, ...] | None = None
    logprobs: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()

    @property
    def said(self) -> tuple[str, str, tuple[str, ...] | None]:
        """What makes it the same completion: text, the reason to stop, and the tokens if they are known."""
        return self.text, self.finish, self.tokens


def first_token(one: Answer, other: Answer) -> float:
    """Return the index of the first token that differs, nan if the tokens are unknown or all the same.

    Where one goes on after the other has stopped it is the index of the first token that only one has.
    """
    if one.tokens is None or other.tokens is None or one.said == other.said:
        return math.nan
    return float(_common(one.tokens, other.tokens))


def first_character(one: Answer, other: Answer) -> float:
    """Return the index of the first character that differs, nan if the texts are the same."""
    return math.nan if one.text == other.text else float(_common(one.text, other.text))


def logprob_change(one: Answer, other: Answer) -> float:
    """Return the largest change of a logprob over the tokens up to the first that differs, nan if there is none."""
    shared = 0 if one.tokens is None or other.tokens is None else _common(one.tokens, other.tokens)
    moves = [abs(a - b) for a, b in zip(one.logprobs[:shared], other.logprobs[:shared], strict=True)]
    return max((move for move in moves if not math.isnan(move)), default=math.nan)


def read_answer(body: Any, clean: Callable[[str], str] = str) -> Answer:
    """Return the first choice of a completion or chat completion; MalformedError for anything else.

    `clean` is applied to every text that the server wrote.
    """
    choices = body.get("choices") if isinstance(body, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        raise MalformedError("answered with JSON that holds no completion")
    message = choice.get("message")
    parts = [choice.get("text")]
    if isinstance(message, Mapping):
        # A model that thinks aloud may spend all its tokens there: that is what it said.
        parts = [message.get(name) for name in ("reasoning_content", "reasoning", "content", "refusal")]
    tokens, logprobs, margins = _candidates(choice.get("logprobs"))
    return Answer(
        clean("".join(part for part in parts if isinstance(part, str))),
        clean(_word(choice.get("finish_reason"))),
        clean(_word(body.get("model"))),
        clean(_word(body.get("system_fingerprint"))),
        None if tokens is None else tuple(clean(token) for token in tokens),
        logprobs,
        margins,
    )


Candidates = tuple[list[str] | None, tuple[float, ...], tuple[float, ...]]


def _candidates(given: Any) -> Candidates:
    """Return tokens, their logprobs and their margins, from the form of chats or from that of completions."""
    if not isinstance(given, Mapping):
        return None, (), ()
    if isinstance(given.get("content"), list):
        entries = [entry if isinstance(entry, Mapping) else {} for entry in given["content"]]
        tokens = [entry.get("token") for entry in entries]
        chosen = [entry.get("logprob") for entry in entries]
        tops = [[one.get("logprob") for one in _list(entry.get("top_logprobs"))] for entry in entries]
    else:
        tokens, chosen = _list(given.get("tokens"), object), _list(given.get("token_logprobs"), object)
        tops = [
            list(one.values()) if isinstance(one, Mapping) else [] for one in _list(given.get("top_logprobs"), object)
        ]
    named = [token for token in tokens if isinstance(token, str)]
    if not tokens or len(named) < len(tokens):
        return None, (), ()
    filled = [[*values, *[None] * len(tokens)][: len(tokens)] for values in (chosen, tops)]
    return named, tuple(map(_number, filled[0])), tuple(_margin(top or []) for top in filled[1])


def _margin(logprobs: Sequence[Any]) -> float:
    known = sorted((value for value in map(_number, logprobs) if math.isfinite(value)), reverse=True)
    return known[0] - known[1] if len(known) > 1 else math.nan


def _list(given: Any, kind: type = Mapping) -> list[Any]:
    return [one for one in given if isinstance(one, kind)] if isinstance(given, list) else []


def _number(value: Any) -> float:
    # JSON's whole numbers may be larger than any float.
    known = isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
    return float(value) if known else math.nan


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
