"""One numeric environment for a whole sweep: bits of two cannot stand in one table unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stabilitykit.errors import IncomparableError
from stabilitykit.subjects.environment import identity_fields
from stabilitykit.sweeps.plan import Unit, Weights


@dataclass
class Setting:
    """The numeric environment of a sweep: the first one that is met, which all others must have too.

    What belongs to a model must be alike for all units of the model in one dtype, what belongs to the machine for all.
    With `mixed` nothing is refused.
    """

    mixed: bool = False
    _machine: tuple[Unit, Mapping[str, Any]] | None = None
    _models: dict[Weights, tuple[Unit, Mapping[str, Any]]] = field(default_factory=dict)

    def admit(self, unit: Unit, environment: Mapping[str, Any], *, now: bool = False) -> None:
        """Raise IncomparableError for the first field in which a unit's environment is not the others'.

        `now`: the unit is about to be measured.
        """
        self._machine = self._machine or (unit, environment)
        same = self._models.setdefault(unit.weights, (unit, environment))
        for (other, then), names in ((same, identity_fields()), (self._machine, identity_fields(of_models=False))):
            for name in names:
                if then.get(name) != environment.get(name) and not self.mixed:
                    is_of = "would be" if now else "was"
                    raise IncomparableError(
                        f"unit {unit.id} {is_of} measured with {name} {environment.get(name)}, and {other.id} was with "
                        f"{then.get(name)}: their bits are of different numeric environments; measure all in one, or "
                        "allow both with mixed"
                    )
