"""How far apart two runs of one model are, in values: along the tokens, through the layers, and in the decision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.traces.aligned import NORM, Aligned, aligned
from stabilitykit.traces.drift_maps import maps
from stabilitykit.traces.drift_rows import stage_rows, token_rows
from stabilitykit.traces.drift_words import sentence
from stabilitykit.traces.head_rows import head_rows, norm_rows
from stabilitykit.traces.precision_rows import precision_rows
from stabilitykit.traces.preference import preference, preference_rows
from stabilitykit.traces.readout import readout
from stabilitykit.traces.recording import Recording

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

Row = Mapping[str, Any]

_SIZES = (
    Metric("max_ulp", "ULP", "lower", "largest distance of an element of the last state, over all compared steps"),
    Metric(
        "max_scaled_ulp", "ULP", "lower", "the same in ULP of the state's largest element, which zero does not blow up"
    ),
    Metric("relative_l2", "", "lower", "largest |b - a| / |a| of the last state"),
    Metric("angle", "degrees", "lower", "largest angle between the last states of both runs"),
    Metric("changed_share", "share", "lower", "largest share of the last state's elements that differ"),
)
_METRICS = (
    *_SIZES,
    Metric("not_finite", "elements", "lower", "elements of the last states that are no finite numbers"),
    Metric("embedding_equal", "share", "higher", "compared steps that begin with the same embedding"),
    Metric("growth", "", "lower", "largest relative L2 of a block's output over that of the block before"),
    Metric(
        "flip_stage", "stage", "neither", "first stage of the residual stream at which the runs prefer other tokens"
    ),
    Metric("head_same", "share", "higher", "recorded states of which this machine's head makes the recorded token"),
    Metric("head_bits", "share", "higher", "recorded states of which it makes the recorded logits, bit for bit"),
    Metric("norm_turn", "degrees", "neither", "most by which the final norm turns a state to or from a top token"),
    Metric("compared", "steps", "neither", "steps in which both runs had the same input"),
    Metric("diverged", "prompts", "lower", "prompts after which the runs say different tokens"),
    Metric(
        "disagreements", "tokens", "lower", "steps of the same input after which they would; in forced runs all count"
    ),
)
_SCHEMA = {metric.name: metric for metric in _METRICS}


@dataclass(frozen=True, eq=False)
class Drift(Measurement[Recording]):
    """How far the states of a recording are from those of `reference`, a recording of the same prompts.

    Both keep states (`record(..., states="blocks")` or `"all"`). Of each prompt the steps up to and including the first
    different token are compared, all of which had the same input; where both were forced, all steps. Rows, by `part`:

        token: the state that the head reads, step by step: changed elements, L2 and |b - a| / |a|, the angle, ULP
        stage: the same for every stage of one step, the one whose states made the tokens differ; where none do, that
            with the largest relative L2. `amplification`: over the stage before
        precision: there, coordinates by the decimal and by the ULP at which they part, of embedding, blocks and norm
        preference, flip: which of the two tokens each run prefers behind each block (see `Preference`)
        norm: angles and products of the top tokens' rows with the state, before and after the final norm
        head: what the head makes of both states on this machine

    The last four need the model (`loaded`, of the same weights; rounded to a recording's dtype where that is narrower)
    and are left out without it. Bits and ULP are those of the states' own dtype; of two dtypes the values are compared,
    widened exactly, and both are empty. Readings are the worst over the steps, of the last state unless they say
    otherwise. Arrays: maps of block against submodule, and the drift by prompt and step.

    Errors as of `aligned` and `readout`. Cost: no forward; with `loaded` one of 3 tokens a dtype, and two calls of the
    head a prompt. Source: the study's experiments 4 and 8, whose index of the deciding state was one too low.
    """

    reference: Recording | None = None
    loaded: LoadedModel | None = None

    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    needs: ClassVar[type[Measurable]] = Recording
    causes: ClassVar[tuple[str, ...]] = (
        "another order of summation in a kernel that both machines have",
        "another kernel: attention, matrix products, elementary functions",
        "a decision between two tokens whose logits are nearly the same, which any rounding turns",
    )

    def __post_init__(self) -> None:
        """Refuse what is nothing to compare with."""
        if not isinstance(self.reference, Recording):
            raise UsageError(f"reference={self.reference!r} is no Recording; make one with {Recording.made_by}")

    def cost(self, subject: Recording) -> Cost:
        """Return the forwards that find the parts of the model, one a dtype, and two calls of the head a prompt."""
        if self.loaded is None:
            return Cost()
        return Cost(forwards=_readouts(self._reference(), subject), calls=2 * len(subject.generations))

    def parameters(self) -> dict[str, Any]:
        """Return what was compared with."""
        other = self._reference()
        loaded = None if self.loaded is None else self.loaded.digest
        return {"reference": other.folder or other.describe()["name"], "probe": other.probe, "loaded": loaded}

    @property
    def title(self) -> str:
        """The measurement as one would type it."""
        folder = self._reference().folder
        given = [f"read_recording({folder!r})" if folder else "reference", *(["loaded"] if self.loaded else [])]
        return f"Drift({', '.join(given)})"

    def _reference(self) -> Recording:
        assert self.reference is not None, "refused on construction"
        return self.reference

    def find(self, subject: Recording) -> Finding:
        """Compare everything that both have kept."""
        reference = self._reference()
        pairs = aligned(reference, subject)
        rows: list[Row] = [row for pair in pairs for row in (*token_rows(pair), *stage_rows(pair))]
        rows += [row for pair in pairs for row in precision_rows(pair)]
        if self.loaded is not None:
            rows += _read_out(self.loaded, reference, subject, pairs)
        return Finding(
            _readings(rows),
            sentence(rows, self.loaded is not None),
            rows=tuple(rows),
            arrays=maps(rows, pairs),
            worst=_worst(rows, pairs),
            about={"reference": reference.describe()},
        )


def _readouts(reference: Recording, subject: Recording) -> int:
    """Return how many norms and heads there are: one for each dtype."""
    return len({reference.dtype, subject.dtype})


def _read_out(loaded: LoadedModel, reference: Recording, subject: Recording, pairs: Sequence[Aligned]) -> list[Row]:
    """Return the rows that need the final norm and the head."""
    ours = readout(loaded, reference)
    both = (ours, ours if subject.dtype == reference.dtype else readout(loaded, subject))
    rows: list[Row] = []
    for pair in pairs:
        found = preference(pair, both)
        rows += [] if found is None else preference_rows(found)
        rows += [*norm_rows(pair, both), *head_rows(pair, both)]
    subject.counter.forwards += _readouts(reference, subject)
    subject.counter.calls += 2 * len(pairs)
    return rows


def _readings(rows: Sequence[Row]) -> dict[str, float | Reading]:
    parts = {name: [row for row in rows if row["part"] == name] for name in ("token", "stage", "flip", "head", "norm")}
    tokens, heads = parts["token"], parts["head"]
    found = [_largest(metric.name, tokens) for metric in _SIZES]
    found += [_largest("growth", parts["stage"]), _flip(parts["flip"]), _turn(parts["norm"])]
    shares = {
        "embedding_equal": [row["embedding_equal"] for row in tokens],
        "head_same": [row["same_token"] for row in heads],
        "head_bits": [row["bit_equal"] for row in heads],
    }
    known = {name: [one for one in flags if one is not None] for name, flags in shares.items()}
    return {
        **{reading.metric.name: reading for reading in found if reading is not None},
        **{name: sum(flags) / len(flags) for name, flags in known.items() if flags},
        "not_finite": sum(row["not_finite_a"] + row["not_finite_b"] for row in tokens),
        "compared": len(tokens),
        "diverged": len({row["number"] for row in tokens if not row["same_token"]}),
        "disagreements": sum(not row["same_token"] for row in tokens),
    }


def _largest(name: str, rows: Iterable[Row]) -> Reading | None:
    """Return the largest of a column, with its place; a nan is larger than any number."""
    kept = [row for row in rows if row.get(name) is not None]
    if not kept:
        return None
    readings = [Reading(_SCHEMA[name], row[name], place=_place(row)) for row in kept]
    return max(readings, key=lambda reading: reading.badness)


def _place(row: Row) -> dict[str, str]:
    return {"prompt": row["prompt"], "token": str(row["position"]), "stage": row["stage"]}


def _flip(rows: Sequence[Row]) -> Reading | None:
    """Return the earliest flip."""
    kept = [row for row in rows if row["stage"] is not None]
    if not kept:
        return None
    first = min(kept, key=lambda row: row["order"])
    settled = {f"settled_{run}": str(first[f"settled_{run}"] or "never") for run in "ab"}
    place = {**_place(first), "parted_from": str(first["parted_from"] or "never"), **settled}
    return Reading(_SCHEMA["flip_stage"], first["order"], place=place)


def _turn(rows: Sequence[Row]) -> Reading | None:
    known = [row for row in rows if not math.isnan(row["angle_change"])]
    if not known:
        return None
    most = max(known, key=lambda row: abs(row["angle_change"]))
    place = {"prompt": most["prompt"], "token": str(most["position"]), "run": most["run"]}
    return Reading(_SCHEMA["norm_turn"], most["angle_change"], place=place)


def _worst(rows: Sequence[Row], pairs: Sequence[Aligned]) -> Worst | None:
    """Return the element of the last states that differs most, in the step with the largest relative L2."""
    tokens = [row for row in rows if row["part"] == "token"]
    row = max(tokens, key=lambda row: (math.isnan(row["relative_l2"]), row["relative_l2"]))
    found = pairs[row["number"]].difference(NORM, row["position"]).worst
    if found is None:
        return None
    where = f"{NORM}{list(found.index)} of step {row['position']}, prompt {row['number']}"
    left, right = f"{found.left:.9g} ({found.left_bits})", f"{found.right:.9g} ({found.right_bits})"
    return Worst(where, "reference", left, "here", right)
