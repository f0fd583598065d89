"""Why do a few tokens have a norm hundreds of times that of the others, and do the weights say so?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.defect_coordinates import coordinate_rows, shared
from stabilitykit.measurements.down_projections import listening, projection_row
from stabilitykit.measurements.high_norms import HighNorms, Prompt, check_prompts, high_norms, read
from stabilitykit.measurements.layer_directions import layer_row
from stabilitykit.measurements.pathways import WAYS, pathway_rows, right_vectors, rows_run, trained_ids
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.projected_out import projected_values
from stabilitykit.numerics.statistics import wilson
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.prompt import token_ids
from stabilitykit.subjects.residual_block import ResidualBlocks

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class SingularDefects(Measurement[LoadedModel]):
    """The tokens whose residual stream explodes, their common direction u, and the blocks whose weights foretell it.

    A vector x_l (behind the embedding or a block, before the final norm) is long if |x_l| > `tau`, by default the
    geometric mean of the two norms with the widest gap in the upper half of all. u is the mean of the long vectors.
    Each block is L = (I + F)(I + A): attention to itself alone, A = O V diag(g1), and the linear map nearest to its
    gated units on Gaussian inputs, F = D M diag(g2), in closed form; both norms do not divide. Where tokens explode or
    decay the first left singular vector of L is u, to a few degrees (`angle`). u'(A + F)u (`rayleigh`) is negative
    where they decay. The literal claim is about an eigenvalue of L - I, which is too ill-conditioned to read a sign
    from; `eigenpairs` adds it for blocks with a role, with its condition number.

    At the largest explosion, v_1 is the first right singular vector of F, and v_1..v_H go through the real layer. The
    prompts run once more with v_1 projected out of what that layer reads, and with v_2 as a control. `tokens`
    sampled tokens are run up to there in four ways (see `pathways`), behind `lead` for the second position.
    `mode="normed"` linearises at the scale behind the norm's gain. Rows (`part`): layer, token, right vector, pathway,
    down projection, coordinate (the 20 largest of u, beside the columns of the head that BasisVectors calls outliers).
    Arrays: `direction` (H,), `norms` (N, L + 1), `prompt`, `position`, `token_id` (N,).

    UnsupportedError without long tokens (a random model has none), and for blocks of another build. Cost: 4 forwards a
    prompt and one, 4 a sampled token up to the explosion, and products with each block's float64 matrices.
    Source: Wang et al., Singular defects (arXiv 2502.07004); the closed form and the Rayleigh quotient are ours.
    """

    prompts: Sequence[Prompt] = ()
    tokens: int = 256
    tau: float | None = None
    mode: Literal["paper", "normed"] = "paper"
    lead: Prompt = "I"
    eigenpairs: bool = False
    seed: int = 0

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("long_tokens", "tokens", "neither", "tokens of the prompts whose norm exceeds tau somewhere"),
        Metric("long_vectors", "vectors", "neither", "vectors of the residual stream longer than tau"),
        Metric("tau", "norm", "neither", "norm that sets long vectors apart"),
        Metric("coherence", "deg", "lower", "mean angle between two long vectors"),
        Metric("explosion_block", "block", "neither", "block behind which long tokens have grown most"),
        Metric("explosion_growth", "", "lower", "norm behind that block over the norm before it"),
        Metric("decay_block", "block", "neither", "later block behind which they have shrunk most; nan if none"),
        Metric("explosion_angle", "deg", "neither", "angle of the exploding block's first direction to the tokens'"),
        Metric("decay_angle", "deg", "neither", "the same at the decaying block"),
        Metric("other_angle", "deg", "neither", "median of the angle over blocks without a role"),
        Metric("explosion_rank", "block", "neither", "place of the exploding block's angle among all, 1 the smallest"),
        Metric("decay_rayleigh", "", "neither", "u'(A + F)u at the decaying block: negative if its weights say decay"),
        Metric("decay_step", "norm", "neither", "what that block really adds along the long direction"),
        Metric("v1_output", "norm", "neither", "length of the feed-forward layer's output for v_1, on its larger side"),
        Metric("v1_over_third", "", "neither", "the same over the third largest output of any v_i, either side"),
        Metric("projected_norm", "norm", "neither", "longest vector left if that layer reads its input without v_1"),
        Metric("projected_kl", "nats", "neither", "how far this moves the next token's distribution, in the mean"),
        Metric("projected_agreement", "share", "neither", "tokens whose likeliest next one is then the same"),
        Metric("other_projected_kl", "nats", "neither", "the same as projected_kl without v_2: the control"),
        Metric("dominant_share", "", "neither", "largest component of the unit direction: 1 is a single coordinate"),
        Metric("dominant_coordinate", "coordinate", "neither", "where that component is"),
        Metric(
            "shared_outliers", "coordinates", "neither", "of its 20 largest, those that BasisVectors calls outliers"
        ),
        Metric("shared_chance", "probability", "lower", "how often as many would be by chance"),
        *(Metric(f"{way}_share", "probability", "neither", f"sampled tokens that explode: {way}") for way in WAYS),
        Metric("ulp_over_median", "", "lower", "largest ULP of a coordinate over the median norm of its layer"),
        Metric("kept_error", "", "lower", "8-bit error of the down-projections to keep, their median"),
        Metric("other_error", "", "lower", "8-bit error of the other down-projections, their median"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = (
        "a tokenizer that adds a first token, which is then the one that explodes",
        "other prompts: tau follows the widest gap of their norms",
        "weights that were fine-tuned, quantised or pruned",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        check_prompts(self.prompts, self.tau)
        if self.tokens < 1:
            raise UsageError(f"tokens={self.tokens} is too few; give at least 1")
        if self.mode not in ("paper", "normed"):
            raise UsageError(f"mode {self.mode!r} is not one of paper, normed; choose one of these")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return the most rows that it runs, all tokens confirmed; those up to the explosion are first blocks."""
        return Cost(forwards=4 * len(self.prompts) + 1 + self.tokens, screened=rows_run(self.tokens))

    def find(self, subject: LoadedModel) -> Finding:
        """Read the streams, then the weights, then the vocabulary."""
        blocks = ResidualBlocks(subject)
        with listening(blocks) as given:
            states, ids = read(blocks, self.prompts)
        found = high_norms(states, ids, self.tau)
        roles = found.roles()
        block = blocks.block(found.main()[0])
        layers, projections = self._by_block(blocks, found, [torch.cat(one) for one in given], roles)
        V, vectors = right_vectors(block, normed=self.mode == "normed")
        sampled = trained_ids(blocks.anatomy.embedding.weight, self.tokens, self.seed)  # type: ignore[arg-type]
        lead = token_ids(subject, blocks.anatomy, self.lead)
        pathways = pathway_rows(blocks, block, V[0], sampled, lead, found.tau, self.seed)
        coordinates = coordinate_rows(found.direction, subject)
        values = {
            **_values(found, layers, vectors, pathways, projections),
            **shared(coordinates, len(found.direction)),
            **projected_values(blocks, block, V, ids),
        }
        return Finding(
            values,
            _sentence(values),
            rows=(*layers, *_token_rows(subject, self.prompts, found), *vectors, *pathways, *projections, *coordinates),
            arrays={
                "direction": found.direction.numpy(),
                "norms": found.norms.numpy(),
                **{name: getattr(found, name) for name in ("prompt", "position", "token_id")},
            },
        )

    def _by_block(
        self, blocks: ResidualBlocks, found: HighNorms, given: Sequence[Tensor], roles: Mapping[int, str]
    ) -> tuple[list[Row], list[Row]]:
        layers, projections = [], []
        with bar(len(blocks), "singular defects", "block") as progress:
            for number in range(len(blocks)):
                block = blocks.block(number)
                role, dtype = roles.get(number, ""), blocks.loaded.model.dtype
                how: dict[str, Any] = {"normed": self.mode == "normed", "eigen": self.eigenpairs}
                layers.append(layer_row(block, found, role, dtype=dtype, **how))
                projections.append(projection_row(block, given[number], found, roles))
                progress.update()
        return layers, projections


