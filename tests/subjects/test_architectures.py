"""Every architecture on both paths proves itself and gives the answers of plain transformers, or is refused by name.

`python tests/subjects/test_architectures.py` prints the parts of docs/architectures.md that are made from the table.
"""

import copy
import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.cache_name import ATTENTION, STATE_SPACE

from stabilitykit.errors import UnsupportedError
from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.determinism import BatchInvariance, RunToRun
from stabilitykit.measurements.spectrum import SingularSpectrum
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects import linearised
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import load
from stabilitykit.subjects.precision import double_of, true_float64
from stabilitykit.subjects.routing import routers
from stabilitykit.subjects.tiny import FAMILIES


@dataclass(frozen=True)
class Support:
    """What one architecture has; `refusal` is the sentence of one that has nothing.

    `screens`: an unchanged state after block 0 proves an unchanged output. `mode`: how J v is found. `shares`: a cached
    prefix is handed out without a copy. `mixes`: a lane of a batch may see the others under the model's own experts.
    `smooth`: plain `.double()` is float64 all the way. `cache`: the name under which the base model returns its cache.
    """

    architecture: str
    screens: bool = True
    mode: str = "dual numbers"
    shares: bool = True
    mixes: bool = False
    smooth: bool = False
    cache: str = ATTENTION
    refusal: str = ""


TRANSFORMERS = "5.24.0"
TABLE = {
    "llama": Support("LlamaForCausalLM"),
    "mistral": Support("MistralForCausalLM"),
    "qwen2": Support("Qwen2ForCausalLM"),
    "qwen3": Support("Qwen3ForCausalLM"),
    "gemma": Support("GemmaForCausalLM"),
    "gemma2": Support("Gemma2ForCausalLM"),
    "gemma3": Support("Gemma3ForCausalLM"),
    "gemma3n": Support(
        "Gemma3nForCausalLM",
        refusal="tiny:gemma3n (Gemma3nForCausalLM): logits from embeddings differ from logits from ids by up to 1.5, "
        "so its input is more than the embedding; it cannot be measured as a function of it",
    ),
    "granite": Support("GraniteForCausalLM"),
    "smollm3": Support("SmolLM3ForCausalLM"),
    "olmo": Support("OlmoForCausalLM"),
    "olmo2": Support("Olmo2ForCausalLM"),
    "phi": Support("PhiForCausalLM", smooth=True),
    "phi3": Support("Phi3ForCausalLM"),
    "stablelm": Support("StableLmForCausalLM", smooth=True),
    "starcoder2": Support("Starcoder2ForCausalLM", smooth=True),
    "cohere": Support("CohereForCausalLM"),
    "gpt2": Support("GPT2LMHeadModel", smooth=True),
    "gpt_neox": Support("GPTNeoXForCausalLM", smooth=True),
    "gptj": Support("GPTJForCausalLM", smooth=True),
    "opt": Support("OPTForCausalLM", smooth=True),
    "falcon": Support("FalconForCausalLM", smooth=True),
    "bloom": Support("BloomForCausalLM", mode="reverse mode twice"),
    "mpt": Support("MptForCausalLM"),
    "mixtral": Support("MixtralForCausalLM", mixes=True),
    "qwen3_moe": Support("Qwen3MoeForCausalLM", mixes=True),
    "gpt_oss": Support("GptOssForCausalLM", mixes=True),
    "mamba": Support("MambaForCausalLM", shares=False, cache=STATE_SPACE),
    "zamba2": Support("Zamba2ForCausalLM", screens=False, shares=False),
    "bert": Support(
        "BertLMHeadModel",
        refusal="BertLMHeadModel is an encoder: its first token's state depends on the last token; load a "
        "decoder-only language model instead",
    ),
}
MEASURED = [family for family, support in TABLE.items() if not support.refusal]
REFUSED = [family for family, support in TABLE.items() if support.refusal]
PATHS = [("prefill", 1), ("decode", 4)]
BFLOAT16 = ["llama", "gemma2", "gpt2", "mixtral", "bloom", "mamba"]

IDS = [(7 * i + 3) % 258 for i in range(12)]  # longer than the sliding windows of 8
RAY = torch.from_numpy(np.random.Generator(np.random.PCG64(5)).integers(-(2**20), 2**20, size=64) * 2.0**-20)
LISTED = 25  # inputs before a boundary that are run again


@functools.cache
def loaded(family, dtype="float32"):
    return load(f"tiny:{family}", dtype=dtype)


@functools.cache
def subject_of(family, path, batch, dtype="float32"):
    return CausalLMSubject(loaded(family, dtype), IDS, path=path, batch=batch)


@functools.cache
def twin_of(family, path, batch):
    return subject_of(family, path, batch).in_float64()


def on_both_paths(families):
    return pytest.mark.parametrize(
        ("family", "path", "batch"), [(family, *case) for family in families for case in PATHS]
    )


