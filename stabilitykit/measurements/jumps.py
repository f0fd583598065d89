"""Both sides of a first change: the step of the input, the jump of the output, and what the jump is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stabilitykit.measurements.rays import Row, Searched
from stabilitykit.measurements.smooth import ratio, smooth_changes
from stabilitykit.subjects.head import logit_changes
from stabilitykit.subjects.subject import Subject


def jump_rows(subject: Subject, found: Searched, noise: float) -> list[Row]:
    """Return the rows of the search with what belongs to the jump; nan where a ray has none."""
    outputs = {place: boundary.output for place, boundary in enumerate(found.boundaries) if boundary.output is not None}
    smooth = dict(zip(outputs, _smooth(subject, [_step(found, place) for place in outputs]), strict=True))
    slots = [found.boundaries[place].slot for place in outputs]
    logits = logit_changes(subject, torch.stack(list(outputs.values())), slots) if outputs else None
    changes = dict(zip(outputs, logits or [], strict=False))
    return [
        {
            **row,
            "study_amplification": _over(row["output_jump"], row["realised_norm"]),
            "jump_over_noise": _over(row["output_jump"], noise),
            "smooth_jump": smooth.get(place, math.nan),
            "jump_over_smooth": _over(row["output_jump"], smooth.get(place, math.nan)),
            "logit_change": changes[place][0] if place in changes else math.nan,
            "argmax_changed": changes[place][1] if place in changes else None,
        }
        for place, row in enumerate(found.rows)
    ]


def _step(found: Searched, place: int) -> Tensor:
    lattice, boundary = found.lattices[place], found.boundaries[place]
    return lattice.at(boundary.first_changed).double() - lattice.at(boundary.last_same).double()


def _over(part: float, whole: float) -> float:
    return math.nan if math.isnan(part) or math.isnan(whole) else ratio(part, whole)


def _smooth(subject: Subject, steps: Sequence[Tensor]) -> list[float]:
    """Return |J dx| for each step; many rays cross the same float of the same coordinate, so each is asked once."""
    if not steps:
        return []
    distinct, which = torch.unique(torch.stack(list(steps)), dim=0, return_inverse=True)
    changes = smooth_changes(subject, distinct)
    return [changes[index] for index in which.tolist()]
