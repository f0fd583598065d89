"""The logit lens on what blocks return: which of two tokens a model would say if it ended there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from stabilitykit.measurements.last_states import LastStates, largest, word
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.readout import NormAndHead

Row = Mapping[str, Any]


def lens_rows(loaded: LoadedModel, tool: NormAndHead, states: LastStates) -> Iterator[Row]:
    """Yield a row for each position and block: how far the first token is ahead of the second there.

    `ahead` reads the block's state through the final norm, `ahead_raw` holds the state itself against the two rows.
    Nothing where what blocks return is not one state of the head's width.
    """
    width = tool.weight.shape[1]
    for row, stream in enumerate(states.stream):
        if stream.ndim != 2 or stream.shape[1] != width:
            return
        first, second = largest(states.logits[row], 2)
        normed = tool.normed(stream)
        for block, (raw, state) in enumerate(zip(stream, normed, strict=True)):
            ahead, tied = tool.preference(state, first, second)
            yield {
                "part": "stage",
                **states.place(row),
                "block": block,
                "token_id": first,
                "token": word(loaded, first),
                "second_id": second,
                "second": word(loaded, second),
                "ahead": ahead,
                "ahead_raw": tool.preference(raw, first, second)[0],
                "tied": tied,
            }


def settled_rows(stages: Sequence[Row]) -> list[Row]:
    """Return a row a position: the first block that prefers the token taken, and the one from which on all do.

    `settled` is the number of blocks where not even the last one does.
    """
    places = dict.fromkeys((row["number"], row["position"]) for row in stages)
    rows: list[Row] = []
    for place in places:
        own = [row for row in stages if (row["number"], row["position"]) == place]
        behind = [row["block"] for row in own if row["ahead"] <= 0]
        ahead = [row["block"] for row in own if row["ahead"] > 0]
        kept = ("prompt", "number", "position", "token_id", "token", "second_id", "second")
        rows.append(
            {
                "part": "settled",
                **{name: own[0][name] for name in kept},
                "first_ahead": ahead[0] if ahead else len(own),
                "settled": behind[-1] + 1 if behind else 0,
                "turns": sum((a["ahead"] > 0) != (b["ahead"] > 0) for a, b in pairwise(own)),
            }
        )
    return rows