@torch.no_grad()
def plain(subject, rows, cache=ATTENTION):
    """The last state (B, H) of the base model on rows (B, T, H), called by hand along the subject's path."""
    model, ours = subject.model, getattr(subject.model.config, "_experts_implementation", None)
    if subject.experts:
        model.set_experts_implementation(subject.experts)
    options = {"use_cache": False}
    if subject.path == "decode":
        past = model.base_model(inputs_embeds=rows[:, :-1].clone(), use_cache=True)[cache]
        # In memory of its own, as an embedding comes: olmo2's first product has other bits for a slice of the prompt.
        rows, options = rows[:, -1:].clone(), {"use_cache": True, cache: copy.deepcopy(past)}
    state = model.base_model(inputs_embeds=rows, **options).last_hidden_state[:, -1]
    if subject.experts:
        model.set_experts_implementation(ours)
    return state


def test_the_table_names_every_family():
    assert sorted(TABLE) == sorted(FAMILIES)
    assert {family: type(loaded(family).model).__name__ for family in TABLE} == {
        family: support.architecture for family, support in TABLE.items()
    }


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_sentence(family, path):
    with pytest.raises(UnsupportedError) as refusal:
        subject_of(family, path, 4)
    gap = re.compile(r"up to [\d.]+")  # the size of a difference is not part of the sentence
    assert gap.sub("up to x", str(refusal.value)) == gap.sub("up to x", TABLE[family].refusal)


@on_both_paths(MEASURED)
def test_construction_proves_what_the_table_says(family, path, batch):
    subject, support = subject_of(family, path, batch), TABLE[family]
    assert subject.proofs.ids_equal_embeddings
    assert subject.proofs.repeatable
    assert subject.proofs.lanes_independent
    assert subject.proofs.cache_shared is (support.shares if path == "decode" else None)
    assert subject.batch == batch
    mixing = subject.experts is not None
    assert subject.experts == ("batched_mm" if mixing else None)
    assert subject.proofs.note == ("lanes mix under the model's experts; measured with batched_mm" if mixing else "")
    assert not mixing or support.mixes  # whether they do mix is up to the processor's kernels
    assert subject.screens is support.screens
    assert subject.paths == ("prefill", "decode")


@on_both_paths(MEASURED)
def test_the_output_is_that_of_the_token_ids_and_of_the_plain_model(family, path, batch):
    subject = subject_of(family, path, batch)
    rows = subject.model.get_input_embeddings()(torch.tensor([IDS])).repeat(batch, 1, 1)
    assert bits_equal(subject.baseline, plain(subject, rows, TABLE[family].cache))
    if path == "prefill":
        with torch.no_grad():
            by_ids = subject.model.base_model(input_ids=torch.tensor([IDS]), use_cache=False).last_hidden_state
        assert bits_equal(subject.baseline[0], by_ids[0, -1])
    else:  # the same function, but for rounding
        other = subject_of(family, "prefill", 1).baseline[0]
        assert float((subject.baseline[0] - other).norm() / other.norm()) < 1e-5


def rounded(x0, s):
    return (x0.double() + torch.tensor(s, dtype=torch.float64) * RAY).to(x0.dtype)


def next_step(x0, s):
    """The first float64 after s with another input, by bisection over the bits of s."""
    here = rounded(x0, s)
    low, high = int(np.float64(s).view(np.int64)), int(np.float64(1.0).view(np.int64))
    while high - low > 1:
        middle = (low + high) // 2
        same = bits_equal(rounded(x0, float(np.int64(middle).view(np.float64))), here)
        low, high = (middle, high) if same else (low, middle)
    return float(np.int64(high).view(np.float64))


def check_certificate(subject, row, cache):
    """The pair is adjacent, only its second side differs, and neither does any of the first distinct inputs."""
    rows = subject.model.get_input_embeddings()(torch.tensor([IDS])).repeat(subject.batch, 1, 1)

    def changed(s):
        moved = rows.clone()
        moved[row["slot"], -1] = rounded(subject.x0, s)
        return not bits_equal(plain(subject, moved, cache)[row["slot"]], subject.baseline[row["slot"]])

    last, first = row["s_last_same"], row["s_first_changed"]
    assert math.nextafter(last, math.inf) == first
    assert not changed(last)
    assert changed(first)
    step, cells = next_step(subject.x0, 0.0), 1
    while step < first and cells < LISTED:
        assert not changed(step)
        step, cells = next_step(subject.x0, step), cells + 1
    assert cells == min(row["cells"], LISTED)


@on_both_paths(MEASURED)
def test_the_first_change_along_a_ray_holds_in_plain_forwards(family, path, batch):
    subject = subject_of(family, path, batch)
    (row,) = FirstChange(direction=RAY).measure(subject).rows
    assert row["exact"]
    assert not row["censored"]
    check_certificate(subject, row, TABLE[family].cache)


@on_both_paths(MEASURED)
def test_the_spectrum_is_the_slope_of_the_float64_twin(family, path, batch):
    """sigma_1 in float32 against a central difference of the twin along v_1, and the defect against its bound."""
    subject, twin = subject_of(family, path, batch), twin_of(family, path, batch)
    result = SingularSpectrum(k=2).measure(subject)
    assert result.readings["adjoint_defect"].value < linearised.bound(subject)
    assert result.subject["linearisation"]["forward_mode"] == TABLE[family].mode
    v, h = torch.from_numpy(result.arrays["v"][:1]), 1e-6
    slope = (twin(twin.x0 + h * v) - twin(twin.x0 - h * v)).norm() / (2 * h)
    assert result.readings["sigma_1"].value == pytest.approx(float(slope), rel=1e-4)
    assert result.readings["sigma_1"].value > result.readings["sigma_2"].value > 0


