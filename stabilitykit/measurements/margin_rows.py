"""The decisions of all texts as tidy rows: a prompt, a token, a way of computing them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stabilitykit.measurements.decisions import Decisions
from stabilitykit.numerics.forecast import Forecast, any_of
from stabilitykit.subjects.models import LoadedModel

Row = Mapping[str, Any]


def token_rows(
    loaded: LoadedModel, labels: Sequence[str], decisions: Sequence[Decisions], forecasts: Sequence[Forecast]
) -> list[Row]:
    """Return a row a generated token, in order: margin, noise, forecast, and what each way made of it."""
    rows: list[Row] = []
    for number, (label, one, found) in enumerate(zip(labels, decisions, forecasts, strict=True)):
        ids = [*one.tokens.tolist(), *one.rivals[:, 1].tolist()]
        words = dict(zip(ids, _words(loaded, ids), strict=True))
        for t in range(len(one.tokens)):
            margin, noise = float(one.margins[0, t, 0]), float(found.noise[t])
            other = np.flatnonzero(one.flipped[:, t])
            token, rival = (int(taken) for taken in one.rivals[t, :2])
            rows.append(
                {
                    "part": "token",
                    "prompt": label,
                    "number": number,
                    "position": t,
                    "token_id": token,
                    "token": words[token],
                    "rival_id": rival,
                    "rival": words[rival],
                    "logit": float(one.logits[0, t, 0]),
                    "margin": margin,
                    "margin_ulp": margin / float(one.spacing[t]),
                    "tied": int(one.tied[t]),
                    "noise": noise,
                    "margin_over_noise": margin / noise if noise else (math.inf if margin else 0.0),
                    "forecast": float(found.probability[t]),
                    "low": float(found.low[t]),
                    "high": float(found.high[t]),
                    "seen": len(other),
                    "seen_in": "; ".join(one.ways[way - 1].name for way in other),
                    "wide_token_id": None if one.wide_argmax is None else int(one.wide_argmax[t]),
                    "wide_margin": None if one.wide is None else float(one.wide[t, 0] - one.wide[t, 1]),
                }
            )
    return rows


def prompt_rows(
    loaded: LoadedModel, labels: Sequence[str], decisions: Sequence[Decisions], tokens: Sequence[Row], at_risk: float
) -> list[Row]:
    """Return a row a prompt, the likeliest to change first. `keep`: how many tokens stay within `at_risk` together."""
    rows: list[Row] = []
    for number, (label, one) in enumerate(zip(labels, decisions, strict=True)):
        own = [row for row in tokens if row["number"] == number]
        any_so_far = _running([row["forecast"] for row in own])
        flips = [row["position"] for row in own if row["seen"]]
        within = int(np.searchsorted(any_so_far, at_risk, side="right"))
        weakest = max(own, key=lambda row: (row["forecast"], -row["margin_over_noise"]))
        rows.append(
            {
                "part": "prompt",
                "prompt": label,
                "number": number,
                "text": _text(loaded, one.tokens.tolist()),
                "tokens": len(own),
                **{name: float(any_of(np.array([row[name] for row in own]))) for name in ("forecast", "low", "high")},
                "at_risk": bool(any_so_far[-1] > at_risk or flips),
                "expected_flips": math.fsum(row["forecast"] for row in own),
                "flips_seen": len(flips),
                "exact_ties": sum(row["tied"] > 1 for row in own),
                "min_margin_over_noise": min(row["margin_over_noise"] for row in own),
                **{f"weakest_{name}": weakest[name] for name in ("position", "token", "rival", "margin", "forecast")},
                "keep": min([within, *flips]),
                "kept_risk": float(any_so_far[min([within, *flips]) - 1]) if min([within, *flips]) else 0.0,
            }
        )
    return sorted(rows, key=lambda row: (-row["forecast"], -row["flips_seen"], row["number"]))


def way_rows(decisions: Sequence[Decisions], reference: str = "decode") -> list[Row]:
    """Return a row a way, the reference first: whether it has bits of its own, what it flips, how far margins move."""
    names = [reference, *(way.name for way in decisions[0].ways)]
    rows: list[Row] = []
    for way, name in enumerate(names):
        moved = np.concatenate([(one.margins[way] - one.margins[0]).ravel() for one in decisions])
        twin = next(k for k in range(way + 1) if all(one.bits[k] == one.bits[way] for one in decisions))
        rows.append(
            {
                "part": "way",
                "way": name,
                "bits_of": names[twin],
                "differing_texts": sum(one.bits[way] != one.bits[0] for one in decisions),
                "flips": int(sum(one.flipped[way].sum() for one in decisions)),
                "rms_change": float(np.sqrt((moved**2).mean())),
                "max_change": float(np.abs(moved).max()),
            }
        )
    return rows


def _running(probabilities: Sequence[float]) -> Any:
    """Return the chance of at least one event up to each place."""
    return np.array([float(any_of(np.array(probabilities[: end + 1]))) for end in range(len(probabilities))])


def _words(loaded: LoadedModel, ids: Sequence[int]) -> list[str]:
    return [_text(loaded, [token]) for token in ids]


def _text(loaded: LoadedModel, ids: Sequence[int]) -> str:
    """Return the text of ids, empty without a tokenizer."""
    return "" if loaded.tokenizer is None else str(loaded.tokenizer.decode(list(ids)))
