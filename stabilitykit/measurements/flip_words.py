"""What a flip scan says in words."""

from __future__ import annotations

import math

from stabilitykit.measurements.flip_lines import Line
from stabilitykit.measurements.flip_pair import FlipPair
from stabilitykit.measurements.flip_radius import Outward
from stabilitykit.measurements.ties import names
from stabilitykit.subjects.subject import Subject


def scanned(lines: list[Line], pair: FlipPair, tokens: tuple[str, str], reason: str) -> str:
    """Return what the lines through a tie showed; `reason` says why there is no true float64, if there is none."""
    rows = [line.row() for line in lines]
    most, width = max(row["sign_changes"] for row in rows), max(row["chatter_ulp"] for row in rows)
    nearest = min(row["flip_eps"] for row in rows)
    through = "the line" if len(rows) == 1 else f"{len(rows)} lines"
    first = f"flips from a step of {nearest:.3g} on" if math.isfinite(nearest) else "does not flip within the span"
    said = [
        f"One ULP of coordinate {pair.coordinate}, a step of {pair.step:.3g}, turns {tokens[0]} into {tokens[1]}.",
        f"Along {through} through the tie the token {first}, and the order of the two logits changes {times(most)}, "
        f"within {width:.3g} ULP of the logit",
    ]
    truth = [row["true_sign_changes"] for row in rows]
    if reason or math.isnan(truth[0]):
        said[1] += "."
    else:
        share = max(row["oracle_disagreement"] for row in rows)
        said[1] += f"; true float64 changes it {times(max(truth))}, and disagrees at up to {share:.0%} of the inputs."
    if reason:
        said.append(f"There is no true float64: {reason}.")
    if third := sum(row["third_tokens"] for row in rows):
        said.append(f"At {third} inputs a third token comes first.")
    return " ".join(said)


def went_outward(subject: Subject, found: list[Outward], nearest: Outward, radius: float) -> str:
    """Return how far the prompt is from another token, to first order and as seen."""
    norm = float(subject.x0.double().norm())
    share = f" ({radius / norm:.1%} of its length)" if norm else ""
    said = f"To first order the next token changes {radius:.3g} away from the embedding{share}; "
    if math.isnan(nearest.realised):
        return f"{said}up to 32 times that no direction of {len(found)} shows another token."
    token = names(subject, (nearest.token, nearest.token))[0]
    where = "at the tie" if nearest.label == "tie" else f"along {nearest.label}"
    return f"{said}{where} it was seen to change to {token} at {nearest.realised:.3g}."


def times(count: float) -> str:
    """Return how often in words."""
    return {0: "never", 1: "once"}.get(int(count), f"{count:.0f} times")
