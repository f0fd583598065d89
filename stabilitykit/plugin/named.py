"""Directions by name, "v1": a baseline keeps their bits, and they are measured along again where the weights moved.

Otherwise a gate would compare two directions: singular vectors are those of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

from stabilitykit.plugin.held import HELD, names
from stabilitykit.plugin.options import SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from stabilitykit.measurements.base import Measurement
    from stabilitykit.plugin.testlog import TestLog
    from stabilitykit.results.result import Result

Kind = TypeVar("Kind", bound="Measurement[Any]")
_NAME = re.compile(r"-?v[1-9][0-9]*")


@dataclass(frozen=True, eq=False)
class Named:
    """A direction by the name it had, with the bits it had; it stands in for the name in a measurement."""

    name: str
    vector: Tensor
    kind: str = "recorded"

    def expand(self, basis: Tensor | None = None) -> Tensor:
        """Return the bits, (H,) float64."""
        return self.vector

    def __repr__(self) -> str:
        """Return the name, marked."""
        from stabilitykit.baselines.measured import AS_RECORDED

        return f"{self.name}{AS_RECORDED}"


def replayed(log: TestLog, name: str, measurement: Kind, subjects: Sequence[Any]) -> Kind:
    """Return the measurement along the vector that the baseline has under its direction's name.

    Of equal weights in one numeric environment the vector is the same, and the measurement is left as it is.
    """
    held, given = log.item.config.stash.get(HELD, None), getattr(measurement, "direction", None)
    # What replaces the baseline is of today's vector: of equal weights, no other will be looked for.
    if held is None or held.settings.update == "all" or len(subjects) != 1 or not _is_name(given):
        return measurement
    import torch

    from stabilitykit.baselines.measured import weights_and_setting
    from stabilitykit.subjects.environment import environment

    subject = subjects[0]
    weights, setting = weights_and_setting(environment(getattr(subject, "loaded", None)), subject.describe())
    for entry in held.of(names(log.item, log.check_id(name))):
        raw = entry.bits.get(entry.named.get(given, ""), b"")
        same = bool(weights) and entry.weights == weights
        if entry.setting.numeric == setting.numeric and not same and len(raw) == 8 * subject.x0.numel():
            vector = torch.frombuffer(bytearray(raw), dtype=torch.float64).clone()
            changed: Any = {"direction": Named(given, vector)}  # only some measurements have the field
            return replace(measurement, **changed)
    return measurement


def kept(log: TestLog, measurement: Measurement[Any], subjects: Sequence[Any], result: Result) -> Result:
    """Return the result with the bits of its named direction among the arrays, where a baseline may be written."""
    settings = log.item.config.stash[SETTINGS]
    given: Any = getattr(measurement, "direction", None)
    asked = len(subjects) == 1 and (settings.save or settings.baseline)
    if not asked or not (_is_name(given) or isinstance(given, Named)):
        return result
    from stabilitykit.baselines.measured import NAMED
    from stabilitykit.measurements.directions import resolve

    vector = resolve(cast("Any", given), subjects[0])[0][0].double().cpu().numpy()
    return replace(result, arrays={**result.arrays, NAMED: vector})


def _is_name(given: object) -> TypeGuard[str]:
    return isinstance(given, str) and _NAME.fullmatch(given) is not None
