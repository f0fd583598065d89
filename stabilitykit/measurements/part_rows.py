"""The rows of a model's parts: the spectrum of each, what a change makes of it, and its share of the rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements import attribution
from stabilitykit.measurements.parts import Course, Linear, Part
from stabilitykit.subjects.causal_lm import CausalLMSubject

Row = dict[str, Any]


def spectrum_row(part: Part, linear: Linear, course: Course | None, tolerance: float, most: int) -> Row:
    """Return the spectrum of one part and what the followed change makes of it; a reason where there is none."""
    told = _blank(part)
    try:
        found = linear.top(part, tolerance, most)
        told |= {"sigma_1": float(found.sigma[0]), "residual_1": float(found.residual[0])}
        if part.kind == "branch" and found.u.shape == found.v.shape:
            told["sigma_1_residual"] = float(linear.top(part, tolerance, most, identity=True).sigma[0])
    except UnsupportedError as error:
        return told | {"verdict": "unsupported", "reason": str(error)}
    if course is not None and course.knows(part.modules[0]) and course.knows(part.modules[-1]):
        dx, dy = course.entered(part.modules[0]), part.scale * course.left(part.modules[-1])
        told |= {"gain_observed": _over(dy, dx), "alignment": _cosine(dx.cpu(), found.v[0])}
    return told


def _blank(part: Part) -> Row:
    unknown = ("sigma_1", "residual_1", "sigma_1_residual", "gain_observed", "alignment", "share", "size", "removed")
    return {
        "part": part.kind,
        "block": part.block,
        "label": part.label,
        "module": part.name,
        "verdict": "measured",
        "reason": "",
        "scale": part.scale,
        "bound": part.bound,
        **dict.fromkeys(unknown, math.nan),
    }


def refused(part: Part, reason: str) -> Row:
    """Return the row of a part that cannot be isolated."""
    return _blank(part) | {"verdict": "unsupported", "reason": reason}


def _over(part: Tensor, whole: Tensor) -> float:
    length = float(torch.linalg.vector_norm(whole))
    return float(torch.linalg.vector_norm(part)) / length if length else math.nan


def _cosine(a: Tensor, b: Tensor) -> float:
    length = float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
    return abs(float(a @ b)) / length if length else math.nan


def attributed(
    subject: CausalLMSubject, twin: CausalLMSubject | None, parts: Sequence[Part], rows: Sequence[Row], replace: bool
) -> tuple[list[Row], float, float]:
    """Return the rows with their share of the output's rounding error, that error, and what no part accounts for."""
    if twin is None:
        return list(rows), math.nan, math.nan
    start = Part("embed", (attribution.EMBED,), attribution.EMBED)
    listed = [start, *parts]
    found, error = attribution.attribute(subject, twin, list(dict.fromkeys(one.modules for one in listed)), replace)
    shared = []
    for part, row in zip(listed, [_blank(start), *rows], strict=True):
        told = found[part.modules]
        if isinstance(told, str):
            shared.append(row | {"reason": row["reason"] or told})
        else:
            shared.append(row | {"share": told.share, "size": told.size, "removed": told.removed})
    whole = [
        row["share"] for row in shared if row["part"] in ("embed", "block", "final_norm") or _outermost(row, shared)
    ]
    return shared, error, 1 - sum(share for share in whole if not math.isnan(share)) if error else math.nan


def _outermost(row: Row, rows: Sequence[Row]) -> bool:
    """Whether a row is of a named module that lies in no other named one with a share."""
    known = [other for other in rows if other["part"] == "module" and not math.isnan(other["share"])]
    others = [other["module"] for other in known if other is not row]
    return row["part"] == "module" and not any(row["module"].startswith(f"{name}.") for name in others)
