"""What a decision map stands on: the input in its middle, two directions, and two tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.directions import Directions, number_within, resolve
from stabilitykit.measurements.logit_gap import LogitGap, names
from stabilitykit.measurements.tie_point import pair_of, reading_logits
from stabilitykit.measurements.tie_store import tie_of
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.plane import Plane
from stabilitykit.subjects.subject import Subject

Pair = tuple[int, int]

TIE_BATCH = 8
"""Rows of a batch in which the tie is sought, where the map has more: a search asks few inputs at a time.

The middle is an input and no output: how near the tie it is in the map's own batch is read there, and is within noise.
"""

_readers: WeakKeyDictionary[Subject, Subject] = WeakKeyDictionary()
_seekers: WeakKeyDictionary[Subject, Subject] = WeakKeyDictionary()
_grounds: WeakKeyDictionary[Subject, dict[str, Ground]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Ground:
    """The plane of inputs, the difference of logits read there, and what is stored about both.

    `subject` has the middle as its x0 and its own site; `gap.subject` has the same and is read at the logits.
    """

    subject: Subject
    plane: Plane
    gap: LogitGap
    about: Mapping[str, Any]

    @property
    def tokens(self) -> tuple[str, str]:
        """The texts of the two tokens."""
        first, second = self.about["tokens"]
        return first, second


def ground(subject: Subject, at: str | Tensor, pair: Pair | None, plane: Directions, rule: str) -> Ground:
    """Return the ground at the tie of the pair, at the subject's own input ("prompt"), or at a given one (H,).

    Found once for a subject, with its noise floor. UsageError for what is no input, pair or plane; UnsupportedError
    where the subject has no logits or the pair no tie.
    """
    found, key = _grounds.setdefault(subject, {}), _key(at, pair, plane, rule)
    if key not in found:
        found[key] = _ground(subject, at, pair, plane, rule)
    return found[key]


def _key(*parts: Any) -> str:
    return repr([digest(part) if isinstance(part, Tensor) else part for part in parts])


def _ground(subject: Subject, at: str | Tensor, pair: Pair | None, plane: Directions, rule: str) -> Ground:
    reader, tie = reading(subject), None
    said: dict[str, Any] = {}
    if isinstance(at, Tensor):
        x = at
    elif at == "tie":
        tie = tie_of(seeking(subject), pair)
        x = tie.x.to(subject.x0)
        said = {"tie_distance": tie.distance, "tie_gap_ulp": tie.gap_ulp}
    else:
        x = subject.x0
    there, read = subject.at(x, proved=False), reader.at(x, proved=False)
    directions, labels = resolve(within(plane, there), there)
    chosen = tie.pair if tie else pair_of(read, pair)
    return grounded(there, read, directions, labels, chosen, rule, said)


def grounded(
    there: Subject,
    reader: Subject,
    directions: Tensor,
    labels: Sequence[str],
    pair: Pair,
    rule: str,
    said: Mapping[str, Any],
) -> Ground:
    """Return the ground of directions (2, H) at the x0 of `there`; UsageError for more or fewer."""
    if len(directions) != 2:
        raise UsageError(f"a plane has two directions, not {len(directions)}; give for example ('v1', 'v2')")
    h1, h2 = directions.cpu()
    gap = LogitGap(reader, pair)
    about = {
        "pair": list(pair),
        "tokens": names(there, pair),
        "map_plane": list(labels),
        "map_rule": rule,
        "map_middle": digest(there.x0),
        **said,
    }
    return Ground(there, Plane(there.x0.cpu(), h1, h2, rule), gap, about)


def reading(subject: Subject) -> Subject:
    """Return the subject at its logits, proved once."""
    if subject in _readers:
        return _readers[subject]
    reader = reading_logits(subject)
    if reader is not subject:  # a value that held its own key would never be let go of
        _readers[subject] = reader
    return reader


def seeking(subject: Subject) -> Subject:
    """Return the subject at its logits in batches of at most TIE_BATCH, proved once."""
    reader = reading(subject)
    if subject.batch <= TIE_BATCH:
        return reader
    if subject not in _seekers:
        _seekers[subject] = reader.with_batch(TIE_BATCH)
    return _seekers[subject]


def within(plane: Directions, subject: Subject) -> Directions:
    """Return the directions with names past the last singular vector, and "v_last", as that of the last."""
    if isinstance(plane, Tensor | str) or not isinstance(plane, Sequence):
        return plane
    numbers = [number_within(one, subject) for one in plane]
    return [f"{'-' * str(one).startswith('-')}v{n}" if n else one for one, n in zip(plane, numbers, strict=True)]
