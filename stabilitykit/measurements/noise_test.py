"""How often does noise in the input, from one rounding to plain damage, change what the model says next?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.noise_models import SETS, Perturbation
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.responses import Reader, Responses, angle, change_of_token, distinct
from stabilitykit.measurements.smooth import ratio
from stabilitykit.numerics.statistics import rate_bound, wilson
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.noise import BATCHES
from stabilitykit.subjects.subject import Subject

_METRICS = (
    Metric("flip_rate", "share", "lower", "share of draws that change the top token, of the worst kind of noise"),
    Metric("flip_rate_bound", "share", "lower", "upper bound of such a rate at 95 % confidence, the largest"),
    Metric("flips", "draws", "lower", "draws that change the top token, of all kinds"),
    Metric("draws", "draws", "neither", "draws made, of all kinds"),
    Metric("smallest_flip", "|x0|", "higher", "shortest input change that flips; infinite if none does"),
    Metric("median_amplification", "output/input", "lower", "median output over input change, of the worst kind"),
    Metric("jump_over_noise", "", "neither", "median output change over the noise floor, of the worst kind"),
    Metric("max_logit_change", "logits", "lower", "largest change of any logit"),
    Metric("margin", "logits", "higher", "logit of the top token over the runner-up's, undisturbed"),
)
_SCHEMA = {metric.name: metric for metric in _METRICS}


@dataclass(frozen=True, eq=False)
class NoiseTest(Measurement):
    """Disturb the input by each kind of noise, and compare output, logits and the top token with the undisturbed ones.

    `kinds`: UlpNoise, Uniform, Gaussian, RoundTrip, DtypeRoundTrip, Constant, Coordinate, or a Perturbation of yours;
    or the name of a set: "sizes" (from one rounding to a tenth of the input), and the study's "round trips" and
    "added". Each draws from its own PCG64 stream, made on the CPU; a kind without chance is run once. The last token's
    embedding moves, or the whole prompt on a subject made with rows="all" (`spare_special`: but for special tokens).

    Rows of part "draw": `relative_l2` = |x - x0| / |x0|, `output_l2`, `output_angle` (rad), `amplification` =
    |dy| / |dx|, the same of the state before the last norm, distances of the logits (`kl` in nats), and top token,
    probability and margin before and after. Rows of part "kind": flips of draws with rate, 95 % Wilson interval and
    one-sided exact bound (of a kind without chance all three are the rate, 0 or 1), medians, smallest flip.

    Of a FunctionSubject the output is read as logits; a part of a model has none (UnsupportedError). Equal inputs are
    run once; the undisturbed input runs among the others and must keep its bits, else InvalidError. Array `token_l2`
    (draws, tokens) for rows="all". Cost: a forward a distinct input, with the head. Source: the study's perturbation
    tests.
    """

    kinds: Sequence[Perturbation] | str = "sizes"
    draws: int = 16
    spare_special: bool = False
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = _METRICS
    causes: ClassVar[tuple[str, ...]] = (
        "a prompt whose two best tokens are nearly tied: compare the margin",
        "noise that is large beside the input: compare relative_l2",
        "a dtype or kernel that rounds more: compare jump_over_noise",
    )

    def __post_init__(self) -> None:
        """Refuse what draws nothing."""
        if isinstance(self.kinds, str) and self.kinds not in SETS:
            raise UsageError(f"kinds {self.kinds!r} is not one of {', '.join(SETS)}, nor a list such as [UlpNoise(1)]")
        if not self._kinds:
            raise UsageError("kinds is empty; give at least one, such as UlpNoise(1)")
        for kind in self._kinds:
            if not isinstance(kind, Perturbation):
                raise UsageError(f"{kind!r} is no kind of noise; give one such as UlpNoise(1) or Gaussian(0.01)")
        if len({kind.label for kind in self._kinds}) < len(self._kinds):
            raise UsageError(f"kinds name one noise twice: {', '.join(kind.label for kind in self._kinds)}")
        if not isinstance(self.draws, int) or self.draws < 1:
            raise UsageError(f"draws={self.draws!r} draws nothing; give at least 1")

    def cost(self, subject: Subject) -> Cost:
        """Expected rows: the baseline, every draw, the undisturbed input, and the noise floor."""
        rows = 1 + sum(self._count(kind) for kind in self._kinds)
        batches = 1 + math.ceil(rows / subject.batch)
        return Cost(forwards=(batches + 3) * subject.batch + sum(BATCHES) + 1)

    def find(self, subject: Subject) -> Finding:
        """Run every distinct input once and compare it with the baseline of its slot."""
        plans = [(kind, X) for number, kind in enumerate(self._kinds) for X in [self._inputs(kind, number, subject)]]
        inputs, which = distinct(torch.cat([subject.x0.cpu()[None], *(X for _, X in plans)]))
        answers = _answers(subject, inputs)
        labels = [(kind, draw) for kind, X in plans for draw in range(len(X))]
        draws = [
            {"part": "draw", "noise": kind.label, "draw": draw, "input": n, **answers[n]}
            for (kind, draw), n in zip(labels, which[1:], strict=True)
        ]
        floor = subject.noise_floor()
        kinds = [_summary(kind, draws, floor.l2) for kind in self._kinds]
        return Finding(
            _readings(kinds, draws),
            _sentence(kinds, draws),
            rows=(*kinds, *draws),
            arrays=self._arrays(subject, inputs[which[1:]]),
            noise=floor.sentence,
        )

    @property
    def _kinds(self) -> Sequence[Perturbation]:
        return SETS[self.kinds] if isinstance(self.kinds, str) else self.kinds

    def _count(self, kind: Perturbation) -> int:
        return self.draws if kind.drawn else 1

    def _inputs(self, kind: Perturbation, number: int, subject: Subject) -> Tensor:
        """Return the disturbed inputs (n, H) of one kind; special tokens keep theirs if they are spared."""
        random = np.random.Generator(np.random.PCG64((self.seed, number)))
        x0 = subject.x0.cpu()
        X = torch.stack([kind.apply(x0, random) for _ in range(self._count(kind))])
        if not self.spare_special:
            return X
        spared = _special(subject)
        if bool(spared.all()):
            raise UsageError(f"{subject.name}: every token that moves is special; drop spare_special or use rows='all'")
        return torch.where(spared, x0, X)

    def _arrays(self, subject: Subject, X: Tensor) -> dict[str, NDArray[Any]]:
        """Return how far each token's embedding moved in each draw."""
        if getattr(subject, "rows", "last") != "all":
            return {}
        moved = (X.double() - subject.x0.cpu().double()).view(len(X), len(subject.ids), -1)  # type: ignore[attr-defined]
        return {"token_l2": moved.norm(dim=2).numpy()}


