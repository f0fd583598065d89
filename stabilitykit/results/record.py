"""What a test run keeps: one record a check, and the run they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stabilitykit.results.forms import Each, Maybe, Number, Optional, check
from stabilitykit.results.plain import from_plain, to_plain
from stabilitykit.results.result import VERDICTS, Result


@dataclass(frozen=True)
class Record:
    """One check of a run: its result, its verdict after limits, and how to run it again.

    `check_id` is stable across machines and root directories: `batch_invariance[smollm2-float32]`. `result` is None
    where nothing was measured (unsupported, invalid, crash, skipped); `message` then says why in a sentence, and for a
    failed gate it is the failure's text. `examples` counts the measurements merged into it (Hypothesis draws).

    `recipes` are the directions that the readings were worst along, the worst first, each a mapping of `direction` (its
    name in every `place`), `recipe` (kind, data, dim, and `basis`, a digest, where it needs one), `digest` of its bits,
    which are the row of the same number in the array `recipes`, `readings` along it, `worst_of` (names), `result` (a
    digest of all that was found along it), `failing` (measured last before the test failed), and `confirmed` (measured
    again from this record, with the same bits). `replays` says how directions of a former run compare with it.
    `resumed` marks what was not measured by this run, but taken over from the journal of the run that it goes on with.
    `baseline` says what became of the check beside its baseline: `status`, `readings` (then, allowed, kind by name) and
    `changes` (field, then, now); it is empty without one.
    `known` says by which line of `--stability-known` a failure was excused: its file and number.
    `stated` is what the measurement said it would cost, under the names of `Execution`, for all its examples.
    `planted` is what a fault of `--stability-plant` did in this check's test: its name, the calls that it had a place
    in, and in how many of them it fired.
    """

    check_id: str
    nodeid: str
    verdict: str
    result: Result | None = None
    message: str = ""
    limits: Mapping[str, str] = field(default_factory=dict)
    gate: bool = False
    examples: int = 1
    worker: str = ""
    recipes: tuple[Mapping[str, Any], ...] = ()
    replays: tuple[Mapping[str, Any], ...] = ()
    resumed: bool = False
    stated: Mapping[str, int] = field(default_factory=dict)
    baseline: Mapping[str, Any] = field(default_factory=dict)
    known: str = ""
    planted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """What to read first: the failure's first line, else the finding."""
        return self.message.split("\n", 1)[0] or (self.result.sentence if self.result else "")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-plain data."""
        plain = {name: to_plain(getattr(self, name)) for name in self.__dataclass_fields__ if name != "result"}
        return {**plain, "result": None if self.result is None else self.result.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Rebuild a record; UnreadableError for a result of another schema, and for a field that is none."""
        check(data, _RECORD, "a record")
        result = None if data["result"] is None else Result.from_dict(data["result"])
        listed = {name: tuple(from_plain(data.get(name, []))) for name in ("recipes", "replays")}
        baseline = from_plain(data.get("baseline", {}))
        return replace(cls(**{**data, **listed, "baseline": baseline, "result": None}), result=result)


@dataclass(frozen=True)
class Run:
    """A run's provenance: identity, command, settings, environment, and what it could not do.

    `started` is UTC in ISO format; `run_id` is unique to the run; `notes` are sentences for the reader, such as files
    or checks that were left out and why. `workers` holds, by name, the device and the environment of each process that
    measured, where there were several; `environment` is then that of the first.
    """

    run_id: str
    started: str
    command: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    workers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-plain data."""
        plain: dict[str, Any] = to_plain({name: getattr(self, name) for name in self.__dataclass_fields__})
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        """Rebuild a run; UnreadableError for a field that is none."""
        check(data, _RUN, "the run")
        return cls(**{**from_plain(data), "notes": tuple(data["notes"])})


_RECIPE = {
    **dict.fromkeys(("direction", "digest", "result"), str),
    "recipe": dict,
    "readings": Each(Number),
    "worst_of": [str],
    **dict.fromkeys(("failing", "confirmed"), bool),
}
_REPLAY = {
    **dict.fromkeys(("direction", "run_id", "check_id"), str),
    **dict.fromkeys(("promised", "same"), bool),
    "readings": Each({"then": Number, "now": Number, "same": bool}),
}
_BASELINE = {
    "status": Optional(str),
    "readings": Optional(Each({"then": Number, "allowed": str, "kind": str})),
    "changes": Optional([list]),
}
_PLANTED = {"fault": Optional(str), "calls": Optional(int), "fired": Optional(int)}
_RECORD = {
    **dict.fromkeys(("check_id", "nodeid"), str),
    "verdict": VERDICTS,
    "result": Maybe(dict),
    **dict.fromkeys(("message", "worker", "known"), Optional(str)),
    **dict.fromkeys(("gate", "resumed"), Optional(bool)),
    "examples": Optional(int),
    "limits": Optional(Each(str)),
    "stated": Optional(Each(Number)),
    "recipes": Optional([_RECIPE]),
    "replays": Optional([_REPLAY]),
    "baseline": Optional(_BASELINE),
    "planted": Optional(_PLANTED),
}
_RUN = {
    **dict.fromkeys(("run_id", "started", "command"), str),
    **dict.fromkeys(("settings", "environment"), dict),
    "notes": [str],
    "workers": Optional(Each(dict)),
}
