"""T3: one bit of a recording is flipped; reading refuses it, and where all checksums are put right it is found."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY, patch

import torch
from torture.campaign import Campaign, draw, scratch

import stabilitykit as sk
from stabilitykit.errors import StabilityError
from stabilitykit.numerics import bits
from stabilitykit.numerics.digest import short_digest
from stabilitykit.traces import manifest, store, tensor_files
from stabilitykit.traces.compare import TraceComparison

STATES = "states-p{:03d}.safetensors"


@functools.cache
def recorded() -> Path:
    """Return a folder with a recording of two prompts: digests, the vectors of all stages, logits."""
    made = sk.record(sk.load("tiny"), ["one", "two!"], 3, level="block", states="all")
    return sk.write_recording(made, scratch("flips") / "recording")


@functools.cache
def spare() -> Path:
    """Return a copy of the recording, which a trial may damage and mends."""
    return Path(shutil.copytree(recorded(), scratch("flips") / "copy"))


def flip(number: int) -> str | None:
    """Flip one bit of a file, every second time of one drawn by its size; reading must refuse and name the file."""
    random = draw("T3a", number)
    files = sorted(recorded().iterdir())
    sizes = [path.stat().st_size for path in files]
    path = random.choice(files, p=[size / sum(sizes) for size in sizes] if number % 2 else None)
    content, at = bytearray(path.read_bytes()), int(random.integers(8 * path.stat().st_size))
    content[at // 8] ^= 1 << at % 8
    damaged = spare() / path.name
    damaged.write_bytes(content)
    try:
        sk.read_recording(spare())
    except StabilityError as error:
        return None if str(damaged) in str(error) else f"bit {at} of {path.name}: its error names another file: {error}"
    finally:
        shutil.copyfile(path, damaged)
    return f"bit {at} of {path.name} was read without a word"


def resealed(number: int) -> str | None:
    """Flip one bit of one element of a state, put its digest and all checksums right: both comparators name it."""
    random = draw("T3b", number)
    whole = sk.read_recording(recorded())
    prompt = int(random.integers(len(whole.generations)))
    one = whole.generations[prompt]
    stage = int(random.integers(len(whole.stages)))
    name = whole.stages[stage].name
    states = {key: value.clone() for key, value in one.states.items()}
    state = states[name]
    element = int(random.integers(state.numel()))
    flat = state.view(-1).view(bits.format_of(state.dtype).integer)
    flat[element] ^= torch.tensor(1, dtype=flat.dtype) << int(random.integers(8 * state.itemsize))
    step, column = divmod(element, state.shape[1])
    digests = one.digests.copy()
    digests[step, stage] = list(short_digest(state[step]))
    changed = replace(one, states=states, digests=digests)
    other = replace(whole, generations=tuple(changed if k == prompt else g for k, g in enumerate(whole.generations)))
    folder = sk.write_recording(other, spare())
    try:
        return _told(sk.read_recording(folder), prompt, step, name) or _found(prompt, stage, (step, column))
    finally:
        for path in recorded().iterdir():
            shutil.copyfile(path, folder / path.name)


def _told(changed: sk.Recording, prompt: int, step: int, stage: str) -> str | None:
    """Hold what the comparison of recordings says against what was done."""
    result = TraceComparison(sk.read_recording(recorded())).measure(changed)
    rows = [row for row in result.rows if row["part"] == "prompt" and row["first_step"] is not None]
    said = [(row["number"], row["first_step"], row["stage"]) for row in rows]
    count = result.readings["differing_stages"].value
    if (count, said) != (1, [(prompt, step, stage)]):
        return f"{stage} of step {step} of prompt {prompt} was changed; {count} stages differ, the first {said}"
    return None


def _found(prompt: int, stage: int, place: tuple[int, int]) -> str | None:
    """Hold what the comparison of files says against what was done."""
    file, tensor = STATES.format(prompt), f"s{stage:05d}"
    compared = tensor_files.compare(recorded() / file, spare() / file)
    said = [(one.name, one.differing, one.first) for one in compared if one.verdict != "pass"]
    return None if said == [(tensor, 1, place)] else f"element {place} of {tensor} was changed; found {said}"


def _unchecked(path: Path, _about: object) -> bytes:
    return path.read_bytes()


def _against_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.allclose(a, b))


def _with(change, trial):
    def planted(number: int) -> str | None:
        recorded(), spare()
        with change():
            return trial(number)

    return planted


CAMPAIGNS = [
    Campaign(
        "T3a", "a bit of a recording's files is flipped, and reading it is refused with the file's name", "bit flips",
        full=10_000, ci=200, trial=flip,
        planted={
            "no checksum of a file is looked at": _with(lambda: patch.object(store, "_bytes", _unchecked), flip),
            "the manifest's seal is not looked at": _with(lambda: patch.object(manifest, "_seal", lambda _: ANY), flip),
        },
    ),
    Campaign(
        "T3b", "a bit of a recorded state is flipped and every checksum put right: both comparators name the element",
        "bit flips", full=1_000, ci=25, trial=resealed,
        planted={
            "numbers are compared with a tolerance":
                _with(lambda: patch.object(tensor_files, "bits_equal", _against_values), resealed),
        },
    ),
]  # fmt: skip
