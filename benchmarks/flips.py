"""Does the flip forecast hold on a device that it has not seen?

    python benchmarks/flips.py DIR [--dtype bfloat16] [--tokens 64] [--prompts FILE] [--device NAME:VARIABLE=VALUE]

continues each prompt on this device and in all ways of `Margins`, computes the same tokens again in a fresh process for
each device, and holds the forecast, which knows nothing of those, against the tokens whose argmax differs there. What
is in DIR already is not computed again, so a run that was stopped goes on. Devices of one CPU: the environment
variables choose other kernels when torch is imported. A device whose logits have the reference's bits is none.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import stabilitykit as sk
from stabilitykit.measurements.decisions import Decisions, decide
from stabilitykit.measurements.margins import WAYS, Margins
from stabilitykit.numerics.calibration import auc, calibration
from stabilitykit.prompts import read_prompts
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.generation import Text, Way, first_largest

PROMPTS = Path(__file__).with_name("prompts.txt")
DEVICES = ("aten-default:ATEN_CPU_CAPABILITY=default", "onednn-avx2:ONEDNN_MAX_CPU_ISA=AVX2")
FIELDS = ("rivals", "logits", "argmax", "spacing", "tied")


def main():
    given = arguments()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.replay:
        return replay(given)
    record(given)
    for device in given.device or DEVICES:
        name, setting = device.split(":", 1)
        command = [sys.executable, __file__, *sys.argv[1:], "--replay", name]
        if subprocess.run(command, env={**os.environ, **dict([setting.split("=", 1)])}, check=False).returncode:
            print(f"{name}: this CPU does not run {setting}")
        else:
            report(given, name)
    return None


def record(given):
    """Continue the prompts in all ways and keep what was decided."""
    loaded = sk.load("smollm2", dtype=given.dtype)
    anatomy = find(loaded.model)
    for number, prompt in enumerate(read_prompts(given.prompts)):
        path = given.folder / f"{number:03d}.npz"
        if not path.exists():
            text = Text(loaded, prompt, given.tokens, anatomy)
            one = decide(text, text.ways(WAYS), Margins(["-"]).rivals)
            names = "\n".join(way.name for way in text.ways(WAYS))
            save(path, ids=one.ids, bits=one.bits, ways=names, **{name: getattr(one, name) for name in FIELDS})
            print(f"{number:3d}  {len(one.tokens)} tokens  {prompt}", flush=True)


def replay(given):
    """Compute the recorded tokens again in this process, one after the other as generation does."""
    loaded = sk.load("smollm2", dtype=given.dtype)
    anatomy = find(loaded.model)
    print(f"{given.replay}: {torch.backends.cpu.get_cpu_capability()}", flush=True)
    for number in range(len(read_prompts(given.prompts))):
        path = given.folder / f"{given.replay}-{number:03d}.npz"
        if not path.exists():
            one = read(given.folder / f"{number:03d}.npz")
            text = Text(loaded, one.ids, given.tokens, anatomy)
            rows = torch.cat(list(text.forced(Way("decode"), one.tokens.tolist())))
            asked = rows.double().gather(1, torch.from_numpy(one.rivals))
            save(path, argmax=[first_largest(row) for row in rows], logits=asked.numpy())


def report(given, device):
    """Print the calibration of the forecast on a device, and how forecast and plain margins rank its flips."""
    prompts = read_prompts(given.prompts)
    decisions = [read(given.folder / f"{number:03d}.npz") for number in range(len(prompts))]
    other = [np.load(given.folder / f"{device}-{number:03d}.npz") for number in range(len(prompts))]
    if all(np.array_equal(new["logits"], one.logits[0]) for new, one in zip(other, decisions, strict=True)):
        print(f"\n{device}: not distinct from this device")
        return
    found = Margins(prompts, given.tokens).judged(sk.load("tiny"), decisions)
    flipped = np.concatenate([new["argmax"] != one.tokens for new, one in zip(other, decisions, strict=True)])
    forecast, margin = found.arrays["forecast"], found.arrays["margins"][0, :, 0]
    ulp = margin / np.concatenate([one.spacing for one in decisions])
    there = np.concatenate([new["logits"][:, 0] - new["logits"][:, 1] for new in other])
    high = float(found.arrays["high"].sum())
    print(f"\n{device}: {int(flipped.sum())} of {len(flipped)} tokens flipped in {len(prompts)} prompts; expected")
    moved, noise = np.sqrt(((there - margin) ** 2).mean()), found.values["noise"]
    print(f"{forecast.sum():.1f}, at most {high:.1f}; noise {noise:.3g}, margins moved by {moved:.3g} (rms)")
    print("| forecast | tokens | expected | flipped | rate | 95 % interval |\n|---|---|---|---|---|---|")
    for row in calibration(forecast, flipped):
        interval = f"{row['low']:.2%} to {row['high']:.2%}"
        print(
            f"| {row['from']:g} to {row['to']:g} | {row['forecasts']} | {row['expected']:.2f} | {row['seen']} "
            f"| {row['rate']:.2%} | {interval} |"
        )
    scores = {"forecast": forecast, "margin": -margin, "margin in ULP": -ulp}
    print("area under the ROC curve:", ", ".join(f"{name} {auc(score, flipped):.4f}" for name, score in scores.items()))
    texts(prompts, found, flipped)


def texts(prompts, found, flipped):
    """Print how the forecast of whole prompts came true."""
    risk = {row["number"]: row["forecast"] for row in found.rows if row["part"] == "prompt"}
    changed = np.array([flipped[found.arrays["prompt"] == number].any() for number in range(len(prompts))])
    rows = calibration([risk[number] for number in range(len(prompts))], changed, (0.0, 0.05, 0.2, 0.5, 0.8, 1.0))
    for row in rows:
        inside = f"prompts at {row['from']:g} to {row['to']:g}"
        print(f"{inside}: {row['seen']} of {row['forecasts']} changed, {row['expected']:.1f} expected")


def read(path):
    stored = np.load(path)
    names = str(stored["ways"]).split("\n")
    ways = tuple(way for name in names for way in WAYS if way.name == name)
    fields = {name: stored[name] for name in FIELDS}
    return Decisions(tuple(stored["ids"].tolist()), ways, bits=tuple(stored["bits"].tolist()), **fields)


def save(path, **arrays):
    part = path.with_suffix(".part.npz")
    np.savez(part, **{name: np.asarray(array) for name, array in arrays.items()})
    part.replace(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--device", action="append", metavar="NAME:VARIABLE=VALUE")
    parser.add_argument("--replay", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
