"""From what is asked to a list of units that any machine can measure: the same list, with the same ids, everywhere."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import stabilitykit
from stabilitykit.errors import IncomparableError, UnreadableError, UsageError
from stabilitykit.results.atomic import atomic_write
from stabilitykit.results.plain import to_plain
from stabilitykit.sweeps.asked import Sweep
from stabilitykit.sweeps.family import Family

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

NAME = "plan.json"
_SHARD = re.compile(r"([0-9]+)/([1-9][0-9]*)")


class Weights(NamedTuple):
    """A model in a dtype, as it was when the sweep was planned."""

    model: str
    dtype: str
    digest: str
    hidden_size: int


@dataclass(frozen=True)
class Unit:
    """The smallest piece: one question of one subject along a slice of directions, always measured as a whole.

    Its slots, and so its bits, are its own: they do not depend on what else is measured, where, or in which order.
    `id` is a digest of all that decides what is measured; `number` its place in the plan.
    """

    number: int
    id: str
    weights: Weights
    prompt: str
    family: Family | None = None
    start: int = 0
    stop: int = 0

    @property
    def directions(self) -> str:
        """The slice as one would say it, empty where the question has its own directions."""
        return f"{self.family} {self.start + 1}-{self.stop}" if self.family else ""


@dataclass(frozen=True)
class Plan:
    """What is asked, and the weights that it is asked of.

    `held` is the model that was loaded to make the plan, and on which device: whoever measures there need not again.
    """

    sweep: Sweep
    weights: tuple[Weights, ...]
    held: tuple[str, LoadedModel] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """All units, in the order of models, dtypes, prompts, families and directions."""
        slices = ((w, p, *s) for w in self.weights for p in self.sweep.prompts for s in self._slices(w.hidden_size))
        return tuple(
            Unit(number, self._id(weights, prompt, *which), weights, prompt, *which)
            for number, (weights, prompt, *which) in enumerate(slices)
        )

    def shard(self, text: str) -> tuple[Unit, ...]:
        """Return the units of part `i/N`, parts counted from 1; UsageError for what is no part.

        A part is a run of neighbours: each subject costs its own proofs and noise floor wherever it is measured.
        """
        (number, parts), count = part(text), len(self.units)
        return self.units[(number - 1) * count // parts : number * count // parts]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-plain data; equal for plans with equal units."""
        version = {"stabilitykit": stabilitykit.__version__}
        return {**version, **self.sweep.to_dict(), "weights": [one._asdict() for one in self.weights]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str) -> Plan:
        """Rebuild a plan; IncomparableError, with the name of where it is from, for one of another version."""
        if data["stabilitykit"] != stabilitykit.__version__:
            raise IncomparableError(
                f"{name} was planned by stabilitykit {data['stabilitykit']}, this is {stabilitykit.__version__}: its "
                "units are others; go on with that version, or begin another folder"
            )
        asked = {name: value for name, value in data.items() if name not in ("stabilitykit", "weights")}
        return cls(Sweep.from_dict(asked), tuple(Weights(**one) for one in data["weights"]))

    def _slices(self, hidden_size: int) -> Iterator[tuple[Any, ...]]:
        if not self.sweep.families:
            yield ()
        for family in self.sweep.families:
            size, step = family.size(hidden_size), self.sweep.unit
            yield from ((family, start, min(start + step, size)) for start in range(0, size, step))

    def _id(self, weights: Weights, prompt: str, *which: Any) -> str:
        """Return the digest of all that decides a unit's bits, but for the machine: 32 hexadecimal digits.

        Of directions it has the integers that they are built of, or that they are this subject's own.
        """
        sweep = self.sweep
        along = which[0].identity(*which[1:], sweep.seed) if which else None
        identity = {
            "stabilitykit": stabilitykit.__version__,
            "question": [type(sweep.measurement()).__name__, sweep.measurement().parameters()],
            "weights": [weights.digest, weights.dtype, sweep.attention, sweep.experts, dict(sweep.load_args)],
            "subject": [prompt, sweep.path, sweep.batch, sweep.site],
            "directions": along,
        }
        text = json.dumps(to_plain(identity), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def part(text: str) -> tuple[int, int]:
    """Read `i/N`; UsageError for what is none."""
    match = _SHARD.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"shard {text!r} is no part i/N with i from 1 to N, such as 3/16")
    return int(match[1]), int(match[2])


def plan(sweep: Sweep, folder: str | Path | None = None, *, device: str | None = "cpu") -> Plan:
    """Return the plan of a sweep: that of the folder if it has one, else made and written there.

    Without a folder nothing is written. To make one, each model is loaded once in each dtype, for the digest of its
    weights; the only one stays on the device, ready to be measured there, or is let go for None.

    UsageError where the folder's plan is of another sweep, IncomparableError where it is of another version.
    """
    path = None if folder is None else Path(folder) / NAME
    if path is not None and path.exists():
        found = read_plan(path.parent)
        _refuse_other(path, found.sweep.to_dict(), sweep.to_dict())
        return found
    made = _made(sweep, device)
    if path is not None:
        write_plan(made, path.parent)
    return made


def _made(sweep: Sweep, device: str | None) -> Plan:
    """Load each model in each dtype, one at a time; the only one is held."""
    weights, loaded = [], None
    for model, dtype in product(sweep.models, sweep.dtypes):
        loaded = None  # the next one may need the memory
        loaded = load(sweep, model, dtype, device or "cpu")
        weights.append(weights_of(loaded))
    made = Plan(sweep, tuple(weights), (device, loaded) if device and loaded and len(weights) == 1 else None)
    made.units  # noqa: B018 - directions that do not exist are refused before the plan is written
    return made


def write_plan(made: Plan, folder: Path) -> None:
    """Write the plan into a folder; where another process was first, it must be the same plan."""
    path = folder / NAME
    if path.exists():
        _refuse_other(path, read_plan(folder).to_dict(), made.to_dict())
        return
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(made.to_dict(), indent=1, sort_keys=True) + "\n")


def read_plan(folder: str | Path) -> Plan:
    """Return the plan in a folder; UnreadableError without one, IncomparableError for one of another version."""
    path = Path(folder) / NAME
    try:
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, KeyError, TypeError):
        raise UnreadableError(
            f"{path} is no plan of a sweep; name the folder that a sweep was told with --out"
        ) from None


def load(sweep: Sweep, model: str, dtype: str, device: str) -> LoadedModel:
    """Load a model as the sweep asks for it."""
    from stabilitykit.subjects import models

    chosen: dict[str, Any] = {name: getattr(sweep, name) for name in ("attention", "experts", "load_args")}
    return models.load(model, dtype=dtype, device=device, **chosen)


def weights_of(loaded: LoadedModel) -> Weights:
    """Return what a plan says of a model."""
    from stabilitykit.numerics.bits import name_of
    from stabilitykit.subjects.anatomy import find

    return Weights(loaded.spec, name_of(loaded.model.dtype), loaded.digest, find(loaded.model).hidden_size)


def _refuse_other(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            raise UsageError(
                f"{path} is of a sweep with {name} {_short(then.get(name))}, this one has {_short(now.get(name))}; "
                "ask as that one did, or name another folder"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:56]} ..."
