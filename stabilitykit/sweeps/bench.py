"""Where units are measured: one model and one subject at a time, held as long as units ask for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from stabilitykit.errors import IncomparableError, InvalidError, TimedOutError, UnsupportedError
from stabilitykit.measurements.base import Cost
from stabilitykit.measurements.directions import singular_vectors
from stabilitykit.results.record import Record
from stabilitykit.strategies.recipe import gaussians
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.environment import environment
from stabilitykit.sweeps.plan import Plan, Unit, Weights, load, weights_of

if TYPE_CHECKING:
    from stabilitykit.results.result import Result
    from stabilitykit.subjects.models import LoadedModel


class Bench:
    """A device on which the units of a plan are measured; nothing is loaded before the first."""

    def __init__(self, plan: Plan, device: str = "cpu") -> None:
        self.plan = plan
        self.device = device
        held = plan.held and plan.held[0] == device and (plan.weights[0], plan.held[1])
        self._model: tuple[Weights, LoadedModel] | None = held or None
        self._subject: tuple[Weights, str, CausalLMSubject] | None = None

    def environment(self, unit: Unit) -> Mapping[str, Any]:
        """Return what a unit would be measured in."""
        return environment(self.loaded(unit))

    def loaded(self, unit: Unit) -> LoadedModel:
        """Return the unit's model; IncomparableError where its weights are not those that the sweep was planned on."""
        if self._model is None or self._model[0] != unit.weights:
            self._model = self._subject = None  # the next one may need the memory
            found = load(self.plan.sweep, unit.weights.model, unit.weights.dtype, self.device)
            if weights_of(found) != unit.weights:
                raise IncomparableError(
                    f"{unit.weights.model} has the weights {found.digest[:12]} here, and the sweep was planned on "
                    f"{unit.weights.digest[:12]}; measure all parts on the same weights"
                )
            self._model = (unit.weights, found)
        return self._model[1]

    def subject(self, unit: Unit) -> CausalLMSubject:
        """Return the unit's subject."""
        if self._subject is None or self._subject[:2] != (unit.weights, unit.prompt):
            sweep = self.plan.sweep
            how: dict[str, Any] = {"site": sweep.site, "path": sweep.path, "batch": sweep.batch}
            self._subject = (unit.weights, unit.prompt, CausalLMSubject(self.loaded(unit), unit.prompt, **how))
        return self._subject[2]

    def measure(self, unit: Unit) -> Record:
        """Measure a unit; where it has no answer, the record says why in a sentence and the sweep goes on."""
        question = self.plan.sweep.measurement()
        try:
            subject = self.subject(unit)
            result = self.plan.sweep.measurement(self._members(unit, subject)).measure(subject)
        except TimedOutError:
            raise  # another hour it may answer
        except (InvalidError, UnsupportedError) as error:
            return Record(question.check_id(), unit.id, error.verdict, message=str(error))
        return Record(question.check_id(), unit.id, result.verdict, _lean(unit, result))

    def _members(self, unit: Unit, subject: CausalLMSubject) -> Any:
        if unit.family is None:
            return None
        return unit.family.members(
            unit.start, unit.stop, self.plan.sweep.seed, subject, partial(singular_vectors, subject)
        )


def cost_of(plan: Plan, units: Sequence[Unit], device: str) -> Cost:
    """Return what the measurements of these units state, asked of each model's first subject; none of them is run."""
    bench, total = Bench(plan, device), Cost()
    for weights in dict.fromkeys(unit.weights for unit in units):
        of_model = [unit for unit in units if unit.weights == weights]
        subject = bench.subject(of_model[0])
        for size, times in Counter(unit.stop - unit.start for unit in of_model).items():
            # Directions of the subject's own would have to be computed first, and only their number matters.
            some = gaussians(size, len(subject.x0)) if size else None
            total += plan.sweep.measurement(some).cost(subject) * times
    return total


def _lean(unit: Unit, result: Result) -> Result:
    """Leave out directions that their rows name exactly: they would be most of a unit's file."""
    if unit.family is None or not unit.family.exact:
        return result
    return replace(result, arrays={name: array for name, array in result.arrays.items() if name != "directions"})
