"""How far can each block, branch and norm stretch a change, does the change meet that direction, and who rounds?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.chain_bound import ChainBound, chain_bound
from stabilitykit.measurements.directions import products_of, singular_vectors
from stabilitykit.measurements.part_rows import Row, attributed, refused, spectrum_row
from stabilitykit.measurements.parts import Course, Linear, Part, children, follow, inside, relative
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.submodule_profile import block_number, with_modules
from stabilitykit.numerics.spectrum import budget
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.branches import norm_bound
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.subject import Subject


@dataclass(frozen=True, eq=False)
class ModuleSpectrum(Measurement):
    """The largest singular value of each part's own Jacobian, at its own input for the last token of the prompt.

    The parts are the chosen `block`s, the final norm, and of `inside` blocks, spread evenly (None: all chosen ones),
    their residual branches and the norms on them; or the named `modules`. A branch is found by arithmetic: children of
    the block whose outputs add up to what it adds to its input, each followed back to the residual stream. Columns:

    * `sigma_1`, `residual_1` of J = d(output) / d(input), from products alone, to `tolerance` within `max_products`;
      `sigma_1_residual` of identity + J, what the branch makes of the stream; a norm's analytic `bound`, max |g| / rms;
    * `gain_observed` = |dh_out| / |dh_in| of the change that the subject's v_1, 1e-6 |x0| long, makes there in the
      true-float64 model, and `alignment` = |cos| of dh_in and the part's own v_1: does it meet the worst direction?
    * `share`, `size`, `removed`: the part's rounding in the error of the output (`attribution.Part`). The shares of the
      embedding, all blocks and the final norm add up to 1, to first order. `removed` needs `replace`.

    `chain_bound` is the product of sigma_1 over the embedding, all blocks and the final norm, and `looseness` that over
    the whole `sigma_1`; nan unless all blocks are measured and their products along v_1 are the subject's
    (`chain_defect`). What cannot be isolated is a row with verdict `unsupported` and the reason. All of it on the
    prefill path. Arrays: `sigma_1`, `gain_observed`, `alignment`, `share` (rows,), `parts`.

    UsageError for a block or module that does not exist, UnsupportedError for a subject without modules. Cost: about
    40 products of each part, a forward for each module, and 1 to 2 forwards for each part's share. Source: promised by
    the study's experiment 5, which has only the whole model's Jacobian.
    """

    block: int | Literal["all"] = "all"
    modules: tuple[str, ...] = ()
    inside: int | None = None
    replace: bool = True
    tolerance: float = 1e-3
    max_products: int = budget(1)

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("sigma_1", "output/input", "lower", "largest singular value of the whole subject"),
        Metric("sigma_1_block", "output/input", "lower", "largest singular value of a block"),
        Metric(
            "sigma_1_branch", "output/input", "lower", "largest singular value of a residual branch, its norm included"
        ),
        Metric("sigma_1_part", "output/input", "lower", "largest singular value of a named module"),
        Metric("norm_ratio", "", "lower", "largest singular value of a norm over its analytic bound; at most 1"),
        Metric("chain_bound", "output/input", "lower", "product of the largest singular values along the chain"),
        Metric("looseness", "", "neither", "chain bound over the whole subject's largest singular value"),
        Metric("chain_defect", "", "lower", "relative distance of the chain's product along v_1 from the subject's"),
        Metric("alignment", "", "neither", "median |cos| of the change entering a block and the block's own v_1"),
        Metric("gain_over_sigma", "", "lower", "largest observed gain of a part over its sigma_1; at most 1"),
        Metric("top_share", "share", "lower", "largest share of one block or module in the output's rounding error"),
        Metric("remainder", "share", "neither", "share of the rounding error that no measured part accounts for"),
        Metric("top_removed", "share", "neither", "largest share of the error that goes with one part's rounding"),
        Metric("forward_error", "", "lower", "|y - y64| / |y64|, the error that is shared out"),
        Metric("parts", "parts", "neither", "parts with a singular value"),
        Metric("unsupported", "parts", "neither", "parts that could not be isolated"),
    )
    causes: ClassVar[tuple[str, ...]] = (
        "a norm with large gains after a small residual",
        "a module that rounds in a narrower dtype than the rest",
        "weights that changed: compare the model digest",
    )

    def __post_init__(self) -> None:
        """Refuse parameters that name no part."""
        if self.block != "all" and (isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 0):
            raise UsageError(f"block={self.block!r} is neither a block's number, from 0, nor 'all'")
        if isinstance(self.modules, str):
            raise UsageError(f"modules={self.modules!r} is one name; give a tuple of names")
        if self.modules and self.block != "all":
            raise UsageError("a spectrum is of blocks or of modules; give block or modules, not both")
        if self.inside is not None and (not isinstance(self.inside, int) or self.inside < 0):
            raise UsageError(f"inside={self.inside!r} is no count of blocks; give 0 or more, or None for all")
        if not self.tolerance > 0:
            raise UsageError(f"tolerance={self.tolerance!r} is never met; give a positive number")
        if self.max_products < 9:
            raise UsageError(f"max_products={self.max_products} cannot give a singular value; allow at least 9")

    def cost(self, subject: Subject) -> Cost:
        """Upper bound of whole forwards, and of products of the whole as backwards; those of its parts are none."""
        asked = with_modules(subject)
        forwards = 3 * (len(self._names(asked)) + 1) + 3 * subject.batch + 12
        return Cost(forwards=forwards, backwards=products_of("v1", subject) + 2 * self.max_products)

    def find(self, subject: Subject) -> Finding:
        """List the parts, take the spectrum of each, follow v_1 through them, and share the rounding out."""
        asked = with_modules(subject)
        v1 = singular_vectors(subject, 1)[0]
        twin, why = _twin(asked)
        course = follow(twin, v1, self._names(asked)) if twin else None
        parts, closed = self._parts(asked, twin, course)
        rows, linear = [], Linear(asked, sorted({name for part in parts for name in part.modules}))
        with bar(len(parts), "module spectrum", "part") as progress:
            for part in parts:
                rows.append(spectrum_row(part, linear, course, self.tolerance, self.max_products))
                progress.update()
        sigmas = {row["module"]: row["sigma_1"] for row in rows if not math.isnan(row["sigma_1"])}
        chain = chain_bound(asked, linear, sigmas, v1)
        rows, error, remainder = attributed(asked, twin, parts, rows, self.replace)
        everything = [*rows, *closed]
        return Finding(
            values=_readings(self.metrics, everything, chain) | {"forward_error": error, "remainder": remainder},
            sentence=_sentence(everything, chain),
            rows=tuple(everything),
            arrays={
                **{
                    name: np.array([row[name] for row in rows])
                    for name in ("sigma_1", "gain_observed", "alignment", "share")
                },
                "parts": np.array([row["module"] for row in rows]),
            },
            about={"oracle": why or "true float64", **({"chain": chain.why} if chain.why else {})},
        )

    def _names(self, subject: CausalLMSubject) -> list[str]:
        """Return every module whose states are needed; UsageError for one that does not exist."""
        if self.modules:
            known = dict(subject.model.named_modules())
            if unknown := [name for name in self.modules if name not in known]:
                raise UsageError(f"the model has no module {unknown[0]!r}; see model.named_modules()")
            return list(self.modules)
        blocks = block_number(self.block, subject.depth)
        opened = [name for block in self._opened(subject) for name in children(subject, block)]
        names = [subject.anatomy.block_names[block] for block in blocks]
        return [*names, *opened, subject.anatomy.final_norm_name]

    def _opened(self, subject: CausalLMSubject) -> list[int]:
        """Return the blocks that are taken apart."""
        blocks = block_number(self.block, subject.depth)
        count = len(blocks) if self.inside is None else min(self.inside, len(blocks))
        return [blocks[round(place)] for place in np.linspace(0, len(blocks) - 1, count)]

    def _parts(
        self, subject: CausalLMSubject, twin: CausalLMSubject | None, course: Course | None
    ) -> tuple[list[Part], list[Row]]:
        """Return the parts to measure, and a row for each block that cannot be taken apart."""
        if self.modules:
            return [_named(subject, name, twin, course) for name in self.modules], []
        anatomy = subject.anatomy
        found, closed = [], []
        for block in block_number(self.block, subject.depth):
            found.append(Part("block", (anatomy.block_names[block],), "", block))
            if block not in self._opened(subject):
                continue
            parts = inside(twin, course, block) if twin and course else "there is no true float64 to find them in"
            if isinstance(parts, str):
                closed.append(refused(Part("branches", (anatomy.block_names[block],), "", block), parts))
            else:
                found += parts
        last = Part("final_norm", (anatomy.final_norm_name,), anatomy.final_norm_name)
        return [*found, _bounded(last, twin, course)], closed


def _twin(subject: CausalLMSubject) -> tuple[CausalLMSubject | None, str]:
    try:
        return subject.in_float64(), ""
    except UnsupportedError as error:
        return None, str(error)


def _named(subject: CausalLMSubject, name: str, twin: CausalLMSubject | None, course: Course | None) -> Part:
    """Return a module that was asked for by name."""
    stems = subject.anatomy.block_names
    block = next((k for k, stem in enumerate(stems) if name == stem or name.startswith(f"{stem}.")), None)
    label = name if block is None else relative(name, stems[block])
    return _bounded(Part("module", (name,), label, block), twin, course)


def _bounded(part: Part, twin: CausalLMSubject | None, course: Course | None) -> Part:
    """Return a part of one module with the analytic bound, if it is a norm."""
    name = part.modules[0]
    if twin is None or course is None or not course.knows(name):
        return part
    call = course.still[name]
    bound = norm_bound(twin.model.get_submodule(name), call.entered[-1], call.left[-1])
    return Part(part.kind, part.modules, part.label, part.block, part.scale, bound)


def _readings(metrics: Sequence[Metric], rows: Sequence[Row], chain: ChainBound) -> dict[str, float | Reading]:
    schema = {metric.name: metric for metric in metrics}
    ratios = [
        {**row, "norm_ratio": row["sigma_1"] / row["bound"], "gain_over_sigma": row["gain_observed"] / row["sigma_1"]}
        for row in rows
        if row["sigma_1"]
    ]
    blocks = [row["alignment"] for row in rows if row["part"] == "block" and not math.isnan(row["alignment"])]
    found: dict[str, float | Reading] = {
        "sigma_1_block": _largest(schema["sigma_1_block"], rows, "sigma_1", ("block",)),
        "sigma_1_branch": _largest(schema["sigma_1_branch"], rows, "sigma_1", ("branch",)),
        "sigma_1_part": _largest(schema["sigma_1_part"], rows, "sigma_1", ("module",)),
        "norm_ratio": _largest(schema["norm_ratio"], ratios, "norm_ratio"),
        "gain_over_sigma": _largest(schema["gain_over_sigma"], ratios, "gain_over_sigma"),
        "top_share": _largest(schema["top_share"], rows, "share", ("embed", "block", "final_norm", "module")),
        "top_removed": _largest(schema["top_removed"], rows, "removed"),
    }
    return found | {
        "sigma_1": chain.sigma,
        "chain_bound": chain.bound,
        "looseness": chain.looseness,
        "chain_defect": chain.defect,
        "alignment": float(np.median(blocks)) if blocks else math.nan,
        "parts": sum(not math.isnan(row["sigma_1"]) for row in rows),
        "unsupported": sum(row["verdict"] == "unsupported" for row in rows),
    }


def _largest(metric: Metric, rows: Sequence[Mapping[str, Any]], column: str, kinds: tuple[str, ...] = ()) -> Reading:
    """Return the largest value of a column over the rows of some kinds, with the module it belongs to."""
    known = [row for row in rows if (not kinds or row["part"] in kinds) and not math.isnan(row[column])]
    top = max(known, key=lambda row: row[column], default=None)
    if top is None:
        return Reading(metric, math.nan)
    block = {} if top["block"] is None else {"block": str(top["block"])}
    return Reading(metric, top[column], place={"module": top["module"], "label": top["label"], **block})


def _sentence(rows: Sequence[Row], chain: ChainBound) -> str:
    blocks = [row for row in rows if row["part"] == "block" and not math.isnan(row["sigma_1"])]
    told = f"The whole model stretches a change at most {chain.sigma:.4g} times"
    if blocks:
        top = max(blocks, key=lambda row: row["sigma_1"])
        told += f", its block {top['block']} alone {top['sigma_1']:.4g} times"
    if not math.isnan(chain.bound):
        told += f"; the product over its parts, {chain.bound:.3g}, is {chain.looseness:.3g} times too large"
    shared = [row for row in rows if row["part"] in ("block", "module") and not math.isnan(row["share"])]
    if not shared:
        return f"{told}."
    most = max(shared, key=lambda row: row["share"])
    return (
        f"{told}. The largest share of the output's rounding error, {most['share']:.3g}, is that of {most['module']}."
    )
