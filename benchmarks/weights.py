"""How long do head spectra of an 8B-shaped checkpoint take, and how much memory?

    python benchmarks/weights.py [--layers 10] [--folder DIR] [--statistics]

writes random bfloat16 weights in the shapes of an 8B Llama (hidden 4096, 32 heads of 128, 8 of k and v, MLP 14336,
128256 tokens) as shards with an index, a block a shard, and takes their head spectra in a fresh process, whose peak
memory is that of its whole life, pages of mapped files included. The checkpoint is deleted. 10 layers are 5.4 GB, all
32 are 15 GB; time grows with the layers, memory does not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import stabilitykit as sk

HIDDEN, HEADS, KEYS, WIDTH, MLP, TOKENS = 4096, 32, 8, 128, 14336, 128256
SHAPES = {
    "self_attn.q_proj": (HEADS * WIDTH, HIDDEN),
    "self_attn.k_proj": (KEYS * WIDTH, HIDDEN),
    "self_attn.v_proj": (KEYS * WIDTH, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * WIDTH),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "head_dim": WIDTH,
    "intermediate_size": MLP,
    "vocab_size": TOKENS,
    "tie_word_embeddings": True,
}


def main():
    given = arguments()
    if given.measure:
        measure(given)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        start = time.perf_counter()
        size = write(Path(folder), given.layers)
        print(f"{size / 1e9:.2f} GB in {given.layers + 1} shards, written in {time.perf_counter() - start:.0f} s")
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--measure", folder], check=True)


def write(folder, layers):
    """Write the checkpoint a shard at a time; return its bytes."""
    random = np.random.Generator(np.random.PCG64(0))
    shards = [{"model.embed_tokens.weight": (TOKENS, HIDDEN), "model.norm.weight": (HIDDEN,)}]
    shards += [{f"model.layers.{k}.{name}.weight": shape for name, shape in SHAPES.items()} for k in range(layers)]
    placed, size = {}, 0
    for number, shapes in enumerate(shards):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: drawn(random, shape) for name, shape in shapes.items()}
        save_file(tensors, folder / file)
        placed |= dict.fromkeys(tensors, file)
        size += (folder / file).stat().st_size
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    return size


def drawn(random, shape):
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32)).mul_(0.02).to(torch.bfloat16)


def measure(given):
    checkpoint = sk.Checkpoint(given.measure)
    asked = [sk.HeadSpectra(), *([sk.WeightStatistics(spectra="none")] if given.statistics else [])]
    for measurement in asked:
        result = sk.measure(measurement, checkpoint, progress=True)
        print(result.sentence)
        seconds = result.execution.seconds
        print(
            f"{result.title}: {seconds:.0f} s on {torch.get_num_threads()} threads, peak memory {peak() / 1e9:.2f} GB"
        )


def peak():
    """Return the most bytes this process held, from the kernel (Linux); getrusage would count its parent's before."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--statistics", action="store_true", help="describe every weight too")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
