"""Where completions part, for servers that name no tokens: the same completion, asked for in fewer tokens."""

from __future__ import annotations

import math
from dataclasses import replace

from stabilitykit.endpoints.endpoint import Endpoint, Request


def token_of(endpoint: Endpoint, request: Request, text: str, character: int) -> float:
    """Return the index of the token of `text`, the answer to `request`, that the character lies in.

    The smallest number n of tokens whose text reaches past the character, less 1, found by halving: about log2(tokens)
    requests, alone. nan where the text ends before, and where a shorter completion is not the beginning of the longer
    one. Texts that part there have tokens that part there or before, since a token may be the beginning of another.
    """
    low, high = 1, request.tokens
    if character >= len(text):
        return math.nan
    while low < high:
        middle = (low + high) // 2
        answer = endpoint.ask(replace(request, tokens=middle)).answer
        # A character of several tokens is not one yet, and servers then end with a replacement mark.
        begun = None if answer is None else answer.text.rstrip("\ufffd")
        if begun is None or not text.startswith(begun):
            return math.nan
        low, high = (low, middle) if len(begun) > character else (middle + 1, high)
    return float(low - 1)
