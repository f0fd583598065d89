"""The predictions of a text's tokens as tidy rows, one a word."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabilitykit.measurements.token_predictions import COSINES, TokenPredictions
from stabilitykit.numerics.forecast import Forecast, Prior, any_of, forecast
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.windows import Window
from stabilitykit.subjects.words import Tokenised, Word

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Scan:
    """A text, its tokens as they were predicted in windows, and the noise of their margins.

    `threshold`: margins below are fragile, in logits.
    """

    text: Tokenised
    plan: tuple[Window, ...]
    tokens: TokenPredictions
    noise: Prior
    threshold: float
    confidence: float

    @property
    def begin(self) -> int:
        """The first token that was predicted."""
        return self.plan[0].first

    @property
    def context(self) -> list[int]:
        """From how many tokens each was predicted."""
        lead = len(self.text.lead)
        return [lead + place - one.start for one in self.plan for place in range(one.first, one.end)]

    @property
    def characters(self) -> int:
        """Characters that the predicted tokens spell."""
        return self.text.offsets[-1][1] - self.text.offsets[self.begin][0]

    @property
    def words(self) -> list[Word]:
        """The words of which every token was predicted."""
        return [word for word in self.text.words if word.first >= self.begin]

    @property
    def margin_ulp(self) -> NDArray[np.float64]:
        """The margins in ULP of the largest logit, (N,)."""
        return np.asarray(self.tokens.margin / self.tokens.ulp)

    @property
    def fragile(self) -> NDArray[np.bool_]:
        """Whether the noise may decide: the margin is below the threshold, or no wider than the grid of the logits."""
        return np.asarray((self.tokens.margin < self.threshold) | (self.margin_ulp <= 1))

    def flips(self) -> Forecast:
        """Return the forecast that another device makes another first prediction, (N,)."""
        tie_flips = self.tokens.top[:, 1] < self.tokens.top[:, 0]
        return forecast(self.tokens.margin[None], self.tokens.ulp, tie_flips, self.noise, self.confidence)


def word_rows(loaded: LoadedModel, scan: Scan, flips: Forecast) -> list[Row]:
    """Return a row a word, in order: what was predicted in its place, its probability and rank, and how near a tie."""
    shown, context = _Shown(loaded), scan.context
    return [
        {**_place(scan, number, word, context), **_row(scan, word, flips, shown)}
        for number, word in enumerate(scan.words)
    ]


class _Shown(dict[int, str]):
    """The text of each id that is asked for, decoded once."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self._tokenizer = loaded.tokenizer

    def __missing__(self, token: int) -> str:
        assert self._tokenizer is not None  # or the text would have no words
        self[token] = str(self._tokenizer.decode([token]))
        return self[token]


def _place(scan: Scan, number: int, word: Word, context: Sequence[int]) -> Row:
    return {
        "part": "word",
        "number": number,
        "word": word.text,
        "start": word.start,
        "end": word.end,
        "token": word.first,
        "tokens": word.last - word.first,
        "context": context[word.first - scan.begin],
    }


def _row(scan: Scan, word: Word, flips: Forecast, shown: _Shown) -> Row:
    first, last = word.first - scan.begin, word.last - scan.begin
    own, tokens = slice(first, last), scan.tokens
    weakest = first + int(np.argmin(tokens.margin[own]))
    nll = math.fsum(tokens.nll[own].tolist())
    return {
        "nll": nll,
        "probability": math.exp(-nll),
        "match": bool(tokens.greedy[own].all()),
        "target": shown[int(tokens.target[first])],
        "target_id": int(tokens.target[first]),
        "target_logit": float(tokens.target_logit[first]),
        "target_probability": math.exp(-float(tokens.nll[first])),
        "rank": int(tokens.rank[first]),
        **_predictions(tokens, first, shown),
        "entropy": float(tokens.entropy[first]),
        "margin": float(tokens.margin[first]),
        "margin_ulp": float(scan.margin_ulp[first]),
        "tied": int(tokens.tied[first]),
        "weakest_token": weakest - first,
        "weakest_margin": float(tokens.margin[weakest]),
        "weakest_margin_ulp": float(scan.margin_ulp[weakest]),
        "weakest": shown[int(tokens.top[weakest, 0])],
        "weakest_rival": shown[int(tokens.top[weakest, 1])],
        "fragile": bool(scan.fragile[own].any()),
        "flip_probability": float(any_of(flips.probability[own])),
        "state_norm": float(tokens.state_norm[first]),
        **dict(zip(COSINES, tokens.cosines[first].tolist(), strict=True)),
    }


def _predictions(tokens: TokenPredictions, place: int, shown: _Shown) -> Row:
    """Return the likeliest tokens in the place of a word's first one: text, id, logit and probability of each."""
    row: dict[str, Any] = {}
    for k, (token, logit) in enumerate(zip(tokens.top[place].tolist(), tokens.logits[place].tolist(), strict=True), 1):
        row[f"top_{k}"] = shown[token]
        row[f"top_{k}_id"] = token
        row[f"top_{k}_logit"] = logit
        row[f"top_{k}_probability"] = math.exp(logit - float(tokens.log_sum[place]))
    return row


def window_rows(plan: Sequence[Window], plain: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row a window: which tokens it reads and predicts, and the digests of their logits, piece by piece."""
    return [
        {"part": "window", "number": k, **asdict(window), "bits": " ".join(one["bits"])}
        for k, (window, one) in enumerate(zip(plan, plain, strict=True))
    ]
