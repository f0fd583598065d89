"""T7: two devices continue the same prompts, and the kit parts their texts where a script without the kit does."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from unittest.mock import patch

import torch
from torture.campaign import Campaign
from torture.tree import ROOT

import stabilitykit as sk
from stabilitykit.prompts import GENERATION_PROMPTS
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.traces import agreement
from stabilitykit.traces.elsewhere import Ask, record_elsewhere, setting_named

SCRIPT = ROOT / "tests" / "traces" / "plain_generation.py"
PROMPTS, TOKENS = GENERATION_PROMPTS[:5], 96
TINY, SHORT = [[7, 10, 13, 16, 19]], 12
SETTING = "cpu-aten"
Said = list[list[int]]


@functools.cache
def recordings(case: str) -> tuple[sk.Recording, sk.Recording]:
    """Return what the kit recorded on both devices; of the tiny model a coarser one stands for the second."""
    if case == "tiny":
        first, second = (sk.record(one, TINY, SHORT, level="block") for one in tiny())
        return first, second
    loaded, ask = sk.load("smollm2", dtype=case), Ask(PROMPTS, TOKENS, level="block")
    first, second = (record_elsewhere(loaded, setting_named(name), ask) for name in ("cpu-threads1", SETTING))
    return first, second


@functools.cache
def scripted(case: str) -> tuple[Said, Said]:
    """Return the tokens of both devices as transformers alone finds them."""
    if case == "tiny":
        first, second = ([_greedy(one, ids) for ids in TINY] for one in tiny())
        return first, second
    first, second = (_plain(case, setting_named(name).environ) for name in ("cpu-threads1", SETTING))
    return first, second


@functools.cache
def tiny() -> tuple[LoadedModel, LoadedModel]:
    """Return a model twice, the second with branches that are rounded to 4 bits."""
    first, second = sk.load("tiny"), sk.load("tiny")
    for layer in second.model.model.layers:
        layer.mlp.register_forward_hook(lambda _module, _inputs, out: out.to(torch.float8_e4m3fn).to(out.dtype))
    return first, second


def _greedy(loaded: LoadedModel, ids: list[int]) -> list[int]:
    """Continue by the model's own generation with its cache."""
    with torch.no_grad():
        said = loaded.model.generate(torch.tensor([ids]), max_new_tokens=SHORT, do_sample=False)
    return said[0, len(ids) :].tolist()


def _plain(dtype: str, environ: dict[str, str]) -> Said:
    words = [sys.executable, str(SCRIPT), sk.load("smollm2").source, dtype, str(TOKENS)]
    asked = json.dumps([prompt.text for prompt in PROMPTS])
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([*words, asked], env={**os.environ, **one, **environ}, capture_output=True, check=True)
    return json.loads(done.stdout)


@functools.cache
def rows(case: str) -> list[dict]:
    """Return what the kit says of each prompt."""
    first, second = recordings(case)
    result = sk.measure(sk.TraceComparison(first), second, progress=False)
    return [row for row in result.rows if row["part"] == "prompt"]


def run(number: int) -> str | None:
    """Hold one prompt of one case against the script."""
    case, prompt = CASES[number]
    a, b = (said[prompt] for said in scripted(case))
    row, apart = rows(case)[prompt], first_other(a, b)
    where = f"{case}, prompt {prompt}"
    if row["divergence_index"] != apart:
        return f"{where}: the script parts at {apart}, the kit at {row['divergence_index']}"
    if case == "float32" and apart is not None:
        return f"{where}: float32 parts at {apart}"
    if case != "tiny" and apart is not None and min(row["margin_ulp"], row["other_margin_ulp"]) > 1:
        return f"{where}: the texts part at {apart} with {row['margin_ulp']} and {row['other_margin_ulp']} ULP to go"
    if case == "bfloat16" and all(one["divergence_index"] is None for one in rows(case)):
        return "no prompt parts in bfloat16: the devices are too alike to prove anything"
    return None


def first_other(ours: list[int], theirs: list[int]) -> int | None:
    """Return the first index at which two lists differ, None if they do not."""
    apart = [index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    return apart[0] if apart else None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def _shifted(number: int) -> str | None:
    real = agreement.first_other
    with patch.object(agreement, "first_other", lambda a, b: None if (k := real(a, b)) is None else k + 1):
        return _anew(number)


def _unseen(number: int) -> str | None:
    with patch.object(agreement, "first_other", lambda *_: None):
        return _anew(number)


def _anew(number: int) -> str | None:
    rows.cache_clear()
    try:
        return run(number)
    finally:
        rows.cache_clear()


CASES = [
    *(("tiny", prompt) for prompt in range(len(TINY))),
    *((dtype, prompt) for dtype in ("bfloat16", "float32") for prompt in range(len(PROMPTS))),
]
CAMPAIGNS = [
    Campaign(
        "T7", "the token at which two devices part, against a script without the kit", "prompts",
        full=len(CASES), ci=len(TINY), trial=run,
        planted={"the token after the one at which texts part": _shifted, "a divergence that is not seen": _unseen},
        note="SmolLM2 in bfloat16 and float32, 96 tokens, one thread against cpu-aten; a tiny model in CI",
    ),
]  # fmt: skip
