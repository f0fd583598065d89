"""Is the size that the ledger calls typical the size of what rounding does, here and on a device that it has not seen?

    python benchmarks/ledger.py [--dtype float32] [--prompts FILE] [--device NAME:VARIABLE=VALUE[,VARIABLE=VALUE]]

takes the ledger of each prompt here, and the margin of the same two tokens in a fresh process for each device. Both
deviations, each less the margin in true float64, are held against `typical`, which knows neither: were signs of
roundings random, the root mean square of the quotients would be 1. Devices of one CPU: the environment variables choose
other kernels when torch is imported.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import stabilitykit as sk
from stabilitykit.prompts import read_prompts

PROMPTS = Path(__file__).with_name("prompts.txt")
PORTABLE = "ATEN_CPU_CAPABILITY=default,MKL_CBWR=COMPATIBLE,ONEDNN_MAX_CPU_ISA=SSE41"
DEVICES = ("aten-default:ATEN_CPU_CAPABILITY=default", f"portable:{PORTABLE}")


def main():
    given = arguments()
    loaded, prompts = sk.load("smollm2", dtype=given.dtype), read_prompts(given.prompts)
    if given.pairs:
        np.save(given.pairs.with_suffix(".answer.npy"), margins(loaded, prompts, np.load(given.pairs)))
        return
    results = [sk.measure(sk.Ledger(), sk.CausalLMSubject(loaded, prompt)) for prompt in prompts]
    true, typical, deviation = (column(results, name) for name in ("margin", "typical", "deviation"))
    pairs = np.array([result.subject["pair"] for result in results])
    print(f"{len(results)} prompts; left over at most {column(results, 'remainder_share').max():.1e}")
    print(
        f"spent: median {np.median(column(results, 'margin_spent')):.2g}, {int((true < 0).sum())} decided by rounding"
    )
    print("| device | rms of deviation / typical | above 1 | above 2 |\n|---|---|---|---|")
    report("this one", deviation / typical)
    for device in given.device or DEVICES:
        name, settings = device.split(":", 1)
        report(name, (elsewhere(pairs, dict(one.split("=", 1) for one in settings.split(","))) - true) / typical)
    kinds(results)


def column(results, name):
    return np.array([result.readings[name].value for result in results])


def report(device, quotients):
    sizes = np.abs(quotients)
    rms = np.sqrt((sizes**2).mean())
    print(f"| {device} | {rms:.2f} | {(sizes > 1).mean():.0%} | {(sizes > 2).mean():.0%} |", flush=True)


def kinds(results):
    """Print the median over prompts of each kind's share of the typical deviation's square."""
    shares = [{row["kind"]: row["typical_share"] for row in one.rows if row["part"] == "kind"} for one in results]
    medians = {kind: np.median([one[kind] for one in shares]) for kind in shares[0]}
    for kind, share in sorted(medians.items(), key=lambda item: -item[1]):
        print(f"{kind:>28} {share:.1%}")


def margins(loaded, prompts, pairs):
    """Return the margin of each pair, as the ledger asks for it."""
    found = []
    for prompt, (a, b) in zip(prompts, pairs, strict=True):
        ids = torch.tensor([loaded.tokenizer(prompt).input_ids])
        with torch.no_grad():
            z = loaded.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].double()
        found.append(float(z[a] - z[b]))
    return np.array(found)


def elsewhere(pairs, environ):
    """Return the margins in a fresh process under other variables."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "pairs.npy"
        np.save(asked, pairs)
        command = [sys.executable, __file__, *sys.argv[1:], "--pairs", str(asked)]
        subprocess.run(command, env={**os.environ, **environ}, check=True)
        return np.load(asked.with_suffix(".answer.npy"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--device", action="append", metavar="NAME:VARIABLE=VALUE")
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
