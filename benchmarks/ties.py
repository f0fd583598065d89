"""Ties and smallest flips of twenty prompts, each flip seen again by a fresh process: the table of docs/ties.md.

    python benchmarks/ties.py [--dtype float32] [--path decode] [--prompts 20] [--model smollm2] [--keep FOLDER]

Prints one line a prompt as it is done: the pair, the gap at the prompt, the gap at the tie in ULP of the logit, how far
the embedding moved, the gradients and inputs it took, seconds, and the one ULP that flips the token. A prompt that the
solver refuses has its reason instead. Exit status 1 if a flip was not reproduced.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import stabilitykit as sk

PROMPTS = {
    "fact": "The capital of France is",
    "fact, longer": "Water boils at a temperature of",
    "person": "The theory of relativity was developed by",
    "date": "The Second World War ended in the year",
    "arithmetic": "2 + 2 =",
    "arithmetic, words": "Seven times eight equals",
    "code": "def add(a, b):\n    return",
    "code, loop": "for i in range(10):\n    print(",
    "German": "Die Hauptstadt von Deutschland ist",
    "French": "Je voudrais une tasse de",
    "Spanish": "El perro corre por la",
    "dialogue": "User: How are you?\nAssistant:",
    "question": "Q: What is the largest planet?\nA:",
    "story": "Once upon a time",
    "story, longer": (
        "The old house at the end of the street had been empty for years, until one rainy evening in October a light "
        "appeared in the upper window, and the children who saw it ran home to tell their"
    ),
    "list": "apples, oranges, pears and",
    "list, numbers": "1, 2, 3, 4,",
    "opinion": "Neither agree nor disagree",
    "very short": "Hello",
    "one word": "The",
}


def main() -> int:
    """Run the prompts and print the table."""
    given = arguments()
    model = sk.load(given.model, dtype=given.dtype)
    failed, tied, shown = 0, 0, 0
    print("| kind | pair | gap | tie, ULP | moved | gradients | inputs | s | one ULP of | step | fresh process |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for kind, prompt in list(PROMPTS.items())[: given.prompts]:
        subject = sk.CausalLMSubject(model, prompt, path=given.path, site="logits")
        start = time.perf_counter()
        try:
            tie = sk.tie_point(subject)
        except sk.UnsupportedError as refusal:
            print(f"| {kind} | refused: {str(refusal).partition(': ')[2]} |", flush=True)
            continue
        seconds = time.perf_counter() - start
        pair = sk.flip_pair(subject, tie=tie)
        tied += 1
        again = reproduced(pair, given.keep, kind)
        shown += again
        failed += not again
        names = " / ".join(repr(model.tokenizer.decode([token])) for token in tie.pair)
        print(
            f"| {kind} | {names} | {tie.gap0:.3g} | {tie.gap_ulp:g} | {tie.relative_distance:.1%} | {tie.backwards} | "
            f"{len(tie.trace)} | {seconds:.1f} | {pair.coordinate} | {pair.step:.2g} | {'yes' if again else 'NO'} |",
            flush=True,
        )
    print(f"\n{tied} of {given.prompts} prompts tie; {shown} flips of one ULP were seen again by a fresh process.")
    return int(failed > 0)


def reproduced(pair: sk.FlipPair, keep: Path | None, kind: str) -> bool:
    """Return whether the written file shows the flip by itself."""
    with tempfile.TemporaryDirectory() as folder:
        script = pair.save(keep / kind.replace(", ", "_") if keep else folder)
        return subprocess.run([sys.executable, "-I", str(script)], capture_output=True, check=False).returncode == 0


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="Ties and smallest flips of twenty prompts.")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--path", default="decode", choices=("decode", "prefill"))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--keep", type=Path, help="folder that keeps the files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