@on_both_paths(MEASURED)
def test_repetition_and_company_are_measured_at_the_stated_cost(family, path, batch):
    subject = subject_of(family, path, batch)
    again, company = RunToRun(runs=2), BatchInvariance(sizes=(2,), lengths=(1, 3))
    result = again.measure(subject)
    assert result.verdict == "pass"
    assert result.execution.forwards == again.cost(subject).forwards
    result = company.measure(subject)
    assert result.verdict in ("pass", "differs")
    assert {row["path"] for row in result.rows} == {"prefill", "decode"}
    assert result.execution.forwards == company.cost(subject).forwards


@on_both_paths(BFLOAT16)
def test_bfloat16_is_measured_alike(family, path, batch):
    subject = subject_of(family, path, batch, "bfloat16")
    assert subject.screens is TABLE[family].screens
    (row,) = FirstChange(direction=RAY).measure(subject).rows
    check_certificate(subject, row, TABLE[family].cache)
    exact = SingularSpectrum(k=2).measure(subject_of(family, path, batch)).readings["sigma_1"].value
    result = SingularSpectrum(k=2).measure(subject)
    assert result.readings["sigma_1"].value == pytest.approx(exact, rel=0.05)
    assert result.readings["adjoint_defect"].value < linearised.bound(subject)
    assert RunToRun(runs=2).measure(subject).verdict == "pass"


# --- true float64


def unit_rows(seed):
    rows = torch.randn(2, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows)


@torch.no_grad()
def gain(model, E, step):
    """|f(x + e v) - f(x)| / e of the last token, f being the base model called plainly on embeddings E (1, T, H)."""
    moved = E.clone()
    moved[0, -1] += step * unit_rows(1)[0]
    outputs = [model.base_model(inputs_embeds=rows.clone(), use_cache=False).last_hidden_state for rows in (moved, E)]
    return float((outputs[0] - outputs[1])[0, -1].norm() / step)


@pytest.mark.parametrize("family", MEASURED)
def test_true_float64_is_smooth_where_a_doubled_model_is_not(family):
    """The gain at 1e-10 against that at 1e-5: equal for the oracle, for plain `.double()` only where the table says."""
    model = double_of(loaded(family).model)
    E = loaded(family).model.get_input_embeddings()(torch.tensor([IDS])).detach().double()
    scale = float(E[0, -1].norm())
    users = getattr(model.config, "_experts_implementation", None)
    if routers(loaded(family).model):
        model.set_experts_implementation("eager")  # the grouped matmul refuses float64
    plainly = gain(model, E, 1e-10 * scale) / gain(model, E, 1e-5 * scale)
    with true_float64():
        truly = gain(model, E, 1e-10 * scale) / gain(model, E, 1e-5 * scale)
    if routers(loaded(family).model):
        model.set_experts_implementation(users)
    assert truly == pytest.approx(1, abs=1e-3)
    assert (abs(plainly - 1) < 1e-3) is TABLE[family].smooth
    assert TABLE[family].smooth or abs(plainly - 1) > 0.1


@on_both_paths(MEASURED)
def test_the_jacobian_under_it_is_that_of_central_differences(family, path, batch):
    twin, h = twin_of(family, path, batch), 1e-6
    V, U = unit_rows(1), unit_rows(2)
    slopes = (twin(twin.x0 + h * V) - twin(twin.x0 - h * V)) / (2 * h)
    assert float((twin.jvp(V) - slopes).norm() / slopes.norm()) < 1e-7
    wanted = U @ slopes.T
    assert float((twin.vjp(U) @ V.T - wanted).norm() / wanted.norm()) < 1e-7


# --- the page

COLUMNS = ["`tiny:`", "class", "paths", "screening", "J·v", "prefix", "experts", "`.double()`"]


def cells(family):
    support = TABLE[family]
    if support.refusal:
        return (family, support.architecture, "refused", *["-"] * 5)
    return (
        family,
        support.architecture,
        "both",
        "yes" if support.screens else "no",
        support.mode,
        "shared" if support.shares else "copied",
        "`batched_mm`" if support.mixes else "-",
        "smooth" if support.smooth else "rounds",
    )


def made_from_the_table():
    """The page's table and its list of refusals."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, TABLE)]
    refusals = [f'- {family}: "{TABLE[family].refusal}"' for family in REFUSED]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows), "\n".join(refusals)


def test_the_page_is_made_from_the_table():
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    table, refusals = made_from_the_table()
    assert f"\n\n{table}\n\n" in page
    assert f"\n\n{refusals}\n" in page
    assert f"transformers {TRANSFORMERS}" in page


if __name__ == "__main__":
    print("\n\n".join(made_from_the_table()))