def _special(subject: Subject) -> Tensor:
    """Return which coordinates of the input belong to special tokens, (H,)."""
    tokenizer, ids = getattr(getattr(subject, "loaded", None), "tokenizer", None), list(getattr(subject, "ids", []))
    if tokenizer is None or not ids:
        raise UsageError(f"{subject.name} has no tokenizer to say which tokens are special; drop spare_special")
    special = set(tokenizer.all_special_ids)
    moving = ids if getattr(subject, "rows", "last") == "all" else ids[-1:]
    marks = torch.tensor([token in special for token in moving])
    return marks.repeat_interleave(subject.x0.numel() // len(moving))


def _answers(subject: Subject, inputs: Tensor) -> list[dict[str, Any]]:
    """Return what each distinct input does, the undisturbed first."""
    reader = Reader(subject, ("pre_norm",))
    if reader.baseline.logits is None and "model_digest" in subject.describe():
        raise UnsupportedError(
            f"{subject.name} is a part of a model and has no logits; disturb the whole model instead"
        )
    x0 = subject.x0.cpu().double()
    answers: list[dict[str, Any]] = []
    with bar(len(inputs), "noise", "input") as progress:
        for found in reader(inputs):
            for slot in range(len(found.outputs)):
                moved = float((inputs[len(answers)].double() - x0).norm())
                if not answers:
                    reader.require_unchanged(found, slot)
                answers.append(_answer(reader, found, slot, moved, float(x0.norm())))
            progress.update(len(found.outputs))
    return answers


def _answer(reader: Reader, found: Responses, slot: int, moved: float, length: float) -> dict[str, Any]:
    baseline = reader.baseline
    y0, y = baseline.outputs[slot].double(), found.outputs[slot].double()
    row = {"input_l2": moved, "relative_l2": ratio(moved, length), "output_l2": float((y - y0).norm())}
    row |= {"output_angle": angle(y0, y), "amplification": ratio(row["output_l2"], moved) if moved else math.nan}
    for site, state in found.states.items():
        before = baseline.states[site][slot].double()
        row[f"{site}_l2"] = float((state[slot].double() - before).norm())
        row[f"{site}_angle"] = angle(before, state[slot])
    before, after = (part.outputs if part.logits is None else part.logits for part in (baseline, found))
    return {**row, **change_of_token(before[slot], after[slot], reader.subject), "slot": slot}


def _summary(kind: Perturbation, draws: Sequence[Mapping[str, Any]], floor: float) -> dict[str, Any]:
    """Return the row of one kind of noise."""
    own = [row for row in draws if row["noise"] == kind.label]
    flips = [row for row in own if row["token_changed"]]
    rate = len(flips) / len(own)
    low, high = wilson(len(flips), len(own)) if kind.drawn else (rate, rate)
    amplified = [row["amplification"] for row in own if not math.isnan(row["amplification"])]
    jump = float(np.median([row["output_l2"] for row in own]))
    return {
        "part": "kind",
        "noise": kind.label,
        "draws": len(own),
        "n_distinct": len({row["input"] for row in own}),
        "flips": len(flips),
        "flip_rate": rate,
        "low": low,
        "high": high,
        "flip_rate_bound": rate_bound(len(flips), len(own)) if kind.drawn else rate,
        "median_relative_l2": float(np.median([row["relative_l2"] for row in own])),
        "median_amplification": float(np.median(amplified)) if amplified else math.nan,
        "median_output_l2": jump,
        "jump_over_noise": ratio(jump, floor),
        "smallest_flip": min((row["relative_l2"] for row in flips), default=math.inf),
    }


def _readings(kinds: Sequence[Mapping[str, Any]], draws: Sequence[Mapping[str, Any]]) -> dict[str, float | Reading]:
    def placed(name: str, row: Mapping[str, Any], **interval: float) -> Reading:
        return Reading(_SCHEMA[name], row[name], place={"noise": row["noise"]}, **interval)

    def worst(name: str, sign: int = 1) -> Mapping[str, Any]:
        known = [row for row in kinds if not math.isnan(row[name])]
        return max(known or kinds, key=lambda row: sign * row[name])

    rate = max(kinds, key=lambda row: (row["flip_rate"], row["high"]))
    return {
        "flip_rate": placed("flip_rate", rate, low=rate["low"], high=rate["high"]),
        "flips": sum(row["flips"] for row in kinds),
        "draws": len(draws),
        "max_logit_change": max(row["logit_max_abs"] for row in draws),
        "margin": draws[0]["margin_before"],
        **{name: placed(name, worst(name)) for name in ("flip_rate_bound", "median_amplification", "jump_over_noise")},
        "smallest_flip": placed("smallest_flip", worst("smallest_flip", -1)),
    }


def _sentence(kinds: Sequence[Mapping[str, Any]], draws: Sequence[Mapping[str, Any]]) -> str:
    flips = sum(row["flips"] for row in kinds)
    if not flips:
        widest = max(row["relative_l2"] for row in draws)
        return (
            f"None of {len(draws)} draws of {len(kinds)} kinds of noise, up to {widest:.3g} of the input, changed the "
            "top token."
        )
    least = min((row for row in kinds if row["flips"]), key=lambda row: row["smallest_flip"])
    return (
        f"Noise changed the top token in {flips} of {len(draws)} draws; the smallest that did was {least['noise']}, "
        f"{least['smallest_flip']:.3g} of the input, with {least['flips']} of {least['draws']} draws."
    )
