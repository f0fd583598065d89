"""The float64 twin of a causal subject: the same weights and embeddings, and no rounding that float64 can avoid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stabilitykit.subjects import experts
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.precision import double_of, require_smooth, true_float64
from stabilitykit.subjects.sites import locate

if TYPE_CHECKING:
    from stabilitykit.subjects.causal_lm import CausalLMSubject


def of(subject: CausalLMSubject) -> CausalLMSubject:
    """Return the subject on a float64 copy of its model under `true_float64`, once it has passed its self-test.

    It reads the subject's own embeddings, widened: some models scale them by a factor that depends on the dtype. Made
    once and kept with the subject, since several measurements ask for the same.
    """
    key = ("in float64", subject.batch)
    if key not in subject._relatives:
        subject._relatives[key] = _made(subject)
    return subject._relatives[key]


def _made(subject: CausalLMSubject) -> CausalLMSubject:
    implementation = "eager" if subject.has_experts else None  # the grouped matmul refuses float64
    model = double_of(subject.model)
    with true_float64(), experts.using(model, implementation):
        anatomy = find(model)
    twin = subject.copied(experts=implementation)
    twin.loaded = replace(subject.loaded, model=model)
    twin.model, twin.anatomy, twin.arithmetic = model, anatomy, true_float64
    twin.x0, twin._before = subject.x0.double(), subject._before.double()
    twin._tap = locate(subject.site, anatomy, model)
    twin.name = f"{subject.name} in float64"
    require_smooth(twin)
    return twin
