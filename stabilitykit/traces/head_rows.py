"""What the final norm does to the tokens at the top, and what this machine's head makes of recorded states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from stabilitykit.measurements.head_replay import against
from stabilitykit.numerics.alignment import alignment
from stabilitykit.subjects.generation import first_largest
from stabilitykit.traces.aligned import NORM, Aligned
from stabilitykit.traces.readout import Readout
from stabilitykit.traces.recording import Generation

Row = Mapping[str, Any]
TOP = 5
"""Tokens whose rows are held against the state."""


def norm_rows(pair: Aligned, readouts: tuple[Readout, Readout]) -> Iterator[Row]:
    """Yield a row for each run and each of its largest logits, in the step that is looked into.

    Angles are those between the token's row of the head and the state before and after the final norm, `logit_before`
    and `logit_after` their products with the bias, in float64 (the first is no logit of the model: it shows what the
    norm does). Ranks are among these tokens, the largest cosine first.
    """
    for run, side, readout in zip("ab", (pair.a, pair.b), readouts, strict=True):
        ids = side.top_ids[pair.step][:TOP].tolist()
        before, after = (side.states[name][pair.step] for name in (_before(pair, readout), NORM))
        W, c = readout.rows(ids)
        for k, (token, found) in enumerate(zip(ids, alignment(W, c, before, after), strict=True)):
            yield {
                "part": "norm",
                **pair.place(pair.step),
                "run": run,
                "rank": k + 1,
                "token_id": token,
                "word": pair.words.get(token, ""),
                **found,
            }


def _before(pair: Aligned, readout: Readout) -> str:
    """Return the stage that the final norm reads: its input, which as a rule is the last block's output."""
    own = [stage.name for stage in pair.stages if readout.before(stage)]
    return own[0] if own else [stage.name for stage in pair.stages if stage.name.startswith("block:")][-1]


def head_rows(pair: Aligned, readouts: tuple[Readout, Readout]) -> Iterator[Row]:
    """Yield a row for each run's last state: what this machine's head makes of it, beside what was recorded.

    `same_token`: the largest logit is the recorded one's. `bit_equal` and `max_ulp` hold the recorded largest logits
    against those of the same tokens here; empty where the model caps or scales its head's logits.
    """
    for run, side, readout in zip("ab", (pair.a, pair.b), readouts, strict=True):
        logits = readout.logits(side.states[NORM][pair.step])
        here, said = first_largest(logits), int(side.predicted[pair.step])
        yield {
            "part": "head",
            **pair.place(pair.step),
            "at_divergence": pair.divergence is not None,
            "run": run,
            "token_id": said,
            "word": pair.words.get(said, ""),
            "token_here": here,
            "same_token": here == said,
            **_against(side, pair.step, logits, readout.last),
        }


def _against(side: Generation, step: int, logits: Tensor, last: bool) -> dict[str, Any]:
    recorded = side.top_logits[step]
    found = logits[torch.from_numpy(side.top_ids[step])]
    comparable = last and recorded.dtype == found.dtype
    return {
        "logit": float(recorded[0]),
        "logit_here": float(found[0]) if last else None,
        **(against(recorded, found) if comparable else {"bit_equal": None, "max_ulp": None}),
    }