def _values(
    found: HighNorms,
    layers: Sequence[Row],
    vectors: Sequence[Row],
    pathways: Sequence[Row],
    projections: Sequence[Row],
) -> dict[str, float | Reading]:
    place, later = found.main()
    explosion, decay = layers[place], None if later is None else layers[later]
    outputs = sorted((row[name] for row in vectors for name in ("output_plus", "output_minus")), reverse=True)
    coarsest = max(layers, key=lambda row: float(row["ulp_over_median"]))
    schema = {metric.name: metric for metric in SingularDefects.metrics}
    return {
        "long_tokens": int(found.tracks.sum()),
        "long_vectors": int((found.norms > found.tau).sum()),
        "tau": found.tau,
        "coherence": found.coherence,
        "explosion_block": explosion["block"],
        "explosion_growth": explosion["growth"],
        "decay_block": decay["block"] if decay else math.nan,
        "explosion_angle": explosion["angle"],
        "decay_angle": decay["angle"] if decay else math.nan,
        "other_angle": _median([row["angle"] for row in layers if not row["role"]]),
        "explosion_rank": 1 + sum(row["angle"] < explosion["angle"] for row in layers),
        "decay_rayleigh": decay["rayleigh"] if decay else math.nan,
        "decay_step": decay["step"] if decay else math.nan,
        "v1_output": vectors[0]["output_plus"],
        "v1_over_third": vectors[0]["output_plus"] / outputs[2],
        "dominant_share": float(found.direction.abs().max()),
        "dominant_coordinate": int(found.direction.abs().argmax()),
        **{f"{way}_share": _share(schema[f"{way}_share"], pathways, way) for way in WAYS},
        "ulp_over_median": Reading(
            schema["ulp_over_median"], coarsest["ulp_over_median"], place={"layer": str(coarsest["block"])}
        ),
        "kept_error": _median([row["error"] for row in projections if row["keep"]]),
        "other_error": _median([row["error"] for row in projections if not row["keep"]]),
    }


