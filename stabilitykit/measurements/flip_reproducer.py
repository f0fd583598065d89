"""Two inputs that differ by one unit in the last place of one coordinate, and give two different next tokens.

Run it: `python flip.py [MODEL]`. Beside it lies `flip.safetensors` with both inputs, the embeddings of the tokens
before them, and what was found. MODEL, a folder or a hub id, replaces the place that the model was read from.
It uses torch, transformers and safetensors alone. Exit status: 0 both tokens came out again, 1 one of them did not,
3 the model could not be loaded, or has other weights.

The last bits of a forward depend on the number of threads and on the addresses of the weights, which are set here as
they were; and on the version of torch, its math library and the processor, which are recorded and compared. Where
those differ, another result is no contradiction: another pair of neighbours flips there.
"""
# ruff: noqa: T201 - this file is a script, copied as it stands: it reports to whoever runs it

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def main(arguments: list[str]) -> int:
    """Run both inputs and say what came out."""
    tensors, found = read(Path(__file__).with_suffix(".safetensors"))
    torch.set_num_threads(found["threads"])
    try:
        model = load(arguments[0] if arguments else found["model"], found)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"The model cannot be loaded: {str(error).splitlines()[0]}")
        return 3
    tell_environment(found)
    same = True
    for side, token, logits in zip(("low", "high"), found["tokens"], found["logits"], strict=True):
        z = run(model, tensors["prefix"], tensors[side], found)
        came, values = int(z.argmax()), [float(z[one]) for one in found["tokens"]]
        bits = "the same logits" if values == logits else f"logits were {logits}"
        print(f"{side:4}: token {came} {found['texts'].get(str(came), '')} expected {token}; logits {values} ({bits})")
        same &= came == token
    tell_step(tensors["low"], tensors["high"])
    print("reproduced" if same else "not reproduced")
    return 0 if same else 1


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors, and what was found."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["found"])  # noqa: SIM118


def load(place: str, found: dict[str, Any]) -> Any:
    """Load the model with its weights at addresses divisible by 64, and check that they are the ones."""
    dtype = getattr(torch, found["dtype"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        place, dtype=dtype, attn_implementation=found["attention"], use_safetensors=True
    )
    model = model.eval().requires_grad_(False)
    for weight in model.parameters():  # not the buffers: the angles of rotary embeddings stay in float32
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()
    if (weights := weight_digest(model)) != found["weights"]:
        raise ValueError(f"{place} has other weights ({weights[:12]}, not {found['weights'][:12]})")
    return model


def weight_digest(model: Any) -> str:
    """Return a digest of every parameter's name, dtype and bytes, in the order of the names."""
    stream = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        stream.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        stream.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return stream.hexdigest()


def run(model: Any, prefix: torch.Tensor, x: torch.Tensor, found: dict[str, Any]) -> torch.Tensor:
    """Return the logits of the last token, (M,), in slot 0 of a batch of copies."""
    batch, width = found["batch"], prefix.shape[1]
    rows = x.view(1, -1, width).repeat(batch, 1, 1)
    before = prefix[None].repeat(batch, 1, 1)
    with torch.no_grad():
        if found["path"] == "prefill":
            arguments = {"inputs_embeds": torch.cat([before, rows], dim=1), "use_cache": False}
        elif not len(prefix):
            arguments = {"inputs_embeds": rows, "use_cache": True}
        else:
            past = getattr(model.base_model(inputs_embeds=before, use_cache=True), found["cache"])
            arguments = {"inputs_embeds": rows, "use_cache": True, found["cache"]: past}
        logits: torch.Tensor = model(**arguments, logits_to_keep=1).logits[0, -1]
    return logits


def tell_environment(found: dict[str, Any]) -> None:
    """Print what is another one than where the pair was found."""
    for name, value in environment().items():
        if value != found["environment"].get(name):
            print(f"{name} is {value!r} here and was {found['environment'].get(name)!r}")


def environment() -> dict[str, str]:
    """Return what the last bits depend on and this file cannot set."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def tell_step(low: torch.Tensor, high: torch.Tensor) -> None:
    """Print every coordinate in which the inputs differ, in decimal and in bits."""
    width = low.element_size()
    patterns = [one.view(INTEGERS[width]) for one in (low, high)]
    for place in (patterns[0] != patterns[1]).nonzero().flatten().tolist():
        decimal = [repr(float(one[place])) for one in (low, high)]
        bits = [f"0x{int(one[place]) % (1 << 8 * width):0{2 * width}x}" for one in patterns]
        print(f"coordinate {place}: {decimal[0]} ({bits[0]}) and {decimal[1]} ({bits[1]})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