def _share(metric: Metric, pathways: Sequence[Row], way: str) -> Reading:
    exploding = sum(row[f"explodes_{way}"] for row in pathways)
    return Reading(metric, exploding / len(pathways), *wilson(exploding, len(pathways)))


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan


def _token_rows(loaded: LoadedModel, prompts: Sequence[Prompt], found: HighNorms) -> list[Row]:
    rows, norms, tracks = [], found.norms, found.tracks.tolist()
    for place, token in enumerate(found.token_id.tolist()):
        rows.append(
            {
                "part": "token",
                "prompt": str(prompts[found.prompt[place]]),
                "position": int(found.position[place]),
                "token_id": token,
                "token": loaded.tokenizer.decode([token]) if loaded.tokenizer else str(token),
                "long": tracks[place],
                "norm": float(norms[place].max()),
                "norm_at": int(norms[place].argmax()) - 1,
            }
        )
    return rows


def _sentence(values: Mapping[str, Any]) -> str:
    count, vectors = values["long_tokens"], values["long_vectors"]
    said = (
        f"{count} token{'s explode' if count != 1 else ' explodes'} behind block {values['explosion_block']}, "
        f"{values['explosion_growth']:.3g} times in norm ({vectors} vectors longer than {values['tau']:.4g}, "
        f"{values['coherence']:.2g} degrees apart in the mean); its weights' first direction is "
        f"{values['explosion_angle']:.3g} degrees away from theirs, those of blocks without a role "
        f"{values['other_angle']:.3g} in the median."
    )
    if math.isnan(values["decay_block"]):
        return f"{said} No later block lets them decay."
    return (
        f"{said} Block {values['decay_block']} lets them decay, at {values['decay_angle']:.3g} degrees, with a "
        f"Rayleigh quotient of {values['decay_rayleigh']:.4g}."
    )
